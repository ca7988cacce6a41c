/* cc -I. examples/pipeline.c -o pipeline -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./pipeline HOST
 * Many commands in one round trip: azredis_exec waits for all of their answers; azredis_submit calls a function for
 * each, and the program goes on meanwhile. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>

#define MANY 1000

static void on_answer(azredis_client *c, const azredis_reply *lent, void *user) {
    int *answered = (int *)user;
    (void)c;
    if (lent->status == AZREDIS_OK) ++*answered;
    else fprintf(stderr, "INCR: %s\n", lent->error->message);
}

/* Three commands, one array of three answers. */
static int together(azredis_client *c) {
    const azredis_str set[] = { azredis_z("SET"), azredis_z("example:pipeline"), azredis_z("0") };
    const azredis_str incr[] = { azredis_z("INCRBY"), azredis_z("example:pipeline"), azredis_z("41") };
    const azredis_str get[] = { azredis_z("GET"), azredis_z("example:pipeline") };
    const azredis_cmd all[] = { { 3, set }, { 3, incr }, { 2, get } };
    azredis_reply r = {0};
    int ok = azredis_exec(c, &r, NULL, all, 3) == AZREDIS_OK;
    if (ok) printf("exec: %s\n", azredis_text(&r.value->as.items[2]).ptr);
    else fprintf(stderr, "exec: %s\n", r.error->message);
    azredis_reply_free(&r);
    return ok;
}

/* As many as fit into the backlog at once; a full one is emptied by a turn of azredis_wait. */
static int one_by_one(azredis_client *c) {
    const azredis_str incr[] = { azredis_z("INCR"), azredis_z("example:pipeline") };
    azredis_reply r = {0};
    int i = 0, answered = 0;
    azredis_status st = AZREDIS_OK;
    while (i < MANY && st >= 0) {
        st = azredis_submit(c, NULL, 2, incr, on_answer, &answered);
        if (st == AZREDIS_OK) i++;
        else if (st == AZREDIS_AGAIN) st = azredis_wait(c, 1);
    }
    st = azredis_get(c, &r, "example:pipeline");    /* answered after them: one connection, one order */
    if (st == AZREDIS_OK) printf("submit: %d answered, %s\n", answered, azredis_text(r.value).ptr);
    else fprintf(stderr, "GET: %s\n", r.error->message);
    azredis_reply_free(&r);
    return answered == MANY;
}

int main(int argc, char **argv) {
    azredis_options o = {0};
    int ok;
    o.host = argc > 1 ? argv[1] : "";
    azredis_client *c = azredis_open(&o);
    ok = together(c) && one_by_one(c);
    azredis_close(c);
    return !ok;
}
