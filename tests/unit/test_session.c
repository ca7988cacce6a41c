/* One connection against a server that is a script of bytes: handshake, matching, fence, time, the end. Numbers in
 * the names are those of the list of hard cases in the specification of the Redis side.
 * After each test every command must have ended exactly once, and its memory must have come home exactly once. */
#include "pure.h"

enum { COMMANDS = 1200, COMMAND_MS = 5000, AUTH_MS = 15000, HOUR = 3600000 };
#define JWT "eyJhbGciOiJSUzI1NiJ9.eyJvaWQiOiIxMTExMTExMSJ9.c2lnbmF0dXJlLWJ5dGVzLXRoYXQtbmV2ZXItc2hvdw"

typedef struct command {
    azri_cmd       c;
    char           frame[512], text[200];
    int            ends, home, back;    /* told, memory free again, handed back unsent */
    azredis_status st;
    azredis_fate   fate;
} command;

static struct {
    azri_session_conf conf;
    azri_rng      rng;
    azri_news     news;
    azri_done     done;
    azri_counts   counts;
    azri_session  s;
    azredis_error e;
    azredis_status st;
    azri_queue    unsent;
    uint64_t      now;
    command       cmd[COMMANDS];
    int           cmds;
} r;

/* ---- the pump's place ---- */

static void deliver(void) {
    azri_cmd *c;
    while ((c = r.done.head) != NULL) {
        command *k = (command *)c->user;
        r.done.head = c->done_next;
        if (!r.done.head) r.done.tail = NULL;
        c->done_next = NULL;
        c->in_done = 0;
        if (!c->told) {
            azredis_str text = azredis_text(c->reply->value);
            k->ends++;
            k->st = c->reply->status;
            k->fate = c->reply->fate;
            assert_int_equal(c->reply->error != NULL, k->st != AZREDIS_OK);
            snprintf(k->text, sizeof k->text, "%.*s", (int)text.len, text.ptr ? text.ptr : "");
        }
        c->told = 1;
        if (!c->linked) k->home++;
    }
}

static int on_frame(const azri_frame *f) {
    r.st = azri_session_frame(&r.s, f, r.now, &r.e);
    return r.st == AZREDIS_OK;
}

static azredis_status server(const char *text) {
    r.st = AZREDIS_OK;
    hear(&r.s, text, 4096, on_frame);
    deliver();
    return r.st;
}

/* The server's answers to these commands, by their own numbers. */
static azredis_status answer(int from, int to) {
    char text[32];
    r.st = AZREDIS_OK;
    for (; from <= to && r.st == AZREDIS_OK; from++) {
        snprintf(text, sizeof text, "+v%d|", from);
        (void)server(text);
    }
    return r.st;
}

static azredis_status tick(uint64_t at) {
    azredis_status st;
    r.now = at;
    st = azri_session_tick(&r.s, at, &r.e);
    deliver();
    if (st == AZREDIS_OK) assert_true(azri_session_deadline(&r.s, at) >= at);
    return st;
}

static const char *out(void) { return sent(&r.s, r.now); }

static void closed(void) {
    azri_cmd *c;
    (void)azri_fail(&r.e, AZREDIS_E_CLOSED, "test", "closed");
    memset(&r.unsent, 0, sizeof r.unsent);
    azri_session_closed(&r.s, &r.e, &r.unsent);
    deliver();
    for (c = r.unsent.head; c; c = c->next) ((command *)c->user)->back++;
}

/* ---- the user's place ---- */

static int give_words(azri_kind kind, uint64_t ms, int n, const char *a, const char *b) {
    command *k = &r.cmd[r.cmds];
    azredis_str argv[2];
    assert_true(r.cmds < COMMANDS);
    argv[0] = azri_str(a);
    argv[1] = azri_str(b);
    k->c.kind = kind;
    k->c.bytes = k->frame;
    k->c.len = azri_resp_size(n, argv);
    assert_true(k->c.len <= sizeof k->frame);
    (void)azri_resp_write(k->frame, n, argv);
    k->c.deadline = ms == AZRI_NEVER64 ? ms : r.now + ms;
    k->c.reply = &k->c.own;
    k->c.user = k;
    azri_session_push_cmd(&r.s, &k->c);
    return r.cmds++;
}

/* n commands "GET k<number>". Returns the number of the last. */
static int give(int n, uint64_t ms) {
    char key[16];
    while (n--) {
        snprintf(key, sizeof key, "k%d", r.cmds);
        (void)give_words(AZRI_CMD_USER, ms, 2, "GET", key);
    }
    return r.cmds - 1;
}

static int subscribe(const char *channel) { return give_words(AZRI_CMD_SUBSCRIBE, AZRI_NEVER64, 2, "SUBSCRIBE", channel); }

static void token_after(uint32_t generation, uint64_t delay) {
    char jwt[sizeof JWT + 16];
    azri_blob *b;
    snprintf(jwt, sizeof jwt, "token-%u", (unsigned)generation);
    b = new_token(jwt, generation, r.now + HOUR, HOUR);
    azri_session_token(&r.s, b, r.now, delay);
    azri_blob_drop(b);
}

static void token(uint32_t generation) {
    token_after(generation, 0);
    if (r.s.state == AZRI_READY) assert_int_equal(tick(r.now), AZREDIS_OK);
}

static void opened_with(const char *jwt, uint64_t life) {
    azri_blob *b = new_token(jwt, 1, life == AZRI_NEVER64 ? life : r.now + life, life);
    azri_session_opened(&r.s, b, r.now);
    azri_blob_drop(b);
}

static void ready_for(uint64_t life) {
    opened_with("token-1", life);
    (void)out();
    assert_int_equal(server(WELCOME), AZREDIS_OK);
    assert_int_equal(r.s.state, AZRI_READY);
    r.news.count = 0;
}

static void ready(void) { ready_for(HOUR); }

static void one_is(int i, azredis_status st, azredis_fate fate, const char *text) {
    assert_int_equal(r.cmd[i].ends, 1);
    assert_int_equal(r.cmd[i].st, st);
    assert_int_equal(r.cmd[i].fate, fate);
    assert_string_equal(r.cmd[i].text, text);
}

static void ok(int from, int to) {
    char text[16];
    for (; from <= to; from++) {
        snprintf(text, sizeof text, "v%d", from);
        one_is(from, AZREDIS_OK, AZREDIS_ANSWERED, text);
    }
}

static void blank(void) {
    memset(&r, 0, sizeof r);
    memset(&wire, 0, sizeof wire);
    r.now = 1000000;
    r.rng.state = 1;
    r.news.level = AZREDIS_LOG_DEBUG;
    r.conf.protocol = 3;
    r.conf.auth_ms = AUTH_MS;
    r.conf.command_ms = COMMAND_MS;
    r.conf.keepalive_ms = 60000;
    r.conf.max_reply = 1 << 20;
    r.conf.endpoint = "host:10000";
    azri_session_init(&r.s, &mem, &r.conf, &r.rng, &r.news, &r.done, &r.counts);
}

static int begin(void **state) {
    (void)state;
    memset(&heap, 0, sizeof heap);
    blank();
    return 0;
}

static void done_with(void) {
    int i;
    if (r.s.state != AZRI_DOWN) closed();
    for (i = 0; i < r.cmds; i++) {
        assert_int_equal(r.cmd[i].ends + r.cmd[i].back, 1);
        assert_int_equal(r.cmd[i].home + r.cmd[i].back, 1);
        azredis_reply_free(&r.cmd[i].c.own);
    }
    azri_session_free(&r.s);
    assert_int_equal(heap.live, 0);
}

static int end(void **state) {
    (void)state;
    done_with();
    return 0;
}

/* ---- handshake ---- */

static void case14_the_handshake_is_one_flight_with_auth_first(void **state) {
    static const struct { int protocol; uint32_t database; const char *name, *want; } row[] = {
        { 3, 0, "", "AUTH oid token-1, HELLO 3, CLIENT SETINFO LIB-NAME azredis-entra, CLIENT SETINFO LIB-VER " AZREDIS_VERSION_TEXT ", PING N" },
        { 3, 7, "me", "AUTH oid token-1, HELLO 3 SETNAME me, CLIENT SETINFO LIB-NAME azredis-entra, CLIENT SETINFO LIB-VER "
          AZREDIS_VERSION_TEXT ", SELECT 7, PING N" },
        { 2, 0, "", "AUTH oid token-1, CLIENT SETINFO LIB-NAME azredis-entra, CLIENT SETINFO LIB-VER " AZREDIS_VERSION_TEXT ", PING N" },
        { 2, UINT32_MAX, "me", "AUTH oid token-1, CLIENT SETNAME me, CLIENT SETINFO LIB-NAME azredis-entra, CLIENT SETINFO LIB-VER "
          AZREDIS_VERSION_TEXT ", SELECT 4294967295, PING N" }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        r.conf.protocol = row[i].protocol;
        r.conf.database = row[i].database;
        snprintf(r.conf.name, sizeof r.conf.name, "%s", row[i].name);
        opened_with("token-1", HOUR);
        assert_int_equal(r.s.state, AZRI_HANDSHAKE);
        assert_true(azri_session_has_output(&r.s));
        assert_string_equal(out(), row[i].want);
        assert_false(azri_session_has_output(&r.s));
        closed();
    }
    memset(r.conf.name, 'n', sizeof r.conf.name - 1);           /* the longest name and number still fit */
    opened_with("token-1", HOUR);
    assert_non_null(strstr(out(), r.conf.name));
}

static void the_handshake_bytes_are_these(void **state) {
    static const char want[] =
        "*3\r\n$4\r\nAUTH\r\n$3\r\noid\r\n$7\r\ntoken-1\r\n*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"
        "*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$13\r\nazredis-entra\r\n"
        "*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$7\r\nLIB-VER\r\n$5\r\n" AZREDIS_VERSION_TEXT "\r\n*2\r\n$4\r\nPING\r\n$32\r\n";
    (void)state;
    opened_with("token-1", HOUR);
    assert_int_equal(take(&r.s, sizeof wire.bytes, r.now), sizeof want - 1 + AZRI_NONCE_LEN + 2);
    assert_memory_equal(wire.bytes, want, sizeof want - 1);
    assert_true(r.counts.bytes_out == wire.len);
}

/* A program that did not pump for a while comes back: what was not written yet, or not answered, is of no use any more. */
static void a_handshake_ends_with_its_token(void **state) {
    uint64_t begun = r.now;
    (void)state;
    opened_with("token-1", 10000);
    assert_true(azri_session_deadline(&r.s, r.now) == begun + 9500);
    assert_int_equal(tick(begun + 9499), AZREDIS_OK);
    assert_int_equal(tick(begun + 9500), AZREDIS_E_CLOSED);     /* what is written now may come too late */
    assert_non_null(strstr(r.e.message, "has expired"));
    assert_true(r.e.retryable);
    closed();
    opened_with("token-1", 10000);
    (void)out();
    assert_int_equal(server("+OK|"), AZREDIS_OK);               /* AUTH was accepted, the rest is still to come */
    assert_int_equal(tick(r.now + 9500), AZREDIS_E_CLOSED);
    closed();
    opened_with("token-1", 2 * AUTH_MS);
    assert_int_equal(tick(r.now + AUTH_MS), AZREDIS_E_TIMEOUT);
}

static void case17_a_token_of_16384_bytes_goes_out_whole(void **state) {
    char jwt[AZRI_TOKEN_MAX + 1];
    (void)state;
    memset(jwt, 't', AZRI_TOKEN_MAX);
    jwt[AZRI_TOKEN_MAX] = '\0';
    opened_with(jwt, HOUR);
    while (take(&r.s, 1000, r.now)) {}
    assert_memory_equal(wire.bytes, "*3\r\n$4\r\nAUTH\r\n$3\r\noid\r\n$16384\r\ntttt", 35);
    assert_memory_equal(out(), "AUTH oid tttt", 13);
    assert_int_equal(server(WELCOME), AZREDIS_OK);
}

#define MAP(proto, mode) "%2|$5|proto|:" proto "|$4|mode|" mode "|"
#define AFTER "+OK|+OK|@|"

typedef struct greeting {
    const char    *says;
    uint32_t       database;
    azri_state     state;
    int            resp3, no_fence;
    azredis_status code;
    int            retryable, rejected;
} greeting;

/* In a ready session code is OK; else the connection must be closed with it. */
static void greet(const greeting *g, size_t n) {
    for (; n--; g++) {
        uint64_t hash;
        blank();
        r.conf.database = g->database;
        opened_with("token-1", HOUR);
        hash = r.s.trying->hash;
        (void)out();
        r.e.message[0] = '\0';
        if (server(g->says) != g->code) fail_msg("%s: %d %s", g->says, (int)r.st, r.e.message);
        assert_int_equal(r.s.state, g->state);
        assert_int_equal(r.s.resp3, g->resp3);
        assert_int_equal(r.s.no_fence, g->no_fence);
        if (g->code != AZREDIS_OK && r.e.retryable != g->retryable)
            fail_msg("%s: retryable %d", g->says, r.e.retryable);
        if (g->code != AZREDIS_OK) assert_true(r.e.message[0] && r.e.code == g->code);
        assert_true(r.s.rejected == (g->rejected ? hash : 0));
        if (g->state == AZRI_READY) assert_true(r.s.blob && !r.s.trying && r.s.blob->generation == 1);
        if (g->state == AZRI_READY) assert_string_equal(out(), "");
        done_with();
    }
    blank();
}

static void case14_a_server_without_resp3_is_served_in_resp2(void **state) {
    static const greeting row[] = {
        { "+OK|" HELLO3 AFTER, 0, AZRI_READY, 1, 0, AZREDIS_OK, 0, 0 },
        { "+OK|-ERR unknown command 'HELLO', with args beginning with: '3'|" AFTER, 0, AZRI_READY, 0, 0, AZREDIS_OK, 0, 0 },
        { "+OK|-ERR unknown command `HELLO`, with args beginning with: `3`, |" AFTER, 0, AZRI_READY, 0, 0, AZREDIS_OK, 0, 0 },
        { "+OK|-NOPROTO unsupported protocol version|" AFTER, 0, AZRI_READY, 0, 0, AZREDIS_OK, 0, 0 },
        { "+OK|-NOPERM User oid has no permissions to run the 'hello' command|" AFTER, 0, AZRI_READY, 0, 0, AZREDIS_OK, 0, 0 },
        { "+OK|" MAP("2", "+standalone") AFTER, 0, AZRI_READY, 0, 0, AZREDIS_OK, 0, 0 },
        { "+OK|*4|$5|proto|:2|$4|mode|$10|standalone|" AFTER, 0, AZRI_READY, 0, 0, AZREDIS_OK, 0, 0 },
        { "+OK|" MAP("3", "+sentinel") AFTER, 0, AZRI_READY, 1, 0, AZREDIS_OK, 0, 0 },
        { "+OK|%0|" AFTER, 0, AZRI_READY, 0, 0, AZREDIS_OK, 0, 0 },
        { "+OK|" HELLO3 "-ERR unknown subcommand 'SETINFO'. Try CLIENT HELP.|-ERR unknown subcommand 'SETINFO'. Try CLIENT HELP.|@|",
          0, AZRI_READY, 1, 0, AZREDIS_OK, 0, 0 },
        { "+OK|" HELLO3 "+OK|+OK|+OK|@|", 3, AZRI_READY, 1, 0, AZREDIS_OK, 0, 0 },
        { "+OK|" HELLO3 "+OK|+OK|-NOPERM User oid has no permissions to run the 'ping' command|", 0, AZRI_READY, 1, 1, AZREDIS_OK, 0, 0 }
    };
    (void)state;
    greet(row, COUNT(row));
}

static void case14_what_cannot_work_is_told_and_not_retried(void **state) {
    static const greeting row[] = {
        { "+OK|" HELLO3 "+OK|+OK|-ERR DB index is out of range|", 3, AZRI_HANDSHAKE, 1, 0, AZREDIS_E_REDIS, 0, 0 },
        { "+OK|" HELLO3 "+OK|+OK|-ERR SELECT is not allowed in cluster mode|", 3, AZRI_HANDSHAKE, 1, 0, AZREDIS_E_REDIS, 0, 0 },
        { "+OK|" MAP("3", "+cluster"), 0, AZRI_HANDSHAKE, 1, 0, AZREDIS_E_CLUSTER, 0, 0 },
        { "+OK|" MAP("2", "$7|cluster"), 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_CLUSTER, 0, 0 }
    };
    (void)state;
    greet(row, COUNT(row));
}

static void case14_an_odd_answer_ends_the_handshake(void **state) {
    static const greeting row[] = {
        { "+OK|" HELLO3 "+OK|+OK|$32|00000000000000000000000000000000|", 0, AZRI_HANDSHAKE, 1, 0, AZREDIS_E_RESP, 1, 0 },
        { "+OK|" HELLO3 "+OK|+OK|+PONG|", 0, AZRI_HANDSHAKE, 1, 0, AZREDIS_E_RESP, 1, 0 },
        { "+OK|" HELLO3 "+OK|@|", 0, AZRI_HANDSHAKE, 1, 0, AZREDIS_OK, 0, 0 },           /* one short: it goes on waiting */
        { WELCOME "+OK|", 0, AZRI_READY, 1, 0, AZREDIS_E_RESP, 1, 0 }                     /* one too many */
    };
    (void)state;
    greet(row, COUNT(row));
}

/* A credential error is no protocol error: nothing falls back to RESP2, and the token is remembered as refused. */
static void case15_refused_credentials_name_the_token_and_do_not_downgrade(void **state) {
    static const greeting row[] = {
        { "-WRONGPASS invalid username-password pair or user is disabled.|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_AUTH, 1, 1 },
        { "-ERR WRONGPASS invalid username-password pair|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_AUTH, 1, 1 },
        { "-ERR invalid password|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_AUTH, 1, 1 },
        { "-NOAUTH Authentication required.|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_AUTH, 1, 1 },
        { "-WRONGPASS x|-NOAUTH HELLO must be called with the client already authenticated|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_AUTH, 1, 1 }
    };
    (void)state;
    greet(row, COUNT(row));
    opened_with("token-1", HOUR);
    (void)out();
    (void)server(row[0].says);
    assert_non_null(strstr(r.e.message, "object id oid"));
    assert_null(r.s.blob);
}

static void case19_what_passes_by_itself_is_retried_with_the_same_token(void **state) {
    static const greeting row[] = {
        { "-LOADING Redis is loading the dataset in memory|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_REDIS, 1, 0 },
        { "-ERR max number of clients reached|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_REDIS, 1, 0 },
        { "-MASTERDOWN Link with MASTER is down|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_REDIS, 1, 0 },
        { "-BUSY Redis is busy running a script|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_REDIS, 1, 0 },
        { "-CLUSTERDOWN The cluster is down|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_REDIS, 1, 0 },
        { "+OK|-LOADING x|", 0, AZRI_HANDSHAKE, 0, 0, AZREDIS_E_REDIS, 1, 0 },
        { "+OK|" HELLO3 "+OK|+OK|-LOADING x|", 0, AZRI_HANDSHAKE, 1, 0, AZREDIS_E_REDIS, 1, 0 }
    };
    (void)state;
    greet(row, COUNT(row));
    opened_with("token-1", HOUR);       /* said before anything was asked */
    assert_int_equal(server("-ERR max number of clients reached|"), AZREDIS_E_REDIS);
    assert_true(r.e.retryable);
    assert_non_null(strstr(r.e.message, "max number of clients"));
}

/* "Any other ERR": transient, and from the third in a row something to be mended. */
static void refused_three_times(const char *says) {
    int i;
    for (i = 1; i <= 4; i++) {
        opened_with("token-1", HOUR);
        (void)out();
        assert_int_equal(server(says), AZREDIS_E_REDIS);
        assert_int_equal(r.e.retryable, i < 3);
        assert_true(r.s.rejected == 0);
        closed();
    }
    ready();                            /* success forgets them */
    assert_int_equal(r.s.odd_refusals, 0);
}

static void an_unknown_refusal_of_auth_is_permanent_at_the_third(void **state) {
    (void)state;
    refused_three_times("-ERR the validator is not available|");
}

static void an_unknown_refusal_of_hello_is_permanent_at_the_third(void **state) {
    (void)state;
    refused_three_times("+OK|-ERR the proxy is not available|");
}

static void the_handshake_has_a_deadline_of_its_own(void **state) {
    (void)state;
    opened_with("token-1", HOUR);
    (void)out();
    assert_true(azri_session_deadline(&r.s, r.now) == r.now + AUTH_MS);
    assert_int_equal(tick(r.now + AUTH_MS - 1), AZREDIS_OK);
    assert_int_equal(server("+OK|"), AZREDIS_OK);                  /* 15 s for AUTH: Azure may take ten */
    assert_int_equal(tick(r.now + 1), AZREDIS_E_TIMEOUT);
    assert_true(r.e.retryable);
}

static void the_token_is_masked_where_the_server_repeats_it(void **state) {
    unsigned i;
    (void)state;
    opened_with(JWT, HOUR);
    (void)out();
    assert_int_equal(server("-WRONGPASS bad token " JWT " given, beginning " "eyJhbGciOiJSUz" "|"), AZREDIS_E_AUTH);
    assert_null(strstr(r.e.message, "eyJhbGciOiJS"));
    assert_non_null(strstr(r.e.message, "[hidden]"));
    for (i = 0; i < r.news.count; i++) assert_null(strstr(azri_news_at(&r.news, i)->text, "eyJhbGciOiJS"));
}

/* ---- matching ---- */

#define MSG ">3|$7|message|$2|ch|$1|x|"

static void case9_pushes_never_answer_a_command(void **state) {
    int i;
    (void)state;
    ready();
    assert_int_equal(give(1000, COMMAND_MS), 999);
    (void)out();
    assert_int_equal(server(">2|$10|invalidate|*1|$1|k|"), AZREDIS_OK);
    for (i = 0; i < 1000; i++) {
        if (i % 3 == 0) assert_int_equal(server(">3|$8|pmessage|$1|*|$1|x|"), AZREDIS_OK);
        assert_int_equal(answer(i, i), AZREDIS_OK);
        if (i % 7 == 0) assert_int_equal(server(MSG), AZREDIS_OK);
    }
    ok(0, 999);
    assert_true(r.counts.pushes_dropped == 1 + 334 + 143);
    assert_int_equal(r.s.in_flight, 0);
}

static void case9_answers_may_come_in_any_pieces(void **state) {
    size_t step;
    (void)state;
    ready();
    for (step = 1; step < 40; step++) {
        int last = give(3, COMMAND_MS);
        char text[200];
        (void)out();
        snprintf(text, sizeof text, "+v%d|" MSG "+v%d|>2|+x|*1|%%1|+a|:1|+v%d|", last - 2, last - 1, last);
        hear(&r.s, text, step, on_frame);
        assert_int_equal(r.st, AZREDIS_OK);
        deliver();
        ok(last - 2, last);
    }
}

static void case9_a_publisher_may_hear_itself_before_or_after_its_answer(void **state) {
    (void)state;
    ready();
    (void)give(4, COMMAND_MS);
    (void)out();
    assert_int_equal(server("+v0|" MSG "+v1|+v2|" MSG "+v3|"), AZREDIS_OK);
    ok(0, 3);
}

#define SUB(kind, channel) ">3|+" kind "|" channel "|:1|"

static void case10_a_subscription_is_confirmed_or_refused_amid_a_pipeline(void **state) {
    static const struct { const char *says; azredis_status st; const char *text; } row[] = {
        { SUB("subscribe", "$2|ch"), AZREDIS_OK, "" },
        { MSG SUB("subscribe", "$2|ch"), AZREDIS_OK, "" },
        { "-NOPERM No permissions to access a channel|", AZREDIS_E_NOPERM, "NOPERM No permissions to access a channel" },
        { "-ERR unknown|", AZREDIS_E_REDIS, "ERR unknown" }
    };
    size_t i;
    (void)state;
    ready();
    for (i = 0; i < COUNT(row); i++) {
        int a = give(1, COMMAND_MS), b = subscribe("ch"), c = give(1, COMMAND_MS);
        (void)out();
        (void)answer(a, a);
        assert_int_equal(server(row[i].says), AZREDIS_OK);
        one_is(b, row[i].st, AZREDIS_ANSWERED, row[i].text);
        (void)answer(c, c);
        ok(a, a);
        ok(c, c);
    }
    (void)subscribe("a");               /* twice the same, then the end of it */
    (void)subscribe("a");
    (void)give_words(AZRI_CMD_UNSUBSCRIBE, AZRI_NEVER64, 2, "UNSUBSCRIBE", "a");
    assert_string_equal(out(), "SUBSCRIBE a, SUBSCRIBE a, UNSUBSCRIBE a");
    assert_int_equal(server(SUB("subscribe", "$1|a") SUB("subscribe", "$1|a") SUB("unsubscribe", "$1|a")), AZREDIS_OK);
    for (i = (size_t)r.cmds - 3; i < (size_t)r.cmds; i++) one_is((int)i, AZREDIS_OK, AZREDIS_ANSWERED, "");
}

/* Only the very confirmation counts: same kind, same channel, wholly sent. */
static void case10_another_confirmation_confirms_nothing(void **state) {
    static const char *const row[] = {
        SUB("subscribe", "$2|xx"), SUB("subscribe", "$3|abc"), SUB("unsubscribe", "$2|ab"), SUB("ssubscribe", "$2|ab"),
        SUB("psubscribe", "$2|ab"), SUB("Subscribe", "$2|ab"), ">2|+subscribe|$2|ab|", ">4|+subscribe|$2|ab|:1|:1|",
        SUB("subscribe", "$1|b"), SUB("subscribe", "_"), SUB("subscribe", "$0|"), SUB("subscribe", ":1"), SUB("subscribe", "*0"),
        SUB("psubscribe", "$0|"), SUB("Psubscribe", "$0|")     /* as long as the frame */
    };
    size_t i;
    (void)state;
    ready();
    (void)subscribe("ab");
    for (i = 0; i < COUNT(row); i++) {          /* not yet sent */
        assert_int_equal(server(row[i]), AZREDIS_OK);
        assert_int_equal(r.cmd[0].ends, 0);
    }
    assert_int_equal(server(SUB("subscribe", "$2|ab")), AZREDIS_OK);
    assert_int_equal(r.cmd[0].ends, 0);
    (void)out();
    for (i = 0; i < COUNT(row); i++) {
        assert_int_equal(server(row[i]), AZREDIS_OK);
        if (r.cmd[0].ends) fail_msg("%s confirmed it", row[i]);
    }
    assert_int_equal(server(SUB("subscribe", "$2|ab")), AZREDIS_OK);
    assert_int_equal(r.cmd[0].ends, 1);
    (void)subscribe("ab");
    (void)out();
    assert_int_equal(server("+OK|"), AZREDIS_E_RESP); /* a plain answer to SUBSCRIBE is an error or wrong */
}

static void case11_strange_pushes_are_dropped_and_counted(void **state) {
    static const char *const row[] = {
        SUB("sunsubscribe", "$2|ch"), ">0|", ">1|:1|", ">1|_|", ">1|*0|", ">2|$10|invalidate|_|", ">1|+unheard-of|", ">3|*1|:1|+a|+b|",
        ">3|+message|_|+x|", ">3|+message|+ch|:1|", ">2|+message|+ch|", ">-1|"
    };
    size_t i;
    (void)state;
    ready();
    (void)give(1, COMMAND_MS);
    (void)out();
    for (i = 0; i < COUNT(row); i++)
        if (server(row[i]) != AZREDIS_OK || r.counts.pushes_dropped != i + 1) fail_msg("%s: %d", row[i], (int)r.st);
    assert_int_equal(answer(0, 0), AZREDIS_OK);
    ok(0, 0);
}

/* Redis sends such, though the protocol's text says never: it is no push of its own. */
static void case12_a_push_within_an_answer_is_a_part_of_it(void **state) {
    const azredis_value *v;
    (void)state;
    ready();
    (void)give(2, COMMAND_MS);
    (void)out();
    assert_int_equal(server(MSG "*2|>3|+message|+ch|+y|:5|" MSG "+v1|"), AZREDIS_OK);
    assert_int_equal(r.cmd[0].st, AZREDIS_OK);
    v = r.cmd[0].c.own.value;
    assert_int_equal(v->len, 2);
    assert_int_equal(v->as.items[0].type, AZREDIS_T_PUSH);
    assert_int_equal(v->as.items[1].as.integer, 5);
    assert_int_equal(r.s.counts->pushes_dropped, 2);
    ok(1, 1);
}

static void case13_a_frame_that_nobody_asked_for_ends_the_connection(void **state) {
    static const struct { const char *says; azredis_status code; const char *word; } row[] = {
        { "+OK|", AZREDIS_E_RESP, "oldest question" }, { ":1|", AZREDIS_E_RESP, "" }, { "_|", AZREDIS_E_RESP, "" }, { "*0|", AZREDIS_E_RESP, "" },
        { "-ERR max number of clients reached|", AZREDIS_E_REDIS, "max number of clients" }, { "-DENIED protected mode|", AZREDIS_E_REDIS, "DENIED" },
        { "-NOAUTH x|", AZREDIS_E_AUTH, "NOAUTH" }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        ready();
        assert_int_equal(server(row[i].says), row[i].code);
        assert_non_null(strstr(r.e.message, row[i].word));
        closed();
    }
}

static void an_answer_to_a_command_that_is_not_wholly_sent_ends_the_connection(void **state) {
    size_t n, len;
    (void)state;
    for (n = 0;; n++) {
        ready();
        (void)give(1, COMMAND_MS);
        len = r.cmd[r.cmds - 1].c.len;
        assert_int_equal(take(&r.s, n, r.now), n);
        assert_int_equal(server("+v0|"), n < len ? AZREDIS_E_RESP : AZREDIS_OK);
        closed();
        wire.len = wire.at = 0;
        if (n == len) break;
        assert_int_equal(r.cmd[r.cmds - 1].back, n == 0);
        if (n) one_is(r.cmds - 1, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "");
    }
}

static void an_answer_that_is_too_large_was_an_answer(void **state) {
    char big[9000], *p = big + sprintf(big, "$8000|");
    (void)state;
    r.conf.max_reply = 4096;
    azri_session_free(&r.s);
    azri_session_init(&r.s, &mem, &r.conf, &r.rng, &r.news, &r.done, &r.counts);
    ready();
    (void)give(2, COMMAND_MS);
    (void)out();
    memset(p, 'x', 8000);
    strcpy(p + 8000, "|");
    assert_int_equal(server(big), AZREDIS_OK);
    one_is(0, AZREDIS_E_LIMIT, AZREDIS_ANSWERED, "");
    assert_int_equal(answer(1, 1), AZREDIS_OK);
    ok(1, 1);
}

static void an_answer_nobody_wants_is_read_and_dropped(void **state) {
    (void)state;
    ready();
    (void)give(2, COMMAND_MS);
    r.cmd[0].c.no_reply = 1;
    (void)out();
    assert_int_equal(answer(0, 1), AZREDIS_OK);
    one_is(0, AZREDIS_OK, AZREDIS_ANSWERED, "");
    ok(1, 1);
}

static void errors_of_the_server_are_told_apart(void **state) {
    static const struct { const char *says; azredis_status st; int retryable, closes; const char *word; } row[] = {
        { "-WRONGTYPE Operation against a key|", AZREDIS_E_REDIS, 0, 0, "WRONGTYPE" },
        { "-NOPERM no permissions|", AZREDIS_E_NOPERM, 0, 0, "NOPERM" }, { "-ERR NOPERM no|", AZREDIS_E_NOPERM, 0, 0, "NOPERM" },
        { "-LOADING x|", AZREDIS_E_REDIS, 1, 0, "LOADING" }, { "-TRYAGAIN x|", AZREDIS_E_REDIS, 1, 0, "TRYAGAIN" },
        { "-MOVED 3999 10.0.0.1:8501|", AZREDIS_E_CLUSTER, 0, 0, "OSS cluster policy" }, { "-ASK 3999 :8501|", AZREDIS_E_CLUSTER, 0, 0, "OSS cluster policy" },
        { "-MOVEDX 1|", AZREDIS_E_REDIS, 0, 0, "MOVEDX" }, { "-|", AZREDIS_E_REDIS, 0, 0, "answered" }, { "-ERR|", AZREDIS_E_REDIS, 0, 0, "ERR" },
        { "!8|ERR a\r\nb|", AZREDIS_E_REDIS, 0, 0, "ERR a  b" }, { "-ERR |", AZREDIS_E_REDIS, 0, 0, "ERR" },
        { "-NOAUTH Authentication required.|", AZREDIS_E_AUTH, 0, 1, "NOAUTH" }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        int k;
        ready();
        k = give(1, COMMAND_MS);
        (void)out();
        if (server(row[i].says) != AZREDIS_OK) fail_msg("%s", row[i].says);
        assert_int_equal(r.cmd[k].st, row[i].st);
        assert_int_equal(r.cmd[k].fate, AZREDIS_ANSWERED);
        assert_int_equal(r.cmd[k].c.own.error->retryable, row[i].retryable);
        if (!strstr(r.cmd[k].c.own.error->message, row[i].word)) fail_msg("%s", r.cmd[k].c.own.error->message);
        assert_int_equal(news_count(&r.news, AZREDIS_EV_ERROR_MESSAGE), 1);
        assert_int_equal(tick(r.now), row[i].closes ? AZREDIS_E_CLOSED : AZREDIS_OK);
        closed();
        r.news.count = 0;
    }
}

/* NOAUTH on a live connection: the server has forgotten us. What was written is in doubt, the rest goes elsewhere. */
static void noauth_ends_a_live_connection(void **state) {
    (void)state;
    ready();
    (void)give(2, COMMAND_MS);
    (void)out();
    (void)give(1, COMMAND_MS);
    assert_int_equal(server("-NOAUTH Authentication required.|"), AZREDIS_OK);
    assert_true(azri_session_deadline(&r.s, r.now) == r.now);
    assert_int_equal(tick(r.now), AZREDIS_E_CLOSED);
    closed();
    one_is(0, AZREDIS_E_AUTH, AZREDIS_ANSWERED, "NOAUTH Authentication required.");
    one_is(1, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "");
    assert_int_equal(r.cmd[2].back, 1);
}

/* ---- re-authentication ---- */

static void case20_a_new_token_is_presented_under_load_without_a_gap(void **state) {
    azri_item *it;
    uint32_t generation;
    (void)state;
    ready();
    for (generation = 2; generation < 12; generation++) {
        int first = r.cmds;
        (void)give(3, COMMAND_MS);
        (void)out();
        r.now += 100;
        (void)give(2, COMMAND_MS);
        token(generation);
        (void)give(1, COMMAND_MS);
        assert_memory_equal(out(), "AUTH oid token-", 15);
        assert_non_null(strstr(wire.words, ", PING N, GET k"));
        r.now += 40;
        assert_int_equal(answer(first, first + 2), AZREDIS_OK);
        assert_int_equal(server(MSG "+OK|" MSG "@|" MSG), AZREDIS_OK);
        assert_int_equal(answer(first + 3, first + 5), AZREDIS_OK);
        ok(first, first + 5);
        assert_int_equal(r.s.blob->generation, generation);
        assert_true(!r.s.trying && !r.s.fresh && r.s.auth_at == AZRI_NEVER64);
    }
    assert_int_equal(r.counts.reauths, 10);
    assert_int_equal(r.counts.reauth_failures, 0);
    r.news.count = r.news.first = 0;
    token(99);
    (void)out();
    r.now += 250;
    (void)server("+OK|@|");
    it = azri_news_at(&r.news, 1);      /* behind the line that tells of AUTH */
    assert_int_equal(it->type, AZREDIS_EV_CONNECTION_REAUTHENTICATED);
    assert_true(it->old_left_ms == HOUR - 290 && it->new_left_ms == HOUR - 250);
}

static void the_unit_goes_before_what_is_not_written_and_never_into_a_frame(void **state) {
    size_t n;
    (void)state;
    for (n = 0; n <= 21; n++) {          /* "GET k0" has 21 bytes */
        blank();
        ready();
        (void)give(3, COMMAND_MS);
        assert_int_equal(take(&r.s, n, r.now), n);
        token(2);
        assert_string_equal(out(), n == 0 ? "AUTH oid token-2, PING N, GET k0, GET k1, GET k2"
                                          : "GET k0, AUTH oid token-2, PING N, GET k1, GET k2");
        assert_int_equal(server(n == 0 ? "+OK|@|+v0|" : "+v0|+OK|@|"), AZREDIS_OK);
        assert_int_equal(answer(1, 2), AZREDIS_OK);
        ok(0, 2);
        done_with();
    }
    blank();
}

/* Ten thousand bytes of token leave in small records: nothing may come between AUTH and its PING. */
static void nothing_comes_between_auth_and_its_ping(void **state) {
    (void)state;
    ready();
    token(2);
    while (take(&r.s, 7, r.now))
        if (wire.len < 140) (void)give(1, COMMAND_MS);
    assert_memory_equal(out(), "AUTH oid token-2, PING N, GET k0", 32);
    assert_int_equal(server("+OK|@|"), AZREDIS_OK);
    assert_int_equal(answer(0, r.cmds - 1), AZREDIS_OK);
}

static void case21_each_answer_to_the_fence_has_its_meaning(void **state) {
    static const struct { const char *says; azredis_status st, why; int accepted, rejected, again; } row[] = {
        { "+OK|@|", AZREDIS_OK, AZREDIS_OK, 1, 0, 0 },
        { "-WRONGPASS no|@|", AZREDIS_OK, AZREDIS_E_AUTH, 0, 1, 0 }, { "-ERR WRONGPASS no|@|", AZREDIS_OK, AZREDIS_E_AUTH, 0, 1, 0 },
        { "-ERR busy validating|@|", AZREDIS_OK, AZREDIS_E_REDIS, 0, 0, 1 }, { "-LOADING x|@|", AZREDIS_OK, AZREDIS_E_REDIS, 0, 0, 1 },
        { "@|", AZREDIS_OK, AZREDIS_E_AUTH, 0, 1, 0 },                                   /* the silent refusal */
        { "+OK|+PONG|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 }, { "+OK|-NOPERM ping|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 },
        { "-WRONGPASS no|+v1|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 }, { "+QUEUED|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 },
        { "+OKAY|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 }, { "$2|OK|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 }, { "_|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 },
        { ":1|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 }, { "*0|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 }, { "+v1|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 },
        { "$32|0123456789abcdef0123456789abcdef|", AZREDIS_E_RESP, AZREDIS_OK, 0, 0, 0 }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        uint64_t hash;
        blank();
        ready();
        (void)give(1, COMMAND_MS);
        token(2);
        hash = r.s.trying->hash;
        (void)give(1, COMMAND_MS);
        (void)out();
        if (server(row[i].says) != row[i].st) fail_msg("%s: %d", row[i].says, (int)r.st);
        if (row[i].st == AZREDIS_OK) {
            assert_int_equal(answer(0, 1), AZREDIS_OK);
            ok(0, 1);
            assert_int_equal(r.s.blob->generation, row[i].accepted ? 2 : 1);
            assert_int_equal(news_count(&r.news, AZREDIS_EV_CONNECTION_REAUTHENTICATED), row[i].accepted);
            assert_int_equal(news_count(&r.news, AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED), !row[i].accepted);
            assert_int_equal(r.counts.reauth_failures, !row[i].accepted);
            if (!row[i].accepted) assert_int_equal(r.s.auth_error.code, row[i].why);
            assert_int_equal(r.s.fresh != NULL, row[i].again);
            assert_null(r.s.trying);
        } else {
            assert_int_equal(r.s.blob->generation, 1);
        }
        assert_true(r.s.rejected == (row[i].rejected ? hash : 0));
        done_with();
    }
    blank();
}

/* What the server says to all that was written, pushes anywhere. how: of AUTH, its answer. */
static void soak_answers(const char *written, const char *how) {
    char text[4096], *p = text;
    const char *w;
    for (w = written; *w; w += strcspn(w, ","), w += *w ? 2 : 0) {
        if (azri_rng_below(&r.rng, 3) == 0) p += sprintf(p, "%s", MSG);
        if (*w == 'A') p += sprintf(p, "%s", how);
        else if (*w == 'P') p += sprintf(p, "@|");
        else p += sprintf(p, "+v%d|", atoi(w + 5));         /* GET k<number> */
    }
    *p = '\0';
    assert_int_equal(server(text), AZREDIS_OK);
}

/* Pipelines of any length, a quarter of them with a new token; of these half are bad, and of the bad ones half are
 * refused without a word. Every command has its own answer. */
static void case21_a_soak_of_good_bad_and_silent_auths(void **state) {
    static const char *const how[4] = { "+OK|", "+OK|", "-WRONGPASS no|", "" };
    int seed, round, kind, good, bad, all = 0;
    (void)state;
    for (seed = 1; seed <= 60; seed++) {
        blank();
        r.rng.state = (uint64_t)seed;
        ready();
        good = bad = 0;
        for (round = 0; round < 60; round++) {
            int first = r.cmds;
            (void)give((int)azri_rng_below(&r.rng, 8), COMMAND_MS);
            if (azri_rng_below(&r.rng, 2)) (void)take(&r.s, azri_rng_below(&r.rng, 90), r.now);
            kind = (int)azri_rng_below(&r.rng, 16);
            if (kind < 4) token((uint32_t)(100 * seed + round));
            good += kind < 2;
            bad += kind == 2 || kind == 3;
            (void)give((int)azri_rng_below(&r.rng, 8), COMMAND_MS);
            soak_answers(out(), kind < 4 ? how[kind] : "");
            if (r.cmds > first) ok(first, r.cmds - 1);
            r.now += 7;
        }
        assert_int_equal(r.s.counts->reauths, good);
        assert_int_equal(r.s.counts->reauth_failures, bad);
        assert_int_equal(r.s.in_flight, 0);
        all += good + bad;
        done_with();
    }
    assert_true(all > 600);
    blank();
}

static void case22_a_token_that_comes_during_the_handshake_waits(void **state) {
    (void)state;
    opened_with("token-1", HOUR);
    assert_non_null(strstr(out(), "token-1"));
    token(2);
    assert_string_equal(out(), "");
    assert_int_equal(server(WELCOME), AZREDIS_OK);
    assert_int_equal(r.s.blob->generation, 1);
    token(1);                           /* the one it lives on already */
    assert_string_equal(out(), "");
    token(2);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
}

static void case22_a_token_that_comes_during_an_auth_waits_for_its_end(void **state) {
    static const char *const ends[] = { "+OK|@|", "-WRONGPASS x|@|", "@|", "-ERR x|@|" };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(ends); i++) {
        blank();
        ready();
        token(2);
        assert_string_equal(out(), "AUTH oid token-2, PING N");
        token(3);
        assert_int_equal(tick(r.now + 1000), AZREDIS_OK);
        assert_string_equal(out(), "");
        assert_int_equal(server(ends[i]), AZREDIS_OK);
        assert_int_equal(tick(r.now), AZREDIS_OK);
        assert_string_equal(out(), "AUTH oid token-3, PING N");
        assert_int_equal(server("+OK|@|"), AZREDIS_OK);
        assert_int_equal(r.s.blob->generation, 3);
        done_with();
    }
    blank();
}

static void case22_a_token_that_comes_under_a_ping_or_a_subscribe_waits_its_turn(void **state) {
    (void)state;
    ready();
    assert_int_equal(tick(r.now + 60000), AZREDIS_OK);
    token(2);
    assert_string_equal(out(), "PING N");
    assert_int_equal(tick(r.now + 10), AZREDIS_OK);
    assert_string_equal(out(), "");
    assert_int_equal(server("@|"), AZREDIS_OK);
    assert_true(azri_session_deadline(&r.s, r.now) == r.now);
    (void)subscribe("ch");
    assert_string_equal(out(), "SUBSCRIBE ch");
    assert_int_equal(tick(r.now), AZREDIS_OK);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
    assert_int_equal(server(SUB("subscribe", "$2|ch") "+OK|@|"), AZREDIS_OK);
    assert_int_equal(r.s.blob->generation, 2);
}

static void a_token_may_be_presented_later(void **state) {
    (void)state;
    ready();
    token_after(2, 700);
    assert_int_equal(tick(r.now), AZREDIS_OK);
    assert_true(azri_session_deadline(&r.s, r.now) == r.now + 700);
    assert_int_equal(tick(r.now + 699), AZREDIS_OK);
    assert_string_equal(out(), "");
    assert_int_equal(tick(r.now + 1), AZREDIS_OK);
    assert_string_equal(out(), "AUTH oid token-2, PING N");
}

static void commands_behind_an_auth_do_not_pay_for_it(void **state) {
    (void)state;
    ready();
    (void)give(1, 20000);
    (void)out();
    token(2);
    (void)give(1, COMMAND_MS);
    (void)out();
    (void)give(1, COMMAND_MS);          /* not even written */
    assert_int_equal(tick(r.now + 12000), AZREDIS_OK);
    assert_int_equal(r.cmd[1].ends + r.cmd[2].ends, 0);
    assert_int_equal(server("+v0|+OK|@|"), AZREDIS_OK);
    assert_int_equal(tick(r.now + COMMAND_MS - 1), AZREDIS_OK);
    assert_int_equal(r.cmd[1].ends + r.cmd[2].ends, 0);
    assert_int_equal(tick(r.now + 1), AZREDIS_OK);
    one_is(1, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    one_is(2, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "");
}

/* A command before the AUTH has its own time, whatever stands behind it. */
static void commands_before_an_auth_end_on_time(void **state) {
    (void)state;
    ready();
    (void)give(1, 2000);
    (void)give(1, 2300);
    (void)out();
    token(2);
    (void)out();
    assert_true(azri_session_deadline(&r.s, r.now) == r.now + 2000);
    assert_int_equal(tick(r.now + 2000), AZREDIS_OK);
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    assert_true(azri_session_deadline(&r.s, r.now) <= r.now + 300);
    assert_int_equal(tick(r.now + 300), AZREDIS_OK);
    one_is(1, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
}

static void an_auth_that_is_never_answered_ends_the_connection(void **state) {
    (void)state;
    ready();
    token(2);
    (void)out();
    (void)give(1, COMMAND_MS);
    (void)out();
    assert_int_equal(tick(r.now + AUTH_MS - 1), AZREDIS_OK);
    assert_int_equal(server(MSG), AZREDIS_OK);                     /* other news are no answer to it */
    assert_int_equal(tick(r.now + 1), AZREDIS_E_TIMEOUT);
}

/* A refusal that says nothing of the credentials: the same token again after 5, 10, 20 .. 60 s, at random from half. */
static void case24_a_failed_auth_is_tried_again_later_and_later(void **state) {
    uint64_t top = 5000, delay;
    int i, differ = 0;
    (void)state;
    ready_for(10 * (uint64_t)HOUR);
    r.conf.keepalive_ms = AZREDIS_NEVER;
    token(2);
    for (i = 0; i < 8; i++) {
        assert_string_equal(out(), "AUTH oid token-2, PING N");
        r.news.count = r.news.first = 0;
        assert_int_equal(server("-ERR no|@|"), AZREDIS_OK);
        delay = r.s.auth_at - r.now;
        assert_in_range(delay, 2500, top);
        differ += delay != top;
        assert_true(azri_news_at(&r.news, 0)->next_try_ms == (int64_t)delay && azri_news_at(&r.news, 0)->has_error);
        assert_int_equal(tick(r.now), AZREDIS_OK);
        assert_true(azri_session_deadline(&r.s, r.now) == r.s.auth_at);
        assert_int_equal(tick(r.now + delay - 1), AZREDIS_OK);
        assert_string_equal(out(), "");
        assert_int_equal(tick(r.now + 1), AZREDIS_OK);
        top = azri_min64(60000, top * 2);
    }
    assert_true(differ > 5);
    (void)out();
    assert_int_equal(server("+OK|@|"), AZREDIS_OK);
    assert_int_equal(r.s.auth_failures, 0);
    assert_int_equal(r.counts.reauth_failures, 8);
}

/* A refused token is not shown again; the connection lives on the old one. */
static void case24_a_refused_token_is_never_shown_again(void **state) {
    (void)state;
    ready();
    token(2);
    (void)out();
    assert_int_equal(server("-WRONGPASS x|@|"), AZREDIS_OK);
    r.conf.keepalive_ms = AZREDIS_NEVER;
    assert_int_equal(tick(r.now + HOUR / 2), AZREDIS_OK);
    (void)give(1, COMMAND_MS);
    assert_string_equal(out(), "GET k0");
    (void)answer(0, 0);
    token(3);
    assert_string_equal(out(), "AUTH oid token-3, PING N");
}

static void the_new_token_is_masked_where_the_server_repeats_it(void **state) {
    azri_blob *b;
    unsigned i;
    (void)state;
    ready();
    b = new_token(JWT, 2, r.now + HOUR, HOUR);
    azri_session_token(&r.s, b, r.now, 0);
    azri_blob_drop(b);
    assert_int_equal(tick(r.now), AZREDIS_OK);
    (void)out();
    assert_int_equal(server("-WRONGPASS " JWT " and eyJhbGciOiJSUzI1 is wrong|@|"), AZREDIS_OK);
    assert_non_null(strstr(r.s.auth_error.message, "[hidden] and [hidden] is wrong"));
    for (i = 0; i < r.news.count; i++) {
        assert_null(strstr(azri_news_at(&r.news, i)->text, "eyJhbGciOiJS"));
        assert_null(strstr(azri_news_at(&r.news, i)->error.message, "eyJhbGciOiJS"));
    }
}

/* Where PING is forbidden there is no fence: the new token waits for a quiet moment and goes alone. */
static void without_ping_the_token_is_presented_in_a_quiet_moment(void **state) {
    (void)state;
    opened_with("token-1", HOUR);
    (void)out();
    assert_int_equal(server("+OK|" HELLO3 "+OK|+OK|-NOPERM no ping|"), AZREDIS_OK);
    (void)give(2, COMMAND_MS);
    (void)out();
    (void)give(1, COMMAND_MS);
    (void)take(&r.s, 5, r.now);          /* begun, so it must be finished */
    token(2);
    (void)give(1, COMMAND_MS);
    assert_string_equal(out(), "GET k2");
    assert_int_equal(answer(0, 1), AZREDIS_OK);
    assert_string_equal(out(), "");
    assert_int_equal(answer(2, 2), AZREDIS_OK);
    assert_string_equal(out(), "AUTH oid token-2");
    (void)give(1, COMMAND_MS);
    assert_int_equal(tick(r.now + 7000), AZREDIS_OK);               /* and nobody pays for the wait */
    assert_int_equal(server("+OK|"), AZREDIS_OK);
    assert_int_equal(r.s.blob->generation, 2);
    assert_string_equal(out(), "GET k3, GET k4");
    assert_int_equal(answer(3, 4), AZREDIS_OK);
    ok(0, 4);
    token(3);
    (void)out();
    assert_int_equal(server("-WRONGPASS x|"), AZREDIS_OK);
    assert_true(r.s.blob->generation == 2 && r.s.rejected != 0 && !r.s.trying);
    token(4);
    (void)out();
    assert_int_equal(tick(r.now + AUTH_MS), AZREDIS_E_TIMEOUT);     /* a silent refusal */
}

/* ---- time ---- */

static void case32_a_late_answer_never_reaches_the_next_caller(void **state) {
    (void)state;
    ready();
    (void)give(1, 1000);
    (void)give(1, 3000);
    (void)out();
    assert_int_equal(tick(r.now + 999), AZREDIS_OK);
    assert_int_equal(r.cmd[0].ends, 0);
    assert_true(azri_session_deadline(&r.s, r.now) == r.now + 1);
    assert_int_equal(tick(r.now + 1), AZREDIS_OK);
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    assert_int_equal(r.cmd[0].home, 0);             /* the tombstone stays */
    (void)give(1, COMMAND_MS);
    (void)out();
    assert_int_equal(answer(0, 2), AZREDIS_OK);
    ok(1, 2);
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    assert_int_equal(r.cmd[0].home, 1);
}

/* Late error, late answer that is too large, late answer in the same turn as the time-out. */
static void case32_late_answers_of_all_kinds_are_dropped(void **state) {
    (void)state;
    ready();
    (void)give(3, 1000);
    (void)out();
    r.now += 1000;
    (void)azri_session_tick(&r.s, r.now, &r.e);     /* nothing is delivered yet */
    hear(&r.s, "+v0|", 100, on_frame);
    deliver();
    assert_int_equal(server("-NOAUTH late|$9|123456789|"), AZREDIS_OK);
    assert_int_equal(tick(r.now), AZREDIS_OK);
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    one_is(2, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    assert_int_equal(news_count(&r.news, AZREDIS_EV_ERROR_MESSAGE), 0);
}

static void case32_a_command_that_was_not_begun_is_withdrawn(void **state) {
    (void)state;
    ready();
    (void)give(1, 3000);
    (void)give(1, 1000);
    (void)give(1, 3000);
    assert_int_equal(tick(r.now + 1000), AZREDIS_OK);
    one_is(1, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "");
    assert_string_equal(out(), "GET k0, GET k2");
    (void)give(2, 1000);                /* the last of the queue */
    assert_int_equal(tick(r.now + 1000), AZREDIS_OK);
    one_is(4, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "");
    (void)give(1, 1000);
    assert_string_equal(out(), "GET k5");
    assert_int_equal(server("+v0|+v2|+v5|"), AZREDIS_OK);
    ok(0, 0);
    ok(2, 2);
    ok(5, 5);
}

static void case32_a_half_written_command_is_finished_and_its_answer_dropped(void **state) {
    (void)state;
    ready();
    (void)give(2, 1000);
    (void)take(&r.s, 1, r.now);
    assert_int_equal(tick(r.now + 1000), AZREDIS_OK);
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    one_is(1, AZREDIS_E_TIMEOUT, AZREDIS_NOT_SENT, "");
    (void)give(1, COMMAND_MS);
    assert_string_equal(out(), "GET k0, GET k2");
    assert_int_equal(server("+v0|+v2|"), AZREDIS_OK);
    ok(2, 2);
}

static void case25_before_its_token_ends_a_connection_is_drained(void **state) {
    (void)state;
    ready_for(60000);
    r.conf.keepalive_ms = AZREDIS_NEVER;
    assert_true(azri_session_deadline(&r.s, r.now) == r.now + 59000);
    assert_int_equal(tick(r.now + 58999), AZREDIS_OK);
    (void)give(1, COMMAND_MS);
    (void)out();
    (void)give(1, COMMAND_MS);
    (void)take(&r.s, 3, r.now);
    (void)give(3, COMMAND_MS);
    assert_int_equal(tick(r.now + 1), AZREDIS_OK);
    assert_int_equal(r.s.state, AZRI_DRAINING);
    assert_string_equal(out(), "GET k1");            /* the begun one, and no other */
    token(2);                                        /* too late for this connection */
    assert_string_equal(out(), "");
    assert_int_equal(answer(0, 0), AZREDIS_OK);
    assert_int_equal(tick(r.now + 500), AZREDIS_OK);
    assert_int_equal(answer(1, 1), AZREDIS_OK);
    assert_int_equal(tick(r.now), AZREDIS_E_CLOSED);
    closed();
    ok(0, 1);
    assert_int_equal(r.unsent.count, 3);
    assert_true(r.unsent.head == &r.cmd[2].c && r.unsent.head->next == &r.cmd[3].c && r.unsent.tail == &r.cmd[4].c);
}

static void draining_does_not_spin(void **state) {
    (void)state;
    ready_for(60000);
    (void)tick(r.now + 55000);
    (void)give(1, 10000);
    (void)out();
    assert_int_equal(tick(r.now + 4000), AZREDIS_OK);
    assert_int_equal(r.s.state, AZRI_DRAINING);
    assert_true(azri_session_deadline(&r.s, r.now) == r.now + 1000);
}

static void case25_at_expiry_what_is_unanswered_fails_once_and_is_in_doubt(void **state) {
    (void)state;
    ready_for(60000);
    (void)tick(r.now + 58000);
    (void)give(3, COMMAND_MS);
    (void)out();
    assert_int_equal(tick(r.now + 1000), AZREDIS_OK);
    assert_int_equal(tick(r.now + 999), AZREDIS_OK);
    assert_int_equal(tick(r.now + 1), AZREDIS_E_CLOSED);
    assert_non_null(strstr(r.e.message, "expired"));
    closed();
    one_is(0, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "");
    one_is(2, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "");
}

/* An AUTH under way keeps the connection from draining; the last moment of its token ends it all the same. */
static void an_auth_in_the_last_second_may_still_save_the_connection(void **state) {
    int saved;
    (void)state;
    for (saved = 0; saved <= 1; saved++) {
        blank();
        ready_for(60000);
        r.conf.keepalive_ms = AZREDIS_NEVER;
        r.now += 58500;
        token(2);
        (void)out();
        assert_int_equal(tick(r.now + 1400), AZREDIS_OK);
        assert_int_equal(r.s.state, AZRI_READY);
        if (saved) assert_int_equal(server("+OK|@|"), AZREDIS_OK);
        assert_int_equal(tick(r.now + 100), saved ? AZREDIS_OK : AZREDIS_E_CLOSED);
        done_with();
    }
    blank();
}

static void a_password_never_expires(void **state) {
    (void)state;
    ready_for(AZRI_NEVER64);
    r.conf.keepalive_ms = AZREDIS_NEVER;
    assert_int_equal(tick(r.now + 1000ull * HOUR), AZREDIS_OK);
    assert_int_equal(r.s.state, AZRI_READY);
    assert_true(azri_blob_left(r.s.blob, r.now) == AZREDIS_UNKNOWN);
}

static void silence_is_probed_before_a_command_is_risked(void **state) {
    static const struct { const char *says; azredis_status st; } row[] = {
        { "@|", AZREDIS_OK }, { MSG "@|", AZREDIS_OK }, { "-NOPERM ping|", AZREDIS_OK }, { "+PONG|", AZREDIS_E_RESP }, { "$1|x|", AZREDIS_E_RESP }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        blank();
        ready();
        r.now += 60000;
        (void)give(1, COMMAND_MS);       /* before any tick */
        assert_string_equal(out(), "PING N");
        (void)give(1, COMMAND_MS);
        assert_false(azri_session_has_output(&r.s));
        assert_string_equal(out(), "");
        assert_int_equal(server(row[i].says), row[i].st);
        if (r.st == AZREDIS_OK) {
            assert_string_equal(out(), "GET k0, GET k1");
            assert_int_equal(answer(0, 1), AZREDIS_OK);
            ok(0, 1);
        }
        done_with();
    }
    blank();
}

static void a_clock_that_goes_back_costs_one_probe(void **state) {
    (void)state;
    r.now += 2 * HOUR;
    ready_for(AZRI_NEVER64);
    r.now -= HOUR;
    (void)give(1, COMMAND_MS);
    assert_string_equal(out(), "PING N");
    assert_int_equal(server("@|"), AZREDIS_OK);
    assert_string_equal(out(), "GET k0");
    assert_int_equal(answer(0, 0), AZREDIS_OK);
    (void)give(1, COMMAND_MS);
    assert_string_equal(out(), "GET k1");
}

static void a_probe_has_half_a_command_of_time_and_loses_nothing(void **state) {
    (void)state;
    ready();
    assert_true(azri_session_deadline(&r.s, r.now) == r.now + 60000);
    assert_int_equal(tick(r.now + 59999), AZREDIS_OK);
    assert_string_equal(out(), "");
    assert_int_equal(server(MSG), AZREDIS_OK);       /* a sign of life */
    assert_int_equal(tick(r.now + 1), AZREDIS_OK);
    assert_string_equal(out(), "");
    assert_int_equal(tick(r.now + 59999), AZREDIS_OK);
    assert_string_equal(out(), "PING N");
    (void)give(2, COMMAND_MS);
    assert_true(azri_session_deadline(&r.s, r.now) == r.now + COMMAND_MS / 2);
    assert_int_equal(tick(r.now + COMMAND_MS / 2 - 1), AZREDIS_OK);
    assert_int_equal(tick(r.now + 1), AZREDIS_E_TIMEOUT);
    closed();
    assert_true(r.unsent.count == 2 && r.cmd[0].back && r.cmd[1].back);
}

static void a_busy_or_unwatched_connection_is_not_probed(void **state) {
    (void)state;
    r.conf.keepalive_ms = AZREDIS_NEVER;
    ready();
    assert_int_equal(tick(r.now + HOUR / 2), AZREDIS_OK);
    (void)give(1, COMMAND_MS);
    assert_string_equal(out(), "GET k0");
}

static void case31_silence_on_an_outstanding_command_ends_the_connection(void **state) {
    static const struct { uint32_t command_ms; uint64_t dead; } row[] = { { 5000, 15000 }, { 1000, 10000 }, { 3333, 10000 }, { 3334, 10002 }, { 20000, 60000 } };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        blank();
        r.conf.command_ms = row[i].command_ms;
        ready();
        r.now += 1000;
        (void)give(1, 100);
        (void)give(1, AZRI_NEVER64);
        (void)out();
        assert_int_equal(tick(r.now + row[i].dead - 1), AZREDIS_OK);
        assert_int_equal(server(MSG), AZREDIS_OK);
        assert_int_equal(tick(r.now + row[i].dead - 1), AZREDIS_OK);
        assert_true(azri_session_deadline(&r.s, r.now) <= r.now + 1);
        assert_int_equal(tick(r.now + 1), AZREDIS_E_TIMEOUT);
        done_with();
    }
    blank();
    r.conf.command_ms = AZREDIS_NEVER;
    ready();
    (void)give(1, AZRI_NEVER64);
    (void)out();
    assert_int_equal(tick(r.now + HOUR / 2), AZREDIS_OK);           /* switched off */
}

static void a_command_that_was_given_more_time_gets_it(void **state) {
    (void)state;
    ready();
    (void)give(1, 60000);
    (void)out();
    assert_int_equal(tick(r.now + 59999), AZREDIS_OK);
    assert_int_equal(r.done.head != NULL, 0);
    assert_int_equal(tick(r.now + 1), AZREDIS_E_TIMEOUT);           /* its time is over, and nothing came at all */
}

/* In every state: what tick leaves undone is told by deadline, which is never in the past, and in the present only
 * if the next tick has something to do. */
static void there_is_always_a_next_deadline(void **state) {
    int what, turns;
    (void)state;
    for (what = 0; what < 7; what++) {
        blank();
        ready_for(60000);
        r.conf.command_ms = 900;
        if (what == 1) (void)give(1, 1000);
        if (what == 2 || what == 3) (void)give(2, 1000);
        if (what == 3) (void)take(&r.s, 5, r.now);
        if (what == 1 || what == 2) (void)out();
        if (what == 4) token(2);
        if (what == 5) r.conf.keepalive_ms = 100;
        if (what == 6) token_after(2, 20);
        for (turns = 0; turns < 100; turns++) {
            uint64_t t;
            if (tick(r.now) != AZREDIS_OK) break;
            t = azri_session_deadline(&r.s, r.now);
            assert_true(t > r.now && t <= 1000000 + 60000 + HOUR);
            r.now = t;
            (void)out();
        }
        assert_true(turns < 20);
        done_with();
    }
    blank();
}

/* ---- the end ---- */

static void case29_closing_tells_each_command_its_fate_once(void **state) {
    (void)state;
    ready();
    (void)give(2, COMMAND_MS);
    (void)subscribe("ch");
    (void)out();
    (void)give(1, COMMAND_MS);
    (void)take(&r.s, 20, r.now);         /* all but its last byte */
    (void)give(1, COMMAND_MS);
    (void)subscribe("other");
    (void)give(2, COMMAND_MS);
    (void)answer(0, 0);
    closed();
    ok(0, 0);
    one_is(1, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "");
    one_is(2, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "");
    one_is(3, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "");      /* a part of a frame cannot run */
    one_is(5, AZREDIS_E_CLOSED, AZREDIS_NOT_SENT, "");      /* asked again on the next connection anyway */
    assert_int_equal(r.unsent.count, 3);
    assert_true(r.unsent.bytes == r.cmd[4].c.len + r.cmd[6].c.len + r.cmd[7].c.len);
    assert_true(r.unsent.head == &r.cmd[4].c && r.unsent.head->next == &r.cmd[6].c && r.unsent.tail == &r.cmd[7].c);
}

static void closing_with_tombstones_and_a_running_auth_leaves_nothing(void **state) {
    (void)state;
    ready();
    (void)give(1, 1000);
    (void)out();
    (void)give(1, 1000);
    (void)take(&r.s, 4, r.now);
    assert_int_equal(tick(r.now + 1000), AZREDIS_OK);
    token(2);
    (void)take(&r.s, 40, r.now);
    token(3);
    (void)give(1, COMMAND_MS);
    closed();
    one_is(0, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    one_is(1, AZREDIS_E_TIMEOUT, AZREDIS_MAYBE_RUN, "");
    assert_true(!r.s.blob && !r.s.trying && !r.s.fresh && !r.s.in_flight && !r.s.fifo.count && !r.s.fifo.bytes);
    wire.len = wire.at = 0;
    ready();                            /* and the next connection begins clean */
    (void)give(1, COMMAND_MS);
    assert_string_equal(out(), "GET k3");
    (void)answer(3, 3);
    ok(3, 3);
}

/* A half answer of the old connection is no beginning of the new one's. */
static void half_an_answer_dies_with_its_connection(void **state) {
    (void)state;
    ready();
    (void)give(1, COMMAND_MS);
    (void)out();
    assert_int_equal(server("$100|abc"), AZREDIS_OK);
    closed();
    one_is(0, AZREDIS_E_CLOSED, AZREDIS_MAYBE_RUN, "");
    ready();
    (void)give(1, COMMAND_MS);
    (void)out();
    assert_int_equal(answer(1, 1), AZREDIS_OK);
    ok(1, 1);
}

static void without_memory_for_an_answer_the_command_was_answered(void **state) {
    (void)state;
    ready();
    (void)give(2, COMMAND_MS);
    (void)out();
    heap.fail_at = heap.calls + 1;
    assert_int_equal(server("+v0|"), AZREDIS_OK);
    assert_int_equal(r.cmd[0].st, AZREDIS_E_NOMEM);
    assert_int_equal(r.cmd[0].fate, AZREDIS_ANSWERED);
    assert_int_equal(answer(1, 1), AZREDIS_OK);
    ok(1, 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
    const struct CMUnitTest tests[] = {
        T(case14_the_handshake_is_one_flight_with_auth_first), T(a_handshake_ends_with_its_token), T(the_handshake_bytes_are_these),
        T(case17_a_token_of_16384_bytes_goes_out_whole), T(case14_a_server_without_resp3_is_served_in_resp2),
        T(case14_what_cannot_work_is_told_and_not_retried), T(case14_an_odd_answer_ends_the_handshake),
        T(case15_refused_credentials_name_the_token_and_do_not_downgrade),
        T(case19_what_passes_by_itself_is_retried_with_the_same_token), T(an_unknown_refusal_of_auth_is_permanent_at_the_third),
        T(an_unknown_refusal_of_hello_is_permanent_at_the_third), T(the_handshake_has_a_deadline_of_its_own),
        T(the_token_is_masked_where_the_server_repeats_it),
        T(case9_pushes_never_answer_a_command), T(case9_answers_may_come_in_any_pieces),
        T(case9_a_publisher_may_hear_itself_before_or_after_its_answer),
        T(case10_a_subscription_is_confirmed_or_refused_amid_a_pipeline), T(case10_another_confirmation_confirms_nothing),
        T(case11_strange_pushes_are_dropped_and_counted), T(case12_a_push_within_an_answer_is_a_part_of_it),
        T(case13_a_frame_that_nobody_asked_for_ends_the_connection),
        T(an_answer_to_a_command_that_is_not_wholly_sent_ends_the_connection), T(an_answer_that_is_too_large_was_an_answer),
        T(an_answer_nobody_wants_is_read_and_dropped), T(errors_of_the_server_are_told_apart), T(noauth_ends_a_live_connection),
        T(case20_a_new_token_is_presented_under_load_without_a_gap),
        T(the_unit_goes_before_what_is_not_written_and_never_into_a_frame), T(nothing_comes_between_auth_and_its_ping),
        T(case21_each_answer_to_the_fence_has_its_meaning), T(case21_a_soak_of_good_bad_and_silent_auths),
        T(case22_a_token_that_comes_during_the_handshake_waits),
        T(case22_a_token_that_comes_during_an_auth_waits_for_its_end),
        T(case22_a_token_that_comes_under_a_ping_or_a_subscribe_waits_its_turn), T(a_token_may_be_presented_later),
        T(commands_behind_an_auth_do_not_pay_for_it), T(commands_before_an_auth_end_on_time),
        T(an_auth_that_is_never_answered_ends_the_connection), T(case24_a_failed_auth_is_tried_again_later_and_later),
        T(case24_a_refused_token_is_never_shown_again), T(the_new_token_is_masked_where_the_server_repeats_it),
        T(without_ping_the_token_is_presented_in_a_quiet_moment),
        T(case32_a_late_answer_never_reaches_the_next_caller), T(case32_late_answers_of_all_kinds_are_dropped),
        T(case32_a_command_that_was_not_begun_is_withdrawn), T(case32_a_half_written_command_is_finished_and_its_answer_dropped),
        T(case25_before_its_token_ends_a_connection_is_drained), T(draining_does_not_spin),
        T(case25_at_expiry_what_is_unanswered_fails_once_and_is_in_doubt),
        T(an_auth_in_the_last_second_may_still_save_the_connection), T(a_password_never_expires),
        T(silence_is_probed_before_a_command_is_risked), T(a_clock_that_goes_back_costs_one_probe), T(a_probe_has_half_a_command_of_time_and_loses_nothing),
        T(a_busy_or_unwatched_connection_is_not_probed), T(case31_silence_on_an_outstanding_command_ends_the_connection), T(a_command_that_was_given_more_time_gets_it),
        T(there_is_always_a_next_deadline), T(case29_closing_tells_each_command_its_fate_once),
        T(closing_with_tombstones_and_a_running_auth_leaves_nothing), T(half_an_answer_dies_with_its_connection),
        T(without_memory_for_an_answer_the_command_was_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
