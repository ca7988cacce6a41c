/* The implementation, alone in its file: what standards.sh compiles in every way. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
