SELECT id, name, scopes, per_minute, created_at, revoked_at
FROM api_keys
WHERE id = %(id)s AND secret = %(secret)s AND revoked_at IS NULL
