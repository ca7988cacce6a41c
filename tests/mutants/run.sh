#!/bin/sh
# Breaks the header in known ways, one at a time; the tests named in the patch must notice.
# Usage: run.sh [BUILD_DIR]     prints TAP lines; last line "N passed, N failed"
#
# tests/mutants/NN_name.patch begins with "# suite: unit/test_x.c live/test_y.c" (what must fail), then any words on
# why it matters, then a unified diff of azredis_entra.h. It fails if it does not apply, changes nothing, does not
# compile, or leaves its suite green; and so does a suite that is red without it.
set -u
build=${1:-build}
python=${PYTHON:-python3}
seconds=${MUTANT_TIMEOUT:-100}           # one suite; a mutant that makes it hang is caught by that, too

# suites PATCH: its test programs, as unit/test_x.
suites() { sed -n 's/^# suite: *//p' "$1" | head -n 1 | sed 's/\.c\>//g'; }

# try DIR HEADER_DIR PROGRAM: builds and runs one. 0 green, 1 red (its first failed case is in DIR/why), 2 no build.
try() {
    dir=$1 headers=$2 program=$3
    make -s WARN=-w B="$dir" H="$headers" "$dir/gcc/$program" >"$dir/build.log" 2>&1 || return 2
    "$python" tools/tests.py run -B "$dir" mutant -t "$seconds" --first "$dir/gcc/$program" >"$dir/run.log" 2>&1 && return 0
    sed -n 's/^FAILED mutant\///p' "$dir/run.log" | head -n 1 >"$dir/why"
    [ -s "$dir/why" ] || echo "no case: $(tail -n 1 "$dir/run.log")" >"$dir/why"
    return 1
}

# As a worker of its own: one test program without any mutant.
if [ "${2:-}" = --sane ]; then
    dir=$build/mutants/sane-$(echo "$3" | tr / -)
    mkdir -p "$dir"
    try "$dir" . "$3"
    case $? in
    0) echo ok >"$dir/verdict" ;;
    1) echo "is red without a mutant: $(cat "$dir/why")" >"$dir/verdict" ;;
    *) echo "does not build: $(grep -m 1 error "$dir/build.log")" >"$dir/verdict" ;;
    esac
    exit 0
fi

# As a worker of its own: one mutant.
if [ "${2:-}" = --one ]; then
    patch=$3
    name=$(basename "$patch" .patch)
    dir=$build/mutants/$name
    rm -rf "$dir"
    mkdir -p "$dir"
    verdict() { echo "$*" >"$dir/verdict"; exit 0; }
    cp azredis_entra.h "$dir/azredis_entra.h"
    patch -s --no-backup-if-mismatch "$dir/azredis_entra.h" "$patch" >"$dir/patch.log" 2>&1 </dev/null ||
        verdict "not ok - $name does not apply: $(head -n 1 "$dir/patch.log")"
    cmp -s azredis_entra.h "$dir/azredis_entra.h" && verdict "not ok - $name changes nothing"
    [ -n "$(suites "$patch")" ] || verdict "not ok - $name names no suite"
    for program in $(suites "$patch"); do
        sane=$(cat "$build/mutants/sane-$(echo "$program" | tr / -)/verdict")
        [ "$sane" = ok ] || verdict "not ok - $name: $program $sane"
        try "$dir" "$dir" "$program"
        case $? in
        1) verdict "ok - $name killed by case $(cat "$dir/why")" ;;
        2) verdict "not ok - $name does not compile: $(grep -m 1 error "$dir/build.log")" ;;
        esac
    done
    verdict "not ok - $name lives: $(suites "$patch") stays green"
fi

patches=$(ls tests/mutants/*.patch 2>/dev/null)
rm -rf "$build/mutants"
mkdir -p "$build/mutants"
if [ -n "$patches" ]; then
    for p in $patches; do suites "$p" | tr ' ' '\n'; done | sort -u | grep . |
        xargs -P 2 -I % sh tests/mutants/run.sh "$build" --sane %
    echo "$patches" | xargs -P 2 -I % sh tests/mutants/run.sh "$build" --one %
fi
passed=0
failed=0
for p in $patches; do
    verdict=$(cat "$build/mutants/$(basename "$p" .patch)/verdict" 2>/dev/null || echo "not ok - $p was not tried")
    case $verdict in
    ok*) passed=$((passed + 1)) ;;
    *)   failed=$((failed + 1)) ;;
    esac
    echo "$verdict" | sed "s/ok -/ok $((passed + failed)) -/"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
