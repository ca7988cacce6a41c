/* What examples/port_lwip.c wants of lwIP; only to compile it. */
#define LWIP_SOCKET 1
#define LWIP_COMPAT_SOCKETS 0
#define LWIP_DNS 1
#define LWIP_TCPIP_CORE_LOCKING 1
#define MEM_ALIGNMENT 4
