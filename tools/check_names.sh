#!/bin/sh
# Only azredis_ is exported, nothing global is writable, and the pure part calls next to nothing.
# Usage: check_names.sh [HEADER]     prints TAP lines
set -u
header=${1:-azredis_entra.h}
header=$(cd "$(dirname "$header")" && pwd)/$(basename "$header")
cc=${CC:-gcc}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
count=0
failed=0

# say COMPLAINTS TEXT: one case; it fails if there are complaints.
say() {
    count=$((count + 1))
    if [ -z "$1" ]; then
        echo "ok $count - $2"
    else
        failed=1
        echo "not ok $count - $2"
        echo "$1" | sed 's/^/# /'
    fi
}

# unit NAME FLAGS...: NAME.o of the whole header. Without PIC: there, tables of constant pointers count as data.
unit() {
    name=$1; shift
    printf '#define AZREDIS_ENTRA_IMPLEMENTATION\n#include "%s"\n' "$header" >"$dir/unit.c"
    "$cc" -std=gnu11 -fno-pic -fno-pie "$@" -c "$dir/unit.c" -o "$dir/$name.o" 2>"$dir/$name.txt" ||
        say "$(cat "$dir/$name.txt")" "$name compiles"
}

# symbols NAME TYPES: names of the symbols whose letter is one of TYPES.
symbols() { nm "$dir/$1.o" | awk -v types="$2" 'index(types, $(NF-1)) { print $NF }' | sort -u; }

unit whole -O1
unit static -O1 -DAZREDIS_ENTRA_STATIC
unit pure -O0 -fkeep-static-functions -DAZREDIS_ONLY_PURE

# The public functions, as the header declares them (one may span lines; a macro may wrap it).
sed -n '/^#ifndef AZREDIS_ENTRA_H/,/^#ifdef AZREDIS_ENTRA_IMPLEMENTATION/p' "$header" |
    tr '\n' ' ' | tr ';' '\n' | sed -n 's/.*AZREDIS_API [^(]*[ *]\(azredis_[a-z0-9_]*\)(.*/\1/p' | sort -u >"$dir/declared"

symbols whole TDBRVWC >"$dir/exported"
say "$(grep -v '^azredis_' "$dir/exported")" "only azredis_ names are exported ($(wc -l <"$dir/exported"))"
say "$(comm -23 "$dir/declared" "$dir/exported")" "every declared function is there ($(wc -l <"$dir/declared"))"
say "$(comm -13 "$dir/declared" "$dir/exported")" "every exported function is declared"
say "$(symbols whole dDbBC)" "no writable globals"
say "$(symbols static TDBRVWC)" "AZREDIS_ENTRA_STATIC exports nothing"
say "$(symbols pure dDbBC)" "no writable globals in the pure part"
say "$(symbols pure U | grep -vxE 'memcpy|memmove|memset|memcmp|memchr|strlen|__stack_chk_fail|__assert_fail')" \
    "the pure part calls only memory functions of the C library"
say "$([ -s "$dir/declared" ] && [ -s "$dir/exported" ] && symbols pure tT | grep -q . || echo 'nothing was found')" \
    "there was something to check"
exit $failed
