/* What the doctor thinks of what it saw (tools/azredis/verdict.h): each rule, among them those that need names,
 * networks and servers that no desk has, and which rule wins. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#include "azredis_entra.h"
#include "tools/azredis/verdict.h"

#define COUNT(list) (sizeof (list) / sizeof (list)[0])
#define AUD "https://redis.azure.com"

typedef struct seen { const char *rule; facts f; } seen;

static const seen cases[] = {
    {"name.no-region", {.host = "cache.redis.azure.net", .lookup = LOOKUP_UNKNOWN}},
    {"name.private-zone", {.host = "c.privatelink.redis.azure.net", .privatelink = 1, .lookup = LOOKUP_UNKNOWN}},
    {"name.unknown", {.host = "cache.westeurope.redis.azure.net", .lookup = LOOKUP_UNKNOWN}},
    {"name.unknown", {.host = "localhorst", .lookup = LOOKUP_UNKNOWN}},
    {"name.no-server", {.lookup = LOOKUP_SILENT}},
    {"name.failed", {.lookup = LOOKUP_FAILED, .text = "odd"}},
    {"name.privatelink", {.privatelink = 1}},
    {"name.public", {.canonical = "c.privatelink.redis.cache.windows.net", .address = "20.1.2.3"}},
    {"tcp.wrong-port", {.reach = REACH_REFUSED, .port = 6380, .right_port = 10000, .suffix = SUFFIX_MANAGED}},
    {"tcp.wrong-port", {.reach = REACH_BLOCKED, .port = 10000, .right_port = 6380, .suffix = SUFFIX_CLASSIC}},
    {"tcp.private", {.reach = REACH_BLOCKED, .port = 10000, .right_port = 10000, .suffix = SUFFIX_MANAGED,
                     .private_address = 1}},
    {"tcp.private-dns", {.reach = REACH_BLOCKED, .canonical = "c.privatelink.redis.azure.net"}},
    {"tcp.other-port", {.reach = REACH_REFUSED, .other_port = 6380}},
    {"tcp.refused", {.reach = REACH_REFUSED, .port = 10000, .right_port = 10000}},
    {"tcp.blocked", {.reach = REACH_BLOCKED, .private_address = 1}},
    {"tcp.no-route", {.reach = REACH_NO_ROUTE}},
    {"tcp.failed", {.reach = REACH_FAILED}},
    {"tls.plaintext", {.tls = AZREDIS_E_TIMEOUT, .plain_answer = 1}},
    {"tls.roots", {.tls = AZREDIS_E_CERT, .no_roots = 1}},
    {"tls.clock", {.tls = AZREDIS_E_CERT, .cert = CERT_FUTURE | CERT_NAME}},
    {"tls.expired", {.tls = AZREDIS_E_CERT, .cert = CERT_EXPIRED | CERT_UNTRUSTED}},
    {"tls.privatelink", {.tls = AZREDIS_E_CERT, .cert = CERT_NAME, .privatelink = 1}},
    {"tls.address", {.tls = AZREDIS_E_CERT, .cert = CERT_NAME, .is_address = 1}},
    {"tls.name", {.tls = AZREDIS_E_CERT, .cert = CERT_NAME}},
    {"tls.untrusted", {.tls = AZREDIS_E_CERT, .cert = CERT_UNTRUSTED}},
    {"tls.certificate", {.tls = AZREDIS_E_CERT}},
    {"tls.cut", {.tls = AZREDIS_E_CLOSED}},
    {"tls.cut", {.tls = AZREDIS_E_NET}},
    {"tls.silent", {.tls = AZREDIS_E_TIMEOUT}},
    {"tls.failed", {.tls = AZREDIS_E_TLS}},
    {"tls.ends-soon", {.days_left = 13}},
    {"identity.secret-wrong", {.token = AZREDIS_E_ENTRA, .aadsts = 7000215}},
    {"identity.secret-expired", {.token = AZREDIS_E_ENTRA, .aadsts = 7000222}},
    {"identity.tenant", {.token = AZREDIS_E_ENTRA, .aadsts = 90002, .tenant_asked = "nowhere.example"}},
    {"identity.tenant", {.token = AZREDIS_E_ENTRA, .aadsts = 900023}},
    {"identity.cloud", {.token = AZREDIS_E_ENTRA, .aadsts = 90038}},
    {"identity.application", {.token = AZREDIS_E_ENTRA, .aadsts = 700016}},
    {"identity.not-assigned", {.token = AZREDIS_E_ENTRA, .aadsts = 50105, .http_status = 400}},
    {"identity.clock", {.token = AZREDIS_E_ENTRA, .aadsts = 700024}},
    {"identity.certificate", {.token = AZREDIS_E_ENTRA, .aadsts = 700027}},
    {"identity.federation", {.token = AZREDIS_E_ENTRA, .aadsts = 700213}},
    {"identity.not-here", {.token = AZREDIS_E_HTTP, .http_status = 400, .credential = "managed-identity"}},
    {"identity.no-metadata", {.token = AZREDIS_E_NET, .credential = "managed-identity"}},
    {"identity.not-here", {.token = AZREDIS_E_HTTP, .http_status = 400, .text = "managed-identity: HTTP 400"}},
    {"identity.failed", {.token = AZREDIS_E_HTTP, .http_status = 400, .credential = "client-secret"}},
    {"identity.failed", {.token = AZREDIS_E_HTTP, .http_status = 400, .text = "environment: HTTP 400"}},
    {"identity.failed", {.token = AZREDIS_E_ENTRA, .http_status = 400, .credential = "device-code",
                         .text = "device-code: the person who was shown the device code declined to sign in"}},
    {"identity.none", {.token = AZREDIS_E_NO_CREDENTIAL}},
    {"identity.unavailable", {.token = AZREDIS_E_NO_CREDENTIAL, .credential = "azure-cli"}},
    {"identity.program", {.token = AZREDIS_E_TIMEOUT, .credential = "azure-powershell"}},
    {"identity.program", {.token = AZREDIS_E_TIMEOUT, .credential = "exec"}},
    {"identity.person", {.token = AZREDIS_E_TIMEOUT, .credential = "device-code",
                         .text = "device-code: nobody signed in with the device code before it expired"}},
    {"identity.unreached", {.token = AZREDIS_E_TIMEOUT, .credential = "device-code"}},
    {"identity.tls", {.token = AZREDIS_E_CERT}},
    {"identity.unreached", {.token = AZREDIS_E_DNS}},
    {"identity.unreached", {.token = AZREDIS_E_TIMEOUT}},
    {"identity.failed", {.token = AZREDIS_E_ENTRA, .aadsts = 53003}},
    {"token.scope", {.token = AZREDIS_E_ENTRA, .aadsts = 70011}},
    {"token.scope", {.token = AZREDIS_E_ENTRA, .aadsts = 650057}},
    {"token.unusable", {.token = AZREDIS_E_TOKEN}},
    {"token.audience", {.audience = "https://vault.azure.net", .life_s = 3600}},
    {"token.audience", {.audience = "https://redis.azure.com.example", .life_s = 3600}},
    {"token.clock", {.audience = AUD, .life_s = 3600, .skew_s = -301}},
    {"token.clock", {.audience = AUD "/", .life_s = 3600, .skew_s = 301}},
    {"token.tenant", {.audience = AUD, .life_s = 3600, .tenant = "11111111-2222-3333-4444-555555555555",
                      .tenant_asked = "99999999-2222-3333-4444-555555555555"}},
    {"token.short", {.audience = "ACCA5FBB-b7e4-4009-81f1-37e38fd66d78", .life_s = 299}},
    {"auth.full", {.auth = AZREDIS_E_REDIS, .text = "answered: ERR max number of clients reached"}},
    {"auth.group", {.auth = AZREDIS_E_AUTH, .groups = 1}},
    {"auth.group", {.auth = AZREDIS_E_AUTH, .person = 1}},
    {"auth.not-user", {.auth = AZREDIS_E_AUTH}},
    {"auth.key", {.auth = AZREDIS_E_AUTH, .proof = PROOF_KEY}},
    {"auth.password", {.auth = AZREDIS_E_AUTH, .proof = PROOF_PASSWORD}},
    {"auth.starting", {.auth = AZREDIS_E_REDIS, .text = "answered: LOADING Redis is loading the dataset in memory"}},
    {"auth.no-redis", {.auth = AZREDIS_E_RESP}},
    {"auth.silent", {.auth = AZREDIS_E_TIMEOUT}},
    {"auth.cut", {.auth = AZREDIS_E_CLOSED}},
    {"auth.failed", {.auth = AZREDIS_E_REDIS, .text = "answered: ERR odd"}},
    {"rights.none", {.may_read = RIGHT_NO, .may_write = RIGHT_NO}},
    {"rights.keys", {.may_read = RIGHT_NOT_THIS_KEY, .may_write = RIGHT_NOT_THIS_KEY}},
    {"rights.reader", {.may_write = RIGHT_NO}},
    {"rights.writer", {.may_read = RIGHT_NO}},
    {"rights.full", {.may_write = RIGHT_FULL}},
    {"rights.replica", {.may_write = RIGHT_REPLICA}},
    {"rights.failed", {.may_read = RIGHT_BROKEN, .may_write = RIGHT_BROKEN}},
    {"round-trip.lost", {.ping = AZREDIS_E_TIMEOUT}},
    {"round-trip.stalls", {.median_us = 60000, .longest_us = 1000001}},
    {"round-trip.slow", {.median_us = 50001, .longest_us = 1000000}},
    {"pubsub.resp2", {.resp2 = 1}},
    {"pubsub.forbidden", {.subscribe = AZREDIS_E_NOPERM}},
    {"pubsub.lost", {.subscribe = AZREDIS_AGAIN}},
    {"pubsub.failed", {.subscribe = AZREDIS_E_CLOSED}},
    {"reauth.refused", {.reauth = AZREDIS_E_AUTH}},
    {"reauth.failed", {.reauth = AZREDIS_E_TIMEOUT}},
    {"reauth.slow", {.reauth_ms = 1001}},
    {"cluster.port-refused", {.oss = 1, .node = "10.0.0.1:8500", .node_reach = REACH_REFUSED}},
    {"cluster.port-blocked", {.oss = 1, .node = "10.0.0.1:8500", .node_reach = REACH_BLOCKED}},
    {"cluster.oss", {.oss = 1, .node = "10.0.0.1:8500"}},
    {"cluster.oss", {.oss = 1}}
};

static enum check check_of(const char *rule)
{
    size_t n = strcspn(rule, "."), i = 0;
    while (i < CHECK_COUNT && (strncmp(check_names[i], rule, n) != 0 || check_names[i][n]))
        i++;
    assert_true(i < CHECK_COUNT);
    return (enum check)i;
}

/* Each case is judged by its rule, and each rule has a case. */
static void test_every_rule(void **state)
{
    size_t i, k, met[COUNT(rules)] = {0};
    (void)state;
    for (i = 0; i < COUNT(cases); i++) {
        const struct rule *r = judge(check_of(cases[i].rule), &cases[i].f);
        if (!r || strcmp(r->id, cases[i].rule) != 0)
            fail_msg("case %zu: %s instead of %s", i, r ? r->id : "nothing", cases[i].rule);
        met[r - rules]++;
    }
    for (k = 0; k < COUNT(rules); k++)
        if (!met[k])
            fail_msg("%s has no case", rules[k].id);
}

/* A cache in order, at the edge of what is no warning yet. */
static void test_all_is_well(void **state)
{
    static const facts good = {
        .host = "c.westeurope.redis.azure.net", .suffix = SUFFIX_MANAGED, .port = 10000, .right_port = 10000,
        .canonical = "c.privatelink.redis.azure.net", .private_address = 1, .days_left = 14, .audience = AUD,
        .life_s = 300, .skew_s = 300, .tenant = "11111111-2222-3333-4444-555555555555", .tenant_asked = "my.example",
        .groups = 1, .may_admin = RIGHT_NO, .median_us = 50000, .longest_us = 1000000, .reauth_ms = 1000};
    int c;
    (void)state;
    for (c = 0; c < CHECK_COUNT; c++) {
        const struct rule *r = judge((enum check)c, &good);
        if (r)
            fail_msg("%s", r->id);
    }
}

/* Without a token nothing is said of its claims, nor of a key's. */
static void test_no_claims_without_a_token(void **state)
{
    facts f = {.token = AZREDIS_E_ENTRA, .audience = "https://vault.azure.net"};
    (void)state;
    assert_null(judge(CHECK_TOKEN, &f));
    f.token = AZREDIS_OK;
    f.proof = PROOF_KEY;
    assert_null(judge(CHECK_TOKEN, &f));
    f.proof = PROOF_TOKEN;
    assert_string_equal(judge(CHECK_TOKEN, &f)->id, "token.audience");
}

/* One sentence each, in which all facts have been found; the exit statuses are those of --help. */
static void test_sentences(void **state)
{
    size_t i, k;
    char cause[700], mend[300];
    (void)state;
    assert_int_equal(FIRST_EXIT + CHECK_NAME, 10);
    assert_int_equal(FIRST_EXIT + CHECK_CLUSTER, 20);
    for (i = 0; i < COUNT(rules); i++) {
        facts f = {.host = "the-host", .address = "the-address", .text = "the-text", .user = "the-user"};
        assert_ptr_equal(strchr(rules[i].id, '.'), rules[i].id + strlen(check_names[rules[i].check]));
        for (k = i + 1; k < COUNT(rules); k++)
            assert_string_not_equal(rules[i].id, rules[k].id);
        tell(cause, sizeof cause, &f, rules[i].cause);
        tell(mend, sizeof mend, &f, rules[i].mend);
        assert_null(strpbrk(cause, "{}"));
        assert_null(strpbrk(mend, "{}"));
        assert_true(strlen(cause) > 15 && strlen(mend) > 10 && strlen(mend) < sizeof mend - 1);
        assert_true(cause[strlen(cause) - 1] != '.' && mend[strlen(mend) - 1] != '.');
        assert_null(strstr(cause, ". "));
    }
}

static void test_facts_in_sentences(void **state)
{
    static const char form[] = "{host} {port} {right_port} {other_port} {suffix} {address} {reach} {canonical} {clock} "
                               "{user} {audience} {tenant}{tenant_asked} {aadsts} {days_left} {skew_s} {life_s} "
                               "{median_ms} "
                               "{longest_ms} {reauth_ms} {node} {text} {credential} {skew_way}";
    facts f = {.host = "h", .port = 1, .right_port = 2, .other_port = 3, .suffix_text = ".s", .address = "a",
               .reach = REACH_REFUSED, .canonical = "c", .clock = "k", .user = "u", .audience = "d", .tenant = "t",
               .tenant_asked = "q", .aadsts = 4, .days_left = -5, .skew_s = 6, .life_s = 7, .median_us = 8999,
               .longest_us = 9000, .reauth_ms = 10, .node = "n:1", .text = "{host}",
               .credential = "id"};
    char out[300], small[8];
    (void)state;
    tell(out, sizeof out, &f, form);
    assert_string_equal(out, "h 1 2 3 .s a refuses connections c k u d t q 4 -5 6 7 8 9 10 n:1 {host} id behind");
    f.skew_s = -7199;
    tell(out, sizeof out, &f, "{skew_s} s {skew_way} Entra");
    assert_string_equal(out, "7199 s ahead of Entra");
    tell(small, sizeof small, &f, "{canonical}{reach} and more");
    assert_string_equal(small, "crefuse");
}

static void test_hosts(void **state)
{
    static const struct { const char *host; enum suffix suffix; int port, address, privatelink; } hosts[] = {
        {"c.westeurope.redis.azure.net", SUFFIX_MANAGED, 10000, 0, 0},
        {"C.WestEurope.Redis.Azure.NET", SUFFIX_MANAGED, 10000, 0, 0},
        {"c.westeurope.redisenterprise.cache.azure.net", SUFFIX_MANAGED, 10000, 0, 0},
        {"c.redis.cache.windows.net", SUFFIX_CLASSIC, 6380, 0, 0},
        {"c.redis.cache.usgovcloudapi.net", SUFFIX_CLASSIC, 6380, 0, 0},
        {"c.usgovvirginia.redis.usgovcloudapi.net", SUFFIX_MANAGED, 10000, 0, 0},
        {"c.redis.cache.chinacloudapi.cn", SUFFIX_CLASSIC, 6380, 0, 0},
        {"c.region.redis.sovcloud-api.de", SUFFIX_MANAGED, 10000, 0, 0},
        {"c.privatelink.redis.cache.windows.net", SUFFIX_CLASSIC, 6380, 0, 1},
        {"c.westeurope.privatelink.redis.azure.net", SUFFIX_MANAGED, 10000, 0, 1},
        {".redis.azure.net", SUFFIX_OTHER, 0, 0, 0},
        {"redis.azure.net.example", SUFFIX_OTHER, 0, 0, 0},
        {"localhost", SUFFIX_OTHER, 0, 0, 0},
        {"10.1.2.3", SUFFIX_OTHER, 0, 1, 0},
        {"fd00::1", SUFFIX_OTHER, 0, 1, 0}
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(hosts); i++) {
        facts f;
        memset(&f, 0, sizeof f);
        know_host(&f, hosts[i].host, 7);
        assert_int_equal(f.suffix, hosts[i].suffix);
        assert_int_equal(f.right_port, hosts[i].port);
        assert_int_equal(f.is_address, hosts[i].address);
        assert_int_equal(f.privatelink, hosts[i].privatelink);
        assert_int_equal(f.port, 7);
        assert_string_equal(f.host, hosts[i].host);
    }
}

static void test_private_addresses(void **state)
{
    static const struct { const char *address; int is; } all[] = {
        {"10.0.0.0", 1}, {"10.255.255.255", 1}, {"9.255.255.255", 0}, {"11.0.0.0", 0}, {"172.16.0.0", 1},
        {"172.31.255.255", 1}, {"172.15.0.1", 0}, {"172.32.0.1", 0}, {"192.168.0.1", 1}, {"192.169.0.1", 0},
        {"100.64.0.1", 1}, {"100.127.255.255", 1}, {"100.63.0.1", 0}, {"100.128.0.1", 0}, {"127.0.0.1", 0},
        {"20.1.2.3", 0}, {"fc00::1", 1}, {"fdff::1", 1}, {"fe00::1", 0}, {"2603:1030::1", 0}, {"::1", 0}};
    unsigned char bytes[16];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(all); i++) {
        if (inet_pton(AF_INET, all[i].address, bytes) == 1)
            assert_int_equal(is_private4(bytes), all[i].is);
        else if (inet_pton(AF_INET6, all[i].address, bytes) == 1)
            assert_int_equal(is_private6(bytes), all[i].is);
        else
            fail_msg("%s is no address", all[i].address);
    }
}

static void test_policies(void **state)
{
    static const struct { enum right read, write, admin; const char *name; } all[] = {
        {RIGHT_YES, RIGHT_YES, RIGHT_YES, "Data Owner"}, {RIGHT_YES, RIGHT_YES, RIGHT_NO, "Data Contributor"},
        {RIGHT_YES, RIGHT_NO, RIGHT_NO, "Data Reader"}, {RIGHT_NO, RIGHT_YES, RIGHT_YES, "a policy of its own"},
        {RIGHT_YES, RIGHT_NOT_THIS_KEY, RIGHT_YES, "a policy of its own"}};
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(all); i++) {
        facts f = {.may_read = all[i].read, .may_write = all[i].write, .may_admin = all[i].admin};
        assert_string_equal(policy_of(&f), all[i].name);
    }
}

static void test_whose_token(void **state)
{
    static const struct { const char *json; int person, groups; } all[] = {
        {"{\"oid\":\"x\",\"idtyp\":\"app\"}", 0, 0}, {"{\"groups\":[\"a\"]}", 0, 1}, {"{\"hasgroups\":true}", 0, 1},
        {"{\"upn\":\"a@b\"}", 1, 0}, {"{\"scp\":\"user_impersonation\",\"groups\":[]}", 1, 1},
        {"{\"idtyp\":\"user\"}", 1, 0}, {"", 0, 0}};
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(all); i++) {
        facts f;
        memset(&f, 0, sizeof f);
        know_claims(&f, all[i].json);
        assert_int_equal(f.person, all[i].person);
        assert_int_equal(f.groups, all[i].groups);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_rule),          cmocka_unit_test(test_all_is_well),
        cmocka_unit_test(test_no_claims_without_a_token), cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_facts_in_sentences),  cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_private_addresses),   cmocka_unit_test(test_whose_token),
        cmocka_unit_test(test_policies)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
