/*
 * certificate.h - part of emulator.c: assertions that an application signs with the key of its certificate. One
 * application (P_CERTIFICATE) registered certificates, known by their prints; another (P_SUBJECT) trusts whatever
 * certificate has a certain subject name and was issued below a certain CA, which takes the chain (x5c).
 */
#define ASSERTION_LIFE_MAX 86400 /* seconds; five to ten minutes are usual, half an hour occurs */
#define CHAIN_SENT_MAX     10

struct client_cert {
    X509 *cert;
    X509 *ca; /* NULL: registered by its print. Otherwise its subject name is trusted below this one. */
};

static struct client_cert *client_certs; /* under g.lock, as all below */
static size_t client_cert_count, client_cert_room;

struct seen_assertion { char hash[65]; time_t until; };

static struct seen_assertion *seen_assertions;
static size_t seen_count, seen_room;

/* ---- Registration ---- */

/* Takes them over. */
static void client_cert_add(X509 *cert, X509 *ca) {
    pthread_mutex_lock(&g.lock);
    make_room(&client_certs, client_cert_count, &client_cert_room, sizeof *client_certs, SIZE_MAX);
    client_certs[client_cert_count].cert = cert;
    client_certs[client_cert_count++].ca = ca;
    pthread_mutex_unlock(&g.lock);
}

static void client_certs_forget(void) {
    pthread_mutex_lock(&g.lock);
    while (client_cert_count) {
        X509_free(client_certs[--client_cert_count].cert);
        X509_free(client_certs[client_cert_count].ca);
    }
    pthread_mutex_unlock(&g.lock);
}

/* Of a PEM text: each is registered, or (`subject`) the first one's name below the last one. False: there is none. */
static bool client_certs_register(const char *pem, size_t n, bool subject) {
    BIO *bio = must(BIO_new_mem_buf(pem, (int)n));
    X509 *first = NULL, *last = NULL, *cert;
    while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        X509_free(last);
        last = X509_dup(cert);
        if (!subject) client_cert_add(X509_dup(cert), NULL);
        if (!first)
            first = cert;
        else
            X509_free(cert);
    }
    if (subject && first) client_cert_add(X509_dup(first), X509_dup(last));
    X509_free(last);
    X509_free(first);
    ERR_clear_error();
    BIO_free(bio);
    return first != NULL;
}

/* ---- The header: print and chain ---- */

/* Base64url; Go's library writes the SHA-256 print as padded base64, and Entra takes that too. */
static bool is_print(const char *text, X509 *cert, const EVP_MD *md) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char *expected, *copy = must(strdup(text)), *c;
    bool good;
    X509_digest(cert, md, digest, &n);
    expected = base64url(digest, n);
    for (c = copy; n == 32 && *c; c++) *c = *c == '+' ? '-' : *c == '/' ? '_' : *c;
    if (n == 32 && strlen(copy) == 44 && copy[43] == '=') copy[43] = 0;
    good = strcmp(copy, expected) == 0;
    free(expected);
    free(copy);
    return good;
}

/* One of x5c, standard base64 of DER. */
static X509 *x5c_one(const json_t *value) {
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    const unsigned char *p;
    unsigned char *der;
    X509 *cert = NULL;
    int length;
    if (!text || n == 0 || n % 4 != 0 || n > BODY_MAX) return NULL;
    p = der = must(malloc(n));
    length = EVP_DecodeBlock(der, (const unsigned char *)text, (int)n);
    if (length > 0) length -= (text[n - 1] == '=') + (text[n - 2] == '=');
    if (length > 0) cert = d2i_X509(NULL, &p, length);
    if (cert && p != der + length) {
        X509_free(cert);
        cert = NULL;
    }
    free(der);
    ERR_clear_error();
    return cert;
}

/* The chain that was sent, leaf first; .NET's library sends one string. NULL: none. `bad`: not readable. */
static STACK_OF(X509) *x5c_chain(const json_t *header, bool *bad) {
    const json_t *x5c = json_object_get(header, "x5c");
    STACK_OF(X509) *chain;
    size_t i, n = json_is_string(x5c) ? 1 : json_array_size(x5c);
    *bad = x5c && (n == 0 || n > CHAIN_SENT_MAX);
    if (!x5c || *bad) return NULL;
    chain = must(sk_X509_new_null());
    for (i = 0; i < n && !*bad; i++) {
        X509 *cert = x5c_one(json_is_string(x5c) ? x5c : json_array_get(x5c, i));
        *bad = !cert;
        if (cert) sk_X509_push(chain, cert);
    }
    if (!*bad) return chain;
    sk_X509_pop_free(chain, X509_free);
    return NULL;
}

static bool cert_lives(const X509 *cert) {
    time_t now = entra_time();
    return X509_cmp_time(X509_get0_notBefore(cert), &now) < 0 && X509_cmp_time(X509_get0_notAfter(cert), &now) > 0;
}

static bool chain_good(STACK_OF(X509) *chain, X509 *ca) {
    X509_STORE *store = must(X509_STORE_new());
    X509_STORE_CTX *ctx = must(X509_STORE_CTX_new());
    bool good;
    X509_STORE_add_cert(store, ca);
    X509_STORE_CTX_init(ctx, store, sk_X509_value(chain, 0), chain);
    X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_PARTIAL_CHAIN);
    X509_STORE_CTX_set_time(ctx, 0, entra_time());
    good = X509_verify_cert(ctx) == 1;
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    ERR_clear_error();
    return good;
}

/* ---- Whose certificate signed ---- */

static void reason(char out[REASON_SIZE], const char *why, const char *print, const struct principal *p) {
    snprintf(out, REASON_SIZE, "[Reason - %s, Thumbprint of key used by client: '%.100s', Please visit the Azure "
             "Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id '%s'.] Alternatively, "
             "SNI may be configured on the app. Please ensure that client assertion is being sent with the x5c claim "
             "in the JWT header.", why, print, p->client);
}

static X509 *registered_cert(const char *print, const EVP_MD *md) {
    X509 *found = NULL;
    size_t i;
    pthread_mutex_lock(&g.lock);
    for (i = 0; i < client_cert_count && !found; i++)
        if (!client_certs[i].ca && is_print(print, client_certs[i].cert, md)) found = X509_dup(client_certs[i].cert);
    pthread_mutex_unlock(&g.lock);
    return found;
}

/* Is the chain's leaf of a trusted name, and below its CA? 0, or the code of the refusal. */
static long subject_refused(STACK_OF(X509) *chain) {
    long code = 700030;
    size_t i;
    pthread_mutex_lock(&g.lock);
    for (i = 0; i < client_cert_count && code; i++) {
        const struct client_cert *c = &client_certs[i];
        if (!c->ca || X509_NAME_cmp(X509_get_subject_name(c->cert), X509_get_subject_name(sk_X509_value(chain, 0))))
            continue;
        code = chain_good(chain, c->ca) ? 0 : 50012;
    }
    pthread_mutex_unlock(&g.lock);
    return code;
}

/* The certificate that the header names, when the application may use it. NULL: `code` and `detail` say why not. */
static X509 *cert_of_header(const json_t *header, bool pss, const struct principal *p, long *code,
                            char detail[REASON_SIZE]) {
    const EVP_MD *md = pss ? EVP_sha256() : EVP_sha1();
    const char *print = json_string_value(json_object_get(header, pss ? "x5t#S256" : "x5t"));
    STACK_OF(X509) *chain;
    X509 *cert = NULL;
    bool bad;
    *code = 50027;
    snprintf(detail, REASON_SIZE, "No certificate thumbprint specified in token header.");
    if (!print) return NULL;
    snprintf(detail, REASON_SIZE, "The certificates of 'x5c' cannot be read.");
    chain = x5c_chain(header, &bad);
    if (bad) return NULL;
    *code = 700027;
    reason(detail, "The key was not found.", print, p);
    if (chain && !is_print(print, sk_X509_value(chain, 0), md)) {
        reason(detail, "The first certificate of x5c is another.", print, p);
    } else if (p == &g.who[P_CERTIFICATE]) {
        cert = registered_cert(print, md);
    } else if (p == &g.who[P_SUBJECT] && chain) {
        *code = subject_refused(chain);
        if (*code == 50012) snprintf(detail, REASON_SIZE, "The certificate chain isn't valid.");
        if (*code == 0) cert = X509_dup(sk_X509_value(chain, 0));
    }
    sk_X509_pop_free(chain, X509_free);
    return cert;
}

/* ---- The assertion ---- */

/* True once for each assertion, as long as it lives. */
static bool assertion_is_new(const char *jti, const struct principal *p, time_t until) {
    char *text = format_text("%s %s", p->client, jti), hash[65];
    bool is_new = true;
    time_t now = entra_time();
    size_t i, kept = 0;
    sha256_hex(text, strlen(text), hash);
    free(text);
    pthread_mutex_lock(&g.lock);
    for (i = 0; i < seen_count; i++) {
        is_new &= strcmp(seen_assertions[i].hash, hash) != 0;
        if (seen_assertions[i].until > now) seen_assertions[kept++] = seen_assertions[i];
    }
    seen_count = kept;
    if (make_room(&seen_assertions, seen_count, &seen_room, sizeof *seen_assertions, RECORDS_MAX)) {
        memcpy(seen_assertions[seen_count].hash, hash, sizeof hash);
        seen_assertions[seen_count++].until = until;
    }
    pthread_mutex_unlock(&g.lock);
    return is_new || dials[D_ASSERTION_REPLAY];
}

static long claims_refused(const struct jwt *j, const struct principal *p, const char *url, char detail[REASON_SIZE]) {
    const char *jti = jwt_text(j, "jti");
    long code;
    if (strcmp(jwt_text(j, "aud"), url) != 0) return 700023;
    if (strcasecmp(jwt_text(j, "sub"), p->client) != 0) return 700021;
    if ((code = jwt_time_refused(j, ASSERTION_LIFE_MAX, detail))) return code;
    snprintf(detail, REASON_SIZE, "The claim 'jti' is missing.");
    if (!*jti) return 50027;
    snprintf(detail, REASON_SIZE, "The assertion was presented before, jti '%.100s'.", jti);
    return assertion_is_new(jti, p, (time_t)jwt_seconds(j, "exp")) ? 0 : 50012;
}

/* `url`: of the token endpoint as the client called it. 0: it is good. */
static long certificate_refused(const char *text, const struct jwt *j, const struct principal *p, const char *url,
                                char detail[REASON_SIZE]) {
    const char *alg = json_string_value(json_object_get(j->header, "alg"));
    bool pss = alg && strcmp(alg, "PS256") == 0, good;
    X509 *cert;
    long code;
    snprintf(detail, REASON_SIZE, "%.40s", alg ? alg : "");
    if (!pss && (!alg || strcmp(alg, "RS256") != 0)) return 5002738;
    if (!(cert = cert_of_header(j->header, pss, p, &code, detail))) return code;
    good = jwt_signed_by(text, j, X509_get0_pubkey(cert), pss);
    if (!good)
        reason(detail, "Key was found, but use of the key to verify the signature failed.", "", p);
    else if (!cert_lives(cert))
        reason(detail, "The key used is expired.", "", p), good = false;
    X509_free(cert);
    return good ? claims_refused(j, p, url, detail) : 700027;
}

/* ---- Admin and the start ---- */

/* POST /certificate with a PEM text registers; ?trust=subject: a name below a CA. DELETE forgets all. */
static enum MHD_Result answer_certificate(struct MHD_Connection *h, const char *method, struct request *request) {
    const char *trust = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "trust");
    size_t n;
    if (strcmp(method, "DELETE") == 0)
        client_certs_forget();
    else if (!client_certs_register(request->body, request->n, trust && strcmp(trust, "subject") == 0))
        return reply_json(h, 400, json_pack("{ss}", "error", "the body has no certificate in PEM"));
    pthread_mutex_lock(&g.lock);
    n = client_cert_count;
    pthread_mutex_unlock(&g.lock);
    return reply_json(h, 200, json_pack("{sI}", "certificates", (json_int_t)n));
}

static void client_certs_of_file(const char *path, bool subject) {
    char *text = must(malloc(BODY_MAX));
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, BODY_MAX, f) : 0;
    if (f) fclose(f);
    if (!client_certs_register(text, n, subject)) bad_usage("%s: there is no certificate in PEM", path);
    free(text);
}

static void write_pfx(EVP_PKEY *key, X509 *cert, X509 *ca) {
    STACK_OF(X509) *above = must(sk_X509_new_null());
    char *path = format_text("%s/client.pfx", g.dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    PKCS12 *p12;
    sk_X509_push(above, ca);
    p12 = PKCS12_create(g.pfx_password, "client", key, cert, above, 0, 0, 0, 0, 0);
    tls_must(p12 && f && i2d_PKCS12_fp(f, p12) == 1 && fclose(f) == 0, "client.pfx cannot be written");
    PKCS12_free(p12);
    sk_X509_free(above);
    free(path);
}

/* A certificate for whoever wants to try: registered with one application, and its name with the other. */
static void make_client_cert(void) {
    struct identity ca = new_small("emulator client CA", NULL, NULL, NULL);
    EVP_PKEY *key = new_key(false, false);
    X509 *cert = new_cert(key, "client", "DNS:client.emulator.test", ca.cert, ca.key, -86400, 30 * 86400);
    char *parts[] = {pem_text(NULL, key), pem_text(cert, NULL), pem_text(ca.cert, NULL)};
    char *path = format_text("%s/client.pem", g.dir), *all = format_text("%s%s%s", parts[0], parts[1], parts[2]);
    int i;
    write_file(path, all);
    write_pfx(key, cert, ca.cert);
    client_certs_register(parts[1], strlen(parts[1]), false);
    client_certs_register(all, strlen(all), true);
    OPENSSL_cleanse(all, strlen(all));
    OPENSSL_cleanse(parts[0], strlen(parts[0]));
    for (i = 0; i < 3; i++) free(parts[i]);
    free(all);
    free(path);
    X509_free(cert);
    EVP_PKEY_free(key);
    free_identity(&ca);
}
