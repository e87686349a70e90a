-- Compares recorded row counts with the rows of a table, and corrects them.

-- name: differences_of_events
-- Select the days of which the recorded count differs from the rows of the table.
-- `days` is empty, or a condition on the day.
SELECT day, coalesce(r.held, 0), coalesce(t.held, 0)
FROM (
    SELECT day, CAST(sum(held) AS bigint) AS held
    FROM (
        SELECT day, held FROM magnetis_ops.days
        WHERE connection = :connection AND collection = :collection {days}
        UNION ALL
        SELECT day, held FROM magnetis_ops.strays
        WHERE connection = :connection AND collection = :collection {days}
    ) AS recorded
    GROUP BY day
) AS r
FULL JOIN (
    SELECT day, count(*) AS held FROM {table}
    WHERE connection = :connection AND deleted_at IS NULL {days}
    GROUP BY day
) AS t USING (day)
WHERE coalesce(r.held, 0) <> coalesce(t.held, 0)
ORDER BY day

-- name: difference_of_snapshot
-- Select the newest snapshot if its recorded count differs from the rows of the table.
SELECT day, held, rows
FROM (
    SELECT day, held FROM magnetis_ops.days
    WHERE connection = :connection AND collection = :collection
    ORDER BY window_id DESC
    LIMIT 1
) AS newest,
(SELECT count(*) AS rows FROM {table}
 WHERE connection = :connection AND deleted_at IS NULL) AS t
WHERE held <> rows

-- name: create_counted
-- Create a temporary table of rows by day.
CREATE TEMPORARY TABLE counted (day date, held bigint) ON COMMIT DROP

-- name: count_by_day
-- Count the rows of each day into the temporary table.
INSERT INTO counted
SELECT day, count(*) AS held FROM {table}
WHERE connection = :connection AND deleted_at IS NULL
GROUP BY day

-- name: correct_days
-- Correct the recorded counts of completed days.
UPDATE magnetis_ops.days AS d SET held = c.held, announced = c.held
FROM (
    SELECT day, coalesce(counted.held, 0) AS held
    FROM magnetis_ops.days LEFT JOIN counted USING (day)
    WHERE connection = :connection AND collection = :collection
) AS c
WHERE d.connection = :connection
  AND d.collection = :collection
  AND d.day = c.day
  AND d.held <> c.held

-- name: insert_strays
-- Record the counts of days without a complete read.
INSERT INTO magnetis_ops.strays (connection, collection, day, held)
SELECT :connection, :collection, day, held FROM counted
WHERE day NOT IN (
    SELECT day FROM magnetis_ops.days
    WHERE connection = :connection AND collection = :collection)
