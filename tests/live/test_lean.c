/* A device that takes most switches, but not AZREDIS_LEAN (see test_edge): what remains works, without events and by
 * names alone.
 *   cc -std=gnu11 -I. tests/live/test_lean.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define AZREDIS_NO_OS
#define AZREDIS_NO_TEXT
#define AZREDIS_NO_CONFIG
#define AZREDIS_NO_ADDRESSES
#define AZREDIS_NO_ARENA
#define AZREDIS_NO_ASSERTION
#define AZREDIS_NO_CLAIMS
#define AZREDIS_NO_EVENTS
#define AZREDIS_NO_HANDOVER
#define AZREDIS_NO_PROXY
#define AZREDIS_NO_RESUMPTION
#define AZRI_TLS_RECORDS_MAX 300
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "live.h"
#include "hooks.h"

static live em;
static azredis_client *client;

static int setup(void **state) {
    (void)state;
    memset(&hook, 0, sizeof hook);
    live_start(&em, "--token-ttl", "3", NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    azredis_close(client);
    client = NULL;
    live_stop(&em);
    return hook.blocks || hook.locked || hook.connects != hook.closes;
}

static void no_event(const azredis_event *ev, void *user) {
    (void)user;
    fail_msg("event %d", (int)ev->type);
}

static azredis_options lean_options(void) {
    azredis_options o = device_options(&em);
    o.host = "localhost";
    o.tcp_port = (uint16_t)atoi(strrchr(em.endpoint, ':') + 1);
    o.on_event = no_event;
    o.log_level = AZREDIS_LOG_DEBUG;
    device_id.user = em.oid;
    return o;
}

/* Renewed in place twice, with a subscription; handshakes are full ones, and nothing is told. */
static void test_life(void **state) {
    azredis_options o = lean_options();
    azredis_error why;
    azredis_sub *sub;
    azredis_message m;
    int64_t n = 0;
    (void)state;
    client = azredis_open(&o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_OK);
    await((assert_int_equal(live_incr(client, "n"), ++n), azredis_wait(client, 100),
           live_number(&em, "reauths_accepted") == 2), LIVE_SOON);
    json_decref(live_redis(&em, "PUBLISH", "news", "hello", NULL));
    assert_int_equal(azredis_next(sub, &m, LIVE_SOON), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "hello");
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    azredis_unsubscribe(sub);
}

/* A worn key: answers are awaited, then the connection is made again. No command fails, none runs twice, and the
 * subscription tells of its gap. */
static void test_worn(void **state) {
    azredis_options o = lean_options();
    azredis_stats_data d;
    azredis_sub *sub;
    azredis_message m;
    int64_t n = 0;
    uint32_t gaps = 0;
    (void)state;
    client = azredis_open(&o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    await((assert_int_equal(live_incr(client, "n"), ++n), azredis_stats(client, &d), d.reconnects == 2), LIVE_SOON);
    assert_int_equal(live_get_number(&em, "n"), n);
    assert_int_equal(d.commands_failed, 0);
    assert_int_equal(d.handovers, 0);
    assert_int_equal(live_number(&em, "connections_opened"), 3);
    await((json_decref(live_redis(&em, "PUBLISH", "news", "hello", NULL)), azredis_next(sub, &m, 100) == AZREDIS_OK), LIVE_SOON);
    do gaps += m.gap;
    while (azredis_next(sub, &m, 0) == AZREDIS_OK);
    assert_int_equal(gaps, 1);
    azredis_unsubscribe(sub);
}

/* Trouble is told by the calls, with its numbers. */
static void test_trouble(void **state) {
    azredis_options o = lean_options();
    azredis_error why;
    (void)state;
    device_id.client_secret = "wrong";
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_E_ENTRA);
    assert_int_equal(why.aadsts, 7000215);
    assert_false(why.retryable);
    assert_string_equal(why.message, "");
}

static void test_left_out(void **state) {
    azredis_options o = lean_options();
    azredis_error why;
    uint64_t memory[8];
    char host[257];
    (void)state;
    device_id.user = NULL;              /* no claim can name it */
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    assert_string_equal(why.where, "options.user");
    azredis_close(client);
    o = lean_options();
    memset(host, 'x', 256);             /* no text to be understood, but not every length */
    host[256] = '\0';
    o.host = host;
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    azredis_close(client);
    o = lean_options();
    device_id.proxy = "http://localhost:1";
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    azredis_close(client);
    o = lean_options();
    o.memory = memory;
    o.memory_size = sizeof memory;
    client = azredis_open(&o);
    assert_null(client);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_worn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_trouble, setup, teardown),
        cmocka_unit_test_setup_teardown(test_left_out, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
