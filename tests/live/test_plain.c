/* Plain calls: a program that exists only while it calls. Sleeping here is what is tested.
 * Every call leaves the next one working.
 *   cc -std=gnu11 -I. tests/live/test_plain.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"
#include <netinet/tcp.h>

#define LIFE 3000                       /* ms of a token */

static live em;
static live_relay relay;
static azredis_client *client;          /* closed by the teardown if the test failed before */

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "3", NULL);
    return 0;
}

static int setup_hour(void **state)
{
    (void)state;
    live_start(&em, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_close(client);
    client = NULL;
    live_relay_stop(&relay);
    memset(&relay, 0, sizeof relay);
    live_stop(&em);
    return 0;
}

static void done(void)
{
    azredis_close(client);
    client = NULL;
}

/* ---- sleeping programs ----------------------------------------------------------------------- */

static void test_slept_past_expiry(void **state)
{
    azredis_options o = {0};
    azredis_stats_data d;
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    live_nap(LIFE * 3 / 2);
    assert_in_time(assert_int_equal(live_incr(client, "n"), 2), 2000);
    d = live_stats(client);
    assert_int_equal(d.tokens, 2);
    assert_int_equal(d.reconnects, 1);
    assert_int_equal(d.commands_failed, 0);
    assert_int_equal(live_number(&em, "tokens_issued"), 2);
    assert_int_equal(live_number(&em, "connections_expired"), 1);
    done();
}

static void test_slept_past_soft_point(void **state)
{
    azredis_options o = {0};
    azredis_stats_data d;
    int64_t id;
    (void)state;
    client = live_open(&em, &o);
    id = live_client_id(client);
    live_nap(LIFE * 29 / 40);           /* soft point at 28/40 at the latest, headroom from 30/40 */
    assert_int_equal(live_incr(client, "n"), 1);
    d = live_stats(client);
    assert_int_equal(d.tokens, 2);      /* the call stayed for the renewal, to its end */
    assert_int_equal(d.reauths, 1);
    live_nap(LIFE / 2);                 /* the first token is dead by now */
    assert_int_equal(live_client_id(client), id);
    assert_int_equal(live_stats(client).reconnects, 0);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    done();
}

typedef struct caller {
    pthread_t thread;
    azredis_client *client;
    const char *key;
    int64_t every_ms, calls, slowest;
    uint32_t too_late;                  /* calls that ended when the token was dead, or nearly */
    azredis_error why;                  /* of the first call that failed; code OK: none */
    live_events seen;
} caller;

static void *call_now_and_then(void *user)
{
    caller *k = user;
    azredis_reply r = {0};
    int64_t start = live_ms(), before = start, n = 0;
    while (k->calls < 11 && k->why.code == AZREDIS_OK) {
        int64_t at = start + k->calls * k->every_ms, now = live_ms();
        if (at > now)
            live_nap((long)(at - now));
        now = live_ms();
        if (azredis_command(k->client, &r, "INCR", k->key) != AZREDIS_OK)
            k->why = *r.error;
        else if (azredis_int(r.value, &n) != AZREDIS_OK || n != ++k->calls)
            k->why.code = AZREDIS_E_RESP;
        if (live_ms() - now > k->slowest)
            k->slowest = live_ms() - now;
        k->too_late += live_ms() - before > LIFE * 19 / 20;
        before = now;
    }
    azredis_reply_free(&r);
    return NULL;
}

/* Two programs for ten lives, one that calls once a life and finds each token dead, and one that calls a
 * little more often and finds each token inside the headroom. */
static void test_called_once_a_life(void **state)
{
    static caller k[2];
    uint32_t tokens = 0;
    int i;
    (void)state;
    memset(k, 0, sizeof k);
    k[0].key = "rarely";
    k[0].every_ms = LIFE * 23 / 20;
    k[1].key = "often";
    k[1].every_ms = LIFE * 4 / 5;
    for (i = 0; i < 2; i++) {
        azredis_options o = {.on_event = live_on_event, .event_user = &k[i].seen};
        k[i].client = live_open(&em, &o);
        assert_int_equal(pthread_create(&k[i].thread, NULL, call_now_and_then, &k[i]), 0);
    }
    for (i = 0; i < 2; i++)
        pthread_join(k[i].thread, NULL);
    for (i = 0; i < 2; i++) {
        azredis_stats_data d = live_stats(k[i].client);
        tokens += d.tokens;
        if (k[i].why.code != AZREDIS_OK)
            fail_msg("%s: call %d: %s", k[i].key, (int)k[i].calls + 1, k[i].why.message);
        assert_int_equal(d.commands_failed, 0);
        assert_int_equal(k[i].seen.leaks, 0);
        assert_true(d.tokens >= 10);
        if (i == 0) {
            assert_true(d.reconnects >= 9);
            assert_int_equal(d.reauths, 0);
        } else {
            assert_in_range(d.reconnects, 0, k[i].too_late);
            assert_int_equal(d.reauths + d.reconnects + 1, d.tokens);
        }
        if (k[i].slowest > 1000)        /* that a token has died is no reason to wait */
            fail_msg("%s: a call took %d ms", k[i].key, (int)k[i].slowest);
    }
    assert_int_equal(live_number(&em, "tokens_issued"), tokens);
    assert_int_equal(live_number(&em, "token_errors"), 0);
    for (i = 0; i < 2; i++)
        azredis_close(k[i].client);
}

/* ---- messages -------------------------------------------------------------------------------- */

static void append(azredis_client *c, const azredis_message *m, void *user)
{
    (void)c;
    strncat(user, m->payload.ptr, 1);
}

/* Queued while nobody pumped: all subscriptions' callbacks get them in the order in which they came. */
static void test_messages_in_their_order(void **state)
{
    azredis_options o = {0};
    char got[32] = "";
    const char *sent = "abbaabab";
    size_t i;
    (void)state;
    client = live_open(&em, &o);
    assert_non_null(azredis_subscribe(client, AZREDIS_CHANNEL, "a", append, got));
    assert_non_null(azredis_subscribe(client, AZREDIS_CHANNEL, "b", append, got));
    assert_int_equal(live_incr(client, "n"), 1);        /* behind the SUBSCRIBEs: they have been answered */
    for (i = 0; sent[i]; i++) {
        char channel[2] = {sent[i], '\0'};
        json_decref(live_redis(&em, "PUBLISH", channel, channel, NULL));
    }
    await((azredis_wait(client, 10), strlen(got) == strlen(sent)), LIVE_SOON);
    assert_string_equal(got, sent);
    done();
}

/* ---- connections that died while nobody looked ----------------------------------------------- */

static void test_closed_while_idle(void **state)
{
    azredis_options o = {0};
    long i;
    (void)state;
    client = live_open(&em, &o);
    for (i = 1; i <= 4; i++) {
        assert_int_equal(live_incr(client, "n"), 2 * i - 1);
        live_fault(&em, "expire-now", NULL, "1");
        await(live_number(&em, "connections_open") == 0, LIVE_SOON);
        live_await_end(client);
        assert_int_equal(live_incr(client, "n"), 2 * i);   /* fails the test unless it was answered */
    }
    assert_int_equal(live_fired(&em, "expire-now"), 4);
    assert_int_equal(live_stats(client).reconnects, 4);
    assert_int_equal(live_stats(client).commands_failed, 0);
    assert_int_equal(live_get_number(&em, "n"), 8);
    done();
}

static azredis_client *open_through_relay(azredis_options *o, char host[64])
{
    live_relay_start(&relay, em.gateway_port);
    snprintf(host, 64, "127.0.0.1:%d", relay.port);
    o->host = host;
    o->tls_host = "localhost";
    return live_open(&em, o);
}

static int has_ended(int fd)
{
    struct tcp_info i;
    socklen_t n = sizeof i;
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n), 0);
    return i.tcpi_state == TCP_CLOSE_WAIT || i.tcpi_state == TCP_CLOSE;
}

/* Behind something that was read: the end is seen all the same before anything is written. */
static void test_closed_behind_a_message(void **state)
{
    azredis_options o = {0};
    char host[64];
    azredis_sub *sub;
    azredis_message m;
    long i;
    (void)state;
    client = open_through_relay(&o, host);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    for (i = 1; i <= 4; i++) {
        json_t *got = NULL;
        assert_int_equal(live_incr(client, "n"), 2 * i - 1);
        await((azredis_wait(client, 10), json_decref(got), got = live_redis(&em, "PUBLISH", "news", "x", NULL),
               json_integer_value(got) == 1), LIVE_SOON);
        json_decref(got);
        assert_int_equal(azredis_next(sub, &m, LIVE_SOON), AZREDIS_OK);
        json_decref(live_redis(&em, "PUBLISH", "news", "y", NULL));
        live_await_end(client);         /* so far only the message */
        live_relay_spell(&relay, LIVE_CUT);
        await(has_ended(live_socket(client)), LIVE_SOON);
        assert_int_equal(live_incr(client, "n"), 2 * i);   /* fails the test unless it was answered */
    }
    assert_int_equal(live_stats(client).reconnects, 4);
    assert_int_equal(live_get_number(&em, "n"), 8);
    done();
}

/* Packets vanish: a NAT or a firewall has forgotten the connection. */
static void test_vanished_while_idle(void **state)
{
    azredis_options o = {.keepalive_ms = 150, .command_ms = 4000};
    char host[64];
    long i;
    (void)state;
    client = open_through_relay(&o, host);
    for (i = 1; i <= 3; i++) {
        assert_int_equal(live_incr(client, "n"), 2 * i - 1);
        live_relay_spell(&relay, i == 2 ? LIVE_RESET : LIVE_FREEZE);
        live_nap(200);                  /* idle for longer than keepalive_ms */
        assert_in_time(assert_int_equal(live_incr(client, "n"), 2 * i), 4000);
    }
    assert_int_equal(live_stats(client).reconnects, 3);
    assert_int_equal(live_stats(client).commands_failed, 0);
    assert_int_equal(live_get_number(&em, "n"), 6);
    done();
}

/* The same while azredis_wait is the idle time: the keepalive finds out by itself. */
static void test_vanished_while_waiting(void **state)
{
    azredis_options o = {.keepalive_ms = 150, .command_ms = 1000};
    char host[64];
    (void)state;
    client = open_through_relay(&o, host);
    assert_int_equal(live_incr(client, "n"), 1);
    live_relay_spell(&relay, LIVE_FREEZE);
    await((azredis_wait(client, 20), live_stats(client).reconnects == 1), LIVE_SOON);
    assert_int_equal(live_incr(client, "n"), 2);
    assert_int_equal(live_stats(client).commands_failed, 0);
    done();
}

/* Packets vanish under a command: nobody knows whether it ran, and the call says so in time. */
static void test_vanished_under_command(void **state)
{
    azredis_options o = {.command_ms = 1000};
    azredis_reply r = {0};
    char host[64];
    (void)state;
    client = open_through_relay(&o, host);
    assert_int_equal(live_incr(client, "n"), 1);
    live_relay_spell(&relay, LIVE_FREEZE);
    assert_in_time(azredis_command(client, &r, "INCR", "n"), 1000);
    assert_int_equal(r.status, AZREDIS_E_TIMEOUT);
    assert_int_equal(r.fate, AZREDIS_MAYBE_RUN);
    assert_null(r.value);
    azredis_reply_free(&r);
    assert_int_equal(live_get_number(&em, "n"), 1);
    done();
}

/* ---- large values -------------------------------------------------------------------------------- */

#define LARGE (16u << 20)               /* more than the sockets of the way hold */

static azredis_status set_large(char *value, uint32_t timeout_ms, azredis_fate *fate)
{
    azredis_call how = {.timeout_ms = timeout_ms};
    azredis_str argv[3] = {{"SET", 3}, {"large", 5}, {value, LARGE}};
    azredis_reply r = {0};
    azredis_status st;
    size_t i;
    for (i = 0; i < LARGE; i++) value[i] = (char)('a' + i % 23);
    st = azredis_command_argv(client, &r, &how, 3, argv);
    *fate = r.fate;
    azredis_reply_free(&r);
    memset(value, 'Z', LARGE);          /* the call is over: the value is the caller's again */
    return st;
}

static void large_is_whole(void)
{
    azredis_reply r = {0};
    size_t i;
    assert_int_equal(azredis_command(client, &r, "GET", "large"), AZREDIS_OK);
    assert_int_equal(r.value->len, LARGE);
    for (i = 0; i < LARGE; i++)
        if (r.value->as.str[i] != (char)('a' + i % 23)) fail_msg("byte %lu", (unsigned long)i);
    azredis_reply_free(&r);
}

/* It is sent from where it stands. If its call ends while it is on its way, what was begun is finished. */
static void test_large_value(void **state)
{
    char *value = malloc(LARGE);
    azredis_options o = {.command_ms = LIVE_SOON};
    azredis_fate fate;
    int64_t id;
    (void)state;
    assert_non_null(value);
    client = live_open(&em, &o);
    id = live_client_id(client);
    assert_int_equal(set_large(value, LIVE_SOON, &fate), AZREDIS_OK);
    large_is_whole();
    live_fault(&em, "stall", NULL, "1");
    assert_int_equal(set_large(value, 500, &fate), AZREDIS_E_TIMEOUT);
    assert_int_equal(fate, AZREDIS_MAYBE_RUN);
    live_disarm(&em, "stall");
    large_is_whole();
    assert_int_equal(live_client_id(client), id);
    free(value);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_slept_past_expiry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slept_past_soft_point, setup, teardown),
        cmocka_unit_test_setup_teardown(test_called_once_a_life, setup, teardown),
        cmocka_unit_test_setup_teardown(test_messages_in_their_order, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_closed_while_idle, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_closed_behind_a_message, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_vanished_while_idle, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_vanished_while_waiting, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_vanished_under_command, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_large_value, setup_hour, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
