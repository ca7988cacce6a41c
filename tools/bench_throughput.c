/* GETs a second of 1, 8 and 32 threads over TLS: on one client of ours beside one hiredis connection per thread, in
 * turn, five rounds each; the medians and their ratio.
 *   make bench-throughput        Environment: AZREDIS_ENDPOINT, AZURE_*; ROUND_MS (500), the length of one round. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS 32
#define ROUNDS  5

static azredis_client *ours;
static redisContext *theirs[THREADS];
static atomic_int running;

typedef struct worker { pthread_t thread; int number; long calls; } worker;

static void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void nap(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* A connection that TLS has verified and the token has signed in. */
static redisContext *hiredis_open(const char *endpoint, SSL_CTX *roots, const azredis_token *t) {
    const char *colon = strrchr(endpoint, ':');
    char host[256];
    redisContext *c;
    redisReply *r;
    SSL *ssl = SSL_new(roots);
    snprintf(host, sizeof host, "%.*s", (int)(colon - endpoint), endpoint);
    c = redisConnect(host, atoi(colon + 1));
    if (!c || c->err || !ssl) die("hiredis", c ? c->errstr : "no memory");
    if (!SSL_set1_host(ssl, host) || redisInitiateSSL(c, ssl) != REDIS_OK) die("hiredis TLS", c->errstr);
    r = redisCommand(c, "AUTH %s %b", t->user, t->jwt, t->jwt_len);
    if (!r || r->type != REDIS_REPLY_STATUS) die("hiredis AUTH", r ? r->str : c->errstr);
    freeReplyObject(r);
    return c;
}

static void *our_work(void *user) {
    worker *w = user;
    azredis_reply r = {0};
    while (atomic_load(&running)) {
        if (azredis_command(ours, &r, "GET", "k") != AZREDIS_OK) die("GET", r.error->message);
        w->calls++;
    }
    azredis_reply_free(&r);
    return NULL;
}

static void *their_work(void *user) {
    worker *w = user;
    redisContext *c = theirs[w->number];
    while (atomic_load(&running)) {
        redisReply *r = redisCommand(c, "GET k");
        if (!r || r->type != REDIS_REPLY_STRING) die("hiredis GET", r ? r->str : c->errstr);
        freeReplyObject(r);
        w->calls++;
    }
    return NULL;
}

/* Calls a second. */
static double round_of(void *(*work)(void *), int threads, long ms) {
    worker all[THREADS];
    struct timespec a, b;
    long calls = 0;
    int i;
    memset(all, 0, sizeof all);
    atomic_store(&running, 1);
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (i = 0; i < threads; i++) {
        all[i].number = i;
        if (pthread_create(&all[i].thread, NULL, work, &all[i]) != 0) die("thread", "none left");
    }
    nap(ms);
    atomic_store(&running, 0);
    for (i = 0; i < threads; i++) {
        pthread_join(all[i].thread, NULL);
        calls += all[i].calls;
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (double)calls / ((double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void) {
    static const int threads[] = {1, 8, 32};
    const char *endpoint = getenv("AZREDIS_ENDPOINT"), *z = getenv("ROUND_MS");
    long ms = z ? atol(z) : 500;
    SSL_CTX *roots = SSL_CTX_new(TLS_client_method());
    azredis_options o = {0};
    azredis_token t;
    azredis_error why;
    azredis_stats_data d;
    size_t i;
    int k;
    if (!endpoint || !roots || !SSL_CTX_set_default_verify_paths(roots)) die("bench", "no AZREDIS_ENDPOINT, or no roots");
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX_set_verify(roots, SSL_VERIFY_PEER, NULL);
    o.host = endpoint;
    o.auth = azredis_auth_open(NULL);
    ours = azredis_open(&o);
    if (azredis_start(ours) != AZREDIS_OK || azredis_command(ours, NULL, "SET", "k", "value") != AZREDIS_OK)
        die("bench", "the client does not connect");
    if (azredis_auth_token(o.auth, &t, 10000, &why) != AZREDIS_OK) die("token", why.message);
    for (k = 0; k < THREADS; k++) theirs[k] = hiredis_open(endpoint, roots, &t);
    puts("threads   one client                        hiredis, one connection a thread   ratio");
    for (i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        double a[ROUNDS], b[ROUNDS], ratio[ROUNDS];
        for (k = 0; k < ROUNDS; k++) {
            a[k] = round_of(our_work, threads[i], ms);
            b[k] = round_of(their_work, threads[i], ms);
            ratio[k] = a[k] / b[k];
        }
        qsort(a, ROUNDS, sizeof a[0], by_size);
        qsort(b, ROUNDS, sizeof b[0], by_size);
        qsort(ratio, ROUNDS, sizeof ratio[0], by_size);
        azredis_stats(ours, &d);
        if (d.connects != 1) die("bench", "the client has made more than one connection");
        printf("%7d   %10.0f GET/s, %u connection    %10.0f GET/s, %2d open              %.2f\n", threads[i], a[ROUNDS / 2],
               (unsigned)d.connections, b[ROUNDS / 2], threads[i], ratio[ROUNDS / 2]);
    }
    for (k = 0; k < THREADS; k++) redisFree(theirs[k]);
    azredis_token_wipe(&t);
    azredis_close(ours);
    azredis_auth_release(o.auth);
    SSL_CTX_free(roots);
    return 0;
}
