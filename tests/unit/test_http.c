/* The HTTP codec: requests byte for byte, answers in every split, each refusal by its name, limits, damage. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static void *mem_alloc(void *user, size_t n) { (void)user; return malloc(n); }
static void mem_free(void *user, void *p, size_t n) { (void)user; (void)n; free(p); }
static const azri_mem mem = {mem_alloc, mem_free, NULL, NULL};

typedef struct body { char text[AZRI_HTTP_BODY_MAX + 1]; size_t len; azredis_status refuse; } body;

static azredis_status sink(void *user, const char *p, size_t n) {
    body *b = (body *)user;
    assert_true(n > 0 && n < sizeof b->text - b->len);
    memcpy(b->text + b->len, p, n);
    b->len += n;
    b->text[b->len] = '\0';
    return b->refuse;
}

static azri_http h;
static body got;
static azredis_error err;

static azredis_status feed_copy(const char *p, size_t n) {
    char *copy = (char *)malloc(n ? n : 1);
    azredis_status st;
    assert_non_null(copy);
    memcpy(copy, p, n);
    st = azri_http_feed(&h, copy, n, &err);
    free(copy);
    return st;
}

/* [0, cut) and [cut, n); single bytes if cut is SIZE_MAX. Then the end of the connection if more was wanted and
 * eof says so. */
static azredis_status answer(const char *p, size_t n, size_t cut, int eof) {
    azredis_status st = AZREDIS_AGAIN;
    size_t at, take;
    memset(&h, 0x5a, sizeof h);
    memset(&err, 0, sizeof err);
    got.len = 0;
    got.text[0] = '\0';
    got.refuse = AZREDIS_OK;
    azri_http_init(&h, sink, &got);
    for (at = 0; at < n && st >= 0; at += take) {
        take = cut == SIZE_MAX ? 1 : at < cut ? azri_minz(cut, n) : n - at;
        st = feed_copy(p + at, take);
    }
    if (st == AZREDIS_AGAIN && eof) st = azri_http_eof(&h, &err);
    return st;
}

static azredis_status answer_z(const char *z) { return answer(z, strlen(z), strlen(z), 1); }

/* ---- request ---- */

static void test_request(void **state) {
    static const struct { const char *url, *extra, *form, *want; } t[] = {
        {"http://169.254.169.254/metadata?x=1", "Metadata: true\r\n", "",
         "GET /metadata?x=1 HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept: application/json\r\nConnection: close\r\n"
         "Metadata: true\r\n\r\n"},
        {"https://login.microsoftonline.com/t/oauth2/v2.0/token", "", "a=b&c",
         "POST /t/oauth2/v2.0/token HTTP/1.1\r\nHost: login.microsoftonline.com\r\nAccept: application/json\r\n"
         "Connection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 5\r\n\r\na=b&c"},
        {"https://h:8443", "", "", "GET / HTTP/1.1\r\nHost: h:8443\r\nAccept: application/json\r\nConnection: close\r\n\r\n"},
        {"http://[::1]:50342/x", "A: b\r\nC: d\r\n", "",
         "GET /x HTTP/1.1\r\nHost: [::1]:50342\r\nAccept: application/json\r\nConnection: close\r\nA: b\r\nC: d\r\n\r\n"},
        {"https://[::1]/x", "", "",
         "GET /x HTTP/1.1\r\nHost: [::1]\r\nAccept: application/json\r\nConnection: close\r\n\r\n"},
        {"http://h:443/", "", "",
         "GET / HTTP/1.1\r\nHost: h:443\r\nAccept: application/json\r\nConnection: close\r\n\r\n"}
    };
    azri_buf b;
    azri_url u;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(t); i++) {
        assert_int_equal(azri_url_parse(&u, azri_str(t[i].url), "t", &err), AZREDIS_OK);
        azri_buf_init(&b, &mem, 4096, 1);
        assert_int_equal(azri_http_request(&b, &u, t[i].extra, azri_str(t[i].form)), AZREDIS_OK);
        if (!azri_eqz(azri_slice(b.ptr, b.len), t[i].want)) fail_msg("%.*s", (int)b.len, b.ptr);
        azri_buf_free(&b);
        azri_buf_init(&b, &mem, strlen(t[i].want) - 1, 1);
        assert_int_equal(azri_http_request(&b, &u, t[i].extra, azri_str(t[i].form)), AZREDIS_E_LIMIT);
        azri_buf_free(&b);
    }
}

/* ---- good answers ---- */

static const struct { const char *text, *body; int status, until_close; } good[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, 0},
    {"HTTP/1.0 200 OK\r\ncontent-LENGTH:5 \t\r\nX:\r\nY: a:b\r\n\r\nhello", "hello", 200, 0},
    {"HTTP/1.1 200 \r\nContent-Length: 005\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, 0},
    {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", 200, 0},
    {"HTTP/1.1 401 Un auth\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello", 401, 0},
    {"HTTP/1.1 200 OK\r\ntransfer-encoding:  CHUNKED \r\n\r\n1;a=\"b\"\r\nh\r\n0004;x\r\nello\r\n000;y\r\nT: u\r\nV:\r\n\r\n", "hello", 200, 0},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\nb\r\n0123456789\n\r\n0\r\n\r\n",
     "01234567890123456789\n", 200, 0},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", 200, 0},
    {"HTTP/1.1 200 OK\r\n\r\nhello", "hello", 200, 1},
    {"HTTP/1.1 500 \r\n\r\n", "", 500, 1},
    {"HTTP/1.1 204 No Content\r\n\r\n", "", 204, 0},
    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", "", 304, 0},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi", 200, 0},
    {"HTTP/1.1 103 Hints\r\nContent-Length: 9\r\nLink: x\r\nRetry-After: 7\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 429 Slow\r\n"
     "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi", 429, 0}
};

static void test_good_in_every_split(void **state) {
    size_t i, cut;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        size_t n = strlen(good[i].text);
        for (cut = 0; cut <= n + 1; cut++) {
            azredis_status st = answer(good[i].text, n, cut > n ? SIZE_MAX : cut, 0);
            if (st != (good[i].until_close ? AZREDIS_AGAIN : AZREDIS_OK)) fail_msg("%d: %s", (int)i, err.message);
            assert_int_equal(azri_http_eof(&h, &err), AZREDIS_OK);
            assert_int_equal(azri_http_eof(&h, &err), AZREDIS_OK);
            assert_int_equal(h.status, good[i].status);
            assert_int_equal(h.retry_after_ms, 0);
            assert_string_equal(got.text, good[i].body);
            if (!good[i].until_close) assert_int_equal(azri_http_feed(&h, "", 0, &err), AZREDIS_OK);
        }
    }
}

/* The connection ends after each byte: only a body without length may end so. */
static void test_end_at_each_byte(void **state) {
    size_t i, n;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        size_t full = strlen(good[i].text), head = good[i].until_close ? full - strlen(good[i].body) : full;
        for (n = 0; n < head; n++) {
            if (answer(good[i].text, n, n, 1) != AZREDIS_E_CLOSED) fail_msg("%d at %d", (int)i, (int)n);
            assert_non_null(strstr(err.message, "connection ended"));
            assert_int_equal(err.retryable, 1);
            assert_int_equal(azri_http_eof(&h, &err), AZREDIS_E_CLOSED);
            assert_int_equal(feed_copy("x", 1), AZREDIS_E_CLOSED);
        }
        for (; n <= full; n++) assert_int_equal(answer(good[i].text, n, n, 1), AZREDIS_OK);
    }
    assert_int_equal(answer("", 0, 0, 1), AZREDIS_E_CLOSED);
    assert_non_null(strstr(err.message, "before its first byte"));
}

static void test_bytes_behind_the_end(void **state) {
    char text[512];
    size_t i, n;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        if (good[i].until_close) continue;
        n = (size_t)sprintf(text, "%sX", good[i].text);
        assert_int_equal(answer(text, n, n, 1), AZREDIS_E_HTTP);
        assert_non_null(strstr(err.message, "behind its end"));
        assert_int_equal(answer(text, n - 1, n - 1, 1), AZREDIS_OK);
        assert_int_equal(feed_copy("X", 1), AZREDIS_E_HTTP);
        assert_int_equal(azri_http_eof(&h, &err), AZREDIS_E_HTTP);
    }
}

/* ---- refusals ---- */

#define OK_LINE "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK_LINE "Transfer-Encoding: chunked\r\n\r\n"

static void test_refused_by_name(void **state) {
    static const struct { const char *text, *name; } bad[] = {
        {"HTTP/2 200 OK\r\n\r\n", "HTTP/1."}, {"HTTP/1.1\r\n\r\n", "HTTP/1."}, {"HTTP/11 200 OK\r\n\r\n", "HTTP/1."},
        {"http/1.1 200 OK\r\n\r\n", "HTTP/1."}, {"\r\nHTTP/1.1 200 OK\r\n\r\n", "HTTP/1."}, {"+OK ready for it\r\n", "HTTP/1."},
        {"HTTP/1.x 200 OK\r\n\r\n", "HTTP/1."}, {"HTTP/1.1  200 OK\r\n\r\n", "status"}, {"HTTP/1.1 2000 OK\r\n\r\n", "status"},
        {"HTTP/1.1 20 OK\r\n\r\n", "status"}, {"HTTP/1.1 099 OK\r\n\r\n", "status"}, {"HTTP/1.1 600 OK\r\n\r\n", "status"},
        {"HTTP/1.1 -20 OK\r\n\r\n", "status"}, {"HTTP/1.1 200X\r\n\r\n", "status"}, {"<html>\n", "LF"},
        {"HTTP/1.1 101 Switching\r\n\r\n", "switches"},
        {OK_LINE "A: b\nB: c\r\n\r\n", "bare LF"}, {"HTTP/1.1 200 OK\n", "bare LF"}, {OK_LINE "\n", "bare LF"},
        {OK_LINE "A: b\r\n\rX", "bare CR"}, {OK_LINE "A: b\rB: c\r\n\r\n", "bare CR"}, {OK_LINE "A: b\r\r\n\r\n", "bare CR"},
        {OK_LINE " A: b\r\n\r\n", "folded"}, {OK_LINE "A: b\r\n c\r\n\r\n", "folded"}, {OK_LINE "A: b\r\n\tc\r\n\r\n", "folded"},
        {OK_LINE "A b\r\n\r\n", "without colon"}, {OK_LINE "A : b\r\n\r\n", "malformed name"}, {OK_LINE ": b\r\n\r\n", "malformed name"},
        {OK_LINE "A\x7f: b\r\n\r\n", "malformed name"}, {OK_LINE "Content-Length\t: 1\r\n\r\n", "malformed name"},
        {OK_LINE "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "both"},
        {OK_LINE "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "both"},
        {OK_LINE "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "differ"},
        {OK_LINE "Content-Length: 0\r\nContent-Length: 6\r\n\r\nhello", "differ"},
        {OK_LINE "Content-Length: 5, 5\r\n\r\n", "not a number"}, {OK_LINE "Content-Length: -1\r\n\r\n", "not a number"},
        {OK_LINE "Content-Length: +5\r\n\r\n", "not a number"}, {OK_LINE "Content-Length:\r\n\r\n", "not a number"},
        {OK_LINE "Content-Length: 0x5\r\n\r\n", "not a number"}, {OK_LINE "Content-Length: 5a\r\n\r\n", "not a number"},
        {OK_LINE "Content-Length: 18446744073709551621\r\n\r\n", "not a number"},
        {OK_LINE "Transfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding"}, {OK_LINE "Transfer-Encoding: gzip, chunked\r\n\r\n", "Transfer-Encoding"},
        {OK_LINE "Transfer-Encoding: identity\r\n\r\n", "Transfer-Encoding"}, {OK_LINE "Transfer-Encoding:\r\n\r\n", "Transfer-Encoding"},
        {OK_LINE "Transfer-Encoding: xchunked\r\n\r\n", "Transfer-Encoding"},
        {OK_LINE "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"},
        {OK_LINE "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", "Transfer-Encoding"},
        {CHUNKED "x\r\n", "chunk size"}, {CHUNKED "\r\n", "chunk size"}, {CHUNKED "-1\r\n", "chunk size"}, {CHUNKED "+1\r\n", "chunk size"},
        {CHUNKED " 1\r\n", "chunk size"}, {CHUNKED "1 \r\n", "chunk size"}, {CHUNKED "1g\r\n", "chunk size"}, {CHUNKED "0x1\r\n", "chunk size"},
        {CHUNKED ";a\r\n", "chunk size"}, {CHUNKED "000000001\r\n", "chunk size"}, {CHUNKED "100000001\r\n", "chunk size"},
        {CHUNKED "ffffffffffffffff\r\n", "chunk size"}, {CHUNKED "1\n", "bare LF"}, {CHUNKED "1\r\nhX", "longer than its size"},
        {CHUNKED "1\r\nh0\r\n\r\n", "longer than its size"}, {CHUNKED "1\r\nh\n0\r\n\r\n", "bare LF"}, {CHUNKED "1\r\nh\rX", "longer than its size"},
        {CHUNKED "0\r\nX\r\n\r\n", "without colon"}, {CHUNKED "0\r\n X: y\r\n\r\n", "folded"}, {CHUNKED "0\r\nX: y\n\r\n", "bare LF"},
        {CHUNKED "5\r\nhello\r\n\r\n", "chunk size"}
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        azredis_status whole = answer_z(bad[i].text), bytes;
        if (whole != AZREDIS_E_HTTP || !strstr(err.message, bad[i].name)) fail_msg("%s: %s", bad[i].text, err.message);
        assert_int_equal(azri_http_feed(&h, "x", 1, &err), AZREDIS_E_HTTP);
        assert_int_equal(azri_http_eof(&h, &err), AZREDIS_E_HTTP);
        bytes = answer(bad[i].text, strlen(bad[i].text), SIZE_MAX, 1);
        if (bytes != AZREDIS_E_HTTP || !strstr(err.message, bad[i].name)) fail_msg("bytes: %s: %s", bad[i].text, err.message);
    }
    for (i = 0; i < 3; i++) {
        static const char nul[3][24] = {"HTTP/1.1 200 O\0K\r\n", "HTTP/1.1 200\r\nA\0: b\r\n", "HTTP/1.1 200\r\n\0\r\n"};
        assert_int_equal(answer(nul[i], sizeof nul[i], sizeof nul[i], 1), AZREDIS_E_HTTP);
        assert_non_null(strstr(err.message, "NUL"));
    }
    assert_int_equal(azri_http_feed(&h, "x", 1, NULL), AZREDIS_E_HTTP);       /* no error record wanted */
}

static void test_redirect(void **state) {
    static const struct { const char *location, *says; } t[] = {
        {"Location: http://evil.example/login?x=secret\r\n", "points to evil.example;"},
        {"LOCATION:https://Portal.Example.:8443\r\n", "points to Portal.Example;"}, {"Location: https://[::1]/\r\n", "points to ::1;"},
        {"Location: /elsewhere\r\n", "no other host"}, {"", "no other host"}, {"Location: https://u:pw@h/\r\n", "no other host"},
        {"Location: javascript:x\r\n", "no other host"}
    };
    static const int codes[] = {300, 301, 302, 303, 305, 307, 308, 399};
    char text[3000];
    size_t i, k;
    (void)state;
    for (i = 0; i < COUNT(t); i++)
        for (k = 0; k < COUNT(codes); k++) {
            (void)sprintf(text, "HTTP/1.1 %d Moved\r\n%sContent-Length: 0\r\n\r\n", codes[k], t[i].location);
            assert_int_equal(answer_z(text), AZREDIS_E_HTTP);
            if (!strstr(err.message, t[i].says)) fail_msg("%s", err.message);
            assert_non_null(strstr(err.message, "never redirected"));
            assert_null(strstr(err.message, "secret"));
            assert_null(strstr(err.message, "pw"));
            assert_int_equal(err.retryable, 0);
            assert_int_equal(err.http_status, codes[k]);
            assert_int_equal(got.len, 0);
        }
    (void)sprintf(text, "HTTP/1.1 302 Found\r\nLocation: https://login.example/?q=%02000d\r\n\r\n", 7);
    assert_int_equal(answer_z(text), AZREDIS_E_HTTP);
    assert_non_null(strstr(err.message, "points to login.example;"));
    assert_string_equal(h.location_host, "login.example");
}

/* ---- limits ---- */

/* A head of exactly n bytes, made of one long line or of many. */
static size_t make_head(char *text, size_t n, int one_line, const char *first) {
    size_t len = (size_t)sprintf(text, "%s", first);
    while (n - len > 2) {
        size_t line = one_line || n - len - 2 < 200 ? n - len - 2 : 100;
        memset(text + len, 'x', line);
        text[len + 1] = ':';
        memcpy(text + len + line - 2, "\r\n", 2);
        len += line;
    }
    memcpy(text + len, "\r\n", 2);
    return len + 2;
}

static void test_head_limit(void **state) {
    static char text[20000];
    size_t n;
    int one_line;
    (void)state;
    for (one_line = 0; one_line < 2; one_line++)
        for (n = AZRI_HTTP_HEAD_MAX - 1; n <= AZRI_HTTP_HEAD_MAX + 1; n++) {
            int fits = n <= AZRI_HTTP_HEAD_MAX;
            azredis_status want = fits ? AZREDIS_OK : AZREDIS_E_LIMIT;
            assert_int_equal(make_head(text, n, one_line, "HTTP/1.1 204 x\r\n"), n);
            assert_int_equal(answer(text, n, n, 0), want);
            assert_int_equal(answer(text, n, SIZE_MAX, 0), want);
            if (!fits) assert_non_null(strstr(err.message, "headers longer than 16384 bytes"));
            assert_int_equal(make_head(text, n, one_line, "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 204 x\r\n"), n);
            assert_int_equal(answer(text, n, n, 0), want);
            /* trailers count too */
            assert_int_equal(make_head(text, n + 3, one_line, CHUNKED "0\r\n"), n + 3);
            assert_int_equal(answer(text, n + 3, n + 3, 0), want);
        }
}

static void test_interim_limit(void **state) {
    char text[2000];
    size_t i, k, n;
    (void)state;
    for (k = AZRI_HTTP_INTERIM - 1; k <= AZRI_HTTP_INTERIM + 1; k++) {
        for (i = n = 0; i < k; i++) n += (size_t)sprintf(text + n, "HTTP/1.1 100 Continue\r\n\r\n");
        n += (size_t)sprintf(text + n, "HTTP/1.1 204 x\r\n\r\n");
        assert_int_equal(answer(text, n, n, 0), k <= AZRI_HTTP_INTERIM ? AZREDIS_OK : AZREDIS_E_HTTP);
    }
    assert_non_null(strstr(err.message, "1xx"));
}

/* A line longer than the buffer: harmless in a header nobody reads, a refusal where it decides the framing. */
static void test_line_limit(void **state) {
    static const char *const framing[] = {"Content-Length: 0", "Transfer-Encoding: chunked "};
    static char text[9000];
    size_t n, i;
    (void)state;
    for (n = AZRI_HTTP_LINE_MAX - 1; n <= AZRI_HTTP_LINE_MAX + 1; n++) {
        int fits = n <= AZRI_HTTP_LINE_MAX;
        (void)sprintf(text, OK_LINE "Content-Length: %0*d\r\n\r\nhello", (int)n - 16, 5);
        assert_int_equal(answer_z(text), fits ? AZREDIS_OK : AZREDIS_E_HTTP);
        (void)sprintf(text, OK_LINE "Transfer-Encoding:%*s\r\n\r\n1\r\nh\r\n0\r\n\r\n", (int)n - 18, "chunked");
        assert_int_equal(answer_z(text), fits ? AZREDIS_OK : AZREDIS_E_HTTP);
        (void)sprintf(text, "HTTP/1.1 429 x\r\nRetry-After: %-*d\r\n\r\n", (int)n - 13, 5);
        assert_int_equal(answer_z(text), AZREDIS_OK);
        assert_int_equal(h.retry_after_ms, fits ? 5000 : 0);
        (void)sprintf(text, CHUNKED "1;%0*d\r\nh\r\n0\r\n\r\n", (int)n - 2, 0);
        assert_int_equal(answer_z(text), fits ? AZREDIS_OK : AZREDIS_E_LIMIT);
        (void)sprintf(text, "HTTP/1.1 200 %0*d\r\n\r\n", (int)n - 13, 0);
        assert_int_equal(answer_z(text), AZREDIS_OK);
    }
    for (i = 0; i < COUNT(framing); i++) {
        (void)sprintf(text, OK_LINE "%s%05000d\r\n\r\n", framing[i], 0);
        assert_int_equal(answer_z(text), AZREDIS_E_HTTP);
    }
    (void)sprintf(text, OK_LINE "X%05000d: a\r\n\r\n", 0);                     /* no colon in what was kept */
    assert_int_equal(answer_z(text), AZREDIS_E_HTTP);
}

static void test_body_limit(void **state) {
    static char text[AZRI_HTTP_BODY_MAX + 400];
    size_t n, head, way;
    (void)state;
    for (n = AZRI_HTTP_BODY_MAX - 1; n <= AZRI_HTTP_BODY_MAX + 1; n++)
        for (way = 0; way < 5; way++) {
            int fits = n <= AZRI_HTTP_BODY_MAX;
            if (way == 0) head = (size_t)sprintf(text, OK_LINE "Content-Length: %u\r\n\r\n", (unsigned)n);
            else if (way < 3) head = (size_t)sprintf(text, CHUNKED "%x\r\n", (unsigned)n - (way == 2));
            else head = (size_t)sprintf(text, OK_LINE "\r\n");
            memset(text + head, 'b', n);
            if (way == 1) (void)sprintf(text + head + n, "\r\n0\r\n\r\n");
            else if (way == 2) (void)sprintf(text + head + n - 1, "\r\n1\r\nb\r\n0\r\n\r\n");
            else text[head + n] = '\0';
            assert_int_equal(answer(text, strlen(text), way == 4 ? SIZE_MAX : strlen(text), 1), fits ? AZREDIS_OK : AZREDIS_E_LIMIT);
            if (fits) assert_int_equal(got.len, n);
            else assert_non_null(strstr(err.message, "a body longer than 65536 bytes"));
        }
    assert_int_equal(answer_z(OK_LINE "Content-Length: 18446744073709551615\r\n\r\n"), AZREDIS_E_LIMIT);
    assert_int_equal(answer_z(CHUNKED "ffffffff\r\n"), AZREDIS_E_LIMIT);
}

/* A body of one-byte chunks is legal however long it is; what chunk extensions add is not free. */
static void test_many_chunks(void **state) {
    static char text[AZRI_HTTP_BODY_MAX * 6 + 200];
    size_t n, k;
    (void)state;
    n = (size_t)sprintf(text, CHUNKED);
    for (k = 0; k < AZRI_HTTP_BODY_MAX; k++, n += 6) memcpy(text + n, "1\r\nb\r\n", 6);
    memcpy(text + n, "0\r\n\r\n", 5);
    assert_int_equal(answer(text, n + 5, n + 5, 0), AZREDIS_OK);
    assert_int_equal(got.len, AZRI_HTTP_BODY_MAX);
    n = (size_t)sprintf(text, CHUNKED);
    for (k = 0; k < 300; k++) n += (size_t)sprintf(text + n, "1;%0100d\r\nb\r\n", 0);
    assert_int_equal(answer(text, n, n, 0), AZREDIS_E_LIMIT);
}

static void test_sink_refuses(void **state) {
    (void)state;
    azri_http_init(&h, sink, &got);
    got.len = 0;
    got.refuse = AZREDIS_E_JSON;
    assert_int_equal(feed_copy(OK_LINE "\r\nab", sizeof OK_LINE - 1 + 4), AZREDIS_E_JSON);
    assert_int_equal(err.code, AZREDIS_E_JSON);
    assert_int_equal(err.http_status, 200);
    assert_int_equal(feed_copy("c", 1), AZREDIS_E_JSON);
    assert_int_equal(azri_http_eof(&h, &err), AZREDIS_E_JSON);
    assert_int_equal(got.len, 2);
}

/* ---- Date and Retry-After ---- */

#define DATE "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n"

static void test_retry_after(void **state) {
    static const struct { const char *headers; uint32_t ms; } t[] = {
        {"Retry-After: 120\r\n", 120000}, {"retry-after:0\r\n", 0}, {"Retry-After: -5\r\n", 0}, {"Retry-After: soon\r\n", 0},
        {"Retry-After:\r\n", 0}, {"Retry-After: 1.5\r\n", 0}, {"Retry-After: 86400\r\n", 86400000}, {"Retry-After: 86401\r\n", 86400000},
        {"Retry-After: 18446744073709551615\r\n", 86400000}, {"Retry-After: 99999999999999999999999\r\n", 0},
        {DATE "Retry-After: Fri, 15 Jan 2027 08:00:30 GMT\r\n", 30000},
        {"Retry-After: Fri, 15 Jan 2027 08:00:30 GMT\r\n" DATE, 30000},
        {DATE "Retry-After: Fri, 15 Jan 2027 07:59:59 GMT\r\n", 0}, {DATE "Retry-After: Fri, 15 Jan 2027 08:00:00 GMT\r\n", 0},
        {"Retry-After: Fri, 15 Jan 2027 08:00:30 GMT\r\n", 0}, {DATE "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", 86400000},
        {DATE "Retry-After: 2027-01-15T08:00:30Z\r\n", 0}, {"Retry-After-Ms: 1500\r\n", 1500}, {"x-ms-retry-after-ms: 250\r\n", 250},
        {"x-ms-retry-after-ms: -1\r\n", 0}, {"x-ms-retry-after-ms: 4294967296\r\n", 86400000}, {"retry-after-ms: 1e3\r\n", 0},
        {DATE "retry-after-ms: Fri, 15 Jan 2027 08:00:30 GMT\r\n", 0},
        {"Retry-After: 2\r\nx-ms-retry-after-ms: 1500\r\n", 2000}, {"x-ms-retry-after-ms: 2500\r\nRetry-After: 2\r\n", 2500},
        {"X-Retry-After: 9\r\n", 0}, {"", 0}
    };
    char text[300];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(t); i++) {
        (void)sprintf(text, "HTTP/1.1 503 Busy\r\n%sContent-Length: 0\r\n\r\n", t[i].headers);
        assert_int_equal(answer_z(text), AZREDIS_OK);
        if (h.retry_after_ms != t[i].ms) fail_msg("%s: %u", t[i].headers, (unsigned)h.retry_after_ms);
    }
}

static void test_date(void **state) {
    static const struct { const char *headers; int64_t date; } t[] = {
        {DATE, 1800000000}, {"date:Sun, 06 Nov 1994 08:49:37 GMT \r\n", 784111777}, {"", 0}, {"Date: 1800000000\r\n", 0},
        {"Date: 2027-01-15T08:00:00Z\r\n", 0}, {"Date: Fri, 30 Feb 2027 08:00:00 GMT\r\n", 0}, {"Date:\r\n", 0},
        {"Date: junk\r\n", 0}
    };
    char text[200];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(t); i++) {
        (void)sprintf(text, OK_LINE "%sContent-Length: 0\r\n\r\n", t[i].headers);
        assert_int_equal(answer_z(text), AZREDIS_OK);
        if (h.date != t[i].date) fail_msg("%s: %lld", t[i].headers, (long long)h.date);
    }
    assert_int_equal(answer_z("HTTP/1.1 103 x\r\n" DATE "Location: https://x/\r\n\r\nHTTP/1.1 204 x\r\n\r\n"), AZREDIS_OK);
    assert_int_equal(h.date, 0);
    assert_string_equal(h.location_host, "");
}

/* ---- damage ---- */

/* Every byte of every good answer in turn becomes each of some bad bytes and some random ones. */
static void test_damage(void **state) {
    static const char odd[] = {'\0', '\r', '\n', ' ', ':', ';', '0', 'f', '-', '\t', (char)0x80, (char)0xff};
    char text[512];
    azri_rng rng;
    size_t i, at, k;
    (void)state;
    rng.state = 11;
    for (i = 0; i < COUNT(good); i++) {
        size_t n = strlen(good[i].text);
        for (at = 0; at < n; at++)
            for (k = 0; k < sizeof odd + 8; k++) {
                azredis_status st;
                memcpy(text, good[i].text, n);
                text[at] = k < sizeof odd ? odd[k] : (char)azri_rng_next(&rng);
                if (k % 3 == 2) text[azri_rng_below(&rng, n)] = (char)azri_rng_next(&rng);
                st = answer(text, n, k % 2 ? SIZE_MAX : azri_rng_below(&rng, n + 1), 1);
                assert_true(st == AZREDIS_OK || st == AZREDIS_E_HTTP || st == AZREDIS_E_CLOSED || st == AZREDIS_E_LIMIT);
                assert_int_equal(err.code, st);
                assert_true(got.len <= n);
            }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request), cmocka_unit_test(test_good_in_every_split), cmocka_unit_test(test_end_at_each_byte),
        cmocka_unit_test(test_bytes_behind_the_end), cmocka_unit_test(test_refused_by_name), cmocka_unit_test(test_redirect),
        cmocka_unit_test(test_head_limit), cmocka_unit_test(test_interim_limit), cmocka_unit_test(test_line_limit),
        cmocka_unit_test(test_body_limit), cmocka_unit_test(test_many_chunks), cmocka_unit_test(test_sink_refuses),
        cmocka_unit_test(test_retry_after), cmocka_unit_test(test_date), cmocka_unit_test(test_damage)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
