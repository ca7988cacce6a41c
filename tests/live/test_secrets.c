/* Secret scan. A child process connects, runs commands, renews twice, fails in ways that provoke errors, and closes.
 * This process knows the secrets and looks for any 16 bytes of one of them, in six forms, in every byte that came
 * out of the child (stdout, stderr, its log at level trace, every member of every event and error), in the argv and
 * environment of the child and its children, and, when all is closed, in its whole writable memory. The child gets
 * secrets masked through a pipe, unmasks them where the library takes them, and wipes that place at once.
 *   test_secrets [TEST]      a cmocka filter, for secrets_leak.sh, which shows that the scan can fail */
#define _GNU_SOURCE
#include "azredis_entra.h"
#include <ctype.h>
#include <dirent.h>
#include <malloc.h>
#include <openssl/core_names.h>
#include <openssl/pem.h>
#include "live.h"
#include "hostile.h"

#define PIECE 16                        /* bytes of a secret that must be nowhere */
#define MASK 0xa7

/* ---- the scanner ----------------------------------------------------------------------------- */

/* One secret in one form: any `window` characters in a row betray it. */
typedef struct form { const char *secret, *how; char *text; size_t len, window; } form;

#define FORMS 600
static form forms[FORMS];
static size_t form_count;

/* Every 8 bytes of every form by their hash: 16 bytes in a row hold one such group at a multiple of 8. */
#define SLOTS (1u << 20)
static struct { uint64_t bytes; uint32_t at; uint16_t form, used; } *slots;
static char *leak;                      /* what was found, for messages; NULL: nothing */

static void slot_add(size_t f, size_t at) {
    uint64_t v;
    uint32_t i;
    memcpy(&v, forms[f].text + at, 8);
    for (i = (uint32_t)((v * 0x9e3779b97f4a7c15ull) >> 44); slots[i].used; i = (i + 1) % SLOTS) {
    }
    slots[i].bytes = v;
    slots[i].at = (uint32_t)at;
    slots[i].form = (uint16_t)f;
    slots[i].used = 1;
}

static void form_add(const char *secret, const char *how, const char *text, size_t len, size_t window) {
    size_t i;
    if (len < window)
        return;
    for (i = 0; i < form_count; i++)
        if (forms[i].len == len && forms[i].window == window && !memcmp(forms[i].text, text, len))
            return;                     /* a token has no character that percent or JSON would change */
    if (form_count == FORMS)
        fail_msg("more forms than were thought of");
    forms[form_count].secret = secret;
    forms[form_count].how = how;
    forms[form_count].text = malloc(len);
    forms[form_count].len = len;
    forms[form_count].window = window;
    memcpy(forms[form_count].text, text, len);
    for (i = 0; i + 8 <= len; i++) slot_add(form_count, i);
    form_count++;
}

static size_t base64(char *out, const unsigned char *p, size_t n, int url) {
    size_t k = (size_t)EVP_EncodeBlock((unsigned char *)out, p, (int)n), i;
    for (i = 0; url && i < k; i++) out[i] = out[i] == '+' ? '-' : out[i] == '/' ? '_' : out[i];
    return k;
}

/* Of each form as much is a betrayal as 16 bytes of the secret make at least. */
static void secret_add(const char *name, const char *secret) {
    static char t[200000];
    const unsigned char *p = (const unsigned char *)secret;
    size_t n = strlen(secret), i, k;
    int v;
    form_add(name, "raw", secret, n, PIECE);
    for (v = 0; v < 6; v++) {           /* three alignments, two alphabets; the last group depends on what follows */
        size_t from = (size_t)v % 3, whole = (n - from) / 3 * 3;
        k = base64(t, p + from, whole, v > 2);
        form_add(name, v > 2 ? "base64url" : "base64", t, k, 20);
    }
    for (v = 0; v < 2; v++) {
        for (i = k = 0; i < n; i++) k += (size_t)sprintf(t + k, v ? "%02X" : "%02x", p[i]);
        form_add(name, "hex", t, k, 2 * PIECE);
        for (i = k = 0; i < n; i++)     /* what RFC 3986 leaves as it is stays */
            k += (size_t)sprintf(t + k, strchr("-._~", p[i]) || isalnum(p[i]) ? "%c" : v ? "%%%02X" : "%%%02x", p[i]);
        form_add(name, "percent", t, k, PIECE);
        for (i = k = 0; i < n; i++) k += (size_t)sprintf(t + k, isalnum(p[i]) ? "%c" : v ? "%%%02X" : "%%%02x", p[i]);
        form_add(name, "percent", t, k, PIECE);
        for (i = k = 0; i < n; i++) k += (size_t)sprintf(t + k, v ? "%%%02X" : "%%%02x", p[i]);
        form_add(name, "percent, all", t, k, 3 * PIECE);
        for (i = k = 0; i < n; i++) k += (size_t)sprintf(t + k, v ? "\\u%04X" : "\\u%04x", p[i]);
        form_add(name, "JSON, all", t, k, 6 * PIECE);
    }
    for (v = 0; v < 2; v++) {
        for (i = k = 0; i < n; i++)
            k += (size_t)sprintf(t + k, strchr("\"\\", p[i]) || (v && p[i] == '/') ? "\\%c" : "%c", p[i]);
        form_add(name, "JSON", t, k, PIECE);
    }
}

static void forget_secrets(void) {
    while (form_count) free(forms[--form_count].text);
    memset(slots, 0, SLOTS * sizeof *slots);
    free(leak);
    leak = NULL;
}

/* Tells of a find; the first counts. */
static void found(const form *f, size_t at, size_t len, const char *where, const unsigned char *p, size_t i) {
    if (leak)
        return;
    if (asprintf(&leak, "%d characters of %s (%s, from %d on) in %s at %d: \"%.*s\"", (int)len, f->secret, f->how, (int)at,
                 where, (int)i, (int)(len < 24 ? len : 24), (const char *)p + i) < 0)
        abort();
}

static void scan(const char *where, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    size_t i;
    for (i = 0; i + 8 <= n && !leak; i += 8) {
        uint64_t v;
        uint32_t s;
        memcpy(&v, p + i, 8);
        for (s = (uint32_t)((v * 0x9e3779b97f4a7c15ull) >> 44); slots[s].used; s = (s + 1) % SLOTS) {
            const form *f = &forms[slots[s].form];
            size_t at = slots[s].at, left = 0, right = 8;
            if (slots[s].bytes != v)
                continue;
            while (left < at && left < i && f->text[at - left - 1] == (char)p[i - left - 1]) left++;
            while (at + right < f->len && i + right < n && f->text[at + right] == (char)p[i + right]) right++;
            if (left + right >= f->window)
                found(f, at - left, left + right, where, p, i - left);
        }
    }
}

/* Files of /proc and the log. */
static void scan_file(const char *path, const char *where) {
    size_t n = 0, room = 1 << 16;
    char *text = malloc(room);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t k;
    while (fd >= 0 && (k = read(fd, text + n, room - n)) > 0)
        if ((n += (size_t)k) == room)
            text = realloc(text, room *= 2);
    if (fd >= 0)
        close(fd);
    scan(where, text, n);
    free(text);
}

static size_t scan_memory(pid_t pid) {
    char path[64], line[600], where[700];
    FILE *maps;
    size_t total = 0;
    int mem;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    maps = fopen(path, "re");
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    mem = open(path, O_RDONLY | O_CLOEXEC);
    if (!maps || mem < 0)
        fail_msg("the child's memory cannot be read: %s", strerror(errno));
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char mode[8], *block, *name = strchr(line, '/');
        ssize_t n;
        if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[1] != 'w')
            continue;
        line[strcspn(line, "\n")] = 0;
        if (to - from > (1ul << 28))    /* a sanitizer's shadow: terabytes that nobody has */
            continue;
        if (!(block = malloc(to - from)))
            fail_msg("out of memory");
        n = pread(mem, block, to - from, (off_t)from);
        if (!name)
            name = strchr(line, '[');
        snprintf(where, sizeof where, "memory at %lx (%.40s)", from, name ? name : "anonymous");
        if (n > 0)
            scan(where, block, (size_t)n);
        total += n > 0 ? (size_t)n : 0;
        free(block);
    }
    fclose(maps);
    close(mem);
    return total;
}

/* argv and environment of a process and of its children. */
static void scan_arguments(pid_t pid) {
    char path[300], line[4096], where[64];
    DIR *d;
    struct dirent *e;
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    snprintf(where, sizeof where, "argv of process %d", (int)pid);
    scan_file(path, where);
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    snprintf(where, sizeof where, "environment of process %d", (int)pid);
    scan_file(path, where);
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    for (d = opendir(path); d && (e = readdir(d));) {
        FILE *f;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)pid, e->d_name);
        f = e->d_name[0] != '.' ? fopen(path, "re") : NULL;
        if (f && fgets(line, sizeof line, f)) {
            char *rest = line, *one;
            while ((one = strsep(&rest, " \n")))
                if (*one)
                    scan_arguments((pid_t)atoi(one));
        }
        if (f)
            fclose(f);
    }
    if (d)
        closedir(d);
}

/* ---- the child ------------------------------------------------------------------------------- */

/* Descriptors that the child inherits: orders come in at 3; bytes for the scan go out at 4, answers at 5. */
enum { ORDERS = 3, OUTPUT = 4, ANSWERS = 5 };

typedef struct order {                  /* everything that the child needs; strings that are secret are masked */
    int  kind, tokens, port, wait_ms;
    char endpoint[64], authority[64], ca_file[200], log[200], user[64], tenant[40], client[40];
    unsigned char secret[128];          /* masked, with a masked NUL */
    int  secret_len;
    char pem[4096], certificate[200];
} order;

enum { BY_SECRET, BY_KEY, BY_PASSWORD, BY_CALLBACK, BY_CERTIFICATE, LINGER };

static order task;                      /* the child's */
static int refreshed;

static void child_out(const void *p, size_t n) {
    const char *b = p;
    ssize_t k;
    while (n && (k = write(OUTPUT, b, n)) > 0) {
        b += k;
        n -= (size_t)k;
    }
}

static void child_say(const char *z) {
    if (z)
        child_out(z, strlen(z) + 1);
}

static void child_error(const azredis_error *e) {
    if (!e)
        return;
    child_say(e->where);
    child_out(e, sizeof *e);            /* all of it, also what is behind a NUL */
}

static FILE *child_log;

static void child_event(const azredis_event *ev, void *user) {
    (void)user;
    refreshed += ev->type == AZREDIS_EV_TOKEN_REFRESHED;
    child_say(azredis_event_name(ev->type));
    child_say(ev->endpoint);
    child_say(ev->text);
    child_error(ev->error);
    azredis_print_event(ev, child_log);
    azredis_print_event(ev, NULL);      /* and to stderr */
}

/* The auth's own handler hears of the same tokens once more. */
static void child_note(const azredis_event *ev, void *user) {
    int before = refreshed;
    child_event(ev, user);
    refreshed = before;
}

/* Unmasks into the place that the library is to read; never through a buffer of libc's. */
static void unmask(volatile char *to, const unsigned char *from, int n) {
    int i;
    for (i = 0; i < n; i++) to[i] = (char)(from[i] ^ MASK);
}

static void wipe(volatile char *p, size_t n) {
    while (n) p[--n] = 0;
}

/* The token of the callback, byte by byte from the parent, who makes it. */
static azredis_status child_token(void *user, const char *scope, azredis_fetched *out) {
    unsigned char masked;
    int n;
    (void)user;
    (void)scope;
    if (write(ANSWERS, "?", 1) != 1 || read(ORDERS, &n, sizeof n) != (ssize_t)sizeof n)
        return AZREDIS_E_NET;
    for (out->len = 0; n--; out->len++) {
        if (read(ORDERS, &masked, 1) != 1)
            return AZREDIS_E_NET;
        unmask((volatile char *)out->token + out->len, &masked, 1);
    }
    snprintf(out->reason, sizeof out->reason, "none");
    if (read(ORDERS, &out->expires_in, sizeof out->expires_in) != (ssize_t)sizeof out->expires_in)
        return AZREDIS_E_NET;
    return out->len ? AZREDIS_OK : AZREDIS_E_STATE;
}

/* The live token to the parent, straight from the library's copy. */
static void child_show_token(azredis_auth *a) {
    azredis_token t;
    azredis_error e;
    size_t at = 0;
    int n;
    memset(&e, 0, sizeof e);
    if (azredis_auth_token(a, &t, 1000, &e) != AZREDIS_OK) {
        child_error(&e);
        return;
    }
    n = (int)t.jwt_len;
    (void)!write(ANSWERS, "t", 1);
    (void)!write(ANSWERS, &n, sizeof n);
    while (at < t.jwt_len) {
        ssize_t k = write(ANSWERS, t.jwt + at, t.jwt_len - at);
        if (k <= 0)
            break;
        at += (size_t)k;
    }
    azredis_token_wipe(&t);
}

static void child_command(azredis_client *c, azredis_reply *r, const char *a, const char *b) {
    azredis_str argv[3] = {{a, strlen(a)}, {b, b ? strlen(b) : 0}, {"value", 5}};
    (void)azredis_command_argv(c, r, NULL, !b ? 1 : !strcmp(a, "SET") ? 3 : 2, argv);
    child_error(r->error);
    if (r->value && azredis_text(r->value).ptr)
        child_out(azredis_text(r->value).ptr, azredis_text(r->value).len);
}

static azredis_auth *child_auth(const azredis_options *o) {
    azredis_auth_options id;
    char *secret = malloc(sizeof task.secret);
    azredis_auth *a;
    memset(&id, 0, sizeof id);
    unmask(secret, task.secret, task.secret_len);
    id.identity = task.kind == BY_SECRET ? AZREDIS_ID_CLIENT_SECRET : task.kind == BY_KEY ? AZREDIS_ID_ACCESS_KEY
                : task.kind == BY_PASSWORD ? AZREDIS_ID_PASSWORD
                : task.kind == BY_CERTIFICATE ? AZREDIS_ID_CLIENT_CERTIFICATE : AZREDIS_ID_CALLBACK;
    id.tenant_id = task.tenant;
    id.client_id = task.client;
    id.client_secret = task.kind == BY_SECRET ? secret : NULL;
    id.password = task.kind == BY_KEY || task.kind == BY_PASSWORD ? secret : NULL;
    id.certificate_file = task.kind == BY_CERTIFICATE ? task.certificate : NULL;
    id.certificate_password = task.kind == BY_CERTIFICATE ? secret : NULL;
    id.user = task.user[0] ? task.user : NULL;
    id.authority_host = task.authority[0] ? task.authority : NULL;
    id.get_token = child_token;
    id.ca_file = o->ca_file;
    id.ca = task.pem[0] ? task.pem : NULL;
    id.ca_len = strlen(task.pem) + 1;
    id.chain_ms = id.request_ms = task.tokens ? 0 : 500;
    id.log_level = AZREDIS_LOG_TRACE;
    id.on_event = child_note;
    a = azredis_auth_open(&id);
    wipe(secret, sizeof task.secret);
    free(secret);
    return a;
}

/* Connects, runs commands until so many tokens were had, tells everything, closes everything. */
static void child_session(void) {
    azredis_options o;
    azredis_client *c;
    azredis_auth *a;
    azredis_reply r;
    azredis_error e;
    azredis_link_record rec;
    azredis_stats_data d;
    azredis_token t;
    int shown = 0;
    size_t i;
    int64_t until = live_ms() + task.wait_ms;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    memset(&e, 0, sizeof e);
    o.host = task.endpoint;
    o.ca_file = task.ca_file;
    o.command_ms = task.tokens || task.kind != BY_SECRET ? 0 : 100;
    o.abort_on_connect_fail = task.tokens == 0;
    o.connect_retry = 1;
    o.log_level = AZREDIS_LOG_TRACE;
    o.on_event = child_event;
    a = child_auth(&o);
    o.auth = a;
    c = azredis_open(&o);
    refreshed = 0;
    if (azredis_connect(c, (uint32_t)task.wait_ms, &e) != AZREDIS_OK)
        child_error(&e);
    do {
        child_command(c, &r, "SET", "key");
        if (!refreshed && (task.kind == BY_SECRET || task.kind == BY_CERTIFICATE))
            break;                      /* it does not get better */
        child_command(c, &r, "GET", "key");
        child_command(c, &r, "NOSUCH", "command");
        child_command(c, &r, "INCR", "key");
        child_command(c, &r, "ACL", "WHOAMI");
        (void)azredis_wait(c, 20);
        for (; shown < refreshed; shown++) child_show_token(a);
    } while (shown < task.tokens && live_ms() < until);
    child_command(c, &r, "CLIENT", "LIST");
    child_command(c, &r, "ACL", "LOG");
    for (i = 0; azredis_auth_record(a, i, &rec) == AZREDIS_OK; i++) child_out(&rec, sizeof rec);
    azredis_stats(c, &d);
    child_out(&d, sizeof d);
    if (azredis_auth_token(a, &t, 0, &e) != AZREDIS_OK)
        child_error(&e);                /* AGAIN tells why there is none yet */
    azredis_token_wipe(&t);
    azredis_reply_free(&r);
    azredis_close(c);
    azredis_auth_release(a);
}

static char *volatile lingering;                /* so that it is no leak of memory */

/* What the parent sends, left in the heap: the scan must see it. */
static void child_linger(void) {
    char *p = malloc(4000);
    if (p)
        unmask(p + 3, task.secret, task.secret_len);
    lingering = p;
}

static int child_main(void) {
    for (;;) {
        size_t n = 0;
        ssize_t k;
        int done = 0;
        while (n < sizeof task && (k = read(ORDERS, (char *)&task + n, sizeof task - n)) > 0) n += (size_t)k;
        if (n < sizeof task)
            return 0;
        child_log = fopen(task.log, "ae");
        if (task.kind == LINGER)
            child_linger();
        else
            child_session();
        fclose(child_log);
        fflush(NULL);
        (void)!write(ANSWERS, "d", 1);
        (void)!write(ANSWERS, &done, sizeof done);
    }
}

/* ---- the parent ------------------------------------------------------------------------------ */

static live em;
static hostile echo;
static char *self;
static struct { pid_t pid; int orders, answers, output, std; } child;
static char *tokens[16];
static int token_count;
static size_t output_bytes;
static char log_path[128];

static void child_start(void) {
    char *argv[] = {self, (char *)"--child", NULL}, *env[5];
    const char *keep[] = {"ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"};
    int orders[2], answers[2], output[2], std[2], i, n = 0;
    /* The dynamic linker, when it looks a function up at its first call, saves the vector registers on the stack, and
     * a new thread inherits them: 64 bytes of what memcpy copied last. That is libc's, and none of it with BIND_NOW. */
    env[n++] = strdup("LD_BIND_NOW=1");
    for (i = 0; i < 3; i++) {
        env[n] = NULL;
        if (getenv(keep[i]) && asprintf(&env[n], "%s=%s", keep[i], getenv(keep[i])) > 0)
            n++;
    }
    env[n] = NULL;
    assert_true(!pipe2(orders, O_CLOEXEC) && !pipe2(answers, O_CLOEXEC));
    assert_true(!pipe2(output, O_CLOEXEC) && !pipe2(std, O_CLOEXEC));
    fflush(NULL);
    child.pid = fork();
    if (child.pid == 0) {
        int from[] = {std[1], std[1], orders[0], output[1], answers[1]}, to[] = {1, 2, ORDERS, OUTPUT, ANSWERS};
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (i = 0; i < 5; i++) from[i] = fcntl(from[i], F_DUPFD, 64);
        for (i = 0; i < 5; i++) dup2(from[i], to[i]);
        for (i = 6; i < 128; i++) close(i);
        execve(self, argv, env);
        _exit(127);
    }
    while (n) free(env[--n]);
    close(orders[0]);
    close(answers[1]);
    close(output[1]);
    close(std[1]);
    child.orders = orders[1];
    child.answers = answers[0];
    child.output = output[0];
    child.std = std[0];
}

static void child_stop(void) {
    int status;
    if (!child.pid)
        return;
    close(child.orders);
    waitpid(child.pid, &status, 0);
    close(child.answers);
    close(child.output);
    close(child.std);
    child.pid = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("the child ended with status 0x%x", (unsigned)status);
}

/* What the child said in one go, and what it said before: a piece may come in two. */
typedef struct stream { char *text; size_t n, room; int fd; const char *name; } stream;

static int stream_read(stream *s) {
    ssize_t k;
    if (s->room - s->n < 65536 && !(s->text = realloc(s->text, s->room += 1 << 20)))
        fail_msg("out of memory");
    k = read(s->fd, s->text + s->n, 65536);
    if (k > 0)
        s->n += (size_t)k;
    return k > 0;
}

static void read_all(int fd, void *p, size_t n) {
    char *b = p;
    while (n) {
        ssize_t k = read(fd, b, n);
        if (k <= 0)
            fail_msg("the child has gone");
        b += k;
        n -= (size_t)k;
    }
}

/* A token that the emulator mints on the side, for the callback. */
static char *mint(int *life) {
    json_t *all = live_json(&em, "GET", "/token", "");
    const char *keys[] = {"access_token", "token"};
    const char *text = NULL;
    char *copy;
    size_t i;
    for (i = 0; i < 2 && !text; i++) text = json_string_value(json_object_get(all, keys[i]));
    if (!text)
        fail_msg("the emulator mints no token");
    copy = strdup(text);
    *life = (int)json_integer_value(json_object_get(all, "expires_in"));
    json_decref(all);
    return copy;
}

static void keep_token(char *t) {
    int i;
    for (i = 0; i < token_count; i++)
        if (!strcmp(tokens[i], t)) {
            free(t);
            return;
        }
    if (token_count == 16)
        fail_msg("more tokens than were thought of");
    tokens[token_count++] = t;
}

static void answer_callback(void) {
    int life = 2, n, i;
    char *t = mint(&life);
    unsigned char masked;
    n = (int)strlen(t);
    (void)!write(child.orders, &n, sizeof n);
    for (i = 0; i < n; i++) {
        masked = (unsigned char)(t[i] ^ MASK);
        (void)!write(child.orders, &masked, 1);
    }
    (void)!write(child.orders, &life, sizeof life);
    keep_token(t);
}

/* Runs one order; collects what comes out; looks at the arguments of all its processes all the while. */
static void run(const order *o, stream *output, stream *std) {
    int64_t until = live_ms() + 60000;
    int done = 0;
    if (!child.pid)
        child_start();
    output->fd = child.output;
    std->fd = child.std;
    if (write(child.orders, o, sizeof *o) != (ssize_t)sizeof *o)
        fail_msg("the child takes no order");
    while (!done || output->n == 0) {
        struct pollfd p[3] = {{.fd = child.answers, .events = POLLIN}, {.fd = child.output, .events = POLLIN},
                              {.fd = child.std, .events = POLLIN}};
        char what;
        int n;
        if (live_ms() > until)
            fail_msg("the child does not come to an end");
        n = poll(p, 3, done ? 0 : 20);
        if (n == 0 && done)
            break;
        scan_arguments(child.pid);
        if (p[1].revents & POLLIN)
            stream_read(output);
        if (p[2].revents & POLLIN)
            stream_read(std);
        if (!p[0].revents)
            continue;
        read_all(child.answers, &what, 1);
        if (what == '?') {
            answer_callback();
            continue;
        }
        read_all(child.answers, &n, sizeof n);
        if (what == 'd') {
            done = 1;
        } else {
            char *t = calloc(1, (size_t)n + 1);
            read_all(child.answers, t, (size_t)n);
            keep_token(t);
        }
    }
    while (poll(&(struct pollfd){.fd = child.output, .events = POLLIN}, 1, 0) > 0 && stream_read(output)) {
    }
    while (poll(&(struct pollfd){.fd = child.std, .events = POLLIN}, 1, 0) > 0 && stream_read(std)) {
    }
}

/* Everything that came out, then the memory. */
static void look_everywhere(stream *output, stream *std) {
    size_t memory;
    int i;
    char name[24];
    for (i = 0; i < token_count; i++) {
        snprintf(name, sizeof name, "token %d", i + 1);
        secret_add(strdupa(name), tokens[i]);
    }
    scan("stdout or stderr", std->text, std->n);
    scan("an event or an error", output->text, output->n);
    scan_file(log_path, "the log file");
    scan_arguments(child.pid);
    memory = scan_memory(child.pid);
    output_bytes = output->n + std->n;
    print_message("looked at %d tokens in %d forms, %d bytes of output, %d of memory\n", token_count, (int)form_count,
                  (int)output_bytes, (int)memory);
    if (leak)
        fail_msg("%s", leak);
    assert_true(memory > 200000);
}

static void mask(order *o, const char *secret) {
    size_t i, n = strlen(secret) + 1;
    assert_true(n <= sizeof o->secret);
    for (i = 0; i < n; i++) o->secret[i] = (unsigned char)(secret[i] ^ MASK);
    o->secret_len = (int)n;
}

/* An order with what all have in common. */
static order new_order(int kind, const char *secret) {
    order o;
    memset(&o, 0, sizeof o);
    o.kind = kind;
    o.wait_ms = 15000;
    snprintf(o.endpoint, sizeof o.endpoint, "%s", em.endpoint);
    snprintf(o.ca_file, sizeof o.ca_file, "%s", getenv("SSL_CERT_FILE"));
    snprintf(o.tenant, sizeof o.tenant, "%s", getenv("AZURE_TENANT_ID"));
    snprintf(o.client, sizeof o.client, "%s", getenv("AZURE_CLIENT_ID"));
    snprintf(o.log, sizeof o.log, "%s", log_path);
    if (kind == BY_SECRET || kind == BY_CERTIFICATE)
        snprintf(o.authority, sizeof o.authority, "%s", getenv("AZURE_AUTHORITY_HOST"));
    mask(&o, secret);
    return o;
}

static int begin(void **state) {
    (void)state;
    forget_secrets();
    while (token_count) free(tokens[--token_count]);
    unlink(log_path);
    return 0;
}

static int end(void **state) {
    (void)state;
    unlink(log_path);
    child_stop();
    return 0;
}

static stream output = {.name = "output"}, std = {.name = "std"};

static void fresh_streams(void) { output.n = std.n = 0; }

/* The whole life: connect, commands, two renewals, AUTH refused once on the way. */
static void test_case50_renewals(void **state) {
    order o = new_order(BY_SECRET, em.secret);
    long before = live_number(&em, "tokens_issued");
    (void)state;
    fresh_streams();
    secret_add("the client secret", em.secret);
    o.tokens = 3;
    run(&o, &output, &std);
    assert_true(token_count >= 3);
    assert_int_equal(live_number(&em, "tokens_issued") - before, token_count);    /* these were all */
    look_everywhere(&output, &std);
}

/* Errors in every step. The wrong secrets are secrets too. */
static void test_case50_failures(void **state) {
    static const char wrong[] = "Zz7Q~this_is.not-the~secret_of.anyone-here";
    order o;
    (void)state;
    fresh_streams();
    secret_add("the client secret", em.secret);
    secret_add("the wrong secret", wrong);
    o = new_order(BY_SECRET, wrong);
    o.wait_ms = 300;
    run(&o, &output, &std);             /* AADSTS7000215 */
    o = new_order(BY_SECRET, em.secret);
    o.wait_ms = 300;
    live_fault(&em, "token-error", "50196", "1");
    run(&o, &output, &std);
    live_fault(&em, "token-garbage", NULL, "1");
    run(&o, &output, &std);
    live_fault(&em, "token-redirect", NULL, "1");
    run(&o, &output, &std);
    live_fault(&em, "token-no-oid", "1", "1");
    run(&o, &output, &std);
    o.tokens = 2;
    o.wait_ms = 10000;
    live_fault(&em, "auth-reject", NULL, "1");
    run(&o, &output, &std);             /* WRONGPASS */
    live_fault(&em, "auth-silent", NULL, "1");
    o.tokens = 3;
    run(&o, &output, &std);
    assert_int_equal(live_fired(&em, "token-error"), 1);
    assert_int_equal(live_fired(&em, "token-garbage"), 1);
    assert_int_equal(live_fired(&em, "auth-reject"), 1);
    assert_true(memmem(std.text, std.n, "7000215", 7) != NULL);
    assert_true(memmem(std.text, std.n, "WRONGPASS", 9) != NULL);
    look_everywhere(&output, &std);
}

/* ---- an authority that talks ----------------------------------------------------------------- */

static _Atomic int echo_way;
static const char *_Atomic echo_secret;

/* Puts the request's body, or the bare secret, where it may be read from. */
static void echo_script(peer *p, void *user) {
    static const char *const ways[] = {
        "HTTP/1.1 200 OK\r\n\r\n<html>You sent %s</html>",
        "HTTP/1.1 200 OK\r\n\r\n%s",
        "HTTP/1.1 400 Bad\r\n\r\n%s",
        "HTTP/1.1 400 Bad\r\n\r\n<html>You sent %s</html>",
        "HTTP/1.1 400 Bad\r\n\r\n{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215: bad secret '%s'.\"}",
        "HTTP/1.1 400 Bad\r\n\r\n{\"error\":\"invalid_client\",\"error_description\":\"what is %s?\"}",
        "HTTP/1.1 400 Bad\r\n\r\n{\"error\":\"%s\",\"error_description\":\"AADSTS1: %s\",\"correlation_id\":\"%s\"}",
        "HTTP/1.1 500 %s\r\nX-Echo: %s\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: https://localhost/?%s\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: https://%s/\r\n\r\n",
        "HTTP/1.1 200 OK\r\n%s: %s\r\nContent-Length: x\r\n\r\n",
        "%s\r\n",
        "HTTP/1.1 200 OK\r\n\r\n{\"token_type\":\"%s\",\"expires_in\":\"%s\",\"access_token\":\"%s\"}",
        "HTTP/1.1 200 OK\r\n\r\n{\"token_type\":\"Bearer\",\"access_token\":\"%s %s\"}",
    };
    char *body = peer_request(p), text[8000], coded[400];
    const char *what = body, *secret = echo_secret;
    int kind = echo_way % 4, way = echo_way / 4 % (int)(sizeof ways / sizeof ways[0]);
    size_t i, k;
    (void)user;
    if (!body)
        return;
    switch (kind) {
    case 1:
        what = secret;
        break;
    case 2:
        coded[base64(coded, (const unsigned char *)secret, strlen(secret), 0)] = 0;
        what = coded;
        break;
    case 3:
        for (i = k = 0; secret[i]; i++) k += (size_t)sprintf(coded + k, "%02x", (unsigned char)secret[i]);
        what = coded;
        break;
    }
    for (i = k = 0; ways[way][i]; i++) {
        if (ways[way][i] == '%')
            k += (size_t)snprintf(text + k, sizeof text - k, "%s", what);
        else if (ways[way][i] != 's' || i == 0 || ways[way][i - 1] != '%')
            text[k++] = ways[way][i];
    }
    text[k] = 0;
    (void)peer_puts(p, text);
    free(body);
}
#define ECHO_WAYS (14 * 4)

/* A run of 41 characters is masked whatever it is; base64 of a secret of 24 has 32 and cannot be told from a word. */
static void test_case50_echoing_authority(void **state) {
    static const char *const secrets[] = {"Ab3Q~echoed.secret-with_all~kinds.of-chars0", "short~secret.of_24-chars",
                                          "s3cr3t/with+odd=characters\"and\\more&%"};
    order o;
    size_t i;
    (void)state;
    fresh_streams();
    hostile_start(&echo, 1, echo_script, NULL);
    for (i = 0; i < 3; i++) {
        secret_add("the echoed secret", secrets[i]);
        echo_secret = secrets[i];
        o = new_order(BY_SECRET, secrets[i]);
        o.wait_ms = 50;
        snprintf(o.authority, sizeof o.authority, "https://localhost:%d", echo.port);
        snprintf(o.pem, sizeof o.pem, "%s", hostile_ca);
        for (echo_way = 0; echo_way < ECHO_WAYS; echo_way++)
            if (i != 1 || echo_way % 4 < 2)
                run(&o, &output, &std);
    }
    assert_true(hostile_served(&echo) >= 2 * ECHO_WAYS + ECHO_WAYS / 2);
    hostile_stop(&echo);
    look_everywhere(&output, &std);
}

/* Passwords and access keys, right and wrong. */
static void test_keys(void **state) {
    static const char wrong[] = "wrong+access/key=ofNobody0123456789abcdefghijk";
    const char *key = getenv("AZREDIS_ACCESS_KEY");
    order o;
    (void)state;
    assert_non_null(key);
    fresh_streams();
    secret_add("the access key", key);
    secret_add("the wrong key", wrong);
    o = new_order(BY_KEY, key);
    o.wait_ms = 2000;
    run(&o, &output, &std);
    assert_true(memmem(output.text, output.n, "value", 5) != NULL);       /* it got in */
    o = new_order(BY_KEY, wrong);
    o.wait_ms = 300;
    run(&o, &output, &std);
    o = new_order(BY_PASSWORD, wrong);
    snprintf(o.user, sizeof o.user, "nobody");
    o.wait_ms = 300;
    run(&o, &output, &std);
    assert_true(memmem(std.text, std.n, "WRONGPASS", 9) != NULL);
    look_everywhere(&output, &std);
}

static void test_callback(void **state) {
    order o = new_order(BY_CALLBACK, "none");
    (void)state;
    fresh_streams();
    o.tokens = 3;
    run(&o, &output, &std);
    assert_true(token_count >= 3);      /* what was given is what azredis_auth_token shows */
    look_everywhere(&output, &std);
}

/* The private numbers of a key, as DER and as mbedTLS has them, and its PEM behind the modulus, which all may know. */
static void key_add(const char *path) {
    static const char *const numbers[] = {OSSL_PKEY_PARAM_RSA_D, OSSL_PKEY_PARAM_RSA_FACTOR1, OSSL_PKEY_PARAM_RSA_FACTOR2,
                                          OSSL_PKEY_PARAM_RSA_EXPONENT1, OSSL_PKEY_PARAM_RSA_EXPONENT2};
    unsigned char n[2][512];
    char text[8000], line[100];
    FILE *f = fopen(path, "r");
    EVP_PKEY *key = f ? PEM_read_PrivateKey(f, NULL, NULL, NULL) : NULL;
    size_t i, len = 0, lines = 0;
    if (!key)
        fail_msg("%s has no key", path);
    for (i = 0; i < 5; i++) {
        BIGNUM *b = NULL;
        int k;
        assert_int_equal(EVP_PKEY_get_bn_param(key, numbers[i], &b), 1);
        k = BN_bn2bin(b, n[0]);
        (void)BN_bn2lebinpad(b, n[1], k);
        form_add("a number of the key", "DER", (char *)n[0], (size_t)k, PIECE);
        form_add("a number of the key", "little-endian", (char *)n[1], (size_t)k, PIECE);
        BN_clear_free(b);
    }
    rewind(f);
    while (fgets(line, sizeof line, f) && !strstr(line, "BEGIN PRIVATE KEY")) {
    }
    while (fgets(line, sizeof line, f) && !strstr(line, "END PRIVATE KEY"))
        if (++lines > 8)                /* 512 characters are 384 bytes, of which the modulus has 256 */
            len += (size_t)snprintf(text + len, sizeof text - len, "%.64s", line);
    assert_true(len > 500);
    form_add("the key", "PEM", text, len, 2 * PIECE);
    EVP_PKEY_free(key);
    fclose(f);
}

/* A key in PKCS#12 with its password, and one that lies open; a wrong password. */
static void test_certificate(void **state) {
    static const char wrong[] = "wrong-password.of_nobody~0123456789";
    const char *password = getenv("EMULATOR_PFX_PASSWORD");
    order o;
    int i;
    (void)state;
    fresh_streams();
    key_add(getenv("EMULATOR_CERTIFICATE"));
    secret_add("the password", password);
    secret_add("the wrong password", wrong);
    for (i = 0; i < 3; i++) {
        o = new_order(BY_CERTIFICATE, i == 1 ? wrong : password);
        snprintf(o.client, sizeof o.client, "%s", getenv("EMULATOR_CERTIFICATE_CLIENT_ID"));
        snprintf(o.certificate, sizeof o.certificate, "%s", getenv(i == 2 ? "EMULATOR_CERTIFICATE" : "EMULATOR_PFX"));
        o.tokens = i == 1 ? 0 : 2;
        if (i == 1)
            o.wait_ms = 300;
        run(&o, &output, &std);
        assert_int_equal(memmem(std.text, std.n, "password is wrong", 17) != NULL, i > 0);
    }
    assert_true(token_count >= 4);
    look_everywhere(&output, &std);
}

/* The scan itself: 16 bytes of a secret in the child's heap, in each form, are found; 15 are not. */
static void test_scanner(void **state) {
    static const char secret[] = "K9~/=+\"\\ the quick brown fox, jumps";
    char piece[120], t[400];
    int n, f, i, k;
    (void)state;
    for (n = PIECE - 1; n <= PIECE; n++) {
        for (f = 0; f < 9; f++) {
            order o;
            fresh_streams();
            forget_secrets();
            secret_add("the secret", secret);
            snprintf(piece, sizeof piece, "%.*s", n, secret + 2);
            t[0] = 0;
            for (i = k = 0; i < n; i++) {
                unsigned char c = (unsigned char)piece[i];
                k += f == 0 ? sprintf(t + k, "%c", c) : f == 1 ? sprintf(t + k, "%02x", c) : f == 2 ? sprintf(t + k, "%02X", c)
                   : f == 3 ? sprintf(t + k, isalnum(c) || strchr("-._~", c) ? "%c" : "%%%02X", c)
                   : f == 4 ? sprintf(t + k, "%%%02x", c)
                   : f == 5 ? sprintf(t + k, strchr("\"\\", c) ? "\\%c" : "%c", c) : f == 6 ? sprintf(t + k, "\\u%04x", c) : 0;
            }
            if (f > 6)                  /* whatever stands before and behind it */
                t[base64(t, (const unsigned char *)secret + (n == PIECE ? 2 : 3), (size_t)n + 2, f == 8)] = 0;
            o = new_order(LINGER, t);
            run(&o, &output, &std);
            (void)scan_memory(child.pid);
            if (n == PIECE && !leak)
                fail_msg("form %d: %d bytes of a secret were not found", f, n);
            if (n < PIECE && leak && f < 3)     /* the others have shorter pieces in places */
                fail_msg("form %d: %d bytes of a secret were found: %s", f, n, leak);
            child_stop();
        }
    }
}

static int setup(void **state) {
    (void)state;
    slots = calloc(SLOTS, sizeof *slots);
    live_start(&em, "--token-ttl", "2.5", "--access-key", NULL);
    snprintf(log_path, sizeof log_path, "%s/log", em.dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    free(output.text);
    free(std.text);
    forget_secrets();
    free(slots);
    while (token_count) free(tokens[--token_count]);
    live_stop(&em);
    return 0;
}

int main(int argc, char **argv) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_scanner),
        TEST(test_case50_renewals),
        TEST(test_case50_failures),
        TEST(test_case50_echoing_authority),
        TEST(test_keys),
        TEST(test_callback),
        TEST(test_certificate),
    };
    if (argc == 2 && !strcmp(argv[1], "--child"))
        return child_main();
    self = realpath("/proc/self/exe", NULL);
    if (argc == 2)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("secrets", tests, setup, teardown);
}
