/* cc -I. examples/prometheus.c -o prometheus -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./prometheus HOST[:PORT] 9121
 *
 * Serves what azredis_stats knows at http://127.0.0.1:9121/metrics, in the text format of Prometheus. Without arguments the
 * endpoint is AZREDIS_ENDPOINT and the port a free one. Signs in by AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static void metric(FILE *f, const char *name, const char *type, const char *help, double value) {
    fprintf(f, "# HELP azredis_%s %s\n# TYPE azredis_%s %s\nazredis_%s %.17g\n", name, help, name, type, name, value);
}

static void left(FILE *f, const char *name, const char *help, int64_t ms) {     /* no number where there is none */
    if (ms != AZREDIS_UNKNOWN) metric(f, name, "gauge", help, (double)ms / 1000);
}

/* Each bucket has what the smaller ones have, too. */
static void histogram(FILE *f, const char *name, const char *help, const azredis_latency *l) {
    static const int bounds[] = AZREDIS_LATENCY_BOUNDS;
    unsigned long long n = 0;
    size_t i;
    fprintf(f, "# HELP azredis_%s %s\n# TYPE azredis_%s histogram\n", name, help, name);
    for (i = 0; i < AZREDIS_LATENCY_PLACES - 1; i++)
        fprintf(f, "azredis_%s_bucket{le=\"%g\"} %llu\n", name, bounds[i] / 1000.0, n += l->place[i]);
    fprintf(f, "azredis_%s_bucket{le=\"+Inf\"} %llu\nazredis_%s_sum %.17g\nazredis_%s_count %llu\n", name,
            (unsigned long long)l->count, name, (double)l->sum_ms / 1000, name, (unsigned long long)l->count);
}

static void metrics(FILE *f, const azredis_stats_data *d) {
    metric(f, "connected", "gauge", "1 while commands flow.", d->connected);
    metric(f, "commands_waiting", "gauge", "Commands not written yet.", d->waiting);
    metric(f, "commands_in_flight", "gauge", "Commands written and unanswered.", d->in_flight);
    metric(f, "commands_ok_total", "counter", "Commands that succeeded.", (double)d->commands_ok);
    metric(f, "commands_failed_total", "counter", "Commands that failed.", (double)d->commands_failed);
    metric(f, "received_bytes_total", "counter", "Bytes of answers and messages.", (double)d->bytes_in);
    metric(f, "sent_bytes_total", "counter", "Bytes of commands.", (double)d->bytes_out);
    metric(f, "messages_total", "counter", "Messages that arrived.", (double)d->messages);
    metric(f, "messages_lost_total", "counter", "Messages that found a full queue.", (double)d->messages_lost);
    metric(f, "connects_total", "counter", "Connections made.", d->connects);
    metric(f, "reconnects_total", "counter", "Connections made after one was lost.", d->reconnects);
    metric(f, "handovers_total", "counter", "Connections replaced without a break.", d->handovers);
    metric(f, "reauths_total", "counter", "New tokens that a connection accepted.", d->reauths);
    metric(f, "reauth_failures_total", "counter", "New tokens that it did not.", d->reauth_failures);
    metric(f, "tokens_total", "counter", "Tokens fetched.", d->tokens);
    metric(f, "token_failures_total", "counter", "Token requests that failed.", d->token_failures);
    left(f, "token_left_seconds", "Until the token expires.", d->token_left_ms);
    left(f, "outage_budget_seconds", "So long service goes on without Entra.", d->outage_budget_ms);
    histogram(f, "auth_seconds", "AUTH until it was accepted.", &d->auth_latency);
    histogram(f, "command_seconds", "Commands from written to answered.", &d->command_latency);
}

int main(int argc, char **argv) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0), peer, ok;
    azredis_options o = {.config = argc > 1 ? argv[1] : getenv("AZREDIS_ENDPOINT")};
    azredis_client *redis = azredis_open(&o);
    at.sin_port = htons((uint16_t)(argc > 2 ? strtoul(argv[2], NULL, 10) : 0));
    ok = azredis_start(redis) == AZREDIS_OK && !bind(fd, (struct sockaddr *)&at, len) && !listen(fd, 8);
    if (ok && getsockname(fd, (struct sockaddr *)&at, &len) == 0) printf("http://127.0.0.1:%d/metrics\n", ntohs(at.sin_port));
    fflush(stdout);
    signal(SIGPIPE, SIG_IGN);
    while (ok && (peer = accept(fd, NULL, NULL)) >= 0) {
        char request[2048];
        azredis_stats_data d;
        FILE *f = fdopen(peer, "w");
        azredis_command(redis, NULL, "PING");           /* a look at the server, so that there is something to see */
        azredis_stats(redis, &d);
        if (recv(peer, request, sizeof request, 0) > 0 &&
            fputs("HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n", f) >= 0) metrics(f, &d);
        fclose(f);
    }
    close(fd);
    return !ok;
}
