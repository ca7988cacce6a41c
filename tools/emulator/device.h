/*
 * device.h - part of emulator.c: a person signs in on another machine (device code), and refresh tokens. The person
 * is P_DEVICE, who approves or declines at the admin endpoint. The application is a public client: it has no secret.
 */
#define DEVICE_GRANT  "urn:ietf:params:oauth:grant-type:device_code"
#define CLI_CLIENT    "04b07795-8ddb-461a-bbee-02f9e1bf7b46" /* the Azure CLI's, known in every tenant */
#define GRANTS        64   /* device codes remembered */
#define POLL_SLACK    100  /* ms by which a poll may be early: the client's clock is another */
#define REFRESH_CHARS 1200

enum grant_state { G_NONE, G_PENDING, G_APPROVED, G_DECLINED, G_REDEEMED };
static const char *const GRANT_STATES[] = {"none", "pending", "approved", "declined", "redeemed"};

struct grant {
    char code[129], user_code[10], client[37];
    struct asked_scope scope;
    enum grant_state state;
    int64_t expires, polled, interval; /* ms */
    long polls, slow_downs;
};

static struct grant grants[GRANTS]; /* under g.lock, as all below */
static unsigned grant_next;

struct refresh { char hash[65], client[37]; struct asked_scope scope; int64_t expires; bool used; long revoked; };

static struct refresh *refreshes;
static size_t refresh_count, refresh_room;

static bool is_public(const char *client) {
    return strcasecmp(client, g.who[P_DEVICE].client) == 0 || strcasecmp(client, CLI_CLIENT) == 0;
}

/* ---- The code ---- */

/* False: `result` is the refusal. Persons sign in at their tenant or at that of whoever they are. */
static bool person_tenant(struct MHD_Connection *h, const char *tenant, enum MHD_Result *result) {
    if (strcmp(tenant, "organizations") == 0) return true;
    if (strcmp(tenant, "common") != 0 && strcmp(tenant, "consumers") != 0) return tenant_good(h, tenant, result);
    *result = sts_error(h, 9001023, "", 0, NULL);
    return false;
}

static bool client_known(const char *client) {
    int i;
    for (i = 0; i < P_COUNT; i++)
        if (!WHO[i].resource && strcasecmp(client, g.who[i].client) == 0) return true;
    return is_public(client);
}

static json_t *grant_begin(const char *client, const struct asked_scope *scope) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    struct grant *d;
    char uri[96], *message;
    json_t *body;
    snprintf(uri, sizeof uri, "%sdevicelogin", g.authority_url);
    pthread_mutex_lock(&g.lock);
    d = &grants[grant_next++ % GRANTS];
    memset(d, 0, sizeof *d);
    random_text(d->code, 64, letters);
    random_text(d->code + 64, 64, letters);
    random_text(d->user_code, 9, "BCDFGHJKLMNPQRSTVWXZ23456789");
    snprintf(d->client, sizeof d->client, "%s", client);
    d->scope = *scope;
    d->state = G_PENDING;
    d->interval = 1000 * dials[D_DEVICE_INTERVAL];
    d->expires = now_ms() + 1000 * dials[D_DEVICE_EXPIRES];
    message = format_text("To sign in, use a web browser to open the page %s and enter the code %s to authenticate.",
                          uri, d->user_code);
    body = json_pack("{ss ss ss sI sI ss}", "user_code", d->user_code, "device_code", d->code, "verification_uri", uri,
                     "expires_in", (json_int_t)dials[D_DEVICE_EXPIRES], "interval",
                     (json_int_t)dials[D_DEVICE_INTERVAL], "message", message);
    say("device code %s: curl -X POST 'http://127.0.0.1:%d/device?user_code=%s&action=approve'", d->user_code,
        g.admin.port, d->user_code);
    pthread_mutex_unlock(&g.lock);
    free(message);
    return body;
}

static enum MHD_Result answer_devicecode(struct MHD_Connection *h, const char *tenant, struct request *request) {
    struct endpoint *e = &g.endpoint[E_DEVICE];
    struct asked_scope scope;
    char detail[REASON_SIZE];
    struct form f;
    enum MHD_Result result;
    long code;
    keep_request(h, e, "POST", request);
    if (endpoint_fault(h, e, &result) || !person_tenant(h, tenant, &result)) return result;
    if (!form_of(h, request, &f)) return sts_error(h, 9002313, "", 0, NULL);
    if (!f.client_id) return sts_error(h, 900144, "client_id", 0, NULL);
    if (!f.scope) return sts_error(h, 900144, "scope", 0, NULL);
    if (!client_known(f.client_id)) return sts_error(h, 700016, f.client_id, 0, NULL);
    if ((code = scope_refused(f.scope, true, &scope, detail))) return sts_error(h, code, detail, 0, NULL);
    return endpoint_answer(h, e, grant_begin(f.client_id, &scope));
}

/* ---- Tokens of a person ---- */

static char *refresh_issue(const char *client, const struct asked_scope *scope) {
    struct refresh r = {.scope = *scope, .expires = now_ms() + 1000 * dials[D_REFRESH_LIFE]};
    char *text = must(malloc(REFRESH_CHARS + 1));
    size_t i;
    memcpy(text, "1.A", 3);
    for (i = 3; i < REFRESH_CHARS; i += 63)
        random_text(text + i, 63, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
    snprintf(r.client, sizeof r.client, "%s", client);
    sha256_hex(text, REFRESH_CHARS, r.hash);
    pthread_mutex_lock(&g.lock);
    if (make_room(&refreshes, refresh_count, &refresh_room, sizeof r, RECORDS_MAX)) refreshes[refresh_count++] = r;
    pthread_mutex_unlock(&g.lock);
    return text;
}

static char *id_token(const char *client) {
    const struct principal *p = &g.who[P_DEVICE];
    json_int_t now = (json_int_t)entra_time();
    char *header = token_header(0), *payload, *token;
    json_t *c = json_pack("{ss ss++ sI sI sI ss ss ss ss ss ss}", "aud", client, "iss",
                          "https://login.microsoftonline.com/", g.tenant, "/v2.0", "iat", now - 300, "nbf", now - 300,
                          "exp", now + 3600, "name", "Engineer", "oid", p->oid, "preferred_username", PERSON, "sub",
                          "a-person-at-this-application", "tid", g.tenant, "ver", "2.0");
    payload = must(json_dumps(c, JSON_COMPACT));
    token = token_sign(header, payload, g.jwt_key);
    json_decref(c);
    free(header);
    free(payload);
    return token;
}

static void add_text(json_t *body, const char *name, char *text) {
    json_object_set_new(body, name, json_string(text));
    free(text);
}

/* What MSAL names an account by. */
static char *client_info(void) {
    char *text = format_text("{\"uid\":\"%s\",\"utid\":\"%s\"}", g.who[P_DEVICE].oid, g.tenant), *out;
    out = base64url(text, strlen(text));
    free(text);
    return out;
}

static enum MHD_Result reply_person(struct MHD_Connection *h, struct endpoint *e, const char *client,
                                    const struct asked_scope *scope) {
    json_t *body = token_body(e, &g.who[P_DEVICE], scope->aud);
    add_text(body, "scope", format_text("%s%suser_impersonation %s/.default", scope->aud,
                                        scope->aud[strlen(scope->aud) - 1] == '/' ? "" : "/", scope->aud));
    if (scope->offline) add_text(body, "refresh_token", refresh_issue(client, scope));
    if (scope->openid) {
        add_text(body, "id_token", id_token(client));
        add_text(body, "client_info", client_info());
    }
    return endpoint_answer(h, e, body);
}

/* A public client has nothing to prove itself by, and must not try. False: `result` is the refusal. */
static bool public_client(struct MHD_Connection *h, const struct form *f, enum MHD_Result *result) {
    if (!f->client_id)
        *result = sts_error(h, 900144, "client_id", 0, NULL);
    else if (!client_known(f->client_id))
        *result = sts_error(h, 700016, f->client_id, 0, NULL);
    else if (!is_public(f->client_id) || !dials[D_PUBLIC_CLIENT])
        *result = sts_error(h, 7000218, "", 0, NULL);
    else if (f->client_secret || f->client_assertion)
        *result = sts_error(h, 700025, "", 0, NULL);
    else
        return true;
    return false;
}

/* What a poll is told; 0: the person has approved. g.lock is held. */
static long poll_refused(struct grant *d, int64_t now) {
    bool early = d->polled && now - d->polled < d->interval - POLL_SLACK;
    d->polls++;
    d->polled = now;
    if (d->state == G_PENDING && dials[D_DEVICE_APPROVE] && d->polls >= dials[D_DEVICE_APPROVE]) d->state = G_APPROVED;
    if (now >= d->expires) return 70020;
    if (d->state == G_REDEEMED) return 54005;
    if (d->state == G_DECLINED) return 70017;
    if (early || fault_take_locked(FAULT(E_TOKEN, K_SLOW_DOWN), NULL)) {
        d->slow_downs++;
        d->interval += 1000 * dials[D_DEVICE_SLOW];
        return SLOW_DOWN;
    }
    if (d->state == G_PENDING) return 70016;
    d->state = G_REDEEMED;
    return 0;
}

static enum MHD_Result answer_poll(struct MHD_Connection *h, struct endpoint *e, const struct form *f) {
    struct asked_scope scope = {0};
    enum MHD_Result result;
    long code = 70018;
    int i;
    if (!public_client(h, f, &result)) return result;
    if (!f->device_code) return sts_error(h, 900144, "device_code", 0, NULL);
    pthread_mutex_lock(&g.lock);
    for (i = 0; i < GRANTS; i++) {
        if (grants[i].state == G_NONE || strcmp(grants[i].code, f->device_code) != 0 ||
            strcasecmp(grants[i].client, f->client_id) != 0)
            continue;
        code = poll_refused(&grants[i], now_ms());
        scope = grants[i].scope;
    }
    pthread_mutex_unlock(&g.lock);
    return code ? sts_error(h, code, "", 0, NULL) : reply_person(h, e, f->client_id, &scope);
}

/* 0: it is good, and from now on it was used. */
static long refresh_refused(const struct form *f, struct asked_scope *scope) {
    char hash[65];
    long code = 70000;
    size_t i;
    sha256_hex(f->refresh_token, strlen(f->refresh_token), hash);
    pthread_mutex_lock(&g.lock);
    for (i = 0; i < refresh_count; i++) {
        struct refresh *r = &refreshes[i];
        if (strcmp(r->hash, hash) != 0 || strcasecmp(r->client, f->client_id) != 0) continue;
        code = r->revoked                             ? r->revoked
               : now_ms() >= r->expires               ? 700082
               : r->used && !dials[D_REFRESH_REUSE] ? 70000
                                                      : 0;
        r->used |= code == 0;
        *scope = r->scope;
    }
    pthread_mutex_unlock(&g.lock);
    return code;
}

/* The new refresh token comes whatever the scope is; the old one is good for other scopes of the same resource. */
static enum MHD_Result answer_refresh(struct MHD_Connection *h, struct endpoint *e, const struct form *f) {
    struct asked_scope first, scope;
    char detail[REASON_SIZE];
    enum MHD_Result result;
    long code;
    if (!public_client(h, f, &result)) return result;
    if (!f->refresh_token) return sts_error(h, 900144, "refresh_token", 0, NULL);
    if ((code = refresh_refused(f, &first))) return sts_error(h, code, "", 0, NULL);
    scope = first;
    if (f->scope && (code = scope_refused(f->scope, true, &scope, detail))) return sts_error(h, code, detail, 0, NULL);
    scope.offline = true;
    return reply_person(h, e, f->client_id, &scope);
}

/* ---- The person: admin ---- */

static enum MHD_Result device_error(struct MHD_Connection *h, unsigned status, const char *text) {
    return reply_json(h, status, json_pack("{ss}", "error", text));
}

/* Of the given user code, or the last one. NULL: there is none. g.lock is held. */
static struct grant *grant_of(const char *user_code) {
    struct grant *last = &grants[(grant_next + GRANTS - 1) % GRANTS];
    int i;
    for (i = 0; user_code && i < GRANTS; i++)
        if (grants[i].state != G_NONE && strcasecmp(grants[i].user_code, user_code) == 0) return &grants[i];
    return user_code || last->state == G_NONE ? NULL : last;
}

/* POST: the person, or time, acts on a code. */
static enum MHD_Result answer_person(struct MHD_Connection *h) {
    const char *user_code = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "user_code"),
               *action = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "action");
    struct grant *d;
    bool good = true;
    pthread_mutex_lock(&g.lock);
    d = grant_of(user_code);
    if (d && action && strcmp(action, "expire") == 0)
        d->expires = 0;
    else if (d && d->state == G_PENDING && action && strcmp(action, "approve") == 0)
        d->state = G_APPROVED;
    else if (d && d->state == G_PENDING && action && strcmp(action, "decline") == 0)
        d->state = G_DECLINED;
    else
        good = false;
    pthread_mutex_unlock(&g.lock);
    if (!d) return device_error(h, 404, "there is no such user_code");
    return good ? reply_json(h, 200, json_pack("{ss}", "done", action))
                : device_error(h, 400, "action is approve or decline of a pending code, or expire");
}

/* GET: all codes, the newest last. */
static enum MHD_Result answer_grants(struct MHD_Connection *h) {
    json_t *all = json_array();
    unsigned i;
    pthread_mutex_lock(&g.lock);
    for (i = 0; i < GRANTS; i++) {
        const struct grant *d = &grants[(grant_next + i) % GRANTS];
        if (d->state == G_NONE) continue;
        json_array_append_new(all, json_pack("{ss ss ss sI sI sI}", "user_code", d->user_code, "client_id", d->client,
                                             "state", GRANT_STATES[d->state], "polls", (json_int_t)d->polls,
                                             "slow_downs", (json_int_t)d->slow_downs, "left_ms",
                                             (json_int_t)(d->expires - now_ms())));
    }
    pthread_mutex_unlock(&g.lock);
    return reply_json(h, 200, all);
}

/* Every refresh token of before is refused from now on; value: the code with which. */
static enum MHD_Result answer_revoke(struct MHD_Connection *h) {
    const char *text = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "code");
    long code = 50173;
    size_t i, n;
    if (text && !parse_number(text, &code)) return device_error(h, 400, "code is a number");
    pthread_mutex_lock(&g.lock);
    for (i = 0, n = refresh_count; i < n; i++) refreshes[i].revoked = code;
    pthread_mutex_unlock(&g.lock);
    return reply_json(h, 200, json_pack("{sI}", "revoked", (json_int_t)n));
}

/* What a person finds at verification_uri. */
static enum MHD_Result answer_devicelogin(struct MHD_Connection *h) {
    char *text = format_text("This is the emulator. In place of a page where a person signs in:\n"
                             "  curl -X POST 'http://127.0.0.1:%d/device?user_code=CODE&action=approve'\n"
                             "  curl -X POST 'http://127.0.0.1:%d/device?user_code=CODE&action=decline'\n",
                             g.admin.port, g.admin.port);
    enum MHD_Result r = reply_text(h, 200, "text/plain; charset=utf-8", text, NULL, NULL);
    free(text);
    return r;
}
