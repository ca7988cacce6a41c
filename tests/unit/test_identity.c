/* The walk for a token, against a server that these tests play: options, environment, requests byte for
 * byte, every answer whole and cut, retries in virtual time. Freed memory is searched for secrets. */
#include "flow.h"

/* ---- names and options ---- */

static void test_names(void **state) {
    static const struct { const char *name; azredis_identity id; } good[] = {
        { "default", AZREDIS_ID_DEFAULT }, { "environment", AZREDIS_ID_ENVIRONMENT },
        { "client-secret", AZREDIS_ID_CLIENT_SECRET }, { "callback", AZREDIS_ID_CALLBACK },
        { "access-key", AZREDIS_ID_ACCESS_KEY }, { "password", AZREDIS_ID_PASSWORD },
        { "managed-identity", AZREDIS_ID_MANAGED },
        { "workload-identity", AZREDIS_ID_WORKLOAD }, { "client-assertion", AZREDIS_ID_CLIENT_ASSERTION },
        { "token-file", AZREDIS_ID_TOKEN_FILE }, { "exec", AZREDIS_ID_EXEC },
        { "client-certificate", AZREDIS_ID_CLIENT_CERTIFICATE },
        { "azure-cli", AZREDIS_ID_AZURE_CLI }, { "azure-developer-cli", AZREDIS_ID_AZURE_DEVELOPER_CLI },
        { "azure-powershell", AZREDIS_ID_AZURE_POWERSHELL }, { "device-code", AZREDIS_ID_DEVICE_CODE },
    };
    static const char *const bad[] = { "", "Default", "env", "client_secret", "default " };
    azredis_identity id;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(azredis_identity_by_name(good[i].name, &id), AZREDIS_OK);
        assert_int_equal(id, good[i].id);
        assert_string_equal(azri_identity_name(id), good[i].name);
    }
    id = AZREDIS_ID_PASSWORD;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(azredis_identity_by_name(bad[i], &id), AZREDIS_E_ARG);
        assert_null(azri_identity_find(bad[i], 0));
    }
    assert_int_equal(azredis_identity_by_name(NULL, &id), AZREDIS_E_ARG);
    assert_int_equal(azredis_identity_by_name("default", NULL), AZREDIS_E_ARG);
    assert_int_equal(id, AZREDIS_ID_PASSWORD);
    assert_string_equal(azri_identity_name((azredis_identity)-1), "?");
}

static void refused(const char *text) {
    static const azredis_auth_options none;
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
    if (!strstr(err.message, text)) fail_msg("'%s' is not in: %s", text, err.message);
    assert_false(unsafe(&err, sizeof err));
    assert_memory_equal(&conf, &none, sizeof conf);
    assert_int_equal(living, 0);
}

static azredis_status t_get_token(void *user, const char *scope, azredis_fetched *out) {
    (void)user; (void)scope; (void)out;
    return AZREDIS_OK;
}

static void test_options(void **state) {
    char user[70], tenant[300];
    (void)state;
    app(); opt.tenant_id = NULL; refused("tenant_id");
    app(); opt.client_id = ""; refused("client_id");
    app(); opt.client_secret = NULL; refused("client_secret");
    app(); opt.tenant_id = "https://login"; refused("tenant id may hold");
    app(); opt.tenant_id = "a/b"; refused("tenant id may hold");
    app(); opt.tenant_id = ".."; refused("tenant id may hold");
    app(); opt.tenant_id = "a\r\nX: y"; refused("tenant id may hold");
    memset(tenant, 'a', sizeof tenant);
    tenant[254] = '\0';
    app(); opt.tenant_id = tenant; refused("tenant id may hold");
    app(); opt.client_id = CLIENT " "; refused("client id");
    app(); opt.scope = "a b"; refused("scope");
    app(); opt.scope = "https://redis.azure.com/.default\n"; refused("scope");
    opt.scope = NULL;
    app(); opt.identity = (azredis_identity)77; refused("77");
    app(); opt.identity = (azredis_identity)AZRI_ID_LATER; refused("-1");
    memset(user, 'u', 64);
    user[64] = '\0';
    app(); opt.user = user; refused("63");
    (void)setup(NULL);
    opt.identity = AZREDIS_ID_CALLBACK; refused("get_token");
    opt.identity = AZREDIS_ID_ACCESS_KEY; refused("password");
    opt.identity = AZREDIS_ID_PASSWORD; opt.password = "p"; refused("option user");
    opt.user = "u";
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_OK);
    assert_true(azri_is_static(&conf));
    assert_string_equal(azri_identity_static_user(&conf), "u");
    azri_identity_conf_free(&conf, &mem);
    opt.user = NULL;
    opt.identity = AZREDIS_ID_ACCESS_KEY;
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_OK);
    assert_true(azri_is_static(&conf));
    assert_string_equal(azri_identity_static_user(&conf), "default");
    azri_identity_conf_free(&conf, &mem);
    tenant[253] = '\0';
    app(); opt.tenant_id = tenant;
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_OK);
    assert_false(azri_is_static(&conf));
    assert_string_equal(conf.scope, "https://redis.azure.com/.default");
    assert_int_equal(conf.request_ms, 30000);
    azri_identity_conf_free(&conf, &mem);
    app(); opt.identity = AZREDIS_ID_DEFAULT; refused("does not use the option client_secret; set identity");
    memset(&opt, 0, sizeof opt);
    opt.password = "x"; refused("does not use the option password; set identity");
    memset(&opt, 0, sizeof opt);
    opt.get_token = t_get_token; refused("does not use the option get_token");
    memset(&opt, 0, sizeof opt);
    opt.exec = "/x"; refused("does not use the option exec");
    memset(&opt, 0, sizeof opt);
    opt.tenant_id = TENANT;
    opt.client_id = CLIENT;
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_OK);
    assert_int_equal(conf.identity, AZREDIS_ID_DEFAULT);
    azri_identity_conf_free(&conf, &mem);
    assert_int_equal(living, 0);
    assert_int_equal(leaked, 0);
}

static void test_authority(void **state) {
    static const struct { const char *text, *allow, *host; uint16_t port; } row[] = {
        { "login.microsoftonline.com", NULL, "login.microsoftonline.com", 443 },
        { "https://login.microsoftonline.us", NULL, "login.microsoftonline.us", 443 },
        { "https://LOGIN.partner.microsoftonline.cn/", NULL, "LOGIN.partner.microsoftonline.cn", 443 },
        { "https://login.sovcloud-identity.sg:443/", NULL, "login.sovcloud-identity.sg", 443 },
        { "https://localhost:8443", NULL, "localhost", 8443 }, { "127.0.0.1:9", NULL, "127.0.0.1", 9 },
        { "https://[::1]:8443/", NULL, "::1", 8443 },
        { "sts.corp.example", "sts.corp.example", "sts.corp.example", 443 },
        { "https://sts.corp.example:8443/", "STS.corp.example:8443", "sts.corp.example", 8443 },
        { "https://evil.example", NULL, NULL, 0 }, { "evil.example", "good.example", NULL, 0 },
        { "https://sts.corp.example:8443/", "sts.corp.example", NULL, 0 },
        { "http://login.microsoftonline.com", NULL, NULL, 0 }, { "http://localhost", NULL, NULL, 0 },
        { "https://u@login.microsoftonline.com", NULL, NULL, 0 },
        { "https://login.microsoftonline.com@evil.example", NULL, NULL, 0 },
        { "https://login.microsoftonline.com.evil.example", NULL, NULL, 0 },
        { "https://evillogin.microsoftonline.com", NULL, NULL, 0 },
        { "https://login.microsoftonline.com:8443", NULL, NULL, 0 },
        { "https://login.microsoftonline.com/tenant", NULL, NULL, 0 },
        { "https://login.microsoftonline.com/?a=b", NULL, NULL, 0 },
        { "https://login.microsoftonline.com#f", NULL, NULL, 0 },
        { "login.microsoftonline.com\n", NULL, NULL, 0 }, { "ftp://login.microsoftonline.com", NULL,
        NULL, 0 },
        { "https://", NULL, NULL, 0 }, { "localhost.evil.example", NULL, NULL, 0 },
            { "127.0.0.1.evil.example", NULL, NULL, 0 },
        { "evil.example", "http://evil.example", NULL, 0 }, { "//", NULL, NULL, 0 },
    };
    char longest[400];
    azri_url u;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        azredis_status st = azri_identity_authority_parse(&u, row[i].text, row[i].allow, "here", &err);
        if ((st == AZREDIS_OK) != (row[i].host != NULL)) fail_msg("%s: %d", row[i].text, st);
        if (st != AZREDIS_OK) {
            assert_int_equal(st, AZREDIS_E_ARG);
            assert_int_equal(err.retryable, 0);
            continue;
        }
        assert_string_equal(u.host, row[i].host);
        assert_int_equal(u.port, row[i].port);
        assert_true(u.tls);
    }
    memset(longest, 'a', sizeof longest);
    longest[399] = '\0';
    assert_int_equal(azri_identity_authority_parse(&u, longest, NULL, "here", &err), AZREDIS_E_ARG);
    app(); opt.authority_host = "evil.example"; refused("allow_authority");
    app(); opt.allow_authority = "a b"; opt.authority_host = NULL; refused("options.allow_authority");
}

/* ---- environment ---- */

static void test_environment_lacks(void **state) {
    static const char *const value[3] = { TENANT, CLIENT, SECRET };
    int mask, i;
    (void)state;
    for (mask = 0; mask < 7; mask++) {
        (void)setup(NULL);
        for (i = 0; i < 3; i++)
            if (mask >> i & 1) set_env(i, value[i]);
        set_env(AZRI_ENV_TOKEN_CREDENTIALS, "EnvironmentCredential");
        begin();
        expect_failed(AZREDIS_E_NO_CREDENTIAL, "environment: ");
        assert_int_equal(flow.record_count, 1);
        assert_string_equal(flow.records[0].name, "environment");
        assert_string_equal(flow.records[0].outcome, "unavailable");
        for (i = 0; i < 3; i++) {
            const char *name = strstr(flow.records[0].reason, azri_env_names[i]),
                *missing = strstr(flow.records[0].reason, "missing");
            assert_non_null(name);
            assert_true((name < missing) == (mask >> i & 1));
            assert_null(strstr(flow.records[0].reason, value[i]));
        }
        assert_int_equal(flow.error.retryable, 0);
        finish();
    }
    set_env(AZRI_ENV_USERNAME, "me");
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, "EnvironmentCredential");
    begin();
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "user passwords are not supported");
    finish();
}

static void full_env(void) {
    set_env(AZRI_ENV_TENANT_ID, TENANT);
    set_env(AZRI_ENV_CLIENT_ID, CLIENT);
    set_env(AZRI_ENV_CLIENT_SECRET, SECRET);
}

static void test_environment(void **state) {
    (void)state;
    full_env();
    set_env(AZRI_ENV_AUTHORITY_HOST, "https://login.microsoftonline.us/");
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_string_equal(step.url.host, "login.microsoftonline.us");
    assert_string_equal(step.where, "environment");
    now += 70;
    answer_token(day_token, "\"expires_in\":3599");
    assert_int_equal(next(), AZRI_STEP_DONE);
    assert_int_equal(flow.status, AZREDIS_OK);
    assert_string_equal(flow.used, "environment");
    assert_string_equal(flow.records[0].outcome, "token");
    assert_int_equal(flow.records[0].ms, 70);
    assert_int_equal(flow.pin, 1);
    azri_env_free(&env, &mem);                                   /* the next walk sees another environment */
    azri_flow_start(&flow, &env, now);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "missing AZURE_TENANT_ID");
    assert_int_equal(flow.pin, 1);
    finish();
}

static void test_environment_wrong(void **state) {
    (void)state;
    full_env();
    set_env(AZRI_ENV_AUTHORITY_HOST, "https://evil.example/");
    begin();
    expect_failed(AZREDIS_E_ARG, "AZURE_AUTHORITY_HOST: evil.example:443 is not");  /* no socket is opened */
    assert_string_equal(flow.records[0].outcome, "failed");
    finish();
    set_env(AZRI_ENV_TENANT_ID, "a/../b");
    set_env(AZRI_ENV_CLIENT_ID, CLIENT);
    set_env(AZRI_ENV_CLIENT_SECRET, SECRET);
    begin();
    expect_failed(AZREDIS_E_ARG, "environment: the tenant id");
    finish();
}

/* ---- the request ---- */

static void test_request_bytes(void **state) {
    static const char body[] = "client_id=" CLIENT "&client_secret=abc~8Q%2B%2F%3D%26%25%23%20%22%27%C3%A9"
        "&grant_type=client_credentials&scope=https%3A%2F%2Fredis.azure.com%2F.default";
    static const char *const header[] = { "\r\nHost: login.microsoftonline.com\r\n",
    "\r\nAccept: application/json\r\n",
        "\r\nContent-Type: application/x-www-form-urlencoded\r\n", "\r\nContent-Length: 177\r\n",
            "\r\nConnection: close\r\n",
        "\r\nUser-Agent: azredis-entra/" AZREDIS_VERSION_TEXT "\r\n", "\r\nreturn-client-request-id: "
            "true\r\n",
        "\r\nx-client-SKU: azredis.c\r\n", "\r\nx-client-Ver: " AZREDIS_VERSION_TEXT "\r\n",
        "\r\nx-ms-lib-capability: retry-after, h429\r\n", "\r\nclient-request-id: " };
    char text[4000], *end, *id;
    size_t i;
    (void)state;
    app();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_int_equal(step.timeout_ms, 30000);
    assert_int_equal(step.url.port, 443);
    memcpy(text, step.request.ptr, step.request.len);
    text[step.request.len] = '\0';
    end = strstr(text, "\r\n\r\n");
    assert_non_null(end);
    assert_int_equal(strlen(body), 177);
    assert_string_equal(end + 4, body);
    end[2] = '\0';
    assert_memory_equal(text, "POST /" TENANT "/oauth2/v2.0/token HTTP/1.1\r\n", 6 + 36 + 18 + 11);
    for (i = 0; i < sizeof header / sizeof header[0]; i++)
        if (!strstr(text, header[i])) fail_msg("no %s", header[i]);
    id = strstr(text, "\r\nclient-request-id: ") + 21;
    for (i = 0; i < 36; i++)
        assert_true(i == 8 || i == 13 || i == 18 || i == 23 ? id[i] == '-' : strchr("0123456789abcdef",
                                                                                    id[i]) != NULL);
    assert_true(id[14] == '4' && strchr("89ab", id[19]) != NULL && id[36] == '\r');
    memset(text, 0, sizeof text);
    answer_token(bare_token, "\"expires_in\":60");
    assert_int_equal(next(), AZRI_STEP_DONE);
    finish();
}

static void test_scope(void **state) {
    static const struct { const char *scope, *sent; } row[] = {
        { "https://redis.azure.com", "&scope=https%3A%2F%2Fredis.azure.com%2F.default" },
        { "acca5fbb-b7e4-4009-81f1-37e38fd66d78/.default",
        "&scope=acca5fbb-b7e4-4009-81f1-37e38fd66d78%2F.default" },
        { "https://redis.azure.com//.default", "&scope=https%3A%2F%2Fredis.azure.com%2F%2F.default" },
    };
    size_t i, k;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        app();
        opt.scope = row[i].scope;
        begin();
        assert_int_equal(next(), AZRI_STEP_HTTP);
        k = strlen(row[i].sent);
        assert_memory_equal(step.request.ptr + step.request.len - k, row[i].sent, k);
        answer(500, "", "");
        finish();
    }
}

/* ---- answers with a token ---- */

static void test_token(void **state) {
    (void)state;
    app();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    now += 250;
    answer_token(day_token, "\"expires_in\":3599,\"ext_expires_in\":99999,\"refresh_in\":1800");
    assert_int_equal(next(), AZRI_STEP_DONE);
    assert_int_equal(next(), AZRI_STEP_DONE);
    assert_int_equal(flow.status, AZREDIS_OK);
    assert_int_equal(flow.error.code, AZREDIS_OK);
    assert_int_equal(flow.token.len, strlen(day_token));
    assert_memory_equal(flow.token.ptr, day_token, flow.token.len);
    assert_string_equal(flow.user, OID);
    assert_string_equal(flow.claims.tid, TENANT);
    assert_int_equal(flow.life_ms, 3599000);
    assert_int_equal(flow.refresh_ms, 1800000);
    assert_int_equal(flow.sent_at, 1000);
    assert_string_equal(flow.used, "client-secret");
    assert_string_equal(flow.hint, "");
    finish();
}

/* Sent at 1800000000; the refresh points are those of the token machine without jitter. */
static void test_expiry(void **state) {
    static const struct { const char *token, *members; int64_t life_s; uint64_t soft_ms; } row[] = {
        { bare_token, "\"expires_in\":3599", 3599, 2519300 },
        { bare_token, "\"expires_in\":\"3599\"", 3599, 2519300 },
        { bare_token, "\"expires_in\":86400,\"refresh_in\":43200", 86400, 43200000 },
        { bare_token, "\"expires_in\":\"86400\",\"expires_on\":\"1800086400\"", 86400, 43200000 },
        { bare_token, "\"expires_on\":\"1800007200\"", 7200, 3600000 },
        { bare_token, "\"expires_on\":1800007199", 7199, 5039300 },
        { bare_token, "\"expires_in\":200", 200, 140000 },
        { bare_token, "\"expires_in\":0", -1, 0 }, { bare_token, "\"expires_in\":-5", -1, 0 },
        { bare_token, "\"expires_in\":\"abc\"", -1, 0 }, { bare_token, "", -1, 0 },
        { bare_token, "\"expires_in\":null,\"expires_on\":true", -1, 0 },
        { exp_token, "", 86400, 43200000 }, { exp_token, "\"expires_in\":0", 86400, 43200000 },
        { exp_token, "\"expires_on\":\"tomorrow\"", 86400, 43200000 },
        { bare_token, "\"expires_in\":3600,\"refresh_in\":7200", 3600, 2520000 },
        { bare_token, "\"expires_in\":1e3", 1000, 700000 }, { bare_token, "\"expires_in\":3599.7", 3599,
        2519300 },
        { bare_token, "\"expires_in\":99999999999", 30 * 86400, 15 * 86400000ull },
        { bare_token, "\"expires_in\":1e300", 30 * 86400, 15 * 86400000ull },
        { bare_token, "\"expires_on\":\"2027-01-15T10:00:00Z\"", 7200, 3600000 },
        { bare_token, "\"expires_on\":\" 1800007200 \"", 7200, 3600000 },
        { bare_token, "\"expires_on\":\"01/15/2027 10:00:00 +00:00\"", 7200, 3600000 },
        { bare_token, "\"expires_on\":7200", 7200, 3600000 },
            /* a relative life (MSAL .NET) */
        { bare_token, "\"expires_on\":1799999999", -1, 0 },
        { day_token, "\"expires_on\":1900000000", 86400, 43200000 },          /* no longer than exp - iat */
        { day_token, "\"expires_on\":1800007200", 7200, 3600000 },
    };
    size_t i;
    azri_token t;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        app();
        begin();
        assert_int_equal(next(), AZRI_STEP_HTTP);
        answer_token(row[i].token, row[i].members);
        assert_int_equal(next(), AZRI_STEP_DONE);
        if ((flow.status == AZREDIS_OK) != (row[i].life_s > 0)) fail_msg("%s: %s", row[i].members,
                                                                         flow.error.message);
        if (flow.status == AZREDIS_OK) {
            azri_token_init(&t, &rng, AZREDIS_POLICY_DEFAULT);
            t.life_ms = flow.life_ms;
            t.refresh_ms = flow.refresh_ms;
            assert_int_equal(flow.life_ms, row[i].life_s * 1000);
            assert_int_equal(azri_token_soft(&t), row[i].soft_ms);
        } else
            assert_int_equal(flow.status, AZREDIS_E_TOKEN);
        finish();
    }
}

/* Where the life is a point in time, the server's own clock counts, not ours. */
static void test_expiry_with_wrong_clock(void **state) {
    static const struct { int64_t ours; const char *date; int64_t life_s; } row[] = {
        { START - 86400, "Date: Fri, 15 Jan 2027 08:00:10 GMT\r\n", 7190 },
        { 0, "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n", 7200 },
        { START + 3600, "", 3600 }, { 1000, "", 86400 }, { 0, "", 86400 }, { START + 7200, "", -1 },
    };
    static char body[4000];
    size_t i;
    (void)state;
    (void)snprintf(body, sizeof body, "{\"access_token\":\"%s\",\"expires_on\":1800007200}", day_token);
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        app();
        begin();
        assert_int_equal(azri_flow_next(&flow, now, row[i].ours, &step), AZRI_STEP_HTTP);
        answer(200, row[i].date, body);
        assert_int_equal(next(), AZRI_STEP_DONE);
        if (row[i].life_s > 0) assert_int_equal(flow.life_ms, row[i].life_s * 1000);
        else {
            assert_int_equal(flow.status, AZREDIS_E_TOKEN);
            assert_non_null(strstr(flow.error.message, "set the clock"));
        }
        finish();
    }
}

static void bad_token(const char *body, azredis_status st, const char *text) {
    (void)setup(NULL);
    app();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(200, "", body);
    expect_failed(st, text);
    assert_string_equal(flow.records[0].outcome, "failed");
    finish();
}

static void test_unusable_tokens(void **state) {
    static char body[80000];
    char *at;
    (void)state;
    bad_token("{}", AZREDIS_E_JSON, "no access_token");
    bad_token("{\"access_token\":\"\"}", AZREDIS_E_JSON, "no access_token");
    bad_token("{\"access_token\":5}", AZREDIS_E_JSON, "no access_token");
    bad_token("{\"x\":{\"access_token\":\"e30.e30.x\"}}", AZREDIS_E_JSON, "no access_token");
    bad_token("[]", AZREDIS_E_JSON, "not JSON");
    bad_token("", AZREDIS_E_JSON, "not JSON");
    bad_token("<html>log in</html>", AZREDIS_E_JSON, "HTML (a proxy or captive portal?)");
    bad_token("{\"access_token\":\"a b\",\"expires_in\":9}", AZREDIS_E_TOKEN, "blank");
    bad_token("{\"access_token\":\"a\\u0000b\",\"expires_in\":9}", AZREDIS_E_TOKEN, "blank");
    bad_token("{\"access_token\":\"a\\r\\nb\",\"expires_in\":9}", AZREDIS_E_TOKEN, "blank");
    bad_token("{\"access_token\":\"opaque\",\"expires_in\":9}", AZREDIS_E_TOKEN, "set the option user");
    bad_token("{\"access_token\":\"e30.e30.x\",\"expires_in\":9}", AZREDIS_E_TOKEN, "no usable oid");
    bad_token("{\"token_type\":\"pop\",\"access_token\":\"e30.e30.x\",\"expires_in\":9}",
              AZREDIS_E_TOKEN, "Bearer");
    at = body + sprintf(body, "{\"expires_in\":9,\"access_token\":\"");
    memset(at, 'a', AZRI_TOKEN_MAX + 1);                         /* case 17 */
    strcpy(at + AZRI_TOKEN_MAX + 1, "\"}");
    bad_token(body, AZREDIS_E_TOKEN, "16384");
    strcpy(at + AZRI_TOKEN_MAX, "\"}");
    bad_token(body, AZREDIS_E_TOKEN, "not a JWT");               /* the length is allowed */
}

/* The body of a 200 is never quoted, though it cannot be read. */
static void test_unreadable_token_is_not_told(void **state) {
    (void)state;
    app();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(200, "", "{\"access_token\":\"short-and-secret\"");
    expect_failed(AZREDIS_E_JSON, "not JSON");
    assert_null(strstr(flow.error.message, "short"));
    finish();
}

static void test_user_option(void **state) {
    (void)state;
    app();
    opt.user = "someone";
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(200, "", "{\"access_token\":\"opaque\",\"expires_in\":9,\"token_type\":\"bEARER\"}");
    assert_int_equal(next(), AZRI_STEP_DONE);
    assert_int_equal(flow.status, AZREDIS_OK);
    assert_string_equal(flow.user, "someone");
    finish();
}

static void test_audience(void **state) {
    (void)state;
    app();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer_token(graph_token, "\"expires_in\":9");
    assert_int_equal(flow.status, AZREDIS_OK);
    assert_non_null(strstr(flow.hint, "https://graph.microsoft.com, not for Redis"));
    finish();
    opt.scope = "https://graph.microsoft.com/.default";           /* you asked for it */
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer_token(graph_token, "\"expires_in\":9");
    assert_string_equal(flow.hint, "");
    finish();
}

static void test_changed_identity(void **state) {
    (void)state;
    assert_int_equal(azri_identity_same("", OID, &err), AZREDIS_OK);
    assert_int_equal(azri_identity_same(OID, OID, &err), AZREDIS_OK);
    assert_int_equal(azri_identity_same(OID, CLIENT, &err), AZREDIS_E_TOKEN);
    assert_non_null(strstr(err.message, "changed from " OID " to " CLIENT));
}

/* ---- refusals ---- */

static const struct { int status; const char *body; azredis_status code; int aadsts; const char *text; } refusals[] = {
    { 401, "{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: x\\r\\nTrace ID: "
     "1\\r\\nCorrelation ID: 2\\r\\n"
      "Timestamp: 2027-01-15 08:00:00Z\",\"error_codes\":[7000215],\"timestamp\":\"2027-01-15 "
          "08:00:00Z\",\"trace_id\":\"1\","
      "\"correlation_id\":\"2\",\"error_uri\":\"https://x/error?code=7000215\"}", AZREDIS_E_ENTRA,
          7000215, "the secret's Value" },
    { 400, "{\"error\":\"invalid_request\",\"error_description\":\"AADSTS900023: x\"}", AZREDIS_E_ENTRA,
    900023, "GUID nor a domain" },
    { 400, "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}",
    AZREDIS_E_ENTRA, 0, "Identity not found" },
    { 400, "{\"statusCode\":400,\"message\":\"No User Assigned or Delegated Managed Identity "
     "found\",\"correlationId\":\"c\"}",
      AZREDIS_E_HTTP, 0, "No User Assigned" },
    { 404,
    "{\"error\":{\"code\":\"ManagedIdentityNotFound\",\"message\":\"m\",\"correlationId\":\"c\"}}",
        AZREDIS_E_HTTP, 0, "HTTP 404" },
    { 403, "<html>\x01 blocked</html>", AZREDIS_E_HTTP, 0, "HTML" },
    { 400, "", AZREDIS_E_HTTP, 0, "HTTP 400" },
    { 401, "{\"error\":\"invalid_client\",\"error_description\":\"you sent abc~8Q+/=&%# \\\"'\xc3\xa9 and "
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIn0.c2lneyJhbGciOiJub25lIn0\",\"error_codes\":[7999999]}",
          AZREDIS_E_ENTRA, 7999999, "[hidden]" },
    { 400, "abc~8Q+/=&%# \"'\xc3\xa9 was sent", AZREDIS_E_HTTP, 0, "[hidden]" },
    { 200, "{\"error\":\"odd\",\"access_token\":\"e30.e30.x\",\"expires_in\":9}", AZREDIS_E_ENTRA, 0, "odd" },
    { 201, "{\"access_token\":\"opaque\",\"expires_in\":9}", AZREDIS_E_HTTP, 0, "HTTP 201" },
};

static void test_refusals(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        (void)setup(NULL);
        app();
        begin();
        assert_int_equal(next(), AZRI_STEP_HTTP);
        answer(refusals[i].status, "", refusals[i].body);
        expect_failed(refusals[i].code, refusals[i].text);
        assert_int_equal(flow.error.aadsts, refusals[i].aadsts);
        assert_int_equal(flow.error.http_status, refusals[i].status);
        assert_string_equal(flow.records[0].outcome, "failed");
        if (refusals[i].code == AZREDIS_E_ENTRA) assert_int_equal(flow.error.retryable, 0);
        if (i == 0) assert_string_equal(flow.error.request_id, "2");
        else assert_int_equal(strlen(flow.error.request_id), 36);          /* ours, as it gave none */
        finish();
    }
}

/* A wrong secret in the chain ends the walk: another identity would be a surprise. */
static void test_refusal_stops_the_chain(void **state) {
    (void)state;
    full_env();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(401, "", refusals[0].body);
    expect_failed(AZREDIS_E_ENTRA, "Value");
    assert_int_equal(flow.record_count, 1);
    finish();
}

static void cut(const char *head, const char *body, int expect_ok_at_end) {
    static char text[8000];
    size_t n = (size_t)snprintf(text, sizeof text, "%s%s", head, body), i;
    for (i = 0; i <= n; i++) {
        (void)setup(NULL);
        app();
        begin();
        assert_int_equal(next(), AZRI_STEP_HTTP);
        raw_answer(text, i, 0);
        assert_true(flow.status != AZREDIS_OK || (expect_ok_at_end && i == n));
        if (i == n && expect_ok_at_end) assert_int_equal(flow.status, AZREDIS_OK);
        finish();
    }
}

static void test_truncated(void **state) {
    char body[400], head[100];
    size_t i;
    (void)state;
    (void)snprintf(body, sizeof body,
                   "{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"%s\"}",
                       bare_token);
    cut("HTTP/1.1 200 OK\r\n\r\n", body,
        1);                                /* until close: only the JSON can tell */
    (void)snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %u\r\n\r\n",
                   (unsigned)strlen(body));
    cut(head, body, 1);
    for (i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        (void)snprintf(head, sizeof head, "HTTP/1.1 %d X\r\n\r\n", refusals[i].status);
        cut(head, refusals[i].body, 0);
    }
}

static void test_hints(void **state) {
    static const int some[] = { 7000215, 7000222, 7000218, 700016, 700011, 7000112, 70001, 90002,
    900023, 50049, 50059, 50128, 90038,
        900382, 500011, 50001, 650052, 650057, 70011, 1002012, 28002, 700022, 700023, 700025, 700027,
            700030, 50012, 700024, 50013,
        500133, 70021, 700211, 700212, 700213, 7002137, 7002138, 700229, 53003, 530032, 53000, 530035,
            50076, 50079, 50074, 65001,
        50105, 50034, 50126, 50053, 70043, 700082, 50173, 70016, 70018, 70019, 50194, 9001023, 900144,
            90014, 9002313, 901002,
        100007, 50027, 50048 };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof some / sizeof some[0]; i++) {
        assert_non_null(azri_hint(some[i]));
        assert_in_range(strlen(azri_hint(some[i])), 10, 120);
    }
    assert_null(azri_hint(1));
    assert_null(azri_hint(0));
}

static void test_aadsts_in_text(void **state) {
    (void)state;
    assert_int_equal(azri_flow_aadsts(azri_str("AADSTS7000215: x")), 7000215);
    assert_int_equal(azri_flow_aadsts(azri_str("x AADSTS50034")), 50034);
    assert_int_equal(azri_flow_aadsts(azri_str("AADSTS")), 0);
    assert_int_equal(azri_flow_aadsts(azri_str("AADSTSx")), 0);
    assert_int_equal(azri_flow_aadsts(azri_str("")), 0);
    assert_true(azri_flow_aadsts(azri_str("AADSTS99999999999999999999")) > 0);
}

/* ---- retries ---- */

static uint64_t pause_after(int status, const char *headers, const char *body) {
    uint64_t ms;
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(status, headers, body);
    assert_int_equal(next(), AZRI_STEP_WAIT);
    ms = step.wait_ms;
    now += ms - 1;
    assert_int_equal(next(), AZRI_STEP_WAIT);
    now += 1;
    return ms;
}

static void test_retries(void **state) {
    uint64_t seed, lo = UINT64_MAX, hi = 0, ms;
    (void)state;
    for (seed = 0; seed < 200; seed++) {
        (void)setup(NULL);
        rng.state = seed;
        app();
        begin();
        ms = pause_after(503, "", "");
        lo = azri_min64(lo, ms);
        hi = azri_max64(hi, ms);
        assert_in_range(pause_after(503, "", "<html>"), 1120, 2080);
        assert_int_equal(next(), AZRI_STEP_HTTP);
        answer_token(bare_token, "\"expires_in\":60");
        assert_int_equal(flow.status, AZREDIS_OK);
        assert_int_equal(flow.sent_at, now);
        assert_int_equal(flow.record_count, 1);
        finish();
    }
    assert_true(lo >= 560 && lo < 600 && hi <= 1040 && hi > 1000);
}

static void test_retries_end(void **state) {
    int i;
    (void)state;
    app();
    begin();
    for (i = 0; i < 3; i++) (void)pause_after(500, "", "");
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(500, "", "");
    expect_failed(AZREDIS_E_HTTP, "(try 4)");
    assert_int_equal(flow.error.retryable, 1);
    finish();
}

static void test_retry_after(void **state) {
    (void)state;
    app();
    begin();
    assert_int_equal(pause_after(429, "Retry-After: 7\r\n", ""), 7000);
    assert_int_equal(next(), AZRI_STEP_HTTP);
    answer(429, "Retry-After: 61\r\n", "{\"error\":\"x\"}");                /* longer than a walk */
    expect_failed(AZREDIS_E_ENTRA, "HTTP 429");
    assert_int_equal(flow.error.retry_after_ms, 61000);
    assert_int_equal(flow.error.retryable, 1);
    finish();
    opt.chain_ms = 5000;
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_int_equal(step.timeout_ms, 5000);
    answer(503, "Retry-After: 5\r\n", "");                                 /* would pass the walk's end */
    expect_failed(AZREDIS_E_HTTP, "HTTP 503");
    assert_int_equal(flow.error.retry_after_ms, 5000);
    finish();
}

static void test_what_is_tried_again(void **state) {
    static const struct { int status; const char *body; int again; } row[] = {
        { 408, "", 1 }, { 429, "", 1 }, { 500, "", 1 }, { 502, "<html>", 1 }, { 503, "", 1 }, { 504, "", 1 },
        { 400, "{\"error\":\"temporarily_unavailable\"}", 1 }, { 400,
        "{\"error\":\"x\",\"error_codes\":[90033]}", 1 },
        { 400, "{\"error\":\"x\",\"error_description\":\"AADSTS90024: y\"}", 1 },
        { 400, "{\"error\":\"x\"}", 0 }, { 401, "{\"error\":\"invalid_client\"}", 0 }, { 404, "", 0 },
            { 200, "<html>", 0 },
        { 400, "{\"error\":\"x\",\"error_codes\":[50196]}", 0 },           /* 60 s do not fit into the walk */
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        app();
        begin();
        assert_int_equal(next(), AZRI_STEP_HTTP);
        answer(row[i].status, "", row[i].body);
        assert_int_equal(next(), row[i].again ? AZRI_STEP_WAIT : AZRI_STEP_DONE);
        if (i + 1 == sizeof row / sizeof row[0]) {
            assert_int_equal(flow.error.retry_after_ms, 60000);
            assert_int_equal(flow.error.retryable, 1);
        }
        finish();
    }
}

static void test_transport(void **state) {
    static const struct { azredis_status st; int again; } row[] = {
        { AZREDIS_E_DNS, 1 }, { AZREDIS_E_NET, 1 }, { AZREDIS_E_TIMEOUT, 1 }, { AZREDIS_E_CLOSED, 1 },
            { AZREDIS_E_TLS, 1 },
        { AZREDIS_E_CERT, 0 }, { AZREDIS_E_HTTP, 0 }, { AZREDIS_E_LIMIT, 0 }, { AZREDIS_E_NOMEM, 0 },
    };
    azredis_error e;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        app();
        begin();
        assert_int_equal(next(), AZRI_STEP_HTTP);
        (void)azri_fail(&e, row[i].st, "entra.http", "this is why");
        azri_step_free(&step);
        azri_flow_http(&flow, now, row[i].st, NULL, &e);
        assert_int_equal(next(), row[i].again ? AZRI_STEP_WAIT : AZRI_STEP_DONE);
        assert_string_equal(flow.error.message, "this is why");
        if (row[i].st == AZREDIS_E_CERT) assert_int_equal(flow.error.retryable, 0);
        finish();
    }
}

static void test_redirect(void **state) {
    static const char text[] = "HTTP/1.1 302 Found\r\nLocation: "
        "https://evil.example/x\r\nContent-Length: 0\r\n\r\n";
    (void)state;
    app();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    raw_answer(text, sizeof text - 1, 1);
    expect_failed(AZREDIS_E_HTTP, "evil.example");
    assert_int_equal(flow.error.retryable, 0);
    finish();
}

static void test_caps(void **state) {
    static const char big[] = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    static char many[40000];
    size_t n = (size_t)sprintf(many, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    int i;
    (void)state;
    app();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    raw_answer(big, sizeof big - 1, 1);
    expect_failed(AZREDIS_E_LIMIT, "");
    finish();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    for (i = 0; i < 3000; i++) n += (size_t)sprintf(many + n, "1\r\n \r\n");
    raw_answer(many, n,
               0);                                               /* endless chunks: cut by the peer here */
    assert_int_not_equal(flow.status, AZREDIS_OK);
    finish();
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    n = (size_t)sprintf(many, "HTTP/1.1 200 OK\r\n");
    for (i = 0; i < 300; i++) n += (size_t)sprintf(many + n, "X-Header-%03d: "
                                                   "0123456789012345678901234567890123456789012345\r\n",
                                                       i);
    raw_answer(many, n, 0);
    expect_failed(AZREDIS_E_LIMIT, "");
    finish();
}

static void test_deadline(void **state) {
    (void)state;
    app();
    opt.request_ms = AZREDIS_NEVER;
    opt.chain_ms = 2000;
    begin();
    now += 500;
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_int_equal(step.timeout_ms, 1500);
    answer(500, "", "");
    now += 2000;                                                          /* the pump slept too long */
    expect_failed(AZREDIS_E_HTTP, "HTTP 500");
    finish();
    begin();
    now += 2000;
    expect_failed(AZREDIS_E_TIMEOUT, "no time was left");
    finish();
    opt.chain_ms = AZREDIS_NEVER;
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_true(step.timeout_ms == AZREDIS_NEVER);
    finish();
}

/* ---- the callback ---- */

static azredis_fetched got;
static char got_token[64];

static void callback(void) {
    (void)setup(NULL);
    opt.identity = AZREDIS_ID_CALLBACK;
    opt.get_token = t_get_token;
    memset(&got, 0, sizeof got);
    strcpy(got_token, bare_token);
    got.token = got_token;
    got.cap = sizeof got_token;
    got.len = strlen(got_token);
    begin();
    assert_int_equal(next(), AZRI_STEP_CALL);
    assert_string_equal(step.where, "callback");
}

static void test_callback(void **state) {
    (void)state;
    callback();
    got.expires_in = 60;
    got.refresh_in = 20;
    azri_flow_call(&flow, now, AZREDIS_OK, &got);
    assert_int_equal(next(), AZRI_STEP_DONE);
    assert_int_equal(flow.status, AZREDIS_OK);
    assert_string_equal(flow.user, "o");
    assert_int_equal(flow.life_ms, 60000);
    assert_int_equal(flow.refresh_ms, 20000);
    assert_string_equal(flow.records[0].name, "callback");
    finish();
    callback();
    got.expires_on = START + 60;
    azri_flow_call(&flow, now, AZREDIS_OK, &got);
    assert_int_equal(flow.life_ms, 60000);
    finish();
    callback();
    azri_flow_call(&flow, now, AZREDIS_OK, &got);                         /* nothing about expiry */
    expect_failed(AZREDIS_E_TOKEN, "nothing says when");
    finish();
    callback();
    got.expires_on = INT64_MIN;
    azri_flow_call(&flow, now, AZREDIS_OK, &got);
    expect_failed(AZREDIS_E_TOKEN, "nothing says when");
    finish();
    callback();
    got.len = got.cap + 1;
    azri_flow_call(&flow, now, AZREDIS_OK, &got);
    expect_failed(AZREDIS_E_TOKEN, "greater than cap");
    finish();
    callback();
    got.len = 0;
    azri_flow_call(&flow, now, AZREDIS_OK, &got);
    expect_failed(AZREDIS_E_TOKEN, "wrote nothing");
    finish();
}

static void test_callback_fails(void **state) {
    (void)state;
    callback();
    memset(got.reason, 'r', sizeof got.reason);                           /* not ended by NUL,
        and like a token */
    azri_flow_call(&flow, now, AZREDIS_E_NET, &got);
    expect_failed(AZREDIS_E_NET, "[hidden]");
    assert_int_equal(flow.error.retryable, 1);
    finish();
    callback();
    strcpy(got.reason, "the vault is\nlocked");
    azri_flow_call(&flow, now, AZREDIS_AGAIN, &got);
    expect_failed(AZREDIS_E_STATE, "the vault is locked");
    assert_int_equal(flow.error.retryable, 1);
    finish();
    callback();
    azri_flow_call(&flow, now, AZREDIS_E_ARG, &got);
    expect_failed(AZREDIS_E_ARG, "no reason");
    finish();
}

#ifndef AZREDIS_ONLY_PURE              /* the pump gives the room */
/* It should write to got->token; one that puts its own there, or another cap, does no harm. */
static char own_room[] = "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIn0.c2ln";
static azredis_status own_token(void *user, const char *scope, azredis_fetched *got) {
    (void)scope;
    if (user) got->token = own_room;
    else got->token[0] = 'x';
    got->cap = SIZE_MAX;
    got->len = user ? sizeof own_room - 1 : (size_t)AZRI_TOKEN_MAX + 2;
    got->expires_in = 3600;
    return AZREDIS_OK;
}

static void test_callback_with_its_own_room(void **state) {
    azredis_token t;
    azredis_auth *a;
    (void)state;
    opt.identity = AZREDIS_ID_CALLBACK;
    opt.get_token = own_token;
    opt.get_token_user = own_room;
    a = azredis_auth_open(&opt);
    assert_int_equal(azredis_auth_token(a, &t, 0, &err), AZREDIS_OK);
    assert_string_equal(t.jwt, bare_token);
    assert_string_equal(own_room, bare_token);
    azredis_token_wipe(&t);
    azredis_auth_release(a);
    opt.get_token_user = NULL;
    a = azredis_auth_open(&opt);
    assert_int_equal(azredis_auth_token(a, &t, 0, &err), AZREDIS_E_TOKEN);
    if (!strstr(err.message, "greater than cap")) fail_msg("%s", err.message);
    azredis_auth_release(a);
}
#endif

/* ---- memory ---- */

static void test_no_memory(void **state) {
    int k, done = 0;
    (void)state;
    for (k = 0; !done; k++) {
        assert_true(k < 100);
        (void)setup(NULL);
        app();
        opt.authority_host = "localhost";
        allow = k;
        if (azri_identity_conf_copy(&conf, &mem, &opt, &err) != AZREDIS_OK) {
            assert_int_equal(err.code, AZREDIS_E_NOMEM);
            assert_int_equal(living, 0);
            assert_int_equal(leaked, 0);
            continue;
        }
        azri_flow_init(&flow, &mem, &conf, &rng);
        azri_flow_start(&flow, &env, now);
        if (next() == AZRI_STEP_HTTP) answer_token(day_token, "\"expires_in\":60");
        if (flow.status == AZREDIS_OK) done = 1;
        else {
            if (flow.error.code != AZREDIS_E_NOMEM) fail_msg("%d: %s", k, flow.error.message);
            assert_int_equal(flow.error.retryable, 1);
        }
        allow = -1;
        finish();
    }
    assert_true(k > 10);
}

/* The same flow, walk after walk: nothing grows. */
static void test_many_walks(void **state) {
    long before;
    int i;
    (void)state;
    app();
    begin();
    before = living;
    for (i = 0; i < 1000; i++) {
        assert_int_equal(next(), AZRI_STEP_HTTP);
        if (i % 3) answer_token(day_token, "\"expires_in\":60");
        else answer(400, "", refusals[0].body);
        assert_int_equal(next(), AZRI_STEP_DONE);
        azri_flow_start(&flow, &env, ++now);
        assert_int_equal(living, before);
    }
    finish();
}

#define T(f) cmocka_unit_test_setup(f, setup)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_names), T(test_options), T(test_authority), T(test_environment_lacks), T(test_environment),
        T(test_environment_wrong), T(test_request_bytes), T(test_scope), T(test_token), T(test_expiry),
        T(test_expiry_with_wrong_clock), T(test_unusable_tokens), T(test_unreadable_token_is_not_told),
        T(test_user_option), T(test_audience),
        T(test_changed_identity), T(test_refusals), T(test_refusal_stops_the_chain), T(test_truncated),
            T(test_hints),
        T(test_aadsts_in_text), T(test_retries), T(test_retries_end), T(test_retry_after),
            T(test_what_is_tried_again),
        T(test_transport), T(test_redirect), T(test_caps), T(test_deadline), T(test_callback),
            T(test_callback_fails),
#ifndef AZREDIS_ONLY_PURE
            T(test_callback_with_its_own_room),
#endif
        T(test_no_memory), T(test_many_walks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
