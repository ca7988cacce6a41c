/*
 * faults.h - part of emulator.c: the faults that a test can arm: their names, values and places.
 */
enum fault_id {
    F_TOKEN_500, F_TOKEN_429, F_TOKEN_HANG, F_TOKEN_GARBAGE, F_TOKEN_ENDLESS, F_TOKEN_REDIRECT,
    F_TOKEN_ERROR, F_TOKEN_DRIP, F_TOKEN_NO_OID, F_TOKEN_SIZE, F_TOKEN_WRONG_OID, F_TOKEN_SAME,
    F_AUTH_REJECT, F_AUTH_DELAY, F_AUTH_SILENT, F_CUT, F_CUT_REQUEST, F_EXPIRE_NOW, F_STALL,
    F_REFUSE, F_MOVED, F_KEY_UPDATE, F_FORGET_SESSIONS,
    F_REAUTH_REJECT, F_PING_SILENT, F_PUBLISH_LOST, F_COUNT
};

static const struct {
    const char *name;
    char value; /* n = needs a number, o = may have one, - = has none */
    const char *help;
} FAULTS[F_COUNT] = {
    [F_TOKEN_500] = {"token-500", '-', "HTTP 500"},
    [F_TOKEN_429] = {"token-429", 'n', "HTTP 429 with Retry-After: VALUE"},
    [F_TOKEN_HANG] = {"token-hang", '-', "takes the request, never answers"},
    [F_TOKEN_GARBAGE] = {"token-garbage", '-', "200 with HTML"},
    [F_TOKEN_ENDLESS] = {"token-endless", '-', "200, a body without end"},
    [F_TOKEN_REDIRECT] = {"token-redirect", '-', "302 to a trap that counts its visitors"},
    [F_TOKEN_ERROR] = {"token-error", 'n', "the error of that AADSTS code"},
    [F_TOKEN_DRIP] = {"token-drip", '-', "a good answer, one byte a second"},
    [F_TOKEN_NO_OID] = {"token-no-oid", 'o', "token without oid (=1: nor sub nor idtyp)"},
    [F_TOKEN_SIZE] = {"token-size", 'n', "token of exactly VALUE characters"},
    [F_TOKEN_WRONG_OID] = {"token-wrong-oid", '-', "token of an identity unknown to Redis"},
    [F_TOKEN_SAME] = {"token-same", '-', "the last token again, with the life it has left"},
    [F_AUTH_REJECT] = {"auth-reject", '-', "the server answers WRONGPASS"},
    [F_AUTH_DELAY] = {"auth-delay", 'n', "holds AUTH and what follows for VALUE ms"},
    [F_AUTH_SILENT] = {"auth-silent", '-', "AUTH without a reply and without effect"},
    [F_CUT] = {"cut", 'n', "closes abruptly after VALUE more bytes to the client"},
    [F_CUT_REQUEST] = {"cut-request", 'n', "closes abruptly after VALUE more bytes to the server"},
    [F_EXPIRE_NOW] = {"expire-now", '-', "closes every open connection as if expired"},
    [F_STALL] = {"stall", '-', "open connections carry nothing until disarmed"},
    [F_REFUSE] = {"refuse", '-', "closes a new connection before TLS"},
    [F_MOVED] = {"moved", '-', "answers a command with -MOVED 1234 10.0.0.1:8500"},
    [F_KEY_UPDATE] = {"key-update", '-', "changes the TLS 1.3 keys before the next bytes to a client"},
    [F_FORGET_SESSIONS] = {"forget-sessions", '-', "no TLS session from before is resumed any more"},
    [F_REAUTH_REJECT] = {"reauth-reject", '-', "as auth-reject, on a connection that is authenticated"},
    [F_PING_SILENT] = {"ping-silent", '-', "a PING without an argument gets no reply"},
    [F_PUBLISH_LOST] = {"publish-lost", '-', "PUBLISH reaches nobody"},
};

/*
 * Those of an endpoint are named ENDPOINT-KIND: "imds-410", "arc-html". Up to K_GCE they answer
 * whatever was asked; the others change the answer to a good request.
 */
enum endpoint_id {
    E_TOKEN, E_IMDS, E_APPSERVICE, E_MSI, E_ARC, E_CLOUDSHELL, E_FABRIC, E_ML, E_AKS, E_PROXY,
    E_DEVICE, /* device codes, which the authority gives: faults and counters of its own, but no port */
    E_COUNT
};
static const char *const ENDPOINTS[E_COUNT] = {"token",      "imds",   "appservice", "msi", "arc",
                                               "cloudshell", "fabric", "ml",         "aks", "proxy", "device"};

enum fault_kind {
    K_DOWN, K_REFUSE, K_HANG, K_400, K_401, K_403, K_UNREACHABLE, K_404, K_407, K_410, K_429, K_500, K_502, K_503,
    K_HTML, K_EMPTY, K_NO_TOKEN, K_HUGE, K_ENDLESS, K_HEADERS, K_REDIRECT, K_EC2, K_GCE,
    K_CUT, K_TRUNCATED, K_SLOW, K_TYPES, K_EXPIRED, K_DATE, K_REFRESH_IN, K_SAME, K_NO_OID, K_WRONG_OID,
    K_SIZE, K_OLD, K_CHALLENGE, K_ERROR, K_ERROR_200, K_SLOW_DOWN, K_COUNT
};

#define AT(endpoint) (1u << (endpoint))
#define AT_PORT      (AT(E_PROXY) - 1)
#define AT_HTTP      (AT_PORT | AT(E_DEVICE))                /* all that answer with JSON */
#define AT_STS       (AT(E_TOKEN) | AT(E_AKS) | AT(E_DEVICE))
#define AT_MANAGED   (AT_HTTP & ~AT_STS)
#define AT_ALL       (AT_HTTP | AT(E_PROXY))

static const struct {
    const char *name;
    char value;
    unsigned at; /* the endpoints that can have it */
    const char *help;
} KINDS[K_COUNT] = {
    [K_DOWN] = {"down", '-', AT_PORT, "nobody listens there until it is disarmed"},
    [K_REFUSE] = {"refuse", '-', AT_PORT | AT(E_PROXY), "closes a new connection without a word"},
    [K_HANG] = {"hang", '-', AT_ALL, "takes the request, never answers"},
    [K_400] = {"400", '-', AT_HTTP, "HTTP 400: no such identity, as the endpoint words it"},
    [K_401] = {"401", '-', AT_HTTP, "HTTP 401"},
    [K_403] = {"403", '-', AT_ALL, "HTTP 403"},
    [K_UNREACHABLE] = {"unreachable", '-', AT_HTTP, "HTTP 403 of Docker Desktop: network unreachable"},
    [K_404] = {"404", '-', AT_HTTP, "HTTP 404"},
    [K_407] = {"407", '-', AT(E_PROXY), "HTTP 407, whatever the password"},
    [K_410] = {"410", '-', AT_HTTP, "HTTP 410: being updated"},
    [K_429] = {"429", 'o', AT_HTTP, "HTTP 429, with Retry-After: VALUE"},
    [K_500] = {"500", 'o', AT_HTTP, "HTTP 500, the same"},
    [K_502] = {"502", '-', AT_ALL, "HTTP 502 with the HTML of a gateway"},
    [K_503] = {"503", 'o', AT_HTTP, "HTTP 503, with Retry-After: VALUE"},
    [K_HTML] = {"html", '-', AT_HTTP, "200 with the HTML of a captive portal"},
    [K_EMPTY] = {"empty", '-', AT_HTTP, "200 without a body"},
    [K_NO_TOKEN] = {"no-token", '-', AT_HTTP, "200 with {}"},
    [K_HUGE] = {"huge", '-', AT_HTTP, "200 with a body of 1 GB"},
    [K_ENDLESS] = {"endless", '-', AT_ALL, "200 with a body (proxy: a head) without end"},
    [K_HEADERS] = {"headers", '-', AT_HTTP, "200 with 300 header fields"},
    [K_REDIRECT] = {"redirect", '-', AT_HTTP, "302 to a trap that counts its visitors"},
    [K_EC2] = {"ec2", 'o', AT_HTTP, "Amazon's metadata service: 401, or VALUE"},
    [K_GCE] = {"gce", 'o', AT_HTTP, "Google's metadata service: 403, or VALUE"},
    [K_CUT] = {"cut", 'n', AT(E_PROXY), "closes after VALUE more bytes to the client"},
    [K_TRUNCATED] = {"truncated", 'o', AT_HTTP, "closes after VALUE bytes of the body (half of it)"},
    [K_SLOW] = {"slow", '-', AT_HTTP, "a good answer, one byte a second"},
    [K_TYPES] = {"types", 'o', AT_HTTP, "access_token a number; VALUE 1: times are lists, 2: an array "
                                        "around all, 3: access_token empty, 4: null"},
    [K_EXPIRED] = {"expired", 'o', AT_PORT, "a token that expired VALUE (60) seconds ago"},
    [K_DATE] = {"date", 'o', AT_MANAGED, "expires_on is a date: ISO; VALUE 1: Linux, 2: Windows, 3: a number, "
                                         "4: digits, 5: no date"},
    [K_REFRESH_IN] = {"refresh-in", 'n', AT_PORT, "the answer has refresh_in VALUE"},
    [K_SAME] = {"same", '-', AT_PORT, "the identity's last token again, with the life it has left"},
    [K_NO_OID] = {"no-oid", 'o', AT_PORT, "token without oid (=1: nor sub nor idtyp)"},
    [K_WRONG_OID] = {"wrong-oid", '-', AT_PORT, "token of an identity unknown to Redis"},
    [K_SIZE] = {"size", 'n', AT_PORT, "token of exactly VALUE characters"},
    [K_OLD] = {"old", 'o', AT(E_ARC), "an old agent: ignores whom it is asked for; VALUE 1: the right token, not "
                                      "named, 2: named in capitals, 3: named wrongly"},
    [K_CHALLENGE] = {"challenge", 'n', AT(E_ARC), "a bad challenge, see CHALLENGES"},
    [K_ERROR] = {"error", 'n', AT_STS, "the error of that AADSTS code"},
    [K_SLOW_DOWN] = {"slow-down", '-', AT(E_TOKEN), "a poll for a device code is told slow_down"},
    [K_ERROR_200] = {"error-200", 'n', AT_STS, "the same with HTTP 200"},
};

/* Faults are counted through: first those above, then each endpoint's kinds. */
#define FAULT(endpoint, kind) (F_COUNT + (int)(endpoint) * K_COUNT + (int)(kind))
#define FAULT_COUNT           FAULT(E_COUNT, 0)

struct fault {
    long asked, left, fired; /* left < 0: for ever */
    long value;
    unsigned armed; /* how often armed: tells a new cut from the one before */
};
