/* The token machine in virtual time: every promise of its schedule, for lives from 1 s to 30 days. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#define S   1000ull
#define MIN (60 * S)
#define H   (60 * MIN)
#define DAY (24 * H)
#define WALK 30000u
#define SEEDS 200u

static const uint64_t lives[] = { 1 * S, 5 * S, 60 * S, 200 * S, 3599 * S, 2 * H - 1, 2 * H, 4500 * S,
DAY, 28 * H, 30 * DAY };
#define LIVES (sizeof lives / sizeof lives[0])

static azri_rng rng;
static azri_token t;

static void fresh(uint64_t seed) {
    rng.state = seed;
    azri_token_init(&t, &rng, AZREDIS_POLICY_DEFAULT);
}

static azri_token_news fetch(uint64_t now, uint64_t life, uint64_t refresh, uint64_t hash) {
    uint32_t claim = azri_token_claim(&t, now, WALK);
    assert_true(claim != 0);
    return azri_token_got(&t, claim, now, now, life, refresh, hash);
}

static void fail_fetch(uint64_t now, int retryable, uint32_t retry_after) {
    uint32_t claim = azri_token_claim(&t, now, WALK);
    assert_true(claim != 0);
    azri_token_failed(&t, claim, now, retryable, retry_after);
}

static void test_begin(void **state) {
    (void)state;
    fresh(1);
    assert_true(azri_token_due(&t, 0));
    assert_int_equal(azri_token_deadline(&t, 77), 77);
    assert_false(azri_token_live(&t, 0));
    assert_true(azri_token_left(&t, 0) == AZREDIS_UNKNOWN);
}

/* Soft point: refresh_in, half, or 70 %; jitter only earlier, by a tenth of the life or 30 min at most. */
static void test_soft_point(void **state) {
    static const struct { uint64_t life, refresh, soft; } row[] = {
        { 3599 * S, 0, 2519300 }, { 86400 * S, 43200 * S, 43200 * S }, { 86400 * S, 0, 43200 * S },
        { 7200 * S, 0, 3600 * S }, { 7199 * S, 0, 5039300 }, { 200 * S, 0, 140 * S }, { 3600 * S,
        7200 * S, 2520 * S },
        { 1000 * S, 0, 700 * S }, { 5 * S, 0, 3500 }, { 1 * S, 0, 700 }, { 30 * DAY, 0, 15 * DAY },
        { 3600 * S, 3600 * S, 2520 * S }, { 3600 * S, 1800 * S, 1800 * S },
        { 3600 * S, 3599 * S, 3300 * S },        /* never later than the headroom */
    };
    size_t i;
    uint64_t seed;
    (void)state;
    for (i = 0; i < sizeof row / sizeof row[0]; i++) {
        uint64_t span = azri_min64(row[i].life / 10, 30 * MIN), lo = UINT64_MAX, hi = 0;
        for (seed = 0; seed < SEEDS; seed++) {
            fresh(seed);
            assert_int_equal(fetch(1000, row[i].life, row[i].refresh, 1), AZRI_TOKEN_NEW);
            assert_int_equal(t.expires_at, 1000 + row[i].life);
            assert_true(t.soft_at <= 1000 + row[i].soft && t.soft_at >= 1000 + row[i].soft - span);
            assert_int_equal(t.next_try, t.soft_at);
            lo = azri_min64(lo, t.soft_at);
            hi = azri_max64(hi, t.soft_at);
        }
        assert_true(hi - lo > span * 8 / 10 && hi - lo <= span);
    }
}

static void test_small_refresh_in_is_no_storm(void **state) {
    (void)state;
    fresh(3);
    (void)fetch(0, DAY, 1, 1);
    assert_true(t.next_try >= 30 * S);
    fresh(3);
    (void)fetch(0, 5 * S, 1, 1);
    assert_int_equal(t.next_try, 250);
}

static void test_headroom(void **state) {
    (void)state;
    fresh(1);
    (void)fetch(0, 3600 * S, 0, 1);
    assert_int_equal(azri_token_headroom_at(&t), 3300 * S);
    fresh(1);
    (void)fetch(0, 4 * S, 0, 1);
    assert_int_equal(azri_token_headroom_at(&t), 3 * S);
    assert_int_equal(azri_token_left(&t, 1000), 3000);
    assert_int_equal(azri_token_left(&t, 5000), -1000);
    assert_true(azri_token_live(&t, 3999));
    assert_false(azri_token_live(&t, 4000));
}

static void test_life_is_from_sending_and_clamped(void **state) {
    uint32_t claim;
    (void)state;
    fresh(1);
    claim = azri_token_claim(&t, 100 * S, WALK);
    assert_int_equal(azri_token_got(&t, claim, 110 * S, 100 * S, 60 * S, 0, 1), AZRI_TOKEN_NEW);
    assert_int_equal(t.expires_at, 160 * S);
    fresh(1);
    assert_int_equal(fetch(0, UINT64_MAX, 0, 1), AZRI_TOKEN_NEW);
    assert_int_equal(t.expires_at, 30 * DAY);
}

static void test_one_claim(void **state) {
    uint32_t a, b;
    (void)state;
    fresh(1);
    a = azri_token_claim(&t, 0, WALK);
    assert_true(a != 0);
    assert_int_equal(azri_token_claim(&t, 0, WALK), 0);
    assert_int_equal(azri_token_claim(&t, WALK + 4999, WALK), 0);
    assert_int_equal(azri_token_deadline(&t, WALK), WALK + 5000);
    b = azri_token_claim(&t, WALK + 5000, WALK);
    assert_true(b != 0 && b != a);
    azri_token_failed(&t, a, WALK + 5000, 1, 0);                 /* too late to count */
    assert_int_equal(t.failures, 0);
    azri_token_drop(&t, a, WALK + 5000);
    assert_int_equal(azri_token_claim(&t, WALK + 5000, WALK), 0);
    azri_token_drop(&t, b, WALK + 5001);
    assert_true(azri_token_due(&t, WALK + 5001));
    assert_true(azri_token_claim(&t, WALK + 5001, AZREDIS_NEVER) != 0);
    assert_int_equal(azri_token_deadline(&t, DAY), DAY + AZRI_WAIT_MAX);
}

static void test_claim_numbers_skip_zero(void **state) {
    (void)state;
    fresh(1);
    t.claims = UINT32_MAX;
    assert_int_equal(azri_token_claim(&t, 0, WALK), 1);
}

static void test_late_results(void **state) {
    uint32_t a, b;
    (void)state;
    fresh(1);
    a = azri_token_claim(&t, 0, WALK);
    b = azri_token_claim(&t, 40 * S, WALK);
    assert_int_equal(azri_token_got(&t, a, 41 * S, 0, H, 0, 1), AZRI_TOKEN_NEW);    /* late,
        but there is nothing else */
    assert_int_equal(azri_token_claim(&t, 42 * S, WALK), 0);
    assert_int_equal(azri_token_got(&t, b, 43 * S, 40 * S, H, 0, 2), AZRI_TOKEN_NEW);
    assert_int_equal(t.expires_at, 40 * S + H);
    assert_int_equal(azri_token_got(&t, a, 44 * S, 0, H, 0, 3), AZRI_TOKEN_STALE);  /* expires earlier */
    assert_int_equal(t.hash, 2);
}

static void test_retry_delays(void **state) {
    uint64_t seed, now, lo, hi, end;
    uint32_t n;
    (void)state;
    for (seed = 0; seed < SEEDS; seed++) {
        fresh(seed);
        for (now = 0, n = 0; n < 20; n++) {                      /* no token: cap 30 s */
            fail_fetch(now, 1, 0);
            assert_int_equal(t.failures, n + 1);
            assert_true(t.next_try - now >= 1 * S && t.next_try - now <= azri_min64(30 * S, (2 * S) << n));
            now = t.next_try;
        }
        fresh(seed);
        (void)fetch(0, DAY, 0, 1);
        for (now = t.next_try, lo = hi = end = 0; now < 2 * DAY; now = t.next_try) {
            fail_fetch(now, 1, 0);
            if (now >= DAY) end = azri_max64(end, t.next_try - now);
            else if (now >= DAY - 5 * MIN) hi = azri_max64(hi, t.next_try - now);
            else lo = azri_max64(lo, t.next_try - now);
            assert_int_equal(azri_token_live(&t, now), now < DAY);
        }
        assert_true(lo > 55 * S && lo <= 60 * S);
        assert_true(hi > 8 * S && hi <= 10 * S);
        assert_true(end > 29 * S && end <= 30 * S);
    }
}

static void test_retry_scales(void **state) {
    size_t i;
    uint64_t now;
    (void)state;
    for (i = 0; i < LIVES; i++) {
        fresh(i);
        (void)fetch(0, lives[i], 0, 1);
        for (now = t.next_try; now < 2 * lives[i] && t.failures < 1000; now = t.next_try) {
            fail_fetch(now, 1, 0);
            assert_true(t.next_try > now && t.next_try - now <= lives[i] / 10);
        }
    }
}

static void test_retry_after_is_a_floor(void **state) {
    (void)state;
    fresh(1);
    fail_fetch(0, 1, 50000);
    assert_int_equal(t.next_try, 50000);
    assert_int_equal(azri_token_deadline(&t, 0), 30000);
    fresh(1);
    fail_fetch(0, 1, 1);
    assert_true(t.next_try >= 1000);
    fresh(1);
    fail_fetch(0, 1, AZREDIS_NEVER);
    assert_int_equal(t.next_try, DAY);
}

static void test_slow_lane(void **state) {
    static const uint64_t lane[] = { MIN, 5 * MIN, 15 * MIN, 15 * MIN, 15 * MIN };
    uint64_t now = 0, delay;
    size_t i;
    (void)state;
    fresh(7);
    for (i = 0; i < 5; i++, now = t.next_try) {
        fail_fetch(now, 0, 0);
        delay = t.next_try - now;
        assert_true(delay <= lane[i] && delay >= lane[i] * 9 / 10);
    }
    (void)fetch(now, H, 0, 1);
    assert_int_equal(t.slow, 0);
    assert_int_equal(t.failures, 0);
    for (i = 0; i < 5; i++) {                                     /* a live token: a tenth of its life */
        fail_fetch(t.next_try, 0, 0);
        assert_true(t.next_try - t.planned_at <= H / 10);
    }
    fresh(7);
    (void)fetch(0, 5 * S, 0, 1);
    fail_fetch(t.next_try, 0, 0);
    assert_true(t.next_try - t.planned_at <= 500);
    fail_fetch(20 * S, 0,
               0);                                          /* dead: no more haste than without one */
    assert_true(t.next_try - t.planned_at >= 4 * MIN);
}

static void test_failure_leaves_the_token(void **state) {
    azri_token before;
    (void)state;
    fresh(1);
    (void)fetch(0, H, 0, 9);
    before = t;
    fail_fetch(t.next_try, 1, 0);
    assert_true(azri_token_live(&t, H - 1));
    assert_int_equal(t.hash, 9);
    assert_int_equal(t.expires_at, before.expires_at);
}

static void test_same_token(void **state) {
    uint64_t now, left;
    (void)state;
    fresh(1);
    (void)fetch(0, DAY, 0, 5);
    for (now = t.next_try; now < DAY; now = t.next_try) {
        left = DAY - now;
        fail_fetch(now, 1, 0);
        now = t.next_try;
        if (now >= DAY) break;
        left = DAY - now;
        assert_int_equal(fetch(now, left, 0, 5), AZRI_TOKEN_SAME);
        assert_int_equal(t.failures, 0);
        assert_int_equal(t.expires_at, DAY);
        assert_int_equal(t.next_try, azri_min64(DAY, now + azri_max64(left / 2, 30 * S)));
    }
    assert_int_equal(fetch(azri_max64(now, DAY), 0, 0, 5),
                     AZRI_TOKEN_STALE);      /* expired: an ordinary failure */
    assert_int_equal(t.failures, 1);
    fresh(1);
    (void)fetch(0, 5 * S, 0, 5);
    assert_int_equal(fetch(4900, 100, 0, 5), AZRI_TOKEN_SAME);
    assert_int_equal(t.next_try, 5000);                          /* a twentieth of the life is past the end */
}

static void test_older_token_is_not_taken(void **state) {
    (void)state;
    fresh(1);
    (void)fetch(0, H, 0, 1);
    assert_int_equal(fetch(50 * MIN, 5 * MIN, 0, 2), AZRI_TOKEN_STALE);
    assert_int_equal(t.hash, 1);
    assert_int_equal(t.next_try, 55 * MIN);
}

static void test_expired_token_is_not_taken(void **state) {
    uint32_t claim;
    (void)state;
    fresh(1);
    claim = azri_token_claim(&t, 100 * S, WALK);
    assert_int_equal(azri_token_got(&t, claim, 120 * S, 100 * S, 20 * S, 0, 1), AZRI_TOKEN_STALE);
    assert_false(t.held);
    assert_int_equal(t.failures, 1);
    assert_true(t.next_try > 120 * S);
}

static void test_rejected(void **state) {
    uint64_t now = 10 * S;
    (void)state;
    fresh(1);
    (void)fetch(0, H, 0, 1);
    azri_token_rejected(&t, now, 99);                            /* a session used an older one */
    assert_true(azri_token_live(&t, now));
    azri_token_rejected(&t, now, 1);
    assert_false(azri_token_live(&t, now));
    assert_true(azri_token_due(&t, now));                        /* one forced fetch, at once */
    assert_int_equal(fetch(now, H, 0, 1), AZRI_TOKEN_STALE);     /* the same hash: slow lane */
    assert_true(t.next_try - now >= 54 * S && t.next_try - now <= 60 * S);
    azri_token_rejected(&t, now, 1);                             /* other sessions say so too */
    assert_true(t.next_try - now >= 54 * S);
    now = t.next_try;
    assert_int_equal(fetch(now, H, 0, 1), AZRI_TOKEN_NEW);       /* the policy may have been mended: try it */
    assert_true(azri_token_live(&t, now));
    azri_token_rejected(&t, now, 1);
    assert_true(t.next_try - now >= 270 * S && t.next_try - now <= 300 * S);
    now = t.next_try;
    assert_int_equal(fetch(now, H, 0, 2), AZRI_TOKEN_NEW);
    azri_token_rejected(&t, now, 2);
    assert_true(t.next_try - now >= 810 * S && t.next_try - now <= 900 * S);
    now = t.next_try;
    assert_int_equal(fetch(now, H, 0, 3), AZRI_TOKEN_NEW);
    azri_token_accepted(&t, 2);                                  /* of an older one: says nothing */
    assert_int_equal(t.slow, 3);
    azri_token_accepted(&t, 3);
    azri_token_rejected(&t, now, 3);                             /* forgiven: one forced fetch again */
    assert_true(azri_token_due(&t, now));
}

/* Several servers, one of which does not know the identity. */
static void test_rejected_by_one(void **state) {
    uint64_t now = 10 * S, renewal;
    (void)state;
    fresh(1);
    (void)fetch(0, H, 0, 1);
    azri_token_rejected(&t, now, 1);
    assert_false(azri_token_live(&t, now));                      /* not shown to others while a fresh one is fetched */
    azri_token_failed(&t, azri_token_claim(&t, now, WALK), now, 1, 0);
    assert_true(azri_token_live(&t, now));                       /* which may take long */
    now = t.next_try;
    assert_int_equal(fetch(now, H, 0, 2), AZRI_TOKEN_NEW);
    azri_token_rejected(&t, now, 2);
    assert_true(azri_token_live(&t, now));                       /* it is not the token's fault */
    assert_true(t.next_try - now >= 54 * S && t.next_try - now <= 60 * S);
    now = t.next_try;
    assert_int_equal(fetch(now, H / 2, 0, 3), AZRI_TOKEN_NEW);   /* another try, though it ends earlier */
    renewal = t.next_try;
    azri_token_rejected(&t, renewal - 10 * S, 3);
    assert_int_equal(t.next_try, renewal);                       /* the others' token is renewed in time */
    azri_token_forgive(&t);
    assert_int_equal(fetch(renewal, H, 0, 4), AZRI_TOKEN_NEW);
    azri_token_rejected(&t, renewal, 4);
    assert_true(azri_token_due(&t, renewal));                    /* the one that refused is gone: begins anew */
}

/* An identity that Redis does not know must not fetch fresh tokens in a loop. */
static void test_rejections_are_no_storm(void **state) {
    uint64_t now = 0, hash = 1;
    int fetches = 0;
    (void)state;
    fresh(1);
    while (now < DAY) {
        assert_int_equal(fetch(now, H, 0, hash), AZRI_TOKEN_NEW);
        azri_token_rejected(&t, now, hash++);
        now = t.next_try;
        fetches++;
    }
    assert_in_range(fetches, 90, 120);
}

static void test_seed_policy(void **state) {
    uint64_t now;
    (void)state;
    fresh(1);
    t.policy = AZREDIS_POLICY_SEED;
    (void)fetch(1000, 3600 * S, 1800 * S, 1);
    assert_int_equal(t.soft_at, 1000 + 56 * MIN);                /* first 2 min tick with < 5 min left */
    assert_int_equal(t.next_try, t.soft_at);
    now = t.next_try;
    (void)fetch(now, 3601 * S, 0, 2);
    assert_int_equal(t.next_try - now, 56 * MIN);
    fresh(1);
    t.policy = AZREDIS_POLICY_SEED;
    (void)fetch(0, 5 * S, 0, 1);                                 /* scaled: a quarter, looked at each tenth */
    assert_int_equal(t.next_try, 4000);
    fresh(1);
    t.policy = AZREDIS_POLICY_SEED;
    (void)azri_token_got(&t, azri_token_claim(&t, 59 * MIN, WALK), 59 * MIN, 0, H, 0, 1);
    assert_int_equal(t.next_try, 60 * MIN);                      /* the tick, but not past the end */
}

/* For ever: one fetch between soft point and headroom keeps the token alive, and memory is this struct. */
static void test_rotations(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < LIVES; i++) {
        uint64_t now = 0, n;
        fresh(100 + i);
        (void)fetch(now, lives[i], 0, 0);
        for (n = 1; n <= 100000; n++) {
            assert_true(t.next_try > now);
            now = t.next_try;
            assert_true(now <= azri_token_headroom_at(&t));
            assert_true(azri_token_due(&t, now) && !azri_token_due(&t, now - 1));
            assert_int_equal(fetch(now, lives[i], 0, n), AZRI_TOKEN_NEW);
        }
    }
}

/* Whatever happens in whatever order: a next deadline, and at most one claim. */
static void test_random_walk(void **state) {
    uint64_t seed, now, n, hash = 1;
    (void)state;
    for (seed = 0; seed < 20; seed++) {
        azri_rng r;
        uint32_t claim[4] = { 0, 0, 0, 0 };
        r.state = seed;
        fresh(seed * 7 + 1);
        t.policy = seed % 2 ? AZREDIS_POLICY_SEED : AZREDIS_POLICY_DEFAULT;
        for (now = DAY * 100, n = 0; n < 20000; n++) {
            size_t k = (size_t)azri_rng_below(&r, 4);
            uint64_t at = azri_token_deadline(&t, now), life = lives[azri_rng_below(&r, LIVES)];
            assert_true(at >= now && at <= now + AZRI_WAIT_MAX);
            assert_true(azri_token_due(&t, now) == (at == now) || azri_token_claimed(&t, now));
            switch (azri_rng_below(&r, 9)) {
            case 0: case 1:
                claim[k] = azri_token_claim(&t, now, WALK);
                if (claim[k]) assert_int_equal(azri_token_claim(&t, now, WALK), 0);
                break;
            case 2: case 3: (void)azri_token_got(&t, claim[k], now, now - azri_rng_below(&r, 20 * S),
                                                 life, 0, hash++); break;
            case 4: azri_token_failed(&t, claim[k], now, (int)azri_rng_below(&r, 2),
                                      (uint32_t)azri_rng_below(&r, 5000)); break;
            case 5: azri_token_rejected(&t, now, t.hash); break;
            case 6: azri_token_accepted(&t, t.hash); break;
            case 7: azri_token_drop(&t, claim[k], now); break;
            default: now = azri_rng_below(&r, 50) ? at + azri_rng_below(&r, 100)
                         : azri_rng_below(&r, 2) ? now + azri_rng_below(&r, 3 * DAY)
                             : now - azri_rng_below(&r, DAY); break;
            }
            if (azri_token_live(&t, now)) assert_true(azri_token_left(&t, now) > 0);
            assert_true(azri_token_claimed(&t, now) || t.next_try <= t.planned_at + 30 * DAY);
        }
    }
}

static void test_case27_clock_jumps(void **state) {
    uint32_t claim;
    (void)state;
    fresh(1);
    (void)fetch(10 * DAY, DAY, 0, 1);
    assert_true(azri_token_due(&t, 12 * DAY));                   /* slept through its end */
    assert_false(azri_token_live(&t, 12 * DAY));
    assert_false(azri_token_due(&t, 10 * DAY - 29 * S));         /* a pump that read the clock a little ago */
    assert_true(azri_token_live(&t, 10 * DAY - 29 * S));
    assert_true(azri_token_due(&t, 9 * DAY));                    /* went back: the plan is void,
        and so is the token */
    assert_false(azri_token_live(&t, 9 * DAY));
    assert_int_equal(fetch(9 * DAY, DAY, 0, 2), AZRI_TOKEN_NEW);
    assert_true(t.next_try > 9 * DAY && t.next_try < 10 * DAY);
    claim = azri_token_claim(&t, 10 * DAY, WALK);
    assert_true(azri_token_claim(&t, 5 * DAY, WALK) != claim);   /* the claim is from the future: void */
    fresh(1);
    claim = azri_token_claim(&t, DAY, WALK);
    assert_int_equal(azri_token_got(&t, claim, H, DAY, H, 0, 1),
                     AZRI_TOKEN_NEW); /* jumped back during the fetch */
    assert_int_equal(t.expires_at, 2 * H);
}

static void test_recovery_after_outage(void **state) {
    size_t i;
    (void)state;
    for (i = 0; i < LIVES; i++) {
        uint64_t now, outage_end = 3 * lives[i] + H;
        fresh(i + 50);
        (void)fetch(0, lives[i], 0, 1);
        for (now = t.next_try; now < outage_end; now = t.next_try) fail_fetch(now, 1, 0);
        assert_true(now - outage_end <= 30 * S);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin), cmocka_unit_test(test_soft_point),
        cmocka_unit_test(test_small_refresh_in_is_no_storm), cmocka_unit_test(test_headroom),
        cmocka_unit_test(test_life_is_from_sending_and_clamped), cmocka_unit_test(test_one_claim),
        cmocka_unit_test(test_claim_numbers_skip_zero), cmocka_unit_test(test_late_results),
        cmocka_unit_test(test_retry_delays), cmocka_unit_test(test_retry_scales),
        cmocka_unit_test(test_retry_after_is_a_floor), cmocka_unit_test(test_slow_lane),
        cmocka_unit_test(test_failure_leaves_the_token), cmocka_unit_test(test_same_token),
        cmocka_unit_test(test_older_token_is_not_taken), cmocka_unit_test(test_expired_token_is_not_taken),
        cmocka_unit_test(test_rejected), cmocka_unit_test(test_rejected_by_one),
        cmocka_unit_test(test_rejections_are_no_storm),
        cmocka_unit_test(test_seed_policy), cmocka_unit_test(test_rotations),
            cmocka_unit_test(test_random_walk),
        cmocka_unit_test(test_case27_clock_jumps), cmocka_unit_test(test_recovery_after_outage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
