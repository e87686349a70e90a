#!/bin/sh
# STACK_DATABASE in .env names the database, so that services without the key know it too. A service
# that calls the API (it has SANDBOX_URL) starts only if the key agrees: invented and real rows
# never mix.
set -eu
if [ -n "${SANDBOX_URL:-}" ]; then
  key=no
  if [ -n "${MAGNETIS_API_KEY:-}" ] || [ -s /run/secrets/magnetis_api_key ]; then key=yes; fi
  case "$STACK_DATABASE-$key" in
    sandbox-no)
      export MAGNETIS_API_KEY=sandbox-key MAGNETIS_API_URL="$SANDBOX_URL" MAGNETIS_ALLOW_HTTP=true
      ;;
    magnetis-yes) ;;
    *)
      echo "STACK_DATABASE in .env is $STACK_DATABASE, and an API key is set: $key. Invented and real" \
        "rows must not mix. Run deploy/secrets.sh, which writes STACK_DATABASE by the key, then" \
        "docker compose up --detach." >&2
      exit 1
      ;;
  esac
fi
exec "$@"
