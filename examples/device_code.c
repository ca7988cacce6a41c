/* cc -I. examples/device_code.c -o device_code -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
 * ./device_code HOST[:PORT] FILE [SECONDS]
 *
 * No secret on the device: a person signs in once, with a browser anywhere. FILE keeps the refresh token, readable by
 * its owner alone, so that a restart needs nobody. Whoever reads it is that person to Redis: encrypt it if the disk can
 * be taken away. AZURE_CLIENT_ID and AZURE_TENANT_ID: your registration, with public client flows and Redis allowed. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIGN_IN_MS = 900000, EVERY_MS = 1000 };

/* Never printed by the library itself: where a person sees it, you know. */
static void on_event(const azredis_event *ev, void *user) {
    (void)user;
    if (ev->type == AZREDIS_EV_DEVICE_CODE)
        fprintf(stderr, "%s (%d s)\n", ev->text, (int)(ev->new_left_ms / 1000));
    else if (ev->type == AZREDIS_EV_LOG) azredis_print_event(ev, NULL);
}

static azredis_status load(void *file, const char *scope, azredis_fetched *out) {
    int fd = open((const char *)file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    struct stat s;
    ssize_t n = -1;
    (void)scope;
    if (fd < 0 && errno == ENOENT) return AZREDIS_AGAIN;        /* nothing is kept yet */
    if (fd >= 0 && fstat(fd, &s) == 0 && (s.st_mode & 077) == 0) n = read(fd, out->token, out->cap);
    if (n < 0) snprintf(out->reason, sizeof out->reason, "the file cannot be read, or others can read it, too");
    if (fd >= 0) close(fd);
    out->len = n > 0 ? (size_t)n : 0;
    return n < 0 ? AZREDIS_E_STATE : AZREDIS_OK;
}

/* A new file takes the place of the old one in one step: whenever the power goes, there is one that is whole. */
static azredis_status save(void *file, const char *refresh_token, size_t len) {
    char name[4096];
    int fd, ok;
    if (snprintf(name, sizeof name, "%s.new", (const char *)file) >= (int)sizeof name) return AZREDIS_E_ARG;
    unlink(name);                                               /* of a run that was ended here */
    fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ok = fd >= 0 && write(fd, refresh_token, len) == (ssize_t)len && fsync(fd) == 0;
    if (fd >= 0 && close(fd) != 0) ok = 0;
    if (ok && rename(name, (const char *)file) == 0) return AZREDIS_OK;
    if (fd >= 0) unlink(name);
    return AZREDIS_E_STATE;
}

int main(int argc, char **argv) {
    azredis_auth_options id = {0};
    azredis_options o = {0};
    azredis_reply r = {0};
    azredis_error why;
    int i, seconds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 10, failed = 0;
    if (argc < 3) return fprintf(stderr, "usage: device_code HOST[:PORT] FILE [SECONDS]\n"), 2;
    id.identity = AZREDIS_ID_DEVICE_CODE;
    id.client_id = getenv("AZURE_CLIENT_ID");
    id.tenant_id = getenv("AZURE_TENANT_ID");
    id.load_refresh = load;
    id.save_refresh = save;
    id.refresh_user = argv[2];
    o.host = argv[1];
    o.identity = &id;
    o.on_event = on_event;
    azredis_client *c = azredis_open(&o);
    if (azredis_connect(c, SIGN_IN_MS, &why) != AZREDIS_OK) failed = printf("%s\n", why.message);
    for (i = 0; i < seconds && !failed; i++) {
        if (azredis_command(c, &r, "INCR", "azredis:device") != AZREDIS_OK) failed = printf("%s\n", r.error->message);
        else printf("%lld\n", (long long)r.value->as.integer);
        azredis_wait(c, EVERY_MS);
    }
    azredis_reply_free(&r);
    azredis_close(c);
    return failed != 0;
}
