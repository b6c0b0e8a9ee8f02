UPDATE trainings SET stop_at = coalesce(stop_at, now()), stop_by = coalesce(stop_by, %(by)s)
WHERE run_id = %(run_id)s AND ended_at IS NULL
RETURNING run_id, step, steps, started_at, seen_at, stop_at, stop_by
