/* What the model server keeps: keys that others write, transactions, a list and streams for commands that block. A part
 * of model.h. */
#ifndef AZREDIS_SIM_KEYS_H
#define AZREDIS_SIM_KEYS_H
#include <stdarg.h>

static void model_printf(model *m, conn *k, const char *format, ...) {
    char text[200];
    va_list ap;
    va_start(ap, format);
    (void)vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    model_says(m, k, text);
}

static void model_nil(model *m, conn *k) { model_says(m, k, k->resp3 ? "_\r\n" : "*-1\r\n"); }

/* "x:17", and any number at the end of a word. */
static unsigned long model_number(word w) {
    size_t at = w.n;
    while (at > 0 && w.p[at - 1] >= '0' && w.p[at - 1] <= '9') at--;
    return strtoul(w.p + at, NULL, 10);
}

/* ---- transactions ---- */

/* Another client writes. */
static void model_touch(model *m, unsigned long key) { m->value[key]++; }

static void model_watch(model *m, conn *k, unsigned long key) {
    if (!(k->watched & 1u << key)) k->seen[key] = m->value[key];
    k->watched |= 1u << key;
    model_says(m, k, "+OK\r\n");
}

static int model_conflict(const model *m, const conn *k) {
    int i;
    for (i = 0; i < MODEL_KEYS; i++)
        if (k->watched & 1u << i && k->seen[i] != m->value[i]) return 1;
    return 0;
}

static int model_known(word w) {
    return model_is(w, "RUN") || model_is(w, "GET") || model_is(w, "FAIL") || model_is(w, "SELECT");
}

/* The commands that have no connection's state. */
static int model_simple(model *m, conn *k, const word *w) {
    if (model_is(w[0], "GET")) {
        char text[24];
        int n = snprintf(text, sizeof text, "%llu", (unsigned long long)m->value[model_number(w[1])]);
        model_bulk(m, k, text, (size_t)n);
    } else if (model_is(w[0], "FAIL")) {
        model_says(m, k, "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
    } else if (model_is(w[0], "SELECT")) {
        k->database = (int)model_number(w[1]);
        model_says(m, k, "+OK\r\n");
    } else {
        return 0;
    }
    return 1;
}

static void model_queue(model *m, conn *k, const word *w, int argc) {
    if (!model_known(w[0])) {
        k->spoilt = 1;
        model_says(m, k, "-ERR unknown command\r\n");
        return;
    }
    assert(k->queue < MODEL_QUEUED && argc <= 2);
    (void)snprintf(k->queued[k->queue++], MODEL_WORDS, "%.*s %.*s", (int)w[0].n, w[0].p, argc > 1 ? (int)w[1].n : 0, argc > 1 ? w[1].p : "");
    model_says(m, k, "+QUEUED\r\n");
}

static void model_exec(model *m, conn *k) {
    int i, conflict = model_conflict(m, k), n = k->queue;
    k->multi = k->queue = 0;
    k->watched = 0;
    m->execs++;
    if (k->spoilt) {
        m->aborts++;
        model_says(m, k, "-EXECABORT Transaction discarded because of previous errors.\r\n");
        return;
    }
    if (conflict) {
        m->conflicts++;
        model_nil(m, k);
        return;
    }
    model_printf(m, k, "*%d\r\n", n);
    for (i = 0; i < n; i++) {
        word w[2];
        w[0].p = k->queued[i];
        w[0].n = strcspn(w[0].p, " ");
        w[1].p = w[0].p + w[0].n + 1;
        w[1].n = strlen(w[1].p);
        if (!model_simple(m, k, w)) model_ran(m, k, strtoul(w[1].p, NULL, 10), w);
    }
}

/* 0: another kind of command. */
static int model_transaction(model *m, conn *k, const word *w, int argc) {
    if (model_is(w[0], "MULTI")) {
        k->spoilt = k->queue = 0;
        if (k->refuses_multi) model_says(m, k, "-NOPERM this user has no permissions to run the 'multi' command\r\n");
        else model_says(m, k, "+OK\r\n");
        k->multi = !k->refuses_multi;
    } else if (model_is(w[0], "EXEC")) {
        if (k->multi) model_exec(m, k);
        else model_says(m, k, "-ERR EXEC without MULTI\r\n");
    } else if (model_is(w[0], "DISCARD")) {
        model_says(m, k, k->multi ? "+OK\r\n" : "-ERR DISCARD without MULTI\r\n");
        k->multi = k->queue = 0;
        k->watched = 0;
    } else if (model_is(w[0], "WATCH")) {
        model_watch(m, k, model_number(w[1]));
    } else if (model_is(w[0], "UNWATCH")) {
        k->watched = 0;
        model_says(m, k, "+OK\r\n");
    } else if (k->multi && !model_is_own(w[0])) {
        model_queue(m, k, w, argc);
    } else {
        return 0;
    }
    return 1;
}

/* ---- commands that block ---- */

static void model_block(model *m, conn *k, unsigned long c, int reads, uint64_t ms) {
    k->blocked = (int)c + 1;
    k->reads = reads;
    k->blocked_at = m->now;
    k->blocked_until = ms ? m->now + ms : UINT64_MAX;
}

/* The answer to a slice stands in `out`. */
static void model_slice_ends(model *m, conn *k, unsigned long c, int took) {
    if (k->blocked) k->free_at = m->now;
    k->blocked = 0;
    k->blocked_until = UINT64_MAX;
    k->asked = (int)c + 1;
    k->asked_end = k->out_len;
    k->took = took;
    m->calls[c].took += took;
    if (k->in_len && k->in_at == UINT64_MAX) k->in_at = m->now;
}

/* Its time is over. */
static void model_wake(model *m, conn *k) {
    unsigned long c = (unsigned long)k->blocked - 1;
    model_nil(m, k);
    m->calls[c].ended_at = m->now;
    model_slice_ends(m, k, c, 0);
}

/* All of that answer is with the client: unless it brought something the call may ask again. */
static void model_delivered(model *m, conn *k) {
    m->calls[k->asked - 1].open = k->took;
    k->asked = 0;
}

static void model_pop(model *m, conn *k, unsigned long c) {
    m->calls[c].item = m->item;
    model_printf(m, k, "*2\r\n$1\r\nl\r\n:%lu\r\n", m->item++);
    model_slice_ends(m, k, c, 1);
}

static void model_read(model *m, conn *k, unsigned long c) {
    const slices *x = &m->calls[c];
    long i;
    model_printf(m, k, k->resp3 ? "%%1\r\n+x:%lu\r\n" : "*1\r\n*2\r\n+x:%lu\r\n", c);
    model_printf(m, k, "*%ld\r\n", x->entries - x->from + 1);
    for (i = x->from; i <= x->entries; i++) model_printf(m, k, "*2\r\n+%ld-0\r\n*2\r\n+f\r\n+v\r\n", i);
    model_slice_ends(m, k, c, 0);
}

/* Another client adds an item to the list: who has waited longest gets it. */
static void model_push(model *m) {
    conn *k, *first = NULL;
    m->items++;
    for (k = m->conns; k < m->conns + MODEL_CONNS; k++)
        if (k->blocked && !k->reads && (!first || k->blocked_at < first->blocked_at)) first = k;
    if (first) model_pop(m, first, (unsigned long)first->blocked - 1);
}

/* Another client adds an entry to a call's stream. */
static void model_add(model *m, unsigned long c) {
    slices *x = &m->calls[c];
    conn *k;
    if (x->entries == MODEL_ENTRIES) return;
    x->added[x->entries++] = m->now;
    for (k = m->conns; k < m->conns + MODEL_CONNS; k++)
        if (k->blocked == (int)c + 1 && k->reads) model_read(m, k, c);
}

/* BLPOP l x:17 0.25 */
static void model_blpop(model *m, conn *k, const word *w) {
    unsigned long c = model_number(w[2]);
    assert(c < MODEL_CALLS);
    m->asked_again += m->calls[c].open;
    m->calls[c].open = 1;
    if (m->item < m->items) model_pop(m, k, c);
    else model_block(m, k, c, 0, (uint64_t)(strtod(w[3].p, NULL) * 1000 + 0.5));
}

/* XREAD BLOCK 250 STREAMS x:17 3-0 */
static void model_xread(model *m, conn *k, const word *w) {
    unsigned long c = model_number(w[4]);
    long from = strtol(w[5].p, NULL, 10);
    slices *x = &m->calls[c];
    assert(c < MODEL_CALLS);
    if (*w[5].p == '$' || (x->from && x->from != from + 1)) m->moved++;
    x->from = from + 1;
    x->open = 1;
    if (x->entries > from) model_read(m, k, c);
    else model_block(m, k, c, 1, strtoul(w[2].p, NULL, 10));
}

/* XREVRANGE x:17 + - COUNT 1 */
static void model_xrevrange(model *m, conn *k, const word *w) {
    int last = m->calls[model_number(w[1])].entries;
    if (last) model_printf(m, k, "*1\r\n*2\r\n+%d-0\r\n*2\r\n+f\r\n+v\r\n", last);
    else model_says(m, k, "*0\r\n");
}

/* 0: none of these commands. */
static int model_keys(model *m, conn *k, const word *w, int argc) {
    if (model_transaction(m, k, w, argc) || model_simple(m, k, w)) return 1;
    if (model_is(w[0], "BLPOP")) model_blpop(m, k, w);
    else if (model_is(w[0], "XREAD")) model_xread(m, k, w);
    else if (model_is(w[0], "XREVRANGE")) model_xrevrange(m, k, w);
    else return 0;
    return 1;
}
#endif
