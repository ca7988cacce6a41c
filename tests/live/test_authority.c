/* Faults of the authority: errors, silence, garbage, odd tokens, an outage longer than the headroom. Each
 * test asks the emulator whether its fault fired as often as armed, and each error has to name the step,
 * the cause and the mend.
 *   cc -std=gnu11 -I. tests/live/test_authority.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "live.h"

static live em;
static azredis_client *client;
static const azredis_auth_options HASTY = {.request_ms = 400, .chain_ms = 500};   /* one try each */

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "4", NULL);
    return 0;
}

static int setup_hour(void **state)
{
    (void)state;
    live_start(&em, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_close(client);
    client = NULL;
    live_stop(&em);
    return 0;
}

static void done(void)
{
    azredis_close(client);
    client = NULL;
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* Text in front of a colon is the step; then come cause and mend. */
static void check_words(const azredis_error *e)
{
    assert_non_null(e->where);
    assert_true(e->where[0] != 0);
    if (strlen(e->message) < 40)
        fail_msg("hardly a cause and a mend: %s", e->message);
    assert_int_equal(live_leaks(e->message), 0);
}

/* A fault that hits one request; the client then gets its token all the same. */
static void passing(const char *fault, const char *value, azredis_status code, const char *part)
{
    azredis_options o = {.identity = &HASTY};
    const live_event *failed;
    long before = live_fired(&em, fault), issued = live_number(&em, "tokens_issued");
    memset(&live_seen, 0, sizeof live_seen);
    live_fault(&em, fault, value, "1");
    client = live_open(&em, &o);
    assert_int_equal(live_fired(&em, fault), before + 1);
    assert_true(live_number(&em, "tokens_issued") >= issued + 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESHED], 1);
    failed = live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0);
    check_words(&failed->error);
    assert_has(failed->error.message, part);
    assert_int_equal(failed->error.code, code);
    assert_int_equal(failed->ev.old_left_ms, AZREDIS_UNKNOWN);
    assert_true(failed->ev.next_try_ms >= 0 && failed->ev.next_try_ms <= 2000);
    assert_null(failed->ev.endpoint);
    assert_int_equal(live_number(&em, "trap_hits"), 0);
    done();
}

static void test_passing_errors(void **state)
{
    (void)state;
    passing("token-500", NULL, AZREDIS_E_ENTRA, "AADSTS90033");
    passing("token-hang", NULL, AZREDIS_E_TIMEOUT, "400 ms");
    passing("token-garbage", NULL, AZREDIS_E_JSON, "captive portal");
    passing("token-drip", NULL, AZREDIS_E_TIMEOUT, "400 ms");
}

/* A fault that somebody has to mend: connect ends at once, and tells what. */
static void lasting(const char *fault, const char *value, azredis_status code, int aadsts, const char *part)
{
    azredis_options o = {.identity = &HASTY};
    azredis_error why = {0};
    long before = live_fired(&em, fault);
    live_fault(&em, fault, value, "*");
    client = live_new(&em, &o);
    assert_in_time(assert_int_equal(azredis_connect(client, 8000, &why), code), 2500);
    check_words(&why);
    assert_has(why.message, part);
    assert_int_equal(why.aadsts, aadsts);
    assert_int_equal(why.retryable, 0);
    if (aadsts)
        assert_true(why.request_id[0] != 0);
    azredis_wait(client, 500);          /* the slow lane: not asked again so soon */
    assert_int_equal(live_fired(&em, fault), before + 1);
    assert_int_equal(live_number(&em, "trap_hits"), 0);
    assert_int_equal(live_number(&em, "connections_opened"), 0);
    live_disarm(&em, fault);
    done();
}

static void test_lasting_errors(void **state)
{
    (void)state;
    lasting("token-redirect", NULL, AZREDIS_E_HTTP, 0, "redirect");
    lasting("token-error", "7000215", AZREDIS_E_ENTRA, 7000215, "Secret ID");
    lasting("token-error", "7000222", AZREDIS_E_ENTRA, 7000222, "has expired; create a new one");
    lasting("token-error", "700016", AZREDIS_E_ENTRA, 700016, "check client id and tenant id");
    lasting("token-error", "90002", AZREDIS_E_ENTRA, 90002, "tenant id");
    lasting("token-error", "7000112", AZREDIS_E_ENTRA, 7000112, "disabled");
    lasting("token-error", "500011", AZREDIS_E_ENTRA, 500011, "resource");
    lasting("token-error", "123456", AZREDIS_E_ENTRA, 123456, "it says");
}

static void test_endless_answer(void **state)
{
    azredis_options o = {.identity = &HASTY};
    azredis_error why = {0};
    const live_event *failed;
    (void)state;
    live_fault(&em, "token-endless", NULL, "*");
    client = live_new(&em, &o);
    assert_in_time(assert_true(azredis_connect(client, 1500, &why) < 0), 1500);
    failed = live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0);
    assert_non_null(failed);
    check_words(&failed->error);
    assert_has(failed->error.message, "65536");
    assert_true(live_fired(&em, "token-endless") >= 1);
    done();
}

/* A real wrong secret, unknown tenant, missing variable. */
static void test_wrong_settings(void **state)
{
    azredis_options o = {0};
    azredis_error why = {0};
    char tenant[64];
    (void)state;
    snprintf(tenant, sizeof tenant, "%s", getenv("AZURE_TENANT_ID"));
    setenv("AZURE_CLIENT_SECRET", "no~such.secret", 1);
    client = live_new(&em, &o);
    assert_in_time(assert_int_equal(azredis_connect(client, 8000, &why), AZREDIS_E_ENTRA), 2000);
    assert_int_equal(why.aadsts, 7000215);
    done();
    setenv("AZURE_CLIENT_SECRET", em.secret, 1);
    setenv("AZURE_TENANT_ID", "unknown.example.org", 1);
    client = live_new(&em, &o);
    assert_in_time(assert_int_equal(azredis_connect(client, 8000, &why), AZREDIS_E_ENTRA), 2000);
    assert_int_equal(why.aadsts, 90002);
    done();
    setenv("AZURE_TENANT_ID", tenant, 1);
    unsetenv("AZURE_CLIENT_SECRET");
    client = live_new(&em, &o);
    assert_in_time(assert_int_equal(azredis_connect(client, 8000, &why), AZREDIS_E_NO_CREDENTIAL), 2000);
    assert_has(why.message, "AZURE_CLIENT_SECRET");
    done();
    setenv("AZURE_CLIENT_SECRET", em.secret, 1);
    assert_int_equal(live_number(&em, "tokens_issued"), 0);
    assert_int_equal(live_number(&em, "token_requests"), 2);
    client = live_open(&em, &o);        /* and with all mended it works */
    done();
}

/* Retry-After is a floor, whether within one walk or between two. */
static void test_retry_after(void **state)
{
    azredis_options o = {0};
    int64_t start = live_ms();
    (void)state;
    live_fault(&em, "token-429", "2", "1");
    client = live_open(&em, &o);
    assert_true(live_ms() - start >= 2000);
    assert_int_equal(live_number(&em, "token_requests"), 2);
    done();
    o.identity = &HASTY;                /* its walk is over before the 2 s are */
    live_fault(&em, "token-429", "2", "1");
    start = live_ms();
    client = live_open(&em, &o);
    assert_true(live_ms() - start >= 2000);
    assert_int_equal(live_number(&em, "token_requests"), 4);
    assert_int_equal(live_fired(&em, "token-429"), 2);
    assert_int_equal(live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0)->error.retry_after_ms, 2000);
    assert_true(live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0)->ev.next_try_ms >= 2000);
    done();
}

/* ---- odd tokens ------------------------------------------------------------------------------ */

static void test_token_without_oid(void **state)
{
    azredis_auth_options id = {.user = em.oid};
    azredis_options o = {0};
    azredis_error why = {0};
    (void)state;
    live_fault(&em, "token-no-oid", NULL, "1");       /* sub of an application is its oid */
    client = live_open(&em, &o);
    done();
    live_fault(&em, "token-no-oid", "1", "1");
    client = live_new(&em, &o);
    assert_in_time(assert_int_equal(azredis_connect(client, 8000, &why), AZREDIS_E_TOKEN), 2000);
    assert_has(why.message, "oid");
    assert_has(why.message, "user");
    check_words(&why);
    done();
    live_fault(&em, "token-no-oid", "1", "1");
    o.identity = &id;                                 /* the mend */
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    assert_int_equal(live_fired(&em, "token-no-oid"), 3);
    done();
}

static void test_token_size(void **state)
{
    azredis_options o = {0};
    azredis_error why = {0};
    (void)state;
    live_fault(&em, "token-size", "16384", "1");
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    done();
    live_fault(&em, "token-size", "16385", "1");
    client = live_new(&em, &o);
    assert_in_time(assert_int_equal(azredis_connect(client, 8000, &why), AZREDIS_E_TOKEN), 2000);
    assert_has(why.message, "16384");
    check_words(&why);
    assert_int_equal(live_number(&em, "connections_opened"), 1);      /* nothing was tried with it */
    assert_int_equal(live_fired(&em, "token-size"), 2);
    done();
}

/* ---- renewals -------------------------------------------------------------------------------- */

/* A renewed token that names another identity is refused; the old one lives; the next one is taken. */
static void test_wrong_oid_at_renewal(void **state)
{
    azredis_options o = {0};
    live_load l = {0};
    int64_t id;
    (void)state;
    client = live_open(&em, &o);
    id = live_client_id(client);
    live_fault(&em, "token-wrong-oid", NULL, "1");
    await((live_keep_busy(client, &l, 5), live_stats(client).reauths == 1), LIVE_SOON);
    live_settle(&em, client, &l);
    assert_int_equal(l.maybe + l.not_sent, 0);
    assert_int_equal(live_client_id(client), id);
    assert_int_equal(live_fired(&em, "token-wrong-oid"), 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 1);
    assert_has(live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0)->error.message, em.oid);
    assert_int_equal(live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0)->error.code, AZREDIS_E_TOKEN);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED], 0);
    assert_int_equal(live_number(&em, "auths_total"), 2);
    assert_int_equal(live_number(&em, "auths_accepted"), 2);
    assert_int_equal(live_stats(client).reconnects, 0);
    done();
}

/* A cache gives the same token again: no error, no AUTH; asked again, in time. */
static void test_same_token_at_renewal(void **state)
{
    azredis_options o = {.log_level = AZREDIS_LOG_INFO};
    live_load l = {0};
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "token-same", NULL, "1");
    await((live_keep_busy(client, &l, 5), live_stats(client).reauths == 1), LIVE_SOON);
    live_settle(&em, client, &l);
    assert_int_equal(l.maybe + l.not_sent, 0);
    assert_int_equal(live_fired(&em, "token-same"), 1);
    assert_int_equal(live_number(&em, "token_requests"), 3);
    assert_int_equal(live_number(&em, "tokens_issued"), 2);
    assert_int_equal(live_number(&em, "auths_total"), 2);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 0);
    assert_int_equal(live_logged(&live_seen, AZRI_LOG_TOKEN_SAME), 1);
    assert_int_equal(live_stats(client).reconnects, 0);
    done();
}

/* Service goes on until the token dies, not beyond, and comes back by itself. */
static void test_outage_longer_than_headroom(void **state)
{
    azredis_options o = {.identity = &HASTY, .command_ms = 1000};
    azredis_reply r = {0};
    int64_t born, last_good = 0, back, budget;
    size_t i, failures;
    (void)state;
    client = live_open(&em, &o);
    born = live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESHED, 0)->at;
    live_fault(&em, "token-500", NULL, "*");
    while (azredis_command(client, &r, "INCR", "n") == AZREDIS_OK) {
        last_good = live_ms();
        budget = live_stats(client).outage_budget_ms;
        assert_true(budget <= 4000 - (last_good - born) + 50);
        assert_true(last_good - born < 4500);
        azredis_wait(client, 10);
    }
    if (last_good - born < 3500)        /* to its last moments */
        fail_msg("service ended after %d ms of 4000: %s", (int)(last_good - born), r.error->message);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    assert_has(r.error->message, "AADSTS90033");      /* the cause, not just "no connection" */
    azredis_reply_free(&r);
    failures = live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED];
    assert_true(failures >= 1);
    azredis_wait(client, 1500);
    assert_true(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED] > failures);
    assert_true(live_stats(client).token_failures_in_row > 0);
    live_disarm(&em, "token-500");
    back = live_ms();
    await((azredis_wait(client, 10), live_connected(client)), LIVE_SOON);
    assert_true(live_ms() - back < 2000);             /* retry delays shrink with the token's life */
    (void)live_incr(client, "n");
    for (i = 0; i < live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED]; i++) {
        const live_event *e = live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, i);
        if (e->error.aadsts != 90033 && e->error.code != AZREDIS_E_TIMEOUT)     /* a walk's 500 ms may end in a try */
            fail_msg("failure %d: %s", (int)i, e->error.message);
        assert_true(e->ev.next_try_ms >= 0 && e->ev.next_try_ms <= 400);
        assert_true(e->ev.old_left_ms <= 4000 - (e->at - born) + 50);
    }
    assert_true(live_fired(&em, "token-500") >= (long)live_stats(client).token_failures);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_RESTORED], 1);
    assert_int_equal(live_stats(client).reconnects, 1);
    done();
}

/* The same while the authority says nothing at all: the old token is good, so a command succeeds; the call
 * stays for the renewal no longer than renew_ms (2 s) beside its own time. */
static void test_authority_hangs_past_headroom(void **state)
{
    azredis_options o = {.command_ms = 400};
    int64_t born;
    (void)state;
    client = live_open(&em, &o);
    born = live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESHED, 0)->at;
    live_fault(&em, "token-hang", NULL, "*");
    while (live_ms() - born < 3050)     /* headroom begins at 3 s */
        live_nap(10);
    assert_in_time((void)live_incr(client, "n"), 2400);
    assert_true(live_fired(&em, "token-hang") >= 1);
    live_disarm(&em, "token-hang");
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_passing_errors, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_lasting_errors, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_endless_answer, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_settings, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_retry_after, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_token_without_oid, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_token_size, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_oid_at_renewal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_token_at_renewal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_outage_longer_than_headroom, setup, teardown),
        cmocka_unit_test_setup_teardown(test_authority_hangs_past_headroom, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
