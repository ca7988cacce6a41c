/* The RTOS's types, as lwIP asks for them. */
typedef void *sys_sem_t;
typedef void *sys_mutex_t;
typedef void *sys_mbox_t;
typedef void *sys_thread_t;
typedef unsigned sys_prot_t;
