/* Replies: their memory, their error records, and the public readers. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

typedef struct heap { size_t live, calls; int full; } heap;

static void *heap_alloc(void *user, size_t n) {
    heap *h = (heap *)user;
    h->calls++;
    if (h->full) return NULL;
    h->live += n;
    return malloc(n);
}

static void heap_free(void *user, void *p, size_t n) {
    heap *h = (heap *)user;
    assert_true(h->live >= n);
    h->live -= n;
    free(p);
}

static azri_mem heap_mem(heap *h) {
    azri_mem m;
    memset(h, 0, sizeof *h);
    m.alloc = heap_alloc;
    m.free = heap_free;
    m.user = h;
    m.shape = NULL;
    return m;
}

static azri_resp dec;

/* Parses one frame; it is lent until the next parse. */
static const azredis_value *parse_n(const azri_mem *m, const char *in, size_t n, azri_frame *f) {
    char *p = NULL;
    size_t room = 0;
    azri_resp_free(&dec);
    azri_resp_init(&dec, m, 1u << 24);
    assert_int_equal(azri_resp_room(&dec, n, &p, &room), AZREDIS_OK);
    assert_true(room >= n);
    memcpy(p, in, n);
    azri_resp_got(&dec, n);
    assert_int_equal(azri_resp_next(&dec, f, NULL), AZREDIS_OK);
    assert_non_null(f->root);
    return f->root;
}

static heap h;
static azri_mem m;
static azri_frame frame;

static const azredis_value *parse(const char *in) { return parse_n(&m, in, strlen(in), &frame); }

static int setup(void **s) {
    (void)s;
    m = heap_mem(&h);
    azri_resp_init(&dec, &m, 1);
    return 0;
}

/* Whatever a test did, the memory is back. */
static int teardown(void **s) {
    (void)s;
    azri_resp_free(&dec);
    return h.live != 0;
}

#define SAME(str, z) assert_true(azri_eqz(str, z))

/* ---- readers ---- */

static void text_of_every_type(void **s) {
    const azredis_value *v;
    (void)s;
    v = parse("*8\r\n$2\r\nab\r\n+OK\r\n,1.5\r\n(12\r\n=5\r\ntxt:v\r\n-ERR x\r\n!2\r\nE!\r\n$0\r\n\r\n");
    SAME(azredis_text(&v->as.items[0]), "ab");
    SAME(azredis_text(&v->as.items[1]), "OK");
    SAME(azredis_text(&v->as.items[2]), "1.5");
    SAME(azredis_text(&v->as.items[3]), "12");
    SAME(azredis_text(&v->as.items[4]), "v");
    SAME(azredis_text(&v->as.items[5]), "ERR x");
    SAME(azredis_text(&v->as.items[6]), "E!");
    assert_non_null(azredis_text(&v->as.items[7]).ptr);
    assert_int_equal(azredis_text(&v->as.items[7]).len, 0);
    assert_null(azredis_text(v).ptr);
    v = parse("*7\r\n_\r\n:1\r\n#t\r\n%0\r\n~0\r\n>0\r\n*0\r\n");
    assert_null(azredis_text(&v->as.items[0]).ptr);
    assert_null(azredis_text(&v->as.items[1]).ptr);
    assert_null(azredis_text(&v->as.items[2]).ptr);
    assert_null(azredis_text(&v->as.items[3]).ptr);
    assert_null(azredis_text(&v->as.items[6]).ptr);
    assert_null(azredis_text(NULL).ptr);
}

static void fields(void **s) {
    const azredis_value *v = parse("%3\r\n$4\r\nname\r\n$1\r\nx\r\n+role\r\n+master\r\n:7\r\n_\r\n");
    (void)s;
    SAME(azredis_text(azredis_field(v, "name")), "x");
    SAME(azredis_text(azredis_field(v, "role")), "master");
    assert_null(azredis_field(v, "nam"));
    assert_null(azredis_field(v, "namee"));
    assert_null(azredis_field(v, "x"));                 /* a value is no key */
    assert_null(azredis_field(v, ""));                  /* nor is what is no text */
    assert_null(azredis_field(v, NULL));
    assert_null(azredis_field(NULL, "name"));
    v = parse("*5\r\n+a\r\n:1\r\n+b\r\n:2\r\n+c\r\n");  /* RESP2; the odd one has no value */
    assert_int_equal(azredis_field(v, "b")->as.integer, 2);
    assert_null(azredis_field(v, "c"));
    assert_null(azredis_field(&v->as.items[0], "a"));
    assert_null(azredis_field(parse("*0\r\n"), "a"));
    v = parse("%2\r\n+a\r\n:1\r\n+a\r\n:2\r\n");
    assert_int_equal(azredis_field(v, "a")->as.integer, 1);
    v = parse("%1\r\n$0\r\n\r\n:3\r\n");
    assert_int_equal(azredis_field(v, "")->as.integer, 3);
}

static void attributes(void **s) {
    const azredis_value *v = parse("|1\r\n+ttl\r\n:3600\r\n*1\r\n:1\r\n"), *a = azredis_attribute(v);
    (void)s;
    assert_non_null(a);
    assert_int_equal(a->type, AZREDIS_T_ATTRIBUTE);
    assert_int_equal(azredis_field(a, "ttl")->as.integer, 3600);
    assert_int_equal(v->type, AZREDIS_T_ARRAY);
    assert_null(azredis_attribute(&v->as.items[0]));
    assert_null(azredis_attribute(parse(":1\r\n")));
    assert_null(azredis_attribute(NULL));
}

static void integers(void **s) {
    static const struct { const char *in; int ok; long long v; } rows[] = {
        { ":42\r\n", 1, 42 }, { "#t\r\n", 1, 1 }, { "#f\r\n", 1, 0 }, { "$3\r\n-17\r\n", 1, -17 }, { "+8\r\n", 1, 8 },
        { "(123\r\n", 1, 123 }, { "=7\r\ntxt:100\r\n", 1, 100 }, { ",3\r\n", 1, 3 },
        { "$19\r\n9223372036854775807\r\n", 1, INT64_MAX }, { "$20\r\n-9223372036854775808\r\n", 1, INT64_MIN },
        { "$19\r\n9223372036854775808\r\n", 0, 0 }, { "(9223372036854775808\r\n", 0, 0 }, { "$0\r\n\r\n", 0, 0 }, { "$2\r\n1 \r\n", 0, 0 },
        { "$3\r\n1.5\r\n", 0, 0 }, { ",1.5\r\n", 0, 0 }, { "-12\r\n", 0, 0 }, { "_\r\n", 0, 0 }, { "*1\r\n:1\r\n", 0, 0 }, { "(12 xx\r\n", 0, 0 }
    };
    size_t i;
    int64_t v;
    (void)s;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        v = 99;
        assert_int_equal(azredis_int(parse(rows[i].in), &v), rows[i].ok ? AZREDIS_OK : AZREDIS_E_ARG);
        if (rows[i].ok) assert_true(v == rows[i].v);
    }
    assert_int_equal(azredis_int(NULL, &v), AZREDIS_E_ARG);
    assert_int_equal(azredis_int(parse(":1\r\n"), NULL), AZREDIS_E_ARG);
}

static void doubles(void **s) {
    static const struct { const char *in; double v; } good[] = {
        { ",3.25\r\n", 3.25 }, { ":-4\r\n", -4.0 }, { "$3\r\n1e3\r\n", 1000.0 }, { ",.5\r\n", .5 }, { ",5.\r\n", 5. },
        { ",1.0000000000000001e+300\r\n", 1.0000000000000001e+300 }, { ",5e-324\r\n", 5e-324 }, { "(12\r\n", 12.0 },
        { ",123456789012345680\r\n", 123456789012345680.0 }, { ",0.1\r\n", 0.1 }, { ",-1.7976931348623157e308\r\n", -1.7976931348623157e308 }
    };
    static const char *const bad[] = { "$1\r\nx\r\n", "$0\r\n\r\n", "_\r\n", "*0\r\n", "-1\r\n", "(12 xx\r\n", "#t\r\n" };
    size_t i;
    double v;
    (void)s;
    for (i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(azredis_double(parse(good[i].in), &v), AZREDIS_OK);
        assert_memory_equal(&v, &good[i].v, sizeof v);
    }
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_int_equal(azredis_double(parse(bad[i]), &v), AZREDIS_E_ARG);
    assert_int_equal(azredis_double(parse(",-inf\r\n"), &v), AZREDIS_OK);
    assert_true(isinf(v) && v < 0);
    assert_int_equal(azredis_double(parse(",1e400\r\n"), &v), AZREDIS_OK);
    assert_true(isinf(v) && v > 0);
    assert_int_equal(azredis_double(parse(",-nan\r\n"), &v), AZREDIS_OK);
    assert_true(isnan(v));
    /* every form that the decoder accepts, azredis_double reads */
    assert_int_equal(azredis_double(parse(",nan(0x8)\r\n"), &v), AZREDIS_OK);
    assert_int_equal(azredis_double(parse(",+INFINITY\r\n"), &v), AZREDIS_OK);
    assert_int_equal(azredis_double(NULL, &v), AZREDIS_E_ARG);
}

static void booleans(void **s) {
    int v = 9;
    (void)s;
    assert_int_equal(azredis_bool(parse("#t\r\n"), &v), AZREDIS_OK);
    assert_int_equal(v, 1);
    assert_int_equal(azredis_bool(parse(":0\r\n"), &v), AZREDIS_OK);
    assert_int_equal(v, 0);
    assert_int_equal(azredis_bool(parse(":2\r\n"), &v), AZREDIS_E_ARG);
    assert_int_equal(azredis_bool(parse(":-1\r\n"), &v), AZREDIS_E_ARG);
    assert_int_equal(azredis_bool(parse("+1\r\n"), &v), AZREDIS_E_ARG);
    assert_int_equal(azredis_bool(NULL, &v), AZREDIS_E_ARG);
}

static void status_texts(void **s) {
    static const int codes[] = { 0, 1, -1, -2, -3, -4, -5, -6, -10, -11, -12, -13, -20, -21, -30, -31, -32, -33, -34, -40,
                                 -41, -42, -43, -44, -45, -46, -7 };
    size_t i, k;
    (void)s;
    assert_int_equal(sizeof codes / sizeof codes[0], sizeof azri_status_rows / sizeof azri_status_rows[0]);
    for (i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        azredis_status st = (azredis_status)codes[i];
        assert_string_not_equal(azredis_status_text(st), "unknown status");
        for (k = 0; k < i; k++) assert_string_not_equal(azredis_status_text(st), azredis_status_text((azredis_status)codes[k]));
    }
    assert_string_equal(azredis_status_text((azredis_status)-99), "unknown status");
}

/* ---- memory ---- */

static const char tree[] = "|1\r\n+k\r\n*1\r\n:9\r\n*3\r\n$5\r\nhello\r\n%1\r\n+a\r\n~2\r\n_\r\n,1.5\r\n*0\r\n";

static void check_tree(const azredis_value *v) {
    const azredis_value *a = azredis_attribute(v);
    assert_int_equal(azredis_field(a, "k")->as.items[0].as.integer, 9);
    assert_int_equal(v->len, 3);
    assert_string_equal(v->as.items[0].as.str, "hello");
    v = azredis_field(&v->as.items[1], "a");
    assert_int_equal(v->type, AZREDIS_T_SET);
    assert_int_equal(v->len, 2);
    assert_int_equal(v->as.items[0].type, AZREDIS_T_NIL);
    assert_string_equal(v->as.items[1].as.str, "1.5");
}

static void keep_and_free(void **s) {
    azredis_reply r;
    (void)s;
    memset(&r, 0, sizeof r);
    parse(tree);
    assert_int_equal(azri_resp_keep(&dec, &frame, &r), AZREDIS_OK);
    memset(azri_resp_data(&dec), 'X', azri_resp_cap(&dec));
    check_tree(r.value);
    azredis_reply_free(&r);
    assert_null(r.mem.ptr);
    assert_null(r.value);
    azredis_reply_free(&r);
    azredis_reply_free(NULL);
}

static void memory_is_reused(void **s) {
    azredis_reply r;
    size_t calls;
    void *ptr;
    (void)s;
    memset(&r, 0, sizeof r);
    parse(tree);
    assert_int_equal(azri_resp_keep(&dec, &frame, &r), AZREDIS_OK);
    ptr = r.mem.ptr;
    azri_reply_reset(&r, AZREDIS_NOT_SENT);
    assert_null(r.value);
    parse("+smaller\r\n");
    calls = h.calls;
    assert_int_equal(azri_resp_keep(&dec, &frame, &r), AZREDIS_OK);
    assert_int_equal(h.calls, calls);
    assert_ptr_equal(r.mem.ptr, ptr);
    parse("$600\r\n" "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
          "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
          "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
          "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
          "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
          "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\r\n");
    h.full = 1;                                         /* the old memory stays the reply's */
    assert_int_equal(azri_resp_keep(&dec, &frame, &r), AZREDIS_E_NOMEM);
    assert_null(r.value);
    assert_ptr_equal(r.mem.ptr, ptr);
    h.full = 0;
    assert_int_equal(azri_resp_keep(&dec, &frame, &r), AZREDIS_OK);
    assert_int_equal(r.value->len, 600);
    azredis_reply_free(&r);
}

/* 12 nodes of 16 bytes, and k hello a 1.5 with a NUL each: 14 bytes. */
static void fixed_buffers(void **s) {
    static int64_t words[150];
    char *mine = (char *)words;
    azredis_reply r;
    size_t need = 12 * 16 + 14, size, shift;
    (void)s;
    for (shift = 0; shift < 16; shift++)
        for (size = 0; size < need + 20; size++) {
            size_t skip = (8 - shift % 8) % 8;
            memset(mine, 0x55, sizeof words);
            memset(&r, 0, sizeof r);
            r.mem.ptr = mine + shift;
            r.mem.size = size;
            r.mem.fixed = 1;
            if (!dec.block || size == 0) parse(tree);
            assert_int_equal(azri_resp_keep(&dec, &frame, &r), size >= need + skip ? AZREDIS_OK : AZREDIS_E_LIMIT);
            if (size >= need + skip) check_tree(r.value);
            else assert_null(r.value);
            assert_int_equal(mine[shift + size], 0x55);
            if (shift) assert_int_equal(mine[shift - 1], 0x55);
        }
    memset(&r, 0, sizeof r);
    r.mem.fixed = 1;
    assert_int_equal(azri_resp_keep(&dec, &frame, &r), AZREDIS_E_LIMIT);
    azredis_reply_free(&r);                             /* nothing of the caller's is freed */
}

static void fixed_buffer_takes_no_large_frame(void **s) {
    char *in = (char *)malloc(70020);
    static char mine[64];
    azredis_reply r;
    (void)s;
    memcpy(in, "$70000\r\n", 8);
    memset(in + 8, 'x', 70000);
    memcpy(in + 70008, "\r\n", 2);
    parse_n(&m, in, 70010, &frame);
    memset(&r, 0, sizeof r);
    r.mem.ptr = mine;
    r.mem.size = sizeof mine;
    r.mem.fixed = 1;
    assert_int_equal(azri_resp_keep(&dec, &frame, &r), AZREDIS_E_LIMIT);
    assert_ptr_equal(r.mem.ptr, mine);
    free(in);
}

/* ---- errors ---- */

static void error_records(void **s) {
    azredis_reply r;
    azredis_error e;
    (void)s;
    (void)azri_fail(&e, AZREDIS_E_NOPERM, "redis.command", "the text");
    azri_reply_error(NULL, &m, &e);
    memset(&r, 0, sizeof r);
    azri_reply_error(&r, &m, &e);
    memset(&e, 0, sizeof e);
    assert_int_equal(r.status, AZREDIS_E_NOPERM);
    assert_string_equal(r.error->message, "the text");
    assert_int_equal(r.error->code, AZREDIS_E_NOPERM);
    azredis_reply_free(&r);
    /* beside a value */
    memset(&r, 0, sizeof r);
    parse("-NOPERM no\r\n");
    assert_int_equal(azri_resp_keep(&dec, &frame, &r), AZREDIS_OK);
    (void)azri_fail(&e, AZREDIS_E_NOPERM, "redis.command", "the text");
    azri_reply_error(&r, &m, &e);
    assert_string_equal(azredis_text(r.value).ptr, "NOPERM no");
    assert_string_equal(r.error->message, "the text");
    azri_reply_reset(&r, AZREDIS_NOT_SENT);
    assert_null(r.error);
    assert_int_equal(r.status, AZREDIS_OK);
    azredis_reply_free(&r);
    /* without memory */
    memset(&r, 0, sizeof r);
    azri_reply_error(&r, NULL, &e);
    assert_int_equal(r.status, AZREDIS_E_NOPERM);
    assert_ptr_equal(r.error, &azri_no_record);
    memset(&r, 0, sizeof r);
    h.full = 1;
    azri_reply_error(&r, &m, &e);
    assert_int_equal(r.status, AZREDIS_E_NOPERM);
    assert_ptr_equal(r.error, &azri_no_record);
    h.full = 0;
    azredis_reply_free(&r);
}

/* In a fixed buffer the record stands behind the value if there is room. */
static void error_records_in_fixed_buffers(void **s) {
    static int64_t words[sizeof(azredis_error) / 4];
    char *mine = (char *)words;
    azredis_reply r;
    azredis_error e;
    size_t size, need = 32 + sizeof e;                  /* a node and "NOPERM no" with its NUL, in steps of 16 */
    (void)s;
    parse("-NOPERM no\r\n");
    (void)azri_fail(&e, AZREDIS_E_NOPERM, "redis.command", "the text");
    for (size = 0; size < need + 8; size++) {
        memset(mine, 0x55, sizeof words);
        memset(&r, 0, sizeof r);
        r.mem.ptr = mine;
        r.mem.size = size;
        r.mem.fixed = 1;
        assert_int_equal(azri_resp_keep(&dec, &frame, &r), size >= 26 ? AZREDIS_OK : AZREDIS_E_LIMIT);
        azri_reply_error(&r, &m, &e);
        assert_int_equal(r.status, AZREDIS_E_NOPERM);
        assert_int_equal(mine[size], 0x55);
        if (size >= 26) assert_string_equal(azredis_text(r.value).ptr, "NOPERM no");
        assert_int_equal(r.error->code, r.error == &azri_no_record ? AZREDIS_E_NOMEM : AZREDIS_E_NOPERM);
        if (size >= need) assert_string_equal(r.error->message, "the text");
        else if (size >= 26) assert_ptr_equal(r.error, &azri_no_record);
    }
}

/* ---- copies ---- */

static void keep_tree(azredis_reply *r) {
    memset(r, 0, sizeof *r);
    parse(tree);
    assert_int_equal(azri_resp_keep(&dec, &frame, r), AZREDIS_OK);
    r->fate = AZREDIS_ANSWERED;
}

static void copies(void **s) {
    azredis_reply lent, a, b;
    azredis_error e;
    (void)s;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    keep_tree(&lent);
    assert_int_equal(azredis_reply_copy(&a, &lent), AZREDIS_OK);
    azredis_reply_free(&lent);
    check_tree(a.value);
    assert_int_equal(a.fate, AZREDIS_ANSWERED);
    assert_int_equal(a.status, AZREDIS_OK);
    assert_null(a.error);
    (void)azri_fail(&e, AZREDIS_E_REDIS, "w", "message");
    azri_reply_error(&a, &m, &e);
    assert_int_equal(azredis_reply_copy(&b, &a), AZREDIS_OK);
    assert_int_equal(azredis_reply_copy(&b, &b), AZREDIS_OK);
    azredis_reply_free(&a);
    check_tree(b.value);
    assert_int_equal(b.status, AZREDIS_E_REDIS);
    assert_string_equal(b.error->message, "message");
    /* over an old value, and from nothing */
    assert_int_equal(azredis_reply_copy(&b, &a), AZREDIS_OK);
    assert_null(b.value);
    assert_null(b.error);
    assert_int_equal(azredis_reply_copy(NULL, &b), AZREDIS_E_ARG);
    assert_int_equal(azredis_reply_copy(&b, NULL), AZREDIS_E_ARG);
    azredis_reply_free(&b);
    /* an error without memory of its own */
    memset(&a, 0, sizeof a);
    (void)azri_fail(&e, AZREDIS_E_CLOSED, "w", "message");
    azri_reply_error(&a, NULL, &e);
    assert_null(a.mem.ptr);
    assert_int_equal(azredis_reply_copy(&b, &a), AZREDIS_OK);
    assert_int_equal(b.status, AZREDIS_E_CLOSED);
    assert_ptr_equal(b.error, &azri_no_record);
    azredis_reply_free(&b);
}

static void copies_that_fail(void **s) {
    static int64_t words[50];
    char *mine = (char *)words;
    azredis_reply lent, a, fixed;
    (void)s;
    memset(&a, 0, sizeof a);
    keep_tree(&lent);
    h.full = 1;
    assert_int_equal(azredis_reply_copy(&a, &lent), AZREDIS_E_NOMEM);
    h.full = 0;
    assert_int_equal(a.status, AZREDIS_E_NOMEM);
    assert_int_equal(a.error->code, AZREDIS_E_NOMEM);
    assert_int_equal(a.fate, AZREDIS_ANSWERED);
    assert_null(a.value);
    memset(&fixed, 0, sizeof fixed);
    fixed.mem.ptr = mine;
    fixed.mem.size = 40;
    fixed.mem.fixed = 1;
    assert_int_equal(azredis_reply_copy(&fixed, &lent), AZREDIS_E_LIMIT);
    assert_int_equal(fixed.status, AZREDIS_E_LIMIT);
    assert_ptr_equal(fixed.error, &azri_no_record);
    fixed.mem.size = sizeof words;
    assert_int_equal(azredis_reply_copy(&fixed, &lent), AZREDIS_OK);
    check_tree(fixed.value);
    assert_int_equal(azredis_reply_copy(&a, &fixed), AZREDIS_E_ARG);    /* no allocator to be found */
    assert_non_null(a.error);
    assert_int_equal(azredis_reply_copy(&a, &lent), AZREDIS_OK);
    assert_int_equal(azredis_reply_copy(&a, &fixed), AZREDIS_OK);       /* now it has its own */
    check_tree(a.value);
    azredis_reply_free(&a);
    azredis_reply_free(&lent);
}

/* azredis_exec puts an array around replies: an element's attribute does not stand before it. */
static void store_of_a_made_tree(void **s) {
    azredis_reply a, all;
    azredis_value items[2], root;
    (void)s;
    memset(&a, 0, sizeof a);
    memset(&all, 0, sizeof all);
    memset(&root, 0, sizeof root);
    memset(items, 0, sizeof items);
    parse(tree);
    assert_int_equal(azri_resp_keep(&dec, &frame, &a), AZREDIS_OK);
    items[0] = *a.value;
    root.type = AZREDIS_T_ARRAY;
    root.len = 2;
    root.as.items = items;
    assert_int_equal(azri_reply_store(&all, &m, &root), AZREDIS_OK);
    azredis_reply_free(&a);
    assert_int_equal(all.value->len, 2);
    assert_null(azredis_attribute(&all.value->as.items[0]));
    assert_string_equal(all.value->as.items[0].as.items[0].as.str, "hello");
    assert_int_equal(all.value->as.items[1].type, AZREDIS_T_NIL);
    azredis_reply_free(&all);
}

/* The deepest frame, in the array of azredis_exec, is copied; a deeper one is refused, not overrun. */
static void store_of_deep_trees(void **s) {
    static azredis_value level[AZRI_RESP_DEPTH + 3];
    azredis_reply r;
    size_t depth, i;
    (void)s;
    memset(&r, 0, sizeof r);
    for (depth = AZRI_RESP_DEPTH; depth <= AZRI_RESP_DEPTH + 2; depth++) {
        memset(level, 0, sizeof level);
        for (i = 0; i < depth; i++) {
            level[i].type = AZREDIS_T_ARRAY;
            level[i].len = 1;
            level[i].as.items = &level[i + 1];
        }
        assert_int_equal(azri_reply_store(&r, &m, level), depth <= AZRI_RESP_DEPTH + 1 ? AZREDIS_OK : AZREDIS_E_LIMIT);
    }
    azredis_reply_free(&r);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(text_of_every_type), T(fields), T(attributes), T(integers), T(doubles), T(booleans), T(status_texts),
        T(keep_and_free), T(memory_is_reused), T(fixed_buffers), T(fixed_buffer_takes_no_large_frame), T(error_records),
        T(error_records_in_fixed_buffers), T(copies), T(copies_that_fail), T(store_of_a_made_tree), T(store_of_deep_trees)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
