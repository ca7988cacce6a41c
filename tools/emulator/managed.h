/*
 * managed.h - part of emulator.c: the endpoints that give managed identities their tokens, and the token
 * endpoint of an AKS identity binding.
 */
#define AKS_SNI  "aks-binding.emulator.test"
#define AKS_PATH "/binding"             /* the proxy's own path: the client puts the authority's behind it */

static const char *http_header(struct MHD_Connection *h, const char *name) {
    return MHD_lookup_connection_value(h, MHD_HEADER_KIND, name);
}

static const char *http_query(struct MHD_Connection *h, const char *name) {
    const char *value = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, name);
    return value && *value ? value : NULL;
}

static enum MHD_Result not_here(struct MHD_Connection *h) {
    return reply_text(h, 404, "text/plain", "not found\n", NULL, NULL);
}

/* With or without a slash at the end: @azure/identity asks IMDS with one. */
static bool is_path(const char *url, const char *path) {
    size_t n = strlen(path);
    return strncmp(url, path, n) == 0 && strcmp(url + n, url[n] == '/' ? "/" : "") == 0;
}

/* ---- Whom a request is for ---- */

enum field { BY_CLIENT, BY_OID, BY_RESOURCE };

/* What each endpoint reads. Azure passes over parameters it does not know, and so do we: the client then
 * has the token of the wrong identity, which its test will see. */
static const struct { unsigned at; const char *name; enum field field; } PARAMETERS[] = {
    {AT(E_IMDS) | AT(E_APPSERVICE) | AT(E_ARC), "client_id", BY_CLIENT},
    {AT(E_IMDS) | AT(E_APPSERVICE) | AT(E_ARC), "object_id", BY_OID},
    {AT(E_APPSERVICE), "principal_id", BY_OID},
    {AT(E_IMDS) | AT(E_ARC), "msi_res_id", BY_RESOURCE},
    {AT(E_APPSERVICE), "mi_res_id", BY_RESOURCE},
    {AT(E_MSI) | AT(E_ML), "clientid", BY_CLIENT},
};

static const char *principal_field(const struct principal *p, enum field field) {
    return field == BY_CLIENT ? p->client : field == BY_OID ? p->oid : p->resource;
}

struct asked { const char *parameter, *value; enum field field; };

/* The identity a request names, `own` when it names none. NULL: `result` is the refusal. */
static struct principal *find_principal(struct MHD_Connection *h, struct endpoint *e, struct principal *own,
                                        struct asked *asked, enum MHD_Result *result) {
    struct principal *candidates[] = {&g.who[P_USER_1], &g.who[P_USER_2], e->id == E_ML ? &g.who[P_ML_DEFAULT] : NULL};
    size_t i;
    memset(asked, 0, sizeof *asked);
    for (i = 0; i < sizeof PARAMETERS / sizeof PARAMETERS[0]; i++) {
        const char *value = PARAMETERS[i].at & AT(e->id) ? http_query(h, PARAMETERS[i].name) : NULL;
        if (!value) continue;
        if (asked->value) {
            *result = endpoint_error(h, e, 400, "invalid_request", "More than one identity was asked for");
            return NULL;
        }
        asked->parameter = PARAMETERS[i].name;
        asked->value = value;
        asked->field = PARAMETERS[i].field;
    }
    if (!asked->value) return own;
    for (i = 0; i < sizeof candidates / sizeof candidates[0]; i++)
        if (candidates[i] && strcasecmp(principal_field(candidates[i], asked->field), asked->value) == 0)
            return candidates[i];
    *result = no_such_identity(h, e);
    return NULL;
}

/* NULL: no audience that the directory knows. */
static const char *resource_audience(const char *resource) {
    static const char *const known[] = {SCOPE_URL, SCOPE_URL "/", SCOPE_GUID, EXCHANGE, EXCHANGE "USGov",
                                        EXCHANGE "China", NULL};
    int i;
    for (i = 0; known[i]; i++)
        if (strcmp(resource, known[i]) == 0) return known[i];
    return NULL;
}

static bool version_good(const char *version, const char *list) {
    const char *at = version && strlen(version) >= 10 ? strstr(list, version) : NULL;
    size_t n = at ? strlen(version) : 0;
    return at && (at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n]);
}

/* Both are there, and the secret one is the right one. `wrong`: the status for another value. */
static bool has_secret(struct MHD_Connection *h, struct endpoint *e, const char *name, unsigned wrong,
                       enum MHD_Result *result) {
    const char *value = http_header(h, name);
    char expected[41];
    bool good;
    pthread_mutex_lock(&g.lock);
    memcpy(expected, e->header, sizeof expected);
    if (e->id == E_FABRIC && value) g.fabric_secrets++;
    pthread_mutex_unlock(&g.lock);
    if (e->id == E_FABRIC) say("fabric: a request %s Secret header", value ? "with a" : "without");
    good = value && strlen(value) == 40 && CRYPTO_memcmp(value, expected, 40) == 0;
    if (!value)
        *result = endpoint_error(h, e, 400, "SecretHeaderNotFound", "The request did not contain the header that "
                                                                    "authenticates it");
    else if (!good && e->id == E_FABRIC)
        *result = endpoint_error(h, e, wrong, "ManagedIdentityNotFound", "Unknown authentication code");
    else if (!good)
        *result = endpoint_error(h, e, wrong, "unauthorized", "The header that authenticates the request is wrong");
    return good;
}

/* ---- Answers ---- */

/* expires_on as a date, in one of the forms that App Service has had. */
static json_t *date_text(long how, time_t at) {
    static const char *const forms[] = {"%Y-%m-%dT%H:%M:%S.0000000+00:00", "%m/%d/%Y %H:%M:%S +00:00"};
    struct tm tm;
    char text[64];
    gmtime_r(&at, &tm);
    if (how == 2)
        snprintf(text, sizeof text, "%d/%d/%d %d:%02d:%02d %s +00:00", tm.tm_mon + 1, tm.tm_mday, tm.tm_year + 1900,
                 tm.tm_hour % 12 ? tm.tm_hour % 12 : 12, tm.tm_min, tm.tm_sec, tm.tm_hour < 12 ? "AM" : "PM");
    else if (how == 3)
        return json_integer(at);
    else if (how == 4)
        snprintf(text, sizeof text, "%lld", (long long)at);
    else if (how == 5)
        snprintf(text, sizeof text, "tomorrow");
    else
        strftime(text, sizeof text, forms[how == 1], &tm);
    return json_string(text);
}

static json_t *number_text(long long n) {
    char text[24];
    snprintf(text, sizeof text, "%lld", n);
    return json_string(text);
}

/* The members that the endpoint's answers have beside token, type and resource. */
static void add_times(json_t *body, const struct endpoint *e, long life) {
    time_t now = entra_time();
    long how = e->id == E_MSI ? 1 : e->id == E_FABRIC || e->id == E_ML ? 3 : 4;
    fault_take(FAULT(e->id, K_DATE), &how);
    json_object_set_new(body, "expires_on", date_text(how, now + life));
    if (!(AT(e->id) & (AT(E_IMDS) | AT(E_ARC) | AT(E_CLOUDSHELL)))) return;
    json_object_set_new(body, "expires_in", number_text(life > 0 ? life : 0));
    json_object_set_new(body, "ext_expires_in", number_text(life > 0 ? life : 0));
    json_object_set_new(body, "not_before", number_text((long long)now - 300));
    json_object_set_new(body, "refresh_token", json_string(""));
}

static json_t *managed_body(struct endpoint *e, struct principal *p, const char *aud) {
    long life;
    char *token = token_for(e, p, aud, &life), *c;
    json_t *body = json_pack("{ss ss ss}", "access_token", token, "resource", aud, "token_type", "Bearer");
    char client[37];
    memcpy(client, p->client, sizeof client);
    for (c = client; e->id == E_APPSERVICE && *c; c++) *c = (char)toupper((unsigned char)*c);
    if (!(AT(e->id) & (AT(E_FABRIC) | AT(E_CLOUDSHELL)))) json_object_set_new(body, "client_id", json_string(client));
    add_times(body, e, life);
    free(token);
    return body;
}

/* The rest of a request whose headers were right. */
static enum MHD_Result managed_reply(struct MHD_Connection *h, struct endpoint *e, struct principal *own,
                                     const char *versions) {
    const char *version = http_query(h, "api-version"), *resource = http_query(h, "resource"), *aud;
    struct principal *p;
    struct asked asked;
    enum MHD_Result result;
    if (!version_good(version, versions))
        return endpoint_error(h, e, 400, e->id == E_FABRIC ? "InvalidApiVersion" : "invalid_request",
                              "api-version is missing or not supported");
    if (!resource)
        return endpoint_error(h, e, 400, e->id == E_FABRIC ? "ArgumentNullOrEmpty" : "invalid_request",
                              "The parameter 'resource' must be given");
    if (!(aud = resource_audience(resource)))
        return endpoint_error(h, e, 400, "invalid_resource",
                              "AADSTS500011: The resource principal named in the request was not found in the tenant");
    if (!(p = find_principal(h, e, own, &asked, &result))) return result;
    return endpoint_answer(h, e, managed_body(e, p, aud));
}

/* ---- IMDS ---- */

/* Asked of IMDS and of Arc's agent, which imitates it. False: `result` is the refusal. */
static bool metadata_asked(struct MHD_Connection *h, struct endpoint *e, enum MHD_Result *result) {
    const char *header = http_header(h, "Metadata");
    if (!header || strcasecmp(header, "true") != 0)
        *result = endpoint_error(h, e, 400, "bad_request_102", "Required metadata header not specified");
    else if (http_header(h, "X-Forwarded-For"))
        *result = endpoint_error(h, e, 400, "invalid_request", "A request that came through a proxy is refused");
    else
        return true;
    return false;
}

static enum MHD_Result answer_imds(struct MHD_Connection *h, const char *url, const char *method,
                                   struct request *request) {
    enum MHD_Result result;
    if (endpoint_fault(h, request->at, &result)) return result;
    if (!is_path(url, "/metadata/identity/oauth2/token")) return not_here(h);
    if (strcmp(method, "GET") != 0) return reply_text(h, 405, "text/plain", "GET only\n", "Allow", "GET");
    if (!metadata_asked(h, request->at, &result)) return result;
    return managed_reply(h, request->at, &g.who[P_IMDS], "2018-02-01 2019-08-01 2021-02-01");
}

/* ---- App Service of 2019 and of 2017, Azure ML ---- */

static enum MHD_Result answer_platform(struct MHD_Connection *h, const char *url, const char *method,
                                       struct endpoint *e, const char *header, struct principal *own,
                                       const char *version) {
    enum MHD_Result result;
    if (endpoint_fault(h, e, &result)) return result;
    if (!is_path(url, "/msi/token")) return not_here(h);
    if (strcmp(method, "GET") != 0) return reply_text(h, 405, "text/plain", "GET only\n", "Allow", "GET");
    if (!has_secret(h, e, header, e->id == E_FABRIC ? 404 : 401, &result)) return result;
    return managed_reply(h, e, own, version);
}

static enum MHD_Result answer_appservice(struct MHD_Connection *h, const char *url, const char *method,
                                         struct request *request) {
    return answer_platform(h, url, method, request->at, "X-IDENTITY-HEADER", &g.who[P_APPSERVICE], "2019-08-01");
}

static enum MHD_Result answer_msi(struct MHD_Connection *h, const char *url, const char *method,
                                  struct request *request) {
    return answer_platform(h, url, method, request->at, "secret", &g.who[P_MSI], "2017-09-01");
}

static enum MHD_Result answer_ml(struct MHD_Connection *h, const char *url, const char *method,
                                 struct request *request) {
    return answer_platform(h, url, method, request->at, "secret", &g.who[P_ML], "2017-09-01");
}

static enum MHD_Result answer_fabric(struct MHD_Connection *h, const char *url, const char *method,
                                     struct request *request) {
    return answer_platform(h, url, method, request->at, "Secret", &g.who[P_FABRIC],
                           "2019-07-01-preview 2020-05-01");
}

/* ---- Cloud Shell ---- */

static enum MHD_Result answer_cloudshell(struct MHD_Connection *h, const char *url, const char *method,
                                         struct request *request) {
    struct endpoint *e = request->at;
    const char *aud, *type = http_header(h, "Content-Type"), *header = http_header(h, "Metadata");
    struct form f;
    enum MHD_Result result;
    if (endpoint_fault(h, e, &result)) return result;
    if (strcmp(url, "/oauth2/token") != 0) return not_here(h);
    if (strcmp(method, "POST") != 0) return reply_text(h, 405, "text/plain", "POST only\n", "Allow", "POST");
    if (!header || strcasecmp(header, "true") != 0)
        return endpoint_error(h, e, 400, "MissingMetadataHeader", "The header 'Metadata' must be 'true'");
    if (!type || strncasecmp(type, "application/x-www-form-urlencoded", 33) != 0 || !form_parse(request, &f) ||
        !f.resource)
        return endpoint_error(h, e, 400, "AudienceNotSupported", "The form field 'resource' must be given");
    if (!(aud = resource_audience(f.resource)) || !is_redis(aud))
        return endpoint_error(h, e, 400, "AudienceNotSupported", "The audience is not supported");
    return endpoint_answer(h, e, managed_body(e, &g.who[P_CLOUDSHELL], aud));
}

/* ---- Azure Arc: who can read a file that only the agent's group may read is let in ---- */

#define ARC_OPEN 64 /* challenges not yet answered */

static struct {
    char path[PATH_MAX + 32], text[8192];
} arc_challenges[ARC_OPEN]; /* under g.lock; a path is empty when there is none */
static unsigned arc_next;

static void arc_drop(unsigned i) {
    if (arc_challenges[i].path[0] && remove(arc_challenges[i].path) != 0 && errno != ENOENT)
        say("arc: cannot remove %s: %s", arc_challenges[i].path, strerror(errno));
    arc_challenges[i].path[0] = 0;
}

/* At the end: no challenge file is left. */
static void arc_forget(void) {
    unsigned i;
    for (i = 0; i < ARC_OPEN; i++) arc_drop(i);
}

/* What lies at the path: a file of `n` bytes, or what the fault makes of it. */
static bool arc_make(const char *path, const char *text, size_t n, long how) {
    int fd;
    bool good;
    if (how == 9) return mkdir(path, 0700) == 0;
    if (how == 8) return symlink("/etc/passwd", path) == 0;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0440);
    if (fd < 0) return false;
    good = write(fd, text, n) == (ssize_t)n;
    return close(fd) == 0 && good;
}

/* The text of a challenge file: 44 characters, or as the fault wants it. Returns how many bytes are written. */
static size_t arc_text(char text[8192], long how) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t n = how == 10 ? 4096 : how == 11 ? 4097 : how == 12 ? 0 : 44, i;
    for (i = 0; i < n; i += 32) random_text(text + i, n - i < 32 ? n - i : 32, letters);
    text[n] = 0;
    if (how == 13) memcpy(text + 20, "\r\nX-In: 1", 9);
    if (how == 14) text[20] = 0;
    return n;
}

/* The challenge's header for a path; how the faults spell it. */
static char *arc_realm(const char *path, long how) {
    const char *name = strrchr(path, '/') + 1;
    switch (how) {
    case 1: return format_text("Basic realm=\"%s\"", path);
    case 2: return format_text("basic realm=%s", path);
    case 3: return format_text("Basic realm=/etc/azcmagent/%s", name);
    case 4: return format_text("Basic realm=%.*s/../%s", (int)(name - path - 1), path, name);
    case 5: return format_text("Basic realm=%.*s/sub/%s", (int)(name - path - 1), path, name);
    case 6: return format_text("Basic realm=%s", name);
    case 7: return format_text("Basic realm=%.*s//%s", (int)(name - path - 1), path, name);
    case 15: return format_text("Basic realm=");
    case 16: return format_text("Bearer realm=%s", path);
    default: return format_text("Basic realm=%s", path);
    }
}

static enum MHD_Result arc_challenge(struct MHD_Connection *h, struct endpoint *e, long how) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    char name[17], *realm;
    enum MHD_Result result;
    unsigned i;
    bool made;
    size_t n;
    random_text(name, 16, letters);
    pthread_mutex_lock(&g.lock);
    i = arc_next++ % ARC_OPEN;
    arc_drop(i);
    snprintf(arc_challenges[i].path, sizeof arc_challenges[i].path, "%s/%s%s", g.arc_dir, name,
             how == 18 ? ".txt" : ".key");
    n = arc_text(arc_challenges[i].text, how);
    made = arc_make(arc_challenges[i].path, arc_challenges[i].text, n, how);
    realm = arc_realm(arc_challenges[i].path, how);
    if (!made) arc_challenges[i].path[0] = 0;
    pthread_mutex_unlock(&g.lock);
    if (!made) say("arc: cannot write a challenge into %s", g.arc_dir);
    result = endpoint_error_with(h, e, 401, "unauthorized", "Answer the challenge",
                                 how == 17 ? NULL : "WWW-Authenticate", realm);
    free(realm);
    return result;
}

/* An answered challenge is gone. */
static bool arc_answered(const char *authorization) {
    bool good = false;
    unsigned i;
    if (strncasecmp(authorization, "Basic ", 6) != 0) return false;
    pthread_mutex_lock(&g.lock);
    for (i = 0; i < ARC_OPEN && !good; i++) {
        good = arc_challenges[i].path[0] && arc_challenges[i].text[0] &&
               strcmp(arc_challenges[i].text, authorization + 6) == 0;
        if (good) arc_drop(i);
    }
    pthread_mutex_unlock(&g.lock);
    return good;
}

/* A new agent names the identity that was asked for. */
static void arc_echo(json_t *body, const struct principal *p, const struct asked *asked, long old) {
    char value[200], *c;
    if (old == 1) {
        json_object_del(body, "client_id");
        return;
    }
    snprintf(value, sizeof value, "%s", principal_field(old == 3 ? &g.who[P_USER_2] : p, asked->field));
    for (c = value; old == 2 && *c; c++) *c = (char)toupper((unsigned char)*c);
    json_object_set_new(body, asked->parameter, json_string(value));
}

static enum MHD_Result answer_arc(struct MHD_Connection *h, const char *url, const char *method,
                                  struct request *request) {
    struct endpoint *e = request->at;
    const char *authorization = http_header(h, "Authorization"), *aud, *resource = http_query(h, "resource");
    struct principal *p;
    struct asked asked;
    enum MHD_Result result;
    json_t *body;
    long old = -1, how = 0;
    if (endpoint_fault(h, e, &result)) return result;
    if (!is_path(url, "/metadata/identity/oauth2/token")) return not_here(h);
    if (strcmp(method, "GET") != 0) return reply_text(h, 405, "text/plain", "GET only\n", "Allow", "GET");
    if (!metadata_asked(h, e, &result)) return result;
    if (!version_good(http_query(h, "api-version"), "2019-08-15 2019-11-01 2020-06-01 2021-02-01"))
        return endpoint_error(h, e, 400, "invalid_request", "api-version is missing or not supported");
    if (!resource || !(aud = resource_audience(resource)))
        return endpoint_error(h, e, 400, "invalid_resource", "The resource is missing or unknown");
    if (!authorization) fault_take(FAULT(E_ARC, K_CHALLENGE), &how);
    if (!authorization && how != 19) return arc_challenge(h, e, how);
    if (authorization && !arc_answered(authorization))
        return endpoint_error(h, e, 401, "unauthorized", "The challenge was not answered rightly");
    if (!(p = find_principal(h, e, &g.who[P_ARC], &asked, &result))) return result;
    if (asked.value && fault_take(FAULT(E_ARC, K_OLD), &old) && old == 0) {
        p = &g.who[P_ARC];
        asked.value = NULL;
    }
    body = managed_body(e, p, aud);
    if (asked.value) arc_echo(body, p, &asked, old);
    return endpoint_answer(h, e, body);
}

/* ---- AKS identity binding: Entra's token endpoint behind another name ---- */

static bool named_by_sni(struct MHD_Connection *h, const char *name) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(h, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    char sni[256] = "";
    size_t n = sizeof sni;
    unsigned type = 0;
    return info && gnutls_server_name_get(info->tls_session, sni, &n, &type, 0) == 0 && strcasecmp(sni, name) == 0;
}

static enum MHD_Result answer_aks(struct MHD_Connection *h, const char *url, const char *method,
                                  struct request *request) {
    static const char tail[] = "/oauth2/v2.0/token";
    size_t n = strlen(url), at = strlen(AKS_PATH), end = strlen(tail);
    char tenant[128];
    if (!named_by_sni(h, AKS_SNI)) return reply_text(h, 421, "text/plain", "another server name\n", NULL, NULL);
    if (n < at + 1 + end || n - at - 1 - end >= sizeof tenant || strncmp(url, AKS_PATH "/", at + 1) != 0 ||
        strcmp(url + n - end, tail) != 0)
        return not_here(h);
    snprintf(tenant, sizeof tenant, "%.*s", (int)(n - at - 1 - end), url + at + 1);
    if (strcmp(method, "POST") != 0) return reply_text(h, 405, "text/plain", "POST only\n", "Allow", "POST");
    return answer_token(h, tenant, request);
}
