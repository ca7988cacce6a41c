/* Sign-in by device code against the emulator, at whose admin endpoint this test is the person: into Redis with renewals
 * by refresh tokens that are good once, slow_down, a restart, a dead token, a client that goes away or stands still while
 * a code is out, all modes, and the programs. Freed memory, events and output are searched for the secrets.
 *   cc -std=gnu11 -I. tests/live/test_device.c -lcmocka -ljansson -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define _GNU_SOURCE
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "live.h"

static live em;
static azredis_client *client, *other;
static azredis_auth *auth;

/* What the program keeps, and all that was ever secret. */
static char kept[4096], secrets[8][4096];
static size_t secret_count;
static int save_fails, saves;
static size_t codes_before;
static _Atomic int leaks;                     /* secrets in memory that was freed, or in events */

static int has_secret(const void *p, size_t n)
{
    size_t i;
    for (i = 0; i < secret_count; i++)
        if (memmem(p, n, secrets[i], 24))
            return 1;
    return 0;
}

static void is_secret(const char *text)
{
    assert_true(secret_count < 8 && strlen(text) >= 48);
    snprintf(secrets[secret_count++], sizeof secrets[0], "%s", text);
}

static void *take(void *user, size_t n)
{
    (void)user;
    return malloc(n);
}

static void give(void *user, void *p, size_t n)
{
    (void)user;
    leaks += has_secret(p, n);
    free(p);
}

static const azredis_port watched = {.alloc = take, .free = give};

static void on_event(const azredis_event *ev, void *user)
{
    const char *text = ev->error ? ev->error->message : ev->text;
    leaks += text && has_secret(text, strlen(text));
    live_on_event(ev, user);
}

static azredis_status load(void *user, const char *scope, azredis_fetched *out)
{
    assert_ptr_equal(user, &em);
    assert_null(scope);
    out->len = (size_t)snprintf(out->token, out->cap, "%s", kept);
    return AZREDIS_OK;
}

static azredis_status save(void *user, const char *token, size_t len)
{
    assert_ptr_equal(user, &em);
    assert_int_equal(strlen(token), len);
    saves++;
    if (save_fails)
        return AZREDIS_E_LIMIT;
    snprintf(kept, sizeof kept, "%s", token);
    is_secret(token);
    return AZREDIS_OK;
}

static void set_to(const char *name_value)
{
    char path[80];
    snprintf(path, sizeof path, "/set?name=%s", name_value);
    json_decref(live_json(&em, "POST", path, ""));
}

/* Device codes that were given in this test. */
static size_t codes(void)
{
    json_t *all = live_json(&em, "GET", "/device", "");
    size_t n = json_array_size(all) - codes_before;
    json_decref(all);
    return n;
}

static int start(void **state)
{
    (void)state;
    live_start(&em, "--token-ttl", "5", "--set", "device-interval=1", "--set", "refresh-reuse=0", NULL);
    live_place(&em, "device");
    return 0;
}

static int stop(void **state)
{
    (void)state;
    live_stop(&em);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    memset(&live_seen, 0, sizeof live_seen);
    kept[0] = '\0';
    save_fails = saves = 0;
    secret_count = codes_before = 0;
    codes_before = codes();
    set_to("device-approve&value=0");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    azredis_close(client);
    azredis_close(other);
    azredis_auth_release(auth);
    client = other = NULL;
    auth = NULL;
    assert_int_equal(leaks + live_seen.leaks, 0);
    return 0;
}

/* ---- the person ---- */

static void person(const char *action)
{
    char path[80];
    snprintf(path, sizeof path, "/device?action=%s", action);
    json_decref(live_json(&em, "POST", path, ""));
}

static long of_last(const char *member)
{
    json_t *all = live_json(&em, "GET", "/device", "");
    long n = (long)json_integer_value(json_object_get(json_array_get(all, json_array_size(all) - 1), member));
    json_decref(all);
    return n;
}

/* ---- the program ---- */

static azredis_auth_options identity(int keeps)
{
    azredis_auth_options id = {.identity = AZREDIS_ID_DEVICE_CODE, .client_id = getenv("AZURE_CLIENT_ID"), .port = &watched};
    id.on_event = on_event;
    id.event_user = &live_seen;
    id.log_level = AZREDIS_LOG_TRACE;
    if (keeps) {
        id.load_refresh = load;
        id.save_refresh = save;
        id.refresh_user = &em;
    }
    return id;
}

static azredis_client *new_client(azredis_auth_options *id, azredis_auth *shared)
{
    azredis_options o = {.identity = id, .auth = shared, .port = &watched, .on_event = on_event, .event_user = &live_seen,
                         .log_level = AZREDIS_LOG_TRACE, .command_ms = 1000};
    return live_new(&em, &o);
}

static void pump(void)
{
    if (client)
        (void)azredis_wait(client, 5);
    if (other)
        (void)azredis_wait(other, 5);
}

static azredis_status token(azredis_error *why, uint32_t ms)
{
    azredis_token t;
    azredis_status st = azredis_auth_token(auth, &t, ms, why);
    azredis_token_wipe(&t);
    return st;
}

static void open_auth(int keeps)
{
    azredis_auth_options id = identity(keeps);
    azredis_auth_release(auth);
    auth = azredis_auth_open(&id);
}

static const azredis_event *prompt(size_t n)
{
    const live_event *e = live_nth(&live_seen, AZREDIS_EV_DEVICE_CODE, n);
    return e ? &e->ev : NULL;
}

static void assert_user(azredis_client *c)
{
    azredis_reply r = {0};
    assert_int_equal(azredis_command(c, &r, "ACL", "WHOAMI"), AZREDIS_OK);
    assert_string_equal(azredis_text(r.value).ptr, em.oid);
    azredis_reply_free(&r);
}

/* ---- tests ---- */

/* What the event says, what a command says meanwhile, slow_down, approval, two renewals. */
static void test_person(void **state)
{
    azredis_auth_options id = identity(1);
    azredis_reply r = {0};
    const azredis_event *ev;
    (void)state;
    client = new_client(&id, NULL);
    assert_int_equal(azredis_command(client, &r, "PING"), AZREDIS_E_TIMEOUT);
    assert_int_equal(r.fate, AZREDIS_NOT_SENT);
    assert_has(r.error->message, "nobody has signed in yet");
    assert_true(r.error->retryable);
    azredis_reply_free(&r);
    ev = prompt(0);
    assert_non_null(ev);
    assert_ptr_equal(ev->client, client);
    assert_null(ev->endpoint);
    assert_in_range(ev->new_left_ms, 899000, 900000);
    assert_has(ev->text, "To sign in, use a web browser to open the page https://localhost:");
    assert_int_equal(live_logged(&live_seen, 107), 1);
    await((pump(), of_last("polls") > 0), LIVE_SOON);
    assert_true(client->auth->device->code);
    is_secret(client->auth->device->code);
    live_fault(&em, "token-slow-down", NULL, "1");
    await((pump(), client->auth->device->interval_ms == 6000), LIVE_SOON);
    person("approve");
    await((pump(), live_connected(client)), LIVE_SOON);
    assert_user(client);
    assert_true(of_last("slow_downs") > 0);
    assert_null(client->auth->device->code);
    await((pump(), live_stats(client).reauths == 2), LIVE_SOON);
    assert_int_equal(saves, 3);
    assert_int_equal(codes(), 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_DEVICE_CODE], 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 0);
}

/* An auth that stands alone. A kept token needs nobody; a dead one, and one that could not be kept, a person. */
static void test_restart(void **state)
{
    azredis_error why;
    (void)state;
    set_to("device-approve&value=1");
    open_auth(1);
    assert_int_equal(token(&why, 0), AZREDIS_AGAIN);
    await(token(&why, 10) == AZREDIS_AGAIN && prompt(0), LIVE_SOON);
    assert_has(why.message, "nobody has signed in yet");
    assert_null(prompt(0)->client);
    assert_int_equal(token(&why, LIVE_SOON), AZREDIS_OK);
    assert_int_equal(saves, 1);
    open_auth(1);
    assert_int_equal(token(&why, LIVE_SOON), AZREDIS_OK);
    assert_int_equal(codes(), 1);
    assert_int_equal(saves, 2);                         /* the one that came is another */
    assert_string_not_equal(secrets[0], secrets[1]);
    json_decref(live_json(&em, "POST", "/revoke?code=700082", ""));
    save_fails = 1;
    open_auth(1);
    assert_int_equal(token(&why, LIVE_SOON), AZREDIS_OK);
    assert_int_equal(codes(), 2);
    assert_int_equal(live_seen.of[AZREDIS_EV_DEVICE_CODE], 2);
    assert_int_equal(live_logged(&live_seen, 108), 1);
    assert_int_equal(live_logged(&live_seen, 107), 2);
    assert_string_equal(kept, secrets[1]);
}

/* The refresh token dies under way: the old token serves while somebody is asked for. */
static void test_signs_in_again(void **state)
{
    azredis_auth_options id = identity(0);
    (void)state;
    set_to("device-approve&value=1");
    client = new_client(&id, NULL);
    await((pump(), live_connected(client)), LIVE_SOON);
    json_decref(live_json(&em, "POST", "/revoke?code=50173", ""));
    await((pump(), live_seen.of[AZREDIS_EV_DEVICE_CODE] == 2), LIVE_SOON);
    assert_true(live_connected(client));
    await((pump(), live_stats(client).reauths == 1), LIVE_SOON);
    assert_int_equal(live_stats(client).connects, 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 0);
}

/* Another person than before signs in: refused, nothing of theirs is kept, and the next walk shows another code. */
static void test_other_person(void **state)
{
    azredis_auth_options id = identity(1);
    const live_event *e;
    int before;
    (void)state;
    set_to("device-approve&value=1");
    client = new_client(&id, NULL);
    await((pump(), live_connected(client)), LIVE_SOON);
    json_decref(live_json(&em, "POST", "/revoke?code=50173", ""));
    live_fault(&em, "token-wrong-oid", NULL, "1");
    before = saves;
    await((pump(), live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED] > 0), LIVE_SOON);
    e = live_nth(&live_seen, AZREDIS_EV_TOKEN_REFRESH_FAILED, 0);
    assert_has(e->error.message, "the identity changed");
    assert_int_equal(saves, before);
    assert_null(client->auth->device->refresh);
}

/* A code that is out is told of, not the trouble before it. */
static void test_code_after_trouble(void **state)
{
    azredis_auth_options id = identity(0);
    azredis_error why;
    (void)state;
    id.chain_ms = 300;
    auth = azredis_auth_open(&id);
    live_fault(&em, "device-500", NULL, "*");
    await(token(&why, 10) == AZREDIS_AGAIN && why.code != AZREDIS_AGAIN, LIVE_SOON);
    live_disarm(&em, "device-500");
    await(token(&why, 10) == AZREDIS_AGAIN && prompt(0), LIVE_SOON);
    assert_has(why.message, "nobody has signed in yet");
    assert_int_equal(why.code, AZREDIS_AGAIN);
}

static void test_declined(void **state)
{
    azredis_error why;
    int64_t until;
    (void)state;
    open_auth(0);
    await(token(&why, 10) == AZREDIS_AGAIN && prompt(0), LIVE_SOON);
    person("decline");
    await(token(&why, 10) != AZREDIS_AGAIN, LIVE_SOON);
    assert_int_equal(why.code, AZREDIS_E_ENTRA);
    assert_has(why.message, "declined to sign in");
    assert_false(why.retryable);
    for (until = live_ms() + 1000; live_ms() < until;)
        assert_int_equal(token(&why, 10), AZREDIS_E_ENTRA);
    assert_int_equal(codes(), 1);
}

/* Who is closed, and who stands still, leaves the code to others: the person needs no other one. */
static void test_taken_over(void **state)
{
    azredis_auth_options id = identity(0);
    (void)state;
    id.chain_ms = 1000;
    auth = azredis_auth_open(&id);
    client = new_client(NULL, auth);
    other = new_client(NULL, auth);
    await((pump(), live_seen.of[AZREDIS_EV_DEVICE_CODE] == 2), LIVE_SOON);   /* both tell it */
    assert_string_equal(live_nth(&live_seen, AZREDIS_EV_DEVICE_CODE, 0)->text,
                        live_nth(&live_seen, AZREDIS_EV_DEVICE_CODE, 1)->text);
    if (other->fetch) {
        azredis_client *c = client;
        client = other;
        other = c;
    }
    azredis_close(client);
    client = other;
    other = NULL;
    await((pump(), client->fetch != NULL), LIVE_SOON);
    other = new_client(NULL, auth);
    await((azredis_wait(other, 5), other->fetch != NULL), LIVE_SOON);        /* client stands still */
    person("approve");
    await((azredis_wait(other, 5), live_connected(other)), LIVE_SOON);
    await((pump(), live_connected(client) && !client->fetch), LIVE_SOON);
    assert_int_equal(codes(), 1);
    assert_int_equal(live_seen.of[AZREDIS_EV_TOKEN_REFRESH_FAILED], 0);
}

static void test_threads(void **state)
{
    azredis_auth_options id = identity(0);
    azredis_call patient = {.timeout_ms = LIVE_SOON};
    azredis_str ping = {"PING", 4};
    azredis_reply r = {0};
    (void)state;
    set_to("device-approve&value=2");
    client = new_client(&id, NULL);
    assert_int_equal(azredis_start(client), AZREDIS_OK);
    assert_int_equal(azredis_command_argv(client, &r, &patient, 1, &ping), AZREDIS_OK);
    azredis_reply_free(&r);
    assert_int_equal(live_seen.of[AZREDIS_EV_DEVICE_CODE], 1);
}

/* ---- programs ---- */

typedef struct job { pid_t pid; char out[120]; } job;

static void job_start(job *j, const char *name, ...)
{
    const char *sample = getenv("SAMPLE"), *slash = sample ? strrchr(sample, '/') : NULL;
    char path[500], *argv[20];
    va_list ap;
    int n = 1, fd;
    snprintf(path, sizeof path, "%.*s/%s", slash ? (int)(slash - sample) : 5, slash ? sample : "build", name);
    argv[0] = path;
    va_start(ap, name);
    while (n < 19 && (argv[n] = va_arg(ap, char *))) n++;
    va_end(ap);
    argv[n] = NULL;
    snprintf(j->out, sizeof j->out, "%s/out", em.dir);
    fd = open(j->out, O_CREAT | O_TRUNC | O_RDWR, 0600);
    j->pid = fork();
    if (j->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fd, 1);
        dup2(fd, 2);
        execv(path, argv);
        _exit(127);
    }
    close(fd);
}

static const char *job_text(const job *j)
{
    static char text[20000];
    FILE *f = fopen(j->out, "re");
    text[f ? fread(text, 1, sizeof text - 1, f) : 0] = '\0';
    if (f)
        fclose(f);
    return text;
}

static void job_ends(job *j, int status)
{
    int got = 0;
    await(waitpid(j->pid, &got, WNOHANG) == j->pid, LIVE_SOON);
    if (!WIFEXITED(got) || WEXITSTATUS(got) != status)
        fail_msg("status 0x%x: %s", (unsigned)got, job_text(j));
    assert_false(has_secret(job_text(j), strlen(job_text(j))));
}

#define PROMPT "To sign in, use a web browser to open the page https://localhost:"

static void test_azredis(void **state)
{
    job j;
    (void)state;
    job_start(&j, "azredis", "--auth", "device-code", "PING", NULL);
    await(strstr(job_text(&j), PROMPT), LIVE_SOON);
    person("approve");
    job_ends(&j, 0);
    assert_has(job_text(&j), "PONG\n");
    job_start(&j, "azredis", "token", "--auth", "device-code", "--client-id", getenv("AZURE_CLIENT_ID"), NULL);
    await(strstr(job_text(&j), PROMPT), LIVE_SOON);
    person("decline");
    job_ends(&j, 3);
    assert_has(job_text(&j), "declined to sign in");
    set_to("device-approve&value=1");
    job_start(&j, "azredis", "-h", em.endpoint, "--auth", "device-code", "--tenant-id", getenv("AZURE_TENANT_ID"), "PING", NULL);
    job_ends(&j, 0);
    job_start(&j, "sample", "--endpoint", em.endpoint, "--auth", "device-code", "--seconds", "1", NULL);
    job_ends(&j, 0);
    assert_has(job_text(&j), PROMPT);
    unlink(j.out);
}

static void test_example(void **state)
{
    char file[100], beside[110];
    struct stat s;
    size_t before;
    job j;
    FILE *f;
    (void)state;
    snprintf(file, sizeof file, "%s/refresh", em.dir);
    snprintf(beside, sizeof beside, "%s.new", file);
    set_to("device-approve&value=1");
    job_start(&j, "device_code", em.endpoint, file, "1", NULL);
    job_ends(&j, 0);
    assert_has(job_text(&j), PROMPT);
    assert_int_equal(stat(file, &s), 0);
    assert_int_equal(s.st_mode & 07777, 0600);
    assert_int_equal(stat(beside, &s), -1);
    f = fopen(file, "re");
    assert_non_null(f);
    kept[fread(kept, 1, sizeof kept - 1, f)] = '\0';
    fclose(f);
    is_secret(kept);
    f = fopen(beside, "we");                            /* of a run without power */
    assert_non_null(f);
    fclose(f);
    before = codes();
    job_start(&j, "device_code", em.endpoint, file, "1", NULL);
    job_ends(&j, 0);
    assert_null(strstr(job_text(&j), "To sign in"));
    assert_int_equal(codes(), before);
    assert_int_equal(stat(beside, &s), -1);
    assert_int_equal(chmod(file, 0644), 0);
    job_start(&j, "device_code", em.endpoint, file, "0", NULL);
    job_ends(&j, 0);
    assert_has(job_text(&j), "others can read it, too");
    assert_int_equal(codes(), before + 1);
    assert_int_equal(stat(file, &s), 0);
    assert_int_equal(s.st_mode & 07777, 0600);
    unlink(file);
    unlink(j.out);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_person), TEST(test_restart), TEST(test_signs_in_again), TEST(test_other_person), TEST(test_code_after_trouble), TEST(test_declined), TEST(test_taken_over),
        TEST(test_threads), TEST(test_azredis), TEST(test_example)
    };
    return cmocka_run_group_tests(tests, start, stop);
}
