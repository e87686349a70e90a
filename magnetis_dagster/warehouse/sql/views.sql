-- Views on the tables in the schema magnetis.

-- name: users
-- Select the views that use a view.
SELECT DISTINCT format('%I.%I', n.nspname, v.relname)
FROM pg_depend AS d
JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
JOIN pg_class AS v ON v.oid = r.ev_class
JOIN pg_namespace AS n ON n.oid = v.relnamespace
WHERE d.refclassid = 'pg_class'::regclass
  AND d.refobjid = CAST(:view AS regclass)
  AND v.oid <> d.refobjid
ORDER BY 1

-- name: grants
-- Select the statements that would repeat the grants on a view.
SELECT DISTINCT format(
    'GRANT %s ON %s TO %s%s',
    g.privilege_type,
    CAST(:view AS regclass),
    CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
    CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS g
WHERE c.oid = CAST(:view AS regclass) AND g.grantee <> c.relowner
