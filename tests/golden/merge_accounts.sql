-- name: has_rows
SELECT 1 FROM magnetis.accounts WHERE connection = :connection AND deleted_at IS NULL LIMIT 1

-- name: stored_days
SELECT CAST((:days)[1] AS date) AS day,
       count(*),
       count(*) FILTER (WHERE s.key IS NULL),
       count(*) FILTER (WHERE s.reason IS NOT NULL)
FROM magnetis.accounts AS t LEFT JOIN incoming AS s ON s.key = t.id
WHERE t.connection = :connection AND t.deleted_at IS NULL
GROUP BY 1

-- name: rows_without_id
SELECT CAST((:days)[1] AS date), count(*)
FROM incoming AS s
WHERE s.reason IS NOT NULL AND s.id IS NULL AND CAST((:days)[1] AS date) = ANY(:days)
GROUP BY 1

-- name: upsert
WITH merged AS (
    INSERT INTO magnetis.accounts AS t (
        connection,
        id,
        account_id,
        payload,
        "name",
        "network_id",
        "network_name",
        "entity_id",
        "entity_name",
        "sector",
        "zipcode",
        "city",
        "country",
        "website",
        "email",
        "plan",
        "created_at",
        email_key,
        masked,
        payload_masked,
        mentioned_keys,
        first_seen_at, last_seen_at, changed_at)
    SELECT
        :connection,
        s.id,
        s.account_id,
        s.payload,
        s.c_name,
        s.c_network_id,
        s.c_network_name,
        s.c_entity_id,
        s.c_entity_name,
        s.c_sector,
        s.c_zipcode,
        s.c_city,
        s.c_country,
        s.c_website,
        s.c_email,
        s.c_plan,
        s.c_created_at,
        s.p_email_key,
        s.p_masked,
        s.p_payload_masked,
        s.p_mentioned_keys,
        :read_at, :read_at, :read_at
    FROM incoming AS s
    WHERE s.reason IS NULL
    ON CONFLICT (connection, id) DO UPDATE SET
        account_id = excluded.account_id,
        payload = excluded.payload,
        "name" = excluded."name",
        "network_id" = excluded."network_id",
        "network_name" = excluded."network_name",
        "entity_id" = excluded."entity_id",
        "entity_name" = excluded."entity_name",
        "sector" = excluded."sector",
        "zipcode" = excluded."zipcode",
        "city" = excluded."city",
        "country" = excluded."country",
        "website" = excluded."website",
        "email" = excluded."email",
        "plan" = excluded."plan",
        "created_at" = excluded."created_at",
        email_key = excluded.email_key,
        masked = excluded.masked,
        payload_masked = excluded.payload_masked,
        mentioned_keys = excluded.mentioned_keys,
        last_seen_at = excluded.last_seen_at,
        deleted_at = NULL,
        changed_at = CASE WHEN (CASE WHEN t.payload IS NOT DISTINCT FROM excluded.payload THEN true ELSE CASE jsonb_typeof(t.payload) WHEN 'object' THEN (t.payload - ARRAY(SELECT o1.n FROM jsonb_each(t.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('callcount', 'callscount', 'emailcount', 'emailscount', 'lastactivityat', 'lastcall', 'lastcallat', 'lastcalledat', 'lastemailat', 'lastloginat', 'lastreceivedat', 'lastseenat', 'lastusedat', 'usagecount', 'visitcount', 'visitscount'))) ELSE t.payload END IS NOT DISTINCT FROM CASE jsonb_typeof(excluded.payload) WHEN 'object' THEN (excluded.payload - ARRAY(SELECT o1.n FROM jsonb_each(excluded.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('callcount', 'callscount', 'emailcount', 'emailscount', 'lastactivityat', 'lastcall', 'lastcallat', 'lastcalledat', 'lastemailat', 'lastloginat', 'lastreceivedat', 'lastseenat', 'lastusedat', 'usagecount', 'visitcount', 'visitscount'))) ELSE excluded.payload END END) THEN t.changed_at ELSE excluded.changed_at END
    WHERE NOT (t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())
      AND (NOT (CASE WHEN t.payload IS NOT DISTINCT FROM excluded.payload THEN true ELSE CASE jsonb_typeof(t.payload) WHEN 'object' THEN (t.payload - ARRAY(SELECT o1.n FROM jsonb_each(t.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('callcount', 'callscount', 'emailcount', 'emailscount', 'lastactivityat', 'lastcall', 'lastcallat', 'lastcalledat', 'lastemailat', 'lastloginat', 'lastreceivedat', 'lastseenat', 'lastusedat', 'usagecount', 'visitcount', 'visitscount'))) ELSE t.payload END IS NOT DISTINCT FROM CASE jsonb_typeof(excluded.payload) WHEN 'object' THEN (excluded.payload - ARRAY(SELECT o1.n FROM jsonb_each(excluded.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('callcount', 'callscount', 'emailcount', 'emailscount', 'lastactivityat', 'lastcall', 'lastcallat', 'lastcalledat', 'lastemailat', 'lastloginat', 'lastreceivedat', 'lastseenat', 'lastusedat', 'usagecount', 'visitcount', 'visitscount'))) ELSE excluded.payload END END) OR t.deleted_at IS NOT NULL OR (
        t.account_id,
        t.email_key,
        t.masked,
        t.payload_masked,
        t.mentioned_keys,
        t."name",
        t."network_id",
        t."network_name",
        t."entity_id",
        t."entity_name",
        t."sector",
        t."zipcode",
        t."city",
        t."country",
        t."website",
        t."email",
        t."plan",
        t."created_at") IS DISTINCT FROM (
        excluded.account_id,
        excluded.email_key,
        excluded.masked,
        excluded.payload_masked,
        excluded.mentioned_keys,
        excluded."name",
        excluded."network_id",
        excluded."network_name",
        excluded."entity_id",
        excluded."entity_name",
        excluded."sector",
        excluded."zipcode",
        excluded."city",
        excluded."country",
        excluded."website",
        excluded."email",
        excluded."plan",
        excluded."created_at"))
    RETURNING
        CAST((:days)[1] AS date) AS day,
        CAST(NULL AS date) AS was,
        xmax = 0 AS inserted,
        changed_at
)
SELECT day,
       was,
       count(*) FILTER (WHERE inserted),
       count(*) FILTER (WHERE NOT inserted AND changed_at = :read_at),
       count(*)
FROM merged
GROUP BY day, was

-- name: mark_deleted
WITH gone AS (
    UPDATE magnetis.accounts AS t
    SET deleted_at = :read_at,
        last_seen_at = coalesce(
            (SELECT max(d.read_at) FROM magnetis_ops.days AS d
             WHERE d.connection = :connection AND d.collection = :collection),
            t.last_seen_at)
    WHERE t.connection = :connection
      AND t.deleted_at IS NULL
      AND NOT (t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())
      AND NOT EXISTS (SELECT 1 FROM incoming AS s WHERE s.key = t.id)
      AND NOT CAST((:days)[1] AS date) = ANY(CAST(:undeleted AS date[]))
    RETURNING CAST((:days)[1] AS date) AS day
)
SELECT day, count(*) FROM gone GROUP BY day

-- name: count_rows
SELECT CAST((:days)[1] AS date) AS day, count(*)
FROM magnetis.accounts AS t
WHERE t.connection = :connection AND t.deleted_at IS NULL
GROUP BY 1

-- name: move_versions
WITH ahead AS (
    SELECT moment,
           CAST(:read_at AS timestamptz)
               - row_number() OVER (ORDER BY moment DESC) * interval '1 microsecond' AS moved
    FROM (SELECT valid_from AS moment FROM magnetis.accounts_history
          WHERE connection = :connection AND valid_from >= :read_at
          UNION
          SELECT valid_to FROM magnetis.accounts_history
          WHERE connection = :connection AND valid_to >= :read_at) AS moments
)
UPDATE magnetis.accounts_history AS h
SET valid_from = coalesce((SELECT moved FROM ahead WHERE moment = h.valid_from), h.valid_from),
    valid_to = coalesce((SELECT moved FROM ahead WHERE moment = h.valid_to), h.valid_to)
WHERE h.connection = :connection AND (h.valid_from >= :read_at OR h.valid_to >= :read_at)

-- name: close_versions
UPDATE magnetis.accounts_history AS h SET valid_to = :read_at
FROM magnetis.accounts AS t
WHERE h.connection = :connection
  AND t.connection = :connection
  AND h.id = t.id
  AND h.valid_to IS NULL
  AND (t.deleted_at IS NOT NULL OR NOT (CASE WHEN t.payload IS NOT DISTINCT FROM h.payload THEN true ELSE CASE jsonb_typeof(t.payload) WHEN 'object' THEN (t.payload - ARRAY(SELECT o1.n FROM jsonb_each(t.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('callcount', 'callscount', 'emailcount', 'emailscount', 'lastactivityat', 'lastcall', 'lastcallat', 'lastcalledat', 'lastemailat', 'lastloginat', 'lastreceivedat', 'lastseenat', 'lastusedat', 'usagecount', 'visitcount', 'visitscount'))) ELSE t.payload END IS NOT DISTINCT FROM CASE jsonb_typeof(h.payload) WHEN 'object' THEN (h.payload - ARRAY(SELECT o1.n FROM jsonb_each(h.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('callcount', 'callscount', 'emailcount', 'emailscount', 'lastactivityat', 'lastcall', 'lastcallat', 'lastcalledat', 'lastemailat', 'lastloginat', 'lastreceivedat', 'lastseenat', 'lastusedat', 'usagecount', 'visitcount', 'visitscount'))) ELSE h.payload END END))

-- name: open_versions
WITH opened AS (
    INSERT INTO magnetis.accounts_history (
        connection,
        id,
        account_id,
        payload,
        "name",
        "network_id",
        "network_name",
        "entity_id",
        "entity_name",
        "sector",
        "zipcode",
        "city",
        "country",
        "website",
        "email",
        "plan",
        "created_at",
        email_key,
        masked,
        payload_masked,
        mentioned_keys,
        valid_from)
    SELECT
        connection,
        id,
        account_id,
        payload,
        "name",
        "network_id",
        "network_name",
        "entity_id",
        "entity_name",
        "sector",
        "zipcode",
        "city",
        "country",
        "website",
        "email",
        "plan",
        "created_at",
        email_key,
        masked,
        payload_masked,
        mentioned_keys,
        :read_at
    FROM magnetis.accounts AS t
    WHERE t.connection = :connection
      AND t.deleted_at IS NULL
      AND NOT EXISTS (
          SELECT 1 FROM magnetis.accounts_history AS h
          WHERE h.connection = :connection AND h.id = t.id AND h.valid_to IS NULL)
    RETURNING id
)
SELECT count(*),
       count(*) FILTER (WHERE EXISTS (
           SELECT 1 FROM magnetis.accounts_history AS h
           WHERE h.connection = :connection AND h.id = opened.id AND h.valid_to = :read_at))
FROM opened
