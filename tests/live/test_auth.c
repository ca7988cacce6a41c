/* Faults of AUTH: refused, without a word, slow; on connecting and on renewal under load. Each test asks the
 * emulator whether its fault fired as often as armed.
 *   cc -std=gnu11 -I. tests/live/test_auth.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"

static live em;
static azredis_client *client;

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "6", NULL);
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

/* ---- AUTH refused ---------------------------------------------------------------------------- */

static void check_resp3(azredis_client *c)
{
    azredis_reply r = {0};
    assert_int_equal(azredis_command(c, &r, "CLIENT", "INFO"), AZREDIS_OK);
    assert_has(azredis_text(r.value).ptr, "resp=3");
    azredis_reply_free(&r);
}

/* `fault` hits the AUTH of the first connection: one forced fresh token, then success, still RESP3. */
static void refused_on_connect(const char *fault)
{
    azredis_options o = {0};
    live_fault(&em, fault, NULL, "1");
    client = live_open(&em, &o);
    check_resp3(client);
    assert_int_equal(live_fired(&em, fault), 1);
    assert_int_equal(live_number(&em, "tokens_issued"), 2);
    assert_int_equal(live_number(&em, "auths_total"), 2);
    assert_int_equal(live_number(&em, "auths_accepted"), 1);
    assert_int_equal(live_number(&em, "connections_opened"), 2);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 1);
    assert_int_equal(live_nth(&live_seen, AZREDIS_EV_CONNECTION_FAILED, 0)->error.code, AZREDIS_E_AUTH);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_RESTORED], 1);
    done();
}

static void test_case15_auth_rejected_on_connect(void **state)
{
    (void)state;
    refused_on_connect("auth-reject");
}

static void test_auth_silent_on_connect(void **state)
{
    (void)state;
    refused_on_connect("auth-silent");
}

/* `fault` hits a re-AUTH under load: the old token serves on, a fresh one is fetched and accepted. */
static void refused_on_renewal(const char *fault)
{
    azredis_options o = {0};
    live_load l = {0};
    const live_event *failed, *again;
    azredis_stats_data d;
    int64_t id;
    client = live_open(&em, &o);
    id = live_client_id(client);
    live_fault(&em, fault, NULL, "1");
    await((live_keep_busy(client, &l, 20), live_seen.of[AZREDIS_EV_CONNECTION_REAUTHENTICATED] > 0), LIVE_SOON);
    live_settle(&em, client, &l);
    assert_int_equal(l.maybe + l.not_sent, 0);
    assert_int_equal(live_get_number(&em, "n"), l.acknowledged);
    assert_int_equal(live_client_id(client), id);
    assert_int_equal(live_fired(&em, fault), 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED], 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 0);
    failed = live_nth(&live_seen, AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED, 0);
    again = live_nth(&live_seen, AZREDIS_EV_CONNECTION_REAUTHENTICATED, 0);
    assert_true(failed < again);
    assert_int_equal(failed->error.code, AZREDIS_E_AUTH);
    assert_true(failed->ev.old_left_ms > 0 && failed->ev.old_left_ms < 6000);
    assert_true(again->ev.old_left_ms > 0 && again->ev.old_left_ms <= failed->ev.old_left_ms);
    d = live_stats(client);
    assert_int_equal(d.tokens, 3);      /* the first, the refused, the fresh */
    assert_int_equal(d.reauths, 1);
    assert_int_equal(d.reauth_failures, 1);
    assert_int_equal(d.reconnects, 0);
    assert_int_equal(live_number(&em, "connections_opened"), 1);
    done();
}

static void test_case21_auth_rejected_on_renewal(void **state)
{
    (void)state;
    refused_on_renewal("auth-reject");
}

/* As Redis 7.2 to 8.0: no answer at all. Without the fence every later answer would go one too far. */
static void test_case21_auth_silent_on_renewal(void **state)
{
    (void)state;
    refused_on_renewal("auth-silent");
}

/* Each command around a silent AUTH gets its own answer: it echoes a number of its own. */
static void test_auth_silent_echoes(void **state)
{
    azredis_options o = {0};
    azredis_cmd cmd[40];
    azredis_str word[40][2];
    char text[40][24];
    int64_t id = 0, until = live_ms() + LIVE_SOON;
    azredis_reply r = {0};
    uint32_t i;
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "auth-silent", NULL, "1");
    while (live_stats(client).reauths == 0 && live_ms() < until) {
        for (i = 0; i < 40; i++) {
            word[i][0] = (azredis_str){"ECHO", 4};
            word[i][1] = (azredis_str){text[i], (size_t)snprintf(text[i], 24, "id-%" PRId64, ++id)};
            cmd[i] = (azredis_cmd){2, word[i]};
        }
        assert_int_equal(azredis_exec(client, &r, NULL, cmd, 40), AZREDIS_OK);
        for (i = 0; i < 40; i++)
            assert_string_equal(azredis_text(&r.value->as.items[i]).ptr, text[i]);
    }
    azredis_reply_free(&r);
    assert_int_equal(live_fired(&em, "auth-silent"), 1);
    assert_int_equal(live_stats(client).reauths, 1);
    assert_int_equal(live_stats(client).reauth_failures, 1);
    assert_int_equal(live_stats(client).reconnects, 0);
    done();
}

/* The identity is no user of the cache: told at once and clearly, then looked at seldom. */
static void test_auth_rejected_for_ever(void **state)
{
    azredis_options o = {0};
    azredis_error why = {0};
    azredis_reply r = {0};
    (void)state;
    live_fault(&em, "auth-reject", NULL, "*");
    client = live_new(&em, &o);
    assert_in_time(assert_int_equal(azredis_connect(client, 10000, &why), AZREDIS_E_AUTH), 3000);
    assert_has(why.message, em.oid);
    assert_has(why.message, "WRONGPASS");
    assert_int_equal(live_fired(&em, "auth-reject"), 2);
    assert_in_time(azredis_command(client, &r, "GET", "n"), 0);
    assert_int_equal(r.status, AZREDIS_E_AUTH);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    assert_has(r.error->message, em.oid);
    azredis_reply_free(&r);
    azredis_wait(client, 2000);
    assert_int_equal(live_fired(&em, "auth-reject"), 2);
    assert_int_equal(live_number(&em, "token_requests"), 2);
    done();
}

/* ---- AUTH slow ------------------------------------------------------------------------------- */

/* A token of an hour from the emulator; said to live a minute and to want renewal soon. */
static azredis_status short_token(void *user, const char *scope, azredis_fetched *out)
{
    json_t *t = live_json(&em, "GET", "/token", "");
    const char *jwt = json_string_value(json_object_get(t, "access_token"));
    (void)user, (void)scope;
    out->len = strlen(jwt);
    memcpy(out->token, jwt, out->len);
    out->expires_in = 60;
    out->refresh_in = 1;
    json_decref(t);
    return AZREDIS_OK;
}

/* Azure may take long to look at a token. What stands behind AUTH waits with it: its own time does not run. */
static void test_case16_auth_takes_12_s(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_CALLBACK, .get_token = short_token};
    azredis_options o = {.identity = &id};
    int64_t start, longest = 0;
    long delayed = 0;
    json_t *all;
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "auth-delay", "12000", "1");
    await((azredis_wait(client, 20), live_fired(&em, "auth-delay") == 1), LIVE_SOON);
    while (live_stats(client).reauths == 0) {
        start = live_ms();
        (void)live_incr(client, "n");   /* fails the test unless it succeeds */
        if (live_ms() - start > longest)
            longest = live_ms() - start;
    }
    assert_true(longest > 9000 && longest < 14000);
    assert_int_equal(live_stats(client).reconnects, 0);
    assert_int_equal(live_stats(client).commands_failed, 0);
    all = live_records(&em);
    delayed = (long)json_integer_value(json_object_get(json_array_get(json_object_get(all, "auths"), 1), "delayed_ms"));
    json_decref(all);
    assert_true(delayed >= 12000);
    done();
}

static void test_auth_slower_than_auth_ms(void **state)
{
    azredis_options o = {.auth_ms = 500};
    azredis_error why = {0};
    (void)state;
    live_fault(&em, "auth-delay", "3000", "*");
    client = live_new(&em, &o);
    assert_in_time(assert_true(azredis_connect(client, 1500, &why) < 0), 1500);
    assert_has(why.message, "AUTH");
    assert_true(live_fired(&em, "auth-delay") >= 1);
    live_disarm(&em, "auth-delay");
    assert_int_equal(azredis_connect(client, LIVE_SOON, &why), AZREDIS_OK);
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_case15_auth_rejected_on_connect, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_auth_silent_on_connect, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case21_auth_rejected_on_renewal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case21_auth_silent_on_renewal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_auth_silent_echoes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_auth_rejected_for_ever, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case16_auth_takes_12_s, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_auth_slower_than_auth_ms, setup_hour, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
