#!/bin/sh
# How long "azredis token --auth default" looks for an identity where there is none, and what it sends where the first one
# has a token.   no_identity.sh EMULATOR      prints TAP
# Environment: BUILD (build). A network of its own needs root or user namespaces, and a tun device: without them that case
# is skipped.
set -u
emulator=$(realpath "$1") || exit 1
cd "$(dirname "$0")/../.." || exit 1
azredis=$(realpath "${BUILD:-build}/azredis") || exit 1
dir=$(mktemp -d) || exit 1
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid"; }; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
n=0

result() { # STATUS, NAME, FILE to show
    n=$((n + 1))
    if [ "$1" = 0 ]; then
        echo "ok $n - $2"
    else
        echo "not ok $n - $2"
        sed 's/^/# /' "$3"
    fi
}

# alone SECONDS NAME SETUP: azredis in a network of its own, which SETUP makes.
alone() {
    if ! unshare -rn sh -c "$3" >"$dir/out" 2>&1; then
        n=$((n + 1))
        echo "ok $n - $2 # SKIP $(head -n 1 "$dir/out")"
        return
    fi
    start=$(date +%s%N)
    timeout 60 unshare -rn sh -c "$3"' && exec env -i "$0" token --auth default' "$azredis" >"$dir/out" 2>&1
    status=$?
    ms=$((($(date +%s%N) - start) / 1000000))
    echo "exit status $status after $ms ms" >>"$dir/out"
    said=0
    for link in environment workload-identity managed-identity azure-cli azure-developer-cli azure-powershell; do
        grep -qE "^step  *$link: unavailable" "$dir/out" || said=1
    done
    [ $status = 3 ] && [ $said = 0 ] && [ $ms -le $(($1)) ]
    result $? "$2: all reasons within $1 ms" "$dir/out"
}
alone 1500 "metadata address unreachable" true
alone 2500 "metadata address black-holed" \
    'ip tuntap add hole mode tun && ip addr add 169.254.1.1/16 dev hole && ip link set hole up'

# With an application's variables nothing but its own token request leaves the process.
"$emulator" --port 0 --quiet --env-file "$dir/env" >"$dir/log" 2>&1 &
pid=$!
i=0
while [ ! -s "$dir/env" ] && [ $i -lt 300 ]; do
    sleep 0.1
    i=$((i + 1))
done
. "$dir/env"
strace -f -qq -e trace=connect -o "$dir/trace" "$azredis" token --auth default >"$dir/out" 2>&1
status=$?
port=${AZURE_AUTHORITY_HOST##*:}
grep -E 'sa_family=AF_INET' "$dir/trace" | grep -v "port=htons(${port%/})" >"$dir/elsewhere"
curl -s "$EMULATOR_ADMIN/counters?records=0" >"$dir/counters"
made=$(jq '[to_entries[] | select(.key | endswith("_connections")) | .value] | add' "$dir/counters")
[ $status = 0 ] && [ ! -s "$dir/elsewhere" ] && grep -q "htons(${port%/})" "$dir/trace" &&
    [ "$made $(jq .token_connections "$dir/counters") $(jq .token_requests "$dir/counters")" = "1 1 1" ]
result $? "an application's variables: one connection and one request" "$dir/trace"
echo "1..$n"
