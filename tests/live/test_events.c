/* Each event, provoked by a fault: order, count and fields; and the log lines of each step.
 *   cc -std=gnu11 -I. tests/live/test_events.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"

#include <sys/un.h>

#define T AZREDIS_EV_TOKEN_REFRESHED
#define TF AZREDIS_EV_TOKEN_REFRESH_FAILED
#define R AZREDIS_EV_CONNECTION_REAUTHENTICATED
#define RF AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED
#define CF AZREDIS_EV_CONNECTION_FAILED
#define CR AZREDIS_EV_CONNECTION_RESTORED
#define EM AZREDIS_EV_ERROR_MESSAGE
#define IE AZREDIS_EV_INTERNAL_ERROR

#define LIFE 6000                       /* ms of a token, long against what a busy machine may be late by */

static live em;
static azredis_client *client;
static int peer = -1;                   /* listener of the scripted server */
static char peer_path[100];
static pthread_t peer_thread;

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

/* The events but for Log are exactly these, in this order; 0 at the end. TokenRefreshFailed may come again
 * and again, for each try. */
static void check_order(const int *expected)
{
    azredis_event_type type = AZREDIS_EV_LOG, before;
    size_t i;
    for (i = 0; i < live_seen.count; i++) {
        if (live_seen.at[i].ev.type == AZREDIS_EV_LOG)
            continue;
        before = type;
        type = live_seen.at[i].ev.type;
        if (type == TF && before == TF)
            continue;
        if ((int)type != *expected) {
            live_print_events(&live_seen);
            fail_msg("event %zu is %s, expected was %s", i, azredis_event_name(type),
                     *expected ? azredis_event_name((azredis_event_type)*expected) : "none");
        }
        expected++;
    }
    if (*expected)
        fail_msg("%s is missing", azredis_event_name((azredis_event_type)*expected));
    assert_int_equal(live_seen.dropped, 0);
    assert_int_equal(live_seen.lost, 0);
}

#define EXPECT(...) check_order((const int[]){__VA_ARGS__, 0})

/* The n-th of a type, which has to exist, with what every event has to have. */
static const live_event *event(azredis_event_type type, size_t n)
{
    const live_event *e = live_nth(&live_seen, type, n);
    int about_token = type == T || type == TF;
    if (!e)
        fail_msg("there is no %s %zu", azredis_event_name(type), n);
    assert_ptr_equal(e->ev.client, client);
    if (about_token)
        assert_null(e->ev.endpoint);
    else
        assert_non_null(e->ev.endpoint);
    if (!about_token && em.pid)
        assert_string_equal(e->ev.endpoint, em.endpoint);
    assert_null(e->ev.text);
    if (type == TF || type == RF || type == CF || type == EM || type == IE) {
        assert_non_null(e->ev.error);
        assert_true(e->error.code < 0);
        assert_true(e->error.message[0] != 0);
    } else {
        assert_null(e->ev.error);
    }
    return e;
}

#define assert_between(value, low, high)                                                           \
    do {                                                                                           \
        int64_t between = (value);                                                                 \
        if (between < (low) || between > (high))                                                   \
            fail_msg("%s is %" PRId64 ", not %d to %d", #value, between, (int)(low), (int)(high));  \
    } while (0)

static void wait_for(azredis_event_type type, size_t count)
{
    await((azredis_wait(client, 5), live_seen.of[type] >= count), LIVE_SOON);
}

/* ---- tokens and re-authentication -------------------------------------------------------------- */

static void test_names(void **state)
{
    static const char *const names[] = {"TokenRefreshed", "TokenRefreshFailed", "ConnectionReauthenticated",
                                        "ConnectionReauthenticationFailed", "ConnectionFailed",
                                        "ConnectionRestored", "ErrorMessage", "InternalError", "Log"};
    int i;
    (void)state;
    for (i = 1; i <= AZREDIS_EV_LOG; i++)
        assert_string_equal(azredis_event_name((azredis_event_type)i), names[i - 1]);
}

static void test_renewal(void **state)
{
    azredis_options o = {0};
    const live_event *e, *before;
    size_t i;
    (void)state;
    client = live_open(&em, &o);
    wait_for(R, 2);
    EXPECT(T, T, R, T, R);
    for (i = 0; i < 3; i++) {
        e = event(T, i);
        assert_between(e->ev.new_left_ms, LIFE * 2 / 3, LIFE);
        assert_between(e->ev.next_try_ms, LIFE / 6, LIFE * 7 / 10);
        if (i == 0)
            assert_int_equal(e->ev.old_left_ms, AZREDIS_UNKNOWN);
        else
            assert_between(e->ev.old_left_ms, LIFE / 10, LIFE * 5 / 12);
    }
    for (i = 0; i < 2; i++) {
        before = event(T, i + 1);
        e = event(R, i);
        assert_between(e->ev.old_left_ms, 100, before->ev.old_left_ms);
        assert_between(e->ev.new_left_ms, LIFE * 3 / 5, before->ev.new_left_ms);
    }
    done();
}

static void test_renewal_fails(void **state)
{
    azredis_auth_options once = {.chain_ms = 500};
    azredis_options o = {.identity = &once};
    const live_event *e;
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "token-500", NULL, "*");
    wait_for(TF, 1);
    live_disarm(&em, "token-500");
    wait_for(R, 1);
    EXPECT(T, TF, T, R);
    assert_true(live_fired(&em, "token-500") >= (long)live_seen.of[TF]);
    e = event(TF, 0);
    assert_between(e->ev.old_left_ms, LIFE / 10, LIFE * 5 / 12);
    assert_between(e->ev.next_try_ms, 0, LIFE / 10);
    assert_int_equal(e->ev.new_left_ms, AZREDIS_UNKNOWN);
    assert_int_equal(e->error.http_status, 500);
    assert_int_equal(e->error.aadsts, 90033);
    assert_int_equal(e->error.retryable, 1);
    done();
}

static void test_reauthentication_fails(void **state)
{
    azredis_options o = {0};
    const live_event *e;
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "auth-reject", NULL, "1");
    wait_for(R, 1);
    EXPECT(T, T, RF, T, R);
    assert_int_equal(live_fired(&em, "auth-reject"), 1);
    e = event(RF, 0);
    assert_int_equal(e->error.code, AZREDIS_E_AUTH);
    assert_has(e->error.message, "WRONGPASS");
    assert_between(e->ev.old_left_ms, 100, LIFE * 5 / 12);
    if (e->ev.next_try_ms != AZREDIS_UNKNOWN)         /* it hangs on the fetch of a fresh token */
        assert_between(e->ev.next_try_ms, 0, LIFE / 3);
    done();
}

/* ---- connections ------------------------------------------------------------------------------- */

static void test_connection_fails_and_returns(void **state)
{
    azredis_options o = {0};
    const live_event *e;
    (void)state;
    client = live_open(&em, &o);
    live_fault(&em, "refuse", NULL, "2");
    live_fault(&em, "expire-now", NULL, "1");
    wait_for(CR, 1);
    EXPECT(T, CF, CR);                  /* one of each, although two tries failed between */
    assert_int_equal(live_fired(&em, "refuse"), 2);
    e = event(CF, 0);
    assert_int_equal(e->error.code, AZREDIS_E_CLOSED);
    assert_between(e->ev.next_try_ms, 0, 200);
    e = event(CR, 0);
    assert_between(e->ev.new_left_ms, 3500000, 3600000);
    done();
}

static void test_first_connection_fails(void **state)
{
    azredis_options o = {0};
    (void)state;
    live_fault(&em, "refuse", NULL, "2");
    client = live_open(&em, &o);
    EXPECT(T, CF, CR);
    assert_int_equal(live_fired(&em, "refuse"), 2);
    done();
}

static void test_error_message(void **state)
{
    azredis_options o = {0};
    azredis_reply r = {0};
    azredis_message m;
    azredis_sub *s;
    const live_event *e;
    (void)state;
    client = live_open(&em, &o);
    assert_int_equal(azredis_command(client, &r, "SET", "k", "v"), AZREDIS_OK);
    assert_int_equal(azredis_command(client, &r, "INCR", "k"), AZREDIS_E_REDIS);
    assert_int_equal(r.fate, AZREDIS_ANSWERED);
    azredis_reply_free(&r);
    json_decref(live_redis(&em, "ACL", "SETUSER", em.oid, "resetchannels", NULL));
    await((azredis_wait(client, 5), live_connected(client)), LIVE_SOON);
    s = azredis_subscribe(client, AZREDIS_CHANNEL, "forbidden", NULL, NULL);
    assert_non_null(s);
    assert_int_equal(azredis_next(s, &m, LIVE_SOON), AZREDIS_E_NOPERM);
    azredis_unsubscribe(s);
    EXPECT(T, EM, EM);
    e = event(EM, 0);
    assert_int_equal(e->error.code, AZREDIS_E_REDIS);
    assert_has(e->error.message, "not an integer");
    e = event(EM, 1);
    assert_int_equal(e->error.code, AZREDIS_E_NOPERM);
    done();
}

/* Case 33, over RESP3 and RESP2: what the server says of a subscription is its caller's, and told. Refused when it is
 * asked for again, it is asked for with the next connection. */
static void test_case33_subscription_refused(void **state)
{
    int protocol;
    (void)state;
    for (protocol = 3; protocol >= 2; protocol--) {
        azredis_options o = {.protocol = protocol};
        azredis_error why;
        azredis_message m;
        azredis_sub *s, *p;
        size_t told = live_seen.of[EM];
        client = live_new(&em, &o);
        s = azredis_subscribe(client, AZREDIS_CHANNEL, "news", NULL, NULL);
        p = azredis_subscribe(client, AZREDIS_PATTERN, "n?ws", NULL, NULL);
        assert_int_equal(azredis_subscribed(s, 0, &why), AZREDIS_E_TIMEOUT);
        assert_has(why.message, "not confirmed");
        assert_int_equal(azredis_subscribed(s, LIVE_SOON, &why), AZREDIS_OK);
        assert_int_equal(azredis_subscribed(p, LIVE_SOON, NULL), AZREDIS_OK);
        json_decref(live_redis(&em, "PUBLISH", "news", "1", NULL));
        assert_int_equal(azredis_next(p, &m, LIVE_SOON), AZREDIS_OK);
        assert_string_equal(m.pattern.ptr, "n?ws");
        assert_string_equal(m.channel.ptr, "news");
        assert_int_equal(azredis_next(s, &m, LIVE_SOON), AZREDIS_OK);
        assert_null(m.pattern.ptr);
        json_decref(live_redis(&em, "ACL", "SETUSER", em.oid, "resetchannels", "&other", NULL));  /* cuts subscribers */
        await(azredis_subscribed(p, 5, &why) == AZREDIS_E_NOPERM, LIVE_SOON);
        assert_has(why.message, "NOPERM");
        assert_has(why.message, "channels");
        await(azredis_subscribed(s, 5, NULL) == AZREDIS_E_NOPERM, LIVE_SOON);
        assert_int_equal(azredis_next(s, &m, 0), AZREDIS_E_NOPERM);
        assert_int_equal(live_seen.of[EM], told + 2);
        json_decref(live_redis(&em, "ACL", "SETUSER", em.oid, "allchannels", NULL));
        live_fault(&em, "expire-now", NULL, "2");
        await(azredis_subscribed(s, 5, NULL) == AZREDIS_OK, LIVE_SOON);
        await(azredis_subscribed(p, 5, NULL) == AZREDIS_OK, LIVE_SOON);
        live_disarm(&em, "expire-now");
        json_decref(live_redis(&em, "PUBLISH", "news", "2", NULL));
        assert_int_equal(azredis_next(s, &m, LIVE_SOON), AZREDIS_OK);
        assert_int_equal(m.gap, 1);
        done();
    }
}

/* A queue of its own measure, and what it does when it is full. */
static void test_subscription_limits(void **state)
{
    azredis_options o = {0};
    azredis_sub_options how = {.channel = "news", .count = 2};
    azredis_error why;
    azredis_message m;
    azredis_sub *oldest, *newest, *closes, *narrow;
    char text[2] = "0";
    (void)state;
    client = live_open(&em, &o);
    oldest = azredis_subscribe_with(client, &how);
    how.overflow = AZREDIS_OVERFLOW_NEWEST;
    newest = azredis_subscribe_with(client, &how);
    how.overflow = AZREDIS_OVERFLOW_CLOSE;
    closes = azredis_subscribe_with(client, &how);
    how = (azredis_sub_options){.kind = AZREDIS_PATTERN, .channel = "*", .bytes = 3 * strlen("news1")};
    narrow = azredis_subscribe_with(client, &how);
    how.overflow = (azredis_overflow)3;
    assert_null(azredis_subscribe_with(client, &how));
    assert_null(azredis_subscribe_with(client, NULL));
    assert_int_equal(azredis_subscribed(narrow, LIVE_SOON, NULL), AZREDIS_OK);
    while (++text[0] <= '5')
        json_decref(live_redis(&em, "PUBLISH", "news", text, NULL));
    await((azredis_wait(client, 5), live_stats(client).messages == 18), LIVE_SOON);  /* 3 of one, 5 of three */
    assert_int_equal(azredis_next(oldest, &m, 0), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "4");
    assert_int_equal(m.lost, 3);
    assert_int_equal(azredis_next(newest, &m, 0), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "1");
    assert_int_equal(m.lost, 0);
    assert_int_equal(azredis_next(narrow, &m, 0), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "3");
    assert_int_equal(m.lost, 2);
    assert_int_equal(azredis_next(closes, &m, 0), AZREDIS_OK);
    assert_int_equal(azredis_next(closes, &m, 0), AZREDIS_OK);
    assert_string_equal(m.payload.ptr, "2");
    assert_int_equal(azredis_next(closes, &m, 0), AZREDIS_E_LIMIT);
    assert_int_equal(azredis_subscribed(closes, 0, &why), AZREDIS_E_LIMIT);
    assert_has(why.message, "waiting");
    assert_int_equal(live_stats(client).messages_lost, 9);
    EXPECT(T, EM);
    assert_int_equal(event(EM, 0)->error.code, AZREDIS_E_LIMIT);
    done();
}

/* ---- a server that breaks the protocol --------------------------------------------------------- */

static void *serve_garbage(void *unused)
{
    static const char text[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    char block[4096];
    int fd;
    while ((fd = accept(peer, NULL, NULL)) >= 0) {
        if (recv(fd, block, sizeof block, 0) > 0)
            live_send(fd, text, sizeof text - 1);
        while (recv(fd, block, sizeof block, 0) > 0) {
        }
        close(fd);
    }
    return unused;
}

static int setup_garbage(void **state)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const char *base = getenv("TMPDIR");
    (void)state;
    memset(&em, 0, sizeof em);
    snprintf(peer_path, sizeof peer_path, "%.60s/live-events-%d.sock", base && *base ? base : "/tmp", (int)getpid());
    memcpy(a.sun_path, peer_path, strlen(peer_path) + 1);
    peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(peer, (struct sockaddr *)&a, sizeof a) || listen(peer, 4) ||
        pthread_create(&peer_thread, NULL, serve_garbage, NULL))
        return -1;
    return 0;
}

static int teardown_garbage(void **state)
{
    teardown(state);
    shutdown(peer, SHUT_RDWR);          /* ends the accept */
    pthread_join(peer_thread, NULL);
    close(peer);
    unlink(peer_path);
    memset(&live_seen, 0, sizeof live_seen);
    return 0;
}

static void test_internal_error(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_PASSWORD, .user = "u", .password = "p"};
    azredis_options o = {.host = peer_path, .plaintext = 1, .identity = &id};
    azredis_error why = {0};
    const live_event *e;
    (void)state;
    client = live_new(&em, &o);
    assert_true(azredis_connect(client, 300, &why) < 0);
    assert_true(live_seen.of[IE] >= 1);
    assert_int_equal(live_seen.of[CF], 1);
    e = event(IE, 0);
    assert_int_equal(e->error.code, AZREDIS_E_RESP);
    assert_string_equal(e->ev.endpoint, peer_path);
    assert_has(e->error.message, "Redis protocol");
    done();
}

/* ---- log --------------------------------------------------------------------------------------- */

/* The first line with this number; its level and a part of its text. */
static void check_line(int number, azredis_level level, const char *part)
{
    size_t i;
    for (i = 0; i < live_seen.count; i++) {
        const live_event *e = &live_seen.at[i];
        if (e->ev.type != AZREDIS_EV_LOG || e->ev.number != number)
            continue;
        assert_int_equal(e->ev.level, level);
        assert_has(e->text, part);
        assert_null(e->ev.error);
        return;
    }
    fail_msg("no log line %d", number);
}

/* The numbers are a promise of the manual, so they stand here as numbers. */
static void test_log(void **state)
{
    azredis_auth_options once = {.chain_ms = 500};
    azredis_options o = {.identity = &once, .log_level = AZREDIS_LOG_DEBUG};
    size_t i;
    (void)state;
    client = live_open(&em, &o);
    check_line(100, AZREDIS_LOG_INFO, "default");
    check_line(101, AZREDIS_LOG_INFO, "renewal in");
    check_line(105, AZREDIS_LOG_INFO, getenv("AZURE_TENANT_ID"));
    check_line(105, AZREDIS_LOG_INFO, em.oid);
    check_line(200, AZREDIS_LOG_INFO, em.endpoint);
    check_line(201, AZREDIS_LOG_INFO, em.endpoint);
    check_line(300, AZREDIS_LOG_INFO, em.oid);
    check_line(301, AZREDIS_LOG_DEBUG, "accepted");
    check_line(204, AZREDIS_LOG_DEBUG, "handshake");
    assert_int_equal(live_logged(&live_seen, 204), 5);      /* AUTH, HELLO, SETINFO twice, PING */
    check_line(205, AZREDIS_LOG_INFO, "RESP3");
    live_fault(&em, "token-500", NULL, "*");
    wait_for(TF, 1);
    live_disarm(&em, "token-500");
    wait_for(R, 1);
    check_line(102, AZREDIS_LOG_WARNING, "next try in");
    assert_int_equal(live_logged(&live_seen, 102), live_seen.of[TF]);
    assert_int_equal(live_logged(&live_seen, 100), 2 + live_seen.of[TF]);
    assert_int_equal(live_logged(&live_seen, 101), 2);
    assert_int_equal(live_logged(&live_seen, 300), 2);
    assert_int_equal(live_logged(&live_seen, 301), 2);
    live_fault(&em, "refuse", NULL, "1");
    live_fault(&em, "expire-now", NULL, "1");
    wait_for(CR, 1);
    check_line(203, AZREDIS_LOG_WARNING, "next try in");
    assert_int_equal(live_logged(&live_seen, 203) + live_logged(&live_seen, 202), 2);
    assert_int_equal(live_logged(&live_seen, 200), 3);
    assert_int_equal(live_logged(&live_seen, 205), 2);
    assert_int_equal(live_seen.dropped, 0);
    for (i = 0; i < live_seen.count; i++)
        assert_true(live_seen.at[i].ev.type != AZREDIS_EV_LOG ||
                    (live_seen.at[i].ev.level <= AZREDIS_LOG_DEBUG && live_seen.at[i].text[0]));
    done();
}

/* Without the option: warnings and errors alone. With NONE: nothing, while the events stay. */
static void test_log_levels(void **state)
{
    azredis_options o = {0}, quiet = {.log_level = AZREDIS_LOG_NONE};
    size_t i;
    (void)state;
    live_fault(&em, "refuse", NULL, "1");
    client = live_open(&em, &o);
    assert_true(live_seen.of[AZREDIS_EV_LOG] >= 1);
    for (i = 0; i < live_seen.count; i++)
        assert_true(live_seen.at[i].ev.type != AZREDIS_EV_LOG || live_seen.at[i].ev.level <= AZREDIS_LOG_WARNING);
    done();
    memset(&live_seen, 0, sizeof live_seen);
    live_fault(&em, "refuse", NULL, "1");
    client = live_open(&em, &quiet);
    EXPECT(T, CF, CR);
    assert_int_equal(live_seen.of[AZREDIS_EV_LOG], 0);
    done();
}

/* One line each, with UTC time, no control characters but the newline. */
static void test_printed(void **state)
{
    azredis_options o = {.log_level = AZREDIS_LOG_DEBUG, .on_event = azredis_print_event};
    char *text = NULL, *line, *rest;
    size_t n = 0, lines = 0;
    FILE *f = open_memstream(&text, &n);
    int y, mo, d, h, mi, s;
    (void)state;
    o.event_user = f;
    client = live_open(&em, &o);
    done();
    fclose(f);
    assert_int_equal(live_leaks(text), 0);
    for (rest = text; (line = strsep(&rest, "\n")) && *line; lines++) {
        const char *c;
        if (sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d", &y, &mo, &d, &h, &mi, &s) != 6)
            fail_msg("no UTC time: %s", line);
        for (c = line; *c; c++)
            assert_true((unsigned char)*c >= 32 && *c != 127);
    }
    assert_true(lines >= 10);
    assert_true(rest == NULL || *rest == 0);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test_setup_teardown(test_renewal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_renewal_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reauthentication_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connection_fails_and_returns, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_first_connection_fails, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_error_message, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_case33_subscription_refused, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_subscription_limits, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_internal_error, setup_garbage, teardown_garbage),
        cmocka_unit_test_setup_teardown(test_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log_levels, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_printed, setup_hour, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
