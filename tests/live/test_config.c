/* Connection strings and URLs reach the server: over TLS with a token and with a key, and over a unix socket.
 *   cc -std=gnu11 -I. tests/live/test_config.c tests/live/library.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#include "azredis_entra.h"
#include "live.h"

static live em;
static azredis_client *client;          /* closed by the teardown if the test failed before */

static int setup(void **state)
{
    (void)state;
    live_start(&em, "--access-key", NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_close(client);
    live_stop(&em);
    return 0;
}

/* CLIENT INFO has this field. */
static void is(const char *field)
{
    azredis_reply r = {0};
    if (azredis_command(client, &r, "CLIENT", "INFO") != AZREDIS_OK)
        fail_msg("CLIENT INFO: %s", r.error->message);
    if (!strstr(azredis_text(r.value).ptr, field))
        fail_msg("no %s in %s", field, azredis_text(r.value).ptr);
    azredis_reply_free(&r);
}

static void connect_by(const char *config, azredis_options *o)
{
    azredis_error why = {0};
    o->config = config;
    o->on_event = live_on_event;
    o->event_user = &live_seen;
    client = azredis_open(o);
    assert_non_null(client);
    if (azredis_connect(client, LIVE_SOON, &why) != AZREDIS_OK)
        fail_msg("no connection: %s", why.message);
}

static void done(void)
{
    azredis_close(client);
    client = NULL;
}

static void test_string_with_a_token(void **state)
{
    azredis_options o = {0};
    char config[400], ca[200], field[80];
    (void)state;
    snprintf(ca, sizeof ca, "%s", getenv("SSL_CERT_FILE"));
    unsetenv("SSL_CERT_FILE");          /* the string alone names the roots */
    snprintf(config, sizeof config, "%s, ssl=true, caFile=%s, AUTH=environment, name=by-string, protocol=resp2", em.endpoint, ca);
    connect_by(config, &o);
    snprintf(field, sizeof field, " user=%s ", em.oid);
    is(field);
    is(" name=by-string ");
    is(" resp=2");
    done();
    o.client_name = "by-member";        /* what is set wins */
    o.protocol = 3;
    connect_by(config, &o);
    is(" name=by-member ");
    is(" resp=3");
    done();
    setenv("SSL_CERT_FILE", ca, 1);
    connect_by(getenv("AZREDIS_CONNECTION"), &o);
    is(field);
    done();
}

/* The key as a portal's string has it, and percent-encoded in a URL. */
static void test_key_in_string_and_url(void **state)
{
    azredis_options o = {0};
    char config[400];
    const char *key = getenv("AZREDIS_ACCESS_KEY");
    (void)state;
    snprintf(config, sizeof config, "%s,password=%s,ssl=True,abortConnect=False", em.endpoint, key);
    connect_by(config, &o);
    is(" user=default ");
    done();
    strcpy(config, "rediss://:");
    for (; *key; key++)
        sprintf(config + strlen(config), "%%%02x", (unsigned)(unsigned char)*key);
    sprintf(config + strlen(config), "@%s/0?name=by-url", em.endpoint);
    connect_by(config, &o);
    is(" name=by-url ");
    is(" user=default ");
    done();
}

/* Past the gateway to the server itself. */
static void test_unix_socket(void **state)
{
    azredis_options o = {0};
    char config[400];
    (void)state;
    snprintf(config, sizeof config, "unix://%s:%s@%s?db=3", getenv("EMULATOR_REDIS_ADMIN_USER"),
             getenv("EMULATOR_REDIS_ADMIN_PASSWORD"), getenv("EMULATOR_REDIS_SOCKET"));
    connect_by(config, &o);
    is(" db=3 ");
    done();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_string_with_a_token),
        cmocka_unit_test(test_key_in_string_and_url),
        cmocka_unit_test(test_unix_socket),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
