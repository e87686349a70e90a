#!/usr/bin/env bash
# Run a silent command, and print a line before it and every four seconds:
#   tools/patiently.sh "packages of run.lock" uv pip sync ...
set -u
echo "- $1"
shift
"$@" &
command=$!
# Background commands of bash ignore Ctrl-C.
trap 'kill -TERM "$command" 2>/dev/null; wait "$command"; exit 130' INT TERM
fifths=0
while kill -0 "$command" 2>/dev/null; do
  sleep 0.2
  fifths=$((fifths + 1))
  [ $((fifths % 20)) -ne 0 ] || echo "  ... $((fifths / 5)) s"
done
wait "$command"
