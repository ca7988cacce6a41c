/* azredis_start: calls from many threads on one client, and a client that lives while nobody calls.
 *   cc -std=gnu11 -I. tests/live/test_threads.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread
 * Environment: THREADS_CALLS, calls that each thread of the big tests makes at least (10000). */
#include "azredis_entra.h"
#include "live.h"
#include <stdatomic.h>

#define THREADS 8
#define CUTS    3
#ifndef RENEWALS
#define RENEWALS 5                      /* while the callers call */
#endif

static live em;
static azredis_client *client;          /* closed by the teardown if the test failed before */

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "5", NULL);
    return 0;
}

static int setup_hour(void **state)
{
    (void)state;
    live_start(&em, NULL);
    return 0;
}

static void done(void)
{
    azredis_close(client);
    client = NULL;
}

static int teardown(void **state)
{
    (void)state;
    done();
    live_stop(&em);
    return 0;
}

static void begin(azredis_options *o)
{
    client = live_new(&em, o);
    assert_int_equal(azredis_start(client), AZREDIS_OK);
}

static int64_t calls_wanted(void)
{
    const char *z = getenv("THREADS_CALLS");
    return z ? atoll(z) : 10000;
}

/* ---- many callers ----------------------------------------------------------------------------- */

typedef struct caller {
    pthread_t thread;
    int       number;
    int64_t   at_least;
    int64_t   acknowledged, maybe, not_sent, last, wrong;
} caller;

static atomic_int enough;               /* callers with their calls behind them may go */
static atomic_int behind;               /* how many have them behind them */

/* Each thread has a counter of its own, whose answers must count up by one: one that went to a wrong caller shows. */
static void *count_up(void *user)
{
    caller *k = user;
    azredis_reply r = {0};
    char key[16];
    int64_t n = 0, calls = 0;
    snprintf(key, sizeof key, "own:%d", k->number);
    /* No test costs a thread more calls than it has cuts; with more lost it has failed, and need not go on. */
    while ((calls < k->at_least || !atomic_load(&enough)) && k->maybe + k->not_sent <= CUTS) {
        if (azredis_command(client, &r, "INCR", key) == AZREDIS_OK) {
            k->acknowledged++;
            if (azredis_int(r.value, &n) != AZREDIS_OK || n <= k->last || n > k->last + 1 + k->maybe) k->wrong++;
            k->last = n;
        } else if (r.fate == AZREDIS_MAYBE_RUN) {
            k->maybe++;
        } else {
            k->not_sent++;
        }
        if (++calls == k->at_least) atomic_fetch_add(&behind, 1);
    }
    if (calls < k->at_least) atomic_fetch_add(&behind, 1);
    azredis_reply_free(&r);
    return NULL;
}

static void run_callers(caller *k, int64_t at_least)
{
    int i;
    atomic_store(&enough, 0);
    atomic_store(&behind, 0);
    memset(k, 0, THREADS * sizeof *k);
    for (i = 0; i < THREADS; i++) {
        k[i].number = i;
        k[i].at_least = at_least;
        assert_int_equal(pthread_create(&k[i].thread, NULL, count_up, &k[i]), 0);
    }
}

/* Each counter of the server lies between what was acknowledged and that plus the unknown. The sum in *all. */
static void join_callers(caller *k, caller *all)
{
    char key[16];
    long n;
    int i;
    atomic_store(&enough, 1);
    memset(all, 0, sizeof *all);
    for (i = 0; i < THREADS; i++) assert_int_equal(pthread_join(k[i].thread, NULL), 0);
    for (i = 0; i < THREADS; i++) {
        snprintf(key, sizeof key, "own:%d", i);
        n = live_get_number(&em, key);
        assert_int_equal(k[i].wrong, 0);
        assert_true(n >= k[i].acknowledged);
        assert_true(n <= k[i].acknowledged + k[i].maybe);
        all->acknowledged += k[i].acknowledged;
        all->maybe += k[i].maybe;
        all->not_sent += k[i].not_sent;
    }
}

static void test_case49_one_line_for_all(void **state)
{
    azredis_options o = {0};
    caller k[THREADS], all;
    (void)state;
    begin(&o);
    run_callers(k, calls_wanted() / 5);
    join_callers(k, &all);
    assert_int_equal(all.acknowledged, THREADS * (calls_wanted() / 5));
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    assert_int_equal(live_stats(client).commands_ok, all.acknowledged);
    done();
}

static void test_renewals_under_load(void **state)
{
    azredis_options o = {0};
    azredis_stats_data d;
    caller k[THREADS], all;
    (void)state;
    begin(&o);
    run_callers(k, calls_wanted());
    await(live_stats(client).reauths >= RENEWALS && atomic_load(&behind) == THREADS, 60000);
    join_callers(k, &all);
    d = live_stats(client);
    assert_int_equal(all.maybe + all.not_sent, 0);
    assert_int_equal(d.reconnects, 0);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    assert_true(live_number(&em, "reauths_accepted") >= RENEWALS);
    done();
}

static void test_renewals_and_cuts_under_load(void **state)
{
    azredis_options o = {0};
    caller k[THREADS], all;
    int cuts;
    (void)state;
    begin(&o);
    run_callers(k, calls_wanted());
    for (cuts = 1; cuts <= CUTS; cuts++) {
        await(live_connected(client), LIVE_SOON);
        live_fault(&em, "cut", "40", "1");
        await(live_fired(&em, "cut") == cuts, LIVE_SOON);
        await(live_stats(client).reconnects >= (uint32_t)cuts, LIVE_SOON);
    }
    await(live_number(&em, "tokens_issued") > RENEWALS && atomic_load(&behind) == THREADS, 60000);
    join_callers(k, &all);
    assert_int_equal(all.not_sent, 0);              /* those not sent waited for the next connection */
    assert_true(all.maybe <= CUTS * THREADS);          /* no more than were in flight */
    assert_true(live_stats(client).reconnects >= CUTS);
    done();
}

/* ---- nobody calls ------------------------------------------------------------------------------ */

static void test_renews_by_itself(void **state)
{
    azredis_options o = {0};
    int64_t id;
    (void)state;
    begin(&o);
    id = live_client_id(client);
    await(live_number(&em, "reauths_accepted") >= 3, LIVE_SOON);     /* without one call of ours */
    assert_int_equal(live_client_id(client), id);
    live_fault(&em, "expire-now", NULL, "1");
    await(live_number(&em, "connections_opened") == 2, LIVE_SOON);
    assert_true(live_client_id(client) != id);
    done();
}

/* Nor calls somebody when the line falls silent: the background thread looks after it, and makes a new one. */
static void test_notices_a_vanished_line_by_itself(void **state)
{
    static live_relay relay;
    azredis_options o = {.keepalive_ms = 150, .command_ms = 1000, .tls_host = "localhost"};
    char host[64];
    (void)state;
    live_relay_start(&relay, em.gateway_port);
    snprintf(host, sizeof host, "127.0.0.1:%d", relay.port);
    o.host = host;
    begin(&o);
    assert_int_equal(live_incr(client, "n"), 1);
    live_relay_spell(&relay, LIVE_FREEZE);
    await(live_stats(client).reconnects == 1 && live_connected(client), LIVE_SOON);
    assert_int_equal(live_stats(client).commands_failed, 0);
    assert_int_equal(live_incr(client, "n"), 2);
    done();
    live_relay_stop(&relay);
}

/* ---- who writes, and how much at a time ------------------------------------------------------------ */

static struct { atomic_int own, others, slow; pthread_t caller; } sent;

static int counting_send(void *user, intptr_t sock, const void *p, size_t n)
{
    ssize_t k;
    (void)user;
    if (pthread_equal(pthread_self(), sent.caller)) atomic_fetch_add(&sent.own, 1);
    else atomic_fetch_add(&sent.others, 1);
    if (atomic_load(&sent.slow)) live_nap(10);
    k = send((int)sock, p, n, MSG_NOSIGNAL);
    return k >= 0 ? (int)k : errno == EAGAIN ? 0 : -errno;
}

static int counting_recv(void *user, intptr_t sock, void *p, size_t n)
{
    ssize_t k = recv((int)sock, p, n, 0);
    (void)user;
    return k > 0 ? (int)k : k == 0 ? -1 : errno == EAGAIN ? 0 : -errno;
}

static void counting_close(void *user, intptr_t sock)
{
    (void)user;
    close((int)sock);
}

static const azredis_port counting = {.send = counting_send, .recv = counting_recv, .close = counting_close};

#define CALLS 100

static void *call_often(void *user)
{
    int i;
    (void)user;
    for (i = 0; i < CALLS; i++)
        if (azredis_command(client, NULL, "PING") != AZREDIS_OK) return "failed";
    return NULL;
}

static int writes(void)
{
    int n = atomic_load(&sent.own) + atomic_load(&sent.others);
    atomic_store(&sent.own, 0);
    atomic_store(&sent.others, 0);
    return n;
}

/* Who finds the line free writes himself; what comes while somebody writes goes in one flight after that; and so do the
 * commands of an exec. */
static void test_a_flight_is_shared(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_cmd cmd[CALLS];
    azredis_options o = {.port = &counting};
    pthread_t t[4 * THREADS];
    void *said;
    int i, n;
    (void)state;
    memset(&sent, 0, sizeof sent);
    sent.caller = pthread_self();
    begin(&o);
    assert_int_equal(azredis_connect(client, LIVE_SOON, NULL), AZREDIS_OK);
    live_nap(50);
    (void)writes();
    assert_null(call_often(NULL));
    assert_in_range(atomic_load(&sent.own), CALLS * 8 / 10, CALLS + 5);
    (void)writes();
    for (i = 0; i < CALLS; i++) cmd[i] = (azredis_cmd){1, ping};
    assert_int_equal(azredis_exec(client, NULL, NULL, cmd, CALLS), AZREDIS_OK);
    assert_in_range(writes(), 1, 3);
    atomic_store(&sent.slow, 1);
    for (i = 0; i < 4 * THREADS; i++) assert_int_equal(pthread_create(&t[i], NULL, call_often, NULL), 0);
    for (i = 0; i < 4 * THREADS; i++) {
        assert_int_equal(pthread_join(t[i], &said), 0);
        assert_null(said);
    }
    n = writes();
    print_message("%d calls of %d threads in %d writes\n", 4 * THREADS * CALLS, 4 * THREADS, n);
    assert_in_range(n, CALLS, 4 * THREADS * CALLS / 4);
    done();
}

/* ---- callbacks ---------------------------------------------------------------------------------- */

typedef struct box {
    pthread_mutex_t lock;
    pthread_cond_t  cond;
    pthread_t       thread;             /* of the callbacks */
    int             calls, inside, overlapped, other_thread;
    azredis_status  blocking;           /* what a blocking call said there */
    int             again, sum;
} box;

static void box_init(box *b)
{
    memset(b, 0, sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->cond, NULL);
}

static int box_calls(box *b)
{
    int n;
    pthread_mutex_lock(&b->lock);
    n = b->calls;
    pthread_mutex_unlock(&b->lock);
    return n;
}

static void box_enter(box *b)
{
    pthread_mutex_lock(&b->lock);
    b->overlapped += b->inside++ > 0;
    if (b->calls && !pthread_equal(b->thread, pthread_self())) b->other_thread++;
    b->thread = pthread_self();
    pthread_mutex_unlock(&b->lock);
}

static void box_leave(box *b)
{
    pthread_mutex_lock(&b->lock);
    b->inside--;
    b->calls++;
    pthread_cond_broadcast(&b->cond);
    pthread_mutex_unlock(&b->lock);
}

static void on_reply(azredis_client *c, const azredis_reply *r, void *user)
{
    static const azredis_str incr[2] = {{"INCR", 4}, {"n", 1}};
    box *b = user;
    box_enter(b);
    b->blocking = azredis_command(c, NULL, "PING");
    b->sum += r->status == AZREDIS_OK;
    if (b->again > 0 && azredis_submit(c, NULL, 2, incr, on_reply, user) == AZREDIS_OK) b->again--;
    box_leave(b);
}

static void test_callbacks_have_one_thread(void **state)
{
    static const azredis_str incr[2] = {{"INCR", 4}, {"n", 1}};
    azredis_options o = {0};
    box b;
    int i;
    (void)state;
    box_init(&b);
    b.again = 500;                      /* and each of the first 500 submits another one */
    begin(&o);
    for (i = 0; i < 500; i++) assert_int_equal(azredis_submit(client, NULL, 2, incr, on_reply, &b), AZREDIS_OK);
    await(box_calls(&b) == 1000, LIVE_SOON);
    assert_int_equal(live_get_number(&em, "n"), 1000);
    done();
    assert_int_equal(b.sum, 1000);
    assert_int_equal(b.overlapped, 0);
    assert_int_equal(b.other_thread, 0);
    assert_false(pthread_equal(b.thread, pthread_self()));
    assert_int_equal(b.blocking, AZREDIS_E_STATE);
}

typedef struct slow { pthread_mutex_t gate; atomic_int answered, drained; } slow;

static void on_slow_reply(azredis_client *c, const azredis_reply *r, void *user)
{
    slow *s = user;
    (void)c;
    (void)r;
    pthread_mutex_lock(&s->gate);
    pthread_mutex_unlock(&s->gate);
    atomic_fetch_add(&s->answered, 1);
}

static void on_slow_event(const azredis_event *ev, void *user)
{
    slow *s = user;
    if (ev->type == AZREDIS_EV_DRAINED) atomic_fetch_add(&s->drained, 1);
}

/* Answers whose callbacks have not run hold their places, so that a slow handler is told to submitters. */
static void test_full_and_drained(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_options o = {0};
    slow s;
    int i;
    (void)state;
    memset(&s, 0, sizeof s);
    pthread_mutex_init(&s.gate, NULL);
    o.backlog_count = 10;
    o.on_event = on_slow_event;
    o.event_user = &s;
    begin(&o);
    pthread_mutex_lock(&s.gate);
    for (i = 0; i < 10; i++) assert_int_equal(azredis_submit(client, NULL, 1, ping, on_slow_reply, &s), AZREDIS_OK);
    await(live_stats(client).commands_ok == 10, LIVE_SOON);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_slow_reply, &s), AZREDIS_AGAIN);
    assert_int_equal(atomic_load(&s.drained), 0);
    pthread_mutex_unlock(&s.gate);
    await(atomic_load(&s.answered) == 10, LIVE_SOON);
    await(atomic_load(&s.drained) == 1, LIVE_SOON);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_slow_reply, &s), AZREDIS_OK);
    await(atomic_load(&s.answered) == 11, LIVE_SOON);
    done();
}

/* ---- messages ------------------------------------------------------------------------------------ */

static void on_message(azredis_client *c, const azredis_message *m, void *user)
{
    box *b = user;
    (void)c;
    box_enter(b);
    b->sum += (int)strtol(m->payload.ptr, NULL, 10);
    box_leave(b);
}

static void publish(int from, int to, int receivers)
{
    azredis_reply r = {0};
    char number[16];
    int64_t n;
    for (; from <= to; from++) {
        snprintf(number, sizeof number, "%d", from);
        assert_int_equal(azredis_command(client, &r, "PUBLISH", "news", number), AZREDIS_OK);
        assert_int_equal(azredis_int(r.value, &n), AZREDIS_OK);
        assert_int_equal(n, receivers);
    }
    azredis_reply_free(&r);
}

static atomic_int pulled_sum;
static atomic_int pulled_end;           /* what the last azredis_next said */

static void *pull(void *user)
{
    azredis_sub *s = user;
    azredis_message m;
    azredis_status st;
    while ((st = azredis_next(s, &m, LIVE_SOON)) == AZREDIS_OK)
        atomic_fetch_add(&pulled_sum, (int)strtol(m.payload.ptr, NULL, 10));
    atomic_store(&pulled_end, st);
    return NULL;
}

static void test_messages_pushed_and_pulled(void **state)
{
    azredis_options o = {0};
    azredis_sub *pushed, *pulled;
    pthread_t reader;
    box b;
    (void)state;
    box_init(&b);
    begin(&o);
    pushed = azredis_subscribe(client, AZREDIS_CHANNEL, "news", on_message, &b);
    pulled = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    assert_non_null(pushed);
    assert_non_null(pulled);
    assert_int_equal(azredis_subscribed(pulled, LIVE_SOON, NULL), AZREDIS_OK);
    assert_int_equal(azredis_subscribed(pushed, LIVE_SOON, NULL), AZREDIS_OK);
    assert_int_equal(pthread_create(&reader, NULL, pull, pulled), 0);
    publish(1, 100, 1);
    await(box_calls(&b) == 100, LIVE_SOON);
    azredis_unsubscribe(pushed);                        /* no message comes after it has returned */
    publish(101, 200, 1);
    assert_int_equal(box_calls(&b), 100);
    assert_int_equal(b.sum, 5050);
    await(atomic_load(&pulled_sum) == 20100, LIVE_SOON);
    azredis_unsubscribe(pulled);                        /* ends the other thread's azredis_next */
    assert_int_equal(pthread_join(reader, NULL), 0);
    assert_int_equal(atomic_load(&pulled_end), AZREDIS_E_CLOSED);
    assert_int_equal(live_stats(client).messages, 300);
    done();
}

/* ---- close ---------------------------------------------------------------------------------------- */

static atomic_int closed_calls;

static void *call_until_closed(void *user)
{
    azredis_client *c = user;
    azredis_reply r = {0};
    while (azredis_command(c, &r, "INCR", "n") == AZREDIS_OK) {}
    if (r.status == AZREDIS_E_CLOSED) atomic_fetch_add(&closed_calls, 1);
    azredis_reply_free(&r);
    return NULL;
}

/* Threads that wait for an answer which never comes: azredis_close ends them, and returns when they have. */
static void test_close_while_others_wait(void **state)
{
    azredis_options o = {0};
    pthread_t t[4];
    int i;
    (void)state;
    atomic_store(&closed_calls, 0);
    begin(&o);
    assert_int_equal(live_incr(client, "n"), 1);
    live_fault(&em, "stall", NULL, "1");
    for (i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, call_until_closed, client), 0);
    await(live_stats(client).in_flight + live_stats(client).waiting == 4, LIVE_SOON);
    assert_in_time(done(), 1000);
    for (i = 0; i < 4; i++) assert_int_equal(pthread_join(t[i], NULL), 0);
    assert_int_equal(atomic_load(&closed_calls), 4);
    live_disarm(&em, "stall");
}

typedef struct closer { atomic_int replies, last; } closer;

/* A client that is closed within a callback makes its last ones a moment later: nothing of the test's may hang on them. */
static void on_event_of_one_that_goes(const azredis_event *ev, void *user) { (void)ev, (void)user; }

static void on_last_reply(azredis_client *c, const azredis_reply *r, void *user)
{
    closer *k = user;
    (void)c;
    atomic_fetch_add(&k->replies, 1);
    if (r->status == AZREDIS_E_CLOSED) atomic_fetch_add(&k->last, 1);
}

static void on_reply_close(azredis_client *c, const azredis_reply *r, void *user)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    (void)r;
    assert_int_equal(azredis_submit(c, NULL, 1, ping, on_last_reply, user), AZREDIS_OK);
    azredis_close(c);
    assert_int_equal(azredis_submit(c, NULL, 1, ping, on_last_reply, user), AZREDIS_E_CLOSED);
}

static void test_case49_close_in_a_callback(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_options o = {.on_event = on_event_of_one_that_goes};
    closer k;
    (void)state;
    memset(&k, 0, sizeof k);
    begin(&o);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_reply_close, &k), AZREDIS_OK);
    client = NULL;                                      /* it goes by itself */
    await(atomic_load(&k.replies) == 1, LIVE_SOON);
    await(live_number(&em, "connections_open") == 0, LIVE_SOON);
}

/* Closes the client that asks for a token, and gives it one all the same. */
static azredis_status close_and_give(void *user, const char *scope, azredis_fetched *out)
{
    json_t *t = live_json(&em, "GET", "/token", "");
    const char *jwt = json_string_value(json_object_get(t, "access_token"));
    (void)user, (void)scope;
    azredis_close(client);
    out->len = strlen(jwt);
    memcpy(out->token, jwt, out->len);
    json_decref(t);
    return AZREDIS_OK;
}

/* Where a token is fetched is a callback as well: by a call that pumps, in a loop, on the background thread. */
static void test_case49_close_in_get_token(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_auth_options id = {.identity = AZREDIS_ID_CALLBACK, .get_token = close_and_give};
    azredis_options o = {.identity = &id, .on_event = on_event_of_one_that_goes};
    azredis_status st;
    int way;
    (void)state;
    for (way = 0; way < 4; way++) {
        closer k;
        memset(&k, 0, sizeof k);
        client = live_new(&em, &o);
        assert_int_equal(azredis_submit(client, NULL, 1, ping, on_last_reply, &k), AZREDIS_OK);
        if (way == 0) assert_int_equal(azredis_connect(client, LIVE_SOON, NULL), AZREDIS_E_CLOSED);
        if (way == 1) assert_int_equal(azredis_command(client, NULL, "PING"), AZREDIS_E_CLOSED);
        if (way == 2) await((st = azredis_process(client, NULL, 0)) != AZREDIS_OK, LIVE_SOON);
        if (way == 2) assert_int_equal(st, AZREDIS_E_CLOSED);
        if (way == 3) assert_int_equal(azredis_start(client), AZREDIS_OK);
        await(atomic_load(&k.last) == 1, LIVE_SOON);
        assert_int_equal(atomic_load(&k.replies), 1);
        client = NULL;                                  /* it has gone by itself */
    }
    assert_int_equal(live_number(&em, "connections_opened"), 0);
}

static void test_close_before_and_in_every_state(void **state)
{
    azredis_options o = {0};
    int i;
    (void)state;
    begin(&o);
    done();                                             /* nothing has happened yet */
    for (i = 0; i < 20; i++) {                          /* at another moment of connecting each time */
        begin(&o);
        live_nap(i);
        done();
    }
    live_fault(&em, "token-hang", NULL, "1");
    begin(&o);
    await(live_fired(&em, "token-hang") == 1, LIVE_SOON);
    assert_in_time(done(), 1000);
}

/* ---- rules ----------------------------------------------------------------------------------------- */

static void *wake_soon(void *user)
{
    live_nap(50);
    azredis_wake(user);
    return NULL;
}

static void test_wait_and_wake(void **state)
{
    azredis_options o = {0};
    pthread_t t;
    int64_t began;
    (void)state;
    begin(&o);
    began = live_ms();
    assert_int_equal(azredis_wait(client, 100), AZREDIS_OK);
    assert_true(live_ms() - began >= 100);
    assert_int_equal(pthread_create(&t, NULL, wake_soon, client), 0);
    assert_in_time(assert_int_equal(azredis_wait(client, 10000), AZREDIS_OK), 5000);
    assert_int_equal(pthread_join(t, NULL), 0);
    done();
}

static void test_rules(void **state)
{
    azredis_options o = {0}, wrong = {0};
    azredis_fd fd;
    azredis_client *c;
    (void)state;
    begin(&o);
    assert_int_equal(azredis_start(client), AZREDIS_E_STATE);
    assert_int_equal(azredis_fds(client, &fd, 1), 0);
    assert_int_equal(azredis_process(client, NULL, 0), AZREDIS_E_STATE);
    assert_int_equal(azredis_timeout_ms(client), 30000);
    assert_int_equal(azredis_start(NULL), AZREDIS_E_NOMEM);
    c = azredis_open(&wrong);
    assert_int_equal(azredis_start(c), AZREDIS_E_ARG);
    azredis_close(c);
    done();
}

/* A thread that has the baton while its answer is late does not keep the others from their deadlines. */
static void test_deadlines_of_many(void **state)
{
    azredis_options o = {0};
    azredis_reply r = {0};
    azredis_call how = {0};
    static const azredis_str get[2] = {{"GET", 3}, {"n", 1}};
    (void)state;
    begin(&o);
    assert_int_equal(live_incr(client, "n"), 1);
    live_fault(&em, "stall", NULL, "1");
    how.timeout_ms = 200;
    assert_in_time(assert_int_equal(azredis_command_argv(client, &r, &how, 2, get), AZREDIS_E_TIMEOUT), 200);
    assert_int_equal(r.fate, AZREDIS_MAYBE_RUN);
    live_disarm(&em, "stall");
    azredis_reply_free(&r);
    assert_int_equal(live_incr(client, "n"), 2);        /* the late answer did not become this one's */
    done();
}

/* ---- close in every callback while others wait in every call ------------------------------------------ */

typedef enum waiting { IN_COMMAND, IN_EXEC, IN_NEXT, IN_WAIT, IN_CONNECT, WAITINGS } waiting;

typedef struct waiter { pthread_t thread; waiting in; azredis_sub *sub; azredis_status said; } waiter;

static atomic_int waiters;              /* that are about to call */

static void *wait_for_close(void *user)
{
    static const azredis_str get[2] = {{"GET", 3}, {"n", 1}};
    static const azredis_cmd two[2] = {{2, get}, {2, get}};
    waiter *w = user;
    azredis_reply r = {0};
    azredis_message m;
    azredis_error why;
    azredis_call long_enough = {.timeout_ms = 60000};
    atomic_fetch_add(&waiters, 1);
    switch (w->in) {
    case IN_COMMAND: w->said = azredis_command_argv(client, &r, &long_enough, 2, get); break;
    case IN_EXEC: w->said = azredis_exec(client, &r, &long_enough, two, 2); break;
    case IN_NEXT: w->said = azredis_next(w->sub, &m, 60000); break;
    case IN_WAIT: w->said = azredis_wait(client, 60000); break;
    default: w->said = azredis_connect(client, 60000, &why); break;
    }
    azredis_reply_free(&r);
    return NULL;
}

/* Two in each of these calls. Nothing tells that a thread is inside one but time. */
static void wait_in(waiter *w, waiting from, waiting to, azredis_sub *sub)
{
    int i, n = 2 * (to - from + 1);
    atomic_store(&waiters, 0);
    for (i = 0; i < n; i++) {
        w[i] = (waiter){.in = from + (waiting)(i / 2), .sub = sub, .said = AZREDIS_OK};
        assert_int_equal(pthread_create(&w[i].thread, NULL, wait_for_close, &w[i]), 0);
    }
    await(atomic_load(&waiters) == n, LIVE_SOON);
    live_nap(200);
}

/* fault: what the emulator did meanwhile; NULL: nothing. */
static void all_closed(waiter *w, waiting from, waiting to, const char *fault)
{
    int i, n = 2 * (to - from + 1);
    for (i = 0; i < n; i++) {
        assert_int_equal(pthread_join(w[i].thread, NULL), 0);
        assert_int_equal(w[i].said, AZREDIS_E_CLOSED);
    }
    if (fault) live_disarm(&em, fault);
    client = NULL;                                      /* it went by itself */
    await(live_number(&em, "connections_open") == 0, LIVE_SOON);
}

static void close_by_message(azredis_client *c, const azredis_message *m, void *user)
{
    (void)m;
    (void)user;
    azredis_close(c);
}

static void close_by_reply(azredis_client *c, const azredis_reply *r, void *user)
{
    (void)r;
    (void)user;
    azredis_close(c);
}

static atomic_int may_close;            /* the next event does; the client is `client` */

static void close_by_event(const azredis_event *ev, void *user)
{
    (void)user;
    if (ev->type == AZREDIS_EV_LOG && atomic_exchange(&may_close, 0)) azredis_close(client);
}

/* A reply that has run out of time, while the line is dead and four kinds of call wait. */
static void test_case49_reply_closes_under_all(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_options o = {0};
    azredis_call soon = {.timeout_ms = 20};
    waiter w[2 * WAITINGS];
    azredis_sub *sub;
    (void)state;
    begin(&o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    assert_int_equal(azredis_subscribed(sub, LIVE_SOON, NULL), AZREDIS_OK);
    live_fault(&em, "stall", NULL, "1");
    wait_in(w, IN_COMMAND, IN_WAIT, sub);
    assert_int_equal(azredis_submit(client, &soon, 1, ping, close_by_reply, NULL), AZREDIS_OK);
    all_closed(w, IN_COMMAND, IN_WAIT, "stall");
}

static void test_case49_message_closes_under_all(void **state)
{
    static const azredis_str publish_one[3] = {{"PUBLISH", 7}, {"news", 4}, {"1", 1}};
    azredis_options o = {0};
    waiter w[2 * WAITINGS];
    azredis_sub *sub;
    (void)state;
    begin(&o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "other", NULL, NULL);
    assert_int_equal(azredis_subscribed(azredis_subscribe(client, AZREDIS_CHANNEL, "news", close_by_message, NULL), LIVE_SOON,
                                        NULL), AZREDIS_OK);
    wait_in(w, IN_NEXT, IN_WAIT, sub);
    assert_int_equal(azredis_submit(client, NULL, 3, publish_one, NULL, NULL), AZREDIS_OK);
    all_closed(w, IN_NEXT, IN_WAIT, NULL);
}

/* While one attempt to connect after the other fails, and says so. */
static void test_case49_event_closes_under_all(void **state)
{
    azredis_options o = {.on_event = close_by_event, .log_level = AZREDIS_LOG_DEBUG};
    waiter w[2 * WAITINGS];
    azredis_sub *sub;
    (void)state;
    atomic_store(&may_close, 0);
    live_fault(&em, "refuse", NULL, "*");
    begin(&o);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    wait_in(w, IN_COMMAND, IN_CONNECT, sub);
    atomic_store(&may_close, 1);
    all_closed(w, IN_COMMAND, IN_CONNECT, "refuse");
}

/* ---- fork ------------------------------------------------------------------------------------------ */

static atomic_int touched;              /* sockets: written to, read, closed */
static azredis_lease *held;             /* of the parent */

static int touching_send(void *user, intptr_t sock, const void *p, size_t n)
{
    ssize_t k = send((int)sock, p, n, MSG_NOSIGNAL);
    (void)user;
    atomic_fetch_add(&touched, 1);
    return k >= 0 ? (int)k : errno == EAGAIN ? 0 : -errno;
}

static int touching_recv(void *user, intptr_t sock, void *p, size_t n)
{
    ssize_t k = recv((int)sock, p, n, 0);
    (void)user;
    atomic_fetch_add(&touched, 1);
    return k > 0 ? (int)k : k == 0 ? -1 : errno == EAGAIN ? 0 : -errno;
}

static void touching_close(void *user, intptr_t sock)
{
    (void)user;
    atomic_fetch_add(&touched, 1);
    close((int)sock);
}

static const azredis_port touching = {.send = touching_send, .recv = touching_recv, .close = touching_close};

/* The allocator of AddressSanitizer (LLVM 14) keeps the locks in a child that the parent's threads had at the fork: a thread
 * that is started there waits in it for ever. What needs one, it does only when the parent is at rest. */
#ifdef __has_feature
#  if __has_feature(address_sanitizer)
#    define ALLOCATOR_FORKS 0
#  endif
#endif
#ifndef ALLOCATOR_FORKS
#  define ALLOCATOR_FORKS 1
#endif

#define orphan(condition) do { if (!(condition)) _exit(__LINE__ - orphan_line); } while (0)

/* In the child: all that can be called, of which nothing may wait, touch or end anything. Ends by the line that is
 * wrong, counted from here; 0: none. own: a client of its own works. */
static void orphan_calls(azredis_sub *pushed, azredis_sub *pulled, azredis_auth *a, int own)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    static const azredis_cmd two[2] = {{1, ping}, {1, ping}};
    static const azredis_str pop[3] = {{"BLPOP", 5}, {"list", 4}, {"0", 1}};
    static const azredis_call atomic = {.flags = AZREDIS_ATOMIC};
    const int orphan_line = __LINE__, before = atomic_load(&touched);
    azredis_reply r = {0};
    azredis_error why;
    azredis_message m;
    azredis_token token;
    azredis_link_record link;
    azredis_auth_info_data info;
    azredis_stats_data d;
    azredis_fd fd;
    azredis_options o = {0};
    azredis_sub_options topic = {.channel = "other"};
    azredis_client *c;
    alarm(10);
    orphan(azredis_command(client, &r, "PING") == AZREDIS_E_FORK);
    orphan(r.fate == AZREDIS_NOT_SENT && r.error->code == AZREDIS_E_FORK && strstr(r.error->message, "before fork()"));
    orphan(azredis_command_argv(client, NULL, NULL, 1, ping) == AZREDIS_E_FORK);
    orphan(azredis_exec(client, &r, NULL, two, 2) == AZREDIS_E_FORK && r.status == AZREDIS_E_FORK);
    orphan(azredis_exec(client, &r, &atomic, two, 2) == AZREDIS_E_FORK && r.fate == AZREDIS_NOT_SENT);
    orphan(azredis_block(client, &r, NULL, 3, pop) == AZREDIS_E_FORK);
    orphan(azredis_lease_open(client, 1000, &why) == NULL && why.code == AZREDIS_E_FORK);
    orphan(azredis_lease_command_argv(held, &r, NULL, 1, ping) == AZREDIS_E_FORK);
    azredis_lease_close(held);
    orphan(azredis_submit(client, NULL, 1, ping, NULL, NULL) == AZREDIS_E_FORK);
    orphan(azredis_connect(client, 1000, &why) == AZREDIS_E_FORK && strstr(why.message, "open a new one"));
    orphan(azredis_wait(client, 1000) == AZREDIS_E_FORK);
    orphan(azredis_next(pulled, &m, 1000) == AZREDIS_E_FORK);
    orphan(azredis_subscribed(pulled, 1000, &why) == AZREDIS_E_FORK && why.code == AZREDIS_E_FORK);
    orphan(azredis_subscribe(client, AZREDIS_CHANNEL, "other", NULL, NULL) == NULL);
    orphan(azredis_subscribe_with(client, &topic) == NULL);
    orphan(azredis_start(client) == AZREDIS_E_FORK);
    orphan(azredis_process(client, NULL, 0) == AZREDIS_E_FORK);
    orphan(azredis_fds(client, &fd, 1) == 0);
    orphan(azredis_timeout_ms(client) == 30000);
    orphan(azredis_auth_token(a, &token, 1000, &why) == AZREDIS_E_FORK && why.code == AZREDIS_E_FORK);
    orphan(azredis_auth_record(a, 0, &link) == AZREDIS_E_FORK);
    orphan(azredis_auth_info(a, &info) == AZREDIS_E_FORK);
    orphan(azredis_auth_rehearse(a) == AZREDIS_E_FORK);
    orphan(azredis_client_auth(client) == a);
    azredis_stats(client, &d);
    orphan(d.connects == 0);
    o.host = em.endpoint;
    o.auth = a;                                         /* the parent's: a client of it is a wrong one */
    c = azredis_open(&o);
    orphan(azredis_command(c, &r, "PING") == AZREDIS_E_FORK);
    azredis_close(c);
    azredis_wake(client);
    azredis_unsubscribe(pushed);
    azredis_unsubscribe(pulled);
    azredis_close(client);
    azredis_auth_release(a);
    azredis_reply_free(&r);
    orphan(atomic_load(&touched) == before);
    if (LIVE_SANITIZED) own = 0;         /* ThreadSanitizer forbids the look-up thread; AddressSanitizer's locks stay held */
    if (!own) _exit(0);
    o.auth = NULL;
    c = azredis_open(&o);
    if (azredis_command(c, &r, "PING") != AZREDIS_OK) fprintf(stderr, "child: %s\n", r.error->message);
    orphan(r.status == AZREDIS_OK);
    azredis_close(c);
    _exit(0);
}

static void fork_once(azredis_sub *pushed, azredis_sub *pulled, azredis_auth *a, int own, int i)
{
    pid_t child;
    int status;
    fflush(NULL);
    child = fork();
    if (child == 0) orphan_calls(pushed, pulled, a, own);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        fail_msg("fork %d: signal %d, line %d of orphan_calls", i, WTERMSIG(status), WEXITSTATUS(status));
}

/* While threads of the parent hold locks and TLS is in the middle of something. The parent's connection, whose TLS would
 * end with one byte of the child's, lives on. */
static void test_fork(void **state)
{
    azredis_options o = {0};
    azredis_sub *pushed, *pulled;
    azredis_auth *a;
    caller k[THREADS], all;
    box b;
    int64_t id;
    int i;
    (void)state;
    box_init(&b);
    o.port = &touching;
    begin(&o);
    a = azredis_client_auth(client);
    pushed = azredis_subscribe(client, AZREDIS_CHANNEL, "news", on_message, &b);
    pulled = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
    assert_int_equal(azredis_connect(client, LIVE_SOON, NULL), AZREDIS_OK);
    held = azredis_lease_open(client, LIVE_SOON, NULL);
    assert_non_null(held);
    id = live_client_id(client);
    fork_once(pushed, pulled, a, 1, 0);
    run_callers(k, 0);
    for (i = 1; i <= 20; i++) fork_once(pushed, pulled, a, i == 1 && ALLOCATOR_FORKS, i);
    join_callers(k, &all);
    assert_int_equal(all.maybe + all.not_sent, 0);
    for (i = 1; i <= 1000; i++) assert_int_equal(live_incr(client, "after"), i);
    publish(1, 1, 1);
    await(box_calls(&b) == 1, LIVE_SOON);
    assert_int_equal(live_client_id(client), id);
    assert_int_equal(azredis_lease_command_argv(held, NULL, NULL, 1, (const azredis_str[]){{"PING", 4}}), AZREDIS_OK);
    azredis_lease_close(held);
    assert_int_equal(live_stats(client).connects, 2);
    azredis_auth_release(a);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_case49_one_line_for_all, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_renewals_under_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_renewals_and_cuts_under_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_renews_by_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(test_notices_a_vanished_line_by_itself, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_a_flight_is_shared, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_callbacks_have_one_thread, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_full_and_drained, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_messages_pushed_and_pulled, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_close_while_others_wait, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case49_close_in_a_callback, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case49_close_in_get_token, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_close_before_and_in_every_state, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_wait_and_wake, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_rules, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_deadlines_of_many, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case49_reply_closes_under_all, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case49_message_closes_under_all, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case49_event_closes_under_all, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_fork, setup_hour, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
