/* The RESP codec: every type, every split, every limit, every failing allocation. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <locale.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

/* ---- an allocator that counts and fails on demand ---- */

typedef struct heap { size_t live, peak, calls, fail_at, fail_from; } heap;

static void *heap_alloc(void *user, size_t n) {
    heap *h = (heap *)user;
    h->calls++;
    if (h->calls == h->fail_at || (h->fail_from && h->calls >= h->fail_from)) return NULL;
    h->live += n;
    if (h->live > h->peak) h->peak = h->live;
    return malloc(n ? n : 1);
}

static void heap_free(void *user, void *p, size_t n) {
    heap *h = (heap *)user;
    assert_true(h->live >= n);
    h->live -= n;
    free(p);
}

static azri_mem heap_mem(heap *h) {
    azri_mem m;
    m.alloc = heap_alloc;
    m.free = heap_free;
    m.user = h;
    m.shape = NULL;
    return m;
}

/* ---- a value as text: "+OK", "$abc", "*[:1 _]", "|[$k $v] :1" ---- */

typedef struct text { char p[65536]; size_t n; } text;

static void say(text *t, const char *s, size_t n) {
    if (n >= sizeof t->p - t->n) n = sizeof t->p - t->n - 1;
    memcpy(t->p + t->n, s, n);
    t->n += n;
    t->p[t->n] = '\0';
}

static void says(text *t, const char *s) { say(t, s, strlen(s)); }

static void describe(text *t, const azredis_value *v) {
    static const char mark[] = "_$+:,#(=-*%~>|";
    char c = mark[v->type], num[32];
    uint32_t i;
    assert_int_equal(v->reserved, 0);
    say(t, &c, 1);
    if (v->flags & AZREDIS_F_INVALID) says(t, "?");
    if (azri_is_aggregate(v->type)) {
        says(t, "[");
        for (i = 0; i < v->len; i++) {
            if (i) says(t, " ");
            assert_false(v->as.items[i].flags & AZREDIS_F_ATTRIBUTE);
            describe(t, &v->as.items[i]);
        }
        says(t, "]");
    } else if (v->type == AZREDIS_T_BOOL) {
        says(t, v->as.integer ? "t" : "f");
    } else if (v->type == AZREDIS_T_INTEGER) {
        snprintf(num, sizeof num, "%lld", (long long)v->as.integer);
        says(t, num);
    } else if (v->type != AZREDIS_T_NIL) {
        assert_int_equal(v->as.str[v->len], '\0');
        say(t, v->as.str, v->len);
    }
}

static void describe_frame(text *t, const azri_frame *f) {
    if (t->n) says(t, "; ");
    if (f->is_push) says(t, "PUSH ");
    if (f->status == AZREDIS_E_LIMIT) says(t, "LIMIT");
    else if (f->status == AZREDIS_E_NOMEM) says(t, "NOMEM");
    else assert_int_equal(f->status, AZREDIS_OK);
    if (f->status != AZREDIS_OK) {
        assert_null(f->root);
        return;
    }
    if (f->root->flags & AZREDIS_F_ATTRIBUTE) {
        describe(t, azredis_attribute(f->root));
        says(t, " ");
    }
    describe(t, f->root);
}

/* ---- feeding ---- */

/* Puts n bytes into the decoder, as many rooms as it takes. */
static void put(azri_resp *d, const char *p, size_t n, size_t want) {
    while (n) {
        char *at = NULL;
        size_t room = 0;
        assert_int_equal(azri_resp_room(d, want, &at, &room), AZREDIS_OK);
        assert_true(room >= 1);
        if (room > n) room = n;
        memcpy(at, p, room);
        azri_resp_got(d, room);
        p += room;
        n -= room;
    }
}

/* Delivers what is complete. Returns 0 after a protocol error. */
static int take(azri_resp *d, text *t) {
    azri_frame f;
    azredis_error e;
    azredis_status st;
    while ((st = azri_resp_next(d, &f, &e)) == AZREDIS_OK) describe_frame(t, &f);
    if (st == AZREDIS_AGAIN) return 1;
    assert_int_equal(st, AZREDIS_E_RESP);
    assert_int_equal(e.code, AZREDIS_E_RESP);
    assert_non_null(strstr(e.message, "Redis protocol"));
    assert_int_equal(azri_resp_next(d, &f, NULL), AZREDIS_E_RESP);     /* sticky */
    if (t->n) says(t, "; ");
    says(t, "ERR");
    return 0;
}

static text out;

/* Parses in[0..n) cut at the offsets a and b, or byte by byte if a is SIZE_MAX. */
static const char *parse_cut(const char *in, size_t n, size_t a, size_t b, size_t max) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    azri_resp d;
    size_t at = 0, to;
    int alive = 1;
    out.n = 0;
    out.p[0] = '\0';
    azri_resp_init(&d, &m, max);
    while (alive && at < n) {
        to = a == SIZE_MAX ? at + 1 : at < a ? a : at < b ? b : n;
        put(&d, in + at, to - at, 1);
        alive = take(&d, &out);
        at = to;
    }
    if (alive && azri_resp_mid_frame(&d)) says(&out, out.n ? "; ..." : "...");
    azri_resp_free(&d);
    assert_int_equal(h.live, 0);
    return out.p;
}

static const char *parse(const char *in, size_t n) { return parse_cut(in, n, n, n, 1u << 20); }

typedef struct row { const char *in; size_t n; const char *want; } row;
#define R(in, want) { in, sizeof in - 1, want }

/* Whole, byte by byte, and in every two pieces: the same frames. */
static void check_rows(const row *r, size_t rows) {
    size_t i, cut;
    for (i = 0; i < rows; i++) {
        assert_string_equal(parse(r[i].in, r[i].n), r[i].want);
        assert_string_equal(parse_cut(r[i].in, r[i].n, SIZE_MAX, 0, 1u << 20), r[i].want);
        for (cut = 1; cut < r[i].n; cut++)
            assert_string_equal(parse_cut(r[i].in, r[i].n, cut, r[i].n, 1u << 20), r[i].want);
    }
}
#define CHECK(rows) check_rows(rows, sizeof rows / sizeof rows[0])

static const row every_type[] = {
    R("+OK\r\n", "+OK"), R("+\r\n", "+"), R("-ERR no such\r\n", "-ERR no such"),
    R(":5\r\n", ":5"), R(":-17\r\n", ":-17"),
    R("$3\r\nabc\r\n", "$abc"), R("$0\r\n\r\n", "$"), R("$-1\r\n", "_"), R("$003\r\nabc\r\n", "$abc"),
    R("$5\r\na\r\nb\n\r\n", "$a\r\nb\n"),
    R("*0\r\n", "*[]"), R("*-1\r\n", "_"), R("*2\r\n:1\r\n$1\r\nx\r\n", "*[:1 $x]"),
    R("_\r\n", "_"), R(",3.25\r\n", ",3.25"), R("#t\r\n", "#t"), R("#f\r\n", "#f"), R("#T\r\n", "#t"), R("#F\r\n", "#f"),
    R("!9\r\nSYNTAX a\n\r\n", "-SYNTAX a\n"), R("!-1\r\n", "_"),
    R("=7\r\ntxt:abc\r\n", "=abc"), R("=4\r\ntxt:\r\n", "="), R("=-1\r\n", "_"),
    R("(3492890328409238509324850943850943825024385\r\n", "(3492890328409238509324850943850943825024385"),
    R("(-1\r\n", "(-1"), R("(+1\r\n", "(+1"), R("(12 xx\r\n", "(?12 xx"), R("(\r\n", "(?"), R("(-\r\n", "(?-"),
    R("%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n", "%[+a :1 +b :2]"), R("%0\r\n", "%[]"), R("%-1\r\n", "_"),
    R("~2\r\n:1\r\n:2\r\n", "~[:1 :2]"), R("~0\r\n", "~[]"), R("~-1\r\n", "_"),
    R(">2\r\n+message\r\n:1\r\n", "PUSH >[+message :1]"), R(">0\r\n", "PUSH >[]"), R(">-1\r\n", "PUSH _"),
    R(">1\r\n:1\r\n", "PUSH >[:1]"), R(">3\r\n_\r\n*0\r\n#t\r\n", "PUSH >[_ *[] #t]"),
    /* nested in each other */
    R("*5\r\n*1\r\n:1\r\n%1\r\n$1\r\nk\r\n*2\r\n_\r\n~1\r\n,1\r\n~0\r\n*0\r\n+x\r\n",
      "*[*[:1] %[$k *[_ ~[,1]]] ~[] *[] +x]"),
    R("%1\r\n*2\r\n:1\r\n:2\r\n%1\r\n=6\r\nmkd:hi\r\n!3\r\nE x\r\n", "%[*[:1 :2] %[=hi -E x]]"),
    R("*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n", "*[*[*[*[*[]]]]]"),
    /* a push inside another reply is an ordinary element */
    R("*3\r\n:1\r\n>2\r\n+subscribe\r\n+c\r\n:2\r\n", "*[:1 >[+subscribe +c] :2]"),
    /* several frames */
    R("+a\r\n:1\r\n>1\r\n+p\r\n*1\r\n_\r\n$2\r\nxy\r\n", "+a; :1; PUSH >[+p]; *[_]; $xy"),
    /* parts */
    R("*2\r\n:1\r\n", "..."), R("$5\r\nabc", "..."), R("+a\r\n+b", "+a; ..."), R("+a\r", "..."), R("$3\r\nabc\r", "...")
};

static void case_1_every_type_at_every_split(void **s) {
    (void)s;
    CHECK(every_type);
}

static void case_1_three_pieces(void **s) {
    static const char in[] = "*5\r\n$4\r\nab\r\n\r\n%1\r\n$1\r\nk\r\n,-1e5\r\n$?\r\n;2\r\nxy\r\n;1\r\nz\r\n;0\r\n*?\r\n.\r\n|1\r\n+a\r\n_\r\n=5\r\ntxt:v\r\n";
    static const char want[] = "*[$ab\r\n %[$k ,-1e5] $xyz *[] =v]";
    size_t n = sizeof in - 1, a, b;
    (void)s;
    for (a = 1; a < n; a++)
        for (b = a + 1; b < n; b++) assert_string_equal(parse_cut(in, n, a, b, 1u << 20), want);
}

static void case_2_streams(void **s) {
    static const row rows[] = {
        R("$?\r\n;4\r\nHell\r\n;6\r\no worl\r\n;1\r\nd\r\n;0\r\n", "$Hello world"),
        R("$?\r\n;0\r\n", "$"), R("$?\r\n;00\r\n:1\r\n", "$; :1"), R("$?\r\n;3\r\n\r\n;\r\n;0\r\n", "$\r\n;"),
        R("*?\r\n:1\r\n:2\r\n.\r\n", "*[:1 :2]"), R("*?\r\n.\r\n", "*[]"), R("~?\r\n.\r\n", "~[]"),
        R("%?\r\n.\r\n", "%[]"), R(">?\r\n.\r\n", "PUSH >[]"),
        R("%?\r\n+a\r\n:1\r\n+b\r\n:2\r\n.\r\n", "%[+a :1 +b :2]"), R("~?\r\n:1\r\n.\r\n", "~[:1]"),
        R(">?\r\n+k\r\n:1\r\n.\r\n", "PUSH >[+k :1]"),
        R("*?\r\n$?\r\n;1\r\na\r\n;1\r\nb\r\n;0\r\n*?\r\n%?\r\n$?\r\n;0\r\n~?\r\n.\r\n.\r\n.\r\n*1\r\n*?\r\n.\r\n.\r\n",
          "*[$ab *[%[$ ~[]]] *[*[]]]"),
        R("%?\r\n+a\r\n.\r\n", "ERR"), R("%?\r\n+a\r\n:1\r\n+b\r\n.\r\n", "ERR"),
        R(".\r\n", "ERR"), R("*1\r\n.\r\n", "ERR"), R("*?\r\n*1\r\n.\r\n", "ERR"), R("*?\r\n.x\r\n", "ERR"),
        R(";1\r\nx\r\n", "ERR"), R("*?\r\n;1\r\nx\r\n.\r\n", "ERR"), R("$?\r\n:1\r\n", "ERR"), R("$?\r\n.\r\n", "ERR"),
        R("$?\r\n;-1\r\n", "ERR"), R("$?\r\n;?\r\n", "ERR"), R("$?\r\n;\r\n", "ERR"), R("$?\r\n;1\r\nab\r\n", "ERR"),
        R("!?\r\n", "ERR"), R("=?\r\n", "ERR"), R("|?\r\n", "ERR"), R("*??\r\n", "ERR"), R("$? \r\n", "ERR"),
        R("*?\r\n|1\r\n+a\r\n+b\r\n.\r\n", "ERR")
    };
    (void)s;
    CHECK(rows);
}

static void case_3_attributes(void **s) {
    static const row rows[] = {
        R("|1\r\n+k\r\n,0.5\r\n*2\r\n:1\r\n:2\r\n", "|[+k ,0.5] *[:1 :2]"),
        R("|0\r\n:1\r\n", "|[] :1"), R("|1\r\n+k\r\n+v\r\n$-1\r\n:7\r\n", "|[+k +v] _; :7"),
        R("|1\r\n+k\r\n%1\r\n+a\r\n*1\r\n:1\r\n$?\r\n;1\r\nx\r\n;0\r\n", "|[+k %[+a *[:1]]] $x"),
        R("*3\r\n:1\r\n|1\r\n+ttl\r\n:3600\r\n:2\r\n:3\r\n", "*[:1 :2 :3]"),
        R("*1\r\n|1\r\n+a\r\n*2\r\n:1\r\n*1\r\n:2\r\n|1\r\n+b\r\n_\r\n%1\r\n|0\r\n+k\r\n|0\r\n+v\r\n", "*[%[+k +v]]"),
        R("*?\r\n|1\r\n+a\r\n+b\r\n:1\r\n|0\r\n:2\r\n.\r\n", "*[:1 :2]"),
        R("%?\r\n|1\r\n+a\r\n+b\r\n+k\r\n|0\r\n:2\r\n.\r\n", "%[+k :2]"),
        /* doubled: the last is kept */
        R("|1\r\n+a\r\n*1\r\n:9\r\n|1\r\n+b\r\n*1\r\n:8\r\n:1\r\n:2\r\n", "|[+b *[:8]] :1; :2"),
        /* inside an attribute */
        R("|1\r\n|1\r\n+x\r\n+y\r\n+k\r\n|0\r\n+v\r\n:1\r\n", "|[+k +v] :1"),
        R("|1\r\n+k\r\n>1\r\n+p\r\n:1\r\n", "|[+k >[+p]] :1"),
        R("|1\r\n+a\r\n+b\r\n>2\r\n+message\r\n:1\r\n+OK\r\n", "PUSH |[+a +b] >[+message :1]; +OK"),
        R("|-1\r\n", "ERR"), R("|1\r\n+a\r\n.\r\n", "ERR"), R("|1\r\n+a\r\n+b\r\n", "...")
    };
    (void)s;
    CHECK(rows);
}

/* What 1.3 accepts as an integer, a double, a big number, and what not. */
static void case_4_numbers(void **s) {
    static const row rows[] = {
        R(":+5\r\n", ":5"), R(":007\r\n", ":7"), R(":-0\r\n", ":0"), R(":9223372036854775807\r\n", ":9223372036854775807"),
        R(":-9223372036854775808\r\n", ":-9223372036854775808"), R(":9223372036854775808\r\n", "ERR"),
        R(":-9223372036854775809\r\n", "ERR"), R(":\r\n", "ERR"), R(":-\r\n", "ERR"), R(":+\r\n", "ERR"),
        R(":1 2\r\n", "ERR"), R(": 1\r\n", "ERR"), R(":1 \r\n", "ERR"), R(":--1\r\n", "ERR"), R(":1.5\r\n", "ERR"),
        R(":0x1\r\n", "ERR"), R(":99999999999999999999999\r\n", "ERR"),
        R(",3\r\n", ",3"), R(",+3\r\n", ",+3"), R(",.5\r\n", ",.5"), R(",5.\r\n", ",5."), R(",-.5e-7\r\n", ",-.5e-7"),
        R(",1e+300\r\n", ",1e+300"), R(",1.0000000000000001e+300\r\n", ",1.0000000000000001e+300"),
        R(",5e-324\r\n", ",5e-324"), R(",123456789012345680\r\n", ",123456789012345680"), R(",1e400\r\n", ",1e400"),
        R(",1E5\r\n", ",1E5"), R(",inf\r\n", ",inf"), R(",-inf\r\n", ",-inf"), R(",+inf\r\n", ",+inf"),
        R(",Inf\r\n", ",Inf"), R(",INFINITY\r\n", ",INFINITY"), R(",-infinity\r\n", ",-infinity"), R(",nan\r\n", ",nan"),
        R(",-nan\r\n", ",-nan"), R(",NAN\r\n", ",NAN"), R(",nan(0x8)\r\n", ",nan(0x8)"), R(",-NaN()\r\n", ",-NaN()"),
        R(",\r\n", "ERR"), R(",1e\r\n", "ERR"), R(",1e+\r\n", "ERR"), R(",e5\r\n", "ERR"), R(",.\r\n", "ERR"),
        R(",-\r\n", "ERR"), R(",1,5\r\n", "ERR"), R(",1.5 \r\n", "ERR"), R(", 1\r\n", "ERR"), R(",--1\r\n", "ERR"),
        R(",1.2.3\r\n", "ERR"), R(",1e5.5\r\n", "ERR"), R(",infin\r\n", "ERR"), R(",nan(\r\n", "ERR"), R(",nanx\r\n", "ERR"),
        R(",0x1p3\r\n", "ERR"), R(",.e5\r\n", "ERR"), R(",+\r\n", "ERR"), R(",-+1\r\n", "ERR"),
        R("#\r\n", "ERR"), R("#x\r\n", "ERR"), R("#tt\r\n", "ERR"), R("#1\r\n", "ERR"), R("_x\r\n", "ERR"), R("_ \r\n", "ERR")
    };
    (void)s;
    /* Debian may lack the locale: then this is the C locale once more, and says nothing new. */
    setlocale(LC_ALL, "de_DE.UTF-8");
    CHECK(rows);
    setlocale(LC_ALL, "C");
    CHECK(rows);
}

static void case_5_refused(void **s) {
    static const row rows[] = {
        R("$-2\r\n", "ERR"), R("$-01\r\n", "ERR"), R("$--1\r\n", "ERR"), R("$+3\r\nabc\r\n", "ERR"), R("$ 3\r\n", "ERR"),
        R("$3 \r\n", "ERR"), R("$\r\n", "ERR"), R("$3x\r\n", "ERR"), R("$536870913\r\n", "ERR"), R("$4294967299\r\n", "ERR"),
        R("$18446744073709551616\r\n", "ERR"), R("$18446744073709551619\r\n", "ERR"), R("!-2\r\n", "ERR"), R("=-2\r\n", "ERR"),
        R("*-2\r\n", "ERR"), R("*+1\r\n", "ERR"), R("*\r\n", "ERR"), R("*16777217\r\n", "ERR"), R("*4294967295\r\n", "ERR"),
        R("*4294967297\r\n", "ERR"), R("*18446744073709551617\r\n", "ERR"), R("%8388609\r\n", "ERR"),
        R("%9223372036854775809\r\n", "ERR"), R("|8388609\r\n", "ERR"), R("~16777217\r\n", "ERR"), R(">16777217\r\n", "ERR"),
        R("*16777216\r\n", "..."), R("%8388608\r\n", "..."), R("~16777216\r\n", "..."), R("|8388608\r\n", "..."),
        R("$3\r\nabcxx", "ERR"), R("$3\r\nabc\n\n", "ERR"), R("$3\r\nabcd\r\n", "ERR"), R("$3\r\nabc\rx", "ERR"),
        R("=3\r\ntxt\r\n", "ERR"), R("=0\r\n\r\n", "ERR"), R("=5\r\ntxt-a\r\n", "ERR"), R("=8\r\nmark:own\r\n", "ERR"),
        R("+a\nb\r\n", "ERR"), R("+a\rb\r\n", "ERR"), R("-a\n", "ERR"), R("+\r\r\n", "ERR"), R(":1\n", "ERR"), R("$3\nabc\r\n", "ERR"),
        R("HTTP/1.1 400 Bad Request\r\n", "ERR"), R("\x15\x03\x01", "ERR"), R("\r\n", "ERR"), R("\n", "ERR"), R(" ", "ERR"),
        R("a", "ERR"), R("\0", "ERR"), R("\xff", "ERR"), R("*1\r\nx", "ERR"), R("+OK\r\n?\r\n", "+OK; ERR"), R("@1\r\n", "ERR"),
        R("$00000000000000000000000000000003\r\nabc\r\n", "$abc"), R("$000000000000000000000000000000003\r\n", "ERR")
    };
    azri_resp d;
    azri_frame f;
    azredis_error e;
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    (void)s;
    CHECK(rows);
    azri_resp_init(&d, &m, 1000);
    put(&d, "HTTP/1.1", 8, 1);
    assert_int_equal(azri_resp_next(&d, &f, &e), AZREDIS_E_RESP);
    assert_non_null(strstr(e.message, "unknown type (type 0x48); is this an HTTP server?"));
    assert_string_equal(e.where, "redis.reply");
    azri_resp_free(&d);
}

static void case_5_depth(void **s) {
    static char in[4 * 200 + 8];
    static const char *const open[] = { "*1\r\n", "*?\r\n", "~1\r\n", ">1\r\n" };
    size_t k, depth, i;
    (void)s;
    for (k = 0; k < sizeof open / sizeof open[0]; k++)
        for (depth = 127; depth <= 129; depth++) {
            const char *got;
            for (i = 0; i < depth; i++) memcpy(in + 4 * i, open[k], 4);
            memcpy(in + 4 * depth, "_\r\n", 3);
            got = parse(in, 4 * depth + 3);
            if (depth == 129) assert_string_equal(got, "ERR");
            else if (k == 1) assert_string_equal(got, "...");
            else assert_non_null(strstr(got, "[_]"));
        }
    for (i = 0; i < 129; i++) memcpy(in + 4 * i, "*1\r\n", 4);
    memcpy(in + 4 * 127, "*0\r\n", 4);
    assert_non_null(strstr(parse(in, 4 * 128), "[]"));      /* an empty one counts as a level */
    memcpy(in + 4 * 127, "*1\r\n*0\r\n", 8);
    assert_string_equal(parse(in, 4 * 129), "ERR");
}

static void case_5_line(void **s) {
    static const char types[] = "+-(:,";
    char *in = (char *)malloc(70000);
    size_t k, n;
    (void)s;
    for (k = 0; k < 5; k++)
        for (n = AZRI_RESP_LINE_MAX - 1; n <= AZRI_RESP_LINE_MAX + 1; n++) {
            const char *got;
            in[0] = types[k];
            memset(in + 1, '0', n);
            memcpy(in + 1 + n, "\r\n", 2);
            got = parse(in, n + 3);
            if (n > AZRI_RESP_LINE_MAX) assert_string_equal(got, "ERR");
            else assert_int_equal(got[0], types[k]);
            assert_string_equal(parse(in, n + 1), n > AZRI_RESP_LINE_MAX ? "ERR" : "...");   /* before its end, too */
            /* the same limit in a frame that is skipped */
            got = parse_cut(in, n + 3, 30000, 50000, 100);
            assert_string_equal(got, n > AZRI_RESP_LINE_MAX ? "ERR" : "LIMIT");
        }
    in[0] = '+';
    memset(in + 1, 'x', 60000);
    in[40000] = '\n';
    assert_string_equal(parse_cut(in, 60000, 30000, 60000, 100), "ERR");
    in[40000] = '\r';
    assert_string_equal(parse_cut(in, 60000, 30000, 60000, 100), "ERR");
    in[40001] = '\n';
    assert_string_equal(parse_cut(in, 40002, 30000, 40001, 100), "LIMIT");
    free(in);
}

static azri_resp dec;

/* A streamed aggregate has no announced count: its items are counted. */
static void case_5_streamed_count(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    static char in[3 * 4096];
    size_t i;
    azri_frame f;
    (void)s;
    for (i = 0; i < 4096; i++) memcpy(in + 3 * i, "_\r\n", 3);
    azri_resp_init(&dec, &m, 1000);
    put(&dec, "*?\r\n", 4, 1);
    for (i = 0; i < AZRI_RESP_COUNT_MAX; i += 4096) {
        put(&dec, in, sizeof in, sizeof in);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
    }
    put(&dec, "_\r\n", 3, 1);
    assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_E_RESP);
    azri_resp_free(&dec);
    assert_true(h.peak < 100000);
}

/* cost = bytes + 16 a node: at the limit it passes, one byte less and it is skipped; then all is well. */
static void case_5_max_reply(void **s) {
    static const struct { const char *in; size_t nodes; int push; } rows[] = {
        { "$10\r\n0123456789\r\n", 1, 0 }, { "+0123456789\r\n", 1, 0 }, { ":1\r\n", 1, 0 }, { "*2\r\n:1\r\n:2\r\n", 3, 0 },
        { "|1\r\n+a\r\n+b\r\n:1\r\n", 4, 0 }, { "*1\r\n|1\r\n+a\r\n+b\r\n$2\r\nxy\r\n", 2, 0 }, { "$?\r\n;2\r\nab\r\n;0\r\n", 1, 0 },
        { "*?\r\n*0\r\n.\r\n", 2, 0 }, { ">2\r\n+message\r\n=7\r\ntxt:abc\r\n", 3, 1 }, { "(123\r\n", 1, 0 }, { "%1\r\n#t\r\n,1\r\n", 3, 0 },
        { "!5\r\nERR x\r\n", 1, 0 }
    };
    size_t i, cut, max;
    (void)s;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char in[100], want[64];
        size_t n = strlen(rows[i].in), cost = n + 16 * rows[i].nodes;
        memcpy(in, rows[i].in, n);
        memcpy(in + n, "+next\r\n", 7);
        for (max = 30; max <= cost + 1; max++)
            for (cut = 1; cut < n + 7; cut++) {
                const char *got = parse_cut(in, n + 7, cut, n + 7, max);
                snprintf(want, sizeof want, "%sLIMIT; +next", rows[i].push ? "PUSH " : "");
                if (max < cost) assert_string_equal(got, want);
                else assert_null(strstr(got, "LIMIT"));
                assert_non_null(strstr(got, "; +next"));
            }
    }
}

static void case_5_skipped_is_still_checked(void **s) {
    static const row rows[] = {
        R("*2\r\n$9\r\n012345678\r\n%1\r\n+a\r\n+b\r\n:1\r\n", "LIMIT; :1"), R("*2\r\n$9\r\n012345678xx", "ERR"),
        R("*2\r\n$9\r\n012345678\r\n?", "ERR"), R("%?\r\n$9\r\n012345678\r\n.\r\n", "ERR"),
        R("*2\r\n$9\r\n012345678\r\n$?\r\n;3\r\nabc\r\n;0\r\n:1\r\n", "LIMIT; :1"),
        R("*2\r\n$9\r\n012345678\r\n|1\r\n+a\r\n*1\r\n:1\r\n*0\r\n:1\r\n", "LIMIT; :1"),
        R("*3\r\n$9\r\n012345678\r\n=7\r\ntxt:abc\r\n!2\r\nab\r\n:1\r\n", "LIMIT; :1"), R("*2\r\n$9\r\n012345678\r\n=2\r\n", "ERR"),
        R("|1\r\n+a\r\n$9\r\n012345678\r\n>1\r\n+x\r\n:1\r\n", "PUSH LIMIT; :1"),
        R("*2\r\n$9\r\n012345678\r\n*?\r\n|0\r\n.\r\n", "ERR"),
        R("*?\r\n$9\r\n012345678\r\n|0\r\n+abc\r\n.\r\n:1\r\n", "LIMIT; :1"),
        R("*2\r\n$9\r\n012345678\r\n$?\r\n+abc\r\n", "ERR"),
        /* what a cut would hide is not checked without the cut */
        R("*2\r\n$9\r\n012345678\r\n:abc\r\n:1\r\n", "LIMIT; :1"), R(":000000000000000000000000000000000x\r\n", "LIMIT")
    };
    size_t i, cut;
    (void)s;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_string_equal(parse_cut(rows[i].in, rows[i].n, SIZE_MAX, 0, 30), rows[i].want);
        for (cut = 1; cut <= rows[i].n; cut++)
            assert_string_equal(parse_cut(rows[i].in, rows[i].n, cut, rows[i].n, 30), rows[i].want);
    }
}

/* The promise of the section's head, after every piece that is fed. */
static void check_memory(const azri_resp *d, size_t in_frame, const heap *h) {
    assert_true(azri_resp_cap(d) <= 2 * in_frame + AZRI_RESP_RESERVE);
    assert_true(h->live <= 2 * in_frame + AZRI_RESP_RESERVE + AZRI_BLOCK_HEAD + d->nodes_cap * 16);
    assert_true(d->nodes_cap <= AZRI_RESP_NODES || d->nodes_cap <= 2 * (d->work + d->done));
}

static void case_5_bombs(void **s) {
    static const char *const bombs[] = { "*16777216\r\n", "%8388608\r\n", "~16777216\r\n", ">16777216\r\n", "|8388608\r\n" };
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    azri_frame f;
    size_t k, i, n;
    (void)s;
    for (k = 0; k < sizeof bombs / sizeof bombs[0]; k++) {
        azri_resp_init(&dec, &m, SIZE_MAX);
        for (i = n = 0; i < AZRI_RESP_DEPTH; i++) {
            put(&dec, bombs[k], strlen(bombs[k]), 1);
            n += strlen(bombs[k]);
            assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
            check_memory(&dec, n, &h);
        }
        assert_true(h.peak < 20000);                    /* one block, no node */
        azri_resp_free(&dec);
        h.peak = 0;
    }
    azri_resp_init(&dec, &m, SIZE_MAX);                 /* 512 MiB announced, 40 bytes sent */
    put(&dec, "$536870912\r\n", 12, 1);
    for (i = 0; i < 40; i++) {
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
        put(&dec, "x", 1, 1);
        check_memory(&dec, 12 + i, &h);
    }
    assert_true(h.peak < AZRI_RESP_RESERVE + 40000);
    azri_resp_free(&dec);
    assert_int_equal(h.live, 0);
}

/* A large string arrives: the block follows what was received, and ends at what is needed. */
static void case_5_growth(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    azri_frame f;
    size_t total = 9u << 20, sent = 0, n;
    char *piece = (char *)calloc(1, 16384), *at;
    (void)s;
    azri_resp_init(&dec, &m, SIZE_MAX);
    put(&dec, "$9437184\r\n", 10, 16384);
    while (sent < total) {
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
        assert_int_equal(azri_resp_room(&dec, 16384, &at, &n), AZREDIS_OK);
        n = azri_minz(azri_minz(n, 16384), total - sent);
        memcpy(at, piece, n);
        azri_resp_got(&dec, n);
        sent += n;
        check_memory(&dec, sent + 10, &h);
    }
    put(&dec, "\r\n", 2, 16384);
    assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
    assert_int_equal(f.root->len, total);
    assert_int_equal(azri_resp_cap(&dec), total + 12);
    assert_true(h.peak < 2 * total + AZRI_RESP_RESERVE);    /* the last growth, old block and new */
    azri_resp_free(&dec);
    free(piece);
}

/* 100 MiB stream by over max_reply = 1 MiB. */
static void case_5_skipping_holds_nothing(void **s) {
    static const char *const heads[] = { "$104857600\r\n", "*?\r\n" };
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    char *piece = (char *)malloc(1 << 16);
    size_t k, i, n;
    azri_frame f;
    azredis_error e;
    (void)s;
    for (k = 0; k < 2; k++) {
        memset(piece, 0, 1 << 16);
        n = (size_t)snprintf(piece, 1 << 16, "$65523\r\n");
        memcpy(piece + n + 65523, "\r\n", 2);
        n += 65523 + 2;
        h.peak = 0;
        azri_resp_init(&dec, &m, 1u << 20);
        put(&dec, heads[k], strlen(heads[k]), 1);
        for (i = 0; i < 1600; i++) {
            if (k == 0 && i == 0) n = 1 << 16;
            put(&dec, piece, n, 16384);
            assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
            assert_true(azri_resp_mid_frame(&dec));
            if (k == 0 || i > 20) assert_true(h.live < 100000);
        }
        azri_resp_idle(&dec);
        assert_int_equal(h.live, 0);
        assert_true(azri_resp_mid_frame(&dec));
        put(&dec, k ? ".\r\n:7\r\n" : "\r\n:7\r\n", k ? 7 : 6, 1);
        assert_int_equal(azri_resp_next(&dec, &f, &e), AZREDIS_OK);
        assert_int_equal(f.status, AZREDIS_E_LIMIT);
        assert_int_equal(e.code, AZREDIS_E_LIMIT);
        assert_non_null(strstr(e.message, "max_reply (1048576)"));
        assert_int_equal(f.bytes, strlen(heads[k]) + 1600 * n + (k ? 3 : 2));
        assert_int_equal(azri_resp_next(&dec, &f, &e), AZREDIS_OK);
        assert_int_equal(f.root->as.integer, 7);
        assert_false(azri_resp_mid_frame(&dec));
        assert_true(h.peak < (k ? 5u << 20 : 200000u));
        azri_resp_free(&dec);
        assert_int_equal(h.live, 0);
    }
    free(piece);
}

/* The nodes go at once, too. */
static void case_5_skipping_holds_no_nodes(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    azri_frame f;
    size_t i;
    (void)s;
    azri_resp_init(&dec, &m, 1u << 20);
    put(&dec, "*?\r\n", 4, 1);
    for (i = 0; i < 100000; i++) {
        put(&dec, "_\r\n", 3, 16384);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
        if (i == 50000) assert_true(h.live > 500000);
        if (i > 60000) assert_true(h.live < 100000);
    }
    azri_resp_free(&dec);
}

/* The pieces of a streamed string are bounded by their sum. */
static void case_5_streamed_length(void **s) {
    static const struct { const char *piece; azredis_status want; } rows[] = {
        { ";1\r\n", AZREDIS_AGAIN }, { ";3\r\n", AZREDIS_AGAIN }, { ";4\r\n", AZREDIS_E_RESP }, { ";5\r\n", AZREDIS_E_RESP },
        { ";13\r\n", AZREDIS_E_RESP }
    };
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    azri_frame f;
    size_t i;
    (void)s;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        azri_resp_init(&dec, &m, 1u << 20);
        put(&dec, "$?\r\n", 4, 1);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
        dec.text_len = AZRI_RESP_BULK_MAX - 3;          /* as if so much had come */
        put(&dec, rows[i].piece, strlen(rows[i].piece), 1);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), rows[i].want);
        azri_resp_free(&dec);
    }
}

/* ---- random input ---- */

static void case_6_random_bytes(void **s) {
    static const char alphabet[] = "+-:$*_,#!=(%~>|;.?0123456789\r\n\r\n\r\n\r\ntfe x";
    azri_rng r = { 7 };
    size_t round, i;
    (void)s;
    for (round = 0; round < 20000; round++) {
        char in[96];
        heap h = { 0, 0, 0, 0, 0 };
        azri_mem m = heap_mem(&h);
        size_t n = 1 + (size_t)azri_rng_below(&r, sizeof in);
        for (i = 0; i < n; i++)
            in[i] = azri_rng_below(&r, 50) ? alphabet[azri_rng_below(&r, sizeof alphabet - 1)] : (char)azri_rng_next(&r);
        azri_resp_init(&dec, &m, 4096);
        out.n = 0;
        for (i = 0; i < n; i++) {
            put(&dec, in + i, 1, 1);
            if (!take(&dec, &out)) break;
        }
        assert_true(h.peak < AZRI_RESP_RESERVE + 200000);
        azri_resp_free(&dec);
        assert_int_equal(h.live, 0);
    }
}

static void pipelines_in_random_pieces(void **s) {
    azri_rng r = { 11 };
    size_t round, i, rows = sizeof every_type / sizeof every_type[0];
    (void)s;
    for (round = 0; round < 300; round++) {
        static char in[1 << 16];
        static text want;
        heap h = { 0, 0, 0, 0, 0 };
        azri_mem m = heap_mem(&h);
        size_t n = 0, at = 0, k;
        want.n = out.n = 0;
        want.p[0] = out.p[0] = '\0';
        for (i = 0; i < 400; i++) {
            const row *one = &every_type[azri_rng_below(&r, rows - 5)];
            memcpy(in + n, one->in, one->n);
            n += one->n;
            if (want.n) says(&want, "; ");
            says(&want, one->want);
        }
        azri_resp_init(&dec, &m, 1u << 20);
        while (at < n) {
            k = azri_minz(n - at, 1 + (size_t)azri_rng_below(&r, round % 2 ? 9 : 3000));
            put(&dec, in + at, k, 1 + (size_t)azri_rng_below(&r, 100));
            assert_true(take(&dec, &out));
            at += k;
        }
        assert_string_equal(out.p, want.p);
        assert_false(azri_resp_mid_frame(&dec));
        azri_resp_idle(&dec);
        assert_int_equal(h.live, 0);
        azri_resp_free(&dec);
    }
}

/* A line is searched on from where the search ended, and a payload is passed by its length: a scan of
 * 4 MiB after each of its bytes would take hours. */
static void no_rescan(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    size_t i;
    azri_frame f;
    (void)s;
    azri_resp_init(&dec, &m, 1u << 24);
    put(&dec, "+", 1, 1);
    for (i = 0; i < 60000; i++) {
        put(&dec, "x", 1, 1);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
        azri_resp_data(&dec)[dec.end - 1] = '\n';       /* a second look would find a lone LF */
    }
    azri_resp_free(&dec);
    azri_resp_init(&dec, &m, 1u << 24);
    put(&dec, "$4194304\r\n", 10, 1);
    assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
    for (i = 0; i < 4194304; i++) {
        put(&dec, "\n", 1, 1);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
    }
    assert_int_equal(dec.pos, 10);
    put(&dec, "\r\n", 2, 1);
    assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
    assert_int_equal(f.root->len, 4194304);
    azri_resp_free(&dec);
}

/* No allocation per frame once the block and the nodes are there. */
static void steady_state(void **s) {
    static const char in[] = "*3\r\n$5\r\nhello\r\n:1\r\n%1\r\n+a\r\n,1.5\r\n";
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    azredis_reply r;
    azri_frame f;
    size_t i, calls = 0;
    (void)s;
    memset(&r, 0, sizeof r);
    azri_resp_init(&dec, &m, 1u << 24);
    for (i = 0; i < 1000; i++) {
        if (i == 1) calls = h.calls;
        put(&dec, in, sizeof in - 1, 16384);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
        assert_int_equal(azri_resp_keep(&dec, &f, &r), AZREDIS_OK);
    }
    assert_int_equal(h.calls, calls);
    azredis_reply_free(&r);
    azri_resp_free(&dec);
    assert_int_equal(h.live, 0);
}

/* ---- keep ---- */

static size_t big_frame(char *p, size_t payload, char fill) {
    size_t n = (size_t)sprintf(p, "*2\r\n$%zu\r\n", payload);
    memset(p + n, fill, payload);
    n += payload;
    memcpy(p + n, "\r\n:5\r\n", 6);
    return n + 6;
}

static void large_frames_are_not_copied(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    char *in = (char *)malloc(300000);
    azredis_reply r;
    azri_frame f;
    size_t n, i, calls = 0;
    (void)s;
    memset(&r, 0, sizeof r);
    azri_resp_init(&dec, &m, 1u << 24);
    for (i = 0; i < 20; i++) {
        const char *at;
        n = big_frame(in, 250000, (char)('a' + i));
        memcpy(in + n, "+tail\r\n+pa", 10);             /* bytes behind the frame move on */
        if (i == 4) calls = h.calls;
        put(&dec, in, n + 10, 16384);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
        at = f.root->as.items[0].as.str;
        assert_int_equal(azri_resp_keep(&dec, &f, &r), AZREDIS_OK);
        assert_ptr_equal(r.value, f.root);
        assert_ptr_equal(r.value->as.items[0].as.str, at);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
        assert_string_equal(azredis_text(f.root).ptr, "tail");
        put(&dec, "rt\r\n", 4, 16384);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
        assert_string_equal(azredis_text(f.root).ptr, "part");
        assert_int_equal(r.value->as.items[0].len, 250000);
        assert_int_equal(r.value->as.items[0].as.str[0], 'a' + (int)i);
        assert_int_equal(r.value->as.items[0].as.str[249999], 'a' + (int)i);
        assert_int_equal(r.value->as.items[0].as.str[250000], 0);
        assert_int_equal(r.value->as.items[1].as.integer, 5);
    }
    assert_int_equal(h.calls, calls);                   /* decoder and reply trade the same two blocks */
    azri_resp_free(&dec);
    assert_int_equal(r.value->as.items[0].as.str[7], 'a' + 19);   /* outlives the decoder */
    azredis_reply_free(&r);
    assert_int_equal(h.live, 0);
    free(in);
}

/* 64 KiB is the border; and a block far larger than the frame stays. */
static void keep_border(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    char *in = (char *)malloc(1 << 20), *block, *at;
    size_t n, size, room;
    azredis_reply r;
    azri_frame f;
    (void)s;
    memset(&r, 0, sizeof r);
    for (size = AZRI_RESP_SWAP - 1; size <= AZRI_RESP_SWAP + 1; size++) {
        azri_resp_init(&dec, &m, 1u << 24);
        n = big_frame(in, size - 4 - 8 - 6, 'x');
        assert_int_equal(n, size);
        put(&dec, in, n, 16384);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
        assert_int_equal(f.bytes, size);
        block = dec.block;
        assert_int_equal(azri_resp_keep(&dec, &f, &r), AZREDIS_OK);
        assert_int_equal(dec.block == block, size < AZRI_RESP_SWAP);
        azri_resp_free(&dec);
        assert_int_equal(r.value->as.items[0].as.str[size - 4 - 8 - 6], 0);
        azredis_reply_free(&r);
    }
    azri_resp_init(&dec, &m, 1u << 24);
    n = big_frame(in, 100000, 'x');
    assert_int_equal(azri_resp_room(&dec, 1 << 20, &at, &room), AZREDIS_OK);
    assert_true(azri_resp_resize(&dec, 5 * n));
    put(&dec, in, n, 1);
    assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
    block = dec.block;
    assert_int_equal(azri_resp_keep(&dec, &f, &r), AZREDIS_OK);
    assert_ptr_equal(dec.block, block);
    assert_true(r.mem.size < 2 * n);
    azri_resp_free(&dec);
    azredis_reply_free(&r);
    assert_int_equal(h.live, 0);
    free(in);
}

static void keep_skipped_gives_its_status(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    azredis_reply r;
    azri_frame f;
    (void)s;
    memset(&r, 0, sizeof r);
    azri_resp_init(&dec, &m, 20);
    put(&dec, "$30\r\n012345678901234567890123456789\r\n", 37, 1);
    assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
    assert_int_equal(azri_resp_keep(&dec, &f, &r), AZREDIS_E_LIMIT);
    assert_null(r.value);
    azri_resp_free(&dec);
}

/* ---- out of memory ---- */

static const char oom_a[] = "*100\r\n", oom_b[] = "*1\r\n$3\r\nend\r\n";

/* Feeds an array of 100 strings of 1000 bytes and a small frame; keeps both. Returns what was seen. */
static void oom_run(heap *h, text *t) {
    azri_mem m = heap_mem(h);
    static char in[120000];
    size_t n = sizeof oom_a - 1, i, at = 0, room, k;
    azredis_reply r;
    azri_frame f;
    char *p;
    memcpy(in, oom_a, n);
    for (i = 0; i < 100; i++) {
        n += (size_t)sprintf(in + n, "$1000\r\n");
        memset(in + n, 'x', 1000);
        memcpy(in + n + 1000, "\r\n", 2);
        n += 1002;
    }
    memcpy(in + n, oom_b, sizeof oom_b - 1);
    n += sizeof oom_b - 1;
    memset(&r, 0, sizeof r);
    t->n = 0;
    azri_resp_init(&dec, &m, 1u << 24);
    while (at < n) {
        azredis_status st = azri_resp_room(&dec, 4000, &p, &room);
        if (st == AZREDIS_E_NOMEM) {                    /* only before anything is held */
            assert_null(dec.block);
            if (h->fail_from) break;
            continue;
        }
        assert_int_equal(st, AZREDIS_OK);
        k = azri_minz(azri_minz(room, 4000), n - at);
        memcpy(p, in + at, k);
        azri_resp_got(&dec, k);
        at += k;
        while (azri_resp_next(&dec, &f, NULL) == AZREDIS_OK) {
            if (f.status != AZREDIS_OK) {
                assert_int_equal(f.status, AZREDIS_E_NOMEM);
                assert_null(f.root);
                says(t, "skipped ");
                continue;
            }
            st = azri_resp_keep(&dec, &f, &r);
            if (st == AZREDIS_OK) {
                assert_int_equal(azredis_text(&r.value->as.items[0]).len, r.value->len == 100 ? 1000 : 3);
                says(t, r.value->len == 100 ? "big " : "end ");
            } else {
                assert_int_equal(st, AZREDIS_E_NOMEM);
                assert_null(r.value);
                says(t, "unkept ");
            }
        }
    }
    azri_resp_free(&dec);
    azredis_reply_free(&r);
    assert_int_equal(h->live, 0);
}

static void case_8_every_allocation_fails_once(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    static text t;
    size_t total, k, skipped = 0, unkept = 0;
    (void)s;
    oom_run(&h, &t);
    assert_string_equal(t.p, "big end ");
    total = h.calls;
    assert_true(total >= 6);
    for (k = 1; k <= total; k++) {
        memset(&h, 0, sizeof h);
        h.fail_at = k;
        oom_run(&h, &t);
        if (strstr(t.p, "skipped")) skipped++;
        if (strstr(t.p, "unkept")) unkept++;
        /* one frame at most suffers; a block that cannot grow yet may still find memory a moment later */
        assert_true(!strcmp(t.p, "big end ") || !strcmp(t.p, "skipped end ") || !strcmp(t.p, "unkept end ") ||
                    !strcmp(t.p, "big unkept ") || !strcmp(t.p, "big skipped "));
    }
    assert_true(skipped >= 2);
    assert_true(unkept >= 1);
    for (k = 1; k <= total; k++) {                      /* and from the k-th on all */
        memset(&h, 0, sizeof h);
        h.fail_from = k;
        oom_run(&h, &t);
    }
}

/* No memory for a larger block in the middle of a long line, of a string, and of a length line. */
static void no_memory_mid_frame(void **s) {
    size_t kind, fill;
    (void)s;
    for (kind = 0; kind < 3; kind++) {
        heap h = { 0, 0, 0, 0, 0 };
        azri_mem m = heap_mem(&h);
        azri_frame f;
        char *p;
        size_t n, sent = 0, total = 40000;
        azri_resp_init(&dec, &m, 1u << 24);
        put(&dec, kind == 0 ? "+" : kind == 1 ? "$39999\r\n" : "*2\r\n$39980\r\n", kind == 0 ? 1 : kind == 1 ? 8 : 12, 1);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
        h.fail_from = h.calls + 1;
        fill = kind == 1 ? total - 1 : kind == 2 ? 39980 : total;
        while (sent < fill) {
            assert_int_equal(azri_resp_room(&dec, 1000, &p, &n), AZREDIS_OK);
            n = azri_minz(n, fill - sent);
            memset(p, 'x', n);
            azri_resp_got(&dec, n);
            sent += n;
            if (sent == 3000) continue;                 /* room again without next is allowed */
            assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_AGAIN);
        }
        put(&dec, kind == 2 ? "\r\n:1\r\n+ok\r\n" : "\r\n+ok\r\n", kind == 2 ? 11 : 7, 1);
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
        assert_int_equal(f.status, AZREDIS_E_NOMEM);
        h.fail_from = 0;                                /* nodes for the next one */
        assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
        assert_int_equal(f.status, AZREDIS_OK);
        assert_string_equal(azredis_text(f.root).ptr, "ok");
        azri_resp_free(&dec);
        assert_int_equal(h.live, 0);
    }
}

/* A full block of frames that were not asked for yet: AGAIN, not a loss. */
static void room_asks_for_next_first(void **s) {
    heap h = { 0, 0, 0, 0, 0 };
    azri_mem m = heap_mem(&h);
    azri_frame f;
    char *p = NULL;
    size_t n = 0, i, seen = 0;
    (void)s;
    azri_resp_init(&dec, &m, 1u << 20);
    assert_int_equal(azri_resp_room(&dec, 1, &p, &n), AZREDIS_OK);
    h.fail_from = h.calls + 1;
    for (i = 0; i < AZRI_RESP_BLOCK / 4; i++) put(&dec, ":1\r\n", 4, 1);
    assert_int_equal(azri_resp_room(&dec, 1, &p, &n), AZREDIS_AGAIN);
    h.fail_from = 0;
    while (azri_resp_next(&dec, &f, NULL) == AZREDIS_OK) seen += f.status == AZREDIS_OK;
    assert_int_equal(seen, AZRI_RESP_BLOCK / 4);
    assert_int_equal(azri_resp_room(&dec, 1, &p, &n), AZREDIS_OK);
    azri_resp_free(&dec);
}

/* ---- encoder ---- */

static void case_8_encoder(void **s) {
    azredis_str a[3];
    char buf[100], *end;
    (void)s;
    a[0] = azri_str("SET");
    a[1] = azri_slice("\0\r\n", 3);
    a[2] = azri_slice(NULL, 0);
    assert_int_equal(azri_resp_size(3, a), 28);
    end = azri_resp_write(buf, 3, a);
    assert_int_equal(end - buf, 28);
    assert_memory_equal(buf, "*3\r\n$3\r\nSET\r\n$3\r\n\0\r\n\r\n$0\r\n\r\n", 28);
    assert_int_equal(azri_resp_size(0, a), 0);
    assert_int_equal(azri_resp_size(-1, a), 0);
    if (sizeof(size_t) == 8) {                          /* *1 CRLF, $ 20 digits CRLF, CRLF: 29 bytes */
        a[0].len = SIZE_MAX - 29;
        assert_true(azri_resp_size(1, a) == SIZE_MAX);
        a[0].len = SIZE_MAX - 28;
        assert_int_equal(azri_resp_size(1, a), 0);
    }
    a[0].len = SIZE_MAX / 2;
    a[1].len = SIZE_MAX / 2;
    assert_int_equal(azri_resp_size(2, a), 0);
    a[0].len = SIZE_MAX;
    assert_int_equal(azri_resp_size(1, a), 0);
}

static void case_8_encoder_exact_sizes(void **s) {
    static const size_t sizes[] = { 0, 1, 9, 10, 99, 100, 999, 1000, 9999, 10000, 16384, 16777216 };
    char *data = (char *)calloc(1, 16777216), *buf;
    azredis_str a[12];
    size_t i, n, k;
    (void)s;
    data[16777215] = '!';
    for (i = 0; i < 12; i++) {
        a[i] = azri_slice(data + 16777216 - sizes[i], sizes[i]);
        n = azri_resp_size((int)i + 1, a);
        buf = (char *)malloc(n + 1);
        buf[n] = 0x55;
        assert_ptr_equal(azri_resp_write(buf, (int)i + 1, a), buf + n);
        assert_int_equal(buf[n], 0x55);
        /* our own decoder reads back what was written */
        {
            heap h = { 0, 0, 0, 0, 0 };
            azri_mem m = heap_mem(&h);
            azri_frame f;
            azri_resp_init(&dec, &m, SIZE_MAX);
            put(&dec, buf, n, 65536);
            assert_int_equal(azri_resp_next(&dec, &f, NULL), AZREDIS_OK);
            assert_int_equal(f.bytes, n);
            assert_int_equal(f.root->len, i + 1);
            for (k = 0; k <= i; k++) {
                assert_int_equal(f.root->as.items[k].len, sizes[k]);
                assert_memory_equal(f.root->as.items[k].as.str, a[k].ptr, sizes[k]);
            }
            azri_resp_free(&dec);
        }
        free(buf);
    }
    free(data);
}

/* The short way writes what the general way writes, or leaves nothing behind. */
static void the_short_encoder_writes_the_same(void **s) {
    static const size_t lengths[] = { 0, 1, 3, 9, 10, 11, 31, 32, 33, 99, 100, 130, 180, 181, 256, SIZE_MAX - 4 };
    char data[256], out[256], want[2600];
    azredis_str a[10];
    size_t one, two, i, n, size;
    int argc, written = 0;
    (void)s;
    for (i = 0; i < sizeof data; i++) data[i] = (char)('a' + i % 26);
    for (argc = 0; argc <= 10; argc++)
        for (one = 0; one < sizeof lengths / sizeof *lengths; one++)
            for (two = 0; two < sizeof lengths / sizeof *lengths; two++) {
                for (i = 0; i < 10; i++) a[i] = azri_slice(data, lengths[i % 2 ? two : one]);
                memset(out, 0, sizeof out);
                n = azri_resp_write_short(out, sizeof out, argc, a);
                for (i = n; i < sizeof out; i++) assert_int_equal(out[i], 0);
                if (!n) continue;
                size = azri_resp_size(argc, a);
                assert_int_equal(n, size);
                (void)azri_resp_write(want, argc, a);
                assert_memory_equal(out, want, n);
                written++;
            }
    assert_true(written > 500);
    a[0].ptr = NULL;
    assert_int_equal(azri_resp_write_short(out, sizeof out, 1, a), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(case_1_every_type_at_every_split), cmocka_unit_test(case_1_three_pieces),
        cmocka_unit_test(case_2_streams), cmocka_unit_test(case_3_attributes), cmocka_unit_test(case_4_numbers),
        cmocka_unit_test(case_5_refused), cmocka_unit_test(case_5_depth), cmocka_unit_test(case_5_line),
        cmocka_unit_test(case_5_streamed_count), cmocka_unit_test(case_5_max_reply),
        cmocka_unit_test(case_5_skipped_is_still_checked), cmocka_unit_test(case_5_bombs),
        cmocka_unit_test(case_5_growth), cmocka_unit_test(case_5_skipping_holds_nothing),
        cmocka_unit_test(case_5_skipping_holds_no_nodes), cmocka_unit_test(case_5_streamed_length),
        cmocka_unit_test(case_6_random_bytes), cmocka_unit_test(pipelines_in_random_pieces),
        cmocka_unit_test(no_rescan), cmocka_unit_test(steady_state), cmocka_unit_test(large_frames_are_not_copied),
        cmocka_unit_test(keep_border), cmocka_unit_test(keep_skipped_gives_its_status),
        cmocka_unit_test(case_8_every_allocation_fails_once), cmocka_unit_test(no_memory_mid_frame),
        cmocka_unit_test(room_asks_for_next_first), cmocka_unit_test(case_8_encoder),
        cmocka_unit_test(case_8_encoder_exact_sizes), cmocka_unit_test(the_short_encoder_writes_the_same)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
