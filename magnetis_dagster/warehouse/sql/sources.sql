-- name: source
-- Select the key and the origin of a connection's rows in the table of a collection.
SELECT key_fingerprint, origin FROM magnetis_ops.sources
WHERE connection = :connection AND collection = :collection

-- name: claim
-- Record the key and the origin of a collection, unless some are recorded.
INSERT INTO magnetis_ops.sources (connection, collection, key_fingerprint, origin, adopted_at)
VALUES (:connection, :collection, :key_fingerprint, :origin, magnetis_ops.now())
ON CONFLICT (connection, collection) DO NOTHING

-- name: adopt
-- Record another key and origin for all collections of a connection.
UPDATE magnetis_ops.sources
SET key_fingerprint = :key_fingerprint, origin = :origin, adopted_at = magnetis_ops.now()
WHERE connection = :connection
  AND (key_fingerprint, origin) IS DISTINCT FROM (:key_fingerprint, :origin)
RETURNING collection
