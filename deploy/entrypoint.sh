#!/bin/sh
# Without a key, the services use the sandbox of the profile `sandbox`, and a database of its own: invented and real rows never mix.
set -eu
if [ -z "${MAGNETIS_API_KEY:-}" ] && [ ! -s /run/secrets/magnetis_api_key ] && [ -n "${SANDBOX_URL:-}" ]; then
  echo "No key in secrets/magnetis_api_key: using the sandbox at ${SANDBOX_URL} and the database ${SANDBOX_DATABASE_URL##*/}." >&2
  export MAGNETIS_API_KEY=sandbox-key MAGNETIS_API_URL="${SANDBOX_URL}" MAGNETIS_ALLOW_HTTP=true
  export MAGNETIS_DATABASE_URL="${SANDBOX_DATABASE_URL}"
fi
exec "$@"
