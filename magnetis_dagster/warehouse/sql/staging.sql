-- Statements on `incoming`, the temporary staging table of one window.

-- name: outer_moments
-- Select the times of the n-th oldest and the n-th newest row, counted from 0.
SELECT (SELECT occurred_at FROM incoming WHERE occurred_at IS NOT NULL
        ORDER BY occurred_at OFFSET :n LIMIT 1),
       (SELECT occurred_at FROM incoming WHERE occurred_at IS NOT NULL
        ORDER BY occurred_at DESC OFFSET :n LIMIT 1)

-- name: count_keys
-- Count the rows and the distinct keys. count(DISTINCT key) would sort.
SELECT coalesce(sum(times), 0), count(*)
FROM (SELECT count(*) AS times FROM incoming GROUP BY key) AS keys

-- name: delete_older_copies
-- Delete all rows of a key but the newest.
-- Compares each row with the newest only: a join of 1,000 copies with each other has 500,000 pairs.
DELETE FROM incoming AS a
USING (SELECT key, max(seq) AS seq FROM incoming GROUP BY key) AS newest
WHERE a.key = newest.key AND a.seq < newest.seq

-- name: count_rows
-- Count the rows by day and by the reason why they cannot be placed.
SELECT day, reason, count(*) FROM incoming GROUP BY 1, 2
