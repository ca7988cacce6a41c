#!/bin/sh
# Static analysis finds nothing: gcc -fanalyzer, clang-tidy with clang's analyzer, cppcheck. Header and examples.
# Usage: analyze.sh [HEADER_DIR [gcc | planted | tidy | cppcheck]]     prints TAP lines. NODES: how deep clang's analyzer
# follows one function; its own default of 225000 takes a minute, a tenth of it finds nearly all in 8 s.
# What clang-tidy leaves out stands in .clang-tidy, what cppcheck leaves out in cppcheck.txt, each with its reason.
set -u
include=${1:-.}
only=${2:-}
here=$(dirname "$0")
root=$here/../..
. "$here/warnings.sh"
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
header=$include/azredis_entra.h

# The header itself is the unit: analyzers look at functions of an included file only as far as the unit calls them.
# quiet COMMAND...: without the lines that count what was suppressed in the system's headers.
quiet() { "$@" 2>&1 | grep -vE '^[0-9]+ warnings? generated|^Suppressed [0-9]+ warnings|^Use -header-filter'; }
tidy() {
    file=$1; shift
    quiet "${CLANG_TIDY:-clang-tidy}" --quiet --config-file="$root/.clang-tidy" "$file" -- -std=c99 "$@" \
        -Xclang -analyzer-config -Xclang max-nodes="${NODES:-20000}" >"$dir/tidy"
    [ ! -s "$dir/tidy" ]
    say $? "clang-tidy $(basename "$file")" "$dir/tidy"
}
# cppcheck reads mbedTLS's configuration (which wants to be told of a compiler), but not the system's other headers.
mbedtls=$(echo '#include <mbedtls/version.h>' | "${GCC:-gcc}" -M -x c - | tr ' ' '\n' | sed -n 's/\/version\.h$//p' | head -n 1)
mkdir "$dir/include" && ln -s "$mbedtls" "$dir/include/mbedtls"
cpp() { "${CPPCHECK:-cppcheck}" --quiet --error-exitcode=1 --std=c99 --library=posix --enable=warning,style,performance,portability \
        --suppressions-list="$here/cppcheck.txt" "$@"; }

if [ "${only:-cppcheck}" = cppcheck ]; then
    check "cppcheck whole header" cpp -D__unix__ -D__GNUC__=12 -DCHAR_BIT=8 -I"$dir/include" -DAZREDIS_ENTRA_IMPLEMENTATION "$header"
    for e in "$root"/examples/*.c; do check "cppcheck $(basename "$e")" cpp --suppress="*:*azredis_entra.h" "$e"; done
fi
# gcc 12 gives the whole header up in silence, long before its end. With summaries of calls and more room it goes through
# the pure half; of the other half it gets one section at a time. Leaks are not asked for there: whoever frees is in
# another slice. --plant shows how far it goes: of the double frees that stand in all functions most must be found.
gcc=${GCC:-gcc}
analyzer="$gcc -std=c99 -O0 -fanalyzer -Wno-analyzer-malloc-leak --param analyzer-bb-explosion-factor=10"
slices=$("${PYTHON:-python3}" "$here/slice.py" "$header" | sed -n '/^port$/,$p')
# slice SECTION [--plant]: its name and the flag that it needs. In >>pfx each function stands upon the next, which gcc
# follows to the bottom by summaries alone, which do not tell what is only written when all is well: that is left to
# clang's analyzer, MSan and valgrind. Elsewhere gcc finds more without.
slice() {
    "${PYTHON:-python3}" "$here/slice.py" "$header" "$@" >"$dir/$1.c"
    case $1 in
    bare) flag=-DAZREDIS_NO_OS ;;
    pfx)  flag='-fanalyzer-call-summaries -Wno-analyzer-use-of-uninitialized-value' ;;
    *)    flag= ;;
    esac
    echo "$dir/$1.c $flag"
}
if [ "${only:-gcc}" = gcc ]; then
    check "gcc -fanalyzer, pure half" $gcc -std=c99 -O1 -fanalyzer -fanalyzer-call-summaries \
        --param analyzer-bb-explosion-factor=50 -DAZREDIS_ONLY_PURE -I"$include" -c "$here/whole.c" -o "$dir/o"
    [ -n "$slices" ]
    say $? "the other half in slices:$(echo "" $slices)"
    for s in $slices; do check "gcc -fanalyzer, >>$s" $analyzer -c $(slice $s) -o "$dir/o"; done
fi
if [ "$only" = planted ]; then
    for s in $slices; do
        planted=$(slice $s --plant)
        all=$($gcc -E $planted | grep -c 'azri_p = __builtin_malloc')
        found=$($analyzer -c $planted -o "$dir/o" 2>&1 | grep -c 'warning: double-.free.*Wanalyzer-double-free')
        [ "$all" -gt 0 ] && [ $((10 * found)) -ge $((9 * all)) ]
        say $? "gcc -fanalyzer, >>$s: $found of $all planted double frees found"
    done
fi
if [ "${only:-tidy}" = tidy ]; then
    tidy "$header" -x c -DAZREDIS_ENTRA_IMPLEMENTATION
    for e in "$root"/examples/*.c; do          # port_lwip needs headers that only `make port-lwip` has
        [ "${e##*/}" = port_lwip.c ] || tidy "$e" -I"$include" -isystem "${BUILD:-build}/hiredis"
    done
fi
exit $failed
