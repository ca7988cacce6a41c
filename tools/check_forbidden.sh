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
    found=$2
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
nowhere "no script switches it off" \
    "$(files '*.sh' Makefile run '*.mjs' README.md | xargs grep -nE '(curl|wget)[^|;]* (-k|--insecure|--no-check-certificate)|NODE_TLS_REJECT_[U]NAUTHORIZED')"

# Calls: unbounded, depending on locale or hidden state, or a shell.
nowhere "the header calls nothing unbounded, nothing with hidden state, no shell" \
    "$(code | grep -nE '\b(strcpy|strcat|sprintf|vsprintf|gets|scanf|sscanf|strtok|atoi|atol|atof|strtod|setlocale|gmtime|localtime|strerror|system|popen|alloca|rand|srand|gethostbyname|inet_ntoa|mktemp|tmpnam|longjmp|signal)[ ]*\(')"
nowhere "the header is ASCII without tabs and without blanks at line ends" \
    "$(LC_ALL=C grep -nP '[^\x00-\x7F]|\t| $' "$header")"
nowhere "no marks of unfinished work" \
    "$(files '*.[ch]' '*.sh' '*.py' '*.mjs' '*.md' '*.txt' Makefile | xargs grep -nE '\b(TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b')"
nowhere "there was something to look at" \
    "$([ "$(files '*.c' | wc -l)" -gt 10 ] && [ "$(code | wc -l)" -gt 1000 ] || echo "nothing was found")"
exit $failed
