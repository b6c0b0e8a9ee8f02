SELECT m.*
FROM models AS m
JOIN deployments AS d USING (name, version)
WHERE d.target = %(target)s AND d.ended_at IS NULL
ORDER BY m.name
