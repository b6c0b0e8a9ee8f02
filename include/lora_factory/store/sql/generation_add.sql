INSERT INTO generations (id, name, version, prompt_sha256, seed)
VALUES (%(id)s, %(name)s, %(version)s, %(prompt_sha256)s, %(seed)s)
