#!/bin/sh
# The secret scan of test_secrets.c can fail: three builds that leak on purpose must be caught by it, and the
# header as it is must not.   secrets_leak.sh EMULATOR      prints TAP
# Environment: BUILD (build), CC (cc)
set -u
EMULATOR=$(realpath "$1") || exit 1
export EMULATOR
cd "$(dirname "$0")/../.." || exit 1
dir=${BUILD:-build}/leak
cc=${CC:-cc}
n=0
mkdir -p "$dir"
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

result() { # ok|not ok, name
    n=$((n + 1))
    echo "$1 $n - $2"
}

# build NAME SED: a copy of the header that is changed by SED, and the test with it
build() {
    mkdir -p "$dir/$1"
    sed "$2" azredis_entra.h >"$dir/$1/azredis_entra.h"
    if [ -n "$2" ] && cmp -s azredis_entra.h "$dir/$1/azredis_entra.h"; then
        echo "# the place to change has gone from azredis_entra.h: $2"
        return 1
    fi
    "$cc" -std=gnu11 -O1 -w -I"$dir/$1" -Itests/live tests/live/test_secrets.c tests/live/library.c -o "$dir/$1/test" -Wl,--as-needed \
        -lcmocka -ljansson -lssl -lcrypto -lmbedtls -lmbedx509 -lmbedcrypto -lpthread 2>&1 | sed 's/^/# /'
    [ -x "$dir/$1/test" ]
}

# caught NAME WHERE WHAT: the scan fails on this build, because of a find in WHERE
caught() {
    if [ ! -x "$dir/$1/test" ]; then
        result "not ok" "$3 (did not build)"
        return
    fi
    "$dir/$1/test" test_case50_renewals >"$dir/$1/log" 2>&1
    status=$?
    if [ $status -ne 0 ] && grep -Eq "characters of .* in .*$2" "$dir/$1/log"; then
        result ok "$3"
    else
        sed 's/^/# /' "$dir/$1/log"
        result "not ok" "$3 (status $status)"
    fi
}

# Two at a time: the machine has two cores.
build as-is "" &
build log 's/"token for %lld s; renewal in %lld s",/"token %.*s for %lld s; renewal in %lld s", (int)jwt.len, jwt.ptr,/'
wait
build blob '/^static void azri_blob_drop/,/^}/s/azri_wipe(b, size);//' &
build tx 's/azri_wipe(k->tx, [^;]*;//'
wait

if [ -x "$dir/as-is/test" ] && "$dir/as-is/test" test_case50_renewals >"$dir/as-is/log" 2>&1; then
    result ok "the header as it is leaks nothing"
else
    [ -f "$dir/as-is/log" ] && sed 's/^/# /' "$dir/as-is/log"
    result "not ok" "the header as it is leaks nothing"
fi
caught log "(stdout or stderr|an event or an error|the log file)" "a token in a log line is caught"
caught blob "memory" "a token's credentials that are not wiped are caught"
caught tx "memory" "an output buffer that is not wiped is caught"
echo "1..$n"
