/* The same tests where the I/O thread sleeps in poll, as on systems without epoll. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#define AZRI_NO_EPOLL
#define RENEWALS 2
#include "test_threads.c"
