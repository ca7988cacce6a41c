#!/bin/sh
# Installs what is missing for the demo or the tests, says what that is, and runs them.
# Usage: sh tools/run.sh demo | test | test-long | peers | check-all
# Debian and Ubuntu: by apt-get, with sudo if you are not root. Elsewhere: names the packages and ends.
# Nothing is started, and no service is installed: the Redis server is the one inside redis-tools.
set -u
cd "$(dirname "$0")/.." || exit 1

usage() { sed -n '3s/^# //p' tools/run.sh; exit 2; }
[ $# -eq 1 ] || usage

missing=''
# need PACKAGE TEST...: the package, unless the test succeeds.
need() {
    package=$1; shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
program() { command -v "$1"; }
# A file that the compiler finds; without a compiler, one where Debian keeps it.
header() {
    if program gcc; then echo "#include <$1>" | gcc -E -xc - ; else test -f "/usr/include/$1"; fi
}
# The clang that is installed has its sanitizer runtimes, which are a package of their own.
sanitizers() { echo 'int main(void){return 0;}' | clang -xc - -fsanitize=address,undefined -o /dev/null; }
server() { command -v redis-server || command -v redis-check-rdb; }

for_demo() {
    need gcc program gcc
    need libc6-dev header stdlib.h
    need make program make
    need libmbedtls-dev header mbedtls/ssl.h
    need libmicrohttpd-dev header microhttpd.h
    need libgnutls28-dev header gnutls/gnutls.h
    need libjansson-dev header jansson.h
    need libssl-dev header openssl/ssl.h
    need redis-tools server
    need ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
    need curl program curl
}
for_test() {
    for_demo
    need g++ program g++
    need clang program clang
    need libclang-rt-dev sanitizers
    need libcmocka-dev header cmocka.h
    need valgrind program valgrind
    need strace program strace
    need openssl program openssl
    need jq program jq
    need tinyproxy-bin program tinyproxy
    case $missing in *redis-tools*) ;; *) need redis-tools program redis-cli ;; esac
    need python3 program python3
    need python3-prometheus-client /usr/bin/python3 -c 'import prometheus_client'
    need clang-tidy program clang-tidy
    need cppcheck program cppcheck
    need pkg-config program pkg-config
    need patch program patch
    need dpkg-dev program dpkg-source
    need libuv1-dev header uv.h
    need libevent-dev header event2/event.h
    need locales test -f /usr/share/i18n/locales/de_DE
}
for_other_machines() {
    need gcc-i686-linux-gnu program i686-linux-gnu-gcc
    need libc6-dev-i386-cross test -d /usr/i686-linux-gnu/include
    need gcc-arm-linux-gnueabihf program arm-linux-gnueabihf-gcc
    need libc6-dev-armhf-cross test -d /usr/arm-linux-gnueabihf/include
    need gcc-s390x-linux-gnu program s390x-linux-gnu-gcc
    need libc6-dev-s390x-cross test -d /usr/s390x-linux-gnu/include
    need gcc-arm-none-eabi program arm-none-eabi-gcc
    need libnewlib-arm-none-eabi test -d /usr/lib/arm-none-eabi/newlib
    need liblwip-dev test -f /usr/include/lwip/lwip/dns.h
    need gcc-mingw-w64-x86-64 program x86_64-w64-mingw32-gcc
    need musl-tools program musl-gcc
    need qemu-user-static program qemu-s390x-static
    need debootstrap sh -c 'PATH=$PATH:/usr/sbin command -v debootstrap'
}

case $1 in
demo)  target=demo; for_demo ;;
test | test-long) target=$1; for_test ;;
check-all) target=check-all; for_test; for_other_machines ;;
peers) target=test-peers; for_test; need nodejs program node; need npm program npm ;;
*)     usage ;;
esac

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "Missing, by their names in Debian:$missing"
        echo "Install them with this system's own tool, then run: make $target"
        exit 1
    fi
    as_root=''
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "Not root and no sudo. Install as root:$missing"; exit 1; }
        as_root=sudo
    fi
    echo "Installing with apt-get:$missing"
    $as_root apt-get update -qq || exit 1
    # Older releases keep the sanitizer runtimes inside a package that clang brings along.
    apt-cache show libclang-rt-dev >/dev/null 2>&1 || missing=$(echo "$missing" | sed 's/ libclang-rt-dev//')
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing || exit 1
fi
exec make "$target"
