/* Which links a walk asks and in which order, what each leaves behind, and that the one that won stays. */
#include "flow.h"

static const char *const chain[] = { "environment", "workload-identity", "managed-identity", "azure-cli",
                                     "azure-developer-cli", "azure-powershell" };

/* Names of the links that a walk with this variable would ask, or "!" and the error. */
static const char *links(const char *chosen) {
    static char text[500];
    size_t i;
    (void)setup(NULL);
    if (chosen) set_env(AZRI_ENV_TOKEN_CREDENTIALS, chosen);
    begin();
    text[0] = '\0';
    if (azri_walk_plan(&flow) != AZREDIS_OK) (void)snprintf(text, sizeof text, "!%s", flow.error.message);
    for (i = 0; text[0] != '!' && i < flow.link_count; i++)
        (void)snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "", azri_sources[flow.links[i]].name);
    finish();
    return text;
}

static void test_variable(void **state) {
    static const struct { const char *value, *is; } row[] = {
        { NULL, "environment workload-identity managed-identity azure-cli azure-developer-cli azure-powershell" },
        { "prod", "environment workload-identity managed-identity" }, { " PROD\t", "environment workload-identity managed-identity" },
        { "dev", "azure-cli azure-developer-cli azure-powershell" }, { "Dev", "azure-cli azure-developer-cli azure-powershell" },
        { "EnvironmentCredential", "environment" }, { "environmentcredential", "environment" },
        { "WorkloadIdentityCredential", "workload-identity" }, { " ManagedIdentityCredential ", "managed-identity" },
        { "AzureCliCredential", "azure-cli" }, { "AzureDeveloperCliCredential", "azure-developer-cli" },
        { "AzurePowerShellCredential", "azure-powershell" },
        { "ManagedIdentityCredential,EnvironmentCredential", "managed-identity environment" },
        { "ManagedIdentityCredential , dev", "managed-identity azure-cli azure-developer-cli azure-powershell" },
    };
    static const char *const wrong[] = { "production", "managed-identity", ",", "dev,", "dev,,prod", "dev prod", "a\r\nb" };
    size_t i, k;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) assert_string_equal(links(row[i].value), row[i].is);
    for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *said = links(wrong[i]);
        assert_int_equal(said[0], '!');
        assert_non_null(strstr(said, "AZURE_TOKEN_CREDENTIALS"));
        assert_non_null(strstr(said, "dev, prod"));
        for (k = 0; k < sizeof chain / sizeof chain[0]; k++) assert_null(strchr(said, '\n'));
        assert_non_null(strstr(said, "ManagedIdentityCredential"));
    }
}

/* A name taken twice is asked twice, and no list is longer than the records. */
static void test_long_lists(void **state) {
    char text[400] = "dev";
    int i;
    (void)state;
    for (i = 0; i < 3; i++) strcat(text, ",dev");
    assert_int_equal(links(text)[0], 'a');
    strcat(text, ",EnvironmentCredential");
    assert_non_null(strstr(links(text), "more than 12"));
}

/* Credentials of other SDKs are known, and the error says what to use instead. */
static void test_foreign(void **state) {
    static const char *const name[] = { "VisualStudioCredential", "VisualStudioCodeCredential", "InteractiveBrowserCredential",
                                        "BrokerCredential", "SharedTokenCacheCredential" };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof name / sizeof name[0]; i++) {
        (void)setup(NULL);
        set_env(AZRI_ENV_TOKEN_CREDENTIALS, name[i]);
        begin();
        expect_failed(AZREDIS_E_ARG, "az login");
        assert_non_null(strstr(flow.error.message, "device code"));
        assert_int_equal(flow.record_count, 1);
        assert_string_equal(flow.records[0].outcome, "failed");
        finish();
    }
}

/* Every link leaves a record, and the error has all reasons. */
static void test_nothing(void **state) {
    size_t i;
    (void)state;
    (void)setup(NULL);
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, "EnvironmentCredential,dev");
    begin();
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "identity: no credential was found; environment: missing AZURE_TENANT_ID");
    assert_int_equal(flow.record_count, 4);
    for (i = 0; i < flow.record_count; i++) {
        assert_string_equal(flow.records[i].outcome, "unavailable");
        assert_non_null(strstr(flow.error.message, flow.records[i].reason));
        assert_string_equal(flow.records[i].name, i ? chain[i + 2] : "environment");
    }
    finish();
}

static void reason(size_t i, const char *name, char c, size_t n) {
    (void)snprintf(flow.records[i].name, sizeof flow.records[i].name, "%s", name);
    memset(flow.records[i].reason, 0, sizeof flow.records[i].reason);
    memset(flow.records[i].reason, c, n);
}

/* Where not all has room, the long reasons are cut alike and the short ones stay whole; nothing else is lost. */
static void test_room_for_reasons(void **state) {
    size_t n, first, third;
    (void)state;
    for (n = 0; n < sizeof flow.records[0].reason; n++) {
        const char *m = flow.error.message;
        (void)setup(NULL);
        begin();
        reason(0, "one", 'x', n);
        reason(1, "two", 's', 20);
        reason(2, "three", 'y', n);
        reason(3, "four", 's', 30);
        reason(4, "five", 's', 30);
        (void)azri_fail(&flow.error, AZREDIS_E_NO_CREDENTIAL, "identity", "identity: none; ");
        azri_flow_add_records(&flow, 5, "");
        first = strspn(strstr(m, "one: ") + 5, "x");
        third = strspn(strstr(m, "three: ") + 7, "y");
        assert_int_equal(first, third);
        if (first != n) assert_in_range(strlen(m), sizeof flow.error.message - 8, sizeof flow.error.message - 1);
        assert_non_null(strstr(m, "; two: ssssssssssssssssssss; three: "));
        assert_string_equal(m + strlen(m) - 44, "; four, five: ssssssssssssssssssssssssssssss");
        finish();
    }
    assert_true(first < n);
}

/* A link that fails ends the walk, and the error tells what the links before it said. */
static void test_failure_stops(void **state) {
    (void)state;
    (void)setup(NULL);
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, "AzureCliCredential,EnvironmentCredential,AzurePowerShellCredential");
    set_env(AZRI_ENV_TENANT_ID, TENANT);
    set_env(AZRI_ENV_CLIENT_ID, CLIENT);
    set_env(AZRI_ENV_CLIENT_SECRET, SECRET);
    begin();
    assert_int_equal(next_without_tools(), AZRI_STEP_HTTP);
    now += 70;
    answer(401, "", "{\"error\":\"invalid_client\",\"error_codes\":[7000215]}");
    expect_failed(AZREDIS_E_ENTRA, "environment: Entra refused with HTTP 401");
    assert_non_null(strstr(flow.error.message, "before that, azure-cli: "));
    assert_int_equal(flow.record_count, 2);
    assert_string_equal(flow.records[0].outcome, "unavailable");
    assert_string_equal(flow.records[1].outcome, "failed");
    assert_int_equal(flow.records[0].ms, 0);
    assert_int_equal(flow.records[1].ms, 70);
    assert_int_equal(flow.pin, 0);
    finish();
}

/* The link that won is asked alone from then on, whatever the environment says, and keeps its place when it fails. */
static void test_pin(void **state) {
    (void)state;
    (void)setup(NULL);
    set_env(AZRI_ENV_TENANT_ID, TENANT);
    set_env(AZRI_ENV_CLIENT_ID, CLIENT);
    set_env(AZRI_ENV_CLIENT_SECRET, SECRET);
    begin();
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_true(flow.in_chain);
    answer_token(day_token, "\"expires_in\":3600");
    assert_int_equal(next(), AZRI_STEP_DONE);
    assert_int_equal(flow.status, AZREDIS_OK);
    assert_string_equal(flow.used, "environment");
    assert_int_equal(flow.pin, 1);

    set_env(AZRI_ENV_TOKEN_CREDENTIALS, "dev");
    azri_flow_start(&flow, &env, now);
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_false(flow.in_chain);
    answer(401, "", "{\"error\":\"invalid_client\"}");
    expect_failed(AZREDIS_E_ENTRA, "invalid_client");
    assert_int_equal(flow.record_count, 1);
    assert_int_equal(flow.pin, 1);

    azri_strfree(&mem, env.value[AZRI_ENV_CLIENT_SECRET]);
    env.value[AZRI_ENV_CLIENT_SECRET] = NULL;
    azri_flow_start(&flow, &env, now);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "missing AZURE_CLIENT_SECRET");
    assert_int_equal(flow.record_count, 1);
    finish();
}

/* Nothing negative is kept: what was mended between two walks counts at once. */
static void test_mended(void **state) {
    (void)state;
    (void)setup(NULL);
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, "EnvironmentCredential,AzureCliCredential");
    begin();
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "environment: missing");
    set_env(AZRI_ENV_TENANT_ID, TENANT);
    set_env(AZRI_ENV_CLIENT_ID, CLIENT);
    set_env(AZRI_ENV_CLIENT_SECRET, SECRET);
    azri_flow_start(&flow, &env, now);
    assert_int_equal(next(), AZRI_STEP_HTTP);
    assert_int_equal(flow.record_count, 0);
    answer_token(day_token, "\"expires_in\":3600");
    assert_int_equal(next(), AZRI_STEP_DONE);
    assert_string_equal(flow.used, "environment");
    finish();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variable), cmocka_unit_test(test_long_lists), cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_nothing), cmocka_unit_test(test_room_for_reasons), cmocka_unit_test(test_failure_stops), cmocka_unit_test(test_pin),
        cmocka_unit_test(test_mended)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
