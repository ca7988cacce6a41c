#!/bin/sh
# Runs a program against an emulator of its own, whose settings it finds in the environment.
# Usage: bench_threads.sh BUILD_DIR PROGRAM
set -u
[ $# -eq 2 ] || { sed -n '3s/^# //p' "$0"; exit 2; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/azredis-bench-XXXXXX") || exit 1
"$1/emulator" --port 0 --env-file "$dir/env" --quiet &
emulator=$!
trap 'kill "$emulator" 2>/dev/null; wait "$emulator" 2>/dev/null; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP
tries=0
until [ -s "$dir/env" ]; do
    tries=$((tries + 1))
    { [ $tries -lt 300 ] && kill -0 "$emulator" 2>/dev/null; } || { echo "the emulator did not start"; exit 1; }
    sleep 0.1
done
. "$dir/env"
"$2"
