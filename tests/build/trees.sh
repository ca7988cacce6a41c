#!/bin/sh
# A Debian tree with a compiler, mbedTLS's package and nothing else builds README's program by README's line.
# Usage: trees.sh [HEADER_DIR [README]]     prints TAP lines. BUILD (build): trees/SUITE is made there. SUITES (bookworm trixie)
# Needs root and debootstrap. The mirror is the one that this machine's apt uses.
# debootstrap mounts /proc in the tree: in a namespace of its own, so that whatever ends it, no mount is left here, through
# which somebody's rm -rf of build/ would go. Who may not make one (a container) may not mount either.
set -u
include=${1:-.}
readme=${2:-README.md}
here=$(dirname "$0")
. "$here/warnings.sh"
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
as_root=''
[ "$(id -u)" = 0 ] || as_root=sudo
mirror=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep 'debian/*$' | head -n 1)
[ -n "$mirror" ] || { echo "not ok 1 - no Debian mirror in this machine's apt sources"; echo 1..1; exit 1; }

apart='unshare --mount --pid --fork --kill-child'
$as_root $apart true 2>/dev/null || apart=''

# tree SUITE: made once; a marker tells that it is whole.
tree() {
    [ -e "$root/.whole" ] && return
    $as_root rm -rf --one-file-system "$root"
    mkdir -p "$root"
    $as_root $apart debootstrap --variant=minbase --include=gcc,libc6-dev,libmbedtls-dev "$1" "$root" "$mirror" >"$dir/log" 2>&1 &&
        $as_root touch "$root/.whole"
}
# in_tree COMMAND: by a shell in the tree, with nothing of this environment.
in_tree() { $as_root env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" sh -c "cd /vendored && $1"; }

# As in vendored.sh: README's first C block and its compiler line.
sed -n '/^```c$/,/^```$/p' "$readme" | sed '1d; /^```$/,$d' >"$dir/program.c"
line=$(sed -n '1s/^\/\* \(cc .*[^ ]\) *\(&& .*\)\{0,1\}\*\/$/\1/p' "$dir/program.c" | sed 's/ *&& .*//')
source=$(echo "$line" | tr ' ' '\n' | grep '\.c$')
program=$(echo "$line" | sed -n 's/.* -o \([^ ]*\).*/\1/p')

for suite in ${SUITES:-bookworm trixie}; do
    root=$(cd "${BUILD:-build}" && pwd)/trees/$suite
    tree "$suite"
    say $? "$suite: a tree with gcc and libmbedtls-dev" "$dir/log"
    [ -e "$root/.whole" ] || continue
    $as_root rm -rf "$root/vendored"
    $as_root mkdir -p "$root/vendored/$(dirname "$source")"
    $as_root cp "$include/azredis_entra.h" "$root/vendored/"
    $as_root cp "$dir/program.c" "$root/vendored/$source"
    check "$suite: $line" in_tree "$line"
    in_tree "./$program" >"$dir/said" 2>&1
    [ $? = 1 ] && grep -q host "$dir/said"
    say $? "$suite: it runs, and says that the host is missing" "$dir/said"
    check "$suite: without a warning at -Wall -Wextra" in_tree "$(echo "$line" | sed 's/^cc/cc -Wall -Wextra/')"
    # Without the package there is one message of ours, and it names the package.
    $as_root mv "$root/usr/include/mbedtls" "$root/usr/include/mbedtls.away"
    in_tree "$line" >"$dir/said" 2>&1
    [ "$(grep -c 'error: #error' "$dir/said")" = 1 ] && grep -q '#error.*libmbedtls-dev' "$dir/said"
    say $? "$suite: without the package one #error names it" "$dir/said"
    $as_root mv "$root/usr/include/mbedtls.away" "$root/usr/include/mbedtls"
done
exit $failed
