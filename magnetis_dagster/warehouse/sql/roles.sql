-- Roles of people and BI tools, and what they may read.

-- name: exists
-- Select whether a role exists.
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)

-- name: is_owned
-- Select whether this user owns a schema; no row if it does not exist.
SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = :schema

-- name: unreadable
-- Select the tables and views of this user in a schema that a role cannot read.
SELECT c.oid::regclass::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = :schema
  AND c.relkind IN ('r', 'p', 'v', 'm')
  AND pg_has_role(c.relowner, 'USAGE')
  AND NOT has_table_privilege(CAST(:role AS name), c.oid, 'SELECT')

-- name: unreadable_views
-- Select the views of this user with our comment that a role cannot read.
SELECT c.oid::regclass::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = :schema
  AND c.relkind = 'v'
  AND obj_description(c.oid, 'pg_class') = format(:comment, c.relname)
  AND pg_has_role(c.relowner, 'USAGE')
  AND NOT has_table_privilege(CAST(:role AS name), c.oid, 'SELECT')

-- name: is_customer
-- Select whether a role is a member of the group and no superuser.
SELECT NOT rolsuper AND pg_has_role(oid, CAST(:group AS name), 'MEMBER')
FROM pg_roles WHERE rolname = :role

-- name: has_access
-- Select whether a role may read rows of any connection.
SELECT EXISTS (SELECT FROM magnetis_ops.row_access WHERE role_name = :role)

-- name: connections
-- Select the connections that may have rows.
SELECT name FROM magnetis_ops.connections ORDER BY name

-- name: revoke_access
-- Delete the access of a role to the rows of a connection.
DELETE FROM magnetis_ops.row_access WHERE role_name = :role AND connection = :connection

-- name: grant_access
-- Insert the access of a role to the rows of a connection.
INSERT INTO magnetis_ops.row_access (role_name, connection, account_id)
SELECT DISTINCT :role, :connection, account FROM unnest(CAST(:accounts AS text[])) AS account
