/* Fuzzes files of certificates and keys: PEM, PKCS#12, encrypted keys. What is accepted has a chain that can be walked, its
 * leaf first, and a key that signs; what is refused has a message. Nothing is left allocated.
 *   clang -fsanitize=fuzzer,address,undefined -I.. fuzz_pfx.c -lmbedx509 -lmbedcrypto    libFuzzer
 *   cc -DAZRI_FUZZ_MAIN ...                                         fuzz_pfx FILE... | fuzz_pfx -runs=N -seed=S
 */
#define AZREDIS_ENTRA_IMPLEMENTATION
#define AZREDIS_LEGACY_PKCS12
#define AZRI_PBE_ROUNDS 100u
#define AZRI_RSA_BITS_MIN 512u
#pragma GCC diagnostic ignored "-Wunused-function"
#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>

static size_t heap_live;

static void *heap_alloc(void *user, size_t n) {
    (void)user;
    heap_live += n;
    return malloc(n);
}

static void heap_free(void *user, void *p, size_t n) {
    (void)user;
    heap_live -= n;
    free(p);
}

static int no_entropy(void *user, void *out, size_t n) {
    (void)user;
    memset(out, 7, n);
    return 0;
}

#define CHECK(x) do { if (!(x)) { fprintf(stderr, "fuzz_pfx: %s\n", #x); abort(); } } while (0)

static void accepted(azri_key *k, const azri_mem *m) {
    static const unsigned char hash[32] = { 1, 2, 3 };
    azri_buf signature;
    azredis_str rest = azri_slice(k->chain.ptr, k->chain.len), der;
    size_t n = 0;
    int bad = 0;
    while (azri_chain_next(&rest, &der)) {
        CHECK(rest.len < k->chain.len);
        if (n++ == 0) CHECK(azri_chain_matches(k, der, &bad) == 1);
    }
    CHECK(n > 0);
    azri_buf_init(&signature, m, 1024, 0);
    CHECK(azri_key_sign(k, AZRI_SIGN_RS256, hash, &signature, NULL) == AZREDIS_OK);
    azri_buf_free(&signature);
    azri_key_free(k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    azri_mem m = { heap_alloc, heap_free, NULL, NULL };
    azredis_str in = azri_slice((const char *)data, size);
    azredis_error e;
    azri_port port;
    azri_key k;
    memset(&port, 0, sizeof port);
    memset(&k, 0, sizeof k);
    port.p.entropy = no_entropy;
    k.port = &port;
    if (azri_key_load(&k, &m, in, azri_str(""), "x", &e) == AZREDIS_OK) accepted(&k, &m);
    else CHECK(strlen(e.message) > 20 && !k.open);
    CHECK(heap_live == 0);
    return 0;
}

#ifdef AZRI_FUZZ_MAIN
/* By the openssl program with keys of 512 bits, password x, one round: PKCS#12 encrypted by AES, and not at all; a
 * certificate and an encrypted key in PEM. */
static const char sealed_pfx[] =
    "MIIEyQIBAzCCBIMGCSqGSIb3DQEHAaCCBHQEggRwMIIEbDCCAlEGCSqGSIb3DQEHBqCCAkIwggI+AgEAMIICNwYJKoZIhvcNAQcBMFYGCSqGSIb3"
    "DQEFDTBJMCgGCSqGSIb3DQEFDDAbBAhlyMHwhBNyFAIBATAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQhvpBwTJjrsLrx7TnmiEF5ICCAdDK"
    "JZ9UP5q6HMQR18aiklxoDCDOodt9s+duD+uYBoWBsFf8BojKoSwPGjvzO9rFMmtihjOiMMPhXUZBfHxw3A2fU93oC/s2CsR91w1UwHxmwKXiy8tf"
    "LQMLKzLCoJydCkQgZng+1w91WY5yKQqVls9iMPn91JbfL9GU/vx6Ty+CEoh82zf7loJp2T0HGTeSd60loMB8XTl2tktzs8RbvWCsglNZQFDYsiEF"
    "siA9CK8mkIyHotxRe6hW2uVP6+EIrl7YoHHhWlviL80B4dlc7gg8p70i0WZ1xCQo+dODAt7xu/a+orx7CBAq+boyJ//Zb5ljagqZQWWmvR/jtJd0"
    "sr6T6La6EKuqZAxGtjCu9TUQWRSzfS5c4yUUxymKjEaSCReNNtPYooYbH8uHmNchjm9jRv0UGlTfW46iXoyYqOYKL2BDumcUpnCTiYslulA/f6TY"
    "XjrjI2SCJjvpnmcv5+btHNqPgJuystsvp+Ar6wirR9JgfK2OCX+w2CTiHUQHVG/fRZ35xep2IxhmtwsuYe4Pv/3tvfsC0OlOjfBzpAmB64d9gMZX"
    "Qw7BBLJFe5DDESJogn/XhnvX8+bTdHp2TgRc1faUXjlrXrVxgdw0wC85PzCCAhMGCSqGSIb3DQEHAaCCAgQEggIAMIIB/DCCAfgGCyqGSIb3DQEM"
    "CgECoIIBwDCCAbwwVgYJKoZIhvcNAQUNMEkwKAYJKoZIhvcNAQUMMBsECGXqp6uJJfwHAgEBMAwGCCqGSIb3DQIJBQAwHQYJYIZIAWUDBAEqBBD5"
    "DHqgiFPV7w+8f7SYfx7aBIIBYMgUJtOALJ4d01WIHdgOhtxl6+wpgLmC7G41CdBaPD+Xw889SR1qb/kMu/kFVZh+ScK12iVQrITbhFHyVAth3k5s"
    "0qN2OPQ0gA9wQW1zusyeejiGYTeOmWB63Pp8OKQhb98vt92QuKEpUxvQOST7kNEMj0EQaKNXbbEk5++5qMi/IMQhhbKcpGn/IblPTdj41lKIh259"
    "BXhXStFh9EMb642PYS/gThJerX4g2PMa5G2DDJRqY0ACfzHunzyguncs2fI9/R+AvUkjlhjG0Zwjpw4pNC2gIrg2BiTkuAlO/HigRAKnT3kb0T1p"
    "0KxXAkXjLxzZ3H2F4y5hDcP89cacmc302oOFFSHEfA8f92s76afUhO3Ul/UN9ttM/6pvjAe65N6WWlhQbHD9JCxBRe+gj4ZCTBgirsQFoR5PIN71"
    "LO74hwOOqvOtpuyPVyeL26/sQR4LY1VownPsUAayWo0L+7kxJTAjBgkqhkiG9w0BCRUxFgQUWayO0Yjb0+XIHXPR5It4SbZKGEowPTAxMA0GCWCG"
    "SAFlAwQCAQUABCBbnj15kN8KVauCQMWaFNrJ4vigIGJNf07AWOHDuFmoqwQIAgZKop0VxjQ=";
static const char open_pfx[] =
    "MIIDtAIBAzCCA60GCSqGSIb3DQEHAaCCA54EggOaMIIDljCCAeAGCSqGSIb3DQEHAaCCAdEEggHNMIIByTCCAcUGCyqGSIb3DQEMCgEDoIIBjTCC"
    "AYkGCiqGSIb3DQEJFgGgggF5BIIBdTCCAXEwggEboAMCAQICFFnUCiF+ryCt0qTsjEGxlBoxsH0YMA0GCSqGSIb3DQEBCwUAMAwxCjAIBgNVBAMM"
    "AWEwIBcNMjYxMTI5MDIxMTMwWhgPMjA1NDA0MTUwMjExMzBaMAwxCjAIBgNVBAMMAWEwXDANBgkqhkiG9w0BAQEFAANLADBIAkEAqOYF4l/6dL2B"
    "1M6z6znxEF3xNxoB/dkCbZinIIBQuZWmekJ/z2+qzfIjNq1+UN0NpX7qJdK8qDeGDdWKU0TbrQIDAQABo1MwUTAdBgNVHQ4EFgQUtiB4Eh6mzCHV"
    "hmX53K3lQkY7tacwHwYDVR0jBBgwFoAUtiB4Eh6mzCHVhmX53K3lQkY7tacwDwYDVR0TAQH/BAUwAwEB/zANBgkqhkiG9w0BAQsFAANBAHBsONhf"
    "/5YKaa9E8BLESp/EvL01m2nwE7dn+m47+Vk8FGc8At98DxGUZfAnOkvUZuGfT89j6tMhZJW9axZ6C8IxJTAjBgkqhkiG9w0BCRUxFgQUWayO0Yjb"
    "0+XIHXPR5It4SbZKGEowggGuBgkqhkiG9w0BBwGgggGfBIIBmzCCAZcwggGTBgsqhkiG9w0BDAoBAaCCAVswggFXAgEAMA0GCSqGSIb3DQEBAQUA"
    "BIIBQTCCAT0CAQACQQCo5gXiX/p0vYHUzrPrOfEQXfE3GgH92QJtmKcggFC5laZ6Qn/Pb6rN8iM2rX5Q3Q2lfuol0ryoN4YN1YpTRNutAgMBAAEC"
    "QQCWvr7PvjQvD5kaU+bXcp6Kqh4JvQe8Bn0ZTl8ULhJeoBSHusCoLUoRP+m23mWYPOl52CHUzoIXW2sOFnx0718hAiEA0MhA3jp/N4ebQofTJpZj"
    "pJQok/qdiYUqTnTLIAnGbGUCIQDPGKUc2mr7DUKLT06Zt0S0UeXoYdo6daT6Y5Lo8rzJqQIhAKC8OyybzotazE5ZMVd42re/FMpwXE6eheanBibh"
    "P7D9AiEAyYwdnNAAz6Ve/r9HKphOuAMAckFRJhW6YqinoCgkjUkCIQCl+0nTVrt5bQSn9lzS7KdaH5RQKJCHBwiLhwLeDBxZczElMCMGCSqGSIb3"
    "DQEJFTEWBBRZrI7RiNvT5cgdc9Hki3hJtkoYSg==";
static const char pem[] =
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBcTCCARugAwIBAgIUWdQKIX6vIK3SpOyMQbGUGjGwfRgwDQYJKoZIhvcNAQEL\n"
    "BQAwDDEKMAgGA1UEAwwBYTAgFw0yNjExMjkwMjExMzBaGA8yMDU0MDQxNTAyMTEz\n"
    "MFowDDEKMAgGA1UEAwwBYTBcMA0GCSqGSIb3DQEBAQUAA0sAMEgCQQCo5gXiX/p0\n"
    "vYHUzrPrOfEQXfE3GgH92QJtmKcggFC5laZ6Qn/Pb6rN8iM2rX5Q3Q2lfuol0ryo\n"
    "N4YN1YpTRNutAgMBAAGjUzBRMB0GA1UdDgQWBBS2IHgSHqbMIdWGZfncreVCRju1\n"
    "pzAfBgNVHSMEGDAWgBS2IHgSHqbMIdWGZfncreVCRju1pzAPBgNVHRMBAf8EBTAD\n"
    "AQH/MA0GCSqGSIb3DQEBCwUAA0EAcGw42F//lgppr0TwEsRKn8S8vTWbafATt2f6\n"
    "bjv5WTwUZzwC33wPEZRl8Cc6S9Rm4Z9Pz2Pq0yFklb1rFnoLwg==\n"
    "-----END CERTIFICATE-----\n"
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    "MIIBvDBWBgkqhkiG9w0BBQ0wSTAoBgkqhkiG9w0BBQwwGwQIk5I7sl2VKgACAQEw\n"
    "DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEME7c0qk+7YKr42E5a7gSOQEggFg\n"
    "hD3Ti/6iKwYRgievsLkDqivg0FDRt1xu+71CEiL2IH4XoFx5CqsMGDGX3lgj+bcZ\n"
    "4cn6yLonkWmE6CMiLsAvXPH7GIf8e+FLp25uQJeaaD9Yxcw7MwGUFrG7ZPJuo6/K\n"
    "iCS0io+YQKl0UuViQj/RaREywt8vCbqDyikwqiFYpapiJLa2QtNAwFCEWmCjFx5m\n"
    "7RkAg4F1rqngVuE98DovzWvMmlaMuP57iG76FCjEiwDqUD+j4yUrwhImla8muZd5\n"
    "fJ8U1+ZOHGShjPyQ68TEX20WiTL67bo77pkjVmOlEjOvjpkIUUECZ50JntkEhWka\n"
    "pP6Pee3mSqlaWmon1dMjCwBrKQfI/jj5cEHochzQiE0kzAxdQg8K8Bw9+wIlpdki\n"
    "c5a8AYHAhYUAyT/NiKWI5QKfYr2dYnYG9k6fFq9QFcylm+Ll8p9H+6M5yTeW0/I9\n"
    "wtSRjl4cfw1O03rUKjfwjw==\n"
    "-----END ENCRYPTED PRIVATE KEY-----\n";

static size_t mutate(azri_rng *r, uint8_t *out, size_t cap) {
    static const uint8_t telling[] = { 0, 1, 0x7f, 0x80, 0x81, 0x82, 0x84, 0xff, 0x30, 0x04, 0xa0, '-', '\n' };
    size_t n = sizeof pem - 1, i, changes = 1 + azri_rng_below(r, 4);
    uint64_t which = azri_rng_below(r, 3);
    if (which == 0) memcpy(out, pem, n);
    else CHECK(azri_b64_decode(azri_str(which == 1 ? sealed_pfx : open_pfx), "+/", (char *)out, &n));
    for (i = 0; i < changes; i++) {
        size_t at = azri_rng_below(r, n);
        switch (azri_rng_below(r, 8)) {
        case 0: n = at + 1; break;
        case 1: memmove(out + at, out + at + 1, n - at - 1); break;
        case 2: if (n < cap) { memmove(out + at + 1, out + at, n - at); n++; } break;
        case 3: out[at] = (uint8_t)azri_rng_below(r, 256); break;
        default: out[at] = telling[azri_rng_below(r, sizeof telling)];
        }
    }
    return n;
}

#define FUZZ_ROOM 2048
#include "main.h"
#endif
