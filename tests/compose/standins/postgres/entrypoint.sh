#!/bin/bash
# The part of the official image's entrypoint that docker-compose.yml uses: non-root, a password file, scripts of the first start.
set -euo pipefail
sockets=/var/run/postgresql
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  chmod 700 "$PGDATA"
  user=${POSTGRES_USER:-postgres}
  password=${POSTGRES_PASSWORD:-$(cat "${POSTGRES_PASSWORD_FILE:?POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE is needed}")}
  initdb --username="$user" --pwfile=<(printf '%s\n' "$password") --auth-local=trust --auth-host=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 --pgdata="$PGDATA" ${POSTGRES_INITDB_ARGS:-}
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl --pgdata="$PGDATA" --options="-c listen_addresses='' -c unix_socket_directories=$sockets" --wait start
  database=${POSTGRES_DB:-$user}
  [ "$database" = postgres ] || createdb --host="$sockets" --username="$user" "$database"
  for script in /docker-entrypoint-initdb.d/*.sql; do
    [ -e "$script" ] && psql --host="$sockets" --username="$user" --dbname="$database" --set=ON_ERROR_STOP=1 --file="$script"
  done
  pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
fi
[ "${1:-}" = postgres ] && shift
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories="$sockets" "$@"
