#!/usr/bin/env bash
# A Docker engine of our own for the tests of the compose stack, apart from any other on the machine:
#   tests/compose/engine.sh start      prints DOCKER_HOST
#   tests/compose/engine.sh running    succeeds if it runs
#   tests/compose/engine.sh stop       ends it and checks that it is gone; images and volumes stay under MAGNETIS_ENGINE_HOME
# As root, on Debian. Where it cannot start it says why and fails.
set -euo pipefail
home=${MAGNETIS_ENGINE_HOME:-/var/tmp/magnetis-engine}
socket="unix://$home/docker.sock"
pidfile="$home/docker.pid"

fail() { echo "engine.sh: $1" >&2; exit 1; }

# A pid file outlives a killed engine: its number may be another program's by now, or a zombie's
is_dockerd() { grep -qs '^[0-9]* (dockerd) [^Z]' "/proc/$1/stat"; }

runs() { [ -s "$pidfile" ] && is_dockerd "$(cat "$pidfile")"; }

answers() { /usr/bin/docker --host "$socket" version >/dev/null 2>&1; }

# containerd and its shims: they name the engine's folder in their command lines
children() {
  local folder
  for folder in /proc/[0-9]*; do
    case "$(tr '\0' ' ' 2>/dev/null <"$folder/cmdline")" in
      containerd\ *"$home/exec/containerd"* | */containerd-shim*"$home/exec/containerd"*) echo "${folder#/proc/}" ;;
    esac
  done
}

install_packages() {
  command -v dockerd >/dev/null && command -v docker-compose >/dev/null && command -v debootstrap >/dev/null \
    && command -v iptables >/dev/null && return
  command -v apt-get >/dev/null || fail "no dockerd here, and no apt-get to install it with."
  echo "- apt-get install docker.io docker-compose debootstrap iptables" >&2
  apt-get update -qq || fail "no package lists, so no engine can be installed."
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends docker.io docker-compose debootstrap iptables \
    >/dev/null || fail "the engine's packages cannot be installed."
}

# Debian 12 has docker-compose 1 only. Debian 13's package is version 2, one file that needs nothing but libc: taken from the
# same server as this machine's packages, beside the old one, for `docker compose`. Without it the tests still run.
install_plugin() {
  /usr/bin/docker compose version >/dev/null 2>&1 && return
  local folder sources=/etc/apt/sources.list.d/debian.sources name
  [ -e "$sources" ] || sources=/etc/apt/sources.list
  name=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  [ -n "$name" ] || return 0
  echo "- docker compose 2 from Debian 13" >&2
  folder=$(mktemp -d)
  mkdir -p "$folder/sources" "$folder/lists/partial" "$folder/cache/archives/partial"
  sed "s/\\b$name\\b/trixie/g" "$sources" >"$folder/sources/$(basename "$sources")"
  local options=(-qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$folder/sources"
    -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache" -o APT::Sandbox::User=root)
  if (cd "$folder" && apt-get "${options[@]}" update && apt-get "${options[@]}" download docker-compose/trixie \
    && dpkg-deb --extract docker-compose_*.deb files) >"$folder/log" 2>&1; then
    install -D --target-directory=/usr/local/lib/docker/cli-plugins "$folder/files/usr/libexec/docker/cli-plugins/docker-compose"
  else
    echo "engine.sh: no docker compose 2: $(tail -n 1 "$folder/log")" >&2
  fi
  rm -rf "$folder"
}

start() {
  [ "$(id -u)" = 0 ] || fail "root is needed to start an engine."
  mkdir -p "$home"
  exec 9>"$home/lock"
  flock --timeout 300 9 || fail "another start of it is under way since 5 minutes."
  install_packages
  install_plugin
  local started=
  for _ in $(seq 120); do
    if answers; then echo "$socket"; return; fi
    if ! runs && [ -z "$started" ]; then
      rm -f "$pidfile"
      # a session of its own: an interrupt at the keyboard is for the tests, which then take the stack down
      setsid nohup dockerd --data-root "$home/data" --exec-root "$home/exec" --pidfile "$pidfile" --host "$socket" \
        >"$home/log" 2>&1 </dev/null 9>&- &
      started=$!
    fi
    [ -z "$started" ] || kill -0 "$started" 2>/dev/null || break
    sleep 0.5
  done
  echo "engine.sh: no engine. The end of $home/log:" >&2
  tail -n 5 "$home/log" >&2
  exit 1
}

stop() {
  [ "$(id -u)" = 0 ] || fail "root is needed to stop an engine."
  local pid left containers
  if runs; then
    pid=$(cat "$pidfile")
    kill "$pid"
    for _ in $(seq 120); do
      is_dockerd "$pid" || break
      sleep 0.5
    done
    ! is_dockerd "$pid" || fail "process $pid still runs after 60 s."
  fi
  # what an engine that was killed has left: each shim's containers first, as nothing else would end them
  for pid in $(children); do
    containers=()
    read -ra containers <"/proc/$pid/task/$pid/children" || true
    kill -KILL "${containers[@]}" "$pid" 2>/dev/null || true
  done
  for _ in $(seq 20); do
    left=$(children)
    [ -n "$left" ] || { rm -f "$pidfile"; echo "stopped"; return; }
    sleep 0.5
  done
  fail "still running: ${left//$'\n'/ }"
}

case "${1:-}" in
  start | stop) "$1" ;;
  running) runs && answers ;;
  *) echo "usage: tests/compose/engine.sh start|running|stop" >&2; exit 2 ;;
esac
