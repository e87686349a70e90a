#!/bin/sh
# Starts nginx with new session cookies, so that a restart ends every session (nginx.conf).
# TRUSTED_PROXIES: addresses or networks, separated by blanks, of other proxies. nginx uses their
# X-Forwarded-For header.
set -eu
umask 077
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
ui=$(random)
{
  printf 'map $server_port $session { 8080 %s; 8443 %s; default %s; }\n' "$ui" "$ui" "$(random)"
  for proxy in ${TRUSTED_PROXIES:-}; do printf 'set_real_ip_from %s;\n' "$proxy"; done
  [ -z "${TRUSTED_PROXIES:-}" ] || printf 'real_ip_header X-Forwarded-For;\nreal_ip_recursive on;\n'
} >/tmp/session.conf
exec nginx -g 'daemon off;' "$@"
