/*
 * admin.h - part of emulator.c: the admin endpoint: counters, faults, tokens, the real server.
 */
static json_t *counters_faults(void) {
    json_t *all = json_object();
    char name[40];
    int i;
    for (i = 0; i < FAULT_COUNT; i++) {
        if (!g.faults[i].armed) continue;
        fault_name(i, name);
        json_object_set_new(all, name,
                            json_pack("{sI sI sI}", "asked", (json_int_t)g.faults[i].asked, "fired",
                                      (json_int_t)g.faults[i].fired, "left", (json_int_t)g.faults[i].left));
    }
    return all;
}

/* Of each endpoint, "imds_requests" and so on. */
static void counters_endpoints(json_t *out) {
    char name[40];
    int i, k;
    for (i = 0; i < E_COUNT; i++) {
        const struct endpoint *e = &g.endpoint[i];
        const struct { const char *what; long n; } all[] = {
            {"connections", e->connections}, {"requests", e->requests}, {"answers", e->answers}};
        for (k = 0; k < 3; k++) {
            if (i == E_TOKEN && k == 1) continue; /* "token_requests" counts without discovery */
            snprintf(name, sizeof name, "%s_%s", ENDPOINTS[i], all[k].what);
            json_object_set_new(out, name, json_integer(all[k].n));
        }
    }
    json_object_set_new(out, "fabric_secrets", json_integer(g.fabric_secrets));
    json_object_set_new(out, "proxy_tunnels", json_integer(g.proxy_tunnels));
    json_object_set_new(out, "proxy_plain", json_integer(g.proxy_plain));
}

static json_t *counters_records(json_t *out) {
    json_t *auths = json_array(), *connections = json_array();
    size_t i;
    for (i = 0; i < g.auth_count; i++) {
        const struct auth_record *a = &g.auths[i];
        json_array_append_new(auths,
                              json_pack("{sI sI ss sb so sI}", "at_ms", (json_int_t)a->at, "connection",
                                        (json_int_t)a->connection, "user", a->user, "accepted", a->accepted,
                                        "seconds_left", a->left < 0 ? json_null() : json_real(a->left),
                                        "delayed_ms", (json_int_t)a->delayed));
    }
    for (i = 0; i < g.record_count; i++) {
        const struct conn_record *c = &g.records[i];
        json_array_append_new(connections,
                              json_pack("{sI sI so so}", "number", (json_int_t)i + 1, "opened_ms",
                                        (json_int_t)c->opened, "closed_ms",
                                        c->closed < 0 ? json_null() : json_integer(c->closed), "why",
                                        c->why == W_OPEN ? json_null() : json_string(WHY[c->why])));
    }
    json_object_set_new(out, "auths", auths);
    json_object_set_new(out, "connections", connections);
    return out;
}

static json_t *counters(bool records) {
    json_t *c;
    pthread_mutex_lock(&g.lock);
    c = json_pack("{sI sI sI sI sI sI sI sI sI sI sI sI sI so}", "uptime_ms", (json_int_t)(now_ms() - g.start),
                  "token_requests", (json_int_t)g.token_requests, "tokens_issued",
                  (json_int_t)g.tokens_issued, "token_errors", (json_int_t)g.token_errors, "auths_total",
                  (json_int_t)g.auths_total, "auths_accepted", (json_int_t)g.auths_accepted,
                  "reauths_accepted", (json_int_t)g.reauths_accepted, "connections_opened",
                  (json_int_t)g.connections_opened, "connections_open", (json_int_t)g.connections_open,
                  "connections_expired", (json_int_t)g.connections_expired, "trap_hits",
                  (json_int_t)g.trap_hits, "tls_full", (json_int_t)g.tls_full, "tls_resumed",
                  (json_int_t)g.tls_resumed, "faults", counters_faults());
    counters_endpoints(c);
    if (records) counters_records(c);
    pthread_mutex_unlock(&g.lock);
    return c;
}

static enum MHD_Result reply_error(struct MHD_Connection *h, unsigned status, const char *text) {
    return reply_json(h, status, json_pack("{ss}", "error", text));
}

/* Tickets are sealed by a new key from now on, and those of before open no more. */
static void forget_sessions(void) {
    unsigned char keys[80];
    random_bytes(keys, sizeof keys);
    tls_must(SSL_CTX_set_tlsext_ticket_keys(g.ssl_ctx, keys, sizeof keys) == 1, "ticket keys");
    SSL_CTX_flush_sessions(g.ssl_ctx, 0x7fffffff);
    OPENSSL_cleanse(keys, sizeof keys);
}

static void endpoint_listen(struct endpoint *e, bool up);

/* What an armed fault does at once. Also used for those of the command line. */
static void fault_effect(int id) {
    bool once = id == F_EXPIRE_NOW || id == F_FORGET_SESSIONS;
    long n = 1;
    if (is_kind(id, K_DOWN)) {
        endpoint_listen(&g.endpoint[(id - F_COUNT) / K_COUNT], false);
        fault_take(id, NULL);
        return;
    }
    if (id == F_FORGET_SESSIONS)
        forget_sessions();
    else if (id == F_EXPIRE_NOW)
        n = conns_tell(W_EXPIRED, -1);
    else
        n = conns_tell(W_OPEN, id == F_STALL ? true : -1);
    if (id >= F_COUNT || (!once && id != F_STALL)) return;
    pthread_mutex_lock(&g.lock);
    g.faults[id].fired += n;
    if (once) g.faults[id].left = 0;
    pthread_mutex_unlock(&g.lock);
    say("fault %s fired, %ld times", FAULTS[id].name, n);
}

static enum MHD_Result answer_fault(struct MHD_Connection *h, const char *method) {
    const char *name = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "name"), *complaint;
    int id = name ? fault_find(name) : -1;
    if (id < 0) return reply_error(h, 400, "no fault of this name");
    if (strcmp(method, "DELETE") == 0) {
        pthread_mutex_lock(&g.lock);
        g.faults[id].left = 0;
        pthread_mutex_unlock(&g.lock);
        if (id == F_STALL) conns_tell(W_OPEN, false);
        if (is_kind(id, K_DOWN)) endpoint_listen(&g.endpoint[(id - F_COUNT) / K_COUNT], true);
        say("fault %s disarmed", name);
        return reply_json(h, 200, json_pack("{ss}", "disarmed", name));
    }
    complaint = fault_arm(id, MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "value"),
                          MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "count"));
    if (complaint) return reply_error(h, 400, complaint);
    say("fault %s armed", name);
    fault_effect(id);
    return reply_json(h, 200, json_pack("{ss}", "armed", name));
}

/* A command on a connection of its own: it may block, and must not hold up the tokens. */
static json_t *redis_once(const json_t *args) {
    struct rconn *r = must(malloc(sizeof *r));
    json_t *reply = NULL;
    if (r_open(r, 60)) {
        reply = r_command(r, args);
        r_close(r);
    }
    free(r);
    return reply;
}

static enum MHD_Result answer_command(struct MHD_Connection *h, struct request *request) {
    json_t *args = json_loadb(request->body, request->n, JSON_ALLOW_NUL, NULL), *reply;
    size_t i;
    bool good = json_array_size(args) > 0;
    for (i = 0; i < json_array_size(args); i++) good = good && json_is_string(json_array_get(args, i));
    if (!good) {
        json_decref(args);
        return reply_error(h, 400, "the body is a JSON array of strings");
    }
    reply = redis_once(args);
    json_decref(args);
    return reply ? reply_json(h, 200, reply) : reply_error(h, 502, "no answer from redis-server");
}

static enum MHD_Result answer_info(struct MHD_Connection *h) {
    const char *section = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "section");
    json_t *args = json_pack("[ss]", "INFO", section ? section : "default"), *reply;
    enum MHD_Result r;
    reply = args ? redis_once(args) : NULL;
    r = json_is_string(reply)
            ? reply_text(h, 200, "text/plain; charset=utf-8", json_string_value(reply), NULL, NULL)
            : reply_error(h, 502, "no answer from redis-server");
    json_decref(args);
    json_decref(reply);
    return r;
}

/* Main does it (see redis_spawn); this waits. */
static enum MHD_Result answer_restart(struct MHD_Connection *h) {
    long mine;
    bool failed;
    struct timespec second;
    pthread_mutex_lock(&g.lock);
    mine = ++g.restarts_asked;
    eventfd_write(g.wake_fd, 1);
    while (g.restarts_done < mine && !nap(0)) {
        clock_gettime(CLOCK_REALTIME, &second);
        second.tv_sec++;
        pthread_cond_timedwait(&g.changed, &g.lock, &second);
    }
    failed = g.restarts_done < mine || g.restart_failed;
    pthread_mutex_unlock(&g.lock);
    return failed ? reply_error(h, 500, "redis-server did not start again")
                  : reply_json(h, 200, json_pack("{sb}", "restarted", true));
}

static enum MHD_Result answer_mint(struct MHD_Connection *h) {
    static const struct token_wish plain;
    struct principal *p = &g.who[P_SECRET];
    char *token = token_issue(&plain, SCOPE_URL, p);
    json_t *body =
        json_pack("{ss ss sI}", "access_token", token, "oid", p->oid, "expires_in", (json_int_t)g.ttl);
    free(token);
    return reply_json(h, 200, body);
}

static struct endpoint *endpoint_of(struct MHD_Connection *h) {
    const char *name = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "endpoint");
    int i;
    for (i = 0; name && i < E_COUNT; i++)
        if (strcmp(name, ENDPOINTS[i]) == 0) return &g.endpoint[i];
    return NULL;
}

/* The last request of an endpoint: method, target, headers. */
static enum MHD_Result answer_request(struct MHD_Connection *h) {
    struct endpoint *e = endpoint_of(h);
    json_t *copy;
    if (!e) return reply_error(h, 400, "no endpoint of this name");
    pthread_mutex_lock(&g.lock);
    copy = e->last ? json_deep_copy(e->last) : json_null();
    pthread_mutex_unlock(&g.lock);
    return reply_json(h, 200, copy);
}

/* The platform gives its endpoint a new header value, as App Service does from time to time. */
static enum MHD_Result answer_rotate(struct MHD_Connection *h) {
    struct endpoint *e = endpoint_of(h);
    char value[41];
    if (!e || !e->header[0]) return reply_error(h, 400, "no endpoint of this name that wants a header value");
    new_header(value);
    pthread_mutex_lock(&g.lock);
    memcpy(e->header, value, sizeof value);
    pthread_mutex_unlock(&g.lock);
    return reply_json(h, 200, json_pack("{ss}", "header", value));
}

static enum MHD_Result answer_set(struct MHD_Connection *h) {
    const char *name = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "name"),
               *value = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "value"),
               *complaint = dial_set(name ? name : "", value ? value : "");
    return complaint ? reply_error(h, 400, complaint) : reply_json(h, 200, json_pack("{ss}", name, value));
}

static void gateway_certificate(const char *kind) {
    struct identity id = new_identity(kind, g.ca, g.issuer_key);
    SSL_CTX *was = g.ssl_ctx;
    pthread_mutex_lock(&g.lock);
    gateway_tls(&id);
    pthread_mutex_unlock(&g.lock);
    SSL_CTX_free(was);                  /* connections hold on to it */
    free_identity(&id);
}

/* What the cache's owner changes while it runs. Tokens from before keep what they have. */
static enum MHD_Result answer_cache(struct MHD_Connection *h) {
    const char *policy = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "policy");
    const char *entra = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "entra");
    const char *cert = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "certificate");
    if (policy && !policy_find(policy)) return reply_error(h, 400, "no policy of this name");
    if (cert && !cert_kind(cert)) return reply_error(h, 400, "no kind of this name");
    pthread_mutex_lock(&g.redis_lock);
    if (policy) cache.policy = policy_find(policy);
    if (entra) cache.entra_off = strcmp(entra, "off") == 0;
    if (cert) gateway_certificate(cert_kind(cert));
    pthread_mutex_unlock(&g.redis_lock);
    return reply_json(h, 200, json_pack("{ss sb}", "policy", cache.policy->name, "entra", !cache.entra_off));
}

static enum MHD_Result answer_admin(struct MHD_Connection *h, const char *url, const char *method,
                                    struct request *request) {
    const char *host = MHD_lookup_connection_value(h, MHD_HEADER_KIND, "Host");
    const char *records = MHD_lookup_connection_value(h, MHD_GET_ARGUMENT_KIND, "records");
    bool get = strcmp(method, "GET") == 0, post = strcmp(method, "POST") == 0;
    if (strcmp(url, "/trap") == 0) {
        pthread_mutex_lock(&g.lock);
        g.trap_hits++;
        pthread_mutex_unlock(&g.lock);
        say("the trap was visited");
        return reply_text(h, 200, "text/plain", "trap\n", NULL, NULL);
    }
    /* A web page that rebinds its name to 127.0.0.1 still names itself here. */
    if (!host || (strncmp(host, "127.0.0.1", 9) != 0 && strncmp(host, "localhost", 9) != 0))
        return reply_error(h, 403, "wrong host");
    if (get && strcmp(url, "/counters") == 0)
        return reply_json(h, 200, counters(!records || strcmp(records, "0") != 0));
    if (get && strcmp(url, "/healthz") == 0) return reply_text(h, 200, "text/plain", "ok\n", NULL, NULL);
    if (get && strcmp(url, "/token") == 0) return answer_mint(h);
    if ((post || strcmp(method, "DELETE") == 0) && strcmp(url, "/fault") == 0) return answer_fault(h, method);
    if (get && strcmp(url, "/request") == 0) return answer_request(h);
    if (post && strcmp(url, "/rotate") == 0) return answer_rotate(h);
    if (post && strcmp(url, "/set") == 0) return answer_set(h);
    if (strcmp(url, "/device") == 0) return post ? answer_person(h) : answer_grants(h);
    if (post && strcmp(url, "/revoke") == 0) return answer_revoke(h);
    if (!get && strcmp(url, "/certificate") == 0) return answer_certificate(h, method, request);
    if (post && strcmp(url, "/cache") == 0) return answer_cache(h);
    if (post && strcmp(url, "/assertion") == 0) return answer_assertion(h, request);
    if (get && strcmp(url, "/redis/info") == 0) return answer_info(h);
    if (post && strcmp(url, "/redis/command") == 0) return answer_command(h, request);
    if (post && strcmp(url, "/redis/restart") == 0) return answer_restart(h);
    return reply_error(h, 404, "not found");
}
