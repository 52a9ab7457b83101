-- Least rights for jobbus on PostgreSQL. Run it as the owner of the tables, after `jobbus migrate
-- up`, and after every later one:
--     psql -v worker=jobbus_worker -v producer=jobbus_producer -v metrics=jobbus_metrics -f grants.sql
-- The roles exist already: CREATE ROLE jobbus_worker LOGIN; and so on. The tables' prefix is that
-- of the setting table_prefix; only the owner may change the schema.

\set ON_ERROR_STOP on

-- Workers run, retry and delete jobs, and keep account of it.
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.%I TO %I', schemaname, tablename, :'worker')
FROM pg_tables
WHERE schemaname = current_schema() AND tablename LIKE 'background\_job%'
  AND tablename <> 'background_job_migrations' \gexec
SELECT format('GRANT USAGE ON SEQUENCE %I.%I TO %I', schemaname, sequencename, :'worker')
FROM pg_sequences
WHERE schemaname = current_schema() AND sequencename LIKE 'background\_job%' \gexec
GRANT SELECT ON background_job_migrations TO :"worker";

-- Producers enqueue, cancel, and look at what became of it. They cannot delete, nor touch workers.
SELECT format('GRANT SELECT ON %I.%I TO %I', schemaname, tablename, :'producer')
FROM pg_tables
WHERE schemaname = current_schema() AND tablename LIKE 'background\_job%' \gexec
GRANT INSERT, UPDATE ON background_jobs, background_job_dependencies, background_job_groups
    TO :"producer";
GRANT INSERT ON background_job_history, background_job_events TO :"producer";
SELECT format('GRANT USAGE ON SEQUENCE %I.%I TO %I', schemaname, sequencename, :'producer')
FROM pg_sequences
WHERE schemaname = current_schema() AND sequencename LIKE 'background\_job%' \gexec

-- For KEDA and dashboards: counts, not payloads.
GRANT SELECT (queue, state, ready, run_at) ON background_jobs TO :"metrics";
