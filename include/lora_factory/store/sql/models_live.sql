SELECT m.*, t.item AS taken_down
FROM models AS m
JOIN deployments AS d USING (name, version)
LEFT JOIN models_taken_down AS t USING (name, version)
WHERE d.target = %(target)s AND d.ended_at IS NULL
ORDER BY m.name
