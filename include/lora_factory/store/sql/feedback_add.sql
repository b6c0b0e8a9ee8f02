-- No row: the generation is unknown, draws no adapter, or this user has rated it.
INSERT INTO feedback (generation_id, user_pseudonym, rating, reason)
SELECT g.id, %(user)s, %(rating)s, %(reason)s
FROM generations AS g
WHERE g.id = %(generation_id)s AND g.name IS NOT NULL
ON CONFLICT (generation_id, user_pseudonym) DO NOTHING
RETURNING id
