/* What the tests of the pure half share: an allocator that counts, fails on demand and looks at what it gets back;
 * a server that is a script of bytes; what the client wrote, as words. No I/O, no clock, no mbedTLS. */
#ifndef TEST_PURE_H
#define TEST_PURE_H
#ifndef AZREDIS_ONLY_PURE
#  define AZREDIS_ONLY_PURE
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#pragma GCC diagnostic ignored "-Wunused-function"
#include "azredis_entra.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* ---- memory ---- */

static struct {
    size_t      live, calls, fail_at;   /* fail_at: the number of the call that fails; 0: none */
    const char *secret;                 /* looked for in all memory that is given back */
    unsigned    leaks;
} heap;

static int contains(const void *where, size_t n, const char *what) {
    const char *p = (const char *)where;
    size_t i, len = strlen(what);
    for (i = 0; i + len <= n; i++)
        if (p[i] == what[0] && memcmp(p + i, what, len) == 0) return 1;
    return 0;
}

static void *heap_alloc(void *user, size_t n) {
    void *p;
    (void)user;
    if (++heap.calls == heap.fail_at) return NULL;
    p = malloc(n ? n : 1);
    assert_non_null(p);
    memset(p, 0xa5, n);                 /* nobody may count on zeroes */
    heap.live += n;
    return p;
}

static void heap_free(void *user, void *p, size_t n) {
    (void)user;
    assert_non_null(p);
    assert_true(heap.live >= n);
    heap.live -= n;
    if (heap.secret && contains(p, n, heap.secret)) heap.leaks++;
    free(p);
}

static const azri_mem mem = { heap_alloc, heap_free, NULL, NULL };

/* ---- what the client writes ---- */

static struct {
    char   bytes[1 << 18], words[1 << 18], nonce[AZRI_NONCE_LEN + 1];
    size_t len, at;
} wire;

/* Takes at most n bytes, as one TLS record. */
static size_t take(azri_session *s, size_t n, uint64_t now) {
    assert_true(n <= sizeof wire.bytes - wire.len);
    n = azri_session_output(s, wire.bytes + wire.len, n, now, NULL);
    wire.len += n;
    return n;
}

/* A length line "*3" or "$5" at *at; -1: not all of it is there. */
static long wire_count(size_t *at, char mark) {
    char *end, *p = wire.bytes + *at;
    long n;
    if (*at >= wire.len || !memchr(p, '\n', wire.len - *at)) return -1;
    assert_int_equal(*p, mark);
    n = strtol(p + 1, &end, 10);
    assert_memory_equal(end, "\r\n", 2);
    *at = (size_t)(end + 2 - wire.bytes);
    return n;
}

/* One whole command as words behind `out`; a nonce as "N". 0: there is none. */
static int wire_command(char *out) {
    size_t at = wire.at;
    long argc = wire_count(&at, '*'), i, len;
    char *p = out + strlen(out);
    int ping;
    *p = '\0';
    if (argc < 0) return 0;
    if (p != out) p += sprintf(p, ", ");
    for (i = 0, ping = 0; i < argc; i++) {
        if ((len = wire_count(&at, '$')) < 0 || at + (size_t)len + 2 > wire.len) return 0;
        ping |= i == 0 && len == 4 && memcmp(wire.bytes + at, "PING", 4) == 0;
        p += sprintf(p, "%s%.*s", i ? " " : "", i && ping ? 1 : (int)len, i && ping ? "N" : wire.bytes + at);
        if (i && ping) {
            assert_int_equal(len, AZRI_NONCE_LEN);
            assert_memory_not_equal(wire.nonce, wire.bytes + at, AZRI_NONCE_LEN);    /* never the same twice */
            memcpy(wire.nonce, wire.bytes + at, AZRI_NONCE_LEN);
        }
        at += (size_t)len;
        assert_memory_equal(wire.bytes + at, "\r\n", 2);
        at += 2;
    }
    wire.at = at;
    return 1;
}

/* Takes everything that may be written: the commands that became whole since the last time, as words. */
static const char *sent(azri_session *s, uint64_t now) {
    size_t whole;
    while (take(s, 4096, now)) {}
    wire.words[0] = '\0';
    do whole = strlen(wire.words);
    while (wire_command(wire.words));
    wire.words[whole] = '\0';
    if (wire.at == wire.len) wire.at = wire.len = 0;
    return wire.words;
}

/* ---- what the server says ---- */

#define HELLO3 "%3|$6|server|$5|redis|$5|proto|:3|$4|mode|$10|standalone|"
#define WELCOME "+OK|" HELLO3 "+OK|+OK|@|"

/* '|' is CRLF, '@' the nonce that the client sent last. */
static size_t script(char *out, size_t cap, const char *text) {
    size_t n = 0;
    for (; *text; text++) {
        assert_true(n + 64 < cap);
        if (*text == '|') n += (size_t)sprintf(out + n, "\r\n");
        else if (*text == '@') n += (size_t)sprintf(out + n, "$%d\r\n%s", AZRI_NONCE_LEN, wire.nonce);
        else out[n++] = *text;
    }
    return n;
}

/* Puts bytes into the decoder, in pieces of `step`; `frame` gets each frame and returns whether to go on. */
static void hear(azri_session *s, const char *text, size_t step, int (*frame)(const azri_frame *f)) {
    static char bytes[1 << 18];
    size_t n = script(bytes, sizeof bytes, text), at = 0, k = 0;
    azri_frame f;
    azredis_error e;
    char *p = NULL;
    for (;;) {
        azredis_status st = azri_resp_next(&s->resp, &f, &e);
        if (st == AZREDIS_OK) {
            if (!frame(&f)) return;
            continue;
        }
        assert_int_equal(st, AZREDIS_AGAIN);
        if (at == n) return;
        do st = azri_resp_room(&s->resp, 4096, &p, &k);
        while (st == AZREDIS_E_NOMEM);              /* only one allocation fails: see heap.fail_at */
        assert_int_equal(st, AZREDIS_OK);
        k = azri_minz(azri_minz(k, step), n - at);
        memcpy(p, bytes + at, k);
        azri_resp_got(&s->resp, k);
        at += k;
    }
}

static azri_blob *new_token(const char *jwt, uint32_t generation, uint64_t expires_at, uint64_t life_ms) {
    azri_blob *b = azri_blob_new(&mem, "oid", azri_str(jwt));
    assert_non_null(b);
    b->generation = generation;
    b->expires_at = expires_at;
    b->life_ms = life_ms;
    return b;
}

/* How many items of a type the ring holds. */
static int news_count(azri_news *n, azredis_event_type type) {
    unsigned i;
    int found = 0;
    for (i = 0; i < n->count; i++) found += azri_news_at(n, i)->type == type;
    return found;
}

#endif
