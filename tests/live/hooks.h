/* hooks.h - a port for AZREDIS_NO_OS as a user writes one, here over the sockets of this machine, with counters.
 * Include it after azredis_entra.h and live.h. */
#ifndef HOOKS_H
#define HOOKS_H

#include <netdb.h>
#include <sys/random.h>

typedef struct hooks {
    long   allocs, blocks, bytes;       /* outstanding: the last two */
    long   connects, closes, waits, yields, wakes;
    size_t most_fds;                    /* of one wait */
    int    locked, lock_calls;
    int    deaf;                        /* connect never gets there */
    int    no_clock;                    /* unix_time is not known */
} hooks;

static hooks hook;

static uint64_t hook_now(void *user) {
    (void)user;
    return (uint64_t)live_ms();
}

static int64_t hook_unix(void *user) {
    (void)user;
    return hook.no_clock ? 0 : (int64_t)time(NULL);
}

static int hook_entropy(void *user, void *out, size_t n) {
    (void)user;
    return getrandom(out, n, 0) == (ssize_t)n ? 0 : -1;
}

/* The socket waits in *sock until it is connected. */
static int hook_connect(void *user, const char *host, uint16_t tcp_port, intptr_t *sock) {
    struct pollfd p;
    int err = 0;
    socklen_t n = sizeof err;
    (void)user;
    if (*sock == -1) {
        struct addrinfo *a = NULL, hint = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET};
        char port[8];
        snprintf(port, sizeof port, "%u", tcp_port);
        if (getaddrinfo(host, port, &hint, &a) != 0)
            return -ENOENT;
        *sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        hook.connects++;
        if (connect((int)*sock, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS)
            err = errno;
        freeaddrinfo(a);
    }
    p.fd = (int)*sock;
    p.events = POLLOUT;
    if (hook.deaf || (!err && poll(&p, 1, 0) == 0))
        return 0;
    if (!err)
        getsockopt((int)*sock, SOL_SOCKET, SO_ERROR, &err, &n);
    if (!err)
        return 1;
    close((int)*sock);
    hook.closes++;
    return -err;
}

static int hook_send(void *user, intptr_t sock, const void *p, size_t n) {
    ssize_t k = send((int)sock, p, n, MSG_NOSIGNAL);
    (void)user;
    return k >= 0 ? (int)k : errno == EAGAIN ? 0 : -errno;
}

static int hook_recv(void *user, intptr_t sock, void *p, size_t n) {
    ssize_t k = recv((int)sock, p, n, 0);
    (void)user;
    return k > 0 ? (int)k : k == 0 ? -1 : errno == EAGAIN ? 0 : -errno;
}

static void hook_close(void *user, intptr_t sock) {
    (void)user;
    hook.closes++;
    close((int)sock);
}

static void *hook_alloc(void *user, size_t n) {
    void *p = malloc(n);
    (void)user;
    if (!p)
        return NULL;
    memset(p, 0xa5, n);                 /* nobody may count on zeros */
    hook.allocs++;
    hook.blocks++;
    hook.bytes += (long)n;
    return p;
}

static void hook_free(void *user, void *p, size_t n) {
    (void)user;
    hook.blocks--;
    hook.bytes -= (long)n;
    memset(p, 0x5a, n);                 /* n must be what was asked for, and nobody may look again */
    free(p);
}

static void hook_lock(void *user, int enter) {
    (void)user;
    hook.lock_calls++;
    hook.locked += enter ? 1 : -1;
}

static void hook_wait(void *user, azredis_fd *fds, size_t n, uint32_t ms) {
    struct pollfd p[8];
    size_t i;
    (void)user;
    hook.waits++;
    assert_true(n <= 8);
    assert_int_equal(hook.locked, 0);
    if (n > hook.most_fds)
        hook.most_fds = n;
    for (i = 0; i < n; i++) {
        p[i].fd = (int)fds[i].sock;
        p[i].events = (short)((fds[i].want & AZREDIS_READ ? POLLIN : 0) | (fds[i].want & AZREDIS_WRITE ? POLLOUT : 0));
    }
    poll(p, n, (int)ms);
}

static void hook_wake(void *user) {
    (void)user;
    hook.wakes++;
}

static void hook_yield(void *user) {
    (void)user;
    hook.yields++;
}

static const azredis_port hook_port = {NULL, hook_now, hook_unix, hook_entropy, hook_connect, hook_send, hook_recv, hook_close,
                                       hook_alloc, hook_free, hook_lock, hook_wait, hook_wake, hook_yield};

/* ---- options of a device: nothing comes from the environment by itself ------------------------- */

static azredis_auth_options device_id;
static char device_ca[65536];

static azredis_options device_options(live *l) {
    azredis_options o = {0};
    const char *path = getenv("SSL_CERT_FILE");
    FILE *f = path ? fopen(path, "re") : NULL;
    size_t n = f ? fread(device_ca, 1, sizeof device_ca - 1, f) : 0;
    if (f)
        fclose(f);
    if (!n)
        fail_msg("the emulator names no root certificate");
    device_ca[n] = 0;
    memset(&device_id, 0, sizeof device_id);
    device_id.identity = AZREDIS_ID_CLIENT_SECRET;
    device_id.tenant_id = getenv("AZURE_TENANT_ID");
    device_id.client_id = getenv("AZURE_CLIENT_ID");
    device_id.client_secret = getenv("AZURE_CLIENT_SECRET");
    device_id.authority_host = getenv("AZURE_AUTHORITY_HOST");
    o.host = l->endpoint;
    o.identity = &device_id;
    o.ca = device_ca;
    o.ca_len = n + 1;
    o.port = &hook_port;
    return o;
}

#endif
