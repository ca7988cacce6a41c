/* What the default chain is measured by, on the command line tool (environment variable AZREDIS, else build/azredis):
 * the same program in other environments is somebody else; it gives up soon where there is no identity; and it opens
 * one connection and sends one request where the environment says all. "c.7" are rows of the wire specification.
 *   cc -std=gnu11 -I. tests/live/test_identities.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "azredis_entra.h"
#include "live.h"

#include <net/if.h>
#include <net/route.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#define COUNT(list) (sizeof (list) / sizeof (list)[0])
#define NO_NETWORK 78                   /* exit status: this machine gives no network namespace */

static live em;
static int arc;                         /* 1: its agent's directory could be made */
static struct { char out[8000], err[4000]; int status; int64_t ms; } tool;   /* how it ended the last time */

static const char *const links[] = {"environment", "workload-identity", "managed-identity", "azure-cli",
                                    "azure-developer-cli", "azure-powershell"};

/* The directory of Azure Arc's agent, which only root can make, and in a tree of mounts that ends with this test. */
static int make_arc_directory(void)
{
    return geteuid() == 0 && unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", "/var/opt", "tmpfs", 0, NULL) == 0 && mkdir("/var/opt/azcmagent", 0755) == 0 &&
           mkdir("/var/opt/azcmagent/tokens", 0755) == 0;
}

static int start(void **state)
{
    (void)state;
    arc = make_arc_directory();
    live_start(&em, arc ? "--arc-dir" : NULL, "/var/opt/azcmagent/tokens", NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    live_stop(&em);
    return 0;
}

static const char *azredis_path(void)
{
    const char *path = getenv("AZREDIS");
    return path ? path : "build/azredis";
}

/* ---- the program in a network of its own ----------------------------------------------------- */

typedef enum network {
    OURS,
    UNREACHABLE,                        /* nothing but the loopback device, as on a machine without a cable */
    BLACK_HOLE,                         /* the metadata address is routed into that device, where nobody has it */
    CLOSED,                             /* the device has the address, and nobody listens */
    SILENT                              /* connections are accepted, and nobody reads them */
} network;

/* In the process that becomes azredis. 0: not on this machine. */
static int enter(network which)
{
    struct sockaddr_in imds = {.sin_family = AF_INET, .sin_port = htons(80),
                               .sin_addr.s_addr = inet_addr("169.254.169.254")};
    struct ifreq up = {.ifr_name = "lo"}, has = {.ifr_name = "lo:1"};
    struct rtentry to = {.rt_flags = RTF_UP | RTF_HOST, .rt_dev = up.ifr_name};
    int fd, silent, done;
    if (which == OURS)
        return 1;
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        return 0;
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    up.ifr_flags = IFF_UP | IFF_RUNNING;
    memcpy(&to.rt_dst, &imds, sizeof imds);
    memcpy(&has.ifr_addr, &imds, sizeof imds);
    done = ioctl(fd, SIOCSIFFLAGS, &up) == 0;
    if (which == BLACK_HOLE)
        done = done && ioctl(fd, SIOCADDRT, &to) == 0;
    if (which == CLOSED || which == SILENT)
        done = done && ioctl(fd, SIOCSIFADDR, &has) == 0;
    close(fd);
    if (which == SILENT) {              /* azredis inherits the socket, and knows nothing of it */
        silent = socket(AF_INET, SOCK_STREAM, 0);
        done = done && bind(silent, (struct sockaddr *)&imds, sizeof imds) == 0 && listen(silent, 8) == 0;
    }
    return done;
}

static void take(const char *name, char *text, size_t room)
{
    char path[128];
    FILE *f;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", em.dir, name);
    if (!(f = fopen(path, "re")))
        fail_msg("%s was not written", path);
    n = fread(text, 1, room - 1, f);
    text[n] = 0;
    fclose(f);
    assert_int_equal(unlink(path), 0);
}

static void output_to(const char *name, int fd)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", em.dir, name);
    dup2(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600), fd);
}

/* Runs azredis with these words, NULL at the end. trace: under strace, its output there. */
static void run_in(network which, const char *trace, const char *word, ...)
{
    const char *argv[24] = {"strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", trace};
    int n = trace ? 7 : 0, status;
    va_list ap;
    pid_t pid;
    argv[n++] = azredis_path();
    argv[n++] = word;
    va_start(ap, word);
    while (n < 23 && (argv[n] = va_arg(ap, const char *)) != NULL)
        n++;
    va_end(ap);
    argv[n] = NULL;
    fflush(NULL);
    tool.ms = live_ms();
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        output_to("out", 1);
        output_to("err", 2);
        if (trace)
            setenv("ASAN_OPTIONS", "detect_leaks=0", 1);        /* which needs ptrace for itself */
        else
            setenv("PATH", "/none", 1);                         /* where no developer's tool is installed */
        if (!enter(which))
            _exit(NO_NETWORK);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    tool.ms = live_ms() - tool.ms;
    tool.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    take("out", tool.out, sizeof tool.out);
    take("err", tool.err, sizeof tool.err);
    if (tool.status == 127)
        fail_msg("%s cannot be started", argv[0]);
    if (live_leaks(tool.out) || live_leaks(tool.err))
        fail_msg("a secret was printed");
}

#define run(...) run_in(OURS, NULL, __VA_ARGS__, (const char *)0)

static void assert_status(int status)
{
    if (tool.status != status)
        fail_msg("exit status %d instead of %d: %s%s", tool.status, status, tool.out, tool.err);
}

static const char *member(json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static json_t *told(void)
{
    json_t *o = json_loads(tool.out, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(o))
        fail_msg("no object: %s%s", tool.out, tool.err);
    return o;
}

/* ---- whose token ----------------------------------------------------------------------------- */

/* No option, no other file: the environment alone says who the program is. */
static void test_same_program_in_other_environments(void **state)
{
    static const char *const place[][2] = {
        {"", "environment"}, {"workload", "workload-identity"}, {"imds", "managed-identity"},
        {"appservice", "managed-identity"}, {"msi", "managed-identity"}, {"arc", "managed-identity"}
    };
    char oid[COUNT(place)][40];
    struct stat before, after;
    size_t i, k, n = COUNT(place) - !arc;
    json_t *o, *steps;
    (void)state;
    assert_int_equal(stat(azredis_path(), &before), 0);
    for (i = 0; i < n; i++) {
        live_place(&em, place[i][0]);
        unsetenv("AZREDIS_CONNECTION");
        run("token", "--auth", "default", "--json");
        assert_status(0);
        o = told();
        snprintf(oid[i], sizeof oid[i], "%s", member(o, "user"));
        assert_string_equal(oid[i], em.oid);
        assert_string_equal(member(o, "credential"), place[i][1]);
        for (k = 0; k < i; k++)
            assert_string_not_equal(oid[i], oid[k]);
        steps = json_object_get(o, "steps");            /* each link up to the one that had a token */
        for (k = 0; k < json_array_size(steps); k++) {
            const char *outcome = member(json_array_get(steps, k), "outcome");
            assert_string_equal(member(json_array_get(steps, k), "name"), links[k]);
            assert_string_equal(outcome, k + 1 < json_array_size(steps) ? "unavailable" : "token");
        }
        assert_true(k > 0 && !strcmp(links[k - 1], place[i][1]));
        json_decref(o);
        print_message("  %-12s is %s\n", *place[i][0] ? place[i][0] : "secret", oid[i]);
    }
    assert_int_equal(stat(azredis_path(), &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
                before.st_size == after.st_size);
    if (!arc)
        print_message("  arc: not tried, it takes root and mount namespaces\n");
    live_place(&em, "");
}

/* ---- nobody ---------------------------------------------------------------------------------- */

/* The whole list: in the JSON each link with its reason, and in the error. */
static void assert_all_reasons(const char *of_managed)
{
    json_t *o, *steps, *step;
    size_t i;
    assert_status(3);
    o = told();
    steps = json_object_get(o, "steps");
    assert_int_equal(json_array_size(steps), COUNT(links));
    for (i = 0; i < COUNT(links); i++) {
        step = json_array_get(steps, i);
        assert_string_equal(member(step, "name"), links[i]);
        assert_string_equal(member(step, "outcome"), "unavailable");
        assert_true(*member(step, "reason") != 0);
        assert_has(member(o, "error"), links[i]);
        assert_has(tool.err, links[i]);
    }
    assert_has(member(json_array_get(steps, 0), "reason"), "AZURE_CLIENT_SECRET");
    assert_has(member(json_array_get(steps, 1), "reason"), "AZURE_FEDERATED_TOKEN_FILE");
    assert_has(member(json_array_get(steps, 2), "reason"), of_managed);
    json_decref(o);
}

/* A machine that is busy makes it longer and never shorter: the best of three tries counts. */
static void nobody(network which, const char *what, const char *reason, int most_ms)
{
    int64_t best = INT64_MAX;
    int tries;
    for (tries = 0; tries < 3 && best > most_ms; tries++) {
        run_in(which, NULL, "token", "--auth", "default", "--json", (const char *)0);
        if (tool.status == NO_NETWORK) {
            print_message("  no network namespace on this machine\n");
            skip();
        }
        assert_all_reasons(reason);
        best = tool.ms < best ? tool.ms : best;
        print_message("  %s: all reasons after %d ms of at most %d\n", what, (int)tool.ms, most_ms);
    }
    assert_in_range(best, 0, most_ms);
}

/* The imds environment has no variable of an identity; without its own either, as on a desk. */
static void leave_azure(void)
{
    live_place(&em, "imds");
    unsetenv("AZREDIS_CONNECTION");
    unsetenv("AZURE_POD_IDENTITY_AUTHORITY_HOST");
}

static void test_unreachable(void **state)
{
    (void)state;
    leave_azure();
    nobody(UNREACHABLE, "metadata address unreachable", "network unreachable", 1500);
}

static void test_black_hole(void **state)
{
    (void)state;
    leave_azure();
    nobody(BLACK_HOLE, "metadata address in a black hole", "no answer in time", 2500);
    assert_true(tool.ms >= 900);        /* it was one, and a second is what the probe waits */
}

/* c.7 row 1: nobody listens. */
static void test_closed_port(void **state)
{
    (void)state;
    leave_azure();
    nobody(CLOSED, "metadata port closed", "connection refused", 2000);
}

/* c.7 row 2: it accepts and says nothing. Asked for by name, it is given all the time that there is. */
static void test_silence(void **state)
{
    (void)state;
    leave_azure();
    nobody(SILENT, "metadata service is silent", "no complete answer in", 2500);
    run_in(SILENT, NULL, "token", "--auth", "managed-identity", "--json", "--timeout", "3000", (const char *)0);
    assert_status(3);
    assert_in_range(tool.ms, 2500, 3000 + LIVE_SLACK);
}

/* ---- one connection, one request ------------------------------------------------------------- */

/* TCP connections that were begun; *others: of any other family but local sockets. */
static int begun(const char *path, int *others)
{
    static char line[2000];
    char stream[1024] = {0};            /* by descriptor: it is a TCP socket */
    FILE *f = fopen(path, "re");
    int n = 0, fd;
    if (!f)
        fail_msg("strace wrote nothing: may this machine trace processes?");
    *others = 0;
    while (fgets(line, sizeof line, f)) {
        const char *made = strstr(line, "socket(AF_INET"), *used = strstr(line, "connect(");
        const char *result = strrchr(line, '=');
        if (made && result && (fd = atoi(result + 1)) >= 0 && fd < 1024)
            stream[fd] = strstr(made, "SOCK_STREAM") != NULL;
        if (!used || strstr(line, "AF_UNIX") || strstr(line, "AF_UNSPEC"))
            continue;
        fd = atoi(used + 8);
        assert_true(fd >= 0 && fd < 1024);
        n += stream[fd];
        *others += !stream[fd];
    }
    fclose(f);
    assert_int_equal(unlink(path), 0);
    return n;
}

/* Every endpoint's counters of that kind, summed up. */
static long all_of(const char *kind)
{
    static const char *const endpoint[] = {"token", "imds", "appservice", "msi", "arc", "cloudshell", "fabric", "ml",
                                           "aks", "proxy"};
    char name[40];
    long n = 0;
    size_t i;
    for (i = 0; i < COUNT(endpoint); i++) {
        snprintf(name, sizeof name, "%s_%s", endpoint[i], kind);
        n += live_number(&em, name);
    }
    return n;
}

/* The authority by its address: a name has two, and trying the other one after a refusal is no second request. */
static void test_one_connection_one_request(void **state)
{
    static const char *const place[] = {"", "workload", "appservice", "imds"};
    char authority[64], trace[96];
    long connections, requests;
    int n, others;
    size_t i;
    (void)state;
    snprintf(authority, sizeof authority, "https://127.0.0.1:%d/", em.authority_port);
    snprintf(trace, sizeof trace, "%s/trace", em.dir);
    for (i = 0; i < COUNT(place); i++) {
        live_place(&em, place[i]);
        unsetenv("AZREDIS_CONNECTION");
        if (getenv("AZURE_AUTHORITY_HOST"))
            setenv("AZURE_AUTHORITY_HOST", authority, 1);
        connections = all_of("connections");
        requests = all_of("requests");
        run_in(OURS, trace, "token", "--auth", "default", (const char *)0);
        assert_status(0);
        n = begun(trace, &others);
        connections = all_of("connections") - connections;
        requests = all_of("requests") - requests;
        print_message("  %-10s: %d TCP connections by strace, %ld by the emulator; %ld requests\n",
                      *place[i] ? place[i] : "secret", n, connections, requests);
        assert_int_equal(n, 1);
        assert_int_equal(others, 0);
        assert_int_equal(connections, 1);
        assert_int_equal(requests, 1);
    }
    live_place(&em, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_program_in_other_environments), cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_black_hole), cmocka_unit_test(test_closed_port), cmocka_unit_test(test_silence),
        cmocka_unit_test(test_one_connection_one_request),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
