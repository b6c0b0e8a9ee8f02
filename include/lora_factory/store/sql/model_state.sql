UPDATE models SET state = %(state)s WHERE name = %(name)s AND version = %(version)s
