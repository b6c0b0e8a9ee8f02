INSERT INTO takedown_finds (item, kind, ref, uri)
VALUES (%(item)s, %(kind)s, %(ref)s, %(uri)s)
ON CONFLICT (item, kind, ref) DO NOTHING
