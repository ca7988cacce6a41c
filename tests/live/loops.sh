#!/bin/sh
# loops.sh EMULATOR_BINARY - the event-loop examples (BUILD/poll, epoll, libuv, libevent) and hiredis on our tokens
# (BUILD/hiredis_token, hiredis_async) live on tokens of 2 seconds: through renewals to their end, and until Ctrl+C in
# the middle. BUILD/psa_key signs in with a key that it has put into a slot; BUILD/threads, pipeline, transaction, cacheaside
# and pubsub print what they should; BUILD/consumer does jobs that come before and after renewals. Prints TAP lines; exit
# status 0 when all are ok. EXAMPLES_DIR: where they are, if not in BUILD.
set -u
[ $# -eq 1 ] || { echo "usage: loops.sh EMULATOR_BINARY" >&2; exit 2; }
emulator=$1
build=${EXAMPLES_DIR:-${BUILD:-build}}
programs='poll epoll libuv libevent hiredis_token hiredis_async'
scratch=$(mktemp -d) || exit 2
pids=
finish() {
    kill -TERM $pids 2>/dev/null        # the emulator last: it tidies up
    wait
    rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM
count=0
failed=0

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

# within COMMAND...: until the command succeeds; fails after twenty seconds
within() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] || return 1
        sleep 0.02
    done
}

# start NAME PROGRAM SECONDS: in the background, without a terminal but with SIGINT, which a shell takes from it.
start() {
    "${PYTHON:-python3}" -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$build/$2" "$AZREDIS_ENDPOINT" "$3" >"$scratch/$1.out" 2>"$scratch/$1.err" &
    pids="$! $pids"
    echo $! >"$scratch/$1.pid"
}
# renewed NAME TIMES: hiredis tells of its first token, too
renewed() {
    case $1 in
    hiredis*) [ "$(grep -c 'signed in' "$scratch/$1.err")" -gt "$2" ] ;;
    *) [ "$(grep -c ConnectionReauthenticated "$scratch/$1.err")" -ge "$2" ] ;;
    esac
}
# The server names each connection by a number of its own.
one_connection() { [ "$(sed -n 's/^connection \([0-9]*\) signed in.*/\1/p' "$scratch/$1.err" | sort -u | wc -l)" = 1 ]; }
# refused NAME TEXT: exit status 1 and these words; a token would begin with eyJ.
refused() {
    wait "$(cat "$scratch/$1.pid")"
    [ $? = 1 ] && grep -q "$2" "$scratch/$1.err" && ! grep -q eyJ "$scratch/$1.err" "$scratch/$1.out" && return
    sed 's/^/# /' "$scratch/$1.out" "$scratch/$1.err"
    return 1
}
fault() { curl -sS --noproxy '*' --max-time 10 -X POST "$EMULATOR_ADMIN/fault?name=$1&count=1" >/dev/null; }
# ended NAME AT_LEAST: exit status 0, all answered, and so many of them; otherwise says what it printed.
ended() {
    wait "$(cat "$scratch/$1.pid")"
    status=$?
    answered=$(sed -n 's/^\([0-9]*\) answered, 0 failed$/\1/p' "$scratch/$1.out")
    [ $status = 0 ] && [ "${answered:-0}" -ge "$2" ] && return
    sed 's/^/# /' "$scratch/$1.out" "$scratch/$1.err"
    echo "# exit status $status"
    return 1
}

"$emulator" --port 0 --token-ttl 2 --quiet --env-file "$scratch/env" &
pids=$!
within test -s "$scratch/env" || { echo "Bail out! the emulator does not start"; exit 1; }
. "$scratch/env"
for p in $programs; do
    start "$p" "$p" 4
    start "$p-int" "$p" 60
done
# redis WORD...: the answer of the server, as JSON
redis() { curl -sS --noproxy '*' --max-time 10 -d "$(printf '"%s",' "$@" | sed 's/.*/[&]/; s/,]/]/')" "$EMULATOR_ADMIN/redis/command"; }
start consumer consumer work
redis RPUSH work 'early job' >"$scratch/pushed"
check "consumer: a job" within grep -qx 'done: early job' "$scratch/consumer.out"
for p in $programs; do
    check "$p: two renewals" within renewed "$p" 2
    check "$p: every command of 4 s answered" ended "$p" 20
    check "$p: a renewal before Ctrl+C" within renewed "$p-int" 1
    kill -INT "$(cat "$scratch/$p-int.pid")"
    check "$p: Ctrl+C in the middle, every command answered" ended "$p-int" 5
done
redis RPUSH work 'late job' 'last job' >"$scratch/pushed"
check "consumer: jobs after renewals" within grep -qx 'done: last job' "$scratch/consumer.out"
kill -INT "$(cat "$scratch/consumer.pid")"
check "consumer: Ctrl+C ends it" wait "$(cat "$scratch/consumer.pid")"
printf 'done: early job\ndone: late job\ndone: last job\nclosed\n' >"$scratch/jobs"
check "consumer: each job once, in order" cmp -s "$scratch/jobs" "$scratch/consumer.out"
check "consumer: no trouble, no job left" eval '[ ! -s "$scratch/consumer.err" ] && [ "$(redis EXISTS work work:doing)" = 0 ]'
check "hiredis_token: all on one connection" one_connection hiredis_token
check "hiredis_async: all on one connection" one_connection hiredis_async
fault auth-reject && start rejected hiredis_token 60
check "hiredis_token: AUTH refused" refused rejected '^AUTH: WRONGPASS'
AZURE_CLIENT_SECRET=wrong start secret hiredis_token 60
check "hiredis_token: wrong secret" refused secret '^no token: .*AADSTS7000215'
# psa_key NAME [KEY]: the slots are files of the directory
psa_key() {
    where=$(realpath "$build")/psa_key
    (cd "$scratch" && . ./env.certificate && shift && "$where" "$AZREDIS_ENDPOINT" "$EMULATOR_CERTIFICATE" "$@") >"$scratch/$1.out" 2>&1
}
check "psa_key: no key in the slot" eval '! psa_key empty && grep -q "was the key put into slot" "$scratch/empty.out"'
openssl rsa -in "$EMULATOR_CERTIFICATE" -traditional -outform DER -out "$scratch/key.der" 2>/dev/null
check "psa_key: put there, it signs" eval 'psa_key put key.der && grep -qx "$EMULATOR_OID_CERTIFICATE" "$scratch/put.out"'
check "psa_key: and is still there" eval 'psa_key again && grep -qx "$EMULATOR_OID_CERTIFICATE" "$scratch/again.out"'
# prints NAME WORDS...: the example ends with status 0 and prints the lines of standard input.
prints() {
    name=$1
    shift
    "$build/$name" "$@" >"$scratch/$name.out" 2>"$scratch/$name.err" && cat >"$scratch/$name.want" &&
        cmp -s "$scratch/$name.want" "$scratch/$name.out" && return
    sed 's/^/# /' "$scratch/$name.out" "$scratch/$name.err"
    return 1
}
publish() {
    curl -sS --noproxy '*' --max-time 10 -d "[\"PUBLISH\",\"news\",\"$1\"]" "$EMULATOR_ADMIN/redis/command" >"$scratch/received"
    grep -q 1 "$scratch/received"
}
printf '8 threads, 800 commands, 0 failed\n' >"$scratch/threads.text"
printf 'exec: 41\nsubmit: 1000 answered, 1041\n' >"$scratch/pipeline.text"
printf 'source: the record of 7\ncache: the record of 7\n' >"$scratch/cache.text"
printf 'source: the record of 7\nsource: the record of 7\n' >"$scratch/away.text"
check "threads: eight on one client" prints threads "$AZREDIS_ENDPOINT" <"$scratch/threads.text"
check "pipeline: exec and submit" prints pipeline "$AZREDIS_ENDPOINT" <"$scratch/pipeline.text"
count_left=2
for buyer in ann bob; do echo "$buyer has a seat, $((count_left -= 1)) left" >"$scratch/$buyer.text"; done
echo 'sold out' >"$scratch/cid.text"
for buyer in ann bob cid; do check "transaction: $buyer" prints transaction "$AZREDIS_ENDPOINT" $buyer <"$scratch/$buyer.text"; done
check "cacheaside: miss, then hit" prints cacheaside "$AZREDIS_ENDPOINT" 7 <"$scratch/cache.text"
check "cacheaside: the cache is away" prints cacheaside localhost:1 7 <"$scratch/away.text"
"$build/pubsub" "$AZREDIS_ENDPOINT" news 2 >"$scratch/pubsub.out" 2>"$scratch/pubsub.err" &
listener=$!
check "pubsub: a subscriber" within publish first
check "pubsub: two messages, then the end" eval 'publish second && wait $listener && [ "$(tr "\n" " " <"$scratch/pubsub.out")" = "first second " ]'
"$build/prometheus" "$AZREDIS_ENDPOINT" >"$scratch/prometheus.out" 2>&1 &
pids="$! $pids"
# scraped N: one look, kept for the parser of Prometheus' own client
scraped() {
    curl -sS --noproxy '*' --max-time 10 "$(cat "$scratch/prometheus.out")" >"$scratch/scrape$1" 2>/dev/null
}
check "prometheus: served" within scraped 1
check "prometheus: again" scraped 2
# Debian's package is for Debian's python.
/usr/bin/python3 - "$scratch/scrape1" "$scratch/scrape2" >"$scratch/parsed" 2>&1 <<'PY'
import sys
from prometheus_client.parser import text_string_to_metric_families as parse
first, second = ({f.name: f for f in parse(open(path).read())} for path in sys.argv[1:])
def value(families, name): return families[name].samples[0].value
for f in second.values():
    assert f.documentation and f.type in ("gauge", "counter", "histogram"), f
    if f.type != "histogram": assert len(f.samples) == 1 and f.samples[0].value >= 0, f
    if f.type == "counter": assert value(first, f.name) <= f.samples[0].value, f
assert value(second, "azredis_connected") == 1 and value(second, "azredis_connects") == 1
assert value(second, "azredis_commands_ok") == value(first, "azredis_commands_ok") + 1
assert 0 < value(second, "azredis_token_left_seconds") <= 2
for name, of in ("azredis_auth_seconds", ("connects", "reauths")), ("azredis_command_seconds", ("commands_ok", "commands_failed")):
    places = [(s.labels["le"], s.value) for s in second[name].samples if s.name.endswith("_bucket")]
    total, count = ([s.value for s in second[name].samples if s.name == name + end][0] for end in ("_sum", "_count"))
    assert [float(le) for le, _ in places] == sorted(float(le) for le, _ in places) and places[-1] == ("+Inf", count), places
    assert [n for _, n in places] == sorted(n for _, n in places) and len(places) == 13 and 0 <= total < 60, places
    assert count == sum(value(second, "azredis_" + w) for w in of), (name, count)
PY
check "prometheus: read back by the parser of its client" eval '[ ! -s "$scratch/parsed" ] || { sed "s/^/# /" "$scratch/parsed"; false; }'
"$emulator" --port 0 --gateway-cert wrong-host --quiet --env-file "$scratch/other" &
pids="$pids $!"
within test -s "$scratch/other"
. "$scratch/other"
start name hiredis_token 60
check "hiredis_token: a certificate for another name" refused name '^TLS with localhost: .*verify failed'
exit $failed
