/* Unit test of >>child with real processes: this program starts itself, and its argument says what to do. What comes
 * back, how it ends, who is killed; traps set by the program around it; no descriptor, zombie or token is left. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <dirent.h>
#include <sys/resource.h>
#include <setjmp.h>
#include <cmocka.h>

#define SOON 60000u                       /* ms; a machine under load, valgrind: what takes longer hangs */

/* ---- the program that is started ---------------------------------------------------------------- */

static void say(const char *text) {
    if (write(1, text, strlen(text)) < 0) _exit(90);
}

static void rest(void) {                  /* until killed, with the FIFO open: its reader sees who lives */
    int i;
    const char *fifo = getenv("TEST_FIFO");
    int fd = fifo ? open(fifo, O_WRONLY) : -1;
    (void)fd;
    for (i = 0; i < 120; i++) sleep(1);
    _exit(91);
}

static void show_fds(void) {
    char text[64];
    int fd;
    for (fd = 0; fd < 256; fd++)
        if (fcntl(fd, F_GETFD) != -1) {
            (void)snprintf(text, sizeof text, "%d ", fd);
            say(text);
        }
}

static void show_signals(void) {
    sigset_t mask;
    struct sigaction pipe_, child;
    (void)sigprocmask(SIG_SETMASK, NULL, &mask);
    (void)sigaction(SIGPIPE, NULL, &pipe_);
    (void)sigaction(SIGCHLD, NULL, &child);
    say(sigismember(&mask, SIGTERM) || sigismember(&mask, SIGUSR1) ? "blocked " : "open ");
    say(pipe_.sa_handler == SIG_DFL && child.sa_handler == SIG_DFL ? "default" : "ignored");
}

static void flood(int fd, int n) {
    char line[1024];
    memset(line, 'x', sizeof line);
    while (n-- > 0)
        if (write(fd, line, sizeof line) < 0) _exit(92);
}

static const char *own_name;               /* argv[0] */

static int act(const char *what) {
    char text[64];
    pid_t pid;
    if (!strcmp(what, "hello")) say("hello\n");
    if (!strcmp(what, "name")) say(own_name);
    if (!strcmp(what, "exit3")) { say("hello\n"); return 3; }
    if (!strcmp(what, "signal")) (void)kill(getpid(), SIGTERM);
    if (!strcmp(what, "fds")) show_fds();
    if (!strcmp(what, "signals")) show_signals();
    if (!strcmp(what, "stdin")) say(read(0, text, 1) == 0 ? "empty" : "something");
    if (!strcmp(what, "group")) say(getpgrp() == getpid() ? "its own" : "ours");
    if (!strcmp(what, "environment")) say(getenv("TEST_WORD") ? getenv("TEST_WORD") : "none");
    if (!strcmp(what, "big")) flood(1, 1024);
    if (!strcmp(what, "full")) flood(1, 64);
    if (!strcmp(what, "noise")) { flood(2, 1024); (void)!write(2, "\nthe end\n", 9); say("hello\n"); }
    if (!strcmp(what, "sleep")) rest();
    if (!strcmp(what, "closed")) { say("hello\n"); (void)close(1); rest(); }
    if (!strcmp(what, "closed-stderr")) { (void)close(2); say("hello\n"); }
    if (!strcmp(what, "family")) { if (fork() == 0) rest(); say("hello\n"); rest(); }
    if (!strcmp(what, "orphan")) {        /* ends, and leaves somebody behind who holds stdout */
        pid = fork();
        if (pid == 0) rest();
        (void)snprintf(text, sizeof text, "%d", (int)pid);
        say(text);
    }
    return 0;
}

/* ---- memory, descriptors, time -------------------------------------------------------------------- */

static char self[1024], fifo[64], dir[] = "/tmp/azredis_child_XXXXXX";
static long living;
static int  allow = -1, leaks;

static void *t_alloc(void *user, size_t n) {
    (void)user;
    if (allow == 0) return NULL;
    if (allow > 0) allow--;
    living++;
    return malloc(n);
}

static void t_free(void *user, void *p, size_t n) {
    size_t i;
    (void)user;
    for (i = 0; i + 5 <= n; i++) leaks += memcmp((char *)p + i, "hello", 5) == 0;
    living--;
    free(p);
}

static azri_port port;
static azri_grave grave;                  /* keep: an event loop watches what we have named to it */

static int fds_open(void) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    assert_non_null(d);
    while (readdir(d)) n++;
    (void)closedir(d);
    return n;
}

static uint64_t now(void) { return azri_posix_now(NULL); }

static azri_child child;
static azredis_error err;
static int fds_before, steps;
static uint64_t slowest;
static pid_t pid;
static const char *variable;

static azredis_status start_path(const char *path, const char *what, uint32_t limit_ms) {
    const char *argv[AZRI_STEP_ARGS];
    azredis_status st;
    memset(argv, 0, sizeof argv);
    memset(&err, 0, sizeof err);
    argv[0] = path;
    argv[1] = what;
    steps = 0;
    slowest = 0;
    fds_before = fds_open();
    st = azri_child_start(&child, &port, &grave, argv, variable, "exec", now(), limit_ms, &err);
    pid = child.pid;
    return st;
}

static void start(const char *what, uint32_t limit_ms) {
    assert_int_equal(start_path(self, what, limit_ms), AZREDIS_OK);
}

/* As a loop does: poll what it names, until when it says. */
static azredis_status run_on(void) {
    uint64_t begun = now(), before;
    azredis_status st;
    azri_fd fds[4];
    size_t n;
    for (;;) {
        before = now();
        st = azri_child_step(&child, before, &err);
        slowest = azri_max64(slowest, now() - before);
        steps++;
        if (st != AZREDIS_AGAIN) return st;
        assert_true(now() - begun < SOON);
        n = azri_child_fds(&child, fds, 4);
        before = now();
        if (azri_child_deadline(&child) > before)
            (void)azri_poll(fds, n, (int)azri_min64(azri_child_deadline(&child) - before, 1000));
    }
}

/* Nothing of it is left in this process. */
static void end(void) {
    azri_child_end(&child);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    assert_int_equal(fds_open(), fds_before);
    assert_int_equal(living, 0);
    assert_int_equal(leaks, 0);
    assert_int_equal(child.pid, 0);
    azri_child_end(&child);               /* twice is once */
}

static void expect(const char *what, const char *text, int code) {
    start(what, SOON);
    assert_int_equal(run_on(), AZREDIS_OK);
    assert_int_equal(child.code, code);
    assert_int_equal(child.text.len, strlen(text));
    if (child.text.len) assert_memory_equal(child.text.ptr, text, child.text.len);
    end();
}

/* Who has the FIFO open for writing is alive. */
static int fifo_open(void) {
    int fd = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void fifo_dead(int fd) {
    uint64_t begun = now();
    char c;
    struct pollfd p;
    p.fd = fd;
    p.events = POLLIN;
    while (read(fd, &c, 1) != 0) {
        assert_true(now() - begun < SOON / 3);    /* long before it would end by itself */
        (void)poll(&p, 1, 100);
    }
    (void)close(fd);
}

/* Until somebody has opened the FIFO. */
static void fifo_alive(int fd) {
    uint64_t begun = now();
    char c;
    while (read(fd, &c, 1) == 0) {
        assert_true(now() - begun < SOON);
        (void)poll(NULL, 0, 5);
    }
    assert_int_equal(errno, EAGAIN);
}

/* ---- what comes back -------------------------------------------------------------------------------- */

static void test_what_it_prints(void **state) {
    (void)state;
    expect("hello", "hello\n", 0);
    expect("exit3", "hello\n", 3);
    expect("signal", "", -SIGTERM);
    expect("stdin", "empty", 0);
    expect("group", "its own", 0);
    expect("closed-stderr", "hello\n", 0);
    (void)setenv("TEST_WORD", "inherited", 1);
    expect("environment", "inherited", 0);
}

static void test_signals_are_as_from_a_shell(void **state) {
    sigset_t all, old;
    (void)state;
    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, &old);
    (void)signal(SIGPIPE, SIG_IGN);
    expect("signals", "open default", 0);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, &old, NULL);
}

/* It gets what this program would hand to any other, and nothing of ours. */
static void test_no_descriptor_is_handed_on(void **state) {
    azri_waker *w;
    char text[1024];
    size_t n;
    int fd;
    (void)state;
    w = azri_waker_new(&port);
    assert_non_null(w);
    (void)azri_fmt(text, sizeof text, "0 1 2 ");
    for (fd = 3; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFD);
        n = strlen(text);
        if (flags != -1 && !(flags & FD_CLOEXEC)) (void)azri_fmt(text + n, sizeof text - n, "%d ", fd);
    }
    expect("fds", text, 0);
    azri_waker_unref(w);
}

static void test_command_line(void **state) {
    char path[64], line[2048];
    size_t n = strlen(self);
    ssize_t got;
    int fd, hold = fifo_open();
    (void)state;
    start("sleep", SOON);
    fifo_alive(hold);                     /* it runs: before exec the line is that of this program */
    (void)azri_fmt(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    got = read(fd, line, sizeof line);
    (void)close(fd);
    assert_int_equal(got, n + 1 + 6);
    assert_memory_equal(line, self, n + 1);
    assert_memory_equal(line + n + 1, "sleep", 6);
    end();
    fifo_dead(hold);
}

static void test_stderr(void **state) {
    (void)state;
    start("noise", SOON);
    assert_int_equal(run_on(), AZREDIS_OK);
    assert_int_equal(child.text.len, 6);
    assert_true(child.said_len >= 10 && child.said_len <= AZRI_CHILD_SAID);
    assert_memory_equal(child.said + child.said_len - 10, "x\nthe end\n", 10);
    end();
}

static void test_too_much(void **state) {
    (void)state;
    start("full", SOON);
    assert_int_equal(run_on(), AZREDIS_OK);
    assert_int_equal(child.text.len, AZRI_CHILD_OUT);
    end();
    start("big", SOON);
    assert_int_equal(run_on(), AZREDIS_E_LIMIT);
    assert_non_null(strstr(err.message, "prints more than 65536 bytes"));
    end();
}

static void test_no_memory(void **state) {
    (void)state;
    start("hello", SOON);
    allow = 0;
    assert_int_equal(run_on(), AZREDIS_E_NOMEM);
    allow = -1;
    end();
}

/* ---- what cannot be started --------------------------------------------------------------------------- */

static void cannot(const char *path, const char *text) {
    memset(&child, 0, sizeof child);
    assert_int_equal(start_path(path, "hello", SOON), AZREDIS_E_NO_CREDENTIAL);
    if (!strstr(err.message, text) || !strstr(err.message, path)) fail_msg("'%s' is not in: %s", text, err.message);
    assert_true(err.os_errno > 0);
    assert_int_equal(err.retryable, 0);
    azri_child_end(&child);
    assert_int_equal(fds_open(), fds_before);
}

/* In dir, with name the one of a program in dir/one, of no program in two, and of a directory in three. */
static const char *at(const char *below) {
    static char path[2][128];
    static int which;
    which = !which;
    (void)azri_fmt(path[which], sizeof path[which], "%s/%s", dir, below);
    return path[which];
}

/* path: of PATH, with @ for dir; from: where this program stands; found: "" or below dir. */
static void in_path(const char *path, const char *from, const char *found) {
    char text[4000], *p = text, *own = getenv("PATH") ? strdup(getenv("PATH")) : NULL;
    int before = open(".", O_RDONLY | O_CLOEXEC);
    for (; path && *path && p < text + sizeof text - 100; path++) {
        if (*path == '@') p += azri_fmt(p, 100, "%s", dir);
        else *p++ = *path;
    }
    *p = '\0';
    if (path) (void)setenv("PATH", text, 1);
    else (void)unsetenv("PATH");
    assert_int_equal(chdir(at(from)), 0);
    if (start_path("tool", "name", SOON) == AZREDIS_OK) {
        assert_int_equal(run_on(), AZREDIS_OK);
        assert_int_equal(child.text.len, strlen(at(found)));
        assert_memory_equal(child.text.ptr, at(found), child.text.len);     /* argv[0] is the whole path */
        end();
    } else {
        if (*found) fail_msg("in PATH=%s: %s", text, err.message);
        assert_string_equal(err.message, "exec: not installed, or not in PATH");
        assert_int_equal(err.retryable, 0);
        azri_child_end(&child);
        assert_int_equal(fds_open(), fds_before);
    }
    assert_int_equal(fchdir(before), 0);
    (void)close(before);
    if (own) (void)setenv("PATH", own, 1);
    free(own);
}

/* Only what is a program, and of PATH only what says where it is: whoever can write into the directory that this program
 * was started in is not asked. */
static void test_found_in_path(void **state) {
    static const char *const below[] = { "one", "two", "three", "three/tool" };
    char longer[2000];
    size_t i;
    (void)state;
    for (i = 0; i < 4; i++) assert_int_equal(mkdir(at(below[i]), 0700), 0);
    assert_int_equal(symlink(self, at("one/tool")), 0);
    (void)close(open(at("two/tool"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    memset(longer, 'x', sizeof longer);
    (void)memcpy(longer, "/x", 2);
    (void)memcpy(longer + sizeof longer - 7, ":@/one", 7);

    in_path("@/one", "", "one/tool");
    in_path("@/two:@/three:@/nothing:@/one", "", "one/tool");
    in_path(".::one:@/one:@/two", "one", "one/tool");
    in_path(longer, "", "one/tool");
    in_path("@/one/", "", "one//tool");
    in_path(NULL, "one", "");
    in_path("", "one", "");
    in_path(":", "one", "");
    in_path("::/usr/none:", "one", "");
    in_path(".", "one", "");
    in_path("./", "one", "");
    in_path("one", "", "");
    in_path("../one:./../one", "one", "");
    in_path("@/two:@/three", "one", "");
    in_path("@/one/tool", "one", "");

    (void)unlink(at("one/tool"));
    (void)unlink(at("two/tool"));
    for (i = 4; i-- > 0;) (void)rmdir(at(below[i]));
}

/* One more in the environment, which counts more than an inherited one; nothing is set in this program. */
static void test_variable(void **state) {
    (void)state;
    (void)setenv("TEST_WORD", "inherited", 1);
    variable = "TEST_WORD=given";
    expect("environment", "given", 0);
    assert_string_equal(getenv("TEST_WORD"), "inherited");
    (void)unsetenv("TEST_WORD");
    expect("environment", "given", 0);
    variable = NULL;
    expect("environment", "none", 0);
    allow = 0;
    assert_int_equal(start_path(self, "hello", SOON), AZREDIS_E_NO_CREDENTIAL);
    allow = -1;
    assert_int_equal(err.os_errno, ENOMEM);
    assert_int_equal(err.retryable, 1);
    azri_child_end(&child);
    assert_int_equal(fds_open(), fds_before);
    assert_int_equal(living, 0);
}

/* valgrind makes a fork of vfork, and what the C library writes into the common memory is lost: it ends with 127 then. */
static int is_valgrind(void) {
    const char *z = getenv("LD_PRELOAD");
    return z && strstr(z, "vgpreload");
}

static void test_cannot_start(void **state) {
    char path[64] = "/tmp/azredis_child_XXXXXX";
    int fd;
    (void)state;
    if (is_valgrind()) {
        print_message("valgrind starts programs in its own way\n");
        skip();
    }
    fd = mkstemp(path);
    assert_true(fd >= 0);
    cannot("/nowhere/at/all", "no such file");
    cannot("/tmp", "it is no file");
    cannot(path, "permission denied");
    assert_int_equal(write(fd, "no program\n", 11), 11);
    assert_int_equal(fchmod(fd, 0700), 0);
    (void)close(fd);
    cannot(path, "it is no program");
    (void)unlink(path);
}

static void test_no_descriptors(void **state) {
    struct rlimit old, low;
    azredis_status st;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    (void)state;
    (void)close(fd);
    if (is_valgrind()) {
        print_message("valgrind keeps descriptors of its own\n");
        skip();
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    low = old;
    low.rlim_cur = (rlim_t)fd + 3;        /* room for one pipe, not for two */
    assert_int_equal(fcntl(fd + 1, F_GETFD), -1);
    fds_before = fds_open();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    st = start_path(self, "hello", SOON);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(st, AZREDIS_E_NO_CREDENTIAL);
    assert_non_null(strstr(err.message, "too many open files"));
    assert_int_equal(err.retryable, 1);
    assert_int_equal(fds_open(), fds_before);
}

/* A daemon has closed them, so that our pipes get their numbers. */
static void test_host_without_stdio(void **state) {
    int status = 0;
    pid_t host = fork();
    (void)state;
    assert_true(host >= 0);
    if (host == 0) {
        (void)close(0);
        (void)close(1);
        (void)close(2);
        if (start_path(self, "hello", SOON) != AZREDIS_OK) _exit(1);
        if (run_on() != AZREDIS_OK || child.text.len != 6 || memcmp(child.text.ptr, "hello\n", 6) != 0) _exit(2);
        azri_child_end(&child);
        _exit(fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1 && fcntl(2, F_GETFD) == -1 ? 0 : 3);
    }
    assert_int_equal(waitpid(host, &status, 0), host);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- ends ------------------------------------------------------------------------------------------------ */

/* credentials.md c.7 row 22: it sleeps, and so does a grandchild that holds stdout. */
static void test_deadline_ends_the_group(void **state) {
    uint64_t begun = now();
    int hold = fifo_open();
    (void)state;
    start("family", 1000);
    assert_int_equal(run_on(), AZREDIS_E_TIMEOUT);
    assert_true(now() - begun >= 1000);
    assert_non_null(strstr(err.message, "did not end within 1000 ms"));
    assert_int_equal(err.retryable, 1);
    assert_true(slowest < 1000);          /* never blocks; a millisecond, but the machine may be busy */
    end();
    fifo_dead(hold);
}

static void test_stdout_closed_early(void **state) {
    int hold = fifo_open();
    (void)state;
    start("closed", 500);
    assert_int_equal(run_on(), AZREDIS_E_TIMEOUT);
    end();
    fifo_dead(hold);
}

/* What it leaves behind is its own business, and is not waited for. */
static void test_grandchild_keeps_stdout(void **state) {
    uint64_t begun = now();
    char text[32];
    (void)state;
    start("orphan", SOON);
    assert_int_equal(run_on(), AZREDIS_OK);
    assert_true(now() - begun < SOON / 2);
    assert_int_equal(child.code, 0);
    (void)azri_fmt(text, sizeof text, "%.*s", (int)child.text.len, child.text.ptr);
    end();
    assert_int_equal(kill((pid_t)atoi(text), SIGKILL), 0);
}

/* What a loop watches stays open until it has been told: the number must not become another's before. */
static void test_closed_like_sockets(void **state) {
    size_t n;
    (void)state;
    grave.keep = azri_grave_keep;
    start("hello", SOON);
    assert_int_equal(run_on(), AZREDIS_OK);
    azri_child_end(&child);
    assert_int_equal(grave.count, 2);
    assert_int_equal(fds_open(), fds_before + 2);
    for (n = 0; n < 2; n++) assert_true(fcntl((int)grave.sock[n], F_GETFD) != -1);
    azri_grave_clear(&grave, &port, grave.count);
    grave.keep = NULL;
    end();
}

static void test_dropped(void **state) {
    int hold = fifo_open();
    (void)state;
    start("sleep", SOON);
    fifo_alive(hold);
    (void)azri_child_step(&child, now(), &err);
    end();
    fifo_dead(hold);
}

/* ---- the program around it ---------------------------------------------------------------------------------- */

static void test_host_ignores_children(void **state) {
    int hold = fifo_open();
    (void)state;
    (void)signal(SIGCHLD, SIG_IGN);
    expect("hello", "hello\n", AZRI_EXIT_UNKNOWN);
    expect("exit3", "hello\n", AZRI_EXIT_UNKNOWN);
    start("family", 300);
    assert_int_equal(run_on(), AZREDIS_E_TIMEOUT);
    end();
    (void)signal(SIGCHLD, SIG_DFL);
    fifo_dead(hold);
}

static void test_host_collects_all(void **state) {
    (void)state;
    start("exit3", SOON);
    assert_int_equal(waitpid(-1, NULL, 0), pid);
    assert_int_equal(run_on(), AZREDIS_OK);
    assert_int_equal(child.code, AZRI_EXIT_UNKNOWN);
    assert_int_equal(child.text.len, 6);
    end();
}

/* A copy of this program that fork made may close what it was lent: the child is not its own to kill. */
static void test_fork_of_the_host(void **state) {
    int status = 0, hold = fifo_open();
    pid_t copy;
    (void)state;
    start("sleep", SOON);
    fifo_alive(hold);
    copy = fork();
    if (copy == 0) {
        azri_child_end(&child);
        _exit(0);
    }
    assert_int_equal(waitpid(copy, &status, 0), copy);
    assert_true(WIFEXITED(status));
    fifo_alive(hold);                     /* it lives on */
    end();
    fifo_dead(hold);
}

/* ---- az's local time ---- */

static void test_local_time(void **state) {
    static const struct { const char *zone; int64_t wall, unix_s; } rows[] = {
        { "UTC0", 1800003600, 1800003600 }, { "CET-1CEST,M3.5.0,M10.5.0/3", 1800003600, 1800000000 },
        { "CET-1CEST,M3.5.0,M10.5.0/3", 1815000000, 1814992800 }, { "PST8PDT,M3.2.0,M11.1.0", 1800003600, 1800032400 }
    };
    char *before = getenv("TZ") ? strdup(getenv("TZ")) : NULL;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        (void)setenv("TZ", rows[i].zone, 1);
        tzset();
        assert_int_equal(azri_posix_local(rows[i].wall), rows[i].unix_s);
    }
    if (before) (void)setenv("TZ", before, 1);
    else (void)unsetenv("TZ");
    tzset();
    free(before);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_it_prints), cmocka_unit_test(test_signals_are_as_from_a_shell),
        cmocka_unit_test(test_no_descriptor_is_handed_on), cmocka_unit_test(test_command_line), cmocka_unit_test(test_stderr),
        cmocka_unit_test(test_too_much), cmocka_unit_test(test_no_memory), cmocka_unit_test(test_cannot_start),
        cmocka_unit_test(test_found_in_path), cmocka_unit_test(test_variable),
        cmocka_unit_test(test_no_descriptors), cmocka_unit_test(test_host_without_stdio),
        cmocka_unit_test(test_deadline_ends_the_group), cmocka_unit_test(test_stdout_closed_early),
        cmocka_unit_test(test_grandchild_keeps_stdout), cmocka_unit_test(test_closed_like_sockets),
        cmocka_unit_test(test_dropped),
        cmocka_unit_test(test_host_ignores_children), cmocka_unit_test(test_host_collects_all),
        cmocka_unit_test(test_fork_of_the_host), cmocka_unit_test(test_local_time)
    };
    int failed;
    own_name = argv[0];
    if (argc == 2 && getenv("TEST_CHILD")) return act(argv[1]);
    if (!realpath("/proc/self/exe", self) || !mkdtemp(dir)) return 2;
    (void)azri_fmt(fifo, sizeof fifo, "%s/fifo", dir);
    if (mkfifo(fifo, 0600) != 0) return 2;
    {
        azredis_port hooks;
        memset(&hooks, 0, sizeof hooks);
        hooks.alloc = t_alloc;
        hooks.free = t_free;
        azri_port_fill(&port, &hooks);
    }
    (void)setenv("TEST_FIFO", fifo, 1);
    (void)setenv("TEST_CHILD", "1", 1);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(fifo);
    (void)rmdir(dir);
    return failed;
}
