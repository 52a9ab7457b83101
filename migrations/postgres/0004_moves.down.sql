DROP TABLE background_job_moves;
