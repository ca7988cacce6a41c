/* The implementation, compiled once for all live tests that look at nothing but the public calls. A test that looks
 * behind them, or wants another build of it, has one of its own: it defines AZREDIS_ENTRA_IMPLEMENTATION. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"

int live_socket(azredis_client *c);
int live_socket(azredis_client *c) { return (int)azri_conn_of(c->hub.sessions)->line.sock; }
