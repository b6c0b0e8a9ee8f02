-- n and mean: ratings of this version; new_items: ratings of any version of the name since
-- the promotion. Only what was said before `until`.
SELECT
    count(*) FILTER (WHERE g.version = %(version)s) AS n,
    avg(f.rating) FILTER (WHERE g.version = %(version)s) AS mean,
    count(*) FILTER (WHERE f.created_at >= %(since)s) AS new_items
FROM feedback AS f
JOIN generations AS g ON g.id = f.generation_id
WHERE g.name = %(name)s AND f.created_at < %(until)s
