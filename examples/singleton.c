/* cc -I. examples/singleton.c -o singleton -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./singleton CACHE
 *
 * One client for the life of the process: opening one costs a TLS handshake, a token and an AUTH,
 * keeping one costs nothing. CACHE: HOST, HOST:PORT, a connection string or URL; without it, the environment variable
 * AZREDIS_CONNECTION. Signs in by AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET unless CACHE says otherwise.
 * Counts its own seconds in Redis until Ctrl+C (or kill), then ends cleanly. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE                     /* sigaction, also under -std=c99 */
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static azredis_client *the_cache;
static volatile sig_atomic_t stop;

/* The accessor that the rest of the program uses. Opening does no I/O and never fails but for memory;
 * from then on the client connects, renews its token and reconnects by itself, in the calls that use it.
 * A client belongs to one thread at a time. */
static azredis_client *cache(const char *where) {
    if (the_cache == NULL) {
        azredis_options o = {0};
        o.config = where;
        o.client_name = "singleton";
        the_cache = azredis_open(&o);
    }
    return the_cache;
}

/* A handler only leaves a mark: no call of the library is allowed in one. */
static void on_signal(int sig) {
    (void)sig;
    stop = 1;
}

int main(int argc, char **argv) {
    struct sigaction how = {0};
    azredis_reply r = {0};
    const char *where = argc == 2 ? argv[1] : getenv("AZREDIS_CONNECTION");
    int failed = 0;

    if (argc > 2 || where == NULL) {
        fprintf(stderr, "usage: %s CACHE, or set AZREDIS_CONNECTION\n", argv[0]);
        return 2;
    }
    how.sa_handler = on_signal;
    sigaction(SIGINT, &how, NULL);
    sigaction(SIGTERM, &how, NULL);

    while (!stop) {
        int64_t seconds = 0;
        if (azredis_command(cache(where), &r, "INCR", "azredis:singleton") == AZREDIS_OK &&
            azredis_int(r.value, &seconds) == AZREDIS_OK) {
            printf("%lld\n", (long long)seconds);
        } else {
            fprintf(stderr, "%s\n", r.error != NULL ? r.error->message : "INCR: no number came back");
            failed = 1;
            if (r.error != NULL && !r.error->retryable) break;      /* something must be mended first */
        }
        fflush(stdout);
        if (!stop) azredis_wait(cache(where), 1000);              /* renewals go on in it */
    }
    azredis_reply_free(&r);
    azredis_close(the_cache);
    puts("closed");
    return failed;
}
