/* Random walks for a token, by a seed: each identity walks with hostile variables, answers, cuts, files, programs,
 * clocks and lack of memory, in virtual time. What it asks and what it leaves behind is looked at in every step. No
 * walk is expected to end in a particular way, but all kinds of ends must come up.
 *   build/gcc/sim/walks [first seed] [last seed] */
#include "../unit/flow.h"

enum { SEEDS = 2000, WALKS = 3, STEP_MAX = 100, PAUSE_MAX = 60000, ANSWER_MAX = 6000, VALUES_MAX = 10 };

#define HEADER_SECRET "HDRSECRETHDRSECRET"
#define ARC_KEY       "ARCKEYARCKEYARCKEY+/=="
#define ASSERTION     "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIn0.c2lnASSERT"
#define THUMBPRINT    "00112233445566778899aabbccddeeff00112233"
#define DEVICE_SECRET "DEVSECRETDEVSECRETDEVSECRETDEVSECRETDEVSECRET"  /* device code and refresh token */
#define PEM           "-----BEGIN CERTIFICATE-----\nMIIB\n"

typedef enum invariant {
    I_SECRET, I_ASSERTION, I_KEY, I_DEVICE, I_PLAIN, I_HEADERS, I_BY_PROXY, I_PIN, I_ROOTS, I_FILE, I_TIMEOUT, I_PAUSE, I_ENDS,
    I_LEFT, I_AGREES, I_WINNER, I_SILENT, I_MEMORY, I_COUNT
} invariant;

static const char *const invariant_names[I_COUNT] = {
    "a secret goes to an authority alone, by TLS", "an assertion goes to authority or token endpoint, by TLS",
    "a platform's key goes to the platform's endpoint", "device code and refresh token go to an authority, by TLS", "without TLS only who is near is asked",
    "no value makes a header", "the proxy is for authorities", "a pin is Service Fabric's",
    "own roots and names are the cluster's", "a file's name stays in its directory",
    "no question outlasts the deadline", "no pause outlasts the deadline", "a walk ends",
    "nothing is left between links and walks", "status, token and error agree",
    "who has won is asked alone, who fails does not win", "no message tells a secret or token",
    "memory is wiped and given back"
};

enum { VARIANTS = sizeof azri_manageds / sizeof azri_manageds[0] };

static struct {
    const azri_identity_kind *who;
    uint64_t seed, dice, trace, until;     /* until: the walk's deadline; UINT64_MAX: it has none */
    int      walk, step, variant;
    int      always;                       /* the only HTTP status that comes, and the walk must end; 0: any comes */
} run;

static azri_device device;                 /* of device-code: what is kept from walk to walk */

/* What came up, of which everything must. */
static uint64_t checked[I_COUNT], asked[AZRI_STEP_DONE + 1], tokens_of[AZRI_SOURCES], tokens_by[VARIANTS];
static uint64_t ends[64], hidden;

#define CHECK(i, x) do { checked[i]++; if (!(x)) broken(invariant_names[i], #x); } while (0)

static void broken(const char *name, const char *text) {
    unsigned long long seed = (unsigned long long)run.seed;
    fail_msg("%s, seed %llu, walk %d, step %d: %s: %s\nagain by: walks %llu", run.who->name, seed, run.walk, run.step,
             name, text, seed);
}

static uint64_t dice(uint64_t n) {
    run.dice = run.dice * 6364136223846793005ull + 1442695040888963407ull;
    return (run.dice >> 33) % n;
}

#define COUNT_OF(a) (sizeof(a) / sizeof (a)[0])
#define ONE_OF(a)   ((a)[dice(COUNT_OF(a))])

static void trace(const void *p, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) run.trace = (run.trace ^ ((const unsigned char *)p)[i]) * 0x100000001b3ull;
}

/* ---- what the world is like ---- */

#define ENDPOINTS { "https://sf.example/x?y=1", "http://127.0.0.1:40342/x", "http://169.254.169.254/msi", \
    "http://[::1]/a", "http://localhost:50342/t", "http://evil.example/", "x", "http://127.0.0.1/a b", \
    "http://127.0.0.1/a\r\nX: evil" }

/* The first value is taken most often. rare: it makes others count for nothing. */
static const struct variable { int name, rare; const char *values[VALUES_MAX]; } variables[] = {
    { AZRI_ENV_TENANT_ID, 1, { TENANT, "a/../b", "t\r\nX: evil" } },
    { AZRI_ENV_CLIENT_ID, 1, { CLIENT, "other" } },
    { AZRI_ENV_CLIENT_SECRET, 1, { SECRET } },
    { AZRI_ENV_AUTHORITY_HOST, 3, { "https://login.microsoftonline.us", "https://evil.example/",
      "https://login.microsoftonline.com.evil.example", "http://login.microsoftonline.com" } },
    { AZRI_ENV_TOKEN_CREDENTIALS, 3, { "prod", "dev", "ManagedIdentityCredential", "dev,prod", "x" } },
    { AZRI_ENV_FEDERATED_TOKEN_FILE, 1, { "/federated" } },
    { AZRI_ENV_TOKEN_PROXY, 1, { "https://10.0.0.9:8443/p", "http://10.0.0.9/", "https://evil.example/?q" } },
    { AZRI_ENV_TOKEN_PROXY_CA_FILE, 1, { "/roots" } },
    { AZRI_ENV_TOKEN_PROXY_CA_DATA, 4, { PEM, "no roots" } },
    { AZRI_ENV_TOKEN_PROXY_SNI, 3, { "sts.cluster.local", "a b" } },
    { AZRI_ENV_POD_AUTHORITY, 1, { "http://10.1.1.1:8080", "http://10.1.1.1:8080/path" } },
    { AZRI_ENV_IDENTITY_ENDPOINT, 2, ENDPOINTS },
    { AZRI_ENV_IDENTITY_HEADER, 1, { HEADER_SECRET, "HDR\r\nX: evil" } },
    { AZRI_ENV_IDENTITY_THUMBPRINT, 1, { THUMBPRINT, "0011" } },
    { AZRI_ENV_IMDS_ENDPOINT, 1, ENDPOINTS },
    { AZRI_ENV_MSI_ENDPOINT, 2, ENDPOINTS },
    { AZRI_ENV_MSI_SECRET, 1, { HEADER_SECRET, "HDR\nX: evil" } },
    { AZRI_ENV_ML_CLIENT_ID, 2, { CLIENT, "c\r\nX: evil" } },
    { AZRI_ENV_HTTPS_PROXY, 1, { "http://u:" HEADER_SECRET "@p:1" } }
};

/* Few at one time, nearly all at another. */
static void choose_variables(void) {
    uint64_t one_in = 1 + dice(8);
    size_t i, n;
    azri_env_free(&env, &mem);
    for (i = 0; i < COUNT_OF(variables); i++) {
        const struct variable *v = &variables[i];
        for (n = 0; n < VALUES_MAX && v->values[n]; n++) {}
        if (dice(one_in * (uint64_t)v->rare) == 0) set_env(v->name, v->values[dice(3) ? 0 : dice(n)]);
    }
    env.arc_agent = dice(4) == 0;
}

static azredis_status not_called(void *user, const char *scope, azredis_fetched *out) {
    (void)user;
    (void)scope;
    (void)out;
    return AZREDIS_E_STATE;
}

/* All are valid: what options refuse is test_config's. */
static void choose_options(void) {
    unsigned needs = run.who->needs;
    int by_app = run.who->id == AZREDIS_ID_MANAGED_APP, app = run.who->id == AZREDIS_ID_WORKLOAD && dice(2);
    opt.identity = (azredis_identity)run.who->id;
    if (app || (needs & AZRI_NEED_TENANT)) opt.tenant_id = TENANT;
    if (app || (needs & AZRI_NEED_CLIENT)) opt.client_id = CLIENT;
    if (needs & AZRI_NEED_SECRET) opt.client_secret = SECRET;
    if (needs & AZRI_NEED_ASSERTION) opt.get_assertion = not_called;
    if (needs & AZRI_NEED_CALLBACK) opt.get_token = not_called;
    if (run.who->id == AZREDIS_ID_CLIENT_CERTIFICATE) {
        opt.certificate_file = "/certificate";
        if (dice(2)) opt.key_file = "/key";
        opt.send_chain = (int)dice(2);
    }
    if (needs & AZRI_NEED_TOKEN_FILE) opt.token_file = "/token";
    if (needs & AZRI_NEED_EXEC) opt.exec = "/program";
    if (run.who->id == AZREDIS_ID_DEVICE_CODE && dice(2)) opt.load_refresh = not_called;
    if (run.who->id == AZREDIS_ID_WORKLOAD) opt.kubernetes_proxy = (int)dice(2);
    if (by_app && dice(2)) opt.managed_client_id = CLIENT;
    else if (by_app || (run.who->id == AZREDIS_ID_MANAGED && dice(4) == 0)) opt.object_id = OID;
    if (dice(2)) opt.user = "u";
    if (dice(2)) opt.proxy = "http://u:p@proxy:3128";
    if (dice(4) == 0) opt.request_ms = AZREDIS_NEVER;
    if (dice(2)) opt.chain_ms = dice(5) ? 1 + (uint32_t)dice(40000) : AZREDIS_NEVER;
}

/* ---- what is asked: one function for each invariant ---- */

static int asks_with(const char *what) { return holds(step.request.ptr, step.request.len, what); }

static int stands_in(int name) { return env.value[name] && strstr(env.value[name], step.url.host); }

static int to(const char *host) { return strcmp(step.url.host, host) == 0; }

static int to_authority(void) { return to("login.microsoftonline.com") || to("login.microsoftonline.us"); }

static int to_token_endpoint(void) { return conf.kubernetes_proxy && stands_in(AZRI_ENV_TOKEN_PROXY); }

static void check_secret(void) {
    if (asks_with("abc~8Q")) CHECK(I_SECRET, to_authority() && step.url.tls);
}

/* A managed identity's token may be one. No token is sent for any other purpose. */
static void check_assertion(void) {
    if (asks_with("eyJvaWQiOiJv") || asks_with("eyJhdWQiOiJodHRwczovL3JlZGlz"))
        CHECK(I_ASSERTION, (to_authority() || to_token_endpoint()) && step.url.tls);
}

static void check_key(void) {
    if (asks_with("HDRSECRET")) CHECK(I_KEY, stands_in(AZRI_ENV_IDENTITY_ENDPOINT) || stands_in(AZRI_ENV_MSI_ENDPOINT));
    if (asks_with("ARCKEY")) CHECK(I_KEY, stands_in(AZRI_ENV_IDENTITY_ENDPOINT) || to("127.0.0.1"));
}

static void check_device(void) {
    if (asks_with("DEVSECRET")) CHECK(I_DEVICE, to_authority() && step.url.tls);
}

static void check_plain(void) {
    static const char *const near[] = { "127.0.0.1", "169.254.169.254", "::1", "localhost", "10.1.1.1" };
    size_t i;
    if (step.url.tls) return;
    for (i = 0; i < COUNT_OF(near) && !to(near[i]); i++) {}
    CHECK(I_PLAIN, i < COUNT_OF(near));
}

static void check_headers(void) {
    size_t i;
    CHECK(I_HEADERS, !asks_with("\nX: evil") && !asks_with("a b HTTP"));
    for (i = 0; i < step.request.len; i++)
        if (step.request.ptr[i] == '\n') CHECK(I_HEADERS, i > 0 && step.request.ptr[i - 1] == '\r');
}

static void check_by_proxy(void) { CHECK(I_BY_PROXY, step.by_proxy == to_authority()); }

static void check_pin(void) {
    if (step.pin)
        CHECK(I_PIN, strcmp(step.pin, THUMBPRINT) == 0 && stands_in(AZRI_ENV_IDENTITY_ENDPOINT) && step.url.tls);
}

static void check_roots(void) {
    if (step.ca.len || step.name) CHECK(I_ROOTS, to_token_endpoint());
}

static void check_file(void) {
    if (step.directory) CHECK(I_FILE, strcmp(step.directory, AZRI_ARC_DIRECTORY) == 0 && !strchr(step.file, '/') &&
                              step.file[0] != '.');
}

static void check_timeout(void) { CHECK(I_TIMEOUT, now < run.until && step.timeout_ms <= run.until - now); }

static void check_pause(void) {
    if (device.code) run.until = device.expires_at;         /* a walk that waits for a person */
    CHECK(I_PAUSE, step.wait_ms <= PAUSE_MAX && step.wait_ms < run.until - now);
}

/* ---- what is answered ---- */

/* A careless server says again what it was told; NULL: nothing of ours. */
static const char *told_again(void) {
    static const struct { const char *part, *whole; } ours[] = {
        { "abc~8Q", "abc~8Q+/=&%# \\\"'" }, { "HDRSECRET", HEADER_SECRET }, { "ARCKEY", ARC_KEY },
        { "c2lnASSERT", ASSERTION }, { "DEVSECRET", DEVICE_SECRET }
    };
    size_t i;
    for (i = 0; i < COUNT_OF(ours) && !asks_with(ours[i].part); i++) {}
    return i < COUNT_OF(ours) ? ours[i].whole : NULL;
}

static const char *body(void) {
    static const char *const refusals[] = {
        "", "<html>", "{\"a\":1", "{}", "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}",
        "{\"error\":{\"code\":\"ManagedIdentityNotFound\",\"message\":\"m\"}}",
        "{\"statusCode\":500,\"message\":\"x\"}", "{\"error\":\"invalid_client\",\"error_codes\":[700024]}",
        "{\"error\":\"temporarily_unavailable\"}", "{\"error\":\"authorization_pending\"}", "{\"error\":\"slow_down\"}",
        "{\"error\":\"invalid_grant\"}", "{\"error\":\"expired_token\"}"
    };
    static const char *const tokens[] = { day_token, exp_token, bare_token, graph_token, "no token", "" };
    static const char *const members[] = {
        "", "\"expires_in\":3600,", "\"expires_in\":\"0\",", "\"expires_on\":\"1800086400\",",
        "\"expires_on\":1800000001,", "\"client_id\":\"" CLIENT "\",",
        "\"object_id\":\"" OID "\",\"expires_in\":60,", "\"token_type\":\"mac\",",
        "\"refresh_token\":\"" DEVICE_SECRET "\",", "\"user_code\":\"A\",\"verification_uri\":\"https://a/\",\"expires_in\":60,"
        "\"device_code\":\"" DEVICE_SECRET "\","
    };
    static char text[ANSWER_MAX];
    const char *again = told_again();
    if (again && dice(4) == 0)
        (void)snprintf(text, sizeof text, dice(2) ? "{\"error\":\"e\",\"error_description\":\"%s\"}" : "not %s", again);
    else if (dice(3) == 0)
        (void)snprintf(text, sizeof text, "%s", ONE_OF(refusals));
    else
        (void)snprintf(text, sizeof text, "{%s%s\"access_token\":\"%s\"}", ONE_OF(members), ONE_OF(members),
                       dice(2) ? exp_token : ONE_OF(tokens));
    return text;
}

static azredis_error trouble(azredis_status st) {
    azredis_error e;
    memset(&e, 0, sizeof e);
    (void)azri_fail(&e, st, "world", "some trouble with %s", step.url.host);
    return e;
}

#define CHALLENGE "WWW-Authenticate: Basic realm=" AZRI_ARC_DIRECTORY

static void tell_http(unsigned mood) {
    static const azredis_status troubles[] = {
        AZREDIS_E_DNS, AZREDIS_E_NET, AZREDIS_E_TLS, AZREDIS_E_TIMEOUT, AZREDIS_E_CLOSED, AZREDIS_E_CERT,
        AZREDIS_E_HTTP, AZREDIS_E_LIMIT, AZREDIS_E_NOMEM
    };
    static const int codes[] = { 200, 201, 204, 302, 304, 400, 401, 403, 404, 408, 410, 429, 500, 502, 503 };
    static const char *const headers[] = {
        "", CHALLENGE "/a.key\r\n", CHALLENGE "/../x.key\r\n", CHALLENGE "/a.key\r\nWWW-Authenticate: Basic\r\n",
        "Retry-After: 3\r\n", "Retry-After: 90\r\n", "Location: https://evil.example/\r\n"
    };
    char text[ANSWER_MAX + 100];
    int arc = flow.variant == AZRI_MI_ARC && flow.stage == AZRI_MI_ASK && !to_authority();
    run.variant = to_authority() ? run.variant : flow.variant;
    if (run.always) {
        answer(run.always, "", "{\"error\":\"temporarily_unavailable\"}");
    } else if (mood < 3) {
        azredis_error e = trouble(ONE_OF(troubles));
        azri_step_free(&step);
        azri_flow_http(&flow, now, e.code, NULL, &e);
    } else if (mood == 3) {
        int n = snprintf(text, sizeof text, "HTTP/1.1 200 X\r\n\r\n%s", body());
        raw_answer(text, (size_t)dice((uint64_t)n + 1), 0);
    } else if (arc && dice(4)) answer(401, CHALLENGE "/a.key\r\n", body());
    else answer(dice(2) ? 200 : ONE_OF(codes), dice(2) ? "" : ONE_OF(headers), body());
}

static void tell_file(unsigned mood) {
    static const char *const keys[] = { ARC_KEY, ARC_KEY "\r\n", ARC_KEY "\r\nX: evil", "" };
    static const char *const roots[] = { PEM, PEM, PEM, "", "no roots" };
    static const char *const assertions[] = { ASSERTION, ASSERTION, ASSERTION "\r\n", "no assertion", "" };
    const char *text = step.directory ? ONE_OF(keys) : strcmp(step.file, "/roots") == 0 ? ONE_OF(roots) :
                       run.who->id != AZREDIS_ID_TOKEN_FILE ? ONE_OF(assertions) : dice(2) ? exp_token : body();
    azredis_error e = trouble(AZREDIS_E_NO_CREDENTIAL);
    if (mood < 3) azri_flow_text(&flow, now, e.code, azri_slice(NULL, 0), &e);
    else azri_flow_text(&flow, now, AZREDIS_OK, azri_str(text), NULL);
}

/* A script with set -x prints the secret that it inherits. */
static void tell_program(unsigned mood) {
    azredis_str said = azri_str(env.value[AZRI_ENV_CLIENT_SECRET] ? "+ login '" SECRET "'\n" : "error: no luck\n");
    azredis_error e = trouble(AZREDIS_E_TIMEOUT);
    int code = mood < 6 ? 1 : mood < 8 ? AZRI_EXIT_UNKNOWN : mood < 10 ? -9 : 0;
    char text[ANSWER_MAX + 100];
    (void)snprintf(text, sizeof text, "%s%s", strcmp(step.where, "azure-powershell") == 0 && dice(8) ? AZRI_TOOL_MARK : "", body());
    if (mood < 3) azri_flow_ran(&flow, now, e.code, azri_slice(NULL, 0), said, 0, &e);
    else azri_flow_ran(&flow, now, AZREDIS_OK, azri_str(text), said, code, NULL);
}

static void tell_call(unsigned mood) {
    char room[100];
    const char *text = mood == 6 ? "bad" : run.who->id == AZREDIS_ID_CALLBACK ? exp_token :
                       run.who->id == AZREDIS_ID_DEVICE_CODE ? DEVICE_SECRET : ASSERTION;
    azredis_fetched got;
    memset(&got, 0, sizeof got);
    (void)snprintf(room, sizeof room, "%s", text);
    got.token = room;
    got.cap = sizeof room;
    got.len = mood == 4 ? sizeof room + 1 : mood == 5 ? 0 : strlen(room);
    got.expires_in = dice(2) ? 3600 : 0;
    azri_flow_call(&flow, now, mood < 3 ? AZREDIS_E_NET : AZREDIS_OK, &got);
}

static void tell_signature(unsigned mood) {
    static const char chain[] = "\0\0\0\4CERT", print[32] = "print", signature[256] = "signature";
    azredis_status st = mood < 3 ? AZREDIS_E_CERT : AZREDIS_OK;
    if (st == AZREDIS_OK)
        st = azri_certificate_write(&flow, &step, azri_slice(chain, 8), azri_slice(print, step.rs256 ? 20 : 32));
    else (void)azri_fail(&flow.error, st, "certificate", "certificate: cannot be parsed");
    azri_flow_text(&flow, now, st, azri_slice(signature, st == AZREDIS_OK ? sizeof signature : 0), &flow.error);
}

/* ---- what is left ---- */

static void check_left(void) {
    CHECK(I_LEFT, !flow.proof.len && !flow.roots.len && !flow.stage && !flow.met && !flow.renewed);
    CHECK(I_LEFT, !flow.tries[0] && !flow.tries[1] && !flow.tenant && !flow.client && !flow.secret && !flow.wanted);
    CHECK(I_LEFT, !flow.header && !flow.exchange && !flow.value && !flow.resource);
    CHECK(I_LEFT, !flow.token.len || (flow.phase == AZRI_FLOW_DONE && flow.status == AZREDIS_OK));
}

static void check_agrees(void) {
    if (flow.status == AZREDIS_OK)
        CHECK(I_AGREES, flow.token.len && flow.life_ms && flow.user[0] && flow.pin && !flow.error.code);
    else
        CHECK(I_AGREES, flow.status < 0 && flow.error.code == flow.status && flow.error.message[0]);
}

static void check_winner(int before) {
    if (before) CHECK(I_WINNER, flow.pin == before && flow.record_count == 1);
    else if (flow.status != AZREDIS_OK) CHECK(I_WINNER, !flow.pin);
}

/* Nor a token of the two that are longer than AZRI_RUN_MAX, as all real ones are. */
static int says(const void *p, size_t n) {
    return tells(p, n) || holds(p, n, "eyJvaWQiOiJvIiwiZXhw") || holds(p, n, "eyJhdWQiOiJodHRwczovL3JlZGlz");
}

static void check_silent(void) {
    CHECK(I_SILENT, !says(&flow.error, sizeof flow.error) && !says(flow.records, sizeof flow.records));
    hidden += strstr(flow.error.message, "[hidden]") != NULL;
}

static void check_memory(void) { CHECK(I_MEMORY, living == 0 && leaked == 0); }

/* ---- a walk ---- */

static void ask_http(unsigned mood) {
    static void (*const checks[])(void) = {
        check_secret, check_assertion, check_key, check_device, check_plain, check_headers, check_by_proxy, check_pin, check_roots
    };
    size_t i;
    for (i = 0; i < COUNT_OF(checks); i++) checks[i]();
    trace(step.request.ptr, step.request.len);
    tell_http(mood);
}

static void ask(azri_step_kind kind) {
    unsigned mood = (unsigned)dice(20);                 /* 0: it fails late, 1 and 2: it fails, the others differ */
    check_timeout();
    now += mood ? dice(300) : azri_min64(step.timeout_ms, PAUSE_MAX);
    if (kind == AZRI_STEP_FILE) check_file();
    if (kind == AZRI_STEP_HTTP) ask_http(mood);
    else if (kind == AZRI_STEP_FILE) tell_file(mood);
    else if (kind == AZRI_STEP_EXEC) tell_program(mood);
    else if (kind == AZRI_STEP_SIGN) tell_signature(mood);
    else tell_call(mood);
    if (flow.phase == AZRI_FLOW_LINK) check_left();
}

static void end(int pin_before) {
    check_left();
    check_agrees();
    check_winner(pin_before);
    check_silent();
    trace(flow.error.message, strlen(flow.error.message));
    assert_true(flow.status > -(int)COUNT_OF(ends));
    ends[-flow.status]++;
    if (flow.status != AZREDIS_OK) return;
    tokens_of[flow.pin - 1]++;
    if (run.variant >= 0 && strstr(flow.used, "managed-identity")) tokens_by[run.variant]++;
}

static void walk(void) {
    azri_step_kind kind;
    int pin;
    if (dice(4) == 0) flow.pin = 0;                     /* as a client that is made anew */
    if (dice(2)) choose_variables();
    pin = flow.pin;
    run.until = conf.chain_ms == AZREDIS_NEVER ? UINT64_MAX : now + conf.chain_ms;
    run.variant = -1;
    device.news = device.changed = device.dead = 0;
    if (device.code && (now >= device.expires_at || dice(2))) azri_device_drop(&device, &mem);
    if (device.code) {                                  /* it takes over from a walk that had not ended */
        device.poll_at = now + dice(azri_min64(device.expires_at - now, PAUSE_MAX));
        run.until = device.expires_at;
    }
    run.always = dice(8) ? 0 : dice(2) ? 503 : 410;
    allow = dice(3) ? -1 : (int)dice(60);
    azri_flow_start(&flow, &env, now);
    for (run.step = 0; (kind = next()) != AZRI_STEP_DONE; run.step++) {
        CHECK(I_ENDS, run.step < STEP_MAX);
        asked[kind]++;
        trace(&kind, sizeof kind);
        if (kind == AZRI_STEP_WAIT) {
            check_pause();
            now += step.wait_ms;
        } else ask(kind);
    }
    asked[kind]++;
    allow = -1;
    end(pin);
}

static uint64_t play(const azri_identity_kind *who, uint64_t seed) {
    (void)setup(NULL);
    memset(&step, 0, sizeof step);
    memset(&run, 0, sizeof run);
    run.who = who;
    run.seed = seed;
    run.dice = (seed * 100 + (uint64_t)who->id) * 0x9e3779b97f4a7c15ull;
    choose_options();
    choose_variables();
    if (azri_identity_conf_copy(&conf, &mem, &opt, &err) != AZREDIS_OK) broken("options are valid", err.message);
    azri_flow_init(&flow, &mem, &conf, &rng);
    memset(&device, 0, sizeof device);
    flow.device = &device;
    for (run.walk = 0; run.walk < WALKS; run.walk++) {
        walk();
        now += 1000;
    }
    azri_step_free(&step);
    azri_flow_free(&flow);
    azri_device_clear(&device, &mem);
    azri_env_free(&env, &mem);
    azri_identity_conf_free(&conf, &mem);
    check_memory();
    return run.trace;
}

static uint64_t first_seed = 1, last_seed = SEEDS;

/* The first seed twice, which must be the same walks. */
static void seeds_hold_all_invariants(void **state) {
    const azri_identity_kind *who = (const azri_identity_kind *)*state;
    uint64_t seed, first = play(who, first_seed);
    for (seed = first_seed; seed <= last_seed; seed++)
        if (play(who, seed) != first && seed == first_seed) broken("the same seed makes the same walks", "trace");
}

static void came_up(uint64_t n, const char *kind, const char *name) {
    print_message("%9llu %s: %s\n", (unsigned long long)n, kind, name);
    if (n == 0) fail_msg("never came up: %s: %s", kind, name);
}

static void all_of_it_came_up(void **state) {
    static const char *const kinds[] = { "HTTP", "file", "program", "callback", "signature", "pause", "end" };
    static const azredis_status some[] = {
        AZREDIS_OK, AZREDIS_E_ARG, AZREDIS_E_NOMEM, AZREDIS_E_LIMIT, AZREDIS_E_DNS, AZREDIS_E_NET, AZREDIS_E_TIMEOUT,
        AZREDIS_E_CLOSED, AZREDIS_E_TLS, AZREDIS_E_CERT, AZREDIS_E_HTTP, AZREDIS_E_JSON, AZREDIS_E_ENTRA,
        AZREDIS_E_NO_CREDENTIAL, AZREDIS_E_TOKEN
    };
    size_t i;
    (void)state;
    if (last_seed - first_seed + 1 < SEEDS) skip();     /* a few seeds need not meet all */
    for (i = 0; i < I_COUNT; i++) came_up(checked[i], "checked", invariant_names[i]);
    for (i = 0; i < COUNT_OF(asked); i++) came_up(asked[i], "step", kinds[i]);
    for (i = 0; i < AZRI_SOURCES; i++)
        if (azri_sources[i].ask) came_up(tokens_of[i], "token of", azri_sources[i].name);
    for (i = 0; i < VARIANTS; i++) came_up(tokens_by[i], "token by", azri_manageds[i].name);
    for (i = 0; i < COUNT_OF(some); i++) came_up(ends[-some[i]], "end", azredis_status_text(some[i]));
    came_up(hidden, "message", "with a secret hidden");
}

/* A case for each identity that needs a token: one that is new to the table is walked as well. */
int main(int argc, char **argv) {
    static struct CMUnitTest tests[COUNT_OF(azri_identity_kinds) + 1];
    size_t i, n = 0;
    also_secret[0] = "HDRSECRETHDR";
    also_secret[1] = "ARCKEYARCKEY";
    also_secret[2] = "c2lnASSERT";
    also_secret[3] = "DEVSECRETDEV";
    for (i = 0; i < COUNT_OF(azri_identity_kinds); i++) {
        const azri_identity_kind *k = &azri_identity_kinds[i];
        if (k->needs & AZRI_NEED_PASSWORD) continue;
        tests[n].name = k->name;
        tests[n].test_func = seeds_hold_all_invariants;
        tests[n++].initial_state = (void *)(uintptr_t)k;
    }
    tests[n].name = "all_of_it_came_up";
    tests[n++].test_func = all_of_it_came_up;
    if (argc > 1) first_seed = last_seed = strtoull(argv[1], NULL, 10);
    if (argc > 2) last_seed = strtoull(argv[2], NULL, 10);
    return _cmocka_run_group_tests("walks", tests, n, NULL, NULL);
}
