/* A device's program, to be linked twice: with the header (-DWITH_US), and without it but with the same TLS and X.509
 * work done by mbedTLS alone. The difference is what the header adds; see tools/sizes.py. It is linked, not run.
 *   -DSECRET  the token comes from Entra by a client secret; -DCERTIFICATE  by a certificate, whose key lies in memory and
 *             signs, which the program without the header does too; else from a callback
 *   -DWITH_ASSERTION, -DWITH_PROXY  with what is else left out, to see what it takes */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <mbedtls/platform.h>
#include <mbedtls/ssl.h>
#include <mbedtls/x509_crt.h>

/* What the board brings. The linker cannot see through these. */
volatile uint32_t clock_ms, noise, uart;
extern const unsigned char root_der[];
const unsigned char root_der[1024] = {0x30};

static int board_send(void *user, intptr_t s, const void *p, size_t n) { (void)user; (void)s; (void)p; uart = 1; return (int)n; }
static int board_recv(void *user, intptr_t s, void *p, size_t n) { (void)user; (void)s; memset(p, (int)uart, n); return (int)n; }
static int board_entropy(void *user, void *p, size_t n) { (void)user; memset(p, (int)noise, n); return 0; }

/* mbedTLS's own hooks. */
void *board_calloc(size_t n, size_t size);
void board_free(void *p);
static unsigned char heap[64];
void *board_calloc(size_t n, size_t size) { return n * size < uart ? heap : NULL; }
void board_free(void *p) { uart = p != NULL; }
struct tm *mbedtls_platform_gmtime_r(const mbedtls_time_t *t, struct tm *out) { out->tm_year = (int)*t; return out; }
long long mbedtls_ms_time(void) { return clock_ms; }
int mbedtls_hardware_poll(void *user, unsigned char *p, size_t n, size_t *got) { *got = n; return board_entropy(user, p, n); }

#ifdef WITH_US
#define AZREDIS_NO_OS
#define AZREDIS_LEAN
#define AZREDIS_NO_TEXT
#define AZREDIS_NO_CONFIG
#define AZREDIS_NO_ADDRESSES
#define AZREDIS_NO_ARENA
#define AZREDIS_NO_CLAIMS
#define AZREDIS_NO_RESUMPTION
#define AZREDIS_NO_EVENTS
#define AZREDIS_NO_HANDOVER
#define AZREDIS_TICK_MS 250
#define AZREDIS_AUTHORITY "login.microsoftonline.com"
#define AZREDIS_NO_HTTP_DATE
#define AZREDIS_NO_CALLBACK
#ifndef WITH_ASSERTION
#define AZREDIS_NO_ASSERTION
#endif
#if !defined(WITH_CERTIFICATE) && !defined(CERTIFICATE)
#define AZREDIS_NO_CERTIFICATE
#endif
#ifndef WITH_PROXY
#define AZREDIS_NO_PROXY
#endif
#if !defined(SECRET) && !defined(CERTIFICATE)
#define AZREDIS_NO_HTTP
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

static uint64_t board_now(void *user) { (void)user; return clock_ms; }
static int64_t board_unix(void *user) { (void)user; return clock_ms; }
static int board_connect(void *user, const char *host, uint16_t port, intptr_t *s) { (void)user; *s = host[0] + port; return 1; }
static void board_close(void *user, intptr_t s) { (void)user; uart = (uint32_t)s; }
static void *board_alloc(void *user, size_t n) { (void)user; return board_calloc(n, 1); }
static void board_release(void *user, void *p, size_t n) { (void)user; (void)n; board_free(p); }
static void board_wait(void *user, azredis_fd *fds, size_t n, uint32_t ms) { (void)user; (void)fds; uart = (uint32_t)n + ms; }

#if !defined(SECRET) && !defined(CERTIFICATE)
static azredis_status board_token(void *user, const char *scope, azredis_fetched *out) {
    (void)user;
    (void)scope;
    memset(out->token, (int)noise, 1000);
    out->len = 1000;
    out->expires_in = 3600;
    return AZREDIS_OK;
}
#endif

static const azredis_port port = {NULL, board_now, board_unix, board_entropy, board_connect, board_send, board_recv,
                                  board_close, board_alloc, board_release, NULL, board_wait, NULL, NULL};

int main(void) {
    azredis_auth_options id;
    azredis_options o;
    azredis_reply r;
    azredis_client *c;
    azredis_sub *s;
    azredis_message m;
    memset(&id, 0, sizeof id);
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
#ifdef SECRET
    id.identity = AZREDIS_ID_CLIENT_SECRET;
    id.tenant_id = id.client_id = id.client_secret = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
#elif defined(CERTIFICATE)
    id.identity = AZREDIS_ID_CLIENT_CERTIFICATE;
    id.tenant_id = id.client_id = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    id.certificate = id.key = root_der;
    id.certificate_len = id.key_len = sizeof root_der;
#else
    id.identity = AZREDIS_ID_CALLBACK;
    id.get_token = board_token;
#endif
    id.user = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    mbedtls_platform_set_calloc_free(board_calloc, board_free);
    o.host = "name.region.redis.azure.net";
    o.identity = &id;
    o.ca = root_der;
    o.ca_len = sizeof root_der;
    o.port = &port;
    c = azredis_open(&o);
    s = azredis_subscribe(c, AZREDIS_CHANNEL, "orders", NULL, NULL);
    for (;;) {
        if (azredis_command(c, &r, "SET", "temperature", "21") == AZREDIS_OK) uart = r.value->len;
        if (azredis_next(s, &m, 1000) == AZREDIS_OK) uart = (uint32_t)m.payload.len;
    }
}

#else
static int verify(void *user, mbedtls_x509_crt *crt, int depth, uint32_t *flags) {
    (void)user;
    (void)crt;
    if (depth > 3) *flags |= 1;
    return 0;
}
static int bio_send(void *user, const unsigned char *p, size_t n) { return board_send(user, 1, p, n); }
static int bio_recv(void *user, unsigned char *p, size_t n) { return board_recv(user, 1, p, n); }
static int rng(void *user, unsigned char *p, size_t n) { return board_entropy(user, p, n); }

#ifdef CERTIFICATE
/* What an assertion needs of mbedTLS: a key, is it the certificate's, a hash, a signature. */
static void sign(mbedtls_x509_crt *crt) {
    unsigned char hash[32], out[512];
    size_t n = 0;
    mbedtls_pk_context pk;
    mbedtls_pk_init(&pk);
#if MBEDTLS_VERSION_MAJOR >= 3
    uart = (uint32_t)mbedtls_pk_parse_key(&pk, root_der, sizeof root_der, NULL, 0, rng, NULL);
    uart = (uint32_t)mbedtls_pk_check_pair(&crt->pk, &pk, rng, NULL);
#else
    uart = (uint32_t)mbedtls_pk_parse_key(&pk, root_der, sizeof root_der, NULL, 0);
    uart = (uint32_t)mbedtls_pk_check_pair(&crt->pk, &pk);
#endif
    (void)mbedtls_rsa_set_padding(mbedtls_pk_rsa(pk), MBEDTLS_RSA_PKCS_V21, MBEDTLS_MD_SHA256);
    (void)mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), root_der, sizeof root_der, hash);
#if MBEDTLS_VERSION_MAJOR >= 3
    uart = (uint32_t)mbedtls_pk_sign(&pk, MBEDTLS_MD_SHA256, hash, sizeof hash, out, sizeof out, &n, rng, NULL);
#else
    uart = (uint32_t)mbedtls_pk_sign(&pk, MBEDTLS_MD_SHA256, hash, sizeof hash, out, &n, rng, NULL);
#endif
    mbedtls_pk_free(&pk);
}
#endif

/* Connect with verification, write, read, connect again. */
int main(void) {
    static const int suites[] = {MBEDTLS_TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384, 0};
    mbedtls_ssl_context ssl;
    mbedtls_ssl_config conf;
    mbedtls_x509_crt ca;
    uint32_t flags;
    mbedtls_platform_set_calloc_free(board_calloc, board_free);
    for (;; clock_ms++) {
        mbedtls_ssl_init(&ssl);
        mbedtls_ssl_config_init(&conf);
        mbedtls_x509_crt_init(&ca);
#ifdef SIZES_TLS13
        if (psa_crypto_init() != PSA_SUCCESS) return 1;
#endif
        if (mbedtls_x509_crt_parse_der(&ca, root_der, sizeof root_der) != 0) return 1;
        if (mbedtls_ssl_config_defaults(&conf, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM, 0) != 0) return 1;
        mbedtls_ssl_conf_authmode(&conf, MBEDTLS_SSL_VERIFY_REQUIRED);
        mbedtls_ssl_conf_ca_chain(&conf, &ca, NULL);
        mbedtls_ssl_conf_verify(&conf, verify, NULL);
        mbedtls_ssl_conf_ciphersuites(&conf, suites);
        mbedtls_ssl_conf_rng(&conf, rng, NULL);
        if (mbedtls_ssl_setup(&ssl, &conf) != 0 || mbedtls_ssl_set_hostname(&ssl, "name.region.redis.azure.net") != 0) return 1;
        mbedtls_ssl_set_bio(&ssl, NULL, bio_send, bio_recv, NULL);
        while (mbedtls_ssl_handshake(&ssl) != 0) uart = mbedtls_ssl_get_verify_result(&ssl);
        while (mbedtls_ssl_write(&ssl, root_der, 32) > 0 && mbedtls_ssl_read(&ssl, heap, sizeof heap) > 0)
            uart = (uint32_t)mbedtls_ssl_get_bytes_avail(&ssl);
        flags = 0;
        uart = (uint32_t)mbedtls_x509_crt_verify(&ca, &ca, NULL, "name", &flags, verify, NULL);
#ifdef CERTIFICATE
        sign(&ca);
#endif
        mbedtls_ssl_close_notify(&ssl);
        mbedtls_ssl_free(&ssl);
        mbedtls_ssl_config_free(&conf);
        mbedtls_x509_crt_free(&ca);
    }
}
#endif
