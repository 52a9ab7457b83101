-- The journal of moves: jobs that left for another backend. What has not arrived there is only here.
CREATE TABLE background_job_moves (
    job_id  TEXT PRIMARY KEY,
    target  TEXT NOT NULL,
    at      INTEGER NOT NULL,
    arrived INTEGER NOT NULL DEFAULT 0,
    record  TEXT NOT NULL
);
