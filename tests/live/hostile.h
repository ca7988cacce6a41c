/* hostile.h - a server in a thread of the test, for what no decent server does.
 *
 *     hostile_start(&h, 1, script, &what);         TLS with a certificate for localhost; 0: plain TCP
 *     hostile_set(&h, other, &what);               ends the connection that is open, if there is one
 *     hostile_stop(&h);
 *
 * A script is a function that speaks with one peer; when it returns, the connection is closed. It waits only
 * in peer_read, peer_write and peer_nap, and these fail as soon as the peer has gone or the test goes on.
 * hostile_ca is the CA of its certificates, as PEM text. Include after live.h. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

typedef struct hostile hostile;

typedef struct peer {
    hostile *h;
    int      fd;
    SSL     *ssl;
    unsigned gen;
    int      reset;                     /* end by RST */
    int      rude;                      /* end without TLS's goodbye */
    char     in[8192];                  /* read and not yet used: [at, len) */
    size_t   at, len;
    char    *head;                      /* the head of the last HTTP request */
    char     head_text[2048];
} peer;

typedef void (*hostile_fn)(peer *p, void *user);

struct hostile {
    pthread_t       thread;
    pthread_mutex_t lock;               /* guards the rest but tls, listener, wake, port */
    pthread_cond_t  idle;
    int             listener, wake[2], port;
    SSL_CTX        *tls;
    hostile_fn      fn;
    void           *user;
    unsigned        gen;
    int             busy, ending;
    long            served;             /* connections that reached the script */
};

static char hostile_ca[4096];           /* PEM, with its NUL */
static EVP_PKEY *hostile_key;
static X509 *hostile_cert;

/* ---- certificate ----------------------------------------------------------------------------- */

static X509 *hostile_sign(EVP_PKEY *key, const char *name, X509 *issuer, EVP_PKEY *by) {
    static long serial = 1000;
    X509 *x = X509_new();
    X509_NAME *n = X509_get_subject_name(x);
    X509V3_CTX v3;
    X509_EXTENSION *e;
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 86400);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(x, issuer ? X509_get_subject_name(issuer) : n);
    X509V3_set_ctx(&v3, issuer ? issuer : x, x, NULL, NULL, 0);
    e = issuer ? X509V3_EXT_conf_nid(NULL, &v3, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1")
               : X509V3_EXT_conf_nid(NULL, &v3, NID_basic_constraints, "critical,CA:TRUE");
    X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
    if (!X509_sign(x, by, EVP_sha256()))
        fail_msg("OpenSSL cannot sign a certificate");
    return x;
}

/* Once for the process: RSA, because a client checks that faster than ECDSA. */
static void hostile_identity(void) {
    EVP_PKEY *key;
    X509 *ca;
    BIO *mem;
    if (hostile_key)
        return;
    key = EVP_RSA_gen(2048);
    hostile_key = EVP_RSA_gen(2048);
    ca = hostile_sign(key, "Test CA of a hostile server", NULL, key);
    hostile_cert = hostile_sign(hostile_key, "localhost", ca, key);
    mem = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(mem, ca);
    hostile_ca[BIO_read(mem, hostile_ca, sizeof hostile_ca - 1)] = 0;
    BIO_free(mem);
    X509_free(ca);
    EVP_PKEY_free(key);
}

static void hostile_forget_identity(void) {
    EVP_PKEY_free(hostile_key);
    X509_free(hostile_cert);
    hostile_key = NULL;
    hostile_cert = NULL;
}

/* ---- peer: read, write, wait ----------------------------------------------------------------- */

static int peer_wanted(const peer *p) {
    int wanted;
    pthread_mutex_lock(&p->h->lock);
    wanted = p->gen == p->h->gen && !p->h->ending;
    pthread_mutex_unlock(&p->h->lock);
    return wanted;
}

/* Waits for the socket. 1: ready; 0: time is up; -1: the test goes on without us. */
static int peer_wait(peer *p, short events, int ms) {
    int64_t until = live_ms() + ms;
    for (;;) {
        struct pollfd f[2] = {{.fd = p->fd, .events = events}, {.fd = p->h->wake[0], .events = POLLIN}};
        int64_t left = until - live_ms();
        char waste[16];
        int n;
        if (!peer_wanted(p))
            return -1;
        n = poll(f, 2, left > 0 ? (int)left : 0);
        if (n == 0)
            return 0;
        if (n < 0)
            continue;
        if (f[1].revents && !peer_wanted(p))
            return -1;
        if (f[1].revents)
            (void)!read(p->h->wake[0], waste, sizeof waste);
        if (f[0].revents)
            return 1;
    }
}

static short peer_events(peer *p, int rc) {
    switch (SSL_get_error(p->ssl, rc)) {
    case SSL_ERROR_WANT_READ: return POLLIN;
    case SSL_ERROR_WANT_WRITE: return POLLOUT;
    default: return 0;
    }
}

/* Bytes, at least one; 0: the peer has closed, or the test goes on. */
static size_t peer_recv(peer *p, char *to, size_t room) {
    for (;;) {
        short events = POLLIN;
        if (p->ssl) {
            int n = SSL_read(p->ssl, to, (int)room);
            if (n > 0)
                return (size_t)n;
            if (!(events = peer_events(p, n)))
                return 0;
        } else {
            ssize_t n = recv(p->fd, to, room, 0);
            if (n > 0)
                return (size_t)n;
            if (n == 0 || errno != EAGAIN)
                return 0;
        }
        if (peer_wait(p, events, 30000) <= 0)
            return 0;
    }
}

/* 0: not all could be written. */
static LIVE_UNUSED int peer_write(peer *p, const char *from, size_t n) {
    while (n) {
        short events = POLLOUT;
        if (p->ssl) {
            int k = SSL_write(p->ssl, from, (int)n);
            if (k > 0) {
                from += k;
                n -= (size_t)k;
                continue;
            }
            if (!(events = peer_events(p, k)))
                return 0;
        } else {
            ssize_t k = send(p->fd, from, n, MSG_NOSIGNAL);
            if (k > 0) {
                from += k;
                n -= (size_t)k;
                continue;
            }
            if (errno != EAGAIN)
                return 0;
        }
        if (peer_wait(p, events, 30000) <= 0)
            return 0;
    }
    return 1;
}

static LIVE_UNUSED int peer_puts(peer *p, const char *z) { return peer_write(p, z, strlen(z)); }

/* Sleeps, or until the peer leaves. 0: it has left, or the test goes on. What it sends meanwhile is dropped. */
static LIVE_UNUSED int peer_nap(peer *p, int ms) {
    int64_t until = live_ms() + ms;
    char waste[4096];
    while (live_ms() < until) {
        int n = peer_wait(p, POLLIN, (int)(until - live_ms()));
        if (n < 0)
            return 0;
        if (n == 0)
            break;
        n = p->ssl ? SSL_read(p->ssl, waste, sizeof waste) : (int)recv(p->fd, waste, sizeof waste, 0);
        if (n <= 0 && (p->ssl ? !peer_events(p, n) : n == 0 || errno != EAGAIN))
            return 0;
    }
    return 1;
}

static LIVE_UNUSED void peer_hang(peer *p) { (void)peer_nap(p, 60000); }

/* A line up to its LF, without the CR LF. -1: the peer is gone. */
static LIVE_UNUSED int peer_line(peer *p, char *to, size_t room) {
    size_t n = 0;
    for (;;) {
        if (p->at == p->len) {
            p->at = 0;
            if (!(p->len = peer_recv(p, p->in, sizeof p->in)))
                return -1;
        }
        if (n + 1 < room)
            to[n++] = p->in[p->at];
        if (p->in[p->at++] == '\n')
            break;
    }
    while (n && (to[n - 1] == '\n' || to[n - 1] == '\r')) n--;
    to[n] = 0;
    return (int)n;
}

static LIVE_UNUSED int peer_exact(peer *p, char *to, size_t n) {
    while (n) {
        size_t k = p->len - p->at < n ? p->len - p->at : n;
        if (!k) {
            p->at = 0;
            if (!(p->len = peer_recv(p, p->in, sizeof p->in)))
                return 0;
            continue;
        }
        memcpy(to, p->in + p->at, k);
        p->at += k;
        to += k;
        n -= k;
    }
    return 1;
}

/* A whole HTTP request; its body as text, for the caller to free. NULL: the peer is gone. */
static LIVE_UNUSED char *peer_request(peer *p) {
    char line[4096], *body;
    size_t length = 0;
    p->head_text[0] = 0;
    do {
        size_t n = strlen(p->head_text);
        if (peer_line(p, line, sizeof line) < 0)
            return NULL;
        if (!strncasecmp(line, "Content-Length:", 15))
            length = (size_t)strtoul(line + 15, NULL, 10);
        snprintf(p->head_text + n, sizeof p->head_text - n, "%s\n", line);
    } while (line[0]);
    body = calloc(1, length + 1);
    if (body && peer_exact(p, body, length))
        return body;
    free(body);
    return NULL;
}

/* A Redis command: its words, NUL-terminated, cut at 63 bytes. The number of words; 0: the peer is gone. */
static LIVE_UNUSED int peer_command(peer *p, char words[8][64]) {
    char line[64], waste[64];
    int count, i;
    if (peer_line(p, line, sizeof line) < 2 || line[0] != '*')
        return 0;
    count = atoi(line + 1);
    for (i = 0; i < count; i++) {
        size_t n, keep, k;
        if (peer_line(p, line, sizeof line) < 2 || line[0] != '$')
            return 0;
        n = (size_t)strtoul(line + 1, NULL, 10);
        keep = i < 8 && n < 63 ? n : i < 8 ? 63 : 0;
        if (keep && !peer_exact(p, words[i], keep))
            return 0;
        if (i < 8)
            words[i][keep] = 0;
        for (n = n - keep + 2; n; n -= k) {
            k = n < sizeof waste ? n : sizeof waste;
            if (!peer_exact(p, waste, k))
                return 0;
        }
    }
    return count;
}

/* ---- the server ------------------------------------------------------------------------------ */

static void peer_close(peer *p) {
    struct linger hard = {1, 0};
    char waste[4096];
    if (p->ssl && !p->reset && !p->rude)
        SSL_shutdown(p->ssl);
    if (p->reset)
        setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    else if (shutdown(p->fd, SHUT_WR) == 0)    /* an unread byte would make a reset of the close */
        while (peer_wait(p, POLLIN, 200) > 0 && recv(p->fd, waste, sizeof waste, 0) > 0) {
        }
    SSL_free(p->ssl);
    close(p->fd);
}

static int peer_accept(peer *p) {
    int n;
    if (!p->h->tls)
        return 1;
    if (!(p->ssl = SSL_new(p->h->tls)) || !SSL_set_fd(p->ssl, p->fd))
        return 0;
    while ((n = SSL_accept(p->ssl)) != 1) {
        short events = peer_events(p, n);
        if (!events || peer_wait(p, events, 5000) <= 0)
            return 0;
    }
    return 1;
}

static void *hostile_main(void *user) {
    hostile *h = user;
    sigset_t pipe_only;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);     /* OpenSSL writes without MSG_NOSIGNAL; the client must not need this */
    pthread_sigmask(SIG_BLOCK, &pipe_only, NULL);
    for (;;) {
        struct pollfd f[2] = {{.fd = h->listener, .events = POLLIN}, {.fd = h->wake[0], .events = POLLIN}};
        char waste[16];
        hostile_fn fn;
        void *what;
        peer p;
        int ending, one = 1;
        if (poll(f, 2, -1) < 0)
            continue;
        if (f[1].revents)
            (void)!read(h->wake[0], waste, sizeof waste);
        pthread_mutex_lock(&h->lock);
        ending = h->ending;
        pthread_mutex_unlock(&h->lock);
        if (ending)
            return NULL;
        if (!f[0].revents)
            continue;
        memset(&p, 0, sizeof p);
        p.h = h;
        p.fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (p.fd < 0)
            continue;
        setsockopt(p.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        pthread_mutex_lock(&h->lock);
        h->busy = 1;
        h->served++;
        fn = h->fn;
        what = h->user;
        p.gen = h->gen;
        pthread_mutex_unlock(&h->lock);
        if (peer_accept(&p))
            fn(&p, what);
        peer_close(&p);
        pthread_mutex_lock(&h->lock);
        h->busy = 0;
        pthread_cond_broadcast(&h->idle);
        pthread_mutex_unlock(&h->lock);
    }
}

static LIVE_UNUSED void hostile_start(hostile *h, int tls, hostile_fn fn, void *user) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    memset(h, 0, sizeof *h);
    if (tls) {
        hostile_identity();
        h->tls = SSL_CTX_new(TLS_server_method());
        if (!h->tls || SSL_CTX_use_certificate(h->tls, hostile_cert) != 1 ||
            SSL_CTX_use_PrivateKey(h->tls, hostile_key) != 1)
            fail_msg("OpenSSL does not take the certificate");
        SSL_CTX_set_mode(h->tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_session_cache_mode(h->tls, SSL_SESS_CACHE_OFF);
    }
    h->fn = fn;
    h->user = user;
    h->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(h->listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(h->listener, 64), 0);
    assert_int_equal(getsockname(h->listener, (struct sockaddr *)&a, &n), 0);
    h->port = ntohs(a.sin_port);
    assert_int_equal(pipe2(h->wake, O_CLOEXEC | O_NONBLOCK), 0);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->idle, NULL);
    assert_int_equal(pthread_create(&h->thread, NULL, hostile_main, h), 0);
}

/* One more connection at a time on the port of h, by the same script. To be stopped first. */
static LIVE_UNUSED void hostile_beside(hostile *more, hostile *h) {
    memset(more, 0, sizeof *more);
    more->fn = h->fn;
    more->user = h->user;
    more->listener = dup(h->listener);
    assert_int_equal(pipe2(more->wake, O_CLOEXEC | O_NONBLOCK), 0);
    pthread_mutex_init(&more->lock, NULL);
    pthread_cond_init(&more->idle, NULL);
    assert_int_equal(pthread_create(&more->thread, NULL, hostile_main, more), 0);
}

/* Another script, from the next connection on. Returns when the last one has ended. */
static LIVE_UNUSED void hostile_set(hostile *h, hostile_fn fn, void *user) {
    pthread_mutex_lock(&h->lock);
    h->gen++;
    if (h->busy)
        (void)!write(h->wake[1], "x", 1);
    while (h->busy) pthread_cond_wait(&h->idle, &h->lock);
    h->fn = fn;
    h->user = user;
    pthread_mutex_unlock(&h->lock);
}

static LIVE_UNUSED long hostile_served(hostile *h) {
    long n;
    pthread_mutex_lock(&h->lock);
    n = h->served;
    pthread_mutex_unlock(&h->lock);
    return n;
}

static LIVE_UNUSED void hostile_stop(hostile *h) {
    pthread_mutex_lock(&h->lock);
    h->ending = 1;
    pthread_mutex_unlock(&h->lock);
    (void)!write(h->wake[1], "x", 1);
    pthread_join(h->thread, NULL);
    close(h->listener);
    close(h->wake[0]);
    close(h->wake[1]);
    pthread_cond_destroy(&h->idle);
    pthread_mutex_destroy(&h->lock);
    SSL_CTX_free(h->tls);
    hostile_forget_identity();
}

#endif /* HOSTILE_H */
