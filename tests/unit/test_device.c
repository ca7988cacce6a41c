/* Sign-in by device code: this test plays the authority, the person, the program that keeps the refresh token, and the
 * token machine, in virtual time. Vectors: row 21 of c.7 and the body devicecode of c.6. */
#include "flow.h"

#define CODE    "GMMhmHCXhWEzkobqIHGG_EnNYYsAkukHspeYUk9E8"
#define REFRESH "0.AXEAorMqHPw-REFRESHTOKENONE"
#define SECOND  "0.AXEAorMqHPw-REFRESHTOKENTWO"
#define MESSAGE "To sign in, use a web browser to open the page https://microsoft.com/devicelogin and enter the code " \
                "ABCD1234 to authenticate."
#define BODY(life, interval) "{\"user_code\":\"ABCD1234\",\"device_code\":\"" CODE "\",\"verification_uri\":" \
                "\"https://microsoft.com/devicelogin\",\"expires_in\":" life interval ",\"message\":\"" MESSAGE "\"}"
#define SCOPE   "&scope=https%3A%2F%2Fredis.azure.com%2F.default%20offline_access"
#define CLI     "04b07795-8ddb-461a-bbee-02f9e1bf7b46"

static azri_device dev;
static const char *kept;                      /* by the program; NULL: nothing */
static char reason[40];

static int start(void **state) {
    (void)setup(state);
    memset(&dev, 0, sizeof dev);
    also_secret[0] = "EnNYYsAkuk";
    also_secret[1] = "REFRESHTOKEN";
    kept = NULL;
    reason[0] = '\0';
    opt.identity = AZREDIS_ID_DEVICE_CODE;
    return 0;
}

static void go(void) {
    begin();
    flow.device = &dev;
}

/* Another walk of the same auth. */
static void again(void) {
    azri_flow_start(&flow, &env, now);
    dev.news = dev.changed = dev.dead = 0;
}

static void over(void) {
    azri_device_clear(&dev, &mem);
    finish();
}

static void post(const char *path, const char *form) {
    char first[200];
    assert_int_equal(next(), AZRI_STEP_HTTP);
    (void)snprintf(first, sizeof first, "POST /%s HTTP/1.1\r\n", path);
    assert_memory_equal(step.request.ptr, first, strlen(first));
    assert_true(step.by_proxy && step.url.tls && !step.pin);
    assert_true(step.request.len > strlen(form));
    assert_memory_equal(step.request.ptr + step.request.len - strlen(form), form, strlen(form));
    assert_memory_equal(step.request.ptr + step.request.len - strlen(form) - 4, "\r\n\r\n", 4);
}

static void expect_code_request(void) {
    post("organizations/oauth2/v2.0/devicecode", "client_id=" CLI SCOPE);
}

static void expect_poll(void) {
    post("organizations/oauth2/v2.0/token", "client_id=" CLI "&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3A"
         "device_code&device_code=" CODE);
}

static void expect_refresh(const char *token) {
    char form[300];
    (void)snprintf(form, sizeof form, "client_id=" CLI "&grant_type=refresh_token&refresh_token=%s%s", token, SCOPE);
    post("organizations/oauth2/v2.0/token", form);
}

static void expect_pause(unsigned ms) {
    assert_int_equal(next(), AZRI_STEP_WAIT);
    assert_int_equal(step.wait_ms, ms);
    now += ms;
}

static void say(const char *error) {
    char text[300];
    (void)snprintf(text, sizeof text, "{\"error\":\"%s\",\"error_description\":\"AADSTS70016: \\r\\nx " CODE "\"}", error);
    answer(400, "", text);
}

static void cannot(azredis_status st) {
    azredis_error e;
    memset(&e, 0, sizeof e);
    (void)azri_fail(&e, st, "device-code", "no answer");
    azri_step_free(&step);
    azri_flow_http(&flow, now, st, NULL, &e);
}

static void expect_token(void) {
    assert_int_equal(next(), AZRI_STEP_DONE);
    if (flow.status != AZREDIS_OK) fail_msg("%s", flow.error.message);
    assert_string_equal(flow.user, "o");
    assert_string_equal(flow.used, "device-code");
}

static void give(const char *refresh) {
    char members[200];
    (void)snprintf(members, sizeof members, "\"expires_in\":3599,\"scope\":\"x\",\"refresh_token\":\"%s\"", refresh);
    answer_token(bare_token, members);
}

/* Until the code is out and its first interval over. */
static void get_code(void) {
    go();
    expect_code_request();
    answer(200, "", BODY("900", ",\"interval\":5"));
    assert_int_equal(dev.news, 1);
    expect_pause(5000);
}

static azredis_status load(void *user, const char *scope, azredis_fetched *out) {
    (void)user;
    (void)scope;
    (void)out;
    return AZREDIS_E_STATE;                   /* never called: these tests are the pump */
}

static void expect_load_answer(azredis_status st) {
    azredis_fetched got;
    char room[100];
    memset(&got, 0, sizeof got);
    (void)snprintf(room, sizeof room, "%s", kept ? kept : "");
    (void)snprintf(got.reason, sizeof got.reason, "%s", reason);
    got.token = room;
    got.cap = sizeof room;
    got.len = strlen(room);
    azri_flow_call(&flow, now, st, &got);
}

static void expect_load(azredis_status st) {
    assert_int_equal(next(), AZRI_STEP_CALL);
    assert_ptr_equal(step.call, load);
    assert_ptr_equal(step.call_user, &kept);
    assert_null(step.scope);
    expect_load_answer(st);
}

static void keeps(void) {
    opt.load_refresh = load;
    opt.refresh_user = &kept;
}

/* ---- the code ---- */

/* c.7, row 21. */
static void test_waits(void **state) {
    (void)state;
    get_code();
    expect_poll();
    say("authorization_pending");
    expect_pause(5000);
    expect_poll();
    say("slow_down");
    expect_pause(10000);
    expect_poll();
    say("authorization_pending");
    expect_pause(10000);
    expect_poll();
    give(REFRESH);
    expect_token();
    assert_string_equal(dev.refresh, REFRESH);
    assert_int_equal(dev.changed, 1);
    assert_null(dev.next);
    assert_string_equal(flow.hint, "");
    over();
}

/* The body devicecode of c.6. */
static void test_prompt(void **state) {
    const char *page = dev.prompt + 9;
    (void)state;
    get_code();
    assert_string_equal(dev.prompt, "ABCD1234");
    assert_string_equal(page, "https://microsoft.com/devicelogin");
    assert_string_equal(page + strlen(page) + 1, MESSAGE);
    assert_int_equal(dev.expires_at, 1000 + 900000);
    over();
}

/* A sentence that is not plain, or too long, is replaced; a code or page that is not plain is refused. */
static void test_prompt_is_plain(void **state) {
    static const char *const bad[] = { "\\u001b[2J", "\\u0000", "zwei W\\u00f6rter", "" };
    static const char *const worse[] = { "AB CD", "A\\u001b[0m", "", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF" };
    char text[1200], much[300];
    size_t i;
    (void)state;
    memset(much, 'x', sizeof much);
    much[sizeof much - 1] = '\0';
    for (i = 0; i < 5; i++) {
        go();
        expect_code_request();
        (void)snprintf(text, sizeof text, "{\"message\":\"%s\",\"user_code\":\"WXYZ\",\"device_code\":\"" CODE "\",\"expires_in\":"
                       "\"60\",\"verification_uri\":\"https://a/b\"}", i < 4 ? bad[i] : much);
        answer(200, "", text);
        assert_string_equal(dev.prompt + 5 + 12, "To sign in, enter the code WXYZ at https://a/b");
        expect_pause(5000);                   /* RFC 8628 3.2: the default */
        over();
        (void)start(NULL);
    }
    for (i = 0; i < 8; i++) {
        go();
        expect_code_request();
        (void)snprintf(text, sizeof text, "{\"user_code\":\"%s\",\"device_code\":\"" CODE "\",\"expires_in\":60,"
                       "\"verification_uri\":\"%s\"}", i < 4 ? worse[i] : "A", i < 4 ? "https://a/" : i < 7 ? worse[i - 4] : much);
        answer(200, "", text);
        expect_failed(AZREDIS_E_JSON, "lacks a usable");
        assert_int_equal(dev.news, 0);
        over();
        (void)start(NULL);
    }
}

static void test_options(void **state) {
    static const azri_shape shape;
    azri_mem arena = mem;
    (void)state;
    opt.client_id = CLIENT;
    opt.tenant_id = "contoso.com";
    opt.scope = "https://redis.azure.com";
    go();
    post("contoso.com/oauth2/v2.0/devicecode", "client_id=" CLIENT SCOPE);
    assert_string_equal(step.url.host, "login.microsoftonline.com");
    assert_string_equal(step.where, "device-code");
    over();
    opt.tenant_id = "a/b";
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_E_ARG);
    opt.tenant_id = NULL;
    arena.shape = &shape;
    assert_int_equal(azri_identity_conf_copy(&conf, &arena, &opt, &err), AZREDIS_E_ARG);
    assert_non_null(strstr(err.message, "options.memory has no room"));
    assert_string_equal(azredis_event_name(AZREDIS_EV_DEVICE_CODE), "DeviceCode");
    assert_string_equal(azredis_event_name((azredis_event_type)(AZREDIS_EV_DEVICE_CODE + 1)), "?");
}

/* Each error ends it at once, by the right words. By HTTP 200 an error is one all the same. */
static void test_no_code(void **state) {
    (void)state;
    go();
    expect_code_request();
    answer(200, "", "{\"error\":\"unauthorized_client\",\"error_description\":\"AADSTS700016: x\"}");
    expect_failed(AZREDIS_E_ENTRA, "does not exist in this tenant");
    assert_false(flow.error.retryable);
    assert_int_equal(flow.error.aadsts, 700016);
    over();
    (void)start(NULL);
    go();
    expect_code_request();
    answer(401, "", "{\"error\":\"invalid_client\",\"error_codes\":[7000218]}");
    expect_failed(AZREDIS_E_ENTRA, "public client flows");
    over();
    (void)start(NULL);
    go();
    expect_code_request();
    answer(200, "", "<html>");
    expect_failed(AZREDIS_E_JSON, "captive portal");
    assert_int_equal(dev.news, 0);
    over();
}

/* As of every identity: a passing trouble is tried again, three times, and then by the token machine. */
static void test_code_retries(void **state) {
    int i;
    (void)state;
    go();
    for (i = 0; i < 4; i++) {
        expect_code_request();
        if (i % 2) cannot(AZREDIS_E_NET);
        else answer(503, "", "");
        if (i == 3) break;
        assert_int_equal(next(), AZRI_STEP_WAIT);
        now += step.wait_ms;
    }
    expect_failed(AZREDIS_E_NET, "(try 4)");
    assert_true(flow.error.retryable);
    over();
}

/* The body cut at every byte is no code. */
static void test_code_cut(void **state) {
    static const char whole[] = BODY("900", ",\"interval\":5");
    char text[500];
    size_t i, n = (size_t)snprintf(text, sizeof text, "HTTP/1.1 200 X\r\nContent-Length: %zu\r\n\r\n%s", strlen(whole), whole);
    (void)state;
    assert_true(n < sizeof text);
    for (i = 0; i <= n; i++) {
        go();
        expect_code_request();
        raw_answer(text, i, 0);
        assert_int_equal(dev.news, i == n);
        over();
        (void)start(NULL);
    }
}

/* ---- how it ends ---- */

static void test_ends(void **state) {
    static const struct { const char *error, *text; } ends[] = {
        { "authorization_declined", "declined to sign in" }, { "access_denied", "declined to sign in" },
        { "bad_verification_code", "bad_verification_code" }, { "expired_token", "expired_token" },
        { "invalid_client", "invalid_client" }
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        get_code();
        expect_poll();
        say(ends[i].error);
        expect_failed(AZREDIS_E_ENTRA, ends[i].text);
        assert_false(flow.error.retryable);
        assert_int_equal(flow.error.http_status, 400);
        over();
        (void)start(NULL);
    }
    get_code();
    expect_poll();
    answer(400, "", "{\"error\":\"expired_token\",\"error_codes\":[70020]}");
    expect_failed(AZREDIS_E_ENTRA, "the device code has expired; start again");
    over();
}

/* Polls for as long as the code lives, whatever comes between. */
static void test_keeps_polling(void **state) {
    static const azredis_status troubles[] = { AZREDIS_E_NET, AZREDIS_E_DNS, AZREDIS_E_TLS, AZREDIS_E_CLOSED, AZREDIS_E_CERT };
    size_t i;
    (void)state;
    get_code();
    for (i = 0; i < 5; i++) {
        expect_poll();
        cannot(troubles[i]);
        expect_pause(5000);
    }
    expect_poll();
    answer(500, "", "");
    expect_pause(5000);
    expect_poll();
    answer(200, "", "<html>portal</html>");
    expect_pause(5000);
    expect_poll();
    answer(503, "Retry-After: 20\r\n", "{\"error\":\"temporarily_unavailable\"}");
    expect_pause(20000);
    expect_poll();
    answer(429, "Retry-After: 7200\r\n", "");
    expect_pause(60000);
    expect_poll();
    cannot(AZREDIS_E_TIMEOUT);                /* RFC 8628 3.5: less often from now on */
    expect_pause(10000);
    expect_poll();
    give(REFRESH);
    expect_token();
    over();
}

static void test_timeouts_stretch(void **state) {
    unsigned wait = 5000;
    int i;
    (void)state;
    get_code();
    for (i = 0; i < 6; i++) {
        wait = wait < 30000 ? 2 * wait : 60000;
        expect_poll();
        cannot(AZREDIS_E_TIMEOUT);
        expect_pause(wait);
    }
    over();
}

static void test_nobody_came(void **state) {
    int polls = 0;
    (void)state;
    get_code();
    while (next() != AZRI_STEP_DONE) {
        if (step.kind == AZRI_STEP_WAIT) {
            assert_int_equal(step.wait_ms, 5000);
            now += step.wait_ms;
            continue;
        }
        polls++;
        say("authorization_pending");
    }
    assert_int_equal(polls, 179);
    assert_int_equal(now, 1000 + 895000);
    expect_failed(AZREDIS_E_TIMEOUT, "device-code: nobody signed in");
    assert_false(flow.error.retryable);
    over();
}

/* The last trouble is told; a pump that slept says the same as one that did not. */
static void test_expired_in_trouble(void **state) {
    (void)state;
    go();
    expect_code_request();
    answer(200, "", BODY("12", ",\"interval\":5"));
    expect_pause(5000);
    expect_poll();
    cannot(AZREDIS_E_NET);
    expect_pause(5000);
    expect_poll();
    cannot(AZREDIS_E_DNS);
    expect_failed(AZREDIS_E_DNS, "no answer; the device code has expired meanwhile");
    assert_false(flow.error.retryable);
    over();
    (void)start(NULL);
    get_code();
    now += 3600000;
    expect_failed(AZREDIS_E_TIMEOUT, "nobody signed in");
    assert_false(flow.error.retryable);
    over();
}

/* No answer outlasts the code, and a code for ever is one for an hour. */
static void test_limits(void **state) {
    (void)state;
    go();
    expect_code_request();
    answer(200, "", BODY("99999999999", ",\"interval\":99999999999"));
    assert_int_equal(dev.expires_at, 1000 + 3600000);
    expect_failed(AZREDIS_E_TIMEOUT, "nobody signed in");
    over();
    (void)start(NULL);
    go();
    expect_code_request();
    answer(200, "", BODY("20", ",\"interval\":\"7\""));
    expect_pause(7000);
    expect_poll();
    assert_int_equal(step.timeout_ms, 13000);
    over();
}

/* A day with nobody there: what the token machine makes of it. */
static void test_nobody_is_shown_many(void **state) {
    azri_token machine;
    uint32_t claim;
    int codes = 0;
    (void)state;
    azri_token_init(&machine, &rng, AZREDIS_POLICY_DEFAULT);
    go();
    while (now < 86400000u) {
        claim = azri_token_claim(&machine, now, 30000);
        if (!claim) {
            now = azri_token_deadline(&machine, now);
            continue;
        }
        while (next() != AZRI_STEP_DONE) {
            if (step.kind == AZRI_STEP_WAIT) {
                azri_token_extend(&machine, now, step.wait_ms + 30000);
                now += step.wait_ms;
                assert_false(azri_token_due(&machine, now));
            } else if (dev.code) say("authorization_pending");
            else {
                codes++;
                answer(200, "", BODY("900", ",\"interval\":5"));
            }
        }
        azri_token_failed(&machine, claim, now, flow.error.retryable, flow.error.retry_after_ms);
        azri_device_drop(&dev, &mem);
        again();
    }
    assert_in_range(codes, 48, 54);
    over();
}

/* ---- the refresh token ---- */

static void test_refresh(void **state) {
    (void)state;
    get_code();
    expect_poll();
    give(REFRESH);
    expect_token();
    azri_device_drop(&dev, &mem);
    again();
    expect_refresh(REFRESH);
    give(SECOND);
    expect_token();
    assert_int_equal(dev.changed, 1);
    again();
    expect_refresh(SECOND);                   /* the last that came, each time */
    answer_token(bare_token, "\"expires_in\":3599");
    expect_token();
    assert_int_equal(dev.changed, 0);
    again();
    expect_refresh(SECOND);                   /* RFC 6749 6: an answer need not have one */
    give(REFRESH);
    expect_token();
    assert_string_equal(dev.refresh, REFRESH);
    over();
}

static void test_no_refresh_token(void **state) {
    (void)state;
    get_code();
    expect_poll();
    answer_token(bare_token, "\"expires_in\":3599");
    expect_token();
    assert_non_null(strstr(flow.hint, "no refresh token"));
    over();
}

static void refuse_refresh(int status, const char *body) {
    dev.refresh = azri_strdup(&mem, REFRESH);
    go();
    expect_refresh(REFRESH);
    answer(status, "", body);
}

/* Dead by Entra's word: the same walk asks for a code, and says why. */
static void test_dead(void **state) {
    (void)state;
    refuse_refresh(400, "{\"error\":\"invalid_grant\",\"error_codes\":[700082]}");
    assert_null(dev.refresh);
    assert_int_equal(dev.dead, 1);
    expect_code_request();
    assert_non_null(strstr(flow.hint, "AADSTS700082"));
    answer(200, "", BODY("900", ",\"interval\":5"));
    expect_pause(5000);
    expect_poll();
    give(SECOND);
    expect_token();
    assert_string_equal(dev.refresh, SECOND);
    over();
    (void)start(NULL);
    refuse_refresh(400, "{\"error\":\"interaction_required\",\"error_description\":\"AADSTS50076: " REFRESH "\"}");
    assert_null(dev.refresh);
    expect_code_request();
    over();
}

/* No other trouble makes it go. */
static void test_refresh_survives(void **state) {
    (void)state;
    refuse_refresh(401, "{\"error\":\"invalid_client\",\"error_codes\":[7000218]}");
    expect_failed(AZREDIS_E_ENTRA, "public client flows");
    assert_string_equal(dev.refresh, REFRESH);
    assert_int_equal(dev.dead, 0);
    over();
    (void)start(NULL);
    refuse_refresh(503, "");
    assert_int_equal(next(), AZRI_STEP_WAIT);
    assert_in_range(step.wait_ms, 560, 1040);
    now += step.wait_ms;
    expect_refresh(REFRESH);
    cannot(AZREDIS_E_DNS);
    assert_int_equal(next(), AZRI_STEP_WAIT);
    assert_string_equal(dev.refresh, REFRESH);
    over();
    (void)start(NULL);
    refuse_refresh(400, "{\"error\":\"invalid_grant\",\"error_codes\":[90033]}");
    assert_int_equal(next(), AZRI_STEP_WAIT); /* "transient": Entra's own word for the code */
    assert_string_equal(dev.refresh, REFRESH);
    over();
    (void)start(NULL);
    refuse_refresh(200, "{\"access_token\":\"\",\"refresh_token\":\"" SECOND "\"}");
    expect_failed(AZREDIS_E_JSON, "no access_token");
    assert_string_equal(dev.refresh, REFRESH);
    over();
}

/* A token that Redis could not use does not cost a sign-in. */
static void test_kept_without_a_token(void **state) {
    (void)state;
    dev.refresh = azri_strdup(&mem, REFRESH);
    go();
    expect_refresh(REFRESH);
    answer(200, "", "{\"access_token\":\"opaque\",\"expires_in\":60,\"refresh_token\":\"" SECOND "\"}");
    expect_failed(AZREDIS_E_TOKEN, "user name is unknown");
    assert_string_equal(dev.refresh, SECOND);
    assert_int_equal(dev.changed, 1);
    over();
}

/* ---- over a restart ---- */

static void test_load(void **state) {
    (void)state;
    keeps();
    kept = REFRESH;
    go();
    expect_load(AZREDIS_OK);
    expect_refresh(REFRESH);
    give(SECOND);
    expect_token();
    assert_string_equal(dev.refresh, SECOND);
    again();
    expect_refresh(SECOND);                   /* what is in memory is not asked for */
    over();
}

static void test_load_nothing(void **state) {
    (void)state;
    keeps();
    go();
    expect_load(AZREDIS_AGAIN);
    expect_code_request();
    assert_string_equal(flow.hint, "");
    over();
    (void)start(NULL);
    keeps();
    go();
    expect_load(AZREDIS_OK);
    expect_code_request();
    assert_string_equal(flow.hint, "");
    over();
}

static void test_load_fails(void **state) {
    (void)state;
    keeps();
    (void)snprintf(reason, sizeof reason, "the flash is worn");
    go();
    expect_load(AZREDIS_E_NET);
    expect_code_request();
    assert_non_null(strstr(flow.hint, "the flash is worn"));
    over();
}

/* Nobody is bothered because there was no memory for a moment. */
static void test_load_without_memory(void **state) {
    (void)state;
    keeps();
    kept = REFRESH;
    go();
    assert_int_equal(next(), AZRI_STEP_CALL);
    allow = 0;
    expect_load_answer(AZREDIS_OK);
    expect_failed(AZREDIS_E_NOMEM, "no memory");
    assert_true(flow.error.retryable);
    allow = -1;
    over();
}

static void test_load_dead(void **state) {
    (void)state;
    keeps();
    kept = REFRESH;
    go();
    expect_load(AZREDIS_OK);
    expect_refresh(REFRESH);
    say("invalid_grant");
    expect_code_request();
    assert_null(dev.refresh);
    over();
}

/* ---- who takes over ---- */

static void test_taken_over(void **state) {
    azri_device other;
    (void)state;
    get_code();
    expect_poll();
    say("slow_down");
    memset(&other, 0, sizeof other);
    assert_int_equal(azri_device_copy(&other, &dev, &mem), 1);
    azri_device_clear(&dev, &mem);
    dev = other;
    now += 3000;
    again();
    expect_pause(7000);                       /* no sooner than the first would have asked */
    expect_poll();
    assert_int_equal(dev.news, 0);
    say("authorization_pending");
    expect_pause(10000);
    expect_poll();
    give(REFRESH);
    expect_token();
    over();
}

static void test_no_memory(void **state) {
    int i, done = 0;
    (void)state;
    for (i = 0; !done; i++) {
        assert_in_range(i, 0, 100);
        go();
        allow = i;
        if (next() == AZRI_STEP_HTTP) answer(200, "", BODY("900", ",\"interval\":5"));
        if (next() == AZRI_STEP_WAIT) {
            now += 5000;
            if (next() == AZRI_STEP_HTTP) give(REFRESH);
            (void)next();
        }
        done = flow.status == AZREDIS_OK;
        allow = -1;
        over();
        (void)start(NULL);
    }
    assert_true(i > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_waits, start), cmocka_unit_test_setup(test_prompt, start),
        cmocka_unit_test_setup(test_prompt_is_plain, start), cmocka_unit_test_setup(test_options, start),
        cmocka_unit_test_setup(test_no_code, start), cmocka_unit_test_setup(test_code_retries, start),
        cmocka_unit_test_setup(test_code_cut, start), cmocka_unit_test_setup(test_ends, start),
        cmocka_unit_test_setup(test_keeps_polling, start), cmocka_unit_test_setup(test_timeouts_stretch, start),
        cmocka_unit_test_setup(test_nobody_came, start), cmocka_unit_test_setup(test_expired_in_trouble, start),
        cmocka_unit_test_setup(test_limits, start), cmocka_unit_test_setup(test_nobody_is_shown_many, start),
        cmocka_unit_test_setup(test_refresh, start), cmocka_unit_test_setup(test_no_refresh_token, start),
        cmocka_unit_test_setup(test_dead, start), cmocka_unit_test_setup(test_refresh_survives, start),
        cmocka_unit_test_setup(test_kept_without_a_token, start), cmocka_unit_test_setup(test_load, start),
        cmocka_unit_test_setup(test_load_nothing, start), cmocka_unit_test_setup(test_load_fails, start),
        cmocka_unit_test_setup(test_load_without_memory, start), cmocka_unit_test_setup(test_load_dead, start), cmocka_unit_test_setup(test_taken_over, start),
        cmocka_unit_test_setup(test_no_memory, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
