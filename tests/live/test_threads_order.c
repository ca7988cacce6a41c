/* azredis_start: what two threads do to one client in an order that the test lays down. Three calls of the system are
 * stood in for, so that a thread stops where the test wants it, or tells where it is.
 *   cc -std=gnu11 -I. tests/live/test_threads_order.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include <pthread.h>
#include <sys/epoll.h>
static int order_unlock(pthread_mutex_t *m);
static int order_cond_wait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until);
static int order_epoll_wait(int ep, struct epoll_event *ev, int n, int ms);
#define pthread_mutex_unlock   order_unlock
#define pthread_cond_timedwait order_cond_wait
#define epoll_wait             order_epoll_wait
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#undef pthread_mutex_unlock
#undef pthread_cond_timedwait
#undef epoll_wait
#include "live.h"
#include <stdatomic.h>

#define LONG_SLEEP 200                  /* ms; a thread that means to sleep so long does not spin */

static live em;
static azredis_client *client;          /* closed by the teardown if the test failed before */

static const azredis_str ping[1] = {{"PING", 4}};

/* ---- the order ---------------------------------------------------------------------------------- */

static __thread int held_up;            /* this thread stops where it lets go of the client's lock, until it is freed */
static atomic_int stopped;              /* it has stopped */
static atomic_int awaited;              /* azredis_close sleeps until that thread's call has returned */
static atomic_int closed;               /* it has not: the client is gone */
static atomic_int overtaken;            /* ... before the thread was freed */
static atomic_int io_sleeps;            /* ms for which the I/O thread sleeps now; 0: it does not */
static __thread int closes;             /* this thread calls azredis_close */

static int order_unlock(pthread_mutex_t *m)
{
    int64_t until = live_ms() + LIVE_SOON;
    int r = pthread_mutex_unlock(m);
    if (!held_up || r)
        return r;
    atomic_store(&stopped, 1);
    while (!atomic_load(&awaited) && !atomic_load(&closed) && live_ms() < until)
        live_nap(1);
    if (!atomic_load(&awaited))
        atomic_store(&overtaken, 1);
    return r;
}

static int order_cond_wait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
    if (closes && client->threads->io_ended && client->inside)
        atomic_store(&awaited, 1);
    return pthread_cond_timedwait(c, m, until);
}

static int order_epoll_wait(int ep, struct epoll_event *ev, int n, int ms)
{
    int r;
    atomic_store(&io_sleeps, ms);
    r = epoll_wait(ep, ev, n, ms);
    atomic_store(&io_sleeps, 0);
    return r;
}

/* ---- clients ------------------------------------------------------------------------------------- */

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
    assert_int_equal(azredis_connect(client, LIVE_SOON, NULL), AZREDIS_OK);
}

/* What only the lock guards, at one moment. */
typedef struct glance { int io_asleep, resting, may_dial, in_flight, subs, busy; azri_state state; } glance;

static glance look(void)
{
    glance g = {0};
    const azredis_sub *s;
    azri_hold(client);
    g.io_asleep = client->threads->io_asleep;
    g.resting = client->hub.resting;
    g.may_dial = azri_hub_live_blob(&client->hub, azri_now(client));
    g.state = azri_hub_main(&client->hub)->state;
    g.in_flight = (int)azri_hub_main(&client->hub)->in_flight;
    for (s = client->hub.subs; s; s = s->next) {
        g.subs++;
        g.busy += s->busy;
    }
    azri_let_go(client);
    return g;
}

/* A door through which threads pass once it is open. */
typedef struct gate { atomic_int reached, open; } gate;

static void gate_pass(gate *g)
{
    int64_t until = live_ms() + LIVE_SOON;
    atomic_fetch_add(&g->reached, 1);
    while (!atomic_load(&g->open) && live_ms() < until)
        live_nap(1);
}

/* ---- a call has returned before the client goes ---------------------------------------------------- */

static void *submit_slowly(void *user)
{
    held_up = 1;
    atomic_store((atomic_int *)user, azredis_submit(client, NULL, 1, ping, NULL, NULL));
    return NULL;
}

/* A call wakes the I/O thread when it has let go of the lock. azredis_close in between waits for it, as the waker is
 * the client's. */
static void test_close_waits_for_the_waking(void **state)
{
    azredis_options o = {0};
    pthread_t t;
    atomic_int st = 1;
    (void)state;
    atomic_store(&stopped, 0);
    atomic_store(&awaited, 0);
    atomic_store(&closed, 0);
    atomic_store(&overtaken, 0);
    begin(&o);
    await(look().io_asleep, LIVE_SOON);                 /* so the call has somebody to wake */
    assert_int_equal(pthread_create(&t, NULL, submit_slowly, &st), 0);
    await(atomic_load(&stopped), LIVE_SOON);
    closes = 1;
    azredis_close(client);
    atomic_store(&closed, 1);
    closes = 0;
    client = NULL;
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(atomic_load(&overtaken), 0);
    assert_int_equal(atomic_load(&st), AZREDIS_OK);
}

static atomic_int last_calls;

static void on_reply_close_and_wake(azredis_client *c, const azredis_reply *r, void *user)
{
    (void)user;
    assert_int_equal(r->status, AZREDIS_OK);
    azredis_close(c);
    azredis_wake(c);                                    /* it lives until this returns */
    assert_int_equal(azredis_submit(c, NULL, 1, ping, NULL, NULL), AZREDIS_E_CLOSED);
    azredis_close(c);
    atomic_fetch_add(&last_calls, 1);
}

static void test_wake_after_close_in_a_callback(void **state)
{
    azredis_options o = {0};
    (void)state;
    atomic_store(&last_calls, 0);
    begin(&o);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_reply_close_and_wake, NULL), AZREDIS_OK);
    client = NULL;                                      /* it goes by itself */
    await(atomic_load(&last_calls) == 1, LIVE_SOON);
    await(live_number(&em, "connections_open") == 0, LIVE_SOON);
}

/* ---- subscriptions ----------------------------------------------------------------------------------- */

static azredis_sub *sub;

static void on_message_pass(azredis_client *c, const azredis_message *m, void *user)
{
    (void)c;
    (void)m;
    gate_pass(user);
}

static void on_message_give_up(azredis_client *c, const azredis_message *m, void *user)
{
    (void)c;
    (void)m;
    azredis_unsubscribe(sub);
    gate_pass(user);
}

static void *unsubscribe(void *user)
{
    azredis_unsubscribe(sub);
    atomic_store((atomic_int *)user, 1);
    return NULL;
}

static void subscribe(azredis_message_fn fn, gate *g)
{
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", fn, g);
    assert_non_null(sub);
    await(live_info(&em, "stats", "pubsub_channels:") == 1 || (live_nap(5), 0), LIVE_SOON);
    json_decref(live_redis(&em, "PUBLISH", "news", "one", NULL));
    await(atomic_load(&g->reached) == 1, LIVE_SOON);
}

/* Whoever gives up a subscription returns when its callback has, and the memory is gone by then. */
static void test_given_up_during_its_callback(void **state)
{
    azredis_options o = {0};
    atomic_int returned = 0;
    gate g = {0};
    pthread_t t;
    (void)state;
    begin(&o);
    subscribe(on_message_pass, &g);
    assert_int_equal(pthread_create(&t, NULL, unsubscribe, &returned), 0);
    await(look().busy == 2, LIVE_SOON);                 /* the callback, and the one who waits for it */
    assert_int_equal(atomic_load(&returned), 0);
    atomic_store(&g.open, 1);
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(look().subs, 0);
    done();
}

/* In its own callback it cannot wait for that: the memory stays until the callback has returned. */
static void test_given_up_by_its_callback(void **state)
{
    azredis_options o = {0};
    gate g = {0};
    (void)state;
    begin(&o);
    subscribe(on_message_give_up, &g);
    assert_int_equal(live_incr(client, "n"), 1);        /* a turn sweeps */
    assert_int_equal(look().subs, 1);
    assert_int_equal(look().busy, 1);
    atomic_store(&g.open, 1);
    await(live_incr(client, "n") > 0 && look().subs == 0, LIVE_SOON);
    done();
}

/* ---- the last callbacks, without threads ---------------------------------------------------------------- */

static int gone;                        /* how often the client's memory was given back */

static void *port_alloc(void *user, size_t n)
{
    (void)user;
    return malloc(n);
}

static void port_free(void *user, void *p, size_t n)
{
    (void)user;
    (void)n;
    if (p != client)
        free(p);
    else
        gone++;                         /* kept, so that a second end of the client is counted, too */
}

static const azredis_port port = {.alloc = port_alloc, .free = port_free};

static void on_last_reply(azredis_client *c, const azredis_reply *r, void *user)
{
    (void)c;
    assert_int_equal(r->status, AZREDIS_E_CLOSED);
    azredis_unsubscribe(sub);
    assert_int_equal(gone, 0);
    ++*(int *)user;
}

/* azredis_close makes the callbacks of all open commands. One that gives up a subscription does not end the client
 * a second time. */
static void test_last_callback_gives_up_a_subscription(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_ACCESS_KEY, .password = "not a key"};
    azredis_options o = {.host = "127.0.0.1", .identity = &id, .port = &port};
    int calls = 0;
    (void)state;
    gone = 0;
    client = azredis_open(&o);
    assert_non_null(client);
    sub = azredis_subscribe(client, AZREDIS_CHANNEL, "news", on_message_pass, NULL);
    assert_non_null(sub);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_last_reply, &calls), AZREDIS_OK);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_last_reply, &calls), AZREDIS_OK);
    azredis_close(client);
    assert_int_equal(calls, 2);
    assert_int_equal(gone, 1);
    free(client);
    client = NULL;
}

/* ---- tokens beside the baton ------------------------------------------------------------------------------ */

/* A token for 20 s, of which a renewal is wanted at once. The second is a long time coming. */
static azredis_status slow_token(void *user, const char *scope, azredis_fetched *out)
{
    gate *g = user;
    json_t *t;
    const char *jwt;
    (void)scope;
    if (atomic_load(&g->reached) > 0)
        gate_pass(g);
    else
        atomic_store(&g->reached, 1);
    t = live_json(&em, "GET", "/token", "");
    jwt = json_string_value(json_object_get(t, "access_token"));
    out->len = strlen(jwt);
    memcpy(out->token, jwt, out->len);
    out->expires_in = 20;
    out->refresh_in = 1;
    json_decref(t);
    return AZREDIS_OK;
}

static void test_get_token_holds_nobody_up(void **state)
{
    gate g = {0};
    azredis_auth_options id = {.identity = AZREDIS_ID_CALLBACK, .get_token = slow_token, .get_token_user = &g};
    azredis_options o = {.identity = &id};
    int i;
    (void)state;
    begin(&o);
    await(atomic_load(&g.reached) == 2, LIVE_SOON);     /* the I/O thread is in get_token, and stays there */
    for (i = 1; i <= 100; i++)
        assert_int_equal(live_incr(client, "n"), i);
    assert_int_equal(atomic_load(&g.reached), 2);
    assert_int_equal(live_stats(client).reauths, 0);
    atomic_store(&g.open, 1);
    await(live_stats(client).reauths > 0, LIVE_SOON);
    done();
}

/* ---- renewal by reconnecting: who waits sleeps ---------------------------------------------------------------- */

static void *incr(void *user)
{
    azredis_call how = {.timeout_ms = 2 * LIVE_SOON};
    static const azredis_str argv[2] = {{"INCR", 4}, {"n", 1}};
    azredis_reply r = {0};
    int64_t n = 0;
    if (azredis_command_argv(client, &r, &how, 2, argv) == AZREDIS_OK)
        (void)azredis_int(r.value, &n);
    azredis_reply_free(&r);
    atomic_store((atomic_int *)user, (int)n);
    return NULL;
}

/* The token is due, but the connection has an answer to come: the caller gives up the baton, nothing more is written,
 * and the I/O thread sleeps until there is something to do. */
static void test_sleeps_until_the_connection_may_end(void **state)
{
    gate g = {.open = 1};
    azredis_auth_options id = {.identity = AZREDIS_ID_CALLBACK, .get_token = slow_token, .get_token_user = &g};
    azredis_options o = {.identity = &id, .renewal = AZREDIS_RENEWAL_RECONNECT};
    atomic_int n = 0;
    pthread_t t;
    (void)state;
    begin(&o);
    live_fault(&em, "stall", NULL, "1");
    assert_int_equal(pthread_create(&t, NULL, incr, &n), 0);
    await(look().in_flight == 1, LIVE_SOON);
    await(look().state == AZRI_DRAINING, LIVE_SOON);
    await(atomic_load(&io_sleeps) >= LONG_SLEEP && look().resting, LIVE_SOON);
    assert_int_equal(atomic_load(&g.reached), 1);
    live_disarm(&em, "stall");
    assert_int_equal(pthread_join(t, NULL), 0);
    assert_int_equal(atomic_load(&n), 1);
    await(live_number(&em, "connections_opened") > 1, LIVE_SOON);
    assert_true(atomic_load(&g.reached) > 1);
    assert_int_equal(live_incr(client, "n"), 2);
    done();
}

/* The connection has ended, and is not made again before the token has come, though the old one still serves. */
static void test_sleeps_until_the_token_comes(void **state)
{
    azredis_options o = {.renewal = AZREDIS_RENEWAL_RECONNECT};
    (void)state;
    begin(&o);
    live_fault(&em, "token-hang", NULL, "1");
    await(live_fired(&em, "token-hang") == 1, LIVE_SOON);
    await(look().state == AZRI_DOWN, LIVE_SOON);
    await(atomic_load(&io_sleeps) >= LONG_SLEEP && look().resting, LIVE_SOON);
    assert_true(look().may_dial);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_close_waits_for_the_waking, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_wake_after_close_in_a_callback, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_given_up_during_its_callback, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_given_up_by_its_callback, setup_hour, teardown),
        cmocka_unit_test(test_last_callback_gives_up_a_subscription),
        cmocka_unit_test_setup_teardown(test_get_token_holds_nobody_up, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_sleeps_until_the_connection_may_end, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_sleeps_until_the_token_comes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
