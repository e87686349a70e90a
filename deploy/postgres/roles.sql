-- Creates the database roles of the services and their rights in this database. A superuser may run
-- it repeatedly:
--   psql --dbname=magnetis --set=secrets=secrets --file=deploy/postgres/roles.sql
-- `secrets` is the folder with the files ROLE_password, which deploy/secrets.sh creates.
--
-- magnetis_owner   owns the schemas: `magnetis migrate`, `dagster instance migrate`
-- magnetis_load    reads and writes rows; cannot create, alter or drop: code, workers
-- magnetis_daemon  reads and writes Dagster's tables
-- magnetis_ui      reads and writes Dagster's tables
-- magnetis_view    reads Dagster's tables
\set ON_ERROR_STOP on
\set QUIET on
-- the server logs failed statements, and these contain passwords
SET log_min_error_statement = panic;
SET client_min_messages = warning;
\set owner_password `cat :secrets/magnetis_owner_password`
\set load_password `cat :secrets/magnetis_load_password`
\set daemon_password `cat :secrets/magnetis_daemon_password`
\set ui_password `cat :secrets/magnetis_ui_password`
\set view_password `cat :secrets/magnetis_view_password`
SELECT '' IN (:'owner_password', :'load_password', :'daemon_password', :'ui_password', :'view_password')
  AS incomplete \gset
\if :incomplete
DO $$ BEGIN
  RAISE 'A file ROLE_password is missing or empty in the folder that --set=secrets=FOLDER names.';
END $$;
\endif

BEGIN;
SELECT pg_advisory_xact_lock(hashtext('magnetis roles')) \g /dev/null
SELECT format('CREATE ROLE magnetis_%s', role)
FROM unnest(ARRAY['owner', 'load', 'daemon', 'ui', 'view']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'magnetis_' || role) \gexec
SELECT format('ALTER ROLE magnetis_%s LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', role),
  format('ALTER ROLE magnetis_%s NOREPLICATION NOBYPASSRLS', role)
FROM unnest(ARRAY['owner', 'load', 'daemon', 'ui', 'view']) AS role \gexec
ALTER ROLE magnetis_owner PASSWORD :'owner_password';
ALTER ROLE magnetis_load PASSWORD :'load_password';
ALTER ROLE magnetis_daemon PASSWORD :'daemon_password';
ALTER ROLE magnetis_ui PASSWORD :'ui_password';
ALTER ROLE magnetis_view PASSWORD :'view_password';

SELECT current_database() AS database \gset
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database"
  TO magnetis_owner, magnetis_load, magnetis_daemon, magnetis_ui, magnetis_view;
GRANT CREATE ON DATABASE :"database" TO magnetis_owner;
-- rows are staged in temporary tables
GRANT TEMPORARY ON DATABASE :"database" TO magnetis_owner, magnetis_load;

CREATE SCHEMA IF NOT EXISTS magnetis;
CREATE SCHEMA IF NOT EXISTS magnetis_ops;
CREATE SCHEMA IF NOT EXISTS magnetis_masked;
CREATE SCHEMA IF NOT EXISTS dagster;

-- Objects of the superuser from an older version or a restored backup become the owner's. The
-- sequence of a serial column follows its table.
CREATE TEMPORARY VIEW ours AS
SELECT oid, nspname FROM pg_namespace
WHERE nspname IN ('magnetis', 'magnetis_ops', 'magnetis_masked', 'dagster');
SELECT format('ALTER SCHEMA %I OWNER TO magnetis_owner', nspname) FROM ours \gexec
SELECT format('ALTER TABLE %s OWNER TO magnetis_owner', c.oid::regclass)
FROM pg_class AS c JOIN ours ON ours.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relowner <> 'magnetis_owner'::regrole
  AND NOT EXISTS (
    SELECT FROM pg_depend AS d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
  ) \gexec
SELECT format('ALTER ROUTINE %s OWNER TO magnetis_owner', p.oid::regprocedure)
FROM pg_proc AS p JOIN ours ON ours.oid = p.pronamespace
WHERE p.proowner <> 'magnetis_owner'::regrole \gexec
DROP VIEW ours;

-- rights on existing objects, and on objects that the owner will create
REVOKE ALL ON ALL TABLES IN SCHEMA magnetis, magnetis_ops, dagster
  FROM magnetis_load, magnetis_daemon, magnetis_ui, magnetis_view;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA magnetis, magnetis_ops, dagster
  FROM magnetis_load, magnetis_daemon, magnetis_ui, magnetis_view;
REVOKE ALL ON SCHEMA magnetis, magnetis_ops, dagster
  FROM magnetis_load, magnetis_daemon, magnetis_ui, magnetis_view;

GRANT USAGE ON SCHEMA magnetis, magnetis_ops, dagster TO magnetis_load;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA magnetis, magnetis_ops, dagster
  TO magnetis_load;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA magnetis, magnetis_ops, dagster TO magnetis_load;
ALTER DEFAULT PRIVILEGES FOR ROLE magnetis_owner IN SCHEMA magnetis, magnetis_ops, dagster
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO magnetis_load;
ALTER DEFAULT PRIVILEGES FOR ROLE magnetis_owner IN SCHEMA magnetis, magnetis_ops, dagster
  GRANT USAGE, SELECT ON SEQUENCES TO magnetis_load;

GRANT USAGE ON SCHEMA dagster TO magnetis_daemon, magnetis_ui, magnetis_view;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dagster
  TO magnetis_daemon, magnetis_ui;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA dagster TO magnetis_daemon, magnetis_ui;
GRANT SELECT ON ALL TABLES IN SCHEMA dagster TO magnetis_view;
ALTER DEFAULT PRIVILEGES FOR ROLE magnetis_owner IN SCHEMA dagster
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO magnetis_daemon, magnetis_ui;
ALTER DEFAULT PRIVILEGES FOR ROLE magnetis_owner IN SCHEMA dagster
  GRANT USAGE, SELECT ON SEQUENCES TO magnetis_daemon, magnetis_ui;
ALTER DEFAULT PRIVILEGES FOR ROLE magnetis_owner IN SCHEMA dagster
  GRANT SELECT ON TABLES TO magnetis_view;
COMMIT;
