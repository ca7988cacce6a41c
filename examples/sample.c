/* sample.c - the counterpart of the console sample of Microsoft.Azure.StackExchangeRedis.
 *
 *   cc -I. examples/sample.c -o sample -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
 *   ./sample                                                           asks what it needs
 *   ./sample --endpoint NAME.REGION.redis.azure.net --auth default     asks nothing
 *   AZREDIS_CONNECTION='rediss://NAME.REGION.redis.azure.net?auth=environment' ./sample     neither
 *
 * Signs in, then sets and gets a key ten times a second and prints "+" for each second in which all
 * of it succeeded. Leave it running for longer than a token lives: TokenRefreshed and
 * ConnectionReauthenticated appear, and the row of "+" goes on over the same connection.
 * With --pubsub it also publishes numbered messages and receives them, and tells at the end whether one is missing or
 * came twice: over RESP3 on the same connection, over RESP2 on a second one, which is replaced with each token.
 * With --production it has the options of a service instead of those that show every failure.
 * Exit status: 0 all went well, 1 something failed, 2 wrong flags.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE                     /* sigaction and termios, also under -std=c99 */
#endif
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define TICK_US 100000                  /* one SET and one GET in each */
#define NEAR_US 100000                  /* so close to a re-authentication a command is timed apart */
#define MESSAGES 5                      /* published in each tick */
#define LAST_US 5000000                 /* how long the last message is waited for */
#define EARLY 100                       /* commands that --production gives before there is a connection */
#define PRODUCTION_MS 30000             /* what such a caller can wait for */
#define KEPT 16384                      /* latencies are those of the last so many commands */

/* extra: asks which managed identity, sends the chain of a certificate */
static const struct { const char *title, *auth; int extra; } menu[] = {
    {"DefaultAzureCredential", "default", 0},
    {"User-assigned managed identity (client id, object id or resource id)", "managed-identity", 1},
    {"System-assigned managed identity", "managed-identity", 0},
    {"Service principal with a secret", "client-secret", 0},
    {"Service principal with a certificate", "client-certificate", 0},
    {"Service principal with a certificate, by subject name and issuer", "client-certificate", 1},
    {"Access key", "access-key", 0},
    {"Exit", NULL, 0}
};
enum { MENU_COUNT = sizeof menu / sizeof menu[0] };

struct settings {
    const char *endpoint, *auth, *title;                        /* endpoint: also a connection string or URL */
    char host[512], tenant[128], client[512], secret[2048], file[1024];    /* typed answers */
    int extra;                          /* as in the menu */
    long seconds;                       /* 0: until Ctrl-C */
    int protocol, production, verbose, pubsub;      /* protocol 0: what the connection string says, else 3 */
    azredis_auth_options identity;
};

struct run {
    azredis_client *cache;
    azredis_reply reply;
    char key[64];
    unsigned long long ok, failed, sets, gets;
    int early;                          /* answered ones of those that were given early */
    int connected, pairs, row;          /* pairs of this second; row: "+" on this line of output */
    char trouble[600];                  /* the last failure of this second; "": none */
    int64_t reauth_at;                  /* 0: none yet */
    azredis_sub *sub;                   /* NULL: without --pubsub */
    unsigned long long published, received, last, missing, twice, unheard;  /* unheard: nobody got it, says PUBLISH */
    struct { int64_t ended, us; int near; } kept[KEPT];     /* latencies, in a ring */
    size_t measured;
};

static struct termios terminal;         /* as it was before a secret was asked for */
static volatile sig_atomic_t stop;

static void on_stop(int sig) {
    (void)sig;
    stop = 1;
}

/* Ctrl-C while the terminal does not echo: put it back, then end as if there were no handler. */
static void on_stop_at_secret(int sig) {
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
    raise(sig);
}

static void on_signals(void (*handler)(int), unsigned flags) {
    struct sigaction how = {0};
    how.sa_handler = handler;
    how.sa_flags = (int)flags;
    sigaction(SIGINT, &how, NULL);
    sigaction(SIGTERM, &how, NULL);
}

static void wipe(void *p, size_t n) {
    volatile char *v = (volatile char *)p;
    while (n-- > 0) *v++ = 0;
}

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- questions ------------------------------------------------------------------------------- */
/* One line without outer blanks, "" if it does not fit; 0 at the end of the input. Read byte by byte,
 * so that no copy of a secret stays in a buffer of stdio. */
static int read_line(char *out, size_t cap) {
    size_t n = 0;
    char ch;
    for (;;) {
        ssize_t got = read(STDIN_FILENO, &ch, 1);
        if (got <= 0 && n == 0) return 0;
        if (got <= 0 || ch == '\n') break;
        if (n < cap && (n > 0 || (ch != ' ' && ch != '\t'))) out[n++] = ch;
    }
    if (n == cap) n = 0;
    while (n > 0 && strchr(" \t\r", out[n - 1]) != NULL) n--;
    out[n] = '\0';
    return 1;
}

/* Asks until there is an answer; 0 at the end of the input. For a secret the terminal stops echoing
 * before the question appears. */
static int ask(const char *question, char *out, size_t cap, int is_secret) {
    int got, hide = is_secret && tcgetattr(STDIN_FILENO, &terminal) == 0;
    do {
        if (hide) {
            struct termios silent = terminal;
            silent.c_lflag &= ~(tcflag_t)ECHO;
            on_signals(on_stop_at_secret, SA_RESETHAND);
            tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
        }
        printf("%s%s: ", question, is_secret ? " (not shown)" : "");
        got = read_line(out, cap);
        if (hide) {
            tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal);
            on_signals(SIG_DFL, 0);
            putchar('\n');
        }
        if (!got) printf("\nThe input ended before this was answered: %s.\n", question);
        else if (out[0] == '\0') puts("Nothing was entered, or too much. Ctrl-C leaves.");
    } while (got && out[0] == '\0');
    return got;
}

/* Shows the menu until an entry is chosen that works; 0: Exit, or the end of the input. */
static int choose(struct settings *s) {
    char answer[16];
    for (;;) {
        size_t i;
        puts("\nHow do you want to sign in to the Azure cache?");
        for (i = 0; i < MENU_COUNT; i++) printf("    %d. %s\n", (int)i + 1, menu[i].title);
        printf("Enter a number: ");
        if (!read_line(answer, sizeof answer)) {
            putchar('\n');
            return 0;
        }
        i = strlen(answer) == 1 && answer[0] > '0' ? (size_t)(answer[0] - '1') : MENU_COUNT;
        if (i >= MENU_COUNT) {
            printf("Please enter a number from 1 to %d.\n", MENU_COUNT);
            continue;
        }
        if (menu[i].auth == NULL) return 0;
        s->title = menu[i].title;
        s->extra = menu[i].extra;
        if (azredis_identity_by_name(menu[i].auth, &s->identity.identity) == AZREDIS_OK) return 1;
        printf("%s: %s.\n", s->title, azredis_identity_why(menu[i].auth));
    }
}

/* A resource id begins with "/"; "object:" before an object id tells it from a client id, which looks the same. */
static int ask_managed(struct settings *s) {
    azredis_auth_options *o = &s->identity;
    if (!ask("Client id, object:OBJECT_ID or resource id", s->client, sizeof s->client, 0)) return 0;
    if (s->client[0] == '/') o->resource_id = s->client;
    else if (strncmp(s->client, "object:", 7) == 0) o->object_id = s->client + 7;
    else o->client_id = s->client;
    return 1;
}

/* Its password, if it has one, is in AZURE_CLIENT_CERTIFICATE_PASSWORD. */
static int ask_certificate(struct settings *s) {
    azredis_auth_options *o = &s->identity;
    o->tenant_id = s->tenant;
    o->client_id = s->client;
    o->certificate_file = s->file;
    o->send_chain = s->extra;
    return ask("Tenant id", s->tenant, sizeof s->tenant, 0) &&
           ask("Application (client) id", s->client, sizeof s->client, 0) &&
           ask("File with certificate and key, PEM or PKCS#12", s->file, sizeof s->file, 0);
}

static int ask_identity(struct settings *s) {
    azredis_auth_options *o = &s->identity;
    if (o->identity == AZREDIS_ID_CLIENT_CERTIFICATE) return ask_certificate(s);
    if (s->extra) return ask_managed(s);
    if (o->identity == AZREDIS_ID_ACCESS_KEY) {
        o->password = s->secret;
        return ask("Access key", s->secret, sizeof s->secret, 1);
    }
    if (o->identity != AZREDIS_ID_CLIENT_SECRET) return 1;      /* default finds what it needs by itself */
    o->tenant_id = s->tenant;
    o->client_id = s->client;
    o->client_secret = s->secret;
    return ask("Tenant id", s->tenant, sizeof s->tenant, 0) &&
           ask("Application (client) id", s->client, sizeof s->client, 0) &&
           ask("Client secret", s->secret, sizeof s->secret, 1);
}

/* ---- flags ----------------------------------------------------------------------------------- */
static void usage(FILE *to) {
    fputs("usage: sample [--endpoint HOST[:PORT]] [--auth NAME] [--seconds N] [--protocol 2|3]\n"
          "              [--certificate FILE] [--send-chain] [--pubsub] [--production] [--verbose] [--help]\n"
          "Asks for what is not given. --pubsub publishes and receives numbered messages, too.\n"
          "--production has the options of a service: commands wait for a cache that is away or comes up later.\n"
          "HOST[:PORT] may be a connection string (host:port,auth=NAME,...) or URL (rediss://host?auth=NAME)\n"
          "without secrets. AZREDIS_CONNECTION in the environment takes its place, and may have secrets.\n"
          "NAME, and the environment variables it reads:\n"
          "  default, environment, client-secret: AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET\n"
          "  default, environment, client-certificate: AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_CERTIFICATE_PATH\n"
          "      or --certificate; AZURE_CLIENT_CERTIFICATE_PASSWORD AZURE_CLIENT_SEND_CERTIFICATE_CHAIN or --send-chain\n"
          "  default, workload-identity: AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_FEDERATED_TOKEN_FILE\n"
          "  default, managed-identity: what Azure sets on the machine; default also AZURE_CLIENT_ID\n"
          "  default, azure-cli, azure-developer-cli, azure-powershell: whoever has signed in to az, azd, pwsh\n"
          "  access-key: AZREDIS_ACCESS_KEY           password: AZREDIS_USER AZREDIS_PASSWORD\n", to);
}

/* Repeats nothing behind "=": it may be a secret. */
static int refuse(const char *what, const char *why, int with_usage) {
    fprintf(stderr, "%.*s: %s\n", (int)strcspn(what, "="), what, why);
    if (with_usage) usage(stderr);
    return 0;
}

static int from_env(const char **member, const char *name) {
    *member = getenv(name);
    if (*member != NULL && **member != '\0') return 1;
    return refuse(name, "this environment variable is needed and not set.", 0);
}

static int identity_by_flag(struct settings *s) {
    azredis_auth_options *o = &s->identity;
    s->title = s->auth;
    if (azredis_identity_by_name(s->auth, &o->identity) != AZREDIS_OK) {
        return refuse("--auth", azredis_identity_why(s->auth), 0);
    }
    if (o->identity == AZREDIS_ID_ACCESS_KEY) return from_env(&o->password, "AZREDIS_ACCESS_KEY");
    if (o->identity == AZREDIS_ID_PASSWORD) {
        return from_env(&o->user, "AZREDIS_USER") && from_env(&o->password, "AZREDIS_PASSWORD");
    }
    if (o->identity == AZREDIS_ID_CLIENT_CERTIFICATE) {
        return (o->certificate_file != NULL || from_env(&o->certificate_file, "AZURE_CLIENT_CERTIFICATE_PATH")) &&
               from_env(&o->tenant_id, "AZURE_TENANT_ID") && from_env(&o->client_id, "AZURE_CLIENT_ID");
    }
    return o->identity != AZREDIS_ID_CLIENT_SECRET || (from_env(&o->tenant_id, "AZURE_TENANT_ID") &&
           from_env(&o->client_id, "AZURE_CLIENT_ID") && from_env(&o->client_secret, "AZURE_CLIENT_SECRET"));
}

/* A connection string or URL that says more than an address also says how to sign in. */
static int says_more(const char *endpoint) {
    return endpoint != NULL && (strchr(endpoint, '=') != NULL || strstr(endpoint, "://") != NULL);
}

static int has_secret(const char *endpoint) {
    azredis_options o = {0};
    char text[2048];
    o.config = endpoint;
    azredis_describe(&o, text, sizeof text);    /* shows secrets as stars */
    return strstr(text, "=***") != NULL;
}

/* Secrets come from the environment: a command line can be read by every user of the machine. */
static int read_flags(struct settings *s, int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        char *end = NULL;
        if (strstr(flag, "secret") || strstr(flag, "pass") || strstr(flag, "key") || strstr(flag, "token")) {
            return refuse(flag, "secrets are not taken from the command line; use the environment.", 0);
        }
        if (strcmp(flag, "--help") == 0) { usage(stdout); exit(0); }
        if (strcmp(flag, "--verbose") == 0) { s->verbose = 1; continue; }
        if (strcmp(flag, "--production") == 0) { s->production = 1; continue; }
        if (strcmp(flag, "--pubsub") == 0) { s->pubsub = 1; continue; }
        if (strcmp(flag, "--send-chain") == 0) { s->identity.send_chain = 1; continue; }
        if (strcmp(flag, "--auth") == 0) s->auth = value;
        else if (strcmp(flag, "--certificate") == 0) s->identity.certificate_file = value;
        else if (strcmp(flag, "--endpoint") == 0) s->endpoint = value;
        else if (strcmp(flag, "--seconds") == 0) s->seconds = strtol(value, &end, 10);
        else if (strcmp(flag, "--protocol") == 0) s->protocol = (int)strtol(value, &end, 10);
        else return refuse(flag, "no such flag.", 1);
        if (*value == '\0' || (end != NULL && *end != '\0')) return refuse(flag, "not with this value.", 1);
        if (s->seconds < 0 || s->protocol < 0 || s->protocol == 1 || s->protocol > 3) {
            return refuse(flag, "out of range.", 1);
        }
        if (s->endpoint == value && has_secret(value)) {
            return refuse(flag, "secrets are not taken from the command line; use AZREDIS_CONNECTION.", 0);
        }
        i++;
    }
    return s->auth == NULL || identity_by_flag(s);
}

/* ---- events ---------------------------------------------------------------------------------- */
static void end_row(struct run *run) {
    if (run->row > 0) putchar('\n');
    run->row = 0;
}

static void print_time(const char *what, int64_t ms) {
    if (ms != AZREDIS_UNKNOWN) printf(" %s=%.1fs", what, (double)ms / 1000);
}

static void on_event(const azredis_event *ev, void *user) {
    struct run *run = (struct run *)user;
    size_t i;
    end_row(run);
    if (ev->type == AZREDIS_EV_DEVICE_CODE) {   /* for the person who signs in */
        fprintf(stderr, "%s\n", ev->text);
        return;
    }
    printf("%s:", azredis_event_name(ev->type));
    if (ev->type == AZREDIS_EV_LOG) {   /* only asked for by --verbose */
        printf(" %d %s", ev->number, ev->text);
    } else {
        if (ev->endpoint != NULL) printf(" %s", ev->endpoint);
        print_time("old_left", ev->old_left_ms);
        print_time("new_left", ev->new_left_ms);
        print_time("next_try", ev->next_try_ms);
        /* The error that ends the first connection is printed once, by main. */
        if (ev->error != NULL && run->connected) printf(" %s", ev->error->message);
    }
    putchar('\n');
    if (ev->type != AZREDIS_EV_CONNECTION_REAUTHENTICATED) return;
    run->reauth_at = now_us();
    for (i = 0; i < KEPT; i++) {
        if (run->kept[i].ended > run->reauth_at - NEAR_US) run->kept[i].near = 1;
    }
}

/* ---- commands -------------------------------------------------------------------------------- */
/* Notes how a command ended. Nothing that failed is repeated, so that every drop is seen. A program that
 * does repeat looks at reply.fate first: what was NOT_SENT certainly did not run. */
static int ended(struct run *run, const char *command, int64_t began, azredis_status status,
                 const char *expected) {
    const char *got = azredis_text(run->reply.value).ptr, *why = NULL;
    size_t i = run->measured % KEPT;
    if (status != AZREDIS_OK) why = run->reply.error->message;
    else if (expected && (!got || strcmp(got, expected) != 0)) why = "not the expected answer.";
    if (why != NULL) {
        run->failed++;
        snprintf(run->trouble, sizeof run->trouble, "%s: %s", command, why);
        return 0;
    }
    run->ok++;
    run->measured++;
    run->kept[i].ended = now_us();
    run->kept[i].us = run->kept[i].ended - began;
    run->kept[i].near = run->reauth_at != 0 && began - run->reauth_at < NEAR_US;
    return 1;
}

static void set_and_get(struct run *run) {
    char value[24];
    int was_set;
    int64_t began = now_us();
    azredis_status st;
    snprintf(value, sizeof value, "%llu", ++run->sets);
    st = azredis_command(run->cache, &run->reply, "SET", run->key, value, "EX", "60");
    was_set = ended(run, "SET", began, st, "OK");
    began = now_us();
    run->gets++;
    st = azredis_command(run->cache, &run->reply, "GET", run->key);
    ended(run, "GET", began, st, was_set ? value : NULL);
    run->pairs++;
}

static int64_t client_id(struct run *run) {
    int64_t id = 0, began = now_us();
    azredis_status st = azredis_command(run->cache, &run->reply, "CLIENT", "ID");
    if (ended(run, "CLIENT ID", began, st, NULL)) azredis_int(run->reply.value, &id);
    return id;
}

/* Each message is the next number. */
static void on_message(azredis_client *c, const azredis_message *m, void *user) {
    struct run *run = (struct run *)user;
    unsigned long long number = strtoull(m->payload.ptr, NULL, 10);
    (void)c;
    run->received++;
    if (number <= run->last) {
        run->twice++;
        return;
    }
    run->missing += number - run->last - 1;
    run->last = number;
}

static int subscribe(struct run *run, azredis_error *why) {
    run->sub = azredis_subscribe(run->cache, AZREDIS_CHANNEL, run->key, on_message, run);
    return azredis_subscribed(run->sub, 60000, why) == AZREDIS_OK;
}

/* PUBLISH answers how many subscriptions got the message. */
static void publish(struct run *run) {
    int i;
    for (i = 0; i < MESSAGES; i++) {
        char number[24];
        int64_t receivers = 0, began = now_us();
        azredis_status st;
        snprintf(number, sizeof number, "%llu", ++run->published);
        st = azredis_command(run->cache, &run->reply, "PUBLISH", run->key, number);
        if (!ended(run, "PUBLISH", began, st, NULL)) continue;
        azredis_int(run->reply.value, &receivers);
        run->unheard += receivers < 1;
    }
}

static void await_last_message(struct run *run) {
    int64_t until = now_us() + LAST_US;
    while (run->last < run->published && now_us() < until) azredis_wait(run->cache, 10);
    run->missing += run->published - run->last;
}

/* Commands need no connection to be given: they wait for it, up to their time, and are sent in order. */
static void on_early(azredis_client *c, const azredis_reply *lent, void *user) {
    struct run *run = (struct run *)user;
    int64_t number;
    (void)c;
    if (lent->status == AZREDIS_OK && azredis_int(lent->value, &number) == AZREDIS_OK && number == run->early + 1) run->early++;
    else run->failed++;
}

static void give_early(struct run *run) {
    int i;
    for (i = 1; i <= EARLY; i++) {
        char number[12];
        azredis_str echo[2] = {{"ECHO", 4}, {number, 0}};
        echo[1].len = (size_t)snprintf(number, sizeof number, "%d", i);
        if (azredis_submit(run->cache, NULL, 2, echo, on_early, run) != AZREDIS_OK) run->failed++;
    }
}

static void report_second(struct run *run) {
    if (run->trouble[0] != '\0') {
        end_row(run);
        puts(run->trouble);
        run->trouble[0] = '\0';
    } else if (run->pairs > 0) {
        putchar('+');
        run->row++;
    }
    run->pairs = 0;
}

static void run_commands(struct run *run, long seconds) {
    int64_t start = now_us(), due = start, second = 0, now;
    while (!stop && (seconds == 0 || second < seconds)) {
        set_and_get(run);
        if (run->sub != NULL) publish(run);
        now = now_us();
        due = due + TICK_US > now ? due + TICK_US : now;
        /* Idle time belongs to the library: tokens are renewed and the connection is kept alive in it. */
        azredis_wait(run->cache, (uint32_t)((due - now) / 1000 + 1));
        now = now_us();
        if ((now - start) / 1000000 > second) {
            second = (now - start) / 1000000;
            report_second(run);
        }
    }
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_summary(struct run *run, int64_t first_id, int64_t last_id) {
    static int64_t far[KEPT];
    size_t i, n = 0;
    long long near_max = 0;
    azredis_stats_data st;
    azredis_stats(run->cache, &st);
    for (i = 0; i < KEPT && i < run->measured; i++) {
        if (!run->kept[i].near) far[n++] = run->kept[i].us;
        else if (run->kept[i].us > near_max) near_max = run->kept[i].us;
    }
    qsort(far, n, sizeof far[0], by_size);
    end_row(run);
    printf("%llu commands ok, %llu failed, %u tokens, %u re-authentications, %u reconnects\n", run->ok,
           run->failed, st.tokens, st.reauths, st.reconnects);
    if (run->sub != NULL) {
        printf("%llu messages published, %llu received, %llu missing, %llu twice; %u handovers\n", run->published,
               run->received, run->missing, run->twice, st.handovers);
    }
    printf("summary commands_ok=%llu commands_failed=%llu sets=%llu gets=%llu tokens=%u reauths=%u "
           "reconnects=%u client_id_first=%lld client_id_last=%lld latency_median_us=%lld "
           "latency_near_reauth_max_us=%lld", run->ok, run->failed, run->sets, run->gets, st.tokens,
           st.reauths, st.reconnects, (long long)first_id, (long long)last_id,
           n > 0 ? (long long)far[n / 2] : 0, near_max);
    if (run->sub != NULL) {
        printf(" published=%llu received=%llu missing=%llu twice=%llu unheard=%llu handovers=%u connects=%u",
               run->published, run->received, run->missing, run->twice, run->unheard, st.handovers, st.connects);
    }
    putchar('\n');
}

int main(int argc, char **argv) {
    static struct settings the_settings, *s = &the_settings;
    static struct run the_run, *run = &the_run;
    azredis_options o = {0};
    azredis_error why = {0};
    char where[2048];
    int64_t first_id, last_id;

    setvbuf(stdout, NULL, _IONBF, 0);   /* what is printed is seen at once */
    if (!read_flags(s, argc, argv)) return 2;
    if (s->endpoint == NULL) s->endpoint = getenv("AZREDIS_CONNECTION");
    if (s->endpoint != NULL && *s->endpoint == '\0') s->endpoint = NULL;
    if (s->auth == NULL && says_more(s->endpoint)) s->auth = s->title = "what the connection string says";
    if (s->auth == NULL && !choose(s)) return 0;
    if (s->endpoint == NULL) {
        s->endpoint = s->host;
        if (!ask("Redis endpoint, HOST or HOST:PORT", s->host, sizeof s->host, 0)) return 1;
    }
    if (s->auth == NULL && !ask_identity(s)) return 1;
    o.config = s->endpoint;             /* without a port, the host's suffix tells which one */
    o.identity = &s->identity;
    o.protocol = s->protocol;
    o.client_name = "AzRedisSample";
    o.on_event = on_event;
    o.event_user = run;
    o.log_level = s->verbose ? AZREDIS_LOG_DEBUG : AZREDIS_LOG_NONE;
    o.abort_on_connect_fail = !s->production;   /* these two show every failure; in production leave them 0, */
    o.fail_fast = !s->production;               /* then commands wait while the connection comes back */
    if (s->production) o.command_ms = PRODUCTION_MS;
    run->cache = azredis_open(&o);
    azredis_describe(&o, where, sizeof where);
    wipe(s->secret, sizeof s->secret);  /* the library has its own copy, and wipes it when closed */
    if (s->endpoint == s->host) wipe(s->host, sizeof s->host);

    printf("Connecting to %s with %s...\n", where, s->title);
    if (s->production) {
        run->connected = 1;             /* trouble is told as it comes: it does not end the client */
        give_early(run);
    }
    /* A person who signs in has as long as the code lives. */
    if (azredis_connect(run->cache, s->identity.identity == AZREDIS_ID_DEVICE_CODE ? 900000 : 60000, &why) != AZREDIS_OK) {
        azredis_close(run->cache);
        fprintf(stderr, "Cannot connect: %s\n", why.message);
        return 1;
    }
    run->connected = 1;
    on_signals(on_stop, 0);
    puts("Connected. Ctrl-C ends.");
    while (s->production && run->early + run->failed < EARLY && !stop) azredis_wait(run->cache, 100);
    if (s->production) printf("%d of %d commands that waited for the connection were answered in order.\n", run->early, EARLY);

    first_id = client_id(run);
    snprintf(run->key, sizeof run->key, "azredis:sample:%lld:%ld", (long long)first_id, (long)getpid());
    if (s->pubsub && !subscribe(run, &why)) {
        azredis_close(run->cache);
        fprintf(stderr, "Cannot subscribe: %s\n", why.message);
        return 1;
    }
    run_commands(run, s->seconds);
    if (run->sub != NULL) await_last_message(run);
    last_id = client_id(run);
    if (run->trouble[0] != '\0') report_second(run);
    print_summary(run, first_id, last_id);
    azredis_reply_free(&run->reply);
    azredis_close(run->cache);
    return run->failed + run->missing + run->twice + run->unheard > 0;
}
