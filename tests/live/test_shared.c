/* One identity for many: two threads, an owner that goes away, tokens without a client. And what surrounds
 * a client: name look-up, a dialling hook, clocks that jump. Clean under ThreadSanitizer.
 *   cc -std=gnu11 -I. tests/live/test_shared.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include <netdb.h>
static int slow_getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **out);
#define AZRI_GETADDRINFO slow_getaddrinfo
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "live.h"

#include <stdatomic.h>

static live em;
static live_events seen[2];             /* one for each thread */
static azredis_client *client;
static azredis_auth *shared;

static int teardown(void **state)
{
    int leaks = seen[0].leaks + seen[1].leaks;
    (void)state;
    azredis_close(client);
    client = NULL;
    azredis_auth_release(shared);
    shared = NULL;
    memset(seen, 0, sizeof seen);
    live_stop(&em);
    if (leaks)
        fail_msg("%d events had a secret in them", leaks);
    return 0;
}

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

static void done(void)
{
    azredis_close(client);
    client = NULL;
}

/* ---- one auth, two clients --------------------------------------------------------------------- */

typedef struct worker {
    pthread_t thread;
    azredis_client *client;
    const char *key;
    int64_t until, commands;
    azredis_status status;              /* of the first call that failed */
    azredis_error why;
} worker;

static void *work(void *user)
{
    worker *w = user;
    azredis_reply r = {0};
    while (live_ms() < w->until) {
        w->status = azredis_command(w->client, &r, "INCR", w->key);
        if (w->status != AZREDIS_OK) {
            w->why = *r.error;
            break;
        }
        w->commands++;
        azredis_wait(w->client, 3);
    }
    azredis_reply_free(&r);
    return NULL;
}

static void test_two_threads_one_auth(void **state)
{
    static const char *const key[2] = {"a", "b"};
    worker w[2] = {{0}, {0}};
    azredis_options o = {0};
    uint32_t tokens;
    int i;
    (void)state;
    shared = azredis_auth_open(NULL);
    o.auth = shared;
    for (i = 0; i < 2; i++) {
        o.host = em.endpoint;
        o.on_event = live_on_event;
        o.event_user = &seen[i];
        w[i].client = live_open(&em, &o);
        w[i].key = key[i];
        w[i].until = live_ms() + 10000;
    }
    for (i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    for (i = 0; i < 2; i++)
        pthread_join(w[i].thread, NULL);
    for (i = 0; i < 2; i++) {
        if (w[i].status != AZREDIS_OK)
            fail_msg("client %d: %s", i, w[i].why.message);
        assert_int_equal(live_get_number(&em, key[i]), w[i].commands);
    }
    /* Who renewed last may be one ahead of the other. */
    await((azredis_wait(w[0].client, 1), azredis_wait(w[1].client, 1),
           live_stats(w[0].client).reauths == live_stats(w[1].client).reauths &&
               live_stats(w[0].client).reauths + 1 == live_stats(w[0].client).tokens), LIVE_SOON);
    tokens = live_stats(w[0].client).tokens;
    assert_true(tokens >= 4);
    assert_int_equal(live_number(&em, "token_requests"), tokens);      /* one fetch a life, not two */
    assert_int_equal(live_number(&em, "tokens_issued"), tokens);
    assert_int_equal(live_number(&em, "auths_accepted"), 2 * tokens);
    assert_int_equal(live_number(&em, "connections_opened"), 2);
    for (i = 0; i < 2; i++) {
        assert_int_equal(seen[i].of[AZREDIS_EV_TOKEN_REFRESHED], tokens - (uint32_t)i);     /* 1 came after the first */
        assert_int_equal(seen[i].of[AZREDIS_EV_CONNECTION_REAUTHENTICATED], tokens - 1);
        assert_int_equal(live_stats(w[i].client).reconnects, 0);
        azredis_close(w[i].client);
    }
}

static void *connect_only(void *user)
{
    worker *w = user;
    w->status = azredis_connect(w->client, LIVE_SOON, &w->why);
    w->until = live_ms();
    return NULL;
}

/* The token that lives is shown once more by both, on the connections that they have; none is fetched. */
static void test_rehearsal(void **state)
{
    azredis_client *c[2];
    azredis_options o = {0};
    azredis_auth_options wrong = {.identity = AZREDIS_ID_PASSWORD};
    int64_t id[2];
    int i;
    (void)state;
    shared = azredis_auth_open(&wrong);
    assert_int_equal(azredis_auth_rehearse(shared), AZREDIS_E_ARG);
    azredis_auth_release(shared);
    assert_int_equal(azredis_auth_rehearse(NULL), AZREDIS_E_ARG);
    shared = azredis_auth_open(NULL);
    assert_int_equal(azredis_auth_rehearse(shared), AZREDIS_AGAIN);     /* there is nothing to show yet */
    for (i = 0; i < 2; i++) {
        memset(&o, 0, sizeof o);
        o.auth = shared;
        o.on_event = live_on_event;
        o.event_user = &seen[i];
        c[i] = live_open(&em, &o);
        id[i] = live_client_id(c[i]);
    }
    assert_int_equal(azredis_start(c[1]), AZREDIS_OK);
    assert_int_equal(azredis_auth_rehearse(shared), AZREDIS_OK);
    await((azredis_wait(c[0], 1), live_stats(c[0]).reauths == 1 && live_stats(c[1]).reauths == 1), LIVE_SOON);
    live_fault(&em, "reauth-reject", NULL, "1");
    assert_int_equal(azredis_auth_rehearse(shared), AZREDIS_OK);
    await((azredis_wait(c[0], 1), live_stats(c[0]).reauth_failures + live_stats(c[1]).reauth_failures == 1), LIVE_SOON);
    for (i = 0; i < 2; i++) {
        assert_int_equal(live_client_id(c[i]), id[i]);
        assert_int_equal(live_stats(c[i]).connects, 1);
        azredis_close(c[i]);
    }
    assert_in_range(seen[0].of[AZREDIS_EV_CONNECTION_REAUTHENTICATED] + seen[1].of[AZREDIS_EV_CONNECTION_REAUTHENTICATED], 3, 5);
}

/* The client that fetches is closed before the answer has come: the one that waits takes over at once. */
static void test_owner_closed_mid_fetch(void **state)
{
    azredis_options o = {.on_event = live_on_event, .event_user = &seen[0]};
    azredis_client *owner;
    worker w = {0};
    int64_t closed;
    (void)state;
    live_fault(&em, "token-hang", NULL, "1");
    shared = azredis_auth_open(NULL);
    o.auth = shared;
    owner = live_new(&em, &o);
    await((azredis_wait(owner, 10), live_fired(&em, "token-hang") == 1), LIVE_SOON);
    o.event_user = &seen[1];
    w.client = live_new(&em, &o);
    assert_int_equal(pthread_create(&w.thread, NULL, connect_only, &w), 0);
    live_nap(200);                      /* the other sleeps by now; if not, the test is weaker, not wrong */
    closed = live_ms();
    azredis_close(owner);
    pthread_join(w.thread, NULL);
    assert_int_equal(w.status, AZREDIS_OK);
    assert_true(w.until - closed < 3000);
    assert_int_equal(live_number(&em, "token_requests"), 2);
    azredis_close(w.client);
}

/* ---- tokens without a client --------------------------------------------------------------------- */

/* The real server takes it. */
static void check_token(azredis_token *t)
{
    json_t *reply = live_redis(&em, "AUTH", t->user, t->jwt, NULL);
    assert_string_equal(t->user, em.oid);
    assert_int_equal(strlen(t->jwt), t->jwt_len);
    assert_true(json_is_string(reply));
    assert_string_equal(json_string_value(reply), "OK");
    assert_true(t->renew_in_ms < t->expires_in_ms);
    json_decref(reply);
    azredis_token_wipe(t);
    assert_null(t->jwt);
}

static azredis_auth *auth_open(int i)
{
    azredis_auth_options o = {.on_event = live_on_event, .event_user = &seen[i], .log_level = AZREDIS_LOG_INFO};
    return azredis_auth_open(&o);
}

static void test_token_by_polling(void **state)
{
    azredis_token t;
    azredis_error why = {0};
    azredis_status st = AZREDIS_AGAIN;
    int64_t until = live_ms() + LIVE_SOON;
    int i;
    (void)state;
    shared = auth_open(0);
    for (i = 0; st == AZREDIS_AGAIN && live_ms() < until; i++) {
        assert_in_time(st = azredis_auth_token(shared, &t, 0, &why), 0);
        if (st == AZREDIS_AGAIN)
            live_nap(2);
    }
    assert_int_equal(st, AZREDIS_OK);
    assert_true(i > 1);
    assert_true(t.expires_in_ms > 3500000 && t.expires_in_ms <= 3600000);
    check_token(&t);
    assert_int_equal(azredis_auth_token(shared, &t, 0, &why), AZREDIS_OK);       /* from the cache */
    check_token(&t);
    assert_int_equal(live_number(&em, "token_requests"), 1);
    assert_int_equal(seen[0].of[AZREDIS_EV_TOKEN_REFRESHED], 1);
    assert_int_equal(live_logged(&seen[0], AZRI_LOG_TOKEN_OK), 1);
}

static void test_token_lives_on(void **state)
{
    azredis_token t;
    azredis_error why = {0};
    int64_t until = live_ms() + 7000;
    (void)state;
    shared = auth_open(0);
    while (live_ms() < until) {
        assert_int_equal(azredis_auth_token(shared, &t, LIVE_SOON, &why), AZREDIS_OK);
        assert_true(t.expires_in_ms > 0 && t.expires_in_ms <= 3000);
        azredis_token_wipe(&t);
        live_nap(20);
    }
    assert_true(seen[0].of[AZREDIS_EV_TOKEN_REFRESHED] >= 3);
    assert_int_equal(live_number(&em, "tokens_issued"), seen[0].of[AZREDIS_EV_TOKEN_REFRESHED]);
}

typedef struct asker {
    pthread_t thread;
    uint32_t wait_ms;
    azredis_status status;
    azredis_token token;
    azredis_error why;
    int64_t ended;
} asker;

static void *ask(void *user)
{
    asker *a = user;
    a->status = azredis_auth_token(shared, &a->token, a->wait_ms, &a->why);
    a->ended = live_ms();
    return NULL;
}

static void test_token_in_two_threads(void **state)
{
    asker a[2] = {{.wait_ms = LIVE_SOON}, {.wait_ms = LIVE_SOON}};
    int i;
    (void)state;
    shared = auth_open(0);
    for (i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&a[i].thread, NULL, ask, &a[i]), 0);
    for (i = 0; i < 2; i++) {
        pthread_join(a[i].thread, NULL);
        assert_int_equal(a[i].status, AZREDIS_OK);
    }
    assert_string_equal(a[0].token.jwt, a[1].token.jwt);
    check_token(&a[0].token);
    check_token(&a[1].token);
    assert_int_equal(live_number(&em, "token_requests"), 1);
}

/* The one that carries out the fetch gives up waiting: the other carries it on. */
static void test_token_hasty_thread(void **state)
{
    asker hasty = {.wait_ms = 400}, patient = {.wait_ms = LIVE_SOON};
    int64_t start = live_ms();
    (void)state;
    live_fault(&em, "token-429", "1", "1");           /* the walk takes a second and a little */
    shared = auth_open(0);
    assert_int_equal(pthread_create(&hasty.thread, NULL, ask, &hasty), 0);
    await(live_fired(&em, "token-429") == 1, LIVE_SOON);
    assert_int_equal(pthread_create(&patient.thread, NULL, ask, &patient), 0);
    pthread_join(hasty.thread, NULL);
    pthread_join(patient.thread, NULL);
    assert_int_equal(hasty.status, AZREDIS_AGAIN);
    assert_null(hasty.token.jwt);
    assert_true(hasty.ended - start < 400 + LIVE_SLACK);
    assert_int_equal(patient.status, AZREDIS_OK);
    assert_true(patient.ended - start < 4000);
    check_token(&patient.token);
    assert_int_equal(live_number(&em, "token_requests"), 2);
}

static void test_token_refused(void **state)
{
    azredis_token t;
    azredis_error why = {0};
    (void)state;
    live_fault(&em, "token-error", "7000215", "1");
    shared = auth_open(0);
    assert_in_time(assert_int_equal(azredis_auth_token(shared, &t, 8000, &why), AZREDIS_E_ENTRA), 2000);
    assert_int_equal(why.aadsts, 7000215);
    assert_null(t.jwt);
    assert_int_equal(seen[0].of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 1);
}

/* ---- name look-up, dialling ---------------------------------------------------------------------- */

static atomic_int held = 1, looking;    /* held: names that end in .never are not answered */

static int slow_getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    size_t n = name ? strlen(name) : 0;
    int by_number = hints && (hints->ai_flags & AI_NUMERICHOST);    /* needs nobody to answer */
    if (n > 6 && !by_number && !strcmp(name + n - 6, ".never")) {
        atomic_fetch_add(&looking, 1);
        while (atomic_load(&held))
            live_nap(5);
        atomic_fetch_sub(&looking, 1);
        return EAI_AGAIN;
    }
    return getaddrinfo(name, service, hints, out);
}

static azredis_status admin_token(void *user, const char *scope, azredis_fetched *out)
{
    json_t *t = live_json(&em, "GET", "/token", "");
    const char *jwt = json_string_value(json_object_get(t, "access_token"));
    (void)user, (void)scope;
    out->len = strlen(jwt);
    memcpy(out->token, jwt, out->len);
    out->expires_in = (uint32_t)json_integer_value(json_object_get(t, "expires_in"));
    json_decref(t);
    return AZREDIS_OK;
}

static azredis_auth_options by_callback = {.identity = AZREDIS_ID_CALLBACK, .get_token = admin_token};

static void test_resolver_never_answers(void **state)
{
    azredis_options o = {.host = "cache.never:10000", .identity = &by_callback, .connect_ms = 300, .command_ms = 700};
    azredis_reply r = {0};
    azredis_error why;
    (void)state;
    atomic_store(&held, 1);
    client = live_new(&em, &o);
    assert_in_time(assert_true(azredis_connect(client, 1200, &why) < 0), 1200);
    assert_has(why.message, "cache.never");
    assert_in_time(azredis_command(client, &r, "PING"), 700);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    azredis_reply_free(&r);
    assert_true(atomic_load(&looking) >= 1 && atomic_load(&looking) <= 2);
    done();                             /* closing does not wait for them either */
    assert_true(atomic_load(&looking) >= 1);
    atomic_store(&held, 0);
    await(atomic_load(&looking) == 0, LIVE_SOON);
    live_nap(20);                       /* the last steps of detached threads, for the leak checker */
}

typedef struct dialler { int calls, dials, refuse; char hosts[256]; } dialler;

/* Needs three calls for each connection, as a hook that looks up names by itself does. */
static int dial_hook(void *user, const char *host, uint16_t port, intptr_t *sock)
{
    dialler *d = user;
    int fd;
    if (d->refuse || ++d->calls % 3)
        return 0;
    fd = live_dial(port);
    if (fd < 0)
        return -ECONNREFUSED;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    snprintf(d->hosts + strlen(d->hosts), sizeof d->hosts - strlen(d->hosts), "%s:%d ", host, port);
    d->dials++;
    *sock = fd;
    return 1;
}

static void test_dial_hook(void **state)
{
    dialler d = {0};
    azredis_port port = {.user = &d, .connect = dial_hook};
    azredis_options o = {.port = &port};
    azredis_error why = {0};
    char expected[128];
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    snprintf(expected, sizeof expected, "localhost:%d localhost:%d ", em.authority_port, em.gateway_port);
    assert_string_equal(d.hosts, expected);
    assert_int_equal(d.calls, 6);
    done();
    d.refuse = 1;                       /* never comes to an end */
    o.connect_ms = 300;
    o.identity = &by_callback;
    client = live_new(&em, &o);
    assert_in_time(assert_true(azredis_connect(client, 800, &why) < 0), 800);
    assert_has(why.message, "localhost");
    done();
}

/* ---- clocks ---------------------------------------------------------------------------------------- */

typedef struct clocks { int64_t steady_ms, wall_s; } clocks;

static uint64_t hook_now(void *user)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)((int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000 + 10000000000 + ((clocks *)user)->steady_ms);
}

static int64_t hook_unix(void *user) { return (int64_t)time(NULL) + ((clocks *)user)->wall_s; }

#define DAY_S 86400

/* The machine slept for a day: its token is dead, though nobody has said so. */
static void test_case27_slept_a_day(void **state)
{
    clocks k = {0, 0};
    azredis_port port = {.user = &k, .now_ms = hook_now, .unix_time = hook_unix};
    azredis_options o = {.port = &port};
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    k.steady_ms += DAY_S * 1000ll;
    assert_int_equal(live_incr(client, "n"), 2);
    assert_int_equal(live_stats(client).tokens, 2);
    assert_int_equal(live_stats(client).reconnects, 1);
    azredis_wait(client, 20);
    k.steady_ms += DAY_S * 1000ll;      /* between two waits */
    await((azredis_wait(client, 10), live_stats(client).reconnects == 2), LIVE_SOON);
    assert_int_equal(live_incr(client, "n"), 3);
    assert_int_equal(live_stats(client).commands_failed, 0);
    assert_int_equal(live_number(&em, "tokens_issued"), 3);
    done();
}

/* Somebody sets the wall clock: a token's life is not measured by it. */
static void test_case27_wall_clock_set(void **state)
{
    clocks k = {0, 0};
    azredis_port port = {.user = &k, .now_ms = hook_now, .unix_time = hook_unix};
    azredis_options o = {.port = &port};
    int64_t id;
    (void)state;
    client = live_open(&em, &o);
    id = live_client_id(client);
    k.wall_s = DAY_S;
    azredis_wait(client, 50);
    assert_int_equal(live_client_id(client), id);
    k.wall_s = -DAY_S;
    azredis_wait(client, 50);
    assert_int_equal(live_client_id(client), id);
    assert_int_equal(live_number(&em, "tokens_issued"), 1);
    done();
}

/* The port's clock may not go back. If it does all the same, the client comes to itself. */
static void test_case27_steady_clock_goes_back(void **state)
{
    clocks k = {0, 0};
    azredis_port port = {.user = &k, .now_ms = hook_now, .unix_time = hook_unix};
    azredis_options o = {.port = &port};
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    k.steady_ms -= 3600 * 1000;
    assert_in_time(assert_int_equal(live_incr(client, "n"), 2), 5000);
    azredis_wait(client, 100);
    assert_int_equal(live_incr(client, "n"), 3);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_threads_one_auth, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_rehearsal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_owner_closed_mid_fetch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_by_polling, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_lives_on, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_token_in_two_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_hasty_thread, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resolver_never_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dial_hook, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case27_slept_a_day, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case27_wall_clock_set, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case27_steady_clock_goes_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
