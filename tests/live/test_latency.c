/* How long a PING takes at the most while tokens are renewed, through a relay that adds 20 ms each way. Beside it a client
 * with an access key, which renews nothing, shows what is the machine's own.
 *   cc -std=gnu11 -I. tests/live/test_latency.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread
 * Environment (what `make bench-renewal` sets): LATENCY_RENEWALS (2). */
#include "azredis_entra.h"
#include "live.h"
#include <netinet/tcp.h>
#include <stdatomic.h>

#define DELAY_US 20000
#define SPARE_US 45000                  /* a renewal may cost that much more than the median: one round trip and a little */
#define LINES    4                      /* connections at once, each with two ways */
#define PIECES   64                     /* of one way that are under way */
#define PIECE    4096

static live em;
static azredis_client *entra, *keyed;   /* closed by the teardown if the test failed before */

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- relay ------------------------------------------------------------------------------------ */

/* A ring of what has come and when it goes on. */
typedef struct way {
    int      from, to, open;
    unsigned first, count;
    struct { int64_t due; size_t len; char bytes[PIECE]; } piece[PIECES];
} way;

static way ways[2 * LINES];             /* of the relay's thread */
static int listener;
static atomic_int relaying;

static void way_carry(way *w, int ready, int64_t now)
{
    if (ready && w->count < PIECES) {
        unsigned at = (w->first + w->count) % PIECES;
        ssize_t n = recv(w->from, w->piece[at].bytes, PIECE, MSG_DONTWAIT);
        if (n > 0) {
            w->piece[at].len = (size_t)n;
            w->piece[at].due = now + DELAY_US;
            w->count++;
        } else if (n == 0 || errno != EAGAIN) {
            shutdown(w->to, SHUT_WR);
            w->open = 0;
        }
    }
    for (; w->count && w->piece[w->first].due <= now; w->count--) {
        (void)live_send(w->to, w->piece[w->first].bytes, w->piece[w->first].len);
        w->first = (w->first + 1) % PIECES;
    }
}

static void relay_accept(void)
{
    int i, now = 1, client = accept(listener, NULL, NULL), server = live_dial(em.gateway_port);
    for (i = 0; i < LINES && ways[2 * i].open; i++) {}
    assert_true(client >= 0 && server >= 0 && i < LINES);
    (void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &now, sizeof now);       /* the delay is ours alone */
    (void)setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &now, sizeof now);
    ways[2 * i].from = ways[2 * i + 1].to = client;
    ways[2 * i].to = ways[2 * i + 1].from = server;
    ways[2 * i].open = ways[2 * i + 1].open = 1;
}

static void *relay_run(void *user)
{
    (void)user;
    while (atomic_load(&relaying)) {
        struct pollfd p[2 * LINES + 1] = {{0}};
        int64_t now = now_us(), until = now + 50000;
        int i;
        for (i = 0; i < 2 * LINES; i++) {
            p[i].fd = ways[i].open ? ways[i].from : -1;
            p[i].events = POLLIN;
            if (ways[i].count && ways[i].piece[ways[i].first].due < until) until = ways[i].piece[ways[i].first].due;
        }
        p[i].fd = listener;
        p[i].events = POLLIN;
        (void)poll(p, 2 * LINES + 1, until > now ? (int)((until - now + 999) / 1000) : 0);
        for (i = 0; i < 2 * LINES; i++)
            if (ways[i].from > 0) way_carry(&ways[i], p[i].revents != 0, now_us());
        if (p[i].revents) relay_accept();
    }
    return NULL;
}

static int relay_listen(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    memset(ways, 0, sizeof ways);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 4), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &n), 0);
    atomic_store(&relaying, 1);
    return ntohs(a.sin_port);
}

/* ---- the measurement ---------------------------------------------------------------------------- */

#define MOST 100000

typedef struct pinger { pthread_t thread; azredis_client *client; int count, failed; int64_t took[MOST]; } pinger;

static atomic_int enough;

static void *ping(void *user)
{
    pinger *p = user;
    while (!atomic_load(&enough) && p->count < MOST) {
        int64_t began = now_us();
        p->failed += azredis_command(p->client, NULL, "PING") != AZREDIS_OK;
        p->took[p->count++] = now_us() - began;
    }
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t part(const pinger *p, int of_100) { return p->took[(p->count - 1) * of_100 / 100]; }

static azredis_client *begin(azredis_options *o)
{
    azredis_client *c = live_new(&em, o);
    assert_int_equal(azredis_start(c), AZREDIS_OK);
    assert_int_equal(azredis_connect(c, LIVE_SOON, NULL), AZREDIS_OK);
    return c;
}

static void test_longest_wait_of_a_renewal(void **state)
{
    static pinger one, other;
    const char *z = getenv("LATENCY_RENEWALS");
    uint32_t renewals = z && *z ? (uint32_t)atoi(z) : 2;
    azredis_auth_options key = {.identity = AZREDIS_ID_ACCESS_KEY, .password = getenv("AZREDIS_ACCESS_KEY")};
    azredis_options o = {0}, plain = {0};
    char host[64];
    pthread_t relay;
    int64_t machine;
    (void)state;
    snprintf(host, sizeof host, "localhost:%d", relay_listen());
    assert_int_equal(pthread_create(&relay, NULL, relay_run, NULL), 0);
    o.host = plain.host = host;
    plain.identity = &key;
    entra = one.client = begin(&o);
    keyed = other.client = begin(&plain);
    atomic_store(&enough, 0);
    assert_int_equal(pthread_create(&one.thread, NULL, ping, &one), 0);
    assert_int_equal(pthread_create(&other.thread, NULL, ping, &other), 0);
    await(live_stats(entra).reauths >= renewals, 20000 * (int)renewals);
    live_nap(200);
    atomic_store(&enough, 1);
    pthread_join(one.thread, NULL);
    pthread_join(other.thread, NULL);
    assert_int_equal(one.failed + other.failed, 0);
    assert_int_equal(live_stats(entra).reconnects, 0);
    qsort(one.took, (size_t)one.count, sizeof one.took[0], by_size);
    qsort(other.took, (size_t)other.count, sizeof other.took[0], by_size);
    machine = part(&other, 100) > part(&one, 50) ? part(&other, 100) : part(&one, 50);
    print_message("%u renewals, %d PINGs through 20 ms each way: median %.1f ms, 99 %% %.1f, longest %.1f; without renewals %.1f, %.1f, %.1f\n",
                  renewals, one.count, (double)part(&one, 50) / 1000, (double)part(&one, 99) / 1000, (double)part(&one, 100) / 1000,
                  (double)part(&other, 50) / 1000, (double)part(&other, 99) / 1000, (double)part(&other, 100) / 1000);
    assert_true(part(&one, 50) >= 2 * DELAY_US);        /* the relay does what it says */
    if (part(&one, 100) > machine + SPARE_US)
        fail_msg("a PING took %d us, the machine's own longest is %d", (int)part(&one, 100), (int)machine);
    azredis_close(entra);
    azredis_close(keyed);
    entra = keyed = NULL;
    atomic_store(&relaying, 0);
    pthread_join(relay, NULL);
}

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "3", "--access-key", NULL);
    return 0;
}

static int teardown(void **state)
{
    int i;
    (void)state;
    azredis_close(entra);
    azredis_close(keyed);
    entra = keyed = NULL;
    close(listener);
    for (i = 0; i < 2 * LINES; i++)
        if (ways[i].from > 0) close(ways[i].from);
    live_stop(&em);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_longest_wait_of_a_renewal, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
