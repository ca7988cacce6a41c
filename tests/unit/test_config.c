/* Connection strings, URLs and their way back: every key, every refusal with its place, what wins over what, and no
 * secret in any message or in memory that is given back. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define SECRET "hunter2-Zq9/+x=="

/* ---- memory that counts, fails on demand and looks at what it gets back ---- */

static struct { size_t live, calls, fail_at; unsigned leaks; } heap;

static int contains(const void *where, size_t n, const char *what) {
    size_t i, len = strlen(what);
    for (i = 0; i + len <= n; i++)
        if (memcmp((const char *)where + i, what, len) == 0) return 1;
    return 0;
}

static void *heap_alloc(void *user, size_t n) {
    void *p;
    (void)user;
    if (++heap.calls == heap.fail_at) return NULL;
    p = malloc(n ? n : 1);
    assert_non_null(p);
    memset(p, 0xa5, n);
    heap.live += n;
    return p;
}

static void heap_free(void *user, void *p, size_t n) {
    (void)user;
    heap.live -= n;
    heap.leaks += (unsigned)contains(p, n, SECRET);
    free(p);
}

static const azri_mem mem = { heap_alloc, heap_free, NULL, NULL };
static azredis_port port;

static int setup(void **state) {
    (void)state;
    memset(&heap, 0, sizeof heap);
    memset(&port, 0, sizeof port);
    port.alloc = heap_alloc;
    port.free = heap_free;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    return heap.live != 0 || heap.leaks != 0;
}

/* ---- reading ---- */

static azredis_error why;

/* An exact copy on the heap shows a sanitizer every read past its end. */
static azri_config *try_read(const char *text) {
    char *copy = strdup(text);
    azri_config *c;
    azredis_status st;
    memset(&why, 0, sizeof why);
    st = azri_config_new(&c, &mem, copy, &why);
    free(copy);
    assert_int_equal(st == AZREDIS_OK, c != NULL);
    assert_int_equal(st, why.code);
    return c;
}

static azri_config *reads(const char *text) {
    azri_config *c = try_read(text);
    if (!c) fail_msg("%s: %s", text, why.message);
    return c;
}

/* The text of a member, for comparison: strings as they are, numbers in digits. */
static const char *member(const azri_config *c, const char *name, char out[32]) {
    const azri_config_key *k = azri_config_find(azri_str(name));
    const void *at = azri_config_member(k, &c->options, &c->identity);
    const char *z;
    uint32_t u;
    size_t n;
    if (k->kind == AZRI_CK_TEXT || k->kind == AZRI_CK_SECRET) {
        memcpy(&z, at, sizeof z);
        return z ? z : "(null)";
    }
    memcpy(&u, at, sizeof u);
    memcpy(&n, at, k->kind == AZRI_CK_SIZE ? sizeof n : 0);
    snprintf(out, 32, "%llu", k->kind == AZRI_CK_SIZE ? (unsigned long long)n : (unsigned long long)u);
    return out;
}

static const struct { const char *key, *value, *is; } values[] = {
    { "ssl", "false", "1" }, { "ssl", "True", "0" }, { "ssl", "0", "1" }, { "ssl", "no", "1" }, { "ssl", "OFF", "1" },
    { "sslHost", "cache.example.com", "cache.example.com" }, { "caFile", "/etc/a b=c.pem", "/etc/a b=c.pem" },
    { "auth", "environment", "1" }, { "auth", "client-secret", "2" }, { "auth", "callback", "3" }, { "auth", "access-key", "4" },
    { "auth", "password", "5" }, { "auth", "default", "0" }, { "objectId", "o", "o" }, { "resourceId", "/s/r g", "/s/r g" },
    { "managedClientId", "m", "m" }, { "federatedTokenFile", "/f", "/f" }, { "kubernetesProxy", "true", "1" },
    { "tokenFile", "/t", "/t" }, { "exec", "/bin/x", "/bin/x" }, { "authorityProxy", "http://p:3128", "http://p:3128" },
    { "auth", "client-certificate", "12" }, { "certificate", "/c.pem", "/c.pem" }, { "certificateKey", "/k.pem", "/k.pem" },
    { "certificatePassword", "***", "(null)" }, { "sendChain", "true", "1" }, { "rs256", "yes", "1" },
    { "tenantId", "contoso.com", "contoso.com" },
    { "clientId", "aaaa-bbbb", "aaaa-bbbb" }, { "user", "app", "app" }, { "password", "a=b==", "a=b==" },
    { "password", "'\"x\"'", "'\"x\"'" }, { "password", "***", "(null)" }, { "clientSecret", "*****", "(null)" },
    { "password", "**", "**" }, { "password", "", "(null)" }, { "user", "", "(null)" },
    { "authorityHost", "https://login.microsoftonline.us", "https://login.microsoftonline.us" },
    { "allowAuthority", "login.example.com", "login.example.com" }, { "authorityCaFile", "x.pem", "x.pem" },
    { "scope", "https://redis.azure.com/.default", "https://redis.azure.com/.default" },
    { "tokenTimeout", "1", "1" }, { "tokenTimeout", "4294967294", "4294967294" }, { "chainTimeout", "never", "4294967295" },
    { "policy", "seed", "1" }, { "policy", "default", "0" }, { "protocol", "resp3", "3" }, { "protocol", "RESP2", "2" },
    { "protocol", "2", "2" }, { "protocol", "3", "3" }, { "name", "a b", "a b" }, { "defaultDatabase", "0", "0" },
    { "defaultDatabase", "4294967295", "4294967295" }, { "connectTimeout", "5000", "5000" }, { "authTimeout", "NEVER", "4294967295" },
    { "syncTimeout", "250", "250" }, { "keepAlive", "60", "60000" }, { "keepAlive", "0", "4294967295" }, { "keepAlive", "-1", "0" },
    { "keepAlive", "never", "4294967295" }, { "keepAlive", "4294967", "4294967000" }, { "renewTimeout", "7", "7" },
    { "abortConnect", "true", "1" }, { "abortConnect", "False", "0" }, { "failFast", "yes", "1" }, { "failFast", "on", "1" },
    { "failFast", "1", "1" }, { "maxReply", "1000000", "1000000" }, { "backlogCount", "5", "5" }, { "backlogBytes", "9", "9" },
    { "subQueue", "8", "8" }, { "pubsub", "shared", "0" }, { "pubsub", "separate", "1" }, { "reauth", "inline", "0" },
    { "reauth", "quiesced", "1" }, { "reauth", "handover", "2" }, { "leases", "32", "32" }, { "connectRetry", "5", "5" }, { "keepAliveMs", "1500", "1500" }, { "clientName", "n", "n" }, { "db", "3", "3" },
    { "abortOnConnectFail", "true", "1" }
};

/* In every case of letters, with blanks, in fields and in a URL. */
static void test_every_key(void **state) {
    size_t i, k, n;
    (void)state;
    for (i = 0; i < COUNT(values); i++) {
        char text[300], out[32], shout[40];
        for (k = 0; values[i].key[k]; k++)
            shout[k] = (char)(values[i].key[k] >= 'a' && values[i].key[k] <= 'z' ? values[i].key[k] - 32 : values[i].key[k]);
        shout[k] = '\0';
        for (n = 0; n < 3; n++) {
            azri_config *c;
            if (n == 2 && (values[i].key == values[0].key || strchr(values[i].value, ' '))) continue;
            snprintf(text, sizeof text, n == 0 ? "h,%s=%s" : n == 1 ? " \th:1 ,, %s =  %s \r\n" : "rediss://h?%s=%s",
                     n == 1 ? shout : values[i].key, values[i].value);
            if (n == 2 && strcmp(values[i].key, "ssl") == 0) continue;
            c = reads(text);
            if (strcmp(member(c, values[i].key, out), values[i].is) != 0)
                fail_msg("%s: %s is %s", text, values[i].key, member(c, values[i].key, out));
            assert_string_equal(c->options.host, "h");
            assert_int_equal(c->options.tcp_port, n == 1);
            azri_config_free(c);
        }
    }
    for (i = 0; i < AZRI_CONFIG_KEYS; i++) {                    /* the table above leaves no key out */
        const azri_config_key *key = &azri_config_keys[i];
        if (key->kind >= AZRI_CK_NO_EFFECT) continue;
        for (k = 0; k < COUNT(values) && strcmp(values[k].key, key->name) != 0; k++) {}
        if (k == COUNT(values)) fail_msg("no value for %s", key->name);
        assert_true(strlen(key->name) <= AZRI_CONFIG_NAME);
    }
}

#define O(member) { offsetof(azredis_options, member), sizeof ((azredis_options *)0)->member }
#define A(member) { offsetof(azredis_auth_options, member), sizeof ((azredis_auth_options *)0)->member }

typedef struct place { size_t at, size; } place;

/* Every word of the struct is a key's or left out on purpose: a new member is seen here. */
static void every_word(int where, size_t size, const place *out, size_t n) {
    unsigned char known[1024] = {0};
    size_t i, k, word = sizeof(uint64_t);      /* alignment leaves holes */
    assert_true(size <= sizeof known);
    for (i = 0; i < n; i++) memset(known + out[i].at, 1, out[i].size);
    for (i = 0; i < AZRI_CONFIG_KEYS; i++) {
        const azri_config_key *key = &azri_config_keys[i];
        if (key->place != where) continue;
        assert_int_equal(known[key->offset], 0);
        memset(known + key->offset, 1, azri_config_size(key));
    }
    for (i = 0; i < size; i += word) {
        for (k = 0; k < word && !known[i + k]; k++) {}
        if (k == word) fail_msg("no key for the member at %u of struct %d", (unsigned)i, where);
    }
}

static void test_every_member(void **state) {
    static const place options[] = { O(host), O(tcp_port), O(auth), O(identity), O(ca), O(ca_len), O(port), O(on_event),
                                     O(event_user), O(log_level), O(seed), O(config),
                                     /* of clients in memory, which take no string */
                                     O(memory), O(memory_size), O(rx_bytes), O(command_bytes), O(replies), O(subscriptions),
                                     O(message_bytes), O(renewal) };
    static const place identity[] = { A(get_token), A(get_token_user), A(get_assertion), A(get_assertion_user), A(ca), A(ca_len), A(port), A(on_event),
                                      A(certificate), A(certificate_len), A(key), A(key_len), A(sign), A(sign_user),
                                      A(event_user), A(log_level), A(seed), A(config), A(load_refresh), A(save_refresh), A(refresh_user) };
    (void)state;
    every_word(AZRI_CK_OPTION, sizeof(azredis_options), options, COUNT(options));
    every_word(AZRI_CK_IDENTITY, sizeof(azredis_auth_options), identity, COUNT(identity));
}

static void test_case46_portal_strings(void **state) {
    azri_config *c;
    (void)state;
    c = reads("contoso.redis.cache.windows.net:6380,password=" SECRET ",ssl=True,abortConnect=False");
    assert_string_equal(c->options.host, "contoso.redis.cache.windows.net");
    assert_int_equal(c->options.tcp_port, 6380);
    assert_string_equal(c->identity.password, SECRET);
    assert_int_equal(c->identity.identity, AZREDIS_ID_ACCESS_KEY);
    assert_int_equal(c->options.plaintext, 0);
    azri_config_free(c);
    c = reads("contoso.westeurope.redis.azure.net:10000,password=" SECRET ",user=u,ssl=True,allowAdmin=true,SetLib=0");
    assert_int_equal(c->identity.identity, AZREDIS_ID_PASSWORD);
    assert_string_equal(c->no_effect, "allowAdmin, setlib");
    azri_config_free(c);
    c = reads("contoso.westeurope.redis.azure.net");
    assert_int_equal(c->identity.identity, AZREDIS_ID_DEFAULT);
    assert_int_equal(c->options.tcp_port, 0);                   /* by the host's suffix, as with the member */
    azri_config_free(c);
    c = reads("h,auth=default,password=" SECRET ",password=" SECRET "2,user=u,db=1,db=2");
    assert_int_equal(c->identity.identity, AZREDIS_ID_DEFAULT); /* what auth says counts */
    assert_string_equal(c->no_effect, "password");
    assert_null(c->identity.password);
    assert_int_equal(c->options.database, 2);                   /* the last of two */
    azri_config_free(c);
    c = reads("h,password=" SECRET ",password=" SECRET "2");
    assert_string_equal(c->identity.password, SECRET "2");
    azri_config_free(c);
}

static void test_no_effect_and_refused(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < AZRI_CONFIG_KEYS; i++) {
        const azri_config_key *k = &azri_config_keys[i];
        char text[100];
        azri_config *c;
        if (k->kind < AZRI_CK_NO_EFFECT) continue;
        snprintf(text, sizeof text, "h,%s=" SECRET, k->name);
        c = try_read(text);
        if (k->kind == AZRI_CK_NO_EFFECT) {
            assert_non_null(c);
            assert_string_equal(c->no_effect, k->name);
            azri_config_free(c);
            continue;
        }
        assert_null(c);
        assert_int_equal(why.code, AZREDIS_E_ARG);
        assert_int_equal(why.retryable, 0);
        assert_non_null(strstr(why.message, k->name));
        assert_non_null(strstr(why.message, k->mend));
        snprintf(text, sizeof text, "h,%s=None,%s=", k->name, k->name);
        azri_config_free(reads(text));
    }
}

/* As many as there are, and more than the list of names holds: cut, not overrun. */
static void test_no_effect_is_bounded(void **state) {
    char text[6000];
    size_t i, n = 0;
    azri_config *c;
    (void)state;
    for (i = 0; i < 200; i++) n += (size_t)snprintf(text + n, sizeof text - n, "checkCertificateRevocation=1,");
    c = reads(text);
    assert_int_equal(strlen(c->no_effect), sizeof c->no_effect - 1);
    azri_config_free(c);
}

/* ---- addresses and URLs ---- */

static void test_case46_addresses(void **state) {
    static const struct { const char *text, *host; unsigned port; int plaintext; const char *user, *password; unsigned db; } v[] = {
        { "h", "h", 0, 0, NULL, NULL, 0 }, { "h:1", "h", 1, 0, NULL, NULL, 0 }, { "h.:65535", "h", 65535, 0, NULL, NULL, 0 },
        { "[::1]:10000", "::1", 10000, 0, NULL, NULL, 0 }, { "::1", "::1", 0, 0, NULL, NULL, 0 },
        { "[fe80::1]", "fe80::1", 0, 0, NULL, NULL, 0 }, { "db=1,h:7", "h", 7, 0, NULL, NULL, 1 },
        { "/run/redis.sock", "/run/redis.sock", 0, 1, NULL, NULL, 0 }, { "!/run/redis.sock", "/run/redis.sock", 0, 1, NULL, NULL, 0 },
        { "/run/redis.sock,ssl=false", "/run/redis.sock", 0, 1, NULL, NULL, 0 },
        { "rediss://h", "h", 0, 0, NULL, NULL, 0 }, { "REDISS://h:1/", "h", 1, 0, NULL, NULL, 0 },
        { " rediss://h:1/12 \n", "h", 1, 0, NULL, NULL, 12 }, { "redis://localhost", "localhost", 0, 1, NULL, NULL, 0 },
        { "rediss://[::1]:5/3?db=4", "::1", 5, 0, NULL, NULL, 4 }, { "rediss://u@h", "h", 0, 0, "u", NULL, 0 },
        { "rediss://:p@h", "h", 0, 0, NULL, "p", 0 }, { "rediss://u:p@h:1/2?", "h", 1, 0, "u", "p", 2 },
        { "rediss://u%40x:p%2C%2f%3A%25%e2%82%ac@h", "h", 0, 0, "u@x", "p,/:%\xe2\x82\xac", 0 },
        { "rediss://u:a:b@c@h", "h", 0, 0, "u", "a:b@c", 0 }, { "rediss://u:***@h", "h", 0, 0, "u", NULL, 0 },
        { "rediss://@h", "h", 0, 0, NULL, NULL, 0 }, { "rediss://:@h", "h", 0, 0, NULL, NULL, 0 },
        { "rediss://h?user=a%26b&password=c+d&&db=5", "h", 0, 0, "a&b", "c+d", 5 }, { "rediss://h?ssl=true", "h", 0, 0, NULL, NULL, 0 },
        { "redis://127.0.0.1?ssl=false", "127.0.0.1", 0, 1, NULL, NULL, 0 },
        { "unix:///run/a%2Cb", "/run/a,b", 0, 1, NULL, NULL, 0 }, { "unix://u:p@/run/s?db=6", "/run/s", 0, 1, "u", "p", 6 },
        { "rediss://?name=x", NULL, 0, 0, NULL, NULL, 0 }, { "rediss:///7", NULL, 0, 0, NULL, NULL, 7 }, { "", NULL, 0, 0, NULL, NULL, 0 },
        { " , ,", NULL, 0, 0, NULL, NULL, 0 }, { "h,authorityHost=https://x", "h", 0, 0, NULL, NULL, 0 }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(v); i++) {
        azri_config *c = reads(v[i].text);
        if (!v[i].host != !c->options.host || (v[i].host && strcmp(v[i].host, c->options.host) != 0))
            fail_msg("%s: host %s", v[i].text, c->options.host ? c->options.host : "none");
        if (c->options.tcp_port != v[i].port || c->options.plaintext != v[i].plaintext || c->options.database != v[i].db)
            fail_msg("%s: port %u, plaintext %d, database %u", v[i].text, c->options.tcp_port, c->options.plaintext, c->options.database);
        if (!v[i].user != !c->identity.user || (v[i].user && strcmp(v[i].user, c->identity.user) != 0))
            fail_msg("%s: user %s", v[i].text, c->identity.user ? c->identity.user : "none");
        if (!v[i].password != !c->identity.password || (v[i].password && strcmp(v[i].password, c->identity.password) != 0))
            fail_msg("%s: password %s", v[i].text, c->identity.password ? c->identity.password : "none");
        azri_config_free(c);
    }
}

/* ---- refusals ---- */

static const struct { const char *text; unsigned at; const char *says; } wrong[] = {
    { "h,nonsense=1", 3, "the key nonsense is unknown; the manual" }, { "h,synctimout=1", 3, "did you mean syncTimeout?" },
    { "h, sslhots =x", 4, "did you mean sslHost?" }, { "h,pasword=" SECRET, 3, "did you mean password?" },
    { "h,x=1", 3, "the key x is unknown" }, { "h,=1", 3, "no name of a key" }, { "h,a b=1", 3, "no name of a key" },
    { "h,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=1", 3, "no name of a key" }, { "h,$GET=x", 3, "renames a command" },
    { "h,password=x," SECRET, 14, "a comma ends a value" }, { "h,password=x," SECRET "=y", 14, "a comma ends a value" },
    { "password=x," SECRET ".example.com", 12, "a comma ends a value" },
    { "h:1,h:2", 5, "a second address" }, { "h:1,/run/x", 5, "a second address" }, { "h:0", 1, "the port is not" },
    { "h:65536", 1, "from 1 to 65535" }, { "h:x", 1, "expected host, host:port" }, { ":6380", 1, "host name is empty" },
    { "u:hunter2@h", 1, "before '@'" }, { "a_b c", 1, "not a host name" }, { "[::1", 1, "without ']'" }, { "[::g]:1", 1, "no IPv6" },
    { "h:1:2", 1, "brackets" }, { "h,ssl=maybe", 3, "key ssl: expected true or false" }, { "h,ssl=", 3, "expected true" },
    { "h,abortConnect=2", 3, "key abortConnect: expected true" }, { "h,syncTimeout=0", 3, "key syncTimeout: expected milliseconds" },
    { "h,syncTimeout=4294967295", 3, "expected milliseconds" }, { "h,syncTimeout=-1", 3, "expected milliseconds" },
    { "h,syncTimeout=1s", 3, "expected milliseconds" }, { "h,syncTimeout=", 3, "expected milliseconds" },
    { "h,syncTimeout=18446744073709551617", 3, "expected milliseconds" },
    { "h,keepAlive=4294968", 3, "expected seconds" }, { "h,keepAlive=never,keepAlive=x", 19, "expected seconds" }, { "h,keepAlive=-2", 3, "expected seconds" },
    { "h,db=4294967296", 3, "up to 4294967295" }, { "h,db=-1", 3, "whole number" },
    { "h,maxReply=99999999999999999999", 3, "bytes" }, { "h,protocol=4", 3, "resp2 or resp3" }, { "h,protocol=", 3, "resp2 or resp3" },
    { "h,policy=fast", 3, "one of these words is expected: default seed" }, { "h,reauth=inlin", 3, "inline quiesced handover" }, { "h,reauth=", 3, "quiesced" },
    { "h,pubsub=shared separate", 3, "shared separate" }, { "h,leases=many", 3, "whole number" }, { "h,auth=nobody", 3, "key auth: no identity has this name" },
    { "h,auth=", 3, "no identity" }, { "h,auth=Default", 3, "no identity" }, { "h,certificatePassword=" SECRET, 3, "AZURE_CLIENT_CERTIFICATE_PASSWORD" }, { "h,clientSecret=" SECRET, 3, "AZURE_CLIENT_SECRET" },
    { "h,ssl=true,ssl=false", 12, "say it once" }, { "/run/x,ssl=true", 8, "say it once" }, { "ssl=true,/run/x", 10, "say it once" },
    { "h,sentinelPassword=" SECRET, 3, "Sentinel is not supported" }, { "h,proxy=Twemproxy", 3, "connect directly" },
    { "http://h", 1, "expected rediss://" }, { " https://u:" SECRET "@h", 2, "expected rediss://" }, { "rediss://h:x", 10, "the port" },
    { "rediss://u:a/" SECRET "@h", 10, "must be written %40" }, { "rediss://u:a?" SECRET "@h", 10, "must be written" },
    { "rediss://u:a#" SECRET, 10, "must be written" }, { "rediss://h#x", 10, "must be written" }, { "rediss://h/x", 11, "number of a database" },
    { "rediss://h/4294967296", 11, "number of a database" }, { "rediss://h/0/1", 11, "number of a database" },
    { "rediss://hunter2%zz:x@h", 10, "two hexadecimal digits" }, { "rediss://u:%0@h", 12, "two hexadecimal digits" },
    { "rediss://u:%00hunter2@h", 12, "two hexadecimal digits" }, { "rediss://h?name=%", 17, "two hexadecimal digits" },
    { "rediss://h?name", 12, "key=value" }, { "rediss://h?nmae=1", 12, "did you mean name?" }, { "rediss://h?ssl=false", 12, "say it once" },
    { "redis://h?ssl=true", 11, "say it once" }, { "rediss://h:1,ssl=true", 10, "the port is not" },
    { "rediss://h?password=a&" SECRET "=1", 23, "a comma ends a value" },
    { "unix://run/x", 8, "three '/'" }, { "unix://", 8, "unix:///path" }, { "unix:///%g", 8, "hexadecimal" }, { "unix:///x?ssl=true", 11, "say it once" }
};

static void test_refusals(void **state) {
    size_t i, n;
    (void)state;
    for (i = 0; i < COUNT(wrong); i++) {
        char place[32];
        assert_null(try_read(wrong[i].text));
        assert_int_equal(why.code, AZREDIS_E_ARG);
        assert_int_equal(why.retryable, 0);
        assert_string_equal(why.where, "options.config");
        snprintf(place, sizeof place, ", character %u", wrong[i].at);
        n = strlen(place);
        if (!strstr(why.message, place) || (strstr(why.message, place)[n] != ':' && strstr(why.message, place)[n] != ','))
            fail_msg("%s: no%s in: %s", wrong[i].text, place, why.message);
        if (!strstr(why.message, wrong[i].says)) fail_msg("%s: no \"%s\" in: %s", wrong[i].text, wrong[i].says, why.message);
        if (strstr(why.message, "hunter2") || strstr(why.message, "Zq9")) fail_msg("a secret: %s", why.message);
    }
}

/* Wherever a byte is put into, cut from or changed in a string with a secret, no message has a piece of it. */
static void test_messages_have_no_secret(void **state) {
    static const char *const good[] = {
        ("h:1,password=" SECRET ",user=u,name=x"), "rediss://u:hunter2-Zq9@h:1/2?name=x&password=hunter2-Zq9",
        ("h,user=u,auth=password,password=" SECRET)
    };
    static const char edits[] = ",=:/?#@&%$*! \n[]x0";
    size_t i, at, k;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        for (at = 0; at <= strlen(good[i]); at++) {
            for (k = 0; k < 2 * sizeof edits; k++) {
                char text[200];
                azri_config *c;
                snprintf(text, sizeof text, "%.*s%.1s%s", (int)at, good[i], k / 2 < sizeof edits - 1 ? &edits[k / 2] : "",
                         good[i] + at + (k % 2 && good[i][at]));
                c = try_read(text);
                /* Only what is left of the secret after the edit's place can be in a message: never as one word. */
                if (!c && (strstr(why.message, "hunter2") || strstr(why.message, "Zq9"))) fail_msg("%s: %s", text, why.message);
                azri_config_free(c);
            }
        }
    }
}

static void test_limits(void **state) {
    size_t n;
    (void)state;
    for (n = AZRI_CONFIG_MAX - 1; n <= AZRI_CONFIG_MAX + 1; n++) {
        char *text = malloc(n + 1);
        azri_config *c;
        assert_non_null(text);
        memset(text, 'p', n);
        memcpy(text, "h,password=", 11);
        text[n] = '\0';
        c = try_read(text);
        assert_int_equal(c != NULL, n <= AZRI_CONFIG_MAX);
        if (c) assert_int_equal(strlen(c->identity.password), n - 11);
        else assert_non_null(strstr(why.message, "longer than 65536 bytes"));
        azri_config_free(c);
        free(text);
    }
    for (n = 252; n <= 254; n++) {                              /* a host name has 253 characters */
        char text[300];
        size_t i;
        azri_config *c;
        for (i = 0; i < n; i++) text[i] = i % 60 == 59 ? '.' : 'a';
        memcpy(text + n, ":1", 3);
        c = try_read(text);
        assert_int_equal(c != NULL, n <= 253);
        azri_config_free(c);
    }
}

/* ---- what wins ---- */

static void test_members_win(void **state) {
    azri_config *c = reads("one:1,ssl=false,name=a,db=1,user=u,password=" SECRET ",syncTimeout=5,maxReply=7,policy=seed,failFast=1");
    azredis_options o;
    azredis_auth_options id;
    (void)state;
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    azri_config_merge(c, &o, &id);
    assert_string_equal(o.host, "one");
    assert_int_equal(o.tcp_port, 1);
    assert_int_equal(o.plaintext, 1);
    assert_string_equal(o.client_name, "a");
    assert_int_equal(o.database, 1);
    assert_int_equal(o.command_ms, 5);
    assert_int_equal(o.max_reply, 7);
    assert_int_equal(o.fail_fast, 1);
    assert_int_equal(o.connect_ms, 0);
    assert_int_equal(id.identity, AZREDIS_ID_PASSWORD);
    assert_int_equal(id.policy, AZREDIS_POLICY_SEED);
    assert_string_equal(id.password, SECRET);
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    o.host = "two";                                             /* with its port, which is none */
    o.client_name = "";                                         /* empty: not set */
    o.database = 9;
    o.command_ms = AZREDIS_NEVER;
    id.identity = AZREDIS_ID_CLIENT_SECRET;
    id.user = "v";
    azri_config_merge(c, &o, &id);
    assert_string_equal(o.host, "two");
    assert_int_equal(o.tcp_port, 0);
    assert_string_equal(o.client_name, "a");
    assert_int_equal(o.database, 9);
    assert_true(o.command_ms == AZREDIS_NEVER);
    assert_int_equal(id.identity, AZREDIS_ID_CLIENT_SECRET);
    assert_string_equal(id.user, "v");
    memset(&o, 0, sizeof o);
    o.tcp_port = 5;                                             /* the string's host with another port */
    azri_config_merge(c, &o, &id);
    assert_string_equal(o.host, "one");
    assert_int_equal(o.tcp_port, 5);
    azri_config_free(c);
}

/* ---- and back ---- */

static void test_describe(void **state) {
    static const struct { const char *text, *is; } v[] = {
        { "h:1", "h:1,ssl=true" }, { "[::1]:5,ssl=0", "[::1]:5,ssl=false" }, { "::1", "[::1],ssl=true" }, { "", "ssl=true" },
        { "/run/x,db=1", "/run/x,defaultDatabase=1" }, { "unix:///a=b", "unix:///a%3Db" },
        { "h:1,password=" SECRET ",abortConnect=true,keepAlive=5", "h:1,ssl=true,auth=access-key,password=***,keepAlive=5,abortConnect=true" },
        { "h,keepAliveMs=1500,syncTimeout=never,keepAlive=-1,keepAliveMs=999", "h,ssl=true,syncTimeout=never,keepAliveMs=999" },
        { "h,keepAlive=0", "h,ssl=true,keepAlive=never" }, { "h,db=4294967295,protocol=2", "h,ssl=true,protocol=resp2,defaultDatabase=4294967295" },
        { "rediss://u:p@h:1/2?name=a%2Cb", "rediss://h:1?auth=password&user=u&password=***&name=a%2Cb&defaultDatabase=2" },
        { "redis://localhost?name=%20", "redis://localhost?name=%20" }, { "rediss://?name=a%0A", "rediss://?name=a%0A" },
        { "h,leases=4,reauth=handover,pubsub=separate", "h,ssl=true,pubsub=separate,reauth=handover,leases=4" },
        { "h,pubsub=shared,reauth=inline", "h,ssl=true" },
        { "h,name=a=\"b\" c,policy=seed", "h,ssl=true,policy=seed,name=a=\"b\" c" },
        { "h,tenantId=t,clientId=c,auth=client-secret,scope=https://x/.default,authorityHost=https://l:8443",
          "h,ssl=true,auth=client-secret,tenantId=t,clientId=c,authorityHost=https://l:8443,scope=https://x/.default" }
    };
    size_t i, cap, n;
    (void)state;
    for (i = 0; i < COUNT(v); i++) {
        azri_config *c = reads(v[i].text);
        n = strlen(v[i].is);
        for (cap = 0; cap <= n + 2; cap++) {                    /* each length, with a guard behind it */
            char buf[300];
            memset(buf, '#', sizeof buf);
            assert_int_equal(azri_config_describe(&c->options, &c->identity, buf, cap), n);
            assert_memory_equal(buf, v[i].is, cap > n ? n + 1 : cap ? cap - 1 : 0);
            assert_int_equal(cap ? buf[cap > n ? n : cap - 1] : 0, 0);
            assert_int_equal(buf[cap], '#');
        }
        assert_int_equal(azri_config_describe(&c->options, &c->identity, NULL, 0), n);
        azri_config_free(c);
    }
}

static void test_describe_hides_what_it_cannot_read(void **state) {
    azredis_options o;
    azredis_auth_options id;
    char buf[300];
    (void)state;
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    o.host = "u:" SECRET "@h";
    id.client_secret = SECRET;
    id.identity = AZREDIS_ID_CLIENT_SECRET;
    (void)azri_config_describe(&o, &id, buf, sizeof buf);
    assert_string_equal(buf, "***,ssl=true,auth=client-secret,clientSecret=***");
}

/* A word of letters that are hard for a string, for a URL, or for both; NULL now and then. */
static const char *word(azri_rng *r, char out[24]) {
    static const char letters[] = "aZ9,=&?#@%:/ +'\"\\*$-\t\n\x01\x7f\xc3\xa9";
    size_t i, n = (size_t)azri_rng_below(r, 12);
    for (i = 0; i < n; i++) out[i] = letters[azri_rng_below(r, sizeof letters - 1)];
    out[n] = '\0';
    return n ? out : NULL;
}

static uint32_t number(azri_rng *r) {
    static const uint32_t some[] = { 0, 1, 999, 1000, 1500, 60000, AZREDIS_NEVER - 1, AZREDIS_NEVER };
    return some[azri_rng_below(r, COUNT(some))];
}

static int same(const char *a, const char *b) { return a && b ? strcmp(a, b) == 0 : !(a && a[0]) && !(b && b[0]); }

/* What a program may set comes back as it was. */
static void test_round_trip(void **state) {
    static const char *const hosts[] = { NULL, "h", "h.example.com", "::1", "127.0.0.1", "/run/x", "/run/a,b=c ?&%d" };
    azri_rng r;
    int i, k;
    (void)state;
    r.state = 7;
    for (i = 0; i < 20000; i++) {
        char w[8][24], text[2000];
        azredis_options o, back;
        azredis_auth_options id, id_back;
        azri_config *c;
        memset(&o, 0, sizeof o);
        memset(&id, 0, sizeof id);
        o.host = hosts[azri_rng_below(&r, COUNT(hosts))];
        o.plaintext = o.host && o.host[0] == '/' ? 1 : (int)azri_rng_below(&r, 2);
        o.tcp_port = o.host && o.host[0] != '/' ? (uint16_t)azri_rng_below(&r, 3) : 0;
        o.tls_host = word(&r, w[0]);
        o.ca_file = word(&r, w[1]);
        o.client_name = word(&r, w[2]);
        o.protocol = (int)azri_rng_below(&r, 3);
        if (o.protocol) o.protocol++;
        o.database = number(&r);
        o.connect_ms = number(&r);
        o.auth_ms = number(&r);
        o.command_ms = number(&r);
        o.keepalive_ms = number(&r);
        o.renew_ms = number(&r);
        o.abort_on_connect_fail = (int)azri_rng_below(&r, 2);
        o.fail_fast = (int)azri_rng_below(&r, 2);
        o.max_reply = number(&r);
        o.backlog_count = number(&r);
        o.backlog_bytes = number(&r);
        o.sub_queue = number(&r);
        o.pubsub = (azredis_pubsub)azri_rng_below(&r, 2);
        o.reauth = (azredis_reauth)azri_rng_below(&r, 3);
        o.leases = number(&r);
        o.connect_retry = number(&r);
        id.identity = (azredis_identity)azri_rng_below(&r, 6);
        id.tenant_id = word(&r, w[3]);
        id.client_id = word(&r, w[4]);
        id.user = word(&r, w[5]);
        id.scope = word(&r, w[6]);
        id.ca_file = word(&r, w[7]);
        id.request_ms = number(&r);
        id.chain_ms = number(&r);
        id.policy = (azredis_policy)azri_rng_below(&r, 2);
        assert_true(azri_config_describe(&o, &id, text, sizeof text) < sizeof text);
        c = reads(text);
        back = c->options;
        id_back = c->identity;
        if (!same(o.host, back.host) || o.tcp_port != back.tcp_port || !same(o.tls_host, back.tls_host) ||
            !same(o.ca_file, back.ca_file) || !same(o.client_name, back.client_name) || o.plaintext != back.plaintext ||
            !same(id.tenant_id, id_back.tenant_id) || !same(id.client_id, id_back.client_id) || !same(id.user, id_back.user) ||
            !same(id.scope, id_back.scope) || !same(id.ca_file, id_back.ca_file)) fail_msg("a text is lost: %s", text);
        for (k = 0; k < (int)AZRI_CONFIG_KEYS; k++) {
            const azri_config_key *key = &azri_config_keys[k];
            if (key->kind == AZRI_CK_TEXT || key->kind >= AZRI_CK_NO_EFFECT) continue;
            if (memcmp(azri_config_member(key, &o, &id), azri_config_member(key, &back, &id_back), azri_config_size(key)) != 0)
                fail_msg("%s is lost: %s", key->name, text);
        }
        azri_config_free(c);
    }
}

/* ---- through the public calls ---- */

static azredis_client *open_with(const char *config, azredis_error *e) {
    azredis_options o;
    azredis_client *c;
    memset(&o, 0, sizeof o);
    o.config = config;
    o.port = &port;
    o.log_level = AZREDIS_LOG_NONE;
    c = azredis_open(&o);
    memset(e, 0, sizeof *e);
    *e = c ? c->broken : *e;
    return c;
}

static void test_open(void **state) {
    static const struct { const char *config; azredis_status code; const char *endpoint; } v[] = {
        { "a.redis.cache.windows.net,auth=environment", AZREDIS_OK, "a.redis.cache.windows.net:6380" },
        { "a.b.redis.azure.net", AZREDIS_OK, "a.b.redis.azure.net:10000" }, { "h:5", AZREDIS_OK, "h:5" },
        { "redis://localhost", AZREDIS_OK, "localhost:6379" }, { "rediss://[::1]/0?user=x", AZREDIS_OK, "::1:10000" },
        { "/run/x", AZREDIS_OK, "/run/x" }, { "redis://a.redis.azure.net", AZREDIS_E_ARG, "without TLS only this machine" },
        { "h,ssl=false", AZREDIS_E_ARG, "without TLS only this machine" }, { "name=x", AZREDIS_E_ARG, "options.host is missing" },
        { "h,auth=client-secret,tenantId=t,clientId=c", AZREDIS_E_ARG, "client_secret" }, { "h,auth=password,user=u,password=***", AZREDIS_E_ARG, "password" },
        { "h,syncTimout=1", AZREDIS_E_ARG, "did you mean syncTimeout?" }, { "h,tenantId=a/b", AZREDIS_E_ARG, "tenant" }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(v); i++) {
        azredis_error e, told;
        azredis_client *c = open_with(v[i].config, &e);
        assert_non_null(c);
        if (e.code != v[i].code) fail_msg("%s: %s", v[i].config, e.message);
        if (e.code == AZREDIS_OK) {
            assert_string_equal(c->endpoint, v[i].endpoint);
        } else {
            if (!strstr(e.message, v[i].endpoint)) fail_msg("%s: %s", v[i].config, e.message);
            assert_int_equal(azredis_connect(c, 0, &told), AZREDIS_E_ARG);
            assert_string_equal(told.message, e.message);
            assert_int_equal(azredis_command(c, NULL, "PING"), AZREDIS_E_ARG);
        }
        azredis_close(c);
    }
}

static char seen[300];

static void on_event(const azredis_event *lent, void *user) {
    (void)user;
    if (lent->type == AZREDIS_EV_LOG && lent->number == 500) snprintf(seen, sizeof seen, "%d %s", (int)lent->level, lent->text);
}

static void test_keys_without_effect_are_told(void **state) {
    azredis_options o;
    azredis_client *c;
    (void)state;
    memset(&o, 0, sizeof o);
    seen[0] = '\0';
    o.config = "h,configChannel=c,highIntegrity=true,password=" SECRET;
    o.port = &port;
    o.on_event = on_event;
    c = azredis_open(&o);
    assert_non_null(c);
    azredis_close(c);
    assert_string_equal(seen, "3 the connection string has keys that have no effect: configChannel, highIntegrity");
}

/* An auth that stands alone takes what the string says of the identity, and its roots. */
static void test_auth_open(void **state) {
    azredis_auth_options o;
    azredis_auth *a;
    azredis_token token;
    size_t calls, fail;
    (void)state;
    memset(&o, 0, sizeof o);
    o.port = &port;
    o.config = "h:1,db=3,user=u,caFile=f.pem,password=" SECRET ",tenantId=t";
    o.tenant_id = "own";
    a = azredis_auth_open(&o);
    calls = heap.calls;
    assert_non_null(a);
    assert_int_equal(a->broken.code, AZREDIS_OK);
    assert_int_equal(a->conf.identity, AZREDIS_ID_PASSWORD);
    assert_string_equal(a->conf.password, SECRET);
    assert_string_equal(a->conf.tenant_id, "own");
    assert_string_equal(a->conf.ca_file, "f.pem");
    azredis_auth_release(a);
    for (fail = 1; fail <= calls; fail++) {
        heap.calls = 0;
        heap.fail_at = fail;
        assert_null(azredis_auth_open(&o));
        assert_int_equal(heap.live, 0);
    }
    heap.fail_at = 0;
    o.config = "rediss://u:" "x@h?authority=1";
    a = azredis_auth_open(&o);
    assert_non_null(a);
    assert_int_equal(azredis_auth_token(a, &token, 0, &why), AZREDIS_E_ARG);
    assert_non_null(strstr(why.message, "the key authority is unknown"));
    azredis_auth_release(a);
}

/* A caller of before the member: its smaller struct is served. */
static void test_older_caller(void **state) {
    azredis_options o;
    azredis_client *c;
    (void)state;
    memset(&o, 0, sizeof o);
    o.host = "h";
    o.port = &port;
    o.config = "h,nonsense=1";
    c = azredis_open_v(&o, offsetof(azredis_options, config), AZREDIS_VERSION);
    assert_non_null(c);
    assert_int_equal(c->broken.code, AZREDIS_OK);
    azredis_close(c);
}

/* Every allocation fails once: NULL each time, nothing left over, no secret in what was given back. */
static void test_out_of_memory(void **state) {
    static const char config[] = "h:1,password=" SECRET ",user=u,name=x,caFile=f,sslHost=g";
    azredis_error e;
    azredis_client *c;
    size_t fail, calls;
    (void)state;
    c = open_with(config, &e);
    calls = heap.calls;
    assert_non_null(c);
    assert_int_equal(e.code, AZREDIS_OK);
    azredis_close(c);
    for (fail = 1; fail <= calls; fail++) {
        heap.calls = 0;
        heap.fail_at = fail;
        assert_null(open_with(config, &e));
        assert_int_equal(heap.live, 0);
    }
    heap.calls = 0;
    heap.fail_at = 1;
    assert_null(try_read(config));
    assert_int_equal(why.code, AZREDIS_E_NOMEM);
    assert_int_equal(why.retryable, 1);
    heap.fail_at = 0;
}

static void test_public_describe(void **state) {
    azredis_options o;
    azredis_auth_options id;
    char buf[200];
    size_t n;
    (void)state;
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    o.port = &port;
    o.identity = &id;
    o.config = "h:1,name=a,password=" SECRET;
    o.client_name = "b";
    id.user = "u";
    n = azredis_describe(&o, buf, sizeof buf);
    assert_int_equal(n, strlen(buf));
    assert_string_equal(buf, "h:1,ssl=true,auth=access-key,user=u,password=***,name=b");
    o.auth = (azredis_auth *)(void *)&heap;                             /* not looked into */
    (void)azredis_describe(&o, buf, sizeof buf);
    assert_string_equal(buf, "h:1,ssl=true,name=b");
    o.config = "h,password=x," SECRET;
    n = azredis_describe(&o, buf, sizeof buf);
    assert_int_equal(n, strlen(buf));
    assert_non_null(strstr(buf, "(wrong: connection string, character 14"));
    assert_null(strstr(buf, "hunter2"));
    assert_int_equal(azredis_describe(&o, NULL, 0), strlen(buf));
    heap.calls = 0;
    heap.fail_at = 1;
    (void)azredis_describe(&o, buf, sizeof buf);
    assert_non_null(strstr(buf, "no memory"));
    assert_int_equal(azredis_describe(NULL, buf, sizeof buf), 8);
    assert_string_equal(buf, "ssl=true");
    (void)azredis_describe_v(&o, sizeof o, 0x7f0000, buf, sizeof buf);
    assert_string_equal(buf, "(wrong: a foreign version)");
}

static void test_identity_why(void **state) {
    static const char *const built[] = { "default", "environment", "client-secret", "callback", "access-key", "password",
                                         "managed-identity", "workload-identity", "token-file", "exec", "azure-cli",
                                         "azure-developer-cli", "azure-powershell", "device-code" };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(built); i++) {
        assert_null(azredis_identity_why(built[i]));
        assert_non_null(strstr(azredis_identity_why("x"), built[i]));
    }
    assert_non_null(strstr(azredis_identity_why(NULL), built[0]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_member, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case46_portal_strings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_effect_and_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_effect_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_case46_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_messages_have_no_secret, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_members_win, setup, teardown),
        cmocka_unit_test_setup_teardown(test_describe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_describe_hides_what_it_cannot_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_open, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys_without_effect_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_auth_open, setup, teardown),
        cmocka_unit_test_setup_teardown(test_older_caller, setup, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_public_describe, setup, teardown),
        cmocka_unit_test(test_identity_why)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
