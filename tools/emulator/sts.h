/*
 * sts.h - part of emulator.c: how Entra's token endpoint reads a form, a tenant and a scope, and its older faults,
 * which answer whatever was asked.
 */
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
