/* Tokens of 3 seconds are renewed and presented in place for more than four lives, once under pipelined
 * load; subscriptions go through ten renewals, in place and by handover. Client, gateway and real server must agree on every number.
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
        assert_int_equal(d.auth_latency.count, d.reauths + d.connects);
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

/* Our counters and the server's, after commands that succeed and that fail: of each word, and of all. */
static void check_commands(azredis_client *c, int64_t incrs)
{
    static const struct { const char *word, *key, *value, *stat; int times; azredis_status st; } row[] = {
        {"SET", "k", "v", "set", 30, AZREDIS_OK}, {"GET", "k", NULL, "get", 50, AZREDIS_OK},
        {"LPUSH", "k", "v", "lpush", 20, AZREDIS_E_REDIS}
    };
    azredis_latency took = live_stats(c).command_latency;
    azredis_stats_data d;
    azredis_reply r = {0};
    uint64_t sum = 0;
    size_t i;
    int n;
    assert_int_equal(server_calls("incr"), incrs);
    assert_int_equal(took.count, incrs + 2);            /* and CLIENT ID twice */
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        long before = server_calls(row[i].stat);
        azredis_str argv[3] = {{row[i].word, strlen(row[i].word)}, {row[i].key, 1}, {row[i].value, 1}};
        for (n = 0; n < row[i].times; n++)
            assert_int_equal(azredis_command_argv(c, &r, NULL, row[i].value ? 3 : 2, argv), row[i].st);
        assert_int_equal(server_calls(row[i].stat) - before, row[i].times);
    }
    azredis_reply_free(&r);
    d = live_stats(c);
    assert_int_equal(d.command_latency.count, took.count + 100);
    assert_int_equal(d.command_latency.count, d.commands_ok + d.commands_failed);
    assert_int_equal(d.commands_failed, 20);
    for (i = 0; i < AZREDIS_LATENCY_PLACES; i++)
        sum += d.command_latency.place[i];
    assert_int_equal(sum, d.command_latency.count);
    assert_true(d.waiting == 0 && d.in_flight == 0 && d.bytes_in > 0 && d.bytes_out > 0);
}

static void test_case20_rotation_under_load(void **state)
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
    check_commands(c, executed + l.acknowledged);
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

#define EVERY_MS 10
#define BURST    10                     /* messages in each EVERY_MS: 1 000 in a second */
#define RENEWALS 10

/* One program's view of the numbered messages. */
typedef struct ear { azredis_sub *sub; int64_t seen; } ear;

/* Takes what has come; it has to go on from what was seen, without a gap and nothing twice. */
static void take_messages(ear *e)
{
    azredis_message m;
    azredis_status st;
    while ((st = azredis_next(e->sub, &m, 0)) == AZREDIS_OK) {
        if (m.lost || m.gap || strtoll(m.payload.ptr, NULL, 10) != e->seen + 1)
            fail_msg("behind %" PRId64 " came %s, %u lost, gap %u", e->seen, m.payload.ptr, m.lost, m.gap);
        e->seen++;
    }
    assert_int_equal(st, AZREDIS_AGAIN);
}

typedef struct witness { int64_t answered; int least, most, wrong; } witness;

/* PUBLISH's own answer: how many subscriptions got it. */
static void on_published(azredis_client *c, const azredis_reply *r, void *user)
{
    witness *w = user;
    int64_t n = -1;
    (void)c;
    w->answered++;
    if (r->status != AZREDIS_OK || azredis_int(r->value, &n) != AZREDIS_OK || n < w->least || n > w->most) {
        w->wrong++;
        print_error("PUBLISH %" PRId64 ": %s, %" PRId64 " subscriptions\n", w->answered,
                    r->error ? r->error->message : "OK", n);
    }
}

static int64_t publish_burst(azredis_client *c, int64_t sent, witness *w)
{
    azredis_str argv[3] = {{"PUBLISH", 7}, {"news.1", 6}, {NULL, 0}};
    char text[24];
    int i;
    for (i = 0; i < BURST; i++) {
        argv[2].ptr = text;
        argv[2].len = (size_t)snprintf(text, sizeof text, "%" PRId64, ++sent);
        assert_int_equal(azredis_submit(c, NULL, 3, argv, on_published, w), AZREDIS_OK);
    }
    return sent;
}

/* RESP3, whose tokens are shown in place, and RESP2, whose subscriptions move to a new connection with each: 1 000
 * messages a second through ten renewals, by name and by pattern; none is missing, none comes twice. */
static void test_case20_and_case23_subscriptions_through_ten_renewals(void **state)
{
    azredis_options o[2] = {{.client_name = "resp3"}, {.client_name = "resp2", .protocol = 2}};
    azredis_client *c[2];
    azredis_error why;
    ear e[4];
    witness w = {0, 4, 6, 0};           /* two channels and two patterns, and the heir of the one over RESP2 */
    int64_t id[2], sent = 0, due, until;
    json_t *counters;
    int i;
    (void)state;
    memset(e, 0, sizeof e);
    for (i = 0; i < 2; i++) {
        c[i] = live_open(&em, &o[i]);
        id[i] = live_client_id(c[i]);
        e[i].sub = azredis_subscribe(c[i], AZREDIS_CHANNEL, "news.1", NULL, NULL);
        e[2 + i].sub = azredis_subscribe(c[i], AZREDIS_PATTERN, "news.*", NULL, NULL);
        assert_int_equal(azredis_subscribed(e[i].sub, LIVE_SOON, &why), AZREDIS_OK);
        assert_int_equal(azredis_subscribed(e[2 + i].sub, LIVE_SOON, NULL), AZREDIS_OK);
    }
    due = live_ms();
    until = due + 40000;
    while (live_stats(c[0]).reauths < RENEWALS || live_stats(c[1]).handovers < RENEWALS) {
        assert_true(live_ms() < until);
        for (; due <= live_ms(); due += EVERY_MS)
            sent = publish_burst(c[0], sent, &w);
        assert_int_equal(azredis_wait(c[0], 2), AZREDIS_OK);
        assert_int_equal(azredis_wait(c[1], 2), AZREDIS_OK);
        for (i = 0; i < 4; i++)
            take_messages(&e[i]);
        assert_int_equal(w.wrong, 0);
    }
    await((azredis_wait(c[0], 5), azredis_wait(c[1], 5), take_messages(&e[0]), take_messages(&e[1]), take_messages(&e[2]),
           take_messages(&e[3]), w.answered == sent && e[0].seen + e[1].seen + e[2].seen + e[3].seen == 4 * sent), LIVE_SOON);
    assert_int_equal(w.wrong, 0);
    assert_true(sent > 10000);
    for (i = 0; i < 2; i++) {
        azredis_stats_data d = live_stats(c[i]);
        assert_int_equal(live_client_id(c[i]), id[i]);      /* commands kept their connection */
        assert_int_equal(d.messages, 2 * sent);
        assert_int_equal(d.messages_lost + d.reconnects + d.reauth_failures + d.token_failures + d.commands_failed, 0);
        assert_true(d.reauths + 1 >= RENEWALS);
    }
    assert_int_equal(live_stats(c[0]).handovers, 0);
    counters = live_records(&em);
    assert_int_equal(json_integer_value(json_object_get(counters, "connections_expired")), 0);
    json_decref(counters);
    azredis_close(c[0]);
    azredis_close(c[1]);
}

/* Case 37: an answer of 40 MiB while subscribed. With a connection of their own for subscriptions it arrives; on the
 * shared one the server counts it against its limit for subscribers, and ends the connection. */
static void test_case37_a_large_answer_beside_a_subscription(void **state)
{
    static const char *const row[] = {"separate", "shared"};
    size_t n = 40u << 20;
    char *big = malloc(n), config[300];
    int i;
    (void)state;
    assert_non_null(big);
    memset(big, 'x', n);
    for (i = 0; i < 2; i++) {
        azredis_options o = {.command_ms = 3 * LIVE_SOON};
        azredis_str set[3] = {{"SET", 3}, {"big", 3}, {NULL, 0}};
        azredis_client *c;
        azredis_reply r;
        azredis_message m;
        azredis_sub *s;
        memset(&r, 0, sizeof r);
        snprintf(config, sizeof config, "%s,pubsub=%s", em.endpoint, row[i]);
        o.config = config;
        o.on_event = live_on_event;
        o.event_user = &live_seen;
        c = azredis_open(&o);
        assert_int_equal(azredis_connect(c, LIVE_SOON, NULL), AZREDIS_OK);
        set[2].ptr = big;
        set[2].len = n;
        if (i == 0)
            assert_int_equal(azredis_command_argv(c, &r, NULL, 3, set), AZREDIS_OK);
        s = azredis_subscribe(c, AZREDIS_CHANNEL, row[i], NULL, NULL);
        assert_int_equal(azredis_subscribed(s, LIVE_SOON, NULL), AZREDIS_OK);
        assert_int_equal(live_stats(c).connections, i ? 1 : 2);
        if (i == 0) {
            assert_int_equal(azredis_command(c, &r, "GET", "big"), AZREDIS_OK);
            assert_int_equal(r.value->len, n);
            assert_int_equal(live_stats(c).reconnects, 0);
        } else {
            assert_int_equal(azredis_command(c, &r, "GET", "big"), AZREDIS_E_CLOSED);
            assert_int_equal(r.fate, AZREDIS_MAYBE_RUN);
            assert_non_null(strstr(r.error->message, "limit for pubsub"));
            assert_non_null(strstr(r.error->message, "options.pubsub"));
            assert_int_equal(azredis_subscribed(s, LIVE_SOON, NULL), AZREDIS_OK);  /* it comes back */
        }
        json_decref(live_redis(&em, "PUBLISH", row[i], "still here", NULL));
        assert_int_equal(azredis_next(s, &m, LIVE_SOON), AZREDIS_OK);
        assert_int_equal(m.gap, i);
        azredis_reply_free(&r);
        azredis_close(c);
    }
    free(big);
}

/* Ten of them last as long as six lives. */
static int setup_ten(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "5", NULL);
    return 0;
}

static int setup_hour(void **state)
{
    (void)state;
    live_start(&em, NULL);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_case20_rotation_under_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rotation_quiesced_and_by_handover, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case20_and_case23_subscriptions_through_ten_renewals, setup_ten, teardown),
        cmocka_unit_test_setup_teardown(test_case37_a_large_answer_beside_a_subscription, setup_hour, teardown),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
