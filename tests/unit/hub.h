/* The client's pure half as a test sees it: the pump's part is played by hand, for one session at a time (use). After
 * each test every command must have ended exactly once and all memory be back. */
#ifndef TEST_HUB_H
#define TEST_HUB_H
#include "pure.h"

enum { COMMANDS = 20100, COMMAND_MS = 5000, HOUR = 3600000 };
typedef struct outcome { int ends; azredis_status st; azredis_fate fate; char text[40]; azredis_error why; } outcome;

static struct {
    azri_hub      h;
    azri_session *s;
    uint64_t      now;
    int           cmds;
    outcome       end[COMMANDS];
} r;

/* ---- the pump's place ---- */

static void on_reply(azredis_client *c, const azredis_reply *lent, void *user) {
    outcome *o = &r.end[(uintptr_t)user];
    azredis_str text = azredis_text(lent->value);
    (void)c;
    o->ends++;
    o->st = lent->status;
    o->fate = lent->fate;
    snprintf(o->text, sizeof o->text, "%.*s", (int)text.len, text.ptr ? text.ptr : "");
    memset(&o->why, 0, sizeof o->why);
    if (lent->error) o->why = *lent->error;
}

static void deliver(void) {
    azri_session *s;
    azri_cmd *c;
    while ((c = r.h.done.head) != NULL) {
        r.h.done.head = c->done_next;
        if (!r.h.done.head) r.h.done.tail = NULL;
        c->done_next = NULL;
        c->in_done = 0;
        if (c->kind == AZRI_CMD_SUBSCRIBE) azri_hub_subscribed(&r.h, c);
        c->told = 1;
        if (c->fn) c->fn(NULL, c->reply, c->user);
        c->fn = NULL;
        c->reply = &c->own;
        if (!c->linked) azri_stock_give(&r.h.stock, c);
    }
    for (s = r.h.sessions; s; s = s->next)
        if (s->state == AZRI_DOWN) s->link = NULL;
}

static int on_frame(const azri_frame *f) {
    azri_hub_frame(&r.h, r.s, f, r.now);
    return r.s->state != AZRI_DOWN;
}

static void server(const char *text) {
    hear(r.s, text, 4096, on_frame);
    deliver();
}

static void tick(uint64_t at) {
    const azri_session *s;
    uint64_t t;
    int dials = 0;
    r.now = at;
    azri_hub_tick(&r.h, at);
    deliver();
    t = azri_hub_deadline(&r.h, at);
    for (s = r.h.sessions; s; s = s->next) dials |= azri_hub_may_dial(&r.h, s, at);
    assert_true(t <= at + AZRI_WAIT_MAX);
    assert_true(t >= at || dials);
}

/* 1: it was time to dial, and the connection stands. */
static int dial(void) {
    if (!azri_hub_may_dial(&r.h, r.s, r.now)) return 0;
    azri_hub_dialing(&r.h, r.s);
    r.s->link = &r;
    azri_hub_opened(&r.h, r.s, r.now);
    return 1;
}

static void lost_for(azredis_status why) {
    azredis_error e;
    (void)azri_fail(&e, why, "test", "the wire is cut");
    azri_hub_closed(&r.h, r.s, &e, r.now);
    deliver();
}

static void lost(void) { lost_for(AZREDIS_E_CLOSED); }

static const char *out(void) { return sent(r.s, r.now); }

static void token(uint32_t generation) {
    char jwt[24];
    azri_blob *b;
    snprintf(jwt, sizeof jwt, "token-%u", (unsigned)generation);
    b = new_token(jwt, generation, r.now + HOUR, HOUR);
    azri_hub_token(&r.h, b, r.now);
    azri_blob_drop(b);
}

static void welcome(void) {
    assert_int_equal(dial(), 1);
    assert_memory_equal(out(), "AUTH oid token-", 15);
    server(WELCOME);
    assert_int_equal(r.s->state, AZRI_READY);
}

static void up(void) {
    token(1);
    welcome();
    r.h.news.count = 0;
}

static void reconnect(void) {
    tick(azri_max64(r.now, r.s->dial_at));
    welcome();
}

/* ---- the user's place ---- */

static azredis_status make(azri_cmd **c, int argc, const char *a, const char *b, const char *d, azredis_error *e) {
    azredis_str argv[3];
    argv[0] = azri_str(a);
    argv[1] = azri_str(b);
    argv[2] = azri_str(d);
    return azri_hub_new_cmd(&r.h, argc, argv, 0, c, e);
}

static void submit(azri_cmd *c, uint64_t ms) {
    assert_true(r.cmds < COMMANDS);
    c->deadline = r.now + ms;
    c->fn = on_reply;
    c->user = (void *)(uintptr_t)r.cmds++;
    azri_hub_submit(&r.h, c);
    deliver();
}

/* "GET k<number>"; not OK: it was not taken. */
static azredis_status give(uint64_t ms) {
    char key[16];
    azri_cmd *c;
    azredis_status st;
    snprintf(key, sizeof key, "k%d", r.cmds);
    st = make(&c, 2, "GET", key, "", NULL);
    if (st == AZREDIS_OK) submit(c, ms);
    return st;
}

static void give_n(int n) {
    while (n--) assert_int_equal(give(COMMAND_MS), AZREDIS_OK);
}

static void answer(int from, int to) {
    char text[24];
    for (; from <= to; from++) {
        snprintf(text, sizeof text, "+v%d|", from);
        server(text);
    }
}

static void one_is(int i, azredis_status st, azredis_fate fate, const char *why) {
    assert_int_equal(r.end[i].ends, 1);
    assert_int_equal(r.end[i].st, st);
    assert_int_equal(r.end[i].fate, fate);
    if (!strstr(r.end[i].why.message, why)) fail_msg("\"%s\" is not in: %s", why, r.end[i].why.message);
}

static void ok(int from, int to) {
    char text[24];
    for (; from <= to; from++) {
        snprintf(text, sizeof text, "v%d", from);
        one_is(from, AZREDIS_OK, AZREDIS_ANSWERED, "");
        assert_string_equal(r.end[from].text, text);
    }
}

/* Also: what its options say before it is asked for. */
static azredis_sub *listen_to(azredis_sub *s) {
    azri_hub_add_sub(&r.h, s);
    azri_hub_need_listener(&r.h, r.now);
    if (azri_hub_listener(&r.h)->state == AZRI_READY) azri_hub_subscribe(&r.h, azri_hub_listener(&r.h));
    return s;
}

static azredis_sub *new_sub(int kind, const char *channel) {
    azredis_sub *s = azri_sub_new(&mem, kind, channel);
    s->max = r.h.conf.sub_queue;
    return s;
}

static AZRI_UNUSED azredis_sub *subscribe(const char *channel) { return listen_to(new_sub(AZREDIS_CHANNEL, channel)); }
static AZRI_UNUSED azredis_sub *psubscribe(const char *pattern) { return listen_to(new_sub(AZREDIS_PATTERN, pattern)); }

#define SUBSCRIBED(channel) ">3|+subscribe|+" channel "|:1|"
#define MSG(channel, text) ">3|+message|+" channel "|+" text "|"

#define PSUBSCRIBED(pattern) ">3|+psubscribe|+" pattern "|:1|"
#define PMSG(pattern, channel, text) ">4|+pmessage|+" pattern "|+" channel "|+" text "|"

static AZRI_UNUSED void pnext_is(azredis_sub *s, const char *channel, const char *text, uint32_t missed, uint32_t gap) {
    azredis_message m;
    assert_int_equal(azri_sub_next(s, &m), 1);
    assert_true(azri_eqz(m.payload, text) && azri_eqz(m.channel, channel) && azri_eqz(m.pattern, s->channel));
    assert_int_equal(m.lost, missed);
    assert_int_equal(m.gap, gap);
}

static void next_is(azredis_sub *s, const char *text, uint32_t missed, uint32_t gap) {
    azredis_message m;
    assert_int_equal(azri_sub_next(s, &m), 1);
    assert_true(azri_eqz(m.payload, text) && azri_eqz(m.channel, s->channel) && !m.pattern.ptr);
    assert_int_equal(m.payload.ptr[m.payload.len], '\0');
    assert_int_equal(m.lost, missed);
    assert_int_equal(m.gap, gap);
}

static int began(void) {
    azri_hub_conf *conf = &r.h.conf;
    memset(&r, 0, sizeof r);
    memset(&wire, 0, sizeof wire);
    r.now = 1000000;
    azri_hub_init(&r.h, &mem, 7);
    conf->session.protocol = 3;
    conf->session.auth_ms = 15000;
    conf->session.command_ms = COMMAND_MS;
    conf->session.keepalive_ms = AZREDIS_NEVER;
    conf->session.max_reply = 1 << 24;
    conf->session.endpoint = "host:10000";
    conf->backlog_count = 10000;
    conf->backlog_bytes = 1 << 24;
    conf->sub_queue = 3;
    r.s = azri_hub_add_session(&r.h);
    return r.s != NULL;
}

static int begin(void **state) {
    (void)state;
    memset(&heap, 0, sizeof heap);
    assert_true(began());
    return 0;
}

static int end(void **state) {
    azredis_error e;
    azri_queue unsent;
    azri_session *s;
    int i;
    (void)state;
    memset(&unsent, 0, sizeof unsent);
    (void)azri_fail(&e, AZREDIS_E_CLOSED, "test", "closed");
    for (s = r.h.sessions; s; s = s->next) azri_session_closed(s, &e, &unsent);
    azri_hub_fail_queue(&r.h, &unsent, &e);
    azri_hub_fail_queue(&r.h, &r.h.backlog, &e);
    deliver();
    for (i = 0; i < r.cmds; i++) assert_int_equal(r.end[i].ends, 1);
    azri_hub_free(&r.h);
    assert_int_equal(heap.live, 0);
    return 0;
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)

#endif
