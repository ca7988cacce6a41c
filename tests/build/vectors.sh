#!/bin/sh
# Every test that tests/unit/vectors.md names for a vector of the wire specification exists, and is run; and so does at least
# one test for each hard case of the specification of the Redis side: its name has the number.
# Usage: vectors.sh     prints TAP lines
set -u
list=tests/unit/vectors.md
count=0
failed=0
for one in $(grep -oE '(unit|live)/test_[a-z0-9_]+:test_[a-z0-9_]+' "$list" | sort -u); do
    file=tests/${one%%:*}.c
    test=${one##*:}
    count=$((count + 1))
    # Once where it is written, once more where it is run.
    if [ -f "$file" ] && [ "$(grep -cw "$test" "$file")" -ge 2 ]; then
        echo "ok $count - $one"
    else
        failed=$((failed + 1))
        echo "not ok $count - $one: $file has no such test, or does not run it"
    fi
done
# Of 38, 47 and 48 nothing is asked for here; 39 to 43 are of clusters.
for n in $(seq 1 37) 44 45 46 49 50; do
    count=$((count + 1))
    if grep -qE "^static void [a-z0-9_]*case_?${n}_[a-z0-9_]*\(void \*\*" tests/unit/*.c tests/live/*.c; then
        echo "ok $count - case $n"
    else
        failed=$((failed + 1))
        echo "not ok $count - case $n: no test has it in its name"
    fi
done
[ "$count" -gt 100 ] || { echo "not ok $((count + 1)) - $list names only $count tests"; failed=1; }
[ "$failed" = 0 ]
