#!/bin/sh
# Every check can fail: each is shown a header that is broken in its way, and must complain about just that.
# Usage: selftest.sh     prints TAP lines. BUILD (build) has the emulator
set -u
cd "$(dirname "$0")/../.." || exit 1
here=tests/build
. $here/warnings.sh
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/h"
header=$dir/h/azredis_entra.h

# broken WHAT SED: the header with that change in it.
broken() {
    sed "$2" azredis_entra.h >"$header"
    ! cmp -s azredis_entra.h "$header" || echo "# $1: the change finds no place in the header any more"
}
# complains WHAT CASE COMMAND...: the check ends with a status, and the case that matches CASE has failed.
complains() {
    what=$1 case=$2; shift 2
    "$@" >"$dir/out" 2>&1
    status=$?
    [ $status != 0 ] && ! cmp -s azredis_entra.h "$header" && grep -E '^not ok' "$dir/out" | grep -qE "$case"
    say $? "$what" "$dir/out"
}
# In front of section >>mem, at the end of >>core.
at_core='/==== >>mem ==/i\
'

broken up "${at_core}static char *azri_resp_write_head(char *out, char type, size_t v);\\
static char *azri_core_up(char *p) { return azri_resp_write_head(p, ':', 1); }"
complains "layers: a call upwards" "calls between" python3 tools/check_layers.py "$header"
broken undeclared '/==== >>http ==/s/ text\b//'
complains "layers: a use that the banner does not declare" "calls between" python3 tools/check_layers.py "$header"
broken names "${at_core}static int azri_core_state;\\
int azredis_undeclared(void) { return ++azri_core_state; }"
complains "names: a writable global" "writable globals" sh tools/check_names.sh "$header"
complains "names: an export that is not declared" "exported function is declared" sh tools/check_names.sh "$header"
broken prefix 's/^static int azri_is_digit/int azri_is_digit/'
complains "names: another export than azredis_" "only azredis_ names" sh tools/check_names.sh "$header"
broken macros "${at_core}#ifdef AZREDIS_UNTOLD\\
#endif"
complains "macros: a switch that the manual does not tell" "switches and hooks" python3 tools/check_macros.py "$header"
broken verify 's/MBEDTLS_SSL_VERIFY_REQUIRED/MBEDTLS_SSL_VERIFY_'OPTIONAL'/'
complains "forbidden: verification off" "switched off nowhere" sh tools/check_forbidden.sh "$header"
broken pin 's/^    conf.pin = f->step.pin;/    conf.pin = "00";/'
complains "forbidden: a thumbprint for somebody else" "by Service Fabric alone" sh tools/check_forbidden.sh "$header"
broken chain 's/\*flags = azri_tls_check_chain(t, crt, &status) | name;/*flags = 0;/'
complains "forbidden: a certificate without a verdict" "the verdict on a certificate" sh tools/check_forbidden.sh "$header"
broken unbounded "${at_core}static void azri_core_copy(char *p) { (void)strcpy(p, p); }"
complains "forbidden: an unbounded call" "nothing unbounded" sh tools/check_forbidden.sh "$header"
broken recipe 's/printf("AUTH %s/printf("AUTX %s/'
complains "readme: a recipe that runs but prints something else" " auth" python3 tools/check_readme.py "$header"

broken conversion "${at_core}static int azri_core_short(long long v) { int n = v; return n; }"
complains "standards: gcc warns" "gcc c99" sh $here/standards.sh "$dir/h"
complains "standards: clang++ warns" "clang\+\+ c\+\+20" sh $here/standards.sh "$dir/h"
broken switch "${at_core}#ifdef AZREDIS_NO_THREADS\\
static int azri_core_unused(void) { return 0; }\\
#endif"
complains "switches: one that leaves a function unused" "clang -DAZREDIS_NO_THREADS" sh $here/switches.sh "$dir/h"
broken package 's/libmbedtls-dev/libssl-dev/'
complains "vendored: the message names another package" "names the package" sh $here/vendored.sh "$dir/h"
broken version 's/^#define AZREDIS_VERSION_TEXT .*/#define AZREDIS_VERSION_TEXT ("0.0")/'
complains "install: no version" "its version" sh $here/install.sh "$dir/h"

broken null "${at_core}int azredis_null(int k);\\
int azredis_null(int k) { int *p = NULL; if (k) p = \&k; return *p; }"
for tool in tidy:clang-tidy cppcheck:cppcheck; do
    complains "analyze: ${tool%%:*} sees a null pointer" "${tool#*:}" sh $here/analyze.sh "$dir/h" "${tool%%:*}"
done
broken twice "${at_core}void azredis_twice(void *p);\\
void azredis_twice(void *p) { __builtin_free(p); __builtin_free(p); }"
complains "analyze: gcc sees a double free" "fanalyzer, pure" sh $here/analyze.sh "$dir/h" gcc
broken unchecked '/^static void azri_conn_dial/,/^}/{/^    if (!k) {$/,/^    }$/d}'
complains "analyze: gcc sees that there may be no memory" "fanalyzer, >>pump" sh $here/analyze.sh "$dir/h" gcc
check "analyze: gcc goes through all sections" sh -c "sh $here/analyze.sh . planted | grep -v ^ok; true"

# sanitizer WHAT PROGRAM WORDS: the program is built with the broken header, and dies of it.
sanitizer() {
    "${MAKE:-make}" -s H="$dir/h" B="$dir/b" EXTRA_CFLAGS=-w "$dir/b/$2" >"$dir/out" 2>&1
    "$dir/b/$2" >>"$dir/out" 2>&1
    [ $? != 0 ] && grep -q "$3" "$dir/out"
    say $? "$1" "$dir/out"
}
broken wrap 's/    for (; n; n--) azri_out_char(o, \*s++);/    while (n--) azri_out_char(o, *s++);/'
sanitizer "unit-asan: an unsigned number wraps" clang-asan/unit/test_core "unsigned integer overflow"
broken overrun 's/^\(static char azri_lower(char c) {\)/\1 char t[2]; volatile int at = 2; t[at] = c;/'
sanitizer "unit-asan: a byte behind an array" clang-asan/unit/test_core "buffer-overflow\|out of bounds"
broken unset 's/^\(static char azri_lower(char c) {\)/\1 char t[2]; volatile int at = 1; if (t[at] == c) return 0;/'
sanitizer "unit-msan: a look at what was never set" msan/unit/test_core "MemorySanitizer"
exit $failed
