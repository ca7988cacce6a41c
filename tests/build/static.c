/* A second file with a static copy of its own, as AZREDIS_ENTRA_STATIC allows. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

int used_elsewhere(void);
int used_elsewhere(void) {
    azredis_identity id;
    return azredis_identity_by_name("default", &id) == AZREDIS_OK && id == AZREDIS_ID_DEFAULT;
}
