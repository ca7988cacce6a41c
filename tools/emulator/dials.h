/*
 * dials.h - part of emulator.c: numbers of Entra's that a test sets, by --set NAME=VALUE or at the admin endpoint.
 */
enum dial {
    D_CLOCK_OFFSET, D_ASSERTION_REPLAY, D_DEVICE_INTERVAL, D_DEVICE_EXPIRES, D_DEVICE_SLOW, D_DEVICE_APPROVE,
    D_DEVICE_SHORT, D_PUBLIC_CLIENT, D_REFRESH_REUSE, D_REFRESH_LIFE, D_COUNT
};

static const struct { const char *name; long least, most, standard; const char *help; } DIALS[D_COUNT] = {
    [D_CLOCK_OFFSET] = {"clock-offset", -1000000000, 1000000000, 0,
                        "seconds by which Entra's clock (Date, tokens) is ahead of this machine's"},
    [D_ASSERTION_REPLAY] = {"assertion-replay", 0, 1, 0, "1: a certificate's assertion is good more than once"},
    [D_DEVICE_INTERVAL] = {"device-interval", 0, 3600, 5, "seconds from one poll for a device code to the next"},
    [D_DEVICE_EXPIRES] = {"device-expires", 1, 86400, 900, "seconds that a device code lives"},
    [D_DEVICE_SLOW] = {"device-slow", 0, 3600, 5, "seconds that the interval grows by with each slow_down"},
    [D_DEVICE_APPROVE] = {"device-approve", 0, 1000, 0, "N: the Nth poll finds the code approved; 0: see POST /device"},
    [D_DEVICE_SHORT] = {"device-short", 0, 1, 0, "1: the grant may be called device_code, as MSAL for Node does"},
    [D_PUBLIC_CLIENT] = {"public-client", 0, 1, 1, "0: the application does not allow public client flows"},
    [D_REFRESH_REUSE] = {"refresh-reuse", 0, 1, 1, "0: a refresh token is good once; Entra takes it again"},
    [D_REFRESH_LIFE] = {"refresh-life", 1, 7776000, 7776000, "seconds that a refresh token lives"},
};

static _Atomic long dials[D_COUNT];

/* What is wrong with it; NULL: it is set. */
static const char *dial_set(const char *name, const char *value) {
    char *end;
    long n;
    int i;
    for (i = 0; i < D_COUNT; i++) {
        if (strcmp(name, DIALS[i].name) != 0) continue;
        errno = 0;
        n = strtol(value, &end, 10);
        if (end == value || *end || errno || n < DIALS[i].least || n > DIALS[i].most)
            return "the value is no such number";
        dials[i] = n;
        return NULL;
    }
    return "there is no setting of this name";
}

static void dials_reset(void) {
    int i;
    for (i = 0; i < D_COUNT; i++) dials[i] = DIALS[i].standard;
}

/* The time in Entra's data centre. */
static time_t entra_time(void) { return time(NULL) + (time_t)dials[D_CLOCK_OFFSET]; }
