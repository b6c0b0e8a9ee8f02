INSERT INTO api_keys (id, name, secret, scopes, per_minute)
VALUES (%(id)s, %(name)s, %(secret)s, %(scopes)s, %(per_minute)s)
RETURNING id, name, scopes, per_minute, created_at, revoked_at
