/* core, mem, fail: arithmetic that cannot wrap, memory that is wiped, the formatter, and the only way that a peer's
 * words take into a message. */
#include "pure.h"

/* ---- core ---- */

static void a_deadline_never_wraps_and_never_stays_never(void **state) {
    static const struct { uint64_t now, ms, want; } row[] = {
        { 0, 0, 0 }, { 5, 7, 12 }, { 1, AZREDIS_NEVER, UINT64_MAX }, { 1, AZREDIS_NEVER - 1u, AZREDIS_NEVER },
        { 1, AZREDIS_NEVER + 1ull, AZREDIS_NEVER + 2ull }, { 1, UINT64_MAX, UINT64_MAX }, { UINT64_MAX, 0, UINT64_MAX },
        { UINT64_MAX, 1, UINT64_MAX }, { UINT64_MAX - 10, 10, UINT64_MAX }, { UINT64_MAX - 10, 9, UINT64_MAX - 1 },
        { UINT64_MAX - 10, 11, UINT64_MAX }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) assert_true(azri_after(row[i].now, row[i].ms) == row[i].want);
}

static void words_are_compared_by_length_and_ascii_case_only(void **state) {
    static const struct { const char *a; size_t n; const char *b; int eq, ieq; } row[] = {
        { NULL, 0, "", 1, 1 }, { "", 0, NULL, 1, 1 }, { "OK", 2, "OK", 1, 1 }, { "ok", 2, "OK", 0, 1 }, { "OK\0x", 4, "OK", 0, 0 },
        { "OKAY", 2, "OK", 1, 1 }, { "OK", 2, "OKAY", 0, 0 }, { "@[`{", 4, "`{@[", 0, 0 }, { "\xc4", 1, "\xe4", 0, 0 }
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        assert_int_equal(azri_eqz(azri_slice(row[i].a, row[i].n), row[i].b), row[i].eq);
        assert_int_equal(azri_ieqz(azri_slice(row[i].a, row[i].n), row[i].b), row[i].ieq);
    }
}

static void a_short_copy_is_exact_at_every_length(void **state) {
    char from[80], to[88];
    size_t n, i;
    (void)state;
    for (i = 0; i < sizeof from; i++) from[i] = (char)(i + 1);
    for (n = 0; n <= sizeof from; n++) {
        memset(to, 0x7e, sizeof to);
        assert_ptr_equal(azri_put(to + 4, from, n), to + 4 + n);
        for (i = 0; i < sizeof to; i++) assert_int_equal(to[i], i >= 4 && i < 4 + n ? (char)(i - 3) : 0x7e);
    }
}

static void wiping_clears_all_and_nothing_beside(void **state) {
    unsigned char b[40];
    size_t n, i;
    (void)state;
    for (n = 0; n <= 32; n++) {
        memset(b, 0xee, sizeof b);
        azri_wipe(b + 4, n);
        for (i = 0; i < sizeof b; i++) assert_int_equal(b[i], i >= 4 && i < 4 + n ? 0 : 0xee);
    }
}

static void the_hash_tells_apart_what_differs_in_one_bit(void **state) {
    unsigned char b[64];
    uint64_t seen[sizeof b * 8 + 1], h;
    size_t i, k, turned = 0;
    (void)state;
    for (i = 0; i < sizeof b; i++) b[i] = (unsigned char)(i * 37);
    h = seen[0] = azri_hash64(b, sizeof b);
    assert_true(h == azri_hash64(b, sizeof b) && h != azri_hash64(b, sizeof b - 1) &&
                azri_hash64("", 0) != azri_hash64("\0", 1));
    for (i = 0; i < sizeof b * 8; i++) {
        b[i / 8] ^= (unsigned char)(1u << i % 8);
        seen[i + 1] = azri_hash64(b, sizeof b);
        b[i / 8] ^= (unsigned char)(1u << i % 8);
        for (k = 0; k <= i; k++) assert_true(seen[k] != seen[i + 1]);
        for (k = 0; k < 64; k++) turned += (size_t)((h ^ seen[i + 1]) >> k & 1);
    }
    assert_in_range(turned / (sizeof b * 8), 26, 38);           /* half of 64 bits */
}

static void a_seed_replays_the_random_numbers(void **state) {
    static const uint64_t known[] = { 6457827717110365317ull, 3203168211198807973ull, 9817491932198370423ull };
    azri_rng a = { 1234567 }, b = { 7 }, c = { 7 }, d = { 8 };
    unsigned bucket[10] = { 0 }, i;
    (void)state;
    for (i = 0; i < COUNT(known); i++) assert_true(azri_rng_next(&a) == known[i]);     /* splitmix64's own vector */
    for (i = 0; i < 100; i++) {
        uint64_t x = azri_rng_next(&b);
        assert_true(x == azri_rng_next(&c) && x != azri_rng_next(&d));
    }
    assert_true(azri_rng_below(&a, 0) == 0 && azri_rng_below(&a, 1) == 0);
    for (i = 0; i < 10000; i++) bucket[azri_rng_below(&a, 10)]++;
    for (i = 0; i < 10; i++) assert_in_range(bucket[i], 850, 1150);
}

/* Random in [base/2, min(cap, base * 2^n)] and spread over all of it. */
static void backoff_is_spread_between_its_bounds(void **state) {
    static const struct { uint32_t base, cap, n; uint64_t low, top; } row[] = {
        { 200, 30000, 0, 100, 200 }, { 200, 30000, 1, 100, 400 }, { 200, 30000, 7, 100, 25600 }, { 200, 30000, 8, 100, 30000 },
        { 200, 30000, 63, 100, 30000 }, { 200, 30000, 64, 100, 30000 }, { 200, 30000, UINT32_MAX, 100, 30000 },
        { 5000, 60000, 3, 2500, 40000 }, { 500, 100, 0, 50, 100 }, { 500, 100, 9, 50, 100 }, { 1, 1, 5, 0, 1 }, { 0, 0, UINT32_MAX, 0, 0 },
        { 0, 1, 5, 0, 0 }, { 3, 1u << 31, UINT32_MAX, 1, 1u << 31 }, { 1, 0, 3, 0, 0 }
    };
    size_t i, k;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        azri_rng r = { i };
        uint64_t lo = UINT64_MAX, hi = 0, low = 0, span = row[i].top - row[i].low;
        for (k = 0; k < 2000; k++) {
            uint64_t d = azri_backoff(&r, row[i].base, row[i].cap, row[i].n);
            assert_true(d >= row[i].low && d <= row[i].top);
            lo = azri_min64(lo, d);
            hi = azri_max64(hi, d);
            low += d - row[i].low <= span / 2;
        }
        assert_true(lo - row[i].low <= span / 50 && row[i].top - hi <= span / 50);
        if (span > 50) assert_in_range(low, 900, 1100);
    }
}

/* ---- mem ---- */

enum { FREE, GROW, STRING };

static void freed_and_grown_secrets_are_wiped(void **state) {
    static const struct { int how, secret; unsigned leaks; } row[] = {
        { FREE, 1, 0 }, { GROW, 1, 0 }, { STRING, 1, 0 },
        { FREE, 0, 1 }, { GROW, 0, 2 }          /* the control: this allocator does see what was not wiped */
    };
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        azri_buf b;
        memset(&heap, 0, sizeof heap);
        heap.secret = "hunter2-hunter2";
        azri_buf_init(&b, &mem, 10000, row[i].secret);
        if (row[i].how == STRING) azri_strfree(&mem, azri_strdup(&mem, heap.secret));
        else assert_int_equal(azri_buf_add(&b, heap.secret, strlen(heap.secret)), AZREDIS_OK);
        if (row[i].how == GROW) assert_int_equal(azri_buf_reserve(&b, 5000), AZREDIS_OK);
        azri_buf_free(&b);
        assert_int_equal(heap.leaks, row[i].leaks);
        assert_int_equal(heap.live, 0);
    }
}

static void a_credential_is_wiped_by_its_last_holder_only(void **state) {
    azri_blob *b, *slot = NULL;
    (void)state;
    memset(&heap, 0, sizeof heap);
    heap.secret = "hunter2-hunter2";
    b = new_token(heap.secret, 1, AZRI_NEVER64, 0);
    assert_true(azri_eqz(azri_blob_jwt(b), heap.secret));
    assert_true(azri_blob_jwt(NULL).len == 0);
    azri_session_set_blob(&slot, b);
    azri_blob_drop(b);
    assert_true(azri_eqz(azri_blob_jwt(slot), heap.secret));
    azri_session_set_blob(&slot, slot);
    azri_session_set_blob(&slot, NULL);
    assert_int_equal(heap.live, 0);
    assert_int_equal(heap.leaks, 0);
}

static void a_buffer_holds_exactly_its_maximum(void **state) {
    static const size_t maxes[] = { 1, 255, 256, 257, 1000, 4096 };
    char bytes[5000];
    size_t i;
    int more;
    (void)state;
    memset(&heap, 0, sizeof heap);
    memset(bytes, 'x', sizeof bytes);
    for (i = 0; i < COUNT(maxes); i++)
        for (more = -1; more <= 1; more++) {
            azri_buf b;
            size_t n = maxes[i] + (size_t)more, k;
            azredis_status st = AZREDIS_OK;
            azri_buf_init(&b, &mem, maxes[i], 0);
            assert_int_equal(azri_buf_add(&b, bytes, n), more > 0 ? AZREDIS_E_LIMIT : AZREDIS_OK);
            assert_int_equal(b.len, more > 0 ? 0 : n);
            assert_true(b.cap <= b.max);
            azri_buf_free(&b);
            for (k = 0; k < n && st == AZREDIS_OK; k++) st = azri_buf_add(&b, bytes, 1);    /* and byte by byte */
            assert_int_equal(st, more > 0 ? AZREDIS_E_LIMIT : AZREDIS_OK);
            assert_int_equal(b.len, azri_minz(n, maxes[i]));
            assert_int_equal(azri_buf_reserve(&b, SIZE_MAX), AZREDIS_E_LIMIT);
            assert_int_equal(azri_buf_reserve(&b, b.max - b.len + 1), AZREDIS_E_LIMIT);
            assert_int_equal(azri_buf_add(&b, NULL, 0), AZREDIS_OK);
            azri_buf_free(&b);
        }
    assert_int_equal(heap.live, 0);
}

static void without_memory_a_buffer_stays_as_it_was(void **state) {
    azri_buf b;
    (void)state;
    memset(&heap, 0, sizeof heap);
    azri_buf_init(&b, &mem, SIZE_MAX, 0);
    assert_int_equal(azri_buf_add(&b, "kept", 4), AZREDIS_OK);
    heap.fail_at = 2;
    assert_int_equal(azri_buf_reserve(&b, 1000), AZREDIS_E_NOMEM);
    assert_int_equal(b.len, 4);
    assert_memory_equal(b.ptr, "kept", 4);
    azri_buf_free(&b);
    azri_buf_free(&b);                  /* and may be freed twice */
    heap.fail_at = heap.calls + 1;
    assert_null(azri_strdup(&mem, "x"));
    assert_null(azri_strdup(&mem, NULL));
    azri_strfree(&mem, NULL);
    assert_int_equal(heap.live, 0);
}

/* ---- fail ---- */

#define FMT(want, ...) do { char got_[400]; assert_int_equal(azri_fmt(got_, sizeof got_, __VA_ARGS__), strlen(want)); \
    assert_string_equal(got_, want); } while (0)

static void every_verb_formats_as_snprintf_does(void **state) {
    const char *volatile none = NULL;
    (void)state;
    FMT("", "%s", "");
    FMT("a%b", "%s%%%s", "a", "b");
    FMT("?", "%s", none);
    FMT("?", "%.*s", 0, none);
    FMT("?", "%.*s", 9, none);
    FMT("abc|ab||", "%s|%.*s|%.*s|", "abc", 2, "abc", 0, "abc");
    FMT("abc", "%.*s", -1, "abc");
    FMT("-2147483648 2147483647 0", "%d %d %d", INT_MIN, INT_MAX, 0);
    FMT("-9223372036854775808 9223372036854775807", "%lld %lld", (long long)INT64_MIN, (long long)INT64_MAX);
    FMT("4294967295 18446744073709551615", "%u %llu", UINT_MAX, (unsigned long long)UINT64_MAX);
    FMT("0 ff ffffffff ffffffffffffffff", "%x %x %x %llx", 0u, 255u, UINT_MAX, (unsigned long long)UINT64_MAX);
    FMT("007 1234 00000000000000ff", "%03d %03d %016llx", 7, 1234, 255ull);
    FMT("   7 000000000000000000000001", "%4u %024d", 7u, 1);
}

static void padding_stands_on_the_right_side_of_a_sign(void **state) {
    (void)state;
    FMT("-0042", "%05d", -42);
    FMT("  -42", "%5d", -42);
}

static void formatting_is_cut_at_every_size_and_tells_the_length_it_wanted(void **state) {
    static const char want[] = "host:10000 -7 00ff [text]";
    char out[64];
    size_t cap;
    (void)state;
    for (cap = 0; cap <= sizeof want + 2; cap++) {
        memset(out, '#', sizeof out);
        assert_int_equal(azri_fmt(out, cap, "%s:%u %d %04x [%.*s]", "host", 10000u, -7, 255u, 4, "textual"),
                         sizeof want - 1);
        if (cap) assert_int_equal(strlen(out), azri_minz(cap - 1, sizeof want - 1));
        if (cap) assert_memory_equal(out, want, azri_minz(cap - 1, sizeof want - 1));
        assert_int_equal(out[azri_minz(cap, sizeof want)], '#');
    }
}

static void an_error_knows_whether_it_may_pass(void **state) {
    static const struct { azredis_status code; int retryable; } row[] = {
        { AZREDIS_E_ARG, 0 }, { AZREDIS_E_NOMEM, 1 }, { AZREDIS_E_LIMIT, 0 }, { AZREDIS_E_STATE, 0 }, { AZREDIS_E_FULL, 1 },
        { AZREDIS_E_FORK, 0 },
        { AZREDIS_E_DNS, 1 }, { AZREDIS_E_NET, 1 }, { AZREDIS_E_TIMEOUT, 1 }, { AZREDIS_E_CLOSED, 1 }, { AZREDIS_E_TLS, 0 },
        { AZREDIS_E_CERT, 0 }, { AZREDIS_E_HTTP, 1 }, { AZREDIS_E_JSON, 1 }, { AZREDIS_E_ENTRA, 0 }, { AZREDIS_E_NO_CREDENTIAL, 0 },
        { AZREDIS_E_TOKEN, 0 }, { AZREDIS_E_RESP, 1 }, { AZREDIS_E_REDIS, 0 }, { AZREDIS_E_AUTH, 0 }, { AZREDIS_E_NOPERM, 0 },
        { AZREDIS_E_CLUSTER, 0 }
    };
    azredis_error e;
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++) {
        memset(&e, 0xee, sizeof e);
        assert_int_equal(azri_fail(&e, row[i].code, "step", "why %d", 1), row[i].code);
        assert_int_equal(azri_fail(NULL, row[i].code, "step", "why %d", 1), row[i].code);
        assert_int_equal(e.code, row[i].code);
        assert_int_equal(e.retryable, row[i].retryable);
        assert_string_equal(e.where, "step");
        assert_string_equal(e.message, "why 1");
        assert_true(!e.os_errno && !e.tls_code && !e.http_status && !e.aadsts && !e.retry_after_ms && !e.request_id[0]);
    }
}

static void more_words_fill_a_message_to_its_end_and_not_beyond(void **state) {
    azredis_error e;
    int i;
    (void)state;
    (void)azri_fail(&e, AZREDIS_E_NET, "w", "begin");
    for (i = 0; i < 100; i++) azri_fail_add(&e, ", %s", "and more");
    assert_int_equal(strlen(e.message), sizeof e.message - 1);
    assert_memory_equal(e.message, "begin, and more, and", 20);
    azri_fail_add(NULL, "%d", 1);
}

/* ---- quoting ---- */

#define R10 "0123456789"
#define R40 R10 R10 R10 R10
#define H "[hidden]"
#define SECRET "s3cr3t! key with blanks"        /* 23 bytes, hardly any run */

static void what_a_peer_said_is_quoted_without_secrets(void **state) {
    static const struct { const char *text, *secret, *want; } row[] = {
        { "", "", "" }, { "plain, text; (fine)", "", "plain, text; (fine)" },
        { "a\r\n\tb\x1b[31m\x01", "", "a   b [31m " }, { "\x7f", "", "?" }, { "caf\xc3\xa9 \xe2\x82\xac", "", "caf?? ???" },
        { R40, "", R40 }, { R40 "x", "", H }, { "is " R40 "- bad", "", "is " H " bad" },
        { "eyJ.eyJ._-+/=~%" R40 ":" R40 "a", "", H ":" H },
        { "id 11111111-2222-3333-4444-555555555555 x", "", "id 11111111-2222-3333-4444-555555555555 x" },
        { SECRET, SECRET, H }, { "no " SECRET "!", SECRET, "no " H "!" }, { SECRET SECRET, SECRET, H H },
        { "s3cr3t! key ", SECRET, H }, { "x: s3cr3t! key with", SECRET, "x: " H },          /* its start */
        { "<key with bla>", SECRET, "<" H ">" }, { "<with blanks>", SECRET, "<with blanks>" },  /* its middle: 12, 11 */
        { "y with blanks", SECRET, H }, { " s3cr3t! key ", SECRET, " " H },                 /* its end */
        { "eyJ.abcdefgh", "eyJ.abcdefgh", H }, { "token eyJ.abcdefgh1 bad", "eyJ.abcdefgh12345", "token " H " bad" }
    };
    char out[AZRI_PEER_TEXT + 64];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++)
        assert_string_equal(azri_quote(out, sizeof out, row[i].text, strlen(row[i].text), azri_str(row[i].secret)),
                            row[i].want);
    assert_string_equal(azri_quote(out, sizeof out, "a\0b", 3, azri_slice(NULL, 0)), "a b");
}

static void short_secrets_are_masked_where_they_stand_whole(void **state) {
    static const struct { const char *text, *secret, *want; } row[] = {
        { "pw pass1 bad", "pass1", "pw " H " bad" }, { "pass1", "pass1", H }, { "xpass1y", "pass1", "x" H "y" }, { "abcd", "abcd", H },
        { "a1b2c3d4e5f", "a1b2c3d4e5f", H }, { "ass1 ss1", "pass1", "ass1 ss1" },
        { "the abc", "abc", "the abc" }             /* under 4 bytes it would eat ordinary words */
    };
    char out[AZRI_PEER_TEXT + 64];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++)
        assert_string_equal(azri_quote(out, sizeof out, row[i].text, strlen(row[i].text), azri_str(row[i].secret)),
                            row[i].want);
}

static void a_text_that_ends_inside_a_secret_is_masked_there(void **state) {
    static const struct { const char *text, *secret, *want; } row[] = {
        { "got s3cr", SECRET, "got " H }, { "got s3cr3t! ke", SECRET, "got " H }, { "got s3c", SECRET, "got s3c" },
        { "s3cr", SECRET, H }, { "got s3cr.", SECRET, "got s3cr." }, { "pw pass", "pass1", "pw " H }
    };
    char out[AZRI_PEER_TEXT + 64];
    size_t i;
    (void)state;
    for (i = 0; i < COUNT(row); i++)
        assert_string_equal(azri_quote(out, sizeof out, row[i].text, strlen(row[i].text), azri_str(row[i].secret)),
                            row[i].want);
}

static void a_quote_ends_after_exactly_its_limit(void **state) {
    char text[400], out[AZRI_PEER_TEXT + 64];
    size_t n, cap;
    (void)state;
    for (n = 0; n < sizeof text; n++) text[n] = n % 10 ? 'a' : ' ';
    for (n = AZRI_PEER_TEXT - 1; n <= AZRI_PEER_TEXT + 1; n++)
        assert_int_equal(strlen(azri_quote(out, sizeof out, text, n, azri_str(""))), azri_minz(n, AZRI_PEER_TEXT));
    assert_memory_equal(out, text, AZRI_PEER_TEXT);
    for (cap = 0; cap < 20; cap++) {
        memset(out, '#', sizeof out);
        (void)azri_quote(out, cap, "ab " R40 "x", 44, azri_str(""));
        assert_memory_equal(out, "ab " H, cap ? azri_minz(cap - 1, 11) : 0);
        assert_int_equal(out[azri_minz(cap, 12)], '#');
        if (cap) assert_int_equal(out[azri_minz(cap - 1, 11)], '\0');
    }
}

/* A secret of any length at any place, the text cut anywhere: 12 bytes in a row never show, nor the whole of it. */
static void no_place_and_no_cut_shows_a_secret(void **state) {
    static const char secret[] = "k9! v#2(x) Qz:7 [m] ;w5 &h8 *p4 @j6 =t3";
    char text[320], out[AZRI_PEER_TEXT + 64], piece[AZRI_SECRET_PIECE + 1];
    size_t at, end, len, i;
    (void)state;
    for (at = 0; at < AZRI_PEER_TEXT + 8; at += at < 8 || at > AZRI_PEER_TEXT - 48 ? 1 : 17)
        for (len = AZRI_SECRET_PIECE; len < sizeof secret; len += 9) {
            memset(text, '.', sizeof text);
            for (i = 0; i < sizeof text; i += 8) text[i] = ' ';
            memcpy(text + at, secret, len);
            for (end = at + AZRI_SECRET_PIECE; end <= at + len + 20; end += end < at + len + 2 ? 1 : 9) {
                (void)azri_quote(out, sizeof out, text, end, azri_slice(secret, len));
                for (i = 0; i + AZRI_SECRET_PIECE <= len; i++) {
                    memcpy(piece, secret + i, AZRI_SECRET_PIECE);
                    piece[AZRI_SECRET_PIECE] = '\0';
                    assert_null(strstr(out, piece));
                }
                if (at < AZRI_PEER_TEXT) assert_non_null(strstr(out, H));
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_deadline_never_wraps_and_never_stays_never),
        cmocka_unit_test(words_are_compared_by_length_and_ascii_case_only),
        cmocka_unit_test(a_short_copy_is_exact_at_every_length),
        cmocka_unit_test(wiping_clears_all_and_nothing_beside),
        cmocka_unit_test(the_hash_tells_apart_what_differs_in_one_bit),
        cmocka_unit_test(a_seed_replays_the_random_numbers),
        cmocka_unit_test(backoff_is_spread_between_its_bounds),
        cmocka_unit_test(freed_and_grown_secrets_are_wiped),
        cmocka_unit_test(a_credential_is_wiped_by_its_last_holder_only),
        cmocka_unit_test(a_buffer_holds_exactly_its_maximum),
        cmocka_unit_test(without_memory_a_buffer_stays_as_it_was),
        cmocka_unit_test(every_verb_formats_as_snprintf_does),
        cmocka_unit_test(padding_stands_on_the_right_side_of_a_sign),
        cmocka_unit_test(formatting_is_cut_at_every_size_and_tells_the_length_it_wanted),
        cmocka_unit_test(an_error_knows_whether_it_may_pass),
        cmocka_unit_test(more_words_fill_a_message_to_its_end_and_not_beyond),
        cmocka_unit_test(what_a_peer_said_is_quoted_without_secrets),
        cmocka_unit_test(short_secrets_are_masked_where_they_stand_whole),
        cmocka_unit_test(a_text_that_ends_inside_a_secret_is_masked_there),
        cmocka_unit_test(a_quote_ends_after_exactly_its_limit),
        cmocka_unit_test(no_place_and_no_cut_shows_a_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
