INSERT INTO deployments (name, version, target, previous)
VALUES (%(name)s, %(version)s, %(target)s, %(previous)s)
RETURNING name, version, target, previous, promoted_at, ended_at
