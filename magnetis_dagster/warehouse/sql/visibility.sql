-- Columns that the views of magnetis_masked may contain, as connections declare them.

-- name: forget
-- Delete declarations that a connection no longer has, except those of personal columns.
DELETE FROM magnetis_ops.column_visibility AS v
WHERE v.connection = :connection
  AND v.visible
  AND NOT EXISTS (
    SELECT FROM unnest(CAST(:collections AS text[]), CAST(:names AS text[])) AS n (collection, name)
    WHERE n.collection = v.collection AND n.name = v.name)

-- name: record
-- Insert or update the declarations of a connection.
INSERT INTO magnetis_ops.column_visibility AS v (connection, collection, name, visible)
SELECT :connection, n.collection, n.name, n.visible
FROM unnest(CAST(:collections AS text[]), CAST(:names AS text[]), CAST(:visible AS boolean[]))
  AS n (collection, name, visible)
ON CONFLICT (connection, collection, name) DO UPDATE SET visible = excluded.visible
WHERE v.visible <> excluded.visible

-- name: recorded
-- Select whether a connection has declarations.
SELECT EXISTS (SELECT FROM magnetis_ops.column_visibility WHERE connection = :connection)

-- name: forget_column
-- Delete the declarations of one column.
DELETE FROM magnetis_ops.column_visibility WHERE collection = :collection AND name = :name

-- name: visible
-- Select the columns that no connection declares personal, by collection.
SELECT collection, array_agg(name) AS names
FROM (
    SELECT collection, name FROM magnetis_ops.column_visibility
    GROUP BY collection, name HAVING bool_and(visible)
) AS declared
GROUP BY collection
