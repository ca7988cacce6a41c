/* The developers' tools in virtual time: what az, azd and PowerShell are run with, every shape of what they print, and
 * what becomes of each way to fail, alone and in a chain. Numbers are paragraphs of credentials.md. */
#include "flow.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define SUB "\"subscription\":\"" TENANT "\",\"tenant\":\"" TENANT "\",\"tokenType\":\"Bearer\""

static const azredis_identity tools[] = { AZREDIS_ID_AZURE_CLI, AZREDIS_ID_AZURE_DEVELOPER_CLI, AZREDIS_ID_AZURE_POWERSHELL };
static const char *const names[] = { "azure-cli", "azure-developer-cli", "azure-powershell" };
static const char *const sdk_names[] = { "AzureCliCredential", "AzureDeveloperCliCredential", "AzurePowerShellCredential" };
enum { AZ, AZD, PWSH };

/* A clock on the wall two hours east of UTC. */
static int64_t east(int64_t wall) { return wall - 7200; }

static void expect_asked(int tool) {
    assert_int_equal(next(), AZRI_STEP_EXEC);
    assert_string_equal(step.where, names[tool]);
}

static void ask(int tool) {
    begin();
    flow.local_time = east;
    expect_asked(tool);
}

static void alone(int tool) {
    (void)setup(NULL);
    opt.identity = tools[tool];
}

/* That link, and one more behind it that has nothing to offer here. */
static void in_chain(int tool) {
    char list[100];
    (void)setup(NULL);
    (void)snprintf(list, sizeof list, "%s,EnvironmentCredential", sdk_names[tool]);
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, list);
}

static void ran(const char *out, const char *said, int code) {
    azri_flow_ran(&flow, now, AZREDIS_OK, azri_str(out), azri_str(said), code, NULL);
}

static void expect_token(int tool, const char *token, uint64_t life_s) {
    assert_int_equal(next(), AZRI_STEP_DONE);
    if (flow.status != AZREDIS_OK) fail_msg("%s", flow.error.message);
    assert_int_equal(flow.token.len, strlen(token));
    assert_memory_equal(flow.token.ptr, token, flow.token.len);
    assert_int_equal(flow.life_ms, life_s * 1000);
    assert_string_equal(flow.used, names[tool]);
}

/* ---- what is run ---- */

static void expect_words(const char *words) {
    char all[1000] = "";
    size_t i;
    for (i = 0; step.argv[i]; i++) (void)snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? " " : "", step.argv[i]);
    assert_string_equal(all, words);
}

/* 7.1, 7.2: az gets the resource, azd the scope, whichever of the two the option holds (c.3). */
static void test_commands(void **state) {
    static const struct { const char *scope, *resource; } row[] = {
        { NULL, "https://redis.azure.com" }, { "https://redis.azure.com", "https://redis.azure.com" },
        { "https://redis.azure.com//.default", "https://redis.azure.com/" },
        { "acca5fbb-b7e4-4009-81f1-37e38fd66d78/.default", "acca5fbb-b7e4-4009-81f1-37e38fd66d78" }
    };
    char words[500];
    size_t i;
    int tenant;
    (void)state;
    for (i = 0; i < COUNT(row); i++)
        for (tenant = 0; tenant < 2; tenant++) {
            alone(AZ);
            opt.scope = row[i].scope;
            opt.tenant_id = tenant ? "contoso.onmicrosoft.com" : NULL;
            ask(AZ);
            (void)snprintf(words, sizeof words, "az account get-access-token --output json --resource %s%s", row[i].resource,
                           tenant ? " --tenant contoso.onmicrosoft.com" : "");
            expect_words(words);
            assert_string_equal(step.variable, "AZURE_CORE_NO_COLOR=true");
            ran("", "", 1);
            finish();
            alone(AZD);
            opt.scope = row[i].scope;
            opt.tenant_id = tenant ? "contoso.onmicrosoft.com" : NULL;
            ask(AZD);
            (void)snprintf(words, sizeof words, "azd auth token --output json --no-prompt --scope %s/.default%s", row[i].resource,
                           tenant ? " --tenant-id contoso.onmicrosoft.com" : "");
            expect_words(words);
            assert_string_equal(step.variable, "NO_COLOR=1");
            ran("", "", 1);
            finish();
        }
}

/* The script as coreutils and iconv read it. */
static const char *decoded(const char *base64) {
    static char text[4000];
    char command[6000];
    size_t n;
    FILE *p;
    (void)snprintf(command, sizeof command, "printf %%s '%s' | base64 -d | iconv -f UTF-16LE -t UTF-8", base64);
    p = popen(command, "r");                       /* NOLINT(cert-env33-c) */
    assert_non_null(p);
    n = fread(text, 1, sizeof text - 1, p);
    text[n] = '\0';
    assert_int_equal(pclose(p), 0);
    return text;
}

/* 7.3, with a tenant and a resource as long as they may be. */
static void test_script(void **state) {
    char tenant[254], scope[254], part[300];
    const char *text;
    int length;
    (void)state;
    memset(tenant, 't', sizeof tenant);
    memset(scope, 's', sizeof scope);
    for (length = 0; length < 254; length += 253) {
        tenant[length] = '\0';
        scope[length] = '\0';
        alone(PWSH);
        opt.tenant_id = tenant;
        opt.scope = scope;
        ask(PWSH);
        assert_string_equal(step.argv[0], "pwsh");
        assert_string_equal(step.argv[1], "-NoProfile");
        assert_string_equal(step.argv[2], "-NonInteractive");
        assert_string_equal(step.argv[5], "-EncodedCommand");
        assert_null(step.argv[7]);
        text = decoded(step.argv[6]);
        (void)snprintf(part, sizeof part, "ResourceUrl='%s'", length ? scope : "https://redis.azure.com");
        assert_non_null(strstr(text, part));
        (void)snprintf(part, sizeof part, "if('%s')", tenant);
        assert_non_null(strstr(text, part));
        (void)snprintf(part, sizeof part, "TenantId='%s'", tenant);
        assert_non_null(strstr(text, part));
        assert_non_null(strstr(text, "Import-Module Az.Accounts -MinimumVersion 2.2.0"));
        assert_non_null(strstr(text, "-ge [version]'2.17.0' -and $m.Version -lt [version]'5.0.0'"));
        assert_string_equal(text + strlen(text) - 7, "exit 1}");
        tenant[length] = 't';
        scope[length] = 's';
        ran("", "", 1);
        finish();
    }
}

/* c.3, and texts of each length modulo 3. */
static void test_encoding(void **state) {
    static const struct { const char *text, *is; } row[] = {
        { "Get-Date", "RwBlAHQALQBEAGEAdABlAA==" }, { "", "" }, { "a", "YQA=" }, { "ab", "YQBiAA==" }, { "abc", "YQBiAGMA" },
        { "abcd", "YQBiAGMAZAA=" }
    };
    azri_buf b;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        (void)setup(NULL);
        azri_buf_init(&b, &mem, 100, 0);
        azri_tool_encode(&b, row[i].text);
        assert_int_equal(b.status, AZREDIS_OK);
        assert_int_equal(b.len, strlen(row[i].is));
        if (b.len) assert_memory_equal(b.ptr, row[i].is, b.len);
        azri_buf_free(&b);
    }
}

/* 7.1: 10 s, and never longer than a request or what is left of the walk. */
static void test_time(void **state) {
    int tool;
    (void)state;
    for (tool = AZ; tool <= PWSH; tool++) {
        alone(tool);
        ask(tool);
        assert_int_equal(step.timeout_ms, 10000);
        ran("", "", 1);
        finish();
        alone(tool);
        opt.request_ms = 2000;
        ask(tool);
        assert_int_equal(step.timeout_ms, 2000);
        ran("", "", 1);
        finish();
        alone(tool);
        opt.chain_ms = 3000;
        ask(tool);
        assert_int_equal(step.timeout_ms, 3000);
        ran("", "", 1);
        finish();
    }
}

/* Tools that hang: when the whole walk is over, nobody is begun any more. */
static void test_time_of_the_chain(void **state) {
    azredis_error e;
    int tool;
    (void)state;
    (void)setup(NULL);
    opt.chain_ms = 20000;
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, "dev");
    begin();
    for (tool = AZ; tool <= AZD; tool++) {
        expect_asked(tool);
        now += step.timeout_ms;
        memset(&e, 0, sizeof e);
        (void)azri_fail(&e, AZREDIS_E_TIMEOUT, names[tool], "%s: it did not end", names[tool]);
        azri_flow_ran(&flow, now, e.code, azri_str(""), azri_str(""), 0, &e);
    }
    assert_int_equal(next(), AZRI_STEP_DONE);
    assert_int_equal(flow.status, AZREDIS_E_TIMEOUT);
    assert_non_null(strstr(flow.error.message, "azure-powershell: no time was left to ask; before that, azure-cli, azure-developer-cli: it did not end"));
    finish();
}

/* 7.1: nothing that a shell or the tool would take for something else; the option, the variable and the scope. */
static void test_injection(void **state) {
    static const char *const bad[] = { "x;id", "$(id)", "`id`", "a b", "a\"b", "a&b", "a%PATH%", "a\nb", "\xc3\xa9", "-x", "--help",
                                       "a'b", "a|b", "a\\b", ";", "" };
    size_t i;
    int tool;
    (void)state;
    for (tool = AZ; tool <= PWSH; tool++)
        for (i = 0; bad[i][0]; i++) {
            alone(tool);
            opt.tenant_id = bad[i];
            assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
            assert_non_null(strstr(err.message, "tenant id"));
            alone(tool);
            opt.scope = bad[i];
            assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
            assert_non_null(strstr(err.message, "scope"));
            in_chain(tool);
            set_env(AZRI_ENV_TENANT_ID, bad[i]);
            begin();
            expect_failed(AZREDIS_E_ARG, "AZURE_TENANT_ID: the tenant id");
            finish();
        }
    alone(AZ);
    opt.scope = "https://redis.azure.com/~x";               /* a scope elsewhere */
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
    in_chain(AZ);
    opt.scope = "https://redis.azure.com/~x";
    begin();
    expect_failed(AZREDIS_E_ARG, "argument of a program");
    finish();
}

/* 1.3: in the chain AZURE_TENANT_ID counts, by name it does not; an option counts more. */
static void test_tenant_of_the_environment(void **state) {
    int by_name, option;
    (void)state;
    for (by_name = 0; by_name < 2; by_name++)
        for (option = 0; option < 2; option++) {
            if (by_name) alone(AZ);
            else in_chain(AZ);
            set_env(AZRI_ENV_TENANT_ID, TENANT);
            if (option) opt.tenant_id = "by.option";
            ask(AZ);
            if (option) assert_string_equal(step.argv[8], "by.option");
            else if (by_name) assert_null(step.argv[7]);
            else assert_string_equal(step.argv[8], TENANT);
            ran("", "", 1);
            finish();
        }
}

/* ---- what they print ---- */

static const struct { int tool; const char *out, *token; uint64_t life_s; } shapes[] = {
    /* c.6; az since 2.54; before it, in local time; with the token's own exp, which is better than local time */
    { AZ, "{\"accessToken\":\"%s\",\"expiresOn\":\"2027-01-15 09:00:00.000000\",\"expires_on\":1800003600," SUB "}", bare_token, 3600 },
    { AZ, "{\n  \"accessToken\": \"%s\",\n  \"expiresOn\": \"2027-01-15 10:30:00.000000\",\n  " SUB "\n}\n", bare_token, 1800 },
    { AZ, "{\"accessToken\":\"%s\",\"expiresOn\":\"2027-01-15 10:30:00.000000\"," SUB "}", exp_token, 86400 },
    { AZD, "{\"token\":\"%s\",\"expiresOn\":\"2027-01-15T09:00:00Z\"}\n", bare_token, 3600 },
    { PWSH, "azredis:{\"access_token\":\"%s\",\"expires_on\":1800003600}\n", bare_token, 3600 },
    { PWSH, "WARNING: {\"access_token\":\"x\"}\r\nazredis:{\"access_token\":\"%s\",\"expires_on\":1800003600}\r\nbye\r\n", bare_token, 3600 }
};

static void test_shapes(void **state) {
    char out[2000];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(shapes); i++) {
        (void)snprintf(out, sizeof out, shapes[i].out, shapes[i].token);
        alone(shapes[i].tool);
        ask(shapes[i].tool);
        ran(out, "WARNING: a new version is there\n", 0);
        expect_token(shapes[i].tool, shapes[i].token, shapes[i].life_s);
        finish();
    }
}

static void test_cut_at_each_byte(void **state) {
    char out[2000], *exact;
    size_t i, n, end;
    (void)state;
    for (i = 0; i < COUNT(shapes); i++) {
        (void)snprintf(out, sizeof out, shapes[i].out, shapes[i].token);
        end = (size_t)(strrchr(out, '}') - out);
        for (n = 0; n <= end; n++) {
            exact = (char *)malloc(n ? n : 1);              /* for the sanitizer to see a step too far */
            assert_non_null(exact);
            memcpy(exact, out, n);
            alone(shapes[i].tool);
            ask(shapes[i].tool);
            azri_flow_ran(&flow, now, AZREDIS_OK, azri_slice(exact, n), azri_slice(NULL, 0), 0, NULL);
            assert_int_equal(next(), AZRI_STEP_DONE);
            assert_int_equal(flow.status, AZREDIS_E_TOKEN);
            finish();
            free(exact);
        }
    }
}

/* ---- how they fail ---- */

#define GONE AZREDIS_E_NO_CREDENTIAL
#define LOGIN_OF_AZD "run azd auth login"

/* unavailable: alone. In a chain each is. */
static const struct { int tool, code; const char *out, *said; int unavailable; azredis_status st; int again, aadsts; const char *says; }
endings[] = {
    /* 7.1: what az 2.45 to 2.70 write */
    { AZ, 1, "", "ERROR: Please run 'az login' to setup account.\n", 1, GONE, 0, 0, "azure-cli: nobody is signed in; run az login" },
    { AZ, 1, "", "\x1b[31mERROR: No subscription found. Run 'az account set' to select a subscription.\x1b[0m\n", 1, GONE, 0, 0,
      "no subscription is chosen; run az login or az account set" },
    { AZ, 1, "", "ERROR: AADSTS700082: The refresh token has expired due to inactivity.\nTrace ID: 1\nInteractive authentication is "
      "needed. Please run:\naz login --scope https://redis.azure.com/.default\n", 0, AZREDIS_E_ENTRA, 0, 700082,
      "az ended with status 1, AADSTS700082: the sign-in is no longer valid; sign in again" },
    { AZ, 1, "", "ERROR: AADSTS90002: Tenant 'x' not found.\n", 0, AZREDIS_E_ENTRA, 0, 90002, "knows no such tenant" },
    { AZ, 1, "", "ERROR: AADSTS90033: A transient error.\n", 0, AZREDIS_E_ENTRA, 1, 90033, "passing" },
    { AZ, 1, "", "ERROR: AADSTS123: never heard of.\n", 0, AZREDIS_E_ENTRA, 0, 123, "AADSTS123; it says: ERROR: AADSTS123: never heard of." },
    { AZ, 2, "", "usage: az [-h]\naz: error: unrecognized arguments: --resource\n", 0, GONE, 1, 0,
      "az ended with status 2; it says: az: error: unrecognized arguments: --resource" },
    { AZ, 127, "", "/usr/bin/env: 'python3': No such file or directory\n", 1, GONE, 1, 0, "status 127; it says: /usr/bin/env: 'python3'" },
    { AZ, -9, "", "", 0, GONE, 1, 0, "az was ended by signal 9" },
    { AZ, 0, "", "", 0, AZREDIS_E_TOKEN, 0, 0, "the output is empty" },
    { AZ, 0, "Welcome!\n", "WARNING: first use\n", 0, AZREDIS_E_TOKEN, 0, 0, "neither a token nor complete JSON" },
    { AZ, 0, "{\"expires_on\":1800003600}", "", 0, AZREDIS_E_TOKEN, 0, 0, "JSON without" },
    { AZ, AZRI_EXIT_UNKNOWN, "", "ERROR: Please run 'az login' to setup account.\n", 1, GONE, 0, 0, "run az login" },
    { AZ, AZRI_EXIT_UNKNOWN, "", "", 0, GONE, 1, 0, "az printed nothing" },
    /* 7.2: text, and the JSON of azd before 1.23.7, since then, and since 1.24 (c.6) */
    { AZD, 1, "", "ERROR: not logged in, run `azd auth login` to login\n", 1, GONE, 0, 0, LOGIN_OF_AZD },
    { AZD, 1, "", "{\"type\":\"consoleMessage\",\"timestamp\":\"t\",\"data\":{\"message\":\"\\nERROR: not logged in, run `azd auth login` to "
      "login\\n\"}}\n", 1, GONE, 0, 0, LOGIN_OF_AZD },
    { AZD, 1, "", "ERROR: not logged in, run `azd login` to login\n", 1, GONE, 0, 0, LOGIN_OF_AZD },
    { AZD, 1, "", "{\"type\":\"consoleMessage\",\"timestamp\":\"t\",\"data\":{\"message\":\"\\nERROR: no such\\ttenant\\n\"}}\n", 0, GONE, 1, 0,
      "azd ended with status 1; it says: ERROR: no such tenant" },
    { AZD, 1, "", "{\"type\":\"consoleMessage\",\"data\":{\"message\":\"\\n\"}}\n{\"error\":\"fetching token: offline\",\"message\":\"m\",\"suggestion\":\"s\"}\n",
      0, GONE, 1, 0, "it says: fetching token: offline" },
    { AZD, 1, "", "{\"type\":\"consoleMessage\",\"data\":{\"message\":\"wait\"}}\n{\"error\":\"offline\"}\n", 0, GONE, 1, 0, "it says: offline" },
    { AZD, 1, "", "{\"error\":\"fetching token: AADSTS700082: gone\\r\\nTrace ID: 1\"}\n", 0, AZREDIS_E_ENTRA, 0, 700082, "sign in again" },
    { AZD, 1, "", "tion\":\"cut\"}\n{\"error\":5,\"data\":[{\"message\":\"no\"}],\"message\":\"no\"}\n", 0, GONE, 1, 0, "it says: {" },
    { AZD, 1, "", "{\"error\":\"cut", 0, GONE, 1, 0, "it says: {" },
    /* 7.3 */
    { PWSH, 1, "", "Run Connect-AzAccount to login.\n", 1, GONE, 0, 0, "run Connect-AzAccount in pwsh" },
    { PWSH, 1, "", "The specified module 'Az.Accounts' with version '2.2.0' was not loaded because no valid module file was found in any "
      "module directory.\n", 1, GONE, 0, 0, "run Install-Module Az.Accounts in pwsh" },
    { PWSH, 1, "", "AuthorizationManager check failed.\n", 1, GONE, 0, 0, "execution policy" },
    { PWSH, 1, "", "SharedTokenCache is broken.\n", 0, GONE, 1, 0, "pwsh ended with status 1; it says: SharedTokenCache is broken." },
    { PWSH, 0, "WARNING: x\n", "", 0, AZREDIS_E_TOKEN, 0, 0, "the output is empty" },
    { PWSH, 0, "azredis:", "", 0, AZREDIS_E_TOKEN, 0, 0, "the output is empty" },
    { PWSH, 0, "azredis:{\"access_token\":\"\"}", "", 0, AZREDIS_E_TOKEN, 0, 0, "JSON without" }
};

static void test_endings(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(endings); i++) {
        alone(endings[i].tool);
        ask(endings[i].tool);
        ran(endings[i].out, endings[i].said, endings[i].code);
        expect_failed(endings[i].st, endings[i].says);
        assert_string_equal(flow.records[0].outcome, endings[i].unavailable ? "unavailable" : "failed");
        assert_int_equal(flow.error.retryable, endings[i].again);
        if (!endings[i].unavailable) assert_int_equal(flow.error.aadsts, endings[i].aadsts);
        assert_null(strchr(flow.error.message, '\n'));
        finish();

        in_chain(endings[i].tool);
        ask(endings[i].tool);
        ran(endings[i].out, endings[i].said, endings[i].code);
        expect_failed(AZREDIS_E_NO_CREDENTIAL, "; environment: ");
        assert_string_equal(flow.records[0].outcome, "unavailable");
        assert_int_equal(flow.record_count, 2);
        finish();
    }
}

/* What the child half tells: it could not be started, it was stopped. */
static void test_not_run(void **state) {
    static const struct { azredis_status st; int unavailable; } row[] = {
        { AZREDIS_E_NO_CREDENTIAL, 1 }, { AZREDIS_E_TIMEOUT, 0 }, { AZREDIS_E_LIMIT, 0 }, { AZREDIS_E_NOMEM, 0 }
    };
    azredis_error e;
    size_t i;
    int tool, chain;
    (void)state;
    for (tool = AZ; tool <= PWSH; tool++)
        for (i = 0; i < COUNT(row); i++)
            for (chain = 0; chain < 2; chain++) {
                int fails = row[i].st == AZREDIS_E_NOMEM || (!chain && !row[i].unavailable);
                if (chain) in_chain(tool);
                else alone(tool);
                ask(tool);
                memset(&e, 0, sizeof e);
                (void)azri_fail(&e, row[i].st, names[tool], "%s: so it is", names[tool]);
                azri_flow_ran(&flow, now, row[i].st, azri_str("Q"), azri_str("waiting\n"), 0, &e);
                expect_failed(fails ? row[i].st : AZREDIS_E_NO_CREDENTIAL, "so it is; it says: waiting");
                assert_string_equal(flow.records[0].outcome, fails ? "failed" : "unavailable");
                finish();
            }
}

/* A tool inherits the secret of the environment, and may print it, or the token, where only words belong. */
static void test_secrets_are_hidden(void **state) {
    char said[2000], out[2000];
    int tool, way;
    (void)state;
    for (tool = AZ; tool <= PWSH; tool++)
        for (way = 0; way < 3; way++) {
            alone(tool);
            set_env(AZRI_ENV_CLIENT_SECRET, SECRET);
            ask(tool);
            (void)snprintf(said, sizeof said, way == 2 ? "{\"error\":\"%s\"}\n" : "error: got %s\n", way ? day_token : SECRET);
            (void)snprintf(out, sizeof out, "token %s", way == 1 ? bare_token : SECRET);
            ran(out, said, way);
            assert_int_equal(next(), AZRI_STEP_DONE);
            assert_int_not_equal(flow.status, AZREDIS_OK);
            assert_non_null(strstr(flow.error.message, "[hidden]"));
            finish();
        }
}

/* ---- the chain ---- */

/* Links 4 to 6, in this order, and whoever won is asked alone from then on; once it is, its failure is one. */
static void test_chain(void **state) {
    char out[300];
    (void)state;
    (void)setup(NULL);
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, "dev");
    (void)snprintf(out, sizeof out, "azredis:{\"access_token\":\"%s\",\"expires_on\":1800003600}", bare_token);
    begin();
    expect_asked(AZ);
    ran("", "ERROR: AADSTS50076: mfa\n", 1);
    expect_asked(AZD);
    ran(bare_token, "", 1);
    expect_asked(PWSH);
    ran(out, "", 0);
    expect_token(PWSH, bare_token, 3600);
    assert_int_equal(flow.record_count, 3);
    assert_non_null(strstr(flow.records[0].reason, "AADSTS50076"));
    assert_string_equal(flow.records[1].outcome, "unavailable");
    azri_flow_start(&flow, &env, now);
    expect_asked(PWSH);
    ran("", "no luck\n", 1);
    expect_failed(AZREDIS_E_NO_CREDENTIAL, "azure-powershell: the program pwsh ended with status 1");
    assert_string_equal(flow.records[0].outcome, "failed");
    finish();
}

static void test_no_memory(void **state) {
    char out[300];
    int tool, n, done;
    (void)state;
    for (tool = AZ; tool <= PWSH; tool++)
        for (n = 0, done = 0; !done; n++) {
            (void)snprintf(out, sizeof out, "%s{\"access_token\":\"%s\",\"expires_on\":1800003600}", tool == PWSH ? "azredis:" : "", bare_token);
            alone(tool);
            begin();
            allow = n;
            if (next() == AZRI_STEP_EXEC) ran(out, "", 0);
            assert_int_equal(next(), AZRI_STEP_DONE);
            done = flow.status == AZREDIS_OK;
            if (!done) assert_int_equal(flow.status, AZREDIS_E_NOMEM);
            allow = -1;
            finish();
            assert_true(n < 100);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands), cmocka_unit_test(test_script), cmocka_unit_test(test_encoding), cmocka_unit_test(test_time),
        cmocka_unit_test(test_time_of_the_chain), cmocka_unit_test(test_injection), cmocka_unit_test(test_tenant_of_the_environment),
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_cut_at_each_byte), cmocka_unit_test(test_endings),
        cmocka_unit_test(test_not_run), cmocka_unit_test(test_secrets_are_hidden), cmocka_unit_test(test_chain),
        cmocka_unit_test(test_no_memory)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
