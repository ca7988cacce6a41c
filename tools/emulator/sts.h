/*
 * sts.h - part of emulator.c: how Entra's token endpoint words an error, reads a form and a scope, and the faults
 * that answer whatever was asked.
 */
#define SLOW_DOWN (-70016) /* error slow_down; its code is that of a pending one */

static const struct sts_error { long code; unsigned status; const char *error, *text; } ERRORS[] = {
    {900144, 400, "invalid_request",
     "The request body must contain the following parameter: '%s'."},
    {900023, 400, "invalid_request",
     "Specified tenant identifier '%s' is neither a valid DNS name, nor a valid external domain."},
    {50059, 400, "invalid_request", "No tenant-identifying information found in either the request or implied by any "
                                    "provided credentials."},
    {90002, 400, "invalid_request",
     "Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing "
     "into the correct cloud."},
    {9002313, 400, "invalid_request", "Invalid request. Request is malformed or invalid."},
    {70003, 400, "unsupported_grant_type", "The app requested an unsupported grant type '%s'."},
    {70000, 400, "invalid_grant", "Provided grant is invalid or malformed."},
    {70016, 400, "authorization_pending",
     "OAuth 2.0 device flow error. Authorization is pending. Continue polling."},
    {SLOW_DOWN, 400, "slow_down", "OAuth 2.0 device flow error. Polling is too fast. Slow down."},
    {70017, 400, "authorization_declined",
     "OAuth 2.0 device flow error. The end user denied the authorization request."},
    {70018, 400, "bad_verification_code", "Invalid verification code."},
    {70019, 400, "expired_token", "Verification code expired. Have the user retry the sign-in."},
    {70020, 400, "expired_token", "The provided value for the input parameter 'device_code' is not valid. This device "
                                  "code has expired."},
    {54005, 400, "invalid_grant", "OAuth2 Authorization code was already redeemed, please retry with a new valid code "
                                  "or use an existing refresh token."},
    {70043, 400, "invalid_grant", "The refresh token has expired or is invalid due to sign-in frequency checks by "
                                  "conditional access."},
    {700082, 400, "invalid_grant", "The refresh token has expired due to inactivity."},
    {50173, 400, "invalid_grant", "The provided grant has expired due to it being revoked, a fresh auth token is "
                                  "needed. The user might have changed or reset their password."},
    {7000218, 401, "invalid_client",
     "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."},
    {700025, 401, "invalid_client",
     "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."},
    {9001023, 400, "invalid_request", "The grant type is not supported over the /common or /consumers endpoints. "
                                      "Please use the /organizations or tenant-specific endpoint."},
    {28000, 400, "invalid_scope", "Provided value for the input parameter scope is not valid because it contains more "
                                  "than one resource. Scope %s is not valid."},
    {1002012, 400, "invalid_scope",
     "The provided value for scope %s is not valid. Client credential flows must have a scope value with /.default "
     "suffixed to the resource identifier (application ID URI)."},
    {650057, 400, "invalid_resource",
     "Invalid resource. The client has requested access to a resource which is not listed in the requested permissions "
     "in the client's application registration. Resource value from request: %s."},
    {65001, 400, "invalid_grant", "The user or administrator has not consented to use the application. Send an "
                                  "interactive authorization request for this user and resource."},
    {70011, 400, "invalid_scope",
     "The provided request must include a 'scope' input parameter. The provided value for the "
     "input parameter 'scope' is not valid. The scope %s is not valid."},
    {700016, 400, "unauthorized_client",
     "Application with identifier '%s' was not found in the directory. This can happen if the "
     "application has not been installed by the administrator of the tenant."},
    {7000215, 401, "invalid_client",
     "Invalid client secret provided. Ensure the secret being sent in the request is the client "
     "secret value, not the client secret ID, for a secret added to app '%s'."},
    {7000216, 401, "invalid_client",
     "'client_assertion', 'client_secret' or 'request' is required for the '%s' grant type."},
    {7000222, 401, "invalid_client", "The provided client secret keys for app '%s' are expired."},
    {700021, 401, "invalid_client", "Client assertion application identifier doesn't match 'client_id' parameter."},
    {700023, 401, "invalid_client", "Client assertion audience claim does not match Realm issuer."},
    {700024, 401, "invalid_client", "Client assertion is not within its valid time range. %s."},
    {700027, 401, "invalid_client", "Client assertion contains an invalid signature. %s"},
    {700030, 401, "invalid_client", "Invalid certificate - subject name in certificate is not authorized."},
    {50012, 401, "invalid_client", "Authentication failed. %s"},
    {5002738, 400, "invalid_request",
     "Invalid JWT token. '%s' is not a supported signature algorithm. Supported signing algorithms are: "
     "'RS256, PS256'."},
    {50027, 400, "invalid_request", "JWT token is invalid or malformed. %s"},
    {50013, 401, "invalid_client", "Assertion failed signature validation. %s"},
    {700211, 401, "invalid_client",
     "No matching federated identity record found for presented assertion issuer '%s'. Check your federated "
     "identity credential Subject, Audience and Issuer against the presented assertion."},
    {700212, 401, "invalid_client",
     "No matching federated identity record found for presented assertion audience '%s'. Check your federated "
     "identity credential Subject, Audience and Issuer against the presented assertion."},
    {700213, 401, "invalid_client",
     "No matching federated identity record found for presented assertion subject '%s'. Check your federated "
     "identity credential Subject, Audience and Issuer against the presented assertion."},
    {7002137, 401, "invalid_client",
     "No matching federated identity record found for presented assertion subject '%s'. The subject matches with "
     "case-insensitive comparison, but not with case-sensitive comparison."},
    {7002138, 401, "invalid_client",
     "No matching federated identity record found for presented assertion issuer '%s'. The issuer matches with "
     "case-insensitive comparison, but not with case-sensitive comparison."},
    {7000112, 400, "unauthorized_client", "Application '%s' is disabled."},
    {500011, 400, "invalid_resource",
     "The resource principal named %s was not found in the tenant."},
    {90033, 503, "temporarily_unavailable", "A transient error has occurred. Please try again."},
    {90055, 429, "temporarily_unavailable", "The server is terminating the request because of too "
                                            "many requests. Please wait and try again."},
    {50196, 400, "invalid_request", "The server terminated an operation because it encountered a "
                                    "client request loop. Please contact your app vendor."},
    {0, 400, "invalid_request", "An error that the emulator was asked for."},
};

/* An error as Entra words it. `detail` stands for the %s of the text. */
static enum MHD_Result sts_error(struct MHD_Connection *h, long code, const char *detail, unsigned status,
                                 const char *retry_after) {
    const struct sts_error *e = ERRORS;
    char when[32], trace[37], correlation[37], uri[96], retry[16], *description, *text;
    const char *hole;
    time_t now = entra_time();
    struct tm tm;
    json_t *body;
    enum MHD_Result r;
    while (e->code && e->code != code) e++;
    code = labs(code);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%SZ", gmtime_r(&now, &tm));
    random_guid(trace);
    random_guid(correlation);
    snprintf(uri, sizeof uri, "%serror?code=%ld", g.authority_url, code);
    hole = strstr(e->text, "%s");
    text = hole ? format_text("%.*s%.600s%s", (int)(hole - e->text), e->text, detail, hole + 2)
                : format_text("%s", e->text);
    description = format_text("AADSTS%ld: %s\r\nTrace ID: %s\r\nCorrelation ID: %s\r\n"
                              "Timestamp: %s",
                              code, text, trace, correlation, when);
    body = json_pack("{ss so s[I] ss ss ss ss}", "error", e->error, "error_description",
                     json_bytes(description, strlen(description)), "error_codes", (json_int_t)code,
                     "timestamp", when, "trace_id", trace, "correlation_id", correlation, "error_uri", uri);
    free(text);
    free(description);
    description = must(json_dumps(body, JSON_COMPACT));
    pthread_mutex_lock(&g.lock);
    g.token_errors++;
    pthread_mutex_unlock(&g.lock);
    snprintf(retry, sizeof retry, "%.15s", retry_after ? retry_after : "");
    say("token refused: AADSTS%ld, HTTP %u", code, status ? status : e->status);
    r = reply_text(h, status ? status : e->status, "application/json; charset=utf-8", description,
                   retry_after ? "Retry-After" : NULL, retry);
    json_decref(body);
    free(description);
    return r;
}

struct form {
    char *device_code, *refresh_token;
    char *grant_type, *client_id, *client_secret, *client_assertion, *client_assertion_type, *scope, *resource;
};

/* Decodes in place. False for a bad escape or a NUL. */
static bool form_decode(char *s) {
    char *out = s;
    for (; *s; s++) {
        if (*s == '%') {
            char hex[3] = {s[1], s[1] ? s[2] : 0, 0};
            if (!isxdigit((unsigned char)hex[0]) || !isxdigit((unsigned char)hex[1])) return false;
            *out = (char)strtol(hex, NULL, 16);
            if (*out++ == 0) return false;
            s += 2;
        } else {
            *out++ = *s == '+' ? ' ' : *s;
        }
    }
    *out = 0;
    return true;
}

/* False: malformed, or a field came twice. An empty field counts as absent. */
static bool form_parse(struct request *r, struct form *f) {
    const struct {
        const char *name;
        char **value;
    } fields[] = {{"grant_type", &f->grant_type},
                  {"client_id", &f->client_id},
                  {"scope", &f->scope},
                  {"client_secret", &f->client_secret},
                  {"client_assertion", &f->client_assertion},
                  {"client_assertion_type", &f->client_assertion_type},
                  {"device_code", &f->device_code},
                  {"refresh_token", &f->refresh_token},
                  {"resource", &f->resource}};
    char *rest = r->body, *name;
    size_t i;
    r->body[r->n] = 0;
    memset(f, 0, sizeof *f);
    if (strlen(r->body) != r->n) return false;
    while ((name = strsep(&rest, "&"))) {
        char *value = strchr(name, '=');
        if (value) *value++ = 0;
        if (!form_decode(name) || (value && !form_decode(value))) return false;
        for (i = 0; i < sizeof fields / sizeof fields[0]; i++) {
            if (strcmp(name, fields[i].name) != 0 || !value || !*value) continue;
            if (*fields[i].value) return false;
            *fields[i].value = value;
        }
    }
    return true;
}

/* The form of a request; Entra reads no other type of body. */
static bool form_of(struct MHD_Connection *h, struct request *r, struct form *f) {
    const char *type = MHD_lookup_connection_value(h, MHD_HEADER_KIND, "Content-Type");
    if (!type || strncasecmp(type, "application/x-www-form-urlencoded", 33) != 0) r->n = 0;
    return form_parse(r, f);
}

#define REASON_SIZE 600 /* of the words for the hole in an error's text */

struct asked_scope { const char *aud; bool offline, openid; };

/* The resources that the directory knows. A person's application was given Redis only. */
static const char *known_resource(const char *resource, size_t n) {
    static const char *const known[] = {SCOPE_URL, SCOPE_URL "/", SCOPE_GUID, "https://management.azure.com",
                                        "https://graph.microsoft.com"};
    size_t i;
    for (i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i]) == n && strncmp(known[i], resource, n) == 0) return known[i];
    return NULL;
}

/* One scope that is none of OpenID's: RESOURCE/PERMISSION. */
static long permission_refused(const char *one, bool person, struct asked_scope *a) {
    const char *slash = strrchr(one, '/'), *permission = slash ? slash + 1 : "";
    bool all = strcmp(permission, ".default") == 0;
    if (!person && !all) return 1002012;
    if (!slash || !*permission || (!strstr(one, "://") && slash - one != 36)) return 70011;
    if (!(a->aud = known_resource(one, (size_t)(slash - one)))) return 500011;
    if (person && !is_redis(a->aud)) return 650057;
    return all || strcmp(permission, "user_impersonation") == 0 ? 0 : 65001;
}

/* The resource that a scope asks for, of an application or a person. 0: it is good. */
static long scope_refused(const char *scope, bool person, struct asked_scope *a, char detail[REASON_SIZE]) {
    char *copy = must(strdup(scope)), *rest = copy, *one;
    long code = 0;
    memset(a, 0, sizeof *a);
    snprintf(detail, REASON_SIZE, "%.500s", scope);
    while (!code && (one = strsep(&rest, " "))) {
        a->offline |= strcmp(one, "offline_access") == 0;
        a->openid |= strcmp(one, "openid") == 0;
        if (!*one || !strcmp(one, "openid") || !strcmp(one, "profile") || !strcmp(one, "offline_access") ||
            !strcmp(one, "email"))
            continue;
        code = a->aud ? 28000 : permission_refused(one, person, a);
    }
    free(copy);
    return code ? code : a->aud ? 0 : 70011;
}

/* False: `result` is the refusal. */
static bool tenant_good(struct MHD_Connection *h, const char *tenant, enum MHD_Result *result) {
    if (strcasecmp(tenant, g.tenant) == 0) return true;
    if (strcmp(tenant, "common") == 0 || strcmp(tenant, "organizations") == 0 || strcmp(tenant, "consumers") == 0)
        *result = sts_error(h, 50059, "", 0, NULL);
    else
        *result = sts_error(h, strpbrk(tenant, ".-") ? 90002 : 900023, tenant, 0, NULL);
    return false;
}

/* Never answers; lasts until the client gives up or the emulator ends. */
static enum MHD_Result token_hang(struct MHD_Connection *h) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(h, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd p[2] = {{.fd = info->connect_fd, .events = POLLRDHUP}, {.fd = g.stop_fd, .events = POLLIN}};
    while (poll(p, 2, -1) < 0 && errno == EINTR) {}
    return MHD_NO;
}

static ssize_t endless_read(void *cls, uint64_t at, char *out, size_t room) {
    static const char start[] = "{\"token_type\":\"Bearer\",\"pad\":\"";
    (void)cls;
    if (nap(0)) return MHD_CONTENT_READER_END_WITH_ERROR;
    memset(out, 'A', room);
    if (at == 0 && room >= sizeof start) memcpy(out, start, sizeof start - 1);
    return (ssize_t)room;
}

static ssize_t drip_read(void *cls, uint64_t at, char *out, size_t room) {
    (void)room;
    if (at && nap(1000)) return MHD_CONTENT_READER_END_WITH_ERROR;
    *out = ((const char *)cls)[at];
    return 1;
}

/* `cls` is freed at the end; `block` bytes at most are read at a time. */
static enum MHD_Result reply_stream_by(struct MHD_Connection *h, uint64_t size, MHD_ContentReaderCallback read,
                                       void *cls, size_t block) {
    struct MHD_Response *r = MHD_create_response_from_callback(size, block, read, cls, cls ? free : NULL);
    enum MHD_Result result;
    MHD_add_response_header(r, "Content-Type", "application/json; charset=utf-8");
    result = MHD_queue_response(h, 200, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result reply_stream(struct MHD_Connection *h, uint64_t size, MHD_ContentReaderCallback read,
                                    void *cls) {
    return reply_stream_by(h, size, read, cls, cls ? 1 : 16384);
}

/* The faults that answer whatever was asked. False: none is armed. */
static bool token_fault(struct MHD_Connection *h, enum MHD_Result *result) {
    char text[64];
    long value;
    if (fault_take(F_TOKEN_500, NULL)) {
        *result = sts_error(h, 90033, "", 500, NULL);
    } else if (fault_take(F_TOKEN_429, &value)) {
        snprintf(text, sizeof text, "%ld", value);
        *result = sts_error(h, 90055, "", 429, text);
    } else if (fault_take(F_TOKEN_HANG, NULL)) {
        *result = token_hang(h);
    } else if (fault_take(F_TOKEN_GARBAGE, NULL)) {
        *result = reply_text(h, 200, "text/html",
                             "<html><head><title>Welcome</title></head><body>Please sign in to "
                             "this network.</body></html>\n",
                             NULL, NULL);
    } else if (fault_take(F_TOKEN_ENDLESS, NULL)) {
        *result = reply_stream(h, MHD_SIZE_UNKNOWN, endless_read, NULL);
    } else if (fault_take(F_TOKEN_REDIRECT, NULL)) {
        snprintf(text, sizeof text, "http://127.0.0.1:%d/trap", g.admin.port);
        *result = reply_text(h, 302, "text/plain", "", "Location", text);
    } else if (fault_take(F_TOKEN_ERROR, &value)) {
        *result = sts_error(h, value, "emulator", 0, NULL);
    } else {
        return false;
    }
    return true;
}
