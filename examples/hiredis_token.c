/* cc -I. examples/hiredis_token.c -o hiredis_token -lhiredis_ssl -lhiredis -lssl -lcrypto \
 *    -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./hiredis_token HOST[:PORT] [SECONDS]
 *
 * Keep your own client, here hiredis (1.2 or newer): azredis_auth gets the tokens, your connection signs in with them.
 * It counts in Redis ten times a second and signs in again, on the same connection, whenever there is a new token.
 * Without arguments the endpoint is AZREDIS_ENDPOINT. Identity: AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET.
 * The library's own client does more: it connects again, lives on when a token is refused, and wipes tokens out of its
 * buffers, which hiredis does not. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <hiredis/hiredis.h>
#include <hiredis/hiredis_ssl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EVERY_MS = 100, FETCHING_MS = 20, FIRST_TOKEN_MS = 30000, DEFAULT_PORT = 10000 };

static volatile sig_atomic_t stop;

static void on_signal(int sig) { stop = sig; }

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A signal ends it early. */
static void nap(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    if (ms > 0) nanosleep(&t, NULL);
}

/* hiredis would check who signed the server's certificate, but not whose it is; it is about to be shown a token. */
static int secure(redisContext *c, SSL_CTX *roots, const char *host) {
    SSL *ssl = SSL_new(roots);
    if (ssl && SSL_set1_host(ssl, host) && SSL_set_tlsext_host_name(ssl, host) && redisInitiateSSL(c, ssl) == REDIS_OK)
        return 1;
    SSL_free(ssl);
    fprintf(stderr, "TLS with %s: %s\n", host, c->err ? c->errstr : "out of memory");
    return 0;
}

/* Runs a command whose answer is a number; -1: it failed, and has said why. */
static long long number(redisContext *c, const char *command) {
    redisReply *r = redisCommand(c, command);
    long long n = r && r->type == REDIS_REPLY_INTEGER ? r->integer : -1;
    if (n < 0) fprintf(stderr, "%s: %s\n", command, r ? r->str : c->errstr);
    freeReplyObject(r);
    return n;
}

/* Shows the connection a token that is new to it; `shown` is the last one. Returns the ms until it wants to be called
 * again; -1: failed. wait_ms 0: never waits; while the next token is under way each call takes it a step further. */
static long sign_in(redisContext *c, azredis_auth *auth, azredis_token *shown, uint32_t wait_ms) {
    azredis_token t;
    azredis_error why;
    redisReply *r;
    int ok = 1;
    if (azredis_auth_token(auth, &t, wait_ms, &why) != AZREDIS_OK) {
        fprintf(stderr, "no token: %s\n", why.message);
        return -1;
    }
    if (!shown->jwt || strcmp(t.jwt, shown->jwt) != 0) {
        r = redisCommand(c, "AUTH %s %b", t.user, t.jwt, t.jwt_len);
        ok = r && r->type == REDIS_REPLY_STATUS;
        if (!ok) fprintf(stderr, "AUTH: %s\n", r ? r->str : c->errstr);
        freeReplyObject(r);
        if (ok) fprintf(stderr, "connection %lld signed in for %u ms\n", number(c, "CLIENT ID"), t.expires_in_ms);
    }
    azredis_token_wipe(shown);
    *shown = t;
    return !ok ? -1 : t.renew_in_ms ? (long)t.renew_in_ms : FETCHING_MS;
}

static int run(redisContext *c, azredis_auth *auth, long end) {
    azredis_token shown = {0};
    long answered = 0, wait = sign_in(c, auth, &shown, FIRST_TOKEN_MS), next = now_ms(), renew = next + wait;
    while (wait >= 0 && !stop && now_ms() < end) {
        if (now_ms() >= renew) {
            wait = sign_in(c, auth, &shown, 0);
            renew = now_ms() + wait;
        } else if (now_ms() >= next) {
            if (number(c, "INCR azredis:hiredis") < 0) wait = -1;
            else answered++;
            next += EVERY_MS;
        }
        nap((renew < next ? renew : next) - now_ms());
    }
    azredis_token_wipe(&shown);
    printf("%ld answered, %d failed\n", answered, wait < 0);
    return wait < 0;
}

int main(int argc, char **argv) {
    const char *endpoint = argc > 1 ? argv[1] : getenv("AZREDIS_ENDPOINT");
    const char *colon = endpoint ? strrchr(endpoint, ':') : NULL;
    long end = now_ms() + 1000 * (argc > 2 ? strtol(argv[2], NULL, 10) : 10);
    int port = colon ? (int)strtol(colon + 1, NULL, 10) : DEFAULT_PORT, status = 1;
    struct timeval limit = {10, 0};
    char host[256];
    azredis_auth *auth = azredis_auth_open(NULL);
    SSL_CTX *roots = SSL_CTX_new(TLS_client_method());
    redisContext *c;
    snprintf(host, sizeof host, "%.*s", colon ? (int)(colon - endpoint) : 255, endpoint ? endpoint : "localhost");
    signal(SIGINT, on_signal);
    signal(SIGPIPE, SIG_IGN);           /* OpenSSL writes into a connection that may be gone */
    c = redisConnectWithTimeout(host, port, limit);
    if (!c || c->err) fprintf(stderr, "%s: %s\n", host, c ? c->errstr : "out of memory");
    else if (!roots || !SSL_CTX_set_default_verify_paths(roots)) fprintf(stderr, "OpenSSL has no root certificates\n");
    else {
        SSL_CTX_set_verify(roots, SSL_VERIFY_PEER, NULL);
        redisSetTimeout(c, limit);
        if (secure(c, roots, host)) status = run(c, auth, end);
    }
    redisFree(c);
    SSL_CTX_free(roots);
    azredis_auth_release(auth);
    return status;
}
