/*
 * emulator.c - Microsoft Entra ID and Azure Managed Redis on a desk.
 *
 * Starts a real redis-server and puts these in front of it:
 *   gateway    TLS, Redis that takes "AUTH <object id> <token>" and, as Azure does, closes a
 *              connection when the last token it accepted expires
 *   authority  HTTPS, the token endpoint of Entra ID: client_credentials with a secret, with an
 *              assertion signed by the key of a certificate, or with one of a registered issuer
 *              (workload identity, managed identity of an app); device codes and refresh tokens
 *   imds, appservice, msi, arc, cloudshell, fabric, ml
 *              the endpoints that give managed identities their tokens, one port each
 *   aks        HTTPS with a CA and a name (SNI) of its own: the token endpoint of an AKS identity binding
 *   proxy      HTTP CONNECT, for programs that reach the authority through one
 *   admin      plain HTTP on 127.0.0.1, for tests: counters, faults, tokens, requests seen
 *
 *   cc -std=gnu11 -O2 -Wall -Wextra -Werror emulator.c -o emulator \
 *      -lmicrohttpd -lgnutls -ljansson -lssl -lcrypto -lpthread
 *   ./emulator --env-file /tmp/emulator.env        (Ctrl+C ends it and leaves nothing behind)
 *   . /tmp/emulator.env                            (in another shell: points any Azure SDK at it)
 *   . /tmp/emulator.env.imds                       (or: as if on a virtual machine; see ENVIRONMENTS)
 *
 * Each endpoint checks what Azure checks and answers with Azure's bodies; each identity has an
 * object id of its own, and the gateway lets all of them in. What it does not imitate: Azure keeps a
 * managed identity's token for hours and gives it again, here each request gets a new one (fault "same").
 *
 * It includes nothing of azredis_entra.h: a mistake must not stand on both sides of a test.
 * For the same reason the gateway is no second Redis. The hash of each issued token is entered
 * as an ACL password of the real server, AUTH is forwarded as it came, and the real server
 * answers it. The gateway reads requests, only far enough to find AUTH and HELLO.
 *
 * Threads: main (accepts, signals, owner of the redis-server process), one per connection of the
 * gateway and of the proxy, one that retires tokens and renews federated ones, and those of
 * libmicrohttpd. Locks, taken in this order: listen_lock is held while an endpoint begins or ends to
 * listen, g.redis_lock over commands to the real server, g.lock over memory only.
 *
 * The parts in emulator/ are included where they belong: it is one translation unit.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/gnutls.h>
#include <jansson.h>
#include <microhttpd.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#define ADMIN_USER          "emulator-admin"
#define SCOPE_URL           "https://redis.azure.com"
#define SCOPE_GUID          "acca5fbb-b7e4-4009-81f1-37e38fd66d78"
#define NEVER               INT64_MAX
#define BODY_MAX            (64 * 1024)  /* of an HTTP request */
#define IN_CAP              (256 * 1024) /* per connection, from the client */
#define IN_RESERVE          4096         /* room kept free to put a command in */
#define OUT_CAP             (64 * 1024)  /* per connection, from the server */
#define AUTH_FRAME_MAX      (128 * 1024) /* a longer AUTH is forwarded unread: the server refuses it */
#define UNAUTHENTICATED_MAX 16384        /* the server's own limit of an argument before AUTH */
#define RECORDS_MAX         100000       /* AUTH and connection records kept, each */
#define TOKEN_SIZE_MAX      (1024 * 1024)

#include "emulator/faults.h"

/* ---- State ------------------------------------------------------------------------------ */

/* Who may sign in. Each has an object id of its own, and where it applies an application (client) id. */
enum who {
    P_SECRET, P_WORKLOAD, P_EXCHANGE, P_CERTIFICATE, P_SUBJECT, P_DEVICE, P_BINDING, P_IMDS, P_APPSERVICE, P_MSI,
    P_ARC, P_FABRIC, P_ML, P_ML_DEFAULT, P_CLOUDSHELL, P_USER_1, P_USER_2, P_COUNT
};

static const struct {
    const char *name;     /* EMULATOR_OID_<name> in the settings */
    const char *resource; /* of a managed identity: what follows the resource group in its ARM id */
} WHO[P_COUNT] = {
    [P_SECRET] = {"environment", NULL},
    [P_WORKLOAD] = {"workload", NULL},
    [P_EXCHANGE] = {"exchange", NULL},
    [P_CERTIFICATE] = {"certificate", NULL},
    [P_SUBJECT] = {"subject", NULL},
    [P_DEVICE] = {"device", NULL},
    [P_BINDING] = {"binding", NULL},
    [P_IMDS] = {"imds", "Microsoft.Compute/virtualMachines/vm"},
    [P_APPSERVICE] = {"appservice", "Microsoft.Web/sites/app"},
    [P_MSI] = {"msi", "Microsoft.Web/sites/old-app"},
    [P_ARC] = {"arc", "Microsoft.HybridCompute/machines/edge"},
    [P_FABRIC] = {"fabric", "Microsoft.ServiceFabric/managedclusters/cluster"},
    [P_ML] = {"ml_system", "Microsoft.MachineLearningServices/workspaces/ml"},
    [P_ML_DEFAULT] = {"ml", "Microsoft.ManagedIdentity/userAssignedIdentities/ml-default"},
    [P_CLOUDSHELL] = {"cloudshell", NULL},
    [P_USER_1] = {"user", "Microsoft.ManagedIdentity/userAssignedIdentities/redis-id"},
    /* The blank has to be encoded by who asks for it. */
    [P_USER_2] = {"user2", "Microsoft.ManagedIdentity/userAssignedIdentities/my id"},
};

struct principal {
    char client[37], oid[37], resource[192];
    char *last_token; /* under g.lock */
    int64_t last_expires;
};

struct request;
typedef enum MHD_Result (*answer_fn)(struct MHD_Connection *, const char *url, const char *method,
                                     struct request *);

struct endpoint {
    answer_fn answer;
    int port;
    struct MHD_Daemon *daemon[2];
    const struct identity *tls; /* NULL: plain HTTP */
    bool both, up;              /* on ::1 too; listening. Under listen_lock once all run */
    int id; /* of enum endpoint_id; -1: admin */
    /* Under g.lock. */
    long connections, requests, answers;
    json_t *last; /* the last request */
    char header[41]; /* what X-IDENTITY-HEADER, secret or Secret has to say */
};

enum why { W_OPEN, W_CLIENT, W_SERVER, W_EXPIRED, W_FAULT, W_SHUTDOWN };
static const char *const WHY[] = {"open", "client", "server", "expired", "fault", "shutdown"};

struct token {
    char hash[65]; /* SHA-256 in hex: what the real server knows of it */
    char oid[37];
    int64_t expires;
    bool known; /* entered in the real server's ACL */
};

struct auth_record {
    int64_t at, delayed;
    long connection;
    char user[64];
    bool accepted;
    double left; /* < 0: first one of its connection */
};

struct conn_record { int64_t opened, closed; enum why why; };

struct conn;

struct rconn {
    int fd;
    size_t pos, len;
    char buf[16384];
}; /* a connection to the real server */

static struct {
    /* Set at start, then only read. */
    double ttl;
    int port;
    const char *redis_path, *env_path, *gateway_cert, *authority_cert, *tls, *ciphers;
    bool quiet, access_key_on;
    char dir[PATH_MAX], env_file[PATH_MAX + 8], socket[PATH_MAX + 16], redis_bin[PATH_MAX];
    const char *arc_dir, *proxy_login;
    double assertion_ttl;
    char tenant[37], subscription[37], secret[41], expired_secret[41], admin_password[41], access_key[45],
        pfx_password[21];
    struct principal who[P_COUNT];
    char authority_url[64], kid[44], issuer[80], thumbprint[41];
    int gateway_port;
    EVP_PKEY *jwt_key, *issuer_key; /* of Entra's tokens, of the cluster's service accounts */
    X509 *ca;
    SSL_CTX *ssl_ctx; /* under g.lock */
    int64_t start;
    int stop_fd; /* readable once the emulator ends: every sleep watches it */
    int wake_fd; /* wakes main for a restart of redis-server */
    /* Only main uses these. */
    pid_t redis_pid;
    int gateway_fd[2];
    int proxy_fd[2];
    bool dir_made;

    pthread_mutex_t redis_lock; /* guards redis, and the ACL's agreement with the token list */
    struct rconn redis;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct fault faults[FAULT_COUNT];
    struct endpoint endpoint[E_COUNT], admin;
    struct token *tokens;
    size_t token_count, token_room;
    struct conn *conns;
    long conn_threads;
    long restarts_asked, restarts_done;
    bool restart_failed;
    long token_requests, tokens_issued, token_errors, auths_total, auths_accepted, reauths_accepted,
        connections_opened, connections_open, connections_expired, trap_hits, tls_full, tls_resumed;
    long fabric_secrets, proxy_tunnels, proxy_plain;
    int64_t assertion_renew; /* when the token files are written again */
    struct auth_record *auths;
    struct conn_record *records;
    size_t auth_count, auth_room, record_count, record_room;
} g = {
    .ttl = 3600,
    .port = 10000,
    .gateway_cert = "good",
    .authority_cert = "good",
    .gateway_fd = {-1, -1},
    .proxy_fd = {-1, -1},
    .assertion_ttl = 3600,
    .redis = {.fd = -1},
    .stop_fd = -1,
    .redis_lock = PTHREAD_MUTEX_INITIALIZER,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .changed = PTHREAD_COND_INITIALIZER,
};

/* ---- Small things ----------------------------------------------------------------------- */

#define PRINTF_LIKE(a, b) __attribute__((format(printf, a, b)))

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The end for any reason but a signal: one sentence, status 1; atexit tidies up. */
static void die(const char *format, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("emulator: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void bad_usage(const char *format, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
static void bad_usage(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("emulator: ", stderr);
    vfprintf(stderr, format, args);
    fputs(" (see --help)\n", stderr);
    va_end(args);
    exit(2);
}

/* One line of the event log. Callers never pass a token, a secret or a key. */
static void say(const char *format, ...) PRINTF_LIKE(1, 2);
static void say(const char *format, ...) {
    char line[512], when[16];
    struct timespec t;
    struct tm tm;
    va_list args;
    if (g.quiet) return;
    clock_gettime(CLOCK_REALTIME, &t);
    strftime(when, sizeof when, "%H:%M:%S", gmtime_r(&t.tv_sec, &tm));
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    printf("%s.%03ldZ %s\n", when, t.tv_nsec / 1000000, line);
    fflush(stdout);
}

static void *must(void *p) {
    if (!p) {
        fputs("emulator: out of memory\n", stderr);
        _exit(1);
    }
    return p;
}

static char *format_text(const char *format, ...) PRINTF_LIKE(1, 2);
static char *format_text(const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0) text = NULL;
    va_end(args);
    return must(text);
}

/* Makes room for one more element; false when `cap` elements are there already. */
static bool make_room(void *array, size_t count, size_t *room, size_t size, size_t cap) {
    void **items = array;
    if (count >= cap) return false;
    if (count == *room) {
        *room = *room ? *room * 2 : 64;
        *items = must(realloc(*items, *room * size));
    }
    return true;
}

/* Sleeps; true when the emulator is about to end. */
static bool nap(int64_t ms) {
    struct pollfd p = {.fd = g.stop_fd, .events = POLLIN};
    return poll(&p, 1, ms > INT_MAX ? INT_MAX : ms < 0 ? 0 : (int)ms) > 0;
}

static void random_bytes(void *out, size_t n) {
    if (RAND_bytes(out, (int)n) != 1) die("no random numbers to be had");
}

static void random_text(char *out, size_t n, const char *alphabet) {
    unsigned char raw[64];
    size_t i, letters = strlen(alphabet);
    random_bytes(raw, n);
    for (i = 0; i < n; i++) out[i] = alphabet[raw[i] % letters];
    out[n] = 0;
}

static void random_guid(char out[37]) {
    unsigned char b[16];
    random_bytes(b, sizeof b);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static void sha256_hex(const void *data, size_t n, char out[65]) {
    unsigned char md[SHA256_DIGEST_LENGTH];
    int i;
    SHA256(data, n, md);
    for (i = 0; i < SHA256_DIGEST_LENGTH; i++) snprintf(out + 2 * i, 3, "%02x", md[i]);
}

static size_t base64url_length(size_t n) { return n / 3 * 4 + (n % 3 ? n % 3 + 1 : 0); }

static char *base64url(const void *data, size_t n) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const unsigned char *p = data;
    size_t i, length = base64url_length(n);
    char *out = must(malloc(length + 1));
    for (i = 0; i < length; i++) {
        size_t bit = i * 6, byte = bit / 8;
        unsigned two = (unsigned)p[byte] << 8 | (byte + 1 < n ? p[byte + 1] : 0u);
        out[i] = digit[two >> (10 - bit % 8) & 63];
    }
    out[length] = 0;
    return out;
}

#include "emulator/gateway.h"

/* ---- Faults: arm and take --------------------------------------------------------------- */

static void fault_name(int id, char out[40]) {
    int at = id - F_COUNT;
    if (at < 0)
        snprintf(out, 40, "%s", FAULTS[id].name);
    else
        snprintf(out, 40, "%s-%s", ENDPOINTS[at / K_COUNT], KINDS[at % K_COUNT].name);
}

static bool is_kind(int id, enum fault_kind kind) {
    return id >= F_COUNT && (id - F_COUNT) % K_COUNT == (int)kind;
}

static char fault_value(int id) {
    return id < F_COUNT ? FAULTS[id].value : KINDS[(id - F_COUNT) % K_COUNT].value;
}

static int fault_find(const char *wanted) {
    char name[40];
    int i, at;
    for (i = 0; i < FAULT_COUNT; i++) {
        at = i - F_COUNT;
        if (at >= 0 && !(KINDS[at % K_COUNT].at & AT(at / K_COUNT))) continue;
        fault_name(i, name);
        if (strcmp(name, wanted) == 0) return i;
    }
    return -1;
}

static bool parse_number(const char *text, long *out) {
    char *end;
    if (!isdigit((unsigned char)*text) || strlen(text) > 12) return false;
    *out = strtol(text, &end, 10);
    return *end == 0;
}

/* `value` and `count` may be NULL. Returns a complaint, or NULL when the fault is armed. */
static const char *fault_arm(int id, const char *value, const char *count) {
    struct fault *f = &g.faults[id];
    long v = 0, n = 1;
    if (value && strncmp(value, "AADSTS", 6) == 0) value += 6;
    if (fault_value(id) == 'n' && (!value || !*value)) return "this fault needs a number: NAME=VALUE";
    if (fault_value(id) == '-' && value && *value) return "this fault takes no value";
    if (value && *value && !parse_number(value, &v)) return "the value of a fault is a whole number";
    if ((id == F_TOKEN_SIZE || is_kind(id, K_SIZE)) && v > TOKEN_SIZE_MAX)
        return "a token has at most 1048576 characters";
    if (count && strcmp(count, "*") == 0)
        n = -1;
    else if (count && (!parse_number(count, &n) || n == 0))
        return "the count of a fault is a whole number above 0, or *";
    pthread_mutex_lock(&g.lock);
    f->asked = n < 0 || f->asked < 0 ? -1 : f->asked + n;
    f->left = n;
    f->value = v;
    f->armed++;
    pthread_mutex_unlock(&g.lock);
    return NULL;
}

/* Uses one charge of the fault, if there is one. g.lock is held. */
static bool fault_take_locked(int id, long *value) {
    struct fault *f = &g.faults[id];
    if (f->left == 0) return false;
    if (f->left > 0) f->left--;
    f->fired++;
    if (value) *value = f->value;
    return true;
}

static bool fault_take(int id, long *value) {
    bool taken;
    char name[40];
    pthread_mutex_lock(&g.lock);
    taken = fault_take_locked(id, value);
    pthread_mutex_unlock(&g.lock);
    fault_name(id, name);
    if (taken) say("fault %s fired", name);
    return taken;
}

#include "emulator/dials.h"
#include "emulator/keys.h"
#include "emulator/redis.h"
#include "emulator/tokens.h"
#include "emulator/connection.h"
#include "emulator/http.h"

/* ---- The endpoints ---------------------------------------------------------------------- */

#include "emulator/errors.h"
#include "emulator/sts.h"
#include "emulator/answer.h"
#include "emulator/federation.h"
#include "emulator/certificate.h"
#include "emulator/device.h"
#include "emulator/authority.h"
#include "emulator/managed.h"
#include "emulator/proxy.h"
#include "emulator/admin.h"

/* ---- Start and end ---------------------------------------------------------------------- */

static int listen_on(bool v6, int port) {
    struct sockaddr_in a4 = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 a6 = {
        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr *a = v6 ? (struct sockaddr *)&a6 : (struct sockaddr *)&a4;
    int one = 1, fd;
    fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (v6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, a, v6 ? sizeof a6 : sizeof a4) || listen(fd, 128)) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/*
 * Listens on 127.0.0.1 and, where the machine has it, on ::1 with the same port: "localhost" may
 * mean either. Port 0 takes one that is free on both. Returns the port.
 */
static int listen_local(int port, int fd[2], bool v6) {
    struct sockaddr_in a = {0};
    socklen_t n = sizeof a;
    int tries;
    fd[1] = -1;
    for (tries = 0; tries < 50; tries++) {
        fd[0] = listen_on(false, port);
        if (fd[0] < 0) break;
        if (getsockname(fd[0], (struct sockaddr *)&a, &n) != 0) break;
        if (v6) fd[1] = listen_on(true, ntohs(a.sin_port));
        if (!v6 || fd[1] >= 0 || errno != EADDRINUSE) return ntohs(a.sin_port);
        close(fd[0]);
        if (port) break;
    }
    die("cannot listen on port %d: %s", port, strerror(errno));
}

static struct MHD_Daemon *http_start(int fd, struct endpoint *e, const struct identity *id) {
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL;
    char *key = id ? pem_text(NULL, id->key) : NULL, *cert = id ? pem_chain(id) : NULL;
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_KEY, 0, key}, {MHD_OPTION_HTTPS_MEM_CERT, 0, cert}, {MHD_OPTION_END, 0, NULL}};
    struct MHD_Daemon *d = MHD_start_daemon(
        flags | (id ? MHD_USE_TLS : 0), 0, on_http_accept, e, on_http, e, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_NOTIFY_COMPLETED, on_http_done, NULL, MHD_OPTION_URI_LOG_CALLBACK, on_http_uri, e,
        MHD_OPTION_CONNECTION_TIMEOUT, 120u, MHD_OPTION_ARRAY, id ? tls : &tls[2], MHD_OPTION_END);
    free(key);
    free(cert);
    if (!d) die("libmicrohttpd does not start%s", id ? " with TLS" : "");
    return d;
}

static void make_who(void) {
    int i;
    random_guid(g.tenant);
    random_guid(g.subscription);
    for (i = 0; i < P_COUNT; i++) {
        struct principal *p = &g.who[i];
        random_guid(p->client);
        random_guid(p->oid);
        if (WHO[i].resource)
            snprintf(p->resource, sizeof p->resource, "/subscriptions/%s/resourcegroups/rg/providers/%s",
                     g.subscription, WHO[i].resource);
    }
    for (i = E_APPSERVICE; i <= E_ML; i++)
        if (AT(i) & (AT(E_APPSERVICE) | AT(E_MSI) | AT(E_FABRIC) | AT(E_ML))) new_header(g.endpoint[i].header);
    snprintf(g.issuer, sizeof g.issuer, "https://oidc.emulator.test/%s/", g.subscription);
}

static void make_secrets(void) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    char alphabet[80];
    make_who();
    random_text(g.admin_password, 40, letters);
    random_text(g.pfx_password, 20, letters);
    random_text(g.access_key, 43, letters);
    g.access_key[43] = '=';
    /* Of the kind Azure makes; each character that needs care in a form or a shell occurs. */
    snprintf(alphabet, sizeof alphabet, "%s~._-", letters);
    random_text(g.secret, 40, alphabet);
    memcpy(g.secret + 3, "8Q~", 3);
    memcpy(g.secret + 20, ".", 1);
    memcpy(g.secret + 28, "_-", 2);
    if (!isalnum((unsigned char)g.secret[0])) g.secret[0] = 'e';
    random_text(g.expired_secret, 40, letters);
}

static void make_kid(void) {
    unsigned char *der = NULL, md[SHA256_DIGEST_LENGTH];
    int n = i2d_PUBKEY(g.jwt_key, &der);
    char *text;
    SHA256(der, (size_t)n, md);
    text = base64url(md, 20);
    snprintf(g.kid, sizeof g.kid, "%s", text);
    free(text);
    OPENSSL_free(der);
}

static void make_dir(void) {
    const char *base = getenv("TMPDIR");
    snprintf(g.dir, sizeof g.dir, "%s/azredis-emulator-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(g.dir)) /* mode 0700 */
        die("cannot make a directory like %s: %s", g.dir, strerror(errno));
    g.dir_made = true;
    snprintf(g.socket, sizeof g.socket, "%s/redis.sock", g.dir);
    if (strlen(g.socket) >= sizeof((struct sockaddr_un *)0)->sun_path)
        die("TMPDIR is too long for a socket: %s", g.socket);
    if (!g.arc_dir) {
        g.arc_dir = format_text("%s/arc-tokens", g.dir);
        if (mkdir(g.arc_dir, 0700) != 0) die("cannot make %s: %s", g.arc_dir, strerror(errno));
    }
    if (g.env_path)
        snprintf(g.env_file, sizeof g.env_file, "%s", g.env_path);
    else
        snprintf(g.env_file, sizeof g.env_file, "%s/env", g.dir);
}

#include "emulator/settings.h"

static void screen(void) {
    if (g.quiet) return;
    printf("Redis      localhost:%d   TLS, AUTH <object id> <token>\n"
           "authority  %s\n"
           "admin      http://127.0.0.1:%d\n"
           "settings   . %s\n"
           "A token lives %g s. Ctrl+C ends.\n\n",
           g.gateway_port, g.authority_url, g.admin.port, g.env_file, g.ttl);
    screen_more();
    fflush(stdout);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

/* At every exit, whatever stands by then. */
static void tidy(void) {
    remove_settings();
    arc_forget();
    redis_kill(SIGTERM);
    if (g.dir_made) nftw(g.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Those that listen no more; they serve what they had accepted, and end with us. */
static struct retired { struct MHD_Daemon *daemon; int fd; } *retired;
static size_t retired_count, retired_room;
static pthread_mutex_t listen_lock = PTHREAD_MUTEX_INITIALIZER;

static void stop_all(void) {
    struct timespec until;
    int i;
    eventfd_write(g.stop_fd, 1);
    for (i = 0; i < 2; i++) {
        if (g.gateway_fd[i] >= 0) close(g.gateway_fd[i]);
        if (g.proxy_fd[i] >= 0) close(g.proxy_fd[i]);
    }
    conns_tell(W_SHUTDOWN, -1);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&g.lock);
    while (g.conn_threads > 0 && pthread_cond_timedwait(&g.changed, &g.lock, &until) == 0) {}
    pthread_mutex_unlock(&g.lock);
    MHD_stop_daemon(g.admin.daemon[0]); /* first: it can make others listen */
    for (i = 0; i < 2 * E_COUNT; i++)
        if (g.endpoint[i / 2].daemon[i % 2]) MHD_stop_daemon(g.endpoint[i / 2].daemon[i % 2]);
    while (retired_count) {
        MHD_stop_daemon(retired[--retired_count].daemon);
        close(retired[retired_count].fd);
    }
}

static int block_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* every later thread inherits it */
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* False: it is time to end. */
static bool on_signal(int fd) {
    struct signalfd_siginfo s;
    while (read(fd, &s, sizeof s) == (ssize_t)sizeof s) {
        if (s.ssi_signo != SIGCHLD) return false;
        if (g.redis_pid > 0 && waitpid(g.redis_pid, NULL, WNOHANG) == g.redis_pid) {
            g.redis_pid = 0;
            say("redis-server has ended; POST /redis/restart starts it again");
        }
    }
    return true;
}

static void serve(int signals) {
    struct pollfd p[6] = {{.fd = signals, .events = POLLIN},
                          {.fd = g.wake_fd, .events = POLLIN},
                          {.fd = g.gateway_fd[0], .events = POLLIN},
                          {.fd = g.gateway_fd[1], .events = POLLIN},
                          {.fd = g.proxy_fd[0], .events = POLLIN},
                          {.fd = g.proxy_fd[1], .events = POLLIN}};
    eventfd_t woken;
    int i;
    for (;;) {
        if (poll(p, 6, -1) < 0) continue;
        if (p[0].revents && !on_signal(signals)) return;
        if (p[1].revents && eventfd_read(g.wake_fd, &woken) == 0) redis_restart();
        for (i = 2; i < 4; i++)
            if (p[i].revents) gateway_accept(p[i].fd);
        for (i = 4; i < 6; i++)
            if (p[i].revents) proxy_accept(p[i].fd);
    }
}

struct identities { struct identity gateway, authority, fabric, aks; };

static void write_ca(const char *file, X509 *ca) {
    char *path = format_text("%s/%s", g.dir, file), *pem = pem_text(ca, NULL);
    write_file(path, pem);
    free(path);
    free(pem);
}

/* Service Fabric's certificate is trusted by its print only, and its name is none that anyone asks for. */
static void make_fabric(struct identities *all) {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned i, n = 0;
    all->fabric = new_small("fabric", "DNS:fabric.emulator.test", NULL, NULL);
    tls_must(X509_digest(all->fabric.cert, EVP_sha1(), md, &n) == 1, "SHA-1");
    for (i = 0; i < n && i < 20; i++) snprintf(g.thumbprint + 2 * i, 3, "%02X", md[i]);
}

static void make_aks(struct identities *all) {
    struct identity ca = new_small("emulator AKS CA", NULL, NULL, NULL);
    all->aks = new_small("aks", "DNS:" AKS_SNI, ca.cert, ca.key);
    write_ca("aks-ca.pem", ca.cert);
    free_identity(&ca);
}

static void make_tls(struct identities *all) {
    bool large = strcmp(g.gateway_cert, "long-chain") == 0 || strcmp(g.authority_cert, "long-chain") == 0;
    EVP_PKEY *ca_key = new_key(false, large);
    X509 *ca = new_cert(ca_key, "emulator CA", NULL, NULL, NULL, -86400, 30 * 86400);
    all->gateway = new_identity(g.gateway_cert, ca, ca_key);
    all->authority = new_identity(g.authority_cert, ca, ca_key);
    write_ca("ca.pem", ca);
    make_fabric(all);
    make_aks(all);
    gateway_tls(&all->gateway);
    g.jwt_key = new_key(false, false);
    g.ca = ca;
    g.issuer_key = ca_key; /* the CA signs no more, and to make one more key takes a tenth of a second */
    make_kid();
    make_client_cert();
}

static void start_endpoint(struct endpoint *e, int id, answer_fn answer, int offset, bool both,
                           const struct identity *tls) {
    int fd[2], i;
    e->id = id;
    e->answer = answer;
    e->tls = tls;
    e->both = both;
    e->up = true;
    e->port = listen_local(g.port ? g.port + offset : 0, fd, both);
    for (i = 0; i < 2; i++)
        if (fd[i] >= 0) e->daemon[i] = http_start(fd[i], e, tls);
    if (id >= 0 && fault_take(FAULT(id, K_DOWN), NULL)) endpoint_listen(e, false);
}

/* A listening socket that is shut down refuses at once. It is closed later: its daemon may still look at it. */
static void endpoint_listen(struct endpoint *e, bool up) {
    int fd[2], i;
    pthread_mutex_lock(&listen_lock);
    for (i = 0; !up && e->up && i < 2; i++) {
        if (!e->daemon[i]) continue;
        make_room(&retired, retired_count, &retired_room, sizeof *retired, SIZE_MAX);
        retired[retired_count].daemon = e->daemon[i];
        retired[retired_count].fd = MHD_quiesce_daemon(e->daemon[i]);
        shutdown(retired[retired_count++].fd, SHUT_RDWR);
        e->daemon[i] = NULL;
    }
    if (up && !e->up) {
        listen_local(e->port, fd, e->both);
        for (i = 0; i < 2; i++)
            if (fd[i] >= 0) e->daemon[i] = http_start(fd[i], e, e->tls);
    }
    e->up = up;
    pthread_mutex_unlock(&listen_lock);
}

static void start_servers(const struct identities *all) {
    static const answer_fn managed[E_COUNT] = {
        [E_IMDS] = answer_imds, [E_APPSERVICE] = answer_appservice, [E_MSI] = answer_msi,
        [E_ARC] = answer_arc,   [E_CLOUDSHELL] = answer_cloudshell, [E_FABRIC] = answer_fabric,
        [E_ML] = answer_ml,     [E_AKS] = answer_aks};
    int i;
    g.gateway_port = listen_local(g.port, g.gateway_fd, true);
    start_endpoint(&g.endpoint[E_TOKEN], E_TOKEN, answer_authority, 1, true, &all->authority);
    snprintf(g.authority_url, sizeof g.authority_url, "https://localhost:%d/", g.endpoint[E_TOKEN].port);
    start_endpoint(&g.admin, -1, answer_admin, 2, false, NULL);
    for (i = E_IMDS; i <= E_AKS; i++)
        start_endpoint(&g.endpoint[i], i, managed[i], i + 2, false,
                       i == E_FABRIC ? &all->fabric : i == E_AKS ? &all->aks : NULL);
    g.endpoint[E_PROXY].id = E_PROXY;
    g.endpoint[E_DEVICE].id = E_DEVICE;
    g.endpoint[E_PROXY].port = listen_local(g.port ? g.port + E_PROXY + 2 : 0, g.proxy_fd, false);
}

#include "emulator/options.h"

int main(int argc, char **argv) {
    struct identities all;
    int signals;
    dials_reset();
    parse_flags(argc, argv);
    signals = block_signals();
    g.start = now_ms();
    g.stop_fd = eventfd(0, EFD_CLOEXEC);
    g.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    find_redis();
    atexit(tidy);
    make_secrets();
    make_dir();
    make_tls(&all);
    redis_start();
    start_servers(&all);
    write_assertions();
    if (!start_thread(retire_main, NULL)) die("cannot start a thread");
    write_settings();
    screen();
    serve(signals);
    stop_all();
    X509_free(g.ca);
    free_identity(&all.gateway);
    free_identity(&all.authority);
    free_identity(&all.fabric);
    free_identity(&all.aks);
    return 0;
}
