INSERT INTO trainings (run_id, training, step, steps)
VALUES (%(run_id)s, %(training)s, %(step)s, %(steps)s)
ON CONFLICT (run_id, training) DO UPDATE
SET step = excluded.step, steps = excluded.steps, seen_at = now(), ended_at = NULL
RETURNING stop_at IS NOT NULL AS stop
