/* cc -I. examples/threads.c -o threads -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./threads HOST
 * One client for all threads: azredis_start, and any of them may call. Their commands share one connection. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <pthread.h>
#include <stdio.h>

#define THREADS 8
#define TIMES 100

typedef struct worker { pthread_t thread; azredis_client *client; size_t failed; } worker;

static void *count(void *user) {
    worker *w = (worker *)user;
    azredis_reply r = {0};                  /* each thread has its own */
    int i;
    for (i = 0; i < TIMES; i++)
        if (azredis_incr_by(w->client, &r, "example:threads", 1, NULL) != AZREDIS_OK) {
            fprintf(stderr, "INCRBY: %s\n", r.error->message);
            w->failed++;
        }
    azredis_reply_free(&r);
    return NULL;
}

int main(int argc, char **argv) {
    azredis_options o = {0};
    worker all[THREADS] = {0};
    size_t failed = 0;
    int i, n;
    o.host = argc > 1 ? argv[1] : "";
    azredis_client *c = azredis_open(&o);
    azredis_status st = azredis_start(c);   /* before any other thread knows c */
    if (st != AZREDIS_OK) {
        fprintf(stderr, "azredis_start: %s\n", azredis_status_text(st));
        azredis_close(c);
        return 1;
    }
    for (n = 0; n < THREADS; n++) {
        all[n].client = c;
        if (pthread_create(&all[n].thread, NULL, count, &all[n]) != 0) break;
    }
    for (i = 0; i < n; i++) {
        pthread_join(all[i].thread, NULL);
        failed += all[i].failed;
    }
    printf("%d threads, %d commands, %zu failed\n", n, n * TIMES, failed);
    azredis_close(c);
    return failed || n < THREADS;
}
