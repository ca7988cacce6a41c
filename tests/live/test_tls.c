/* Certificates, trust, names, ports where nothing good listens, versions and suites of TLS. Each failure
 * ends in time, names step, cause and mend, and tells nothing to a stranger.
 *   cc -std=gnu11 -I. tests/live/test_tls.c tests/live/library.c -lcmocka -ljansson -lssl -lcrypto -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define _GNU_SOURCE
#include "azredis_entra.h"
#include <mbedtls/version.h>
#include "live.h"
#include "hostile.h"
#include <stdatomic.h>

static live em;
static azredis_client *client;

static int setup(void **state)
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

/* A token past the authority, whose certificate may be the bad one. */
static azredis_status admin_token(void *user, const char *scope, azredis_fetched *out)
{
    json_t *t = live_json(&em, "GET", "/token", "");
    const char *jwt = json_string_value(json_object_get(t, "access_token"));
    (void)user, (void)scope;
    out->len = strlen(jwt);
    memcpy(out->token, jwt, out->len);
    out->expires_in = (uint32_t)json_integer_value(json_object_get(t, "expires_in"));
    json_decref(t);
    return AZREDIS_OK;
}

static azredis_auth_options by_callback = {.identity = AZREDIS_ID_CALLBACK, .get_token = admin_token};

/* Connecting fails with this code and these words, within its time, and is not told about in parts. */
static void expect_failure(azredis_options *o, uint32_t wait_ms, azredis_status code, const char *part, azredis_error *why)
{
    memset(why, 0, sizeof *why);
    client = live_new(&em, o);
    assert_in_time(assert_true(azredis_connect(client, wait_ms, why) < 0), wait_ms);
    assert_has(why->message, part);
    if (code)                           /* else: one of several */
        assert_int_equal(why->code, code);
    assert_non_null(why->where);
    if (strlen(why->message) < 50)
        fail_msg("hardly a step, a cause and a mend: %s", why->message);
    done();
}

/* ---- certificates ---------------------------------------------------------------------------------- */

static const struct kind { const char *flag, *words; } KINDS[] = {
    {"expired", "expired"}, {"not-yet-valid", "clock"}, {"wrong-host", "localhost"},
    {"self-signed", "certificate"}, {"untrusted", "certificate"}};

static void refused_certificate(const struct kind *kind)
{
    azredis_options o = {.identity = &by_callback};
    azredis_error why;
    live_start(&em, "--gateway-cert", kind->flag, "--authority-cert", kind->flag, NULL);
    expect_failure(&o, 4000, AZREDIS_E_CERT, kind->words, &why);
    assert_int_equal(live_number(&em, "auths_total"), 0);              /* nothing was told to a stranger */
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 1);
    o.identity = NULL;
    expect_failure(&o, 4000, AZREDIS_E_CERT, kind->words, &why);
    assert_int_equal(live_number(&em, "token_requests"), 0);
    assert_int_equal(why.retryable, 0);
}

static void test_expired_certificate(void **state) { (void)state; refused_certificate(&KINDS[0]); }
static void test_not_yet_valid_certificate(void **state) { (void)state; refused_certificate(&KINDS[1]); }
static void test_wrong_host_certificate(void **state) { (void)state; refused_certificate(&KINDS[2]); }
static void test_self_signed_certificate(void **state) { (void)state; refused_certificate(&KINDS[3]); }
static void test_untrusted_certificate(void **state) { (void)state; refused_certificate(&KINDS[4]); }

static void test_trust_and_names(void **state)
{
    azredis_options o = {.tls_host = "redis.emulator.test"}, wrong = {.tls_host = "other.emulator.test", .identity = &by_callback};
    azredis_options store = {.ca_file = "/nonexistent/ca.pem", .identity = &by_callback};
    azredis_options by_address = {.identity = &by_callback};
    azredis_error why;
    char path[300], address[32];
    (void)state;
    client = live_open(&em, &o);        /* a name of the certificate, though not the one dialled */
    done();
    snprintf(address, sizeof address, "127.0.0.1:%d", em.gateway_port);
    by_address.host = address;
    client = live_open(&em, &by_address);
    done();
    expect_failure(&wrong, 4000, AZREDIS_E_CERT, "other.emulator.test", &why);
    assert_int_equal(why.retryable, 0);
    expect_failure(&store, 4000, AZREDIS_E_CERT, "/nonexistent/ca.pem", &why);
    snprintf(path, sizeof path, "%s", getenv("SSL_CERT_FILE"));
    setenv("SSL_CERT_FILE", "/nonexistent/store.pem", 1);
    store.ca_file = NULL;
    expect_failure(&store, 4000, AZREDIS_E_CERT, "/nonexistent/store.pem", &why);
    assert_int_equal(live_number(&em, "auths_total"), 2);
    setenv("SSL_CERT_FILE", path, 1);
    store.ca_file = path;               /* and given by name it works */
    client = live_open(&em, &store);
    done();
}

static void test_unknown_host(void **state)
{
    azredis_options o = {.host = "no-such-host.invalid:10000", .identity = &by_callback};
    azredis_error why;
    (void)state;
    expect_failure(&o, 1500, AZREDIS_E_DNS, "no-such-host.invalid", &why);
}

/* ---- ports and TLS ----------------------------------------------------------------------------------- */

static void test_wrong_ports(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char host[40];
    azredis_options o = {.host = host, .identity = &by_callback, .connect_ms = 400};
    azredis_error why;
    (void)state;
    assert_int_equal(bind(silent, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(silent, (struct sockaddr *)&a, &n), 0);
    snprintf(host, sizeof host, "localhost:%d", ntohs(a.sin_port));     /* bound, not listening: closed */
    expect_failure(&o, 1000, AZREDIS_E_NET, host, &why);
    assert_has(why.message, "refused");
    assert_int_equal(listen(silent, 8), 0);                             /* takes connections, says nothing */
    expect_failure(&o, 1000, AZREDIS_E_TIMEOUT, "TLS port", &why);
    close(silent);
    snprintf(host, sizeof host, "localhost:%d", em.admin_port);         /* answers in plain text */
    expect_failure(&o, 1000, AZREDIS_OK, "TLS", &why);
    assert_true(why.code == AZREDIS_E_TLS || why.code == AZREDIS_E_CLOSED || why.code == AZREDIS_E_NET);
}

static void works_with(const char *tls, const char *ciphers)
{
    azredis_options o = {0};
    live_start(&em, "--tls", tls, ciphers ? "--ciphers" : NULL, ciphers, NULL);
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    done();
}

/* The two suites of TLS 1.2 that Azure Managed Redis documents, both CBC. */
static void test_tls12_cbc(void **state)
{
    (void)state;
    works_with("1.2", "ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256");
}

static void test_tls12_cbc_128(void **state)
{
    (void)state;
    works_with("1.2", "ECDHE-RSA-AES128-SHA256");
}

static void test_ecdsa_certificate(void **state)
{
    azredis_options o = {0};
    (void)state;
    live_start(&em, "--gateway-cert", "ecdsa", "--authority-cert", "ecdsa", NULL);
    client = live_open(&em, &o);
    done();
}

/* mbedTLS 2.28 has no client for TLS 1.3: that has to be said. */
static void test_tls13_only(void **state)
{
    azredis_options o = {.identity = &by_callback};
    azredis_error why = {0};
    (void)state;
    live_start(&em, "--tls", "1.3", NULL);
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    (void)why;
#else
    expect_failure(&o, 1500, AZREDIS_E_TLS, "mbedTLS 2 knows nothing newer", &why);
#endif
    done();
}

/* ---- what only a server can provoke ------------------------------------------------------------------ */

static long handshakes(void) { return live_number(&em, "tls_full") + live_number(&em, "tls_resumed"); }

/* Ends the connection, and waits for the next one. */
static void reconnect(void)
{
    long before = handshakes();
    live_fault(&em, "expire-now", NULL, "1");
    await((azredis_wait(client, 5), handshakes() > before && live_connected(client)), LIVE_SOON);
}

static void expect_handshakes(long full, long resumed)
{
    assert_int_equal(live_number(&em, "tls_full"), full);
    assert_int_equal(live_number(&em, "tls_resumed"), resumed);
}

/* mbedTLS 3.6.6 refuses the RSA-PSS signature that it asked a TLS 1.2 server for; we dial once more. */
static void test_tls12_rsa_pss(void **state)
{
    azredis_options o = {0};
    long dials = MBEDTLS_VERSION_NUMBER == 0x03060600 || MBEDTLS_VERSION_NUMBER == 0x04010000 ? 2 : 1;
    (void)state;
    live_start(&em, "--tls", "1.2", NULL);
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    assert_int_equal(live_number(&em, "connections_opened"), dials);
    assert_int_equal(live_seen.of[AZREDIS_EV_CONNECTION_FAILED], 0);
    done();
}

static void resumes(const char *tls)
{
    azredis_options o = {0};
    live_start(&em, tls ? "--tls" : NULL, tls, NULL);
    client = live_open(&em, &o);
    expect_handshakes(1, 0);
    assert_int_equal(live_incr(client, "n"), 1);
    reconnect();
    expect_handshakes(1, 1);
    assert_int_equal(live_incr(client, "n"), 2);
    reconnect();
    expect_handshakes(1, 2);
    live_fault(&em, "forget-sessions", NULL, "1");      /* the server takes it no more: the whole handshake */
    reconnect();
    expect_handshakes(2, 2);
    assert_int_equal(live_incr(client, "n"), 3);
    reconnect();
    expect_handshakes(2, 3);
    done();
}

static void test_resumed(void **state)
{
    (void)state;
    resumes(NULL);
}

static void test_resumed_tls12(void **state)
{
    (void)state;
    resumes("1.2");
}

/* What one client was let in with is of no use to one that expects another name. */
static void test_resumed_wrong_name(void **state)
{
    azredis_options o = {0}, wrong = {.tls_host = "other.emulator.test"};
    azredis_client *good;
    azredis_error why;
    (void)state;
    live_start(&em, NULL);
    good = client = live_open(&em, &o);
    reconnect();
    expect_handshakes(1, 1);
    expect_failure(&wrong, 4000, AZREDIS_E_CERT, "other.emulator.test", &why);
    client = good;
    assert_int_equal(live_number(&em, "tls_resumed"), 1);
    reconnect();
    assert_int_equal(live_number(&em, "tls_resumed"), 2);
    done();
}

/* ---- the token endpoint ------------------------------------------------------------------------------ */

#define JWT "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL3JlZGlzLmF6dXJlLmNvbSIsIm9pZCI6IjBmMWUyZDNjLTRiNWEtN" \
    "jk3OC04Nzk2LWE1YjRjM2QyZTFmMCIsInRpZCI6IjExMTExMTExLTIyMjItMzMzMy00NDQ0LTU1NTU1NTU1NTU1NSJ9.c2lnbmF0dXJl"

typedef struct counted { atomic_int full, resumed; } counted;

/* A token of one second. */
static void token_script(peer *p, void *user)
{
    counted *n = user;
    char *body = peer_request(p);
    atomic_fetch_add(SSL_session_reused(p->ssl) ? &n->resumed : &n->full, 1);
    if (body)
        (void)peer_puts(p, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
                           "{\"token_type\":\"Bearer\",\"expires_in\":1,\"access_token\":\"" JWT "\"}");
    free(body);
}

/* The session with the authority outlives the request, and is of this auth alone. */
static void test_authority_resumed(void **state)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_CLIENT_SECRET, .client_secret = "no-one-s-secret"};
    counted n = {0};
    hostile h;
    char url[40];
    azredis_auth *a;
    azredis_token t = {0};
    azredis_error why = {0};
    (void)state;
    hostile_start(&h, 1, token_script, &n);
    snprintf(url, sizeof url, "https://localhost:%d", h.port);
    id.tenant_id = id.client_id = "11111111-2222-3333-4444-555555555555";
    id.authority_host = url;
    id.ca = hostile_ca;
    id.ca_len = strlen(hostile_ca) + 1;
    a = azredis_auth_open(&id);
    assert_non_null(a);
    await((azredis_token_wipe(&t), azredis_auth_token(a, &t, 20, &why), atomic_load(&n.full) + atomic_load(&n.resumed) >= 3), LIVE_SOON);
    assert_int_equal(atomic_load(&n.full), 1);
    azredis_token_wipe(&t);
    azredis_auth_release(a);
    hostile_stop(&h);
}

#if MBEDTLS_VERSION_NUMBER >= 0x03000000
/* mbedTLS knows no KeyUpdate: the connection ends, with that reason, and the next one works. */
static void test_key_update(void **state)
{
    azredis_options o = {0};
    azredis_reply r = {0};
    (void)state;
    live_start(&em, "--tls", "1.3", NULL);
    client = live_open(&em, &o);
    assert_int_equal(live_incr(client, "n"), 1);
    live_fault(&em, "key-update", NULL, "1");
    assert_int_equal(azredis_command(client, &r, "INCR", "n"), AZREDIS_E_TLS);
    assert_int_equal(r.fate, AZREDIS_MAYBE_RUN);
    assert_has(r.error->message, "KeyUpdate");
    assert_int_equal(r.error->retryable, 1);
    azredis_reply_free(&r);
    assert_int_equal(live_fired(&em, "key-update"), 1);
    assert_int_equal(live_incr(client, "n"), 3);        /* the second one ran; it was not sent again */
    done();
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_unknown_host, setup, teardown),
        cmocka_unit_test_teardown(test_expired_certificate, teardown),
        cmocka_unit_test_teardown(test_not_yet_valid_certificate, teardown),
        cmocka_unit_test_teardown(test_wrong_host_certificate, teardown),
        cmocka_unit_test_teardown(test_self_signed_certificate, teardown),
        cmocka_unit_test_teardown(test_untrusted_certificate, teardown),
        cmocka_unit_test_setup_teardown(test_trust_and_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_ports, setup, teardown),
        cmocka_unit_test_teardown(test_tls12_cbc, teardown),
        cmocka_unit_test_teardown(test_tls12_cbc_128, teardown),
        cmocka_unit_test_teardown(test_ecdsa_certificate, teardown),
        cmocka_unit_test_teardown(test_tls13_only, teardown),
        cmocka_unit_test_teardown(test_tls12_rsa_pss, teardown),
        cmocka_unit_test_teardown(test_resumed, teardown),
        cmocka_unit_test_teardown(test_resumed_tls12, teardown),
        cmocka_unit_test_teardown(test_resumed_wrong_name, teardown),
        cmocka_unit_test(test_authority_resumed),
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
        cmocka_unit_test_teardown(test_key_update, teardown),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
