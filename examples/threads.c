/* cc -I. examples/threads.c -o threads -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./threads HOST
 * One client for all threads: azredis_start, and any of them may call. Their commands share one connection. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <pthread.h>
#include <stdio.h>

#define THREADS 8
#define TIMES 100

static void *count(void *user) {
    azredis_client *c = (azredis_client *)user;
    azredis_reply r = {0};                  /* each thread has its own */
    size_t failed = 0;
    int i;
    for (i = 0; i < TIMES; i++)
        if (azredis_incr_by(c, &r, "example:threads", 1, NULL) != AZREDIS_OK) {
            fprintf(stderr, "INCRBY: %s\n", r.error->message);
            failed++;
        }
    azredis_reply_free(&r);
    return (void *)failed;
}

int main(int argc, char **argv) {
    azredis_options o = {0};
    pthread_t all[THREADS];
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
    for (n = 0; n < THREADS && pthread_create(&all[n], NULL, count, c) == 0; n++) {}
    for (i = 0; i < n; i++) {
        void *result;
        pthread_join(all[i], &result);
        failed += (size_t)result;
    }
    printf("%d threads, %d commands, %zu failed\n", n, n * TIMES, failed);
    azredis_close(c);
    return failed || n < THREADS;
}
