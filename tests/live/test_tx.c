/* Transactions and leases on the real server, while tokens of 2 seconds are renewed: what came of each is told apart, AUTH
 * never stands within one, and nothing of one connection's state reaches the next caller.
 *   cc -std=gnu11 -I. tests/live/test_tx.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -lssl -lcrypto -lutil -pthread */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "azredis_entra.h"
#include "live.h"
#include "hostile.h"
#include <stdatomic.h>

static live em;
static azredis_client *client;
static azredis_reply r;

static int setup(void **state)
{
    azredis_options o = {.protocol = *state ? 2 : 3};
    live_start(&em, "--token-ttl", "2", NULL);
    client = live_open(&em, &o);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_reply_free(&r);
    azredis_close(client);
    client = NULL;
    live_stop(&em);
    return 0;
}

/* ---- asking ---- */

#define WORDS_MAX 8
typedef struct words { azredis_str at[WORDS_MAX]; } words;

/* "SET k v": blanks divide. */
static azredis_cmd cmd_of(words *w, const char *text)
{
    azredis_cmd c = {0, w->at};
    for (; *text; c.argc++) {
        size_t n = strcspn(text, " ");
        assert_true(c.argc < WORDS_MAX);
        w->at[c.argc] = (azredis_str){text, n};
        text += n + (text[n] == ' ');
    }
    return c;
}

static azredis_status atomic_with(const azredis_condition *k, size_t conditions, const char *const *text, size_t n)
{
    azredis_call how = {.flags = AZREDIS_ATOMIC, .conditions = k, .condition_count = conditions};
    words w[8];
    azredis_cmd c[8];
    size_t i;
    assert_true(n <= 8);
    for (i = 0; i < n; i++)
        c[i] = cmd_of(&w[i], text[i]);
    return azredis_exec(client, &r, &how, c, n);
}

#define ATOMIC(k, conditions, ...) atomic_with(k, conditions, (const char *const[]){__VA_ARGS__}, \
                                               sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static azredis_status lease_ask(azredis_lease *l, const char *text)
{
    words w;
    azredis_cmd c = cmd_of(&w, text);
    return azredis_lease_command_argv(l, &r, NULL, c.argc, c.argv);
}

static azredis_lease *lease(void)
{
    azredis_error e;
    azredis_lease *l = azredis_lease_open(client, LIVE_SOON, &e);
    if (!l) fail_msg("lease: %s", e.message);
    return l;
}

static int64_t item(uint32_t i)
{
    int64_t n = -1;
    assert_true(r.value && r.value->type == AZREDIS_T_ARRAY && i < r.value->len);
    assert_int_equal(azredis_int(&r.value->as.items[i], &n), AZREDIS_OK);
    return n;
}

/* ---- transactions ---- */

static void test_case44_what_came_of_it(void **state)
{
    (void)state;
    assert_int_equal(ATOMIC(NULL, 0, "SET k 5", "INCR k", "GET k"), AZREDIS_OK);
    assert_int_equal(r.fate, AZREDIS_ANSWERED);
    assert_int_equal(r.value->len, 3);
    assert_int_equal(item(1), 6);
    assert_int_equal(item(2), 6);
    /* An error of one is an element; the others ran. */
    assert_int_equal(ATOMIC(NULL, 0, "SET t text", "INCR t", "INCR k"), AZREDIS_OK);
    assert_int_equal(r.value->as.items[1].type, AZREDIS_T_ERROR);
    assert_int_equal(item(2), 7);
    /* One that is not queued: none runs, and its reason is told. */
    assert_int_equal(ATOMIC(NULL, 0, "INCR k", "NONSENSE k"), AZREDIS_E_REDIS);
    assert_int_equal(r.fate, AZREDIS_ANSWERED);
    assert_has(r.error->message, "NONSENSE");
    assert_int_equal(live_get_number(&em, "k"), 7);
    /* What would break the connection does not get there. */
    assert_int_equal(ATOMIC(NULL, 0, "INCR k", "AUTH x"), AZREDIS_E_ARG);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    assert_int_equal(ATOMIC(NULL, 0, "INCR k", "EXEC", "INCR k"), AZREDIS_E_ARG);
    assert_int_equal(ATOMIC(NULL, 0, "INCR k"), AZREDIS_OK);
    assert_int_equal(item(0), 8);
    assert_int_equal(live_stats(client).connections, 2);
    /* A database that it has chosen is not the next one's. */
    assert_int_equal(ATOMIC(NULL, 0, "SELECT 1", "SET k other"), AZREDIS_OK);
    assert_int_equal(ATOMIC(NULL, 0, "GET k"), AZREDIS_OK);
    assert_int_equal(item(0), 8);
}

/* Case 45: within a transaction there is no second try by text; the others ran. */
static void test_case45_an_unknown_script_within_a_transaction(void **state)
{
    (void)state;
    assert_int_equal(ATOMIC(NULL, 0, "INCR k", "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 0", "INCR k"), AZREDIS_OK);
    assert_int_equal(r.value->as.items[1].type, AZREDIS_T_ERROR);
    assert_has(r.value->as.items[1].as.str, "NOSCRIPT");
    assert_int_equal(item(2), 2);
    assert_int_equal(ATOMIC(NULL, 0, "EVAL return(7) 0"), AZREDIS_OK);
    assert_int_equal(item(0), 7);
}

/* A server of our own. queued, exec, multi: what it says to a command, to EXEC, and to MULTI if not OK. */
typedef struct odd { const char *queued, *exec, *multi; int multis, incrs; } odd;

static void odd_script(peer *p, void *user)
{
    odd *o = user;
    char w[8][64], echo[96];
    int n, more = 1, multi = 0;
    while (more && (n = peer_command(p, w)) > 0) {
        if (!strcmp(w[0], "HELLO")) {
            more = peer_puts(p, "%1\r\n$5\r\nproto\r\n:3\r\n");
        } else if (!strcmp(w[0], "PING") && n > 1) {
            snprintf(echo, sizeof echo, "$%zu\r\n%s\r\n", strlen(w[1]), w[1]);
            more = peer_puts(p, echo);
        } else if (!strcmp(w[0], "EXEC")) {
            multi = 0;
            more = peer_puts(p, o->exec);
        } else if (!strcmp(w[0], "MULTI")) {
            o->multis++;
            multi = !o->multi;
            more = peer_puts(p, o->multi ? o->multi : "+OK\r\n");
        } else {
            o->incrs += !strcmp(w[0], "INCR");
            more = peer_puts(p, multi ? o->queued : "+OK\r\n");
        }
    }
}

/* The shared connection goes to one thread of it, the leased one to the other. */
static void odd_open(odd *with, hostile *server, hostile *second)
{
    const azredis_auth_options id = {.identity = AZREDIS_ID_PASSWORD, .user = "someone", .password = "open sesame"};
    azredis_options o = {.plaintext = 1, .identity = &id};
    char host[32];
    hostile_start(server, 0, odd_script, with);
    hostile_beside(second, server);
    snprintf(host, sizeof host, "127.0.0.1:%d", server->port);
    o.host = host;
    azredis_close(client);
    client = live_open(&em, &o);
}

/* Were MULTI refused, the commands behind it would run one by one: on a connection that is new to it, it goes alone. */
static void test_multi_is_refused(void **state)
{
    static hostile server, second;
    static odd with = {.multi = "-NOPERM this user has no permissions to run the 'multi' command\r\n",
                       .exec = "-ERR EXEC without MULTI\r\n"};
    int again;
    (void)state;
    odd_open(&with, &server, &second);
    for (again = 1; again <= 2; again++) {
        assert_int_equal(ATOMIC(NULL, 0, "INCR a", "INCR b"), AZREDIS_E_NOPERM);
        assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    }
    azredis_close(client);
    client = NULL;
    hostile_stop(&second);
    hostile_stop(&server);
    assert_int_equal(with.multis, 2);
    assert_int_equal(with.incrs, 0);
}

/* Case 44: every answer that EXEC of two commands can have; the connection is used again unless it is out of step. */
static void test_case44_what_exec_may_be_answered(void **state)
{
    static const struct { const char *queued, *exec; azredis_status st; const char *says; int lost; } rows[] = {
        {"+QUEUED\r\n", "*2\r\n:1\r\n:2\r\n", AZREDIS_OK, "", 0},
        {"+QUEUED\r\n", "*-1\r\n", AZREDIS_E_CONFLICT, "changed by another client", 0},
        {"+QUEUED\r\n", "_\r\n", AZREDIS_E_CONFLICT, "changed by another client", 0},
        {"-ERR wrong number of arguments\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n", AZREDIS_E_REDIS,
         "wrong number of arguments", 0},
        {"+QUEUED\r\n", "-EXECABORT Transaction discarded.\r\n", AZREDIS_E_REDIS, "EXECABORT", 0},
        {"+QUEUED\r\n", "*2\r\n-WRONGTYPE no\r\n:2\r\n", AZREDIS_OK, "", 0},
        {"+QUEUED\r\n", "*1\r\n:1\r\n", AZREDIS_E_RESP, "another number of answers", 1},
        {"+QUEUED\r\n", "*3\r\n:1\r\n:2\r\n:3\r\n", AZREDIS_E_RESP, "another number of answers", 1},
        {"+QUEUED\r\n", "*0\r\n", AZREDIS_E_RESP, "another number of answers", 1},
        {"+QUEUED\r\n", ":2\r\n", AZREDIS_E_RESP, "another number of answers", 1},
    };
    static hostile server, second;
    size_t i;
    int again;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        odd with = {.queued = rows[i].queued, .exec = rows[i].exec};
        odd_open(&with, &server, &second);
        for (again = 0; again < 2; again++) {
            if (ATOMIC(NULL, 0, "INCR a", "INCR b") != rows[i].st)
                fail_msg("%s: %s: %s", rows[i].exec, azredis_status_text(r.status), r.error ? r.error->message : "");
            assert_int_equal(r.fate, AZREDIS_ANSWERED);
            if (r.error) assert_has(r.error->message, rows[i].says);
            else assert_int_equal(item(1), 2);
        }
        azredis_close(client);
        client = NULL;
        if (hostile_served(&server) + hostile_served(&second) != 2 + rows[i].lost) fail_msg("%s: %ld connections", rows[i].exec,
            hostile_served(&server) + hostile_served(&second));
        hostile_stop(&second);
        hostile_stop(&server);
        assert_true(with.multis >= 2);
    }
}

static void close_it(azredis_client *c, const azredis_reply *lent, void *user)
{
    (void)lent;
    (void)user;
    azredis_close(c);
}

/* A callback that runs while a transaction waits for its answers closes the client under it. */
static void test_closed_by_a_callback(void **state)
{
    static const azredis_str ping = {"PING", 4};
    words w;
    azredis_condition k = {{"a", 1}, cmd_of(&w, "GET a"), AZREDIS_IF_NIL, {NULL, 0}};
    size_t conditions;
    (void)state;
    for (conditions = 0; conditions < 2; conditions++) {
        azredis_options o = {0};
        azredis_close(client);
        client = live_open(&em, &o);
        assert_int_equal(azredis_submit(client, NULL, 1, &ping, close_it, NULL), AZREDIS_OK);
        assert_int_equal(ATOMIC(&k, conditions, "INCR closed"), AZREDIS_E_CLOSED);
        assert_int_equal(r.status, AZREDIS_E_CLOSED);
        client = NULL;
    }
}

static void test_case44_conditions(void **state)
{
    words w[2];
    azredis_condition k[2];
    static const struct { const char *test; azredis_relation relation; const char *value; int holds; } rows[] = {
        {"GET a", AZREDIS_IF_EQUAL, "7", 1}, {"GET a", AZREDIS_IF_EQUAL, "8", 0}, {"GET a", AZREDIS_IF_NOT_EQUAL, "8", 1},
        {"GET a", AZREDIS_IF_NOT_EQUAL, "7", 0}, {"GET a", AZREDIS_IF_LESS, "10", 1}, {"GET a", AZREDIS_IF_LESS, "7", 0},
        {"GET a", AZREDIS_IF_GREATER, "6.5", 1}, {"GET a", AZREDIS_IF_GREATER, "7", 0}, {"GET no", AZREDIS_IF_NIL, "", 1},
        {"GET a", AZREDIS_IF_NIL, "", 0}, {"GET a", AZREDIS_IF_NOT_NIL, "", 1}, {"GET no", AZREDIS_IF_NOT_NIL, "", 0},
        {"GET no", AZREDIS_IF_EQUAL, "", 0}, {"GET no", AZREDIS_IF_NOT_EQUAL, "7", 1}, {"GET no", AZREDIS_IF_LESS, "7", 0},
        {"EXISTS a", AZREDIS_IF_EQUAL, "1", 1}, {"EXISTS no", AZREDIS_IF_EQUAL, "0", 1}, {"LLEN l", AZREDIS_IF_GREATER, "1", 1},
        {"HGET h f", AZREDIS_IF_EQUAL, "v", 1}, {"SISMEMBER s x", AZREDIS_IF_EQUAL, "1", 1}, {"ZSCORE z m", AZREDIS_IF_EQUAL, "1.5", 1},
        {"ZSCORE z m", AZREDIS_IF_GREATER, "1.5", 0}
    };
    size_t i;
    int64_t ran = 0;
    (void)state;
    assert_int_equal(ATOMIC(NULL, 0, "SET a 7", "RPUSH l 1 2", "HSET h f v", "SADD s x", "ZADD z 1.5 m"), AZREDIS_OK);
    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        k[0] = (azredis_condition){{"a", 1}, cmd_of(&w[0], rows[i].test), rows[i].relation, {rows[i].value, strlen(rows[i].value)}};
        ran += rows[i].holds;
        if (ATOMIC(k, 1, "INCR n") != (rows[i].holds ? AZREDIS_OK : AZREDIS_E_CONDITION))
            fail_msg("%s %d %s: %s", rows[i].test, (int)rows[i].relation, rows[i].value, r.error ? r.error->message : "holds");
        if (!rows[i].holds) assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    }
    assert_int_equal(live_get_number(&em, "n"), ran);
    /* The second of two decides as well; a test that the server refuses is an error. */
    k[0] = (azredis_condition){{"a", 1}, cmd_of(&w[0], "GET a"), AZREDIS_IF_EQUAL, {"7", 1}};
    k[1] = (azredis_condition){{"l", 1}, cmd_of(&w[1], "LLEN l"), AZREDIS_IF_EQUAL, {"3", 1}};
    assert_int_equal(ATOMIC(k, 2, "INCR n"), AZREDIS_E_CONDITION);
    k[1].test = cmd_of(&w[1], "INCR l");
    assert_int_equal(ATOMIC(k, 2, "INCR n"), AZREDIS_E_REDIS);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    /* A watched key that changes in between: by the test itself, so that it is certain. */
    k[1].test = cmd_of(&w[1], "RPOP l");
    k[1].relation = AZREDIS_IF_NOT_NIL;
    assert_int_equal(ATOMIC(k, 2, "INCR n"), AZREDIS_E_CONFLICT);
    assert_int_equal(r.fate, AZREDIS_ANSWERED);
    assert_int_equal(live_get_number(&em, "n"), ran);
    assert_int_equal(live_stats(client).connects, 2);           /* one leased connection has served them all */
}

/* Two counters that only transactions change are always the same, whoever looks and whatever is renewed meanwhile. */
static struct { atomic_int enough, wrong; atomic_llong done; } run;

static void *count_both(void *user)
{
    azredis_call how = {.flags = AZREDIS_ATOMIC};
    azredis_reply mine = {0};
    words w[2];
    azredis_cmd c[2];
    int64_t a = 0, b = 0;
    (void)user;
    c[0] = cmd_of(&w[0], "INCR one");
    c[1] = cmd_of(&w[1], "INCR two");
    while (!atomic_load(&run.enough)) {
        if (azredis_exec(client, &mine, &how, c, 2) != AZREDIS_OK || azredis_int(&mine.value->as.items[0], &a) ||
            azredis_int(&mine.value->as.items[1], &b) || a != b) {
            if (mine.error) print_message("%s\n", mine.error->message);
            atomic_fetch_add(&run.wrong, 1);
        }
        atomic_fetch_add(&run.done, 1);
    }
    azredis_reply_free(&mine);
    return NULL;
}

static void test_threads_across_renewals(void **state)
{
    pthread_t t[4];
    size_t i;
    (void)state;
    memset(&run, 0, sizeof run);
    assert_int_equal(azredis_start(client), AZREDIS_OK);
    for (i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, count_both, NULL), 0);
    await(live_stats(client).reauths >= 12 || atomic_load(&run.wrong), 4 * LIVE_SOON);
    atomic_store(&run.enough, 1);
    for (i = 0; i < 4; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    assert_int_equal(atomic_load(&run.wrong), 0);
    assert_int_equal(live_get_number(&em, "one"), atomic_load(&run.done));
    assert_int_equal(live_get_number(&em, "two"), atomic_load(&run.done));
    assert_true(atomic_load(&run.done) > 500);
    assert_int_equal(live_stats(client).reconnects, 0);
}

/* ---- leases ---- */

static void test_lease_state_ends_with_it(void **state)
{
    azredis_lease *l = lease();
    (void)state;
    assert_int_equal(lease_ask(l, "WATCH k"), AZREDIS_OK);
    assert_int_equal(lease_ask(l, "MULTI"), AZREDIS_OK);
    assert_int_equal(lease_ask(l, "INCR k"), AZREDIS_OK);
    json_decref(live_redis(&em, "SET", "k", "5", NULL));
    assert_int_equal(lease_ask(l, "EXEC"), AZREDIS_OK);
    assert_int_equal(r.value->type, AZREDIS_T_NIL);
    assert_int_equal(lease_ask(l, "SELECT 1"), AZREDIS_OK);
    assert_int_equal(lease_ask(l, "SET k other"), AZREDIS_OK);
    assert_int_equal(lease_ask(l, "AUTH x"), AZREDIS_E_ARG);
    assert_int_equal(lease_ask(l, "SUBSCRIBE c"), AZREDIS_E_ARG);
    azredis_lease_close(l);
    l = lease();
    assert_int_equal(lease_ask(l, "GET k"), AZREDIS_OK);
    assert_string_equal(r.value->as.str, "5");
    assert_int_equal(lease_ask(l, "MULTI"), AZREDIS_OK);
    assert_int_equal(lease_ask(l, "INCR k"), AZREDIS_OK);
    azredis_lease_close(l);                                     /* left open: it never runs */
    l = lease();
    assert_int_equal(lease_ask(l, "GET k"), AZREDIS_OK);
    assert_string_equal(r.value->as.str, "5");
    azredis_lease_close(l);
    assert_int_equal(live_stats(client).connects, 4);
}

static void test_lease_lost(void **state)
{
    azredis_lease *l = lease();
    char id[24];
    (void)state;
    assert_int_equal(lease_ask(l, "CLIENT ID"), AZREDIS_OK);
    snprintf(id, sizeof id, "%" PRId64, r.value->as.integer);
    assert_int_equal(lease_ask(l, "MULTI"), AZREDIS_OK);
    assert_int_equal(lease_ask(l, "INCR k"), AZREDIS_OK);
    json_decref(live_redis(&em, "CLIENT", "KILL", "ID", id, NULL));
    assert_true(lease_ask(l, "EXEC") < 0);
    assert_true(lease_ask(l, "INCR k") < 0);                    /* not by another connection, where it would run alone */
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    azredis_lease_close(l);
    l = lease();
    assert_int_equal(lease_ask(l, "INCR k"), AZREDIS_OK);
    assert_int_equal(r.value->as.integer, 1);
    azredis_lease_close(l);
    assert_int_equal(live_stats(client).reconnects, 0);
}

static void test_lease_limit(void **state)
{
    azredis_options o = {.leases = 1};
    azredis_error e;
    azredis_lease *l;
    (void)state;
    azredis_close(client);
    client = live_open(&em, &o);
    l = lease();
    assert_null(azredis_lease_open(client, 50, &e));
    assert_int_equal(e.code, AZREDIS_E_FULL);
    assert_string_equal(e.at.state, "ready");
    assert_int_equal(ATOMIC(NULL, 0, "INCR k"), AZREDIS_E_FULL);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    assert_string_equal(r.error->at.state, "ready");
    azredis_lease_close(l);
    assert_int_equal(ATOMIC(NULL, 0, "INCR k"), AZREDIS_OK);
}

int main(void)
{
    static int resp2 = 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_case44_what_came_of_it, setup, teardown),
        cmocka_unit_test_prestate_setup_teardown(test_case44_what_came_of_it, setup, teardown, &resp2),
        cmocka_unit_test_setup_teardown(test_case45_an_unknown_script_within_a_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_multi_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case44_what_exec_may_be_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_closed_by_a_callback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case44_conditions, setup, teardown),
        cmocka_unit_test_prestate_setup_teardown(test_case44_conditions, setup, teardown, &resp2),
        cmocka_unit_test_setup_teardown(test_threads_across_renewals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lease_state_ends_with_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lease_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lease_limit, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
