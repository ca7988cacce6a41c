/* Certificates and keys as the openssl program writes them: read in every form, leaf first, refused with the mend, never
 * left in memory; what they sign is verified by openssl. Key files are made by key_files.sh. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <openssl/evp.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define FILE_ROOM (AZRI_KEY_FILE_MAX + 2)

/* ---- memory that counts, fails on demand and looks at what it gets back ---- */

static struct { long living; int allow; unsigned leaks; } heap;
/* What may not be in freed memory: the beginning of the test key's first prime, and a piece of its PKCS#8 in base64. */
static const char secret_der[] = "\xe9\xf8\xc6\x19\xe4\x96\xf5\xc9\xa4\xa9\x01\xc0";
static const char secret_pem[] = "qetokPNOBqDSj+ts";

static int holds(const void *p, size_t n, const char *what, size_t len) {
    size_t i;
    for (i = 0; i + len <= n; i++)
        if (memcmp((const char *)p + i, what, len) == 0) return 1;
    return 0;
}

static void *heap_alloc(void *user, size_t n) {
    void *p;
    (void)user;
    if (heap.allow == 0) return NULL;
    if (heap.allow > 0) heap.allow--;
    p = malloc(n);
    assert_non_null(p);
    memset(p, 0xa5, n);
    heap.living++;
    return p;
}

static void heap_free(void *user, void *p, size_t n) {
    (void)user;
    heap.leaks += (unsigned)(holds(p, n, secret_der, sizeof secret_der - 1) || holds(p, n, secret_pem, sizeof secret_pem - 1));
    heap.living--;
    free(p);
}

static const azri_mem mem = { heap_alloc, heap_free, NULL, NULL };

/* The first 32 bytes are 0, 1, 2 ...: the salt of vector c.2. */
static unsigned drawn;
static int entropy(void *user, void *out, size_t n) {
    size_t i;
    (void)user;
    for (i = 0; i < n; i++) ((unsigned char *)out)[i] = (unsigned char)drawn++;
    return 0;
}

/* ---- files ---- */

static char dir[] = "/tmp/test_key_XXXXXX", password[64];
static azri_port port;
static azredis_error err;
static azri_key key;

static const char *path(const char *name) {
    static char p[4][128];
    static unsigned turn;
    char *to = p[turn++ % 4];
    (void)snprintf(to, sizeof p[0], "%s/%s", dir, name);
    return to;
}

/* Each call has its own memory, so that a byte too far is seen; freed at the end of the test. */
static char *given[64];
static size_t givens;
static azredis_str file_at(const char *where) {
    static char room[FILE_ROOM];
    FILE *f = fopen(where, "rb");
    size_t n;
    if (!f) fail_msg("%s is missing", where);
    n = fread(room, 1, sizeof room, f);
    fclose(f);
    assert_true(givens < COUNT(given));
    given[givens] = (char *)malloc(n ? n : 1);
    memcpy(given[givens], room, n);
    return azri_slice(given[givens++], n);
}
static azredis_str file(const char *name) { return name ? file_at(path(name)) : azri_str(""); }

static void run(const char *command) {
    char line[1024];
    (void)snprintf(line, sizeof line, "cd %s && { %s; } >said 2>&1", dir, command);
    if (system(line) != 0) fail_msg("failed: %s; see %s/said", command, dir);
}

static int group_setup(void **state) {
    char line[200];
    azredis_str s;
    (void)state;
    if (!mkdtemp(dir)) return -1;
    (void)snprintf(line, sizeof line, "sh tests/unit/key_files.sh %s", dir);
    if (system(line) != 0) return -1;
    s = file("password");
    memcpy(password, s.ptr, s.len);
    memset(&port, 0, sizeof port);
    azri_port_fill(&port, NULL);
    port.p.entropy = entropy;
    return 0;
}

static int group_teardown(void **state) {
    char line[200];
    (void)state;
    (void)snprintf(line, sizeof line, "rm -rf %s", dir);
    return system(line);
}

static int setup(void **state) {
    (void)state;
    memset(&heap, 0, sizeof heap);
    heap.allow = -1;
    memset(&key, 0, sizeof key);
    key.port = &port;
    drawn = 0;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    azri_key_free(&key);
    while (givens) free(given[--givens]);
    return heap.living != 0 || heap.leaks != 0;
}


/* ---- reading ---- */

static azredis_status load(const char *certificate, const char *of_its_own, const char *pass) {
    memset(&err, 0, sizeof err);
    azri_key_free(&key);
    return azri_key_load(&key, &mem, file(certificate), file(of_its_own), pass, &err);
}

static void loads(const char *certificate, const char *of_its_own, const char *pass) {
    if (load(certificate, of_its_own, pass) != AZREDIS_OK) fail_msg("%s: %s", certificate, err.message);
}

/* The certificates of the chain are these files', in this order. */
static void chain_is(const azri_buf *chain, const char *const *names) {
    azredis_str der;
    size_t at = 0;
    for (; *names; names++) {
        char command[200];
        azredis_str want;
        (void)snprintf(command, sizeof command, "openssl x509 -in %s -outform DER -out want", *names);
        run(command);
        want = file("want");
        assert_true(azri_chain_next(chain, &at, &der));
        assert_int_equal(der.len, want.len);
        assert_memory_equal(der.ptr, want.ptr, want.len);
    }
    assert_false(azri_chain_next(chain, &at, &der));
}

static void refuses(const char *certificate, const char *of_its_own, const char *pass, const char *words) {
    assert_int_equal(load(certificate, of_its_own, pass), AZREDIS_E_ARG);
    if (!strstr(err.message, words)) fail_msg("%s: '%s' is not in: %s", certificate, words, err.message);
    assert_string_equal(err.where, "certificate");
    assert_null(strstr(err.message, password));
    assert_false(key.open);
}

static void test_pem(void **state) {
    static const char *const one[] = { "cert.pem", NULL };
    static const struct { const char *certificate, *key; } good[] = {
        { "both.pem", NULL }, { "key_first.pem", NULL }, { "crlf.pem", NULL }, { "cert.pem", "pkcs8.pem" },
        { "cert.pem", "pkcs1.pem" }, { "cert.pem", "proc_type.pem" }, { "cert.pem", "proc_type_crlf.pem" }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        loads(good[i].certificate, good[i].key, password);
        chain_is(&key.chain, one);
    }
}

static void test_chain(void **state) {
    static const char *const last[] = { "leaf.pem", "ca.pem", NULL };
    static const char *const between[] = { "leaf.pem", "ca.pem", "cert.pem", NULL };
    static const char *const as_it_is[] = { "ca.pem", "leaf.pem", "cert.pem", NULL };
    azri_buf chain;
    (void)state;
    loads("leaf_last.pem", "pkcs8.pem", NULL);
    chain_is(&key.chain, last);
    loads("leaf_between.pem", "pkcs8.pem", NULL);
    chain_is(&key.chain, between);
    assert_int_equal(azri_chain_load(&chain, &mem, file("leaf_between.pem"), NULL, &err), AZREDIS_OK);
    chain_is(&chain, as_it_is);
    azri_buf_free(&chain);
}

static void test_refusals(void **state) {
    (void)state;
    refuses("cert.pem", NULL, NULL, "no private key");
    refuses("pkcs8.pem", NULL, NULL, "no certificate");
    refuses("other.pem", "pkcs8.pem", NULL, "belongs to the private key");
    refuses("ec.pem", NULL, NULL, "not an RSA key");
    refuses("cert.pem", "short.key", NULL, "1024 bits");
    refuses("cert.pem", "proc_type.pem", NULL, "give its password");
    refuses("cert.pem", "proc_type.pem", "wrong", "password of its private key is wrong");
}

/* Vector c.1. */
static void test_thumbprints(void **state) {
    unsigned char print[32];
    char text[45];
    (void)state;
    loads("both.pem", NULL, NULL);
    assert_int_equal(azri_chain_print(&key.chain, AZRI_SIGN_RS256, print), 20);
    (void)EVP_EncodeBlock((unsigned char *)text, print, 20);
    assert_string_equal(text, "VIh+EuP5K5znQv1GKod8ttQ1t/o=");
    assert_int_equal(azri_chain_print(&key.chain, AZRI_SIGN_PS256, print), 32);
    (void)EVP_EncodeBlock((unsigned char *)text, print, 32);
    assert_string_equal(text, "vX/X+JkTobGrXqdA07lAqHfP9AkTQz41pCioPk0JVmo=");
}

/* ---- signing ---- */

static void sign(int alg, const char *message, azri_buf *out) {
    unsigned char hash[32];
    assert_int_equal(azri_mbedtls_sha256((const unsigned char *)message, strlen(message), hash), 0);
    assert_int_equal(azri_key_sign(&key, alg, hash, out, &err), AZREDIS_OK);
}

static void keep(const char *name, const void *p, size_t n) {
    FILE *f = fopen(path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static void test_signatures(void **state) {
    static const char message[] = "signed here, verified there";
    azri_buf signature;
    (void)state;
    loads("both.pem", NULL, NULL);
    azri_buf_init(&signature, &mem, 1024, 0);
    keep("message", message, strlen(message));
    run("openssl pkey -in both.pem -pubout -out public.pem");
    sign(AZRI_SIGN_PS256, message, &signature);
    keep("signature", signature.ptr, signature.len);
    run("openssl dgst -sha256 -verify public.pem -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32 "
        "-sigopt rsa_mgf1_md:sha256 -signature signature message");
    signature.len = 0;
    sign(AZRI_SIGN_RS256, message, &signature);
    keep("signature", signature.ptr, signature.len);
    run("openssl dgst -sha256 -verify public.pem -signature signature message");
    signature.ptr[7] ^= 1;
    keep("signature", signature.ptr, signature.len);
    run("! openssl dgst -sha256 -verify public.pem -signature signature message");
    azri_buf_free(&signature);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pem, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_thumbprints, setup, teardown),
        cmocka_unit_test_setup_teardown(test_signatures, setup, teardown)
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
