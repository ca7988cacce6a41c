/* Leased connections, transactions and blocking commands, by a seed: the whole client with its public calls, in virtual
 * time over a port of our own, against the model server. Callers take turns wherever the client waits. The client is
 * looked into only to know which connection is whose, and to ask for a handover.
 *   build/gcc/sim/leases [first seed] [last seed] */
#define AZREDIS_NO_THREADS
#define AZREDIS_ENTRA_STATIC
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "model.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <ucontext.h>
#include <cmocka.h>

enum { CALLERS = 5, PUMP = CALLERS, TASKS, STACK = 256 * 1024, SOCKETS = 16, TX_MAX = 5, WORD = 24 };
enum { COMMAND_MS = 5000, AUTH_MS = 15000, RENEW_MS = 200, SPINS = 20000, STEP_MAX = 2000000, LIVES = 12 };
enum { SLACK = 1000 };                     /* ms that callers may be late, for they take turns */

typedef enum invariant {
    I_ONE_OUTCOME, I_RIGHT_ANSWER, I_ANSWERED_RAN, I_NOT_SENT_DID_NOT_RUN, I_NEVER_TWICE, I_COUNTER, I_ON_TIME, I_ALL_OR_NOTHING,
    I_COMMITTED, I_CONDITION, I_CONFLICT, I_ABORTED, I_NOT_INSIDE, I_NOT_BEHIND, I_ASKED_ONCE, I_TOOK_ONE, I_NOTHING_IN_TIME,
    I_SAME_PLACE, I_NONE_MISSED, I_SLICE, I_LEASES, I_FULL, I_CLEAN, I_ONE_CONNECTION, I_LOST_FOR_EVER, I_HELD, I_AUTH_SOON,
    I_NO_EXPIRED_TOKEN, I_CLOSED, I_GO_HOME, I_RECOVERS, I_MEMORY, I_COUNT
} invariant;

static const char *const invariant_names[I_COUNT] = {
    "each call has one outcome", "the answer is the command's own", "answered means it ran", "not sent means it did not run",
    "nothing runs twice", "what ran lies between the answered and those with the unknown", "the outcome comes in time",
    "a transaction runs as a whole or not at all", "committed means that its conditions held", "a condition is said to fail only if it did",
    "a conflict is told only if somebody wrote", "what the server did not queue ends all of it", "no AUTH or PING within a transaction",
    "nothing is written behind a command that blocks", "what a slice may have taken is not asked for twice",
    "a call takes what it is answered, and once", "nothing came means that time was over", "XREAD goes on where it began",
    "no entry is missed", "a slice leaves the token its time", "no more leases than may be", "full means that all are in use",
    "a lease is handed on clean", "a lease's commands run on its one connection", "a lost lease fails for ever",
    "a lease without a fault is kept", "a new token is shown within half of the old one's time", "no expired token is shown",
    "closing ends every call", "a lease that nobody wants is closed", "service returns", "memory returns to its start"
};

static uint64_t checked[I_COUNT], faults_fired[F_COUNT];

/* What came up, of which everything must. */
typedef enum sight {
    S_COMMITTED, S_CONDITION, S_CONFLICT, S_ABORTED, S_REFUSED, S_TX_UNKNOWN, S_TX_NOT_SENT, S_POPPED, S_POP_NIL, S_POP_UNKNOWN, S_READ,
    S_READ_NIL, S_LEASED, S_FULL, S_NO_LEASE, S_LOST, S_LEFT_OPEN, S_REPLACED, S_REAUTH, S_CLOSED_HELD, S_CLOSED_INSIDE, S_COUNT
} sight;

static const char *const sight_names[S_COUNT] = {
    "committed", "condition failed", "conflict", "aborted", "MULTI refused", "transaction unknown", "transaction not sent", "popped",
    "nothing to pop", "pop unknown", "read", "nothing to read", "leased", "all in use", "no lease", "lease lost",
    "left open", "asked to be replaced", "re-authenticated", "closed with leases held", "closed with calls inside"
};

static uint64_t seen[S_COUNT];

typedef struct task {
    ucontext_t at;
    char      *stack;
    int        ended, waits, writes;        /* waits: for the client's sockets; writes: it has something for one */
    uint64_t   until, news;                 /* news: of what it has looked at already */
} task;

typedef struct command { int outcomes; azredis_status status; azredis_fate fate; } command;

static struct run {
    uint64_t  seed, trace;
    model    *m;
    azredis_client *c;
    ucontext_t world;
    task      task[TASKS];
    int       self;
    uint64_t  news;                         /* grows with all that one task may have done for another */
    long      steps;
    int       spins;
    uint32_t  sockets[SOCKETS];             /* the client's: serials of connections */
    size_t    allocated;
    uint64_t  life, got_at, trouble_until;
    uint64_t  next_fault, next_write, replaced_at;
    int       last_token;
    command   cmd[MODEL_IDS];
    unsigned long ids, calls;
    unsigned long reading[TASKS];           /* the streams that somebody reads, +1 */
    uint64_t  auth_ms, slept_until;
    uint32_t  held;                         /* leases that callers have */
    void    (*script)(int self);            /* what the tasks do instead; NULL: as they like */
    int       callers, stop, closed;
    uint64_t  closed_at;
    const azredis_lease *mine[TASKS];
} *run;

#define CHECK(i, x) do { checked[i]++; if (!(x)) { fail_msg("seed %llu at %llu ms: %s: %s\nagain by: leases %llu", \
    (unsigned long long)run->seed, (unsigned long long)run->m->now, invariant_names[i], #x, (unsigned long long)run->seed); } } while (0)

static uint64_t dice(uint64_t n) { return model_random(run->m, n); }
static void trace(uint64_t what) { run->trace = (run->trace ^ what ^ run->m->now) * 0x100000001b3ull; }

/* ---- tasks ---- */

/* Until `until`; as a waiter on sockets also as soon as there is news. */
static void yield(uint64_t until, int waits, int writes) {
    task *t = &run->task[run->self];
    t->until = until;
    t->waits = waits;
    t->writes = writes;
    t->news = run->news;
    run->spins = 0;
    assert_int_equal(swapcontext(&t->at, &run->world), 0);
}

static void rest(uint64_t ms) { yield(run->m->now + ms, 0, 0); }

static conn *conn_of(intptr_t sock) {
    conn *k;
    for (k = run->m->conns; k < run->m->conns + MODEL_CONNS; k++)
        if (k->open && k->serial == (uint32_t)sock) return k;
    return NULL;
}

static int any_readable(void) {
    int i;
    for (i = 0; i < SOCKETS; i++) {
        const conn *k = run->sockets[i] ? conn_of((intptr_t)run->sockets[i]) : NULL;
        if (run->sockets[i] && (!k || (model_next(run->m, k) <= run->m->now && run->m->stalled_until <= run->m->now))) return 1;
    }
    return 0;
}

static int runnable(const task *t, int readable) {
    return !t->ended && (t->until <= run->m->now || (t->waits && (t->writes || t->news != run->news || readable)));
}

/* ---- the port ---- */

static uint64_t port_now(void *user) {
    (void)user;
    assert_true(++run->spins < SPINS);                      /* time must pass by waiting */
    return run->m->now;
}

static int64_t port_unix(void *user) {
    (void)user;
    return (int64_t)(1800000000 + run->m->now / 1000);
}

static int port_entropy(void *user, void *out, size_t n) {
    (void)user;
    memset(out, 7, n);
    return 0;
}

static int is_calm(void) {
    int i;
    for (i = 0; i < F_COUNT; i++)
        if (run->m->armed[i]) return 0;
    return run->m->stalled_until <= run->m->now;
}

static int port_connect(void *user, const char *host, uint16_t tcp_port, intptr_t *sock) {
    conn *k;
    int i = 0;
    (void)user;
    (void)host;
    (void)tcp_port;
    if (dice(3) == 0) return 0;
    k = model_accept(run->m);
    if (!k) return -ECONNREFUSED;
    k->calm = is_calm();
    while (run->sockets[i]) assert_true(++i < SOCKETS);
    run->sockets[i] = k->serial;
    *sock = (intptr_t)k->serial;
    return 1;
}

static int port_send(void *user, intptr_t sock, const void *p, size_t n) {
    conn *k = conn_of(sock);
    (void)user;
    if (!k) return -EPIPE;
    if (dice(16) == 0) return 0;
    n = 1 + (size_t)dice(n);
    model_receive(run->m, k, (const char *)p, n);
    return (int)n;
}

static int port_recv(void *user, intptr_t sock, void *p, size_t n) {
    conn *k = conn_of(sock);
    long got = k ? model_send(run->m, k, (char *)p, 1 + (size_t)dice(n)) : -1;
    (void)user;
    if (got) run->news++;
    return got < 0 ? -ECONNRESET : (int)got;
}

static void port_close(void *user, intptr_t sock) {
    conn *k = conn_of(sock);
    int i = 0;
    (void)user;
    if (k) model_close(k);
    while (run->sockets[i] != (uint32_t)sock) assert_true(++i < SOCKETS);
    run->sockets[i] = 0;
    run->news++;
}

static void *port_alloc(void *user, size_t n) {
    (void)user;
    run->allocated += n;
    return malloc(n);
}

static void port_free(void *user, void *p, size_t n) {
    (void)user;
    run->allocated -= n;
    free(p);
}

static void port_wait(void *user, azredis_fd *fds, size_t n, uint32_t ms) {
    int writes = 0;
    size_t i;
    (void)user;
    for (i = 0; i < n; i++) writes |= (fds[i].want & AZREDIS_WRITE) != 0 && (int64_t)fds[i].sock > 0 && conn_of(fds[i].sock);
    yield(run->m->now + ms, 1, writes);
}

static void port_yield(void *user) { (void)user; }

static const azredis_port port = {
    NULL, port_now, port_unix, port_entropy, port_connect, port_send, port_recv, port_close, port_alloc, port_free, NULL, port_wait, NULL,
    port_yield
};

static azredis_status get_token(void *user, const char *scope, azredis_fetched *out) {
    model *m = run->m;
    uint64_t sent = m->now;
    int t = run->last_token;
    (void)user;
    (void)scope;
    m->now += dice(azri_min64(run->life / 200, 300) + 2);
    if (model_fault(m, F_TOKEN_500)) return AZREDIS_E_TIMEOUT;
    if (model_fault(m, F_TOKEN_429) || model_fault(m, F_TOKEN_CONFIG)) return AZREDIS_E_TOKEN;
    if (!m->tokens || m->token[t].expires <= sent || !model_fault(m, F_TOKEN_SAME)) {
        assert_true(m->tokens < MODEL_TOKENS);
        t = run->last_token = m->tokens++;
        m->token[t].expires = sent + run->life;
        m->token[t].refused = 0;
        run->got_at = m->now;
    }
    if (m->token[t].expires < m->now + 1000) return AZREDIS_E_TIMEOUT;
    out->len = (size_t)snprintf(out->token, out->cap, "token-%06d", t);
    out->expires_in = (uint32_t)((m->token[t].expires - sent) / 1000);
    return AZREDIS_OK;
}

static void on_event(const azredis_event *ev, void *user) {
    (void)user;
    if (ev->type == AZREDIS_EV_CONNECTION_REAUTHENTICATED && ev->connection == AZREDIS_CONNECTION_LEASED) seen[S_REAUTH]++;
}

/* ---- what the client has: looked into ---- */

static conn *conn_of_session(const azri_session *s) {
    return s->link && azri_conn_of(s)->line.state == AZRI_LINE_OPEN ? conn_of(azri_conn_of(s)->line.sock) : NULL;
}

/* How many leases callers have; with `all` also those that are idle or on their way. */
static uint32_t leased(int all) {
    const azri_session *s;
    uint32_t n = 0;
    for (s = run->c->hub.sessions; s; s = s->next) n += s->role == AZREDIS_CONNECTION_LEASED && !s->gone && (all || s->lease.client);
    return n;
}

/* 1: none is idle, nor is there room for one more. */
static int are_full(void) {
    const azri_session *s;
    for (s = run->c->hub.sessions; s; s = s->next)
        if (s->role == AZREDIS_CONNECTION_LEASED && !s->gone && !s->lease.client && s->state == AZRI_DOWN) return 0;
    return leased(1) == run->c->hub.conf.leases;
}

static int is_authenticating(void) {
    const azri_session *s;
    for (s = run->c->hub.sessions; s; s = s->next)
        if (s->trying && s->state == AZRI_READY) return 1;
    return 0;
}

/* The last moment for the new token on k, whose own ends. */
static uint64_t auth_until(const conn *k) {
    uint64_t end = k->authed_until - azri_min64(1000, run->life / 20), half = end > run->got_at ? (end - run->got_at) / 2 : 0;
    return run->got_at + half + 100;
}

/* 1: it may still lack the newest token, or need not be shown it: one that was refused is not shown again. */
static int auth_may_wait(const conn *k) {
    return !k->calm || k->token == run->last_token || run->m->token[run->last_token].doubted || run->m->now <= auth_until(k);
}

/* A transaction puts it off, and so does a slice, but not the next one. */
static void check_tokens(void) {
    const azri_session *s;
    for (s = run->c->hub.sessions; s; s = s->next) {
        const conn *k = conn_of_session(s);
        if (!k || s->state != AZRI_READY || s->trying || s->replace || s->wants_close || model_undivided(k) || s->undivided) continue;
        if (s->role != AZREDIS_CONNECTION_LEASED && run->c->hub.conf.session.reauth == AZREDIS_REAUTH_HANDOVER) continue;
        CHECK(I_AUTH_SOON, auth_may_wait(k) || run->m->now <= k->free_at + 100);
    }
}

/* Half of what the token has left, and 30 s. */
static void check_slice(const conn *k) {
    uint64_t left = k->authed_until - azri_min64(k->authed_until, k->blocked_at);
    if (!k->blocked || !k->calm || k->blocked_at != run->m->now) return;
    CHECK(I_SLICE, k->blocked_until - k->blocked_at <= azri_min64(30000, left / 2 + 20));
    CHECK(I_AUTH_SOON, auth_may_wait(k));
}

/* ---- the world ---- */

/* Other clients write what ours watch, and add what ours wait for. */
static void others(void) {
    unsigned long r = run->reading[dice(CALLERS)];
    if (dice(2)) model_touch(run->m, (unsigned long)dice(MODEL_KEYS));
    if (dice(3) == 0 && run->m->items < run->m->item + 2) model_push(run->m);
    if (r && (run->m->calls[r - 1].from || run->m->calls[r - 1].entries < MODEL_ENTRIES / 2)) model_add(run->m, r - 1);
    run->next_write = run->m->now + dice(run->life / 20 + 20);
}

/* Of the client's machine; the server goes on. */
static void sleep_long(void) {
    conn *k;
    for (k = run->m->conns; k < run->m->conns + MODEL_CONNS; k++)
        if (k->open && k->in_at != UINT64_MAX) model_execute(run->m, k);
    run->slept_until = run->m->now += dice(3 * run->life);
}

static void wrong(void) {
    model *m = run->m;
    fault f = (fault)dice(F_COUNT);
    conn *k;
    for (k = m->conns; k < m->conns + MODEL_CONNS; k++) k->calm = 0;
    trace(f);
    m->slow_ms = 1000 + dice(AUTH_MS - 3000);
    if (f == F_STALL) m->stalled_until = m->now + 1000 + dice(30000);
    else if (f == F_SLEEP) sleep_long();
    else m->armed[f] += 1 + (int)dice(3);
    if (f == F_STALL || f == F_SLEEP) m->fired[f]++;
    if (dice(4) == 0) m->refuse_multi = 1 + (int)dice(2);
    run->next_fault = m->now + dice(run->life);
}

static void no_more_wrongs(void) {
    run->stop = 1;
    run->m->refuse_multi = 0;
    memset(run->m->armed, 0, sizeof run->m->armed);
}

/* A leased connection shall be replaced: it is not handed on. */
static void replace_one(void) {
    azri_session *s;
    for (s = run->c->hub.sessions; s; s = s->next) {
        if (s->role != AZREDIS_CONNECTION_LEASED || s->state != AZRI_READY || dice(2)) continue;
        azri_hub_handover(&run->c->hub, s, "sim", run->m->now);
        run->replaced_at = run->m->now;
        seen[S_REPLACED]++;
    }
}

/* The delay after which a connection shows the new token may end at any moment: in the middle of a transaction, for one. */
static void no_delay(void) {
    azri_session *s;
    for (s = run->c->hub.sessions; s; s = s->next)
        if (s->role == AZREDIS_CONNECTION_LEASED && s->fresh && s->fifo.count && dice(3) == 0) s->auth_at = run->m->now;
}

static void world(void) {
    conn *k;
    model_run(run->m);
    for (k = run->m->conns; k < run->m->conns + MODEL_CONNS; k++) check_slice(k);
    if (run->m->now >= run->next_write) others();
    if (run->m->now >= run->next_fault && !run->stop) wrong();
    CHECK(I_NOT_INSIDE, run->m->inside == 0);
    CHECK(I_NOT_BEHIND, run->m->behind == 0);
    CHECK(I_ASKED_ONCE, run->m->asked_again == 0);
    CHECK(I_SAME_PLACE, run->m->moved == 0);
    CHECK(I_NO_EXPIRED_TOKEN, run->m->expired_tokens_seen == 0);
    if (run->closed) return;
    if (dice(3000) == 0) replace_one();
    no_delay();
    for (k = run->m->conns; k < run->m->conns + MODEL_CONNS; k++)
        if (k->watched && dice(40) == 0) model_touch(run->m, (unsigned long)dice(MODEL_KEYS));
    CHECK(I_LEASES, leased(1) <= run->c->hub.conf.leases && run->held <= leased(0));
    if (!run->task[PUMP].ended) check_tokens();
}

/* To the next thing that happens. */
static void advance(void) {
    const model *m = run->m;
    uint64_t next = azri_min64(run->next_write, run->stop ? UINT64_MAX : run->next_fault), at;
    int i;
    for (i = 0; i < TASKS; i++)
        if (!run->task[i].ended) next = azri_min64(next, run->task[i].until);
    for (i = 0; i < MODEL_CONNS; i++) {
        at = m->conns[i].open ? model_next(m, &m->conns[i]) : UINT64_MAX;
        if (at > m->now) next = azri_min64(next, at);
    }
    next = azri_max64(next, m->now + 1);
    if (!run->closed && is_authenticating()) run->auth_ms += next - m->now;
    run->m->now = next;
}

/* 1: somebody ran. */
static int turn(void) {
    int i, n = 0, can[TASKS], readable = any_readable();
    for (i = 0; i < TASKS; i++)
        if (runnable(&run->task[i], readable)) can[n++] = i;
    if (!n) return 0;
    run->self = can[dice((uint64_t)n)];
    assert_int_equal(swapcontext(&run->world, &run->task[run->self].at), 0);
    return 1;
}

/* ---- commands ---- */

/* A word of a command that must stay where it is. */
typedef struct line { char word[2][WORD]; azredis_str argv[2]; int argc; unsigned long id; } line;

static void line_is(line *l, const char *name, const char *of, unsigned long number) {
    (void)snprintf(l->word[0], WORD, "%s", name);
    (void)snprintf(l->word[1], WORD, "%s%lu", of, number);
    l->argv[0] = azri_str(l->word[0]);
    l->argv[1] = azri_str(l->word[1]);
    l->argc = of ? 2 : 1;
    l->id = number;
}

static void line_runs(line *l) {
    assert_true(run->ids < MODEL_IDS);
    line_is(l, "RUN", "", run->ids++);
}

static uint64_t patience(uint64_t since) { return run->auth_ms - since + SLACK + 2 * RENEW_MS; }

/* A call that began at `at`, with so much AUTH behind it, had ms; 0: any time. */
static void check_time(uint64_t at, uint64_t auth, uint64_t ms) {
    if (run->closed) CHECK(I_CLOSED, run->m->now <= azri_max64(at, run->closed_at) + SLACK);
    if (ms) CHECK(I_ON_TIME, run->m->now <= azri_max64(at + ms, run->slept_until) + patience(auth));
}

static void ended(unsigned long id, azredis_status st, azredis_fate fate) {
    command *c = &run->cmd[id];
    CHECK(I_ONE_OUTCOME, ++c->outcomes == 1);
    c->status = st;
    c->fate = fate;
    if (fate == AZREDIS_NOT_SENT) CHECK(I_NOT_SENT_DID_NOT_RUN, run->m->ran[id] == 0);
    trace(id * 10 + (uint64_t)fate);
}

static void answered(unsigned long id, const azredis_reply *r) {
    char want[WORD];
    ended(id, r->status, r->fate);
    if (r->status != AZREDIS_OK) return;
    (void)snprintf(want, sizeof want, "%lu", id);
    CHECK(I_RIGHT_ANSWER, azri_eqz(azredis_text(r->value), want));
    CHECK(I_ANSWERED_RAN, run->m->ran[id] == 1);
}

static void do_shared(void) {
    uint64_t at = run->m->now, auth = run->auth_ms;
    azredis_reply r = {0};
    line l;
    line_runs(&l);
    (void)azredis_command_argv(run->c, &r, NULL, l.argc, l.argv);
    answered(l.id, &r);
    azredis_reply_free(&r);
    check_time(at, auth, COMMAND_MS);
}

static void on_reply(azredis_client *c, const azredis_reply *r, void *user) {
    (void)c;
    answered((unsigned long)(uintptr_t)user, r);
}

static void do_submit(void) {
    line l;
    line_runs(&l);
    if (azredis_submit(run->c, NULL, l.argc, l.argv, on_reply, (void *)(uintptr_t)l.id) != AZREDIS_OK)
        ended(l.id, AZREDIS_E_FULL, AZREDIS_NOT_SENT);
}

/* ---- transactions ---- */

typedef struct tx {
    line     line[TX_MAX], test;
    azredis_cmd cmd[TX_MAX];
    size_t   n, bad, fails;                 /* bad: one of them is unknown to the server; fails: an element is an error */
    unsigned long key;
    char     want[WORD];
    int      conditions;
    uint64_t wanted, before;                /* the key's value: as asked for, and when the call began */
    azredis_condition condition;
    azredis_call how;
} tx;

/* A condition on a key that others write; sometimes one that does not hold yet. The first command reads it. */
static void tx_condition(tx *x) {
    x->conditions = 1;
    x->key = (unsigned long)dice(MODEL_KEYS);
    x->wanted = run->m->value[x->key] + (dice(4) == 0);
    (void)snprintf(x->want, sizeof x->want, "%llu", (unsigned long long)x->wanted);
    line_is(&x->test, "GET", "k:", x->key);
    x->line[0] = x->test;
    x->line[0].argv[0] = azri_str(x->line[0].word[0]);
    x->line[0].argv[1] = azri_str(x->line[0].word[1]);
    x->condition.key = azri_str(x->test.word[1]);
    x->condition.test.argc = 2;
    x->condition.test.argv = x->test.argv;
    x->condition.value = azri_str(x->want);
    x->how.conditions = &x->condition;
    x->how.condition_count = 1;
}

static void tx_make(tx *x) {
    size_t i;
    memset(x, 0, sizeof *x);
    x->n = 2 + (size_t)dice(TX_MAX - 1);
    x->how.flags = AZREDIS_ATOMIC;
    if (dice(4) == 0) x->how.timeout_ms = 1 + (uint32_t)dice(100);
    for (i = 0; i < x->n; i++) line_runs(&x->line[i]);
    if (dice(2)) tx_condition(x);
    if (dice(6) == 0) line_is(&x->line[x->bad = x->n - 1], "BAD", NULL, 0);
    else if (dice(6) == 0) line_is(&x->line[x->fails = x->n - 1], "FAIL", NULL, 0);
    for (i = 0; i < x->n; i++) {
        x->cmd[i].argc = x->line[i].argc;
        x->cmd[i].argv = x->line[i].argv;
    }
    x->before = run->m->value[x->key];
}

static int tx_runs(const tx *x, size_t i) { return (i || !x->conditions) && (!i || (i != x->bad && i != x->fails)); }

/* How many of its commands have run; -1: some have, some have not. */
static int tx_ran(const tx *x) {
    size_t i;
    int all = -2;
    for (i = 0; i < x->n; i++) {
        if (!tx_runs(x, i)) continue;
        if (all == -2) all = run->m->ran[x->line[i].id];
        if (run->m->ran[x->line[i].id] != all) return -1;
        if (all && run->m->ran_on[x->line[i].id] != run->m->ran_on[x->line[x->conditions].id]) return -1;
    }
    return all == -2 ? 0 : all;
}

static void tx_committed(const tx *x, const azredis_reply *r) {
    const azredis_value *v = r->value;
    char want[WORD];
    size_t i;
    seen[S_COMMITTED]++;
    CHECK(I_RIGHT_ANSWER, v && v->type == AZREDIS_T_ARRAY && v->len == x->n);
    for (i = 0; i < x->n; i++) {
        (void)snprintf(want, sizeof want, "%lu", x->line[i].id);
        if (tx_runs(x, i)) CHECK(I_RIGHT_ANSWER, azri_eqz(azredis_text(&v->as.items[i]), want));
    }
    if (x->conditions) CHECK(I_COMMITTED, azri_eqz(azredis_text(&v->as.items[0]), x->want));
    if (x->fails) CHECK(I_RIGHT_ANSWER, v->as.items[x->fails].type == AZREDIS_T_ERROR);
    CHECK(I_ABORTED, !x->bad);
}

static void tx_judge(const tx *x, const azredis_reply *r) {
    int ran = tx_ran(x), only = !x->conditions && ((x->bad || x->fails) && x->n == 1);
    uint64_t now = run->m->value[x->key];
    CHECK(I_ALL_OR_NOTHING, ran >= 0);
    if (r->status == AZREDIS_OK) {
        CHECK(I_ANSWERED_RAN, ran == 1 || only || (x->conditions && x->n == 2 && (x->bad || x->fails)));
        tx_committed(x, r);
        return;
    }
    if (r->fate != AZREDIS_MAYBE_RUN) CHECK(I_NOT_SENT_DID_NOT_RUN, ran == 0);
    else seen[S_TX_UNKNOWN]++;
    if (r->status == AZREDIS_E_CONDITION) {
        seen[S_CONDITION]++;
        CHECK(I_CONDITION, x->conditions && !(x->before == x->wanted && now == x->wanted) && r->fate == AZREDIS_NOT_SENT);
    } else if (r->status == AZREDIS_E_CONFLICT) {
        seen[S_CONFLICT]++;
        CHECK(I_CONFLICT, x->conditions && now != x->before && r->fate == AZREDIS_ANSWERED);
    } else if (r->status == AZREDIS_E_REDIS && r->fate == AZREDIS_ANSWERED) {
        seen[S_ABORTED]++;
        CHECK(I_ABORTED, x->bad);
    } else if (r->status == AZREDIS_E_NOPERM) {
        seen[S_REFUSED]++;
        CHECK(I_NOT_SENT_DID_NOT_RUN, r->fate == AZREDIS_NOT_SENT);
    } else if (r->fate == AZREDIS_NOT_SENT) {
        seen[S_TX_NOT_SENT]++;
    }
}

static void do_exec(void) {
    uint64_t at = run->m->now, auth = run->auth_ms;
    azredis_reply r = {0};
    size_t i;
    tx x;
    tx_make(&x);
    (void)azredis_exec(run->c, &r, &x.how, x.cmd, x.n);
    tx_judge(&x, &r);
    for (i = 0; i < x.n; i++)
        if (tx_runs(&x, i)) ended(x.line[i].id, r.status, r.fate);
    azredis_reply_free(&r);
    check_time(at, auth, x.how.timeout_ms ? x.how.timeout_ms : COMMAND_MS);
}

/* ---- blocking commands ---- */

/* 0: for ever. The world ends that by an item or an entry. */
static uint64_t choose_ms(void) { return dice(8) == 0 && !run->stop ? 0 : 1 + dice(dice(5) ? 2000 : run->life); }

static void do_pop(void) {
    uint64_t at = run->m->now, auth = run->auth_ms, ms = choose_ms();
    unsigned long c = run->calls++;
    char tag[WORD], time[WORD];
    azredis_str argv[4];
    azredis_reply r = {0};
    const slices *s = &run->m->calls[c];
    (void)snprintf(tag, sizeof tag, "x:%lu", c);
    (void)snprintf(time, sizeof time, "%llu.%03llu", (unsigned long long)ms / 1000, (unsigned long long)ms % 1000);
    argv[0] = azri_str("BLPOP");
    argv[1] = azri_str("l");
    argv[2] = azri_str(tag);
    argv[3] = azri_str(time);
    (void)azredis_block(run->c, &r, NULL, 4, argv);
    CHECK(I_TOOK_ONE, s->took <= (r.status == AZREDIS_OK || r.fate == AZREDIS_MAYBE_RUN));
    if (r.fate == AZREDIS_MAYBE_RUN) seen[S_POP_UNKNOWN]++;
    if (r.status == AZREDIS_OK && r.value->type == AZREDIS_T_NIL) {
        seen[S_POP_NIL]++;
        CHECK(I_NOTHING_IN_TIME, !s->took && ms && run->m->now >= at + ms);
    } else if (r.status == AZREDIS_OK) {
        seen[S_POPPED]++;
        CHECK(I_TOOK_ONE, s->took == 1 && r.value->len == 2 && r.value->as.items[1].as.integer == (int64_t)s->item);
    }
    trace(c * 10 + (uint64_t)r.fate);
    azredis_reply_free(&r);
    check_time(at, auth, ms ? ms + 2 * COMMAND_MS : 0);
}

/* What is added after the call began, and only that, is read; once anything came it is told. */
static void read_judge(unsigned long c, int before, uint64_t at, uint64_t ms, const azredis_reply *r) {
    const slices *s = &run->m->calls[c];
    const azredis_value *v = r->value;
    char want[WORD];
    if (r->status != AZREDIS_OK) return;
    CHECK(I_SAME_PLACE, s->from > before);
    if (v->type == AZREDIS_T_NIL) {
        seen[S_READ_NIL]++;
        CHECK(I_NOTHING_IN_TIME, ms && run->m->now >= at + ms);
        CHECK(I_NONE_MISSED, s->entries < s->from || s->added[s->from - 1] >= s->ended_at);
        return;
    }
    seen[S_READ]++;
    v = v->type == AZREDIS_T_MAP ? &v->as.items[1] : &v->as.items[0].as.items[1];
    (void)snprintf(want, sizeof want, "%ld-0", s->from);
    CHECK(I_NONE_MISSED, v->len > 0 && azri_eqz(azredis_text(&v->as.items[0].as.items[0]), want));
}

static void do_read(void) {
    uint64_t at = run->m->now, auth = run->auth_ms, ms = choose_ms();
    unsigned long c = run->calls++;
    char tag[WORD], time[WORD];
    azredis_str argv[6];
    azredis_reply r = {0};
    int before = (int)dice(3), i;
    for (i = 0; i < before; i++) model_add(run->m, c);
    (void)snprintf(tag, sizeof tag, "x:%lu", c);
    (void)snprintf(time, sizeof time, "%llu", (unsigned long long)ms);
    argv[0] = azri_str("XREAD");
    argv[1] = azri_str("BLOCK");
    argv[2] = azri_str(time);
    argv[3] = azri_str("STREAMS");
    argv[4] = azri_str(tag);
    argv[5] = azri_str("$");
    run->reading[run->self] = c + 1;
    (void)azredis_block(run->c, &r, NULL, 6, argv);
    run->reading[run->self] = 0;
    read_judge(c, before, at, ms, &r);
    trace(c * 10 + (uint64_t)r.fate);
    azredis_reply_free(&r);
    check_time(at, auth, ms ? ms + 2 * COMMAND_MS : 0);
}

/* ---- leases ---- */

typedef struct held {
    azredis_lease *l;
    uint32_t serial;                        /* of its connection */
    int      lost;                          /* a call has told so */
} held;

/* What the last caller left is not the next one's. */
static void check_clean(const azri_session *s, const conn *k, uint64_t since) {
    CHECK(I_CLEAN, (!s->replace || run->replaced_at >= since) && s->lease.client == run->c && s->role == AZREDIS_CONNECTION_LEASED);
    CHECK(I_CLEAN, !s->fifo.head || s->fifo.head->kind != AZRI_CMD_USER);
    if (k) CHECK(I_CLEAN, !k->multi && !k->watched && !k->blocked && k->database == 0);
}

static int lease(held *h) {
    uint64_t at = run->m->now, auth = run->auth_ms;
    uint32_t wait = dice(3) ? 3000 : (uint32_t)dice(100);
    azredis_error why;
    const conn *k;
    memset(h, 0, sizeof *h);
    h->l = azredis_lease_open(run->c, wait, &why);
    check_time(at, auth, wait);
    if (!h->l) {
        seen[why.code == AZREDIS_E_FULL ? S_FULL : S_NO_LEASE]++;
        if (why.code == AZREDIS_E_FULL) CHECK(I_FULL, run->m->now >= at + wait && are_full());
        return 0;
    }
    seen[S_LEASED]++;
    run->held++;
    run->mine[run->self] = h->l;
    k = conn_of_session(h->l->session);
    check_clean(h->l->session, k, at);
    h->serial = k ? k->serial : 0;
    return 1;
}

static int is_there(const held *h) {
    const conn *k = conn_of((intptr_t)h->serial);
    return h->serial && k && k->calm && k->authed_until > run->m->now + 1000;
}

/* One command. 1: it was answered as it should be. */
static int lease_line(held *h, const line *l, const char *want) {
    uint64_t at = run->m->now, auth = run->auth_ms;
    int there = is_there(h), ok;
    azredis_reply r = {0};
    (void)azredis_lease_command_argv(h->l, &r, NULL, l->argc, l->argv);
    check_time(at, auth, COMMAND_MS);
    ok = r.status == AZREDIS_OK && (!want || azri_eqz(azredis_text(r.value), want));
    if (h->lost) CHECK(I_LOST_FOR_EVER, r.status != AZREDIS_OK && r.fate == AZREDIS_NOT_SENT);
    else if (there && is_there(h) && !run->closed) CHECK(I_HELD, r.fate == AZREDIS_ANSWERED);
    if (r.fate != AZREDIS_ANSWERED && !run->closed && azri_lease_ended(h->l->session)) h->lost = 1;
    if (azri_eqz(l->argv[0], "RUN") && !want) {
        answered(l->id, &r);
        if (r.status == AZREDIS_OK) CHECK(I_ONE_CONNECTION, run->m->ran_on[l->id] == h->serial);
    }
    azredis_reply_free(&r);
    return ok && !run->closed;
}

static int lease_word(held *h, const char *name, const char *of, unsigned long number, const char *want) {
    line l;
    line_is(&l, name, of, number);
    return lease_line(h, &l, want);
}

/* Nobody told the caller what came of each: EXEC, or the loss, says it of all. */
static void check_queued(const line *l, int n, int executed) {
    int i, ran = n ? run->m->ran[l[0].id] : 0;
    for (i = 0; i < n; i++) {
        CHECK(I_ALL_OR_NOTHING, run->m->ran[l[i].id] == ran);
        ended(l[i].id, AZREDIS_E_STATE, AZREDIS_MAYBE_RUN);
    }
    if (!executed) CHECK(I_NOT_SENT_DID_NOT_RUN, !ran);
}

/* A transaction by hand, in which the caller may stop anywhere. 1: the lease is of no more use to him. */
static int lease_transaction(held *h) {
    int n = 1 + (int)dice(3), i, executed = 0, over = 0;
    line l[3];
    if (dice(2) && !lease_word(h, "WATCH", "k:", (unsigned long)dice(MODEL_KEYS), "OK")) return 0;
    if (dice(2)) rest(dice(run->life / 50 + 2));
    if (run->closed || dice(5) == 0) return dice(2) == 0;
    if (!lease_word(h, "MULTI", NULL, 0, "OK")) return !h->lost;
    for (i = 0; i < n; i++) {
        line_runs(&l[i]);
        if (!lease_line(h, &l[i], "QUEUED")) break;
    }
    if (i == n && dice(5)) {
        executed = 1;
        over = lease_word(h, "EXEC", NULL, 0, NULL);
    } else if (i == n && dice(2)) {
        over = lease_word(h, "DISCARD", NULL, 0, NULL);
    }
    check_queued(l, i < n ? i + 1 : n, executed || h->lost);
    return !over && !h->lost;
}

static void lease_back(held *h) {
    const conn *k = run->closed ? NULL : conn_of((intptr_t)h->serial);
    run->mine[run->self] = NULL;
    if (run->closed) return;
    seen[S_LOST] += (uint64_t)h->lost;
    if (k && (k->multi || k->watched || k->database)) seen[S_LEFT_OPEN]++;
    run->held--;
    azredis_lease_close(h->l);
    run->news++;
}

static void do_lease(void) {
    int n = 1 + (int)dice(4);
    line l;
    held h;
    if (!lease(&h)) return;
    while (n-- && !run->closed) {
        if (dice(3) == 0) {
            if (lease_transaction(&h)) break;
        } else if (dice(8) == 0) {
            (void)lease_word(&h, "SELECT", "", 1, NULL);
        } else {
            line_runs(&l);
            (void)lease_line(&h, &l, NULL);
        }
        if (dice(2) && !run->closed) rest(dice(run->life / 50 + 2));
    }
    lease_back(&h);
}

/* ---- the callers, and who keeps the client alive ---- */

static void call_something(void) {
    switch (dice(8)) {
    case 0: do_shared(); break;
    case 1: do_submit(); break;
    case 2: case 3: do_exec(); break;
    case 4: do_pop(); break;
    case 5: do_read(); break;
    default: do_lease(); break;
    }
}

/* After the trouble, service must return: at the latest with the slow lane of the token's machine. */
static void back_to_service(void) {
    uint64_t until = run->m->now + 900000 + 2 * run->life;
    azredis_status st = AZREDIS_E_CLOSED;
    while (!run->closed && (st = azredis_command(run->c, NULL, "GET", "k:0")) != AZREDIS_OK && run->m->now < until) rest(100);
    if (!run->closed) CHECK(I_RECOVERS, st == AZREDIS_OK);
}

static void caller(void) {
    while (!run->closed && run->m->now < run->trouble_until) {
        call_something();
        run->news++;
        if (!run->closed) rest(dice(dice(2) ? 20 : run->life / 2));
    }
    no_more_wrongs();
    if (!run->closed) back_to_service();
    run->callers--;
}

/* While all call nothing; at the end until the leases of all have gone home. */
static void pump(void) {
    uint64_t until;
    while (!run->closed && run->callers) (void)azredis_wait(run->c, 1 + (uint32_t)dice(30000));
    for (until = run->m->now + 120000; !run->closed && run->m->now < until && leased(1);)
        (void)azredis_wait(run->c, 40000);
    if (!run->closed) CHECK(I_GO_HOME, leased(1) == 0);
}

/* One of the callers closes the client over the others' heads. Then every command ends before any of them goes on, as
 * with threads. */
static void rude(void) {
    uint64_t at = run->m->now + dice(run->trouble_until - run->m->now);
    int inside;
    while (run->m->now < at || (!run->held && dice(200))) rest(run->m->now < at ? at - run->m->now : dice(20));
    inside = run->c->inside > 0;
    seen[S_CLOSED_HELD] += run->held > 0;
    seen[S_CLOSED_INSIDE] += (uint64_t)inside;
    run->closed = 1;
    run->closed_at = run->m->now;
    run->callers--;
    azredis_close(run->c);
    if (inside) azri_client_fail_all(run->c);
    run->news++;
}

static void task_main(void) {
    task *t = &run->task[run->self];
    if (run->script) run->script(run->self);
    else if (run->self == PUMP) pump();
    else if (run->self == 0 && run->seed % 3 == 0) rude();
    else caller();
    t->ended = 1;
    (void)swapcontext(&t->at, &run->world);
}

/* ---- a run ---- */

static azredis_client *open_client(void) {
    azredis_auth_options id = {0};
    azredis_options o = {0};
    id.identity = AZREDIS_ID_CALLBACK;
    id.user = "oid";
    id.get_token = get_token;
    o.host = "127.0.0.1";
    o.plaintext = 1;
    o.identity = &id;
    o.port = &port;
    o.seed = id.seed = run->seed;
    id.port = &port;
    o.on_event = on_event;
    o.command_ms = COMMAND_MS;
    o.auth_ms = AUTH_MS;
    o.renew_ms = RENEW_MS;
    o.keepalive_ms = run->seed % 2 ? 60000 : 500;
    o.leases = run->seed % 5 ? 2 + (uint32_t)(run->seed % 3) : 1;
    o.reauth = (azredis_reauth)(run->seed / 3 % 3);
    o.fail_fast = run->seed % 7 == 0;
    o.backlog_count = run->seed % 5 ? 10000 : 12;
    return azredis_open(&o);
}

static void begin(uint64_t seed) {
    static const uint64_t lives[4] = { 5000, 20000, 300000, 3600000 };
    int i;
    run = (struct run *)calloc(1, sizeof *run);
    assert_non_null(run);
    run->m = (model *)calloc(1, sizeof *run->m);
    assert_non_null(run->m);
    run->seed = seed;
    run->m->rng = seed * 7919;
    run->m->now = 1000000;
    run->m->resp2 = seed % 4 == 3;
    for (i = 0; i < MODEL_CONNS; i++) model_close(&run->m->conns[i]);
    run->life = lives[seed / 2 % 4];
    run->trouble_until = run->m->now + LIVES * run->life;
    run->next_fault = run->m->now + 2 * run->life;
    run->callers = CALLERS;
    run->c = open_client();
    assert_non_null(run->c);
    for (i = 0; i < TASKS; i++) {
        task *t = &run->task[i];
        t->stack = (char *)calloc(1, STACK);
        assert_int_equal(getcontext(&t->at), 0);
        t->at.uc_stack.ss_sp = t->stack;
        t->at.uc_stack.ss_size = STACK;
        makecontext(&t->at, task_main, 0);
        t->ended = i == PUMP && seed % 4 == 2;              /* a plain program: it lives while it calls */
    }
}

static int any_left(void) {
    int i;
    for (i = 0; i < TASKS; i++)
        if (!run->task[i].ended) return 1;
    return 0;
}

static void check_commands(void) {
    uint64_t ok = 0, unknown = 0, ran = 0;
    unsigned long id;
    for (id = 0; id < run->ids; id++) {
        const command *c = &run->cmd[id];
        if (!c->outcomes && !run->m->ran[id]) continue;     /* of a transaction that had another command in its place */
        CHECK(I_ONE_OUTCOME, c->outcomes == 1);
        CHECK(I_NEVER_TWICE, run->m->ran[id] <= 1);
        if (c->fate == AZREDIS_NOT_SENT) CHECK(I_NOT_SENT_DID_NOT_RUN, run->m->ran[id] == 0);
        ok += c->fate == AZREDIS_ANSWERED && c->status == AZREDIS_OK;
        unknown += c->fate == AZREDIS_MAYBE_RUN;
        ran += run->m->ran[id];
    }
    CHECK(I_COUNTER, ok <= ran && ran <= ok + unknown);
    for (id = 0; id < run->calls; id++) CHECK(I_TOOK_ONE, run->m->calls[id].took <= 1);
}

static void live(void) {
    while (any_left()) {
        assert_true(run->steps++ < STEP_MAX);
        world();
        if (!turn()) advance();
    }
    if (!run->closed) azredis_close(run->c);
}

static uint64_t finish(void) {
    uint64_t result;
    int i;
    check_commands();
    CHECK(I_MEMORY, run->allocated == 0);
    for (i = 0; i < SOCKETS; i++) CHECK(I_MEMORY, run->sockets[i] == 0);
    for (i = 0; i < F_COUNT; i++) faults_fired[i] += run->m->fired[i];
    for (i = 0; i < TASKS; i++) free(run->task[i].stack);
    result = run->trace;
    free(run->m);
    free(run);
    return result;
}

static uint64_t play(uint64_t seed) {
    begin(seed);
    live();
    return finish();
}

/* ---- what it has found, by itself: no wrongs, one lease ---- */

static void one_waits_for_the_other(int self) {
    azredis_str argv[4];
    azredis_reply r = {0};
    held h;
    uint64_t at;
    if (self == 0 && lease(&h)) {
        rest(12000);
        lease_back(&h);
    }
    if (self != 1) return;
    rest(1000);
    at = run->m->now;
    argv[0] = azri_str("BLPOP");
    argv[1] = azri_str("l");
    argv[2] = azri_str("x:0");
    argv[3] = azri_str("20");
    assert_int_equal(azredis_block(run->c, &r, NULL, 4, argv), AZREDIS_OK);
    assert_int_equal(r.value->type, AZREDIS_T_NIL);
    azredis_reply_free(&r);
    assert_in_range(run->m->now - at, 20000, 20000 + COMMAND_MS + SLACK);
}

/* It waited 11 s for the lease, and then 20 s anew. */
static void blocking_has_its_time_once(void **state) {
    (void)state;
    begin(5);
    run->script = one_waits_for_the_other;
    run->next_fault = run->next_write = UINT64_MAX;
    assert_int_equal(run->c->hub.conf.leases, 1);
    live();
    (void)finish();
}

static uint64_t first_seed = 1, last_seed = 200;

static void seeds_hold_all_invariants(void **state) {
    uint64_t seed;
    (void)state;
    for (seed = first_seed; seed <= last_seed; seed++) (void)play(seed);
}

static void same_seed_same_trace(void **state) {
    uint64_t seed;
    (void)state;
    for (seed = first_seed; seed <= first_seed + 3; seed++) assert_true(play(seed) == play(seed));
}

static void all_of_it_came_up(void **state) {
    int i;
    (void)state;
    if (last_seed - first_seed < 199) skip();               /* a few seeds need not meet all */
    for (i = 0; i < F_COUNT; i++) print_message("fault %-12s fired %llu times\n", fault_names[i], (unsigned long long)faults_fired[i]);
    for (i = 0; i < S_COUNT; i++) print_message("%8llu times: %s\n", (unsigned long long)seen[i], sight_names[i]);
    for (i = 0; i < I_COUNT; i++) print_message("checked %9llu times: %s\n", (unsigned long long)checked[i], invariant_names[i]);
    for (i = 0; i < F_COUNT; i++) assert_true(faults_fired[i] > 0);
    for (i = 0; i < S_COUNT; i++) assert_true(seen[i] > 0);
    for (i = 0; i < I_COUNT; i++) assert_true(checked[i] > 0);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_hold_all_invariants),
        cmocka_unit_test(same_seed_same_trace),
        cmocka_unit_test(all_of_it_came_up),
        cmocka_unit_test(blocking_has_its_time_once),
    };
    if (argc > 1) first_seed = last_seed = strtoull(argv[1], NULL, 10);
    if (argc > 2) last_seed = strtoull(argv[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
