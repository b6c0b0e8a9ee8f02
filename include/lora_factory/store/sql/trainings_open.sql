SELECT run_id, step, steps, started_at, seen_at, stop_at, stop_by
FROM trainings
WHERE ended_at IS NULL
ORDER BY started_at
