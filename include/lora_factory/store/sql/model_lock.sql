-- One change of a name's deployments at a time.
SELECT version FROM models WHERE name = %(name)s ORDER BY version FOR UPDATE
