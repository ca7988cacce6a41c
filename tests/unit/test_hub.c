/* The client's pure half: what is refused, what waits and for how long, connecting again, subscriptions, news (hub.h). */
#include "hub.h"

/* ---- what is refused ---- */

static void case12_commands_that_break_a_shared_connection_are_refused(void **state) {
    static const char *const row[][3] = {
        { "AUTH" }, { "HELLO", "3" }, { "RESET" }, { "QUIT" }, { "MONITOR" }, { "SYNC" }, { "PSYNC" }, { "SELECT", "1" }, { "MULTI" },
        { "EXEC" }, { "DISCARD" }, { "WATCH", "k" }, { "UNWATCH" }, { "SUBSCRIBE", "c" }, { "UNSUBSCRIBE" }, { "PSUBSCRIBE", "*" },
        { "PUNSUBSCRIBE" }, { "SSUBSCRIBE", "c" }, { "SUNSUBSCRIBE" }, { "BLPOP", "k", "0" }, { "BRPOP", "k", "0" }, { "BLMOVE" },
        { "BRPOPLPUSH" }, { "BLMPOP" }, { "BZPOPMIN" }, { "BZPOPMAX" }, { "BZMPOP" }, { "WAIT", "1", "0" }, { "WAITAOF" },
        { "CLIENT", "REPLY", "OFF" }, { "CLIENT", "TRACKING", "ON" }, { "CLIENT", "SETNAME", "x" }, { "XREAD", "BLOCK", "0" },
        { "XREADGROUP", "NOACK", "BLOCK" }
    };
    size_t i, k, n;
    (void)state;
    up();
    for (i = 0; i < COUNT(row); i++)
        for (k = 0; k < 3; k++) {                   /* as it stands, lower, mixed */
            char word[3][24] = { "", "", "" };
            int argc = row[i][2] ? 3 : row[i][1] ? 2 : 1;
            azri_cmd *c;
            azredis_error e;
            for (n = 0; n < (size_t)argc; n++) {
                size_t at;
                snprintf(word[n], sizeof word[n], "%s", row[i][n]);
                for (at = 0; word[n][at]; at++)
                    if (k == 1 || (k == 2 && at % 2)) word[n][at] = azri_lower(word[n][at]);
            }
            if (make(&c, argc, word[0], word[1], word[2], &e) != AZREDIS_E_ARG)
                fail_msg("%s %s passed", word[0], word[1]);
            assert_non_null(strstr(e.message, row[i][0]));
            assert_non_null(strstr(e.message, ": "));           /* and what to do instead */
        }
    assert_string_equal(out(), "");
}

static void near_misses_of_refused_commands_pass(void **state) {
    static const char *const row[][3] = {
        { "CLIENT", "ID" }, { "CLIENT" }, { "CLIENT", "REPLYX" }, { "CLIENT", "INFO", "REPLY" }, { "CLIENT", "GETNAME" }, { "GET", "AUTH" },
        { "XREAD", "STREAMS", "block" }, { "XREAD", "COUNT", "1" }, { "XREADGROUP", "STREAMS", "BLOCK" }, { "AUTHX" }, { "AUT" }, { "LPOP", "BLPOP" },
        { "XRANGE", "BLOCK", "-" }, { "EXECX" }, { "PUBLISH", "c", "SUBSCRIBE" }, { "WAI" }, { "SET", "BLOCK", "1" }, { "\xc1UTH" }, { "AUTH ", "x" }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        azri_cmd *c;
        if (make(&c, row[i][2] ? 3 : row[i][1] ? 2 : 1, row[i][0], row[i][1], row[i][2], NULL) != AZREDIS_OK)
            fail_msg("%s", row[i][0]);
        azri_stock_give(&r.h.stock, c);
    }
}

static void a_command_needs_a_name_and_bytes(void **state) {
    static const azredis_str none = { NULL, 0 }, hole[2] = { { "GET", 3 }, { NULL, 1 } }, empty[2] = { { "GET", 3 }, { NULL, 0 } }, zero = { "\0", 1 },
                             sub[2] = { { "CLIENT", 6 }, { NULL, 5 } }, option[2] = { { "XREAD", 5 }, { NULL, 5 } };
    azri_cmd *c;
    azredis_error e;
    (void)state;
    assert_int_equal(azri_hub_new_cmd(&r.h, 0, hole, 0, &c, &e), AZREDIS_E_ARG);
    assert_int_equal(azri_hub_new_cmd(&r.h, -1, hole, 0, &c, &e), AZREDIS_E_ARG);
    assert_int_equal(azri_hub_new_cmd(&r.h, 1, NULL, 0, &c, &e), AZREDIS_E_ARG);
    assert_int_equal(azri_hub_new_cmd(&r.h, 1, &none, 0, &c, &e), AZREDIS_E_ARG);
    assert_int_equal(azri_hub_new_cmd(&r.h, 2, hole, 0, &c, &e), AZREDIS_E_ARG);
    assert_int_equal(azri_hub_new_cmd(&r.h, 2, empty, 0, &c, &e), AZREDIS_OK);
    assert_memory_equal(c->bytes, "*2\r\n$3\r\nGET\r\n$0\r\n\r\n", 19);
    azri_stock_give(&r.h.stock, c);
    assert_int_equal(azri_hub_new_cmd(&r.h, 1, &zero, 0, &c, &e), AZREDIS_OK);
    azri_stock_give(&r.h.stock, c);
    assert_non_null(r.h.stock.first);          /* the short cut is open to them, too */
    assert_int_equal(azri_hub_new_cmd(&r.h, 2, sub, 0, &c, &e), AZREDIS_E_ARG);
    assert_int_equal(azri_hub_new_cmd(&r.h, 2, option, 0, &c, &e), AZREDIS_E_ARG);
}

/* As azredis_submit does: without a look at the clock. */
static void give_within(uint32_t ms) {
    azri_cmd *c;
    assert_int_equal(make(&c, 2, "GET", "k", "", NULL), AZREDIS_OK);
    c->within = ms;
    submit(c, AZRI_NEVER64 - r.now);
}

static void time_given_without_a_clock_begins_at_the_next_tick(void **state) {
    int connected, first;
    (void)state;
    for (connected = 0; connected <= 1; connected++) {          /* in the backlog, and unanswered */
        if (connected) up();
        first = r.cmds;
        r.now += 1000;
        give_within(100);
        assert_int_equal(give(150), AZREDIS_OK);                /* a deadline of its own, among them */
        give_within(200);
        give_within(AZREDIS_NEVER);
        r.now += 100;
        assert_true(azri_hub_deadline(&r.h, r.now) == r.now);
        if (connected) (void)out();
        tick(r.now);
        assert_true(!connected || azri_hub_deadline(&r.h, r.now) == r.now + 50);
        tick(r.now + 49);
        assert_int_equal(r.end[first + 1].ends, 0);
        tick(r.now + 1);
        assert_int_equal(r.end[first + 1].ends, 1);
        tick(r.now + 49);
        assert_int_equal(r.end[first].ends, 0);
        tick(r.now + 1);
        assert_int_equal(r.end[first].st, AZREDIS_E_TIMEOUT);
        tick(r.now + 99);
        assert_int_equal(r.end[first + 2].ends, 0);
        tick(r.now + 1);
        assert_int_equal(r.end[first + 2].st, AZREDIS_E_TIMEOUT);
        assert_int_equal(r.end[first + 3].ends, 0);
    }
}

/* Whatever queue it is in by then, and whatever has left that queue before. */
static void a_command_takes_its_untold_time_along(void **state) {
    (void)state;
    up();
    give_within(100);
    give_within(100);
    assert_string_equal(sent(r.s, r.now), "GET k, GET k");
    server("+a|");                                              /* the first that has no deadline yet is gone */
    assert_int_equal(r.end[0].st, AZREDIS_OK);
    tick(r.now + 1000);
    tick(r.now + 99);
    assert_int_equal(r.end[1].ends, 0);
    tick(r.now + 1);
    one_is(1, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    give_within(100);
    lost();                                                     /* it goes back into the backlog */
    tick(r.now + 1000);
    tick(r.now + 99);
    assert_int_equal(r.end[2].ends, 0);
    tick(r.now + 1);
    one_is(2, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "");
}

static void case30_as_many_commands_wait_as_the_limit_says(void **state) {
    int connected, i;
    (void)state;
    r.h.conf.backlog_count = 5;
    for (connected = 0; connected <= 1; connected++) {          /* in the backlog, and unanswered */
        if (connected) up();
        for (i = r.cmds; i % 5 != 4; i++) assert_int_equal(give(COMMAND_MS), AZREDIS_OK);
        assert_int_equal(give(COMMAND_MS), AZREDIS_OK);
        assert_int_equal(give(COMMAND_MS), AZREDIS_AGAIN);
        assert_int_equal(give(COMMAND_MS), AZREDIS_AGAIN);
        if (!connected) tick(r.now + COMMAND_MS);
    }
    (void)out();
    assert_int_equal(give(COMMAND_MS), AZREDIS_AGAIN);
    answer(5, 5);
    assert_int_equal(give(COMMAND_MS), AZREDIS_OK);
    assert_int_equal(give(COMMAND_MS), AZREDIS_AGAIN);
}

static void case30_as_many_bytes_wait_as_the_limit_says(void **state) {
    size_t frame = 21, more;                                    /* GET k0 */
    azri_cmd *c;
    azredis_error e;
    (void)state;
    for (more = 0; more <= 2; more++) {                         /* n-1, n, n+1 for the third */
        r.h.conf.backlog_bytes = 3 * frame - 1 + more;
        give_n(2);
        assert_int_equal(give(COMMAND_MS), more ? AZREDIS_OK : AZREDIS_AGAIN);
        assert_int_equal(give(COMMAND_MS), AZREDIS_AGAIN);
        tick(r.now + COMMAND_MS);
    }
    for (more = 0; more <= 2; more++) {                         /* and for one alone */
        r.h.conf.backlog_bytes = frame - 1 + more;
        assert_int_equal(make(&c, 2, "GET", "k0", "", &e), more ? AZREDIS_OK : AZREDIS_E_LIMIT);
        if (more) azri_stock_give(&r.h.stock, c);
    }
    (void)make(&c, 2, "GET", "k0", "", &e);
    r.h.conf.backlog_count = 0;
    azri_stock_give(&r.h.stock, c);
    assert_int_equal(make(&c, 2, "GET", "k0", "", &e), AZREDIS_AGAIN);
    assert_int_equal(e.code, AZREDIS_E_FULL);
    assert_true(e.retryable);
}

/* ---- while there is no connection ---- */

static void case30_fail_fast_fails_at_once_but_only_after_the_first_connection(void **state) {
    (void)state;
    r.h.conf.fail_fast = 1;
    give_n(1);
    assert_int_equal(r.end[0].ends, 0);
    up();
    assert_string_equal(out(), "GET k0");
    give_n(2);
    (void)take(r.s, 21, r.now);
    lost();
    one_is(0, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "cut");
    one_is(1, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "cut");
    one_is(2, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "cut");        /* it was not begun, and nothing waits */
    wire.len = wire.at = 0;
    give_n(1);
    one_is(3, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "not connected: the wire is cut");
    reconnect();
    give_n(1);
    (void)out();
    answer(4, 4);
    ok(4, 4);
}

static void a_command_that_must_not_wait_fails_at_once(void **state) {
    azri_cmd *c;
    (void)state;
    assert_int_equal(make(&c, 1, "PING", "", "", NULL), AZREDIS_OK);
    c->no_queue = 1;
    submit(c, COMMAND_MS);
    one_is(0, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "waiting for a token");
    up();
    assert_int_equal(make(&c, 1, "PING", "", "", NULL), AZREDIS_OK);
    c->no_queue = 1;
    submit(c, COMMAND_MS);
    assert_string_equal(out(), "PING");
    server("+v1|");
    ok(1, 1);
}

static void with_abort_a_first_connection_that_fails_is_the_last(void **state) {
    int was_up;
    (void)state;
    for (was_up = 0; was_up <= 1; was_up++) {
        r.h.conf.abort_on_connect_fail = 1;
        if (was_up) up();
        else token(1);
        if (!was_up) give_n(1);
        if (!was_up) azri_hub_dialing(&r.h, r.s);
        lost_for(AZREDIS_E_NET);
        assert_int_equal(r.h.aborted, !was_up);
        assert_int_equal(azri_hub_may_dial(&r.h, r.s, r.now + HOUR / 2), was_up);
        give_n(1);
        if (!was_up) one_is(0, AZREDIS_E_NET, AZREDIS_NOT_SENT, "cut");
        if (!was_up) one_is(1, AZREDIS_E_NET, AZREDIS_NOT_SENT, "not connected");
        tick(r.now + 100);
        if (was_up) continue;
        assert_true(azri_hub_deadline(&r.h, r.now) == r.now + AZRI_WAIT_MAX);
        (void)end(NULL);
        (void)begin(NULL);
    }
}

/* Cases 29 and 30: as often as connect_retry says; what waits meanwhile is answered, or ends with the last try. */
static void with_abort_a_first_connection_is_tried_as_often_as_told(void **state) {
    int tries, succeeds;
    (void)state;
    for (succeeds = 0; succeeds <= 1; succeeds++) {
        r.h.conf.abort_on_connect_fail = 1;
        r.h.conf.connect_retry = 3;
        token(1);
        give_n(2);
        for (tries = 1; tries <= 3 - succeeds; tries++) {
            assert_int_equal(r.h.aborted + r.end[0].ends, 0);
            assert_true(azri_hub_may_dial(&r.h, r.s, r.now));
            azri_hub_dialing(&r.h, r.s);
            lost_for(AZREDIS_E_NET);
            tick(r.s->dial_at);
        }
        assert_int_equal(r.h.aborted, !succeeds);
        if (!succeeds) {
            one_is(1, AZREDIS_E_NET, AZREDIS_NOT_SENT, "the wire is cut");
            assert_false(azri_hub_may_dial(&r.h, r.s, r.now + HOUR / 2));
        } else {
            welcome();
            assert_string_equal(out(), "GET k0, GET k1");
            answer(0, 1);
            ok(0, 1);
        }
        (void)end(NULL);
        (void)begin(NULL);
    }
    r.h.conf.abort_on_connect_fail = 1;
    r.h.conf.connect_retry = 3;
    token(1);
    azri_hub_dialing(&r.h, r.s);
    lost_for(AZREDIS_E_CERT);                       /* somebody must mend it: no second try */
    assert_int_equal(r.h.aborted, 1);
}

/* What cannot pass by itself ends the waiting; what can does not. */
static void trouble_that_somebody_must_mend_ends_the_waiting(void **state) {
    static const struct { azredis_status why; int ends; } row[] = {
        { AZREDIS_E_CERT, 1 }, { AZREDIS_E_TLS, 1 }, { AZREDIS_E_CLUSTER, 1 }, { AZREDIS_E_NET, 0 }, { AZREDIS_E_DNS, 0 }, { AZREDIS_E_TIMEOUT, 0 }, { AZREDIS_E_RESP, 0 }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        (void)end(NULL);
        (void)begin(NULL);
        token(1);
        give_n(2);
        azri_hub_dialing(&r.h, r.s);
        lost_for(row[i].why);
        give_n(1);
        assert_int_equal(r.end[0].ends + r.end[1].ends + r.end[2].ends, row[i].ends ? 3 : 0);
        if (row[i].ends) one_is(2, row[i].why, AZREDIS_NOT_SENT, "not connected: the wire is cut");
        assert_int_equal(r.s->dial_at - r.now == AZRI_RECONNECT_CAP, row[i].ends);
        assert_int_equal(news_count(&r.h.news, AZREDIS_EV_INTERNAL_ERROR), row[i].why == AZREDIS_E_RESP);
        reconnect();                                            /* it is tried again all the same */
        give_n(1);
        assert_int_equal(r.end[3].ends, 0);
    }
}

static void case30_waiting_commands_expire_with_the_reason(void **state) {
    (void)state;
    give_n(1);
    assert_int_equal(give(1000), AZREDIS_OK);
    assert_true(azri_hub_deadline(&r.h, r.now) == r.now + 1000);
    tick(r.now + 999);
    assert_int_equal(r.end[1].ends, 0);
    tick(r.now + 1);
    one_is(1, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "waiting for a token");
    token(1);
    assert_int_equal(give(100), AZREDIS_OK);
    tick(r.now + 100);
    one_is(2, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "waiting for the next try");
    azri_hub_dialing(&r.h, r.s);
    assert_int_equal(give(100), AZREDIS_OK);
    tick(r.now + 100);
    one_is(3, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "name look-up, TCP, TLS");
    r.s->link = &r;
    azri_hub_opened(&r.h, r.s, r.now);
    assert_int_equal(give(100), AZREDIS_OK);
    tick(r.now + 100);
    one_is(4, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "waiting for the answer to AUTH");
    lost_for(AZREDIS_E_NET);
    assert_int_equal(give(100), AZREDIS_OK);
    tick(r.now + 100);
    one_is(5, AZREDIS_E_NET, AZREDIS_NOT_SENT, "not connected: the wire is cut");
    tick(1000000 + COMMAND_MS);
    one_is(0, AZREDIS_E_NET, AZREDIS_NOT_SENT, "not connected");
    assert_int_equal(r.h.backlog.count, 0);
}

/* The snapshot in the error of command i: its state, commands waiting and in flight, ms since the last read and write. */
static void stood(int i, const char *state, uint32_t waiting, uint32_t in_flight, int64_t read, int64_t written, int64_t left) {
    const azredis_snapshot *at = &r.end[i].why.at;
    if (!at->state || strcmp(at->state, state)) fail_msg("%d: \"%s\" instead of \"%s\"", i, at->state ? at->state : "-", state);
    assert_int_equal(at->waiting, waiting);
    assert_int_equal(at->in_flight, in_flight);
    assert_int_equal(at->last_read_ms, read);
    assert_int_equal(at->last_write_ms, written);
    assert_int_equal(at->token_left_ms, left);
}

static void the_error_of_a_timeout_says_how_the_connection_stood(void **state) {
    azredis_error e;
    azri_cmd *c;
    (void)state;
    assert_int_equal(give(100), AZREDIS_OK);
    assert_int_equal(give(200), AZREDIS_OK);
    tick(r.now + 100);
    stood(0, "a token", 2, 0, AZREDIS_UNKNOWN, AZREDIS_UNKNOWN, AZREDIS_UNKNOWN);
    assert_int_equal(r.end[0].why.at.bytes_waiting, 42);            /* two of "*2 $3 GET $2 k0" */
    token(1);
    tick(r.now + 100);
    stood(1, "the next try to connect", 1, 0, AZREDIS_UNKNOWN, AZREDIS_UNKNOWN, HOUR - 100);
    welcome();
    assert_int_equal(give(300), AZREDIS_OK);
    assert_int_equal(give(300), AZREDIS_OK);
    (void)out();
    r.now += 100;
    answer(2, 2);
    assert_int_equal(give(COMMAND_MS), AZREDIS_OK);
    tick(r.now + 200);
    one_is(3, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "no answer in time");
    stood(3, "ready", 1, 1, 200, 300, HOUR - 400);
    token(2);
    tick(r.now);
    (void)out();                                                    /* AUTH, PING, and GET behind them */
    assert_int_equal(give(1), AZREDIS_OK);
    server("+late|");
    tick(r.now + 100);                                              /* behind an AUTH nobody's time runs out */
    assert_int_equal(r.end[5].ends, 0);
    lost();
    tick(r.now);
    stood(5, "the next try to connect", 1, 0, 100, 100, HOUR - 100);
    give_n(1);
    r.h.conf.backlog_count = 1;
    r.h.room = 0;
    assert_int_equal(make(&c, 1, "PING", "", "", &e), AZREDIS_AGAIN);
    assert_int_equal(e.code, AZREDIS_E_FULL);
    assert_string_equal(e.at.state, "the next try to connect");
    assert_true(e.at.waiting == 1 && e.at.bytes_waiting == 21 && e.at.token_left_ms == HOUR - 100);
    (void)azri_fail(&e, AZREDIS_E_NET, "test", "of no command");
    assert_null(e.at.state);
}

/* Times at and beside each bound; what a late answer took counts as well, and clocks that differ count as none. */
static void answers_are_counted_by_the_time_they_took(void **state) {
    static const uint32_t bounds[] = AZREDIS_LATENCY_BOUNDS;
    const azredis_latency *l = &r.h.stats.command_latency;
    uint64_t sum = 0;
    size_t i;
    (void)state;
    assert_int_equal(COUNT(l->place), COUNT(bounds) + 1);
    r.h.conf.session.command_ms = HOUR;
    up();
    for (i = 0; i <= COUNT(bounds); i++) {
        uint32_t more = i ? bounds[i - 1] + 1 : 0, most = i < COUNT(bounds) ? bounds[i] : 100000;
        assert_int_equal(give(HOUR), AZREDIS_OK);
        assert_int_equal(give(HOUR), AZREDIS_OK);
        (void)out();
        r.now += more;
        server("+a|");
        r.now += most - more;
        server("+b|");
        assert_int_equal(l->place[i], 2);
        assert_int_equal(l->count, 2 * i + 2);
        assert_true(l->sum_ms == (sum += more + most));
    }
    assert_int_equal(give(10), AZREDIS_OK);
    (void)out();
    tick(r.now + 150);
    server("+late|");
    assert_int_equal(l->place[7], 3);
    assert_int_equal(give(HOUR), AZREDIS_OK);
    (void)out();
    r.now -= 2;
    server("+early|");
    assert_int_equal(l->place[0], 3);
    assert_true(l->sum_ms == sum + 150);
}

/* Of AUTH those count that were accepted, from their writing to their answer. */
static void accepted_auths_are_counted_by_the_time_they_took(void **state) {
    const azredis_latency *l = &r.h.stats.auth_latency;
    (void)state;
    token(1);
    assert_int_equal(dial(), 1);
    (void)out();
    r.now += 30;
    server(WELCOME);
    assert_true(l->count == 1 && l->place[5] == 1 && l->sum_ms == 30);
    token(2);
    tick(r.now);
    (void)out();
    r.now += 7;
    server("-ERR not now|@|");
    assert_int_equal(l->count, 1);
    tick(r.s->auth_at);
    (void)out();
    r.now += 7;
    server("+OK|");
    assert_int_equal(l->count, 1);                  /* the fence is not answered yet */
    server("@|");
    assert_true(l->count == 2 && l->place[3] == 1 && l->sum_ms == 37);
}

static void case18_nothing_of_the_backlog_is_written_before_auth_is_confirmed(void **state) {
    int i;
    (void)state;
    give_n(10000);
    assert_int_equal(give(COMMAND_MS), AZREDIS_AGAIN);
    for (i = 1; i <= 2; i++) {
        token((uint32_t)i);
        assert_int_equal(dial(), 1);
        assert_memory_equal(out(), "AUTH", 4);
        assert_null(strstr(wire.words, "GET"));
        server("+OK|" HELLO3 "+OK|+OK|");
        assert_string_equal(out(), "");
        if (i == 1) lost();
        if (i == 1) tick(r.s->dial_at);
    }
    server("@|");
    assert_memory_equal(out(), "GET k0, GET k1, ", 16);
    assert_non_null(strstr(wire.words, "GET k9998, GET k9999"));
    answer(0, 9999);
    ok(0, 9999);
}

static void case30_unsent_commands_go_in_front_of_the_backlog_in_order(void **state) {
    (void)state;
    up();
    give_n(2);
    (void)out();
    give_n(2);
    (void)take(r.s, 4, r.now);                      /* k2 is begun */
    give_n(2);
    lost();
    wire.len = wire.at = 0;
    one_is(0, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "cut");
    one_is(1, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "cut");
    one_is(2, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "cut");
    give_n(2);
    reconnect();
    assert_string_equal(out(), "GET k3, GET k4, GET k5, GET k6, GET k7");
    answer(3, 7);
    ok(3, 7);
}

/* What was given before the connection stopped writing stands in front of what was given after. */
static void commands_of_a_drained_connection_keep_their_order(void **state) {
    (void)state;
    up();
    tick(r.now + HOUR - 1001);
    give_n(1);
    (void)out();
    give_n(2);
    tick(r.now + 1);
    assert_int_equal(r.s->state, AZRI_DRAINING);
    give_n(2);
    assert_string_equal(out(), "");
    assert_int_equal(r.h.backlog.count, 2);
    token(2);
    answer(0, 0);
    tick(r.now);
    reconnect();
    assert_string_equal(out(), "GET k1, GET k2, GET k3, GET k4");
    answer(1, 4);
    ok(0, 4);
}

static void a_released_command_that_came_too_late_is_not_written(void **state) {
    (void)state;
    assert_int_equal(give(100), AZREDIS_OK);
    give_n(1);
    token(1);
    (void)dial();
    (void)out();
    r.now += 200;
    server(WELCOME);
    tick(r.now);
    assert_string_equal(out(), "GET k1");
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "not sent");
}

/* ---- connecting again ---- */

static void reconnecting_backs_off_until_a_connection_has_lived_ten_seconds(void **state) {
    uint64_t top = 200, life;
    int i;
    (void)state;
    token(1);
    for (i = 0; i < 12; i++) {
        azri_hub_dialing(&r.h, r.s);
        lost_for(AZREDIS_E_NET);
        assert_in_range(r.s->dial_at - r.now, 100, top);
        assert_true(azri_hub_deadline(&r.h, r.now) <= r.s->dial_at);
        tick(r.s->dial_at - 1);
        assert_int_equal(dial(), 0);
        tick(r.s->dial_at);
        top = azri_min64(30000, top * 2);
    }
    assert_int_equal(news_count(&r.h.news, AZREDIS_EV_CONNECTION_FAILED), 1);      /* told once */
    for (life = 9999; life <= 10000; life++) {
        welcome();
        r.now += life;
        lost();
        assert_int_equal(r.s->attempts, life < 10000 ? 13 : 1);
        tick(r.s->dial_at);
    }
    assert_int_equal(r.h.stats.connects, 2);
    assert_int_equal(r.h.stats.reconnects, 1);
}

/* 200 clients lose a server at the same moment, and it stays away: of each round of tries, a tenth of its time sees at
 * most a fifth of them, where a tenth each would be even. */
static void case35_many_clients_do_not_come_back_in_step(void **state) {
    int seen[6][10] = {{0}}, client, round, i;
    (void)state;
    for (client = 0; client < 200; client++) {
        (void)end(NULL);
        (void)begin(NULL);
        r.h.rng.state = (uint64_t)client + 1;
        up();
        r.now += 20000;
        for (round = 0; round < 6; round++) {
            if (round) azri_hub_dialing(&r.h, r.s);
            lost_for(AZREDIS_E_NET);
            assert_in_range(r.s->dial_at - r.now, 100, 200u << round);
            seen[round][(r.s->dial_at - r.now - 100) * 10 / ((200u << round) - 99)]++;
            tick(r.s->dial_at);
        }
    }
    for (round = 0; round < 6; round++)
        for (i = 0; i < 10; i++)
            if (seen[round][i] > 40) fail_msg("round %d: %d of 200 in tenth %d", round, seen[round][i], i);
}

static void a_loss_and_its_end_are_told_once(void **state) {
    azri_item *it;
    (void)state;
    up();
    lost();
    it = azri_news_at(&r.h.news, 0);
    assert_int_equal(it->type, AZREDIS_EV_CONNECTION_FAILED);
    assert_true(it->has_error && it->next_try_ms == (int64_t)(r.s->dial_at - r.now));
    tick(r.s->dial_at);
    azri_hub_dialing(&r.h, r.s);
    lost();
    assert_int_equal(news_count(&r.h.news, AZREDIS_EV_CONNECTION_FAILED), 1);
    reconnect();
    assert_int_equal(news_count(&r.h.news, AZREDIS_EV_CONNECTION_RESTORED), 1);
    assert_int_equal(r.h.trouble.code, AZREDIS_OK);
}

static void nothing_is_dialled_without_a_living_token(void **state) {
    (void)state;
    tick(r.now);
    assert_int_equal(dial(), 0);
    token(1);
    assert_int_equal(azri_hub_may_dial(&r.h, r.s, r.now), 1);
    r.now += HOUR;
    assert_int_equal(dial(), 0);
    tick(r.now);
    token(2);
    welcome();
    assert_int_equal(r.s->blob->generation, 2);
}

static void case15_a_token_refused_twice_must_be_mended_by_somebody(void **state) {
    (void)state;
    give_n(1);
    token(1);
    (void)dial();
    (void)out();
    server("-WRONGPASS no|");
    assert_true(r.h.rejected == azri_hash64("token-1", 7));
    assert_null(r.h.blob);                          /* never shown again */
    assert_int_equal(r.end[0].ends, 0);              /* one fresh token may help */
    r.h.rejected = 0;
    tick(r.now + 1);
    assert_int_equal(dial(), 0);
    token(2);
    assert_int_equal(dial(), 1);                     /* at once */
    assert_memory_equal(out(), "AUTH oid token-2, ", 18);
    server("-ERR WRONGPASS no|");
    one_is(0, AZREDIS_E_AUTH, AZREDIS_NOT_SENT, "WRONGPASS");
    give_n(1);
    one_is(1, AZREDIS_E_AUTH, AZREDIS_NOT_SENT, "not connected");
    token(3);
    give_n(1);                                      /* a third one gives hope again */
    assert_int_equal(r.end[2].ends, 0);
    welcome();
    assert_int_equal(r.h.refusals, 0);
    assert_string_equal(out(), "GET k2");
}

static void a_refused_password_is_not_replaced(void **state) {
    azri_blob *b = new_token("pass1234", 1, AZRI_NEVER64, 0);
    (void)state;
    give_n(1);
    azri_hub_token(&r.h, b, r.now);
    azri_blob_drop(b);
    (void)dial();
    (void)out();
    server("-WRONGPASS wrong: pass1234|");
    one_is(0, AZREDIS_E_AUTH, AZREDIS_NOT_SENT, "WRONGPASS wrong: [hidden]");
    assert_non_null(r.h.blob);
    assert_true(r.s->dial_at == r.now + AZRI_RECONNECT_CAP);
}

static void after_a_refused_renewal_the_old_token_is_good_for_a_new_connection(void **state) {
    (void)state;
    up();
    token(2);
    tick(r.now);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    server("@|");
    tick(r.now);
    assert_true(r.h.rejected == azri_hash64("token-2", 7));
    assert_int_equal(r.h.blob->generation, 1);
    lost();
    tick(r.s->dial_at);
    (void)dial();
    assert_memory_equal(out(), "AUTH oid token-1, ", 18);
}

static void case22_a_token_that_came_during_the_handshake_is_presented_after_it(void **state) {
    (void)state;
    token(1);
    (void)dial();
    (void)out();
    give_n(1);
    token(2);
    server(WELCOME);
    tick(r.now);
    assert_string_equal(out(), "AUTH oid token-2, PING N, GET k0");
    server("+OK|@|+v0|");
    ok(0, 0);
    assert_int_equal(r.s->blob->generation, 2);
    lost();
    token(3);                                       /* and one that comes before the next try is the one it is made with */
    reconnect();
    assert_string_equal(out(), "");
    assert_int_equal(r.s->blob->generation, 3);
}

/* ---- subscriptions ---- */

static void case33_subscriptions_return_with_each_connection_and_flag_the_gap(void **state) {
    azredis_sub *a = subscribe("a"), *b = subscribe("b");
    (void)state;
    token(1);
    welcome();
    assert_string_equal(out(), "SUBSCRIBE b, SUBSCRIBE a");
    server(SUBSCRIBED("b") SUBSCRIBED("a") MSG("a", "1") MSG("b", "1"));
    next_is(a, "1", 0, 0);
    lost();
    lost();                                         /* a failed try in between */
    reconnect();
    give_n(1);
    assert_string_equal(out(), "SUBSCRIBE b, SUBSCRIBE a, GET k0");
    server("-NOPERM not b|" SUBSCRIBED("a") "+v0|" MSG("a", "2") MSG("a", "3"));
    ok(0, 0);
    next_is(a, "2", 0, 1);
    next_is(a, "3", 0, 0);
    next_is(b, "1", 0, 0);
    assert_int_equal(b->state, AZRI_SUB_REFUSED);
    assert_int_equal(b->error.code, AZREDIS_E_NOPERM);
    tick(r.now + 1000);
    assert_string_equal(out(), "");                  /* not asked again here */
    lost();
    reconnect();
    assert_string_equal(out(), "SUBSCRIBE b, SUBSCRIBE a");
    server(SUBSCRIBED("b"));
    assert_int_equal(b->state, AZRI_SUB_ACTIVE);
    assert_int_equal(b->error.code, AZREDIS_OK);
}

static void a_full_queue_drops_its_oldest_and_counts(void **state) {
    azredis_sub *s;
    azredis_message m;
    char large[400];
    (void)state;
    up();
    s = subscribe("c");
    (void)out();
    server(SUBSCRIBED("c") MSG("c", "1") MSG("c", "2"));
    assert_int_equal(s->count, 2);                   /* n-1 */
    server(MSG("c", "3"));
    assert_int_equal(s->count, 3);                   /* n */
    assert_int_equal(s->lost, 0);
    server(MSG("c", "4") MSG("c", "5"));
    assert_int_equal(s->count, 3);                   /* n+1: still n */
    next_is(s, "3", 2, 0);
    next_is(s, "4", 0, 0);
    server(MSG("other", "x"));
    next_is(s, "5", 0, 0);
    assert_int_equal(azri_sub_next(s, &m), 0);
    assert_true(r.h.stats.messages == 5 && r.h.stats.messages_lost == 2);
    heap.fail_at = heap.calls + 1;                  /* and one that finds no memory */
    snprintf(large, sizeof large, MSG("c", "%0300d") MSG("c", "7"), 6);
    server(large);
    next_is(s, "7", 1, 0);
}

static void a_steady_stream_needs_no_allocation_once_warm(void **state) {
    azredis_sub *s;
    size_t calls;
    int i, many = AZRI_MSG_SPARES + 10;
    (void)state;
    up();
    s = subscribe("c");
    (void)out();
    server(SUBSCRIBED("c"));
    s->max = 2 * (uint32_t)many;
    for (i = 0; i < many; i++) server(MSG("c", "x"));
    for (i = 0; i < many; i++) next_is(s, "x", 0, 0);
    assert_int_equal(s->spares, AZRI_MSG_SPARES);    /* no more are kept */
    calls = heap.calls;
    for (i = 0; i < 100; i++) {
        server(MSG("c", "y"));
        next_is(s, "y", 0, 0);
    }
    assert_true(heap.calls == calls);
}

/* The flag is not lost with the message that bore it. */
static void a_gap_outlives_the_overflow(void **state) {
    azredis_sub *s;
    (void)state;
    up();
    s = subscribe("c");
    (void)out();
    server(SUBSCRIBED("c"));
    lost();
    reconnect();
    (void)out();
    server(SUBSCRIBED("c") MSG("c", "1") MSG("c", "2") MSG("c", "3") MSG("c", "4") MSG("c", "5"));
    next_is(s, "3", 2, 1);
    next_is(s, "4", 0, 0);
}

static void unsubscribing_finds_a_pending_subscribe(void **state) {
    int answered;
    (void)state;
    for (answered = 0; answered <= 2; answered++) {             /* not sent, sent, answered but not told */
        azredis_sub *s;
        (void)end(NULL);
        (void)begin(NULL);
        up();
        s = subscribe("c");
        if (answered) (void)out();
        if (answered == 2) hear(r.s, SUBSCRIBED("c"), 100, on_frame);
        azri_hub_unsubscribe(&r.h, s);
        azri_hub_sweep_subs(&r.h);                   /* s is gone */
        assert_null(r.h.subs);
        assert_string_equal(out(), answered ? "UNSUBSCRIBE c" : "SUBSCRIBE c, UNSUBSCRIBE c");
        server(answered == 2 ? MSG("c", "1") : SUBSCRIBED("c") MSG("c", "1"));
        server(">3|+unsubscribe|+c|:0|");
        assert_int_equal(r.s->fifo.count, 0);
        assert_int_equal(r.s->state, AZRI_READY);
    }
}

static void one_of_two_on_a_channel_may_go(void **state) {
    azredis_sub *a, *b;
    (void)state;
    up();
    a = subscribe("c");
    b = subscribe("c");
    assert_string_equal(out(), "SUBSCRIBE c, SUBSCRIBE c");
    server(SUBSCRIBED("c") SUBSCRIBED("c") MSG("c", "1"));
    next_is(a, "1", 0, 0);
    azri_hub_unsubscribe(&r.h, a);
    server(MSG("c", "2"));                          /* before it is swept */
    tick(r.now);
    assert_string_equal(out(), "");
    next_is(b, "1", 0, 0);
    next_is(b, "2", 0, 0);
    azri_hub_unsubscribe(&r.h, b);
    tick(r.now);
    assert_string_equal(out(), "UNSUBSCRIBE c");
}

/* Its stream begins with its own confirmation, on every connection; what never began has no gap. */
static void a_stream_begins_when_it_is_confirmed(void **state) {
    azredis_sub *a, *b;
    azredis_message m;
    (void)state;
    up();
    a = subscribe("c");
    b = subscribe("c");
    (void)out();
    server(SUBSCRIBED("c") MSG("c", "1") "-NOPERM not you|");
    next_is(a, "1", 0, 0);
    lost();
    reconnect();
    (void)out();                                    /* the younger one is asked for first */
    server(SUBSCRIBED("c") MSG("c", "2") SUBSCRIBED("c") MSG("c", "3"));
    next_is(b, "2", 0, 0);
    next_is(b, "3", 0, 0);
    next_is(a, "3", 0, 1);
    assert_int_equal(azri_sub_next(a, &m) + azri_sub_next(b, &m), 0);
}

static void nothing_waits(azredis_sub *s) {
    azredis_message m;
    assert_int_equal(azri_sub_next(s, &m), 0);
}

/* The same text as a channel and as a pattern: each is asked for, confirmed, served, refused and ended by itself. */
static void case33_a_channel_and_a_pattern_of_the_same_text_are_two_things(void **state) {
    azredis_sub *c, *p, *again;
    (void)state;
    up();
    c = subscribe("n.*");
    p = psubscribe("n.*");
    assert_string_equal(out(), "SUBSCRIBE n.*, PSUBSCRIBE n.*");
    server(PSUBSCRIBED("n.*"));                     /* not what is due */
    assert_int_equal(r.h.stats.pushes_dropped, 1);
    server(SUBSCRIBED("n.*") MSG("n.*", "1") PMSG("n.*", "n.*", "too early") PSUBSCRIBED("n.*"));
    server(MSG("n.*", "2") PMSG("n.*", "n.*", "2") PMSG("n.*", "n.a", "3") PMSG("n.?", "n.a", "x") MSG("n.a", "x"));
    next_is(c, "1", 0, 0);
    next_is(c, "2", 0, 0);
    nothing_waits(c);
    pnext_is(p, "n.*", "2", 0, 0);
    pnext_is(p, "n.a", "3", 0, 0);
    nothing_waits(p);
    again = psubscribe("n.*");
    assert_string_equal(out(), "PSUBSCRIBE n.*");
    server("-NOPERM not you|" PMSG("n.*", "n.b", "4"));
    assert_int_equal(again->error.code, AZREDIS_E_NOPERM);
    nothing_waits(again);
    azri_hub_unsubscribe(&r.h, again);
    azri_hub_unsubscribe(&r.h, c);
    assert_string_equal(out(), "UNSUBSCRIBE n.*");
    server(">3|+unsubscribe|+n.*|:1|" PMSG("n.*", "n.c", "5"));
    tick(r.now);
    pnext_is(p, "n.b", "4", 0, 0);
    pnext_is(p, "n.c", "5", 0, 0);
    lost();
    reconnect();
    assert_string_equal(out(), "PSUBSCRIBE n.*");
    server(PSUBSCRIBED("n.*") PMSG("n.*", "n.d", "6"));
    pnext_is(p, "n.d", "6", 0, 1);
    azri_hub_unsubscribe(&r.h, p);
    assert_string_equal(out(), "PUNSUBSCRIBE n.*");
    server(">3|+punsubscribe|+n.*|:0|");
    assert_int_equal(r.s->fifo.count, 0);
}

/* One of two handlers goes: the server is not asked, the other hears on. The last one's going ends it. */
static void one_of_two_on_a_pattern_may_go(void **state) {
    azredis_sub *p[2];
    (void)state;
    up();
    p[0] = psubscribe("*");
    p[1] = psubscribe("*");
    (void)subscribe("*");
    (void)out();
    server(PSUBSCRIBED("*") PSUBSCRIBED("*") SUBSCRIBED("*") PMSG("*", "a", "1"));
    pnext_is(p[0], "a", "1", 0, 0);
    pnext_is(p[1], "a", "1", 0, 0);
    azri_hub_unsubscribe(&r.h, p[0]);
    tick(r.now);
    assert_string_equal(out(), "");
    server(PMSG("*", "b", "2"));
    pnext_is(p[1], "b", "2", 0, 0);
    azri_hub_unsubscribe(&r.h, p[1]);
    assert_string_equal(out(), "PUNSUBSCRIBE *");
}

static void odd_pmessages_reach_nobody(void **state) {
    static const char *const row[] = { ">3|+pmessage|+*|+a|", ">4|+message|+*|+a|+x|", ">4|+pmessage|:1|+a|+x|",
                                       ">4|+pmessage|+*|_|+x|", ">4|+pmessage|+*|+a|*0|", ">5|+pmessage|+*|+a|+x|+y|" };
    azredis_sub *p;
    size_t i;
    (void)state;
    up();
    p = psubscribe("*");
    (void)out();
    server(PSUBSCRIBED("*"));
    for (i = 0; i < sizeof row / sizeof row[0]; i++) server(row[i]);
    assert_true(p->count == 0 && r.h.stats.pushes_dropped == i);
    assert_int_equal(r.s->state, AZRI_READY);
}

/* What a full queue does: messages "1" to "6" come, and 2 of 2 bytes each find room. */
static void a_queue_is_bounded_in_messages_and_in_bytes(void **state) {
    int policy, by_bytes;
    (void)state;
    for (policy = 0; policy < 3; policy++) {
        for (by_bytes = 0; by_bytes < 2; by_bytes++) {
            azredis_sub *s;
            (void)end(NULL);
            (void)begin(NULL);
            up();
            s = new_sub(AZREDIS_CHANNEL, "c");
            s->overflow = (azredis_overflow)policy;
            s->max = by_bytes ? 100 : 2;
            s->max_bytes = by_bytes ? 5 : 100;
            (void)listen_to(s);
            (void)out();
            server(SUBSCRIBED("c") MSG("c", "1") MSG("c", "2"));
            assert_true(s->count == 2 && s->bytes == 4 && r.h.stats.messages_lost == 0);
            server(MSG("c", "3") MSG("c", "4"));
            assert_true(s->count == 2 && s->bytes == 4);
            if (policy == AZREDIS_OVERFLOW_OLDEST) {
                next_is(s, "3", 2, 0);
                next_is(s, "4", 0, 0);
                if (by_bytes) {                     /* a large one needs the room of two, one that never fits goes */
                    server(MSG("c", "5") MSG("c", "6") MSG("c", "7890") MSG("c", "12345") MSG("c", ""));
                    assert_true(s->count == 1 && s->bytes == 1);
                    next_is(s, "", 4, 0);
                }
            } else if (policy == AZREDIS_OVERFLOW_NEWEST) {
                next_is(s, "1", 0, 0);
                server(MSG("c", "5"));
                next_is(s, "2", 0, 0);
                next_is(s, "5", 2, 0);              /* told where they are missing */
            } else {
                assert_string_equal(out(), "UNSUBSCRIBE c");
                assert_int_equal(r.h.news.count, 1);
                assert_int_equal(azri_news_at(&r.h.news, 0)->type, AZREDIS_EV_ERROR_MESSAGE);
                server(">3|+unsubscribe|+c|:0|" MSG("c", "5"));
                next_is(s, "1", 0, 0);
                next_is(s, "2", 0, 0);
                assert_int_equal(s->error.code, AZREDIS_E_LIMIT);
                assert_int_equal(r.h.stats.messages_lost, 1);
                lost();
                reconnect();
                assert_string_equal(out(), "");     /* it does not come back */
                azri_hub_unsubscribe(&r.h, s);
                assert_string_equal(out(), "");
                tick(r.now);
                assert_null(r.h.subs);
                continue;
            }
            nothing_waits(s);
            assert_int_equal(s->bytes, 0);
        }
    }
}

static void a_queue_that_closes_leaves_others_alone(void **state) {
    azredis_sub *narrow, *wide;
    (void)state;
    up();
    wide = subscribe("c");
    narrow = new_sub(AZREDIS_CHANNEL, "c");
    narrow->overflow = AZREDIS_OVERFLOW_CLOSE;
    narrow->max = 1;
    (void)listen_to(narrow);
    (void)out();
    server(SUBSCRIBED("c") SUBSCRIBED("c") MSG("c", "1") MSG("c", "2") MSG("c", "3"));
    assert_string_equal(out(), "");
    next_is(wide, "1", 0, 0);
    next_is(wide, "2", 0, 0);
    next_is(wide, "3", 0, 0);
    next_is(narrow, "1", 0, 0);
    nothing_waits(narrow);
    azri_hub_unsubscribe(&r.h, wide);
    assert_string_equal(out(), "UNSUBSCRIBE c");     /* the closed one needs it no more */
}

/* Each finds its own among a thousand, whatever has gone meanwhile. */
static void among_a_thousand_subscriptions_each_gets_its_own(void **state) {
    enum { MANY = 1000 };
    static azredis_sub *s[MANY];
    char text[64];
    int i;
    (void)state;
    r.h.conf.backlog_count = 2 * MANY;
    up();
    for (i = 0; i < MANY; i++) {
        snprintf(text, sizeof text, "ch%d", i / 2);
        s[i] = i % 2 ? psubscribe(text) : subscribe(text);
    }
    while (*out()) {}
    for (i = 0; i < MANY; i++) {
        snprintf(text, sizeof text, ">3|+%ssubscribe|+ch%d|:1|", i % 2 ? "p" : "", i / 2);
        server(text);
    }
    for (i = 0; i < MANY; i += 3) azri_hub_unsubscribe(&r.h, s[i]);
    tick(r.now);
    while (*out()) {}
    for (i = 0; i < MANY; i++) {
        snprintf(text, sizeof text, i % 2 ? PMSG("ch%d", "x", "%d") : MSG("ch%d", "%d"), i / 2, i);
        server(text);
    }
    for (i = 0; i < MANY; i++) {
        if (i % 3 == 0) continue;
        snprintf(text, sizeof text, "%d", i);
        if (i % 2) pnext_is(s[i], "x", text, 0, 0);
        else next_is(s[i], text, 0, 0);
        nothing_waits(s[i]);
    }
}

static void without_memory_subscribing_is_tried_again(void **state) {
    (void)state;
    up();
    (void)subscribe("c");                           /* asked; now the same without memory and pool */
    (void)subscribe("d");
    (void)out();
    lost();
    (void)tick(r.s->dial_at);
    (void)dial();
    (void)out();
    while (r.h.stock.first) {
        azri_cmd *c = r.h.stock.first;
        r.h.stock.first = c->next;
        azredis_reply_free(&c->own);
        heap_free(NULL, c, sizeof *c + c->room);
    }
    r.h.stock.count = 0;
    hear(r.s, "+OK|" HELLO3 "+OK|+OK|", 4096, on_frame);
    heap.fail_at = heap.calls + 1;
    server("@|");
    assert_string_equal(out(), "SUBSCRIBE c");
    tick(r.now);
    assert_string_equal(out(), "SUBSCRIBE d");
}

/* ---- memory ---- */

static void ten_thousand_commands_need_no_allocation_once_warm(void **state) {
    size_t calls = 0, live = 0;
    int i;
    (void)state;
    up();
    for (i = 0; i < 10100; i++) {
        if (i == 100) {
            calls = heap.calls;
            live = heap.live;
        }
        give_n(1);
        (void)out();
        server("*2|$5|value|:1|");
        one_is(i, AZREDIS_OK, AZREDIS_ANSWERED, "");
    }
    assert_int_equal(heap.calls, calls);
    assert_int_equal(heap.live, live);
}

static void the_pool_does_not_hoard_large_answers(void **state) {
    static char big[70000];
    int i;
    size_t live;
    (void)state;
    up();
    memset(big, 'x', sizeof big);
    memcpy(big, "$65000|", 7);
    strcpy(big + 65007, "|");
    live = heap.live;
    give_n(64);
    (void)out();
    for (i = 0; i < 64; i++) server(big);
    assert_int_equal(r.s->fifo.count, 0);
    assert_true(heap.live < live + 64 * 4096);      /* not 64 x 65 000 */
}

static char *value_of(size_t n) {
    static char value[AZRI_LARGE_ROOM + 1];
    memset(value, 'x', n);
    value[n] = '\0';
    return value;
}

static void set_value_of(size_t n) {
    char answer_to[16];
    azri_cmd *c;
    assert_int_equal(make(&c, 3, "SET", "k", value_of(n), NULL), AZREDIS_OK);
    snprintf(answer_to, sizeof answer_to, "+v%d|", r.cmds);
    submit(c, COMMAND_MS);
    assert_memory_equal(out(), "SET k xxx", 9);
    server(answer_to);
}

/* The largest yet is kept, until nothing happens any more. */
static void large_commands_share_one_object(void **state) {
    size_t live, calls, head = 4 + 9 + 7 + 10;       /* of SET k and a value of five digits */
    azri_cmd *c;
    (void)state;
    up();
    set_value_of(5000);
    live = heap.live;
    calls = heap.calls;
    set_value_of(300);
    set_value_of(5000);
    assert_int_equal(heap.calls, calls);
    set_value_of(5001);
    assert_int_equal(heap.live, live + 1);
    give_n(1);
    azri_hub_idle(&r.h);                             /* somebody is there */
    assert_non_null(r.h.stock.large);
    (void)out();
    server("+v4|");
    azri_hub_idle(&r.h);
    assert_null(r.h.stock.large);
    live = heap.live;
    assert_int_equal(make(&c, 3, "SET", "k", value_of(AZRI_LARGE_ROOM - head), NULL), AZREDIS_OK);
    assert_int_equal(c->len, AZRI_LARGE_ROOM);
    azri_stock_give(&r.h.stock, c);
    assert_non_null(r.h.stock.large);
    azri_hub_idle(&r.h);
    assert_int_equal(make(&c, 3, "SET", "k", value_of(AZRI_LARGE_ROOM - head + 1), NULL), AZREDIS_OK);
    azri_stock_give(&r.h.stock, c);
    assert_null(r.h.stock.large);
    assert_int_equal(heap.live, live);
}

static void large_commands_and_large_bursts_are_given_back(void **state) {
    int i;
    (void)state;
    up();
    heap.secret = "xxxxxxxxxxxxxxxx";
    set_value_of(1000);
    azri_hub_idle(&r.h);
    assert_int_equal(heap.leaks, 0);                 /* its arguments were wiped */
    for (i = 0; i < 3000; i++) give_n(1);
    lost_for(AZREDIS_E_CERT);
    assert_int_equal(r.h.stock.count, AZRI_POOL_MAX);
}

static void any_allocation_may_fail_and_nothing_is_lost(void **state) {
    size_t k;
    int whole = 0;
    (void)state;
    (void)end(NULL);
    for (k = 1; !whole; k++) {
        azri_blob *b;
        memset(&heap, 0, sizeof heap);
        heap.fail_at = k;
        if (began()) {
            b = azri_blob_new(&mem, "oid", azri_str("token-1"));
            if (b) azri_hub_token(&r.h, b, r.now);
            azri_blob_drop(b);
            (void)give(COMMAND_MS);
            if (dial()) {
                (void)out();
                server(WELCOME);
                (void)out();
                if (r.cmds && r.s->state == AZRI_READY) answer(0, 0);
                whole = r.cmds && r.end[0].st == AZREDIS_OK && heap.calls < k;
                if (r.end[0].ends && r.end[0].st != AZREDIS_OK) one_is(0, AZREDIS_E_NOMEM, AZREDIS_ANSWERED, "");
            }
        }
        (void)end(NULL);
    }
    assert_in_range(k, 6, 40);
    (void)begin(NULL);
}

/* ---- news ---- */

static uint32_t news_told(azri_news *n) {
    uint32_t told = 0;
    unsigned i;
    for (i = 0; i < n->count; i++) told += 1 + azri_news_at(n, i)->dropped;
    return told + n->dropped;
}

static void a_full_ring_drops_what_is_below_warning_first(void **state) {
    azri_news *n = &r.h.news;
    azredis_error e;
    unsigned i;
    (void)state;
    n->level = AZREDIS_LOG_DEBUG;
    (void)azri_fail(&e, AZREDIS_E_NET, "w", "why");
    for (i = 0; i < AZRI_NEWS_MAX / 2; i++) {
        azri_log(n, AZREDIS_LOG_WARNING, 1, "w%u", i);
        azri_log(n, AZREDIS_LOG_INFO, 2, "i%u", i);
    }
    for (i = 0; i < AZRI_NEWS_MAX / 2; i++) (void)azri_news_add(n, AZREDIS_EV_CONNECTION_FAILED, &e);
    assert_int_equal(n->count, AZRI_NEWS_MAX);
    for (i = 0; i < AZRI_NEWS_MAX; i++) {           /* all lines of information are gone, nothing else, in order */
        azri_item *it = azri_news_at(n, i);
        char want[8];
        snprintf(want, sizeof want, "w%u", i);
        assert_int_equal(it->type, i < AZRI_NEWS_MAX / 2 ? AZREDIS_EV_LOG : AZREDIS_EV_CONNECTION_FAILED);
        if (it->type == AZREDIS_EV_LOG) assert_string_equal(it->text, want);
    }
    assert_int_equal(news_told(n), 3 * AZRI_NEWS_MAX / 2);
    (void)azri_news_add(n, AZREDIS_EV_INTERNAL_ERROR, &e);      /* then the oldest of all */
    assert_string_equal(azri_news_at(n, 0)->text, "w1");
    assert_int_equal(azri_news_at(n, AZRI_NEWS_MAX - 1)->type, AZREDIS_EV_INTERNAL_ERROR);
    assert_int_equal(azri_news_at(n, AZRI_NEWS_MAX - 1)->dropped, 1);
}

/* Whatever is thrown away, the counts on what is left account for all of it. */
static void no_dropped_line_is_forgotten(void **state) {
    azri_news *n = &r.h.news;
    unsigned i;
    (void)state;
    n->level = AZREDIS_LOG_DEBUG;
    for (i = 1; i <= 100; i++) {
        azri_log(n, i % 9 ? AZREDIS_LOG_DEBUG : AZREDIS_LOG_ERROR, 1, "line");
        if (i % 40 == 0) {
            n->first = (n->first + 1) % AZRI_NEWS_MAX;          /* the reader takes one in between */
            n->count--;
        }
        if (i < 40) assert_int_equal(news_told(n), i);
    }
    assert_int_equal(n->count, AZRI_NEWS_MAX);
}

static void lines_above_the_level_are_not_kept(void **state) {
    azri_news *n = &r.h.news;
    (void)state;
    azri_log(n, AZREDIS_LOG_INFO, 1, "no");
    azri_log(n, AZREDIS_LOG_WARNING, 2, "%s", "yes");
    assert_int_equal(n->count, 1);
    assert_int_equal(azri_news_at(n, 0)->number, 2);
    assert_true(azri_news_at(n, 0)->old_left_ms == AZREDIS_UNKNOWN &&
                azri_news_at(n, 0)->next_try_ms == AZREDIS_UNKNOWN);
    n->level = AZREDIS_LOG_NONE;
    azri_log(n, AZREDIS_LOG_ERROR, 3, "no");
    assert_int_equal(n->count, 1);
}

/* ---- values that stay with the caller ---- */

static char big[AZRI_LEND + 4321];

/* "SET k <big>" of a caller who waits. */
static void give_big(uint64_t ms) {
    azredis_str argv[3];
    azri_cmd *c;
    azredis_error e;
    size_t i;
    for (i = 0; i < sizeof big; i++) big[i] = (char)('a' + i % 23);
    argv[0] = azri_str("SET");
    argv[1] = azri_str("k");
    argv[2] = azri_slice(big, sizeof big);
    assert_int_equal(azri_hub_new_cmd(&r.h, 3, argv, 1, &c, &e), AZREDIS_OK);
    assert_ptr_equal(c->value, big);
    submit(c, ms);
}

/* Writes what may be written in pieces of `cap`; returns how much of it was not copied. */
static size_t write_all(size_t cap, int lend) {
    size_t n, lent = 0;
    for (;;) {
        const char *p = wire.bytes + wire.len;
        n = azri_session_output(r.s, wire.bytes + wire.len, cap, r.now, lend ? &p : NULL);
        if (n == 0) return lent;
        assert_true(n <= cap);
        if (p != wire.bytes + wire.len) {
            assert_true(p >= big && p + n <= big + sizeof big);
            memcpy(wire.bytes + wire.len, p, n);
            lent += n;
        }
        wire.len += n;
    }
}

/* The frame of "SET k <big>" stands in wire at `at`. */
static size_t big_is_at(size_t at) {
    size_t head = (size_t)sprintf(wire.words, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%u\r\n", (unsigned)sizeof big), i;
    assert_true(at + head + sizeof big + 2 <= wire.len);
    assert_memory_equal(wire.bytes + at, wire.words, head);
    for (i = 0; i < sizeof big; i++) assert_int_equal(wire.bytes[at + head + i], 'a' + i % 23);
    assert_memory_equal(wire.bytes + at + head + sizeof big, "\r\n", 2);
    return at + head + sizeof big + 2;
}

static void a_lent_value_is_written_from_where_it_stands(void **state) {
    static const size_t caps[] = { 1, 2, 7, 24, 25, 4096, AZRI_LEND - 1, sizeof big, 65536 };
    size_t i, lend, at;
    (void)state;
    up();
    for (i = 0; i < COUNT(caps); i++)
        for (lend = 0; lend <= 1; lend++) {
            int first = r.cmds;
            wire.len = wire.at = 0;
            give_n(1);
            give_big(COMMAND_MS);
            give_n(1);
            assert_int_equal(write_all(caps[i], (int)lend), lend ? sizeof big : 0);
            at = big_is_at(first < 10 ? 21 : 22);
            assert_memory_equal(wire.bytes + at, "*2\r\n$3\r\nGET\r\n", 13);
            wire.len = wire.at = 0;
            answer(first, first + 2);
            ok(first, first + 2);
        }
}

static void only_a_large_argument_is_lent(void **state) {
    azredis_str argv[3];
    azri_cmd *c;
    size_t n;
    (void)state;
    for (n = AZRI_LEND - 1; n <= AZRI_LEND + 1; n++) {
        argv[0] = azri_str("MSET");
        argv[1] = azri_slice(big, n);
        argv[2] = azri_str("v");
        assert_int_equal(azri_hub_new_cmd(&r.h, 3, argv, 1, &c, NULL), AZREDIS_OK);
        assert_int_equal(c->value != NULL, n >= AZRI_LEND);
        assert_true(c->len == azri_resp_size(3, argv));
        azri_stock_give(&r.h.stock, c);
        assert_int_equal(azri_hub_new_cmd(&r.h, 3, argv, 0, &c, NULL), AZREDIS_OK);    /* of one who does not wait */
        assert_null(c->value);
        azri_stock_give(&r.h.stock, c);
    }
}

/* The caller's time is over while his value is on its way: the frame is finished with what he gave. */
static void a_value_outlives_its_caller(void **state) {
    size_t begun;
    (void)state;
    up();
    for (begun = 0; begun <= 2; begun++) {          /* not at all, in the head, in the value */
        int first = r.cmds;
        const char *p;
        wire.len = wire.at = 0;
        give_big(10);
        give_n(1);
        if (begun) wire.len += azri_session_output(r.s, wire.bytes, begun == 1 ? 5 : 1000, r.now, NULL);
        if (begun == 2) {
            p = wire.bytes + wire.len;
            assert_int_equal(azri_session_output(r.s, wire.bytes + wire.len, 1000, r.now, &p), 1000);
            memcpy(wire.bytes + wire.len, p, 1000);
            wire.len += 1000;
        }
        tick(r.now + 10);
        one_is(first, AZREDIS_E_TIMEOUT, begun ? AZREDIS_MAYBE_RUN : AZREDIS_NOT_SENT, "no answer in time");
        memset(big, 'Z', sizeof big);
        assert_int_equal(write_all(16384, 0), 0);
        if (begun) (void)big_is_at(0);
        wire.len = wire.at = 0;
        if (begun) server("+late|");
        answer(first + 1, first + 1);
        ok(first + 1, first + 1);
    }
}

static void without_memory_for_the_rest_of_a_value_the_connection_ends(void **state) {
    (void)state;
    up();
    give_big(10);
    give_n(1);
    assert_int_equal(take(r.s, 1000, r.now), 1000);
    heap.fail_at = heap.calls + 1;
    r.s->error.code = AZREDIS_E_NET;                /* the one who has the baton is making it */
    azri_session_expire(r.s, r.now + 10, &r.h.made);           /* as a sleeping caller of >>threads does */
    assert_int_equal(r.s->error.code, AZREDIS_E_NET);
    deliver();
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "no answer in time");
    memset(big, 'Z', sizeof big);
    assert_int_equal(take(r.s, 1000, r.now), 0);    /* nothing more is written */
    assert_int_equal(azri_session_has_output(r.s), 0);
    tick(r.now + 10);
    assert_int_equal(r.s->state, AZRI_DOWN);
    assert_non_null(strstr(r.s->error.message, "out of memory for the rest of a value"));
    wire.len = wire.at = 0;
    reconnect();
    (void)out();
    answer(1, 1);
    ok(1, 1);
}

/* ---- blocking commands in slices ---- */

/* Divides `line` at blanks. */
static int words(char *line, azredis_str argv[12]) {
    int n = 0;
    char *w;
    for (w = strtok(line, " "); w; w = strtok(NULL, " ")) argv[n++] = azri_str(w);
    return n;
}

static int blocks(azri_slices *b, const char *line, azredis_str argv[12]) {
    static char room[100];
    snprintf(room, sizeof room, "%s", line);
    return azri_slices_of(b, words(room, argv), argv, 1000, AZRI_NEVER64);
}

static void where_the_timeout_of_a_blocking_command_stands(void **state) {
    static const struct { const char *line; int at, ids; uint64_t ms; const char *slice; } row[] = {
        {"BLPOP a b 0", 3, 0, 0, "2.500"}, {"brpop a 5", 2, 0, 5000, "2.500"}, {"BLMOVE a b LEFT RIGHT 0.25", 5, 0, 250, "2.500"},
        {"BRPOPLPUSH a b 1", 3, 0, 1000, "2.500"}, {"BZPOPMIN a 0.0001", 2, 0, 1, "2.500"}, {"BZPOPMAX 7 .5", 2, 0, 500, "2.500"},
        {"BLMPOP 1.0619 2 a b LEFT COUNT 3", 1, 0, 1061, "2.500"}, {"BZMPOP 00 1 a MIN", 1, 0, 0, "2.500"},
        {"XREAD COUNT 2 BLOCK 0 STREAMS a b 0-0 $", 4, 8, 0, "2500"}, {"xread block 70 streams block $", 2, 5, 70, "2500"},
        {"XREADGROUP GROUP block block BLOCK 5 STREAMS a >", 5, 0, 5, "2500"}, {"XREAD BLOCK 5 STREAMS a b 1", 2, 0, 5, "2500"},
    };
    static const char *const none[] = {
        "BLPOP", "BLPOP a x", "BLPOP a -1", "BLPOP a 1e3", "BLPOP a .", "BLPOP a 1.x", "BLPOP a 99999999999", "BGSAVE 1", "LPOP 1",
        "XREAD STREAMS BLOCK 1", "XREAD BLOCK", "XREAD BLOCK 1.5 STREAMS a $", "XREAD BLOCK -1 STREAMS a $", "MULTI 1", "WAIT 1 0",
        "CLIENT REPLY 1",
    };
    azredis_str argv[12];
    azri_slices b;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        assert_int_equal(blocks(&b, row[i].line, argv), 1);
        assert_int_equal(b.at, row[i].at);
        assert_int_equal(b.ids, row[i].ids);
        assert_true(b.until == (row[i].ms ? 1000 + row[i].ms : AZRI_NEVER64));
        assert_true(azri_eqz(azri_slices_timeout(&b, 2500), row[i].slice));
    }
    for (i = 0; i < sizeof none / sizeof none[0]; i++)
        if (blocks(&b, none[i], argv)) fail_msg("it does not block: %s", none[i]);
}

static void a_slice_ends_before_its_token(void **state) {
    azredis_str argv[12];
    azri_blob *t = new_token("t", 1, 1000 + HOUR, HOUR), *password = azri_blob_new(&mem, "u", azri_str("p"));
    azri_slices b;
    (void)state;
    assert_int_equal(blocks(&b, "BLPOP a 0", argv), 1);
    assert_int_equal(azri_slices_ms(&b, t, 1000), AZRI_SLICE_MAX);
    assert_int_equal(azri_slices_ms(&b, password, 1000), AZRI_SLICE_MAX);
    assert_int_equal(azri_slices_ms(&b, t, 1000 + HOUR - AZRI_DRAIN_MS - 700), 350);
    assert_int_equal(azri_slices_ms(&b, t, 1000 + HOUR), 1);                      /* never 0: that is for ever */
    t->life_ms = 5000;
    assert_int_equal(azri_slices_ms(&b, t, 1000), 1250);
    b.until = 1300;
    assert_int_equal(azri_slices_ms(&b, t, 1000), 300);
    assert_int_equal(azri_slices_ms(&b, t, 1400), 1);
    azri_blob_drop(t);
    azri_blob_drop(password);
}

static void what_a_slice_may_have_taken_is_not_asked_for_again(void **state) {
    azredis_str argv[12];
    azredis_value nil, list;
    azredis_error e;
    azredis_reply got;
    azri_slices pop, read;
    (void)state;
    memset(&nil, 0, sizeof nil);
    memset(&list, 0, sizeof list);
    memset(&got, 0, sizeof got);
    nil.type = AZREDIS_T_NIL;
    list.type = AZREDIS_T_ARRAY;
    assert_int_equal(blocks(&pop, "BLPOP a 60", argv), 1);
    assert_int_equal(blocks(&read, "XREAD BLOCK 60000 STREAMS a $", argv), 1);
    got.fate = AZREDIS_ANSWERED;
    got.value = &nil;
    assert_int_equal(azri_slices_go_on(&pop, &got, 60999), 1);
    assert_int_equal(azri_slices_go_on(&pop, &got, 61000), 0);
    got.value = &list;
    assert_int_equal(azri_slices_go_on(&pop, &got, 2000), 0);
    got.value = NULL;
    (void)azri_fail(&e, AZREDIS_E_CLOSED, "test", "cut");
    got.error = &e;
    e.retryable = 1;
    got.fate = AZREDIS_MAYBE_RUN;
    assert_int_equal(azri_slices_go_on(&pop, &got, 2000), 0);
    assert_int_equal(azri_slices_go_on(&read, &got, 2000), 1);
    got.fate = AZREDIS_NOT_SENT;
    assert_int_equal(azri_slices_go_on(&pop, &got, 2000), 1);
    assert_int_equal(azri_slices_go_on(&pop, &got, 61000), 0);
    e.retryable = 0;
    assert_int_equal(azri_slices_go_on(&read, &got, 2000), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        T(case12_commands_that_break_a_shared_connection_are_refused), T(near_misses_of_refused_commands_pass),
        T(a_command_needs_a_name_and_bytes), T(time_given_without_a_clock_begins_at_the_next_tick), T(a_command_takes_its_untold_time_along),
        T(case30_as_many_commands_wait_as_the_limit_says), T(case30_as_many_bytes_wait_as_the_limit_says),
        T(case30_fail_fast_fails_at_once_but_only_after_the_first_connection), T(a_command_that_must_not_wait_fails_at_once),
        T(with_abort_a_first_connection_that_fails_is_the_last), T(with_abort_a_first_connection_is_tried_as_often_as_told),
        T(trouble_that_somebody_must_mend_ends_the_waiting),
        T(case30_waiting_commands_expire_with_the_reason), T(the_error_of_a_timeout_says_how_the_connection_stood),
        T(answers_are_counted_by_the_time_they_took), T(accepted_auths_are_counted_by_the_time_they_took), T(case18_nothing_of_the_backlog_is_written_before_auth_is_confirmed),
        T(case30_unsent_commands_go_in_front_of_the_backlog_in_order), T(commands_of_a_drained_connection_keep_their_order),
        T(a_released_command_that_came_too_late_is_not_written),
        T(reconnecting_backs_off_until_a_connection_has_lived_ten_seconds), T(case35_many_clients_do_not_come_back_in_step), T(a_loss_and_its_end_are_told_once),
        T(nothing_is_dialled_without_a_living_token), T(case15_a_token_refused_twice_must_be_mended_by_somebody),
        T(a_refused_password_is_not_replaced), T(after_a_refused_renewal_the_old_token_is_good_for_a_new_connection),
        T(case22_a_token_that_came_during_the_handshake_is_presented_after_it),
        T(case33_subscriptions_return_with_each_connection_and_flag_the_gap), T(a_full_queue_drops_its_oldest_and_counts), T(a_steady_stream_needs_no_allocation_once_warm),
        T(a_gap_outlives_the_overflow), T(unsubscribing_finds_a_pending_subscribe), T(one_of_two_on_a_channel_may_go),
        T(a_stream_begins_when_it_is_confirmed),
        T(case33_a_channel_and_a_pattern_of_the_same_text_are_two_things), T(one_of_two_on_a_pattern_may_go), T(odd_pmessages_reach_nobody),
        T(a_queue_is_bounded_in_messages_and_in_bytes), T(a_queue_that_closes_leaves_others_alone),
        T(among_a_thousand_subscriptions_each_gets_its_own),
        T(without_memory_subscribing_is_tried_again),
        T(ten_thousand_commands_need_no_allocation_once_warm), T(the_pool_does_not_hoard_large_answers),
        T(large_commands_share_one_object), T(large_commands_and_large_bursts_are_given_back), T(any_allocation_may_fail_and_nothing_is_lost),
        T(a_full_ring_drops_what_is_below_warning_first), T(no_dropped_line_is_forgotten), T(lines_above_the_level_are_not_kept),
        T(a_lent_value_is_written_from_where_it_stands), T(only_a_large_argument_is_lent), T(a_value_outlives_its_caller),
        T(without_memory_for_the_rest_of_a_value_the_connection_ends),
        T(where_the_timeout_of_a_blocking_command_stands), T(a_slice_ends_before_its_token),
        T(what_a_slice_may_have_taken_is_not_asked_for_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
