/* Unit test of >>posix: clock, entropy, poll, waker, look-up and connect on loopback, the event printer. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
struct addrinfo;
static int test_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                            struct addrinfo **out);
#define AZRI_GETADDRINFO test_getaddrinfo
#include "azredis_entra.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

/* ---- the resolver under test: addresses from a list, an error, or silence ------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    int             block;         /* 1: nobody returns */
    int             inside;        /* threads in it */
    int             gai;           /* what to return */
    int             signals_off;   /* the last thread was deaf to signals */
    const char     *list[32];      /* addresses to give */
} resolver = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, 0, 0, { NULL } };

static int resolve_list(const char *service, struct addrinfo **out) {
    struct addrinfo hints, *one, **end = out;
    int i, r;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    *out = NULL;
    for (i = 0; i < 32 && resolver.list[i]; i++) {
        r = getaddrinfo(resolver.list[i], service, &hints, &one);
        if (r != 0) return r;
        *end = one;
        end = &one->ai_next;
    }
    return 0;
}

static int test_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                            struct addrinfo **out) {
    sigset_t mask;
    int r;
    if (hints->ai_flags & AI_NUMERICHOST) return getaddrinfo(host, service, hints, out);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    pthread_mutex_lock(&resolver.lock);
    resolver.signals_off = sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGTERM);
    resolver.inside++;
    while (resolver.block) pthread_cond_wait(&resolver.changed, &resolver.lock);
    r = resolver.gai ? resolver.gai : resolve_list(service, out);
    resolver.inside--;
    pthread_mutex_unlock(&resolver.lock);
    return r;
}

static void resolver_set(int block, int gai, const char *a, const char *b) {
    pthread_mutex_lock(&resolver.lock);
    resolver.block = block;
    resolver.gai = gai;
    memset(resolver.list, 0, sizeof resolver.list);
    resolver.list[0] = a;
    resolver.list[1] = b;
    pthread_cond_broadcast(&resolver.changed);
    pthread_mutex_unlock(&resolver.lock);
}

static int resolver_inside(void) {
    int n;
    pthread_mutex_lock(&resolver.lock);
    n = resolver.inside;
    pthread_mutex_unlock(&resolver.lock);
    return n;
}

static int waker_count(azri_waker *w, int lookups) {
    int n;
    azri_lock_acquire(&w->lock);
    n = lookups ? w->lookups : w->refs;
    azri_lock_release(&w->lock);
    return n;
}

static void until_alone(azri_waker *w) {
    while (waker_count(w, 0) > 1) usleep(1000);
}

/* ---- sockets ------------------------------------------------------------------------------------- */

static int listener(const char *ip, uint16_t *tcp_port, int backlog) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_port = htons(*tcp_port);
    assert_int_equal(inet_pton(AF_INET, ip, &a.sin_addr), 1);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    if (backlog >= 0) assert_int_equal(listen(fd, backlog), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    *tcp_port = ntohs(a.sin_port);
    return fd;
}

/* A listener that answers no SYN any more: its queue is full. Linux. */
typedef struct silent { int fd, fill[4]; } silent;

static silent silent_listener(const char *ip, uint16_t *tcp_port) {
    struct sockaddr_in a;
    silent s;
    int i;
    s.fd = listener(ip, tcp_port, 0);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_port = htons(*tcp_port);
    inet_pton(AF_INET, ip, &a.sin_addr);
    for (i = 0; i < 4; i++) {
        s.fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(s.fill[i], (struct sockaddr *)&a, sizeof a);
    }
    usleep(20000);
    return s;
}

static void silent_close(silent *s) {
    int i;
    for (i = 0; i < 4; i++) close(s->fill[i]);
    close(s->fd);
}

static azri_port port;
static azri_waker *waker;

static int setup(void **state) {
    (void)state;
    azri_port_fill(&port, NULL);
    waker = azri_waker_new(NULL);
    resolver_set(0, 0, NULL, NULL);
    return waker ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    resolver_set(0, 0, NULL, NULL);
    until_alone(waker);
    azri_waker_unref(waker);
    return 0;
}

/* Steps with real sockets and real time until it ends, 5 s at most. */
static azredis_status finish(azri_dial *d, intptr_t *sock, azredis_error *e) {
    azredis_status st;
    uint64_t end = azri_posix_now(NULL) + 5000;
    for (;;) {
        azri_fd f[AZRI_POLL_MAX];
        uint64_t now = azri_posix_now(NULL), at;
        size_t n;
        st = azri_dial_step(d, now, sock, e);
        if (st != AZREDIS_AGAIN || now > end) return st;
        n = azri_dial_fds(d, f, AZRI_POLL_MAX - 1);
        (void)azri_waker_fds(waker, &f[n], 1);
        at = azri_min64(azri_dial_deadline(d), end);
        azri_poll(f, n + 1, at > now ? (int)(at - now) : 0);
        azri_waker_drain(waker);
    }
}

/* ---- port ---------------------------------------------------------------------------------------- */

static void test_clock(void **state) {
    uint64_t a = port.p.now_ms(NULL), b;
    struct timespec t;
    (void)state;
    usleep(20000);
    b = port.p.now_ms(NULL);
    assert_in_range(b - a, 15, 5000);
#ifdef CLOCK_BOOTTIME
    clock_gettime(CLOCK_BOOTTIME, &t);
    assert_in_range((uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u - b, 0, 5000);
#endif
    assert_in_range((uint64_t)(time(NULL) - port.p.unix_time(NULL)), 0, 2);
}

static void test_entropy(void **state) {
    unsigned char a[64], b[64], zero[64];
    (void)state;
    memset(zero, 0, sizeof zero);
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    assert_int_equal(port.p.entropy(NULL, a, sizeof a), 0);
    assert_int_equal(port.p.entropy(NULL, b, sizeof b), 0);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a + 32, zero, 32);
    assert_memory_not_equal(b + 32, zero, 32);
    assert_int_equal(port.p.entropy(NULL, a, 0), 0);
}

static int64_t fixed_time(void *user) { return *(int64_t *)user; }
static void *no_alloc(void *user, size_t n) {
    (void)user;
    (void)n;
    return NULL;
}

static void test_port_fill(void **state) {
    azredis_port mine;
    azri_port p;
    int64_t when = 42;
    void *m;
    (void)state;
    memset(&mine, 0, sizeof mine);
    mine.user = &when;
    mine.unix_time = fixed_time;
    mine.alloc = no_alloc;           /* without free: not taken */
    azri_port_fill(&p, &mine);
    assert_int_equal(p.p.unix_time(p.p.user), 42);
    assert_null(p.p.connect);
    m = azri_alloc(&p.mem, 0);
    assert_non_null(m);
    azri_free(&p.mem, m, 0);
}

static void test_getenv(void **state) {
    (void)state;
    setenv("AZRI_TEST_VARIABLE", "x", 1);
    assert_string_equal(azri_getenv("AZRI_TEST_VARIABLE"), "x");
    setenv("AZRI_TEST_VARIABLE", "", 1);
    assert_null(azri_getenv("AZRI_TEST_VARIABLE"));
    unsetenv("AZRI_TEST_VARIABLE");
    assert_null(azri_getenv("AZRI_TEST_VARIABLE"));
}

/* Does a program that it runs find the variable? */
static int handed_on(void) {
    static const char *const argv[AZRI_STEP_ARGS] = { "/usr/bin/env", NULL };
    azri_child c;
    azredis_error e;
    azredis_status st = azri_child_start(&c, &port, NULL, argv, NULL, "env", 0, 5000, &e);
    while (st == AZREDIS_OK || st == AZREDIS_AGAIN) {
        st = azri_child_step(&c, 0, &e);
        if (st != AZREDIS_AGAIN) break;
        (void)poll(NULL, 0, 1);
    }
    if (st != AZREDIS_OK || azri_buf_add(&c.text, "", 1) != AZREDIS_OK) _exit(14);
    return strstr(c.text.ptr, "AZRI_TEST_VARIABLE=x") != NULL;
}

/* What this program says when it is started anew: 10 it sees the variable and hands it on, 11 neither, 12 its user did not
 * change. */
static int seen_from_another_user(int changed) {
    int seen;
    if (changed && getuid() == geteuid()) return 12;
    azri_port_fill(&port, NULL);
    seen = azri_getenv("AZRI_TEST_VARIABLE") != NULL;
    return seen != handed_on() ? 13 : seen ? 10 : 11;
}

static int start_as(const char *path, const char *how) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        (void)execl(path, path, how, (char *)NULL);
        _exit(127);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The caller of a set-user-id program writes its environment, and must not choose where a secret goes. */
static void test_getenv_of_a_stranger(void **state) {
    char path[] = "/tmp/azredis_posix_XXXXXX", piece[65536];
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), to = mkstemp(path), mine, theirs;
    ssize_t n;
    (void)state;
    assert_true(to >= 0);
    while (from >= 0 && (n = read(from, piece, sizeof piece)) > 0) assert_int_equal(write(to, piece, (size_t)n), n);
    (void)close(from);
    (void)fchmod(to, 0755);
    (void)close(to);
    setenv("AZRI_TEST_VARIABLE", "x", 1);
    mine = start_as(path, "same");
    theirs = chown(path, 65534, 65534) == 0 && chmod(path, 04755) == 0 ? start_as(path, "other") : 12;
    unsetenv("AZRI_TEST_VARIABLE");
    (void)unlink(path);
    if (mine == 127 || theirs == 12) {
        print_message("not root, a file system without set-user-id, or qemu, which cannot start a program for qemu\n");
        skip();
    }
    assert_int_equal(mine, 10);
    assert_int_equal(theirs, 11);
}

static void test_bytes(void **state) {
    int fd[2], r, total = 0;
    char t[4096];
    (void)state;
    memset(t, 'x', sizeof t);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
    assert_int_equal(port.p.recv(NULL, fd[0], t, sizeof t), 0);
    while ((r = port.p.send(NULL, fd[0], t, sizeof t)) > 0) total += r;
    assert_int_equal(r, 0);
    while (total > 0) total -= port.p.recv(NULL, fd[1], t, sizeof t);
    port.p.close(NULL, fd[1]);
    assert_int_equal(port.p.recv(NULL, fd[0], t, sizeof t), AZRI_EOF);
    assert_int_equal(port.p.send(NULL, fd[0], t, sizeof t), -EPIPE);   /* and no SIGPIPE */
    port.p.close(NULL, fd[0]);
    assert_int_equal(port.p.recv(NULL, fd[0], t, sizeof t), -EBADF);
}

static void test_net_fail(void **state) {
    azredis_error e;
    (void)state;
    assert_int_equal(azri_net_fail(&e, "w", "read", AZRI_EOF), AZREDIS_E_CLOSED);
    assert_string_equal(e.message, "read: the peer closed the connection");
    assert_int_equal(azri_net_fail(&e, "w", "read", -1), AZREDIS_E_NET);
    assert_string_equal(e.message, "read: the connection was lost");
    assert_int_equal(e.os_errno, 0);
    assert_int_equal(azri_net_fail(&e, "w", "read", -ECONNRESET), AZREDIS_E_NET);
    assert_string_equal(e.message, "read: connection reset (errno 104)");
    assert_int_equal(e.os_errno, ECONNRESET);
    assert_int_equal(e.retryable, 1);
    assert_int_equal(azri_net_fail(NULL, "w", "read", -ECONNRESET), AZREDIS_E_NET);
}

static void test_poll(void **state) {
    azri_fd f[3];
    int fd[2];
    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    memset(f, 0, sizeof f);
    f[0].sock = fd[0];
    f[0].want = AZRI_READ;
    f[1].sock = fd[1];               /* want 0: skipped */
    f[2].sock = fd[1];
    f[2].want = AZRI_READ | AZRI_WRITE;
    assert_int_equal(azri_poll(f, 1, 0), 0);
    assert_int_equal(azri_poll(f, 3, 1000), 1);
    assert_int_equal(f[0].ready, 0);
    assert_int_equal(f[1].ready, 0);
    assert_int_equal(f[2].ready, AZRI_WRITE);
    assert_int_equal(write(fd[1], "x", 1), 1);
    assert_int_equal(azri_poll(f, 1, 1000), 1);
    assert_int_equal(f[0].ready, AZRI_READ);
    close(fd[1]);
    assert_int_equal(azri_poll(f, 1, 1000), 1);
    assert_int_equal(f[0].ready, AZRI_READ | AZRI_WRITE);
    close(fd[0]);
    assert_int_equal(azri_poll(NULL, 0, 0), 0);
}

/* ---- lock and waker ------------------------------------------------------------------------------ */

typedef struct counter { azri_lock lock; int n; } counter;

static void *count_up(void *arg) {
    counter *c = (counter *)arg;
    int i;
    for (i = 0; i < 20000; i++) {
        azri_lock_acquire(&c->lock);
        c->n++;
        azri_lock_release(&c->lock);
    }
    return NULL;
}

static void test_lock(void **state) {
    pthread_t id;
    counter c;
    (void)state;
    c.n = 0;
    assert_int_equal(azri_lock_init(&c.lock, NULL), AZREDIS_OK);
    assert_int_equal(pthread_create(&id, NULL, count_up, &c), 0);
    count_up(&c);
    pthread_join(id, NULL);
    assert_int_equal(c.n, 40000);
    azri_lock_free(&c.lock);
}

static int waker_ready(int timeout_ms) {
    azri_fd f;
    assert_int_equal(azri_waker_fds(waker, &f, 1), 1);
    return azri_poll(&f, 1, timeout_ms);
}

static void *wake_later(void *arg) {
    azri_waker *w = (azri_waker *)arg;
    usleep(20000);
    azri_waker_wake(w);
    azri_waker_unref(w);
    return NULL;
}

static void test_waker(void **state) {
    pthread_t id;
    azri_fd f;
    int i;
    (void)state;
    assert_int_equal(azri_waker_fds(waker, &f, 1), 1);
    assert_true(fcntl((int)f.sock, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl((int)f.sock, F_GETFL) & O_NONBLOCK);
    assert_int_equal(waker_ready(0), 0);
    azri_waker_drain(waker);
    for (i = 0; i < 100000; i++) azri_waker_wake(waker);   /* more than any pipe holds: must not block */
    assert_int_equal(waker_ready(0), 1);
    azri_waker_drain(waker);
    assert_int_equal(waker_ready(0), 0);
    azri_lock_acquire(&waker->lock);
    waker->refs++;                                         /* the thread's */
    azri_lock_release(&waker->lock);
    assert_int_equal(pthread_create(&id, NULL, wake_later, waker), 0);
    assert_int_equal(waker_ready(5000), 1);
    azri_waker_drain(waker);
    pthread_join(id, NULL);
    assert_int_equal(waker->refs, 1);
    azri_waker_unref(NULL);
}

/* ---- dial ---------------------------------------------------------------------------------------- */

static int option(intptr_t fd, int level, int name) {
    int v = -1;
    socklen_t n = sizeof v;
    assert_int_equal(getsockopt((int)fd, level, name, &v, &n), 0);
    return v;
}

static void test_dial_loopback(void **state) {
    azri_dial d;
    azredis_error e;
    intptr_t s = -1;
    uint16_t p = 0;
    int l = listener("127.0.0.1", &p, 5), a;
    char c = 0;
    (void)state;
    azri_dial_begin(&d, &port, waker, "127.0.0.1", p);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_OK);
    assert_int_equal(waker_count(waker, 0), 1);              /* no thread for an address */
    assert_true(fcntl((int)s, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl((int)s, F_GETFL) & O_NONBLOCK);
    assert_int_not_equal(option(s, IPPROTO_TCP, TCP_NODELAY), 0);
    assert_int_not_equal(option(s, SOL_SOCKET, SO_KEEPALIVE), 0);
    assert_int_equal(option(s, IPPROTO_TCP, TCP_KEEPIDLE), 15);
    assert_int_equal(option(s, IPPROTO_TCP, TCP_KEEPINTVL), 5);
    assert_int_equal(option(s, IPPROTO_TCP, TCP_KEEPCNT), 3);
    assert_int_equal(option(s, IPPROTO_TCP, TCP_USER_TIMEOUT), 30000);
    a = accept(l, NULL, NULL);
    assert_int_equal(port.p.send(NULL, s, "z", 1), 1);
    assert_int_equal(read(a, &c, 1), 1);
    assert_int_equal(c, 'z');
    azri_dial_end(&d);                                       /* again: harmless, and s lives */
    assert_int_equal(port.p.send(NULL, s, "z", 1), 1);
    close((int)s);
    close(a);
    close(l);
}

static void test_dial_refused(void **state) {
    azri_dial d;
    azredis_error e;
    intptr_t s = -1;
    uint16_t p = 0;
    char want[200];
    int l = listener("127.0.0.1", &p, -1);                   /* bound, not listening */
    (void)state;
    resolver_set(0, 0, "127.0.0.2", "127.0.0.1");
    azri_dial_begin(&d, &port, waker, "cache.example", p);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_E_NET);
    azri_fmt(want, sizeof want, "connect to cache.example:%u: 127.0.0.2: connection refused (errno 111), 127.0.0.1: "
             "connection refused (errno 111); check host, port and firewall", (unsigned)p);
    assert_string_equal(e.message, want);
    assert_int_equal(e.os_errno, ECONNREFUSED);
    assert_int_equal(e.retryable, 1);
    assert_string_equal(e.where, "connect.tcp");
    close(l);
}

static void test_case34_dial_second_address(void **state) {
    azri_dial d;
    intptr_t s = -1;
    uint16_t p = 0;
    int l = listener("127.0.0.1", &p, 5);
    (void)state;
    resolver_set(0, 0, "127.0.0.2", "127.0.0.1");            /* the first refuses */
    azri_dial_begin(&d, &port, waker, "cache.example", p);
    assert_int_equal(finish(&d, &s, NULL), AZREDIS_OK);
    close((int)s);
    close(l);
}

/* The first address swallows everything: the second is tried 250 ms later, beside it. */
static void test_dial_stagger(void **state) {
    azri_dial d;
    azri_fd f[4];
    intptr_t s = -1;
    uint16_t p = 0;
    silent dead = silent_listener("127.0.0.2", &p);
    int l = listener("127.0.0.1", &p, 5);
    (void)state;
    resolver_set(1, 0, "127.0.0.2", "127.0.0.1");
    azri_dial_begin(&d, &port, waker, "cache.example", p);
    assert_int_equal(azri_dial_step(&d, 1000, &s, NULL), AZREDIS_AGAIN);   /* look-up */
    assert_int_equal(azri_dial_fds(&d, f, 4), 0);
    assert_int_equal(azri_dial_deadline(&d), AZRI_NEVER64);
    resolver_set(0, 0, "127.0.0.2", "127.0.0.1");
    assert_int_equal(waker_ready(5000), 1);
    until_alone(waker);
    assert_int_equal(azri_dial_step(&d, 1000, &s, NULL), AZREDIS_AGAIN);
    assert_int_equal(azri_dial_deadline(&d), 1250);
    assert_int_equal(azri_dial_step(&d, 1249, &s, NULL), AZREDIS_AGAIN);
    assert_int_equal(azri_dial_fds(&d, f, 4), 1);
    assert_int_equal(f[0].want, AZRI_WRITE);
    assert_int_equal(azri_dial_step(&d, 1250, &s, NULL), AZREDIS_AGAIN);
    assert_int_equal(azri_dial_fds(&d, f, 4), 2);
    assert_int_equal(azri_dial_fds(&d, f, 1), 2);            /* how many there are, not how many fit */
    assert_int_equal(azri_dial_deadline(&d), AZRI_NEVER64);  /* no address left */
    usleep(20000);
    assert_int_equal(azri_dial_step(&d, 1260, &s, NULL), AZREDIS_OK);
    assert_int_equal(azri_dial_fds(&d, f, 4), 0);            /* the loser is closed */
    close((int)s);
    close(l);
    silent_close(&dead);
}

/* More silent addresses than slots: the oldest attempt makes room; the caller's deadline ends it. */
static void test_dial_all_silent(void **state) {
    azri_dial d;
    azri_fd f[AZRI_POLL_MAX];
    azredis_error e;
    intptr_t s = -1;
    uint16_t p = 0;
    uint64_t now = 0;
    silent dead = silent_listener("127.0.0.2", &p);
    int i;
    (void)state;
    for (i = 0; i < 18; i++) resolver.list[i] = "127.0.0.2";
    resolver.block = 1;
    azri_dial_begin(&d, &port, waker, "cache.example", p);
    assert_int_equal(azri_dial_step(&d, now, &s, NULL), AZREDIS_AGAIN);
    pthread_mutex_lock(&resolver.lock);
    resolver.block = 0;
    pthread_cond_broadcast(&resolver.changed);
    pthread_mutex_unlock(&resolver.lock);
    until_alone(waker);
    for (i = 0; i < 18; i++, now += 250) assert_int_equal(azri_dial_step(&d, now, &s, NULL), AZREDIS_AGAIN);
    assert_int_equal(azri_dial_fds(&d, f, AZRI_POLL_MAX), AZRI_DIAL_LIVE);
    assert_string_equal(d.tried, "127.0.0.2: no answer (errno 110), 127.0.0.2: no answer (errno 110)");
    assert_int_equal(azri_dial_timeout(&d, &e), AZREDIS_E_TIMEOUT);
    assert_non_null(strstr(e.message, "connect to cache.example:"));
    assert_non_null(strstr(e.message, "no answer in time"));
    assert_int_equal(azri_dial_fds(&d, f, AZRI_POLL_MAX), 0);
    silent_close(&dead);
}

static void test_dial_unknown_name(void **state) {
    azri_dial d;
    azredis_error e;
    intptr_t s = -1;
    (void)state;
    resolver_set(0, EAI_NONAME, NULL, NULL);
    azri_dial_begin(&d, &port, waker, "no.such.example", 10000);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_E_DNS);
    assert_string_equal(e.where, "connect.dns");
    assert_non_null(strstr(e.message, "look-up of no.such.example: "));
    assert_non_null(strstr(e.message, gai_strerror(EAI_NONAME)));
    assert_int_equal(e.retryable, 1);
    resolver_set(0, 0, NULL, NULL);                          /* success without any address */
    azri_dial_begin(&d, &port, waker, "empty.example", 10000);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_E_DNS);
    assert_non_null(strstr(e.message, "no address"));
    until_alone(waker);
    assert_int_equal(resolver.signals_off, 1);
}

static void test_dial_hanging_resolver(void **state) {
    azri_dial d[3];
    azredis_error e;
    azri_fd f[2];
    intptr_t s = -1;
    uint16_t p = 0;
    int i, l = listener("127.0.0.1", &p, 5);
    (void)state;
    resolver_set(1, 0, "127.0.0.1", NULL);
    for (i = 0; i < 3; i++) {
        azri_dial_begin(&d[i], &port, waker, "cache.example", p);
        assert_int_equal(azri_dial_step(&d[i], 0, &s, NULL), AZREDIS_AGAIN);
        assert_int_equal(azri_dial_step(&d[i], 1, &s, NULL), AZREDIS_AGAIN);
        assert_int_equal(azri_dial_fds(&d[i], f, 2), 0);
    }
    assert_int_equal(waker_count(waker, 1), 2);              /* the third has no thread */
    assert_int_equal(azri_dial_timeout(&d[0], &e), AZREDIS_E_TIMEOUT);
    assert_string_equal(e.message, "look-up of cache.example: the resolver does not answer; "
                                   "check the DNS servers of this machine");
    azri_dial_end(&d[1]);
    assert_int_equal(azri_dial_step(&d[2], 2, &s, NULL), AZREDIS_AGAIN);
    assert_int_equal(waker_count(waker, 1), 2);              /* abandoned ones count as long as they hang */
    while (resolver_inside() < 2) usleep(1000);
    resolver_set(0, 0, "127.0.0.1", NULL);
    assert_int_equal(finish(&d[2], &s, &e), AZREDIS_OK);     /* gets its turn */
    close((int)s);
    close(l);
}

/* The third waits for a thread until its deadline: the message says that earlier look-ups hang. */
static void test_dial_cap_message(void **state) {
    azri_dial d[3];
    azredis_error e;
    intptr_t s;
    int i;
    (void)state;
    resolver_set(1, 0, "127.0.0.1", NULL);
    for (i = 0; i < 3; i++) {
        azri_dial_begin(&d[i], &port, waker, "cache.example", 1);
        assert_int_equal(azri_dial_step(&d[i], 0, &s, NULL), AZREDIS_AGAIN);
    }
    assert_int_equal(azri_dial_timeout(&d[2], &e), AZREDIS_E_TIMEOUT);
    assert_non_null(strstr(e.message, "nor did it to earlier look-ups"));
    azri_dial_end(&d[0]);
    azri_dial_end(&d[1]);
}

/* The client is gone when the resolver answers at last. */
static void test_dial_client_gone(void **state) {
    azri_waker *w = azri_waker_new(NULL);
    azri_dial d;
    intptr_t s;
    (void)state;
    resolver_set(1, 0, "127.0.0.1", NULL);
    azri_dial_begin(&d, &port, w, "cache.example", 1);
    assert_int_equal(azri_dial_step(&d, 0, &s, NULL), AZREDIS_AGAIN);
    azri_dial_end(&d);
    azri_waker_unref(w);
    while (resolver_inside() < 1) usleep(1000);
    resolver_set(0, 0, "127.0.0.1", NULL);
    while (resolver_inside() > 0) usleep(1000);
    usleep(50000);                                           /* the thread frees both; the sanitizers look */
}

/* A resolver that sends "localhost" to another machine must not bring that machine into what is trusted here:
 * no socket is opened to it. */
static void test_dial_local_name(void **state) {
    azri_dial d;
    azredis_error e;
    intptr_t s = -1;
    uint16_t p = 0;
    int l = listener("127.0.0.1", &p, 5);
    (void)state;
    resolver_set(0, 0, "192.0.2.7", "2001:db8::1");
    azri_dial_begin(&d, &port, waker, "LocalHost", p);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_E_DNS);
    assert_non_null(strstr(e.message, "LocalHost: it is a name of this machine, but the resolver gives the address of "
                           "another"));
    assert_int_equal(d.next, 0);
    resolver_set(0, 0, "192.0.2.7", "127.0.0.1");            /* what is of this machine is taken at once */
    azri_dial_begin(&d, &port, waker, "localhost", p);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_OK);
    assert_int_equal(d.next, 1);
    close((int)s);
    azri_dial_begin(&d, &port, waker, "cache.example", p);   /* any other name may be anywhere */
    resolver_set(0, 0, "127.0.0.1", NULL);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_OK);
    close((int)s);
    close(l);
}

static void test_dial_ipv6(void **state) {
    struct sockaddr_in6 a;
    socklen_t n = sizeof a;
    azri_dial d;
    azredis_error e;
    intptr_t s = -1;
    int l = socket(AF_INET6, SOCK_STREAM, 0);
    (void)state;
    memset(&a, 0, sizeof a);
    a.sin6_family = AF_INET6;
    a.sin6_addr = in6addr_loopback;
    if (l < 0 || bind(l, (struct sockaddr *)&a, sizeof a) != 0) {
        if (l >= 0) close(l);
        print_message("no IPv6 on this machine\n");
        skip();
    }
    assert_int_equal(getsockname(l, (struct sockaddr *)&a, &n), 0);
    azri_dial_begin(&d, &port, waker, "::1", ntohs(a.sin6_port));
    assert_int_equal(finish(&d, &s, &e), AZREDIS_E_NET);
    assert_non_null(strstr(e.message, ": ::1: connection refused"));
    assert_int_equal(listen(l, 5), 0);
    azri_dial_begin(&d, &port, waker, "::1", ntohs(a.sin6_port));
    assert_int_equal(finish(&d, &s, &e), AZREDIS_OK);
    close((int)s);
    close(l);
}

static void test_dial_unix(void **state) {
    char dir[] = "/tmp/azredis-test-XXXXXX", path[64], longer[256];
    struct sockaddr_un u;
    azri_dial d;
    azredis_error e;
    intptr_t s = -1;
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    (void)state;
    assert_non_null(mkdtemp(dir));
    azri_fmt(path, sizeof path, "%s/s", dir);
    azri_dial_begin(&d, &port, waker, path, 0);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_E_NET);
    assert_non_null(strstr(e.message, path));
    assert_non_null(strstr(e.message, "no such file"));
    memset(&u, 0, sizeof u);
    u.sun_family = AF_UNIX;
    memcpy(u.sun_path, path, strlen(path));
    assert_int_equal(bind(l, (struct sockaddr *)&u, sizeof u), 0);
    assert_int_equal(listen(l, 5), 0);
    azri_dial_begin(&d, &port, waker, path, 0);
    assert_int_equal(finish(&d, &s, &e), AZREDIS_OK);
    close((int)s);
    close(l);
    unlink(path);
    rmdir(dir);
    memset(longer, 'x', sizeof longer);
    longer[0] = '/';
    longer[sizeof u.sun_path] = '\0';                        /* one too many: the path needs its NUL */
    azri_dial_begin(&d, &port, waker, longer, 0);
    assert_int_not_equal(finish(&d, &s, &e), AZREDIS_OK);
    assert_int_equal(e.os_errno, ENAMETOOLONG);
    assert_non_null(strstr(e.message, "too long"));
}

typedef struct hook_state { int calls, result_after, result; intptr_t closed; } hook_state;

static int hook(void *user, const char *host, uint16_t tcp_port, intptr_t *sock) {
    hook_state *h = (hook_state *)user;
    assert_string_equal(host, "cache.example");
    assert_int_equal(tcp_port, 10000);
    assert_int_equal(*sock, h->calls ? 55 : -1);          /* what the last step left there */
    *sock = 55;
    if (h->calls++ < h->result_after) return 0;
    *sock = 77;
    return h->result;
}

static void hook_close(void *user, intptr_t sock) { ((hook_state *)user)->closed = sock; }

static void test_dial_hook(void **state) {
    azredis_port mine;
    azri_port p;
    azri_dial d;
    azredis_error e;
    hook_state h = { 0, 2, 1, 0 };
    intptr_t s = -1;
    (void)state;
    memset(&mine, 0, sizeof mine);
    mine.user = &h;
    mine.connect = hook;
    mine.close = hook_close;
    azri_port_fill(&p, &mine);
    azri_dial_begin(&d, &p, waker, "cache.example", 10000);
    assert_int_equal(azri_dial_step(&d, 100, &s, &e), AZREDIS_AGAIN);
    assert_int_equal(azri_dial_deadline(&d), 120);
    assert_int_equal(azri_dial_step(&d, 120, &s, &e), AZREDIS_AGAIN);
    assert_int_equal(azri_dial_deadline(&d), 140);
    assert_int_equal(azri_dial_step(&d, 140, &s, &e), AZREDIS_OK);
    assert_int_equal(s, 77);
    azri_dial_end(&d);
    assert_int_equal(h.closed, 0);                         /* it is the caller's now */
    h.calls = 0;
    azri_dial_begin(&d, &p, waker, "cache.example", 10000);
    assert_int_equal(azri_dial_step(&d, 100, &s, &e), AZREDIS_AGAIN);
    azri_dial_end(&d);
    assert_int_equal(h.closed, 55);                        /* given up half way */
    h.calls = h.result_after = 0;
    h.result = -EHOSTUNREACH;
    azri_dial_begin(&d, &p, waker, "cache.example", 10000);
    assert_int_equal(azri_dial_step(&d, 160, &s, &e), AZREDIS_E_NET);
    assert_string_equal(e.message,
                        "connect to cache.example:10000: host unreachable (errno 113, from your connect hook)");
    assert_int_equal(e.os_errno, EHOSTUNREACH);
    azri_dial_end(&d);
}

/* ---- events -------------------------------------------------------------------------------------- */

static const char *line_of(const azredis_event *ev) {
    static char line[1024];
    size_t n = azri_event_line(line, sizeof line, ev, 1795428000);   /* 2026-11-23T10:00:00Z */
    assert_int_equal(n, strlen(line));
    return line;
}

static void test_event_lines(void **state) {
    azredis_event ev;
    azredis_error e;
    (void)state;
    memset(&ev, 0, sizeof ev);
    ev.type = AZREDIS_EV_LOG;
    ev.level = AZREDIS_LOG_WARNING;
    ev.number = 12;
    ev.text = "text";
    assert_string_equal(line_of(&ev), "2026-11-23T10:00:00Z warning 12 text\n");
    ev.dropped = 3;
    ev.level = (azredis_level)99;
    assert_string_equal(line_of(&ev), "2026-11-23T10:00:00Z log 12 text (3 events before this one dropped)\n");
    memset(&ev, 0, sizeof ev);
    ev.type = AZREDIS_EV_TOKEN_REFRESHED;
    ev.old_left_ms = 12300;
    ev.new_left_ms = 3599000;
    ev.next_try_ms = 2500000;
    assert_string_equal(line_of(&ev), "2026-11-23T10:00:00Z TokenRefreshed old 12.3 s new 3599 s next 2500 s\n");
    ev.old_left_ms = AZREDIS_UNKNOWN;
    ev.new_left_ms = 99999;
    ev.next_try_ms = -4250;
    assert_string_equal(line_of(&ev), "2026-11-23T10:00:00Z TokenRefreshed new 99.9 s next -4.2 s\n");
    memset(&ev, 0, sizeof ev);
    azri_fail(&e, AZREDIS_E_NET, "w", "connect: refused");
    ev.type = AZREDIS_EV_CONNECTION_FAILED;
    ev.endpoint = "cache.example:10000";
    ev.next_try_ms = 200;
    ev.old_left_ms = 5;                /* means nothing here */
    ev.error = &e;
    assert_string_equal(line_of(&ev),
                        "2026-11-23T10:00:00Z ConnectionFailed cache.example:10000 next 0.2 s: connect: refused\n");
    ev.type = AZREDIS_EV_CONNECTION_RESTORED;
    ev.new_left_ms = 100000;
    assert_string_equal(line_of(&ev), "2026-11-23T10:00:00Z ConnectionRestored cache.example:10000 new 100 s\n");
    ev.type = AZREDIS_EV_ERROR_MESSAGE;
    ev.endpoint = NULL;
    assert_string_equal(line_of(&ev), "2026-11-23T10:00:00Z ErrorMessage: connect: refused\n");
    ev.type = AZREDIS_EV_DEVICE_CODE;
    ev.new_left_ms = 900000;
    ev.text = "Enter the code A at https://b";
    assert_string_equal(line_of(&ev), "2026-11-23T10:00:00Z DeviceCode new 900 s: Enter the code A at https://b\n");
}

static void test_event_cut(void **state) {
    char text[3000], line[40];
    azredis_event ev;
    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    memset(&ev, 0, sizeof ev);
    ev.type = AZREDIS_EV_LOG;
    ev.text = text;
    ev.level = AZREDIS_LOG_ERROR;
    assert_int_equal(azri_event_line(line, sizeof line, &ev, 1795428000), sizeof line - 1);
    assert_string_equal(line, "2026-11-23T10:00:00Z error 0 xxxxxxxxx\n");
}

static void test_print_event(void **state) {
    char line[200] = "";
    azredis_event ev;
    FILE *f = tmpfile();
    (void)state;
    memset(&ev, 0, sizeof ev);
    ev.type = AZREDIS_EV_LOG;
    ev.level = AZREDIS_LOG_INFO;
    ev.number = 7;
    ev.text = "hello";
    azredis_print_event(&ev, f);
    rewind(f);
    assert_non_null(fgets(line, (int)sizeof line, f));
    assert_string_equal(line + 20, " info 7 hello\n");
    assert_int_equal(line[19], 'Z');
    assert_null(fgets(line, (int)sizeof line, f));
    fclose(f);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        T(test_clock), T(test_entropy), T(test_port_fill), T(test_getenv), T(test_getenv_of_a_stranger), T(test_bytes), T(test_net_fail),
        T(test_poll), T(test_lock), T(test_waker),
        T(test_dial_loopback), T(test_dial_refused), T(test_case34_dial_second_address), T(test_dial_stagger),
        T(test_dial_all_silent), T(test_dial_unknown_name), T(test_dial_hanging_resolver), T(test_dial_cap_message),
        T(test_dial_client_gone), T(test_dial_local_name), T(test_dial_ipv6), T(test_dial_unix), T(test_dial_hook),
        T(test_event_lines), T(test_event_cut), T(test_print_event)
    };
    if (argc == 2) _exit(seen_from_another_user(strcmp(argv[1], "other") == 0));   /* no leak check: it may not trace itself */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
