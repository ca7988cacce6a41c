/* Drives the built sample (environment variable SAMPLE) through a pseudo-terminal, as a person would,
 * against the emulator (EMULATOR), which it starts itself with tokens of 5 seconds. REDIS_SERVER, if
 * set, names the server that the emulator starts.
 *   cc tests/live/test_sample.c -o test_sample -lcmocka -lutil */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pty.h>
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
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define SOON 10000                      /* ms within which what has to come comes, on a loaded machine too */
#define CTRL_C "\003"
#define CTRL_D "\004"
#define MENU_END "Enter a number: "

struct setting { char name[64], value[256]; };

#define TERMS 5
static struct {                         /* samples that run, mostly one */
    pid_t pid;                          /* 0: none */
    int fd;
    size_t len, seen;
    char text[200000];                  /* all that it printed */
} terms[TERMS];
static size_t at_term;
#define term terms[at_term]             /* the one that is talked to */

static char directory[64], env_path[96];
static pid_t emulator;
static struct setting settings[96];     /* the emulator's, for each sample */
static size_t setting_count;
static struct setting own[4];           /* of one test; value "": not set */
static size_t own_count;
static const char *place = "";          /* of one test: where the sample runs, see the emulator's --help */

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void nap(void) {                 /* between two looks at what cannot be polled */
    struct timespec t = {0, 10000000};
    nanosleep(&t, NULL);
}

/* ---- the emulator ---------------------------------------------------------------------------- */

static const char *setting(const char *name) {
    size_t i;
    for (i = 0; i < setting_count; i++) {
        if (strcmp(settings[i].name, name) == 0) return settings[i].value;
    }
    fail_msg("the emulator's settings have no %s", name);
    return "";
}

static int read_settings(void) {
    char line[512];
    FILE *f = fopen(env_path, "r");
    if (f == NULL) return 0;
    while (fgets(line, sizeof line, f) != NULL && setting_count < sizeof settings / sizeof settings[0]) {
        struct setting *s = &settings[setting_count];
        if (sscanf(line, "export %63[A-Za-z0-9_]='%255[^']'", s->name, s->value) == 2) setting_count++;
    }
    fclose(f);
    return 1;
}

static int start_emulator(void **state) {
    const char *program = getenv("EMULATOR"), *server = getenv("REDIS_SERVER"), *base = getenv("TMPDIR");
    int64_t deadline = now_ms() + 30000;
    (void)state;
    if (program == NULL || getenv("SAMPLE") == NULL) {
        fputs("SAMPLE and EMULATOR must name the two programs\n", stderr);
        return -1;
    }
    snprintf(directory, sizeof directory, "%s/test-sample-XXXXXX", base != NULL && *base ? base : "/tmp");
    if (mkdtemp(directory) == NULL) return -1;
    snprintf(env_path, sizeof env_path, "%s/env", directory);
    emulator = fork();
    if (emulator == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execl(program, program, "--port", "0", "--token-ttl", "5", "--access-key", "--quiet",
              "--env-file", env_path, server != NULL ? "--redis-server" : NULL, server, (char *)NULL);
        _exit(127);
    }
    while (emulator > 0 && now_ms() < deadline && waitpid(emulator, NULL, WNOHANG) == 0) {
        if (read_settings()) return setting_count >= 8 ? 0 : -1;
        nap();
    }
    fputs("the emulator did not start\n", stderr);
    return -1;
}

static int stop_emulator(void **state) {
    int64_t deadline = now_ms() + SOON;
    (void)state;
    if (emulator <= 0) return 0;        /* it was never started, and 0 would be our own process group */
    kill(emulator, SIGTERM);
    while (waitpid(emulator, NULL, WNOHANG) == 0) {
        if (now_ms() > deadline) kill(emulator, SIGKILL);
        nap();
    }
    unlink(env_path);
    return rmdir(directory);
}

/* Sends one request to the admin port; the answer, head included, is in a static buffer. */
static const char *admin(const char *method, const char *path) {
    static char answer[400000];
    char request[512];
    struct sockaddr_in a;
    size_t n = 0;
    ssize_t got;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)atoi(strrchr(setting("EMULATOR_ADMIN"), ':') + 1));
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n"
             "Connection: close\r\n\r\n", method, path);
    assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    while ((got = read(fd, answer + n, sizeof answer - 1 - n)) > 0) n += (size_t)got;
    answer[n] = '\0';
    close(fd);
    assert_memory_equal(answer, "HTTP/1.1 200", 12);
    return answer;
}

static long fired(const char *fault) {
    char name[64];
    const char *at;
    snprintf(name, sizeof name, "\"%s\":{", fault);
    at = strstr(admin("GET", "/counters?records=0"), name);
    at = at != NULL ? strstr(at, "\"fired\":") : NULL;
    return at != NULL ? strtol(at + 8, NULL, 10) : 0;
}

/* ---- the terminal ---------------------------------------------------------------------------- */

static void set_own(const char *name, const char *value) {
    assert_true(own_count < 4);
    snprintf(own[own_count].name, sizeof own[0].name, "%s", name);
    snprintf(own[own_count++].value, sizeof own[0].value, "%s", value);
}

/* The environment of that place instead of an application's with a secret. */
static void go_to_place(void) {
    char path[128], line[512], *word;
    struct setting s;
    FILE *f;
    snprintf(path, sizeof path, "%s.%s", env_path, place);
    if ((f = fopen(path, "r")) == NULL) _exit(126);
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "export %63[A-Za-z0-9_]='%255[^']'", s.name, s.value) == 2) setenv(s.name, s.value, 1);
        word = strncmp(line, "unset ", 6) == 0 ? strtok(line + 6, " \n") : NULL;
        for (; word != NULL; word = strtok(NULL, " \n")) unsetenv(word);
    }
    fclose(f);
}

static void set_environment(void) {
    static const char *const not_ours[] = {"AZREDIS_ACCESS_KEY", "AZREDIS_USER", "AZREDIS_PASSWORD",
                                           "AZREDIS_CONNECTION"};
    size_t i;
    for (i = 0; i < setting_count; i++) setenv(settings[i].name, settings[i].value, 1);
    if (*place) go_to_place();
    for (i = 0; i < 4; i++) unsetenv(not_ours[i]);
    for (i = 0; i < own_count; i++) {
        if (own[i].value[0] != '\0') setenv(own[i].name, own[i].value, 1);
        else unsetenv(own[i].name);
    }
}

/* Starts the sample; the arguments are strings and end with NULL. */
static void start(const char *first, ...) {
    char *argv[16];
    int argc = 0;
    const char *arg;
    va_list list;
    argv[argc++] = getenv("SAMPLE");
    va_start(list, first);
    for (arg = first; arg != NULL && argc < 15; arg = va_arg(list, const char *)) {
        argv[argc++] = strdup(arg);
    }
    va_end(list);
    argv[argc] = NULL;
    term.len = term.seen = 0;
    term.text[0] = '\0';
    term.pid = forkpty(&term.fd, NULL, NULL, NULL);
    assert_true(term.pid >= 0);
    if (term.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        set_environment();
        execv(argv[0], argv);
        _exit(127);
    }
    while (argc > 1) free(argv[--argc]);
}

/* Waits for output; 0: no more will come, or the time is over. */
static int more(int64_t deadline) {
    struct pollfd p;
    ssize_t n;
    int64_t left = deadline - now_ms();
    p.fd = term.fd;
    p.events = POLLIN;
    if (left <= 0 || poll(&p, 1, (int)left) <= 0) return 0;
    n = read(term.fd, term.text + term.len, sizeof term.text - 1 - term.len);
    if (n <= 0) return 0;               /* EIO: nobody is left at the other end */
    term.len += (size_t)n;
    term.text[term.len] = '\0';
    return 1;
}

/* Waits until the text appears behind what was expected last. */
static void expect_within(const char *text, int64_t ms) {
    int64_t deadline = now_ms() + ms;
    for (;;) {
        const char *at = strstr(term.text + term.seen, text);
        if (at != NULL) {
            term.seen = (size_t)(at - term.text) + strlen(text);
            return;
        }
        if (!more(deadline)) break;
    }
    fail_msg("'%s' did not appear. All that did:\n%s", text, term.text);
}

static void expect(const char *text) { expect_within(text, SOON); }

static void type(const char *keys) {
    assert_int_equal(write(term.fd, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static void answer(const char *question, const char *keys) {
    expect(question);
    type(keys);
    type("\n");
}

static int echoes(void) {
    struct termios t;
    assert_int_equal(tcgetattr(term.fd, &t), 0);
    return (t.c_lflag & ECHO) != 0;
}

/* Reads what is left, waits for the end; the exit status, or 1000 + signal. */
static int ended(void) {
    int status = 0;
    int64_t deadline = now_ms() + SOON;
    while (more(deadline)) {}
    while (waitpid(term.pid, &status, WNOHANG) == 0) {
        if (now_ms() > deadline) fail_msg("it did not end. All that it printed:\n%s", term.text);
        nap();
    }
    term.pid = 0;
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void assert_end(int status) {
    int got = ended();
    if (got != status) fail_msg("exit status %d, not %d. All that it printed:\n%s", got, status, term.text);
}

static int count(const char *text) {
    int n = 0;
    const char *at = term.text;
    for (; (at = strstr(at, text)) != NULL; at += strlen(text)) n++;
    return n;
}

static void assert_shown(const char *text, int times) {
    if (count(text) != times) {
        fail_msg("'%s' came %d times, not %d. All that came:\n%s", text, count(text), times, term.text);
    }
}

/* No piece of a secret was printed, nor echoed by the terminal. */
static void assert_hidden(const char *secret) {
    char piece[9];
    size_t i;
    for (i = 0; i + 8 <= strlen(secret); i++) {
        memcpy(piece, secret + i, 8);
        piece[8] = '\0';
        if (strstr(term.text, piece) != NULL) fail_msg("a secret was shown:\n%s", term.text);
    }
}

/* A number of the summary, which is the very last line. */
static long long summary(const char *name) {
    char key[64];
    const char *line = strstr(term.text, "\nsummary "), *at;
    snprintf(key, sizeof key, " %s=", name);
    if (line == NULL || strchr(line + 1, '\n') == NULL || strchr(line + 1, '\n')[1] != '\0' ||
        (at = strstr(line, key)) == NULL) {
        fail_msg("no '%s' in a last line of summary:\n%s", name, term.text);
        return 0;
    }
    return strtoll(at + strlen(key), NULL, 10);
}

/* Everything went well on one connection. */
static void assert_good_summary(void) {
    assert_int_equal(summary("commands_failed"), 0);
    assert_int_equal(summary("reconnects"), 0);
    assert_int_equal(summary("sets"), summary("gets"));
    assert_int_equal(summary("commands_ok"), summary("sets") + summary("gets") + 2);
    assert_true(summary("client_id_first") > 0);
    assert_int_equal(summary("client_id_first"), summary("client_id_last"));
    assert_true(summary("latency_median_us") > 0);
}

static int clean_up(void **state) {
    (void)state;
    own_count = 0;
    place = "";
    for (at_term = TERMS; at_term-- > 0;) {
        if (term.pid > 0) {
            kill(term.pid, SIGKILL);
            waitpid(term.pid, NULL, 0);
            term.pid = 0;
        }
        if (term.fd > 0) close(term.fd);
        term.fd = 0;
    }
    at_term = 0;
    return 0;
}

/* ---- the menu -------------------------------------------------------------------------------- */

static void menu_has_its_eight_entries_in_order(void **state) {
    static const char *const lines[] = {
        "1. DefaultAzureCredential",
        "2. User-assigned managed identity (client id, object id or resource id)",
        "3. System-assigned managed identity", "4. Service principal with a secret",
        "5. Service principal with a certificate",
        "6. Service principal with a certificate, by subject name and issuer",
        "7. Access key", "8. Exit", MENU_END
    };
    size_t i;
    (void)state;
    start(NULL);
    for (i = 0; i < sizeof lines / sizeof lines[0]; i++) expect(lines[i]);
    type("8\n");
    assert_end(0);
    assert_shown(MENU_END, 1);
}

static void menu_end_of_input_is_exit(void **state) {
    (void)state;
    start(NULL);
    expect(MENU_END);
    type(CTRL_D);
    assert_end(0);
}

static void menu_refuses_what_is_no_entry(void **state) {
    static const char *const wrong[] = {"0", "9", "", "   ", "four", "-1", "44", "4 4",
                                         "99999999999999999999999"};
    size_t i;
    (void)state;
    start(NULL);
    for (i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        answer(MENU_END, wrong[i]);
        expect("Please enter a number from 1 to 8.");
    }
    answer(MENU_END, " 8 ");
    assert_end(0);
}

static void question_end_of_input_is_an_error(void **state) {
    (void)state;
    start(NULL);
    answer(MENU_END, "1");
    expect("Redis endpoint, HOST or HOST:PORT: ");
    type(CTRL_D);
    expect("The input ended before this was answered: Redis endpoint, HOST or HOST:PORT.\r\n");
    assert_end(1);
}

static void question_is_asked_again_after_an_empty_line(void **state) {
    char long_line[600];
    (void)state;
    memset(long_line, 'x', sizeof long_line - 1);
    long_line[sizeof long_line - 1] = '\0';
    start(NULL);
    answer(MENU_END, "4");
    answer("HOST:PORT: ", "");
    expect("Nothing was entered, or too much.");
    answer("HOST:PORT: ", long_line);
    expect("Nothing was entered, or too much.");
    answer("HOST:PORT: ", setting("AZREDIS_ENDPOINT"));
    answer("Tenant id: ", " \t ");
    answer("Tenant id: ", setting("AZURE_TENANT_ID"));
    answer("Application (client) id: ", setting("AZURE_CLIENT_ID"));
    answer("Client secret (not shown): ", "");
    expect("Nothing was entered, or too much.");
    expect("Client secret (not shown): ");
    type(CTRL_D);
    expect("The input ended before this was answered: Client secret.\r\n");
    assert_end(1);
    assert_true(echoes());
}

static void secret_ctrl_c_restores_the_terminal(void **state) {
    (void)state;
    start("--endpoint", setting("AZREDIS_ENDPOINT"), NULL);
    answer(MENU_END, "7");
    expect("Access key (not shown): ");
    assert_false(echoes());
    type("half-typed-key");
    type(CTRL_C);
    assert_end(1000 + SIGINT);
    assert_true(echoes());
    assert_hidden("half-typed-key");
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void entry_1_runs(void **state) {
    (void)state;
    start("--seconds", "3", NULL);
    answer(MENU_END, "1");
    answer("HOST:PORT: ", setting("AZREDIS_ENDPOINT"));
    expect("Connecting to localhost:");
    expect("TokenRefreshed: new_left=");
    expect("Connected.");
    expect("+");
    assert_end(0);
    assert_shown("+", 3);
    assert_good_summary();
    assert_true(summary("sets") >= 20 && summary("sets") <= 31);
    assert_hidden(setting("AZURE_CLIENT_SECRET"));
}

/* Ten seconds are two lives of a token. Ctrl+C comes in the middle of it all. */
static void renewals_are_seen_and_ctrl_c_ends_cleanly(void **state) {
    (void)state;
    start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", "default", NULL);
    expect("Connected.");
    expect("TokenRefreshed: old_left=");
    expect("ConnectionReauthenticated: localhost:");
    expect("+");
    expect("ConnectionReauthenticated: localhost:");
    expect("+");
    type(CTRL_C);
    expect(" re-authentications, 0 reconnects");
    assert_end(0);
    assert_good_summary();
    assert_true(summary("reauths") >= 2);
    assert_int_equal(summary("tokens"), summary("reauths") + 1);
    assert_int_equal(summary("reauths"), count("ConnectionReauthenticated:"));
    assert_int_equal(summary("tokens"), count("TokenRefreshed:"));
    assert_true(summary("latency_near_reauth_max_us") > 0);
}

/* How many AUTHs of this user the server let in. */
static int accepted(const char *oid) {
    char key[64];
    const char *at = admin("GET", "/counters");
    int n = 0;
    snprintf(key, sizeof key, "\"user\":\"%s\",\"accepted\":true", oid);
    for (; (at = strstr(at, key)) != NULL; at += strlen(key)) n++;
    return n;
}

/* On a virtual machine: five samples beside each other, each until its first renewal. */
static void entries_1_to_3_on_a_virtual_machine(void **state) {
    static const struct { const char *entry, *prefix, *id, *oid; } row[TERMS] = {
        {"1", NULL, NULL, "EMULATOR_OID_IMDS"}, {"2", "", "EMULATOR_USER_CLIENT_ID", "EMULATOR_OID_USER"},
        {"2", "object:", "EMULATOR_OID_USER", "EMULATOR_OID_USER"},
        {"2", "", "EMULATOR_USER_RESOURCE_ID", "EMULATOR_OID_USER"}, {"3", NULL, NULL, "EMULATOR_OID_IMDS"}
    };
    char id[300];
    int system_before = accepted(setting("EMULATOR_OID_IMDS")), user_before = accepted(setting("EMULATOR_OID_USER"));
    (void)state;
    place = "imds";
    for (at_term = 0; at_term < TERMS; at_term++) {
        start(NULL);
        answer(MENU_END, row[at_term].entry);
        answer("Redis endpoint, HOST or HOST:PORT: ", setting("AZREDIS_ENDPOINT"));
        if (row[at_term].id == NULL) continue;
        snprintf(id, sizeof id, "%s%s", row[at_term].prefix, setting(row[at_term].id));
        answer("Client id, object:OBJECT_ID or resource id: ", id);
    }
    for (at_term = 0; at_term < TERMS; at_term++) {
        expect("Connected.");
        expect("TokenRefreshed: old_left=");
        expect("ConnectionReauthenticated: localhost:");
        expect("+");
        type(CTRL_C);
    }
    for (at_term = 0; at_term < TERMS; at_term++) {
        assert_end(0);
        assert_good_summary();
        assert_true(summary("reauths") >= 1);
        assert_shown("eyJ", 0);         /* a token begins so */
    }
    at_term = 0;
    assert_true(accepted(setting("EMULATOR_OID_IMDS")) >= system_before + 2 * 2);
    assert_true(accepted(setting("EMULATOR_OID_USER")) >= user_before + 3 * 2);
}

/* One that is not assigned to this machine: told once, with the mend. */
static void entry_2_of_nobody(void **state) {
    (void)state;
    place = "imds";
    start("--endpoint", setting("AZREDIS_ENDPOINT"), NULL);
    answer(MENU_END, "2");
    answer("Client id, object:OBJECT_ID or resource id: ", "11111111-2222-3333-4444-555555555555");
    expect("Cannot connect: ");
    expect("not assigned here");
    assert_end(1);
    assert_shown("Connected.", 0);
}

static void entry_4_takes_a_secret_unseen(void **state) {
    (void)state;
    set_own("AZURE_CLIENT_SECRET", "");
    start(NULL);
    answer(MENU_END, "4");
    answer("HOST:PORT: ", setting("AZREDIS_ENDPOINT"));
    answer("Tenant id: ", setting("AZURE_TENANT_ID"));
    answer("Application (client) id: ", setting("AZURE_CLIENT_ID"));
    expect("Client secret (not shown): ");
    assert_false(echoes());
    type(setting("AZURE_CLIENT_SECRET"));
    type("\n");
    expect("+");
    assert_true(echoes());
    type(CTRL_C);
    assert_end(0);
    assert_good_summary();
    assert_hidden(setting("AZURE_CLIENT_SECRET"));
}

static void entry_4_wrong_secret_is_told_once(void **state) {
    (void)state;
    start("--endpoint", setting("AZREDIS_ENDPOINT"), NULL);
    answer(MENU_END, "4");
    answer("Tenant id: ", setting("AZURE_TENANT_ID"));
    answer("Application (client) id: ", setting("AZURE_CLIENT_ID"));
    answer("Client secret (not shown): ", "this-is-the-wrong-secret");
    expect("Cannot connect: ");
    expect("AADSTS7000215: wrong client secret");
    assert_end(1);
    assert_shown("wrong client secret", 1);
    assert_shown("Connected.", 0);
    assert_hidden("this-is-the-wrong-secret");
}

/* Told by its print, or by its subject name with the chain. */
static void entries_5_and_6_take_a_certificate(void **state) {
    static const char *const client[2] = {"EMULATOR_CERTIFICATE_CLIENT_ID", "EMULATOR_SUBJECT_CLIENT_ID"};
    int i;
    for (i = 0; i < 2; i++) {
        start("--endpoint", setting("AZREDIS_ENDPOINT"), "--seconds", "1", NULL);
        answer(MENU_END, i ? "6" : "5");
        answer("Tenant id: ", setting("AZURE_TENANT_ID"));
        answer("Application (client) id: ", setting(client[i]));
        answer("PKCS#12: ", setting("EMULATOR_CERTIFICATE"));
        expect("+");
        assert_end(0);
        assert_good_summary();
        clean_up(state);
    }
    place = "subject";
    start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", "client-certificate", "--certificate",
          setting("EMULATOR_CERTIFICATE"), "--send-chain", "--seconds", "1", NULL);
    expect("+");
    assert_end(0);
    assert_good_summary();
}

static void entry_7_refused_key(void **state) {
    (void)state;
    start(NULL);
    answer(MENU_END, "7");
    answer("HOST:PORT: ", setting("AZREDIS_ENDPOINT"));
    answer("Access key (not shown): ", "bm90IHRoZSBrZXkgb2YgdGhpcyBjYWNoZSBhdCBhbGw=");
    expect("Cannot connect: ");
    assert_end(1);
    assert_shown("Cannot connect: ", 1);
    assert_shown("Connected.", 0);
    assert_hidden("bm90IHRoZSBrZXkgb2YgdGhpcyBjYWNoZSBhdCBhbGw=");
}

static void entry_7_right_key(void **state) {
    (void)state;
    start("--seconds", "1", NULL);
    answer(MENU_END, "7");
    answer("HOST:PORT: ", setting("AZREDIS_ENDPOINT"));
    answer("Access key (not shown): ", setting("AZREDIS_ACCESS_KEY"));
    expect("+");
    assert_end(0);
    assert_good_summary();
    assert_int_equal(summary("tokens"), 0);
    assert_hidden(setting("AZREDIS_ACCESS_KEY"));
}

/* ---- flags ----------------------------------------------------------------------------------- */

static void flags_run_without_a_question(void **state) {
    (void)state;
    start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", "client-secret", "--seconds", "2",
          "--protocol", "2", NULL);
    assert_end(0);
    assert_shown("+", 2);
    assert_shown(MENU_END, 0);
    assert_good_summary();
}

static void flags_access_key_and_password(void **state) {
    (void)state;
    set_own("AZREDIS_ACCESS_KEY", setting("AZREDIS_ACCESS_KEY"));
    start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", "access-key", "--seconds", "1", NULL);
    assert_end(0);
    assert_good_summary();
    clean_up(state);
    set_own("AZREDIS_USER", "default");
    set_own("AZREDIS_PASSWORD", setting("AZREDIS_ACCESS_KEY"));
    start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", "password", "--seconds", "1", NULL);
    assert_end(0);
    assert_good_summary();
    assert_hidden(setting("AZREDIS_ACCESS_KEY"));
}

static void flags_verbose_prints_the_log_without_secrets(void **state) {
    (void)state;
    start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", "environment", "--seconds", "1",
          "--verbose", NULL);
    expect("Log: ");
    assert_end(0);
    assert_good_summary();
    assert_hidden(setting("AZURE_CLIENT_SECRET"));
    assert_shown("eyJ", 0);             /* a token begins so */
}

static void flags_help(void **state) {
    (void)state;
    start("--help", NULL);
    expect("usage: sample ");
    assert_end(0);
}

static void flags_wrong_exit_2(void **state) {
    static const char *const bad[][3] = {
        {"--bogus", NULL, "--bogus: "}, {"--bogus", "x", "--bogus: "}, {"stray", NULL, "stray: "},
        {"--seconds", NULL, "--seconds: "}, {"--seconds", "x", "--seconds: "},
        {"--seconds", "-1", "--seconds: "},
        {"--seconds", "3x", "--seconds: "}, {"--protocol", "1", "--protocol: "},
        {"--protocol", "4", "--protocol: "},
        {"--endpoint", NULL, "--endpoint: "}, {"--endpoint", "", "--endpoint: "},
        {"--auth", NULL, "--auth: "},
        {"--auth", "", "--auth: "}
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        start(bad[i][0], bad[i][1], NULL);
        expect(bad[i][2]);
        expect("usage: sample ");
        assert_end(2);
        clean_up(state);
    }
}

static void flags_take_no_secret(void **state) {
    static const char *const bad[] = {
        "--secret", "--client-secret", "--password", "--access-key", "--key", "--token",
        "--secret=hunter2hunter2"
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        start(bad[i], "hunter2hunter2", NULL);
        expect(": secrets are not taken from the command line; use the environment.\r\n");
        assert_end(2);
        assert_shown("\n", 1);
        assert_hidden("hunter2hunter2");
        clean_up(state);
    }
}

static void flags_unknown_identity_lists_the_names(void **state) {
    (void)state;
    start("--auth", "nobody", NULL);
    expect("--auth: no identity has this name; there are default environment client-secret ");
    assert_end(2);
    assert_shown("nobody", 0);
}

/* ---- connection strings ---------------------------------------------------------------------- */

/* What the emulator writes for a shell is all that it takes: no flag, no question. */
static void connection_of_the_environment(void **state) {
    (void)state;
    set_own("AZREDIS_CONNECTION", setting("AZREDIS_CONNECTION"));
    start("--seconds", "1", NULL);
    expect("Connecting to localhost:");
    expect(",ssl=true,auth=environment,");
    assert_end(0);
    assert_shown(MENU_END, 0);
    assert_good_summary();
}

static void connection_by_url_with_a_key(void **state) {
    char url[400] = "rediss://default:";
    const char *key = setting("AZREDIS_ACCESS_KEY");
    (void)state;
    for (; *key; key++) sprintf(url + strlen(url), *key == '/' ? "%%2F" : "%c", *key);
    sprintf(url + strlen(url), "@%s", setting("AZREDIS_ENDPOINT"));
    set_own("AZREDIS_CONNECTION", url);
    start("--seconds", "1", NULL);
    expect("auth=password,user=default,password=***");
    assert_end(0);
    assert_good_summary();
    assert_hidden(setting("AZREDIS_ACCESS_KEY"));
}

static void connection_with_a_secret_is_no_argument(void **state) {
    static const char *const bad[] = {"localhost:1,password=hunter2hunter2", "rediss://u:hunter2hunter2@localhost:1"};
    size_t i;
    (void)state;
    for (i = 0; i < 2; i++) {
        start("--endpoint", bad[i], NULL);
        expect("--endpoint: secrets are not taken from the command line; use AZREDIS_CONNECTION.\r\n");
        assert_end(2);
        assert_hidden("hunter2hunter2");
        clean_up(state);
    }
}

static void connection_typed_wrong_is_told(void **state) {
    (void)state;
    start("--auth", "default", NULL);
    answer("HOST:PORT: ", "localhost:1,synctimeut=5");
    expect("Cannot connect: connection string, character 13: the key synctimeut is unknown; did you mean syncTimeout?");
    assert_end(1);
}

static void flags_missing_environment_is_named(void **state) {
    static const char *const needed[][2] = {
        {"client-secret", "AZURE_TENANT_ID"}, {"client-secret", "AZURE_CLIENT_ID"},
        {"client-secret", "AZURE_CLIENT_SECRET"}, {"access-key", "AZREDIS_ACCESS_KEY"},
        {"password", "AZREDIS_USER"}
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        set_own(needed[i][1], "");
        start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", needed[i][0], NULL);
        expect(needed[i][1]);
        assert_end(2);
        clean_up(state);
    }
}

static void default_without_environment_says_what_is_missing(void **state) {
    (void)state;
    set_own("AZURE_CLIENT_SECRET", "");
    start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", "default", NULL);
    expect("Cannot connect: ");
    expect("AZURE_CLIENT_SECRET");
    assert_end(1);
    assert_shown("Cannot connect: ", 1);
}

/* ---- failures -------------------------------------------------------------------------------- */

/* A port of which *fd makes sure that nobody else takes it; it refuses connections until somebody listens there. */
static int refusing_port(int *fd) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(*fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(*fd, (struct sockaddr *)&a, &n), 0);
    return ntohs(a.sin_port);
}

static void no_connection_is_one_message(void **state) {
    char endpoint[64];
    int fd, port = refusing_port(&fd);
    (void)state;
    snprintf(endpoint, sizeof endpoint, "127.0.0.1:%d", port);
    start("--endpoint", endpoint, "--auth", "default", NULL);
    expect("Cannot connect: ");
    assert_end(1);
    assert_shown("refused", 1);
    assert_shown("summary ", 0);
    clean_up(state);
    snprintf(endpoint, sizeof endpoint, "[::1]:%d", port);
    start("--endpoint", endpoint, "--auth", "default", NULL);
    expect("Cannot connect: ");
    assert_end(1);
    clean_up(state);
    close(fd);
    start("--endpoint", "https://localhost:1", "--auth", "default", NULL);
    expect("Cannot connect: ");
    assert_end(1);
}

/* From `after` ms on, what connects to the port of fd is carried to the gateway: one connection, until it ends. */
static pid_t carry_later(int fd, int after) {
    struct sockaddr_in a;
    struct pollfd p[2];
    char bytes[65536];
    ssize_t n = 1, done;
    int one, i;
    pid_t pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    poll(NULL, 0, after);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listen(fd, 8)) _exit(1);
    p[0].fd = accept(fd, NULL, NULL);
    p[1].fd = socket(AF_INET, SOCK_STREAM, 0);
    a.sin_port = htons((uint16_t)atoi(strrchr(setting("AZREDIS_ENDPOINT"), ':') + 1));
    if (p[0].fd < 0 || connect(p[1].fd, (struct sockaddr *)&a, sizeof a)) _exit(1);
    p[0].events = p[1].events = POLLIN;
    while (n > 0 && poll(p, 2, -1) > 0) {
        for (i = 0; i < 2 && n > 0; i++) {
            if (!p[i].revents) continue;
            n = read(p[i].fd, bytes, sizeof bytes);
            for (done = 0; done < n; done += one) one = (int)write(p[!i].fd, bytes + done, (size_t)(n - done));
        }
    }
    _exit(0);
}

/* The cache comes up 8 s after the program: a service waits for it, the sample says why it cannot go on. */
static void production_waits_for_a_cache_that_comes_up_later(void **state) {
    int fd, port = refusing_port(&fd), status = 1;
    int64_t began = now_ms();
    char endpoint[64];
    pid_t carrier;
    (void)state;
    snprintf(endpoint, sizeof endpoint, "localhost:%d", port);
    carrier = carry_later(fd, 8000);
    close(fd);
    start("--endpoint", endpoint, "--auth", "default", NULL);
    expect("Cannot connect: ");
    expect("refused");
    assert_end(1);
    assert_true(now_ms() - began < 8000);
    clean_up(state);
    start("--endpoint", endpoint, "--auth", "default", "--production", "--seconds", "2", NULL);
    expect("ConnectionFailed: ");
    expect("refused");
    while (now_ms() - began < 8000 && more(began + 8000)) {}
    assert_shown("Connected.", 0);
    expect_within("ConnectionRestored: ", 30000 + SOON);        /* what lies between two tries at most */
    expect("100 of 100 commands that waited for the connection were answered in order.");
    assert_true(now_ms() - began >= 8000);
    expect("+");
    assert_end(0);
    assert_good_summary();
    assert_int_equal(waitpid(carrier, &status, 0), carrier);
    assert_int_equal(status, 0);
}

static void a_drop_is_seen(void **state) {
    long refused = fired("refuse"), expired = fired("expire-now");
    (void)state;
    start("--endpoint", setting("AZREDIS_ENDPOINT"), "--auth", "default", NULL);
    expect("Connected.");
    expect("+");
    admin("POST", "/fault?name=refuse&count=3");
    admin("POST", "/fault?name=expire-now");
    expect("ConnectionFailed: localhost:");
    expect("ConnectionRestored: localhost:");
    expect("\r\n+");
    type(CTRL_C);
    assert_end(1);
    assert_int_equal(fired("refuse"), refused + 3);
    assert_int_equal(fired("expire-now"), expired + 1);
    assert_shown("ConnectionFailed:", 1);
    assert_shown("ConnectionRestored:", 1);
    assert_true(summary("commands_failed") > 0);
    assert_int_equal(summary("reconnects"), 1);
    assert_true(summary("client_id_first") != summary("client_id_last"));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(menu_has_its_eight_entries_in_order, clean_up),
        cmocka_unit_test_teardown(menu_end_of_input_is_exit, clean_up),
        cmocka_unit_test_teardown(menu_refuses_what_is_no_entry, clean_up),
        cmocka_unit_test_teardown(question_end_of_input_is_an_error, clean_up),
        cmocka_unit_test_teardown(question_is_asked_again_after_an_empty_line, clean_up),
        cmocka_unit_test_teardown(secret_ctrl_c_restores_the_terminal, clean_up),
        cmocka_unit_test_teardown(entry_1_runs, clean_up),
        cmocka_unit_test_teardown(renewals_are_seen_and_ctrl_c_ends_cleanly, clean_up),
        cmocka_unit_test_teardown(entries_1_to_3_on_a_virtual_machine, clean_up),
        cmocka_unit_test_teardown(entry_2_of_nobody, clean_up),
        cmocka_unit_test_teardown(entry_4_takes_a_secret_unseen, clean_up),
        cmocka_unit_test_teardown(entry_4_wrong_secret_is_told_once, clean_up),
        cmocka_unit_test_teardown(entries_5_and_6_take_a_certificate, clean_up),
        cmocka_unit_test_teardown(entry_7_refused_key, clean_up),
        cmocka_unit_test_teardown(entry_7_right_key, clean_up),
        cmocka_unit_test_teardown(flags_run_without_a_question, clean_up),
        cmocka_unit_test_teardown(flags_access_key_and_password, clean_up),
        cmocka_unit_test_teardown(flags_verbose_prints_the_log_without_secrets, clean_up),
        cmocka_unit_test_teardown(flags_help, clean_up),
        cmocka_unit_test_teardown(flags_wrong_exit_2, clean_up),
        cmocka_unit_test_teardown(flags_take_no_secret, clean_up),
        cmocka_unit_test_teardown(flags_unknown_identity_lists_the_names, clean_up),
        cmocka_unit_test_teardown(connection_of_the_environment, clean_up),
        cmocka_unit_test_teardown(connection_by_url_with_a_key, clean_up),
        cmocka_unit_test_teardown(connection_with_a_secret_is_no_argument, clean_up),
        cmocka_unit_test_teardown(connection_typed_wrong_is_told, clean_up),
        cmocka_unit_test_teardown(flags_missing_environment_is_named, clean_up),
        cmocka_unit_test_teardown(default_without_environment_says_what_is_missing, clean_up),
        cmocka_unit_test_teardown(no_connection_is_one_message, clean_up),
        cmocka_unit_test_teardown(production_waits_for_a_cache_that_comes_up_later, clean_up),
        cmocka_unit_test_teardown(a_drop_is_seen, clean_up),
    };
    return cmocka_run_group_tests(tests, start_emulator, stop_emulator);
}
