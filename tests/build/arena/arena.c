/* High-water marks of a device: ours in an arena, mbedTLS's in a buffer of its own, without an operating system. For
 * connecting, renewal in place and renewal by reconnecting, with the emulator's chain of four certificates, RSA 4096.
 *   make arena     builds mbedTLS from Debian's source package first */
#define AZREDIS_NO_OS
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "../../live/live.h"
#include "../../live/hooks.h"
#include <mbedtls/memory_buffer_alloc.h>

static live em;
static azredis_port bare_port;
static uint64_t memory[32768];
static unsigned char heap[256 * 1024];

static size_t heap_most(void) {
    size_t used = 0, blocks = 0;
    mbedtls_memory_buffer_alloc_max_get(&used, &blocks);
    return used;
}

static size_t heap_now(void) {
    size_t used = 0, blocks = 0;
    mbedtls_memory_buffer_alloc_cur_get(&used, &blocks);
    return used;
}

/* Our most, by what was ever in use at once in each pool. */
static size_t arena_most(void) {
    azri_arena *a = (azri_arena *)(void *)memory;
    size_t i, bytes[AZRI_PHASES] = {0}, blocks = 0;
    for (i = 0; i < a->pools; i++) {
        bytes[a->pool[i].phase] += azri_align(a->pool[i].size) * a->pool[i].most;
        blocks += a->pool[i].count;
    }
    if (a->shared) bytes[bytes[1] > bytes[2] ? 2 : 1] = 0;
    return azri_align(sizeof *a + blocks) + bytes[0] + bytes[1] + bytes[2];
}

static azredis_client *begin(azredis_options *o, azredis_renewal renewal) {
    *o = device_options(&em);
    bare_port = hook_port;
    bare_port.alloc = NULL;
    bare_port.free = NULL;
    o->port = &bare_port;
    o->memory = memory;
    o->renewal = renewal;
    o->memory_size = azredis_memory_needed(o);
    assert_true(o->memory_size <= sizeof memory);
    return azredis_open(o);
}

static void tell(const char *what, const azredis_options *o) {
    print_message("%-24s mbedTLS %6zu bytes at most, %6zu now; ours %6zu of %6zu\n", what, heap_most(), heap_now(), arena_most(),
                  o->memory_size);
}

static void run(azredis_renewal renewal) {
    azredis_options o;
    azredis_error why;
    azredis_client *c = begin(&o, renewal);
    const char *name = renewal == AZREDIS_RENEWAL_IN_PLACE ? "renewal in place" : "renewal by reconnect";
    size_t before = heap_now();
    mbedtls_memory_buffer_alloc_max_reset();
    if (azredis_connect(c, 60000, &why) != AZREDIS_OK) fail_msg("no connection: %s", why.message);
    assert_int_equal(live_incr(c, "n"), 1);
    tell("connect", &o);
    mbedtls_memory_buffer_alloc_max_reset();
    await((azredis_wait(c, 20), live_stats(c).tokens == 3 && live_connected(c) &&
           (renewal == AZREDIS_RENEWAL_RECONNECT || live_stats(c).reauths == 2)), 60000);
    assert_int_equal(live_incr(c, "n"), 2);
    tell(name, &o);
    azredis_close(c);
    assert_int_equal(heap_now(), before);
    json_decref(live_redis(&em, "DEL", "n", NULL));
}

static void test_marks(void **state) {
    (void)state;
    mbedtls_memory_buffer_alloc_init(heap, sizeof heap);
    live_start(&em, "--token-ttl", "10", "--gateway-cert", "long-chain", "--authority-cert", "long-chain", "--tls", "1.2", NULL);
    print_message("mbedTLS %s, records of %u bytes in and %u out; pointers of %u bytes\n", MBEDTLS_VERSION_STRING,
                  (unsigned)MBEDTLS_SSL_IN_CONTENT_LEN, (unsigned)MBEDTLS_SSL_OUT_CONTENT_LEN, (unsigned)sizeof(void *));
    run(AZREDIS_RENEWAL_IN_PLACE);
    run(AZREDIS_RENEWAL_RECONNECT);
    live_stop(&em);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_marks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
