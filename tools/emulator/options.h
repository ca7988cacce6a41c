/*
 * options.h - part of emulator.c: the command line.
 */
static void help(void) {
    int i;
    size_t k;
    puts("usage: emulator [flags]      Entra ID and Azure Managed Redis on a desk\n\n"
         "  --port P               gateway on P, authority on P+1, admin on P+2, then imds, appservice,\n"
         "                         msi, arc, cloudshell, fabric, ml, aks, proxy (10000); 0: free ports\n"
         "  --token-ttl S          life of a token in seconds, 1 or more, 1.5 is fine (3600)\n"
         "  --env-file PATH        where to write the settings for a shell, removed at the end;\n"
         "                         beside it PATH.NAME for each environment below\n"
         "  --assertion-ttl S      life of the federated tokens that it writes to files (3600)\n"
         "  --arc-dir PATH         where Azure Arc's challenge files go; the real agent's directory is\n"
         "                         /var/opt/azcmagent/tokens (default: one of its own)\n"
         "  --proxy-login U:P      user and password that the proxy wants\n"
         "  --redis-server PATH    the server to start (redis-server or redis-check-rdb in PATH)\n"
         "  --access-key           also let the default user in, by AZREDIS_ACCESS_KEY\n"
         "  --tls 1.2|1.3          only this version on the gateway\n"
         "  --ciphers LIST         OpenSSL cipher list for TLS 1.2 on the gateway\n"
         "  --gateway-cert KIND    good, expired, not-yet-valid, wrong-host, self-signed,\n"
         "                         untrusted, ecdsa, long-chain or ends-soon\n"
         "  --authority-cert KIND  the same for the authority\n"
         "  --client-cert PEM      certificates of the application that signs in by one; repeatable\n"
         "  --client-subject PEM   first certificate's subject name, trusted below the last one; repeatable\n"
         "  --set NAME=VALUE       see SETTINGS; repeatable\n"
         "  --fault NAME[=VALUE][*N|*]   arm a fault once, N times, or for ever; repeatable\n"
         "  --quiet                print only errors\n"
         "  -h, --help             this");
    cache_help();
    puts("\nfaults:");
    for (i = 0; i < F_COUNT; i++)
        printf("  %-17s %s%s\n", FAULTS[i].name, FAULTS[i].value == 'n' ? "=VALUE: " : "", FAULTS[i].help);
    puts("\nfaults of an endpoint, ENDPOINT-NAME as in imds-410; ENDPOINT is one of");
    for (i = 0; i < E_COUNT; i++) printf(" %s", ENDPOINTS[i]);
    puts(":");
    for (i = 0; i < K_COUNT; i++)
        printf("  %-13s %s%s%s\n", KINDS[i].name, KINDS[i].value == 'n' ? "=VALUE: " : "", KINDS[i].help,
               KINDS[i].at == AT_MANAGED    ? " (not token, aks, proxy, device)"
               : KINDS[i].at == AT(E_ARC)   ? " (arc)"
               : KINDS[i].at == AT(E_PROXY) ? " (proxy)"
               : KINDS[i].at == AT(E_TOKEN) ? " (token)"
               : KINDS[i].at == AT_STS      ? " (token, aks, device)"
               : KINDS[i].at == AT_PORT     ? " (not proxy, device)"
               : KINDS[i].at == AT_HTTP     ? " (not proxy)"
               : KINDS[i].at == AT_ALL      ? ""
                                            : " (not device)");
    puts("\nCHALLENGES: 1 quoted path, 2 scheme in small letters, 3 another directory, 4 traversal, 5 sub-directory,\n"
         "  6 no directory, 7 two slashes, 8 link, 9 directory, 10 a file of 4096 bytes, 11 of 4097, 12 of none,\n"
         "  13 CR LF in it, 14 NUL in it, 15 no path, 16 another scheme, 17 no header, 18 another extension,\n"
         "  19 none: the first answer is a token\n"
         "\nENVIRONMENTS:");
    for (k = 0; k < ENVIRONMENT_COUNT; k++) printf("  %-16s %s\n", ENVIRONMENTS[k].name, ENVIRONMENTS[k].help);
    puts("\nTo sign in as a person: . PATH.device, begin, and approve the code that is shown (any, the last one) by\n"
         "  curl -X POST \"$EMULATOR_ADMIN/device?user_code=CODE&action=approve\"\n"
         "A certificate to sign in with: . PATH.certificate; the files are $EMULATOR_CERTIFICATE (PEM with key) and\n"
         "  $EMULATOR_PFX (PKCS#12, password $EMULATOR_PFX_PASSWORD).");
    puts("\nSETTINGS of --set, with what they are without it:");
    for (i = 0; i < D_COUNT; i++) printf("  %-17s %7ld  %s\n", DIALS[i].name, DIALS[i].standard, DIALS[i].help);
    puts("\nadmin: GET /counters[?records=0] /token /healthz /redis/info?section=S\n"
         "       POST /fault?name=NAME[&value=V][&count=N|*]   DELETE /fault?name=NAME\n"
         "       GET /request?endpoint=E    the last request of that endpoint, secret headers not shown\n"
         "       POST /rotate?endpoint=E    a new IDENTITY_HEADER or MSI_SECRET for it\n"
         "       POST /assertion {\"claims\":{...},\"life\":S,\"stranger\":true,\"binding\":true,\"write\":true}\n"
         "                                  a federated token of your own; all members optional\n"
         "       POST /device?user_code=CODE&action=approve   or decline, expire; without user_code: the last one's\n"
         "       GET /device                the device codes with their states and polls\n"
         "       POST /revoke[?code=N]      refuses every refresh token of before with that AADSTS code (50173)\n"
         "       POST /set?name=NAME&value=V\n"
         "       POST /certificate[?trust=subject] (PEM)   as --client-cert, --client-subject; DELETE: forgets all\n"
         "       POST /cache?policy=P&entra=on|off&certificate=KIND   of tokens and connections from now on\n"
         "       POST /redis/command (JSON array of strings)   POST /redis/restart");
    exit(0);
}

static void flag_fault(const char *text) {
    char *copy = must(strdup(text)), *count = strrchr(copy, '*'), *value;
    const char *complaint;
    int id;
    if (count) *count++ = 0;
    value = strchr(copy, '=');
    if (value) *value++ = 0;
    id = fault_find(copy);
    if (id < 0) bad_usage("--fault: there is no fault '%s'", copy);
    complaint = fault_arm(id, value, count && !*count ? "*" : count);
    if (complaint) bad_usage("--fault %s: %s", text, complaint);
    free(copy);
}

static const char *flag_kind(const char *flag, const char *value) {
    if (!cert_kind(value)) bad_usage("%s: there is no kind '%s'", flag, value);
    return cert_kind(value);
}

static void flag_set(const char *text) {
    char *copy = must(strdup(text)), *value = strchr(copy, '=');
    const char *complaint;
    if (value) *value++ = 0;
    complaint = dial_set(copy, value ? value : "");
    if (complaint) bad_usage("--set %s: %s", text, complaint);
    free(copy);
}

static void flag_with_value(const char *flag, const char *value) {
    char *end;
    long port;
    if (strcmp(flag, "--token-ttl") == 0) {
        g.ttl = strtod(value, &end);
        if (end == value || *end || !(g.ttl >= 1) || g.ttl > 30 * 86400)
            bad_usage("--token-ttl: '%s' is not a number of seconds from 1 to 2592000", value);
    } else if (strcmp(flag, "--port") == 0) {
        if (!parse_number(value, &port) || port > 65535 - 2 - E_PROXY)
            bad_usage("--port: '%s' is not a port from 0 to %d", value, 65535 - 2 - E_PROXY);
        g.port = (int)port;
    } else if (strcmp(flag, "--tls") == 0) {
        if (strcmp(value, "1.2") != 0 && strcmp(value, "1.3") != 0)
            bad_usage("--tls: '%s' is neither 1.2 nor 1.3", value);
        g.tls = value;
    } else if (strcmp(flag, "--redis-server") == 0) {
        g.redis_path = value;
    } else if (strcmp(flag, "--env-file") == 0) {
        g.env_path = value;
        if (!*value || strlen(value) >= PATH_MAX) bad_usage("--env-file: not a path");
    } else if (strcmp(flag, "--assertion-ttl") == 0) {
        g.assertion_ttl = strtod(value, &end);
        if (end == value || *end || !(g.assertion_ttl >= 1) || g.assertion_ttl > 86400)
            bad_usage("--assertion-ttl: '%s' is not a number of seconds from 1 to 86400", value);
    } else if (strcmp(flag, "--arc-dir") == 0) {
        g.arc_dir = value;
        if (*value != '/' || strlen(value) >= PATH_MAX || access(value, W_OK) != 0)
            bad_usage("--arc-dir: '%s' is no directory that can be written to", value);
    } else if (strcmp(flag, "--proxy-login") == 0) {
        g.proxy_login = value;
        if (!strchr(value, ':') || strlen(value) > 200) bad_usage("--proxy-login: USER:PASSWORD is wanted");
    } else if (strcmp(flag, "--gateway-cert") == 0) {
        g.gateway_cert = flag_kind(flag, value);
    } else if (strcmp(flag, "--authority-cert") == 0) {
        g.authority_cert = flag_kind(flag, value);
    } else if (strcmp(flag, "--ciphers") == 0) {
        g.ciphers = value;
    } else if (strcmp(flag, "--client-cert") == 0 || strcmp(flag, "--client-subject") == 0) {
        client_certs_of_file(value, strcmp(flag, "--client-subject") == 0);
    } else if (strcmp(flag, "--set") == 0) {
        flag_set(value);
    } else {
        flag_fault(value);
    }
}

static void parse_flags(int argc, char **argv) {
    static const char *const valued[] = {
        "--token-ttl",      "--port", "--redis-server", "--env-file", "--gateway-cert",
        "--authority-cert", "--tls",  "--ciphers",      "--fault",    "--assertion-ttl",
        "--arc-dir",        "--proxy-login", "--client-cert", "--client-subject", "--set", "--policy",
        "--entra",          "--cluster",     NULL};
    int i, k;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) help();
        if (strcmp(argv[i], "--quiet") == 0) {
            g.quiet = true;
        } else if (strcmp(argv[i], "--access-key") == 0) {
            g.access_key_on = true;
        } else if (strcmp(argv[i], "--plain") == 0) {
            cache.plain = true;
        } else {
            for (k = 0; valued[k] && strcmp(valued[k], argv[i]) != 0; k++) {}
            if (!valued[k]) bad_usage("unknown flag '%s'", argv[i]);
            if (++i == argc) bad_usage("%s needs a value", valued[k]);
            if (!cache_flag(valued[k], argv[i])) flag_with_value(valued[k], argv[i]);
        }
    }
}
