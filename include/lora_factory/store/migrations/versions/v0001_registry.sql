CREATE TABLE models (
    name       text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    version    text NOT NULL CHECK (version ~ '^[0-9a-f]{8,64}$'),
    sha256     text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    base       text NOT NULL,
    trigger    text NOT NULL,
    overall    double precision NOT NULL CHECK (overall BETWEEN 0 AND 1),
    lora       text NOT NULL,
    evaluation text NOT NULL,
    dataset    text,
    conf       jsonb NOT NULL DEFAULT '{}',
    state      text NOT NULL DEFAULT 'candidate'
               CHECK (state IN ('candidate', 'approved', 'deployed', 'retired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

CREATE TABLE deployments (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    version     text NOT NULL,
    target      text NOT NULL,
    previous    text,
    promoted_at timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    FOREIGN KEY (name, version) REFERENCES models (name, version),
    FOREIGN KEY (name, previous) REFERENCES models (name, version)
);
CREATE UNIQUE INDEX deployments_one_live ON deployments (name, target) WHERE ended_at IS NULL;
CREATE INDEX deployments_history ON deployments (name, target, version, id DESC);

-- name and version are null where the base alone drew.
CREATE TABLE generations (
    id            uuid PRIMARY KEY,
    name          text,
    version       text,
    prompt_sha256 text NOT NULL CHECK (prompt_sha256 ~ '^[0-9a-f]{64}$'),
    seed          bigint NOT NULL CHECK (seed >= 0),
    created_at    timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (name, version) REFERENCES models (name, version),
    CHECK ((name IS NULL) = (version IS NULL))
);
CREATE INDEX generations_of_model ON generations (name, version);

CREATE TABLE feedback (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation_id  uuid NOT NULL REFERENCES generations (id),
    user_pseudonym text NOT NULL,
    rating         double precision NOT NULL CHECK (rating BETWEEN 0 AND 1),
    reason         text NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (generation_id, user_pseudonym)
);
CREATE INDEX feedback_by_time ON feedback (created_at);

CREATE TABLE retrain_decisions (
    name       text NOT NULL,
    version    text NOT NULL,
    day        date NOT NULL,
    verdict    text NOT NULL CHECK (verdict IN ('keep', 'retrain')),
    reason     text NOT NULL,
    mean       double precision,
    n          integer NOT NULL CHECK (n >= 0),
    new_items  integer NOT NULL CHECK (new_items >= 0),
    run_id     text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version, day),
    FOREIGN KEY (name, version) REFERENCES models (name, version),
    CHECK ((verdict = 'retrain') = (run_id IS NOT NULL))
);
