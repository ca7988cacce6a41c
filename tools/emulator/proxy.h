/*
 * proxy.h - part of emulator.c: an HTTP proxy that knows CONNECT only, and leads to the emulator only:
 * names of this machine to the port asked for, any other name with port 443 to the authority.
 */
#define PROXY_HEAD 16384

struct tunnel {
    int fd, up;
    char head[PROXY_HEAD + 1];
    size_t n, head_n; /* bytes read; of them the head */
};

/* Waits until one of the two can be read; false: the emulator ends, or nothing came in time. */
static bool tunnel_wait(struct pollfd p[3], int ms) {
    p[2].fd = g.stop_fd;
    p[2].events = POLLIN;
    return poll(p, 3, ms) > 0 && !p[2].revents;
}

static bool send_all(int fd, const char *p, size_t n) {
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static bool tunnel_head(struct tunnel *t) {
    char *end;
    ssize_t k;
    for (;;) {
        struct pollfd p[3] = {{.fd = t->fd, .events = POLLIN}, {.fd = -1}};
        if (t->n == PROXY_HEAD || !tunnel_wait(p, 30000)) return false;
        k = recv(t->fd, t->head + t->n, PROXY_HEAD - t->n, 0);
        if (k <= 0) return false;
        t->n += (size_t)k;
        t->head[t->n] = 0;
        if (!(end = strstr(t->head, "\r\n\r\n"))) continue;
        t->head_n = (size_t)(end - t->head) + 4;
        return true;
    }
}

/* A header of the head, copied; false: it is not there. */
static bool tunnel_header(const struct tunnel *t, const char *name, char *out, size_t room) {
    const char *line = strstr(t->head, "\r\n");
    size_t n = strlen(name);
    while (line && line + 4 < t->head + t->head_n) {
        line += 2;
        if (strncasecmp(line, name, n) == 0 && line[n] == ':') {
            line += n + 1;
            line += strspn(line, " ");
            snprintf(out, room, "%.*s", (int)strcspn(line, "\r"), line);
            return true;
        }
        line = strstr(line, "\r\n");
    }
    return false;
}

static void tunnel_keep(const struct tunnel *t, const char *method, const char *target) {
    char value[16];
    bool secret = tunnel_header(t, "Proxy-Authorization", value, sizeof value);
    struct endpoint *e = &g.endpoint[E_PROXY];
    json_t *last = json_pack("{ss so s{}}", "method", method, "target", json_bytes(target, strlen(target)), "headers");
    if (secret)
        json_object_set_new(json_object_get(last, "headers"), "Proxy-Authorization", json_string("(not shown)"));
    pthread_mutex_lock(&g.lock);
    e->requests++;
    if (strcmp(method, "CONNECT") != 0) g.proxy_plain++;
    json_decref(e->last);
    e->last = last;
    pthread_mutex_unlock(&g.lock);
    say("proxy: %.16s %.200s", method, target);
}

static bool tunnel_login_good(const struct tunnel *t) {
    char value[512], expected[512];
    if (!g.proxy_login) return true;
    memcpy(expected, "Basic ", 7);
    EVP_EncodeBlock((unsigned char *)expected + 6, (const unsigned char *)g.proxy_login, (int)strlen(g.proxy_login));
    return tunnel_header(t, "Proxy-Authorization", value, sizeof value) && strcmp(value, expected) == 0;
}

static void tunnel_refuse(const struct tunnel *t, const char *status, const char *header) {
    char *text = format_text("HTTP/1.1 %s\r\n%sContent-Type: text/html\r\nContent-Length: 28\r\n"
                             "Connection: close\r\n\r\n<html>emulator proxy</html>\n", status, header);
    send_all(t->fd, text, strlen(text));
    shutdown(t->fd, SHUT_WR);
    say("proxy: refused, %s", status);
    free(text);
}

/* Faults that end it before there is a tunnel. */
static bool tunnel_fault(const struct tunnel *t) {
    static const char pad[] = "X-Pad: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n";
    const char *login = "Proxy-Authenticate: Basic realm=\"emulator\"\r\n";
    struct pollfd p[3] = {{.fd = t->fd, .events = POLLRDHUP}, {.fd = -1}};
    if (fault_take(FAULT(E_PROXY, K_407), NULL) || !tunnel_login_good(t)) {
        tunnel_refuse(t, "407 Proxy Authentication Required", login);
    } else if (fault_take(FAULT(E_PROXY, K_403), NULL)) {
        tunnel_refuse(t, "403 Forbidden", "");
    } else if (fault_take(FAULT(E_PROXY, K_502), NULL)) {
        tunnel_refuse(t, "502 Bad Gateway", "");
    } else if (fault_take(FAULT(E_PROXY, K_HANG), NULL)) {
        tunnel_wait(p, -1);
    } else if (fault_take(FAULT(E_PROXY, K_ENDLESS), NULL)) {
        send_all(t->fd, "HTTP/1.1 200 OK\r\n", 17);
        while (!nap(0) && send_all(t->fd, pad, sizeof pad - 1)) {}
    } else {
        return false;
    }
    return true;
}

/* Where the target leads; -1 with errno: it cannot be reached, 0 in *port: nowhere. */
static int tunnel_dial(const char *target, int *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char host[256];
    const char *colon = strrchr(target, ':');
    struct in_addr literal;
    long asked = 0;
    int fd;
    bool local;
    *port = 0;
    if (!colon || !parse_number(colon + 1, &asked) || asked < 1 || asked > 65535) return -1;
    snprintf(host, sizeof host, "%.*s", (int)(colon - target), target);
    local = !strcasecmp(host, "localhost") || !strcmp(host, "127.0.0.1") || !strcmp(host, "[::1]");
    if (!local && (asked != 443 || *host == '[' || inet_pton(AF_INET, host, &literal) == 1)) return -1;
    *port = local ? (int)asked : g.endpoint[E_TOKEN].port;
    a.sin_port = htons((uint16_t)*port);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Both ways until both ends are through, or the fault cuts it. */
static void tunnel_carry(struct tunnel *t) {
    struct pollfd p[3] = {{.fd = t->fd, .events = POLLIN}, {.fd = t->up, .events = POLLIN}};
    char data[16384];
    long left = -1;
    ssize_t k;
    int i;
    if (!fault_take(FAULT(E_PROXY, K_CUT), &left)) left = -1;
    while ((p[0].fd >= 0 || p[1].fd >= 0) && left != 0 && tunnel_wait(p, 120000)) {
        for (i = 0; i < 2; i++) {
            int from = i ? t->up : t->fd, to = i ? t->fd : t->up;
            if (p[i].fd < 0 || !p[i].revents) continue;
            k = recv(from, data, sizeof data, 0);
            if (k > 0 && i && left >= 0) {
                if (k > left) k = left;
                left -= k;
            }
            if (k > 0 && send_all(to, data, (size_t)k)) continue;
            if (k < 0 || left == 0) return;
            shutdown(to, SHUT_WR);
            p[i].fd = -1;
        }
    }
}

static void tunnel_run(struct tunnel *t) {
    char method[32], target[512];
    int port;
    if (!tunnel_head(t) || sscanf(t->head, "%31s %511s", method, target) != 2) return;
    tunnel_keep(t, method, target);
    if (tunnel_fault(t)) return;
    if (strcmp(method, "CONNECT") != 0) {
        tunnel_refuse(t, "405 Method Not Allowed", "Allow: CONNECT\r\n");
        return;
    }
    t->up = tunnel_dial(target, &port);
    if (t->up < 0) {
        tunnel_refuse(t, port ? "502 Bad Gateway" : "403 Forbidden", "");
        return;
    }
    pthread_mutex_lock(&g.lock);
    g.proxy_tunnels++;
    pthread_mutex_unlock(&g.lock);
    if (send_all(t->fd, "HTTP/1.1 200 Connection established\r\n\r\n", 39) &&
        send_all(t->up, t->head + t->head_n, t->n - t->head_n))
        tunnel_carry(t);
    close(t->up);
}

static void *tunnel_main(void *arg) {
    struct tunnel *t = arg;
    tunnel_run(t);
    close(t->fd);
    free(t);
    pthread_mutex_lock(&g.lock);
    g.conn_threads--;
    pthread_cond_broadcast(&g.changed);
    pthread_mutex_unlock(&g.lock);
    return NULL;
}

static void proxy_accept(int listener) {
    struct timeval tv = {.tv_sec = 10};
    struct tunnel *t;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return;
    pthread_mutex_lock(&g.lock);
    g.endpoint[E_PROXY].connections++;
    g.conn_threads++;
    pthread_mutex_unlock(&g.lock);
    t = must(calloc(1, sizeof *t));
    t->fd = fd;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    if (!fault_take(FAULT(E_PROXY, K_REFUSE), NULL) && start_thread(tunnel_main, t)) return;
    close(fd);
    free(t);
    pthread_mutex_lock(&g.lock);
    g.conn_threads--;
    pthread_mutex_unlock(&g.lock);
}
