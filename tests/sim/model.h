/* A model of one Redis server behind Azure's rules, in virtual time: it authenticates tokens, closes a
 * connection when the last token that it accepted expires, executes commands that carry an id and keeps a ledger
 * of them, and does wrong on request. It shares no code with the header. */
#ifndef AZREDIS_SIM_MODEL_H
#define AZREDIS_SIM_MODEL_H
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MODEL_IDS = 200000, MODEL_PIPE = 1 << 20, MODEL_CHUNKS = 4096, MODEL_TOKENS = 4096 };

typedef enum fault {
    F_CUT_ANSWER, F_CUT_REQUEST, F_AUTH_REJECT, F_AUTH_SILENT, F_AUTH_SLOW, F_STALL, F_REFUSE, F_EXPIRE_NOW, F_ODD_PUSH,
    F_TOKEN_500, F_TOKEN_429, F_TOKEN_CONFIG, F_TOKEN_SAME, F_SLEEP, F_COUNT
} fault;

static const char *const fault_names[F_COUNT] = {
    "cut-answer", "cut-request", "auth-reject", "auth-silent", "auth-slow", "stall", "refuse", "expire-now", "odd-push",
    "token-500", "token-429", "token-config", "token-same", "sleep"
};

typedef struct model {
    uint64_t rng;
    uint64_t now;
    /* the authority */
    struct { uint64_t expires; int refused; } token[MODEL_TOKENS];
    int tokens;
    /* the connection; there is one at most */
    int open, authed, first_auth;
    uint64_t authed_until;
    int subscribed;
    char in[MODEL_PIPE];
    size_t in_len, cut_in;             /* cut_in: bytes it still reads before it cuts; SIZE_MAX: no cut */
    char out[MODEL_PIPE];
    size_t out_len, out_at, cut_out;
    struct { uint64_t at; size_t end; } chunk[MODEL_CHUNKS];
    int chunks;
    uint64_t busy_until, stalled_until;
    /* the ledger */
    uint8_t ran[MODEL_IDS];
    uint64_t published;
    /* wrongs */
    int armed[F_COUNT];
    uint64_t fired[F_COUNT];
    uint64_t slow_ms;
    uint64_t auths, reauths, expired_tokens_seen, expired_cuts, opened;
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

static void model_close(model *m) {
    m->open = m->authed = m->subscribed = 0;
    m->in_len = m->out_len = m->out_at = 0;
    m->chunks = 0;
    m->cut_in = m->cut_out = SIZE_MAX;
}

static int model_accept(model *m) {
    if (model_fault(m, F_REFUSE)) return 0;
    model_close(m);
    m->open = m->first_auth = 1;
    m->busy_until = m->now;
    m->opened++;
    return 1;
}

/* An answer: it leaves when the server is done with what came before, after a little work of its own. */
static void model_say(model *m, const char *text, size_t n) {
    assert(m->out_len + n <= sizeof m->out && m->chunks < MODEL_CHUNKS);
    memcpy(m->out + m->out_len, text, n);
    m->out_len += n;
    if (m->busy_until < m->now) m->busy_until = m->now;
    m->busy_until += model_random(m, 3);
    m->chunk[m->chunks].at = m->busy_until;
    m->chunk[m->chunks++].end = m->out_len;
}

static void model_says(model *m, const char *text) { model_say(m, text, strlen(text)); }

static void model_bulk(model *m, const char *p, size_t n) {
    char head[32];
    char buf[300];
    int k = snprintf(head, sizeof head, "$%u\r\n", (unsigned)n);
    assert((size_t)k + n + 2 <= sizeof buf);
    memcpy(buf, head, (size_t)k);
    memcpy(buf + k, p, n);
    memcpy(buf + k + n, "\r\n", 2);
    model_say(m, buf, (size_t)k + n + 2);
}

typedef struct word { const char *p; size_t n; } word;
static int model_is(word w, const char *z) { return w.n == strlen(z) && memcmp(w.p, z, w.n) == 0; }

/* A token is "token-NNNNNN", its number the index in m->token. */
static void model_auth(model *m, const word *w) {
    int first = m->first_auth;
    unsigned long t = strtoul(w[2].p + 6, NULL, 10);
    m->auths++;
    m->reauths += !first;
    m->first_auth = 0;
    if (t >= (unsigned long)m->tokens) t = 0;
    if (m->token[t].expires <= m->now) m->expired_tokens_seen++;
    if (model_fault(m, F_AUTH_SLOW)) {
        if (m->busy_until < m->now) m->busy_until = m->now;
        m->busy_until += m->slow_ms;
    }
    if (!first && model_fault(m, F_AUTH_SILENT)) return;
    if (model_fault(m, F_AUTH_REJECT)) m->token[t].refused = 1;
    if (m->token[t].refused || m->token[t].expires <= m->now) {
        model_says(m, "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
        return;
    }
    m->authed = 1;
    m->authed_until = m->token[t].expires;
    model_says(m, "+OK\r\n");
}

static void model_command(model *m, int argc, const word *w) {
    unsigned long id;
    char text[200];
    if (model_is(w[0], "AUTH")) { model_auth(m, w); return; }
    if (!m->authed) { model_says(m, "-NOAUTH Authentication required.\r\n"); return; }
    if (model_fault(m, F_ODD_PUSH)) model_says(m, ">2\r\n$4\r\nwhat\r\n:1\r\n");
    if (model_is(w[0], "HELLO")) {
        model_says(m, "%3\r\n$6\r\nserver\r\n$5\r\nmodel\r\n$5\r\nproto\r\n:3\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n");
    } else if (model_is(w[0], "PING")) {
        model_bulk(m, w[1].p, w[1].n);
    } else if (model_is(w[0], "RUN")) {                     /* RUN id: runs once, answers its id */
        id = strtoul(w[1].p, NULL, 10);
        assert(id < MODEL_IDS && m->ran[id] < 255);
        m->ran[id]++;
        model_bulk(m, w[1].p, w[1].n);
    } else if (model_is(w[0], "SUBSCRIBE")) {
        m->subscribed = 1;
        model_says(m, ">3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n");
    } else if (model_is(w[0], "PUBLISH") && argc == 3) {
        m->published++;
        if (m->subscribed) {
            snprintf(text, sizeof text, ">3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$%u\r\n%.*s\r\n", (unsigned)w[2].n, (int)w[2].n, w[2].p);
            model_says(m, text);
        }
        model_says(m, m->subscribed ? ":1\r\n" : ":0\r\n");
    } else {
        model_says(m, "-ERR unknown command\r\n");
    }
}

/* The length of the first whole request in m->in, its words in w; 0: not whole yet. */
static size_t model_parse(const model *m, word *w, int *argc) {
    const char *p = m->in, *end = m->in + m->in_len, *nl;
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
    return (size_t)(p - m->in);
}

/* Bytes from the client. */
static void model_receive(model *m, const char *p, size_t n) {
    word w[8];
    int argc = 0;
    size_t used;
    if (!m->open) return;
    if (m->cut_in == SIZE_MAX && model_fault(m, F_CUT_REQUEST)) m->cut_in = model_random(m, n + 1);
    if (n > m->cut_in) n = m->cut_in;
    if (m->cut_in != SIZE_MAX) m->cut_in -= n;
    assert(m->in_len + n <= sizeof m->in);
    memcpy(m->in + m->in_len, p, n);
    m->in_len += n;
    while ((used = model_parse(m, w, &argc)) != 0) {
        model_command(m, argc, w);
        memmove(m->in, m->in + used, m->in_len - used);
        m->in_len -= used;
    }
    if (m->cut_in == 0) model_close(m);
}

/* Takes at most cap bytes that have arrived at the client by now; -1: the connection has ended. */
static long model_send(model *m, char *to, size_t cap) {
    size_t n = 0, ready = m->out_at;
    int i;
    if (m->open && m->authed && m->now >= m->authed_until) {
        m->expired_cuts++;
        model_close(m);
    }
    if (m->open && model_fault(m, F_EXPIRE_NOW)) model_close(m);
    if (!m->open) return -1;
    if (m->now < m->stalled_until) return 0;
    for (i = 0; i < m->chunks && m->chunk[i].at <= m->now; i++) ready = m->chunk[i].end;
    n = ready - m->out_at;
    if (n > cap) n = cap;
    if (n && m->cut_out == SIZE_MAX && model_fault(m, F_CUT_ANSWER)) m->cut_out = model_random(m, n + 1);
    if (n > m->cut_out) n = m->cut_out;
    memcpy(to, m->out + m->out_at, n);
    m->out_at += n;
    if (m->cut_out != SIZE_MAX && (m->cut_out -= n) == 0) model_close(m);
    if (m->open && m->out_at == m->out_len) {
        m->out_at = m->out_len = 0;
        m->chunks = 0;
    }
    return (long)n;
}

/* When something of the server's will next happen. */
static uint64_t model_next(const model *m) {
    uint64_t t = UINT64_MAX;
    int i;
    if (!m->open) return m->now;
    for (i = 0; i < m->chunks; i++)
        if (m->chunk[i].end > m->out_at) { t = m->chunk[i].at; break; }
    if (t < m->stalled_until) t = m->stalled_until;
    if (m->authed && m->authed_until < t) t = m->authed_until;
    return t > m->now ? t : m->now;
}
#endif
