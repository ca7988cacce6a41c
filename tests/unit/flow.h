/* What the tests of identities share: memory that is watched, options, environment, one walk for a token in virtual
 * time, and the server that it asks. Freed memory and error texts are searched for secrets. */
#ifndef TEST_FLOW_H
#define TEST_FLOW_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#define AZREDIS_ENTRA_IMPLEMENTATION
#pragma GCC diagnostic ignored "-Wunused-function"
#include "azredis_entra.h"

#define TENANT "11111111-2222-3333-4444-555555555555"
#define CLIENT "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
#define SECRET "abc~8Q+/=&%# \"'\xc3\xa9"
#define OID    "99999999-8888-7777-6666-555555555555"
#define START  1800000000

/* Life of a day from START, as a managed identity gets it. */
static const char day_token[] =
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsIng1dCI6IlZJaC1FdVA1SzV6blF2MUdLb2Q4dHRRMXRfbyIsImtpZCI6IlZJ"
    "aC1FdVA1SzV6blF2MUdLb2Q4dHRRMXRfbyJ9.eyJhdWQiOiJodHRwczovL3JlZGlzLmF6dXJlLmNvbSIsImlzcyI6Imh0dHB"
    "zOi8vc3RzLndpbmRvd3MubmV0LzExMTExMTExLTIyMjItMzMzMy00NDQ0LTU1NTU1NTU1NTU1NS8iLCJpYXQiOjE4MDAwMDA"
    "wMDAsIm5iZiI6MTgwMDAwMDAwMCwiZXhwIjoxODAwMDg2NDAwLCJhaW8iOiJFMj09IiwiYXBwaWQiOiJhYWFhYWFhYS1iYmJ"
    "iLWNjY2MtZGRkZC1lZWVlZWVlZWVlZWUiLCJhcHBpZGFjciI6IjIiLCJpZHAiOiJodHRwczovL3N0cy53aW5kb3dzLm5ldC8"
    "xMTExMTExMS0yMjIyLTMzMzMtNDQ0NC01NTU1NTU1NTU1NTUvIiwiaWR0eXAiOiJhcHAiLCJvaWQiOiI5OTk5OTk5OS04ODg"
    "4LTc3NzctNjY2Ni01NTU1NTU1NTU1NTUiLCJyaCI6IjEuQVhFQS4iLCJzdWIiOiI5OTk5OTk5OS04ODg4LTc3NzctNjY2Ni0"
    "1NTU1NTU1NTU1NTUiLCJ0aWQiOiIxMTExMTExMS0yMjIyLTMzMzMtNDQ0NC01NTU1NTU1NTU1NTUiLCJ1dGkiOiJBYkNfLTE"
    "yMyIsInZlciI6IjEuMCIsInhtc19taXJpZCI6Ii9zdWJzY3JpcHRpb25zLzExMTExMTExLTIyMjItMzMzMy00NDQ0LTU1NTU"
    "1NTU1NTU1NS9yZXNvdXJjZWdyb3Vwcy9yZy9wcm92aWRlcnMvTWljcm9zb2Z0Lk1hbmFnZWRJZGVudGl0eS91c2VyQXNzaWd"
    "uZWRJZGVudGl0aWVzL2lkIn0.--------------------------------";
/* oid "o" and nothing else. */
static const char bare_token[] =
    "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIn0.c2ln";
/* {"oid":"o","exp":1800086400} and {"oid":"o","aud":"https://graph.microsoft.com"} */
static const char exp_token[] = "e30.eyJvaWQiOiJvIiwiZXhwIjoxODAwMDg2NDAwfQ.c";
static const char graph_token[] = "e30.eyJvaWQiOiJvIiwiYXVkIjoiaHR0cHM6Ly9ncmFwaC5taWNyb3NvZnQuY29tIn0.c";

/* ---- a world: memory that is watched, options, one flow ---- */

static int  allow = -1;                       /* allocations until one fails; -1: none does */
static long living;
static int  leaked;                           /* a secret or token was in memory when it was freed */
static const char *also_secret[4];            /* what a test has of its own */

static int holds(const void *p, size_t n, const char *what) {
    const char *at = n ? (const char *)p : "", *end = at + n;
    size_t k = strlen(what);
    while ((size_t)(end - at) >= k && (at = (const char *)memchr(at, what[0], (size_t)(end - at) - k + 1)) != NULL)
        if (memcmp(at++, what, k) == 0) return 1;
    return 0;
}

static int holds_also(const void *p, size_t n) {
    size_t i;
    for (i = 0; i < sizeof also_secret / sizeof also_secret[0]; i++)
        if (also_secret[i] && holds(p, n, also_secret[i])) return 1;
    return 0;
}

static int unsafe(const void *p, size_t n) {
    return holds_also(p, n) || holds(p, n, "abc~8Q") || holds(p, n, "eyJvaWQiOiJv") || holds(p, n,
                                                                         "eyJhdWQiOiJodHRwczovL3JlZGlz");
}

/* Messages promise to hide pieces of a secret from AZRI_SECRET_PIECE bytes on, of a token from AZRI_RUN_MAX. */
static int tells(const void *p, size_t n) {
    return holds_also(p, n) || holds(p, n, "abc~8Q+/=&%#") || holds(p, n, "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIn0.c2lne");
}

static void *t_alloc(void *user, size_t n) {
    void *p;
    (void)user;
    if (allow == 0) return NULL;
    if (allow > 0) allow--;
    living++;
    p = malloc(n);
    if (p) memset(p, 0xa5, n);                /* nobody may count on zeroes, and t_free looks at all of it */
    return p;
}
static void t_free(void *user, void *p, size_t n) {
    (void)user;
    leaked += unsafe(p, n);
    living--;
    free(p);
}
static const azri_mem mem = { t_alloc, t_free, NULL, NULL };

static azredis_auth_options conf;
static azri_flow flow;
static azri_step step;
static azri_env env;
static azri_rng rng;
static azredis_auth_options opt;
static azredis_error err;
static uint64_t now;

static int setup(void **state) {
    (void)state;
    memset(&opt, 0, sizeof opt);
    memset(&conf, 0, sizeof conf);
    memset(&env, 0, sizeof env);
    memset(&err, 0, sizeof err);
    rng.state = 42;
    now = 1000;
    allow = -1;
    living = leaked = 0;
    return 0;
}

static void app(void) {
    opt.identity = AZREDIS_ID_CLIENT_SECRET;
    opt.tenant_id = TENANT;
    opt.client_id = CLIENT;
    opt.client_secret = SECRET;
}

static void set_env(int which, const char *value) {
    azri_strfree(&mem, env.value[which]);
    env.value[which] = azri_strdup(&mem, value);
}

static void begin(void) {
    assert_int_equal(azri_identity_conf_copy(&conf, &mem, &opt, &err), AZREDIS_OK);
    azri_flow_init(&flow, &mem, &conf, &rng);
    azri_flow_start(&flow, &env, now);
}

static azri_step_kind next(void) {
    azri_step_free(&step);
    return azri_flow_next(&flow, now, START, &step);
}

static void finish(void) {
    size_t i;
    assert_false(tells(&flow.error, sizeof flow.error));
    assert_false(tells(&flow.records, sizeof flow.records));
    assert_false(unsafe(&flow.hint, sizeof flow.hint));
    assert_false(unsafe(&flow.answer, sizeof flow.answer));
    for (i = 0; i < flow.record_count; i++) assert_true(flow.records[i].name[0] != 0);
    azri_step_free(&step);
    azri_flow_free(&flow);
    assert_false(tells(&flow, sizeof flow));
    azri_env_free(&env, &mem);
    azri_identity_conf_free(&conf, &mem);
    assert_int_equal(living, 0);
    assert_int_equal(leaked, 0);
    memset(&step, 0, sizeof step);
}

/* The server's bytes, one at a time if slow; cut after n bytes unless n is -1. */
static void raw_answer(const char *text, size_t n, int slow) {
    azri_http h;
    azredis_error e;
    azredis_status st = AZREDIS_AGAIN;
    size_t i;
    memset(&e, 0, sizeof e);
    azri_http_init(&h, azri_flow_body, &flow);
    h.header = azri_flow_header;
    if (!slow && n) st = azri_http_feed(&h, text, n, &e);
    for (i = 0; slow && i < n && st == AZREDIS_AGAIN; i++) st = azri_http_feed(&h, text + i, 1, &e);
    if (st == AZREDIS_AGAIN) st = azri_http_eof(&h, &e);
    azri_step_free(&step);
    azri_flow_http(&flow, now, st, &h, &e);
}

static void answer(int status, const char *headers, const char *body) {
    static char text[200000];
    int n = snprintf(text, sizeof text, "HTTP/1.1 %d X\r\n%sContent-Length: %zu\r\n\r\n%s", status,
                     headers, strlen(body), body);
    raw_answer(text, (size_t)n, n < 4000);
}

static void answer_token(const char *token, const char *members) {
    static char body[100000];
    (void)snprintf(body, sizeof body, "{\"token_type\":\"Bearer\",%s%s\"access_token\":\"%s\"}",
                   members, members[0] ? "," : "", token);
    answer(200, "", body);
}

/* As next, where no developer's tool is installed. */
static azri_step_kind next_without_tools(void) {
    azredis_str none = { NULL, 0 };
    azredis_error e;
    while (next() == AZRI_STEP_EXEC) {
        memset(&e, 0, sizeof e);
        (void)azri_fail(&e, AZREDIS_E_NO_CREDENTIAL, step.where, "%s: it is not installed", step.where);
        azri_flow_ran(&flow, now, e.code, none, none, 0, &e);
    }
    return step.kind;
}

static void expect_failed(azredis_status st, const char *text) {
    assert_int_equal(next_without_tools(), AZRI_STEP_DONE);
    if (flow.status != st) fail_msg("status %d: %s", flow.status, flow.error.message);
    assert_int_equal(flow.error.code, st);
    if (!strstr(flow.error.message, text)) fail_msg("'%s' is not in: %s", text, flow.error.message);
    if (strlen(flow.error.message) >= sizeof flow.error.message - 1) fail_msg("cut off: %s", flow.error.message);
    assert_int_equal(flow.token.len, 0);
}

#endif
