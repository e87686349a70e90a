-- Merges one snapshot of a collection, and its versions. `incoming` is the staging table.
-- `:connection` is the connection whose key took the snapshot.
--
-- A snapshot is one day, so `(:days)[1]` is the day of every row. Placeholders are those of
-- merge_events.sql, and:
--   history         magnetis.<collection>_history
--   same_version    as same_payload, for the row `t` and its version `h`

-- name: has_rows
-- Return one row if the table contains rows.
SELECT 1 FROM {table} WHERE connection = :connection AND deleted_at IS NULL LIMIT 1

-- name: stored_days
-- Count the stored rows: all, not received, received but unreadable.
SELECT CAST((:days)[1] AS date) AS day,
       count(*),
       count(*) FILTER (WHERE s.key IS NULL),
       count(*) FILTER (WHERE s.reason IS NOT NULL)
FROM {table} AS t LEFT JOIN incoming AS s ON s.key = t.id
WHERE t.connection = :connection AND t.deleted_at IS NULL
GROUP BY 1

-- name: rows_without_id
-- Count the received rows whose id cannot be read.
SELECT CAST((:days)[1] AS date), count(*)
FROM incoming AS s
WHERE s.reason IS NOT NULL AND s.id IS NULL AND CAST((:days)[1] AS date) = ANY(:days)
GROUP BY 1

-- name: upsert
-- Insert and update rows; count them. `was` is NULL: rows of a snapshot do not move.
WITH merged AS (
    INSERT INTO {table} AS t (
        connection,
        id,
        {columns},
        first_seen_at, last_seen_at, changed_at)
    SELECT
        :connection,
        s.id,
        {values},
        :read_at, :read_at, :read_at
    FROM incoming AS s
    WHERE s.reason IS NULL
    ON CONFLICT (connection, id) DO UPDATE SET
        {assignments},
        last_seen_at = excluded.last_seen_at,
        deleted_at = NULL,
        changed_at = CASE WHEN {same_payload} THEN t.changed_at ELSE excluded.changed_at END
    WHERE NOT (t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())
      AND (NOT {same_payload} OR t.deleted_at IS NOT NULL OR {columns_differ})
    RETURNING
        CAST((:days)[1] AS date) AS day,
        CAST(NULL AS date) AS was,
        xmax = 0 AS inserted,
        changed_at
)
SELECT day,
       was,
       count(*) FILTER (WHERE inserted),
       count(*) FILTER (WHERE NOT inserted AND changed_at = :read_at),
       count(*)
FROM merged
GROUP BY day, was

-- name: mark_deleted
-- Mark the stored rows that were not received as deleted; count them.
WITH gone AS (
    UPDATE {table} AS t
    SET deleted_at = :read_at,
        last_seen_at = coalesce(
            (SELECT max(d.read_at) FROM magnetis_ops.days AS d
             WHERE d.connection = :connection AND d.collection = :collection),
            t.last_seen_at)
    WHERE t.connection = :connection
      AND t.deleted_at IS NULL
      AND NOT (t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())
      AND NOT EXISTS (SELECT 1 FROM incoming AS s WHERE s.key = t.id)
      AND NOT CAST((:days)[1] AS date) = ANY(CAST(:undeleted AS date[]))
    RETURNING CAST((:days)[1] AS date) AS day
)
SELECT day, count(*) FROM gone GROUP BY day

-- name: count_rows
-- Count the rows after the merge.
SELECT CAST((:days)[1] AS date) AS day, count(*)
FROM {table} AS t
WHERE t.connection = :connection AND t.deleted_at IS NULL
GROUP BY 1

-- name: move_versions
-- Move future moments of versions to the microseconds before this read.
-- They were written while the clock was ahead. If they stayed, the versions that this read closes
-- would end before they began, and the new versions would overlap older ones.
WITH ahead AS (
    SELECT moment,
           CAST(:read_at AS timestamptz)
               - row_number() OVER (ORDER BY moment DESC) * interval '1 microsecond' AS moved
    FROM (SELECT valid_from AS moment FROM {history}
          WHERE connection = :connection AND valid_from >= :read_at
          UNION
          SELECT valid_to FROM {history}
          WHERE connection = :connection AND valid_to >= :read_at) AS moments
)
UPDATE {history} AS h
SET valid_from = coalesce((SELECT moved FROM ahead WHERE moment = h.valid_from), h.valid_from),
    valid_to = coalesce((SELECT moved FROM ahead WHERE moment = h.valid_to), h.valid_to)
WHERE h.connection = :connection AND (h.valid_from >= :read_at OR h.valid_to >= :read_at)

-- name: close_versions
-- End the current version of each row that was deleted or has another payload.
UPDATE {history} AS h SET valid_to = :read_at
FROM {table} AS t
WHERE h.connection = :connection
  AND t.connection = :connection
  AND h.id = t.id
  AND h.valid_to IS NULL
  AND (t.deleted_at IS NOT NULL OR NOT {same_version})

-- name: open_versions
-- Begin a version of each row without a current one; count all, and those of changed rows.
WITH opened AS (
    INSERT INTO {history} (
        connection,
        id,
        {columns},
        valid_from)
    SELECT
        connection,
        id,
        {columns},
        :read_at
    FROM {table} AS t
    WHERE t.connection = :connection
      AND t.deleted_at IS NULL
      AND NOT EXISTS (
          SELECT 1 FROM {history} AS h
          WHERE h.connection = :connection AND h.id = t.id AND h.valid_to IS NULL)
    RETURNING id
)
SELECT count(*),
       count(*) FILTER (WHERE EXISTS (
           SELECT 1 FROM {history} AS h
           WHERE h.connection = :connection AND h.id = opened.id AND h.valid_to = :read_at))
FROM opened
