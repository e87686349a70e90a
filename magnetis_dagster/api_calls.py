"""What client and ledger agree on about one API call; below both, so that neither can drift from the other."""

from datetime import timedelta

LONGEST_CALL = timedelta(minutes=5)
"""From a grant, or its last confirmation, until the API can no longer receive the request. The client refuses limits that exceed
it; the ledger counts a call of a dead process for this long."""
GRANT_SECONDS = 30.0
"""A grant that is older is confirmed before its request is sent."""
