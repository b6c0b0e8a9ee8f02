-- What the last deployment of a version would have returned to.
SELECT previous
FROM deployments
WHERE name = %(name)s AND target = %(target)s AND version = %(version)s
ORDER BY id DESC
LIMIT 1
