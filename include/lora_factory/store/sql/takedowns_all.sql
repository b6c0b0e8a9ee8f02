SELECT item, reason, at FROM takedowns ORDER BY at, item
