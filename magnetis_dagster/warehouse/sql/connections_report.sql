-- Numbers of each connection, for `magnetis connections`.

-- name: now
-- Select the clock that all processes share.
SELECT magnetis_ops.now()

-- name: missing_days
-- Count the closed days without a complete read, by connection.
SELECT expected.connection,
       sum(expected.last - expected.first + 1 - complete.days)::bigint AS missing
FROM unnest(
    CAST(:connections AS text[]),
    CAST(:collections AS text[]),
    CAST(:firsts AS date[]),
    CAST(:lasts AS date[])
) AS expected (connection, collection, first, last)
CROSS JOIN LATERAL (
    SELECT count(*) AS days
    FROM magnetis_ops.days AS d
    WHERE d.connection = expected.connection
      AND d.collection = expected.collection
      AND d.day BETWEEN expected.first AND expected.last
) AS complete
GROUP BY expected.connection
