/* Tokens of 3 seconds are renewed and presented in place for more than four lives, once under pipelined
 * load and once with active subscriptions. Client, gateway and real server must agree on every number.
 *   cc -std=gnu11 -I. tests/live/test_rotation.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"

#define TTL "3"
#define LIVES_MS 13000                  /* more than four lives of 3 s */
#define BATCH 32

static live em;

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", TTL, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    live_stop(&em);
    return 0;
}

/* What the server has counted for a command, but for our own questions. */
static long server_calls(const char *command)
{
    char key[64];
    long n;
    snprintf(key, sizeof key, "cmdstat_%s:calls=", command);
    n = live_info(&em, "commandstats", key);
    return strcmp(command, "auth") ? n : n - em.logins;
}

/* Client, gateway and server: n connections, never lost, each renewed in place and always in time. */
static void check_books(azredis_client *const *client, size_t n, long auths_before)
{
    uint32_t tokens = 0, reauths = 0;
    json_t *c, *a, *auth;
    size_t i, firsts = 0;
    for (i = 0; i < n; i++) {
        azredis_stats_data d = live_stats(client[i]);
        assert_int_equal(d.tokens, d.reauths + 1);
        assert_true(d.reauths >= 4);
        assert_int_equal(d.reconnects, 0);
        assert_int_equal(d.reauth_failures + d.token_failures, 0);
        assert_int_equal(d.commands_failed, 0);
        tokens += d.tokens;
        reauths += d.reauths;
    }
    c = live_records(&em);
    a = json_object_get(c, "auths");
    assert_int_equal(json_integer_value(json_object_get(c, "connections_opened")), n);
    assert_int_equal(json_integer_value(json_object_get(c, "connections_open")), n);
    assert_int_equal(json_integer_value(json_object_get(c, "connections_expired")), 0);
    assert_int_equal(json_integer_value(json_object_get(c, "tokens_issued")), tokens);
    assert_int_equal(json_integer_value(json_object_get(c, "token_requests")), tokens);
    assert_int_equal(json_integer_value(json_object_get(c, "reauths_accepted")), reauths);
    assert_int_equal(json_integer_value(json_object_get(c, "auths_total")), reauths + n);
    assert_int_equal(json_array_size(a), reauths + n);
    json_array_foreach(a, i, auth) {
        json_t *left = json_object_get(auth, "seconds_left");
        assert_true(json_is_true(json_object_get(auth, "accepted")));
        assert_string_equal(json_string_value(json_object_get(auth, "user")), em.oid);
        firsts += json_is_null(left);
        if (json_is_real(left) && json_real_value(left) < 0.3)
            fail_msg("AUTH %zu came with %.3f s left", i, json_real_value(left));
    }
    assert_int_equal(firsts, n);
    json_decref(c);
    assert_int_equal(server_calls("hello"), n);
    assert_int_equal(server_calls("auth") - auths_before, reauths + n);
}

/* ---- load ------------------------------------------------------------------------------------ */

static const azredis_str INCR_EXEC[2] = {{"INCR", 4}, {"exec", 4}}, INCR_SUBMIT[2] = {{"INCR", 4}, {"submit", 6}};

typedef struct load { int64_t acknowledged; int in_flight, wrong; } load;

/* Every answer is the next number: none is lost, doubled or given to another. */
static void on_incr(azredis_client *c, const azredis_reply *r, void *user)
{
    load *l = user;
    int64_t n = 0;
    (void)c;
    l->in_flight--;
    if (r->status != AZREDIS_OK || azredis_int(r->value, &n) != AZREDIS_OK || n != ++l->acknowledged)
        l->wrong++;
}

static int64_t run_batch(azredis_client *c, int64_t expected)
{
    azredis_cmd cmd[BATCH];
    azredis_reply r;
    int64_t n = -1;
    uint32_t i;
    memset(&r, 0, sizeof r);
    for (i = 0; i < BATCH; i++)
        cmd[i] = (azredis_cmd){2, INCR_EXEC};
    if (azredis_exec(c, &r, NULL, cmd, BATCH) != AZREDIS_OK)
        fail_msg("exec: %s", r.error->message);
    assert_int_equal(r.value->len, BATCH);
    for (i = 0; i < BATCH; i++) {
        assert_int_equal(azredis_int(&r.value->as.items[i], &n), AZREDIS_OK);
        assert_int_equal(n, ++expected);
    }
    azredis_reply_free(&r);
    return expected;
}

static void test_rotation_under_load(void **state)
{
    azredis_options o = {.client_name = "load"};
    azredis_client *c;
    load l = {0, 0, 0};
    int64_t id, executed = 0, until;
    long auths = server_calls("auth");
    (void)state;
    c = live_open(&em, &o);
    id = live_client_id(c);
    for (until = live_ms() + LIVES_MS; live_ms() < until;) {
        while (l.in_flight < 2 * BATCH) {
            assert_int_equal(azredis_submit(c, NULL, 2, INCR_SUBMIT, on_incr, &l), AZREDIS_OK);
            l.in_flight++;
        }
        executed = run_batch(c, executed);
        assert_int_equal(azredis_wait(c, 2), AZREDIS_OK);
        assert_int_equal(l.wrong, 0);
    }
    await((azredis_wait(c, 5), l.in_flight == 0), LIVE_SOON);
    assert_int_equal(live_client_id(c), id);
    check_books(&c, 1, auths);
    assert_int_equal(live_get_number(&em, "exec"), executed);
    assert_int_equal(live_get_number(&em, "submit"), l.acknowledged);
    assert_int_equal(live_stats(c).commands_ok, executed + l.acknowledged + 2);
    assert_true(executed > 1000 && l.acknowledged > 1000);
    azredis_close(c);
}

/* ---- the other two ways to show a token --------------------------------------------------------- */

static void test_rotation_quiesced_and_by_handover(void **state)
{
    azredis_options o = {.client_name = "other ways"};
    static const azredis_str incr[2][2] = {{{"INCR", 4}, {"quiesced", 8}}, {{"INCR", 4}, {"handover", 8}}};
    azredis_client *c[2];
    azredis_stats_data d;
    load l[2] = {{0, 0, 0}, {0, 0, 0}};
    int64_t until;
    int i;
    (void)state;
    for (i = 0; i < 2; i++) {
        o.reauth = i ? AZREDIS_REAUTH_HANDOVER : AZREDIS_REAUTH_QUIESCED;
        c[i] = live_open(&em, &o);
    }
    for (until = live_ms() + 7000; live_ms() < until;) {
        for (i = 0; i < 2; i++) {
            for (; l[i].in_flight < BATCH; l[i].in_flight++)
                assert_int_equal(azredis_submit(c[i], NULL, 2, incr[i], on_incr, &l[i]), AZREDIS_OK);
            assert_int_equal(azredis_wait(c[i], 1), AZREDIS_OK);
            assert_int_equal(l[i].wrong, 0);
        }
    }
    for (i = 0; i < 2; i++) {
        await((azredis_wait(c[i], 5), l[i].in_flight == 0 && live_stats(c[i]).connections == 1), LIVE_SOON);
        d = live_stats(c[i]);
        assert_int_equal(d.reconnects + d.reauth_failures + d.token_failures, 0);
        assert_int_equal(d.commands_failed, 0);
        assert_int_equal(i ? d.reauths : d.handovers, 0);
        assert_true((i ? d.handovers : d.reauths) >= 2);
        assert_int_equal(d.connects, d.handovers + 1);
        assert_int_equal(live_get_number(&em, incr[i][1].ptr), l[i].acknowledged);
        assert_true(l[i].acknowledged > 1000);
        azredis_close(c[i]);
    }
}

/* ---- subscriptions --------------------------------------------------------------------------- */

/* Takes what has come on a channel; it has to go on from `seen` without a gap. */
static int64_t take_messages(azredis_sub *s, int64_t seen, uint32_t wait_ms)
{
    azredis_message m;
    azredis_status st;
    while ((st = azredis_next(s, &m, wait_ms)) == AZREDIS_OK) {
        assert_int_equal(m.lost, 0);
        assert_int_equal(m.gap, 0);
        assert_int_equal(strtoll(m.payload.ptr, NULL, 10), ++seen);
        wait_ms = 0;
    }
    assert_int_equal(st, AZREDIS_AGAIN);
    return seen;
}

/* PUBLISH's own answer: how many received it. */
static void publish(azredis_client *c, const char *channel, int64_t number)
{
    azredis_reply r;
    int64_t receivers = -1;
    char text[24];
    memset(&r, 0, sizeof r);
    snprintf(text, sizeof text, "%" PRId64, number);
    if (azredis_command(c, &r, "PUBLISH", channel, text) != AZREDIS_OK)
        fail_msg("PUBLISH %s %s: %s", channel, text, r.error->message);
    assert_int_equal(azredis_int(r.value, &receivers), AZREDIS_OK);
    assert_int_equal(receivers, 1);
    azredis_reply_free(&r);
}

static int subscribed(azredis_client *c, const char *channel)
{
    json_t *reply = live_redis(&em, "PUBSUB", "NUMSUB", channel, NULL);
    int n = (int)json_integer_value(json_array_get(reply, 1));
    json_decref(reply);
    azredis_wait(c, 5);
    return n;
}

static void test_rotation_with_subscriptions(void **state)
{
    azredis_options o = {.client_name = "subscriber"}, o2 = {.client_name = "publisher"};
    azredis_client *c[2];
    azredis_sub *own, *other;
    int64_t id[2], sent = 0, got_own = 0, got_other = 0, until;
    long auths = server_calls("auth");
    (void)state;
    c[0] = live_open(&em, &o);
    c[1] = live_open(&em, &o2);
    id[0] = live_client_id(c[0]);
    id[1] = live_client_id(c[1]);
    own = azredis_subscribe(c[0], AZREDIS_CHANNEL, "own", NULL, NULL);
    other = azredis_subscribe(c[0], AZREDIS_CHANNEL, "other", NULL, NULL);
    assert_non_null(own);
    assert_non_null(other);
    await(subscribed(c[0], "own") == 1, LIVE_SOON);
    await(subscribed(c[0], "other") == 1, LIVE_SOON);
    for (until = live_ms() + LIVES_MS; live_ms() < until;) {
        sent++;
        publish(c[0], "own", sent);
        publish(c[1], "other", sent);
        got_own = take_messages(own, got_own, 0);
        got_other = take_messages(other, got_other, 2);
    }
    while (got_own < sent)
        got_own = take_messages(own, got_own, LIVE_SOON);
    while (got_other < sent)
        got_other = take_messages(other, got_other, LIVE_SOON);
    assert_int_equal(take_messages(own, got_own, 50), sent);
    assert_int_equal(live_client_id(c[0]), id[0]);
    assert_int_equal(live_client_id(c[1]), id[1]);
    check_books(c, 2, auths);
    assert_int_equal(live_stats(c[0]).messages, 2 * sent);
    assert_int_equal(live_stats(c[0]).messages_lost, 0);
    assert_true(sent > 300);
    azredis_close(c[0]);
    azredis_close(c[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rotation_under_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rotation_quiesced_and_by_handover, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rotation_with_subscriptions, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
