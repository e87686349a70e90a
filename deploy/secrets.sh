#!/usr/bin/env bash
# Makes the files of secrets/ that docker-compose.yml mounts; what is there stays. Run it in the project's folder:
#   deploy/secrets.sh             asks for the key of the API (empty: the sandbox) and for the passwords of the UI
#   deploy/secrets.sh --sandbox   no key, and passwords made up and printed
# Containers run as users of their own and must read the files, so the folder, not the files, keeps others out.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets
chmod 700 secrets

ask() { # prompt
  local answer
  read -r -s -p "$1: " answer </dev/tty
  echo >/dev/tty
  printf '%s' "$answer"
}

user_list() { # file, user, words
  [ -e "secrets/$1" ] && return
  local password
  if [ "$sandbox" = yes ]; then
    password=$(openssl rand -hex 12)
    echo "$3: user $2, password $password"
  else
    password=$(ask "Password for user $2 ($3)")
    [ -n "$password" ] || { echo "A password is needed." >&2; exit 1; }
  fi
  printf '%s:%s\n' "$2" "$(printf '%s' "$password" | openssl passwd -6 -stdin)" >"secrets/$1"
}

sandbox=no
case "${1:-}" in
  --sandbox) sandbox=yes ;;
  "") ;;
  *) echo "usage: deploy/secrets.sh [--sandbox]" >&2; exit 2 ;;
esac

[ -e secrets/postgres_password ] || openssl rand -hex 24 >secrets/postgres_password
if [ ! -e secrets/magnetis_api_key ]; then
  if [ "$sandbox" = yes ]; then : >secrets/magnetis_api_key; else ask "Key of the Magnetis API (empty: the sandbox)" >secrets/magnetis_api_key; fi
fi
[ -e secrets/magnetis_alert_webhook_url ] || : >secrets/magnetis_alert_webhook_url # empty: nobody is told
user_list ui_users admin "those who may launch and change, port 3000"
user_list ui_viewers viewer "those who look, port 3001"
chmod 644 secrets/*
[ -e .env ] || cp .env.example .env
if grep -qE '^[[:space:]]*MAGNETIS_(API_KEY|DATABASE_URL|DATABASE_PASSWORD|ALERT_WEBHOOK_URL)=.' .env; then
  echo "Take MAGNETIS_API_KEY, MAGNETIS_DATABASE_… and MAGNETIS_ALERT_WEBHOOK_URL out of .env: \`docker inspect\` shows what stands there." \
    "The key belongs into secrets/magnetis_api_key." >&2
  exit 1
fi
echo "secrets/ is complete."
