/* An application's certificate against the emulator, which verifies each assertion with OpenSSL: from PEM and from
 * PKCS#12, by subject name with the chain, by RS256, with a key that a callback keeps, and by environment; each into
 * Redis, with two renewals. A wrong clock, a file that changes, refusals.
 *   cc -std=gnu11 -I. tests/live/test_certificate.c tests/live/library.c -lcmocka -ljansson -lcrypto -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include "live.h"

#define TEST_KEY "tests/data/test_key.pem"

static live em;
enum { CLIENTS = 6 };
static azredis_client *client[CLIENTS];
static EVP_PKEY *card;
static int signatures;

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "4", NULL);
    live_place(&em, "certificate");
    return 0;
}

static int setup_hour(void **state)
{
    (void)state;
    live_start(&em, NULL);
    live_place(&em, "certificate");
    return 0;
}

static int teardown(void **state)
{
    size_t i;
    (void)state;
    for (i = 0; i < CLIENTS; i++) {
        azredis_close(client[i]);
        client[i] = NULL;
    }
    EVP_PKEY_free(card);
    card = NULL;
    live_stop(&em);
    return 0;
}

static azredis_auth_options service(void)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_CLIENT_CERTIFICATE};
    id.tenant_id = getenv("EMULATOR_TENANT_ID");
    id.client_id = getenv("EMULATOR_CERTIFICATE_CLIENT_ID");
    id.certificate_file = getenv("EMULATOR_CERTIFICATE");
    return id;
}

static azredis_client *as(azredis_auth_options *id)
{
    azredis_options o = {.identity = id};
    return live_open(&em, &o);
}

/* Whom Redis takes the client for, and by which link. */
static void assert_user(azredis_client *c, const char *oid, const char *credential)
{
    azredis_auth *a = azredis_client_auth(c);
    azredis_auth_info_data info;
    azredis_reply r = {0};
    assert_int_equal(azredis_auth_info(a, &info), AZREDIS_OK);
    assert_string_equal(info.user, oid);
    assert_string_equal(info.credential, credential);
    azredis_auth_release(a);
    assert_int_equal(azredis_command(c, &r, "ACL", "WHOAMI"), AZREDIS_OK);
    assert_int_equal(azredis_text(r.value).len, strlen(oid));
    assert_memory_equal(azredis_text(r.value).ptr, oid, strlen(oid));
    azredis_reply_free(&r);
}

/* Pumps all clients until each has renewed its token n times. */
static void await_renewals(uint32_t n)
{
    int64_t until = live_ms() + LIVE_SOON;
    size_t i, k;
    for (i = 0; i < CLIENTS; i++)
        while (client[i] && live_stats(client[i]).reauths < n) {
            for (k = 0; k < CLIENTS; k++)
                if (client[k])
                    (void)azredis_wait(client[k], 5);
            if (live_ms() > until)
                fail_msg("client %u has renewed its token %u times", (unsigned)i, (unsigned)live_stats(client[i]).reauths);
        }
}

static size_t read_file(const char *path, char *out, size_t cap)
{
    FILE *f = fopen(path, "r");
    size_t n;
    if (!f)
        fail_msg("%s cannot be read", path);
    n = fread(out, 1, cap - 1, f);
    fclose(f);
    out[n] = 0;
    return n;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* A card: it has the key, the library has not. */
static azredis_status card_signs(void *user, azredis_signing *s)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(card, NULL);
    assert_ptr_equal(user, &em);
    signatures++;
    s->len = s->cap;
    assert_int_equal(s->algorithm, AZREDIS_PS256);
    assert_int_equal(EVP_PKEY_sign_init(ctx), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING), 1);
    assert_int_equal(EVP_PKEY_CTX_set_signature_md(ctx, EVP_sha256()), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, 32), 1);
    assert_int_equal(EVP_PKEY_sign(ctx, s->signature, &s->len, s->hash, sizeof s->hash), 1);
    EVP_PKEY_CTX_free(ctx);
    return AZREDIS_OK;
}

/* The certificates in the text alone. */
static char *certificates(char *text)
{
    char *key = strstr(text, "-----BEGIN PRIVATE KEY-----"), *end = strstr(text, "-----END PRIVATE KEY-----");
    assert_non_null(key);
    memmove(key, end + 25, strlen(end + 25) + 1);
    return text;
}

static void take_card(char *text)
{
    BIO *b = BIO_new_mem_buf(text, -1);
    card = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
    assert_non_null(card);
    BIO_free(b);
}

/* The text, and the card's key encrypted as PEM had it before PKCS#8. */
static void lock_with(const char *path, const char *text, const char *password)
{
    BIO *b = BIO_new_file(path, "w");
    assert_true(b && BIO_puts(b, text) > 0);
    assert_int_equal(PEM_write_bio_PrivateKey_traditional(b, card, EVP_aes_256_cbc(), (const unsigned char *)password,
                                                          (int)strlen(password), NULL, NULL), 1);
    BIO_free(b);
}

/* No assertion is good twice there, and each must name the endpoint, be signed, and have its time. */
static void test_two_renewals(void **state)
{
    azredis_auth_options pem = service(), rs256 = service(), subject = service(), by_card = service(), environment = {0},
                         pfx = service();
    char text[20000];
    uint32_t tokens = 0;
    size_t i;
    (void)state;
    rs256.rs256 = 1;
    subject.client_id = getenv("EMULATOR_SUBJECT_CLIENT_ID");
    subject.send_chain = 1;
    read_file(getenv("EMULATOR_CERTIFICATE"), text, sizeof text);
    take_card(text);
    by_card.certificate_file = NULL;
    by_card.certificate = certificates(text);
    by_card.certificate_len = strlen(text);
    by_card.sign = card_signs;
    by_card.sign_user = &em;
    client[0] = as(&pem);
    client[1] = as(&rs256);
    client[2] = as(&subject);
    client[3] = as(&by_card);
    client[4] = as(&environment);                            /* the default chain */
    pfx.certificate_file = getenv("EMULATOR_PFX");
    pfx.certificate_password = getenv("EMULATOR_PFX_PASSWORD");
    client[5] = as(&pfx);
    for (i = 0; i < CLIENTS; i++)
        assert_user(client[i], i == 2 ? getenv("EMULATOR_OID_SUBJECT") : getenv("EMULATOR_OID_CERTIFICATE"),
                    i == 4 ? "environment" : "client-certificate");
    await_renewals(2);
    for (i = 0; i < CLIENTS; i++) {
        assert_int_equal(live_incr(client[i], "n"), i + 1);
        assert_int_equal(live_stats(client[i]).connects, 1);
        assert_int_equal(live_stats(client[i]).token_failures, 0);
        tokens += live_stats(client[i]).tokens;
    }
    assert_int_equal(live_number(&em, "token_requests"), tokens);
    assert_int_equal(signatures, live_stats(client[3]).tokens);
}

/* Seconds by which Entra's clock is ahead of ours. */
static void set_clock(const char *seconds)
{
    char path[80];
    snprintf(path, sizeof path, "/set?name=clock-offset&value=%s", seconds);
    json_decref(live_json(&em, "POST", path, ""));
}

/* One answer tells how wrong our clock is, and need not tell it again; until somebody sets it. */
static void test_wrong_clock(void **state)
{
    azredis_auth_options id = service();
    (void)state;
    set_clock("3600");
    client[0] = as(&id);
    assert_int_equal(live_number(&em, "token_requests"), 2);
    await_renewals(1);
    assert_int_equal(live_number(&em, "token_requests"), 3);
    set_clock("-3600");
    await_renewals(2);
    assert_int_equal(live_number(&em, "token_requests"), 5);
    assert_int_equal(live_stats(client[0]).tokens, 3);
    assert_int_equal(live_stats(client[0]).token_failures, 0);
}

/* ---- a file that changes ------------------------------------------------------------------------- */

static void test_rotation(void **state)
{
    azredis_auth_options id = service();
    azredis_options o = {.identity = &id, .log_level = AZREDIS_LOG_INFO};
    char old[20000], new[20000], path[200];
    (void)state;
    read_file(id.certificate_file, old, sizeof old);
    read_file(TEST_KEY, new, sizeof new);
    snprintf(path, sizeof path, "%s/app.pem", em.dir);
    write_file(path, old);
    id.certificate_file = path;
    client[0] = live_open(&em, &o);
    assert_int_equal(live_logged(&live_seen, 104), 0);
    write_file(path, "-----BEGIN CERTIFICATE-----\nMIIC");           /* somebody writes it, and takes his time */
    await_renewals(1);
    assert_int_equal(live_logged(&live_seen, 104), 1);               /* and is told */
    write_file(path, new);
    await((azredis_wait(client[0], 5), live_stats(client[0]).token_failures >= 1), LIVE_SOON);
    assert_has(live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0)->error.message, "AADSTS700027");
    {                                                                /* it was not registered yet */
        int status;
        char *said = live_http(&em, "POST", "/certificate", new, &status);
        assert_int_equal(status, 200);
        free(said);
    }
    await((azredis_wait(client[0], 5), live_stats(client[0]).reauths >= 2), LIVE_SOON);
    assert_int_equal(live_incr(client[0], "n"), 1);
    assert_int_equal(live_seen.leaks, 0);
    unlink(path);
}

/* ---- refusals ------------------------------------------------------------------------------------ */

/* Connecting fails at once; the error has the part, and the authority was asked so often. */
static void refused(azredis_auth_options *id, azredis_status code, int aadsts, const char *part, long requests)
{
    azredis_options o = {.identity = id};
    azredis_error why = {0};
    long before = live_number(&em, "token_requests");
    client[0] = live_new(&em, &o);
    assert_int_equal(azredis_connect(client[0], LIVE_SOON, &why), code);
    assert_has(why.message, part);
    assert_int_equal(why.aadsts, aadsts);
    assert_int_equal(live_leaks(why.message), 0);
    assert_null(strstr(why.message, "hunter2hunter2"));
    assert_int_equal(live_number(&em, "token_requests"), before + requests);
    assert_int_equal(live_number(&em, "connections_opened"), 0);
    azredis_close(client[0]);
    client[0] = NULL;
}

static azredis_status card_is_away(void *user, azredis_signing *s)
{
    (void)user;
    snprintf(s->reason, sizeof s->reason, "the reader is empty");
    return AZREDIS_E_STATE;
}

/* As an operator who copies files from here to there would get it. */
static void test_refused(void **state)
{
    azredis_auth_options id;
    char both[40000], path[200];
    size_t n;
    (void)state;
    id = service();
    id.certificate_file = TEST_KEY;
    refused(&id, AZREDIS_E_ENTRA, 700027, "not registered on the application", 1);
    id = service();
    id.client_id = getenv("EMULATOR_SUBJECT_CLIENT_ID");
    refused(&id, AZREDIS_E_ENTRA, 700027, "set send_chain", 1);
    id = service();
    id.client_id = getenv("EMULATOR_TENANT_ID");                     /* no application of that name */
    refused(&id, AZREDIS_E_ENTRA, 700016, "does not exist in this tenant", 1);
    id = service();
    id.key_file = TEST_KEY;                                          /* that of another certificate */
    refused(&id, AZREDIS_E_ARG, 0, "belongs to the private key", 0);
    id.key_file = "/nowhere/key.pem";
    refused(&id, AZREDIS_E_NO_CREDENTIAL, 0, "cannot read the file /nowhere/key.pem", 0);
    id = service();
    id.certificate_file = em.dir;
    refused(&id, AZREDIS_E_NO_CREDENTIAL, 0, "no regular file", 0);
    id.certificate_file = "tests/live/live.h";
    id.certificate_password = "hunter2hunter2";
    refused(&id, AZREDIS_E_ARG, 0, "tests/live/live.h", 0);
    id.certificate_file = getenv("EMULATOR_PFX");
    refused(&id, AZREDIS_E_ARG, 0, getenv("EMULATOR_PFX"), 0);
    id = service();
    id.sign = card_is_away;
    refused(&id, AZREDIS_E_STATE, 0, "the callback failed: the reader is empty", 0);

    n = read_file(TEST_KEY, both, sizeof both);                      /* its key is encrypted, and the password another */
    snprintf(path, sizeof path, "%s/locked.pem", em.dir);
    take_card(both);
    assert_true(n > 0);
    lock_with(path, certificates(both), "correct horse");
    id = service();
    id.certificate_file = path;
    refused(&id, AZREDIS_E_ARG, 0, "it is encrypted; give its password", 0);
    id.certificate_password = "hunter2hunter2";
    refused(&id, AZREDIS_E_ARG, 0, "its password is wrong", 0);
    id.certificate_password = NULL;
    setenv("AZURE_CLIENT_CERTIFICATE_PASSWORD", "correct horse", 1);
    refused(&id, AZREDIS_E_ENTRA, 700027, "not registered", 1);
    unsetenv("AZURE_CLIENT_CERTIFICATE_PASSWORD");
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_renewals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_clock, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rotation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup_hour, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
