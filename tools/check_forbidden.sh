#!/bin/sh
# What may stand nowhere: a way to switch TLS verification off, calls that C has better ones for, unfinished marks.
# Usage: check_forbidden.sh [HEADER]     prints TAP lines; looks at the header and all that the repository keeps beside it
set -u
header=${1:-azredis_entra.h}
cd "$(dirname "$0")/.." || exit 1
count=0
failed=0

# nowhere TEXT COMPLAINTS: one case; it fails if there are complaints.
nowhere() {
    found=$(echo "$2" | grep .)
    count=$((count + 1))
    if [ -z "$found" ]; then
        echo "ok $count - $1"
    else
        failed=1
        echo "not ok $count - $1"
        echo "$found" | head -n 20 | sed 's/^/# /'
    fi
}
# files PATTERN...: what the repository keeps under such names; build/ and what npm installs are not kept.
files() {
    for pattern; do
        find . -name "$pattern" -not -path './build/*' -not -path './.git/*' -not -path '*/node_modules/*' -not -path ./azredis_entra.h
    done
    echo "$header"
}
# The header's code, without comments and texts, each line with its number.
code() {
    awk '{ gsub(/"(\\.|[^"\\])*"/, "\"\""); gsub(/\/\*[^*]*\*\//, "")
           if (inside) { if (!sub(/^.*\*\//, "")) next; inside = 0 }
           if (sub(/\/\*.*/, "")) inside = 1
           print NR ": " $0 }' "$header"
}

# Verification: chain and name, always. The bracket keeps this file from finding itself.
nowhere "TLS verification is switched off nowhere" \
    "$(files '*.[ch]' '*.cc' '*.patch' Makefile | xargs grep -nE 'MBEDTLS_SSL_VERIFY_(NONE|OPTIONAL)')"
nowhere "it is only ever set to required" \
    "$(code | grep 'mbedtls_ssl_conf_authmode' | grep -v 'MBEDTLS_SSL_VERIFY_REQUIRED')"
nowhere "and it is set" \
    "$(code | grep -c 'mbedtls_ssl_conf_authmode(.*MBEDTLS_SSL_VERIFY_REQUIRED)' | grep -vx '[1-9]')"
# A thumbprint stands for chain and name: for Service Fabric, whose clusters make their certificates themselves, and for
# nobody else. sections: the header's lines, each with the section it stands in.
sections() { awk '/^\/\* ==== >>/ { section = $3 } { print section ":" $0 }' "$header"; }
once() { echo "$1" | grep -c . | grep -vx 1; }
pinned=$(sections | grep -E '(step->|step\.|conf\.|conf->|c->)pin *= *[^=]')
nowhere "a thumbprint is asked for by Service Fabric alone, and carried in one place" \
    "$(echo "$pinned" | grep -vE '^>>managed: *if \(f->variant == AZRI_MI_FABRIC\) step->pin = f->proof\.ptr;$|^>>fetch: *conf\.pin = f->step\.pin;$')
$(once "$(echo "$pinned" | grep '^>>managed')")$(once "$(echo "$pinned" | grep '^>>fetch')")"
nowhere "the verdict on a certificate comes from chain and name, or from the thumbprint" \
    "$(sections | grep -E '^>>(tls|roots|line|fetch).*\*flags *([|&^]?=|=) *[^=]' | grep -vE \
    -e '\*flags &= ~\(uint32_t\)\(MBEDTLS_X509_BADCERT_EXPIRED \| MBEDTLS_X509_BADCERT_FUTURE\);$' \
    -e '\*flags \|= azri_tls_check_time\(t, crt\);$' -e '^>>tls:        \*flags = 0;$' \
    -e 'if \(t->conf\.pin\) \*flags = azri_tls_check_pin\(t, crt\);$' -e '\*flags = azri_tls_check_chain\(t, crt, &status\) \| name;$')
$(once "$(sections | grep '^>>tls: *\*flags = 0;')")$(once "$(sections | grep 't->verified = ')")$(once "$(code | grep 'mbedtls_ssl_conf_verify(')")"
nowhere "no script switches it off" \
    "$(files '*.sh' Makefile run '*.mjs' README.md | xargs grep -nE '(curl|wget)[^|;]* (-k|--insecure|--no-check-certificate)|NODE_TLS_REJECT_[U]NAUTHORIZED')"

# Calls: unbounded, depending on locale or hidden state, or a shell.
nowhere "the header calls nothing unbounded, nothing with hidden state, no shell" \
    "$(code | grep -nE '\b(strcpy|strcat|sprintf|vsprintf|gets|scanf|sscanf|strtok|atoi|atol|atof|strtod|setlocale|gmtime|localtime|strerror|system|popen|alloca|rand|srand|gethostbyname|inet_ntoa|mktemp|tmpnam|longjmp|signal)[ ]*\(')"
nowhere "the header is ASCII without tabs and without blanks at line ends" \
    "$(LC_ALL=C grep -nP '[^\x00-\x7F]|\t| $' "$header")"
nowhere "no marks of unfinished work" \
    "$(files '*.[ch]' '*.sh' '*.py' '*.mjs' '*.md' '*.txt' Makefile | xargs grep -nE '\b(TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b')"
# An example is read in one go. Three are more than one idea.
nowhere "no example has more than 80 lines but the sample, hiredis and lwIP" \
    "$(wc -l examples/*.c | awk '$1 > 80 && $2 != "total"' | grep -vE ' examples/(sample|hiredis_token|port_lwip)\.c$')"
nowhere "there was something to look at" \
    "$([ "$(files '*.c' | wc -l)" -gt 10 ] && [ "$(code | wc -l)" -gt 1000 ] || echo "nothing was found")"
exit $failed
