/* Unit test of the proxy before the authority: its URL, the CONNECT byte for byte, every answer whole, cut and byte by
 * byte; messages name the proxy and the mend and never the password; no byte of the host behind it is read too early. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <setjmp.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define PASSWORD "p%40ss%3Aword%25"                    /* p@ss:word% */
#define LOGIN    "cHJveHktdXNlcjpwQHNzOndvcmQl"        /* by base64(1) */

/* ---- the URL ---- */

static azredis_status check(const char *proxy, azredis_error *e) {
    azredis_auth_options o;
    azredis_auth_options conf;
    azri_port port;
    azredis_status st;
    memset(&o, 0, sizeof o);
    memset(e, 0, sizeof *e);
    azri_port_fill(&port, NULL);
    o.proxy = proxy;
    st = azri_identity_conf_copy(&conf, &port.mem, &o, e);
    if (st == AZREDIS_OK) azri_identity_conf_free(&conf, &port.mem);
    return st;
}

static void test_good_urls(void **state) {
    static const struct { const char *url, *host, *login; uint16_t port; } good[] = {
        { "http://proxy:3128", "proxy", NULL, 3128 }, { "HTTP://proxy.example.com:80/", "proxy.example.com", NULL, 80 },
        { "http://10.0.0.1:8080", "10.0.0.1", NULL, 8080 }, { "http://[::1]:8080", "::1", NULL, 8080 },
        { "http://u:p@proxy:3128", "proxy", "u:p", 3128 }, { "http://u@proxy:3128", "proxy", "u", 3128 },
        { "http://u:a@b@proxy:3128", "proxy", "u:a@b", 3128 }, { "http://u:a:b@proxy:3128", "proxy", "u:a:b", 3128 },
        { "http://proxy-user:" PASSWORD "@[fe80::1]:1", "fe80::1", "proxy-user:" PASSWORD, 1 }
    };
    azredis_error e;
    char host[256];
    uint16_t port;
    azredis_str login;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        assert_null(azri_proxy_read(azri_str(good[i].url), host, &port, &login));
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
        assert_int_equal(login.ptr != NULL, good[i].login != NULL);
        if (login.ptr) assert_int_equal(login.len, strlen(good[i].login));
        if (login.ptr) assert_memory_equal(login.ptr, good[i].login, login.len);
        assert_int_equal(check(good[i].url, &e), AZREDIS_OK);
    }
}

static void test_bad_urls(void **state) {
    static const struct { const char *url, *why; } bad[] = {
        { "proxy:3128", "http://" }, { "socks5://proxy:1080", "http://" }, { "https://proxy:443", "TLS" }, { "http://", "empty" },
        { "http://proxy", "names no port" }, { "http://proxy:0", "port" }, { "http://proxy:70000", "port" },
        { "http://proxy:x", "port" }, { "http://:3128", "empty" }, { "http://a b:3128", "not a host name" },
        { "http://::1:3128", "empty" }, { "http://fe80::1:3128", "brackets" }, { "http://proxy:3128/path", "behind its port" }, { "http://proxy:3128?x", "behind its port" },
        { "http://u:se#cret@proxy:3128", "behind its port" }, { "http://u:se/cret@proxy:3128", "behind its port" },
        { "http://u:%zzsecret@proxy:3128", "hexadecimal" }, { "http://u:secret%2@proxy:3128", "hexadecimal" },
        { "http://u:secret%@proxy:3128", "hexadecimal" }, { "http://u:secret%0a@proxy:3128", "control" },
        { "http://u:secret%00@proxy:3128", "control" }, { "http://u:secret\r\nX: y@proxy:3128", "control" },
        { "http://u%3Asecret:p@proxy:3128", "':'" }, { "http://proxy\r\n:3128", "not a host name" }
    };
    azredis_error e;
    char longest[400];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        assert_int_equal(check(bad[i].url, &e), AZREDIS_E_ARG);
        if (!strstr(e.message, bad[i].why)) fail_msg("'%s' is not in: %s", bad[i].why, e.message);
        assert_null(strstr(e.message, "secret"));
        assert_non_null(strstr(e.message, "options.proxy"));
    }
    memset(longest, 'x', sizeof longest);
    memcpy(longest, "http://", 7);
    memcpy(longest + 7 + 255, "@proxy:3128", 12);
    assert_int_equal(check(longest, &e), AZREDIS_OK);
    longest[7 + 255] = 'x';
    memcpy(longest + 7 + 256, "@proxy:3128", 12);
    assert_int_equal(check(longest, &e), AZREDIS_E_ARG);
    assert_non_null(strstr(e.message, "more than 255 bytes"));
}

static void test_described_without_password(void **state) {
    azredis_auth_options a;
    azredis_options o;
    char text[300];
    (void)state;
    memset(&o, 0, sizeof o);
    memset(&a, 0, sizeof a);
    a.proxy = "http://proxy-user:hunter2@proxy:3128";
    o.host = "cache.example";
    o.identity = &a;
    (void)azredis_describe(&o, text, sizeof text);
    assert_non_null(strstr(text, "authorityProxy=***"));
    assert_null(strstr(text, "hunter2"));
}

/* ---- a network that is two strings ---- */

static struct {
    char   sent[4096];
    const char *answer;
    size_t sent_len, answer_len, at, send_most, recv_most;
    int    eof, closed, refuse;        /* eof: the peer closes behind answer, instead of being silent */
    char   dialled[64];
} net;

static int t_connect(void *user, const char *host, uint16_t port, intptr_t *sock) {
    (void)user;
    if (net.refuse) return -ECONNREFUSED;
    (void)azri_fmt(net.dialled, sizeof net.dialled, "%s:%u", host, (unsigned)port);
    *sock = 7;
    return 1;
}

static int t_send(void *user, intptr_t sock, const void *p, size_t n) {
    (void)user;
    assert_int_equal(sock, 7);
    n = azri_minz(n, azri_minz(net.send_most, sizeof net.sent - net.sent_len));
    memcpy(net.sent + net.sent_len, p, n);
    net.sent_len += n;
    return (int)n;
}

static int t_recv(void *user, intptr_t sock, void *p, size_t n) {
    (void)user;
    assert_int_equal(sock, 7);
    n = azri_minz(n, azri_minz(net.recv_most, net.answer_len - net.at));
    memcpy(p, net.answer + net.at, n);
    net.at += n;
    return n == 0 && net.eof ? AZRI_EOF : (int)n;
}

static void t_close(void *user, intptr_t sock) {
    (void)user;
    assert_int_equal(sock, 7);
    net.closed++;
}

static azri_port port;
static azri_line line;
static azri_http http;
static azredis_error err;

static azredis_status sink(void *user, const char *p, size_t n) {
    (void)user; (void)p; (void)n;
    return AZREDIS_E_STATE;            /* an answer to CONNECT has no body */
}

static void begin(const char *proxy, const char *answer, size_t n) {
    azredis_port hooks;
    azri_tls_conf conf;
    memset(&hooks, 0, sizeof hooks);
    memset(&conf, 0, sizeof conf);
    memset(&net, 0, sizeof net);
    memset(&err, 0, sizeof err);
    hooks.connect = t_connect;
    hooks.send = t_send;
    hooks.recv = t_recv;
    hooks.close = t_close;
    azri_port_fill(&port, &hooks);
    conf.where = "client-secret";      /* without a name: what follows is plain, so that we see it */
    net.answer = answer;
    net.answer_len = n;
    net.send_most = net.recv_most = sizeof net.sent;
    azri_http_init(&http, sink, &http);
    azri_line_begin(&line, &port, NULL, NULL, "login.example.com", 443, &conf, 1000, 5000);
    azri_line_by(&line, proxy, &http);
}

static azredis_status step(uint64_t now) { return azri_line_step(&line, now, &err); }

static void end(void) {
    azri_line_end(&line);
    assert_int_equal(net.closed, net.refuse ? 0 : 1);
}

/* ---- the tunnel ---- */

static const char head[] = "CONNECT login.example.com:443 HTTP/1.1\r\nHost: login.example.com:443\r\n"
                           "User-Agent: azredis-entra/" AZREDIS_VERSION_TEXT "\r\n";

static void expect_sent(const char *more) {
    size_t n = sizeof head - 1;
    assert_int_equal(net.sent_len, n + strlen(more) + 2);
    assert_memory_equal(net.sent, head, n);
    assert_memory_equal(net.sent + n, more, strlen(more));
    assert_memory_equal(net.sent + net.sent_len - 2, "\r\n", 2);
}

static void test_connect(void **state) {
    static const char answer[] = "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello of the host";
    char rest[64];
    size_t got, k;
    (void)state;
    for (k = 1; k < 300; k = k * 3 + 1) {                /* partial sends, split answers */
        azredis_status st = AZREDIS_AGAIN;
        int steps = 0;
        begin("http://proxy:3128", answer, sizeof answer - 1);
        net.recv_most = k;
        net.send_most = k;
        while (st == AZREDIS_AGAIN && steps++ < 1000) st = step(1001);
        assert_int_equal(st, AZREDIS_OK);
        assert_string_equal(net.dialled, "proxy:3128");
        expect_sent("");
        assert_int_equal(line.state, AZRI_LINE_OPEN);
        assert_int_equal(http.state, AZRI_HTTP_STATUS_LINE);     /* as new for the host's own answer */
        assert_int_equal(http.head, 0);
        assert_ptr_equal(http.user, &http);
        net.recv_most = sizeof rest;
        assert_int_equal(azri_line_read(&line, rest, sizeof rest, &got, &err), AZREDIS_OK);
        assert_int_equal(got, 17);
        assert_memory_equal(rest, "hello of the host", 17);
        end();
    }
}

static void test_login(void **state) {
    (void)state;
    begin("http://proxy-user:" PASSWORD "@proxy:3128", "HTTP/1.0 200 OK\r\n\r\n", 19);
    assert_int_equal(step(1001), AZREDIS_OK);
    expect_sent("Proxy-Authorization: Basic " LOGIN "\r\n");
    end();
    begin("http://u@proxy:3128", "HTTP/1.1 200 OK\r\n\r\n", 19);
    assert_int_equal(step(1001), AZREDIS_OK);
    expect_sent("Proxy-Authorization: Basic dTo=\r\n");
    end();
}

/* RFC 4648 10. */
static void test_base64(void **state) {
    static const char *const rows[][2] = { { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foob", "Zm9vYg==" },
                                           { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" }, { "\xff\xfe\xfd", "//79" } };
    char out[32];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        azri_out o;
        o.p = out;
        o.cap = sizeof out;
        o.len = 0;
        azri_b64_out(&o, azri_str(rows[i][0]));
        assert_int_equal(o.len, strlen(rows[i][1]));
        assert_memory_equal(out, rows[i][1], o.len);
    }
}

/* The longest names and login fit into the head. */
static void test_longest(void **state) {
    char host[256], out[AZRI_PROXY_HEAD], login[AZRI_PROXY_LOGIN];
    size_t i, n;
    (void)state;
    memset(host, 'h', sizeof host);
    for (i = 50; i < 253; i += 50) host[i] = '.';
    host[253] = '\0';
    memset(login, 'x', sizeof login);
    n = azri_proxy_head(out, host, 65535, azri_slice(login, sizeof login));
    assert_true(n < AZRI_PROXY_HEAD);
    assert_memory_equal(out + n - 4, "\r\n\r\n", 4);
    n = azri_proxy_head(out, "2001:db8::1", 443, azri_slice(NULL, 0));
    assert_memory_equal(out, "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n", 61);
    assert_true(n < AZRI_PROXY_HEAD);
}

/* A 2xx has no body, whatever its headers say (RFC 9110 9.3.6). */
static void test_no_body_behind_200(void **state) {
    static const char *const heads[] = { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                                         "HTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" };
    char answer[200], rest[8];
    size_t i, got, n;
    (void)state;
    for (i = 0; i < COUNT(heads); i++) {
        n = azri_fmt(answer, sizeof answer, "%sabcde", heads[i]);
        begin("http://proxy:3128", answer, n);
        assert_int_equal(step(1001), AZREDIS_OK);
        assert_int_equal(azri_line_read(&line, rest, sizeof rest, &got, &err), AZREDIS_OK);
        assert_int_equal(got, 5);
        assert_memory_equal(rest, "abcde", 5);
        end();
    }
}

/* ---- what it refuses ---- */

static const struct { const char *proxy, *answer; int eof; azredis_status st; int http, retryable; const char *says; } refusals[] = {
    { "http://proxy:3128", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n", 0,
      AZREDIS_E_HTTP, 407, 0, "it wants a login; write http://user:password@host:port" },
    { "http://u:hunter2@proxy:3128", "HTTP/1.1 407 x\r\nProxy-Authenticate: Negotiate\r\n\r\n", 0, AZREDIS_E_HTTP, 407, 0,
      "does not accept user and password" },
    { "http://proxy:3128", "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nno no", 0, AZREDIS_E_HTTP, 403, 0, "permit CONNECT there" },
    { "http://proxy:3128", "HTTP/1.1 405 x\r\n\r\n", 0, AZREDIS_E_HTTP, 405, 0, "permit CONNECT there" },
    { "http://proxy:3128", "HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", 0, AZREDIS_E_NET, 502, 1, "cannot reach that host" },
    { "http://proxy:3128", "HTTP/1.1 503 x\r\n\r\n", 0, AZREDIS_E_NET, 503, 1, "cannot reach that host" },
    { "http://proxy:3128", "HTTP/1.1 504 x\r\n\r\n", 0, AZREDIS_E_NET, 504, 1, "cannot reach that host" },
    { "http://proxy:3128", "HTTP/1.1 400 x\r\n\r\n", 0, AZREDIS_E_HTTP, 400, 0, "is it an HTTP proxy" },
    { "http://proxy:3128", "HTTP/1.1 302 x\r\nLocation: https://portal.example/\r\n\r\n", 0, AZREDIS_E_HTTP, 0, -1, "redirect" },
    { "http://proxy:3128", "HTTP/1.1 101 x\r\n\r\n", 0, AZREDIS_E_HTTP, 0, -1, "switches" },
    { "http://proxy:3128", "SSH-2.0-OpenSSH_9.2\r\n", 0, AZREDIS_E_HTTP, 0, -1, "HTTP answer" },
    { "http://proxy:3128", "\x15\x03\x01\x02", 1, AZREDIS_E_CLOSED, 0, 1, "closed" },
    { "http://proxy:3128", "", 1, AZREDIS_E_CLOSED, 0, 1, "closed" }
};

static void test_refusals(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(refusals); i++) {
        begin(refusals[i].proxy, refusals[i].answer, strlen(refusals[i].answer));
        net.eof = refusals[i].eof;
        if (step(1001) != refusals[i].st) fail_msg("%u: %d, %s", (unsigned)i, (int)err.code, err.message);
        if (!strstr(err.message, refusals[i].says)) fail_msg("'%s' is not in: %s", refusals[i].says, err.message);
        assert_non_null(strstr(err.message, "proxy:3128"));
        assert_null(strstr(err.message, "hunter2"));
        if (refusals[i].http) assert_int_equal(err.http_status, refusals[i].http);
        if (refusals[i].retryable >= 0) assert_int_equal(err.retryable, refusals[i].retryable);
        end();
    }
}

static void test_huge_head(void **state) {
    static char answer[40000];
    size_t n;
    (void)state;
    n = azri_fmt(answer, sizeof answer, "HTTP/1.1 200 OK\r\n");
    while (n < 30000) n += azri_fmt(answer + n, sizeof answer - n, "X-Pad: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n");
    begin("http://proxy:3128", answer, n);
    assert_int_equal(step(1001), AZREDIS_E_LIMIT);
    assert_non_null(strstr(err.message, "proxy:3128"));
    assert_true(net.at <= AZRI_HTTP_HEAD_MAX + 1);
    end();
}

/* Cut at each byte, it is either silence, which the deadline ends, or a close. */
static void test_cut(void **state) {
    static const char answer[] = "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n";
    size_t n;
    (void)state;
    for (n = 0; n < sizeof answer - 1; n++) {
        begin("http://proxy:3128", answer, n);
        assert_int_equal(step(1001), AZREDIS_AGAIN);
        assert_int_equal(line.want, AZRI_READ);
        assert_int_equal(azri_line_deadline(&line), 6000);
        assert_int_equal(step(5999), AZREDIS_AGAIN);
        assert_int_equal(step(6000), AZREDIS_E_TIMEOUT);
        assert_non_null(strstr(err.message, "CONNECT to login.example.com:443"));
        assert_non_null(strstr(err.message, "proxy:3128"));
        end();
        begin("http://proxy:3128", answer, n);
        net.eof = 1;
        assert_int_equal(step(1001), AZREDIS_E_CLOSED);
        end();
    }
}

static void test_unreachable(void **state) {
    (void)state;
    begin("http://proxy:3128", "", 0);
    net.refuse = 1;
    assert_int_equal(step(1001), AZREDIS_E_NET);
    assert_non_null(strstr(err.message, "connection refused"));
    assert_non_null(strstr(err.message, "the option proxy, proxy:3128"));
    end();
}

static void test_sockets(void **state) {
    azri_fd fd[4];
    (void)state;
    begin("http://proxy:3128", "", 0);
    net.send_most = 0;                                   /* nothing can be sent yet */
    assert_int_equal(step(1001), AZREDIS_AGAIN);
    assert_int_equal(azri_line_fds(&line, fd, 4, 1), 1);
    assert_int_equal(fd[0].want, AZRI_WRITE);
    net.send_most = 4096;
    assert_int_equal(step(1002), AZREDIS_AGAIN);
    assert_int_equal(azri_line_fds(&line, fd, 4, 1), 1);
    assert_int_equal(fd[0].want, AZRI_READ);
    end();
}

/* ---- HTTPS_PROXY ---- */

static void fails(azredis_status st, const char *proxy, int which, const char *says) {
    azredis_auth_options o;
    azredis_auth_options conf;
    azri_flow flow;
    azri_step one;
    azri_env env;
    azri_rng rng;
    azredis_error e;
    char variable[] = "http://u:secret@elsewhere:1";
    rng.state = 1;
    memset(&o, 0, sizeof o);
    memset(&env, 0, sizeof env);
    azri_port_fill(&port, NULL);
    o.identity = AZREDIS_ID_CLIENT_SECRET;
    o.tenant_id = o.client_id = "11111111-2222-3333-4444-555555555555";
    o.client_secret = "a secret";
    o.proxy = proxy;
    o.chain_ms = 500;                                    /* one try */
    env.value[which] = variable;
    assert_int_equal(azri_identity_conf_copy(&conf, &port.mem, &o, &e), AZREDIS_OK);
    azri_flow_init(&flow, &port.mem, &conf, &rng);
    azri_flow_start(&flow, &env, 1000);
    assert_int_equal(azri_flow_next(&flow, 1000, 1800000000, &one), AZRI_STEP_HTTP);
    assert_int_equal(one.by_proxy, 1);
    (void)azri_fail(&e, st, "connect.tcp", "connect: no");
    azri_step_free(&one);
    azri_flow_http(&flow, 1000, st, NULL, &e);
    assert_int_equal(azri_flow_next(&flow, 1000, 1800000000, &one), AZRI_STEP_DONE);
    if (says && !strstr(flow.error.message, says)) fail_msg("'%s' is not in: %s", says, flow.error.message);
    if (!says && strstr(flow.error.message, "proxy")) fail_msg("%s", flow.error.message);
    assert_null(strstr(flow.error.message, "elsewhere"));
    azri_flow_free(&flow);
    azri_identity_conf_free(&conf, &port.mem);
}

static void test_variable_is_named(void **state) {
    (void)state;
    fails(AZREDIS_E_NET, NULL, AZRI_ENV_HTTPS_PROXY, "HTTPS_PROXY is set, which is not obeyed");
    fails(AZREDIS_E_DNS, NULL, AZRI_ENV_HTTPS_PROXY_SMALL, "https_proxy is set");
    fails(AZREDIS_E_TIMEOUT, NULL, AZRI_ENV_HTTPS_PROXY, "set the option proxy");
    fails(AZREDIS_E_CERT, NULL, AZRI_ENV_HTTPS_PROXY, NULL);
    fails(AZREDIS_E_NET, "http://p:3128", AZRI_ENV_HTTPS_PROXY, NULL);
    fails(AZREDIS_E_NET, NULL, AZRI_ENV_USERNAME, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_urls), cmocka_unit_test(test_bad_urls),
        cmocka_unit_test(test_described_without_password), cmocka_unit_test(test_connect),
        cmocka_unit_test(test_login), cmocka_unit_test(test_base64), cmocka_unit_test(test_longest),
        cmocka_unit_test(test_no_body_behind_200), cmocka_unit_test(test_refusals), cmocka_unit_test(test_huge_head),
        cmocka_unit_test(test_cut), cmocka_unit_test(test_unreachable), cmocka_unit_test(test_sockets),
        cmocka_unit_test(test_variable_is_named)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
