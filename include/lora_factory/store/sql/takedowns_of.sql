-- Which of these URLs and sha256 were taken down, and by which takedown.
SELECT t.item AS found, t.item
FROM takedowns AS t
WHERE t.item = ANY(%(items)s)
UNION ALL
SELECT f.ref AS found, f.item
FROM takedown_finds AS f
WHERE f.kind = 'image' AND f.ref = ANY(%(items)s)
