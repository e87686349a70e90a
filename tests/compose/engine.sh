#!/usr/bin/env bash
# A Docker engine of our own for the tests of the compose stack, apart from any other on the machine:
#   tests/compose/engine.sh start      prints DOCKER_HOST
#   tests/compose/engine.sh stop       ends it and checks that it is gone; images and volumes stay under MAGNETIS_ENGINE_HOME
# As root, on Debian. Where it cannot start it says why and fails.
set -euo pipefail
home=${MAGNETIS_ENGINE_HOME:-/var/tmp/magnetis-engine}
socket="unix://$home/docker.sock"
pidfile="$home/docker.pid"

runs() { [ -s "$pidfile" ] && kill -0 "$(cat "$pidfile")" 2>/dev/null; }

start() {
  [ "$(id -u)" = 0 ] || { echo "engine.sh: root is needed to start an engine." >&2; exit 1; }
  if ! command -v dockerd >/dev/null || ! command -v docker-compose >/dev/null || ! command -v debootstrap >/dev/null; then
    echo "- apt-get install docker.io docker-compose debootstrap" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends docker.io docker-compose debootstrap iptables >/dev/null
  fi
  if ! runs; then
    mkdir -p "$home"
    rm -f "$pidfile"
    nohup dockerd --data-root "$home/data" --exec-root "$home/exec" --pidfile "$pidfile" --host "$socket" \
      >"$home/log" 2>&1 </dev/null &
  fi
  for _ in $(seq 120); do
    if /usr/bin/docker --host "$socket" version >/dev/null 2>&1; then echo "$socket"; return; fi
    sleep 0.5
  done
  echo "engine.sh: no engine after 60 s. The end of $home/log:" >&2
  tail -n 5 "$home/log" >&2
  exit 1
}

stop() {
  runs || return 0
  pid=$(cat "$pidfile")
  kill "$pid"
  for _ in $(seq 120); do
    kill -0 "$pid" 2>/dev/null || { echo "stopped"; return; }
    sleep 0.5
  done
  echo "engine.sh: process $pid still runs after 60 s." >&2
  exit 1
}

case "${1:-}" in
  start | stop) "$1" ;;
  *) echo "usage: tests/compose/engine.sh start|stop" >&2; exit 2 ;;
esac
