/* azredis_block: commands that block, in slices, through renewals and cuts.
 *   cc -std=gnu11 -I. tests/live/test_block.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"
#include <stdatomic.h>

#ifndef RENEWALS
#define RENEWALS 10
#endif
#define ENTRIES  1000
#define CUTS     5

static live em;
static azredis_client *client;          /* closed by the teardown if the test failed before */
static azredis_reply r;

static int setup_hour(void **state)
{
    (void)state;
    live_start(&em, NULL);
    return 0;
}

/* Ten of them last as long as six lives. */
static int setup_short(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "2.5", NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_close(client);
    client = NULL;
    azredis_reply_free(&r);
    live_stop(&em);
    return 0;
}

/* `line` is divided at blanks. */
static azredis_status block(const char *line, uint32_t ms)
{
    char room[200], *w;
    azredis_call how = {.timeout_ms = ms};
    azredis_str argv[16];
    int n = 0;
    snprintf(room, sizeof room, "%s", line);
    for (w = strtok(room, " "); w; w = strtok(NULL, " "))
        argv[n++] = (azredis_str){w, strlen(w)};
    return azredis_block(client, &r, &how, n, argv);
}

static void fresh(int protocol, int threads)
{
    azredis_options o = {.protocol = protocol};
    client = live_new(&em, &o);
    if (threads)
        assert_int_equal(azredis_start(client), AZREDIS_OK);
}

/* What another client does meanwhile. */
typedef struct later {
    pthread_t   thread;
    long        ms;
    const char *word, *argument;
} later;

/* Cuts the connection that waits for this command. 0: none does. */
static int kill_blocked(const char *command)
{
    json_t *list = live_redis(&em, "CLIENT", "LIST", NULL);
    char mark[40], id[24], *lines = strdup(json_string_value(list)), *line;
    int found = 0;
    snprintf(mark, sizeof mark, " cmd=%s ", command);
    for (line = strtok(lines, "\n"); line; line = strtok(NULL, "\n"))
        if (strstr(line, mark) && strstr(line, " flags=b") && sscanf(line, "id=%23[0-9]", id) == 1) {
            json_decref(live_redis(&em, "CLIENT", "KILL", "ID", id, NULL));
            found = 1;
        }
    free(lines);
    json_decref(list);
    return found;
}

static void *do_later(void *user)
{
    later *l = user;
    live_nap(l->ms);
    if (strcmp(l->word, "kill") == 0)
        await(kill_blocked(l->argument), LIVE_SOON);
    if (strcmp(l->argument, "xread") == 0)
        json_decref(live_redis(&em, "XADD", "x", "*", "n", "between", NULL));
    if (strcmp(l->word, "kill") != 0)
        json_decref(live_redis(&em, l->word, l->argument, "late", NULL));
    return NULL;
}

static void later_on(later *l, long ms, const char *word, const char *argument)
{
    l->ms = ms;
    l->word = word;
    l->argument = argument;
    assert_int_equal(pthread_create(&l->thread, NULL, do_later, l), 0);
}

static void popped(const char *list, const char *what)
{
    assert_int_equal(r.status, AZREDIS_OK);
    assert_int_equal(r.value->len, 2);
    assert_string_equal(r.value->as.items[0].as.str, list);
    assert_string_equal(r.value->as.items[1].as.str, what);
}

static void test_what_is_there_and_what_is_not(void **state)
{
    (void)state;
    fresh(3, 0);
    assert_int_equal(azredis_command(client, NULL, "RPUSH", "q", "a", "b", "c"), AZREDIS_OK);
    assert_int_equal(block("BLPOP q 0", 0), AZREDIS_OK);
    popped("q", "a");
    assert_int_equal(block("BLMOVE q other LEFT LEFT 5", 0), AZREDIS_OK);
    assert_string_equal(r.value->as.str, "b");
    assert_int_equal(block("BLMPOP 0 2 none q LEFT", 0), AZREDIS_OK);
    assert_string_equal(r.value->as.items[1].as.items[0].as.str, "c");
    assert_in_time(block("BLPOP q 0.2", 0), 200);
    assert_int_equal(r.status, AZREDIS_OK);
    assert_int_equal(r.value->type, AZREDIS_T_NIL);
    assert_in_time(block("BZPOPMIN z 0", 100), 100);                    /* the call's own limit */
    assert_int_equal(r.value->type, AZREDIS_T_NIL);
    assert_in_time(block("XREAD BLOCK 100 STREAMS x $", 0), 100);
    assert_int_equal(r.value->type, AZREDIS_T_NIL);
    assert_int_equal(block("BLPOP other none 0", 0), AZREDIS_OK);
    popped("other", "b");
    assert_int_equal(azredis_command(client, NULL, "SET", "text", "1"), AZREDIS_OK);
    assert_int_equal(block("XREAD BLOCK 100 STREAMS text $", 0), AZREDIS_E_REDIS);
    assert_has(r.error->message, "WRONGTYPE");
    assert_int_equal(block("BLPOP text 0", 0), AZREDIS_E_REDIS);
    assert_int_equal(block("GET text", 0), AZREDIS_E_ARG);
    assert_int_equal(block("BLPOP q soon", 0), AZREDIS_E_ARG);
    assert_int_equal(live_stats(client).connections, 2);                /* one was leased each time */
}

/* The shared connection goes on while a call waits, and so do the tokens of both. */
static void for_ever(int protocol, int threads, int many)
{
    later l;
    azredis_stats_data d;
    long renewals;
    fresh(protocol, threads);
    assert_int_equal(block("BLPOP warm 0.01", 0), AZREDIS_OK);
    renewals = live_number(&em, "reauths_accepted");
    later_on(&l, many * 1700, "RPUSH", "q");
    assert_int_equal(block("BLPOP q 0", 0), AZREDIS_OK);
    popped("q", "late");
    pthread_join(l.thread, NULL);
    renewals = live_number(&em, "reauths_accepted") - renewals;
    if (renewals < 2 * many * 4 / 5)                                  /* of both connections */
        fail_msg("only %ld AUTHs", renewals);
    d = live_stats(client);
    assert_int_equal(d.connects, 2);
    assert_int_equal(d.reconnects + d.reauth_failures + d.commands_failed, 0);
    assert_int_equal(live_number(&em, "connections_expired"), 0);
}

static void test_for_ever_through_ten_renewals(void **state)
{
    (void)state;
    for_ever(3, 0, RENEWALS);
}

static void test_for_ever_with_threads_and_resp2(void **state)
{
    (void)state;
    for_ever(2, 1, RENEWALS / 3);
}

/* Adds entries 1 to ENTRIES at random times. */
static void *add_entries(void *user)
{
    static live_events seen;            /* not those of the client on the other thread */
    azredis_options o = {.on_event = live_on_event, .event_user = &seen};
    azredis_client *c = live_new(&em, &o);
    char number[12];
    unsigned seed = 5;
    int i;
    for (i = 1; i <= ENTRIES; i++) {
        snprintf(number, sizeof number, "%d", i);
        if (rand_r(&seed) % 4 == 0)
            live_nap(rand_r(&seed) % 20);
        if (azredis_command(c, NULL, "XADD", "s", "*", "n", number) != AZREDIS_OK)
            break;
        if (i % (ENTRIES / CUTS) == ENTRIES / CUTS / 2)
            await(kill_blocked("xread"), LIVE_SOON);
    }
    azredis_close(c);
    *(int *)user = seen.leaks;
    return NULL;
}

/* Slices of 600 ms, and their connection is cut under five of them. The first begins at `$`. */
static void test_nothing_added_to_a_stream_is_missed(void **state)
{
    pthread_t thread;
    char line[100], last[50] = "$";
    int seen = 0, leaks = -1;
    (void)state;
    fresh(3, 0);
    assert_int_equal(azredis_command(client, NULL, "XADD", "s", "*", "n", "old"), AZREDIS_OK);
    assert_int_equal(block("BLPOP warm 0.01", 0), AZREDIS_OK);
    assert_int_equal(pthread_create(&thread, NULL, add_entries, &leaks), 0);
    while (seen < ENTRIES) {
        const azredis_value *entries;
        uint32_t i;
        snprintf(line, sizeof line, "XREAD COUNT 7 BLOCK 0 STREAMS other s $ %s", last);
        if (block(line, LIVE_SOON) != AZREDIS_OK)
            fail_msg("after %d: %s", seen, r.error->message);
        assert_int_not_equal(r.value->type, AZREDIS_T_NIL);
        entries = r.value->type == AZREDIS_T_MAP ? &r.value->as.items[1] : &r.value->as.items[0].as.items[1];
        for (i = 0; i < entries->len; i++) {
            const azredis_value *entry = &entries->as.items[i];
            assert_int_equal(atoi(entry->as.items[1].as.items[1].as.str), ++seen);
            snprintf(last, sizeof last, "%s", entry->as.items[0].as.str);
        }
    }
    pthread_join(thread, NULL);
    assert_int_equal(leaks, 0);
    assert_int_equal(live_stats(client).connects, 2 + CUTS);
}

static void *close_later(void *user)
{
    live_nap(*(int *)user);
    azredis_close(client);
    return NULL;
}

/* An element may have been taken by a slice whose connection was cut; one that was not sent is sent again. */
static void test_the_connection_is_lost(void **state)
{
    later l;
    (void)state;
    fresh(3, 0);
    assert_int_equal(block("BLPOP q 0.01", 0), AZREDIS_OK);
    later_on(&l, 200, "kill", "blpop");
    assert_int_equal(block("BLPOP q 5", 0), AZREDIS_E_CLOSED);
    assert_int_equal(r.fate, AZREDIS_MAYBE_RUN);
    pthread_join(l.thread, NULL);
    later_on(&l, 200, "kill", "xread");
    assert_int_equal(block("XREAD BLOCK 0 STREAMS x $", LIVE_SOON), AZREDIS_OK);   /* added while nobody was connected */
    assert_int_not_equal(r.value->type, AZREDIS_T_NIL);
    pthread_join(l.thread, NULL);
    assert_int_equal(live_stats(client).connects, 4);
    json_decref(live_redis(&em, "RPUSH", "q", "x", NULL));
    assert_int_equal(block("BLPOP q 5", 0), AZREDIS_OK);
    popped("q", "x");
}

static void test_close_ends_it_at_once(void **state)
{
    pthread_t thread;
    int ms = 300;
    (void)state;
    fresh(3, 1);
    assert_int_equal(pthread_create(&thread, NULL, close_later, &ms), 0);
    assert_in_time(block("BLPOP q 0", 0), ms);
    assert_int_equal(r.status, AZREDIS_E_CLOSED);
    assert_int_equal(r.fate, AZREDIS_MAYBE_RUN);
    pthread_join(thread, NULL);
    client = NULL;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_there_and_what_is_not, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_for_ever_through_ten_renewals, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_for_ever_with_threads_and_resp2, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_added_to_a_stream_is_missed, setup_short, teardown),
        cmocka_unit_test_setup_teardown(test_the_connection_is_lost, setup_hour, teardown),
        cmocka_unit_test_setup_teardown(test_close_ends_it_at_once, setup_hour, teardown),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
