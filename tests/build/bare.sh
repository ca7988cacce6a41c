#!/bin/sh
# AZREDIS_NO_OS asks for nothing but mbedTLS and seven functions of string.h; NO_THREADS for no thread.
# Usage: bare.sh [HEADER_DIR]     prints TAP lines
set -u
include=${1:-.}
gcc=${GCC:-gcc} clang=${CLANG:-clang}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
count=0
failed=0

# What a tool chain without an operating system always has (gcc.gnu.org, "Standards": the first four; C99 7.21.6).
functions='memcmp memcpy memmove memset memchr strcmp strlen'
headers='limits.h stdarg.h stddef.h stdint.h string.h'

# same TEXT: one case; passed if the file said is empty, which else has the complaints.
same() {
    count=$((count + 1))
    if [ ! -s "$dir/said" ]; then
        echo "ok $count - $1"
    else
        failed=1
        echo "not ok $count - $1"
        head -n 20 "$dir/said" | sed 's/^/# /'
    fi
}

unit=$dir/unit.c
printf '#define AZREDIS_ENTRA_IMPLEMENTATION\n#include "azredis_entra.h"\n' >"$unit"
build() { cc=$1; shift; "$cc" -std=c99 -fno-stack-protector -Wall -Wextra -Werror -I"$include" "$@" -c "$unit" -o "$dir/o" >"$dir/said" 2>&1; }
undefined() { nm -u "$dir/o" | awk '{ print $NF }'; }

# Compilers put calls in that nobody wrote: bcmp for memcmp == 0 is clang's.
for cc in "$gcc -O0" "$gcc -O2" "$gcc -Os" "$clang -O2 -fno-builtin-bcmp"; do
    build ${cc%% *} ${cc#* } -DAZREDIS_NO_OS &&
        undefined | grep -vE '^(mbedtls|psa)_' | grep -vxE "$(echo $functions | tr ' ' '|')" >"$dir/said"
    same "AZREDIS_NO_OS, $cc: no other function is called"
    size -A "$dir/o" | awk '$1 ~ /^\.(data|bss)/ && $1 !~ /rel\.ro/ && $2 > 0' >"$dir/said"
    same "AZREDIS_NO_OS, $cc: no writable data"
done

# What the header itself includes: depth 2 of what the compiler lists.
"$gcc" -std=c99 -DAZREDIS_NO_OS -I"$include" -H -fsyntax-only "$unit" 2>&1 | sed -n 's/^\.\. .*include\S*\///p' |
    grep -vE '^(mbedtls|psa)/' | sed 's/.*\///' >"$dir/included"
grep -vxE "$(echo $headers cipher.h md.h platform_util.h rsa.h ssl.h version.h x509_crt.h crypto.h | tr ' ' '|')" "$dir/included" >"$dir/said"
[ -s "$dir/included" ] || echo "nothing was found to look at" >"$dir/said"
same "AZREDIS_NO_OS includes $headers and mbedTLS"

for cc in "$gcc" "$clang"; do
    build "$cc" -O0 -DAZREDIS_NO_THREADS && undefined | grep -E '^(pthread|sem_|mtx|thrd)' >"$dir/said"
    same "AZREDIS_NO_THREADS, $cc: no function of threads is called"
done

# A platform that is not POSIX: one error, and it says what to do.
for define in '' -DAZREDIS_NO_OS -DAZREDIS_ONLY_PURE; do
    "$gcc" -std=c99 -U__unix__ -I"$include" $define -fsyntax-only "$unit" >"$dir/refusal" 2>&1
    errors=$(grep -c 'error' "$dir/refusal")
    : >"$dir/said"
    if [ -n "$define" ]; then
        [ "$errors" = 0 ] || cat "$dir/refusal" >"$dir/said"
        same "where there is no POSIX, $define is enough"
    else
        [ "$(grep -c 'error: #error' "$dir/refusal")" = 1 ] && [ "$errors" -le 2 ] &&
            grep -q 'AZREDIS_NO_OS.*azredis_port' "$dir/refusal" || cat "$dir/refusal" >"$dir/said"
        same "where there is no POSIX, one error names AZREDIS_NO_OS and azredis_port"
    fi
done
exit $failed
