SELECT name, version, day, verdict, reason, mean, n, new_items, run_id
FROM retrain_decisions
WHERE name = %(name)s AND version = %(version)s AND day = %(day)s
