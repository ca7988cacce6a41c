/* The file that implements. Declarations first, the implementation later: stb's rule allows it where the C
 * library shows POSIX by default; here it is the first include, then once more without effect. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include "azredis_entra.h"

int used_elsewhere(void);

int main(void) { return used_elsewhere() ? 0 : 1; }
