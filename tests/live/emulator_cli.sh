#!/bin/sh
# emulator_cli.sh EMULATOR_BINARY - the emulator as a user meets it: redis-cli, a token, Ctrl+C.
# Prints "ok N - text" lines; exit status 0 when all are ok. Every wait is for a condition, with a
# deadline of ten seconds.
set -u
[ $# -eq 1 ] || { echo "usage: emulator_cli.sh EMULATOR_BINARY" >&2; exit 2; }
emulator=$1
for tool in redis-cli curl; do
    command -v $tool >/dev/null || { echo "$tool is not installed" >&2; exit 2; }
done

scratch=$(mktemp -d) || exit 2
pid=
count=0
failed=0
finish() {
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

# check TEXT COMMAND...: one line, by the status of the command
check() {
    text=$1
    shift
    count=$((count + 1))
    if "$@"; then
        echo "ok $count - $text"
    else
        echo "not ok $count - $text"
        failed=1
    fi
}

# within COMMAND...: until the command succeeds; fails after ten seconds
within() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 500 ] || return 1
        sleep 0.02
    done
}

equal() { [ "$1" = "$2" ] || { echo "# '$1' is not '$2'"; return 1; }; }
starts() { case $1 in "$2"*) ;; *) echo "# '$1' does not begin with '$2'"; return 1 ;; esac; }
gone() { [ ! -e "$1" ]; }
# A process that has ended but was not yet waited for by anyone counts as ended.
ended() {
    [ -d "/proc/$1" ] || return 0
    case $(cut -d ' ' -f 3 "/proc/$1/stat" 2>/dev/null) in Z | '') return 0 ;; *) return 1 ;; esac
}
expired() { curl -s "$EMULATOR_ADMIN/counters" | grep -q '"connections_expired":1'; }
ready() { [ -f "$scratch/env" ] || ended "$pid"; }

# start FLAGS...: starts the emulator and takes its settings
start() {
    "$emulator" --port 0 --env-file "$scratch/env" "$@" >"$scratch/log" 2>&1 &
    pid=$!
    within ready
    [ -f "$scratch/env" ] || return 1
    . "$scratch/env"
    port=${AZREDIS_ENDPOINT#*:}
    token=$(curl -s "$EMULATOR_ADMIN/token" | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
}

# as TOKEN ARGUMENTS...: redis-cli through the gateway
as() {
    key=$1
    shift
    REDISCLI_AUTH=$key redis-cli --tls --cacert "$SSL_CERT_FILE" --sni localhost -h localhost \
        -p "$port" --user "$EMULATOR_OID" --no-auth-warning "$@" 2>&1
}

# stop: Ctrl+C; the status of the emulator is left in $status
stop() {
    server=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null)
    directory=${SSL_CERT_FILE%/*}
    kill -INT "$pid"
    within ended "$pid"
    wait "$pid"
    status=$?
    pid=
}

check "it starts" start
check "the settings are private" equal "$(stat -c %a "$scratch/env")" 600
check "PING" equal "$(as "$token" PING)" PONG
check "SET" equal "$(as "$token" SET greeting 'hello there')" OK
check "GET" equal "$(as "$token" GET greeting)" 'hello there'
check "the server knows the user by the object id" equal "$(as "$token" ACL WHOAMI)" "$EMULATOR_OID"
check "a wrong token is refused by the real server" \
    starts "$(as "${token}x" PING)" "AUTH failed: WRONGPASS invalid username-password pair"
check "the real server counted the failure" \
    within sh -c 'curl -s "$EMULATOR_ADMIN/redis/info?section=commandstats" |
        grep -q "cmdstat_auth:.*failed_calls=1"'
check "the log has no token" sh -c '! grep -q eyJ "$1"' sh "$scratch/log"
stop
check "Ctrl+C: status 0" equal "$status" 0
check "Ctrl+C: no redis-server" within ended "${server:-none}"
check "Ctrl+C: no directory, socket or certificate" gone "$directory"
check "Ctrl+C: no settings" gone "$scratch/env"
check "Ctrl+C: nobody listens" sh -c '! curl -s "$EMULATOR_ADMIN/healthz"'

check "it starts again, tokens live two seconds" start --token-ttl 2
# The client holds its input open, so only the server can end it.
mkfifo "$scratch/input"
as "$token" <"$scratch/input" >"$scratch/answers" 2>&1 &
client=$!
exec 3>"$scratch/input"
echo PING >&3
check "PING before expiry" within grep -q PONG "$scratch/answers"
check "the connection is closed at expiry" within expired
check "the expired token is refused by the real server" \
    starts "$(as "$token" PING)" "AUTH failed: WRONGPASS"
exec 3>&-
wait "$client"
stop
check "status 0" equal "$status" 0
check "no settings are left" gone "$scratch/env"

echo "1..$count"
exit $failed
