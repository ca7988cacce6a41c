#!/bin/sh
# mbedTLS at compile time: each option that Azure Managed Redis needs and that is off is named, missing headers name the
# package, and the headers of mbedTLS 3.6 give no warning. Usage: mbedtls.sh [HEADER_DIR]     prints TAP lines
set -u
include=${1:-.}
here=$(dirname "$0")
. "$here/warnings.sh"
gcc=${GCC:-gcc} clang=${CLANG:-clang} clangxx=${CLANGXX:-clang++}
newer=${BUILD:-build}/pkg/trixie
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# named WORDS LINES [FLAGS...]: with these lines in mbedTLS's configuration, an #error of our header has the words.
# mbedTLS may complain of the same configuration before: that does not count.
named() {
    words=$1 lines=$2; shift 2
    printf '%b\n' "$lines" >"$dir/user_config.h"
    "$gcc" -std=c99 -E "$@" -I"$dir" -I"$include" -DMBEDTLS_USER_CONFIG_FILE='"user_config.h"' "$here/whole.c" 2>&1 >"$dir/out" |
        grep -F 'azredis_entra.h' >"$dir/said"
    grep -F -e "error: " "$dir/said" | grep -qF -e "$words"
    say $? "mbedTLS${1:+ 3.6}: $words" "$dir/said"
}
off() { option=$1; shift; named "without $option" "#undef $option" "$@"; }

# options FLAGS...: those that both versions have.
options() {
    for o in MBEDTLS_SSL_CLI_C MBEDTLS_SSL_PROTO_TLS1_2 MBEDTLS_X509_CRT_PARSE_C MBEDTLS_SSL_SERVER_NAME_INDICATION \
             MBEDTLS_KEY_EXCHANGE_ECDHE_RSA_ENABLED MBEDTLS_AES_C MBEDTLS_SHA256_C \
             MBEDTLS_ECP_DP_SECP256R1_ENABLED; do
        off $o "$@"
    done
    named "and MBEDTLS_CIPHER_MODE_CBC" "#undef MBEDTLS_CIPHER_MODE_CBC" "$@"
    named "and MBEDTLS_ECP_DP_SECP384R1_ENABLED" "#undef MBEDTLS_ECP_DP_SECP384R1_ENABLED" "$@"
    named "MBEDTLS_PKCS1_V21, MBEDTLS_PK_PARSE_C" "#undef MBEDTLS_PKCS1_V21" "$@"
    named "MBEDTLS_MPI_MAX_SIZE under 512" "#define MBEDTLS_MPI_MAX_SIZE 256" "$@"
    named "MBEDTLS_SSL_IN_CONTENT_LEN under 8192" "#define MBEDTLS_SSL_IN_CONTENT_LEN 4096" "$@"
    named "with MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH" \
        "#define MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH\n#define MBEDTLS_SSL_OUT_CONTENT_LEN 4096" "$@"
}
options
off MBEDTLS_X509_CHECK_KEY_USAGE
named "and MBEDTLS_X509_CHECK_EXTENDED_KEY_USAGE" "#undef MBEDTLS_X509_CHECK_EXTENDED_KEY_USAGE"
named "and MBEDTLS_SHA512_C" "#undef MBEDTLS_SHA512_C"
if [ -d "$newer" ]; then
    options "-I$newer/usr/include"
    named "and MBEDTLS_SHA384_C" "#undef MBEDTLS_SHA384_C" "-I$newer/usr/include"
    check "gcc c99, mbedTLS 3.6" "$gcc" -std=c99 $gcc_c -fsyntax-only -I"$include" -isystem "$newer/usr/include" "$here/whole.c"
    check "clang c99, mbedTLS 3.6" "$clang" -std=c99 $clang_c -fsyntax-only -I"$include" -isystem "$newer/usr/include" "$here/whole.c"
    check "clang++ c++11, mbedTLS 3.6" "$clangxx" -x c++ -std=c++11 $clang_cxx -fsyntax-only -I"$include" \
        -isystem "$newer/usr/include" "$here/whole.c"
else
    say 1 "mbedTLS 3.6 is not unpacked: make mbedtls-36"
fi

# A system like this one without mbedTLS: one #error that names the package, and nothing before it.
mkdir "$dir/sys"
for path in /usr/include/*; do
    case $path in */mbedtls | */psa) ;; *) ln -s "$path" "$dir/sys/" ;; esac
done
"$gcc" -std=c99 -fsyntax-only -nostdinc -isystem "$("$gcc" -print-file-name=include)" -isystem "$dir/sys" \
    -isystem "/usr/include/$("$gcc" -print-multiarch)" -I"$include" "$here/whole.c" >"$dir/said" 2>&1
[ "$(grep -c '#error' "$dir/said")" = 1 ] && grep 'error:' "$dir/said" | head -n 1 | grep -q 'apt install libmbedtls-dev'
say $? "missing headers name the package" "$dir/said"
exit $failed
