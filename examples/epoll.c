/* cc -I. examples/epoll.c -o epoll -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./epoll HOST[:PORT] [SECONDS]
 *
 * A client in a loop of epoll, beside Ctrl+C and a timer by which it counts in Redis. Without arguments the endpoint
 * is AZREDIS_ENDPOINT. Signs in by AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET. The rule: after any call on
 * the client ask for its sockets and its time again, then sleep; here by update(). */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

enum { EVERY_MS = 100, SOCKETS = 64 };
static azredis_client *redis;
static azredis_fd watched[SOCKETS];
static size_t count;
static long submitted, answered, failed;
static int ep;

static void on_answer(azredis_client *c, const azredis_reply *lent, void *user) {
    (void)c, (void)user;
    ++*(lent->status == AZREDIS_OK ? &answered : &failed);
}

static int watch(int op, int fd, unsigned want) {
    struct epoll_event ev = {((want & AZREDIS_READ) ? EPOLLIN : 0u) | ((want & AZREDIS_WRITE) ? EPOLLOUT : 0u), {0}};
    ev.data.fd = fd;
    return epoll_ctl(ep, op, fd, &ev);
}

/* The set becomes what the client wants now. */
static void update(void) {
    azredis_fd fds[SOCKETS];
    size_t n = azredis_fds(redis, fds, SOCKETS), i, k;
    for (i = 0; i < count; i++) {       /* left the list, but is still open: its number is no other's yet */
        for (k = 0; k < n && fds[k].sock != watched[i].sock; k++) {}
        if (k == n) watch(EPOLL_CTL_DEL, (int)watched[i].sock, 0);
    }
    for (i = 0; i < n; i++)
        if (watch(EPOLL_CTL_MOD, (int)fds[i].sock, fds[i].want) != 0)
            watch(EPOLL_CTL_ADD, (int)fds[i].sock, fds[i].want);
    memcpy(watched, fds, n * sizeof fds[0]);
    count = n;
}

int main(int argc, char **argv) {
    static const azredis_str incr[2] = {{"INCR", 4}, {"azredis:loop", 12}};
    struct itimerspec every = {{0, EVERY_MS * 1000000L}, {0, EVERY_MS * 1000000L}};
    long left = (argc > 2 ? strtol(argv[2], NULL, 10) : 10) * 1000 / EVERY_MS;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), ctrl_c, i, n;
    uint64_t ticks;
    azredis_options o = {0};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    ctrl_c = signalfd(-1, &set, SFD_NONBLOCK);
    timerfd_settime(timer, 0, &every, NULL);
    ep = epoll_create1(0);
    watch(EPOLL_CTL_ADD, timer, AZREDIS_READ);
    watch(EPOLL_CTL_ADD, ctrl_c, AZREDIS_READ);
    o.config = argc > 1 ? argv[1] : getenv("AZREDIS_ENDPOINT");
    o.on_event = azredis_print_event;
    redis = azredis_open(&o);
    do {
        struct epoll_event ev[8];
        update();
        n = epoll_wait(ep, ev, 8, azredis_timeout_ms(redis));
        for (i = 0; i < n; i++) {
            if (ev[i].data.fd == ctrl_c) left = watch(EPOLL_CTL_DEL, ctrl_c, 0);      /* 0: no more */
            if (ev[i].data.fd != timer || read(timer, &ticks, sizeof ticks) < 0 || left-- <= 0) continue;
            submitted++;
            if (azredis_submit(redis, NULL, 2, incr, on_answer, NULL) != AZREDIS_OK) failed++;
        }
    } while (azredis_process(redis, watched, count) == AZREDIS_OK && (left > 0 || answered + failed < submitted));
    azredis_close(redis);               /* with its sockets goes what the set knows of them */
    printf("%ld answered, %ld failed\n", answered, failed);
    return left > 0 || failed;
}
