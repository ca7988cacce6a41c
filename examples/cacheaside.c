/* cc -I. examples/cacheaside.c -o cacheaside -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./cacheaside HOST ID
 * Cache-aside: look into the cache, on a miss load from the source and keep it for a while. When the cache is away the
 * program is slower and not wrong: every failure is a miss. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>

#define KEEP 60000                          /* ms that a value may be old */
#define PATIENCE 1000                       /* ms for the cache; after that the source is faster */

/* Stands for the database. */
static void load(const char *id, char *out, size_t cap) { snprintf(out, cap, "the record of %s", id); }

/* 1: from the cache, 0: from the source. */
static int find(azredis_client *c, const char *id, char *out, size_t cap) {
    azredis_reply r = {0};
    azredis_str hit;
    char key[128];
    snprintf(key, sizeof key, "example:record:%s", id);
    if (azredis_get(c, &r, key) != AZREDIS_OK) fprintf(stderr, "no cache: %s\n", r.error->message);
    hit = azredis_text(r.status == AZREDIS_OK ? r.value : NULL);
    if (hit.ptr) {
        snprintf(out, cap, "%s", hit.ptr);
    } else {
        load(id, out, cap);
        if (r.status == AZREDIS_OK) (void)azredis_set_for(c, NULL, key, azredis_z(out), KEEP); /* else it is away */
    }
    azredis_reply_free(&r);
    return hit.ptr != NULL;
}

int main(int argc, char **argv) {
    azredis_options o = {0};
    char record[256];
    int i;
    if (argc != 3) {
        fprintf(stderr, "usage: cacheaside HOST ID\n");
        return 2;
    }
    o.host = argv[1];
    o.command_ms = PATIENCE;
    azredis_client *c = azredis_open(&o);
    for (i = 0; i < 2; i++) {
        int cached = find(c, argv[2], record, sizeof record);
        printf("%s: %s\n", cached ? "cache" : "source", record);
    }
    azredis_close(c);
    return 0;
}
