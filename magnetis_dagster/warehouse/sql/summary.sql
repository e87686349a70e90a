-- Rows, API calls and seconds of a load, for the summary of `magnetis dev`.

-- name: completed_days
-- Count completed days and their rows in a range of days, by collection.
SELECT collection,
       count(*) AS days,
       sum(held)::bigint AS rows,
       (array_agg(held ORDER BY day DESC))[1] AS newest
FROM magnetis_ops.days
WHERE connection = :connection AND day BETWEEN :first AND :last
GROUP BY collection

-- name: api_calls
-- Count the API calls of a list of runs, by collection.
SELECT collection, count(*) AS calls FROM magnetis_ops.api_calls
WHERE connection = :connection AND run_id = ANY(:runs)
GROUP BY collection

-- name: seconds
-- Sum the duration of the windows of a list of runs, by collection.
SELECT collection, sum(milliseconds) / 1000.0 AS seconds FROM magnetis_ops.windows
WHERE connection = :connection AND run_id = ANY(:runs)
GROUP BY collection

-- name: keys_used
-- Select the keys with requests of a connection that loaded rows.
SELECT key_fingerprint
FROM (SELECT DISTINCT key_fingerprint FROM magnetis_ops.quota_days) AS key
WHERE EXISTS (
    SELECT FROM magnetis_ops.api_calls AS call
    WHERE call.key_fingerprint = key.key_fingerprint
      AND call.connection = :connection
      AND status = 200
      AND rows > 0
      AND coalesce(run_id, '') NOT IN ('magnetis probe', 'magnetis plan'))
