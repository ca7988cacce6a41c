/* cc -I. examples/psa_key.c -o psa_key -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./psa_key HOST[:PORT] CERT.pem [KEY.der]
 *
 * A service principal whose private key never comes near the library: it lies in a PSA key slot, as in a secure
 * element or TF-M, and a callback asks for signatures. KEY.der puts the key there, once, so that it can sign by PS256
 * and do nothing else (openssl rsa -in app.pem -traditional -outform DER -out KEY.der); mbedTLS without a secure
 * element keeps slots as files of the current directory. Ids: AZURE_TENANT_ID, AZURE_CLIENT_ID. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

#include <psa/crypto.h>
#include <stdio.h>
#include <stdlib.h>

enum { SLOT = 1, KEY_ROOM = 4096 };

/* Called for each token request, on the thread that pumps; a slow card may take its time. */
static azredis_status sign(void *user, azredis_signing *s) {
    psa_status_t st = psa_sign_hash(*(const mbedtls_svc_key_id_t *)user, PSA_ALG_RSA_PSS(PSA_ALG_SHA_256), s->hash,
                                    sizeof s->hash, s->signature, s->cap, &s->len);
    if (st == PSA_SUCCESS) return AZREDIS_OK;
    snprintf(s->reason, sizeof s->reason, "PSA status %d; was the key put into slot %d?", (int)st, SLOT);
    return AZREDIS_E_STATE;
}

static int put_key(mbedtls_svc_key_id_t slot, const char *path) {
    static unsigned char der[KEY_ROOM];
    psa_key_attributes_t a = PSA_KEY_ATTRIBUTES_INIT;
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(der, 1, sizeof der, f) : 0;
    psa_status_t st;
    if (f) fclose(f);
    psa_set_key_id(&a, slot);           /* a key with an id outlives the program */
    psa_set_key_type(&a, PSA_KEY_TYPE_RSA_KEY_PAIR);
    psa_set_key_usage_flags(&a, PSA_KEY_USAGE_SIGN_HASH);
    psa_set_key_algorithm(&a, PSA_ALG_RSA_PSS(PSA_ALG_SHA_256));
    st = psa_import_key(&a, der, n, &slot);
    mbedtls_platform_zeroize(der, sizeof der);
    if (st != PSA_SUCCESS) fprintf(stderr, "%s: PSA does not take this key, status %d\n", path, (int)st);
    return st == PSA_SUCCESS;
}

int main(int argc, char **argv) {
    mbedtls_svc_key_id_t slot = mbedtls_svc_key_id_make(0, SLOT);
    azredis_auth_options id = {0};
    azredis_options o = {0};
    azredis_reply r = {0};
    azredis_client *c;
    azredis_status st;
    if (argc < 3 || psa_crypto_init() != PSA_SUCCESS || (argc > 3 && !put_key(slot, argv[3]))) {
        fprintf(stderr, "usage: %s HOST[:PORT] CERT.pem [KEY.der]\n", argv[0]);
        return 2;
    }
    id.identity = AZREDIS_ID_CLIENT_CERTIFICATE;
    id.tenant_id = getenv("AZURE_TENANT_ID");
    id.client_id = getenv("AZURE_CLIENT_ID");
    id.certificate_file = argv[2];      /* public: names the key to Entra */
    id.sign = sign;
    id.sign_user = &slot;
    o.host = argv[1];
    o.identity = &id;
    c = azredis_open(&o);
    st = azredis_command(c, &r, "ACL", "WHOAMI");
    puts(st == AZREDIS_OK ? azredis_text(r.value).ptr : r.error->message);
    azredis_reply_free(&r);
    azredis_close(c);
    return st != AZREDIS_OK;
}
