/* An application's certificate: the assertion byte for byte, the files that it is made from, the clock, the environment;
 * these tests play the file system, the key and the authority. Vectors c.1 and c.2 and row 13 of c.7 are those of the wire
 * specification. With mbedTLS the key of c.1 signs itself, and OpenSSL verifies. */
#include "flow.h"
#ifndef AZREDIS_ONLY_PURE
#  include <openssl/pem.h>
#  include <openssl/x509.h>
#endif

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define PATH     "/etc/app/app.pem"
#define PASSWORD "correct horse; battery staple"
#define JTI      "01234567-89ab-4cde-8f01-23456789abcd"
#define TEST_KEY "tests/data/test_key.pem"

/* c.2: what is signed, and the signatures over it. */
#define CLAIMS \
    "eyJhdWQiOiJodHRwczovL2xvZ2luLm1pY3Jvc29mdG9ubGluZS5jb20vMTExMTExMTEtMjIyMi0zMzMzLTQ0NDQtNTU1NTU1NTU1NTU1L29hdXRoMi92" \
    "Mi4wL3Rva2VuIiwiZXhwIjoxODAwMDAwNjAwLCJpc3MiOiJhYWFhYWFhYS1iYmJiLWNjY2MtZGRkZC1lZWVlZWVlZWVlZWUiLCJqdGkiOiIwMTIzNDU2" \
    "Ny04OWFiLTRjZGUtOGYwMS0yMzQ1Njc4OWFiY2QiLCJuYmYiOjE4MDAwMDAwMDAsInN1YiI6ImFhYWFhYWFhLWJiYmItY2NjYy1kZGRkLWVlZWVlZWVl" \
    "ZWVlZSJ9"
static const char *const signed_text[2] = {
    "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCIsIng1dCNTMjU2IjoidlhfWC1Ka1RvYkdyWHFkQTA3bEFxSGZQOUFrVFF6NDFwQ2lvUGswSlZtbyJ9." CLAIMS,
    "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsIng1dCI6IlZJaC1FdVA1SzV6blF2MUdLb2Q4dHRRMXRfbyJ9." CLAIMS };
static const char *const signature_text[2] = {
    "e3FS1JH1sl3CrkFK0sfmVFzLNA5dqMemtPRyf8djc_nUYNqjX6877aOsHUAkW8_QzP9xF4I4j1nT2G6x-lRdtYG0UNJA6S5WEL_eKewswL2Zw3Hx8-G4"
    "A2zWNQ-VSFSnllQGz__G8-9-gNwTvsCXcZNF8vhEVAyi8_7xZC2FzHYQb8PZ4Dhr5VJDLAkmvsdXOnbaKwQcIRDJeCvPjJgT24RDY0vaPfrX-Z2OaJ79"
    "indIWb0j_XgldfO1cpiJ2_Uq4iCP8XLPa13HCvjto25HaoLqiPDGUBDkJJz5mPiX1ijB_8aKAIB1DjFnChTjpZxTnt4LMJNgLgmrWcofQf6M4Q",
    "eUNqsnxfZgk5Ilj7Tj_hhGfjzgbwkSLqzcLyjs9G-0aiIt6W0NoGLGfxiUzNOYwDjVvHRIeA7U1ddW5e--xr0kf844yKadGdJLlGOGyga2EUMJACrF_-"
    "ybji10Xf4ZcXFKSuIkGHMnb5ZVH-IJe36gwPGaroXQ-VdP8ZOcxFznxlfOjO5FGmrgKAuyFKtrWxmaguqu4qWM5gmda0zJ1DIrRTZrrDDv1JZ9K2ujqu"
    "QpQliWyUJthDOZUuSmcbv0z33jhwgzLOlqE3Mb3gNg2skLQcKwfgNhOtWqL9EJRDYblnP2cjbDZi7W8sMRxregevnH0PK66qbAZ_bw255H7cQA" };

/* c.1 */
static const char sha1_hex[] = "54887E12E3F92B9CE742FD462A877CB6D435B7FA",
    sha256_hex[] = "BD7FD7F89913A1B1AB5EA740D3B940A877CFF40913433E35A428A83E4D09566A";
static char pem[8192], base64[1024], der[1024], chain[4096], print[2][32], signature[2][256];
static size_t pem_len, der_len, chain_len;

static void from_hex(const char *hex, char *out) {
    for (; *hex; hex += 2) *out++ = (char)(azri_hex(hex[0]) * 16 + azri_hex(hex[1]));
}

static void add_to_chain(const char *p, size_t n) {
    chain[chain_len] = chain[chain_len + 1] = 0;
    chain[chain_len + 2] = (char)(n >> 8);
    chain[chain_len + 3] = (char)(n & 0xff);
    memcpy(chain + chain_len + 4, p, n);
    chain_len += 4 + n;
}

static int group(void **state) {
    FILE *f = fopen(TEST_KEY, "r");
    const char *at;
    size_t n = 0;
    int i;
    (void)state;
    if (!f) return -1;
    pem_len = fread(pem, 1, sizeof pem - 1, f);
    (void)fclose(f);
    at = strstr(pem, "-----BEGIN CERTIFICATE-----");
    if (!at) return -1;
    for (at += 27; *at != '-'; at++)
        if (*at != '\n') base64[n++] = *at;
    if (n != 912 || !azri_b64_decode(azri_slice(base64, n), "+/", der, &der_len) || der_len != 683) return -1;
    add_to_chain(der, der_len);
    from_hex(sha256_hex, print[0]);
    from_hex(sha1_hex, print[1]);
    for (i = 0; i < 2; i++)
        if (!azri_b64url_decode(azri_str(signature_text[i]), signature[i], &n) || n != 256) return -1;
    return 0;
}

static int start(void **state) {
    (void)setup(state);
    also_secret[0] = PASSWORD;
    also_secret[1] = "qetokPNOBqDSj+ts";                         /* a piece of the test key */
    also_secret[2] = "e3FS1JH1sl3CrkFK0s";                       /* and of the signature in an assertion */
    return 0;
}

/* ---- the assertion ---- */

static azri_url login(void) {
    azri_url u;
    memset(&u, 0, sizeof u);
    u.tls = 1;
    u.port = 443;
    azri_copy(u.host, sizeof u.host, "login.microsoftonline.com");
    azri_copy(u.path, sizeof u.path, "/" TENANT "/oauth2/v2.0/token");
    return u;
}

static azri_assertion vector(int rs256, const azri_url *u) {
    azri_assertion a;
    memset(&a, 0, sizeof a);
    a.rs256 = rs256;
    a.print = azri_slice(print[rs256], rs256 ? 20 : 32);
    a.aud = u;
    a.client = CLIENT;
    a.id = JTI;
    a.now = START;
    return a;
}

/* c.2: header and claims byte for byte. */
static void test_vectors(void **state) {
    azri_url u = login();
    azri_assertion a;
    azri_buf out;
    int i;
    (void)state;
    for (i = 0; i < 2; i++) {
        a = vector(i, &u);
        azri_buf_init(&out, &mem, 4096, 1);
        assert_int_equal(azri_certificate_compose(&out, &a), AZREDIS_OK);
        assert_int_equal(out.len, strlen(signed_text[i]));
        assert_memory_equal(out.ptr, signed_text[i], out.len);
        azri_buf_free(&out);
    }
    assert_int_equal(living, 0);
}

/* One part of a JWT, decoded. */
static const char *part(azredis_str text, int which) {
    static char out[2][8192];
    size_t n = 0;
    while (which-- > 0) {
        size_t dot = azri_find(text, '.');
        text = azri_slice(text.ptr + dot + 1, text.len - dot - 1);
        n++;
    }
    text.len = azri_find(text, '.');
    which = (int)n;
    assert_true(text.len < sizeof out[0]);
    assert_true(azri_b64url_decode(text, out[which], &n));
    out[which][n] = '\0';
    return out[which];
}

/* c.1: x5c, standard base64, the leaf first. */
static void test_chain(void **state) {
    azri_url u = login();
    azri_assertion a = vector(0, &u);
    azri_buf out;
    char want[4000];
    size_t one = chain_len;
    (void)state;
    add_to_chain("\xfb\xff\xfe", 3);
    azri_buf_init(&out, &mem, 8192, 1);
    a.chain = azri_slice(chain, chain_len);
    assert_int_equal(azri_certificate_compose(&out, &a), AZREDIS_OK);
    (void)snprintf(want, sizeof want, "{\"alg\":\"PS256\",\"typ\":\"JWT\",\"x5t#S256\":\"vX_X-JkTobGrXqdA07lAqHfP9AkTQz41pCioPk0JVmo\","
                   "\"x5c\":[\"%s\",\"+//+\"]}", base64);
    assert_string_equal(part(azri_slice(out.ptr, out.len), 0), want);
    azri_buf_free(&out);
    chain_len = one;
    a.chain = azri_slice(chain, chain_len);
    azri_buf_init(&out, &mem, 8192, 1);
    assert_int_equal(azri_certificate_compose(&out, &a), AZREDIS_OK);
    (void)snprintf(want, sizeof want, "o\",\"x5c\":[\"%s\"]}", base64);
    assert_non_null(strstr(part(azri_slice(out.ptr, out.len), 0), want));
    azri_buf_free(&out);
    assert_int_equal(living, 0);
}

/* ---- a walk ---- */

static void service(void) {
    opt.identity = AZREDIS_ID_CLIENT_CERTIFICATE;
    opt.tenant_id = TENANT;
    opt.client_id = CLIENT;
    opt.certificate_file = PATH;
    opt.certificate_password = PASSWORD;
}

static void variables(const char *secret) {
    set_env(AZRI_ENV_TENANT_ID, TENANT);
    set_env(AZRI_ENV_CLIENT_ID, CLIENT);
    if (secret) set_env(AZRI_ENV_CLIENT_SECRET, secret);
    set_env(AZRI_ENV_CERTIFICATE_PATH, PATH);
    opt.identity = AZREDIS_ID_ENVIRONMENT;
}

static azri_step_kind next_at(int64_t unix_now) {
    azri_step_free(&step);
    return azri_flow_next(&flow, now, unix_now, &step);
}

static void expect_file(const char *path) {
    assert_int_equal(next(), AZRI_STEP_FILE);
    assert_string_equal(step.file, path);
    assert_null(step.directory);
    assert_int_equal(step.file_max, 131072);
}

static void file(const char *text) {
    azri_step_free(&step);
    azri_flow_text(&flow, now, AZREDIS_OK, azri_str(text), NULL);
}

static void no_file(const char *path) {
    azredis_error e;
    memset(&e, 0, sizeof e);
    (void)azri_fail(&e, AZREDIS_E_NO_CREDENTIAL, step.where, "%s: cannot read the file %s: no such file", step.where, path);
    azri_step_free(&step);
    azri_flow_text(&flow, now, e.code, azri_slice(NULL, 0), &e);
}

static int equals(azredis_str s, const char *z) { return azri_eqz(s, z); }

/* What >>fetch does when certificate and key can be read. */
static void sign(void) {
    assert_int_equal(flow.asks, AZRI_STEP_SIGN);
    assert_int_equal(azri_certificate_write(&flow, &step, azri_slice(chain, chain_len),
                                            azri_slice(print[step.rs256], step.rs256 ? 20 : 32)), AZREDIS_OK);
    azri_step_free(&step);
    azri_flow_text(&flow, now, AZREDIS_OK, azri_slice(signature[0], 256), &flow.error);
}

/* And when they cannot. */
static void cannot(azredis_status st, const char *why) {
    assert_int_equal(flow.asks, AZRI_STEP_SIGN);
    (void)azri_fail(&flow.error, st, "certificate", "certificate: %s", why);
    azri_step_free(&step);
    azri_flow_text(&flow, now, st, azri_slice(NULL, 0), &flow.error);
}

static void expect_sign(const char *certificate, const char *key) {
    assert_int_equal(next(), AZRI_STEP_SIGN);
    assert_true(equals(step.certificate, certificate));
    assert_true(equals(step.key, key));
}

/* The assertion in the request that is asked now. */
static azredis_str assertion(void) {
    static const char name[] = "&client_assertion=";
    azredis_str s = azri_slice(step.request.ptr, step.request.len);
    size_t i;
    for (i = 0; i + sizeof name < s.len && memcmp(s.ptr + i, name, sizeof name - 1) != 0; i++) {}
    assert_true(i + sizeof name < s.len);
    s = azri_slice(s.ptr + i + sizeof name - 1, s.len - i - sizeof name + 1);
    s.len = azri_find(s, '&');
    return s;
}

static void expect_asked(void) { assert_int_equal(next(), AZRI_STEP_HTTP); }

static void claim(const char *name, char out[200]) {
    char key[24];
    const char *at;
    (void)snprintf(key, sizeof key, "\"%s\":", name);
    at = strstr(part(assertion(), 1), key);
    assert_non_null(at);
    at += strlen(key);
    (void)snprintf(out, 200, "%.*s", (int)strcspn(at, ",}"), at);
}

static void expect_claim(const char *name, const char *want) {
    char is[200];
    claim(name, is);
    assert_string_equal(is, want);
}

static void good(void) {
    answer_token(bare_token, "\"expires_in\":3599");
    assert_int_equal(next(), AZRI_STEP_DONE);
    if (flow.status != AZREDIS_OK) fail_msg("%s", flow.error.message);
}

static void refuse(const char *headers, int aadsts) {
    char body[300];
    (void)snprintf(body, sizeof body, "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS%d: no.\",\"error_codes\":[%d]}",
                   aadsts, aadsts);
    answer(401, headers, body);
}

static void test_walk(void **state) {
    char text[4000];
    (void)state;
    service();
    begin();
    expect_file(PATH);
    assert_string_equal(step.where, "client-certificate");
    file("the file");
    expect_sign("the file", "");
    assert_string_equal(step.password, PASSWORD);
    assert_true(!step.rs256 && !step.sign);
    sign();
    expect_asked();
    assert_string_equal(step.url.host, "login.microsoftonline.com");
    assert_true(step.url.tls && step.by_proxy && !step.pin && !step.name);
    (void)snprintf(text, sizeof text, "client_id=" CLIENT "&client_assertion_type=urn%%3Aietf%%3Aparams%%3Aoauth%%3Aclient-assertion-"
                   "type%%3Ajwt-bearer&client_assertion=%.*s&grant_type=client_credentials&scope=https%%3A%%2F%%2Fredis.azure.com"
                   "%%2F.default", (int)assertion().len, assertion().ptr);
    assert_true(step.request.len > strlen(text));
    assert_memory_equal(step.request.ptr + step.request.len - strlen(text), text, strlen(text));
    assert_memory_equal(assertion().ptr, signed_text[0], strlen(signed_text[0]) - strlen(CLAIMS));
    assert_memory_equal(assertion().ptr + assertion().len - strlen(signature_text[0]) - 1, ".", 1);
    assert_memory_equal(assertion().ptr + assertion().len - strlen(signature_text[0]), signature_text[0], strlen(signature_text[0]));
    expect_claim("aud", "\"https://login.microsoftonline.com/" TENANT "/oauth2/v2.0/token\"");
    expect_claim("iss", "\"" CLIENT "\"");
    expect_claim("sub", "\"" CLIENT "\"");
    expect_claim("nbf", "1800000000");
    expect_claim("exp", "1800000600");
    good();
    assert_string_equal(flow.used, "client-certificate");
    finish();
}

/* A UUID of version 4 that no other request has, not even this one's own id. */
static void test_fresh_id(void **state) {
    char id[3][200], text[60];
    int i;
    (void)state;
    service();
    begin();
    for (i = 0; i < 3; i++) {
        expect_file(PATH);
        file("f");
        expect_sign("f", "");
        sign();
        expect_asked();
        claim("jti", id[i]);
        assert_int_equal(strlen(id[i]), 38);
        assert_true(id[i][15] == '4' && strchr("89ab", id[i][20]));
        (void)snprintf(text, sizeof text, "client-request-id: %.36s\r\n", id[i] + 1);
        assert_false(holds(step.request.ptr, step.request.len, text));
        if (i == 0) {
            good();
            azri_flow_start(&flow, &env, now);
        } else if (i == 1) {                                     /* the server may have taken it before it failed */
            answer(503, "", "");
            assert_int_equal(next(), AZRI_STEP_WAIT);
            now += step.wait_ms;
        }
    }
    assert_string_not_equal(id[0], id[1]);
    assert_string_not_equal(id[1], id[2]);
    good();
    finish();
}

/* All is read and signed again for each try, and there are no more tries than with a secret. */
static void test_tries(void **state) {
    int i;
    (void)state;
    service();
    opt.chain_ms = AZREDIS_NEVER;
    begin();
    for (i = 0; i < 4; i++) {
        expect_file(PATH);
        file("f");
        expect_sign("f", "");
        sign();
        expect_asked();
        answer(i % 2 ? 503 : 500, "", "");
        if (i < 3) {
            assert_int_equal(next(), AZRI_STEP_WAIT);
            now += step.wait_ms;
        }
    }
    expect_failed(AZREDIS_E_HTTP, "(try 4)");
    finish();
}

static void test_other_endpoints(void **state) {
    static const struct { const char *host, *aud; } row[] = {
        { "https://login.microsoftonline.us/", "\"https://login.microsoftonline.us/" TENANT "/oauth2/v2.0/token\"" },
        { "localhost:8443", "\"https://localhost:8443/" TENANT "/oauth2/v2.0/token\"" },
        { "https://[::1]", "\"https://[::1]/" TENANT "/oauth2/v2.0/token\"" },
        { "https://[::1]:8443", "\"https://[::1]:8443/" TENANT "/oauth2/v2.0/token\"" } };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        (void)start(NULL);
        service();
        opt.authority_host = row[i].host;
        opt.rs256 = 1;
        begin();
        expect_file(PATH);
        file("f");
        expect_sign("f", "");
        assert_true(step.rs256);
        sign();
        expect_asked();
        expect_claim("aud", row[i].aud);
        assert_memory_equal(assertion().ptr, signed_text[1], strlen(signed_text[1]) - strlen(CLAIMS));
        good();
        finish();
    }
}

static void test_two_files(void **state) {
    (void)state;
    service();
    opt.key_file = "/etc/app/key.pem";
    opt.send_chain = 1;
    begin();
    expect_file(PATH);
    file("one");
    expect_file("/etc/app/key.pem");
    file("two");
    expect_sign("one", "two");
    sign();
    expect_asked();
    assert_non_null(strstr(part(assertion(), 0), "\"x5c\":[\"MIIC"));
    good();
    azri_flow_start(&flow, &env, now);
    expect_file(PATH);
    file("three");
    expect_file("/etc/app/key.pem");
    no_file("/etc/app/key.pem");
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "client-certificate: cannot read the file /etc/app/key.pem: ");
    finish();
}

static azredis_status no_key(void *user, azredis_signing *s) {
    (void)user;
    (void)s;
    return AZREDIS_OK;
}

static void test_memory(void **state) {
    (void)state;
    service();
    opt.certificate_file = NULL;
    opt.certificate = "certificate";
    opt.certificate_len = 11;
    opt.key = "key, and more";
    opt.key_len = 3;
    opt.certificate_password = NULL;
    set_env(AZRI_ENV_CERTIFICATE_PASSWORD, PASSWORD);
    begin();
    expect_sign("certificate", "key");
    assert_string_equal(step.password, PASSWORD);
    assert_ptr_equal(step.key.ptr, opt.key);                     /* lent, not copied */
    sign();
    expect_asked();
    answer(503, "", "");
    assert_int_equal(next(), AZRI_STEP_WAIT);
    now += step.wait_ms;
    expect_sign("certificate", "key");
    sign();
    expect_asked();
    good();
    finish();

    opt.key = NULL;
    opt.key_len = 0;
    opt.sign = no_key;
    opt.sign_user = &opt;
    begin();
    expect_sign("certificate", "");
    assert_true(step.sign == no_key && step.sign_user == &opt);
    cannot(AZREDIS_E_STATE, "the callback failed: no card");
    expect_failed(AZREDIS_E_STATE, "certificate: the callback failed: no card");
    finish();
}

static void refused(const char *text) {
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
    if (!strstr(err.message, text)) fail_msg("'%s' is not in: %s", text, err.message);
    assert_int_equal(living, 0);
    (void)start(NULL);
    service();
}

static void test_options(void **state) {
    (void)state;
    service();
    opt.tenant_id = NULL; refused("needs the option tenant_id");
    opt.client_id = ""; refused("needs the option client_id");
    opt.certificate_file = NULL; refused("needs the option certificate_file (or certificate, in memory)");
    opt.certificate = "c"; refused("two places of one thing");
    opt.key = "k"; refused("key goes with certificate");
    opt.certificate_file = NULL; opt.certificate = "c"; opt.key_file = "f"; refused("key_file with certificate_file");
    opt.key_file = "f"; opt.sign = no_key; refused("sign has the key");
    opt.tenant_id = "a/b"; refused("the tenant id may hold");
    opt.identity = AZREDIS_ID_DEFAULT; refused("does not use the option certificate_file");
    opt.authority_host = "https://evil.example"; refused("not an authority of Microsoft's");
    finish();
}

/* ---- environment ---- */

static void test_environment(void **state) {
    (void)state;
    variables(SECRET);                                           /* a secret comes first */
    begin();
    expect_asked();
    assert_true(holds(step.request.ptr, step.request.len, "&client_secret=abc"));
    answer(503, "", "");
    assert_int_equal(next(), AZRI_STEP_WAIT);
    now += step.wait_ms;
    expect_asked();
    good();
    finish();

    variables(NULL);
    set_env(AZRI_ENV_CERTIFICATE_PASSWORD, PASSWORD);
    opt.identity = AZREDIS_ID_DEFAULT;
    begin();
    expect_file(PATH);
    assert_string_equal(step.where, "environment");
    file("f");
    expect_sign("f", "");
    assert_string_equal(step.password, PASSWORD);
    sign();
    expect_asked();
    assert_null(strstr(part(assertion(), 0), "x5c"));
    good();
    assert_string_equal(flow.used, "environment");
    finish();

    variables(NULL);                                             /* it is said to be there: no other identity is asked */
    opt.identity = AZREDIS_ID_DEFAULT;
    begin();
    expect_file(PATH);
    no_file(PATH);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "environment: cannot read the file " PATH);
    assert_string_equal(flow.records[0].outcome, "failed");
    finish();
}

static void test_environment_lacks(void **state) {
    (void)state;
    variables(NULL);
    azri_strfree(&mem, env.value[AZRI_ENV_CLIENT_ID]);
    env.value[AZRI_ENV_CLIENT_ID] = NULL;
    begin();
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "found AZURE_TENANT_ID, AZURE_CLIENT_CERTIFICATE_PATH; missing AZURE_CLIENT_ID");
    assert_null(strstr(flow.error.message, "SECRET"));
    finish();
    opt.identity = AZREDIS_ID_ENVIRONMENT;
    set_env(AZRI_ENV_TENANT_ID, TENANT);
    begin();
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "found AZURE_TENANT_ID; missing AZURE_CLIENT_ID, AZURE_CLIENT_SECRET or "
                  "AZURE_CLIENT_CERTIFICATE_PATH");
    finish();
}

/* AZURE_CLIENT_SEND_CERTIFICATE_CHAIN, as .NET, Go and JavaScript read it. */
static void test_send_chain(void **state) {
    static const struct { const char *value; int sends; } row[] = { { "1", 1 }, { "true", 1 }, { "TRUE", 1 }, { "0", 0 },
        { "false", 0 }, { "yes", 0 }, { "11", 0 }, { "", 0 } };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        (void)start(NULL);
        variables(NULL);
        set_env(AZRI_ENV_SEND_CHAIN, row[i].value);
        begin();
        expect_file(PATH);
        file("f");
        expect_sign("f", "");
        sign();
        expect_asked();
        assert_int_equal(strstr(part(assertion(), 0), "x5c") != NULL, row[i].sends);
        good();
        finish();
    }
}

/* ---- a wrong clock ---- */

static void expect_signed_at(int64_t unix_now, const char *nbf) {
    assert_int_equal(next_at(unix_now), AZRI_STEP_FILE);
    file("f");
    assert_int_equal(next_at(unix_now), AZRI_STEP_SIGN);
    sign();
    assert_int_equal(next_at(unix_now), AZRI_STEP_HTTP);
    expect_claim("nbf", nbf);
}

/* c.7, row 13: one retry at once, with the server's time; what was learned is used from then on. */
static void test_wrong_clock(void **state) {
    (void)state;
    service();
    begin();
    expect_signed_at(START, "1800000000");
    now += 2500;                                                 /* the answer takes its time */
    refuse("Date: Fri, 15 Jan 2027 08:10:02 GMT\r\n", 700024);   /* 10 min ahead */
    expect_signed_at(START + 2, "1800000602");
    expect_claim("exp", "1800001202");
    good();
    assert_int_equal(flow.clock_offset, 600);
    azri_flow_start(&flow, &env, now);
    expect_signed_at(START + 100, "1800000700");
    good();
    azri_flow_start(&flow, &env, now);                           /* somebody has set our clock */
    expect_signed_at(START + 800, "1800001400");
    refuse("Date: Fri, 15 Jan 2027 08:13:20 GMT\r\n", 700024);
    expect_signed_at(START + 800, "1800000800");
    good();
    assert_int_equal(flow.clock_offset, 0);
    finish();
}

static void test_clock_twice(void **state) {
    (void)state;
    service();
    begin();
    expect_signed_at(START, "1800000000");
    refuse("Date: Fri, 15 Jan 2027 08:10:00 GMT\r\n", 700024);
    expect_signed_at(START, "1800000600");
    refuse("Date: Fri, 15 Jan 2027 08:20:00 GMT\r\n", 700024);
    expect_failed(AZREDIS_E_ENTRA, "AADSTS700024");
    finish();

    service();                                                   /* a device that does not know the time */
    begin();
    expect_signed_at(0, "0");
    refuse("Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n", 700024);
    expect_signed_at(0, "1800000000");
    good();
    finish();

    service();                                                   /* other refusals are final, and teach nothing */
    begin();
    expect_signed_at(START, "1800000000");
    refuse("Date: Fri, 15 Jan 2027 09:00:00 GMT\r\n", 700027);
    expect_failed(AZREDIS_E_ENTRA, "set send_chain");
    assert_int_equal(flow.clock_offset, 0);
    finish();
}

/* ---- files that change ---- */

static void signs_with(const char *text) {
    expect_file(PATH);
    file(text);
    expect_sign(text, "");
    sign();
    expect_asked();
    good();
}

static void test_rotation(void **state) {
    (void)state;
    service();
    begin();
    signs_with("old");
    assert_string_equal(flow.hint, "");
    azri_flow_start(&flow, &env, now);
    signs_with("new");
    azri_flow_start(&flow, &env, now);
    expect_file(PATH);
    file("half");
    expect_sign("half", "");
    cannot(AZREDIS_E_ARG, "there is no private key in it");
    expect_sign("new", "");                                      /* the last one that could be used */
    sign();
    expect_asked();
    good();
    assert_non_null(strstr(flow.hint, "what the file held before is used on: certificate: there is no private key in it (file " PATH ")"));
    azri_flow_start(&flow, &env, now);
    assert_string_equal(flow.hint, "");
    expect_file(PATH);
    file("half again");
    expect_sign("half again", "");
    cannot(AZREDIS_E_ARG, "there is no private key in it");
    expect_sign("new", "");
    cannot(AZREDIS_E_ARG, "now that neither");
    expect_failed(AZREDIS_E_ARG, "now that neither");
    azri_flow_start(&flow, &env, now);
    expect_file(PATH);
    file("");
    expect_sign("", "");
    cannot(AZREDIS_E_NOMEM, "out of memory");                    /* no fault of the file */
    expect_failed(AZREDIS_E_NOMEM, "out of memory");
    azri_flow_start(&flow, &env, now);
    expect_file(PATH);
    no_file(PATH);                                               /* who takes it away takes the identity away */
    expect_failed(AZREDIS_E_NO_CREDENTIAL, PATH);
    azri_flow_start(&flow, &env, now);
    signs_with("newest");
    finish();
}

static void test_first_is_bad(void **state) {
    (void)state;
    service();
    opt.key_file = "/k.pem";
    begin();
    expect_file(PATH);
    file("c");
    expect_file("/k.pem");
    file("k");
    expect_sign("c", "k");
    cannot(AZREDIS_E_ARG, "no certificate in it belongs to the private key");
    expect_failed(AZREDIS_E_ARG, "belongs to the private key (file " PATH " and /k.pem)");
    assert_int_equal(flow.error.retryable, 0);
    finish();
}

/* ---- memory ---- */

static void test_no_memory(void **state) {
    int n, signs;
    (void)state;
    for (n = 0;; n++) {
        (void)start(NULL);
        service();
        begin();
        allow = n;
        signs = 0;
        while (next() != AZRI_STEP_DONE) {
            if (step.kind == AZRI_STEP_FILE) file("f");
            else if (step.kind == AZRI_STEP_SIGN) {
                azredis_status st = azri_certificate_write(&flow, &step, azri_slice(chain, chain_len), azri_slice(print[0], 32));
                azri_step_free(&step);
                azri_flow_text(&flow, now, st, azri_slice(signature[0], st == AZREDIS_OK ? 256 : 0), &flow.error);
                signs++;
            } else answer_token(bare_token, "\"expires_in\":3599");
        }
        allow = -1;
        if (flow.status == AZREDIS_OK) break;
        assert_int_equal(flow.status, AZREDIS_E_NOMEM);
        finish();
    }
    assert_true(n > 5 && signs == 1);
    finish();
}

#ifndef AZREDIS_ONLY_PURE
/* ---- with a key ---- */

static unsigned drawn;

/* 0, 1, 2 ...: the first 32 bytes are the salt of c.2. */
static int entropy(void *user, void *out, size_t n) {
    size_t i;
    (void)user;
    for (i = 0; i < n; i++) ((unsigned char *)out)[i] = (unsigned char)drawn++;
    return 0;
}

static azri_port board(void) {
    azri_port port;
    memset(&port, 0, sizeof port);
    port.mem = mem;
    port.p.entropy = entropy;
    drawn = 0;
    return port;
}

/* Carries the step out as >>fetch does. */
static azredis_status really_sign(void) {
    azri_port port = board();
    azri_buf out;
    azredis_status st;
    azri_buf_init(&out, &mem, AZRI_SIGNATURE_MAX, 1);
    st = azri_fetch_assert(&port, &flow, &step, &out);
    azri_step_free(&step);
    azri_flow_text(&flow, now, st, azri_slice(out.ptr, out.len), &flow.error);
    azri_buf_free(&out);
    return st;
}

/* 1: OpenSSL finds the signature good. */
static int verified(azredis_str jwt, int rs256) {
    const unsigned char *p = (const unsigned char *)der;
    X509 *x = d2i_X509(NULL, &p, (long)der_len);
    EVP_PKEY *key = X509_get_pubkey(x);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    EVP_PKEY_CTX *padding;
    unsigned char sig[600];
    size_t n, dot = jwt.len;
    int good;
    while (jwt.ptr[dot - 1] != '.') dot--;
    assert_true(azri_b64url_decode(azri_slice(jwt.ptr + dot, jwt.len - dot), (char *)sig, &n));
    assert_int_equal(EVP_DigestVerifyInit(ctx, &padding, EVP_sha256(), NULL, key), 1);
    if (!rs256) {
        assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(padding, RSA_PKCS1_PSS_PADDING), 1);
        assert_int_equal(EVP_PKEY_CTX_set_rsa_pss_saltlen(padding, 32), 1);
    }
    good = EVP_DigestVerify(ctx, sig, n, (const unsigned char *)jwt.ptr, dot - 1);
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    X509_free(x);
    return good == 1;
}

/* c.2, signed by mbedTLS: byte for byte, and refused with one bit flipped or the other padding. */
static void test_signature_vectors(void **state) {
    azri_url u = login();
    azri_port port = board();
    unsigned char hash[32];
    char text[1000], *bit;
    azri_assertion a;
    azri_buf out, sig;
    azri_key k;
    int i;
    (void)state;
    for (i = 0; i < 2; i++) {
        memset(&k, 0, sizeof k);
        port = board();
        k.port = &port;
        azri_buf_init(&out, &mem, 4096, 1);
        azri_buf_init(&sig, &mem, 4096, 1);
        a = vector(i, &u);
        assert_int_equal(azri_certificate_compose(&out, &a), AZREDIS_OK);
        assert_int_equal(azri_key_load(&k, &mem, azri_slice(pem, pem_len), azri_str(""), NULL, &err), AZREDIS_OK);
        assert_int_equal(azri_mbedtls_sha256((const unsigned char *)out.ptr, out.len, hash), 0);
        drawn = 0;                                               /* reading the key may have drawn some */
        assert_int_equal(azri_key_sign(&k, i, hash, &sig, &err), AZREDIS_OK);
        assert_int_equal(sig.len, 256);
        assert_memory_equal(sig.ptr, signature[i], 256);
        azri_key_free(&k);
        azri_buf_free(&sig);
        azri_buf_free(&out);
        (void)snprintf(text, sizeof text, "%s.%s", signed_text[i], signature_text[i]);
        assert_int_equal(strlen(text), i ? 784 : 812);
        assert_true(verified(azri_str(text), i));
        assert_false(verified(azri_str(text), !i));
        for (bit = text; bit; bit = strchr(bit, '.') ? strchr(bit, '.') + 1 : NULL) {       /* in each part */
            char was = bit[20];
            bit[20] = (char)(was == 'A' ? 'B' : 'A');
            assert_false(verified(azri_str(text), i));
            bit[20] = was;
        }
    }
    assert_int_equal(living, 0);
}

static void test_real_walk(void **state) {
    int i;
    (void)state;
    for (i = 0; i < 4; i++) {
        (void)start(NULL);
        also_secret[2] = NULL;
        service();
        opt.rs256 = i & 1;
        opt.send_chain = i >> 1;
        begin();
        expect_file(PATH);
        file(pem);
        assert_int_equal(next(), AZRI_STEP_SIGN);
        assert_int_equal(really_sign(), AZREDIS_OK);
        expect_asked();
        assert_true(verified(assertion(), i & 1));
        assert_int_equal(strstr(part(assertion(), 0), base64) != NULL, i >> 1);
        assert_non_null(strstr(part(assertion(), 0), i & 1 ? "\"x5t\":\"VIh-EuP5K5znQv1GKod8ttQ1t_o\""
                                                           : "\"x5t#S256\":\"vX_X-JkTobGrXqdA07lAqHfP9AkTQz41pCioPk0JVmo\""));
        good();
        azri_flow_start(&flow, &env, now);
        expect_file(PATH);
        file("-----BEGIN CERT");                                 /* it is being written */
        expect_sign("-----BEGIN CERT", "");
        assert_int_equal(really_sign(), AZREDIS_E_ARG);
        expect_sign(pem, "");
        assert_int_equal(really_sign(), AZREDIS_OK);
        expect_asked();
        assert_true(verified(assertion(), i & 1));
        good();
        assert_non_null(strstr(flow.hint, PATH));
        finish();
    }
}

/* ---- your key ---- */

static struct { azredis_status st; size_t len; int calls; const char *reason; } card;

/* A card that has the vector's signature and nothing else. */
static azredis_status card_signs(void *user, azredis_signing *s) {
    unsigned char hash[32];
    assert_ptr_equal(user, &card);
    card.calls++;
    assert_int_equal(s->algorithm, conf.rs256 ? AZREDIS_RS256 : AZREDIS_PS256);
    assert_int_equal(s->cap, 512);
    assert_int_equal(azri_mbedtls_sha256((const unsigned char *)s->text, s->text_len, hash), 0);
    assert_memory_equal(hash, s->hash, 32);
    assert_memory_equal(s->text, signed_text[conf.rs256], 100);
    memcpy(s->signature, signature[0], 256);
    s->len = card.len;
    if (card.reason) memcpy(s->reason, card.reason, sizeof s->reason);
    return card.st;
}

static void test_callback(void **state) {
    static char endless[160];
    static const struct { azredis_status st; size_t len; const char *reason, *said; int retryable; } row[] = {
        { AZREDIS_OK, 256, NULL, NULL, 0 },
        { AZREDIS_OK, 0, NULL, "wrote nothing", 0 }, { AZREDIS_OK, 513, NULL, "len greater than cap", 0 },
        { AZREDIS_E_STATE, 256, NULL, "client-certificate: the callback failed: it gave no reason", 0 },
        { AZREDIS_AGAIN, 256, "busy\0xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
          "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "the callback failed: busy", 1 },
        { AZREDIS_E_STATE, 256, endless, "the callback failed: e", 0 },
    };
    char only[2000];
    size_t i;
    (void)state;
    memset(endless, ' ', sizeof endless);
    endless[0] = 'e';
    (void)snprintf(only, sizeof only, "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n", base64);
    for (i = 0; i < COUNT(row) * 2; i++) {
        (void)start(NULL);
        memset(&card, 0, sizeof card);
        card.st = row[i / 2].st;
        card.len = row[i / 2].len;
        card.reason = row[i / 2].reason;
        service();
        opt.certificate_file = NULL;
        opt.certificate = only;
        opt.certificate_len = strlen(only);
        opt.sign = card_signs;
        opt.sign_user = &card;
        opt.rs256 = i & 1;
        begin();
        expect_sign(only, "");
        assert_int_equal(really_sign() == AZREDIS_OK, row[i / 2].said == NULL);
        assert_int_equal(card.calls, 1);
        if (row[i / 2].said) {
            expect_failed(row[i / 2].st == AZREDIS_OK ? AZREDIS_E_TOKEN : AZREDIS_E_STATE, row[i / 2].said);
            assert_int_equal(flow.error.retryable, row[i / 2].retryable);
        } else {
            expect_asked();
            assert_memory_equal(assertion().ptr + assertion().len - strlen(signature_text[0]), signature_text[0],
                                strlen(signature_text[0]));
            good();
        }
        finish();
    }
}

/* A certificate that the callback's key cannot be asked for. */
static void test_callback_without_certificate(void **state) {
    (void)state;
    memset(&card, 0, sizeof card);
    service();
    opt.certificate_file = NULL;
    opt.certificate = "nothing";
    opt.certificate_len = 7;
    opt.sign = card_signs;
    begin();
    expect_sign("nothing", "");
    assert_int_equal(really_sign(), AZREDIS_E_ARG);
    assert_int_equal(card.calls, 0);
    expect_failed(AZREDIS_E_ARG, "there is no certificate in it");
    finish();
}
#  define WITH_A_KEY T(test_signature_vectors), T(test_real_walk), T(test_callback), T(test_callback_without_certificate),
#else
#  define WITH_A_KEY
#endif

#define T(t) cmocka_unit_test_setup(t, start)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_vectors), T(test_chain), T(test_walk), T(test_fresh_id), T(test_tries), T(test_other_endpoints),
        T(test_two_files), T(test_memory), T(test_options), T(test_environment), T(test_environment_lacks),
        T(test_send_chain), T(test_wrong_clock), T(test_clock_twice), T(test_rotation), T(test_first_is_bad),
        T(test_no_memory), WITH_A_KEY
    };
    return cmocka_run_group_tests(tests, group, NULL);
}
