/* AZREDIS_NO_OS: the library sees the machine only through hooks that this test wrote.
 *   cc -std=gnu11 -I. tests/live/test_bare.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define AZREDIS_NO_OS
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

static int setup_none(void **state) {
    (void)state;
    memset(&hook, 0, sizeof hook);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    azredis_close(client);
    client = NULL;
    if (em.pid > 0)
        live_stop(&em);
    return hook.blocks || hook.locked || hook.connects != hook.closes;
}

/* ---- options ----------------------------------------------------------------------------------- */

/* Each hook that is required and missing is named by every call, and none of the others is called. */
static void test_missing_hooks(void **state) {
    static const struct { const char *name; size_t at; } hook_of[] = {
        {"now_ms", offsetof(azredis_port, now_ms)},   {"unix_time", offsetof(azredis_port, unix_time)},
        {"entropy", offsetof(azredis_port, entropy)}, {"connect", offsetof(azredis_port, connect)},
        {"send", offsetof(azredis_port, send)},       {"recv", offsetof(azredis_port, recv)},
        {"close", offsetof(azredis_port, close)}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof hook_of / sizeof hook_of[0]; i++) {
        azredis_port some = hook_port;
        azredis_options o = {.host = "cache.example", .port = &some};
        azredis_reply r = {0};
        azredis_error why;
        azredis_token t;
        azredis_auth_options id = {.port = &some};
        azredis_auth *auth;
        char text[64];
        memset((char *)&some + hook_of[i].at, 0, sizeof(void (*)(void)));
        snprintf(text, sizeof text, "options.port.%s is missing", hook_of[i].name);
        client = azredis_open(&o);
        assert_int_equal(azredis_command(client, &r, "PING"), AZREDIS_E_ARG);
        assert_has(r.error->message, text);
        assert_int_equal(azredis_connect(client, 1000, &why), AZREDIS_E_ARG);
        assert_has(why.message, text);
        assert_int_equal(azredis_wait(client, 1000), AZREDIS_E_ARG);
        assert_int_equal(azredis_submit(client, NULL, 0, NULL, NULL, NULL), AZREDIS_E_ARG);
        azredis_reply_free(&r);
        azredis_close(client);
        auth = azredis_auth_open(&id);
        assert_int_equal(azredis_auth_token(auth, &t, 1000, &why), AZREDIS_E_ARG);
        assert_has(why.message, text);
        azredis_auth_release(auth);
        client = NULL;
    }
    assert_int_equal(hook.waits + hook.connects, 0);
}

/* Without memory there is no client to ask; its calls still answer. */
static void test_no_allocator(void **state) {
    azredis_port some = hook_port;
    azredis_options o = {.host = "cache.example", .port = &some};
    azredis_reply r = {0};
    (void)state;
    some.alloc = NULL;
    assert_null(azredis_open(&o));
    o.port = NULL;
    assert_null(azredis_open(&o));
    assert_int_equal(azredis_command(NULL, &r, "PING"), AZREDIS_E_NOMEM);
    assert_has(r.error->message, "memory");
}

/* There are no files, so trust must be given; without it nothing is sent. */
static void test_no_roots(void **state) {
    azredis_options o = device_options(&em);
    azredis_error why;
    (void)state;
    o.ca = NULL;
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_E_ARG);
    assert_has(why.message, "give ca");
    assert_int_equal(live_number(&em, "tokens_issued"), 0);
}

static void test_no_environment(void **state) {
    azredis_options o = device_options(&em);
    azredis_error why;
    (void)state;
    o.identity = NULL;                  /* the default chain: AZURE_* are set, and must not be seen */
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_E_NO_CREDENTIAL);
    assert_has(why.message, "set the option identity");
}

/* ---- life -------------------------------------------------------------------------------------- */

/* Token, TLS, renewal in place, a subscription, all by hooks. */
static void test_life(void **state) {
    azredis_options o = device_options(&em);
    azredis_sub *sub;
    azredis_message m;
    int64_t id, n = 0;
    (void)state;
    client = live_open(&em, &o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    id = live_client_id(client);
    await((assert_int_equal(live_incr(client, "n"), ++n), azredis_wait(client, 50),
           live_number(&em, "reauths_accepted") == 2), LIVE_SOON);
    json_decref(live_redis(&em, "PUBLISH", "news", "hello", NULL));
    assert_int_equal(azredis_next(sub, &m, LIVE_SOON), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "hello");
    assert_int_equal(live_client_id(client), id);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    assert_int_equal(live_get_number(&em, "n"), n);
    assert_true(hook.yields > 100 && hook.waits > 10 && hook.lock_calls > 10);
    assert_true(hook.most_fds == 2);    /* Redis and the token endpoint at once */
    azredis_unsubscribe(sub);
}

/* A connect hook that never gets there: the deadline holds, and its socket is closed. */
static void test_deaf_connect(void **state) {
    azredis_options o = device_options(&em);
    azredis_error why;
    (void)state;
    hook.deaf = 1;
    device_id.request_ms = device_id.chain_ms = 300;
    client = azredis_open(&o);
    assert_in_time(assert_int_equal(azredis_connect(client, 1000, &why), AZREDIS_E_TIMEOUT), 1000);
    assert_has(why.message, "connect hook");
    assert_true(hook.connects > 0);
    azredis_close(client);
    client = NULL;
    assert_int_equal(hook.connects, hook.closes);
}

/* Two clients on one auth: the other is woken by the hook when the token is there. */
static void test_shared(void **state) {
    azredis_options o = device_options(&em);
    azredis_auth *auth;
    azredis_client *other;
    (void)state;
    device_id.ca = o.ca;
    device_id.ca_len = o.ca_len;
    device_id.port = o.port;
    auth = azredis_auth_open(&device_id);
    o.auth = auth;
    other = live_new(&em, &o);
    client = live_open(&em, &o);
    assert_true(hook.wakes > 0);
    assert_int_equal(live_incr(client, "n"), 1);
    assert_int_equal(live_incr(other, "n"), 2);
    assert_int_equal(live_number(&em, "tokens_issued"), 1);
    azredis_close(other);
    azredis_auth_release(auth);
}

/* ---- a machine without a clock ----------------------------------------------------------------- */

static void clockless(const char *gateway, const char *authority, const char *complaint) {
    azredis_options o;
    azredis_error why;
    live_start(&em, "--gateway-cert", gateway, "--authority-cert", authority, NULL);
    hook.no_clock = 1;
    o = device_options(&em);
    client = live_new(&em, &o);
    if (!complaint) {
        if (azredis_connect(client, LIVE_SOON, &why) != AZREDIS_OK)
            fail_msg("%s", why.message);
        assert_true(llabs((long long)azri_port_unix(&client->port) - (long long)time(NULL)) < 10);
        return;
    }
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_E_CERT);
    assert_has(why.message, complaint);
}

/* The time comes with the token. */
static void test_time_learned(void **state) {
    (void)state;
    clockless("good", "good", NULL);
}

/* Nothing could be said against Redis's certificate before the time was learned. */
static void test_time_used(void **state) {
    (void)state;
    clockless("not-yet-valid", "good", "not valid before");
}

/* The authority's own certificate must be good at the time that it tells; no token of such an answer is used. */
static void test_time_told_by_invalid(void **state) {
    (void)state;
    clockless("good", "not-yet-valid", "clock is not set");
    assert_int_equal(live_number(&em, "connections_opened"), 0);
}

static void test_build_info(void **state) {
    (void)state;
    assert_has(azredis_build_info(), "port bare");
}

/* There is no managed identity: options that name one are a mistake, not without effect. */
static void test_no_managed(void **state) {
    for (int i = 0; i < 3; i++) {
        azredis_options o = device_options(&em);
        azredis_auth_options id = *o.identity;
        azredis_error why;
        (void)state;
        if (i == 0) id.object_id = device_id.client_id;
        if (i == 1) id.resource_id = "/subscriptions/x";
        if (i == 2) id.managed_client_id = device_id.client_id;
        o.identity = &id;
        client = azredis_open(&o);
        assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_E_ARG);
        assert_has(why.message, "managed");
        azredis_close(client);
        client = NULL;
    }
    assert_int_equal(live_number(&em, "tokens_issued"), 0);
}

/* Identities that read files, the environment or run a program: what is said of them must not name them as there. */
static void test_identity_why(void **state) {
    static const char *const without[] = {"environment", "workload-identity", "managed-identity", "token-file", "exec"};
    azredis_identity id;
    (void)state;
    for (size_t i = 0; i < sizeof without / sizeof without[0]; i++) {
        const char *why = azredis_identity_why(without[i]);
        assert_int_equal(azredis_identity_by_name(without[i], &id), AZREDIS_E_ARG);
        assert_has(why, "AZREDIS_NO_OS");
        assert_null(strstr(why, without[i]));
    }
    assert_null(azredis_identity_why("client-secret"));
    assert_has(azredis_identity_why("x"), "client-secret");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_missing_hooks, setup_none, teardown),
        cmocka_unit_test_setup_teardown(test_no_allocator, setup_none, teardown),
        cmocka_unit_test_setup_teardown(test_no_roots, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_environment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deaf_connect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
        cmocka_unit_test_setup_teardown(test_time_learned, setup_none, teardown),
        cmocka_unit_test_setup_teardown(test_time_used, setup_none, teardown),
        cmocka_unit_test_setup_teardown(test_time_told_by_invalid, setup_none, teardown),
        cmocka_unit_test(test_build_info),
        cmocka_unit_test_setup_teardown(test_no_managed, setup, teardown),
        cmocka_unit_test(test_identity_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
