/* A TLS key may seal so many records and no more, here 1 000: the connection is replaced again and again under commands
 * and a subscription, without a break. Witnesses: the callers, the server's values, the gateway's count of connections.
 *   cc -std=gnu11 -I. tests/live/test_handover.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -lssl -lcrypto -lutil -pthread */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define AZRI_TLS_RECORDS_MAX 1000
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "live.h"
#include "hostile.h"
#include <stdatomic.h>

#define HANDOVERS 6                     /* at least so many in each test */

static live em;
static azredis_client *client, *other;  /* closed by the teardown if the test failed before */
static live_events others;              /* of `other` */

static int setup(void **state)
{
    (void)state;
    memset(&others, 0, sizeof others);
    live_start(&em, "--token-ttl", "20", NULL);
    return 0;
}

static void done(void)
{
    azredis_close(client);
    azredis_close(other);
    client = other = NULL;
}

static int teardown(void **state)
{
    (void)state;
    done();
    live_stop(&em);
    return 0;
}

static uint32_t handovers(void) { return live_stats(client).handovers; }

/* Not one command failed, nobody was told of a break, and each handover was one new connection. */
static void check_books(void)
{
    uint32_t connects = 0, clients = 0;
    azredis_client *c[2];
    json_t *all;
    size_t i;
    c[0] = client;
    c[1] = other;
    for (i = 0; i < 2 && c[i]; i++) {
        azredis_stats_data d;
        /* One that has begun while the last command was answered is ended first. */
        await((azredis_wait(c[i], 5), d = live_stats(c[i]), d.connects == d.handovers + 1), LIVE_SOON);
        assert_int_equal(d.commands_failed, 0);
        assert_int_equal(d.reconnects, 0);
        connects += d.connects;
        clients++;
    }
    for (i = 0; i < 2; i++) {
        const live_events *all_seen = i ? &others : &live_seen;
        assert_int_equal(all_seen->of[AZREDIS_EV_CONNECTION_FAILED], 0);
        assert_int_equal(all_seen->of[AZREDIS_EV_CONNECTION_RESTORED], 0);
        assert_int_equal(all_seen->of[AZREDIS_EV_ERROR_MESSAGE], 0);
        assert_int_equal(live_logged(all_seen, AZRI_LOG_HANDOVER_FAILED), 0);
    }
    await(live_number(&em, "connections_open") == (long)clients, LIVE_SOON);
    all = live_records(&em);
    assert_int_equal(json_integer_value(json_object_get(all, "connections_opened")), connects);
    assert_int_equal(json_integer_value(json_object_get(all, "connections_expired")), 0);
    json_decref(all);
}

/* ---- commands and a subscription ---- */

/* Another client publishes numbers from 1 on, as fast as they are taken. */
static struct {
    atomic_llong sent, taken;
    atomic_int   enough, wrong, on_none, on_two;    /* how many connections a message reached: never none */
} pub;

static void *publish(void *user)
{
    azredis_reply r = {0};
    char text[24];
    int64_t reached = 0;
    (void)user;
    while (!atomic_load(&pub.enough)) {
        if (atomic_load(&pub.sent) - atomic_load(&pub.taken) > 1000) {
            azredis_wait(other, 1);
            continue;
        }
        snprintf(text, sizeof text, "%lld", (long long)atomic_load(&pub.sent) + 1);
        if (azredis_command(other, &r, "PUBLISH", "ch", text) != AZREDIS_OK || azredis_int(r.value, &reached) != AZREDIS_OK)
            atomic_fetch_add(&pub.wrong, 1);
        if (reached < 1) atomic_fetch_add(&pub.on_none, 1);
        if (reached == 2) atomic_fetch_add(&pub.on_two, 1);
        atomic_fetch_add(&pub.sent, 1);
    }
    azredis_reply_free(&r);
    return NULL;
}

/* All that has come; each is the next number. */
static void take_messages(azredis_sub *s)
{
    azredis_message m;
    while (azredis_next(s, &m, 0) == AZREDIS_OK) {
        assert_int_equal(m.lost, 0);
        assert_int_equal(m.gap, 0);
        assert_int_equal(strtoll(m.payload.ptr, NULL, 10), atomic_fetch_add(&pub.taken, 1) + 1);
    }
}

static int subscribed(azredis_client *c)
{
    json_t *reply;
    int there;
    azredis_wait(c, 5);
    reply = live_redis(&em, "PUBSUB", "NUMSUB", "ch", NULL);
    there = json_integer_value(json_array_get(reply, 1)) == 1;
    json_decref(reply);
    return there;
}

static void test_commands_and_messages_across_handovers(void **state)
{
    azredis_options o = {0};
    live_load l = {0};
    azredis_sub *s;
    pthread_t thread;
    int64_t until = live_ms() + 4 * LIVE_SOON, first;
    (void)state;
    memset(&pub, 0, sizeof pub);
    client = live_open(&em, &o);         /* with live_seen */
    o.event_user = &others;             /* it is on another thread */
    other = live_open(&em, &o);
    first = live_client_id(client);
    s = azredis_subscribe(client, AZREDIS_CHANNEL, "ch", NULL, NULL);
    assert_non_null(s);
    await(subscribed(client), LIVE_SOON);
    assert_int_equal(pthread_create(&thread, NULL, publish, NULL), 0);
    while (handovers() < HANDOVERS && live_ms() < until) {
        live_keep_busy(client, &l, 8);
        take_messages(s);
    }
    atomic_store(&pub.enough, 1);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (handovers() < HANDOVERS) fail_msg("only %u handovers", (unsigned)handovers());
    await((azredis_wait(client, 2), take_messages(s), pub.taken == pub.sent), LIVE_SOON);
    live_settle(&em, client, &l);
    take_messages(s);
    assert_int_equal(pub.taken, pub.sent);
    assert_int_equal(pub.wrong + pub.on_none, 0);
    assert_int_equal(l.acknowledged, l.submitted);
    assert_true(live_client_id(client) > first);
    check_books();
    print_message("%lld commands, %lld messages, %u handovers; %d messages came on two connections\n",
                  (long long)l.submitted, (long long)pub.sent, (unsigned)handovers(), (int)pub.on_two);
    assert_true(pub.sent > HANDOVERS * 100 && pub.on_two > 0);
    azredis_unsubscribe(s);
    done();
}

/* ---- many threads ---- */

static void *count_up(void *user)
{
    int64_t *wrong = user, last = 0, n = 0;
    azredis_reply r = {0};
    char key[24];
    snprintf(key, sizeof key, "own:%p", user);
    while (handovers() < HANDOVERS) {
        if (azredis_command(client, &r, "INCR", key) != AZREDIS_OK || azredis_int(r.value, &n) != AZREDIS_OK || n != last + 1)
            ++*wrong;
        last = n;
    }
    azredis_reply_free(&r);
    return NULL;
}

static void test_threads_across_handovers(void **state)
{
    azredis_options o = {0};
    pthread_t thread[4];
    int64_t wrong[4] = {0};
    int i;
    (void)state;
    client = live_new(&em, &o);
    assert_int_equal(azredis_start(client), AZREDIS_OK);
    for (i = 0; i < 4; i++) assert_int_equal(pthread_create(&thread[i], NULL, count_up, &wrong[i]), 0);
    for (i = 0; i < 4; i++) assert_int_equal(pthread_join(thread[i], NULL), 0);
    for (i = 0; i < 4; i++) assert_int_equal(wrong[i], 0);
    check_books();
    done();
}

/* ---- no second connection can be had ---- */

static void test_without_a_second_connection_the_old_one_goes_on(void **state)
{
    azredis_options o = {0};
    int64_t n = 0;
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "refuse", NULL, "*");
    await((n = live_incr(client, "n"), live_fired(&em, "refuse") >= 3), 4 * LIVE_SOON);
    while (n < 2000) assert_int_equal(live_incr(client, "n"), ++n);      /* twice the limit: better than a break */
    assert_int_equal(handovers(), 0);
    assert_true(live_logged(&live_seen, AZRI_LOG_HANDOVER_FAILED) >= 3);
    live_disarm(&em, "refuse");
    await((n = live_incr(client, "n"), handovers() == 1), 4 * LIVE_SOON);
    assert_int_equal(live_get_number(&em, "n"), n);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 0);
    assert_int_equal(live_stats(client).commands_failed, 0);
    done();
}

/* ---- a server that takes a token on a new connection only -------------------------------------------- */

#define SHORT_LIFE 3                    /* seconds */

static atomic_int refused, counted;     /* AUTHs on live connections, INCRs */

static void stubborn_script(peer *p, void *user)
{
    char w[8][64], text[96];
    int n, more = 1, auths = 0;
    (void)user;
    while (more && (n = peer_command(p, w)) > 0) {
        if (!strcmp(w[0], "HELLO")) {
            more = peer_puts(p, "%1\r\n$5\r\nproto\r\n:3\r\n");
        } else if (!strcmp(w[0], "PING") && n > 1) {
            snprintf(text, sizeof text, "$%zu\r\n%s\r\n", strlen(w[1]), w[1]);
            more = peer_puts(p, text);
        } else if (!strcmp(w[0], "AUTH") && auths++) {
            atomic_fetch_add(&refused, 1);
            more = peer_puts(p, "-ERR not on this connection\r\n");
        } else if (!strcmp(w[0], "INCR")) {
            snprintf(text, sizeof text, ":%d\r\n", atomic_fetch_add(&counted, 1) + 1);
            more = peer_puts(p, text);
        } else {
            more = peer_puts(p, "+OK\r\n");
        }
    }
}

static azredis_status short_token(void *user, const char *scope, azredis_fetched *out)
{
    static atomic_int number;
    (void)user, (void)scope;
    out->len = (size_t)snprintf(out->token, 64, "opaque-token-number-%d", atomic_fetch_add(&number, 1));
    out->expires_in = SHORT_LIFE;
    return AZREDIS_OK;
}

/* Renewal in place is refused until shortly before the token's end, for three lives: then another connection takes over,
 * and no command notices. */
static void test_case24_refused_in_place_until_the_end(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_CALLBACK, .get_token = short_token, .user = "someone"};
    azredis_options o = {.plaintext = 1, .identity = &id};
    static hostile server, second;
    char host[32];
    int64_t n = 0, until = live_ms() + 3 * SHORT_LIFE * 1000 + 500;
    (void)state;
    atomic_store(&refused, 0);
    atomic_store(&counted, 0);
    hostile_start(&server, 0, stubborn_script, NULL);
    hostile_beside(&second, &server);
    snprintf(host, sizeof host, "127.0.0.1:%d", server.port);
    o.host = host;
    client = live_open(&em, &o);
    while (live_ms() < until) assert_int_equal(live_incr(client, "n"), ++n);
    assert_in_range(handovers(), 3, 5);
    assert_true(atomic_load(&refused) > (int)handovers());
    assert_int_equal(live_stats(client).reconnects + live_stats(client).commands_failed, 0);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 0);
    assert_int_equal(atomic_load(&counted), n);
    done();
    hostile_stop(&second);
    hostile_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_commands_and_messages_across_handovers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads_across_handovers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_a_second_connection_the_old_one_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case24_refused_in_place_until_the_end, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
