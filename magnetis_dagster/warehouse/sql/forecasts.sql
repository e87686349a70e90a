-- Forecasts of backfills, and their actual cost.

-- name: record
-- Record a forecast. A planned one replaces the one of a run that recorded its own before.
INSERT INTO magnetis_ops.forecasts AS f
    (connection, work, collection, first_day, last_day, days, rows, calls, planned, forecast_at)
VALUES (:connection, :work, :collection, :first_day, :last_day, :days, :rows, :calls, :planned,
        magnetis_ops.now())
ON CONFLICT (connection, work, collection, first_day) DO UPDATE SET
    last_day = excluded.last_day,
    days = excluded.days,
    rows = excluded.rows,
    calls = excluded.calls,
    planned = true,
    forecast_at = excluded.forecast_at
WHERE excluded.planned AND NOT f.planned

-- name: report
-- Compare forecast and actual cost of one backfill, by collection.
WITH known AS (
    SELECT f.*, bool_or(f.planned) OVER (PARTITION BY f.collection) AS any_planned
    FROM magnetis_ops.forecasts AS f
    WHERE f.connection = :connection AND f.work = :work
), valid AS (
    -- a run that resumes another one forecasts the rest of its days again
    SELECT k.* FROM known AS k
    WHERE k.planned
       OR NOT k.any_planned AND NOT EXISTS (
           SELECT FROM known AS wider
           WHERE wider.collection = k.collection
             AND wider.first_day <= k.first_day
             AND wider.last_day >= k.last_day
             AND wider.first_day <> k.first_day)
), foreseen AS (
    SELECT collection,
           min(first_day) AS first_day,
           max(last_day) AS last_day,
           sum(days) AS days,
           sum(rows) AS rows,
           sum(calls) AS calls
    FROM valid
    GROUP BY collection
), done AS (
    SELECT d.collection, count(*) AS days, sum(d.announced) AS rows
    FROM magnetis_ops.days AS d
    WHERE d.connection = :connection AND EXISTS (
        SELECT FROM valid AS v
        WHERE v.collection = d.collection
          AND d.day BETWEEN v.first_day AND v.last_day
          AND (d.read_at >= v.forecast_at OR d.run_id = v.work OR d.run_id IN (
              SELECT run_id FROM magnetis_ops.api_calls WHERE backfill_id = :work)))
    GROUP BY d.collection
), spent AS (
    SELECT collection, count(*) AS calls FROM magnetis_ops.api_calls
    WHERE connection = :connection
      AND (backfill_id = :work OR backfill_id IS NULL AND run_id = :work)
    GROUP BY collection
)
SELECT f.collection,
       f.first_day,
       f.last_day,
       f.days::int AS days,
       f.rows::bigint AS rows,
       f.calls::int AS calls,
       coalesce(spent.calls, 0)::int AS spent,
       coalesce(done.days, 0)::int AS days_done,
       coalesce(done.rows, 0)::bigint AS rows_done
FROM foreseen AS f
LEFT JOIN done USING (collection)
LEFT JOIN spent USING (collection)
ORDER BY f.collection
