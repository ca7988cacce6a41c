# What the stand-ins for az, azd and pwsh share; they get their token from the emulator. Read by them, not run.
# STANDIN_az, STANDIN_azd, STANDIN_pwsh: how each behaves, see fail(); unset: it has a token.
# STANDIN_MARK: a file that gets a line "name arguments" for each run.
# STANDIN_TENANT, STANDIN_CLIENT, STANDIN_SECRET: who is signed in.
tool=${0##*/}
eval "how=\${STANDIN_$tool:-}"
[ -z "${STANDIN_MARK:-}" ] || printf '%s\n' "$tool $*" >>"$STANDIN_MARK"

# wrong_usage: arguments that the real one would not understand.
wrong_usage() { echo "$tool: error: unrecognized arguments: $*" >&2; exit 2; }

# fail LOGGED_OUT AADSTS: what each writes on stderr, where it fails.
fail() {
    case $how in
    logged-out) printf '%s\n' "$1" >&2; exit 1 ;;
    aadsts) printf '%s\n' "$2" >&2; exit 1 ;;
    missing) echo "/usr/bin/env: 'python3': No such file or directory" >&2; exit 127 ;;
    garbage) echo "Welcome to $tool! eyJhbGciOiJub25lIn0.no.token"; exit 0 ;;
    flood) while :; do echo "eyJhbGciOiJub25lIn0 a program that never stops talking, and is not the right one"; done ;;
    hang) sleep 60 & echo "$$ $!" >>"$STANDIN_MARK.pids"; sleep 60 ;;
    orphan) sleep 60 & echo "$!" >>"$STANDIN_MARK.pids" ;;     # it ends, and leaves somebody who holds its stdout
    esac
}

# ask TENANT SCOPE: sets token and expires. The secret goes by stdin: everybody on a machine sees arguments.
ask() {
    answer=$(printf 'data-urlencode = "client_secret=%s"\n' "$STANDIN_SECRET" |
        curl -sS -K - --noproxy '*' --cacert "$SSL_CERT_FILE" -d grant_type=client_credentials -d "client_id=$STANDIN_CLIENT" \
            --data-urlencode "scope=$2" "${EMULATOR_AUTHORITY%/}/${1:-$STANDIN_TENANT}/oauth2/v2.0/token") || exit 1
    token=$(printf %s "$answer" | sed -n 's/.*"access_token": *"\([^"]*\)".*/\1/p')
    life=$(printf %s "$answer" | sed -n 's/.*"expires_in": *"\{0,1\}\([0-9]*\).*/\1/p')
    expires=$(($(date +%s) + life))
    [ -n "$token" ] || { printf 'ERROR: %s\n' "$(printf %s "$answer" | sed -n 's/.*\(AADSTS[0-9]*\).*/\1/p')" >&2; exit 1; }
}
