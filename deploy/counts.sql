-- The row count of each table, as `name|rows`. A restored backup must have the same counts. Kept
-- pages are omitted, because their table is unlogged.
SELECT format(
  'SELECT %L, count(*) FROM %I.%I', table_schema || '.' || table_name, table_schema, table_name
)
FROM information_schema.tables
WHERE table_schema IN ('magnetis', 'magnetis_ops', 'dagster')
  AND table_type = 'BASE TABLE' AND table_name <> 'pages'
ORDER BY table_schema, table_name \gexec
