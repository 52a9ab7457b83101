-- Idempotency keys. One statement for a whole batch, which travels as one JSON document; a key
-- stands in a batch once.

-- begin_keys: claim each key, or leave it as it is; the row that comes back tells which it was
INSERT INTO background_job_idempotency AS kept (
    key, state, owner, fence, crashes, max_crashes, stolen, fingerprint, job_id, lease_until,
    expires_at)
SELECT b.key, 'in_progress', b.owner, 1, 0, b.max_crashes, false, b.fingerprint, b.job_id,
       clock_timestamp() + :lease_ms * interval '1 millisecond',
       clock_timestamp() + :ttl_ms * interval '1 millisecond'
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(
    key text, owner text, fingerprint text, job_id text, max_crashes integer)
ORDER BY b.key
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
                WHEN e.event = 'again' THEN greatest(kept.lease_until, excluded.lease_until)
                ELSE excluded.lease_until END,
           CASE e.event WHEN 'none' THEN kept.expires_at ELSE excluded.expires_at END,
           CASE e.event WHEN 'new' THEN NULL ELSE kept.data END
    FROM (SELECT CASE
        WHEN kept.expires_at <= clock_timestamp() THEN 'new'
        WHEN kept.fingerprint <> excluded.fingerprint THEN 'none'
        WHEN kept.state IN ('completed', 'failed') THEN 'none'
        WHEN kept.state = 'released' THEN 'take'
        WHEN kept.owner = excluded.owner THEN 'again'
        WHEN kept.lease_until > clock_timestamp() THEN 'none'
        WHEN kept.crashes + 1 > excluded.max_crashes THEN 'poison'
        ELSE 'steal' END AS event) AS e)
RETURNING key, state, owner, fence, crashes, stolen, fingerprint, job_id, data,
          CAST(ceil(extract(epoch FROM lease_until - clock_timestamp()) * 1000) AS bigint)

-- renew_keys: keep these keys for so long from now
UPDATE background_job_idempotency kept
SET lease_until = greatest(kept.lease_until,
                           clock_timestamp() + :lease_ms * interval '1 millisecond'),
    expires_at = clock_timestamp() + :ttl_ms * interval '1 millisecond'
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(key text, owner text, fence bigint)
WHERE kept.key = b.key AND kept.owner = b.owner AND kept.fence = b.fence
  AND kept.state = 'in_progress' AND kept.expires_at > clock_timestamp()
RETURNING kept.key, kept.owner

-- finish_keys: what came of the work, for who holds the key
UPDATE background_job_idempotency kept
SET state = :state, expires_at = clock_timestamp() + :ttl_ms * interval '1 millisecond',
    data = coalesce(convert_to(b.result, 'UTF8'), decode(b.result_base64, 'base64'))
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(
    key text, owner text, fence bigint, fingerprint text, result text, result_base64 text)
WHERE kept.key = b.key AND kept.owner = b.owner AND kept.fence = b.fence
  AND kept.fingerprint = b.fingerprint AND kept.state = 'in_progress'
  AND kept.expires_at > clock_timestamp()
RETURNING kept.key, kept.owner

-- release_keys: free for the next attempt; fence and crashes stay
UPDATE background_job_idempotency kept
SET state = 'released', owner = '', lease_until = 'epoch',
    expires_at = clock_timestamp() + :ttl_ms * interval '1 millisecond'
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS b(key text, owner text, fence bigint)
WHERE kept.key = b.key AND kept.owner = b.owner AND kept.fence = b.fence
  AND kept.state = 'in_progress' AND kept.expires_at > clock_timestamp()
RETURNING kept.key, b.owner

-- find_keys: what is remembered of these
SELECT key, state, owner, fence, crashes, fingerprint, job_id, data
FROM background_job_idempotency
WHERE key IN (SELECT jsonb_array_elements_text(CAST(:keys AS jsonb)))
  AND expires_at > clock_timestamp()

-- reopen_keys: failed and abandoned ones may be worked under again
UPDATE background_job_idempotency
SET state = 'released', owner = '', crashes = 0, data = NULL, lease_until = 'epoch',
    expires_at = clock_timestamp() + :ttl_ms * interval '1 millisecond'
WHERE key IN (SELECT jsonb_array_elements_text(CAST(:keys AS jsonb)))
  AND expires_at > clock_timestamp()
  AND (state = 'failed' OR (state = 'in_progress' AND lease_until <= clock_timestamp()))

-- prune_keys: those whose time is over
DELETE FROM background_job_idempotency
WHERE key IN (
    SELECT key FROM background_job_idempotency WHERE expires_at <= clock_timestamp()
    LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING key
