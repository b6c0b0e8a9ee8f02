SELECT name, version, target, previous, promoted_at, ended_at
FROM deployments
WHERE ended_at IS NULL
ORDER BY name, target
