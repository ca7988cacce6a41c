/* What stands on azredis_command_argv: scripts, scans and the helpers for common commands, on the real server; and on
 * a server of our own what a real one does seldom: other words, a connection that ends between name and text of a script.
 *   cc -std=gnu11 -I. tests/live/test_typed.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -lssl -lcrypto -lutil -pthread */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "azredis_entra.h"
#include "live.h"
#include "hostile.h"

#define KEYS 10000
#define FOUND_MAX (4 * KEYS)

static live em;
static azredis_client *c;

static int setup(void **state)
{
    azredis_options o = {0};
    (void)state;
    live_start(&em, NULL);
    c = live_open(&em, &o);
    return 0;
}

static int setup_resp2(void **state)
{
    azredis_options o = {.protocol = 2};
    (void)state;
    live_start(&em, NULL);
    c = live_open(&em, &o);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_close(c);
    live_stop(&em);
    return 0;
}

static void empty(void)
{
    assert_int_equal(azredis_command(c, NULL, "FLUSHALL"), AZREDIS_OK);
}

/* How often the server ran a command that one of its own names; 0: never. */
static long calls(const char *command)
{
    azredis_reply r = {0};
    char line[64];
    const char *at;
    long n = 0;
    snprintf(line, sizeof line, "cmdstat_%s:calls=", command);
    assert_int_equal(azredis_command(c, &r, "INFO", "commandstats"), AZREDIS_OK);
    if ((at = strstr(r.value->as.str, line)))
        n = atol(at + strlen(line));
    azredis_reply_free(&r);
    return n;
}

/* ---- scripts --------------------------------------------------------------------------------- */

static void test_name_of_a_script(void **state)
{
    azredis_script s;
    (void)state;
    azredis_script_init(&s, "return 1", 8);
    assert_string_equal(s.sha1, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");     /* as the manual of Redis has it */
}

/* By text once, then by name, and by text again where the server has forgotten it. */
static void test_case45_script(void **state)
{
    static const char text[] = "redis.call('incr', 'runs') return {KEYS[1], ARGV[1], #ARGV}";
    const azredis_str argv[] = {{"k\0\r\n", 4}, {"\0a", 2}, {"", 0}};
    azredis_reply r = {0};
    azredis_script s;
    long eval, by_name;
    int i;
    (void)state;
    empty();
    assert_int_equal(azredis_command(c, NULL, "SCRIPT", "FLUSH"), AZREDIS_OK);
    eval = calls("eval");
    by_name = calls("evalsha");
    azredis_script_init(&s, text, sizeof text - 1);
    for (i = 0; i < 4; i++) {
        if (i == 2)
            assert_int_equal(azredis_command(c, NULL, "SCRIPT", "FLUSH"), AZREDIS_OK);
        assert_int_equal(azredis_eval(c, &r, NULL, &s, 1, 3, argv), AZREDIS_OK);
        assert_int_equal(r.fate, AZREDIS_ANSWERED);
        assert_int_equal(r.value->len, 3);
        assert_memory_equal(r.value->as.items[0].as.str, "k\0\r\n", 4);
        assert_memory_equal(r.value->as.items[1].as.str, "\0a", 2);
        assert_int_equal(r.value->as.items[2].as.integer, 2);
    }
    assert_int_equal(calls("eval") - eval, 2);
    assert_int_equal(calls("evalsha") - by_name, 4);
    assert_int_equal(live_get_number(&em, "runs"), 4);
    azredis_reply_free(&r);
}

static void test_script_that_only_reads(void **state)
{
    azredis_reply r = {0};
    azredis_script s;
    (void)state;
    azredis_script_init(&s, "return redis.call('incr', 'runs')", 33);
    s.read_only = 1;
    assert_int_equal(azredis_eval(c, &r, NULL, &s, 0, 0, NULL), AZREDIS_E_REDIS);
    assert_has(r.error->message, "read-only");
    azredis_reply_free(&r);
}

/* No answer that could say NOSCRIPT, no reply to put it into, more arguments than the stack has room for. */
static void test_script_in_other_ways(void **state)
{
    const azredis_call unheard = {.flags = AZREDIS_NO_REPLY};
    azredis_str many[200];
    azredis_reply r = {0};
    azredis_script s;
    int64_t n = 0;
    (void)state;
    empty();
    assert_int_equal(azredis_command(c, NULL, "SCRIPT", "FLUSH"), AZREDIS_OK);
    azredis_script_init(&s, "return redis.call('incrby', 'runs', 1 + #KEYS + #ARGV)", 54);
    assert_int_equal(azredis_eval(c, NULL, &unheard, &s, 0, 0, NULL), AZREDIS_OK);
    assert_int_equal(azredis_eval(c, NULL, NULL, &s, 0, 0, NULL), AZREDIS_OK);
    for (n = 0; n < 200; n++) many[n] = azredis_z("x");
    assert_int_equal(azredis_eval(c, &r, NULL, &s, 150, 200, many), AZREDIS_OK);
    assert_int_equal(azredis_int(r.value, &n), AZREDIS_OK);
    assert_int_equal(n, 203);
    assert_int_equal(azredis_eval(c, &r, NULL, &s, 2, 1, many), AZREDIS_E_ARG);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    azredis_reply_free(&r);
}

/* ---- a server of our own ----------------------------------------------------------------------- */

typedef struct other {
    const char *unknown;                /* what it says to EVALSHA; NULL: nothing, it is gone */
    int         by_name, by_text;       /* how often it was asked */
    int         gone;                   /* 1: when the text comes */
} other;

static void other_script(peer *p, void *user)
{
    static const char hello[] = "%1\r\n$5\r\nproto\r\n:3\r\n";
    other *o = user;
    char w[8][64], echo[96];
    int n, more = 1;
    while (more && (n = peer_command(p, w)) > 0) {
        if (!strcmp(w[0], "HELLO")) {
            more = peer_puts(p, hello);
        } else if (!strcmp(w[0], "PING") && n > 1) {
            snprintf(echo, sizeof echo, "$%zu\r\n%s\r\n", strlen(w[1]), w[1]);
            more = peer_puts(p, echo);
        } else if (!strcmp(w[0], "EVALSHA")) {
            o->by_name++;
            more = o->unknown && peer_puts(p, o->unknown);
        } else if (!strcmp(w[0], "EVAL")) {
            o->by_text++;
            more = !o->gone && peer_puts(p, ":7\r\n");
        } else if (!strcmp(w[0], "SCAN")) {
            more = peer_puts(p, "*2\r\n*0\r\n*0\r\n");
        } else if (!strcmp(w[0], "HSCAN")) {            /* pairs, by pages; the last is empty */
            more = peer_puts(p, strcmp(w[2], "0") ? "*2\r\n$1\r\n0\r\n*0\r\n"
                : "*2\r\n$20\r\n18446744073709551615\r\n*2\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n*2\r\n$1\r\nb\r\n$1\r\n2\r\n");
        } else {
            more = peer_puts(p, "+OK\r\n");
        }
    }
}

static hostile server;

static azredis_client *other_open(other *with)
{
    const azredis_auth_options id = {.identity = AZREDIS_ID_PASSWORD, .user = "someone", .password = "open sesame"};
    azredis_options o = {.plaintext = 1, .identity = &id};
    char host[32];
    hostile_start(&server, 0, other_script, with);
    snprintf(host, sizeof host, "127.0.0.1:%d", server.port);
    o.host = host;
    return live_open(&em, &o);
}

static void test_case45_script_on_other_servers(void **state)
{
    static const struct { other with; azredis_status st; azredis_fate fate; int by_name, by_text; } rows[] = {
        {{.unknown = "-NOSCRIPT No matching script. Please use EVAL.\r\n"}, AZREDIS_OK, AZREDIS_ANSWERED, 1, 1},
        {{.unknown = "-NOSCRIPT No matching script.\r\n"}, AZREDIS_OK, AZREDIS_ANSWERED, 1, 1},
        {{.unknown = "-ERR NOSCRIPT it is not\r\n"}, AZREDIS_E_REDIS, AZREDIS_ANSWERED, 1, 0},
        {{.unknown = NULL}, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, 1, 0},
        {{.unknown = "-NOSCRIPT No matching script.\r\n", .gone = 1}, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, 1, 1},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        other with = rows[i].with;
        azredis_client *d = other_open(&with);
        azredis_reply r = {0};
        azredis_script s;
        azredis_script_init(&s, "return 7", 8);
        assert_int_equal(azredis_eval(d, &r, NULL, &s, 0, 0, NULL), rows[i].st);
        assert_int_equal(r.fate, rows[i].fate);
        azredis_reply_free(&r);
        azredis_close(d);
        hostile_stop(&server);
        assert_int_equal(with.by_name, rows[i].by_name);
        assert_int_equal(with.by_text, rows[i].by_text);
    }
}

static void test_scan_on_other_servers(void **state)
{
    other with = {0};
    azredis_client *d = other_open(&with);
    azredis_scan it = {.kind = AZREDIS_HSCAN, .key = azredis_z("h")}, bad = {0};
    (void)state;
    assert_true(azredis_scan_next(d, &it));
    assert_string_equal(it.name->as.str, "a");
    assert_string_equal(it.value->as.str, "1");
    assert_true(azredis_scan_next(d, &it));
    assert_string_equal(it.name->as.str, "b");
    assert_string_equal(it.value->as.str, "2");
    assert_false(azredis_scan_next(d, &it));
    assert_int_equal(it.reply.status, AZREDIS_OK);
    azredis_scan_free(&it);
    assert_false(azredis_scan_next(d, &bad));
    assert_int_equal(bad.reply.status, AZREDIS_E_RESP);
    azredis_scan_free(&bad);
    azredis_close(d);
    hostile_stop(&server);
}

/* ---- scans ----------------------------------------------------------------------------------- */

/* Every key that is there throughout, while others come. */
static void test_scan(void **state)
{
    static unsigned char seen[KEYS];
    azredis_scan it = {.match = "old:*", .type = "string", .count = 500};
    int i, found = 0;
    (void)state;
    empty();
    assert_int_equal(azredis_command(c, NULL, "EVAL", "for i = 0, 9999 do redis.call('set', 'old:' .. i, i) end "
                                     "redis.call('lpush', 'old:list', 1)", "0"), AZREDIS_OK);
    memset(seen, 0, sizeof seen);
    while (azredis_scan_next(c, &it)) {
        assert_null(it.value);
        assert_memory_equal(it.name->as.str, "old:", 4);
        assert_in_range(i = atoi(it.name->as.str + 4), 0, KEYS - 1);
        seen[i] = 1;
        assert_true(++found < FOUND_MAX);
        if (found % 20 == 0) {
            char key[24];
            snprintf(key, sizeof key, "new:%d", found);
            assert_int_equal(azredis_set(c, NULL, key, azredis_z("x")), AZREDIS_OK);
        }
    }
    assert_int_equal(it.reply.status, AZREDIS_OK);
    for (i = 0; i < KEYS; i++) assert_true(seen[i]);
    azredis_scan_free(&it);
}

static void test_scan_of_one_key(void **state)
{
    static const struct { azredis_scan_kind kind; const char *fill; } rows[] = {
        {AZREDIS_SSCAN, "for i = 1, 2000 do redis.call('sadd', 'k', 'm' .. i) end"},
        {AZREDIS_HSCAN, "for i = 1, 2000 do redis.call('hset', 'k', 'm' .. i, i) end"},
        {AZREDIS_ZSCAN, "for i = 1, 2000 do redis.call('zadd', 'k', i, 'm' .. i) end"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        azredis_scan it = {.kind = rows[i].kind, .key = azredis_z("k")};
        unsigned char seen[2001] = {0};
        int n, sum = 0;
        double value;
        empty();
        assert_int_equal(azredis_command(c, NULL, "EVAL", rows[i].fill, "0"), AZREDIS_OK);
        while (azredis_scan_next(c, &it)) {
            assert_in_range(n = atoi(it.name->as.str + 1), 1, 2000);
            sum += !seen[n];
            seen[n] = 1;
            assert_true((it.value != NULL) == (rows[i].kind != AZREDIS_SSCAN));
            if (!it.value)
                continue;
            assert_int_equal(azredis_double(it.value, &value), AZREDIS_OK);
            assert_int_equal((int)value, n);
        }
        assert_int_equal(it.reply.status, AZREDIS_OK);
        assert_int_equal(sum, 2000);
        azredis_scan_free(&it);
    }
}

/* The server's error, an early end, and a start anew. */
static void test_scan_that_ends(void **state)
{
    azredis_scan it = {.kind = AZREDIS_HSCAN, .key = azredis_z("k")};
    (void)state;
    empty();
    assert_int_equal(azredis_set(c, NULL, "k", azredis_z("no hash")), AZREDIS_OK);
    assert_false(azredis_scan_next(c, &it));
    assert_int_equal(it.reply.status, AZREDIS_E_REDIS);
    assert_has(it.reply.error->message, "WRONGTYPE");
    assert_int_equal(azredis_del(c, NULL, "k", NULL), AZREDIS_OK);
    assert_int_equal(azredis_hset(c, NULL, "k", "f", azredis_z("v"), NULL), AZREDIS_OK);
    assert_true(azredis_scan_next(c, &it));            /* goes on */
    assert_string_equal(it.value->as.str, "v");
    azredis_scan_free(&it);
    assert_false(azredis_scan_next(NULL, &it));
    assert_int_equal(it.reply.status, AZREDIS_E_NOMEM);
    azredis_scan_free(&it);
    azredis_scan_free(NULL);
}

/* ---- common commands ------------------------------------------------------------------------- */

static void test_helpers(void **state)
{
    const azredis_str bytes = {"\0\r\n", 3};
    azredis_reply r = {0};
    int64_t n = -1;
    char room[24];
    azredis_str low = azredis_digits(room, INT64_MIN);
    (void)state;
    empty();
    assert_int_equal(low.len, 20);
    assert_memory_equal(low.ptr, "-9223372036854775808", 20);
#define IS(call, number) assert_int_equal(call, AZREDIS_OK), assert_int_equal(n, number)
    assert_int_equal(azredis_ping(c, NULL), AZREDIS_OK);
    assert_int_equal(azredis_get(c, &r, "k"), AZREDIS_OK);
    assert_int_equal(r.value->type, AZREDIS_T_NIL);
    assert_int_equal(azredis_set(c, NULL, "k", bytes), AZREDIS_OK);
    assert_int_equal(azredis_get(c, &r, "k"), AZREDIS_OK);
    assert_int_equal(r.value->len, 3);
    assert_memory_equal(r.value->as.str, bytes.ptr, 3);
    IS(azredis_set_new(c, NULL, "k", bytes, &n), 0);
    IS(azredis_set_new(c, NULL, "k2", bytes, &n), 1);
    assert_int_equal(azredis_set_for(c, NULL, "k3", bytes, 100000), AZREDIS_OK);
    IS(azredis_call_int(c, NULL, 2, "TTL", "k3", bytes, bytes, &n), 100);
    IS(azredis_exists(c, NULL, "k3", &n), 1);
    IS(azredis_expire(c, NULL, "k2", -1, &n), 1);
    IS(azredis_exists(c, NULL, "k2", &n), 0);
    IS(azredis_del(c, NULL, "k", &n), 1);
    IS(azredis_incr_by(c, NULL, "n", -5, &n), -5);
    IS(azredis_hset(c, NULL, "h", "f", bytes, &n), 1);
    assert_int_equal(azredis_hget(c, &r, "h", "f"), AZREDIS_OK);
    assert_int_equal(r.value->len, 3);
    assert_int_equal(azredis_hgetall(c, &r, "h"), AZREDIS_OK);
    assert_int_equal(azredis_field(r.value, "f")->len, 3);
    IS(azredis_lpush(c, NULL, "l", bytes, &n), 1);
    IS(azredis_lpush(c, NULL, "l", bytes, &n), 2);
    IS(azredis_publish(c, NULL, "nobody", bytes, &n), 0);
    assert_int_equal(azredis_incr_by(c, &r, "l", 1, &n), AZREDIS_E_REDIS);
    assert_int_equal(r.fate, AZREDIS_ANSWERED);
    assert_has(r.error->message, "WRONGTYPE");
    azredis_reply_free(&r);
}

#define T(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest resp3[] = {
        T(test_name_of_a_script), T(test_case45_script), T(test_script_that_only_reads), T(test_script_in_other_ways),
        T(test_case45_script_on_other_servers), T(test_scan_on_other_servers), T(test_scan), T(test_scan_of_one_key),
        T(test_scan_that_ends), T(test_helpers),
    };
    const struct CMUnitTest resp2[] = {T(test_case45_script), T(test_scan_of_one_key), T(test_helpers)};
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(resp3, setup, teardown) + cmocka_run_group_tests(resp2, setup_resp2, teardown);
}
