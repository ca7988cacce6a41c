#!/bin/sh
# The header compiles without a warning: gcc and clang, C99 to C2x, C++11 to C++20, in all its forms.
# Usage: standards.sh [HEADER_DIR]     prints TAP lines
set -u
include=${1:-.}
here=$(dirname "$0")
gcc=${GCC:-gcc} gxx=${GXX:-g++} clang=${CLANG:-clang} clangxx=${CLANGXX:-clang++}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
count=0
failed=0

# check TEXT COMMAND...: one case, by the status of the command and by its silence.
check() {
    text=$1; shift
    count=$((count + 1))
    if "$@" >"$dir/said" 2>&1 && [ ! -s "$dir/said" ]; then
        echo "ok $count - $text"
    else
        failed=1
        echo "not ok $count - $text"
        head -n 20 "$dir/said" | sed 's/^/# /'
    fi
}

warnings='-Wall -Wextra -Werror -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wundef -Wcast-qual -Wvla
          -Wdouble-promotion -Wformat=2 -Wswitch-enum -Wwrite-strings -Wnull-dereference'
only_gcc='-Wcast-align=strict -Wlogical-op -Wduplicated-cond -Wduplicated-branches'
only_clang='-Wcast-align -Wreserved-identifier -Wno-reserved-macro-identifier'
only_c='-Wstrict-prototypes -Wmissing-prototypes'

# The whole header, with optimisation: some warnings need the flow. mbedTLS's own headers are not ours to mend.
for std in c99 c11 c2x; do
    check "gcc $std" "$gcc" -std=$std $warnings $only_gcc $only_c -O2 -I"$include" -c "$here/whole.c" -o "$dir/o"
    check "clang $std" "$clang" -std=$std $warnings $only_clang $only_c -O1 -I"$include" -c "$here/whole.c" -o "$dir/o"
done
for std in c++11 c++17 c++20; do
    check "g++ $std" "$gxx" -x c++ -std=$std $warnings $only_gcc -O1 -I"$include" -c "$here/whole.c" -o "$dir/o"
    check "clang++ $std" "$clangxx" -x c++ -std=$std $warnings $only_clang -O1 -I"$include" -c "$here/whole.c" -o "$dir/o"
done

# Its other forms. Where a form leaves the caller of a static function out, that function is unused.
for pair in "$gcc:$only_gcc $only_c" "$clang:$only_clang $only_c"; do
    cc=${pair%%:*} more=${pair#*:}
    check "$cc, declarations alone" "$cc" -std=c99 $warnings $more -I"$include" -fsyntax-only "$here/declarations.c"
    check "$cc, AZREDIS_ONLY_PURE" "$cc" -std=c99 $warnings $more -Wno-unused-function -DAZREDIS_ONLY_PURE -O1 \
        -I"$include" -c "$here/whole.c" -o "$dir/o"
    check "$cc, AZREDIS_ENTRA_STATIC" "$cc" -std=c99 $warnings $more -Wno-unused-function -DAZREDIS_ENTRA_STATIC -O1 \
        -I"$include" -c "$here/whole.c" -o "$dir/o"
    for form in AZREDIS_NO_OS AZREDIS_NO_THREADS; do
        check "$cc, $form" "$cc" -std=c99 $warnings $more -D$form -O2 -I"$include" -c "$here/whole.c" -o "$dir/o"
    done
    check "$cc, NDEBUG" "$cc" -std=c99 $warnings $more -DNDEBUG -O2 -I"$include" -c "$here/whole.c" -o "$dir/o"
done
check "g++, AZREDIS_NO_OS" "$gxx" -x c++ -std=c++11 $warnings $only_gcc -DAZREDIS_NO_OS -O1 -I"$include" -c "$here/whole.c" \
    -o "$dir/o"
check "g++, declarations alone" "$gxx" -x c++ -std=c++11 $warnings -I"$include" -fsyntax-only "$here/declarations.c"

# One file implements, another uses; both may include the header more than once and in any order.
check "two units link" "$gcc" -std=c99 -Wall -Wextra -Werror -I"$include" "$here/two_units.c" "$here/declarations.c" \
    -o "$dir/two" -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
check "two units run" "$dir/two"

# A misspelt implementation macro must not end in a page of undefined symbols.
for wrong in AZREDIS_IMPLEMENTATION AZREDIS_ENTRA_IMPL; do
    if "$gcc" -D$wrong -I"$include" -fsyntax-only "$here/declarations.c" >"$dir/refusal" 2>&1; then : >"$dir/refusal"; fi
    check "$wrong is refused with the right name" sh -c "grep -q AZREDIS_ENTRA_IMPLEMENTATION '$dir/refusal'"
done
exit $failed
