/* A port to lwIP's socket interface under an RTOS: every hook that AZREDIS_NO_OS wants, and a client that lives in
 * static memory. Three functions are your board's. Built by `make port-lwip`; on a device add it to your firmware with
 * LWIP_SOCKET, LWIP_DNS and LWIP_TCPIP_CORE_LOCKING at 1, and run redis_task as a task of its own. */
#define AZREDIS_NO_OS
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "lwip/dns.h"
#include "lwip/errno.h"
#include "lwip/sockets.h"
#include "lwip/sys.h"
#include "lwip/tcpip.h"

extern int board_random(void *out, size_t n);       /* 0: n bytes of the hardware's generator */
extern int64_t board_unix_time(void);               /* from SNTP or a battery clock; 0: not known yet */
extern void board_watchdog(void);
extern const char board_roots[4096];                /* root certificates, PEM */

typedef struct clock64 { uint32_t last, wraps; } clock64;

/* sys_now wraps after 49 days; the library asks at least every 30 s. */
static uint64_t now_ms(void *user) {
    clock64 *c = (clock64 *)user;
    uint32_t now = sys_now();
    if (now < c->last) c->wraps++;
    c->last = now;
    return (uint64_t)c->wraps << 32 | now;
}

static int64_t unix_time(void *user) { (void)user; return board_unix_time(); }
static int entropy(void *user, void *out, size_t n) { (void)user; return board_random(out, n); }
static void yield(void *user) { (void)user; board_watchdog(); }
static void close_socket(void *user, intptr_t sock) { (void)user; (void)lwip_close((int)sock); }

/* DNS answers from its table once the name is there; until then this is called again. */
static void dns_done(const char *name, const ip_addr_t *ip, void *arg) { (void)name; (void)ip; (void)arg; }

static int dial(uint16_t port, const ip_addr_t *ip) {
    struct sockaddr_in to = {.sin_len = sizeof to, .sin_family = AF_INET, .sin_port = lwip_htons(port)};
    int fd = lwip_socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return -errno;
    inet_addr_from_ip4addr(&to.sin_addr, ip_2_ip4(ip));
    if (lwip_fcntl(fd, F_SETFL, O_NONBLOCK) == 0 &&
        (lwip_connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS)) return fd;
    (void)lwip_close(fd);
    return -EIO;
}

static int connect_step(void *user, const char *host, uint16_t port, intptr_t *sock) {
    struct timeval none = {0, 0};
    socklen_t n = sizeof(int);
    ip_addr_t ip;
    fd_set set;
    int err = 0;
    (void)user;
    if (*sock < 0) {
        LOCK_TCPIP_CORE();
        err = dns_gethostbyname(host, &ip, dns_done, NULL);
        UNLOCK_TCPIP_CORE();
        if (err != ERR_OK) return err == ERR_INPROGRESS ? 0 : -EHOSTUNREACH;
        if ((err = dial(port, &ip)) < 0) return err;
        *sock = err;
    }
    FD_ZERO(&set);
    FD_SET((int)*sock, &set);
    if (lwip_select((int)*sock + 1, NULL, &set, NULL, &none) <= 0) return 0;
    if (lwip_getsockopt((int)*sock, SOL_SOCKET, SO_ERROR, &err, &n) != 0) err = EIO;
    if (err == 0) return 1;
    (void)lwip_close((int)*sock);
    return -err;
}

static int result(ssize_t k) { return k >= 0 ? (int)k : errno == EWOULDBLOCK ? 0 : -errno; }

static int send_some(void *user, intptr_t sock, const void *p, size_t n) {
    (void)user;
    return result(lwip_send((int)sock, p, n, 0));
}

static int recv_some(void *user, intptr_t sock, void *p, size_t n) {
    ssize_t k = lwip_recv((int)sock, p, n, 0);
    (void)user;
    return k == 0 ? -ECONNRESET : result(k);        /* 0 is the end of the stream */
}

static void wait_ready(void *user, azredis_fd *fds, size_t n, uint32_t ms) {
    struct timeval t = {(long)(ms / 1000), (long)(ms % 1000) * 1000};
    int top = -1;
    fd_set rd, wr;
    size_t i;
    (void)user;
    FD_ZERO(&rd);
    FD_ZERO(&wr);
    for (i = 0; i < n; i++) {
        if (fds[i].want & AZREDIS_READ) FD_SET((int)fds[i].sock, &rd);
        if (fds[i].want & AZREDIS_WRITE) FD_SET((int)fds[i].sock, &wr);
        if ((int)fds[i].sock > top) top = (int)fds[i].sock;
    }
    if (top < 0) sys_msleep(ms);
    else (void)lwip_select(top + 1, &rd, &wr, NULL, &t);
}

void redis_task(void *secret) {
    static clock64 ticks;
    static const azredis_port port = {&ticks, now_ms, unix_time, entropy, connect_step, send_some, recv_some, close_socket,
                                      NULL, NULL, NULL, wait_ready, NULL, yield};
    static uint64_t memory[72 * 1024 / sizeof(uint64_t)];
    azredis_auth_options id = {.identity = AZREDIS_ID_CLIENT_SECRET, .tenant_id = "11111111-2222-3333-4444-555555555555",
                               .client_id = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", .client_secret = secret};
    azredis_options o = {.host = "name.region.redis.azure.net", .identity = &id, .ca = board_roots,
                         .ca_len = sizeof board_roots, .port = &port, .memory = memory, .memory_size = sizeof memory,
                         .renewal = AZREDIS_RENEWAL_RECONNECT};
    azredis_client *c = azredis_open(&o);           /* NULL: azredis_memory_needed(&o) is more than that */
    for (;;) {
        (void)azredis_command(c, NULL, "INCR", "beats");
        (void)azredis_wait(c, 10000);
    }
}
