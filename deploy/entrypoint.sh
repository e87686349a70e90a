#!/bin/sh
# STACK_DATABASE in .env names the database, because services without the key need it too. A service
# that sends API requests (it has SANDBOX_URL) starts only if the key and the database agree, so
# that sandbox rows and real rows never mix.
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
      echo "STACK_DATABASE in .env is $STACK_DATABASE, which does not match the API key (set: $key)." \
        "Sandbox rows and real rows must not mix. Run deploy/secrets.sh, which sets STACK_DATABASE" \
        "to match the key, then docker compose up --detach." >&2
      exit 1
      ;;
  esac
fi
exec "$@"
