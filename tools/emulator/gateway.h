/*
 * gateway.h - part of emulator.c: what the cache behind the gateway is like, as its owner has set it: who may do what,
 * by which proof one may sign in, and whether it is one endpoint or a cluster.
 */

/* Azure's built-in access policies as it documents them, and two of the kind that people write themselves. */
static const struct policy { const char *name, *rules, *help; } POLICIES[] = {
    {"owner", "+@all ~* &*", "Data Owner"},
    {"contributor", "+@all -@dangerous +cluster|info +cluster|nodes +cluster|slots ~* &*", "Data Contributor"},
    {"reader", "+@read +@connection +cluster|info +cluster|nodes +cluster|slots ~* &*", "Data Reader"},
    {"keys", "+@all ~app:* &*", "all commands, keys that begin with app:"},
    {"none", "+@connection", "nothing but to connect"},
    {NULL, NULL, NULL}
};

static struct {
    const struct policy *policy;        /* read by many threads, changed by the admin endpoint */
    bool entra_off, plain;              /* no token is a password; also a port without TLS */
    int node_port;                      /* OSS cluster policy: what its node announces; 0: no cluster */
    int plain_port;
} cache = {.policy = POLICIES};

static const struct policy *policy_find(const char *name) {
    const struct policy *p = POLICIES;
    while (p->name && strcmp(p->name, name) != 0) p++;
    return p->name ? p : NULL;
}

/* ACL SETUSER for a token's user: what it may do takes the place of what it might before. */
static json_t *policy_command(const char *user, const char *hash) {
    json_t *args = json_pack("[sssss+sss]", "ACL", "SETUSER", user, "on", "#", hash, "-@all", "resetkeys",
                             "resetchannels");
    char *copy = must(strdup(cache.policy->rules)), *rest = copy, *rule;
    while ((rule = strsep(&rest, " "))) json_array_append_new(args, json_string(rule));
    free(copy);
    return args;
}

/* A port that is free now. The server takes it a moment later. */
static int free_port(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        die("no free port to be had: %s", strerror(errno));
    close(fd);
    return ntohs(a.sin_port);
}

/* Lines of redis.conf. */
static char *cache_conf(void) {
    if (cache.plain) cache.plain_port = free_port();
    if (!cache.node_port) return format_text("bind 127.0.0.1\nport %d\n", cache.plain_port);
    return format_text("bind 127.0.0.1\nport %d\ncluster-enabled yes\ncluster-port %d\ncluster-config-file nodes.conf\n"
                       "cluster-announce-ip 127.0.0.1\ncluster-announce-port %d\n", cache.plain_port, free_port(),
                       cache.node_port);
}

/* False: not such a flag. */
static bool cache_flag(const char *flag, const char *value) {
    long port;
    if (strcmp(flag, "--policy") == 0) {
        if (!(cache.policy = policy_find(value))) bad_usage("--policy: there is no policy '%s'", value);
    } else if (strcmp(flag, "--entra") == 0) {
        if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
            bad_usage("--entra: '%s' is neither on nor off", value);
        cache.entra_off = value[1] == 'f';
    } else if (strcmp(flag, "--cluster") == 0) {
        char *end;
        port = strtol(value, &end, 10);
        if (end == value || *end || port < 1 || port > 65535) bad_usage("--cluster: '%s' is no port", value);
        cache.node_port = (int)port;
    } else {
        return false;
    }
    return true;
}

static void cache_help(void) {
    const struct policy *p;
    puts("  --policy NAME          access policy of all tokens' users, see POLICIES (owner)\n"
         "  --entra on|off         off: Entra authentication is switched off, no token is let in\n"
         "  --plain                the real server also without TLS, on EMULATOR_PLAIN_PORT\n"
         "  --cluster P            OSS cluster policy: one node, which tells clients to come to port P of 127.0.0.1");
    puts("\nPOLICIES:");
    for (p = POLICIES; p->name; p++) printf("  %-16s %s\n", p->name, p->help);
}
