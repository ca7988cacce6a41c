/* Every identity against every failure of its source, first token and renewal, in virtual time. What is expected stands in
 * matrix.tsv; a cell without a row, with two, or a row for no cell fails. */
#include "flow.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define OTHER "EnvironmentCredential"                   /* the link behind, which has nothing to offer here */
#define IMDS_TOKEN "\"expires_in\":\"86399\",\"expires_on\":\"1800086399\",\"resource\":\"https://redis.azure.com\""

enum body { ENTRA_BODY, IMDS_BODY, SITE_BODY, NESTED_BODY, NO_BODY };   /* shape of an error answer: c.6 */

static const char *const failures[] = { "refused", "timeout", "400", "401", "403", "404", "410", "429", "500", "html",
                                        "truncated", "huge", "slow", "redirect", "types", "expired" };
static const char *const phases[] = { "alone", "chain", "refresh" };
enum { ALONE, CHAIN, REFRESH };

static const struct identity {
    const char *name;
    const char *auth;                   /* by which options name it */
    const char *sdk_name;               /* in a chain; NULL: in none */
    enum body   body;
    const char *env[4][2];              /* what makes it this one */
} identities[] = {
    { "environment", "environment", "EnvironmentCredential", ENTRA_BODY,
      { { "AZURE_TENANT_ID", TENANT }, { "AZURE_CLIENT_ID", CLIENT }, { "AZURE_CLIENT_SECRET", SECRET } } },
    { "client-secret", "client-secret", NULL, ENTRA_BODY, { { NULL, NULL } } },
    { "client-assertion", "client-assertion", NULL, ENTRA_BODY, { { NULL, NULL } } },
    { "workload-identity", "workload-identity", "WorkloadIdentityCredential", ENTRA_BODY,
      { { "AZURE_TENANT_ID", TENANT }, { "AZURE_CLIENT_ID", CLIENT }, { "AZURE_FEDERATED_TOKEN_FILE", "/var/run/t" } } },
    { "imds", "managed-identity", "ManagedIdentityCredential", IMDS_BODY, { { NULL, NULL } } },
    { "imds-user", "managed-identity", "ManagedIdentityCredential", IMDS_BODY, { { "AZURE_CLIENT_ID", CLIENT } } },
    { "app-service", "managed-identity", "ManagedIdentityCredential", SITE_BODY,
      { { "IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token/" }, { "IDENTITY_HEADER", "H1" } } },
    { "app-service-2017", "managed-identity", "ManagedIdentityCredential", SITE_BODY,
      { { "MSI_ENDPOINT", "http://127.0.0.1:41741/MSI/token/" }, { "MSI_SECRET", "S3" } } },
    { "cloud-shell", "managed-identity", "ManagedIdentityCredential", NESTED_BODY,
      { { "MSI_ENDPOINT", "http://localhost:50342/oauth2/token" } } },
    { "arc", "managed-identity", "ManagedIdentityCredential", IMDS_BODY,
      { { "IDENTITY_ENDPOINT", "http://127.0.0.1:40342/metadata/identity/oauth2/token" },
        { "IMDS_ENDPOINT", "http://127.0.0.1:40342" } } },
    { "service-fabric", "managed-identity", "ManagedIdentityCredential", NESTED_BODY,
      { { "IDENTITY_ENDPOINT", "https://127.0.0.1:2377/metadata/identity/oauth2/token" }, { "IDENTITY_HEADER", "H2" },
        { "IDENTITY_SERVER_THUMBPRINT", "54887E12E3F92B9CE742FD462A877CB6D435B7FA" } } },
    { "token-file", "token-file", NULL, NO_BODY, { { NULL, NULL } } },
    { "exec", "exec", NULL, NO_BODY, { { NULL, NULL } } },
    { "callback", "callback", NULL, NO_BODY, { { NULL, NULL } } },
    { "managed-identity-app", "managed-identity-app", NULL, ENTRA_BODY, { { NULL, NULL } } },
    { "azure-cli", "azure-cli", "AzureCliCredential", NO_BODY, { { NULL, NULL } } },
    { "azure-developer-cli", "azure-developer-cli", "AzureDeveloperCliCredential", NO_BODY, { { NULL, NULL } } },
    { "azure-powershell", "azure-powershell", "AzurePowerShellCredential", NO_BODY, { { NULL, NULL } } }
};

/* ---- the table ---- */

struct row {
    char identities[200], failure[120], phases[40], outcome[20], status[20], requests[8], again[8], why[200];
};
static struct row rows[200];
static size_t row_count;

static int has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    const char *p = list;
    for (; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (strncmp(p, word, n) == 0 && (p[n] == ',' || p[n] == '\0')) return 1;
    return 0;
}

static int read_table(void **state) {
    static const char name[] = "matrix.tsv";
    char path[500], line[800];
    const char *slash = strrchr(__FILE__, '/');
    FILE *f;
    (void)state;
    (void)snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash - __FILE__ + 1) : 0, __FILE__, name);
    f = fopen(path, "r");
    if (!f) fail_msg("%s cannot be opened", path);
    while (fgets(line, sizeof line, f)) {
        struct row *r = &rows[row_count];
        if (line[0] == '#') continue;
        assert_true(row_count < COUNT(rows));
        if (sscanf(line, "%199[^\t]\t%119[^\t]\t%39[^\t]\t%19[^\t]\t%19[^\t]\t%7[^\t]\t%7[^\t]\t%199[^\n]", r->identities, r->failure,
                   r->phases, r->outcome, r->status, r->requests, r->again, r->why) != 8)
            fail_msg("row %u cannot be read: %s", (unsigned)row_count, line);
        row_count++;
    }
    (void)fclose(f);
    return 0;
}

static const struct row *find_row(const char *identity, const char *failure, const char *phase) {
    const struct row *found = NULL;
    size_t i;
    for (i = 0; i < row_count; i++) {
        const struct row *r = &rows[i];
        if (!has_word(r->identities, identity) || !has_word(r->failure, failure) || !has_word(r->phases, phase)) continue;
        if (found) fail_msg("two rows for %s, %s, %s", identity, failure, phase);
        found = r;
    }
    return found;
}

/* ---- the source that fails ---- */

static struct {
    const struct identity *id;
    const char *failure;                /* NULL: it works */
    unsigned    requests;
} source;

static int fails(const char *how) { return source.failure && strcmp(source.failure, how) == 0; }

static const char *error_body(void) {
    switch (source.id->body) {
    case ENTRA_BODY:  return "{\"error\":\"invalid_request\",\"error_description\":\"AADSTS900023: x\"}";
    case IMDS_BODY:   return "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}";
    case SITE_BODY:   return "{\"statusCode\":400,\"message\":\"No User Assigned or Delegated Managed Identity found\",\"correlationId\":\"c\"}";
    case NESTED_BODY: return "{\"error\":{\"code\":\"ManagedIdentityNotFound\",\"message\":\"m\",\"correlationId\":\"c\"}}";
    case NO_BODY: default: return "";
    }
}

static void no_connection(azredis_status st, uint32_t after_ms) {
    azredis_error e;
    memset(&e, 0, sizeof e);
    now += after_ms;
    (void)azri_fail(&e, st, "net", "the server is out of reach");
    e.retryable = 1;
    azri_step_free(&step);
    azri_flow_http(&flow, now, st, NULL, &e);
}

static void good_answer(void) {
    if (source.id->body == ENTRA_BODY) answer_token(day_token, "\"expires_in\":86400");
    else answer_token(day_token, IMDS_TOKEN);
}

/* Azure Arc's first answer is a challenge, the second the token. */
static int challenged(void) {
    int first = strcmp(source.id->name, "arc") == 0 && !strstr(step.request.ptr, "Authorization: Basic");
    if (!first || (source.failure && !fails("expired"))) return 0;
    answer(401, "WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/a1.key\r\n", "");
    source.requests--;                  /* both are one question */
    return 1;
}

static void play_http(void) {
    static const char cut[] = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\":\"abc";
    source.requests++;
    assert_true(azri_buf_add(&step.request, "", 1) == AZREDIS_OK);      /* for strstr */
    if (challenged()) return;
    if (!source.failure) good_answer();
    else if (fails("refused")) no_connection(AZREDIS_E_NET, 0);
    else if (fails("timeout") || fails("slow")) no_connection(AZREDIS_E_TIMEOUT, step.timeout_ms);
    else if (fails("html")) answer(200, "", "<html>Please sign in</html>");
    else if (fails("truncated")) raw_answer(cut, sizeof cut - 1, 0);
    else if (fails("huge")) raw_answer("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{", 48, 0);
    else if (fails("redirect")) answer(302, "Location: https://evil.example/\r\n", "");
    else if (fails("types")) answer(200, "", "{\"access_token\":5,\"expires_in\":[],\"expires_on\":{}}");
    else if (fails("expired")) answer_token(day_token, "\"expires_on\":\"1700000000\"");
    else answer(atoi(source.failure), "", error_body());
}

static void tell(azredis_status st, azredis_str text, const azredis_error *e) {
    if (step.kind == AZRI_STEP_EXEC) azri_flow_ran(&flow, now, st, text, azri_slice(NULL, 0), 0, e);
    else azri_flow_text(&flow, now, st, text, e);
}

static void play_text(void) {
    static char text[70000];
    /* our script marks what PowerShell prints; a module's own words may stand before it */
    const char *mark = strcmp(source.id->name, "azure-powershell") == 0 ? "WARNING: x\nazredis:" : "";
    azredis_error e;
    azredis_status st = AZREDIS_OK;
    memset(&e, 0, sizeof e);
    if (source.id->body == ENTRA_BODY || source.id->body == IMDS_BODY) {        /* a federated token; Arc's key */
        azri_flow_text(&flow, now, AZREDIS_OK, azri_str("e30.e30.c2ln"), &e);
        return;
    }
    source.requests++;
    (void)snprintf(text, sizeof text, "%s%s\n", mark, day_token);
    if (fails("html")) (void)snprintf(text, sizeof text, "%s<html>Please sign in</html>", mark);
    if (fails("truncated")) (void)snprintf(text, sizeof text, "%s{\"access_token\":\"%s", mark, day_token);
    if (fails("types")) (void)snprintf(text, sizeof text, "%s{\"access_token\":5,\"expires_in\":[]}", mark);
    if (fails("expired")) (void)snprintf(text, sizeof text, "%s{\"access_token\":\"%s\",\"expires_on\":1700000000}", mark, day_token);
    if (fails("huge")) st = azri_fail(&e, AZREDIS_E_LIMIT, "x", "more than 65536 bytes");
    if (fails("timeout") || fails("slow")) {
        now += step.timeout_ms;
        st = azri_fail(&e, AZREDIS_E_TIMEOUT, "x", "no end in time");
        e.retryable = 1;
    }
    tell(st, st == AZREDIS_OK ? azri_str(text) : azri_slice(NULL, 0), &e);
}

static void play_call(void) {
    static char text[20000];
    azredis_fetched got;
    int source_fails = source.id->body == NO_BODY;                               /* not the authority behind an assertion */
    memset(&got, 0, sizeof got);
    (void)snprintf(text, sizeof text, "%s", source_fails ? day_token : "e30.e30.c2ln");
    if (source_fails) source.requests++;
    if (source_fails && fails("html")) (void)snprintf(text, sizeof text, "<html>Please sign in</html>");
    if (source_fails && fails("truncated")) (void)snprintf(text, sizeof text, "%.40s", day_token);
    if (source_fails && fails("types")) (void)snprintf(text, sizeof text, "{\"access_token\":5}");
    if (source_fails && fails("expired")) got.expires_on = 1700000000;
    got.token = text;
    got.cap = sizeof text;
    got.len = source_fails && fails("huge") ? sizeof text + 1 : strlen(text);
    azri_flow_call(&flow, now, AZREDIS_OK, &got);
}

static void walk(void) {
    for (;;) {
        switch (next()) {
        case AZRI_STEP_WAIT: now += step.wait_ms; break;
        case AZRI_STEP_HTTP: play_http(); break;
        case AZRI_STEP_FILE: case AZRI_STEP_EXEC: play_text(); break;
        case AZRI_STEP_CALL: play_call(); break;
        case AZRI_STEP_DONE: default: return;
        }
        assert_true(source.requests < 50);
    }
}

/* ---- a cell ---- */

static azredis_status unused(void *user, const char *scope, azredis_fetched *out) {
    (void)user; (void)scope; (void)out;
    return AZREDIS_E_STATE;
}

/* A chain has the identity and one more; the other phases have it by name. */
static void arrange(const struct identity *id, int phase) {
    char list[100];
    size_t i, k;
    (void)setup(NULL);
    for (i = 0; i < COUNT(id->env) && id->env[i][0]; i++)
        for (k = 0; k < AZRI_ENV_COUNT; k++)
            if (strcmp(azri_env_names[k], id->env[i][0]) == 0) set_env((int)k, id->env[i][1]);
    if (strcmp(id->auth, "client-secret") == 0 || strcmp(id->auth, "client-assertion") == 0) app();
    opt.get_token = opt.get_assertion = unused;
    opt.token_file = "/t";
    opt.exec = "/x";
    if (strcmp(id->name, "imds-user") == 0 && phase == ALONE) opt.client_id = CLIENT;
    assert_int_equal(azredis_identity_by_name(id->auth, &opt.identity), AZREDIS_OK);
    if (phase == ALONE || !id->sdk_name) return;
    opt.identity = AZREDIS_ID_DEFAULT;
    opt.get_token = opt.get_assertion = NULL;
    opt.token_file = opt.exec = NULL;
    (void)snprintf(list, sizeof list, "%s,%s", id->sdk_name,
                   strcmp(id->sdk_name, OTHER) == 0 ? "AzureDeveloperCliCredential" : OTHER);
    set_env(AZRI_ENV_TOKEN_CREDENTIALS, list);
}

static const char *status_name(azredis_status st) {
    static const struct { azredis_status st; const char *name; } names[] = {
        { AZREDIS_E_NET, "NET" }, { AZREDIS_E_TIMEOUT, "TIMEOUT" }, { AZREDIS_E_ENTRA, "ENTRA" }, { AZREDIS_E_JSON, "JSON" },
        { AZREDIS_E_CLOSED, "CLOSED" }, { AZREDIS_E_LIMIT, "LIMIT" }, { AZREDIS_E_HTTP, "HTTP" }, { AZREDIS_E_TOKEN, "TOKEN" },
        { AZREDIS_E_NO_CREDENTIAL, "NO_CREDENTIAL" }
    };
    size_t i;
    for (i = 0; i < COUNT(names); i++)
        if (names[i].st == st) return names[i].name;
    return "?";
}

/* "5" or "5-6". */
static int in_range(const char *text, unsigned n) {
    const char *to = strchr(text, '-');
    return (unsigned)atoi(text) <= n && n <= (unsigned)atoi(to ? to + 1 : text);
}

/* The schedule after a renewal that failed: the old token serves on, and the next try is in time for another. */
static void check_renewal(uint64_t sent_at) {
    azri_token t;
    uint32_t claim;
    azri_token_init(&t, &rng, AZREDIS_POLICY_DEFAULT);
    claim = azri_token_claim(&t, sent_at, 30000);
    assert_int_equal(azri_token_got(&t, claim, sent_at, sent_at, 86400000, 0, 1), AZRI_TOKEN_NEW);
    claim = azri_token_claim(&t, t.next_try, 30000);
    assert_true(claim != 0);
    azri_token_failed(&t, claim, t.soft_at, flow.error.retryable, flow.error.retry_after_ms);
    assert_true(azri_token_live(&t, t.soft_at));
    assert_true(t.next_try > t.soft_at && t.next_try < azri_token_headroom_at(&t));
}

static void cell(const struct identity *id, const char *failure, int phase, const struct row *r) {
    uint64_t began;
    arrange(id, phase);
    memset(&source, 0, sizeof source);
    source.id = id;
    begin();
    if (phase == REFRESH) {
        walk();
        if (flow.status != AZREDIS_OK) fail_msg("%s brings no token: %s", id->name, flow.error.message);
        azri_flow_start(&flow, &env, now);
        source.requests = 0;
    }
    source.failure = failure;
    began = now;
    walk();
    if (strcmp(status_name(flow.status), r->status) != 0 || !in_range(r->requests, source.requests) ||
        atoi(r->again) != flow.error.retryable)
        fail_msg("%s, %s, %s: %s after %u requests, again %d; expected %s, %s, %s (%s): %s", id->name, failure, phases[phase],
                 status_name(flow.status), source.requests, flow.error.retryable, r->status, r->requests, r->again, r->why,
                 flow.error.message);
    if (strcmp(r->outcome, flow.records[0].outcome[0] == 'f' ? "FAILED" : "UNAVAILABLE") != 0)
        fail_msg("%s, %s, %s: %s instead of %s", id->name, failure, phases[phase], flow.records[0].outcome, r->outcome);
    assert_true(now - began <= conf.chain_ms);
    if (phase == REFRESH) check_renewal(began);
    finish();
}

static void one_identity(const struct identity *id) {
    size_t i;
    int phase, cells = 0;
    for (i = 0; i < COUNT(failures); i++)
        for (phase = ALONE; phase <= REFRESH; phase++) {
            const struct row *r = find_row(id->name, failures[i], phases[phase]);
            if (!r) {
                if (phase != ALONE && (phase == CHAIN || strcmp(id->name, "managed-identity-app") == 0) && !id->sdk_name) continue;
                fail_msg("no row for %s, %s, %s", id->name, failures[i], phases[phase]);
            }
            if (r->outcome[0] == '-') continue;
            cell(id, failures[i], phase, r);
            cells++;
        }
    print_message("%s: %d cells\n", id->name, cells);
}

#define IDENTITY(i) static void test_##i(void **state) { (void)state; one_identity(&identities[i]); }
IDENTITY(0) IDENTITY(1) IDENTITY(2) IDENTITY(3) IDENTITY(4) IDENTITY(5) IDENTITY(6) IDENTITY(7) IDENTITY(8) IDENTITY(9)
IDENTITY(10) IDENTITY(11) IDENTITY(12) IDENTITY(13) IDENTITY(14) IDENTITY(15)
IDENTITY(16) IDENTITY(17)

/* A row names nothing that does not exist: a slip of the pen would be a cell that nobody looks at. */
static void test_rows(void **state) {
    size_t i, k, known;
    (void)state;
    for (i = 0; i < row_count; i++) {
        const char *p;
        for (p = rows[i].identities; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
            for (k = known = 0; k < COUNT(identities); k++)
                known += strncmp(p, identities[k].name, strcspn(p, ",")) == 0 && strlen(identities[k].name) == strcspn(p, ",");
            if (known != 1) fail_msg("row %u: no identity %s", (unsigned)i, p);
        }
        for (p = rows[i].failure; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
            for (k = known = 0; k < COUNT(failures); k++)
                known += strncmp(p, failures[k], strcspn(p, ",")) == 0 && strlen(failures[k]) == strcspn(p, ",");
            if (known != 1) fail_msg("row %u: no failure %s", (unsigned)i, p);
        }
        for (p = rows[i].phases; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
            if (strncmp(p, "alone", 5) != 0 && strncmp(p, "chain", 5) != 0 && strncmp(p, "refresh", 7) != 0)
                fail_msg("row %u: no phase %s", (unsigned)i, p);
    }
    assert_int_equal(COUNT(identities), 18);
}

int main(void) {
    static const CMUnitTestFunction run[] = { test_0, test_1, test_2, test_3, test_4, test_5, test_6, test_7, test_8, test_9,
                                              test_10, test_11, test_12, test_13, test_14, test_15, test_16, test_17 };
    struct CMUnitTest tests[COUNT(run) + 1];
    size_t i;
    memset(tests, 0, sizeof tests);
    for (i = 0; i < COUNT(run); i++) {
        tests[i].name = identities[i].name;
        tests[i].test_func = run[i];
    }
    tests[i].name = "rows";
    tests[i].test_func = test_rows;
    return cmocka_run_group_tests(tests, read_table, NULL);
}
