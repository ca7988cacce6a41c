/* Encodings, numbers, dates and addresses: the vectors of the specifications, and for doubles the C library
 * as a second opinion. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static void *mem_alloc(void *user, size_t n) { (void)user; return malloc(n); }
static void mem_free(void *user, void *p, size_t n) { (void)user; (void)n; free(p); }
static const azri_mem mem = {mem_alloc, mem_free, NULL, NULL};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* An exact copy on the heap, so that a sanitizer sees a read past its end. */
static azredis_str exact(const char *z) {
    size_t n = strlen(z);
    char *p = (char *)malloc(n ? n : 1);
    assert_non_null(p);
    memcpy(p, z, n);
    return azri_slice(p, n);
}

static void done(azredis_str s) { free((void *)(uintptr_t)s.ptr); }

/* ---- base64url, percent ---- */

static int decodes(const char *text, const char *bytes, size_t n) {
    azredis_str in = exact(text);
    size_t len = 999;
    int ok = azri_b64url_decode(in, (char *)(uintptr_t)in.ptr, &len);
    int same = ok && len == n && (n == 0 || memcmp(in.ptr, bytes, n) == 0);
    if (!ok) assert_int_equal(len, 999);
    done(in);
    return same;
}

static void test_b64url(void **state) {
    static const struct { const char *bytes; size_t n; const char *text; } v[] = {
        {"", 0, ""}, {"f", 1, "Zg"}, {"fo", 2, "Zm8"}, {"foo", 3, "Zm9v"},
        {"\xfb\xff\xfe", 3, "-__-"}, {"\xff\xef", 2, "_-8"}
    };
    static const char *const bad[] = {"Z", "A", "Zm9vZ", "Zm9vA", "+w", "/w", "Zg ", " Zg", "Z g", "Zg===", "Z=g", "=Zg", "Zm9v\n",
                                      "Zh", "Zm9", "====", "\xc3\xa9", "Zm8==="};
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(v); i++) {
        char padded[16];
        assert_true(decodes(v[i].text, v[i].bytes, v[i].n));
        (void)snprintf(padded, sizeof padded, "%s%.*s", v[i].text, (int)((4 - strlen(v[i].text) % 4) % 4), "==");
        assert_true(decodes(padded, v[i].bytes, v[i].n));
    }
    for (i = 0; i < COUNT(bad); i++)
        if (decodes(bad[i], "", 0) || decodes(bad[i], "f", 1)) fail_msg("accepted: %s", bad[i]);
}

static void test_b64url_alphabet(void **state) {
    int c, good = 0;
    (void)state;
    for (c = 0; c < 256; c++) {
        char text[4] = {'A', 'A', 'A', 0}, out[4];
        size_t len;
        text[0] = (char)c;
        if (azri_b64url_decode(azri_slice(text, 4 - 1 + 1), out, &len)) fail_msg("NUL accepted behind %d", c);
        good += azri_b64url_decode(azri_slice(text, 2), out, &len);
    }
    assert_int_equal(good, 64);
}

static void test_percent(void **state) {
    static const struct { const char *raw, *text; } v[] = {
        {"https://redis.azure.com/.default", "https%3A%2F%2Fredis.azure.com%2F.default"},
        {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
         "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"},
        {"a b", "a%20b"},
        {"abc~8Q+/=&%# \"'\xc3\xa9", "abc~8Q%2B%2F%3D%26%25%23%20%22%27%C3%A9"},
        {"!*()", "%21%2A%28%29"}, {"", ""},
        {"ABCXYZabcxyz0189-._~", "ABCXYZabcxyz0189-._~"}, {"@[`{/:^", "%40%5B%60%7B%2F%3A%5E"}
    };
    azri_buf b;
    size_t i;
    (void)state;
    azri_buf_init(&b, &mem, 1000, 0);
    for (i = 0; i < COUNT(v); i++) {
        b.len = 0;
        azri_percent_put(&b, azri_str(v[i].raw));
        assert_int_equal(b.status, AZREDIS_OK);
        assert_int_equal(b.len, strlen(v[i].text));
        if (b.len) assert_memory_equal(b.ptr, v[i].text, b.len);
    }
    b.len = 0;
    azri_percent_put(&b, azri_slice("\0\xff", 2));
    assert_int_equal(b.status, AZREDIS_OK);
    assert_int_equal(b.len, 6);
    assert_memory_equal(b.ptr, "%00%FF", 6);
    azri_buf_free(&b);
    azri_buf_init(&b, &mem, 5, 0);
    azri_percent_put(&b, azri_str("&&"));
    assert_int_equal(b.status, AZREDIS_E_LIMIT);
    azri_buf_free(&b);
}

/* ---- whole numbers ---- */

static void test_u64(void **state) {
    static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "1.", "0x1", "18446744073709551616",
                                      "18446744073709551620", "99999999999999999999", "1a", "a", "/", ":"};
    uint64_t v = 77;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++)
        if (azri_u64(azri_str(bad[i]), &v)) fail_msg("accepted: %s", bad[i]);
    assert_true(v == 77);
    assert_false(azri_u64(azri_slice("1\0", 2), &v));
    assert_true(azri_u64(azri_str("0"), &v) && v == 0);
    assert_true(azri_u64(azri_str("18446744073709551615"), &v) && v == UINT64_MAX);
    assert_true(azri_u64(azri_str("0000000000000000000000000000007"), &v) && v == 7);
}

static void test_i64(void **state) {
    static const struct { const char *text; int64_t v; } good[] = {
        {"0", 0}, {"+5", 5}, {"007", 7}, {"-0", 0}, {"-1", -1}, {"9223372036854775807", INT64_MAX},
        {"-9223372036854775808", INT64_MIN}, {"-9223372036854775807", -INT64_MAX}
    };
    static const char *const bad[] = {"", "+", "-", "--1", "+-1", "1 2", "9223372036854775808", "-9223372036854775809",
                                      "18446744073709551617", "1e3", " 1", "1-"};
    int64_t v = 77;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(bad); i++)
        if (azri_i64(azri_str(bad[i]), &v)) fail_msg("accepted: %s", bad[i]);
    assert_true(v == 77);
    for (i = 0; i < COUNT(good); i++)
        if (!azri_i64(azri_str(good[i].text), &v) || v != good[i].v) fail_msg("%s", good[i].text);
}

/* ---- doubles ---- */

static uint64_t bits_of(double d) {
    uint64_t b;
    memcpy(&b, &d, sizeof b);
    return b;
}

static double double_of(uint64_t b) {
    double d;
    memcpy(&d, &b, sizeof d);
    return d;
}

/* The same bits as strtod gives in the C locale. */
static void agrees(const char *text) {
    azredis_str s = exact(text);
    double got = 0, want = strtod(text, NULL);
    if (!azri_double(s, &got)) fail_msg("refused: %s", text);
    if (bits_of(got) != bits_of(want)) fail_msg("%s: %.17g, not %.17g", text, got, want);
    done(s);
}

static void test_double_table(void **state) {
    static const char *const good[] = {
        "0", "-0", "+0", "0.0", "0e5", "-0e-999999999999", "3", "+3", "-3.5", "1e+300", "1.0000000000000001e+300",
        "5e-324", "-5e-324", "123456789012345680", ".5", "5.", "-.5e1", "5.e2", "1E5", "1e-5", "0.1", "0.3",
        "1e22", "1e23", "9007199254740993", "9007199254740992.5", "9007199254740993.0000000000000000000001",
        "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "1e308", "1e309", "-1e400",
        "1e99999999999999999", "1e-99999999999999999", "2.2250738585072011e-308", "2.2250738585072014e-308",
        "2.2250738585072012e-308", "4.9406564584124654e-324", "2.4703282292062327e-324", "2.4703282292062328e-324",
        "2e-324", "3e-324", "1e-323", "1e-400", "6.631236846766476e-316", "8.4488e305", "1e15", "1e16", "4503599627370496.5",
        "4503599627370497.5", "4503599627370495.75", "0.000000000000000000000000000000000000000000000000000001",
        "1000000000000000000000000000000", "999999999.999999999", "1000000000.000000001", "18446744073709551616",
        "1.00000000000000011102230246251565404236316680908203125",
        "1.00000000000000011102230246251565404236316680908203124",
        "1.00000000000000011102230246251565404236316680908203126", "00000000000000000000000000000000001.5"
    };
    static const char *const bad[] = {
        "", "+", "-", ".", "-.", "e5", ".e5", "1e", "1e+", "1e-", "1.5.2", "1..", " 1", "1 ", "1,5", "--1", "+-1",
        "0x10", "1e5.", "1e5e5", "1f", "in", "infi", "infinit", "infinityx", "nanx", "na", "nan(", "nan()x", "(nan)",
        "1_000", "1e 5", "1d5", "e", "E", "inf(1)", "+ 1", "1e--5"
    };
    double d = 77;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++) agrees(good[i]);
    for (i = 0; i < COUNT(bad); i++) {
        azredis_str s = exact(bad[i]);
        if (azri_double(s, &d)) fail_msg("accepted: %s", bad[i]);
        done(s);
    }
    assert_true(bits_of(d) == bits_of(77.0));
}

static void test_double_words(void **state) {
    static const char *const plus[] = {"inf", "+inf", "INF", "Inf", "infinity", "+Infinity", "1e400"};
    static const char *const minus[] = {"-inf", "-INFINITY", "-Inf", "-1e400"};
    static const char *const nans[] = {"nan", "-nan", "+nan", "NAN", "NaN", "nan(0x8000000000000)", "-nan(ind)", "nan()"};
    double d;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(plus); i++)
        if (!azri_double(azri_str(plus[i]), &d) || bits_of(d) != bits_of(HUGE_VAL)) fail_msg("%s", plus[i]);
    for (i = 0; i < COUNT(minus); i++)
        if (!azri_double(azri_str(minus[i]), &d) || bits_of(d) != bits_of(-HUGE_VAL)) fail_msg("%s", minus[i]);
    for (i = 0; i < COUNT(nans); i++)
        if (!azri_double(azri_str(nans[i]), &d) || !isnan(d)) fail_msg("%s", nans[i]);
}

/* Random bit patterns printed with 1 to 17 digits; 17 must give the same bits back. */
static void test_double_random(void **state) {
    azri_rng rng;
    char text[64];
    int i, digits;
    (void)state;
    rng.state = 20261123;
    for (i = 0; i < 6000; i++) {
        uint64_t b = azri_rng_next(&rng);
        double d, back;
        if (i % 5 == 0) b &= ~((uint64_t)0x7ff << 52);                              /* subnormals */
        if (i % 5 == 1) b = (b & ~((uint64_t)0x7ff << 52)) | (uint64_t)(1000 + b % 90) << 52;  /* everyday sizes */
        d = double_of(b);
        if (!isfinite(d)) continue;
        (void)snprintf(text, sizeof text, "%.17g", d);
        assert_true(azri_double(azri_str(text), &back));
        if (bits_of(back) != b) fail_msg("%s", text);
        digits = 1 + (int)azri_rng_below(&rng, 17);
        (void)snprintf(text, sizeof text, "%.*g", digits, d);
        agrees(text);
        for (digits = 1; digits < 17; digits++) {                                   /* the shortest form */
            (void)snprintf(text, sizeof text, "%.*g", digits, d);
            if (bits_of(strtod(text, NULL)) == b) break;
        }
        agrees(text);
    }
}

/* A digit that the limbs hold at first, and that halving 2^1000 down pushes out of them, still breaks the tie. */
static void test_double_far_digit(void **state) {
    static const char tie[] =
        "1071508607186267439909777727282646834406404663697578417944566521121907775586684867768450951648045741"
        "7410598326100611940090850485011301580799652774010623141036599032656739931611797746963030270296027082"
        "0495912359711749385671485485324133645094483811334402503487566130085772965141949677546458494847198167"
        "04";  /* 2^1000 + 2^947 */
    char text[2000];
    int i;
    (void)state;
    for (i = 700; i < 1100; i += 9) {
        (void)snprintf(text, sizeof text, "%s", tie);
        agrees(text);
        (void)snprintf(text, sizeof text, "%s.%0*d", tie, i, 1);
        agrees(text);
        assert_true(bits_of(strtod(text, NULL)) == bits_of(strtod(tie, NULL)) + 1);
    }
}

/* Exactly half way between two doubles, and one digit off it, with all of its up to 770 digits. */
static void test_double_halfway(void **state) {
    azri_rng rng;
    char text[2400];
    int i, n;
    (void)state;
    rng.state = 5;
    if (sizeof(long double) == sizeof(double) || LDBL_MANT_DIG < 54) {
        print_message("this machine's long double cannot tell two doubles' middle\n");
        skip();
    }
    for (i = 0; i < 1500; i++) {
        uint64_t b = azri_rng_next(&rng) & INT64_MAX;
        long double mid;
        if (i % 3 == 0) b &= ((uint64_t)1 << 53) - 1;
        if (i % 3 == 1) b = (b & (((uint64_t)1 << 52) - 1)) | (uint64_t)(1023 + b % 60) << 52;
        if (!isfinite(double_of(b)) || !isfinite(double_of(b + 1))) continue;
        mid = ((long double)double_of(b) + (long double)double_of(b + 1)) / 2;
        n = snprintf(text, sizeof text, "%.800Le", mid);
        assert_true(n > 0 && n < (int)sizeof text - 8);
        agrees(text);
        n = snprintf(text, sizeof text, "%.1100Lf", mid);
        assert_true(n > 0 && n < (int)sizeof text - 8);
        agrees(text);
        memcpy(text + n, "1", 2);
        agrees(text);
    }
}

static void test_double_random_text(void **state) {
    azri_rng rng;
    char text[1400];
    int i;
    (void)state;
    rng.state = 99;
    for (i = 0; i < 6000; i++) {
        size_t n = 0, digits = 1 + azri_rng_below(&rng, i % 50 ? 40 : 1200), point = azri_rng_below(&rng, digits + 1), k;
        for (k = 0; k < digits; k++) {
            if (k == point) text[n++] = '.';
            text[n++] = (char)('0' + azri_rng_below(&rng, i % 7 ? 10 : 2));
        }
        text[n] = '\0';
        if (i % 3) (void)snprintf(text + n, sizeof text - n, "e%d", (int)azri_rng_below(&rng, 720) - 360);
        agrees(text);
    }
}

/* The places where limbs, subnormals and infinity begin, ulp by ulp. */
static void test_double_edges(void **state) {
    static const double at[] = {0, 2.2250738585072014e-308, 1e-9, 1, 1e9, 4503599627370496., 9007199254740992., 1e18,
                                18446744073709551616., 1e27, 1e300, 1.7976931348623157e308};
    char text[64];
    size_t i;
    int k;
    (void)state;
    for (i = 0; i < COUNT(at); i++)
        for (k = -40; k <= 40; k++) {
            uint64_t b = bits_of(at[i]) + (uint64_t)(int64_t)k;
            double back;
            if (!isfinite(double_of(b)) || b >> 63) continue;
            (void)snprintf(text, sizeof text, "%.17g", double_of(b));
            assert_true(azri_double(azri_str(text), &back));
            if (bits_of(back) != b) fail_msg("%s", text);
        }
    for (k = -345; k <= 312; k++) {
        (void)snprintf(text, sizeof text, "1e%d", k);
        agrees(text);
        (void)snprintf(text, sizeof text, "-9.5e%d", k);
        agrees(text);
    }
}

/* A program may have set a locale whose point is a comma: nothing of ours may notice. */
/* A locale with a decimal comma, made for this test where the system has none. */
static int comma_locale(void) {
    char dir[] = "/tmp/azredis-locale-XXXXXX", command[200];
    const int one = 1;
    const char *order = *(const char *)&one ? "little" : "big";     /* localedef may be another machine's, under qemu */
    int ok;
    if (setlocale(LC_ALL, "de_DE.UTF-8") && localeconv()->decimal_point[0] == ',') return 1;
    if (!mkdtemp(dir)) return 0;
    (void)snprintf(command, sizeof command, "localedef --%s-endian -c -i de_DE -f UTF-8 %s/de_DE.UTF-8 >/dev/null 2>&1",
                   order, dir);
    ok = system(command) != -1 && setenv("LOCPATH", dir, 1) == 0 && setlocale(LC_ALL, "de_DE.UTF-8") != NULL;
    (void)snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) == 0 && ok && localeconv()->decimal_point[0] == ',';
}

static void test_double_locale(void **state) {
    double d;
    int ok;
    (void)state;
    assert_true(comma_locale());
    ok = azri_double(azri_str("3.25"), &d) && bits_of(d) == bits_of(3.25) && !azri_double(azri_str("3,25"), &d);
    (void)setlocale(LC_ALL, "C");
    (void)unsetenv("LOCPATH");
    assert_true(ok);
}

/* ---- dates ---- */

static int dates_to(const char *text, int64_t *v) {
    azredis_str s = exact(text);
    int ok = azri_date_parse(s, v);
    done(s);
    return ok;
}

static void test_date_parse(void **state) {
    static const struct { const char *text; int64_t v; } good[] = {
        {"1560999478", 1560999478}, {" 1560999478 ", 1560999478}, {"0", 0}, {"3599", 3599},
        {"2019-06-20T02:57:58Z", 1560999478}, {"06/20/2019 02:57:58 +00:00", 1560999478},
        {"6/20/2019 2:57:58 AM +00:00", 1560999478}, {"2019-06-20 02:57:58", 1560999478},
        {"1/16/2020 5:24:12 AM +00:00", 1579152252}, {"1/16/2020 5:24:12 PM +00:00", 1579195452},
        {"1/16/2020 12:05:06 AM +00:00", 1579133106}, {"1/16/2020 12:05:06 PM +00:00", 1579176306},
        {"1/16/2020 12:05:06 pm +00:00", 1579176306}, {"1/16/2020 5:24:12 AM", 1579152252},
        {"2024-10-18T19:51:37.0000000+00:00", 1729281097}, {"2027-01-15T08:00:00Z", 1800000000},
        {"2027-01-15T08:00:00+05:30", 1799980200}, {"2027-01-15T08:00:00-08:00", 1800028800},
        {"2028-02-29T23:59:59Z", 1835481599}, {"2100-03-01T00:00:00Z", INT64_C(4107542400)},
        {"2027-01-15 09:00:00.000000", 1800003600}, {"1970-01-01T00:00:00Z", 0}, {"1969-12-31T23:59:59Z", -1},
        {"2000-02-29T00:00:00Z", 951782400}, {"2000-03-01T00:00:00Z", 951868800}, {"1999-12-31T23:59:60Z", 946684800},
        {"9999-12-31T23:59:59Z", INT64_C(253402300799)}, {"0001-01-01T00:00:00Z", INT64_C(-62135596800)},
        {"Sun, 06 Nov 1994 08:49:37 GMT", 784111777}, {"Thu, 01 Jan 1970 00:00:00 GMT", 0},
        {"Fri, 15 Jan 2027 08:00:00 GMT", 1800000000}, {"Tue, 29 Feb 2028 23:59:59 GMT", 1835481599}
    };
    static const char *const bad[] = {
        "", " ", "tomorrow", "2023-02-29T00:00:00Z", "13/01/2020 0:00:00", "2100-02-29T00:00:00Z", "0/1/2020 0:00:00",
        "1/0/2020 0:00:00", "1/32/2020 0:00:00", "4/31/2020 0:00:00", "2019-00-20T02:57:58Z", "2019-06-31T02:57:58Z",
        "2019-06-20", "2019-06-20T", "2019-06-20T02:57Z", "2019-06-20T24:00:00Z", "2019-06-20T02:60:58Z",
        "2019-06-20T02:57:61Z", "2019-06-20T02:57:58X", "2019-06-20T02:57:58ZZ", "2019-06-20T02:57:58.Z",
        "2019-06-20T02:57:58+0000", "2019-06-20T02:57:58+24:00", "2019-06-20T02:57:58+00:60", "2019-06-20T02:57:58+",
        "2019-6-20T02:57:58Z", "19-06-20T02:57:58Z", "2019/06/20 02:57:58", "0000-01-01T00:00:00Z", "-1", "+1", "1e9",
        "1/16/2020 13:24:12 AM", "1/16/2020 0:24:12 PM", "1/16/2020 5:24:12 XM", "1/16/2020", "1/16/20 5:24:12",
        "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nox 1994 08:49:37 GMT", "Sun, 31 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT", "Sun 06 Nov 1994 08:49:37 GMT ", "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMTT", "99999999999999999999", "9223372036854775808", "T", "-", "/", "1/", "1/1/"
    };
    int64_t v;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++)
        if (!dates_to(good[i].text, &v) || v != good[i].v) fail_msg("%s: %lld", good[i].text, (long long)v);
    for (i = 0; i < COUNT(bad); i++)
        if (dates_to(bad[i], &v)) fail_msg("accepted: %s as %lld", bad[i], (long long)v);
}

/* Every prefix of a date but the ones that are dates themselves. */
static void test_date_cut(void **state) {
    static const char full[] = "2024-10-18T19:51:37.5+00:00", us[] = "1/16/2020 12:05:06 PM +00:00";
    char text[40];
    size_t n;
    int64_t v;
    (void)state;
    for (n = 1; n < sizeof full - 1; n++) {
        memcpy(text, full, n);
        text[n] = '\0';
        assert_int_equal(dates_to(text, &v), n <= 4 || n == 19 || n == 21);    /* 2024 in digits is an epoch */
    }
    for (n = 2; n < sizeof us - 1; n++) {
        memcpy(text, us, n);
        text[n] = '\0';
        assert_int_equal(dates_to(text, &v), n == 18 || n == 19 || n == 21 || n == 22);
    }
}

/* Each day from 1970 to 2400 against a calendar that counts days one by one; and there and back at random. */
static void test_date_calendar(void **state) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int y, m, d;
    int64_t n = 0, v;
    char want[40], got[24];
    azri_rng rng;
    (void)state;
    for (y = 1970; y < 2401; y++)
        for (m = 1; m <= 12; m++)
            for (d = 1; d <= days[m - 1] + (m == 2 && (y % 4 == 0) && (y % 100 != 0 || y % 400 == 0)); d++, n += 86400) {
                azri_date_text(got, n);
                (void)snprintf(want, sizeof want, "%04d-%02d-%02dT00:00:00Z", y, m, d);
                assert_string_equal(got, want);
                assert_true(dates_to(got, &v) && v == n);
            }
    rng.state = 3;
    for (d = 0; d < 3000; d++) {
        n = (int64_t)(azri_rng_next(&rng) % 253402300800);
        azri_date_text(got, n);
        if (!dates_to(got, &v) || v != n) fail_msg("%s", got);
    }
}

static void test_date_text(void **state) {
    static const struct { int64_t v; const char *text; } t[] = {
        {0, "1970-01-01T00:00:00Z"}, {1795428000, "2026-11-23T10:00:00Z"}, {1835481599, "2028-02-29T23:59:59Z"},
        {INT64_C(253402300799), "9999-12-31T23:59:59Z"}, {INT64_MAX, "9999-12-31T23:59:59Z"},
        {-1, "1970-01-01T00:00:00Z"}, {INT64_MIN, "1970-01-01T00:00:00Z"}
    };
    char out[24];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(t); i++) {
        azri_date_text(out, t[i].v);
        assert_string_equal(out, t[i].text);
    }
}

/* ---- addresses ---- */

static void test_ip(void **state) {
    static const struct { const char *text; size_t n; const char *bytes; } t[] = {
        {"127.0.0.1", 4, "\x7f\0\0\x01"}, {"255.255.255.255", 4, "\xff\xff\xff\xff"}, {"0.0.0.0", 4, "\0\0\0\0"},
        {"::", 16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"}, {"::1", 16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"},
        {"1::", 16, "\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0"}, {"fe80::1:2", 16, "\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\x01\0\x02"},
        {"1:2:3:4:5:6:7:8", 16, "\0\x01\0\x02\0\x03\0\x04\0\x05\0\x06\0\x07\0\x08"},
        {"1:2:3:4:5:6:7::", 16, "\0\x01\0\x02\0\x03\0\x04\0\x05\0\x06\0\x07\0\0"},
        {"::2:3:4:5:6:7:8", 16, "\0\0\0\x02\0\x03\0\x04\0\x05\0\x06\0\x07\0\x08"},
        {"ABCD::EF01", 16, "\xab\xcd\0\0\0\0\0\0\0\0\0\0\0\0\xef\x01"},
        {"::ffff:10.1.2.3", 16, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x01\x02\x03"},
        {"1:2:3:4:5:6:10.1.2.3", 16, "\0\x01\0\x02\0\x03\0\x04\0\x05\0\x06\x0a\x01\x02\x03"}
    };
    static const char *const bad[] = {
        "", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.", ".1.2.3", "01.2.3.4", "1.2.3.04", "1..2.3", "0x7f.0.0.1",
        "2130706433", "127.1", "1.2.3.4 ", " 1.2.3.4", "1.2.3.1000", ":", ":::", "1:", ":1", "1:2:3:4:5:6:7", "::1::",
        "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "12345::", "::g", "::1%eth0", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3",
        "1.2.3.4::", "::1.2.3.4:5", "1::2::3", "1:::2", "localhost", "[::1]", "::1 "
    };
    uint8_t out[16];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(t); i++) {
        azredis_str s = exact(t[i].text);
        if (azri_ip_parse(s, out) != t[i].n || memcmp(out, t[i].bytes, t[i].n) != 0) fail_msg("%s", t[i].text);
        done(s);
    }
    for (i = 0; i < COUNT(bad); i++) {
        azredis_str s = exact(bad[i]);
        if (azri_ip_parse(s, out)) fail_msg("accepted: %s", bad[i]);
        done(s);
    }
}

static void test_loopback(void **state) {
    static const char *const yes[] = {"localhost", "LocalHost", "127.0.0.1", "127.255.0.9", "::1", "0:0:0:0:0:0:0:1"};
    static const char *const no[] = {"", "localhost.example", "xlocalhost", "128.0.0.1", "126.255.255.255", "::", "::2",
                                     "127.0.0.1.example", "127.1", "0177.0.0.1", "::ffff:127.0.0.1", "1::1"};
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(yes); i++) if (!azri_is_loopback(azri_str(yes[i]))) fail_msg("%s", yes[i]);
    for (i = 0; i < COUNT(no); i++) if (azri_is_loopback(azri_str(no[i]))) fail_msg("%s", no[i]);
}

#define L63 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define L61 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static void test_endpoint(void **state) {
    static const struct { const char *text, *host; unsigned port; } good[] = {
        {"a", "a", 0}, {"c.r.redis.azure.net", "c.r.redis.azure.net", 0}, {"c.r.redis.azure.net:10000", "c.r.redis.azure.net", 10000},
        {"c.example.", "c.example", 0}, {"c.example.:1", "c.example", 1}, {"c:65535", "c", 65535}, {"c:0080", "c", 80},
        {"[::1]", "::1", 0}, {"[::1]:6380", "::1", 6380}, {"::1", "::1", 0}, {"fe80::1:1000", "fe80::1:1000", 0},
        {"127.0.0.1:6379", "127.0.0.1", 6379}, {"my_cache-1.Local", "my_cache-1.Local", 0},
        {L63 "." L63 "." L63 "." L61, L63 "." L63 "." L63 "." L61, 0}
    };
    static const char *const bad[] = {
        "", " ", "a b", " a", "a ", "a:", "a:0", "a:65536", "a:x", "a:-1", "a:+1", "a: 1", "a:99999999999999999999",
        ":6380", "redis://a", "rediss://a:6380", "https://a", "u:p@a", "u@a", "a/b", "a?b", "a#b", "a..b", ".a", ".", "..",
        "[::1", "[]", "[a]", "[1.2.3.4]", "[::1]6380", "[::1]:", "[::1]:0", "::1]", "a:1:2", "::g", "[::1%1]", "a\tb", "fe80::1:10000", "1:2:3:4:5:6:7:8:9",
        "a\r\nb", "caf\xc3\xa9", "a,b", "a;b", "a%41", "*", L63 "a", L63 "." L63 "." L63 "." L61 "a"
    };
    char host[256];
    uint16_t port;
    azredis_error e;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        azredis_str s = exact(good[i].text);
        if (azri_endpoint_parse(s, host, &port, &e) != AZREDIS_OK) fail_msg("%s: %s", good[i].text, e.message);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
        done(s);
    }
    for (i = 0; i < COUNT(bad); i++) {
        azredis_str s = exact(bad[i]);
        memset(&e, 0, sizeof e);
        if (azri_endpoint_parse(s, host, &port, &e) != AZREDIS_E_ARG) fail_msg("accepted: %s", bad[i]);
        assert_non_null(strstr(e.message, "expected name"));
        assert_int_equal(e.retryable, 0);
        done(s);
    }
    assert_int_equal(azri_endpoint_parse(azri_slice("a\0b", 3), host, &port, NULL), AZREDIS_E_ARG);
}

/* What somebody pasted by mistake must not come back in the message. */
static void test_endpoint_is_not_quoted(void **state) {
    char host[256];
    uint16_t port;
    azredis_error e;
    azri_url u;
    (void)state;
    assert_int_equal(azri_endpoint_parse(azri_str("redis://:hunter2@c:1"), host, &port, &e), AZREDIS_E_ARG);
    assert_null(strstr(e.message, "hunter2"));
    assert_int_equal(azri_endpoint_parse(azri_str("me:hunter2@c:1"), host, &port, &e), AZREDIS_E_ARG);
    assert_null(strstr(e.message, "hunter2"));
    assert_non_null(strstr(e.message, "'@'"));
    assert_int_equal(azri_url_parse(&u, azri_str("https://me:hunter2@c/"), "x", &e), AZREDIS_E_ARG);
    assert_null(strstr(e.message, "hunter2"));
    assert_string_equal(e.where, "x");
}

static void test_url(void **state) {
    static const struct { const char *text; int tls; const char *host; unsigned port; const char *path; } good[] = {
        {"https://login.microsoftonline.com/t/oauth2/v2.0/token", 1, "login.microsoftonline.com", 443, "/t/oauth2/v2.0/token"},
        {"HTTPS://h", 1, "h", 443, "/"}, {"http://h/", 0, "h", 80, "/"}, {"http://h:8080?q=1", 0, "h", 8080, "/?q=1"},
        {"https://[::1]:8443/a?b=c&d", 1, "::1", 8443, "/a?b=c&d"}, {"http://169.254.169.254/metadata", 0, "169.254.169.254", 80, "/metadata"},
        {"https://h./x", 1, "h", 443, "/x"}, {"https://h/%20", 1, "h", 443, "/%20"}, {"https://h//x", 1, "h", 443, "//x"}
    };
    static const char *const bad[] = {
        "", "h", "//h", "ftp://h", "https:/h", "https:h", "https://", "https:///x", "https://?", "https://u@h/",
        "https://u:p@h/", "https://h/#f", "https://h#f", "https://h/a b", "https://h/a\r\nX: y", "https://h/\t", "https://h/\x7f",
        "https://h/\xc3\xa9", "https://h:0/", "https://h:/", "https://h:65536/", "https://h:x/", "https://::1/", "https://h\\x/",
        "https://[::1/", "https://h h/", " https://h/", "https://h%2f.example/", "httpss://h", "http:"
    };
    char text[1200];
    azri_url u;
    azredis_error e;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(good); i++) {
        azredis_str s = exact(good[i].text);
        if (azri_url_parse(&u, s, "t", &e) != AZREDIS_OK) fail_msg("%s: %s", good[i].text, e.message);
        assert_int_equal(u.tls, good[i].tls);
        assert_string_equal(u.host, good[i].host);
        assert_int_equal(u.port, good[i].port);
        assert_string_equal(u.path, good[i].path);
        done(s);
    }
    for (i = 0; i < COUNT(bad); i++) {
        azredis_str s = exact(bad[i]);
        if (azri_url_parse(&u, s, "t", &e) != AZREDIS_E_ARG) fail_msg("accepted: %s", bad[i]);
        done(s);
    }
    assert_int_equal(azri_url_parse(&u, azri_slice("https://h/a\0b", 13), "t", &e), AZREDIS_E_ARG);
    memset(text, 'x', sizeof text);
    memcpy(text, "https://h/", 10);
    assert_int_equal(azri_url_parse(&u, azri_slice(text, 9 + 1023), "t", &e), AZREDIS_OK);
    assert_int_equal(strlen(u.path), 1023);
    assert_int_equal(azri_url_parse(&u, azri_slice(text, 9 + 1024), "t", &e), AZREDIS_E_ARG);
    memcpy(text, "https://h?", 10);
    assert_int_equal(azri_url_parse(&u, azri_slice(text, 9 + 1022), "t", &e), AZREDIS_OK);
    assert_int_equal(strlen(u.path), 1023);
    assert_int_equal(azri_url_parse(&u, azri_slice(text, 9 + 1023), "t", &e), AZREDIS_E_ARG);
}

static void test_port_by_host(void **state) {
    static const struct { const char *host; unsigned port; } t[] = {
        {"c.redis.cache.windows.net", 6380}, {"C.Redis.Cache.Windows.Net", 6380}, {"c.redis.cache.chinacloudapi.cn", 6380},
        {"c.redis.cache.usgovcloudapi.net", 6380}, {"c.redis.cache.sovcloud-api.fr", 6380}, {"c.redis.cache.sovcloud-api.de", 6380},
        {"c.r.redis.azure.net", 10000}, {"c.r.redisenterprise.cache.azure.net", 10000}, {"c.r.redis.chinacloudapi.cn", 10000},
        {"c.r.redis.usgovcloudapi.net", 10000}, {"c.r.redis.sovcloud-api.fr", 10000}, {"c.r.redis.sovcloud-api.de", 10000},
        {"c.r.redis.sovcloud-api.sg", 10000}, {"c.redis.cache.windows.net.evil.example", 10000},
        {"evilredis.cache.windows.net", 10000}, {"redis.cache.windows.net", 10000}, {"localhost", 10000}, {"", 10000}
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(t); i++)
        if (azri_port_by_host(azri_str(t[i].host)) != t[i].port) fail_msg("%s", t[i].host);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_b64url), cmocka_unit_test(test_b64url_alphabet),
        cmocka_unit_test(test_percent), cmocka_unit_test(test_u64), cmocka_unit_test(test_i64),
        cmocka_unit_test(test_double_table), cmocka_unit_test(test_double_words), cmocka_unit_test(test_double_random),
        cmocka_unit_test(test_double_halfway), cmocka_unit_test(test_double_far_digit), cmocka_unit_test(test_double_random_text),
        cmocka_unit_test(test_double_edges), cmocka_unit_test(test_double_locale),
        cmocka_unit_test(test_date_parse), cmocka_unit_test(test_date_cut), cmocka_unit_test(test_date_calendar),
        cmocka_unit_test(test_date_text), cmocka_unit_test(test_ip), cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_endpoint), cmocka_unit_test(test_endpoint_is_not_quoted), cmocka_unit_test(test_url),
        cmocka_unit_test(test_port_by_host)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
