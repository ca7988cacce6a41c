/* Faults of connections: cut, expired, stalled, refused, a server that restarts or sends the client
 * elsewhere. Each test asks the emulator whether its fault fired as often as armed. Faults of AUTH are in
 * test_auth.c, those of the authority in test_authority.c.
 *   cc -std=gnu11 -I. tests/live/test_faults.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"

static live em;
static azredis_client *client;

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
    live_stop(&em);
    return 0;
}

static void done(void)
{
    azredis_close(client);
    client = NULL;
}

/* ---- connections that end ---------------------------------------------------------------------- */

static void test_case25_expired_under_load(void **state)
{
    azredis_options o = {0};
    live_load l = {0};
    int round;
    long fired = 0;
    (void)state;
    client = live_open(&em, &o);
    for (round = 1; round <= 3; round++) {
        int64_t until = live_ms() + 150;
        while (live_ms() < until)
            live_keep_busy(client, &l, 100);
        live_fault(&em, "expire-now", NULL, "1");
        await((live_keep_busy(client, &l, 100), live_stats(client).reconnects == (uint32_t)round), LIVE_SOON);
    }
    live_settle(&em, client, &l);
    fired = live_fired(&em, "expire-now");
    assert_int_equal(fired, 3);
    assert_int_equal(live_number(&em, "connections_expired"), 3);
    assert_int_equal(l.not_sent, 0);    /* what was not sent waited and was sent later */
    assert_true(l.acknowledged > 300);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 3);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_RESTORED], 3);
    done();
}

/* The answer breaks off after so many bytes, in the handshake or later. */
static void cut_after(const char *fault, const char *bytes, int while_connecting)
{
    azredis_options o = {0};
    live_load l = {0};
    long before = live_fired(&em, fault);
    json_decref(live_redis(&em, "DEL", "n", NULL));
    if (while_connecting)
        live_fault(&em, fault, bytes, "1");
    client = live_open(&em, &o);
    if (!while_connecting)
        live_fault(&em, fault, bytes, "1");
    await((live_keep_busy(client, &l, 50), live_fired(&em, fault) == before + 1), LIVE_SOON);
    await((live_keep_busy(client, &l, 50), live_connected(client)), LIVE_SOON);
    live_settle(&em, client, &l);
    assert_int_equal(l.not_sent, 0);
    done();
}

static void test_case29_cut_answers(void **state)
{
    static const char *const at[] = {"0", "1", "4", "5", "6", "37", "200", "2000"};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof at / sizeof *at; i++)
        cut_after("cut", at[i], 0);
    for (i = 0; i < sizeof at / sizeof *at; i += 2)
        cut_after("cut", at[i], 1);
}

static void test_case29_cut_requests(void **state)
{
    static const char *const at[] = {"0", "1", "20", "21", "500", "3000"};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof at / sizeof *at; i++)
        cut_after("cut-request", at[i], 0);
    for (i = 0; i < sizeof at / sizeof *at; i += 2)
        cut_after("cut-request", at[i], 1);
}

static void test_case19_refused(void **state)
{
    azredis_options o = {0};
    (void)state;
    live_fault(&em, "refuse", NULL, "3");
    client = live_open(&em, &o);
    assert_int_equal(live_fired(&em, "refuse"), 3);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    assert_int_equal(live_number(&em, "tokens_issued"), 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 1);      /* once until restored */
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_RESTORED], 1);
    done();
}

static void test_server_restart(void **state)
{
    azredis_options o = {0};
    live_load l = {0};
    int64_t until = live_ms() + 200, acknowledged;
    (void)state;
    client = live_open(&em, &o);
    while (live_ms() < until)
        live_keep_busy(client, &l, 50);
    live_settle(&em, client, &l);
    assert_int_equal(l.maybe + l.not_sent, 0);
    live_restart_redis(&em);            /* it keeps no data */
    await((azredis_wait(client, 5), live_stats(client).reconnects == 1), LIVE_SOON);
    acknowledged = l.acknowledged;
    l.last = 0;
    until = live_ms() + 200;
    while (live_ms() < until)
        live_keep_busy(client, &l, 50);
    await((azredis_wait(client, 5), live_unfinished(&l) == 0), LIVE_SOON);
    assert_int_equal(l.maybe + l.not_sent + l.disorder, 0);
    assert_int_equal(live_get_number(&em, "n"), l.acknowledged - acknowledged);
    assert_int_equal(live_number(&em, "tokens_issued"), 1);
    done();
}

/* Nothing comes, nothing is closed: calls end in time, and the connection is given up after 10 s. */
static void test_case31_stalled(void **state)
{
    azredis_options o = {.command_ms = 300};
    azredis_reply r = {0};
    int64_t start;
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    live_fault(&em, "stall", NULL, "1");
    start = live_ms();
    assert_in_time(azredis_command(client, &r, "INCR", "n"), 300);
    assert_int_equal(r.status, AZREDIS_E_TIMEOUT);
    assert_int_equal(r.fate, AZREDIS_MAYBE_RUN);
    azredis_reply_free(&r);
    await((azredis_wait(client, 20), live_stats(client).reconnects == 1), LIVE_SOON);
    assert_true(live_ms() - start > 9500 && live_ms() - start < 12000);
    assert_has(live_nth(&live_seen, AZREDIS_EV_CONNECTION_FAILED, 0)->error.message, "nothing came");
    assert_int_equal(live_fired(&em, "stall"), 1);
    assert_int_equal(live_incr(client, "n"), 2);      /* the stalled one was never carried, and is not sent again */
    done();
}

/* Cases 31 and 32: calls end in time, the error says how the connection stood, and the late answers reach nobody else. */
static void test_case31_and_case32_server_stopped(void **state)
{
    azredis_options o = {.command_ms = 200};
    azredis_latency before, after;
    azredis_reply r = {0};
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    before = live_stats(client).command_latency;
    kill(em.redis, SIGSTOP);
    assert_in_time(azredis_command(client, &r, "INCR", "n"), 200);
    kill(em.redis, SIGCONT);
    assert_int_equal(r.status, AZREDIS_E_TIMEOUT);
    assert_int_equal(r.fate, AZREDIS_MAYBE_RUN);
    assert_string_equal(r.error->at.state, "ready");
    assert_true(r.error->at.in_flight == 1 && r.error->at.waiting == 0 && r.error->at.bytes_waiting == 21);
    assert_in_range(r.error->at.last_write_ms, 190, 200 + LIVE_SLACK);
    assert_in_range(r.error->at.last_read_ms, r.error->at.last_write_ms, 5000);
    assert_in_range(r.error->at.token_left_ms, 3500 * 1000, 3600 * 1000);
    azredis_reply_free(&r);
    assert_int_equal(live_incr(client, "n"), 3);        /* not the 2 that comes first */
    after = live_stats(client).command_latency;
    assert_int_equal(after.count, before.count + 2);
    assert_int_equal(after.place[7] + after.place[8] + after.place[9], 1);      /* 100 to 1000 ms */
    assert_true(after.sum_ms >= before.sum_ms + 190);
    assert_int_equal(live_stats(client).reconnects, 0);
    done();
}

static void test_moved(void **state)
{
    azredis_options o = {0};
    azredis_reply r = {0};
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "moved", NULL, "1");
    assert_int_equal(azredis_command(client, &r, "INCR", "n"), AZREDIS_E_CLUSTER);
    assert_int_equal(r.fate, AZREDIS_ANSWERED);
    assert_has(r.error->message, "this cache has the OSS cluster policy");
    assert_has(r.error->message, "Enterprise");
    azredis_reply_free(&r);
    assert_int_equal(live_fired(&em, "moved"), 1);
    assert_int_equal(live_incr(client, "n"), 1);
    assert_int_equal(live_stats(client).reconnects, 0);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_case25_expired_under_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case29_cut_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case29_cut_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case19_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_server_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case31_stalled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case31_and_case32_server_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_moved, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
