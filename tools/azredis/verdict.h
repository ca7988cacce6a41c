/*
 * verdict.h - part of azredis.c: what the doctor thinks of what it saw. Pure: facts go in, a verdict with its cause and
 * its mend comes out, both from one table. A rule further up wins; a check without a rule that fits is in order.
 */
enum check {
    CHECK_NAME, CHECK_TCP, CHECK_TLS, CHECK_IDENTITY, CHECK_TOKEN, CHECK_AUTH, CHECK_RIGHTS, CHECK_ROUND_TRIP,
    CHECK_PUBSUB, CHECK_REAUTH, CHECK_CLUSTER, CHECK_COUNT
};
static const char *const check_names[CHECK_COUNT] = {"name", "tcp", "tls", "identity", "token", "auth", "rights",
                                                     "round-trip", "pubsub", "reauth", "cluster"};
#define FIRST_EXIT 10                   /* exit status of the first check that failed: this and its place */

enum outcome { CHECK_OK, CHECK_WARN, CHECK_FAIL, CHECK_SKIPPED };

enum suffix { SUFFIX_OTHER, SUFFIX_MANAGED, SUFFIX_CLASSIC };   /* Azure Managed Redis, Azure Cache for Redis */
enum lookup { LOOKUP_OK, LOOKUP_UNKNOWN, LOOKUP_SILENT, LOOKUP_FAILED };
enum reach { REACH_OK, REACH_REFUSED, REACH_BLOCKED, REACH_NO_ROUTE, REACH_FAILED };
enum right { RIGHT_YES, RIGHT_NO, RIGHT_NOT_THIS_KEY, RIGHT_MOVED, RIGHT_FULL, RIGHT_REPLICA, RIGHT_BROKEN };
enum proof { PROOF_TOKEN, PROOF_KEY, PROOF_PASSWORD };
enum { CERT_EXPIRED = 1, CERT_FUTURE = 2, CERT_NAME = 4, CERT_UNTRUSTED = 8 };

#define SKEW_MAX       300              /* s: the clocks of Entra and Azure Redis tolerate as much */
#define LIFE_MIN       300              /* s: a token this short is renewed all the time */
#define CERT_DAYS      14               /* Azure renews its own long before that */
#define SLOW_US        50000            /* median round trip; within a region it is below 2 ms */
#define STALL_US       1000000          /* longest round trip */
#define SLOW_REAUTH_MS 1000u            /* from then on the library opens a second connection instead */

typedef struct facts {
    /* asked for */
    char host[256];                     /* without brackets */
    char suffix_text[48];               /* ".redis.azure.net"; "": no suffix of Azure's */
    enum suffix suffix;
    int port, right_port;               /* right_port: that of the suffix; 0: unknown */
    int is_address, privatelink;        /* of host: a literal; a name of a private zone */
    enum proof proof;
    char tenant_asked[64];
    /* name look-up */
    enum lookup lookup;
    char address[64], canonical[256];   /* the first one; the name that it belongs to */
    int private_address;                /* the first one is of RFC 1918, RFC 6598 or RFC 4193 */
    /* connecting */
    enum reach reach;
    int other_port;                     /* one of Redis's that is open instead; 0: none */
    /* TLS */
    azredis_status tls;
    unsigned cert;                      /* CERT_ bits of a certificate that was refused */
    int no_roots, plain_answer;         /* no root certificates; Redis answers without TLS */
    int64_t days_left;                  /* of a chain that was accepted */
    /* identity and token */
    azredis_status token;
    int aadsts, http_status;
    char credential[24], audience[160], user[64], tenant[64];
    int64_t life_s, skew_s;             /* left; how far this clock is behind Entra's */
    int person, groups;                 /* whose token: a person's; a member of groups */
    /* Redis */
    azredis_status auth;
    enum right may_read, may_write, may_admin;
    azredis_status ping;
    int64_t median_us, longest_us;
    azredis_status subscribe;           /* AZREDIS_AGAIN: nothing came */
    int resp2;
    azredis_status reauth;
    uint32_t reauth_ms;
    int oss;                            /* 1: OSS cluster policy */
    char node[300];                     /* host:port of the node that was tried; "": none */
    enum reach node_reach;
    char clock[32];                     /* this machine's, for people */
    char text[456];                     /* the library's own words for what just failed */
} facts;

/* ---- what a name tells ----------------------------------------------------------------------- */

static int ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n > k && strcasecmp(text + n - k, end) == 0;
}

/* Microsoft's names of caches, in all clouds, and their TLS ports. */
static const struct { const char *end; enum suffix suffix; int port; } suffixes[] = {
    {".redis.cache.windows.net", SUFFIX_CLASSIC, 6380}, {".redis.cache.chinacloudapi.cn", SUFFIX_CLASSIC, 6380},
    {".redis.cache.usgovcloudapi.net", SUFFIX_CLASSIC, 6380}, {".redis.cache.sovcloud-api.fr", SUFFIX_CLASSIC, 6380},
    {".redis.cache.sovcloud-api.de", SUFFIX_CLASSIC, 6380}, {".redis.azure.net", SUFFIX_MANAGED, 10000},
    {".redisenterprise.cache.azure.net", SUFFIX_MANAGED, 10000}, {".redis.chinacloudapi.cn", SUFFIX_MANAGED, 10000},
    {".redis.usgovcloudapi.net", SUFFIX_MANAGED, 10000}, {".redis.sovcloud-api.fr", SUFFIX_MANAGED, 10000},
    {".redis.sovcloud-api.de", SUFFIX_MANAGED, 10000}
};

static void know_host(facts *f, const char *host, int port) {
    char bytes[16];
    size_t i;
    snprintf(f->host, sizeof f->host, "%s", host);
    f->port = port;
    f->privatelink = strcasestr(host, ".privatelink.") != NULL;
    f->is_address = inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
    for (i = 0; i < sizeof suffixes / sizeof suffixes[0] && f->suffix == SUFFIX_OTHER; i++) {
        if (!ends_with(host, suffixes[i].end)) continue;
        f->suffix = suffixes[i].suffix;
        f->right_port = suffixes[i].port;
        snprintf(f->suffix_text, sizeof f->suffix_text, "%s", suffixes[i].end);
    }
}

/* Of the networks that are nobody's in particular: RFC 1918, RFC 6598; RFC 4193. */
static int is_private4(const unsigned char a[4]) {
    return a[0] == 10 || (a[0] == 172 && (a[1] & 0xf0) == 16) || (a[0] == 192 && a[1] == 168) ||
           (a[0] == 100 && (a[1] & 0xc0) == 64);
}
static int is_private6(const unsigned char a[16]) { return (a[0] & 0xfe) == 0xfc; }

/* Claims of a token, as JSON text, that tell whose it is. */
static void know_claims(facts *f, const char *json) {
    f->groups = strstr(json, "\"groups\":") != NULL || strstr(json, "\"hasgroups\":") != NULL;
    f->person = strstr(json, "\"idtyp\":\"user\"") != NULL || strstr(json, "\"upn\":") != NULL ||
                strstr(json, "\"scp\":") != NULL;
}

/* ---- rules ----------------------------------------------------------------------------------- */

static int hidden_private(const facts *f) { return strcasestr(f->canonical, ".privatelink.") && !f->private_address; }
static int azure_private(const facts *f) { return f->private_address && f->suffix != SUFFIX_OTHER && !f->is_address; }
static int unknown(const facts *f) { return f->lookup == LOOKUP_UNKNOWN; }
static int no_region(const facts *f) {
    const char *dot = strchr(f->host, '.');
    return unknown(f) && dot && strcasecmp(dot, ".redis.azure.net") == 0;
}
static int private_unknown(const facts *f) { return unknown(f) && f->privatelink; }
static int no_name_server(const facts *f) { return f->lookup == LOOKUP_SILENT; }
static int lookup_failed(const facts *f) { return f->lookup == LOOKUP_FAILED; }
static int is_privatelink(const facts *f) { return f->privatelink; }

static int unreached(const facts *f) { return f->reach != REACH_OK; }
static int wrong_port(const facts *f) { return unreached(f) && f->right_port && f->port != f->right_port; }
static int private_unreached(const facts *f) { return unreached(f) && azure_private(f); }
static int public_unreached(const facts *f) { return unreached(f) && hidden_private(f); }
static int other_port(const facts *f) { return unreached(f) && f->other_port; }
static int refused(const facts *f) { return f->reach == REACH_REFUSED; }
static int blocked(const facts *f) { return f->reach == REACH_BLOCKED; }
static int no_route(const facts *f) { return f->reach == REACH_NO_ROUTE; }

static int plaintext_port(const facts *f) { return f->plain_answer; }
static int no_roots(const facts *f) { return f->no_roots; }
static int cert_future(const facts *f) { return (f->cert & CERT_FUTURE) != 0; }
static int cert_expired(const facts *f) { return (f->cert & CERT_EXPIRED) != 0; }
static int cert_private(const facts *f) { return (f->cert & CERT_NAME) && f->privatelink; }
static int cert_address(const facts *f) { return (f->cert & CERT_NAME) && f->is_address; }
static int cert_name(const facts *f) { return (f->cert & CERT_NAME) != 0; }
static int cert_untrusted(const facts *f) { return (f->cert & CERT_UNTRUSTED) != 0; }
static int cert_other(const facts *f) { return f->tls == AZREDIS_E_CERT; }
static int tls_cut(const facts *f) { return f->tls == AZREDIS_E_CLOSED || f->tls == AZREDIS_E_NET; }
static int tls_silent(const facts *f) { return f->tls == AZREDIS_E_TIMEOUT; }
static int tls_failed(const facts *f) { return f->tls != AZREDIS_OK; }
static int cert_ends(const facts *f) { return f->tls == AZREDIS_OK && f->days_left < CERT_DAYS; }

static int aadsts_of(const facts *f, const int *codes) {
    while (*codes && *codes != f->aadsts) codes++;
    return *codes != 0;
}
static int wrong_secret(const facts *f) { return f->aadsts == 7000215; }
static int expired_secret(const facts *f) { return f->aadsts == 7000222; }
static int unknown_tenant(const facts *f) { return aadsts_of(f, (const int[]){90002, 900023, 50059, 50128, 0}); }
static int other_cloud(const facts *f) { return aadsts_of(f, (const int[]){90038, 900382, 0}); }
static int unknown_app(const facts *f) { return aadsts_of(f, (const int[]){700016, 700011, 7000112, 70001, 0}); }
static int not_assigned(const facts *f) { return f->aadsts == 50105; }
static int assertion_time(const facts *f) { return aadsts_of(f, (const int[]){700024, 500133, 0}); }
static int wrong_certificate(const facts *f) { return aadsts_of(f, (const int[]){700027, 700030, 50012, 0}); }
static int no_federation(const facts *f) {
    return aadsts_of(f, (const int[]){70021, 700211, 700212, 700213, 7002137, 7002138, 0});
}
/* Entra knows who asks, and not what for. */
static int wrong_scope(const facts *f) {
    return aadsts_of(f, (const int[]){70011, 1002012, 500011, 50001, 28002, 700022, 700023, 650052, 650057, 0});
}
static int unusable_token(const facts *f) { return f->token == AZREDIS_E_TOKEN; }
static int no_token(const facts *f) { return f->token != AZREDIS_OK && !unusable_token(f) && !wrong_scope(f); }
static int no_identity(const facts *f) { return no_token(f) && f->token == AZREDIS_E_NO_CREDENTIAL; }
static int is_named(const facts *f, const char *identity) { return strcmp(f->credential, identity) == 0; }
static int no_metadata(const facts *f) { return no_token(f) && is_named(f, "managed-identity"); }
/* Metadata services answer 400 where the machine has no such identity. In a chain the text begins with whose it is. */
static int not_here(const facts *f) {
    return (no_metadata(f) || (no_token(f) && !*f->credential && strncmp(f->text, "managed-identity:", 17) == 0)) &&
           f->http_status == 400 && f->aadsts == 0;
}
static int unavailable(const facts *f) { return no_identity(f) && *f->credential; }
static int no_person(const facts *f) {
    return no_token(f) && f->token == AZREDIS_E_TIMEOUT && is_named(f, "device-code") && strstr(f->text, "nobody");
}
static int slow_program(const facts *f) {
    return no_token(f) && f->token == AZREDIS_E_TIMEOUT &&
           (strncmp(f->credential, "azure-", 6) == 0 || is_named(f, "exec"));
}
static int entra_unreached(const facts *f) {
    return no_token(f) && (f->token == AZREDIS_E_DNS || f->token == AZREDIS_E_NET || f->token == AZREDIS_E_TIMEOUT ||
                           f->token == AZREDIS_E_CLOSED || f->token == AZREDIS_AGAIN);
}
static int entra_tls(const facts *f) { return f->token == AZREDIS_E_TLS || f->token == AZREDIS_E_CERT; }

static int got_token(const facts *f) { return f->token == AZREDIS_OK && f->proof == PROOF_TOKEN; }
static int wrong_audience(const facts *f) {
    static const char guid[] = "acca5fbb-b7e4-4009-81f1-37e38fd66d78", url[] = "https://redis.azure.com";
    size_t n = strlen(f->audience);
    if (n > 0 && f->audience[n - 1] == '/') n--;
    return got_token(f) && n > 0 && !(n == strlen(url) && strncasecmp(f->audience, url, n) == 0) &&
           !(n == strlen(guid) && strncasecmp(f->audience, guid, n) == 0);
}
static int clock_differs(const facts *f) { return got_token(f) && (f->skew_s > SKEW_MAX || f->skew_s < -SKEW_MAX); }
/* Only ids can be compared: a tenant may also be asked for by its domain. */
static int other_tenant(const facts *f) {
    return got_token(f) && *f->tenant && strlen(f->tenant_asked) == 36 && !strchr(f->tenant_asked, '.') &&
           strcasecmp(f->tenant, f->tenant_asked) != 0;
}
static int short_life(const facts *f) { return got_token(f) && f->life_s < LIFE_MIN; }

static int auth_refused(const facts *f) { return f->auth == AZREDIS_E_AUTH; }
static int group_only(const facts *f) { return auth_refused(f) && f->proof == PROOF_TOKEN && (f->groups || f->person); }
static int not_a_user(const facts *f) { return auth_refused(f) && f->proof == PROOF_TOKEN; }
static int key_refused(const facts *f) { return auth_refused(f) && f->proof == PROOF_KEY; }
static int full_server(const facts *f) { return f->auth != AZREDIS_OK && strstr(f->text, "max number of clients"); }
static int starting(const facts *f) {
    return f->auth == AZREDIS_E_REDIS &&
           (strstr(f->text, "LOADING") || strstr(f->text, "MASTERDOWN") || strstr(f->text, "BUSY"));
}
static int no_redis(const facts *f) { return f->auth == AZREDIS_E_RESP; }
static int auth_silent(const facts *f) { return f->auth == AZREDIS_E_TIMEOUT; }
static int auth_cut(const facts *f) { return f->auth == AZREDIS_E_CLOSED || f->auth == AZREDIS_E_NET; }
static int auth_failed(const facts *f) { return f->auth != AZREDIS_OK; }

static int no_rights(const facts *f) { return f->may_read == RIGHT_NO && f->may_write == RIGHT_NO; }
static int some_keys(const facts *f) { return f->may_read == RIGHT_NOT_THIS_KEY || f->may_write == RIGHT_NOT_THIS_KEY; }
static int reader(const facts *f) { return f->may_read == RIGHT_YES && f->may_write == RIGHT_NO; }
static int writer(const facts *f) { return f->may_read == RIGHT_NO && f->may_write == RIGHT_YES; }
static int memory_full(const facts *f) { return f->may_write == RIGHT_FULL; }
static int replica(const facts *f) { return f->may_write == RIGHT_REPLICA; }
static int rights_broken(const facts *f) { return f->may_read == RIGHT_BROKEN || f->may_write == RIGHT_BROKEN; }

static int ping_lost(const facts *f) { return f->ping != AZREDIS_OK; }
static int far_away(const facts *f) { return f->median_us > SLOW_US; }
static int stalls(const facts *f) { return f->longest_us > STALL_US; }

static int only_resp2(const facts *f) { return f->resp2; }
static int no_channel(const facts *f) { return f->subscribe == AZREDIS_E_NOPERM; }
static int message_lost(const facts *f) { return f->subscribe == AZREDIS_AGAIN; }
static int sub_failed(const facts *f) { return f->subscribe != AZREDIS_OK; }

static int reauth_refused(const facts *f) { return f->reauth == AZREDIS_E_AUTH; }
static int reauth_failed(const facts *f) { return f->reauth != AZREDIS_OK; }
static int slow_reauth(const facts *f) { return f->reauth_ms > SLOW_REAUTH_MS; }

static int node_refused(const facts *f) { return f->oss && *f->node && f->node_reach == REACH_REFUSED; }
static int node_blocked(const facts *f) { return f->oss && *f->node && f->node_reach != REACH_OK; }
static int is_oss(const facts *f) { return f->oss; }

/* What stands in braces is a fact, see put_fact. One sentence each, without a full stop. */
static const struct rule {
    enum check   check;
    const char  *id;
    enum outcome outcome;
    int        (*fits)(const facts *);
    const char  *cause, *mend;
} rules[] = {
    {CHECK_NAME, "name.no-region", CHECK_FAIL, no_region,
     "no name server knows {host}, which has no region in it",
     "write NAME.REGION.redis.azure.net, as the portal shows the endpoint"},
    {CHECK_NAME, "name.private-zone", CHECK_FAIL, private_unknown,
     "{host} is a name of a private DNS zone that this machine does not see",
     "link the private DNS zone to this network, or forward DNS to 168.63.129.16 from inside; give the public name"},
    {CHECK_NAME, "name.unknown", CHECK_FAIL, unknown,
     "wrong host: no name server knows {host}",
     "compare it with the portal: NAME.REGION.redis.azure.net (Azure Managed Redis) or NAME.redis.cache.windows.net"},
    {CHECK_NAME, "name.no-server", CHECK_FAIL, no_name_server,
     "no name server answered when asked for {host}",
     "check the DNS servers of this machine (/etc/resolv.conf) and that port 53 is open to them"},
    {CHECK_NAME, "name.failed", CHECK_FAIL, lookup_failed, "{host} could not be looked up: {text}",
     "check the DNS settings of this machine"},
    {CHECK_NAME, "name.privatelink", CHECK_WARN, is_privatelink,
     "{host} is the private zone's own name, for which the cache has no certificate",
     "give the public name, without privatelink: inside the network it leads to the private address by itself"},
    {CHECK_NAME, "name.public", CHECK_WARN, hidden_private,
     "the cache has a private endpoint ({canonical}), but here its name leads to the public address {address}",
     "link its private DNS zone to this network, or forward DNS to 168.63.129.16 from inside"},

    {CHECK_TCP, "tcp.wrong-port", CHECK_FAIL, wrong_port,
     "port {port} of {host} {reach}: names that end in {suffix} serve TLS on port {right_port}",
     "use {host}:{right_port}"},
    {CHECK_TCP, "tcp.private", CHECK_FAIL, private_unreached,
     "{host} leads to {address}, a private endpoint, which cannot be reached from this network: it {reach}",
     "run inside its virtual network, or peer or connect this one by VPN; outside use public access and public DNS"},
    {CHECK_TCP, "tcp.private-dns", CHECK_FAIL, public_unreached,
     "the cache has a private endpoint, but here {host} leads to the public address {address}, which {reach}",
     "link its private DNS zone to this network, or switch public network access on"},
    {CHECK_TCP, "tcp.other-port", CHECK_FAIL, other_port,
     "port {port} of {host} {reach}, while port {other_port} is open", "use {host}:{other_port}"},
    {CHECK_TCP, "tcp.refused", CHECK_FAIL, refused,
     "nothing listens on port {port} of {address}, or a firewall refuses it",
     "check host and port, that the cache is running, and that outbound TCP to port {port} is allowed"},
    {CHECK_TCP, "tcp.blocked", CHECK_FAIL, blocked,
     "a firewall blocks port {port}: {address} did not answer",
     "allow outbound TCP to port {port}, and this address in the cache's networking or firewall page"},
    {CHECK_TCP, "tcp.no-route", CHECK_FAIL, no_route, "this machine has no route to {address}",
     "check that the network is up, and its routes"},
    {CHECK_TCP, "tcp.failed", CHECK_FAIL, unreached, "port {port} of {address} cannot be reached: {text}",
     "check the network between here and the cache"},

    {CHECK_TLS, "tls.plaintext", CHECK_FAIL, plaintext_port,
     "port {port} is not the TLS port: Redis answers there without TLS, and would get the token in the clear",
     "use the TLS port: 10000 (Azure Managed Redis) or 6380 (Azure Cache for Redis)"},
    {CHECK_TLS, "tls.roots", CHECK_FAIL, no_roots, "no root certificates to verify the server by: {text}",
     "install ca-certificates, or name a file by --cacert or SSL_CERT_FILE"},
    {CHECK_TLS, "tls.clock", CHECK_FAIL, cert_future,
     "the clock of this machine says {clock}, when the certificate is not valid yet: {text}",
     "set the clock, for example by timedatectl set-ntp true"},
    {CHECK_TLS, "tls.expired", CHECK_FAIL, cert_expired, "expired certificate: {text}",
     "renew the server's certificate; Azure renews its own, so for a cache in Azure set the clock, which says {clock}"},
    {CHECK_TLS, "tls.privatelink", CHECK_FAIL, cert_private,
     "the certificate is made out for the public name, not for the private zone's name {host}",
     "give the public name, without privatelink, as host"},
    {CHECK_TLS, "tls.address", CHECK_FAIL, cert_address,
     "the certificate is made out for names, and {host} is an address",
     "give the name of the cache as host, or by sslHost=NAME in the connection string"},
    {CHECK_TLS, "tls.name", CHECK_FAIL, cert_name, "the certificate is made out for another name: {text}",
     "give the right host; if it is right, something else answers at {address}: check DNS"},
    {CHECK_TLS, "tls.untrusted", CHECK_FAIL, cert_untrusted, "the certificate is not trusted: {text}",
     "if a firewall opens TLS here, let it pass this port unopened; for a CA of your own use --cacert"},
    {CHECK_TLS, "tls.certificate", CHECK_FAIL, cert_other, "the certificate was refused: {text}",
     "install a better one on the server"},
    {CHECK_TLS, "tls.cut", CHECK_FAIL, tls_cut, "the connection was cut in the TLS handshake: {text}",
     "look for a firewall that inspects TLS; check that this is the TLS port"},
    {CHECK_TLS, "tls.silent", CHECK_FAIL, tls_silent, "{address} took the connection and said nothing in TLS",
     "check that port {port} is the TLS port of a cache, and for a firewall or proxy between"},
    {CHECK_TLS, "tls.failed", CHECK_FAIL, tls_failed, "the TLS handshake failed: {text}",
     "check that this is a cache with TLS 1.2 or newer"},
    {CHECK_TLS, "tls.ends-soon", CHECK_WARN, cert_ends, "the server's certificate ends in {days_left} days",
     "renew it; of a cache in Azure ask support, as Azure renews it earlier"},

    {CHECK_IDENTITY, "identity.secret-wrong", CHECK_FAIL, wrong_secret,
     "the client secret is wrong (AADSTS7000215)",
     "take the secret's Value, not its Secret ID, from Certificates & secrets of the application"},
    {CHECK_IDENTITY, "identity.secret-expired", CHECK_FAIL, expired_secret,
     "the client secret has expired (AADSTS7000222)", "create a new secret for the application, and use it here"},
    {CHECK_IDENTITY, "identity.tenant", CHECK_FAIL, unknown_tenant,
     "Entra does not know the tenant{tenant_asked} (AADSTS{aadsts})",
     "set AZURE_TENANT_ID to the tenant's id, and AZURE_AUTHORITY_HOST if it lives in another cloud"},
    {CHECK_IDENTITY, "identity.cloud", CHECK_FAIL, other_cloud, "the tenant lives in another cloud (AADSTS{aadsts})",
     "set AZURE_AUTHORITY_HOST to that cloud's"},
    {CHECK_IDENTITY, "identity.application", CHECK_FAIL, unknown_app,
     "the application is unknown or disabled in this tenant (AADSTS{aadsts})",
     "check AZURE_CLIENT_ID (the application's client id) and AZURE_TENANT_ID"},
    {CHECK_IDENTITY, "identity.not-assigned", CHECK_FAIL, not_assigned,
     "the identity is not assigned to the application that it asks a token for (AADSTS50105)",
     "assign it under Enterprise applications, Users and groups, or switch assignment required off"},
    {CHECK_IDENTITY, "identity.clock", CHECK_FAIL, assertion_time,
     "Entra refused the assertion for its times (AADSTS{aadsts}), and the clock here says {clock}",
     "set the clock; if it is right, the federated token file is stale"},
    {CHECK_IDENTITY, "identity.certificate", CHECK_FAIL, wrong_certificate,
     "the certificate is not one of the application's (AADSTS{aadsts})",
     "upload it under Certificates & secrets, or use --send-chain where its subject name is trusted"},
    {CHECK_IDENTITY, "identity.federation", CHECK_FAIL, no_federation,
     "no federated credential of the application fits the token (AADSTS{aadsts})",
     "compare issuer, subject and audience of the federated credential with the token, letter by letter"},
    {CHECK_IDENTITY, "identity.not-here", CHECK_FAIL, not_here,
     "this machine has no such managed identity: {text}",
     "switch the system-assigned identity on, or assign the user-assigned one to this machine; check AZURE_CLIENT_ID"},
    {CHECK_IDENTITY, "identity.no-metadata", CHECK_FAIL, no_metadata, "no managed identity is to be had here: {text}",
     "run on a machine of Azure and switch its identity on, or use another --auth; elsewhere it cannot work"},
    {CHECK_IDENTITY, "identity.unavailable", CHECK_FAIL, unavailable, "{credential} has no identity to offer: {text}",
     "do what it says, or choose another identity by --auth"},
    {CHECK_IDENTITY, "identity.program", CHECK_FAIL, slow_program, "the program that gets the token hangs: {text}",
     "run it by hand, as this user, and see what it waits for"},
    {CHECK_IDENTITY, "identity.person", CHECK_FAIL, no_person, "nobody has signed in: {text}",
     "run it again, and give the code to the page that it names before it expires"},
    {CHECK_IDENTITY, "identity.none", CHECK_FAIL, no_identity,
     "no identity is to be had here: each that was asked says below what it lacks",
     "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, give this machine a managed identity, or --auth"},
    {CHECK_IDENTITY, "identity.tls", CHECK_FAIL, entra_tls, "Entra's certificate was refused: {text}",
     "if a proxy opens TLS here, name its CA by --cacert; check the clock, which says {clock}"},
    {CHECK_IDENTITY, "identity.unreached", CHECK_FAIL, entra_unreached, "the token service cannot be reached: {text}",
     "allow HTTPS to login.microsoftonline.com, or name the proxy by --proxy"},
    {CHECK_IDENTITY, "identity.failed", CHECK_FAIL, no_token, "no token: {text}",
     "mend what it says; AADSTS numbers are explained at https://login.microsoftonline.com/error"},

    {CHECK_TOKEN, "token.scope", CHECK_FAIL, wrong_scope,
     "wrong scope: Entra gives no token for it (AADSTS{aadsts})",
     "leave --scope out, or use https://redis.azure.com/.default; check that the authority is of the cache's cloud"},
    {CHECK_TOKEN, "token.unusable", CHECK_FAIL, unusable_token, "a token came that cannot be used: {text}",
     "mend where it comes from; without an oid in it, name the object id by --user"},
    {CHECK_TOKEN, "token.audience", CHECK_FAIL, wrong_audience,
     "wrong scope: the token is for {audience}, not for https://redis.azure.com",
     "leave --scope out, or use https://redis.azure.com/.default"},
    {CHECK_TOKEN, "token.clock", CHECK_WARN, clock_differs,
     "wrong clock: this machine is {skew_s} s {skew_way} Entra, and says {clock}",
     "set the clock, for example by timedatectl set-ntp true"},
    {CHECK_TOKEN, "token.tenant", CHECK_WARN, other_tenant,
     "the token is of tenant {tenant}, not of{tenant_asked}", "check the tenant id"},
    {CHECK_TOKEN, "token.short", CHECK_WARN, short_life, "the token lives for {life_s} s only",
     "let whoever gives it renew it earlier: Redis wants a new one three minutes before"},

    {CHECK_AUTH, "auth.full", CHECK_FAIL, full_server, "the cache has as many connections as it takes: {text}",
     "close unused ones, or take a larger size"},
    {CHECK_AUTH, "auth.group", CHECK_FAIL, group_only,
     "object id {user} is no Redis user of this cache; that it is in a group that is one does not count",
     "add the object id itself, not its group, under Authentication, Microsoft Entra Authentication"},
    {CHECK_AUTH, "auth.not-user", CHECK_FAIL, not_a_user,
     "object id {user} is no Redis user of this cache, or Entra authentication is off there",
     "under Authentication switch Microsoft Entra Authentication on and add this object id "
     "(of the enterprise application or managed identity, not of the app registration)"},
    {CHECK_AUTH, "auth.key", CHECK_FAIL, key_refused,
     "access keys are off on this cache, as Azure Managed Redis has them at first, or this is none of its two",
     "sign in with Entra (--auth default), or switch access keys on and copy one again"},
    {CHECK_AUTH, "auth.password", CHECK_FAIL, auth_refused,
     "user or password is wrong, or the user is disabled: {text}",
     "check --user and the password"},
    {CHECK_AUTH, "auth.starting", CHECK_FAIL, starting,
     "the cache is starting or failing over: {text}", "try again in a minute"},
    {CHECK_AUTH, "auth.no-redis", CHECK_FAIL, no_redis, "wrong host: what answers there is no Redis: {text}",
     "check host and port"},
    {CHECK_AUTH, "auth.silent", CHECK_FAIL, auth_silent,
     "the server took the connection and did not answer AUTH: {text}",
     "try again; if it stays so, look at the cache's load and restart it"},
    {CHECK_AUTH, "auth.cut", CHECK_FAIL, auth_cut, "the connection ended at AUTH: {text}",
     "try again; if it stays so, check that this is a cache and how many connections it has"},
    {CHECK_AUTH, "auth.failed", CHECK_FAIL, auth_failed, "AUTH failed: {text}", "mend what it says"},

    {CHECK_RIGHTS, "rights.none", CHECK_FAIL, no_rights,
     "missing permission: the access policy of {user} allows neither GET nor SET",
     "assign Data Reader, Data Contributor or Data Owner under Data Access Configuration"},
    {CHECK_RIGHTS, "rights.keys", CHECK_WARN, some_keys,
     "missing permission: the access policy of {user} allows certain keys only, and the doctor's is none of them",
     "see that the policy has the keys of your program (~prefix*)"},
    {CHECK_RIGHTS, "rights.reader", CHECK_WARN, reader, "missing permission: {user} may read and not write",
     "if your program writes, assign Data Contributor or Data Owner"},
    {CHECK_RIGHTS, "rights.writer", CHECK_WARN, writer, "missing permission: {user} may write and not read",
     "if your program reads, assign Data Contributor or Data Owner"},
    {CHECK_RIGHTS, "rights.full", CHECK_WARN, memory_full, "the cache is full and takes no write: {text}",
     "choose an eviction policy or a larger size"},
    {CHECK_RIGHTS, "rights.replica", CHECK_WARN, replica, "this endpoint takes no writes: {text}",
     "use the primary's endpoint"},
    {CHECK_RIGHTS, "rights.failed", CHECK_FAIL, rights_broken, "a read or a write failed: {text}", "mend what it says"},

    {CHECK_ROUND_TRIP, "round-trip.lost", CHECK_FAIL, ping_lost, "a PING was not answered: {text}",
     "look for a firewall that cuts connections, and at the cache's load"},
    {CHECK_ROUND_TRIP, "round-trip.stalls", CHECK_WARN, stalls, "the longest round trip took {longest_ms} ms",
     "look at the cache's server load and for lost packets"},
    {CHECK_ROUND_TRIP, "round-trip.slow", CHECK_WARN, far_away, "a round trip takes {median_ms} ms",
     "run in the cache's region"},

    {CHECK_PUBSUB, "pubsub.forbidden", CHECK_WARN, no_channel,
     "missing permission: {user} may not subscribe or publish",
     "if your program does, allow +@pubsub and its channels (&*) in the access policy"},
    {CHECK_PUBSUB, "pubsub.lost", CHECK_FAIL, message_lost, "a published message did not come back",
     "try again; if it stays so, ask the cache's support"},
    {CHECK_PUBSUB, "pubsub.failed", CHECK_FAIL, sub_failed, "the subscription failed: {text}", "mend what it says"},
    {CHECK_PUBSUB, "pubsub.resp2", CHECK_WARN, only_resp2,
     "over RESP2 subscriptions need a second connection, which each new token replaces",
     "let the cache's administrator allow RESP3; leave protocol=resp2 out"},

    {CHECK_REAUTH, "reauth.refused", CHECK_FAIL, reauth_refused,
     "the server refused on a live connection what it had accepted before: {text}",
     "see that {user} is still a Redis user of the cache; until then connections end when their token does"},
    {CHECK_REAUTH, "reauth.failed", CHECK_FAIL, reauth_failed, "re-authentication in place failed: {text}",
     "look for a proxy between that ends or alters connections"},
    {CHECK_REAUTH, "reauth.slow", CHECK_WARN, slow_reauth, "re-authentication takes {reauth_ms} ms",
     "look at the cache's server load"},

    {CHECK_CLUSTER, "cluster.port-refused", CHECK_FAIL, node_refused,
     "the OSS cluster policy sends clients to {node}, which refuses them",
     "allow outbound TCP to ports 8500 to 8599, or create the cache with the Enterprise policy"},
    {CHECK_CLUSTER, "cluster.port-blocked", CHECK_FAIL, node_blocked,
     "the OSS cluster policy sends clients to {node}, which does not answer",
     "allow outbound TCP to ports 8500 to 8599, or create the cache with the Enterprise policy"},
    {CHECK_CLUSTER, "cluster.oss", CHECK_FAIL, is_oss,
     "the cache has the OSS cluster policy, which azredis does not support yet",
     "create the cache with the Enterprise or the non-clustered policy"}
};

/* NULL: all is well. */
static const struct rule *judge(enum check check, const facts *f) {
    size_t i;
    for (i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (rules[i].check == check && rules[i].fits(f)) return &rules[i];
    return NULL;
}

/* Which of Azure's access policies the rights look like. */
static const char *policy_of(const facts *f) {
    if (f->may_read == RIGHT_YES && f->may_write == RIGHT_NO) return "Data Reader";
    if (f->may_read != RIGHT_YES || f->may_write != RIGHT_YES) return "a policy of its own";
    return f->may_admin == RIGHT_YES ? "Data Owner" : "Data Contributor";
}

/* ---- words ----------------------------------------------------------------------------------- */

static const char *reach_text(enum reach r) {
    static const char *const texts[] = {"answers", "refuses connections", "does not answer", "has no route",
                                        "cannot be reached"};
    return texts[r];
}

/* The fact of that name, without its braces. */
static void put_fact(char *out, size_t cap, const facts *f, const char *name, size_t n) {
    const struct { const char *name, *text; } texts[] = {
        {"host", f->host}, {"suffix", f->suffix_text}, {"address", f->address}, {"canonical", f->canonical},
        {"text", f->text}, {"clock", f->clock}, {"user", f->user}, {"audience", f->audience}, {"tenant", f->tenant},
        {"node", f->node}, {"reach", reach_text(f->reach)}, {"credential", f->credential},
        {"skew_way", f->skew_s < 0 ? "ahead of" : "behind"}
    };
    const struct { const char *name; int64_t value; } numbers[] = {
        {"port", f->port}, {"right_port", f->right_port}, {"other_port", f->other_port}, {"days_left", f->days_left},
        {"aadsts", f->aadsts}, {"skew_s", f->skew_s < 0 ? -f->skew_s : f->skew_s}, {"life_s", f->life_s},
        {"reauth_ms", f->reauth_ms},
        {"median_ms", f->median_us / 1000}, {"longest_ms", f->longest_us / 1000}
    };
    size_t i;
    for (i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strlen(texts[i].name) == n && strncmp(texts[i].name, name, n) == 0) snprintf(out, cap, "%s", texts[i].text);
    for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (strlen(numbers[i].name) == n && strncmp(numbers[i].name, name, n) == 0)
            snprintf(out, cap, "%lld", (long long)numbers[i].value);
    if (n == 12 && strncmp("tenant_asked", name, n) == 0)           /* it may not be known who was asked for */
        snprintf(out, cap, "%s%s", *f->tenant_asked ? " " : "", f->tenant_asked);
}

/* A rule's sentence with its facts. */
static void tell(char *out, size_t cap, const facts *f, const char *form) {
    size_t n = 0;
    out[0] = '\0';
    while (*form && n + 1 < cap) {
        const char *end = *form == '{' ? strchr(form, '}') : NULL;
        if (end) {
            put_fact(out + n, cap - n, f, form + 1, (size_t)(end - form - 1));
            n += strlen(out + n);
            form = end + 1;
        } else {
            out[n++] = *form++;
            out[n] = '\0';
        }
    }
}
