#!/usr/bin/env bash
# Creates the files in secrets/ that docker-compose.yml mounts; existing files stay. Run it in the
# project's folder:
#   deploy/secrets.sh             prompts for the API key (empty: the sandbox) and the UI passwords
#   deploy/secrets.sh --sandbox   no key; generates the UI passwords and prints them
#   deploy/secrets.sh --celery    also sends runs to Celery workers (docs/scaling.md)
# Containers run as other users and must read the files, so the mode of the folder protects the
# files.
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
    [ -n "$password" ] || { echo "The password must not be empty." >&2; exit 1; }
  fi
  printf '%s:%s\n' "$2" "$(printf '%s' "$password" | openssl passwd -6 -stdin)" >"secrets/$1"
}

stack_variable() { # name, value: becomes the last line of .env, which keeps its owner and mode
  local others
  others=$(grep -v "^$1=" .env || true)
  printf '%s\n%s=%s\n' "$others" "$1" "$2" >.env
}

sandbox=no celery=no
for option in "$@"; do
  case "$option" in
    --sandbox) sandbox=yes ;;
    --celery) celery=yes ;;
    *) echo "usage: deploy/secrets.sh [--sandbox] [--celery]" >&2; exit 2 ;;
  esac
done

for role in postgres magnetis_owner magnetis_load magnetis_daemon magnetis_ui magnetis_view; do
  [ -e "secrets/${role}_password" ] || openssl rand -hex 24 >"secrets/${role}_password"
done
if [ ! -e secrets/magnetis_api_key ]; then
  if [ "$sandbox" = yes ]; then
    : >secrets/magnetis_api_key
  else
    ask "Key of the Magnetis API (empty: the sandbox)" >secrets/magnetis_api_key
  fi
fi
# Secret of the caller keys: keep a copy outside this machine (docs/privacy.md#caller-keys).
[ -e secrets/magnetis_privacy_key ] || printf '1:%s\n' "$(openssl rand -base64 32)" >secrets/magnetis_privacy_key
# empty: no alerts
[ -e secrets/magnetis_alert_webhook_url ] || : >secrets/magnetis_alert_webhook_url
[ -e secrets/redis_password ] || openssl rand -hex 24 >secrets/redis_password
# empty: the code server executes the runs
[ -e secrets/magnetis_celery_broker_url ] || : >secrets/magnetis_celery_broker_url
if [ "$celery" = yes ] && [ ! -s secrets/magnetis_celery_broker_url ]; then
  echo "redis://:$(cat secrets/redis_password)@redis:6379/0" >secrets/magnetis_celery_broker_url
fi
user_list ui_users admin "may launch and change, port 3000"
user_list ui_viewers viewer "read-only, port 3001"
chmod 644 secrets/*
[ -e .env ] || cp .env.example .env
# Facts about secrets for services that do not have them. `up` restarts services after a change.
database=sandbox
[ ! -s secrets/magnetis_api_key ] || database=magnetis
stack_variable STACK_DATABASE "$database"
stack_variable CELERY_ADDRESS "$(sed 's|//[^@]*@|//|' secrets/magnetis_celery_broker_url)"
if grep -qE '^[[:space:]]*MAGNETIS_(API_KEY|PRIVACY_KEY|DATABASE_URL|DATABASE_PASSWORD|ALERT_WEBHOOK_URL|CELERY_BROKER_URL)=.' .env; then
  echo "Remove MAGNETIS_API_KEY, MAGNETIS_PRIVACY_KEY, MAGNETIS_DATABASE_…, MAGNETIS_ALERT_WEBHOOK_URL and" \
    "MAGNETIS_CELERY_BROKER_URL from .env, because \`docker inspect\` shows its content." \
    "Put the keys into secrets/magnetis_api_key and secrets/magnetis_privacy_key." >&2
  exit 1
fi
echo "secrets/ is complete."
