-- Merges one window of an events collection. `incoming` is the staging table. `:connection` is the
-- connection whose key read the window; rows of other connections stay as they are.
--
-- Placeholders, filled by merge_queries.py:
--   table           magnetis.<collection>
--   columns         the columns after `id` that a received row fills
--   values          their values in `incoming AS s`
--   assignments     `column = excluded.column, …`; clears undeclared columns
--   same_payload    whether both payloads are equal, volatile members aside
--   columns_differ  whether a column that is compared differs
--
-- A row of a newer read stays as it is. A `last_seen_at` in the future does not count as newer:
-- it was written while the clock was ahead, and would reject every read until then.

-- name: has_rows
-- Return one row if the table contains rows of the requested days.
SELECT 1 FROM {table}
WHERE connection = :connection AND deleted_at IS NULL AND day = ANY(:days)
LIMIT 1

-- name: stored_days
-- Count the stored rows of each day: all, not received, received but unreadable.
SELECT t.day AS day,
       count(*),
       count(*) FILTER (WHERE s.key IS NULL),
       count(*) FILTER (WHERE s.reason IS NOT NULL)
FROM {table} AS t LEFT JOIN incoming AS s ON s.key = t.id
WHERE t.connection = :connection AND t.deleted_at IS NULL AND t.day = ANY(:days)
GROUP BY 1

-- name: rows_without_id
-- Count the received rows of each day whose id cannot be read.
SELECT s.day, count(*)
FROM incoming AS s
WHERE s.reason IS NOT NULL AND s.id IS NULL AND s.day = ANY(:days)
GROUP BY 1

-- name: upsert
-- Insert and update rows; count them by their day and by the day they were stored on before.
-- Rows outside the requested days are padding. But if the table has such a row on a requested
-- day, the row has moved. A subquery in RETURNING sees the row as it was before the statement.
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
      AND (s.day = ANY(:days)
           OR EXISTS (
               SELECT 1 FROM {table} AS c
               WHERE c.connection = :connection AND c.id = s.id AND c.day = ANY(:days)))
    ON CONFLICT (connection, id) DO UPDATE SET
        {assignments},
        last_seen_at = excluded.last_seen_at,
        deleted_at = NULL,
        changed_at = CASE WHEN {same_payload} THEN t.changed_at ELSE excluded.changed_at END
    WHERE NOT (t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())
      AND (NOT {same_payload} OR t.deleted_at IS NOT NULL OR {columns_differ})
    RETURNING
        t.day AS day,
        CASE WHEN xmax <> 0 THEN
            (SELECT o.day FROM {table} AS o
             WHERE o.connection = :connection AND o.id = t.id AND o.deleted_at IS NULL)
        END AS was,
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
-- Mark the stored rows that were not received as deleted; count them by day.
WITH gone AS (
    UPDATE {table} AS t
    SET deleted_at = :read_at,
        last_seen_at = coalesce(
            (SELECT max(d.read_at) FROM magnetis_ops.days AS d
             WHERE d.connection = :connection AND d.collection = :collection AND d.day = t.day),
            t.last_seen_at)
    WHERE t.connection = :connection
      AND t.deleted_at IS NULL
      AND NOT (t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())
      AND t.day = ANY(:days)
      AND NOT EXISTS (SELECT 1 FROM incoming AS s WHERE s.key = t.id)
      AND NOT t.day = ANY(CAST(:undeleted AS date[]))
    RETURNING t.day AS day
)
SELECT day, count(*) FROM gone GROUP BY day

-- name: count_rows
-- Count the rows of each requested day after the merge.
SELECT t.day AS day, count(*)
FROM {table} AS t
WHERE t.connection = :connection AND t.deleted_at IS NULL AND t.day = ANY(:days)
GROUP BY 1
