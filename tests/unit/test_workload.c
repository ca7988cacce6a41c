/* Assertions in place of a secret: workload identity, its token proxy, the callback, a machine's identity; the clouds. These tests play
 * the file system and the authority: requests byte for byte, answers whole and cut, virtual time. Vectors c.2 and c.3
 * and rows 14, 15 and 26 of c.7 are those of the wire specification; row 27 is in test_identity. */
#include <unistd.h>
#include "flow.h"
#ifndef AZREDIS_ONLY_PURE
#  include <openssl/sha.h>
#endif

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define PATH   "/var/run/secrets/azure/tokens/azure-identity-token"
#define PEM    "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
#define HEAD   "client_id=" CLIENT "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer" \
               "&client_assertion="
#define TAIL   "&grant_type=client_credentials&scope=https%3A%2F%2Fredis.azure.com%2F.default"

/* The RS256 assertion of c.2. */
static const char jwt[] =
    "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsIng1dCI6IlZJaC1FdVA1SzV6blF2MUdLb2Q4dHRRMXRfbyJ9.eyJhdWQiOiJodHR"
    "wczovL2xvZ2luLm1pY3Jvc29mdG9ubGluZS5jb20vMTExMTExMTEtMjIyMi0zMzMzLTQ0NDQtNTU1NTU1NTU1NTU1L29hdXRoMi9"
    "2Mi4wL3Rva2VuIiwiZXhwIjoxODAwMDAwNjAwLCJpc3MiOiJhYWFhYWFhYS1iYmJiLWNjY2MtZGRkZC1lZWVlZWVlZWVlZWUiLCJ"
    "qdGkiOiIwMTIzNDU2Ny04OWFiLTRjZGUtOGYwMS0yMzQ1Njc4OWFiY2QiLCJuYmYiOjE4MDAwMDAwMDAsInN1YiI6ImFhYWFhYWF"
    "hLWJiYmItY2NjYy1kZGRkLWVlZWVlZWVlZWVlZSJ9.eUNqsnxfZgk5Ilj7Tj_hhGfjzgbwkSLqzcLyjs9G-0aiIt6W0NoGLGfxiU"
    "zNOYwDjVvHRIeA7U1ddW5e--xr0kf844yKadGdJLlGOGyga2EUMJACrF_-ybji10Xf4ZcXFKSuIkGHMnb5ZVH-IJe36gwPGaroXQ"
    "-VdP8ZOcxFznxlfOjO5FGmrgKAuyFKtrWxmaguqu4qWM5gmda0zJ1DIrRTZrrDDv1JZ9K2ujquQpQliWyUJthDOZUuSmcbv0z33j"
    "hwgzLOlqE3Mb3gNg2skLQcKwfgNhOtWqL9EJRDYblnP2cjbDZi7W8sMRxregevnH0PK66qbAZ_bw255H7cQA";

static int start(void **state) {
    (void)setup(state);
    also_secret[0] = "eyJhdWQiOiJodHRw";                         /* pieces of the assertion: of its claims, its signature, */
    also_secret[1] = "eUNqsnxfZgk5";                             /* its end */
    also_secret[2] = "K66qbAZ_bw25";
    return 0;
}

/* As the webhook of AKS does. */
static void pod(void) {
    set_env(AZRI_ENV_TENANT_ID, TENANT);
    set_env(AZRI_ENV_CLIENT_ID, CLIENT);
    set_env(AZRI_ENV_FEDERATED_TOKEN_FILE, PATH);
    opt.identity = AZREDIS_ID_WORKLOAD;
}

/* As the webhook does for an identity binding. */
static void binding(void) {
    pod();
    opt.kubernetes_proxy = 1;
    set_env(AZRI_ENV_TOKEN_PROXY, "https://kubernetes.default.svc:6443/binding");
    set_env(AZRI_ENV_TOKEN_PROXY_CA_FILE, "/ca.crt");
    set_env(AZRI_ENV_TOKEN_PROXY_SNI, "a1b2.ests.aks");
}

static void expect_file(const char *path) {
    assert_int_equal(next(), AZRI_STEP_FILE);
    assert_string_equal(step.file, path);
    assert_null(step.directory);
    assert_int_equal(step.file_max, 65536);
}

static void file_n(const char *text, size_t n) {
    azri_step_free(&step);
    azri_flow_text(&flow, now, AZREDIS_OK, azri_slice(text, n), NULL);
}
static void file(const char *text) { file_n(text, strlen(text)); }

/* The token file is read, and then the authority asked. */
static void read_and_ask(const char *text) {
    expect_file(PATH);
    file(text);
    assert_int_equal(next(), AZRI_STEP_HTTP);
}

static void refuse(int aadsts) {
    char body[300];
    (void)snprintf(body, sizeof body, "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS%d: no.\",\"error_codes\":[%d]}",
                   aadsts, aadsts);
    answer(401, "", body);
}

static void good(void) { answer_token(bare_token, "\"expires_in\":3599"); }

static void expect_token(void) {
    assert_int_equal(next(), AZRI_STEP_DONE);
    if (flow.status != AZREDIS_OK) fail_msg("%s", flow.error.message);
    assert_string_equal(flow.user, "o");
}

/* The body of the request that is asked now. */
static const char *body(void) {
    static char text[70000];
    const char *end;
    assert_true(step.request.len < sizeof text);
    memcpy(text, step.request.ptr, step.request.len);
    text[step.request.len] = '\0';
    end = strstr(text, "\r\n\r\n");
    assert_non_null(end);
    return end + 4;
}

static void expect_body(const char *assertion) {
    char text[2000];
    (void)snprintf(text, sizeof text, "%s%s%s", HEAD, assertion, TAIL);
    assert_string_equal(body(), text);
}

static void no_options(const char *text) {
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
    if (!strstr(err.message, text)) fail_msg("'%s' is not in: %s", text, err.message);
}

/* ---- the request ---- */

static void test_request_bytes(void **state) {
    static const char first[] = "POST /" TENANT "/oauth2/v2.0/token HTTP/1.1\r\nHost: login.microsoftonline.com\r\n";
    (void)state;
    pod();
    begin();
    read_and_ask(jwt);
    assert_string_equal(step.where, "workload-identity");
    assert_string_equal(step.url.host, "login.microsoftonline.com");
    assert_true(step.url.tls && step.by_proxy && !step.name && !step.pin && step.ca.len == 0);
    assert_memory_equal(step.request.ptr, first, sizeof first - 1);
    expect_body(jwt);
    assert_int_equal(strlen(body()), 1012);
    assert_true(holds(step.request.ptr, step.request.len, "\r\nContent-Length: 1012\r\n"));
#ifndef AZREDIS_ONLY_PURE
    {
        unsigned char hash[32];
        char hex[65];
        size_t i;
        (void)SHA256((const unsigned char *)body(), 1012, hash);
        for (i = 0; i < 32; i++) (void)snprintf(hex + 2 * i, 3, "%02x", hash[i]);
        assert_string_equal(hex, "046d31bdadecd4b92f44c30917eac337b7290417571604bdf52e534873529395");
    }
#endif
    good();
    expect_token();
    assert_string_equal(flow.used, "workload-identity");
    finish();
}

static void test_scope(void **state) {
    (void)state;
    pod();
    opt.scope = "acca5fbb-b7e4-4009-81f1-37e38fd66d78";
    begin();
    read_and_ask("a.b.c");
    assert_non_null(strstr(body(), "&client_assertion=a.b.c&grant_type=client_credentials"
                           "&scope=acca5fbb-b7e4-4009-81f1-37e38fd66d78%2F.default"));
    good();
    finish();
}

/* ---- the file ---- */

/* c.7, row 14: read at each request, and nothing of it is kept. */
static void test_file_is_read_each_time(void **state) {
    (void)state;
    pod();
    begin();
    read_and_ask("J.J.J\n");
    expect_body("J.J.J");
    good();
    expect_token();
    azri_flow_start(&flow, &env, now);
    read_and_ask("K.K.K");
    expect_body("K.K.K");
    good();
    expect_token();
    finish();
}

static void test_trim(void **state) {
    static const char *const fine[] = { "a.b.c", "a.b.c\n", "a.b.c\r\n", " \t\r\n\v\fa.b.c \n\n", "\357\273\277a.b.c",
        "\xef\xbb\xbf\r\na.b.c\r\n" };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(fine); i++) {
        (void)start(NULL);
        pod();
        begin();
        read_and_ask(fine[i]);
        expect_body("a.b.c");
        good();
        finish();
    }
    pod();
    begin();
    read_and_ask("-_aZ09.--.__");
    expect_body("-_aZ09.--.__");
    good();
    finish();
}

static void test_bad_file(void **state) {
    static const char *const bad[] = { "a", "a.b", "a.b.c.d", ".b.c", "a..c", "a.b.", "..", "a.b.c=", "a.b.c+", "a.b.c/",
        "a.b.\nc", "a.b.c d", "\"a.b.c\"", "a.b.\xc3\xa9", "a.b.c\xef\xbb\xbf", "{\"a\":1}", "a.b.c&client_secret=x", "a.b.c%20" };
    static const char *const empty[] = { "", " ", "\n\r\n", "\xef\xbb\xbf", "\xef\xbb\xbf \n" };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad) + COUNT(empty) + 1; i++) {
        (void)start(NULL);
        pod();
        begin();
        expect_file(PATH);
        if (i < COUNT(bad)) file(bad[i]);
        else if (i < COUNT(bad) + COUNT(empty)) file(empty[i - COUNT(bad)]);
        else file_n("a.b\0.c", 6);
        expect_failed(AZREDIS_E_TOKEN, "workload-identity: the file " PATH);
        assert_non_null(strstr(flow.error.message, i >= COUNT(bad) && i < COUNT(bad) + COUNT(empty) ? "is empty" : "holds no JWT"));
        assert_string_equal(flow.records[0].outcome, "failed");
        finish();
    }
}

/* c.7, row 15: the environment claims that the file is there, so that this is no reason to ask another identity. */
static void test_file_is_missing(void **state) {
    azredis_error e;
    azri_buf text;
    (void)state;
    pod();
    opt.identity = AZREDIS_ID_DEFAULT;
    begin();
    expect_file(PATH);
    azri_buf_init(&text, &mem, step.file_max, 1);
    memset(&e, 0, sizeof e);
#ifdef AZREDIS_ONLY_PURE
    (void)azri_fail(&e, AZREDIS_E_NO_CREDENTIAL, step.where, "%s: cannot read the file %s: no such file", step.where, step.file);
#else
    assert_int_equal(azri_file_read(&text, step.file, step.directory, step.file_max, step.where, &e), AZREDIS_E_NO_CREDENTIAL);
    assert_int_equal(e.os_errno, 2);
#endif
    azri_buf_free(&text);
    azri_flow_text(&flow, now, e.code, azri_slice(NULL, 0), &e);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "workload-identity: cannot read the file " PATH ": ");
    assert_int_equal(flow.record_count, 2);
    assert_string_equal(flow.records[1].outcome, "failed");
    finish();
}

#ifndef AZREDIS_ONLY_PURE
/* Rows 14 and 15 and the cap with a file, by the function that the pump calls. */
static azredis_status read_file(const char *path, const char *text, size_t n, azri_buf *out, azredis_error *e) {
    FILE *f = text ? fopen(path, "w") : NULL;
    if (f) {
        assert_int_equal(fwrite(text, 1, n, f), n);
        assert_int_equal(fclose(f), 0);
    }
    memset(e, 0, sizeof *e);
    azri_buf_init(out, &mem, 65536, 1);
    return azri_file_read(out, path, NULL, 65536, "workload-identity", e);
}

static void test_file_of_the_system(void **state) {
    static char big[65537];
    char path[] = "/tmp/azredis_workload_XXXXXX";
    azredis_error e;
    azri_buf b;
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    (void)close(fd);
    memset(big, 'a', sizeof big);
    assert_int_equal(read_file(path, "J\n", 2, &b, &e), AZREDIS_OK);
    assert_memory_equal(b.ptr, "J\n", 2);
    azri_buf_free(&b);
    assert_int_equal(read_file(path, big, 65536, &b, &e), AZREDIS_OK);
    azri_buf_free(&b);
    assert_int_equal(read_file(path, big, 65537, &b, &e), AZREDIS_E_LIMIT);
    assert_non_null(strstr(e.message, "65536"));
    azri_buf_free(&b);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(read_file(path, NULL, 0, &b, &e), AZREDIS_E_NO_CREDENTIAL);
    assert_non_null(strstr(e.message, path));
    assert_int_equal(living, 0);
}
#endif

/* An assertion that the form has no room for. */
static void test_long_assertion(void **state) {
    static char big[65001];
    (void)state;
    memset(big, 'a', sizeof big - 1);
    big[2] = big[4] = '.';
    pod();
    begin();
    read_and_ask(big);
    good();
    expect_token();
    finish();
    memset(big, 'a', sizeof big - 1);
    pod();
    opt.federated_token_file = PATH;
    begin();
    expect_file(PATH);
    file(big);
    expect_failed(AZREDIS_E_TOKEN, "holds no JWT");
    finish();
}

/* ---- what it needs ---- */

static void test_lacks(void **state) {
    static const int name[3] = { AZRI_ENV_TENANT_ID, AZRI_ENV_CLIENT_ID, AZRI_ENV_FEDERATED_TOKEN_FILE };
    static const char *const value[3] = { TENANT, CLIENT, PATH };
    static const char *const option[3] = { "option tenant_id", "option client_id", "option federated_token_file" };
    int from, i, n;
    (void)state;
    for (from = 0; from < 27; from++) {                          /* each: nowhere, a variable, an option */
        const char *missing, *found;
        (void)start(NULL);
        for (i = 0, n = from; i < 3; i++, n /= 3) {
            if (n % 3 == 1) set_env(name[i], value[i]);
            if (n % 3 == 2) *(i == 0 ? &opt.tenant_id : i == 1 ? &opt.client_id : &opt.federated_token_file) = value[i];
        }
        opt.identity = AZREDIS_ID_WORKLOAD;
        begin();
        if (from % 3 && from / 3 % 3 && from / 9) {
            read_and_ask("a.b.c");
            expect_body("a.b.c");
            good();
            finish();
            continue;
        }
        expect_failed(AZREDIS_E_NO_CREDENTIAL, "workload-identity: ");
        assert_string_equal(flow.records[0].outcome, "unavailable");
        missing = strstr(flow.error.message, "missing");
        assert_non_null(missing);
        for (i = 0, n = from; i < 3; i++, n /= 3) {
            found = strstr(flow.error.message, n % 3 == 2 ? option[i] : azri_env_names[name[i]]);
            assert_non_null(found);
            assert_true((found < missing) == (n % 3 != 0));
            assert_null(strstr(flow.error.message, value[i]));
        }
        assert_non_null(strstr(flow.error.message, "azure.workload.identity/use"));
        finish();
    }
}

static void test_options_over_variables(void **state) {
    (void)state;
    pod();
    opt.tenant_id = "contoso.onmicrosoft.com";
    opt.client_id = "other";
    opt.federated_token_file = "/other";
    begin();
    expect_file("/other");
    file("a.b.c");
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_string_equal(step.url.path, "/contoso.onmicrosoft.com/oauth2/v2.0/token");
    assert_memory_equal(body(), "client_id=other&", 16);
    good();
    finish();
}

/* In the chain it stands behind the environment, wins, and is asked alone from then on. */
static void test_chain(void **state) {
    (void)state;
    pod();
    opt.identity = AZREDIS_ID_DEFAULT;
    begin();
    read_and_ask("a.b.c");
    good();
    expect_token();
    assert_int_equal(flow.record_count, 2);
    assert_string_equal(flow.records[0].name, "environment");
    assert_string_equal(flow.records[0].outcome, "unavailable");
    assert_string_equal(flow.records[1].name, "workload-identity");
    assert_string_equal(flow.records[1].outcome, "token");
    azri_flow_start(&flow, &env, now);
    read_and_ask("a.b.c");
    good();
    expect_token();
    assert_int_equal(flow.record_count, 1);
    finish();
    pod();                                                       /* refused: the walk ends */
    opt.identity = AZREDIS_ID_DEFAULT;
    begin();
    read_and_ask("a.b.c");
    refuse(700016);
    expect_failed(AZREDIS_E_ENTRA, "AADSTS700016");
    assert_int_equal(flow.record_count, 2);
    finish();
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, "WorkloadIdentityCredential");
    opt.identity = AZREDIS_ID_DEFAULT;
    begin();
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "workload-identity: missing AZURE_TENANT_ID");
    assert_int_equal(flow.record_count, 1);
    finish();
}

/* ---- refusals ---- */

static void test_stale_assertion(void **state) {
    static const int stale[] = { 700024, 50013, 500133 };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(stale); i++) {
        (void)start(NULL);
        pod();
        begin();
        read_and_ask("old.old.old");
        refuse(stale[i]);
        read_and_ask("new.new.new");                             /* at once, and with what the file holds now */
        expect_body("new.new.new");
        good();
        expect_token();
        assert_int_equal(flow.record_count, 1);
        azri_flow_start(&flow, &env, now);                       /* the next walk has its own try */
        read_and_ask("old.old.old");
        answer(400, "", "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS700024: Client assertion is not within\"}");
        read_and_ask("old.old.old");
        refuse(stale[i]);
        expect_failed(AZREDIS_E_ENTRA, "the token file");        /* once */
        assert_int_equal(flow.error.retryable, 0);
        finish();
    }
}

/* A federated credential that Entra does not know, or not yet: no try of this walk waits for it. */
static void test_no_credential_matches(void **state) {
    static const int code[] = { 70021, 700211, 700212, 700213, 7002137, 7002138 };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(code); i++) {
        (void)start(NULL);
        pod();
        begin();
        read_and_ask(jwt);
        refuse(code[i]);
        expect_failed(AZREDIS_E_ENTRA, "no federated credential");
        assert_int_equal(flow.error.aadsts, code[i]);
        assert_int_equal(flow.error.retryable, 0);
        finish();
    }
}

/* Passing trouble: the same question again, without the file. */
static void test_retries(void **state) {
    int i;
    (void)state;
    pod();
    begin();
    read_and_ask("a.b.c");
    for (i = 0; i < 3; i++) {
        answer(503, "", "");
        assert_int_equal(next(), AZRI_STEP_WAIT);
        now += step.wait_ms;
        assert_int_equal(next(), AZRI_STEP_HTTP);
        expect_body("a.b.c");
    }
    answer(503, "", "");
    expect_failed(AZREDIS_E_HTTP, "(try 4)");
    finish();
}

/* What the authority, or who stands before it, says back is not told on. */
static void test_echo(void **state) {
    char text[3000];
    (void)state;
    pod();
    begin();
    read_and_ask(jwt);
    (void)snprintf(text, sizeof text, "{\"error\":\"invalid_request\",\"error_description\":\"bad %.60s\"}", jwt + 100);
    answer(400, "", text);
    expect_failed(AZREDIS_E_ENTRA, "[hidden]");
    finish();
    pod();
    begin();
    read_and_ask(jwt);
    (void)snprintf(text, sizeof text, "proxy: <%.20s> is refused", jwt + 444);
    answer(403, "", text);
    expect_failed(AZREDIS_E_HTTP, "proxy: <[hidden]> is refused");
    finish();
}

static void test_injection(void **state) {
    static const char *const bad[] = { "a/../b", "a b", "a\r\nX: y", "a?b", "a#b", "a%2e", "..", "https://login", "\xc3\xa9" };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        (void)start(NULL);
        pod();
        set_env(AZRI_ENV_TENANT_ID, bad[i]);
        begin();
        expect_failed(AZREDIS_E_ARG, "workload-identity: the tenant id");
        finish();
        (void)start(NULL);
        pod();
        opt.tenant_id = bad[i];
        no_options("the tenant id");
        azri_env_free(&env, &mem);
        (void)start(NULL);
        pod();
        opt.scope = i == 0 || i == 7 ? "x y" : bad[i];
        no_options("scope");
        azri_env_free(&env, &mem);
        if (i == 0 || i == 7) continue;                          /* they are legal in a client id: application URIs */
        (void)start(NULL);
        pod();
        set_env(AZRI_ENV_CLIENT_ID, bad[i]);
        begin();
        expect_failed(AZREDIS_E_ARG, "workload-identity: the client id");
        finish();
    }
    pod();
    set_env(AZRI_ENV_CLIENT_ID, "https://contoso.com/app");
    begin();
    read_and_ask("a.b.c");
    assert_memory_equal(body(), "client_id=https%3A%2F%2Fcontoso.com%2Fapp&", 42);
    good();
    finish();
}

/* ---- the callback ---- */

static azredis_fetched got;
static char got_text[2000];

static azredis_status t_assertion(void *user, const char *scope, azredis_fetched *out) {
    (void)user; (void)scope; (void)out;
    return AZREDIS_OK;
}

static void caller(void) {
    opt.identity = AZREDIS_ID_CLIENT_ASSERTION;
    opt.tenant_id = TENANT;
    opt.client_id = CLIENT;
    opt.get_assertion = t_assertion;
    opt.get_assertion_user = &got;
}

static void give(const char *text) {
    memset(&got, 0, sizeof got);
    got.token = got_text;
    got.cap = sizeof got_text;
    got.len = strlen(text);
    memcpy(got_text, text, got.len);
    azri_step_free(&step);
    azri_flow_call(&flow, now, AZREDIS_OK, &got);
}

static void call(const char *text) {
    assert_int_equal(next(), AZRI_STEP_CALL);
    assert_true(step.call == t_assertion && step.call_user == &got && step.scope == NULL);
    give(text);
}

static void test_callback(void **state) {
    (void)state;
    caller();
    begin();
    call(jwt);
    assert_int_equal(next(), AZRI_STEP_HTTP);
    expect_body(jwt);
    assert_int_equal(strlen(body()), 1012);
    good();
    expect_token();
    assert_string_equal(flow.used, "client-assertion");
    azri_flow_start(&flow, &env, now);                           /* called for each token */
    call("x.y.z");
    assert_int_equal(next(), AZRI_STEP_HTTP);
    expect_body("x.y.z");
    refuse(700024);
    call("new.new.new");                                         /* and once more if it was stale */
    assert_int_equal(next(), AZRI_STEP_HTTP);
    expect_body("new.new.new");
    refuse(700024);
    expect_failed(AZREDIS_E_ENTRA, "AADSTS700024");
    finish();
}

static void test_callback_fails(void **state) {
    static const char *const bad[] = { "a", "a.b", "a.b.c.d", "a..c", "a.b.c\n", " a.b.c", "a.b.c=", "a.b.\001c", "a.b.c&x=y" };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        (void)start(NULL);
        caller();
        begin();
        call(bad[i]);                                            /* verbatim: nothing is trimmed */
        expect_failed(AZREDIS_E_TOKEN, "client-assertion: the callback wrote no assertion");
        finish();
    }
    caller();
    begin();
    call("");
    expect_failed(AZREDIS_E_TOKEN, "wrote nothing");
    finish();
    caller();
    begin();
    assert_int_equal(next(), AZRI_STEP_CALL);
    memset(&got, 0, sizeof got);
    (void)snprintf(got.reason, sizeof got.reason, "pipeline says 401 to %.50s", jwt);
    azri_step_free(&step);
    azri_flow_call(&flow, now, AZREDIS_E_NET, &got);
    expect_failed(AZREDIS_E_NET, "the callback failed: pipeline says 401 to [hidden]");
    finish();
    caller();
    opt.get_assertion = NULL;
    no_options("get_assertion");
}

/* ---- a managed identity as the application's federated credential ---- */

#define OTHER "bbbbbbbb-cccc-dddd-eeee-ffffffffffff"

static void machine(void) {
    opt.identity = AZREDIS_ID_MANAGED_APP;
    opt.tenant_id = TENANT;
    opt.client_id = CLIENT;
    opt.managed_client_id = OTHER;
}

/* The machine's endpoint is asked for its token in that name. */
static void expect_machine(const char *target) {
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_string_equal(step.url.path, target);
    assert_false(step.by_proxy);
    assert_string_equal(step.where, "managed-identity-app");
}

#define TARGET "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=api%3A%2F%2FAzureADTokenExchange"

static void test_machine(void **state) {
    int i;
    (void)state;
    machine();
    begin();
    for (i = 0; i < 3; i++) {                                    /* stale once; then a walk of its own: nothing is kept */
        expect_machine(TARGET "&client_id=" OTHER);
        assert_string_equal(step.url.host, "169.254.169.254");
        answer_token(jwt, "\"expires_in\":86400,\"client_id\":\"" OTHER "\"");
        assert_int_equal(next(), AZRI_STEP_HTTP);
        assert_string_equal(step.url.host, "login.microsoftonline.com");
        assert_string_equal(step.url.path, "/" TENANT "/oauth2/v2.0/token");
        assert_true(step.by_proxy && step.url.tls);
        expect_body(jwt);
        if (i == 0) {
            refuse(700024);
            continue;
        }
        answer_token(bare_token, "\"expires_in\":3599,\"client_id\":\"" CLIENT "\"");
        expect_token();
        assert_string_equal(flow.used, "managed-identity-app");
        assert_int_equal(flow.life_ms, 3599000);
        azri_flow_start(&flow, &env, now);
    }
    finish();
}

static void test_machine_of_a_cloud(void **state) {
    static const struct { const char *authority, *name; } row[] = {
        { "login.microsoftonline.com", "api%3A%2F%2FAzureADTokenExchange" }, { "login.windows.net", "api%3A%2F%2FAzureADTokenExchange" },
        { "login.partner.microsoftonline.cn", "api%3A%2F%2FAzureADTokenExchangeChina" },
        { "login.chinacloudapi.cn", "api%3A%2F%2FAzureADTokenExchangeChina" },
        { "LOGIN.microsoftonline.us", "api%3A%2F%2FAzureADTokenExchangeUSGov" },
        { "login.usgovcloudapi.net", "api%3A%2F%2FAzureADTokenExchangeUSGov" },
        { "login.sovcloud-identity.fr", "api%3A%2F%2FAzureADTokenExchange" }, { "localhost:1", "api%3A%2F%2FAzureADTokenExchange" },
    };
    char target[200];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        (void)start(NULL);
        machine();
        opt.authority_host = row[i].authority;
        opt.managed_client_id = NULL;
        opt.object_id = OTHER;
        begin();
        (void)snprintf(target, sizeof target, "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=%s&object_id=" OTHER,
                       row[i].name);
        expect_machine(target);
        answer_token("a.b.c", "\"expires_in\":86400");
        assert_int_equal(next(), AZRI_STEP_HTTP);
        assert_true(azri_eqz(azri_str(step.url.host), row[i].authority) || i + 1 == COUNT(row));
        expect_body("a.b.c");
        good();
        expect_token();
        finish();
    }
}

/* Azure Arc proves itself first; then as anywhere else. */
static void test_machine_of_arc(void **state) {
    (void)state;
    machine();
    set_env(AZRI_ENV_IDENTITY_ENDPOINT, "http://127.0.0.1:40342/metadata/identity/oauth2/token");
    set_env(AZRI_ENV_IMDS_ENDPOINT, "http://127.0.0.1:40342");
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(401, "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a1.key\r\n", "");
    assert_int_equal(next(), AZRI_STEP_FILE);
    assert_string_equal(step.file, "a1.key");
    file("key");
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_true(holds(step.request.ptr, step.request.len, "\r\nAuthorization: Basic key\r\n"));
    answer_token(jwt, "\"expires_in\":86400,\"client_id\":\"" OTHER "\"");
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_false(holds(step.request.ptr, step.request.len, "Authorization"));
    expect_body(jwt);
    good();
    expect_token();
    finish();
}

static void test_machine_fails(void **state) {
    (void)state;
    machine();
    begin();
    expect_machine(TARGET "&client_id=" OTHER);
    answer(400, "", "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}");
    expect_failed(AZREDIS_E_ENTRA, "managed-identity-app: IMDS at 169.254.169.254:80 answered HTTP 400");
    finish();
    machine();
    begin();
    expect_machine(TARGET "&client_id=" OTHER);
    answer_token("opaque", "\"expires_in\":86400");
    expect_failed(AZREDIS_E_TOKEN, "is no JWT");
    finish();
    machine();
    begin();
    expect_machine(TARGET "&client_id=" OTHER);
    answer_token(jwt, "\"expires_in\":86400,\"client_id\":\"" CLIENT "\"");
    expect_failed(AZREDIS_E_TOKEN, "of another identity");
    finish();
    machine();
    begin();
    expect_machine(TARGET "&client_id=" OTHER);
    answer_token(jwt, "\"expires_in\":86400");
    assert_int_equal(next(), AZRI_STEP_HTTP);
    refuse(700213);
    expect_failed(AZREDIS_E_ENTRA, "no federated credential");
    finish();
}

/* Passing trouble of either endpoint is tried again there. */
static void test_machine_retries(void **state) {
    (void)state;
    machine();
    begin();
    expect_machine(TARGET "&client_id=" OTHER);
    answer(410, "", "");
    assert_int_equal(next(), AZRI_STEP_WAIT);
    assert_int_equal(step.wait_ms, 10000);
    now += step.wait_ms;
    expect_machine(TARGET "&client_id=" OTHER);
    answer_token(jwt, "\"expires_in\":86400");
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(503, "", "");
    assert_int_equal(next(), AZRI_STEP_WAIT);
    assert_in_range(step.wait_ms, 560, 1040);
    now += step.wait_ms;
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_string_equal(step.url.host, "login.microsoftonline.com");
    expect_body(jwt);
    good();
    expect_token();
    finish();
}

static void test_machine_options(void **state) {
    (void)state;
    machine();
    opt.managed_client_id = NULL;
    no_options("needs a user-assigned identity");
    opt.managed_client_id = OTHER;
    opt.object_id = OTHER;
    no_options("give one");
    opt.object_id = NULL;
    opt.managed_client_id = "a b";
    no_options("client id");
    opt.managed_client_id = OTHER;
    opt.client_id = NULL;
    no_options("client_id");
    machine();
    opt.tenant_id = NULL;
    no_options("tenant_id");
    machine();                                                   /* it may not be chosen there */
    set_env(AZRI_ENV_MSI_ENDPOINT, "http://localhost:50342/oauth2/token");
    begin();
    expect_failed(AZREDIS_E_ARG, "Cloud Shell cannot be asked for an identity by its client id");
    finish();
    machine();                                                   /* a wrong authority is told before IMDS is asked */
    set_env(AZRI_ENV_AUTHORITY_HOST, "https://evil.example");
    begin();
    expect_failed(AZREDIS_E_ARG, "AZURE_AUTHORITY_HOST");
    finish();
    machine();
    opt.managed_client_id = NULL;
    opt.resource_id = "/subscriptions/s/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/my id";
    begin();
    expect_machine(TARGET "&msi_res_id=%2Fsubscriptions%2Fs%2Fresourcegroups%2Frg%2Fproviders%2FMicrosoft.ManagedIdentity"
                   "%2FuserAssignedIdentities%2Fmy%20id");
    answer(500, "", "");
    finish();
}

/* ---- the token proxy of an AKS identity binding ---- */

static void test_proxy(void **state) {
    static const char first[] = "POST /binding/" TENANT "/oauth2/v2.0/token HTTP/1.1\r\nHost: kubernetes.default.svc:6443\r\n";
    int i;
    (void)state;
    binding();
    begin();
    for (i = 0; i < 2; i++) {
        expect_file(PATH);
        file("a.b.c\n");
        expect_file("/ca.crt");
        file(PEM);
        assert_int_equal(next(), AZRI_STEP_HTTP);
        assert_string_equal(step.url.host, "kubernetes.default.svc");
        assert_int_equal(step.url.port, 6443);
        assert_true(step.url.tls);
        assert_false(step.by_proxy);
        assert_string_equal(step.name, "a1b2.ests.aks");
        assert_int_equal(step.ca.len, strlen(PEM));
        assert_memory_equal(step.ca.ptr, PEM, strlen(PEM));
        assert_memory_equal(step.request.ptr, first, sizeof first - 1);
        expect_body("a.b.c");
        if (i == 0) refuse(700024);                              /* stale: both files are read anew */
    }
    good();
    expect_token();
    azri_flow_start(&flow, &env, now);
    expect_file(PATH);
    finish();
}

static void test_proxy_of_fewer_variables(void **state) {
    (void)state;
    binding();
    set_env(AZRI_ENV_TOKEN_PROXY_SNI, NULL);
    set_env(AZRI_ENV_TOKEN_PROXY_CA_FILE, NULL);
    begin();
    read_and_ask("a.b.c");                                       /* neither: the roots of the auth, the URL's host */
    assert_null(step.name);
    assert_int_equal(step.ca.len, 0);
    assert_string_equal(step.url.host, "kubernetes.default.svc");
    good();
    finish();
    binding();
    set_env(AZRI_ENV_TOKEN_PROXY_CA_FILE, NULL);
    set_env(AZRI_ENV_TOKEN_PROXY_CA_DATA, PEM);
    begin();
    read_and_ask("a.b.c");
    assert_int_equal(step.ca.len, strlen(PEM));
    assert_memory_equal(step.ca.ptr, PEM, strlen(PEM));
    good();
    finish();
}

static void test_proxy_path(void **state) {
    static const struct { const char *url, *path; } row[] = {
        { "https://p", "/" TENANT "/oauth2/v2.0/token" }, { "https://p/", "/" TENANT "/oauth2/v2.0/token" },
        { "https://p/a", "/a/" TENANT "/oauth2/v2.0/token" }, { "https://p/a/b/", "/a/b/" TENANT "/oauth2/v2.0/token" },
        { "HTTPS://p:1/a", "/a/" TENANT "/oauth2/v2.0/token" },
    };
    char longest[1100];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        (void)start(NULL);
        binding();
        set_env(AZRI_ENV_TOKEN_PROXY, row[i].url);
        set_env(AZRI_ENV_TOKEN_PROXY_CA_FILE, NULL);
        begin();
        read_and_ask("a.b.c");
        assert_string_equal(step.url.path, row[i].path);
        good();
        finish();
    }
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "https://p/", 10);
    longest[1000] = '\0';
    binding();
    set_env(AZRI_ENV_TOKEN_PROXY, longest);
    set_env(AZRI_ENV_TOKEN_PROXY_CA_FILE, NULL);
    begin();
    expect_file(PATH);
    file("a.b.c");
    expect_failed(AZREDIS_E_ARG, "too long");
    finish();
}

/* Each is an error before a file or a socket is opened. */
static void test_proxy_rules(void **state) {
    static const struct { int which; const char *value, *says; } row[] = {
        { AZRI_ENV_TOKEN_PROXY, "http://p/", "must be https" }, { AZRI_ENV_TOKEN_PROXY, "p.example", "does not begin with http" },
        { AZRI_ENV_TOKEN_PROXY, "https://u:secret@p/", "'@'" }, { AZRI_ENV_TOKEN_PROXY, "https://p/?a=b", "query" },
        { AZRI_ENV_TOKEN_PROXY, "https://p?a", "query" }, { AZRI_ENV_TOKEN_PROXY, "https://p/#f", "fragment" },
        { AZRI_ENV_TOKEN_PROXY, "https://", "empty" }, { AZRI_ENV_TOKEN_PROXY, "https://p:0/", "port" },
        { AZRI_ENV_TOKEN_PROXY, "https://p/a\r\nX: y", "control" }, { AZRI_ENV_TOKEN_PROXY, "https://p/a b", "blank" },
        { AZRI_ENV_TOKEN_PROXY, "https://p\r\n/", "host name" }, { AZRI_ENV_TOKEN_PROXY, "ftp://p/", "http" },
        { AZRI_ENV_TOKEN_PROXY, NULL, "is not set" },
        { AZRI_ENV_TOKEN_PROXY_CA_DATA, PEM, "set one of them" },
        { AZRI_ENV_TOKEN_PROXY_SNI, "a b", "no host name" }, { AZRI_ENV_TOKEN_PROXY_SNI, "a\r\nb", "no host name" },
        { AZRI_ENV_TOKEN_PROXY_SNI, "https://a", "no host name" }, { AZRI_ENV_TOKEN_PROXY_SNI, "*.b", "no host name" },
        { AZRI_ENV_TOKEN_PROXY_SNI, "..", "no host name" },
    };
    static const int lone[] = { AZRI_ENV_TOKEN_PROXY_CA_FILE, AZRI_ENV_TOKEN_PROXY_CA_DATA, AZRI_ENV_TOKEN_PROXY_SNI };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        (void)start(NULL);
        binding();
        set_env(row[i].which, row[i].value);
        begin();
        expect_failed(AZREDIS_E_ARG, row[i].says);
        assert_non_null(strstr(flow.error.message, azri_env_names[row[i].which]));
        assert_null(strstr(flow.error.message, "secret@"));
        assert_int_equal(flow.error.retryable, 0);
        finish();
    }
    binding();
    set_env(AZRI_ENV_TOKEN_PROXY_CA_FILE, NULL);
    set_env(AZRI_ENV_TOKEN_PROXY_CA_DATA, "no certificate");
    begin();
    expect_failed(AZREDIS_E_ARG, "AZURE_KUBERNETES_CA_DATA: it holds no certificate");
    finish();
    for (i = 0; i < COUNT(lone); i++) {                          /* any of them without a proxy */
        pod();
        opt.kubernetes_proxy = 1;
        set_env(lone[i], PEM);
        begin();
        expect_failed(AZREDIS_E_ARG, "AZURE_KUBERNETES_TOKEN_PROXY: it is not set");
        finish();
    }
}

/* Only by its option, and never through the chain. */
static void test_proxy_is_asked_for(void **state) {
    (void)state;
    binding();
    opt.kubernetes_proxy = 0;
    begin();
    read_and_ask("a.b.c");
    assert_string_equal(step.url.host, "login.microsoftonline.com");
    good();
    finish();
    pod();
    opt.kubernetes_proxy = 1;                                    /* the option, and no variable: the feature is off */
    begin();
    read_and_ask("a.b.c");
    assert_string_equal(step.url.host, "login.microsoftonline.com");
    good();
    finish();
    opt.identity = AZREDIS_ID_DEFAULT;
    no_options("kubernetes_proxy");
    opt.identity = AZREDIS_ID_ENVIRONMENT;
    no_options("kubernetes_proxy");
}

/* The option proxy is not for it, so that HTTPS_PROXY is no reason to set it. */
static void test_proxy_is_unreachable(void **state) {
    azredis_error e;
    int bound;
    (void)state;
    for (bound = 0; bound < 2; bound++) {
        memset(&e, 0, sizeof e);
        (void)azri_fail(&e, AZREDIS_E_DNS, "connect.dns", "connect: no such name");
        binding();
        opt.kubernetes_proxy = bound;
        opt.chain_ms = 500;                                      /* one try */
        set_env(AZRI_ENV_HTTPS_PROXY, "http://elsewhere:1");
        begin();
        expect_file(PATH);
        file("a.b.c\n");
        if (bound) expect_file("/ca.crt");
        if (bound) file(PEM);
        assert_int_equal(next(), AZRI_STEP_HTTP);
        azri_step_free(&step);
        azri_flow_http(&flow, now, AZREDIS_E_DNS, NULL, &e);
        expect_failed(AZREDIS_E_DNS, "no such name");
        assert_int_equal(strstr(flow.error.message, "option proxy") == NULL, bound);
        finish();
    }
}

/* Mid-rotation: a file without roots passes, or ends the walk; roots of before are not taken instead. */
static void test_proxy_roots_rotate(void **state) {
    int i;
    (void)state;
    binding();
    begin();
    expect_file(PATH);
    file("a.b.c");
    for (i = 0; i < 2; i++) {
        expect_file("/ca.crt");
        file(i ? "-----BEGIN CERT" : "");
        assert_int_equal(next(), AZRI_STEP_WAIT);
        now += step.wait_ms;
    }
    expect_file("/ca.crt");
    file("# new\n" PEM);
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_int_equal(step.ca.len, 6 + strlen(PEM));
    good();
    expect_token();
    azri_flow_start(&flow, &env, now);
    expect_file(PATH);
    file("a.b.c");
    for (i = 0; i < 3; i++) {
        expect_file("/ca.crt");
        file("");
        assert_int_equal(next(), AZRI_STEP_WAIT);
        now += step.wait_ms;
    }
    expect_file("/ca.crt");
    file("");
    expect_failed(AZREDIS_E_CERT, "AZURE_KUBERNETES_CA_FILE: /ca.crt holds no certificate in PEM (try 4)");
    assert_int_equal(flow.error.retryable, 1);
    finish();
}

/* ---- clouds ---- */

/* Table 10.1 of the wire specification. */
static void test_clouds(void **state) {
    static const struct { const char *redis, *authority; } row[] = {
        { "c.redis.cache.windows.net", "login.microsoftonline.com" }, { "c.weu.redis.azure.net", "login.microsoftonline.com" },
        { "c.weu.redisenterprise.cache.azure.net", "login.microsoftonline.com" },
        { "c.redis.cache.chinacloudapi.cn", "login.partner.microsoftonline.cn" },
        { "c.chinanorth3.redis.chinacloudapi.cn", "login.partner.microsoftonline.cn" },
        { "C.REDIS.CACHE.CHINACLOUDAPI.CN", "login.partner.microsoftonline.cn" },
        { "c.redis.cache.usgovcloudapi.net", "login.microsoftonline.us" },
        { "c.usgovvirginia.redis.usgovcloudapi.net", "login.microsoftonline.us" },
        { "c.redis.cache.sovcloud-api.fr", "login.sovcloud-identity.fr" }, { "c.x.redis.sovcloud-api.fr", "login.sovcloud-identity.fr" },
        { "c.redis.cache.sovcloud-api.de", "login.sovcloud-identity.de" }, { "c.x.redis.sovcloud-api.de", "login.sovcloud-identity.de" },
        { "", "login.microsoftonline.com" }, { "localhost", "login.microsoftonline.com" }, { "10.0.0.4", "login.microsoftonline.com" },
        { "/run/redis.sock", "login.microsoftonline.com" }, { ".chinacloudapi.cn", "login.microsoftonline.com" },
        { "c.redis.chinacloudapi.cn.evil.example", "login.microsoftonline.com" },
        { "evilchinacloudapi.cn", "login.microsoftonline.com" }, { "c.chinacloudapi.cn.", "login.microsoftonline.com" },
    };
    size_t i, k;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        assert_string_equal(azri_identity_authority_of(row[i].redis), row[i].authority);
        assert_true(azri_identity_authority_find(azri_str(row[i].authority)) != NULL);
        for (k = 0; k < 3; k++) {                                /* a variable counts more, and an option most */
            (void)start(NULL);
            pod();
            if (k >= 1) set_env(AZRI_ENV_AUTHORITY_HOST, "https://login.sovcloud-identity.sg/");
            if (k >= 2) opt.authority_host = "login.microsoftonline.us";
            begin();
            flow.cloud = azri_identity_authority_of(row[i].redis);
            read_and_ask("a.b.c");
            assert_string_equal(step.url.host, k == 0 ? row[i].authority : k == 1 ? "login.sovcloud-identity.sg"
                                : "login.microsoftonline.us");
            good();
            finish();
        }
    }
}

#ifndef AZREDIS_ONLY_PURE
/* azredis_open knows the Redis host, and the auth that it makes has its cloud; one that stands alone does not. */
static void test_cloud_of_a_client(void **state) {
    azredis_options o;
    azredis_client *c;
    azredis_auth *a;
    (void)state;
    pod();
    memset(&o, 0, sizeof o);
    o.host = "c.redis.usgovcloudapi.net:10000";
    o.identity = &opt;
    c = azredis_open(&o);
    assert_string_equal(c->auth->cloud, "login.microsoftonline.us");
    azredis_close(c);
    a = azredis_auth_open(&opt);
    assert_string_equal(a->cloud, "login.microsoftonline.com");
    azredis_auth_release(a);
    azri_env_free(&env, &mem);
}
#endif

/* c.7, row 26: an error of the options before anything is asked, and so before a socket is opened. */
static void test_wrong_authority(void **state) {
    static const char *const bad[] = { "http://login.microsoftonline.com", "https://u@login.microsoftonline.com", "https://evil.example",
        "https://login.microsoftonline.com.evil.example", "https://login.microsoftonline.com/x" };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        (void)start(NULL);
        pod();
        set_env(AZRI_ENV_AUTHORITY_HOST, bad[i]);
        begin();
        expect_failed(AZREDIS_E_ARG, "AZURE_AUTHORITY_HOST");
        finish();
        (void)start(NULL);
        pod();
        opt.authority_host = bad[i];
        no_options("options.authority_host");
        azri_env_free(&env, &mem);
    }
}

/* ---- cut answers, memory ---- */

static void cut(int status, const char *text, int proxied) {
    char all[1000];
    size_t n = (size_t)snprintf(all, sizeof all, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(text), text), i;
    for (i = 0; i <= n; i++) {
        (void)start(NULL);
        if (proxied) binding();
        else pod();
        begin();
        expect_file(PATH);
        file(jwt);
        if (proxied) {
            expect_file("/ca.crt");
            file(PEM);
        }
        assert_int_equal(next(), AZRI_STEP_HTTP);
        raw_answer(all, i, 0);
        assert_true((flow.status == AZREDIS_OK) == (status == 200 && i == n));
        finish();
    }
}

static void test_truncated(void **state) {
    char text[300];
    (void)state;
    (void)snprintf(text, sizeof text, "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"%s\"}", bare_token);
    cut(200, text, 0);
    cut(200, text, 1);
    cut(401, "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS700024: x\",\"error_codes\":[700024]}", 0);
    cut(400, "{\"error\":\"invalid_request\",\"error_description\":\"AADSTS700211: x\",\"error_codes\":[700211]}", 0);
}

/* Every allocation fails in turn: workload identity through the proxy, the callback, the machine; each with a stale
 * first try. */
static int walk_without_memory(void) {
    int stale = 1;
    for (;;) {
        switch (next()) {
        case AZRI_STEP_FILE: file(azri_eqz(azri_str(step.file), PATH) ? jwt : PEM); break;
        case AZRI_STEP_CALL: give(jwt); break;
        case AZRI_STEP_HTTP:
            if (!step.url.tls) {
                answer_token(jwt, "\"expires_in\":86400");
                break;
            }
            if (stale) refuse(700024);
            else good();
            stale = 0;
            break;
        case AZRI_STEP_WAIT: now += step.wait_ms; break;
        default: return flow.status == AZREDIS_OK;
        }
    }
}

static void test_no_memory(void **state) {
    static void (*const arrange[])(void) = { binding, caller, machine };
    size_t i;
    int k, done;
    (void)state;
    for (i = 0; i < COUNT(arrange); i++)
        for (k = done = 0; !done; k++) {
            assert_true(k < 100);
            (void)start(NULL);
            arrange[i]();
            allow = k;
            if (azri_identity_conf_copy(&conf, &mem, &opt, &err) != AZREDIS_OK) {
                assert_int_equal(err.code, AZREDIS_E_NOMEM);
                azri_env_free(&env, &mem);
                assert_int_equal(living, 0);
                continue;
            }
            azri_flow_init(&flow, &mem, &conf, &rng);
            azri_flow_start(&flow, &env, now);
            done = walk_without_memory();
            if (!done && flow.error.code != AZREDIS_E_NOMEM) fail_msg("%d: %s", k, flow.error.message);
            allow = -1;
            finish();
        }
}

#define T(f) cmocka_unit_test_setup(f, start)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_request_bytes), T(test_scope), T(test_file_is_read_each_time), T(test_trim), T(test_bad_file), T(test_file_is_missing),
#ifndef AZREDIS_ONLY_PURE
        T(test_file_of_the_system), T(test_cloud_of_a_client),
#endif
        T(test_long_assertion), T(test_lacks), T(test_options_over_variables), T(test_chain), T(test_stale_assertion),
        T(test_no_credential_matches), T(test_retries), T(test_echo), T(test_injection), T(test_callback), T(test_callback_fails),
        T(test_machine), T(test_machine_of_a_cloud), T(test_machine_of_arc), T(test_machine_fails), T(test_machine_retries),
        T(test_machine_options), T(test_proxy), T(test_proxy_of_fewer_variables), T(test_proxy_path), T(test_proxy_rules),
        T(test_proxy_is_asked_for), T(test_proxy_is_unreachable),
        T(test_proxy_roots_rotate), T(test_clouds), T(test_wrong_authority), T(test_truncated), T(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
