#!/usr/bin/env bash
# Writes a dump of a database and the row count of each table, of the same snapshot, to backups/:
#   deploy/backup.sh [DATABASE]        of the compose stack; DATABASE: magnetis (default) or sandbox
# Also writes the list of erasures to backups/DATABASE-erasures.jsonl. Prints the path of the dump.
# deploy/restore.sh compares the counts with the restored tables. All services may keep running. For another server, IN is the command that runs its programs (IN=""
# with PGHOST, PGUSER … set).
set -euo pipefail
cd "$(dirname "$0")/.."
umask 077 # a backup contains personal data
database=${1:-magnetis}
read -r -a in <<<"${IN-docker compose exec -T --env PGUSER=magnetis postgres}"
mkdir -p "${BACKUPS:=backups}"
name="$BACKUPS/$database-$(date -u +%Y%m%dT%H%M%SZ)"
trap '[ -e "$name.dump" ] || rm -f "$name.part" "$name.counts"' EXIT

# the snapshot exists until the transaction that exported it ends
coproc KEEPER { ${in[@]+"${in[@]}"} psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --dbname="$database"; }
out=${KEEPER[0]} to=${KEEPER[1]}
echo "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_export_snapshot();" >&"$to"
read -r snapshot <&"$out" || { echo "Cannot open database $database, for the reason above. The sandbox's rows are in the database sandbox." >&2; exit 1; }
${in[@]+"${in[@]}"} pg_dump --format=custom --no-owner --no-privileges --snapshot="$snapshot" --dbname="$database" </dev/null >"$name.part"
cat deploy/counts.sql >&"$to"
echo '\echo end' >&"$to"
while read -r line <&"$out" && [ "$line" != end ]; do echo "$line"; done >"$name.counts"
exec {to}>&-
[ -s "$name.counts" ] || { echo "Database $database contains no table of magnetis_dagster." >&2; exit 1; }
mv "$name.part" "$name.dump"
# deploy/restore.sh repeats these erasures after any older dump; entries of earlier lists stay
erasures="SELECT json_build_object('requested_at', e.requested_at, 'reason', e.reason,
  'connection', s.connection, 'person_key', s.person_key, 'expires_on', s.expires_on)
  FROM magnetis_ops.suppressions AS s JOIN magnetis_ops.erasures AS e ON e.id = s.erasure_id"
list="$BACKUPS/$database-erasures.jsonl"
query() { ${in[@]+"${in[@]}"} psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --dbname="$database" --command="$1" </dev/null; }
if [ "$(query "SELECT to_regclass('magnetis_ops.suppressions') IS NOT NULL")" = t ]; then
  { if [ -e "$list" ]; then cat "$list"; fi; query "$erasures"; } | sort -u >"$list.part"
  mv "$list.part" "$list"
fi
echo "$name.dump"
