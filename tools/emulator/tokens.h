/*
 * tokens.h - part of emulator.c: access tokens: what is in them, and what the real server knows of them.
 */
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
