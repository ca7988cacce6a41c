/* live.h - what the live tests share: the emulator, its counters and faults, events, a relay.
 *
 * A test program includes azredis_entra.h (with its implementation only if it looks behind the public calls: see
 * library.c), then this file, then talks to a real redis-server through the emulator's TLS gateway:
 *
 *     live_start(&em, "--token-ttl", "5", NULL);      own directory, free ports, AZURE_* in the environment
 *     live_fault(&em, "auth-reject", NULL, "1");      arm a fault; live_fired tells how often it fired
 *     await(live_number(&em, "reauths_accepted") == 1, 5000);
 *     live_stop(&em);                                 and nothing may be left of it
 *
 * The emulator is the program that the environment variable EMULATOR names, else build/emulator. All
 * helpers end the test by a cmocka failure when something is not as it has to be. */
#ifndef LIVE_H
#define LIVE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#define LIVE_SOON 15000                 /* ms within which what has to come comes, on a loaded machine too */
#define LIVE_SLACK 500                  /* ms that a call may overrun its deadline by */
#define LIVE_UNUSED __attribute__((unused))
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#  define LIVE_SANITIZED 1
#elif defined(__has_feature)
#  if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#    define LIVE_SANITIZED 1
#  endif
#endif
#ifndef LIVE_SANITIZED
#  define LIVE_SANITIZED 0
#endif

typedef struct live {
    pid_t pid, redis;                   /* 0: not running */
    int   admin_port, gateway_port, authority_port;
    char  dir[64];                      /* TMPDIR of the emulator; it must be empty at the end */
    char  env_file[96];
    char  endpoint[64], admin[64], oid[40], secret[64];
    long  logins;                       /* AUTHs at the real server that were our own questions */
} live;

/* ---- time ------------------------------------------------------------------------------------ */

static LIVE_UNUSED int64_t live_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static LIVE_UNUSED void live_nap(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Waits until the condition holds; it may pump: await((azredis_wait(c, 10), connected(c)), 5000). */
#define await(condition, deadline_ms)                                                              \
    do {                                                                                           \
        int64_t await_until = live_ms() + (deadline_ms);                                           \
        while (!(condition)) {                                                                     \
            if (live_ms() > await_until)                                                           \
                fail_msg("not within %d ms: %s", (int)(deadline_ms), #condition);                  \
            live_nap(2);                                                                           \
        }                                                                                          \
    } while (0)

/* `call` may take `ms` and a little. */
#define assert_in_time(call, ms)                                                                   \
    do {                                                                                           \
        int64_t in_time_start = live_ms(), in_time_took;                                           \
        call;                                                                                      \
        in_time_took = live_ms() - in_time_start;                                                  \
        if (in_time_took > (ms) + LIVE_SLACK)                                                      \
            fail_msg("%d ms instead of %d: %s", (int)in_time_took, (int)(ms), #call);              \
    } while (0)

#define assert_has(text, part)                                                                     \
    do {                                                                                           \
        const char *has_text = (text);                                                             \
        if (!strstr(has_text, part))                                                               \
            fail_msg("'%s' is not in: %s", part, has_text);                                        \
    } while (0)

/* ---- the admin endpoint ---------------------------------------------------------------------- */

static LIVE_UNUSED int live_dial(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static LIVE_UNUSED int live_send(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            return 0;
        p += k;
        n -= (size_t)k;
    }
    return 1;
}

/* One HTTP/1.1 exchange. Returns the body, for the caller to free, and the status. */
static char *live_http(live *l, const char *method, const char *path, const char *body, int *status)
{
    size_t room = 1 << 16, n = 0;
    char *text = malloc(room), *head_end;
    int fd = live_dial(l->admin_port);
    ssize_t k;
    if (!text || fd < 0)
        fail_msg("the emulator's admin endpoint does not listen");
    snprintf(text, room, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
             method, path, l->admin_port, strlen(body), body);
    if (!live_send(fd, text, strlen(text)))
        fail_msg("%s %s: could not be sent", method, path);
    while ((k = recv(fd, text + n, room - n - 1, 0)) > 0) {
        n += (size_t)k;
        if (room - n < 2 && !(text = realloc(text, room *= 2)))
            fail_msg("out of memory");
    }
    close(fd);
    text[n] = 0;
    head_end = strstr(text, "\r\n\r\n");
    if (sscanf(text, "HTTP/1.1 %d", status) != 1 || !head_end)
        fail_msg("%s %s: no HTTP answer", method, path);
    memmove(text, head_end + 4, strlen(head_end + 4) + 1);
    return text;
}

/* The same with a JSON answer, which has to be a 200. The caller frees it by json_decref. */
static json_t *live_json(live *l, const char *method, const char *path, const char *body)
{
    int status;
    char *text = live_http(l, method, path, body, &status);
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    if (status != 200 || !value)
        fail_msg("%s %s: HTTP %d: %s", method, path, status, text);
    free(text);
    return value;
}

/* With the lists "auths" and "connections". */
static LIVE_UNUSED json_t *live_records(live *l) { return live_json(l, "GET", "/counters", ""); }

/* One of the emulator's counters. */
static LIVE_UNUSED long live_number(live *l, const char *name)
{
    json_t *all = live_json(l, "GET", "/counters?records=0", ""), *one = json_object_get(all, name);
    long n = (long)json_integer_value(one);
    if (!json_is_integer(one))
        fail_msg("the emulator has no counter %s", name);
    json_decref(all);
    return n;
}

static LIVE_UNUSED long live_fault_member(live *l, const char *fault, const char *member)
{
    json_t *all = live_json(l, "GET", "/counters?records=0", "");
    json_t *f = json_object_get(json_object_get(all, "faults"), fault);
    long n = (long)json_integer_value(json_object_get(f, member));
    json_decref(all);
    return n;
}

/* How often a fault has fired since the emulator's start. */
static LIVE_UNUSED long live_fired(live *l, const char *fault) { return live_fault_member(l, fault, "fired"); }

/* Arms a fault; value may be NULL, count is a number or "*". */
static LIVE_UNUSED void live_fault(live *l, const char *name, const char *value, const char *count)
{
    char path[128];
    snprintf(path, sizeof path, "/fault?name=%s%s%s&count=%s", name, value ? "&value=" : "", value ? value : "", count);
    json_decref(live_json(l, "POST", path, ""));
}

static LIVE_UNUSED void live_disarm(live *l, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "/fault?name=%s", name);
    json_decref(live_json(l, "DELETE", path, ""));
}

/* A command to the real server, past the gateway, as its administrator: words, then NULL. */
static LIVE_UNUSED json_t *live_redis(live *l, const char *word, ...)
{
    json_t *args = json_array(), *reply;
    char *body;
    va_list ap;
    va_start(ap, word);
    for (; word; word = va_arg(ap, const char *))
        json_array_append_new(args, json_string(word));
    va_end(ap);
    body = json_dumps(args, JSON_COMPACT);
    json_decref(args);
    l->logins++;
    reply = live_json(l, "POST", "/redis/command", body);
    free(body);
    return reply;
}

/* The integer value of a key, asked past the gateway; 0: there is none. */
static LIVE_UNUSED long live_get_number(live *l, const char *key)
{
    json_t *reply = live_redis(l, "GET", key, NULL);
    long n = json_is_string(reply) ? atol(json_string_value(reply)) : 0;
    json_decref(reply);
    return n;
}

/* The number behind "\n<name>" in a section of INFO, such as "process_id:" or "cmdstat_auth:calls=". */
static LIVE_UNUSED long live_info(live *l, const char *section, const char *name)
{
    char path[64], *text, *at, key[64];
    int status;
    long n;
    snprintf(path, sizeof path, "/redis/info?section=%s", section);
    l->logins++;
    text = live_http(l, "GET", path, "", &status);
    snprintf(key, sizeof key, "\n%s", name);
    at = status == 200 ? strstr(text, key) : NULL;
    n = at ? strtol(at + strlen(key), NULL, 10) : 0;
    free(text);
    return n;
}

static LIVE_UNUSED void live_restart_redis(live *l)
{
    json_decref(live_json(l, "POST", "/redis/restart", ""));
    l->redis = (pid_t)live_info(l, "server", "process_id:");
}

/* ---- events ---------------------------------------------------------------------------------- */

#define LIVE_EVENTS 2000

typedef struct live_event {
    azredis_event ev;                   /* its pointers are void, but for error and text */
    azredis_error error;
    char          endpoint[80], text[256];
    int64_t       at;
} live_event;

/* The handler's user: keeps copies, counts by type, looks for secrets. One client (thread) each. */
typedef struct live_events {
    size_t     count, of[AZREDIS_EV_DEVICE_CODE + 1], lost;
    uint32_t   dropped;                 /* reported by the library */
    int        leaks;                   /* events with a secret in them */
    live_event at[LIVE_EVENTS];
} live_events;

/* All JWTs begin with {" in base64: eyJ. */
static int live_leaks(const char *text)
{
    const char *secret = getenv("AZURE_CLIENT_SECRET");
    return text && (strstr(text, "eyJ") || (secret && *secret && strstr(text, secret)));
}

static LIVE_UNUSED void live_on_event(const azredis_event *ev, void *user)
{
    live_events *all = user;
    live_event *e;
    all->of[ev->type]++;
    all->dropped += ev->dropped;
    all->leaks += live_leaks(ev->text) || (ev->error && live_leaks(ev->error->message));
    if (all->count == LIVE_EVENTS) {
        all->lost++;
        return;
    }
    e = &all->at[all->count++];
    memset(e, 0, sizeof *e);
    e->ev = *ev;
    e->at = live_ms();
    if (ev->error) {
        e->error = *ev->error;
        e->ev.error = &e->error;
    }
    if (ev->endpoint)
        snprintf(e->endpoint, sizeof e->endpoint, "%s", ev->endpoint);
    e->ev.endpoint = ev->endpoint ? e->endpoint : NULL;
    if (ev->text)
        snprintf(e->text, sizeof e->text, "%s", ev->text);
    e->ev.text = ev->text ? e->text : NULL;
}

/* The n-th event of a type from 0 on; NULL: there were not so many. */
static LIVE_UNUSED const live_event *live_nth(const live_events *all, azredis_event_type type, size_t n)
{
    size_t i;
    for (i = 0; i < all->count; i++)
        if (all->at[i].ev.type == type && n-- == 0)
            return &all->at[i];
    return NULL;
}

/* How many log lines with this number there were. */
static LIVE_UNUSED size_t live_logged(const live_events *all, int number)
{
    size_t i, n = 0;
    for (i = 0; i < all->count; i++)
        n += all->at[i].ev.type == AZREDIS_EV_LOG && all->at[i].ev.number == number;
    return n;
}

/* For a look at what happened when a test fails. */
static LIVE_UNUSED void live_print_events(const live_events *all)
{
    size_t i;
    for (i = 0; i < all->count; i++) {
        const live_event *e = &all->at[i];
        print_message("  %6" PRId64 " %s %d %s%s old %" PRId64 " new %" PRId64 " next %" PRId64 "\n",
                      e->at - all->at[0].at, azredis_event_name(e->ev.type), e->ev.number, e->text,
                      e->ev.error ? e->error.message : "", e->ev.old_left_ms, e->ev.new_left_ms, e->ev.next_try_ms);
    }
}

/* Of every client that was given no other handler; emptied by live_stop. */
static LIVE_UNUSED live_events live_seen;

/* ---- start and stop -------------------------------------------------------------------------- */

/* Takes over the settings that the emulator wrote; 0: it has not written them yet. */
static int live_settings(live *l)
{
    char line[512], name[64], value[300];
    FILE *f = fopen(l->env_file, "re");
    int n = 0;
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "export %63[A-Za-z0-9_]='%299[^']'", name, value) != 2)
            continue;
        n++;
        setenv(name, value, 1);
        if (!strcmp(name, "AZREDIS_ENDPOINT"))
            snprintf(l->endpoint, sizeof l->endpoint, "%.63s", value);
        else if (!strcmp(name, "EMULATOR_ADMIN"))
            snprintf(l->admin, sizeof l->admin, "%.63s", value);
        else if (!strcmp(name, "EMULATOR_OID"))
            snprintf(l->oid, sizeof l->oid, "%.39s", value);
        else if (!strcmp(name, "AZURE_CLIENT_SECRET"))
            snprintf(l->secret, sizeof l->secret, "%.63s", value);
        else if (!strcmp(name, "AZURE_AUTHORITY_HOST"))
            l->authority_port = atoi(strrchr(value, ':') + 1);
    }
    fclose(f);
    if (n < 8)
        fail_msg("the emulator's settings are incomplete");
    l->admin_port = atoi(strrchr(l->admin, ':') + 1);
    l->gateway_port = atoi(strrchr(l->endpoint, ':') + 1);
    return 1;
}

/* The environment of a program that runs in that place: "imds", "arc", "workload" (see the emulator's --help);
 * "" is that of an application with a secret, which live_start has set. l->oid is whose token it gets. */
static LIVE_UNUSED void live_place(live *l, const char *place)
{
    char path[160], line[512], name[64], value[300], *word;
    FILE *f;
    snprintf(path, sizeof path, "%s%s%s", l->env_file, *place ? "." : "", place);
    if (!(f = fopen(path, "re")))
        fail_msg("the emulator has no place %s", place);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "export %63[A-Za-z0-9_]='%299[^']'", name, value) == 2)
            setenv(name, value, 1);
        for (word = strncmp(line, "unset ", 6) ? NULL : strtok(line + 6, " \n"); word; word = strtok(NULL, " \n"))
            unsetenv(word);
    }
    fclose(f);
    snprintf(l->oid, sizeof l->oid, "%.39s", getenv("EMULATOR_OID"));
}

static void live_exec(live *l, va_list ap)
{
    const char *program = getenv("EMULATOR"), *argv[40], *arg;
    int n = 0;
    argv[n++] = program ? program : "build/emulator";
    argv[n++] = "--port";
    argv[n++] = "0";
    argv[n++] = "--quiet";
    argv[n++] = "--env-file";
    argv[n++] = l->env_file;
    while (n < 39 && (arg = va_arg(ap, const char *)))
        argv[n++] = arg;
    argv[n] = NULL;
    prctl(PR_SET_PDEATHSIG, SIGTERM);   /* a test that crashes leaves no emulator */
    setenv("TMPDIR", l->dir, 1);
    execv(argv[0], (char **)(uintptr_t)argv);
    fprintf(stderr, "%s: %s (set EMULATOR to the emulator)\n", argv[0], strerror(errno));
    _exit(127);
}

/* Starts an emulator with these flags, NULL at the end, and waits until it serves. */
static LIVE_UNUSED void live_start(live *l, ...)
{
    const char *base = getenv("TMPDIR");
    va_list ap;
    memset(l, 0, sizeof *l);
    snprintf(l->dir, sizeof l->dir, "%.40s/live-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(l->dir))
        fail_msg("cannot make a directory like %s: %s", l->dir, strerror(errno));
    snprintf(l->env_file, sizeof l->env_file, "%s/env", l->dir);
    unsetenv("AZREDIS_ACCESS_KEY");
    fflush(NULL);
    l->pid = fork();
    va_start(ap, l);
    if (l->pid == 0)
        live_exec(l, ap);
    va_end(ap);
    if (l->pid < 0)
        fail_msg("cannot fork: %s", strerror(errno));
    await(live_settings(l) || waitpid(l->pid, NULL, WNOHANG) != 0, 30000);
    if (!l->admin_port) {
        l->pid = 0;
        fail_msg("the emulator did not start");
    }
    l->redis = (pid_t)live_info(l, "server", "process_id:");
}

/* Ends it. No process, file or directory may be left, and no secret may have been in an event. */
static LIVE_UNUSED void live_stop(live *l)
{
    int64_t until = live_ms() + LIVE_SOON;
    int status = 0, late = 0;
    pid_t redis = l->redis;
    int leaks = live_seen.leaks;
    memset(&live_seen, 0, sizeof live_seen);
    if (l->pid <= 0)
        return;
    kill(l->pid, SIGTERM);
    while (waitpid(l->pid, &status, WNOHANG) == 0) {
        if (live_ms() > until && !late++)
            kill(l->pid, SIGKILL);
        live_nap(2);
    }
    l->pid = 0;
    if (late || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("the emulator ended by itself or not in order (status 0x%x)", (unsigned)status);
    if (redis > 0 && kill(redis, 0) == 0)
        fail_msg("the emulator left its redis-server %d", (int)redis);
    if (rmdir(l->dir) != 0)             /* its env file, its directory with sockets and keys */
        fail_msg("the emulator left something in %s: %s", l->dir, strerror(errno));
    if (leaks)
        fail_msg("%d events had a secret in them", leaks);
}

/* ---- clients --------------------------------------------------------------------------------- */

#ifndef AZREDIS_LEAN
static LIVE_UNUSED azredis_stats_data live_stats(azredis_client *c)
{
    azredis_stats_data d;
    azredis_stats(c, &d);
    return d;
}

static LIVE_UNUSED int live_connected(azredis_client *c) { return live_stats(c).connected; }
#endif

/* Opens without connecting; options without host and handler get the emulator's endpoint and live_seen. */
static LIVE_UNUSED azredis_client *live_new(live *l, azredis_options *o)
{
    azredis_client *c;
    if (!o->host)
        o->host = l->endpoint;
    if (!o->on_event) {
        o->on_event = live_on_event;
        o->event_user = &live_seen;
    }
    c = azredis_open(o);
    assert_non_null(c);
    return c;
}

/* The same, connected. */
static LIVE_UNUSED azredis_client *live_open(live *l, azredis_options *o)
{
    azredis_client *c = live_new(l, o);
    azredis_error why;
    memset(&why, 0, sizeof why);
    if (azredis_connect(c, LIVE_SOON, &why) != AZREDIS_OK) {
        azredis_close(c);
        fail_msg("no connection: %s: %s", why.where ? why.where : "?", why.message);
    }
    return c;
}

/* INCR key, which has to succeed; the new value. */
static LIVE_UNUSED int64_t live_incr(azredis_client *c, const char *key)
{
    azredis_reply r;
    int64_t n = -1;
    memset(&r, 0, sizeof r);
    if (azredis_command(c, &r, "INCR", key) != AZREDIS_OK || azredis_int(r.value, &n) != AZREDIS_OK)
        fail_msg("INCR %s: %s (fate %d): %s", key, azredis_status_text(r.status), (int)r.fate,
                 r.error ? r.error->message : "no error");
    azredis_reply_free(&r);
    return n;
}

/* The socket of the client's connection. */
#ifdef AZREDIS_ENTRA_IMPLEMENTATION
static LIVE_UNUSED int live_socket(azredis_client *c) { return (int)azri_conn_of(c->hub.sessions)->line.sock; }
#else
int live_socket(azredis_client *c);     /* library.c */
#endif

/* Waits until the end of the client's connection has come to its socket, where the next call will find it. */
static LIVE_UNUSED void live_await_end(azredis_client *c)
{
    struct pollfd end = {live_socket(c), POLLIN, 0};
    assert_int_equal(poll(&end, 1, LIVE_SOON), 1);
}

/* The server's name for this connection: changes with every reconnect. */
static LIVE_UNUSED int64_t live_client_id(azredis_client *c)
{
    azredis_reply r;
    int64_t id = -1;
    memset(&r, 0, sizeof r);
    if (azredis_command(c, &r, "CLIENT", "ID") != AZREDIS_OK || azredis_int(r.value, &id) != AZREDIS_OK)
        fail_msg("CLIENT ID: %s", r.error ? r.error->message : "no integer");
    azredis_reply_free(&r);
    return id;
}

/* ---- load: pipelined INCR, each counted by its outcome --------------------------------------- */

/* Of the key n. Every command ends exactly once: in acknowledged, maybe or not_sent. */
typedef struct live_load { int64_t submitted, acknowledged, maybe, not_sent, last; int disorder; } live_load;

static LIVE_UNUSED void live_on_incr(azredis_client *c, const azredis_reply *r, void *user)
{
    live_load *l = user;
    int64_t n = 0;
    (void)c;
    if (r->status == AZREDIS_OK && azredis_int(r->value, &n) == AZREDIS_OK) {
        l->acknowledged++;
        l->disorder += n <= l->last;    /* answers come in the order of execution */
        l->last = n;
    } else if (r->fate == AZREDIS_MAYBE_RUN) {
        l->maybe++;
    } else {
        l->not_sent++;
    }
}

static LIVE_UNUSED int64_t live_unfinished(const live_load *l) { return l->submitted - l->acknowledged - l->maybe - l->not_sent; }

/* Keeps `window` commands under way and pumps for a moment. */
static LIVE_UNUSED void live_keep_busy(azredis_client *c, live_load *l, int64_t window)
{
    static const azredis_str incr[2] = {{"INCR", 4}, {"n", 1}};
    while (live_unfinished(l) < window) {
        assert_int_equal(azredis_submit(c, NULL, 2, incr, live_on_incr, l), AZREDIS_OK);
        l->submitted++;
    }
    azredis_wait(c, 1);
}

/* Every command ended once; nothing ran that was called not sent, and nothing ran twice. */
static LIVE_UNUSED void live_settle(live *em, azredis_client *c, live_load *l)
{
    int64_t ran;
    await((azredis_wait(c, 5), live_unfinished(l) == 0), LIVE_SOON);
    azredis_wait(c, 20);                /* a second end of a command would come now */
    ran = live_get_number(em, "n");
    assert_int_equal(live_unfinished(l), 0);
    assert_int_equal(l->disorder, 0);
    if (ran < l->acknowledged || ran > l->acknowledged + l->maybe)
        fail_msg("%d ran, but %d were acknowledged and %d may have run", (int)ran, (int)l->acknowledged, (int)l->maybe);
}

/* ---- relay ----------------------------------------------------------------------------------- */

/* A TCP relay on a port of its own, for what a gateway cannot do: swallow packets without a word. */
typedef enum live_spell {
    LIVE_PASS,                          /* carries bytes */
    LIVE_FREEZE,                        /* carries nothing more, closes nothing, on connections open by now */
    LIVE_RESET,                         /* these connections are reset as soon as the client sends */
    LIVE_CUT                            /* they end at once, without a goodbye */
} live_spell;

#define LIVE_PAIRS 16

typedef struct live_relay {
    pthread_t       thread;
    pthread_mutex_t lock;               /* guards spell */
    int             listener, wake[2], port, target, running;
    live_spell      order;
    int             ordered;
    struct { int client, server; live_spell spell; } pair[LIVE_PAIRS];
} live_relay;

static void live_pair_close(live_relay *r, int i, int reset)
{
    struct linger hard = {1, 0};
    if (reset)
        setsockopt(r->pair[i].client, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(r->pair[i].client);
    close(r->pair[i].server);
    r->pair[i].client = r->pair[i].server = -1;
}

static void live_relay_carry(live_relay *r, int i, int from_client)
{
    char block[16384];
    int from = from_client ? r->pair[i].client : r->pair[i].server;
    ssize_t n;
    if (r->pair[i].spell == LIVE_RESET && from_client) {
        live_pair_close(r, i, 1);
        return;
    }
    n = recv(from, block, sizeof block, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || !live_send(from_client ? r->pair[i].server : r->pair[i].client, block, (size_t)n))
        live_pair_close(r, i, 0);
}

static void live_relay_accept(live_relay *r)
{
    int i, fd = accept(r->listener, NULL, NULL);
    for (i = 0; i < LIVE_PAIRS && r->pair[i].client >= 0; i++) {
    }
    if (fd < 0)
        return;
    if (i == LIVE_PAIRS || (r->pair[i].server = live_dial(r->target)) < 0) {
        close(fd);
        return;
    }
    r->pair[i].client = fd;
    r->pair[i].spell = LIVE_PASS;
}

/* 0: it is time to end. */
static int live_relay_orders(live_relay *r)
{
    char waste[16];
    int i, running;
    (void)!read(r->wake[0], waste, sizeof waste);
    pthread_mutex_lock(&r->lock);
    running = r->running;
    for (i = 0; r->ordered && i < LIVE_PAIRS; i++) {
        r->pair[i].spell = r->order;
        if (r->order == LIVE_CUT && r->pair[i].client >= 0)
            live_pair_close(r, i, 0);
    }
    r->ordered = 0;
    pthread_mutex_unlock(&r->lock);
    return running;
}

static void *live_relay_main(void *user)
{
    live_relay *r = user;
    for (;;) {
        struct pollfd p[2 + 2 * LIVE_PAIRS] = {{.fd = r->wake[0], .events = POLLIN},
                                               {.fd = r->listener, .events = POLLIN}};
        int i;
        for (i = 0; i < LIVE_PAIRS; i++) {
            int on = r->pair[i].client >= 0 && r->pair[i].spell != LIVE_FREEZE;
            p[2 + 2 * i] = (struct pollfd){.fd = on ? r->pair[i].client : -1, .events = POLLIN};
            p[3 + 2 * i] = (struct pollfd){.fd = on && r->pair[i].spell == LIVE_PASS ? r->pair[i].server : -1, .events = POLLIN};
        }
        if (poll(p, 2 + 2 * LIVE_PAIRS, -1) < 0)
            continue;
        if (p[0].revents && !live_relay_orders(r))
            return NULL;
        if (p[0].revents)
            continue;
        if (p[1].revents)
            live_relay_accept(r);
        for (i = 0; i < LIVE_PAIRS; i++) {
            if (p[2 + 2 * i].revents && r->pair[i].client >= 0)
                live_relay_carry(r, i, 1);
            if (p[3 + 2 * i].revents && r->pair[i].client >= 0)
                live_relay_carry(r, i, 0);
        }
    }
}

/* Listens on a free port of 127.0.0.1 and carries to the port `target`. */
static LIVE_UNUSED void live_relay_start(live_relay *r, int target)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int i;
    memset(r, 0, sizeof *r);
    for (i = 0; i < LIVE_PAIRS; i++)
        r->pair[i].client = r->pair[i].server = -1;
    r->target = target;
    r->running = 1;
    r->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(r->listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(r->listener, 16), 0);
    assert_int_equal(getsockname(r->listener, (struct sockaddr *)&a, &n), 0);
    r->port = ntohs(a.sin_port);
    assert_int_equal(pipe(r->wake), 0);
    fcntl(r->wake[0], F_SETFL, O_NONBLOCK);
    pthread_mutex_init(&r->lock, NULL);
    assert_int_equal(pthread_create(&r->thread, NULL, live_relay_main, r), 0);
}

static void live_relay_tell(live_relay *r, int running, live_spell spell, int ordered)
{
    pthread_mutex_lock(&r->lock);
    r->running = running;
    r->order = spell;
    r->ordered = ordered;
    pthread_mutex_unlock(&r->lock);
    (void)!write(r->wake[1], "x", 1);
}

/* Returns when all open connections are under the spell. */
static LIVE_UNUSED void live_relay_spell(live_relay *r, live_spell spell)
{
    int busy = 1;
    live_relay_tell(r, 1, spell, 1);
    while (busy) {
        live_nap(1);
        pthread_mutex_lock(&r->lock);
        busy = r->ordered;
        pthread_mutex_unlock(&r->lock);
    }
}

static LIVE_UNUSED void live_relay_stop(live_relay *r)
{
    int i;
    if (!r->running)
        return;
    live_relay_tell(r, 0, LIVE_PASS, 0);
    pthread_join(r->thread, NULL);
    for (i = 0; i < LIVE_PAIRS; i++)
        if (r->pair[i].client >= 0)
            live_pair_close(r, i, 0);
    close(r->listener);
    close(r->wake[0]);
    close(r->wake[1]);
    pthread_mutex_destroy(&r->lock);
}

#endif /* LIVE_H */
