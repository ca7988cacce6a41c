#!/bin/sh
# The sample with --pubsub on short-lived tokens, over RESP3 and, beside it, over RESP2; passes only if sample, gateway
# and real server tell the same story in both.
# Usage: demo.sh BUILD_DIR    AZREDIS_DEMO_TTL (20) and AZREDIS_DEMO_SECONDS (75) shorten it.
set -u
build=${1:-build}
ttl=${AZREDIS_DEMO_TTL:-20}
seconds=${AZREDIS_DEMO_SECONDS:-75}
# A token is renewed at 60 to 70 % of its life, so at least so many renewals fit; 2 s for start and end.
least_reauths=$(( (seconds - 2) * 10 / (ttl * 7) ))
[ "$least_reauths" -ge 1 ] || { echo "demo: FAIL $seconds s are too short for tokens of $ttl s"; exit 2; }

# story PROTOCOL: one sample and an emulator of its own, in a subshell. Shows the sample's output as it comes.
story() {
protocol=$1
dir=$(mktemp -d "${TMPDIR:-/tmp}/azredis-demo-XXXXXX") || exit 1
emulator='' sample='' tail=''
clean_up() {
    for p in $tail $sample $emulator; do kill "$p" 2>/dev/null; done
    for p in $sample $emulator; do wait "$p" 2>/dev/null; done
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() { echo "demo: FAIL RESP$protocol: $*"; exit 1; }

"$build/emulator" --token-ttl "$ttl" --port 0 --env-file "$dir/env" --quiet >"$dir/emulator.log" 2>&1 &
emulator=$!
tries=0
until [ -f "$dir/env" ]; do
    kill -0 "$emulator" 2>/dev/null || { cat "$dir/emulator.log"; fail "the emulator did not start"; }
    tries=$((tries + 1))
    [ "$tries" -le 100 ] || fail "the emulator was not ready within 20 s"
    sleep 0.2
done
. "$dir/env"

# admin PATH: asks the emulator. The proxy of the house has no business with the loopback.
admin() { curl -sS --noproxy '*' --max-time 10 "$EMULATOR_ADMIN/$1"; }
# calls COMMAND < commandstats: how often the real server ran it.
calls() { sed -n "s/^cmdstat_$1:calls=\([0-9]*\),.*/\1/p" | grep . || echo 0; }
# counter NAME: a number out of the counters.
counter() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$dir/counters"; }
# said NAME: a number out of the sample's summary line.
said() { sed -n "s/^summary .*\b$1=\(-\{0,1\}[0-9]*\).*/\1/p" "$dir/sample.log" | tail -n 1; }

admin 'redis/info?section=commandstats' >"$dir/before" || fail "the emulator's admin endpoint does not answer"
echo "demo: RESP$protocol, tokens live $ttl s, the sample runs $seconds s; + is a second without a failed command"
: >"$dir/sample.log"
"$build/sample" --endpoint "$AZREDIS_ENDPOINT" --auth default --seconds "$seconds" --protocol "$protocol" --pubsub \
    >"$dir/sample.log" 2>&1 &
sample=$!
# Everything from the first line on; ends when the sample does.
tail -n +1 -f --pid="$sample" "$dir/sample.log" &
tail=$!
wait "$sample"
status=$?
sample=''
wait "$tail" 2>/dev/null
tail=''
admin counters >"$dir/counters" || fail "the emulator's admin endpoint does not answer"
admin 'redis/info?section=commandstats' >"$dir/after" || fail "the emulator's admin endpoint does not answer"

[ "$status" = 0 ] || fail "the sample ended with status $status"
[ -n "$(said commands_ok)" ] || fail "the sample printed no summary"
tokens=$(said tokens) reauths=$(said reauths) first_id=$(said client_id_first) sets=$(said sets)

# same WHAT A B: A and B are numbers and equal.
same() { [ -n "$2" ] && [ "$2" = "$3" ] || fail "$1: '$2' is not '$3'"; }
same "failed commands" "$(said commands_failed)" 0
same "reconnects" "$(said reconnects)" 0
[ "${reauths:-0}" -ge "$least_reauths" ] || fail "$reauths re-authentications, at least $least_reauths were due"
late=0                                      # 1: a token that came at the very end has not been shown by all connections
[ "$protocol" = 2 ] && [ "$tokens" = $((reauths + 2)) ] && late=1
same "tokens against re-authentications + 1" "$tokens" $((reauths + 1 + late))
[ "${first_id:-0}" -gt 0 ] || fail "the sample did not learn its CLIENT ID"
same "CLIENT ID at the end against the first" "$(said client_id_last)" "$first_id"
[ "${sets:-0}" -gt 0 ] || fail "the sample set nothing"

same "tokens, authority against sample" "$(counter tokens_issued)" "$tokens"
same "messages that are missing" "$(said missing)" 0
same "messages that came twice" "$(said twice)" 0
same "messages that no subscription got, says PUBLISH" "$(said unheard)" 0
same "messages, received against published" "$(said received)" "$(said published)"
[ "$(said published)" -gt 0 ] || fail "the sample published nothing"
connects=$(said connects) handovers=$(said handovers)
if [ "$protocol" = 3 ]; then                # all on one connection
    same "connections" "$connects" 1
else                                        # that of the subscription is replaced with each token
    [ "${handovers:-0}" -ge "$least_reauths" ] || fail "$handovers handovers, at least $least_reauths were due"
    [ "$connects" = $((handovers + 3)) ] || same "connections against handovers + 2" "$connects" $((handovers + 2))
fi
same "AUTHs, gateway against sample" "$(counter auths_total)" $((reauths + connects))
same "accepted AUTHs, gateway against sample" "$(counter auths_accepted)" $((reauths + connects))
same "re-authentications, gateway against sample" "$(counter reauths_accepted)" "$reauths"
same "connections at the gateway" "$(counter connections_opened)" "$connects"
same "connections cut by expiry" "$(counter connections_expired)" 0

# Every AUTH but the first: seconds left on the old token, by the gateway's clock.
left=$(sed 's/.*"auths":\[//; s/\].*//; s/},{/}\n{/g' "$dir/counters" |
       sed -n 's/.*"accepted":true.*"seconds_left":\(-\{0,1\}[0-9][0-9.e-]*\).*/\1/p' | sort -g)
same "re-authentications with a known rest of life" "$(echo "$left" | grep -c '[0-9]')" "$reauths"
least_left=$(echo "$left" | head -n 1)
awk "BEGIN { exit !($least_left >= $ttl / 4) }" ||
    fail "a re-authentication came $(awk "BEGIN { printf \"%.2f\", $least_left }") s before expiry, a quarter of $ttl s was asked"

# Reading the statistics costs an AUTH itself; the first reading has counted its own already.
auths=$(( $(calls auth <"$dir/after") - $(calls auth <"$dir/before") - 1 ))
same "AUTHs, real server against gateway" "$auths" $((reauths + connects))
same "PUBLISHs, real server against sample" $(( $(calls publish <"$dir/after") - $(calls publish <"$dir/before") )) "$(said published)"
same "SETs, real server against sample" $(( $(calls set <"$dir/after") - $(calls set <"$dir/before") )) "$sets"
same "GETs, real server against sample" $(( $(calls get <"$dir/after") - $(calls get <"$dir/before") )) "$(said gets)"

awk "BEGIN { printf \"demo: longest command within 100 ms of a re-authentication %.2f ms, median of the others %.2f ms\n\", \
    $(said latency_near_reauth_max_us) / 1000, $(said latency_median_us) / 1000 }"
echo "demo: PASS RESP$protocol: $(said commands_ok) commands, 0 failed; $reauths re-authentications in place, the latest" \
     "$(awk "BEGIN { printf \"%.1f\", $least_left }") s before expiry; $tokens tokens; 0 reconnects; CLIENT ID $first_id throughout;" \
     "$(said published) messages, 0 missing, 0 twice, $handovers handovers; sample, gateway and real server agree"
}

beside=$(mktemp "${TMPDIR:-/tmp}/azredis-demo-XXXXXX") || exit 1
(story 2) >"$beside" 2>&1 &
resp2=$!
trap 'kill "$resp2" 2>/dev/null; wait "$resp2"; rm -f "$beside"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
(story 3)
status=$?
wait "$resp2" || status=1
cat "$beside"
exit "$status"
