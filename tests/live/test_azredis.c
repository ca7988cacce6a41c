/* The command line tool (environment variable AZREDIS, else build/azredis) as its users meet it: beside the
 * redis-cli of Redis 7.0 for every byte that it prints, and against peers that refuse, hang and drip.
 *   cc -std=gnu11 -I. tests/live/test_azredis.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -lutil -pthread */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "azredis_entra.h"
#include "live.h"

#include <pty.h>
#include <sys/un.h>

#define WORDS 16                        /* of one command line */
#define COUNT(list) (sizeof (list) / sizeof (list)[0])

static live em;

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--access-key", NULL);
    unsetenv("AZREDIS_CONNECTION");     /* most tests say by AZREDIS_ENDPOINT where to go */
    return 0;
}

static int setup_expired(void **state)
{
    (void)state;
    live_start(&em, "--gateway-cert", "expired", NULL);
    unsetenv("AZREDIS_CONNECTION");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    live_stop(&em);
    return 0;
}

/* ---- programs that run ----------------------------------------------------------------------- */

typedef struct job {
    pid_t   pid;                        /* 0: none */
    int     in, out, err;               /* -1: closed */
    size_t  out_len, err_len;
    int64_t began, ms;
    int     status;                     /* exit status; -N: killed by signal N */
    char    text[600000], errors[16000];
} job;

static job tool, witness;               /* azredis, redis-cli */
static struct { char name[40], value[300]; int was; } changed[8];   /* variables, put back by clean_up */
static size_t changed_count;
static int moved;                       /* by go_to, put back by clean_up */

/* For this test alone; NULL: not set. */
static void env(const char *name, const char *value)
{
    const char *was = getenv(name);
    assert_true(changed_count < COUNT(changed));
    snprintf(changed[changed_count].name, sizeof changed[0].name, "%s", name);
    snprintf(changed[changed_count].value, sizeof changed[0].value, "%s", was ? was : "");
    changed[changed_count++].was = was != NULL;
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

/* The environment of another place, for this test alone: see live_place. */
static void go_to(const char *place)
{
    live_place(&em, place);
    unsetenv("AZREDIS_CONNECTION");
    moved = 1;
}

static void job_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void job_end(job *j)
{
    if (j->pid > 0) {
        kill(j->pid, SIGKILL);
        waitpid(j->pid, NULL, 0);
        j->pid = 0;
        job_close(&j->in);
        job_close(&j->out);
        job_close(&j->err);
    }
}

static int clean_up(void **state)
{
    (void)state;
    job_end(&tool);
    job_end(&witness);
    if (moved) {
        live_place(&em, "");
        unsetenv("AZREDIS_CONNECTION");
        moved = 0;
    }
    while (changed_count > 0) {
        changed_count--;
        if (changed[changed_count].was)
            setenv(changed[changed_count].name, changed[changed_count].value, 1);
        else
            unsetenv(changed[changed_count].name);
    }
    return 0;
}

static const char *azredis_path(void)
{
    const char *path = getenv("AZREDIS");
    return path ? path : "build/azredis";
}

static void job_start(job *j, const char *const *argv)
{
    int in[2], out[2], err[2];
    job_end(j);
    assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC) | pipe2(err, O_CLOEXEC), 0);
    j->out_len = j->err_len = 0;
    j->text[0] = j->errors[0] = 0;
    j->began = live_ms();
    fflush(NULL);
    j->pid = fork();
    assert_true(j->pid >= 0);
    if (j->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGPIPE, SIG_DFL);       /* as a shell hands it on */
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    j->in = in[1];
    j->out = out[0];
    j->err = err[0];
}

/* Takes what a pipe holds. 0: it was closed at the other end. */
static int job_take(int *fd, char *text, size_t room, size_t *len)
{
    ssize_t n = read(*fd, text + *len, room - 1 - *len);
    if (n > 0) {
        *len += (size_t)n;
        text[*len] = 0;
        return 1;
    }
    job_close(fd);
    return 0;
}

/* Waits for output; 0: none will come any more. */
static int job_more(job *j)
{
    struct pollfd p[2] = {{.fd = j->out, .events = POLLIN}, {.fd = j->err, .events = POLLIN}};
    if (j->out < 0 && j->err < 0)
        return 0;
    if (poll(p, 2, 20000) <= 0)
        fail_msg("nothing for 20 s; so far: %s%s", j->text, j->errors);
    if (p[0].revents)
        job_take(&j->out, j->text, sizeof j->text, &j->out_len);
    if (p[1].revents)
        job_take(&j->err, j->errors, sizeof j->errors, &j->err_len);
    return 1;
}

static void job_expect(job *j, const char *part)
{
    while (!strstr(j->text, part) && !strstr(j->errors, part))
        if (!job_more(j))
            fail_msg("'%s' did not come: %s%s", part, j->text, j->errors);
}

static void job_wait(job *j)
{
    int status = 0;
    job_close(&j->in);
    while (job_more(j)) {
    }
    assert_int_equal(waitpid(j->pid, &status, 0), j->pid);
    j->pid = 0;
    j->ms = live_ms() - j->began;
    j->status = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void job_words(const char **argv, const char *first, va_list ap)
{
    int n = 0;
    argv[n++] = first;
    while (n < WORDS - 1 && (argv[n] = va_arg(ap, const char *)) != NULL)
        n++;
    argv[n] = NULL;
}

/* Starts azredis with these arguments, NULL at the end. */
static void begin(const char *word, ...)
{
    const char *argv[WORDS + 1] = {azredis_path()};
    va_list ap;
    va_start(ap, word);
    job_words(argv + 1, word, ap);
    va_end(ap);
    job_start(&tool, argv);
}

/* Writes all of the input from a process of its own: a pipe holds only so much. */
static void feed(job *j, const char *input)
{
    pid_t writer = fork();
    if (writer == 0) {
        signal(SIGPIPE, SIG_DFL);
        _exit(write(j->in, input, strlen(input)) < 0);
    }
    job_wait(j);
    waitpid(writer, NULL, 0);
}

#define run(...) (begin(__VA_ARGS__, (const char *)0), job_wait(&tool))
#define run_with(input, ...) (begin(__VA_ARGS__, (const char *)0), feed(&tool, input))

static void assert_status(int status)
{
    if (tool.status != status)
        fail_msg("exit status %d instead of %d: %s%s", tool.status, status, tool.text, tool.errors);
}

/* It ended with this status, printed nothing, and said in one line something with this in it. */
static void assert_complaint(int status, const char *part)
{
    assert_status(status);
    assert_string_equal(tool.text, "");
    assert_has(tool.errors, part);
    assert_memory_equal(tool.errors, "azredis: ", 9);
    assert_ptr_equal(strchr(tool.errors, '\n'), tool.errors + tool.err_len - 1);
}

static void assert_unseen(const char *secret)
{
    if (strstr(tool.text, secret) || strstr(tool.errors, secret))
        fail_msg("a secret was printed");
}

/* ---- beside redis-cli ------------------------------------------------------------------------ */

/* Each kind of reply. What redis-cli 7.0 gives up on, big numbers and attributes, has a test of its own. */
static const char *const commands[][8] = {
    {"PING"}, {"PING", "hello  there"}, {"ECHO", "\x01 \"q\" \\ \n\r\t\a\b\x7f\xc3\xa4"}, {"ECHO", ""},
    {"GET", "none"}, {"GET", "text"}, {"GET", "bytes"}, {"GET", "list"}, {"SET", "text", "a \"b\""},
    {"STRLEN", "bytes"}, {"EXISTS", "text"}, {"TTL", "none"}, {"TYPE", "list"}, {"OBJECT", "ENCODING", "text"},
    {"MGET", "text", "none", "bytes"}, {"LRANGE", "list", "0", "-1"}, {"LRANGE", "none", "0", "-1"},
    {"LPOS", "list", "5", "COUNT", "0"}, {"LPOP", "none", "2"}, {"SMEMBERS", "set"}, {"SMEMBERS", "none"},
    {"SMISMEMBER", "set", "a", "x"}, {"HGETALL", "hash"}, {"HGETALL", "none"}, {"HMGET", "hash", "f", "none"},
    {"HRANDFIELD", "one", "1", "WITHVALUES"}, {"ZRANGE", "zset", "0", "-1"},
    {"ZRANGE", "zset", "0", "-1", "WITHSCORES"}, {"ZSCORE", "zset", "b"}, {"ZSCORE", "zset", "inf"},
    {"ZMSCORE", "zset", "a", "none"}, {"ZADD", "zset", "INCR", "0", "b"}, {"XRANGE", "stream", "-", "+"},
    {"XREAD", "COUNT", "2", "STREAMS", "stream", "0"}, {"XINFO", "STREAM", "stream", "FULL"},
    {"GEOPOS", "geo", "x", "none"}, {"GEOSEARCH", "geo", "FROMLONLAT", "15", "37", "BYBOX", "400"},
    {"LCS", "text", "text2", "IDX", "WITHMATCHLEN"}, {"SCAN", "0", "COUNT", "100"}, {"CONFIG", "GET", "max*"},
    {"COMMAND", "DOCS", "GET", "SET"}, {"COMMAND", "INFO", "GET", "NOSUCH"}, {"COMMAND", "COUNT"},
    {"COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"}, {"ACL", "WHOAMI"}, {"ACL", "GETUSER", "default"},
    {"FUNCTION", "STATS"}, {"INFO", "cluster"}, {"MEMORY", "DOCTOR"}, {"CLUSTER", "INFO"}, {"LATENCY", "DOCTOR"},
    {"NOSUCH", "a"}, {"GET"}, {"INCR", "list"}, {"EVAL", "return {1,{2,{'x',{}},{3}},false,'y'}", "0"},
    {"EVAL", "return redis.error_reply('MY error')", "0"},
    {"EVAL", "return {{}, {'a'}, redis.status_reply('FINE'), {err='Bad'}}", "0"},
    {"EVAL", "redis.setresp(3); return {map={a={map={b='c',d={1,2}}},e={}}}", "0"},
    {"EVAL", "redis.setresp(3); return {map={a={map={b={1}}}}}", "0"},
    {"EVAL", "redis.setresp(3); return {set={x=true,y=true}}", "0"},
    {"EVAL", "redis.setresp(3); return {double=-3.25}", "0"}, {"EVAL", "redis.setresp(3); return true", "0"},
    {"EVAL", "local t={} for i=1,101 do t[i]={i} end return t", "0"},
    {"DEBUG", "PROTOCOL", "string"}, {"DEBUG", "PROTOCOL", "integer"}, {"DEBUG", "PROTOCOL", "double"},
    {"DEBUG", "PROTOCOL", "null"}, {"DEBUG", "PROTOCOL", "array"}, {"DEBUG", "PROTOCOL", "set"},
    {"DEBUG", "PROTOCOL", "map"}, {"DEBUG", "PROTOCOL", "push"}, {"DEBUG", "PROTOCOL", "verbatim"},
    {"DEBUG", "PROTOCOL", "true"}, {"DEBUG", "PROTOCOL", "false"}
};

static const char data[] =
    "FLUSHALL\nSET text 'a \"b\"'\nSET text2 'xa  b'\nSET bytes \"\\x00\\x01\\xff\\n\\\"\\\\ \\xc3\\xa4\"\n"
    "RPUSH list 1 2 3 4 5 6 7 8 9 10 11 12\nSADD set a b c\nHSET hash f v g \"\" h 'two words'\nHSET one k v\n"
    "ZADD zset 1 a 2.5 b inf inf -inf low 1e300 big\nXADD stream 1-1 f v g w\nXADD stream 1-2 f \"\"\n"
    "GEOADD geo 13.361389 38.115556 x\n";

/* Both programs at the real server's own socket, as its administrator, so that only they differ. */
static void at_the_server(void)
{
    env("AZREDIS_ENDPOINT", getenv("EMULATOR_REDIS_SOCKET"));
    env("AZREDIS_PASSWORD", getenv("EMULATOR_REDIS_ADMIN_PASSWORD"));
    env("AZREDIS_USER", getenv("EMULATOR_REDIS_ADMIN_USER"));
    env("REDISCLI_AUTH", getenv("EMULATOR_REDIS_ADMIN_PASSWORD"));
    run_with(data, "--auth", "password");
    assert_status(0);
}

static void start_witness(const char *const *options, const char *const *words)
{
    const char *argv[2 * WORDS + 12] = {"redis-cli", "-s", getenv("EMULATOR_REDIS_SOCKET"), "--no-auth-warning",
                                        "--user", getenv("EMULATOR_REDIS_ADMIN_USER")};
    size_t n = 6, i;
    for (i = 0; options[i]; i++)
        argv[n++] = options[i];
    for (i = 0; words && words[i]; i++)
        argv[n++] = words[i];
    job_start(&witness, argv);
}

static void start_tool(const char *const *options, const char *const *words)
{
    const char *argv[2 * WORDS + 12] = {azredis_path(), "--auth", "password"};
    size_t n = 3, i;
    for (i = 0; options[i]; i++)
        argv[n++] = options[i];
    for (i = 0; words && words[i]; i++)
        argv[n++] = words[i];
    job_start(&tool, argv);
}

static void assert_same_output(const char *what)
{
    size_t i = 0, at;
    while (i < tool.out_len && i < witness.out_len && tool.text[i] == witness.text[i])
        i++;
    at = i > 100 ? i - 100 : 0;
    if (i < tool.out_len || i < witness.out_len)
        fail_msg("%s: from byte %zu on redis-cli prints\n%.400s\nand azredis\n%.400s\n%s", what, at, witness.text + at,
                 tool.text + at, tool.errors);
}

/* The same options in the words of each program. */
typedef struct mode { const char *ours[4], *theirs[4]; } mode;

static const mode modes[] = {
    {{"--raw"}, {"--raw"}}, {{"--no-raw"}, {"--no-raw"}}, {{"--json"}, {"--json"}}, {{NULL}, {NULL}},
    {{"--protocol", "2", "--raw"}, {"-2", "--raw"}}, {{"--protocol", "2", "--no-raw"}, {"-2", "--no-raw"}},
    {{"--protocol", "3", "--raw"}, {"-3", "--raw"}}, {{"--protocol", "3", "--no-raw"}, {"-3", "--no-raw"}},
    {{"--protocol", "2", "--json"}, {"-2", "--json"}}
};

static void test_one_command_prints_what_redis_cli_prints(void **state)
{
    size_t i;
    (void)state;
    at_the_server();
    for (i = 0; i < COUNT(commands); i++) {
        const char *word = commands[i][1] ? commands[i][1] : "";
        const mode *m = &modes[4 + i % 4];      /* the other test takes all of them in all modes */
        start_tool(m->ours, commands[i]);
        start_witness(m->theirs, commands[i]);
        job_wait(&tool);
        job_wait(&witness);
        assert_same_output(commands[i][0]);
        if (tool.status > 1 || tool.err_len > 0)
            fail_msg("%s %s: exit status %d: %s", commands[i][0], word, tool.status, tool.errors);
    }
}

/* A line of standard input with every byte of the words quoted. */
static size_t quote_line(char *out, const char *const *words)
{
    size_t n = 0;
    const char *p;
    for (; *words; words++) {
        out[n++] = '"';
        for (p = *words; *p; p++)
            n += (size_t)sprintf(out + n, "\\x%02x", (unsigned)(unsigned char)*p);
        out[n++] = '"';
        out[n++] = ' ';
    }
    out[n++] = '\n';
    out[n] = 0;
    return n;
}

/* Takes away the lines "(0.51s)" that redis-cli prints behind a command that was slow, as any is now and then. */
static void drop_times(job *j)
{
    char *from = j->text, *to = j->text, *end = j->text + j->out_len;
    while (from < end) {
        char *stop = memchr(from, '\n', (size_t)(end - from));
        size_t n = stop ? (size_t)(stop - from) + 1 : (size_t)(end - from);
        double t;
        int used = 0;
        if (sscanf(from, "(%lfs)%n", &t, &used) != 1 || used == 0) {
            memmove(to, from, n);
            to += n;
        }
        from += n;
    }
    j->out_len = (size_t)(to - j->text);
    *to = 0;
}

static void test_standard_input_prints_what_redis_cli_prints(void **state)
{
    static char input[65536];
    size_t i, n = 0;
    (void)state;
    at_the_server();
    for (i = 0; i < COUNT(commands); i++)
        n += quote_line(input + n, commands[i]);
    for (i = 0; i < COUNT(modes); i++) {
        start_tool(modes[i].ours, NULL);
        start_witness(modes[i].theirs, NULL);
        feed(&tool, input);
        feed(&witness, input);
        drop_times(&tool);
        drop_times(&witness);
        assert_true(tool.out_len > 3000);
        assert_same_output(modes[i].ours[0] ? modes[i].ours[0] : "no option");
        assert_status(1);               /* there were error replies among them */
        assert_string_equal(tool.errors, "");
    }
}

static void test_lines_are_quoted_as_in_redis_cli(void **state)
{
    static const char input[] =
        "\n   \n\tECHO   plain  \r\nECHO \"a b\"\nECHO 'it\\'s'\nECHO 'no \\n escape'\n"
        "ECHO \"\\x41\\n\\r\\t\\b\\a\\q\\\"\\x4\"\n"
        "ECHO a\"b\"\nECHO a'b c'd\nECHO \"open\nECHO 'open\nECHO \"a\"b\nECHO \"\"\n"
        "ECHO ''\nECHO \\x41\necho \"\\xff\"\n"
        "3 INCR lines\n1 PING\n0 PING\n-2 PING\n99999999999999999999 PING\n5\n"
        "2x PING\nGET lines\nINFO cluster\nPING\vx\n"
        "NOSUCH\nquit\nECHO never\n";
    static const char *const both[][2] = {{"--raw"}, {"--no-raw"}};
    size_t i;
    (void)state;
    at_the_server();
    for (i = 0; i < 2; i++) {
        start_tool(both[i], NULL);
        feed(&tool, input);
        json_decref(live_redis(&em, "DEL", "lines", NULL));
        start_witness(both[i], NULL);
        feed(&witness, input);
        json_decref(live_redis(&em, "DEL", "lines", NULL));
        drop_times(&tool);
        drop_times(&witness);
        assert_same_output(both[i][0]);
        assert_has(tool.text, "Invalid argument(s)\n");
        assert_status(2);               /* the first that was wrong decides */
    }
    start_tool(both[0], NULL);
    feed(&tool, "PING\nexit");          /* the last line may lack its end */
    assert_string_equal(tool.text, "PONG\n");
    assert_status(0);
}

/* The path that users take: TLS, and a token as the password. */
static void test_gateway_with_a_token(void **state)
{
    json_t *minted = live_json(&em, "GET", "/token", "");
    char port[16], input[8192];
    size_t i, n = 0;
    (void)state;
    at_the_server();
    clean_up(NULL);                     /* only for the data */
    for (i = 0; i < 40; i++)
        n += quote_line(input + n, commands[i]);
    snprintf(port, sizeof port, "%d", em.gateway_port);
    env("REDISCLI_AUTH", json_string_value(json_object_get(minted, "access_token")));
    json_decref(minted);
    for (i = 2; i <= 3; i++) {
        const char *argv[] = {"redis-cli", "--tls", "--cacert", getenv("SSL_CERT_FILE"), "--sni", "localhost", "-h",
                              "localhost", "-p", port, "--user", em.oid, "--no-auth-warning", i == 2 ? "-2" : "-3",
                              "--no-raw", NULL};
        run_with(input, "--protocol", i == 2 ? "2" : "3", "--no-raw");
        job_start(&witness, argv);
        feed(&witness, input);
        drop_times(&tool);
        drop_times(&witness);
        assert_true(witness.out_len > 1000);
        assert_same_output(i == 2 ? "RESP2" : "RESP3");
    }
}

/* redis-cli 7.0 prints nothing for these: it ends with "Unknown reply type", or with a protocol error. */
static void test_what_redis_cli_cannot_print(void **state)
{
    static const char *const raw[] = {"--protocol", "3", "--raw", NULL};
    static const char *const attribute[] = {"DEBUG", "PROTOCOL", "attrib", NULL};
    static const char *const number[] = {"DEBUG", "PROTOCOL", "bignum", NULL};
    (void)state;
    at_the_server();
    start_tool(raw, number);
    job_wait(&tool);
    assert_string_equal(tool.text, "1234567999999999999999999999999999999\n");
    assert_status(0);
    start_tool(raw, attribute);
    job_wait(&tool);
    assert_string_equal(tool.text, "Some real reply following the attribute\n");
    assert_status(0);
}

/* Drives azredis on a terminal; returns what it printed. */
static const char *on_terminal(const char *input, const char *word, const char *key)
{
    static char text[4096];
    size_t n = 0;
    ssize_t got;
    int fd;
    pid_t pid = forkpty(&fd, NULL, NULL, NULL);
    if (pid == 0) {
        execl(azredis_path(), "azredis", word, key, (char *)NULL);
        _exit(127);
    }
    if (input)
        assert_int_equal(write(fd, input, strlen(input)), (ssize_t)strlen(input));
    while (n < sizeof text - 1 && (got = read(fd, text + n, sizeof text - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = 0;
    close(fd);
    waitpid(pid, NULL, 0);
    return text;
}

static void test_terminal_decides_the_format(void **state)
{
    const char *text;
    (void)state;
    run("SET", "tty", "x\ny");
    run("GET", "tty");
    assert_string_equal(tool.text, "x\ny\n");
    assert_string_equal(on_terminal(NULL, "GET", "tty"), "\"x\\ny\"\r\n");
    text = on_terminal("GET tty\nMULTI\nPING\nquit\n", NULL, NULL);
    assert_has(text, em.endpoint);      /* the prompt */
    assert_has(text, "> \"x\\ny\"\r\n");
    assert_has(text, "MULTI is refused");
    assert_has(text, "> PONG\r\n");     /* a person goes on behind an error */
}

/* ---- SUBSCRIBE ------------------------------------------------------------------------------- */

/* Connections whose line in CLIENT LIST has this. */
static int listeners(const char *what)
{
    json_t *reply = live_redis(&em, "CLIENT", "LIST", NULL);
    const char *at = json_string_value(reply);
    int n = 0;
    for (; at && (at = strstr(at, what)) != NULL; at++)
        n++;
    json_decref(reply);
    return n;
}

/* By name and by pattern, over RESP3 and RESP2. */
static void test_subscribe_streams_what_redis_cli_streams(void **state)
{
    static const char *const words[2][5] = {{"SUBSCRIBE", "one", "two", "one", NULL},
                                            {"psubscribe", "on?", "tw*", "on?", NULL}};
    const char *const modes3[][4] = {{"--raw"}, {"--no-raw"}, {"--no-raw", "--protocol", "2"}};
    const char *const theirs[][4] = {{"--raw"}, {"--no-raw"}, {"--no-raw", "-3"}};
    size_t i;
    (void)state;
    at_the_server();
    for (i = 0; i < 6; i++) {
        const char *const *ask = words[i / 3];
        start_tool(modes3[i % 3], ask);
        start_witness(theirs[i % 3], ask);
        await(listeners(i < 3 ? " sub=2 psub=0 " : " sub=0 psub=2 ") == 2, LIVE_SOON);
        json_decref(live_redis(&em, "PUBLISH", "two", "hello \"you\"", NULL));
        json_decref(live_redis(&em, "PUBLISH", "one", "", NULL));
        json_decref(live_redis(&em, "PUBLISH", "two", "the end", NULL));
        job_expect(&witness, "the end");
        job_expect(&tool, "the end");
        kill(tool.pid, SIGINT);
        kill(witness.pid, SIGINT);
        job_wait(&tool);
        job_wait(&witness);
        assert_status(0);
        assert_string_equal(tool.errors, "");
        assert_same_output(ask[0]);
    }
}

static void test_subscribe_survives_a_cut(void **state)
{
    json_t *heard = NULL;
    (void)state;
    begin("SUBSCRIBE", "news", NULL);
    job_expect(&tool, "subscribe\nnews\n1\n");
    live_fault(&em, "expire-now", NULL, "1");
    job_expect(&tool, "ConnectionRestored");
    await((json_decref(heard), heard = live_redis(&em, "PUBLISH", "news", "after", NULL), json_integer_value(heard) == 1),
          LIVE_SOON);                                   /* the subscription comes a little later than the connection */
    json_decref(heard);
    job_expect(&tool, "message\nnews\nafter\n");
    assert_has(tool.errors, "ConnectionFailed");        /* told, and not among the messages */
    kill(tool.pid, SIGINT);
    job_wait(&tool);
    assert_status(0);
}

static void test_subscribe_among_lines(void **state)
{
    static const char lines[] = "PING\nSUBSCRIBE\nSUBSCRIBE a\nPING\n";
    (void)state;
    begin("--timeout", "1500", NULL);
    assert_int_equal(write(tool.in, lines, strlen(lines)), (ssize_t)strlen(lines));
    job_wait(&tool);
    assert_string_equal(tool.text, "PONG\nsubscribe\na\n1\n");
    assert_has(tool.errors, "SUBSCRIBE: channels are wanted");
    assert_status(2);
    assert_true(tool.ms <= 1500 + LIVE_SLACK);
}

static void test_subscribe_refused(void **state)
{
    (void)state;
    json_decref(live_redis(&em, "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "resetchannels", "&open",
                           NULL));
    env("AZREDIS_ENDPOINT", getenv("EMULATOR_REDIS_SOCKET"));
    env("AZREDIS_PASSWORD", "pw");
    run("--auth", "password", "--user", "reader", "SUBSCRIBE", "closed");
    assert_complaint(1, "NOPERM");
    run("--auth", "password", "--user", "reader", "--timeout", "1000", "SUBSCRIBE", "open");
    assert_status(0);                   /* as long as was asked for */
    assert_string_equal(tool.text, "subscribe\nopen\n1\n");
}

/* ---- azredis token --------------------------------------------------------------------------- */

static json_t *token_object(void)
{
    json_t *o = json_loads(tool.text, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(o) || tool.text[tool.out_len - 1] != '\n')
        fail_msg("no object in a line: %s", tool.text);
    return o;
}

static const char *member(json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static void test_token_json(void **state)
{
    json_t *o, *step;
    (void)state;
    run("token", "--json");
    assert_status(0);
    assert_string_equal(tool.errors, "");
    o = token_object();
    assert_string_equal(member(o, "credential"), "environment");
    assert_string_equal(member(o, "user"), em.oid);
    assert_string_equal(member(o, "tenant"), getenv("AZURE_TENANT_ID"));
    assert_string_equal(member(o, "audience"), "https://redis.azure.com");
    assert_in_range(json_integer_value(json_object_get(o, "expires_in")), 3500, 3600);
    assert_in_range(json_integer_value(json_object_get(o, "expires_on")) - time(NULL), 3490, 3610);
    assert_int_equal(json_array_size(json_object_get(o, "steps")), 1);
    step = json_array_get(json_object_get(o, "steps"), 0);
    assert_string_equal(member(step, "name"), "environment");
    assert_string_equal(member(step, "outcome"), "token");
    assert_true(json_is_null(json_object_get(step, "reason")));
    assert_in_range(json_integer_value(json_object_get(step, "ms")), 1, LIVE_SOON);
    assert_null(json_object_get(o, "token"));
    assert_unseen("eyJ");
    json_decref(o);
    run("--json", "token", "--show", "--auth=client-secret", "-h", "localhost:1");      /* options on either side */
    assert_status(0);
    o = token_object();
    assert_string_equal(member(o, "credential"), "client-secret");
    assert_memory_equal(member(o, "token"), "eyJ", 3);
    json_decref(o);
    assert_int_equal(live_number(&em, "connections_opened"), 0);        /* Redis is not asked */
}

static void test_token_json_without_a_token(void **state)
{
    json_t *o, *step;
    (void)state;
    env("AZURE_CLIENT_SECRET", NULL);
    run("token", "--json");
    assert_status(3);
    o = token_object();
    assert_true(json_is_null(json_object_get(o, "credential")));
    assert_true(json_is_null(json_object_get(o, "user")));
    assert_true(json_is_null(json_object_get(o, "expires_on")));
    assert_true(json_is_null(json_object_get(o, "expires_in")));
    assert_has(member(o, "error"), "AZURE_CLIENT_SECRET");
    step = json_array_get(json_object_get(o, "steps"), 0);
    assert_string_equal(member(step, "outcome"), "unavailable");
    assert_has(member(step, "reason"), "missing AZURE_CLIENT_SECRET");
    json_decref(o);
    assert_has(tool.errors, "AZURE_CLIENT_SECRET");
    env("AZURE_CLIENT_SECRET", "hunter2hunter2");
    run("token", "--json", "--show");
    assert_status(3);
    o = token_object();
    step = json_array_get(json_object_get(o, "steps"), 0);
    assert_string_equal(member(step, "outcome"), "failed");
    assert_has(member(step, "reason"), "AADSTS7000215");
    json_decref(o);
    assert_unseen("hunter2hunter2");
}

static void test_token_text(void **state)
{
    (void)state;
    run("token");
    assert_status(0);
    assert_has(tool.text, "credential  environment\n");
    assert_has(tool.text, em.oid);
    assert_has(tool.text, getenv("AZURE_TENANT_ID"));
    assert_has(tool.text, "audience    https://redis.azure.com\n");
    assert_has(tool.text, "Z, in 3");
    assert_has(tool.text, "step        environment: token, ");
    assert_unseen("eyJ");
    run("token", "--show");
    assert_has(tool.text, "token       eyJ");
    env("AZREDIS_ACCESS_KEY", "hunter2hunter2");
    run("token", "--show", "--auth", "access-key");
    assert_status(3);
    assert_has(tool.errors, "without a token");
    assert_unseen("hunter2hunter2");
}

/* ---- identities and secrets ------------------------------------------------------------------ */

static const char *secret_file(const char *text, size_t n)
{
    static char path[128];
    FILE *f;
    snprintf(path, sizeof path, "%s/secret", em.dir);
    f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
    return path;
}

static void test_secrets_from_files(void **state)
{
    static char large[17000];
    char text[128];
    const char *path;
    (void)state;
    env("AZURE_CLIENT_SECRET", "not this one");
    snprintf(text, sizeof text, "%s\r\n\n", em.secret);
    path = secret_file(text, strlen(text));
    run("--auth", "client-secret", "--secret-file", path, "PING");
    assert_status(0);
    snprintf(text, sizeof text, "%s\n", getenv("AZREDIS_ACCESS_KEY"));
    secret_file(text, strlen(text));
    run("--auth", "access-key", "--key-file", path, "ACL", "WHOAMI");
    assert_string_equal(tool.text, "default\n");
    run("--auth", "password", "--user", "default", "--secret-file", path, "PING");
    assert_status(0);
    env("AZREDIS_PASSWORD", getenv("AZREDIS_ACCESS_KEY"));
    env("AZREDIS_USER", "default");
    run("--auth", "password", "PING");
    assert_status(0);
    secret_file(" \n", 2);
    run("--auth", "access-key", "--key-file", path, "PING");
    assert_complaint(2, "--key-file: the file holds no text");
    secret_file("a\0b", 3);
    run("--auth", "access-key", "--key-file", path, "PING");
    assert_complaint(2, "--key-file: the file holds no text");
    memset(large, 'x', sizeof large);
    secret_file(large, sizeof large);
    run("--auth", "client-secret", "--secret-file", path, "PING");
    assert_complaint(2, "--secret-file: the file is longer than");
    unlink(path);
    run("--auth", "client-secret", "--secret-file", path, "PING");
    assert_complaint(2, "--secret-file: the file cannot be read: No such file");
}

static void test_secrets_as_arguments_are_refused(void **state)
{
    static const char *const bad[] = {
        "--client-secret", "--secret", "--password", "--pass", "-a", "--access-key", "--key", "--token", "--PASSWORD",
        "--client-assertion"
    };
    static const char *const urls[] = {
        "user:hunter2hunter2@localhost:1", "rediss://user:hunter2hunter2@localhost:1", "rediss://:hunter2@localhost",
        "localhost,password=hunter2hunter2", "localhost,auth=client-secret,clientSecret=hunter2hunter2",
        "localhost,password=hunter2,hunter2", "localhost,pasword=hunter2hunter2"
    };
    char glued[64];
    long before = live_number(&em, "connections_opened");
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        run(bad[i], "hunter2hunter2", "PING");
        assert_complaint(2, bad[i]);
        assert_has(tool.errors, "AZREDIS_PASSWORD");
        assert_unseen("hunter2");
        snprintf(glued, sizeof glued, "%s%shunter2hunter2", bad[i], bad[i][1] == '-' ? "=" : "");
        run(glued, "PING");
        assert_complaint(2, "a secret is not taken");
        assert_unseen("hunter2");
    }
    for (i = 0; i < COUNT(urls); i++) {
        run("-h", urls[i], "PING");
        assert_complaint(2, "--host: ");
        assert_unseen("hunter2");
    }
    run("--passwrod=hunter2hunter2", "PING");           /* a slip: nothing behind "=" is repeated */
    assert_status(2);
    assert_unseen("hunter2");
    assert_int_equal(live_number(&em, "connections_opened"), before);
    run("AUTH", "hunter2hunter2");
    assert_status(2);
    assert_unseen("hunter2");
}

static void test_connection_strings(void **state)
{
    char text[400];
    (void)state;
    snprintf(text, sizeof text, "%s,auth=environment,protocol=resp3,name=by-string", em.endpoint);
    run("-h", text, "--no-raw", "CONFIG", "GET", "maxmemory");
    assert_string_equal(tool.text, "1# \"maxmemory\" => \"0\"\n");
    run("-h", text, "--no-raw", "--protocol", "2", "CONFIG", "GET", "maxmemory");   /* the option wins */
    assert_string_equal(tool.text, "1) \"maxmemory\"\n2) \"0\"\n");
    run("-h", text, "CLIENT", "GETNAME");
    assert_string_equal(tool.text, "by-string\n");
    snprintf(text, sizeof text, "rediss://%s", em.endpoint);
    run("-h", text, "CLIENT", "GETNAME");
    assert_string_equal(tool.text, "azredis\n");
    snprintf(text, sizeof text, "localhost,auth=client-secret,tenantId=%s,clientId=%s", getenv("AZURE_TENANT_ID"),
             getenv("AZURE_CLIENT_ID"));
    run("-h", text, "token");           /* the secret is in AZURE_CLIENT_SECRET */
    assert_has(tool.text, "credential  client-secret\n");
    run("-h", text, "--auth", "default", "token");      /* the option wins here, too */
    assert_has(tool.text, "credential  environment\n");
    snprintf(text, sizeof text, "%s,password=%s", em.endpoint, getenv("AZREDIS_ACCESS_KEY"));
    env("AZREDIS_CONNECTION", text);
    run("ACL", "WHOAMI");
    assert_string_equal(tool.text, "default\n");
    assert_null(strstr(on_terminal("quit\n", NULL, NULL), getenv("AZREDIS_ACCESS_KEY")));    /* nor in the prompt */
    run("ECHO", "--raw");               /* options end at the command */
    assert_string_equal(tool.text, "--raw\n");
}

static void test_no_secret_in_the_command_line(void **state)
{
    char path[64], text[4096];
    size_t n;
    FILE *f;
    (void)state;
    begin("-v", "SUBSCRIBE", "x", NULL);
    job_expect(&tool, "subscribe\nx\n1\n");
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)tool.pid);
    f = fopen(path, "re");
    n = fread(text, 1, sizeof text, f);
    fclose(f);
    assert_true(n > 10);
    assert_null(memmem(text, n, em.secret, strlen(em.secret)));
    assert_null(memmem(text, n, "eyJ", 3));
    kill(tool.pid, SIGINT);
    job_wait(&tool);
    assert_unseen(em.secret);
    assert_unseen("eyJ");
}

static void test_missing_secrets_are_named(void **state)
{
    static const char *const needs[][3] = {
        {"client-secret", "AZURE_TENANT_ID", "--tenant-id"}, {"client-secret", "AZURE_CLIENT_ID", "--client-id"},
        {"client-secret", "AZURE_CLIENT_SECRET", "--secret-file"}, {"access-key", "AZREDIS_ACCESS_KEY", "--key-file"},
        {"password", "AZREDIS_PASSWORD", "--secret-file"}, {"client-certificate", "AZURE_CLIENT_CERTIFICATE_PATH", "--certificate"},
        {"default", "AZURE_CLIENT_ID", ""},
        {"environment", "AZURE_CLIENT_SECRET", ""}
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(needs); i++) {
        env(needs[i][1], NULL);
        if (!strcmp(needs[i][0], "password"))
            env("AZREDIS_USER", "someone");
        run("--auth", needs[i][0], "PING");
        assert_complaint(3, needs[i][1]);
        assert_has(tool.errors, needs[i][2]);
        clean_up(NULL);
    }
}

/* Each flag arrives at its option: the complaint is about what it holds. */
static void test_flags_of_identities(void **state)
{
    (void)state;
    run("--auth", "managed-identity", "--client-id", "a", "--object-id", "b", "--resource-id", "c", "PING");
    assert_complaint(2, "--object-id: ");
    run("--auth", "workload-identity", "--federated-token-file", "/no/such/file", "PING");
    assert_complaint(3, "cannot read the file /no/such/file");
    run("--auth", "client-certificate", "--certificate", "/no/such/file", "--send-chain", "--key-file", "k", "PING");
    assert_complaint(3, "cannot read the file /no/such/file");
    run("--auth", "client-certificate", "--certificate", "tests/data/test_key.pem", "--key-file", "/no/such/key", "PING");
    assert_complaint(3, "cannot read the file /no/such/key");
    run("--auth", "token-file", "--token-file", "/no/such/file", "PING");
    assert_complaint(3, "cannot read the file /no/such/file");
    run("--auth", "exec", "--exec", "f", "PING");
    assert_complaint(2, "absolute path");
}

/* Whose token it was, by which link, and each link before it. */
static void assert_token_of(const char *oid, const char *credential, size_t links)
{
    json_t *o, *steps;
    assert_status(0);
    assert_string_equal(tool.errors, "");
    o = token_object();
    assert_string_equal(member(o, "user"), oid);
    assert_string_equal(member(o, "credential"), credential);
    steps = json_object_get(o, "steps");
    assert_int_equal(json_array_size(steps), links);
    assert_string_equal(member(json_array_get(steps, links - 1), "name"), credential);
    assert_string_equal(member(json_array_get(steps, links - 1), "outcome"), "token");
    json_decref(o);
}

static void test_managed_identity(void **state)
{
    static const char *const ours[][2] = {
        {"--client-id", "EMULATOR_USER_CLIENT_ID"}, {"--object-id", "EMULATOR_OID_USER"},
        {"--resource-id", "EMULATOR_USER_RESOURCE_ID"}
    };
    static const char *const strange[][2] = {
        {"--client-id", "11111111-2222-3333-4444-555555555555"}, {"--object-id", "11111111-2222-3333-4444-555555555555"},
        {"--resource-id", "/subscriptions/1/resourcegroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/x"}
    };
    char oid[40];
    size_t i;
    (void)state;
    go_to("imds");
    snprintf(oid, sizeof oid, "%s", getenv("EMULATOR_OID_USER"));
    run("token", "--auth", "managed-identity", "--json");
    assert_token_of(em.oid, "managed-identity", 1);
    run("--auth", "managed-identity", "ACL", "WHOAMI");
    assert_status(0);
    assert_has(tool.text, em.oid);
    for (i = 0; i < COUNT(ours); i++) {
        run("token", "--auth", "managed-identity", ours[i][0], getenv(ours[i][1]), "--json");
        assert_token_of(oid, "managed-identity", 1);
        run("token", "--auth", "default", ours[i][0], getenv(ours[i][1]), "--json");
        assert_token_of(oid, "managed-identity", 3);
        run("--auth", "managed-identity", ours[i][0], getenv(ours[i][1]), "ACL", "WHOAMI");
        assert_status(0);
        assert_has(tool.text, oid);
        run("--auth", "managed-identity", strange[i][0], strange[i][1], "PING");
        assert_complaint(3, "not assigned here");
    }
    run("--auth", "managed-identity", "--client-id", "a", "--object-id", "b", "PING");
    assert_complaint(2, "--");
    run("--auth", "managed-identity", "--client-id", "a;b", "PING");
    assert_complaint(2, "--client-id");
    run("--auth", "environment", "--object-id", "b", "PING");
    assert_complaint(2, "--object-id");
    go_to("cloudshell");                /* it has nobody but the person */
    run("--auth", "managed-identity", "--client-id", "11111111-2222-3333-4444-555555555555", "PING");
    assert_complaint(3, "Cloud Shell");
}

static void test_workload_identity(void **state)
{
    char path[160];
    (void)state;
    go_to("workload");
    run("token", "--auth", "workload-identity", "--json");
    assert_token_of(em.oid, "workload-identity", 1);
    run("token", "--auth", "default", "--json");
    assert_token_of(em.oid, "workload-identity", 2);
    snprintf(path, sizeof path, "%s", getenv("AZURE_FEDERATED_TOKEN_FILE"));
    env("AZURE_FEDERATED_TOKEN_FILE", NULL);
    run("--auth", "workload-identity", "PING");
    assert_complaint(3, "AZURE_FEDERATED_TOKEN_FILE");
    run("--auth", "workload-identity", "--federated-token-file", path, "ACL", "WHOAMI");
    assert_status(0);
    assert_has(tool.text, em.oid);
    run("--auth", "workload-identity", "--federated-token-file", "/nowhere/token", "PING");
    assert_complaint(3, "/nowhere/token");
    run("--auth", "default", "--federated-token-file", path, "PING");
    assert_complaint(2, "--federated-token-file");
}

/* A file with the token that this identity gives, and a program that prints it. */
static void test_token_file_and_exec(void **state)
{
    char file[128], script[128], body[9000];
    json_t *o;
    FILE *f;
    (void)state;
    run("token", "--show", "--json");
    assert_status(0);
    o = token_object();
    snprintf(body, sizeof body, "{\"access_token\":\"%s\",\"expires_in\":3600}", member(o, "token"));
    json_decref(o);
    snprintf(file, sizeof file, "%s", secret_file(body, strlen(body)));
    snprintf(script, sizeof script, "%s/give", em.dir);
    f = fopen(script, "we");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\ncat %s\n", file);
    fclose(f);
    assert_int_equal(chmod(script, 0700), 0);
    run("token", "--auth", "token-file", "--token-file", file, "--json");
    assert_token_of(em.oid, "token-file", 1);
    run("--auth", "token-file", "--token-file", file, "ACL", "WHOAMI");
    assert_status(0);
    assert_has(tool.text, em.oid);
    run("token", "--auth", "exec", "--exec", script, "--json");
    assert_token_of(em.oid, "exec", 1);
    run("--auth", "exec", "--exec", script, "ACL", "WHOAMI");
    assert_status(0);
    assert_has(tool.text, em.oid);
    run("--auth", "exec", "--exec", file, "PING");               /* not a program */
    assert_complaint(3, "exec: ");
    assert_int_equal(unlink(file), 0);
    run("--auth", "token-file", "--token-file", file, "PING");
    assert_complaint(3, "token-file: ");
    assert_has(tool.errors, file);
    run("--auth", "exec", "--exec", script, "PING");
    assert_complaint(3, "ended with status 1");
    assert_int_equal(unlink(script), 0);
    run("--auth", "exec", "--exec", "give", "PING");             /* found by no PATH */
    assert_complaint(2, "--exec");
    run("--auth", "token-file", "PING");
    assert_complaint(2, "--token-file");
    run("--auth", "exec", "PING");
    assert_complaint(2, "--exec");
}

static void test_proxy(void **state)
{
    char with_login[100];
    const char *proxy = getenv("EMULATOR_PROXY");
    long tunnels = live_number(&em, "proxy_tunnels");
    (void)state;
    run("--proxy", proxy, "PING");
    assert_status(0);
    assert_string_equal(tool.text, "PONG\n");
    assert_int_equal(live_number(&em, "proxy_tunnels"), tunnels + 1);
    env("AZREDIS_PROXY", proxy);
    run("token", "--json");
    assert_token_of(em.oid, "environment", 1);
    assert_int_equal(live_number(&em, "proxy_tunnels"), tunnels + 2);
    live_fault(&em, "proxy-407", NULL, "1");
    run("PING");
    assert_complaint(3, "407");
    live_fault(&em, "proxy-403", NULL, "1");
    run("PING");
    assert_complaint(3, "403");
    snprintf(with_login, sizeof with_login, "http://user:hunter2hunter2@%s", strchr(proxy, '/') + 2);
    run("--proxy", with_login, "PING");
    assert_complaint(2, "--proxy: a password is not taken from the command line");
    assert_unseen("hunter2hunter2");
    run("--proxy", "https://localhost:1", "PING");
    assert_complaint(2, "proxy");
    run("--proxy", "http://127.0.0.1:1", "--timeout", "800", "PING");       /* nobody there */
    assert_status(3);
    assert_has(tool.errors, "proxy");
    go_to("imds");                      /* metadata services are never asked through it */
    tunnels = live_number(&em, "proxy_connections");
    env("AZREDIS_PROXY", "http://127.0.0.1:1");
    run("token", "--json");
    assert_token_of(em.oid, "managed-identity", 3);
    assert_int_equal(live_number(&em, "proxy_connections"), tunnels);
}

static void test_authorities(void **state)
{
    char by_address[64], by_name[64];
    long tokens = live_number(&em, "tokens_issued");
    (void)state;
    snprintf(by_name, sizeof by_name, "localhost:%d", em.authority_port);
    snprintf(by_address, sizeof by_address, "https://127.0.0.1:%d/", em.authority_port);
    env("AZURE_AUTHORITY_HOST", "https://authority.example/");
    run("PING");
    assert_complaint(3, "--allow-authority");
    run("--authority-host", "https://authority.example/", "PING");
    assert_complaint(2, "--authority-host: ");
    assert_has(tool.errors, "--allow-authority");
    run("--authority-host", "http://localhost/", "PING");
    assert_complaint(2, "https");
    assert_int_equal(live_number(&em, "tokens_issued"), tokens);
    run("--authority-host", by_name, "PING");           /* wins over the variable */
    assert_status(0);
    run("--authority-host", by_address, "--scope", "https://redis.azure.com/.default", "PING");
    assert_status(0);
    assert_int_equal(live_number(&em, "tokens_issued"), tokens + 2);
    run("--allow-authority", "authority.example", "--timeout", "800", "PING");
    assert_status(3);                   /* allowed, and not found */
    assert_null(strstr(tool.errors, "is not an authority"));
}

/* ---- wrong usage ----------------------------------------------------------------------------- */

static void test_usage(void **state)
{
    static const char *const bad[][4] = {
        {"--bogus", "--bogus", "PING"}, {"-x", "-x", "PING"}, {"--bogus", "--bogus=1", "PING"},
        {"--timeout", "--timeout", "x", "PING"}, {"--timeout", "--timeout", "0", "PING"},
        {"--timeout", "--timeout", "-1", "PING"}, {"--timeout", "--timeout", "10s", "PING"},
        {"--timeout", "--timeout=99999999999999999999", "PING"}, {"--timeout", "--timeout"},
        {"--protocol", "--protocol", "1", "PING"}, {"--protocol", "--protocol=4", "PING"}, {"--host", "-h"},
        {"--host", "--host="}, {"--host", "-h", "a b", "PING"}, {"--host", "-h", "https://x", "PING"},
        {"--host", "-h", "x:99999", "PING"}, {"--auth", "--auth", "nobody", "PING"},
        {"--auth", "--auth", "callback", "PING"},
        {"--raw", "--raw=1", "PING"}, {"--raw", "--raw", "--no-raw", "PING"}, {"--json", "--json", "--raw", "PING"},
        {"--show", "--show", "PING"}, {"--key-file", "--key-file", "f", "PING"}, {"--exec", "--exec", "f", "PING"},
        {"--exec", "--exec", "/x", "PING"}, {"--scope", "--scope", "a b", "PING"}, {"token", "token", "PING"},
        {"--bogus", "token", "--bogus"}
    };
    long before = live_number(&em, "connections_opened"), tokens = live_number(&em, "tokens_issued");
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++) {
        run(bad[i][1], bad[i][2], bad[i][2] ? bad[i][3] : NULL);
        assert_complaint(2, bad[i][0]);
    }
    run("--auth", "client-secret", "--tenant-id", "a;b", "PING");
    assert_complaint(2, "--tenant-id");
    run("--auth", "client-secret", "--client-id", "$(id)", "PING");
    assert_complaint(2, "--client-id");
    env("AZREDIS_ENDPOINT", NULL);
    run("PING");
    assert_complaint(2, "--host");
    assert_int_equal(live_number(&em, "connections_opened"), before);
    assert_int_equal(live_number(&em, "tokens_issued"), tokens);
}

static void test_help(void **state)
{
    static const char *const wanted[] = {
        "usage: azredis [options] COMMAND", "azredis token", "-h, --host HOST[:PORT]", "--auth NAME", "--tenant-id ID",
        "--client-id ID", "--object-id ID", "--resource-id ID", "--certificate FILE", "--send-chain",
        "--federated-token-file FILE", "--token-file FILE", "--exec FILE", "--secret-file FILE", "--key-file FILE",
        "--user NAME", "--cacert FILE", "--authority-host URL", "--allow-authority HOST", "--proxy URL", "--scope SCOPE",
        "--protocol 2|3", "--timeout MS", "--json", "-v, --verbose", "default environment client-secret",
        "access-key password",
        "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_TOKEN_CREDENTIALS",
        "AZREDIS_ACCESS_KEY", "AZREDIS_PASSWORD", "5 Redis rejected the token"
    };
    size_t i;
    (void)state;
    run("--help");
    assert_status(0);
    assert_string_equal(tool.errors, "");
    for (i = 0; i < COUNT(wanted); i++)
        assert_has(tool.text, wanted[i]);
    run("--version");
    assert_has(tool.text, "azredis " AZREDIS_VERSION_TEXT " (");
}

static void test_refused_commands_tell_why(void **state)
{
    (void)state;
    run("MULTI");
    assert_complaint(2, "MULTI is refused");
    run("BLPOP", "q", "0");
    assert_complaint(2, "use azredis_block");
    run_with("SSUBSCRIBE a\nPING\nHELLO 3\n", "--raw");
    assert_string_equal(tool.text, "PONG\n");           /* the lines behind go on */
    assert_has(tool.errors, "SSUBSCRIBE is refused");
    assert_has(tool.errors, "HELLO is refused");
    assert_status(2);
    run("--", "PING");
    assert_status(0);
}

static void test_verbose(void **state)
{
    (void)state;
    run("-v", "PING");
    assert_status(0);
    assert_string_equal(tool.text, "PONG\n");
    assert_has(tool.errors, "TokenRefreshed");
    assert_has(tool.errors, " 205 ");
    assert_unseen(em.secret);
    assert_unseen("eyJ");
    assert_null(strstr(strstr(tool.errors, "TokenRefreshed") + 1, "TokenRefreshed"));   /* once */
    run("-v", "token");
    assert_has(tool.errors, "TokenRefreshed");
    run("PING");
    assert_string_equal(tool.errors, "");
}

/* ---- exit statuses --------------------------------------------------------------------------- */

/* A port on which nobody listens: it is bound for as long as this program runs. */
static const char *closed_port(void)
{
    static char endpoint[64];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    snprintf(endpoint, sizeof endpoint, "localhost:%d", ntohs(a.sin_port));
    return endpoint;
}

static void test_status_of_replies(void **state)
{
    (void)state;
    run("PING");
    assert_status(0);
    run("GET", "none");
    assert_status(0);                   /* nil is an answer */
    run("NOSUCH");
    assert_status(1);
    assert_string_equal(tool.errors, "");
    run("EVAL", "return {redis.error_reply('X inside')}", "0");
    assert_status(0);                   /* not the reply itself */
    live_fault(&em, "moved", NULL, "1");
    run("GET", "x");
    assert_status(1);
    assert_string_equal(tool.text, "MOVED 1234 10.0.0.1:8500\n\n");
    run_with("NOSUCH\nPING\n", "--raw");
    assert_status(1);
}

static void test_status_without_a_token(void **state)
{
    char url[80];
    (void)state;
    live_fault(&em, "token-error", "700016", "1");
    run("PING");
    assert_complaint(3, "AADSTS700016");
    live_fault(&em, "token-no-oid", "1", "1");
    run("PING");
    assert_complaint(3, "oid");
    live_fault(&em, "token-garbage", NULL, "1");
    run("PING");
    assert_status(3);
    live_fault(&em, "token-redirect", NULL, "1");
    run("PING");
    assert_status(3);
    snprintf(url, sizeof url, "https://%s", closed_port());
    run("--authority-host", url, "--timeout", "800", "PING");
    assert_complaint(3, "refused");
    env("SSL_CERT_FILE", "/dev/null");
    run("PING");
    assert_status(3);                   /* it is the authority's certificate that cannot be checked */
}

static void test_status_without_a_way(void **state)
{
    live_relay relay;
    char endpoint[64];
    (void)state;
    run("-h", closed_port(), "PING");
    assert_complaint(4, "connection refused");
    run("-h", "no-such-name.invalid", "--timeout", "10000", "PING");
    assert_complaint(4, "look-up of no-such-name.invalid");
    run("-h", strrchr(em.admin, '/') + 1, "PING");      /* speaks HTTP, not TLS */
    assert_status(4);
    live_fault(&em, "refuse", NULL, "1");
    run("PING");
    assert_status(4);
    live_relay_start(&relay, em.gateway_port);
    snprintf(endpoint, sizeof endpoint, "localhost:%d", relay.port);
    begin("-h", endpoint, NULL);
    assert_int_equal(write(tool.in, "PING\n", 5), 5);
    job_expect(&tool, "PONG");
    live_relay_spell(&relay, LIVE_RESET);
    assert_int_equal(write(tool.in, "SET k 1\nPING\n", 13), 13);
    job_wait(&tool);
    live_relay_stop(&relay);
    assert_status(4);
    assert_has(tool.errors, "may have run");
    assert_string_equal(tool.text, "PONG\n");           /* a script that lost a command goes no further */
}

static void test_status_of_a_rejection(void **state)
{
    long tokens = live_number(&em, "tokens_issued");
    (void)state;
    live_fault(&em, "auth-reject", NULL, "*");
    run("PING");
    assert_complaint(5, "WRONGPASS");
    assert_int_equal(live_number(&em, "tokens_issued"), tokens + 2);    /* one fresh one was tried */
    live_disarm(&em, "auth-reject");
    live_fault(&em, "auth-reject", NULL, "1");
    run("PING");
    assert_status(0);
    live_fault(&em, "token-wrong-oid", NULL, "*");
    run("PING");
    assert_status(5);
    live_disarm(&em, "token-wrong-oid");
    env("AZREDIS_ACCESS_KEY", "bm90IHRoZSBrZXk=");
    run("--auth", "access-key", "PING");
    assert_complaint(5, "WRONGPASS");
    assert_unseen("bm90IHRoZSBrZXk=");
}

/* TLS is a part of the way; here it is Redis's certificate, the authority's is good. */
static void test_status_of_a_bad_certificate(void **state)
{
    (void)state;
    run("PING");
    assert_complaint(4, "certificate");
    run("token");
    assert_status(0);
}

/* ---- time ------------------------------------------------------------------------------------ */

#define LIMIT "800"                     /* ms */

/* It ended with this status, not before and not long after its time. */
static void assert_late(int status)
{
    assert_status(status);
    assert_int_equal(strncmp(tool.errors, "azredis: ", 9), 0);
    if (tool.ms < 700)
        fail_msg("too early: %s", tool.errors);
    assert_in_range(tool.ms, 700, 800 + LIVE_SLACK);
}

/* A listener of 127.0.0.1. full: its queue is, so that it answers no SYN, like a black hole. */
static int deaf_port(char *endpoint, size_t room, int full)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int i, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(fd, full ? 0 : 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    for (i = 0; full && i < 4; i++)
        (void)!connect(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), (struct sockaddr *)&a, n);
    snprintf(endpoint, room, "127.0.0.1:%d", ntohs(a.sin_port));
    return fd;
}

static void test_timeout_of_the_authority(void **state)
{
    char deaf[64], hole[64];
    int fd[2] = {deaf_port(deaf, sizeof deaf, 0), deaf_port(hole, sizeof hole, 1)};
    (void)state;
    run("--timeout", LIMIT, "--authority-host", deaf, "PING");
    assert_late(3);
    run("--timeout", LIMIT, "--authority-host", hole, "PING");
    assert_late(3);
    run("--timeout", LIMIT, "--authority-host", hole, "token", "--json");
    assert_late(3);
    live_fault(&em, "token-hang", NULL, "1");
    run("--timeout", LIMIT, "PING");
    assert_late(3);
    live_fault(&em, "token-drip", NULL, "1");
    run("--timeout", LIMIT, "PING");
    assert_late(3);
    live_fault(&em, "token-500", NULL, "*");            /* tried again while there is time */
    run("--timeout", LIMIT, "PING");
    live_disarm(&em, "token-500");
    assert_status(3);
    assert_true(tool.ms <= 800 + LIVE_SLACK);
    close(fd[0]);
    close(fd[1]);
}

static void test_timeout_of_redis(void **state)
{
    char deaf[64], hole[64];
    int fd[2] = {deaf_port(deaf, sizeof deaf, 0), deaf_port(hole, sizeof hole, 1)};
    (void)state;
    run("--timeout", LIMIT, "-h", deaf, "PING");
    assert_late(4);
    run("--timeout", LIMIT, "-h", hole, "PING");
    assert_late(4);
    run("--timeout", LIMIT, "-h", deaf, "SUBSCRIBE", "x");
    assert_late(4);
    live_fault(&em, "auth-delay", "5000", "1");
    run("--timeout", LIMIT, "PING");
    assert_late(4);
    close(fd[0]);
    close(fd[1]);
}

static void unix_address(struct sockaddr_un *u, const char *path)
{
    memset(u, 0, sizeof *u);
    u->sun_family = AF_UNIX;
    snprintf(u->sun_path, sizeof u->sun_path, "%s", path);
}

/* Carries bytes between one client and the real server until a command with DRIP in it comes, and answers that one
 * byte by byte without end. */
static void *drip_main(void *user)
{
    int client = accept(*(int *)user, NULL, NULL), dripping = 0;
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pollfd p[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
    struct sockaddr_un u;
    char block[4096];
    ssize_t n = 1;
    unix_address(&u, getenv("EMULATOR_REDIS_SOCKET"));
    if (connect(server, (struct sockaddr *)&u, sizeof u) != 0)
        n = 0;
    while (n > 0 && !dripping && poll(p, 2, LIVE_SOON) > 0) {
        int from = p[0].revents ? 0 : 1;
        n = recv(p[from].fd, block, sizeof block, 0);
        dripping = n > 0 && from == 0 && memmem(block, (size_t)n, "DRIP", 4) != NULL;
        if (n > 0 && !dripping)
            live_send(p[!from].fd, block, (size_t)n);
    }
    if (dripping)
        live_send(client, "+", 1);
    while (dripping && live_send(client, "x", 1))
        live_nap(20);
    close(client);
    close(server);
    return NULL;
}

static void test_timeout_of_a_slow_answer(void **state)
{
    struct sockaddr_un u;
    char path[96];
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_t drip;
    (void)state;
    at_the_server();
    snprintf(path, sizeof path, "%s/drip", em.dir);
    unix_address(&u, path);
    assert_int_equal(bind(listener, (struct sockaddr *)&u, sizeof u), 0);
    assert_int_equal(listen(listener, 4), 0);
    assert_int_equal(pthread_create(&drip, NULL, drip_main, &listener), 0);
    run("--timeout", LIMIT, "--auth", "password", "-h", path, "ECHO", "DRIP");
    pthread_join(drip, NULL);
    close(listener);
    unlink(path);
    assert_late(4);
    assert_has(tool.errors, "may have run");
}

static void test_timeout_of_a_command_and_of_lines(void **state)
{
    live_relay relay;
    char endpoint[64];
    (void)state;
    live_relay_start(&relay, em.gateway_port);
    snprintf(endpoint, sizeof endpoint, "localhost:%d", relay.port);
    begin("--timeout", LIMIT, "-h", endpoint, NULL);
    assert_int_equal(write(tool.in, "PING\n", 5), 5);
    job_expect(&tool, "PONG");
    live_relay_spell(&relay, LIVE_FREEZE);
    assert_int_equal(write(tool.in, "PING\n", 5), 5);
    job_wait(&tool);
    assert_late(4);
    live_relay_stop(&relay);
    begin("--timeout", LIMIT, NULL);    /* and nobody types anything */
    while (job_more(&tool)) {
    }
    job_wait(&tool);
    assert_late(4);
}

/* Whoever reads the output takes nothing: no deadline of the library helps there. */
static void test_timeout_of_the_output(void **state)
{
    int64_t until = live_ms() + LIVE_SOON;
    int status;
    (void)state;
    begin("--timeout", LIMIT, "EVAL", "return string.rep('x', 1000000)", "0", NULL);
    while (waitpid(tool.pid, &status, WNOHANG) == 0 && live_ms() < until)
        live_nap(2);
    tool.ms = live_ms() - tool.began;
    tool.pid = 0;
    tool.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    job_close(&tool.in);
    job_close(&tool.out);
    job_close(&tool.err);
    assert_status(4);
    assert_in_range(tool.ms, 700, 800 + LIVE_SLACK);
}

static void test_ctrl_c_ends_at_once(void **state)
{
    int64_t at;
    int k;
    (void)state;
    for (k = 0; k < 2; k++) {
        live_fault(&em, k ? "auth-delay" : "token-hang", k ? "10000" : NULL, "1");
        begin("-v", "PING", NULL);
        job_expect(&tool, k ? " 300 " : " 100 ");
        at = live_ms();
        kill(tool.pid, SIGINT);
        job_wait(&tool);
        assert_true(live_ms() - at < 1000);
        assert_status(-SIGINT);
        live_disarm(&em, k ? "auth-delay" : "token-hang");
    }
}

/* azredis ... | head -1 */
static void test_reader_goes_away(void **state)
{
    (void)state;
    begin("EVAL", "return string.rep('x\\n', 1000000)", "0", NULL);
    assert_true(read(tool.out, tool.text, 10) > 0);
    job_close(&tool.out);
    job_wait(&tool);
    assert_status(0);
    assert_string_equal(tool.errors, "");
}

/* ---- what the header tells it ---------------------------------------------------------------- */

static void test_auth_info(void **state)
{
    azredis_auth_options o = {0};
    azredis_auth_info_data d;
    azredis_token t;
    azredis_auth *a = azredis_auth_open(&o);
    struct { azredis_auth_info_data d; char more[16]; } larger;
    (void)state;
    assert_int_equal(azredis_auth_info(NULL, &d), AZREDIS_E_ARG);
    assert_int_equal(azredis_auth_info(a, NULL), AZREDIS_E_ARG);
    assert_int_equal(azredis_auth_info(a, &d), AZREDIS_AGAIN);
    assert_string_equal(d.credential, "");
    assert_int_equal(azredis_auth_token(a, &t, LIVE_SOON, NULL), AZREDIS_OK);
    assert_int_equal(azredis_auth_info(a, &d), AZREDIS_OK);
    assert_string_equal(d.credential, "environment");
    assert_string_equal(d.user, t.user);
    assert_string_equal(d.tenant, getenv("AZURE_TENANT_ID"));
    assert_in_range(d.expires_in_ms, 3500000, 3600000);
    memset(&larger, 'x', sizeof larger);                /* a caller that knows more members, and one that knows fewer */
    assert_int_equal(azredis_auth_info_v(a, &larger.d, sizeof larger), AZREDIS_OK);
    assert_string_equal(larger.more, "");
    memset(&d, 'x', sizeof d);
    assert_int_equal(azredis_auth_info_v(a, &d, offsetof(azredis_auth_info_data, user)), AZREDIS_OK);
    assert_string_equal(d.credential, "environment");
    assert_int_equal(d.user[0], 'x');
    azredis_token_wipe(&t);
    azredis_auth_release(a);
    o.identity = AZREDIS_ID_ACCESS_KEY;
    assert_int_equal(azredis_auth_info(a = azredis_auth_open(&o), &d), AZREDIS_E_ARG);
    azredis_auth_release(a);
    o.password = "x";
    assert_int_equal(azredis_auth_info(a = azredis_auth_open(&o), &d), AZREDIS_OK);
    assert_string_equal(d.credential, "access-key");
    assert_string_equal(d.user, "default");
    assert_true(d.expires_in_ms == AZREDIS_UNKNOWN && d.expires_on == 0);
    azredis_auth_release(a);
}

/* The identity of a client serves a second one, and lives on without the first. */
static void test_client_auth(void **state)
{
    azredis_options o = {0};
    azredis_client *first = live_open(&em, &o), *second;
    azredis_auth *a = azredis_client_auth(first);
    long tokens = live_number(&em, "tokens_issued");
    azredis_auth_info_data d;
    (void)state;
    assert_null(azredis_client_auth(NULL));
    azredis_close(first);
    assert_int_equal(azredis_auth_info(a, &d), AZREDIS_OK);
    o.auth = a;
    second = live_open(&em, &o);
    azredis_auth_release(a);
    assert_true(live_incr(second, "second") > 0);
    assert_int_equal(live_number(&em, "tokens_issued"), tokens);
    azredis_close(second);
}

#define T(name) cmocka_unit_test_teardown(name, clean_up)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_token_json), T(test_token_json_without_a_token), T(test_token_text),
        T(test_one_command_prints_what_redis_cli_prints), T(test_standard_input_prints_what_redis_cli_prints),
        T(test_lines_are_quoted_as_in_redis_cli), T(test_gateway_with_a_token), T(test_what_redis_cli_cannot_print),
        T(test_terminal_decides_the_format), T(test_subscribe_streams_what_redis_cli_streams),
        T(test_subscribe_survives_a_cut), T(test_subscribe_among_lines), T(test_subscribe_refused),
        T(test_secrets_from_files), T(test_secrets_as_arguments_are_refused), T(test_connection_strings),
        T(test_no_secret_in_the_command_line),
        T(test_missing_secrets_are_named), T(test_flags_of_identities),
        T(test_managed_identity),
        T(test_workload_identity), T(test_token_file_and_exec), T(test_proxy), T(test_authorities), T(test_usage), T(test_help),
        T(test_refused_commands_tell_why), T(test_verbose), T(test_status_of_replies), T(test_status_without_a_token),
        T(test_status_without_a_way), T(test_status_of_a_rejection), T(test_timeout_of_the_authority),
        T(test_timeout_of_redis), T(test_timeout_of_a_slow_answer), T(test_timeout_of_a_command_and_of_lines),
        T(test_timeout_of_the_output), T(test_ctrl_c_ends_at_once), T(test_reader_goes_away), T(test_auth_info),
        T(test_client_auth),
    };
    const struct CMUnitTest expired[] = {T(test_status_of_a_bad_certificate)};
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1)                       /* one case alone, for a look at it */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) + cmocka_run_group_tests(expired, setup_expired, teardown);
}
