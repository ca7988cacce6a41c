/*
 * settings.h - part of emulator.c: the files that tell a shell or a test where everything is. The file of
 * --env-file is the environment of an application with a secret; beside it lies one for each other
 * place a program can run in, named FILE.NAME. Each first unsets what the others set.
 */
static void set_value(FILE *f, const char *name, const char *format, ...) PRINTF_LIKE(3, 4);
static void set_value(FILE *f, const char *name, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(f, "export %s='", name);
    vfprintf(f, format, args);
    fputs("'\n", f);
    va_end(args);
}

static void set_address(FILE *f, const char *name, int at, const char *scheme, const char *path) {
    set_value(f, name, "%s://127.0.0.1:%d%s", scheme, g.endpoint[at].port, path);
}

static void set_app(FILE *f, enum who who) {
    set_value(f, "AZURE_AUTHORITY_HOST", "%s", g.authority_url);
    set_value(f, "AZURE_TENANT_ID", "%s", g.tenant);
    set_value(f, "AZURE_CLIENT_ID", "%s", g.who[who].client);
}

static void set_environment(FILE *f) {
    set_app(f, P_SECRET);
    set_value(f, "AZURE_CLIENT_SECRET", "%s", g.secret);
}

/* In PEM with the key; the same in PKCS#12; and the application that trusts its subject name, not its print. */
static void set_certificate(FILE *f) {
    set_app(f, P_CERTIFICATE);
    set_value(f, "AZURE_CLIENT_CERTIFICATE_PATH", "%s/client.pem", g.dir);
}

static void set_pfx(FILE *f) {
    set_app(f, P_CERTIFICATE);
    set_value(f, "AZURE_CLIENT_CERTIFICATE_PATH", "%s/client.pfx", g.dir);
    set_value(f, "AZURE_CLIENT_CERTIFICATE_PASSWORD", "%s", g.pfx_password);
}

static void set_subject(FILE *f) {
    set_app(f, P_SUBJECT);
    set_value(f, "AZURE_CLIENT_CERTIFICATE_PATH", "%s/client.pem", g.dir);
    set_value(f, "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", "true");
}

/* A person at another machine. */
static void set_device(FILE *f) { set_app(f, P_DEVICE); }

static void set_workload(FILE *f) {
    set_app(f, P_WORKLOAD);
    set_value(f, "AZURE_FEDERATED_TOKEN_FILE", "%s/%s", g.dir, ASSERTION_FILES[0].file);
}

static void set_binding(FILE *f) {
    set_app(f, P_BINDING);
    set_value(f, "AZURE_FEDERATED_TOKEN_FILE", "%s/%s", g.dir, ASSERTION_FILES[1].file);
    set_address(f, "AZURE_KUBERNETES_TOKEN_PROXY", E_AKS, "https", AKS_PATH);
    set_value(f, "AZURE_KUBERNETES_CA_FILE", "%s/aks-ca.pem", g.dir);
    set_value(f, "AZURE_KUBERNETES_SNI_NAME", AKS_SNI);
}

static void set_imds(FILE *f) { set_address(f, "AZURE_POD_IDENTITY_AUTHORITY_HOST", E_IMDS, "http", ""); }

/* The managed identity is that of EMULATOR_USER_CLIENT_ID; its token then stands for the application's secret. */
static void set_exchange(FILE *f) {
    set_app(f, P_EXCHANGE);
    set_imds(f);
}

static void set_appservice(FILE *f) {
    set_address(f, "IDENTITY_ENDPOINT", E_APPSERVICE, "http", "/msi/token");
    set_value(f, "IDENTITY_HEADER", "%s", g.endpoint[E_APPSERVICE].header);
}

static void set_msi(FILE *f) {
    set_address(f, "MSI_ENDPOINT", E_MSI, "http", "/msi/token/");
    set_value(f, "MSI_SECRET", "%s", g.endpoint[E_MSI].header);
}

static void set_arc(FILE *f) {
    set_address(f, "IDENTITY_ENDPOINT", E_ARC, "http", "/metadata/identity/oauth2/token");
    set_address(f, "IMDS_ENDPOINT", E_ARC, "http", "");
}

static void set_cloudshell(FILE *f) { set_address(f, "MSI_ENDPOINT", E_CLOUDSHELL, "http", "/oauth2/token"); }

static void set_fabric(FILE *f) {
    set_address(f, "IDENTITY_ENDPOINT", E_FABRIC, "https", "/msi/token");
    set_value(f, "IDENTITY_HEADER", "%s", g.endpoint[E_FABRIC].header);
    set_value(f, "IDENTITY_SERVER_THUMBPRINT", "%s", g.thumbprint);
}

static void set_ml(FILE *f) {
    set_address(f, "MSI_ENDPOINT", E_ML, "http", "/msi/token");
    set_value(f, "MSI_SECRET", "%s", g.endpoint[E_ML].header);
    set_value(f, "DEFAULT_IDENTITY_CLIENT_ID", "%s", g.who[P_ML_DEFAULT].client);
}

static const struct environment {
    const char *name;
    enum who who; /* whose token a program gets there */
    const char *auth;
    void (*set)(FILE *);
    bool user; /* AZURE_CLIENT_ID names the user-assigned identity, which it does in a default chain only */
    const char *help;
} ENVIRONMENTS[] = {
    {"", P_SECRET, "environment", set_environment, false, "an application with a secret (the file itself)"},
    {"certificate", P_CERTIFICATE, "environment", set_certificate, false, "an application with a certificate (PEM)"},
    {"pfx", P_CERTIFICATE, "environment", set_pfx, false, "the same in PKCS#12, with a password"},
    {"subject", P_SUBJECT, "environment", set_subject, false, "an application that trusts the certificate's name"},
    {"device", P_DEVICE, "device-code", set_device, false, "a device whose user signs in elsewhere"},
    {"workload", P_WORKLOAD, "workload-identity", set_workload, false, "a pod with workload identity"},
    {"binding", P_BINDING, "workload-identity", set_binding, false, "a pod with an AKS identity binding"},
    {"exchange", P_EXCHANGE, "default", set_exchange, false,
     "an application whose secret is a managed identity's token"},
    {"imds", P_IMDS, "managed-identity", set_imds, false, "a virtual machine, its own identity"},
    {"imds-user", P_USER_1, "default", set_imds, true, "the same, a user-assigned identity"},
    {"appservice", P_APPSERVICE, "managed-identity", set_appservice, false,
     "App Service, Functions, Container Apps"},
    {"appservice-user", P_USER_1, "default", set_appservice, true, "the same, user-assigned"},
    {"msi", P_MSI, "managed-identity", set_msi, false, "App Service as of 2017"},
    {"arc", P_ARC, "managed-identity", set_arc, false, "a server with Azure Arc"},
    {"arc-user", P_USER_1, "default", set_arc, true, "the same, user-assigned"},
    {"cloudshell", P_CLOUDSHELL, "managed-identity", set_cloudshell, false, "Cloud Shell: a person's token"},
    {"fabric", P_FABRIC, "managed-identity", set_fabric, false, "Service Fabric"},
    {"ml", P_ML_DEFAULT, "managed-identity", set_ml, false, "Azure Machine Learning"},
};
#define ENVIRONMENT_COUNT (sizeof ENVIRONMENTS / sizeof ENVIRONMENTS[0])

/* What every environment has: the cache, the trust, and all addresses under names of our own. */
static void set_common(FILE *f, const struct environment *env) {
    char name[48], *c;
    int i;
    set_value(f, "SSL_CERT_FILE", "%s/ca.pem", g.dir);
    set_value(f, "NODE_EXTRA_CA_CERTS", "%s/ca.pem", g.dir);
    set_value(f, "AZREDIS_ENDPOINT", "localhost:%d", g.gateway_port);
    set_value(f, "AZREDIS_CONNECTION", "localhost:%d,ssl=true,auth=%s,abortConnect=false", g.gateway_port, env->auth);
    if (g.access_key_on) set_value(f, "AZREDIS_ACCESS_KEY", "%s", g.access_key);
    if (cache.plain) set_value(f, "EMULATOR_PLAIN_PORT", "%d", cache.plain_port);
    set_value(f, "EMULATOR_ADMIN", "http://127.0.0.1:%d", g.admin.port);
    set_value(f, "EMULATOR_OID", "%s", g.who[env->who].oid);
    set_value(f, "EMULATOR_REDIS_SOCKET", "%s", g.socket);
    set_value(f, "EMULATOR_REDIS_ADMIN_USER", ADMIN_USER);
    set_value(f, "EMULATOR_REDIS_ADMIN_PASSWORD", "%s", g.admin_password);
    set_value(f, "EMULATOR_PID", "%d", (int)getpid());
    set_value(f, "EMULATOR_AUTHORITY", "%s", g.authority_url);
    set_value(f, "EMULATOR_TENANT_ID", "%s", g.tenant);
    for (i = E_IMDS; i <= E_PROXY; i++) {
        snprintf(name, sizeof name, "EMULATOR_%s", ENDPOINTS[i]);
        for (c = name; *c; c++) *c = (char)toupper((unsigned char)*c);
        set_address(f, name, i, i == E_FABRIC || i == E_AKS ? "https" : "http", "");
    }
    for (i = 0; i < P_COUNT; i++) {
        snprintf(name, sizeof name, "EMULATOR_OID_%s", WHO[i].name);
        for (c = name; *c; c++) *c = (char)toupper((unsigned char)*c);
        set_value(f, name, "%s", g.who[i].oid);
    }
    set_value(f, "EMULATOR_EXPIRED_SECRET", "%s", g.expired_secret);
    set_value(f, "EMULATOR_CERTIFICATE", "%s/client.pem", g.dir);
    set_value(f, "EMULATOR_PFX", "%s/client.pfx", g.dir);
    set_value(f, "EMULATOR_PFX_PASSWORD", "%s", g.pfx_password);
    set_value(f, "EMULATOR_CERTIFICATE_CLIENT_ID", "%s", g.who[P_CERTIFICATE].client);
    set_value(f, "EMULATOR_SUBJECT_CLIENT_ID", "%s", g.who[P_SUBJECT].client);
    set_value(f, "EMULATOR_DEVICE_CLIENT_ID", "%s", g.who[P_DEVICE].client);
    set_value(f, "EMULATOR_EXCHANGE_CLIENT_ID", "%s", g.who[P_EXCHANGE].client);
    set_value(f, "EMULATOR_USER_CLIENT_ID", "%s", g.who[P_USER_1].client);
    set_value(f, "EMULATOR_USER_RESOURCE_ID", "%s", g.who[P_USER_1].resource);
    set_value(f, "EMULATOR_USER2_CLIENT_ID", "%s", g.who[P_USER_2].client);
    set_value(f, "EMULATOR_USER2_RESOURCE_ID", "%s", g.who[P_USER_2].resource);
    set_value(f, "EMULATOR_ARC_DIR", "%s", g.arc_dir);
    set_value(f, "EMULATOR_THUMBPRINT", "%s", g.thumbprint);
}

static char *settings_path(const struct environment *env) {
    return format_text("%s%s%s", g.env_file, *env->name ? "." : "", env->name);
}

/* Renamed into place: who sees it finds it whole. */
static void write_environment(const struct environment *env) {
    static const char unset[] =
        "unset AZURE_AUTHORITY_HOST AZURE_TENANT_ID AZURE_CLIENT_ID AZURE_CLIENT_SECRET AZURE_FEDERATED_TOKEN_FILE\n"
        "unset AZURE_CLIENT_CERTIFICATE_PATH AZURE_CLIENT_CERTIFICATE_PASSWORD AZURE_CLIENT_SEND_CERTIFICATE_CHAIN\n"
        "unset AZURE_KUBERNETES_TOKEN_PROXY AZURE_KUBERNETES_CA_FILE AZURE_KUBERNETES_CA_DATA\n"
        "unset AZURE_KUBERNETES_SNI_NAME AZURE_POD_IDENTITY_AUTHORITY_HOST AZURE_TOKEN_CREDENTIALS\n"
        "unset IDENTITY_ENDPOINT IDENTITY_HEADER IDENTITY_SERVER_THUMBPRINT IMDS_ENDPOINT\n"
        "unset MSI_ENDPOINT MSI_SECRET DEFAULT_IDENTITY_CLIENT_ID\n";
    char *path = settings_path(env), *temporary = format_text("%s.%d", path, (int)getpid()), *text;
    size_t n;
    FILE *f = must(open_memstream(&text, &n));
    fputs(unset, f);
    env->set(f);
    if (env->user) set_value(f, "AZURE_CLIENT_ID", "%s", g.who[P_USER_1].client);
    set_common(f, env);
    fclose(f);
    unlink(temporary);
    write_file(temporary, text);
    if (rename(temporary, path) != 0) {
        unlink(temporary);
        die("cannot write %s: %s", path, strerror(errno));
    }
    OPENSSL_cleanse(text, n);
    free(temporary);
    free(path);
    free(text);
}

/* The main one comes last: who sees it finds everything listening and all the others written. */
static bool settings_written[ENVIRONMENT_COUNT];

static void write_settings(void) {
    size_t i;
    for (i = ENVIRONMENT_COUNT; i-- > 0;) {
        write_environment(&ENVIRONMENTS[i]);
        settings_written[i] = true;
    }
}

static void remove_settings(void) {
    size_t i;
    for (i = 0; i < ENVIRONMENT_COUNT; i++) {
        char *path = settings_path(&ENVIRONMENTS[i]);
        if (settings_written[i]) unlink(path);
        free(path);
    }
}

/* Below the first lines on the screen. */
static void screen_more(void) {
    size_t i;
    printf("Service Fabric's certificate has the SHA-1 print %s\n", g.thumbprint);
    for (i = 1; i < ENVIRONMENT_COUNT; i++)
        printf("  . %s.%-16s %s\n", g.env_file, ENVIRONMENTS[i].name, ENVIRONMENTS[i].help);
    putchar('\n');
}
