/* Make-before-break: A is replaced by B. Order, ends, events and messages in each phase, with A or B dying in each. */
#include "hub.h"
#undef T
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, end)

static azri_session *A, *B;
static char nonce_of[2][AZRI_NONCE_LEN + 1];

/* What follows is said to, and read from, this connection. */
static void use(azri_session *s) {
    if (r.s == s) return;
    memcpy(nonce_of[r.s == B], wire.nonce, sizeof wire.nonce);
    r.s = s;
    memcpy(wire.nonce, nonce_of[s == B], sizeof wire.nonce);
}

static int fresh(void **state) {
    memset(nonce_of, 0, sizeof nonce_of);
    A = B = NULL;
    return begin(state);
}

/* A serves. */
static void a_up(void) {
    A = r.s;
    up();
}

static void ask(void) {
    azri_hub_handover(&r.h, A, "test", r.now);
    tick(r.now);
    B = A->heir;
    assert_non_null(B);
}

/* B is ready, its subscriptions are not answered. */
static void b_up(void) {
    ask();
    use(B);
    welcome();
}

/* B is ready, A has been told to leave: its mark is written. */
static void a_leaves(void) {
    b_up();
    assert_string_equal(out(), "");
    tick(r.now);
    assert_int_equal(A->leaving, 1);
    use(A);
    assert_string_equal(out(), "PING N");
}

/* A answers its mark; B has taken over. A's memory goes with the next tick. */
static void a_marks(void) {
    use(A);
    server("@|");
    assert_int_equal(A->gone, 1);
    assert_ptr_equal(azri_hub_main(&r.h), B);
    use(B);
    tick(r.now);
    assert_int_equal(r.h.session_count, 1);
}

static int told(azredis_event_type type) { return news_count(&r.h.news, type); }

static int line(int number) {
    unsigned i;
    int found = 0;
    for (i = 0; i < r.h.news.count; i++) found += azri_news_at(&r.h.news, i)->number == number;
    return found;
}

static void nothing_was_told(void) {
    assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 0);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_RESTORED), 0);
    assert_int_equal(r.h.stats.reconnects, 0);
    assert_int_equal(r.h.trouble.code, AZREDIS_OK);
}

/* ---- commands ---- */

static void an_idle_connection_is_replaced_without_a_word(void **state) {
    (void)state;
    a_up();
    r.h.news.level = AZREDIS_LOG_INFO;
    a_leaves();
    r.h.stats.bytes_in += 1000;
    r.h.stats.bytes_out += 2000;
    a_marks();
    assert_true(r.h.stats.bytes_in > 1000 && r.h.stats.bytes_out > 2000);     /* the client's counts go on */
    nothing_was_told();
    assert_int_equal(line(AZRI_LOG_HANDOVER), 1);
    assert_int_equal(line(AZRI_LOG_HANDED_OVER), 1);
    assert_int_equal(line(AZRI_LOG_HANDOVER_FAILED), 0);
    assert_int_equal(r.h.stats.handovers, 1);
    assert_int_equal(r.h.stats.connects, 2);
    assert_string_equal(out(), "");
    give_n(1);
    assert_string_equal(out(), "GET k0");
    answer(0, 0);
    ok(0, 0);
}

static void asking_again_is_harmless(void **state) {
    (void)state;
    A = r.s;
    azri_hub_handover(&r.h, A, "test", r.now);       /* there is nothing to replace yet */
    tick(r.now);
    assert_int_equal(r.h.session_count, 1);
    a_up();
    ask();
    ask();
    assert_int_equal(r.h.session_count, 2);
    use(B);
    azri_hub_handover(&r.h, B, "test", r.now);       /* nor does an heir get one */
    welcome();
    azri_hub_handover(&r.h, B, "test", r.now);
    azri_hub_handover(&r.h, A, "test", r.now);
    tick(r.now);
    azri_hub_handover(&r.h, A, "test", r.now);
    tick(r.now);
    assert_int_equal(r.h.session_count, 2);
    use(A);
    (void)out();
    a_marks();
    assert_int_equal(r.h.stats.handovers, 1);
}

/* The heart of it: nothing is written to B before the last answer of A, and the order is kept. */
static void b_is_written_to_when_a_has_drained_and_the_order_is_kept(void **state) {
    (void)state;
    a_up();
    b_up();
    use(A);
    give_n(2);
    assert_string_equal(out(), "GET k0, GET k1");
    give_n(2);                                      /* not begun */
    tick(r.now);
    give_n(2);                                      /* submitted while A leaves */
    assert_string_equal(out(), "PING N");
    use(B);
    assert_string_equal(out(), "");
    use(A);
    answer(0, 1);
    tick(r.now);
    use(B);
    assert_string_equal(out(), "");
    a_marks();
    assert_string_equal(out(), "GET k2, GET k3, GET k4, GET k5");
    give_n(1);
    assert_string_equal(out(), "GET k6");
    answer(2, 6);
    ok(0, 6);
    nothing_was_told();
}

static void a_frame_once_begun_is_finished_where_it_began(void **state) {
    (void)state;
    a_up();
    b_up();
    use(A);
    give_n(2);
    assert_int_equal(take(A, 7, r.now), 7);
    tick(r.now);
    assert_string_equal(out(), "GET k0, PING N");
    answer(0, 0);
    a_marks();
    assert_string_equal(out(), "GET k1");
    answer(1, 1);
    ok(0, 1);
}

/* A caller that gave up does not hold the handover up, and a late answer reaches nobody. */
static void a_late_answer_is_read_before_a_goes(void **state) {
    (void)state;
    a_up();
    b_up();
    use(A);
    assert_int_equal(give(10), AZREDIS_OK);
    (void)out();
    tick(r.now);
    (void)out();
    tick(r.now + 10);
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "may have run");
    give_n(1);
    answer(0, 0);
    a_marks();
    assert_string_equal(out(), "GET k1");
    answer(1, 1);
    ok(1, 1);
}

static void what_waits_for_the_handover_ends_by_its_deadline(void **state) {
    (void)state;
    a_up();
    b_up();
    use(A);
    give_n(1);
    (void)out();
    tick(r.now);
    assert_int_equal(give(20), AZREDIS_OK);
    tick(r.now + 19);
    assert_int_equal(r.end[1].ends, 0);
    tick(r.now + 1);
    one_is(1, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "the connection is being replaced");
    (void)out();
    answer(0, 0);
    a_marks();
    assert_string_equal(out(), "");
}

/* We are connected: nobody is told that we are not. */
static void fail_fast_and_no_queue_wait_for_the_handover(void **state) {
    azri_cmd *c;
    (void)state;
    r.h.conf.fail_fast = 1;
    a_up();
    a_leaves();
    give_n(1);
    assert_int_equal(make(&c, 2, "GET", "k1", "", NULL), AZREDIS_OK);
    c->no_queue = 1;
    submit(c, COMMAND_MS);
    assert_int_equal(r.end[0].ends + r.end[1].ends, 0);
    a_marks();
    assert_string_equal(out(), "GET k0, GET k1");
    answer(0, 1);
    ok(0, 1);
}

static void the_limit_of_waiting_commands_holds_for_both_together(void **state) {
    (void)state;
    r.h.conf.backlog_count = 5;
    a_up();
    b_up();
    use(A);
    give_n(2);
    (void)out();
    tick(r.now);                                    /* the mark counts as one */
    give_n(2);
    assert_int_equal(give(COMMAND_MS), AZREDIS_AGAIN);
    (void)out();
    answer(0, 1);
    a_marks();
    give_n(3);
    assert_int_equal(give(COMMAND_MS), AZREDIS_AGAIN);
}

/* ---- what A is in the middle of ---- */

static void a_fence_on_a_is_finished_first(void **state) {
    (void)state;
    a_up();
    b_up();
    use(A);
    token(2);
    assert_string_equal(out(), "");
    give_n(1);
    tick(r.now);
    assert_int_equal(A->leaving, 0);
    assert_string_equal(out(), "AUTH oid token-2, PING N, GET k0");
    tick(r.now);
    assert_int_equal(A->leaving, 0);
    server("+OK|@|+v0|");
    tick(r.now);
    assert_int_equal(A->leaving, 1);
    ok(0, 0);
    assert_string_equal(out(), "PING N");
    a_marks();
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    server("+OK|@|");
    assert_int_equal(B->blob->generation, 2);
}

/* A token that comes while A leaves: A and B present it, and A's end with that AUTH open harms nobody. */
static void a_token_that_comes_while_a_leaves_is_presented(void **state) {
    (void)state;
    a_up();
    b_up();
    use(A);
    give_n(1);
    (void)out();
    tick(r.now);
    assert_string_equal(out(), "PING N");
    memcpy(nonce_of[0], wire.nonce, sizeof wire.nonce);
    token(2);
    tick(r.now);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    memcpy(wire.nonce, nonce_of[0], sizeof wire.nonce);
    answer(0, 0);
    server("@|");
    assert_int_equal(A->gone, 1);
    use(B);
    tick(r.now);
    ok(0, 0);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
}

/* A learns that its token is refused and answers its mark in one breath: the old token stays good for connecting. */
static void a_refusal_that_a_hears_last_is_not_forgotten(void **state) {
    char text[200];
    (void)state;
    a_up();
    b_up();
    use(A);
    tick(r.now);
    token(2);
    tick(r.now);
    assert_string_equal(out(), "AUTH oid token-2, PING N, PING N");
    snprintf(text, sizeof text, "-WRONGPASS no|$32|%s|$32|%s|", A->nonce, A->mark_nonce);
    server(text);
    assert_int_equal(A->gone, 1);
    assert_true(r.h.rejected == azri_hash64("token-2", 7));
    assert_int_equal(r.h.blob->generation, 1);
    r.s = B;
}

static void a_probe_on_a_is_awaited(void **state) {
    (void)state;
    r.h.conf.session.keepalive_ms = 60000;
    a_up();
    ask();
    use(A);
    tick(r.now + 60000);                            /* B is not there yet */
    assert_string_equal(out(), "PING N");
    use(B);
    welcome();
    tick(r.now);
    assert_int_equal(A->leaving, 0);
    use(A);
    server("@|");
    tick(r.now);
    assert_int_equal(A->leaving, 1);
    assert_string_equal(out(), "PING N");
    a_marks();
}

static void an_a_whose_token_ends_leaves_too(void **state) {
    (void)state;
    a_up();
    ask();
    tick(r.now + HOUR - 2 * AZRI_DRAIN_MS);
    give_n(1);
    use(A);
    (void)out();
    give_n(1);
    tick(r.now + AZRI_DRAIN_MS);                     /* no new token came: nothing more may be written */
    assert_int_equal(A->state, AZRI_DRAINING);
    give_n(1);
    token(2);
    use(B);
    welcome();                                      /* with the new one */
    tick(r.now);
    assert_int_equal(A->leaving, 1);
    use(A);
    answer(0, 0);
    tick(r.now);                                    /* drained, but for the mark that is not written yet */
    assert_string_equal(out(), "PING N");
    a_marks();
    assert_string_equal(out(), "GET k1, GET k2");
    nothing_was_told();
}

static void an_ended_a_is_followed_by_b(void **state) {
    (void)state;
    a_up();
    ask();
    token(2);
    tick(r.now + HOUR);                             /* A never presented it; B is dialled with it */
    tick(r.now);
    assert_int_equal(r.h.session_count, 1);
    assert_ptr_equal(azri_hub_main(&r.h), B);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 1);
}

/* An A that does not answer its mark, with nobody waiting for it, is given up before the commands behind it are. */
static void a_silent_a_does_not_hold_b_up(void **state) {
    azredis_sub *s;
    (void)state;
    s = subscribe("c");
    A = r.s;
    token(1);
    welcome();
    (void)out();
    server(SUBSCRIBED("c") MSG("c", "1"));
    r.h.news.count = 0;
    b_up();
    (void)out();
    server(SUBSCRIBED("c"));
    use(A);
    assert_int_equal(give(COMMAND_MS), AZREDIS_OK);
    (void)out();
    use(B);
    tick(r.now);
    assert_int_equal(A->leaving, 1);
    use(A);
    (void)out();
    give_n(1);
    assert_true(azri_hub_deadline(&r.h, r.now) == A->leave_until);
    tick(A->leave_until - 1);
    tick(A->leave_until);
    assert_int_equal(A->gone, 0);                    /* command 0 is awaited */
    answer(0, 0);
    tick(A->leave_until);
    assert_ptr_equal(azri_hub_main(&r.h), B);
    use(B);
    assert_string_equal(out(), "PING N, GET k1");
    assert_int_equal(r.h.stats.handovers, 1);
    nothing_was_told();
    server("@|+v1|" MSG("c", "2"));
    ok(0, 1);
    next_is(s, "1", 0, 0);
    next_is(s, "2", 0, 1);                          /* it may have had more for us */
}

static void a_mark_out_of_step_ends_a(void **state) {
    (void)state;
    a_up();
    a_leaves();
    give_n(1);
    server("+PONG|");
    use(B);
    assert_int_equal(told(AZREDIS_EV_INTERNAL_ERROR), 1);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 1);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_RESTORED), 1);
    assert_string_equal(out(), "GET k0");
}

/* Also where PING is forbidden its answer comes in its turn. */
static void a_refused_mark_is_a_mark(void **state) {
    (void)state;
    a_up();
    a_leaves();
    server("-NOPERM no PING for you|");
    assert_int_equal(A->gone, 1);
    assert_ptr_equal(azri_hub_main(&r.h), B);
    assert_int_equal(r.h.stats.handovers, 1);
}

/* ---- B cannot be made, or dies ---- */

static void while_b_cannot_be_made_a_goes_on(void **state) {
    uint64_t longest = 0;
    int i;
    (void)state;
    a_up();
    ask();
    for (i = 0; i < 12; i++) {
        use(B);
        if (i % 3 == 0) {
            assert_int_equal(dial(), 1);
            (void)out();
        } else {
            azri_hub_dialing(&r.h, B);
        }
        lost_for(AZREDIS_E_NET);
        assert_int_equal(line(AZRI_LOG_HANDOVER_FAILED), 1);
        r.h.news.count = 0;
        longest = azri_max64(longest, B->dial_at - r.now);
        use(A);
        give_n(1);
        assert_memory_equal(out(), "GET k", 5);
        answer(i, i);
        ok(i, i);
        if (B->dial_at > r.now) {
            tick(B->dial_at - 1);
            assert_int_equal(azri_hub_may_dial(&r.h, B, r.now), 0);
        }
        tick(B->dial_at);
    }
    nothing_was_told();
    assert_true(longest > 4 * AZRI_RECONNECT_BASE && longest <= AZRI_RECONNECT_CAP);
    assert_int_equal(A->state, AZRI_READY);
    use(B);
    welcome();
    tick(r.now);
    use(A);
    assert_string_equal(out(), "PING N");
    a_marks();
    assert_int_equal(r.h.stats.handovers, 1);
}

/* Even a cause that somebody must mend is no trouble for those whom A serves. */
static void a_b_that_must_be_mended_fails_no_command(void **state) {
    (void)state;
    a_up();
    ask();
    azri_hub_dialing(&r.h, B);
    use(B);
    lost_for(AZREDIS_E_CERT);
    use(A);
    give_n(1);
    tick(r.now + 1);
    assert_string_equal(out(), "GET k0");
    nothing_was_told();
}

static void a_b_that_dies_before_the_switch_gives_all_back(void **state) {
    (void)state;
    a_up();
    b_up();
    use(A);
    give_n(1);
    (void)out();
    give_n(1);
    tick(r.now);
    give_n(1);
    assert_string_equal(out(), "PING N");
    use(B);
    lost();
    nothing_was_told();
    use(A);
    assert_string_equal(out(), "GET k1, GET k2");
    give_n(1);
    answer(0, 0);
    server("@|");                                   /* the old mark: it says nothing any more */
    assert_int_equal(A->gone, 0);
    assert_string_equal(out(), "GET k3");
    answer(1, 3);
    ok(0, 3);
    tick(B->dial_at);
    use(B);
    welcome();
    tick(r.now);
    use(A);
    assert_string_equal(out(), "PING N");
    a_marks();
    nothing_was_told();
    assert_int_equal(r.h.stats.handovers, 1);
}

/* A second B is there before the mark of the first try has been answered. */
static void an_old_mark_is_not_taken_for_the_new_one(void **state) {
    (void)state;
    a_up();
    a_leaves();
    use(B);
    lost();
    tick(B->dial_at);
    welcome();
    tick(r.now);
    assert_int_equal(A->leaving, 0);
    use(A);
    give_n(1);
    server("@|");
    tick(r.now);
    assert_int_equal(A->leaving, 1);
    assert_string_equal(out(), "PING N");            /* what was not begun waits behind it */
    a_marks();
    assert_string_equal(out(), "GET k0");
}

static void a_token_that_b_was_refused_with_is_replaced_by_the_one_that_serves(void **state) {
    (void)state;
    a_up();
    token(2);
    ask();
    use(B);
    assert_int_equal(dial(), 1);
    assert_memory_equal(out(), "AUTH oid token-2, ", 18);
    server("-WRONGPASS no|");
    assert_true(r.h.rejected == azri_hash64("token-2", 7));
    assert_int_equal(r.h.blob->generation, 1);
    assert_int_equal(A->state, AZRI_READY);
    nothing_was_told();
    tick(B->dial_at);
    assert_int_equal(dial(), 1);
    assert_memory_equal(out(), "AUTH oid token-1, ", 18);
    server("-WRONGPASS no|");
    assert_null(r.h.blob);                          /* the one that serves is refused, too: a fresh one is needed */
    tick(B->dial_at);
    assert_int_equal(dial(), 0);
    use(A);
    give_n(1);
    assert_memory_equal(out(), "AUTH oid token-2, PING N, GET k0", 32);
}

/* What A was refused with, B is accepted with: nobody goes back to the older one. */
static void case28_an_older_token_is_not_presented_to_a_newer_connection(void **state) {
    (void)state;
    a_up();
    token(2);
    tick(r.now);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    ask();
    use(B);
    assert_int_equal(dial(), 1);
    assert_memory_equal(out(), "AUTH oid token-2, ", 18);
    use(A);
    server("@|");                                   /* refused without a word */
    tick(r.now);
    assert_int_equal(r.h.blob->generation, 1);
    use(B);
    server(WELCOME);
    tick(r.now);
    assert_string_equal(out(), "");
    assert_int_equal(B->blob->generation, 2);
}

/* ---- A dies ---- */

static void if_a_dies_before_b_is_there_b_is_the_reconnect(void **state) {
    int phase;
    (void)state;
    for (phase = 0; phase < 3; phase++) {           /* B waits for its next try, is dialling, is in its handshake */
        (void)end(NULL);
        (void)fresh(NULL);
        a_up();
        ask();
        use(B);
        if (phase == 0) {
            azri_hub_dialing(&r.h, B);
            lost_for(AZREDIS_E_NET);
        } else if (phase == 1) {
            azri_hub_dialing(&r.h, B);
            B->link = &r;
        } else {
            assert_int_equal(dial(), 1);
            assert_memory_equal(out(), "AUTH", 4);
        }
        use(A);
        give_n(1);
        (void)out();
        give_n(1);
        lost();
        one_is(0, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "cut");
        assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 1);
        assert_int_equal(told(AZREDIS_EV_CONNECTION_RESTORED), 0);
        use(B);
        give_n(1);
        tick(phase ? r.now : B->dial_at);
        assert_int_equal(r.h.session_count, 1);
        if (phase == 1) azri_hub_opened(&r.h, B, r.now);
        if (phase == 0) assert_int_equal(dial(), 1);
        (void)out();
        server(WELCOME);
        assert_string_equal(out(), "GET k1, GET k2");
        answer(1, 2);
        ok(1, 2);
        assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 1);
        assert_int_equal(told(AZREDIS_EV_CONNECTION_RESTORED), 1);
        assert_int_equal(r.h.stats.reconnects, 1);
        assert_int_equal(r.h.stats.handovers, 0);
    }
}

static void if_a_dies_when_b_is_ready_b_serves_at_once(void **state) {
    int leaving;
    (void)state;
    for (leaving = 0; leaving < 2; leaving++) {
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.conf.fail_fast = 1;
        a_up();
        b_up();
        use(A);
        give_n(1);
        (void)out();
        give_n(1);
        if (leaving) tick(r.now);
        if (leaving) assert_string_equal(out(), "PING N");
        give_n(1);
        lost();
        one_is(0, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "cut");
        use(B);
        assert_string_equal(out(), "GET k1, GET k2");
        give_n(1);
        assert_string_equal(out(), "GET k3");
        answer(1, 3);
        ok(1, 3);
        assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 1);
        assert_int_equal(told(AZREDIS_EV_CONNECTION_RESTORED), 1);
        assert_int_equal(r.h.stats.reconnects, 1);
        assert_int_equal(r.h.trouble.code, AZREDIS_OK);
        tick(r.now);
        assert_int_equal(r.h.session_count, 1);
    }
}

/* The session's memory waits for the pump. */
static void a_goes_when_the_pump_has_closed_its_link(void **state) {
    (void)state;
    a_up();
    a_leaves();
    hear(A, "@|", 100, on_frame);
    assert_non_null(A->link);
    azri_hub_tick(&r.h, r.now);
    assert_true(azri_hub_deadline(&r.h, r.now) > r.now);
    assert_int_equal(r.h.session_count, 2);
    assert_int_equal(azri_hub_may_dial(&r.h, A, r.now + HOUR / 2), 0);
    A->link = NULL;
    assert_true(azri_hub_deadline(&r.h, r.now) == r.now);
    assert_int_equal(azri_hub_may_dial(&r.h, A, r.now + HOUR / 2), 0);
    azri_hub_tick(&r.h, r.now);
    assert_int_equal(r.h.session_count, 1);
    r.s = B;
}

/* Whatever stands where, closing the client ends each command once and gives all memory back: end() looks. */
static void the_client_may_be_closed_at_any_point(void **state) {
    int phase;
    (void)state;
    for (phase = 0; phase < 6; phase++) {
        azredis_sub *s;
        (void)end(NULL);
        (void)fresh(NULL);
        s = subscribe("c");
        A = r.s;
        token(1);
        welcome();
        (void)out();
        server(SUBSCRIBED("c"));
        give_n(1);
        (void)out();
        give_n(1);
        ask();
        use(B);
        if (phase >= 1) (void)dial();
        if (phase >= 2) (void)out();
        if (phase >= 2) server(WELCOME);
        if (phase >= 3) (void)out();
        if (phase >= 3) server(SUBSCRIBED("c") MSG("c", "1"));
        if (phase >= 4) tick(r.now);
        give_n(1);
        use(A);
        if (phase >= 4) assert_string_equal(out(), "PING N");
        if (phase >= 5) answer(0, 0);
        if (phase >= 5) server("@|");
        assert_int_equal(s->dead, 0);
    }
}

/* ---- subscriptions ---- */

/* A serves and is subscribed; B is subscribed too, but for its answer. */
static azredis_sub *two_streams(void) {
    azredis_sub *s = subscribe("c");
    A = r.s;
    token(1);
    welcome();
    (void)out();
    server(SUBSCRIBED("c") MSG("c", "1"));
    next_is(s, "1", 0, 0);
    b_up();
    assert_string_equal(out(), "SUBSCRIBE c");
    return s;
}

static void no_message_is_lost_and_none_comes_twice(void **state) {
    azredis_sub *s;
    azredis_message m;
    (void)state;
    r.h.conf.sub_queue = 100;
    s = two_streams();
    assert_true(azri_hub_deadline(&r.h, r.now) > r.now);
    use(A);
    server(MSG("c", "2"));                          /* before B's subscription */
    tick(r.now);
    assert_int_equal(A->leaving, 0);                 /* B is not confirmed */
    use(B);
    server(SUBSCRIBED("c") MSG("c", "3"));
    assert_true(azri_hub_deadline(&r.h, r.now) == r.now);    /* A can leave */
    use(A);
    server(MSG("c", "3"));
    next_is(s, "2", 0, 0);
    next_is(s, "3", 0, 0);
    tick(r.now);
    assert_string_equal(out(), "PING N");
    use(B);
    server(MSG("c", "4"));                          /* B is ahead */
    assert_int_equal(azri_sub_next(s, &m), 0);
    use(A);
    server(MSG("c", "4"));
    a_marks();
    assert_string_equal(out(), "PING N");
    next_is(s, "4", 0, 0);
    server(MSG("c", "5") MSG("c", "6"));
    assert_int_equal(azri_sub_next(s, &m), 0);        /* held: B's mark is not answered */
    server("@|" MSG("c", "7"));
    next_is(s, "5", 0, 0);
    next_is(s, "6", 0, 0);
    next_is(s, "7", 0, 0);
    assert_int_equal(azri_sub_next(s, &m), 0);
    assert_true(r.h.stats.messages == 7 && r.h.stats.messages_lost == 0);
    assert_null(s->seam);
    nothing_was_told();
}

/* B is behind: what A delivered arrives on B only after A has gone. */
static void a_b_that_lags_behind_repeats_nothing(void **state) {
    azredis_sub *s;
    azredis_message m;
    (void)state;
    r.h.conf.sub_queue = 100;
    s = two_streams();
    server(SUBSCRIBED("c"));
    use(A);
    server(MSG("c", "2") MSG("c", "3"));
    tick(r.now);
    (void)out();
    server(MSG("c", "4"));
    a_marks();
    assert_string_equal(out(), "PING N");
    server(MSG("c", "2") MSG("c", "3") MSG("c", "4") MSG("c", "5") "@|");
    next_is(s, "2", 0, 0);
    next_is(s, "3", 0, 0);
    next_is(s, "4", 0, 0);
    next_is(s, "5", 0, 0);
    assert_int_equal(azri_sub_next(s, &m), 0);
}

/* All ways in which the two streams can lie: A's record begins at `from`, B's stream at `start`, A's ends at `stop`. */
static void the_seam_is_right_for_all_overlaps(void **state) {
    enum { N = 12 };
    uint32_t from, start, stop, i, max;
    char text[8];
    (void)state;
    for (max = 1; max <= 2 * N; max += N)
    for (from = 0; from <= N; from++)
        for (start = from; start <= N; start++)
            for (stop = start; stop <= N; stop++) {
                azredis_sub *s = subscribe("c");
                azredis_message m;
                uint64_t given = 0, gone = 0;
                s->max = max;
                assert_int_equal(azri_seam_begin(s), 1);
                for (i = from; i < stop; i++) azri_seam_old(s, azri_str("c"), azri_slice(text, (size_t)sprintf(text, "%u", i)));
                for (i = start; i < N; i++) azri_seam_young(s, azri_str("c"), azri_slice(text, (size_t)sprintf(text, "%u", i)));
                azri_seam_join(s, 1, &given, &gone);
                if (max > N) {
                    for (i = stop; i < N; i++) {
                        assert_int_equal(azri_sub_next(s, &m), 1);
                        sprintf(text, "%u", i);
                        assert_true(azri_eqz(m.payload, text) && m.lost == 0);
                    }
                    assert_int_equal(azri_sub_next(s, &m), 0);
                    assert_true(given == N - stop && gone == 0);
                } else {
                    assert_true(s->count <= max && given <= max);
                    if (stop < N) assert_int_equal(given, 1);
                    if (stop < N) assert_int_equal(azri_sub_next(s, &m), 1);
                }
                r.h.subs = s->next;
                azri_sub_free(s);
            }
}

/* What has been read as far as the old stream's end and is no end of it is new. What was cut short may lie inside. */
static void a_whole_stream_and_one_cut_short_are_joined_differently(void **state) {
    int whole, i;
    (void)state;
    for (whole = 0; whole < 2; whole++) {
        azredis_sub *s = subscribe("c");
        uint64_t given = 0, gone = 0;
        assert_int_equal(azri_seam_begin(s), 1);
        for (i = 0; i < 3; i++) azri_seam_old(s, azri_str("c"), azri_slice(&"xyz"[i], 1));
        azri_seam_young(s, azri_str("c"), azri_str("y"));
        azri_seam_join(s, whole, &given, &gone);
        assert_true(given == (uint64_t)whole && gone == 0);
    }
}

/* The documented limit: equal payloads may be taken for one, and never for more than A delivered. */
static void equal_messages_may_be_taken_for_one(void **state) {
    azredis_sub *s;
    azredis_message m;
    (void)state;
    r.h.conf.sub_queue = 100;
    s = two_streams();
    use(A);
    server(MSG("c", "x"));
    use(B);
    server(SUBSCRIBED("c"));
    tick(r.now);
    use(A);
    (void)out();
    a_marks();
    (void)out();
    server(MSG("c", "x") MSG("c", "x") "@|");
    next_is(s, "x", 0, 0);                          /* A's */
    next_is(s, "x", 0, 0);                          /* one of B's; the other was taken for A's */
    assert_int_equal(azri_sub_next(s, &m), 0);
}

static void if_a_dies_the_overlap_tells_whether_there_is_a_gap(void **state) {
    int overlap;
    (void)state;
    for (overlap = 0; overlap < 2; overlap++) {
        azredis_sub *s;
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.conf.sub_queue = 100;
        s = two_streams();
        server(SUBSCRIBED("c") MSG("c", "2"));
        use(A);
        if (overlap) server(MSG("c", "2"));
        lost();
        use(B);
        assert_string_equal(out(), "PING N");
        server(MSG("c", "3") "@|");
        next_is(s, "2", 0, !overlap);
        next_is(s, "3", 0, 0);
    }
}

static void if_a_dies_before_b_is_subscribed_there_is_a_gap(void **state) {
    azredis_sub *s;
    (void)state;
    s = two_streams();
    use(A);
    lost();
    use(B);
    server(SUBSCRIBED("c") MSG("c", "2"));
    (void)out();
    server("@|" MSG("c", "3"));
    next_is(s, "2", 0, 1);
    next_is(s, "3", 0, 0);
    assert_int_equal(s->state, AZRI_SUB_ACTIVE);
}

static void if_b_dies_its_messages_are_not_needed(void **state) {
    azredis_sub *s;
    azredis_message m;
    (void)state;
    s = two_streams();
    server(SUBSCRIBED("c") MSG("c", "2"));
    lost();
    use(A);
    server(MSG("c", "2") MSG("c", "3"));
    next_is(s, "2", 0, 0);
    next_is(s, "3", 0, 0);
    assert_int_equal(azri_sub_next(s, &m), 0);
    assert_null(s->seam);
    tick(B->dial_at);
    use(B);
    welcome();
    assert_string_equal(out(), "SUBSCRIBE c");
    server(SUBSCRIBED("c"));
    tick(r.now);
    use(A);
    (void)out();
    a_marks();
    (void)out();
    server("@|" MSG("c", "4"));
    next_is(s, "4", 0, 0);
}

/* B, which serves already, dies before its mark is answered: what it had is joined as well as can be known. */
static void if_b_dies_while_it_holds_messages_they_are_delivered_once(void **state) {
    int lag;
    (void)state;
    for (lag = 0; lag < 2; lag++) {
        azredis_sub *s;
        azredis_message m;
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.conf.sub_queue = 100;
        s = two_streams();
        server(SUBSCRIBED("c"));
        use(A);
        server(MSG("c", "2") MSG("c", "3"));
        use(B);
        tick(r.now);
        use(A);
        (void)out();
        a_marks();
        server(lag ? MSG("c", "2") : MSG("c", "2") MSG("c", "3") MSG("c", "4"));
        lost();
        next_is(s, "2", 0, 0);
        next_is(s, "3", 0, 0);
        if (!lag) next_is(s, "4", 0, 0);
        assert_int_equal(azri_sub_next(s, &m), 0);
        reconnect();
        (void)out();
        server(SUBSCRIBED("c") MSG("c", "9"));
        next_is(s, "9", 0, 1);
    }
}

/* B's own token ends just when it takes over: it cannot be asked for its mark any more. */
static void a_draining_b_delivers_what_it_holds(void **state) {
    azredis_sub *s;
    (void)state;
    s = two_streams();
    server(SUBSCRIBED("c") MSG("c", "2") MSG("c", "3"));
    use(A);
    server(MSG("c", "2"));
    tick(r.now);
    (void)out();
    give_n(1);
    B->state = AZRI_DRAINING;
    use(A);
    server("@|");
    use(B);
    server(MSG("c", "4"));
    tick(r.now);
    next_is(s, "2", 0, 0);
    next_is(s, "3", 0, 0);
    next_is(s, "4", 0, 0);
    assert_int_equal(B->state, AZRI_DOWN);           /* it was idle: the tick closed it */
    reconnect();
    assert_string_equal(out(), "SUBSCRIBE c, GET k0");
}

static void a_subscription_refused_on_b_is_refused(void **state) {
    azredis_sub *s;
    (void)state;
    s = two_streams();
    server("-NOPERM not c|");
    assert_int_equal(s->state, AZRI_SUB_ACTIVE);     /* A still has it */
    tick(r.now);
    assert_int_equal(A->leaving, 1);
    use(A);
    (void)out();
    a_marks();
    assert_int_equal(s->state, AZRI_SUB_REFUSED);
    assert_int_equal(s->error.code, AZREDIS_E_NOPERM);
    lost();
    reconnect();
    assert_string_equal(out(), "SUBSCRIBE c");        /* asked again; its stream had an end */
    server(SUBSCRIBED("c") MSG("c", "2"));
    next_is(s, "2", 0, 1);
}

/* A pattern's messages are told apart by their channels, too: equal payloads on several are several messages. */
static void the_seam_of_a_pattern_looks_at_channels(void **state) {
    azredis_sub *p, *c;
    azredis_message m;
    (void)state;
    r.h.conf.sub_queue = 100;
    p = psubscribe("*");
    c = subscribe("*");
    A = r.s;
    token(1);
    welcome();
    assert_string_equal(out(), "SUBSCRIBE *, PSUBSCRIBE *");
    server(SUBSCRIBED("*") PSUBSCRIBED("*") PMSG("*", "a", "x"));
    b_up();
    assert_string_equal(out(), "SUBSCRIBE *, PSUBSCRIBE *");
    server(SUBSCRIBED("*") PSUBSCRIBED("*") PMSG("*", "c", "x") PMSG("*", "d", "x"));
    tick(r.now);
    use(A);
    assert_string_equal(out(), "PING N");
    server(PMSG("*", "b", "x") PMSG("*", "c", "x"));
    a_marks();
    (void)out();
    server(PMSG("*", "e", "x") "@|" PMSG("*", "f", "x"));
    for (m.channel.len = 0; m.channel.len < 6; m.channel.len++) {
        const char one[2] = { (char)('a' + m.channel.len), '\0' };
        pnext_is(p, one, "x", 0, 0);
    }
    assert_int_equal(azri_sub_next(p, &m) + azri_sub_next(c, &m), 0);
}

/* Held messages obey the bounds, too, and the queue may end when they come into it. */
static void what_is_held_is_bounded_in_bytes(void **state) {
    int closes;
    (void)state;
    for (closes = 0; closes < 2; closes++) {
        azredis_sub *s;
        azredis_message m;
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.conf.sub_queue = 100;
        s = two_streams();
        s->max_bytes = closes ? 100 : 7;            /* three messages of two bytes */
        s->max = closes ? 3 : 100;
        s->overflow = closes ? AZREDIS_OVERFLOW_CLOSE : AZREDIS_OVERFLOW_OLDEST;
        server(SUBSCRIBED("c"));
        tick(r.now);
        use(A);
        (void)out();
        if (closes) server(MSG("c", "2"));
        a_marks();
        (void)out();
        r.h.news.count = 0;
        if (closes) server(MSG("c", "3") MSG("c", "4") MSG("c", "5"));
        else server(MSG("c", "2") MSG("c", "3") MSG("c", "4") MSG("c", "5") MSG("c", "12345678") MSG("c", "6"));
        if (!closes) assert_true(s->seam->bytes == 2 && s->seam->dropped == 5);
        server("@|");
        if (closes) {
            assert_string_equal(out(), "UNSUBSCRIBE c");
            assert_int_equal(told(AZREDIS_EV_ERROR_MESSAGE), 1);
            next_is(s, "2", 0, 0);
            next_is(s, "3", 0, 0);
            next_is(s, "4", 0, 0);
        } else {
            next_is(s, "6", 5, 0);
        }
        assert_int_equal(azri_sub_next(s, &m), 0);
        assert_int_equal(r.h.stats.messages_lost, closes ? 1 : 5);
    }
}

/* New ones are asked for on A first: B's stream must begin within A's. While A leaves, on B alone. */
static void subscribing_during_a_handover(void **state) {
    azredis_sub *s, *t;
    azredis_message m;
    (void)state;
    r.h.conf.sub_queue = 100;
    a_up();
    b_up();
    s = subscribe("c");
    tick(r.now);
    use(B);
    assert_string_equal(out(), "");
    use(A);
    assert_string_equal(out(), "SUBSCRIBE c");
    assert_int_equal(A->leaving, 0);
    server(SUBSCRIBED("c") MSG("c", "1"));
    tick(r.now);
    use(B);
    assert_string_equal(out(), "SUBSCRIBE c");
    assert_int_equal(A->leaving, 0);
    server(SUBSCRIBED("c"));
    tick(r.now);
    assert_int_equal(A->leaving, 1);
    t = subscribe("d");
    tick(r.now);
    use(A);
    assert_string_equal(out(), "PING N");
    use(B);
    assert_string_equal(out(), "SUBSCRIBE d");
    server(SUBSCRIBED("d") MSG("d", "1"));
    a_marks();
    assert_int_equal(t->state, AZRI_SUB_ACTIVE);
    (void)out();
    server("@|" MSG("c", "2"));
    next_is(s, "1", 0, 0);
    next_is(s, "2", 0, 0);
    next_is(t, "1", 0, 0);
    assert_int_equal(azri_sub_next(t, &m), 0);
}

/* A second subscription to a channel that B has: its stream begins with its own confirmation. */
static void a_second_subscription_to_the_channel_during_a_handover(void **state) {
    azredis_sub *s, *t;
    azredis_message m;
    (void)state;
    r.h.conf.sub_queue = 100;
    s = two_streams();
    server(SUBSCRIBED("c"));
    use(A);
    server(MSG("c", "2"));
    t = subscribe("c");
    (void)out();
    server(SUBSCRIBED("c"));
    tick(r.now);
    use(B);
    assert_string_equal(out(), "SUBSCRIBE c");
    server(MSG("c", "2"));                          /* B lags: published before the second SUBSCRIBE */
    assert_int_equal(azri_sub_next(t, &m), 0);
    server(SUBSCRIBED("c") MSG("c", "3"));
    use(A);
    server(MSG("c", "3"));
    tick(r.now);
    (void)out();
    a_marks();
    (void)out();
    server(MSG("c", "4") "@|");
    next_is(s, "2", 0, 0);
    next_is(s, "3", 0, 0);
    next_is(s, "4", 0, 0);
    next_is(t, "3", 0, 0);
    next_is(t, "4", 0, 0);
    assert_int_equal(azri_sub_next(s, &m) + azri_sub_next(t, &m), 0);
}

/* The same while A leaves: A is not asked, so what A brings for the first one is not for the second. */
static void a_second_subscription_to_the_channel_while_a_leaves(void **state) {
    azredis_sub *s, *t;
    azredis_message m;
    (void)state;
    r.h.conf.sub_queue = 100;
    s = two_streams();
    server(SUBSCRIBED("c"));
    tick(r.now);
    use(A);
    (void)out();
    t = subscribe("c");
    tick(r.now);
    server(MSG("c", "2"));
    use(B);
    assert_string_equal(out(), "SUBSCRIBE c");
    server(MSG("c", "2") MSG("c", "3") SUBSCRIBED("c") MSG("c", "4"));
    use(A);
    server(MSG("c", "3"));
    a_marks();
    (void)out();
    server("@|" MSG("c", "5"));
    next_is(s, "2", 0, 0);
    next_is(s, "3", 0, 0);
    next_is(s, "4", 0, 0);
    next_is(s, "5", 0, 0);
    next_is(t, "4", 0, 0);
    next_is(t, "5", 0, 0);
    assert_int_equal(azri_sub_next(s, &m) + azri_sub_next(t, &m), 0);
}

static void unsubscribing_during_a_handover(void **state) {
    int phase;
    (void)state;
    for (phase = 0; phase < 3; phase++) {           /* B not asked, asked, confirmed and A leaving */
        azredis_sub *s;
        (void)end(NULL);
        (void)fresh(NULL);
        s = subscribe("c");
        A = r.s;
        token(1);
        welcome();
        (void)out();
        server(SUBSCRIBED("c"));
        ask();
        use(B);
        if (phase) welcome();
        if (phase) assert_string_equal(out(), "SUBSCRIBE c");
        if (phase == 2) server(SUBSCRIBED("c") MSG("c", "1"));
        if (phase == 2) tick(r.now);
        azri_hub_unsubscribe(&r.h, s);
        if (phase == 0) welcome();
        tick(r.now);
        assert_null(r.h.subs);
        assert_string_equal(out(), phase ? "UNSUBSCRIBE c" : "");
        if (phase == 1) server(SUBSCRIBED("c") MSG("c", "1"));
        if (phase) server(">3|+unsubscribe|+c|:0|");
        use(A);
        assert_string_equal(out(), "PING N");        /* what goes need not be unsubscribed */
        a_marks();
        assert_string_equal(out(), "");
        assert_int_equal(r.h.stats.handovers, 1);
    }
}

static void more_messages_than_the_queue_holds_are_counted(void **state) {
    azredis_sub *s;
    azredis_message m;
    int i;
    (void)state;
    s = two_streams();                              /* three find room */
    server(SUBSCRIBED("c"));
    tick(r.now);
    use(A);
    (void)out();
    a_marks();
    (void)out();
    for (i = 0; i < 5; i++) server(MSG("c", "m"));
    server(MSG("c", "7") MSG("c", "8") "@|");
    assert_int_equal(azri_sub_next(s, &m), 1);
    assert_true(azri_eqz(m.payload, "m"));
    assert_int_equal(m.lost, 4);
    next_is(s, "7", 0, 0);
    next_is(s, "8", 0, 0);
    assert_int_equal(r.h.stats.messages_lost, 4);
}

static void handovers_follow_each_other(void **state) {
    azredis_sub *s;
    azredis_message m;
    char text[64], number[12];
    int i, n = 2;
    (void)state;
    r.h.conf.sub_queue = 1000;
    s = two_streams();
    for (i = 0; i < 20; i++) {
        azri_session *a;
        if (i) {
            azri_hub_handover(&r.h, A, "test", r.now);
            tick(r.now);
            assert_null(A->heir);                    /* its own streams are not joined yet */
            use(A);
            server("@|");
            b_up();
            assert_string_equal(out(), "SUBSCRIBE c");
        }
        server(SUBSCRIBED("c"));
        use(A);
        sprintf(text, MSG("c", "%d") MSG("c", "%d"), n, n + 1);
        server(text);
        tick(r.now);
        assert_string_equal(out(), "PING N");
        a_marks();
        assert_string_equal(out(), "PING N");
        sprintf(text, MSG("c", "%d"), n + 1);        /* B's SUBSCRIBE ran between the two */
        server(text);
        sprintf(text, MSG("c", "%d"), n + 2);
        server(text);
        n += 3;
        a = B;
        B = NULL;
        A = r.s = a;
    }
    server("@|");
    for (i = 2; i < n; i++) {
        sprintf(number, "%d", i);
        next_is(s, number, 0, 0);
    }
    assert_int_equal(azri_sub_next(s, &m), 0);
    assert_int_equal(r.h.stats.handovers, 20);
    nothing_was_told();
}

/* ---- memory ---- */

static void without_memory_for_b_it_is_tried_again(void **state) {
    (void)state;
    a_up();
    heap.fail_at = heap.calls + 1;
    azri_hub_handover(&r.h, A, "test", r.now);
    tick(r.now);
    assert_null(A->heir);
    assert_int_equal(line(AZRI_LOG_HANDOVER_FAILED), 1);
    give_n(1);
    assert_string_equal(out(), "GET k0");
    answer(0, 0);
    tick(r.now + AZRI_HEIR_AGAIN - 1);
    assert_null(A->heir);
    assert_true(azri_hub_deadline(&r.h, r.now) == r.now + 1);
    tick(r.now + 1);
    assert_non_null(A->heir);
}

static void a_request_ends_with_its_connection(void **state) {
    (void)state;
    a_up();
    heap.fail_at = heap.calls + 1;
    azri_hub_handover(&r.h, A, "test", r.now);
    tick(r.now);
    lost();
    reconnect();
    tick(r.now + AZRI_HEIR_AGAIN);
    assert_null(A->heir);
}

/* Whichever allocation fails on the way: no command fails, the handover comes to its end. */
static void any_allocation_may_fail_during_a_handover(void **state) {
    size_t k, before = 0;
    int whole = 0;
    (void)state;
    for (k = 1; !whole; k++) {
        azredis_sub *s;
        azredis_message m;
        int i;
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.conf.sub_queue = 100;
        s = subscribe("c");
        A = r.s;
        token(1);
        welcome();
        (void)out();
        server(SUBSCRIBED("c"));
        give_n(1);
        (void)out();
        answer(0, 0);
        before = heap.calls;
        heap.fail_at = before + k;
        azri_hub_handover(&r.h, A, "test", r.now);
        for (i = 0; i < 3 && !A->heir; i++) tick(r.now + AZRI_HEIR_AGAIN);
        B = A->heir;
        use(B);
        for (i = 0; i < 3 && B->state != AZRI_READY; i++) {
            tick(azri_max64(r.now, B->dial_at));
            if (dial()) (void)out();
            server(WELCOME);
        }
        for (i = 0; i < 3 && !strcmp(out(), ""); i++) tick(r.now);
        server(SUBSCRIBED("c") MSG("c", "1"));
        use(A);
        server(MSG("c", "1"));
        give_n(1);
        (void)out();
        answer(1, 1);
        tick(r.now);
        (void)out();
        a_marks();
        (void)out();
        server(MSG("c", "2") "@|" MSG("c", "3"));
        assert_int_equal(r.h.stats.handovers, 1);
        one_is(1, r.end[1].st, AZREDIS_ANSWERED, "");
        whole = heap.calls < heap.fail_at;
        for (i = 0; azri_sub_next(s, &m); i++) {}
        if (whole) assert_int_equal(i, 3);
    }
    assert_in_range(k, 6, 40);
}

/* ---- a connection for subscriptions ---- */

#define RESP2_WELCOME "+OK|-NOPROTO no|+OK|+OK|@|"
#define TOLD(kind, channel, last) "*3|+" kind "|+" channel "|" last "|"

static void welcome_resp2(void) {
    assert_int_equal(dial(), 1);
    (void)out();
    server(RESP2_WELCOME);
    assert_int_equal(r.s->state, AZRI_READY);
}

/* A is the shared connection, B the one for subscriptions; both speak RESP2. */
static azredis_sub *two_lines(void) {
    azredis_sub *s;
    A = r.s;
    token(1);
    welcome_resp2();
    s = subscribe("c");
    assert_string_equal(out(), "");
    tick(r.now);
    B = r.h.listener;
    assert_non_null(B);
    assert_ptr_equal(azri_hub_main(&r.h), A);
    use(B);
    welcome_resp2();
    assert_string_equal(out(), "SUBSCRIBE c");
    server(TOLD("subscribe", "c", ":1") TOLD("message", "c", "+1"));
    next_is(s, "1", 0, 0);
    return s;
}

static void over_resp2_subscriptions_have_a_connection_of_their_own(void **state) {
    azredis_sub *s, *d;
    (void)state;
    s = two_lines();
    use(A);
    give_n(1);
    assert_string_equal(out(), "GET k0");
    answer(0, 0);
    ok(0, 0);
    use(B);
    d = subscribe("d");
    azri_hub_subscribe(&r.h, B);
    assert_string_equal(out(), "SUBSCRIBE d");
    server("-NOPERM not you|");
    assert_int_equal(d->state, AZRI_SUB_REFUSED);
    assert_int_equal(d->error.code, AZREDIS_E_NOPERM);
    azri_hub_unsubscribe(&r.h, s);
    assert_string_equal(out(), "UNSUBSCRIBE c");
    server(TOLD("unsubscribe", "c", ":0"));
    assert_int_equal(B->fifo.count, 0);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 0);
}

/* Its silence is ended by a PING, whose answer has another shape there. */
static void a_subscriber_over_resp2_answers_its_ping(void **state) {
    (void)state;
    r.h.conf.session.keepalive_ms = 1000;
    (void)two_lines();
    tick(r.now + 1000);
    assert_string_equal(out(), "PING N");
    server("*2|+pong|@|");
    assert_int_equal(B->gate, 0);
    assert_int_equal(B->state, AZRI_READY);
}

/* It cannot show a new token: another connection does, and no message is lost or comes twice. */
static void case23_a_subscriber_over_resp2_is_replaced_with_each_token(void **state) {
    azredis_sub *s;
    azri_session *C;
    (void)state;
    s = two_lines();
    token(2);
    tick(r.now + 30000);                            /* tokens are shown at different times */
    use(A);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    server("+OK|@|");
    C = B->heir;
    assert_non_null(C);
    use(B);
    server(TOLD("message", "c", "+2"));
    r.s = C;
    welcome_resp2();
    assert_string_equal(out(), "SUBSCRIBE c");
    server(TOLD("subscribe", "c", ":1") TOLD("message", "c", "+3"));
    tick(r.now);
    r.s = B;
    assert_string_equal(out(), "PING N");
    server(TOLD("message", "c", "+3") "*2|+pong|@|");
    assert_ptr_equal(r.h.listener, C);
    r.s = C;
    assert_string_equal(out(), "PING N");
    server(TOLD("message", "c", "+4") "*2|+pong|@|");
    next_is(s, "2", 0, 0);
    next_is(s, "3", 0, 0);
    next_is(s, "4", 0, 0);
    tick(r.now);
    assert_int_equal(r.h.session_count, 2);
    assert_int_equal(r.h.stats.handovers, 1);
    nothing_was_told();
}

static void a_lost_subscriber_leaves_commands_alone(void **state) {
    azredis_sub *s;
    (void)state;
    s = two_lines();
    lost();
    assert_int_equal(r.h.trouble.code, AZREDIS_OK);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 1);
    assert_int_equal(azri_news_at(&r.h.news, r.h.news.count - 2)->connection, AZREDIS_CONNECTION_PUBSUB);
    use(A);
    give_n(1);
    assert_string_equal(out(), "GET k0");
    answer(0, 0);
    use(B);
    tick(B->dial_at);
    welcome_resp2();
    assert_string_equal(out(), "SUBSCRIBE c");
    server(TOLD("subscribe", "c", ":1") TOLD("message", "c", "+2"));
    next_is(s, "2", 0, 1);
}

/* B's heir, which a new token asks for; B's own is shown by A meanwhile. */
static azri_session *heir_of_b(void) {
    token(2);
    tick(r.now + 30000);
    use(A);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    server("+OK|@|");
    assert_non_null(B->heir);
    return B->heir;
}

/* However little their own tokens have left, all connections have begun to show the new one before that is over. */
static void a_token_is_shown_in_time_by_all(void **state) {
    uint32_t seed;
    (void)state;
    for (seed = 1; seed <= 50; seed++) {
        azri_session *C;
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.rng.state = seed;
        (void)two_lines();
        A->blob->expires_at = B->blob->expires_at = r.now + 900;
        A->blob->life_ms = B->blob->life_ms = 3000;
        token(2);
        tick(r.now + 375);                          /* half of what is left before they are drained */
        C = B->heir;
        assert_non_null(C);
        use(A);
        assert_string_equal(out(), "AUTH oid token-2, PING N");
        server("+OK|@|");
    }
}

/* The heir of a subscriber over RESP2 dies in each of its phases: the old connection goes on, the next heir serves. */
static void an_heir_of_a_subscriber_that_dies_costs_no_message(void **state) {
    int phase;
    (void)state;
    for (phase = 0; phase < 5; phase++) {           /* dialling, refused, not confirmed, confirmed, B leaving */
        azredis_sub *s;
        azredis_message m;
        azri_session *C;
        int i;
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.conf.sub_queue = 100;
        s = two_lines();
        C = heir_of_b();
        use(B);
        server(TOLD("message", "c", "+2"));
        r.s = C;
        if (phase == 1) {
            assert_int_equal(dial(), 1);
            (void)out();
            server("-WRONGPASS no|");
        } else {
            if (phase >= 2) welcome_resp2();
            if (phase >= 2) assert_string_equal(out(), "SUBSCRIBE c");
            if (phase >= 3) server(TOLD("subscribe", "c", ":1") TOLD("message", "c", "+3"));
            if (phase >= 4) tick(r.now);
            lost();
        }
        assert_int_equal(B->leaving, 0);
        r.s = B;
        server(TOLD("message", "c", "+3"));
        if (phase >= 4) assert_string_equal(out(), "PING N");
        if (phase >= 4) server("*2|+pong|@|");
        for (i = 0; i < 3 && C->state != AZRI_READY; i++) {
            if (phase == 1) token(3);
            r.s = C;
            tick(azri_max64(r.now, C->dial_at));
            if (!dial()) continue;
            (void)out();
            server(RESP2_WELCOME);
        }
        assert_int_equal(C->state, AZRI_READY);
        assert_string_equal(out(), "SUBSCRIBE c");
        server(TOLD("subscribe", "c", ":1") TOLD("message", "c", "+5"));
        tick(r.now);
        r.s = B;
        assert_string_equal(out(), "PING N");
        server(TOLD("message", "c", "+4") TOLD("message", "c", "+5") "*2|+pong|@|");
        assert_ptr_equal(r.h.listener, C);
        r.s = C;
        (void)out();
        server("*2|+pong|@|" TOLD("message", "c", "+6"));
        next_is(s, "2", 0, 0);
        next_is(s, "3", 0, 0);
        next_is(s, "4", 0, 0);
        next_is(s, "5", 0, 0);
        next_is(s, "6", 0, 0);
        assert_int_equal(azri_sub_next(s, &m), 0);
        nothing_was_told();
        tick(r.now);
    }
}

/* No heir can be made before the token ends: the connection goes with it, and the next one's first message says so. */
static void a_subscriber_whose_token_ends_before_it_has_an_heir_has_a_gap(void **state) {
    azredis_sub *s;
    azri_session *C;
    int i;
    (void)state;
    s = two_lines();
    C = heir_of_b();
    B->blob->expires_at = r.now + 5000;             /* no second token of this life */
    for (i = 0; i < 100 && !B->gone; i++) {
        r.s = C;
        if (azri_hub_may_dial(&r.h, C, r.now)) {
            azri_hub_dialing(&r.h, C);
            lost();
        }
        tick(r.now + 100);
    }
    assert_true(i < 60);
    assert_ptr_equal(r.h.listener, C);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 1);
    r.s = C;
    tick(azri_max64(r.now, C->dial_at));
    welcome_resp2();
    assert_string_equal(out(), "SUBSCRIBE c");
    server(TOLD("subscribe", "c", ":1") TOLD("message", "c", "+9"));
    next_is(s, "9", 0, 1);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_RESTORED), 1);
    use(A);
    give_n(1);
    assert_string_equal(out(), "GET k0");            /* commands knew nothing of it */
    answer(0, 0);
}

/* Subscribed and unsubscribed while the connection for it is dialled and signs in. */
static void subscribing_while_the_listener_is_being_made(void **state) {
    azredis_sub *s, *p;
    (void)state;
    A = r.s;
    token(1);
    welcome_resp2();
    (void)subscribe("c");
    B = r.h.listener;
    assert_non_null(B);                             /* at once: A is known to speak RESP2 */
    use(B);
    assert_int_equal(dial(), 1);
    s = subscribe("d");
    (void)out();
    p = psubscribe("p*");
    azri_hub_unsubscribe(&r.h, s);
    tick(r.now);
    assert_string_equal(out(), "");
    server(RESP2_WELCOME);
    assert_string_equal(out(), "PSUBSCRIBE p*, SUBSCRIBE c");
    server(TOLD("psubscribe", "p*", ":1") "*4|+pmessage|+p*|+pq|+1|" TOLD("subscribe", "c", ":2"));
    pnext_is(p, "pq", "1", 0, 0);
    azri_hub_unsubscribe(&r.h, p);
    assert_string_equal(out(), "PUNSUBSCRIBE p*");
    server(TOLD("punsubscribe", "p*", ":1"));
    assert_int_equal(B->fifo.count, 0);
    use(A);
    assert_string_equal(out(), "");
}

/* Both ends of one connection for a while. */
static void play_resp2(azri_session *on) {
    const char *words;
    r.s = on;
    if (on->state == AZRI_DOWN) (void)dial();
    words = out();
    if (on->state == AZRI_HANDSHAKE) server(RESP2_WELCOME);
    else if (strstr(words, "AUTH")) server("+OK|@|");
    else if (strstr(words, "PSUBSCRIBE")) server(TOLD("psubscribe", "c*", ":1") "*4|+pmessage|+c*|+c|+1|");
    else if (strstr(words, "PING N")) server("*2|+pong|@|");
}

/* Whichever allocation fails while the listener is made and replaced: it is there in the end. */
static void any_allocation_may_fail_for_a_listener(void **state) {
    size_t k;
    int whole = 0;
    (void)state;
    for (k = 1; !whole; k++) {
        azredis_sub *s;
        azri_session *on;
        azri_blob *next;
        int turn;
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.conf.sub_queue = 100;
        A = r.s;
        token(1);
        welcome_resp2();
        s = new_sub(AZREDIS_PATTERN, "c*");
        next = new_token("token-2", 2, r.now + HOUR, HOUR);
        heap.fail_at = heap.calls + k;
        (void)listen_to(s);
        for (turn = 0; turn < 60; turn++) {
            if (turn == 30) azri_hub_token(&r.h, next, r.now);
            tick(r.now + AZRI_HEIR_AGAIN / 5);
            for (on = r.h.sessions; on; on = on->next) play_resp2(on);
        }
        tick(r.now);
        azri_blob_drop(next);
        whole = heap.calls < heap.fail_at;
        assert_non_null(r.h.listener);
        assert_int_equal(s->open, 1);
        assert_int_equal(r.h.listener->blob->generation, 2);
        assert_int_equal(r.h.session_count, 2);
        assert_true(s->count >= 1);
    }
    assert_in_range(k, 6, 60);
}

static void if_asked_for_resp3_has_one_too(void **state) {
    azredis_sub *s;
    (void)state;
    r.h.conf.separate = 1;
    a_up();
    s = subscribe("c");
    tick(r.now);
    B = r.h.listener;
    use(B);
    welcome();
    assert_string_equal(out(), "SUBSCRIBE c");
    server(SUBSCRIBED("c") MSG("c", "1"));
    next_is(s, "1", 0, 0);
    use(A);
    assert_string_equal(out(), "");
    token(2);
    tick(r.now + 30000);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    server("+OK|@|");
    use(B);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    server("+OK|@|");
    assert_int_equal(r.h.session_count, 2);
}

/* ---- how a token is shown ---- */

static void by_handover_if_asked_for(void **state) {
    (void)state;
    r.h.conf.session.reauth = AZREDIS_REAUTH_HANDOVER;
    a_up();
    token(2);
    tick(r.now);
    B = A->heir;
    assert_non_null(B);
    assert_string_equal(out(), "");
    use(B);
    assert_int_equal(dial(), 1);
    assert_memory_equal(out(), "AUTH oid token-2,", 17);
    server(WELCOME);
    tick(r.now);
    use(A);
    assert_string_equal(out(), "PING N");
    a_marks();
    assert_int_equal(B->blob->generation, 2);
}

static void by_handover_if_the_last_auth_was_slow(void **state) {
    (void)state;
    a_up();
    token(2);
    tick(r.now);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    r.now += AZRI_SLOW_AUTH + 1;
    server("+OK|@|");
    token(3);
    tick(r.now);
    assert_non_null(A->heir);
    assert_string_equal(out(), "");
}

static void in_a_quiet_moment_if_asked_for(void **state) {
    (void)state;
    r.h.conf.session.reauth = AZREDIS_REAUTH_QUIESCED;
    a_up();
    give_n(1);
    assert_string_equal(out(), "GET k0");
    token(2);
    tick(r.now);
    give_n(1);
    assert_string_equal(out(), "");
    answer(0, 0);
    assert_string_equal(out(), "AUTH oid token-2");
    assert_string_equal(out(), "");
    server("+OK|");
    assert_string_equal(out(), "GET k1");
    answer(1, 1);
    ok(0, 1);
}

/* A server that answers AUTH on the live connection with errors of its own, until the token is about to end. */
static void case24_by_handover_if_in_place_it_was_impossible_until_the_end(void **state) {
    uint64_t t;
    int tries = 0;
    (void)state;
    a_up();
    token(2);
    for (t = r.now; t < A->blob->expires_at - AZRI_REPLACE_LEFT; t = azri_max64(t + 1, azri_min64(A->auth_at, A->blob->expires_at - AZRI_REPLACE_LEFT))) {
        tick(t);
        if (!*out()) continue;
        tries++;
        server("-ERR not now|@|");
    }
    assert_true(tries > 10);
    assert_null(A->heir);
    tick(A->blob->expires_at - AZRI_REPLACE_LEFT - 1);
    if (*out()) server("-ERR not now|@|");
    give_n(1);
    assert_string_equal(out(), "GET k0");           /* it serves, as ever */
    tick(A->blob->expires_at - AZRI_REPLACE_LEFT);
    B = A->heir;
    assert_non_null(B);
    use(B);
    welcome();
    tick(r.now);
    use(A);
    assert_string_equal(out(), "PING N");
    give_n(1);
    server("+v0|@|");                               /* what was under way has its answer */
    ok(0, 0);
    use(B);
    tick(r.now);
    assert_string_equal(out(), "GET k1");
    answer(1, 1);
    ok(1, 1);
    nothing_was_told();
}

/* ---- many lives ---- */

/* A is the shared connection, B the one of subscriptions; both speak RESP3. */
static azredis_sub *two_lines_of_resp3(void) {
    azredis_sub *s;
    r.h.conf.separate = 1;
    a_up();
    s = subscribe("c");
    tick(r.now);
    B = r.h.listener;
    use(B);
    welcome();
    assert_string_equal(out(), "SUBSCRIBE c");
    server(SUBSCRIBED("c"));
    return s;
}

static int occurs(const char *in, const char *what) {
    int n = 0;
    for (; (in = strstr(in, what)) != NULL; in++) n++;
    return n;
}

/* Of each life one AUTH by each connection; of each connection one HELLO. */
static void case26_ten_lives_cost_each_connection_one_auth_each(void **state) {
    int auths = 2, hellos = 2, minute, turn;            /* the handshakes, which two_lines_of_resp3 has seen */
    azri_session *on[2];
    azredis_sub *s;
    uint32_t life;
    (void)state;
    s = two_lines_of_resp3();
    on[0] = A;
    on[1] = B;
    for (life = 2; life <= 10; life++) {
        token(life);
        for (minute = 0; minute < 45; minute++) {
            tick(r.now + 60000);
            for (turn = 0; turn < 2; turn++) {
                use(on[turn]);
                if (turn == 0) give_n(1);
                (void)out();
                auths += occurs(wire.words, "AUTH ");
                hellos += occurs(wire.words, "HELLO ");
                if (occurs(wire.words, "AUTH ")) server("+OK|@|");
                if (turn == 0) answer(r.cmds - 1, r.cmds - 1);
                if (turn == 1) server(MSG("c", "1"));
            }
            next_is(s, "1", 0, 0);
        }
    }
    assert_int_equal(auths, 20);
    assert_int_equal(hellos, 2);
    assert_true(A->blob->generation == 10 && B->blob->generation == 10);
    ok(0, r.cmds - 1);
    nothing_was_told();
}

/* All connections of many clients would burden the service at once: they show a new token apart, each within 30 s; one
 * that is alone does so at once. */
static void a_token_is_shown_by_one_after_the_other(void **state) {
    int apart = 0, late = 0;
    uint32_t seed;
    (void)state;
    a_up();
    token(2);
    assert_true(A->auth_at == r.now);
    for (seed = 1; seed <= 100; seed++) {
        uint64_t a, b;
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.rng.state = seed;
        (void)two_lines_of_resp3();
        token(2);
        a = A->auth_at - r.now;
        b = B->auth_at - r.now;
        assert_true(a <= 30000 && b <= 30000);
        apart += a > b + 1000 || b > a + 1000;
        late += a > 15000;
    }
    assert_in_range(apart, 85, 100);
    assert_in_range(late, 30, 70);
}

/* Two connections on two tokens: each ends with its own, whatever the other one has. */
static void case28_each_connection_lives_as_long_as_its_own_token(void **state) {
    (void)state;
    (void)two_lines_of_resp3();
    r.now += HOUR / 2;
    token(2);
    tick(r.now + 30000);
    use(A);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    server("+OK|@|");
    use(B);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    server("-WRONGPASS no|@|");
    assert_true(A->blob->generation == 2 && B->blob->generation == 1);
    tick(B->blob->expires_at - 1001);
    assert_int_equal(B->state, AZRI_READY);
    tick(r.now + 1);
    assert_int_not_equal(B->state, AZRI_READY);
    assert_int_equal(A->state, AZRI_READY);
    use(A);
    give_n(1);
    assert_string_equal(out(), "GET k0");
    answer(0, 0);
    ok(0, 0);
    tick(A->blob->expires_at - 1001);
    assert_int_equal(A->state, AZRI_READY);
    tick(r.now + 1);
    assert_int_not_equal(A->state, AZRI_READY);
}

/* ---- leases ---- */

/* A is the shared connection, B a leased one that is ready. */
static void leased(void) {
    azredis_status st;
    a_up();
    r.h.conf.leases = 2;
    B = azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st);
    assert_non_null(B);
    use(B);
    welcome();
}

static void lease_gives_for(const char *name, uint64_t ms) {
    azri_cmd *c;
    azredis_str argv = azri_str(name);
    assert_int_equal(azri_hub_new_cmd(&r.h, 1, &argv, AZRI_FOR_LEASE, &c, NULL), AZREDIS_OK);
    c->deadline = r.now + ms;
    c->fn = on_reply;
    c->user = (void *)(uintptr_t)r.cmds++;
    azri_lease_before(B, azri_on_lease_of(azri_refused(1, &argv)));
    azri_lease_submit(&r.h, B, c);
    deliver();
}

static void lease_gives(const char *name) { lease_gives_for(name, COMMAND_MS); }

static void lease_heard(const char *name, const char *says) {
    azredis_str argv = azri_str(name);
    server(says);
    azri_lease_after(B, azri_on_lease_of(azri_refused(1, &argv)), AZREDIS_OK, AZREDIS_ANSWERED);
}

/* Between MULTI and EXEC, from WATCH on, and while a command blocks: neither a new token nor a PING. */
static void case22_a_transaction_is_not_divided(void **state) {
    static const struct { const char *begins, *says, *ends, *then; } row[] = {
        { "MULTI", "+OK|", "EXEC", "*0|" }, { "MULTI", "+OK|", "DISCARD", "+OK|" }, { "WATCH", "+OK|", "UNWATCH", "+OK|" },
        { "WATCH", "+OK|", "EXEC", "_|" }, { "BLPOP", NULL, "BLPOP", "_|" }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        (void)end(NULL);
        (void)fresh(NULL);
        r.h.conf.session.keepalive_ms = 60000;
        leased();
        lease_gives_for(row[i].begins, HOUR);
        assert_string_equal(out(), row[i].begins);
        token(2);
        tick(r.now + 31000);
        assert_string_equal(out(), "");
        if (row[i].says) lease_heard(row[i].begins, row[i].says);
        tick(r.now + 61000);
        assert_string_equal(out(), "");
        if (row[i].says) lease_gives(row[i].ends);
        assert_string_equal(out(), row[i].says ? row[i].ends : "");
        lease_heard(row[i].ends, row[i].then);
        tick(r.now);
        assert_string_equal(out(), "AUTH oid token-2, PING N");
        server("+OK|@|");
        azri_lease_give(&r.h, B, r.now);
        assert_null(B->wants_close);
    }
}

/* Within a transaction what would break the connection is refused as well, and not written; pushes answer nothing. */
static void case12_what_a_transaction_may_not_hold(void **state) {
    static const char *const row[][2] = {
        { "AUTH", "x" }, { "HELLO", "3" }, { "RESET", "" }, { "MONITOR", "" }, { "CLIENT", "REPLY" }, { "SUBSCRIBE", "c" },
        { "PSUBSCRIBE", "*" }, { "SSUBSCRIBE", "c" }, { "UNSUBSCRIBE", "c" }, { "QUIT", "" }
    };
    size_t i;
    (void)state;
    leased();
    lease_gives("MULTI");
    (void)out();
    lease_heard("MULTI", "+OK|");
    for (i = 0; i < COUNT(row); i++) {
        azredis_str argv[2];
        azredis_error e;
        azri_cmd *c;
        argv[0] = azri_str(row[i][0]);
        argv[1] = azri_str(row[i][1]);
        if (azri_hub_new_cmd(&r.h, 2, argv, AZRI_FOR_LEASE, &c, &e) != AZREDIS_E_ARG) fail_msg("%s passed", row[i][0]);
        assert_non_null(strstr(e.message, row[i][0]));
    }
    assert_string_equal(out(), "");
    lease_gives("RANDOMKEY");
    lease_gives("EXEC");
    assert_string_equal(out(), "RANDOMKEY, EXEC");
    server(">2|+invalidate|*1|+k|+v1|>1|+odd|");             /* +QUEUED with a number */
    assert_int_equal(r.end[2].ends, 0);
    lease_heard("EXEC", ">2|+invalidate|_|+v2|");
    ok(1, 2);
}

/* What only concerns the connection that one has for oneself, the shared one refuses and a lease takes. */
static void a_lease_takes_what_the_shared_connection_refuses(void **state) {
    static const char *const row[][3] = {
        { "WATCH", "k", "" }, { "UNWATCH", "", "" }, { "MULTI", "", "" }, { "EXEC", "", "" }, { "DISCARD", "", "" }, { "SELECT", "1", "" },
        { "WAIT", "0", "0" }, { "WAITAOF", "0", "0" }, { "CLIENT", "TRACKING", "ON" }, { "CLIENT", "SETNAME", "x" },
        { "BLPOP", "k", "0" }, { "XREAD", "BLOCK", "0" }, { "GET", "k", "" }
    };
    size_t i;
    (void)state;
    leased();
    for (i = 0; i < COUNT(row); i++) {
        azredis_str argv[3];
        azri_cmd *c;
        int n;
        for (n = 0; n < 3; n++) argv[n] = azri_str(row[i][n]);
        if ((azri_hub_new_cmd(&r.h, 3, argv, 0, &c, NULL) == AZREDIS_OK) != (i + 1 == COUNT(row))) fail_msg("%s passed", row[i][0]);
        if (i + 1 == COUNT(row)) azri_stock_give(&r.h.stock, c);
        if (azri_hub_new_cmd(&r.h, 3, argv, AZRI_FOR_LEASE, &c, NULL) != AZREDIS_OK) fail_msg("%s was refused", row[i][0]);
        azri_stock_give(&r.h.stock, c);
    }
}

static void a_lease_goes_to_the_next_or_ends(void **state) {
    azredis_status st;
    azri_session *C;
    (void)state;
    leased();
    C = azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st);
    assert_non_null(C);
    assert_ptr_not_equal(B, C);
    assert_null(azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st));
    assert_int_equal(st, AZREDIS_AGAIN);
    azri_lease_give(&r.h, B, r.now);
    assert_ptr_equal(azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st), B);
    B->lease.multi = 1;                             /* left in a transaction */
    azri_lease_give(&r.h, B, r.now);
    assert_non_null(B->wants_close);
    assert_null(azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st));
    tick(r.now);
    tick(r.now);
    assert_int_equal(r.h.session_count, 2);
    B = azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st);
    use(B);
    welcome();
    azri_lease_give(&r.h, B, r.now);
    tick(r.now + AZRI_LEASE_IDLE_MS - 1);
    assert_int_equal(r.h.session_count, 3);
    tick(r.now + 1);
    tick(r.now);
    assert_int_equal(r.h.session_count, 2);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 0);
}

/* Not made yet, or in vain: it is no lease in use, nor is it made for nobody. */
static void a_lease_given_up_before_it_is_made_goes(void **state) {
    azredis_status st;
    (void)state;
    a_up();
    r.h.conf.leases = 1;
    B = azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st);
    azri_lease_give(&r.h, B, r.now);
    B = azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st);
    assert_non_null(B);
    assert_null(azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st));
    tick(r.now);
    assert_int_equal(r.h.session_count, 2);
    use(B);
    assert_int_equal(dial(), 1);
    azri_lease_give(&r.h, B, r.now);                /* on its way: the next one may have it */
    tick(r.now);
    assert_int_equal(r.h.session_count, 2);
    assert_non_null(strstr(out(), "AUTH"));
    server(WELCOME);
    assert_ptr_equal(azri_lease_take(&r.h, (azredis_client *)&r, r.now, &st), B);
    azri_lease_give(&r.h, B, r.now);
    lost();
    tick(r.now);
    assert_int_equal(r.h.session_count, 1);
}

/* What was begun there ends with its fate; the rest is not sent by another connection. */
static void a_lost_lease_takes_its_commands_along(void **state) {
    (void)state;
    leased();
    lease_gives("MULTI");
    assert_string_equal(out(), "MULTI");
    lease_gives("EXEC");
    lost();
    one_is(0, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "the wire is cut");
    one_is(1, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "the wire is cut");
    lease_gives("EXEC");
    one_is(2, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "the wire is cut");
    tick(r.now + 60000);
    assert_int_equal(B->state, AZRI_DOWN);
    azri_lease_give(&r.h, B, r.now);
    tick(r.now);
    assert_int_equal(r.h.session_count, 1);
    assert_int_equal(told(AZREDIS_EV_CONNECTION_FAILED), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        T(case22_a_transaction_is_not_divided), T(case12_what_a_transaction_may_not_hold), T(case26_ten_lives_cost_each_connection_one_auth_each),
        T(a_token_is_shown_by_one_after_the_other), T(case28_each_connection_lives_as_long_as_its_own_token), T(a_lease_goes_to_the_next_or_ends), T(a_lease_takes_what_the_shared_connection_refuses), T(a_lost_lease_takes_its_commands_along),
        T(a_lease_given_up_before_it_is_made_goes),
        T(over_resp2_subscriptions_have_a_connection_of_their_own), T(a_subscriber_over_resp2_answers_its_ping),
        T(case23_a_subscriber_over_resp2_is_replaced_with_each_token), T(a_lost_subscriber_leaves_commands_alone),
        T(a_token_is_shown_in_time_by_all), T(an_heir_of_a_subscriber_that_dies_costs_no_message), T(a_subscriber_whose_token_ends_before_it_has_an_heir_has_a_gap),
        T(subscribing_while_the_listener_is_being_made), T(any_allocation_may_fail_for_a_listener),
        T(the_seam_of_a_pattern_looks_at_channels), T(what_is_held_is_bounded_in_bytes),
        T(if_asked_for_resp3_has_one_too), T(by_handover_if_asked_for), T(by_handover_if_the_last_auth_was_slow),
        T(in_a_quiet_moment_if_asked_for), T(case24_by_handover_if_in_place_it_was_impossible_until_the_end),
        T(an_idle_connection_is_replaced_without_a_word), T(asking_again_is_harmless),
        T(b_is_written_to_when_a_has_drained_and_the_order_is_kept), T(a_frame_once_begun_is_finished_where_it_began),
        T(a_late_answer_is_read_before_a_goes), T(what_waits_for_the_handover_ends_by_its_deadline),
        T(fail_fast_and_no_queue_wait_for_the_handover), T(the_limit_of_waiting_commands_holds_for_both_together),
        T(a_fence_on_a_is_finished_first), T(a_token_that_comes_while_a_leaves_is_presented), T(a_refusal_that_a_hears_last_is_not_forgotten), T(a_probe_on_a_is_awaited),
        T(an_a_whose_token_ends_leaves_too), T(an_ended_a_is_followed_by_b), T(a_silent_a_does_not_hold_b_up),
        T(a_mark_out_of_step_ends_a), T(a_refused_mark_is_a_mark), T(while_b_cannot_be_made_a_goes_on),
        T(a_b_that_must_be_mended_fails_no_command), T(a_b_that_dies_before_the_switch_gives_all_back),
        T(an_old_mark_is_not_taken_for_the_new_one), T(a_token_that_b_was_refused_with_is_replaced_by_the_one_that_serves),
        T(case28_an_older_token_is_not_presented_to_a_newer_connection), T(if_a_dies_before_b_is_there_b_is_the_reconnect), T(if_a_dies_when_b_is_ready_b_serves_at_once),
        T(a_goes_when_the_pump_has_closed_its_link), T(the_client_may_be_closed_at_any_point),
        T(no_message_is_lost_and_none_comes_twice), T(a_b_that_lags_behind_repeats_nothing),
        T(the_seam_is_right_for_all_overlaps), T(a_whole_stream_and_one_cut_short_are_joined_differently), T(a_draining_b_delivers_what_it_holds),
        T(equal_messages_may_be_taken_for_one),
        T(if_a_dies_the_overlap_tells_whether_there_is_a_gap), T(if_a_dies_before_b_is_subscribed_there_is_a_gap),
        T(if_b_dies_its_messages_are_not_needed), T(if_b_dies_while_it_holds_messages_they_are_delivered_once),
        T(a_subscription_refused_on_b_is_refused), T(subscribing_during_a_handover),
        T(a_second_subscription_to_the_channel_during_a_handover), T(a_second_subscription_to_the_channel_while_a_leaves), T(unsubscribing_during_a_handover),
        T(more_messages_than_the_queue_holds_are_counted), T(handovers_follow_each_other),
        T(without_memory_for_b_it_is_tried_again), T(a_request_ends_with_its_connection), T(any_allocation_may_fail_during_a_handover),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
