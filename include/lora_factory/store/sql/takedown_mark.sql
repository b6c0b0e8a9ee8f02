SELECT t.item, t.reason, t.at
FROM takedown_finds AS f
JOIN takedowns AS t USING (item)
WHERE f.kind = %(kind)s AND f.ref = %(key)s
ORDER BY t.at, t.item
LIMIT 1
