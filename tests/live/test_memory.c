/* Memory. Every allocation of connect + PING fails in turn, alone and with all that follow it: the library's own
 * through the port, then all of the process (mbedTLS, libc) through malloc. Each run ends in time with a status
 * that says so, or succeeds; nothing is leaked; the next run works. And a hundred clients one after another
 * leave the process as it was.
 * A TLS handshake of mbedTLS 2.28 allocates 7800 times, 7700 of them for big numbers, from few places. Of these
 * the first and the last of every call path fail, and every 17th of all. MEMORY_ALL=1 takes every single one
 * (2 minutes), MEMORY_SHOW=1 tells of each run. */
#define _GNU_SOURCE
#include "azredis_entra.h"
#include <dirent.h>
#include <execinfo.h>
#include <malloc.h>
#include <mbedtls/version.h>
#if MBEDTLS_VERSION_MAJOR >= 3
#  include <psa/crypto.h>
#endif
#include "live.h"

/* ---- failing at will ------------------------------------------------------------------------- */

typedef struct failing {
    _Atomic int  on;
    _Atomic long calls;                 /* since on was set */
    long         at;                    /* this call fails; 0: none */
    int          all;                   /* and all after it */
    _Atomic long failed;
    _Atomic long blocks, bytes;         /* outstanding */
    int          trace;                 /* 1: path[] is being filled */
} failing;

#define PATHS 20000
static uint64_t path[PATHS];            /* of each allocation: a hash of the call path */

static failing port_memory, heap;

static int fails(failing *f) {
    long n;
    if (!f->on)
        return 0;
    n = ++f->calls;
    if (f->trace && n < PATHS) {
        void *frame[24];
        int depth, i;
        f->trace = 0;                   /* should it allocate itself */
        depth = backtrace(frame, 24);
        for (i = 0; i < depth; i++) path[n] = (path[n] ^ (uintptr_t)frame[i]) * 0x100000001b3u;
        f->trace = 1;
    }
    if (!f->at || n < f->at || (n > f->at && !f->all))
        return 0;
    f->failed++;
    return 1;
}

/* mbedTLS 3.6 seeds the generator of its PSA half anew after every 10000 requests of the process, and if memory lacks
 * just then, the next request crashes (mbedtls_entropy_func leaves its hash freed). So it never falls due in a run. */
static void seed_psa(void) {
#if MBEDTLS_VERSION_NUMBER >= 0x03060600
    assert_int_equal(psa_crypto_init(), PSA_SUCCESS);
    assert_int_equal(psa_random_reseed(NULL, 0), PSA_SUCCESS);
#endif
}

static void arm(failing *f, long at, int all) {
    f->on = 0;
    seed_psa();
    f->calls = f->failed = 0;
    f->at = at;
    f->all = all;
    f->on = 1;
}

static void *port_alloc(void *user, size_t n) {
    void *p;
    (void)user;
    if (fails(&port_memory))
        return NULL;
    p = malloc(n ? n : 1);
    if (!p)
        return NULL;
    memset(p, 0xa5, n);                 /* nobody may count on zeros */
    port_memory.bytes += (long)n;
    port_memory.blocks++;
    return p;
}

static void port_free(void *user, void *p, size_t n) {
    (void)user;
    port_memory.bytes -= (long)n;
    port_memory.blocks--;
    memset(p, 0x5a, n);                 /* n must be what was asked for, and nobody may look again */
    free(p);
}

static const azredis_port port = {.alloc = port_alloc, .free = port_free};

#if !LIVE_SANITIZED
/* The process's own malloc: libc's, counted. It is mbedTLS's too, and that of every library here. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);
extern void __libc_free(void *p);

static void *given(void *p) {
    if (p)
        heap.blocks++;
    return p;
}

void *malloc(size_t n) {
    if (fails(&heap)) {
        errno = ENOMEM;
        return NULL;
    }
    return given(__libc_malloc(n));
}

void *calloc(size_t n, size_t size) {
    if (fails(&heap)) {
        errno = ENOMEM;
        return NULL;
    }
    return given(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n) {
    void *q;
    if (!p)
        return malloc(n);
    if (fails(&heap)) {
        errno = ENOMEM;
        return NULL;
    }
    q = __libc_realloc(p, n);
    if (!q && !n)
        heap.blocks--;
    return q;
}

void *memalign(size_t align, size_t n) { return given(__libc_memalign(align, n)); }
void *aligned_alloc(size_t align, size_t n) { return given(__libc_memalign(align, n)); }
int posix_memalign(void **out, size_t align, size_t n) { return (*out = given(__libc_memalign(align, n))) ? 0 : ENOMEM; }

void free(void *p) {
    if (p)
        heap.blocks--;
    __libc_free(p);
}
#endif

/* ---- one run --------------------------------------------------------------------------------- */

#define RUN_MS 3000                     /* connect, and PING again */

static live em;
static azredis_client *client;
static uint32_t chain_ms;               /* of the walk for a token */

static int tells_of_memory(const azredis_error *e) { return e->code == AZREDIS_E_NOMEM || strstr(e->message, "memory"); }

static int broken_handshakes;           /* of this run: see mbedtls_leak */

static void on_event(const azredis_event *ev, void *user) {
    (void)user;
    broken_handshakes += ev->error && ev->error->tls_code == -0x6e00;
    if (ev->error && (ev->error->code >= 0 || !ev->error->where || !ev->error->message[0]))
        fail_msg("%s with an empty error", azredis_event_name(ev->type));
}

typedef enum part { CONNECT_BY_SECRET, CONNECT_BY_KEY, TOKEN_ONLY } part;

/* From open to close. What it ended with; *e is zeroed on success and when there is no object to ask. */
static azredis_status run(part which, const azredis_port *p, azredis_error *e) {
    azredis_auth_options id;
    azredis_options o;
    azredis_reply r;
    azredis_token t;
    azredis_auth *a;
    azredis_status st;
    memset(e, 0, sizeof *e);
    memset(&id, 0, sizeof id);
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    broken_handshakes = 0;
    id.chain_ms = chain_ms;
    if (which == TOKEN_ONLY) {
        int64_t until = live_ms() + RUN_MS;
        id.identity = AZREDIS_ID_ENVIRONMENT;
        id.port = p;
        id.on_event = on_event;
        a = azredis_auth_open(&id);
        if (!a)
            return AZREDIS_E_NOMEM;
        /* In small steps, to meet the first failure and not the end of the waiting for a second try. */
        do st = azredis_auth_token(a, &t, 5, e);
        while (st == AZREDIS_AGAIN && e->code == AZREDIS_AGAIN && live_ms() < until);
        if (st == AZREDIS_AGAIN)
            st = e->code;
        if (st == AZREDIS_OK)
            memset(e, 0, sizeof *e);
        if (st == AZREDIS_OK && (t.jwt_len < 100 || strlen(t.jwt) != t.jwt_len || strcmp(t.user, em.oid) != 0))
            fail_msg("a token that is none");
        azredis_token_wipe(&t);
        azredis_auth_release(a);
        return st;
    }
    id.identity = which == CONNECT_BY_KEY ? AZREDIS_ID_ACCESS_KEY : AZREDIS_ID_ENVIRONMENT;
    id.password = getenv("AZREDIS_ACCESS_KEY");
    o.host = em.endpoint;
    o.identity = &id;
    o.port = p;
    o.on_event = on_event;
    o.abort_on_connect_fail = 1;        /* the first failure ends the run */
    o.connect_retry = 1;
    o.client_name = "memory";
    client = azredis_open(&o);
    if (!client)
        return AZREDIS_E_NOMEM;
    st = azredis_connect(client, RUN_MS, e);
    if (st == AZREDIS_OK) {
        st = azredis_command(client, &r, "PING");
        if (st != r.status || (st != AZREDIS_OK) != (r.error != NULL))
            fail_msg("status %d, in the reply %d, error %p", (int)st, (int)r.status, (const void *)r.error);
        if (st == AZREDIS_OK && strcmp(azredis_text(r.value).ptr, "PONG") != 0)
            fail_msg("PING was answered with %s", azredis_text(r.value).ptr);
        if (r.error)
            *e = *r.error;
    }
    azredis_reply_free(&r);
    azredis_close(client);
    client = NULL;
    return st;
}

static int count_dir(const char *path) {
    DIR *d = opendir(path);
    struct dirent *e;
    int n = 0;
    assert_non_null(d);
    while ((e = readdir(d))) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* The fewest in 50 ms; a sanitizer has one of its own from the first thread on. */
static int quiet_threads(void) {
    int64_t until = live_ms() + 50;
    int n = count_dir("/proc/self/task");
    while (live_ms() < until) {
        int now = count_dir("/proc/self/task");
        n = now < n ? now : n;
        live_nap(5);
    }
    return n;
}

/* Look-up threads end by themselves, a moment later; the blocks of a thread that ended count until then. */
static void settle(int threads) { await(count_dir("/proc/self/task") <= threads, LIVE_SOON); }

/* Which of n allocations are worth a run: the first and the last of each call path, and every 17th. */
static char worth[PATHS];

static long choose(long n) {
    long i, k, count = 0;
    if (n >= PATHS)
        fail_msg("%ld allocations are more than were thought of", n);
    for (i = 1; i <= n; i++) {
        int first = 1, last = 1;
        for (k = 1; k < i && first; k++) first = path[k] != path[i];
        for (k = i + 1; k <= n && last; k++) last = path[k] != path[i];
        worth[i] = first || last || i % 17 == 0 || getenv("MEMORY_ALL") != NULL;
        count += worth[i];
    }
    memset(worth + n + 1, 1, (size_t)(PATHS - n - 1));
    return count;
}

static long wrong;                      /* runs of this test that ended as they must not */

/* mbedTLS does not always say that memory was what it lacked, nor does libc's resolver: a verdict on a certificate,
 * an alert, an unknown host come out instead. Nobody can tell those from the real thing. But a code that does say
 * so must be passed on as what it is. */
static int is_masked(const azredis_error *e, int *coded) {
    int low = -e->tls_code & 0x7f, high = -e->tls_code & 0x7f80;
    *coded = e->tls_code < 0 && (low == 0x10 || low == 0x6a || high == 0x7f00 || high == 0x6180 || high == 0x5180 ||
                                 high == 0x4d80 || high == 0x3f80 || high == 0x2880 || high == 0x1180);
    if (e->code == AZREDIS_E_DNS)
        return strstr(e->message, "look-up of localhost") != NULL;
    return e->code == AZREDIS_E_TLS || e->code == AZREDIS_E_CERT || e->code == AZREDIS_E_CLOSED;
}

/* How many blocks mbedTLS itself may have lost in this run: 3.6 frees the keys of a TLS 1.3 handshake without what hangs
 * on them when they cannot be made (cleanup in ssl_tls13_keys.c), and calls it a handshake failure. Events tell of it even
 * where the run ends with a later error. */
static long mbedtls_leak(void) { return MBEDTLS_VERSION_NUMBER >= 0x03000000 ? 3 * broken_handshakes : 0; }

/* Notes it and goes on: one bug seldom has one place only. */
static void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *format, ...) {
    char text[800];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (wrong++ < 40 || getenv("MEMORY_SHOW"))
        print_error("%s\n", text);
}

/* The k-th fails, for every k that comes to pass, of whatever f counts. Returns how many there were. */
static long every_one(part which, const azredis_port *p, failing *f, int all) {
    const char *name = which == TOKEN_ONLY ? "token" : which == CONNECT_BY_KEY ? "key" : "secret";
    long k, runs = 0, survived = 0, told = 0, masked = 0, blocks;
    int coded, fds, threads;
    azredis_error e;
    azredis_status st;
    for (k = 0; k < 2; k++) {           /* warms up what libc keeps for ever */
        st = run(which, p, &e);
        if (st != AZREDIS_OK)
            fail_msg("without a failure: %s", e.message);
    }
    threads = quiet_threads();
    blocks = f->blocks;
    fds = count_dir("/proc/self/fd");
    memset(worth, 1, sizeof worth);
    if (f == &heap) {
        memset(path, 0, sizeof path);
        arm(f, 0, 0);
        f->trace = 1;
        (void)run(which, p, &e);
        f->on = f->trace = 0;
        k = choose(f->calls);
        settle(threads);
        print_message("%s: %ld allocations, of which %ld fail\n", name, (long)f->calls, k);
    }
    for (k = 1;; k++) {
        if (k < PATHS && !worth[k])
            continue;
        int64_t start = live_ms();
        char what[80];
        chain_ms = 550;                 /* a failure within it leaves no time for a second try */
        arm(f, k, all);
        st = run(which, p, &e);
        f->on = 0;
        if (st == AZREDIS_E_TIMEOUT && live_ms() - start < RUN_MS) {
            chain_ms = 0;               /* a slow machine: without a limit, then */
            start = live_ms();
            arm(f, k, all);
            st = run(which, p, &e);
            f->on = 0;
        }
        if (!f->failed)
            break;
        runs++;
        snprintf(what, sizeof what, "%s: allocation %ld%s fails", name, k, all ? " and all after it" : "");
        if (getenv("MEMORY_SHOW"))
            print_message("%s: %d ms, %d [%s] %s\n", what, (int)(live_ms() - start), (int)st, e.where ? e.where : "",
                          e.message);
        if (live_ms() - start > RUN_MS - 500)
            complain("%s: it took %d ms", what, (int)(live_ms() - start));
        if (st == AZREDIS_OK)
            survived++;
        else if (st == AZREDIS_E_NOMEM || tells_of_memory(&e))
            told++;
        else if (f == &heap && is_masked(&e, &coded) && !coded)
            masked++;
        else
            complain("%s: told as %s: [%s] %s", what, azredis_status_text(st), e.where ? e.where : "?", e.message);
        if (e.code != AZREDIS_OK && !e.retryable && !(f == &heap && e.code == AZREDIS_E_CERT))
            complain("%s: memory may come back, but it is told as lasting: %s", what, e.message);
        settle(threads);
        if (f->blocks - blocks > mbedtls_leak() || f->blocks < blocks)
            complain("%s: %ld blocks leaked (%s)", what, (long)f->blocks - blocks, e.message);
        blocks = f->blocks;
        if (count_dir("/proc/self/fd") != fds)
            complain("%s: %d descriptors instead of %d", what, count_dir("/proc/self/fd"), fds);
        fds = count_dir("/proc/self/fd");
    }
    if (st != AZREDIS_OK)               /* the last run met no failure */
        complain("%s: after all that: %s", name, e.message);
    assert_true(told > 0);
    print_message("%s%s: %ld failed in turn, %ld told, %ld survived, %ld masked\n", name,
                  all ? " (and all after)" : "", runs, told, survived, masked);
    return runs;
}

static void test_port_once(void **state) {
    (void)state;
    assert_true(every_one(CONNECT_BY_SECRET, &port, &port_memory, 0) > 20);
    assert_int_equal(port_memory.bytes, 0);
    assert_int_equal(wrong, 0);
}

static void test_port_from_then_on(void **state) {
    (void)state;
    assert_true(every_one(CONNECT_BY_SECRET, &port, &port_memory, 1) > 20);
    assert_int_equal(port_memory.bytes, 0);
    assert_int_equal(wrong, 0);
}

#if !LIVE_SANITIZED
/* The two halves apart: each k of the second half would otherwise pay for the first as well. */
static void test_heap(void **state) {
    (void)state;
    assert_true(every_one(TOKEN_ONLY, NULL, &heap, 0) > 100);
    assert_true(every_one(TOKEN_ONLY, NULL, &heap, 1) > 100);
    assert_int_equal(wrong, 0);
}

static void test_heap_connect(void **state) {
    (void)state;
    assert_true(every_one(CONNECT_BY_KEY, NULL, &heap, 0) > 100);
    assert_true(every_one(CONNECT_BY_KEY, NULL, &heap, 1) > 100);
    assert_int_equal(wrong, 0);
}
#endif

/* ---- a hundred clients ----------------------------------------------------------------------- */

static void test_hundred_cycles(void **state) {
    azredis_error e;
    long blocks = 0, first = 0;
    int i, fds = 0, threads = 0;
    (void)state;
    for (i = 0; i < 110; i++) {
        if (run(i % 2 ? CONNECT_BY_SECRET : CONNECT_BY_KEY, &port, &e) != AZREDIS_OK)
            fail_msg("cycle %d: %s", i, e.message);
        assert_int_equal(port_memory.bytes, 0);
        assert_int_equal(port_memory.blocks, 0);
        if (i == 9) {                   /* what libc keeps, it has by now */
            threads = quiet_threads();
            blocks = heap.blocks;
            fds = count_dir("/proc/self/fd");
            first = (long)mallinfo2().uordblks;
        }
    }
    settle(threads);
    assert_int_equal(count_dir("/proc/self/fd"), fds);
    assert_int_equal(count_dir("/proc/self/task"), threads);
    assert_int_equal(heap.blocks, blocks);
    /* What malloc keeps in its caches counts as used; with mbedTLS 3.6 it settles 10 KB higher, blocks being the same. */
    if (!LIVE_SANITIZED && (long)mallinfo2().uordblks > first + 16384)
        fail_msg("the heap grew by %ld bytes in 100 cycles", (long)mallinfo2().uordblks - first);
}

static int setup(void **state) {
    void *frame[4];
    (void)state;
    (void)!backtrace(frame, 4);         /* loads what it needs */
    live_start(&em, "--access-key", NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    live_stop(&em);
    return 0;
}

static int forget(void **state) {
    (void)state;
    heap.on = port_memory.on = 0;
    wrong = 0;
    azredis_close(client);
    client = NULL;
    port_memory.bytes = port_memory.blocks = 0;
    return 0;
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup(f, forget)
    const struct CMUnitTest tests[] = {
        TEST(test_hundred_cycles),
        TEST(test_port_once),
        TEST(test_port_from_then_on),
#if !LIVE_SANITIZED
        TEST(test_heap),
        TEST(test_heap_connect),
#endif
    };
    return cmocka_run_group_tests_name("memory", tests, setup, teardown);
}
