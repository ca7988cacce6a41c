/* Managed identity, against the endpoints that these tests play: which one is asked, each request byte for byte, the
 * challenge of Azure Arc, who else may answer, retries in virtual time. Rows "c.5" to "c.7" are those of the wire
 * specification that the library was written from. */
#include "flow.h"

#define OBJECT   "99999999-8888-7777-6666-555555555555"
#define RESOURCE "/subscriptions/11111111-2222-3333-4444-555555555555/resourcegroups/rg/providers/" \
                 "Microsoft.ManagedIdentity/userAssignedIdentities/my id"
#define RESOURCE_ENCODED "%2Fsubscriptions%2F11111111-2222-3333-4444-555555555555%2Fresourcegroups%2Frg%2Fproviders%2F" \
                         "Microsoft.ManagedIdentity%2FuserAssignedIdentities%2Fmy%20id"
#define QUERY    "&resource=https%3A%2F%2Fredis.azure.com"
#define ARC_PATH "/metadata/identity/oauth2/token"
#define REALM    "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a1.key\r\n"
#define KEY      SECRET_KEY "0123456789"
#define SECRET_KEY "abc~8Qarckey"
#define PRINT    "54887E12E3F92B9CE742FD462A877CB6D435B7FA"
#define NO_SUCH  "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}"
#define BODY     "\"client_id\":\"" CLIENT "\",\"expires_in\":\"86399\",\"expires_on\":\"1800086399\",\"ext_expires_in\":" \
                 "\"86399\",\"not_before\":\"1799999700\",\"resource\":\"https://redis.azure.com\",\"refresh_token\":\"\""

static void managed(void) { opt.identity = AZREDIS_ID_MANAGED; }

/* The default chain, in which managed identity has others before and after it. */
static void chained(void) { opt.identity = AZREDIS_ID_DEFAULT; }

static void endpoint(const char *url, const char *header, const char *thumbprint) {
    if (url) set_env(AZRI_ENV_IDENTITY_ENDPOINT, url);
    if (header) set_env(AZRI_ENV_IDENTITY_HEADER, header);
    if (thumbprint) set_env(AZRI_ENV_IDENTITY_THUMBPRINT, thumbprint);
}

static void msi(const char *url, const char *secret) {
    if (url) set_env(AZRI_ENV_MSI_ENDPOINT, url);
    if (secret) set_env(AZRI_ENV_MSI_SECRET, secret);
}

static char asked[8000];

/* The next step is a request; it begins with line and has these texts. */
static void expect_request(const char *line, const char *const *has, size_t n) {
    size_t i;
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_true(step.request.len < sizeof asked);
    memcpy(asked, step.request.ptr, step.request.len);
    asked[step.request.len] = '\0';
    if (strncmp(asked, line, strlen(line)) != 0) fail_msg("'%s' does not begin: %s", line, asked);
    for (i = 0; i < n; i++)
        if (!strstr(asked, has[i])) fail_msg("'%s' is not in: %s", has[i], asked);
    assert_int_equal(step.by_proxy, 0);                       /* c.7 row 23 */
    assert_null(step.name);
    assert_int_equal(step.ca.len, 0);
}

static void expect_asked(void) { expect_request("", NULL, 0); }

static void expect_token(void) {
    assert_int_equal(next(), AZRI_STEP_DONE);
    if (flow.status != AZREDIS_OK) fail_msg("status %d: %s", flow.status, flow.error.message);
    assert_string_equal(flow.used, "managed-identity");
}

/* The record of managed identity in a walk that found nothing. */
static void expect_unavailable(const char *text) {
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "identity: no credential was found");
    assert_string_equal(flow.records[2].name, "managed-identity");
    assert_string_equal(flow.records[2].outcome, "unavailable");
    if (!strstr(flow.records[2].reason, text)) fail_msg("'%s' is not in: %s", text, flow.records[2].reason);
}

static uint64_t wait_for(void) {
    uint64_t ms;
    assert_int_equal(next(), AZRI_STEP_WAIT);
    ms = step.wait_ms;
    now += ms;
    return ms;
}

static void net(azredis_status st, int code, const char *text) {
    azredis_error e;
    memset(&e, 0, sizeof e);
    (void)azri_fail(&e, st, "managed-identity", "%s", text);
    e.os_errno = code;
    azri_step_free(&step);
    azri_flow_http(&flow, now, st, NULL, &e);
}

/* The file that a challenge named was read, or not. */
static void file(azredis_status st, const char *text, size_t n, int code) {
    azredis_error e;
    memset(&e, 0, sizeof e);
    (void)azri_fail(&e, st, "managed-identity", "managed-identity: cannot read the file a1.key");
    e.os_errno = code;
    azri_step_free(&step);
    azri_flow_text(&flow, now, st, azri_slice(text, n), &e);
}

static void keyed(void) { file(AZREDIS_OK, KEY "\n", sizeof KEY, 0); }

/* ---- 6.1: which endpoint ---- */

static void test_detection(void **state) {
    static const struct { int var[5], is, agent; } row[] = {
        { { -1 }, AZRI_MI_IMDS, 0 },
        { { AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IDENTITY_HEADER, -1 }, AZRI_MI_APP, 0 },
        { { AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IDENTITY_HEADER, AZRI_ENV_IDENTITY_THUMBPRINT, -1 }, AZRI_MI_FABRIC, 0 },
        { { AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IMDS_ENDPOINT, -1 }, AZRI_MI_ARC, 0 },
        { { AZRI_ENV_MSI_ENDPOINT, -1 }, AZRI_MI_SHELL, 0 },
        { { AZRI_ENV_MSI_ENDPOINT, AZRI_ENV_MSI_SECRET, -1 }, AZRI_MI_ML, 0 },
        { { AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IDENTITY_HEADER, AZRI_ENV_IMDS_ENDPOINT, -1 }, AZRI_MI_APP, 0 },
        { { AZRI_ENV_IDENTITY_ENDPOINT, -1 }, AZRI_MI_IMDS, 0 },
        { { AZRI_ENV_MSI_ENDPOINT, AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IDENTITY_HEADER, -1 }, AZRI_MI_APP, 0 },
        { { AZRI_ENV_IDENTITY_HEADER, AZRI_ENV_MSI_SECRET, AZRI_ENV_IMDS_ENDPOINT, AZRI_ENV_IDENTITY_THUMBPRINT, -1 },
          AZRI_MI_IMDS, 0 },
        { { -1 }, AZRI_MI_ARC, 1 }, { { AZRI_ENV_IDENTITY_ENDPOINT, -1 }, AZRI_MI_ARC, 1 },
        { { AZRI_ENV_MSI_ENDPOINT, -1 }, AZRI_MI_SHELL, 1 },
        { { AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IDENTITY_HEADER, -1 }, AZRI_MI_APP, 1 },
        { { AZRI_ENV_POD_AUTHORITY, -1 }, AZRI_MI_IMDS, 0 },
    };
    size_t i, k;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        for (k = 0; row[i].var[k] >= 0; k++) set_env(row[i].var[k], "http://127.0.0.1:1/");
        env.arc_agent = row[i].agent;
        if (azri_managed_detect(&env) != row[i].is) fail_msg("row %zu: %d", i, azri_managed_detect(&env));
        azri_env_free(&env, &mem);
    }
}

/* Row 6 of the table: the node of a pod is not asked for the pod's identity. */
static void test_not_the_node(void **state) {
    int chain;
    (void)state;
    for (chain = 0; chain < 2; chain++) {
        (void)setup(NULL);
        if (!chain) managed();
        set_env(AZRI_ENV_TENANT_ID, TENANT);
        set_env(AZRI_ENV_CLIENT_ID, CLIENT);
        set_env(AZRI_ENV_FEDERATED_TOKEN_FILE, "/var/run/secrets/token");
        if (chain) set_env(AZRI_ENV_TOKEN_CREDENTIALS, "EnvironmentCredential,AzureCliCredential,ManagedIdentityCredential");
        begin();
        if (chain) expect_unavailable("AZURE_FEDERATED_TOKEN_FILE");
        else expect_failed(AZREDIS_E_ARG, "take the identity workload-identity");
        finish();
    }
}

/* ---- 6.2, c.5: requests ---- */

static void test_imds(void **state) {
    static const char *const common[] = { "\r\nHost: 169.254.169.254\r\n", "\r\nMetadata: true\r\n",
        "\r\nUser-Agent: azredis-entra/", "\r\nx-ms-client-request-id: ", "\r\nConnection: close\r\n", "\r\n\r\n" };
    static const struct { const char *client, *object, *resource, *query; } row[] = {
        { NULL, NULL, NULL, " HTTP/1.1\r\n" }, { CLIENT, NULL, NULL, "&client_id=" CLIENT " HTTP/1.1\r\n" },
        { NULL, OBJECT, NULL, "&object_id=" OBJECT " HTTP/1.1\r\n" },
        { NULL, NULL, RESOURCE, "&msi_res_id=" RESOURCE_ENCODED " HTTP/1.1\r\n" },
    };
    char line[700];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        managed();
        opt.client_id = row[i].client;
        opt.object_id = row[i].object;
        opt.resource_id = row[i].resource;
        begin();
        (void)snprintf(line, sizeof line, "%s%s", "GET " ARC_PATH "?api-version=2018-02-01" QUERY, row[i].query);
        expect_request(line, common, sizeof common / sizeof common[0]);
        assert_null(strstr(asked, "Authorization"));
        assert_int_equal(step.url.tls, 0);
        assert_int_equal(step.url.port, 80);
        assert_null(step.pin);
        assert_int_equal(step.connect_ms, 5000);
        assert_int_equal(step.timeout_ms, 10000);
        answer_token(day_token, BODY);
        expect_token();
        assert_string_equal(flow.user, OID);
        assert_int_equal(flow.life_ms, 86399000);
        finish();
    }
}

static void test_other_requests(void **state) {
    static const struct {
        const char *url, *header, *print, *msi, *secret, *client, *resource, *ml, *line, *has[3];
    } row[] = {
        { "http://127.0.0.1:41741/msi/token/", "H1", NULL, NULL, NULL, NULL, RESOURCE, NULL,
          "GET /msi/token/?api-version=2019-08-01" QUERY "&mi_res_id=" RESOURCE_ENCODED " HTTP/1.1\r\nHost: 127.0.0.1:41741\r\n",
          { "\r\nX-IDENTITY-HEADER: H1\r\n", "\r\nMetadata: true\r\n", "" } },
        { "http://127.0.0.1:41741/msi/token?x=1", "H1", NULL, NULL, NULL, CLIENT, NULL, NULL,
          "GET /msi/token?x=1&api-version=2019-08-01" QUERY "&client_id=" CLIENT " HTTP/1.1\r\n",
          { "\r\nX-IDENTITY-HEADER: H1\r\n", "", "" } },
        { NULL, NULL, NULL, "http://localhost:50342/oauth2/token", NULL, NULL, NULL, NULL, "POST /oauth2/token HTTP/1.1\r\n",
          { "\r\nMetadata: true\r\n", "\r\nContent-Type: application/x-www-form-urlencoded\r\n",
            "\r\n\r\nresource=https%3A%2F%2Fredis.azure.com" } },
        { "https://10.0.0.4:2377/metadata/identity/oauth2/token", "H2", PRINT, NULL, NULL, NULL, NULL, NULL,
          "GET " ARC_PATH "?api-version=2019-07-01-preview" QUERY " HTTP/1.1\r\n", { "\r\nSecret: H2\r\n", "", "" } },
        { NULL, NULL, NULL, "http://127.0.0.1:46808/MSI/auth", "S3", CLIENT, NULL, OBJECT,
          "GET /MSI/auth?api-version=2017-09-01" QUERY "&clientid=" CLIENT " HTTP/1.1\r\n", { "\r\nsecret: S3\r\n", "", "" } },
        { NULL, NULL, NULL, "http://127.0.0.1:46808/MSI/auth", "S3", NULL, NULL, CLIENT,
          "GET /MSI/auth?api-version=2017-09-01" QUERY "&clientid=" CLIENT " HTTP/1.1\r\n", { "\r\nsecret: S3\r\n", "", "" } },
        { NULL, NULL, NULL, "http://127.0.0.1:46808/MSI/auth", "S3", NULL, NULL, NULL,
          "GET /MSI/auth?api-version=2017-09-01" QUERY " HTTP/1.1\r\n", { "\r\nsecret: S3\r\n", "", "" } },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        managed();
        endpoint(row[i].url, row[i].header, row[i].print);
        msi(row[i].msi, row[i].secret);
        if (row[i].ml) set_env(AZRI_ENV_ML_CLIENT_ID, row[i].ml);
        opt.client_id = row[i].client;
        opt.resource_id = row[i].resource;
        begin();
        expect_request(row[i].line, row[i].has, 3);
        if (row[i].print) {
            assert_string_equal(step.pin, "54887e12e3f92b9ce742fd462a877cb6d435b7fa");
            assert_true(step.url.tls);
        } else
            assert_null(step.pin);
        assert_true(strstr(asked, "Metadata") != NULL || row[i].print || row[i].secret);
        answer_token(day_token, "\"expires_on\":\"1800086399\"");
        expect_token();
        finish();
    }
}

/* c.3: the scope's one "/.default" goes. */
static void test_resource(void **state) {
    static const struct { const char *scope, *resource; } row[] = {
        { "https://redis.azure.com/.default", "&resource=https%3A%2F%2Fredis.azure.com HTTP" },
        { "https://redis.azure.com//.default", "&resource=https%3A%2F%2Fredis.azure.com%2F HTTP" },
        { "acca5fbb-b7e4-4009-81f1-37e38fd66d78/.default", "&resource=acca5fbb-b7e4-4009-81f1-37e38fd66d78 HTTP" },
        { "https://redis.azure.com", "&resource=https%3A%2F%2Fredis.azure.com HTTP" },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        managed();
        opt.scope = row[i].scope;
        begin();
        expect_request("GET ", &row[i].resource, 1);
        net(AZREDIS_E_NOMEM, 0, "none");
        expect_failed(AZREDIS_E_NOMEM, "IMDS at 169.254.169.254:80: none");
        finish();
    }
}

/* 1.3: AZURE_CLIENT_ID counts in the chain, also where it has one link; c.7 row 3. An option counts more. */
static void test_client_id_of_the_environment(void **state) {
    static const struct { int alone; const char *chosen, *client, *object, *has; } row[] = {
        { 0, NULL, NULL, NULL, "&client_id=" CLIENT " HTTP" }, { 0, "ManagedIdentityCredential", NULL, NULL, "&client_id=" CLIENT " HTTP" },
        { 0, NULL, "other", NULL, "&client_id=other HTTP" }, { 0, NULL, NULL, OBJECT, "&object_id=" OBJECT " HTTP" },
        { 1, NULL, NULL, NULL, "azure.com HTTP" }, { 1, NULL, NULL, OBJECT, "&object_id=" OBJECT " HTTP" }, { 1, NULL, "other", NULL, "&client_id=other HTTP" },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        if (row[i].alone) managed();
        set_env(AZRI_ENV_CLIENT_ID, CLIENT);
        if (row[i].chosen) set_env(AZRI_ENV_TOKEN_CREDENTIALS, row[i].chosen);
        opt.client_id = row[i].client;
        opt.object_id = row[i].object;
        begin();
        expect_request("GET " ARC_PATH, &row[i].has, 1);
        if (!row[i].alone && !row[i].chosen) assert_string_equal(flow.records[0].outcome, "unavailable");
        answer(400, "", NO_SUCH);
        expect_failed(AZREDIS_E_ENTRA, row[i].client || row[i].object ? "the identity that was asked for is not"
                      : row[i].alone ? "AZURE_CLIENT_ID counts in the default chain" : "the identity of AZURE_CLIENT_ID is not");
        finish();
    }
}

/* A user-assigned identity where the endpoint has no way to ask for it: nothing is sent. */
static void test_what_cannot_be_asked(void **state) {
    static const struct { const char *url, *print, *msi, *secret, *client, *object, *resource, *env, *says; } row[] = {
        { NULL, NULL, "http://localhost:1/", NULL, CLIENT, NULL, NULL, NULL, "Cloud Shell cannot be asked for an identity by its client id" },
        { NULL, NULL, "http://localhost:1/", NULL, NULL, OBJECT, NULL, NULL, "by its object id" },
        { NULL, NULL, "http://localhost:1/", NULL, NULL, NULL, RESOURCE, NULL, "by its resource id" },
        { NULL, NULL, "http://localhost:1/", NULL, NULL, NULL, NULL, CLIENT, "unset AZURE_CLIENT_ID" },
        { "https://localhost:1/", PRINT, NULL, NULL, CLIENT, NULL, NULL, NULL, "Service Fabric cannot be asked" },
        { NULL, NULL, "http://localhost:1/", "S", NULL, OBJECT, NULL, NULL, "Azure ML (App Service 2017) cannot be asked for an identity by its object id; unset "
          "the option and give its client id" },
        { NULL, NULL, "http://localhost:1/", "S", NULL, NULL, RESOURCE, NULL, "by its resource id" },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        if (row[i].env) {
            set_env(AZRI_ENV_TOKEN_CREDENTIALS, "ManagedIdentityCredential");
            set_env(AZRI_ENV_CLIENT_ID, row[i].env);
        } else
            managed();
        endpoint(row[i].url, row[i].url ? "H" : NULL, row[i].print);
        msi(row[i].msi, row[i].secret);
        opt.client_id = row[i].client;
        opt.object_id = row[i].object;
        opt.resource_id = row[i].resource;
        begin();
        expect_failed(AZREDIS_E_ARG, row[i].says);
        assert_string_equal(flow.records[flow.record_count - 1].outcome, "failed");
        finish();
    }
}

static void test_options(void **state) {
    static const struct { const char *client, *object, *resource, *managed_client, *says; } row[] = {
        { CLIENT, OBJECT, NULL, NULL, "give one" }, { CLIENT, NULL, RESOURCE, NULL, "give one" }, { NULL, OBJECT, RESOURCE, NULL, "give one" },
        { "a\r\nX: y", NULL, NULL, NULL, "client id" }, { "a&resource=b", NULL, NULL, NULL, "client id" }, { "a#b", NULL, NULL, NULL, "client id" },
        { "a b", NULL, NULL, NULL, "client id" }, { "\"a\"", NULL, NULL, NULL, "client id" },
        { NULL, OBJECT "\r\n", NULL, NULL, "object_id" }, { NULL, "a&b", NULL, NULL, "object_id" }, { NULL, "a b", NULL, NULL, "object_id" },
        { NULL, "'a'", NULL, NULL, "object_id" }, { NULL, "a#", NULL, NULL, "object_id" },
        { NULL, NULL, "/a\r\nX: y", NULL, "resource_id" }, { NULL, NULL, "/a&b=c", NULL, "resource_id" }, { NULL, NULL, "/a#b", NULL, "resource_id" },
        { NULL, NULL, "/a\"b", NULL, "resource_id" }, { NULL, NULL, "/a?b", NULL, "resource_id" }, { NULL, NULL, "a/b", NULL, "resource_id" },
        { NULL, NULL, "/a\xc3\xa9", NULL, "resource_id" }, { NULL, NULL, NULL, CLIENT, "option client_id" },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        managed();
        opt.client_id = row[i].client;
        opt.object_id = row[i].object;
        opt.resource_id = row[i].resource;
        opt.managed_client_id = row[i].managed_client;
        assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
        if (!strstr(err.message, row[i].says)) fail_msg("'%s' is not in: %s", row[i].says, err.message);
        assert_int_equal(living, 0);
    }
    for (i = 0; i < 3; i++) {                          /* of no use to another identity, which would not be the one meant */
        (void)setup(NULL);
        app();
        *(i == 0 ? &opt.object_id : i == 1 ? &opt.resource_id : &opt.managed_client_id) = i == 1 ? RESOURCE : OBJECT;
        assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
        if (!strstr(err.message, "name a managed identity")) fail_msg("%s", err.message);
        assert_int_equal(living, 0);
    }
    (void)setup(NULL);
    chained();
    opt.managed_client_id = CLIENT;                    /* so that client_id can be the workload identity's */
    opt.client_id = "other";
    begin();
    expect_request("GET ", (const char *const[]){ "&client_id=" CLIENT " " }, 1);
    net(AZREDIS_E_NOMEM, 0, "none");
    finish();
}

/* What the environment says is as hostile. */
static void test_environment(void **state) {
    static const struct { const char *url, *header, *print, *pod, *client, *says; } row[] = {
        { "http://127.0.0.1:1/", "H\r\nX: y", NULL, NULL, NULL, "IDENTITY_HEADER: it holds a line end" },
        { "http://127.0.0.1:1/", "H\x7f", NULL, NULL, NULL, "IDENTITY_HEADER" },
        { "http://127.0.0.1:1/a b", "H", NULL, NULL, NULL, "IDENTITY_ENDPOINT" }, { "http://127.0.0.1:1/\r\nX: y", "H", NULL, NULL, NULL, "IDENTITY_ENDPOINT" },
        { "ftp://127.0.0.1:1/", "H", NULL, NULL, NULL, "IDENTITY_ENDPOINT" }, { "http://u@127.0.0.1/", "H", NULL, NULL, NULL, "IDENTITY_ENDPOINT" },
        { "http://evil.example/", "H", NULL, NULL, NULL, "without TLS" }, { "http://8.8.8.8/", "H", NULL, NULL, NULL, "without TLS" },
        { "http://172.32.0.1/", "H", NULL, NULL, NULL, "without TLS" }, { "http://[2001:db8::1]/", "H", NULL, NULL, NULL, "without TLS" },
        { "http://127.0.0.1.evil.example/", "H", NULL, NULL, NULL, "without TLS" }, { "http://127.0.0.1/", "H", PRINT, NULL, NULL, "must be https" },
        { NULL, NULL, NULL, "http://10.0.0.1/path", NULL, "AZURE_POD_IDENTITY_AUTHORITY_HOST" },
        { NULL, NULL, NULL, "10.0.0.1", NULL, "AZURE_POD_IDENTITY_AUTHORITY_HOST" },
        { NULL, NULL, NULL, NULL, "a&b", "AZURE_CLIENT_ID" }, { NULL, NULL, NULL, NULL, "a\nb", "AZURE_CLIENT_ID" },
    };
    static const char *const near[] = { "http://127.0.0.1:1/", "http://localhost/", "http://[::1]:1/", "http://169.254.129.3:8081/msi/token",
        "http://172.16.1.2:8081/msi/token", "http://10.1.2.3/", "http://192.168.0.1/", "http://[fe80::1]/", "http://[fd00::1]/",
        "https://identity.example/msi/token" };
    char longest[1100];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        set_env(AZRI_ENV_TOKEN_CREDENTIALS, "ManagedIdentityCredential");
        endpoint(row[i].url, row[i].header, row[i].print);
        if (row[i].pod) set_env(AZRI_ENV_POD_AUTHORITY, row[i].pod);
        if (row[i].client) set_env(AZRI_ENV_CLIENT_ID, row[i].client);
        begin();
        expect_failed(AZREDIS_E_ARG, row[i].says);
        assert_null(strstr(flow.error.message, "X: y"));
        finish();
    }
    for (i = 0; i < sizeof near / sizeof near[0]; i++) {
        (void)setup(NULL);
        managed();
        endpoint(near[i], "H", NULL);
        begin();
        expect_asked();
        net(AZREDIS_E_NOMEM, 0, "none");
        finish();
    }
    (void)setup(NULL);
    managed();
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "http://127.0.0.1/", 17);
    longest[17 + 1000] = '\0';
    endpoint(longest, "H", NULL);
    begin();
    expect_failed(AZREDIS_E_ARG, "more than 1023 bytes");
    finish();
}

/* Service Fabric's thumbprint. */
static void test_thumbprint(void **state) {
    static const struct { const char *text; int good; } row[] = {
        { PRINT, 1 }, { "54887e12e3f92b9ce742fd462a877cb6d435b7fa", 1 },
        { "54:88:7E:12:E3:F9:2B:9C:E7:42:FD:46:2A:87:7C:B6:D4:35:B7:FA", 1 },
        { "  54887E12 E3F92B9C E742FD46 2A877CB6 D435B7FA ", 1 },
        { "54887E12E3F92B9CE742FD462A877CB6D435B7F", 0 }, { PRINT "1", 0 }, { "g4887E12E3F92B9CE742FD462A877CB6D435B7FA", 0 },
        { "54887E12E3F92B9CE742FD462A877CB6D435B7FA54887E12E3F92B9CE742FD46", 0 }, { ":", 0 }, { PRINT "\n", 0 },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        managed();
        endpoint("https://10.0.0.4:2377/x", "H", row[i].text);
        begin();
        if (row[i].good) {
            expect_asked();
            assert_string_equal(step.pin, "54887e12e3f92b9ce742fd462a877cb6d435b7fa");
            net(AZREDIS_E_CERT, 0, "certificate refused");                     /* c.7 row 20 */
            expect_failed(AZREDIS_E_CERT, "Service Fabric at 10.0.0.4:2377: certificate refused");
            assert_int_equal(flow.error.retryable, 0);
        } else
            expect_failed(AZREDIS_E_ARG, "IDENTITY_SERVER_THUMBPRINT");
        finish();
    }
}

/* ---- 6.6: Azure Arc ---- */

static void arc(void) {
    managed();
    env.arc_agent = 1;
}

static void test_arc(void **state) {
    static const char *const first[] = { "\r\nHost: 127.0.0.1:40342\r\n", "\r\nMetadata: true\r\n" };
    static const char *const second[] = { "\r\nMetadata: true\r\n", "\r\nAuthorization: Basic " KEY "\r\n" };
    (void)state;
    arc();
    begin();
    expect_request("GET " ARC_PATH "?api-version=2020-06-01" QUERY " HTTP/1.1\r\n", first, 2);
    assert_null(strstr(asked, "Authorization"));
    answer(401, REALM, "{\"error\":\"unauthorized\"}");
    assert_int_equal(next(), AZRI_STEP_FILE);
    assert_string_equal(step.file, "a1.key");
    assert_string_equal(step.directory, "/var/opt/azcmagent/tokens");
    assert_int_equal(step.file_max, 4096);
    keyed();
    expect_request("GET " ARC_PATH "?api-version=2020-06-01" QUERY " HTTP/1.1\r\n", second, 2);
    answer_token(day_token, BODY);
    expect_token();
    finish();
}

static void test_arc_challenges(void **state) {
    static const struct { const char *header; int good; } row[] = {
        { REALM, 1 }, { "WWW-Authenticate: Basic realm=\"/var/opt/azcmagent/tokens/a1.key\"\r\n", 1 },
        { "www-authenticate: basic realm=/var/opt/azcmagent/tokens/a1.key\r\n", 1 },
        { "WWW-Authenticate: Basic   Realm=/var/opt/azcmagent/tokens/a1.key\r\n", 1 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a1.txt\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/etc/azcmagent/a1.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens2/a1.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/../../../../etc/x.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/..key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/sub/a1.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens//a1.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/\r\n", 0 }, { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens\r\n", 0 },
        { "WWW-Authenticate: Basic realm=tokens/a1.key\r\n", 0 }, { "WWW-Authenticate: Basic realm=\r\n", 0 },
        { "WWW-Authenticate: Basic realm=\"\"\r\n", 0 }, { "WWW-Authenticate: Basic realm=\"\r\n", 0 },
        { "WWW-Authenticate: Bearer realm=/var/opt/azcmagent/tokens/a1.key\r\n", 0 }, { "", 0 }, { "WWW-Authenticate: \r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a1.key, error=x\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a%2e%2e1.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a\x01" "1.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a1.key \tb.key\r\n", 0 },
        { "WWW-Authenticate: Basic realm='/var/opt/azcmagent/tokens/a1.key'\r\n", 0 },
        { REALM REALM, 0 }, { REALM "WWW-Authenticate: Basic realm=/etc/b.key\r\n", 0 },
    };
    char longest[1300];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        arc();
        begin();
        expect_asked();
        answer(401, row[i].header, "{}");
        if (row[i].good) {
            assert_int_equal(next(), AZRI_STEP_FILE);
            assert_string_equal(step.file, "a1.key");
            file(AZREDIS_E_NO_CREDENTIAL, "", 0, 2);
            expect_failed(AZREDIS_E_NO_CREDENTIAL, "cannot read the file a1.key");
        } else {
            expect_failed(AZREDIS_E_HTTP, "must be a key file in /var/opt/azcmagent/tokens");
            assert_int_equal(flow.error.retryable, 0);
        }
        finish();
    }
    (void)setup(NULL);
    arc();
    begin();
    expect_asked();
    (void)snprintf(longest, sizeof longest, "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/%0*d.key\r\n", 1100, 1);
    answer(401, longest, "{}");                        /* a line that is not kept whole counts for nothing */
    expect_failed(AZREDIS_E_HTTP, "without a challenge");
    finish();
    for (i = 250; i < 260; i++) {                      /* names of at most 255 bytes */
        (void)setup(NULL);
        (void)snprintf(longest, sizeof longest, "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/%0*d.key\r\n", (int)i - 4, 1);
        arc();
        begin();
        expect_asked();
        answer(401, longest, "{}");
        assert_int_equal(next(), i <= 255 ? AZRI_STEP_FILE : AZRI_STEP_DONE);
        if (i <= 255) file(AZREDIS_E_NO_CREDENTIAL, "", 0, 2);
        finish();
    }
}

/* What the file holds goes into a header line. */
static void test_arc_keys(void **state) {
    static char key[4098];
    static const struct { const char *text; size_t n; int good; } row[] = {
        { "k\n", 2, 1 }, { "k\r\n", 3, 1 }, { "k", 1, 1 }, { key, 4096, 1 }, { "", 0, 0 }, { "\n", 1, 0 }, { "k\n\n", 3, 0 },
        { "k\r\nX: y", 7, 0 }, { "k\0k", 3, 0 }, { "k k", 3, 0 }, { "k\x80", 2, 0 },
    };
    static const struct { azredis_status st; int code; const char *says; } wrong[] = {
        { AZREDIS_E_NO_CREDENTIAL, 13, "must be in the group himds" }, { AZREDIS_E_NO_CREDENTIAL, 40, "cannot read the file" },
        { AZREDIS_E_LIMIT, 0, "cannot read the file" }, { AZREDIS_E_NOMEM, 0, "cannot read the file" },
    };
    size_t i;
    (void)state;
    memset(key, 'k', sizeof key);
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        arc();
        begin();
        expect_asked();
        answer(401, REALM, "");
        assert_int_equal(next(), AZRI_STEP_FILE);
        file(AZREDIS_OK, row[i].text, row[i].n, 0);
        if (row[i].good) {
            expect_request("GET ", (const char *const[]){ "\r\nAuthorization: Basic k" }, 1);
            answer(401, REALM, "{\"error\":\"unauthorized\"}");          /* not asked for ever */
            expect_failed(AZREDIS_E_ENTRA, "restart himds");
        } else
            expect_failed(AZREDIS_E_TOKEN, "key file is empty, or holds");
        finish();
    }
    for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        (void)setup(NULL);
        arc();
        begin();
        expect_asked();
        answer(401, REALM, "");
        assert_int_equal(next(), AZRI_STEP_FILE);
        file(wrong[i].st, "", 0, wrong[i].code);
        expect_failed(wrong[i].st, wrong[i].says);
        assert_true((strstr(flow.error.message, "himds") != NULL) == (wrong[i].code == 13));
        finish();
    }
}

/* c.7 row 18: no file is opened for an answer that came without a challenge. */
static void test_arc_without_challenge(void **state) {
    (void)state;
    arc();
    begin();
    expect_asked();
    answer_token(day_token, BODY);
    expect_failed(AZREDIS_E_HTTP, "gave a token that it had not asked a proof for");
    finish();
}

/* A key is good once: trouble behind the challenge begins again with the first question, and the tries end. */
static void test_arc_retries(void **state) {
    int i;
    (void)state;
    arc();
    begin();
    for (i = 0; i < 4; i++) {
        expect_asked();
        assert_null(strstr(asked, "Authorization"));
        answer(401, REALM, "");
        assert_int_equal(next(), AZRI_STEP_FILE);
        keyed();
        expect_asked();
        assert_non_null(strstr(asked, "Authorization: Basic " KEY));
        answer(503, "", "{\"error\":\"busy\",\"error_description\":\"key " KEY " is fine\"}");
        if (i < 3) assert_int_equal(wait_for(), 1000u << i);
    }
    expect_failed(AZREDIS_E_ENTRA, "Azure Arc at 127.0.0.1:40342 answered HTTP 503, busy: key [hidden] is fine (try 4)");
    finish();
}

/* c.7 row 19, and the second guard, which looks into the token. */
static void test_whose(void **state) {
    static const struct { int is_arc; const char *client, *object, *resource, *members; int good; const char *says; } row[] = {
        { 1, CLIENT, NULL, NULL, "\"expires_in\":9", 0, "without saying whose" },
        { 1, CLIENT, NULL, NULL, "\"expires_in\":9,\"client_id\":\"" OBJECT "\"", 0, "another identity" },
        { 1, CLIENT, NULL, NULL, "\"expires_in\":9,\"client_id\":\"AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE\"", 1, NULL },
        { 1, CLIENT, NULL, NULL, "\"expires_in\":9,\"client_id\":\"" CLIENT "\",\"client_id\":\"x\"", 0, "another identity" },
        { 1, CLIENT, NULL, NULL, "\"expires_in\":9,\"client_id\":\"x\",\"client_id\":\"" CLIENT "\"", 0, "another identity" },
        { 1, CLIENT, NULL, NULL, "\"expires_in\":9,\"object_id\":\"" CLIENT "\"", 0, "without saying whose" },
        { 1, CLIENT, NULL, NULL, "\"expires_in\":9,\"client_id\":5", 0, "without saying whose" },
        { 1, NULL, OBJECT, NULL, "\"expires_in\":9,\"object_id\":\"" OBJECT "\"", 1, NULL },
        { 1, NULL, OBJECT, NULL, "\"expires_in\":9,\"client_id\":\"" OBJECT "\"", 0, "without saying whose" },
        { 1, NULL, NULL, "/a", "\"expires_in\":9,\"msi_res_id\":\"/A\"", 1, NULL },
        { 1, NULL, NULL, "/a", "\"expires_in\":9,\"mi_res_id\":\"/a\"", 1, NULL },
        { 1, NULL, NULL, "/a", "\"expires_in\":9,\"msi_res_id\":\"/b\"", 0, "another identity" },
        { 1, NULL, NULL, "/a", "\"expires_in\":9", 0, "without saying whose" },
        { 1, "other", NULL, NULL, "\"expires_in\":9,\"client_id\":\"other\"", 0, "another identity" },     /* the token's appid differs */
        { 1, NULL, "other", NULL, "\"expires_in\":9,\"object_id\":\"other\"", 0, "another identity" },     /* its oid */
        { 0, CLIENT, NULL, NULL, "\"expires_in\":9", 1, NULL },
        { 0, CLIENT, NULL, NULL, "\"expires_in\":9,\"client_id\":\"x\"", 0, "another identity" },
        { 0, "other", NULL, NULL, "\"expires_in\":9", 0, "another identity" },
        { 0, NULL, "other", NULL, "\"expires_in\":9", 0, "another identity" },
        { 0, NULL, OBJECT, NULL, "\"expires_in\":9,\"client_id\":\"" CLIENT "\"", 1, NULL },
        { 0, NULL, NULL, "/a", "\"expires_in\":9", 1, NULL }, { 0, NULL, NULL, NULL, "\"expires_in\":9,\"client_id\":\"x\"", 1, NULL },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        managed();
        env.arc_agent = row[i].is_arc;
        opt.client_id = row[i].client;
        opt.object_id = row[i].object;
        opt.resource_id = row[i].resource;
        begin();
        expect_asked();
        if (row[i].is_arc) {
            answer(401, REALM, "");
            assert_int_equal(next(), AZRI_STEP_FILE);
            keyed();
            expect_asked();
        }
        answer_token(day_token, row[i].members);
        if (row[i].good) expect_token();
        else {
            expect_failed(AZREDIS_E_TOKEN, row[i].says);
            assert_int_equal(flow.error.retryable, 0);
        }
        finish();
    }
}

/* ---- 6.3: is it there, and is it Azure's ---- */

/* c.7 rows 1 and 2: one short request, then the other links. */
static void test_probe(void **state) {
    static const struct { azredis_status st; int code; } row[] = {
        { AZREDIS_E_NET, 111 }, { AZREDIS_E_NET, 101 }, { AZREDIS_E_TIMEOUT, 0 }, { AZREDIS_E_CLOSED, 0 },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        chained();
        begin();
        expect_asked();
        assert_int_equal(step.connect_ms, 1000);
        assert_int_equal(step.timeout_ms, 2200);
        now += 1000;
        net(row[i].st, row[i].code, "no way");
        expect_unavailable("IMDS at 169.254.169.254:80: no way");
        assert_int_equal(flow.records[2].ms, 1000);
        assert_int_equal(flow.record_count, 6);
        assert_int_equal(flow.error.retryable, 1);                  /* nothing negative is kept */
        azri_flow_start(&flow, &env, now);
        expect_asked();
        assert_int_equal(step.timeout_ms, 2200);
        answer_token(day_token, BODY);
        expect_token();
        azri_flow_start(&flow, &env, now);                          /* it won: it is asked alone, with all its time */
        expect_asked();
        assert_int_equal(step.timeout_ms, 10000);
        assert_int_equal(flow.record_count, 0);
        net(AZREDIS_E_NET, 111, "no way");
        assert_in_range(wait_for(), 800, 1200);
        finish();
    }
}

/* One answer of Azure's proves that it is there: from then on trouble is trouble, also in a chain. */
static void test_proven(void **state) {
    static const struct { int status; const char *body; azredis_status st; } row[] = {
        { 0, "", AZREDIS_OK }, { 502, "<html>", AZREDIS_OK }, { 401, "<html>", AZREDIS_E_HTTP }, { 200, "<html>", AZREDIS_E_JSON },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        chained();
        begin();
        expect_asked();
        answer(404, "", "{\"error\":\"not_found\"}");
        assert_in_range(wait_for(), 800, 1200);
        expect_asked();
        assert_int_equal(step.connect_ms, 5000);
        assert_int_equal(step.timeout_ms, 10000);
        if (row[i].status) answer(row[i].status, "", row[i].body);
        else net(AZREDIS_E_NET, 111, "Connection refused");
        if (row[i].st == AZREDIS_OK) {
            assert_in_range(wait_for(), 1600, 2400);
            expect_asked();
            answer_token(day_token, BODY);
            expect_token();
        } else {
            expect_failed(row[i].st, "IMDS at 169.254.169.254:80 answered HTTP");
            assert_string_equal(flow.records[2].outcome, "failed");
        }
        finish();
    }
}

/* Alone it is asked again, and fails at last; c.7 row 2. */
static void test_alone(void **state) {
    static const uint32_t waits[] = { 1000, 2000, 4000, 8000, 16000 };
    size_t i;
    (void)state;
    managed();
    begin();
    for (i = 0; i < 5; i++) {
        expect_asked();
        assert_int_equal(step.timeout_ms, 10000);
        now += 10000;
        net(AZREDIS_E_TIMEOUT, 0, "no complete answer");
        assert_in_range(wait_for(), waits[i] * 8 / 10, waits[i] * 12 / 10);
    }
    expect_asked();
    now += 10000;
    net(AZREDIS_E_TIMEOUT, 0, "no complete answer");
    expect_failed(AZREDIS_E_TIMEOUT, "no complete answer; is this a machine of Azure's");
    assert_int_equal(flow.error.retryable, 1);
    finish();
}

/* A stand-in for IMDS in a cluster is there: no probe, and plain http to any host. */
static void test_pod_authority(void **state) {
    static const char *const host[] = { "\r\nHost: nmi.kube-system:2579\r\n" };
    (void)state;
    chained();
    set_env(AZRI_ENV_POD_AUTHORITY, "http://nmi.kube-system:2579/");
    begin();
    expect_request("GET " ARC_PATH "?api-version=2018-02-01" QUERY " HTTP/1.1\r\n", host, 1);
    assert_int_equal(step.timeout_ms, 10000);
    net(AZREDIS_E_NET, 111, "no way");
    assert_in_range(wait_for(), 800, 1200);
    expect_asked();
    answer(404, "", "<html>stub</html>");
    expect_unavailable("another metadata service answered");
    finish();
}

/* EC2 and GCE have the same address; so does a captive portal, c.7 rows 9 and 10. One request, no retry. */
static void test_foreign(void **state) {
    static const struct { int status; const char *body; const char *says; } row[] = {
        { 401, "<?xml version=\"1.0\"?><html>401 - Unauthorized</html>", "HTTP 401" },
        { 403, "Missing Metadata-Flavor:Google header.", "HTTP 403" }, { 404, "<html>404 - Not Found</html>", "HTTP 404" },
        { 404, "{\"code\":\"NotAuthorizedOrNotFound\",\"message\":\"m\"}", "HTTP 404" }, { 404, "", "HTTP 404" },
        { 404, "{\"error\":{\"code\":404,\"message\":\"m\",\"status\":\"NOT_FOUND\"}}", "HTTP 404" },
        { 400, "{\"statusCode\":400,\"message\":\"m\"}", "HTTP 400" },
        { 403, "connecting to 169.254.169.254:80: dial tcp: connect: A socket operation was attempted to an unreachable network.", "HTTP 403" },
        { 200, "<html>Welcome</html>", "HTTP 200" }, { 200, "", "HTTP 200" }, { 200, "{}", "HTTP 200" }, { 200, "{\"access_token\":5}", "HTTP 200" },
        { 200, "{\"access_token\":\"\"}", "HTTP 200" }, { 200, "[{\"access_token\":\"x\"}]", "HTTP 200" }, { 502, "<html>Bad Gateway</html>", "HTTP 502" },
        { 503, "{\"error\":5}", "HTTP 503" }, { 302, "", "HTTP 302" },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        chained();
        begin();
        expect_asked();
        answer(row[i].status, row[i].status == 302 ? "Location: http://evil.example/\r\n" : "", row[i].body);
        expect_unavailable("another metadata service answered at 169.254.169.254:80");
        assert_non_null(strstr(flow.records[2].reason, row[i].says));
        assert_int_equal(flow.error.retryable, row[i].status == 200 || row[i].status >= 500);
        finish();
    }
}

/* The same, asked for by name: FAILED, and what is worth it is tried again. */
static void test_foreign_alone(void **state) {
    static const struct { int status; const char *body, *says; azredis_status st; int again; } row[] = {
        { 401, "<html>", "answered HTTP 401: <html>", AZREDIS_E_HTTP, 0 },
        { 403, "dial tcp: an unreachable network", "Docker Desktop's proxy", AZREDIS_E_HTTP, 0 },
        { 200, "<html>Welcome</html>", "HTTP 200 without a token: HTML (a captive portal?)", AZREDIS_E_JSON, 0 },
        { 200, "{}", "no access_token in it", AZREDIS_E_JSON, 0 }, { 200, "", "not JSON", AZREDIS_E_JSON, 0 },
        { 404, "", "", AZREDIS_OK, 1 }, { 502, "<html>", "", AZREDIS_OK, 1 }, { 410, "", "", AZREDIS_OK, 1 },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        managed();
        begin();
        expect_asked();
        answer(row[i].status, "", row[i].body);
        if (row[i].again) assert_true(wait_for() >= 800);
        else {
            expect_failed(row[i].st, row[i].says);
            assert_int_equal(flow.error.retryable, row[i].status == 200);
        }
        finish();
    }
}

/* c.7 row 8; where a variable proves the platform, it is no reason to go on. */
static void test_no_such_identity(void **state) {
    static const struct { int chain; const char *client, *url, *body, *says; } row[] = {
        { 1, NULL, NULL, NO_SUCH, "Identity not found; switch on the system-assigned identity, or name another" },
        { 1, CLIENT, NULL, NO_SUCH, "the identity that was asked for is not assigned here" },
        { 0, NULL, NULL, NO_SUCH, "switch on the system-assigned identity" }, { 0, CLIENT, NULL, NO_SUCH, "assign it, or mend its id" },
        { 1, NULL, "http://localhost:1/", "{\"statusCode\":400,\"message\":\"No User Assigned or Delegated Managed Identity found\","
          "\"correlationId\":\"c-1\"}", "App Service at localhost:1 answered HTTP 400, error: No User Assigned" },
        { 0, CLIENT, "http://localhost:1/", "{\"statusCode\":400,\"message\":\"No User Assigned or Delegated Managed Identity found\","
          "\"correlationId\":\"c-1\"}", "not assigned here" },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        if (!row[i].chain) managed();
        opt.client_id = row[i].client;
        endpoint(row[i].url, row[i].url ? "H" : NULL, NULL);
        begin();
        expect_asked();
        answer(400, "", row[i].body);
        if (row[i].chain && !row[i].client && !row[i].url) expect_unavailable(row[i].says);
        else {
            expect_failed(AZREDIS_E_ENTRA, row[i].says);
            assert_int_equal(flow.error.http_status, 400);
            if (row[i].url) assert_string_equal(flow.error.request_id, "c-1");
        }
        finish();
    }
}

/* Refusals that end the walk, also in a chain: it is Azure that says so. */
static void test_refusals(void **state) {
    static const struct { const char *url, *print, *msi, *secret, *body, *says; int status; } row[] = {
        { NULL, NULL, NULL, NULL, "{\"error\":\"bad_request_102\",\"error_description\":\"Required metadata header not specified\"}", "bad_request_102", 400 },
        { NULL, NULL, NULL, NULL, "{\"error\":\"forbidden\"}", "IMDS at 169.254.169.254:80 answered HTTP 403, forbidden", 403 },
        { NULL, NULL, NULL, NULL, "{\"error\":\"unauthorized\"}", "HTTP 401", 401 },
        { "http://localhost:1/", NULL, NULL, NULL, "{\"statusCode\":401,\"message\":\"m\"}", "the platform has changed its variables", 401 },
        { "http://localhost:1/", NULL, NULL, NULL, "", "answered HTTP 404", 404 },
        { NULL, NULL, "http://localhost:1/", NULL, "{\"error\":{\"code\":\"AudienceNotSupported\",\"message\":\"m\"}}", "Cloud Shell at localhost:1 answered "
          "HTTP 400, AudienceNotSupported: m", 400 },
        { "https://localhost:1/", PRINT, NULL, NULL, "{\"error\":{\"code\":\"ManagedIdentityNotFound\",\"message\":\"m\",\"correlationId\":\"c\"}}",
          "the application's manifest gives this service no identity", 404 },
        { NULL, NULL, "http://localhost:1/", "abc~8Q+/=&%#abc", "{\"statusCode\":401,\"message\":\"secret abc~8Q+/=&%#abc is old\"}", "secret [hidden] is old", 401 },
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        chained();
        if (row[i].print || row[i].msi) managed();
        endpoint(row[i].url, row[i].url ? "H" : NULL, row[i].print);
        msi(row[i].msi, row[i].secret);
        begin();
        expect_asked();
        answer(row[i].status, "", row[i].body);
        expect_failed(row[i].body[0] ? AZREDIS_E_ENTRA : AZREDIS_E_HTTP, row[i].says);
        assert_int_equal(flow.error.retryable, 0);
        assert_string_equal(flow.records[flow.record_count - 1].outcome, "failed");
        finish();
    }
}

/* ---- 6.9: retries ---- */

/* c.7 row 5. */
static void test_imds_retries(void **state) {
    (void)state;
    managed();
    begin();
    expect_asked();
    answer(404, "", "{\"error\":\"not_found\"}");
    assert_in_range(wait_for(), 800, 1200);
    expect_asked();
    answer(404, "", "");
    assert_in_range(wait_for(), 1600, 2400);
    expect_asked();
    answer_token(day_token, BODY);
    expect_token();
    finish();
}

/* c.7 row 6: being updated has seven tries of its own, and the others stay. */
static void test_imds_updated(void **state) {
    int i;
    (void)state;
    managed();
    begin();
    expect_asked();
    answer(500, "", "{\"error\":\"x\"}");
    assert_in_range(wait_for(), 800, 1200);
    for (i = 0; i < 6; i++) {
        expect_asked();
        answer(410, "", "{\"error\":\"gone\"}");
        assert_int_equal(wait_for(), 10000);
    }
    expect_asked();
    answer(500, "", "{\"error\":\"x\"}");
    assert_in_range(wait_for(), 1600, 2400);
    expect_asked();
    answer_token(day_token, BODY);
    expect_token();
    finish();
    (void)setup(NULL);
    managed();
    begin();
    for (i = 0; i < 7; i++) {
        expect_asked();
        answer(410, "", "");
        assert_int_equal(wait_for(), 10000);
    }
    expect_asked();
    answer(410, "", "");
    expect_failed(AZREDIS_E_HTTP, "it is being updated, which takes up to 70 s");
    finish();
}

/* c.7 row 7, and the same elsewhere. */
static void test_retry_after(void **state) {
    int app;
    (void)state;
    for (app = 0; app < 2; app++) {
        (void)setup(NULL);
        managed();
        if (app) endpoint("http://localhost:1/", "H", NULL);
        begin();
        expect_asked();
        answer(429, "Retry-After: 7\r\n", "{\"error\":\"throttled\"}");
        assert_int_equal(wait_for(), 7000);
        expect_asked();
        answer_token(day_token, BODY);
        expect_token();
        finish();
    }
}

static void test_other_retries(void **state) {
    static const int again[] = { 408, 429, 500, 502, 503, 504 }, never[] = { 400, 401, 403, 404, 410, 501, 505 };
    size_t i;
    (void)state;
    for (i = 0; i < 6; i++) {
        (void)setup(NULL);
        if (i & 1) managed();
        endpoint("http://localhost:1/", "H", NULL);
        begin();
        expect_asked();
        answer(again[i], "", "");
        assert_int_equal(wait_for(), 1000);
        expect_asked();
        net(AZREDIS_E_NET, 111, "Connection refused");           /* a sidecar that does not listen yet */
        assert_int_equal(wait_for(), 2000);
        expect_asked();
        answer(again[i], "", "");
        assert_int_equal(wait_for(), 4000);
        expect_asked();
        answer(again[i], "", "");
        expect_failed(AZREDIS_E_HTTP, "(try 4)");
        assert_int_equal(flow.error.retryable, 1);
        finish();
    }
    for (i = 0; i < 7; i++) {
        (void)setup(NULL);
        managed();
        endpoint("http://localhost:1/", "H", NULL);
        begin();
        expect_asked();
        answer(never[i], "", "");
        expect_failed(AZREDIS_E_HTTP, "App Service at localhost:1 answered HTTP");
        finish();
    }
}

/* c.7 row 11, alone; row 25. */
static void test_transport(void **state) {
    (void)state;
    managed();
    begin();
    expect_asked();
    answer(302, "Location: http://evil.example/\r\n", "");
    expect_failed(AZREDIS_E_HTTP, "never redirected");
    assert_int_equal(flow.error.retryable, 0);
    finish();
    (void)setup(NULL);
    managed();
    begin();
    expect_asked();
    raw_answer("HTTP/1.1 200 X\r\nContent-Length: 1000000000\r\n\r\n", 47, 0);
    expect_failed(AZREDIS_E_LIMIT, "IMDS at 169.254.169.254:80: HTTP answer: a body longer");
    finish();
    (void)setup(NULL);
    managed();
    begin();
    expect_asked();
    net(AZREDIS_E_NOMEM, 0, "TLS: out of memory");
    expect_failed(AZREDIS_E_NOMEM, "out of memory");
    assert_int_equal(flow.error.retryable, 1);         /* as every lack of memory is: it passes */
    finish();
}

/* c.7 row 24, and an endpoint that moves. */
static void test_read_again(void **state) {
    static const char *const first[] = { "\r\nX-IDENTITY-HEADER: H1\r\n" }, *const second[] = { "\r\nX-IDENTITY-HEADER: H2\r\n" };
    (void)state;
    managed();
    endpoint("http://localhost:1/a", "H1", NULL);
    begin();
    expect_request("GET /a?", first, 1);
    answer_token(day_token, BODY);
    expect_token();
    azri_env_free(&env, &mem);
    endpoint("http://localhost:2/b", "H2", NULL);
    azri_flow_start(&flow, &env, now);
    expect_request("GET /b?", second, 1);
    answer_token(day_token, BODY);
    expect_token();
    azri_env_free(&env, &mem);
    azri_flow_start(&flow, &env, now);
    expect_request("GET " ARC_PATH, NULL, 0);
    net(AZREDIS_E_NOMEM, 0, "none");
    finish();
}

/* ---- c.6: lives ---- */

static void test_lives(void **state) {
    static const struct { const char *members; uint64_t life, refresh; } row[] = {
        { "\"expires_in\":\"86400\",\"expires_on\":\"1800086400\"", 86400, 0 }, { "\"expires_on\":\"1800007200\"", 7200, 0 },
        { "\"expires_on\":1800007199", 7199, 0 }, { "\"expires_in\":86400,\"refresh_in\":43200", 86400, 43200 },
        { "\"expires_on\":\"01/15/2027 10:00:00 +00:00\"", 7200, 0 }, { "\"expires_on\":\"1/15/2027 10:00:00 AM +00:00\"", 7200, 0 },
        { "\"expires_on\":\"2027-01-15T10:00:00.0000000+00:00\"", 7200, 0 }, { "\"expires_on\":\"3600\"", 3600, 0 },
        { "\"expires_in\":3599", 3599, 0 }, { "\"expires_in\":\"3599\"", 3599, 0 }, { "\"expires_in\":200", 200, 0 },
        { "\"expires_in\":3600,\"refresh_in\":7200", 3600, 7200 },           /* >>token passes over such a refresh_in */
        { "\"expires_in\":1e3", 1000, 0 }, { "\"expires_in\":3599.7", 3599, 0 }, { "\"expires_in\":99999999999", 2592000, 0 },
        { "\"expires_in\":0", 86400, 0 }, { "\"expires_in\":-5", 86400, 0 }, { "\"expires_on\":\" 1800007200 \"", 7200, 0 },
        { "\"expires_on\":\"2027-01-15 10:00:00\"", 7200, 0 }, { "\"expires_on\":\"2027-01-15T15:30:00+05:30\"", 7200, 0 },
        { "\"expires_on\":\"1/15/2027 10:00:00\"", 7200, 0 }, { "\"expires_on\":\"2023-02-29T00:00:00Z\"", 86400, 0 },
        { "\"expires_on\":\"13/01/2020 0:00:00\"", 86400, 0 }, { "\"expires_on\":\"\"", 86400, 0 },
        { "\"expires_on\":\"tomorrow\"", 86400, 0 }, { "\"resource\":\"x\"", 86400, 0 }, { "\"expires_in\":\"abc\"", 86400, 0 },
    };
    static const char *const none[] = { "\"expires_in\":0", "\"expires_in\":-5", "\"expires_in\":\"abc\"", "" };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        (void)setup(NULL);
        managed();
        endpoint("http://localhost:1/", "H", NULL);
        begin();
        expect_asked();
        answer_token(day_token, row[i].members);
        expect_token();
        if (flow.life_ms != row[i].life * 1000) fail_msg("%s: %llu", row[i].members, (unsigned long long)flow.life_ms);
        assert_int_equal(flow.refresh_ms, row[i].refresh * 1000);
        finish();
    }
    for (i = 0; i < sizeof none / sizeof none[0]; i++) {        /* and the token itself does not say either */
        (void)setup(NULL);
        managed();
        begin();
        expect_asked();
        answer_token(bare_token, none[i]);
        expect_failed(AZREDIS_E_TOKEN, "nothing says when the token expires");
        finish();
    }
}

/* ---- cut short, out of memory ---- */

/* Each answer cut at each byte: no crash, no success, and none is taken for an identity that is not there. */
static void test_truncated(void **state) {
    static const char *const body[] = { "{\"access_token\":\"e30.eyJvaWQiOiJvIiwiZXhwIjoxODAwMDg2NDAwfQ.c\",\"expires_on\":\"1800086399\"}",
        NO_SUCH, "{\"statusCode\":400,\"message\":\"No User Assigned or Delegated Managed Identity found\",\"correlationId\":\"c\"}",
        "{\"error\":{\"code\":\"ManagedIdentityNotFound\",\"message\":\"m\",\"correlationId\":\"c\"}}", "<html>Welcome</html>" };
    static char text[600];
    size_t i, n, k;
    int chain;
    (void)state;
    for (i = 0; i < sizeof body / sizeof body[0]; i++) {
        n = (size_t)snprintf(text, sizeof text, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s", i ? 400 : 200, strlen(body[i]), body[i]);
        for (k = 0; k < n; k++)
            for (chain = 0; chain < 2; chain++) {
                azri_step_kind kind;
                (void)setup(NULL);
                if (!chain) managed();
                begin();
                expect_asked();
                raw_answer(text, k, 0);
                kind = next_without_tools();
                assert_true(kind == AZRI_STEP_DONE || kind == AZRI_STEP_WAIT);
                assert_true(kind == AZRI_STEP_WAIT || flow.status != AZREDIS_OK);
                finish();
                n = strlen(text);
            }
    }
}

/* Every allocation fails in turn, also those of Azure Arc's stages; nothing leaks, and the walk says so. */
static void test_no_memory(void **state) {
    int variant, n, done;
    (void)state;
    for (variant = 0; variant < 3; variant++)
        for (n = 0, done = 0; !done; n++) {
            (void)setup(NULL);
            managed();
            if (variant == 1) endpoint("https://localhost:1/", SECRET_KEY, PRINT);
            if (variant == 2) {
                env.arc_agent = 1;
                opt.client_id = CLIENT;
            }
            begin();
            allow = n;
            if (next() == AZRI_STEP_HTTP) {
                if (variant == 2) answer(401, REALM, "{\"error\":\"unauthorized\"}");
                else answer_token(day_token, BODY);
            }
            if (variant == 2 && next() == AZRI_STEP_FILE) {
                keyed();
                if (next() == AZRI_STEP_HTTP) answer_token(day_token, BODY);
            }
            while (next() != AZRI_STEP_DONE) now += step.wait_ms + 1;
            done = flow.status == AZREDIS_OK;
            if (!done && flow.status != AZREDIS_E_NOMEM) fail_msg("variant %d, allocation %d: %s", variant, n, flow.error.message);
            allow = -1;
            finish();
            assert_true(n < 100);
        }
}

#define T(f) cmocka_unit_test_setup(f, setup)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_detection), T(test_not_the_node), T(test_imds), T(test_other_requests), T(test_resource),
        T(test_client_id_of_the_environment), T(test_what_cannot_be_asked), T(test_options), T(test_environment),
        T(test_thumbprint), T(test_arc), T(test_arc_challenges), T(test_arc_keys), T(test_arc_without_challenge),
        T(test_arc_retries), T(test_whose), T(test_probe), T(test_proven), T(test_alone), T(test_pod_authority), T(test_foreign),
        T(test_foreign_alone), T(test_no_such_identity), T(test_refusals), T(test_imds_retries), T(test_imds_updated),
        T(test_retry_after), T(test_other_retries), T(test_transport), T(test_read_again), T(test_lives),
        T(test_truncated), T(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
