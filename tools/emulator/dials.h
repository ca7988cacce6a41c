/*
 * dials.h - part of emulator.c: numbers of Entra's that a test sets, by --set NAME=VALUE or at the admin endpoint.
 */
enum dial { D_CLOCK_OFFSET, D_ASSERTION_REPLAY, D_COUNT };

static const struct { const char *name; long least, most, standard; const char *help; } DIALS[D_COUNT] = {
    [D_CLOCK_OFFSET] = {"clock-offset", -1000000000, 1000000000, 0,
                        "seconds by which Entra's clock (Date, tokens) is ahead of this machine's"},
    [D_ASSERTION_REPLAY] = {"assertion-replay", 0, 1, 0, "1: a certificate's assertion is good more than once"},
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
