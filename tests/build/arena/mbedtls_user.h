/* mbedTLS for `make arena`: its own allocator over one buffer, which tells its high-water mark, and the sizes of a
 * device. What else is built in costs flash and no heap. Given as MBEDTLS_USER_CONFIG_FILE. */
#define MBEDTLS_PLATFORM_MEMORY
#define MBEDTLS_MEMORY_BUFFER_ALLOC_C
#define MBEDTLS_MEMORY_DEBUG
#define MBEDTLS_MPI_MAX_SIZE 512
#define MBEDTLS_SSL_IN_CONTENT_LEN 16384        /* Redis and Entra send records of this size; nobody negotiates */
#define MBEDTLS_SSL_OUT_CONTENT_LEN 2048
#undef MBEDTLS_MPI_WINDOW_SIZE
#define MBEDTLS_MPI_WINDOW_SIZE 2
#undef MBEDTLS_ECP_WINDOW_SIZE
#define MBEDTLS_ECP_WINDOW_SIZE 2
#undef MBEDTLS_ECP_FIXED_POINT_OPTIM
#define MBEDTLS_ECP_FIXED_POINT_OPTIM 0
