/*
 * doctor.h - part of azredis.c: `azredis doctor`, which goes the way of a program from the name to a subscription and a
 * renewal, and tells of each step whether it went well, or what is wrong and how to mend it. What it saw is in `facts`;
 * what to think of that is in verdict.h.
 *
 * Name and TCP are looked at from here, as the library does them after the token. For TLS alone it looks behind the
 * public calls: its verdict on a certificate must be the library's. All else is what any program could call.
 */
#define LOOKUP_MS   5000u               /* budgets, where --timeout and connectTimeout say nothing */
#define REACH_MS    5000u
#define SHAKE_MS    10000u
#define QUIET_MS    2000u               /* nothing heard in a handshake for so long: it may be no TLS server */
#define PROBE_MS    1000u               /* for a guess that costs time only where something is wrong */
#define ANSWER_MS   5000u               /* one command */
#define RETRY_MS    2000u               /* for the token that replaces a refused one, once */
#define REAUTH_MS   15000u
#define PINGS       20
#define KEY_SECONDS "10"                /* life of the key that it writes */
#define KEYS_TRIED  16                  /* for one on this node of a cluster: with three nodes 1 in 600 fails */
#define INTERRUPTED 130                 /* exit status, as a shell has it for Ctrl+C */

static struct {
    facts f;
    struct result {
        enum outcome outcome;
        const char *rule;               /* its id; "": none */
        uint32_t ms;
        char detail[300], cause[700], mend[300];
    } result[CHECK_COUNT];
    int port, tls, way;                 /* way: 1: Redis can be reached as far as is known */
    char tls_host[256], ca_file[1024];
    char own[48];                       /* of our key and channel: nobody else's */
    struct addrinfo *list;
    uint64_t since;                     /* of the present check, ms */
    int status;                         /* exit status so far */
    int warned;
    /* of the question that is open */
    int answered, message;
    uint64_t answered_us;
} dr;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Until this check has to end; 0: it is over, or Ctrl+C was pressed. */
static uint32_t check_left(uint32_t usual) { return stop ? 0 : left_ms(dr.since, usual); }

static int out_of_time(void) { return app.timeout && left_ms(0, 0) == 0; }

/* ---- the report ------------------------------------------------------------------------------ */

static const char *const outcome_names[] = {"ok", "warn", "fail", "skipped"};

static void print_links(void) {
    azredis_link_record step;
    size_t i;
    for (i = 0; azredis_auth_record(app.identity, i, &step) == AZREDIS_OK; i++)
        printf("        %s: %s, %u ms%s%s\n", step.name, step.outcome, (unsigned)step.ms, *step.reason ? ": " : "",
               step.reason);
}

static void print_check(enum check check) {
    const struct result *r = &dr.result[check];
    if (app.value[JSON]) return;
    printf("%-7s %-10s ", outcome_names[r->outcome], check_names[check]);
    if (r->outcome == CHECK_SKIPPED) printf("%9s  %s\n", "", r->detail);
    else printf("%6u ms  %s\n", (unsigned)r->ms, r->detail);
    if (*r->cause) printf("        cause: %s\n", r->cause);
    if (*r->mend) printf("        mend:  %s\n", r->mend);
    if (check == CHECK_IDENTITY && (r->outcome == CHECK_FAIL || app.value[VERBOSE])) print_links();
    flush();
}

static void set_detail(enum check check, const char *form, ...) __attribute__((format(printf, 2, 3)));
static void set_detail(enum check check, const char *form, ...) {
    va_list list;
    va_start(list, form);
    vsnprintf(dr.result[check].detail, sizeof dr.result[check].detail, form, list);
    va_end(list);
}

static void skip(enum check check, const char *why) {
    dr.result[check].outcome = CHECK_SKIPPED;
    set_detail(check, "%s", why);
    print_check(check);
}

/* 1: the check may begin. */
static int begin_check(enum check check) {
    dr.since = now_ms();
    dr.f.text[0] = '\0';
    stage = FIRST_EXIT + (int)check;
    if (!stop && !out_of_time()) return 1;
    if (dr.status == OK) dr.status = stop ? INTERRUPTED : stage;
    skip(check, stop ? "interrupted" : "--timeout was over");
    return 0;
}

/* Ends the check with the verdict on what it saw. 1: what stands on it may go on. */
static int end_check(enum check check) {
    static const struct rule late = {CHECK_COUNT, "timeout", CHECK_FAIL, NULL,
                                     "--timeout was over before this was done", "give it more time"};
    struct result *r = &dr.result[check];
    const struct rule *rule = judge(check, &dr.f);
    r->ms = (uint32_t)(now_ms() - dr.since);
    if (stop) {
        dr.status = dr.status == OK ? INTERRUPTED : dr.status;
        skip(check, "interrupted");
        return 0;
    }
    if (rule && rule->outcome == CHECK_FAIL && out_of_time()) rule = &late;
    r->outcome = rule ? rule->outcome : CHECK_OK;
    r->rule = rule ? rule->id : "";
    if (rule) tell(r->cause, sizeof r->cause, &dr.f, rule->cause);
    if (rule) tell(r->mend, sizeof r->mend, &dr.f, rule->mend);
    if (r->outcome == CHECK_FAIL && dr.status == OK) dr.status = FIRST_EXIT + (int)check;
    dr.warned |= r->outcome == CHECK_WARN;
    print_check(check);
    return r->outcome != CHECK_FAIL;
}

static void json_links(void) {
    azredis_link_record step;
    size_t i;
    printf(",\"links\":[");
    for (i = 0; azredis_auth_record(app.identity, i, &step) == AZREDIS_OK; i++) {
        printf(i > 0 ? ",{" : "{");
        put_member("name", step.name);
        put_member("outcome", step.outcome);
        put_member("reason", step.reason);
        printf("\"ms\":%u}", (unsigned)step.ms);
    }
    putchar(']');
}

static void print_json(int status) {
    int i;
    printf("{\"ok\":%s,\"exit\":%d,", status == OK ? "true" : "false", status);
    put_member("host", dr.f.host);
    printf("\"port\":%d,\"checks\":[", dr.port);
    for (i = 0; i < CHECK_COUNT; i++) {
        const struct result *r = &dr.result[i];
        printf(i > 0 ? ",{" : "{");
        put_member("name", check_names[i]);
        put_member("outcome", outcome_names[r->outcome]);
        put_number("ms", r->outcome != CHECK_SKIPPED, r->ms);
        put_member("rule", r->rule ? r->rule : "");
        put_member("detail", r->detail);
        put_member("cause", r->cause);
        printf("\"mend\":");
        if (*r->mend) put_json_text(r->mend, strlen(r->mend));
        else printf("null");
        if (i == CHECK_IDENTITY) json_links();
        putchar('}');
    }
    puts("]}");
}

static void print_end(int status) {
    if (app.value[JSON]) print_json(status);
    else if (status == OK) puts(dr.warned ? "It works; see the warnings." : "All is well.");
    else printf("Exit status %d.\n", status);
}

/* ---- name ------------------------------------------------------------------------------------ */

/* libc's look-up cannot be ended, so a thread does it; one that never comes back is left behind. */
static struct { char host[256], port[8]; struct addrinfo *list; int rc, error, done[2]; } lookup;

static void *look_up_main(void *unused) {
    struct addrinfo want;
    memset(&want, 0, sizeof want);
    want.ai_socktype = SOCK_STREAM;
    want.ai_flags = AI_CANONNAME;
    lookup.rc = getaddrinfo(lookup.host, lookup.port, &want, &lookup.list);
    lookup.error = errno;               /* each thread has its own */
    if (write(lookup.done[1], "", 1) != 1) lookup.rc = EAI_SYSTEM;
    return unused;
}

/* 0, EAI_..., or EAI_AGAIN if there is no answer in time. */
static int look_up(const char *host, int port, struct addrinfo **list) {
    struct pollfd p;
    pthread_t thread;
    *list = NULL;
    memset(&lookup, 0, sizeof lookup);
    snprintf(lookup.host, sizeof lookup.host, "%s", host);
    snprintf(lookup.port, sizeof lookup.port, "%d", port);
    if (pipe2(lookup.done, O_CLOEXEC) != 0) return EAI_SYSTEM;
    if (pthread_create(&thread, NULL, look_up_main, NULL) != 0) return EAI_MEMORY;
    p.fd = lookup.done[0];
    p.events = POLLIN;
    p.revents = 0;                      /* poll may never come to write it */
    while (check_left(LOOKUP_MS) > 0 && poll(&p, 1, (int)least(SLICE_MS, check_left(LOOKUP_MS))) <= 0) {}
    if (!(p.revents & POLLIN)) return EAI_AGAIN;
    pthread_join(thread, NULL);
    close(lookup.done[0]);
    close(lookup.done[1]);
    *list = lookup.list;
    errno = lookup.error;
    return lookup.rc;
}

static void know_address(const struct sockaddr *a) {
    const struct sockaddr_in *a4 = (const struct sockaddr_in *)(const void *)a;
    const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)(const void *)a;
    if (a->sa_family == AF_INET) {
        inet_ntop(AF_INET, &a4->sin_addr, dr.f.address, sizeof dr.f.address);
        dr.f.private_address = is_private4((const unsigned char *)&a4->sin_addr);
    } else {
        inet_ntop(AF_INET6, &a6->sin6_addr, dr.f.address, sizeof dr.f.address);
        dr.f.private_address = is_private6((const unsigned char *)&a6->sin6_addr);
    }
}

static int check_name(void) {
    const struct addrinfo *a;
    int rc, count = 0;
    if (!begin_check(CHECK_NAME)) return 0;
    rc = look_up(dr.f.host, dr.port, &dr.list);
    dr.f.lookup = rc == 0 ? LOOKUP_OK : rc == EAI_NONAME || rc == EAI_NODATA ? LOOKUP_UNKNOWN
                : rc == EAI_AGAIN ? LOOKUP_SILENT : LOOKUP_FAILED;
    if (rc != 0) snprintf(dr.f.text, sizeof dr.f.text, "%s", rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
    for (a = dr.list; a; a = a->ai_next) count++;
    set_detail(CHECK_NAME, "%s", dr.f.host);
    if (rc == 0) {
        know_address(dr.list->ai_addr);
        snprintf(dr.f.canonical, sizeof dr.f.canonical, "%s", dr.list->ai_canonname ? dr.list->ai_canonname : "");
        set_detail(CHECK_NAME, "%s is %s%s, %d address%s", dr.f.host, dr.f.address,
                   azure_private(&dr.f) ? " (private endpoint)" : "", count, count == 1 ? "" : "es");
    }
    return end_check(CHECK_NAME);
}

/* ---- TCP ------------------------------------------------------------------------------------- */

static enum reach reach_of(int error) {
    return error == 0 ? REACH_OK : error == ECONNREFUSED ? REACH_REFUSED : error == ETIMEDOUT ? REACH_BLOCKED
         : error == ENETUNREACH || error == EHOSTUNREACH || error == ENETDOWN ? REACH_NO_ROUTE : REACH_FAILED;
}

/* Waits for the socket in slices, as Ctrl+C has to be seen. 0: not in time. */
static int wait_for(int fd, short events, uint64_t until) {
    struct pollfd p;
    p.fd = fd;
    p.events = events;
    while (!stop && now_ms() < until) {
        uint64_t left = until - now_ms();
        if (poll(&p, 1, (int)(left < SLICE_MS ? left : SLICE_MS)) > 0) return 1;
    }
    return 0;
}

/* An open socket that does not block, or -1 with errno. */
static int dial(const struct addrinfo *a, uint32_t ms) {
    int error = 0, fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t n = sizeof error;
    if (fd < 0) return -1;
    if (connect(fd, a->ai_addr, a->ai_addrlen) != 0) error = errno;
    if (error == EINPROGRESS) {
        if (!wait_for(fd, POLLOUT, now_ms() + ms)) error = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0) error = errno;
    }
    if (error == 0) return fd;
    close(fd);
    errno = error;
    return -1;
}

/* The first address that answers; -1 with the errno of the first that did not. */
static int dial_any(const struct addrinfo *list, uint32_t ms, const struct addrinfo **which) {
    const struct addrinfo *a;
    int first = 0, fd = -1;
    for (a = list; a && fd < 0 && !stop; a = a->ai_next) {
        fd = dial(a, least(ms, left_ms(now_ms(), ms)));
        if (fd < 0 && !first) first = errno;
        if (fd >= 0) *which = a;
    }
    errno = first;
    return fd;
}

static void set_port(struct sockaddr *a, int port) {
    if (a->sa_family == AF_INET) ((struct sockaddr_in *)(void *)a)->sin_port = htons((uint16_t)port);
    else ((struct sockaddr_in6 *)(void *)a)->sin6_port = htons((uint16_t)port);
}

/* For a name that tells nothing of its port: one of Redis's that is open. */
static int open_port(void) {
    static const int ports[] = {10000, 6380};
    size_t i;
    int fd = -1;
    for (i = 0; i < 2 && fd < 0; i++) {
        if (ports[i] == dr.port) continue;
        set_port(dr.list->ai_addr, ports[i]);
        fd = dial(dr.list, PROBE_MS);
        if (fd < 0) continue;
        close(fd);
        return ports[i];
    }
    return 0;
}

/* A time of the connection string; else the usual one. */
static uint32_t time_of(const char *key, uint32_t usual) {
    char text[16] = "";
    (void)setting(key, text, sizeof text);
    return isdigit((unsigned char)text[0]) ? (uint32_t)atoi(text) : usual;
}

static uint32_t answer_ms(void) { return time_of("syncTimeout", ANSWER_MS); }
static uint32_t reach_ms(void) { return time_of("connectTimeout", REACH_MS); }

/* The socket, or -1. */
static int check_tcp(void) {
    const struct addrinfo *which = dr.list;
    int fd;
    if (!begin_check(CHECK_TCP)) return -1;
    fd = dial_any(dr.list, reach_ms(), &which);
    dr.f.reach = fd >= 0 ? REACH_OK : reach_of(errno);
    if (fd < 0) snprintf(dr.f.text, sizeof dr.f.text, "%s", strerror(errno));
    know_address(which->ai_addr);
    set_detail(CHECK_TCP, "port %d of %s %s", dr.port, dr.f.address, reach_text(dr.f.reach));
    if (fd < 0 && dr.f.suffix == SUFFIX_OTHER) dr.f.other_port = open_port();
    (void)end_check(CHECK_TCP);
    return fd;
}

/* ---- TLS ------------------------------------------------------------------------------------- */

static void say_date(char out[32], int64_t at) {
    time_t t = (time_t)at;
    struct tm tm;
    if (!gmtime_r(&t, &tm) || !strftime(out, 32, "%Y-%m-%d %H:%M:%SZ", &tm)) snprintf(out, 32, "?");
}

/* Redis without TLS answers a line of text; a TLS server says nothing, or an alert. */
static int answers_plainly(void) {
    char c = 0;
    const struct addrinfo *which;
    int fd = dial_any(dr.list, PROBE_MS, &which), plain = 0;
    if (fd < 0) return 0;
    if (send(fd, "PING\r\n", 6, MSG_NOSIGNAL) == 6 && wait_for(fd, POLLIN, now_ms() + PROBE_MS) &&
        recv(fd, &c, 1, 0) == 1)
        plain = c == '+' || c == '-';
    close(fd);
    return plain;
}

static void know_certificate(const azri_tls *t) {
    uint32_t flags = mbedtls_ssl_get_verify_result(&t->ssl);
    if (flags == UINT32_MAX) return;    /* it did not come so far */
    if (flags & MBEDTLS_X509_BADCERT_EXPIRED) dr.f.cert |= CERT_EXPIRED;
    if (flags & MBEDTLS_X509_BADCERT_FUTURE) dr.f.cert |= CERT_FUTURE;
    if (flags & MBEDTLS_X509_BADCERT_CN_MISMATCH) dr.f.cert |= CERT_NAME;
    if (flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED) dr.f.cert |= CERT_UNTRUSTED;
}

/* A server without TLS waits for the end of a line, as we wait for it. */
static azredis_status shake_hands(azri_tls *t, int fd, azredis_error *why) {
    azredis_status st = AZREDIS_AGAIN;
    uint64_t until = now_ms() + check_left(time_of("connectTimeout", SHAKE_MS)), ask_at = now_ms() + QUIET_MS;
    while ((st = azri_tls_handshake(t, why)) == AZREDIS_AGAIN) {
        short want = t->want == AZRI_READ ? POLLIN : POLLOUT;
        if (wait_for(fd, want, t->heard || until < ask_at ? until : ask_at)) continue;
        dr.f.plain_answer = !t->heard && !stop && answers_plainly();
        if (dr.f.plain_answer || t->heard || !wait_for(fd, want, until)) return AZREDIS_E_TIMEOUT;
    }
    return st;
}

static int check_tls(int fd) {
    static azri_tls t;
    azredis_error why = {0};
    azri_tls_conf conf;
    azri_port port;
    char until[32];
    if (!begin_check(CHECK_TLS)) return 0;
    memset(&conf, 0, sizeof conf);
    conf.name = dr.tls_host;
    conf.ca_file = *dr.ca_file ? dr.ca_file : NULL;
    conf.where = "doctor.tls";
    azri_port_fill(&port, NULL);
    set_detail(CHECK_TLS, "with %s", dr.tls_host);
    dr.f.tls = azri_tls_open(&t, &port, &conf, fd, &why);
    dr.f.no_roots = dr.f.tls == AZREDIS_E_CERT;
    if (dr.f.tls == AZREDIS_OK) {
        dr.f.tls = shake_hands(&t, fd, &why);
        say_date(until, t.until);
        if (dr.f.tls == AZREDIS_OK)
            set_detail(CHECK_TLS, "%s, %s, certificate good until %s", mbedtls_ssl_get_version(&t.ssl),
                       mbedtls_ssl_get_ciphersuite(&t.ssl), until);
        else if (dr.f.tls == AZREDIS_E_CERT) know_certificate(&t);
        dr.f.days_left = (t.until - (int64_t)time(NULL)) / 86400;
        azri_tls_close(&t);
    }
    snprintf(dr.f.text, sizeof dr.f.text, "%s", why.message);
    if (tls_cut(&dr.f) || dr.f.tls == AZREDIS_E_TLS) dr.f.plain_answer = answers_plainly();
    return end_check(CHECK_TLS);
}

/* ---- identity and token ---------------------------------------------------------------------- */

/* The middle part of a JWT as text; "": it is none. */
static void decode_claims(const char *jwt, char *out, size_t cap) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const char *p = strchr(jwt, '.'), *d;
    unsigned bits = 0, have = 0;
    size_t n = 0;
    for (p = p ? p + 1 : ""; *p && n + 1 < cap && (d = strchr(digits, *p)) != NULL; p++) {
        bits = (bits << 6 | (unsigned)(d - digits)) & 0xffff;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        out[n] = (char)(bits >> have & 0xff);
        n += out[n] != '\0';
    }
    out[n] = '\0';
}

static void know_token(const azredis_token *t) {
    static char claims[SECRET_MAX];
    azredis_auth_info_data d;
    (void)azredis_auth_info(app.identity, &d);
    snprintf(dr.f.credential, sizeof dr.f.credential, "%s", d.credential);
    snprintf(dr.f.user, sizeof dr.f.user, "%s", d.user);
    snprintf(dr.f.tenant, sizeof dr.f.tenant, "%s", d.tenant);
    snprintf(dr.f.audience, sizeof dr.f.audience, "%s", d.audience);
    if (!t->jwt) return;
    if (t->expires_in_ms == AZREDIS_NEVER) {
        dr.f.proof = strcmp(d.credential, "password") == 0 ? PROOF_PASSWORD : PROOF_KEY;
        return;
    }
    dr.f.life_s = t->expires_in_ms / 1000;
    dr.f.skew_s = d.expires_on ? d.expires_on - dr.f.life_s - (int64_t)time(NULL) : 0;
    decode_claims(t->jwt, claims, sizeof claims);
    know_claims(&dr.f, claims);
    wipe(claims, sizeof claims);
}

/* The tenant that was asked for, where the identity asks for one. */
static void know_tenant(void) {
    const char *tenant = app.value[TENANT] ? app.value[TENANT] : getenv_set("AZURE_TENANT_ID");
    if (setting("tenantId", dr.f.tenant_asked, sizeof dr.f.tenant_asked) && !app.value[TENANT]) return;
    snprintf(dr.f.tenant_asked, sizeof dr.f.tenant_asked, "%s",
             tenant && strcmp(dr.f.credential, "managed-identity") != 0 ? tenant : "");
}

/* 1: there is something to show to Redis. */
static int check_identity(void) {
    azredis_error why = {0};
    azredis_token t = {0};
    int known, good;
    if (!begin_check(CHECK_IDENTITY)) { skip(CHECK_TOKEN, "no identity"); return 0; }
    dr.f.token = fetch_token(&t, &why);
    if (dr.f.token == AZREDIS_AGAIN) dr.f.token = why.code;         /* what would be tried again */
    dr.f.aadsts = dr.f.token == AZREDIS_OK ? 0 : why.aadsts;
    dr.f.http_status = dr.f.token == AZREDIS_OK ? 0 : why.http_status;
    snprintf(dr.f.text, sizeof dr.f.text, "%s", why.message);
    know_token(&t);
    know_tenant();
    if (dr.f.token == AZREDIS_OK) set_detail(CHECK_IDENTITY, "%s", dr.f.credential);
    else set_detail(CHECK_IDENTITY, "--auth %s", app.auth);
    azredis_token_wipe(&t);
    known = end_check(CHECK_IDENTITY);
    if (known && dr.f.proof != PROOF_TOKEN) { skip(CHECK_TOKEN, "signs in without one"); return 1; }
    if (!known) { skip(CHECK_TOKEN, "no identity"); return 0; }
    if (!begin_check(CHECK_TOKEN)) return 0;
    snprintf(dr.f.text, sizeof dr.f.text, "%s", why.message);
    if (dr.f.token == AZREDIS_OK)
        set_detail(CHECK_TOKEN, "object id %s, tenant %s, for %s, %lld s left", dr.f.user,
                   *dr.f.tenant ? dr.f.tenant : "?", *dr.f.audience ? dr.f.audience : "?", (long long)dr.f.life_s);
    good = end_check(CHECK_TOKEN);
    return good;
}

/* ---- AUTH ------------------------------------------------------------------------------------ */

static azredis_status sign_in(azredis_error *why) {
    azredis_status st;
    uint64_t refused_at = 0;
    uint32_t left, budget = reach_ms() + time_of("authTimeout", CONNECT_MS);
    app.rejected = app.same = 0;
    do {
        left = check_left(budget);
        memset(why, 0, sizeof *why);
        st = azredis_connect(app.cache, least(left, SLICE_MS), why);
        if (app.rejected && !refused_at) refused_at = now_ms();
    } while (st != AZREDIS_OK && left > 0 && why->retryable && (!refused_at || now_ms() - refused_at < RETRY_MS) &&
             !(app.rejected && app.same) && (st == AZREDIS_E_TIMEOUT || st == AZREDIS_E_AUTH));
    if (st != AZREDIS_OK && refused_at) st = AZREDIS_E_AUTH;        /* that no new token came is not what is wrong */
    return st;
}

static int check_auth(int protocol) {
    azredis_error why = {0};
    if (!begin_check(CHECK_AUTH)) return 0;
    dr.f.auth = sign_in(&why);
    if (dr.f.auth == AZREDIS_E_CLUSTER) {       /* HELLO said so; RESP2, which has none, can look further */
        dr.f.oss = 1;
        open_client(2);
        dr.f.auth = sign_in(&why);
    }
    dr.f.resp2 = !dr.f.oss && (protocol == 2 || app.resp2);
    snprintf(dr.f.text, sizeof dr.f.text, "%s", why.message);
    set_detail(CHECK_AUTH, "as %s%s", *dr.f.user ? dr.f.user : "default",
               dr.f.auth != AZREDIS_OK ? "" : dr.f.oss || dr.f.resp2 ? ", RESP2" : ", RESP3");
    return end_check(CHECK_AUTH);
}

/* ---- questions to Redis ---------------------------------------------------------------------- */

static void on_answer(azredis_client *c, const azredis_reply *lent, void *user) {
    (void)user;
    dr.answered_us = now_us();
    dr.answered = azredis_reply_copy(&app.reply, lent) == AZREDIS_OK ? 1 : -1;
    azredis_wake(c);
}

/* Words, then NULL. OK: app.reply has the answer, which may be an error reply. */
static azredis_status ask(const char *word, ...) {
    azredis_str argv[8];
    azredis_call how = {0};
    va_list list;
    int argc = 0;
    va_start(list, word);
    for (; word && argc < 8; word = va_arg(list, const char *)) {
        argv[argc].ptr = word;
        argv[argc++].len = strlen(word);
    }
    va_end(list);
    azredis_reply_free(&app.reply);
    dr.answered = 0;
    how.timeout_ms = left_ms(now_ms(), answer_ms()) + 1;
    if (azredis_submit(app.cache, &how, argc, argv, on_answer, NULL) != AZREDIS_OK) return AZREDIS_E_NOMEM;
    while (!dr.answered && !stop) (void)azredis_wait(app.cache, SLICE_MS);
    if (dr.answered <= 0) return AZREDIS_E_CLOSED;
    if (app.reply.error) snprintf(dr.f.text, sizeof dr.f.text, "%s", app.reply.error->message);
    return app.reply.value ? AZREDIS_OK : app.reply.status;
}

static const char *answer_text(void) {
    azredis_str s;
    if (!app.reply.value) return "";
    s = azredis_text(app.reply.value);
    return s.ptr ? s.ptr : app.reply.value->type == AZREDIS_T_ERROR ? app.reply.value->as.str : "";
}

/* "MOVED 1234 10.0.0.1:8500": where to. */
static void know_move(const char *text) {
    const char *at = strchr(text, ' ');
    at = at ? strchr(at + 1, ' ') : NULL;
    dr.f.oss = 1;
    if (at) snprintf(dr.f.node, sizeof dr.f.node, "%.*s", (int)strcspn(at + 1, " "), at + 1);
}

/* What the last answer says of the right to have it. */
static enum right right_of(azredis_status st) {
    const char *text = answer_text();
    if (st != AZREDIS_OK) return RIGHT_BROKEN;
    if (app.reply.status == AZREDIS_OK) return RIGHT_YES;
    if (app.reply.status == AZREDIS_E_NOPERM) return strstr(text, "to run") ? RIGHT_NO : RIGHT_NOT_THIS_KEY;
    if (strncmp(text, "MOVED ", 6) == 0) know_move(text);
    return app.reply.status == AZREDIS_E_CLUSTER ? RIGHT_MOVED : strncmp(text, "OOM", 3) == 0 ? RIGHT_FULL
         : strncmp(text, "READONLY", 8) == 0 ? RIGHT_REPLICA : RIGHT_BROKEN;
}

/* A read and a write of a key that is nobody else's and soon gone. In a cluster it is one that lives here. */
static void try_key(void) {
    char key[64], text[sizeof dr.f.text];
    int i;
    for (i = 0; i < KEYS_TRIED; i++) {
        snprintf(key, sizeof key, "%s:%d", dr.own, i);
        dr.f.may_read = right_of(ask("GET", key, NULL));
        if (dr.f.may_read != RIGHT_MOVED) break;
    }
    dr.f.may_write = dr.f.may_read;
    if (dr.f.may_read == RIGHT_BROKEN) return;
    dr.f.may_write = right_of(ask("SET", key, "1", "EX", KEY_SECONDS, NULL));
    if (dr.f.may_write == RIGHT_BROKEN) return;
    memcpy(text, dr.f.text, sizeof text);       /* what is next is no fault, whatever is said of it */
    dr.f.may_admin = right_of(ask("INFO", "server", NULL));     /* of @dangerous, which Data Contributor has not */
    memcpy(dr.f.text, text, sizeof text);
}

static void check_rights(void) {
    if (!begin_check(CHECK_RIGHTS)) return;
    if (ask("ACL", "WHOAMI", NULL) == AZREDIS_OK && app.reply.status == AZREDIS_OK)
        snprintf(dr.f.user, sizeof dr.f.user, "%s", answer_text());
    try_key();
    if (dr.f.may_read == RIGHT_MOVED) set_detail(CHECK_RIGHTS, "unknown: all keys that were tried live on other nodes");
    else set_detail(CHECK_RIGHTS, "%s %s read, %s write: looks like %s", *dr.f.user ? dr.f.user : "default",
                    dr.f.may_read == RIGHT_YES ? "may" : "may not", dr.f.may_write == RIGHT_YES ? "may" : "may not",
                    policy_of(&dr.f));
    (void)end_check(CHECK_RIGHTS);
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void check_round_trips(void) {
    int64_t us[PINGS];
    int n;
    if (!begin_check(CHECK_ROUND_TRIP)) return;
    for (n = 0; n < PINGS && dr.f.ping == AZREDIS_OK; n++) {
        uint64_t before = now_us();
        dr.f.ping = ask("PING", NULL);
        us[n] = (int64_t)(dr.answered_us - before);
    }
    if (dr.f.ping == AZREDIS_OK) {
        qsort(us, PINGS, sizeof us[0], by_size);
        dr.f.median_us = us[PINGS / 2];
        dr.f.longest_us = us[PINGS - 1];
    }
    set_detail(CHECK_ROUND_TRIP, "%d PINGs, median %.2f ms, longest %.2f ms", n, (double)dr.f.median_us / 1000,
               (double)dr.f.longest_us / 1000);
    (void)end_check(CHECK_ROUND_TRIP);
}

static void on_own_message(azredis_client *c, const azredis_message *m, void *user) {
    (void)m;
    (void)user;
    dr.message = 1;
    azredis_wake(c);
}

static azredis_status try_channel(void) {
    azredis_status st = AZREDIS_AGAIN;
    azredis_sub *sub = azredis_subscribe(app.cache, AZREDIS_CHANNEL, dr.own, on_own_message, NULL);
    uint64_t until = now_ms() + check_left(answer_ms());
    if (!sub) return AZREDIS_E_NOMEM;
    while (!stop && !app.confirmed && !app.refusal[0] && now_ms() < until) (void)azredis_wait(app.cache, SLICE_MS / 10);
    if (app.refusal[0]) {
        st = strstr(app.refusal, "NOPERM") ? AZREDIS_E_NOPERM : AZREDIS_E_REDIS;
        snprintf(dr.f.text, sizeof dr.f.text, "%.450s", app.refusal);
    } else if (app.confirmed) {
        st = ask("PUBLISH", dr.own, "1", NULL);
        st = st == AZREDIS_OK ? app.reply.status : st;
        until = now_ms() + least(PROBE_MS, check_left(answer_ms()));
        while (st == AZREDIS_OK && !stop && !dr.message && now_ms() < until)
            (void)azredis_wait(app.cache, SLICE_MS / 10);
        if (st == AZREDIS_OK && !dr.message) st = AZREDIS_AGAIN;
    }
    azredis_unsubscribe(sub);
    return st;
}

static void check_pubsub(void) {
    azredis_error why = {0};
    if (!begin_check(CHECK_PUBSUB)) return;
    set_detail(CHECK_PUBSUB, "channel %s", dr.own);
    dr.f.subscribe = try_channel();
    if (dr.f.subscribe == AZREDIS_OK) set_detail(CHECK_PUBSUB, "a message to %s came back", dr.own);
    (void)end_check(CHECK_PUBSUB);
    if (!dr.f.resp2) return;
    open_client(2);                 /* two connections show a token at different times, by chance: one is looked at */
    (void)sign_in(&why);
}

static void check_reauth(void) {
    azredis_stats_data before, after;
    uint64_t began = now_ms();
    if (!begin_check(CHECK_REAUTH)) return;
    azredis_stats(app.cache, &before);
    app.reauth = 0;
    dr.f.reauth = azredis_auth_rehearse(app.identity);
    do {
        if (dr.f.reauth == AZREDIS_OK) (void)azredis_wait(app.cache, 2);
        azredis_stats(app.cache, &after);
    } while (dr.f.reauth == AZREDIS_OK && !app.reauth && after.handovers == before.handovers &&
             after.connects == before.connects && check_left(REAUTH_MS) > 0);
    dr.f.reauth_ms = (uint32_t)(now_ms() - began);
    if (app.reauth < 0) {
        dr.f.reauth = app.reauth_error.code;
        snprintf(dr.f.text, sizeof dr.f.text, "%s", app.reauth_error.message);
    } else if (dr.f.reauth == AZREDIS_OK && !app.reauth && after.handovers == before.handovers) {
        dr.f.reauth = AZREDIS_E_TIMEOUT;
        snprintf(dr.f.text, sizeof dr.f.text, "%s", after.connects == before.connects ? "no answer in time"
                                                                                      : "the connection ended");
    }
    set_detail(CHECK_REAUTH, "%s", after.handovers == before.handovers ? "the same credentials again, in place"
                                                                      : "by a second connection");
    (void)end_check(CHECK_REAUTH);
}

/* ---- cluster --------------------------------------------------------------------------------- */

/* "host:port" of the i-th node that the last answer, of CLUSTER SLOTS, names; 0: there is none. */
static int slot_node(uint32_t i, char *out, size_t cap) {
    const azredis_value *v = app.reply.value, *node;
    azredis_str host;
    int64_t port = 0;
    if (!v || v->type != AZREDIS_T_ARRAY || i >= v->len) return 0;
    v = &v->as.items[i];
    if (v->type != AZREDIS_T_ARRAY || v->len < 3) return 0;
    node = &v->as.items[2];
    if (node->type != AZREDIS_T_ARRAY || node->len < 2) return 0;
    if (azredis_int(&node->as.items[1], &port) != AZREDIS_OK) return 0;
    host = azredis_text(&node->as.items[0]);
    snprintf(out, cap, "%s:%d", host.len > 0 ? host.ptr : dr.f.host, (int)port);
    return 1;
}

static enum reach reach_node(const char *node) {
    const struct addrinfo *which;
    struct addrinfo *list = NULL;
    char host[300];
    const char *colon = strrchr(node, ':');
    int fd = -1;
    enum reach r = REACH_FAILED;
    snprintf(host, sizeof host, "%.*s", (int)(colon ? colon - node : 0), node);
    if (!colon || look_up(*host ? host : dr.f.host, atoi(colon + 1), &list) != 0) return REACH_FAILED;
    fd = dial_any(list, reach_ms(), &which);
    r = fd >= 0 ? REACH_OK : reach_of(errno);
    if (fd >= 0) close(fd);
    freeaddrinfo(list);
    return r;
}

/* The first node that cannot be reached is the one to tell of. */
static void check_cluster(void) {
    char node[sizeof dr.f.node];
    uint32_t i;
    if (!begin_check(CHECK_CLUSTER)) return;
    if (dr.f.oss && *dr.f.node) dr.f.node_reach = reach_node(dr.f.node);
    if (dr.f.oss && !*dr.f.node && ask("CLUSTER", "SLOTS", NULL) == AZREDIS_OK)
        for (i = 0; dr.f.node_reach == REACH_OK && slot_node(i, node, sizeof node); i++) {
            if (strcmp(node, dr.f.node) == 0) continue;
            snprintf(dr.f.node, sizeof dr.f.node, "%s", node);
            dr.f.node_reach = reach_node(node);
        }
    if (dr.f.oss) set_detail(CHECK_CLUSTER, "OSS cluster policy, node %s %s", *dr.f.node ? dr.f.node : "unknown",
                             *dr.f.node ? reach_text(dr.f.node_reach) : "");
    else set_detail(CHECK_CLUSTER, "one endpoint serves all keys");
    (void)end_check(CHECK_CLUSTER);
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* What the connection string comes to, as the library understood it. */
static void know_endpoint(void) {
    char host[256], *p = app.settings;
    const char *scheme = strstr(p, "://");
    size_t n, bracket;
    if (scheme) p += scheme + 3 - p;
    n = strcspn(p, *p == '/' ? "," : ",/?");
    bracket = *p == '[';
    snprintf(host, sizeof host, "%.*s", (int)n, p);
    if (bracket || strchr(host, ':')) {
        char *end = bracket ? strchr(host, ']') : strrchr(host, ':');
        char *colon = end ? strchr(end, ':') : NULL;
        dr.port = colon ? atoi(colon + 1) : 0;
        if (end) *end = '\0';
        if (colon) *colon = '\0';
    }
    dr.tls = !strstr(app.settings, ",ssl=false") && strncmp(app.settings, "redis://", 8) != 0 && host[0] != '/';
    know_host(&dr.f, host + bracket, 0);
    if (dr.port == 0) dr.port = !dr.tls ? 6379 : dr.f.right_port ? dr.f.right_port : 10000;
    dr.f.port = dr.port;
    snprintf(dr.tls_host, sizeof dr.tls_host, "%s", dr.f.host);
    (void)setting("sslHost", dr.tls_host, sizeof dr.tls_host);
    if (!setting("caFile", dr.ca_file, sizeof dr.ca_file) || app.value[CACERT])
        snprintf(dr.ca_file, sizeof dr.ca_file, "%s", app.value[CACERT] ? app.value[CACERT] : "");
}

static const char unreached_text[] = "Redis cannot be reached";

static void check_way(void) {
    int fd = -1;
    if (dr.f.host[0] == '/') {
        dr.way = 1;
        skip(CHECK_NAME, "a unix socket");
        skip(CHECK_TCP, "a unix socket");
        skip(CHECK_TLS, "a unix socket");
        return;
    }
    if (check_name()) fd = check_tcp();
    else skip(CHECK_TCP, "no address");
    if (fd < 0) skip(CHECK_TLS, unreached_text);
    else if (!dr.tls) skip(CHECK_TLS, "ssl=false");
    dr.way = fd >= 0 && (!dr.tls || check_tls(fd));
    if (fd >= 0) close(fd);
}

static void check_redis(int protocol) {
    static const char no[] = "not signed in";
    enum check c;
    if (!check_auth(protocol)) {
        for (c = CHECK_RIGHTS; c < CHECK_COUNT; c++) skip(c, no);
        return;
    }
    check_rights();
    check_round_trips();
    if (dr.f.oss) skip(CHECK_PUBSUB, "not looked at in an OSS cluster");
    else check_pubsub();
    check_reauth();
    check_cluster();
}

static void doctor(void) {
    unsigned char random[8];
    azri_port port;
    size_t i;
    int protocol = app.value[PROTOCOL] ? atoi(app.value[PROTOCOL]) : strstr(app.settings, ",protocol=resp2") ? 2 : 3;
    enum check c;
    handle(SIGINT, on_stop);
    handle(SIGTERM, on_stop);
    know_endpoint();
    say_date(dr.f.clock, (int64_t)time(NULL));
    azri_port_fill(&port, NULL);
    if (port.p.entropy(port.p.user, random, sizeof random) != 0) die(NO_REDIS, "no random numbers");
    snprintf(dr.own, sizeof dr.own, "azredis-doctor:");
    for (i = 0; i < sizeof random; i++) snprintf(dr.own + strlen(dr.own), 3, "%02x", (unsigned)random[i]);
    open_client(protocol);
    check_way();
    if (check_identity() && dr.way) check_redis(protocol);
    else for (c = CHECK_AUTH; c < CHECK_COUNT; c++) skip(c, dr.way ? "nothing to sign in with" : unreached_text);
    if (dr.list) freeaddrinfo(dr.list);
    if (dr.status == OK && dr.warned && app.value[STRICT]) dr.status = ERROR_REPLY;
    print_end(dr.status);
    leave(dr.status);
}
