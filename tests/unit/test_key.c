/* Certificates and keys as the openssl program writes them: read in every form, leaf first, refused with the mend, never
 * left in memory; what they sign is verified by openssl. Key files are made by key_files.sh. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
static int legacy;                             /* of AZREDIS_LEGACY_PKCS12, so that one build has both */
#define AZRI_WITH_LEGACY_PKCS12 legacy
#define AZRI_PBE_ROUNDS 10000u
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <malloc.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define FILE_ROOM (AZRI_KEY_FILE_MAX + 32)

/* ---- memory that counts, fails on demand and looks at what it gets back ---- */

static struct { long living, most; int allow; unsigned leaks; size_t largest; } heap;
/* What may not be in freed memory: the beginning of the test key's first prime, and a piece of its PKCS#8 in base64. */
static const char secret_der[] = "\xe9\xf8\xc6\x19\xe4\x96\xf5\xc9\xa4\xa9\x01\xc0";
static const char secret_pem[] = "qetokPNOBqDSj+ts";

static int holds(const void *p, size_t n, const char *what, size_t len) {
    size_t i;
    for (i = 0; i + len <= n; i++)
        if (memcmp((const char *)p + i, what, len) == 0) return 1;
    return 0;
}

/* mbedTLS's memory comes from libc: it is looked at as well, where no sanitizer has an allocator of its own. */
#if defined(__has_feature)
#  if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#    define NO_FREE_WATCH
#  endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#  define NO_FREE_WATCH
#endif
static unsigned watching, watched_leaks;
#ifndef NO_FREE_WATCH
extern void __libc_free(void *p);
void free(void *p) {
    static const char limbs[] = "\xc9\xf5\x96\xe4\x19\xc6\xf8\xe9";    /* the same 8 bytes as a number has them */
    if (p && watching) {
        size_t n = malloc_usable_size(p);
        watched_leaks += (unsigned)(holds(p, n, secret_der, 8) || holds(p, n, limbs, sizeof limbs - 1));
    }
    __libc_free(p);
}
#endif

static void *heap_alloc(void *user, size_t n) {
    void *p;
    (void)user;
    if (heap.allow == 0) return NULL;
    if (heap.allow > 0) heap.allow--;
    p = malloc(n);
    assert_non_null(p);
    memset(p, 0xa5, n);
    if (++heap.living > heap.most) heap.most = heap.living;
    if (n > heap.largest) heap.largest = n;
    return p;
}

static void heap_free(void *user, void *p, size_t n) {
    (void)user;
    heap.leaks += (unsigned)(holds(p, n, secret_der, sizeof secret_der - 1) || holds(p, n, secret_pem, sizeof secret_pem - 1));
    heap.living--;
    free(p);
}

static const azri_mem mem = { heap_alloc, heap_free, NULL, NULL };

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
static char *given[512];
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
    legacy = 0;
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
    azredis_str rest = azri_slice(chain->ptr, chain->len);
    for (; *names; names++) {
        char command[200];
        azredis_str want;
        (void)snprintf(command, sizeof command, "openssl x509 -in %s -outform DER -out want", *names);
        run(command);
        want = file("want");
        assert_true(azri_chain_next(&rest, &der));
        assert_int_equal(der.len, want.len);
        assert_memory_equal(der.ptr, want.ptr, want.len);
    }
    assert_false(azri_chain_next(&rest, &der));
}

static void refuses(const char *certificate, const char *of_its_own, const char *pass, const char *words) {
    assert_int_equal(load(certificate, of_its_own, pass), AZREDIS_E_ARG);
    if (!strstr(err.message, words)) fail_msg("%s: '%s' is not in: %s", certificate, words, err.message);
    assert_string_equal(err.where, "certificate");
    assert_null(strstr(err.message, password));
    assert_false(key.open);
}

static const char *const one[] = { "cert.pem", NULL };

static void test_pem(void **state) {
    static const struct { const char *certificate, *key; } good[] = {
        { "both.pem", NULL }, { "key_first.pem", NULL }, { "crlf.pem", NULL }, { "cert.pem", "pkcs8.pem" },
        { "cert.pem", "pkcs1.pem" }, { "cert.der", "pkcs8.der" }, { "cert.pem", "proc_type.pem" }, { "cert.pem", "proc_type_crlf.pem" },
        { "cert.der", "pkcs8.pem" }, { "default.pfx", "pkcs8.pem" }, { "newline.der", "pkcs8.pem" }, { "bom.pem", NULL }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        loads(good[i].certificate, good[i].key, password);
        chain_is(&key.chain, one);
    }
}

static void test_encrypted_keys(void **state) {
    static const struct { const char *key; int legacy; } good[] = {
        { "default.pem", 0 }, { "default_crlf.pem", 0 }, { "aes128_sha1.pem", 0 }, { "aes192.pem", 0 }, { "sha512.pem", 0 },
        { "most.pem", 0 }, { "des3_pbes2.pem", 1 }, { "des3_pkcs12.pem", 1 }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        legacy = good[i].legacy;
        loads("cert.pem", good[i].key, password);
        refuses("cert.pem", good[i].key, "pa ss", "its password is wrong");
        refuses("cert.pem", good[i].key, NULL, "give its password");
        legacy = 0;
        if (good[i].legacy) refuses("cert.pem", good[i].key, password, "3DES, which needs AZREDIS_LEGACY_PKCS12");
    }
    loads("encrypted_both.pem", NULL, password);
    loads("cert.pem", "default.der", password);
    refuses("cert.pem", "default.der", "pa ss", "its password is wrong");
    refuses("cert.der", "default.der", NULL, "give its password: AZURE_CLIENT_CERTIFICATE_PASSWORD");
    refuses("cert.pem", "rc2.pem", password, "RC2");
    refuses("cert.pem", "scrypt.pem", password, "something unknown");
    refuses("cert.pem", "camellia.pem", password, "openssl pkcs8 -topk8 -in OLD -v2 aes-256-cbc -out NEW");
    assert_int_equal(load("cert.pem", "more.pem", password), AZREDIS_E_LIMIT);
    assert_non_null(strstr(err.message, "10001 more"));
}

static void test_pfx(void **state) {
    static const struct { const char *name; int legacy; } good[] = {
        { "default.pfx", 0 }, { "named.pfx", 0 }, { "aes128.pfx", 0 }, { "sha1.pfx", 0 }, { "sha384.pfx", 0 },
        { "sha512.pfx", 0 }, { "no_mac.pfx", 0 }, { "plain.pfx", 0 }, { "plain_cert.pfx", 0 }, { "des3.pfx", 1 },
        { "des3_pbes2.pfx", 1 }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        legacy = good[i].legacy;
        loads(good[i].name, NULL, password);
        chain_is(&key.chain, one);
        refuses(good[i].name, NULL, "wrong", "its password is wrong");
        refuses(good[i].name, NULL, "", "give its password");
        legacy = 0;
        if (good[i].legacy) refuses(good[i].name, NULL, password, "3DES, which needs AZREDIS_LEGACY_PKCS12");
    }
    loads("open.pfx", NULL, NULL);
    legacy = 1;
    loads("astral.pfx", NULL, "\xf0\x9f\x94\x91key");
    refuses("legacy.pfx", NULL, password, "RC2");
    assert_non_null(strstr(err.message, "openssl pkcs12 -legacy -in OLD -aes256 -out NEW.pem"));
    run("openssl pkcs12 -legacy -in legacy.pfx -aes256 -out new.pem -passin file:password -passout pass:new");
    legacy = 0;
    loads("new.pem", NULL, "new");
}

/* The other form of no password, which the openssl program does not write but reads. */
static void without_password(const char *name, int nid) {
    BIO *pem = BIO_new_file(path("both.pem"), "r");
    X509 *x = PEM_read_bio_X509(pem, NULL, NULL, NULL);
    EVP_PKEY *k = PEM_read_bio_PrivateKey(pem, NULL, NULL, NULL);
    PKCS12 *p = PKCS12_create(NULL, NULL, k, x, NULL, nid, nid, 0, 0, 0);
    BIO *out = BIO_new_file(path(name), "wb");
    assert_true(p && out && i2d_PKCS12_bio(out, p));
    PKCS12_free(p);
    X509_free(x);
    EVP_PKEY_free(k);
    BIO_free(pem);
    BIO_free(out);
}

static void test_empty_password(void **state) {
    static const char *const names[] = { "empty.pfx", "empty_des3.pfx", "none.pfx", "none_des3.pfx" };
    size_t i;
    (void)state;
    without_password("none.pfx", NID_aes_256_cbc);
    without_password("none_des3.pfx", NID_pbe_WithSHA1And3_Key_TripleDES_CBC);
    legacy = 1;
    for (i = 0; i < COUNT(names); i++) {
        loads(names[i], NULL, NULL);
        loads(names[i], NULL, "");
        refuses(names[i], NULL, "x", "its password is wrong");
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
    loads("chain.pfx", NULL, password);
    chain_is(&key.chain, last);
    assert_int_equal(azri_chain_load(&chain, &mem, file("leaf_between.pem"), NULL, &err), AZREDIS_OK);
    chain_is(&chain, as_it_is);
    azri_buf_free(&chain);
    assert_int_equal(azri_chain_load(&chain, &mem, file("no_key.pfx"), password, &err), AZREDIS_OK);
    chain_is(&chain, one);
    azri_buf_free(&chain);
    assert_int_equal(azri_chain_load(&chain, &mem, file("pkcs8.pem"), NULL, &err), AZREDIS_E_ARG);
    assert_null(chain.ptr);
}

static void test_refusals(void **state) {
    char longer[AZRI_PASSWORD_MAX + 2];
    (void)state;
    refuses("cert.pem", NULL, NULL, "no private key");
    refuses("cert.der", NULL, NULL, "no private key");
    refuses("no_key.pfx", NULL, password, "no private key");
    refuses("pkcs8.pem", NULL, NULL, "no certificate");
    refuses("no_cert.pfx", NULL, password, "no certificate");
    refuses("password", NULL, NULL, "no certificate");
    refuses("other.pem", "pkcs8.pem", NULL, "belongs to the private key");
    refuses("flipped.pem", "pkcs8.pem", NULL, "openssl x509 -in FILE -noout -text");
    refuses("cut.pem", "pkcs8.pem", NULL, "cut off, or still being written");
    refuses("cert.pem", "cut.key", NULL, "cut off, or still being written");
    refuses("cut_chain.pem", "pkcs8.pem", NULL, "cut off, or still being written");
    refuses("ec.pem", NULL, NULL, "not RSA");
    refuses("ec.pfx", NULL, password, "not RSA");
    refuses("cert.pem", "short.key", NULL, "1024 bits");
    refuses("cert.pem", "proc_type.pem", NULL, "give its password");
    refuses("cert.pem", "proc_type.pem", "wrong", "its password is wrong");
    refuses("cert.pem", "default.pfx", password, "openssl pkey -in OLD -out NEW");
    refuses("md5.pfx", NULL, password, "something unknown");
    assert_int_equal(load("more.pfx", NULL, password), AZREDIS_E_LIMIT);
    assert_non_null(strstr(err.message, "-iter"));
    memset(longer, 'x', sizeof longer);
    longer[AZRI_PASSWORD_MAX] = '\0';
    refuses("default.pfx", NULL, longer, "its password is wrong");
    longer[AZRI_PASSWORD_MAX] = 'x';
    longer[AZRI_PASSWORD_MAX + 1] = '\0';
    assert_int_equal(load("default.pfx", NULL, longer), AZREDIS_E_LIMIT);
}

/* A copy in memory of exactly this length, so that a byte too far is seen. */
static azredis_status load_bytes(const void *p, size_t n, const char *pass) {
    char *copy = (char *)malloc(n ? n : 1);
    azredis_status st;
    memcpy(copy, p, n);
    memset(&err, 0, sizeof err);
    azri_key_free(&key);
    st = azri_key_load(&key, &mem, azri_slice(copy, n), azri_str(""), pass, &err);
    free(copy);
    if (st != AZREDIS_OK) assert_true(strlen(err.message) > 20 && !key.open);
    return st;
}

/* The longest file, and one byte less and more: what stands before the blocks is a comment. */
static void test_longest(void **state) {
    static char room[FILE_ROOM];
    azredis_str s = file("both.pem");
    int more;
    (void)state;
    for (more = -1; more <= 1; more++) {
        size_t n = AZRI_KEY_FILE_MAX + (size_t)more;
        memset(room, '\n', n - s.len);
        memcpy(room + n - s.len, s.ptr, s.len);
        assert_int_equal(load_bytes(room, n, NULL), more > 0 ? AZREDIS_E_LIMIT : AZREDIS_OK);
        azri_key_free(&key);
        assert_int_equal(azri_key_load(&key, &mem, s, azri_slice(room, n), NULL, &err), more > 0 ? AZREDIS_E_LIMIT : AZREDIS_OK);
    }
    room[0] = 0x30;                      /* in DER */
    room[1] = (char)(unsigned char)0x84;
    assert_int_equal(azri_key_load(&key, &mem, s, azri_slice(room, AZRI_KEY_ROOM + 1), NULL, &err), AZREDIS_E_LIMIT);
    assert_non_null(strstr(err.message, "131072"));
}

static void test_no_memory(void **state) {
    static const char *const names[] = { "one.pfx", "open.pfx", "encrypted_both.pem", "cert.der" };
    azredis_str s[COUNT(names)], own = file("proc_type.pem");
    size_t i, n;
    (void)state;
    for (i = 0; i < COUNT(names); i++) s[i] = file(names[i]);
    for (i = 0; i < COUNT(names); i++) {
        for (n = 0; n < 50; n++) {
            heap.allow = (int)n;
            if (azri_key_load(&key, &mem, s[i], i == 3 ? own : azri_str(""), password, &err) == AZREDIS_OK) break;
            assert_int_equal(err.code, AZREDIS_E_NOMEM);
            assert_int_equal(heap.living, 0);
        }
        assert_in_range(n, 2, 49);
        azri_key_free(&key);
    }
}

/* What an arena has for it: three blocks of one size. */
static void test_arena(void **state) {
    static const char *const names[] = { "both.pem", "encrypted_both.pem", "default.pfx", "plain.pfx" };
    static const azri_shape shape = { 1, 1, 1, 1, 1 };
    static const azri_mem blocks = { heap_alloc, heap_free, NULL, &shape };
    azredis_auth_options o;
    azredis_auth_options conf;
    size_t i;
    (void)state;
    memset(&o, 0, sizeof o);
    o.identity = AZREDIS_ID_CLIENT_CERTIFICATE;
    o.tenant_id = o.client_id = "11111111-2222-3333-4444-555555555555";
    o.certificate_file = "app.pem";      /* for what it holds there are no blocks */
    assert_int_equal(azri_identity_conf_copy(&conf, &blocks, &o, &err), AZREDIS_E_ARG);
    assert_non_null(strstr(err.message, "give certificate and key in memory"));
    for (i = 0; i < COUNT(names); i++) {
        assert_int_equal(azri_key_load(&key, &blocks, file(names[i]), azri_str(""), password, &err), AZREDIS_OK);
        azri_key_free(&key);
    }
    assert_int_equal(heap.most, 3);
    assert_int_equal(heap.largest, AZRI_KEY_ROOM);
}

/* ---- damage ---- */

static void test_truncated(void **state) {
    static const char *const names[] = { "one.pfx", "open.pfx", "encrypted_both.pem", "cert.der" };
    size_t i, n;
    (void)state;
    for (i = 0; i < COUNT(names); i++) {
        azredis_str s = file(names[i]);
        size_t whole = s.len - (s.ptr[s.len - 1] == '\n');
        for (n = 0; n < whole; n++) assert_int_not_equal(load_bytes(s.ptr, n, password), AZREDIS_OK);
    }
}

/* A wrong password and a damaged file are told apart. */
static void test_damaged(void **state) {
    azredis_str s = file("one.pfx");
    size_t at, wrong = 0, damaged = 0, other = 0, good = 0;
    (void)state;
    for (at = 0; at < s.len; at++) {
        ((char *)(uintptr_t)s.ptr)[at] ^= 0x10;
        if (load_bytes(s.ptr, s.len, password) == AZREDIS_OK) good++;
        else if (strstr(err.message, "password is wrong")) wrong++;
        else if (strstr(err.message, "damaged")) damaged++;
        else other++;
        ((char *)(uintptr_t)s.ptr)[at] ^= 0x10;
    }
    print_message("of %u flipped bytes: %u damage, %u wrong password, %u other, %u do not matter\n", (unsigned)s.len,
                  (unsigned)damaged, (unsigned)wrong, (unsigned)other, (unsigned)good);
    assert_true(good <= 2 && damaged > s.len * 9 / 10);           /* the parameters of SHA-256, which has none */
}

/* A MAC whose key is hashed not once has no key: openssl writes the salt, then how often. */
static void test_no_rounds(void **state) {
    azredis_str s = file("twice.pfx");
    char *at = (char *)(uintptr_t)s.ptr + s.len - 3;
    (void)state;
    assert_memory_equal(at, "\x02\x01\x02", 3);
    assert_int_equal(load_bytes(s.ptr, s.len, password), AZREDIS_OK);
    at[2] = 0;
    assert_int_equal(load_bytes(s.ptr, s.len, password), AZREDIS_E_ARG);
    assert_non_null(strstr(err.message, "damaged"));
    assert_int_equal(load_bytes(s.ptr, s.len, "wrong"), AZREDIS_E_ARG);
    assert_non_null(strstr(err.message, "damaged"));
}

/* PKCS#12 without encryption, damaged so that it looks like a certificate: teardown finds what it leaves of its key. */
static void test_key_within_a_certificate(void **state) {
    azredis_str s = file("open.pfx");
    azri_buf chain;
    (void)state;
    assert_true(holds(s.ptr, s.len, secret_der, sizeof secret_der - 1));
    assert_int_equal(s.ptr[4], 0x02);
    ((char *)(uintptr_t)s.ptr)[4] = 0x30;
    assert_int_equal(load_bytes(s.ptr, s.len, NULL), AZREDIS_E_ARG);
    assert_non_null(strstr(err.message, "no private key"));
    assert_int_equal(azri_chain_load(&chain, &mem, s, NULL, &err), AZREDIS_OK);
    azri_buf_free(&chain);
}

#define MUTATIONS 10000u
static void test_mutations(void **state) {
    static const char *const names[] = { "one.pfx", "open.pfx", "plain_cert.pfx", "encrypted_both.pem" };
    static char bytes[FILE_ROOM];
    azredis_str s[COUNT(names)];
    uint32_t seed = (uint32_t)time(NULL), i, good = 0;
    azri_rng r;
    (void)state;
    r.state = seed;
    print_message("seed %u\n", (unsigned)seed);
    for (i = 0; i < COUNT(names); i++) s[i] = file(names[i]);
    for (i = 0; i < MUTATIONS; i++) {
        azredis_str from = s[i % COUNT(names)];
        size_t n = from.len, k, flips = 1 + azri_rng_below(&r, 3);
        memcpy(bytes, from.ptr, n);
        for (k = 0; k < flips; k++) bytes[azri_rng_below(&r, n)] = (char)(unsigned char)azri_rng_below(&r, 256);
        if (azri_rng_below(&r, 8) == 0) n = azri_rng_below(&r, n);
        good += load_bytes(bytes, n, password) == AZREDIS_OK;
    }
    print_message("%u of %u are still good\n", (unsigned)good, MUTATIONS);
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

/* 0: this program's free is not the one that is called. */
static int watches(void) {
    char *volatile p = (char *)malloc(100);
    watched_leaks = 0;
    memcpy(p, secret_der, 8);
    watching = 1;
    free(p);
    watching = 0;
    return watched_leaks == 1;
}

static void test_wiped(void **state) {
    static const char *const names[] = { "both.pem", "encrypted_both.pem", "default.pfx", "open.pfx" };
    azredis_str s[COUNT(names)];
    azri_buf signature;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(names); i++) s[i] = file(names[i]);
    if (!watches()) return;
    watched_leaks = 0;
    for (i = 0; i < COUNT(names); i++) {
        watching = 1;
        assert_int_equal(azri_key_load(&key, &mem, s[i], azri_str(""), password, &err), AZREDIS_OK);
        azri_buf_init(&signature, &mem, 256, 0);
        sign(AZRI_SIGN_PS256, "message", &signature);
        azri_buf_free(&signature);
        azri_key_free(&key);
        assert_null(mbedtls_pk_rsa(key.pk));
        watching = 0;
    }
    assert_int_equal(watched_leaks, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pem, setup, teardown),
        cmocka_unit_test_setup_teardown(test_encrypted_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pfx, setup, teardown),
        cmocka_unit_test_setup_teardown(test_empty_password, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_longest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_arena, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_rounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_key_within_a_certificate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mutations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_thumbprints, setup, teardown),
        cmocka_unit_test_setup_teardown(test_signatures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wiped, setup, teardown)
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
