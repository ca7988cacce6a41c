/* Tokens that a file holds or a program prints, in virtual time: every shape, whole and cut at each byte, texts that
 * are none, expiry by each clock, exit codes and what stderr says; freed memory is searched for the token. */
#include "pure.h"

#define START 1800000000
#define BODY  "eyJvaWQiOiJv"                           /* how the claims of all tokens here begin */

/* {"oid":"o","iat":START,"exp":START+3600}, the same a while ago, {"oid":"o","exp":START+86400}, {"oid":"o"} */
static const char hour_token[] = "e30.eyJvaWQiOiJvIiwiaWF0IjoxODAwMDAwMDAwLCJleHAiOjE4MDAwMDM2MDB9.c";
static const char old_token[] = "e30.eyJvaWQiOiJvIiwiaWF0IjoxNzk5OTkwMDAwLCJleHAiOjE3OTk5OTk5OTl9.c";
static const char day_token[] = "e30.eyJvaWQiOiJvIiwiZXhwIjoxODAwMDg2NDAwfQ.c";
static const char bare_token[] = "e30.eyJvaWQiOiJvIn0.c";

static azredis_auth_options conf;
static azri_flow flow;
static azri_step step;
static azri_env env;
static azri_rng rng;
static azredis_auth_options opt;
static azredis_error err;
static uint64_t now;
static int is_exec;

static int setup(void **state) {
    (void)state;
    memset(&opt, 0, sizeof opt);
    memset(&conf, 0, sizeof conf);
    memset(&env, 0, sizeof env);
    memset(&err, 0, sizeof err);
    memset(&heap, 0, sizeof heap);
    heap.secret = BODY;
    rng.state = 42;
    now = 1000;
    return 0;
}

/* az's clock on the wall, here two hours east of UTC. */
static int64_t east(int64_t wall) { return wall - 7200; }

static azri_step_kind next(void) {
    azri_step_free(&step);
    return azri_flow_next(&flow, now, START, &step);
}

static void begin(int exec) {
    (void)setup(NULL);
    is_exec = exec;
    opt.identity = exec ? AZREDIS_ID_EXEC : AZREDIS_ID_TOKEN_FILE;
    opt.token_file = "/run/token";
    opt.exec = "/usr/bin/give-token";
}

static void ask(void) {
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_OK);
    azri_flow_init(&flow, &mem, &conf, &rng);
    flow.local_time = east;
    azri_flow_start(&flow, &env, now);
    assert_int_equal(next(), is_exec ? AZRI_STEP_EXEC : AZRI_STEP_FILE);
    assert_string_equal(step.where, is_exec ? "exec" : "token-file");
}

static void tell(const char *text, size_t n) {
    azredis_str none = { NULL, 0 };
    if (is_exec) azri_flow_ran(&flow, now, AZREDIS_OK, azri_slice(text, n), none, 0, NULL);
    else azri_flow_text(&flow, now, AZREDIS_OK, azri_slice(text, n), NULL);
}

static void finish(void) {
    assert_false(contains(&flow.error, sizeof flow.error, BODY));
    assert_false(contains(&flow.records, sizeof flow.records, BODY));
    assert_false(contains(&flow.answer, sizeof flow.answer, BODY));
    assert_false(contains(&flow.json, sizeof flow.json, BODY));
    azri_step_free(&step);
    azri_flow_free(&flow);
    azri_identity_conf_free(&conf, &mem);
    assert_int_equal(heap.live, 0);
    assert_int_equal(heap.leaks, 0);
}

static void expect_token(const char *token, uint64_t life_s) {
    assert_int_equal(next(), AZRI_STEP_DONE);
    if (flow.status != AZREDIS_OK) fail_msg("%s", flow.error.message);
    assert_int_equal(flow.token.len, strlen(token));
    assert_memory_equal(flow.token.ptr, token, flow.token.len);
    assert_int_equal(flow.life_ms, life_s * 1000);
    assert_string_equal(flow.used, is_exec ? "exec" : "token-file");
}

static void expect_failed(azredis_status st, const char *text, int retryable) {
    assert_int_equal(next(), AZRI_STEP_DONE);
    if (flow.status != st) fail_msg("status %d: %s", flow.status, flow.error.message);
    if (!strstr(flow.error.message, text)) fail_msg("'%s' is not in: %s", text, flow.error.message);
    assert_int_equal(flow.error.retryable, retryable);
    assert_int_equal(flow.token.len, 0);
}

static const char *with(const char *format, const char *token) {
    static char text[4096];
    (void)snprintf(text, sizeof text, format, token);
    return text;
}

/* ---- shapes ---- */

typedef struct { const char *format, *token; uint64_t file_s, exec_s; } shape;   /* 0 s: nothing says when it expires */

static const shape shapes[] = {
    { "%s", hour_token, 3600, 3600 },
    { "%s", day_token, 86400, 86400 },
    { "\xef\xbb\xbf \r\n\t%s \r\n", hour_token, 3600, 3600 },
    { "\xef\xbb\xbf{\"access_token\":\"%s\"}\n", hour_token, 3600, 3600 },
    /* OAuth: expires_in counts from when it was written, which nobody knows of a file */
    { "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"ext_expires_in\":3599,\"access_token\":\"%s\"}", bare_token, 0, 3599 },
    { "{\"token_type\":\"Bearer\",\"expires_in\":\"1800\",\"access_token\":\"%s\"}", hour_token, 3600, 1800 },
    { "{\"access_token\":\"%s\",\"expires_on\":1800000900}", bare_token, 900, 900 },
    { "{\"access_token\":\"%s\",\"expires_on\":\"1800000900\"}", bare_token, 900, 900 },
    { "{\"access_token\":\"%s\",\"expires_on\":900}", bare_token, 0, 900 },
    /* az since 2.54, before it (local time; the token's own exp is better), azd (UTC) */
    { "{\"accessToken\":\"%s\",\"expiresOn\":\"2027-01-15 09:00:00.000000\",\"expires_on\":1800000700,"
      "\"subscription\":\"11111111-2222-3333-4444-555555555555\",\"tenant\":\"t\",\"tokenType\":\"Bearer\"}", bare_token, 700, 700 },
    { "{\"accessToken\":\"%s\",\"expiresOn\":\"2027-01-15 10:30:00.000000\",\"tokenType\":\"Bearer\"}", bare_token, 1800, 1800 },
    { "{\"accessToken\":\"%s\",\"expiresOn\":\"2027-01-15 10:30:00.000000\",\"tokenType\":\"Bearer\"}", hour_token, 3600, 3600 },
    { "{\"token\":\"%s\",\"expiresOn\":\"2027-01-15T09:00:00Z\"}", bare_token, 3600, 3600 },
    { "{\"token\":\"%s\",\"expiresOn\":\"2027-01-15T09:00:00+00:30\"}", bare_token, 1800, 1800 },
    { "{\"token\":\"%s\",\"expiresOn\":1800000060}", bare_token, 60, 60 },
    { "{\"token\":\"%s\",\"expiresOn\":\"tomorrow\"}", hour_token, 3600, 3600 },
    { "{\"token\":\"%s\",\"expiresOn\":\"2027-01-15 25:00:00\"}", hour_token, 3600, 3600 },
    { "{\"a\":{\"token\":\"x\"},\"b\":[\"token\"],\"access_token\":\"%s\"}", hour_token, 3600, 3600 }
};

static void test_shapes(void **state) {
    size_t i;
    int exec;
    (void)state;
    for (i = 0; i < COUNT(shapes); i++)
        for (exec = 0; exec < 2; exec++) {
            const char *text = with(shapes[i].format, shapes[i].token);
            uint64_t life = exec ? shapes[i].exec_s : shapes[i].file_s;
            begin(exec);
            ask();
            tell(text, strlen(text));
            if (life) expect_token(shapes[i].token, life);
            else expect_failed(AZREDIS_E_TOKEN, "nothing says when", 0);
            finish();
        }
}

static void test_refresh_in(void **state) {
    const char *text = with("{\"access_token\":\"%s\",\"expires_in\":3600,\"refresh_in\":1800}", hour_token);
    (void)state;
    begin(1);
    ask();
    tell(text, strlen(text));
    assert_int_equal(flow.refresh_ms, 1800000);
    finish();
    begin(0);
    ask();
    tell(text, strlen(text));
    assert_int_equal(flow.refresh_ms, 0);
    finish();
}

/* Without a time zone at hand, local times are as if not given. */
static void test_no_zone(void **state) {
    const char *text = with("{\"accessToken\":\"%s\",\"expiresOn\":\"2027-01-15 10:30:00.000000\"}", bare_token);
    (void)state;
    begin(1);
    ask();
    flow.local_time = NULL;
    tell(text, strlen(text));
    expect_failed(AZREDIS_E_TOKEN, "nothing says when", 0);
    finish();
}

#define WHERE_FILE 2                                   /* tried soon again: it may be being written */

static const struct { const char *text; azredis_status st; const char *says; int retryable; } wrong[] = {
    { "", AZREDIS_E_TOKEN, "is empty", WHERE_FILE },
    { " \r\n\t", AZREDIS_E_TOKEN, "is empty", WHERE_FILE },
    { "\xef\xbb\xbf", AZREDIS_E_TOKEN, "is empty", WHERE_FILE },
    { "{}", AZREDIS_E_TOKEN, "without access_token", WHERE_FILE },
    { "{\"access_token\":\"\"}", AZREDIS_E_TOKEN, "without access_token", WHERE_FILE },
    { "{\"access_token\":5}", AZREDIS_E_TOKEN, "without access_token", WHERE_FILE },
    { "{\"a\":{\"access_token\":\"e30." BODY "In0.c\"}}", AZREDIS_E_TOKEN, "without access_token", WHERE_FILE },
    { "{\"access_token\":\"e30." BODY "In0.c\"", AZREDIS_E_TOKEN, "nor complete JSON", WHERE_FILE },
    { "{\"access_token\":\"e30." BODY "In0.c\"} x", AZREDIS_E_TOKEN, "nor complete JSON", WHERE_FILE },
    { "{\"a\":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}", AZREDIS_E_TOKEN, "too deep", WHERE_FILE },
    { "[\"e30." BODY "In0.c\"]", AZREDIS_E_TOKEN, "neither a token", WHERE_FILE },
    { "<html>e30." BODY "In0.c</html>", AZREDIS_E_TOKEN, "neither a token", WHERE_FILE },
    { "please log in", AZREDIS_E_TOKEN, "neither a token", WHERE_FILE },
    { "e30." BODY "In0.c\ne30." BODY "In0.c", AZREDIS_E_TOKEN, "neither a token", WHERE_FILE },
    { "{\"access_token\":\"e30." BODY "In0.c\",\"token_type\":\"pop\"}", AZREDIS_E_TOKEN, "not of the type Bearer", 0 },
    { "e30.eyJzdWIiOiJzIiwiZXhwIjo3fQ.c2ln", AZREDIS_E_TOKEN, "oid", 0 },
    { "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: x\",\"access_token\":\"e30." BODY "In0.c\"}",
      AZREDIS_E_ENTRA, "invalid_client, AADSTS7000215: wrong client secret", 0 },
    { "{\"error\":\"temporarily_unavailable\",\"error_description\":\"later\"}", AZREDIS_E_ENTRA, "it says: later", 1 },
    { "{\"error\":{\"code\":\"ManagedIdentityNotFound\",\"message\":\"none\",\"correlationId\":\"c\"}}", AZREDIS_E_ENTRA,
      "an error instead of a token: ManagedIdentityNotFound; it says: none", 0 }
};

static void test_wrong(void **state) {
    size_t i;
    int exec;
    (void)state;
    for (i = 0; i < COUNT(wrong); i++)
        for (exec = 0; exec < 2; exec++) {
            begin(exec);
            ask();
            tell(wrong[i].text, strlen(wrong[i].text));
            expect_failed(wrong[i].st, wrong[i].says, wrong[i].retryable == WHERE_FILE ? !exec : wrong[i].retryable);
            if (wrong[i].retryable == WHERE_FILE)
                assert_non_null(strstr(flow.error.message, exec ? "the output" : "the file"));
            finish();
        }
}

/* A file that is being written, a program that was killed: no byte less than all makes a token of another kind. */
static void test_cut_at_each_byte(void **state) {
    static const size_t which[] = { 3, 4, 9, 12 };
    size_t i, n;
    int exec;
    (void)state;
    for (i = 0; i < COUNT(which); i++)
        for (exec = 0; exec < 2; exec++) {
            const shape *s = &shapes[which[i]];
            const char *text = with(s->format, s->token), *end = strrchr(text, '}');
            for (n = 0; n < (size_t)(end - text) + 1; n++) {
                char *exact = (char *)malloc(n ? n : 1);           /* for the sanitizer to see a step too far */
                assert_non_null(exact);
                memcpy(exact, text, n);
                begin(exec);
                ask();
                tell(exact, n);
                assert_int_equal(next(), AZRI_STEP_DONE);
                assert_int_equal(flow.status, AZREDIS_E_TOKEN);
                finish();
                free(exact);
            }
        }
}

static void test_expired(void **state) {
    const char *text = with("{\"access_token\":\"%s\",\"expires_on\":1799999999}", bare_token);
    (void)state;
    begin(0);
    ask();
    tell(old_token, strlen(old_token));
    expect_failed(AZREDIS_E_TOKEN, "already expired", 1);
    finish();
    begin(0);
    ask();
    tell(text, strlen(text));
    expect_failed(AZREDIS_E_TOKEN, "a file that nobody renews", 1);
    finish();
}

/* The option user makes any text a token, as long as something says how long. */
static void test_opaque(void **state) {
    static const char text[] = "{\"access_token\":\"AQAAANCMnd8BFdERjHoAwE\",\"expires_on\":1800000060}";
    (void)state;
    begin(0);
    opt.user = "reader";
    ask();
    tell(text, strlen(text));
    expect_token("AQAAANCMnd8BFdERjHoAwE", 60);
    assert_string_equal(flow.user, "reader");
    finish();
}

static void test_file_step(void **state) {
    azredis_error e;
    (void)state;
    begin(0);
    ask();
    assert_string_equal(step.file, "/run/token");
    assert_null(step.directory);
    memset(&e, 0, sizeof e);
    (void)azri_fail(&e, AZREDIS_E_NO_CREDENTIAL, "token-file", "token-file: cannot read the file /run/token: no such file");
    azri_flow_text(&flow, now, AZREDIS_E_NO_CREDENTIAL, azri_slice(NULL, 0), &e);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "/run/token: no such file", 1);
    finish();
}

/* ---- programs ---- */

static void test_exec_step(void **state) {
    (void)state;
    begin(1);
    ask();
    assert_string_equal(step.argv[0], "/usr/bin/give-token");
    assert_string_equal(step.argv[1], "https://redis.azure.com/.default");
    assert_null(step.argv[2]);
    assert_int_equal(step.timeout_ms, 10000);
    tell(hour_token, strlen(hour_token));
    finish();
    begin(1);
    opt.request_ms = 2000;
    ask();
    assert_int_equal(step.timeout_ms, 2000);
    tell(hour_token, strlen(hour_token));
    finish();
}

static void test_exec_options(void **state) {
    static const char *const paths[] = { "az", "./az", "bin/az", "-c", " /bin/az" };
    static const char *const scopes[] = { "-x", "a b", "a;b", "a$(b)", "a`b", "a'b", "a\"b", "a\nb", "https://x/~y", "a|b", "a&b",
                                          "a\\b", "a%20b", "\xc3\xa9" };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(paths); i++) {
        begin(1);
        opt.exec = paths[i];
        assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
        assert_non_null(strstr(err.message, "absolute path"));
    }
    for (i = 0; i < COUNT(scopes); i++) {
        begin(1);
        opt.scope = scopes[i];
        assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
        assert_non_null(strstr(err.message, "scope"));
    }
    begin(1);
    opt.exec = "";
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
    assert_non_null(strstr(err.message, "needs the option exec"));
    begin(0);
    opt.token_file = NULL;
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
    assert_non_null(strstr(err.message, "needs the option token_file"));
    assert_int_equal(heap.live, 0);
}

static void ran(const char *out, const char *said, int code) {
    begin(1);
    ask();
    azri_flow_ran(&flow, now, AZREDIS_OK, azri_str(out), azri_str(said), code, NULL);
}

static void test_exec_ends(void **state) {
    (void)state;
    ran(hour_token, "ERROR: not logged in\n", 1);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "give-token ended with status 1; it says: ERROR: not logged in", 1);
    finish();
    ran(hour_token, "", -9);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "was ended by signal 9", 1);
    finish();
    ran(hour_token, "a warning", 0);
    expect_token(hour_token, 3600);
    finish();
    ran(hour_token, "", AZRI_EXIT_UNKNOWN);           /* the host has collected it: the output decides */
    expect_token(hour_token, 3600);
    finish();
    ran("", "cannot reach the vault", AZRI_EXIT_UNKNOWN);
    expect_failed(AZREDIS_E_TOKEN, "the output is empty; it should be a token, or JSON with access_token and expires_on; "
                  "it says: cannot reach the vault", 0);
    finish();
}

static void test_exec_said(void **state) {
    static const struct { const char *said, *line; } rows[] = {
        { "", "" }, { "\n\n \r\n", "" }, { "one", "one" }, { "one\ntwo\n", "two" }, { "one\r\ntwo\r\n\r\n", "two" },
        { "warning: x\nERROR: AADSTS700082: expired\nTrace ID: 1\n", "ERROR: AADSTS700082: expired" },
        { "Traceback:\n  File x\nValueError: bad\n", "ValueError: bad" }, { "err\nor", "or" }
    };
    char token_line[300];
    azredis_str line;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(rows); i++) {
        line = azri_exec_line(azri_str(rows[i].said));
        assert_int_equal(line.len, strlen(rows[i].line));
        if (line.len) assert_memory_equal(line.ptr, rows[i].line, line.len);
    }
    (void)snprintf(token_line, sizeof token_line, "error: sent \x1b[31m%s", hour_token);
    ran("", token_line, 2);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "it says: error: sent  [[hidden]", 1);
    finish();
}

/* A script inherits AZURE_CLIENT_SECRET, and with set -x it prints what it does with it. */
static void test_exec_tells_its_secret(void **state) {
    static char secret[] = "abc8Q~0123456789012345678901234567890123";           /* 40 bytes, as Entra makes them */
    static const char said[] = "+ curl -d client_secret=abc8Q~0123456789012345678901234567890123\n";
    static const char out[] = "{\"error\":{\"code\":\"x\",\"message\":\"bad abc8Q~0123456789012345678901234567890123\"}}";
    int i;
    (void)state;
    for (i = 0; i < 2; i++) {
        begin(1);
        env.value[AZRI_ENV_CLIENT_SECRET] = secret;
        ask();
        azri_flow_ran(&flow, now, AZREDIS_OK, azri_str(i ? out : ""), azri_str(i ? "" : said), !i, NULL);
        assert_int_equal(next(), AZRI_STEP_DONE);
        if (!strstr(flow.error.message, "[hidden]")) fail_msg("%s", flow.error.message);
        assert_null(strstr(flow.error.message, "abc8Q"));
        finish();
    }
}

static void test_exec_failed(void **state) {
    azredis_error e;
    (void)state;
    memset(&e, 0, sizeof e);
    begin(1);
    ask();
    (void)azri_fail(&e, AZREDIS_E_TIMEOUT, "exec", "exec: it did not end");
    azri_flow_ran(&flow, now, AZREDIS_E_TIMEOUT, azri_slice(NULL, 0), azri_str("waiting for a browser\n"), 0, &e);
    expect_failed(AZREDIS_E_TIMEOUT, "it did not end; it says: waiting for a browser", 1);
    finish();
}

static void test_same_token_again(void **state) {
    int i;
    (void)state;
    begin(0);
    ask();
    for (i = 0; i < 3; i++) {
        tell(hour_token, strlen(hour_token));
        expect_token(hour_token, 3600);
        azri_flow_start(&flow, &env, now);
        assert_int_equal(next(), AZRI_STEP_FILE);     /* read anew each time */
    }
    finish();
}

static void test_no_memory(void **state) {
    size_t k;
    int exec, done;
    (void)state;
    for (exec = 0; exec < 2; exec++)
        for (k = 1, done = 0; !done; k++) {
            const char *text = with("{\"accessToken\":\"%s\",\"expires_on\":1800000700}", hour_token);
            begin(exec);
            assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_OK);
            heap.calls = 0;
            heap.fail_at = k;
            azri_flow_init(&flow, &mem, &conf, &rng);
            azri_flow_start(&flow, &env, now);
            assert_int_equal(next(), exec ? AZRI_STEP_EXEC : AZRI_STEP_FILE);
            tell(text, strlen(text));
            assert_int_equal(next(), AZRI_STEP_DONE);
            done = flow.status == AZREDIS_OK;
            if (!done) assert_int_equal(flow.status, AZREDIS_E_NOMEM);
            heap.fail_at = 0;
            finish();
            assert_true(k < 100);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_refresh_in), cmocka_unit_test(test_no_zone),
        cmocka_unit_test(test_wrong), cmocka_unit_test(test_cut_at_each_byte), cmocka_unit_test(test_expired),
        cmocka_unit_test(test_opaque), cmocka_unit_test(test_file_step), cmocka_unit_test(test_exec_step),
        cmocka_unit_test(test_exec_options), cmocka_unit_test(test_exec_ends), cmocka_unit_test(test_exec_said),
        cmocka_unit_test(test_exec_failed), cmocka_unit_test(test_exec_tells_its_secret),
        cmocka_unit_test(test_same_token_again), cmocka_unit_test(test_no_memory)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
