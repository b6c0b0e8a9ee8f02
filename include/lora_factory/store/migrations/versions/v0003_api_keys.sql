-- A key is lf_<id>_<secret>; of the secret only its SHA-256 is kept, which is enough for 256
-- random bits: nobody can try them all, as one can with passwords.
CREATE TABLE api_keys (
    id         text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    secret     text NOT NULL CHECK (secret ~ '^[0-9a-f]{64}$'),
    scopes     text[] NOT NULL CHECK (scopes <@ ARRAY['generate', 'feedback', 'admin']),
    per_minute integer NOT NULL CHECK (per_minute BETWEEN 1 AND 100000),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
