#!/bin/sh
# Every test that tests/unit/vectors.md names for a vector of the wire specification exists, and is run.
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
[ "$count" -gt 50 ] || { echo "not ok $((count + 1)) - $list names only $count tests"; failed=1; }
[ "$failed" = 0 ]
