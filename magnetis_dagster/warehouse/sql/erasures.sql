-- Erasures of persons: what was requested, and which places are done.

-- name: connections
-- Select the connections with rows or a declaration.
-- `of_component`: a component declares it, so that only its code location knows its tables.
SELECT n.name AS name, coalesce(c.declared_in = 'component', false) AND c.removed_at IS NULL
       AS of_component
FROM (SELECT name FROM magnetis_ops.connections
      UNION
      SELECT DISTINCT connection FROM magnetis_ops.windows) AS n
LEFT JOIN magnetis_ops.connections AS c ON c.name = n.name
ORDER BY 1

-- name: data_tables
-- Select the tables of the schema magnetis.
SELECT relname FROM pg_class
WHERE relnamespace = 'magnetis'::regnamespace AND relkind IN ('r', 'p')
ORDER BY 1

-- name: insert_erasure
-- Record an erasure before its first change.
INSERT INTO magnetis_ops.erasures (requested_at, reason, expires_on)
VALUES (coalesce(:requested_at, magnetis_ops.now()), :reason, :expires_on)
RETURNING id

-- name: suppress
-- Suppress a person; a repeated erasure never ends an earlier suppression sooner.
-- The row gets a new id, so that loads that run now notice it.
WITH earlier AS (
    DELETE FROM magnetis_ops.suppressions
    WHERE connection = :connection AND person_key = :person_key
    RETURNING suppressed_at, expires_on
)
INSERT INTO magnetis_ops.suppressions
    (connection, person_key, erasure_id, suppressed_at, expires_on)
SELECT :connection, :person_key, :erasure,
       coalesce((SELECT suppressed_at FROM earlier), magnetis_ops.now()),
       CASE WHEN EXISTS (SELECT FROM earlier WHERE expires_on IS NULL) THEN NULL
            WHEN CAST(:expires_on AS date) IS NULL THEN NULL
            ELSE greatest(CAST(:expires_on AS date), (SELECT expires_on FROM earlier)) END

-- name: unfinished
-- Select the erasures that are not complete, oldest first.
SELECT id FROM magnetis_ops.erasures WHERE completed_at IS NULL ORDER BY id

-- name: persons_of
-- Select the caller keys that an erasure suppresses.
SELECT connection, person_key FROM magnetis_ops.suppressions WHERE erasure_id = :erasure

-- name: done_places
-- Select the places that are done.
SELECT connection, place FROM magnetis_ops.erasure_steps WHERE erasure_id = :erasure

-- name: record_step
-- Record that a place is done.
INSERT INTO magnetis_ops.erasure_steps (erasure_id, connection, place, rows, done_at)
VALUES (:erasure, :connection, :place, :rows, magnetis_ops.now())

-- name: complete
-- Record that every place is done.
UPDATE magnetis_ops.erasures SET completed_at = magnetis_ops.now()
WHERE id = :erasure AND completed_at IS NULL

-- name: report
-- Select one erasure and the rows it masked, by place.
SELECT e.requested_at, e.reason, e.expires_on, e.completed_at, s.connection, s.place, s.rows
FROM magnetis_ops.erasures AS e
LEFT JOIN magnetis_ops.erasure_steps AS s ON s.erasure_id = e.id
WHERE e.id = :erasure
ORDER BY s.connection, s.place

-- name: pages
-- Select the cached pages of a connection.
SELECT CAST(ctid AS text) AS at, body FROM magnetis_ops.pages WHERE connection = :connection

-- name: delete_pages
-- Delete cached pages; a window with a missing page is requested again.
DELETE FROM magnetis_ops.pages WHERE ctid = ANY(CAST(:places AS tid[]))

-- name: journal
-- Select all suppressions with their erasures.
SELECT e.requested_at, e.reason, s.connection, s.person_key, s.expires_on
FROM magnetis_ops.suppressions AS s JOIN magnetis_ops.erasures AS e ON e.id = s.erasure_id
ORDER BY s.id
