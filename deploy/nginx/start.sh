#!/bin/sh
# Starts nginx with new values of the session cookies, so a restart ends every session (nginx.conf).
# TRUSTED_PROXIES: addresses or networks, separated by blanks, of proxies in front of this one, whose
# X-Forwarded-For is believed.
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
