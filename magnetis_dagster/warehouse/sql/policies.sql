-- Rows that violate a policy on notification settings.
--
-- The blocks `reason_…` are expressions over a row `t`: why it violates the policy, or NULL.

-- name: state
-- Tell whether a collection was read, and count its rows; `members` adds a count per member.
SELECT EXISTS (
           SELECT FROM magnetis_ops.days
           WHERE connection = :connection AND collection = :collection) AS read,
       count(*) AS known,
       count(*) FILTER (WHERE t.deleted_at IS NULL) AS rows{members}
FROM {table} AS t
WHERE t.connection = :connection

-- name: violations
-- Select the first violations of a query, without ignored ids and accounts; count them all.
SELECT id, account_id, title, reason, count(*) OVER () AS number
FROM ({violations}) AS o
WHERE id <> ALL(CAST(:ignore AS text[]))
  AND (account_id IS NULL OR account_id <> ALL(CAST(:ignore AS text[])))
ORDER BY account_id NULLS FIRST, id
LIMIT :most

-- name: rows_with_reason
-- Select the rows of a collection that violate a policy.
SELECT t.id, t.account_id, {title} AS title, r.reason
FROM {table} AS t, LATERAL (SELECT {reason} AS reason) AS r
WHERE t.connection = :connection AND t.deleted_at IS NULL AND r.reason IS NOT NULL

-- name: accounts_without_alert
-- Select the accounts without an enabled alert on missed calls.
SELECT a.id,
       a.id AS account_id,
       {name} AS title,
       CASE WHEN bool_or(t.account_id IS NOT NULL) THEN 'its alert on missed calls is switched off'
            ELSE 'no alert on missed calls' END AS reason
FROM magnetis.accounts AS a
LEFT JOIN ({alerts}) AS t ON t.account_id = a.id
WHERE a.connection = :connection AND a.deleted_at IS NULL
GROUP BY a.connection, a.id
HAVING NOT coalesce(bool_or(t.enabled), false)

-- name: alerts
-- Select the alerts of a collection that have one of the types.
SELECT t.account_id, t.enabled FROM {table} AS t
WHERE t.connection = :connection AND t.deleted_at IS NULL AND lower(t.type) = ANY(:types)

-- name: reason_has_recipient
-- No text or number among the recipients.
-- Strict mode, because lax mode would return the elements of a list twice.
CASE WHEN NOT EXISTS (
    SELECT FROM jsonb_path_query(to_jsonb(t.recipients), 'strict $.**') AS leaf
    WHERE jsonb_typeof(leaf) = 'number'
       OR jsonb_typeof(leaf) = 'string' AND leaf #>> '{}' ~ '\S') THEN 'no recipient' END

-- name: reason_allowed_domains
-- Number of recipients outside the allowed domains, and no more than their number.
(SELECT 'recipients outside the allowed domains: ' || number
 FROM (
     SELECT count(*)
     FROM jsonb_path_query(to_jsonb(t.recipients), 'strict $.**') AS leaf,
          regexp_split_to_table(leaf #>> '{}', '[\s,;:|/<>?&=()]+') AS word,
          LATERAL (SELECT
              rtrim(lower(regexp_replace(word, '^.*@', '')), '.>)]''"') AS domain) AS d
     WHERE jsonb_typeof(leaf) = 'string'
       AND word LIKE '%@%'
       AND domain <> ALL(:domains)
       AND NOT EXISTS (
           SELECT FROM unnest(CAST(:below AS text[])) AS suffix
           WHERE right(domain, length(suffix)) = suffix)
 ) AS f(number)
 WHERE number > 0)

-- name: reason_sane_thresholds
-- A negative threshold, or `less_than` that is not above `more_than`.
CASE WHEN {less} < 0 THEN 'less_than is negative'
     WHEN {more} < 0 THEN 'more_than is negative'
     WHEN {less} <= {more} THEN 'less_than is not above more_than' END

-- name: reason_live_account
-- The row belongs to a deleted account.
CASE WHEN EXISTS (
    SELECT FROM magnetis.accounts AS a
    WHERE a.connection = t.connection AND a.id = t.account_id AND a.deleted_at IS NOT NULL)
     THEN 'its account is deleted' END

-- name: reason_has_owner
-- The row has no account, or one that is not in the table accounts.
CASE WHEN t.account_id IS NULL THEN 'no account'
     WHEN NOT EXISTS (
         SELECT FROM magnetis.accounts AS a
         WHERE a.connection = t.connection AND a.id = t.account_id)
     THEN 'unknown account' END
