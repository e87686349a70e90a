#!/usr/bin/env bash
# Restores a backup into an empty database and compares the row count of every table with the
# backup:
#   deploy/restore.sh backups/DATABASE-….dump [DATABASE]     default: the database of the backup
# First stop the services that write there (docker compose stop daemon webserver viewer code). A
# database that contains tables of this program is refused. IN is described in deploy/backup.sh.
# Then repeats the erasures that the backup lacks, from the list that backup.sh wrote. MAGNETIS is
# the command for that: `magnetis` with the settings of DATABASE (default: the compose stack's).
set -euo pipefail
cd "$(dirname "$0")/.."
dump=${1:?usage: deploy/restore.sh DUMP [DATABASE]}
# backup.sh put the database into the file name, so that sandbox rows are not restored into the
# database of the key by mistake
database=${2:-$(basename "$dump" | sed -nE 's/-[0-9]{8}T[0-9]{6}Z\.dump$//p')}
[ -n "$database" ] || {
  echo "The name of $dump does not contain its database. Usage: deploy/restore.sh DUMP DATABASE" >&2
  exit 1
}
counts=${dump%.dump}.counts
[ -s "$dump" ] && [ -s "$counts" ] || {
  echo "$dump or $counts is missing. deploy/backup.sh creates both." >&2
  exit 1
}
read -r -a in <<<"${IN-docker compose exec -T --env PGUSER=magnetis postgres}"
# a new server in a container answers on its socket during initialization, on its port only
# afterwards
[ ${#in[@]} = 0 ] || for _ in $(seq 60); do "${in[@]}" pg_isready --quiet --host=127.0.0.1 </dev/null && break; sleep 1; done
query() { ${in[@]+"${in[@]}"} psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --dbname="$database"; }

held=$(echo "SELECT count(*) FROM pg_namespace WHERE nspname IN ('magnetis', 'magnetis_ops', 'magnetis_masked', 'dagster')" | query)
if [ "$held" != 0 ]; then
  echo "Database $database already contains tables of magnetis_dagster. Nothing was changed." \
    "Restore into an empty database." >&2
  exit 1
fi
${in[@]+"${in[@]}"} pg_restore --no-owner --no-privileges --exit-on-error --single-transaction --dbname="$database" <"$dump"
if ! difference=$(diff <(cat "$counts") <(query <deploy/counts.sql)); then
  echo "Restored, but these row counts differ from the backup (< backup, > restored):" >&2
  echo "$difference" >&2
  exit 1
fi
echo "Restored into database $database:" \
  "$(wc -l <"$counts") tables have the row counts of the backup."
erasures=$(dirname "$dump")/$(basename "$dump" | sed -nE 's/-[0-9]{8}T[0-9]{6}Z\.dump$//p')-erasures.jsonl
if [ -s "$erasures" ]; then
  # this backup lacks the erasures that were recorded after it
  address="postgresql://magnetis_load@${POSTGRES_ADDRESS:-postgres:5432}/$database"
  read -r -a magnetis <<<"${MAGNETIS-docker compose run --rm -T --env MAGNETIS_DATABASE_URL=$address code magnetis}"
  "${magnetis[@]}" person replay - <"$erasures"
elif [ ! -e "$erasures" ]; then
  echo "There is no list of erasures ($erasures). If persons were erased after this backup, erase" \
    "them again before the first load (docs/privacy.md#backups)." >&2
fi
