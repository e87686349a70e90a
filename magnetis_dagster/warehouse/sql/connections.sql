-- The declared connections, and the state of their rows.

-- name: register
-- Insert a connection without a declaration, unless it exists.
INSERT INTO magnetis_ops.connections (name)
SELECT :connection
WHERE NOT EXISTS (SELECT FROM magnetis_ops.connections WHERE name = :connection)
ON CONFLICT DO NOTHING

-- name: declared
-- Select the declared connections, widest first.
SELECT name, scope, rank, key_expires, declared_in FROM magnetis_ops.connections
WHERE declared_at IS NOT NULL AND removed_at IS NULL
ORDER BY rank

-- name: undeclared
-- Count the connections of MAGNETIS_CONFIG that are not in a list and not marked as removed.
SELECT count(*) FROM magnetis_ops.connections
WHERE removed_at IS NULL
  AND declared_in IS DISTINCT FROM 'component'
  AND name <> ALL(CAST(:names AS text[]))

-- name: of_components
-- Select the connections that components declare, sorted.
SELECT name FROM magnetis_ops.connections
WHERE removed_at IS NULL AND declared_in = 'component'
ORDER BY name

-- name: lock
-- Wait for another process that writes the declared connections.
SELECT pg_advisory_xact_lock(:lock)

-- name: upsert
-- Record the declared connections, widest first.
INSERT INTO magnetis_ops.connections AS c
    (name, scope, rank, key_expires, declared_in, declared_at)
SELECT d.name, d.scope, d.rank, d.key_expires, d.declared_in, magnetis_ops.now()
FROM unnest(
    CAST(:names AS text[]), CAST(:scopes AS text[]), CAST(:ranks AS int[]),
    CAST(:expiries AS date[]), CAST(:places AS text[])) AS d(
    name, scope, rank, key_expires, declared_in)
ORDER BY d.name
ON CONFLICT (name) DO UPDATE SET
    scope = excluded.scope,
    rank = excluded.rank,
    key_expires = excluded.key_expires,
    declared_in = excluded.declared_in,
    declared_at = CASE WHEN c.removed_at IS NULL
                       THEN coalesce(c.declared_at, excluded.declared_at)
                       ELSE excluded.declared_at END,
    removed_at = NULL

-- name: remove
-- Record that all other connections of MAGNETIS_CONFIG are no longer declared. They rank last.
UPDATE magnetis_ops.connections SET removed_at = magnetis_ops.now(), rank = NULL
WHERE removed_at IS NULL
  AND declared_in IS DISTINCT FROM 'component'
  AND name <> ALL(CAST(:names AS text[]))

-- name: status
-- Select each connection with its last load and the sum of its recorded row counts.
-- Every snapshot records all rows of its collection, so only the newest one counts. A snapshot
-- collection is recognised by its table, which has no column `day`.
WITH kinds AS (
    SELECT c.relname AS collection,
           EXISTS (SELECT FROM pg_attribute AS a
                   WHERE a.attrelid = c.oid AND a.attname = 'day' AND NOT a.attisdropped) AS events
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'magnetis' AND c.relkind IN ('r', 'p')
), snapshots AS (
    SELECT DISTINCT ON (d.connection, d.collection) d.connection, d.held
    FROM magnetis_ops.days AS d JOIN kinds AS k ON k.collection = d.collection AND NOT k.events
    ORDER BY d.connection, d.collection, d.window_id DESC
), recorded AS (
    SELECT connection, sum(held) AS rows
    FROM (SELECT connection, held FROM snapshots
          UNION ALL
          SELECT d.connection, d.held
          FROM magnetis_ops.days AS d JOIN kinds AS k ON k.collection = d.collection AND k.events
          UNION ALL
          SELECT connection, held FROM magnetis_ops.strays) AS counts
    GROUP BY connection
), loads AS (
    SELECT connection, max(committed_at) AS last_load FROM magnetis_ops.windows
    GROUP BY connection
)
SELECT c.name, c.scope, l.last_load, coalesce(r.rows, 0)::bigint AS rows, c.key_expires,
       c.removed_at
FROM magnetis_ops.connections AS c
LEFT JOIN recorded AS r ON r.connection = c.name
LEFT JOIN loads AS l ON l.connection = c.name
ORDER BY c.rank, c.name COLLATE "C"
