#!/bin/sh
# run.sh EMULATOR_BINARY - real Azure SDK clients (Node.js) prove the emulator faithful.
# Packages go to $PEERS_BUILD (build/peers), versions and hashes as package-lock.json pins them.
# Prints "ok N - text" lines; exit status 0 when all are ok.
set -eu
[ $# -eq 1 ] || { echo "usage: run.sh EMULATOR_BINARY" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
emulator=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
build=${PEERS_BUILD:-$here/../../../build/peers}
command -v npm >/dev/null || { echo "npm is not installed" >&2; exit 2; }

mkdir -p "$build"
# Installed once; again only when the pinned versions change.
if ! cmp -s "$here/package-lock.json" "$build/installed-lock.json"; then
    cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$build/"
    (cd "$build" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error) >&2
    cp "$here/package-lock.json" "$build/installed-lock.json"
fi
cp "$here/peers.mjs" "$build/"

env_file=$build/emulator.$$.env
"$emulator" --port 0 --token-ttl 12 --quiet --env-file "$env_file" &
pid=$!
trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
tries=0
until [ -f "$env_file" ]; do
    kill -0 "$pid" 2>/dev/null || { echo "not ok - the emulator did not start"; exit 1; }
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { echo "not ok - the emulator is not ready"; exit 1; }
    sleep 0.1
done
# shellcheck disable=SC1090
. "$env_file"
cd "$build"
node peers.mjs
