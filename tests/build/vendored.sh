#!/bin/sh
# The header alone in an empty folder, beside README's first program, is built by README's one compiler line.
# Usage: vendored.sh [HEADER_DIR [README]]     prints TAP lines. CC: the compiler, as README's line says cc.
set -u
include=${1:-.}
readme=${2:-README.md}
here=$(dirname "$0")
. "$here/warnings.sh"
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/empty"
cp "$include/azredis_entra.h" "$dir/empty/"

# README's first C block; its first line is a comment that says how to build it, and then "&& ./program".
sed -n '/^```c$/,/^```$/p' "$readme" | sed '1d; /^```$/,$d' >"$dir/program.c"
line=$(sed -n '1s/^\/\* \(cc .*[^ ]\) *\(&& .*\)\{0,1\}\*\/$/\1/p' "$dir/program.c" | sed 's/ *&& .*//')
source=$(echo "$line" | tr ' ' '\n' | grep '\.c$')
program=$(echo "$line" | sed -n 's/.* -o \([^ ]*\).*/\1/p')
[ -n "$source" ] && [ -n "$program" ]
say $? "README's first C block begins with its compiler line"
[ "$failed" = 0 ] || exit 1
mkdir -p "$dir/empty/$(dirname "$source")"
cp "$dir/program.c" "$dir/empty/$source"

# build MORE...: README's line in that folder, without a word.
build() { (cd "$dir/empty" && set -- $line "$@" && shift && "${CC:-cc}" "$@"); }
check "built by: $line" build
[ "$(ls "$dir/empty" | grep -vxE "azredis_entra.h|$program|$(echo "$source" | cut -d/ -f1)" | wc -l)" = 0 ]
say $? "nothing else was left in the folder"
# Without a host it says so and ends with a status of 1; nothing is reached for.
(cd "$dir/empty" && timeout 20 "./$program") >"$dir/said" 2>&1
[ $? = 1 ] && grep -q 'host' "$dir/said"
say $? "it runs, and says that the host is missing" "$dir/said"

# Without mbedTLS's headers: one message of ours that names the package, and no page of errors. The system's headers
# are all there but mbedTLS's: links to each of them.
gcc=${GCC:-gcc}
system=$(echo '#include <stddef.h>' | "$gcc" -E -v -x c - 2>&1 | sed -n '/^#include <...>/,/^End of/s/^ //p')
for d in $system; do
    mkdir -p "$dir/usr$d"
    for f in "$d"/*; do [ "$(basename "$f")" = mbedtls ] || [ -e "$dir/usr$d/$(basename "$f")" ] || ln -s "$f" "$dir/usr$d/"; done
done
without=$(for d in $system; do echo "-isystem $dir/usr$d"; done)
"$gcc" -nostdinc $without -fsyntax-only "$here/whole.c" -I"$include" >"$dir/said" 2>&1
[ "$(grep -c ': error: #error' "$dir/said")" = 1 ] && grep -q '#error.*libmbedtls-dev' "$dir/said" &&
    [ "$(grep -c 'error:' "$dir/said")" -le 2 ]
say $? "without mbedTLS's headers one #error names the package" "$dir/said"
exit $failed
