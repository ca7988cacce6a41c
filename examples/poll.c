/* cc -I. examples/poll.c -o poll -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./poll HOST[:PORT] [SECONDS]
 *
 * A client inside your own loop, here one of poll(): it counts in Redis ten times a second and prints what happens.
 * Without arguments the endpoint is AZREDIS_ENDPOINT. Signs in by AZURE_TENANT_ID, AZURE_CLIENT_ID,
 * AZURE_CLIENT_SECRET. The rule: after any call on the client ask for its sockets and its time again, then sleep. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { EVERY_MS = 100, SOCKETS = 64 };

static azredis_client *redis;
static volatile sig_atomic_t stop;
static long submitted, answered, failed;

static void on_signal(int sig) {
    (void)sig;
    stop = 1;
    azredis_wake(redis);                /* otherwise a signal just before poll() would be slept through */
}

static void on_answer(azredis_client *c, const azredis_reply *lent, void *user) {
    (void)c;
    (void)user;
    if (lent->status == AZREDIS_OK) answered++;
    else failed++;
}

static void count_up(void) {
    static const azredis_str incr[2] = {{"INCR", 4}, {"azredis:loop", 12}};
    submitted++;
    if (azredis_submit(redis, NULL, 2, incr, on_answer, NULL) != AZREDIS_OK) failed++;
}

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int argc, char **argv) {
    azredis_options o = {0};
    azredis_status st = AZREDIS_OK;
    long next = now_ms(), end = next + 1000 * (argc > 2 ? strtol(argv[2], NULL, 10) : 10);
    o.config = argc > 1 ? argv[1] : getenv("AZREDIS_ENDPOINT");
    o.on_event = azredis_print_event;
    redis = azredis_open(&o);
    signal(SIGINT, on_signal);
    while (st == AZREDIS_OK && (!stop || answered + failed < submitted)) {
        azredis_fd fds[SOCKETS];
        struct pollfd p[SOCKETS];
        size_t i, n;
        int wait;
        if (now_ms() >= end) stop = 1;
        if (!stop && now_ms() >= next) {
            count_up();
            next += EVERY_MS;
        }
        n = azredis_fds(redis, fds, SOCKETS);
        wait = azredis_timeout_ms(redis);
        if (!stop && next - now_ms() < wait) wait = next > now_ms() ? (int)(next - now_ms()) : 0;
        for (i = 0; i < n; i++) {
            p[i].fd = (int)fds[i].sock;
            p[i].events = (fds[i].want & AZREDIS_READ) ? POLLIN : 0;
            if (fds[i].want & AZREDIS_WRITE) p[i].events |= POLLOUT;
        }
        poll(p, (nfds_t)n, wait);
        st = azredis_process(redis, fds, n);
    }
    if (st != AZREDIS_OK) fprintf(stderr, "%s\n", azredis_status_text(st));
    signal(SIGINT, SIG_DFL);
    azredis_close(redis);
    printf("%ld answered, %ld failed\n", answered, failed);
    return st != AZREDIS_OK || failed;
}
