-- Publish a version. Publishing again refreshes what was said of it and revives a retired one;
-- the same version with other bytes changes nothing and returns no row.
INSERT INTO models AS m
    (name, version, sha256, base, trigger, overall, lora, evaluation, dataset, conf)
VALUES
    (%(name)s, %(version)s, %(sha256)s, %(base)s, %(trigger)s, %(overall)s,
     %(lora)s, %(evaluation)s, %(dataset)s, %(conf)s)
ON CONFLICT (name, version) DO UPDATE SET
    overall = excluded.overall,
    lora = excluded.lora,
    evaluation = excluded.evaluation,
    dataset = excluded.dataset,
    conf = excluded.conf,
    state = CASE WHEN m.state = 'retired' THEN 'candidate' ELSE m.state END
WHERE m.sha256 = excluded.sha256
RETURNING *
