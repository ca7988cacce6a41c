/* Azure CLI, Azure Developer CLI and Azure PowerShell on the way into Redis: stand-ins of tests/data/tools, which are as
 * strict about their arguments as the real ones and get their token from the emulator, behave in every way that those
 * do. Two renewals of each; the chain through links 4 to 6; whatever is run is looked at in /proc. Where the real az is
 * installed, it says itself that nobody is signed in.
 *   cc -std=gnu11 -I. tests/live/test_devtools.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "azredis_entra.h"
#include "live.h"

#include <dirent.h>
#include <limits.h>

#define COUNT(list) (sizeof (list) / sizeof (list)[0])
#define OPTION_SECRET "option~Secret.0123456789abcdefghijklmnop"

enum { AZ, AZD, PWSH, TOOLS };
static const char *const programs[] = {"az", "azd", "pwsh"};
static const char *const names[] = {"azure-cli", "azure-developer-cli", "azure-powershell"};
static const azredis_identity ids[] = {AZREDIS_ID_AZURE_CLI, AZREDIS_ID_AZURE_DEVELOPER_CLI, AZREDIS_ID_AZURE_POWERSHELL};

static live em;
static azredis_client *clients[TOOLS];
static char own_path[4000], with_tools[4200], mark[96], pids[104];

static void behave(int tool, const char *how)
{
    char name[20];
    snprintf(name, sizeof name, "STANDIN_%s", programs[tool]);
    setenv(name, how, 1);
}

/* Who is signed in to the tools; the program itself has no identity in its environment, but for that. */
static int start(void **state)
{
    char dir[PATH_MAX];
    (void)state;
    snprintf(own_path, sizeof own_path, "%s", getenv("PATH"));
    live_start(&em, "--token-ttl", "10", NULL);
    if (!realpath("tests/data/tools", dir))
        fail_msg("run it where tests/data/tools is");
    snprintf(with_tools, sizeof with_tools, "%.150s:%s", dir, own_path);
    snprintf(mark, sizeof mark, "%s/mark", em.dir);
    snprintf(pids, sizeof pids, "%s.pids", mark);
    setenv("PATH", with_tools, 1);
    setenv("STANDIN_MARK", mark, 1);
    setenv("STANDIN_TENANT", getenv("AZURE_TENANT_ID"), 1);
    setenv("STANDIN_CLIENT", getenv("AZURE_CLIENT_ID"), 1);
    setenv("STANDIN_SECRET", em.secret, 1);
    setenv("EMULATOR_AUTHORITY", getenv("AZURE_AUTHORITY_HOST"), 1);
    unsetenv("AZURE_CLIENT_ID");
    unsetenv("AZREDIS_CONNECTION");
    return 0;
}

static int reset(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < TOOLS; i++) {
        azredis_close(clients[i]);                          /* of a test that failed */
        clients[i] = NULL;
        behave(i, "");
    }
    unlink(mark);
    unlink(pids);
    setenv("PATH", with_tools, 1);
    unsetenv("AZURE_TOKEN_CREDENTIALS");
    return 0;
}

static int stop(void **state)
{
    reset(state);
    setenv("PATH", own_path, 1);
    live_stop(&em);
    return 0;
}

static void no_children(void)
{
    siginfo_t who = {0};
    assert_int_equal(waitid(P_ALL, 0, &who, WEXITED | WNOHANG | WNOWAIT), 0);   /* the emulator lives */
    assert_int_equal(who.si_pid, 0);
}

/* ---- what everybody on this machine can see ---------------------------------------------------- */

static size_t take(const char *pid, const char *what, char *text, size_t room)
{
    char path[64];
    ssize_t n = 0, got;
    int fd;
    snprintf(path, sizeof path, "/proc/%.10s/%s", pid, what);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (got = read(fd, text + n, room - 1 - (size_t)n)) > 0)
        n += got;
    if (fd >= 0)
        close(fd);
    text[n] = 0;
    return (size_t)n;
}

static int holds(const char *text, size_t n, const char *what) { return memmem(text, n, what, strlen(what)) != NULL; }

/* Of a program that we have started: each variable is ours, or the one that keeps it from colours. */
static void look_at_environment(const char *text, size_t n)
{
    const char *at = text, *own;
    char name[100];
    for (; at < text + n; at += strlen(at) + 1) {
        if (!strcmp(at, "AZURE_CORE_NO_COLOR=true") || !strcmp(at, "NO_COLOR=1"))
            continue;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(at, "="), at);
        own = getenv(name);
        if (!own || strcmp(own, at + strlen(name) + 1))
            fail_msg("the child has a variable that is not ours: %s", name);
    }
    assert_false(holds(text, n, "eyJ"));
    assert_false(holds(text, n, OPTION_SECRET));
}

/* Counts in seen[tool] what it looked at. */
static void look_around(long seen[TOOLS])
{
    static char line[200000], text[200000], own[200000];
    size_t own_len = take("self", "cmdline", own, sizeof own);
    DIR *d = opendir("/proc");
    struct dirent *e;
    char stat[600], *p;
    size_t n, i;
    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        if (e->d_name[0] < '0' || e->d_name[0] > '9' || !(n = take(e->d_name, "cmdline", line, sizeof line)))
            continue;
        if (holds(line, n, em.secret) || holds(line, n, OPTION_SECRET) || holds(line, n, "eyJ"))
            fail_msg("a secret in the command line of %s: %s", e->d_name, line);
        if (n == own_len && !memcmp(line, own, n))
            continue;                                       /* we, or a child that has not become its program yet */
        take(e->d_name, "stat", stat, sizeof stat);
        p = strrchr(stat, ')');
        if (!p || atoi(p + 4) != (int)getpid() || atoi(e->d_name) == (int)em.pid)
            continue;
        n = take(e->d_name, "environ", text, sizeof text);
        look_at_environment(text, n);
        p = line + strlen(line) + 1;                        /* "/bin/sh", then the script */
        for (i = 0; i < TOOLS; i++) {
            const char *slash = strrchr(p, '/');
            seen[i] += slash && !strcmp(slash + 1, programs[i]) && *p == '/' && n > 0;
        }
    }
    closedir(d);
}

/* ---- into Redis -------------------------------------------------------------------------------- */

/* All three at once, each on a connection of its own, with two renewals and no command lost. With threads: a plain call
 * would carry the renewal out, and nobody would be there to look around meanwhile. */
static void test_two_renewals(void **state)
{
    static live_events events[TOOLS];
    azredis_auth *auth;
    azredis_auth_options a[TOOLS] = {{0}};
    azredis_options o[TOOLS] = {{0}};
    azredis_client **c = clients;
    azredis_auth_info_data info;
    azredis_stats_data d;
    int64_t conn[TOOLS], until = live_ms() + 3 * LIVE_SOON;
    long seen[TOOLS] = {0};
    int i, ready = 0;
    (void)state;
    behave(AZ, "old");
    for (i = 0; i < TOOLS; i++) {
        a[i].identity = ids[i];
        a[i].client_secret = OPTION_SECRET;                 /* of no use here, and nobody else's business */
        a[i].tenant_id = i == AZ ? NULL : getenv("AZURE_TENANT_ID");
        o[i].identity = &a[i];
        o[i].on_event = live_on_event;
        o[i].event_user = &events[i];
        c[i] = live_open(&em, &o[i]);
        assert_int_equal(azredis_start(c[i]), AZREDIS_OK);
        conn[i] = live_client_id(c[i]);
        auth = azredis_client_auth(c[i]);
        assert_int_equal(azredis_auth_info(auth, &info), AZREDIS_OK);
        azredis_auth_release(auth);
        assert_string_equal(info.credential, names[i]);
        assert_string_equal(info.user, em.oid);
    }
    while (ready < TOOLS) {
        assert_true(live_ms() < until);
        look_around(seen);
        live_nap(5);
        for (i = ready = 0; i < TOOLS; i++) {
            assert_true(live_incr(c[i], names[i]) > 0);
            ready += live_stats(c[i]).reauths >= 2;
        }
    }
    for (i = 0; i < TOOLS; i++) {
        d = live_stats(c[i]);
        assert_true(d.tokens >= 3);
        assert_int_equal(d.reconnects, 0);
        assert_int_equal(live_client_id(c[i]), conn[i]);
        if (!seen[i])
            fail_msg("%s was never seen at work", programs[i]);
        azredis_close(c[i]);
        c[i] = NULL;
        assert_int_equal(events[i].of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 0);
        assert_int_equal(events[i].leaks, 0);
    }
    no_children();
}

/* One walk: how it ends. records: how many links were asked. */
static azredis_status walk(const azredis_auth_options *a, size_t *records, azredis_link_record *r, azredis_error *why)
{
    azredis_auth *auth = azredis_auth_open(a);
    azredis_token t;
    azredis_status st;
    int64_t until = live_ms() + LIVE_SOON;
    memset(why, 0, sizeof *why);
    assert_non_null(auth);
    do
        st = azredis_auth_token(auth, &t, 200, why);
    while (st == AZREDIS_AGAIN && why->code == AZREDIS_AGAIN && live_ms() < until);
    for (*records = 0; *records < 12 && azredis_auth_record(auth, *records, &r[*records]) == AZREDIS_OK; ++*records) {}
    if (st == AZREDIS_OK)
        azredis_token_wipe(&t);
    azredis_auth_release(auth);
    assert_int_equal(live_leaks(why->message), 0);
    no_children();
    return st == AZREDIS_AGAIN ? why->code : st;            /* it would be tried again */
}

/* Nobody is signed in to az, azd's sign-in is too old: the sixth link of the default chain has the token. */
static void test_chain(void **state)
{
    azredis_auth_options a = {0};
    azredis_link_record r[12];
    azredis_error why;
    size_t n, i;
    (void)state;
    behave(AZ, "logged-out");
    behave(AZD, "aadsts");
    unsetenv("AZURE_CLIENT_SECRET");
    setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential,WorkloadIdentityCredential,dev", 1);
    assert_int_equal(walk(&a, &n, r, &why), AZREDIS_OK);
    assert_int_equal(n, 5);
    for (i = 0; i < n; i++)
        assert_string_equal(r[i].outcome, i == 4 ? "token" : "unavailable");
    assert_string_equal(r[2].name, "azure-cli");
    assert_string_equal(r[2].reason, "nobody is signed in; run az login");
    assert_string_equal(r[3].name, "azure-developer-cli");
    assert_has(r[3].reason, "AADSTS700082");
    assert_string_equal(r[4].name, "azure-powershell");
    setenv("AZURE_CLIENT_SECRET", em.secret, 1);
}

/* ---- every way to fail ------------------------------------------------------------------------- */

static void test_failures(void **state)
{
    static const struct {
        const char *how;
        azredis_status st;
        const char *says[TOOLS];
    } row[] = {
        {"logged-out", AZREDIS_E_NO_CREDENTIAL, {"run az login", "run azd auth login", "run Connect-AzAccount"}},
        {"aadsts", AZREDIS_E_ENTRA, {"AADSTS700082: the sign-in", "AADSTS700082: the sign-in", "AADSTS700082: the sign-in"}},
        {"missing", AZREDIS_E_NO_CREDENTIAL, {"status 127; it says: /usr/bin/env", "status 127", "status 127"}},
        {"garbage", AZREDIS_E_TOKEN, {"neither a token", "neither a token", "the output is empty"}},
        {"flood", AZREDIS_E_LIMIT, {"more than 65536 bytes", "more than 65536 bytes", "more than 65536 bytes"}}
    };
    azredis_auth_options a = {0};
    azredis_link_record r[12];
    azredis_error why;
    char none[40];
    size_t i, n;
    int tool;
    (void)state;
    for (tool = 0; tool < TOOLS; tool++) {
        a.identity = ids[tool];
        for (i = 0; i < COUNT(row); i++) {
            behave(tool, row[i].how);
            if (walk(&a, &n, r, &why) != row[i].st)
                fail_msg("%s, %s: %d instead of %d: %s", programs[tool], row[i].how, (int)why.code, (int)row[i].st, why.message);
            assert_has(why.message, row[i].says[tool]);
            assert_has(why.message, names[tool]);
            assert_int_equal(n, 1);
        }
        setenv("PATH", "tests/data/tools::.:/none", 1);     /* only what is absolute counts */
        assert_int_equal(walk(&a, &n, r, &why), AZREDIS_E_NO_CREDENTIAL);
        snprintf(none, sizeof none, "%s: not installed", names[tool]);
        assert_has(why.message, none);
        assert_string_equal(r[0].outcome, "unavailable");
        setenv("PATH", with_tools, 1);
    }
}

/* The processes whose numbers the stand-in has written are gone. */
static void all_dead(int expected)
{
    FILE *f = fopen(pids, "re");
    long pid;
    int n = 0;
    assert_non_null(f);
    while (fscanf(f, "%ld", &pid) == 1) {
        char stat[600], *state = NULL, number[16];
        snprintf(number, sizeof number, "%ld", pid);
        await((take(number, "stat", stat, sizeof stat) == 0 || ((state = strrchr(stat, ')')) && state[2] == 'Z')), LIVE_SOON);
        n++;
    }
    fclose(f);
    assert_true(n >= expected);                             /* it may have been tried again at once */
    assert_int_equal(unlink(pids), 0);
}

/* c.7 row 22 in a second: it sleeps, and a grandchild holds its stdout. The whole group dies. */
static void test_hang(void **state)
{
    azredis_auth_options a = {.request_ms = 1000};
    azredis_link_record r[12];
    azredis_error why;
    int64_t began;
    size_t n;
    int tool;
    (void)state;
    for (tool = 0; tool < TOOLS; tool++) {
        behave(tool, "hang");
        a.identity = ids[tool];
        began = live_ms();
        assert_int_equal(walk(&a, &n, r, &why), AZREDIS_E_TIMEOUT);
        assert_in_range(live_ms() - began, 1000, 1000 + LIVE_SLACK + 1000);
        assert_has(why.message, "did not end within 1000 ms");
        all_dead(2);
    }
}

/* It has printed its token and ended, and leaves somebody behind who holds stdout: nobody waits for that one. */
static void test_orphan(void **state)
{
    azredis_auth_options a = {0};
    azredis_link_record r[12];
    azredis_error why;
    FILE *f;
    long pid = 0;
    size_t n;
    int tool;
    (void)state;
    for (tool = 0; tool < TOOLS; tool++) {
        behave(tool, "orphan");
        a.identity = ids[tool];
        assert_int_equal(walk(&a, &n, r, &why), AZREDIS_OK);
        assert_in_range(r[0].ms, 0, LIVE_SOON);
        f = fopen(pids, "re");
        assert_non_null(f);
        assert_int_equal(fscanf(f, "%ld", &pid), 1);
        fclose(f);
        assert_int_equal(kill((pid_t)pid, SIGKILL), 0);     /* it slept on: 60 s are not over */
        assert_int_equal(unlink(pids), 0);
    }
}

/* ---- the programs ------------------------------------------------------------------------------ */

static char output[20000];

/* A child without a shell; what it prints is in output. The exit status. */
static int run(const char *word, ...)
{
    const char *argv[16] = {word};
    int n = 1, pipes[2], status;
    ssize_t got;
    size_t at = 0;
    va_list ap;
    pid_t pid;
    va_start(ap, word);
    while (n < 15 && (argv[n] = va_arg(ap, const char *)) != NULL)
        n++;
    va_end(ap);
    argv[n] = NULL;
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(pipes[1], 1);
        dup2(pipes[1], 2);
        close(pipes[0]);
        close(pipes[1]);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(pipes[1]);
    while ((got = read(pipes[0], output + at, sizeof output - 1 - at)) > 0)
        at += (size_t)got;
    output[at] = 0;
    close(pipes[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(live_leaks(output), 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *program(const char *variable, const char *otherwise)
{
    return getenv(variable) ? getenv(variable) : otherwise;
}

/* By the same names in the tool, in a connection string and in the sample. */
static void test_by_name(void **state)
{
    const char *azredis = program("AZREDIS", "build/azredis"), *sample = program("SAMPLE", "build/sample");
    char string[200], part[100];
    int tool;
    (void)state;
    for (tool = 0; tool < TOOLS; tool++) {
        snprintf(string, sizeof string, "%s,auth=%s", em.endpoint, names[tool]);
        snprintf(part, sizeof part, "\"credential\":\"%s\"", names[tool]);
        assert_int_equal(run(azredis, "token", "--auth", names[tool], "--json", NULL), 0);
        assert_has(output, part);
        assert_has(output, em.oid);
        assert_int_equal(run(azredis, "-h", string, "ACL", "WHOAMI", NULL), 0);
        assert_has(output, em.oid);
        assert_int_equal(run(sample, "--endpoint", em.endpoint, "--auth", names[tool], "--seconds", "1", NULL), 0);
        assert_has(output, "commands_failed=0");
    }
}

/* Nothing of it reaches a program: none is even started. */
static void test_injection(void **state)
{
    static const char *const bad[] = {"x;id", "$(id)", "`id`", "a\nb", "-x", "--help", "a b", "a'b", "a\"b", "a|b"};
    const char *azredis = program("AZREDIS", "build/azredis");
    char string[200], other[120];
    size_t i;
    int tool;
    (void)state;
    snprintf(other, sizeof other, "%s.injected", mark);     /* no program that was left behind knows it */
    setenv("STANDIN_MARK", other, 1);
    for (tool = 0; tool < TOOLS; tool++) {
        for (i = 0; i < COUNT(bad); i++) {
            if (run(azredis, "token", "--auth", names[tool], "--tenant-id", bad[i], NULL) != 2)
                fail_msg("--tenant-id %s: %s", bad[i], output);
            if (run(azredis, "token", "--auth", names[tool], "--scope", bad[i], NULL) != 2)
                fail_msg("--scope %s: %s", bad[i], output);
        }
        snprintf(string, sizeof string, "%s,auth=%s,tenantId=$(id)", em.endpoint, names[tool]);
        assert_int_equal(run(azredis, "-h", string, "PING", NULL), 2);
        assert_int_equal(access(other, F_OK), -1);
        assert_int_equal(run(azredis, "token", "--auth", names[tool], "--tenant-id", getenv("AZURE_TENANT_ID"), NULL), 0);
        assert_int_equal(unlink(other), 0);                 /* it would have been seen */
    }
    setenv("STANDIN_MARK", mark, 1);
}

/* ---- the real one ------------------------------------------------------------------------------ */

static int is_installed(void)
{
    char list[4000], path[4200], *at = list, *dir;
    snprintf(list, sizeof list, "%s", own_path);
    while ((dir = strsep(&at, ":")) != NULL) {
        snprintf(path, sizeof path, "%s/az", dir);
        if (*dir == '/' && access(path, X_OK) == 0)
            return 1;
    }
    return 0;
}

/* Nobody is signed in to a directory that is empty. */
static void test_real_az(void **state)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_AZURE_CLI};
    azredis_link_record r[12];
    azredis_error why;
    azredis_status st = AZREDIS_E_TIMEOUT;
    char dir[96], command[120];
    size_t n;
    int i;
    (void)state;
    snprintf(dir, sizeof dir, "%s/azure", em.dir);
    setenv("AZURE_CONFIG_DIR", dir, 1);
    setenv("PATH", own_path, 1);
    assert_int_not_equal(system("az account show >/dev/null 2>&1"), 0);     /* its first run has much to prepare */
    for (i = 0; i < 5 && st == AZREDIS_E_TIMEOUT; i++)                      /* a machine under load */
        st = walk(&a, &n, r, &why);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(st, AZREDIS_E_NO_CREDENTIAL);
    assert_has(why.message, "azure-cli: nobody is signed in; run az login");
    assert_string_equal(r[0].outcome, "unavailable");
    unsetenv("AZURE_CONFIG_DIR");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_two_renewals, reset), cmocka_unit_test_setup(test_chain, reset),
        cmocka_unit_test_setup(test_failures, reset), cmocka_unit_test_setup(test_hang, reset),
        cmocka_unit_test_setup(test_orphan, reset), cmocka_unit_test_setup(test_by_name, reset),
        cmocka_unit_test_setup(test_injection, reset)
    };
    const struct CMUnitTest real[] = {cmocka_unit_test_setup(test_real_az, reset)};
    int failed = cmocka_run_group_tests(tests, start, stop);
    if (!is_installed()) {
        print_message("  the real az is not installed here: what it says itself was not looked at\n");
        return failed;
    }
    return failed + cmocka_run_group_tests(real, start, stop);
}
