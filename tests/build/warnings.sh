# The warning gate and the TAP lines of the scripts beside it, which read this file; it is not run by itself.
# Caller sets $here (the folder of this file) and $dir (scratch). Gives gcc_c, gcc_cxx, clang_c, clang_cxx, check.

warnings='-Wall -Wextra -Werror -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wundef -Wcast-qual -Wvla
          -Wdouble-promotion -Wformat=2 -Wswitch-enum -Wwrite-strings -Wnull-dereference'
gcc_cxx="$warnings -Wcast-align=strict -Wlogical-op -Wduplicated-cond -Wduplicated-branches"
# One warning costs gcc four fifths of its time in a file as long as ours. g++ and clang have it in each form that they see;
# gcc looks for it in standards.sh.
gcc_c="$gcc_cxx -Wstrict-prototypes -Wmissing-prototypes -Wno-misleading-indentation"
clang_cxx="$warnings -Weverything -Wreserved-identifier $(sed -n 's/^\(-W[^ ]*\) .*/\1/p' "$here/weverything.txt")"
clang_c=$clang_cxx
count=0
failed=0

# say STATUS TEXT [FILE]: one case, with the first lines of FILE if it failed.
say() {
    count=$((count + 1))
    if [ "$1" = 0 ]; then
        echo "ok $count - $2"
    else
        failed=1
        echo "not ok $count - $2"
        if [ $# -gt 2 ]; then head -n "${LINES_SHOWN:-20}" "$3" | sed 's/^/# /'; fi
    fi
}

# check TEXT COMMAND...: one case, by the status of the command and by its silence.
check() {
    text=$1; shift
    "$@" >"$dir/said" 2>&1 && [ ! -s "$dir/said" ]
    say $? "$text" "$dir/said"
}
