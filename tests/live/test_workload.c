/* Applications without a secret against the emulator: workload identity from a file that changes, the token proxy of
 * an AKS identity binding with its own CA and name, an assertion from a callback, the machine's identity; each into
 * Redis, with two renewals.
 *   cc -std=gnu11 -I. tests/live/test_workload.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"

static live em;
static azredis_client *client, *more[3];

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "5", NULL);
    return 0;
}

static int setup_hour(void **state)
{
    (void)state;
    live_start(&em, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_close(client);
    azredis_close(more[0]);
    azredis_close(more[1]);
    azredis_close(more[2]);
    client = more[0] = more[1] = more[2] = NULL;
    live_stop(&em);
    return 0;
}

/* A federated token as the emulator's cluster would sign it; wish as its POST /assertion takes it. */
static void mint(const char *wish, char *out, size_t cap)
{
    json_t *made = live_json(&em, "POST", "/assertion", wish);
    int n = snprintf(out, cap, "%s", json_string_value(json_object_get(made, "assertion")));
    assert_true(n > 0 && (size_t)n < cap);
    json_decref(made);
}

static void write_token_file(const char *wish)
{
    char text[4000];
    mint(wish, text, sizeof text);
}

static azredis_status callback(void *user, const char *scope, azredis_fetched *out)
{
    assert_ptr_equal(user, &em);
    assert_null(scope);
    mint("{\"life\":3}", out->token, out->cap);
    out->len = strlen(out->token);
    return AZREDIS_OK;
}

static azredis_client *as(azredis_auth_options *id)
{
    azredis_options o = {.identity = id};
    return live_open(&em, &o);
}

/* The value of a variable, which the next place may change. */
static const char *keep(char *out, size_t cap, const char *name)
{
    snprintf(out, cap, "%s", getenv(name));
    return out;
}

/* Whom Redis takes the client for. */
static void assert_user(azredis_client *c, const char *oid)
{
    azredis_auth *a = azredis_client_auth(c);
    azredis_auth_info_data info;
    azredis_reply r = {0};
    assert_int_equal(azredis_auth_info(a, &info), AZREDIS_OK);
    assert_string_equal(info.user, oid);
    azredis_auth_release(a);
    assert_int_equal(azredis_command(c, &r, "ACL", "WHOAMI"), AZREDIS_OK);
    assert_int_equal(azredis_text(r.value).len, strlen(oid));
    assert_memory_equal(azredis_text(r.value).ptr, oid, strlen(oid));
    azredis_reply_free(&r);
}

/* Pumps all clients until each has renewed its token n times. */
static void await_renewals(uint32_t n)
{
    azredis_client *const all[] = {client, more[0], more[1], more[2]};
    size_t i;
    int64_t until = live_ms() + LIVE_SOON;
    for (i = 0; i < 4; i++)
        while (all[i] && live_stats(all[i]).reauths < n) {
            size_t k;
            for (k = 0; k < 4; k++)
                if (all[k])
                    (void)azredis_wait(all[k], 5);
            if (live_ms() > until)
                fail_msg("client %u has renewed its token %u times", (unsigned)i, (unsigned)live_stats(all[i]).reauths);
        }
}

/* Each assertion has passed when the next one is needed: whoever kept one gets 700024. */
static void test_two_renewals(void **state)
{
    azredis_auth_options workload = {.identity = AZREDIS_ID_WORKLOAD}, binding = {.identity = AZREDIS_ID_WORKLOAD},
                         by_call = {.identity = AZREDIS_ID_CLIENT_ASSERTION, .get_assertion = callback, .get_assertion_user = &em},
                         machine = {.identity = AZREDIS_ID_MANAGED_APP};
    char tenant[40], app[40], file[200], oid[40], binding_file[200];
    int64_t tries = live_ms() + LIVE_SOON;
    uint32_t failures = 0;
    size_t i;
    (void)state;
    live_place(&em, "workload");
    snprintf(oid, sizeof oid, "%s", em.oid);
    workload.tenant_id = by_call.tenant_id = machine.tenant_id = keep(tenant, sizeof tenant, "AZURE_TENANT_ID");
    workload.client_id = by_call.client_id = keep(app, sizeof app, "AZURE_CLIENT_ID");
    workload.federated_token_file = keep(file, sizeof file, "AZURE_FEDERATED_TOKEN_FILE");
    live_place(&em, "binding");                              /* the environment is that of the others */
    binding.kubernetes_proxy = 1;
    binding.federated_token_file = keep(binding_file, sizeof binding_file, "AZURE_FEDERATED_TOKEN_FILE");
    unsetenv("AZURE_FEDERATED_TOKEN_FILE");                  /* a pod's IMDS is the node's */
    setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", getenv("EMULATOR_IMDS"), 1);
    machine.client_id = getenv("EMULATOR_EXCHANGE_CLIENT_ID");
    machine.managed_client_id = getenv("EMULATOR_USER_CLIENT_ID");
    do {                                                     /* a slow machine may come too late for it */
        azredis_close(client);
        write_token_file("{\"write\":true,\"life\":3}");
        client = as(&workload);
    } while (live_stats(client).token_failures && live_ms() < tries);
    write_token_file("{\"write\":true,\"life\":6}");
    more[0] = as(&binding);
    more[1] = as(&by_call);
    more[2] = as(&machine);
    assert_user(client, oid);
    assert_user(more[0], em.oid);
    assert_user(more[1], oid);
    assert_user(more[2], getenv("EMULATOR_OID_EXCHANGE"));
    await_renewals(1);
    write_token_file("{\"write\":true}");
    await_renewals(2);
    assert_int_equal(live_incr(client, "n"), 1);
    for (i = 0; i < 3; i++) {
        assert_int_equal(live_incr(more[i], "n"), i + 2);
        assert_int_equal(live_stats(more[i]).connects, 1);
        failures += live_stats(more[i]).token_failures;
    }
    assert_int_equal(live_stats(client).token_failures + failures, 0);
    assert_int_equal(live_stats(client).connects, 1);
    assert_int_equal(live_number(&em, "aks_requests"), live_stats(more[0]).tokens);
    assert_int_equal(live_number(&em, "imds_requests"), live_stats(more[2]).tokens);
}

/* A renewal that finds no file: the token serves on, and the file's return is found in time. */
static void test_file_is_away(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_WORKLOAD};
    const live_event *failed;
    char away[200];
    (void)state;
    live_place(&em, "workload");
    client = as(&id);
    snprintf(away, sizeof away, "%s/away", em.dir);
    assert_int_equal(rename(getenv("AZURE_FEDERATED_TOKEN_FILE"), away), 0);
    await((azredis_wait(client, 5), live_stats(client).token_failures >= 1), LIVE_SOON);
    assert_int_equal(live_incr(client, "n"), 1);
    failed = live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0);
    assert_has(failed->error.message, getenv("AZURE_FEDERATED_TOKEN_FILE"));
    assert_has(failed->error.message, "no such file");
    assert_int_equal(rename(away, getenv("AZURE_FEDERATED_TOKEN_FILE")), 0);
    await((azredis_wait(client, 5), live_stats(client).reauths >= 1), LIVE_SOON);
    assert_int_equal(live_incr(client, "n"), 2);
    assert_int_equal(live_stats(client).connects, 1);
}

/* ---- refusals ---------------------------------------------------------------------------------- */

/* Connecting fails at once; the error has the part, and the authority was asked so often. */
static void refused(azredis_auth_options *id, azredis_status code, int aadsts, const char *part, long requests)
{
    azredis_options o = {.identity = id};
    azredis_error why = {0};
    long before = live_number(&em, "token_requests") + live_number(&em, "aks_requests");
    client = live_new(&em, &o);
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), code);
    assert_has(why.message, part);
    assert_int_equal(why.aadsts, aadsts);
    assert_int_equal(live_leaks(why.message), 0);
    assert_int_equal(live_number(&em, "token_requests") + live_number(&em, "aks_requests"), before + requests);
    assert_int_equal(live_number(&em, "connections_opened"), 0);
    azredis_close(client);
    client = NULL;
}

static void test_refused(void **state)
{
    static const struct { const char *wish; int aadsts; long requests; const char *part; } row[] = {
        {"{\"write\":true,\"claims\":{\"iss\":\"https://other/\"}}", 700211, 1, "compare issuer, subject and audience"},
        {"{\"write\":true,\"claims\":{\"aud\":\"api://other\"}}", 700212, 1, "compare issuer, subject and audience"},
        {"{\"write\":true,\"claims\":{\"sub\":\"system:serviceaccount:other:other\"}}", 700213, 1, "compare issuer"},
        {"{\"write\":true,\"claims\":{\"sub\":\"system:serviceaccount:DEFAULT:redis-client\"}}", 7002137, 1, "upper and lower case"},
        {"{\"write\":true,\"stranger\":true}", 50013, 2, "the token file"},
        {"{\"write\":true,\"life\":-1}", 700024, 2, "the token file"},
    };
    azredis_auth_options id = {.identity = AZREDIS_ID_WORKLOAD};
    char path[200];
    FILE *f;
    size_t i;
    (void)state;
    live_place(&em, "workload");
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        write_token_file(row[i].wish);
        refused(&id, AZREDIS_E_ENTRA, row[i].aadsts, row[i].part, row[i].requests);
    }
    snprintf(path, sizeof path, "%s/empty", em.dir);
    assert_non_null(f = fopen(path, "w"));
    fclose(f);
    id.federated_token_file = path;
    refused(&id, AZREDIS_E_TOKEN, 0, "is empty", 0);
    unlink(path);
    refused(&id, AZREDIS_E_NO_CREDENTIAL, 0, path, 0);
    id.federated_token_file = em.dir;
    refused(&id, AZREDIS_E_NO_CREDENTIAL, 0, "no regular file", 0);
    id.federated_token_file = NULL;
    unsetenv("AZURE_CLIENT_ID");
    refused(&id, AZREDIS_E_NO_CREDENTIAL, 0, "missing AZURE_CLIENT_ID", 0);
}

/* c.7, row 26: no socket is opened to such an authority, nor to another one in its place. */
static void test_wrong_authority(void **state)
{
    static const char *const bad[] = {"http://login.microsoftonline.com", "https://u@localhost", "https://evil.example"};
    azredis_auth_options id = {.identity = AZREDIS_ID_WORKLOAD};
    size_t i;
    (void)state;
    live_place(&em, "workload");
    for (i = 0; i < 3; i++) {
        setenv("AZURE_AUTHORITY_HOST", bad[i], 1);
        refused(&id, AZREDIS_E_ARG, 0, "AZURE_AUTHORITY_HOST: ", 0);
    }
    assert_int_equal(live_number(&em, "token_connections"), 0);
}

/* The file was renewed between the reading and the answer: read again, once. In the default chain, too. */
static void test_stale_once(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_DEFAULT};
    (void)state;
    live_place(&em, "workload");
    live_fault(&em, "token-error", "700024", "1");
    client = as(&id);
    assert_int_equal(live_fired(&em, "token-error"), 1);
    assert_int_equal(live_number(&em, "token_requests"), 2);
    assert_int_equal(live_stats(client).token_failures, 0);
    assert_user(client, em.oid);
}

/* ---- the token proxy ----------------------------------------------------------------------------- */

static void read_file(const char *path, char *out, size_t cap)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    out[fread(out, 1, cap - 1, f)] = 0;
    fclose(f);
}

static void test_proxy_refused(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_WORKLOAD, .kubernetes_proxy = 1};
    char own[200], sni[100];
    (void)state;
    live_place(&em, "binding");
    snprintf(own, sizeof own, "%s", getenv("AZURE_KUBERNETES_CA_FILE"));
    snprintf(sni, sizeof sni, "%s", getenv("AZURE_KUBERNETES_SNI_NAME"));
    setenv("AZURE_KUBERNETES_CA_FILE", getenv("SSL_CERT_FILE"), 1);          /* another CA */
    refused(&id, AZREDIS_E_CERT, 0, "untrusted issuer", 0);
    unsetenv("AZURE_KUBERNETES_CA_FILE");                                    /* none: the usual roots */
    refused(&id, AZREDIS_E_CERT, 0, "untrusted issuer", 0);
    setenv("AZURE_KUBERNETES_CA_FILE", own, 1);
    setenv("AZURE_KUBERNETES_SNI_NAME", "another.emulator.test", 1);         /* another name */
    refused(&id, AZREDIS_E_CERT, 0, "wrong host", 0);
    unsetenv("AZURE_KUBERNETES_SNI_NAME");
    refused(&id, AZREDIS_E_CERT, 0, "wrong host", 0);
    setenv("AZURE_KUBERNETES_SNI_NAME", sni, 1);
    setenv("AZURE_KUBERNETES_TOKEN_PROXY", "http://127.0.0.1:1/", 1);
    refused(&id, AZREDIS_E_ARG, 0, "must be https", 0);
    unsetenv("AZURE_KUBERNETES_TOKEN_PROXY");
    refused(&id, AZREDIS_E_ARG, 0, "AZURE_KUBERNETES_TOKEN_PROXY: it is not set", 0);
    id.kubernetes_proxy = 0;                                                 /* not asked for: the authority, as ever */
    refused(&id, AZREDIS_E_ENTRA, 700016, "does not exist in this tenant", 1);
}

/* Roots by variable, and from a file that is empty when it is first read. */
static void test_proxy_roots(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_WORKLOAD, .kubernetes_proxy = 1};
    azredis_options o = {.identity = &id};
    char pem[8000], path[200];
    FILE *f;
    (void)state;
    live_place(&em, "binding");
    read_file(getenv("AZURE_KUBERNETES_CA_FILE"), pem, sizeof pem);
    unsetenv("AZURE_KUBERNETES_CA_FILE");
    setenv("AZURE_KUBERNETES_CA_DATA", pem, 1);
    client = as(&id);
    assert_user(client, em.oid);
    azredis_close(client);
    unsetenv("AZURE_KUBERNETES_CA_DATA");
    snprintf(path, sizeof path, "%s/roots", em.dir);
    assert_non_null(f = fopen(path, "w"));
    setenv("AZURE_KUBERNETES_CA_FILE", path, 1);
    client = live_new(&em, &o);
    (void)azredis_wait(client, 50);                                          /* the first reading */
    assert_int_equal(live_number(&em, "aks_requests"), 1);
    assert_int_equal(fputs(pem, f) < 0, 0);
    fclose(f);
    await((azredis_wait(client, 5), live_connected(client)), LIVE_SOON);
    assert_int_equal(live_stats(client).token_failures, 0);
    assert_int_equal(live_number(&em, "aks_requests"), 2);
    unlink(path);
}

/* ---- the machine's identity ---------------------------------------------------------------------- */

static void test_machine_refused(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_MANAGED_APP};
    char tenant[40], app[40];
    (void)state;
    live_place(&em, "exchange");
    id.tenant_id = keep(tenant, sizeof tenant, "AZURE_TENANT_ID");
    id.client_id = keep(app, sizeof app, "AZURE_CLIENT_ID");
    id.managed_client_id = getenv("EMULATOR_USER2_CLIENT_ID");               /* assigned, but no credential of the application */
    refused(&id, AZREDIS_E_ENTRA, 700213, "no federated credential", 1);
    id.managed_client_id = id.client_id;                                     /* not assigned */
    refused(&id, AZREDIS_E_ENTRA, 0, "assign it, or mend its id", 0);
    id.managed_client_id = NULL;
    refused(&id, AZREDIS_E_ARG, 0, "needs a user-assigned identity", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_renewals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_is_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_authority, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_stale_once, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_proxy_refused, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_proxy_roots, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_machine_refused, setup_hour, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
