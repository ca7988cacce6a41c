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
cp "$here/peers.mjs" "$here/identity.mjs" "$build/"

# The SDK takes Azure Arc's challenges from the real agent's directory only. Where we may, we make it, as
# much of it as there is not, and remove that again; a real agent is not disturbed by one more file.
arc=/var/opt/azcmagent/tokens
made=''
arc_flags=''
[ -d /var/opt/azcmagent ] || made=/var/opt/azcmagent
[ -d $arc ] || made="$arc $made"
if mkdir -p $arc 2>/dev/null && [ -w $arc ]; then
    arc_flags="--arc-dir $arc"
    export PEERS_ARC=1
else
    made=''
fi

env_file=$build/emulator.$$.env
export EMULATOR_ENV_FILE="$env_file"
export PEERS_STRANGER="$build/stranger.$$.jwt"
# shellcheck disable=SC2086
"$emulator" --port 0 --token-ttl 12 --set device-interval=1 --set device-short=1 \
    --quiet --env-file "$env_file" $arc_flags &
pid=$!
finish() {
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    rm -f "$PEERS_STRANGER"
    # shellcheck disable=SC2086
    [ -z "$made" ] || rmdir $made || true
}
trap finish EXIT
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
printf '{"claims":{"sub":"system:serviceaccount:default:other"}}' |
    node -e 'fetch(process.env.EMULATOR_ADMIN + "/assertion", { method: "POST", body: require("fs").readFileSync(0) })
        .then((r) => r.json()).then((r) => require("fs").writeFileSync(process.env.PEERS_STRANGER, r.assertion))'
node peers.mjs
