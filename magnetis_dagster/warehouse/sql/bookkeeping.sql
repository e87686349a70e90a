-- Writes and reads windows, completed days, quarantined rows and counts in magnetis_ops.

-- name: newer_days
-- Select the days of a list for which a newer read is committed.
-- A `read_at` in the future does not count: it was written while the clock was ahead.
SELECT day FROM magnetis_ops.days AS d
WHERE d.connection = :connection
  AND d.collection = :collection
  AND (d.read_at >= :read_at AND d.read_at <= magnetis_ops.now())
  AND day = ANY(:days)

-- name: newer_snapshot
-- Select the day of a newer snapshot, if one is committed, whatever its day.
SELECT day FROM magnetis_ops.days AS d
WHERE d.connection = :connection
  AND d.collection = :collection
  AND (d.read_at >= :read_at AND d.read_at <= magnetis_ops.now())
LIMIT 1

-- name: known_days
-- Select the days of a list for which a complete read is recorded.
SELECT day FROM magnetis_ops.days
WHERE connection = :connection AND collection = :collection AND day = ANY(:days)

-- name: upsert_day
-- Record the newest complete read of a day.
INSERT INTO magnetis_ops.days AS d
    (connection, collection, day, window_id, read_at, announced, held, run_id)
VALUES (:connection, :collection, :day, :window, :read_at, :announced, :held, :run_id)
ON CONFLICT (connection, collection, day) DO UPDATE SET
    window_id = excluded.window_id,
    read_at = excluded.read_at,
    announced = excluded.announced,
    held = excluded.held,
    run_id = excluded.run_id

-- name: insert_day_read
-- Record what one read of a day inserted, changed and deleted.
INSERT INTO magnetis_ops.day_reads
    (window_id, day, age_days, first_read, held, inserted, changed, deleted)
VALUES (:window, :day, :age_days, :first_read, :held, :inserted, :changed, :deleted)

-- name: quarantine_rows
-- Quarantine the staged rows that cannot be placed.
INSERT INTO magnetis_ops.quarantine AS q
    (connection, collection, key, reason, payload, window_id, first_seen_at, last_seen_at)
SELECT :connection, :collection, key, reason, payload, :window, :read_at, :read_at
FROM incoming
WHERE reason IS NOT NULL
ON CONFLICT (connection, collection, key) DO UPDATE SET
    reason = excluded.reason,
    payload = excluded.payload,
    window_id = excluded.window_id,
    last_seen_at = excluded.last_seen_at

-- name: release_rows
-- Release quarantined rows that were received again and can be placed now.
DELETE FROM magnetis_ops.quarantine AS q USING incoming AS s
WHERE q.connection = :connection
  AND q.collection = :collection
  AND q.key = s.key
  AND s.reason IS NULL

-- name: adjust_day
-- Adjust the counts of a completed day that rows moved to or from.
UPDATE magnetis_ops.days SET held = held + :rows, announced = announced + :rows
WHERE connection = :connection AND collection = :collection AND day = :day

-- name: adjust_strays
-- Adjust the count of stray rows of a day without a complete read.
INSERT INTO magnetis_ops.strays AS s (connection, collection, day, held)
VALUES (:connection, :collection, :day, :rows)
ON CONFLICT (connection, collection, day) DO UPDATE SET held = s.held + excluded.held

-- name: delete_strays
-- Delete the counts of stray rows for days that now have a complete read, and empty counts.
DELETE FROM magnetis_ops.strays
WHERE connection = :connection
  AND collection = :collection
  AND (day = ANY(:days) OR held = 0)

-- name: window_limits
-- Select the limits of a window that were learned in the last 30 days.
SELECT most_days, most_rows, reason FROM magnetis_ops.window_limits
WHERE connection = :connection
  AND collection = :collection
  AND learned_at > magnetis_ops.now() - interval '30 days'

-- name: learn_most_days
-- Record the longest window that the API answers.
INSERT INTO magnetis_ops.window_limits AS l (connection, collection, most_days, reason, learned_at)
VALUES (:connection, :collection, :limit, :reason, magnetis_ops.now())
ON CONFLICT (connection, collection) DO UPDATE SET
    most_days = excluded.most_days,
    reason = excluded.reason,
    learned_at = excluded.learned_at

-- name: learn_most_rows
-- Record the most rows that the API returns for one window.
INSERT INTO magnetis_ops.window_limits AS l (connection, collection, most_rows, reason, learned_at)
VALUES (:connection, :collection, :limit, :reason, magnetis_ops.now())
ON CONFLICT (connection, collection) DO UPDATE SET
    most_rows = excluded.most_rows,
    reason = excluded.reason,
    learned_at = excluded.learned_at

-- name: newest_other_total
-- Select the announced total of the newest window with other first or last day.
SELECT announced FROM magnetis_ops.windows
WHERE connection = :connection
  AND collection = :collection
  AND (first_day <> :first OR last_day <> :last)
ORDER BY id DESC
LIMIT 1

-- name: discard_windows_at_cap
-- Delete the completion records of windows that announced exactly the cap.
-- Such a window may be capped. The rows of its days become strays.
WITH doubtful AS (
    DELETE FROM magnetis_ops.days AS d USING magnetis_ops.windows AS w
    WHERE d.connection = :connection
      AND d.collection = :collection
      AND w.id = d.window_id
      AND w.announced = :cap
    RETURNING d.day, d.held
), stray AS (
    INSERT INTO magnetis_ops.strays (connection, collection, day, held)
    SELECT :connection, :collection, day, held FROM doubtful WHERE held > 0
)
SELECT day FROM doubtful ORDER BY day

-- name: completed_days
-- Select the completed days of a list, with their counts.
SELECT d.day, d.announced, d.held, 0, 0, 0, false
FROM magnetis_ops.days AS d
LEFT JOIN magnetis_ops.day_reads AS r ON r.window_id = d.window_id AND r.day = d.day
WHERE d.connection = :connection AND d.collection = :collection AND d.day = ANY(:days)

-- name: completed_days_of_run
-- Select the days of a list that one run completed, with their counts and changes.
SELECT d.day, d.announced, d.held,
       coalesce(r.inserted, 0),
       coalesce(r.changed, 0),
       coalesce(r.deleted, 0),
       coalesce(r.first_read, false)
FROM magnetis_ops.days AS d
LEFT JOIN magnetis_ops.day_reads AS r ON r.window_id = d.window_id AND r.day = d.day
WHERE d.connection = :connection
  AND d.collection = :collection
  AND d.day = ANY(:days)
  AND d.run_id = :run_id

-- name: quarantined_rows
-- Count the quarantined rows of the newest windows of a list of days.
SELECT coalesce(sum(quarantined), 0) FROM magnetis_ops.windows
WHERE id IN (SELECT window_id FROM magnetis_ops.days
             WHERE connection = :connection AND collection = :collection AND day = ANY(:days))

-- name: recorded_rows
-- Sum the recorded row counts of an events collection.
SELECT coalesce(sum(held), 0)
FROM (SELECT held FROM magnetis_ops.days
      WHERE connection = :connection AND collection = :collection
      UNION ALL
      SELECT held FROM magnetis_ops.strays
      WHERE connection = :connection AND collection = :collection) AS recorded
