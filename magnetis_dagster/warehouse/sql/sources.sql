-- name: source
-- Select the key and the origin that filled the table of a collection.
SELECT key_fingerprint, origin FROM magnetis_ops.sources WHERE collection = :collection

-- name: claim
-- Record the key and the origin of a collection, unless some are recorded.
INSERT INTO magnetis_ops.sources (collection, key_fingerprint, origin, adopted_at)
VALUES (:collection, :key_fingerprint, :origin, magnetis_ops.now())
ON CONFLICT (collection) DO NOTHING

-- name: adopt
-- Record another key and origin for all collections.
UPDATE magnetis_ops.sources
SET key_fingerprint = :key_fingerprint, origin = :origin, adopted_at = magnetis_ops.now()
WHERE (key_fingerprint, origin) IS DISTINCT FROM (:key_fingerprint, :origin)
RETURNING collection
