/* A client in memory of the program's own, without operating system and without allocator: it lives, its limits hold,
 * and azredis_memory_needed is exactly what it comes to use.
 *   cc -std=gnu11 -I. tests/live/test_arena.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define AZREDIS_NO_OS
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <openssl/pem.h>
#include "live.h"
#include "hooks.h"

static live em;
static azredis_client *client;
static azredis_port bare_port;          /* no allocator in it */
static uint64_t memory[32768];
static size_t needed;

static int setup(void **state) {
    (void)state;
    memset(&hook, 0, sizeof hook);
    live_start(&em, "--token-ttl", "5", NULL);
    return 0;
}

static int setup_hour(void **state) {
    (void)state;
    memset(&hook, 0, sizeof hook);
    live_start(&em, NULL);
    return 0;
}

/* Nothing behind the needed bytes may have been touched, and nothing may be in use. */
static int teardown(void **state) {
    size_t i;
    (void)state;
    azredis_close(client);
    client = NULL;
    live_stop(&em);
    for (i = needed; i < sizeof memory; i++)
        if (((unsigned char *)memory)[i] != 0xa5) {
            print_message("byte %zu of the %zu behind the memory was written\n", i - needed, needed);
            return 1;
        }
    return hook.allocs || hook.locked || hook.connects != hook.closes;
}

static azredis_options arena_options(void) {
    azredis_options o = device_options(&em);
    bare_port = hook_port;
    bare_port.alloc = NULL;
    bare_port.free = NULL;
    o.port = &bare_port;
    o.memory = memory;
    return o;
}

/* memory_size is just enough. */
static void arena_open(azredis_options *o) {
    needed = azredis_memory_needed(o);
    o->memory_size = needed;
    assert_true(needed > 0 && needed < sizeof memory);
    memset(memory, 0xa5, sizeof memory);
    client = live_open(&em, o);
}

/* ---- what was used ----------------------------------------------------------------------------- */

/* The most that was ever in use, by the pools; names each that was not used up. */
static size_t high_water(int tell) {
    azri_arena *a = (azri_arena *)(void *)memory;
    size_t i, bytes[AZRI_PHASES] = {0}, blocks = 0;
    for (i = 0; i < a->pools; i++) {
        const azri_pool *q = &a->pool[i];
        bytes[q->phase] += azri_align(q->size) * q->most;
        blocks += q->count;
        if (tell && q->most != q->count)
            print_message("of %u blocks of %zu bytes (phase %u) %u were used\n", q->count, q->size, q->phase, q->most);
    }
    if (a->shared)
        bytes[1] = bytes[1] > bytes[2] ? bytes[1] : bytes[2];
    return azri_align(sizeof *a + blocks) + bytes[0] + bytes[1] + (a->shared ? 0 : bytes[2]);
}

/* ---- life -------------------------------------------------------------------------------------- */

static void test_life(void **state) {
    azredis_options o = arena_options();
    azredis_sub *sub;
    azredis_auth *auth;
    azredis_message m;
    int64_t id, n = 0;
    (void)state;
    o.subscriptions = 1;
    arena_open(&o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    id = live_client_id(client);
    await((assert_int_equal(live_incr(client, "n"), ++n), azredis_wait(client, 50),
           live_number(&em, "reauths_accepted") == 2), LIVE_SOON);
    json_decref(live_redis(&em, "PUBLISH", "news", "hello", NULL));
    assert_int_equal(azredis_next(sub, &m, LIVE_SOON), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "hello");
    assert_int_equal(live_client_id(client), id);
    assert_int_equal(live_get_number(&em, "n"), n);
    assert_null(azredis_subscribe(client, AZREDIS_CHANNEL, "more", NULL, NULL));     /* there is room for one */
    auth = azredis_client_auth(client);
    assert_int_equal(azredis_auth_rehearse(auth), AZREDIS_E_NOMEM);     /* its blob is the connection's own */
    azredis_auth_release(auth);
    azredis_unsubscribe(sub);
}

static void test_too_small(void **state) {
    azredis_options o = arena_options();
    (void)state;
    needed = o.memory_size = azredis_memory_needed(&o);
    memset(memory, 0xa5, sizeof memory);
    o.memory_size--;
    assert_null(azredis_open(&o));
    o.memory = (char *)memory + 4;
    o.memory_size += 16;
    assert_null(azredis_open(&o));
    o.backlog_count = 100000;           /* more than can be counted */
    assert_int_equal(azredis_memory_needed(&o), 0);
    assert_int_equal(azredis_memory_needed_v(&o, sizeof o, AZREDIS_VERSION + 0x10000), 0);
}

static void test_no_roots(void **state) {
    azredis_options o = arena_options();
    azredis_error why;
    (void)state;
    o.ca = NULL;
    needed = o.memory_size = azredis_memory_needed(&o);
    memset(memory, 0xa5, sizeof memory);
    client = azredis_open(&o);
    assert_int_equal(azredis_connect(client, 1000, &why), AZREDIS_E_ARG);
    assert_has(why.message, "options.ca is missing");
}

/* ---- limits ------------------------------------------------------------------------------------ */

/* An answer of n bytes; what the server sent is one '$' line more. */
static azredis_status get(azredis_reply *r, size_t n) {
    char number[24];
    snprintf(number, sizeof number, "%zu", n - 1);
    assert_int_equal(azredis_command(client, r, "DEL", "big"), AZREDIS_OK);
    assert_int_equal(azredis_command(client, r, "SETRANGE", "big", number, "x"), AZREDIS_OK);
    return azredis_command(client, r, "GET", "big");
}

/* The largest answer that fits, one byte more, one that fits in no buffer: the command ran, the connection lives. */
static void test_answers(void **state) {
    azredis_options o = arena_options();
    azredis_reply r = {0};
    size_t fits = 1024 - strlen("$1015\r\n\r\n"), i;
    int64_t id;
    (void)state;
    o.rx_bytes = 1024;
    o.replies = 1;
    arena_open(&o);
    id = live_client_id(client);
    assert_int_equal(get(&r, fits), AZREDIS_OK);
    assert_int_equal(r.value->len, fits);
    for (i = 0; i < 2; i++) {
        assert_int_equal(get(&r, i ? 300000 : fits + 1), AZREDIS_E_LIMIT);
        assert_int_equal(r.fate, AZREDIS_ANSWERED);
        assert_has(r.error->message, "rx_bytes");
    }
    assert_int_equal(azredis_command(client, &r, "EVAL", "local t={} for i=1,100 do t[i]=i end return t", "0"), AZREDIS_E_LIMIT);
    assert_int_equal(r.fate, AZREDIS_ANSWERED);              /* more nodes than there are */
    assert_int_equal(azredis_command(client, &r, "EVAL", "local t={} for i=1,30 do t[i]=i end return t", "0"), AZREDIS_OK);
    assert_int_equal(r.value->len, 30);
    azredis_reply_free(&r);
    assert_int_equal(live_client_id(client), id);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
}

static void test_long_command(void **state) {
    azredis_options o = arena_options();
    azredis_reply r = {0};
    char value[400];
    size_t n;
    (void)state;
    arena_open(&o);
    memset(value, 'v', sizeof value);
    n = 256 - strlen("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$225\r\n\r\n");
    value[n] = 0;
    assert_int_equal(azredis_command(client, &r, "SET", "k", value), AZREDIS_OK);
    value[n] = 'v';
    value[n + 1] = 0;
    assert_int_equal(azredis_command(client, &r, "SET", "k", value), AZREDIS_E_LIMIT);
    assert_has(r.error->message, "command_bytes");
    azredis_reply_free(&r);
}

static int called, wrong;

static void on_answer(azredis_client *c, const azredis_reply *r, void *user) {
    int64_t n = 0;
    (void)c;
    (void)user;
    called++;
    wrong += r->status != AZREDIS_OK || azredis_int(r->value, &n) != AZREDIS_OK || n != called;
}

static const azredis_str incr[2] = {{"INCR", 4}, {"n", 1}};

/* As many commands as there are slots in one flight, and one place for answers: each gets its own. */
static void test_flight(void **state) {
    azredis_options o = arena_options();
    int round, i;
    (void)state;
    o.replies = 1;
    o.backlog_count = 24;
    arena_open(&o);
    called = wrong = 0;
    for (round = 0; round < 20; round++) {
        for (i = 0; i < 24; i++)
            assert_int_equal(azredis_submit(client, NULL, 2, incr, on_answer, NULL), AZREDIS_OK);
        assert_int_equal(azredis_submit(client, NULL, 2, incr, on_answer, NULL), AZREDIS_AGAIN);
        await((azredis_wait(client, 5), called == 24 * (round + 1)), LIVE_SOON);
    }
    assert_int_equal(wrong, 0);
}

/* Answers that nobody has a place for: the command ran. */
static void test_no_place(void **state) {
    azredis_options o = arena_options();
    azredis_reply a = {0}, b = {0}, fixed = {0};
    static uint64_t buffer[64];
    (void)state;
    o.replies = 1;
    arena_open(&o);
    assert_int_equal(azredis_command(client, &a, "INCR", "n"), AZREDIS_OK);
    assert_int_equal(azredis_command(client, &b, "INCR", "n"), AZREDIS_E_NOMEM);
    assert_int_equal(b.fate, AZREDIS_ANSWERED);
    fixed.mem.ptr = buffer;
    fixed.mem.size = sizeof buffer;
    fixed.mem.fixed = 1;
    assert_int_equal(azredis_command(client, &fixed, "INCR", "n"), AZREDIS_OK);
    assert_int_equal(fixed.value->as.integer, 3);
    azredis_reply_free(&a);
    assert_int_equal(azredis_command(client, &b, "INCR", "n"), AZREDIS_OK);
    azredis_reply_free(&b);
}

/* ---- exactness --------------------------------------------------------------------------------- */

/* Everything at its most: all commands waiting while the subscription is asked for; the largest answer; both places
 * for answers; messages that overflow while one is lent; a token that Redis refuses while the old one serves. */
static void use_all(azredis_options *o) {
    azredis_reply kept = {0};
    azredis_message m;
    azredis_sub *sub;
    uint32_t i;
    needed = o->memory_size = azredis_memory_needed(o);
    memset(memory, 0xa5, sizeof memory);
    client = live_new(&em, o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    called = wrong = 0;
    for (i = 0; i < o->backlog_count; i++)
        assert_int_equal(azredis_submit(client, NULL, 2, incr, on_answer, NULL), AZREDIS_OK);
    await((azredis_wait(client, 20), called == (int)o->backlog_count && sub->state == AZRI_SUB_ACTIVE), LIVE_SOON);
    assert_int_equal(get(&kept, 1000), AZREDIS_OK);
    assert_int_equal(azredis_submit(client, NULL, 2, incr, on_answer, NULL), AZREDIS_OK);
    json_decref(live_redis(&em, "PUBLISH", "news", "first", NULL));
    assert_int_equal(azredis_next(sub, &m, LIVE_SOON), AZREDIS_OK);
    for (i = 0; i <= o->sub_queue; i++) json_decref(live_redis(&em, "PUBLISH", "news", "more", NULL));
    await((azredis_wait(client, 20), live_stats(client).messages_lost == 1), LIVE_SOON);
    live_fault(&em, "auth-reject", NULL, "1");
    await((azredis_wait(client, 20), live_fired(&em, "auth-reject") == 1), LIVE_SOON);
    i = live_stats(client).tokens;
    await((azredis_wait(client, 20), live_stats(client).tokens > i + 1 && live_connected(client)), LIVE_SOON);
    assert_int_equal(wrong, 0);
    assert_string_equal(m.payload.ptr, "first");             /* still lent */
    azredis_reply_free(&kept);
    azredis_unsubscribe(sub);
}

static void test_exact(void **state) {
    azredis_options o = arena_options();
    (void)state;
    o.backlog_count = 5;
    o.sub_queue = 2;
    o.subscriptions = 1;
    o.rx_bytes = 1024;
    use_all(&o);
    print_message("azredis_memory_needed: %zu bytes for a client secret and renewal in place\n", needed);
    assert_int_equal(high_water(1), needed);
}

static void test_exact_reconnect(void **state) {
    azredis_options o = arena_options();
    (void)state;
    o.backlog_count = 5;
    o.sub_queue = 2;
    o.subscriptions = 1;
    o.rx_bytes = 1024;
    o.renewal = AZREDIS_RENEWAL_RECONNECT;
    use_all(&o);
    print_message("azredis_memory_needed: %zu bytes for a client secret and renewal by reconnecting\n", needed);
    assert_int_equal(high_water(1), needed);
}

static azredis_status assertion(void *user, const char *scope, azredis_fetched *out) {
    json_t *made = live_json(&em, "POST", "/assertion", "{}");
    (void)user; (void)scope;
    out->len = (size_t)snprintf(out->token, out->cap, "%s", json_string_value(json_object_get(made, "assertion")));
    json_decref(made);
    return AZREDIS_OK;
}

/* An assertion has its own place beside the token that it brings. */
static void test_exact_assertion(void **state) {
    azredis_options o;
    (void)state;
    live_place(&em, "workload");
    o = arena_options();
    device_id.identity = AZREDIS_ID_CLIENT_ASSERTION;
    device_id.client_id = getenv("AZURE_CLIENT_ID");
    device_id.client_secret = NULL;
    device_id.get_assertion = assertion;
    o.backlog_count = 5;
    o.sub_queue = 2;
    o.subscriptions = 1;
    o.rx_bytes = 1024;
    use_all(&o);
    print_message("azredis_memory_needed: %zu bytes for a client assertion and renewal in place\n", needed);
    assert_int_equal(high_water(1), needed);
}

/* The largest of its forms: an encrypted key in PEM. */
static void test_exact_certificate(void **state) {
    static char pem[AZRI_KEY_FILE_MAX];
    azredis_options o;
    BIO *from = BIO_new_file(getenv("EMULATOR_CERTIFICATE"), "r"), *to = BIO_new(BIO_s_mem());
    X509 *cert = PEM_read_bio_X509(from, NULL, NULL, NULL);
    EVP_PKEY *key;
    int n;
    (void)state;
    (void)BIO_reset(from);
    key = PEM_read_bio_PrivateKey(from, NULL, NULL, NULL);
    assert_true(cert && key && PEM_write_bio_X509(to, cert) == 1);
    assert_int_equal(PEM_write_bio_PKCS8PrivateKey(to, key, EVP_aes_256_cbc(), NULL, 0, NULL, (char *)(uintptr_t)"a word"), 1);
    n = BIO_read(to, pem, sizeof pem);
    assert_in_range(n, 1000, sizeof pem - 1);
    EVP_PKEY_free(key);
    X509_free(cert);
    BIO_free(from);
    BIO_free(to);
    o = arena_options();
    device_id.identity = AZREDIS_ID_CLIENT_CERTIFICATE;
    device_id.client_id = getenv("EMULATOR_CERTIFICATE_CLIENT_ID");
    device_id.client_secret = NULL;
    device_id.certificate = pem;
    device_id.certificate_len = (size_t)n;
    device_id.certificate_password = "a word";
    o.backlog_count = 5;
    o.sub_queue = 2;
    o.subscriptions = 1;
    o.rx_bytes = 1024;
    use_all(&o);
    print_message("azredis_memory_needed: %zu bytes for a certificate with its key and renewal in place\n", needed);
    assert_int_equal(high_water(1), needed);
}

static void test_exact_key(void **state) {
    azredis_options o = arena_options();
    azredis_reply r = {0};
    json_t *reply;
    (void)state;
    reply = live_redis(&em, "ACL", "SETUSER", "someone", "on", ">a word to pass", "~*", "&*", "+@all", NULL);
    json_decref(reply);
    device_id.identity = AZREDIS_ID_PASSWORD;
    device_id.user = "someone";
    device_id.password = "a word to pass";
    o.replies = o.backlog_count = 1;
    arena_open(&o);
    assert_int_equal(azredis_command(client, &r, "PING"), AZREDIS_OK);
    azredis_reply_free(&r);
    print_message("azredis_memory_needed: %zu bytes for a password\n", needed);
    assert_int_equal(high_water(1), needed);
}

/* The last read left nothing to be read; that was long ago. */
static void test_closed_while_idle(void **state) {
    azredis_options o = arena_options();
    long i;
    (void)state;
    arena_open(&o);
    for (i = 1; i <= 4; i++) {
        assert_int_equal(live_incr(client, "n"), 2 * i - 1);
        live_fault(&em, "expire-now", NULL, "1");
        await(live_number(&em, "connections_open") == 0, LIVE_SOON);
        live_await_end(client);
        assert_int_equal(live_incr(client, "n"), 2 * i);   /* fails the test unless it was answered */
    }
    assert_int_equal(live_stats(client).reconnects, 4);
}

/* ---- renewal by reconnecting ------------------------------------------------------------------- */

/* Never two connections at once, no command lost, none answered out of order. */
static void test_reconnect(void **state) {
    azredis_options o = arena_options();
    int i, sent = 0;
    (void)state;
    o.renewal = AZREDIS_RENEWAL_RECONNECT;
    arena_open(&o);
    called = wrong = 0;
    while (live_stats(client).tokens < 3) {
        for (i = 0; i < 3; i++) sent += azredis_submit(client, NULL, 2, incr, on_answer, NULL) == AZREDIS_OK;
        azredis_wait(client, 10);
    }
    await((azredis_wait(client, 10), called == sent), LIVE_SOON);
    assert_int_equal(wrong, 0);
    assert_int_equal(live_get_number(&em, "n"), sent);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 0);
    assert_int_equal(live_stats(client).reauths, 0);
    assert_int_equal(live_number(&em, "connections_opened"), 3);
    assert_int_equal(hook.most_fds, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_small, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_no_roots, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_answers, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_long_command, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_flight, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_no_place, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_exact, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exact_reconnect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exact_assertion, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exact_certificate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exact_key, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_closed_while_idle, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_reconnect, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
