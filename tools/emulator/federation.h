/*
 * federation.h - part of emulator.c: assertions that stand for a secret. Entra trusts two issuers: the
 * cluster's, whose service-account tokens the emulator writes to files as a kubelet does, and itself,
 * for the managed identity that is registered as credential of an application.
 */
#define SUBJECT          "system:serviceaccount:default:redis-client"
#define EXCHANGE         "api://AzureADTokenExchange"
#define BINDING_AUDIENCE "api://AKSIdentityBinding"
#define ASSERTION_TYPE   "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

static bool unbase64url(const char *text, size_t n, unsigned char **out, size_t *out_n) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned bits = 0, have = 0;
    size_t i, k = 0;
    unsigned char *raw = must(malloc(n + 1));
    for (i = 0; i < n; i++) {
        const char *d = text[i] ? strchr(digit, text[i]) : NULL;
        if (!d || n % 4 == 1) {
            free(raw);
            return false;
        }
        bits = bits << 6 | (unsigned)(d - digit);
        have += 6;
        if (have >= 8) raw[k++] = (unsigned char)(bits >> (have -= 8));
    }
    *out = raw;
    *out_n = k;
    return true;
}

/* A JWT taken apart. */
struct jwt {
    json_t *header, *claims;
    size_t signed_n; /* what the signature is over */
    unsigned char *signature;
    size_t signature_n;
};

static void jwt_free(struct jwt *j) {
    json_decref(j->header);
    json_decref(j->claims);
    free(j->signature);
}

static json_t *jwt_part(const char *text, size_t n) {
    unsigned char *raw;
    size_t raw_n;
    json_t *value;
    if (!unbase64url(text, n, &raw, &raw_n)) return NULL;
    value = json_loadb((const char *)raw, raw_n, JSON_REJECT_DUPLICATES, NULL);
    free(raw);
    if (json_is_object(value)) return value;
    json_decref(value);
    return NULL;
}

/* A time; .NET's library writes it as text. -1: there is none. */
static json_int_t jwt_seconds(const struct jwt *j, const char *name) {
    const json_t *value = json_object_get(j->claims, name);
    long n = -1;
    if (json_is_integer(value)) return json_integer_value(value);
    return json_is_string(value) && parse_number(json_string_value(value), &n) ? n : -1;
}

/* What is wrong with its form; NULL: nothing. */
static const char *jwt_parse(const char *text, struct jwt *j) {
    const char *first = strchr(text, '.'), *second = first ? strchr(first + 1, '.') : NULL;
    memset(j, 0, sizeof *j);
    if (!second || strchr(second + 1, '.')) return "It has not three parts.";
    j->signed_n = (size_t)(second - text);
    j->header = jwt_part(text, (size_t)(first - text));
    j->claims = jwt_part(first + 1, (size_t)(second - first) - 1);
    if (!j->header || !j->claims) return "Header or payload is no JSON object in base64url.";
    if (!unbase64url(second + 1, strlen(second + 1), &j->signature, &j->signature_n)) return "Signature not readable.";
    return jwt_seconds(j, "exp") >= 0 ? NULL : "There is no exp.";
}

/* RS256, or PS256: salt as long as the hash. */
static bool jwt_signed_by(const char *text, const struct jwt *j, EVP_PKEY *key, bool pss) {
    EVP_MD_CTX *ctx = must(EVP_MD_CTX_new());
    EVP_PKEY_CTX *how = NULL;
    bool good = EVP_PKEY_is_a(key, "RSA") && EVP_DigestVerifyInit(ctx, &how, EVP_sha256(), NULL, key) == 1 &&
                (!pss || (EVP_PKEY_CTX_set_rsa_padding(how, RSA_PKCS1_PSS_PADDING) > 0 &&
                          EVP_PKEY_CTX_set_rsa_pss_saltlen(how, RSA_PSS_SALTLEN_DIGEST) > 0)) &&
                EVP_DigestVerify(ctx, j->signature, j->signature_n, (const unsigned char *)text, j->signed_n) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return good;
}

#define SKEW 300 /* seconds that a client's clock may run ahead */

/* 0, or 700024: it is not yet or no more valid, or valid for longer than `most` seconds. */
static long jwt_time_refused(const struct jwt *j, json_int_t most, char detail[REASON_SIZE]) {
    json_int_t now = (json_int_t)entra_time(), exp = jwt_seconds(j, "exp"), nbf = jwt_seconds(j, "nbf");
    char when[3][32];
    time_t times[] = {(time_t)now, nbf < 0 ? 0 : (time_t)nbf, (time_t)exp};
    struct tm tm;
    int i;
    for (i = 0; i < 3; i++) strftime(when[i], sizeof when[i], "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&times[i], &tm) ?: &tm);
    snprintf(detail, REASON_SIZE, "Current time: %s, assertion valid from %s, expiry time of assertion %s", when[0],
             when[1], when[2]);
    return now >= exp || now + SKEW < nbf || exp - now > most + SKEW ? 700024 : 0;
}

/* What an application accepts; `issuer` empty: no assertion at all. */
struct federated_record { char issuer[96], subject[96]; const char *audience; EVP_PKEY *key; };

static struct federated_record federated_record(const struct principal *p) {
    struct federated_record r = {"", "", EXCHANGE, g.issuer_key};
    if (p == &g.who[P_SECRET] || p == &g.who[P_CERTIFICATE] || p == &g.who[P_SUBJECT]) return r;
    snprintf(r.issuer, sizeof r.issuer, "%s", g.issuer);
    snprintf(r.subject, sizeof r.subject, "%s", SUBJECT);
    if (p == &g.who[P_BINDING]) r.audience = BINDING_AUDIENCE;
    if (p != &g.who[P_EXCHANGE]) return r;
    r.key = g.jwt_key;
    snprintf(r.issuer, sizeof r.issuer, "https://login.microsoftonline.com/%s/v2.0", g.tenant);
    snprintf(r.subject, sizeof r.subject, "%s", g.who[P_USER_1].oid);
    return r;
}

static const char *jwt_text(const struct jwt *j, const char *name) {
    const json_t *value = json_object_get(j->claims, name);
    if (json_array_size(value) == 1) value = json_array_get(value, 0); /* aud of a service account is a list */
    return json_string_value(value) ?: "";
}

/* The code with which Entra refuses it, and the words for the hole in its text; 0: it is good. */
static long federated_refused(const char *text, const struct jwt *j, const struct principal *p,
                              char detail[REASON_SIZE]) {
    struct federated_record r = federated_record(p);
    const char *iss = jwt_text(j, "iss"), *aud = jwt_text(j, "aud"), *sub = jwt_text(j, "sub");
    const char *alg = json_string_value(json_object_get(j->header, "alg"));
    snprintf(detail, REASON_SIZE, "%.40s", alg ? alg : "");
    if (!alg || strcmp(alg, "RS256") != 0) return 5002738;
    snprintf(detail, REASON_SIZE, "%.150s", iss);
    if (strcmp(iss, r.issuer) != 0) return *iss && strcasecmp(iss, r.issuer) == 0 ? 7002138 : 700211;
    snprintf(detail, REASON_SIZE, "%.150s", aud);
    if (strcmp(aud, r.audience) != 0) return 700212;
    snprintf(detail, REASON_SIZE, "%.150s", sub);
    if (strcmp(sub, r.subject) != 0) return strcasecmp(sub, r.subject) == 0 ? 7002137 : 700213;
    snprintf(detail, REASON_SIZE, "The key was not found or the signature is not its own.");
    if (!jwt_signed_by(text, j, r.key, false)) return 50013;
    return jwt_time_refused(j, INT32_MAX, detail);
}

/* ---- The cluster: service-account tokens, and the files they come in ---- */

/* `change` overrides claims, null removes one. With `stranger` the signature is of nobody's key. */
static char *assertion_mint(const char *aud, double life, json_t *change, bool stranger) {
    json_int_t now = (json_int_t)entra_time();
    json_t *c = json_pack("{s[s] sI sI sI ss s{ss s{ss}} ss}", "aud", aud, "exp", now + (json_int_t)life, "iat", now,
                          "nbf", now, "iss", g.issuer, "kubernetes.io", "namespace", "default", "serviceaccount",
                          "name", "redis-client", "sub", SUBJECT);
    EVP_PKEY *key = stranger ? new_key(false, false) : g.issuer_key;
    char *payload, *token;
    const char *name;
    json_t *value;
    json_object_foreach(change, name, value) {
        if (json_is_null(value))
            json_object_del(c, name);
        else
            json_object_set(c, name, value);
    }
    payload = must(json_dumps(c, JSON_COMPACT));
    token = token_sign("{\"alg\":\"RS256\",\"kid\":\"emulator-cluster\"}", payload, key);
    if (stranger) EVP_PKEY_free(key);
    json_decref(c);
    free(payload);
    return token;
}

static const struct { const char *file, *aud; } ASSERTION_FILES[] = {
    {"federated-token", EXCHANGE}, {"binding-token", BINDING_AUDIENCE}};

/* Renamed into place, as the kubelet's link is: a reader has the old one or the new one. */
static void put_assertion(int which, const char *text) {
    char *path = format_text("%s/%s", g.dir, ASSERTION_FILES[which].file), *next = format_text("%s.next", path);
    unlink(next);
    write_file(next, text);
    if (rename(next, path) != 0) die("cannot write %s: %s", path, strerror(errno));
    free(path);
    free(next);
}

/* Both files, and when to do it again: at 80 % of their life, as a kubelet does. */
static void write_assertions(void) {
    int i;
    for (i = 0; i < 2; i++) {
        char *token = assertion_mint(ASSERTION_FILES[i].aud, g.assertion_ttl, NULL, false);
        put_assertion(i, token);
        free(token);
    }
    pthread_mutex_lock(&g.lock);
    g.assertion_renew = now_ms() + (int64_t)(g.assertion_ttl * 800);
    pthread_mutex_unlock(&g.lock);
}

/*
 * Admin, POST /assertion with a JSON object, all members optional: "binding" (true: of the AKS binding),
 * "claims" (overrides, null removes), "life" (seconds, may be negative), "stranger" (true: an unknown key),
 * "write" (true: into the file too, which is then no more renewed). Answers with the assertion.
 */
static enum MHD_Result answer_assertion(struct MHD_Connection *h, struct request *request) {
    json_t *wish = request->n ? json_loadb(request->body, request->n, 0, NULL) : json_object(), *life, *body;
    int which = json_is_true(json_object_get(wish, "binding"));
    bool write = json_is_true(json_object_get(wish, "write"));
    char *token;
    if (!json_is_object(wish)) {
        json_decref(wish);
        return reply_json(h, 400, json_pack("{ss}", "error", "the body is a JSON object"));
    }
    life = json_object_get(wish, "life");
    token = assertion_mint(ASSERTION_FILES[which].aud, json_is_number(life) ? json_number_value(life) : g.assertion_ttl,
                           json_object_get(wish, "claims"), json_is_true(json_object_get(wish, "stranger")));
    if (write) {
        pthread_mutex_lock(&g.lock);
        g.assertion_renew = NEVER;
        pthread_mutex_unlock(&g.lock);
        put_assertion(which, token);
    }
    body = json_pack("{ss}", "assertion", token);
    json_decref(wish);
    free(token);
    return reply_json(h, 200, body);
}
