/* Deterministic simulation of the pure half: hub, session, decoder and token machine run in virtual time against
 * a model server and authority that fail by a seed. Each seed runs twice and must give the same trace.
 *   build/gcc/sim/sim [first seed] [last seed]
 * It prints how often each fault fired and each invariant was evaluated, and fails if one of them is 0. */
#define AZREDIS_ONLY_PURE
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "model.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { STEP_MAX = 400000, COMMAND_MS = 5000, AUTH_MS = 15000 };

typedef enum invariant {
    I_ONE_OUTCOME, I_RIGHT_ANSWER, I_ANSWERED_RAN, I_NOT_SENT_DID_NOT_RUN, I_NEVER_TWICE, I_ON_TIME, I_NEXT_DEADLINE,
    I_NO_EXPIRED_TOKEN, I_NO_CUT_WITHOUT_FAULT, I_RECOVERS, I_MESSAGES_IN_ORDER, I_MEMORY_FLAT, I_COMMANDS_IN_ORDER, I_NO_GAP_WITHOUT_CUT, I_HANDOVER_ENDS,
    I_ALLOWED_THERE, I_FULL_IS_TOLD, I_COUNT
} invariant;

static const char *const invariant_names[I_COUNT] = {
    "each command has one outcome", "the answer is the command's own", "answered means it ran", "not sent means it did not run",
    "nothing runs twice", "the outcome comes in time", "there is a next deadline", "no expired token is shown",
    "no cut without a fault", "service returns", "messages are in order, loss is flagged", "memory returns to its start",
    "commands run in the order in which they were submitted", "no gap without a cut", "a handover ends",
    "a subscriber over RESP2 sends only what it may", "what finds no room is not taken"
};

static uint64_t checked[I_COUNT], faults_fired[F_COUNT], total_reauths, total_lives, total_handovers, total_lost_heirs, total_apart, total_full;

#define CHECK(i, x) do { checked[i]++; if (!(x)) { fail_msg("seed %llu at %llu ms: %s: %s", (unsigned long long)sim.seed, \
    (unsigned long long)sim.m->now, invariant_names[i], #x); } } while (0)

typedef struct command { uint64_t until, auth_ms; int outcomes; azredis_status status; azredis_fate fate; } command;

static struct sim {
    uint64_t  seed, trace;
    model    *m;
    azri_hub  hub;
    azri_token machine;
    azri_rng  rng;
    uint64_t  next_submit, next_fault, next_handover;
    uint64_t  asked_at;                 /* a handover of `asked`, with no fault since; 0: none */
    const azri_session *asked;
    long      cuts;                     /* connections lost, each of which may be told of by one message's gap */
    uint32_t  claim;
    uint64_t  fetch_done, fetch_sent, life;
    int       last_token;
    uint32_t  generation;
    command  *cmd;
    unsigned long ids;
    uint64_t  auth_ms, auth_now;        /* time that AUTHs were under way, the running one; commands behind them wait
                                         * with them, and are given all of the AUTH that they found running */
    uint64_t  slept_until;              /* nothing can be on time while the machine sleeps */
    struct { azredis_sub *sub; long last; } ear[2];    /* the second subscription comes and goes */
    size_t    allocated;
} sim;

static void *sim_alloc(void *user, size_t n) {
    (void)user;
    sim.allocated += n;
    return malloc(n);
}

static void sim_free(void *user, void *p, size_t n) {
    (void)user;
    sim.allocated -= n;
    free(p);
}

static const azri_mem sim_mem = { sim_alloc, sim_free, NULL, NULL };

static void sim_trace(uint64_t what) { sim.trace = (sim.trace ^ what ^ sim.m->now) * 0x100000001b3ull; }

/* ---- the pump's place ---- */

static conn *sim_conn(const azri_session *s) { return (conn *)s->link; }

/* What the pump does when the hub has closed a connection. */
static void sim_disconnect(azri_session *s) {
    if (s->state != AZRI_DOWN || !s->link) return;
    model_close(sim_conn(s));
    s->link = NULL;
}

static void sim_lost(azri_session *s, const char *why) {
    azredis_error e;
    total_lost_heirs += s->elder != NULL;
    (void)azri_fail(&e, AZREDIS_E_CLOSED, "sim", "%s", why);
    azri_hub_closed(&sim.hub, s, &e, sim.m->now);
    sim_disconnect(s);
}

static void sim_read(azri_session *s) {
    azri_frame f;
    azredis_error e;
    char *p = NULL;
    size_t n = 0;
    long got;
    while (s->link) {
        azredis_status st = azri_resp_next(&s->resp, &f, &e);
        if (st == AZREDIS_OK) {
            azri_hub_frame(&sim.hub, s, &f, sim.m->now);
            sim_disconnect(s);
            continue;
        }
        assert_int_equal(st, AZREDIS_AGAIN);            /* the model speaks RESP */
        assert_int_equal(azri_resp_room(&s->resp, 4096, &p, &n), AZREDIS_OK);
        got = model_send(sim.m, sim_conn(s), p, 1 + (size_t)model_random(sim.m, n));
        if (got < 0) { sim_lost(s, "closed by the server"); return; }
        if (got == 0) return;
        azri_resp_got(&s->resp, (size_t)got);
    }
}

static void sim_write(azri_session *s) {
    char record[16384];
    size_t n = 0;
    while (s->link && (n = azri_session_output(s, record, 1 + (size_t)model_random(sim.m, sizeof record), sim.m->now, NULL)) > 0)
        model_receive(sim.m, sim_conn(s), record, n);
}

static void sim_dial(azri_session *s) {
    azredis_error e;
    int i;
    if (!azri_hub_may_dial(&sim.hub, s, sim.m->now)) return;
    azri_hub_dialing(&sim.hub, s);
    s->link = model_accept(sim.m);
    if (!s->link) {
        total_lost_heirs += s->elder != NULL;
        (void)azri_fail(&e, AZREDIS_E_NET, "sim", "refused");
        azri_hub_closed(&sim.hub, s, &e, sim.m->now);
        return;
    }
    sim_conn(s)->calm = sim.m->stalled_until <= sim.m->now && !sim.machine.rejections && !sim.machine.failures &&
                        sim.m->now < sim.machine.soft_at;
    for (i = 0; i < F_COUNT; i++) sim_conn(s)->calm &= sim.m->armed[i] == 0;
    azri_hub_opened(&sim.hub, s, sim.m->now);
}

static int sim_calm(const azri_session *s) { return s->link && sim_conn(s)->calm; }

/* ---- tokens ---- */

static void sim_fetched(void) {
    model *m = sim.m;
    char jwt[32];
    uint64_t now = m->now;
    int t;
    azri_blob *b;
    if (model_fault(m, F_TOKEN_500)) { azri_token_failed(&sim.machine, sim.claim, now, 1, 0); return; }
    if (model_fault(m, F_TOKEN_429)) { azri_token_failed(&sim.machine, sim.claim, now, 1, (uint32_t)(sim.life / 20)); return; }
    if (model_fault(m, F_TOKEN_CONFIG)) { azri_token_failed(&sim.machine, sim.claim, now, 0, 0); return; }
    if (m->tokens && m->token[sim.last_token].expires > now && model_fault(m, F_TOKEN_SAME)) {
        t = sim.last_token;
    } else {
        assert_true(m->tokens < MODEL_TOKENS);
        t = sim.last_token = m->tokens++;
        m->token[t].expires = sim.fetch_sent + sim.life;
        m->token[t].refused = 0;
    }
    snprintf(jwt, sizeof jwt, "token-%06d", t);
    if (azri_token_got(&sim.machine, sim.claim, now, sim.fetch_sent, m->token[t].expires - sim.fetch_sent, 0,
                       azri_hash64(jwt, strlen(jwt))) != AZRI_TOKEN_NEW) return;
    total_lives++;
    b = azri_blob_new(&sim_mem, "oid", azri_str(jwt));
    assert_non_null(b);
    b->expires_at = sim.machine.expires_at;
    b->life_ms = sim.machine.life_ms;
    b->generation = ++sim.generation;
    azri_hub_token(&sim.hub, b, now);
    azri_blob_drop(b);
}

static void sim_tokens(void) {
    uint64_t now = sim.m->now;
    const azri_session *s = azri_hub_main(&sim.hub);
    if (sim.hub.rejected) azri_token_rejected(&sim.machine, now, sim.hub.rejected);
    sim.hub.rejected = 0;
    if (s->blob) azri_token_accepted(&sim.machine, s->blob->hash);
    if (sim.claim && now >= sim.fetch_done) {
        sim_fetched();
        sim.claim = 0;
    }
    if (!sim.claim && (sim.claim = azri_token_claim(&sim.machine, now, 30000)) != 0) {
        sim.fetch_sent = now;
        sim.fetch_done = now + 1 + model_random(sim.m, sim.life / 100 + 2);
    }
}

/* ---- the user ---- */

static void sim_reply(azredis_client *c, const azredis_reply *r, void *user) {
    unsigned long id = (unsigned long)(uintptr_t)user;
    char want[16];
    (void)c;
    sim.cmd[id].outcomes++;
    sim.cmd[id].status = r->status;
    sim.cmd[id].fate = r->fate;
    CHECK(I_ONE_OUTCOME, sim.cmd[id].outcomes == 1);
    CHECK(I_ON_TIME, sim.m->now <= azri_max64(sim.cmd[id].until, sim.slept_until) + sim.auth_ms - sim.cmd[id].auth_ms);
    if (r->status != AZREDIS_OK) return;
    snprintf(want, sizeof want, "%lu", id);
    CHECK(I_RIGHT_ANSWER, azri_eqz(azredis_text(r->value), want));
    sim_trace(id);
}

static void sim_deliver(void) {
    azri_cmd *c;
    azredis_message msg;
    unsigned i;
    for (i = 0; i < sim.hub.news.count; i++) {
        const azri_item *it = azri_news_at(&sim.hub.news, i);
        sim.cuts += (it->type == AZREDIS_EV_CONNECTION_FAILED || it->number == AZRI_LOG_HANDED_OVER) + (long)it->dropped;
    }
    while ((c = sim.hub.done.head) != NULL) {
        sim.hub.done.head = c->done_next;
        if (!sim.hub.done.head) sim.hub.done.tail = NULL;
        c->done_next = NULL;
        c->in_done = 0;
        if (c->kind == AZRI_CMD_SUBSCRIBE) azri_hub_subscribed(&sim.hub, c);
        if (c->fn) c->fn(NULL, c->reply, c->user);
        c->fn = NULL;
        c->reply = &c->own;
        if (!c->linked) azri_stock_give(&sim.hub.stock, c);
    }
    sim.hub.news.count = 0;
    for (i = 0; i < 2; i++)
        while (sim.ear[i].sub && azri_sub_next(sim.ear[i].sub, &msg)) {
            long number = atol(msg.payload.ptr), last = sim.ear[i].last;
            CHECK(I_MESSAGES_IN_ORDER, number > last && (number == last + 1 || msg.gap || last < 0));
            if (msg.gap && i == 0) CHECK(I_NO_GAP_WITHOUT_CUT, sim.cuts-- > 0);
            sim.ear[i].last = number;
        }
}

static void sim_subscribe(int ear) {
    azredis_sub *sub = azri_sub_new(&sim_mem, AZREDIS_CHANNEL, "ch");
    azri_session *s;
    sub->max = sim.hub.conf.sub_queue;
    azri_hub_add_sub(&sim.hub, sub);
    sim.ear[ear].sub = sub;
    sim.ear[ear].last = -1;
    azri_hub_need_listener(&sim.hub, sim.m->now);
    s = azri_hub_listener(&sim.hub);
    if (s->state == AZRI_READY) azri_hub_subscribe(&sim.hub, s);
}

static void sim_unsubscribe(int ear) {
    azri_hub_unsubscribe(&sim.hub, sim.ear[ear].sub);
    sim.ear[ear].sub = NULL;
}

static void sim_submit(void) {
    azredis_str argv[2];
    azri_cmd *c;
    char id[24];
    if (sim.ids + 1 >= MODEL_IDS) return;
    snprintf(id, sizeof id, "%lu", sim.ids);
    argv[0] = azri_str("RUN");
    argv[1] = azri_str(id);
    if (azri_hub_new_cmd(&sim.hub, 2, argv, 0, &c, NULL) != AZREDIS_OK) {
        uint64_t waiting;
        (void)azri_hub_load(&sim.hub, &waiting);
        CHECK(I_FULL_IS_TOLD, waiting >= sim.hub.conf.backlog_count);
        total_full++;
        return;
    }
    c->deadline = sim.m->now + COMMAND_MS;
    c->fn = sim_reply;
    c->user = (void *)(uintptr_t)sim.ids;
    sim.cmd[sim.ids].until = c->deadline;
    sim.cmd[sim.ids].auth_ms = sim.auth_ms - sim.auth_now;
    sim.ids++;
    azri_hub_submit(&sim.hub, c);
}

/* ---- wrongs ---- */

static void sim_wrong(void) {
    fault f = (fault)model_random(sim.m, F_COUNT);
    model *m = sim.m;
    conn *k;
    for (k = m->conns; k < m->conns + MODEL_CONNS; k++) k->calm = 0;
    sim.asked_at = 0;
    sim_trace(f);
    if (f == F_STALL) {
        m->stalled_until = m->now + 1000 + model_random(m, 30000);
        m->fired[f]++;
    } else if (f == F_SLEEP) {                              /* the client sleeps; its clock counts that, the server goes on */
        for (k = m->conns; k < m->conns + MODEL_CONNS; k++)
            if (k->open && k->in_at != UINT64_MAX) model_execute(m, k);
        m->now += model_random(m, 3 * sim.life);
        sim.slept_until = m->now;
        m->fired[f]++;
    } else {
        m->armed[f] += 1 + (int)model_random(m, 3);
        m->slow_ms = 1000 + model_random(m, AUTH_MS - 3000);
    }
}

/* A handover is asked for now and then, as by a key that has come to its end; messages are frequent then. */
static void sim_handover(void) {
    model *m = sim.m;
    azri_session *s = azri_hub_main(&sim.hub);
    if (m->now >= sim.next_handover) {
        azri_hub_handover(&sim.hub, s, "sim", m->now);
        sim.next_handover = m->now + 1 + model_random(m, sim.life / 2);
        if (!sim.asked_at && s->replace && !s->heir && s->heir_at <= m->now && sim_calm(s)) {
            sim.asked_at = m->now;
            sim.asked = s;
        }
    }
    if (s->replace && model_random(m, 2)) model_publish(m);
    if (s->replace && model_random(m, 2) && sim.next_submit != UINT64_MAX) sim_submit();
    if (model_random(m, s->replace ? 8 : 100) == 0) {
        if (sim.ear[1].sub) sim_unsubscribe(1);
        else sim_subscribe(1);
    }
    if (sim.asked_at && sim.asked == azri_hub_main(&sim.hub)) return;
    if (sim.asked_at) CHECK(I_HANDOVER_ENDS, m->now - sim.asked_at <= 500);
    sim.asked_at = 0;
}

static uint64_t sim_next(void) {
    const azri_session *s;
    uint64_t now = sim.m->now, next = azri_min64(azri_hub_deadline(&sim.hub, now), azri_token_deadline(&sim.machine, now));
    CHECK(I_NEXT_DEADLINE, next <= now + AZRI_WAIT_MAX);
    if (sim.claim) next = azri_min64(next, sim.fetch_done);
    for (s = sim.hub.sessions; s; s = s->next)
        if (s->link) next = azri_min64(next, model_next(sim.m, sim_conn(s)));
    next = azri_min64(next, azri_min64(sim.next_submit, azri_min64(sim.next_fault, sim.next_handover)));
    return azri_max64(next, now + (model_random(sim.m, 4) == 0));
}

static void sim_step(void) {
    uint64_t now = sim.m->now, next;
    azri_session *s = azri_hub_main(&sim.hub);
    int was_ready = sim_calm(s) && s->state == AZRI_READY;
    model_run(sim.m);
    for (s = sim.hub.sessions; s; s = s->next) sim_read(s);
    sim_tokens();
    sim_handover();
    azri_hub_tick(&sim.hub, now);
    for (s = sim.hub.sessions; s; s = s->next) {
        sim_disconnect(s);
        sim_dial(s);
        sim_write(s);
    }
    sim_deliver();
    if (was_ready) CHECK(I_NO_CUT_WITHOUT_FAULT, azri_hub_main(&sim.hub)->state == AZRI_READY);
    CHECK(I_NO_EXPIRED_TOKEN, sim.m->expired_tokens_seen == 0);
    CHECK(I_COMMANDS_IN_ORDER, sim.m->overtaken == 0);
    CHECK(I_ALLOWED_THERE, sim.m->misplaced == 0);
    next = sim_next();
    for (s = sim.hub.sessions; s && !(s->trying && s->state == AZRI_READY); s = s->next) {}
    if (s) sim.auth_ms += next - now;
    sim.auth_now = s ? sim.auth_now + (next - now) : 0;
    sim.m->now = next;
}

static void sim_begin(uint64_t seed) {
    static const uint64_t lives[4] = { 5000, 20000, 300000, 3600000 };
    azri_hub_conf *conf = &sim.hub.conf;
    int i;
    memset(&sim, 0, sizeof sim);
    sim.seed = seed;
    sim.m = (model *)calloc(1, sizeof *sim.m);
    sim.cmd = (command *)calloc(MODEL_IDS, sizeof *sim.cmd);
    assert_true(sim.m && sim.cmd);
    sim.m->rng = seed * 7919;
    sim.m->now = 1000000;
    for (i = 0; i < MODEL_CONNS; i++) model_close(&sim.m->conns[i]);
    sim.life = lives[seed % 4];
    sim.rng.state = seed;
    azri_token_init(&sim.machine, &sim.rng, AZREDIS_POLICY_DEFAULT);
    azri_hub_init(&sim.hub, &sim_mem, seed);
    conf->session.protocol = 3;
    conf->session.auth_ms = AUTH_MS;
    conf->session.command_ms = COMMAND_MS;
    conf->session.keepalive_ms = 60000;
    conf->session.max_reply = 1 << 20;
    conf->session.endpoint = "model:1";
    /* Subscriptions share the connection, have one of their own, or must have one: the server speaks RESP2. */
    conf->separate = seed % 3 == 1;
    sim.m->resp2 = seed % 3 == 2;
    conf->session.reauth = (azredis_reauth)(seed / 3 % 3);
    conf->fail_fast = seed % 7 == 0;
    conf->backlog_count = seed % 5 ? 10000 : 30;
    conf->backlog_bytes = 1 << 24;
    conf->sub_queue = 100000;
    assert_non_null(azri_hub_add_session(&sim.hub));
    sim_subscribe(0);
}

/* As a client that is closed does: a command that ran out of time may still stand where its late answer is awaited. */
static void sim_close(void) {
    azri_session *s;
    azri_queue unsent;
    azredis_error e;
    memset(&unsent, 0, sizeof unsent);
    (void)azri_fail(&e, AZREDIS_E_CLOSED, "sim", "closed");
    for (s = sim.hub.sessions; s; s = s->next) azri_session_closed(s, &e, &unsent);
    azri_hub_fail_queue(&sim.hub, &unsent, &e);
    sim_deliver();
}

/* Faults for a while, then none; at the end every command must have ended and service must be back. */
static uint64_t sim_run(uint64_t seed) {
    uint64_t trouble_until, end, id;
    long steps = 0;
    uint32_t lines;
    sim_begin(seed);
    trouble_until = sim.m->now + 12 * sim.life + 3600000 / (sim.life < 60000 ? 10 : 1);
    end = UINT64_MAX;
    sim.next_fault = sim.m->now + 3 * sim.life;
    while (sim.m->now < end && steps++ < STEP_MAX) {
        if (sim.m->now >= sim.next_submit) {
            uint64_t burst = 1 + model_random(sim.m, 20);
            while (burst--) sim_submit();
            model_publish(sim.m);
            sim.next_submit = sim.m->now + 1 + model_random(sim.m, sim.life / 20 + (end - sim.m->now > 100000 ? 3000 : 300));
        }
        if (sim.m->now >= sim.next_fault) {
            sim_wrong();
            sim.next_fault = sim.m->now < trouble_until ? sim.m->now + model_random(sim.m, 2 * sim.life) : UINT64_MAX;
            if (sim.next_fault == UINT64_MAX) {
                memset(sim.m->armed, 0, sizeof sim.m->armed);
                end = sim.m->now + 900000 + 2 * sim.life;   /* the slow lane's longest step, and then some */
            }
        }
        if (azri_hub_main(&sim.hub)->heir && sim.next_fault != UINT64_MAX && model_random(sim.m, 100) == 0) sim_wrong();
        sim_step();
    }
    assert_true(steps < STEP_MAX);
    CHECK(I_RECOVERS, azri_hub_main(&sim.hub)->state == AZRI_READY);
    sim.next_submit = sim.next_handover = UINT64_MAX;
    for (end = sim.m->now + 4 * AUTH_MS; sim.m->now < end; sim_step()) {}
    lines = 1u + (sim.hub.listener != NULL);
    for (end = sim.m->now + 1000; sim.hub.session_count != lines && sim.m->now < end; sim_step()) {}    /* one by a token's turn */
    CHECK(I_HANDOVER_ENDS, sim.hub.session_count == lines);
    for (id = 0; id < sim.ids; id++) {
        const command *c = &sim.cmd[id];
        CHECK(I_ONE_OUTCOME, c->outcomes == 1);
        CHECK(I_NEVER_TWICE, sim.m->ran[id] <= 1);
        if (c->fate == AZREDIS_NOT_SENT) CHECK(I_NOT_SENT_DID_NOT_RUN, sim.m->ran[id] == 0);
        if (c->fate == AZREDIS_ANSWERED && c->status == AZREDIS_OK) CHECK(I_ANSWERED_RAN, sim.m->ran[id] == 1);
        sim_trace((uint64_t)c->fate + 10 * sim.m->ran[id]);
    }
    total_reauths += sim.hub.stats.reauths;
    total_apart += sim.hub.listener != NULL;
    assert_int_equal(sim.hub.listener != NULL, seed % 3 > 0);
    total_handovers += sim.hub.stats.handovers;
    for (id = 0; id < F_COUNT; id++) faults_fired[id] += sim.m->fired[id];
    sim_close();
    azri_hub_free(&sim.hub);
    CHECK(I_MEMORY_FLAT, sim.allocated == 0);
    id = sim.trace;
    free(sim.m);
    free(sim.cmd);
    return id;
}

static uint64_t first_seed = 1, last_seed = 200;

static void seeds_hold_all_invariants(void **state) {
    uint64_t seed;
    (void)state;
    for (seed = first_seed; seed <= last_seed; seed++) (void)sim_run(seed);
}

static void same_seed_same_trace(void **state) {
    uint64_t seed;
    (void)state;
    for (seed = first_seed; seed <= first_seed + 3; seed++) assert_true(sim_run(seed) == sim_run(seed));
}

static void every_fault_fired_and_every_invariant_was_met(void **state) {
    int i;
    (void)state;
    for (i = 0; i < F_COUNT; i++) print_message("fault %-12s fired %llu times\n", fault_names[i], (unsigned long long)faults_fired[i]);
    for (i = 0; i < I_COUNT; i++) print_message("checked %9llu times: %s\n", (unsigned long long)checked[i], invariant_names[i]);
    print_message("token lives %llu, re-authentications %llu, handovers %llu, lost heirs %llu\n", (unsigned long long)total_lives,
                  (unsigned long long)total_reauths, (unsigned long long)total_handovers, (unsigned long long)total_lost_heirs);
    for (i = 0; i < F_COUNT; i++) assert_true(faults_fired[i] > 0);
    for (i = 0; i < I_COUNT; i++) assert_true(checked[i] > 0);
    assert_true(total_reauths > 0 && total_handovers > 0 && total_lost_heirs > 0 && total_apart > 0 && total_full > 0);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_hold_all_invariants),
        cmocka_unit_test(same_seed_same_trace),
        cmocka_unit_test(every_fault_fired_and_every_invariant_was_met),
    };
    if (argc > 1) first_seed = last_seed = strtoull(argv[1], NULL, 10);
    if (argc > 2) last_seed = strtoull(argv[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
