#!/bin/sh
# The header compiles without a warning: gcc and clang, C99 to C2x, C++11 to C++20, in all its forms.
# Usage: standards.sh [HEADER_DIR]     prints TAP lines
set -u
include=${1:-.}
here=$(dirname "$0")
. "$here/warnings.sh"
gcc=${GCC:-gcc} gxx=${GXX:-g++} clang=${CLANG:-clang} clangxx=${CLANGXX:-clang++}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
whole=$here/whole.c declarations=$here/declarations.c

# The whole header with optimisation, because some warnings need the flow; the other standards are about syntax.
# mbedTLS's own headers are system headers and not ours to mend.
check "gcc c99" "$gcc" -std=c99 $gcc_c -Wmisleading-indentation -O2 -I"$include" -c "$whole" -o "$dir/o"
check "clang c99" "$clang" -std=c99 $clang_c -O1 -I"$include" -c "$whole" -o "$dir/o"
check "g++ c++11" "$gxx" -x c++ -std=c++11 $gcc_cxx -O1 -I"$include" -c "$whole" -o "$dir/o"
for std in c11 c2x; do
    check "gcc $std" "$gcc" -std=$std $gcc_c -fsyntax-only -I"$include" "$whole"
    check "clang $std" "$clang" -std=$std $clang_c -fsyntax-only -I"$include" "$whole"
done
for std in c++11 c++17 c++20; do
    [ $std = c++11 ] || check "g++ $std" "$gxx" -x c++ -std=$std $gcc_cxx -fsyntax-only -I"$include" "$whole"
    check "clang++ $std" "$clangxx" -x c++ -std=$std $clang_cxx -fsyntax-only -I"$include" "$whole"
    check "g++ $std, declarations alone" "$gxx" -x c++ -std=$std $gcc_cxx -fsyntax-only -I"$include" "$declarations"
    check "clang++ $std, declarations alone" "$clangxx" -x c++ -std=$std $clang_cxx -fsyntax-only -I"$include" "$declarations"
done

# Its other forms. Where a form leaves the caller of a static function out, that function is unused.
for cc in "$gcc" "$clang"; do
    [ "$cc" = "$gcc" ] && strict=$gcc_c || strict=$clang_c
    check "$cc, declarations alone" "$cc" -std=c99 $strict -I"$include" -fsyntax-only "$declarations"
    check "$cc, AZREDIS_ONLY_PURE" "$cc" -std=c99 $strict -Wno-unused-function -DAZREDIS_ONLY_PURE -I"$include" -fsyntax-only "$whole"
    check "$cc, AZREDIS_ENTRA_STATIC" "$cc" -std=c99 $strict -Wno-used-but-marked-unused -DAZREDIS_ENTRA_STATIC -I"$include" \
        -fsyntax-only "$whole"
done
check "$clang, NDEBUG" "$clang" -std=c99 $clang_c -DNDEBUG -I"$include" -fsyntax-only "$whole"
# Assertions gone, variables that only they read must be gone too, also to the optimiser; that includes the syntax.
check "gcc -O1, NDEBUG" "$gcc" -std=c99 $gcc_c -DNDEBUG -O1 -I"$include" -c "$whole" -o "$dir/o"

# One file implements, another uses; both may include the header more than once and in any order.
check "two units link" "$gcc" -std=c99 -Wall -Wextra -Werror -I"$include" "$here/two_units.c" "$declarations" \
    -o "$dir/two" -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
check "two units run" "$dir/two"
# A static copy lives in one file alone, even beside another file's copy.
check "two static copies link" "$gcc" -std=c99 -DAZREDIS_ENTRA_STATIC -I"$include" "$here/two_units.c" "$here/static.c" \
    -o "$dir/static" -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
check "two static copies run" "$dir/static"

# A misspelt implementation macro must not end in a page of undefined symbols.
for wrong in AZREDIS_IMPLEMENTATION AZREDIS_ENTRA_IMPL; do
    if "$gcc" -D$wrong -I"$include" -fsyntax-only "$declarations" >"$dir/refusal" 2>&1; then : >"$dir/refusal"; fi
    check "$wrong is refused with the right name" grep -q AZREDIS_ENTRA_IMPLEMENTATION "$dir/refusal"
done
exit $failed
