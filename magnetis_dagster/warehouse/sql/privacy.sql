-- Erased persons, and the secrets of caller keys.

-- name: state
-- Return the clock, and what changes when a person is erased or a suppression ends.
SELECT magnetis_ops.now() AS now,
       (SELECT coalesce(max(id), 0) FROM magnetis_ops.suppressions) AS newest,
       (SELECT count(*) FROM magnetis_ops.suppressions
        WHERE connection = :connection
          AND (expires_on IS NULL OR expires_on > (magnetis_ops.now() AT TIME ZONE :zone)::date)
       ) AS active

-- name: suppressed
-- Select the caller keys of erased persons.
SELECT person_key FROM magnetis_ops.suppressions
WHERE connection = :connection
  AND (expires_on IS NULL OR expires_on > (magnetis_ops.now() AT TIME ZONE :zone)::date)

-- name: used_ids
-- Select the ids of the secrets of suppressions that have not ended.
-- A day more, because the day differs by time zone.
SELECT DISTINCT substring(person_key FROM '^k([a-z0-9]+):') FROM magnetis_ops.suppressions
WHERE expires_on IS NULL OR expires_on > CAST(magnetis_ops.now() AS date) - 1

-- name: proofs
-- Select the proof of each secret that was used.
SELECT key_id, proof FROM magnetis_ops.privacy_keys

-- name: record_proof
-- Record the first use of a secret.
INSERT INTO magnetis_ops.privacy_keys (key_id, proof, first_used_at)
VALUES (:key_id, :proof, magnetis_ops.now())
ON CONFLICT DO NOTHING

-- name: retained
-- Return what the newest complete runs for a collection depended on.
SELECT keyed, rules, masked_on FROM magnetis_ops.retention
WHERE connection = :connection AND collection = :collection

-- name: record_retention
-- Record a complete run of retention for a collection.
INSERT INTO magnetis_ops.retention AS r (connection, collection, keyed, rules, masked_on)
VALUES (:connection, :collection, :keyed, :rules, :masked_on)
ON CONFLICT (connection, collection) DO UPDATE SET
    keyed = excluded.keyed,
    rules = excluded.rules,
    masked_on = excluded.masked_on

-- name: record_keys
-- Record that all rows of a collection have caller keys.
INSERT INTO magnetis_ops.retention AS r (connection, collection, keyed)
VALUES (:connection, :collection, :keyed)
ON CONFLICT (connection, collection) DO UPDATE SET keyed = excluded.keyed
