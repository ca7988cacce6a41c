/*
 * redis.h - part of emulator.c: the real redis-server: talking to it as its administrator, and its process.
 */
static void r_close(struct rconn *r) {
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
    r->pos = r->len = 0;
}

static int dial_redis(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(a.sun_path, g.socket, strlen(g.socket) + 1); /* length checked at start */
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool r_write(struct rconn *r, const char *data, size_t n) {
    while (n) {
        ssize_t k = send(r->fd, data, n, MSG_NOSIGNAL);
        if (k <= 0) return false;
        data += k;
        n -= (size_t)k;
    }
    return true;
}

static bool r_fill(struct rconn *r) {
    ssize_t k = recv(r->fd, r->buf, sizeof r->buf, 0);
    r->pos = 0;
    r->len = k > 0 ? (size_t)k : 0;
    return k > 0;
}

static bool r_read(struct rconn *r, char *out, size_t n) {
    while (n) {
        size_t k = r->len - r->pos < n ? r->len - r->pos : n;
        memcpy(out, r->buf + r->pos, k);
        r->pos += k;
        out += k;
        n -= k;
        if (n && !r_fill(r)) return false;
    }
    return true;
}

static bool r_line(struct rconn *r, char *line, size_t room) {
    size_t n = 0;
    char c;
    while (r_read(r, &c, 1)) {
        if (c == '\n') {
            line[n && line[n - 1] == '\r' ? n - 1 : n] = 0;
            return true;
        }
        if (n + 1 < room) line[n++] = c;
    }
    return false;
}

/* Bytes that are no UTF-8 are taken as Latin-1: JSON has no other place for them. */
static json_t *json_bytes(const char *data, size_t n) {
    json_t *value = json_stringn(data, n);
    char *latin;
    size_t i, k = 0;
    if (value) return value;
    latin = must(malloc(2 * n + 1));
    for (i = 0; i < n; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c >= 0x80) latin[k++] = (char)(0xc0 | c >> 6);
        latin[k++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
    }
    value = json_stringn(latin, k);
    free(latin);
    return value;
}

static json_t *r_bulk(struct rconn *r, long n) {
    char *data, end[2];
    json_t *value = NULL;
    if (n < 0) return json_null();
    data = must(malloc((size_t)n + 1));
    if (r_read(r, data, (size_t)n) && r_read(r, end, 2)) value = json_bytes(data, (size_t)n);
    free(data);
    return value;
}

/* A RESP2 reply as JSON; an error is {"error": text}. NULL: the connection is lost. */
static json_t *r_reply(struct rconn *r) {
    char line[1024];
    json_t *array;
    long n;
    if (!r_line(r, line, sizeof line)) return NULL;
    n = strtol(line + 1, NULL, 10);
    switch (line[0]) {
    case '+':
        return json_bytes(line + 1, strlen(line + 1));
    case '-':
        return json_pack("{s:o}", "error", json_bytes(line + 1, strlen(line + 1)));
    case ':':
        return json_integer(strtoll(line + 1, NULL, 10));
    case '$':
        return r_bulk(r, n);
    case '*':
        break;
    default:
        return NULL;
    }
    if (n < 0) return json_null();
    for (array = json_array(); n > 0; n--) {
        json_t *item = r_reply(r);
        if (!item) {
            json_decref(array);
            return NULL;
        }
        json_array_append_new(array, item);
    }
    return array;
}

/* Sends a JSON array of strings as one command. */
static json_t *r_command(struct rconn *r, const json_t *args) {
    size_t i;
    char head[32];
    bool ok;
    snprintf(head, sizeof head, "*%zu\r\n", json_array_size(args));
    ok = r_write(r, head, strlen(head));
    for (i = 0; ok && i < json_array_size(args); i++) {
        const json_t *arg = json_array_get(args, i);
        snprintf(head, sizeof head, "$%zu\r\n", json_string_length(arg));
        ok = r_write(r, head, strlen(head)) && r_write(r, json_string_value(arg), json_string_length(arg)) &&
             r_write(r, "\r\n", 2);
    }
    return ok ? r_reply(r) : NULL;
}

/* Connects as administrator. `seconds` bounds the wait for each answer. */
static bool r_open(struct rconn *r, int seconds) {
    struct timeval tv = {.tv_sec = seconds};
    json_t *args, *reply;
    bool ok;
    r->pos = r->len = 0;
    r->fd = dial_redis();
    if (r->fd < 0) return false;
    setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(r->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    args = json_pack("[sss]", "AUTH", ADMIN_USER, g.admin_password);
    reply = r_command(r, args);
    ok = json_is_string(reply);
    json_decref(args);
    json_decref(reply);
    if (!ok) r_close(r);
    return ok;
}

/* One command over the lasting connection; one reconnect. Consumes args. redis_lock is held. */
static bool redis_do(json_t *args) {
    json_t *reply = NULL;
    bool ok;
    int attempt;
    for (attempt = 0; attempt < 2 && !reply; attempt++) {
        if (g.redis.fd < 0 && !r_open(&g.redis, 5)) break;
        reply = r_command(&g.redis, args);
        if (!reply) r_close(&g.redis);
    }
    ok = reply && !json_object_get(reply, "error");
    json_decref(args);
    json_decref(reply);
    return ok;
}

static bool acl_add(const struct token *t) { return redis_do(policy_command(t->oid, t->hash)); }

static void acl_remove(const struct token *t) {
    redis_do(json_pack("[ssss+]", "ACL", "SETUSER", t->oid, "!", t->hash));
}

/* ---- Its process ---- */

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    size_t n = strlen(text);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n || close(fd) != 0)
        die("cannot write %s: %s", path, strerror(errno));
}

static bool find_program(const char *name, char *out, size_t room) {
    const char *path = getenv("PATH");
    char *copy = must(strdup(path ? path : "/usr/local/bin:/usr/bin:/bin")), *rest = copy, *dir;
    bool found = false;
    while (!found && (dir = strsep(&rest, ":")))
        found = *dir && snprintf(out, room, "%s/%s", dir, name) < (int)room && !access(out, X_OK);
    free(copy);
    return found;
}

/* Debian's redis-tools carries the server under another name; its own name is what counts. */
static void find_redis(void) {
    if (g.redis_path) {
        if (access(g.redis_path, X_OK) != 0) die("--redis-server %s: %s", g.redis_path, strerror(errno));
        snprintf(g.redis_bin, sizeof g.redis_bin, "%s", g.redis_path);
    } else if (!find_program("redis-server", g.redis_bin, sizeof g.redis_bin) &&
               !find_program("redis-check-rdb", g.redis_bin, sizeof g.redis_bin)) {
        die("no redis-server found: install redis-server or redis-tools, or give --redis-server");
    }
}

static void write_redis_conf(const char *path) {
    char admin[65], key[65], *text, *user = NULL, *more = cache_conf();
    sha256_hex(g.admin_password, strlen(g.admin_password), admin);
    sha256_hex(g.access_key, strlen(g.access_key), key);
    if (g.access_key_on) user = format_text("user default on #%s ~* &* +@all\n", key);
    text = format_text("%sunixsocket %s\nunixsocketperm 600\ndir %s\nlogfile %s/redis.log\n"
                       "save \"\"\nappendonly no\nenable-debug-command yes\n%s"
                       "user " ADMIN_USER " on #%s ~* &* +@all\n",
                       more, g.socket, g.dir, g.dir, user ? user : "user default off\n", admin);
    write_file(path, text);
    free(text);
    free(user);
    free(more);
}

/* Only main may call this: the child is told to die with the thread that made it. */
static void redis_spawn(const char *conf) {
    char *argv[] = {(char *)"redis-server", (char *)conf, NULL};
    pid_t parent = getpid();
    sigset_t none;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    g.redis_pid = fork();
    if (g.redis_pid < 0) die("cannot start redis-server: %s", strerror(errno));
    if (g.redis_pid > 0) {
        close(null);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* already orphaned */
        _exit(1);
    setpgid(0, 0); /* Ctrl+C in the terminal is for us alone; we end it in order */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    execv(g.redis_bin, argv);
    _exit(127);
}

/* A cluster of one node: it gets all slots, and takes two seconds to be content with that. */
static bool redis_serves(void) {
    json_t *give = json_pack("[ssss]", "CLUSTER", "ADDSLOTSRANGE", "0", "16383"), *info = json_pack("[ss]", "CLUSTER", "INFO");
    const char *text = NULL;
    json_t *reply = NULL;
    json_decref(r_command(&g.redis, give));             /* an error when it has them already */
    while (!text && !nap(20)) {
        json_decref(reply);
        if (!(reply = r_command(&g.redis, info))) break;
        text = json_is_string(reply) ? strstr(json_string_value(reply), "cluster_state:ok") : NULL;
    }
    json_decref(reply);
    json_decref(give);
    json_decref(info);
    return text != NULL;
}

/* Waits until it answers. The pid is cleared when it ended instead. */
static bool redis_wait_ready(void) {
    int64_t deadline = now_ms() + 15000;
    while (now_ms() < deadline) {
        if (r_open(&g.redis, 5)) return !cache.node_port || redis_serves();
        if (waitpid(g.redis_pid, NULL, WNOHANG) == g.redis_pid) {
            g.redis_pid = 0;
            return false;
        }
        if (nap(10)) return false;
    }
    return false;
}

static void redis_kill(int sig) {
    int64_t deadline = now_ms() + 2000;
    if (g.redis_pid <= 0) return;
    kill(g.redis_pid, sig);
    while (waitpid(g.redis_pid, NULL, WNOHANG) == 0) {
        if (now_ms() > deadline) kill(g.redis_pid, SIGKILL);
        poll(NULL, 0, 5);
    }
    g.redis_pid = 0;
}

static void redis_start(void) {
    char *conf = format_text("%s/redis.conf", g.dir), *log = format_text("%s/redis.log", g.dir);
    char line[256] = "", last[256] = "it wrote no log";
    FILE *f;
    write_redis_conf(conf);
    redis_spawn(conf);
    if (!redis_wait_ready()) {
        if ((f = fopen(log, "re"))) {
            while (fgets(line, sizeof line, f))
                if (line[0] > ' ') snprintf(last, sizeof last, "%.*s", (int)strcspn(line, "\n"), line);
            fclose(f);
        }
        die("%s did not start: %s", g.redis_bin, last);
    }
    free(conf);
    free(log);
}

/* The tokens that live are entered again: the new server knows none. */
static void redis_restart(void) {
    char *conf = format_text("%s/redis.conf", g.dir);
    bool ok;
    size_t i;
    pthread_mutex_lock(&g.redis_lock);
    r_close(&g.redis);
    redis_kill(SIGKILL);
    unlink(g.socket);
    redis_spawn(conf);
    ok = redis_wait_ready();
    /* Tokens are added and removed under redis_lock only, so the list stands still. */
    for (i = 0; ok && i < g.token_count; i++)
        if (g.tokens[i].known) ok = acl_add(&g.tokens[i]);
    pthread_mutex_unlock(&g.redis_lock);
    free(conf);
    pthread_mutex_lock(&g.lock);
    g.restart_failed = !ok;
    g.restarts_done = g.restarts_asked;
    pthread_cond_broadcast(&g.changed);
    pthread_mutex_unlock(&g.lock);
    say("redis-server %s", ok ? "started again" : "did not start again");
}
