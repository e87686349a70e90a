-- Keys and indexes of the program's tables, from PostgreSQL's catalogue.

-- name: tables
-- Select the tables of a list of schemas with their primary key and their indexes.
-- An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index. A column `connection` of this
-- program has a default; one of an earlier overlay has none.
SELECT n.nspname || '.' || t.relname AS name,
       pg_relation_size(t.oid) = 0 AS is_empty,
       k.conname AS key_name,
       ARRAY(SELECT a.attname::text
             FROM unnest(k.conkey) WITH ORDINALITY AS u(number, place)
             JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = u.number
             ORDER BY u.place) AS key,
       ARRAY(SELECT i.relname::text
             FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
             WHERE x.indrelid = t.oid AND x.indisvalid) AS valid,
       ARRAY(SELECT i.relname::text
             FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
             WHERE x.indrelid = t.oid AND NOT x.indisvalid) AS invalid,
       EXISTS (SELECT FROM pg_attribute AS a
               WHERE a.attrelid = t.oid AND a.attname = 'connection'
                 AND NOT a.attisdropped AND NOT a.atthasdef) AS has_declared_connection
FROM pg_class AS t
JOIN pg_namespace AS n ON n.oid = t.relnamespace
LEFT JOIN pg_constraint AS k ON k.conrelid = t.oid AND k.contype = 'p'
WHERE n.nspname = ANY(:schemas) AND t.relkind IN ('r', 'p')

-- name: key_users
-- Select the objects that prevent a primary key from being replaced.
-- A foreign key depends on the index of the key, a view that groups by the key on its constraint.
SELECT DISTINCT coalesce(
    CASE v.relkind WHEN 'm' THEN 'the materialized view ' ELSE 'the view ' END
        || vn.nspname || '.' || v.relname,
    'the foreign key ' || f.conname || ' of ' || CAST(f.conrelid AS regclass)::text,
    pg_describe_object(d.classid, d.objid, d.objsubid)) AS what
FROM pg_constraint AS k
JOIN pg_depend AS d
  ON (d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid)
  OR (d.refclassid = 'pg_class'::regclass AND d.refobjid = k.conindid)
LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
LEFT JOIN pg_class AS v ON v.oid = r.ev_class
LEFT JOIN pg_namespace AS vn ON vn.oid = v.relnamespace
LEFT JOIN pg_constraint AS f ON d.classid = 'pg_constraint'::regclass AND f.oid = d.objid
WHERE k.conrelid = CAST(:table AS regclass) AND k.contype = 'p' AND d.deptype = 'n'
ORDER BY 1

-- name: progress
-- Select the phase of the index build of a session, and its share of blocks read in percent.
SELECT phase, 100 * blocks_done / nullif(blocks_total, 0) AS percent
FROM pg_stat_progress_create_index
WHERE pid = :pid
