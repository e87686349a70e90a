-- The view magnetis.settings_changes, and the changes that one read found.
--
-- Placeholders: view, versions, collection, history, differs; and title, account_name, old and new,
-- which are SQL expressions over the history row `h` and the version `p` before it.

-- name: view
-- Create the view, or replace it: its grants and the views that users made of it persist.
CREATE OR REPLACE VIEW {view} AS
SELECT v.changed_at, v.collection, v.account_id, v.setting_id, v.title, v.kind,
       f.changes, v.account_name, v.connection
FROM ({versions}) AS v
CROSS JOIN LATERAL (
    SELECT coalesce(
        jsonb_object_agg(
            coalesce(o.key, n.key),
            jsonb_build_object('old', o.value, 'new', n.value)),
        '{{}}') AS changes
    FROM jsonb_each(v.old) AS o FULL JOIN jsonb_each(v.new) AS n ON n.key = o.key
    WHERE o.value IS DISTINCT FROM n.value
) AS f

-- name: watched_tables
-- Select the history tables that the view reads, with their columns.
SELECT c.relname AS name, ARRAY(
    SELECT a.attname::text FROM pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_class AS c
WHERE c.oid IN (
    SELECT d.refobjid FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
    WHERE d.classid = 'pg_rewrite'::regclass
      AND d.refclassid = 'pg_class'::regclass
      AND r.ev_class = to_regclass(:view))
  AND c.relnamespace = 'magnetis'::regnamespace
  AND right(c.relname, 8) = '_history'
ORDER BY 1

-- name: begun_versions
-- Select a change for each version that begins: first seen, added or changed.
SELECT h.valid_from AS changed_at,
       CAST('{collection}' AS text) AS collection,
       h.connection,
       h.account_id,
       h.id AS setting_id,
       {title} AS title,
       {account_name} AS account_name,
       CASE WHEN p.id IS NOT NULL THEN 'changed'
            WHEN h.valid_from <= (SELECT min(w.read_at) FROM magnetis_ops.windows AS w
                                  WHERE w.connection = h.connection
                                    AND w.collection = '{collection}') THEN 'first_seen'
            ELSE 'added' END AS kind,
       {old} AS old,
       {new} AS new
FROM {history} AS h
LEFT JOIN {history} AS p
       ON p.connection = h.connection AND p.id = h.id AND p.valid_to = h.valid_from{differs}

-- name: ended_versions
-- Select a change for each version that ends without a next one: removed.
SELECT h.valid_to AS changed_at,
       CAST('{collection}' AS text) AS collection,
       h.connection,
       h.account_id,
       h.id AS setting_id,
       {title} AS title,
       {account_name} AS account_name,
       'removed' AS kind,
       {new} AS old,
       CAST(NULL AS jsonb) AS new
FROM {history} AS h
WHERE h.valid_to IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM {history} AS n
      WHERE n.connection = h.connection AND n.id = h.id AND n.valid_from = h.valid_to)

-- name: count_changes
-- Count the changes of one read by kind.
SELECT kind, count(*) FROM magnetis.settings_changes AS c
WHERE c.connection = :connection AND c.collection = :collection AND c.changed_at = :read_at
GROUP BY kind

-- name: list_changes
-- Select the changes of one read: removed, changed, added; the limit cuts added ones first.
SELECT c.kind, c.account_id, c.account_name, c.setting_id, c.title, c.changes
FROM magnetis.settings_changes AS c
WHERE c.connection = :connection
  AND c.collection = :collection
  AND c.changed_at = :read_at
  AND c.kind <> :first
ORDER BY c.kind DESC, c.account_id, c.title, c.setting_id
LIMIT :most
