#!/usr/bin/env bash
# Runs roles.sql as the superuser in each database of the stack, with the passwords in /run/secrets.
set -euo pipefail
PGPASSWORD=$(cat /run/secrets/postgres_password)
export PGPASSWORD
for database in magnetis sandbox; do
  psql --no-psqlrc --quiet --dbname="$database" --set=secrets=/run/secrets --file="$(dirname "$0")/roles.sql"
done
