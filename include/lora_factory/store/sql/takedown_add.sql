-- Marking again keeps the first date; a new reason replaces an empty one.
INSERT INTO takedowns AS t (item, reason)
VALUES (%(item)s, %(reason)s)
ON CONFLICT (item) DO UPDATE SET reason = excluded.reason
WHERE t.reason = ''
