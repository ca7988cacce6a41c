/* Tokens that a program prints or a file holds, and a proxy before the authority, on the way into Redis: two renewals
 * each; the program is a shell script that asks the emulator's token endpoint by curl. Debian's tinyproxy is a proxy
 * that somebody else wrote.
 *   cc -std=gnu11 -I. tests/live/test_local.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"

/* The secret goes by stdin: arguments are seen by everybody on this machine. $1 is the scope. */
#define ASK                                                                                                            \
    "printf 'data-urlencode = \"client_secret=%s\"\\n' \"$AZURE_CLIENT_SECRET\" |\n"                                   \
    "curl -sS -K - --noproxy '*' --cacert \"$SSL_CERT_FILE\" -d grant_type=client_credentials \\\n"                    \
    "    -d \"client_id=$AZURE_CLIENT_ID\" --data-urlencode \"scope=$1\" \\\n"                                         \
    "    \"${AZURE_AUTHORITY_HOST%/}/$AZURE_TENANT_ID/oauth2/v2.0/token\""

static live em;
static azredis_client *client;
static char dir[64], script[96], file[96];

static void write_script(const char *body)
{
    FILE *f = fopen(script, "we");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\n%s\n", body);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(script, 0700), 0);
}

static int setup_ttl(const char *ttl, const char *login)
{
    const char *base = getenv("TMPDIR");
    live_start(&em, "--token-ttl", ttl, login ? "--proxy-login" : NULL, login, NULL);
    snprintf(dir, sizeof dir, "%.40s/local-XXXXXX", base && *base ? base : "/tmp");
    assert_non_null(mkdtemp(dir));
    snprintf(script, sizeof script, "%s/give", dir);
    snprintf(file, sizeof file, "%s/token", dir);
    write_script(ASK);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return setup_ttl("4", NULL);
}

static int setup_hour(void **state)
{
    (void)state;
    return setup_ttl("3600", NULL);
}

static int setup_login(void **state)
{
    (void)state;
    return setup_ttl("3600", "proxy-user:p@ss");
}

static int done(void **state)
{
    (void)state;
    azredis_close(client);
    client = NULL;
    unsetenv("HTTP_PROXY");
    unsetenv("HTTPS_PROXY");
    unsetenv("https_proxy");
    return 0;
}

static int teardown(void **state)
{
    done(state);
    unlink(script);
    unlink(file);
    assert_int_equal(rmdir(dir), 0);
    live_stop(&em);
    return 0;
}

static long fds_open(void)
{
    long n = 0, i;
    for (i = 0; i < 1024; i++)
        n += fcntl((int)i, F_GETFD) != -1;
    return n;
}

/* No child is left, dead or alive. */
static void no_children(void)
{
    /* the emulator is our child, too */
    siginfo_t who = {0};
    assert_int_equal(waitid(P_ALL, 0, &who, WEXITED | WNOHANG | WNOWAIT), 0);
    assert_int_equal(who.si_pid, 0);
}

/* Two renewals under load, on one connection, as the token's oid. */
static void two_renewals(azredis_options *o, void (*meanwhile)(void))
{
    live_load l = {0};
    azredis_stats_data d;
    int64_t id;
    client = live_open(&em, o);
    id = live_client_id(client);
    await((meanwhile ? meanwhile() : (void)0, live_keep_busy(client, &l, 5),
           live_seen.of[AZREDIS_EV_CONNECTION_REAUTHENTICATED] >= 2), 2 * LIVE_SOON);
    live_settle(&em, client, &l);
    assert_int_equal(l.maybe + l.not_sent, 0);
    assert_int_equal(live_client_id(client), id);
    d = live_stats(client);
    assert_true(d.tokens >= 3);
    assert_int_equal(d.reconnects, 0);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 0);
    azredis_close(client);
    client = NULL;
}

/* ---- a program -------------------------------------------------------------------------------- */

static void test_exec(void **state)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_EXEC, .exec = script};
    azredis_options o = {.identity = &a};
    long before = fds_open();
    (void)state;
    two_renewals(&o, NULL);
    assert_int_equal(fds_open(), before);
    no_children();
}

static void test_exec_with_threads(void **state)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_EXEC, .exec = script};
    azredis_options o = {.identity = &a};
    (void)state;
    client = live_new(&em, &o);
    assert_int_equal(azredis_start(client), AZREDIS_OK);
    await(live_stats(client).reauths >= 1, 2 * LIVE_SOON);
    assert_true(live_incr(client, "t") > 0);
    assert_int_equal(live_stats(client).reconnects, 0);
    azredis_close(client);
    client = NULL;
    no_children();
}

/* A slow program holds nobody up: each call of the loop returns at once. */
static void test_exec_in_a_loop(void **state)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_EXEC, .exec = script};
    azredis_options o = {.identity = &a};
    struct pollfd p[64];
    azredis_fd f[64];
    int64_t until = live_ms() + LIVE_SOON, before, slowest = 0;
    size_t i, n;
    (void)state;
    write_script("sleep 1\n" ASK);
    client = live_new(&em, &o);
    while (!live_connected(client)) {
        assert_true(live_ms() < until);
        n = azredis_fds(client, f, 64);
        for (i = 0; i < n; i++) {
            p[i].fd = (int)f[i].sock;
            p[i].events = (short)((f[i].want & AZREDIS_READ ? POLLIN : 0) | (f[i].want & AZREDIS_WRITE ? POLLOUT : 0));
        }
        poll(p, (nfds_t)n, azredis_timeout_ms(client));
        before = live_ms();
        azredis_process(client, f, n);
        slowest = live_ms() - before > slowest ? live_ms() - before : slowest;
    }
    assert_true(slowest < 900);         /* the script alone sleeps longer; a handshake takes some ms */
}

/* What went wrong is told with what the program said, and connect ends at once or tries again. */
static void exec_fails(const char *body, azredis_status code, int retryable, const char *part)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_EXEC, .exec = script, .request_ms = 1000};
    azredis_options o = {.identity = &a, .abort_on_connect_fail = 1, .connect_retry = 1};
    azredis_error why = {0};
    if (body)
        write_script(body);
    client = live_new(&em, &o);
    assert_int_not_equal(azredis_connect(client, 5000, &why), AZREDIS_OK);
    if (why.code != code)
        fail_msg("%d instead of %d: %s", (int)why.code, (int)code, why.message);
    assert_has(why.message, part);
    assert_has(why.message, "exec: ");
    assert_int_equal(live_leaks(why.message), 0);
    assert_int_equal(why.retryable, retryable);
    azredis_close(client);
    client = NULL;
    no_children();
}

static void test_exec_errors(void **state)
{
    (void)state;
    exec_fails("echo 'ERROR: Please run az login' >&2; exit 1", AZREDIS_E_NO_CREDENTIAL, 1,
               "ended with status 1; it says: ERROR: Please run az login");
    exec_fails("kill -9 $$", AZREDIS_E_NO_CREDENTIAL, 1, "signal 9");
    exec_fails("sleep 60 & sleep 60", AZREDIS_E_TIMEOUT, 1, "did not end within 1000 ms");
    exec_fails("echo 'no token today'", AZREDIS_E_TOKEN, 0, "neither a token nor complete JSON");
    live_fault(&em, "token-error", "7000215", "1");
    exec_fails(ASK, AZREDIS_E_ENTRA, 0, "AADSTS7000215: wrong client secret");
    unlink(script);
    exec_fails(NULL, AZREDIS_E_NO_CREDENTIAL, 0, "no such file");
}

/* Whoever gives up takes the program along: nothing of it is left, not even a zombie. */
static void test_exec_given_up(void **state)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_EXEC, .exec = script};
    azredis_error why = {0};
    azredis_token t;
    azredis_auth *auth;
    char body[200];
    long pid = 0;
    FILE *f;
    (void)state;
    snprintf(body, sizeof body, "echo $$ >%s; sleep 60", file);
    write_script(body);
    auth = azredis_auth_open(&a);
    assert_non_null(auth);
    memset(&t, 0, sizeof t);
    await((azredis_auth_token(auth, &t, 50, &why) == AZREDIS_AGAIN && (f = fopen(file, "re")) != NULL), LIVE_SOON);
    await(fscanf(f, "%ld", &pid) == 1 || (rewind(f), 0), LIVE_SOON);
    fclose(f);
    azredis_auth_release(auth);
    assert_int_equal(kill((pid_t)pid, 0), -1);
    assert_int_equal(errno, ESRCH);
    unlink(file);
    write_script(ASK);
}

/* ---- a file ------------------------------------------------------------------------------------ */

static int64_t kept_at;
static long kept;

/* Another program keeps the file fresh, every second; by a rename, so that nobody sees half of it. It writes the token
 * alone and the whole answer by turns. */
static void keep_fresh(void)
{
    char command[1200];
    if (live_ms() - kept_at < 1000)
        return;
    snprintf(command, sizeof command, "%s https://redis.azure.com/.default | %s >%s.new && mv %s.new %s", script,
             kept % 2 ? "sed 's/.*\"access_token\": *\"\\([^\"]*\\)\".*/\\1/'" : "cat", file, file, file);
    assert_int_equal(system(command), 0);
    kept_at = live_ms();
    kept++;
}

static void test_token_file(void **state)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_TOKEN_FILE, .token_file = file};
    azredis_options o = {.identity = &a};
    (void)state;
    kept_at = kept = 0;
    keep_fresh();
    two_renewals(&o, keep_fresh);
    assert_true(kept >= 3);
}

/* Nobody keeps it fresh: the same token is no new one, and when it has expired the error says so. Once somebody does,
 * the client goes on by itself. */
static void test_token_file_gets_old(void **state)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_TOKEN_FILE, .token_file = file};
    azredis_options o = {.identity = &a, .log_level = AZREDIS_LOG_INFO};
    size_t i, said = 0;
    (void)state;
    kept_at = kept = 0;
    keep_fresh();
    client = live_open(&em, &o);
    await((azredis_wait(client, 20), live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED] > 0), LIVE_SOON);
    assert_true(live_logged(&live_seen, 103) > 0);       /* the same token, before */
    for (i = 0; i < live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED]; i++)
        said += strstr(live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, i)->error.message, "already expired") != NULL;
    assert_true(said > 0);
    kept_at = 0;
    keep_fresh();
    await((azredis_wait(client, 20), live_stats(client).tokens >= 2 && live_connected(client)), LIVE_SOON);
    assert_true(live_incr(client, "f") > 0);
}

static void test_token_file_errors(void **state)
{
    azredis_auth_options a = {.identity = AZREDIS_ID_TOKEN_FILE, .token_file = file};
    azredis_options o = {.identity = &a, .abort_on_connect_fail = 1, .connect_retry = 1};
    azredis_error why = {0};
    (void)state;
    client = live_new(&em, &o);
    assert_int_equal(azredis_connect(client, 5000, &why), AZREDIS_E_NO_CREDENTIAL);
    assert_has(why.message, file);
    assert_has(why.message, "no such file");
}

/* ---- a proxy ----------------------------------------------------------------------------------- */

static void test_proxy(void **state)
{
    azredis_auth_options a = {.proxy = getenv("EMULATOR_PROXY")};
    azredis_options o = {.identity = &a};
    (void)state;
    assert_non_null(a.proxy);
    two_renewals(&o, NULL);
    assert_true(live_number(&em, "proxy_tunnels") >= 3);
    assert_int_equal(live_number(&em, "proxy_plain"), 0);
}

/* The variables that curl obeys, and most programs: nothing goes there. */
static void test_variables_change_nothing(void **state)
{
    azredis_options o = {0};
    long tunnels = live_number(&em, "proxy_tunnels"), plain = live_number(&em, "proxy_plain");
    (void)state;
    setenv("HTTP_PROXY", getenv("EMULATOR_PROXY"), 1);
    setenv("HTTPS_PROXY", getenv("EMULATOR_PROXY"), 1);
    setenv("https_proxy", getenv("EMULATOR_PROXY"), 1);
    client = live_open(&em, &o);
    assert_int_equal(live_number(&em, "proxy_tunnels"), tunnels);
    assert_int_equal(live_number(&em, "proxy_plain"), plain);
}

/* The proxy is for the authority alone: metadata services are on this machine or next to it, Service Fabric's by TLS. */
static void test_metadata_goes_direct(void **state)
{
    static const char *const places[] = {"imds", "appservice", "fabric"};
    azredis_auth_options a = {.identity = AZREDIS_ID_MANAGED, .proxy = getenv("EMULATOR_PROXY")};
    azredis_options o = {.identity = &a};
    long tunnels = live_number(&em, "proxy_tunnels"), plain = live_number(&em, "proxy_plain");
    size_t i;
    (void)state;
    setenv("HTTP_PROXY", a.proxy, 1);
    setenv("HTTPS_PROXY", a.proxy, 1);
    for (i = 0; i < sizeof places / sizeof places[0]; i++) {
        live_place(&em, places[i]);
        client = live_open(&em, &o);
        azredis_close(client);
        client = NULL;
    }
    live_place(&em, "");
    assert_int_equal(live_number(&em, "proxy_tunnels"), tunnels);
    assert_int_equal(live_number(&em, "proxy_plain"), plain);
}

/* In another cloud: the proxy knows the way, this machine does not; TLS is with the authority by its name. */
static void test_proxy_to_another_cloud(void **state)
{
    azredis_auth_options a = {.proxy = getenv("EMULATOR_PROXY"), .authority_host = "https://login.microsoftonline.us",
                              .allow_authority = "not-in-the-certificate.example"};
    azredis_options o = {.identity = &a, .abort_on_connect_fail = 1, .connect_retry = 1};
    azredis_error why = {0};
    long tunnels = live_number(&em, "proxy_tunnels");
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_number(&em, "proxy_tunnels"), tunnels + 1);
    azredis_close(client);
    a.authority_host = a.allow_authority;
    client = live_new(&em, &o);
    assert_int_equal(azredis_connect(client, 5000, &why), AZREDIS_E_CERT);
    assert_has(why.message, "not-in-the-certificate.example");
}

static void proxy_fails(const char *proxy, const char *fault, azredis_status code, int retryable, const char *part)
{
    azredis_auth_options a = {.proxy = proxy, .request_ms = 700, .chain_ms = 750};
    azredis_options o = {.identity = &a, .abort_on_connect_fail = 1, .connect_retry = 1};
    azredis_error why = {0};
    long tunnels = live_number(&em, "proxy_tunnels"), issued = live_number(&em, "tokens_issued");
    if (fault)
        live_fault(&em, fault, NULL, "*");
    client = live_new(&em, &o);
    assert_int_not_equal(azredis_connect(client, 5000, &why), AZREDIS_OK);
    if ((why.code != code && (code != AZREDIS_E_CLOSED || why.code != AZREDIS_E_NET)) || why.retryable != retryable)
        fail_msg("%d (%d) instead of %d: %s", (int)why.code, why.retryable, (int)code, why.message);
    assert_has(why.message, part);
    assert_has(why.message, "proxy");
    if (strstr(why.message, "p@ss") || strstr(why.message, "p%40ss") || strstr(why.message, "wrong-word"))
        fail_msg("the password is in: %s", why.message);
    assert_int_equal(live_number(&em, "proxy_tunnels"), tunnels);
    assert_int_equal(live_number(&em, "tokens_issued"), issued);
    if (fault)
        live_disarm(&em, fault);
    azredis_close(client);
    client = NULL;
}

static void test_proxy_errors(void **state)
{
    const char *proxy = getenv("EMULATOR_PROXY");
    (void)state;
    proxy_fails(proxy, "proxy-407", AZREDIS_E_HTTP, 0, "it wants a login");
    proxy_fails(proxy, "proxy-403", AZREDIS_E_HTTP, 0, "permit CONNECT");
    proxy_fails(proxy, "proxy-502", AZREDIS_E_NET, 1, "cannot reach that host");
    proxy_fails(proxy, "proxy-hang", AZREDIS_E_TIMEOUT, 1, "no complete answer");
    proxy_fails(proxy, "proxy-endless", AZREDIS_E_LIMIT, 0, "headers");
    proxy_fails(proxy, "proxy-refuse", AZREDIS_E_CLOSED, 1, "127.0.0.1");   /* or a reset, as the kernel likes */
    proxy_fails("http://127.0.0.1:1", NULL, AZREDIS_E_NET, 1, "127.0.0.1:1");
}

static void test_proxy_login(void **state)
{
    char by[128];
    azredis_auth_options a = {.proxy = by};
    azredis_options o = {.identity = &a};
    const char *at = getenv("EMULATOR_PROXY") + strlen("http://");
    (void)state;
    proxy_fails(getenv("EMULATOR_PROXY"), NULL, AZREDIS_E_HTTP, 0, "it wants a login");
    snprintf(by, sizeof by, "http://proxy-user:wrong-word@%s", at);
    proxy_fails(by, NULL, AZREDIS_E_HTTP, 0, "does not accept user and password");
    snprintf(by, sizeof by, "http://proxy-user:p%%40ss@%s", at);
    client = live_open(&em, &o);
    assert_int_equal(live_number(&em, "proxy_tunnels"), 1);
}

/* The tunnel breaks in the middle of TLS: tried again, as any broken way. */
static void test_proxy_cut(void **state)
{
    azredis_auth_options a = {.proxy = getenv("EMULATOR_PROXY")};
    azredis_options o = {.identity = &a};
    (void)state;
    live_fault(&em, "proxy-cut", "1000", "1");
    client = live_open(&em, &o);
    assert_int_equal(live_fired(&em, "proxy-cut"), 1);
}

/* ---- tinyproxy --------------------------------------------------------------------------------- */

static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static int listens(int port)
{
    int fd = live_dial(port);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* It lets nobody but this machine connect to one port only, and wants a login. */
static pid_t tinyproxy(int port, int allowed)
{
    FILE *f = fopen(file, "we");
    pid_t pid;
    assert_non_null(f);
    fprintf(f, "Port %d\nListen 127.0.0.1\nAllow 127.0.0.1\nMaxClients 10\nLogLevel Critical\nBasicAuth proxyuser p0ss\nConnectPort %d\n",
            port, allowed);
    assert_int_equal(fclose(f), 0);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execlp("tinyproxy", "tinyproxy", "-d", "-c", file, NULL);
        _exit(127);
    }
    await(listens(port) || waitpid(pid, NULL, WNOHANG) != 0, LIVE_SOON);
    assert_true(listens(port));
    return pid;
}

static void test_tinyproxy(void **state)
{
    char by[128];
    azredis_auth_options a = {.proxy = by};
    azredis_options o = {.identity = &a};
    int port = free_port();
    pid_t pid = tinyproxy(port, em.authority_port);
    (void)state;
    snprintf(by, sizeof by, "http://127.0.0.1:%d", port);
    proxy_fails(by, NULL, AZREDIS_E_HTTP, 0, "it wants a login");
    snprintf(by, sizeof by, "http://proxyuser:wrong-word@127.0.0.1:%d", port);
    proxy_fails(by, NULL, AZREDIS_E_HTTP, 0, "");
    snprintf(by, sizeof by, "http://proxyuser:p0ss@127.0.0.1:%d", port);
    client = live_open(&em, &o);
    azredis_close(client);
    client = NULL;
    kill(pid, SIGTERM);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    pid = tinyproxy(port, 443);         /* not the port that we need */
    proxy_fails(by, NULL, AZREDIS_E_HTTP, 0, "permit CONNECT");
    kill(pid, SIGTERM);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

int main(void)
{
    const struct CMUnitTest renewals[] = {
        cmocka_unit_test_setup_teardown(test_exec, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exec_with_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_file_gets_old, setup, teardown),
        cmocka_unit_test_setup_teardown(test_proxy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_proxy_login, setup_login, teardown)
    };
    const struct CMUnitTest once[] = {
        cmocka_unit_test_teardown(test_token_file_errors, done), cmocka_unit_test_teardown(test_exec_in_a_loop, done),
        cmocka_unit_test_teardown(test_exec_given_up, done), cmocka_unit_test_teardown(test_exec_errors, done), cmocka_unit_test_teardown(test_variables_change_nothing, done),
        cmocka_unit_test_teardown(test_metadata_goes_direct, done), cmocka_unit_test_teardown(test_proxy_to_another_cloud, done), cmocka_unit_test_teardown(test_proxy_errors, done),
        cmocka_unit_test_teardown(test_proxy_cut, done), cmocka_unit_test_teardown(test_tinyproxy, done)
    };
    return cmocka_run_group_tests(renewals, NULL, NULL) + cmocka_run_group_tests(once, setup_hour, teardown);
}
