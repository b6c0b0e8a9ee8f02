-- Trainings of runs: how far they are, and whether a person asked one to end.
CREATE TABLE trainings (
    run_id     text NOT NULL CHECK (length(run_id) BETWEEN 1 AND 250),
    training   text NOT NULL CHECK (training ~ '^[0-9a-f]{24}$'),
    step       integer NOT NULL CHECK (step >= 0),
    steps      integer NOT NULL CHECK (steps >= 1),
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    stop_at    timestamptz,
    stop_by    text CHECK (length(stop_by) BETWEEN 1 AND 200),
    PRIMARY KEY (run_id, training),
    CHECK ((stop_at IS NULL) = (stop_by IS NULL))
);
CREATE INDEX trainings_under_way ON trainings (seen_at) WHERE ended_at IS NULL;
