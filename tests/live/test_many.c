/* One identity for many: clients of all three modes and callers without a client share an azredis_auth. One request a
 * turn, whoever makes it, stalls, goes away or is refused. Clean under ThreadSanitizer.
 *   cc -std=gnu11 -I. tests/live/test_many.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "live.h"

#include <stdatomic.h>

#define PARTIES 3
#define ASKERS  3
#define WALK_MS 36000                   /* past the deadline of a claim: chain_ms and a grace */

typedef struct party {
    azredis_client *client;
    pthread_t       thread;
    int             running;
    const char     *key;
    atomic_int      of[AZREDIS_EV_DEVICE_CODE + 1], logged[600], inside, leaks, together;
    int64_t         submitted, answered, failed;
    azredis_status  status;
    azredis_error   why;
} party;

typedef struct asker {
    pthread_t     thread;
    uint32_t      wait_ms;
    int           running, calls, without;
    atomic_int    tokens;               /* different ones */
    char          last[64];
    azredis_error why;
} asker;

static live em, other;
static party party_of[PARTIES], alone;  /* alone: what the auth's own handler is told */
static asker asker_of[ASKERS];
static azredis_auth *shared;
static atomic_int enough;
static _Atomic int64_t ahead;           /* ms that the clock of clients and auth is ahead */

static int setup(void **state)
{
    (void)state;
    live_start(&em, NULL);
    return 0;
}

static int setup_short(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "3", NULL);
    return 0;
}

static void run_party(party *p, void *(*run)(void *))
{
    p->running = pthread_create(&p->thread, NULL, run, p) == 0;
    assert_true(p->running);
}

static void run_asker(asker *a, void *(*run)(void *))
{
    a->running = pthread_create(&a->thread, NULL, run, a) == 0;
    assert_true(a->running);
}

static void join_all(void)
{
    int i;
    for (i = 0; i < PARTIES; i++) {
        if (party_of[i].running)
            pthread_join(party_of[i].thread, NULL);
        party_of[i].running = 0;
    }
    for (i = 0; i < ASKERS; i++) {
        if (asker_of[i].running)
            pthread_join(asker_of[i].thread, NULL);
        asker_of[i].running = 0;
    }
}

static void close_all(void)
{
    int i;
    for (i = 0; i < PARTIES; i++) {
        azredis_close(party_of[i].client);
        party_of[i].client = NULL;
    }
    azredis_auth_release(shared);
    shared = NULL;
}

static int teardown(void **state)
{
    int i, leaks = atomic_load(&alone.leaks), together = atomic_load(&alone.together);
    (void)state;
    atomic_store(&enough, 1);
    join_all();
    close_all();
    for (i = 0; i < PARTIES; i++) {
        leaks += atomic_load(&party_of[i].leaks);
        together += atomic_load(&party_of[i].together);
    }
    memset(party_of, 0, sizeof party_of);
    memset(asker_of, 0, sizeof asker_of);
    memset(&alone, 0, sizeof alone);
    atomic_store(&enough, 0);
    atomic_store(&ahead, 0);
    live_stop(&em);
    live_stop(&other);
    if (leaks || together)
        fail_msg("%d events had a secret in them, %d came while their handler was busy", leaks, together);
    return 0;
}

static void on_event(const azredis_event *ev, void *user)
{
    party *p = user;
    atomic_fetch_add(&p->together, atomic_exchange(&p->inside, 1));
    atomic_fetch_add(&p->of[ev->type], 1);
    if (ev->type == AZREDIS_EV_LOG)
        atomic_fetch_add(&p->logged[ev->number], 1);
    atomic_fetch_add(&p->leaks, live_leaks(ev->text) || (ev->error && live_leaks(ev->error->message)));
    atomic_store(&p->inside, 0);
}

static int told(const party *p, azredis_event_type type) { return atomic_load(&p->of[type]); }

static uint64_t hook_now(void *user)
{
    (void)user;
    return (uint64_t)(live_ms() + atomic_load(&ahead));
}

static int64_t hook_unix(void *user)
{
    (void)user;
    return (int64_t)time(NULL) + atomic_load(&ahead) / 1000;
}

static const azredis_port clock_port = {.now_ms = hook_now, .unix_time = hook_unix};

static void open_auth(azredis_auth_options *o)
{
    o->port = &clock_port;
    o->on_event = on_event;
    o->event_user = &alone;
    shared = azredis_auth_open(o);
    assert_non_null(shared);
}

static azredis_client *join(int i, azredis_options *o)
{
    static const char *const key[PARTIES] = {"plain", "loop", "threads"};
    party *p = &party_of[i];
    o->auth = shared;
    o->port = &clock_port;
    if (!o->host)
        o->host = em.endpoint;
    o->on_event = on_event;
    o->event_user = p;
    o->log_level = AZREDIS_LOG_INFO;
    p->key = key[i];
    p->client = azredis_open(o);
    assert_non_null(p->client);
    return p->client;
}

/* ---- all modes at once ------------------------------------------------------------------------- */

static void *run_calls(void *user)
{
    party *p = user;
    azredis_reply r = {0};
    while (!atomic_load(&enough)) {
        p->submitted++;
        if (azredis_command(p->client, &r, "INCR", p->key) == AZREDIS_OK)
            p->answered++;
        else
            p->why = *r.error;
        azredis_wait(p->client, 3);
    }
    azredis_reply_free(&r);
    return NULL;
}

static void on_answer(azredis_client *c, const azredis_reply *r, void *user)
{
    party *p = user;
    (void)c;
    if (r->status == AZREDIS_OK)
        p->answered++;
    else {
        p->failed++;
        p->why = *r->error;
    }
}

static void *run_loop(void *user)
{
    party *p = user;
    azredis_str incr[2] = {{"INCR", 4}, {p->key, strlen(p->key)}};
    while (!atomic_load(&enough) || p->answered + p->failed < p->submitted) {
        azredis_fd f[16];
        struct pollfd q[16];
        size_t i, n;
        if (!atomic_load(&enough) && p->submitted - p->answered - p->failed < 5 &&
            azredis_submit(p->client, NULL, 2, incr, on_answer, p) == AZREDIS_OK)
            p->submitted++;
        n = azredis_fds(p->client, f, 16);
        for (i = 0; i < n; i++)
            q[i] = (struct pollfd){.fd = (int)f[i].sock, .events = (short)((f[i].want & AZREDIS_READ ? POLLIN : 0) |
                                                                          (f[i].want & AZREDIS_WRITE ? POLLOUT : 0))};
        poll(q, (nfds_t)n, azredis_timeout_ms(p->client));
        azredis_process(p->client, f, n);
        live_nap(2);
    }
    return NULL;
}

/* Has a token from the first on, and never one without life. The end of a token stands for it. */
static void *ask(void *user)
{
    asker *a = user;
    azredis_token t;
    for (; !atomic_load(&enough); a->calls++) {
        if (azredis_auth_token(shared, &t, a->wait_ms, &a->why) == AZREDIS_OK && t.expires_in_ms > 0) {
            const char *end = t.jwt + t.jwt_len - sizeof a->last + 1;
            atomic_fetch_add(&a->tokens, strcmp(a->last, end) != 0);
            snprintf(a->last, sizeof a->last, "%s", end);
        } else {
            a->without += atomic_load(&a->tokens) > 0 || a->wait_ms > 0;
        }
        azredis_token_wipe(&t);
        live_nap(20);
    }
    return NULL;
}

/* One request for each token; each client has been told of it and has shown it, on the connection that it made; each
 * caller without a client has had it. */
static int books_agree(int at_least)
{
    json_t *all = live_records(&em), *auths = json_object_get(all, "auths");
    long n = (long)json_integer_value(json_object_get(all, "token_requests")), on[PARTIES + 1] = {0};
    int i, ok = n >= at_least && json_integer_value(json_object_get(all, "tokens_issued")) == n &&
                json_integer_value(json_object_get(all, "connections_opened")) == PARTIES;
    size_t k;
    for (k = 0; k < json_array_size(auths); k++) {
        long c = (long)json_integer_value(json_object_get(json_array_get(auths, k), "connection"));
        on[c >= 1 && c <= PARTIES ? c : 0] += json_is_true(json_object_get(json_array_get(auths, k), "accepted"));
    }
    for (i = 0; i < PARTIES; i++)
        ok = ok && on[i + 1] == n && told(&party_of[i], AZREDIS_EV_TOKEN_REFRESHED) == n &&
             told(&party_of[i], AZREDIS_EV_CONNECTION_REAUTHENTICATED) == n - 1;
    for (i = 0; i < ASKERS; i++)
        ok = ok && atomic_load(&asker_of[i].tokens) == n;
    json_decref(all);
    return ok && told(&alone, AZREDIS_EV_TOKEN_REFRESHED) == n;
}

static void test_all_modes(void **state)
{
    static void *(*const run[PARTIES])(void *) = {run_calls, run_loop, run_calls};
    azredis_auth_options id = {0};
    int i;
    (void)state;
    asker_of[ASKERS - 1].wait_ms = LIVE_SOON;
    open_auth(&id);
    for (i = 0; i < PARTIES; i++) {
        azredis_options o = {0};
        join(i, &o);
    }
    assert_int_equal(azredis_start(party_of[2].client), AZREDIS_OK);
    for (i = 0; i < PARTIES; i++)
        run_party(&party_of[i], run[i]);
    for (i = 0; i < ASKERS; i++)
        run_asker(&asker_of[i], ask);
    await((live_nap(20), books_agree(4)), 2 * LIVE_SOON);
    atomic_store(&enough, 1);
    join_all();
    for (i = 0; i < PARTIES; i++) {
        if (party_of[i].answered != party_of[i].submitted)
            fail_msg("%s: %s", party_of[i].key, party_of[i].why.message);
        assert_int_equal(live_get_number(&em, party_of[i].key), party_of[i].answered);
        assert_int_equal(told(&party_of[i], AZREDIS_EV_CONNECTION_FAILED), 0);
    }
    for (i = 0; i < ASKERS; i++)
        if (asker_of[i].without)
            fail_msg("%d of %d times no token: %s", asker_of[i].without, asker_of[i].calls, asker_of[i].why.message);
}

/* ---- whoever fetches stalls, or goes away ------------------------------------------------------ */

/* A step of a client; it is a loop for the library, and never waits. */
static int step(int i)
{
    (void)azredis_process(party_of[i].client, NULL, 0);
    return live_stats(party_of[i].client).connected;
}

static void owner_asks(void)
{
    azredis_token t;
    if (azredis_auth_token(shared, &t, 0, NULL) == AZREDIS_OK)
        azredis_token_wipe(&t);
}

/* The owner is looked after no longer while its request is out; it is a client, or a caller without one. */
static void owner_stalls(int bare)
{
    azredis_auth_options id = {0};
    azredis_options o = {0}, p = {0};
    open_auth(&id);
    join(0, &o);
    join(1, &p);
    live_fault(&em, "token-hang", NULL, "1");
    await((bare ? owner_asks() : (void)step(0), live_fired(&em, "token-hang") == 1), LIVE_SOON);
    atomic_fetch_add(&ahead, WALK_MS - 6000);
    assert_false(step(1));              /* a claim is respected to its end */
    assert_true(azredis_timeout_ms(party_of[1].client) <= 6000);
    assert_int_equal(live_number(&em, "token_requests"), 1);
    atomic_fetch_add(&ahead, 6000);
    await(step(1), LIVE_SOON);
    assert_int_equal(live_number(&em, "token_requests"), 2);
    await((owner_asks(), step(0)), LIVE_SOON);      /* it comes back: no word of the end of its walk */
    assert_int_equal(live_stats(party_of[0].client).token_failures, 0);
    assert_int_equal(told(&party_of[0], AZREDIS_EV_TOKEN_REFRESH_FAILED) + told(&party_of[1], AZREDIS_EV_TOKEN_REFRESH_FAILED) +
                     told(&alone, AZREDIS_EV_TOKEN_REFRESH_FAILED), 0);
    assert_int_equal(told(&party_of[0], AZREDIS_EV_TOKEN_REFRESHED), 1);
    assert_int_equal(told(&party_of[1], AZREDIS_EV_TOKEN_REFRESHED), 1);
    assert_int_equal(told(&alone, AZREDIS_EV_TOKEN_REFRESHED), 1);
    assert_int_equal(live_number(&em, "token_requests"), 2);
}

static void test_client_stalls(void **state)
{
    (void)state;
    owner_stalls(0);
}

static void test_caller_stalls(void **state)
{
    (void)state;
    owner_stalls(1);
}

static atomic_int called, held;         /* get_token: the first call returns when it is held no more */

static azredis_status held_token(void *user, const char *scope, azredis_fetched *out)
{
    int first = atomic_fetch_add(&called, 1) == 0;
    json_t *t = live_json(&em, "GET", "/token", "");
    const char *jwt = json_string_value(json_object_get(t, "access_token"));
    (void)user, (void)scope;
    out->len = strlen(jwt);
    memcpy(out->token, jwt, out->len);
    out->expires_in = 3600;
    json_decref(t);
    while (first && atomic_load(&held))
        live_nap(2);
    return AZREDIS_OK;
}

/* A callback that hangs holds up its own client at most. What it brings too late is worth less than what there is. */
static void test_callback_stalls(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_CALLBACK, .get_token = held_token};
    azredis_options o = {0}, p = {0};
    (void)state;
    atomic_store(&called, 0);
    atomic_store(&held, 1);
    open_auth(&id);
    join(1, &p);
    assert_int_equal(azredis_start(join(2, &o)), AZREDIS_OK);
    await(atomic_load(&called) == 1, LIVE_SOON);
    assert_false(step(1));
    atomic_fetch_add(&ahead, WALK_MS);
    await(step(1), LIVE_SOON);
    assert_int_equal(atomic_load(&called), 2);
    atomic_store(&held, 0);
    await(atomic_load(&party_of[2].logged[AZRI_LOG_TOKEN_SAME]) == 1 && live_stats(party_of[2].client).connected, LIVE_SOON);
    assert_int_equal(live_stats(party_of[2].client).tokens, 1);
    assert_int_equal(told(&party_of[2], AZREDIS_EV_TOKEN_REFRESHED), 1);
    assert_int_equal(atomic_load(&called), 2);
}


static void *ask_once(void *user)
{
    azredis_token t;
    asker *a = user;
    a->without = azredis_auth_token(shared, &t, LIVE_SOON, &a->why) != AZREDIS_OK;
    azredis_token_wipe(&t);
    return NULL;
}

/* Those that sleep until the owner's claim ends are woken when it is closed: one of them fetches. */
static void test_owner_closed(void **state)
{
    azredis_auth_options id = {0};
    azredis_options o = {0}, p = {0};
    int64_t closed;
    (void)state;
    open_auth(&id);
    live_fault(&em, "token-hang", NULL, "1");
    assert_int_equal(azredis_start(join(2, &o)), AZREDIS_OK);
    await(live_fired(&em, "token-hang") == 1, LIVE_SOON);
    join(1, &p);
    run_party(&party_of[1], run_loop);
    run_asker(&asker_of[0], ask_once);
    live_nap(200);                      /* they sleep by now; if not, the test is weaker, not wrong */
    closed = live_ms();
    azredis_close(party_of[2].client);
    party_of[2].client = NULL;
    await(told(&party_of[1], AZREDIS_EV_TOKEN_REFRESHED) == 1, LIVE_SOON);
    assert_true(live_ms() - closed < 5000);
    atomic_store(&enough, 1);
    join_all();
    if (asker_of[0].without)
        fail_msg("%s", asker_of[0].why.message);
    assert_true(party_of[1].answered > 0);
    assert_int_equal(live_number(&em, "token_requests"), 2);
}

/* ---- refusals ---------------------------------------------------------------------------------- */

/* Both show the second token and are refused: one fresh token is fetched for both, and no connection is lost. The auth
 * has been released by its opener. */
static void test_refused_at_both(void **state)
{
    azredis_auth_options id = {0};
    azredis_options o = {0}, p = {0};
    int i;
    (void)state;
    open_auth(&id);
    join(0, &o);
    join(1, &p);
    azredis_auth_release(shared);
    shared = NULL;
    await((step(0) + step(1)) == 2, LIVE_SOON);
    live_fault(&em, "auth-reject", NULL, "2");
    await((step(0), step(1), told(&party_of[0], AZREDIS_EV_CONNECTION_REAUTHENTICATED) == 1 &&
           told(&party_of[1], AZREDIS_EV_CONNECTION_REAUTHENTICATED) == 1), LIVE_SOON);
    for (i = 0; i < 2; i++) {
        assert_int_equal(told(&party_of[i], AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED), 1);
        assert_int_equal(told(&party_of[i], AZREDIS_EV_TOKEN_REFRESHED), 3);
        assert_int_equal(told(&party_of[i], AZREDIS_EV_CONNECTION_FAILED), 0);
    }
    assert_int_equal(live_number(&em, "token_requests"), 3);
    assert_int_equal(live_number(&em, "auths_total"), 6);
    assert_int_equal(live_number(&em, "connections_opened"), 2);
}

/* It neither fetches nor connects: time may fly. */
static int rests(int i)
{
    azri_state s = azri_hub_main(&party_of[i].client->hub)->state;
    return !party_of[i].client->fetch && (s == AZRI_READY || s == AZRI_DOWN);
}

static void pump_both(int64_t until)
{
    while (hook_now(NULL) < (uint64_t)until) {
        step(0);
        step(1);
        if (rests(0) && rests(1))
            atomic_fetch_add(&ahead, 100);
        else
            live_nap(1);
    }
}

/* The identity is a user of one cache only. The other one's refusals cost a fresh token, then one after a minute, then
 * after five; the first goes on, and so do callers without a client. */
static void test_one_cache_refuses(void **state)
{
    char ca[2][PATH_MAX];
    azredis_auth_options id = {.ca_file = ca[0]};
    azredis_options o = {.ca_file = ca[0], .keepalive_ms = AZREDIS_NEVER}, p = {.ca_file = ca[1]};
    azredis_token t;
    azredis_error why;
    int64_t now;
    (void)state;
    live_start(&other, NULL);
    snprintf(ca[1], sizeof ca[1], "%s", getenv("SSL_CERT_FILE"));
    live_start(&em, NULL);
    snprintf(ca[0], sizeof ca[0], "%s", getenv("SSL_CERT_FILE"));
    p.host = other.endpoint;
    open_auth(&id);
    join(0, &o);
    join(1, &p);
    await((step(1), step(0) && live_stats(party_of[0].client).reauths == 1 && live_number(&other, "auths_total") == 2), LIVE_SOON);
    now = (int64_t)hook_now(NULL);
    pump_both(now + 50000);
    assert_int_equal(live_number(&em, "token_requests"), 2);
    assert_int_equal(azredis_auth_token(shared, &t, 0, &why), AZREDIS_OK);
    azredis_token_wipe(&t);
    pump_both(now + 65000);
    await((step(0), step(1), live_number(&other, "auths_total") == 3), LIVE_SOON);
    await((step(0), live_stats(party_of[0].client).reauths == 2), LIVE_SOON);
    assert_int_equal(live_number(&em, "token_requests"), 3);
    pump_both(now + 180000);
    assert_int_equal(live_number(&em, "token_requests"), 3);
    assert_int_equal(live_stats(party_of[0].client).reconnects, 0);
    assert_int_equal(told(&party_of[0], AZREDIS_EV_CONNECTION_FAILED), 0);
    assert_true(told(&party_of[1], AZREDIS_EV_CONNECTION_FAILED) >= 1);
}

/* ---- whoever comes late -------------------------------------------------------------------------- */

/* It has the token at once, and is not told of what was before it. */
static void test_late_client(void **state)
{
    azredis_auth_options id = {0};
    azredis_options o = {0}, p = {0};
    azredis_token t;
    azredis_error why;
    (void)state;
    open_auth(&id);
    assert_int_equal(azredis_auth_token(shared, &t, LIVE_SOON, &why), AZREDIS_OK);
    azredis_token_wipe(&t);
    assert_int_equal(azredis_connect(join(0, &o), LIVE_SOON, &why), AZREDIS_OK);
    assert_int_equal(azredis_start(join(2, &p)), AZREDIS_OK);
    assert_int_equal(azredis_connect(party_of[2].client, LIVE_SOON, &why), AZREDIS_OK);
    assert_int_equal(live_number(&em, "token_requests"), 1);
    assert_int_equal(told(&alone, AZREDIS_EV_TOKEN_REFRESHED), 1);
    assert_int_equal(told(&party_of[0], AZREDIS_EV_TOKEN_REFRESHED), 0);
    azredis_close(party_of[2].client);
    party_of[2].client = NULL;
    assert_int_equal(told(&party_of[2], AZREDIS_EV_TOKEN_REFRESHED), 0);
}

/* It knows at once why there is no token. */
static void test_late_to_a_failure(void **state)
{
    azredis_auth_options id = {0};
    azredis_options o = {0};
    azredis_token t;
    azredis_error why;
    (void)state;
    live_fault(&em, "token-error", "7000215", "*");
    open_auth(&id);
    assert_int_equal(azredis_auth_token(shared, &t, LIVE_SOON, &why), AZREDIS_E_ENTRA);
    memset(&why, 0, sizeof why);
    assert_in_time(assert_int_equal(azredis_connect(join(0, &o), LIVE_SOON, &why), AZREDIS_E_ENTRA), 0);
    assert_int_equal(why.aadsts, 7000215);
    assert_int_equal(live_number(&em, "token_requests"), 1);
    assert_int_equal(told(&party_of[0], AZREDIS_EV_TOKEN_REFRESH_FAILED), 0);
}

/* Until there is a token each call says so in words. */
static void test_not_yet(void **state)
{
    azredis_auth_options id = {0};
    azredis_token t;
    azredis_error why;
    (void)state;
    memset(&why, 'x', sizeof why);
    open_auth(&id);
    assert_int_equal(azredis_auth_token(shared, &t, 0, &why), AZREDIS_AGAIN);
    assert_has(why.message, "not been answered yet");
    assert_int_equal(why.code, AZREDIS_AGAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_modes, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_client_stalls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_caller_stalls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_callback_stalls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_owner_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_at_both, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_one_cache_refuses, NULL, teardown),
        cmocka_unit_test_setup_teardown(test_late_client, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_to_a_failure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_yet, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
