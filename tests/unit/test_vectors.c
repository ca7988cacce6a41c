/* Rows of the wire specification's vectors that belong to no single section: bodies of c.6 cut at each byte, texts of
 * expires_on on the way through a walk, c.7 rows 1 and 16. tests/unit/vectors.md says which test drives which row. */
#include "flow.h"

#define COUNT(a) (sizeof (a) / sizeof (a)[0])
#define REALM "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a1.key\r\n"
#define PRINT "54887E12E3F92B9CE742FD462A877CB6D435B7FA"
#define NOT_FOUND "{\"error\":{\"code\":\"ManagedIdentityNotFound\",\"message\":\"m\",\"correlationId\":\"c\"}}"

enum source { STS, IMDS, APP_SERVICE, ARC, CLOUD_SHELL, FABRIC, ML, SOURCES };

/* A walk of that source as far as the request whose answer is a body of c.6. */
static void ask(enum source which) {
    static const struct { int env; const char *value; } set[SOURCES][3] = {
        { { 0, NULL } }, { { 0, NULL } },
        { { AZRI_ENV_IDENTITY_ENDPOINT, "http://127.0.0.1:41741/msi/token/" }, { AZRI_ENV_IDENTITY_HEADER, "H1" } },
        { { 0, NULL } }, { { AZRI_ENV_MSI_ENDPOINT, "http://localhost:50342/oauth2/token" } },
        { { AZRI_ENV_IDENTITY_ENDPOINT, "https://localhost:1/" }, { AZRI_ENV_IDENTITY_HEADER, "H2" },
          { AZRI_ENV_IDENTITY_THUMBPRINT, PRINT } },
        { { AZRI_ENV_MSI_ENDPOINT, "http://localhost:1/" }, { AZRI_ENV_MSI_SECRET, "S3" } },
    };
    size_t i;
    (void)setup(NULL);
    opt.identity = AZREDIS_ID_MANAGED;
    if (which == STS) app();
    for (i = 0; i < 3; i++)
        if (set[which][i].value) set_env(set[which][i].env, set[which][i].value);
    env.arc_agent = which == ARC;
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    if (which != ARC) return;
    answer(401, REALM, "{}");
    assert_int_equal(next(), AZRI_STEP_FILE);
    azri_step_free(&step);
    azri_flow_text(&flow, now, AZREDIS_OK, azri_str("key"), NULL);
    assert_int_equal(next(), AZRI_STEP_HTTP);
}

/* ---- c.6: bodies ---- */

typedef struct { unsigned from; int status; const char *body; uint64_t life; } body;   /* from: a bit for each source */

#define BIT(s) (1u << (s))
#define ALL   (BIT(SOURCES) - 1)

static const body bodies[] = {                /* %s: a token of c.4 */
    { BIT(STS), 200, "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"ext_expires_in\":3599,"
      "\"access_token\":\"%s\"}", 3599 },
    { BIT(IMDS) | BIT(ARC), 200, "{\"access_token\":\"%s\",\"client_id\":\"" CLIENT "\",\"expires_in\":\"86399\","
      "\"expires_on\":\"1800086399\",\"ext_expires_in\":\"86399\",\"not_before\":\"1799999700\","
      "\"resource\":\"https://redis.azure.com\",\"token_type\":\"Bearer\",\"refresh_token\":\"\"}", 86399 },
    { BIT(APP_SERVICE) | BIT(CLOUD_SHELL), 200, "{\"access_token\":\"%s\",\"expires_on\":\"1800086399\","
      "\"resource\":\"https://redis.azure.com\",\"token_type\":\"Bearer\","
      "\"client_id\":\"AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE\"}", 86399 },
    { BIT(FABRIC) | BIT(ML), 200, "{\"token_type\":\"Bearer\",\"access_token\":\"%s\",\"expires_on\":1800086399,"
      "\"resource\":\"https://redis.azure.com\"}", 86399 },
    { BIT(STS), 401, "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: x\\r\\nTrace ID: 1\\r\\n"
      "Correlation ID: 2\\r\\nTimestamp: 2027-01-15 08:00:00Z\",\"error_codes\":[7000215],"
      "\"timestamp\":\"2027-01-15 08:00:00Z\",\"trace_id\":\"1\","
      "\"correlation_id\":\"2\",\"error_uri\":\"https://x/error?code=7000215\"}", 0 },
    { BIT(STS), 400, "{\"error\":\"invalid_request\",\"error_description\":\"AADSTS900023: x\"}", 0 },
    { BIT(IMDS), 400, "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}", 0 },
    { BIT(APP_SERVICE), 400, "{\"statusCode\":400,\"message\":\"No User Assigned or Delegated Managed Identity found\","
      "\"correlationId\":\"c\"}", 0 },
    { BIT(CLOUD_SHELL), 400, NOT_FOUND, 0 }, { BIT(FABRIC), 404, NOT_FOUND, 0 },
    { ALL, 502, "<html>Bad Gateway</html>", 0 }, { ALL, 200, "<html>Welcome</html>", 0 }, { ALL, 200, "{}", 0 },
    { ALL, 200, "{\"access_token\":\"\"}", 0 }, { ALL, 200, "{\"access_token\":5}", 0 },
};

/* The answer's first n bytes of a body that says it has all of them (whole: it says that these are all). */
static void answer_cut(const body *b, const char *text, size_t n, int whole) {
    static char all[4000];
    int head = snprintf(all, sizeof all, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n", b->status,
                        whole ? n : strlen(text));
    assert_true((size_t)head + n < sizeof all);
    memcpy(all + head, text, n);
    raw_answer(all, (size_t)head + n, 0);
}

static void each_cut(const body *b, enum source which, const char *text) {
    size_t n = strlen(text), k;
    int whole;
    for (k = 0; k <= n; k++)
        for (whole = 0; whole < 2; whole++) {
            azri_step_kind kind;
            ask(which);
            answer_cut(b, text, k, whole);
            kind = next();
            assert_true(kind == AZRI_STEP_DONE || kind == AZRI_STEP_WAIT);
            if ((kind == AZRI_STEP_DONE && flow.status == AZREDIS_OK) != (b->life && k == n))
                fail_msg("source %d, %zu of %zu bytes of %s: %d %s", (int)which, k, n, text, (int)flow.status,
                         flow.error.message);
            if (b->life && k == n) assert_int_equal(flow.life_ms, b->life * 1000);
            finish();
        }
}

static void test_bodies_cut_at_each_byte(void **state) {
    static char text[3000];
    size_t i;
    int which;
    (void)state;
    for (i = 0; i < COUNT(bodies); i++)
        for (which = STS; which < SOURCES; which++) {
            const char *at = strstr(bodies[i].body, "%s");
            if (!(bodies[i].from & BIT(which))) continue;
            (void)snprintf(text, sizeof text, "%.*s%s%s", at ? (int)(at - bodies[i].body) : (int)sizeof text,
                           bodies[i].body, at ? exp_token : "", at ? at + 2 : "");
            each_cut(&bodies[i], (enum source)which, text);
        }
}

/* ---- c.6: texts of expires_on ---- */

/* Received an hour before that. */
static void lives_an_hour(const char *text, int64_t epoch) {
    char members[100];
    (void)setup(NULL);
    opt.identity = AZREDIS_ID_MANAGED;
    begin();
    azri_step_free(&step);
    assert_int_equal(azri_flow_next(&flow, now, epoch - 3600, &step), AZRI_STEP_HTTP);
    (void)snprintf(members, sizeof members, "\"expires_on\":%s", text);
    answer_token(bare_token, members);
    assert_int_equal(next(), AZRI_STEP_DONE);
    if (flow.status != AZREDIS_OK || flow.life_ms != 3600000)
        fail_msg("%s: %lld ms, %s", text, (long long)flow.life_ms, flow.error.message);
    finish();
}

static void test_expires_on(void **state) {
    static const struct { const char *text; int64_t epoch; } row[] = {
        { "1560999478", 1560999478 }, { "\"1560999478\"", 1560999478 }, { "\" 1560999478 \"", 1560999478 },
        { "\"2019-06-20T02:57:58Z\"", 1560999478 }, { "\"06/20/2019 02:57:58 +00:00\"", 1560999478 },
        { "\"6/20/2019 2:57:58 AM +00:00\"", 1560999478 }, { "\"2019-06-20 02:57:58\"", 1560999478 },
        { "\"1/16/2020 5:24:12 AM +00:00\"", 1579152252 }, { "\"1/16/2020 5:24:12 PM +00:00\"", 1579195452 },
        { "\"1/16/2020 12:05:06 AM +00:00\"", 1579133106 }, { "\"1/16/2020 12:05:06 PM +00:00\"", 1579176306 },
        { "\"2024-10-18T19:51:37.0000000+00:00\"", 1729281097 }, { "\"2027-01-15T08:00:00Z\"", 1800000000 },
        { "\"2027-01-15T08:00:00+05:30\"", 1799980200 }, { "\"2027-01-15T08:00:00-08:00\"", 1800028800 },
        { "\"2028-02-29T23:59:59Z\"", 1835481599 }, { "\"2100-03-01T00:00:00Z\"", INT64_C(4107542400) },
        { "978307200", 978307200 },                                    /* the smallest that is a point in time */
    };
    static const char *const no_date[] = { "2023-02-29T00:00:00Z", "13/01/2020 0:00:00", "tomorrow", "" };
    char members[100];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) lives_an_hour(row[i].text, row[i].epoch);
    for (i = 0; i < COUNT(no_date); i++) {                              /* then the token's own exp counts */
        ask(APP_SERVICE);
        (void)snprintf(members, sizeof members, "\"expires_on\":\"%s\"", no_date[i]);
        answer_token(exp_token, members);
        assert_int_equal(flow.status, AZREDIS_OK);
        assert_int_equal(flow.life_ms, 86400000);
        finish();
    }
    ask(APP_SERVICE);
    answer_token(bare_token, "\"expires_on\":978307199");             /* the largest that is a life: too long */
    assert_int_equal(flow.life_ms, INT64_C(30) * 86400 * 1000);
    finish();
}

/* ---- c.5: variables ---- */

#ifndef AZREDIS_ONLY_PURE
/* Set to "" is as good as not set, for each of them. */
static void test_empty_is_unset(void **state) {
    int i, is_set;
    (void)state;
    for (is_set = 0; is_set < 2; is_set++) {
        (void)setup(NULL);
        for (i = 0; i < AZRI_ENV_COUNT; i++) assert_int_equal(setenv(azri_env_names[i], is_set ? "x" : "", 1), 0);
        assert_true(azri_env_load(&env, &mem));
        for (i = 0; i < AZRI_ENV_COUNT; i++) assert_int_equal(env.value[i] != NULL, is_set);
        azri_env_free(&env, &mem);
        for (i = 0; i < AZRI_ENV_COUNT; i++) assert_int_equal(unsetenv(azri_env_names[i]), 0);
        assert_int_equal(living, 0);
    }
}
#endif

/* ---- c.7: behaviour ---- */

/* A walk that fails, as often as it likes to ask. */
static void fail_walk(int status) {
    azri_step_kind kind;
    azri_flow_start(&flow, &env, now);
    while ((kind = next()) != AZRI_STEP_DONE) {
        if (kind == AZRI_STEP_WAIT) now += step.wait_ms;
        else answer(status, "", "");
    }
    assert_int_not_equal(flow.status, AZREDIS_OK);
}

/* Row 1: a walk that finds nobody, then the next one, recomputed by design 5: soon, and after 30 s at most. */
static void test_nobody(void **state) {
    azri_token t;
    azredis_error e;
    int i;
    (void)state;
    (void)setup(NULL);
    azri_token_init(&t, &rng, AZREDIS_POLICY_DEFAULT);
    begin();
    for (i = 0; i < 8; i++) {
        uint32_t claim = azri_token_claim(&t, now, 30000);
        assert_int_not_equal(claim, 0);
        azri_flow_start(&flow, &env, now);
        assert_int_equal(next(), AZRI_STEP_HTTP);
        (void)azri_fail(&e, AZREDIS_E_NET, "managed-identity", "refused");
        azri_step_free(&step);
        azri_flow_http(&flow, now, AZREDIS_E_NET, NULL, &e);
        expect_failed(AZREDIS_E_NO_CREDENTIAL, "no credential was found");
        assert_int_equal(flow.record_count, 6);
        azri_token_failed(&t, claim, now, flow.error.retryable, flow.error.retry_after_ms);
        assert_in_range(t.next_try - now, 1000, azri_min64(30000, (uint64_t)2000 << i));
        now = t.next_try;
    }
    finish();
}

/* Row 16: three walks in a row fail with 500 while the token lives. Its "not before 30 s" is recomputed by design 5:
 * 2 s that double, full jitter, in time to be there before headroom. */
static void test_renewal_fails_three_times(void **state) {
    azri_token t;
    uint32_t claim;
    uint64_t began;
    int i;
    (void)state;
    ask(STS);
    answer_token(bare_token, "\"expires_in\":3599");
    assert_int_equal(next(), AZRI_STEP_DONE);
    azri_token_init(&t, &rng, AZREDIS_POLICY_DEFAULT);
    claim = azri_token_claim(&t, now, 30000);
    assert_int_equal(azri_token_got(&t, claim, now, flow.sent_at, flow.life_ms, flow.refresh_ms, 1), AZRI_TOKEN_NEW);
    for (i = 0; i < 3; i++) {
        now = t.next_try;
        claim = azri_token_claim(&t, now, 30000);
        assert_int_not_equal(claim, 0);
        fail_walk(500);
        began = now;
        azri_token_failed(&t, claim, now, flow.error.retryable, flow.error.retry_after_ms);
        assert_true(azri_token_live(&t, now));                          /* the old one serves on */
        assert_int_equal(t.hash, 1);
        assert_int_equal(t.failures, i + 1);
        assert_in_range(t.next_try - began, 1000, (uint64_t)2000 << i);
        assert_true(t.next_try < azri_token_headroom_at(&t));
    }
    now = t.next_try;
    claim = azri_token_claim(&t, now, 30000);
    azri_flow_start(&flow, &env, now);
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer_token(day_token, "\"expires_in\":3599");
    assert_int_equal(azri_token_got(&t, claim, now, flow.sent_at, flow.life_ms, 0, 2), AZRI_TOKEN_NEW);
    assert_int_equal(t.failures, 0);
    finish();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies_cut_at_each_byte), cmocka_unit_test(test_expires_on),
        cmocka_unit_test(test_nobody),
#ifndef AZREDIS_ONLY_PURE
        cmocka_unit_test(test_empty_is_unset),
#endif
        cmocka_unit_test(test_renewal_fails_three_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
