/* The work that tools/bench.py counts, once over azredis_entra.h and once (-DBENCH_HIREDIS) over hiredis.
 *   bench PORT CA-FILE|- WORKLOAD...
 * PORT on 127.0.0.1; "-": plain TCP. Workloads: ping-pong (SET, GET of 32 bytes, one at a time), pipeline-64 (64 GETs
 * in a flight), set-64k, get-64k, mget-1000 (keys of 32 bytes), publish-64 (64 messages, published and received; not
 * hiredis), parse-bulk and parse-array (16 KB at a time, from memory), connect (with AUTH). Under callgrind each workload is a dump of its own, "WORKLOAD OPERATIONS"; built
 * with -DBENCH_COUNT each prints a line: allocations, bytes the header copied, calls that write, read and wait. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/callgrind.h>

#ifdef BENCH_COUNT
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct { uint64_t mallocs, copied, sends, recvs, polls; } count;

/* The program's own functions stand before libc's, for every library that it loads. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *malloc(size_t n) { count.mallocs++; return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { count.mallocs++; return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { count.mallocs++; return __libc_realloc(p, n); }
ssize_t send(int fd, const void *p, size_t n, int flags) { count.sends++; return sendto(fd, p, n, flags, NULL, 0); }
ssize_t recv(int fd, void *p, size_t n, int flags) { count.recvs++; return recvfrom(fd, p, n, flags, NULL, NULL); }
ssize_t write(int fd, const void *p, size_t n) { count.sends++; return syscall(SYS_write, fd, p, n); }
ssize_t read(int fd, void *p, size_t n) { count.recvs++; return syscall(SYS_read, fd, p, n); }
int poll(struct pollfd *f, nfds_t n, int ms) { count.polls++; return (int)syscall(SYS_poll, f, n, ms); }

/* Copies that the header makes; those inside the TLS library are not its own. */
#define memcpy(to, from, n)  (count.copied += (n), memcpy(to, from, n))
#define memmove(to, from, n) (count.copied += (n), memmove(to, from, n))
#endif

#define FLIGHT 64
#define LARGE  65536
#define KEYS   1000

static char value[LARGE + 1], chunk[16384];
static size_t chunk_len;
static unsigned answered, received;
static const char *ca_file;
static int server_port;

static void need(int ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}

#ifdef BENCH_HIREDIS
#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>

static redisContext *c;

static void begin(int port, const char *ca)
{
    redisSSLContext *ssl;
    c = redisConnect("127.0.0.1", port);
    need(c && !c->err, "hiredis cannot connect");
    if (ca) {
        redisInitOpenSSL();
        ssl = redisCreateSSLContext(ca, NULL, NULL, NULL, "localhost", NULL);
        need(ssl && redisInitiateSSLWithContext(c, ssl) == REDIS_OK, "hiredis: no TLS");
        redisFreeSSLContext(ssl);
    }
    freeReplyObject(redisCommand(c, "AUTH default bench-password"));
}

static void get(size_t n)
{
    redisReply *r = redisCommand(c, "GET %s", n == LARGE ? "large" : "bench:key");
    need(r && r->type == REDIS_REPLY_STRING && r->len == n, "GET");
    freeReplyObject(r);
}

static void set(size_t n)
{
    redisReply *r = redisCommand(c, "SET %s %b", n == LARGE ? "large" : "bench:key", value, n);
    need(r && r->type == REDIS_REPLY_STATUS, "SET");
    freeReplyObject(r);
}

static void flight(void)
{
    const char *argv[2] = {"GET", "bench:key"};
    const size_t lengths[2] = {3, 9};
    redisReply *r;
    int i;
    for (i = 0; i < FLIGHT; i++) redisAppendCommandArgv(c, 2, argv, lengths);
    for (i = 0; i < FLIGHT; i++) {
        need(redisGetReply(c, (void **)&r) == REDIS_OK && r->len == 32, "pipelined GET");
        answered++;
        freeReplyObject(r);
    }
}

static void mget(void)
{
    static const char *argv[KEYS + 1];
    redisReply *r;
    int i;
    argv[0] = "MGET";
    for (i = 1; i <= KEYS; i++) argv[i] = "bench:key";
    r = redisCommandArgv(c, KEYS + 1, argv, NULL);
    need(r && r->elements == KEYS && r->element[KEYS - 1]->len == 32, "MGET");
    freeReplyObject(r);
}

static void publish(void) {}

static int parse(void)
{
    static redisReader *reader;
    redisReply *r;
    int n = 0;
    if (!reader) reader = redisReaderCreate();
    redisReaderFeed(reader, chunk, chunk_len);
    while (redisReaderGetReply(reader, (void **)&r) == REDIS_OK && r) {
        freeReplyObject(r);
        n++;
    }
    return n;
}

static void end(void) { redisFree(c); }

#else
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

static azredis_client *c;
static azredis_reply reply;

static void begin(int port, const char *ca)
{
    azredis_auth_options id = {0};
    azredis_options o = {0};
    azredis_error why;
    id.identity = AZREDIS_ID_PASSWORD;
    id.user = "default";
    id.password = "bench-password";
    o.host = "127.0.0.1";
    o.tcp_port = (uint16_t)port;
    o.tls_host = "localhost";
    o.plaintext = !ca;
    o.ca_file = ca;
    o.identity = &id;
    c = azredis_open(&o);
    need(azredis_connect(c, 60000, &why) == AZREDIS_OK, why.message);
}

static void get(size_t n)
{
    azredis_status st = azredis_command(c, &reply, "GET", n == LARGE ? "large" : "bench:key");
    need(st == AZREDIS_OK && reply.value->len == n, "GET");
}

static void set(size_t n)
{
    azredis_str argv[3];
    argv[0] = azri_str("SET");
    argv[1] = azri_str(n == LARGE ? "large" : "bench:key");
    argv[2] = azri_slice(value, n);
    need(azredis_command_argv(c, &reply, NULL, 3, argv) == AZREDIS_OK, "SET");
}

static void got(azredis_client *lent_client, const azredis_reply *lent, void *user)
{
    (void)lent_client;
    (void)user;
    need(lent->status == AZREDIS_OK && lent->value->len == 32, "pipelined GET");
    answered++;
}

static void flight(void)
{
    azredis_str argv[2];
    unsigned i, all = answered + FLIGHT;
    argv[0] = azri_str("GET");
    argv[1] = azri_str("bench:key");
    for (i = 0; i < FLIGHT; i++) need(azredis_submit(c, NULL, 2, argv, got, NULL) == AZREDIS_OK, "submit");
    while (answered < all) need(azredis_wait(c, 1) == AZREDIS_OK, "wait");
}

static void mget(void)
{
    static azredis_str argv[KEYS + 1];
    int i;
    argv[0] = azri_str("MGET");
    for (i = 1; i <= KEYS; i++) argv[i] = azri_str("bench:key");
    need(azredis_command_argv(c, &reply, NULL, KEYS + 1, argv) == AZREDIS_OK && reply.value->len == KEYS &&
         reply.value->as.items[KEYS - 1].len == 32, "MGET");
}

static void on_message(azredis_client *lent_client, const azredis_message *lent, void *user)
{
    (void)lent_client;
    (void)user;
    need(lent->payload.len == 64, "message");
    received++;
}

static void on_published(azredis_client *lent_client, const azredis_reply *lent, void *user)
{
    (void)lent_client;
    (void)user;
    need(lent->status == AZREDIS_OK, "PUBLISH");
    answered++;
}

static void publish(void)
{
    static azredis_sub *sub;
    azredis_str argv[3];
    unsigned i, all = received + FLIGHT;
    if (!sub) sub = azredis_subscribe(c, AZREDIS_CHANNEL, "bench:channel", on_message, NULL);
    need(sub != NULL, "SUBSCRIBE");
    argv[0] = azri_str("PUBLISH");
    argv[1] = azri_str("bench:channel");
    argv[2] = azri_slice(value, 64);
    for (i = 0; i < FLIGHT; i++) need(azredis_submit(c, NULL, 3, argv, on_published, NULL) == AZREDIS_OK, "submit");
    while (received < all) need(azredis_wait(c, 1) == AZREDIS_OK, "wait");
}

static int parse(void)
{
    static azri_resp parser;
    azri_frame f;
    char *p;
    size_t room;
    int n = 0;
    if (!parser.mem) azri_resp_init(&parser, &c->port.mem, SIZE_MAX);
    need(azri_resp_room(&parser, chunk_len, &p, &room) == AZREDIS_OK && room >= chunk_len, "room");
    memcpy(p, chunk, chunk_len);
    azri_resp_got(&parser, chunk_len);
    while (azri_resp_next(&parser, &f, NULL) == AZREDIS_OK) n++;
    return n;
}

static void end(void) { azredis_close(c); }
#endif

static int connect_again(void)
{
    end();
    begin(server_port, ca_file);
    return 1;
}

static int ping(void)
{
    set(32);
    get(32);
    return 2;
}

static int pipeline(void) { flight(); return FLIGHT; }
static int messages(void) { publish(); return FLIGHT; }
static int many_keys(void) { mget(); return 1; }
static int set_large(void) { set(LARGE); return 1; }
static int get_large(void) { get(LARGE); return 1; }

/* Each returns how many operations it was. */
static const struct { const char *name; int (*run)(void), rounds; } workloads[] = {
    {"ping-pong", ping, 200}, {"pipeline-64", pipeline, 40}, {"set-64k", set_large, 40}, {"get-64k", get_large, 40},
    {"mget-1000", many_keys, 40}, {"publish-64", messages, 40}, {"parse-bulk", parse, 40}, {"parse-array", parse, 40},
    {"connect", connect_again, 3}
};

/* What is measured is inside this one function. Returns the number of operations. */
__attribute__((noinline)) static int bench_run(int (*run)(void), int rounds)
{
    int n = 0;
    while (rounds--) n += run();
    return n;
}

/* 16 KB of answers: strings of 32 bytes, alone or a hundred in an array. */
static void fill_chunk(int array)
{
    size_t one = 39, whole = array ? 6 + 100 * one : one, i, k;
    for (chunk_len = 0; chunk_len + whole <= sizeof chunk; chunk_len += whole) {
        if (array) memcpy(chunk + chunk_len, "*100\r\n", 6);
        for (i = array ? 6 : 0, k = 0; k < (array ? 100u : 1u); k++, i += one) {
            memcpy(chunk + chunk_len + i, "$32\r\n", 5);
            memset(chunk + chunk_len + i + 5, 'x', 32);
            memcpy(chunk + chunk_len + i + 37, "\r\n", 2);
        }
    }
}

static void workload(const char *what)
{
    size_t i = 0;
    int n;
    char name[64];
    while (i < sizeof workloads / sizeof workloads[0] && strcmp(workloads[i].name, what)) i++;
    need(i < sizeof workloads / sizeof workloads[0], "no such workload");
    fill_chunk(!strcmp(what, "parse-array"));
    bench_run(workloads[i].run, workloads[i].rounds);           /* buffers and pools reach their size */
    CALLGRIND_ZERO_STATS;
    answered = 0;
#ifdef BENCH_COUNT
    memset(&count, 0, sizeof count);
#endif
    n = bench_run(workloads[i].run, workloads[i].rounds);
    need(strcmp(what, "pipeline-64") || answered == (unsigned)n, "answers are missing");
#ifdef BENCH_COUNT
    printf("%s mallocs %.4f copied %.1f sends %.4f recvs %.4f polls %.4f\n", what, (double)count.mallocs / n,
           (double)count.copied / n, (double)count.sends / n, (double)count.recvs / n, (double)count.polls / n);
#endif
    snprintf(name, sizeof name, "%s %d", what, n);
    CALLGRIND_DUMP_STATS_AT(name);
}

int main(int argc, char **argv)
{
    int i;
    need(argc > 3, "usage: bench PORT CA-FILE|- WORKLOAD...");
    memset(value, 'x', LARGE);
    server_port = atoi(argv[1]);
    ca_file = strcmp(argv[2], "-") ? argv[2] : NULL;
    begin(server_port, ca_file);
    set(32);
    set(LARGE);
    for (i = 3; i < argc; i++) workload(argv[i]);
    end();
    return 0;
}
