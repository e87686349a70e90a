-- Columns of the tables in the schema magnetis, from PostgreSQL's catalogue.

-- name: columns
-- Select name and type of each column; `plain` excludes NOT NULL, defaults and identities.
-- This program creates no column with a default. Generated columns count as columns with one.
SELECT c.relname AS table,
       a.attname AS name,
       format_type(a.atttypid, NULL) AS type,
       NOT (a.attnotnull OR a.atthasdef OR a.attidentity <> '') AS plain
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'magnetis'::regnamespace
  AND c.relname = ANY(:tables)
  AND a.attnum > 0
  AND NOT a.attisdropped
ORDER BY c.relname, a.attnum

-- name: dependents
-- Select the objects that prevent a column from being dropped.
-- Its indexes do not: they are dropped with it. A view depends on a column through its rule.
SELECT DISTINCT
    a.attname,
    coalesce('the view ' || n.nspname || '.' || v.relname,
             pg_describe_object(d.classid, d.objid, d.objsubid)) AS what
FROM pg_depend AS d
JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
LEFT JOIN pg_class AS v ON v.oid = r.ev_class
LEFT JOIN pg_namespace AS n ON n.oid = v.relnamespace
WHERE d.refclassid = 'pg_class'::regclass
  AND d.refobjid = CAST(:table AS regclass)
  AND d.deptype = 'n'
  AND a.attname = ANY(:names)
ORDER BY 1, 2
