/* The JSON reader: what it delivers in every split, what it refuses, its limits, every failing allocation. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static int allow = -1;                        /* allocations until one fails; -1: none does */
static size_t wiped_wrong;                    /* blocks given back with something in them */

static void *mem_alloc(void *user, size_t n) {
    (void)user;
    if (allow == 0) return NULL;
    if (allow > 0) allow--;
    return calloc(1, n);
}

static void mem_free(void *user, void *p, size_t n) {
    const char *b = (const char *)p;
    size_t i;
    (void)user;
    for (i = 0; i < n; i++) if (b[i]) { wiped_wrong++; break; }
    free(p);
}

static const azri_mem mem = {mem_alloc, mem_free, NULL, NULL};

/* All that was delivered, as one line of "depth parent/key=type:text;". NUL is written as "\0". */
typedef struct record { char text[6000]; size_t len; int count; } record;

static void put(record *r, azredis_str s) {
    size_t i;
    for (i = 0; i < s.len; i++) {
        assert_true(r->len + 3 < sizeof r->text);
        if (s.ptr[i] == '\0') { r->text[r->len++] = '\\'; r->text[r->len++] = '0'; }
        else r->text[r->len++] = s.ptr[i];
    }
    r->text[r->len] = '\0';
}

static void on_value(void *user, int depth, azredis_str parent, azredis_str key, int type, azredis_str text) {
    record *r = (record *)user;
    char head[16];
    (void)snprintf(head, sizeof head, "%d ", depth);
    put(r, azri_str(head));
    put(r, parent);
    put(r, azri_str("/"));
    put(r, key);
    put(r, azri_str("="));
    if (type == AZRI_JSON_WORD) {
        assert_true(azri_eqz(text, "true") || azri_eqz(text, "false") || azri_eqz(text, "null"));
        put(r, azri_slice(text.ptr[0] == 't' ? "T" : text.ptr[0] == 'f' ? "F" : "N", 1));
        text.len = 0;
    } else put(r, azri_slice(&"sn"[type], 1));
    put(r, azri_str(":"));
    put(r, text);
    put(r, azri_str(";"));
    r->count++;
}

/* Feeds [0, cut) and [cut, n) as exact heap copies, or single bytes if cut is SIZE_MAX. */
static azredis_status read_split(const char *p, size_t n, size_t cut, size_t value_max, record *r) {
    azri_json j;
    azredis_status st;
    size_t at = 0;
    memset(r, 0, sizeof *r);
    azri_json_init(&j, &mem, value_max, on_value, r);
    while (at < n) {
        size_t take = cut == SIZE_MAX ? 1 : at < cut ? azri_minz(cut, n) : n - at;
        char *copy = (char *)malloc(take);
        assert_non_null(copy);
        memcpy(copy, p + at, take);
        st = azri_json_feed(&j, copy, take);
        free(copy);
        assert_true(st == AZREDIS_OK || st == azri_json_feed(&j, " ", 1));       /* an error stays */
        at += take;
    }
    st = azri_json_end(&j);
    assert_int_equal(azri_json_end(&j), st);
    azri_json_free(&j);
    assert_int_equal(wiped_wrong, 0);
    return st;
}

static azredis_status read_all(const char *z, record *r) { return read_split(z, strlen(z), strlen(z), 1000, r); }

static const struct { const char *text, *want; } good[] = {
    {"{}", ""}, {" \t\r\n{ \n} \r\n", ""}, {"{\"a\":{}}", ""}, {"{\"a\":[]}", ""}, {"{\"a\":[[],{}]}", ""},
    {"{\"token_type\":\"Bearer\",\"expires_in\":3599,\"ext_expires_in\":3599,\"access_token\":\"T\"}",
     "1 /token_type=s:Bearer;1 /expires_in=n:3599;1 /ext_expires_in=n:3599;1 /access_token=s:T;"},
    {"{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: x\\r\\nTrace ID: 1\",\"error_codes\":[7000215,1]}",
     "1 /error=s:invalid_client;1 /error_description=s:AADSTS7000215: x\r\nTrace ID: 1;"
     "2 error_codes/=n:7000215;2 error_codes/=n:1;"},
    {"{\"error\":{\"code\":\"M\",\"inner\":{\"code\":\"N\"},\"message\":\"m\"},\"x\":null}",
     "2 error/code=s:M;3 inner/code=s:N;2 error/message=s:m;1 /x=N:;"},
    {"{\"a\":true,\"b\":false,\"c\":null,\"d\":[true,false,null,\"\",{\"e\":1}]}",
     "1 /a=T:;1 /b=F:;1 /c=N:;2 d/=T:;2 d/=F:;2 d/=N:;2 d/=s:;3 /e=n:1;"},
    {"{\"n\":[0,-0,1,-1,10,0.5,-0.25,1e3,1E+3,1e-3,0e0,123.456e78,1.0 , 2\t]}",
     "2 n/=n:0;2 n/=n:-0;2 n/=n:1;2 n/=n:-1;2 n/=n:10;2 n/=n:0.5;2 n/=n:-0.25;2 n/=n:1e3;2 n/=n:1E+3;2 n/=n:1e-3;"
     "2 n/=n:0e0;2 n/=n:123.456e78;2 n/=n:1.0;2 n/=n:2;"},
    {"{\"s\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\uD834\\udd1e\\u0000z\"}",
     "1 /s=s:\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9d\x84\x9e\\0z;"},
    {"{\"s\":\"\\uD800\\uDC00\\uDBFF\\uDFFF\\uFFFF\\u07ff\\u0800\\uE000\\uD7ff\"}",
     "1 /s=s:\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\xef\xbf\xbf\xdf\xbf\xe0\xa0\x80\xee\x80\x80\xed\x9f\xbf;"},
    {"{\"s\":\"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"}",
     "1 /s=s:\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf;"},
    {"{\"\":1,\"a\\u0062\\n\":2,\"a\":3,\"a\":4}", "1 /=n:1;1 /ab\n=n:2;1 /a=n:3;1 /a=n:4;"},
    {"{\"a\":{\"b\":1},\"c\":[2,[3]]}", "2 a/b=n:1;2 c/=n:2;3 /=n:3;"},
    {"{\"a\":[1,{\"b\":[2]},3],\"c\":4}", "2 a/=n:1;4 b/=n:2;2 a/=n:3;1 /c=n:4;"}
};

static void test_good_in_every_split(void **state) {
    static record r;
    size_t i, cut;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        size_t n = strlen(good[i].text);
        for (cut = 0; cut <= n + 1; cut++) {
            if (read_split(good[i].text, n, cut > n ? SIZE_MAX : cut, 1000, &r) != AZREDIS_OK)
                fail_msg("refused at cut %d: %s", (int)cut, good[i].text);
            assert_string_equal(r.text, good[i].want);
        }
    }
}

static void test_truncated(void **state) {
    static record r;
    size_t i, n;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        size_t full = strlen(good[i].text);
        while (good[i].text[full - 1] != '}') full--;
        for (n = 0; n < full; n++)
            if (read_split(good[i].text, n, n, 1000, &r) != AZREDIS_E_JSON) fail_msg("%.*s", (int)n, good[i].text);
    }
}

static void test_malformed(void **state) {
    static const char *const bad[] = {
        "", " ", "1", "\"a\"", "null", "[]", "[1]", "}", "{", "{}{}", "{}x", "{},", "{}1", "{]", "{\"a\":1]", "{\"a\":[1}",
        "\xef\xbb\xbf{}", "<html>", "HTTP/1.1", "{a:1}", "{'a':1}", "{1:1}", "{\"a\"}", "{\"a\":}", "{\"a\",1}", "{\"a\":1,}",
        "{,}", "{,\"a\":1}", "{\"a\":1 \"b\":2}", "{\"a\"::1}", "{\"a\":1;}", "{\"a\":[,]}", "{\"a\":[1,]}", "{\"a\":[,1]}",
        "{\"a\":[1 2]}", "{\"a\":[1,,2]}", "{\"a\":[1:2]}", "{\"a\":[\"x\":2]}",
        "{\"a\":01}", "{\"a\":-}", "{\"a\":+1}", "{\"a\":.5}", "{\"a\":5.}", "{\"a\":1e}", "{\"a\":1e+}", "{\"a\":1.e1}",
        "{\"a\":-01}", "{\"a\":0x1}", "{\"a\":1..2}", "{\"a\":1e1.5}", "{\"a\":--1}", "{\"a\":1-2}", "{\"a\":1f}", "{\"a\":00}",
        "{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":-Infinity}", "{\"a\":1\"b\":2}", "{\"a\":1{}}", "{\"a\":1[]}",
        "{\"a\":tru}", "{\"a\":trux}", "{\"a\":True}", "{\"a\":nul}", "{\"a\":nulll}", "{\"a\":falsey}", "{\"a\":undefined}",
        "{\"a\":true false}", "{\"a\":truetrue}",
        "{\"a\":\"x}", "{\"a\":\"\t\"}", "{\"a\":\"\n\"}", "{\"a\":\"\x1f\"}", "{\"a\":\"\\x41\"}", "{\"a\":\"\\a\"}", "{\"a\":\"\\'\"}",
        "{\"a\":\"\\\n\"}", "{\"a\":\"\\u\"}", "{\"a\":\"\\u004\"}", "{\"a\":\"\\u004g\"}", "{\"a\":\"\\U0041\"}", "{\"a\":\"\\u+041\"}",
        "{\"a\":\"\\ud800\"}", "{\"a\":\"\\udc00\"}", "{\"a\":\"\\ud800x\"}", "{\"a\":\"\\ud800\\n\"}", "{\"a\":\"\\ud800\\u0041\"}",
        "{\"a\":\"\\ud800\\ud800\"}", "{\"a\":\"\\ud800\\n\\udc00\"}", "{\"a\":\"\\udc00\\udc00\"}", "{\"a\":\"\\udfff\\ud800\"}", "{\"a\":\"\\ud800\\\\\"}", "{\"\\ud800\":1}",
        "{\"a\":\"\x80\"}", "{\"a\":\"\xbf\"}", "{\"a\":\"\xc0\x80\"}", "{\"a\":\"\xc1\xbf\"}", "{\"a\":\"\xc3\"}", "{\"a\":\"\xc3(\"}",
        "{\"a\":\"\xe0\x80\x80\"}", "{\"a\":\"\xe0\x9f\xbf\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\xed\xbf\xbf\"}", "{\"a\":\"\xe2\x82\"}",
        "{\"a\":\"\xe2\x82(\"}", "{\"a\":\"\xf0\x80\x80\x80\"}", "{\"a\":\"\xf0\x8f\xbf\xbf\"}", "{\"a\":\"\xf4\x90\x80\x80\"}",
        "{\"a\":\"\xf5\x80\x80\x80\"}", "{\"a\":\"\xf0\x90\x80\"}", "{\"a\":\"\xff\"}", "{\"a\":\"\xfe\"}", "{\"a\":\"\xc3\\u0041\"}", "{\"\xff\":1}",
        "{\"a\":1}/**/", "{/**/}", "{\"a\":1//\n}", "{\"a\":1\f}", "{\"a\":1\v}", "{\xc2\xa0}", "{\"a\":1}\xc2\xa0"
    };
    static record r;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        if (read_all(bad[i], &r) != AZREDIS_E_JSON) fail_msg("accepted: %s", bad[i]);
        if (read_split(bad[i], strlen(bad[i]), SIZE_MAX, 1000, &r) != AZREDIS_E_JSON) fail_msg("bytes: %s", bad[i]);
    }
    assert_int_equal(read_split("{\"a\":1}\0", 8, 8, 1000, &r), AZREDIS_E_JSON);
    assert_int_equal(read_split("{\0}", 3, 3, 1000, &r), AZREDIS_E_JSON);
    assert_int_equal(read_split("{\"\0\":1}", 7, 7, 1000, &r), AZREDIS_E_JSON);
    assert_int_equal(read_split("{\"a\":t\0ue}", 10, 10, 1000, &r), AZREDIS_E_JSON);
    assert_int_equal(read_split("{\"a\":\"\\\0\"}", 9, 9, 1000, &r), AZREDIS_E_JSON);
}

static void test_depth(void **state) {
    static record r;
    static char text[200100];
    int n, k, array;
    size_t len;
    (void)state;
    for (array = 0; array < 2; array++)
        for (n = AZRI_JSON_DEPTH - 1; n <= AZRI_JSON_DEPTH + 1; n++) {
            len = 0;
            for (k = 0; k < n; k++) len += (size_t)sprintf(text + len, k && array ? "[" : "{\"k\":");
            len += (size_t)sprintf(text + len, "7");
            for (k = n; k-- > 0;) text[len++] = k && array ? ']' : '}';
            assert_int_equal(read_split(text, len, len, 1000, &r), n <= AZRI_JSON_DEPTH ? AZREDIS_OK : AZREDIS_E_LIMIT);
            assert_int_equal(r.count, n <= AZRI_JSON_DEPTH);
        }
    memset(text, '[', sizeof text);
    assert_int_equal(read_split(text, 100000, 100000, 1000, &r), AZREDIS_E_JSON);        /* the top is no object */
    memcpy(text, "{\"a\":", 5);
    assert_int_equal(read_split(text, 100005, 100005, 1000, &r), AZREDIS_E_LIMIT);
    for (len = 0; len < sizeof text - 5; len += 5) memcpy(text + len, "{\"a\":", 5);
    assert_int_equal(read_split(text, 200000, 200000, 1000, &r), AZREDIS_E_LIMIT);
    /* Depth counts what is open, not what has been. */
    len = (size_t)sprintf(text, "{\"a\":[0");
    for (k = 0; k < 1000; k++) len += (size_t)sprintf(text + len, ",[[]],{\"b\":{}}");
    len += (size_t)sprintf(text + len, "],\"z\":1}");
    assert_int_equal(read_split(text, len, len, 1000, &r), AZREDIS_OK);
    assert_string_equal(r.text, "2 a/=n:0;1 /z=n:1;");
}

static void test_value_max(void **state) {
    static record r;
    char text[700];
    size_t n, len;
    (void)state;
    for (n = 299; n <= 301; n++) {
        azredis_status want = n <= 300 ? AZREDIS_OK : AZREDIS_E_LIMIT;
        len = (size_t)sprintf(text, "{\"a\":\"%0*d\"}", (int)n, 7);
        assert_int_equal(read_split(text, len, len, 300, &r), want);
        assert_int_equal(read_split(text, len, SIZE_MAX, 300, &r), want);
        len = (size_t)sprintf(text, "{\"a\":[\"%0300d\",1%0*d]}", 7, (int)n - 1, 7);   /* the sum does not count */
        assert_int_equal(read_split(text, len, len, 300, &r), want);
        len = (size_t)sprintf(text, "{\"a\":\"%0*d\\u00e9\"}", (int)n - 2, 7);
        assert_int_equal(read_split(text, len, len, 300, &r), want);
    }
    assert_int_equal(read_split("{\"a\":\"\"}", 8, 8, 0, &r), AZREDIS_OK);
    assert_int_equal(read_split("{\"a\":1}", 7, 7, 0, &r), AZREDIS_E_LIMIT);
}

/* A long key is no key; it never matches the beginning that fits. */
static void test_keys(void **state) {
    static record r;
    char text[400], want[200];
    int n;
    (void)state;
    for (n = AZRI_JSON_KEY - 1; n <= AZRI_JSON_KEY + 1; n++) {
        (void)sprintf(text, "{\"%0*d\":1,\"%0*d\":[2]}", n, 7, n, 7);
        if (n <= AZRI_JSON_KEY) (void)sprintf(want, "1 /%0*d=n:1;2 %0*d/=n:2;", n, 7, n, 7);
        assert_int_equal(read_all(text, &r), AZREDIS_OK);
        assert_string_equal(r.text, n <= AZRI_JSON_KEY ? want : "1 /=n:1;2 /=n:2;");
    }
    (void)sprintf(text, "{\"%0300d\":1,\"k\":2}", 7);
    assert_int_equal(read_all(text, &r), AZREDIS_OK);
    assert_string_equal(r.text, "1 /=n:1;1 /k=n:2;");
    assert_int_equal(read_split("{\"a\\u0000b\":1}", 14, 14, 1000, &r), AZREDIS_OK);
    assert_string_equal(r.text, "1 /a\\0b=n:1;");
}

static void test_no_memory(void **state) {
    static record r;
    static char text[3000];
    size_t len = (size_t)sprintf(text, "{\"a\":1,\"b\":\"%02000d\"}", 7);
    int k;
    azredis_status st = AZREDIS_E_NOMEM;
    (void)state;
    for (k = 0; k < 20 && st != AZREDIS_OK; k++) {
        allow = k;
        st = read_split(text, len, len, 5000, &r);
        allow = -1;
        assert_int_equal(st, k < 4 ? AZREDIS_E_NOMEM : AZREDIS_OK);       /* 256, 512, 1024, 2048 bytes */
    }
    assert_int_equal(k, 5);
}

/* Random damage to good texts: nothing but an answer is asked for; the sanitizers watch. */
static void test_damage(void **state) {
    static record r;
    char text[600];
    azri_rng rng;
    int i;
    (void)state;
    rng.state = 1;
    for (i = 0; i < 40000; i++) {
        const char *from = good[azri_rng_below(&rng, COUNT(good))].text;
        size_t n = strlen(from), k;
        azredis_status st;
        memcpy(text, from, n);
        for (k = azri_rng_below(&rng, 4) + 1; k; k--)
            text[azri_rng_below(&rng, n)] = i % 2 ? (char)azri_rng_next(&rng) : "{}[]\",:\\u0e-."[azri_rng_below(&rng, 13)];
        st = read_split(text, n, azri_rng_below(&rng, n + 1), 100, &r);
        assert_true(st == AZREDIS_OK || st == AZREDIS_E_JSON || st == AZREDIS_E_LIMIT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_in_every_split), cmocka_unit_test(test_truncated), cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_depth), cmocka_unit_test(test_value_max), cmocka_unit_test(test_keys),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_damage)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
