SELECT 1 AS found FROM generations WHERE id = %(generation_id)s AND name IS NOT NULL
