-- The journal of moves: jobs that left for another backend. What has not arrived there is only here.
CREATE TABLE background_job_moves (
    job_id  uuid PRIMARY KEY,
    target  text NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    arrived boolean NOT NULL DEFAULT false,
    record  text NOT NULL
);
