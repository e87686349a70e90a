#!/usr/bin/env bash
# Makes the files of secrets/ that docker-compose.yml mounts; what is there stays. Run it in the project's folder:
#   deploy/secrets.sh             asks for the key of the API (empty: the sandbox) and for the passwords of the UI
#   deploy/secrets.sh --sandbox   no key, and passwords made up and printed
#   deploy/secrets.sh --celery    the same as without, and runs go to the Celery workers of the profile `celery` (docs/scaling.md)
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

stack_variable() { # name, value: the last line of .env, which keeps its owner and mode
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
  if [ "$sandbox" = yes ]; then : >secrets/magnetis_api_key; else ask "Key of the Magnetis API (empty: the sandbox)" >secrets/magnetis_api_key; fi
fi
[ -e secrets/magnetis_alert_webhook_url ] || : >secrets/magnetis_alert_webhook_url # empty: nobody is told
[ -e secrets/redis_password ] || openssl rand -hex 24 >secrets/redis_password
[ -e secrets/magnetis_celery_broker_url ] || : >secrets/magnetis_celery_broker_url # empty: the code server runs what is launched
if [ "$celery" = yes ] && [ ! -s secrets/magnetis_celery_broker_url ]; then
  echo "redis://:$(cat secrets/redis_password)@redis:6379/0" >secrets/magnetis_celery_broker_url
fi
user_list ui_users admin "those who may launch and change, port 3000"
user_list ui_viewers viewer "those who look, port 3001"
chmod 644 secrets/*
[ -e .env ] || cp .env.example .env
# What a service must know of a secret that it does not have. `up` restarts services after a change
database=sandbox
[ ! -s secrets/magnetis_api_key ] || database=magnetis
stack_variable STACK_DATABASE "$database"
stack_variable CELERY_ADDRESS "$(sed 's|//[^@]*@|//|' secrets/magnetis_celery_broker_url)"
if grep -qE '^[[:space:]]*MAGNETIS_(API_KEY|DATABASE_URL|DATABASE_PASSWORD|ALERT_WEBHOOK_URL|CELERY_BROKER_URL)=.' .env; then
  echo "Take MAGNETIS_API_KEY, MAGNETIS_DATABASE_…, MAGNETIS_ALERT_WEBHOOK_URL and MAGNETIS_CELERY_BROKER_URL out of .env:" \
    "\`docker inspect\` shows what stands there. The key belongs into secrets/magnetis_api_key." >&2
  exit 1
fi
echo "secrets/ is complete."
