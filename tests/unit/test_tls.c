/* Unit test of >>tls: against a server of OpenSSL in a thread, with certificates made here and now. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define AZREDIS_ENTRA_IMPLEMENTATION
#define AZREDIS_ASSERT(x) mock_assert((x) ? 1 : 0, #x, __FILE__, __LINE__)
#define AZRI_TLS_BUNDLES "missing-a.pem", "missing-b.pem", "system.pem"   /* in the test's own directory */
#include "azredis_entra.h"

#include <malloc.h>
#include <sys/wait.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#define NOW       1800000000       /* 2027-01-15T08:00:00Z, after every release that is tested with it */
#define DAY       86400
#define DEBIAN    "/etc/ssl/certs/ca-certificates.crt"
#define BULK      (10u << 20)

/* ---- heap accounting of this thread --------------------------------------------------------------- */

#if defined(__has_feature)
#  if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#    define NO_HEAP_COUNT
#  endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#  define NO_HEAP_COUNT
#endif

static __thread int heap_on;
static __thread long heap_live, heap_peak;

#ifndef NO_HEAP_COUNT
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t m);
extern void *__libc_realloc(void *p, size_t n);
extern void __libc_free(void *p);

static void heap_add(const void *p, int sign) {
    if (!heap_on || !p) return;
    heap_live += sign * (long)malloc_usable_size((void *)(uintptr_t)p);
    if (heap_live > heap_peak) heap_peak = heap_live;
}

void *malloc(size_t n) {
    void *p = __libc_malloc(n);
    heap_add(p, 1);
    return p;
}

void *calloc(size_t n, size_t m) {
    void *p = __libc_calloc(n, m);
    heap_add(p, 1);
    return p;
}

void *realloc(void *old, size_t n) {
    void *p;
    heap_add(old, -1);
    p = __libc_realloc(old, n);
    heap_add(p, 1);
    return p;
}

void free(void *p) {
    heap_add(p, -1);
    __libc_free(p);
}
#endif

static void heap_start(void) {
    heap_live = heap_peak = 0;
    heap_on = 1;
}

/* 0 under the sanitizers and valgrind, which have allocators and leak checks of their own. */
static int heap_counts(void) {
    void *volatile p;
    heap_start();
    p = malloc(100);
    free(p);
    heap_on = 0;
    return heap_peak >= 100;
}

/* ---- certificates -------------------------------------------------------------------------------- */

typedef struct cert { X509 *x; EVP_PKEY *key; } cert;

typedef struct shape {             /* zero: a server certificate that is valid now */
    const char *san;               /* OpenSSL's text; NULL: none */
    const char *eku, *ku, *nc;     /* nc: name constraints */
    const char *bc;                /* basic constraints; NULL: by ca */
    int         ca, rsa, bits, sha1;
    int         from, to;          /* days from NOW; both 0: -30 and 300 */
    EVP_PKEY   *key;               /* NULL: a new one */
} shape;

static void add_ext(X509 *x, X509 *issuer, int nid, const char *value) {
    X509V3_CTX c;
    X509_EXTENSION *e;
    if (!value) return;
    X509V3_set_ctx(&c, issuer, x, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &c, nid, value);
    assert_non_null(e);
    X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
}

static cert make(const char *cn, const cert *issuer, shape s) {
    static long serial = 1;
    X509_NAME *name = X509_NAME_new();
    cert c;
    if (s.key) EVP_PKEY_up_ref(s.key);
    c.key = s.key ? s.key : s.rsa ? EVP_RSA_gen((size_t)(s.bits ? s.bits : 2048)) : EVP_EC_gen("P-256");
    c.x = X509_new();
    assert_non_null(c.key);
    X509_set_version(c.x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(c.x), serial++);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0);
    X509_set_subject_name(c.x, name);
    X509_set_issuer_name(c.x, issuer ? X509_get_subject_name(issuer->x) : name);
    X509_NAME_free(name);
    if (!s.from && !s.to) {
        s.from = -30;
        s.to = 300;
    }
    ASN1_TIME_set(X509_getm_notBefore(c.x), NOW + (time_t)s.from * DAY);
    ASN1_TIME_set(X509_getm_notAfter(c.x), NOW + (time_t)s.to * DAY);
    X509_set_pubkey(c.x, c.key);
    add_ext(c.x, issuer ? issuer->x : c.x, NID_basic_constraints, s.bc ? s.bc : s.ca ? "critical,CA:TRUE" : "CA:FALSE");
    add_ext(c.x, issuer ? issuer->x : c.x, NID_name_constraints, s.nc);
    add_ext(c.x, issuer ? issuer->x : c.x, NID_subject_alt_name, s.san);
    add_ext(c.x, issuer ? issuer->x : c.x, NID_ext_key_usage, s.eku);
    add_ext(c.x, issuer ? issuer->x : c.x, NID_key_usage, s.ku);
    assert_true(X509_sign(c.x, issuer ? issuer->key : c.key, s.sha1 ? EVP_sha1() : EVP_sha256()) > 0);
    return c;
}

static void drop(cert *c) {
    X509_free(c->x);
    EVP_PKEY_free(c->key);
}

static shape with_san(const char *san) {
    shape s;
    memset(&s, 0, sizeof s);
    s.san = san;
    return s;
}

static char *pem_of(const X509 *x) {
    BIO *b = BIO_new(BIO_s_mem());
    char *data, *out;
    long n;
    PEM_write_bio_X509(b, (X509 *)(uintptr_t)x);
    n = BIO_get_mem_data(b, &data);
    out = (char *)calloc(1, (size_t)n + 1);
    memcpy(out, data, (size_t)n);
    BIO_free(b);
    return out;
}

static void write_file(const char *path, const char *a, const char *b) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(a, f);
    fputs(b, f);
    fclose(f);
}

/* ---- the server ---------------------------------------------------------------------------------- */

enum { ECHO, BYE, CUT, PLAIN, OLD, HANG_UP, RESET, RENEW };

typedef struct server {
    int         mode, min, max;    /* TLS versions; 0: any */
    const char *ciphers;
    char       *groups;
    const cert *leaf, *extra, *extra2;
    SSL_CTX    *shared;            /* of several connections, with its sessions; NULL: one of its own */
    int         fd;
    pthread_t   id;
    char        sni[64], cipher[64];
    int         ask;               /* 1: for a certificate of the client */
    int         resumed, fragment; /* fragment: the maximum length that was agreed; 0: none */
    int         goodbye;           /* the client's close_notify arrived */
} server;

static int on_sni(SSL *s, int *alert, void *arg) {
    const char *name = SSL_get_servername(s, TLSEXT_NAMETYPE_host_name);
    (void)alert;
    azri_fmt(((server *)arg)->sni, sizeof ((server *)arg)->sni, "%s", name ? name : "");
    return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *server_ctx(server *v) {
    SSL_CTX *c = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_security_level(c, 0);
    SSL_CTX_set_min_proto_version(c, v->min);
    SSL_CTX_set_max_proto_version(c, v->max);
    if (v->ciphers) SSL_CTX_set_cipher_list(c, v->ciphers);
    if (v->groups) SSL_CTX_set1_groups_list(c, v->groups);
    SSL_CTX_use_certificate(c, v->leaf->x);
    SSL_CTX_use_PrivateKey(c, v->leaf->key);
    if (v->extra) SSL_CTX_add1_chain_cert(c, v->extra->x);
    if (v->extra2) SSL_CTX_add1_chain_cert(c, v->extra2->x);
    SSL_CTX_set_tlsext_servername_callback(c, on_sni);
    if (v->ask) SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return c;
}

static void serve_tls(server *v) {
    SSL_CTX *c = v->shared ? v->shared : server_ctx(v);
    SSL *s = SSL_new(c);
    char t[16384];
    int n;
    SSL_CTX_set_tlsext_servername_arg(c, v);
    SSL_set_fd(s, v->fd);
    if (SSL_accept(s) == 1) {
        azri_fmt(v->cipher, sizeof v->cipher, "%s", SSL_get_cipher_name(s));
        v->resumed = SSL_session_reused(s);
        v->fragment = SSL_SESSION_get_max_fragment_length(SSL_get_session(s));
        if (v->mode == RENEW && SSL_renegotiate(s) == 1 && SSL_do_handshake(s) == 1) SSL_read(s, t, sizeof t);
        if (v->mode == BYE || v->mode == CUT) SSL_write(s, "last words", 10);
        if (v->mode == BYE) SSL_shutdown(s);
        while (v->mode == ECHO && (n = SSL_read(s, t, sizeof t)) > 0)
            if (SSL_write(s, t, n) != n) break;
        if (v->mode == ECHO) SSL_shutdown(s);   /* or OpenSSL forgets the session */
        v->goodbye = (SSL_get_shutdown(s) & SSL_RECEIVED_SHUTDOWN) != 0;
    } else {
        while (read(v->fd, t, sizeof t) > 0) {}   /* its alert can be read before the end of the connection */
    }
    ERR_clear_error();
    SSL_free(s);
    if (!v->shared) SSL_CTX_free(c);
}

static void *serve(void *arg) {
    server *v = (server *)arg;
    char t[64];
    if (v->mode == PLAIN) {
        if (read(v->fd, t, sizeof t) < 0 || write(v->fd, "-ERR Protocol error\r\n", 21) < 0) perror("plain");
        while (read(v->fd, t, sizeof t) > 0) {}
    } else if (v->mode == OLD) {     /* a ServerHello of TLS 1.1, which OpenSSL will not make of our offer */
        static const char hello[47] = "\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02";
        char h[47];
        memcpy(h, hello, sizeof h);
        h[44] = (char)0xC0;
        h[45] = 0x2B;
        if (read(v->fd, t, sizeof t) < 0 || write(v->fd, h, sizeof h) < 0) perror("old");
        while (read(v->fd, t, sizeof t) > 0) {}
    } else if (v->mode == HANG_UP) {
        shutdown(v->fd, SHUT_WR);
        while (read(v->fd, t, sizeof t) > 0) {}
    } else if (v->mode == RESET) {
        if (read(v->fd, t, 1) < 0) perror("reset");   /* closing with bytes unread is a reset */
    } else {
        serve_tls(v);
    }
    close(v->fd);
    return NULL;
}

/* ---- the client under test ------------------------------------------------------------------------ */

static struct {
    cert     ca, leaf, rsa;          /* leaf: cache.example and *.wild.example, ECDSA; rsa: cache.example */
    char    *ca_pem;
    char     dir[32];
    azri_port port;
    int64_t  clock;
    uint64_t uptime;
    int      fail_alloc, allocs, no_entropy, stutter;
    azri_rng rng;
} g;

static int64_t test_time(void *user) {
    (void)user;
    return g.clock;
}

static uint64_t test_now(void *user) {
    (void)user;
    return g.uptime;
}

static void *count_alloc(void *user, size_t n) {
    (void)user;
    return g.allocs++ == g.fail_alloc ? NULL : malloc(n);
}

static void count_free(void *user, void *p, size_t n) {
    (void)user;
    (void)n;
    free(p);
}

static int test_entropy(void *user, void *out, size_t n) {
    return g.no_entropy ? -1 : azri_posix_entropy(user, out, n);
}

/* With stutter: half of the calls would block, in no fixed order; the others move 997 bytes at most. */
static int stutters(void) {
    return g.stutter && azri_rng_below(&g.rng, 2);
}

static int test_send(void *user, intptr_t sock, const void *p, size_t n) {
    if (stutters()) return 0;
    return azri_posix_send(user, sock, p, g.stutter && n > 997 ? 997 : n);
}

static int test_recv(void *user, intptr_t sock, void *p, size_t n) {
    if (stutters()) return 0;
    return azri_posix_recv(user, sock, p, g.stutter && n > 997 ? 997 : n);
}

typedef struct link { server v; azri_tls t; azri_tls_conf conf; int fd; azredis_error e; } link_t;

static void link_init(link_t *k, const cert *leaf, const char *name) {
    memset(k, 0, sizeof *k);
    k->v.leaf = leaf;
    k->conf.name = name;
    k->conf.where = "redis.tls";
    k->conf.ca = g.ca_pem;
    k->conf.ca_len = strlen(g.ca_pem) + 1;
}

static void wait_for(link_t *k, int what) {
    azri_fd f;
    f.sock = k->fd;
    f.want = (uint8_t)what;
    assert_true(azri_poll(&f, 1, 5000) > 0);
}

static azredis_status shake(link_t *k) {
    azredis_status st;
    int fd[2], small = 4096;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    fcntl(fd[0], F_SETFL, O_NONBLOCK);
    k->fd = fd[0];
    k->v.fd = fd[1];
    assert_int_equal(pthread_create(&k->v.id, NULL, serve, &k->v), 0);
    st = azri_tls_open(&k->t, &g.port, &k->conf, k->fd, &k->e);
    if (st != AZREDIS_OK) return st;
    while ((st = azri_tls_handshake(&k->t, &k->e)) == AZREDIS_AGAIN) wait_for(k, k->t.want);
    return st;
}

static void part(link_t *k) {
    azri_tls_close(&k->t);
    azri_tls_close(&k->t);
    shutdown(k->fd, SHUT_WR);
    pthread_join(k->v.id, NULL);
    close(k->fd);
}

static azredis_status take(link_t *k, char *p, size_t n, size_t *got) {
    azredis_status st;
    while ((st = azri_tls_read(&k->t, p, n, got, &k->e)) == AZREDIS_AGAIN) {
        assert_false(azri_tls_pending(&k->t));
        wait_for(k, k->t.want);
    }
    return st;
}

static void works(link_t *k) {
    char t[16];
    size_t n = 0;
    azredis_status st = shake(k);
    if (st != AZREDIS_OK && k->t.again) {   /* mbedTLS 3.6.6 and an RSA server that has TLS 1.2 only */
        k->conf.tls12 = k->t.tls12;
        part(k);
        st = shake(k);
    }
    if (st != AZREDIS_OK) print_error("%s\n", k->e.message);
    assert_int_equal(st, AZREDIS_OK);
    assert_int_equal(azri_tls_write(&k->t, "ping", 4, &n, &k->e), AZREDIS_OK);
    assert_int_equal(n, 4);
    assert_int_equal(take(k, t, sizeof t, &n), AZREDIS_OK);
    assert_int_equal(n, 4);
    assert_memory_equal(t, "ping", 4);
    part(k);
    assert_int_equal(k->v.goodbye, 1);
    assert_int_equal(k->v.fragment, 0);    /* mbedTLS 3.6 fails where TLS 1.3 answers to that extension */
}

static void accepts(const cert *leaf, const char *name) {
    link_t k;
    link_init(&k, leaf, name);
    works(&k);
}

/* The handshake ends with code, and the message has word in it. */
static void fails_with(link_t *k, azredis_status code, const char *word) {
    azredis_status st = shake(k);
    part(k);
    if (st != code || !strstr(k->e.message, word)) print_error("%d: %s\n", st, k->e.message);
    assert_int_equal(st, code);
    assert_int_equal(k->e.code, code);
    assert_non_null(strstr(k->e.message, word));
    assert_string_equal(k->e.where, "redis.tls");
    if (code == AZREDIS_E_CERT) assert_int_equal(k->e.retryable, 0);
}

static void refuses(const cert *leaf, const char *name, const char *word) {
    link_t k;
    link_init(&k, leaf, name);
    fails_with(&k, AZREDIS_E_CERT, word);
    assert_int_not_equal(k.e.tls_code, 0);
}

static int group_setup(void **state) {
    azredis_port p;
    shape s = with_san("DNS:cache.example,DNS:*.wild.example");
    (void)state;
    signal(SIGPIPE, SIG_IGN);        /* OpenSSL writes without MSG_NOSIGNAL */
    memset(&p, 0, sizeof p);
    p.unix_time = test_time;
    p.now_ms = test_now;
    p.entropy = test_entropy;
    p.send = test_send;
    p.recv = test_recv;
    p.alloc = count_alloc;
    p.free = count_free;
    azri_port_fill(&g.port, &p);
    unsetenv("SSL_CERT_FILE");
    memcpy(g.dir, "/tmp/azredis-tls-XXXXXX", 24);
    if (!mkdtemp(g.dir) || chdir(g.dir) != 0) return -1;
    s.ca = 1;
    s.san = NULL;
    g.ca = make("Test Root", NULL, s);
    g.leaf = make("leaf", &g.ca, with_san("DNS:cache.example,DNS:*.wild.example"));
    s = with_san("DNS:cache.example");
    s.rsa = 1;
    g.rsa = make("rsa leaf", &g.ca, s);
    g.ca_pem = pem_of(g.ca.x);
    return 0;
}

static int group_teardown(void **state) {
    (void)state;
    drop(&g.ca);
    drop(&g.leaf);
    drop(&g.rsa);
    free(g.ca_pem);
    unlink("system.pem");
    unlink("bundle.pem");
    return chdir("/") == 0 && rmdir(g.dir) == 0 ? 0 : -1;
}

static int setup(void **state) {
    (void)state;
    g.clock = NOW;
    g.uptime = 1000;
    g.fail_alloc = -1;
    g.allocs = g.no_entropy = g.stutter = 0;
    return 0;
}

/* ---- accepted ------------------------------------------------------------------------------------ */

static void test_good(void **state) {
    (void)state;
    accepts(&g.leaf, "cache.example");
    accepts(&g.rsa, "cache.example");
    accepts(&g.leaf, "CACHE.Example");
    accepts(&g.leaf, "cache.example.");
    accepts(&g.leaf, "a.wild.example");
}

static void test_intermediate(void **state) {
    shape s = with_san(NULL);
    cert mid, leaf;
    link_t k;
    (void)state;
    s.ca = 1;
    mid = make("Test Issuer", &g.ca, s);
    leaf = make("leaf", &mid, with_san("DNS:cache.example"));
    link_init(&k, &leaf, "cache.example");
    k.v.extra = &mid;
    works(&k);
    link_init(&k, &leaf, "cache.example");
    k.v.extra = &mid;
    k.v.extra2 = &g.ca;              /* the root too: superfluous, common */
    works(&k);
    link_init(&k, &leaf, "cache.example");
    fails_with(&k, AZREDIS_E_CERT, "untrusted issuer (CN=Test Issuer)");
    assert_non_null(strstr(k.e.message, "let the server send its intermediate certificate"));
    drop(&mid);
    drop(&leaf);
}

/* What the server sends beside its chain cannot spoil it: an expired form of the trusted root. */
static void test_old_root_sent(void **state) {
    shape s = with_san(NULL);
    cert old;
    link_t k;
    (void)state;
    s.ca = 1;
    s.key = g.ca.key;
    s.from = -900;
    s.to = -100;
    old = make("Test Root", NULL, s);
    link_init(&k, &g.leaf, "cache.example");
    k.v.extra = &old;
    works(&k);
    drop(&old);
}

static void test_addresses(void **state) {
    cert a = make("a", &g.ca, with_san("IP:127.0.0.1,IP:::1,DNS:cache.example"));
    cert text = make("a", &g.ca, with_san("DNS:127.0.0.1"));
    (void)state;
    accepts(&a, "127.0.0.1");
    accepts(&a, "::1");
    accepts(&a, "0:0:0:0:0:0:0:1");
    refuses(&a, "127.0.0.2", "wrong host: it is for an address, an address, cache.example, not for the address 127.0.0.2");
    refuses(&g.leaf, "127.0.0.1", "wrong host");
    refuses(&text, "127.0.0.1", "wrong host");           /* a name that looks like an address is none */
    drop(&a);
    drop(&text);
}

static void test_sni(void **state) {
    link_t k;
    (void)state;
    link_init(&k, &g.leaf, "cache.example.");
    works(&k);
    assert_string_equal(k.v.sni, "cache.example");
}

/* ---- refused ------------------------------------------------------------------------------------- */

static void test_times(void **state) {
    shape s = with_san("DNS:cache.example"), c = with_san(NULL);
    cert past, future, old_mid, under;
    link_t k;
    (void)state;
    s.from = -60;
    s.to = -1;
    past = make("leaf", &g.ca, s);
    s.from = 1;
    s.to = 60;
    future = make("leaf", &g.ca, s);
    refuses(&past, "cache.example", "expired on 2027-01-14T08:00:00Z (it is 2027-01-15T08:00:00Z)");
    refuses(&future, "cache.example", "not valid before 2027-01-16T08:00:00Z");
    g.clock = NOW + 2 * DAY;         /* the port's clock decides, not the machine's */
    accepts(&future, "cache.example");
    g.clock = NOW;
    c.ca = 1;
    c.from = -60;
    c.to = -1;
    old_mid = make("Old Issuer", &g.ca, c);
    under = make("leaf", &old_mid, with_san("DNS:cache.example"));
    link_init(&k, &under, "cache.example");
    k.v.extra = &old_mid;
    fails_with(&k, AZREDIS_E_CERT, "expired");
    drop(&past);
    drop(&future);
    drop(&old_mid);
    drop(&under);
}

static void test_clock(void **state) {
    shape s = with_san("DNS:cache.example");
    cert gone;
    (void)state;
    g.clock = 1000;
    refuses(&g.leaf, "cache.example",
            "the clock of this machine says 1970-01-01T00:16:40Z, which is wrong: set the clock");
    g.clock = 0;                     /* unknown: only what is older than this release is refused */
    accepts(&g.leaf, "cache.example");
    s.from = -3000;
    s.to = (int)((AZRI_RELEASE_UNIX - NOW) / DAY) - 1;
    gone = make("leaf", &g.ca, s);
    refuses(&gone, "cache.example", "expired");
    g.clock = AZRI_RELEASE_UNIX - 10 * DAY;   /* a clock behind the release cannot bring it back */
    refuses(&gone, "cache.example", "expired");
    drop(&gone);
}

static void test_names(void **state) {
    cert cn_only = make("cache.example", &g.ca, with_san(NULL));
    cert mail = make("cache.example", &g.ca, with_san("email:a@cache.example"));
    (void)state;
    refuses(&g.leaf, "other.example", "wrong host: it is for cache.example, *.wild.example, not for other.example");
    refuses(&g.leaf, "wild.example", "wrong host");
    refuses(&g.leaf, "a.b.wild.example", "wrong host");
    refuses(&g.leaf, "cache.example.evil", "wrong host");
    refuses(&cn_only, "cache.example", "wrong host: it is without names");   /* RFC 9525: no common name */
    refuses(&mail, "cache.example", "wrong host");
    drop(&cn_only);
    drop(&mail);
}

static void test_untrusted(void **state) {
    shape s = with_san(NULL);
    cert root2, leaf2, fake_root, leaf3, self, child;
    link_t k;
    (void)state;
    s.ca = 1;
    root2 = make("Other Root", NULL, s);
    fake_root = make("Test Root", NULL, s);               /* the right name, another key */
    leaf2 = make("leaf", &root2, with_san("DNS:cache.example"));
    leaf3 = make("leaf", &fake_root, with_san("DNS:cache.example"));
    self = make("cache.example", NULL, with_san("DNS:cache.example"));
    child = make("child", &g.leaf, with_san("DNS:cache.example"));
    refuses(&leaf2, "cache.example", "untrusted issuer (CN=Other Root), not in the given ca");
    refuses(&leaf3, "cache.example", "untrusted issuer (CN=Test Root)");
    refuses(&self, "cache.example", "self-signed (CN=cache.example)");
    link_init(&k, &leaf2, "cache.example");
    k.v.extra = &root2;              /* a root is not trusted because the server sends it */
    fails_with(&k, AZREDIS_E_CERT, "self-signed (CN=Other Root)");
    link_init(&k, &child, "cache.example");
    k.v.extra = &g.leaf;             /* a server's certificate is no CA */
    fails_with(&k, AZREDIS_E_CERT, "issued by (CN=leaf), which is no CA");
    refuses(&leaf2, "other.example", "wrong host");       /* each failing check is named */
    link_init(&k, &leaf2, "other.example");
    fails_with(&k, AZREDIS_E_CERT, "untrusted issuer");
    drop(&root2);
    drop(&fake_root);
    drop(&leaf2);
    drop(&leaf3);
    drop(&self);
    drop(&child);
}

static void test_usage(void **state) {
    shape s = with_san("DNS:cache.example");
    cert c;
    link_t k;
    (void)state;
    s.eku = "clientAuth";
    c = make("leaf", &g.ca, s);
    refuses(&c, "cache.example", "not meant for TLS servers (extended key usage)");
    drop(&c);
    s.eku = "serverAuth,clientAuth";
    c = make("leaf", &g.ca, s);
    accepts(&c, "cache.example");
    drop(&c);
    s.eku = NULL;
    s.rsa = 1;
    s.ku = "critical,keyEncipherment";
    c = make("leaf", &g.ca, s);
    link_init(&k, &c, "cache.example");
    k.v.max = TLS1_2_VERSION;
    fails_with(&k, AZREDIS_E_CERT, "key usage");
    drop(&c);
}

/* ---- the bad ones, all in one place: each is refused, and the message names the check that failed -------- */

typedef struct bad {
    const char *what;
    shape       leaf, mid;         /* mid.ca or mid.bc: there is an issuer between root and server */
    int         root;              /* 0: the trusted one, 1: another, 2: another of the same name, 3: it signs itself; 4: one more issuer */
    int         hidden;            /* 1: the server does not send its issuer */
    const char *name, *words;
} bad;

#define SAN "DNS:cache.example,DNS:*.wild.example"
#define MID { NULL, NULL, NULL, NULL, NULL, 1, 0, 0, 0, 0, 0, NULL }
#define NO_MID { NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }

static const bad BAD[] = {         /* san, eku, ku, nc, bc, ca, rsa, bits, sha1, from, to */
    { "expired", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, -60, -1, NULL }, NO_MID, 0, 0, "cache.example", "expired on 2027-01-14" },
    { "not yet valid", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 1, 60, NULL }, NO_MID, 0, 0, "cache.example", "not valid before" },
    { "wrong host", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 0, 0, "other.example", "wrong host: it is for cache.example" },
    { "only a common name", { NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 0, 0, "cache.example", "wrong host: it is without names" },
    { "wildcard over two labels", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 0, 0, "a.b.wild.example", "wrong host" },
    { "address not named", { "IP:127.0.0.2", NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 0, 0, "127.0.0.1", "it is for an address, not for the address 127.0.0.1" },
    { "address as a DNS name", { "DNS:127.0.0.1", NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 0, 0, "127.0.0.1",
      "not for the address 127.0.0.1" },
    { "unknown authority", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 1, 0, "cache.example", "untrusted issuer (CN=Other Root)" },
    { "forged authority", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 2, 0, "cache.example", "untrusted issuer (CN=Test Root)" },
    { "self-signed", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 3, 0, "cache.example", "self-signed (CN=cache.example)" },
    { "issuer not sent", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, MID, 0, 1, "cache.example", "let the server send its intermediate certificate" },
    { "issuer expired", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL },
      { NULL, NULL, NULL, NULL, NULL, 1, 0, 0, 0, -60, -1, NULL }, 0, 0, "cache.example", "expired" },
    { "issuer is no CA", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL },
      { NULL, NULL, NULL, NULL, "CA:FALSE", 0, 0, 0, 0, 0, 0, NULL }, 0, 0, "cache.example",
      "issued by (CN=Test Issuer), which is no CA" },
    { "issuer may not sign", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL },
      { NULL, NULL, "critical,digitalSignature", NULL, NULL, 1, 0, 0, 0, 0, 0, NULL }, 0, 0, "cache.example",
      "whose key may not sign certificates (key usage)" },
    { "chain too long", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL },
      { NULL, NULL, NULL, NULL, "critical,CA:TRUE,pathlen:0", 1, 0, 0, 0, 0, 0, NULL }, 4, 0, "cache.example", "path length" },
    { "issuer bound to other names", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL },
      { NULL, NULL, NULL, "critical,permitted;DNS:other.example", NULL, 1, 0, 0, 0, 0, 0, NULL }, 0, 0, "cache.example", "critical extension" },
    { "for clients", { SAN, "clientAuth", NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, NULL }, NO_MID, 0, 0, "cache.example",
      "not meant for TLS servers (extended key usage)" },
    { "key not for TLS", { SAN, NULL, "critical,keyCertSign", NULL, NULL, 0, 1, 0, 0, 0, 0, NULL }, NO_MID, 0, 0, "cache.example", "key usage" },
    { "weak key", { SAN, NULL, NULL, NULL, NULL, 0, 1, 1024, 0, 0, 0, NULL }, NO_MID, 0, 0, "cache.example", "too weak" },
    { "weak signature", { SAN, NULL, NULL, NULL, NULL, 0, 0, 0, 1, 0, 0, NULL }, NO_MID, 0, 0, "cache.example", "too weak" },
};

static void test_bad_certificates(void **state) {
    shape root = with_san(NULL);
    cert other, fake;
    size_t i;
    (void)state;
    root.ca = 1;
    other = make("Other Root", NULL, root);
    fake = make("Test Root", NULL, root);
    for (i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        const bad *b = &BAD[i];
        const cert *roots[5];
        cert mid, deep, leaf;
        int has_mid = b->mid.ca || b->mid.bc;
        link_t k;
        roots[0] = &g.ca;
        roots[1] = &other;
        roots[2] = &fake;
        roots[3] = NULL;
        roots[4] = &deep;
        memset(&mid, 0, sizeof mid);
        memset(&deep, 0, sizeof deep);
        if (has_mid) mid = make("Test Issuer", &g.ca, b->mid);
        if (b->root == 4) deep = make("Deep Issuer", &mid, root);
        leaf = make("cache.example", has_mid && b->root != 4 ? &mid : roots[b->root], b->leaf);
        link_init(&k, &leaf, b->name);
        if (has_mid && !b->hidden) k.v.extra = &mid;
        if (deep.x) {
            k.v.extra = &deep;
            k.v.extra2 = &mid;
        }
        print_message("%s: ", b->what);
        fails_with(&k, AZREDIS_E_CERT, b->words);
        print_message("%s\n", k.e.message);
        drop(&leaf);
        drop(&deep);
        drop(&mid);
    }
    drop(&other);
    drop(&fake);
}

/* ---- one certificate instead of a chain ------------------------------------------------------------ */

static void print_of(const cert *c, char hex[41]) {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0, i;
    assert_int_equal(X509_digest(c->x, EVP_sha1(), md, &n), 1);
    assert_int_equal(n, 20);
    for (i = 0; i < n; i++) azri_fmt(hex + 2 * i, 3, "%02x", md[i]);
}

/* Service Fabric: the certificate of this thumbprint is taken whatever its chain, name and dates are, and no other,
 * though its chain and name are good; nothing is written before that. */
static void test_pin(void **state) {
    shape s = with_san("DNS:cluster");
    cert stranger, other;
    char hex[41], near[41];
    link_t k;
    int version, i;
    (void)state;
    s.from = -20;
    s.to = -10;
    stranger = make("ServiceFabric", NULL, s);
    other = make("ServiceFabric", NULL, s);
    for (version = TLS1_2_VERSION; version <= (AZRI_MBEDTLS >= 3 ? TLS1_3_VERSION : TLS1_2_VERSION); version++) {
        print_of(&stranger, hex);
        link_init(&k, &stranger, "10.0.0.4");
        k.conf.ca = NULL;                                   /* and no roots are looked for */
        k.conf.ca_file = "/nowhere";
        k.conf.pin = hex;
        k.v.min = k.v.max = version;
        works(&k);
        for (i = 0; i < 40; i += 13) {                      /* one digit differs */
            memcpy(near, hex, sizeof near);
            near[i] = near[i] == '0' ? '1' : '0';
            link_init(&k, &stranger, "10.0.0.4");
            k.conf.pin = near;
            k.v.min = k.v.max = version;
            fails_with(&k, AZREDIS_E_CERT, "IDENTITY_SERVER_THUMBPRINT");
            assert_string_equal(k.v.cipher, "");            /* the server has seen no finished handshake */
        }
        link_init(&k, &other, "10.0.0.4");                  /* the same names, another key */
        k.conf.pin = hex;
        k.v.min = k.v.max = version;
        fails_with(&k, AZREDIS_E_CERT, "IDENTITY_SERVER_THUMBPRINT");
        link_init(&k, &g.leaf, "cache.example");            /* good, but for the pin */
        k.conf.pin = hex;
        k.v.min = k.v.max = version;
        fails_with(&k, AZREDIS_E_CERT, "IDENTITY_SERVER_THUMBPRINT");
        link_init(&k, &other, "10.0.0.4");                  /* what is pinned must be the server's own, not one that it sends */
        k.v.extra = &stranger;
        k.conf.pin = hex;
        k.v.min = k.v.max = version;
        fails_with(&k, AZREDIS_E_CERT, "IDENTITY_SERVER_THUMBPRINT");
    }
    drop(&stranger);
    drop(&other);
}

/* ---- protocol ------------------------------------------------------------------------------------ */

static void test_azure_suites(void **state) {
    static const char *const suite[] = { "ECDHE-RSA-AES256-SHA384", "ECDHE-RSA-AES128-SHA256" };
    static char group[][8] = { "P-384", "P-256" };
    link_t k;
    int i;
    (void)state;
    for (i = 0; i < 2; i++) {
        link_init(&k, &g.rsa, "cache.example");
        k.v.min = k.v.max = TLS1_2_VERSION;
        k.v.ciphers = suite[i];
        k.v.groups = group[i];
        works(&k);
        assert_string_equal(k.v.cipher, suite[i]);
    }
}

static void test_versions(void **state) {
    link_t k;
    (void)state;
    link_init(&k, &g.leaf, "cache.example");
    k.v.min = TLS1_3_VERSION;
#if AZRI_MBEDTLS >= 3
    works(&k);
#else
    fails_with(&k, AZREDIS_E_TLS, "it does not speak TLS 1.2, and mbedTLS 2 knows nothing newer");
    assert_int_equal(k.e.retryable, 0);
#endif
    link_init(&k, &g.rsa, "cache.example");
    k.v.max = TLS1_1_VERSION;
    k.v.min = TLS1_VERSION;
    fails_with(&k, AZREDIS_E_TLS, "version");
    assert_int_equal(k.e.retryable, 0);
    link_init(&k, &g.rsa, "cache.example");
    k.v.mode = OLD;
    fails_with(&k, AZREDIS_E_TLS, "the server wants a version older than TLS 1.2");
    assert_int_equal(k.e.retryable, 0);
    link_init(&k, &g.rsa, "cache.example");
    k.v.max = TLS1_2_VERSION;
    k.v.ciphers = "AES128-SHA";      /* no ECDHE */
    fails_with(&k, AZREDIS_E_TLS, "alert 40, handshake_failure");
    assert_int_equal(k.e.retryable, 0);
}

/* Whatever curve the server insists on; in TLS 1.3 it may have to ask for it (HelloRetryRequest). */
static void test_curves(void **state) {
    static char curve[][8] = { "X25519", "P-256", "P-384", "P-521" };
    link_t k;
    int i;
    (void)state;
    for (i = 0; i < 8; i++) {
        link_init(&k, &g.rsa, "cache.example");
        k.v.groups = curve[i / 2];
        k.v.max = i % 2 ? TLS1_2_VERSION : 0;
        works(&k);
    }
}

/* Azure's caches never ask for one. TLS 1.3 tells of it after the handshake. */
static void test_client_certificate(void **state) {
    char t[16];
    size_t n;
    link_t k;
    (void)state;
    link_init(&k, &g.leaf, "cache.example");
    k.v.ask = 1;
    k.v.max = TLS1_2_VERSION;
    fails_with(&k, AZREDIS_E_TLS, "alert 40");
    assert_int_equal(k.e.retryable, 0);
#if AZRI_MBEDTLS >= 3
    link_init(&k, &g.leaf, "cache.example");
    k.v.ask = 1;
    assert_int_equal(shake(&k), AZREDIS_OK);
    assert_int_equal(take(&k, t, sizeof t, &n), AZREDIS_E_TLS);
    assert_non_null(strstr(k.e.message, "alert 116, certificate_required"));
    assert_int_equal(k.e.retryable, 0);
    part(&k);
#else
    (void)t;
    (void)n;
#endif
}

/* A server of TLS 1.2 that wants new keys: we never renegotiate. The connection ends, and another may be made. */
static void test_renegotiation(void **state) {
    char t[16];
    size_t n;
    link_t k;
    azredis_status st;
    (void)state;
    link_init(&k, &g.leaf, "cache.example");
    k.v.mode = RENEW;
    k.v.max = TLS1_2_VERSION;
    assert_int_equal(shake(&k), AZREDIS_OK);
    st = take(&k, t, sizeof t, &n);
    assert_int_equal(st, AZREDIS_E_TLS);
    assert_non_null(strstr(k.e.message, "another handshake, which we never make"));
    assert_int_equal(k.e.retryable, 1);
    part(&k);
}

static void test_not_tls(void **state) {
    link_t k;
    (void)state;
    link_init(&k, &g.leaf, "cache.example");
    k.v.mode = PLAIN;
    fails_with(&k, AZREDIS_E_TLS, "not a TLS port; Managed Redis listens on 10000");
    assert_int_equal(k.e.retryable, 0);
    link_init(&k, &g.leaf, "cache.example");
    k.v.mode = HANG_UP;
    fails_with(&k, AZREDIS_E_CLOSED, "ended in the handshake");
    assert_int_equal(k.e.retryable, 1);
    link_init(&k, &g.leaf, "cache.example");
    k.v.mode = RESET;
    fails_with(&k, AZREDIS_E_NET, "TLS handshake with cache.example: connection reset");
    assert_int_equal(k.e.retryable, 1);
    assert_int_equal(k.e.os_errno, ECONNRESET);
}

static void test_ends(void **state) {
    static const char *const text[] = { "", "the server closed the connection", "without a TLS goodbye" };
    int mode;
    (void)state;
    for (mode = BYE; mode <= CUT; mode++) {
        link_t k;
        char t[64];
        size_t n = 0;
        link_init(&k, &g.leaf, "cache.example");
        k.v.mode = mode;
        assert_int_equal(shake(&k), AZREDIS_OK);
        assert_int_equal(take(&k, t, 4, &n), AZREDIS_OK);
        assert_int_equal(n, 4);
        assert_true(azri_tls_pending(&k.t));               /* the rest of the record */
        assert_int_equal(take(&k, t + 4, sizeof t - 4, &n), AZREDIS_OK);
        assert_memory_equal(t, "last words", 10);
        assert_int_equal(take(&k, t, sizeof t, &n), AZREDIS_E_CLOSED);
        assert_non_null(strstr(k.e.message, text[mode]));
        assert_int_equal(k.e.retryable, 1);
        part(&k);
    }
}

static unsigned char pattern(size_t i) { return (unsigned char)(i * 31u + (i >> 9)); }

static void bulk(int stutter) {
    static char both[2][20000], in[20000];
    char *out = both[0], *other = both[1], *p;
    size_t sent = 0, back = 0, n, i, len = 0;
    int frozen = 0;
    link_t k;
    link_init(&k, &g.rsa, "cache.example");
    g.stutter = stutter;
    assert_int_equal(shake(&k), AZREDIS_OK);
    while (back < BULK) {
        int want = 0;
        azredis_status st;
        if (sent < BULK && !k.t.frozen) {
            len = azri_minz(sizeof both[0] - sent % 777, BULK - sent);
            for (i = 0; i < len; i++) out[i] = (char)pattern(sent + i);
        } else if (sent < BULK) {    /* the bytes may move, and what was theirs may be used again */
            memcpy(other, out, len);
            memset(out, 0, len);
            p = out;
            out = other;
            other = p;
        }
        if (sent < BULK) {
            st = azri_tls_write(&k.t, out, len, &n, &k.e);
            assert_true(st == AZREDIS_OK || st == AZREDIS_AGAIN);
            assert_int_equal(k.t.frozen, st == AZREDIS_AGAIN);
            if (st == AZREDIS_OK) sent += n;
            else want |= k.t.want;
            frozen += k.t.frozen;
        }
        st = azri_tls_read(&k.t, in, sizeof in, &n, &k.e);
        assert_true(st == AZREDIS_OK || st == AZREDIS_AGAIN);
        if (st == AZREDIS_OK) {
            for (i = 0; i < n; i++)
                if ((unsigned char)in[i] != pattern(back + i))
                    fail_msg("byte %lu", (unsigned long)(back + i));
            back += n;
        } else if (want || sent == BULK) {
            wait_for(&k, want | k.t.want);
        }
    }
    assert_int_equal(back, BULK);
    assert_true(frozen > 100);
    g.stutter = 0;                   /* the goodbye is tried once only */
    part(&k);
    assert_int_equal(k.v.goodbye, 1);
}

static void test_bulk(void **state) {
    (void)state;
    bulk(0);
    bulk(1);
}

static void test_frozen_write(void **state) {
    static char big[200000], moved[200000];
    link_t k;
    size_t n;
    azredis_status st;
    (void)state;
    link_init(&k, &g.leaf, "cache.example");
    assert_int_equal(shake(&k), AZREDIS_OK);
    do st = azri_tls_write(&k.t, big, sizeof big, &n, &k.e);   /* the echo is not read: it must jam */
    while (st == AZREDIS_OK);
    assert_int_equal(st, AZREDIS_AGAIN);
    assert_int_equal(k.t.frozen, 1);
    expect_assert_failure(azri_tls_write(&k.t, big, sizeof big - 1, &n, &k.e));
    st = azri_tls_write(&k.t, moved, sizeof moved, &n, &k.e);
    assert_true(st == AZREDIS_AGAIN || st == AZREDIS_OK);
    shutdown(k.fd, SHUT_RDWR);       /* frees the server from its own jam */
    part(&k);
}

/* ---- sessions ------------------------------------------------------------------------------------ */

static SSL_CTX *shared_ctx(const cert *leaf, int version, int tickets) {
    server v;
    SSL_CTX *c;
    memset(&v, 0, sizeof v);
    v.leaf = leaf;
    v.min = v.max = version;
    c = server_ctx(&v);
    SSL_CTX_set_session_id_context(c, (const unsigned char *)"test", 4);
    if (!tickets) SSL_CTX_set_options(c, SSL_OP_NO_TICKET);
    return c;
}

/* One connection with what is kept. 1: resumed, 0: a whole handshake. */
static int resumes(SSL_CTX *server, azri_tls_kept *kept) {
    link_t k;
    link_init(&k, &g.rsa, "cache.example");
    k.v.shared = server;
    k.conf.kept = kept;
    works(&k);
    return k.v.resumed;
}

static void with_kept(azri_tls_kept *kept, const char *name, const char *ca_file, link_t *k, SSL_CTX *server) {
    link_init(k, &g.rsa, name);
    k->v.shared = server;
    k->conf.kept = kept;
    if (ca_file) {
        k->conf.ca = NULL;
        k->conf.ca_len = 0;
        k->conf.ca_file = ca_file;
    }
}

static void session_rules(int version, int tickets) {
    SSL_CTX *c = shared_ctx(&g.rsa, version, tickets), *other = shared_ctx(&g.rsa, version, tickets);
    azri_tls_kept kept;
    link_t k;
    memset(&kept, 0, sizeof kept);
    assert_int_equal(resumes(c, &kept), 0);
    assert_non_null(kept.blob);
    assert_int_equal(resumes(c, &kept), 1);
    assert_int_equal(resumes(c, &kept), 1);                /* what a resumed connection leaves behind works too */
    assert_int_equal(resumes(c, NULL), 0);
    /* another name is checked anew: the server has no certificate for it */
    with_kept(&kept, "other.example", NULL, &k, c);
    fails_with(&k, AZREDIS_E_CERT, "wrong host");
    assert_int_equal(k.v.resumed, 0);
    assert_int_equal(resumes(c, &kept), 1);                /* and what was kept for the right one is still there */
    /* other roots, in which its issuer is not */
    write_file("bundle.pem", "", "");
    with_kept(&kept, "cache.example", "bundle.pem", &k, c);
    fails_with(&k, AZREDIS_E_CERT, "untrusted issuer");
    assert_int_equal(k.v.resumed, 0);
    /* a server that does not know the session: the whole handshake, and a new session */
    assert_int_equal(resumes(other, &kept), 0);
    assert_int_equal(resumes(other, &kept), 1);
    /* a day after the certificate was last shown it must be shown again, however often it was resumed */
    g.uptime += AZRI_TLS_KEPT_MS - 1;
    assert_int_equal(resumes(other, &kept), 1);
    g.uptime += 1;
    assert_int_equal(resumes(other, &kept), 0);
    assert_int_equal(resumes(other, &kept), 1);
    /* so must one that has ended meanwhile */
    g.clock = NOW + 301 * DAY;
    with_kept(&kept, "cache.example", NULL, &k, other);
    fails_with(&k, AZREDIS_E_CERT, "expired");
    assert_int_equal(k.v.resumed, 0);
    g.clock = NOW;
    azri_tls_forget(&kept, &g.port.mem);
    assert_null(kept.blob);
    azri_tls_forget(&kept, &g.port.mem);
    SSL_CTX_free(c);
    SSL_CTX_free(other);
}

static void test_session_kept(void **state) {
    (void)state;
    session_rules(TLS1_2_VERSION, 1);
    session_rules(TLS1_2_VERSION, 0);                      /* by session id */
#if AZRI_MBEDTLS >= 3
    session_rules(TLS1_3_VERSION, 1);
#endif
}

/* A damaged one is not offered; one that spoils the handshake is dropped, and the handshake worth another try. */
static void test_session_spoilt(void **state) {
    SSL_CTX *c = shared_ctx(&g.rsa, TLS1_2_VERSION, 1);
    azri_tls_kept kept;
    link_t k;
    (void)state;
    memset(&kept, 0, sizeof kept);
    assert_int_equal(resumes(c, &kept), 0);
    kept.blob[0] ^= 1;
    assert_int_equal(resumes(c, &kept), 0);
    assert_int_equal(resumes(c, &kept), 1);
    with_kept(&kept, "cache.example", NULL, &k, NULL);
    k.v.mode = OLD;
    assert_int_equal(shake(&k), AZREDIS_E_TLS);
    assert_int_equal(k.t.again, 1);
    assert_int_equal(k.t.tls12, 0);
    part(&k);
    assert_null(kept.blob);
    SSL_CTX_free(c);
}

static void test_session_no_memory(void **state) {
    SSL_CTX *c = shared_ctx(&g.rsa, TLS1_2_VERSION, 1);
    int i;
    (void)state;
    for (i = 0; i < 12; i++) {
        azri_tls_kept kept;
        link_t k;
        memset(&kept, 0, sizeof kept);
        write_file("bundle.pem", g.ca_pem, "");
        with_kept(&kept, "cache.example", "bundle.pem", &k, c);
        k.conf.tls12 = 1;
        g.fail_alloc = i;
        g.allocs = 0;
        if (shake(&k) == AZREDIS_OK && kept.blob) assert_non_null(kept.ca_path);
        part(&k);
        azri_tls_forget(&kept, &g.port.mem);
    }
    assert_in_range(g.allocs, 5, i);                       /* the last round was not short of memory */
    SSL_CTX_free(c);
}

#if AZRI_MBEDTLS >= 3
/* mbedTLS ends a read at a ticket with WANT_READ, and would end the next write with the ticket's code. */
static void test_ticket_in_read(void **state) {
    SSL_CTX *c = shared_ctx(&g.rsa, TLS1_3_VERSION, 1);
    azri_tls_kept kept;
    char t[16];
    size_t n;
    link_t k;
    (void)state;
    memset(&kept, 0, sizeof kept);
    with_kept(&kept, "cache.example", NULL, &k, c);
    assert_int_equal(shake(&k), AZREDIS_OK);
    assert_null(kept.blob);
    wait_for(&k, AZRI_READ);
    assert_int_equal(azri_tls_read(&k.t, t, sizeof t, &n, &k.e), AZREDIS_AGAIN);
    assert_non_null(kept.blob);
    assert_true(azri_tls_records(&k.t) >= 1);
    assert_int_equal(azri_tls_write(&k.t, "ping", 4, &n, &k.e), AZREDIS_OK);
    assert_int_equal(take(&k, t, sizeof t, &n), AZREDIS_OK);
    part(&k);
    azri_tls_forget(&kept, &g.port.mem);
    SSL_CTX_free(c);
}
#endif

static void test_records(void **state) {
    static char big[40000], back_in[40000];
    size_t n, got, sent = 0, back = 0;
    uint32_t i;
    char t[100];
    link_t k;
    (void)state;
    link_init(&k, &g.rsa, "cache.example");
    k.v.max = TLS1_2_VERSION;                              /* no tickets among the records */
    k.conf.tls12 = 1;
    assert_int_equal(shake(&k), AZREDIS_OK);
    assert_int_equal(azri_tls_records(&k.t), 0);
    for (i = 1; i <= 50; i++) {
        assert_int_equal(azri_tls_write(&k.t, "0123456789", 10, &n, &k.e), AZREDIS_OK);
        assert_int_equal(k.t.sealed, i);
        for (got = 0; got < 10; got += n) assert_int_equal(take(&k, t, 3, &n), AZREDIS_OK);
        assert_int_equal(k.t.opened, i);                   /* four reads, one record */
        assert_int_equal(azri_tls_records(&k.t), i);
    }
    while (back < sizeof big) {                            /* the echo is read, or the server jams */
        azredis_status out = AZREDIS_AGAIN, in;
        if (sent < sizeof big) out = azri_tls_write(&k.t, big + sent, sizeof big - sent, &n, &k.e);
        if (out == AZREDIS_OK) sent += n;
        in = azri_tls_read(&k.t, back_in, sizeof back_in, &n, &k.e);
        if (in == AZREDIS_OK) back += n;
        else if (out != AZREDIS_OK) wait_for(&k, AZRI_READ | (k.t.frozen ? AZRI_WRITE : 0));
    }
    assert_int_equal(k.t.sealed, 53);                      /* 40000 bytes are three records */
    assert_true(azri_tls_records(&k.t) >= 53);
    part(&k);
}

/* Parent and child of a fork must not send the same random numbers: the port's generator is the system's. */
static void test_fork(void **state) {
    unsigned char hello[2][2048];
    link_t k;
    int i, to[2];
    (void)state;
    accepts(&g.rsa, "cache.example");                      /* whatever mbedTLS keeps is there now */
    for (i = 0; i < 2; i++) {
        pid_t id;
        int fd[2];
        assert_int_equal(pipe(to), 0);
        memset(hello[i], 0, sizeof hello[i]);
        fflush(NULL);
        id = fork();
        assert_true(id >= 0);
        if (id == 0) {                                     /* two children of one parent are in the same state */
            unsigned char out[2048];
            ssize_t n = 0;
            link_init(&k, &g.rsa, "cache.example");
            if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0 && fcntl(fd[0], F_SETFL, O_NONBLOCK) == 0 &&
                azri_tls_open(&k.t, &g.port, &k.conf, fd[0], &k.e) == AZREDIS_OK &&
                azri_tls_handshake(&k.t, &k.e) == AZREDIS_AGAIN)
                n = read(fd[1], out, sizeof out);
            _exit(n > 0 && write(to[1], out, (size_t)n) == n ? 0 : 1);
        }
        close(to[1]);
        assert_true(read(to[0], hello[i], sizeof hello[i]) > 100);
        close(to[0]);
        assert_int_equal(waitpid(id, NULL, 0), id);
    }
    /* RFC 8446 4.1.2: record header 5, handshake header 4, version 2, random 32 */
    assert_memory_not_equal(hello[0] + 11, hello[1] + 11, 32);
}

/* ---- options and roots --------------------------------------------------------------------------- */

static void test_bad_name(void **state) {
    char longer[300];
    const char *bad[4];
    azri_tls_conf c;
    azredis_error e;
    azri_tls t;
    int i;
    (void)state;
    memset(longer, 'x', sizeof longer);
    longer[256] = '\0';
    bad[0] = NULL;
    bad[1] = "";
    bad[2] = ".";
    bad[3] = longer;
    memset(&c, 0, sizeof c);
    c.ca = g.ca_pem;
    c.ca_len = strlen(g.ca_pem) + 1;
    c.where = "redis.tls";
    for (i = 0; i < 4; i++) {
        c.name = bad[i];
        assert_int_equal(azri_tls_open(&t, &g.port, &c, -1, &e), AZREDIS_E_ARG);
        assert_non_null(strstr(e.message, "tls_host"));
        assert_int_equal(t.open, 0);
        azri_tls_close(&t);
    }
}

static void by_file(const char *ca_file, const cert *leaf, const char *word) {
    link_t k;
    link_init(&k, leaf, "cache.example");
    k.conf.ca = NULL;
    k.conf.ca_len = 0;
    k.conf.ca_file = ca_file;
    if (word) fails_with(&k, AZREDIS_E_CERT, word);
    else works(&k);
}

static void test_roots(void **state) {
    unsigned char der[2048], *at = der;
    char *lines;
    size_t i, n;
    link_t k;
    (void)state;
    link_init(&k, &g.leaf, "cache.example");
    k.conf.ca_len = (size_t)i2d_X509(g.ca.x, &at);
    k.conf.ca = der;
    works(&k);
    link_init(&k, &g.leaf, "cache.example");
    k.conf.ca_file = "nowhere.pem";                        /* memory wins */
    k.conf.ca_len--;                                       /* without the NUL too */
    works(&k);
    by_file(NULL, &g.leaf, "no CA bundle; install ca-certificates, or set ca_file or SSL_CERT_FILE; looked for "
            "missing-a.pem, missing-b.pem, system.pem");
    by_file("nowhere.pem", &g.leaf, "ca_file names nowhere.pem, which cannot be read: no such file");
    write_file("bundle.pem", "# a comment\n", g.ca_pem);
    by_file("bundle.pem", &g.leaf, NULL);
    setenv("SSL_CERT_FILE", "bundle.pem", 1);
    by_file(NULL, &g.leaf, NULL);
    by_file("nowhere.pem", &g.leaf, "ca_file names nowhere.pem");   /* the option wins, and nothing replaces it */
    setenv("SSL_CERT_FILE", "nowhere.pem", 1);
    by_file(NULL, &g.leaf, "SSL_CERT_FILE names nowhere.pem");
    unsetenv("SSL_CERT_FILE");
    write_file("system.pem", g.ca_pem, "");
    by_file(NULL, &g.leaf, NULL);
    unlink("system.pem");
    write_file("bundle.pem", "-----BEGIN CERTIFICATE-----\nMIIB@@@\n-----END CERTIFICATE-----\n"
               "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n", g.ca_pem);
    by_file("bundle.pem", &g.leaf, NULL);                  /* damaged ones are skipped */
    n = strlen(g.ca_pem);
    lines = (char *)calloc(2, n + 1);
    for (i = 0, at = (unsigned char *)lines; i < n; i++) {
        if (g.ca_pem[i] == '\n') *at++ = '\r';
        *at++ = (unsigned char)g.ca_pem[i];
    }
    write_file("bundle.pem", lines, "");
    by_file("bundle.pem", &g.leaf, NULL);
    free(lines);
    write_file("bundle.pem", "", "");
    by_file("bundle.pem", &g.leaf, "untrusted issuer (CN=Test Root), not in bundle.pem: give its CA by ca_file");
    by_file(".", &g.leaf, "the roots in . cannot be read");   /* a directory opens, but has no bytes */
}

static char *read_debian(void) {
    FILE *f = fopen(DEBIAN, "rb");
    char *p;
    size_t n;
    if (!f) return NULL;
    p = (char *)calloc(1, 1 << 20);
    n = fread(p, 1, (1 << 20) - 1, f);
    fclose(f);
    p[n] = '\0';
    return p;
}

/* The peak of one connection with these roots; what it leaves must be nothing. */
static long peak_with(const char *ca_file) {
    link_t k;
    link_init(&k, &g.leaf, "cache.example");
    if (ca_file) {
        k.conf.ca = NULL;
        k.conf.ca_file = ca_file;
    }
    heap_start();
    assert_int_equal(shake(&k), AZREDIS_OK);
    part(&k);
    heap_on = 0;
    return heap_peak;
}

/* The price of a bundle of 144 roots is that of the one that is needed. */
static void test_bundle_heap(void **state) {
    char *all = read_debian();
    mbedtls_x509_crt whole;
    long parsed, parsed_peak, one, bundle;
    (void)state;
    if (!all) {
        print_message("no bundle of root certificates on this machine\n");
        skip();
    }
    write_file("bundle.pem", all, g.ca_pem);
    free(all);
    by_file("bundle.pem", &g.leaf, NULL);
    if (!heap_counts()) return;
    heap_start();
    mbedtls_x509_crt_init(&whole);
    assert_true(mbedtls_x509_crt_parse_file(&whole, "bundle.pem") >= 0);
    parsed = heap_live;
    parsed_peak = heap_peak;
    mbedtls_x509_crt_free(&whole);
    assert_int_equal(heap_live, 0);
    one = peak_with(NULL);
    bundle = peak_with("bundle.pem");
    assert_true(parsed > 200000);                          /* what the whole bundle would cost */
    /* 53 KB are the connection: two records of mbedTLS, 16 KiB of read-ahead. */
    assert_in_range(one, 53000, 53000 + 40000);
    assert_in_range(bundle, one, one + 20000);
    print_message("roots: bundle parsed as a whole: %ld bytes while the connection lives, %ld at the peak\n"
                  "roots: bundle looked up on demand: 0 bytes kept, %ld more at the peak than one root given (%ld, %ld)\n",
                  parsed, parsed_peak, bundle - one, bundle, one);
}

static void test_heap_flat(void **state) {
    long live = 0;
    int i, counts = heap_counts();
    (void)state;
    heap_start();
    for (i = 0; i < 100; i++) {
        link_t k;
        link_init(&k, &g.leaf, i % 4 == 3 ? "wrong.example" : "cache.example");
        assert_int_equal(shake(&k), i % 4 == 3 ? AZREDIS_E_CERT : AZREDIS_OK);
        part(&k);
        if (i == 3) live = heap_live;                      /* what libc keeps for its threads is there now */
        if (i > 3 && counts) assert_int_equal(heap_live, live);
    }
    heap_on = 0;
}

static void test_no_memory(void **state) {
    int i, failed = 0;
    (void)state;
    write_file("bundle.pem", g.ca_pem, "");
    for (i = 0; i == 0 || g.allocs >= i; i++) {         /* until there is no allocation with that number */
        link_t k;
        azredis_status st;
        link_init(&k, &g.leaf, "cache.example");
        k.conf.ca = NULL;
        k.conf.ca_file = "bundle.pem";
        g.fail_alloc = i;
        g.allocs = 0;
        st = shake(&k);
        part(&k);
        if (st != AZREDIS_OK) assert_int_equal(st, AZREDIS_E_NOMEM);
        failed += st != AZREDIS_OK;
    }
    assert_in_range(failed, 3, 20);  /* the path, the text (which grows), the binary form; not the read-ahead */
    assert_in_range(i - failed, 2, 4);
}

static void test_no_entropy(void **state) {
    link_t k;
    (void)state;
    link_init(&k, &g.leaf, "cache.example");
    g.no_entropy = 1;
    fails_with(&k, AZREDIS_E_TLS, "random generator failed");
}

#define T(name) cmocka_unit_test_setup(name, setup)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(test_good), T(test_intermediate), T(test_old_root_sent), T(test_addresses), T(test_sni),
        T(test_times), T(test_clock), T(test_names), T(test_untrusted), T(test_usage), T(test_bad_certificates), T(test_pin),
        T(test_azure_suites), T(test_versions), T(test_curves), T(test_client_certificate), T(test_renegotiation), T(test_not_tls), T(test_ends), T(test_bulk),
        T(test_frozen_write), T(test_session_kept), T(test_session_spoilt), T(test_session_no_memory),
#if AZRI_MBEDTLS >= 3
        T(test_ticket_in_read),
#endif
        T(test_records), T(test_fork), T(test_bad_name), T(test_roots), T(test_bundle_heap), T(test_heap_flat),
        T(test_no_memory), T(test_no_entropy)
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
