/*
 * connection.h - part of emulator.c: one connection through the gateway: finding AUTH and HELLO, carrying bytes.
 */
struct conn {
    struct conn *next;
    long number;
    int fd, up, wake; /* client, real server, eventfd that ends a poll */
    SSL *ssl;
    short read_wants, write_wants; /* poll events the last SSL_read, SSL_write asked for */
    bool client_gone, server_gone;

    uint8_t *in; /* from the client: the first in_ok bytes are decided and may leave */
    size_t in_len, in_ok;
    uint8_t *out; /* from the server */
    size_t out_pos, out_len;
    size_t write_len; /* length of an SSL_write that has to be repeated as it was */

    /* Where the reader of requests stands. */
    bool raw;  /* no RESP after all: forward unread, the server will judge */
    bool drop; /* the rest of this command goes nowhere */
    long args_left;
    size_t bulk_left;
    bool resp3;
    long subscriptions;

    int64_t held_until, held_since; /* auth-delay */
    bool authenticated;
    int64_t expires;
    uint64_t to_client, to_server; /* bytes carried */
    struct cut {
        unsigned armed;
        uint64_t base;
    } cut[2];

    /* Written by other threads, under g.lock. */
    bool stalled;
    enum why order;
};

static bool is_word(const uint8_t *p, size_t n, const char *word) {
    return strlen(word) == n && strncasecmp((const char *)p, word, n) == 0;
}

struct arg {
    const uint8_t *p;
    size_t n;
};

/* Reads "<type><number>\r\n". Bytes used; 0: more is needed; -1: it is something else. */
static int read_head(const uint8_t *p, size_t n, char type, long *value) {
    char digits[16];
    size_t i;
    if (n == 0) return 0;
    if (p[0] != type) return -1;
    for (i = 1; i < n && i < sizeof digits; i++) {
        if (p[i] == '\r') {
            if (i + 1 == n) return 0;
            digits[i - 1] = 0;
            *value = strtol(digits, NULL, 10);
            return p[i + 1] == '\n' && i > 1 ? (int)i + 2 : -1;
        }
        if (!isdigit(p[i]) && !(p[i] == '-' && i == 1)) return -1;
        digits[i - 1] = (char)p[i];
    }
    return i == sizeof digits ? -1 : 0;
}

/* A whole command. Its length; 0: more is needed; -1: too long or no RESP. */
static long read_command(const uint8_t *p, size_t n, struct arg *args, long room, long *argc) {
    size_t at;
    long i, length;
    int k = read_head(p, n, '*', argc);
    if (k <= 0 || *argc > room) return k <= 0 ? k : -1;
    at = (size_t)k;
    for (i = 0; i < *argc; i++) {
        k = read_head(p + at, n - at, '$', &length);
        if (k <= 0) return k;
        at += (size_t)k;
        if (length < 0 || length > AUTH_FRAME_MAX || at + (size_t)length > AUTH_FRAME_MAX) return -1;
        if (n - at < (size_t)length + 2) return 0;
        args[i].p = p + at;
        args[i].n = (size_t)length;
        at += (size_t)length + 2;
    }
    return (long)at;
}

/* The next n undecided bytes: let them pass, or remove them. */
static void pass(struct conn *c, size_t n) { c->in_ok += n; }

static void erase(struct conn *c, size_t n) {
    c->in_len -= n;
    memmove(c->in + c->in_ok, c->in + c->in_ok + n, c->in_len - c->in_ok);
}

static void pass_or_drop(struct conn *c, size_t n) {
    if (c->drop)
        erase(c, n);
    else
        pass(c, n);
}

static void insert(struct conn *c, const char *text) {
    size_t n = strlen(text);
    memmove(c->in + c->in_ok + n, c->in + c->in_ok, c->in_len - c->in_ok);
    memcpy(c->in + c->in_ok, text, n);
    c->in_ok += n;
    c->in_len += n;
}

/* A user name for the log; it may be a token that came in the wrong place, so only its start. */
static void printable_user(const struct arg *user, char out[64]) {
    size_t i, n = user->n < 40 ? user->n : 40;
    for (i = 0; i < n; i++) out[i] = (char)(user->p[i] > 32 && user->p[i] < 127 ? user->p[i] : '?');
    out[n] = 0;
}

static void record_auth(struct conn *c, const struct arg *user, bool accepted, int64_t expires,
                        int64_t delayed) {
    int64_t now = now_ms();
    struct auth_record r = {
        .at = now - g.start, .delayed = delayed, .connection = c->number, .accepted = accepted, .left = -1};
    bool again = c->authenticated;
    if (again) r.left = c->expires == NEVER ? 1e9 : (double)(c->expires - now) / 1000;
    printable_user(user, r.user);
    pthread_mutex_lock(&g.lock);
    g.auths_total++;
    g.auths_accepted += accepted;
    g.reauths_accepted += accepted && again;
    if (make_room(&g.auths, g.auth_count, &g.auth_room, sizeof r, RECORDS_MAX)) g.auths[g.auth_count++] = r;
    pthread_mutex_unlock(&g.lock);
    if (accepted) {
        c->authenticated = true;
        c->expires = expires;
    }
    if (accepted && again)
        say("connection %ld: AUTH accepted, %.1f s left", c->number, r.left);
    else
        say("connection %ld: AUTH %s", c->number, accepted ? "accepted" : "rejected");
}

/*
 * An AUTH, or a HELLO with AUTH, of `frame` bytes stands next. False: it is held back for now.
 * It is recorded before it leaves, so that the record is there when the client has its answer.
 */
static bool take_auth(struct conn *c, const struct arg *user, const struct arg *pw, size_t frame) {
    long value;
    int64_t now = now_ms(), delayed, expires = 0;
    bool good;
    if (!c->held_until && fault_take(F_AUTH_DELAY, &value)) {
        c->held_since = now;
        c->held_until = now + value;
    }
    if (c->held_until > now) return false;
    delayed = c->held_until ? now - c->held_since : 0;
    c->held_until = 0;
    if (fault_take(F_AUTH_SILENT, NULL)) {
        record_auth(c, user, false, 0, delayed);
        erase(c, frame);
        return true;
    }
    if (pw->n && (fault_take(F_AUTH_REJECT, NULL) || (c->authenticated && fault_take(F_REAUTH_REJECT, NULL)))) {
        uint8_t *last = c->in + (pw->p - c->in) + pw->n - 1;
        *last ^= 1; /* the real server is to refuse it itself */
    }
    good = credential_good((const char *)user->p, user->n, pw->p, pw->n, &expires);
    if (c->subscriptions > 0 && !c->resp3) good = false; /* a RESP2 subscriber may not AUTH */
    if (pw->n > UNAUTHENTICATED_MAX && !c->authenticated) good = false;
    record_auth(c, user, good, expires, delayed);
    pass(c, frame);
    return true;
}

/* AUTH or HELLO stands next. False: wait, for more bytes or for the end of a delay. */
static bool take_login(struct conn *c, const uint8_t *p, size_t n) {
    static const struct arg nobody = {(const uint8_t *)"default", 7};
    struct arg a[16] = {{0}};
    long argc, i, frame = read_command(p, n, a, 16, &argc);
    bool hello, was = c->authenticated;
    if (frame == 0) return false;
    if (frame < 0) { /* let it run through as any command */
        int k = read_head(p, n, '*', &c->args_left);
        pass(c, (size_t)k);
        return true;
    }
    hello = is_word(a[0].p, a[0].n, "HELLO");
    if (!hello && argc == 2) return take_auth(c, &nobody, &a[1], (size_t)frame);
    if (!hello && argc == 3) return take_auth(c, &a[1], &a[2], (size_t)frame);
    for (i = 2; hello && i + 2 < argc; i++) {
        if (is_word(a[i].p, a[i].n, "SETNAME")) {
            i++;
        } else if (is_word(a[i].p, a[i].n, "AUTH")) {
            bool three = is_word(a[1].p, a[1].n, "3");
            if (!take_auth(c, &a[i + 1], &a[i + 2], (size_t)frame)) return false;
            if (c->authenticated || was) c->resp3 = three;
            return true;
        }
    }
    if (hello && argc > 1 && c->authenticated) c->resp3 = is_word(a[1].p, a[1].n, "3");
    pass(c, (size_t)frame);
    return true;
}

/* Counts what a RESP2 connection has subscribed: while it has, its AUTH is refused. */
static void note_subscription(struct conn *c, const uint8_t *name, size_t n, long argc) {
    bool off;
    if (is_word(name, n, "RESET")) {
        c->subscriptions = 0;
        c->resp3 = false;
        return;
    }
    if (n < 9 || !is_word(name + n - 9, 9, "SUBSCRIBE")) return;
    off = n >= 11 && is_word(name + n - 11, 2, "UN");
    c->subscriptions += off ? -(argc - 1) : argc - 1;
    if (c->subscriptions < 0 || (off && argc == 1)) c->subscriptions = 0;
}

/* The command to be put in the place of this one, by which the real server says what a fault wants, so that it comes
 * in its place among the replies. NULL: none. */
static const char *instead(const uint8_t *name, size_t n, long argc) {
    bool ping = is_word(name, n, "PING");
    if (!is_word(name, n, "CLIENT") && !ping && fault_take(F_MOVED, NULL))
        return "*3\r\n$4\r\nEVAL\r\n$52\r\nreturn redis.error_reply('MOVED 1234 10.0.0.1:8500')\r\n$1\r\n0\r\n";
    if (is_word(name, n, "PUBLISH") && fault_take(F_PUBLISH_LOST, NULL))
        return "*3\r\n$4\r\nEVAL\r\n$8\r\nreturn 0\r\n$1\r\n0\r\n";
    return ping && argc == 1 && fault_take(F_PING_SILENT, NULL) ? "" : NULL;
}

/* A command begins here. False: more bytes are needed, or it is held back. */
static bool take_command(struct conn *c, const uint8_t *p, size_t n) {
    const uint8_t *name;
    const char *other;
    long argc, length;
    int a, b;
    if (*p != '*') { /* inline command */
        const uint8_t *end = memchr(p, '\n', n);
        c->raw = !end && n > 65536;
        if (end) pass(c, (size_t)(end - p) + 1);
        return end || c->raw;
    }
    a = read_head(p, n, '*', &argc);
    if (a > 0 && argc <= 0) { /* the server ignores it */
        pass(c, (size_t)a);
        return true;
    }
    b = a > 0 ? read_head(p + a, n - (size_t)a, '$', &length) : a;
    c->raw = b < 0;
    if (b <= 0) return c->raw;
    name = p + a + b;
    if (length < 0 || length > 16) length = 0; /* no name that matters here */
    if (n < (size_t)(a + b) + (size_t)length) return false;
    if (is_word(name, (size_t)length, "AUTH") || is_word(name, (size_t)length, "HELLO"))
        return take_login(c, p, n);
    note_subscription(c, name, (size_t)length, argc);
    c->args_left = argc;
    other = instead(name, (size_t)length, argc);
    if (other) {
        erase(c, (size_t)a);
        insert(c, other);
        c->drop = true;
        return true;
    }
    pass(c, (size_t)a);
    return true;
}

/* Decides about as many of the received bytes as can be decided. */
static void examine(struct conn *c) {
    for (;;) {
        const uint8_t *p = c->in + c->in_ok;
        size_t n = c->in_len - c->in_ok;
        if (n == 0) return;
        if (c->raw) {
            pass(c, n);
        } else if (c->bulk_left) {
            size_t k = c->bulk_left < n ? c->bulk_left : n;
            c->bulk_left -= k;
            pass_or_drop(c, k);
        } else if (c->args_left) {
            long length;
            int k = read_head(p, n, '$', &length);
            if (k == 0) return;
            if (k < 0 || length < 0) {
                c->raw = true;
                continue;
            }
            pass_or_drop(c, (size_t)k);
            c->bulk_left = (size_t)length + 2;
            c->args_left--;
        } else {
            c->drop = false;
            if (!take_command(c, p, n)) return;
        }
    }
}

/* ---- Carrying bytes ---- */

/* After a failed SSL call: what to wait for; 0 when the client is gone. */
static short ssl_wants(struct conn *c, int result) {
    switch (SSL_get_error(c->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        return POLLIN;
    case SSL_ERROR_WANT_WRITE:
        return POLLOUT;
    default:
        c->client_gone = true;
        return 0;
    }
}

static bool has_room(const struct conn *c) { return c->in_len < IN_CAP - IN_RESERVE; }

static bool from_client(struct conn *c) {
    int k;
    if (c->client_gone || !has_room(c)) return false;
    ERR_clear_error();
    k = SSL_read(c->ssl, c->in + c->in_len, (int)(IN_CAP - IN_RESERVE - c->in_len));
    if (k <= 0) {
        c->read_wants = ssl_wants(c, k);
        return false;
    }
    c->in_len += (size_t)k;
    return true;
}

static bool to_server(struct conn *c, uint64_t limit) {
    size_t n = c->in_ok < limit ? c->in_ok : (size_t)limit;
    ssize_t k;
    if (n == 0) return false;
    k = send(c->up, c->in, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (k < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (k < 0) /* it closed: what it said before is still to be read */
        k = (ssize_t)n;
    c->to_server += (uint64_t)k;
    c->in_ok -= (size_t)k;
    c->in_len -= (size_t)k;
    memmove(c->in, c->in + k, c->in_len);
    return true;
}

static bool from_server(struct conn *c) {
    ssize_t k;
    if (c->server_gone || c->out_len) return false;
    k = recv(c->up, c->out, OUT_CAP, MSG_DONTWAIT);
    if (k < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    c->server_gone = k <= 0;
    c->out_pos = 0;
    c->out_len = k > 0 ? (size_t)k : 0;
    return k > 0;
}

static bool to_client(struct conn *c, uint64_t limit) {
    size_t n = c->out_len < limit ? c->out_len : (size_t)limit;
    int k;
    if (c->write_len) /* OpenSSL wants an interrupted write repeated with the same length */
        n = c->write_len;
    if (n == 0 || c->client_gone) return false;
    ERR_clear_error();
    if (!c->write_len && SSL_version(c->ssl) == TLS1_3_VERSION && fault_take(F_KEY_UPDATE, NULL))
        SSL_key_update(c->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
    k = SSL_write(c->ssl, c->out + c->out_pos, (int)n);
    if (k <= 0) {
        c->write_wants = ssl_wants(c, k);
        c->write_len = n;
        return false;
    }
    c->write_len = 0;
    c->to_client += (uint64_t)k;
    c->out_pos += (size_t)k;
    c->out_len -= (size_t)k;
    return true;
}

/* How many more bytes a cut lets through in this direction. g.lock is held. */
static uint64_t cut_limit(struct conn *c, enum fault_id id, uint64_t carried) {
    const struct fault *f = &g.faults[id];
    struct cut *cut = &c->cut[id == F_CUT_REQUEST];
    if (f->left == 0) return UINT64_MAX;
    if (cut->armed != f->armed) {
        cut->armed = f->armed;
        cut->base = carried;
    }
    carried -= cut->base;
    return (uint64_t)f->value > carried ? (uint64_t)f->value - carried : 0;
}

/* Sleeps until something can move. With `only_hangup`, until the client leaves. */
static void conn_wait(struct conn *c, bool only_hangup) {
    struct pollfd p[3] = {{.fd = c->wake, .events = POLLIN}, {.fd = c->fd}, {.fd = c->up}};
    int64_t now = now_ms(), until = c->expires < now + 60000 ? c->expires : now + 60000;
    eventfd_t drained;
    if (c->held_until && c->held_until < until) until = c->held_until;
    if (only_hangup) {
        p[1].events = POLLRDHUP;
        until = now + 60000;
    } else {
        if (!c->client_gone && has_room(c)) p[1].events |= c->read_wants;
        if (c->out_len) p[1].events |= c->write_wants;
        if (c->in_ok) p[2].events |= POLLOUT;
        if (!c->server_gone && !c->out_len) p[2].events |= POLLIN;
    }
    if (!p[1].events) /* or a hang-up would end every poll at once */
        p[1].fd = -1;
    if (!p[2].events) p[2].fd = -1;
    poll(p, 3, until < now ? 0 : (int)(until - now));
    if (p[0].revents) eventfd_read(c->wake, &drained);
    if (only_hangup && p[1].revents) c->client_gone = true;
}

static void flush_to_server(struct conn *c) {
    struct pollfd p = {.fd = c->up, .events = POLLOUT};
    while (c->in_ok && (to_server(c, UINT64_MAX) || poll(&p, 1, 200) > 0)) {}
}

/* Carries both directions until there is a reason to end. */
static enum why conn_carry(struct conn *c) {
    for (;;) {
        uint64_t down, up;
        enum why order;
        bool stalled, moved;
        pthread_mutex_lock(&g.lock);
        order = c->order;
        stalled = c->stalled;
        down = cut_limit(c, F_CUT, c->to_client);
        up = cut_limit(c, F_CUT_REQUEST, c->to_server);
        pthread_mutex_unlock(&g.lock);
        if (order != W_OPEN) return order;
        if (c->client_gone) {
            if (!stalled) flush_to_server(c);
            return W_CLIENT;
        }
        if (stalled) {
            conn_wait(c, true);
            continue;
        }
        if (now_ms() >= c->expires) return W_EXPIRED;
        if ((down == 0 && fault_take(F_CUT, NULL)) || (up == 0 && fault_take(F_CUT_REQUEST, NULL)))
            return W_FAULT;
        moved = from_client(c);
        examine(c);
        moved |= to_server(c, up);
        moved |= from_server(c);
        moved |= to_client(c, down);
        if (c->server_gone && !c->out_len) return W_SERVER;
        if (!moved && !c->client_gone) conn_wait(c, false);
    }
}

static void conn_count_handshake(struct conn *c) {
    bool resumed = SSL_session_reused(c->ssl) == 1;
    pthread_mutex_lock(&g.lock);
    *(resumed ? &g.tls_resumed : &g.tls_full) += 1;
    pthread_mutex_unlock(&g.lock);
}

static bool conn_handshake(struct conn *c) {
    int64_t deadline = now_ms() + 10000;
    struct pollfd p[2] = {{.fd = c->fd}, {.fd = g.stop_fd, .events = POLLIN}};
    int k;
    pthread_mutex_lock(&g.lock);
    c->ssl = must(SSL_new(g.ssl_ctx));
    pthread_mutex_unlock(&g.lock);
    SSL_set_fd(c->ssl, c->fd);
    for (;;) {
        ERR_clear_error();
        if ((k = SSL_accept(c->ssl)) == 1) {
            conn_count_handshake(c);
            return true;
        }
        p[0].events = ssl_wants(c, k);
        if (c->client_gone || now_ms() >= deadline || poll(p, 2, 1000) < 0 || p[1].revents) return false;
    }
}

/* Our last word, then read until the client has closed too: an unread byte would become a reset
 * and could overtake what we sent. */
static void conn_part(struct conn *c, bool notify) {
    int64_t deadline = now_ms() + 500;
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    char waste[4096];
    if (notify && !c->write_len) SSL_shutdown(c->ssl);
    shutdown(c->fd, SHUT_WR);
    while (now_ms() < deadline && poll(&p, 1, 100) >= 0)
        if (p.revents && recv(c->fd, waste, sizeof waste, MSG_DONTWAIT) <= 0) return;
}

static void conn_record_end(struct conn *c, enum why why) {
    struct conn **at;
    pthread_mutex_lock(&g.lock);
    for (at = &g.conns; *at != c; at = &(*at)->next) {}
    *at = c->next;
    g.connections_open--;
    g.connections_expired += why == W_EXPIRED;
    if ((size_t)c->number <= g.record_count) {
        g.records[c->number - 1].closed = now_ms() - g.start;
        g.records[c->number - 1].why = why;
    }
    pthread_mutex_unlock(&g.lock);
    say("connection %ld: closed (%s)", c->number, WHY[why]);
}

static void *conn_main(void *arg) {
    struct conn *c = arg;
    enum why why = W_CLIENT;
    if (conn_handshake(c)) {
        c->up = dial_redis();
        why = c->up >= 0 ? conn_carry(c) : W_SERVER;
    }
    conn_record_end(c, why); /* first the books, then what the client can see */
    if (c->up >= 0) close(c->up);
    if (why == W_EXPIRED || why == W_SERVER || why == W_FAULT) conn_part(c, why != W_FAULT);
    ERR_clear_error();
    SSL_free(c->ssl);
    close(c->fd);
    close(c->wake);
    free(c->in);
    free(c->out);
    free(c);
    OPENSSL_thread_stop();
    pthread_mutex_lock(&g.lock);
    g.conn_threads--;
    pthread_cond_broadcast(&g.changed);
    pthread_mutex_unlock(&g.lock);
    return NULL;
}

static bool start_thread(void *(*run)(void *), void *arg) {
    pthread_attr_t attr;
    pthread_t thread;
    int failed;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&thread, &attr, run, arg);
    pthread_attr_destroy(&attr);
    return failed == 0;
}

static void conn_open(int fd) {
    struct conn *c = must(calloc(1, sizeof *c));
    struct conn_record r = {.opened = now_ms() - g.start, .closed = -1};
    int one = 1;
    c->fd = fd;
    c->up = -1;
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->read_wants = POLLIN;
    c->write_wants = POLLOUT;
    c->in = must(malloc(IN_CAP));
    c->out = must(malloc(OUT_CAP));
    c->expires = NEVER;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    pthread_mutex_lock(&g.lock);
    c->number = ++g.connections_opened;
    c->next = g.conns;
    g.conns = c;
    g.connections_open++;
    g.conn_threads++;
    if (make_room(&g.records, g.record_count, &g.record_room, sizeof r, RECORDS_MAX))
        g.records[g.record_count++] = r;
    pthread_mutex_unlock(&g.lock);
    say("connection %ld: opened", c->number);
    if (!start_thread(conn_main, c)) die("cannot start a thread for a connection");
}

static void gateway_accept(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        nap(errno == EMFILE || errno == ENFILE ? 50 : 0);
    else if (fault_take(F_REFUSE, NULL))
        close(fd);
    else
        conn_open(fd);
}

/* Gives an order to every open connection, or only wakes them to look at the faults again. */
static long conns_tell(enum why order, int stall) {
    struct conn *c;
    long n = 0;
    pthread_mutex_lock(&g.lock);
    for (c = g.conns; c; c = c->next, n++) {
        if (order != W_OPEN) c->order = order;
        if (stall >= 0) c->stalled = stall;
        eventfd_write(c->wake, 1);
    }
    pthread_mutex_unlock(&g.lock);
    return n;
}
