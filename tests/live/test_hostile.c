/* What bad input gets: servers that send garbage, too much, too little or nothing, and options that cannot be.
 * Each call ends within its deadline (+ 500 ms) with an error that tells the step and the cause; nothing
 * crashes, hangs or leaks, and no answer reaches the wrong question. The servers are threads of this program:
 * Redis in plain text, the authority over TLS. */
#define _GNU_SOURCE
#include "azredis_entra.h"
#include <dirent.h>
#include "live.h"
#include "hostile.h"

#define NIL "00000000-0000-0000-0000-000000000000"

/* ---- what every case is measured by ---------------------------------------------------------- */

static _Atomic long outstanding;        /* bytes given out and not yet back */
static long events_seen;

static void *counted_alloc(void *user, size_t n) {
    void *p = malloc(n ? n : 1);
    (void)user;
    if (p)
        outstanding += (long)n;
    return p;
}

static void counted_free(void *user, void *p, size_t n) {
    (void)user;
    outstanding -= (long)n;
    free(p);
}

static const azredis_port counted = {.alloc = counted_alloc, .free = counted_free};

static void on_event(const azredis_event *ev, void *user) {
    (void)user;
    events_seen++;
    if (ev->error && ev->error->code == AZREDIS_OK)
        fail_msg("an event with an empty error: %s", azredis_event_name(ev->type));
}

static int count_dir(const char *path) {
    DIR *d = opendir(path);
    struct dirent *e;
    int n = 0;
    assert_non_null(d);
    while ((e = readdir(d))) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static const char *case_name = "?";     /* for messages */
static azredis_client *client;          /* closed by the next test's setup if one failed */

/* An error has a step, a text of its own, and nothing unprintable. */
static void assert_told(const azredis_error *e) {
    const char *p;
    if (!e || e->code >= 0 || !e->where || !e->where[0] || strlen(e->message) < 12)
        fail_msg("%s: the error says too little: code %d, where %s, '%s'", case_name, e ? (int)e->code : 0,
                 e && e->where ? e->where : "NULL", e ? e->message : "");
    for (p = e->message; *p; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p > 126)
            fail_msg("%s: byte 0x%02x in the message: %s", case_name, (unsigned char)*p, e->message);
}

static void assert_says(const azredis_error *e, const char *part) {
    assert_told(e);
    if (part && !strstr(e->message, part))
        fail_msg("%s: '%s' is not in: [%s] %s", case_name, part, e->where, e->message);
}

static void show(const azredis_error *e) {
    if (getenv("HOSTILE_SHOW"))
        print_message("%-34s %4d %-14s %s\n", case_name, (int)e->code, e->where, e->message);
}

typedef struct outcome {
    azredis_status status;              /* of azredis_connect, or of the PING behind it */
    int            connected, pong;
    azredis_fate   fate;
    azredis_error  error;
    int64_t        took;
} outcome;

/* Opens, connects, PINGs, closes: the connection has ms, and PING again so many. */
static outcome attempt(azredis_options *o, uint32_t ms) {
    azredis_str ping = {"PING", 4};
    azredis_call how = {.timeout_ms = ms};
    azredis_reply r;
    outcome out;
    int64_t start = live_ms();
    memset(&out, 0, sizeof out);
    memset(&r, 0, sizeof r);
    o->port = &counted;
    o->on_event = on_event;
    o->log_level = AZREDIS_LOG_TRACE;
    client = azredis_open(o);
    assert_non_null(client);
    out.status = azredis_connect(client, ms, &out.error);
    out.connected = out.status == AZREDIS_OK;
    if (out.connected) {
        out.status = azredis_command_argv(client, &r, &how, 1, &ping);
        out.fate = r.fate;
        if (r.error)
            out.error = *r.error;
        assert_int_equal(r.status, out.status);
        out.pong = out.status == AZREDIS_OK && azredis_text(r.value).ptr && !strcmp(azredis_text(r.value).ptr, "PONG");
    }
    out.took = live_ms() - start;
    azredis_reply_free(&r);
    azredis_close(client);
    client = NULL;
    if (outstanding)
        fail_msg("%s: %ld bytes were not given back", case_name, outstanding);
    if (out.took > (out.connected ? 2 : 1) * (int64_t)ms + LIVE_SLACK)
        fail_msg("%s: %d ms with a deadline of %d", case_name, (int)out.took, (int)ms);
    if (out.status != AZREDIS_OK) {
        assert_int_equal(out.status, out.error.code);
        assert_told(&out.error);
        show(&out.error);
    }
    return out;
}

/* ---- Redis ----------------------------------------------------------------------------------- */

static hostile redis, authority;
static int quiet_fds, quiet_threads;    /* with both servers idle */

/* What to do at one step of the dialogue. Steps: 0 AUTH, 1 HELLO, 2 and 3 SETINFO, 4 PING nonce, then the
 * user's commands; -1: before the client has said a word. */
enum { INSTEAD, BEFORE, AFTER };
enum { GO_ON, CLOSE, RESET, HANG, AGAIN_AND_AGAIN, ONE_A_SECOND };

typedef struct spoil {
    int         step, where, then;
    const char *bytes;
    size_t      len;
    long        cut;                    /* > 0: end after so many bytes, in the way of `then` */
    int         crumbs;                 /* 1: every byte in a packet of its own */
    int         once;                   /* 1: on the first connection that comes so far; 2: that was it */
    long        sent;                   /* out: bytes of an undisturbed dialogue */
} spoil;

#define BYTES(z) .bytes = (z), .len = sizeof(z) - 1

/* 0: the dialogue ends. */
static int redis_say(peer *p, spoil *s, const char *bytes, size_t n) {
    size_t i;
    if (s->cut > 0 && s->sent + (long)n >= s->cut) {
        (void)peer_write(p, bytes, (size_t)(s->cut - s->sent));
        s->sent = s->cut;
        if (s->then == HANG)
            peer_hang(p);
        return 0;
    }
    s->sent += (long)n;
    if (!s->crumbs)
        return peer_write(p, bytes, n);
    for (i = 0; i < n; i++)
        if (!peer_write(p, bytes + i, 1))
            return 0;
    return 1;
}

static int redis_answer(peer *p, spoil *s, int n, char w[8][64]) {
    char text[256];
    static const char hello[] = "%5\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.4.0\r\n$5\r\nproto\r\n:3\r\n"
                                "$2\r\nid\r\n:7\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n";
    if (!strcmp(w[0], "HELLO"))
        return redis_say(p, s, hello, sizeof hello - 1);
    if (n > 1 && (!strcmp(w[0], "PING") || !strcmp(w[0], "ECHO"))) {
        snprintf(text, sizeof text, "$%zu\r\n%s\r\n", strlen(w[1]), w[1]);
        return redis_say(p, s, text, strlen(text));
    }
    if (!strcmp(w[0], "PING"))
        return redis_say(p, s, "+PONG\r\n", 7);
    return redis_say(p, s, "+OK\r\n", 5);
}

static int redis_spoil(peer *p, spoil *s) {
    size_t i = 0;
    int more;
    if (s->once == 2)
        return 1;
    s->once *= 2;
    more = s->then == ONE_A_SECOND ? 1 : redis_say(p, s, s->bytes, s->len);
    while (more && s->then == AGAIN_AND_AGAIN) more = peer_write(p, s->bytes, s->len);
    while (more && s->then == ONE_A_SECOND) more = peer_write(p, s->bytes + i++ % s->len, 1) && peer_nap(p, 1000);
    if (more && s->then == HANG)
        peer_hang(p);
    p->reset = s->then == RESET;
    return more && s->then == GO_ON;
}

static void redis_script(peer *p, void *user) {
    spoil *s = user;
    char words[8][64];
    int step, n, here;
    s->sent = 0;
    p->reset = s->cut > 0 && s->then == RESET;
    if (s->bytes && s->step == -1 && !redis_spoil(p, s))
        return;
    for (step = 0; (n = peer_command(p, words)) > 0; step++) {
        here = s->bytes && s->step == step && s->once < 2 && !s->then;
        setsockopt(p->fd, IPPROTO_TCP, TCP_CORK, &here, sizeof here);     /* answer and spoil in one packet */
        here = s->bytes && s->step == step && s->once < 2;
        if (here && s->where != AFTER && !redis_spoil(p, s))
            return;
        if (!(here && s->where == INSTEAD) && !redis_answer(p, s, n, words))
            return;
        if (here && s->where == AFTER && !redis_spoil(p, s))
            return;
        here = 0;
        setsockopt(p->fd, IPPROTO_TCP, TCP_CORK, &here, sizeof here);
    }
}

static spoil good;                      /* spoils nothing */

static azredis_options redis_options(const azredis_auth_options *id, char host[32]) {
    azredis_options o;
    memset(&o, 0, sizeof o);
    snprintf(host, 32, "127.0.0.1:%d", redis.port);
    o.host = host;
    o.plaintext = 1;
    o.identity = id;
    return o;
}

static const azredis_auth_options password = {.identity = AZREDIS_ID_PASSWORD, .user = "someone", .password = "open sesame"};

/* One try to connect to Redis and PING it. */
static outcome meet(spoil *s, uint32_t ms, int abort_on_fail) {
    char host[32];
    azredis_options o = redis_options(&password, host);
    outcome out;
    o.abort_on_connect_fail = abort_on_fail;
    o.connect_retry = 1;
    hostile_set(&redis, redis_script, s);
    out = attempt(&o, ms);
    hostile_set(&redis, redis_script, &good);     /* s is the caller's */
    return out;
}

static void assert_quiet(void) {
    hostile_set(&redis, redis_script, &good);
    hostile_set(&authority, redis_script, &good);
    assert_int_equal(count_dir("/proc/self/fd"), quiet_fds);
    await(count_dir("/proc/self/task") == quiet_threads, 5000);    /* a look-up's thread ends by itself */
}

static int setup(void **state) {
    (void)state;
    hostile_start(&redis, 0, redis_script, &good);
    hostile_start(&authority, 1, redis_script, &good);
    quiet_fds = count_dir("/proc/self/fd");
    quiet_threads = count_dir("/proc/self/task");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    hostile_stop(&redis);
    hostile_stop(&authority);
    return 0;
}

/* Bytes that are no answer at all, or not the one that is due. */
static const struct { const char *name; spoil s; } GARBAGE[] = {
    {"nothing but zeros", {BYTES("\0\0\0\0\0\0\0\0")}},
    {"all ones", {BYTES("\377\377\377\377\r\n")}},
    {"a web server", {BYTES("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")}},
    {"an SSH server", {BYTES("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")}},
    {"a mail server", {BYTES("220 mail.example.com ESMTP\r\n")}},
    {"a TLS alert", {BYTES("\25\3\3\0\2\2\106")}},
    {"an unknown type", {BYTES("?1\r\n")}},
    {"an empty line", {BYTES("\r\n")}},
    {"bare LF", {BYTES("+OK\n+OK\n")}},
    {"CR without LF", {BYTES("+OK\rX")}},
    {"an array of 2^32-1", {BYTES("*4294967295\r\n")}},
    {"an array of 2^31", {BYTES("*2147483648\r\n")}},
    {"an array of 2^63", {BYTES("*9223372036854775808\r\n")}},
    {"an array of 2^64+1", {BYTES("*18446744073709551617\r\n")}},
    {"a map of 2^31-1", {BYTES("%2147483647\r\n")}},
    {"a set of 2^32", {BYTES("~4294967296\r\n")}},
    {"a push of 2^31-1", {BYTES(">2147483647\r\n")}},
    {"an attribute of 2^31-1", {BYTES("|2147483647\r\n")}},
    {"a bulk of 10^12-1", {BYTES("$999999999999\r\n")}},
    {"a bulk of -2", {BYTES("$-2\r\n")}},
    {"an array of -2", {BYTES("*-2\r\n")}},
    {"a length with blanks", {BYTES("$ 5\r\nhello\r\n")}},
    {"a length in hex", {BYTES("$0x5\r\nhello\r\n")}},
    {"no length", {BYTES("$\r\n")}},
    {"a bulk longer than its length", {BYTES("$2\r\nhello\r\n")}},
    {"a bulk of verbatim without format", {BYTES("=2\r\nab\r\n")}},
    {"a boolean that is none", {BYTES("#x\r\n")}},
    {"a null that is none", {BYTES("_x\r\n")}},
    {"an integer that is none", {BYTES(":12a\r\n")}},
    {"a streamed end without beginning", {BYTES(".\r\n")}},
    {"a chunk without beginning", {BYTES(";3\r\nabc\r\n")}},
    {"a streamed string, broken", {BYTES("$?\r\n+x\r\n")}},
};

/* At every step of the handshake and at the user's command: the connection is given up at once. */
static void test_redis_garbage(void **state) {
    size_t i;
    int step, told = 0;
    (void)state;
    for (i = 0; i < sizeof GARBAGE / sizeof GARBAGE[0]; i++) {
        for (step = -1; step <= 5; step++) {
            spoil s = GARBAGE[i].s;
            outcome out;
            char name[80];
            snprintf(name, sizeof name, "%s at %d", GARBAGE[i].name, step);
            case_name = name;
            s.step = step;
            s.then = HANG;
            out = meet(&s, 300, 1);
            if (out.status == AZREDIS_OK)
                fail_msg("%s: taken for an answer", name);
            if (step == 5 && out.connected && out.fate != AZREDIS_MAYBE_RUN)
                fail_msg("%s: the fate is %d", name, (int)out.fate);
            told += out.status == AZREDIS_E_RESP;
            if (out.status != AZREDIS_E_RESP && out.status != AZREDIS_E_TIMEOUT && out.status != AZREDIS_E_LIMIT)
                fail_msg("%s: status %s: %s", name, azredis_status_text(out.status), out.error.message);
        }
    }
    assert_true(told > (int)(7 * sizeof GARBAGE / sizeof GARBAGE[0]) * 8 / 10);
    assert_quiet();
}

static char *repeated(const char *unit, size_t times, size_t *n) {
    size_t k = strlen(unit), i;
    char *p = malloc(k * times + 1);
    assert_non_null(p);
    for (i = 0; i < times; i++) memcpy(p + i * k, unit, k);
    *n = k * times;
    return p;
}

/* Much of a thing: nested, long, or without end. */
static void test_redis_floods(void **state) {
    static const struct { const char *name, *unit; size_t times; int then; } FLOODS[] = {
        {"nested arrays", "*1\r\n", 100000, HANG},
        {"nested maps", "%1\r\n+k\r\n", 20000, HANG},
        {"nested pushes", ">1\r\n", 100000, HANG},
        {"nested streamed arrays", "*?\r\n", 100000, HANG},
        {"a line without end", "+xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 3000, AGAIN_AND_AGAIN},
        {"a number without end", ":1111111111111111111111111111111", 3000, AGAIN_AND_AGAIN},
        {"an error without end", "-ERR xxxxxxxxxxxxxxxxxxxxxxxxxxx", 3000, AGAIN_AND_AGAIN},
        {"zeros without end", "$00000000000000000000000000000", 3000, AGAIN_AND_AGAIN},
        {"answers without end", ":7\r\n", 4000, AGAIN_AND_AGAIN},
        {"pushes without end", ">2\r\n+invalidate\r\n*0\r\n", 1000, AGAIN_AND_AGAIN},
        {"attributes without end", "|1\r\n+a\r\n+b\r\n", 1000, AGAIN_AND_AGAIN},
        {"messages nobody wanted", ">3\r\n+message\r\n+c\r\n+x\r\n", 1000, AGAIN_AND_AGAIN},
    };
    size_t i;
    int step;
    (void)state;
    for (i = 0; i < sizeof FLOODS / sizeof FLOODS[0]; i++) {
        for (step = -1; step <= 5; step += 3) {
            spoil s = {.step = step, .then = FLOODS[i].then};
            char name[80];
            outcome out;
            char *bytes = repeated(FLOODS[i].unit, FLOODS[i].times, &s.len);
            snprintf(name, sizeof name, "%s at %d", FLOODS[i].name, step);
            case_name = name;
            s.bytes = bytes;
            out = meet(&s, 400, 1);
            free(bytes);
            if (out.status == AZREDIS_OK && (step != 5 || FLOODS[i].unit[0] != ':'))
                fail_msg("%s: taken for an answer", name);
        }
    }
    assert_quiet();
}

/* Answers of good form that are not what was asked for. */
static void test_case19_redis_wrong_answers(void **state) {
    static const struct { const char *name; spoil s; azredis_status status; const char *says; } WRONG[] = {
        {"a greeting", {BYTES("+OK\r\n"), .step = -1}, AZREDIS_E_RESP, NULL},
        {"too many clients", {BYTES("-ERR max number of clients reached\r\n"), .step = -1, .then = CLOSE},
         AZREDIS_E_REDIS, "max number of clients"},
        {"protected mode", {BYTES("-DENIED Redis is running in protected mode\r\n"), .step = -1, .then = CLOSE},
         AZREDIS_E_REDIS, "protected mode"},
        {"AUTH refused", {BYTES("-WRONGPASS invalid username-password pair or user is disabled.\r\n"), .step = 0},
         AZREDIS_E_AUTH, "WRONGPASS"},
        {"AUTH unknown", {BYTES("-ERR unknown command 'AUTH'\r\n"), .step = 0}, AZREDIS_E_REDIS, "unknown command"},
        {"no user of that name", {BYTES("-NOAUTH Authentication required.\r\n"), .step = 0}, AZREDIS_E_AUTH, "NOAUTH"},
        {"a cluster", {BYTES("%1\r\n+mode\r\n+cluster\r\n"), .step = 1}, AZREDIS_E_CLUSTER, "cluster policy"},
        {"moved", {BYTES("-MOVED 1234 10.0.0.1:8500\r\n"), .step = 5}, AZREDIS_E_CLUSTER, "cluster policy"},
        {"HELLO loading", {BYTES("-LOADING Redis is loading the dataset in memory\r\n"), .step = 1}, AZREDIS_E_REDIS,
         "LOADING"},
        {"another nonce", {BYTES("$32\r\n0123456789abcdef0123456789abcdef\r\n"), .step = 4}, AZREDIS_E_RESP,
         "out of step"},
        {"PONG for a nonce", {BYTES("+PONG\r\n"), .step = 4}, AZREDIS_E_RESP, "out of step"},
        {"an integer for a nonce", {BYTES(":0\r\n"), .step = 4}, AZREDIS_E_RESP, "out of step"},
        {"nil for a nonce", {BYTES("_\r\n"), .step = 4}, AZREDIS_E_RESP, "out of step"},
        {"one answer too many", {BYTES("+OK\r\n"), .step = 2, .where = AFTER}, AZREDIS_E_RESP, NULL},
        {"one answer too few", {BYTES(">1\r\n+x\r\n"), .step = 2}, AZREDIS_E_TIMEOUT, NULL},
        {"logged out", {BYTES("-NOAUTH Authentication required.\r\n"), .step = 5}, AZREDIS_E_AUTH, "NOAUTH"},
        {"not allowed", {BYTES("-NOPERM this user has no permissions to run the 'ping' command\r\n"), .step = 5},
         AZREDIS_E_NOPERM, "NOPERM"},
        {"control characters", {BYTES("-ERR \033[2J\007\b\001 \302\205 bell\r\n"), .step = 5}, AZREDIS_E_REDIS, "bell"},
        {"percent signs", {BYTES("-ERR %s%n%x%99999d\r\n"), .step = 5}, AZREDIS_E_REDIS, "%s%n%x%99999d"},
        {"an empty error", {BYTES("-\r\n"), .step = 5}, AZREDIS_E_REDIS, NULL},
        {"an empty error for AUTH", {BYTES("-\r\n"), .step = 0}, AZREDIS_E_REDIS, NULL},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        spoil s = WRONG[i].s;
        outcome out;
        case_name = WRONG[i].name;
        out = meet(&s, 400, 1);
        if (out.status != WRONG[i].status)
            fail_msg("%s: status %s: %s", case_name, azredis_status_text(out.status), out.error.message);
        assert_says(&out.error, WRONG[i].says);
        assert_null(strstr(out.error.message, "sesame"));
    }
    assert_quiet();
}

/* The server ends after each byte of handshake and PING, by FIN and by RST; only the whole dialogue succeeds. */
static void test_redis_closes_anywhere(void **state) {
    spoil whole = {.crumbs = 1};
    outcome out;
    long n, k;
    int way, told[2] = {0, 0};
    (void)state;
    case_name = "byte by byte";
    out = meet(&whole, 1000, 1);
    assert_int_equal(out.status, AZREDIS_OK);
    n = whole.sent;
    assert_true(n > 150);
    for (k = 1; k <= n; k++) {
        for (way = 0; way < 2; way++) {
            spoil s = {.cut = k, .then = way ? RESET : CLOSE};
            char name[80];
            snprintf(name, sizeof name, "%s after %ld of %ld", way ? "RST" : "FIN", k, n);
            case_name = name;
            out = meet(&s, 1000, 1);
            if ((out.status == AZREDIS_OK) != (k == n) && !(k == n && way))
                fail_msg("%s: %s", name, azredis_status_text(out.status));
            if (out.status != AZREDIS_OK && out.status != AZREDIS_E_CLOSED && out.status != AZREDIS_E_NET)
                fail_msg("%s: %s: %s", name, azredis_status_text(out.status), out.error.message);
            if (out.status != AZREDIS_OK)
                assert_says(&out.error, "connection");
            if (out.status != AZREDIS_OK && strstr(out.error.where, "tls"))
                fail_msg("%s: the step is %s, but there was no TLS", name, out.error.where);
            if (out.connected && out.status != AZREDIS_OK && out.fate != AZREDIS_MAYBE_RUN && k != n - 7)   /* PONG */
                fail_msg("%s: the fate is %d", name, (int)out.fate);
            told[way] += out.status != AZREDIS_OK;
        }
    }
    assert_true(told[0] == n - 1 && told[1] >= n - 1);
    assert_quiet();
}

/* The server stays silent at each step, or drips. No abort here: what counts is the caller's deadline. */
static void test_case16_redis_silent(void **state) {
    int step, drip;
    (void)state;
    for (drip = 0; drip < 2; drip++) {
        for (step = -1; step <= 5; step++) {
            spoil s = {BYTES("$32\r\nx"), .step = step, .then = drip ? ONE_A_SECOND : HANG};
            char name[80];
            outcome out;
            if (!drip)
                s.len = 0;
            snprintf(name, sizeof name, "%s at %d", drip ? "one byte a second" : "silent", step);
            case_name = name;
            out = meet(&s, 300, 0);
            if (out.status != AZREDIS_E_TIMEOUT && !(drip && out.status == AZREDIS_E_RESP))
                fail_msg("%s: %s: %s", name, azredis_status_text(out.status), out.error.message);
            assert_says(&out.error, step < 5 ? "answer to AUTH" : "no answer in time; the command may have run");
            assert_int_equal(out.connected, step == 5);
        }
    }
    assert_quiet();
}

/* auth_ms and connect_ms are deadlines of their own. */
static void test_case16_redis_silent_by_option(void **state) {
    char host[32];
    azredis_options o = redis_options(&password, host);
    spoil s = {.bytes = "", .step = 0, .then = HANG};
    outcome out;
    (void)state;
    case_name = "auth_ms";
    hostile_set(&redis, redis_script, &s);
    o.auth_ms = 200;
    o.abort_on_connect_fail = 1;
    o.connect_retry = 1;
    out = attempt(&o, 3000);
    assert_int_equal(out.status, AZREDIS_E_TIMEOUT);
    assert_says(&out.error, "did not finish AUTH and handshake in 200 ms");
    assert_true(out.took < 200 + LIVE_SLACK);

    case_name = "connect_ms: not a TLS port";
    hostile_set(&redis, redis_script, &good);     /* s is ours again */
    s.step = -1;
    hostile_set(&redis, redis_script, &s);
    o.plaintext = 0;
    o.auth_ms = 0;
    o.connect_ms = 200;
    out = attempt(&o, 3000);
    assert_int_equal(out.status, AZREDIS_E_TIMEOUT);
    assert_says(&out.error, "is it a TLS port?");
    assert_true(out.took < 200 + LIVE_SLACK);

    case_name = "TLS to a server of plain text";
    hostile_set(&redis, redis_script, &good);
    s = (spoil){BYTES("-ERR Protocol error: unauthenticated multibulk length\r\n"), .step = -1, .then = HANG};
    hostile_set(&redis, redis_script, &s);
    out = attempt(&o, 3000);
    assert_int_equal(out.status, AZREDIS_E_TLS);
    assert_says(&out.error, "not a TLS port");
    assert_quiet();
}

/* Answers that nobody asked for, behind a right one: the connection is given up, and no ECHO gets another's word. */
static void test_redis_answers_to_nobody(void **state) {
    static const char *const EXTRA[] = {"+stray\r\n", "$5\r\nstray\r\n", "*1\r\n+stray\r\n", "-ERR stray\r\n", "_\r\n",
                                        "+stray\r\n+stray\r\n+stray\r\n"};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof EXTRA / sizeof EXTRA[0]; i++) {
        int step, id, right;
        for (step = 5; step < 8; step++) {
            spoil s = {.bytes = EXTRA[i], .len = strlen(EXTRA[i]), .step = step, .where = AFTER, .once = 1};
            char host[32], word[16];
            azredis_options o = redis_options(&password, host);
            azredis_reply r;
            memset(&r, 0, sizeof r);
            o.port = &counted;
            o.on_event = on_event;
            hostile_set(&redis, redis_script, &s);
            client = azredis_open(&o);
            for (id = right = 0; id < 5; id++) {
                azredis_str argv[2] = {{"ECHO", 4}, {word, 0}};
                azredis_call how = {.timeout_ms = 2000};
                azredis_status st;
                argv[1].len = (size_t)snprintf(word, sizeof word, "word-%d", id);
                st = azredis_command_argv(client, &r, &how, 2, argv);
                if (st != AZREDIS_OK)
                    assert_told(r.error);
                else if (!azredis_text(r.value).ptr || strcmp(azredis_text(r.value).ptr, word) != 0)
                    fail_msg("stray %d behind %d: ECHO %s got another's answer", (int)i, step, word);
                else
                    right++;
            }
            if (right != 5 || live_stats(client).reconnects != 1)
                fail_msg("stray %d behind %d: %d of 5 right, %d reconnects", (int)i, step, right,
                         (int)live_stats(client).reconnects);
            azredis_reply_free(&r);
            azredis_close(client);
            client = NULL;
            assert_int_equal(outstanding, 0);
            hostile_set(&redis, redis_script, &good);
        }
    }
    assert_quiet();
}

/* ---- the authority --------------------------------------------------------------------------- */

#define JWT "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL3JlZGlzLmF6dXJlLmNvbSIsIm9pZCI6IjBmMWUyZDNjLTRiNWEtN" \
    "jk3OC04Nzk2LWE1YjRjM2QyZTFmMCIsInRpZCI6IjExMTExMTExLTIyMjItMzMzMy00NDQ0LTU1NTU1NTU1NTU1NSJ9.c2lnbmF0dXJl"
#define ANSWER "{\"token_type\":\"Bearer\",\"expires_in\":3600,\"access_token\":\"" JWT "\"}"

/* What the authority sends after the request: head, body, then `unit` without end. */
typedef struct page {
    const char *head, *body, *unit;
    size_t      cut;                    /* > 0: only so many bytes */
    int         then, way;              /* CLOSE, HANG, ONE_A_SECOND; way of closing: 0 goodbye, 1 none, 2 reset */
} page;

static void authority_script(peer *p, void *user) {
    const page *g = user;
    char *body = peer_request(p), *all;
    size_t n, i;
    int more = body != NULL;
    free(body);
    if (!more)
        return;
    n = strlen(g->head) + strlen(g->body);
    all = malloc(n + 1);
    if (!all)
        return;
    sprintf(all, "%s%s", g->head, g->body);
    if (g->cut && g->cut < n)
        n = g->cut;
    for (i = 0; g->then == ONE_A_SECOND && more && i < n; i++) more = peer_write(p, all + i, 1) && peer_nap(p, 1000);
    if (g->then != ONE_A_SECOND)
        more = peer_write(p, all, n);
    for (i = 0; g->unit && i < sizeof p->head_text - 64; i += strlen(g->unit)) strcpy(p->head_text + i, g->unit);
    while (more && g->unit) more = peer_puts(p, p->head_text);
    free(all);
    if (more && g->then == HANG)
        peer_hang(p);
    p->rude = g->way == 1;
    p->reset = g->way == 2;
}

/* A connection whose token comes from the hostile authority; Redis is good. */
static outcome sign_in(page *g, uint32_t ms) {
    char host[32], url[40];
    azredis_auth_options id = {.identity = AZREDIS_ID_CLIENT_SECRET};
    azredis_options o = redis_options(&id, host);
    outcome out;
    snprintf(url, sizeof url, "https://localhost:%d", authority.port);
    id.tenant_id = id.client_id = NIL;
    id.client_secret = "Xy8Q~hostile-secret-that-nobody-may-see";
    id.authority_host = url;
    id.ca = hostile_ca;
    id.ca_len = strlen(hostile_ca) + 1;
    id.request_ms = ms / 3 * 2;
    id.chain_ms = ms / 6 * 5;           /* of 600 ms: no room for a second try */
    o.abort_on_connect_fail = 1;
    o.connect_retry = 1;
    hostile_set(&redis, redis_script, &good);
    hostile_set(&authority, authority_script, g);
    out = attempt(&o, ms);
    hostile_set(&authority, redis_script, &good);     /* g is the caller's */
    assert_null(strstr(out.error.message, "nobody-may-see"));
    assert_null(strstr(out.error.message, "eyJ"));
    return out;
}

/* Where an answer must come a slow machine gets the time for it. */
static outcome answer_to(page *g) {
    outcome out = sign_in(g, 600);
    return out.status == AZREDIS_E_TIMEOUT ? sign_in(g, 6000) : out;
}

#define OK200 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
#define CLOSING OK200 "\r\n"

static void test_http_answers(void **state) {
    static const struct { const char *name; page g; azredis_status status; const char *says; } PAGES[] = {
        {"nothing, closed", {"", "", NULL, 0, CLOSE, 0}, AZREDIS_E_CLOSED, "ended before its first byte"},
        {"nothing, silent", {"", "", NULL, 0, HANG, 0}, AZREDIS_E_TIMEOUT, "no complete answer in"},
        {"half a head, silent", {"HTTP/1.1 200 OK\r\nContent-Ty", "", NULL, 0, HANG, 0}, AZREDIS_E_TIMEOUT,
         "no complete answer in"},
        {"one byte a second", {CLOSING, ANSWER, NULL, 0, ONE_A_SECOND, 0}, AZREDIS_E_TIMEOUT, "no complete answer in"},
        {"HTML", {"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", "<html><body>Sign in to the hotel</body></html>",
         NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "captive portal"},
        {"HTML, 403", {"HTTP/1.1 403 Forbidden\r\n\r\n", "<html>Blocked by policy</html>", NULL, 0, CLOSE, 0}, AZREDIS_E_HTTP,
         "proxy or captive portal"},
        {"HTML, 502", {"HTTP/1.1 502 Bad Gateway\r\n\r\n", "<html>nginx</html>", NULL, 0, CLOSE, 0}, AZREDIS_E_HTTP,
         "HTTP 502"},
        {"not HTTP", {"220 smtp ready\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_HTTP, "does not begin with HTTP/1."},
        {"HTTP/2", {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_HTTP, "does not begin with HTTP/1."},
        {"status 99", {"HTTP/1.1 099 X\r\n\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_HTTP, "status is not a number"},
        {"status 600", {"HTTP/1.1 600 X\r\n\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_HTTP, "status is not a number"},
        {"head without end", {"HTTP/1.1 200 OK\r\nX: ", "", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0, HANG, 0},
         AZREDIS_E_LIMIT, "headers longer than 16384 bytes"},
        {"headers without end", {"HTTP/1.1 200 OK\r\n", "", "X-Header: 1\r\n", 0, HANG, 0}, AZREDIS_E_LIMIT,
         "headers longer than 16384 bytes"},
        {"body without end", {CLOSING, "{\"x\":\"", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 0, HANG, 0},
         AZREDIS_E_LIMIT, "body longer than 65536 bytes"},
        {"blanks without end", {CLOSING, "", "                                                          ", 0, HANG, 0},
         AZREDIS_E_LIMIT, "body longer than 65536 bytes"},
        {"chunks without end", {OK200 "Transfer-Encoding: chunked\r\n\r\n", "", "1\r\n \r\n", 0, HANG, 0}, AZREDIS_E_LIMIT,
         "longer than"},
        {"chunk extensions without end", {OK200 "Transfer-Encoding: chunked\r\n\r\n", "1", ";extension=1", 0, HANG, 0},
         AZREDIS_E_LIMIT, "longer than"},
        {"a length of 2^40", {OK200 "Content-Length: 1099511627776\r\n\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_LIMIT,
         "body longer than 65536 bytes"},
        {"a length of 2^65", {OK200 "Content-Length: 36893488147419103232\r\n\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_HTTP,
         "Content-Length is not a number"},
        {"a length of -1", {OK200 "Content-Length: -1\r\n\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_HTTP,
         "Content-Length is not a number"},
        {"both lengths", {OK200 "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n", NULL, 0, HANG, 0},
         AZREDIS_E_HTTP, "both Content-Length and Transfer-Encoding"},
        {"two lengths", {OK200 "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "{}    ", NULL, 0, HANG, 0}, AZREDIS_E_HTTP,
         "two Content-Lengths that differ"},
        {"gzip", {OK200 "Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n", "\037\213\010\001", NULL, 0, CLOSE, 0},
         AZREDIS_E_JSON, "not JSON"},
        {"gzip by transfer", {OK200 "Transfer-Encoding: gzip, chunked\r\n\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_HTTP,
         "other than chunked"},
        {"a chunk that lies", {OK200 "Transfer-Encoding: chunked\r\n\r\n", "2\r\n{}}\r\n0\r\n\r\n", NULL, 0, HANG, 0},
         AZREDIS_E_HTTP, "longer than its size"},
        {"a chunk of 2^32", {OK200 "Transfer-Encoding: chunked\r\n\r\n", "100000000\r\n", NULL, 0, HANG, 0}, AZREDIS_E_HTTP,
         "malformed chunk size"},
        {"a chunk of -1", {OK200 "Transfer-Encoding: chunked\r\n\r\n", "-1\r\n", NULL, 0, HANG, 0}, AZREDIS_E_HTTP,
         "malformed chunk size"},
        {"bare LF", {"HTTP/1.1 200 OK\nContent-Length: 2\n\n", "{}", NULL, 0, HANG, 0}, AZREDIS_E_HTTP, "bare LF"},
        {"bytes behind the end", {OK200 "Content-Length: 2\r\n\r\n", "{}{}", NULL, 0, CLOSE, 0}, AZREDIS_E_HTTP, "behind its end"},
        {"a folded header", {"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "{}", NULL, 0, CLOSE, 0}, AZREDIS_E_HTTP, "folded"},
        {"a header without colon", {"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "{}", NULL, 0, CLOSE, 0}, AZREDIS_E_HTTP,
         "without colon"},
        {"redirect", {"HTTP/1.1 302 Found\r\nLocation: http://evil.example/token\r\nContent-Length: 0\r\n\r\n", "", NULL, 0,
         CLOSE, 0}, AZREDIS_E_HTTP, "points to evil.example"},
        {"redirect 307", {"HTTP/1.1 307 Temporary\r\nLocation: https://localhost/x\r\n\r\n", "", NULL, 0, CLOSE, 0},
         AZREDIS_E_HTTP, "never redirected"},
        {"redirect to nowhere", {"HTTP/1.1 301 Moved\r\n\r\n", "", NULL, 0, CLOSE, 0}, AZREDIS_E_HTTP, "no other host"},
        {"204", {"HTTP/1.1 204 No Content\r\n\r\n", "", NULL, 0, CLOSE, 0}, AZREDIS_E_HTTP, "HTTP 204"},
        {"304", {"HTTP/1.1 304 Not Modified\r\n\r\n", "", NULL, 0, CLOSE, 0}, AZREDIS_E_HTTP, "HTTP 304"},
        {"200 without a body", {OK200 "Content-Length: 0\r\n\r\n", "", NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "HTTP 200"},
        {"1xx without end", {"", "", "HTTP/1.1 100 Continue\r\n\r\n", 0, HANG, 0}, AZREDIS_E_HTTP, "too many 1xx"},
        {"101", {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "", NULL, 0, HANG, 0}, AZREDIS_E_HTTP,
         "switches to a protocol"},
        {"empty object", {CLOSING, "{}", NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "no access_token"},
        {"an array", {CLOSING, "[" ANSWER "]", NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "HTTP 200"},
        {"a number", {CLOSING, "42", NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "HTTP 200"},
        {"a token that is a number", {CLOSING, "{\"access_token\":123}", NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "no access_token"},
        {"an empty token", {CLOSING, "{\"expires_in\":3600,\"access_token\":\"\"}", NULL, 0, CLOSE, 0}, AZREDIS_E_JSON,
         "no access_token"},
        {"a token with CR LF", {CLOSING, "{\"expires_in\":3600,\"access_token\":\"a\\r\\nFLUSHALL\"}", NULL, 0, CLOSE, 0},
         AZREDIS_E_TOKEN, "a blank or another character"},
        {"a token with NUL", {CLOSING, "{\"expires_in\":3600,\"access_token\":\"a\\u0000b\"}", NULL, 0, CLOSE, 0},
         AZREDIS_E_TOKEN, NULL},
        {"a token that is no JWT", {CLOSING, "{\"expires_in\":3600,\"access_token\":\"opaque\"}", NULL, 0, CLOSE, 0},
         AZREDIS_E_TOKEN, "user name is unknown"},
        {"a token of another type", {CLOSING, "{\"token_type\":\"pop\",\"expires_in\":3600,\"access_token\":\"" JWT "\"}", NULL, 0,
         CLOSE, 0}, AZREDIS_E_TOKEN, "not of the type Bearer"},
        {"no life", {CLOSING, "{\"access_token\":\"" JWT "\"}", NULL, 0, CLOSE, 0}, AZREDIS_E_TOKEN, "when the token expires"},
        {"two answers", {CLOSING, ANSWER ANSWER, NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "not JSON"},
        {"half an escape", {CLOSING, "{\"access_token\":\"\\ud800\"}", NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "not JSON"},
        {"bytes that are no UTF-8", {CLOSING, "{\"access_token\":\"\300\200\"}", NULL, 0, CLOSE, 0}, AZREDIS_E_JSON, "not JSON"},
        {"error and token", {CLOSING, "{\"error\":\"x\",\"access_token\":\"" JWT "\"}", NULL, 0, CLOSE, 0}, AZREDIS_E_ENTRA,
         "HTTP 200"},
        {"an error with control characters", {"HTTP/1.1 400 Bad\r\n\r\n",
         "{\"error\":\"a\\u001b[2Jb\",\"error_description\":\"AADSTS1: \\u0007\\u009b \\r\\n %s%n\"}", NULL, 0, CLOSE, 0},
         AZREDIS_E_ENTRA, "HTTP 400"},
        {"an error without end", {"HTTP/1.1 400 Bad\r\n\r\n", "{\"error\":\"invalid\",\"error_description\":\"",
         "long words and more long words and ", 0, HANG, 0}, AZREDIS_E_LIMIT, "body longer than 65536 bytes"},
    };
    size_t i;
    page fine = {CLOSING, ANSWER, NULL, 0, CLOSE, 0};
    (void)state;
    case_name = "a good answer";
    assert_int_equal(answer_to(&fine).status, AZREDIS_OK);
    for (i = 0; i < sizeof PAGES / sizeof PAGES[0]; i++) {
        page g = PAGES[i].g;
        outcome out;
        case_name = PAGES[i].name;
        out = PAGES[i].status == AZREDIS_E_TIMEOUT ? sign_in(&g, 600) : answer_to(&g);
        if (out.status != PAGES[i].status)
            fail_msg("%s: status %s: %s", case_name, azredis_status_text(out.status), out.error.message);
        assert_says(&out.error, PAGES[i].says);
    }
    assert_quiet();
}

/* Bodies that are large in some dimension. */
static void test_http_bombs(void **state) {
    static const struct { const char *name, *before, *unit, *after; size_t times; } BOMBS[] = {
        {"nested arrays", "", "[", "", 60000},
        {"nested objects", "", "{\"a\":", "", 12000},
        {"nested in the error codes", "{\"error_codes\":", "[", "", 60000},
        {"digits", "{\"expires_in\":1", "0", ",\"access_token\":\"" JWT "\"}", 60000},
        {"an exponent", "{\"expires_in\":1e", "9", ",\"access_token\":\"" JWT "\"}", 60000},
        {"a key", "{\"", "k", "\":1}", 60000},
        {"escapes", "{\"access_token\":\"", "\\u0041", "\"}", 10000},
        {"members", "{", "\"a\":1,", "\"b\":2}", 9000},
        {"the same member", "{", "\"access_token\":\"x\",", "\"access_token\":\"y\"}", 3000},
        {"a token of 60000", "{\"expires_in\":3600,\"access_token\":\"", "A", "\"}", 60000},
    };
    size_t i, n;
    (void)state;
    for (i = 0; i < sizeof BOMBS / sizeof BOMBS[0]; i++) {
        char *mid = repeated(BOMBS[i].unit, BOMBS[i].times, &n), *all = malloc(n + 400);
        page g = {CLOSING, all, NULL, 0, CLOSE, 0};
        outcome out;
        case_name = BOMBS[i].name;
        assert_non_null(all);
        mid[n] = 0;
        sprintf(all, "%s%s%s", BOMBS[i].before, mid, BOMBS[i].after);
        out = answer_to(&g);
        free(mid);
        free(all);
        if (out.status != AZREDIS_E_JSON && out.status != AZREDIS_E_TOKEN && out.status != AZREDIS_E_LIMIT &&
            strcmp(case_name, "digits") != 0)       /* a long life is cut to 30 days */
            fail_msg("%s: status %s: %s", case_name, azredis_status_text(out.status), out.error.message);
    }
    case_name = "300 headers";
    {
        char *many = repeated("X-Some-Header: with a value of its own\r\n", 300, &n), *head = malloc(n + 200);
        page g = {head, ANSWER, NULL, 0, CLOSE, 0};
        assert_non_null(head);
        many[n] = 0;
        sprintf(head, OK200 "%s\r\n", many);
        assert_int_equal(answer_to(&g).status, n > 16000 ? AZREDIS_E_LIMIT : AZREDIS_OK);
        free(many);
        free(head);
    }
    assert_quiet();
}

/* The answer ends early, after every byte of the head and every 7th of the body, in three ways. */
static void test_http_truncated(void **state) {
    static const char *const BODIES[] = {ANSWER, "80\r\n{\"token_type\":\"Bearer\",\"expires_in\":3600,"};
    char heads[2][200], *chunked;
    size_t kind, k;
    int refused = 0;
    (void)state;
    snprintf(heads[0], sizeof heads[0], OK200 "Date: Mon, 23 Nov 2026 12:00:00 GMT\r\nContent-Length: %zu\r\n\r\n",
             strlen(ANSWER));
    snprintf(heads[1], sizeof heads[1], OK200 "Transfer-Encoding: chunked\r\n\r\n");
    chunked = malloc(strlen(ANSWER) + 64);
    assert_non_null(chunked);
    sprintf(chunked, "%zx\r\n%s\r\n0\r\n\r\n", strlen(ANSWER), ANSWER);
    for (kind = 0; kind < 2; kind++) {
        const char *body = kind ? chunked : BODIES[0];
        size_t head = strlen(heads[kind]), all = head + strlen(body);
        for (k = 1; k <= all; k += k < head ? 1 : k + 7 < all || k == all ? 7 : all - k) {
            page g = {heads[kind], body, NULL, k, CLOSE, (int)(k % 3)};
            char name[60];
            outcome out;
            snprintf(name, sizeof name, "%zu of %zu bytes, end %zu", k, all, k % 3);
            case_name = name;
            if (k == all)
                g.way = 0;
            out = answer_to(&g);
            if ((out.status == AZREDIS_OK) != (k == all))
                fail_msg("%s: %s: %s", name, azredis_status_text(out.status), out.error.message);
            if (out.status != AZREDIS_OK)
                assert_says(&out.error, "connection");
            refused += out.status != AZREDIS_OK;
        }
    }
    free(chunked);
    assert_true(refused > 200);
    assert_quiet();
}

/* ---- wrong options --------------------------------------------------------------------------- */

static azredis_status no_token(void *user, const char *scope, azredis_fetched *out) {
    (void)user;
    (void)scope;
    snprintf(out->reason, sizeof out->reason, "not today");
    return AZREDIS_E_STATE;
}

#define LONG64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define LONG256 LONG64 LONG64 LONG64 LONG64

static void test_wrong_options(void **state) {
    static const struct { const char *name; azredis_options o; azredis_status status; const char *says; } ROWS[] = {
        {"no host", {0}, AZREDIS_E_ARG, "host"},
        {"empty host", {.host = ""}, AZREDIS_E_ARG, "host"},
        {"a blank in the host", {.host = "my cache"}, AZREDIS_E_ARG, "host"},
        {"a URL", {.host = "https://name.redis.azure.net"}, AZREDIS_E_ARG, "host"},
        {"a redis URL", {.host = "rediss://name.redis.azure.net:10000"}, AZREDIS_E_ARG, "host"},
        {"port 0", {.host = "localhost:0"}, AZREDIS_E_ARG, "port"},
        {"port 65536", {.host = "localhost:65536"}, AZREDIS_E_ARG, "port"},
        {"port x", {.host = "localhost:x"}, AZREDIS_E_ARG, "port"},
        {"an empty port", {.host = "localhost:"}, AZREDIS_E_ARG, "port"},
        {"an open bracket", {.host = "[::1"}, AZREDIS_E_ARG, "host"},
        {"a port alone", {.host = ":6379"}, AZREDIS_E_ARG, "host"},
        {"a host of 256", {.host = LONG256}, AZREDIS_E_ARG, "host"},
        {"CR LF in the host", {.host = "localhost\r\nX: y"}, AZREDIS_E_ARG, "host"},
        {"two ports", {.host = "localhost:1234", .tcp_port = 4321}, AZREDIS_E_ARG, "tcp_port"},
        {"a socket with TLS", {.host = "/tmp/redis.sock"}, AZREDIS_E_ARG, "plaintext"},
        {"plain text to elsewhere", {.host = "name.region.redis.azure.net", .plaintext = 1}, AZREDIS_E_ARG, "plaintext"},
        {"plain text to 10.0.0.1", {.host = "10.0.0.1", .plaintext = 1}, AZREDIS_E_ARG, "plaintext"},
        {"a path of 256", {.host = "/" LONG256, .plaintext = 1}, AZREDIS_E_ARG, "path"},
        {"protocol 1", {.host = "localhost", .protocol = 1}, AZREDIS_E_ARG, "protocol"},
        {"protocol 4", {.host = "localhost", .protocol = 4}, AZREDIS_E_ARG, "protocol"},
        {"protocol -3", {.host = "localhost", .protocol = -3}, AZREDIS_E_ARG, "protocol"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        azredis_options o = ROWS[i].o;
        azredis_reply r;
        azredis_client *c;
        outcome out;
        memset(&r, 0, sizeof r);
        o.identity = &password;
        case_name = ROWS[i].name;
        out = attempt(&o, 300);
        if (out.status != ROWS[i].status)
            fail_msg("%s: status %s: %s", case_name, azredis_status_text(out.status), out.error.message);
        assert_says(&out.error, ROWS[i].says);
        assert_true(out.took < 100);

        c = azredis_open(&o);           /* every call tells the same */
        assert_int_equal(azredis_command(c, &r, "PING"), ROWS[i].status);
        assert_says(r.error, ROWS[i].says);
        assert_int_equal(r.fate, AZREDIS_NOT_SENT);
        assert_int_equal(azredis_wait(c, 1), ROWS[i].status);
        assert_int_equal(azredis_submit(c, NULL, 1, &(azredis_str){"PING", 4}, NULL, NULL), ROWS[i].status);
        azredis_close(c);
        azredis_reply_free(&r);
        assert_int_equal(outstanding, 0);
    }
}

static void test_wrong_identity(void **state) {
#define APP(tenant, client) .identity = AZREDIS_ID_CLIENT_SECRET, .tenant_id = tenant, .client_id = client, \
    .client_secret = "s3cr3t-s3cr3t"
    static const struct { const char *name; azredis_auth_options a; const char *says; } ROWS[] = {
        {"identity 99", {.identity = (azredis_identity)99}, "identity 99"},
        {"identity -1", {.identity = (azredis_identity)-1}, "identity -1"},
        {"no tenant", {.identity = AZREDIS_ID_CLIENT_SECRET, .client_id = NIL, .client_secret = "x"}, "tenant_id"},
        {"an empty tenant", {.identity = AZREDIS_ID_CLIENT_SECRET, .tenant_id = "", .client_id = NIL, .client_secret = "x"},
         "tenant_id"},
        {"no client", {.identity = AZREDIS_ID_CLIENT_SECRET, .tenant_id = NIL, .client_secret = "x"}, "client_id"},
        {"no secret", {.identity = AZREDIS_ID_CLIENT_SECRET, .tenant_id = NIL, .client_id = NIL}, "client_secret"},
        {"a path as tenant", {APP("../../common", NIL)}, "tenant"},
        {"a URL as tenant", {APP("https://login.microsoftonline.com/x", NIL)}, "tenant"},
        {"a query in the tenant", {APP("x?y=z", NIL)}, "tenant"},
        {"CR LF in the tenant", {APP("x\r\nHost: evil", NIL)}, "tenant"},
        {"a percent in the tenant", {APP("x%2f..", NIL)}, "tenant"},
        {"a blank in the client", {APP(NIL, "my app")}, "client"},
        {"a line end in the client", {APP(NIL, NIL "\n")}, "client"},
        {"no callback", {.identity = AZREDIS_ID_CALLBACK}, "get_token"},
        {"no key", {.identity = AZREDIS_ID_ACCESS_KEY}, "password"},
        {"no user", {.identity = AZREDIS_ID_PASSWORD, .password = "x"}, "user"},
        {"no password", {.identity = AZREDIS_ID_PASSWORD, .user = "x"}, "password"},
        {"a user of 64", {.identity = AZREDIS_ID_PASSWORD, .user = LONG64, .password = "x"}, "user"},
        {"two scopes", {APP(NIL, NIL), .scope = "https://redis.azure.com/.default openid"}, "scope"},
        {"an authority without TLS", {APP(NIL, NIL), .authority_host = "http://login.microsoftonline.com"}, "authority"},
        {"an authority with a path", {APP(NIL, NIL), .authority_host = "https://login.microsoftonline.com/x"}, "authority"},
        {"an authority of others", {APP(NIL, NIL), .authority_host = "https://login.evil.example"}, "authority_host"},
        {"another port", {APP(NIL, NIL), .authority_host = "https://login.microsoftonline.com:444"}, "authority_host"},
        {"a user in the authority", {APP(NIL, NIL), .authority_host = "https://login.microsoftonline.com@evil.example"}, "authority"},
        {"a longer name", {APP(NIL, NIL), .authority_host = "login.microsoftonline.com.evil.example"}, "authority_host"},
        {"another one is allowed", {APP(NIL, NIL), .authority_host = "https://a.example", .allow_authority = "https://b.example"},
         "authority_host"},
        {"nonsense is allowed", {APP(NIL, NIL), .allow_authority = "http://b.example"}, "allow_authority"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        azredis_auth_options a = ROWS[i].a;
        azredis_options o = {.host = "localhost"};
        azredis_token t;
        azredis_error why;
        azredis_auth *auth;
        outcome out;
        case_name = ROWS[i].name;
        o.identity = &a;
        out = attempt(&o, 300);
        if (out.status != AZREDIS_E_ARG)
            fail_msg("%s: status %s: %s", case_name, azredis_status_text(out.status), out.error.message);
        assert_says(&out.error, ROWS[i].says);
        assert_null(strstr(out.error.message, "s3cr3t-s3cr3t"));
        auth = azredis_auth_open(&a);
        assert_int_equal(azredis_auth_token(auth, &t, 100, &why), AZREDIS_E_ARG);
        assert_says(&why, ROWS[i].says);
        azredis_auth_release(auth);
    }
#undef APP
}

/* What is found out only while connecting. */
static void test_wrong_trust(void **state) {
    char host[32];
    azredis_options o = redis_options(&password, host);
    outcome out;
    (void)state;
    snprintf(host, sizeof host, "localhost:%d", authority.port);
    o.plaintext = 0;
    o.abort_on_connect_fail = 1;
    o.connect_retry = 1;
    o.ca = hostile_ca;
    o.ca_len = strlen(hostile_ca) + 1;

    case_name = "the right CA";
    assert_int_equal(attempt(&o, 2000).status, AZREDIS_OK);
    case_name = "an empty tls_host";
    o.tls_host = "";
    out = attempt(&o, 2000);
    assert_int_equal(out.status, AZREDIS_E_ARG);
    assert_says(&out.error, "tls_host");
    case_name = "a tls_host of 256";
    o.tls_host = LONG256;
    out = attempt(&o, 2000);
    assert_int_equal(out.status, AZREDIS_E_ARG);
    assert_says(&out.error, "tls_host");
    case_name = "another tls_host";
    o.tls_host = "elsewhere.example";
    out = attempt(&o, 2000);
    assert_int_equal(out.status, AZREDIS_E_CERT);
    assert_says(&out.error, "wrong host");
    o.tls_host = NULL;
    case_name = "a ca that is none";
    o.ca = "this is no certificate";
    o.ca_len = 23;
    out = attempt(&o, 2000);
    assert_int_equal(out.status, AZREDIS_E_CERT);
    assert_says(&out.error, "given ca");
    case_name = "a ca cut in half";
    o.ca = hostile_ca;
    o.ca_len = strlen(hostile_ca) / 2;
    out = attempt(&o, 2000);
    assert_int_equal(out.status, AZREDIS_E_CERT);
    case_name = "a ca_file that is not there";
    o.ca = NULL;
    o.ca_len = 0;
    o.ca_file = "/nonexistent/ca.pem";
    out = attempt(&o, 2000);
    assert_int_equal(out.status, AZREDIS_E_CERT);
    assert_says(&out.error, "/nonexistent/ca.pem");
    case_name = "a ca_file that is a directory";
    o.ca_file = "/";
    out = attempt(&o, 2000);
    assert_int_equal(out.status, AZREDIS_E_CERT);
    case_name = "an unknown callback's reason";
    {
        azredis_auth_options a = {.identity = AZREDIS_ID_CALLBACK, .get_token = no_token};
        azredis_options p = {.host = "localhost", .identity = &a};
        out = attempt(&p, 300);
        assert_int_equal(out.status, AZREDIS_E_STATE);
        assert_says(&out.error, "not today");
    }
    assert_quiet();
}

static void test_null_everywhere(void **state) {
    azredis_reply r;
    azredis_error why;
    azredis_message m;
    azredis_stats_data d;
    azredis_link_record rec;
    azredis_identity id;
    azredis_token t;
    azredis_str ping = {"PING", 4}, none = {NULL, 0}, hole = {NULL, 3};
    azredis_cmd cmd = {1, &ping};
    azredis_auth *a;
    azredis_client *c;
    azredis_options o = {.host = "localhost:1", .identity = &password, .on_event = on_event};
    (void)state;
    case_name = "NULL";
    memset(&r, 0, sizeof r);
    assert_int_equal(azredis_connect(NULL, 10, &why), AZREDIS_E_NOMEM);
    assert_told(&why);
    assert_int_equal(azredis_connect(NULL, 10, NULL), AZREDIS_E_NOMEM);
    assert_int_equal(azredis_command(NULL, &r, "PING"), AZREDIS_E_NOMEM);
    assert_told(r.error);
    assert_int_equal(azredis_command(NULL, NULL, "PING"), AZREDIS_E_NOMEM);
    assert_int_equal(azredis_command_argv(NULL, &r, NULL, 1, &ping), AZREDIS_E_NOMEM);
    assert_int_equal(azredis_exec(NULL, &r, NULL, &cmd, 1), AZREDIS_E_NOMEM);
    assert_int_equal(azredis_submit(NULL, NULL, 1, &ping, NULL, NULL), AZREDIS_E_NOMEM);
    assert_int_equal(azredis_wait(NULL, 10), AZREDIS_E_NOMEM);
    assert_null(azredis_subscribe(NULL, AZREDIS_CHANNEL, "x", NULL, NULL));
    assert_int_equal(azredis_next(NULL, &m, 10), AZREDIS_E_ARG);
    azredis_unsubscribe(NULL);
    azredis_stats(NULL, &d);
    assert_int_equal(d.connected, 0);
    azredis_stats(NULL, NULL);
    azredis_close(NULL);
    azredis_reply_free(NULL);
    azredis_token_wipe(NULL);
    azredis_auth_release(NULL);
    assert_int_equal(azredis_auth_token(NULL, &t, 10, &why), AZREDIS_E_NOMEM);
    assert_int_equal(azredis_auth_token(NULL, NULL, 10, NULL), AZREDIS_E_NOMEM);
    assert_int_equal(azredis_auth_record(NULL, 0, &rec), AZREDIS_E_ARG);
    assert_int_equal(azredis_identity_by_name(NULL, &id), AZREDIS_E_ARG);
    assert_int_equal(azredis_identity_by_name("default", NULL), AZREDIS_E_ARG);
    assert_int_equal(azredis_identity_by_name("broker", &id), AZREDIS_E_ARG);
    assert_null(azredis_field(NULL, "x"));
    assert_null(azredis_attribute(NULL));
    assert_null(azredis_text(NULL).ptr);
    assert_int_equal(azredis_int(NULL, &(int64_t){0}), AZREDIS_E_ARG);
    assert_int_equal(azredis_double(NULL, &(double){0}), AZREDIS_E_ARG);
    assert_int_equal(azredis_bool(NULL, &(int){0}), AZREDIS_E_ARG);
    assert_non_null(azredis_status_text((azredis_status)-999));
    assert_non_null(azredis_event_name((azredis_event_type)99));
    azredis_reply_free(&r);

    c = azredis_open(NULL);             /* no options: no host */
    assert_int_equal(azredis_connect(c, 10, &why), AZREDIS_E_ARG);
    assert_has(why.message, "host");
    azredis_close(c);
    a = azredis_auth_open(NULL);        /* the default chain */
    assert_int_equal(azredis_auth_token(a, NULL, 10, &why), AZREDIS_E_ARG);
    assert_has(why.message, "out");
    assert_int_equal(azredis_auth_record(a, 0, NULL), AZREDIS_E_ARG);
    azredis_auth_release(a);

    c = azredis_open(&o);
    assert_int_equal(azredis_command_argv(c, &r, NULL, 0, NULL), AZREDIS_E_ARG);
    assert_told(r.error);
    assert_int_equal(azredis_command_argv(c, &r, NULL, -1, &ping), AZREDIS_E_ARG);
    assert_int_equal(azredis_command_argv(c, &r, NULL, 1, NULL), AZREDIS_E_ARG);
    assert_int_equal(azredis_command_argv(c, &r, NULL, 1, &none), AZREDIS_E_ARG);
    assert_int_equal(azredis_command_argv(c, &r, NULL, 1, &hole), AZREDIS_E_ARG);
    assert_int_equal((azredis_command)(c, &r, NULL), AZREDIS_E_ARG);
    assert_int_equal(azredis_exec(c, &r, NULL, NULL, 1), AZREDIS_E_ARG);
    assert_int_equal(azredis_exec(c, &r, NULL, &cmd, 0), AZREDIS_E_ARG);
    assert_int_equal(azredis_submit(c, NULL, 0, NULL, NULL, NULL), AZREDIS_E_ARG);
    assert_int_equal(azredis_submit(c, NULL, 1, &hole, NULL, NULL), AZREDIS_E_ARG);
    assert_null(azredis_subscribe(c, 7, "x", NULL, NULL));
    assert_null(azredis_subscribe(c, AZREDIS_CHANNEL, NULL, NULL, NULL));
    assert_int_equal(azredis_command(c, &r, "MULTI"), AZREDIS_E_ARG);
    assert_has(r.error->message, "refused");
    azredis_reply_free(&r);
    azredis_close(c);
}

/* A caller built with another header. */
static void test_versions_and_sizes(void **state) {
    struct { azredis_options o; unsigned char more[64]; } big;
    struct { azredis_stats_data d; unsigned char more[64]; } bigger;
    azredis_error why;
    azredis_client *c;
    size_t i;
    (void)state;
    case_name = "version";
    memset(&big, 0, sizeof big);
    big.o.host = "localhost";
    big.o.identity = &password;
    big.o.port = &counted;
    assert_null(azredis_open_v(&big.o, sizeof big.o, AZREDIS_VERSION + 0x010000));
    assert_null(azredis_open_v(&big.o, sizeof big.o, 0xffffffffu));
    assert_null(azredis_auth_open_v(NULL, sizeof(azredis_auth_options), 0x020000));
    c = azredis_open_v(&big.o, sizeof big, AZREDIS_VERSION + 1);      /* larger, and asks for nothing new */
    assert_non_null(c);
    azredis_close(c);
    big.more[sizeof big.more - 1] = 1;
    assert_null(azredis_open_v(&big.o, sizeof big, AZREDIS_VERSION + 1));
    c = azredis_open_v(&big.o, 0, AZREDIS_VERSION);                   /* smaller: the rest is zero */
    assert_non_null(c);
    assert_int_equal(azredis_connect(c, 10, &why), AZREDIS_E_ARG);
    assert_has(why.message, "host");
    azredis_close(c);
    c = azredis_open_v(&big.o, sizeof(char *), AZREDIS_VERSION);      /* the host alone; libc's memory */
    assert_non_null(c);
    azredis_close(c);
    assert_int_equal(outstanding, 0);
    memset(&bigger, 0x55, sizeof bigger);
    azredis_stats_v(NULL, &bigger.d, 4);
    for (i = 4; i < sizeof bigger; i++) assert_int_equal(((unsigned char *)&bigger)[i], 0x55);
    azredis_stats_v(NULL, &bigger.d, sizeof bigger);
    for (i = 0; i < sizeof bigger; i++) assert_int_equal(((unsigned char *)&bigger)[i], 0);
}

/* ---- environment ----------------------------------------------------------------------------- */

static void env_set(const char *tenant, const char *client, const char *secret, const char *host) {
    const char *names[] = {"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_AUTHORITY_HOST"};
    const char *values[] = {tenant, client, secret, host};
    size_t i;
    for (i = 0; i < 4; i++)
        if (values[i])
            setenv(names[i], values[i], 1);
        else
            unsetenv(names[i]);
}

static void test_environment(void **state) {
    static const struct { const char *name, *tenant, *client, *secret, *host; azredis_status status; const char *says[2]; }
    ROWS[] = {
        {"nothing", NULL, NULL, NULL, NULL, AZREDIS_E_NO_CREDENTIAL, {"missing AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"}},
        {"all empty", "", "", "", "", AZREDIS_E_NO_CREDENTIAL, {"missing AZURE_TENANT_ID", "AZURE_CLIENT_ID"}},
        {"no tenant", NULL, NIL, "s3cr3t-s3cr3t", NULL, AZREDIS_E_NO_CREDENTIAL, {"missing AZURE_TENANT_ID", "found AZURE_CLIENT_ID"}},
        {"no client", NIL, NULL, "s3cr3t-s3cr3t", NULL, AZREDIS_E_NO_CREDENTIAL, {"missing AZURE_CLIENT_ID", "found AZURE_TENANT_ID"}},
        {"no secret", NIL, NIL, NULL, NULL, AZREDIS_E_NO_CREDENTIAL, {"missing AZURE_CLIENT_SECRET", "found"}},
        {"an empty secret", NIL, NIL, "", NULL, AZREDIS_E_NO_CREDENTIAL, {"missing AZURE_CLIENT_SECRET", "found"}},
        {"a URL as tenant", "https://x", NIL, "s3cr3t-s3cr3t", NULL, AZREDIS_E_ARG, {"tenant", "environment"}},
        {"a quoted client", NIL, "\"" NIL "\"", "s3cr3t-s3cr3t", NULL, AZREDIS_E_ARG, {"client", "environment"}},
        {"an authority without TLS", NIL, NIL, "s3cr3t-s3cr3t", "http://localhost", AZREDIS_E_ARG,
         {"AZURE_AUTHORITY_HOST", "https"}},
        {"an authority of others", NIL, NIL, "s3cr3t-s3cr3t", "https://login.evil.example", AZREDIS_E_ARG,
         {"AZURE_AUTHORITY_HOST", "allow_authority"}},
        {"an authority that is none", NIL, NIL, "s3cr3t-s3cr3t", "https://", AZREDIS_E_ARG, {"AZURE_AUTHORITY_HOST", NULL}},
        {"an authority with a port that is none", NIL, NIL, "s3cr3t-s3cr3t", "https://localhost:99999", AZREDIS_E_ARG,
         {"AZURE_AUTHORITY_HOST", NULL}},
    };
    size_t i;
    int chain;
    (void)state;
    for (i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        for (chain = 0; chain < 2; chain++) {
            azredis_auth_options a = {.identity = chain ? AZREDIS_ID_DEFAULT : AZREDIS_ID_ENVIRONMENT};
            azredis_options o = {.host = "localhost:1", .identity = &a};
            outcome out;
            case_name = ROWS[i].name;
            env_set(ROWS[i].tenant, ROWS[i].client, ROWS[i].secret, ROWS[i].host);
            out = attempt(&o, 300);
            env_set(NULL, NULL, NULL, NULL);
            if (out.status != ROWS[i].status)
                fail_msg("%s: status %s: %s", case_name, azredis_status_text(out.status), out.error.message);
            assert_says(&out.error, ROWS[i].says[0]);
            assert_says(&out.error, ROWS[i].says[1]);
            assert_null(strstr(out.error.message, "s3cr3t"));
            assert_true(out.took < 250);      /* nobody waits for what cannot pass by itself */
        }
    }
    unsetenv("SSL_CERT_FILE");
}

/* What a failed test has left open is not the next one's. */
static int forget(void **state) {
    (void)state;
    azredis_close(client);
    client = NULL;
    hostile_set(&redis, redis_script, &good);
    hostile_set(&authority, redis_script, &good);
    outstanding = 0;
    case_name = "?";
    return 0;
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup(f, forget)
    const struct CMUnitTest tests[] = {
        TEST(test_redis_garbage),
        TEST(test_redis_floods),
        TEST(test_case19_redis_wrong_answers),
        TEST(test_redis_closes_anywhere),
        TEST(test_case16_redis_silent),
        TEST(test_case16_redis_silent_by_option),
        TEST(test_redis_answers_to_nobody),
        TEST(test_http_answers),
        TEST(test_http_bombs),
        TEST(test_http_truncated),
        TEST(test_wrong_options),
        TEST(test_wrong_identity),
        TEST(test_wrong_trust),
        TEST(test_null_everywhere),
        TEST(test_versions_and_sizes),
        TEST(test_environment),
    };
    return cmocka_run_group_tests_name("hostile", tests, setup, teardown);
}
