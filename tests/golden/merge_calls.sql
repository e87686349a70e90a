-- name: has_rows
SELECT 1 FROM magnetis.calls
WHERE connection = :connection AND deleted_at IS NULL AND day = ANY(:days)
LIMIT 1

-- name: stored_days
SELECT t.day AS day,
       count(*),
       count(*) FILTER (WHERE s.key IS NULL),
       count(*) FILTER (WHERE s.reason IS NOT NULL)
FROM magnetis.calls AS t LEFT JOIN incoming AS s ON s.key = t.id
WHERE t.connection = :connection AND t.deleted_at IS NULL AND t.day = ANY(:days)
GROUP BY 1

-- name: rows_without_id
SELECT s.day, count(*)
FROM incoming AS s
WHERE s.reason IS NOT NULL AND s.id IS NULL AND s.day = ANY(:days)
GROUP BY 1

-- name: upsert
WITH merged AS (
    INSERT INTO magnetis.calls AS t (
        connection,
        id,
        account_id,
        payload,
        occurred_at,
        day,
        "account_name",
        "caller_number",
        "caller_name",
        "duration_seconds",
        "waiting_seconds",
        "status",
        "channel",
        "number_id",
        "number",
        "recipient_id",
        "recipient_number",
        "visit_id",
        "ended_at",
        "analysis",
        "utm_source",
        "utm_medium",
        "utm_campaign",
        "utm_term",
        "utm_content",
        "gclid",
        caller_key,
        recipient_key,
        masked,
        payload_masked,
        mentioned_keys,
        first_seen_at, last_seen_at, changed_at)
    SELECT
        :connection,
        s.id,
        s.account_id,
        s.payload,
        s.occurred_at,
        s.day,
        s.c_account_name,
        s.c_caller_number,
        s.c_caller_name,
        s.c_duration_seconds,
        s.c_waiting_seconds,
        s.c_status,
        s.c_channel,
        s.c_number_id,
        s.c_number,
        s.c_recipient_id,
        s.c_recipient_number,
        s.c_visit_id,
        s.c_ended_at,
        s.c_analysis,
        s.c_utm_source,
        s.c_utm_medium,
        s.c_utm_campaign,
        s.c_utm_term,
        s.c_utm_content,
        s.c_gclid,
        s.p_caller_key,
        s.p_recipient_key,
        s.p_masked,
        s.p_payload_masked,
        s.p_mentioned_keys,
        :read_at, :read_at, :read_at
    FROM incoming AS s
    WHERE s.reason IS NULL
      AND (s.day = ANY(:days)
           OR EXISTS (
               SELECT 1 FROM magnetis.calls AS c
               WHERE c.connection = :connection AND c.id = s.id AND c.day = ANY(:days)))
    ON CONFLICT (connection, id) DO UPDATE SET
        account_id = excluded.account_id,
        payload = excluded.payload,
        occurred_at = excluded.occurred_at,
        day = excluded.day,
        "account_name" = excluded."account_name",
        "caller_number" = excluded."caller_number",
        "caller_name" = excluded."caller_name",
        "duration_seconds" = excluded."duration_seconds",
        "waiting_seconds" = excluded."waiting_seconds",
        "status" = excluded."status",
        "channel" = excluded."channel",
        "number_id" = excluded."number_id",
        "number" = excluded."number",
        "recipient_id" = excluded."recipient_id",
        "recipient_number" = excluded."recipient_number",
        "visit_id" = excluded."visit_id",
        "ended_at" = excluded."ended_at",
        "analysis" = excluded."analysis",
        "utm_source" = excluded."utm_source",
        "utm_medium" = excluded."utm_medium",
        "utm_campaign" = excluded."utm_campaign",
        "utm_term" = excluded."utm_term",
        "utm_content" = excluded."utm_content",
        "gclid" = excluded."gclid",
        caller_key = excluded.caller_key,
        recipient_key = excluded.recipient_key,
        masked = excluded.masked,
        payload_masked = excluded.payload_masked,
        mentioned_keys = excluded.mentioned_keys,
        last_seen_at = excluded.last_seen_at,
        deleted_at = NULL,
        changed_at = CASE WHEN (CASE WHEN t.payload IS NOT DISTINCT FROM excluded.payload THEN true ELSE CASE jsonb_typeof(t.payload) WHEN 'object' THEN (t.payload || coalesce((SELECT jsonb_object_agg(o1.n, CASE translate(lower(o1.n COLLATE "C"), '_-. ', '') WHEN 'audio' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o2.n, CASE jsonb_typeof(o2.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o2.v #>> '{}'), '?', 1), '#', 1)) ELSE o2.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o2(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l3.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l3.v #>> '{}'), '?', 1), '#', 1)) ELSE l3.v END ORDER BY l3.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l3(v, n)) ELSE o1.v END WHEN 'audiourl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'recording' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o4.n, CASE jsonb_typeof(o4.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o4.v #>> '{}'), '?', 1), '#', 1)) ELSE o4.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o4(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l5.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l5.v #>> '{}'), '?', 1), '#', 1)) ELSE l5.v END ORDER BY l5.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l5(v, n)) ELSE o1.v END WHEN 'recordinglink' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'recordings' THEN CASE jsonb_typeof(o1.v) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o6.n, CASE jsonb_typeof(o6.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o6.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o7.n, CASE jsonb_typeof(o7.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o7.v #>> '{}'), '?', 1), '#', 1)) ELSE o7.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o6.v) AS o7(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l8.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l8.v #>> '{}'), '?', 1), '#', 1)) ELSE l8.v END ORDER BY l8.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o6.v) WITH ORDINALITY AS l8(v, n)) ELSE o6.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o6(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l9.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l9.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o10.n, CASE jsonb_typeof(o10.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o10.v #>> '{}'), '?', 1), '#', 1)) ELSE o10.v END), CAST('{}' AS jsonb)) FROM jsonb_each(l9.v) AS o10(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l11.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l11.v #>> '{}'), '?', 1), '#', 1)) ELSE l11.v END ORDER BY l11.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(l9.v) WITH ORDINALITY AS l11(v, n)) ELSE l9.v END ORDER BY l9.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l9(v, n)) ELSE o1.v END WHEN 'recordingurl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'transcripturl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'voicemail' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o12.n, CASE jsonb_typeof(o12.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o12.v #>> '{}'), '?', 1), '#', 1)) ELSE o12.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o12(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l13.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l13.v #>> '{}'), '?', 1), '#', 1)) ELSE l13.v END ORDER BY l13.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l13(v, n)) ELSE o1.v END WHEN 'voicemailurl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END END) FROM jsonb_each(t.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('audio', 'audiourl', 'recording', 'recordinglink', 'recordings', 'recordingurl', 'transcripturl', 'voicemail', 'voicemailurl')), CAST('{}' AS jsonb))) ELSE t.payload END IS NOT DISTINCT FROM CASE jsonb_typeof(excluded.payload) WHEN 'object' THEN (excluded.payload || coalesce((SELECT jsonb_object_agg(o1.n, CASE translate(lower(o1.n COLLATE "C"), '_-. ', '') WHEN 'audio' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o2.n, CASE jsonb_typeof(o2.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o2.v #>> '{}'), '?', 1), '#', 1)) ELSE o2.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o2(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l3.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l3.v #>> '{}'), '?', 1), '#', 1)) ELSE l3.v END ORDER BY l3.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l3(v, n)) ELSE o1.v END WHEN 'audiourl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'recording' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o4.n, CASE jsonb_typeof(o4.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o4.v #>> '{}'), '?', 1), '#', 1)) ELSE o4.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o4(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l5.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l5.v #>> '{}'), '?', 1), '#', 1)) ELSE l5.v END ORDER BY l5.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l5(v, n)) ELSE o1.v END WHEN 'recordinglink' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'recordings' THEN CASE jsonb_typeof(o1.v) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o6.n, CASE jsonb_typeof(o6.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o6.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o7.n, CASE jsonb_typeof(o7.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o7.v #>> '{}'), '?', 1), '#', 1)) ELSE o7.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o6.v) AS o7(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l8.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l8.v #>> '{}'), '?', 1), '#', 1)) ELSE l8.v END ORDER BY l8.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o6.v) WITH ORDINALITY AS l8(v, n)) ELSE o6.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o6(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l9.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l9.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o10.n, CASE jsonb_typeof(o10.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o10.v #>> '{}'), '?', 1), '#', 1)) ELSE o10.v END), CAST('{}' AS jsonb)) FROM jsonb_each(l9.v) AS o10(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l11.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l11.v #>> '{}'), '?', 1), '#', 1)) ELSE l11.v END ORDER BY l11.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(l9.v) WITH ORDINALITY AS l11(v, n)) ELSE l9.v END ORDER BY l9.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l9(v, n)) ELSE o1.v END WHEN 'recordingurl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'transcripturl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'voicemail' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o12.n, CASE jsonb_typeof(o12.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o12.v #>> '{}'), '?', 1), '#', 1)) ELSE o12.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o12(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l13.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l13.v #>> '{}'), '?', 1), '#', 1)) ELSE l13.v END ORDER BY l13.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l13(v, n)) ELSE o1.v END WHEN 'voicemailurl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END END) FROM jsonb_each(excluded.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('audio', 'audiourl', 'recording', 'recordinglink', 'recordings', 'recordingurl', 'transcripturl', 'voicemail', 'voicemailurl')), CAST('{}' AS jsonb))) ELSE excluded.payload END END) THEN t.changed_at ELSE excluded.changed_at END
    WHERE NOT (t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())
      AND (NOT (CASE WHEN t.payload IS NOT DISTINCT FROM excluded.payload THEN true ELSE CASE jsonb_typeof(t.payload) WHEN 'object' THEN (t.payload || coalesce((SELECT jsonb_object_agg(o1.n, CASE translate(lower(o1.n COLLATE "C"), '_-. ', '') WHEN 'audio' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o2.n, CASE jsonb_typeof(o2.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o2.v #>> '{}'), '?', 1), '#', 1)) ELSE o2.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o2(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l3.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l3.v #>> '{}'), '?', 1), '#', 1)) ELSE l3.v END ORDER BY l3.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l3(v, n)) ELSE o1.v END WHEN 'audiourl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'recording' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o4.n, CASE jsonb_typeof(o4.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o4.v #>> '{}'), '?', 1), '#', 1)) ELSE o4.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o4(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l5.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l5.v #>> '{}'), '?', 1), '#', 1)) ELSE l5.v END ORDER BY l5.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l5(v, n)) ELSE o1.v END WHEN 'recordinglink' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'recordings' THEN CASE jsonb_typeof(o1.v) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o6.n, CASE jsonb_typeof(o6.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o6.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o7.n, CASE jsonb_typeof(o7.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o7.v #>> '{}'), '?', 1), '#', 1)) ELSE o7.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o6.v) AS o7(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l8.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l8.v #>> '{}'), '?', 1), '#', 1)) ELSE l8.v END ORDER BY l8.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o6.v) WITH ORDINALITY AS l8(v, n)) ELSE o6.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o6(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l9.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l9.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o10.n, CASE jsonb_typeof(o10.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o10.v #>> '{}'), '?', 1), '#', 1)) ELSE o10.v END), CAST('{}' AS jsonb)) FROM jsonb_each(l9.v) AS o10(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l11.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l11.v #>> '{}'), '?', 1), '#', 1)) ELSE l11.v END ORDER BY l11.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(l9.v) WITH ORDINALITY AS l11(v, n)) ELSE l9.v END ORDER BY l9.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l9(v, n)) ELSE o1.v END WHEN 'recordingurl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'transcripturl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'voicemail' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o12.n, CASE jsonb_typeof(o12.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o12.v #>> '{}'), '?', 1), '#', 1)) ELSE o12.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o12(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l13.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l13.v #>> '{}'), '?', 1), '#', 1)) ELSE l13.v END ORDER BY l13.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l13(v, n)) ELSE o1.v END WHEN 'voicemailurl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END END) FROM jsonb_each(t.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('audio', 'audiourl', 'recording', 'recordinglink', 'recordings', 'recordingurl', 'transcripturl', 'voicemail', 'voicemailurl')), CAST('{}' AS jsonb))) ELSE t.payload END IS NOT DISTINCT FROM CASE jsonb_typeof(excluded.payload) WHEN 'object' THEN (excluded.payload || coalesce((SELECT jsonb_object_agg(o1.n, CASE translate(lower(o1.n COLLATE "C"), '_-. ', '') WHEN 'audio' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o2.n, CASE jsonb_typeof(o2.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o2.v #>> '{}'), '?', 1), '#', 1)) ELSE o2.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o2(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l3.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l3.v #>> '{}'), '?', 1), '#', 1)) ELSE l3.v END ORDER BY l3.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l3(v, n)) ELSE o1.v END WHEN 'audiourl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'recording' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o4.n, CASE jsonb_typeof(o4.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o4.v #>> '{}'), '?', 1), '#', 1)) ELSE o4.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o4(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l5.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l5.v #>> '{}'), '?', 1), '#', 1)) ELSE l5.v END ORDER BY l5.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l5(v, n)) ELSE o1.v END WHEN 'recordinglink' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'recordings' THEN CASE jsonb_typeof(o1.v) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o6.n, CASE jsonb_typeof(o6.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o6.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o7.n, CASE jsonb_typeof(o7.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o7.v #>> '{}'), '?', 1), '#', 1)) ELSE o7.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o6.v) AS o7(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l8.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l8.v #>> '{}'), '?', 1), '#', 1)) ELSE l8.v END ORDER BY l8.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o6.v) WITH ORDINALITY AS l8(v, n)) ELSE o6.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o6(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l9.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l9.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o10.n, CASE jsonb_typeof(o10.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o10.v #>> '{}'), '?', 1), '#', 1)) ELSE o10.v END), CAST('{}' AS jsonb)) FROM jsonb_each(l9.v) AS o10(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l11.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l11.v #>> '{}'), '?', 1), '#', 1)) ELSE l11.v END ORDER BY l11.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(l9.v) WITH ORDINALITY AS l11(v, n)) ELSE l9.v END ORDER BY l9.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l9(v, n)) ELSE o1.v END WHEN 'recordingurl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'transcripturl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END WHEN 'voicemail' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(o12.n, CASE jsonb_typeof(o12.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o12.v #>> '{}'), '?', 1), '#', 1)) ELSE o12.v END), CAST('{}' AS jsonb)) FROM jsonb_each(o1.v) AS o12(n, v)) WHEN 'array' THEN (SELECT coalesce(jsonb_agg(CASE jsonb_typeof(l13.v) WHEN 'string' THEN to_jsonb(split_part(split_part((l13.v #>> '{}'), '?', 1), '#', 1)) ELSE l13.v END ORDER BY l13.n), CAST('[]' AS jsonb)) FROM jsonb_array_elements(o1.v) WITH ORDINALITY AS l13(v, n)) ELSE o1.v END WHEN 'voicemailurl' THEN CASE jsonb_typeof(o1.v) WHEN 'string' THEN to_jsonb(split_part(split_part((o1.v #>> '{}'), '?', 1), '#', 1)) ELSE o1.v END END) FROM jsonb_each(excluded.payload) AS o1(n, v) WHERE translate(lower(o1.n COLLATE "C"), '_-. ', '') IN ('audio', 'audiourl', 'recording', 'recordinglink', 'recordings', 'recordingurl', 'transcripturl', 'voicemail', 'voicemailurl')), CAST('{}' AS jsonb))) ELSE excluded.payload END END) OR t.deleted_at IS NOT NULL OR (
        t.account_id,
        t.occurred_at,
        t.day,
        t.caller_key,
        t.recipient_key,
        t.masked,
        t.payload_masked,
        t.mentioned_keys,
        t."account_name",
        t."caller_number",
        t."caller_name",
        t."duration_seconds",
        t."waiting_seconds",
        t."status",
        t."channel",
        t."number_id",
        t."number",
        t."recipient_id",
        t."recipient_number",
        t."visit_id",
        t."ended_at",
        t."analysis",
        t."utm_source",
        t."utm_medium",
        t."utm_campaign",
        t."utm_term",
        t."utm_content",
        t."gclid") IS DISTINCT FROM (
        excluded.account_id,
        excluded.occurred_at,
        excluded.day,
        excluded.caller_key,
        excluded.recipient_key,
        excluded.masked,
        excluded.payload_masked,
        excluded.mentioned_keys,
        excluded."account_name",
        excluded."caller_number",
        excluded."caller_name",
        excluded."duration_seconds",
        excluded."waiting_seconds",
        excluded."status",
        excluded."channel",
        excluded."number_id",
        excluded."number",
        excluded."recipient_id",
        excluded."recipient_number",
        excluded."visit_id",
        excluded."ended_at",
        excluded."analysis",
        excluded."utm_source",
        excluded."utm_medium",
        excluded."utm_campaign",
        excluded."utm_term",
        excluded."utm_content",
        excluded."gclid"))
    RETURNING
        t.day AS day,
        CASE WHEN xmax <> 0 THEN
            (SELECT o.day FROM magnetis.calls AS o
             WHERE o.connection = :connection AND o.id = t.id AND o.deleted_at IS NULL)
        END AS was,
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
    UPDATE magnetis.calls AS t
    SET deleted_at = :read_at,
        last_seen_at = coalesce(
            (SELECT max(d.read_at) FROM magnetis_ops.days AS d
             WHERE d.connection = :connection AND d.collection = :collection AND d.day = t.day),
            t.last_seen_at)
    WHERE t.connection = :connection
      AND t.deleted_at IS NULL
      AND NOT (t.last_seen_at > :read_at AND t.last_seen_at <= magnetis_ops.now())
      AND t.day = ANY(:days)
      AND NOT EXISTS (SELECT 1 FROM incoming AS s WHERE s.key = t.id)
      AND NOT t.day = ANY(CAST(:undeleted AS date[]))
    RETURNING t.day AS day
)
SELECT day, count(*) FROM gone GROUP BY day

-- name: count_rows
SELECT t.day AS day, count(*)
FROM magnetis.calls AS t
WHERE t.connection = :connection AND t.deleted_at IS NULL AND t.day = ANY(:days)
GROUP BY 1
