/* Random thread orders, by a seed: real threads call the pure half as the library's own do (callers that take the
 * baton in turns, an I/O thread, a delivery thread), but one at a time, and a seeded scheduler says who goes on wherever
 * the client's lock is let go. So every order of the sections under the lock can come up, and comes again by its seed.
 * Server, authority and time are the model's.
 *   build/gcc/sim/orders [first seed] [last seed] */
#define AZREDIS_ONLY_PURE
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "model.h"
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { CALLERS = 4, IO = CALLERS, DELIVERY, TASKS, ROUNDS = 12, BATCH = 3, IDS = CALLERS * ROUNDS * BATCH * 2, COMMAND_MS = 2000,
       LIFE = 5000, STEP_MAX = 200000, SPAN = 20000 };

typedef struct command { int outcomes; azredis_status status; azredis_fate fate; int wrong_answer; } command;

static struct {
    uint64_t    seed, steps, trace, rng;
    model      *m;
    azri_hub    hub;
    azri_token  machine;
    azri_rng    token_rng;
    uint32_t    claim, generation;
    uint64_t    fetch_at, fetch_sent;
    azri_cmd   *calls, *calls_tail;
    command     cmd[IDS];
    unsigned long ids;
    int         held, baton, callers;
    uint64_t    wake[TASKS];            /* the task has nothing to do before; 0: always ready */
    int         alive[TASKS];
    sem_t       go[TASKS];
    size_t      allocated;
    char        broken[300];            /* the first invariant that did not hold */
} run;

static uint64_t switches, batons, asides, reauths, handovers, faults[F_COUNT], ends[3];

#define CHECK(x) do { if (!(x) && !run.broken[0]) snprintf(run.broken, sizeof run.broken, "seed %llu at step %llu, %llu ms: %s", \
    (unsigned long long)run.seed, (unsigned long long)run.steps, (unsigned long long)run.m->now, #x); } while (0)

static void *run_alloc(void *user, size_t n) {
    (void)user;
    run.allocated += n;
    return malloc(n);
}

static void run_free(void *user, void *p, size_t n) {
    (void)user;
    run.allocated -= n;
    free(p);
}

static const azri_mem run_mem = { run_alloc, run_free, NULL, NULL };

static uint64_t dice(uint64_t n) {
    run.rng = run.rng * 6364136223846793005ull + 1442695040888963407ull;
    return (run.rng >> 33) % n;
}

/* ---- the scheduler ---- */

static int overdue(void) { return run.steps > STEP_MAX || run.broken[0] != '\0'; }

/* Another task that is alive, and whose time has come if there is one. -1: none. */
static int pick(void) {
    int t, n = 0, chosen = -1, late = -1;
    for (t = 0; t < TASKS; t++) {
        if (!run.alive[t]) continue;
        late = t;
        if (run.wake[t] <= run.m->now && dice((uint64_t)++n) == 0) chosen = t;
    }
    return chosen >= 0 ? chosen : late;
}

static void pass(int self, int next) {
    if (next == self || next < 0) return;
    switches++;
    (void)sem_post(&run.go[next]);
    if (run.alive[self]) (void)sem_wait(&run.go[self]);
}

static void hold(void) {
    assert(!run.held);
    run.held = 1;
}

static void let_go(int self) {
    assert(run.held);
    run.held = 0;
    run.steps++;
    run.trace = (run.trace ^ (uint64_t)self ^ run.m->now) * 0x100000001b3ull;
    if (dice(4) == 0) run.m->now += dice(3);
    model_run(run.m);
    pass(self, pick());
}

/* ---- the pump's place ---- */

static conn *conn_of(const azri_session *s) { return (conn *)s->link; }
static int is_up(const azri_session *s) { return s->state == AZRI_HANDSHAKE || s->state == AZRI_READY || s->state == AZRI_DRAINING; }

static int all_ready(void) {
    const azri_session *s;
    for (s = run.hub.sessions; s; s = s->next)
        if (s->state != AZRI_READY && s->state != AZRI_DRAINING) return 0;
    return 1;
}

static void leave(azri_cmd *c) {
    c->fn = NULL;
    c->done = NULL;
    c->reply = &c->own;
    if (!c->linked && !c->in_done && !c->in_calls) azri_stock_give(&run.hub.stock, c);
}

static void tell(void) {
    azri_cmd *c;
    while ((c = run.hub.done.head) != NULL) {
        run.hub.done.head = c->done_next;
        if (!run.hub.done.head) run.hub.done.tail = NULL;
        c->done_next = NULL;
        c->in_done = 0;
        if (c->in_calls) continue;
        c->told = 1;
        if (c->done) ++*c->done;
        if (!c->fn) { leave(c); continue; }
        c->call_next = NULL;
        c->in_calls = 1;
        run.hub.undelivered++;
        if (run.calls_tail) run.calls_tail->call_next = c;
        else run.calls = c;
        run.calls_tail = c;
    }
    run.hub.news.count = 0;
}

static void lost(azri_session *s) {
    azredis_error e;
    (void)azri_fail(&e, AZREDIS_E_CLOSED, "orders", "closed by the server");
    azri_hub_closed(&run.hub, s, &e, run.m->now);
}

/* Decoded without the lock, matched under it. */
static void read_all(int self, azri_session *s) {
    azri_frame f;
    azredis_error e;
    char *p = NULL;
    size_t n = 0;
    long got;
    while (s->link && is_up(s)) {
        azredis_status st;
        let_go(self);
        st = azri_resp_next(&s->resp, &f, &e);
        hold();
        if (st == AZREDIS_OK) {
            azri_hub_frame(&run.hub, s, &f, run.m->now);
            continue;
        }
        CHECK(st == AZREDIS_AGAIN);
        let_go(self);
        CHECK(azri_resp_room(&s->resp, 512, &p, &n) == AZREDIS_OK);
        got = model_send(run.m, conn_of(s), p, 1 + (size_t)model_random(run.m, n));
        hold();
        if (got < 0) lost(s);
        if (got <= 0) return;
        azri_resp_got(&s->resp, (size_t)got);
    }
}

static void write_all(int self, azri_session *s) {
    char record[512];
    size_t n;
    while (s->link && is_up(s) && (n = azri_session_output(s, record, 1 + (size_t)dice(sizeof record), run.m->now, NULL)) > 0) {
        conn *k = conn_of(s);
        let_go(self);
        model_receive(run.m, k, record, n);
        hold();
    }
}

static void hang_up(azri_session *s) {
    if (s->state != AZRI_DOWN || !s->link) return;
    model_close(conn_of(s));
    s->link = NULL;
}

/* The model gives a connection that has ended away again: not before its session has noticed. */
static int unnoticed(void) {
    const azri_session *s;
    for (s = run.hub.sessions; s; s = s->next)
        if (s->link && !conn_of(s)->open) return 1;
    return 0;
}

static void dial(int self, azri_session *s) {
    if (unnoticed() || !azri_hub_may_dial(&run.hub, s, run.m->now)) return;
    azri_hub_dialing(&run.hub, s);
    let_go(self);
    hold();
    if (unnoticed() || (s->link = model_accept(run.m)) == NULL) lost(s);
    else if (azri_hub_live_blob(&run.hub, run.m->now)) azri_hub_opened(&run.hub, s, run.m->now);
    else lost(s);
}

static uint64_t next_time(void) {
    const azri_session *s;
    uint64_t now = run.m->now, t = azri_min64(azri_hub_deadline(&run.hub, now), azri_token_deadline(&run.machine, now));
    int i;
    if (run.claim) t = azri_min64(t, run.fetch_at);
    for (s = run.hub.sessions; s; s = s->next)
        if (s->link) t = azri_min64(t, model_next(run.m, conn_of(s)));
    for (i = 0; i < TASKS; i++)
        if (run.alive[i] && run.wake[i]) t = azri_min64(t, run.wake[i]);
    return azri_max64(t, now);
}

/* Whoever watches the sockets sleeps until something is due; who waits for something else comes before. */
static void sleep_till_due(int self) {
    uint64_t t = next_time();
    run.m->now = t > run.m->now && dice(2) ? t : run.m->now + dice(2);
    let_go(self);
    hold();
}

/* ---- callers ---- */

static void submit(azri_cmd *c) {
    c->deadline = run.m->now + COMMAND_MS;
    azri_hub_submit(&run.hub, c);
}

static azri_cmd *make(unsigned long *id) {
    azredis_str argv[2];
    azri_cmd *c;
    char text[24];
    assert(run.ids < IDS);
    snprintf(text, sizeof text, "%lu", run.ids);
    argv[0] = azri_str("RUN");
    argv[1] = azri_str(text);
    if (azri_hub_new_cmd(&run.hub, 2, argv, 0, &c, NULL) != AZREDIS_OK) return NULL;
    *id = run.ids++;
    return c;
}

static void outcome(unsigned long id, const azredis_reply *r) {
    command *k = &run.cmd[id];
    char want[24];
    snprintf(want, sizeof want, "%lu", id);
    k->outcomes++;
    k->status = r->status;
    k->fate = r->fate;
    k->wrong_answer |= r->status == AZREDIS_OK && !azri_eqz(azredis_text(r->value), want);
    ends[r->fate]++;
}

static void on_reply(azredis_client *c, const azredis_reply *r, void *user) {
    (void)c;
    outcome((unsigned long)(uintptr_t)user, r);
}

static void caller_turns(int self, const int *done, int want) {
    azri_session *s;
    batons++;
    for (;;) {
        for (s = run.hub.sessions; s; s = s->next) read_all(self, s);
        azri_hub_tick(&run.hub, run.m->now);
        for (s = run.hub.sessions; s; s = s->next) write_all(self, s);
        tell();
        if (*done >= want || !all_ready() || overdue()) return;
        sleep_till_due(self);
    }
}

/* As azri_hub_expire: a caller whose commands others look after sees to it that they end in time. */
static void expire(void) {
    azri_session *s;
    for (s = run.hub.sessions; s; s = s->next)
        if (s->state == AZRI_READY || s->state == AZRI_DRAINING) azri_session_expire(s, run.m->now, &run.hub.made);
    azri_hub_expire_backlog(&run.hub, run.m->now);
}

/* As azri_threads_until. */
static void until_done(int self, const int *done, int want) {
    while (*done < want && !overdue()) {
        if (!run.baton && all_ready()) {
            run.baton = 1;
            caller_turns(self, done, want);
            run.baton = 0;
            continue;
        }
        let_go(self);
        hold();
        if (*done >= want) return;
        expire();
        tell();
    }
}

/* A flight of commands whose answers go to this thread's own memory; now and then one with a callback among them. */
static void call(int self) {
    azredis_reply part[BATCH];
    unsigned long id[BATCH], other;
    azri_cmd *c;
    int n = 1 + (int)dice(BATCH), i, want = 0, done = 0;
    memset(part, 0, sizeof part);
    hold();
    for (i = 0; i < n; i++) {
        if ((c = make(&id[want])) == NULL) break;                   /* the backlog is full */
        c->reply = &part[want++];
        c->done = &done;
        submit(c);
    }
    if (dice(3) == 0 && (c = make(&other)) != NULL) {
        c->fn = on_reply;
        c->user = (void *)(uintptr_t)other;
        submit(c);
    }
    until_done(self, &done, want);
    let_go(self);
    for (i = 0; i < want && !overdue(); i++) outcome(id[i], &part[i]);
    for (i = 0; i < want; i++) azredis_reply_free(&part[i]);
}

static void caller(int self) {
    int i;
    for (i = 0; i < ROUNDS && !overdue(); i++) {
        call(self);
        run.wake[self] = run.m->now + dice(2 * SPAN / ROUNDS);
        hold();
        let_go(self);
        while (run.m->now < run.wake[self] && !overdue()) {
            hold();
            let_go(self);
        }
        run.wake[self] = 0;
    }
    run.callers--;
}

/* ---- the I/O thread ---- */

static void token(void) {
    model *m = run.m;
    char jwt[32];
    azri_blob *b;
    int t = m->tokens++;
    assert(t < MODEL_TOKENS);
    m->token[t].expires = run.fetch_sent + LIFE;
    snprintf(jwt, sizeof jwt, "token-%06d", t);
    if (azri_token_got(&run.machine, run.claim, m->now, run.fetch_sent, LIFE, 0, azri_hash64(jwt, strlen(jwt))) != AZRI_TOKEN_NEW)
        return;
    b = azri_blob_new(&run_mem, "oid", azri_str(jwt));
    b->expires_at = run.machine.expires_at;
    b->life_ms = run.machine.life_ms;
    b->generation = ++run.generation;
    azri_hub_token(&run.hub, b, m->now);
    azri_blob_drop(b);
}

static void tokens(int self) {
    const azri_session *s = azri_hub_main(&run.hub);
    if (run.hub.rejected) azri_token_rejected(&run.machine, run.m->now, run.hub.rejected);
    run.hub.rejected = 0;
    if (s->blob) azri_token_accepted(&run.machine, s->blob->hash);
    let_go(self);
    hold();
    if (run.claim && run.m->now >= run.fetch_at) {
        token();
        run.claim = 0;
    }
    if (run.claim || (run.claim = azri_token_claim(&run.machine, run.m->now, 30000)) == 0) return;
    run.fetch_sent = run.m->now;
    run.fetch_at = run.m->now + 1 + dice(50);
}

/* What goes wrong, and what is asked for. */
static void trouble(void) {
    static const fault some[] = { F_CUT_ANSWER, F_CUT_REQUEST, F_AUTH_SILENT, F_AUTH_SLOW, F_AUTH_REJECT, F_REFUSE, F_EXPIRE_NOW, F_ODD_PUSH };
    if (dice(150) == 0) run.m->armed[some[dice(sizeof some / sizeof some[0])]]++;
    if (dice(400) == 0) run.m->stalled_until = run.m->now + dice(2 * COMMAND_MS);
    if (dice(100) == 0 && run.baton && all_ready()) azri_hub_handover(&run.hub, azri_hub_main(&run.hub), "orders", run.m->now);
    run.m->slow_ms = 100;
}

static void io_turn(int self) {
    azri_session *s;
    run.baton = 1;
    for (s = run.hub.sessions; s; s = s->next) read_all(self, s);
    trouble();
    tokens(self);
    azri_hub_tick(&run.hub, run.m->now);
    for (s = run.hub.sessions; s; s = s->next) {
        hang_up(s);
        dial(self, s);
        write_all(self, s);
        hang_up(s);
    }
    tell();
    run.baton = 0;
}

static int work_left(void) { return run.callers > 0 || run.hub.undelivered > 0 || run.hub.backlog.count > 0; }

static void io(int self) {
    hold();
    while ((work_left() || azri_hub_main(&run.hub)->fifo.count) && !overdue()) {
        if (!run.baton) {
            io_turn(self);
            sleep_till_due(self);
        } else {
            asides++;
            tokens(self);
            tell();
            let_go(self);
            hold();
        }
    }
    let_go(self);
}

static void delivery(int self) {
    azri_cmd *c;
    hold();
    while ((work_left() || run.alive[IO]) && !overdue()) {
        while ((c = run.calls) != NULL) {
            run.calls = c->call_next;
            if (!run.calls) run.calls_tail = NULL;
            let_go(self);
            c->fn(NULL, c->reply, c->user);
            hold();
            c->in_calls = 0;
            run.hub.undelivered--;
            leave(c);
        }
        let_go(self);
        hold();
    }
    let_go(self);
}

/* ---- a run ---- */

static void *task(void *arg) {
    int self = (int)(intptr_t)arg;
    (void)sem_wait(&run.go[self]);
    if (self < CALLERS) caller(self);
    else if (self == IO) io(self);
    else delivery(self);
    run.alive[self] = 0;
    pass(self, pick());
    return NULL;
}

static void begin(uint64_t seed) {
    azri_hub_conf *conf = &run.hub.conf;
    conn *k;
    memset(&run, 0, sizeof run);
    run.seed = seed;
    run.rng = seed * 0x9e3779b97f4a7c15ull;
    run.m = (model *)calloc(1, sizeof *run.m);
    assert_non_null(run.m);
    run.m->rng = seed;
    run.m->now = 1000000;
    for (k = run.m->conns; k < run.m->conns + MODEL_CONNS; k++) model_close(k);
    run.token_rng.state = seed;
    azri_token_init(&run.machine, &run.token_rng, AZREDIS_POLICY_DEFAULT);
    azri_hub_init(&run.hub, &run_mem, seed);
    conf->session.protocol = 3;
    conf->session.auth_ms = 15000;
    conf->session.command_ms = COMMAND_MS;
    conf->session.keepalive_ms = 1000;
    conf->session.max_reply = 1 << 20;
    conf->session.endpoint = "model:1";
    conf->backlog_count = 8;
    conf->backlog_bytes = 1 << 20;
    conf->sub_queue = 10;
    assert_non_null(azri_hub_add_session(&run.hub));
    run.callers = CALLERS;
}

static void check_commands(void) {
    unsigned long id;
    for (id = 0; id < run.ids; id++) {
        const command *k = &run.cmd[id];
        CHECK(k->outcomes == 1);
        CHECK(run.m->ran[id] <= 1);
        CHECK(!k->wrong_answer);
        if (k->fate == AZREDIS_NOT_SENT) CHECK(run.m->ran[id] == 0);
        if (k->status == AZREDIS_OK) CHECK(run.m->ran[id] == 1);
    }
    CHECK(run.m->overtaken == 0);                       /* numbers are given in the order of submission */
    CHECK(run.m->expired_tokens_seen == 0);
    CHECK(run.steps <= STEP_MAX);
}

static uint64_t play(uint64_t seed) {
    pthread_t thread[TASKS];
    int t;
    begin(seed);
    for (t = 0; t < TASKS; t++) {
        run.alive[t] = 1;
        assert_int_equal(sem_init(&run.go[t], 0, 0), 0);
        assert_int_equal(pthread_create(&thread[t], NULL, task, (void *)(intptr_t)t), 0);
    }
    (void)sem_post(&run.go[IO]);
    for (t = 0; t < TASKS; t++) assert_int_equal(pthread_join(thread[t], NULL), 0);
    for (t = 0; t < TASKS; t++) (void)sem_destroy(&run.go[t]);
    check_commands();
    for (t = 0; t < F_COUNT; t++) faults[t] += run.m->fired[t];
    reauths += run.m->reauths;
    handovers += run.hub.stats.handovers;
    azri_hub_free(&run.hub);
    if (!run.broken[0]) CHECK(run.allocated == 0);
    free(run.m);
    if (run.broken[0]) fail_msg("%s\nagain by: orders %llu %llu", run.broken, (unsigned long long)seed, (unsigned long long)seed);
    return run.trace;
}

static uint64_t first_seed = 1, last_seed = 200;

static void seeds_hold_all_invariants(void **state) {
    uint64_t seed;
    (void)state;
    for (seed = first_seed; seed <= last_seed; seed++) (void)play(seed);
}

static void same_seed_same_order(void **state) {
    uint64_t seed;
    (void)state;
    for (seed = first_seed; seed < first_seed + 3; seed++) assert_true(play(seed) == play(seed));
}

static void all_of_it_came_up(void **state) {
    int i;
    (void)state;
    if (last_seed - first_seed < 199) skip();           /* a few seeds need not meet all */
    print_message("switches %llu, batons %llu, asides %llu, re-authentications %llu, handovers %llu\n", (unsigned long long)switches,
                  (unsigned long long)batons, (unsigned long long)asides, (unsigned long long)reauths, (unsigned long long)handovers);
    print_message("not sent %llu, maybe run %llu, answered %llu\n", (unsigned long long)ends[AZREDIS_NOT_SENT],
                  (unsigned long long)ends[AZREDIS_MAYBE_RUN], (unsigned long long)ends[AZREDIS_ANSWERED]);
    for (i = 0; i < 3; i++) assert_true(ends[i] > 0);
    assert_true(switches && batons && asides && reauths && handovers);
    assert_true(faults[F_CUT_ANSWER] && faults[F_CUT_REQUEST] && faults[F_AUTH_SILENT] && faults[F_EXPIRE_NOW] && faults[F_REFUSE]);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_hold_all_invariants),
        cmocka_unit_test(same_seed_same_order),
        cmocka_unit_test(all_of_it_came_up),
    };
    if (argc > 1) first_seed = last_seed = strtoull(argv[1], NULL, 10);
    if (argc > 2) last_seed = strtoull(argv[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
