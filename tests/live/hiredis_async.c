/* hiredis_async HOST:PORT SECONDS - an event loop's hiredis connection signs in with our tokens; loops.sh runs it.
 * It counts in Redis a hundred times a second; SIGINT ends it early. What matters is keep_signed_in. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <event2/event.h>
#include <hiredis/adapters/libevent.h>
#include <hiredis/async.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct event_base *base;
static struct event *token_timer, *count_timer;
static redisAsyncContext *redis;
static azredis_auth *auth;
static azredis_token shown;             /* what the connection was shown last */
static long submitted, answered, failed;

static void on_id(redisAsyncContext *c, void *reply, void *user) {
    redisReply *r = reply;
    (void)c, (void)user;
    if (r && r->type == REDIS_REPLY_INTEGER) fprintf(stderr, "connection %lld signed in\n", r->integer);
}

static void on_auth(redisAsyncContext *c, void *reply, void *user) {
    redisReply *r = reply;
    (void)user;
    if (r && r->type == REDIS_REPLY_STATUS) redisAsyncCommand(c, on_id, NULL, "CLIENT ID");
    else fprintf(stderr, "AUTH: %s\n", r ? r->str : c->errstr);
}

static void keep_signed_in(evutil_socket_t fd, short what, void *user) {
    azredis_token t;
    azredis_error why;
    uint32_t next = 20;                 /* a request is under way: each call takes it a step further */
    azredis_status st = azredis_auth_token(auth, &t, 0, &why);
    struct timeval in;
    (void)fd, (void)what, (void)user;
    if (st == AZREDIS_OK) {
        if (!shown.jwt || strcmp(t.jwt, shown.jwt) != 0)
            redisAsyncCommand(redis, on_auth, NULL, "AUTH %s %b", t.user, t.jwt, t.jwt_len);
        if (t.renew_in_ms) next = t.renew_in_ms;
        azredis_token_wipe(&shown);
        shown = t;
    } else if (st != AZREDIS_AGAIN) {
        fprintf(stderr, "no token: %s\n", why.message);
        next = 1000;
    }
    in.tv_sec = next / 1000;
    in.tv_usec = next % 1000 * 1000;
    event_add(token_timer, &in);
}

static void on_answer(redisAsyncContext *c, void *reply, void *user) {
    redisReply *r = reply;
    (void)c, (void)user;
    if (r && r->type == REDIS_REPLY_INTEGER) answered++;
    else failed++;
}

static void count_up(evutil_socket_t fd, short what, void *user) {
    static const struct timeval in = {0, 10000};
    (void)fd, (void)what, (void)user;
    if (shown.jwt) {
        submitted++;
        redisAsyncCommand(redis, on_answer, NULL, "INCR azredis:hiredis");
    }
    event_add(count_timer, &in);
}

static void finish(evutil_socket_t fd, short what, void *user) {
    (void)fd, (void)what, (void)user;
    event_del(count_timer);
    event_del(token_timer);
    redisAsyncDisconnect(redis);        /* once all has been answered */
}

static void on_disconnect(const redisAsyncContext *c, int status) {
    if (status != REDIS_OK) fprintf(stderr, "%s\n", c->errstr);
    event_base_loopbreak(base);
}

int main(int argc, char **argv) {
    char *colon = argc == 3 ? strrchr(argv[1], ':') : NULL;
    struct timeval seconds = {argc == 3 ? strtol(argv[2], NULL, 10) : 0, 0};
    SSL_CTX *roots = SSL_CTX_new(TLS_client_method());
    struct event *interrupt, *end;
    SSL *ssl;
    if (!colon) return 2;
    *colon = '\0';
    base = event_base_new();
    auth = azredis_auth_open(NULL);
    redis = redisAsyncConnect(argv[1], (int)strtol(colon + 1, NULL, 10));
    SSL_CTX_set_default_verify_paths(roots);
    SSL_CTX_set_verify(roots, SSL_VERIFY_PEER, NULL);
    ssl = SSL_new(roots);
    if (!SSL_set1_host(ssl, argv[1]) || redisInitiateSSL(&redis->c, ssl) != REDIS_OK) return 1;
    redisLibeventAttach(redis, base);
    redisAsyncSetDisconnectCallback(redis, on_disconnect);
    token_timer = evtimer_new(base, keep_signed_in, NULL);
    count_timer = evtimer_new(base, count_up, NULL);
    interrupt = evsignal_new(base, SIGINT, finish, NULL);
    end = evtimer_new(base, finish, NULL);
    event_add(interrupt, NULL);
    event_add(end, &seconds);
    keep_signed_in(-1, 0, NULL);
    count_up(-1, 0, NULL);
    event_base_dispatch(base);
    event_free(end);
    event_free(interrupt);
    event_free(count_timer);
    event_free(token_timer);
    event_base_free(base);
    SSL_CTX_free(roots);
    azredis_token_wipe(&shown);
    azredis_auth_release(auth);
    printf("%ld answered, %ld failed\n", answered, failed);
    return failed || answered != submitted;
}
