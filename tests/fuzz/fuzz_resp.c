/* Fuzzes the RESP decoder. The first byte of an input chooses how it is cut and what max_reply is; the
 * rest is fed cut, whole, and whole without the decoder's short cuts, and all must give the same frames.
 *   clang -fsanitize=fuzzer,address,undefined -I.. fuzz_resp.c      libFuzzer
 *   cc -DAZRI_FUZZ_MAIN ...                                         fuzz_resp FILE... | fuzz_resp -runs=N -seed=S
 */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>

#define HEAP_MAX (8u << 20)

static size_t heap_live;

static void *heap_alloc(void *user, size_t n) {
    (void)user;
    heap_live += n;
    if (heap_live > HEAP_MAX) abort();                  /* an announced count or length was believed */
    return malloc(n);
}

static void heap_free(void *user, void *p, size_t n) {
    (void)user;
    heap_live -= n;
    free(p);
}

#define CHECK(x) do { if (!(x)) { fprintf(stderr, "fuzz_resp: %s\n", #x); abort(); } } while (0)

/* Reads every byte that a tree promises to have, and folds it into a number. */
static uint64_t digest(uint64_t h, const azredis_value *v, int depth) {
    uint32_t i;
    CHECK(depth <= (int)AZRI_RESP_DEPTH + 1);
    CHECK(v->type <= AZREDIS_T_ATTRIBUTE && v->reserved == 0);
    h = h * 31 + v->type * 7u + v->flags + v->len;
    if (azri_is_aggregate(v->type)) {
        for (i = 0; i < v->len; i++) h = digest(h, &v->as.items[i], depth + 1);
    } else if (azri_is_text(v->type)) {
        CHECK(v->as.str[v->len] == '\0');
        h = h * 31 + azri_hash64(v->as.str, v->len);
    } else {
        h = h * 31 + (uint64_t)v->as.integer;
    }
    return h;
}

static uint64_t digest_frame(uint64_t h, const azri_frame *f) {
    h = h * 31 + (uint64_t)f->is_push + (uint64_t)f->bytes * 3u + (f->status == AZREDIS_OK ? 0 : 99u);
    CHECK((f->root == NULL) == (f->status != AZREDIS_OK));
    if (!f->root) return h;
    if (azredis_attribute(f->root)) h = digest(h, azredis_attribute(f->root), 0);
    return digest(h, f->root, 0);
}

/* azri_resp_next without its short cuts. */
static azredis_status slow_next(azri_resp *d, azri_frame *f) {
    azredis_status st = d->block ? AZREDIS_OK : AZREDIS_AGAIN;
    if (d->why) return AZREDIS_E_RESP;
    while (st == AZREDIS_OK && !d->complete)
        st = d->state == AZRI_RESP_LINE ? azri_resp_head(d)
           : d->state == AZRI_RESP_BODY ? azri_resp_body(d) : azri_resp_skip_line(d);
    if (d->lost != AZREDIS_OK) {
        d->dropped += d->pos - d->start;
        d->start = d->pos;
    }
    if (st == AZREDIS_E_RESP) return st;
    d->hungry = st == AZREDIS_AGAIN;
    if (st == AZREDIS_OK) azri_resp_deliver(d, f);
    return st;
}

/* Parses all of it in pieces of 1 .. step bytes, keeping each frame. Returns a number for what came. */
static uint64_t parse(const uint8_t *in, size_t n, size_t step, size_t max_reply, int slow) {
    static azri_resp d;
    azri_mem m;
    azri_frame f;
    azredis_reply r;
    azredis_status st = AZREDIS_AGAIN;
    azri_rng rng;
    uint64_t h = 1, kept;
    size_t k, room;
    char *p;
    m.alloc = heap_alloc;
    m.free = heap_free;
    m.user = NULL;
    m.shape = NULL;
    rng.state = n;
    memset(&r, 0, sizeof r);
    azri_resp_init(&d, &m, max_reply);
    while (n && st == AZREDIS_AGAIN) {
        CHECK(azri_resp_room(&d, step, &p, &room) == AZREDIS_OK && room > 0);
        k = azri_minz(azri_minz(room, n), 1 + (size_t)azri_rng_below(&rng, step));
        memcpy(p, in, k);
        azri_resp_got(&d, k);
        in += k;
        n -= k;
        while ((st = slow ? slow_next(&d, &f) : azri_resp_next(&d, &f, NULL)) == AZREDIS_OK) {
            h = digest_frame(h, &f);
            if (!f.root) continue;
            kept = digest(0, f.root, 0);
            CHECK(azri_resp_keep(&d, &f, &r) == AZREDIS_OK);
            CHECK(digest(0, r.value, 0) == kept);
        }
        CHECK(azri_resp_cap(&d) <= 2 * (d.end - d.start) + AZRI_RESP_RESERVE);
    }
    h = h * 31 + (st == AZREDIS_E_RESP ? 5u : 0u) + (st != AZREDIS_E_RESP && azri_resp_mid_frame(&d) ? 9u : 0u);
    azri_resp_free(&d);
    azredis_reply_free(&r);
    CHECK(heap_live == 0);
    return h;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const size_t limits[] = { 20, 21, 25, 26, 40, 200, 2000, 1u << 20 }, steps[] = { 1, 2, 7, 40 };
    size_t max;
    uint64_t whole;
    if (size < 2) return 0;
    max = limits[data[0] % 8];
    whole = parse(data + 1, size - 1, size, max, 0);
    if (parse(data + 1, size - 1, steps[data[0] / 8 % 4], max, 0) != whole) {
        fprintf(stderr, "fuzz_resp: the cut changed the frames\n");
        abort();
    }
    if (parse(data + 1, size - 1, size, max, 1) != whole) {
        fprintf(stderr, "fuzz_resp: the short cut changed the frames\n");
        abort();
    }
    return 0;
}

#ifdef AZRI_FUZZ_MAIN
static const char *const seeds[] = {
    "+OK\r\n", "-ERR a\r\n", ":12\r\n", "$3\r\nabc\r\n$-1\r\n", "*2\r\n:1\r\n$1\r\nx\r\n", "*-1\r\n_\r\n", ",1.5e-3\r\n,-inf\r\n", "#t\r\n",
    "!3\r\nE x\r\n", "=7\r\ntxt:abc\r\n", "(123456789012345678901\r\n", "%1\r\n+k\r\n~2\r\n:1\r\n_\r\n", ">2\r\n+message\r\n+p\r\n",
    "|1\r\n+ttl\r\n:9\r\n*1\r\n:1\r\n", "$?\r\n;2\r\nab\r\n;1\r\nc\r\n;0\r\n", "*?\r\n:1\r\n%?\r\n+a\r\n+b\r\n.\r\n.\r\n",
    "*3\r\n:1\r\n|1\r\n+a\r\n*1\r\n:2\r\n>1\r\n+p\r\n*0\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n$0\r\n\r\n", "%8388608\r\n:1\r\n", "$536870912\r\nab"
};

/* One to three seeds in a row, then a few random edits. */
static size_t mutate(azri_rng *r, uint8_t *out, size_t cap) {
    static const char spice[] = "+-:$*_,#!=(%~>|;.?0123456789\r\n\r\n";
    size_t n = 1, i, at, parts = 1 + (size_t)azri_rng_below(r, 3), edits = (size_t)azri_rng_below(r, 5);
    out[0] = (uint8_t)azri_rng_next(r);
    for (i = 0; i < parts; i++) {
        const char *s = seeds[azri_rng_below(r, sizeof seeds / sizeof seeds[0])];
        size_t len = strlen(s);
        if (len > cap - n) break;
        memcpy(out + n, s, len);
        n += len;
    }
    for (i = 0; i < edits; i++) {
        at = 1 + (size_t)azri_rng_below(r, n - 1);
        switch (azri_rng_below(r, 5)) {
        case 0: out[at] = (uint8_t)azri_rng_next(r); break;
        case 1: out[at] = (uint8_t)spice[azri_rng_below(r, sizeof spice - 1)]; break;
        case 2: n = at + 1; break;
        case 3:
            if (n < 3) break;
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
