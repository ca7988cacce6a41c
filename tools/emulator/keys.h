/*
 * keys.h - part of emulator.c: keys, certificates and the TLS of the gateway.
 */
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
