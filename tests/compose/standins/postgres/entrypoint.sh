#!/bin/bash
# What the official image's entrypoint does, for the settings of docker-compose.yml and the usual others: root or not, a password or
# a file with it, scripts of the first start.
set -euo pipefail
sockets=/var/run/postgresql

from_file() { # name, default: the value of NAME, or what the file NAME_FILE holds
  local file="${1}_FILE" value="${!1:-}"
  if [ -n "${!file:-}" ]; then
    [ -z "$value" ] || { echo "error: both $1 and $file are set (but are exclusive)" >&2; exit 1; }
    value=$(<"${!file}")
  fi
  export "$1=${value:-$2}"
  unset "$file"
}

run_script() {
  case "$1" in
    *.sh)
      echo "$0: running $1"
      # shellcheck disable=SC1090 # as the official image does with scripts that are not executable
      if [ -x "$1" ]; then "$1"; else . "$1"; fi
      ;;
    *.sql) echo "$0: running $1"; sql --file="$1" ;;
    *.sql.gz) echo "$0: running $1"; gunzip --stdout "$1" | sql ;;
    *) echo "$0: ignoring $1" ;;
  esac
}

sql() { psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --no-password --no-psqlrc --dbname="$POSTGRES_DB" "$@"; }

first_start() { # the server's arguments
  local method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256} arguments script
  if [ -z "$POSTGRES_PASSWORD" ] && [ "$method" != trust ]; then
    echo "Error: Database is uninitialized and superuser password is not specified." >&2
    exit 1
  fi
  eval "arguments=(${POSTGRES_INITDB_ARGS:-})"
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-local=trust --auth-host="$method" \
    --pgdata="$PGDATA" "${arguments[@]}"
  echo "host all all all $method" >>"$PGDATA/pg_hba.conf"
  # no address until all is set up: a health check over the network must not succeed before
  pg_ctl --pgdata="$PGDATA" --options="$(printf '%q ' -c listen_addresses= -c unix_socket_directories="$sockets" "$@")" --wait start
  [ "$POSTGRES_DB" = postgres ] || createdb --username="$POSTGRES_USER" --no-password --maintenance-db=postgres "$POSTGRES_DB"
  for script in /docker-entrypoint-initdb.d/*; do
    [ ! -e "$script" ] || run_script "$script"
  done
  pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
}

case "${1:--}" in -*) set -- postgres "$@" ;; esac
[ "$1" = postgres ] || exec "$@"
mkdir -p "$PGDATA"
chmod 700 "$PGDATA" 2>/dev/null || true
if [ "$(id -u)" = 0 ]; then
  find "$PGDATA" "$sockets" \! -user postgres -exec chown postgres:postgres {} +
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
shift
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  from_file POSTGRES_PASSWORD ""
  from_file POSTGRES_USER postgres
  from_file POSTGRES_DB "$POSTGRES_USER"
  from_file POSTGRES_INITDB_ARGS ""
  first_start "$@"
  unset POSTGRES_PASSWORD
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories="$sockets" "$@"
