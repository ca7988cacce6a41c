/* What the background threads cost a program that calls from one thread: rounds of GET on a plain client and on a
 * started one, in turn, and the ratio of their times. Counts cannot tell this: it is about who is woken.
 *   cc -O2 -I. tools/bench_threads.c -o bench_threads -lmbedtls -lmbedx509 -lmbedcrypto -pthread && ./bench_threads
 * Environment: AZREDIS_CONNECTION. Fails if the median ratio is over 1.1. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS 21
#define CALLS  3000
#define LIMIT  1.1

/* Seconds of one round. */
static double round_of(azredis_client *c) {
    azredis_reply r = {0};
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < CALLS; i++) {
        if (azredis_command(c, &r, "GET", "k") == AZREDIS_OK) continue;
        puts(r.error->message);
        exit(1);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    azredis_reply_free(&r);
    return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void) {
    azredis_options o = {0};
    double ratio[ROUNDS];
    o.config = getenv("AZREDIS_CONNECTION");
    azredis_client *plain = azredis_open(&o), *started = azredis_open(&o);
    if (azredis_start(started) != AZREDIS_OK) return 1;
    (void)round_of(plain);
    (void)round_of(started);
    for (int i = 0; i < ROUNDS; i++) {
        double without = round_of(plain);
        ratio[i] = round_of(started) / without;
    }
    qsort(ratio, ROUNDS, sizeof ratio[0], by_size);
    printf("started / plain: median %.2f, %.2f to %.2f in %d rounds of %d calls; limit %.1f\n", ratio[ROUNDS / 2], ratio[0],
           ratio[ROUNDS - 1], ROUNDS, CALLS, LIMIT);
    azredis_close(plain);
    azredis_close(started);
    return ratio[ROUNDS / 2] > LIMIT;
}
