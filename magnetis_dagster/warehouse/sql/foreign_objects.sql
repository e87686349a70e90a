-- name: objects
-- Select all objects in a list of schemas, with the columns and the primary key of tables.
SELECT n.nspname AS schema,
       c.relname AS name,
       c.relkind::text AS kind,
       t.relname AS indexed,
       obj_description(c.oid, 'pg_class') AS comment,
       ARRAY(SELECT a.attname::text FROM pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       ARRAY(SELECT a.attname::text
             FROM pg_index AS i
             JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
             WHERE i.indrelid = c.oid AND i.indisprimary) AS key
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
LEFT JOIN pg_class AS t ON t.oid = i.indrelid
WHERE n.nspname = ANY(:schemas)
UNION ALL
SELECT n.nspname, t.typname, 'c', NULL, NULL, '{}', '{}'
FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
WHERE n.nspname = ANY(:schemas) AND t.typtype IN ('d', 'e', 'r')
UNION ALL
SELECT n.nspname, p.proname, 'function', NULL, NULL, '{}', '{}'
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = ANY(:schemas)
ORDER BY 1, 2
