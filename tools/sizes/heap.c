/* What a client and its idle connection hold on the heap: ours through the port's allocator, all of it by malloc itself.
 *   heap PORT CA-FILE|-      prints bytes: client, connection (ours), connection (all), peak while connecting (all) */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

static size_t ours, all, peak;

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

static void *counted(void *p) {
    all += malloc_usable_size(p);
    if (all > peak) peak = all;
    return p;
}

void *malloc(size_t n) { return counted(__libc_malloc(n)); }
void *calloc(size_t n, size_t size) { return counted(__libc_calloc(n, size)); }
void free(void *p) { all -= malloc_usable_size(p); __libc_free(p); }
void *realloc(void *p, size_t n) { all -= malloc_usable_size(p); return counted(__libc_realloc(p, n)); }

static void *take(void *user, size_t n) { (void)user; ours += n; return malloc(n); }
static void give(void *user, void *p, size_t n) { (void)user; ours -= n; free(p); }

int main(int argc, char **argv)
{
    azredis_auth_options id = {0};
    azredis_options o = {0};
    azredis_port port = {0};
    azredis_client *c;
    size_t client;
    if (argc < 3) return 2;
    puts("bytes:");                     /* stdio has its buffer */
    all = 0;
    port.alloc = take;
    port.free = give;
    id.identity = AZREDIS_ID_PASSWORD;
    id.user = "default";
    id.password = "any";
    o.host = "127.0.0.1";
    o.tcp_port = (uint16_t)atoi(argv[1]);
    o.tls_host = "localhost";
    o.plaintext = !strcmp(argv[2], "-");
    o.ca_file = o.plaintext ? NULL : argv[2];
    o.identity = &id;
    o.port = &port;
    c = azredis_open(&o);
    client = ours;
    all = peak = 0;
    if (azredis_command(c, NULL, "PING") != AZREDIS_OK) return 1;
    azredis_wait(c, 2500);              /* silence of a second: the receive block is given back */
    printf("%zu %zu %zu %zu\n", client, ours - client, all, peak);
    azredis_close(c);
    return 0;
}
