/* A model of one Redis server behind Azure's rules, in virtual time: it authenticates tokens, closes a
 * connection when the last token that it accepted expires, executes commands that carry an id and keeps a ledger
 * of them, and does wrong on request. It has keys to watch, transactions, and commands that block. It shares no code
 * with the header. */
#ifndef AZREDIS_SIM_MODEL_H
#define AZREDIS_SIM_MODEL_H
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODEL_CONNS = 8, MODEL_IDS = 200000, MODEL_PIPE = 1 << 20, MODEL_CHUNKS = 4096, MODEL_TOKENS = 4096 };
enum { MODEL_KEYS = 4, MODEL_QUEUED = 16, MODEL_WORDS = 40, MODEL_CALLS = 4096, MODEL_ENTRIES = 64 };

typedef enum fault {
    F_CUT_ANSWER, F_CUT_REQUEST, F_AUTH_REJECT, F_AUTH_SILENT, F_AUTH_SLOW, F_STALL, F_REFUSE, F_EXPIRE_NOW, F_ODD_PUSH,
    F_TOKEN_500, F_TOKEN_429, F_TOKEN_CONFIG, F_TOKEN_SAME, F_SLEEP, F_COUNT
} fault;

static const char *const fault_names[F_COUNT] = {
    "cut-answer", "cut-request", "auth-reject", "auth-silent", "auth-slow", "stall", "refuse", "expire-now", "odd-push",
    "token-500", "token-429", "token-config", "token-same", "sleep"
};

/* One connection. A client has one for commands, perhaps one for subscriptions, and for a while a second one of each. */
typedef struct conn {
    int open, authed, first_auth, calm;    /* calm: no fault since it was made, nor an earlier one's effect */
    uint64_t authed_until;
    int subscribed, resp3;
    char in[MODEL_PIPE];
    size_t in_len, cut_in;             /* cut_in: bytes it still reads before it cuts; SIZE_MAX: no cut */
    uint64_t in_at;                    /* when what stands in `in` has come over the wire */
    char out[MODEL_PIPE];
    size_t out_len, out_at, cut_out;
    struct { uint64_t at; size_t end; } chunk[MODEL_CHUNKS];
    int chunks;
    uint64_t busy_until;
    uint32_t serial;                   /* no other connection has it */
    int token;                         /* the last one that was accepted */
    int refuses_multi;
    int multi, spoilt, database;
    unsigned watched;                  /* keys, as bits */
    uint64_t seen[MODEL_KEYS];         /* what their values were then */
    char queued[MODEL_QUEUED][MODEL_WORDS];
    int queue;
    int blocked;                       /* the call that blocks it, +1; 0: none does */
    int reads;                         /* by XREAD, not by BLPOP */
    uint64_t blocked_at, blocked_until, free_at;    /* free_at: since when no transaction or blocking command is under way */
    int asked, took;                   /* the call, +1, whose answer stands in `out` up to asked_end; it has taken something */
    size_t asked_end;
} conn;

/* One call of a blocking command, known by its number, whatever connections its slices come on. */
typedef struct slices {
    int open;                          /* a slice was executed whose answer has not reached the client */
    int took;                          /* things that were taken away for it */
    unsigned long item;
    long from;                         /* XREAD: behind which entry, +1; 0: not asked yet */
    int entries;                       /* of its stream */
    uint64_t added[MODEL_ENTRIES];
    uint64_t ended_at;                 /* its last slice, with nothing */
} slices;

typedef struct model {
    uint64_t rng;
    uint64_t now;
    int resp2;                         /* it does not know RESP3 */
    uint64_t misplaced;                /* commands that a subscriber over RESP2 must not send */
    /* the authority */
    struct { uint64_t expires; int refused, doubted; } token[MODEL_TOKENS];
    int tokens;
    conn conns[MODEL_CONNS];
    uint64_t stalled_until;
    /* the ledger */
    uint8_t ran[MODEL_IDS];
    unsigned long next_id;             /* above all that ran */
    int overtaken;                     /* a command ran before one that was submitted earlier */
    uint64_t published;
    /* wrongs */
    int armed[F_COUNT];
    uint64_t fired[F_COUNT];
    uint64_t slow_ms;
    uint64_t auths, reauths, expired_tokens_seen, expired_cuts, opened;
    /* keys */
    uint64_t value[MODEL_KEYS];        /* each grows when another client writes it */
    uint32_t ran_on[MODEL_IDS];        /* the serial of the connection */
    unsigned long items, item;         /* those of the list: from `item` on */
    slices calls[MODEL_CALLS];
    int refuse_multi;                  /* by so many connections that are to be made */
    uint64_t execs, conflicts, aborts;
    /* what no client of ours may do */
    int inside;                        /* AUTH or PING between MULTI and EXEC, or WATCH and EXEC */
    int behind;                        /* anything behind a command that blocks */
    int asked_again;                   /* a slice although one before it may have taken something */
    int moved;                         /* XREAD, from another place than before or from $ */
} model;

static uint64_t model_random(model *m, uint64_t n) {
    uint64_t z = (m->rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % n;
}

static int model_fault(model *m, fault f) {
    if (!m->armed[f]) return 0;
    m->armed[f]--;
    m->fired[f]++;
    return 1;
}

static void model_close(conn *k) {
    k->open = k->authed = k->subscribed = k->resp3 = k->calm = 0;
    k->in_len = k->out_len = k->out_at = 0;
    k->chunks = 0;
    k->cut_in = k->cut_out = SIZE_MAX;
    k->in_at = k->blocked_until = UINT64_MAX;
    k->multi = k->spoilt = k->database = k->queue = k->blocked = k->asked = 0;
    k->watched = 0;
    k->token = -1;
}

/* NULL: refused. */
static conn *model_accept(model *m) {
    conn *k = m->conns;
    if (model_fault(m, F_REFUSE)) return NULL;
    while (k->open) assert(++k < m->conns + MODEL_CONNS);
    model_close(k);
    k->open = k->first_auth = 1;
    k->busy_until = k->free_at = m->now;
    k->serial = (uint32_t)++m->opened;
    k->refuses_multi = m->refuse_multi > 0 && m->refuse_multi--;
    return k;
}

/* An answer: it leaves when the server is done with what came before, after a little work of its own. */
static void model_say(model *m, conn *k, const char *text, size_t n) {
    assert(k->out_len + n <= sizeof k->out && k->chunks < MODEL_CHUNKS);
    memcpy(k->out + k->out_len, text, n);
    k->out_len += n;
    if (k->busy_until < m->now) k->busy_until = m->now;
    k->busy_until += model_random(m, 3);
    k->chunk[k->chunks].at = k->busy_until;
    k->chunk[k->chunks++].end = k->out_len;
}

static void model_says(model *m, conn *k, const char *text) { model_say(m, k, text, strlen(text)); }

static void model_bulk(model *m, conn *k, const char *p, size_t n) {
    char head[32];
    char buf[300];
    size_t h = (size_t)snprintf(head, sizeof head, "$%u\r\n", (unsigned)n);
    assert(h + n + 2 <= sizeof buf);
    memcpy(buf, head, h);
    memcpy(buf + h, p, n);
    memcpy(buf + h + n, "\r\n", 2);
    model_say(m, k, buf, h + n + 2);
}

typedef struct word { const char *p; size_t n; } word;
static int model_is(word w, const char *z) { return w.n == strlen(z) && memcmp(w.p, z, w.n) == 0; }

/* A token is "token-NNNNNN", its number the index in m->token. */
static void model_auth(model *m, conn *k, const word *w) {
    int first = k->first_auth;
    unsigned long t = strtoul(w[2].p + 6, NULL, 10);
    m->auths++;
    m->reauths += !first;
    k->first_auth = 0;
    if (t >= (unsigned long)m->tokens) t = 0;
    if (m->token[t].expires <= m->now) m->expired_tokens_seen++;
    if (model_fault(m, F_AUTH_SLOW)) {
        if (k->busy_until < m->now) k->busy_until = m->now;
        k->busy_until += m->slow_ms;
    }
    if (!first && model_fault(m, F_AUTH_SILENT)) {
        m->token[t].doubted = 1;
        return;
    }
    if (model_fault(m, F_AUTH_REJECT)) m->token[t].refused = 1;
    if (m->token[t].refused || m->token[t].expires <= m->now) {
        m->token[t].doubted = 1;
        model_says(m, k, "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
        return;
    }
    k->authed = 1;
    k->token = (int)t;
    k->authed_until = m->token[t].expires;
    model_says(m, k, "+OK\r\n");
}

/* RUN id: runs once, answers its id. */
static void model_ran(model *m, conn *k, unsigned long id, const word *w) {
    assert(id < MODEL_IDS && m->ran[id] < 255);
    m->ran[id]++;
    m->ran_on[id] = k->serial;
    if (id < m->next_id) m->overtaken++;
    else m->next_id = id + 1;
    model_bulk(m, k, w[1].p, w[1].n);
}

/* ---- keys, transactions, blocking commands: see keys.h ---- */

static int model_undivided(const conn *k) { return k->multi || k->watched || k->blocked; }
static int model_keys(model *m, conn *k, const word *w, int argc);
static void model_delivered(model *m, conn *k);
static void model_wake(model *m, conn *k);

static int model_is_own(word w) { return model_is(w, "AUTH") || model_is(w, "PING") || model_is(w, "HELLO"); }

static void model_command(model *m, conn *k, const word *w, int argc) {
    int subscriber = k->subscribed && !k->resp3;
    if (subscriber && !model_is(w[0], "PING") && !model_is(w[0], "SUBSCRIBE")) {
        m->misplaced++;
        model_says(m, k, "-ERR Can't execute this: only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET\r\n");
        return;
    }
    if (model_undivided(k) && model_is_own(w[0])) m->inside++;
    if (model_is(w[0], "AUTH")) { model_auth(m, k, w); return; }
    if (!k->authed) { model_says(m, k, "-NOAUTH Authentication required.\r\n"); return; }
    if (k->resp3 && model_fault(m, F_ODD_PUSH)) model_says(m, k, ">2\r\n$4\r\nwhat\r\n:1\r\n");
    if (model_keys(m, k, w, argc)) {
    } else if (model_is(w[0], "HELLO") && m->resp2) {
        model_says(m, k, "-NOPROTO unsupported protocol version\r\n");
    } else if (model_is(w[0], "HELLO")) {
        k->resp3 = 1;
        model_says(m, k, "%3\r\n$6\r\nserver\r\n$5\r\nmodel\r\n$5\r\nproto\r\n:3\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n");
    } else if (model_is(w[0], "PING")) {
        if (subscriber) model_says(m, k, "*2\r\n$4\r\npong\r\n");
        model_bulk(m, k, w[1].p, w[1].n);
    } else if (model_is(w[0], "RUN")) {
        model_ran(m, k, strtoul(w[1].p, NULL, 10), w);
    } else if (model_is(w[0], "SUBSCRIBE")) {
        k->subscribed = 1;
        model_says(m, k, k->resp3 ? ">3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n" : "*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    } else {
        model_says(m, k, "-ERR unknown command\r\n");
    }
}

/* Another client publishes numbered messages: each reaches ours on every connection that is subscribed then. */
static inline void model_publish(model *m) {
    char number[24], text[100];
    conn *k;
    snprintf(number, sizeof number, "%llu", (unsigned long long)m->published++);
    snprintf(text, sizeof text, "%c3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$%u\r\n%s\r\n", m->resp2 ? '*' : '>', (unsigned)strlen(number), number);
    for (k = m->conns; k < m->conns + MODEL_CONNS; k++)
        if (k->open && k->subscribed && k->authed) model_says(m, k, text);
}

/* The length of the first whole request in k->in, its words in w; 0: not whole yet. */
static size_t model_parse(const conn *k, word *w, int *argc) {
    const char *p = k->in, *end = k->in + k->in_len, *nl;
    int i, n;
    if (!(nl = (const char *)memchr(p, '\n', (size_t)(end - p)))) return 0;
    assert(*p == '*');
    n = atoi(p + 1);
    assert(n >= 1 && n <= 8);
    for (i = 0, p = nl + 1; i < n; i++) {
        if (p >= end || !(nl = (const char *)memchr(p, '\n', (size_t)(end - p)))) return 0;
        assert(*p == '$');
        w[i].n = (size_t)atoi(p + 1);
        w[i].p = nl + 1;
        if ((size_t)(end - w[i].p) < w[i].n + 2) return 0;
        assert(memcmp(w[i].p + w[i].n, "\r\n", 2) == 0);    /* a real server would not notice */
        p = w[i].p + w[i].n + 2;
    }
    *argc = n;
    return (size_t)(p - k->in);
}

/* Executes what has arrived whole. */
static void model_execute(model *m, conn *k) {
    word w[8];
    int argc = 0;
    size_t used;
    k->in_at = UINT64_MAX;
    while (!k->blocked && (used = model_parse(k, w, &argc)) != 0) {
        int undivided = model_undivided(k);
        model_command(m, k, w, argc);
        if (undivided && !model_undivided(k)) k->free_at = m->now;
        memmove(k->in, k->in + used, k->in_len - used);
        k->in_len -= used;
    }
    if (k->blocked && k->in_len) m->behind++;
    if (k->cut_in == 0) model_close(k);
}

/* Bytes from the client; they are some time on their way, so that one connection may be ahead of another. */
static void model_receive(model *m, conn *k, const char *p, size_t n) {
    if (!k->open) return;
    if (k->cut_in == SIZE_MAX && model_fault(m, F_CUT_REQUEST)) k->cut_in = model_random(m, n + 1);
    if (n > k->cut_in) n = k->cut_in;
    if (k->cut_in != SIZE_MAX) k->cut_in -= n;
    assert(k->in_len + n <= sizeof k->in);
    memcpy(k->in + k->in_len, p, n);
    k->in_len += n;
    if (k->in_at == UINT64_MAX) k->in_at = m->now + model_random(m, 4);
}

static void model_run(model *m) {
    conn *k;
    for (k = m->conns; k < m->conns + MODEL_CONNS; k++) {
        if (k->blocked && k->blocked_until <= m->now) model_wake(m, k);
        if (k->open && k->in_at <= m->now) model_execute(m, k);
    }
}

/* Takes at most cap bytes that have arrived at the client by now; -1: the connection has ended. */
static long model_send(model *m, conn *k, char *to, size_t cap) {
    size_t n = 0, ready = k->out_at;
    int i;
    if (k->open && k->authed && m->now >= k->authed_until) {
        m->expired_cuts++;
        model_close(k);
    }
    if (k->open && model_fault(m, F_EXPIRE_NOW)) model_close(k);
    if (!k->open) return -1;
    if (m->now < m->stalled_until) return 0;
    for (i = 0; i < k->chunks && k->chunk[i].at <= m->now; i++) ready = k->chunk[i].end;
    n = ready - k->out_at;
    if (n > cap) n = cap;
    if (n && k->cut_out == SIZE_MAX && model_fault(m, F_CUT_ANSWER)) k->cut_out = model_random(m, n + 1);
    if (n > k->cut_out) n = k->cut_out;
    memcpy(to, k->out + k->out_at, n);
    k->out_at += n;
    if (k->asked && k->out_at >= k->asked_end) model_delivered(m, k);
    if (k->cut_out != SIZE_MAX && (k->cut_out -= n) == 0) model_close(k);
    if (k->open && k->out_at == k->out_len) {
        k->out_at = k->out_len = 0;
        k->chunks = 0;
    }
    return (long)n;
}

/* When something of the server's will next happen. */
static uint64_t model_next(const model *m, const conn *k) {
    uint64_t t = k->in_at;
    int i;
    if (!k->open) return m->now;
    for (i = 0; i < k->chunks; i++)
        if (k->chunk[i].end > k->out_at) { t = k->chunk[i].at; break; }
    if (t < m->stalled_until) t = m->stalled_until;
    if (k->authed && k->authed_until < t) t = k->authed_until;
    if (k->blocked_until < t) t = k->blocked_until;
    return t > m->now ? t : m->now;
}

#include "keys.h"
#endif
