SELECT m.*, t.item AS taken_down
FROM models AS m
LEFT JOIN models_taken_down AS t USING (name, version)
ORDER BY m.name, m.created_at, m.version
