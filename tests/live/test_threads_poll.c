/* The same tests where the I/O thread sleeps in poll and a fork is told by getpid, as on systems other than Linux. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#define AZRI_NO_EPOLL
#define AZRI_NO_WIPEONFORK
#define RENEWALS 2
#include "test_threads.c"
