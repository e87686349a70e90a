-- Deletes old bookkeeping in batches.
--
-- `delete_batch` and `sizes` are statements. The other blocks are conditions on a row `t` of the
-- table: nothing uses the row. Placeholders: table, source, age, key, unused and run (see
-- prune.py), and dagster, the schema of Dagster's tables.

-- name: delete_batch
-- Delete the old, unused rows among the next ids. Ids ascend with time.
WITH scanned AS MATERIALIZED (
    SELECT id, coalesce({age} < :before, false) AS old FROM {source}
    WHERE id > :after
    ORDER BY id
    LIMIT :batch
), deleted AS (
    DELETE FROM {table} AS t USING scanned AS s
    WHERE s.old AND t.{key} = s.id AND {unused}
    RETURNING {run} AS run_id
)
SELECT (SELECT max(id) FROM scanned) AS last,
       (SELECT coalesce(bool_or(old), false) FROM scanned) AS more,
       (SELECT count(*) FROM deleted) AS number,
       (SELECT array_agg(DISTINCT run_id) FROM deleted WHERE run_id <> '') AS runs

-- name: unused_api_calls
-- No forecast needs the request, and it is not the newest of its key that loaded rows.
-- A forecast is compared with its requests. The newest request of a key and connection proves that
-- the key filled tables (`keys_used` in summary.sql).
NOT EXISTS (
    SELECT FROM magnetis_ops.forecasts AS f
    WHERE f.connection = t.connection AND f.work = coalesce(t.backfill_id, t.run_id))
AND (NOT coalesce(
         t.status = 200 AND t.rows > 0
         AND coalesce(t.run_id, '') NOT IN ('magnetis probe', 'magnetis plan'), false)
     OR t.id <> (
         SELECT n.id FROM magnetis_ops.api_calls AS n
         WHERE n.key_fingerprint = t.key_fingerprint
           AND n.connection = t.connection
           AND coalesce(
               n.status = 200 AND n.rows > 0
               AND coalesce(n.run_id, '') NOT IN ('magnetis probe', 'magnetis plan'), false)
         ORDER BY n.charged_at DESC
         LIMIT 1))

-- name: unused_day_reads
-- It is not the newest read of its day.
NOT EXISTS (
    SELECT FROM magnetis_ops.days AS d WHERE d.window_id = t.window_id AND d.day = t.day)

-- name: unused_windows
-- No row refers to the window, and it is not the first one of its collection.
-- The first one shows which settings existed from the start.
NOT EXISTS (SELECT FROM magnetis_ops.days AS d WHERE d.window_id = t.id)
AND NOT EXISTS (SELECT FROM magnetis_ops.day_reads AS d WHERE d.window_id = t.id)
AND NOT EXISTS (SELECT FROM magnetis_ops.quarantine AS q WHERE q.window_id = t.id)
AND EXISTS (
    SELECT FROM magnetis_ops.windows AS w
    WHERE w.connection = t.connection
      AND w.collection = t.collection
      AND w.read_at < t.read_at)

-- name: unused_events
-- Its run ended before the retention period, and a newer event of its kind exists.
-- The newest event of each kind determines the status of its partition. Events without an asset
-- have no such use.
NOT EXISTS (
    SELECT FROM {dagster}.runs AS r
    WHERE r.run_id = t.run_id
      AND (r.status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')
           OR to_timestamp(coalesce(r.end_time, 0)) >= :before))
AND (t.asset_key IS NULL
     OR t.dagster_event_type IS NULL
     OR t.partition IS NOT NULL AND EXISTS (
         SELECT FROM {dagster}.event_logs AS n
         WHERE n.asset_key = t.asset_key
           AND n.dagster_event_type = t.dagster_event_type
           AND n.partition = t.partition
           AND n.id > t.id)
     OR t.partition IS NULL AND EXISTS (
         SELECT FROM {dagster}.event_logs AS n
         WHERE n.asset_key = t.asset_key
           AND n.dagster_event_type = t.dagster_event_type
           AND n.partition IS NULL
           AND n.id > t.id))

-- name: unused_event_tags
-- Its event was deleted.
NOT EXISTS (SELECT FROM {dagster}.event_logs AS e WHERE e.id = t.event_id)

-- name: unused_check_executions
-- Its run ended before the retention period, and a newer execution of its check exists.
-- The newest execution determines the status of the check. Earlier versions of this program
-- planned one execution for each partition.
NOT EXISTS (
    SELECT FROM {dagster}.runs AS r
    WHERE r.run_id = t.run_id
      AND (r.status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')
           OR to_timestamp(coalesce(r.end_time, 0)) >= :before))
AND EXISTS (
    SELECT FROM {dagster}.asset_check_executions AS n
    WHERE n.asset_key = t.asset_key
      AND n.check_name = t.check_name
      AND n.id > t.id
      AND (n.partition IS NOT DISTINCT FROM t.partition OR t.execution_status = 'PLANNED'))

-- name: sizes
-- Sum the bytes of tables, indexes and TOAST by schema.
SELECT n.nspname AS name, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes
FROM pg_namespace AS n
LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm')
WHERE n.nspname = ANY(:schemas)
GROUP BY 1
ORDER BY 1
