/* Managed identity in each of the places that have one: two renewals in each, beside each other; hostile challenges of
 * Azure Arc under a trace of system calls; Service Fabric's certificate; metadata services of others.
 *   cc -std=gnu11 -I. tests/live/test_managed.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include <stdlib.h>
#define AZRI_ARC_DIRECTORY (getenv("EMULATOR_ARC_DIR"))
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "live.h"

static live em;
static azredis_auth *identity;
static azredis_error why;

static int setup(void **state)
{
    (void)state;
    live_start(&em, NULL);
    return 0;
}

static int setup_short(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "3", NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_auth_release(identity);
    identity = NULL;
    live_stop(&em);
    return 0;
}

/* One walk: OK and the token is EMULATOR_OID's, or why says why not, whether or not it would be tried again. */
static azredis_status ask(azredis_identity which)
{
    azredis_auth_options o = {.identity = which, .client_id = getenv("AZURE_CLIENT_ID"), .on_event = live_on_event,
                              .event_user = &live_seen};
    azredis_token t = {0};
    azredis_status st;
    int64_t until = live_ms() + 2 * LIVE_SOON;
    memset(&why, 0, sizeof why);
    azredis_auth_release(identity);
    identity = azredis_auth_open(&o);
    do
        st = azredis_auth_token(identity, &t, 20, &why);
    while (st == AZREDIS_AGAIN && why.code == AZREDIS_AGAIN && live_ms() < until);
    if (st == AZREDIS_AGAIN)
        st = why.code;
    if (st == AZREDIS_OK && strcmp(t.user, getenv("EMULATOR_OID")) != 0)
        fail_msg("the token is %s's and not %s's", t.user, getenv("EMULATOR_OID"));
    azredis_token_wipe(&t);
    if (live_leaks(why.message))
        fail_msg("a secret is in the message");
    return st;
}

static void works(void)
{
    if (ask(AZREDIS_ID_MANAGED) != AZREDIS_OK)
        fail_msg("no token: %s", why.message);
}

static void fails(azredis_status st, const char *text)
{
    azredis_status is = ask(AZREDIS_ID_MANAGED);
    if (is != st || !strstr(why.message, text))
        fail_msg("status %d, and '%s' is not in: %s", is, text, why.message);
}

/* ---- each place ------------------------------------------------------------------------------ */

/* A program in that place, which is a process of its own: the environment is the whole process's. "" or what is wrong. */
static const char *live_in(const char *place)
{
    static char text[600];
    azredis_auth_options id = {.identity = AZREDIS_ID_MANAGED};
    azredis_options o = {.identity = &id, .host = em.endpoint, .on_event = live_on_event, .event_user = &live_seen};
    azredis_reply r = {0};
    azredis_client *c;
    int64_t until = live_ms() + 2 * LIVE_SOON;
    live_place(&em, place);
    if (getenv("AZURE_CLIENT_ID"))
        id.identity = AZREDIS_ID_DEFAULT;               /* where that variable counts */
    setenv("HTTP_PROXY", "http://127.0.0.1:9", 1);     /* nobody asks for it; c.7 row 23 */
    setenv("http_proxy", "http://127.0.0.1:9", 1);
    c = azredis_open(&o);
    if (azredis_connect(c, LIVE_SOON, &why) != AZREDIS_OK)
        return why.message;
    while (live_stats(c).reauths < 2 && live_ms() < until)
        azredis_wait(c, 20);
    snprintf(text, sizeof text, "%s", "");
    if (azredis_command(c, &r, "ACL", "WHOAMI") != AZREDIS_OK)
        snprintf(text, sizeof text, "ACL WHOAMI: %.400s", r.error ? r.error->message : "?");
    else if (strcmp(azredis_text(r.value).ptr, em.oid) != 0)
        snprintf(text, sizeof text, "Redis knows it as %.100s, not as %s", azredis_text(r.value).ptr, em.oid);
    else if (live_stats(c).reauths < 2 || live_stats(c).reconnects || live_seen.leaks)
        snprintf(text, sizeof text, "%u renewals, %u reconnects, %d leaks", (unsigned)live_stats(c).reauths,
                 (unsigned)live_stats(c).reconnects, live_seen.leaks);
    azredis_reply_free(&r);
    azredis_close(c);
    return text;
}

static void test_places(void **state)
{
    static const char *const place[] = {"imds", "imds-user", "appservice", "appservice-user", "msi", "arc", "arc-user",
                                        "cloudshell", "fabric", "ml"};
    pid_t pid[10];
    size_t i;
    int status, bad = 0;
    (void)state;
    fflush(NULL);
    for (i = 0; i < 10; i++) {
        pid[i] = fork();
        assert_true(pid[i] >= 0);
        if (pid[i] == 0) {
            const char *wrong = live_in(place[i]);
            if (*wrong)
                fprintf(stderr, "%s: %s\n", place[i], wrong);
            _exit(*wrong != 0);
        }
    }
    for (i = 0; i < 10; i++) {
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        bad += status != 0;
    }
    assert_int_equal(bad, 0);
    assert_int_equal(live_number(&em, "token_requests"), 0);
    assert_int_equal(live_number(&em, "proxy_connections"), 0);
    assert_true(live_number(&em, "imds_answers") >= 6 && live_number(&em, "fabric_answers") >= 3);
}

/* ---- Azure Arc ------------------------------------------------------------------------------- */

/* The names that strace saw opened, or tried: each once. */
static size_t traced(const char *path, char names[400][300])
{
    char line[2000], *at, *end;
    size_t n = 0, i;
    FILE *f = fopen(path, "re");
    if (!f)
        fail_msg("strace wrote nothing: may this machine trace processes?");
    while (fgets(line, sizeof line, f)) {
        if (!strstr(line, "open") || !(at = strchr(line, '"')) || !(end = strchr(at + 1, '"')))
            continue;
        *end = 0;
        for (i = 0; i < n && strcmp(names[i], at + 1) != 0; i++) {
        }
        if (i < n)
            continue;
        assert_true(n < 400);
        snprintf(names[n++], 300, "%.299s", at + 1);
    }
    fclose(f);
    return n;
}

/* One token request under strace, in a process of its own: this program again, see main. Exit status 0: a token. */
static int trace_one(char names[400][300], size_t *count)
{
    char self[400], path[160];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    int status;
    pid_t pid;
    assert_true(n > 0);
    self[n] = 0;
    snprintf(path, sizeof path, "%s/trace", em.dir);
    pid = fork();
    if (pid == 0) {
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1);     /* which needs ptrace for itself */
        execlp("strace", "strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", path, self, "--token", (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 127)
        fail_msg("strace is not installed");
    *count = traced(path, names);
    assert_int_equal(unlink(path), 0);
    return WEXITSTATUS(status);
}

static int known(char names[400][300], size_t n, const char *name)
{
    while (n > 0 && strcmp(names[n - 1], name) != 0)
        n--;
    return n > 0;
}

/* Whatever the challenge says, nothing is opened but the directory and a plain name in it, and mostly not even that. */
static void test_arc_traced(void **state)
{
    static char usual[400][300], seen[400][300];
    static const struct { const char *challenge; int opens; } row[] = {
        {"19", 0}, {"3", 0}, {"4", 0}, {"5", 0}, {"6", 0}, {"7", 0}, {"15", 0}, {"16", 0}, {"17", 0}, {"18", 0},
        {"8", 1}, {"9", 1}, {"11", 1}, {"12", 1}, {"13", 1}, {"14", 1}, {"0", 1}, {"1", 1}, {"2", 1}, {"10", 1},
    };
    size_t i, k, n, m = 0;
    long answers;
    (void)state;
    live_place(&em, "arc");
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        int good = row[i].challenge[0] == '0' || !strcmp(row[i].challenge, "1") || !strcmp(row[i].challenge, "2") ||
                   !strcmp(row[i].challenge, "10"), names = 0, directories = 0, status;
        answers = live_number(&em, "arc_answers");
        if (row[i].challenge[0] != '0')
            live_fault(&em, "arc-challenge", row[i].challenge, "1");
        status = trace_one(i ? seen : usual, i ? &n : &m);
        assert_int_equal(status, good ? 0 : 1);
        if (i == 0)
            continue;                   /* no file at all: what any program opens */
        assert_true(row[i].challenge[0] == '0' || live_fired(&em, "arc-challenge") == (long)i + 1 - (i > 16));
        for (k = 0; k < n; k++) {
            if (known(usual, m, seen[k]) || (LIVE_SANITIZED && strstr(seen[k], "/tsan.rodata.")))  /* its shadow's */
                continue;
            directories += !strcmp(seen[k], getenv("EMULATOR_ARC_DIR"));
            names += !strchr(seen[k], '/') && strstr(seen[k], ".key") != NULL;
            if (strcmp(seen[k], getenv("EMULATOR_ARC_DIR")) != 0 && (strchr(seen[k], '/') || !strstr(seen[k], ".key")))
                fail_msg("challenge %s made us open %s", row[i].challenge, seen[k]);
        }
        assert_int_equal(names, row[i].opens);
        assert_int_equal(directories, row[i].opens);
        assert_int_equal(live_number(&em, "arc_answers") - answers, good);
    }
}

static void test_arc_user(void **state)
{
    (void)state;
    live_place(&em, "arc-user");
    works();
    live_fault(&em, "arc-old", "2", "1");
    works();
    live_fault(&em, "arc-old", NULL, "1");
    fails(AZREDIS_E_TOKEN, "another identity");
    live_fault(&em, "arc-old", "1", "1");
    fails(AZREDIS_E_TOKEN, "its agent is too old");
    live_fault(&em, "arc-old", "3", "1");
    fails(AZREDIS_E_TOKEN, "another identity");
    assert_int_equal(live_fired(&em, "arc-old"), 4);
}

/* The directory belongs to others. Root reads everything, so it must be somebody else for a while. */
static void test_arc_unreadable(void **state)
{
    int root = geteuid() == 0;
    (void)state;
    live_place(&em, "arc");
    assert_int_equal(root ? seteuid(65534) : chmod(getenv("EMULATOR_ARC_DIR"), 0), 0);
    fails(AZREDIS_E_NO_CREDENTIAL, "must be in the group himds");
    assert_int_equal(root ? seteuid(0) : chmod(getenv("EMULATOR_ARC_DIR"), 0700), 0);
}

/* ---- Service Fabric -------------------------------------------------------------------------- */

/* c.7 row 20: another certificate is given no secret, not even a request. */
static void test_fabric_certificate(void **state)
{
    char print[64];
    (void)state;
    live_place(&em, "fabric");
    snprintf(print, sizeof print, "%.50s", getenv("IDENTITY_SERVER_THUMBPRINT"));
    print[39] = print[39] == '0' ? '1' : '0';
    setenv("IDENTITY_SERVER_THUMBPRINT", print, 1);
    fails(AZREDIS_E_CERT, "it is not the one of IDENTITY_SERVER_THUMBPRINT");
    assert_int_equal(why.retryable, 0);
    assert_int_equal(live_number(&em, "fabric_secrets"), 0);
    assert_int_equal(live_number(&em, "fabric_requests"), 0);
    assert_true(live_number(&em, "fabric_connections") > 0);
    live_place(&em, "fabric");
    works();
    assert_int_equal(live_number(&em, "fabric_secrets"), 1);
    live_fault(&em, "fabric-redirect", NULL, "1");
    fails(AZREDIS_E_HTTP, "never redirected");
    assert_int_equal(live_number(&em, "trap_hits"), 0);
}

/* The pin is Service Fabric's alone: App Service's endpoint with the same certificate is refused. */
static void test_no_other_pin(void **state)
{
    char url[160];
    (void)state;
    live_place(&em, "fabric");
    snprintf(url, sizeof url, "%s", getenv("IDENTITY_ENDPOINT"));
    unsetenv("IDENTITY_SERVER_THUMBPRINT");
    setenv("IDENTITY_ENDPOINT", url, 1);
    fails(AZREDIS_E_CERT, "certificate of 127.0.0.1 refused");
    assert_int_equal(live_number(&em, "fabric_secrets"), 0);
}

/* ---- the others ------------------------------------------------------------------------------ */

/* c.7 row 24. */
static void test_rotated_header(void **state)
{
    json_t *rotated;
    (void)state;
    live_place(&em, "appservice");
    works();
    rotated = live_json(&em, "POST", "/rotate?endpoint=appservice", "");
    fails(AZREDIS_E_ENTRA, "the platform has changed its variables");
    setenv("IDENTITY_HEADER", json_string_value(json_object_get(rotated, "header")), 1);
    json_decref(rotated);
    works();
}

/* c.7 rows 10 and 11, and metadata services that are not Azure's: one request, and the next link is asked. */
static void test_foreign(void **state)
{
    static const struct { const char *fault, *value; } row[] = {
        {"imds-ec2", NULL}, {"imds-ec2", "404"}, {"imds-gce", NULL}, {"imds-gce", "404"}, {"imds-html", NULL}, {"imds-unreachable", NULL},
        {"imds-redirect", NULL}, {"imds-empty", NULL}, {"imds-no-token", NULL}, {"imds-huge", NULL},
    };
    azredis_link_record record;
    size_t i;
    (void)state;
    live_place(&em, "imds");
    setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential,EnvironmentCredential", 1);
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        long requests = live_number(&em, "imds_requests");
        live_fault(&em, row[i].fault, row[i].value, "1");
        if (ask(AZREDIS_ID_DEFAULT) != AZREDIS_E_NO_CREDENTIAL)
            fail_msg("%s: %s", row[i].fault, why.message);
        assert_int_equal(azredis_auth_record(identity, 0, &record), AZREDIS_OK);
        assert_string_equal(record.name, "managed-identity");
        assert_string_equal(record.outcome, "unavailable");
        assert_has(record.reason, "another metadata service answered");
        assert_int_equal(live_number(&em, "imds_requests") - requests, 1);
    }
    assert_int_equal(live_number(&em, "trap_hits"), 0);
    if (ask(AZREDIS_ID_DEFAULT) != AZREDIS_OK)           /* nothing of that is remembered */
        fail_msg("%s", why.message);
    unsetenv("AZURE_TOKEN_CREDENTIALS");
}

/* Trouble that passes: 404 and 429 of IMDS, a sidecar of Container Apps that is still starting. */
static void test_retries(void **state)
{
    (void)state;
    live_place(&em, "imds");
    live_fault(&em, "imds-404", NULL, "1");
    works();
    assert_int_equal(live_number(&em, "imds_requests"), 2);
    live_fault(&em, "imds-429", "1", "1");
    works();
    live_place(&em, "appservice");
    live_fault(&em, "appservice-refuse", NULL, "1");
    works();
    assert_int_equal(live_fired(&em, "appservice-refuse"), 1);
}

/* The link that won stays, though a variable that appears completes the set of one before it. */
static void test_pinned(void **state)
{
    azredis_auth_options o = {.identity = AZREDIS_ID_DEFAULT, .on_event = live_on_event, .event_user = &live_seen};
    azredis_token first = {0}, t = {0};
    char oid[40];
    azredis_status st;
    (void)state;
    live_place(&em, "imds-user");       /* which has AZURE_CLIENT_ID */
    snprintf(oid, sizeof oid, "%s", em.oid);
    identity = azredis_auth_open(&o);
    assert_int_equal(azredis_auth_token(identity, &first, LIVE_SOON, &why), AZREDIS_OK);
    assert_string_equal(first.user, oid);
    setenv("AZURE_AUTHORITY_HOST", getenv("EMULATOR_AUTHORITY"), 1);
    setenv("AZURE_TENANT_ID", getenv("EMULATOR_TENANT_ID"), 1);
    setenv("AZURE_CLIENT_SECRET", em.secret, 1);
    await((azredis_token_wipe(&t), st = azredis_auth_token(identity, &t, LIVE_SOON, &why), st != AZREDIS_OK ||
           strcmp(t.jwt, first.jwt) != 0), LIVE_SOON);
    if (st != AZREDIS_OK)
        fail_msg("%s", why.message);
    assert_string_equal(t.user, oid);
    assert_int_equal(live_number(&em, "token_requests"), 0);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 0);
    azredis_token_wipe(&first);
    azredis_token_wipe(&t);
}

#define T(f, s) cmocka_unit_test_setup_teardown(f, s, teardown)
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_places, setup_short), T(test_arc_traced, setup), T(test_arc_user, setup), T(test_arc_unreadable, setup),
        T(test_fabric_certificate, setup), T(test_no_other_pin, setup), T(test_rotated_header, setup), T(test_foreign, setup),
        T(test_retries, setup), T(test_pinned, setup_short),
    };
    if (argc == 2 && argv[1][0] != '-')      /* one case alone */
        cmocka_set_test_filter(argv[1]);
    if (argc == 2 && !strcmp(argv[1], "--token")) {
        azredis_status st = ask(AZREDIS_ID_MANAGED);
        azredis_auth_release(identity);
        return st == AZREDIS_OK ? 0 : 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
