/* A client in an event loop of the program's own: azredis_fds, azredis_timeout_ms, azredis_process, azredis_wake.
 * The loops sleep only on what these say. A witness wraps the port's close: it knows what the loop watches.
 *   cc -std=gnu11 -I. tests/live/test_loop.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
struct addrinfo;
static int loop_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out);
#define AZRI_GETADDRINFO loop_getaddrinfo
#include "azredis_entra.h"
#include "live.h"
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/time.h>

#define BOUND 500                       /* ms: none of the calls of a loop may take longer; what hangs does so for seconds */
#define SOCKETS 64

static live em;
static azredis_client *client;          /* closed by the teardown if the test failed before */

/* ---- the resolver: slow, or with addresses in front at which nobody listens -------------------- */

static struct {
    atomic_int calls, slow_ms;
    const char *first[3];
} resolver;

static int loop_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    struct addrinfo **end = out, numeric;
    int i, r;
    if (hints->ai_flags & AI_NUMERICHOST)
        return getaddrinfo(host, service, hints, out);
    atomic_fetch_add(&resolver.calls, 1);
    if (atomic_load(&resolver.slow_ms))
        live_nap(atomic_load(&resolver.slow_ms));
    memset(&numeric, 0, sizeof numeric);
    numeric.ai_socktype = SOCK_STREAM;
    numeric.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    for (i = 0; i < 3 && resolver.first[i]; i++) {
        if ((r = getaddrinfo(resolver.first[i], service, &numeric, end)) != 0)
            return r;
        end = &(*end)->ai_next;
    }
    return getaddrinfo(host, service, hints, end);
}

/* ---- the loop and its witness ------------------------------------------------------------------ */

static struct {
    size_t     cap;                     /* room of the list */
    int        ep;                      /* -1: by poll */
    azredis_fd had[SOCKETS];
    size_t     count, listed;
    int64_t    slowest;                 /* of the client's calls, ms */
    long       turns, ready;
    /* the witness, by the number of the socket */
    enum { UNSEEN, LISTED, DROPPED } seen[1024];
    int        watches;                 /* 1: azredis_fds was called */
    long       closed, closed_late;     /* closed_late: of those, ones that had been listed */
    int        wrong;                   /* closed while listed */
} loop;

static void loop_close(void *user, intptr_t sock)
{
    (void)user;
    loop.closed++;
    loop.wrong += loop.watches && loop.seen[sock] == LISTED;
    loop.closed_late += loop.seen[sock] == DROPPED;
    loop.seen[sock] = UNSEEN;
    close((int)sock);
}

static const azredis_port witness = {.close = loop_close};

static void loop_timed(int64_t since)
{
    int64_t took = live_ms() - since;
    if (took > loop.slowest)
        loop.slowest = took;
}

static void loop_ctl(int op, const azredis_fd *f)
{
    struct epoll_event ev = {.events = (f->want & AZREDIS_READ ? (unsigned)EPOLLIN : 0) |
                                       (f->want & AZREDIS_WRITE ? (unsigned)EPOLLOUT : 0)};
    ev.data.fd = (int)f->sock;
    if (epoll_ctl(loop.ep, op, (int)f->sock, &ev) != 0)     /* ENOENT, EBADF: it was closed behind our back */
        fail_msg("epoll_ctl %d of socket %d: %s", op, (int)f->sock, strerror(errno));
}

/* The list, as a loop keeps it: what has left it is no longer watched. */
static void loop_list(void)
{
    azredis_fd now[SOCKETS];
    int64_t start = live_ms();
    size_t n, i, k;
    loop.listed = azredis_fds(client, now, loop.cap);
    loop_timed(start);
    loop.watches = 1;
    n = loop.listed < loop.cap ? loop.listed : loop.cap;
    for (i = 0; i < loop.count; i++) {
        for (k = 0; k < n && now[k].sock != loop.had[i].sock; k++) {}
        if (k < n && loop.ep >= 0 && now[k].want != loop.had[i].want)
            loop_ctl(EPOLL_CTL_MOD, &now[k]);
        if (k < n)
            continue;
        if (loop.ep >= 0)
            loop_ctl(EPOLL_CTL_DEL, &loop.had[i]);
        loop.seen[loop.had[i].sock] = DROPPED;
    }
    for (k = 0; k < n; k++) {
        if (loop.ep >= 0 && loop.seen[now[k].sock] != LISTED)
            loop_ctl(EPOLL_CTL_ADD, &now[k]);
        loop.seen[now[k].sock] = LISTED;
    }
    memcpy(loop.had, now, n * sizeof now[0]);
    loop.count = n;
}

/* Sleeps as the client says, at most `limit` ms. */
static void loop_sleep(int limit)
{
    struct pollfd p[SOCKETS];
    struct epoll_event ev[8];
    int ms = azredis_timeout_ms(client);
    size_t i;
    assert_in_range(ms, 0, 30000);
    if (loop.listed > loop.count)
        assert_in_range(ms, 0, 10);
    if (ms > limit)
        ms = limit;
    for (i = 0; i < loop.count; i++) {
        p[i].fd = (int)loop.had[i].sock;
        p[i].events = (short)((loop.had[i].want & AZREDIS_READ ? POLLIN : 0) | (loop.had[i].want & AZREDIS_WRITE ? POLLOUT : 0));
    }
    loop.ready += (loop.ep >= 0 ? epoll_wait(loop.ep, ev, 8, ms) : poll(p, loop.count, ms)) > 0;
}

static azredis_status loop_turn(int limit)
{
    azredis_status st;
    int64_t start;
    loop_list();
    loop_sleep(limit);
    start = live_ms();
    st = azredis_process(client, loop.had, loop.count);
    loop_timed(start);
    loop.turns++;
    return st;
}

/* Turns until the condition holds. */
#define loop_until(condition, deadline_ms)                                                         \
    do {                                                                                           \
        int64_t loop_end = live_ms() + (deadline_ms);                                              \
        while (!(condition)) {                                                                     \
            if (live_ms() > loop_end)                                                              \
                fail_msg("not within %d ms: %s", (int)(deadline_ms), #condition);                  \
            assert_int_equal(loop_turn(100), AZREDIS_OK);                                          \
        }                                                                                          \
    } while (0)

/* Keeps a few commands under way while it turns. */
static void loop_load(live_load *l, int64_t window)
{
    static const azredis_str incr[2] = {{"INCR", 4}, {"n", 1}};
    while (live_unfinished(l) < window) {
        int64_t start = live_ms();
        assert_int_equal(azredis_submit(client, NULL, 2, incr, live_on_incr, l), AZREDIS_OK);
        loop_timed(start);
        l->submitted++;
    }
}

static void begin(azredis_options *o)
{
    o->port = &witness;
    client = live_new(&em, o);
}

/* Stops watching, closes. */
static void done(void)
{
    if (loop.ep >= 0)
        close(loop.ep);
    loop.ep = -1;
    loop.watches = 0;
    azredis_close(client);
    client = NULL;
    assert_int_equal(loop.wrong, 0);
}

static void reset(void)
{
    memset(&loop, 0, sizeof loop);
    loop.cap = SOCKETS;
    loop.ep = -1;
    atomic_store(&resolver.calls, 0);
    atomic_store(&resolver.slow_ms, 0);
    memset(resolver.first, 0, sizeof resolver.first);
}

static int setup(void **state)
{
    (void)state;
    reset();
    live_start(&em, "--token-ttl", "2", NULL);
    return 0;
}

static int setup_hour(void **state)
{
    (void)state;
    reset();
    live_start(&em, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop.watches = 0;
    azredis_close(client);
    client = NULL;
    live_stop(&em);
    return 0;
}

static void assert_quick(void)
{
    if (loop.slowest > BOUND)
        fail_msg("a call of the loop took %d ms", (int)loop.slowest);
}

/* ---- renewals, look-ups, token requests: nothing but the list and the time ----------------------- */

static void test_renewals_by_poll(void **state)
{
    azredis_options o = {.host = NULL};
    live_load l = {0};
    char host[32];
    long before;
    int64_t start;
    (void)state;
    snprintf(host, sizeof host, "localhost:%d", em.gateway_port);       /* a name: look-ups for each connection */
    o.host = host;
    begin(&o);
    while (live_stats(client).reauths < 3) {
        loop_load(&l, 4);
        assert_int_equal(loop_turn(100), AZREDIS_OK);
    }
    loop_until(live_unfinished(&l) == 0, LIVE_SOON);
    before = loop.turns;
    for (start = live_ms(); live_ms() - start < 700;)                   /* idle, with a renewal perhaps: it sleeps */
        assert_int_equal(loop_turn(1000), AZREDIS_OK);
    if (loop.turns - before > 100)
        fail_msg("%ld turns in 0.7 s with nothing to do", loop.turns - before);
    assert_quick();
    assert_int_equal(l.maybe + l.not_sent + l.disorder, 0);
    assert_int_equal(live_get_number(&em, "n"), l.acknowledged);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    assert_true(atomic_load(&resolver.calls) >= 5);                     /* four tokens, one connection */
    done();
}

/* One place in the list: what is not in it is looked at every 10 ms, and nothing starves. */
static void test_short_list(void **state)
{
    azredis_options o = {0};
    live_load l = {0};
    azredis_fd one;
    long short_lists = 0;
    (void)state;
    begin(&o);
    loop.cap = 1;
    assert_true(azredis_fds(client, NULL, 0) >= 1);                     /* only counts */
    while (live_stats(client).reauths < 2) {
        loop_load(&l, 2);
        assert_int_equal(loop_turn(100), AZREDIS_OK);
        short_lists += loop.listed > 1;
        assert_true(azredis_fds(client, &one, 1) >= 1);
    }
    loop_until(loop.listed > 1 && !client->fetch && client->grave.count == 0, LIVE_SOON);
    assert_true(loop.closed >= 3);                                      /* of token requests: they do not pile up */
    live_fault(&em, "expire-now", NULL, "1");
    loop_until(live_stats(client).reconnects == 1, LIVE_SOON);
    loop_until(live_unfinished(&l) == 0, LIVE_SOON);
    assert_true(short_lists > 0);
    assert_int_equal(l.not_sent + l.disorder, 0);
    assert_quick();
    done();
}

/* Registrations of epoll through all that closes sockets: every address refused but the last, token requests, a server
 * that refuses, connections that end. */
static void test_no_socket_closed_while_watched(void **state)
{
    azredis_options o = {0};
    live_load l = {0};
    char host[32];
    int i;
    (void)state;
    snprintf(host, sizeof host, "localhost:%d", em.gateway_port);
    o.host = host;
    resolver.first[0] = "127.0.0.7";
    resolver.first[1] = "127.0.0.8";
    begin(&o);
    loop.ep = epoll_create1(EPOLL_CLOEXEC);
    loop_until(live_connected(client), LIVE_SOON);
    for (i = 1; i <= 2; i++) {                  /* few: each end in a row lengthens the pause before the next try */
        if (i == 2)
            live_fault(&em, "refuse", NULL, "1");
        live_fault(&em, "expire-now", NULL, "1");
        while (live_stats(client).reconnects < (uint32_t)i) {
            loop_load(&l, 2);
            assert_int_equal(loop_turn(100), AZREDIS_OK);
        }
    }
    loop_until(live_stats(client).tokens >= 3, LIVE_SOON);
    loop_until(live_unfinished(&l) == 0, LIVE_SOON);
    assert_true(loop.closed >= 10);
    assert_true(loop.closed_late >= 8);
    assert_int_equal(l.disorder, 0);
    assert_quick();
    done();
}

/* ---- nothing blocks ------------------------------------------------------------------------------ */

static void test_silent_resolver(void **state)
{
    azredis_options o = {0};
    live_load l = {0};
    char host[32];
    (void)state;
    snprintf(host, sizeof host, "localhost:%d", em.gateway_port);
    o.host = host;
    o.command_ms = LIVE_SOON;
    atomic_store(&resolver.slow_ms, 2 * BOUND);
    begin(&o);
    loop_load(&l, 1);
    loop_until(l.acknowledged == 1, LIVE_SOON);
    assert_quick();
    assert_true(loop.turns < 200);
    atomic_store(&resolver.slow_ms, 0);
    done();
}

/* A port of this machine that takes no more connections: its queue is full. */
static int black_hole(int waiting[3], int *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int i, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    *port = ntohs(a.sin_port);
    for (i = 0; i < 3; i++) {
        waiting[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)!connect(waiting[i], (struct sockaddr *)&a, sizeof a);
    }
    return fd;
}

static void test_black_hole_as_authority(void **state)
{
    azredis_auth_options id = {.request_ms = 2 * BOUND, .chain_ms = 2 * BOUND};
    azredis_options o = {.identity = &id, .command_ms = 3 * BOUND};
    live_load l = {0};
    char authority[64];
    int waiting[3], i, port, hole = black_hole(waiting, &port);
    (void)state;
    snprintf(authority, sizeof authority, "https://127.0.0.1:%d", port);
    id.authority_host = authority;
    begin(&o);
    loop_load(&l, 1);
    loop_until(l.not_sent == 1 && live_stats(client).token_failures >= 1, LIVE_SOON);
    assert_quick();
    assert_true(loop.turns < 200);
    done();
    for (i = 0; i < 3; i++)
        close(waiting[i]);
    close(hole);
}

static void test_stalled_server(void **state)
{
    azredis_options o = {.command_ms = 2 * BOUND};
    live_load l = {0};
    (void)state;
    begin(&o);
    loop_until(live_connected(client), LIVE_SOON);
    live_fault(&em, "stall", NULL, "*");
    loop_load(&l, 3);
    loop_until(l.maybe == 3, LIVE_SOON);
    assert_quick();
    live_disarm(&em, "stall");
    done();
}

/* ---- callbacks ----------------------------------------------------------------------------------- */

typedef struct chain { int left, closes, state, others; azredis_client *sees; } chain;

static void on_link(azredis_client *c, const azredis_reply *r, void *user)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    chain *k = user;
    if (r->status == AZREDIS_OK && --k->left > 0)
        assert_int_equal(azredis_submit(c, NULL, 1, ping, on_link, k), AZREDIS_OK);
}

static void on_other(azredis_client *c, const azredis_reply *r, void *user)
{
    chain *k = user;
    (void)c;
    (void)r;
    k->others++;
}

static void on_last(azredis_client *c, const azredis_reply *r, void *user)
{
    chain *k = user;
    (void)r;
    azredis_close(c);
    k->closes++;
}

static void on_state(azredis_client *c, const azredis_reply *r, void *user)
{
    chain *k = user;
    azredis_reply own = {0};
    (void)r;
    k->state += azredis_process(c, NULL, 0) == AZREDIS_E_STATE;
    k->state += azredis_wait(c, 10) == AZREDIS_E_STATE;
    k->state += azredis_command(c, &own, "PING") == AZREDIS_E_STATE;
    azredis_reply_free(&own);
}

static void test_case49_submit_in_callbacks(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_options o = {0};
    chain k = {.left = 100};
    (void)state;
    begin(&o);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_link, &k), AZREDIS_OK);
    loop_until(k.left == 0, LIVE_SOON);         /* each is written by the turn after: no sleep in between */
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_state, &k), AZREDIS_OK);
    loop_until(k.state == 3, LIVE_SOON);
    done();
}

static void test_case49_close_in_callback(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_options o = {0};
    chain k = {0};
    azredis_status st = AZREDIS_OK;
    int64_t until = live_ms() + LIVE_SOON;
    (void)state;
    begin(&o);
    loop_until(live_connected(client), LIVE_SOON);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_last, &k), AZREDIS_OK);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_other, &k), AZREDIS_OK);
    loop_list();
    loop_sleep(0);
    loop.watches = 0;                           /* the program that closes has stopped watching */
    while ((st = azredis_process(client, loop.had, loop.count)) == AZREDIS_OK && live_ms() < until)
        live_nap(1);
    client = NULL;
    assert_int_equal(st, AZREDIS_E_CLOSED);
    assert_int_equal(k.closes, 1);
    assert_int_equal(k.others, 1);              /* each command ends once, also this one */
    assert_int_equal(loop.seen[loop.had[0].sock], UNSEEN);
}

static void test_close_between(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_options o = {0};
    chain k = {0};
    (void)state;
    begin(&o);
    loop_until(live_connected(client), LIVE_SOON);
    assert_int_equal(azredis_submit(client, NULL, 1, ping, on_other, &k), AZREDIS_OK);
    loop_list();
    loop_sleep(0);
    done();                                     /* between the list and azredis_process */
    assert_int_equal(k.others, 1);
}

typedef struct hearing { azredis_sub *sub; int messages, unsubscribe_at; } hearing;

static void on_message(azredis_client *c, const azredis_message *m, void *user)
{
    hearing *h = user;
    (void)c;
    (void)m;
    if (++h->messages == h->unsubscribe_at)
        azredis_unsubscribe(h->sub);
}

static void test_case49_unsubscribe_in_message(void **state)
{
    static const azredis_str publish[3] = {{"PUBLISH", 7}, {"ch", 2}, {"m", 1}};
    azredis_options o = {0};
    hearing h = {.unsubscribe_at = 3};
    chain k = {0};
    int i;
    (void)state;
    begin(&o);
    h.sub = azredis_subscribe(client, AZREDIS_CHANNEL, "ch", on_message, &h);
    loop_until(live_connected(client) && h.sub->state == AZRI_SUB_ACTIVE, LIVE_SOON);
    for (i = 0; i < 6; i++)
        assert_int_equal(azredis_submit(client, NULL, 3, publish, on_other, &k), AZREDIS_OK);
    loop_until(k.others == 6 && h.messages >= 3, LIVE_SOON);
    for (i = 0; i < 3; i++)
        assert_int_equal(loop_turn(20), AZREDIS_OK);
    assert_int_equal(h.messages, 3);
    done();
}

/* ---- back-pressure --------------------------------------------------------------------------------- */

static void test_full_and_drained(void **state)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    static live_events seen;
    azredis_options o = {.backlog_count = 10, .on_event = live_on_event, .event_user = &seen};
    chain k = {0};
    int round, i;
    (void)state;
    memset(&seen, 0, sizeof seen);
    begin(&o);
    for (round = 1; round <= 3; round++) {
        for (i = 0; i < 10; i++)
            assert_int_equal(azredis_submit(client, NULL, 1, ping, on_other, &k), AZREDIS_OK);
        for (i = 0; i < 3; i++)
            assert_int_equal(azredis_submit(client, NULL, 1, ping, on_other, &k), AZREDIS_AGAIN);
        assert_int_equal(seen.of[AZREDIS_EV_DRAINED], round - 1);
        loop_until(k.others == 10 * round, LIVE_SOON);
        assert_int_equal(seen.of[AZREDIS_EV_DRAINED], round);           /* at once, and not at the next keepalive */
        assert_int_equal(loop_turn(20), AZREDIS_OK);
        assert_int_equal(seen.of[AZREDIS_EV_DRAINED], round);           /* once */
    }
    done();
}

/* ---- waking ---------------------------------------------------------------------------------------- */

static void *wake_soon(void *user)
{
    live_nap(100);
    azredis_wake(user);
    return NULL;
}

static void on_signal(int sig)
{
    (void)sig;
    azredis_wake(client);
}

/* Connected and at rest: the next time is far. */
static void come_to_rest(void)
{
    loop_until(live_connected(client), LIVE_SOON);
    loop_until((loop_list(), azredis_timeout_ms(client) > 20000), LIVE_SOON);
}

static void test_wake(void **state)
{
    azredis_options o = {0};
    pthread_t thread;
    long ready;
    (void)state;
    signal(SIGUSR1, on_signal);
    begin(&o);
    come_to_rest();
    ready = loop.ready;
    assert_int_equal(pthread_create(&thread, NULL, wake_soon, client), 0);
    assert_in_time(assert_int_equal(loop_turn(LIVE_SOON), AZREDIS_OK), 5000);   /* of 20 s and more */
    pthread_join(thread, NULL);
    assert_int_equal(loop.ready, ready + 1);
    loop_list();
    assert_true(azredis_timeout_ms(client) > 15000);
    errno = ERANGE;
    raise(SIGUSR1);                             /* after the time was asked for, before the sleep */
    assert_int_equal(errno, ERANGE);
    assert_in_time(loop_sleep(LIVE_SOON), 5000);
    assert_int_equal(loop.ready, ready + 2);
    assert_int_equal(azredis_process(client, loop.had, loop.count), AZREDIS_OK);
    assert_in_time((void)azredis_wait(client, 100), 5000);                      /* both wakes are used up */
    assert_int_equal(pthread_create(&thread, NULL, wake_soon, client), 0);
    assert_in_time(azredis_wait(client, LIVE_SOON), 5000);                      /* while it waits */
    pthread_join(thread, NULL);
    raise(SIGUSR1);
    assert_in_time(azredis_wait(client, LIVE_SOON), 5000);                      /* before it waits */
    azredis_wake(client);
    live_incr(client, "n");                                                     /* a call in between does not use it up */
    assert_in_time(azredis_wait(client, LIVE_SOON), 5000);
    {
        int64_t start = live_ms();
        assert_int_equal(azredis_wait(client, 200), AZREDIS_OK);                /* and now none is left */
        assert_true(live_ms() - start >= 195);
    }
    signal(SIGUSR1, SIG_DFL);
    done();
}

/* ---- without a list; late loops; mistakes ----------------------------------------------------------- */

static void test_no_list(void **state)
{
    azredis_options o = {0};
    int64_t until = live_ms() + LIVE_SOON;
    long closed;
    (void)state;
    begin(&o);
    while (!live_connected(client) && live_ms() < until) {
        assert_int_equal(azredis_process(client, NULL, 0), AZREDIS_OK);
        live_nap(2);
    }
    assert_true(live_connected(client));
    assert_true(loop.closed >= 1);              /* the token request's */
    loop_list();                                /* from now on somebody watches */
    closed = loop.closed;
    live_fault(&em, "expire-now", NULL, "1");
    await(live_number(&em, "connections_open") == 0, LIVE_SOON);
    live_await_end(client);
    assert_int_equal(azredis_process(client, loop.had, loop.count), AZREDIS_OK);
    assert_int_equal(live_connected(client), 0);
    assert_int_equal(loop.closed, closed);      /* it was in the list */
    loop.watches = 0;                           /* and now nobody watches any more */
    assert_int_equal(azredis_process(client, NULL, 0), AZREDIS_OK);
    assert_true(loop.closed > closed);
    done();
}

static void test_late_loop(void **state)
{
    static live_events seen;
    azredis_options o = {.keepalive_ms = 200, .on_event = live_on_event, .event_user = &seen, .log_level = AZREDIS_LOG_DEBUG};
    live_load l = {0};
    size_t probes;
    (void)state;
    memset(&seen, 0, sizeof seen);
    begin(&o);
    loop_until(live_connected(client), LIVE_SOON);
    probes = live_logged(&seen, AZRI_LOG_PROBE);
    live_nap(400);                              /* longer than the keepalive, shorter than the token */
    loop_load(&l, 1);
    loop_until(live_unfinished(&l) == 0, LIVE_SOON);
    assert_true(live_logged(&seen, AZRI_LOG_PROBE) > probes);
    assert_int_equal(live_stats(client).reconnects, 0);
    live_nap(2500);                             /* the token and its connection are dead by now */
    loop_load(&l, 1);
    loop_until(live_unfinished(&l) == 0, LIVE_SOON);
    assert_int_equal(l.acknowledged, 2);
    assert_int_equal(live_stats(client).reconnects, 1);
    done();
}

static void test_mistakes(void **state)
{
    azredis_options o = {.host = "bad host"}, p = {0};
    azredis_fd f[4];
    (void)state;
    assert_int_equal(azredis_fds(NULL, f, 4), 0);
    assert_int_equal(azredis_timeout_ms(NULL), 30000);
    assert_int_equal(azredis_process(NULL, NULL, 0), AZREDIS_E_NOMEM);
    azredis_wake(NULL);
    begin(&o);
    assert_int_equal(azredis_fds(client, f, 4), 0);
    assert_int_equal(azredis_timeout_ms(client), 30000);
    assert_int_equal(azredis_process(client, f, 0), AZREDIS_E_ARG);
    done();
    begin(&p);                                  /* the loop's calls end where azredis_start begins */
    assert_true(azredis_fds(client, f, 4) > 0);
    assert_int_equal(azredis_start(client), AZREDIS_OK);
    assert_int_equal(azredis_fds(client, f, 4), 0);
    assert_int_equal(azredis_timeout_ms(client), 30000);
    assert_int_equal(azredis_process(client, f, 0), AZREDIS_E_STATE);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_renewals_by_poll, setup, teardown),
        cmocka_unit_test_setup_teardown(test_short_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_socket_closed_while_watched, setup, teardown),
        cmocka_unit_test_setup_teardown(test_silent_resolver, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_black_hole_as_authority, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_stalled_server, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case49_submit_in_callbacks, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case49_close_in_callback, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_close_between, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case49_unsubscribe_in_message, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_full_and_drained, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_wake, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_no_list, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_late_loop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mistakes, setup_hour, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
