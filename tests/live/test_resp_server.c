/* Case 7 of the codec: DEBUG PROTOCOL with every kind, in RESP2 and RESP3, from a real redis-server that
 * this program starts on a unix socket in a directory of its own, and ends. REDIS_SERVER names another
 * binary. Skipped if there is none. */
#define _GNU_SOURCE
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[64], path[96];
static pid_t server;
static int sock = -1;
static azri_resp dec;
static azri_mem mem;

static void *heap_alloc(void *user, size_t n) {
    (void)user;
    return malloc(n);
}

static void heap_free(void *user, void *p, size_t n) {
    (void)user;
    (void)n;
    free(p);
}

/* redis-check-rdb is the server under another name: it looks at argv[0]. */
static const char *server_binary(void) {
    static const char *const names[] = { "/usr/bin/redis-server", "/usr/bin/redis-check-rdb" };
    const char *own = getenv("REDIS_SERVER");
    size_t i;
    if (own) return own;
    for (i = 0; i < 2; i++)
        if (access(names[i], X_OK) == 0) return names[i];
    return NULL;
}

static void dial(void) {
    struct sockaddr_un a;
    int i;
    memset(&a, 0, sizeof a);
    a.sun_family = AF_UNIX;
    memcpy(a.sun_path, path, strlen(path));
    for (i = 0; i < 200; i++) {
        sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(sock, (struct sockaddr *)&a, sizeof a) == 0) return;
        close(sock);
        usleep(20000);
    }
    fail_msg("the server does not listen on %s", path);
}

static int start(void **s) {
    const char *binary = server_binary();
    pid_t parent = getpid();
    (void)s;
    mem.alloc = heap_alloc;
    mem.free = heap_free;
    if (!binary) return 0;
    strcpy(dir, "/tmp/azri_resp_XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/redis.sock", dir);
    server = fork();
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || !freopen("/dev/null", "w", stdout)) _exit(1);
        execl(binary, "redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", dir,
              "--enable-debug-command", "yes", (char *)NULL);
        _exit(127);
    }
    return server > 0 ? 0 : -1;
}

static int stop(void **s) {
    struct dirent *e;
    DIR *d;
    (void)s;
    if (server <= 0) return 0;
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    d = opendir(dir);
    while (d && (e = readdir(d)) != NULL)
        if (e->d_name[0] != '.') unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
    return rmdir(dir);
}

static void command(int argc, const char *const *words) {
    azredis_str argv[8];
    char buf[1024];
    size_t n;
    int i;
    for (i = 0; i < argc; i++) argv[i] = azri_str(words[i]);
    n = azri_resp_size(argc, argv);
    assert_true(n > 0 && n <= sizeof buf);
    assert_ptr_equal(azri_resp_write(buf, argc, argv), buf + n);
    assert_int_equal(write(sock, buf, n), (ssize_t)n);
}

static azri_frame next_frame(size_t step) {
    azri_frame f;
    azredis_error e;
    azredis_status st;
    memset(&f, 0, sizeof f);
    while ((st = azri_resp_next(&dec, &f, &e)) == AZREDIS_AGAIN) {
        char *p = NULL;
        size_t n = 0;
        ssize_t got;
        assert_int_equal(azri_resp_room(&dec, step, &p, &n), AZREDIS_OK);
        got = read(sock, p, azri_minz(n, step));
        assert_true(got > 0);
        azri_resp_got(&dec, (size_t)got);
    }
    if (st != AZREDIS_OK) fail_msg("%s", e.message);
    assert_int_equal(f.status, AZREDIS_OK);
    return f;
}

/* What the server sent, as text: "*[:0 :1]". */
static void describe(char *out, size_t cap, const azredis_value *v) {
    static const char mark[] = "_$+:,#(=-*%~>|";
    size_t n;
    uint32_t i;
    if (azredis_attribute(v)) {
        describe(out, cap, azredis_attribute(v));
        strcat(out, " ");
        out += strlen(out);
    }
    n = (size_t)snprintf(out, cap, "%c", mark[v->type]);
    if (azri_is_aggregate(v->type)) {
        strcat(out, "[");
        for (i = 0; i < v->len; i++) {
            if (i) strcat(out, " ");
            n = strlen(out);
            describe(out + n, cap - n, &v->as.items[i]);
        }
        strcat(out, "]");
    } else if (azri_is_text(v->type)) {
        snprintf(out + n, cap - n, "%.*s", (int)v->len, v->as.str);
    } else if (v->type != AZREDIS_T_NIL) {
        snprintf(out + n, cap - n, "%lld", (long long)v->as.integer);
    }
}

static const char *ask(const char *kind, size_t step, int *pushes) {
    static char out[2048];
    const char *words[3];
    azri_frame f;
    words[0] = "DEBUG";
    words[1] = "PROTOCOL";
    words[2] = kind;
    command(3, words);
    for (;;) {
        f = next_frame(step);
        if (!f.is_push) break;
        ++*pushes;
        assert_int_equal(f.root->type, AZREDIS_T_PUSH);
        assert_true(azri_eqz(azredis_text(&f.root->as.items[0]), "server-cpu-usage"));
    }
    describe(out, sizeof out, f.root);
    return out;
}

/* The line behind each answer shows that it took exactly its own frames. */
static void in_step(size_t step, int *pushes) {
    static unsigned serial;
    const char *words[2];
    char token[24];
    azri_frame f;
    snprintf(token, sizeof token, "echo-%u", ++serial);
    words[0] = "ECHO";
    words[1] = token;
    command(2, words);
    while ((f = next_frame(step)).is_push) ++*pushes;
    assert_string_equal(azredis_text(f.root).ptr, token);
}

static const struct { const char *kind, *resp2, *resp3; } kinds[] = {
    { "string", "$Hello World", "$Hello World" },
    { "integer", ":12345", ":12345" },
    { "double", "$3.141", ",3.141" },
    { "null", "_", "_" },
    { "array", "*[:0 :1 :2]", "*[:0 :1 :2]" },
    { "set", "*[:0 :1 :2]", "~[:0 :1 :2]" },
    { "map", "*[:0 :0 :1 :1 :2 :0]", "%[:0 #0 :1 #1 :2 #0]" },
    { "attrib", "$Some real reply following the attribute",
      "|[$key-popularity *[$key:123 :90]] $Some real reply following the attribute" },
    { "push", NULL, "$Some real reply following the push reply" },     /* RESP3 only: the server asserts it */
    { "verbatim", "$This is a verbatim\nstring", "=This is a verbatim\nstring" },
    { "true", ":1", "#1" },
    { "false", ":0", "#0" },
    { "bignum", "$1234567999999999999999999999999999999", "(1234567999999999999999999999999999999" }
};

static void all_kinds(const char *protocol) {
    static const size_t steps[] = { 4096, 1, 3 };
    const char *words[2];
    size_t i, k;
    int pushes = 0, v3 = protocol[0] == '3';
    if (server <= 0) {
        print_message("no redis-server on this machine\n");
        skip();
    }
    azri_resp_init(&dec, &mem, 1u << 20);
    dial();
    words[0] = "HELLO";
    words[1] = protocol;
    command(2, words);
    {
        azri_frame f = next_frame(4096);
        int64_t proto = 0;
        assert_int_equal(f.root->type, v3 ? AZREDIS_T_MAP : AZREDIS_T_ARRAY);
        assert_int_equal(azredis_int(azredis_field(f.root, "proto"), &proto), AZREDIS_OK);
        assert_int_equal(proto, protocol[0] - '0');
    }
    for (k = 0; k < 3; k++)
        for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
            const char *want = v3 ? kinds[i].resp3 : kinds[i].resp2;
            if (!want) continue;
            assert_string_equal(ask(kinds[i].kind, steps[k], &pushes), want);
            in_step(steps[k], &pushes);
        }
    assert_int_equal(pushes, v3 ? 3 : 0);
    assert_true(strncmp(ask("nonsense", 4096, &pushes), "-ERR", 4) == 0);
    close(sock);
    azri_resp_free(&dec);
}

static void case_7_debug_protocol_resp2(void **s) {
    (void)s;
    all_kinds("2");
}

static void case_7_debug_protocol_resp3(void **s) {
    (void)s;
    all_kinds("3");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(case_7_debug_protocol_resp2), cmocka_unit_test(case_7_debug_protocol_resp3)
    };
    return cmocka_run_group_tests(tests, start, stop);
}
