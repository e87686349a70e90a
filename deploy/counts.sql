-- Rows of each table, as `name|rows`: what a backup and what is restored from it must agree on. Kept pages are unlogged and not in it.
SELECT format('SELECT %L, count(*) FROM %I.%I', table_schema || '.' || table_name, table_schema, table_name)
FROM information_schema.tables
WHERE table_schema IN ('magnetis', 'magnetis_ops', 'dagster') AND table_type = 'BASE TABLE' AND table_name <> 'pages'
ORDER BY table_schema, table_name \gexec
