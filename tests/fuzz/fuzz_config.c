/* Fuzzes connection strings and URLs. What is accepted is described, read again and described again: both texts and
 * all members must be the same. What is refused has a message with a place in the text.
 *   clang -fsanitize=fuzzer,address,undefined -I.. fuzz_config.c    libFuzzer
 *   cc -DAZRI_FUZZ_MAIN ...                                         fuzz_config FILE... | fuzz_config -runs=N -seed=S
 */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>

static size_t heap_live, heap_calls;

static void *heap_alloc(void *user, size_t n) {
    (void)user;
    heap_live += n;
    heap_calls++;
    return malloc(n);
}

static void heap_free(void *user, void *p, size_t n) {
    size_t i;
    (void)user;
    for (i = 0; i < n; i++)
        if (((char *)p)[i]) abort();                    /* it holds secrets, and is wiped as a whole */
    heap_live -= n;
    free(p);
}

#define CHECK(x) do { if (!(x)) { fprintf(stderr, "fuzz_config: %s\n", #x); abort(); } } while (0)

/* Members are the same but for secrets and for texts, whose places differ. */
static void compare(const azri_config *a, const azri_config *b) {
    size_t i;
    for (i = 0; i < AZRI_CONFIG_KEYS; i++) {
        const azri_config_key *k = &azri_config_keys[i];
        const void *x = azri_config_member(k, &a->options, &a->identity), *y = azri_config_member(k, &b->options, &b->identity);
        const char *s, *t;
        if (k->kind >= AZRI_CK_NO_EFFECT || k->kind == AZRI_CK_SECRET) continue;
        if (k->kind != AZRI_CK_TEXT) {
            CHECK(memcmp(x, y, azri_config_size(k)) == 0);
            continue;
        }
        memcpy(&s, x, sizeof s);
        memcpy(&t, y, sizeof t);
        CHECK(azri_eq(azri_str(s), azri_str(t)));
    }
    CHECK(azri_eq(azri_str(a->options.host), azri_str(b->options.host)) && a->options.tcp_port == b->options.tcp_port);
}

static void accepted(azri_config *c, const azri_mem *m, size_t size) {
    size_t cap = 3 * size + 4096, n;
    char *once = (char *)malloc(cap), *twice = (char *)malloc(cap);
    azri_config *again;
    azredis_options o;
    azredis_auth_options id;
    CHECK(once && twice);
    n = azri_config_describe(&c->options, &c->identity, once, cap);
    CHECK(n < cap && strlen(once) == n && azri_config_describe(&c->options, &c->identity, NULL, 0) == n);
    CHECK(azri_config_new(&again, m, once, NULL) == AZREDIS_OK);
    compare(c, again);
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    azri_config_merge(again, &o, &id);
    id.password = c->identity.password;                 /* the mask is read as "not given" */
    CHECK(azri_config_describe(&o, &id, twice, cap) == n && memcmp(once, twice, n) == 0);
    azri_config_free(again);
    free(once);
    free(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = (char *)malloc(size + 1);
    azri_config *c;
    azredis_error e;
    azri_mem m;
    m.alloc = heap_alloc;
    m.free = heap_free;
    m.user = NULL;
    m.shape = NULL;
    CHECK(text);
    if (size) memcpy(text, data, size);
    text[size] = '\0';
    heap_calls = 0;
    memset(&e, 0, sizeof e);
    if (azri_config_new(&c, &m, text, &e) == AZREDIS_OK) accepted(c, &m, size);
    else CHECK(e.code == AZREDIS_E_ARG && (strstr(e.message, ", character ") || size > AZRI_CONFIG_MAX) && heap_calls <= 1);
    azri_config_free(c);
    free(text);
    CHECK(heap_live == 0);
    return 0;
}

#ifdef AZRI_FUZZ_MAIN
static const char *const seeds[] = {
    "h:6380,password=a=b,ssl=True,abortConnect=False", "name.region.redis.azure.net:10000", "[::1]:1,user=u,password=p", "/run/x,db=1",
    "rediss://u:p%2C%40@h:1/2?name=a%2Cb&keepAlive=5", "redis://127.0.0.1/0", "unix:///run/a%2Cb?db=3", "unix://u:p@/x", "rediss://?x",
    "h,auth=environment,tenantId=t,clientId=c,scope=https://x/.default", "h,keepAlive=never,keepAliveMs=1500,syncTimeout=1", "h,$GET=",
    "h,connectTimeout=4294967294,maxReply=18446744073709551615,policy=seed,protocol=resp2", "h,allowAdmin=1,proxy=none,version=7.4",
    "h,clientSecret=***,password=*****", " h , name = a b ,, \r\n", "h,synctimout=1", "h,auth=password,user=\"q'\",authorityHost=l:1"
};

/* One or two seeds joined, then a few random edits. */
static size_t mutate(azri_rng *r, uint8_t *out, size_t cap) {
    static const char spice[] = ",=:/?#@&%$*! []\n0aZ";
    size_t n = 0, i, at, parts = 1 + (size_t)azri_rng_below(r, 2), edits = (size_t)azri_rng_below(r, 6);
    for (i = 0; i < parts; i++) {
        const char *s = seeds[azri_rng_below(r, sizeof seeds / sizeof seeds[0])];
        size_t len = strlen(s);
        if (len + 1 > cap - n) break;
        if (i) out[n++] = (uint8_t)",&"[azri_rng_below(r, 2)];
        memcpy(out + n, s, len);
        n += len;
    }
    for (i = 0; i < edits && n; i++) {
        at = (size_t)azri_rng_below(r, n);
        switch (azri_rng_below(r, 5)) {
        case 0: out[at] = (uint8_t)azri_rng_next(r); break;
        case 1: out[at] = (uint8_t)spice[azri_rng_below(r, sizeof spice - 1)]; break;
        case 2: n = at; break;
        case 3:
            n--;
            memmove(out + at, out + at + 1, n - at);
            break;
        default:
            if (n < cap) {
                memmove(out + at + 1, out + at, n - at);
                out[at] = (uint8_t)spice[azri_rng_below(r, sizeof spice - 1)];
                n++;
            }
        }
    }
    return n;
}

#include "main.h"
#endif
