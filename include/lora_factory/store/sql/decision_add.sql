INSERT INTO retrain_decisions (name, version, day, verdict, reason, mean, n, new_items, run_id)
VALUES (%(name)s, %(version)s, %(day)s, %(verdict)s, %(reason)s,
        %(mean)s, %(n)s, %(new_items)s, %(run_id)s)
ON CONFLICT (name, version, day) DO NOTHING
