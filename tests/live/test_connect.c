/* Calls while there is no connection: a command that could not be sent says so, one that waits runs once
 * there is a connection, and each failing call ends within its deadline.
 *   cc -std=gnu11 -I. tests/live/test_connect.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"

static live em;
static live_relay relay;
static azredis_client *client;          /* closed by the teardown if the test failed before */

static int setup(void **state)
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

static azredis_client *open_through_relay(azredis_options *o, char host[64])
{
    live_relay_start(&relay, em.gateway_port);
    snprintf(host, 64, "127.0.0.1:%d", relay.port);
    o->host = host;
    o->tls_host = "localhost";
    return live_open(&em, o);
}

static void expect_not_sent(azredis_client *c, int ms, const char *part)
{
    azredis_reply r = {0};
    assert_in_time(azredis_command(c, &r, "INCR", "n"), ms);
    assert_true(r.status < 0);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    assert_non_null(r.error);
    assert_int_equal(r.error->code, r.status);
    assert_has(r.error->message, part);
    assert_null(r.value);
    azredis_reply_free(&r);
}

typedef struct ended { int n, wrong; } ended;

static void on_end(azredis_client *c, const azredis_reply *r, void *user)
{
    ended *e = user;
    (void)c;
    e->n++;
    e->wrong += r->status != AZREDIS_E_CLOSED || r->fate != AZREDIS_NOT_SENT || !r->error;
}

/* Cuts the connection, and waits until the end of it has come to the client's socket. */
static void cut(void)
{
    live_fault(&em, "expire-now", NULL, "1");
    await(live_number(&em, "connections_open") == 0, LIVE_SOON);
    live_await_end(client);
}

/* Cuts the connection and lets no new one in. */
static void shut_out(void)
{
    live_fault(&em, "refuse", NULL, "*");
    cut();
}

static void test_not_sent_while_disconnected(void **state)
{
    azredis_options o = {.command_ms = 700};
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    shut_out();
    expect_not_sent(client, 700, "localhost");
    assert_true(live_fired(&em, "refuse") >= 2);      /* it went on trying */
    live_disarm(&em, "refuse");
    await((azredis_wait(client, 10), live_connected(client)), LIVE_SOON);
    assert_int_equal(live_incr(client, "n"), 2);      /* the failed one never ran */
    done();
}

/* A command that waits for the connection runs once there is one. */
static void test_case30_waits_for_connection(void **state)
{
    azredis_options o = {.command_ms = 5000};
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "refuse", NULL, "2");
    cut();
    assert_int_equal(live_incr(client, "n"), 1);
    assert_int_equal(live_fired(&em, "refuse"), 2);
    done();
}

/* What waits when the client is closed ends then, each once, as not sent. */
static void test_case30_close_ends_what_waits(void **state)
{
    static const azredis_str words[2] = {{"INCR", 4}, {"n", 1}};
    azredis_options o = {.command_ms = 60000};
    ended e = {0};
    int i;
    (void)state;
    client = live_open(&em, &o);
    shut_out();
    for (i = 0; i < 1000; i++)
        assert_int_equal(azredis_submit(client, NULL, 2, words, on_end, &e), AZREDIS_OK);
    azredis_wait(client, 20);
    assert_int_equal(live_stats(client).waiting, 1000);
    assert_int_equal(e.n, 0);
    assert_in_time(done(), 0);
    assert_int_equal(e.n, 1000);
    assert_int_equal(e.wrong, 0);
    live_disarm(&em, "refuse");
    assert_int_equal(live_get_number(&em, "n"), 0);
}

static void test_no_queue_call(void **state)
{
    static const azredis_str words[2] = {{"INCR", 4}, {"n", 1}};
    const azredis_call now_or_never = {.flags = AZREDIS_NO_QUEUE};
    azredis_options o = {0};
    azredis_reply r = {0};
    (void)state;
    client = live_open(&em, &o);
    shut_out();
    assert_in_time(azredis_command_argv(client, &r, &now_or_never, 2, words), 0);
    assert_true(r.status < 0);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    azredis_reply_free(&r);
    done();
}

static void is_on_server(azredis_client *c, const char *part)
{
    azredis_reply r = {0};
    assert_int_equal(azredis_command(c, &r, "CLIENT", "INFO"), AZREDIS_OK);
    assert_has(azredis_text(r.value).ptr, part);
    azredis_reply_free(&r);
}

/* The next connection has the name and the database of the last. */
static void test_name_and_database_return(void **state)
{
    azredis_options o = {.client_name = "who-calls", .database = 3};
    int i;
    (void)state;
    for (i = 0; i < 2; i++) {
        o.protocol = 3 - i;
        client = live_open(&em, &o);
        is_on_server(client, " name=who-calls ");
        is_on_server(client, " db=3 ");
        cut();
        is_on_server(client, " name=who-calls ");
        is_on_server(client, " db=3 ");
        assert_int_equal(live_stats(client).reconnects, 1);
        done();
    }
}

static void test_case30_fail_fast(void **state)
{
    azredis_options o = {.fail_fast = 1};
    int i;
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    shut_out();
    for (i = 0; i < 5; i++)
        expect_not_sent(client, 0, "localhost");
    live_disarm(&em, "refuse");
    await((azredis_wait(client, 10), live_connected(client)), LIVE_SOON);
    assert_int_equal(live_incr(client, "n"), 2);
    done();
}

static void test_abort_on_connect_fail(void **state)
{
    azredis_options o = {.abort_on_connect_fail = 1, .connect_retry = 1};
    azredis_error why = {0};
    (void)state;
    live_fault(&em, "refuse", NULL, "1");
    client = live_new(&em, &o);
    assert_in_time(assert_true(azredis_connect(client, 10000, &why) < 0), 1000);
    assert_has(why.message, "localhost");
    expect_not_sent(client, 0, "localhost");
    expect_not_sent(client, 0, "localhost");
    assert_in_time(assert_true(azredis_connect(client, 10000, &why) < 0), 0);
    assert_int_equal(live_fired(&em, "refuse"), 1);   /* it has ended, though the gateway is open again */
    assert_int_equal(live_number(&em, "connections_opened"), 0);
    done();
}

/* Two tries fail, the third of connect_retry's default is the last one, and here it succeeds. */
static void test_abort_after_three_tries(void **state)
{
    azredis_options o = {.abort_on_connect_fail = 1};
    azredis_error why = {0};
    (void)state;
    live_fault(&em, "refuse", NULL, "2");
    client = live_open(&em, &o);
    assert_int_equal(live_fired(&em, "refuse"), 2);
    done();
    live_fault(&em, "refuse", NULL, "4");
    client = live_new(&em, &o);
    assert_true(azredis_connect(client, 10000, &why) < 0);
    assert_int_equal(live_fired(&em, "refuse"), 5);
    live_disarm(&em, "refuse");
    done();
}

/* It is about the first connection only. */
static void test_abort_spares_later_losses(void **state)
{
    azredis_options o = {.abort_on_connect_fail = 1, .connect_retry = 1};
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "refuse", NULL, "1");
    live_fault(&em, "expire-now", NULL, "1");
    await(live_number(&em, "connections_open") == 0, LIVE_SOON);
    assert_int_equal(live_incr(client, "n"), 1);
    assert_int_equal(live_fired(&em, "refuse"), 1);
    done();
}

static void test_connect_in_time(void **state)
{
    azredis_options o = {0};
    azredis_error why = {0};
    (void)state;
    live_fault(&em, "refuse", NULL, "*");
    client = live_new(&em, &o);
    assert_in_time(assert_true(azredis_connect(client, 800, &why) < 0), 800);
    assert_has(why.message, "localhost");
    live_disarm(&em, "refuse");
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_OK);
    done();
}

/* Whoever waited for nothing is told how it stood: there is no token yet, and one command waits. */
static void is_without_token(const azredis_error *e)
{
    assert_int_equal(e->code, AZREDIS_E_TIMEOUT);
    assert_string_equal(e->at.state, "a token");
    assert_int_equal(e->at.waiting, 1);
    assert_true(e->at.bytes_waiting == 21 && e->at.in_flight == 0);
    assert_int_equal(e->at.last_read_ms, AZREDIS_UNKNOWN);
    assert_int_equal(e->at.token_left_ms, AZREDIS_UNKNOWN);
}

static void test_every_timeout_tells_how_it_stood(void **state)
{
    static const azredis_str words[2] = {{"INCR", 4}, {"n", 1}};
    const azredis_call soon = {.timeout_ms = 50};
    azredis_options o = {.command_ms = AZREDIS_NEVER};
    azredis_error why = {0};
    azredis_reply r = {0};
    azredis_sub *sub;
    (void)state;
    live_fault(&em, "token-hang", NULL, "*");
    client = live_new(&em, &o);
    assert_int_equal(azredis_submit(client, NULL, 2, words, NULL, NULL), AZREDIS_OK);
    assert_int_equal(azredis_connect(client, 50, &why), AZREDIS_E_TIMEOUT);
    is_without_token(&why);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    assert_int_equal(azredis_subscribed(sub, 50, &why), AZREDIS_E_TIMEOUT);
    is_without_token(&why);
    assert_null(azredis_lease_open(client, 50, &why));
    is_without_token(&why);
    assert_int_equal(azredis_command_argv(client, &r, &soon, 2, words), AZREDIS_E_TIMEOUT);
    assert_string_equal(r.error->at.state, "a token");
    azredis_reply_free(&r);
    live_disarm(&em, "token-hang");
    done();
}

/* What the client says of its token and its line. */
static void test_times_of_a_client(void **state)
{
    azredis_options o = {0};
    azredis_stats_data d;
    (void)state;
    client = live_new(&em, &o);
    d = live_stats(client);
    assert_int_equal(d.token_left_ms, AZREDIS_UNKNOWN);
    assert_int_equal(d.last_read_ms, AZREDIS_UNKNOWN);
    assert_int_equal(d.last_write_ms, AZREDIS_UNKNOWN);
    assert_int_equal(azredis_connect(client, LIVE_SOON, NULL), AZREDIS_OK);
    assert_int_equal(live_incr(client, "n"), 1);
    azredis_wait(client, 300);
    d = live_stats(client);
    assert_in_range(d.token_left_ms, 3550 * 1000, 3600 * 1000 - 300);           /* the emulator's hour */
    assert_in_range(d.outage_budget_ms, 3500 * 1000, d.token_left_ms);
    assert_in_range(d.token_next_ms, 3600 * 1000 / 2, d.token_left_ms * 7 / 10);
    assert_in_range(d.last_read_ms, 250, LIVE_SOON);
    assert_in_range(d.last_write_ms, d.last_read_ms, LIVE_SOON);
    done();
}

/* The gateway takes the connection and says nothing; each step has its own deadline. */
static void test_case16_silent_gateway(void **state)
{
    azredis_options o = {.connect_ms = 400, .command_ms = 1000};
    azredis_error why = {0};
    char host[64];
    (void)state;
    client = open_through_relay(&o, host);
    done();
    live_relay_spell(&relay, LIVE_PASS);
    kill(em.pid, SIGSTOP);              /* connect() still succeeds, TLS gets no answer */
    client = live_new(&em, &o);
    /* The authority is stopped too: give the client its token first. */
    kill(em.pid, SIGCONT);
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_OK);
    cut();
    kill(em.pid, SIGSTOP);
    expect_not_sent(client, 1000, "TLS");
    kill(em.pid, SIGCONT);
    await((azredis_wait(client, 10), live_connected(client)), LIVE_SOON);
    assert_int_equal(live_incr(client, "n"), 1);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_not_sent_while_disconnected, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case30_waits_for_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case30_close_ends_what_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_queue_call, setup, teardown),
        cmocka_unit_test_setup_teardown(test_name_and_database_return, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case30_fail_fast, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort_on_connect_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort_after_three_tries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort_spares_later_losses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connect_in_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_timeout_tells_how_it_stood, setup, teardown),
        cmocka_unit_test_setup_teardown(test_times_of_a_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case16_silent_gateway, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
