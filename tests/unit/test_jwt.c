/* Claims of access tokens. Vectors made by hand, cross-checked with node. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

static int allow = -1;                        /* allocations until one fails; -1: none does */

static void *t_alloc(void *user, size_t n) {
    (void)user;
    if (allow == 0) return NULL;
    if (allow > 0) allow--;
    return malloc(n);
}
static void t_free(void *user, void *p, size_t n) { (void)user; (void)n; free(p); }
static const azri_mem mem = { t_alloc, t_free, NULL, NULL };
static azri_json json;

enum kind { GOOD, NO_OID, FORMAT };

static const struct { const char *name; enum kind kind; const char *oid; int64_t exp; const char *token; } vectors[] = {
    { "mi_v1", GOOD, "99999999-8888-7777-6666-555555555555", 1800086400,
      "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiIsIng1dCI6IlZJaC1FdVA1SzV6blF2MUdLb2Q4dHRRMXRfbyIsImtpZC"
      "I6IlZJaC1FdVA1SzV6blF2MUdLb2Q4dHRRMXRfbyJ9.eyJhdWQiOiJodHRwczovL3JlZGlzLmF6dXJlLmNvbSIsIml"
      "zcyI6Imh0dHBzOi8vc3RzLndpbmRvd3MubmV0LzExMTExMTExLTIyMjItMzMzMy00NDQ0LTU1NTU1NTU1NTU1NS8iL"
      "CJpYXQiOjE4MDAwMDAwMDAsIm5iZiI6MTgwMDAwMDAwMCwiZXhwIjoxODAwMDg2NDAwLCJhaW8iOiJFMj09IiwiYXB"
      "waWQiOiJhYWFhYWFhYS1iYmJiLWNjY2MtZGRkZC1lZWVlZWVlZWVlZWUiLCJhcHBpZGFjciI6IjIiLCJpZHAiOiJod"
      "HRwczovL3N0cy53aW5kb3dzLm5ldC8xMTExMTExMS0yMjIyLTMzMzMtNDQ0NC01NTU1NTU1NTU1NTUvIiwiaWR0eXA"
      "iOiJhcHAiLCJvaWQiOiI5OTk5OTk5OS04ODg4LTc3NzctNjY2Ni01NTU1NTU1NTU1NTUiLCJyaCI6IjEuQVhFQS4iL"
      "CJzdWIiOiI5OTk5OTk5OS04ODg4LTc3NzctNjY2Ni01NTU1NTU1NTU1NTUiLCJ0aWQiOiIxMTExMTExMS0yMjIyLTM"
      "zMzMtNDQ0NC01NTU1NTU1NTU1NTUiLCJ1dGkiOiJBYkNfLTEyMyIsInZlciI6IjEuMCIsInhtc19taXJpZCI6Ii9zd"
      "WJzY3JpcHRpb25zLzExMTExMTExLTIyMjItMzMzMy00NDQ0LTU1NTU1NTU1NTU1NS9yZXNvdXJjZWdyb3Vwcy9yZy9"
      "wcm92aWRlcnMvTWljcm9zb2Z0Lk1hbmFnZWRJZGVudGl0eS91c2VyQXNzaWduZWRJZGVudGl0aWVzL2lkIn0.-----"
      "---------------------------" },
    { "len_mod3_0", GOOD, "o-12", 1,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvLTEyIiwiZXhwIjoxfSAg.c2ln" },
    { "len_mod3_2", GOOD, "o-12", 1,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvLTEyIiwiZXhwIjoxfSA.c2ln" },
    { "len_mod3_1", GOOD, "o-12", 1,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvLTEyIiwiZXhwIjoxfQ.c2ln" },
    { "url_alphabet", GOOD, "o", 1,
      "eyJhbGciOiJub25lIn0.eyJuIjoiw7vDv8O-37_vv78iLCJvaWQiOiJvIiwiZXhwIjoxfQ.c2ln" },
    { "padded", GOOD, "o-12", 1,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvLTEyIiwiZXhwIjoxfQ==.c2ln" },
    { "nested_decoys", GOOD, "right", 7,
      "eyJhbGciOiJub25lIn0.eyJ4Ijp7Im9pZCI6IldST05HIiwiZXhwIjo1fSwiYSI6WyJvaWQiLCJXUk9ORyJdLCJzIj"
      "oiXCJvaWRcIjpcIldST05HXCIiLCJvaWQiOiJyaWdodCIsImV4cCI6N30.c2ln" },
    { "escaped", GOOD, "abc", 7,
      "eyJhbGciOiJub25lIn0.eyJcdTAwNmZpZCI6ImFcdTAwNjJjIiwiZXhwIjo3fQ.c2ln" },
    { "spaces", GOOD, "o", 7,
      "eyJhbGciOiJub25lIn0.eyAib2lkIiA6ICJvIiAsCgkiZXhwIiA6IDcgfQ.c2ln" },
    { "exp_2040", GOOD, "o", 2208988800,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIiwiZXhwIjoyMjA4OTg4ODAwfQ.c2ln" },
    { "exp_float", GOOD, "o", 1800000000,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIiwiZXhwIjoxLjhlOX0.c2ln" },
    { "exp_missing", GOOD, "o", 0,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIn0.c2ln" },
    { "oid_missing", NO_OID, "", 0,
      "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzIiwiZXhwIjo3fQ.c2ln" },
    { "oid_number", NO_OID, "", 0,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOjEyMywiZXhwIjo3fQ.c2ln" },
    { "oid_null", NO_OID, "", 0,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOm51bGwsImV4cCI6N30.c2ln" },
    { "oid_empty", NO_OID, "", 0,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiIiLCJleHAiOjd9.c2ln" },
    { "oid_control_char", NO_OID, "", 0,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJhXHJcbmIiLCJleHAiOjd9.c2ln" },
    { "oid_nul_escape", NO_OID, "", 0,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJhXHUwMDAwYiIsImV4cCI6N30.c2ln" },
    { "opaque", FORMAT, "", 0,
      "AQAAANCMnd8BFdERjHoAwE" },
    { "jwe", FORMAT, "", 0,
      "e30.e30.e30.e30.e30" },
    { "two_parts", FORMAT, "", 0,
      "e30.e30" },
    { "empty_payload", FORMAT, "", 0,
      "e30..c2ln" },
    { "bad_base64", FORMAT, "", 0,
      "e30.e30*.c2ln" },
    { "truncated_json", FORMAT, "", 0,
      "eyJhbGciOiJub25lIn0.eyJvaWQiOiJvIg.c2ln" },
    { "array", FORMAT, "", 0,
      "eyJhbGciOiJub25lIn0.WyJvaWQiLCJvIl0.c2ln" },
};

static void test_vectors(void **state) {
    size_t i;
    (void)state;
    assert_int_equal(sizeof vectors / sizeof vectors[0], 25);
    for (i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        azri_claims c;
        azredis_error e;
        char user[64];
        azredis_status st;
        memset(&e, 0, sizeof e);
        st = azri_jwt_claims(azri_str(vectors[i].token), &mem, &json, &c, &e);
        if ((st == AZREDIS_E_TOKEN) != (vectors[i].kind == FORMAT)) fail_msg("%s: %d", vectors[i].name, st);
        if (st == AZREDIS_E_TOKEN) {
            assert_non_null(strstr(e.message, "not a JWT"));
            assert_int_equal(e.retryable, 0);
            continue;
        }
        assert_int_equal(st, AZREDIS_OK);
        assert_int_equal(c.exp, vectors[i].kind == GOOD ? vectors[i].exp : 7);
        st = azri_jwt_user(&c, user, &e);
        assert_int_equal(st, vectors[i].kind == GOOD ? AZREDIS_OK : AZREDIS_E_TOKEN);
        if (vectors[i].kind == GOOD) assert_string_equal(user, vectors[i].oid);
        else assert_non_null(strstr(e.message, "exp"));          /* names what there is instead */
    }
}

static void test_all_claims_of_a_managed_identity(void **state) {
    azri_claims c;
    (void)state;
    assert_int_equal(azri_jwt_claims(azri_str(vectors[0].token), &mem, &json, &c, NULL), AZREDIS_OK);
    assert_string_equal(c.tid, "11111111-2222-3333-4444-555555555555");
    assert_string_equal(c.appid, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert_string_equal(c.sub, "99999999-8888-7777-6666-555555555555");
    assert_string_equal(c.idtyp, "app");
    assert_string_equal(c.aud, "https://redis.azure.com");
    assert_int_equal(c.iat, 1800000000);
    assert_non_null(strstr(c.names, "aud iss iat nbf exp aio appid"));
}

/* A token with this payload; the header only decodes base64url, so the test encodes. */
static const char *make(char *out, size_t cap, const char *payload) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const unsigned char *s = (const unsigned char *)payload;
    size_t left = strlen(payload), n = 4, i;
    assert_true(left / 3 * 4 + 16 < cap);
    memcpy(out, "e30.", 4);
    for (; left; s += 3, left -= left < 3 ? left : 3) {
        unsigned bits = (unsigned)s[0] << 16 | (left > 1 ? (unsigned)s[1] << 8 : 0u) | (left > 2 ? s[2] : 0u);
        for (i = 0; i <= (left < 3 ? left : 3); i++) out[n++] = digits[bits >> (18 - 6 * i) & 63];
    }
    memcpy(out + n, ".s", 3);
    return out;
}

static void check_user(const char *payload, const char *want) {
    static char token[40000];
    azri_claims c;
    char user[64];
    assert_int_equal(azri_jwt_claims(azri_str(make(token, sizeof token, payload)), &mem, &json, &c, NULL),
                     AZREDIS_OK);
    assert_int_equal(azri_jwt_user(&c, user, NULL), want ? AZREDIS_OK : AZREDIS_E_TOKEN);
    if (want) assert_string_equal(user, want);
}

static void test_user(void **state) {
    char payload[200], oid[65];
    (void)state;
    check_user("{\"sub\":\"s\",\"idtyp\":\"app\"}", "s");
    check_user("{\"sub\":\"s\",\"idtyp\":\"user\"}", NULL);
    check_user("{\"sub\":\"s\"}", NULL);
    check_user("{\"sub\":\"s\",\"idtyp\":\"app\",\"oid\":\"o\"}", "o");
    check_user("{\"oid\":\"first\",\"oid\":\"second\"}", "first");
    check_user("{\"oid\":\"a\\u007fb\"}", NULL);
    memset(oid, 'x', 64);
    oid[64] = '\0';
    (void)snprintf(payload, sizeof payload, "{\"oid\":\"%s\"}", oid + 1);
    check_user(payload, oid + 1);                                /* 63 fit */
    (void)snprintf(payload, sizeof payload, "{\"oid\":\"%s\"}", oid);
    check_user(payload, NULL);                                   /* 64 do not, and are not cut */
}

/* 200 groups: 11 KB. */
static void test_big_token(void **state) {
    static char payload[20000], token[30000];
    azri_claims c;
    size_t n = (size_t)sprintf(payload, "{\"groups\":[");
    int i;
    (void)state;
    for (i = 0; i < 200; i++)
        n += (size_t)sprintf(payload + n, "%s\"00000000-1111-2222-3333-%012d\"", i ? "," : "", i);
    (void)sprintf(payload + n, "],\"oid\":\"o\",\"exp\":7}");
    assert_int_equal(azri_jwt_claims(azri_str(make(token, sizeof token, payload)), &mem, &json, &c, NULL),
                     AZREDIS_OK);
    assert_string_equal(c.oid, "o");
    assert_int_equal(c.exp, 7);
    n = AZRI_TOKEN_MAX + 1;
    memset(token, 'e', n + 10);
    token[3] = token[n + 5] = '.';
    assert_int_equal(azri_jwt_claims(azri_slice(token, n + 8), &mem, &json, &c, NULL), AZREDIS_E_TOKEN);
}

static void test_seconds(void **state) {
    static const struct { const char *text; int ok; int64_t v; } row[] = {
        { "0", 1, 0 }, { "3599", 1, 3599 }, { "1e3", 1, 1000 }, { "3599.7", 1, 3599 }, { "1.8e9", 1,
        1800000000 },
        { "1.8E+9", 1, 1800000000 }, { "18000e-1", 1, 1800 }, { "-5", 1, -5 }, { "99999999999", 1,
        99999999999 },
        { "0.9", 1, 0 }, { "1e-400", 1, 0 }, { "0e99999", 1, 0 }, { "12345.678e2", 1, 1234567 },
        { "", 0, 0 }, { "-", 0, 0 }, { "abc", 0, 0 }, { "3599s", 0, 0 }, { "1e", 0, 0 }, { "1e3x", 0, 0 },
        { " 5", 0, 0 }, { ".", 0, 0 }, { "1.2.3", 0, 0 }, { "0x10", 0, 0 },
    };
    size_t i;
    int64_t v;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        v = 0;
        if (azri_jwt_seconds(azri_str(row[i].text), &v) != row[i].ok || v != row[i].v)
            fail_msg("%s: %lld", row[i].text, (long long)v);
    }
    assert_true(azri_jwt_seconds(azri_str("9e400"), &v) && v >= 1000000000000000);
    assert_true(azri_jwt_seconds(azri_str("999999999999999999999999999999999999"), &v) &&
                v >= 1000000000000000);
    assert_true(azri_jwt_seconds(azri_str("1e9223372036854775807"), &v) && v >= 1000000000000000);
}

/* Every prefix and every flipped byte of a real token: no crash, and never half-filled claims. */
static void test_damage(void **state) {
    const char *token = vectors[0].token;
    size_t n = strlen(token), i;
    static const azri_claims empty;
    azri_claims c;
    char *copy;
    (void)state;
    for (i = 0; i < n; i++) {
        copy = (char *)malloc(i ? i : 1);                        /* exact size: reading past it is seen */
        assert_non_null(copy);
        memcpy(copy, token, i);
        if (azri_jwt_claims(azri_slice(copy, i), &mem, &json, &c, NULL) != AZREDIS_OK)
            assert_memory_equal(&c, &empty, sizeof c);
        else
            assert_true(i > (size_t)(strrchr(token, '.') - token));
        free(copy);
    }
    copy = (char *)malloc(n);
    assert_non_null(copy);
    for (i = 0; i < n; i++) {
        memcpy(copy, token, n);
        copy[i] = (char)(copy[i] ^ 0x15);
        (void)azri_jwt_claims(azri_slice(copy, n), &mem, &json, &c, NULL);
    }
    free(copy);
}

static void test_no_memory(void **state) {
    azri_claims c;
    azredis_status st = AZREDIS_E_NOMEM;
    int k;
    (void)state;
    for (k = 0; st != AZREDIS_OK; k++) {
        assert_true(k < 50);
        allow = k;
        st = azri_jwt_claims(azri_str(vectors[0].token), &mem, &json, &c, NULL);
        allow = -1;
        assert_true(st == AZREDIS_OK || st == AZREDIS_E_NOMEM);
    }
    assert_true(k > 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors), cmocka_unit_test(test_all_claims_of_a_managed_identity),
        cmocka_unit_test(test_user), cmocka_unit_test(test_big_token), cmocka_unit_test(test_seconds),
        cmocka_unit_test(test_damage), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
