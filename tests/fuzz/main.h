/* The main of a fuzz target that is built without libFuzzer: it replays files, or runs what mutate makes.
 * Arguments: FILE... | -runs=N -seed=S */
#ifndef TEST_FUZZ_MAIN_H
#define TEST_FUZZ_MAIN_H

#ifndef FUZZ_ROOM
#define FUZZ_ROOM 400                /* the longest that mutate makes */
#endif

static int replay(const char *name) {
    static uint8_t in[1u << 20];
    FILE *f = fopen(name, "rb");
    size_t n;
    if (!f) {
        perror(name);
        return 1;
    }
    n = fread(in, 1, sizeof in, f);
    fclose(f);
    return LLVMFuzzerTestOneInput(in, n);
}

int main(int argc, char **argv) {
    unsigned long long runs = 100000, seed = 1, i;
    int k, files = 0, bad = 0;
    azri_rng r;
    for (k = 1; k < argc; k++) {
        if (strncmp(argv[k], "-runs=", 6) == 0) {
            runs = strtoull(argv[k] + 6, NULL, 10);
        } else if (strncmp(argv[k], "-seed=", 6) == 0) {
            seed = strtoull(argv[k] + 6, NULL, 10);
        } else {
            bad |= replay(argv[k]);
            files++;
        }
    }
    r.state = seed;
    for (i = 0; !files && i < runs; i++) {
        uint8_t in[FUZZ_ROOM];
        size_t n = mutate(&r, in, sizeof in);
        LLVMFuzzerTestOneInput(in, n);
    }
    return bad;
}

#endif
