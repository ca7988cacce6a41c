/* cc -I. examples/libevent.c -o libevent -levent_core -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
 * ./libevent HOST[:PORT] [SECONDS]
 * A client inside libevent (Debian: libevent-dev) that counts in Redis. Without arguments the endpoint is
 * AZREDIS_ENDPOINT. Signs in by AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET. The rule: after any call on the
 * client ask for its sockets and its time again, then sleep; here by update() at the end of each callback. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>

enum { EVERY_MS = 100, SOCKETS = 64 };
static azredis_client *redis;
static struct event_base *base;
static struct event *due, *watched[SOCKETS];    /* of fds[i] */
static azredis_fd fds[SOCKETS];
static size_t count;
static long left, submitted, answered, failed;

static void on_answer(azredis_client *c, const azredis_reply *lent, void *user) {
    (void)c, (void)user;
    ++*(lent->status == AZREDIS_OK ? &answered : &failed);
}

static void on_ready(evutil_socket_t sock, short what, void *user);
/* Watches what the client wants now. A socket that has left the list is closed in a later azredis_process only. */
static void update(void) {
    int ms = azredis_timeout_ms(redis);
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    struct event *was[SOCKETS];
    azredis_fd had[SOCKETS];
    size_t n = count, i, k;
    memcpy(had, fds, sizeof fds);
    memcpy(was, watched, sizeof watched);
    count = azredis_fds(redis, fds, SOCKETS);
    for (k = 0; k < count; k++) {
        short in = (fds[k].want & AZREDIS_READ) ? EV_READ : 0, out = (fds[k].want & AZREDIS_WRITE) ? EV_WRITE : 0;
        for (i = 0; i < n && (had[i].sock != fds[k].sock || had[i].want != fds[k].want); i++) {}
        watched[k] = i < n ? was[i] : event_new(base, (evutil_socket_t)fds[k].sock, EV_PERSIST | in | out, on_ready, 0);
        if (i < n) was[i] = NULL;
        else event_add(watched[k], NULL);
    }
    for (i = 0; i < n; i++)
        if (was[i]) event_free(was[i]);
    evtimer_add(due, &tv);
    if (left <= 0 && answered + failed == submitted) event_base_loopbreak(base);
}

static void on_ready(evutil_socket_t sock, short what, void *user) {
    (void)sock, (void)what, (void)user;
    if (azredis_process(redis, fds, count) == AZREDIS_OK) update();
    else event_base_loopbreak(base);
}

static void on_tick(evutil_socket_t sock, short what, void *user) {
    static const azredis_str incr[2] = {{"INCR", 4}, {"azredis:loop", 12}};
    if (what & EV_SIGNAL) left = 0;             /* Ctrl+C */
    if (left-- > 0 && submitted++ >= 0 && azredis_submit(redis, NULL, 2, incr, on_answer, NULL) != AZREDIS_OK) failed++;
    on_ready(sock, what, user);
}

int main(int argc, char **argv) {
    struct timeval every = {0, EVERY_MS * 1000};
    struct event *tick, *ctrl_c;
    azredis_options o = {0};
    o.config = argc > 1 ? argv[1] : getenv("AZREDIS_ENDPOINT");
    o.on_event = azredis_print_event;
    redis = azredis_open(&o);
    left = (argc > 2 ? strtol(argv[2], NULL, 10) : 10) * 1000 / EVERY_MS;
    due = evtimer_new(base = event_base_new(), on_ready, NULL);
    event_add(tick = event_new(base, -1, EV_PERSIST, on_tick, NULL), &every);
    event_add(ctrl_c = evsignal_new(base, SIGINT, on_tick, NULL), NULL);
    update();
    event_base_dispatch(base);
    while (count) event_free(watched[--count]);             /* stop watching before azredis_close */
    azredis_close(redis);
    event_free(due), event_free(tick), event_free(ctrl_c), event_base_free(base);
    printf("%ld answered, %ld failed\n", answered, failed);
    return left > 0 || failed;
}
