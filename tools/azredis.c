/* azredis.c - redis-cli for a cache that wants a Microsoft Entra ID token instead of a password.
 *
 *   cc -I. tools/azredis.c -o azredis -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
 *   ./azredis -h NAME.REGION.redis.azure.net PING        one command, printed as redis-cli prints it
 *   ./azredis -h NAME.REGION.redis.azure.net < commands  one command a line
 *   ./azredis token                                      whose token the identity gives, and how it went
 *   ./azredis doctor -h NAME.REGION.redis.azure.net      the whole way step by step, and what to mend
 *
 * One thread, plain blocking calls. The token, the way to Redis and the command have exit statuses of their own,
 * so that a script can tell a missing token from a closed port. What a peer can delay has a deadline; behind
 * them all stands a timer (on_late), so that --timeout holds whatever happens.
 * "redis-cli" in comments is that of Redis 7.0, whose output this program repeats byte for byte.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE                     /* sigaction, setitimer and getline, also under -std=c99 */
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Exit statuses. */
enum { OK = 0, ERROR_REPLY = 1, USAGE = 2, NO_TOKEN = 3, NO_REDIS = 4, REJECTED = 5 };

#define TOKEN_MS 30000u                 /* for the token, if --timeout says nothing, beside the time of a person */
#define CONNECT_MS 15000u               /* for look-up, TCP, TLS and AUTH */
#define COMMAND_MS 60000u               /* for one command */
#define SLICE_MS 100u                   /* between two looks whether waiting is still of use */
#define LATE_MS 250u                    /* behind --timeout: then the timer ends what still runs */
#define REPORT_MS 2000u                 /* the same for doctor, which has a report to write then */
#define TIMEOUT_MAX 86400000l           /* a day */
#define SECRET_MAX 16384u               /* of a secret in a file; Redis takes no longer password */

/* ---- options --------------------------------------------------------------------------------- */

enum {
    HOST, AUTH, TENANT, CLIENT, OBJECT, RESOURCE, CERTIFICATE, SEND_CHAIN, FEDERATED, TOKEN_FILE, EXEC,
    SECRET_FILE, KEY_FILE, USER, CACERT, AUTHORITY, ALLOW, PROXY, SCOPE, PROTOCOL, TIMEOUT, RAW, NO_RAW, JSON, SHOW,
    STRICT, VERBOSE, VERSION, HELP, OPTION_COUNT
};

/* value "": a flag. of: the identities that take it, or "" for all; "token", "doctor": goes with that alone. */
static const struct option {
    const char *name, *letter, *value, *of, *help;
} options[OPTION_COUNT] = {
    {"--host", "-h", "HOST[:PORT]", "", "the cache, also as connection string, URL or /PATH of a socket;"},
    {"--auth", "", "NAME", "", "the identity (default: default)"},
    {"--tenant-id", "", "ID", "client-secret client-certificate workload-identity azure-cli azure-developer-cli "
                              "azure-powershell device-code", "tenant; else AZURE_TENANT_ID, of a developer's tool its own"},
    {"--client-id", "", "ID", "default client-secret client-certificate workload-identity managed-identity device-code",
     "application or user-assigned identity; else AZURE_CLIENT_ID"},
    {"--object-id", "", "ID", "default managed-identity", "user-assigned identity, by object id"},
    {"--resource-id", "", "ID", "default managed-identity", "user-assigned identity, by resource id"},
    {"--certificate", "", "FILE", "client-certificate", "PEM or PKCS#12; else AZURE_CLIENT_CERTIFICATE_PATH"},
    {"--send-chain", "", "", "client-certificate", "send its chain (subject name and issuer)"},
    {"--federated-token-file", "", "FILE", "workload-identity", "else AZURE_FEDERATED_TOKEN_FILE"},
    {"--token-file", "", "FILE", "token-file", "file with a token that another program renews"},
    {"--exec", "", "FILE", "exec", "program that prints a token"},
    {"--secret-file", "", "FILE", "client-secret client-certificate password", "file with the secret or password"},
    {"--key-file", "", "FILE", "access-key client-certificate", "file with the access key or private key"},
    {"--user", "", "NAME", "", "Redis user; else the token's oid, with password AZREDIS_USER"},
    {"--cacert", "", "FILE", "", "roots to trust, PEM; else SSL_CERT_FILE, then the system's"},
    {"--authority-host", "", "URL", "", "Entra's host; else AZURE_AUTHORITY_HOST"},
    {"--allow-authority", "", "HOST", "", "a host outside Microsoft's list that may get the secret"},
    {"--proxy", "", "URL", "", "http://HOST:PORT between here and Entra; with a password: AZREDIS_PROXY"},
    {"--scope", "", "SCOPE", "", "default: https://redis.azure.com/.default"},
    {"--protocol", "", "2|3", "", "RESP version (default: 2 as redis-cli; with --json 3)"},
    {"--timeout", "", "MS", "", "of the whole program (default: 30 s token, 15 s way, 60 s command)"},
    {"--raw", "", "", "", "replies as they are (default if the output is no terminal)"},
    {"--no-raw", "", "", "", "replies for people (default on a terminal)"},
    {"--json", "", "", "", "replies, or what token and doctor tell, as JSON"},
    {"--show", "", "", "token", "with token: print the token itself, which is a password"},
    {"--strict", "", "", "doctor", "with doctor: exit status 1 if there are warnings"},
    {"--verbose", "-v", "", "", "events and log on stderr"},
    {"--version", "", "", "", "print the version"},
    {"--help", "", "", "", "print this"}
};

static const char *const identities[] = {
    "default", "environment", "client-secret", "client-certificate", "workload-identity", "managed-identity",
    "azure-cli", "azure-developer-cli", "azure-powershell", "device-code", "token-file", "exec", "access-key",
    "password", NULL
};

enum format { PLAIN, FOR_PEOPLE, AS_JSON };

static struct {
    const char *value[OPTION_COUNT];    /* NULL: not given; flags: "" */
    const char *auth;                   /* name of the identity */
    const char *where;                  /* the cache: host, connection string or URL; may hold a secret */
    char settings[2000];                /* the same as the library understood it, secrets masked; "": none */
    int token, doctor;                  /* `azredis token`, `azredis doctor` */
    enum format format;
    uint64_t start;                     /* of the program */
    uint32_t timeout;                   /* 0: not given */
    char secret[SECRET_MAX + 2];        /* from a file; wiped once the library has its copy */
    azredis_auth *identity;
    azredis_client *cache;
    azredis_reply reply;
    int status;                         /* the exit status so far: the first that is not OK */
    int protocol;                       /* of the client; 0: there is none */
    uint32_t person_ms;                 /* that a person has to sign in */
    int rejected;                       /* 1: Redis refused the last token that it was shown */
    const azredis_str *words;           /* of SUBSCRIBE or PSUBSCRIBE */
    int patterns;                       /* 1: of the latter */
    int word_count, announced;          /* words that were printed as subscribed */
    int channels;                       /* different ones among them */
    int confirmed;                      /* by the server */
    int streaming;
    char refusal[500];                  /* of a subscription; "": none */
    int same;                           /* 1: the same token came again */
    int resp2;                          /* 1: the server lacks RESP3 */
    int reauth;                         /* on the live connection: 1 accepted, -1 refused, 0 nothing yet */
    azredis_error reauth_error;
} app;

static volatile sig_atomic_t stage;     /* the exit status if the time is over now */
static volatile sig_atomic_t stop;      /* Ctrl+C while messages stream */

static void wipe(void *p, size_t n) {
    volatile char *v = (volatile char *)p;
    while (n-- > 0) *v++ = 0;
}

/* ---- ends ------------------------------------------------------------------------------------ */

/* Closes all, which wipes all, and ends the program. */
static void leave(int status) {
    int flushed = fflush(stdout) == 0 && !ferror(stdout), why = errno;
    azredis_reply_free(&app.reply);
    azredis_close(app.cache);
    azredis_auth_release(app.identity);
    wipe(app.secret, sizeof app.secret);
    if (flushed) exit(status);
    if (why != EPIPE) fprintf(stderr, "azredis: the output cannot be written: %s\n", strerror(why));
    _exit(status == OK && why != EPIPE ? ERROR_REPLY : status);    /* exit would try to flush again */
}

static void complain(const char *form, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *form, ...) {
    va_list list;
    fflush(stdout);
    va_start(list, form);
    fputs("azredis: ", stderr);
    vfprintf(stderr, form, list);
    fputc('\n', stderr);
    va_end(list);
}

#define die(status, ...) (complain(__VA_ARGS__), leave(status))

static void note(int status) {
    if (app.status == OK) app.status = status;
}

/* A reader that has gone away, as head does, is a reason to end and none to complain. */
static void flush(void) {
    if (fflush(stdout) != 0) leave(app.status);
}

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* Until the end of a stage that began at `since`; 0: over. */
static uint32_t left_ms(uint64_t since, uint32_t usual) {
    uint64_t end = app.timeout ? app.start + app.timeout : since + usual, now = now_ms();
    return end > now ? (uint32_t)(end - now) : 0;
}

/* The last resort, when a call does not return by its own deadline or the output takes no more. */
static void on_late(int sig) {
    static const char text[] = "azredis: not done within --timeout\n";
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
    (void)sig;
    (void)n;
    _exit(stage);
}

static void on_stop(int sig) {
    (void)sig;
    stop = 1;
}

static void handle(int sig, void (*handler)(int)) {
    struct sigaction how;
    memset(&how, 0, sizeof how);
    how.sa_handler = handler;
    sigaction(sig, &how, NULL);
}

static void start_timer(void) {
    struct itimerval t;
    uint32_t ms = app.timeout + (app.doctor ? REPORT_MS : LATE_MS);
    memset(&t, 0, sizeof t);
    t.it_value.tv_sec = ms / 1000;
    t.it_value.tv_usec = (suseconds_t)(ms % 1000) * 1000;
    handle(SIGALRM, on_late);
    setitimer(ITIMER_REAL, &t, NULL);
}

/* ---- command line ---------------------------------------------------------------------------- */

static void print_help(void) {
    int i;
    puts("usage: azredis [options] COMMAND [ARG...]    run one command, print the reply as redis-cli does\n"
         "       azredis [options]                     read commands from standard input, one a line\n"
         "       azredis token [options]               tell whose token the identity gives\n"
         "       azredis doctor [options]              look at every step to the cache, and say what to mend\n");
    for (i = 0; i < OPTION_COUNT; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s %s", options[i].letter, *options[i].letter ? ", " : "    ",
                 options[i].name, options[i].value);
        printf("  %-32s %s\n", left, options[i].help);
        if (i == HOST) printf("  %-32s else AZREDIS_CONNECTION, which may hold a password, or AZREDIS_ENDPOINT\n", "");
    }
    fputs("\nNAME: ", stdout);
    for (i = 0; identities[i]; i++) printf("%s%s", i == 0 ? "" : i == 7 ? "\n      " : " ", identities[i]);
    puts("\n\nSecrets are never taken from the command line, which every user of the machine can read:\n"
         "  default, environment, client-secret   AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET\n"
         "  client-secret                         or --tenant-id, --client-id, --secret-file\n"
         "  client-certificate                    AZURE_CLIENT_CERTIFICATE_PATH or --certificate, and --key-file if the key is\n"
         "                                        not in it; AZURE_CLIENT_CERTIFICATE_PASSWORD or --secret-file\n"
         "  workload-identity                     AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_FEDERATED_TOKEN_FILE\n"
         "  managed-identity                      what Azure sets there: IDENTITY_ENDPOINT, MSI_ENDPOINT, or nothing\n"
         "  azure-cli, azure-developer-cli, azure-powershell      whoever has signed in to az, azd, pwsh\n"
         "  default                               the first of these; AZURE_TOKEN_CREDENTIALS says which are asked\n"
         "  device-code                           none: a person signs in with the code that is shown on stderr\n"
         "  access-key                            AZREDIS_ACCESS_KEY or --key-file\n"
         "  password                              AZREDIS_USER or --user, AZREDIS_PASSWORD or --secret-file\n"
         "\nExit status: 0 ok, 1 an error reply from Redis, 2 wrong usage, 3 no token, 4 no way to Redis\n"
         "(name, TCP, TLS, deadline), 5 Redis rejected the token. SUBSCRIBE and PSUBSCRIBE print messages\n"
         "until Ctrl+C.\n"
         "doctor ends with that of the first check that failed: 10 name look-up, 11 TCP, 12 TLS, 13 identity (no token came),\n"
         "14 token (for something else, or of no use), 15 AUTH, 16 rights, 17 round trip, 18 pub/sub, 19 re-authentication,\n"
         "20 cluster policy; warnings are 0, with --strict 1. It writes one key of its own, which expires in 10 s.\n"
         "A line of standard input may quote as redis-cli: \"a\\x00\\n\" 'it\\'s'; a number in front repeats it.");
}

/* Up to an "=": what stands behind may be a secret. */
static int name_length(const char *arg) { return (int)strcspn(arg, "="); }

/* 1: an option by which people try to give a secret. */
static int is_secret(const char *arg) {
    static const char *const words[] = {"secret", "pass", "key", "token", "credential", "assertion"};
    size_t i;
    if (arg[0] == '-' && arg[1] == 'a') return 1;       /* redis-cli's password */
    for (i = 0; i < sizeof words / sizeof words[0]; i++) {
        const char *at = strcasestr(arg, words[i]);
        if (at && at < arg + name_length(arg)) return 1;
    }
    return 0;
}

static void refuse_option(const char *arg) {
    int n = arg[1] == '-' ? name_length(arg) : 2;
    if (is_secret(arg))
        die(USAGE, "%.*s: a secret is not taken from the command line, which every user of this machine can read; "
            "use AZURE_CLIENT_SECRET, AZREDIS_ACCESS_KEY, AZREDIS_PASSWORD, --secret-file or --key-file", n, arg);
    die(USAGE, "%.*s: there is no such option; azredis --help lists them", n, arg);
}

static int find_option(const char *arg) {
    int i;
    size_t n = (size_t)name_length(arg);
    for (i = 0; i < OPTION_COUNT; i++) {
        if (strlen(options[i].name) == n && memcmp(options[i].name, arg, n) == 0) return i;
        if (*options[i].letter && strcmp(options[i].letter, arg) == 0) return i;
    }
    refuse_option(arg);
    return -1;
}

/* Takes the option at argv[i]; returns the index of the next argument. */
static int take_option(int i, char **argv) {
    const char *arg = argv[i], *inside = strchr(arg, '=');
    int o = find_option(arg), flag = *options[o].value == '\0';
    if (arg[1] != '-') inside = NULL;
    if (flag && inside) die(USAGE, "%s: takes no value", options[o].name);
    if (!flag && !inside && !argv[i + 1]) die(USAGE, "%s: the value is missing", options[o].name);
    app.value[o] = flag ? "" : inside ? inside + 1 : argv[++i];
    if (!flag && *app.value[o] == '\0') die(USAGE, "%s: the value is empty", options[o].name);
    return i + 1;
}

static long number(int o, long least, long most) {
    char *end;
    long n = strtol(app.value[o], &end, 10);
    if (*end || !isdigit((unsigned char)app.value[o][0]) || n < least || n > most)
        die(USAGE, "%s: a number from %ld to %ld is wanted", options[o].name, least, most);
    return n;
}

/* 1: word is one of list, which blanks separate. */
static int in_list(const char *list, const char *word) {
    size_t n = strlen(word);
    const char *at = list;
    while ((at = strstr(at, word)) != NULL) {
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0')) return 1;
        at += n;
    }
    return 0;
}

static void check_options(void) {
    int i;
    for (i = 0; identities[i] && strcmp(identities[i], app.auth) != 0; i++) {}
    if (!identities[i]) die(USAGE, "--auth: there is no such NAME; azredis --help lists them");
    for (i = 0; i < OPTION_COUNT; i++) {
        if (!app.value[i] || !*options[i].of || i == SHOW || i == STRICT || in_list(options[i].of, app.auth)) continue;
        die(USAGE, "%s: --auth %s has no use for it; it goes with: %s", options[i].name, app.auth, options[i].of);
    }
    if (app.value[SHOW] && !app.token) die(USAGE, "--show: goes with `azredis token` alone");
    if (app.value[STRICT] && !app.doctor) die(USAGE, "--strict: goes with `azredis doctor` alone");
    if (app.value[RAW] && app.value[NO_RAW]) die(USAGE, "--raw: not together with --no-raw");
    if (app.value[JSON] && (app.value[RAW] || app.value[NO_RAW]))
        die(USAGE, "--json: not together with --raw or --no-raw");
    if (!app.where && !app.token)
        die(USAGE, "--host: give the cache by -h HOST[:PORT], AZREDIS_CONNECTION or AZREDIS_ENDPOINT");
}

static const char *getenv_set(const char *name) {
    const char *z = getenv(name);
    return z && *z ? z : NULL;
}

/* 1: the connection string has this key. */
static int says(const char *key) {
    const char *at = app.settings;
    size_t n = strlen(key);
    while ((at = strstr(at, key)) != NULL) {
        if (at > app.settings && at[-1] == ',' && at[n] == '=') return 1;
        at += n;
    }
    return 0;
}

/* The value of that key in the connection string; 0: it is not there. */
static int setting(const char *key, char *out, size_t cap) {
    const char *at = app.settings;
    size_t n = strlen(key);
    while ((at = strstr(at, key)) != NULL) {
        if (at > app.settings && strchr(",?&", at[-1]) && at[n] == '=') {
            snprintf(out, cap, "%.*s", (int)strcspn(at + n + 1, ",&"), at + n + 1);
            return 1;
        }
        at += n;
    }
    return 0;
}

/* The library's own parser says what is in the string, with *** for a password. */
static void check_where(void) {
    static const char wrong[] = "(wrong: ";
    const char *from = app.value[HOST] ? "--host" : getenv_set("AZREDIS_CONNECTION") ? "AZREDIS_CONNECTION"
                                                                                      : "AZREDIS_ENDPOINT";
    azredis_options o = {0};
    size_t n;
    if (!app.where) return;
    o.config = app.where;
    n = azredis_describe(&o, app.settings, sizeof app.settings);
    if (strncmp(app.settings, wrong, sizeof wrong - 1) == 0)
        die(USAGE, "%s: %.*s", from, (int)(strlen(app.settings) - sizeof wrong), app.settings + sizeof wrong - 1);
    if (n >= sizeof app.settings) die(USAGE, "%s: it is too long", from);
    if (app.value[HOST] && (says("password") || says("clientSecret")))
        die(USAGE, "--host: a secret is not taken from the command line, which every user of this machine can read; "
            "use AZREDIS_CONNECTION, AZREDIS_ACCESS_KEY or AZREDIS_PASSWORD");
}

/* Returns the index of the command's name; argc if there is none. */
static int read_options(int argc, char **argv) {
    int i = 1;
    while (i < argc) {
        int alone = app.token || app.doctor;
        if (strcmp(argv[i], "--") == 0 && !alone) { i++; break; }
        if (!alone && (strcmp(argv[i], "token") == 0 || strcmp(argv[i], "doctor") == 0)) {
            app.token = argv[i][0] == 't';
            app.doctor = !app.token;
            i++;
        } else if (argv[i][0] == '-' && argv[i][1]) {
            i = take_option(i, argv);
        } else if (alone) {
            die(USAGE, "%s: takes options only", app.token ? "token" : "doctor");
        } else {
            break;
        }
    }
    if (app.value[HELP]) { print_help(); leave(OK); }
    if (app.value[VERSION]) { printf("azredis %s (%s)\n", AZREDIS_VERSION_TEXT, azredis_build_info()); leave(OK); }
    if (app.value[TIMEOUT]) app.timeout = (uint32_t)number(TIMEOUT, 1, TIMEOUT_MAX);
    if (app.value[PROTOCOL]) (void)number(PROTOCOL, 2, 3);
    app.auth = app.value[AUTH] ? app.value[AUTH] : "default";
    app.where = app.value[HOST] ? app.value[HOST] : getenv_set("AZREDIS_CONNECTION");
    if (!app.where) app.where = getenv_set("AZREDIS_ENDPOINT");
    app.format = app.value[JSON] ? AS_JSON
               : app.value[RAW] || (!app.value[NO_RAW] && !isatty(STDOUT_FILENO)) ? PLAIN : FOR_PEOPLE;
    check_options();
    check_where();
    return i;
}

/* ---- replies, as redis-cli prints them ------------------------------------------------------- */

static void put(const char *p, size_t n) { fwrite(p, 1, n, stdout); }

/* In double quotes; a byte that is not printable ASCII as its number. */
static void put_quoted(const char *p, size_t n) {
    static const char plain[] = "\\\"\n\r\t\a\b", escape[] = "\\\"nrtab";
    putchar('"');
    for (; n > 0; n--, p++) {
        const char *at = *p ? strchr(plain, *p) : NULL;
        if (at) printf("\\%c", escape[at - plain]);
        else if ((unsigned char)*p >= 32 && (unsigned char)*p < 127) putchar(*p);
        else printf("\\x%02x", (unsigned)(unsigned char)*p);
    }
    putchar('"');
}

static void put_json_text(const char *p, size_t n) {
    static const char plain[] = "\\\"\n\f\r\t\b", escape[] = "\\\"nfrtb";
    putchar('"');
    for (; n > 0; n--, p++) {
        const char *at = *p ? strchr(plain, *p) : NULL;
        if (at) printf("\\%c", escape[at - plain]);
        else if ((unsigned char)*p < 32) printf("\\u%04x", (unsigned)(unsigned char)*p);
        else putchar(*p);
    }
    putchar('"');
}

static int is_aggregate(const azredis_value *v) {
    return v->type == AZREDIS_T_ARRAY || v->type == AZREDIS_T_SET || v->type == AZREDIS_T_PUSH ||
           v->type == AZREDIS_T_MAP;
}

/* 1: it takes more than one line, so that behind "=>" it begins on one of its own. */
static int has_lines(const azredis_value *v) {
    uint32_t one = v->type == AZREDIS_T_MAP ? 2 : 1;
    if (!is_aggregate(v) || v->len == 0) return 0;
    return v->len > one || has_lines(&v->as.items[one - 1]);
}

static void put_scalar(const azredis_value *v) {
    switch (v->type) {
    case AZREDIS_T_NIL: printf("(nil)"); break;
    case AZREDIS_T_ERROR: printf("(error) %s", v->as.str); break;
    case AZREDIS_T_INTEGER: printf("(integer) %" PRId64, v->as.integer); break;
    case AZREDIS_T_DOUBLE: printf("(double) %s", v->as.str); break;
    case AZREDIS_T_BOOL: printf(v->as.integer ? "(true)" : "(false)"); break;
    case AZREDIS_T_STRING: put_quoted(v->as.str, v->len); break;
    default: put(v->as.str, v->len); break;
    }
}

static void put_empty(const azredis_value *v) {
    printf("(empty %s)", v->type == AZREDIS_T_MAP ? "hash" : v->type == AZREDIS_T_SET ? "set"
                       : v->type == AZREDIS_T_PUSH ? "push" : "array");
}

/* For people, without the last line's end. indent: of every line but the first. */
static void put_tree(const azredis_value *v, int indent) {
    int map = v->type == AZREDIS_T_MAP, width = 1;
    uint32_t i, n = map ? v->len / 2 : v->len, rest = n;
    if (!is_aggregate(v)) { put_scalar(v); return; }
    if (v->len == 0) { put_empty(v); return; }
    while (rest /= 10) width++;
    for (i = 0; i < n; i++) {
        const azredis_value *item = &v->as.items[map ? 2 * i : i];
        if (i > 0) printf("\n%*s", indent, "");
        printf("%*" PRIu32 "%c ", width, i + 1, map ? '#' : v->type == AZREDIS_T_SET ? '~' : ')');
        put_tree(item, indent + width + 2);
        if (!map) continue;
        printf(" => ");
        if (has_lines(&item[1])) printf("\n%*s", indent + width + 2, "");
        put_tree(&item[1], indent + width + 2);
    }
}

static void put_plain(const azredis_value *v) {
    uint32_t i;
    if (is_aggregate(v)) {
        for (i = 0; i < v->len; i++) {
            if (i > 0) putchar(v->type == AZREDIS_T_MAP && i % 2 == 1 ? ' ' : '\n');
            put_plain(&v->as.items[i]);
        }
    } else if (v->type == AZREDIS_T_INTEGER) {
        printf("%" PRId64, v->as.integer);
    } else if (v->type == AZREDIS_T_BOOL) {
        printf(v->as.integer ? "(true)" : "(false)");
    } else if (v->type != AZREDIS_T_NIL) {
        put(v->as.str, v->len);
        if (v->type == AZREDIS_T_ERROR) putchar('\n');
    }
}

static void put_json(const azredis_value *v) {
    int map = v->type == AZREDIS_T_MAP;
    uint32_t i;
    switch (v->type) {
    case AZREDIS_T_NIL: printf("null"); return;
    case AZREDIS_T_INTEGER: printf("%" PRId64, v->as.integer); return;
    case AZREDIS_T_BOOL: printf(v->as.integer ? "true" : "false"); return;
    case AZREDIS_T_DOUBLE: case AZREDIS_T_BIGNUM: printf("%s", v->as.str); return;
    case AZREDIS_T_ERROR: printf("error:"); break;
    default: break;
    }
    if (!is_aggregate(v)) { put_json_text(v->as.str, v->len); return; }
    putchar(map ? '{' : '[');
    for (i = 0; i < v->len; i++) {
        const azredis_value *item = &v->as.items[i];
        int bare = map && i % 2 == 0 && !azredis_text(item).ptr && item->type != AZREDIS_T_ERROR;
        if (i > 0) putchar(map && i % 2 == 1 ? ':' : ',');
        if (bare) putchar('"');
        put_json(item);
        if (bare) putchar('"');
    }
    putchar(map ? '}' : ']');
}

static void print_value(const azredis_value *v) {
    if (app.format == FOR_PEOPLE) put_tree(v, 0);
    else if (app.format == AS_JSON) put_json(v);
    else put_plain(v);
    putchar('\n');
    flush();
}

/* Answers that are a page of text, which redis-cli prints as they are and adds no line end to. */
static int is_page(int argc, const azredis_str *argv) {
    static const struct { const char *name, *sub; int least, most; } pages[] = {
        {"info", NULL, 1, INT_MAX}, {"lolwut", NULL, 1, INT_MAX}, {"debug", "htstats", 2, INT_MAX},
        {"debug", "htstats-key", 2, INT_MAX}, {"debug", "client-eviction", 2, INT_MAX},
        {"memory", "malloc-stats", 2, INT_MAX}, {"memory", "doctor", 2, INT_MAX}, {"cluster", "nodes", 2, 2},
        {"cluster", "info", 2, 2}, {"client", "list", 2, INT_MAX}, {"client", "info", 2, INT_MAX},
        {"latency", "graph", 3, 3}, {"latency", "doctor", 2, 2}, {"proxy", "info", 2, INT_MAX}
    };
    size_t i;
    for (i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        if (argc < pages[i].least || argc > pages[i].most || strcasecmp(argv[0].ptr, pages[i].name) != 0) continue;
        if (!pages[i].sub || strcasecmp(argv[1].ptr, pages[i].sub) == 0) return 1;
    }
    return 0;
}

/* ---- identity -------------------------------------------------------------------------------- */

/* The file's text without white space at its end, in app.secret. */
static const char *read_secret(int o) {
    int fd = open(app.value[o], O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    ssize_t got = fd < 0 ? -1 : 1;
    while (got > 0 && n <= SECRET_MAX) {
        got = read(fd, app.secret + n, SECRET_MAX + 1 - n);
        if (got > 0) n += (size_t)got;
    }
    if (got < 0) die(USAGE, "%s: the file cannot be read: %s", options[o].name, strerror(errno));
    close(fd);
    if (n > SECRET_MAX) die(USAGE, "%s: the file is longer than %u bytes", options[o].name, SECRET_MAX);
    while (n > 0 && isspace((unsigned char)app.secret[n - 1])) n--;
    app.secret[n] = '\0';
    if (n == 0 || strlen(app.secret) != n) die(USAGE, "%s: the file holds no text", options[o].name);
    return app.secret;
}

/* From the option, else from the variable. */
static const char *needed(int o, const char *variable) {
    const char *z = getenv_set(variable);
    if (app.value[o]) return o == SECRET_FILE || o == KEY_FILE ? read_secret(o) : app.value[o];
    if (!z) die(app.doctor ? USAGE : NO_TOKEN, "--auth %s needs %s or %s", app.auth, variable, options[o].name);
    return z;
}

static void on_event(const azredis_event *ev, void *user) {
    int log = ev->type == AZREDIS_EV_LOG ? ev->number : 0;
    (void)user;
    if (log == 103) app.same = 1;
    if (log == 106 || log == 302) app.rejected = 1;             /* the manual lists these numbers */
    if (log == 205) app.rejected = 0;
    if (ev->type == AZREDIS_EV_DEVICE_CODE) {
        fprintf(stderr, "%s\n", ev->text);
        app.person_ms = (uint32_t)ev->new_left_ms;
    }
    if (log == 206) app.resp2 = 1;
    if (log == 400) app.confirmed++;
    if (log == 401) snprintf(app.refusal, sizeof app.refusal, "%s", ev->text);
    if (ev->type == AZREDIS_EV_CONNECTION_REAUTHENTICATED) app.reauth = 1;
    if (ev->type == AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED) {
        app.reauth = -1;
        app.reauth_error = *ev->error;
    }
    /* A stream that stands still must not look like a quiet one. */
    if (app.value[VERBOSE] || (app.streaming && (ev->type == AZREDIS_EV_CONNECTION_FAILED ||
                                                 ev->type == AZREDIS_EV_CONNECTION_RESTORED)))
        azredis_print_event(ev, NULL);
}

/* Errors of the library speak of its options; here they have other names. */
static void die_of(int status, const azredis_error *why) {
    static const struct { int option; const char *word; } words[] = {
        {TENANT, "tenant id"}, {CLIENT, "client id"}, {SCOPE, "scope must"}, {USER, "user has"},
        {OBJECT, "object_id"}, {RESOURCE, "resource_id"}, {FEDERATED, "federated_token_file"}, {TOKEN_FILE, "token_file"},
        {CERTIFICATE, "certificate_file"}, {EXEC, "option exec"}, {EXEC, "options.exec"}, {PROXY, "options.proxy"},
        {AUTHORITY, "options.authority_host"}, {ALLOW, "options.allow_authority"}, {HOST, "options.config"}
    };
    const char *hint = strstr(why->message, "option allow_authority") ? " (here --allow-authority HOST)" : "";
    size_t i;
    for (i = 0; status == USAGE && i < sizeof words / sizeof words[0]; i++)
        if (strstr(why->message, words[i].word))
            die(status, "%s: %s%s", options[words[i].option].name, why->message, hint);
    die(status, "%s%s", why->message, hint);
}

/* A password in it comes by the variable: the command line can be read by every user of the machine. */
static const char *proxy(void) {
    if (!app.value[PROXY]) return getenv_set("AZREDIS_PROXY");
    if (strchr(app.value[PROXY], '@')) die(USAGE, "--proxy: a password is not taken from the command line; use AZREDIS_PROXY");
    return app.value[PROXY];
}

static void fill_identity(azredis_auth_options *o) {
    const char *why = azredis_identity_why(app.auth);
    if (why) die(app.doctor ? USAGE : NO_TOKEN, "--auth %s: %s", app.auth, why);
    (void)azredis_identity_by_name(app.auth, &o->identity);
    o->user = app.value[USER];
    o->tenant_id = app.value[TENANT];
    o->client_id = app.value[CLIENT];
    o->object_id = app.value[OBJECT];
    o->resource_id = app.value[RESOURCE];
    o->federated_token_file = app.value[FEDERATED];
    o->token_file = app.value[TOKEN_FILE];
    o->exec = app.value[EXEC];
    o->proxy = proxy();
    if (o->identity == AZREDIS_ID_ACCESS_KEY) o->password = needed(KEY_FILE, "AZREDIS_ACCESS_KEY");
    if (o->identity == AZREDIS_ID_PASSWORD) o->user = needed(USER, "AZREDIS_USER");
    if (o->identity == AZREDIS_ID_PASSWORD) o->password = needed(SECRET_FILE, "AZREDIS_PASSWORD");
    if (o->identity == AZREDIS_ID_CLIENT_SECRET) {
        o->tenant_id = needed(TENANT, "AZURE_TENANT_ID");
        o->client_id = needed(CLIENT, "AZURE_CLIENT_ID");
        o->client_secret = needed(SECRET_FILE, "AZURE_CLIENT_SECRET");
    }
    if (o->identity == AZREDIS_ID_CLIENT_CERTIFICATE) {
        o->tenant_id = needed(TENANT, "AZURE_TENANT_ID");
        o->client_id = needed(CLIENT, "AZURE_CLIENT_ID");
        o->certificate_file = needed(CERTIFICATE, "AZURE_CLIENT_CERTIFICATE_PATH");
        o->key_file = app.value[KEY_FILE];
        if (app.value[SECRET_FILE]) o->certificate_password = read_secret(SECRET_FILE);
        o->send_chain = app.value[SEND_CHAIN] != NULL;
    }
    if (!app.value[AUTH] && strstr(app.settings, ",auth=client-secret"))
        o->client_secret = getenv_set("AZURE_CLIENT_SECRET");
    o->authority_host = app.value[AUTHORITY];
    o->allow_authority = app.value[ALLOW];
    o->scope = app.value[SCOPE];
    o->ca_file = app.value[CACERT];
    if (app.timeout) o->request_ms = o->chain_ms = left_ms(app.start, 0);
    o->on_event = on_event;             /* for `azredis token`; else the client hands them on */
    o->log_level = AZREDIS_LOG_DEBUG;
}

/* No I/O. Of the token alone no cache needs to be known, but a client wants to hear of one. A second client, for
 * another protocol, has the identity of the first. */
static void open_client(int protocol) {
    azredis_auth_options id = {0};
    azredis_options o = {0};
    azredis_auth_info_data info;
    azredis_error why = {0};
    azredis_token t;
    azredis_close(app.cache);
    if (!app.identity) fill_identity(&id);
    /* In an option the default chain looks like none: a connection string with another identity would win. */
    if (!app.identity && app.value[AUTH] && id.identity == AZREDIS_ID_DEFAULT) app.identity = azredis_auth_open(&id);
    o.auth = app.identity;
    o.identity = &id;
    o.config = app.where ? app.where : "localhost";
    o.ca_file = app.value[CACERT];
    o.protocol = app.protocol = protocol;
    if (!says("name")) o.client_name = "azredis";
    if (!says("syncTimeout")) o.command_ms = COMMAND_MS;
    if (app.timeout) o.connect_ms = o.auth_ms = app.timeout;
    o.on_event = on_event;
    o.log_level = app.value[VERBOSE] ? AZREDIS_LOG_DEBUG : AZREDIS_LOG_INFO;
    app.cache = azredis_open(&o);
    wipe(app.secret, sizeof app.secret);
    if (!app.identity) app.identity = azredis_client_auth(app.cache);
    if (azredis_auth_info(app.identity, &info) != AZREDIS_E_ARG) return;
    (void)azredis_auth_token(app.identity, &t, 0, &why);        /* only tells what is wrong */
    die_of(USAGE, &why);
}

/* ---- azredis token --------------------------------------------------------------------------- */

/* One walk: an authority that is down now is worth a retry to a program that lives, not to this one. */
static azredis_status fetch_token(azredis_token *t, azredis_error *why) {
    azredis_status st;
    uint64_t since = now_ms();
    uint32_t left;
    do {
        /* The walk has the same deadline and knows better what it waited for: it gets a moment to say so. */
        left = left_ms(since, TOKEN_MS + app.person_ms) + SLICE_MS;
        memset(why, 0, sizeof *why);
        st = azredis_auth_token(app.identity, t, left < SLICE_MS ? left : SLICE_MS, why);
    } while (st == AZREDIS_AGAIN && why->code == AZREDIS_AGAIN && left > SLICE_MS && !stop);
    if (st == AZREDIS_AGAIN && why->code == AZREDIS_AGAIN)
        snprintf(why->message, sizeof why->message, "no token in time");
    return st;
}

static void put_member(const char *name, const char *value) {
    printf("\"%s\":", name);
    if (*value) put_json_text(value, strlen(value));
    else printf("null");
    putchar(',');
}

static void put_number(const char *name, int known, int64_t n) {
    printf("\"%s\":", name);
    if (known) printf("%" PRId64 ",", n);
    else printf("null,");
}

static void token_json(const azredis_auth_info_data *d, int got, const char *error, const azredis_token *t) {
    azredis_link_record step;
    size_t i;
    putchar('{');
    put_member("credential", d->credential);
    put_member("user", d->user);
    put_member("tenant", d->tenant);
    put_member("audience", d->audience);
    put_number("expires_on", d->expires_on != 0, d->expires_on);
    put_number("expires_in", got && d->expires_in_ms != AZREDIS_UNKNOWN, d->expires_in_ms / 1000);
    if (got && app.value[SHOW]) put_member("token", t->jwt);
    if (!got) put_member("error", error);
    printf("\"steps\":[");
    for (i = 0; azredis_auth_record(app.identity, i, &step) == AZREDIS_OK; i++) {
        printf(i > 0 ? ",{" : "{");
        put_member("name", step.name);
        put_member("outcome", step.outcome);
        put_member("reason", step.reason);
        printf("\"ms\":%u}", (unsigned)step.ms);
    }
    puts("]}");
}

static void token_text(const azredis_auth_info_data *d, int got, const azredis_token *t) {
    azredis_link_record step;
    time_t at = (time_t)d->expires_on;
    struct tm tm;
    char when[32] = "?";
    size_t i;
    if (got) {
        if (d->expires_on && gmtime_r(&at, &tm)) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
        printf("credential  %s\nuser        %s\ntenant      %s\naudience    %s\nexpires     %s, in %" PRId64 " s\n",
               d->credential, d->user, *d->tenant ? d->tenant : "?", *d->audience ? d->audience : "?", when,
               d->expires_in_ms / 1000);
    }
    for (i = 0; azredis_auth_record(app.identity, i, &step) == AZREDIS_OK; i++)
        printf("step        %s: %s, %u ms%s%s\n", step.name, step.outcome, (unsigned)step.ms,
               *step.reason ? ": " : "", step.reason);
    if (got && app.value[SHOW]) printf("token       %s\n", t->jwt);
}

static void print_token(void) {
    azredis_auth_info_data d;
    azredis_error why = {0};
    azredis_token t;
    azredis_status st = fetch_token(&t, &why);
    int fixed = st == AZREDIS_OK && t.expires_in_ms == AZREDIS_NEVER, got = st == AZREDIS_OK && !fixed;
    if (fixed) snprintf(why.message, sizeof why.message, "--auth %s signs in without a token", app.auth);
    (void)azredis_auth_info(app.identity, &d);
    if (app.value[JSON]) token_json(&d, got, why.message, &t);
    else token_text(&d, got, &t);
    azredis_token_wipe(&t);
    if (!got) die(NO_TOKEN, "%s", why.message);
    leave(OK);
}

/* ---- connection ------------------------------------------------------------------------------ */

/* Nothing but Redis's own AUTH rejects a token; without one it is the token that was missing, whatever else the
 * message says. */
static int status_of(const azredis_error *why) {
    azredis_auth_info_data info;
    azredis_stats_data d;
    azredis_stats(app.cache, &d);
    if (app.rejected || why->code == AZREDIS_E_AUTH) return REJECTED;
    if (why->code == AZREDIS_E_ARG && d.token_failures == 0) return USAGE;
    return azredis_auth_info(app.identity, &info) == AZREDIS_OK ? NO_REDIS : NO_TOKEN;
}

/* Waits while that is of use: a token that was refused is replaced once, anything else fails at once. What can be
 * wrong without a word on the wire is found before the first one. */
static void connect_client(void) {
    azredis_auth_info_data info;
    azredis_error why = {0};
    azredis_status st;
    uint64_t since = now_ms();
    uint32_t left;
    do {
        if (stage == NO_TOKEN && azredis_auth_info(app.identity, &info) == AZREDIS_OK) {
            stage = NO_REDIS;
            since = now_ms();
        }
        left = left_ms(since, stage == NO_TOKEN ? TOKEN_MS + app.person_ms : CONNECT_MS);
        st = azredis_connect(app.cache, left < SLICE_MS ? left : SLICE_MS, &why);
    } while (st != AZREDIS_OK && left > 0 && why.retryable && (st == AZREDIS_E_TIMEOUT || st == AZREDIS_E_AUTH));
    if (st != AZREDIS_OK) die_of(status_of(&why), &why);
    stage = NO_REDIS;
}

/* ---- SUBSCRIBE ------------------------------------------------------------------------------- */

static azredis_value text_value(const char *p, size_t n) {
    azredis_value v;
    memset(&v, 0, sizeof v);
    v.type = AZREDIS_T_STRING;
    v.len = (uint32_t)n;
    v.as.str = p;
    return v;
}

/* kind without the "p" of patterns; pattern.ptr NULL: none stands in it. */
static void print_push(const char *kind, azredis_str pattern, azredis_str channel, const azredis_value *last) {
    azredis_value item[4], v;
    char word[16];
    memset(&v, 0, sizeof v);
    v.type = AZREDIS_T_ARRAY;
    v.as.items = item;
    snprintf(word, sizeof word, "%s%s", app.patterns ? "p" : "", kind);
    item[v.len++] = text_value(word, strlen(word));
    if (pattern.ptr) item[v.len++] = text_value(pattern.ptr, pattern.len);
    item[v.len++] = text_value(channel.ptr, channel.len);
    item[v.len++] = *last;
    print_value(&v);
}

/* 1: words[i] stands there before i, too. */
static int is_repeated(int i) {
    int k;
    for (k = 1; k < i; k++)
        if (strcmp(app.words[k].ptr, app.words[i].ptr) == 0) return 1;
    return 0;
}

/* Prints the words up to `last` as subscribed, and what needs no answer behind it. */
static void announce(int last) {
    const azredis_str none = {NULL, 0};
    azredis_value count;
    memset(&count, 0, sizeof count);
    count.type = AZREDIS_T_INTEGER;
    while (app.announced < app.word_count && (app.announced <= last || is_repeated(app.announced))) {
        if (!is_repeated(app.announced)) app.channels++;
        count.as.integer = app.channels;
        print_push("subscribe", none, app.words[app.announced++], &count);
    }
}

/* A message may be here before the event that tells of its subscription. */
static void on_message(azredis_client *c, const azredis_message *m, void *user) {
    azredis_value payload = text_value(m->payload.ptr, m->payload.len);
    const char *word = m->pattern.ptr ? m->pattern.ptr : m->channel.ptr;
    int i = 1;
    (void)c;
    (void)user;
    while (i < app.word_count - 1 && strcmp(app.words[i].ptr, word) != 0) i++;
    announce(i);
    print_push("message", m->pattern, m->channel, &payload);
}

/* One after the other, so that the answers come in the order of the words. */
static void subscribe_all(void) {
    uint64_t since = now_ms();
    int i, asked = 0;
    for (i = 1; i < app.word_count; i++) {
        if (is_repeated(i)) continue;
        if (!azredis_subscribe(app.cache, app.patterns ? AZREDIS_PATTERN : AZREDIS_CHANNEL, app.words[i].ptr, on_message,
                               NULL))
            die(NO_REDIS, "SUBSCRIBE: out of memory");
        asked++;
        while (!stop && app.confirmed < asked && !app.refusal[0] && left_ms(since, COMMAND_MS) > 0)
            azredis_wait(app.cache, SLICE_MS / 10);
        if (stop) return;
        if (app.refusal[0]) die(ERROR_REPLY, "%s", app.refusal);
        if (app.confirmed < asked) die(NO_REDIS, "SUBSCRIBE: no answer in time");
        announce(i);
    }
}

static int is_subscribe(const char *name) {
    return strcasecmp(name, "subscribe") == 0 || strcasecmp(name, "psubscribe") == 0;
}

/* RESP2 is what redis-cli shows answers in; a subscription needs a second connection over it. */
static int wanted_protocol(const char *command) {
    if (app.value[PROTOCOL]) return atoi(app.value[PROTOCOL]);
    if (command && is_subscribe(command) && !says("protocol")) return 3;
    return app.value[JSON] || (says("protocol") && strstr(app.settings, "=resp3")) ? 3 : 2;
}

/* Ends by Ctrl+C or --timeout alone. What it prints is the same over RESP2 and RESP3. */
static void subscribe(int argc, const azredis_str *argv) {
    int i, protocol = wanted_protocol(argv[0].ptr);
    app.patterns = argv[0].ptr[0] == 'p' || argv[0].ptr[0] == 'P';
    for (i = 1; i < argc && strlen(argv[i].ptr) == argv[i].len; i++) {}
    if (argc < 2 || i < argc) {
        complain(app.patterns ? "PSUBSCRIBE: patterns are wanted, without a NUL in them" :
                 "SUBSCRIBE: channels are wanted, without a NUL in them");
        note(USAGE);
        return;
    }
    if (app.protocol != protocol) {
        open_client(protocol);
        connect_client();
    }
    if (app.format == FOR_PEOPLE) puts("Reading messages... (press Ctrl-C to quit)");
    flush();
    app.words = argv;
    app.word_count = argc;
    app.announced = 1;
    handle(SIGINT, on_stop);
    subscribe_all();
    app.streaming = 1;
    stage = app.status;
    while (!stop && left_ms(now_ms(), SLICE_MS) > 0) azredis_wait(app.cache, SLICE_MS);
    leave(app.status);
}

/* ---- commands -------------------------------------------------------------------------------- */

/* Returns 0 if it is of no use to go on. */
static int run_command(int argc, const azredis_str *argv) {
    azredis_call how = {0};
    azredis_status st;
    if (is_subscribe(argv[0].ptr)) { subscribe(argc, argv); return 1; }
    if (app.timeout) how.timeout_ms = left_ms(0, 0) + 1;
    st = azredis_command_argv(app.cache, &app.reply, &how, argc, argv);
    if (app.reply.value) {
        if (app.reply.value->type == AZREDIS_T_ERROR) note(ERROR_REPLY);
        if (!is_page(argc, argv)) print_value(app.reply.value);
        else put_plain(app.reply.value);
        flush();
        return 1;
    }
    if (st == AZREDIS_OK) return 1;
    complain("%s%s", app.reply.error->message,
             app.reply.fate != AZREDIS_MAYBE_RUN || strstr(app.reply.error->message, "may have run") ? ""
             : "; the command may have run");
    note(st == AZREDIS_E_ARG ? USAGE : status_of(app.reply.error));
    return st == AZREDIS_E_ARG || st == AZREDIS_E_LIMIT;
}

static void run_arguments(int argc, char **argv) {
    azredis_str *arg = (azredis_str *)calloc((size_t)argc, sizeof *arg);
    int i;
    if (!arg) die(NO_REDIS, "out of memory");
    for (i = 0; i < argc; i++) {
        arg[i].ptr = argv[i];
        arg[i].len = strlen(argv[i]);
    }
    (void)run_command(argc, arg);
    free(arg);
}

/* ---- standard input -------------------------------------------------------------------------- */

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The character behind a backslash in double quotes; moves *at to its last byte. */
static char unescape(char **at) {
    static const char from[] = "nrtba", to[] = "\n\r\t\b\a";
    char *p = *at;
    const char *known;
    if (p[0] == 'x' && hex(p[1]) >= 0 && hex(p[2]) >= 0) {
        *at = p + 2;
        return (char)(hex(p[1]) * 16 + hex(p[2]));
    }
    known = strchr(from, *p);
    return known ? to[known - from] : *p;
}

/* Takes one word by redis-cli's rules, in place: what is left is never longer than what was there.
 * *next: behind it. 0: unbalanced quotes, or something that clings to a closing one. */
static int split_word(char *p, azredis_str *word, char **next) {
    char *to = p, quote = '\0', c;
    word->ptr = p;
    for (;; p++) {
        if (*p == '\0' && quote) return 0;
        if (*p == '\0' || (!quote && strchr(" \n\r\t", *p))) break;
        c = *p;
        if (!quote && (c == '"' || c == '\'')) {
            quote = c;
            continue;
        }
        if (quote && c == quote) {
            if (p[1] && !isspace((unsigned char)p[1])) return 0;
            p++;
            break;
        }
        if (quote == '\'' && c == '\\' && p[1] == '\'') c = *++p;
        else if (quote == '"' && c == '\\' && p[1]) { p++; c = unescape(&p); }
        *to++ = c;
    }
    word->len = (size_t)(to - word->ptr);
    *next = *p ? p + 1 : p;
    *to = '\0';
    return 1;
}

/* Splits a line in place; the words are NUL-terminated. Returns how many, -1: not by the rules. */
static int split(char *p, azredis_str *word) {
    int n = 0;
    for (;;) {
        while (*p && isspace((unsigned char)*p)) p++;
        if (*p == '\0') return n;
        if (!split_word(p, &word[n++], &p)) return -1;
    }
}

/* "3 INCR n" runs three times. Returns how many words the number takes: 1 or 0; -1: a wrong one. */
static int repetition(int argc, const azredis_str *word, long *times) {
    char *end;
    errno = 0;
    *times = strtol(word[0].ptr, &end, 10);
    if (argc > 1 && *end == '\0') return errno || *times <= 0 ? -1 : 1;
    *times = 1;
    return 0;
}

/* Returns 0 if it is of no use to go on. */
static int run_words(int argc, const azredis_str *word) {
    uint64_t began = now_ms();
    long times;
    int skip, going = 1;
    if (strcasecmp(word[0].ptr, "quit") == 0 || strcasecmp(word[0].ptr, "exit") == 0) leave(app.status);
    skip = repetition(argc, word, &times);
    if (skip < 0) {
        puts("Invalid redis-cli repeat command option value.");
        note(USAGE);
        return 1;
    }
    while (going && times-- > 0) going = run_command(argc - skip, word + skip);
    if (app.format == FOR_PEOPLE && now_ms() - began >= 500) printf("(%.2fs)\n", (double)(now_ms() - began) / 1000);
    return going;
}

static int run_line(char *line, size_t n) {
    azredis_str *word = (azredis_str *)malloc((n / 2 + 1) * sizeof *word);  /* a word and a blank are two bytes */
    int argc, going = 1;
    if (!word) die(NO_REDIS, "out of memory");
    argc = split(line, word);
    if (argc < 0) {
        puts("Invalid argument(s)");
        note(USAGE);
    } else if (argc > 0) {
        going = run_words(argc, word);
    }
    free(word);
    flush();
    return going;
}

static void run_input(void) {
    int person = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    for (;;) {
        if (person) { printf("%.*s> ", (int)strcspn(app.settings, ","), app.settings); flush(); }
        n = getline(&line, &room, stdin);
        if (n < 0) break;
        if (!run_line(line, (size_t)n) && !person) break;       /* a person sees it and may try again */
    }
    free(line);
}

#include "azredis/verdict.h"
#include "azredis/doctor.h"

int main(int argc, char **argv) {
    int first;
    app.start = now_ms();
    stage = NO_TOKEN;
    handle(SIGPIPE, SIG_IGN);           /* a reader that has gone shows as EPIPE */
    first = read_options(argc, argv);
    if (app.timeout) start_timer();
    if (app.doctor) doctor();
    open_client(wanted_protocol(app.token ? NULL : argv[first]));
    if (app.token) print_token();
    connect_client();
    if (first < argc) run_arguments(argc - first, argv + first);
    else run_input();
    leave(app.status);
    return 0;
}
