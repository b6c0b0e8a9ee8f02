SELECT count(*) > 0 AS stop FROM trainings WHERE run_id = %(run_id)s AND stop_at IS NOT NULL
