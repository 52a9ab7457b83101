-- Idempotency keys. Those that take a batch are run once a row, inside one BEGIN IMMEDIATE. ``:now``
-- is the host's clock in epoch milliseconds.

-- begin_keys: claim a key, or leave it as it is; the row that comes back tells which it was
INSERT INTO background_job_idempotency AS kept (
    key, state, owner, fence, crashes, max_crashes, stolen, fingerprint, job_id, lease_until,
    expires_at)
VALUES (:key, 'in_progress', :owner, 1, 0, :max_crashes, 0, :fingerprint, :job_id,
        :now + :lease_ms, :now + :ttl_ms)
ON CONFLICT (key) DO UPDATE SET (
    state, owner, fence, crashes, max_crashes, stolen, fingerprint, job_id, lease_until, expires_at,
    data) = (
    SELECT CASE e.event WHEN 'none' THEN kept.state ELSE 'in_progress' END,
           CASE e.event WHEN 'none' THEN kept.owner WHEN 'poison' THEN '' ELSE excluded.owner END,
           CASE WHEN e.event = 'new' THEN 1
                WHEN e.event IN ('none', 'again') THEN kept.fence ELSE kept.fence + 1 END,
           CASE WHEN e.event = 'new' THEN 0
                WHEN e.event IN ('steal', 'poison') THEN kept.crashes + 1 ELSE kept.crashes END,
           CASE e.event WHEN 'none' THEN kept.max_crashes ELSE excluded.max_crashes END,
           e.event = 'steal',
           CASE e.event WHEN 'none' THEN kept.fingerprint ELSE excluded.fingerprint END,
           CASE e.event WHEN 'none' THEN kept.job_id ELSE excluded.job_id END,
           CASE WHEN e.event IN ('none', 'poison') THEN kept.lease_until
                WHEN e.event = 'again' THEN max(kept.lease_until, excluded.lease_until)
                ELSE excluded.lease_until END,
           CASE e.event WHEN 'none' THEN kept.expires_at ELSE excluded.expires_at END,
           CASE e.event WHEN 'new' THEN NULL ELSE kept.data END
    FROM (SELECT CASE
        WHEN kept.expires_at <= :now THEN 'new'
        WHEN kept.fingerprint <> excluded.fingerprint THEN 'none'
        WHEN kept.state IN ('completed', 'failed') THEN 'none'
        WHEN kept.state = 'released' THEN 'take'
        WHEN kept.owner = excluded.owner THEN 'again'
        WHEN kept.lease_until > :now THEN 'none'
        WHEN kept.crashes + 1 > excluded.max_crashes THEN 'poison'
        ELSE 'steal' END AS event) AS e)
RETURNING key, state, owner, fence, crashes, stolen, fingerprint, job_id, data, lease_until - :now

-- renew_keys: keep a key for so long from now
UPDATE background_job_idempotency
SET lease_until = max(lease_until, :now + :lease_ms), expires_at = :now + :ttl_ms
WHERE key = :key AND owner = :owner AND fence = :fence AND state = 'in_progress'
  AND expires_at > :now
RETURNING key, owner

-- finish_keys: what came of the work, for who holds the key
UPDATE background_job_idempotency
SET state = :state, expires_at = :now + :ttl_ms, data = :result
WHERE key = :key AND owner = :owner AND fence = :fence AND fingerprint = :fingerprint
  AND state = 'in_progress' AND expires_at > :now
RETURNING key, owner

-- release_keys: free for the next attempt; fence and crashes stay
UPDATE background_job_idempotency
SET state = 'released', owner = '', lease_until = 0, expires_at = :now + :ttl_ms
WHERE key = :key AND owner = :owner AND fence = :fence AND state = 'in_progress'
  AND expires_at > :now
RETURNING key, :owner

-- find_keys: what is remembered of these
SELECT key, state, owner, fence, crashes, fingerprint, job_id, data
FROM background_job_idempotency
WHERE key IN (SELECT value FROM json_each(:keys)) AND expires_at > :now

-- reopen_keys: failed and abandoned ones may be worked under again
UPDATE background_job_idempotency
SET state = 'released', owner = '', crashes = 0, data = NULL, lease_until = 0,
    expires_at = :now + :ttl_ms
WHERE key IN (SELECT value FROM json_each(:keys)) AND expires_at > :now
  AND (state = 'failed' OR (state = 'in_progress' AND lease_until <= :now))

-- prune_keys: those whose time is over
DELETE FROM background_job_idempotency
WHERE key IN (
    SELECT key FROM background_job_idempotency WHERE expires_at <= :now LIMIT :limit)
RETURNING key
