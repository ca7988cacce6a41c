/* A file that uses the library and includes its declarations, twice. */
#include "azredis_entra.h"
#include "azredis_entra.h"

int used_elsewhere(void);
int used_elsewhere(void) {
    azredis_identity id;
    return azredis_identity_by_name("default", &id) == AZREDIS_OK && id == AZREDIS_ID_DEFAULT;
}
