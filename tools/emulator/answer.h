/*
 * answer.h - part of emulator.c: how an endpoint answers, well or by a fault.
 */

/* A value for X-IDENTITY-HEADER, secret or Secret. */
static void new_header(char out[41]) { random_text(out, 40, "0123456789ABCDEF"); }

/* An error with the body that this endpoint gives. The header is optional. */
static enum MHD_Result endpoint_error_with(struct MHD_Connection *h, const struct endpoint *e, unsigned status,
                                           const char *code, const char *message, const char *header,
                                           const char *value) {
    char correlation[37], *text;
    enum MHD_Result r;
    json_t *body;
    random_guid(correlation);
    if (AT(e->id) & (AT(E_APPSERVICE) | AT(E_MSI) | AT(E_ML)))
        body = json_pack("{sI ss ss}", "statusCode", (json_int_t)status, "message", message, "correlationId",
                         correlation);
    else if (AT(e->id) & (AT(E_CLOUDSHELL) | AT(E_FABRIC)))
        body = json_pack("{s{ss ss ss}}", "error", "code", code, "message", message, "correlationId", correlation);
    else
        body = json_pack("{ss ss}", "error", code, "error_description", message);
    text = must(json_dumps(body, JSON_COMPACT));
    say("%s: refused, HTTP %u %s", ENDPOINTS[e->id], status, code);
    r = reply_text(h, status, "application/json; charset=utf-8", text, header, value);
    json_decref(body);
    free(text);
    return r;
}

static enum MHD_Result endpoint_error(struct MHD_Connection *h, const struct endpoint *e, unsigned status,
                                      const char *code, const char *message) {
    return endpoint_error_with(h, e, status, code, message, NULL, NULL);
}

/* ---- Faults that answer whatever was asked ---- */

static const struct status_fault {
    int kind;
    unsigned status;
    long sts; /* the AADSTS code with which the token endpoint says it */
    const char *code, *message;
} STATUS_FAULTS[] = {
    {K_401, 401, 7000215, "unauthorized", "Access denied"},
    {K_403, 403, 50105, "forbidden", "The request is forbidden"},
    {K_404, 404, 90002, "not_found", "No service answers at this address yet"},
    {K_410, 410, 90033, "gone", "The service is being updated"},
    {K_429, 429, 90055, "too_many_requests", "Too many requests"},
    {K_500, 500, 90033, "internal_server_error", "Failed to retrieve a token from the directory"},
    {K_503, 503, 90033, "service_unavailable", "The service is unavailable"},
};

static enum MHD_Result no_such_identity(struct MHD_Connection *h, const struct endpoint *e) {
    if (AT(e->id) & (AT(E_APPSERVICE) | AT(E_MSI) | AT(E_ML)))
        return endpoint_error(h, e, 400, "", "No User Assigned or Delegated Managed Identity found for the specified "
                                             "ClientId/ResourceId/PrincipalId.");
    if (AT(e->id) & (AT(E_CLOUDSHELL) | AT(E_FABRIC)))
        return endpoint_error(h, e, e->id == E_FABRIC ? 404 : 400, "ManagedIdentityNotFound",
                              "No managed identity was found for the application");
    return endpoint_error(h, e, 400, "invalid_request", "Identity not found");
}

static bool status_fault(struct MHD_Connection *h, struct endpoint *e, enum MHD_Result *result) {
    bool sts = AT(e->id) & (AT(E_TOKEN) | AT(E_AKS) | AT(E_DEVICE));
    char after[16];
    long value;
    size_t i;
    if (fault_take(FAULT(e->id, K_ERROR), &value)) {
        *result = sts_error(h, value, "emulator", 0, NULL);
        return true;
    }
    if (fault_take(FAULT(e->id, K_ERROR_200), &value)) {
        *result = sts_error(h, value, "emulator", 200, NULL);
        return true;
    }
    if (fault_take(FAULT(e->id, K_400), NULL)) {
        *result = sts ? sts_error(h, 700016, "emulator", 400, NULL) : no_such_identity(h, e);
        return true;
    }
    for (i = 0; i < sizeof STATUS_FAULTS / sizeof STATUS_FAULTS[0]; i++) {
        const struct status_fault *f = &STATUS_FAULTS[i];
        if (!fault_take(FAULT(e->id, f->kind), &value)) continue;
        snprintf(after, sizeof after, "%ld", value);
        *result = sts ? sts_error(h, f->sts, "emulator", f->status, value ? after : NULL)
                      : endpoint_error_with(h, e, f->status, f->code, f->message, value ? "Retry-After" : NULL, after);
        return true;
    }
    return false;
}

/* Answers of machines that are none of Azure's. */
static bool foreign_fault(struct MHD_Connection *h, struct endpoint *e, enum MHD_Result *result) {
    long value;
    if (fault_take(FAULT(e->id, K_UNREACHABLE), NULL))
        *result = reply_text(h, 403, "text/plain; charset=utf-8",
                             "connecting to 169.254.169.254:80: dial tcp 169.254.169.254:80: connectex: A socket "
                             "operation was attempted to an unreachable network.", NULL, NULL);
    else if (fault_take(FAULT(e->id, K_502), NULL))
        *result = reply_text(h, 502, "text/html",
                             "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad "
                             "Gateway</h1></center>\r\n</body>\r\n</html>\r\n", NULL, NULL);
    else if (fault_take(FAULT(e->id, K_HTML), NULL))
        *result = reply_text(h, 200, "text/html",
                             "<html><head><title>Welcome</title></head><body>Please sign in to "
                             "this network.</body></html>\n", NULL, NULL);
    else if (fault_take(FAULT(e->id, K_EC2), &value))
        *result = reply_text(h, value ? (unsigned)value : 401, "text/html",
                             "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html xmlns=\"http://www.w3.org/1999/"
                             "xhtml\" xml:lang=\"en\" lang=\"en\">\n <head>\n  <title>Not for you</title>\n </head>\n "
                             "<body>\n  <h1>Not for you</h1>\n </body>\n</html>\n", "Server", "EC2ws");
    else if (fault_take(FAULT(e->id, K_GCE), &value))
        *result = reply_text(h, value ? (unsigned)value : 403, "text/plain",
                             "Missing Metadata-Flavor:Google header.\n", "Metadata-Flavor", "Google");
    else
        return false;
    return true;
}

static enum MHD_Result reply_headers(struct MHD_Connection *h) {
    struct MHD_Response *r = MHD_create_response_from_buffer(2, (void *)(uintptr_t)"{}", MHD_RESPMEM_PERSISTENT);
    char name[32];
    enum MHD_Result result;
    int i;
    for (i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "X-Field-%d", i);
        MHD_add_response_header(r, name, "of no use");
    }
    result = MHD_queue_response(h, 200, r);
    MHD_destroy_response(r);
    return result;
}

/* False: no fault is armed that takes this request away. */
static bool endpoint_fault(struct MHD_Connection *h, struct endpoint *e, enum MHD_Result *result) {
    static const char json[] = "application/json; charset=utf-8";
    char trap[64];
    if (status_fault(h, e, result) || foreign_fault(h, e, result)) return true;
    if (fault_take(FAULT(e->id, K_HANG), NULL)) {
        *result = token_hang(h);
    } else if (fault_take(FAULT(e->id, K_EMPTY), NULL)) {
        *result = reply_text(h, 200, json, "", NULL, NULL);
    } else if (fault_take(FAULT(e->id, K_NO_TOKEN), NULL)) {
        *result = reply_text(h, 200, json, "{}", NULL, NULL);
    } else if (fault_take(FAULT(e->id, K_HUGE), NULL)) {
        *result = reply_stream(h, 1 << 30, endless_read, NULL);
    } else if (fault_take(FAULT(e->id, K_ENDLESS), NULL)) {
        *result = reply_stream(h, MHD_SIZE_UNKNOWN, endless_read, NULL);
    } else if (fault_take(FAULT(e->id, K_HEADERS), NULL)) {
        *result = reply_headers(h);
    } else if (fault_take(FAULT(e->id, K_REDIRECT), NULL)) {
        snprintf(trap, sizeof trap, "http://127.0.0.1:%d/trap", g.admin.port);
        *result = reply_text(h, 302, "text/plain", "", "Location", trap);
    } else {
        return false;
    }
    return true;
}

/* ---- Good answers, and faults that change them ---- */

struct cut_body { size_t end; char text[]; };

static ssize_t cut_read(void *cls, uint64_t at, char *out, size_t room) {
    const struct cut_body *b = cls;
    size_t n = b->end - (size_t)at < room ? b->end - (size_t)at : room;
    if (n == 0) return MHD_CONTENT_READER_END_WITH_ERROR;
    memcpy(out, b->text + at, n);
    return (ssize_t)n;
}

static void change_types(json_t **body, long how) {
    static const char *const times[] = {"expires_in", "expires_on", "ext_expires_in", "not_before", "interval", NULL};
    json_t *all = *body;
    const char *name = json_object_get(all, "device_code") ? "device_code" : "access_token";
    int i;
    if (how == 2) {
        *body = json_pack("[o]", all);
        return;
    }
    if (how == 0) json_object_set_new(all, name, json_integer(5));
    if (how == 3) json_object_set_new(all, name, json_string(""));
    if (how == 4) json_object_set_new(all, name, json_null());
    for (i = 0; how == 1 && times[i]; i++)
        if (json_object_get(all, times[i])) json_object_set_new(all, times[i], json_array());
}

/* The success body of an endpoint. Takes it over. */
static enum MHD_Result endpoint_answer(struct MHD_Connection *h, struct endpoint *e, json_t *body) {
    struct cut_body *b;
    enum MHD_Result r;
    long value;
    char *text;
    size_t n;
    pthread_mutex_lock(&g.lock);
    e->answers++;
    pthread_mutex_unlock(&g.lock);
    if (fault_take(FAULT(e->id, K_REFRESH_IN), &value)) {
        bool words = json_is_string(json_object_get(body, "expires_in"));
        char *digits = format_text("%ld", value);
        json_object_set_new(body, "refresh_in", words ? json_string(digits) : json_integer(value));
        free(digits);
    }
    if (fault_take(FAULT(e->id, K_TYPES), &value)) change_types(&body, value);
    text = must(json_dumps(body, JSON_COMPACT));
    n = strlen(text);
    if (fault_take(FAULT(e->id, K_TRUNCATED), &value)) {
        json_decref(body);
        b = must(malloc(sizeof *b + n + 1));
        memcpy(b->text, text, n + 1);
        b->end = value && (size_t)value < n ? (size_t)value : n / 2;
        free(text);
        return reply_stream_by(h, n, cut_read, b, 16384);
    }
    if (fault_take(FAULT(e->id, K_SLOW), NULL) || (e->id == E_TOKEN && fault_take(F_TOKEN_DRIP, NULL))) {
        json_decref(body);
        return reply_stream(h, n, drip_read, text);
    }
    r = reply_text(h, 200, "application/json; charset=utf-8", text, NULL, NULL);
    json_decref(body);
    free(text);
    return r;
}

/* The last token again, if it lives; `left` is its life in seconds. */
static char *token_again(struct endpoint *e, struct principal *p, long *left) {
    char *token = NULL;
    int64_t now = now_ms();
    pthread_mutex_lock(&g.lock);
    if (p->last_token && p->last_expires > now + 1000 &&
        fault_take_locked(e->id == E_TOKEN ? (int)F_TOKEN_SAME : FAULT(e->id, K_SAME), NULL)) {
        token = must(strdup(p->last_token));
        *left = (long)((p->last_expires - now) / 1000);
    }
    pthread_mutex_unlock(&g.lock);
    if (token) say("fault %s-same fired", ENDPOINTS[e->id]);
    return token;
}

/* A token as the faults want it. `life`: what the answer has to call it, in seconds; negative: expired. */
static char *token_for(struct endpoint *e, struct principal *p, const char *aud, long *life) {
    struct token_wish wish = {0};
    bool sts = e->id == E_TOKEN;
    long all = 0, ago = 0;
    char *token;
    *life = (long)g.ttl;
    if ((token = token_again(e, p, life))) return token;
    wish.no_oid = fault_take(sts ? (int)F_TOKEN_NO_OID : FAULT(e->id, K_NO_OID), &all);
    wish.no_sub = wish.no_oid && all;
    wish.wrong_oid = fault_take(sts ? (int)F_TOKEN_WRONG_OID : FAULT(e->id, K_WRONG_OID), NULL);
    if (!fault_take(sts ? (int)F_TOKEN_SIZE : FAULT(e->id, K_SIZE), &wish.size)) wish.size = 0;
    if (fault_take(FAULT(e->id, K_EXPIRED), &ago)) {
        wish.expired = ago ? ago : 60;
        *life = -wish.expired;
    }
    return token_issue(&wish, aud, p);
}

static json_t *token_body(struct endpoint *e, struct principal *p, const char *aud) {
    long life;
    char *token = token_for(e, p, aud, &life);
    json_t *body = json_pack("{ss sI sI ss}", "token_type", "Bearer", "expires_in", (json_int_t)(life > 0 ? life : 0),
                             "ext_expires_in", (json_int_t)(life > 0 ? life : 0), "access_token", token);
    free(token);
    return body;
}
