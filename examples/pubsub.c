/* cc -I. examples/pubsub.c -o pubsub -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./pubsub HOST CHANNEL [COUNT]
 * Prints the messages of a channel, one a line, until COUNT have come. A subscription lives through new tokens and
 * new connections; what it may have missed is told of by `gap` and `lost`. Send some: redis-cli PUBLISH CHANNEL hello */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>

#define TURN 60000                          /* ms; any time will do, the next call goes on */

int main(int argc, char **argv) {
    azredis_options o = {0};
    azredis_message m;
    azredis_status st = AZREDIS_E_ARG;
    long left = argc > 3 ? strtol(argv[3], NULL, 10) : -1;
    if (argc < 3) {
        fprintf(stderr, "usage: pubsub HOST CHANNEL [COUNT]\n");
        return 2;
    }
    o.host = argv[1];
    azredis_client *c = azredis_open(&o);
    azredis_sub *s = azredis_subscribe(c, AZREDIS_CHANNEL, argv[2], NULL, NULL);
    while (s && left != 0) {
        st = azredis_next(s, &m, TURN);
        if (st < 0) break;                  /* refused, or closed; a lost connection comes back by itself */
        if (st == AZREDIS_AGAIN) continue;  /* a quiet minute */
        if (m.gap) puts("(the connection was down; some may be missing)");
        if (m.lost) printf("(%u more came than were read)\n", (unsigned)m.lost);
        fwrite(m.payload.ptr, 1, m.payload.len, stdout);
        puts("");
        fflush(stdout);
        if (left > 0) left--;
    }
    if (st != AZREDIS_OK) fprintf(stderr, "pubsub: %s\n", azredis_status_text(st));
    azredis_unsubscribe(s);
    azredis_close(c);
    return st != AZREDIS_OK;
}
