/* AZREDIS_NO_TEXT: codes, numbers and steps stay, words go. Everything else is tested with them.
 *   cc -std=gnu11 -I. tests/unit/test_no_text.c -lcmocka -lmbedtls -lmbedx509 -lmbedcrypto -pthread */
#define AZREDIS_NO_TEXT
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static int computed;

static AZRI_UNUSED const char *shown(void) {
    computed++;
    return "shown";
}

static void an_error_keeps_code_step_and_verdict(void **state) {
    azredis_error e;
    (void)state;
    memset(&e, 0xee, sizeof e);
    assert_int_equal(azri_fail(&e, AZREDIS_E_TIMEOUT, "redis.tls", "%s took %d ms", shown(), 5), AZREDIS_E_TIMEOUT);
    azri_fail_add(&e, ", %s", shown());
    assert_int_equal(e.code, AZREDIS_E_TIMEOUT);
    assert_string_equal(e.where, "redis.tls");
    assert_int_equal(e.retryable, 1);
    assert_string_equal(e.message, "");
    assert_int_equal(computed, 0);
    assert_int_equal(azri_fail(NULL, AZREDIS_E_ARG, "x", "y"), AZREDIS_E_ARG);
}

static void a_log_line_keeps_level_and_number(void **state) {
    static azri_news n;
    (void)state;
    n.level = AZREDIS_LOG_INFO;
    azri_log(&n, AZREDIS_LOG_DEBUG, AZRI_LOG_PROBE, "%s", shown());
    assert_int_equal(n.count, 0);
    azri_log(&n, AZREDIS_LOG_INFO, AZRI_LOG_READY, "%s", shown());
    assert_int_equal(n.count, 1);
    assert_int_equal(azri_news_at(&n, 0)->level, AZREDIS_LOG_INFO);
    assert_int_equal(azri_news_at(&n, 0)->number, AZRI_LOG_READY);
    assert_string_equal(azri_news_at(&n, 0)->text, "");
    assert_int_equal(computed, 0);
}

static void what_is_refused_is_refused_without_words(void **state) {
    azredis_options o = {0};
    azredis_reply r = {0};
    azredis_client *c;
    (void)state;
    o.host = "localhost";
    o.tcp_port = 1;
    o.protocol = 7;
    c = azredis_open(&o);
    assert_non_null(c);
    assert_int_equal(azredis_command(c, &r, "PING"), AZREDIS_E_ARG);
    assert_int_equal(r.error->code, AZREDIS_E_ARG);
    assert_string_equal(r.error->where, "options.protocol");
    assert_string_equal(r.error->message, "");
    azredis_reply_free(&r);
    azredis_close(c);
    assert_string_equal(azredis_status_text(AZREDIS_E_NET), "");
}

static void a_peers_text_is_not_copied(void **state) {
    char out[32] = "old";
    (void)state;
    assert_string_equal(azri_quote(out, sizeof out, "some text", 9, azri_slice(NULL, 0)), "");
    assert_string_equal(out, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_keeps_code_step_and_verdict), cmocka_unit_test(a_log_line_keeps_level_and_number),
        cmocka_unit_test(what_is_refused_is_refused_without_words), cmocka_unit_test(a_peers_text_is_not_copied)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
