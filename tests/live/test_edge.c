/* The smallest device, tools/sizes/edge.c's edge-callback: what the program itself gets as a token, TLS with one root in DER,
 * RESP3. All that an edge device is promised stays: renewal in place behind the fence, reconnecting, subscriptions,
 * an honest fate.
 *   cc -std=gnu11 -I. tests/live/test_edge.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define AZREDIS_NO_OS
#define AZREDIS_LEAN
#define AZREDIS_NO_TEXT
#define AZREDIS_NO_CONFIG
#define AZREDIS_NO_ADDRESSES
#define AZREDIS_NO_ARENA
#define AZREDIS_NO_CLAIMS
#define AZREDIS_NO_RESUMPTION
#define AZREDIS_NO_EVENTS
#define AZREDIS_NO_HANDOVER
#define AZREDIS_NO_HTTP
#define AZREDIS_TICK_MS 100
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "live.h"
#include "hooks.h"

static live em;
static azredis_client *client;
static mbedtls_x509_crt root;
static int asked, refuse;

static azredis_status get_token(void *user, const char *scope, azredis_fetched *out) {
    json_t *t;
    const char *jwt;
    (void)user;
    (void)scope;
    asked++;
    if (refuse) return AZREDIS_E_NET;
    t = live_json(&em, "GET", "/token", "");
    jwt = json_string_value(json_object_get(t, "access_token"));
    out->len = strlen(jwt);
    assert_true(out->len < out->cap);
    memcpy(out->token, jwt, out->len);
    out->expires_in = (uint32_t)json_integer_value(json_object_get(t, "expires_in"));
    json_decref(t);
    return AZREDIS_OK;
}

static azredis_options edge_options(void) {
    azredis_options o = device_options(&em);
    const char *colon = strrchr(em.endpoint, ':');
    memset(&device_id, 0, sizeof device_id);
    device_id.identity = AZREDIS_ID_CALLBACK;
    device_id.get_token = get_token;
    device_id.user = em.oid;
    o.host = "localhost";
    o.tcp_port = (uint16_t)atoi(colon + 1);
    mbedtls_x509_crt_init(&root);
    assert_int_equal(mbedtls_x509_crt_parse(&root, o.ca, o.ca_len), 0);
    o.ca = root.raw.p;
    o.ca_len = root.raw.len;
    return o;
}

static int setup(void **state) {
    (void)state;
    memset(&hook, 0, sizeof hook);
    asked = refuse = 0;
    live_start(&em, "--token-ttl", "4", NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    azredis_close(client);
    client = NULL;
    mbedtls_x509_crt_free(&root);
    live_stop(&em);
    return hook.blocks || hook.locked || hook.connects != hook.closes;
}

/* Renewed in place twice with a subscription; then the server closes, and both are there again: the program only asks. */
static void test_life(void **state) {
    azredis_options o = edge_options();
    azredis_sub *sub;
    azredis_message m;
    int64_t n = 0;
    (void)state;
    client = azredis_open(&o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    await((assert_int_equal(live_incr(client, "n"), ++n), azredis_next(sub, &m, 100),
           live_number(&em, "reauths_accepted") == 2), LIVE_SOON);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    json_decref(live_redis(&em, "PUBLISH", "news", "hello", NULL));
    assert_int_equal(azredis_next(sub, &m, LIVE_SOON), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "hello");
    assert_int_equal(m.gap, 0);
    shutdown(live_socket(client), SHUT_RDWR);
    await((assert_int_equal(live_incr(client, "n"), ++n), live_number(&em, "connections_opened") == 2), LIVE_SOON);
    await((json_decref(live_redis(&em, "PUBLISH", "news", "again", NULL)), azredis_next(sub, &m, 100) == AZREDIS_OK), LIVE_SOON);
    assert_string_equal(m.payload.ptr, "again");
    assert_int_equal(m.gap, 1);
    assert_int_equal(live_get_number(&em, "n"), n);
    azredis_unsubscribe(sub);
}

/* A callback that fails is asked again while the old token serves, and after that; commands say that they were not sent. */
static void test_no_token(void **state) {
    azredis_options o = edge_options();
    azredis_reply r;
    int before;
    (void)state;
    memset(&r, 0, sizeof r);
    o.command_ms = 500;
    client = azredis_open(&o);
    assert_int_equal(azredis_command(client, &r, "SET", "k", "v"), AZREDIS_OK);
    refuse = 1;
    before = asked;
    await(azredis_command(client, &r, "INCR", "n") != AZREDIS_OK, LIVE_SOON);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    assert_true(asked > before);
    refuse = 0;
    await(azredis_command(client, &r, "INCR", "m") == AZREDIS_OK, LIVE_SOON);
    azredis_reply_free(&r);
}

/* What is left out is refused when the client is opened. */
static void test_left_out(void **state) {
    azredis_options o = edge_options();
    azredis_error why;
    (void)state;
    device_id.identity = AZREDIS_ID_CLIENT_SECRET;
    device_id.tenant_id = device_id.client_id = device_id.client_secret = "x";
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    azredis_close(client);
    memset(&device_id, 0, sizeof device_id);
    device_id.identity = AZREDIS_ID_PASSWORD;
    device_id.user = device_id.password = "x";
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    azredis_close(client);
    memset(&device_id, 0, sizeof device_id);
    device_id.user = em.oid;            /* the default chain has no links here */
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    azredis_close(client);
    mbedtls_x509_crt_free(&root);
    o = edge_options();
    o.plaintext = 1;
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    assert_string_equal(why.where, "");
    azredis_close(client);
    o.plaintext = 0;
    o.protocol = 2;
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    azredis_close(client);
    o.protocol = 0;
    o.renewal = AZREDIS_RENEWAL_RECONNECT;
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    azredis_close(client);
    o.renewal = AZREDIS_RENEWAL_IN_PLACE;
    o.client_name = "edge";
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 0, &why), AZREDIS_E_ARG);
    azredis_close(client);
    o.client_name = NULL;
    client = azredis_open(&o);
    assert_null(azredis_subscribe(client, AZREDIS_PATTERN, "news.*", NULL, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_token, setup, teardown),
        cmocka_unit_test_setup_teardown(test_left_out, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
