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

/* ---- Faults ----------------------------------------------------------------------------- */

enum fault_id {
    F_TOKEN_500, F_TOKEN_429, F_TOKEN_HANG, F_TOKEN_GARBAGE, F_TOKEN_ENDLESS, F_TOKEN_REDIRECT,
    F_TOKEN_ERROR, F_TOKEN_DRIP, F_TOKEN_NO_OID, F_TOKEN_SIZE, F_TOKEN_WRONG_OID, F_TOKEN_SAME,
    F_AUTH_REJECT, F_AUTH_DELAY, F_AUTH_SILENT, F_CUT, F_CUT_REQUEST, F_EXPIRE_NOW, F_STALL,
    F_REFUSE, F_MOVED, F_KEY_UPDATE, F_FORGET_SESSIONS,
    F_REAUTH_REJECT, F_PING_SILENT, F_PUBLISH_LOST, F_COUNT
};

static const struct {
    const char *name;
    char value; /* n = needs a number, o = may have one, - = has none */
    const char *help;
} FAULTS[F_COUNT] = {
    [F_TOKEN_500] = {"token-500", '-', "HTTP 500"},
    [F_TOKEN_429] = {"token-429", 'n', "HTTP 429 with Retry-After: VALUE"},
    [F_TOKEN_HANG] = {"token-hang", '-', "takes the request, never answers"},
    [F_TOKEN_GARBAGE] = {"token-garbage", '-', "200 with HTML"},
    [F_TOKEN_ENDLESS] = {"token-endless", '-', "200, a body without end"},
    [F_TOKEN_REDIRECT] = {"token-redirect", '-', "302 to a trap that counts its visitors"},
    [F_TOKEN_ERROR] = {"token-error", 'n', "the error of that AADSTS code"},
    [F_TOKEN_DRIP] = {"token-drip", '-', "a good answer, one byte a second"},
    [F_TOKEN_NO_OID] = {"token-no-oid", 'o', "token without oid (=1: nor sub nor idtyp)"},
    [F_TOKEN_SIZE] = {"token-size", 'n', "token of exactly VALUE characters"},
    [F_TOKEN_WRONG_OID] = {"token-wrong-oid", '-', "token of an identity unknown to Redis"},
    [F_TOKEN_SAME] = {"token-same", '-', "the last token again, with the life it has left"},
    [F_AUTH_REJECT] = {"auth-reject", '-', "the server answers WRONGPASS"},
    [F_AUTH_DELAY] = {"auth-delay", 'n', "holds AUTH and what follows for VALUE ms"},
    [F_AUTH_SILENT] = {"auth-silent", '-', "AUTH without a reply and without effect"},
    [F_CUT] = {"cut", 'n', "closes abruptly after VALUE more bytes to the client"},
    [F_CUT_REQUEST] = {"cut-request", 'n', "closes abruptly after VALUE more bytes to the server"},
    [F_EXPIRE_NOW] = {"expire-now", '-', "closes every open connection as if expired"},
    [F_STALL] = {"stall", '-', "open connections carry nothing until disarmed"},
    [F_REFUSE] = {"refuse", '-', "closes a new connection before TLS"},
    [F_MOVED] = {"moved", '-', "answers a command with -MOVED 1234 10.0.0.1:8500"},
    [F_KEY_UPDATE] = {"key-update", '-', "changes the TLS 1.3 keys before the next bytes to a client"},
    [F_FORGET_SESSIONS] = {"forget-sessions", '-', "no TLS session from before is resumed any more"},
    [F_REAUTH_REJECT] = {"reauth-reject", '-', "as auth-reject, on a connection that is authenticated"},
    [F_PING_SILENT] = {"ping-silent", '-', "a PING without an argument gets no reply"},
    [F_PUBLISH_LOST] = {"publish-lost", '-', "PUBLISH reaches nobody"},
};

/*
 * Those of an endpoint are named ENDPOINT-KIND: "imds-410", "arc-html". Up to K_GCE they answer
 * whatever was asked; the others change the answer to a good request.
 */
enum endpoint_id {
    E_TOKEN, E_IMDS, E_APPSERVICE, E_MSI, E_ARC, E_CLOUDSHELL, E_FABRIC, E_ML, E_AKS, E_PROXY,
    E_DEVICE, /* device codes, which the authority gives: faults and counters of its own, but no port */
    E_COUNT
};
static const char *const ENDPOINTS[E_COUNT] = {"token",      "imds",   "appservice", "msi", "arc",
                                               "cloudshell", "fabric", "ml",         "aks", "proxy", "device"};

enum fault_kind {
    K_DOWN, K_REFUSE, K_HANG, K_400, K_401, K_403, K_UNREACHABLE, K_404, K_407, K_410, K_429, K_500, K_502, K_503,
    K_HTML, K_EMPTY, K_NO_TOKEN, K_HUGE, K_ENDLESS, K_HEADERS, K_REDIRECT, K_EC2, K_GCE,
    K_CUT, K_TRUNCATED, K_SLOW, K_TYPES, K_EXPIRED, K_DATE, K_REFRESH_IN, K_SAME, K_NO_OID, K_WRONG_OID,
    K_SIZE, K_OLD, K_CHALLENGE, K_ERROR, K_ERROR_200, K_SLOW_DOWN, K_COUNT
};

#define AT(endpoint) (1u << (endpoint))
#define AT_PORT      (AT(E_PROXY) - 1)
#define AT_HTTP      (AT_PORT | AT(E_DEVICE))                /* all that answer with JSON */
#define AT_STS       (AT(E_TOKEN) | AT(E_AKS) | AT(E_DEVICE))
#define AT_MANAGED   (AT_HTTP & ~AT_STS)
#define AT_ALL       (AT_HTTP | AT(E_PROXY))

static const struct {
    const char *name;
    char value;
    unsigned at; /* the endpoints that can have it */
    const char *help;
} KINDS[K_COUNT] = {
    [K_DOWN] = {"down", '-', AT_PORT, "nobody listens there until it is disarmed"},
    [K_REFUSE] = {"refuse", '-', AT_PORT | AT(E_PROXY), "closes a new connection without a word"},
    [K_HANG] = {"hang", '-', AT_ALL, "takes the request, never answers"},
    [K_400] = {"400", '-', AT_HTTP, "HTTP 400: no such identity, as the endpoint words it"},
    [K_401] = {"401", '-', AT_HTTP, "HTTP 401"},
    [K_403] = {"403", '-', AT_ALL, "HTTP 403"},
    [K_UNREACHABLE] = {"unreachable", '-', AT_HTTP, "HTTP 403 of Docker Desktop: network unreachable"},
    [K_404] = {"404", '-', AT_HTTP, "HTTP 404"},
    [K_407] = {"407", '-', AT(E_PROXY), "HTTP 407, whatever the password"},
    [K_410] = {"410", '-', AT_HTTP, "HTTP 410: being updated"},
    [K_429] = {"429", 'o', AT_HTTP, "HTTP 429, with Retry-After: VALUE"},
    [K_500] = {"500", 'o', AT_HTTP, "HTTP 500, the same"},
    [K_502] = {"502", '-', AT_ALL, "HTTP 502 with the HTML of a gateway"},
    [K_503] = {"503", 'o', AT_HTTP, "HTTP 503, with Retry-After: VALUE"},
    [K_HTML] = {"html", '-', AT_HTTP, "200 with the HTML of a captive portal"},
    [K_EMPTY] = {"empty", '-', AT_HTTP, "200 without a body"},
    [K_NO_TOKEN] = {"no-token", '-', AT_HTTP, "200 with {}"},
    [K_HUGE] = {"huge", '-', AT_HTTP, "200 with a body of 1 GB"},
    [K_ENDLESS] = {"endless", '-', AT_ALL, "200 with a body (proxy: a head) without end"},
    [K_HEADERS] = {"headers", '-', AT_HTTP, "200 with 300 header fields"},
    [K_REDIRECT] = {"redirect", '-', AT_HTTP, "302 to a trap that counts its visitors"},
    [K_EC2] = {"ec2", 'o', AT_HTTP, "Amazon's metadata service: 401, or VALUE"},
    [K_GCE] = {"gce", 'o', AT_HTTP, "Google's metadata service: 403, or VALUE"},
    [K_CUT] = {"cut", 'n', AT(E_PROXY), "closes after VALUE more bytes to the client"},
    [K_TRUNCATED] = {"truncated", 'o', AT_HTTP, "closes after VALUE bytes of the body (half of it)"},
    [K_SLOW] = {"slow", '-', AT_HTTP, "a good answer, one byte a second"},
    [K_TYPES] = {"types", 'o', AT_HTTP, "access_token a number; VALUE 1: times are lists, 2: an array "
                                        "around all, 3: access_token empty, 4: null"},
    [K_EXPIRED] = {"expired", 'o', AT_PORT, "a token that expired VALUE (60) seconds ago"},
    [K_DATE] = {"date", 'o', AT_MANAGED, "expires_on is a date: ISO; VALUE 1: Linux, 2: Windows, 3: a number, "
                                         "4: digits, 5: no date"},
    [K_REFRESH_IN] = {"refresh-in", 'n', AT_PORT, "the answer has refresh_in VALUE"},
    [K_SAME] = {"same", '-', AT_PORT, "the identity's last token again, with the life it has left"},
    [K_NO_OID] = {"no-oid", 'o', AT_PORT, "token without oid (=1: nor sub nor idtyp)"},
    [K_WRONG_OID] = {"wrong-oid", '-', AT_PORT, "token of an identity unknown to Redis"},
    [K_SIZE] = {"size", 'n', AT_PORT, "token of exactly VALUE characters"},
    [K_OLD] = {"old", 'o', AT(E_ARC), "an old agent: ignores whom it is asked for; VALUE 1: the right token, not "
                                      "named, 2: named in capitals, 3: named wrongly"},
    [K_CHALLENGE] = {"challenge", 'n', AT(E_ARC), "a bad challenge, see CHALLENGES"},
    [K_ERROR] = {"error", 'n', AT_STS, "the error of that AADSTS code"},
    [K_SLOW_DOWN] = {"slow-down", '-', AT(E_TOKEN), "a poll for a device code is told slow_down"},
    [K_ERROR_200] = {"error-200", 'n', AT_STS, "the same with HTTP 200"},
};

/* Faults are counted through: first those above, then each endpoint's kinds. */
#define FAULT(endpoint, kind) (F_COUNT + (int)(endpoint) * K_COUNT + (int)(kind))
#define FAULT_COUNT           FAULT(E_COUNT, 0)

struct fault {
    long asked, left, fired; /* left < 0: for ever */
    long value;
    unsigned armed; /* how often armed: tells a new cut from the one before */
};

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

/* ---- Keys and certificates -------------------------------------------------------------- */

static void tls_must(bool ok, const char *what) {
    if (!ok) die("OpenSSL: %s: %s", what, ERR_reason_error_string(ERR_peek_last_error()));
}

/* Tests start hundreds of emulators, and an RSA key takes a tenth of a second: EMULATOR_KEYS names a directory in which
 * the n-th key of its length stays for the next emulator. Without it each has keys of its own. */
static EVP_PKEY *kept_rsa_key(const char *dir, int bits) {
    static int made;
    char path[PATH_MAX], fresh[PATH_MAX + 16];
    EVP_PKEY *key = NULL;
    int fd, n = __atomic_add_fetch(&made, 1, __ATOMIC_RELAXED);
    FILE *f;
    (void)mkdir(dir, 0700);
    snprintf(path, sizeof path, "%s/rsa%d-%d.pem", dir, bits, n);
    snprintf(fresh, sizeof fresh, "%s.%d", path, (int)getpid());
    if ((f = fopen(path, "re")) != NULL) {
        key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
        fclose(f);
        return key;
    }
    key = EVP_RSA_gen((size_t)bits);
    fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!key || !f || !PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) || fclose(f) != 0 || rename(fresh, path) != 0)
        die("EMULATOR_KEYS: %s cannot be written", path);
    return key;
}

static EVP_PKEY *new_key(bool elliptic, bool large) {
    const char *dir = getenv("EMULATOR_KEYS");
    EVP_PKEY *key = elliptic   ? EVP_EC_gen("P-256")
                    : dir && *dir ? kept_rsa_key(dir, large ? 4096 : 2048)
                               : EVP_RSA_gen(large ? 4096 : 2048);
    tls_must(key != NULL, "cannot make a key");
    return key;
}

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value) {
    X509V3_CTX ctx;
    X509_EXTENSION *e;
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    tls_must(e && X509_add_ext(cert, e, -1), value);
    X509_EXTENSION_free(e);
}

/* issuer == NULL: signs itself. san == NULL: a certificate authority. Times in seconds from now. */
static X509 *new_cert(EVP_PKEY *key, const char *name, const char *san, X509 *issuer, EVP_PKEY *issuer_key,
                      long from, long until) {
    X509 *cert = must(X509_new());
    X509_NAME *subject = X509_get_subject_name(cert);
    uint64_t serial;
    random_bytes(&serial, sizeof serial);
    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1 | 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), from);
    X509_gmtime_adj(X509_getm_notAfter(cert), until);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const void *)name, -1, -1, 0);
    X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer) : subject);
    add_extension(cert, cert, NID_subject_key_identifier, "hash");
    add_extension(cert, issuer ? issuer : cert, NID_authority_key_identifier, "keyid:always");
    if (!san) {
        add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE");
        add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign");
    } else {
        add_extension(cert, cert, NID_basic_constraints, "critical,CA:FALSE");
        add_extension(cert, cert, NID_key_usage, "critical,digitalSignature,keyEncipherment");
        add_extension(cert, cert, NID_ext_key_usage, "serverAuth");
        add_extension(cert, cert, NID_subject_alt_name, san);
    }
    tls_must(X509_sign(cert, issuer ? issuer_key : key, EVP_sha256()) > 0, "cannot sign");
    return cert;
}

static const char *const CERT_KINDS[] = {"good",        "expired",   "not-yet-valid", "wrong-host",
                                         "self-signed", "untrusted", "ecdsa",         "long-chain",
                                         "ends-soon",   NULL};

/* NULL: there is none of that name. */
static const char *cert_kind(const char *name) {
    int i = 0;
    while (CERT_KINDS[i] && strcmp(CERT_KINDS[i], name) != 0) i++;
    return CERT_KINDS[i];
}

#define CHAIN 3                         /* certificates between the server's own and nothing: two CAs and the root */

struct identity {
    X509 *cert;
    EVP_PKEY *key;
    X509 *above[CHAIN];                 /* what the server sends beside its own; NULL: nothing */
};

/* Four certificates with keys of 4096 bits, as long as the chains of Azure's services get. One key serves for all
 * but the root: to make more takes seconds and shows nothing. */
static void new_chain(struct identity *id, X509 *ca, EVP_PKEY *ca_key) {
    const long day = 86400;
    int i;
    id->above[CHAIN - 1] = X509_dup(ca);
    for (i = CHAIN - 2; i >= 0; i--)
        id->above[i] = new_cert(id->key, i ? "emulator CA above" : "emulator CA below", NULL, id->above[i + 1],
                                i == CHAIN - 2 ? ca_key : id->key, -day, 30 * day);
}

/* A server's certificate of the given kind; all but "good", "ecdsa", "long-chain" and "ends-soon" are to be refused. */
static struct identity new_identity(const char *kind, X509 *ca, EVP_PKEY *ca_key) {
    const long day = 86400;
    /* Beside the local names those of all clouds: through the proxy a client reaches us by them. */
    const char *san = "DNS:localhost,DNS:redis.emulator.test,DNS:login.emulator.test,IP:127.0.0.1,IP:::1,"
                      "DNS:login.microsoftonline.com,DNS:login.microsoftonline.us,"
                      "DNS:login.partner.microsoftonline.cn,DNS:login.sovcloud-identity.fr,"
                      "DNS:login.sovcloud-identity.de,DNS:login.sovcloud-identity.sg";
    long from = -day, until = 30 * day;
    bool chain = strcmp(kind, "long-chain") == 0;
    struct identity id = {NULL, new_key(strcmp(kind, "ecdsa") == 0, chain), {NULL}};
    X509 *other = NULL;
    EVP_PKEY *other_key = NULL;
    if (strcmp(kind, "expired") == 0)
        from = -2 * day, until = -day;
    else if (strcmp(kind, "not-yet-valid") == 0)
        from = day;
    else if (strcmp(kind, "ends-soon") == 0)
        until = 3 * day;
    else if (strcmp(kind, "wrong-host") == 0)
        san = "DNS:elsewhere.emulator.test";
    else if (strcmp(kind, "self-signed") == 0)
        ca = NULL;
    else if (strcmp(kind, "untrusted") == 0) {
        other_key = new_key(false, false);
        ca = other = new_cert(other_key, "emulator unknown CA", NULL, NULL, NULL, -day, 30 * day);
        ca_key = other_key;
    }
    if (chain) {
        new_chain(&id, ca, ca_key);
        ca = id.above[0], ca_key = id.key;
    }
    id.cert = new_cert(id.key, "localhost", san, ca, ca_key, from, until);
    X509_free(other);
    EVP_PKEY_free(other_key);
    return id;
}

static void free_identity(struct identity *id) {
    int i;
    X509_free(id->cert);
    EVP_PKEY_free(id->key);
    for (i = 0; i < CHAIN; i++) X509_free(id->above[i]);
}

/* An elliptic key and a certificate of one name, quickly made. Without an issuer it signs itself. */
static struct identity new_small(const char *name, const char *san, X509 *ca, EVP_PKEY *ca_key) {
    struct identity id = {NULL, new_key(true, false), {NULL}};
    id.cert = new_cert(id.key, name, san, ca, ca_key, -86400, 30 * 86400);
    return id;
}

static char *pem_text(X509 *cert, EVP_PKEY *key) {
    BIO *bio = must(BIO_new(BIO_s_mem()));
    char *data, *text;
    long n;
    if (cert)
        PEM_write_bio_X509(bio, cert);
    else
        PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
    n = BIO_get_mem_data(bio, &data);
    text = must(strndup(data, (size_t)n));
    BIO_free(bio);
    return text;
}

/* A server's own certificate and those above it that it sends. */
static char *pem_chain(const struct identity *id) {
    char *all = pem_text(id->cert, NULL);
    int i;
    for (i = 0; i < CHAIN && id->above[i]; i++) {
        char *one = pem_text(id->above[i], NULL), *both = format_text("%s%s", all, one);
        free(one);
        free(all);
        all = both;
    }
    return all;
}

static void gateway_tls(const struct identity *id) {
    int low = TLS1_2_VERSION, high = TLS1_3_VERSION, i;
    SSL_CTX *ctx = must(SSL_CTX_new(TLS_server_method()));
    if (g.tls) low = high = strcmp(g.tls, "1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
    SSL_CTX_set_min_proto_version(ctx, low);
    SSL_CTX_set_max_proto_version(ctx, high);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    /* The write buffer moves and shrinks between the tries of one write. */
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"emulator", 8);
    tls_must(SSL_CTX_use_certificate(ctx, id->cert) == 1, "certificate");
    tls_must(SSL_CTX_use_PrivateKey(ctx, id->key) == 1, "private key");
    for (i = 0; i < CHAIN && id->above[i]; i++) tls_must(SSL_CTX_add1_chain_cert(ctx, id->above[i]) == 1, "chain");
    if (g.ciphers && SSL_CTX_set_cipher_list(ctx, g.ciphers) != 1)
        bad_usage("--ciphers: OpenSSL knows none of '%s'", g.ciphers);
    g.ssl_ctx = ctx;
}

/* ---- The real server: talking to it ----------------------------------------------------- */

static void r_close(struct rconn *r) {
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
    r->pos = r->len = 0;
}

static int dial_redis(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(a.sun_path, g.socket, strlen(g.socket) + 1); /* length checked at start */
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool r_write(struct rconn *r, const char *data, size_t n) {
    while (n) {
        ssize_t k = send(r->fd, data, n, MSG_NOSIGNAL);
        if (k <= 0) return false;
        data += k;
        n -= (size_t)k;
    }
    return true;
}

static bool r_fill(struct rconn *r) {
    ssize_t k = recv(r->fd, r->buf, sizeof r->buf, 0);
    r->pos = 0;
    r->len = k > 0 ? (size_t)k : 0;
    return k > 0;
}

static bool r_read(struct rconn *r, char *out, size_t n) {
    while (n) {
        size_t k = r->len - r->pos < n ? r->len - r->pos : n;
        memcpy(out, r->buf + r->pos, k);
        r->pos += k;
        out += k;
        n -= k;
        if (n && !r_fill(r)) return false;
    }
    return true;
}

static bool r_line(struct rconn *r, char *line, size_t room) {
    size_t n = 0;
    char c;
    while (r_read(r, &c, 1)) {
        if (c == '\n') {
            line[n && line[n - 1] == '\r' ? n - 1 : n] = 0;
            return true;
        }
        if (n + 1 < room) line[n++] = c;
    }
    return false;
}

/* Bytes that are no UTF-8 are taken as Latin-1: JSON has no other place for them. */
static json_t *json_bytes(const char *data, size_t n) {
    json_t *value = json_stringn(data, n);
    char *latin;
    size_t i, k = 0;
    if (value) return value;
    latin = must(malloc(2 * n + 1));
    for (i = 0; i < n; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c >= 0x80) latin[k++] = (char)(0xc0 | c >> 6);
        latin[k++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    value = json_stringn(latin, k);
    free(latin);
    return value;
}

static json_t *r_bulk(struct rconn *r, long n) {
    char *data, end[2];
    json_t *value = NULL;
    if (n < 0) return json_null();
    data = must(malloc((size_t)n + 1));
    if (r_read(r, data, (size_t)n) && r_read(r, end, 2)) value = json_bytes(data, (size_t)n);
    free(data);
    return value;
}

/* A RESP2 reply as JSON; an error is {"error": text}. NULL: the connection is lost. */
static json_t *r_reply(struct rconn *r) {
    char line[1024];
    json_t *array;
    long n;
    if (!r_line(r, line, sizeof line)) return NULL;
    n = strtol(line + 1, NULL, 10);
    switch (line[0]) {
    case '+':
        return json_bytes(line + 1, strlen(line + 1));
    case '-':
        return json_pack("{s:o}", "error", json_bytes(line + 1, strlen(line + 1)));
    case ':':
        return json_integer(strtoll(line + 1, NULL, 10));
    case '$':
        return r_bulk(r, n);
    case '*':
        break;
    default:
        return NULL;
    }
    if (n < 0) return json_null();
    for (array = json_array(); n > 0; n--) {
        json_t *item = r_reply(r);
        if (!item) {
            json_decref(array);
            return NULL;
        }
        json_array_append_new(array, item);
    }
    return array;
}

/* Sends a JSON array of strings as one command. */
static json_t *r_command(struct rconn *r, const json_t *args) {
    size_t i;
    char head[32];
    bool ok;
    snprintf(head, sizeof head, "*%zu\r\n", json_array_size(args));
    ok = r_write(r, head, strlen(head));
    for (i = 0; ok && i < json_array_size(args); i++) {
        const json_t *arg = json_array_get(args, i);
        snprintf(head, sizeof head, "$%zu\r\n", json_string_length(arg));
        ok = r_write(r, head, strlen(head)) && r_write(r, json_string_value(arg), json_string_length(arg)) &&
             r_write(r, "\r\n", 2);
    }
    return ok ? r_reply(r) : NULL;
}

/* Connects as administrator. `seconds` bounds the wait for each answer. */
static bool r_open(struct rconn *r, int seconds) {
    struct timeval tv = {.tv_sec = seconds};
    json_t *args, *reply;
    bool ok;
    r->pos = r->len = 0;
    r->fd = dial_redis();
    if (r->fd < 0) return false;
    setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(r->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    args = json_pack("[sss]", "AUTH", ADMIN_USER, g.admin_password);
    reply = r_command(r, args);
    ok = json_is_string(reply);
    json_decref(args);
    json_decref(reply);
    if (!ok) r_close(r);
    return ok;
}

/* One command over the lasting connection; one reconnect. Consumes args. redis_lock is held. */
static bool redis_do(json_t *args) {
    json_t *reply = NULL;
    bool ok;
    int attempt;
    for (attempt = 0; attempt < 2 && !reply; attempt++) {
        if (g.redis.fd < 0 && !r_open(&g.redis, 5)) break;
        reply = r_command(&g.redis, args);
        if (!reply) r_close(&g.redis);
    }
    ok = reply && !json_object_get(reply, "error");
    json_decref(args);
    json_decref(reply);
    return ok;
}

static bool acl_add(const struct token *t) { return redis_do(policy_command(t->oid, t->hash)); }

static void acl_remove(const struct token *t) {
    redis_do(json_pack("[ssss+]", "ACL", "SETUSER", t->oid, "!", t->hash));
}

/* ---- The real server: its process ------------------------------------------------------- */

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    size_t n = strlen(text);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n || close(fd) != 0)
        die("cannot write %s: %s", path, strerror(errno));
}

static bool find_program(const char *name, char *out, size_t room) {
    const char *path = getenv("PATH");
    char *copy = must(strdup(path ? path : "/usr/local/bin:/usr/bin:/bin")), *rest = copy, *dir;
    bool found = false;
    while (!found && (dir = strsep(&rest, ":")))
        found = *dir && snprintf(out, room, "%s/%s", dir, name) < (int)room && !access(out, X_OK);
    free(copy);
    return found;
}

/* Debian's redis-tools carries the server under another name; its own name is what counts. */
static void find_redis(void) {
    if (g.redis_path) {
        if (access(g.redis_path, X_OK) != 0) die("--redis-server %s: %s", g.redis_path, strerror(errno));
        snprintf(g.redis_bin, sizeof g.redis_bin, "%s", g.redis_path);
    } else if (!find_program("redis-server", g.redis_bin, sizeof g.redis_bin) &&
               !find_program("redis-check-rdb", g.redis_bin, sizeof g.redis_bin)) {
        die("no redis-server found: install redis-server or redis-tools, or give --redis-server");
    }
}

static void write_redis_conf(const char *path) {
    char admin[65], key[65], *text, *user = NULL, *more = cache_conf();
    sha256_hex(g.admin_password, strlen(g.admin_password), admin);
    sha256_hex(g.access_key, strlen(g.access_key), key);
    if (g.access_key_on) user = format_text("user default on #%s ~* &* +@all\n", key);
    text = format_text("%sunixsocket %s\nunixsocketperm 600\ndir %s\nlogfile %s/redis.log\n"
                       "save \"\"\nappendonly no\nenable-debug-command yes\n%s"
                       "user " ADMIN_USER " on #%s ~* &* +@all\n",
                       more, g.socket, g.dir, g.dir, user ? user : "user default off\n", admin);
    write_file(path, text);
    free(text);
    free(user);
    free(more);
}

/* Only main may call this: the child is told to die with the thread that made it. */
static void redis_spawn(const char *conf) {
    char *argv[] = {(char *)"redis-server", (char *)conf, NULL};
    pid_t parent = getpid();
    sigset_t none;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    g.redis_pid = fork();
    if (g.redis_pid < 0) die("cannot start redis-server: %s", strerror(errno));
    if (g.redis_pid > 0) {
        close(null);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* already orphaned */
        _exit(1);
    setpgid(0, 0); /* Ctrl+C in the terminal is for us alone; we end it in order */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    execv(g.redis_bin, argv);
    _exit(127);
}

/* A cluster of one node: it gets all slots, and takes two seconds to be content with that. */
static bool redis_serves(void) {
    json_t *give = json_pack("[ssss]", "CLUSTER", "ADDSLOTSRANGE", "0", "16383"), *info = json_pack("[ss]", "CLUSTER", "INFO");
    const char *text = NULL;
    json_t *reply = NULL;
    json_decref(r_command(&g.redis, give));             /* an error when it has them already */
    while (!text && !nap(20)) {
        json_decref(reply);
        if (!(reply = r_command(&g.redis, info))) break;
        text = json_is_string(reply) ? strstr(json_string_value(reply), "cluster_state:ok") : NULL;
    }
    json_decref(reply);
    json_decref(give);
    json_decref(info);
    return text != NULL;
}

/* Waits until it answers. The pid is cleared when it ended instead. */
static bool redis_wait_ready(void) {
    int64_t deadline = now_ms() + 15000;
    while (now_ms() < deadline) {
        if (r_open(&g.redis, 5)) return !cache.node_port || redis_serves();
        if (waitpid(g.redis_pid, NULL, WNOHANG) == g.redis_pid) {
            g.redis_pid = 0;
            return false;
        }
        if (nap(10)) return false;
    }
    return false;
}

static void redis_kill(int sig) {
    int64_t deadline = now_ms() + 2000;
    if (g.redis_pid <= 0) return;
    kill(g.redis_pid, sig);
    while (waitpid(g.redis_pid, NULL, WNOHANG) == 0) {
        if (now_ms() > deadline) kill(g.redis_pid, SIGKILL);
        poll(NULL, 0, 5);
    }
    g.redis_pid = 0;
}

static void redis_start(void) {
    char *conf = format_text("%s/redis.conf", g.dir), *log = format_text("%s/redis.log", g.dir);
    char line[256] = "", last[256] = "it wrote no log";
    FILE *f;
    write_redis_conf(conf);
    redis_spawn(conf);
    if (!redis_wait_ready()) {
        if ((f = fopen(log, "re"))) {
            while (fgets(line, sizeof line, f))
                if (line[0] > ' ') snprintf(last, sizeof last, "%.*s", (int)strcspn(line, "\n"), line);
            fclose(f);
        }
        die("%s did not start: %s", g.redis_bin, last);
    }
    free(conf);
    free(log);
}

/* The tokens that live are entered again: the new server knows none. */
static void redis_restart(void) {
    char *conf = format_text("%s/redis.conf", g.dir);
    bool ok;
    size_t i;
    pthread_mutex_lock(&g.redis_lock);
    r_close(&g.redis);
    redis_kill(SIGKILL);
    unlink(g.socket);
    redis_spawn(conf);
    ok = redis_wait_ready();
    /* Tokens are added and removed under redis_lock only, so the list stands still. */
    for (i = 0; ok && i < g.token_count; i++)
        if (g.tokens[i].known) ok = acl_add(&g.tokens[i]);
    pthread_mutex_unlock(&g.redis_lock);
    free(conf);
    pthread_mutex_lock(&g.lock);
    g.restart_failed = !ok;
    g.restarts_done = g.restarts_asked;
    pthread_cond_broadcast(&g.changed);
    pthread_mutex_unlock(&g.lock);
    say("redis-server %s", ok ? "started again" : "did not start again");
}

/* ---- Tokens ----------------------------------------------------------------------------- */

/* Takes expired tokens from the list and from the real server, both before anyone else looks. */
static void tokens_retire(void) {
    int64_t now = now_ms();
    size_t i = 0;
    pthread_mutex_lock(&g.redis_lock);
    while (i < g.token_count) {
        struct token gone = g.tokens[i];
        if (gone.expires > now) {
            i++;
            continue;
        }
        pthread_mutex_lock(&g.lock);
        memmove(&g.tokens[i], &g.tokens[i + 1], (g.token_count - i - 1) * sizeof gone);
        g.token_count--;
        pthread_mutex_unlock(&g.lock);
        if (gone.known) acl_remove(&gone);
    }
    pthread_mutex_unlock(&g.redis_lock);
}

static void write_assertions(void);

static bool assertions_due(void) {
    bool due;
    pthread_mutex_lock(&g.lock);
    due = now_ms() >= g.assertion_renew;
    pthread_mutex_unlock(&g.lock);
    return due;
}

static void *retire_main(void *unused) {
    int64_t wait = 0;
    size_t i;
    while (!nap(wait)) {
        tokens_retire();
        if (assertions_due()) write_assertions();
        wait = 250;
        pthread_mutex_lock(&g.lock);
        for (i = 0; i < g.token_count; i++)
            if (g.tokens[i].expires - now_ms() < wait) wait = g.tokens[i].expires - now_ms();
        pthread_mutex_unlock(&g.lock);
    }
    return unused;
}

/* `of` is whose last token this is from now on; NULL: of none that counts. */
static void token_enter(const char *text, const char *oid, int64_t expires, bool known, struct principal *of) {
    struct token t = {.expires = expires, .known = known && !cache.entra_off};
    snprintf(t.oid, sizeof t.oid, "%s", oid);
    sha256_hex(text, strlen(text), t.hash);
    pthread_mutex_lock(&g.redis_lock);
    if (t.known) acl_add(&t);
    pthread_mutex_lock(&g.lock);
    make_room(&g.tokens, g.token_count, &g.token_room, sizeof t, SIZE_MAX);
    g.tokens[g.token_count++] = t;
    if (of) {
        free(of->last_token);
        of->last_token = must(strdup(text));
        of->last_expires = expires;
    }
    g.tokens_issued++;
    pthread_mutex_unlock(&g.lock);
    pthread_mutex_unlock(&g.redis_lock);
}

/* Would the real server take this? Then `expires` tells until when. */
static bool credential_good(const char *user, size_t user_n, const void *pass, size_t pass_n,
                            int64_t *expires) {
    char hash[65];
    bool good = false;
    size_t i;
    if (g.access_key_on && user_n == 7 && memcmp(user, "default", 7) == 0 && pass_n == strlen(g.access_key) &&
        CRYPTO_memcmp(pass, g.access_key, pass_n) == 0) {
        *expires = NEVER;
        return true;
    }
    tokens_retire();
    sha256_hex(pass, pass_n, hash);
    pthread_mutex_lock(&g.lock);
    for (i = 0; i < g.token_count && !good; i++) {
        const struct token *t = &g.tokens[i];
        good = t->known && strcmp(t->hash, hash) == 0 && strlen(t->oid) == user_n &&
               memcmp(t->oid, user, user_n) == 0;
        if (good) *expires = t->expires;
    }
    pthread_mutex_unlock(&g.lock);
    return good;
}

struct token_wish { /* how a fault wants the token to be */
    bool no_oid, no_sub, wrong_oid;
    long size;    /* 0: as it comes */
    long expired; /* seconds ago; 0: it lives */
};

static bool is_redis(const char *aud) {
    return strncmp(aud, SCOPE_URL, sizeof SCOPE_URL - 1) == 0 || strcmp(aud, SCOPE_GUID) == 0;
}

#define PERSON "engineer@emulator.test"

static bool is_person(const struct principal *p) { return p == &g.who[P_CLOUDSHELL] || p == &g.who[P_DEVICE]; }

/* Claims that only some identities have. */
static void token_claims_of(json_t *c, const struct principal *p) {
    bool managed = p->resource[0] != 0, person = is_person(p);
    if (managed) json_object_set_new(c, "xms_mirid", json_string(p->resource));
    json_object_set_new(c, "appidacr", json_string(person ? "0" : p == &g.who[P_SECRET] ? "1" : "2"));
    if (!person) return;
    json_object_set_new(c, "upn", json_string(PERSON));
    json_object_set_new(c, "scp", json_string("user_impersonation"));
}

static json_t *token_claims(const struct token_wish *wish, const char *aud, const char *oid,
                            const struct principal *p) {
    struct timespec t;
    char uti[23], iss[80];
    bool second = strncmp(aud, "api:", 4) == 0, person = is_person(p); /* second: a v2.0 token */
    double life = wish->expired ? -(double)wish->expired : g.ttl;
    json_t *c;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += dials[D_CLOCK_OFFSET];
    random_text(uti, 22, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
    snprintf(iss, sizeof iss, second ? "https://login.microsoftonline.com/%s/v2.0" : "https://sts.windows.net/%s/",
             g.tenant);
    /* Entra dates a token five minutes back: a client must not take exp - iat for its life. */
    c = json_pack("{ss ss sI sI sI ss ss ss}", "aud", aud, "iss", iss, "iat", (json_int_t)t.tv_sec - 300,
                  "nbf", (json_int_t)t.tv_sec - 300, "exp", (json_int_t)((double)t.tv_sec + t.tv_nsec / 1e9 + life),
                  "aio", "E2Zg", second ? "azp" : "appid", p->client, "idp", iss);
    token_claims_of(c, p);
    if (!wish->no_sub && !person) json_object_set_new(c, "idtyp", json_string("app"));
    if (!wish->no_oid) json_object_set_new(c, "oid", json_string(oid));
    json_object_set_new(c, "rh", json_string("1.AAAA."));
    if (!wish->no_sub) json_object_set_new(c, "sub", json_string(person ? "a-person-at-this-application" : oid));
    json_object_set_new(c, "tid", json_string(g.tenant));
    json_object_set_new(c, "uti", json_string(uti));
    json_object_set_new(c, "ver", json_string(second ? "2.0" : "1.0"));
    return c;
}

static char *token_header(int pad) {
    char kid[64];
    json_t *h;
    char *text;
    snprintf(kid, sizeof kid, "%s%.*s", g.kid, pad, "AAA");
    h = json_pack("{ss ss ss ss}", "typ", "JWT", "alg", "RS256", "x5t", kid, "kid", kid);
    text = must(json_dumps(h, JSON_COMPACT));
    json_decref(h);
    return text;
}

/* The characters of a token of this header and payload; an RSA-2048 signature has 342. */
static size_t token_length(size_t header, size_t payload) {
    return base64url_length(header) + 1 + base64url_length(payload) + 1 + 342;
}

/* Pads to exactly `size` characters. Base64 leaves gaps: the header then gives way by a little. */
static bool token_pad(json_t *claims, size_t size, char **header, char **payload) {
    int pad;
    for (pad = 0; pad < 4; pad++) {
        size_t n, have;
        char *fill;
        json_object_set_new(claims, "pad", json_string(""));
        free(*header);
        free(*payload);
        *header = token_header(pad);
        *payload = must(json_dumps(claims, JSON_COMPACT));
        have = strlen(*payload);
        if (size < token_length(strlen(*header), have)) continue;
        n = (size - token_length(strlen(*header), 0)) * 3 / 4;
        if (n < have || token_length(strlen(*header), n) != size) continue;
        fill = must(malloc(n - have + 1));
        memset(fill, 'p', n - have);
        json_object_set_new(claims, "pad", json_stringn(fill, n - have));
        free(fill);
        free(*payload);
        *payload = must(json_dumps(claims, JSON_COMPACT));
        return true;
    }
    return false;
}

static char *token_sign(const char *header, const char *payload, EVP_PKEY *key) {
    EVP_MD_CTX *ctx = must(EVP_MD_CTX_new());
    unsigned char signature[512];
    size_t n = sizeof signature;
    char *h = base64url(header, strlen(header)), *p = base64url(payload, strlen(payload));
    char *head = format_text("%s.%s", h, p), *s, *token;
    EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key);
    EVP_DigestSign(ctx, signature, &n, (const unsigned char *)head, strlen(head));
    s = base64url(signature, n);
    token = format_text("%s.%s", head, s);
    EVP_MD_CTX_free(ctx);
    free(h);
    free(p);
    free(head);
    free(s);
    return token;
}

/* A new token, known to the real server before anyone has it. The caller frees it. */
static char *token_issue(const struct token_wish *wish, const char *aud, struct principal *p) {
    int64_t expires = now_ms() + (wish->expired ? 0 : (int64_t)(g.ttl * 1000));
    char stranger[37], *header = token_header(0), *payload, *token;
    bool good = !wish->wrong_oid && !wish->expired && is_redis(aud);
    json_t *claims;
    random_guid(stranger);
    claims = token_claims(wish, aud, wish->wrong_oid ? stranger : p->oid, p);
    payload = must(json_dumps(claims, JSON_COMPACT));
    if (wish->size && !token_pad(claims, (size_t)wish->size, &header, &payload))
        say("a token of %ld characters is too small, it is longer", wish->size);
    token = token_sign(header, payload, g.jwt_key);
    token_enter(token, wish->wrong_oid ? stranger : p->oid, expires, good,
                is_redis(aud) && !wish->expired ? p : NULL);
    say("token issued to %s, %zu characters, lives %g s", WHO[p - g.who].name, strlen(token),
        wish->expired ? 0 : g.ttl);
    json_decref(claims);
    free(header);
    free(payload);
    return token;
}

/* ---- Gateway: one connection ------------------------------------------------------------ */

struct conn {
    struct conn *next;
    long number;
    int fd, up, wake; /* client, real server, eventfd that ends a poll */
    SSL *ssl;
    short read_wants, write_wants; /* poll events the last SSL_read, SSL_write asked for */
    bool client_gone, server_gone;

    uint8_t *in; /* from the client: the first in_ok bytes are decided and may leave */
    size_t in_len, in_ok;
    uint8_t *out; /* from the server */
    size_t out_pos, out_len;
    size_t write_len; /* length of an SSL_write that has to be repeated as it was */

    /* Where the reader of requests stands. */
    bool raw;  /* no RESP after all: forward unread, the server will judge */
    bool drop; /* the rest of this command goes nowhere */
    long args_left;
    size_t bulk_left;
    bool resp3;
    long subscriptions;

    int64_t held_until, held_since; /* auth-delay */
    bool authenticated;
    int64_t expires;
    uint64_t to_client, to_server; /* bytes carried */
    struct cut {
        unsigned armed;
        uint64_t base;
    } cut[2];

    /* Written by other threads, under g.lock. */
    bool stalled;
    enum why order;
};

static bool is_word(const uint8_t *p, size_t n, const char *word) {
    return strlen(word) == n && strncasecmp((const char *)p, word, n) == 0;
}

struct arg {
    const uint8_t *p;
    size_t n;
};

/* Reads "<type><number>\r\n". Bytes used; 0: more is needed; -1: it is something else. */
static int read_head(const uint8_t *p, size_t n, char type, long *value) {
    char digits[16];
    size_t i;
    if (n == 0) return 0;
    if (p[0] != type) return -1;
    for (i = 1; i < n && i < sizeof digits; i++) {
        if (p[i] == '\r') {
            if (i + 1 == n) return 0;
            digits[i - 1] = 0;
            *value = strtol(digits, NULL, 10);
            return p[i + 1] == '\n' && i > 1 ? (int)i + 2 : -1;
        }
        if (!isdigit(p[i]) && !(p[i] == '-' && i == 1)) return -1;
        digits[i - 1] = (char)p[i];
    }
    return i == sizeof digits ? -1 : 0;
}

/* A whole command. Its length; 0: more is needed; -1: too long or no RESP. */
static long read_command(const uint8_t *p, size_t n, struct arg *args, long room, long *argc) {
    size_t at;
    long i, length;
    int k = read_head(p, n, '*', argc);
    if (k <= 0 || *argc > room) return k <= 0 ? k : -1;
    at = (size_t)k;
    for (i = 0; i < *argc; i++) {
        k = read_head(p + at, n - at, '$', &length);
        if (k <= 0) return k;
        at += (size_t)k;
        if (length < 0 || length > AUTH_FRAME_MAX || at + (size_t)length > AUTH_FRAME_MAX) return -1;
        if (n - at < (size_t)length + 2) return 0;
        args[i].p = p + at;
        args[i].n = (size_t)length;
        at += (size_t)length + 2;
    }
    return (long)at;
}

/* The next n undecided bytes: let them pass, or remove them. */
static void pass(struct conn *c, size_t n) { c->in_ok += n; }

static void erase(struct conn *c, size_t n) {
    c->in_len -= n;
    memmove(c->in + c->in_ok, c->in + c->in_ok + n, c->in_len - c->in_ok);
}

static void pass_or_drop(struct conn *c, size_t n) {
    if (c->drop)
        erase(c, n);
    else
        pass(c, n);
}

static void insert(struct conn *c, const char *text) {
    size_t n = strlen(text);
    memmove(c->in + c->in_ok + n, c->in + c->in_ok, c->in_len - c->in_ok);
    memcpy(c->in + c->in_ok, text, n);
    c->in_ok += n;
    c->in_len += n;
}

/* A user name for the log; it may be a token that came in the wrong place, so only its start. */
static void printable_user(const struct arg *user, char out[64]) {
    size_t i, n = user->n < 40 ? user->n : 40;
    for (i = 0; i < n; i++) out[i] = (char)(user->p[i] > 32 && user->p[i] < 127 ? user->p[i] : '?');
    out[n] = 0;
}

static void record_auth(struct conn *c, const struct arg *user, bool accepted, int64_t expires,
                        int64_t delayed) {
    int64_t now = now_ms();
    struct auth_record r = {
        .at = now - g.start, .delayed = delayed, .connection = c->number, .accepted = accepted, .left = -1};
    bool again = c->authenticated;
    if (again) r.left = c->expires == NEVER ? 1e9 : (double)(c->expires - now) / 1000;
    printable_user(user, r.user);
    pthread_mutex_lock(&g.lock);
    g.auths_total++;
    g.auths_accepted += accepted;
    g.reauths_accepted += accepted && again;
    if (make_room(&g.auths, g.auth_count, &g.auth_room, sizeof r, RECORDS_MAX)) g.auths[g.auth_count++] = r;
    pthread_mutex_unlock(&g.lock);
    if (accepted) {
        c->authenticated = true;
        c->expires = expires;
    }
    if (accepted && again)
        say("connection %ld: AUTH accepted, %.1f s left", c->number, r.left);
    else
        say("connection %ld: AUTH %s", c->number, accepted ? "accepted" : "rejected");
}

/*
 * An AUTH, or a HELLO with AUTH, of `frame` bytes stands next. False: it is held back for now.
 * It is recorded before it leaves, so that the record is there when the client has its answer.
 */
static bool take_auth(struct conn *c, const struct arg *user, const struct arg *pw, size_t frame) {
    long value;
    int64_t now = now_ms(), delayed, expires = 0;
    bool good;
    if (!c->held_until && fault_take(F_AUTH_DELAY, &value)) {
        c->held_since = now;
        c->held_until = now + value;
    }
    if (c->held_until > now) return false;
    delayed = c->held_until ? now - c->held_since : 0;
    c->held_until = 0;
    if (fault_take(F_AUTH_SILENT, NULL)) {
        record_auth(c, user, false, 0, delayed);
        erase(c, frame);
        return true;
    }
    if (pw->n && (fault_take(F_AUTH_REJECT, NULL) || (c->authenticated && fault_take(F_REAUTH_REJECT, NULL)))) {
        uint8_t *last = c->in + (pw->p - c->in) + pw->n - 1;
        *last ^= 1; /* the real server is to refuse it itself */
    }
    good = credential_good((const char *)user->p, user->n, pw->p, pw->n, &expires);
    if (c->subscriptions > 0 && !c->resp3) good = false; /* a RESP2 subscriber may not AUTH */
    if (pw->n > UNAUTHENTICATED_MAX && !c->authenticated) good = false;
    record_auth(c, user, good, expires, delayed);
    pass(c, frame);
    return true;
}

/* AUTH or HELLO stands next. False: wait, for more bytes or for the end of a delay. */
static bool take_login(struct conn *c, const uint8_t *p, size_t n) {
    static const struct arg nobody = {(const uint8_t *)"default", 7};
    struct arg a[16] = {{0}};
    long argc, i, frame = read_command(p, n, a, 16, &argc);
    bool hello, was = c->authenticated;
    if (frame == 0) return false;
    if (frame < 0) { /* let it run through as any command */
        int k = read_head(p, n, '*', &c->args_left);
        pass(c, (size_t)k);
        return true;
    }
    hello = is_word(a[0].p, a[0].n, "HELLO");
    if (!hello && argc == 2) return take_auth(c, &nobody, &a[1], (size_t)frame);
    if (!hello && argc == 3) return take_auth(c, &a[1], &a[2], (size_t)frame);
    for (i = 2; hello && i + 2 < argc; i++) {
        if (is_word(a[i].p, a[i].n, "SETNAME")) {
            i++;
        } else if (is_word(a[i].p, a[i].n, "AUTH")) {
            bool three = is_word(a[1].p, a[1].n, "3");
            if (!take_auth(c, &a[i + 1], &a[i + 2], (size_t)frame)) return false;
            if (c->authenticated || was) c->resp3 = three;
            return true;
        }
    }
    if (hello && argc > 1 && c->authenticated) c->resp3 = is_word(a[1].p, a[1].n, "3");
    pass(c, (size_t)frame);
    return true;
}

/* Counts what a RESP2 connection has subscribed: while it has, its AUTH is refused. */
static void note_subscription(struct conn *c, const uint8_t *name, size_t n, long argc) {
    bool off;
    if (is_word(name, n, "RESET")) {
        c->subscriptions = 0;
        c->resp3 = false;
        return;
    }
    if (n < 9 || !is_word(name + n - 9, 9, "SUBSCRIBE")) return;
    off = n >= 11 && is_word(name + n - 11, 2, "UN");
    c->subscriptions += off ? -(argc - 1) : argc - 1;
    if (c->subscriptions < 0 || (off && argc == 1)) c->subscriptions = 0;
}

/* The command to be put in the place of this one, by which the real server says what a fault wants, so that it comes
 * in its place among the replies. NULL: none. */
static const char *instead(const uint8_t *name, size_t n, long argc) {
    bool ping = is_word(name, n, "PING");
    if (!is_word(name, n, "CLIENT") && !ping && fault_take(F_MOVED, NULL))
        return "*3\r\n$4\r\nEVAL\r\n$52\r\nreturn redis.error_reply('MOVED 1234 10.0.0.1:8500')\r\n$1\r\n0\r\n";
    if (is_word(name, n, "PUBLISH") && fault_take(F_PUBLISH_LOST, NULL))
        return "*3\r\n$4\r\nEVAL\r\n$8\r\nreturn 0\r\n$1\r\n0\r\n";
    return ping && argc == 1 && fault_take(F_PING_SILENT, NULL) ? "" : NULL;
}

/* A command begins here. False: more bytes are needed, or it is held back. */
static bool take_command(struct conn *c, const uint8_t *p, size_t n) {
    const uint8_t *name;
    const char *other;
    long argc, length;
    int a, b;
    if (*p != '*') { /* inline command */
        const uint8_t *end = memchr(p, '\n', n);
        c->raw = !end && n > 65536;
        if (end) pass(c, (size_t)(end - p) + 1);
        return end || c->raw;
    }
    a = read_head(p, n, '*', &argc);
    if (a > 0 && argc <= 0) { /* the server ignores it */
        pass(c, (size_t)a);
        return true;
    }
    b = a > 0 ? read_head(p + a, n - (size_t)a, '$', &length) : a;
    c->raw = b < 0;
    if (b <= 0) return c->raw;
    name = p + a + b;
    if (length < 0 || length > 16) length = 0; /* no name that matters here */
    if (n < (size_t)(a + b) + (size_t)length) return false;
    if (is_word(name, (size_t)length, "AUTH") || is_word(name, (size_t)length, "HELLO"))
        return take_login(c, p, n);
    note_subscription(c, name, (size_t)length, argc);
    c->args_left = argc;
    other = instead(name, (size_t)length, argc);
    if (other) {
        erase(c, (size_t)a);
        insert(c, other);
        c->drop = true;
        return true;
    }
    pass(c, (size_t)a);
    return true;
}

/* Decides about as many of the received bytes as can be decided. */
static void examine(struct conn *c) {
    for (;;) {
        const uint8_t *p = c->in + c->in_ok;
        size_t n = c->in_len - c->in_ok;
        if (n == 0) return;
        if (c->raw) {
            pass(c, n);
        } else if (c->bulk_left) {
            size_t k = c->bulk_left < n ? c->bulk_left : n;
            c->bulk_left -= k;
            pass_or_drop(c, k);
        } else if (c->args_left) {
            long length;
            int k = read_head(p, n, '$', &length);
            if (k == 0) return;
            if (k < 0 || length < 0) {
                c->raw = true;
                continue;
            }
            pass_or_drop(c, (size_t)k);
            c->bulk_left = (size_t)length + 2;
            c->args_left--;
        } else {
            c->drop = false;
            if (!take_command(c, p, n)) return;
        }
    }
}

/* ---- Gateway: carrying bytes ------------------------------------------------------------ */

/* After a failed SSL call: what to wait for; 0 when the client is gone. */
static short ssl_wants(struct conn *c, int result) {
    switch (SSL_get_error(c->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        return POLLIN;
    case SSL_ERROR_WANT_WRITE:
        return POLLOUT;
    default:
        c->client_gone = true;
        return 0;
    }
}

static bool has_room(const struct conn *c) { return c->in_len < IN_CAP - IN_RESERVE; }

static bool from_client(struct conn *c) {
    int k;
    if (c->client_gone || !has_room(c)) return false;
    ERR_clear_error();
    k = SSL_read(c->ssl, c->in + c->in_len, (int)(IN_CAP - IN_RESERVE - c->in_len));
    if (k <= 0) {
        c->read_wants = ssl_wants(c, k);
        return false;
    }
    c->in_len += (size_t)k;
    return true;
}

static bool to_server(struct conn *c, uint64_t limit) {
    size_t n = c->in_ok < limit ? c->in_ok : (size_t)limit;
    ssize_t k;
    if (n == 0) return false;
    k = send(c->up, c->in, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (k < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (k < 0) /* it closed: what it said before is still to be read */
        k = (ssize_t)n;
    c->to_server += (uint64_t)k;
    c->in_ok -= (size_t)k;
    c->in_len -= (size_t)k;
    memmove(c->in, c->in + k, c->in_len);
    return true;
}

static bool from_server(struct conn *c) {
    ssize_t k;
    if (c->server_gone || c->out_len) return false;
    k = recv(c->up, c->out, OUT_CAP, MSG_DONTWAIT);
    if (k < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    c->server_gone = k <= 0;
    c->out_pos = 0;
    c->out_len = k > 0 ? (size_t)k : 0;
    return k > 0;
}

static bool to_client(struct conn *c, uint64_t limit) {
    size_t n = c->out_len < limit ? c->out_len : (size_t)limit;
    int k;
    if (c->write_len) /* OpenSSL wants an interrupted write repeated with the same length */
        n = c->write_len;
    if (n == 0 || c->client_gone) return false;
    ERR_clear_error();
    if (!c->write_len && SSL_version(c->ssl) == TLS1_3_VERSION && fault_take(F_KEY_UPDATE, NULL))
        SSL_key_update(c->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
    k = SSL_write(c->ssl, c->out + c->out_pos, (int)n);
    if (k <= 0) {
        c->write_wants = ssl_wants(c, k);
        c->write_len = n;
        return false;
    }
    c->write_len = 0;
    c->to_client += (uint64_t)k;
    c->out_pos += (size_t)k;
    c->out_len -= (size_t)k;
    return true;
}

/* How many more bytes a cut lets through in this direction. g.lock is held. */
static uint64_t cut_limit(struct conn *c, enum fault_id id, uint64_t carried) {
    const struct fault *f = &g.faults[id];
    struct cut *cut = &c->cut[id == F_CUT_REQUEST];
    if (f->left == 0) return UINT64_MAX;
    if (cut->armed != f->armed) {
        cut->armed = f->armed;
        cut->base = carried;
    }
    carried -= cut->base;
    return (uint64_t)f->value > carried ? (uint64_t)f->value - carried : 0;
}

/* Sleeps until something can move. With `only_hangup`, until the client leaves. */
static void conn_wait(struct conn *c, bool only_hangup) {
    struct pollfd p[3] = {{.fd = c->wake, .events = POLLIN}, {.fd = c->fd}, {.fd = c->up}};
    int64_t now = now_ms(), until = c->expires < now + 60000 ? c->expires : now + 60000;
    eventfd_t drained;
    if (c->held_until && c->held_until < until) until = c->held_until;
    if (only_hangup) {
        p[1].events = POLLRDHUP;
        until = now + 60000;
    } else {
        if (!c->client_gone && has_room(c)) p[1].events |= c->read_wants;
        if (c->out_len) p[1].events |= c->write_wants;
        if (c->in_ok) p[2].events |= POLLOUT;
        if (!c->server_gone && !c->out_len) p[2].events |= POLLIN;
    }
    if (!p[1].events) /* or a hang-up would end every poll at once */
        p[1].fd = -1;
    if (!p[2].events) p[2].fd = -1;
    poll(p, 3, until < now ? 0 : (int)(until - now));
    if (p[0].revents) eventfd_read(c->wake, &drained);
    if (only_hangup && p[1].revents) c->client_gone = true;
}

static void flush_to_server(struct conn *c) {
    struct pollfd p = {.fd = c->up, .events = POLLOUT};
    while (c->in_ok && (to_server(c, UINT64_MAX) || poll(&p, 1, 200) > 0)) {}
}

/* Carries both directions until there is a reason to end. */
static enum why conn_carry(struct conn *c) {
    for (;;) {
        uint64_t down, up;
        enum why order;
        bool stalled, moved;
        pthread_mutex_lock(&g.lock);
        order = c->order;
        stalled = c->stalled;
        down = cut_limit(c, F_CUT, c->to_client);
        up = cut_limit(c, F_CUT_REQUEST, c->to_server);
        pthread_mutex_unlock(&g.lock);
        if (order != W_OPEN) return order;
        if (c->client_gone) {
            if (!stalled) flush_to_server(c);
            return W_CLIENT;
        }
        if (stalled) {
            conn_wait(c, true);
            continue;
        }
        if (now_ms() >= c->expires) return W_EXPIRED;
        if ((down == 0 && fault_take(F_CUT, NULL)) || (up == 0 && fault_take(F_CUT_REQUEST, NULL)))
            return W_FAULT;
        moved = from_client(c);
        examine(c);
        moved |= to_server(c, up);
        moved |= from_server(c);
        moved |= to_client(c, down);
        if (c->server_gone && !c->out_len) return W_SERVER;
        if (!moved && !c->client_gone) conn_wait(c, false);
    }
}

static void conn_count_handshake(struct conn *c) {
    bool resumed = SSL_session_reused(c->ssl) == 1;
    pthread_mutex_lock(&g.lock);
    *(resumed ? &g.tls_resumed : &g.tls_full) += 1;
    pthread_mutex_unlock(&g.lock);
}

static bool conn_handshake(struct conn *c) {
    int64_t deadline = now_ms() + 10000;
    struct pollfd p[2] = {{.fd = c->fd}, {.fd = g.stop_fd, .events = POLLIN}};
    int k;
    pthread_mutex_lock(&g.lock);
    c->ssl = must(SSL_new(g.ssl_ctx));
    pthread_mutex_unlock(&g.lock);
    SSL_set_fd(c->ssl, c->fd);
    for (;;) {
        ERR_clear_error();
        if ((k = SSL_accept(c->ssl)) == 1) {
            conn_count_handshake(c);
            return true;
        }
        p[0].events = ssl_wants(c, k);
        if (c->client_gone || now_ms() >= deadline || poll(p, 2, 1000) < 0 || p[1].revents) return false;
    }
}

/* Our last word, then read until the client has closed too: an unread byte would become a reset
 * and could overtake what we sent. */
static void conn_part(struct conn *c, bool notify) {
    int64_t deadline = now_ms() + 500;
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    char waste[4096];
    if (notify && !c->write_len) SSL_shutdown(c->ssl);
    shutdown(c->fd, SHUT_WR);
    while (now_ms() < deadline && poll(&p, 1, 100) >= 0)
        if (p.revents && recv(c->fd, waste, sizeof waste, MSG_DONTWAIT) <= 0) return;
}

static void conn_record_end(struct conn *c, enum why why) {
    struct conn **at;
    pthread_mutex_lock(&g.lock);
    for (at = &g.conns; *at != c; at = &(*at)->next) {}
    *at = c->next;
    g.connections_open--;
    g.connections_expired += why == W_EXPIRED;
    if ((size_t)c->number <= g.record_count) {
        g.records[c->number - 1].closed = now_ms() - g.start;
        g.records[c->number - 1].why = why;
    }
    pthread_mutex_unlock(&g.lock);
    say("connection %ld: closed (%s)", c->number, WHY[why]);
}

static void *conn_main(void *arg) {
    struct conn *c = arg;
    enum why why = W_CLIENT;
    if (conn_handshake(c)) {
        c->up = dial_redis();
        why = c->up >= 0 ? conn_carry(c) : W_SERVER;
    }
    conn_record_end(c, why); /* first the books, then what the client can see */
    if (c->up >= 0) close(c->up);
    if (why == W_EXPIRED || why == W_SERVER || why == W_FAULT) conn_part(c, why != W_FAULT);
    ERR_clear_error();
    SSL_free(c->ssl);
    close(c->fd);
    close(c->wake);
    free(c->in);
    free(c->out);
    free(c);
    OPENSSL_thread_stop();
    pthread_mutex_lock(&g.lock);
    g.conn_threads--;
    pthread_cond_broadcast(&g.changed);
    pthread_mutex_unlock(&g.lock);
    return NULL;
}

static bool start_thread(void *(*run)(void *), void *arg) {
    pthread_attr_t attr;
    pthread_t thread;
    int failed;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&thread, &attr, run, arg);
    pthread_attr_destroy(&attr);
    return failed == 0;
}

static void conn_open(int fd) {
    struct conn *c = must(calloc(1, sizeof *c));
    struct conn_record r = {.opened = now_ms() - g.start, .closed = -1};
    int one = 1;
    c->fd = fd;
    c->up = -1;
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->read_wants = POLLIN;
    c->write_wants = POLLOUT;
    c->in = must(malloc(IN_CAP));
    c->out = must(malloc(OUT_CAP));
    c->expires = NEVER;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    pthread_mutex_lock(&g.lock);
    c->number = ++g.connections_opened;
    c->next = g.conns;
    g.conns = c;
    g.connections_open++;
    g.conn_threads++;
    if (make_room(&g.records, g.record_count, &g.record_room, sizeof r, RECORDS_MAX))
        g.records[g.record_count++] = r;
    pthread_mutex_unlock(&g.lock);
    say("connection %ld: opened", c->number);
    if (!start_thread(conn_main, c)) die("cannot start a thread for a connection");
}

static void gateway_accept(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        nap(errno == EMFILE || errno == ENFILE ? 50 : 0);
    else if (fault_take(F_REFUSE, NULL))
        close(fd);
    else
        conn_open(fd);
}

/* Gives an order to every open connection, or only wakes them to look at the faults again. */
static long conns_tell(enum why order, int stall) {
    struct conn *c;
    long n = 0;
    pthread_mutex_lock(&g.lock);
    for (c = g.conns; c; c = c->next, n++) {
        if (order != W_OPEN) c->order = order;
        if (stall >= 0) c->stalled = stall;
        eventfd_write(c->wake, 1);
    }
    pthread_mutex_unlock(&g.lock);
    return n;
}

/* ---- HTTP: what both servers share ------------------------------------------------------ */

struct request { /* of one HTTP exchange, between the calls of its handler */
    struct endpoint *at;
    char target[2048]; /* as it came */
    char body[BODY_MAX + 1];
    size_t n;
    bool begun, too_long;
};

static enum MHD_Result reply_text(struct MHD_Connection *h, unsigned status, const char *type,
                                  const char *text, const char *extra, const char *extra_value) {
    struct MHD_Response *r =
        MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result;
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "Cache-Control", "no-store, no-cache");
    if (extra) MHD_add_response_header(r, extra, extra_value);
    if (dials[D_CLOCK_OFFSET]) {
        char date[64];
        struct tm tm;
        time_t now = entra_time();
        strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
        MHD_add_response_header(r, "Date", date);
    }
    result = MHD_queue_response(h, status, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result reply_json(struct MHD_Connection *h, unsigned status, json_t *value) {
    char *text = must(json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY));
    enum MHD_Result r = reply_text(h, status, "application/json; charset=utf-8", text, NULL, NULL);
    json_decref(value);
    free(text);
    return r;
}

/* The request begins: the target is kept before anything is decoded. */
static void *on_http_uri(void *cls, const char *uri, struct MHD_Connection *h) {
    struct request *r = must(calloc(1, sizeof *r));
    (void)h;
    r->at = cls;
    snprintf(r->target, sizeof r->target, "%s", uri);
    return r;
}

static enum MHD_Result keep_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value) {
    static const char *const secret[] = {"Authorization", "Secret", "X-IDENTITY-HEADER", "Cookie", NULL};
    int i;
    (void)kind;
    for (i = 0; secret[i]; i++)
        if (strcasecmp(name, secret[i]) == 0) value = "(not shown)";
    json_object_set_new(cls, name, json_bytes(value, strlen(value)));
    return MHD_YES;
}

/* For tests that compare a request with the specification. */
static void keep_request(struct MHD_Connection *h, struct endpoint *e, const char *method, const struct request *r) {
    json_t *headers = json_object(), *last;
    MHD_get_connection_values(h, MHD_HEADER_KIND, keep_header, headers);
    last = json_pack("{ss so so}", "method", method, "target", json_bytes(r->target, strlen(r->target)), "headers",
                     headers);
    pthread_mutex_lock(&g.lock);
    e->requests++;
    json_decref(e->last);
    e->last = last;
    pthread_mutex_unlock(&g.lock);
}

/* Collects the body, then calls the endpoint's answer. */
static enum MHD_Result on_http(void *cls, struct MHD_Connection *h, const char *url, const char *method,
                               const char *version, const char *data, size_t *size, void **state) {
    struct endpoint *e = cls;
    struct request *r = *state;
    (void)version;
    if (!r->begun) {
        r->begun = true;
        return MHD_YES;
    }
    if (*size) {
        r->too_long |= *size > BODY_MAX - r->n;
        if (!r->too_long) {
            memcpy(r->body + r->n, data, *size);
            r->n += *size;
        }
        *size = 0;
        return MHD_YES;
    }
    if (r->too_long) return reply_text(h, 413, "text/plain", "request too long\n", NULL, NULL);
    if (e != &g.admin) keep_request(h, e, method, r);
    return e->answer(h, url, method, r);
}

/* False closes the connection before a byte is read. */
static enum MHD_Result on_http_accept(void *cls, const struct sockaddr *from, socklen_t n) {
    struct endpoint *e = cls;
    (void)from, (void)n;
    if (e == &g.admin) return MHD_YES;
    pthread_mutex_lock(&g.lock);
    e->connections++;
    pthread_mutex_unlock(&g.lock);
    return fault_take(FAULT(e->id, K_REFUSE), NULL) ? MHD_NO : MHD_YES;
}

static void on_http_done(void *cls, struct MHD_Connection *h, void **state,
                         enum MHD_RequestTerminationCode why) {
    (void)cls, (void)h, (void)why;
    free(*state);
    *state = NULL;
}

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

/* ---- Admin: counters, faults, tokens, the real server ----------------------------------- */

static json_t *counters_faults(void) {
    json_t *all = json_object();
    char name[40];
    int i;
    for (i = 0; i < FAULT_COUNT; i++) {
        if (!g.faults[i].armed) continue;
        fault_name(i, name);
        json_object_set_new(all, name,
                            json_pack("{sI sI sI}", "asked", (json_int_t)g.faults[i].asked, "fired",
                                      (json_int_t)g.faults[i].fired, "left", (json_int_t)g.faults[i].left));
    }
    return all;
}

/* Of each endpoint, "imds_requests" and so on. */
static void counters_endpoints(json_t *out) {
    char name[40];
    int i, k;
    for (i = 0; i < E_COUNT; i++) {
        const struct endpoint *e = &g.endpoint[i];
        const struct { const char *what; long n; } all[] = {
            {"connections", e->connections}, {"requests", e->requests}, {"answers", e->answers}};
        for (k = 0; k < 3; k++) {
            if (i == E_TOKEN && k == 1) continue; /* "token_requests" counts without discovery */
            snprintf(name, sizeof name, "%s_%s", ENDPOINTS[i], all[k].what);
            json_object_set_new(out, name, json_integer(all[k].n));
        }
    }
    json_object_set_new(out, "fabric_secrets", json_integer(g.fabric_secrets));
    json_object_set_new(out, "proxy_tunnels", json_integer(g.proxy_tunnels));
    json_object_set_new(out, "proxy_plain", json_integer(g.proxy_plain));
}

static json_t *counters_records(json_t *out) {
    json_t *auths = json_array(), *connections = json_array();
    size_t i;
    for (i = 0; i < g.auth_count; i++) {
        const struct auth_record *a = &g.auths[i];
        json_array_append_new(auths,
                              json_pack("{sI sI ss sb so sI}", "at_ms", (json_int_t)a->at, "connection",
                                        (json_int_t)a->connection, "user", a->user, "accepted", a->accepted,
                                        "seconds_left", a->left < 0 ? json_null() : json_real(a->left),
                                        "delayed_ms", (json_int_t)a->delayed));
    }
    for (i = 0; i < g.record_count; i++) {
        const struct conn_record *c = &g.records[i];
        json_array_append_new(connections,
                              json_pack("{sI sI so so}", "number", (json_int_t)i + 1, "opened_ms",
                                        (json_int_t)c->opened, "closed_ms",
                                        c->closed < 0 ? json_null() : json_integer(c->closed), "why",
                                        c->why == W_OPEN ? json_null() : json_string(WHY[c->why])));
    }
    json_object_set_new(out, "auths", auths);
    json_object_set_new(out, "connections", connections);
    return out;
}

static json_t *counters(bool records) {
    json_t *c;
    pthread_mutex_lock(&g.lock);
    c = json_pack("{sI sI sI sI sI sI sI sI sI sI sI sI sI so}", "uptime_ms", (json_int_t)(now_ms() - g.start),
                  "token_requests", (json_int_t)g.token_requests, "tokens_issued",
                  (json_int_t)g.tokens_issued, "token_errors", (json_int_t)g.token_errors, "auths_total",
                  (json_int_t)g.auths_total, "auths_accepted", (json_int_t)g.auths_accepted,
                  "reauths_accepted", (json_int_t)g.reauths_accepted, "connections_opened",
                  (json_int_t)g.connections_opened, "connections_open", (json_int_t)g.connections_open,
                  "connections_expired", (json_int_t)g.connections_expired, "trap_hits",
                  (json_int_t)g.trap_hits, "tls_full", (json_int_t)g.tls_full, "tls_resumed",
                  (json_int_t)g.tls_resumed, "faults", counters_faults());
    counters_endpoints(c);
    if (records) counters_records(c);
    pthread_mutex_unlock(&g.lock);
    return c;
}

static enum MHD_Result reply_error(struct MHD_Connection *h, unsigned status, const char *text) {
    return reply_json(h, status, json_pack("{ss}", "error", text));
}

/* Tickets are sealed by a new key from now on, and those of before open no more. */
static void forget_sessions(void) {
    unsigned char keys[80];
    random_bytes(keys, sizeof keys);
    tls_must(SSL_CTX_set_tlsext_ticket_keys(g.ssl_ctx, keys, sizeof keys) == 1, "ticket keys");
    SSL_CTX_flush_sessions(g.ssl_ctx, 0x7fffffff);
    OPENSSL_cleanse(keys, sizeof keys);
}

static void endpoint_listen(struct endpoint *e, bool up);

/* What an armed fault does at once. Also used for those of the command line. */
static void fault_effect(int id) {
    bool once = id == F_EXPIRE_NOW || id == F_FORGET_SESSIONS;
    long n = 1;
    if (is_kind(id, K_DOWN)) {
        endpoint_listen(&g.endpoint[(id - F_COUNT) / K_COUNT], false);
        fault_take(id, NULL);
        return;
    }
    if (id == F_FORGET_SESSIONS)
        forget_sessions();
    else if (id == F_EXPIRE_NOW)
        n = conns_tell(W_EXPIRED, -1);
    else
        n = conns_tell(W_OPEN, id == F_STALL ? true : -1);
    if (id >= F_COUNT || (!once && id != F_STALL)) return;
    pthread_mutex_lock(&g.lock);
    g.faults[id].fired += n;
    if (once) g.faults[id].left = 0;
    pthread_mutex_unlock(&g.lock);
    say("fault %s fired, %ld times", FAULTS[id].name, n);
}

static enum MHD_Result answer_fault(struct MHD_Connection *h, const char *method) {
    const char *name = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "name"), *complaint;
    int id = name ? fault_find(name) : -1;
    if (id < 0) return reply_error(h, 400, "no fault of this name");
    if (strcmp(method, "DELETE") == 0) {
        pthread_mutex_lock(&g.lock);
        g.faults[id].left = 0;
        pthread_mutex_unlock(&g.lock);
        if (id == F_STALL) conns_tell(W_OPEN, false);
        if (is_kind(id, K_DOWN)) endpoint_listen(&g.endpoint[(id - F_COUNT) / K_COUNT], true);
        say("fault %s disarmed", name);
        return reply_json(h, 200, json_pack("{ss}", "disarmed", name));
    }
    complaint = fault_arm(id, MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "value"),
                          MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "count"));
    if (complaint) return reply_error(h, 400, complaint);
    say("fault %s armed", name);
    fault_effect(id);
    return reply_json(h, 200, json_pack("{ss}", "armed", name));
}

/* A command on a connection of its own: it may block, and must not hold up the tokens. */
static json_t *redis_once(const json_t *args) {
    struct rconn *r = must(malloc(sizeof *r));
    json_t *reply = NULL;
    if (r_open(r, 60)) {
        reply = r_command(r, args);
        r_close(r);
    }
    free(r);
    return reply;
}

static enum MHD_Result answer_command(struct MHD_Connection *h, struct request *request) {
    json_t *args = json_loadb(request->body, request->n, JSON_ALLOW_NUL, NULL), *reply;
    size_t i;
    bool good = json_array_size(args) > 0;
    for (i = 0; i < json_array_size(args); i++) good = good && json_is_string(json_array_get(args, i));
    if (!good) {
        json_decref(args);
        return reply_error(h, 400, "the body is a JSON array of strings");
    }
    reply = redis_once(args);
    json_decref(args);
    return reply ? reply_json(h, 200, reply) : reply_error(h, 502, "no answer from redis-server");
}

static enum MHD_Result answer_info(struct MHD_Connection *h) {
    const char *section = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "section");
    json_t *args = json_pack("[ss]", "INFO", section ? section : "default"), *reply;
    enum MHD_Result r;
    reply = args ? redis_once(args) : NULL;
    r = json_is_string(reply)
            ? reply_text(h, 200, "text/plain; charset=utf-8", json_string_value(reply), NULL, NULL)
            : reply_error(h, 502, "no answer from redis-server");
    json_decref(args);
    json_decref(reply);
    return r;
}

/* Main does it (see redis_spawn); this waits. */
static enum MHD_Result answer_restart(struct MHD_Connection *h) {
    long mine;
    bool failed;
    struct timespec second;
    pthread_mutex_lock(&g.lock);
    mine = ++g.restarts_asked;
    eventfd_write(g.wake_fd, 1);
    while (g.restarts_done < mine && !nap(0)) {
        clock_gettime(CLOCK_REALTIME, &second);
        second.tv_sec++;
        pthread_cond_timedwait(&g.changed, &g.lock, &second);
    }
    failed = g.restarts_done < mine || g.restart_failed;
    pthread_mutex_unlock(&g.lock);
    return failed ? reply_error(h, 500, "redis-server did not start again")
                  : reply_json(h, 200, json_pack("{sb}", "restarted", true));
}

static enum MHD_Result answer_mint(struct MHD_Connection *h) {
    static const struct token_wish plain;
    struct principal *p = &g.who[P_SECRET];
    char *token = token_issue(&plain, SCOPE_URL, p);
    json_t *body =
        json_pack("{ss ss sI}", "access_token", token, "oid", p->oid, "expires_in", (json_int_t)g.ttl);
    free(token);
    return reply_json(h, 200, body);
}

static struct endpoint *endpoint_of(struct MHD_Connection *h) {
    const char *name = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "endpoint");
    int i;
    for (i = 0; name && i < E_COUNT; i++)
        if (strcmp(name, ENDPOINTS[i]) == 0) return &g.endpoint[i];
    return NULL;
}

/* The last request of an endpoint: method, target, headers. */
static enum MHD_Result answer_request(struct MHD_Connection *h) {
    struct endpoint *e = endpoint_of(h);
    json_t *copy;
    if (!e) return reply_error(h, 400, "no endpoint of this name");
    pthread_mutex_lock(&g.lock);
    copy = e->last ? json_deep_copy(e->last) : json_null();
    pthread_mutex_unlock(&g.lock);
    return reply_json(h, 200, copy);
}

/* The platform gives its endpoint a new header value, as App Service does from time to time. */
static enum MHD_Result answer_rotate(struct MHD_Connection *h) {
    struct endpoint *e = endpoint_of(h);
    char value[41];
    if (!e || !e->header[0]) return reply_error(h, 400, "no endpoint of this name that wants a header value");
    new_header(value);
    pthread_mutex_lock(&g.lock);
    memcpy(e->header, value, sizeof value);
    pthread_mutex_unlock(&g.lock);
    return reply_json(h, 200, json_pack("{ss}", "header", value));
}

static enum MHD_Result answer_set(struct MHD_Connection *h) {
    const char *name = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "name"),
               *value = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "value"),
               *complaint = dial_set(name ? name : "", value ? value : "");
    return complaint ? reply_error(h, 400, complaint) : reply_json(h, 200, json_pack("{ss}", name, value));
}

static void gateway_certificate(const char *kind) {
    struct identity id = new_identity(kind, g.ca, g.issuer_key);
    SSL_CTX *was = g.ssl_ctx;
    pthread_mutex_lock(&g.lock);
    gateway_tls(&id);
    pthread_mutex_unlock(&g.lock);
    SSL_CTX_free(was);                  /* connections hold on to it */
    free_identity(&id);
}

/* What the cache's owner changes while it runs. Tokens from before keep what they have. */
static enum MHD_Result answer_cache(struct MHD_Connection *h) {
    const char *policy = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "policy");
    const char *entra = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "entra");
    const char *cert = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "certificate");
    if (policy && !policy_find(policy)) return reply_error(h, 400, "no policy of this name");
    if (cert && !cert_kind(cert)) return reply_error(h, 400, "no kind of this name");
    pthread_mutex_lock(&g.redis_lock);
    if (policy) cache.policy = policy_find(policy);
    if (entra) cache.entra_off = strcmp(entra, "off") == 0;
    if (cert) gateway_certificate(cert_kind(cert));
    pthread_mutex_unlock(&g.redis_lock);
    return reply_json(h, 200, json_pack("{ss sb}", "policy", cache.policy->name, "entra", !cache.entra_off));
}

static enum MHD_Result answer_admin(struct MHD_Connection *h, const char *url, const char *method,
                                    struct request *request) {
    const char *host = MHD_lookup_connection_value(h, MHD_HEADER_KIND, "Host");
    const char *records = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "records");
    bool get = strcmp(method, "GET") == 0, post = strcmp(method, "POST") == 0;
    if (strcmp(url, "/trap") == 0) {
        pthread_mutex_lock(&g.lock);
        g.trap_hits++;
        pthread_mutex_unlock(&g.lock);
        say("the trap was visited");
        return reply_text(h, 200, "text/plain", "trap\n", NULL, NULL);
    }
    /* A web page that rebinds its name to 127.0.0.1 still names itself here. */
    if (!host || (strncmp(host, "127.0.0.1", 9) != 0 && strncmp(host, "localhost", 9) != 0))
        return reply_error(h, 403, "wrong host");
    if (get && strcmp(url, "/counters") == 0)
        return reply_json(h, 200, counters(!records || strcmp(records, "0") != 0));
    if (get && strcmp(url, "/healthz") == 0) return reply_text(h, 200, "text/plain", "ok\n", NULL, NULL);
    if (get && strcmp(url, "/token") == 0) return answer_mint(h);
    if ((post || strcmp(method, "DELETE") == 0) && strcmp(url, "/fault") == 0) return answer_fault(h, method);
    if (get && strcmp(url, "/request") == 0) return answer_request(h);
    if (post && strcmp(url, "/rotate") == 0) return answer_rotate(h);
    if (post && strcmp(url, "/set") == 0) return answer_set(h);
    if (strcmp(url, "/device") == 0) return post ? answer_person(h) : answer_grants(h);
    if (post && strcmp(url, "/revoke") == 0) return answer_revoke(h);
    if (!get && strcmp(url, "/certificate") == 0) return answer_certificate(h, method, request);
    if (post && strcmp(url, "/cache") == 0) return answer_cache(h);
    if (post && strcmp(url, "/assertion") == 0) return answer_assertion(h, request);
    if (get && strcmp(url, "/redis/info") == 0) return answer_info(h);
    if (post && strcmp(url, "/redis/command") == 0) return answer_command(h, request);
    if (post && strcmp(url, "/redis/restart") == 0) return answer_restart(h);
    return reply_error(h, 404, "not found");
}

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

/* ---- Command line ----------------------------------------------------------------------- */

static void help(void) {
    int i;
    size_t k;
    puts("usage: emulator [flags]      Entra ID and Azure Managed Redis on a desk\n\n"
         "  --port P               gateway on P, authority on P+1, admin on P+2, then imds, appservice,\n"
         "                         msi, arc, cloudshell, fabric, ml, aks, proxy (10000); 0: free ports\n"
         "  --token-ttl S          life of a token in seconds, 1 or more, 1.5 is fine (3600)\n"
         "  --env-file PATH        where to write the settings for a shell, removed at the end;\n"
         "                         beside it PATH.NAME for each environment below\n"
         "  --assertion-ttl S      life of the federated tokens that it writes to files (3600)\n"
         "  --arc-dir PATH         where Azure Arc's challenge files go; the real agent's directory is\n"
         "                         /var/opt/azcmagent/tokens (default: one of its own)\n"
         "  --proxy-login U:P      user and password that the proxy wants\n"
         "  --redis-server PATH    the server to start (redis-server or redis-check-rdb in PATH)\n"
         "  --access-key           also let the default user in, by AZREDIS_ACCESS_KEY\n"
         "  --tls 1.2|1.3          only this version on the gateway\n"
         "  --ciphers LIST         OpenSSL cipher list for TLS 1.2 on the gateway\n"
         "  --gateway-cert KIND    good, expired, not-yet-valid, wrong-host, self-signed,\n"
         "                         untrusted, ecdsa, long-chain or ends-soon\n"
         "  --authority-cert KIND  the same for the authority\n"
         "  --client-cert PEM      certificates of the application that signs in by one; repeatable\n"
         "  --client-subject PEM   first certificate's subject name, trusted below the last one; repeatable\n"
         "  --set NAME=VALUE       see SETTINGS; repeatable\n"
         "  --fault NAME[=VALUE][*N|*]   arm a fault once, N times, or for ever; repeatable\n"
         "  --quiet                print only errors\n"
         "  -h, --help             this");
    cache_help();
    puts("\nfaults:");
    for (i = 0; i < F_COUNT; i++)
        printf("  %-17s %s%s\n", FAULTS[i].name, FAULTS[i].value == 'n' ? "=VALUE: " : "", FAULTS[i].help);
    puts("\nfaults of an endpoint, ENDPOINT-NAME as in imds-410; ENDPOINT is one of");
    for (i = 0; i < E_COUNT; i++) printf(" %s", ENDPOINTS[i]);
    puts(":");
    for (i = 0; i < K_COUNT; i++)
        printf("  %-13s %s%s%s\n", KINDS[i].name, KINDS[i].value == 'n' ? "=VALUE: " : "", KINDS[i].help,
               KINDS[i].at == AT_MANAGED    ? " (not token, aks, proxy, device)"
               : KINDS[i].at == AT(E_ARC)   ? " (arc)"
               : KINDS[i].at == AT(E_PROXY) ? " (proxy)"
               : KINDS[i].at == AT(E_TOKEN) ? " (token)"
               : KINDS[i].at == AT_STS      ? " (token, aks, device)"
               : KINDS[i].at == AT_PORT     ? " (not proxy, device)"
               : KINDS[i].at == AT_HTTP     ? " (not proxy)"
               : KINDS[i].at == AT_ALL      ? ""
                                            : " (not device)");
    puts("\nCHALLENGES: 1 quoted path, 2 scheme in small letters, 3 another directory, 4 traversal, 5 sub-directory,\n"
         "  6 no directory, 7 two slashes, 8 link, 9 directory, 10 a file of 4096 bytes, 11 of 4097, 12 of none,\n"
         "  13 CR LF in it, 14 NUL in it, 15 no path, 16 another scheme, 17 no header, 18 another extension,\n"
         "  19 none: the first answer is a token\n"
         "\nENVIRONMENTS:");
    for (k = 0; k < ENVIRONMENT_COUNT; k++) printf("  %-16s %s\n", ENVIRONMENTS[k].name, ENVIRONMENTS[k].help);
    puts("\nTo sign in as a person: . PATH.device, begin, and approve the code that is shown (any, the last one) by\n"
         "  curl -X POST \"$EMULATOR_ADMIN/device?user_code=CODE&action=approve\"\n"
         "A certificate to sign in with: . PATH.certificate; the files are $EMULATOR_CERTIFICATE (PEM with key) and\n"
         "  $EMULATOR_PFX (PKCS#12, password $EMULATOR_PFX_PASSWORD).");
    puts("\nSETTINGS of --set, with what they are without it:");
    for (i = 0; i < D_COUNT; i++) printf("  %-17s %5ld  %s\n", DIALS[i].name, DIALS[i].standard, DIALS[i].help);
    puts("\nadmin: GET /counters[?records=0] /token /healthz /redis/info?section=S\n"
         "       POST /fault?name=NAME[&value=V][&count=N|*]   DELETE /fault?name=NAME\n"
         "       GET /request?endpoint=E    the last request of that endpoint, secret headers not shown\n"
         "       POST /rotate?endpoint=E    a new IDENTITY_HEADER or MSI_SECRET for it\n"
         "       POST /assertion {\"claims\":{...},\"life\":S,\"stranger\":true,\"binding\":true,\"write\":true}\n"
         "                                  a federated token of your own; all members optional\n"
         "       POST /device?user_code=CODE&action=approve   or decline, expire; without user_code: the last one's\n"
         "       GET /device                the device codes with their states and polls\n"
         "       POST /revoke[?code=N]      refuses every refresh token of before with that AADSTS code (50173)\n"
         "       POST /set?name=NAME&value=V\n"
         "       POST /certificate[?trust=subject] (PEM)   as --client-cert, --client-subject; DELETE: forgets all\n"
         "       POST /cache?policy=P&entra=on|off&certificate=KIND   of tokens and connections from now on\n"
         "       POST /redis/command (JSON array of strings)   POST /redis/restart");
    exit(0);
}

static void flag_fault(const char *text) {
    char *copy = must(strdup(text)), *count = strrchr(copy, '*'), *value;
    const char *complaint;
    int id;
    if (count) *count++ = 0;
    value = strchr(copy, '=');
    if (value) *value++ = 0;
    id = fault_find(copy);
    if (id < 0) bad_usage("--fault: there is no fault '%s'", copy);
    complaint = fault_arm(id, value, count && !*count ? "*" : count);
    if (complaint) bad_usage("--fault %s: %s", text, complaint);
    free(copy);
}

static const char *flag_kind(const char *flag, const char *value) {
    if (!cert_kind(value)) bad_usage("%s: there is no kind '%s'", flag, value);
    return cert_kind(value);
}

static void flag_set(const char *text) {
    char *copy = must(strdup(text)), *value = strchr(copy, '=');
    const char *complaint;
    if (value) *value++ = 0;
    complaint = dial_set(copy, value ? value : "");
    if (complaint) bad_usage("--set %s: %s", text, complaint);
    free(copy);
}

static void flag_with_value(const char *flag, const char *value) {
    char *end;
    long port;
    if (strcmp(flag, "--token-ttl") == 0) {
        g.ttl = strtod(value, &end);
        if (end == value || *end || !(g.ttl >= 1) || g.ttl > 30 * 86400)
            bad_usage("--token-ttl: '%s' is not a number of seconds from 1 to 2592000", value);
    } else if (strcmp(flag, "--port") == 0) {
        if (!parse_number(value, &port) || port > 65535 - 2 - E_PROXY)
            bad_usage("--port: '%s' is not a port from 0 to %d", value, 65535 - 2 - E_PROXY);
        g.port = (int)port;
    } else if (strcmp(flag, "--tls") == 0) {
        if (strcmp(value, "1.2") != 0 && strcmp(value, "1.3") != 0)
            bad_usage("--tls: '%s' is neither 1.2 nor 1.3", value);
        g.tls = value;
    } else if (strcmp(flag, "--redis-server") == 0) {
        g.redis_path = value;
    } else if (strcmp(flag, "--env-file") == 0) {
        g.env_path = value;
        if (!*value || strlen(value) >= PATH_MAX) bad_usage("--env-file: not a path");
    } else if (strcmp(flag, "--assertion-ttl") == 0) {
        g.assertion_ttl = strtod(value, &end);
        if (end == value || *end || !(g.assertion_ttl >= 1) || g.assertion_ttl > 86400)
            bad_usage("--assertion-ttl: '%s' is not a number of seconds from 1 to 86400", value);
    } else if (strcmp(flag, "--arc-dir") == 0) {
        g.arc_dir = value;
        if (*value != '/' || strlen(value) >= PATH_MAX || access(value, W_OK) != 0)
            bad_usage("--arc-dir: '%s' is no directory that can be written to", value);
    } else if (strcmp(flag, "--proxy-login") == 0) {
        g.proxy_login = value;
        if (!strchr(value, ':') || strlen(value) > 200) bad_usage("--proxy-login: USER:PASSWORD is wanted");
    } else if (strcmp(flag, "--gateway-cert") == 0) {
        g.gateway_cert = flag_kind(flag, value);
    } else if (strcmp(flag, "--authority-cert") == 0) {
        g.authority_cert = flag_kind(flag, value);
    } else if (strcmp(flag, "--ciphers") == 0) {
        g.ciphers = value;
    } else if (strcmp(flag, "--client-cert") == 0 || strcmp(flag, "--client-subject") == 0) {
        client_certs_of_file(value, strcmp(flag, "--client-subject") == 0);
    } else if (strcmp(flag, "--set") == 0) {
        flag_set(value);
    } else {
        flag_fault(value);
    }
}

static void parse_flags(int argc, char **argv) {
    static const char *const valued[] = {
        "--token-ttl",      "--port", "--redis-server", "--env-file", "--gateway-cert",
        "--authority-cert", "--tls",  "--ciphers",      "--fault",    "--assertion-ttl",
        "--arc-dir",        "--proxy-login", "--client-cert", "--client-subject", "--set", "--policy",
        "--entra",          "--cluster",     NULL};
    int i, k;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) help();
        if (strcmp(argv[i], "--quiet") == 0) {
            g.quiet = true;
        } else if (strcmp(argv[i], "--access-key") == 0) {
            g.access_key_on = true;
        } else if (strcmp(argv[i], "--plain") == 0) {
            cache.plain = true;
        } else {
            for (k = 0; valued[k] && strcmp(valued[k], argv[i]) != 0; k++) {}
            if (!valued[k]) bad_usage("unknown flag '%s'", argv[i]);
            if (++i == argc) bad_usage("%s needs a value", valued[k]);
            if (!cache_flag(valued[k], argv[i])) flag_with_value(valued[k], argv[i]);
        }
    }
}

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
