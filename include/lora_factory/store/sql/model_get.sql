SELECT * FROM models WHERE name = %(name)s AND version = %(version)s
