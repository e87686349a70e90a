#!/usr/bin/env bash
# Restores a backup into an empty database and compares the rows of every table with those that the backup counted:
#   deploy/restore.sh backups/DATABASE-….dump [DATABASE]     into the one that was backed up, or into another
# Stop what writes there first (docker compose stop daemon webserver viewer code). A database that holds tables of this program is
# refused. IN as in deploy/backup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
dump=${1:?usage: deploy/restore.sh DUMP [DATABASE]}
# the name that backup.sh gave it: rows of the sandbox must not come into the key's database by omission
database=${2:-$(basename "$dump" | sed -nE 's/-[0-9]{8}T[0-9]{6}Z\.dump$//p')}
[ -n "$database" ] || { echo "$dump does not say of which database it is: usage: deploy/restore.sh DUMP DATABASE" >&2; exit 1; }
counts=${dump%.dump}.counts
[ -s "$dump" ] && [ -s "$counts" ] || { echo "$dump or $counts is missing: both are made by deploy/backup.sh." >&2; exit 1; }
read -r -a in <<<"${IN-docker compose exec -T --env PGUSER=magnetis postgres}"
# a container's new server answers on its socket while it is being made, and on its port only afterwards
[ ${#in[@]} = 0 ] || for _ in $(seq 60); do "${in[@]}" pg_isready --quiet --host=127.0.0.1 </dev/null && break; sleep 1; done
query() { ${in[@]+"${in[@]}"} psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --dbname="$database"; }

held=$(echo "SELECT count(*) FROM pg_namespace WHERE nspname IN ('magnetis', 'magnetis_ops', 'dagster')" | query)
if [ "$held" != 0 ]; then
  echo "Database $database holds tables of magnetis_dagster already; nothing was changed. Restore into an empty one." >&2
  exit 1
fi
${in[@]+"${in[@]}"} pg_restore --no-owner --no-privileges --exit-on-error --single-transaction --dbname="$database" <"$dump"
if ! difference=$(diff <(cat "$counts") <(query <deploy/counts.sql)); then
  echo "Restored, but these tables do not hold what the backup counted (< counted, > restored):" >&2
  echo "$difference" >&2
  exit 1
fi
echo "Restored into database $database: $(wc -l <"$counts") tables hold what the backup counted."
