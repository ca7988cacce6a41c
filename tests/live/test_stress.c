/* 32 threads with mixed commands on one client, through renewals and through cuts of the connection.
 *   cc -std=gnu11 -I. tests/live/test_stress.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread
 * Environment (what `make stress` sets): STRESS_COMMANDS per thread (2000), STRESS_RENEWALS (2), STRESS_CUTS (3),
 * STRESS_TTL, a token's life in seconds (5).
 * Whatever counts carries a number of its own into a hash of the server: HINCRBY answers 1, and 2 if the number was there.
 * So the server itself is the witness that nothing ran twice, whoever repeated it. */
#include "azredis_entra.h"
#include "live.h"
#include <stdatomic.h>

#define THREADS 32
#define KEYS    8                       /* of each thread */
#define HEALTHY 10500                   /* ms after which a connection counts as good: many cuts sooner mean longer pauses */
#define AT_ONCE 4                       /* commands of one thread under way: three of an exec, one submitted */

static live em;
static azredis_client *client;
static atomic_int enough;               /* renewals and cuts have been: who has its commands behind it may go */
static atomic_int behind;

static int64_t setting(const char *name, int64_t otherwise)
{
    const char *z = getenv(name);
    return z && *z ? atoll(z) : otherwise;
}

static int setup(void **state)
{
    const char *ttl = getenv("STRESS_TTL");
    (void)state;
    live_start(&em, "--token-ttl", ttl && *ttl ? ttl : "5", NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_close(client);
    client = NULL;
    live_stop(&em);
    return 0;
}

/* ---- one thread ------------------------------------------------------------------------------- */

typedef struct worker {
    pthread_t       thread;
    int             number;
    int64_t         want, calls, ok, unknown, not_sent;
    int64_t         counted, counted_unknown;   /* of the commands that count */
    int64_t         wrong;                      /* answers that are not its own */
    char            why[160];                   /* the first of them */
    pthread_mutex_t lock;                       /* guards what a submitted command's callback tells */
    pthread_cond_t  ended;
    int             under_way;
} worker;

static void wrong(worker *w, const char *what, const azredis_value *v)
{
    azredis_str text = azredis_text(v);
    if (!w->wrong++)
        snprintf(w->why, sizeof w->why, "thread %d, %s: type %d, '%.*s'", w->number, what, v ? (int)v->type : -1,
                 (int)(text.len < 80 ? text.len : 80), text.ptr ? text.ptr : "");
}

/* How `commands` of it ended, of which `counting` count. 1: there is an answer to look at. */
static int ended(worker *w, const azredis_reply *r, int commands, int counting)
{
    w->calls += commands;
    if (r->status == AZREDIS_OK) {
        w->ok += commands;
        w->counted += counting;
        return 1;
    }
    if (r->fate == AZREDIS_MAYBE_RUN) {
        w->unknown += commands;
        w->counted_unknown += counting;
    } else if (r->fate == AZREDIS_NOT_SENT) {
        w->not_sent += commands;
    } else {
        wrong(w, r->error->message, r->value);
    }
    return 0;
}

static void is_one(worker *w, const char *what, const azredis_value *v)
{
    int64_t n = 0;
    if (azredis_int(v, &n) != AZREDIS_OK || n != 1) wrong(w, what, v);
}

/* A value begins with the name of its key; nil before the first SET. */
static void is_of(worker *w, const char *what, const azredis_value *v, const char *key)
{
    azredis_str text = azredis_text(v);
    size_t n = strlen(key);
    if (v->type == AZREDIS_T_NIL) return;
    if (text.len <= n || memcmp(text.ptr, key, n) != 0 || text.ptr[n] != '=') wrong(w, what, v);
}

static void on_counted(azredis_client *c, const azredis_reply *r, void *user)
{
    worker *w = user;
    (void)c;
    pthread_mutex_lock(&w->lock);
    if (ended(w, r, 1, 1)) is_one(w, "a submitted HINCRBY", r->value);
    w->under_way = 0;
    pthread_cond_signal(&w->ended);
    pthread_mutex_unlock(&w->lock);
}

static azredis_str str(const char *z) { return (azredis_str){z, strlen(z)}; }

/* Submitted, one at a time. */
static void count_later(worker *w, const char *seen, const char *id)
{
    const azredis_str argv[4] = {{"HINCRBY", 7}, str(seen), str(id), {"1", 1}};
    while (w->under_way) pthread_cond_wait(&w->ended, &w->lock);
    w->under_way = azredis_submit(client, NULL, 4, argv, on_counted, w) == AZREDIS_OK;
    if (!w->under_way) wrong(w, "azredis_submit", NULL);
}

/* Three in one flight. */
static void count_amid(worker *w, azredis_reply *r, const char *key, const char *seen, const char *id)
{
    const azredis_str get[2] = {{"GET", 3}, str(key)}, echo[2] = {{"ECHO", 4}, str(id)};
    const azredis_str count[4] = {{"HINCRBY", 7}, str(seen), str(id), {"1", 1}};
    const azredis_cmd cmd[3] = {{2, get}, {4, count}, {2, echo}};
    (void)azredis_exec(client, r, NULL, cmd, 3);
    pthread_mutex_lock(&w->lock);
    if (ended(w, r, 3, 1)) {
        azredis_str text = azredis_text(&r->value->as.items[2]);
        is_of(w, "GET in an exec", &r->value->as.items[0], key);
        is_one(w, "HINCRBY in an exec", &r->value->as.items[1]);
        if (text.len != strlen(id) || memcmp(text.ptr, id, text.len) != 0) wrong(w, "ECHO", &r->value->as.items[2]);
    }
    pthread_mutex_unlock(&w->lock);
}

static void plain(worker *w, azredis_reply *r, int kind, const char *key, const char *other, const char *seen, const char *id)
{
    char value[64], hash[16];
    snprintf(value, sizeof value, "%s=%s", key, id);
    snprintf(hash, sizeof hash, "h:%d", w->number);
    if (kind == 0) (void)azredis_command(client, r, "SET", key, value);
    else if (kind == 1) (void)azredis_command(client, r, "GET", key);
    else if (kind == 2) (void)azredis_command(client, r, "MGET", key, other);
    else if (kind == 3) (void)azredis_command(client, r, "HSET", hash, key, value);
    else (void)azredis_command(client, r, "HINCRBY", seen, id, "1");
    pthread_mutex_lock(&w->lock);
    if (ended(w, r, 1, kind == 4)) {
        if (kind == 1) is_of(w, "GET", r->value, key);
        if (kind == 2) is_of(w, "MGET", &r->value->as.items[0], key);
        if (kind == 2) is_of(w, "MGET", &r->value->as.items[1], other);
        if (kind == 4) is_one(w, "HINCRBY", r->value);
    }
    pthread_mutex_unlock(&w->lock);
}

static void *work(void *user)
{
    worker *w = user;
    azredis_reply r = {0};
    char key[24], other[24], seen[24], id[24];
    int64_t i, calls;
    for (i = calls = 0; calls < w->want || !atomic_load(&enough); i++) {
        snprintf(key, sizeof key, "k:%d:%d", w->number, (int)(i / 7 % KEYS));
        snprintf(other, sizeof other, "k:%d:%d", (int)(i % THREADS), (int)(i % KEYS));
        snprintf(seen, sizeof seen, "seen:%d", w->number);
        snprintf(id, sizeof id, "%lld", (long long)i);
        if (i % 7 == 5) count_amid(w, &r, key, seen, id);
        else if (i % 7 < 6) plain(w, &r, (int)(i % 7), key, other, seen, id);
        pthread_mutex_lock(&w->lock);
        if (i % 7 == 6) count_later(w, seen, id);
        if (calls < w->want && w->calls >= w->want) atomic_fetch_add(&behind, 1);
        calls = w->calls;
        pthread_mutex_unlock(&w->lock);
        if (calls >= w->want) live_nap(1);              /* only to be there at the next renewal or cut */
    }
    pthread_mutex_lock(&w->lock);
    while (w->under_way) pthread_cond_wait(&w->ended, &w->lock);
    pthread_mutex_unlock(&w->lock);
    azredis_reply_free(&r);
    return NULL;
}

/* ---- all of them ------------------------------------------------------------------------------ */

/* The server's own word: each number once, and how many there are. */
static int64_t witnessed(int number)
{
    azredis_reply r = {0};
    char seen[24];
    int64_t n, count;
    uint32_t i;
    snprintf(seen, sizeof seen, "seen:%d", number);
    if (azredis_command(client, &r, "HVALS", seen) != AZREDIS_OK) fail_msg("HVALS: %s", r.error->message);
    count = r.value->len;
    for (i = 0; i < r.value->len; i++) {
        assert_int_equal(azredis_int(&r.value->as.items[i], &n), AZREDIS_OK);
        assert_int_equal(n, 1);
    }
    azredis_reply_free(&r);
    return count;
}

static void cut_often(int64_t cuts)
{
    int64_t i;
    char more[8];
    for (i = 1; i <= cuts; i++) {
        await(live_connected(client), LIVE_SOON);
        snprintf(more, sizeof more, "%d", (int)(i * 977 % 5000));
        live_fault(&em, "cut", more, "1");
        await(live_stats(client).reconnects >= (uint32_t)i, LIVE_SOON);
        live_nap(cuts > 3 ? HEALTHY : 50);              /* something flows in between */
    }
    assert_int_equal(live_fired(&em, "cut"), cuts);
}

static void run(int protocol, int64_t cuts)
{
    static worker all[THREADS];
    azredis_options o = {.protocol = protocol};
    azredis_stats_data d;
    int64_t want = setting("STRESS_COMMANDS", 2000), renewals = setting("STRESS_RENEWALS", 2), began, took;
    int64_t calls = 0, unknown = 0, not_sent = 0, counted;
    int i;
    client = live_new(&em, &o);
    assert_int_equal(azredis_start(client), AZREDIS_OK);
    assert_int_equal(azredis_connect(client, LIVE_SOON, NULL), AZREDIS_OK);
    memset(all, 0, sizeof all);
    atomic_store(&enough, 0);
    atomic_store(&behind, 0);
    began = live_ms();
    for (i = 0; i < THREADS; i++) {
        all[i].number = i;
        all[i].want = want;
        pthread_mutex_init(&all[i].lock, NULL);
        pthread_cond_init(&all[i].ended, NULL);
        assert_int_equal(pthread_create(&all[i].thread, NULL, work, &all[i]), 0);
    }
    cut_often(cuts);
    await(atomic_load(&behind) == THREADS, 3600000);
    took = live_ms() - began;
    await(live_number(&em, "tokens_issued") > renewals, 600000);
    if (!cuts) await(live_stats(client).reauths >= (uint32_t)renewals, LIVE_SOON);
    atomic_store(&enough, 1);
    for (i = 0; i < THREADS; i++) assert_int_equal(pthread_join(all[i].thread, NULL), 0);
    d = live_stats(client);
    for (i = 0; i < THREADS; i++) {
        worker *w = &all[i];
        if (w->wrong) fail_msg("%d wrong answers: %s", (int)w->wrong, w->why);
        assert_int_equal(w->calls, w->ok + w->unknown + w->not_sent);
        assert_true(w->unknown <= cuts * AT_ONCE);      /* what it had in flight */
        counted = witnessed(i);
        assert_in_range(counted, w->counted, w->counted + w->counted_unknown);
        calls += w->calls;
        unknown += w->unknown;
        not_sent += w->not_sent;
    }
    print_message("RESP%d: %d threads, %d commands, %d a second while all had some left, %d tokens, %d cuts, %d unknown\n",
                  protocol, THREADS, (int)calls, (int)(want * THREADS * 1000 / (took ? took : 1)),
                  (int)live_number(&em, "tokens_issued"), (int)cuts, (int)unknown);
    assert_int_equal(not_sent, 0);                      /* they waited for the next connection */
    if (d.reconnects != cuts) live_print_events(&live_seen);
    assert_int_equal(d.reconnects, cuts);
    if (cuts) return;
    assert_int_equal(unknown, 0);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
}

static void test_renewals_resp3(void **state) { (void)state; run(3, 0); }
static void test_renewals_resp2(void **state) { (void)state; run(2, 0); }
static void test_cuts_resp3(void **state) { (void)state; run(3, setting("STRESS_CUTS", 3)); }
static void test_cuts_resp2(void **state) { (void)state; run(2, setting("STRESS_CUTS", 3)); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_renewals_resp3, setup, teardown),
        cmocka_unit_test_setup_teardown(test_renewals_resp2, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cuts_resp3, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cuts_resp2, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
