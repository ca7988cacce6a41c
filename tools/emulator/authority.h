/*
 * authority.h - part of emulator.c: the token endpoint of Entra ID, and what libraries ask before the first token.
 */
/* The URL by which the client called, which is what its assertion has to be meant for. */
static char *called_url(struct MHD_Connection *h, const struct request *request) {
    const char *host = MHD_lookup_connection_value(h, MHD_HEADER_KIND, "Host");
    return format_text("https://%s%.*s", host ? host : "", (int)strcspn(request->target, "?"), request->target);
}

/* An assertion of the application itself is one of its certificate, any other one of an issuer that it trusts. */
static bool assertion_good(struct MHD_Connection *h, const struct form *f, const struct principal *p,
                           const struct request *request, enum MHD_Result *result) {
    struct jwt j;
    char detail[REASON_SIZE] = "", *url = called_url(h, request);
    const char *wrong;
    long code;
    if (!f->client_assertion_type) {
        code = 900144;
        snprintf(detail, sizeof detail, "client_assertion_type");
    } else if (strcmp(f->client_assertion_type, ASSERTION_TYPE) != 0) {
        code = 9002313;
    } else {
        wrong = jwt_parse(f->client_assertion, &j);
        if (wrong) snprintf(detail, sizeof detail, "%s", wrong);
        code = wrong ? 50027
               : strcasecmp(jwt_text(&j, "iss"), p->client) == 0
                   ? certificate_refused(f->client_assertion, &j, p, url, detail)
                   : federated_refused(f->client_assertion, &j, p, detail);
        jwt_free(&j);
    }
    free(url);
    if (code) *result = sts_error(h, code, detail, 0, NULL);
    return code == 0;
}

/* Who asks, and with what proof. NULL: `result` is the refusal. */
static struct principal *token_client(struct MHD_Connection *h, const struct form *f,
                                      const struct request *request, enum MHD_Result *result) {
    bool binding = request->at->id == E_AKS;
    struct principal *p = NULL;
    int i, first = binding ? P_BINDING : P_SECRET, last = binding ? P_BINDING : P_SUBJECT;
    for (i = first; i <= last; i++)
        if (strcasecmp(f->client_id, g.who[i].client) == 0) p = &g.who[i];
    if (!p && is_public(f->client_id) && !binding) {
        *result = sts_error(h, f->client_secret || f->client_assertion ? 700025 : 7000216, f->grant_type, 0, NULL);
    } else if (!p) {
        *result = sts_error(h, 700016, f->client_id, 0, NULL);
    } else if (f->client_assertion && !f->client_secret) {
        return assertion_good(h, f, p, request, result) ? p : NULL;
    } else if (!f->client_secret) {
        *result = sts_error(h, 7000216, f->grant_type, 0, NULL);
    } else if (p == &g.who[P_SECRET] && strlen(f->client_secret) == strlen(g.secret) &&
               CRYPTO_memcmp(f->client_secret, g.secret, strlen(g.secret)) == 0) {
        return p;
    } else {
        *result = sts_error(h, strcmp(f->client_secret, g.expired_secret) == 0 ? 7000222 : 7000215, p->client, 0, NULL);
    }
    return NULL;
}

/* An application's own token. */
static enum MHD_Result answer_credentials(struct MHD_Connection *h, struct request *request, const struct form *f) {
    struct asked_scope scope;
    char detail[REASON_SIZE];
    struct principal *p;
    enum MHD_Result result;
    long code;
    if (!f->client_id) return sts_error(h, 900144, "client_id", 0, NULL);
    if (f->resource) return sts_error(h, 901002, "", 0, NULL);
    if (!f->scope) return sts_error(h, 900144, "scope", 0, NULL);
    if (!(p = token_client(h, f, request, &result))) return result;
    if ((code = scope_refused(f->scope, false, &scope, detail))) return sts_error(h, code, detail, 0, NULL);
    return endpoint_answer(h, request->at, token_body(request->at, p, scope.aud));
}

static enum MHD_Result answer_token(struct MHD_Connection *h, const char *tenant, struct request *request) {
    struct endpoint *e = request->at;
    bool poll, person;
    struct form f;
    enum MHD_Result result;
    pthread_mutex_lock(&g.lock);
    g.token_requests += e->id == E_TOKEN;
    pthread_mutex_unlock(&g.lock);
    if ((e->id == E_TOKEN && token_fault(h, &result)) || endpoint_fault(h, e, &result)) return result;
    if (!form_of(h, request, &f)) return sts_error(h, 9002313, "", 0, NULL);
    poll = f.grant_type && (strcmp(f.grant_type, DEVICE_GRANT) == 0 ||
                            (dials[D_DEVICE_SHORT] && strcmp(f.grant_type, "device_code") == 0));
    person = poll || (f.grant_type && strcmp(f.grant_type, "refresh_token") == 0);
    if (!(person ? person_tenant : tenant_good)(h, tenant, &result)) return result;
    if (!f.grant_type) return sts_error(h, 900144, "grant_type", 0, NULL);
    if (person) return poll ? answer_poll(h, e, &f) : answer_refresh(h, e, &f);
    if (strcmp(f.grant_type, "client_credentials") != 0) return sts_error(h, 70003, f.grant_type, 0, NULL);
    return answer_credentials(h, request, &f);
}

/* What MSAL and other libraries ask before the first token. */
static json_t *openid_configuration(void) {
    char *base = format_text("%s%s/", g.authority_url, g.tenant);
    json_t *c =
        json_pack("{ss+ ss+ ss+ ss+ ss+ s[sss] s[s] s[s] s[s] s[sss]}", "issuer", base, "v2.0", "token_endpoint",
                  base, "oauth2/v2.0/token", "authorization_endpoint", base, "oauth2/v2.0/authorize",
                  "device_authorization_endpoint", base, "oauth2/v2.0/devicecode", "jwks_uri", base,
                  "discovery/v2.0/keys", "token_endpoint_auth_methods_supported",
                  "client_secret_post", "private_key_jwt", "client_secret_basic", "response_types_supported",
                  "code", "subject_types_supported", "pairwise", "id_token_signing_alg_values_supported",
                  "RS256", "grant_types_supported", "client_credentials", DEVICE_GRANT, "refresh_token");
    free(base);
    return c;
}

static json_t *instance_discovery(void) {
    char host[32];
    snprintf(host, sizeof host, "localhost:%d", g.endpoint[E_TOKEN].port);
    return json_pack("{ss++ ss s[{ss ss s[s]}]}", "tenant_discovery_endpoint", g.authority_url, g.tenant,
                     "/v2.0/.well-known/openid-configuration", "api-version", "1.1", "metadata",
                     "preferred_network", host, "preferred_cache", host, "aliases", host);
}

/* The public key of the tokens, so that anyone can check a signature. */
static json_t *json_web_keys(void) {
    BIGNUM *n = NULL, *e = NULL;
    unsigned char raw[512] = {0};
    char *n64, *e64;
    json_t *keys;
    EVP_PKEY_get_bn_param(g.jwt_key, OSSL_PKEY_PARAM_RSA_N, &n);
    EVP_PKEY_get_bn_param(g.jwt_key, OSSL_PKEY_PARAM_RSA_E, &e);
    n64 = base64url(raw, (size_t)BN_bn2bin(n, raw));
    e64 = base64url(raw, (size_t)BN_bn2bin(e, raw));
    keys = json_pack("{s[{ss ss ss ss ss ss}]}", "keys", "kty", "RSA", "use", "sig", "kid", g.kid, "x5t",
                     g.kid, "n", n64, "e", e64);
    BN_free(n);
    BN_free(e);
    free(n64);
    free(e64);
    return keys;
}

static enum MHD_Result answer_authority(struct MHD_Connection *h, const char *url, const char *method,
                                        struct request *request) {
    char tenant[128];
    const char *rest;
    size_t n;
    if (strcmp(url, "/devicelogin") == 0) return answer_devicelogin(h);
    rest = strchr(url + 1, '/');
    n = rest ? (size_t)(rest - url) - 1 : 0;
    if (!rest || n >= sizeof tenant) return reply_text(h, 404, "text/plain", "not found\n", NULL, NULL);
    memcpy(tenant, url + 1, n);
    tenant[n] = 0;
    if (strcmp(rest, "/oauth2/v2.0/devicecode") == 0)
        return strcmp(method, "POST") == 0 ? answer_devicecode(h, tenant, request)
                                           : reply_text(h, 405, "text/plain", "POST only\n", "Allow", "POST");
    if (strcmp(rest, "/oauth2/v2.0/token") == 0)
        return strcmp(method, "POST") == 0 ? answer_token(h, tenant, request)
                                           : reply_text(h, 405, "text/plain", "POST only\n", "Allow", "POST");
    if (strcmp(method, "GET") != 0) return reply_text(h, 405, "text/plain", "GET only\n", "Allow", "GET");
    if (strcmp(url, "/common/discovery/instance") == 0) return reply_json(h, 200, instance_discovery());
    if (strcasecmp(tenant, g.tenant) == 0 || strcmp(tenant, "common") == 0 || strcmp(tenant, "organizations") == 0) {
        if (strcmp(rest, "/v2.0/.well-known/openid-configuration") == 0)
            return reply_json(h, 200, openid_configuration());
        if (strcmp(rest, "/discovery/v2.0/keys") == 0) return reply_json(h, 200, json_web_keys());
    }
    return reply_text(h, 404, "text/plain", "not found\n", NULL, NULL);
}
