/* What happens to a service in its own right: clients that the server closes because they are idle or do not read, a
 * flood of messages, a cache that moves to another address; and that a client leaves nothing behind, however often it
 * is made or renewed.
 *   cc -std=gnu11 -I. tests/live/test_outage.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define _GNU_SOURCE
#include "azredis_entra.h"
#include "live.h"
#include <dirent.h>
#include <dlfcn.h>
#include <netdb.h>
#include <semaphore.h>
#include <stdatomic.h>

#define CLIENTS 4

static live em;
static azredis_client *client[CLIENTS]; /* closed by the teardown if the test failed before */

static void done(void)
{
    int i;
    for (i = 0; i < CLIENTS; i++) {
        azredis_close(client[i]);
        client[i] = NULL;
    }
}

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--access-key", NULL);
    return 0;
}

/* For what a failed test has left as well. */
static sem_t gate;                      /* a handler may still stand at it */
static live_relay before, after;
static atomic_int moved_to;             /* the port that the gateway's name leads to; 0: what the system says */

static int teardown(void **state)
{
    (void)state;
    sem_post(&gate);
    done();
    atomic_store(&moved_to, 0);
    live_relay_stop(&before);
    live_relay_stop(&after);
    live_stop(&em);
    return 0;
}

static void configure(const char *name, const char *value)
{
    json_t *reply = live_redis(&em, "CONFIG", "SET", name, value, NULL);
    assert_string_equal(json_string_value(reply), "OK");
    json_decref(reply);
}

/* ---- the library's memory ---------------------------------------------------------------------- */

static atomic_long bytes, most, blocks; /* most: of bytes since it was set */

static void *counted_alloc(void *user, size_t n)
{
    void *p = malloc(n ? n : 1);
    long now, before = atomic_load(&most);
    (void)user;
    if (!p)
        return NULL;
    now = atomic_fetch_add(&bytes, (long)n) + (long)n;
    while (now > before && !atomic_compare_exchange_weak(&most, &before, now)) {
    }
    atomic_fetch_add(&blocks, 1);
    return p;
}

static void counted_free(void *user, void *p, size_t n)
{
    (void)user;
    atomic_fetch_sub(&bytes, (long)n);
    atomic_fetch_sub(&blocks, 1);
    free(p);
}

static const azredis_port counted = {.alloc = counted_alloc, .free = counted_free};

static void assert_no_memory(void)
{
    assert_int_equal(atomic_load(&bytes), 0);
    assert_int_equal(atomic_load(&blocks), 0);
}

static int count_dir(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    int n = 0;
    assert_non_null(d);
    while ((e = readdir(d)))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* ---- idle ---------------------------------------------------------------------------------------- */

static void keep_reply(azredis_client *c, const azredis_reply *r, void *user)
{
    (void)c;
    assert_int_equal(azredis_reply_copy(user, r), AZREDIS_OK);
}

/* One INCR by each kind of call; whatever the kind, the answer is an integer. */
static void incr_by(int kind, azredis_client *c, const char *key, azredis_reply *r)
{
    azredis_str argv[2] = {{"INCR", 4}, azredis_z(key)};
    azredis_cmd cmd = {2, argv};
    if (kind == 0)
        azredis_command_argv(c, r, NULL, 2, argv);
    else if (kind == 1)
        azredis_exec(c, r, NULL, &cmd, 1);
    else {
        assert_int_equal(azredis_submit(c, NULL, 2, argv, keep_reply, r), AZREDIS_OK);
        await((azredis_wait(c, 10), r->value || r->error), LIVE_SOON);
    }
}

/* Case 36: the server itself closes who was idle. The first command afterwards goes to a new connection: none is
 * written into the one that ended, so that nobody has to wonder whether it ran. */
static void test_case36_closed_by_the_server_for_idleness(void **state)
{
    static const char *const key[CLIENTS] = {"plain", "exec", "submit", "threads"};
    static live_events of_threads;
    azredis_options o = {.keepalive_ms = AZREDIS_NEVER};
    azredis_reply r = {0};
    int i;
    (void)state;
    for (i = 0; i < CLIENTS; i++) {
        if (i == 3) o.event_user = &of_threads;         /* told by a thread of its own */
        client[i] = live_open(&em, &o);
        assert_int_equal(live_incr(client[i], key[i]), 1);
    }
    assert_int_equal(azredis_start(client[3]), AZREDIS_OK);
    configure("timeout", "1");
    await(live_number(&em, "connections_opened") > CLIENTS, LIVE_SOON);     /* the one with threads is back by itself */
    for (i = 0; i < 3; i++)
        live_await_end(client[i]);
    configure("timeout", "0");
    for (i = 0; i < CLIENTS; i++) {
        incr_by(i % 3, client[i], key[i], &r);
        assert_int_equal(r.status, AZREDIS_OK);
        assert_int_equal(r.fate, AZREDIS_ANSWERED);
        azredis_reply_free(&r);
        assert_int_equal(live_get_number(&em, key[i]), 2);
        assert_int_equal(live_stats(client[i]).commands_failed, 0);
        assert_true(live_stats(client[i]).reconnects > 0);
    }
    done();
    assert_int_equal(of_threads.leaks, 0);
}

/* ---- messages nobody reads ------------------------------------------------------------------------ */

#define FLOOD_BYTES (256 * 1024)        /* of a message: some tens of them fill all buffers of the way */
#define FLOOD_MOST  400

/* Publishes numbers until the server has nobody left to send them to; how many it sent. The first is short: it is with
 * the subscriber before the server gives up, whatever becomes of those behind it. */
static long flood(azredis_client *from, const char *channel)
{
    char *text = calloc(1, FLOOD_BYTES);
    azredis_str payload = {text, FLOOD_BYTES};
    int64_t receivers = 1;
    long n = 0;
    assert_non_null(text);
    while (receivers == 1 && n < FLOOD_MOST) {
        snprintf(text, FLOOD_BYTES, "%ld", ++n);
        payload.len = n == 1 ? 1 : FLOOD_BYTES;
        assert_int_equal(azredis_publish(from, NULL, channel, payload, &receivers), AZREDIS_OK);
    }
    free(text);
    assert_int_equal(receivers, 0);
    return n - 1;
}

/* An idle subscriber is cut for some other reason: nothing is said of limits. */
static void test_idle_subscriber_is_cut(void **state)
{
    azredis_options o = {.pubsub = AZREDIS_PUBSUB_SEPARATE};
    azredis_sub *sub;
    azredis_message m;
    const live_event *told;
    (void)state;
    memset(&live_seen, 0, sizeof live_seen);
    client[0] = live_open(&em, &o);
    sub = azredis_subscribe(client[0], AZREDIS_CHANNEL, "news", NULL, NULL);
    assert_int_equal(azredis_subscribed(sub, LIVE_SOON, NULL), AZREDIS_OK);
    live_nap(1500);
    json_decref(live_redis(&em, "CLIENT", "KILL", "TYPE", "pubsub", NULL));
    while (!live_seen.of[AZREDIS_EV_CONNECTION_RESTORED])
        assert_int_equal(azredis_next(sub, &m, 20), AZREDIS_AGAIN);
    told = live_nth(&live_seen, AZREDIS_EV_CONNECTION_FAILED, 0);
    assert_non_null(told);
    assert_int_equal(told->ev.connection, AZREDIS_CONNECTION_PUBSUB);
    assert_has(told->error.message, "the server closed the connection");
    assert_null(strstr(told->error.message, "limit"));
    done();
}

/* The server ends a subscriber that does not read, at its output-buffer limit. What was on the way still arrives, in
 * order; then the end is told as that of the connection it was, and the first message of the next one has a gap. */
static void subscriber_does_not_read(azredis_pubsub pubsub, int protocol)
{
    azredis_options o = {.pubsub = pubsub, .protocol = protocol}, p = {0};
    azredis_sub *sub;
    azredis_message m;
    azredis_status st;
    const live_event *told;
    long sent, read = 0;
    memset(&live_seen, 0, sizeof live_seen);
    client[0] = live_open(&em, &o);
    client[1] = live_open(&em, &p);
    sub = azredis_subscribe(client[0], AZREDIS_CHANNEL, "news", NULL, NULL);
    assert_int_equal(azredis_subscribed(sub, LIVE_SOON, NULL), AZREDIS_OK);
    sent = flood(client[1], "news");
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 0);    /* nobody has looked yet */
    do {
        st = azredis_next(sub, &m, 20);
        if (st == AZREDIS_OK) {
            assert_int_equal(strtol(m.payload.ptr, NULL, 10), ++read);
            assert_int_equal(m.gap + m.lost, 0);
        }
    } while (st == AZREDIS_OK || !live_seen.of[AZREDIS_EV_CONNECTION_RESTORED]);
    assert_in_range(read, 1, sent - 1);
    told = live_nth(&live_seen, AZREDIS_EV_CONNECTION_FAILED, 0);
    assert_non_null(told);
    assert_int_equal(told->error.code, AZREDIS_E_CLOSED);
    assert_int_equal(told->ev.connection, pubsub || protocol == 2 ? AZREDIS_CONNECTION_PUBSUB : AZREDIS_CONNECTION_SHARED);
    assert_has(told->error.message, "the server closed the connection");
    assert_has(told->error.message, "client-output-buffer-limit pubsub");       /* and what to mend */
    assert_int_equal(azredis_subscribed(sub, LIVE_SOON, NULL), AZREDIS_OK);
    json_decref(live_redis(&em, "PUBLISH", "news", "0", NULL));
    assert_int_equal(azredis_next(sub, &m, LIVE_SOON), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "0");
    assert_int_equal(m.gap, 1);
    json_decref(live_redis(&em, "PUBLISH", "news", "0", NULL));
    assert_int_equal(azredis_next(sub, &m, LIVE_SOON), AZREDIS_OK);
    assert_int_equal(m.gap, 0);
    done();
}

static void test_case37_subscriber_does_not_read(void **state)
{
    (void)state;
    configure("client-output-buffer-limit", "pubsub 1mb 512kb 5");
    subscriber_does_not_read(AZREDIS_PUBSUB_SHARED, 3);
    subscriber_does_not_read(AZREDIS_PUBSUB_SEPARATE, 3);
    subscriber_does_not_read(AZREDIS_PUBSUB_SHARED, 2);
}

#define MESSAGES 20000
#define BATCH    500                    /* of them in one flight */
#define QUEUE    100
#define PAYLOAD  1000

/* The handler of a slow program: it stands at the gate until the flood is over. */
typedef struct slow { sem_t entered; atomic_long received, lost, last; atomic_int disorder; } slow;

static void on_slow_message(azredis_client *c, const azredis_message *m, void *user)
{
    slow *s = user;
    long n = strtol(m->payload.ptr, NULL, 10);
    (void)c;
    if (atomic_fetch_add(&s->received, 1) == 0) {
        sem_post(&s->entered);
        while (sem_wait(&gate) != 0) {
        }
    }
    atomic_fetch_add(&s->lost, m->lost);
    if (n != atomic_load(&s->last) + 1 + (long)m->lost || m->payload.len != PAYLOAD)
        atomic_store(&s->disorder, 1);
    atomic_store(&s->last, n);
}

static void publish_many(azredis_client *from, long first, long n)
{
    static char text[BATCH][PAYLOAD];
    azredis_str argv[BATCH][3];
    azredis_cmd cmd[BATCH];
    azredis_reply r = {0};
    long i;
    assert_true(n <= BATCH);
    for (i = 0; i < n; i++) {
        snprintf(text[i], PAYLOAD, "%ld", first + i);
        argv[i][0] = azredis_z("PUBLISH");
        argv[i][1] = azredis_z("news");
        argv[i][2] = (azredis_str){text[i], PAYLOAD};
        cmd[i] = (azredis_cmd){3, argv[i]};
    }
    assert_int_equal(azredis_exec(from, &r, NULL, cmd, (size_t)n), AZREDIS_OK);
    for (i = 0; i < n; i++)
        assert_int_equal(r.value->as.items[i].as.integer, 1);
    azredis_reply_free(&r);
}

/* Case 37: 20 MB of messages meet a handler that stands still. Its client goes on, takes no more memory than the queue
 * may hold, and what was lost is counted to the last one, before the very message that follows it. */
static void test_case37_flood_against_a_slow_handler(void **state)
{
    azredis_options o = {.port = &counted, .sub_queue = QUEUE}, p = {0};
    azredis_stats_data d;
    azredis_sub *sub;
    static slow s;                      /* a failed test leaves its handler */
    long base, n;
    (void)state;
    memset(&s, 0, sizeof s);
    assert_int_equal(sem_init(&s.entered, 0, 0) + sem_init(&gate, 0, 0), 0);
    client[0] = live_open(&em, &o);
    client[1] = live_open(&em, &p);
    assert_int_equal(azredis_start(client[0]), AZREDIS_OK);
    sub = azredis_subscribe(client[0], AZREDIS_CHANNEL, "news", on_slow_message, &s);
    assert_int_equal(azredis_subscribed(sub, LIVE_SOON, NULL), AZREDIS_OK);
    publish_many(client[1], 1, 1);
    while (sem_wait(&s.entered) != 0) {
    }
    base = atomic_load(&bytes);
    atomic_store(&most, base);
    for (n = 2; n <= MESSAGES; n += BATCH)
        publish_many(client[1], n, n + BATCH <= MESSAGES ? BATCH : MESSAGES - n + 1);
    await(live_stats(client[0]).messages == MESSAGES, LIVE_SOON);
    assert_int_equal(live_incr(client[0], "n"), 1);     /* only its handler stands still */
    assert_in_range(atomic_load(&most) - base, QUEUE / 2 * PAYLOAD, QUEUE * 2 * PAYLOAD);
    assert_int_equal(atomic_load(&s.received), 1);
    sem_post(&gate);
    await(atomic_load(&s.last) == MESSAGES, LIVE_SOON);
    assert_int_equal(atomic_load(&s.disorder), 0);
    assert_int_equal(atomic_load(&s.received), 1 + QUEUE);
    assert_int_equal(atomic_load(&s.received) + atomic_load(&s.lost), MESSAGES);
    d = live_stats(client[0]);
    assert_int_equal(d.messages_lost, atomic_load(&s.lost));
    assert_int_equal(d.reconnects, 0);
    done();
    assert_no_memory();
    sem_destroy(&s.entered);
}

/* ---- nothing is left ------------------------------------------------------------------------------ */

static void open_and_close(azredis_options *o, int connect, int threads)
{
    azredis_sub *sub;
    client[0] = live_new(&em, o);
    sub = azredis_subscribe(client[0], AZREDIS_CHANNEL, "news", NULL, NULL);
    assert_non_null(sub);
    if (threads)
        assert_int_equal(azredis_start(client[0]), AZREDIS_OK);
    if (connect)
        assert_int_equal(azredis_subscribed(sub, LIVE_SOON, NULL), AZREDIS_OK);
    done();
}

/* 10 000 clients that are closed before they connect, a hundredth of them while their threads are about to, and 200
 * with a connection and a subscription. */
static void test_opened_and_closed_in_masses(void **state)
{
    azredis_auth_options key = {.identity = AZREDIS_ID_ACCESS_KEY, .password = getenv("AZREDIS_ACCESS_KEY")};
    azredis_options o = {.port = &counted, .identity = &key};
    int i, fds = 0, tasks = 0;
    (void)state;
    for (i = 0; i < 10000; i++) {
        open_and_close(&o, 0, i % 100 == 99);
        assert_no_memory();
    }
    for (i = 0; i < 204; i++) {
        open_and_close(&o, 1, i & 1);
        assert_no_memory();
        if (i == 3) {                   /* what libc and a sanitizer keep, they have by now */
            fds = count_dir("/proc/self/fd");
            tasks = count_dir("/proc/self/task");
        }
    }
    assert_int_equal(count_dir("/proc/self/fd"), fds);
    await(count_dir("/proc/self/task") <= tasks, LIVE_SOON);    /* look-up threads end a moment later */
}

#define EARLY 5
#define LATE  20

static int setup_renewing(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "10", "--fault", "token-refresh-in=1*", NULL);
    return 0;
}

/* Commands go on until the client has renewed so many times, and everything has come to rest; the bytes it has. */
static long bytes_at_renewal(azredis_client *c, uint32_t n)
{
    static const azredis_str ping[1] = {{"PING", 4}};
    azredis_cmd cmd[20];
    azredis_reply r = {0};
    int i;
    for (i = 0; i < 20; i++)
        cmd[i] = (azredis_cmd){1, ping};
    await((live_incr(c, "n"), azredis_exec(c, &r, NULL, cmd, 20) == AZREDIS_OK && azredis_wait(c, 5) == AZREDIS_OK &&
           live_stats(c).reauths >= n), 2 * LIVE_SOON);
    azredis_reply_free(&r);
    assert_int_equal(live_stats(c).reauths, n);
    return atomic_load(&bytes);
}

/* A client that renews its token takes nothing more for it than at first. */
static void test_same_memory_after_each_renewal(void **state)
{
    azredis_options o = {.port = &counted};
    long early, early_blocks;
    (void)state;
    client[0] = live_open(&em, &o);
    early = bytes_at_renewal(client[0], EARLY);
    early_blocks = atomic_load(&blocks);
    assert_int_equal(bytes_at_renewal(client[0], LATE), early);
    assert_int_equal(atomic_load(&blocks), early_blocks);
    assert_int_equal(live_stats(client[0]).reconnects + live_stats(client[0]).commands_failed, 0);
    done();
    assert_no_memory();
}

/* ---- the cache moves ------------------------------------------------------------------------------- */

static atomic_int asked;                /* for the gateway's address */

/* The name service of this program. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    int (*system_one)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    struct addrinfo *a;
    int port = atomic_load(&moved_to), err;
    *(void **)&system_one = dlsym(RTLD_NEXT, "getaddrinfo");
    err = system_one(host, service, hints, out);
    if (err || !port || !service || atoi(service) != em.gateway_port || (hints->ai_flags & AI_NUMERICHOST))
        return err;
    atomic_fetch_add(&asked, 1);
    for (a = *out; a; a = a->ai_next) {
        if (a->ai_family == AF_INET)
            ((struct sockaddr_in *)(void *)a->ai_addr)->sin_port = htons((uint16_t)port);
        else if (a->ai_family == AF_INET6)
            ((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_port = htons((uint16_t)port);
    }
    return 0;
}

/* Case 34: the cache is moved, and its name with it. The old address ends and answers nobody any more: each reconnect
 * asks for the name again. */
static void test_case34_name_leads_elsewhere_at_reconnect(void **state)
{
    azredis_options o = {0};
    (void)state;
    live_relay_start(&before, em.gateway_port);
    live_relay_start(&after, em.gateway_port);
    atomic_store(&asked, 0);
    atomic_store(&moved_to, before.port);
    client[0] = live_open(&em, &o);
    assert_int_equal(live_incr(client[0], "n"), 1);
    assert_int_equal(atomic_load(&asked), 1);
    atomic_store(&moved_to, after.port);
    live_relay_stop(&before);
    live_await_end(client[0]);
    assert_int_equal(live_incr(client[0], "n"), 2);
    assert_int_equal(atomic_load(&asked), 2);
    assert_int_equal(live_stats(client[0]).reconnects, 1);
    assert_int_equal(live_stats(client[0]).commands_failed, 0);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_case36_closed_by_the_server_for_idleness, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case37_subscriber_does_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle_subscriber_is_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case37_flood_against_a_slow_handler, setup, teardown),
        cmocka_unit_test_setup_teardown(test_opened_and_closed_in_masses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_memory_after_each_renewal, setup_renewing, teardown),
        cmocka_unit_test_setup_teardown(test_case34_name_leads_elsewhere_at_reconnect, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
