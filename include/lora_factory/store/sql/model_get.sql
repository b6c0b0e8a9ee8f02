SELECT m.*, t.item AS taken_down
FROM models AS m
LEFT JOIN models_taken_down AS t USING (name, version)
WHERE m.name = %(name)s AND m.version = %(version)s
