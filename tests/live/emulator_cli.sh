#!/bin/sh
# emulator_cli.sh EMULATOR_BINARY - the emulator as a user meets it: redis-cli, a token, Ctrl+C; then
# each place a program can run in, asked by curl as the documentation of that place says.
# Prints "ok N - text" lines; exit status 0 when all are ok. Every wait is for a condition, with a
# deadline of ten seconds.
set -u
[ $# -eq 1 ] || { echo "usage: emulator_cli.sh EMULATOR_BINARY" >&2; exit 2; }
emulator=$1
for tool in redis-cli curl jq openssl; do
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

# ---- what the cache behind the gateway is like ----

cache() { curl -s -X POST "$EMULATOR_ADMIN/cache?$1"; }
renew() { token=$(curl -s "$EMULATOR_ADMIN/token" | jq -r .access_token); }
refuses() { "$emulator" "$@" >"$scratch/log" 2>&1; equal $? 2; }

check "it starts for Data Readers" start --policy reader --plain
check "reader: GET" equal "$(as "$token" GET x)" ''
check "reader: no SET" starts "$(as "$token" SET x 1)" NOPERM
check "the port without TLS" starts "$(redis-cli -p "$EMULATOR_PLAIN_PORT" PING 2>&1)" NOAUTH
check "contributor" starts "$(cache policy=contributor)" '{'
renew
check "contributor: SET" equal "$(as "$token" SET x 1)" OK
check "contributor: no INFO" starts "$(as "$token" INFO server)" NOPERM
check "own keys" starts "$(cache policy=keys)" '{'
renew
check "own keys: SET" equal "$(as "$token" SET app:x 1)" OK
check "own keys: no other" starts "$(as "$token" SET x 1)" NOPERM
check "Entra off" starts "$(cache 'policy=owner&entra=off')" '{'
renew
check "Entra off: AUTH" starts "$(as "$token" PING)" "AUTH failed: WRONGPASS"
check "Entra on" starts "$(cache entra=on)" '{'
renew
check "owner: INFO" starts "$(as "$token" INFO server)" "# Server"
check "a policy that there is not" starts "$(cache policy=king)" '{"error'
check "an expired certificate" starts "$(cache certificate=expired)" '{'
check "redis-cli refuses it" starts "$(as "$token" PING)" "Could not"
stop
check "it starts as an OSS cluster" start --cluster 8501
check "cluster: it serves" equal "$(as "$token" SET x 1)" OK
check "cluster: its node" equal "$(as "$token" CLUSTER SLOTS | sed -n 4p)" 8501
stop
check "no such policy: status 2" refuses --policy king
check "no such port: status 2" refuses --cluster x
check "neither on nor off: status 2" refuses --entra maybe

# ---- identities: every answer is asked for by curl, taken apart by jq, checked against openssl ----

redis=https%3A%2F%2Fredis.azure.com
identity=/metadata/identity/oauth2/token

# ask CURL_ARGUMENTS...: the answer to $scratch/answer, its head to $scratch/head; prints the status
ask() { curl -s --noproxy '*' -o "$scratch/answer" -D "$scratch/head" -w '%{http_code}' "$@"; }
answer() { jq -r "$1" "$scratch/answer"; }
claim() { answer .access_token | cut -d . -f 2 | tr -- '-_' '+/' | jq -Rr "@base64d | fromjson | .$1"; }
admin() { curl -s --noproxy '*' "$@"; }
fault() { admin -X POST "$EMULATOR_ADMIN/fault?name=$1" >"$scratch/armed"; }
number() { admin "$EMULATOR_ADMIN/counters?records=0" | jq ".$1"; }

# in_place NAME: the settings of a program that runs there
# shellcheck disable=SC1090
in_place() { . "$scratch/env.$1"; }

# is_let_in OID: the token of the answer has this oid, and the real server knows its user by it
is_let_in() {
    equal "$(claim oid)" "$1" &&
        equal "$(EMULATOR_OID=$1 && as "$(answer .access_token)" ACL WHOAMI)" "$1"
}
# is_error STATUS_SEEN STATUS JQ_EXPRESSION TEXT: a refusal and what it has to say
is_error() { equal "$1" "$2" && starts "$(answer "$3")" "$4"; }

# assert_app CLIENT ASSERTION [CURL_ARGUMENTS...]: a token for an assertion; prints the status
assert_app() {
    app=$1
    assertion=$2
    shift 2
    ask "${authority:-$AZURE_AUTHORITY_HOST}$AZURE_TENANT_ID/oauth2/v2.0/token" --cacert "${trust:-$SSL_CERT_FILE}" \
        -d grant_type=client_credentials -d "client_id=$app" -d "scope=$redis%2F.default" \
        -d client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer \
        -d "client_assertion=$assertion" "$@"
}
# mint JSON: a federated token as the test wants it
mint() { admin -d "$1" "$EMULATOR_ADMIN/assertion" | jq -r .assertion; }
refuses() { is_error "$(assert_app "$AZURE_CLIENT_ID" "$(mint "$1")")" "$2" .error_description "AADSTS$3:"; }
# signed_by_the_cluster TOKEN: openssl finds the signature good
signed_by_the_cluster() {
    printf %s "${1%.*}" >"$scratch/signed"
    printf '%s==' "${1##*.}" | tr -- '-_' '+/' | openssl base64 -d -A >"$scratch/signature"
    openssl x509 -in "$SSL_CERT_FILE" -noout -pubkey >"$scratch/public" &&
        openssl dgst -sha256 -verify "$scratch/public" -signature "$scratch/signature" "$scratch/signed" >/dev/null
}

# self_signed NAME FILE [ARGUMENTS...]: a certificate of the key in rsa.pem
self_signed() {
    name=$1
    file=$2
    shift 2
    openssl req -x509 -key "$scratch/rsa.pem" -subj "/CN=$name" -out "$scratch/$file" "$@"
}
openssl genrsa -out "$scratch/rsa.pem" 2048 2>/dev/null
self_signed other rsa-cert.pem -days 9
self_signed client same-name.pem -days 9
openssl req -new -key "$scratch/rsa.pem" -subj /CN=expired -out "$scratch/request.pem"
openssl x509 -req -in "$scratch/request.pem" -signkey "$scratch/rsa.pem" -days 0 -out "$scratch/expired.pem" 2>/dev/null
cat "$scratch/rsa-cert.pem" "$scratch/expired.pem" >"$scratch/both.pem"

check "it starts a third time" start --proxy-login user:pass --assertion-ttl 900 --client-cert "$scratch/both.pem" \
    --set device-expires=901
check "every place has private settings" \
    equal "$(stat -c %a "$scratch"/env.* | sort | uniq -c | tr -s ' ')" " 17 600"

in_place imds
imds="$AZURE_POD_IDENTITY_AUTHORITY_HOST$identity?api-version=2018-02-01"
check "imds: a token" equal "$(ask -H Metadata:true "$imds&resource=$redis")" 200
check "imds: its identity is let in" is_let_in "$EMULATOR_OID"
check "imds: numbers are text, as Azure's" equal \
    "$(answer '[.expires_in, .expires_on, .ext_expires_in, .not_before] | map(type) | unique | join(" ")')" string
check "imds: without Metadata" \
    is_error "$(ask "$imds&resource=$redis")" 400 .error bad_request_102
check "imds: without api-version" \
    is_error "$(ask -H Metadata:true "${imds%\?*}?resource=$redis")" 400 .error_description api-version
check "imds: through a proxy" \
    is_error "$(ask -H Metadata:true -H X-Forwarded-For:1.2.3.4 "$imds&resource=$redis")" 400 .error invalid_request
check "imds: an unknown identity" is_error "$(ask -H Metadata:true "$imds&resource=$redis&client_id=${EMULATOR_OID}")" \
    400 .error_description "Identity not found"
check "imds: a scope is no resource" \
    is_error "$(ask -H Metadata:true "$imds&resource=$redis%2F.default")" 400 .error invalid_resource
check "imds: by client id" \
    equal "$(ask -H Metadata:true "$imds&resource=$redis&client_id=$EMULATOR_USER_CLIENT_ID")" 200
check "imds: ... another object id" is_let_in "$EMULATOR_OID_USER"
check "imds: by object id" equal "$(ask -H Metadata:true "$imds&resource=$redis&object_id=$EMULATOR_OID_USER2")" 200
check "imds: ... that object id" is_let_in "$EMULATOR_OID_USER2"
check "imds: by a resource id with a blank" equal "$(ask -G -H Metadata:true "$imds&resource=$redis" \
    --data-urlencode "msi_res_id=$EMULATOR_USER2_RESOURCE_ID")" 200
check "imds: ... is the same identity" is_let_in "$EMULATOR_OID_USER2"
check "imds: the last request can be looked at, as it came" starts \
    "$(admin "$EMULATOR_ADMIN/request?endpoint=imds" | jq -r .target)" \
    "$identity?api-version=2018-02-01&resource=$redis&msi_res_id=%2"
fault "imds-410&count=2"
check "imds: a fault by name" equal "$(ask -H Metadata:true "$imds&resource=$redis")" 410
check "imds: ... twice" equal "$(ask -H Metadata:true "$imds&resource=$redis")" 410
check "imds: ... not a third time" equal "$(ask -H Metadata:true "$imds&resource=$redis")" 200
fault "imds-429&value=7"
check "imds: 429" equal "$(ask -H Metadata:true "$imds&resource=$redis")" 429
check "imds: ... with Retry-After" grep -qi '^Retry-After: 7' "$scratch/head"
fault imds-refuse
check "imds: closed without a word" equal "$(ask -H Metadata:true "$imds&resource=$redis")" 000
fault imds-truncated
check "imds: half a body" \
    equal "$(ask -H Metadata:true "$imds&resource=$redis") $(jq . "$scratch/answer" >/dev/null 2>&1 || echo half)" \
    "200 half"
fault imds-ec2
check "imds: Amazon's" equal "$(ask -H Metadata:true "$imds&resource=$redis") $(grep -ci EC2ws "$scratch/head")" "401 1"
fault imds-expired
check "imds: an expired token" equal "$(ask -H Metadata:true "$imds&resource=$redis") $(answer .expires_in)" "200 0"
check "imds: ... is not let in" starts "$(as "$(answer .access_token)" PING)" "AUTH failed"

# fires KIND STATUS WORDS: the fault's status, and something of its body or head; once only
fires() {
    fault "imds-$1"
    status=$(ask -m 10 -H Metadata:true "$imds&resource=$redis")
    cat "$scratch/head" "$scratch/answer" >"$scratch/all"
    equal "$status" "$2" && grep -q "$3" "$scratch/all" &&
        equal "$(number "faults[\"imds-${1%%&*}\"].left")" 0
}
fired() { [ "$(number "faults[\"imds-$1\"].fired")" = 1 ]; }
while read -r kind code words; do
    check "imds: fault $kind" fires "$kind" "$code" "$words"
done <<'EOF'
400 400 Identity not found
401 401 unauthorized
403 403 forbidden
unreachable 403 unreachable network
404 404 not_found
500&value=3 500 Retry-After: 3
502 502 <html>
503 503 service_unavailable
html 200 sign in
empty 200 Content-Length: 0
no-token 200 {}
headers 200 X-Field-299
redirect 302 /trap
gce 403 Metadata-Flavor: Google
gce&value=404 404 Metadata-Flavor: Google
types 200 "access_token":5,
types&value=1 200 "expires_in":\[\]
types&value=2 200 ^\[{
types&value=3 200 "access_token":"",
date 200 "expires_on":"20..-..-..T
date&value=5 200 "expires_on":"tomorrow"
refresh-in&value=9 200 "refresh_in":"9"
same 200 "access_token":"eyJ
size&value=2000 200 "access_token":"[^"]\{2000\}"
EOF
for kind in hang slow; do
    fault imds-$kind
    ask -H Metadata:true "$imds&resource=$redis" >"$scratch/status" &
    client=$!
    check "imds: fault $kind" within fired $kind
    check "imds: ... and no answer" kill $client
    wait $client 2>/dev/null
done
for kind in huge endless; do
    fault imds-$kind
    curl -s --noproxy '*' -m 5 -H Metadata:true "$imds&resource=$redis" | head -c 2000000 >"$scratch/many"
    check "imds: fault $kind" equal "$(wc -c <"$scratch/many")" 2000000
done
fault imds-down
ask -H Metadata:true "$imds&resource=$redis" >"$scratch/status"
check "imds: nobody listens" equal "$?" 7
admin -X DELETE "$EMULATOR_ADMIN/fault?name=imds-down" >"$scratch/armed"
check "imds: someone listens again" equal "$(ask -H Metadata:true "$imds&resource=$redis")" 200
fault imds-no-oid
check "imds: a token without oid" equal "$(ask -H Metadata:true "$imds&resource=$redis") $(claim oid)" "200 null"
fault imds-wrong-oid
check "imds: a token of a stranger" equal "$(ask -H Metadata:true "$imds&resource=$redis")" 200
check "imds: ... is not let in" starts "$(EMULATOR_OID=$(claim oid) && as "$(answer .access_token)" PING)" "AUTH failed"

in_place appservice
app="$IDENTITY_ENDPOINT?api-version=2019-08-01&resource=$redis"
check "appservice: a token" equal "$(ask -H "X-IDENTITY-HEADER: $IDENTITY_HEADER" "$app")" 200
check "appservice: its identity is let in" is_let_in "$EMULATOR_OID"
check "appservice: expires_on is text, the client id in capitals" equal \
    "$(answer '(.expires_on | type) + " " + (.client_id == (.client_id | ascii_upcase) | tostring)')" "string true"
check "appservice: without the header" is_error "$(ask "$app")" 400 .statusCode 400
check "appservice: a wrong header" is_error "$(ask -H X-IDENTITY-HEADER:x "$app")" 401 .statusCode 401
check "appservice: an unknown identity" is_error \
    "$(ask -H "X-IDENTITY-HEADER: $IDENTITY_HEADER" "$app&client_id=x")" 400 .message "No User Assigned"
for parameter in "client_id=$EMULATOR_USER_CLIENT_ID" "principal_id=$EMULATOR_OID_USER" \
    "mi_res_id=$EMULATOR_USER_RESOURCE_ID"; do
    ask -H "X-IDENTITY-HEADER: $IDENTITY_HEADER" "$app&$parameter" >"$scratch/status"
    check "appservice: by ${parameter%%=*}" is_let_in "$EMULATOR_OID_USER"
done
new=$(admin -X POST "$EMULATOR_ADMIN/rotate?endpoint=appservice" | jq -r .header)
check "appservice: the header can change" equal \
    "$(ask -H "X-IDENTITY-HEADER: $IDENTITY_HEADER" "$app") $(ask -H "X-IDENTITY-HEADER: $new" "$app")" "401 200"

in_place msi
old="$MSI_ENDPOINT?api-version=2017-09-01&resource=$redis"
check "msi: a token" equal "$(ask -H "secret: $MSI_SECRET" "$old")" 200
check "msi: its identity is let in" is_let_in "$EMULATOR_OID"
check "msi: expires_on is a date" \
    equal "$(answer .expires_on | grep -cE '^[0-9]{2}/[0-9]{2}/[0-9]{4} [0-9:]{8} \+00:00$')" 1
check "msi: a wrong secret" is_error "$(ask -H secret:x "$old")" 401 .statusCode 401
check "msi: by clientid" \
    equal "$(ask -H "secret: $MSI_SECRET" "$old&clientid=$EMULATOR_USER_CLIENT_ID") $(claim oid)" \
    "200 $EMULATOR_OID_USER"

in_place ml
learn="$MSI_ENDPOINT?api-version=2017-09-01&resource=$redis"
check "ml: a token" equal "$(ask -H "secret: $MSI_SECRET" "$learn&clientid=$DEFAULT_IDENTITY_CLIENT_ID")" 200
check "ml: its default identity is let in" is_let_in "$EMULATOR_OID"
check "ml: without clientid it is another" \
    equal "$(ask -H "secret: $MSI_SECRET" "$learn") $(claim oid)" "200 $EMULATOR_OID_ML_SYSTEM"
check "ml: without the secret" is_error "$(ask "$learn")" 400 .statusCode 400

in_place cloudshell
check "cloudshell: a token" equal "$(ask -H Metadata:true -d "resource=$redis" "$MSI_ENDPOINT")" 200
check "cloudshell: the person is let in" is_let_in "$EMULATOR_OID"
check "cloudshell: it is no application's" equal "$(claim idtyp) $(claim scp)" "null user_impersonation"
check "cloudshell: without Metadata" \
    is_error "$(ask -d "resource=$redis" "$MSI_ENDPOINT")" 400 .error.code MissingMetadataHeader
check "cloudshell: GET" equal "$(ask -H Metadata:true "$MSI_ENDPOINT?resource=$redis")" 405

in_place fabric
fabric="$IDENTITY_ENDPOINT?api-version=2019-07-01-preview&resource=$redis"
check "fabric: the print is that of its certificate" \
    equal "$(openssl s_client -connect "${EMULATOR_FABRIC#https://}" </dev/null 2>/dev/null |
    openssl x509 -noout -fingerprint -sha1 | tr -d : | cut -d = -f 2)" "$IDENTITY_SERVER_THUMBPRINT"
check "fabric: nobody's trust" equal "$(ask --cacert "$SSL_CERT_FILE" -H "Secret: $IDENTITY_HEADER" "$fabric")" 000
check "fabric: no secret has come yet" equal "$(number fabric_secrets)" 0
check "fabric: a token" equal "$(ask -k -H "Secret: $IDENTITY_HEADER" "$fabric")" 200
check "fabric: its identity is let in" is_let_in "$EMULATOR_OID"
check "fabric: expires_on is a number" equal "$(answer '.expires_on | type')" number
check "fabric: now one has" equal "$(number fabric_secrets)" 1
check "fabric: without the secret" is_error "$(ask -k "$fabric")" 400 .error.code SecretHeaderNotFound
check "fabric: a wrong secret" is_error "$(ask -k -H Secret:x "$fabric")" 404 .error.code ManagedIdentityNotFound

in_place arc
arc="$IDENTITY_ENDPOINT?api-version=2020-06-01&resource=$redis"
challenge() {
    ask -H Metadata:true "$arc" >"$scratch/status"
    tr -d '\r' <"$scratch/head" | sed -n 's/^WWW-Authenticate: Basic realm=//p'
}
file=$(challenge)
check "arc: a challenge first" equal "$(cat "$scratch/status") ${file%/*}" "401 $EMULATOR_ARC_DIR"
check "arc: a guess" equal "$(ask -H Metadata:true -H "Authorization: Basic guess" "$arc")" 401
key=$(cat "$file")
check "arc: answered, a token" equal "$(ask -H Metadata:true -H "Authorization: Basic $key" "$arc")" 200
check "arc: its identity is let in" is_let_in "$EMULATOR_OID"
check "arc: the file is gone, and the answer good once" \
    equal "$(ls -A "$EMULATOR_ARC_DIR") $(ask -H Metadata:true -H "Authorization: Basic $key" "$arc")" " 401"
arc="$arc&object_id=$EMULATOR_OID_USER"
check "arc: a user-assigned identity is named in the answer" equal \
    "$(ask -H Metadata:true -H "Authorization: Basic $(cat "$(challenge)")" "$arc") $(answer .object_id) $(claim oid)" \
    "200 $EMULATOR_OID_USER $EMULATOR_OID_USER"
fault arc-old
check "arc: an old agent ignores who is asked for" equal \
    "$(ask -H Metadata:true -H "Authorization: Basic $(cat "$(challenge)")" "$arc") $(answer .object_id) $(claim oid)" \
    "200 null $EMULATOR_OID_ARC"
fault "arc-challenge&value=8"
check "arc: a link for a challenge" equal "$(readlink "$(challenge)")" /etc/passwd
check "arc: without Metadata" is_error "$(ask "$arc")" 400 .error bad_request_102

in_place workload
federated=$(cat "$AZURE_FEDERATED_TOKEN_FILE")
check "workload: openssl finds the federated token signed" signed_by_the_cluster "$federated"
check "workload: a token" equal "$(assert_app "$AZURE_CLIENT_ID" "$federated")" 200
check "workload: its identity is let in" is_let_in "$EMULATOR_OID"
check "workload: type and expires_in" equal "$(answer '.token_type + " " + (.expires_in | type)')" "Bearer number"
check "workload: another issuer" refuses '{"claims":{"iss":"https://other/"}}' 401 700211
check "workload: another audience" refuses '{"claims":{"aud":"api://other"}}' 401 700212
check "workload: another subject" refuses '{"claims":{"sub":"system:serviceaccount:default:other"}}' 401 700213
check "workload: the subject in capitals" \
    refuses '{"claims":{"sub":"SYSTEM:serviceaccount:default:redis-client"}}' 401 7002137
check "workload: another key" refuses '{"stranger":true}' 401 50013
check "workload: expired" refuses '{"life":-1}' 401 700024
check "workload: without exp" refuses '{"claims":{"exp":null}}' 400 50027
check "workload: no JWT" is_error "$(assert_app "$AZURE_CLIENT_ID" abc)" 400 .error_codes[0] 50027
check "workload: not the client with the secret" \
    is_error "$(assert_app "$(. "$scratch/env"; echo "$AZURE_CLIENT_ID")" "$federated")" 401 .error_codes[0] 700211
check "workload: a token of one's own into the file" equal \
    "$(mint '{"life":60,"write":true}')" "$(cat "$AZURE_FEDERATED_TOKEN_FILE")"

in_place exchange
imds="$AZURE_POD_IDENTITY_AUTHORITY_HOST$identity?api-version=2018-02-01&resource=api%3A%2F%2FAzureADTokenExchange"
ask -H Metadata:true "$imds&client_id=$EMULATOR_USER_CLIENT_ID" >"$scratch/status"
check "exchange: the managed identity's token" equal "$(claim iss) $(claim sub)" \
    "https://login.microsoftonline.com/$AZURE_TENANT_ID/v2.0 $EMULATOR_OID_USER"
check "exchange: ... is no password of Redis" \
    starts "$(EMULATOR_OID=$EMULATOR_OID_USER && as "$(answer .access_token)" PING)" "AUTH failed"
check "exchange: ... but stands for the application's secret" \
    equal "$(assert_app "$EMULATOR_EXCHANGE_CLIENT_ID" "$(answer .access_token)")" 200
check "exchange: the application is let in" is_let_in "$EMULATOR_OID"
ask -H Metadata:true "$imds" >"$scratch/status"
check "exchange: that of another identity is refused" is_error \
    "$(assert_app "$EMULATOR_EXCHANGE_CLIENT_ID" "$(answer .access_token)")" 401 .error_codes[0] 700213

in_place binding
federated=$(cat "$AZURE_FEDERATED_TOKEN_FILE")
check "binding: not at the authority" \
    is_error "$(assert_app "$AZURE_CLIENT_ID" "$federated")" 400 .error_codes[0] 700016
authority=https://$AZURE_KUBERNETES_SNI_NAME:${EMULATOR_AKS##*:}/binding/
trust=$AZURE_KUBERNETES_CA_FILE
check "binding: at its own endpoint, by its name" equal \
    "$(assert_app "$AZURE_CLIENT_ID" "$federated" --connect-to "::${EMULATOR_AKS#https://}")" 200
check "binding: its identity is let in" is_let_in "$EMULATOR_OID"
check "binding: the authority's CA does not vouch for it" equal \
    "$(trust=$SSL_CERT_FILE; assert_app "$AZURE_CLIENT_ID" "$federated" --connect-to "::${EMULATOR_AKS#https://}")" 000
check "binding: without its name" equal \
    "$(authority=$EMULATOR_AKS/binding/; assert_app "$AZURE_CLIENT_ID" "$federated" -k)" 421
unset authority trust

# ---- certificates: assertions signed by the openssl program ----

base64url() { openssl base64 -A | sed 'y,+/,-_,; s/=*$//'; }
digest_of() { openssl x509 -in "$1" -outform DER | openssl dgst "-$2" -binary | base64url; }
der_of() { openssl x509 -in "$1" -outform DER | openssl base64 -A; }
# signed ALG HEADER [CHANGE [PADDING]]: an assertion of $app, signed by $key. HEADER is what JSON members it has
# after alg, CHANGE a jq filter over the claims that the specification has, PADDING that of another alg.
signed() {
    now=$(date +%s%N)
    text=$(jq -nr --arg app "$app" --arg aud "$AZURE_AUTHORITY_HOST$AZURE_TENANT_ID/oauth2/v2.0/token" \
        --arg jti "$now" --argjson now "${now%?????????}" --argjson header "{\"alg\":\"$1\",$2}" '
        def part: tojson | @base64 | split("+") | join("-") | split("/") | join("_") | split("=") | join("");
        ($header | part) + "." + ({aud: $aud, exp: ($now + 600), iss: $app, jti: $jti, nbf: $now, sub: $app} |
            '"${3:-.}"' | part)')
    case ${4:-$1} in
    PS256) padding="-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32" ;;
    *) padding= ;;
    esac
    # shellcheck disable=SC2086
    printf '%s.%s' "$text" "$(printf %s "$text" | openssl dgst -sha256 -sign "$key" $padding | base64url)"
}
# presented ALG HEADER [CHANGE [PADDING]]: the status of the token endpoint
presented() { assert_app "$app" "$(signed "$@")"; }
is_code() { equal "$1 $(answer '"\(.error_codes[0]) \(.error)"')" "$2"; }
set_to() { admin -X POST "$EMULATOR_ADMIN/set?name=$1&value=$2" >"$scratch/armed"; }

in_place certificate
app=$AZURE_CLIENT_ID
key=$AZURE_CLIENT_CERTIFICATE_PATH
sha256="\"x5t#S256\":\"$(digest_of "$key" sha256)\""
sha1="\"x5t\":\"$(digest_of "$key" sha1)\""
check "certificate: PS256 with the SHA-256 print" equal "$(presented PS256 "$sha256")" 200
check "certificate: its application is let in" is_let_in "$EMULATOR_OID"
check "certificate: RS256 with the SHA-1 print" equal "$(presented RS256 "$sha1")" 200
check "certificate: the print as padded base64" \
    equal "$(presented PS256 "\"x5t#S256\":\"$(openssl x509 -in "$key" -outform DER | openssl dgst -sha256 -binary |
        openssl base64 -A)\"")" 200
check "certificate: times as text" equal "$(presented PS256 "$sha256" '.exp |= tostring | .nbf |= tostring')" 200
check "certificate: its chain may come too" equal "$(presented PS256 "$sha256,\"x5c\":[\"$(der_of "$key")\"]")" 200
check "certificate: no print" is_code "$(presented PS256 '"typ":"JWT"')" "400 50027 invalid_request"
check "certificate: the wrong print" is_code "$(presented PS256 "$sha1")" "400 50027 invalid_request"
check "certificate: an unknown print" is_code "$(presented PS256 '"x5t#S256":"AAAA"')" "401 700027 invalid_client"
check "certificate: ... says so" starts "$(answer .error_description)" \
    "AADSTS700027: Client assertion contains an invalid signature. [Reason - The key was not found."
check "certificate: another audience" \
    is_code "$(presented PS256 "$sha256" '.aud = "https://login.microsoftonline.com/"')" "401 700023 invalid_client"
check "certificate: another subject" is_code "$(presented PS256 "$sha256" '.sub = "x"')" "401 700021 invalid_client"
check "certificate: another issuer" is_code "$(presented RS256 "$sha1" '.iss = "x"')" "401 700211 invalid_client"
check "certificate: expired" is_code "$(presented PS256 "$sha256" '.exp -= 601')" "401 700024 invalid_client"
check "certificate: not yet valid" is_code "$(presented PS256 "$sha256" '.nbf += 320')" "401 700024 invalid_client"
check "certificate: for too long" is_code "$(presented PS256 "$sha256" '.exp += 90000')" "401 700024 invalid_client"
check "certificate: without exp" is_code "$(presented PS256 "$sha256" 'del(.exp)')" "400 50027 invalid_request"
check "certificate: without jti" is_code "$(presented PS256 "$sha256" 'del(.jti)')" "400 50027 invalid_request"
once=$(signed PS256 "$sha256")
check "certificate: an assertion is good once" equal "$(assert_app "$app" "$once")" 200
check "certificate: ... not twice" is_code "$(assert_app "$app" "$once")" "401 50012 invalid_client"
set_to assertion-replay 1
check "certificate: ... but where that is allowed" equal "$(assert_app "$app" "$once")" 200
check "certificate: of another application" \
    is_code "$(client=$EMULATOR_SUBJECT_CLIENT_ID; assert_app "$client" "$(signed RS256 "$sha1")")" \
    "401 700211 invalid_client"
twice=$(signed PS256 "$sha256")
twice=${twice%.*}
check "certificate: a changed claim" \
    is_code "$(assert_app "$app" "${once%%.*}.${twice#*.}.${once##*.}")" "401 700027 invalid_client"
check "certificate: ... says so" \
    sh -c 'jq -r .error_description "$1" | grep -q "use of the key to verify the signature failed"' sh "$scratch/answer"
check "certificate: the other padding" is_code "$(presented PS256 "$sha256" . RS256)" "401 700027 invalid_client"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=client -days 9 \
    -keyout "$scratch/ec.pem" -out "$scratch/ec-cert.pem" 2>/dev/null
key=$scratch/ec.pem
check "certificate: an elliptic key" is_code \
    "$(presented ES256 "\"x5t#S256\":\"$(digest_of "$scratch/ec-cert.pem" sha256)\"")" "400 5002738 invalid_request"

# The clock of Entra, which its Date header tells.
key=$AZURE_CLIENT_CERTIFICATE_PATH
for offset in 3600 -3600; do
    set_to clock-offset $offset
    check "clock: $offset seconds ahead" is_code "$(presented PS256 "$sha256")" "401 700024 invalid_client"
    told=$(date -d "$(tr -d '\r' <"$scratch/head" | sed -n 's/^Date: //p')" +%s)
    check "clock: Date tells" [ $((told - $(date +%s) - offset)) -ge -3 -a $((told - $(date +%s) - offset)) -le 0 ]
    check "clock: only once" equal "$(grep -c ^Date: "$scratch/head")" 1
    check "clock: by that time it is good" \
        equal "$(presented PS256 "$sha256" ".exp += $offset | .nbf += $offset")" 200
done
set_to clock-offset 0

# Registered certificates, and a subject name below a CA.
register() { admin --data-binary "@$1" "$EMULATOR_ADMIN/certificate$2" >"$scratch/armed"; }
key=$scratch/rsa.pem
same_name="\"x5t#S256\":\"$(digest_of "$scratch/same-name.pem" sha256)\""
other="\"x5t#S256\":\"$(digest_of "$scratch/rsa-cert.pem" sha256)\""
check "certificate: one of --client-cert" equal "$(presented PS256 "$other")" 200
check "certificate: one of nobody" is_code "$(presented PS256 "$same_name")" "401 700027 invalid_client"
register "$scratch/same-name.pem" ''
check "certificate: ... registered" equal "$(presented PS256 "$same_name")" 200
check "certificate: ... sent with another" is_code \
    "$(presented PS256 "$same_name,\"x5c\":[\"$(der_of "$AZURE_CLIENT_CERTIFICATE_PATH")\"]")" \
    "401 700027 invalid_client"
check "certificate: an expired one" is_code "$(presented PS256 \
    "\"x5t#S256\":\"$(digest_of "$scratch/expired.pem" sha256)\"")" "401 700027 invalid_client"
check "certificate: ... says so" sh -c 'jq -r .error_description "$1" | grep -q "The key used is expired"' \
    sh "$scratch/answer"
in_place subject
app=$AZURE_CLIENT_ID
check "subject: registered elsewhere only" \
    is_code "$(presented PS256 "$other,\"x5c\":[\"$(der_of "$scratch/rsa-cert.pem")\"]")" "401 700030 invalid_client"
register "$scratch/rsa-cert.pem" '?trust=subject'
check "subject: trusted" equal "$(presented PS256 "$other,\"x5c\":[\"$(der_of "$scratch/rsa-cert.pem")\"]")" 200
key=$AZURE_CLIENT_CERTIFICATE_PATH
check "subject: with the chain" equal "$(presented PS256 "$sha256,\"x5c\":[\"$(der_of "$key")\"]")" 200
check "subject: its application is let in" is_let_in "$EMULATOR_OID"
check "subject: without the chain" is_code "$(presented PS256 "$sha256")" "401 700027 invalid_client"
key=$scratch/rsa.pem
check "subject: the name below another CA" is_code "$(presented PS256 \
    "$same_name,\"x5c\":[\"$(der_of "$scratch/same-name.pem")\"]")" "401 50012 invalid_client"
admin -X DELETE "$EMULATOR_ADMIN/certificate" >"$scratch/armed"
key=$AZURE_CLIENT_CERTIFICATE_PATH
check "certificate: forgotten" is_code \
    "$(app=$EMULATOR_CERTIFICATE_CLIENT_ID; presented PS256 "$sha256")" "401 700027 invalid_client"

in_place pfx
check "pfx: openssl opens it" sh -c 'openssl pkcs12 -in "$1" -passin env:AZURE_CLIENT_CERTIFICATE_PASSWORD -nodes |
    openssl x509 -noout -subject | grep -q "CN = client"' sh "$AZURE_CLIENT_CERTIFICATE_PATH"

# ---- device code: a person at another machine ----

# form PATH [CURL_ARGUMENTS...]: a form to the authority
form() {
    path=$1
    shift
    ask "$AZURE_AUTHORITY_HOST${tenant:-$AZURE_TENANT_ID}/oauth2/v2.0/$path" --cacert "$SSL_CERT_FILE" "$@"
}
person() { admin -X POST "$EMULATOR_ADMIN/device?user_code=$user_code&action=$1" >"$scratch/armed"; }
begin() {
    status=$(form devicecode -d "client_id=$AZURE_CLIENT_ID" -d "scope=$redis%2F.default${1-%20offline_access}")
    device_code=$(answer .device_code)
    user_code=$(answer .user_code)
    echo "$status"
}
poll() {
    form token -d "client_id=${client_id:-$AZURE_CLIENT_ID}" -d "device_code=$device_code" "$@" \
        -d "grant_type=${grant:-urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code}"
}
renew() { form token -d grant_type=refresh_token -d "client_id=$AZURE_CLIENT_ID" -d "refresh_token=$1"; }
# finished ACTION STATUS...: a code that the person, or time, has acted on, and what the poll then says
finished() {
    begin >"$scratch/status"
    person "$1"
    is_code "$(poll)" "$2"
}

in_place device
begin >"$scratch/status"
check "device: a code" equal "$(cat "$scratch/status") $(answer '[.expires_in, .interval]' | tr -d ' \n')" "200 [901,5]"
check "device: how to sign in" starts "$(answer .message)" \
    "To sign in, use a web browser to open the page $(answer .verification_uri) and enter the code $user_code"
check "device: pending" is_code "$(poll)" "400 70016 authorization_pending"
check "device: polled too fast" is_code "$(poll)" "400 70016 slow_down"
check "device: ... which is counted" equal \
    "$(admin "$EMULATOR_ADMIN/device" | jq -c 'last | [.state, .polls, .slow_downs]')" '["pending",2,1]'
set_to device-interval 0
begin >"$scratch/status"
poll >"$scratch/status"
check "device: no slow_down when the interval is kept" is_code "$(poll)" "400 70016 authorization_pending"
fault token-slow-down
check "device: ... but by a fault" is_code "$(poll)" "400 70016 slow_down"
begin >"$scratch/status"
person approve
check "device: approved" equal "$(poll)" 200
check "device: the person is let in" is_let_in "$EMULATOR_OID"
check "device: it is no application's" equal "$(claim idtyp) $(claim scp) $(claim appidacr)" "null user_impersonation 0"
first=$(answer .refresh_token)
check "device: a code is good once" is_code "$(poll)" "400 54005 invalid_grant"
check "refresh: a token" equal "$(renew "$first")" 200
check "refresh: the person is let in" is_let_in "$EMULATOR_OID"
second=$(answer .refresh_token)
check "refresh: it is another one" [ "$second" != "$first" ]
check "refresh: the old one is still good" equal "$(renew "$first")" 200
set_to refresh-reuse 0
check "refresh: ... but where that is not allowed" is_code "$(renew "$first")" "400 70000 invalid_grant"
check "refresh: an unknown one" is_code "$(renew x)" "400 70000 invalid_grant"
admin -X POST "$EMULATOR_ADMIN/revoke?code=70043" >"$scratch/armed"
check "refresh: revoked" is_code "$(renew "$second")" "400 70043 invalid_grant"
begin '' >"$scratch/status"
person approve
check "device: without offline_access no refresh token" equal "$(poll) $(answer .refresh_token)" "200 null"
check "device: declined" finished decline "400 70017 authorization_declined"
check "device: expired" finished expire "400 70020 expired_token"
begin >"$scratch/status"
check "device: another client's code" \
    is_code "$(client_id=04b07795-8ddb-461a-bbee-02f9e1bf7b46 poll)" "400 70018 bad_verification_code"
check "device: an unknown code" is_code "$(device_code=x poll)" "400 70018 bad_verification_code"
check "device: the short name of the grant" is_code "$(grant=device_code poll)" "400 70003 unsupported_grant_type"
check "device: a secret" is_code "$(poll -d client_secret=x)" "401 700025 invalid_client"
set_to public-client 0
check "device: public flows are off" is_code "$(poll)" "401 7000218 invalid_client"
set_to public-client 1
set_to device-approve 1
check "device: approved by itself" equal "$(poll)" 200
tenant=organizations
begin >"$scratch/status"
check "device: at organizations" equal "$(poll)" 200
unset tenant
check "device: not at common" is_code "$(tenant=common begin)" "400 9001023 invalid_request"
check "device: unknown tenant" is_code "$(tenant=$EMULATOR_OID begin)" "400 90002 invalid_request"
check "device: no scope" is_code "$(form devicecode -d "client_id=$AZURE_CLIENT_ID")" "400 900144 invalid_request"
check "device: no client" is_code "$(form devicecode -d "scope=$redis%2F.default")" "400 900144 invalid_request"
check "device: an unknown client" is_code "$(AZURE_CLIENT_ID=x begin)" "400 700016 unauthorized_client"
check "device: another service" is_code \
    "$(form devicecode -d "client_id=$AZURE_CLIENT_ID" -d scope=https%3A%2F%2Fmanagement.azure.com%2F.default)" \
    "400 650057 invalid_resource"
fault "device-error&value=50105"
check "device: a fault by code" is_code "$(begin)" "400 50105 invalid_grant"
fault "device-error-200&value=650052"
check "device: ... with status 200" is_code "$(begin)" "200 650052 invalid_client"

# ---- what a client can do wrong at the token endpoint, and the words for it ----

. "$scratch/env"
# secret [CURL_ARGUMENTS...]: a token for the application's secret; later arguments are further fields
secret() {
    form token -d "grant_type=${grant-client_credentials}" -d "client_id=${client_id-$AZURE_CLIENT_ID}" \
        --data-urlencode "client_secret=${client_secret-$AZURE_CLIENT_SECRET}" \
        --data-urlencode "scope=${scope-https://redis.azure.com/.default}" "$@"
}
wrong() { is_code "$(secret)" "$1"; }
check "error: none" equal "$(secret)" 200
while read -r variable value code; do
    eval "$variable=\$value"
    check "error: $variable is '$value'" wrong "$code"
    unset "$variable"
done <<EOF
client_secret wrong 401 7000215 invalid_client
client_secret $EMULATOR_EXPIRED_SECRET 401 7000222 invalid_client
client_id $EMULATOR_OID 400 700016 unauthorized_client
client_id $EMULATOR_DEVICE_CLIENT_ID 401 700025 invalid_client
tenant $EMULATOR_OID 400 90002 invalid_request
tenant nowhere.example 400 90002 invalid_request
tenant nowhere 400 900023 invalid_request
tenant organizations 400 50059 invalid_request
grant password 400 70003 unsupported_grant_type
scope https://redis.azure.com 400 1002012 invalid_scope
scope https://redis.azure.com/user_impersonation 400 1002012 invalid_scope
scope redis/.default 400 70011 invalid_scope
scope openid 400 70011 invalid_scope
scope https://redis.example/.default 400 500011 invalid_resource
EOF
for name in grant client_id scope; do
    eval "$name="
    check "error: $name is empty" wrong "400 900144 invalid_request"
    unset $name
done
check "error: no proof" is_code "$(client_secret='' secret)" "401 7000216 invalid_client"
check "error: two resources" is_code "$(scope='https://redis.azure.com/.default https://graph.microsoft.com/.default'
    secret)" "400 28000 invalid_scope"
check "error: a resource beside the scope" is_code "$(secret -d resource=x)" "400 901002 invalid_request"
check "error: a field twice" is_code "$(secret -d client_id=x)" "400 9002313 invalid_request"
check "error: no form" is_code "$(secret -H Content-Type:text/plain)" "400 900144 invalid_request"
check "error: another service's token" equal \
    "$(scope=https://management.azure.com/.default; secret) $(claim aud)" "200 https://management.azure.com"
check "error: ... is not let in" starts "$(as "$(answer .access_token)" PING)" "AUTH failed"
fault "token-error&value=50076"
own=01234567-89ab-4cde-8f01-23456789abcd
check "error: any code by a fault" is_code "$(secret -H "client-request-id: $own")" "400 50076 interaction_required"
check "error: the client's own id comes back" equal "$(answer '.correlation_id + " " + .suberror')" "$own basic_action"
check "error: the words have code, ids and time" sh -c 'jq -e ".trace_id as \$t | .correlation_id as \$c |
    .timestamp as \$w | .error_description | test(\"^AADSTS50076: .*\\r\\nTrace ID: \" + \$t + \"\\r\\n\" +
    \"Correlation ID: \" + \$c + \"\\r\\nTimestamp: \" + \$w + \"$\")" "$1" >/dev/null' sh "$scratch/answer"

. "$scratch/env"
# through LOGIN URL: what the authority says of itself, asked through the proxy
through() {
    curl -s -o "$scratch/answer" -w '%{http_connect} %{http_code}' --noproxy '' --cacert "$SSL_CERT_FILE" \
        -x "$EMULATOR_PROXY" ${1:+-U "$1"} "$2"
}
keys=$AZURE_TENANT_ID/discovery/v2.0/keys
check "proxy: a tunnel to the authority" equal "$(through user:pass "$AZURE_AUTHORITY_HOST$keys")" "200 200"
check "proxy: a name of another cloud leads there too" \
    equal "$(through user:pass "https://login.microsoftonline.us/$keys")" "200 200"
check "proxy: it tells where it led" equal \
    "$(admin "$EMULATOR_ADMIN/request?endpoint=proxy" | jq -r '.method + " " + .target')" \
    "CONNECT login.microsoftonline.us:443"
check "proxy: without login" equal "$(through '' "$AZURE_AUTHORITY_HOST$keys")" "407 000"
check "proxy: a wrong login" equal "$(through user:word "$AZURE_AUTHORITY_HOST$keys")" "407 000"
check "proxy: nowhere else" equal "$(through user:pass "https://169.254.169.254/")" "403 000"
fault proxy-502
check "proxy: a fault by name" equal "$(through user:pass "$AZURE_AUTHORITY_HOST$keys")" "502 000"
check "the log has no token, no secret" \
    sh -c '! grep -qE "eyJ|$2|$3" "$1"' sh "$scratch/log" "$AZURE_CLIENT_SECRET" "$new"
stop
check "status 0 again" equal "$status" 0
check "no settings of any place are left" equal "$(find "$scratch" -name 'env*')" ""
check "no directory is left" gone "$directory"

echo "1..$count"
exit $failed
