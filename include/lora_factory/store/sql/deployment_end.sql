UPDATE deployments SET ended_at = now()
WHERE name = %(name)s AND target = %(target)s AND ended_at IS NULL
RETURNING name, version, target, previous, promoted_at, ended_at
