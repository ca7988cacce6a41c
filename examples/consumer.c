/* cc -I. examples/consumer.c -o consumer -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./consumer CACHE [LIST]
 *
 * A worker that waits for jobs for ever: each is moved from LIST (jobs) to LIST:doing, done, and removed from there, so
 * that none is lost with the worker. The wait is azredis_block's: on a connection of its own, through renewals and
 * reconnects. CACHE: HOST, HOST:PORT, a connection string or URL. Signs in by AZURE_TENANT_ID, AZURE_CLIENT_ID,
 * AZURE_CLIENT_SECRET unless CACHE says otherwise. Ctrl+C (or kill) ends it between two jobs. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE                     /* sigaction, also under -std=c99 */
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define LOOK_MS 500                     /* so often a waiting worker looks whether it shall stop */

static volatile sig_atomic_t stop;

static void on_signal(int sig) {
    (void)sig;
    stop = 1;
}

static azredis_str str(const char *z) {
    azredis_str s = {z, strlen(z)};
    return s;
}

static void work(azredis_str job) { printf("done: %.*s\n", (int)job.len, job.ptr); }

int main(int argc, char **argv) {
    struct sigaction how = {0};
    azredis_options o = {0};
    azredis_call limit = {0};
    azredis_reply r = {0};
    azredis_str wait[6], done[4];
    azredis_client *c;
    char doing[200];
    int failed = 0;

    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s CACHE [LIST]\n", argv[0]);
        return 2;
    }
    snprintf(doing, sizeof doing, "%s:doing", argc == 3 ? argv[2] : "jobs");
    o.config = argv[1];
    o.client_name = "consumer";
    how.sa_handler = on_signal;
    sigaction(SIGINT, &how, NULL);
    sigaction(SIGTERM, &how, NULL);
    c = azredis_open(&o);
    limit.timeout_ms = LOOK_MS;
    wait[0] = str("BLMOVE");
    wait[1] = str(argc == 3 ? argv[2] : "jobs");
    wait[2] = done[1] = str(doing);
    wait[3] = str("LEFT");
    wait[4] = str("RIGHT");
    wait[5] = str("0");
    done[0] = str("LREM");
    done[2] = str("1");
    while (!stop) {
        azredis_status st = azredis_block(c, &r, &limit, 6, wait);
        done[3] = azredis_text(r.value);
        if (st == AZREDIS_OK && done[3].ptr) {
            work(done[3]);
            if (azredis_command_argv(c, NULL, NULL, 4, done) != AZREDIS_OK) fprintf(stderr, "it is still in %s\n", doing);
        } else if (st != AZREDIS_OK) {
            fprintf(stderr, "%s\n", r.error->message);          /* after MAYBE_RUN a job may be waiting in `doing` */
            if (!r.error->retryable) failed = 1;
            if (failed) break;
        }
        fflush(stdout);
    }
    azredis_reply_free(&r);
    azredis_close(c);
    puts("closed");
    return failed;
}
