-- For operators with nothing but a SQL prompt: hands back running jobs whose lease ran out more than
-- so many minutes ago. Workers do the same by themselves, at once; a live lease is never touched.
CREATE OR REPLACE FUNCTION recover_stuck_background_jobs(minutes integer DEFAULT 60)
RETURNS TABLE (job_id uuid, recovered_to text)
LANGUAGE plpgsql AS $$
BEGIN
    IF minutes IS NULL OR minutes < 0 THEN
        RAISE EXCEPTION 'minutes must be 0 or more, not %', minutes;
    END IF;
    RETURN QUERY
    WITH lapsed AS (
        DELETE FROM background_job_claims c
        WHERE c.id IN (
            SELECT l.id FROM background_job_claims l
            WHERE l.lease_until < clock_timestamp() - make_interval(mins => minutes)
            FOR UPDATE SKIP LOCKED)
        RETURNING c.id, c.job_ids
    ), held AS (
        SELECT j.id, n.crashes,
               CASE WHEN j.cancel_requested THEN 'cancelled'
                    WHEN n.crashes >= j.max_crashes THEN 'failed'
                    ELSE 'queued' END AS state
        FROM lapsed
        CROSS JOIN LATERAL unnest(lapsed.job_ids) AS u(id)
        JOIN background_jobs j ON j.id = u.id AND j.claim = lapsed.id AND j.state = 'running'
        CROSS JOIN LATERAL (
            SELECT j.crashes + (NOT j.cancel_requested AND (j.suspect OR j.crashes = 0))::integer
                   AS crashes) AS n
        FOR UPDATE OF j
    ), back AS (
        UPDATE background_jobs j
        SET crashes = held.crashes,
            state = held.state,
            ready = held.state = 'queued',
            dead = held.state = 'failed',
            suspect = false,
            claim = NULL,
            run_at = CASE WHEN held.state = 'queued' THEN clock_timestamp() ELSE j.run_at END,
            finished_at = CASE WHEN held.state <> 'queued' THEN clock_timestamp() END,
            deadline = CASE WHEN held.state = 'queued' THEN j.expires_at END,
            unique_lock = CASE WHEN held.state = 'queued' THEN j.unique_lock END,
            problem = CASE WHEN held.state = 'failed'
                THEN '{"kind":"poison_crash","message":"its worker died under it too often"}'
                ELSE j.problem END
        FROM held
        WHERE j.id = held.id
        RETURNING j.id, j.state, j.attempt, j.worker, j.started_at
    ), told AS (
        INSERT INTO background_job_history
            (job_id, event, from_state, to_state, attempt, worker, started_at, reason)
        SELECT back.id,
               CASE back.state WHEN 'queued' THEN 'crashed' ELSE back.state END,
               'running', back.state, back.attempt, back.worker, back.started_at,
               'the lease ran out; recovered by recover_stuck_background_jobs'
        FROM back
        RETURNING 1
    )
    SELECT back.id, back.state FROM back;
END;
$$;
