/*
 * http.h - part of emulator.c: what all HTTP endpoints share.
 */
struct request { /* of one HTTP exchange, between the calls of its handler */
    struct endpoint *at;
    char target[2048]; /* as it came */
    char body[BODY_MAX + 1];
    size_t n;
    bool begun, too_long;
};

static enum MHD_Result reply_text(struct MHD_Connection *h, unsigned status, const char *type,
                                  const char *text, const char *extra, const char *extra_value) {
    struct MHD_Response *r =
        MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result;
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "Cache-Control", "no-store, no-cache");
    if (extra) MHD_add_response_header(r, extra, extra_value);
    if (dials[D_CLOCK_OFFSET]) {
        char date[64];
        struct tm tm;
        time_t now = entra_time();
        strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
        MHD_add_response_header(r, "Date", date);
    }
    result = MHD_queue_response(h, status, r);
    MHD_destroy_response(r);
    return result;
}

static enum MHD_Result reply_json(struct MHD_Connection *h, unsigned status, json_t *value) {
    char *text = must(json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY));
    enum MHD_Result r = reply_text(h, status, "application/json; charset=utf-8", text, NULL, NULL);
    json_decref(value);
    free(text);
    return r;
}

/* The request begins: the target is kept before anything is decoded. */
static void *on_http_uri(void *cls, const char *uri, struct MHD_Connection *h) {
    struct request *r = must(calloc(1, sizeof *r));
    (void)h;
    r->at = cls;
    snprintf(r->target, sizeof r->target, "%s", uri);
    return r;
}

static enum MHD_Result keep_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value) {
    static const char *const secret[] = {"Authorization", "Secret", "X-IDENTITY-HEADER", "Cookie", NULL};
    int i;
    (void)kind;
    for (i = 0; secret[i]; i++)
        if (strcasecmp(name, secret[i]) == 0) value = "(not shown)";
    json_object_set_new(cls, name, json_bytes(value, strlen(value)));
    return MHD_YES;
}

/* For tests that compare a request with the specification. */
static void keep_request(struct MHD_Connection *h, struct endpoint *e, const char *method, const struct request *r) {
    json_t *headers = json_object(), *last;
    MHD_get_connection_values(h, MHD_HEADER_KIND, keep_header, headers);
    last = json_pack("{ss so so}", "method", method, "target", json_bytes(r->target, strlen(r->target)), "headers",
                     headers);
    pthread_mutex_lock(&g.lock);
    e->requests++;
    json_decref(e->last);
    e->last = last;
    pthread_mutex_unlock(&g.lock);
}

/* Collects the body, then calls the endpoint's answer. */
static enum MHD_Result on_http(void *cls, struct MHD_Connection *h, const char *url, const char *method,
                               const char *version, const char *data, size_t *size, void **state) {
    struct endpoint *e = cls;
    struct request *r = *state;
    (void)version;
    if (!r->begun) {
        r->begun = true;
        return MHD_YES;
    }
    if (*size) {
        r->too_long |= *size > BODY_MAX - r->n;
        if (!r->too_long) {
            memcpy(r->body + r->n, data, *size);
            r->n += *size;
        }
        *size = 0;
        return MHD_YES;
    }
    if (r->too_long) return reply_text(h, 413, "text/plain", "request too long\n", NULL, NULL);
    if (e != &g.admin) keep_request(h, e, method, r);
    return e->answer(h, url, method, r);
}

/* False closes the connection before a byte is read. */
static enum MHD_Result on_http_accept(void *cls, const struct sockaddr *from, socklen_t n) {
    struct endpoint *e = cls;
    (void)from, (void)n;
    if (e == &g.admin) return MHD_YES;
    pthread_mutex_lock(&g.lock);
    e->connections++;
    pthread_mutex_unlock(&g.lock);
    return fault_take(FAULT(e->id, K_REFUSE), NULL) ? MHD_NO : MHD_YES;
}

static void on_http_done(void *cls, struct MHD_Connection *h, void **state,
                         enum MHD_RequestTerminationCode why) {
    (void)cls, (void)h, (void)why;
    free(*state);
    *state = NULL;
}
