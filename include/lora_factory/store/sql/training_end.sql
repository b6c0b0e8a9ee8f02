UPDATE trainings SET step = %(step)s, seen_at = now(), ended_at = now()
WHERE run_id = %(run_id)s AND training = %(training)s
