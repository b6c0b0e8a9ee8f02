SELECT name, version, target, previous, promoted_at, ended_at
FROM deployments
WHERE name = %(name)s AND target = %(target)s AND ended_at IS NULL
