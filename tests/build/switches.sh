#!/bin/sh
# AZREDIS_LEAN and each AZREDIS_NO_ switch compile without a warning: alone, as C by gcc and clang and as C++ by clang, and
# all of them together.
# Usage: switches.sh [HEADER_DIR]     prints TAP lines. The switches are those that the manual's chapter 13 lists.
set -u
include=${1:-.}
here=$(dirname "$0")
. "$here/warnings.sh"
gcc=${GCC:-gcc} gxx=${GXX:-g++} clang=${CLANG:-clang} clangxx=${CLANGXX:-clang++}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

switches=$(sed -n '/^ \* 13 MACROS/,/^ \* 14 /s/^ \* \(AZREDIS_NO_[A-Z0-9_]*\|AZREDIS_LEAN\)\b.*/\1/p' "$include/azredis_entra.h")
all=$(for s in $switches; do echo "-D$s"; done)

# forms FLAGS...: the whole header in C and C++ and its declarations with these flags.
forms() {
    check "gcc $*" "$gcc" -std=c99 $gcc_c "$@" -I"$include" -fsyntax-only "$here/whole.c"
    check "clang $*" "$clang" -std=c99 $clang_c "$@" -I"$include" -fsyntax-only "$here/whole.c"
    check "clang++ $*" "$clangxx" -x c++ -std=c++11 $clang_cxx "$@" -I"$include" -fsyntax-only "$here/whole.c"
    check "gcc, declarations, $*" "$gcc" -std=c99 $gcc_c "$@" -I"$include" -fsyntax-only "$here/declarations.c"
}
for s in $switches; do forms "-D$s"; done
[ -n "$all" ]
say $? "the manual lists switches:$(echo "$all" | tr '\n' ' ' | sed 's/-D/ /g')"
forms $all
# Some warnings need the flow, so once with optimisation; and nothing that is used may have been left out.
check "gcc -O2, all together" "$gcc" -std=c99 $gcc_c $all -O2 -I"$include" -c "$here/whole.c" -o "$dir/all.o"
check "g++, all together" "$gxx" -x c++ -std=c++11 $gcc_cxx $all -O1 -I"$include" -c "$here/whole.c" -o "$dir/o"
nm -u "$dir/all.o" | grep azr >"$dir/undefined"
[ ! -s "$dir/undefined" ]
say $? "all together, nothing of ours is undefined" "$dir/undefined"
# What a build declares it defines: a call of what is not there is an error of the compiler, which names the line.
for s in AZREDIS_NO_OS AZREDIS_LEAN AZREDIS_NO_MALLOC AZREDIS_NO_THREADS; do
    "$gcc" -std=c99 "-D$s" -I"$include" -aux-info "$dir/aux" -fsyntax-only "$here/declarations.c" &&
        "$gcc" -std=c99 "-D$s" -I"$include" -c "$here/whole.c" -o "$dir/one.o" &&
        nm "$dir/one.o" | sed -n 's/.* T //p' | sort >"$dir/defined" &&
        sed -n '/ static /!s/.*\(azredis_[a-z0-9_]*\) (.*/\1/p' "$dir/aux" | sort -u | comm -23 - "$dir/defined" >"$dir/missing"
    [ $? = 0 ] && [ ! -s "$dir/missing" ] && [ -s "$dir/defined" ]
    say $? "-D$s: all that is declared is defined" "$dir/missing"
done
exit $failed
