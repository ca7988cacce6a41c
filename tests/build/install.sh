#!/bin/sh
# `make install` gives what pkg-config and a compiler need, and `make uninstall` leaves nothing behind.
# Usage: install.sh [HEADER_DIR]     prints TAP lines. BUILD: where programs are (build)
set -u
include=${1:-.}
here=$(dirname "$0")
. "$here/warnings.sh"
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
make="${MAKE:-make} --no-print-directory -s -C $here/../.. H=$(cd "$include" && pwd) B=${BUILD:-build}"
unset MAKEFLAGS MFLAGS
cat >"$dir/program.c" <<'C'
#define AZREDIS_ENTRA_IMPLEMENTATION
#include <azredis_entra.h>
int main(void) { return azredis_build_info()[0] == '\0'; }
C
version=$(sed -n 's/^#define AZREDIS_VERSION_TEXT "\(.*\)"/\1/p' "$include/azredis_entra.h")

# built FLAGS: the program, by what pkg-config says, and it runs.
built() { "${CC:-cc}" $1 "$dir/program.c" -o "$dir/program" $2 && "$dir/program"; }
# left DIR: the files under it.
left() { find "$1" -mindepth 1 -not -type d; }

check "make install PREFIX" $make install PREFIX="$dir/usr"
export PKG_CONFIG_PATH="$dir/usr/lib/pkgconfig"
cflags=$(pkg-config --cflags azredis_entra) libs=$(pkg-config --libs azredis_entra)
check "a program by pkg-config" built "$cflags" "$libs"
[ -n "$version" ] && [ "$(pkg-config --modversion azredis_entra)" = "$version" ]
say $? "its version is the header's ($version)"
cmp -s "$include/azredis_entra.h" "$dir/usr/include/azredis_entra.h"
say $? "the header is installed as it is"
# Only where the command line has been written is there a program to install.
if [ -f "$here/../../tools/azredis.c" ]; then
    check "azredis is installed and runs" sh -c "'$dir/usr/bin/azredis' --help >/dev/null"
fi
check "make uninstall" $make uninstall PREFIX="$dir/usr"
left "$dir/usr" >"$dir/left"
[ ! -s "$dir/left" ]
say $? "nothing is left" "$dir/left"

# For a package: files under DESTDIR, names without it.
check "make install DESTDIR" $make install PREFIX=/opt/azredis DESTDIR="$dir/stage"
[ -f "$dir/stage/opt/azredis/include/azredis_entra.h" ] &&
    grep -qx 'prefix=/opt/azredis' "$dir/stage/opt/azredis/lib/pkgconfig/azredis_entra.pc"
say $? "it goes under DESTDIR, and names only PREFIX"
check "make uninstall DESTDIR" $make uninstall PREFIX=/opt/azredis DESTDIR="$dir/stage"
left "$dir/stage" >"$dir/left"
[ ! -s "$dir/left" ]
say $? "nothing is left there" "$dir/left"

# An mbedTLS that brings pkg-config files, as 3.6 does, is required by its names.
mkdir "$dir/pc"
for name in mbedtls mbedx509 mbedcrypto; do
    printf 'Name: %s\nDescription: -\nVersion: 3.6.0\nLibs: -l%s\n' $name $name >"$dir/pc/$name.pc"
done
check "make install beside mbedTLS's pkg-config files" env PKG_CONFIG_PATH="$dir/pc" $make install PREFIX="$dir/usr"
[ "$(PKG_CONFIG_PATH=$dir/pc:$PKG_CONFIG_PATH pkg-config --print-requires azredis_entra | xargs)" = "mbedtls mbedx509 mbedcrypto" ]
say $? "they are required by name"
libs=$(PKG_CONFIG_PATH=$dir/pc:$PKG_CONFIG_PATH pkg-config --libs azredis_entra)
check "and the program links" built "$cflags" "$libs"
exit $failed
