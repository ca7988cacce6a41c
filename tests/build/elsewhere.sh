#!/bin/sh
# Other machines and C libraries compile the header without a warning: i386, armhf, s390x, Cortex-M, Windows, musl.
# Usage: elsewhere.sh [HEADER_DIR]     prints TAP lines. BUILD (build): pkg/ARCH has the headers that `make cross` unpacks
set -u
include=${1:-.}
here=$(dirname "$0")
. "$here/warnings.sh"
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
pkg=${BUILD:-build}/pkg

# mbedTLS's headers alone: the system's other headers are of the wrong C library.
mbedtls=$(echo '#include <mbedtls/version.h>' | "${GCC:-gcc}" -M -x c - | tr ' ' '\n' | sed -n 's/\/version\.h$//p' | head -n 1)
mkdir "$dir/include" && ln -s "$mbedtls" "$dir/include/mbedtls"

# strict COMPILER FLAGS...: the whole header with the warnings of gcc, optimised.
strict() {
    cc=$1; shift
    check "$cc $*" "$cc" -std=c99 $gcc_c -O2 "$@" -I"$include" -c "$here/whole.c" -o "$dir/o"
}
for pair in i386:i686-linux-gnu armhf:arm-linux-gnueabihf s390x:s390x-linux-gnu; do
    strict "${pair#*:}-gcc" -isystem "$pkg/${pair%%:*}/usr/include"
done
# A microcontroller: hooks instead of a system, and an mbedTLS without what only a system has.
cat >"$dir/include/device.h" <<'C'
#include "mbedtls/config.h"
#undef MBEDTLS_THREADING_C
#undef MBEDTLS_THREADING_PTHREAD
#undef MBEDTLS_NET_C
#undef MBEDTLS_TIMING_C
#undef MBEDTLS_FS_IO
C
bare="-DAZREDIS_NO_OS -DMBEDTLS_CONFIG_FILE=<device.h> -isystem $dir/include"
strict arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb $bare
strict arm-none-eabi-gcc -mcpu=cortex-m0 -mthumb $bare
strict arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -DAZREDIS_NO_TEXT $bare
# Windows has no port of its own: one #error says what to do, and with hooks it compiles.
strict x86_64-w64-mingw32-gcc $bare
x86_64-w64-mingw32-gcc -isystem "$dir/include" -I"$include" -fsyntax-only "$here/whole.c" >"$dir/said" 2>&1
[ "$(grep -c 'error:' "$dir/said")" = 1 ] && grep 'error: #error' "$dir/said" | grep AZREDIS_NO_OS | grep -q azredis_port
say $? "Windows without NO_OS: one #error names NO_OS and azredis_port" "$dir/said"
# Another C library for Linux: POSIX without glibc's extensions. mbedTLS's build for glibc is only compiled against.
strict musl-gcc -isystem "$dir/include"
# Another network stack.
check "examples/port_lwip.c for a Cortex-M4" make -s -C "$here/../.." B="${pkg%/pkg}" port-lwip
exit $failed
