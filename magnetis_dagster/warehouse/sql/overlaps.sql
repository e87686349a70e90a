-- Ids that several connections load. `{table}` is the table of a collection.

-- name: overlaps
-- Count the given ids that other connections have, by connection.
SELECT connection, count(*) AS ids
FROM {table}
WHERE connection <> :connection
  AND id = ANY(:ids)
  AND deleted_at IS NULL
GROUP BY connection
ORDER BY ids DESC, connection
