/* cc -I. examples/hello.c -o hello -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./hello HOST */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>
int main(int argc, char **argv) {
    azredis_options o = {0};            /* signs in by the default chain */
    azredis_reply r = {0};
    o.host = argc > 1 ? argv[1] : "";
    azredis_client *c = azredis_open(&o);
    azredis_status st = azredis_command(c, &r, "ECHO", "Hello, Azure Managed Redis!");
    puts(st == AZREDIS_OK ? azredis_text(r.value).ptr : r.error->message);
    azredis_reply_free(&r);
    azredis_close(c);
    return st != AZREDIS_OK;
}
