/* cc -I. examples/libuv.c -o libuv -luv -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./libuv HOST[:PORT] [SECONDS]
 *
 * A client inside libuv (Debian: libuv1-dev) that counts in Redis ten times a second. Without arguments the endpoint is
 * AZREDIS_ENDPOINT. Signs in by AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET. The rule: after any call on the
 * client ask for its sockets and its time again, then sleep; a prepare handle runs just before, whatever was called. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

enum { EVERY_MS = 100, SOCKETS = 64 };
static azredis_client *redis;
static uv_timer_t due;
static uv_poll_t *watched[SOCKETS];     /* of fds[i] */
static azredis_fd fds[SOCKETS];
static size_t count;
static long left, submitted, answered, failed;

static void on_answer(azredis_client *c, const azredis_reply *lent, void *user) {
    (void)c, (void)user;
    ++*(lent->status == AZREDIS_OK ? &answered : &failed);
}

static void on_closed(uv_handle_t *h) { free(h); }
static void on_ctrl_c(uv_signal_t *h, int sig) { (void)h, (void)sig, left = 0; }
static void on_due(uv_timer_t *h) { if (azredis_process(redis, fds, count) != AZREDIS_OK) uv_stop(h->loop); }
static void on_ready(uv_poll_t *h, int status, int events) { (void)h, (void)status, (void)events, on_due(&due); }

static void on_tick(uv_timer_t *h) {
    static const azredis_str incr[2] = {{"INCR", 4}, {"azredis:loop", 12}};
    if (left-- <= 0) uv_timer_stop(h);
    else if (submitted++, azredis_submit(redis, NULL, 2, incr, on_answer, NULL) != AZREDIS_OK) failed++;
}

/* Watches what the client wants now (READ and WRITE are the same numbers). What has left the list is still open. */
static void before_sleep(uv_prepare_t *h) {
    azredis_fd had[SOCKETS];
    uv_poll_t *was[SOCKETS];
    size_t n = count, i, k;
    memcpy(had, fds, sizeof fds);
    memcpy(was, watched, sizeof watched);
    count = azredis_fds(redis, fds, SOCKETS);
    for (k = 0; k < count; k++) {
        for (i = 0; i < n && (!was[i] || had[i].sock != fds[k].sock); i++) {}
        watched[k] = i < n ? was[i] : (uv_poll_t *)malloc(sizeof(uv_poll_t));
        if (i == n) uv_poll_init(h->loop, watched[k], (int)fds[k].sock);
        if (i == n || had[i].want != fds[k].want) uv_poll_start(watched[k], fds[k].want, on_ready);
        if (i < n) was[i] = NULL;
    }
    for (i = 0; i < n; i++)
        if (was[i]) uv_close((uv_handle_t *)was[i], on_closed);
    uv_timer_start(&due, on_due, (uint64_t)azredis_timeout_ms(redis), 0);
    if (left <= 0 && answered + failed == submitted) uv_stop(h->loop);
}

int main(int argc, char **argv) {
    uv_prepare_t prepare;
    uv_signal_t ctrl_c;
    uv_timer_t tick;
    uv_loop_t *loop = uv_default_loop();
    azredis_options o = {0};
    o.config = argc > 1 ? argv[1] : getenv("AZREDIS_ENDPOINT");
    o.on_event = azredis_print_event;
    redis = azredis_open(&o);
    left = (argc > 2 ? strtol(argv[2], NULL, 10) : 10) * 1000 / EVERY_MS;
    uv_timer_init(loop, &due);
    uv_timer_init(loop, &tick);
    uv_timer_start(&tick, on_tick, 0, EVERY_MS);
    uv_signal_init(loop, &ctrl_c);
    uv_signal_start(&ctrl_c, on_ctrl_c, SIGINT);
    uv_prepare_init(loop, &prepare);
    uv_prepare_start(&prepare, before_sleep);
    uv_run(loop, UV_RUN_DEFAULT);
    while (count) uv_close((uv_handle_t *)watched[--count], on_closed);     /* stop watching before azredis_close */
    uv_run(loop, UV_RUN_NOWAIT);
    azredis_close(redis);
    printf("%ld answered, %ld failed\n", answered, failed);
    return left > 0 || failed;
}
