/* azredis_entra.h - 0.1.0 - MIT-0 - a Redis client that signs in to Azure with Microsoft Entra ID
 *
 * Do this in ONE C or C++ file, before any other #include:
 *     #define AZREDIS_ENTRA_IMPLEMENTATION
 *     #include "azredis_entra.h"
 * Elsewhere include it alone. Link: -lmbedtls -lmbedx509 -lmbedcrypto -pthread
 *
 * CONTENTS   1 What it does   2 First program   3 Identities   4 Renewal   5 Commands and replies   6 What a call promises
 *            7 Pub/sub   8 Events and log   9 Errors   10 Options   11 Security   12 Limits   13 Macros
 *            14 Microcontrollers   15 Not yet
 *
 * 1 WHAT IT DOES
 * It gets a Microsoft Entra ID token, connects to Azure Managed Redis or Azure Cache for Redis over TLS, sends
 * AUTH <object id> <token>, renews the token long before it expires and authenticates the live connection again in
 * place: no command is dropped or reordered and no subscription interrupted. Needs mbedTLS 2.28 or 3.6, POSIX or a few
 * hooks of yours (chapter 14), and a C99 or C++11 compiler. With a password or an access key it is a plain Redis client.
 *
 * 2 FIRST PROGRAM
 * recipe: hello
 *     #define AZREDIS_ENTRA_IMPLEMENTATION
 *     #include "azredis_entra.h"
 *     #include <stdio.h>
 *     int main(void) {
 *         azredis_options o = {0};
 *         azredis_reply r = {0};
 *         o.host = "name.region.redis.azure.net";
 *         azredis_client *c = azredis_open(&o);
 *         if (azredis_command(c, &r, "PING") == AZREDIS_OK) puts(r.value->as.str);
 *         else puts(r.error->message);
 *         azredis_reply_free(&r);
 *         azredis_close(c);
 *         return 0;
 *     }
 * azredis_open does no I/O and never needs a check: a client that could not be opened answers every call with the
 * reason. Zero means "the default" everywhere; AZREDIS_NEVER switches a time off.
 *
 * 3 IDENTITIES (azredis_auth_options.identity)
 * AZREDIS_ID_DEFAULT        the chain: environment, workload identity, managed identity, the three developer tools. The
 *                           first that has a token stays; one that fails for good (a wrong secret) ends the walk.
 *                           AZURE_TOKEN_CREDENTIALS chooses: prod, dev, a name such as ManagedIdentityCredential, or
 *                           several with commas. azredis_auth_record and the error tell what each link said.
 * AZREDIS_ID_ENVIRONMENT    AZURE_TENANT_ID, AZURE_CLIENT_ID, and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH
 * AZREDIS_ID_WORKLOAD       Kubernetes: the variables that AKS sets, or tenant_id, client_id, federated_token_file; the
 *                           file is read for each token. kubernetes_proxy = 1: by AKS's own token endpoint
 * AZREDIS_ID_MANAGED        the machine's identity: virtual machine (IMDS), App Service, Functions, Container Apps, Azure
 *                           Arc, Cloud Shell, Service Fabric, Azure ML, found by the variables that each sets;
 *                           client_id, object_id or resource_id: a user-assigned one. The chain gives IMDS 1 s to
 *                           connect and 2.2 s to answer; one that AZURE_POD_IDENTITY_AUTHORITY_HOST names has its time
 * AZREDIS_ID_MANAGED_APP    tenant_id, client_id: an application whose federated credential is the managed identity
 *                           managed_client_id, object_id or resource_id
 * AZREDIS_ID_CLIENT_SECRET  tenant_id, client_id, client_secret: a service principal
 * AZREDIS_ID_CLIENT_CERTIFICATE  tenant_id, client_id, certificate_file (PEM or PKCS#12) or certificate in memory: a service
 *                           principal; the key is in it, or key_file, key, or stays in hardware: sign. Password and
 *                           chain: also AZURE_CLIENT_CERTIFICATE_PASSWORD, AZURE_CLIENT_SEND_CERTIFICATE_CHAIN
 * AZREDIS_ID_CLIENT_ASSERTION  tenant_id, client_id, get_assertion: your function writes the assertion
 * AZREDIS_ID_CALLBACK       get_token: any source of tokens that the program already has
 * AZREDIS_ID_TOKEN_FILE     token_file: a token with exp, or JSON with access_token and expires_on, that another program
 *                           keeps fresh; it should replace the file by a rename
 * AZREDIS_ID_EXEC           exec: a program, run as "PROGRAM SCOPE" without a shell, that prints a token or JSON with one:
 *                           access_token, expires_in or expires_on; what az and azd print is understood too. It has
 *                           10 s and is then stopped with all it has started. Of its stderr one line is told, of its
 *                           stdout nothing. A renewal within a plain call may take up to renew_ms
 * AZREDIS_ID_AZURE_CLI, AZREDIS_ID_AZURE_DEVELOPER_CLI, AZREDIS_ID_AZURE_POWERSHELL
 *                           whoever has signed in to az, azd or pwsh (Az.Accounts 2.2) on this machine, with tenant_id for
 *                           that tenant, in the chain AZURE_TENANT_ID; for developers' machines. Run as exec is; the program
 *                           is found by the absolute directories of PATH
 * AZREDIS_ID_DEVICE_CODE    a person signs in with a browser elsewhere: the event DeviceCode has the code and the page to
 *                           show, the library prints nothing. Renewals are by refresh token; load_refresh and save_refresh
 *                           keep it over a restart. client_id, else the Azure CLI's, which the tenant may not let ask for
 *                           Redis: an own registration that allows public client flows and has the Redis permission is
 *                           better; tenant_id, else organizations. A code that nobody used, or that was declined, is
 *                           followed by another one after 60 s, 5 min, 15 min. Not with options.memory
 * AZREDIS_ID_ACCESS_KEY     password: the cache's access key (no Entra)
 * AZREDIS_ID_PASSWORD       user, password (no Entra)
 * In the chain AZURE_CLIENT_ID, or client_id, object_id, resource_id or managed_client_id, names a user-assigned identity.
 * The authority (Entra's host) is authority_host, else AZURE_AUTHORITY_HOST, else that of the cloud in which the cache's
 * name lies: public, China, US Government, France, Germany. Requests to it may go through options.proxy; those to a
 * metadata service never do.
 * The Redis user name is the token's oid claim; the option user overrides it. recipe: identity
 *     azredis_auth_options id = {0};
 *     azredis_options o = {0};
 *     id.identity = AZREDIS_ID_CLIENT_SECRET;
 *     id.tenant_id = "11111111-2222-3333-4444-555555555555";
 *     id.client_id = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
 *     id.client_secret = getenv("MY_SECRET");
 *     o.host = "name.region.redis.azure.net";
 *     o.identity = &id;
 *     azredis_client *c = azredis_open(&o);
 * One azredis_auth may serve many clients (options.auth), on any threads: one fetch per token life for all of them.
 * azredis_auth_token hands the token to another Redis client; azredis_auth_info tells whose it is, azredis_client_auth
 * hands out a client's own identity. recipe: auth
 *     azredis_auth *a = azredis_auth_open(NULL);
 *     azredis_token t;
 *     azredis_error why;
 *     if (azredis_auth_token(a, &t, 10000, &why) == AZREDIS_OK) printf("AUTH %s <%u bytes>\n", t.user, (unsigned)t.jwt_len);
 *     else puts(why.message);
 *     azredis_token_wipe(&t);
 *     azredis_auth_release(a);
 * Beside another client (hiredis 1.2, libvalkey) one timer does it. At first, and whenever it fires, call
 * azredis_auth_token(a, &t, 0, &why). OK: if t.jwt differs from the last one shown, send AUTH t.user t.jwt on the live
 * connection; wipe the last, keep t, set the timer to t.renew_in_ms, or to 20 ms while that is 0: a request is under
 * way, and each call takes it a step further. AGAIN: no token yet; 20 ms. Anything else: why.message says what to
 * mend; look again in a second. A new connection begins with AUTH and the last token. Check the server's name yourself
 * (SSL_set1_host): hiredis does not. examples/hiredis_token.c does the same without a loop.
 *
 * 4 RENEWAL
 * A token is renewed at its soft point: refresh_in if Entra gave one, else half of a life of 2 h or more, else 70 %;
 * up to 10 % of the life earlier, at random. Until 5 minutes (at most a quarter of the life) before expiry the new
 * one must be accepted by Redis. Failed fetches are retried for ever: 2 s doubling to 60 s, 10 s once time is short,
 * 30 s after expiry; Retry-After is obeyed; a mistake that somebody must mend is retried after 60 s, 5 min, 15 min,
 * its inputs read again. A failed early renewal harms nothing while the old token lives. On the connection AUTH is
 * followed by a PING with a nonce, because some servers drop the error of a failing AUTH. A token that Redis refuses
 * is not shown again; one fresh token is fetched at once. Without a new token nothing is written in the connection's
 * last second, so that its end leaves no command in doubt. Several connections show a new token one after the other.
 * options.reauth chooses how: inline; quiesced, when all is answered; handover, by a second connection that takes over, which
 * is also the way where the last AUTH took over 1 s, or where AUTH in place fails until shortly before the end.
 * azredis_auth_rehearse shows the live token once more, to see beforehand that a renewal on the connection works.
 *
 * 5 COMMANDS AND REPLIES
 * azredis_command takes strings; azredis_command_argv takes any bytes and options per call; azredis_exec sends many
 * in one flight; azredis_submit queues and calls you back. A reply is a tree of azredis_value; every string ends
 * with a NUL. azredis_field finds a map's key in RESP2 and RESP3 alike; azredis_int, _double, _bool and _text read
 * either protocol's shape. One azredis_reply serves for many calls and is freed once. recipe: binary
 *     azredis_str set[3] = {{"SET", 3}, {"key", 3}, {"\0\1\2", 3}};
 *     azredis_reply r = {0};
 *     if (azredis_command_argv(c, &r, NULL, 3, set) != AZREDIS_OK) puts(r.error->message);
 *     azredis_reply_free(&r);
 * azredis_get, azredis_set, ... are common commands as inline functions; azredis_eval runs a script; azredis_scan_next gives
 * one key, member, field or score after the other.
 * Some commands need a connection of their own, up to options.leases at once, made when needed and kept for a while:
 * AZREDIS_ATOMIC makes azredis_exec a transaction, azredis_condition lets it depend on keys; azredis_block waits in slices
 * through renewals and reconnects (BLPOP, XREAD BLOCK ...); azredis_lease_open hands one out. recipe: transaction
 *     azredis_str get[2] = {{"GET", 3}, {"stock", 5}}, take[2] = {{"DECR", 4}, {"stock", 5}};
 *     azredis_condition any = {{"stock", 5}, {2, get}, AZREDIS_IF_GREATER, {"0", 1}};
 *     azredis_call how = {0, AZREDIS_ATOMIC, &any, 1};
 *     azredis_cmd cmd = {2, take};
 *     azredis_status st = azredis_exec(c, NULL, &how, &cmd, 1);
 *     if (st == AZREDIS_E_CONDITION) puts("sold out");
 *     else if (st == AZREDIS_E_CONFLICT) puts("somebody was faster: repeat");
 * Refused on the shared connection, with a word on what to use: AUTH HELLO RESET QUIT MONITOR SYNC PSYNC REPLCONF SELECT,
 * CLIENT REPLY/TRACKING/SETNAME, MULTI EXEC DISCARD WATCH UNWATCH, (P|S)(UN)SUBSCRIBE, blocking commands, WAIT.
 *
 * 6 WHAT A CALL PROMISES
 * Each command ends exactly once: status says what happened, fate whether it ran (AZREDIS_NOT_SENT: repeat freely,
 * AZREDIS_MAYBE_RUN: written and unanswered, AZREDIS_ANSWERED). What was written is never sent again by itself.
 * One machine runs in three ways:
 *   plain calls      one thread at a time; it lives while you call it. Every call leaves the next one working and renews
 *                    a due token after its own command (at most renew_ms); with nothing to do call azredis_wait. A
 *                    connection may be lost while nobody calls: the next call makes it again, subscriptions have a gap.
 *   your event loop  nothing ever expires as long as azredis_process is called by the time azredis_timeout_ms says.
 *   threads          azredis_start: any thread may call, nothing ever expires.
 * An event loop asks again for sockets and time before it sleeps, whatever it has called: azredis_submit too may bring
 * the time forward. examples/ has poll, epoll, libuv and libevent. recipe: loop
 *     struct pollfd p[64];
 *     azredis_fd f[64];
 *     size_t i, n = azredis_fds(c, f, 64);
 *     for (i = 0; i < n; i++) {
 *         p[i].fd = (int)f[i].sock;
 *         p[i].events = (short)((f[i].want & AZREDIS_READ ? POLLIN : 0) | (f[i].want & AZREDIS_WRITE ? POLLOUT : 0));
 *     }
 *     poll(p, (nfds_t)n, azredis_timeout_ms(c));
 *     azredis_process(c, f, n);
 * With threads one client serves the whole program: many callers share one connection and its flights, each waits for
 * its own answer only, callbacks run on a thread of their own, and azredis_close ends all that wait. In the child of a
 * fork every call answers AZREDIS_E_FORK and touches nothing; one made in a callback must not return from it.
 * recipe: threads
 *     if (azredis_start(c) != AZREDIS_OK) puts("no threads");
 *     azredis_command(c, NULL, "INCR", "visits");
 * A connection whose TLS key has sealed 2^24 records is replaced by a second one without a break.
 * While not connected, commands wait up to their time (5 s) and end NOT_SENT with the reason. With fail_fast they end
 * at once after the first connection; with abort_on_connect_fail a first connection that fails connect_retry times ends the client.
 * Commands behind an AUTH that the server is slow to answer wait with it (up to auth_ms): that time is not theirs.
 *
 * 7 PUB/SUB recipe: subscribe
 *     azredis_sub *s = azredis_subscribe(c, AZREDIS_CHANNEL, "news", NULL, NULL);
 *     azredis_message m;
 *     while (azredis_next(s, &m, 60000) == AZREDIS_OK) printf("%s\n", m.payload.ptr);
 *     azredis_unsubscribe(s);
 * Asked for again after each reconnect; then the next message has gap = 1. A planned replacement of the connection has
 * none (its limits: the section handover). azredis_subscribed waits for the server's word; azredis_subscribe_with says how
 * long the queue may get and what a full one does. Over RESP2 subscriptions have a second connection, which each token
 * replaces without a gap. While subscribed the server applies its pub/sub output limit (often 32 MiB) to all replies of the
 * connection: for large ones give options.pubsub = AZREDIS_PUBSUB_SEPARATE.
 *
 * 8 EVENTS AND LOG
 * options.on_event gets them on the pumping thread, after azredis_start on a thread of their own; submitting and closing
 * are allowed there, blocking calls answer AZREDIS_E_STATE. Without a handler warnings go to stderr. azredis_print_event is
 * a ready handler. azredis_event_type tells which members each event has.
 * Log numbers: 100 fetch begins, 101 token, 102 no token, 103 same token, 104 hint, 105 identity used, 106 refused
 * by Redis, 107 sign-in wanted, 108 refresh token not saved; 200 connecting, 201 connected, 202 cannot connect, 203 lost, 204 handshake step, 205 ready, 206 RESP2,
 * 207 probe after silence, 208 replacement begins, 209 replaced, 210 cannot be replaced now; 300 AUTH, 301 accepted,
 * 302 refused, 303 token ends; 400 subscribed, 401 refused, 402 push dropped; 500 keys of a connection string have no effect.
 *
 * 9 ERRORS
 * azredis_error tells the step, the cause and the mend, with errno, mbedTLS, HTTP and AADSTS numbers. retryable = 0:
 * something must be mended first. Calls that fail for such a reason fail at once instead of waiting.
 *
 * 10 OPTIONS: see azredis_options and azredis_auth_options; each member says its default.
 * options.config takes them as a text: the connection string of StackExchange.Redis, host[:port],key=value,... or a
 * URL, rediss://[user[:password]@]host[:port][/database][?key=value&...]. Members that are set win. recipe: config
 *     azredis_options o = {0};
 *     o.config = "name.region.redis.azure.net:10000,auth=environment,abortConnect=false,syncTimeout=2000";
 *     o.client_name = "orders";
 *     azredis_client *c = azredis_open(&o);
 * In a string names count in any case, blanks around words are dropped, the first '=' splits, no value has a comma:
 * there are no quotes and no escapes. In a URL %XX is decoded, and @ / ? # & % are written so. IPv6 in brackets.
 * Without TLS (redis://, ssl=false, /path or unix:///path) only this machine is reached. The last of two wins. At most
 * 64 KiB.
 *   ssl sslHost caFile                    plaintext tls_host ca_file; TLS unless ssl=false
 *   auth tenantId clientId objectId resourceId managedClientId federatedTokenFile kubernetesProxy tokenFile exec scope
 *   authorityHost allowAuthority authorityCaFile authorityProxy policy certificate certificateKey sendChain rs256
 *                                         members of identity; authorityProxy: proxy, certificate: certificate_file,
 *                                         certificateKey: key_file
 *   user password                         without auth: an access key, with user an ACL user's password
 *   protocol name defaultDatabase         resp2 or resp3; client_name (also clientName); database (also db)
 *   connectTimeout authTimeout syncTimeout renewTimeout tokenTimeout chainTimeout        ms, or never: connect_ms
 *                                         auth_ms command_ms renew_ms, identity's request_ms chain_ms
 *   keepAlive                             seconds, 0 or never: off (also keepAliveMs)
 *   abortConnect failFast                 true or false (also abortOnConnectFail)
 *   connectRetry                          a number
 *   maxReply backlogCount backlogBytes subQueue pubsub=shared|separate reauth=inline|quiesced|handover leases
 * Known from StackExchange.Redis and without effect here, which log line 500 tells: allowAdmin asyncTimeout
 * checkCertificateRevocation configChannel configCheckSeconds defaults highIntegrity
 * highPriorityThreads maint... preserveAsyncOrder resolveDns responseTimeout setlib sslProtocols tcpKeepAlive
 * tiebreaker topologyRefreshSeconds version writeBuffer. Refused, as they would change what is sent or where to:
 * channelPrefix proxy tunnel serviceName sentinelUser sentinelPassword, $COMMAND, a second address. Refused as well:
 * clientSecret and certificatePassword (they belong into AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PASSWORD or the
 * options). A wrong string is an AZREDIS_E_ARG of each call,
 * with the place and the mend; no message shows a value. azredis_describe writes such a string, secrets masked. An auth
 * that stands alone has the same member: azredis_auth_options.config.
 *
 * 11 SECURITY
 * TLS 1.2 or later, chain and host name always verified; no switch turns that off. Roots: ca, ca_file, SSL_CERT_FILE,
 * the system's bundle. In Service Fabric alone, whose certificate no authority has signed, the thumbprint that the
 * platform names stands for the chain; it is compared before anything is written. Plain text goes to this machine, if
 * asked for, and to the metadata services of a platform. The authority must be one of Microsoft's hosts, this machine
 * (localhost must also be at a loopback address), or named by allow_authority; redirects are never followed. A TLS
 * session kept for the next connection is bound to the name and the roots. Programs are run without a shell and are
 * given no secret. By a proxy TLS is with the authority; the proxy's own password goes to it in clear. Tokens and secrets
 * are wiped when freed and appear in no message. What the C library leaves of CPU registers on a thread's stack is
 * beyond the library's reach. A machine without a clock (port.unix_time 0) holds certificates against the day of
 * this release and learns the time from the Date of the token answer, whose own chain must then be good at that time,
 * and with which Redis is verified. Names are looked up on a helper thread with a deadline.
 *
 * 12 LIMITS
 * token 16 384 bytes (Redis takes no longer argument before AUTH), HTTP head 16 KiB, body 64 KiB, JSON depth 16,
 * RESP depth 128 (NO_OS: token 4096 bytes, JSON 8, RESP 16), 2^24 elements, bulk 512 MiB, reply max_reply, 10 000
 * commands or 64 MiB waiting, 63 arguments of azredis_command, 64 KiB of a token file or a program's output. A reply costs
 * at most twice its bytes, 16 bytes a node doubled, and 1 MiB.
 *
 * 13 MACROS
 * AZREDIS_ENTRA_IMPLEMENTATION  in one file: the implementation, not only the declarations
 * AZREDIS_ENTRA_STATIC          all functions static: for one file that uses the library alone
 * AZREDIS_NO_OS                 no operating system: azredis_port brings everything; implies AZREDIS_NO_THREADS; files,
 *                               environment and azredis_print_event are not there, options.ca is required
 * AZREDIS_NO_MALLOC             what wants memory of any size is not there: azredis_exec, azredis_block, leases, azredis_eval,
 *                               azredis_scan_next, azredis_reply_copy, azredis_auth_token, azredis_auth_rehearse; for programs whose clients live in options.memory
 * AZREDIS_TOKEN_MAX             the longest token, 16384; with AZREDIS_NO_OS 4096, of which an arena has room for five
 * AZREDIS_NO_THREADS            POSIX without pthread: no locks, and a name look-up blocks the call (getaddrinfo)
 * AZREDIS_ONLY_PURE             stop before mbedTLS, sockets, clocks: for tests of the pure half
 * AZREDIS_NO_TEXT               errors and log lines without words: code, numbers, where and level stay, message and text
 *                               are ""; 18 KB less code on a microcontroller
 * AZREDIS_NO_HTTP               no token endpoints: of the identities callback, access key and password remain; 12 KB less
 * AZREDIS_NO_MANAGED            without managed identity: no metadata service is asked, no certificate is taken by its thumbprint
 * AZREDIS_NO_HANDOVER           one connection and no more: none is replaced without a break (one whose TLS key is worn is
 *                               drained and made again), none is leased, and over RESP2 there are no subscriptions; 3 KB less
 * AZREDIS_NO_EVENTS             no events and no log lines: on_event is never called, what fails is told by the calls
 *                               that suffer from it; 2 KB less, and 7 KB of memory
 * AZREDIS_NO_ARENA              memory comes from port.alloc or malloc: options.memory is refused (azredis_open returns
 *                               NULL), and azredis_memory_needed is not there; 2 KB less
 * AZREDIS_NO_CLAIMS             tokens are not read: the option user must name the object id, get_token must tell when
 *                               its token ends, and nothing tells of a token for another service; 3 KB less with
 *                               AZREDIS_NO_HTTP, else 1 KB
 * AZREDIS_NO_ADDRESSES          hosts are names: no address is understood, and no certificate for one; the option host is a
 *                               name alone, without a port, and tcp_port 0 is 10000; 1 KB less
 * AZREDIS_NO_RESUMPTION         TLS sessions are not kept: each connection makes a full handshake; 2 KB less, mbedTLS's
 *                               part included
 * AZREDIS_LEAN                  a client for one purpose: TLS and RESP3 with an identity of its own; 8 KB less, 12 KB with a
 *                               certificate. Options that ask for more are AZREDIS_E_ARG, functions are not declared. Without:
 *                               - access keys, passwords, plaintext and, with it, managed identity; azredis_auth;
 *                                 AZREDIS_RENEWAL_RECONNECT; AZREDIS_POLICY_SEED, which is taken for the default
 *                               - protocol 2 (a server without RESP3 is AZREDIS_E_RESP), client_name, database, our name
 *                                 told to the server; attributes and what is streamed (errors of protocol); a look at a
 *                                 double before azredis_double's
 *                               - patterns (azredis_subscribe returns NULL), queues but those of options.sub_queue messages
 *                               - refusing the commands of chapter 5 that break a shared connection: send none
 *                               - azredis_stats, azredis_error.at and, with AZREDIS_NO_TEXT, azredis_error.where
 *                               - reading ahead: recv is asked for 5 bytes first; 512 bytes of memory less, 16 KB on POSIX
 *                               - with AZREDIS_NO_OS PEM and passwords of keys: ca is one certificate in DER, and so are
 *                                 those of a service principal and its key
 * AZREDIS_TICK_MS               so many milliseconds are the longest wait without threads; nothing computes then when the next
 *                               thing is due, and it may come so much later: 100 to 1000; 1 KB less
 * AZREDIS_NO_ASSERTION          leaves out the identity client-assertion
 * AZREDIS_NO_WORKLOAD           leaves out workload-identity, and its link of the default chain; NO_OS and NO_HTTP imply it
 * AZREDIS_NO_CERTIFICATE        leaves out certificates of service principals: reading them and signing; AZREDIS_NO_HTTP
 *                               implies it
 * AZREDIS_LEGACY_PKCS12         certificate files that 3DES encrypts are read too: older Windows, .NET and OpenSSL write
 *                               them; without it, what AES encrypts
 * AZREDIS_NO_PROXY              no HTTP proxy before the authority: the option proxy is AZREDIS_E_ARG; AZREDIS_NO_HTTP implies it
 * AZREDIS_AUTHORITY             the host of the authority, as "login.microsoftonline.com": options and environment name no other
 * AZREDIS_NO_HTTP_DATE          the token endpoint's Date is not read: port.unix_time must be right by itself; 0.6 KB less
 * AZREDIS_NO_CALLBACK           leaves out the identity callback; where AZREDIS_NO_HTTP leaves no other, it stays
 * AZREDIS_NO_TOKEN_FILE         no identity token-file; AZREDIS_NO_OS implies it
 * AZREDIS_NO_EXEC               no identity exec, and no program is ever started; AZREDIS_NO_OS implies it
 * AZREDIS_NO_DEVICE_CODE        leaves out the identity device-code; NO_HTTP and NO_EVENTS imply it
 * AZREDIS_NO_DEVTOOLS           leaves out azure-cli, azure-developer-cli and azure-powershell, also of the default chain;
 *                               AZREDIS_NO_EXEC implies it
 * AZREDIS_ASSERT(x)             our own bugs; default assert, nothing under NDEBUG
 * AZREDIS_NO_CONFIG             leaves out connection strings (a config is then AZREDIS_E_ARG) and azredis_describe
 * AZREDIS_API                   linkage of the public functions; set by the header
 * AZREDIS_IMPLEMENTATION, AZREDIS_ENTRA_IMPL  refused: near misses of the first
 * AZREDIS_VERSION, AZREDIS_VERSION_TEXT
 *
 * 14 MICROCONTROLLERS
 * AZREDIS_NO_OS needs hooks of yours for clock, entropy, connect, send, recv and close (azredis_port), and memory: port.alloc
 * or options.memory, azredis_memory_needed bytes from which the whole client is cut. examples/port_lwip.c is such a port.
 * `make arena` measures it with mbedTLS 2.28, TLS 1.2, records of 16384 bytes in and 2048 out and a chain of four RSA-4096
 * certificates, with 64-bit pointers: mbedTLS's heap is at most 48 484 bytes to connect and about 37 200 when idle; about
 * 86 000 during a renewal in place, 48 484 with renewal = AZREDIS_RENEWAL_RECONNECT, which never has two TLS connections.
 * Ours is 91 608 bytes with a client secret in place and 79 912 by reconnecting; a smaller backlog_count, rx_bytes, replies
 * and AZREDIS_TOKEN_MAX make it less. `make sizes` prints code, frames and the deepest stack path, to which mbedTLS adds its
 * own.
 * TLS needs the time. Give SNTP's in unix_time; 0 is "unknown", for which see chapter 11. An access key or a token callback
 * brings no time: set the clock first. One step of a handshake (RSA, ECDHE) does not call yield: set the watchdog longer.
 * There a TLS session is not kept, no second connection takes over, and one thread calls.
 *
 * 15 NOT YET
 * The OSS cluster policy and sharded subscriptions; mbedTLS 4; a built-in port for Windows.
 */

#if defined(AZREDIS_ENTRA_IMPLEMENTATION) && !defined(AZREDIS_ONLY_PURE) && !defined(AZREDIS_NO_OS)
#  ifdef __STRICT_ANSI__                /* -std=cNN: the C library hides POSIX unless it is asked before the first header */
#    if defined(__GLIBC__) && !defined(__USE_MISC)
#      error "azredis_entra.h: with -std=cNN define AZREDIS_ENTRA_IMPLEMENTATION and include this header before any other"
#    endif
#    ifndef _DEFAULT_SOURCE
#      define _DEFAULT_SOURCE 1
#    endif
#    ifdef __APPLE__
#      define _DARWIN_C_SOURCE 1
#    endif
#  endif
#  if !defined(__unix__) && !defined(__APPLE__)
#    error "azredis_entra.h: this platform is not POSIX; define AZREDIS_NO_OS and fill the hooks of azredis_port"
#    undef AZREDIS_ENTRA_IMPLEMENTATION       /* one message is enough */
#  endif
#endif

#ifndef AZREDIS_ENTRA_H
#define AZREDIS_ENTRA_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AZREDIS_VERSION 0x000100          /* 0.1.0 as 0xMMmmpp */
#define AZREDIS_VERSION_TEXT "0.1.0"

#if defined(AZREDIS_IMPLEMENTATION) || defined(AZREDIS_ENTRA_IMPL)
#  error "azredis_entra.h: the macro is AZREDIS_ENTRA_IMPLEMENTATION"
#endif

#if defined(AZREDIS_ENTRA_STATIC) && !defined(AZREDIS_ONLY_PURE)    /* the pure half has no function of the API */
#  ifdef __GNUC__
#    define AZREDIS_API __attribute__((unused)) static              /* a program uses few of them */
#  else
#    define AZREDIS_API static
#  endif
#elif defined(__cplusplus)
#  define AZREDIS_API extern "C"
#else
#  define AZREDIS_API extern
#endif

/* A time that never comes: switches the deadline off that it is given for. */
#define AZREDIS_NEVER UINT32_MAX

typedef struct azredis_auth   azredis_auth;      /* an identity and its token; counted, any thread */
typedef struct azredis_client azredis_client;    /* one program's line to one cache */
typedef struct azredis_sub    azredis_sub;       /* one subscription */
typedef struct azredis_lease  azredis_lease;     /* a connection of one's own, for a while */

/* ---- status, error, outcome ------------------------------------------------------------------ */

/* 0 and above are not errors. Negative values name the layer that failed. */
typedef enum azredis_status {
    AZREDIS_OK = 0,
    AZREDIS_AGAIN = 1,             /* nothing yet; call again */
    AZREDIS_E_ARG = -1,            /* the caller's mistake; the message names the argument or option */
    AZREDIS_E_NOMEM = -2,          /* out of memory */
    AZREDIS_E_LIMIT = -3,          /* a limit of the manual's table was reached */
    AZREDIS_E_ABI = -4,            /* header and implementation are of different versions */
    AZREDIS_E_STATE = -5,          /* not allowed here: a blocking call in a callback, a closed handle */
    AZREDIS_E_FULL = -6,           /* the backlog is full; nothing was queued */
    AZREDIS_E_FORK = -7,           /* opened before fork(), used in the child: open a new one there */
    AZREDIS_E_DNS = -10,           /* name look-up */
    AZREDIS_E_NET = -11,           /* TCP: refused, unreachable, reset */
    AZREDIS_E_TIMEOUT = -12,       /* a deadline passed */
    AZREDIS_E_CLOSED = -13,        /* the connection or the client was closed */
    AZREDIS_E_TLS = -20,           /* TLS protocol */
    AZREDIS_E_CERT = -21,          /* the certificate was refused; the message names the check */
    AZREDIS_E_HTTP = -30,          /* no readable HTTP answer */
    AZREDIS_E_JSON = -31,          /* no readable JSON answer */
    AZREDIS_E_ENTRA = -32,         /* the token endpoint refused; see aadsts */
    AZREDIS_E_NO_CREDENTIAL = -33, /* no link of the chain had a credential; the message lists them */
    AZREDIS_E_TOKEN = -34,         /* a token came but cannot be used: no oid, too long, already expired */
    AZREDIS_E_RESP = -40,          /* the server broke the Redis protocol */
    AZREDIS_E_REDIS = -41,         /* the server answered with an error; its text is the reply's value */
    AZREDIS_E_AUTH = -42,          /* the server refused the credentials */
    AZREDIS_E_NOPERM = -43,        /* the server's access rules forbid the command, key or channel */
    AZREDIS_E_CLUSTER = -44,       /* this cache has the OSS cluster policy, which is not supported yet */
    AZREDIS_E_CONDITION = -45,     /* a condition of a transaction did not hold: nothing of it was sent */
    AZREDIS_E_CONFLICT = -46       /* a key that a transaction watched was changed: nothing of it ran; read again and repeat */
} azredis_status;

/* Did a command run? NOT_SENT: certainly not, repeat freely. MAYBE_RUN: it left this machine and no
 * answer came. ANSWERED: it ran, or the server refused it. "Sent" means that the last byte of the
 * command was accepted by the TLS layer; a command of which any byte was held back cannot have run. */
typedef enum azredis_fate { AZREDIS_NOT_SENT, AZREDIS_MAYBE_RUN, AZREDIS_ANSWERED } azredis_fate;

/* How the connection stood when a call's time was over or found no room. Times are AZREDIS_UNKNOWN where there is none. */
typedef struct azredis_snapshot {
    const char *state;                 /* "ready", or what was waited for: "a token", "the answer to AUTH"; NULL: no snapshot */
    uint32_t    waiting, in_flight;    /* commands not written yet; written and unanswered */
    uint64_t    bytes_waiting;         /* of the frames of both, as backlog_bytes counts them */
    int64_t     last_read_ms, last_write_ms;   /* ago */
    int64_t     token_left_ms;         /* of the token that the connection lives on, or of the newest */
} azredis_snapshot;

/* What failed, in full. Never holds a token or a secret. Members may be added at the end. */
typedef struct azredis_error {
    azredis_status code;
    int            os_errno;           /* 0: not from the operating system */
    int            tls_code;           /* mbedTLS's number, negative; 0: not from TLS */
    int            http_status;        /* 0: no HTTP answer */
    int            aadsts;             /* Entra's AADSTS number; 0: none */
    int            retryable;          /* 1: may pass by itself; 0: something must be mended first */
    uint32_t       retry_after_ms;     /* what the server asked for; 0: nothing */
    const char    *where;              /* the step: "redis.tls", "entra.http", "client-secret" */
    char           request_id[40];     /* Entra's correlation id, for a support request */
    char           message[456];       /* step, cause and mend in plain words */
    azredis_snapshot at;               /* of a call's AZREDIS_E_TIMEOUT and AZREDIS_E_FULL; not with AZREDIS_LEAN */
} azredis_error;

/* ---- replies --------------------------------------------------------------------------------- */

/* Bytes somewhere else; never owned. */
typedef struct azredis_str { const char *ptr; size_t len; } azredis_str;

typedef enum azredis_type {
    AZREDIS_T_NIL = 0,                 /* -                                                    */
    AZREDIS_T_STRING,                  /* as.str                                               */
    AZREDIS_T_STATUS,                  /* as.str   "OK"                                        */
    AZREDIS_T_INTEGER,                 /* as.integer                                           */
    AZREDIS_T_DOUBLE,                  /* as.str   the server's text; see azredis_double       */
    AZREDIS_T_BOOL,                    /* as.integer 0 or 1                                    */
    AZREDIS_T_BIGNUM,                  /* as.str   decimal digits                              */
    AZREDIS_T_VERBATIM,                /* as.str   the text after its 4-byte format            */
    AZREDIS_T_ERROR,                   /* as.str   "NOPERM this user has no permissions ..."   */
    AZREDIS_T_ARRAY,                   /* as.items, len items                                  */
    AZREDIS_T_MAP,                     /* as.items, len items: key, value, key, value ...      */
    AZREDIS_T_SET,                     /* as.items, len items                                  */
    AZREDIS_T_PUSH,                    /* as.items, len items (only inside another reply)      */
    AZREDIS_T_ATTRIBUTE                /* as.items; see azredis_attribute                      */
} azredis_type;

#define AZREDIS_F_ATTRIBUTE 1u         /* azredis_value.flags: the node before this one is its attribute */
#define AZREDIS_F_INVALID   2u         /* the server called it a number, and it is none */

/* One node of a reply, 16 bytes on 64-bit machines. Strings end with a NUL that len does not count. */
typedef struct azredis_value azredis_value;
struct azredis_value {
    uint8_t  type;                     /* azredis_type */
    uint8_t  flags;
    uint16_t reserved;
    uint32_t len;                      /* bytes, or items (a map has 2 per pair) */
    union { const char *str; int64_t integer; const azredis_value *items; } as;
};

/* Zero it before the first use; use it for as many calls as you like; azredis_reply_free it once.
 * If you passed it in, it is yours; if a callback was handed one, it is lent until you return. */
typedef struct azredis_reply {
    azredis_status       status;
    azredis_fate         fate;
    const azredis_value *value;        /* the answer or the server's error; NULL if none came */
    const azredis_error *error;        /* NULL when status is OK; never NULL otherwise, but without memory for a record
                                          it is a common one that says so (code E_NOMEM): then status alone tells */
    struct { void *ptr; size_t size; int fixed; } mem; /* ours; preset with fixed=1: your buffer, no allocation */
} azredis_reply;

/* ---- commands, messages, tokens -------------------------------------------------------------- */

#define AZREDIS_NO_QUEUE  1u           /* azredis_call.flags: fail at once if not connected */
#define AZREDIS_NO_REPLY  2u           /* fire and forget: the answer is read and dropped */

#define AZREDIS_ATOMIC    4u           /* azredis_exec: all or nothing, MULTI and EXEC on a leased connection */

typedef struct azredis_cmd { int argc; const azredis_str *argv; } azredis_cmd;

typedef enum azredis_relation {        /* of the answer to a test and azredis_condition.value */
    AZREDIS_IF_EQUAL = 0,              /* the same text; integers and RESP3 doubles: the same number; nil equals nothing */
    AZREDIS_IF_NOT_EQUAL,
    AZREDIS_IF_LESS, AZREDIS_IF_GREATER, /* both are numbers */
    AZREDIS_IF_NIL, AZREDIS_IF_NOT_NIL
} azredis_relation;

/* Of a transaction: the key is watched, then the test is asked, for example {key, {2, GET key}, AZREDIS_IF_EQUAL, "7"}. */
typedef struct azredis_condition {
    azredis_str      key;
    azredis_cmd      test;
    azredis_relation relation;
    azredis_str      value;
} azredis_condition;

typedef struct azredis_call {          /* per call; NULL or zero = defaults */
    uint32_t timeout_ms;               /* 0: options.command_ms */
    uint32_t flags;
    const azredis_condition *conditions; /* with AZREDIS_ATOMIC: all must hold */
    size_t   condition_count;
} azredis_call;

typedef struct azredis_message {       /* lent */
    azredis_str channel, payload;
    uint32_t    lost;                  /* messages dropped before this one because the queue was full */
    uint32_t    gap;                   /* 1: the connection was down before this one, others may be missing */
    azredis_str pattern;               /* that the channel fits; {NULL, 0}: the channel itself was subscribed */
} azredis_message;

typedef void (*azredis_reply_fn)(azredis_client *c, const azredis_reply *lent, void *user);
typedef void (*azredis_message_fn)(azredis_client *c, const azredis_message *lent, void *user);

/* A copy of the live token for use beside another Redis client. Wipe it when done. */
typedef struct azredis_token {
    char    *jwt;                      /* the password for AUTH; NUL-terminated */
    size_t   jwt_len;
    char     user[64];                 /* the user name for AUTH: the token's oid */
    uint32_t expires_in_ms, renew_in_ms;
} azredis_token;

/* ---- events ---------------------------------------------------------------------------------- */

typedef enum azredis_event_type {              /* members that mean something beside type and client */
    AZREDIS_EV_TOKEN_REFRESHED = 1,            /* old_left_ms, new_left_ms, next_try_ms              */
    AZREDIS_EV_TOKEN_REFRESH_FAILED,           /* old_left_ms, next_try_ms, error                    */
    AZREDIS_EV_CONNECTION_REAUTHENTICATED,     /* endpoint, old_left_ms, new_left_ms                 */
    AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED, /* endpoint, old_left_ms, next_try_ms, error      */
    AZREDIS_EV_CONNECTION_FAILED,              /* endpoint, next_try_ms, error; once until restored  */
    AZREDIS_EV_CONNECTION_RESTORED,            /* endpoint, new_left_ms                              */
    AZREDIS_EV_ERROR_MESSAGE,                  /* endpoint, error: an error reply or refused channel */
    AZREDIS_EV_INTERNAL_ERROR,                 /* endpoint, error: a broken promise of ours or the server's */
    AZREDIS_EV_LOG,                            /* level, number, text                                */
    AZREDIS_EV_DRAINED,                        /* -: azredis_submit said AGAIN, and has room again   */
    AZREDIS_EV_DEVICE_CODE                     /* user_code, verification_uri, text, new_left_ms: show them to somebody
                                                * who signs in with them, within new_left_ms (RFC 8628 3.3). Once a code */
} azredis_event_type;

typedef enum azredis_level {
    AZREDIS_LOG_DEFAULT = 0,           /* as an option: warnings and errors */
    AZREDIS_LOG_NONE, AZREDIS_LOG_ERROR, AZREDIS_LOG_WARNING, AZREDIS_LOG_INFO, AZREDIS_LOG_DEBUG, AZREDIS_LOG_TRACE
} azredis_level;

#define AZREDIS_UNKNOWN INT64_MIN      /* a time that is not known or does not apply */

typedef enum azredis_connection {      /* what a connection is for */
    AZREDIS_CONNECTION_SHARED = 0,     /* commands, and subscriptions unless they have their own */
    AZREDIS_CONNECTION_PUBSUB,         /* subscriptions: options.pubsub, and wherever the server speaks RESP2 */
    AZREDIS_CONNECTION_LEASED          /* one caller's for a while: transactions, blocking commands */
} azredis_connection;

typedef struct azredis_event {         /* lent until the handler returns; never holds a token */
    azredis_event_type   type;
    azredis_client      *client;       /* NULL: from an azredis_auth that stands alone */
    const char          *endpoint;     /* "host:port"; NULL for token events */
    int64_t              old_left_ms;  /* life left on the old token; negative: expired; AZREDIS_UNKNOWN: none */
    int64_t              new_left_ms;  /* life of the new token, or of the device code */
    int64_t              next_try_ms;  /* until the next try or renewal */
    const azredis_error *error;
    azredis_level        level;
    int                  number;       /* stable number of the message, see the manual */
    const char          *text;
    uint32_t             dropped;      /* events that were dropped before this one; log lines below warning go first */
    const char          *user_code, *verification_uri; /* what to enter on which page; text says both in a sentence */
    azredis_connection   connection;   /* whose, where endpoint is given */
} azredis_event;

typedef void (*azredis_event_fn)(const azredis_event *lent, void *user);

/* "TokenRefreshed" for AZREDIS_EV_TOKEN_REFRESHED: the name .NET gives it. */
AZREDIS_API const char *azredis_event_name(azredis_event_type type);

/* ---- sockets of your event loop ---------------------------------------------------------------- */

#define AZREDIS_READ  1u               /* azredis_fd.want and .ready */
#define AZREDIS_WRITE 2u               /* both may be set */
typedef struct azredis_fd { intptr_t sock; uint8_t want, ready; } azredis_fd;

/* ---- port ------------------------------------------------------------------------------------ */

/* What the library needs from the system. A NULL member is built in; with AZREDIS_NO_OS nothing is, and all down
 * to free are required (alloc and free only without options.memory). Hooks are called on the thread that calls the
 * library, and must not call it. Lent to open until close. */
typedef struct azredis_port {
    void     *user;
    uint64_t (*now_ms)(void *user);                      /* never goes back; counts sleep of the machine */
    int64_t  (*unix_time)(void *user);                   /* seconds since 1970; 0: unknown, see chapter 11 */
    int      (*entropy)(void *user, void *out, size_t n);/* 0: all n bytes were filled; else it failed */
    /* One step of connecting, name look-up included. 0: call again, 1: *sock is connected, <0: -errno, and
     * nothing is left open. *sock is -1 at first and yours between the steps; unless it is -1 it goes to close if time
     * runs out before the last step. */
    int      (*connect)(void *user, const char *host, uint16_t tcp_port, intptr_t *sock);
    int      (*send)(void *user, intptr_t sock, const void *p, size_t n);   /* >0 bytes, 0 later, <0 dead */
    int      (*recv)(void *user, intptr_t sock, void *p, size_t n);         /* >0 bytes, 0 later, <0 dead */
    void     (*close)(void *user, intptr_t sock);
    void    *(*alloc)(void *user, size_t n);
    void     (*free)(void *user, void *p, size_t n);
    /* 1: enter, 0: leave the region that guards an azredis_auth which several tasks share. Short, may be nested.
     * NULL: one task uses it. Only with AZREDIS_NO_OS. */
    void     (*lock)(void *user, int enter);
    /* Sleeps until one of the n sockets is ready, wake was called (also just before), or ms have passed; may end
     * early. Need not set ready. NULL with AZREDIS_NO_OS: waiting calls spin. */
    void     (*wait)(void *user, azredis_fd *fds, size_t n, uint32_t ms);
    void     (*wake)(void *user);    /* ends wait, from any task. NULL: wait ends by itself. Only with AZREDIS_NO_OS */
    void     (*yield)(void *user);   /* before each TLS read and write, also within a handshake: feed a watchdog */
} azredis_port;

/* ---- identity -------------------------------------------------------------------------------- */

typedef enum azredis_identity {
    AZREDIS_ID_DEFAULT = 0,            /* the chain: environment, workload, managed, developer tools */
#ifndef AZREDIS_NO_OS
    AZREDIS_ID_ENVIRONMENT = 1,        /* AZURE_TENANT_ID, _CLIENT_ID, _CLIENT_SECRET or _CLIENT_CERTIFICATE_PATH */
#endif
    AZREDIS_ID_CLIENT_SECRET = 2,      /* tenant_id, client_id, client_secret           */
    AZREDIS_ID_CALLBACK = 3,           /* get_token                                     */
    AZREDIS_ID_ACCESS_KEY = 4,         /* password: the cache's access key; no Entra    */
    AZREDIS_ID_PASSWORD = 5,           /* user, password; no Entra                      */
    AZREDIS_ID_CLIENT_ASSERTION = 6,   /* tenant_id, client_id, get_assertion           */
    AZREDIS_ID_CLIENT_CERTIFICATE = 12, /* tenant_id, client_id, certificate_file or certificate */
#ifndef AZREDIS_NO_OS                  /* these read files or the environment, or run a program */
    AZREDIS_ID_WORKLOAD = 7,           /* tenant_id, client_id, federated_token_file, or the variables of AKS */
    AZREDIS_ID_MANAGED = 8,            /* of the machine; client_id, object_id or resource_id: user-assigned */
    AZREDIS_ID_MANAGED_APP = 9,        /* tenant_id, client_id: an application that trusts the managed identity
                                        * managed_client_id, object_id or resource_id (a federated credential) */
    AZREDIS_ID_TOKEN_FILE = 10,        /* token_file: somebody else keeps it fresh      */
    AZREDIS_ID_EXEC = 11,              /* exec: a program that prints a token as JSON   */
    AZREDIS_ID_AZURE_CLI = 13,         /* of who has signed in to az; tenant_id         */
    AZREDIS_ID_AZURE_DEVELOPER_CLI = 14,/* the same of azd                              */
    AZREDIS_ID_AZURE_POWERSHELL = 15,  /* the same of pwsh with the module Az.Accounts  */
#endif
    AZREDIS_ID_DEVICE_CODE = 16        /* a person signs in with a browser elsewhere; tenant_id, client_id if need be */
} azredis_identity;

/* Finds an identity by the name that .NET, our sample and our tools use: "default", "environment", "client-secret",
 * "client-certificate", "workload-identity", "managed-identity", "azure-cli", "azure-developer-cli", "azure-powershell",
 * "token-file", "exec", "access-key", "password". AZREDIS_E_ARG: unknown, or not in this build;
 * azredis_identity_why tells which, in words for people, and is NULL for a name that can be used. Static text; any thread. */
AZREDIS_API azredis_status azredis_identity_by_name(const char *name, azredis_identity *out);
AZREDIS_API const char *azredis_identity_why(const char *name);

typedef struct azredis_fetched {       /* filled by your token callback */
    char    *token;                    /* write the token here */
    size_t   cap;                      /* room at token */
    size_t   len;                      /* set: bytes written */
    int64_t  expires_on;               /* set: seconds since 1970, or 0 */
    uint32_t expires_in;               /* set: seconds from now, or 0; both 0: the token's own exp counts */
    uint32_t refresh_in;               /* set: seconds until a renewal is wanted, or 0 */
    char     reason[160];              /* set on failure: why, without secrets */
} azredis_fetched;

/* Returns AZREDIS_OK, or an error status. Called without locks, on the thread that pumps; may block. As
 * get_assertion it writes a JWT that the application's federated credential accepts (RFC 7523); scope is then NULL,
 * and the times are not looked at. */
typedef azredis_status (*azredis_token_fn)(void *user, const char *scope, azredis_fetched *out);

/* What a key of yours is to sign (RFC 7518 3.3, 3.5), always over SHA-256 */
typedef enum azredis_algorithm {
    AZREDIS_PS256 = 0,                 /* RSASSA-PSS: MGF1 with SHA-256, a salt of 32 bytes */
    AZREDIS_RS256 = 1                  /* RSASSA-PKCS1-v1_5 */
} azredis_algorithm;

typedef struct azredis_signing {
    azredis_algorithm algorithm;
    unsigned char  hash[32];           /* SHA-256 of text: what PSA, PKCS#11, a TPM and Key Vault take */
    const char    *text;               /* for keys that hash by themselves; it holds no secret */
    size_t         text_len;
    unsigned char *signature;          /* write it here: as many bytes as the key's modulus */
    size_t         cap;                /* room at signature: 512, for RSA-4096 */
    size_t         len;                /* set: bytes written */
    char           reason[160];        /* set on failure: why, without secrets */
} azredis_signing;

/* Your key, which need not leave its TPM, HSM, PSA slot or vault. Returns AZREDIS_OK, or an error status. As
 * azredis_token_fn: called without locks, on the thread that pumps, once for each token request; may block, there is no
 * "later". *s and what it points at are lent until it returns. */
typedef azredis_status (*azredis_sign_fn)(void *user, azredis_signing *s);

/* Keeps a refresh token, which is as good as the person's password for this application: encrypt it, or let nobody else
 * read it. Lent, NUL-terminated. Called like azredis_token_fn, by one thread at a time, for each new one and before the
 * token that came with it is used; the last one that was kept is enough. Not OK: a warning is logged, the program goes
 * on, and its next start may need a sign-in. */
typedef azredis_status (*azredis_save_fn)(void *user, const char *refresh_token, size_t len);

typedef enum azredis_policy {
    AZREDIS_POLICY_DEFAULT = 0,        /* renew at the soft point of the manual's chapter on renewal */
    AZREDIS_POLICY_SEED                /* as Microsoft.Azure.StackExchangeRedis: 5 min before expiry, every 2 min */
} azredis_policy;

/* Zero it, set what you need. azredis_auth_open copies all strings; ca, certificate, key and port are lent until release. */
typedef struct azredis_auth_options {
    azredis_identity    identity;
    const char         *tenant_id, *client_id, *client_secret;
    const char         *user;            /* Redis user name; NULL: the token's oid claim */
    const char         *password;        /* access key or password */
    const char         *authority_host;  /* NULL: AZURE_AUTHORITY_HOST, then that of the Redis host's cloud, then the public one */
    const char         *allow_authority; /* an authority host outside Microsoft's list that may get the secret */
    const char         *scope;           /* NULL: https://redis.azure.com/.default */
    azredis_token_fn    get_token;       /* AZREDIS_ID_CALLBACK */
    void               *get_token_user;
    azredis_token_fn    get_assertion;   /* AZREDIS_ID_CLIENT_ASSERTION; called for each token request */
    void               *get_assertion_user;
    const char         *object_id;       /* of a user-assigned managed identity, instead of its client id */
    const char         *resource_id;     /* the same by ARM resource id: /subscriptions/... */
    const char         *managed_client_id;/* AZREDIS_ID_MANAGED_APP: client id of the managed identity */
    const char         *federated_token_file;/* NULL: AZURE_FEDERATED_TOKEN_FILE; read at each token request */
    int                 kubernetes_proxy;/* 1: workload identity asks AZURE_KUBERNETES_TOKEN_PROXY (AKS identity binding) */
    const char         *token_file;      /* AZREDIS_ID_TOKEN_FILE; read at each renewal */
    const char         *exec;            /* AZREDIS_ID_EXEC: absolute path of a program, see the manual */
    const char         *proxy;           /* http://[user:password@]host:port for requests to the authority; NULL: none */
    const char         *ca_file;         /* PEM bundle; NULL: SSL_CERT_FILE, then the system's */
    const void         *ca;              /* PEM (with its NUL) or DER in memory; wins over ca_file */
    size_t              ca_len;
    uint32_t            request_ms;      /* one request to a token endpoint; 0: 30 s */
    uint32_t            chain_ms;        /* one walk of the chain; 0: 30 s, of a managed identity 100 s */
    azredis_policy      policy;
    const azredis_port *port;
    azredis_event_fn    on_event;        /* token events and log of an auth that stands alone */
    void               *event_user;
    azredis_level       log_level;
    uint64_t            seed;            /* for tests: replays the random numbers; 0: from entropy */
    const char         *config;          /* as in azredis_options: what it says of the identity and of roots to trust */

    /* AZREDIS_ID_CLIENT_CERTIFICATE: PEM or PKCS#12, other certificates of the chain may follow. Files are read at each
     * token request; what one held before is used on while it cannot be parsed. */
    const char         *certificate_file;
    const char         *key_file;        /* PEM; NULL: the key is in certificate_file */
    const void         *certificate;     /* the same in memory, instead of the files */
    size_t              certificate_len;
    const void         *key;
    size_t              key_len;
    const char         *certificate_password;/* of the key; NULL: AZURE_CLIENT_CERTIFICATE_PASSWORD */
    int                 send_chain;      /* 1: the chain goes along (x5c), for applications that trust by subject name and
                                          * issuer; 0: if AZURE_CLIENT_SEND_CERTIFICATE_CHAIN says 1 or true */
    int                 rs256;           /* 1: RS256 with a SHA-1 thumbprint instead of PS256 with SHA-256 */
    azredis_sign_fn     sign;            /* signs instead of a key in memory; the certificate is still needed */
    void               *sign_user;

    /* AZREDIS_ID_DEVICE_CODE, so that a restart needs no sign-in. load_refresh writes what save_refresh was given last;
     * AZREDIS_AGAIN or len 0: nothing is kept. It is asked while there is no refresh token in memory; its scope is NULL.
     * Errors, and a token that Entra no longer takes, lead to a sign-in. NULL: kept in memory alone. */
    azredis_token_fn    load_refresh;
    azredis_save_fn     save_refresh;
    void               *refresh_user;
} azredis_auth_options;

/* What a link of the chain said on the last walk. */
typedef struct azredis_link_record {
    char     name[24];                 /* "environment" */
    char     outcome[16];              /* "token", "unavailable", "failed" */
    char     reason[200];
    uint32_t ms;
} azredis_link_record;

/* Whom the live token speaks for. Read from its claims and never verified: that is for Redis to do. */
typedef struct azredis_auth_info_data {
    char     credential[24];           /* the identity that gave it: "environment" */
    char     user[64];                 /* the user name for AUTH: the oid */
    char     tenant[64], audience[160];/* its tid and aud; "": it does not say */
    int64_t  expires_on;               /* its exp, seconds since 1970; 0: it does not say */
    int64_t  expires_in_ms;            /* life left; AZREDIS_UNKNOWN: a password, which never expires */
} azredis_auth_info_data;

#ifndef AZREDIS_LEAN
/* Never NULL but for out of memory or a foreign version. No I/O. Wrong options: an auth that answers
 * every call with AZREDIS_E_ARG and names the option. */
AZREDIS_API azredis_auth *azredis_auth_open_v(const azredis_auth_options *o, size_t size, unsigned version);
static inline azredis_auth *azredis_auth_open(const azredis_auth_options *o) {
    return azredis_auth_open_v(o, sizeof *o, AZREDIS_VERSION);
}

#ifndef AZREDIS_NO_MALLOC
/* Copies the live token into *out, fetching one first if there is none, and renews it: each call while the next one
 * is under way (renew_in_ms is 0 then) takes its request a step further, without waiting for it. Waits at most wait_ms
 * for a first token; 0 makes one non-blocking step and returns AZREDIS_AGAIN until there is a token. why may be NULL;
 * unless OK, *why is set. Any thread. The auth's on_event is called here, on one thread at a time. */
AZREDIS_API azredis_status azredis_auth_token(azredis_auth *a, azredis_token *out, uint32_t wait_ms,
                                              azredis_error *why);
AZREDIS_API void azredis_token_wipe(azredis_token *t);        /* zeroes and frees the copy; NULL is allowed */

/* A rehearsal: every client of a soon presents its credentials once more on each live connection, as it does with a new
 * token, and tells of it by the same events. Fetches nothing. AGAIN: there is no live token; E_NOMEM: the client lives in
 * memory of yours. Any thread. */
AZREDIS_API azredis_status azredis_auth_rehearse(azredis_auth *a);
#endif
AZREDIS_API void azredis_auth_release(azredis_auth *a);       /* drops your reference; the last one wipes */

/* The identity of a client, with a reference for you, which azredis_auth_release drops: for a second client, or to ask
 * whose token it has. NULL only if c is. Any thread. */
AZREDIS_API azredis_auth *azredis_client_auth(azredis_client *c);

/* The oldest link of the last walk is 0; AZREDIS_AGAIN past the end. */
AZREDIS_API azredis_status azredis_auth_record(azredis_auth *a, size_t index, azredis_link_record *out);

/* OK: *out is filled. AGAIN: there is no live token; E_ARG: wrong options. In both cases *out has only the
 * credential, and only if the options name one. No I/O. Any thread. size: of *out, as the caller knows it. */
AZREDIS_API azredis_status azredis_auth_info_v(azredis_auth *a, azredis_auth_info_data *out, size_t size);
static inline azredis_status azredis_auth_info(azredis_auth *a, azredis_auth_info_data *out) {
    return azredis_auth_info_v(a, out, sizeof *out);
}
#endif

/* ---- client ---------------------------------------------------------------------------------- */

typedef enum azredis_renewal {
    AZREDIS_RENEWAL_IN_PLACE = 0,      /* the token is fetched beside the connection, which then goes on with it */
    AZREDIS_RENEWAL_RECONNECT          /* for devices without room for two TLS connections: the open commands are answered,
                                        * the connection ends, the token is fetched, a new connection is made; commands
                                        * wait meanwhile and none is lost, messages may be (gap) */
} azredis_renewal;

typedef enum azredis_pubsub {            /* where subscriptions live */
    AZREDIS_PUBSUB_SHARED = 0,           /* on the connection of the commands; over RESP2, which cannot, on one of their own */
    AZREDIS_PUBSUB_SEPARATE = 1          /* on one of their own: the server's pub/sub output limit is then not that of replies */
} azredis_pubsub;

typedef enum azredis_reauth {            /* how a live connection gets the next token, with AZREDIS_RENEWAL_IN_PLACE */
    AZREDIS_REAUTH_INLINE = 0,           /* AUTH between two commands. By handover where the last AUTH took more than 1 s */
    AZREDIS_REAUTH_QUIESCED = 1,         /* AUTH when all that was written is answered; meanwhile commands wait */
    AZREDIS_REAUTH_HANDOVER = 2          /* a second connection with the new token takes over */
} azredis_reauth;

/* Zero it, set what you need. azredis_open copies all strings; ca and port are lent until close. */
typedef struct azredis_options {
    const char         *host;            /* "name.region.redis.azure.net", with :port or as [v6]:port if you like */
    uint16_t            tcp_port;        /* 0: from host, else by its suffix (classic 6380, else 10000; no TLS: 6379) */
    azredis_auth       *auth;            /* shared identity; the client takes a reference of its own */
    const azredis_auth_options *identity;/* used when auth is NULL; NULL too: the default chain */
    const char         *tls_host;        /* name to verify and to send as SNI; NULL: the host */
    int                 plaintext;       /* 1: no TLS; only to loopback or to a unix socket ("/path" as host) */
    const char         *ca_file;         /* as in azredis_auth_options */
    const void         *ca;
    size_t              ca_len;
    int                 protocol;        /* 0 or 3: RESP3, falling back only if the server lacks it; 2: RESP2 */
    const char         *client_name;     /* for CLIENT LIST; other characters than 33..126 become '_' */
    uint32_t            database;        /* SELECT; Azure Managed Redis has database 0 only */
    uint32_t            connect_ms;      /* name look-up, TCP and TLS together; 0: 5 s */
    uint32_t            auth_ms;         /* AUTH and the rest of the Redis handshake; 0: 15 s */
    uint32_t            command_ms;      /* one command from the call (azredis_submit: the next turn) to its end; 0: 5 s */
    uint32_t            keepalive_ms;    /* PING after so much silence; 0: 60 s */
    uint32_t            renew_ms;        /* how long a plain call may stay for a token renewal; 0: 2 s */
    int                 abort_on_connect_fail; /* 1: a first connection that fails, connect_retry times, ends the client */
    int                 fail_fast;       /* 1: commands while not connected fail at once, NOT_SENT */
    size_t              max_reply;       /* memory of one reply; 0: 512 MiB */
    uint32_t            backlog_count;   /* commands waiting; 0: 10 000 */
    size_t              backlog_bytes;   /* bytes waiting; 0: 64 MiB */
    uint32_t            sub_queue;       /* messages waiting in one subscription; 0: 10 000 */
    const azredis_port *port;
    azredis_event_fn    on_event;        /* NULL: warnings and errors go to stderr */
    void               *event_user;
    azredis_level       log_level;
    uint64_t            seed;            /* for tests: replays the random numbers; 0: from entropy */
    const char         *config;          /* connection string or rediss:// URL, manual chapter 10; NULL, "": none. It
                                            fills members above, and of identity, that are 0, NULL or "": one that is
                                            set wins, so a flag that the string sets cannot be unset beside it. host
                                            brings its port with it; an auth brings its whole identity. */
    /* A client that lives in memory of yours, of azredis_memory_needed bytes, and calls no allocator. Lent until close.
     * It is used by one thread; ca must be given and config not; nothing is read from the environment; azredis_exec
     * and azredis_start answer E_NOMEM. */
    void               *memory;          /* aligned for uint64_t; NULL: port.alloc */
    size_t              memory_size;
    uint32_t            rx_bytes;        /* memory: longest answer; a longer one is skipped, E_LIMIT + ANSWERED; 0: 2048 */
    uint32_t            command_bytes;   /* memory: longest command as it is sent; at least 128; 0: 256 */
    uint32_t            replies;         /* memory: answers that exist at once: your azredis_reply without a buffer of
                                          * their own until they are freed, and the one in a callback; 0: 2 */
    uint32_t            subscriptions;   /* memory: subscriptions at once; 0: none */
    uint32_t            message_bytes;   /* memory: channel and payload of one message; a longer one is lost; 0: 256 */
    azredis_renewal     renewal;
    azredis_pubsub      pubsub;
    azredis_reauth      reauth;
    uint32_t            leases;          /* connections leased at once, for transactions and blocking commands; 0: 16, at most 32 */
    uint32_t            connect_retry;   /* so many tries of abort_on_connect_fail, if the cause may pass by itself; 0: 3 */
} azredis_options;

#ifndef AZREDIS_NO_ARENA
/* Bytes that azredis_options.memory needs for these options: exactly what the client can come to use, with backlog_count
 * commands (0: 16) and sub_queue messages (0: 4) waiting. 0: wrong options. mbedTLS's memory is not in it. */
AZREDIS_API size_t azredis_memory_needed_v(const azredis_options *o, size_t size, unsigned version);
static inline size_t azredis_memory_needed(const azredis_options *o) {
    return azredis_memory_needed_v(o, sizeof *o, AZREDIS_VERSION);
}
#endif

/* Copies options, allocates, no I/O. NULL only for out of memory (options.memory is too small or not aligned) or a
 * foreign version; any other mistake is reported by every later call. Every call accepts NULL as client and answers AZREDIS_E_NOMEM. */
AZREDIS_API azredis_client *azredis_open_v(const azredis_options *o, size_t size, unsigned version);
static inline azredis_client *azredis_open(const azredis_options *o) {
    return azredis_open_v(o, sizeof *o, AZREDIS_VERSION);
}

#ifndef AZREDIS_NO_CONFIG
/* Options, with what o->config adds, as a connection string that can be read again; secrets are shown as ***, which
 * is read as "not given". Left out: callbacks, ca and port, log level, seed. Like snprintf: at most cap bytes with the
 * NUL, returns the length without it that was wanted. A wrong o->config: "(wrong: " and the reason. Any thread. */
AZREDIS_API size_t azredis_describe_v(const azredis_options *o, size_t size, unsigned version, char *buf, size_t cap);
static inline size_t azredis_describe(const azredis_options *o, char *buf, size_t cap) {
    return azredis_describe_v(o, sizeof *o, AZREDIS_VERSION, buf, cap);
}
#endif

/* Optional: pumps until the connection is ready. *why may be NULL. An error that cannot pass by itself, or any
 * error with abort_on_connect_fail, ends the wait at once. */
AZREDIS_API azredis_status azredis_connect(azredis_client *c, uint32_t wait_ms, azredis_error *why);

/* Ends everything: commands still queued end NOT_SENT, those in flight MAYBE_RUN, both E_CLOSED; subscriptions
 * are freed. In a callback it only marks: the last callbacks are made and memory goes when that one has returned, with
 * azredis_start on its thread. NULL is allowed. */
AZREDIS_API void azredis_close(azredis_client *c);

/* ---- commands -------------------------------------------------------------------------------- */

/* Blocks and pumps until the answer is there or command_ms has passed. r may be NULL. Arguments are strings:
 * azredis_command(c, &r, "EXPIRE", "k", "60"). Numbers and binary data go through azredis_command_argv. */
AZREDIS_API azredis_status azredis_command(azredis_client *c, azredis_reply *r, const char *arg0, ...);
#define azredis_command(...) azredis_command(__VA_ARGS__, (const char *)0)
AZREDIS_API azredis_status azredis_command_argv(azredis_client *c, azredis_reply *r, const azredis_call *how,
                                                int argc, const azredis_str *argv);

#ifndef AZREDIS_NO_MALLOC
/* n commands in one flight; the value is an array of n. Not atomic: other commands may come between. An error
 * reply is an element of it. If any answer is missing, status and fate tell of the first one that is.
 * With AZREDIS_ATOMIC they are one transaction (MULTI, EXEC) on a leased connection, and status tells what came of it:
 * OK: committed, an error reply is an element (Redis does not roll back); AZREDIS_E_CONDITION; AZREDIS_E_CONFLICT; the
 * error of the first command that the server did not queue: nothing ran; anything else with MAYBE_RUN: EXEC was written
 * and not answered. Scripts go by EVAL there. */
AZREDIS_API azredis_status azredis_exec(azredis_client *c, azredis_reply *r, const azredis_call *how,
                                        const azredis_cmd *cmd, size_t n);

/* A connection of your own, for what the shared one refuses: WATCH, MULTI, EXEC, SELECT, WAIT, CLIENT TRACKING and so on. It is
 * authenticated again as all are, but not within a transaction. One thread at a time. When it is lost, so is its state:
 * every call fails then, and nothing is repeated on another connection. NULL: *why tells (why may be NULL). Waits for
 * the connection, and while options.leases are in use. */
AZREDIS_API azredis_lease *azredis_lease_open(azredis_client *c, uint32_t wait_ms, azredis_error *why);
AZREDIS_API azredis_status azredis_lease_command_argv(azredis_lease *l, azredis_reply *r, const azredis_call *how, int argc,
                                                      const azredis_str *argv);
/* Gives it back; one that is left in a transaction or another database is closed. NULL is allowed. azredis_close ends all. */
AZREDIS_API void azredis_lease_close(azredis_lease *l);

/* A blocking command, which others would wait behind on the shared connection, on one that is leased for this call:
 * BLPOP BRPOP BLMOVE BRPOPLPUSH BLMPOP BZPOPMIN BZPOPMAX BZMPOP, XREAD and XREADGROUP with BLOCK. It blocks as long as
 * the command says, 0: for ever, through renewals and reconnects, and at most how->timeout_ms (0: no such limit) and, when
 * the connection is lost, command_ms more. It is sent in slices of up to 30 s, so that tokens can be shown between them:
 * each slice stands at the end of the server's queue again. `$` of XREAD means the stream's end when the call began, so
 * that nothing is missed between two slices. Nothing came in time: OK and the server's NIL. If the connection is lost
 * under a command that takes something away, it may have: MAYBE_RUN; XREAD goes on. azredis_close ends it at once, also
 * from another thread; azredis_wake does not. A timeout that is no plain number, or any other command: AZREDIS_E_ARG. */
AZREDIS_API azredis_status azredis_block(azredis_client *c, azredis_reply *r, const azredis_call *how, int argc,
                                         const azredis_str *argv);
#endif

/* Queues and returns; never does I/O. OK: fn (which may be NULL) runs exactly once, in a later call that pumps.
 * AZREDIS_AGAIN: the backlog is full and nothing was queued; pump with azredis_wait, then try again. Its time
 * begins with the next turn: what you do before you pump is not counted. */
AZREDIS_API azredis_status azredis_submit(azredis_client *c, const azredis_call *how, int argc,
                                          const azredis_str *argv, azredis_reply_fn fn, void *user);

/* Pumps for ms milliseconds (0: one turn that waits for nothing): renewals, keepalive, messages and submitted
 * commands live on in it. The idle time of a plain program. */
AZREDIS_API azredis_status azredis_wait(azredis_client *c, uint32_t ms);

/* Ends a running azredis_wait, or the next one; in a loop of your own the wait on the sockets of azredis_fds. Any
 * thread, and in a signal handler. */
AZREDIS_API void azredis_wake(azredis_client *c);

/* ---- your event loop --------------------------------------------------------------------------- */

/* The sockets to watch now: connections, token requests, and one that tells of finished name look-ups and of
 * azredis_wake. Returns how many there are; at most cap are written, those with the most work first. After any
 * call on c ask again, together with azredis_timeout_ms, before you sleep. A socket that was listed is closed only
 * in the azredis_process that follows a list without it, so you can stop watching it first; before azredis_close
 * stop watching them all. With cap too small (64 is enough) the rest is looked at every 10 ms. 0 after azredis_start. */
AZREDIS_API size_t azredis_fds(azredis_client *c, azredis_fd *out, size_t cap);
/* When to call azredis_process at the latest if no socket is ready: 0 to 30000 ms. Never later, and nothing expires. */
AZREDIS_API int azredis_timeout_ms(azredis_client *c);
/* One step: what is ready, what is due, callbacks. Never waits, but a TLS handshake costs CPU time (milliseconds,
 * more on small machines). `ready` of fds is a hint and may stay 0; NULL, 0: try every socket, nobody watches any.
 * In a callback: AZREDIS_E_STATE. AZREDIS_E_CLOSED: a callback has closed c, which is gone. */
AZREDIS_API azredis_status azredis_process(azredis_client *c, const azredis_fd *fds, size_t n);

/* ---- threads ----------------------------------------------------------------------------------- */

#if !defined(AZREDIS_NO_THREADS) && !defined(AZREDIS_NO_OS)
/* From now on any thread may call, and renewals, keepalive and subscriptions go on while nobody does. Starts two
 * threads: one for I/O, one on which all callbacks run, one at a time. Once, before other threads know c; it lasts
 * until azredis_close, which then waits until no other thread is inside. AZREDIS_E_STATE: started already. */
AZREDIS_API azredis_status azredis_start(azredis_client *c);
#endif

/* ---- replies --------------------------------------------------------------------------------- */

AZREDIS_API const azredis_value *azredis_field(const azredis_value *v, const char *key); /* map or flat array; NULL if absent */
AZREDIS_API const azredis_value *azredis_attribute(const azredis_value *v);  /* the reply's attribute map; NULL if none */
AZREDIS_API azredis_status azredis_int(const azredis_value *v, int64_t *out);     /* integer, bool, or text that is one */
AZREDIS_API azredis_status azredis_double(const azredis_value *v, double *out);   /* double, integer or text; locale-free */
AZREDIS_API azredis_status azredis_bool(const azredis_value *v, int *out);        /* bool, or integer 0 / 1 */
AZREDIS_API azredis_str azredis_text(const azredis_value *v);                     /* any kind of string; {NULL,0} otherwise */
#ifndef AZREDIS_NO_MALLOC
AZREDIS_API azredis_status azredis_reply_copy(azredis_reply *to, const azredis_reply *from); /* keep a lent reply */
#endif
AZREDIS_API void azredis_reply_free(azredis_reply *r);       /* frees and zeroes */

#ifndef AZREDIS_NO_MALLOC
/* ---- scripts --------------------------------------------------------------------------------- */

/* A Lua script and its name. Once azredis_script_init has returned, any number of calls and threads may use it. */
typedef struct azredis_script {
    azredis_str text;                  /* lent to it */
    int         read_only;             /* 1: EVALSHA_RO and EVAL_RO, of Redis 7 */
    char        sha1[41];              /* "": mbedTLS is built without SHA-1, so the text is always sent */
} azredis_script;

AZREDIS_API void azredis_script_init(azredis_script *s, const char *text, size_t len);

/* Runs it on argv: nkeys keys, then arguments. Sends its name and, only if the server then answers NOSCRIPT, which says
 * that nothing ran, its text; each of the two may take the call's time. Status and fate are those of the script: one
 * that was lost on the way (MAYBE_RUN) is not sent again. The script must not return an error that begins with NOSCRIPT
 * itself. In a transaction send EVAL: there a NOSCRIPT would come too late. */
AZREDIS_API azredis_status azredis_eval(azredis_client *c, azredis_reply *r, const azredis_call *how,
                                        const azredis_script *s, int nkeys, int argc, const azredis_str *argv);

/* ---- scans ----------------------------------------------------------------------------------- */

typedef enum azredis_scan_kind { AZREDIS_SCAN = 0, AZREDIS_SSCAN, AZREDIS_HSCAN, AZREDIS_ZSCAN } azredis_scan_kind;

/* Zero it and set what you need; the strings are lent to it.
 *     azredis_scan it = {0};
 *     it.match = "user:*";
 *     while (azredis_scan_next(c, &it)) puts(it.name->as.str);
 *     if (it.reply.status != AZREDIS_OK) puts(it.reply.error->message);
 *     azredis_scan_free(&it);
 * What is there from the first call to the last is seen at least once; what comes or goes meanwhile may be. */
typedef struct azredis_scan {
    azredis_scan_kind    kind;
    azredis_str          key;          /* of the set, hash or sorted set */
    const char          *match;        /* a pattern; NULL: all */
    const char          *type;         /* AZREDIS_SCAN: keys of this type, "hash"; NULL: all */
    uint32_t             count;        /* how much the server looks at in one command; 0: its own 10 */
    const azredis_call  *how;
    /* What it found, lent until the next call. */
    const azredis_value *name;         /* key, member or field */
    const azredis_value *value;        /* AZREDIS_HSCAN: its value, AZREDIS_ZSCAN: its score (azredis_double); else NULL */
    azredis_reply        reply;        /* of the last command: why it ended */
    /* ours */
    char                 cursor[24];
    uint32_t             at;
    int                  last;
} azredis_scan;

/* 1: found one. 0: the end if it->reply.status is AZREDIS_OK, else a failure, after which the next call goes on where
 * this one stopped. Blocks as azredis_command does. */
AZREDIS_API int azredis_scan_next(azredis_client *c, azredis_scan *it);
AZREDIS_API void azredis_scan_free(azredis_scan *it);        /* at any time; zeroes it */
#endif

/* ---- common commands ------------------------------------------------------------------------- */

/* Each is one azredis_command_argv; keys, fields and channels are text, values any bytes. r may be NULL where the
 * answer is no data; given, it has fate and error of the call. A number goes to *out, which may be NULL. */

static inline azredis_str azredis_z(const char *z) {
    azredis_str s;
    s.ptr = z;
    s.len = strlen(z);
    return s;
}

/* n in decimal, in room. */
static inline azredis_str azredis_digits(char room[24], int64_t n) {
    uint64_t left = n < 0 ? ~(uint64_t)n + 1 : (uint64_t)n;
    azredis_str s;
    size_t at = 24;
    do room[--at] = (char)('0' + (int)(left % 10));
    while (left /= 10);
    if (n < 0) room[--at] = '-';
    s.ptr = room + at;
    s.len = 24 - at;
    return s;
}

/* name key a b, of which the first argc are sent; the answer as a number. */
static inline azredis_status azredis_call_int(azredis_client *c, azredis_reply *r, int argc, const char *name,
                                              const char *key, azredis_str a, azredis_str b, int64_t *out) {
    azredis_reply own;
    azredis_status st;
    azredis_str argv[4];
    argv[0] = azredis_z(name);
    argv[1] = azredis_z(key);
    argv[2] = a;
    argv[3] = b;
    memset(&own, 0, sizeof own);
    if (!r) r = &own;
    st = azredis_command_argv(c, r, NULL, argc, argv);
    if (st == AZREDIS_OK && out) st = azredis_int(r->value, out);
    azredis_reply_free(&own);
    return st;
}

/* A value of AZREDIS_T_NIL: there is none. */
static inline azredis_status azredis_get(azredis_client *c, azredis_reply *r, const char *key) {
    return azredis_call_int(c, r, 2, "GET", key, azredis_z(""), azredis_z(""), NULL);
}

static inline azredis_status azredis_set(azredis_client *c, azredis_reply *r, const char *key, azredis_str value) {
    return azredis_call_int(c, r, 3, "SET", key, value, azredis_z(""), NULL);
}

/* Gone after ms milliseconds. */
static inline azredis_status azredis_set_for(azredis_client *c, azredis_reply *r, const char *key, azredis_str value,
                                             int64_t ms) {
    char room[24];
    return azredis_call_int(c, r, 4, "PSETEX", key, azredis_digits(room, ms), value, NULL);
}

/* *out: 1 set, 0 there was one already. */
static inline azredis_status azredis_set_new(azredis_client *c, azredis_reply *r, const char *key, azredis_str value,
                                             int64_t *out) {
    return azredis_call_int(c, r, 3, "SETNX", key, value, azredis_z(""), out);
}

/* *out: 1 deleted, 0 there was none. */
static inline azredis_status azredis_del(azredis_client *c, azredis_reply *r, const char *key, int64_t *out) {
    return azredis_call_int(c, r, 2, "DEL", key, azredis_z(""), azredis_z(""), out);
}

static inline azredis_status azredis_exists(azredis_client *c, azredis_reply *r, const char *key, int64_t *out) {
    return azredis_call_int(c, r, 2, "EXISTS", key, azredis_z(""), azredis_z(""), out);
}

static inline azredis_status azredis_incr_by(azredis_client *c, azredis_reply *r, const char *key, int64_t by,
                                             int64_t *out) {
    char room[24];
    return azredis_call_int(c, r, 3, "INCRBY", key, azredis_digits(room, by), azredis_z(""), out);
}

/* *out: 1 will be gone after ms milliseconds, 0 there is none. */
static inline azredis_status azredis_expire(azredis_client *c, azredis_reply *r, const char *key, int64_t ms,
                                            int64_t *out) {
    char room[24];
    return azredis_call_int(c, r, 3, "PEXPIRE", key, azredis_digits(room, ms), azredis_z(""), out);
}

static inline azredis_status azredis_hget(azredis_client *c, azredis_reply *r, const char *key, const char *field) {
    return azredis_call_int(c, r, 3, "HGET", key, azredis_z(field), azredis_z(""), NULL);
}

/* *out: 1 a new field, 0 it has got another value. */
static inline azredis_status azredis_hset(azredis_client *c, azredis_reply *r, const char *key, const char *field,
                                          azredis_str value, int64_t *out) {
    return azredis_call_int(c, r, 4, "HSET", key, azredis_z(field), value, out);
}

/* For azredis_field: a map, over RESP2 a flat array. */
static inline azredis_status azredis_hgetall(azredis_client *c, azredis_reply *r, const char *key) {
    return azredis_call_int(c, r, 2, "HGETALL", key, azredis_z(""), azredis_z(""), NULL);
}

/* *out: how long the list is now. */
static inline azredis_status azredis_lpush(azredis_client *c, azredis_reply *r, const char *key, azredis_str value,
                                           int64_t *out) {
    return azredis_call_int(c, r, 3, "LPUSH", key, value, azredis_z(""), out);
}

/* *out: how many have received it. */
static inline azredis_status azredis_publish(azredis_client *c, azredis_reply *r, const char *channel,
                                             azredis_str payload, int64_t *out) {
    return azredis_call_int(c, r, 3, "PUBLISH", channel, payload, azredis_z(""), out);
}

static inline azredis_status azredis_ping(azredis_client *c, azredis_reply *r) {
    return azredis_call_int(c, r, 1, "PING", "", azredis_z(""), azredis_z(""), NULL);
}

/* ---- pub/sub --------------------------------------------------------------------------------- */

#define AZREDIS_CHANNEL 0              /* azredis_subscribe kind: a plain channel */
#define AZREDIS_PATTERN 1              /* all channels that fit: "news.*". A channel of the same text is another */

/* Subscribes now or as soon as there is a connection, and again on every later one. Each call is a subscription of its
 * own, whatever others have of the same channel. fn NULL: pull with azredis_next. NULL: out of memory or kind unknown.
 * A refusal (NOPERM) is an ErrorMessage event, azredis_next and azredis_subscribed return it, and the next connection
 * asks again. */
AZREDIS_API azredis_sub *azredis_subscribe(azredis_client *c, int kind, const char *channel,
                                           azredis_message_fn fn, void *user);

typedef enum azredis_overflow {        /* what a message does that finds the queue full */
    AZREDIS_OVERFLOW_OLDEST = 0,       /* it pushes the oldest out */
    AZREDIS_OVERFLOW_NEWEST = 1,       /* it is lost itself */
    AZREDIS_OVERFLOW_CLOSE = 2         /* it ends the subscription, by an ErrorMessage event: what waits can still be
                                        * read, then azredis_next returns AZREDIS_E_LIMIT */
} azredis_overflow;

typedef struct azredis_sub_options {
    int                kind;
    const char        *channel;        /* or pattern; copied */
    azredis_message_fn fn;
    void              *user;
    uint32_t           count;          /* messages waiting; 0: options.sub_queue */
    size_t             bytes;          /* of their channels and payloads; 0: 64 MiB. A larger message is always lost */
    azredis_overflow   overflow;
} azredis_sub_options;

#ifndef AZREDIS_LEAN
/* azredis_subscribe with a queue of its own measure. */
AZREDIS_API azredis_sub *azredis_subscribe_with_v(azredis_client *c, const azredis_sub_options *o, size_t size,
                                                  unsigned version);
static inline azredis_sub *azredis_subscribe_with(azredis_client *c, const azredis_sub_options *o) {
    return azredis_subscribe_with_v(c, o, sizeof *o, AZREDIS_VERSION);
}
#endif

/* Pumps until the server has answered: OK, it has confirmed and what is published now arrives; AZREDIS_E_NOPERM and
 * others, with the server's words in *why (may be NULL); AZREDIS_E_TIMEOUT: no answer, or no connection, in wait_ms. */
AZREDIS_API azredis_status azredis_subscribed(azredis_sub *s, uint32_t wait_ms, azredis_error *why);
/* Pumps until a message is there. It is lent until the next azredis_next on s. */
AZREDIS_API azredis_status azredis_next(azredis_sub *s, azredis_message *out, uint32_t wait_ms);
/* No message after it returns; s is freed. In a callback: when that has returned. NULL is allowed. */
AZREDIS_API void azredis_unsubscribe(azredis_sub *s);

/* ---- insight --------------------------------------------------------------------------------- */

/* The upper bounds in ms of a histogram's places; the last place has none. */
#define AZREDIS_LATENCY_BOUNDS {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000}
#define AZREDIS_LATENCY_PLACES 13         /* one for each bound, and one for what took longer than all */

typedef struct azredis_latency {
    uint64_t count, sum_ms;
    uint64_t place[AZREDIS_LATENCY_PLACES];    /* how many took longer than the bound before and at most this one */
} azredis_latency;

typedef struct azredis_stats_data {
    int      connected;                /* 1: commands flow */
    uint32_t tokens, token_failures, token_failures_in_row;
    uint32_t connects, reconnects, reauths, reauth_failures;
    int64_t  token_left_ms;            /* AZREDIS_UNKNOWN: none, or a password that never expires */
    int64_t  token_next_ms;            /* until the next renewal or retry */
    int64_t  outage_budget_ms;         /* if Entra stopped now, service would go on for so long */
    uint64_t commands_ok, commands_failed, messages, messages_lost, pushes_dropped;
    uint64_t bytes_in, bytes_out;
    uint32_t waiting, in_flight;       /* commands not written yet; written and unanswered */
    int64_t  last_read_ms, last_write_ms; /* ago; AZREDIS_UNKNOWN: never */
    uint32_t handovers;                /* connections replaced by a new one without a break; not in reconnects */
    uint32_t connections;              /* that are ready now: the shared one, that of subscriptions, leased ones, heirs */
    azredis_latency auth_latency;      /* of AUTH that was accepted: connects and reauths */
    azredis_latency command_latency;   /* from written to answered, late answers too; by the clock of the turns */
} azredis_stats_data;

#ifndef AZREDIS_LEAN
AZREDIS_API void azredis_stats_v(azredis_client *c, azredis_stats_data *out, size_t size);
static inline void azredis_stats(azredis_client *c, azredis_stats_data *out) { azredis_stats_v(c, out, sizeof *out); }
#endif

AZREDIS_API const char *azredis_status_text(azredis_status s);
AZREDIS_API const char *azredis_build_info(void);             /* version, mbedTLS, limits, switches */

#ifndef AZREDIS_NO_OS
/* A ready event handler: one line with UTC time for each event, to the FILE * given as user (NULL: stderr). */
AZREDIS_API void azredis_print_event(const azredis_event *lent, void *user);
#endif

#endif /* AZREDIS_ENTRA_H */

/* ================================================================================================
 *                                       IMPLEMENTATION
 * ================================================================================================ */
#ifdef AZREDIS_ENTRA_IMPLEMENTATION
#ifndef AZRI_IMPLEMENTED
#define AZRI_IMPLEMENTED

/* ==== >>conf ============================================================== uses: - ==============
 * Compiler, limits. Every limit is here, with its reason; tests may lower those under #ifndef.
 * ================================================================================================ */
#include <limits.h>
#include <stdarg.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#  define AZRI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#  define AZRI_UNUSED __attribute__((unused))
#  define AZRI_APART __attribute__((noinline))   /* its frame is only there while it runs: it is large, or seldom needed */
#else
#  define AZRI_PRINTF(f, a)
#  define AZRI_UNUSED
#  define AZRI_APART
#endif

/* Small, and on the way of every command: a call would cost more than it does. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(AZREDIS_NO_OS)
#  define AZRI_ALONG inline __attribute__((always_inline))
#else
#  define AZRI_ALONG inline
#endif

/* With -Os it is there once: small and used in many places, or in a caller that is large enough without it. */
#ifdef __OPTIMIZE_SIZE__
#  define AZRI_ONCE AZRI_APART
#  define AZRI_INLINE AZRI_APART
#else
#  define AZRI_ONCE
#  define AZRI_INLINE inline
#endif

/* Words for people. AZREDIS_NO_TEXT drops them where they stand: the compiler looks at what they would show, so that
 * nothing is unused, and computes none of it. */
#ifdef AZREDIS_NO_TEXT
#  define AZRI_WITH_TEXT 0
#  define AZRI_TEXT(words) ""
#  define AZRI_UNSAID(...) ((void)(0 && azri_words(__VA_ARGS__)))
#  define AZRI_SAY(to, cap, ...) (AZRI_UNSAID(__VA_ARGS__), (void)(cap), *(to) = '\0')
#else
#  define AZRI_WITH_TEXT 1
#  define AZRI_TEXT(words) words
#  define AZRI_SAY(...) ((void)azri_fmt(__VA_ARGS__))
#endif

/* A switch of a whole flow is a constant: what it leaves out is compiled, found unreachable and dropped. */
#ifdef AZREDIS_NO_HTTP
#  define AZRI_WITH_HTTP 0
#else
#  define AZRI_WITH_HTTP 1
#endif

#if defined(AZREDIS_NO_HTTP) || defined(AZREDIS_NO_PROXY)
#  define AZRI_WITH_PROXY 0
#else
#  define AZRI_WITH_PROXY 1
#endif

/* Identities that need more than this build has are left out of it. */
#if defined(AZREDIS_NO_HTTP) && !defined(AZREDIS_NO_CERTIFICATE)
#  define AZREDIS_NO_CERTIFICATE
#endif
#if defined(AZREDIS_LEAN) && !defined(AZREDIS_NO_MANAGED)    /* metadata services have no TLS */
#  define AZREDIS_NO_MANAGED
#endif
#if defined(AZREDIS_NO_OS) || defined(AZREDIS_NO_HTTP)
#  ifndef AZREDIS_NO_WORKLOAD
#    define AZREDIS_NO_WORKLOAD
#  endif
#  ifndef AZREDIS_NO_MANAGED
#    define AZREDIS_NO_MANAGED
#  endif
#endif
#ifdef AZREDIS_NO_OS
#  ifndef AZREDIS_NO_TOKEN_FILE
#    define AZREDIS_NO_TOKEN_FILE
#  endif
#  ifndef AZREDIS_NO_EXEC
#    define AZREDIS_NO_EXEC
#  endif
#  ifndef AZREDIS_NO_THREADS
#    define AZREDIS_NO_THREADS
#  endif
#endif
#if defined(AZREDIS_NO_EXEC) && !defined(AZREDIS_NO_DEVTOOLS)
#  define AZREDIS_NO_DEVTOOLS
#endif

#ifndef AZRI_WITH_LEGACY_PKCS12
#  ifdef AZREDIS_LEGACY_PKCS12
#    define AZRI_WITH_LEGACY_PKCS12 1
#  else
#    define AZRI_WITH_LEGACY_PKCS12 0
#  endif
#endif

/* Nobody could be shown the code. */
#if (defined(AZREDIS_NO_HTTP) || defined(AZREDIS_NO_EVENTS)) && !defined(AZREDIS_NO_DEVICE_CODE)
#  define AZREDIS_NO_DEVICE_CODE
#endif

#ifdef AZREDIS_NO_HANDOVER
#  define AZRI_WITH_HANDOVER 0
#else
#  define AZRI_WITH_HANDOVER 1
#endif

#ifdef AZREDIS_NO_EVENTS
#  define AZRI_WITH_EVENTS 0
#else
#  define AZRI_WITH_EVENTS 1
#endif

#ifdef AZREDIS_NO_OS
#  define AZRI_WITH_OS 0
#else
#  define AZRI_WITH_OS 1
#endif
#define AZRI_WITH_ENV AZRI_WITH_OS
#define AZRI_WITH_FORK AZRI_WITH_OS
/* Short cuts for what most commands are, and large values sent from where they stand. A device rather has the 1 KB. */
#define AZRI_WITH_SHORT_CUTS AZRI_WITH_OS
#ifdef AZREDIS_NO_CERTIFICATE
#  define AZRI_WITH_CERTIFICATE 0
#else
#  define AZRI_WITH_CERTIFICATE 1
#endif
#ifdef AZREDIS_NO_CONFIG
#  define AZRI_WITH_CONFIG 0
#else
#  define AZRI_WITH_CONFIG 1
#endif
#ifdef AZREDIS_NO_ADDRESSES
#  define AZRI_WITH_ADDRESSES 0
#else
#  define AZRI_WITH_ADDRESSES 1
#endif
#ifdef AZREDIS_NO_RESUMPTION
#  define AZRI_WITH_RESUMPTION 0
#else
#  define AZRI_WITH_RESUMPTION 1
#endif
#ifdef AZREDIS_NO_CLAIMS
#  define AZRI_WITH_CLAIMS 0
#else
#  define AZRI_WITH_CLAIMS 1
#endif
/* What a lean build leaves out, each by its name. */
#ifdef AZREDIS_LEAN
#  define AZRI_WITH_MORE 0
#else
#  define AZRI_WITH_MORE 1
#endif
#define AZRI_WITH_REFUSALS  AZRI_WITH_MORE
#define AZRI_WITH_PLAINTEXT AZRI_WITH_MORE
#define AZRI_WITH_PASSWORDS AZRI_WITH_MORE
#define AZRI_WITH_STATS     AZRI_WITH_MORE
#define AZRI_WITH_STREAMS   AZRI_WITH_MORE
#define AZRI_WITH_PATTERNS  AZRI_WITH_MORE
#define AZRI_WITH_RESP2     AZRI_WITH_MORE
#define AZRI_WITH_REST      AZRI_WITH_MORE
#define AZRI_WITH_SETTINGS  AZRI_WITH_MORE
#define AZRI_WITH_AHEAD     AZRI_WITH_MORE
#define AZRI_WITH_PEM       (AZRI_WITH_OS || AZRI_WITH_MORE)          /* roots come from files, and these are PEM */
#define AZRI_WITH_SHARED    (AZRI_WITH_THREADS || AZRI_WITH_MORE)     /* threads wake each other */
/* Walks from one question to the next; without an identity but the callback there is one, and no pause. */
#define AZRI_WITH_WALKS (AZRI_WITH_OS || AZRI_WITH_HTTP)
#define AZRI_ONLY_CALLBACK (!AZRI_WITH_WALKS && !AZRI_WITH_PASSWORDS)
/* In place of the moment at which something is due. */
#ifdef AZREDIS_TICK_MS
#  define AZRI_TICK (AZREDIS_TICK_MS)
#else
#  define AZRI_TICK 0u
#endif
#ifdef AZREDIS_NO_ARENA
#  define AZRI_WITH_ARENA 0
#else
#  define AZRI_WITH_ARENA 1
#endif

/* Entra writes seconds. Others who bring tokens write dates in words. */
#if defined(AZREDIS_NO_MANAGED) && defined(AZREDIS_NO_EXEC) && defined(AZREDIS_NO_TOKEN_FILE)
#  define AZRI_WITH_DATES 0
#else
#  define AZRI_WITH_DATES 1
#endif

#if defined(AZREDIS_NO_CALLBACK) && !defined(AZREDIS_NO_HTTP)
#  define AZRI_WITH_CALLBACK 0
#else
#  define AZRI_WITH_CALLBACK 1
#endif
#if !AZRI_WITH_CALLBACK && defined(AZREDIS_NO_ASSERTION) && defined(AZREDIS_NO_DEVICE_CODE)
#  define AZRI_WITH_CALLS 0
#else
#  define AZRI_WITH_CALLS 1
#endif
/* Where secrets go, if that is known when this is built. */
#ifdef AZREDIS_AUTHORITY
#  define AZRI_WITH_AUTHORITIES 0
#  define AZRI_AUTHORITY AZREDIS_AUTHORITY
#else
#  define AZRI_WITH_AUTHORITIES 1
#  define AZRI_AUTHORITY ""
#endif
#ifdef AZREDIS_NO_HTTP_DATE
#  define AZRI_WITH_HTTP_DATE 0
#else
#  define AZRI_WITH_HTTP_DATE 1
#endif

/* For azredis_stats alone. */
#define AZRI_COUNT(counter, n) ((void)(AZRI_WITH_STATS && ((counter) += (n))))
#ifdef AZREDIS_LEAN
#  define AZRI_TOOK(latency, from, to) ((void)(from), (void)(to))
#else
#  define AZRI_TOOK(latency, from, to) azri_took(&(latency), from, to)
#endif

#define AZRI_STATIC_ASSERT(name, cond) typedef char azri_assert_##name[(cond) ? 1 : -1] AZRI_UNUSED

#ifdef AZREDIS_NO_THREADS
#  define AZRI_WITH_THREADS 0
#else
#  define AZRI_WITH_THREADS 1
#endif

#ifndef AZREDIS_ASSERT
#  if defined(NDEBUG) || defined(AZREDIS_NO_OS)
#    define AZREDIS_ASSERT(x) ((void)0)
#  else
#    include <assert.h>
#    define AZREDIS_ASSERT(x) assert(x)
#  endif
#endif

/* Limits of what a peer may send. */
#define AZRI_HTTP_HEAD_MAX   16384u      /* status line and headers; what common servers allow */
#define AZRI_HTTP_BODY_MAX   65536u      /* a token reply is 2 to 12 KiB */
#define AZRI_RESP_LINE_MAX   65536u      /* one + - : , ( line */
#define AZRI_RESP_COUNT_MAX  16777216u   /* elements of one aggregate */
#define AZRI_RESP_ATTRIBUTES 65536u      /* in one answer: they are dropped, and must not make it endless */
#define AZRI_RESP_BULK_MAX   536870912u  /* Redis's own proto-max-bulk-len */
#define AZRI_PEER_TEXT       200u        /* bytes of a peer's text that an error may quote */

/* Limits that cost memory: what a device of 100 KB has room for (AZREDIS_NO_OS), and others. */
#ifdef AZREDIS_NO_OS
#  define AZRI_LIMIT(device, others) device
#else
#  define AZRI_LIMIT(device, others) others
#endif
#ifndef AZREDIS_TOKEN_MAX      /* a service principal's token has 1.3 to 2 KB, and some groups more */
#  define AZREDIS_TOKEN_MAX AZRI_LIMIT(4096u, 16384u)   /* Redis refuses a longer argument before AUTH (networking.c) */
#endif
#define AZRI_TOKEN_MAX     (AZREDIS_TOKEN_MAX)
#define AZRI_VALUE_MAX     AZRI_LIMIT((AZRI_TOKEN_MAX + 1), AZRI_HTTP_BODY_MAX)    /* one string of a token answer */
#define AZRI_CLAIM_MAX     AZRI_LIMIT(1024u, AZRI_TOKEN_MAX)      /* one string inside a token */
#define AZRI_FORM_MAX      AZRI_LIMIT(2048u, AZRI_HTTP_BODY_MAX)  /* ids, secret and scope, percent-encoded */
#define AZRI_REQUEST_MAX   (AZRI_FORM_MAX + AZRI_LIMIT(1024u, AZRI_HTTP_BODY_MAX))
#define AZRI_FETCH_PIECE   AZRI_LIMIT(256u, 2048u)      /* of a token answer, on the stack */
#define AZRI_KEY_FILE_MAX  AZRI_LIMIT(8192u, 131072u)   /* key (RSA-4096: 3.3 KB in PEM) and chain have 5 to 20 KB */
#ifndef AZRI_PBE_ROUNDS        /* hashes of a password for one file: a second or more; OpenSSL writes 2048 thrice */
#  define AZRI_PBE_ROUNDS  AZRI_LIMIT(20000u, 1000000u)
#endif
#define AZRI_CERT_MAX      AZRI_LIMIT(4096u, 16384u)    /* base64 text of one root certificate; RSA-4096 has 2.7 KB */
#define AZRI_TLS_AHEAD     AZRI_LIMIT(512u, 16384u)     /* read from the socket at once; a record has up to 16 KiB */
#define AZRI_RECORD        AZRI_LIMIT(2048u, 16384u)    /* one TLS record: small commands share it */
#define AZRI_JSON_DEPTH    AZRI_LIMIT(8, 16)            /* Entra nests 2 deep */
#define AZRI_RESP_DEPTH    AZRI_LIMIT(16, 128)          /* no Redis command nests deeper than 8 */
#define AZRI_RESP_BLOCK    AZRI_LIMIT(2048u, 16384u)    /* least receive block; one TLS record */
#define AZRI_RESP_RESERVE  AZRI_LIMIT(8192u, 1048576u)  /* most that is reserved because a length was announced */
#define AZRI_RESP_NODES    AZRI_LIMIT(16u, 64u)         /* first node array */
#define AZRI_POOL_ROOM     AZRI_LIMIT(128u, 256u)       /* frames up to this size come from the pool */
#define AZRI_POOL_MAX      AZRI_LIMIT(8u, 1024u)        /* commands kept for reuse */
#define AZRI_POOL_REPLY    AZRI_LIMIT(1024u, 4096u)     /* memory of its answer that such a command may keep */
#define AZRI_LARGE_ROOM    AZRI_LIMIT(0u, 65536u)       /* one command up to this size is kept for the next large one */
#define AZRI_NEWS_MAX      AZRI_LIMIT((AZRI_WITH_EVENTS ? 4u : 1u), 16u)   /* events waiting for a client's handler */
#define AZRI_NOTES_MAX     AZRI_NEWS_MAX                /* of an auth that a client which seldom pumps can still get */
#define AZRI_GRAVES        AZRI_LIMIT(4, 64)            /* sockets to be closed once no event loop watches them */
#define AZRI_FDS_MAX       AZRI_LIMIT(4u, 64u)          /* of one wait: waker, token request, connections */
#define AZRI_LINKS_MAX     AZRI_LIMIT(4, 12)            /* records of one walk of the chain */
#define AZRI_COMMAND_ARGS  AZRI_LIMIT(16, 64)           /* arguments of the variadic azredis_command, on the stack */
#define AZRI_BACKLOG_COUNT AZRI_LIMIT(16u, 10000u)
#define AZRI_REPLY_MAX     AZRI_LIMIT(32768u, AZRI_RESP_BULK_MAX)
#define AZRI_BACKLOG_BYTES AZRI_LIMIT(8192u, 67108864u)
#define AZRI_SUB_QUEUE     AZRI_LIMIT(4u, 10000u)
#define AZRI_SUB_BYTES     AZRI_LIMIT(8192u, 67108864u)
#define AZRI_TOPICS        AZRI_LIMIT(1u, 64u)          /* lists to look subscriptions up in: 16 steps among 1 000 */
#define AZRI_CHANNEL_ROOM  64u                          /* of a channel's name, where memory is an arena */
#define AZRI_ARENA_POOLS   40                           /* sizes of blocks in an arena */

#define AZRI_LEASES          16u         /* connections leased at once */
#define AZRI_LEASES_MAX      32u         /* all sockets must find room in AZRI_FDS_MAX */
#define AZRI_PORT_MANAGED    10000       /* of Azure Managed Redis */

/* Times in milliseconds. */
#define AZRI_SECOND          1000u
#define AZRI_MINUTE          60000u
#define AZRI_HOUR            3600000u
#define AZRI_WAIT_MAX        30000u      /* no internal wait is longer: clocks may jump */
#define AZRI_LIFE_MAX        (30u * 24u * AZRI_HOUR)    /* a token's life is taken as at most 30 days; fits in 32 bits */

AZRI_STATIC_ASSERT(redis_takes_such_a_token, AZRI_TOKEN_MAX <= 16384 && AZRI_TOKEN_MAX >= 64);
AZRI_STATIC_ASSERT(value_is_two_words, sizeof(azredis_value) == 8 + 8);

/* ==== >>core ============================================================== uses: - ==============
 * Slices, checked arithmetic, wiping, random numbers, back-off, hash. Pure.
 * ================================================================================================ */

static azredis_str azri_slice(const char *p, size_t n) {
    azredis_str s = {p, n};
    return s;
}

static azredis_str azri_str(const char *z) { return azri_slice(z, z ? strlen(z) : 0); }

/* Without its first n bytes. */
static azredis_str azri_from(azredis_str s, size_t n) { return azri_slice(s.ptr + n, s.len - n); }

static int azri_eq(azredis_str a, azredis_str b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static int azri_eqz(azredis_str a, const char *z) { return azri_eq(a, azri_str(z)); }

/* As much of z as there is room for, and a NUL. */
static void azri_copy(char *out, size_t cap, const char *z) {
    size_t n = strlen(z);
    if (n >= cap) n = cap - 1;
    memcpy(out, z, n);
    out[n] = '\0';
}

static char azri_lower(char c) { return (char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c); }

/* ASCII only: protocol words must not depend on a locale. */
static int azri_ieq(azredis_str a, azredis_str b) {
    if (a.len != b.len) return 0;
    for (size_t i = 0; i < a.len; i++)
        if (azri_lower(a.ptr[i]) != azri_lower(b.ptr[i])) return 0;
    return 1;
}

static int azri_ieqz(azredis_str a, const char *z) { return azri_ieq(a, azri_str(z)); }

static int azri_is_digit(char c) { return c >= '0' && c <= '9'; }

static int azri_is_alnum(char c) {
    return azri_is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static AZRI_ONCE uint64_t azri_min64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static AZRI_ONCE uint64_t azri_max64(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint32_t azri_min32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static size_t azri_minz(size_t a, size_t b) { return a < b ? a : b; }

/* The earlier of the two moments. */
static AZRI_ONCE void azri_sooner(uint64_t *at, uint64_t other) {
    if (other < *at) *at = other;
}

/* A deadline; AZREDIS_NEVER stays never, and sums never wrap. */
#define AZRI_NEVER64 UINT64_MAX
static AZRI_ONCE uint64_t azri_after(uint64_t now, uint64_t ms) {
    if (ms == AZREDIS_NEVER || ms > AZRI_NEVER64 - now) return AZRI_NEVER64;
    return now + ms;
}

static uint32_t azri_or(uint32_t value, uint32_t def) { return value ? value : def; }

/* Zeroes that the optimiser may not drop, although nobody reads them: every command's bytes come through here, so
 * it is memset's speed where the compiler can be told that the memory is looked at. */
static void azri_wipe(void *p, size_t n) {
#if defined(__GNUC__) || defined(__clang__)
    if (n) memset(p, 0, n);
    __asm__ __volatile__("" : : "r"(p) : "memory");
#else
    volatile unsigned char *b = (volatile unsigned char *)p;
    for (; n; n--) *b++ = 0;
#endif
}

/* memcpy for what mostly is a few bytes: a call costs more than they do. Returns the end of the copy. */
static inline char *azri_put(char *to, const char *from, size_t n) {
    if (!AZRI_WITH_SHORT_CUTS || n > 32) {
        memcpy(to, from, n);
    } else if (n >= 16) {               /* two halves, which may overlap */
        memcpy(to, from, 16);
        memcpy(to + n - 16, from + n - 16, 16);
    } else if (n >= 8) {
        memcpy(to, from, 8);
        memcpy(to + n - 8, from + n - 8, 8);
    } else if (n >= 4) {
        memcpy(to, from, 4);
        memcpy(to + n - 4, from + n - 4, 4);
    } else if (n) {
        to[0] = from[0];
        to[n / 2] = from[n / 2];
        to[n - 1] = from[n - 1];
    }
    return to + n;
}

/* FNV-1a with a final mix: tells tokens apart, promises nothing against an attacker. */
static uint64_t azri_hash64(const void *p, size_t n) {
    const unsigned char *b = (const unsigned char *)p;
    uint64_t h = 0xcbf29ce484222325ull;
    for (; n; n--) h = (h ^ *b++) * 0x100000001b3ull;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    return h ^ (h >> 32);
}

/* splitmix64: jitter and nonces need to be unrepeated, not secret. A seed replays them. */
typedef struct azri_rng { uint64_t state; } azri_rng;

static uint64_t azri_rng_next(azri_rng *r) {
    uint64_t z = (r->state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* n digits and a NUL. */
static void azri_rng_hex(azri_rng *r, char *out, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++, v >>= 4) {
        if (i % 16 == 0) v = azri_rng_next(r);
        out[i] = "0123456789abcdef"[v & 15];
    }
    out[n] = '\0';
}

/* 0 .. n-1; n = 0 gives 0. */
static uint32_t azri_rng_below(azri_rng *r, uint32_t n) { return (uint32_t)((azri_rng_next(r) >> 32) * n >> 32); }

/* Delay before try number n (0 first): random in [base/2, min(cap, base * 2^n)], so that a fleet that
 * failed together does not come back together. cap: at most 2^31. */
static uint32_t azri_backoff(azri_rng *r, uint32_t base, uint32_t cap, uint32_t n) {
    uint32_t top = base, low;
    for (; n && top && top < cap; n--) top *= 2;
    top = azri_min32(top, cap);
    low = azri_min32(base, top) / 2;
    return low + azri_rng_below(r, top - low + 1);
}

/* ==== >>mem =============================================================== uses: core ===========
 * The allocator as a value, and a byte buffer with a hard cap. Contents marked secret are wiped
 * whenever their memory is given back, also when a buffer grows.
 * ================================================================================================ */

/* An arena's largest sizes of what varies in size. */
typedef struct azri_shape {
    size_t rx;                         /* bytes of the receive block */
    size_t nodes;                      /* of the answer that is being read */
    size_t answer;                     /* a reply's block, its head included */
    size_t command;                    /* an encoded command */
    size_t message;                    /* channel and payload, each with its NUL */
} azri_shape;

typedef struct azri_mem {
    void *(*alloc)(void *user, size_t n);
    void  (*free)(void *user, void *p, size_t n);
    void  *user;
    const azri_shape *shape;           /* an arena's: nothing grows. NULL: memory of any size */
} azri_mem;

static const azri_shape *azri_shape_of(const azri_mem *m) { return AZRI_WITH_ARENA ? m->shape : NULL; }

/* What to ask for, if n bytes are wanted and never more than max: an arena has blocks of max bytes only. */
static size_t azri_room(const azri_mem *m, size_t n, size_t max) { return azri_shape_of(m) && n < max ? max : n; }

static void *azri_alloc(const azri_mem *m, size_t n) { return m->alloc(m->user, n); }

static void azri_free(const azri_mem *m, void *p, size_t n) {
    if (p) m->free(m->user, p, n);
}

static void *azri_zalloc(const azri_mem *m, size_t n) {
    void *p = azri_alloc(m, n);
    if (p) memset(p, 0, n);
    return p;
}

typedef struct azri_buf {
    const azri_mem *mem;
    char           *ptr;
    size_t          len, cap, max;     /* never grows past max */
    int             secret;
    azredis_status  status;            /* of azri_buf_put and its like, until azri_buf_free */
} azri_buf;

static AZRI_ONCE void azri_buf_init(azri_buf *b, const azri_mem *m, size_t max, int secret) {
    b->mem = m;
    b->ptr = NULL;
    b->len = b->cap = 0;
    b->max = max;
    b->secret = secret;
    b->status = AZREDIS_OK;
}

static void azri_buf_free(azri_buf *b) {
    if (b->ptr && b->secret) azri_wipe(b->ptr, b->cap);
    azri_free(b->mem, b->ptr, b->cap);
    azri_buf_init(b, b->mem, b->max, b->secret);
}

/* Room for n more bytes: E_LIMIT past max, E_NOMEM, else OK. On failure the buffer is as it was. */
static azredis_status azri_buf_reserve(azri_buf *b, size_t n) {
    size_t cap;
    if (n <= b->cap - b->len) return AZREDIS_OK;
    if (n > b->max - b->len) return AZREDIS_E_LIMIT;
    if (azri_shape_of(b->mem)) cap = b->max;
    else cap = azri_minz(b->max, b->cap < 256 ? 256 : b->cap <= SIZE_MAX / 2 ? b->cap * 2 : SIZE_MAX);
    if (cap < b->len + n) cap = b->len + n;
    char *p = (char *)azri_alloc(b->mem, cap);
    if (!p) return AZREDIS_E_NOMEM;
    if (b->len) memcpy(p, b->ptr, b->len);
    if (b->ptr && b->secret) azri_wipe(b->ptr, b->cap);
    azri_free(b->mem, b->ptr, b->cap);
    b->ptr = p;
    b->cap = cap;
    return AZREDIS_OK;
}

static azredis_status azri_buf_add(azri_buf *b, const void *p, size_t n) {
    azredis_status st = azri_buf_reserve(b, n);
    if (st != AZREDIS_OK) return st;
    if (n) memcpy(b->ptr + b->len, p, n);
    b->len += n;
    return AZREDIS_OK;
}

/* For texts in several parts: nothing follows what found no room, and b->status tells of it. */
static void azri_buf_put(azri_buf *b, azredis_str s) {
    if (b->status == AZREDIS_OK) b->status = azri_buf_add(b, s.ptr, s.len);
}

static void azri_buf_puts(azri_buf *b, const char *z) { azri_buf_put(b, azri_str(z)); }

/* A NUL-terminated copy; NULL for NULL or out of memory. Freed by azri_strfree, which wipes. */
static char *azri_strdup(const azri_mem *m, const char *z) {
    if (!z) return NULL;
    size_t n = strlen(z) + 1;
    char *p = (char *)azri_alloc(m, n);
    if (p) memcpy(p, z, n);
    return p;
}

static void azri_strfree(const azri_mem *m, char *z) {
    if (!z) return;
    size_t n = strlen(z) + 1;
    azri_wipe(z, n);
    azri_free(m, z, n);
}

/* ---- arena ---------------------------------------------------------------------------------------
 * Memory that is given once and cut into pools of equal blocks, one pool for each size that is ever asked for. So
 * nothing can fragment, and what is needed is a sum: whoever adds the pools up (azri_plan) needs no memory for it.
 * Pools of two phases that exclude each other may lie in the same place. */

#define AZRI_ARENA_ALIGN 8u

enum { AZRI_ALWAYS, AZRI_CONNECTED, AZRI_FETCHING, AZRI_PHASES };

typedef struct azri_pool {
    size_t   size, at;                 /* of a block; where the first one is */
    uint16_t count, used, most;        /* most: that were ever used at once */
    uint16_t flag;                     /* of the first; a byte each tells which are used */
    uint8_t  phase;
} azri_pool;

typedef struct azri_arena azri_arena;

/* The user of an azri_mem: blocks of its phase and those of always. */
typedef struct azri_view { azri_arena *arena; int phase; } azri_view;

struct azri_arena {
    azri_shape shape;
    azri_view  client, auth;
    int        shared;                 /* 1: connected or fetching, never both */
    uint32_t   busy[AZRI_PHASES];      /* blocks in use */
    size_t     pools;
    azri_pool  pool[AZRI_ARENA_POOLS];
};

typedef struct azri_plan {
    azri_arena *arena;                 /* NULL: only add up */
    size_t      blocks, bytes[AZRI_PHASES];
    int         shared, wrong;         /* wrong: more than counts can tell */
} azri_plan;

static size_t azri_align(size_t n) { return (n + AZRI_ARENA_ALIGN - 1) / AZRI_ARENA_ALIGN * AZRI_ARENA_ALIGN; }

static void azri_plan_add(azri_plan *p, int phase, size_t size, size_t count) {
    azri_arena *a = p->arena;
    size_t i = 0;
    if (count > UINT16_MAX - p->blocks || size > SIZE_MAX / 2 / AZRI_PHASES / UINT16_MAX) {
        p->wrong = 1;
        return;
    }
    p->blocks += count;
    p->bytes[phase] += azri_align(size) * count;
    if (!a || count == 0) return;
    while (i < a->pools && (a->pool[i].size != size || a->pool[i].phase != phase)) i++;
    AZREDIS_ASSERT(i < AZRI_ARENA_POOLS);
    if (i == a->pools) a->pools++;
    a->pool[i].size = size;
    a->pool[i].phase = (uint8_t)phase;
    a->pool[i].count = (uint16_t)(a->pool[i].count + count);
}

static size_t azri_plan_head(const azri_plan *p) { return azri_align(sizeof(azri_arena) + p->blocks); }

/* Where the blocks of the phase begin; AZRI_PHASES: the end of all. */
static size_t azri_plan_at(const azri_plan *p, int phase) {
    size_t at = azri_plan_head(p), one = p->bytes[AZRI_CONNECTED], two = p->bytes[AZRI_FETCHING];
    if (phase == AZRI_ALWAYS) return at;
    at += p->bytes[AZRI_ALWAYS];
    if (phase == AZRI_CONNECTED) return at;
    if (phase == AZRI_FETCHING) return p->shared ? at : at + one;
    return at + (p->shared ? (one > two ? one : two) : one + two);
}

/* After the last azri_plan_add. */
static void azri_plan_place(const azri_plan *p) {
    azri_arena *a = p->arena;
    size_t at[AZRI_PHASES], i, flag = 0;
    for (int phase = 0; phase < AZRI_PHASES; phase++) at[phase] = azri_plan_at(p, phase);
    for (i = 0; i < a->pools; i++) {
        azri_pool *q = &a->pool[i];
        q->at = at[q->phase];
        q->flag = (uint16_t)flag;
        at[q->phase] += azri_align(q->size) * q->count;
        flag += q->count;
    }
    a->shared = p->shared;
    a->client.arena = a->auth.arena = a;
}

static unsigned char *azri_arena_flags(azri_arena *a, const azri_pool *q) { return (unsigned char *)(a + 1) + q->flag; }

static void *azri_arena_take(azri_arena *a, azri_pool *q) {
    unsigned char *flags = azri_arena_flags(a, q);
    size_t i = 0;
    if (q->used == q->count || (a->shared && q->phase && a->busy[AZRI_CONNECTED + AZRI_FETCHING - q->phase]))
        return NULL;
    while (flags[i]) i++;
    flags[i] = 1;
    a->busy[q->phase]++;
    if (++q->used > q->most) q->most = q->used;
    return (char *)a + q->at + i * azri_align(q->size);
}

static void *azri_arena_alloc(void *user, size_t n) {
    azri_view *v = (azri_view *)user;
    azri_arena *a = v->arena;
    void *p = NULL;
    for (size_t i = 0; i < a->pools && !p; i++)
        if (a->pool[i].size == n && a->pool[i].phase == v->phase) p = azri_arena_take(a, &a->pool[i]);
    for (size_t i = 0; i < a->pools && !p; i++)
        if (a->pool[i].size == n && a->pool[i].phase == AZRI_ALWAYS) p = azri_arena_take(a, &a->pool[i]);
    return p;
}

static void azri_arena_free(void *user, void *p, size_t n) {
    azri_view *v = (azri_view *)user;
    azri_arena *a = v->arena;
    size_t i;
    for (i = 0; i < a->pools; i++) {
        azri_pool *q = &a->pool[i];
        size_t at = (size_t)((char *)p - (char *)a);
        if (q->size != n || (q->phase != AZRI_ALWAYS && q->phase != v->phase)) continue;
        if (at < q->at || at - q->at >= azri_align(n) * q->count) continue;
        azri_arena_flags(a, q)[(at - q->at) / azri_align(n)] = 0;
        q->used--;
        a->busy[q->phase]--;
        return;
    }
    AZREDIS_ASSERT(i < a->pools);        /* freed by its size to the view that gave it */
}

static azri_mem azri_arena_mem(azri_view *v) {
    azri_mem m = {azri_arena_alloc, azri_arena_free, v, &v->arena->shape};
    return m;
}

/* ==== >>fail ============================================================== uses: core ===========
 * The error record and the only formatter. What a peer said enters a message through azri_quote
 * alone: printable, cut, and with anything masked that looks like a token or equals a known secret.
 * ================================================================================================ */

/* A run of token characters longer than this is masked. A GUID has 36, a request id likewise. */
#define AZRI_RUN_MAX    40u
/* Pieces this long of a known secret are masked wherever they stand. */
#define AZRI_SECRET_PIECE 12u
/* Less of a secret is shown: a word of four letters would hide half of every message. */
#define AZRI_SECRET_LEAST 4u

typedef struct azri_out { char *p; size_t cap, len; } azri_out;   /* snprintf rule: len counts past cap */

static azri_out azri_out_to(char *p, size_t cap) {
    azri_out o;
    o.p = p;
    o.cap = cap;
    o.len = 0;
    return o;
}

/* The NUL. */
static void azri_out_end(const azri_out *o) {
    if (o->cap) o->p[azri_minz(o->len, o->cap - 1)] = '\0';
}

static void azri_out_char(azri_out *o, char c) {
    if (o->cap && o->len < o->cap - 1) o->p[o->len] = c;
    o->len++;
}

static void azri_out_number(azri_out *o, unsigned long long v, int negative, unsigned base, int width, char pad) {
    char t[24];
    int n = 0;
    do { t[n++] = "0123456789abcdef"[v % base]; v /= base; } while (v);
    while (pad == '0' && n < width - negative && n < (int)sizeof t - 1) t[n++] = pad;
    if (negative) t[n++] = '-';
    while (n < width && n < (int)sizeof t) t[n++] = pad;
    while (n) azri_out_char(o, t[--n]);
}

static void azri_out_text(azri_out *o, const char *s, size_t n) {
    for (; n; n--) azri_out_char(o, *s++);
}

/* One directive after '%'. Returns the format behind it. */
static const char *azri_out_directive(azri_out *o, const char *f, va_list *ap) {
    int width = 0, precision = -1, longs = 0;
    char pad = ' ';
    if (*f == '0') { pad = '0'; f++; }
    while (azri_is_digit(*f)) width = width * 10 + (*f++ - '0');
    if (f[0] == '.' && f[1] == '*') { precision = va_arg(*ap, int); f += 2; }
    while (*f == 'l') { longs++; f++; }
    switch (*f) {
    case 's': {
        const char *s = va_arg(*ap, const char *);
        if (!s) {
            s = "?";
            precision = 1;
        }
        azri_out_text(o, s, precision >= 0 ? (size_t)precision : strlen(s));
        break;
    }
    case 'd': {
        long long v = longs == 2 ? va_arg(*ap, long long) : va_arg(*ap, int);
        azri_out_number(o, v < 0 ? (unsigned long long)-(v + 1) + 1 : (unsigned long long)v, v < 0, 10, width, pad);
        break;
    }
    case 'u': case 'x': {
        unsigned long long v = longs == 2 ? va_arg(*ap, unsigned long long) : va_arg(*ap, unsigned);
        azri_out_number(o, v, 0, *f == 'u' ? 10 : 16, width, pad);
        break;
    }
    default:
        AZREDIS_ASSERT(*f == '%');
        azri_out_char(o, *f);
    }
    return f + 1;
}

static size_t azri_vfmt(char *p, size_t cap, const char *f, va_list *ap) {
    azri_out o = azri_out_to(p, cap);
    while (*f) {
        if (*f != '%') azri_out_char(&o, *f++);
        else f = azri_out_directive(&o, f + 1, ap);
    }
    azri_out_end(&o);
    return o.len;
}

/* A small snprintf: %s %.*s %d %lld %u %llu %x %0Nd %%. Returns the length that was wanted. */
static size_t azri_fmt(char *p, size_t cap, const char *f, ...) AZRI_PRINTF(3, 4);
static size_t azri_fmt(char *p, size_t cap, const char *f, ...) {
    va_list ap;
    va_start(ap, f);
    size_t n = azri_vfmt(p, cap, f, &ap);
    va_end(ap);
    return n;
}

/* Timeouts and network trouble, as bits; and AZREDIS_E_RESP. */
#define AZRI_RETRYABLE (1u << -AZREDIS_E_DNS | 1u << -AZREDIS_E_NET | 1u << -AZREDIS_E_TIMEOUT | 1u << -AZREDIS_E_CLOSED | \
    1u << -AZREDIS_E_FULL | 1u << -AZREDIS_E_HTTP | 1u << -AZREDIS_E_NOMEM | 1u << -AZREDIS_E_JSON)

/* The error without its message. */
static azredis_status azri_fail_code(azredis_error *e, azredis_status code, const char *where) {
    uint32_t n = (uint32_t)-(int)code;
    if (!e) return code;
    memset(e, 0, sizeof *e);
    e->code = code;
    e->where = where;
    e->retryable = code == AZREDIS_E_RESP || (n < 32 && AZRI_RETRYABLE >> n & 1);
    return code;
}

/* For a record that may be made where it is to be kept. */
static void azri_fail_copy(azredis_error *to, const azredis_error *from) {
    if (to != from) *to = *from;
}

#if defined(AZREDIS_LEAN) && defined(AZREDIS_NO_TEXT)
#  define azri_fail_code(e, code, where) ((void)(where), azri_fail_code(e, code, ""))
#endif

#ifdef AZREDIS_NO_TEXT
static inline int azri_words(const char *f, ...) AZRI_PRINTF(1, 2);
static inline int azri_words(const char *f, ...) { return f != NULL; }
#define azri_fail(e, code, where, ...) (AZRI_UNSAID(__VA_ARGS__), azri_fail_code(e, code, where))
#define azri_fail_add(e, ...) (AZRI_UNSAID(__VA_ARGS__), (void)(e))
#else
/* Fills *e (which may be NULL) and returns code, so that a failing function ends in `return azri_fail(...)`.
 * All other members become 0; set them afterwards. */
static azredis_status azri_fail(azredis_error *e, azredis_status code, const char *where, const char *f, ...)
    AZRI_PRINTF(4, 5);
static azredis_status azri_fail(azredis_error *e, azredis_status code, const char *where, const char *f, ...) {
    va_list ap;
    (void)azri_fail_code(e, code, where);
    if (!e) return code;
    va_start(ap, f);
    (void)azri_vfmt(e->message, sizeof e->message, f, &ap);
    va_end(ap);
    return code;
}

#ifdef __clang_analyzer__               /* it does not look into a function with "...": here it sees what comes back */
#  define azri_fail(e, code, ...) (azri_fail((e), (code), __VA_ARGS__), (code))
#endif

/* Puts more behind the message. */
static void azri_fail_add(azredis_error *e, const char *f, ...) AZRI_PRINTF(2, 3);
static void azri_fail_add(azredis_error *e, const char *f, ...) {
    va_list ap;
    if (!e) return;
    size_t n = strlen(e->message);
    va_start(ap, f);
    (void)azri_vfmt(e->message + n, sizeof e->message - n, f, &ap);
    va_end(ap);
}
#endif

static int azri_is_token_char(char c) {
    return azri_is_alnum(c) || c == '-' || c == '_' || c == '.' || c == '+' || c == '/' || c == '=' || c == '~' ||
           c == '%';
}

/* How many bytes at text[0..n) are a piece of secret: AZRI_SECRET_PIECE or more, a short secret as a whole, or
 * its beginning where the text was cut off. 0: none. */
static size_t azri_secret_piece(const char *text, size_t n, azredis_str secret) {
    size_t i, k, best = 0, piece = azri_minz(AZRI_SECRET_PIECE, secret.len);
    if (secret.len < AZRI_SECRET_LEAST) return 0;
    for (i = 0; i < secret.len; i++) {
        for (k = 0; k < n && i + k < secret.len && text[k] == secret.ptr[i + k]; k++) {}
        if (k > best && (k >= piece || (i == 0 && k == n && k >= AZRI_SECRET_LEAST))) best = k;
    }
    return best;
}

/* Copies a peer's text into out: at most AZRI_PEER_TEXT bytes of it, control characters as blanks, other
 * bytes outside ASCII as '?', tokens and pieces of secret (which may be empty) as "[hidden]". */
static const char *azri_quote(char *out, size_t cap, const char *text, size_t n, azredis_str secret) {
    azri_out o = azri_out_to(out, cap);
    size_t i = 0, run, hide;
    n = azri_minz(n, AZRI_PEER_TEXT + AZRI_RUN_MAX);
    while (i < n && i < AZRI_PEER_TEXT) {
        for (run = 0; i + run < n && azri_is_token_char(text[i + run]); run++) {}
        hide = run > AZRI_RUN_MAX ? run : azri_secret_piece(text + i, n - i, secret);
        if (hide) {
            azri_out_text(&o, "[hidden]", 8);
            i += hide;
            continue;
        }
        azri_out_char(&o, text[i] >= ' ' && text[i] < 127 ? text[i] : (unsigned char)text[i] < ' ' ? ' ' : '?');
        i++;
    }
    azri_out_end(&o);
    return out;
}

#ifdef AZREDIS_NO_TEXT
#define azri_quote(out, cap, text, n, secret) (0 ? (azri_quote)(out, cap, text, n, secret) : (*(out) = '\0', ""))
#endif

/* ==== >>text ============================================================== uses: core mem fail ==
 * base64url, percent-encoding, numbers, dates, addresses. Pure: no libc number or time function, no locale, no time
 * zone table. Every reader takes the whole text or refuses it, and writes its results only when it accepts.
 * Entry points: azri_b64_decode, azri_b64url_decode, azri_percent_put, azri_u64, azri_i64, azri_double,
 * azri_date_parse, azri_date_text, azri_ip_parse, azri_endpoint_parse, azri_url_parse, azri_port_by_host.
 * ================================================================================================ */

/* The place of the first c, or s.len. */
static size_t azri_find(azredis_str s, char c) {
    size_t i;
    for (i = 0; i < s.len && s.ptr[i] != c; i++) {}
    return i;
}

/* The place of the first z, or s.len. */
static size_t azri_find_text(azredis_str s, azredis_str z) {
    size_t i;
    for (i = 0; i < s.len; i++)
        if (s.len - i >= z.len && azri_eq(azri_slice(s.ptr + i, z.len), z)) return i;
    return i;
}

/* Without what stands in blanks at both ends. */
static azredis_str azri_trim(azredis_str s, const char *blanks) {
    azredis_str set = azri_str(blanks);
    while (s.len && azri_find(set, s.ptr[0]) < set.len) s = azri_from(s, 1);
    while (s.len && azri_find(set, s.ptr[s.len - 1]) < set.len) s.len--;
    return s;
}

static int azri_hex(char c) {
    if (azri_is_digit(c)) return c - '0';
    c = azri_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* ---- scanning: each takes what it is named for off the front of *s ---- */

static int azri_scan_char(azredis_str *s, char c) {
    if (s->len == 0 || s->ptr[0] != c) return 0;
    *s = azri_from(*s, 1);
    return 1;
}

/* A word, in any case. */
static int azri_scan_word(azredis_str *s, const char *word) {
    size_t n = strlen(word);
    if (s->len < n || !azri_ieqz(azri_slice(s->ptr, n), word)) return 0;
    *s = azri_from(*s, n);
    return 1;
}

/* A sign, if there is one. 1: minus. */
static int azri_scan_sign(azredis_str *s) {
    int minus = azri_scan_char(s, '-');
    if (!minus) (void)azri_scan_char(s, '+');
    return minus;
}

/* Digits, as many as there are. Returns their number. */
static size_t azri_scan_digits(azredis_str *s) {
    size_t n = 0;
    while (n < s->len && azri_is_digit(s->ptr[n])) n++;
    if (n) *s = azri_from(*s, n);
    return n;
}

/* A number of min to max digits; max <= 4. */
static int azri_scan_number(azredis_str *s, int min, int max, int *out) {
    int n = 0;
    for (*out = 0; n < max && s->len && azri_is_digit(s->ptr[0]); n++) {
        *out = *out * 10 + (s->ptr[0] - '0');
        *s = azri_from(*s, 1);
    }
    return n >= min;
}

/* ---- base64 (RFC 4648 4), base64url without padding (5), percent-encoding (RFC 3986 2.1) ---- */

/* last: the two characters in which the alphabets differ. */
static int azri_b64_value(char c, const char *last) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == last[0]) return 62;
    return c == last[1] ? 63 : -1;
}

/* out may be in.ptr: each byte is written behind what has been read. Up to two '=' at the end are
 * accepted. Bits that no byte uses must be 0, so that one value has one text (RFC 4648 3.5). */
static int azri_b64_decode(azredis_str in, const char *last, char *out, size_t *out_len) {
    uint32_t bits = 0;
    size_t i, n = 0, pad;
    int have = 0, v;
    for (pad = 0; pad < 2 && in.len && in.ptr[in.len - 1] == '='; pad++) in.len--;
    if (in.len % 4 == 1) return 0;
    for (i = 0; i < in.len; i++) {
        v = azri_b64_value(in.ptr[i], last);
        if (v < 0) return 0;
        bits = (bits & 0xff) << 6 | (uint32_t)v;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        out[n++] = (char)(unsigned char)(bits >> have & 0xff);
    }
    if (bits & ((1u << have) - 1u)) return 0;
    *out_len = n;
    return 1;
}

static int azri_b64url_decode(azredis_str in, char *out, size_t *out_len) {
    return azri_b64_decode(in, "-_", out, out_len);
}

static void azri_b64_out(azri_out *o, azredis_str in) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < in.len; i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++) bits = bits << 8 | (i + k < in.len ? (unsigned char)in.ptr[i + k] : 0u);
        for (size_t k = 0; k < 4; k++) azri_out_char(o, i + k > in.len ? '=' : letters[bits >> (18 - 6 * k) & 63]);
    }
}

#ifndef AZREDIS_NO_CERTIFICATE
/* Appends base64, or base64url without padding. */
static void azri_b64_put(azri_buf *b, azredis_str in, int url) {
    size_t i, n = (in.len + 2) / 3 * 4;
    if (b->status == AZREDIS_OK) b->status = azri_buf_reserve(b, n + 1);    /* azri_out leaves room for a NUL */
    if (b->status != AZREDIS_OK) return;
    azri_out o = azri_out_to(b->ptr + b->len, n + 1);
    azri_b64_out(&o, in);
    for (i = 0; url && i < n; i++) o.p[i] = (char)(o.p[i] == '+' ? '-' : o.p[i] == '/' ? '_' : o.p[i]);
    while (url && n && o.p[n - 1] == '=') n--;
    b->len += n;
}
#endif

/* Undoes %XX into out, which has room for in.len and may be in.ptr. 0: a broken escape, a NUL, or with plain a control
 * character. */
static int azri_percent_decode(azredis_str in, int plain, char *out, size_t *out_len) {
    size_t i, n = 0;
    for (i = 0; i < in.len; i++) {
        int c = (unsigned char)in.ptr[i];
        if (c == '%') {
            if (i + 2 >= in.len || azri_hex(in.ptr[i + 1]) < 0 || azri_hex(in.ptr[i + 2]) < 0) return 0;
            c = azri_hex(in.ptr[i + 1]) * 16 + azri_hex(in.ptr[i + 2]);
            i += 2;
        }
        if (c == 0 || (plain && (c < ' ' || c == 127))) return 0;
        out[n++] = (char)c;
    }
    *out_len = n;
    return 1;
}

static void azri_percent_put(azri_buf *b, azredis_str raw) {
    char three[3];
    for (size_t i = 0; i < raw.len; i++) {
        char c = raw.ptr[i];
        int plain = azri_is_alnum(c) || c == '-' || c == '.' || c == '_' || c == '~';
        three[0] = plain ? c : '%';
        three[1] = "0123456789ABCDEF"[(unsigned char)c >> 4];
        three[2] = "0123456789ABCDEF"[(unsigned char)c & 15];
        azri_buf_put(b, azri_slice(three, plain ? 1 : 3));
    }
}

/* ---- whole numbers ---- */

static int azri_u64(azredis_str s, uint64_t *out) {
    uint64_t v = 0;
    for (size_t i = 0; i < s.len; i++) {
        unsigned d = azri_is_digit(s.ptr[i]) ? (unsigned)(s.ptr[i] - '0') : 10;
        if (d > 9 || v > UINT64_MAX / 10 || v * 10 > UINT64_MAX - d) return 0;
        v = v * 10 + d;
    }
    if (s.len == 0) return 0;
    *out = v;
    return 1;
}

static int azri_i64(azredis_str s, int64_t *out) {
    int minus = azri_scan_sign(&s);
    uint64_t v;
    if (!azri_u64(s, &v) || v > (uint64_t)INT64_MAX + (minus ? 1u : 0u)) return 0;
    /* -v is taken as -(v - 1) - 1, which INT64_MIN survives. */
    *out = minus && v ? -(int64_t)(v - 1) - 1 : (int64_t)v;
    return 1;
}

/* ---- doubles ----
 * The decimal number is held exactly, as a fixed-point number of base 10^9 limbs, and is doubled or halved
 * until its whole part is the 53-bit significand; the fraction then decides the rounding. A number half way
 * between two doubles has its last digit at 10^-1075 or before, so that what lies behind the limbs can only
 * break ties: `rest` remembers that it was not zero. */

#define AZRI_DEC_BASE   1000000000u
#define AZRI_DEC_WHOLE  35                       /* limbs before the point: 315 digits; DBL_MAX has 309 */
#define AZRI_DEC_LIMBS  (AZRI_DEC_WHOLE + 120)   /* and 1080 digits behind it */
#define AZRI_DEC_INFINITY ((uint64_t)0x7ff << 52)

AZRI_STATIC_ASSERT(double_is_binary64, sizeof(double) == 8);

typedef struct azri_dec {
    uint32_t x[AZRI_DEC_LIMBS];
    int      first, end;       /* limbs outside [first, end) are 0 */
    int      rest;
} azri_dec;

/* Adds digit * 10^weight; digit is not 0, weight < 9 * AZRI_DEC_WHOLE. */
static void azri_dec_digit(azri_dec *d, int64_t weight, uint32_t digit) {
    int64_t place = 9 * AZRI_DEC_WHOLE - 1 - weight;
    if (place >= 9 * AZRI_DEC_LIMBS) {
        d->rest = 1;
        return;
    }
    int limb = (int)(place / 9);
    for (int i = (int)(place % 9); i < 8; i++) digit *= 10;
    d->x[limb] += digit;
    if (limb < d->first) d->first = limb;
    if (limb >= d->end) d->end = limb + 1;
}

/* Times 2^bits; the whole part stays below 2^53. */
static void azri_dec_shift_up(azri_dec *d, int bits) {
    uint64_t v, carry = 0;
    for (int i = d->end; i-- > d->first;) {
        v = ((uint64_t)d->x[i] << bits) + carry;
        d->x[i] = (uint32_t)(v % AZRI_DEC_BASE);
        carry = v / AZRI_DEC_BASE;
    }
    if (carry) d->x[--d->first] = (uint32_t)carry;
    while (d->end > d->first && d->x[d->end - 1] == 0) d->end--;
}

/* Divided by 2^bits, bits <= 29: what is left of a limb stays below the base. */
static void azri_dec_shift_down(azri_dec *d, int bits) {
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    uint64_t v, left = 0;
    int i;
    for (i = d->first; i < d->end || (left && i < AZRI_DEC_LIMBS); i++) {
        v = left * AZRI_DEC_BASE + d->x[i];
        d->x[i] = (uint32_t)(v >> bits);
        left = v & mask;
    }
    d->end = i;
    d->rest |= left != 0;
    while (d->first < d->end && d->x[d->first] == 0) d->first++;
}

/* The whole part, or UINT64_MAX if that is 10^18 or more. */
static uint64_t azri_dec_whole(const azri_dec *d) {
    if (d->first < AZRI_DEC_WHOLE - 2) return UINT64_MAX;
    return (uint64_t)d->x[AZRI_DEC_WHOLE - 2] * AZRI_DEC_BASE + d->x[AZRI_DEC_WHOLE - 1];
}

/* The bits of the nearest double, ties to even; too large: infinity. */
static uint64_t azri_dec_bits(azri_dec *d) {
    const uint64_t one = 1;
    uint64_t m;
    int e = 0, step;
    if (d->first >= d->end) return 0;
    while (azri_dec_whole(d) >= one << 53) {
        step = d->first < AZRI_DEC_WHOLE - 3 ? 29 : 1;     /* 10^27 / 2^29 is still above 2^53 */
        azri_dec_shift_down(d, step);
        e += step;
    }
    while ((m = azri_dec_whole(d)) < one << 52 && e > -1074) {
        step = m < one << 23 && e >= -1074 + 29 ? 29 : 1;
        azri_dec_shift_up(d, step);
        e -= step;
    }
    uint32_t fraction = d->x[AZRI_DEC_WHOLE];
    if (fraction > AZRI_DEC_BASE / 2) m++;
    else if (fraction == AZRI_DEC_BASE / 2) m += d->rest || d->end > AZRI_DEC_WHOLE + 1 ? 1 : m & 1;
    /* The significand's leading 1, and its carry if rounding made it 2^53, count the exponent up. */
    m += (uint64_t)(e + 1074) << 52;
    return azri_min64(m, AZRI_DEC_INFINITY);
}

/* Digits with at most one point, then perhaps an exponent. 1: *bits is the value. */
static int azri_dec_parse(azredis_str s, uint64_t *bits) {
    const int64_t far = (int64_t)1 << 40;     /* an exponent beyond it cannot be made up for by digits */
    azri_dec d;
    int64_t weight, exponent = 0;
    size_t i, n, point = azri_find(s, '.');
    for (n = 0; n < s.len && (azri_is_digit(s.ptr[n]) || n == point); n++) {}
    if (point > n) point = n;
    if (n == (size_t)(point < n)) return 0;
    if (n < s.len && azri_lower(s.ptr[n]) != 'e') return 0;
    if (n < s.len && !azri_i64(azri_from(s, n + 1), &exponent)) return 0;
    exponent = exponent > far ? far : exponent < -far ? -far : exponent;
    memset(&d, 0, sizeof d);
    d.first = AZRI_DEC_LIMBS;
    weight = exponent + (int64_t)point;
    for (i = 0; i < n; i++) {
        if (i == point) continue;
        weight--;
        if (s.ptr[i] == '0') continue;
        if (weight >= 9 * AZRI_DEC_WHOLE) {
            *bits = AZRI_DEC_INFINITY;
            return 1;
        }
        azri_dec_digit(&d, weight, (uint32_t)(s.ptr[i] - '0'));
    }
    *bits = azri_dec_bits(&d);
    return 1;
}

/* inf, infinity, nan, nan(...): old servers print what their libc prints. */
static int azri_double_word(azredis_str s, uint64_t *bits) {
    *bits = AZRI_DEC_INFINITY;
    if (azri_ieqz(s, "inf") || azri_ieqz(s, "infinity")) return 1;
    *bits |= (uint64_t)1 << 51;
    if (s.len > 4 && s.ptr[3] == '(' && s.ptr[s.len - 1] == ')') s.len = 3;
    return azri_ieqz(s, "nan");
}

/* Correctly rounded. A number too large is taken as infinity, one too small as 0, with its sign. */
static int azri_double(azredis_str s, double *out) {
    int minus = azri_scan_sign(&s);
    uint64_t bits;
    if (!azri_dec_parse(s, &bits) && !azri_double_word(s, &bits)) return 0;
    bits |= (uint64_t)minus << 63;
    memcpy(out, &bits, sizeof *out);
    return 1;
}

/* ---- dates ---- */

typedef struct azri_date {
    int year, month, day, hour, minute, second;
    int zone;                  /* minutes east of UTC */
} azri_date;

/* Days since 1970-01-01 in the Gregorian calendar. The year is counted from 1 March, so that the leap day
 * is its last; 153 days make five months from there; 719468 days lie between 0000-03-01 and 1970-01-01. */
static int32_t azri_days(int year, int month, int day) {
    int32_t y = year - (month <= 2);
    int32_t in_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return 365 * y + y / 4 - y / 100 + y / 400 + in_year - 719468;
}

/* Checks the members and joins them. A leap second counts as the second after it. */
static int azri_date_join(const azri_date *d, int64_t *unix_s) {
    static const unsigned char days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int leap = d->year % 4 == 0 && (d->year % 100 != 0 || d->year % 400 == 0);
    if (d->year < 1 || d->month < 1 || d->month > 12 || d->day < 1) return 0;
    if (d->day > days[d->month - 1] + (d->month == 2 && leap)) return 0;
    if (d->hour > 23 || d->minute > 59 || d->second > 60) return 0;
    *unix_s = (int64_t)azri_days(d->year, d->month, d->day) * 86400 +
              d->hour * 3600 + (d->minute - d->zone) * 60 + d->second;
    return 1;
}

/* h:mm:ss, and a fraction that is dropped. */
static int azri_scan_clock(azredis_str *s, azri_date *d) {
    if (!azri_scan_number(s, 1, 2, &d->hour) || !azri_scan_char(s, ':') ||
        !azri_scan_number(s, 2, 2, &d->minute) || !azri_scan_char(s, ':') ||
        !azri_scan_number(s, 2, 2, &d->second)) return 0;
    return !azri_scan_char(s, '.') || azri_scan_digits(s) > 0;
}

/* AM, PM or nothing. */
static int azri_scan_noon(azredis_str *s, azri_date *d) {
    int pm = azri_scan_word(s, " PM");
    if (!pm && !azri_scan_word(s, " AM")) return 1;
    if (d->hour < 1 || d->hour > 12) return 0;
    d->hour = d->hour % 12 + (pm ? 12 : 0);
    return 1;
}

/* Z, +hh:mm, -hh:mm or nothing, which is UTC: the services write UTC and name no zone. */
static int azri_scan_zone(azredis_str *s, azri_date *d) {
    int west, hours, minutes;
    (void)azri_scan_char(s, ' ');
    if (s->len == 0 || azri_scan_char(s, 'Z')) return s->len == 0;
    west = azri_scan_char(s, '-');
    if (!west && !azri_scan_char(s, '+')) return 0;
    if (!azri_scan_number(s, 2, 2, &hours) || !azri_scan_char(s, ':') ||
        !azri_scan_number(s, 2, 2, &minutes) || hours > 23 || minutes > 59) return 0;
    d->zone = (hours * 60 + minutes) * (west ? -1 : 1);
    return s->len == 0;
}

/* RFC 9110 5.6.7: "Sun, 06 Nov 1994 08:49:37 GMT". The name of the day is not compared. */
static int azri_date_http(azredis_str text, int64_t *unix_s) {
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    azri_date d;
    if (text.len != 29 || memcmp(text.ptr + 3, ", ", 2) != 0) return 0;
    text = azri_from(text, 5);
    memset(&d, 0, sizeof d);
    if (!azri_scan_number(&text, 2, 2, &d.day) || !azri_scan_char(&text, ' ')) return 0;
    while (d.month < 12 && !azri_scan_word(&text, months[d.month])) d.month++;
    d.month++;
    if (!azri_scan_char(&text, ' ') || !azri_scan_number(&text, 4, 4, &d.year) || !azri_scan_char(&text, ' ') ||
        !azri_scan_clock(&text, &d) || !azri_scan_word(&text, " GMT") || text.len) return 0;
    return azri_date_join(&d, unix_s);
}

/* "2019-06-20T02:57:58Z" (RFC 3339; a blank for the T, no zone: also), "6/20/2019 2:57:58 AM +00:00" (what .NET
 * prints), an HTTP date, or seconds since 1970 in digits. Blanks around it are dropped. */
static int azri_date_parse(azredis_str text, int64_t *unix_s) {
    azri_date d;
    azredis_str s = azri_trim(text, " ");
    if (s.len && s.ptr[0] != '+' && s.ptr[0] != '-' && azri_i64(s, unix_s)) return 1;
    if (azri_date_http(s, unix_s)) return 1;
    memset(&d, 0, sizeof d);
    if (s.len > 4 && s.ptr[4] == '-') {
        if (!azri_scan_number(&s, 4, 4, &d.year) || !azri_scan_char(&s, '-') ||
            !azri_scan_number(&s, 2, 2, &d.month) || !azri_scan_char(&s, '-') ||
            !azri_scan_number(&s, 2, 2, &d.day)) return 0;
        if (!azri_scan_char(&s, 'T') && !azri_scan_char(&s, ' ')) return 0;
        if (!azri_scan_clock(&s, &d)) return 0;
    } else {
        if (!azri_scan_number(&s, 1, 2, &d.month) || !azri_scan_char(&s, '/') ||
            !azri_scan_number(&s, 1, 2, &d.day) || !azri_scan_char(&s, '/') ||
            !azri_scan_number(&s, 4, 4, &d.year) || !azri_scan_char(&s, ' ')) return 0;
        if (!azri_scan_clock(&s, &d) || !azri_scan_noon(&s, &d)) return 0;
    }
    return azri_scan_zone(&s, &d) && azri_date_join(&d, unix_s);
}

/* "2026-11-23T10:00:00Z". Times outside 1970 .. 9999 are shown as the nearest end of that. */
static const char *azri_date_text(char out[24], int64_t unix_s) {
    int year, month = 12;
    if (unix_s < 0) unix_s = 0;
    if (unix_s > 253402300799) unix_s = 253402300799;
    int32_t days = (int32_t)(unix_s / 86400);
    int32_t rest = (int32_t)(unix_s % 86400);
    year = 1970 + (int)(days / 366);               /* never too late; at most 6 years early by 9999 */
    while (azri_days(year + 1, 1, 1) <= days) year++;
    while (azri_days(year, month, 1) > days) month--;
    (void)azri_fmt(out, 24, "%04d-%02d-%02dT%02d:%02d:%02dZ", year, month,
                   (int)(days - azri_days(year, month, 1)) + 1,
                   (int)(rest / 3600), (int)(rest / 60 % 60), (int)(rest % 60));
    return out;
}

/* ---- addresses ---- */

/* Four numbers without leading zeros: other spellings (octal, hex, fewer parts) are read differently by
 * different programs. */
static int azri_ip4_parse(azredis_str s, uint8_t out[4]) {
    int i, v;
    for (i = 0; i < 4; i++) {
        if (i && !azri_scan_char(&s, '.')) return 0;
        azredis_str from = s;
        if (!azri_scan_number(&s, 1, 3, &v) || v > 255 || (from.len - s.len > 1 && *from.ptr == '0')) return 0;
        out[i] = (uint8_t)v;
    }
    return s.len == 0;
}

/* RFC 4291 2.2, without zone. */
static int azri_ip6_parse(azredis_str s, uint8_t out[16]) {
    size_t i = 0, n = 0, gap = 17, digits, v;     /* gap: where "::" stood; 17: nowhere */
    if (!AZRI_WITH_ADDRESSES) return 0;
    memset(out, 0, 16);
    if (s.len >= 2 && s.ptr[0] == ':' && s.ptr[1] == ':') {
        gap = 0;
        i = 2;
    }
    while (i < s.len) {
        if (n <= 12 && azri_ip4_parse(azri_from(s, i), out + n)) {
            n += 4;
            break;
        }
        for (v = 0, digits = 0; digits < 5 && i < s.len && azri_hex(s.ptr[i]) >= 0; digits++)
            v = v * 16 + (size_t)azri_hex(s.ptr[i++]);
        if (digits == 0 || digits > 4 || n == 16) return 0;
        out[n++] = (uint8_t)(v >> 8);
        out[n++] = (uint8_t)(v & 0xff);
        if (i == s.len) break;
        if (s.ptr[i++] != ':' || i == s.len) return 0;
        if (s.ptr[i] != ':') continue;
        if (gap != 17) return 0;
        gap = n;
        i++;
    }
    if (gap == 17) return n == 16;
    if (n == 16) return 0;
    memmove(out + gap + (16 - n), out + gap, n - gap);
    memset(out + gap, 0, 16 - n);
    return 1;
}

/* The bytes of an address in text: 4, 16, or 0 if it is none. out is written either way. */
static size_t azri_ip_parse(azredis_str s, uint8_t out[16]) {
    if (!AZRI_WITH_ADDRESSES) return 0;
    if (azri_ip4_parse(s, out)) return 4;
    return azri_ip6_parse(s, out) ? 16 : 0;
}

static int azri_is_loopback(azredis_str host) {
    static const uint8_t one[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    uint8_t ip[16];
    size_t n = azri_ip_parse(host, ip);
    if (n == 4) return ip[0] == 127;
    return n == 16 ? memcmp(ip, one, 16) == 0 : azri_ieqz(host, "localhost");
}

/* Labels of 1 to 63 letters, digits, '-' and '_'; 253 characters in all. */
static int azri_is_hostname(azredis_str s) {
    size_t i, label = 0;
    if (s.len == 0 || s.len > 253) return 0;
    for (i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        if (c == '.' && label == 0) return 0;
        if (c != '.' && !azri_is_alnum(c) && c != '-' && c != '_') return 0;
        label = c == '.' ? 0 : label + 1;
        if (label > 63) return 0;
    }
    return label != 0;
}

/* Splits "host:port" into a checked host without brackets or final dot, and a port (0: none given).
 * Returns NULL, or what is wrong. Never quotes the text: people put passwords before an '@'. */
static const char *azri_hostport_cut(azredis_str s, int bare_ip6, azredis_str *host, uint16_t *port) {
    uint8_t ip[16];
    uint64_t n = 0;
    azredis_str name = s, rest;
    size_t cut = azri_find(s, ':');
    if (azri_find(s, '@') < s.len) return "user name or password before '@'";
    if (s.len && s.ptr[0] == '[') {
        cut = azri_find(s, ']');
        if (cut == s.len) return "'[' without ']'";
        name = azri_slice(s.ptr + 1, cut - 1);
        rest = azri_from(s, cut + 1);
        if (!azri_ip6_parse(name, ip)) return "no IPv6 address between '[' and ']'";
    } else if (bare_ip6 && azri_ip6_parse(s, ip)) {
        rest = azri_from(s, s.len);
    } else {
        name.len = cut;
        rest = azri_from(s, cut);
        if (name.len > 1 && name.ptr[name.len - 1] == '.') name.len--;
        if (name.len == 0) return "the host name is empty";
        if (!azri_is_hostname(name)) return "not a host name";
        if (rest.len && azri_find(azri_from(rest, 1), ':') + 1 < rest.len)
            return "more than one ':', but no IPv6 address (with a port, it needs brackets)";
    }
    if (rest.len) {
        if (rest.ptr[0] != ':') return "unexpected text behind ']'";
        if (!azri_u64(azri_from(rest, 1), &n) || n < 1 || n > 65535)
            return "the port is not a number from 1 to 65535";
    }
    *host = name;
    *port = (uint16_t)n;
    return NULL;
}

static const char *azri_hostport_parse(azredis_str s, int bare_ip6, char host[256], uint16_t *port) {
    azredis_str name;
    const char *why = azri_hostport_cut(s, bare_ip6, &name, port);
    if (why) return why;
    memcpy(host, name.ptr, name.len);
    host[name.len] = '\0';
    return NULL;
}

static int azri_has_scheme(azredis_str text) { return azri_find_text(text, azri_str("://")) < text.len; }

/* *port is 0 if none is given. */
static azredis_status azri_endpoint_parse(azredis_str text, char host[256], uint16_t *port, azredis_error *e) {
    const char *why = azri_has_scheme(text) ? "it is a URL" : azri_hostport_parse(text, 1, host, port);
    if (!why) return AZREDIS_OK;
    return azri_fail(e, AZREDIS_E_ARG, "options", "host: %s; expected name, name:port, [IPv6] or "
                     "[IPv6]:port, such as mycache.westeurope.redis.azure.net:10000", why);
}

/* Cuts what stands behind a scheme at the end of its authority. */
static void azri_url_cut(azredis_str text, azredis_str *authority, azredis_str *rest) {
    size_t i;
    for (i = 0; i < text.len && text.ptr[i] != '/' && text.ptr[i] != '?' && text.ptr[i] != '#'; i++) {}
    *authority = azri_slice(text.ptr, i);
    *rest = azri_from(text, i);
}

/* Cuts a http or https URL behind its authority; 0: it is no such URL. */
static int azri_url_split(azredis_str text, int *tls, azredis_str *authority, azredis_str *rest) {
    *tls = azri_scan_word(&text, "https://");
    if (!*tls && !azri_scan_word(&text, "http://")) return 0;
    azri_url_cut(text, authority, rest);
    return 1;
}

typedef struct azri_url {
    int      tls;
    uint16_t port;             /* never 0 */
    char     host[256];        /* without brackets */
    char     path[1024];       /* with query; begins with '/' */
} azri_url;

#if !defined(AZREDIS_NO_WORKLOAD) || !defined(AZREDIS_NO_MANAGED)    /* of services that the environment names */
/* NULL, or what is wrong. */
static const char *azri_url_read(azri_url *u, azredis_str text) {
    azredis_str authority, rest;
    if (!azri_url_split(text, &u->tls, &authority, &rest)) return "it does not begin with http(s)://";
    const char *why = azri_hostport_parse(authority, 0, u->host, &u->port);
    if (why) return why;
    for (size_t i = 0; i < rest.len; i++) {
        if (rest.ptr[i] <= ' ' || rest.ptr[i] > '~') return "it has a blank, control or non-ASCII character";
        if (rest.ptr[i] == '#') return "it has a fragment ('#')";
    }
    size_t slash = rest.len == 0 || rest.ptr[0] != '/';
    if (rest.len > sizeof u->path - 1 - slash) return "its path is longer than 1022 bytes";
    u->path[0] = '/';
    if (rest.len) memcpy(u->path + slash, rest.ptr, rest.len);
    u->path[slash + rest.len] = '\0';
    if (u->port == 0) u->port = u->tls ? 443 : 80;
    return NULL;
}

static azredis_status azri_url_parse(azri_url *u, azredis_str text, const char *where, azredis_error *e) {
    const char *why = azri_url_read(u, text);
    if (!why) return AZREDIS_OK;
    return azri_fail(e, AZREDIS_E_ARG, where, "%s: %s; expected https://host/path or https://host:port/path", where,
                     why);
}
#endif

static int azri_ends_with(azredis_str s, const char *suffix) {
    size_t n = strlen(suffix);
    return s.len > n && azri_ieqz(azri_from(s, s.len - n), suffix);
}

/* The TLS port of a cache whose user gave none. Azure Cache for Redis listens on 6380; Azure Managed Redis, in every
 * cloud, and what we do not know, on 10000. */
static uint16_t azri_port_by_host(azredis_str host) {
    static const char *const classic[] = {
        ".redis.cache.windows.net", ".redis.cache.chinacloudapi.cn", ".redis.cache.usgovcloudapi.net",
        ".redis.cache.sovcloud-api.fr", ".redis.cache.sovcloud-api.de"
    };
    for (size_t i = 0; i < sizeof classic / sizeof classic[0]; i++)
        if (azri_ends_with(host, classic[i])) return 6380;
    return AZRI_PORT_MANAGED;
}

/* ==== >>json ============================================================== uses: core mem text ==
 * RFC 8259, read as it arrives: any split, one byte at a time too. Each scalar is handed to a function with its key and
 * the key of what holds it; nothing is kept. No recursion: 16 levels, else AZREDIS_E_LIMIT. The top must be an object.
 * What the RFC does not allow is refused: comments, a byte order mark, lone surrogates, malformed UTF-8, bytes behind
 * the end. Keys may repeat; which one counts is the caller's to say. An error stays.
 * Entry points: azri_json_init, azri_json_feed, azri_json_end, azri_json_free.
 * ================================================================================================ */

#define AZRI_JSON_KEY 64       /* a longer key is read and delivered as "": it is none that anyone asks for */

enum { AZRI_JSON_STRING, AZRI_JSON_NUMBER, AZRI_JSON_WORD };     /* true, false or null */

/* A scalar. depth 1: a member of the top object. key: its name, "" in an array. parent: the key of the object or array
 * around it, "" at the top. Strings are unescaped UTF-8 and may hold NUL. All slices are lent. */
typedef void (*azri_json_fn)(void *user, int depth, azredis_str parent, azredis_str key, int type, azredis_str text);

/* What may come next. */
typedef enum azri_json_state {
    AZRI_JSON_S_TOP,           /* the object's '{' */
    AZRI_JSON_S_FIRST_KEY,     /* a key, or '}' */
    AZRI_JSON_S_KEY,           /* a key */
    AZRI_JSON_S_COLON,
    AZRI_JSON_S_FIRST_ITEM,    /* a value, or ']' */
    AZRI_JSON_S_VALUE,         /* a value */
    AZRI_JSON_S_NEXT,          /* a comma, or the end of what is open */
    AZRI_JSON_S_TEXT,          /* inside a string */
    AZRI_JSON_S_ESCAPE,        /* behind its backslash */
    AZRI_JSON_S_HEX,           /* behind \u */
    AZRI_JSON_S_BARE,          /* inside a number, true, false or null */
    AZRI_JSON_S_END            /* blanks only */
} azri_json_state;

typedef struct azri_json {
    azri_json_fn    fn;
    void           *user;
    azri_buf        value;
    azredis_status  status;
    azri_json_state state;
    int             depth;                        /* containers that are open */
    uint32_t        arrays;                       /* bit d - 1: the container at depth d is an array */
    int             in_key;                       /* the string is a key */
    int             hex_left;
    uint32_t        hex, high;                    /* high: the first half of a surrogate pair, or 0 */
    int             utf8_left;                    /* bytes missing of this character */
    unsigned char   utf8_low, utf8_high;          /* what the next of them may be */
    size_t          key_len[AZRI_JSON_DEPTH];     /* AZRI_JSON_KEY + 1: too long */
    char            key[AZRI_JSON_DEPTH][AZRI_JSON_KEY];
} azri_json;

AZRI_STATIC_ASSERT(json_depth_fits_mask, AZRI_JSON_DEPTH <= 32);

static void azri_json_init(azri_json *j, const azri_mem *m, size_t value_max, azri_json_fn fn, void *user) {
    memset(j, 0, sizeof *j);
    j->fn = fn;
    j->user = user;
    azri_buf_init(&j->value, m, value_max, 1);
}

static void azri_json_free(azri_json *j) { azri_buf_free(&j->value); }

static azredis_str azri_json_key(const azri_json *j, int depth) {
    if (depth < 1 || j->key_len[depth - 1] > AZRI_JSON_KEY) return azri_str("");
    return azri_slice(j->key[depth - 1], j->key_len[depth - 1]);
}

static void azri_json_deliver(azri_json *j, int type) {
    azredis_str text = j->value.len ? azri_slice(j->value.ptr, j->value.len) : azri_str("");
    j->fn(j->user, j->depth, azri_json_key(j, j->depth - 1), azri_json_key(j, j->depth), type, text);
    j->state = AZRI_JSON_S_NEXT;
}

static AZRI_ONCE azredis_status azri_json_open(azri_json *j, int array) {
    if (j->depth == AZRI_JSON_DEPTH) return AZREDIS_E_LIMIT;
    j->key_len[j->depth] = 0;
    j->arrays &= ~((uint32_t)1 << j->depth);
    j->arrays |= (uint32_t)array << j->depth;
    j->depth++;
    j->state = array ? AZRI_JSON_S_FIRST_ITEM : AZRI_JSON_S_FIRST_KEY;
    return AZREDIS_OK;
}

static int azri_json_in_array(const azri_json *j) { return (int)(j->arrays >> (j->depth - 1) & 1u); }

static azredis_status azri_json_close(azri_json *j, int array) {
    if (azri_json_in_array(j) != array) return AZREDIS_E_JSON;
    j->depth--;
    j->state = j->depth ? AZRI_JSON_S_NEXT : AZRI_JSON_S_END;
    return AZREDIS_OK;
}

/* ---- strings ---- */

static azredis_status azri_json_put(azri_json *j, char c) {
    size_t *n = &j->key_len[j->depth - 1];
    if (!j->in_key) return azri_buf_add(&j->value, &c, 1);
    if (*n < AZRI_JSON_KEY) j->key[j->depth - 1][*n] = c;
    if (*n <= AZRI_JSON_KEY) ++*n;
    return AZREDIS_OK;
}

static azredis_status azri_json_put_code(azri_json *j, uint32_t c) {
    int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char lead[4] = {0, 0xc0, 0xe0, 0xf0};
    azredis_status st = azri_json_put(j, (char)(unsigned char)(lead[more] | c >> (6 * more)));
    while (more-- && st == AZREDIS_OK)
        st = azri_json_put(j, (char)(unsigned char)(0x80u | (c >> (6 * more) & 0x3fu)));
    return st;
}

/* Well-formed UTF-8 only: the bounds of the second byte shut out long forms, surrogates and what lies behind U+10FFFF
 * (Unicode 15, table 3-7). */
static int azri_json_utf8(azri_json *j, unsigned char c) {
    if (j->utf8_left) {
        if (c < j->utf8_low || c > j->utf8_high) return 0;
        j->utf8_left--;
        j->utf8_low = 0x80;
        j->utf8_high = 0xbf;
        return 1;
    }
    if (c < 0x80) return 1;
    if (c < 0xc2 || c > 0xf4) return 0;
    j->utf8_left = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    j->utf8_low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    j->utf8_high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    return 1;
}

static void azri_json_string_begin(azri_json *j, int in_key) {
    j->in_key = in_key;
    if (in_key) j->key_len[j->depth - 1] = 0;
    j->state = AZRI_JSON_S_TEXT;
}

static azredis_status azri_json_text(azri_json *j, char c) {
    if (!azri_json_utf8(j, (unsigned char)c)) return AZREDIS_E_JSON;
    if (c == '\\') {
        j->state = AZRI_JSON_S_ESCAPE;
        return AZREDIS_OK;
    }
    if (j->high || (unsigned char)c < ' ') return AZREDIS_E_JSON;
    if (c != '"') return azri_json_put(j, c);
    if (j->in_key) j->state = AZRI_JSON_S_COLON;
    else azri_json_deliver(j, AZRI_JSON_STRING);
    return AZREDIS_OK;
}

static azredis_status azri_json_escape(azri_json *j, char c) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    size_t i = azri_find(azri_slice(from, 8), c);
    j->state = AZRI_JSON_S_TEXT;
    if (c == 'u') {
        j->state = AZRI_JSON_S_HEX;
        j->hex = 0;
        j->hex_left = 4;
        return AZREDIS_OK;
    }
    if (i == 8 || j->high) return AZREDIS_E_JSON;
    return azri_json_put(j, to[i]);
}

static azredis_status azri_json_hex(azri_json *j, char c) {
    int v = azri_hex(c);
    uint32_t high = j->high;
    if (v < 0) return AZREDIS_E_JSON;
    j->hex = j->hex << 4 | (uint32_t)v;
    if (--j->hex_left) return AZREDIS_OK;
    j->state = AZRI_JSON_S_TEXT;
    j->high = 0;
    if (high) {
        if (j->hex < 0xdc00 || j->hex > 0xdfff) return AZREDIS_E_JSON;
        return azri_json_put_code(j, 0x10000 + ((high - 0xd800) << 10) + (j->hex - 0xdc00));
    }
    if (j->hex < 0xd800 || j->hex > 0xdfff) return azri_json_put_code(j, j->hex);
    if (j->hex > 0xdbff) return AZREDIS_E_JSON;
    j->high = j->hex;
    return AZREDIS_OK;
}

/* ---- numbers and words ---- */

/* RFC 8259 6. */
static int azri_json_is_number(azredis_str s) {
    (void)azri_scan_char(&s, '-');
    if (!azri_scan_char(&s, '0') && !azri_scan_digits(&s)) return 0;
    if (azri_scan_char(&s, '.') && !azri_scan_digits(&s)) return 0;
    if (azri_scan_word(&s, "e")) {
        (void)azri_scan_sign(&s);
        if (!azri_scan_digits(&s)) return 0;
    }
    return s.len == 0;
}

/* What follows the value: a comma, or the end of what is open. */
static azredis_status azri_json_next(azri_json *j, char c) {
    if (c == '}' || c == ']') return azri_json_close(j, c == ']');
    if (c != ',') return AZREDIS_E_JSON;
    j->state = azri_json_in_array(j) ? AZRI_JSON_S_VALUE : AZRI_JSON_S_KEY;
    return AZREDIS_OK;
}

static int azri_json_is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* These have no end of their own: the byte behind them belongs to what follows. */
static azredis_status azri_json_bare(azri_json *j, char c) {
    azredis_str text = azri_slice(j->value.ptr, j->value.len);
    if (azri_is_alnum(c) || c == '+' || c == '-' || c == '.') return azri_buf_add(&j->value, &c, 1);
    int number = azri_json_is_number(text);
    if (!number && !azri_eqz(text, "true") && !azri_eqz(text, "false") && !azri_eqz(text, "null"))
        return AZREDIS_E_JSON;
    azri_json_deliver(j, number ? AZRI_JSON_NUMBER : AZRI_JSON_WORD);
    return azri_json_is_blank(c) ? AZREDIS_OK : azri_json_next(j, c);
}

/* ---- the reader ---- */

static azredis_status azri_json_value(azri_json *j, char c) {
    j->value.len = 0;
    if (c == '{' || c == '[') return azri_json_open(j, c == '[');
    if (c == '"') {
        azri_json_string_begin(j, 0);
        return AZREDIS_OK;
    }
    j->state = AZRI_JSON_S_BARE;
    return azri_json_bare(j, c);
}

/* One byte outside strings, numbers and words. */
static azredis_status azri_json_between(azri_json *j, char c) {
    if (azri_json_is_blank(c)) return AZREDIS_OK;
    if (j->state == AZRI_JSON_S_TOP) return c == '{' ? azri_json_open(j, 0) : AZREDIS_E_JSON;
    if (j->state == AZRI_JSON_S_NEXT) return azri_json_next(j, c);
    if (j->state == AZRI_JSON_S_FIRST_ITEM && c == ']') return azri_json_close(j, 1);
    if (j->state == AZRI_JSON_S_FIRST_ITEM || j->state == AZRI_JSON_S_VALUE) return azri_json_value(j, c);
    if (j->state == AZRI_JSON_S_FIRST_KEY && c == '}') return azri_json_close(j, 0);
    if (j->state == AZRI_JSON_S_FIRST_KEY || j->state == AZRI_JSON_S_KEY) {
        azri_json_string_begin(j, 1);
        return c == '"' ? AZREDIS_OK : AZREDIS_E_JSON;
    }
    if (j->state != AZRI_JSON_S_COLON || c != ':') return AZREDIS_E_JSON;
    j->state = AZRI_JSON_S_VALUE;
    return AZREDIS_OK;
}

static azredis_status azri_json_feed(azri_json *j, const char *p, size_t n) {
    for (size_t i = 0; i < n && j->status == AZREDIS_OK; i++) {
        if (j->state == AZRI_JSON_S_TEXT) j->status = azri_json_text(j, p[i]);
        else if (j->state == AZRI_JSON_S_ESCAPE) j->status = azri_json_escape(j, p[i]);
        else if (j->state == AZRI_JSON_S_HEX) j->status = azri_json_hex(j, p[i]);
        else if (j->state == AZRI_JSON_S_BARE) j->status = azri_json_bare(j, p[i]);
        else j->status = azri_json_between(j, p[i]);
    }
    return j->status;
}

/* The text has ended: OK if it was complete. */
static azredis_status azri_json_end(azri_json *j) {
    if (j->status == AZREDIS_OK && j->state != AZRI_JSON_S_END) j->status = AZREDIS_E_JSON;
    return j->status;
}

/* ==== >>http ============================================================== uses: core mem fail text
 * HTTP/1.1 for one exchange per connection: writes a request, reads its answer as it arrives, in any split (RFC 9110,
 * RFC 9112). Allocates nothing; body bytes go straight to a sink. An answer that could be read in two ways is refused,
 * never repaired. Redirects are never followed: they would carry a secret elsewhere.
 * Entry points: azri_http_request, azri_http_init, azri_http_feed, azri_http_eof.
 * ================================================================================================ */

#define AZRI_HTTP_LINE_MAX   1024u                 /* of a header line; what is longer is cut, and counted */
#define AZRI_HTTP_INTERIM    8                     /* 1xx answers before the real one */
#define AZRI_HTTP_RETRY_MAX  (24u * AZRI_HOUR)     /* a longer Retry-After is taken as this */

/* ---- request ---- */

/* The general formatter is more than a device needs. */
static void azri_http_put_number(azri_buf *b, uint64_t n) {
    char text[20], *p = text + sizeof text;           /* as many digits as 2^64 has */
    do *--p = (char)('0' + n % 10); while (n /= 10);
    azri_buf_put(b, azri_slice(p, (size_t)(text + sizeof text - p)));
}

/* host[:port], as a URL has it. */
static void azri_http_put_host(azri_buf *b, const azri_url *u) {
    azredis_str host = azri_str(u->host);
    int ip6 = AZRI_WITH_ADDRESSES && azri_find(host, ':') < host.len;
    if (ip6) azri_buf_puts(b, "[");
    azri_buf_put(b, host);
    if (ip6) azri_buf_puts(b, "]");
    if (u->port == (u->tls ? 443 : 80)) return;
    azri_buf_puts(b, ":");
    azri_http_put_number(b, u->port);
}

/* name as it stands, value percent-encoded: of a form or a query. */
static void azri_http_put_field(azri_buf *b, const char *name, azredis_str value) {
    azri_buf_puts(b, name);
    azri_percent_put(b, value);
}

/* A POST of the form, or a GET if that is empty. extra_headers: "Name: value\r\n" as often as needed, or "". The URL
 * comes from azri_url_parse, so that it holds no line breaks; the caller vouches for the rest. */
static azredis_status azri_http_request(azri_buf *out, const azri_url *u, const char *extra_headers, azredis_str form) {
    azri_buf_puts(out, form.len ? "POST " : "GET ");
    azri_buf_puts(out, u->path);
    azri_buf_puts(out, " HTTP/1.1\r\nHost: ");
    azri_http_put_host(out, u);
    azri_buf_puts(out, "\r\nAccept: application/json\r\nConnection: close\r\n");
    azri_buf_puts(out, extra_headers);
    if (form.len) {
        azri_buf_puts(out, "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: ");
        azri_http_put_number(out, (uint64_t)form.len);
        azri_buf_puts(out, "\r\n");
    }
    azri_buf_puts(out, "\r\n");
    azri_buf_put(out, form);
    return out->status;
}

/* ---- a tunnel by a proxy (RFC 9110 9.3.6), with a password by RFC 7617 ---- */

#define AZRI_PROXY_LOGIN 255u                      /* bytes of user:password, percent-encoded */
#define AZRI_PROXY_HEAD  1024u                     /* two names of 253, base64 of a login, and the words around them */

/* http://[user:password@]host:port. NULL, or what is wrong; never quotes the text. *login, still encoded, points into it;
 * its ptr is NULL if there is none. */
static const char *azri_proxy_read(azredis_str text, char host[256], uint16_t *port, azredis_str *login) {
    char decoded[AZRI_PROXY_LOGIN];
    azredis_str authority, rest;
    size_t at, n = 0;
    int tls, good;
    *login = azri_slice(NULL, 0);
    if (!azri_url_split(text, &tls, &authority, &rest)) return "it does not begin with http://";
    if (tls) return "a proxy that is itself reached by TLS is not supported";
    if (rest.len && !azri_eqz(rest, "/"))
        return "something stands behind its port; '/', '?' and '#' in a password are %2F, %3F, %23";
    for (at = authority.len; at > 0 && authority.ptr[at - 1] != '@'; at--) {}
    if (at) *login = azri_slice(authority.ptr, at - 1);
    if (login->len > AZRI_PROXY_LOGIN) return "user and password have more than 255 bytes";
    good = azri_percent_decode(*login, 1, decoded, &n) && azri_find(*login, ':') == azri_find(azri_slice(decoded, n), ':');
    azri_wipe(decoded, sizeof decoded);
    if (!good) return "'%' in user or password needs two hexadecimal digits behind it, and neither may hold a control character, "
                      "nor the user a ':'";
    const char *why = azri_hostport_parse(azri_from(authority, at), 0, host, port);
    return why ? why : *port ? NULL : "it names no port";
}

/* The head of a CONNECT to host:port. Returns its length; out holds a secret. */
static size_t azri_proxy_head(char out[AZRI_PROXY_HEAD], const char *host, uint16_t port, azredis_str login) {
    char target[272], decoded[AZRI_PROXY_LOGIN + 1];
    int ip6 = azri_find(azri_str(host), ':') < strlen(host);
    size_t n = 0;
    azri_out o = azri_out_to(out, AZRI_PROXY_HEAD);
    (void)azri_fmt(target, sizeof target, "%s%s%s:%u", ip6 ? "[" : "", host, ip6 ? "]" : "", (unsigned)port);
    o.len = azri_fmt(out, AZRI_PROXY_HEAD, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n"
                     "User-Agent: azredis-entra/" AZREDIS_VERSION_TEXT "\r\n", target, target);
    if (login.ptr && azri_percent_decode(login, 1, decoded, &n)) {
        if (azri_find(login, ':') == login.len) decoded[n++] = ':';
        azri_out_text(&o, "Proxy-Authorization: Basic ", 27);
        azri_b64_out(&o, azri_slice(decoded, n));
        azri_out_text(&o, "\r\n", 2);
    }
    azri_out_text(&o, "\r\n", 2);
    azri_wipe(decoded, sizeof decoded);
    AZREDIS_ASSERT(o.len < o.cap);
    return o.len;
}

/* ---- answer ---- */

typedef enum azri_http_state {
    AZRI_HTTP_STATUS_LINE, AZRI_HTTP_HEADERS, AZRI_HTTP_CHUNK_SIZE, AZRI_HTTP_CHUNK_END,
    AZRI_HTTP_TRAILERS,                    /* up to here lines are read, */
    AZRI_HTTP_CHUNK, AZRI_HTTP_LENGTH,
    AZRI_HTTP_UNTIL_CLOSE,                 /* and up to here bytes of the body */
    AZRI_HTTP_DONE, AZRI_HTTP_FAILED
} azri_http_state;

/* Bytes of the body, as they come. What is not OK ends the exchange with that status. */
typedef azredis_status (*azri_http_sink)(void *user, const char *p, size_t n);
/* A header, as far as it was kept whole. */
typedef void (*azri_http_header_fn)(void *user, azredis_str name, azredis_str value);

typedef struct azri_http {
    /* The result, complete when feed or eof says OK. */
    int             status;                /* 0: no status line yet */
    uint32_t        retry_after_ms;        /* 0: not asked for */
    int64_t         date;                  /* the answer's Date; 0: none */
    /* Ours. */
    azri_http_sink  sink;
    azri_http_header_fn header;            /* may be NULL, and set after azri_http_init */
    void           *user;
    azri_http_state state;
    azredis_status  failed;
    int             interim;               /* 1xx answers seen */
    int             has_length, chunked;
    int64_t         retry_date;            /* Retry-After as a date; 0: none */
    uint32_t        left;                  /* bytes missing of the body or of this chunk */
    size_t          head, body;            /* bytes so far: of lines, of the body */
    int             cr;                    /* a CR came: LF must follow */
    size_t          line_len;              /* may pass the buffer: the line was cut */
    char            location_host[256];    /* where a redirect points to; "": this host, or unreadable */
    char            line[AZRI_HTTP_LINE_MAX];
} azri_http;

static void azri_http_init(azri_http *h, azri_http_sink sink, void *user) {
    memset(h, 0, sizeof *h);
    h->sink = sink;
    h->user = user;
}

static azredis_status azri_http_bad(azredis_error *e, const char *what) {
    return azri_fail(e, AZREDIS_E_HTTP, "http",
                     "HTTP answer: %s; is this the right address, and no proxy between?", what);
}
#define azri_http_bad(e, what) azri_http_bad(e, AZRI_TEXT(what))

static azredis_status azri_http_too_long(azredis_error *e, const char *what, unsigned max) {
    return azri_fail(e, AZREDIS_E_LIMIT, "http",
                     "HTTP answer: %s longer than %u bytes; is this the right address?", what, max);
}

/* "HTTP/1.1 200 OK"; the text is free, and some servers leave it out together with its blank. */
static azredis_status azri_http_status_line(azri_http *h, azredis_str line, azredis_error *e) {
    const char *p = line.ptr;
    if (line.len < 12 || memcmp(p, "HTTP/1.", 7) != 0 || !azri_is_digit(p[7]) || p[8] != ' ')
        return azri_http_bad(e, "it does not begin with HTTP/1.");
    if (p[9] < '1' || p[9] > '5' || !azri_is_digit(p[10]) || !azri_is_digit(p[11]) || (line.len > 12 && p[12] != ' '))
        return azri_http_bad(e, "its status is not a number from 100 to 599");
    h->status = (p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0');
    h->state = AZRI_HTTP_HEADERS;
    return AZREDIS_OK;
}

/* Content-Length may be repeated, but not differ (RFC 9112 6.3, 5). */
static azredis_status azri_http_content_length(azri_http *h, azredis_str value, azredis_error *e) {
    uint64_t n;
    if (!azri_u64(value, &n)) return azri_http_bad(e, "Content-Length is not a number");
    n = azri_min64(n, UINT32_MAX);
    if (h->has_length && n != h->left) return azri_http_bad(e, "two Content-Lengths that differ");
    h->has_length = 1;
    h->left = (uint32_t)n;
    return AZREDIS_OK;
}

/* The longest wait that any header asks for counts. */
static void azri_http_wait(azri_http *h, uint64_t ms) {
    uint32_t capped = (uint32_t)azri_min64(ms, AZRI_HTTP_RETRY_MAX);
    if (capped > h->retry_after_ms) h->retry_after_ms = capped;
}

static void azri_http_retry_after(azri_http *h, azredis_str value, uint32_t unit_ms) {
    uint64_t n;
    if (azri_u64(value, &n)) azri_http_wait(h, (uint32_t)azri_min64(n, AZRI_HTTP_RETRY_MAX / unit_ms) * unit_ms);
    else if (AZRI_WITH_HTTP_DATE && unit_ms == AZRI_SECOND) (void)azri_date_http(value, &h->retry_date);
}

static void azri_http_location(azri_http *h, azredis_str value) {
    azredis_str authority, rest;
    uint16_t port;
    int tls;
    if (azri_url_split(value, &tls, &authority, &rest))
        (void)azri_hostport_parse(authority, 0, h->location_host, &port);
}

/* RFC 9110 5.6.2 */
static int azri_http_is_token(azredis_str s) {
    azredis_str marks = azri_str("!#$%&'*+-.^_`|~");
    for (size_t i = 0; i < s.len; i++)
        if (!azri_is_alnum(s.ptr[i]) && azri_find(marks, s.ptr[i]) == marks.len) return 0;
    return s.len != 0;
}

/* One header or trailer line, not empty. *name and *value are cut from it. */
static azredis_status azri_http_split(azredis_str line, azredis_str *name, azredis_str *value, azredis_error *e) {
    size_t colon = azri_find(line, ':');
    if (line.ptr[0] == ' ' || line.ptr[0] == '\t') return azri_http_bad(e, "a folded header line");
    if (colon == line.len) return azri_http_bad(e, "a header line without colon");
    *name = azri_slice(line.ptr, colon);
    *value = azri_trim(azri_from(line, colon + 1), " \t");
    return azri_http_is_token(*name) ? AZREDIS_OK : azri_http_bad(e, "a header with a malformed name");
}

static AZRI_ONCE azredis_status azri_http_header(azri_http *h, azredis_str line, azredis_error *e) {
    azredis_str name, value;
    int cut = h->line_len > sizeof h->line;
    azredis_status st = azri_http_split(line, &name, &value, e);
    if (st != AZREDIS_OK) return st;
    if (AZRI_WITH_TEXT && azri_ieqz(name, "location")) azri_http_location(h, value);   /* its host is safe in what was kept */
    if (azri_ieqz(name, "content-length")) return azri_http_content_length(h, cut ? azri_str("") : value, e);
    if (azri_ieqz(name, "transfer-encoding")) {
        if (cut || h->chunked || !azri_ieqz(value, "chunked"))
            return azri_http_bad(e, "a Transfer-Encoding other than chunked");
        h->chunked = 1;
    }
    if (cut) return AZREDIS_OK;
    if (h->header) h->header(h->user, name, value);
    if (AZRI_WITH_HTTP_DATE && azri_ieqz(name, "date")) (void)azri_date_http(value, &h->date);
    if (azri_ieqz(name, "retry-after")) azri_http_retry_after(h, value, AZRI_SECOND);
    if (azri_ieqz(name, "retry-after-ms") || azri_ieqz(name, "x-ms-retry-after-ms"))
        azri_http_retry_after(h, value, 1);
    return AZREDIS_OK;
}

static azredis_status azri_http_redirect(const azri_http *h, azredis_error *e) {
    azredis_status st;
    char host[256];
    (void)azri_quote(host, sizeof host, h->location_host, strlen(h->location_host), azri_str(""));
    st = azri_fail(e, AZREDIS_E_HTTP, "http", "HTTP answer %d: token endpoints are never redirected; the "
                   "answer points to %s; is a proxy or captive portal between?", h->status,
                   host[0] ? host : "no other host");
    if (e) e->retryable = 0;
    return st;
}

/* An interim answer says nothing about the real one. */
static void azri_http_forget(azri_http *h) {
    h->state = AZRI_HTTP_STATUS_LINE;
    h->status = h->has_length = h->chunked = 0;
    h->retry_after_ms = 0;
    h->date = h->retry_date = 0;
    h->left = 0;
    h->location_host[0] = '\0';
}

/* The empty line behind the headers: which body follows (RFC 9112 6.3)? */
static azredis_status azri_http_head_end(azri_http *h, azredis_error *e) {
    if (h->has_length && h->chunked) return azri_http_bad(e, "both Content-Length and Transfer-Encoding");
    if (h->status == 101) return azri_http_bad(e, "it switches to a protocol that was not asked for");
    if (h->status < 200) {
        if (++h->interim > AZRI_HTTP_INTERIM) return azri_http_bad(e, "too many 1xx answers");
        azri_http_forget(h);
        return AZREDIS_OK;
    }
    if (AZRI_WITH_HTTP_DATE && h->date && h->retry_date > h->date)
        azri_http_wait(h, (uint64_t)(h->retry_date - h->date) * AZRI_SECOND);
    if (h->status >= 300 && h->status < 400 && h->status != 304) return azri_http_redirect(h, e);
    if (h->status == 204 || h->status == 304) h->state = AZRI_HTTP_DONE;
    else if (h->chunked) h->state = AZRI_HTTP_CHUNK_SIZE;
    else if (!h->has_length) h->state = AZRI_HTTP_UNTIL_CLOSE;
    else if (h->left > AZRI_HTTP_BODY_MAX) return azri_http_too_long(e, "a body", AZRI_HTTP_BODY_MAX);
    else h->state = h->left ? AZRI_HTTP_LENGTH : AZRI_HTTP_DONE;
    return AZREDIS_OK;
}

/* "1a2b;extension" (RFC 9112 7.1). Eight digits are enough for what is allowed and cannot overflow. */
static azredis_status azri_http_chunk_size(azri_http *h, azredis_str line, azredis_error *e) {
    uint32_t n = 0;
    size_t i;
    if (h->line_len > sizeof h->line) return azri_http_too_long(e, "a chunk's size line", AZRI_HTTP_LINE_MAX);
    for (i = 0; i < line.len && i < 8 && azri_hex(line.ptr[i]) >= 0; i++)
        n = n << 4 | (uint32_t)azri_hex(line.ptr[i]);
    if (i == 0 || (i < line.len && line.ptr[i] != ';')) return azri_http_bad(e, "a malformed chunk size");
    if (n > AZRI_HTTP_BODY_MAX - h->body) return azri_http_too_long(e, "a body", AZRI_HTTP_BODY_MAX);
    h->left = n;
    h->state = n ? AZRI_HTTP_CHUNK : AZRI_HTTP_TRAILERS;
    return AZREDIS_OK;
}

static azredis_status azri_http_line(azri_http *h, azredis_str line, azredis_error *e) {
    azredis_str name, value;
    AZREDIS_ASSERT(h->state <= AZRI_HTTP_TRAILERS);
    if (h->state == AZRI_HTTP_STATUS_LINE) return azri_http_status_line(h, line, e);
    if (h->state == AZRI_HTTP_HEADERS) return line.len ? azri_http_header(h, line, e) : azri_http_head_end(h, e);
    if (h->state == AZRI_HTTP_CHUNK_SIZE) return azri_http_chunk_size(h, line, e);
    if (h->state == AZRI_HTTP_TRAILERS && line.len) return azri_http_split(line, &name, &value, e);
    h->state = h->state == AZRI_HTTP_TRAILERS ? AZRI_HTTP_DONE : AZRI_HTTP_CHUNK_SIZE;
    return AZREDIS_OK;
}

/* One byte of a line. CR LF alone ends it: a bare LF or CR is read differently by different programs. */
static AZRI_ONCE azredis_status azri_http_line_byte(azri_http *h, char c, azredis_error *e) {
    if (h->state == AZRI_HTTP_CHUNK_END && c != '\r' && c != '\n')
        return azri_http_bad(e, "a chunk that is longer than its size");
    /* A body in many small chunks is legal: the line ends around them are paid for by its bytes. */
    if (h->state != AZRI_HTTP_CHUNK_END && (h->state != AZRI_HTTP_CHUNK_SIZE || h->line_len > 8)) h->head++;
    if (h->head > AZRI_HTTP_HEAD_MAX) return azri_http_too_long(e, "headers", AZRI_HTTP_HEAD_MAX);
    if (c == '\0') return azri_http_bad(e, "a NUL in its headers");
    if (h->cr != (c == '\n')) return azri_http_bad(e, h->cr ? "a bare CR" : "a bare LF");
    if (c == '\r') {
        h->cr = 1;
        return AZREDIS_OK;
    }
    if (c != '\n') {
        if (h->line_len < sizeof h->line) h->line[h->line_len] = c;
        h->line_len++;
        return AZREDIS_OK;
    }
    azredis_status st = azri_http_line(h, azri_slice(h->line, azri_minz(h->line_len, sizeof h->line)), e);
    h->cr = 0;
    h->line_len = 0;
    return st;
}

/* Body bytes from p[0..n); *used of them are taken. */
static azredis_status azri_http_body(azri_http *h, const char *p, size_t n, size_t *used, azredis_error *e) {
    if (h->state != AZRI_HTTP_UNTIL_CLOSE) n = azri_minz(n, h->left);
    else if (n > AZRI_HTTP_BODY_MAX - h->body) return azri_http_too_long(e, "a body", AZRI_HTTP_BODY_MAX);
    azredis_status st = h->sink(h->user, p, n);
    if (st != AZREDIS_OK) return azri_fail(e, st, "http", "HTTP answer: its body was not understood");
    *used = n;
    h->body += n;
    if (h->state == AZRI_HTTP_UNTIL_CLOSE) return AZREDIS_OK;
    h->left -= (uint32_t)n;
    if (h->left == 0) h->state = h->chunked ? AZRI_HTTP_CHUNK_END : AZRI_HTTP_DONE;
    return AZREDIS_OK;
}

static azredis_status azri_http_step(azri_http *h, const char *p, size_t n, size_t *used, azredis_error *e) {
    *used = 1;
    if (h->state <= AZRI_HTTP_TRAILERS) return azri_http_line_byte(h, *p, e);
    if (h->state <= AZRI_HTTP_UNTIL_CLOSE) return azri_http_body(h, p, n, used, e);
    if (h->state == AZRI_HTTP_DONE) return azri_http_bad(e, "bytes behind its end");
    return azri_fail(e, h->failed, "http", "HTTP answer: it was refused before");
}

static azredis_status azri_http_stop(azri_http *h, azredis_status st, azredis_error *e) {
    h->state = AZRI_HTTP_FAILED;
    h->failed = st;
    if (e) {
        e->http_status = h->status;
        e->retry_after_ms = h->retry_after_ms;
    }
    return st;
}

/* AGAIN: more is wanted. OK: the answer is complete. */
static azredis_status azri_http_feed(azri_http *h, const char *p, size_t n, azredis_error *e) {
    azredis_status st;
    size_t used;
    for (; n; p += used, n -= used) {
        st = azri_http_step(h, p, n, &used, e);
        if (st != AZREDIS_OK) return azri_http_stop(h, st, e);
    }
    return h->state == AZRI_HTTP_DONE ? AZREDIS_OK : AZREDIS_AGAIN;
}

/* The connection has ended: OK if the answer was complete, or had no length and so lasts until here. */
static azredis_status azri_http_eof(azri_http *h, azredis_error *e) {
    const char *where = "inside its body";
    if (h->state == AZRI_HTTP_UNTIL_CLOSE) h->state = AZRI_HTTP_DONE;
    if (h->state == AZRI_HTTP_DONE) return AZREDIS_OK;
    if (h->state == AZRI_HTTP_FAILED)
        return azri_fail(e, h->failed, "http", "HTTP answer: it was refused before");
    if (h->state == AZRI_HTTP_STATUS_LINE || h->state == AZRI_HTTP_HEADERS) where = "inside its headers";
    if (h->state == AZRI_HTTP_STATUS_LINE && h->line_len == 0) where = "before its first byte";
    (void)azri_fail(e, AZREDIS_E_CLOSED, "http", "HTTP answer: the connection ended %s", where);
    return azri_http_stop(h, AZREDIS_E_CLOSED, e);
}

/* ==== >>reply ============================================================= uses: core mem text ==
 * What an azredis_reply holds, and the public readers of it.
 * A reply's memory is one block that begins with an azri_block, so that azredis_reply_free and azredis_reply_copy need no
 * client. A fixed buffer of the caller's has no such head. Pure.
 * Entry points: azri_reply_reset, _block, _store, _error and the public functions.
 * ================================================================================================ */

typedef struct azri_block {
    azri_mem       mem;            /* by value: the client may be gone when the reply is freed */
    azredis_value *nodes;          /* a node array taken over from a decoder, or NULL */
    size_t         nodes_size;     /* its bytes */
    azredis_error  error;          /* what azredis_reply.error points to */
} azri_block;

/* A multiple of 16, so that what follows is as aligned as the block itself. */
#define AZRI_BLOCK_HEAD ((sizeof(azri_block) + 15) / 16 * 16)

typedef struct azri_status_row { azredis_status code; const char *text; } azri_status_row;

static const azri_status_row azri_status_rows[] = {
    {AZREDIS_OK, AZRI_TEXT("no error")},
    {AZREDIS_AGAIN, AZRI_TEXT("nothing yet; call again")},
    {AZREDIS_E_ARG, AZRI_TEXT("an argument or option is wrong")},
    {AZREDIS_E_NOMEM, AZRI_TEXT("out of memory")},
    {AZREDIS_E_LIMIT, AZRI_TEXT("a limit was reached")},
    {AZREDIS_E_ABI, AZRI_TEXT("header and implementation are of different versions")},
    {AZREDIS_E_STATE, AZRI_TEXT("not allowed in this state")},
    {AZREDIS_E_FULL, AZRI_TEXT("the backlog is full")},
#if AZRI_WITH_FORK
    {AZREDIS_E_FORK, AZRI_TEXT("it was opened before fork(), in the parent")},
#endif
    {AZREDIS_E_DNS, AZRI_TEXT("the host name could not be looked up")},
    {AZREDIS_E_NET, AZRI_TEXT("the network failed")},
    {AZREDIS_E_TIMEOUT, AZRI_TEXT("a deadline passed")},
    {AZREDIS_E_CLOSED, AZRI_TEXT("the connection or the client was closed")},
    {AZREDIS_E_TLS, AZRI_TEXT("TLS failed")},
    {AZREDIS_E_CERT, AZRI_TEXT("the server's certificate was refused")},
    {AZREDIS_E_HTTP, AZRI_TEXT("no readable HTTP answer")},
    {AZREDIS_E_JSON, AZRI_TEXT("no readable JSON answer")},
    {AZREDIS_E_ENTRA, AZRI_TEXT("Entra ID refused to give a token")},
    {AZREDIS_E_NO_CREDENTIAL, AZRI_TEXT("no credential was found")},
    {AZREDIS_E_TOKEN, AZRI_TEXT("the token cannot be used")},
    {AZREDIS_E_RESP, AZRI_TEXT("the server broke the Redis protocol")},
    {AZREDIS_E_REDIS, AZRI_TEXT("the server answered with an error")},
    {AZREDIS_E_AUTH, AZRI_TEXT("the server refused the credentials")},
    {AZREDIS_E_NOPERM, AZRI_TEXT("the server's access rules forbid this")},
    {AZREDIS_E_CLUSTER, AZRI_TEXT("the OSS cluster policy is not supported yet")},
    {AZREDIS_E_CONDITION, AZRI_TEXT("a condition did not hold")}, {AZREDIS_E_CONFLICT, AZRI_TEXT("a watched key was changed")}
};

/* For a reply that has no memory for a record of its own. One for all: a table of records, each with room for a
 * message, took 13 KB of a microcontroller's flash. */
static const azredis_error azri_no_record = {
    AZREDIS_E_NOMEM, 0, 0, 0, 0, 1, 0, "reply", "",
    AZRI_TEXT("no memory for the record of this error; the reply's status tells what it was"),
    {NULL, 0, 0, 0, 0, 0, 0}
};

static int azri_is_aggregate(unsigned type) { return type >= AZREDIS_T_ARRAY; }

static int azri_is_text(unsigned type) {
    const unsigned others = 1u << AZREDIS_T_NIL | 1u << AZREDIS_T_INTEGER | 1u << AZREDIS_T_BOOL;
    return !azri_is_aggregate(type) && !(others >> type & 1u);
}

/* Nodes of a tree; a top-level attribute is a second root before the first. */
static uint32_t azri_tree_roots(const azredis_value *root) {
    return root->flags & AZREDIS_F_ATTRIBUTE ? 2 : 1;
}

/* Counts the nodes, and the bytes of all strings with their NULs. 0: nested too deep. */
static int azri_tree_measure(const azredis_value *root, size_t *nodes, size_t *bytes) {
    /* One level for the roots, one more for the array that azredis_exec puts around its replies. */
    struct { const azredis_value *at; uint32_t left; } level[AZRI_RESP_DEPTH + 2];
    size_t depth = 1;
    const azredis_value *v;
    level[0].left = azri_tree_roots(root);
    level[0].at = root - (level[0].left - 1);
    *nodes = level[0].left;
    *bytes = 0;
    while (depth) {
        if (!level[depth - 1].left) {
            depth--;
            continue;
        }
        level[depth - 1].left--;
        v = level[depth - 1].at++;
        if (azri_is_text(v->type)) *bytes += (size_t)v->len + 1;
        if (!azri_is_aggregate(v->type) || !v->len) continue;
        if (depth == sizeof level / sizeof level[0]) return 0;
        level[depth].at = v->as.items;
        level[depth].left = v->len;
        depth++;
        *nodes += v->len;
    }
    return 1;
}

/* Copies a tree that was measured. Breadth first, so the copy itself is the queue and children are
 * contiguous. Below the roots no attribute survives: none stands before a child. */
static const azredis_value *azri_tree_copy(azredis_value *to, size_t nodes, const azredis_value *root) {
    char *text = (char *)(to + nodes);
    size_t roots = azri_tree_roots(root), used = roots, i;
    memcpy(to, root - (roots - 1), roots * sizeof *to);
    for (i = 0; i < used; i++) {
        azredis_value *v = &to[i];
        if (i >= roots) v->flags &= (uint8_t)~AZREDIS_F_ATTRIBUTE;
        if (azri_is_aggregate(v->type)) {
            if (v->len) memcpy(to + used, v->as.items, v->len * sizeof *to);
            v->as.items = to + used;
            used += v->len;
        } else if (azri_is_text(v->type)) {
            if (v->len) memcpy(text, v->as.str, v->len);
            v->as.str = text;
            text += v->len;
            *text++ = '\0';
        }
    }
    AZREDIS_ASSERT(used == nodes);
    return &to[roots - 1];
}

/* As OK and without a value, at the end of a command; the memory stays for reuse. */
static void azri_reply_reset(azredis_reply *r, azredis_fate fate) {
    r->status = AZREDIS_OK;
    r->fate = fate;
    r->value = NULL;
    r->error = NULL;
}

static azri_block *azri_reply_head(const azredis_reply *r) {
    return r->mem.fixed ? NULL : (azri_block *)r->mem.ptr;
}

/* Frees a block that is the reply's own. */
static void azri_reply_drop(azredis_reply *r) {
    azri_block *b = azri_reply_head(r);
    if (b) {
        azri_mem m = b->mem;
        azri_free(&m, b->nodes, b->nodes_size);
        azri_free(&m, b, r->mem.size);
        r->mem.ptr = NULL;
        r->mem.size = 0;
    }
}

/* A caller's buffer may stand anywhere: its first byte that a node may stand at. */
static char *azri_reply_fixed(const azredis_reply *r, size_t *room) {
    char *p = (char *)r->mem.ptr;
    size_t skip = (sizeof(int64_t) - (uintptr_t)p % sizeof(int64_t)) % sizeof(int64_t);
    *room = p && r->mem.size > skip ? r->mem.size - skip : 0;
    return *room ? p + skip : NULL;
}

/* Memory for n bytes in the reply, for its value; a value it had is gone. NULL: out of memory, or the
 * caller's fixed buffer is too small. */
static AZRI_APART void *azri_reply_new_block(azredis_reply *r, const azri_mem *m, size_t n) {
    if (r->mem.fixed) {
        size_t room;
        char *p = azri_reply_fixed(r, &room);
        return n <= room ? p : NULL;
    }
    if (n > SIZE_MAX - AZRI_BLOCK_HEAD) return NULL;
    size_t size = azri_shape_of(m) ? azri_room(m, AZRI_BLOCK_HEAD + n, azri_shape_of(m)->answer) : AZRI_BLOCK_HEAD + n;
    azri_block *b = (azri_block *)azri_alloc(m, size);
    if (!b) return NULL;
    azri_reply_drop(r);
    b->mem = *m;
    b->nodes = NULL;
    b->nodes_size = 0;
    r->mem.ptr = b;
    r->mem.size = size;
    return (char *)b + AZRI_BLOCK_HEAD;
}

static void *azri_reply_block(azredis_reply *r, const azri_mem *m, size_t n) {
    r->value = NULL;
    r->error = NULL;
    if (!r->mem.fixed && n + AZRI_BLOCK_HEAD <= r->mem.size) return (char *)r->mem.ptr + AZRI_BLOCK_HEAD;
    return azri_reply_new_block(r, m, n);
}

static azredis_status azri_reply_no_room(const azredis_reply *r) {
    return r->mem.fixed ? AZREDIS_E_LIMIT : AZREDIS_E_NOMEM;
}

/* A single value, which most replies are: none of the work that a tree needs. */
static inline azredis_status azri_reply_store_one(azredis_reply *r, const azri_mem *m, const azredis_value *from) {
    size_t bytes = azri_is_text(from->type) ? (size_t)from->len + 1 : 0;
    azredis_value *to = (azredis_value *)azri_reply_block(r, m, sizeof *to + bytes);
    char *text;
    if (!to) return azri_reply_no_room(r);
    *to = *from;
    r->value = to;
    if (!bytes) return AZREDIS_OK;
    to->as.str = text = (char *)(to + 1);
    *azri_put(text, from->as.str, from->len) = '\0';
    return AZREDIS_OK;
}

static AZRI_APART azredis_status azri_reply_store_tree(azredis_reply *r, const azri_mem *m, const azredis_value *root) {
    size_t nodes = 0, bytes = 0;
    if (!azri_tree_measure(root, &nodes, &bytes)) return AZREDIS_E_LIMIT;
    azredis_value *to = (azredis_value *)azri_reply_block(r, m, nodes * sizeof *root + bytes);
    if (!to) return azri_reply_no_room(r);
    r->value = azri_tree_copy(to, nodes, root);
    return AZREDIS_OK;
}

/* Copies a tree into the reply: E_LIMIT if the caller's buffer is too small, E_NOMEM. A fixed buffer
 * needs 16 bytes a node and the strings with one NUL each. root must not be in r's own memory. */
static inline azredis_status azri_reply_store(azredis_reply *r, const azri_mem *m, const azredis_value *root) {
    if (!azri_is_aggregate(root->type) && azri_tree_roots(root) == 1) return azri_reply_store_one(r, m, root);
    return azri_reply_store_tree(r, m, root);
}

/* Where the reply may keep an error record, behind its value; NULL: nowhere. */
static azredis_error *azri_reply_record(azredis_reply *r, const azri_mem *m) {
    size_t nodes = 0, bytes = 0, room;
    if (!r->mem.fixed) {
        if (!r->mem.ptr && m) (void)azri_reply_block(r, m, 0);
        return r->mem.ptr ? &azri_reply_head(r)->error : NULL;
    }
    if (r->value) (void)azri_tree_measure(r->value, &nodes, &bytes);
    bytes = (nodes * sizeof *r->value + bytes + 15) / 16 * 16;
    char *p = azri_reply_fixed(r, &room);
    if (bytes > room || sizeof(azredis_error) > room - bytes) return NULL;
    return (azredis_error *)(void *)(p + bytes);
}

/* Status and error record of the reply, which may be NULL. Its value, if it has one, comes first. With m
 * NULL or no memory the record is the common one. */
static void azri_reply_error(azredis_reply *r, const azri_mem *m, const azredis_error *err) {
    if (!r) return;
    azredis_error *e = azri_reply_record(r, m);
    if (e && e != err) *e = *err;
    r->status = err->code;
    r->error = e ? e : &azri_no_record;
}

AZREDIS_API void azredis_reply_free(azredis_reply *r) {
    if (!r) return;
    azri_reply_drop(r);
    memset(r, 0, sizeof *r);
}

#ifndef AZREDIS_NO_MALLOC
AZREDIS_API azredis_status azredis_reply_copy(azredis_reply *to, const azredis_reply *from) {
    azri_mem m;
    azredis_status st = AZREDIS_OK;
    if (!to || !from) return AZREDIS_E_ARG;
    if (to == from) return AZREDIS_OK;
    azri_block *b = azri_reply_head(to) ? azri_reply_head(to) : azri_reply_head(from);
    azri_reply_reset(to, from->fate);
    memset(&m, 0, sizeof m);
    if (b) m = b->mem;
    if (from->value && !b && !to->mem.fixed) st = AZREDIS_E_ARG;   /* neither knows an allocator */
    else if (from->value) st = azri_reply_store(to, &m, from->value);
    if (st != AZREDIS_OK) {
        to->status = st;
        to->error = &azri_no_record;
        return st;
    }
    if (from->error) azri_reply_error(to, b ? &m : NULL, from->error);
    to->status = from->status;          /* the common record is of another code */
    return AZREDIS_OK;
}
#endif

AZREDIS_API azredis_str azredis_text(const azredis_value *v) {
    if (!v || !azri_is_text(v->type)) return azri_slice(NULL, 0);
    return azri_slice(v->as.str, v->len);
}

/* 1: a text, and this one. */
static AZRI_ONCE int azri_value_is(const azredis_value *v, const char *z) {
    azredis_str text = azredis_text(v);
    return text.ptr && azri_eqz(text, z);
}

AZREDIS_API const azredis_value *azredis_field(const azredis_value *v, const char *key) {
    if (!v || !key) return NULL;
    if (v->type != AZREDIS_T_MAP && v->type != AZREDIS_T_ARRAY && v->type != AZREDIS_T_ATTRIBUTE) return NULL;
    for (uint32_t i = 0; i + 1 < v->len; i += 2)
        if (azri_value_is(&v->as.items[i], key)) return &v->as.items[i + 1];
    return NULL;
}

AZREDIS_API const azredis_value *azredis_attribute(const azredis_value *v) {
    return v && (v->flags & AZREDIS_F_ATTRIBUTE) ? v - 1 : NULL;
}

AZREDIS_API azredis_status azredis_int(const azredis_value *v, int64_t *out) {
    if (!v || !out || v->type == AZREDIS_T_ERROR) return AZREDIS_E_ARG;
    if (v->type == AZREDIS_T_INTEGER || v->type == AZREDIS_T_BOOL) {
        *out = v->as.integer;
        return AZREDIS_OK;
    }
    return azri_is_text(v->type) && azri_i64(azredis_text(v), out) ? AZREDIS_OK : AZREDIS_E_ARG;
}

AZREDIS_API azredis_status azredis_double(const azredis_value *v, double *out) {
    if (!v || !out || v->type == AZREDIS_T_ERROR) return AZREDIS_E_ARG;
    if (v->type == AZREDIS_T_INTEGER) {
        *out = (double)v->as.integer;
        return AZREDIS_OK;
    }
    return azri_is_text(v->type) && azri_double(azredis_text(v), out) ? AZREDIS_OK : AZREDIS_E_ARG;
}

AZREDIS_API azredis_status azredis_bool(const azredis_value *v, int *out) {
    if (!v || !out || (v->type != AZREDIS_T_BOOL && v->type != AZREDIS_T_INTEGER)) return AZREDIS_E_ARG;
    if (v->as.integer != 0 && v->as.integer != 1) return AZREDIS_E_ARG;
    *out = (int)v->as.integer;
    return AZREDIS_OK;
}

AZREDIS_API const char *azredis_status_text(azredis_status s) {
    for (size_t i = 0; i < sizeof azri_status_rows / sizeof azri_status_rows[0]; i++)
        if (azri_status_rows[i].code == s) return azri_status_rows[i].text;
    return AZRI_TEXT("unknown status");
}

/* ==== >>resp ======================================================= uses: core mem fail text reply ==
 * RESP2 and RESP3: commands out, frames in. Pure.
 * The decoder owns one receive block and parses in it. Bytes may come in any split; nothing is looked at twice: a line is
 * searched on from where it ended, a payload is passed by its length. Nodes hold offsets until the frame is complete, for
 * the block may move.
 * Memory: the block is at most 2 x the bytes received + 1 MiB (while it grows, the old one is there too), and 16 bytes a
 * node with doubling; no announced length or count reserves more than 1 MiB. A frame that costs more than max_reply (its
 * bytes + 16 a node) or finds no memory is parsed on without being stored: it holds nothing, and the connection lives.
 * Entry points: azri_resp_size, _write; azri_resp_init, _room, _got, _next, _keep, _mid_frame, _idle, _free.
 * ================================================================================================ */

#define AZRI_RESP_LENGTH_MAX 32u       /* bytes of a line that holds a length, a flag or nothing */
#define AZRI_RESP_LEAST      4u        /* bytes of an answer that is worth a short cut, its CRLF among them */
#define AZRI_RESP_DIGITS     8         /* of a length or integer there */
#define AZRI_RESP_HEADS      76u       /* of a command of nine arguments: "*9", nine times "$nnn", and all CRLFs */
#define AZRI_RESP_SWAP       65536u    /* larger frames are given away, not copied */

/* ---- encoder ---- */

static size_t azri_resp_digits(size_t v) {
    size_t n = 1;
    while (v >= 10) {
        v /= 10;
        n++;
    }
    return n;
}

/* Exact bytes of a command; 0: no arguments, one that has a length and no bytes, or the sum overflows. */
static size_t azri_resp_size(int argc, const azredis_str *argv) {
    size_t total, head;
    if (argc < 1) return 0;
    total = 3 + azri_resp_digits((size_t)argc);
    for (int i = 0; i < argc; i++) {
        if (!argv[i].ptr && argv[i].len) return 0;
        head = 5 + azri_resp_digits(argv[i].len);
        if (head > SIZE_MAX - total || argv[i].len > SIZE_MAX - total - head) return 0;
        total += head + argv[i].len;
    }
    return total;
}


static AZRI_APART char *azri_resp_write_digits(char *out, size_t v) {
    char *end = out + azri_resp_digits(v), *p = end;
    do *--p = (char)('0' + v % 10);
    while ((v /= 10) != 0);
    return end;
}

static inline char *azri_resp_write_head(char *out, char type, size_t v) {
    *out++ = type;
    if (v > 9) out = azri_resp_write_digits(out, v);
    else *out++ = (char)('0' + v);     /* mostly */
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

/* Writes the azri_resp_size bytes; returns their end. The bytes of the argument number `hole` (-1: none) are left out;
 * *at is where they belong. */
static char *azri_resp_write_around(char *out, int argc, const azredis_str *argv, int hole, size_t *at) {
    char *start = out;
    out = azri_resp_write_head(out, '*', (size_t)argc);
    for (int i = 0; i < argc; i++) {
        out = azri_resp_write_head(out, '$', argv[i].len);
        if (i == hole) {
            *at = (size_t)(out - start);
        } else if (argv[i].len) {
            memcpy(out, argv[i].ptr, argv[i].len);
            out += argv[i].len;
        }
        *out++ = '\r';
        *out++ = '\n';
    }
    return out;
}

static char *azri_resp_write(char *out, int argc, const azredis_str *argv) {
    return azri_resp_write_around(out, argc, argv, -1, NULL);
}

/* The same for a command of few and short arguments, as most are, in one go: its size. 0: it is none, or one for the
 * general way, or does not fit in cap bytes. */
static inline size_t azri_resp_write_short(char *out, size_t cap, int argc, const azredis_str *argv) {
    size_t left = cap - AZRI_RESP_HEADS;
    if (argc < 1 || argc > 9) return 0;
    char *p = azri_resp_write_head(out, '*', (size_t)argc);
    for (int i = 0; i < argc; i++, argv++) {
        if (!argv->ptr || argv->len > left) {
            azri_wipe(out, (size_t)(p - out));
            return 0;
        }
        left -= argv->len;
        p = azri_resp_write_head(p, '$', argv->len);
        p = azri_put(p, argv->ptr, argv->len);
        *p++ = '\r';
        *p++ = '\n';
    }
    return (size_t)(p - out);
}

/* ---- decoder ---- */

typedef struct azri_frame {
    const azredis_value *root;         /* NULL: skipped, see status */
    int                  is_push;      /* came as '>': never the answer to a command */
    size_t               bytes;        /* on the wire */
    azredis_status       status;       /* OK, or why the frame was skipped: E_LIMIT, E_NOMEM */
} azri_frame;

typedef struct azri_level {            /* an aggregate that is open */
    uint32_t left;                     /* items to come, if their number is known */
    uint32_t count;                    /* items so far */
    uint8_t  type;
    uint8_t  streamed;
    uint8_t  quiet;                    /* azri_resp.quiet before it was opened */
} azri_level;

typedef enum azri_resp_state { AZRI_RESP_LINE, AZRI_RESP_BODY, AZRI_RESP_SKIP_LINE } azri_resp_state;

typedef struct azri_resp {
    const azri_mem *mem;
    size_t          max_reply;
    char           *block;             /* an azri_block, then the received bytes */
    size_t          size;              /* of all of it */
    size_t          start, pos, scan, end; /* in those bytes: frame, parser, line search, received */
    size_t          need;              /* BODY: payload bytes from pos on. SKIP_LINE: line bytes before pos */
    size_t          dropped;           /* bytes of this frame that are gone, since it is skipped */
    size_t          text, text_len;    /* streamed string: gathered here, from start on */
    azredis_value  *nodes;             /* work nodes from the left, finished children from the right */
    size_t          nodes_cap, work, done;
    size_t          depth;
    azri_resp_state state;
    azredis_status  lost;              /* not OK: this frame is skipped */
    const char     *why;               /* protocol error; sticky */
    char            type;              /* of the line or payload at pos */
    uint8_t         streaming;         /* inside $? */
    uint8_t         quiet;             /* parse without storing: skipped, or in a nested attribute */
    uint8_t         attribute;         /* an attribute ended and its value has not begun */
    uint8_t         is_push;
    uint8_t         complete;
    uint8_t         hungry;            /* everything received has been parsed */
    uint32_t        attributes;        /* opened in this frame */
    azri_level      level[AZRI_RESP_DEPTH];
} azri_resp;

static void azri_resp_init(azri_resp *d, const azri_mem *m, size_t max_reply) {
    memset(d, 0, sizeof *d);
    d->mem = m;
    d->max_reply = max_reply;
}

/* What Redis never sends; constants where it is not understood. */
static int azri_resp_streaming(const azri_resp *d) { return AZRI_WITH_STREAMS && d->streaming; }
static int azri_resp_streamed(const azri_level *l) { return AZRI_WITH_STREAMS && l->streamed; }
static uint8_t azri_resp_is_attribute(unsigned type) { return AZRI_WITH_STREAMS && type == AZREDIS_T_ATTRIBUTE; }

static char *azri_resp_data(const azri_resp *d) { return d->block + AZRI_BLOCK_HEAD; }

static AZRI_ONCE size_t azri_resp_cap(const azri_resp *d) { return d->block ? d->size - AZRI_BLOCK_HEAD : 0; }

static void azri_resp_free_nodes(azri_resp *d) {
    azri_free(d->mem, d->nodes, d->nodes_cap * sizeof *d->nodes);
    d->nodes = NULL;
    d->nodes_cap = d->work = d->done = 0;
}

static void azri_resp_free(azri_resp *d) {
    azri_resp_free_nodes(d);
    azri_free(d->mem, d->block, d->size);
    azri_resp_init(d, d->mem, d->max_reply);
}

/* 1: part of a frame has been received and not delivered. */
static int azri_resp_mid_frame(const azri_resp *d) { return d->end > d->start || d->dropped > 0; }

/* Nothing is held: gives the memory back. Ends the loan of a frame. */
static void azri_resp_idle(azri_resp *d) {
    if (d->end > d->start) return;
    azri_resp_free_nodes(d);
    azri_free(d->mem, d->block, d->size);
    d->block = NULL;
    d->size = d->start = d->pos = d->scan = d->end = 0;
}

static azredis_status azri_resp_bad(azri_resp *d, const char *why) {
    d->why = why;
    return AZREDIS_E_RESP;
}
#define azri_resp_bad(d, why) azri_resp_bad(d, AZRI_TEXT(why))

/* From here on the frame is parsed without being stored. */
static AZRI_ONCE void azri_resp_lose(azri_resp *d, azredis_status why) {
    if (d->lost != AZREDIS_OK) return;
    d->lost = why;
    d->quiet = 1;
    azri_resp_free_nodes(d);
}

/* The frame would hold `more` bytes behind pos: is it too expensive then? */
static void azri_resp_charge(azri_resp *d, size_t more) {
    size_t used = d->pos - d->start + (d->work + d->done) * sizeof *d->nodes;
    if (used > d->max_reply || more > d->max_reply - used) azri_resp_lose(d, AZREDIS_E_LIMIT);
}

static int azri_resp_more_nodes(azri_resp *d) {
    size_t cap = azri_shape_of(d->mem) ? azri_shape_of(d->mem)->nodes
                 : d->nodes_cap        ? d->nodes_cap * 2
                                       : AZRI_RESP_NODES;
    azredis_value *p;
    if (cap == d->nodes_cap) return 0;
    if (cap > SIZE_MAX / sizeof *p) return 0;
    p = (azredis_value *)azri_alloc(d->mem, cap * sizeof *p);
    if (!p) return 0;
    if (d->work) memcpy(p, d->nodes, d->work * sizeof *p);
    if (d->done) memcpy(p + cap - d->done, d->nodes + d->nodes_cap - d->done, d->done * sizeof *p);
    azri_free(d->mem, d->nodes, d->nodes_cap * sizeof *p);
    d->nodes = p;
    d->nodes_cap = cap;
    return 1;
}

/* Stores a node. value: an integer; a string's offset from start; the distance of an aggregate's first
 * child from the end of the node array, which stays true when the array grows. */
static void azri_resp_push(azri_resp *d, azredis_type type, unsigned flags, size_t len, int64_t value) {
    azredis_value *v;
    if (d->quiet) return;
    azri_resp_charge(d, sizeof *v);
    if (d->quiet) return;
    if (d->work + d->done == d->nodes_cap && !azri_resp_more_nodes(d)) {
        azri_resp_lose(d, azri_shape_of(d->mem) ? AZREDIS_E_LIMIT : AZREDIS_E_NOMEM);
        return;
    }
    v = &d->nodes[d->work++];
    v->type = (uint8_t)type;
    v->flags = (uint8_t)flags;
    v->reserved = 0;
    v->len = (uint32_t)len;
    v->as.integer = value;
}

/* Closes the innermost aggregate. Its children, on top of the work nodes, move to the finished ones (the
 * two areas may touch: memmove), and one node takes their place. 0: it was an attribute, which never
 * counts as an item. */
static int azri_resp_pop(azri_resp *d) {
    const azri_level *l = &d->level[--d->depth];
    if (!d->quiet) {
        d->work -= l->count;
        d->done += l->count;
        if (l->count)
            memmove(d->nodes + d->nodes_cap - d->done, d->nodes + d->work, l->count * sizeof *d->nodes);
        azri_resp_push(d, (azredis_type)l->type, 0, l->count, (int64_t)d->done);
    }
    d->quiet = d->lost != AZREDIS_OK ? 1 : l->quiet;
    d->attribute = azri_resp_is_attribute(l->type);
    return !azri_resp_is_attribute(l->type);
}

/* A value has ended: so may the aggregates around it. */
static azredis_status azri_resp_item(azri_resp *d) {
    while (d->depth) {
        azri_level *l = &d->level[d->depth - 1];
        l->count++;
        if (azri_resp_streamed(l)) {
            if (l->count > AZRI_RESP_COUNT_MAX) return azri_resp_bad(d, "a stream has too many items");
            return AZREDIS_OK;
        }
        if (--l->left) return AZREDIS_OK;
        if (!azri_resp_pop(d)) return AZREDIS_OK;
    }
    d->complete = 1;
    return AZREDIS_OK;
}

static azredis_status azri_resp_put(azri_resp *d, azredis_type type, unsigned flags, azredis_str text) {
    azri_resp_push(d, type, flags, text.len, text.ptr - azri_resp_data(d) - (int64_t)d->start);
    return azri_resp_item(d);
}

static azredis_status azri_resp_put_int(azri_resp *d, azredis_type type, int64_t value) {
    azri_resp_push(d, type, 0, 0, value);
    return azri_resp_item(d);
}

/* Opens an aggregate of n items, or a streamed one. Of a reply's own attributes the last is kept, those
 * of nested values are parsed and dropped. */
static azredis_status azri_resp_open(azri_resp *d, azredis_type type, size_t n, int streamed) {
    if (d->depth == AZRI_RESP_DEPTH) return azri_resp_bad(d, "nested too deep");
    azri_level *l = &d->level[d->depth];
    l->left = (uint32_t)n;
    l->count = 0;
    l->type = (uint8_t)type;
    l->streamed = (uint8_t)streamed;
    l->quiet = d->quiet;
    if (azri_resp_is_attribute(type)) {
        if (++d->attributes > AZRI_RESP_ATTRIBUTES) return azri_resp_bad(d, "too many attributes in one answer");
        if (d->depth) d->quiet = 1;
        else d->work = d->done = 0;
    }
    d->depth++;
    if (streamed || n) return AZREDIS_OK;
    return azri_resp_pop(d) ? azri_resp_item(d) : AZREDIS_OK;
}

/* A length line: digits give 'n' and *out (at most max), "-1" gives '-', "?" gives '?', all else 0. */
static char azri_resp_length(azredis_str s, size_t max, size_t *out) {
    uint64_t v = 0;                    /* holds ten times every max */
    *out = 0;
    if (s.len == 2 && s.ptr[0] == '-' && s.ptr[1] == '1') return '-';
    if (AZRI_WITH_STREAMS && s.len == 1 && s.ptr[0] == '?') return '?';
    for (size_t i = 0; i < s.len; i++) {
        if (!azri_is_digit(s.ptr[i])) return 0;
        v = v * 10 + (uint64_t)(s.ptr[i] - '0');
        if (v > max) return 0;
    }
    *out = (size_t)v;
    return s.len ? 'n' : '\0';
}

static size_t azri_resp_skip_digits(azredis_str s, size_t i) {
    while (i < s.len && azri_is_digit(s.ptr[i])) i++;
    return i;
}

/* [+-]? digits */
static int azri_resp_is_bignum(azredis_str s) {
    size_t i = s.len && (s.ptr[0] == '+' || s.ptr[0] == '-') ? 1 : 0;
    return i < s.len && azri_resp_skip_digits(s, i) == s.len;
}

/* inf, infinity, nan, nan(...) after the sign, in any case: old servers print what their libc prints. */
static int azri_resp_is_special(azredis_str s) {
    if (azri_ieqz(s, "inf") || azri_ieqz(s, "infinity") || azri_ieqz(s, "nan")) return 1;
    return s.len >= 5 && azri_ieqz(azri_slice(s.ptr, 4), "nan(") && s.ptr[s.len - 1] == ')';
}

/* The form only; azredis_double makes the number when it is wanted. ".5" and "5." pass, "." does not. */
static int azri_resp_is_double(azredis_str s) {
    size_t i, dot = 0, digits;
    if (s.len && (s.ptr[0] == '+' || s.ptr[0] == '-')) s = azri_slice(s.ptr + 1, s.len - 1);
    if (azri_resp_is_special(s)) return 1;
    i = azri_resp_skip_digits(s, 0);
    if (i < s.len && s.ptr[i] == '.') {
        dot = 1;
        i = azri_resp_skip_digits(s, i + 1);
    }
    if (i == dot) return 0;
    if (i == s.len) return 1;
    if (azri_lower(s.ptr[i++]) != 'e') return 0;
    if (i < s.len && (s.ptr[i] == '+' || s.ptr[i] == '-')) i++;
    digits = azri_resp_skip_digits(s, i);
    return digits > i && digits == s.len;
}

/* Longest text after a type byte; 0: no such type. */
static size_t azri_resp_line_max(char type) {
    switch (type) {
    case '+': case '-': case ':': case ',': case '(':
        return AZRI_RESP_LINE_MAX;
    case '$': case '!': case '=': case '*': case '~': case '%': case '>': case '#': case '_':
        return AZRI_RESP_LENGTH_MAX;
    case '|': case ';': case '.':
        return AZRI_WITH_STREAMS ? AZRI_RESP_LENGTH_MAX : 0;
    default:
        return 0;
    }
}

/* No end of line yet. Of a skipped frame not even the line is held. */
static azredis_status azri_resp_line_wait(azri_resp *d, size_t max) {
    azri_resp_charge(d, d->scan - d->pos);
    if (d->lost != AZREDIS_OK && max == AZRI_RESP_LINE_MAX) {
        d->state = AZRI_RESP_SKIP_LINE;
        d->need = d->scan - d->pos - 1;
        d->pos = d->scan;
    }
    return AZREDIS_AGAIN;
}

/* Takes one line: d->type and the text after it, whose CR becomes NUL. */
static azredis_status azri_resp_line(azri_resp *d, azredis_str *text) {
    char *p = azri_resp_data(d);
    size_t i = d->scan > d->pos ? d->scan : d->pos + 1, max;
    if (d->pos == d->end) return AZREDIS_AGAIN;
    d->type = p[d->pos];
    max = azri_resp_line_max(d->type);
    if (!max) return azri_resp_bad(d, "unknown type");
    if (AZRI_WITH_STREAMS && d->streaming != (d->type == ';'))
        return azri_resp_bad(d, d->streaming ? "a streamed string is cut short" : "a piece of no string");
    while (i < d->end && p[i] != '\r' && p[i] != '\n') i++;
    d->scan = i;
    if (i - d->pos - 1 > max) return azri_resp_bad(d, "a line is too long");
    if (i < d->end && p[i] == '\n') return azri_resp_bad(d, "LF without CR");
    if (d->end - i < 2) return azri_resp_line_wait(d, max);
    if (p[i + 1] != '\n') return azri_resp_bad(d, "CR without LF");
    p[i] = '\0';
    *text = azri_slice(p + d->pos + 1, i - d->pos - 1);
    d->pos = i + 2;
    azri_resp_charge(d, 0);
    return AZREDIS_OK;
}

static azredis_status azri_resp_skip_line(azri_resp *d) {
    char *p = azri_resp_data(d);
    size_t i = d->pos;
    while (i < d->end && p[i] != '\r' && p[i] != '\n') i++;
    d->need += i - d->pos;
    d->pos = i;
    if (d->need > AZRI_RESP_LINE_MAX) return azri_resp_bad(d, "a line is too long");
    if (i < d->end && p[i] == '\n') return azri_resp_bad(d, "LF without CR");
    if (d->end - i < 2) return AZREDIS_AGAIN;
    if (p[i + 1] != '\n') return azri_resp_bad(d, "CR without LF");
    d->pos += 2;
    d->state = AZRI_RESP_LINE;
    d->attribute = 0;
    return azri_resp_item(d);
}

/* A payload of n bytes and CRLF follow. */
static azredis_status azri_resp_expect(azri_resp *d, size_t n) {
    d->state = AZRI_RESP_BODY;
    d->need = n;
    azri_resp_charge(d, n + 2);
    return AZREDIS_OK;
}

/* $ ! = */
static azredis_status azri_resp_blob(azri_resp *d, azredis_str text) {
    size_t n;
    switch (azri_resp_length(text, AZRI_RESP_BULK_MAX, &n)) {
    case 'n':
        if (d->type == '=' && n < 4) return azri_resp_bad(d, "a verbatim string without format");
        return azri_resp_expect(d, n);
    case '-':
        return azri_resp_put_int(d, AZREDIS_T_NIL, 0);
    case '?':                          /* streamed */
        if (d->type != '$') return azri_resp_bad(d, "only '$' strings are streamed");
        d->streaming = 1;
        d->text = d->pos - d->start;
        d->text_len = 0;
        return AZREDIS_OK;
    default:
        return azri_resp_bad(d, "bad string length");
    }
}

/* ; : a piece of a streamed string; an empty one ends it. */
static azredis_status azri_resp_chunk(azri_resp *d, azredis_str text) {
    size_t n;
    if (azri_resp_length(text, AZRI_RESP_BULK_MAX - d->text_len, &n) != 'n')
        return azri_resp_bad(d, "bad length in a streamed string");
    if (n) return azri_resp_expect(d, n);
    d->streaming = 0;
    if (d->lost != AZREDIS_OK) return azri_resp_item(d);
    char *s = azri_resp_data(d) + d->start + d->text;
    s[d->text_len] = '\0';             /* at the latest where this ';' stood */
    return azri_resp_put(d, AZREDIS_T_STRING, 0, azri_slice(s, d->text_len));
}

/* * ~ % > | */
static azredis_status azri_resp_aggregate(azri_resp *d, azredis_type type, azredis_str text) {
    size_t n, per = type == AZREDIS_T_MAP || azri_resp_is_attribute(type) ? 2 : 1;
    char form = azri_resp_length(text, AZRI_RESP_COUNT_MAX / per, &n);
    if (type == AZREDIS_T_PUSH && !d->depth) d->is_push = 1;
    if (form == 'n') return azri_resp_open(d, type, n * per, 0);
    if (form && !azri_resp_is_attribute(type))
        return AZRI_WITH_STREAMS && form == '?' ? azri_resp_open(d, type, 0, 1) : azri_resp_put_int(d, AZREDIS_T_NIL, 0);
    return azri_resp_bad(d, "bad number of items");
}

/* . : the end of a streamed aggregate */
static azredis_status azri_resp_stream_end(azri_resp *d, azredis_str text) {
    const azri_level *l = d->depth ? &d->level[d->depth - 1] : NULL;
    if (!l || !l->streamed || text.len) return azri_resp_bad(d, "misplaced end of stream");
    if (d->attribute) return azri_resp_bad(d, "an attribute without value");
    if (l->type == AZREDIS_T_MAP && l->count % 2) return azri_resp_bad(d, "a map with a key without value");
    (void)azri_resp_pop(d);
    return azri_resp_item(d);
}

/* : , ( # _ */
static azredis_status azri_resp_scalar(azri_resp *d, azredis_str text) {
    int64_t v;
    char c;
    switch (d->type) {
    case ':':
        if (!azri_i64(text, &v)) return azri_resp_bad(d, "bad integer");
        return azri_resp_put_int(d, AZREDIS_T_INTEGER, v);
    case ',':
        if (AZRI_WITH_STREAMS && !azri_resp_is_double(text)) return azri_resp_bad(d, "bad double");
        return azri_resp_put(d, AZREDIS_T_DOUBLE, 0, text);
    case '(':                          /* Redis hands on what a script calls a big number, unread */
        return azri_resp_put(d, AZREDIS_T_BIGNUM, azri_resp_is_bignum(text) ? 0 : AZREDIS_F_INVALID, text);
    case '#':
        c = text.len == 1 ? azri_lower(text.ptr[0]) : '\0';
        if (c != 't' && c != 'f') return azri_resp_bad(d, "bad boolean");
        return azri_resp_put_int(d, AZREDIS_T_BOOL, c == 't');
    default:
        if (text.len) return azri_resp_bad(d, "a null with text");
        return azri_resp_put_int(d, AZREDIS_T_NIL, 0);
    }
}

static AZRI_ONCE azredis_status azri_resp_head(azri_resp *d) {
    azredis_str text = { NULL, 0 };        /* an analyzer does not see that azri_resp_bad returns an error */
    azredis_status st = azri_resp_line(d, &text);
    if (st != AZREDIS_OK) return st;
    if (AZRI_WITH_STREAMS && d->type == '.') return azri_resp_stream_end(d, text);
    d->attribute = 0;
    if (AZRI_WITH_STREAMS && d->type == '|') return azri_resp_aggregate(d, AZREDIS_T_ATTRIBUTE, text);
    if (AZRI_WITH_STREAMS && d->type == ';') return azri_resp_chunk(d, text);
    /* What azri_resp_skip_line cannot check is not checked here: the cut of the bytes makes no difference. */
    if (d->lost != AZREDIS_OK && azri_resp_line_max(d->type) == AZRI_RESP_LINE_MAX) return azri_resp_item(d);
    switch (d->type) {
    case '$': case '!': case '=': return azri_resp_blob(d, text);
    case '+': return azri_resp_put(d, AZREDIS_T_STATUS, 0, text);
    case '-': return azri_resp_put(d, AZREDIS_T_ERROR, 0, text);
    case '*': return azri_resp_aggregate(d, AZREDIS_T_ARRAY, text);
    case '~': return azri_resp_aggregate(d, AZREDIS_T_SET, text);
    case '%': return azri_resp_aggregate(d, AZREDIS_T_MAP, text);
    case '>': return azri_resp_aggregate(d, AZREDIS_T_PUSH, text);
    default:  return azri_resp_scalar(d, text);
    }
}

/* A complete payload at p: a value, or one more piece of a streamed string. */
static azredis_status azri_resp_payload(azri_resp *d, char *p, size_t n) {
    if (azri_resp_streaming(d)) {
        if (d->lost == AZREDIS_OK) memmove(azri_resp_data(d) + d->start + d->text + d->text_len, p, n);
        d->text_len += n;
        return AZREDIS_OK;
    }
    if (d->type == '!') return azri_resp_put(d, AZREDIS_T_ERROR, 0, azri_slice(p, n));
    if (d->type == '$') return azri_resp_put(d, AZREDIS_T_STRING, 0, azri_slice(p, n));
    if (d->lost != AZREDIS_OK) return azri_resp_item(d);
    if (p[3] != ':') return azri_resp_bad(d, "a verbatim string without format");
    return azri_resp_put(d, AZREDIS_T_VERBATIM, 0, azri_slice(p + 4, n - 4));
}

static azredis_status azri_resp_body(azri_resp *d) {
    char *p = azri_resp_data(d) + d->pos;
    size_t have = d->end - d->pos, n;
    if (d->lost != AZREDIS_OK) {
        n = azri_minz(have, d->need);
        p += n;
        have -= n;
        d->pos += n;
        d->need -= n;
        if (azri_resp_streaming(d)) d->text_len += n;
    }
    n = d->need;
    if (have < n || have - n < 2) return AZREDIS_AGAIN;
    if (p[n] != '\r' || p[n + 1] != '\n') return azri_resp_bad(d, "no CRLF behind a string");
    p[n] = '\0';
    d->pos += n + 2;
    d->state = AZRI_RESP_LINE;
    return azri_resp_payload(d, p, n);
}

/* Offsets become pointers. */
static void azri_resp_fix(azredis_value *v, size_t n, const char *text, const azredis_value *nodes_end) {
    for (; n; n--, v++) {
        if (azri_is_aggregate(v->type)) v->as.items = nodes_end - v->as.integer;
        else if (azri_is_text(v->type)) v->as.str = text + v->as.integer;
    }
}

static void azri_resp_deliver(azri_resp *d, azri_frame *f) {
    f->status = d->lost;
    f->is_push = d->is_push;
    f->bytes = d->dropped + (d->pos - d->start);
    f->root = NULL;
    if (d->lost == AZREDIS_OK) {
        const char *text = azri_resp_data(d) + d->start;
        azredis_value *end = d->nodes + d->nodes_cap;
        AZREDIS_ASSERT(d->work == 1 || d->work == 2);
        azri_resp_fix(d->nodes, d->work, text, end);
        azri_resp_fix(end - d->done, d->done, text, end);
        if (d->work == 2) d->nodes[1].flags |= AZREDIS_F_ATTRIBUTE;
        f->root = &d->nodes[d->work - 1];
    }
    d->start = d->pos;
    d->work = d->done = d->dropped = 0;
    d->lost = AZREDIS_OK;
    d->quiet = d->is_push = d->complete = 0;
    d->attributes = 0;
}

static azredis_status azri_resp_tell(const azri_resp *d, azredis_error *e) {
    const char *hint = d->type == 'H' ? "; is this an HTTP server?"
                     : d->type == 0x15 || d->type == 0x16 ? "; is this a TLS port?" : "";
    return azri_fail(e, AZREDIS_E_RESP, "redis.reply", "reading a reply: the server broke the Redis protocol: %s (type "
                     "0x%02x)%s; the connection cannot be used any more", d->why, (unsigned)(unsigned char)d->type, hint);
}

/* The digits from `line` on, at most AZRI_RESP_DIGITS; returns their end, with two more bytes before `end`. NULL: none. */
static inline char *azri_resp_count(char *line, const char *end, size_t *n) {
    const char *stop = end - line > AZRI_RESP_DIGITS + 2 ? line + AZRI_RESP_DIGITS : end - 2;
    char *text = line;
    unsigned v = 0;                    /* AZRI_RESP_DIGITS fit into it */
    for (; text < stop; text++) {
        int digit = *text - '0';
        if (digit < 0 || digit > 9) break;
        v = v * 10 + (unsigned)digit;
    }
    *n = v;
    return text == line ? NULL : text;
}

/* The string whose length stands at `line`, if it stands before `end` as a whole; else NULL. */
static inline char *azri_resp_string(char *line, char *end, size_t *n) {
    char *text = azri_resp_count(line, end, n);
    if (!text || memcmp(text, "\r\n", 2) != 0 || (size_t)(end - text) < *n + 4) return NULL;
    return memcmp(text + 2 + *n, "\r\n", 2) == 0 ? text + 2 : NULL;
}

/* Most answers are one string, status or integer, and stand in the block as a whole. They are read here in one go. All
 * else, what is wrong or too large or finds no memory included, is left untouched for the general way. */
static AZRI_ALONG int azri_resp_short(azri_resp *d, azri_frame *f) {
    char *p = azri_resp_data(d) + d->start, *end = azri_resp_data(d) + d->end, *text;
    azredis_value *v = d->nodes, one;
    size_t n;
    if (d->pos != d->start || d->lost != AZREDIS_OK || !v) return 0;
    one.flags = 0;
    one.reserved = 0;
    if (*p == '$') {
        one.type = AZREDIS_T_STRING;
        text = azri_resp_string(p + 1, end, &n);
        if (!text) return 0;
        one.as.str = text;
        text += n;
    } else if (*p == ':') {
        one.type = AZREDIS_T_INTEGER;
        text = azri_resp_count(p + 1, end, &n);
        if (!text || memcmp(text, "\r\n", 2) != 0) return 0;
        one.as.integer = (int64_t)n;
        n = 0;
    } else if (*p == '+') {
        one.type = AZREDIS_T_STATUS;
        for (text = p + 1; text < end - 2 && *text != '\r' && *text != '\n'; text++) {}
        n = (size_t)(text - (p + 1));
        if (n > AZRI_RESP_LINE_MAX || memcmp(text, "\r\n", 2) != 0) return 0;
        one.as.str = p + 1;
    } else {
        return 0;
    }
    one.len = (uint32_t)n;
    f->bytes = (size_t)(text + 2 - p);
    if (f->bytes + sizeof *v > d->max_reply) return 0;
    *v = one;
    *text = '\0';
    d->start = d->pos += f->bytes;
    f->root = v;
    f->status = AZREDIS_OK;
    f->is_push = 0;
    return 1;
}

/* The same for a string among others: 1 if it was taken. */
static int azri_resp_short_item(azri_resp *d) {
    char *data = azri_resp_data(d), *p = data + d->pos, *text;
    size_t n, used = d->work + d->done;
    azredis_value *v;
    if (d->quiet || d->streaming || used == d->nodes_cap || d->end - d->pos < AZRI_RESP_LEAST || *p != '$') return 0;
    text = azri_resp_string(p + 1, data + d->end, &n);
    if (!text) return 0;
    used = (size_t)(text + n + 2 - data) - d->start + (used + 1) * sizeof *v;
    if (used > d->max_reply) return 0;
    v = &d->nodes[d->work++];
    v->type = AZREDIS_T_STRING;
    v->flags = 0;
    v->reserved = 0;
    v->len = (uint32_t)n;
    v->as.integer = text - data - (int64_t)d->start;
    text[n] = '\0';
    d->pos = (size_t)(text + n + 2 - data);
    d->attribute = 0;
    return 1;
}

static azredis_status azri_resp_step(azri_resp *d) {
    if (d->state == AZRI_RESP_BODY) return azri_resp_body(d);
    if (d->state == AZRI_RESP_SKIP_LINE) return azri_resp_skip_line(d);
    return AZRI_WITH_SHORT_CUTS && azri_resp_short_item(d) ? azri_resp_item(d) : azri_resp_head(d);
}

static AZRI_APART azredis_status azri_resp_general(azri_resp *d, azri_frame *f, azredis_error *e) {
    azredis_status st = d->block ? AZREDIS_OK : AZREDIS_AGAIN;
    if (d->why) return azri_resp_tell(d, e);
    while (st == AZREDIS_OK && !d->complete) st = azri_resp_step(d);
    if (d->lost != AZREDIS_OK) {
        d->dropped += d->pos - d->start;
        d->start = d->pos;
    }
    if (st == AZREDIS_E_RESP) return azri_resp_tell(d, e);
    d->hungry = st == AZREDIS_AGAIN;
    if (st == AZREDIS_AGAIN) return st;
    azri_resp_deliver(d, f);
    if (f->status == AZREDIS_E_LIMIT)
        (void)azri_fail(e, AZREDIS_E_LIMIT, "redis.reply",
                        "reading a reply: its %llu bytes need more memory than max_reply (%llu) or rx_bytes allows, so "
                        "it was skipped; the command was answered",
                        (unsigned long long)f->bytes, (unsigned long long)d->max_reply);
    else if (f->status != AZREDIS_OK)
        (void)azri_fail(e, f->status, "redis.reply", "reading a reply: out of memory, so its %llu bytes were skipped; "
                        "the command was answered", (unsigned long long)f->bytes);
    return AZREDIS_OK;
}

/* OK: *f is one complete frame, lent until the next call of room, got, next or idle; if f->status is not OK
 * it was skipped, and *e (which may be NULL) says why. AGAIN: more bytes are wanted. E_RESP: for good. */
static AZRI_ALONG azredis_status azri_resp_next(azri_resp *d, azri_frame *f, azredis_error *e) {
    if (AZRI_WITH_SHORT_CUTS && d->end - d->start >= AZRI_RESP_LEAST && !d->why && azri_resp_short(d, f))
        return AZREDIS_OK;
    return azri_resp_general(d, f, e);
}

/* ---- receive block ---- */

/* Moves what is held to the front of block, whose data may be the present ones. */
static void azri_resp_move(azri_resp *d, char *block, size_t size) {
    size_t live = d->end - d->start;
    if (live) memmove(block + AZRI_BLOCK_HEAD, azri_resp_data(d) + d->start, live);
    d->scan = d->scan > d->start ? d->scan - d->start : 0;
    d->pos -= d->start;
    d->start = 0;
    d->end = live;
    d->block = block;
    d->size = size;
}

/* A block of another capacity, at least what is held. 0: no memory; nothing has changed. */
static int azri_resp_resize(azri_resp *d, size_t cap) {
    char *old = d->block, *p;
    size_t old_size = d->size;
    if (azri_shape_of(d->mem)) cap = azri_shape_of(d->mem)->rx;
    if (cap > SIZE_MAX - AZRI_BLOCK_HEAD || cap == azri_resp_cap(d)) return 0;
    p = (char *)azri_alloc(d->mem, AZRI_BLOCK_HEAD + cap);
    if (!p) return 0;
    azri_resp_move(d, p, AZRI_BLOCK_HEAD + cap);
    azri_free(d->mem, old, old_size);
    return 1;
}

/* Grows the block if less than `want` bytes are free, or than the payload in progress still lacks if that is less. */
static int azri_resp_grow(azri_resp *d, size_t want) {
    size_t live = d->end - d->start, lacks = 0, more = live > want ? live : want;
    if (d->state == AZRI_RESP_BODY && d->lost == AZREDIS_OK && d->need + 2 > d->end - d->pos)
        lacks = d->need + 2 - (d->end - d->pos);
    if (azri_resp_cap(d) - d->end >= (lacks && lacks < want ? lacks : want)) return 1;
    if (lacks) more = azri_minz(lacks, live > AZRI_RESP_RESERVE ? live : AZRI_RESP_RESERVE);
    if (more > SIZE_MAX - live) return 0;
    return azri_resp_resize(d, live + more > AZRI_RESP_BLOCK ? live + more : AZRI_RESP_BLOCK);
}

/* Where to put received bytes: *n >= 1 of them, about `want` or what a payload lacks. AGAIN: call
 * azri_resp_next first. E_NOMEM: there is no block at all; nothing is lost, try again later. */
static azredis_status azri_resp_room(azri_resp *d, size_t want, char **p, size_t *n) {
    want = want < 1 ? 1 : azri_minz(want, AZRI_RESP_RESERVE / 4);
    size_t least = want > AZRI_RESP_BLOCK ? want : AZRI_RESP_BLOCK;
    if (d->start && (d->start == d->end || azri_resp_cap(d) - d->end < want))
        azri_resp_move(d, d->block, d->size);
    if (d->lost != AZREDIS_OK && azri_resp_cap(d) > 2 * least && d->end < least)
        (void)azri_resp_resize(d, least);
    if (!azri_resp_grow(d, want) && azri_resp_cap(d) == d->end) {
        azri_frame none;
        if (!d->block) return AZREDIS_E_NOMEM;
        if (!d->hungry) return AZREDIS_AGAIN;
        azri_resp_lose(d, azri_shape_of(d->mem) ? AZREDIS_E_LIMIT : AZREDIS_E_NOMEM);
        (void)azri_resp_general(d, &none, NULL);   /* passes what is held of the skipped frame; cannot end it */
        azri_resp_move(d, d->block, d->size);
    }
    *p = azri_resp_data(d) + d->end;
    *n = azri_resp_cap(d) - d->end;
    AZREDIS_ASSERT(*n > 0);
    return AZREDIS_OK;
}

static void azri_resp_got(azri_resp *d, size_t n) {
    AZREDIS_ASSERT(n <= azri_resp_cap(d) - d->end);
    d->end += n;
    if (n) d->hungry = 0;
}

/* May a reply's old block be the next receive block: same allocator, room for what is held, and not so
 * large that the memory promise would be lost. */
static int azri_resp_may_adopt(const azri_resp *d, const azredis_reply *r, size_t room) {
    const azri_block *b = (const azri_block *)r->mem.ptr;
    return b && b->mem.alloc == d->mem->alloc && b->mem.free == d->mem->free && b->mem.user == d->mem->user &&
           r->mem.size / 2 <= d->size && room <= r->mem.size - AZRI_BLOCK_HEAD;
}

/* Gives the receive block and the nodes to the reply, and takes the reply's old ones if they will do. */
static AZRI_APART azredis_status azri_resp_swap(azri_resp *d, const azri_frame *f, azredis_reply *r) {
    azri_block *mine = (azri_block *)(void *)d->block;
    azredis_value *nodes = d->nodes;
    size_t size = d->size, held = d->end - d->start, next_size = 0;
    size_t room = held > AZRI_RESP_BLOCK ? held : AZRI_RESP_BLOCK;
    char *next = NULL;
    mine->nodes_size = d->nodes_cap * sizeof *nodes;
    if (azri_resp_may_adopt(d, r, room)) {
        azri_block *old = (azri_block *)r->mem.ptr;
        next = (char *)r->mem.ptr;
        next_size = r->mem.size;
        d->nodes = old->nodes;
        d->nodes_cap = old->nodes_size / sizeof *d->nodes;
    } else {
        if (held) {
            next_size = AZRI_BLOCK_HEAD + room;
            next = (char *)azri_alloc(d->mem, next_size);
            if (!next) return AZREDIS_E_NOMEM;
        }
        azri_reply_drop(r);
        d->nodes = NULL;
        d->nodes_cap = 0;
    }
    azri_resp_move(d, next, next_size);
    mine->mem = *d->mem;
    mine->nodes = nodes;
    r->mem.ptr = mine;
    r->mem.size = size;
    r->value = f->root;
    r->error = NULL;
    return AZREDIS_OK;
}

/* Makes the frame, the last one delivered, the reply's own. A small one is copied. A large one is not,
 * unless the block is far larger still. E_NOMEM; E_LIMIT: the reply's fixed buffer is too small. */
static inline azredis_status azri_resp_keep(azri_resp *d, const azri_frame *f, azredis_reply *r) {
    if (!f->root) return f->status;
    if (AZRI_WITH_SHORT_CUTS && f->bytes >= AZRI_RESP_SWAP && f->bytes >= d->size / 4 && !r->mem.fixed &&
        !azri_shape_of(d->mem))
        return azri_resp_swap(d, f, r);
    return azri_reply_store(r, d->mem, f->root);
}

/* ==== >>jwt =============================================================== uses: core mem fail text json ==
 * The claims of an access token. Nothing is verified: the TLS connection to the issuer is the trust, and
 * Redis verifies the signature. Pure. Entry points: azri_jwt_claims azri_jwt_user.
 * ================================================================================================ */

/* "" or 0: absent, of the wrong type, too long, or with control characters. */
typedef struct azri_claims {
    char    oid[64], tid[64], appid[64], sub[64], idtyp[16], aud[160];
    int64_t exp, iat;
    char    names[160];                /* claim names, for messages */
} azri_claims;

/* A JSON number, or a string that holds one, cut to whole seconds; sizes past 10^15 stay there. 1: ok.
 * Integers only, because a device without floating point would pay kilobytes for "3599.7". */
static int azri_jwt_seconds(azredis_str s, int64_t *out) {
    const int64_t enough = 1000000000000000;
    size_t i = s.len && s.ptr[0] == '-';
    int64_t v = 0, exponent = 0;
    int dot = 0, seen = 0, tens = 0;            /* the number is v * 10^tens */
    for (; i < s.len && (azri_is_digit(s.ptr[i]) || (s.ptr[i] == '.' && !dot)); i++) {
        if (s.ptr[i] == '.') { dot = 1; continue; }
        seen = 1;
        if (v < enough) {
            v = v * 10 + (s.ptr[i] - '0');
            tens -= dot;
        } else {
            tens += !dot;
        }
    }
    if (i < s.len && azri_lower(s.ptr[i]) == 'e') {
        if (!azri_i64(azri_slice(s.ptr + i + 1, s.len - i - 1), &exponent)) return 0;
        i = s.len;
    }
    if (!seen || i != s.len) return 0;
    tens += exponent > 400 ? 400 : exponent < -400 ? -400 : (int)exponent;
    for (; tens < 0 && v; tens++) v /= 10;
    for (; tens > 0 && v && v < enough; tens--) v *= 10;
    *out = s.ptr[0] == '-' ? -v : v;
    return 1;
}

/* Keeps text if it fits and is clean, as a JSON string may hold NUL and line ends. The first one wins. */
static void azri_jwt_text(char *out, size_t cap, azredis_str text) {
    if (out[0] || text.len >= cap) return;
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.ptr[i] < ' ' || text.ptr[i] == 127) return;
    if (text.len) memcpy(out, text.ptr, text.len);
    out[text.len] = '\0';
}

/* Entra alone writes whole seconds. */
static void azri_jwt_number(int64_t *out, azredis_str text) {
    int64_t v;
    int good = AZRI_WITH_CLAIMS || AZRI_WITH_DATES ? azri_jwt_seconds(text, &v) : azri_i64(text, &v);
    if (*out == 0 && good && v > 0) *out = v;
}

static void azri_jwt_name(azri_claims *c, azredis_str key) {
    size_t n = strlen(c->names);
    if (key.len == 0 || key.len + 2 > sizeof c->names - n) return;
    if (n) c->names[n++] = ' ';
    memcpy(c->names + n, key.ptr, key.len);
    c->names[n + key.len] = '\0';
}

static void azri_jwt_value(void *user, int depth, azredis_str parent, azredis_str key, int type, azredis_str text) {
    azri_claims *c = (azri_claims *)user;
    (void)parent;
    if (depth != 1) return;
    azri_jwt_name(c, key);
    if (type == AZRI_JSON_NUMBER) {
        if (azri_eqz(key, "exp")) azri_jwt_number(&c->exp, text);
        if (azri_eqz(key, "iat")) azri_jwt_number(&c->iat, text);
    }
    if (type != AZRI_JSON_STRING) return;
    if (azri_eqz(key, "oid")) azri_jwt_text(c->oid, sizeof c->oid, text);
    if (azri_eqz(key, "tid")) azri_jwt_text(c->tid, sizeof c->tid, text);
    if (azri_eqz(key, "appid")) azri_jwt_text(c->appid, sizeof c->appid, text);
    if (azri_eqz(key, "sub")) azri_jwt_text(c->sub, sizeof c->sub, text);
    if (azri_eqz(key, "idtyp")) azri_jwt_text(c->idtyp, sizeof c->idtyp, text);
    if (azri_eqz(key, "aud")) azri_jwt_text(c->aud, sizeof c->aud, text);
}

/* The middle one of exactly three parts; empty if there are more, fewer, or the first two are not both filled. */
static azredis_str azri_jwt_payload(azredis_str token) {
    size_t head = azri_find(token, '.'), n;
    azredis_str rest = azri_from(token, azri_minz(head + 1, token.len));
    n = azri_find(rest, '.');
    if (head == 0 || n == rest.len || azri_find(azri_from(rest, n + 1), '.') < rest.len - n - 1) n = 0;
    return azri_slice(rest.ptr, n);
}

/* OK, E_TOKEN: not a JWT, or E_NOMEM. *out is all zero on failure. *json is room for the reader, which is too large for
 * the stack of a device. */
static azredis_status azri_jwt_claims(azredis_str token, const azri_mem *m, azri_json *json, azri_claims *out,
                                      azredis_error *e) {
    azredis_str part = azri_jwt_payload(token);
    azredis_status st = AZREDIS_E_TOKEN;
    size_t n = 0, room;
    memset(out, 0, sizeof *out);
    if (part.len == 0 || part.len > AZRI_TOKEN_MAX)
        return azri_fail(e, AZREDIS_E_TOKEN, "token", "token: not a JWT (three parts with dots between them)");
    room = azri_room(m, part.len, AZRI_VALUE_MAX);
    char *text = (char *)azri_alloc(m, room);
    if (!text) return azri_fail(e, AZREDIS_E_NOMEM, "token", "token: no memory to read its claims");
    azri_json_init(json, m, AZRI_CLAIM_MAX, azri_jwt_value, out);
    if (azri_b64url_decode(part, text, &n)) st = azri_json_feed(json, text, n);
    if (st == AZREDIS_OK) st = azri_json_end(json);
    azri_json_free(json);
    azri_wipe(text, part.len);
    azri_free(m, text, room);
    if (st == AZREDIS_OK) return AZREDIS_OK;
    memset(out, 0, sizeof *out);
    if (st == AZREDIS_E_NOMEM) return azri_fail(e, st, "token", "token: no memory to read its claims");
    return azri_fail(e, AZREDIS_E_TOKEN, "token", "token: not a JWT (its middle part is not a JSON object)");
}

/* The Redis user name is the object id of the identity. Tokens of applications carry it as sub too. */
static azredis_status azri_jwt_user(const azri_claims *c, char out[64], azredis_error *e) {
    char names[160];
    const char *user = c->oid[0] || !azri_eqz(azri_str(c->idtyp), "app") ? c->oid : c->sub;
    memcpy(out, user, sizeof c->oid);
    if (user[0]) return AZREDIS_OK;
    return azri_fail(e, AZREDIS_E_TOKEN, "token", "token: no usable oid claim, so the Redis user name is unknown; its "
                     "claims: %s. Set the option user to the object id of the identity", azri_quote(names, sizeof names,
                     c->names, strlen(c->names), azri_slice(NULL, 0)));
}

/* ==== >>identity ========================================================== uses: core mem fail text http ==
 * Names, options and environment of an identity, the authorities that may get a secret, advice for Entra's
 * error codes. Pure.
 * Entry points: azredis_identity_by_name azri_identity_conf_copy azri_env_free azri_hint.
 * ================================================================================================ */

#define AZRI_STS_WAIT_MAX    60000u        /* a longer Retry-After ends the walk */
#define AZRI_STS_SLOW_DOWN   60000u        /* Entra says "too fast" without a time */
#define AZRI_REDIS_RESOURCE  "https://redis.azure.com"
#define AZRI_REDIS_SCOPE     AZRI_REDIS_RESOURCE "/.default"
#define AZRI_REDIS_GUID      "acca5fbb-b7e4-4009-81f1-37e38fd66d78"
#define AZRI_RELATIVE_BELOW  978307200     /* the year 2001: MSAL takes a smaller expires_on as a life */

/* ---- names and needs -------------------------------------------------------------------------- */

enum { AZRI_NEED_TENANT = 1, AZRI_NEED_CLIENT = 2, AZRI_NEED_SECRET = 4, AZRI_NEED_CALLBACK = 8,
       AZRI_NEED_USER = 16, AZRI_NEED_PASSWORD = 32, AZRI_NEED_ASSERTION = 64, AZRI_NEED_TOKEN_FILE = 128,
       AZRI_NEED_EXEC = 256, AZRI_NEED_CERTIFICATE = 512,
       AZRI_NEED_PROOF = 1024 /* memory of an assertion, beside the token that it brings */ };

/* Of these the default chain uses none: who gives one has forgotten to name the identity, and must not sign in as another. */
#define AZRI_NEED_OTHERS \
    (AZRI_NEED_SECRET | AZRI_NEED_CALLBACK | AZRI_NEED_PASSWORD | AZRI_NEED_ASSERTION | AZRI_NEED_TOKEN_FILE | \
     AZRI_NEED_EXEC | AZRI_NEED_CERTIFICATE)

#define AZRI_ID_LATER (-1)                 /* the name is known, no identity of ours has it */

/* What switches took out of this build, a bit each. */
enum { AZRI_IDENTITIES_OFF = 0
#if !AZRI_WITH_WALKS
    | 1 << AZREDIS_ID_CLIENT_SECRET
#endif
#ifdef AZREDIS_LEAN
    | 1 << AZREDIS_ID_ACCESS_KEY | 1 << AZREDIS_ID_PASSWORD
#endif
#ifdef AZREDIS_NO_ASSERTION
    | 1 << AZREDIS_ID_CLIENT_ASSERTION
#endif
#ifdef AZREDIS_NO_CERTIFICATE
    | 1 << AZREDIS_ID_CLIENT_CERTIFICATE
#endif
#ifdef AZREDIS_NO_DEVICE_CODE
    | 1 << AZREDIS_ID_DEVICE_CODE
#endif
#ifndef AZREDIS_NO_OS                      /* without, these have no rows below */
#  ifdef AZREDIS_NO_WORKLOAD
    | 1 << AZREDIS_ID_WORKLOAD
#  endif
#  ifdef AZREDIS_NO_MANAGED
    | 1 << AZREDIS_ID_MANAGED | 1 << AZREDIS_ID_MANAGED_APP
#  endif
#  ifdef AZREDIS_NO_TOKEN_FILE
    | 1 << AZREDIS_ID_TOKEN_FILE
#  endif
#  ifdef AZREDIS_NO_EXEC
    | 1 << AZREDIS_ID_EXEC
#  endif
#  ifdef AZREDIS_NO_DEVTOOLS
    | 1 << AZREDIS_ID_AZURE_CLI | 1 << AZREDIS_ID_AZURE_DEVELOPER_CLI | 1 << AZREDIS_ID_AZURE_POWERSHELL
#  endif
#endif
};

static int azri_identity_is_off(int id) { return AZRI_IDENTITIES_OFF >> id & 1; }

/* The name is within: the linker keeps or drops all literals of all tables together. */
typedef struct azri_identity_kind { char name[21]; int8_t id; uint16_t needs; } azri_identity_kind;

static const azri_identity_kind azri_identity_kinds[] = {
    { "default", AZREDIS_ID_DEFAULT, 0 },
    { "client-secret", AZREDIS_ID_CLIENT_SECRET, AZRI_NEED_TENANT | AZRI_NEED_CLIENT | AZRI_NEED_SECRET },
    { "client-certificate", AZREDIS_ID_CLIENT_CERTIFICATE,
      AZRI_NEED_TENANT | AZRI_NEED_CLIENT | AZRI_NEED_CERTIFICATE | AZRI_NEED_PROOF },
#if AZRI_WITH_CALLBACK
    { "callback", AZREDIS_ID_CALLBACK, AZRI_NEED_CALLBACK },
#endif
    { "access-key", AZREDIS_ID_ACCESS_KEY, AZRI_NEED_PASSWORD },
    { "password", AZREDIS_ID_PASSWORD, AZRI_NEED_USER | AZRI_NEED_PASSWORD },
    { "client-assertion", AZREDIS_ID_CLIENT_ASSERTION,
      AZRI_NEED_TENANT | AZRI_NEED_CLIENT | AZRI_NEED_ASSERTION | AZRI_NEED_PROOF },
#ifndef AZREDIS_NO_OS
    { "environment", AZREDIS_ID_ENVIRONMENT, 0 },
    { "workload-identity", AZREDIS_ID_WORKLOAD, AZRI_NEED_PROOF },
    { "managed-identity", AZREDIS_ID_MANAGED, 0 },
    { "managed-identity-app", AZREDIS_ID_MANAGED_APP, AZRI_NEED_TENANT | AZRI_NEED_CLIENT | AZRI_NEED_PROOF },
    { "token-file", AZREDIS_ID_TOKEN_FILE, AZRI_NEED_TOKEN_FILE },
    { "exec", AZREDIS_ID_EXEC, AZRI_NEED_EXEC },
    { "azure-cli", AZREDIS_ID_AZURE_CLI, 0 },
    { "azure-developer-cli", AZREDIS_ID_AZURE_DEVELOPER_CLI, 0 },
    { "azure-powershell", AZREDIS_ID_AZURE_POWERSHELL, 0 },
#endif
    { "device-code", AZREDIS_ID_DEVICE_CODE, 0 }
};

/* A scope is a resource with "/.default" behind it. */
static azredis_str azri_identity_resource(const char *text) {
    azredis_str scope = azri_str(text), tail = azri_str("/.default");
    if (scope.len > tail.len && azri_eq(azri_slice(scope.ptr + scope.len - tail.len, tail.len), tail))
        scope.len -= tail.len;
    return scope;
}

/* NULL: no such name, or no such id. */
static const azri_identity_kind *azri_identity_find(const char *name, int id) {
    for (size_t i = 0; i < sizeof azri_identity_kinds / sizeof azri_identity_kinds[0]; i++) {
        const azri_identity_kind *k = &azri_identity_kinds[i];
        if (name ? azri_eqz(azri_str(name), k->name) : k->id == id && !azri_identity_is_off(id)) return k;
    }
    return NULL;
}

static const char *azri_identity_name(int id) {
    const azri_identity_kind *k = azri_identity_find(NULL, id);
    return k ? k->name : "?";
}

AZREDIS_API azredis_status azredis_identity_by_name(const char *name, azredis_identity *out) {
    const azri_identity_kind *k = name ? azri_identity_find(name, 0) : NULL;
    if (!k || !out || azri_identity_is_off(k->id)) return AZREDIS_E_ARG;
    *out = (azredis_identity)k->id;
    return AZREDIS_OK;
}

AZREDIS_API const char *azredis_identity_why(const char *name) {
    const azri_identity_kind *k = name ? azri_identity_find(name, 0) : NULL;
    if (k)
        return azri_identity_is_off(k->id) ? "left out of this build by an AZREDIS_NO_ switch or AZREDIS_LEAN" : NULL;
    if (!AZRI_WITH_OS)
        return "no identity has this name, or it needs an operating system (AZREDIS_NO_OS); there are default client-secret "
               "client-certificate client-assertion device-code callback access-key password";
    return "no identity has this name; there are default environment client-secret client-certificate client-assertion "
           "workload-identity managed-identity managed-identity-app azure-cli azure-developer-cli azure-powershell "
           "device-code token-file exec callback access-key password";
}

/* ---- environment ------------------------------------------------------------------------------ */

enum azri_env_name {
    AZRI_ENV_TENANT_ID, AZRI_ENV_CLIENT_ID, AZRI_ENV_CLIENT_SECRET, AZRI_ENV_CERTIFICATE_PATH,
    AZRI_ENV_USERNAME, AZRI_ENV_AUTHORITY_HOST, AZRI_ENV_TOKEN_CREDENTIALS,
    AZRI_ENV_FEDERATED_TOKEN_FILE, AZRI_ENV_TOKEN_PROXY, AZRI_ENV_TOKEN_PROXY_CA_FILE, AZRI_ENV_TOKEN_PROXY_CA_DATA,
    AZRI_ENV_TOKEN_PROXY_SNI, AZRI_ENV_POD_AUTHORITY, AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IDENTITY_HEADER,
    AZRI_ENV_IDENTITY_THUMBPRINT, AZRI_ENV_IMDS_ENDPOINT, AZRI_ENV_MSI_ENDPOINT, AZRI_ENV_MSI_SECRET,
    AZRI_ENV_ML_CLIENT_ID, AZRI_ENV_HTTPS_PROXY, AZRI_ENV_HTTPS_PROXY_SMALL, AZRI_ENV_CERTIFICATE_PASSWORD,
    AZRI_ENV_SEND_CHAIN, AZRI_ENV_COUNT
};

static const char *const azri_env_names[AZRI_ENV_COUNT] = {
    "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_USERNAME", "AZURE_AUTHORITY_HOST", "AZURE_TOKEN_CREDENTIALS",
    "AZURE_FEDERATED_TOKEN_FILE", "AZURE_KUBERNETES_TOKEN_PROXY", "AZURE_KUBERNETES_CA_FILE", "AZURE_KUBERNETES_CA_DATA",
    "AZURE_KUBERNETES_SNI_NAME", "AZURE_POD_IDENTITY_AUTHORITY_HOST", "IDENTITY_ENDPOINT", "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET",
    "DEFAULT_IDENTITY_CLIENT_ID", "HTTPS_PROXY", "https_proxy", "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN"
};

/* A snapshot, taken anew for each walk: a variable that was mended counts at once. NULL: unset or empty. */
typedef struct azri_env {
    char *value[AZRI_ENV_COUNT];
    int   arc_agent;                       /* 1: Azure Arc's agent is installed */
} azri_env;

static void azri_env_free(azri_env *env, const azri_mem *m) {
    for (size_t i = 0; AZRI_WITH_ENV && i < AZRI_ENV_COUNT; i++) {
        azri_strfree(m, env->value[i]);
        env->value[i] = NULL;
    }
}

/* ---- options ---------------------------------------------------------------------------------- */

static int azri_is_static(const azredis_auth_options *o) {
    return AZRI_WITH_PASSWORDS && (o->identity == AZREDIS_ID_ACCESS_KEY || o->identity == AZREDIS_ID_PASSWORD);
}

/* An auth keeps its options with texts of its own, which are these; what they point at otherwise is lent. */
#define AZRI_OPTION(member) (uint16_t)offsetof(azredis_auth_options, member)
static const uint16_t azri_identity_texts[] = {
#if !AZRI_ONLY_CALLBACK
    AZRI_OPTION(tenant_id), AZRI_OPTION(client_id), AZRI_OPTION(client_secret), AZRI_OPTION(password),
    AZRI_OPTION(object_id), AZRI_OPTION(resource_id), AZRI_OPTION(managed_client_id), AZRI_OPTION(federated_token_file),
    AZRI_OPTION(token_file), AZRI_OPTION(exec), AZRI_OPTION(authority_host), AZRI_OPTION(allow_authority),
    AZRI_OPTION(proxy), AZRI_OPTION(certificate_file), AZRI_OPTION(key_file), AZRI_OPTION(certificate_password),
    AZRI_OPTION(ca_file),
#endif
    AZRI_OPTION(user), AZRI_OPTION(scope)
};
enum { AZRI_IDENTITY_TEXTS = sizeof azri_identity_texts / sizeof azri_identity_texts[0] };

/* "" counts as unset, which is NULL; the scope has a default. */
static const char *azri_identity_text(const azredis_auth_options *o, size_t i) {
    const char *z;
    memcpy(&z, (const char *)o + azri_identity_texts[i], sizeof z);
    return z && z[0] ? z : azri_identity_texts[i] == AZRI_OPTION(scope) ? AZRI_REDIS_SCOPE : NULL;
}

static void azri_identity_conf_free(azredis_auth_options *c, const azri_mem *m) {
    char *z;
    for (size_t i = 0; i < AZRI_IDENTITY_TEXTS; i++) {
        memcpy(&z, (char *)c + azri_identity_texts[i], sizeof z);
        azri_strfree(m, z);
    }
    memset(c, 0, sizeof *c);
}

/* Letters, digits and those in more; the first one a letter or digit, so that ".." is no tenant. */
static int azri_identity_clean(azredis_str s, const char *more, size_t max) {
    size_t i, k;
    if (s.len == 0 || s.len > max || !azri_is_alnum(s.ptr[0])) return 0;
    for (i = 0; i < s.len; i++) {
        for (k = 0; more[k] && more[k] != s.ptr[i]; k++) {}
        if (!azri_is_alnum(s.ptr[i]) && !more[k]) return 0;
    }
    return 1;
}

static azredis_status azri_identity_bad(azredis_error *e, const char *where, const char *text) {
    return azri_fail(e, AZREDIS_E_ARG, where, "%s: %s", where, text);
}
#define azri_identity_bad(e, where, text) azri_identity_bad(e, where, AZRI_TEXT(text))

/* tenant becomes a part of the URL's path; client is encoded, but a blank or line end in it is a slip. */
static azredis_status azri_identity_check_app(const char *tenant, const char *client, const char *where,
                                              azredis_error *e) {
    if (tenant && !azri_identity_clean(azri_str(tenant), "-.", 253))
        return azri_identity_bad(e, where, "the tenant id may hold letters, digits, '-' and '.' only; give "
                                 "the tenant's GUID or domain, not a URL");
    if (client && !azri_identity_clean(azri_str(client), "-._:/", 253))
        return azri_identity_bad(e, where, "the client id holds a character that no client id has; give "
                                 "the application's GUID");
    return AZREDIS_OK;
}

/* The authorities of Microsoft's clouds, the public one first. Redis hosts of a cloud end in its domain, so that they
 * tell which authority knows them; one cloud's tokens are nothing to another. exchange: under which name the
 * cloud takes a managed identity's token for an application's secret. */
enum { AZRI_EXCHANGE_PUBLIC, AZRI_EXCHANGE_CHINA, AZRI_EXCHANGE_USGOV };
typedef struct azri_authority { const char *host, *domain; int exchange; } azri_authority;

static const azri_authority azri_identity_authorities[] = {
    { "login.microsoftonline.com", NULL, AZRI_EXCHANGE_PUBLIC },
    { "login.windows.net", NULL, AZRI_EXCHANGE_PUBLIC },
    { "login.microsoft.com", NULL, AZRI_EXCHANGE_PUBLIC },
    { "sts.windows.net", NULL, AZRI_EXCHANGE_PUBLIC },
    { "login.partner.microsoftonline.cn", ".chinacloudapi.cn", AZRI_EXCHANGE_CHINA },
    { "login.chinacloudapi.cn", NULL, AZRI_EXCHANGE_CHINA },
    { "login.microsoftonline.us", ".usgovcloudapi.net", AZRI_EXCHANGE_USGOV },
    { "login.usgovcloudapi.net", NULL, AZRI_EXCHANGE_USGOV },
    { "login.sovcloud-identity.fr", ".sovcloud-api.fr", AZRI_EXCHANGE_PUBLIC },
    { "login.sovcloud-identity.de", ".sovcloud-api.de", AZRI_EXCHANGE_PUBLIC },
    { "login.sovcloud-identity.sg", NULL, AZRI_EXCHANGE_PUBLIC }
};
enum { AZRI_AUTHORITIES = sizeof azri_identity_authorities / sizeof azri_identity_authorities[0] };

/* NULL: it is none of Microsoft's. */
static const azri_authority *azri_identity_authority_find(azredis_str host) {
    for (size_t i = 0; i < AZRI_AUTHORITIES; i++)
        if (azri_ieqz(host, azri_identity_authorities[i].host)) return &azri_identity_authorities[i];
    return NULL;
}

/* The authority of the cloud in which this Redis stands; the public cloud's if the name does not tell. */
static const char *azri_identity_authority_of(const char *redis_host) {
    if (!AZRI_WITH_AUTHORITIES) return AZRI_AUTHORITY;
    for (size_t i = 0; i < AZRI_AUTHORITIES; i++) {
        const azri_authority *a = &azri_identity_authorities[i];
        if (a->domain && azri_ends_with(azri_str(redis_host), a->domain)) return a->host;
    }
    return azri_identity_authorities[0].host;
}

/* "host", "https://host" or "https://host/", with a port if need be. */
static azredis_status azri_identity_authority_url(azredis_str *host, uint16_t *port, const char *text,
                                                  const char *where, azredis_error *e) {
    azredis_str all = azri_str(text), authority, rest;
    const char *why = NULL;
    int tls = 1;
    if (!azri_has_scheme(all)) azri_url_cut(all, &authority, &rest);
    else if (!azri_url_split(all, &tls, &authority, &rest)) why = "it does not begin with https://";
    if (!why) why = azri_hostport_cut(authority, 0, host, port);
    if (why)
        return azri_fail(e, AZREDIS_E_ARG, where, "%s: %s; expected host, https://host or https://host:port", where,
                         why);
    if (!tls) return azri_identity_bad(e, where, "the authority gets the secret, so it must be https");
    if (*port == 0) *port = 443;
    if (rest.len == 0 || azri_eqz(rest, "/")) return AZREDIS_OK;
    return azri_identity_bad(e, where, "the authority host must not have a path; give the host alone, the "
                             "tenant has an option of its own");
}

/* The authority gets the client secret: Microsoft's hosts, this machine, or the one that allow names. *host is a part
 * of text. */
static azredis_status azri_identity_authority(azredis_str *host, uint16_t *port, const char *text, const char *allow,
                                              const char *where, azredis_error *e) {
    azredis_str allowed;
    uint16_t allowed_port;
    azredis_status st = azri_identity_authority_url(host, port, text, where, e);
    if (st != AZREDIS_OK || azri_is_loopback(*host)) return st;
    if (allow) {
        st = azri_identity_authority_url(&allowed, &allowed_port, allow, "options.allow_authority", e);
        if (st != AZREDIS_OK) return st;
        if (azri_ieq(*host, allowed) && *port == allowed_port) return AZREDIS_OK;
    }
    if (azri_identity_authority_find(*host) && *port == 443) return AZREDIS_OK;
    return azri_fail(e, AZREDIS_E_ARG, where, "%s: %.*s:%u is not an authority of Microsoft's, and it "
                     "would get the secret; if that is right, name it in the option allow_authority", where,
                     (int)host->len, host->ptr, (unsigned)*port);
}

/* The same, to a URL with path "/". */
static azredis_status azri_identity_authority_parse(azri_url *u, const char *text, const char *allow,
                                                    const char *where, azredis_error *e) {
    azredis_str host = azri_str(AZRI_AUTHORITY);
    azredis_status st = AZREDIS_OK;
    u->port = 443;
    if (AZRI_WITH_AUTHORITIES) st = azri_identity_authority(&host, &u->port, text, allow, where, e);
    if (st != AZREDIS_OK) return st;
    u->tls = 1;
    memcpy(u->host, host.ptr, host.len);
    u->host[host.len] = '\0';
    azri_copy(u->path, sizeof u->path, "/");
    return AZREDIS_OK;
}

#ifdef AZREDIS_NO_MANAGED
#define azri_identity_is_managed(id) ((void)(id), 0)

/* There is none that they could name. */
static azredis_status azri_identity_check_managed(const azredis_auth_options *c, azredis_error *e) {
    if (AZRI_ONLY_CALLBACK || (!c->object_id && !c->resource_id && !c->managed_client_id)) return AZREDIS_OK;
    return azri_identity_bad(e, "options.identity", "object_id, resource_id and managed_client_id name a managed identity, "
                             "which this build leaves out");
}
#else
static int azri_identity_is_managed(int id) { return id == AZREDIS_ID_MANAGED || id == AZREDIS_ID_MANAGED_APP; }

/* What names a user-assigned managed identity. */
enum { AZRI_BY_CLIENT, AZRI_BY_OBJECT, AZRI_BY_RESOURCE, AZRI_BYS };

/* NULL: the machine's own. client_id is its name unless it is that of an application. */
static const char *azri_identity_managed_id(const azredis_auth_options *c, int *by) {
    const char *client =
        c->managed_client_id || c->identity == AZREDIS_ID_MANAGED_APP ? c->managed_client_id : c->client_id;
    *by = client ? AZRI_BY_CLIENT : c->object_id ? AZRI_BY_OBJECT : c->resource_id ? AZRI_BY_RESOURCE : AZRI_BY_CLIENT;
    return client ? client : c->object_id ? c->object_id : c->resource_id;
}

/* They become parameters of a URL, where they are encoded; a line end or quote in them is a slip, or worse. */
static azredis_status azri_identity_check_managed(const azredis_auth_options *c, azredis_error *e) {
    const char *id = c->resource_id, *z = id;
    int by;
    if (c->identity != AZREDIS_ID_DEFAULT && !azri_identity_is_managed((int)c->identity)) {
        if (!c->object_id && !c->resource_id && !c->managed_client_id) return AZREDIS_OK;
        return azri_identity_bad(e, "options.identity", "object_id, resource_id and managed_client_id name a managed "
                                 "identity; set identity to one that asks for it, or leave them out");
    }
    if (c->managed_client_id && c->identity == AZREDIS_ID_MANAGED)
        return azri_identity_bad(e, "options.managed_client_id",
                                 "managed-identity takes its client id in the option client_id");
    (void)azri_identity_managed_id(c, &by);
    if ((by == AZRI_BY_CLIENT && (c->object_id || c->resource_id)) || (c->object_id && c->resource_id))
        return azri_identity_bad(
            e, "options", "client_id, object_id and resource_id are three names of one managed identity; give one");
    if (c->identity == AZREDIS_ID_MANAGED_APP && !azri_identity_managed_id(c, &by))
        return azri_identity_bad(e, "options.identity",
                                 "managed-identity-app needs a user-assigned identity, which alone can be "
                                 "a federated credential: give managed_client_id, object_id or resource_id");
    if (azri_identity_check_app(NULL, c->managed_client_id, "options.managed_client_id", e) != AZREDIS_OK)
        return AZREDIS_E_ARG;
    if (c->object_id && !azri_identity_clean(azri_str(c->object_id), "-", 63))
        return azri_identity_bad(e, "options.object_id",
                                 "it holds a character that no object id has; give the identity's GUID");
    for (; z && *z >= ' ' && *z <= '~' && *z != '"' && *z != '\'' && *z != '?' && *z != '#' && *z != '&'; z++) {}
    if (z && (*z || id[0] != '/'))
        return azri_identity_bad(e, "options.resource_id",
                                 "it must be an ARM resource id: /subscriptions/.../userAssignedIdentities/NAME");
    return AZREDIS_OK;
}
#endif

#ifndef AZREDIS_NO_EXEC
/* The scope becomes an argument of the program: nothing in it may look like an option, or mean something to a shell
 * that the program itself may start. */
static azredis_status azri_identity_check_argument(const char *scope, azredis_error *e) {
    if (azri_identity_clean(azri_str(scope), "_.:/-", 253)) return AZREDIS_OK;
    return azri_identity_bad(e, "options.scope",
                             "as an argument of a program it may hold letters, digits and _.:/- only");
}

static azredis_status azri_identity_check_exec(const azredis_auth_options *c, azredis_error *e) {
    if (c->identity == AZREDIS_ID_EXEC && c->exec[0] != '/')
        return azri_identity_bad(e, "options.exec", "it must be the absolute path of a program; no shell and no PATH "
                                 "are asked, and it takes no arguments: write a script for them");
    if (c->identity != AZREDIS_ID_EXEC && c->identity != AZREDIS_ID_AZURE_CLI &&
        c->identity != AZREDIS_ID_AZURE_DEVELOPER_CLI && c->identity != AZREDIS_ID_AZURE_POWERSHELL)
        return AZREDIS_OK;
    return azri_identity_check_argument(c->scope, e);
}
#endif

#ifndef AZREDIS_NO_CERTIFICATE
/* A file or memory, and one key. */
static azredis_status azri_identity_check_certificate(const azredis_auth_options *c, azredis_error *e) {
    const char *where = "options.certificate";
    if (!AZRI_WITH_ENV && (c->certificate_file || c->key_file))
        return azri_identity_bad(e, where, "with AZREDIS_NO_OS there are no files; give it in memory");
    if (c->certificate_file && c->certificate)
        return azri_identity_bad(e, where, "certificate_file and certificate are two places of one thing; give one");
    if (c->certificate ? c->key_file != NULL : c->key != NULL)
        return azri_identity_bad(e, where, "key goes with certificate, in memory, and key_file with certificate_file");
    if (c->sign && (c->key || c->key_file))
        return azri_identity_bad(e, where, "sign has the key; leave key and key_file out");
    return AZREDIS_OK;
}
#endif

static azredis_status azri_identity_check_proxy(const azredis_auth_options *c, azredis_error *e) {
    char host[256];
    uint16_t port = 0;
    azredis_str login;
    const char *why = "this program was built with AZREDIS_NO_PROXY or AZREDIS_NO_HTTP";
    if (AZRI_WITH_PROXY) why = azri_proxy_read(azri_str(c->proxy), host, &port, &login);
    if (!why) return AZREDIS_OK;
    return azri_fail(e, AZREDIS_E_ARG, "options.proxy", "options.proxy: %s; expected http://[user:password@]host:port",
                     why);
}

static unsigned azri_identity_has(const azredis_auth_options *c) {
    unsigned has = AZRI_NEED_PROOF;
    if (c->tenant_id) has |= AZRI_NEED_TENANT;
    if (c->client_id) has |= AZRI_NEED_CLIENT;
    if (c->client_secret) has |= AZRI_NEED_SECRET;
    if (c->get_token) has |= AZRI_NEED_CALLBACK;
    if (c->user) has |= AZRI_NEED_USER;
    if (c->password) has |= AZRI_NEED_PASSWORD;
    if (c->get_assertion) has |= AZRI_NEED_ASSERTION;
    if (c->token_file) has |= AZRI_NEED_TOKEN_FILE;
    if (c->exec) has |= AZRI_NEED_EXEC;
    if (c->certificate_file || c->certificate) has |= AZRI_NEED_CERTIFICATE;
    return has;
}

/* The option that the lowest of the needs is about. */
static const char *azri_identity_need(unsigned needs) {
    static const char *const names[] = { "tenant_id", "client_id", "client_secret", "get_token", "user", "password",
                                         "get_assertion", "token_file", "exec",
                                         "certificate_file (or certificate, in memory)" };
    size_t i = 0;
    while (i + 1 < sizeof names / sizeof names[0] && !(needs >> i & 1u)) i++;
    return names[i];
}

static azredis_status azri_identity_check_values(const azredis_auth_options *c, azredis_error *e) {
#ifdef AZREDIS_NO_OS
    if (c->kubernetes_proxy)
#else
    if (c->kubernetes_proxy && c->identity != AZREDIS_ID_WORKLOAD)
#endif
        return azri_fail(e, AZREDIS_E_ARG, "options.kubernetes_proxy", "options: kubernetes_proxy is for the identity "
                         "workload-identity alone; the default chain never asks a token proxy");
    if (AZRI_WITH_HTTP && azri_identity_check_app(c->tenant_id, c->client_id, "options", e) != AZREDIS_OK)
        return AZREDIS_E_ARG;
    if (azri_identity_check_managed(c, e) != AZREDIS_OK) return AZREDIS_E_ARG;
    if (!AZRI_ONLY_CALLBACK && !azri_identity_clean(azri_str(c->scope), ":/.-_~", 253))
        return azri_fail(e, AZREDIS_E_ARG, "options.scope", "options: scope must be one resource, such as "
                         AZRI_REDIS_SCOPE);
#ifndef AZREDIS_NO_EXEC
    if (azri_identity_check_exec(c, e) != AZREDIS_OK) return AZREDIS_E_ARG;
#endif
#ifndef AZREDIS_NO_CERTIFICATE
    if (c->identity == AZREDIS_ID_CLIENT_CERTIFICATE && azri_identity_check_certificate(c, e) != AZREDIS_OK)
        return AZREDIS_E_ARG;
#endif
    if (!AZRI_WITH_CLAIMS && !c->user && !azri_is_static(c))
        return azri_fail(e, AZREDIS_E_ARG, "options.user", "options: AZREDIS_NO_CLAIMS reads no tokens; set user to "
                         "the object id of the identity");
    if (c->user && strlen(c->user) >= sizeof ((azredis_token *)0)->user)
        return azri_fail(e, AZREDIS_E_ARG, "options.user", "options: user has more than 63 bytes");
    return AZREDIS_OK;
}

static azredis_status azri_identity_check(const azredis_auth_options *c, azredis_error *e) {
    const azri_identity_kind *k = azri_identity_find(NULL, (int)c->identity);
    unsigned lacks = k ? k->needs & ~azri_identity_has(c) : 0;
    unsigned idle = c->identity == AZREDIS_ID_DEFAULT ? azri_identity_has(c) & AZRI_NEED_OTHERS : 0;
    azredis_str host;
    uint16_t port;
    if (!k)
        return azri_fail(e, AZREDIS_E_ARG, "options.identity", "options: identity %d is unknown, or left "
                         "out of this build by an AZREDIS_NO_ switch or AZREDIS_LEAN", (int)c->identity);
    if (lacks)
        return azri_fail(e, AZREDIS_E_ARG, "options.identity", "options: identity %s needs the option "
                         "%s", k->name, azri_identity_need(lacks));
    if (idle)
        return azri_fail(e, AZREDIS_E_ARG, "options.identity", "options: the default chain does not use the option %s; "
                         "set identity to the one that does", azri_identity_need(idle));
    if (azri_identity_check_values(c, e) != AZREDIS_OK) return AZREDIS_E_ARG;
    if (c->proxy && azri_identity_check_proxy(c, e) != AZREDIS_OK) return AZREDIS_E_ARG;
    if (!AZRI_WITH_AUTHORITIES && (c->authority_host || c->allow_authority))
        return azri_identity_bad(e, "options.authority_host", "AZREDIS_AUTHORITY named the authority when this was built");
    if (AZRI_WITH_HTTP && AZRI_WITH_AUTHORITIES && c->authority_host)
        return azri_identity_authority(&host, &port, c->authority_host, c->allow_authority, "options.authority_host",
                                       e);
    if (AZRI_WITH_HTTP && AZRI_WITH_AUTHORITIES && c->allow_authority)
        return azri_identity_authority_url(&host, &port, c->allow_authority, "options.allow_authority", e);
    return AZREDIS_OK;
}

/* A managed identity that was asked for by name may wait out an update of the metadata service: 70 s (410). */
static uint32_t azri_identity_walk_ms(int id) {
    return azri_identity_is_managed(id) ? 100u * AZRI_SECOND : 30u * AZRI_SECOND;
}

/* 0: out of memory; what *c has is its own all the same. */
static int azri_identity_copy(azredis_auth_options *c, const azri_mem *m, const azredis_auth_options *o) {
    const char *z;
    char *copy;
    int ok = 1;
    *c = *o;
    for (size_t i = 0; i < AZRI_IDENTITY_TEXTS; i++) {
        z = azri_identity_text(o, i);
        copy = azri_strdup(m, z);
        memcpy((char *)c + azri_identity_texts[i], &copy, sizeof copy);
        if (z && !copy) ok = 0;
    }
    c->request_ms = azri_or(o->request_ms, 30u * AZRI_SECOND);
    c->chain_ms = azri_or(o->chain_ms, azri_identity_walk_ms((int)o->identity));
    return ok;
}

static azredis_status azri_identity_check_callback(const azredis_auth_options *c, azredis_error *e) {
    if (c->identity != AZREDIS_ID_CALLBACK || !c->get_token || c->proxy || c->kubernetes_proxy)
        return azri_fail(e, AZREDIS_E_ARG, "options.identity", "options: this build has the identity callback alone, "
                         "which needs get_token");
    return azri_identity_check_values(c, e);
}

/* On failure *c is empty. */
static AZRI_APART azredis_status azri_identity_conf_copy(azredis_auth_options *c, const azri_mem *m,
                                                         const azredis_auth_options *o, azredis_error *e) {
    azredis_status st;
    memset(c, 0, sizeof *c);
    if (!azri_identity_is_off(AZREDIS_ID_DEVICE_CODE) && o->identity == AZREDIS_ID_DEVICE_CODE && azri_shape_of(m))
        return azri_identity_bad(e, "options.identity", "device-code keeps a refresh token, for which options.memory "
                                 "has no room; use port.alloc");
    if (AZRI_WITH_ENV && azri_shape_of(m) && (o->certificate_file || o->key_file))
        return azri_identity_bad(e, "options.certificate", "a client in options.memory has no room for files; give "
                                 "certificate and key in memory");
    if (!azri_identity_copy(c, m, o)) st = azri_fail(e, AZREDIS_E_NOMEM, "options", "options: no memory for a copy");
    else st = AZRI_ONLY_CALLBACK ? azri_identity_check_callback(c, e) : azri_identity_check(c, e);
    if (st != AZREDIS_OK) azri_identity_conf_free(c, m);
    return st;
}

/* The user name of AUTH for a static identity. Access keys belong to Redis's default user. */
static const char *azri_identity_static_user(const azredis_auth_options *c) {
    return c->identity == AZREDIS_ID_ACCESS_KEY && !c->user ? "default" : c->user;
}

/* A renewed token must name the same Redis user: a live connection cannot change its user unnoticed. */
static azredis_status azri_identity_same(const char *before, const char *now, azredis_error *e) {
    if (!before[0] || azri_eqz(azri_str(before), now)) return AZREDIS_OK;
    return azri_fail(e, AZREDIS_E_TOKEN, "token", "token: the identity changed from %s to %s, which is "
                     "refused while connections live; open a new client for another identity", before, now);
}

/* ---- hints ------------------------------------------------------------------------------------ */

/* Codes: learn.microsoft.com, "Microsoft Entra authentication and authorization error codes", and issue
 * threads of the SDKs. For people only: azri_flow_passing decides what is tried again. */
typedef struct azri_hint_row { int code[6]; const char *text; } azri_hint_row;

#ifdef AZREDIS_NO_TEXT
#define azri_hint(code) ((void)(code), (const char *)NULL)
#else
static const azri_hint_row azri_hints[] = {
    { { 7000215 }, "wrong client secret; use the secret's Value, not its Secret ID, and check shell quoting" },
    { { 7000222 }, "the client secret or certificate has expired; create a new one" },
    { { 7000218 }, "no credential was sent, or the application does not allow public client flows" },
    { { 700016, 700011 }, "the application does not exist in this tenant; check client id and tenant id" },
    { { 7000112, 70001 }, "the application is disabled or unknown in this tenant" },
    { { 90002, 50049, 50059, 50128 }, "this authority knows no such tenant; check tenant id and authority host" },
    { { 900023 }, "the tenant is neither a GUID nor a domain; was a URL pasted in?" },
    { { 90038, 900382 }, "the tenant lives in another national cloud; set AZURE_AUTHORITY_HOST" },
    { { 500011, 50001 }, "the tenant does not know the resource: wrong scope or cloud, or no Redis service principal" },
    { { 650052 }, "the tenant has no service principal for Redis; an administrator must add it" },
    { { 650057 }, "the application's API permissions do not list the Redis service" },
    { { 70011, 1002012, 28002, 700022, 700023 }, "the scope must be one resource followed by /.default" },
    { { 700025 }, "the application is a public client: it may not use a secret" },
    { { 700027, 700030, 50012 },
      "the certificate is not registered on the application; if it is trusted by subject name, set send_chain" },
    { { 700024, 50013, 500133, 50027, 50048 },
      "the assertion is stale or not valid; check this machine's clock and the token file" },
    { { 70021, 700211, 700212, 700213 },
      "no federated credential of the application matches; compare issuer, subject and audience; a new one "
      "needs minutes" },
    { { 7002137, 7002138 }, "no federated credential matches: upper and lower case count" },
    { { 700229 }, "this flow gives tokens to applications only" },
    { { 53003, 530032, 53000, 530035 },
      "a Conditional Access policy blocks this sign-in; ask the tenant's administrator" },
    { { 50076, 50079, 50074 }, "the account needs MFA; use a service identity" },
    { { 65001 }, "an administrator must consent to the application" },
    { { 50105 }, "the identity is not assigned to the application" },
    { { 50034 }, "the user is unknown in this tenant" },
    { { 50126 }, "wrong user name or password" },
    { { 50053 }, "the account is locked" },
    { { 70043, 700082, 50173 }, "the sign-in is no longer valid; sign in again" },
    { { 70016 }, "the device code waits for its user" },
    { { 70018 }, "the device code is wrong; start again" },
    { { 70019, 70020 }, "the device code has expired; start again" },
    { { 50194, 9001023 }, "a single-tenant application needs its own tenant id, not common or organizations" },
    { { 900144, 90014 }, "a required field is missing; is a variable empty?" },
    { { 9002313, 901002 }, "the authority finds the request malformed; does a proxy change it?" },
    { { 100007 }, "regional authorities serve managed platforms only; use the global host" },
    { { 90055, 50196 }, "the same request comes too often; is another program in a loop with this identity?" },
    { { 50033, 90006, 90012, 90024, 90033, 90090 }, "Entra has a passing problem; it is tried again" }
};

/* NULL: none. */
static const char *azri_hint(int code) {
    for (size_t i = 0; code && i < sizeof azri_hints / sizeof azri_hints[0]; i++)
        for (size_t k = 0; k < 6; k++)
            if (azri_hints[i].code[k] == code) return azri_hints[i].text;
    return NULL;
}
#endif

/* ==== >>config ============================================================ uses: core mem fail text identity ==
 * Connection string of StackExchange.Redis and rediss:// URL -> options, and options -> string. One table holds
 * every key. Pure. No message quotes a value, nor a name that may be a piece of the password before it.
 * Entry points: azri_config_new azri_config_free azri_config_merge azri_config_describe.
 * ================================================================================================ */

#define AZRI_CONFIG_MAX   65536u  /* a password of AZRI_TOKEN_MAX bytes, each written %XX, and 16 KiB for the rest */
#define AZRI_CONFIG_NAME  32u     /* no key is longer; a longer word is not looked up */
#define AZRI_CONFIG_BLANKS " \t\r\n"
#define AZRI_CONFIG_SLIPS 2u      /* letters that may differ for "did you mean" */

enum azri_config_kind {
    AZRI_CK_TEXT, AZRI_CK_SECRET, AZRI_CK_FLAG, AZRI_CK_TLS, AZRI_CK_NUMBER, AZRI_CK_SIZE, AZRI_CK_MS, AZRI_CK_SECONDS,
    AZRI_CK_PROTOCOL, AZRI_CK_AUTH, AZRI_CK_WORD, AZRI_CK_NO_EFFECT, AZRI_CK_REFUSED
};

enum { AZRI_CK_OPTION, AZRI_CK_ALIAS, AZRI_CK_IDENTITY };      /* where the member is; an alias is not described */

typedef struct azri_config_key {
    const char *name;
    uint8_t     kind, place;
    uint16_t    offset;
    const char *mend;                  /* of a key that is refused; of a word: AZRI_CONFIG_ONE_OF, and all of them */
} azri_config_key;

#define AZRI_KEY_O(name, kind, member) { name, kind, AZRI_CK_OPTION, (uint16_t)offsetof(azredis_options, member), NULL }
#define AZRI_KEY_A(name, kind, member) { name, kind, AZRI_CK_ALIAS, (uint16_t)offsetof(azredis_options, member), NULL }
#define AZRI_KEY_I(name, kind, member) \
    { name, kind, AZRI_CK_IDENTITY, (uint16_t)offsetof(azredis_auth_options, member), NULL }
#define AZRI_KEY_IGNORED(name) { name, AZRI_CK_NO_EFFECT, AZRI_CK_ALIAS, 0, NULL }
#define AZRI_KEY_REFUSED(name, mend) { name, AZRI_CK_REFUSED, AZRI_CK_ALIAS, 0, mend }
#define AZRI_CONFIG_ONE_OF "one of these words is expected: "
#define AZRI_KEY_WORD(name, place, type, member, words) \
    { name, AZRI_CK_WORD, place, (uint16_t)offsetof(type, member), AZRI_CONFIG_ONE_OF words }
#define AZRI_CONFIG_PROXY "a proxy to Redis is not supported; connect directly and leave the key out. For token requests: " \
                          "authorityProxy"
#define AZRI_CONFIG_SENTINEL "Sentinel is not supported; give the address of the primary and leave the key out"

/* In the order of azredis_describe. Names are compared without regard to case. */
static const azri_config_key azri_config_keys[] = {
    AZRI_KEY_O("ssl", AZRI_CK_TLS, plaintext),
    AZRI_KEY_O("sslHost", AZRI_CK_TEXT, tls_host),
    AZRI_KEY_O("caFile", AZRI_CK_TEXT, ca_file),
    AZRI_KEY_I("auth", AZRI_CK_AUTH, identity),
    AZRI_KEY_I("tenantId", AZRI_CK_TEXT, tenant_id),
    AZRI_KEY_I("clientId", AZRI_CK_TEXT, client_id),
    AZRI_KEY_I("clientSecret", AZRI_CK_SECRET, client_secret),
    AZRI_KEY_I("objectId", AZRI_CK_TEXT, object_id),
    AZRI_KEY_I("resourceId", AZRI_CK_TEXT, resource_id),
    AZRI_KEY_I("managedClientId", AZRI_CK_TEXT, managed_client_id),
    AZRI_KEY_I("federatedTokenFile", AZRI_CK_TEXT, federated_token_file),
    AZRI_KEY_I("kubernetesProxy", AZRI_CK_FLAG, kubernetes_proxy),
    AZRI_KEY_I("tokenFile", AZRI_CK_TEXT, token_file),
    AZRI_KEY_I("exec", AZRI_CK_TEXT, exec),
    AZRI_KEY_I("certificate", AZRI_CK_TEXT, certificate_file),
    AZRI_KEY_I("certificateKey", AZRI_CK_TEXT, key_file),
    AZRI_KEY_I("certificatePassword", AZRI_CK_SECRET, certificate_password),
    AZRI_KEY_I("sendChain", AZRI_CK_FLAG, send_chain),
    AZRI_KEY_I("rs256", AZRI_CK_FLAG, rs256),
    AZRI_KEY_I("user", AZRI_CK_TEXT, user),
    AZRI_KEY_I("password", AZRI_CK_SECRET, password),
    AZRI_KEY_I("authorityHost", AZRI_CK_TEXT, authority_host),
    AZRI_KEY_I("allowAuthority", AZRI_CK_TEXT, allow_authority),
    AZRI_KEY_I("authorityCaFile", AZRI_CK_TEXT, ca_file),
    AZRI_KEY_I("authorityProxy", AZRI_CK_SECRET, proxy),
    AZRI_KEY_I("scope", AZRI_CK_TEXT, scope),
    AZRI_KEY_I("tokenTimeout", AZRI_CK_MS, request_ms),
    AZRI_KEY_I("chainTimeout", AZRI_CK_MS, chain_ms),
    AZRI_KEY_WORD("policy", AZRI_CK_IDENTITY, azredis_auth_options, policy, "default seed"),
    AZRI_KEY_O("protocol", AZRI_CK_PROTOCOL, protocol),
    AZRI_KEY_O("name", AZRI_CK_TEXT, client_name),
    AZRI_KEY_O("defaultDatabase", AZRI_CK_NUMBER, database),
    AZRI_KEY_O("connectTimeout", AZRI_CK_MS, connect_ms),
    AZRI_KEY_O("authTimeout", AZRI_CK_MS, auth_ms),
    AZRI_KEY_O("syncTimeout", AZRI_CK_MS, command_ms),
    AZRI_KEY_O("keepAlive", AZRI_CK_SECONDS, keepalive_ms),
    AZRI_KEY_O("renewTimeout", AZRI_CK_MS, renew_ms),
    AZRI_KEY_O("abortConnect", AZRI_CK_FLAG, abort_on_connect_fail),
    AZRI_KEY_O("failFast", AZRI_CK_FLAG, fail_fast),
    AZRI_KEY_O("maxReply", AZRI_CK_SIZE, max_reply),
    AZRI_KEY_O("backlogCount", AZRI_CK_NUMBER, backlog_count),
    AZRI_KEY_O("backlogBytes", AZRI_CK_SIZE, backlog_bytes),
    AZRI_KEY_O("subQueue", AZRI_CK_NUMBER, sub_queue),
    AZRI_KEY_WORD("pubsub", AZRI_CK_OPTION, azredis_options, pubsub, "shared separate"),
    AZRI_KEY_WORD("reauth", AZRI_CK_OPTION, azredis_options, reauth, "inline quiesced handover"),
    AZRI_KEY_O("leases", AZRI_CK_NUMBER, leases),
    AZRI_KEY_O("connectRetry", AZRI_CK_NUMBER, connect_retry),

    AZRI_KEY_A("keepAliveMs", AZRI_CK_MS, keepalive_ms),
    AZRI_KEY_A("clientName", AZRI_CK_TEXT, client_name),
    AZRI_KEY_A("db", AZRI_CK_NUMBER, database),
    AZRI_KEY_A("abortOnConnectFail", AZRI_CK_FLAG, abort_on_connect_fail),

    AZRI_KEY_IGNORED("allowAdmin"), AZRI_KEY_IGNORED("asyncTimeout"), AZRI_KEY_IGNORED("checkCertificateRevocation"),
    AZRI_KEY_IGNORED("configChannel"), AZRI_KEY_IGNORED("configCheckSeconds"),
    AZRI_KEY_IGNORED("defaults"), AZRI_KEY_IGNORED("highIntegrity"), AZRI_KEY_IGNORED("highPriorityThreads"),
    AZRI_KEY_IGNORED("maintNotifications"), AZRI_KEY_IGNORED("maintPostEventRelaxed"),
    AZRI_KEY_IGNORED("maintRelaxedTimeout"), AZRI_KEY_IGNORED("maintRelaxedWindowMax"),
    AZRI_KEY_IGNORED("preserveAsyncOrder"), AZRI_KEY_IGNORED("resolveDns"), AZRI_KEY_IGNORED("responseTimeout"),
    AZRI_KEY_IGNORED("setlib"), AZRI_KEY_IGNORED("sslProtocols"), AZRI_KEY_IGNORED("tcpKeepAlive"),
    AZRI_KEY_IGNORED("tiebreaker"), AZRI_KEY_IGNORED("topologyRefreshSeconds"), AZRI_KEY_IGNORED("version"),
    AZRI_KEY_IGNORED("writeBuffer"),

    AZRI_KEY_REFUSED("channelPrefix", "channels have no prefix here; write it into their names and leave the key out"),
    AZRI_KEY_REFUSED("proxy", AZRI_CONFIG_PROXY),
    AZRI_KEY_REFUSED("tunnel", AZRI_CONFIG_PROXY),
    AZRI_KEY_REFUSED("serviceName", AZRI_CONFIG_SENTINEL),
    AZRI_KEY_REFUSED("sentinelUser", AZRI_CONFIG_SENTINEL),
    AZRI_KEY_REFUSED("sentinelPassword", AZRI_CONFIG_SENTINEL)
};
AZRI_STATIC_ASSERT(words_are_alike, sizeof(azredis_policy) == sizeof(azredis_pubsub) &&
                   sizeof(azredis_policy) == sizeof(azredis_reauth) && sizeof(azredis_policy) <= sizeof(uint32_t));
enum { AZRI_CONFIG_KEYS = sizeof azri_config_keys / sizeof azri_config_keys[0] };

/* One allocation: this, and behind it the text, in which the values are cut out and decoded. */
typedef struct azri_config {
    azri_mem              mem;
    size_t                size;        /* of the allocation */
    char                 *text;
    azredis_error        *error;       /* while it is read */
    const azri_config_key *before;     /* the key before the one that is read; NULL: none */
    int                   url, tls_said, auth_said;
    azredis_options       options;     /* strings point into text or at host */
    azredis_auth_options  identity;
    char                  host[256];
    char                  no_effect[160]; /* names of keys that mean nothing here, for a warning */
} azri_config;

static void azri_config_free(azri_config *c) {
    if (!AZRI_WITH_CONFIG || !c) return;
    azri_mem mem = c->mem;
    size_t size = c->size;
    azri_wipe(c, size);
    azri_free(&mem, c, size);
}

/* ---- names ---- */

/* NULL: no such key. */
static const azri_config_key *azri_config_find(azredis_str name) {
    for (size_t i = 0; i < AZRI_CONFIG_KEYS; i++)
        if (azri_ieqz(name, azri_config_keys[i].name)) return &azri_config_keys[i];
    return NULL;
}

/* Levenshtein's distance without regard to case, for names up to AZRI_CONFIG_NAME. */
static size_t azri_config_distance(azredis_str a, azredis_str b) {
    uint8_t row[AZRI_CONFIG_NAME + 1];
    for (size_t k = 0; k <= b.len; k++) row[k] = (uint8_t)k;
    for (size_t i = 0; i < a.len; i++) {
        size_t diagonal = row[0], best;
        row[0] = (uint8_t)(i + 1);
        for (size_t k = 0; k < b.len; k++) {
            best = diagonal + (azri_lower(a.ptr[i]) != azri_lower(b.ptr[k]));
            diagonal = row[k + 1];
            row[k + 1] = (uint8_t)azri_minz(best, azri_minz(diagonal, row[k]) + 1);
        }
    }
    return row[b.len];
}

/* The name that was probably meant; NULL: none is near. */
static const char *azri_config_near(azredis_str name) {
    const char *found = NULL;
    size_t i, best = AZRI_CONFIG_SLIPS + 1, d;
    for (i = 0; i < AZRI_CONFIG_KEYS && name.len > AZRI_CONFIG_SLIPS; i++) {
        d = azri_config_distance(name, azri_str(azri_config_keys[i].name));
        if (d < best) {
            best = d;
            found = azri_config_keys[i].name;
        }
    }
    return found;
}

/* ---- what is wrong ---- */

/* at: the place in the text, for people to count to. */
static azredis_status azri_config_bad(azri_config *c, const char *at, const char *key, const char *why) {
    return azri_fail(c->error, AZREDIS_E_ARG, "options.config", "%s, character %u%s%s: %s",
                     c->url ? "connection URL" : "connection string", (unsigned)(at - c->text) + 1,
                     key ? ", key " : "", key ? key : "", why);
}

/* A comma ends a password; what follows may then be the rest of it. */
static int azri_config_after_secret(const azri_config *c) { return c->before && c->before->kind == AZRI_CK_SECRET; }

#define AZRI_CONFIG_COMMA "; a comma ends a value: if one belongs to the password before, write a URL with %2C, or " \
                          "set the option password"

static azredis_status azri_config_unknown(azri_config *c, azredis_str name) {
    const char *meant = NULL;
    size_t i;
    for (i = 0; i < name.len && azri_is_alnum(name.ptr[i]); i++) {}
    if (azri_config_after_secret(c))
        return azri_config_bad(c, name.ptr, NULL, "not a key that is known" AZRI_CONFIG_COMMA);
    if (name.len && name.ptr[0] == '$')
        return azri_config_bad(c, name.ptr, NULL, "'$' renames a command, which is not supported; leave it out");
    if (i < name.len || name.len == 0 || name.len > AZRI_CONFIG_NAME)
        return azri_config_bad(c, name.ptr, NULL, "no name of a key stands before '='");
    meant = azri_config_near(name);
    (void)azri_config_bad(c, name.ptr, NULL, "the key ");
    azri_fail_add(c->error, "%.*s is unknown; %s%s", (int)name.len, name.ptr,
                  meant ? "did you mean " : "the manual's chapter 10 lists the keys", meant ? meant : "");
    if (meant) azri_fail_add(c->error, "?");
    return AZREDIS_E_ARG;
}

/* ---- values ---- */

static int azri_config_flag(azredis_str v, int *out) {
    static const char *const yes[] = { "true", "yes", "on", "1" }, *const no[] = { "false", "no", "off", "0" };
    for (size_t i = 0; i < 4; i++) {
        *out = azri_ieqz(v, yes[i]);
        if (*out || azri_ieqz(v, no[i])) return 1;
    }
    return 0;
}

static int azri_config_number(azredis_str v, uint64_t least, uint64_t most, uint64_t *out) {
    return azri_u64(v, out) && *out >= least && *out <= most;
}

/* What azredis_describe and StackExchange.Redis write in place of a secret: taken as not given. */
static int azri_config_masked(azredis_str v) {
    size_t i;
    for (i = 0; i < v.len && v.ptr[i] == '*'; i++) {}
    return i == v.len && i >= 3;
}

/* StackExchange.Redis: -1 is the default, 0 is off. */
static int azri_config_seconds(azredis_str v, uint32_t *ms) {
    uint64_t n = 0;
    int never = azri_ieqz(v, "never") || azri_eqz(v, "0");
    if (!never && !azri_eqz(v, "-1") && !azri_config_number(v, 1, (AZREDIS_NEVER - 1) / AZRI_SECOND, &n)) return 0;
    *ms = never ? AZREDIS_NEVER : (uint32_t)n * AZRI_SECOND;
    return 1;
}

static void azri_config_no_effect(azri_config *c, const char *name) {
    size_t n = strlen(c->no_effect);
    (void)azri_fmt(c->no_effect + n, sizeof c->no_effect - n, "%s%s", n ? ", " : "", name);
}

/* ssl=true and a unix socket, redis:// and ssl=true contradict each other: whoever comes second is refused. */
static const char *azri_config_tls(azri_config *c, int tls) {
    if (c->tls_said && c->options.plaintext == tls)
        return "TLS is asked for here and excluded elsewhere (ssl=, the scheme, or a socket's path); say it once";
    c->tls_said = 1;
    c->options.plaintext = !tls;
    return NULL;
}

/* What is behind the separator at s.ptr[at]; empty if it is not there. */
static azredis_str azri_config_behind(azredis_str s, size_t at) {
    return azri_from(s, azri_minz(at + 1, s.len));
}

static const void *azri_config_member(const azri_config_key *k, const azredis_options *o,
                                      const azredis_auth_options *id) {
    return (const char *)(k->place == AZRI_CK_IDENTITY ? (const void *)id : (const void *)o) + k->offset;
}

static size_t azri_config_size(const azri_config_key *k) {
    switch (k->kind) {
    case AZRI_CK_TEXT: case AZRI_CK_SECRET: return sizeof(char *);
    case AZRI_CK_SIZE: return sizeof(size_t);
    case AZRI_CK_AUTH: return sizeof(azredis_identity);
    case AZRI_CK_WORD: return sizeof(azredis_policy);
    case AZRI_CK_FLAG: case AZRI_CK_TLS: case AZRI_CK_PROTOCOL: return sizeof(int);
    default: return sizeof(uint32_t);
    }
}

/* The word for this number; empty: there are not so many. */
static azredis_str azri_config_word(const azri_config_key *k, uint32_t number) {
    azredis_str rest = azri_str(k->mend + sizeof AZRI_CONFIG_ONE_OF - 1);
    for (; number && rest.len; number--) rest = azri_config_behind(rest, azri_find(rest, ' '));
    return azri_slice(rest.ptr, azri_find(rest, ' '));
}

/* Puts a number, flag or word where it belongs. NULL, or what would have been right. */
static const char *azri_config_set(azri_config *c, const azri_config_key *k, azredis_str v) {
    void *at = (char *)(k->place == AZRI_CK_IDENTITY ? (void *)&c->identity : (void *)&c->options) + k->offset;
    uint64_t n = 0;
    uint32_t number;
    azredis_str one;
    int flag = 0;
    switch (k->kind) {
    case AZRI_CK_FLAG:
        return azri_config_flag(v, (int *)at) ? NULL : "expected true or false";
    case AZRI_CK_TLS:
        return azri_config_flag(v, &flag) ? azri_config_tls(c, flag) : "expected true or false";
    case AZRI_CK_NUMBER:
        if (!azri_config_number(v, 0, UINT32_MAX, &n)) return "expected a whole number up to 4294967295";
        *(uint32_t *)at = (uint32_t)n;
        return NULL;
    case AZRI_CK_SIZE:
        if (!azri_config_number(v, 0, SIZE_MAX, &n)) return "expected a number of bytes that fits into memory";
        *(size_t *)at = (size_t)n;
        return NULL;
    case AZRI_CK_MS:
        if (azri_ieqz(v, "never")) n = AZREDIS_NEVER;
        else if (!azri_config_number(v, 1, AZREDIS_NEVER - 1, &n)) return "expected milliseconds, 1 or more, or never";
        *(uint32_t *)at = (uint32_t)n;
        return NULL;
    case AZRI_CK_SECONDS:
        return azri_config_seconds(v, (uint32_t *)at) ? NULL : "expected seconds; 0 or never switches it off";
    case AZRI_CK_PROTOCOL:
        flag = azri_eqz(v, "2") || azri_ieqz(v, "resp2");
        if (!flag && !azri_eqz(v, "3") && !azri_ieqz(v, "resp3")) return "expected resp2 or resp3";
        *(int *)at = flag ? 2 : 3;
        return NULL;
    case AZRI_CK_AUTH:
        c->auth_said = 1;
        (void)azredis_identity_by_name(v.ptr, &c->identity.identity);
        return azredis_identity_why(v.ptr);
    default:
        AZREDIS_ASSERT(k->kind == AZRI_CK_WORD);
        for (number = 0; (one = azri_config_word(k, number)).len && !azri_eq(v, one); number++) {}
        memcpy(at, &number, azri_config_size(k));
        return one.len ? NULL : k->mend;
    }
}

/* A text, which stays where it is. Empty: as if it were not given. */
static const char *azri_config_set_text(azri_config *c, const azri_config_key *k, const char *z) {
    void *at = (char *)(k->place == AZRI_CK_IDENTITY ? (void *)&c->identity : (void *)&c->options) + k->offset;
    int given = z[0] && !(k->kind == AZRI_CK_SECRET && azri_config_masked(azri_str(z)));
    if (given && k->kind == AZRI_CK_SECRET && k->offset == offsetof(azredis_auth_options, client_secret))
        return "a client secret does not belong into a connection string; set AZURE_CLIENT_SECRET and "
               "auth=environment, or the option client_secret";
    if (given && k->kind == AZRI_CK_SECRET && k->offset == offsetof(azredis_auth_options, certificate_password))
        return "a certificate's password does not belong into a connection string; set AZURE_CLIENT_CERTIFICATE_PASSWORD, "
               "or the option certificate_password";
    *(const char **)at = given ? z : NULL;
    return NULL;
}

/* value: NUL-terminated in c->text, where it stays. */
static azredis_status azri_config_pair(azri_config *c, azredis_str name, const char *value) {
    const azri_config_key *k = name.len <= AZRI_CONFIG_NAME ? azri_config_find(name) : NULL;
    const char *why = NULL;
    if (!k) return azri_config_unknown(c, name);
    switch (k->kind) {
    case AZRI_CK_TEXT: case AZRI_CK_SECRET:
        why = azri_config_set_text(c, k, value);
        break;
    case AZRI_CK_NO_EFFECT:
        azri_config_no_effect(c, k->name);
        break;
    case AZRI_CK_REFUSED:
        why = value[0] && !azri_ieqz(azri_str(value), "none") ? k->mend : NULL;
        break;
    default:
        why = azri_config_set(c, k, azri_str(value));
    }
    c->before = k;
    return why ? azri_config_bad(c, name.ptr, k->name, why) : AZREDIS_OK;
}

/* "name", "name:port", "[v6]:port"; "/path" or StackExchange.Redis's "!/path": a unix socket. z as in pair. */
static azredis_status azri_config_endpoint(azri_config *c, const char *z) {
    const char *why;
    if (c->options.host || azri_config_after_secret(c))
        return azri_config_bad(c, z, NULL, azri_config_after_secret(c) ? "no '=' behind a name" AZRI_CONFIG_COMMA
                               : "a second address; give the one of the cache, a client connects to one");
    c->before = NULL;
    if (z[0] == '/' || (z[0] == '!' && z[1] == '/')) {
        c->options.host = z + (z[0] == '!');
        why = azri_config_tls(c, 0);
        return why ? azri_config_bad(c, z, NULL, why) : AZREDIS_OK;
    }
    c->options.host = c->host;
    why = azri_hostport_parse(azri_str(z), 1, c->host, &c->options.tcp_port);
    if (!why) return AZREDIS_OK;
    (void)azri_config_bad(c, z, NULL, why);
    azri_fail_add(c->error, "; expected host, host:port, [IPv6]:port or /path");
    return AZREDIS_E_ARG;
}

/* ---- the two forms ---- */

/* host[:port],key=value,...: no quotes and no escapes, the first '=' splits, blanks around words are dropped. */
static azredis_status azri_config_read_fields(azri_config *c, azredis_str all) {
    azredis_status st = AZREDIS_OK;
    while (all.len && st == AZREDIS_OK) {
        size_t comma = azri_find(all, ','), equals;
        azredis_str one = azri_trim(azri_slice(all.ptr, comma), AZRI_CONFIG_BLANKS), value;
        all = azri_config_behind(all, comma);
        equals = azri_find(one, '=');
        if (one.len == 0) continue;
        if (equals == one.len) {
            c->text[one.ptr - c->text + (ptrdiff_t)one.len] = '\0';
            st = azri_config_endpoint(c, one.ptr);
            continue;
        }
        value = azri_trim(azri_config_behind(one, equals), AZRI_CONFIG_BLANKS);
        c->text[value.ptr - c->text + (ptrdiff_t)value.len] = '\0';
        st = azri_config_pair(c, azri_trim(azri_slice(one.ptr, equals), AZRI_CONFIG_BLANKS), value.ptr);
    }
    return st;
}

/* Decodes in place and puts a NUL behind; s ends before a byte that is no longer needed. NULL: a broken escape, or a
 * NUL, which would cut the text. */
static const char *azri_config_decode(azri_config *c, azredis_str s) {
    char *z = c->text + (s.ptr - c->text);
    size_t n;
    if (!azri_percent_decode(s, 0, z, &n)) return NULL;
    z[n] = '\0';
    return z;
}

static azredis_status azri_config_bad_escape(azri_config *c, azredis_str s) {
    return azri_config_bad(c, s.ptr, NULL, "'%' needs two hexadecimal digits behind it, and not 00; '%' itself is %25");
}

/* user[:password], each percent-encoded. */
static azredis_status azri_config_read_user(azri_config *c, azredis_str both) {
    size_t colon = azri_find(both, ':');
    azredis_str user = azri_slice(both.ptr, colon), secret = azri_config_behind(both, colon);
    const char *z = azri_config_decode(c, secret);
    if (!z) return azri_config_bad_escape(c, secret);
    if (z[0] && !azri_config_masked(azri_str(z))) c->identity.password = z;
    z = azri_config_decode(c, user);
    if (!z) return azri_config_bad_escape(c, user);
    if (z[0]) c->identity.user = z;
    return AZREDIS_OK;
}

/* key=value&...; a '+' is a '+'. */
static azredis_status azri_config_read_query(azri_config *c, azredis_str all) {
    azredis_status st = AZREDIS_OK;
    while (all.len && st == AZREDIS_OK) {
        size_t end = azri_find(all, '&');
        azredis_str one = azri_slice(all.ptr, end), value;
        size_t equals = azri_find(one, '=');
        all = azri_config_behind(all, end);
        if (one.len == 0) continue;
        if (equals == one.len) return azri_config_bad(c, one.ptr, NULL, "expected key=value between '?' and '&'");
        value = azri_config_behind(one, equals);
        const char *z = azri_config_decode(c, value);
        st = z ? azri_config_pair(c, azri_slice(one.ptr, equals), z) : azri_config_bad_escape(c, value);
    }
    return st;
}

/* What stands between the authority and '?': a database, or the path of a socket. */
static azredis_status azri_config_read_path(azri_config *c, azredis_str path, int is_unix) {
    uint64_t n = 0;
    const char *z;
    if (is_unix) {
        z = path.len ? azri_config_decode(c, path) : path.ptr;
        if (!z) return azri_config_bad_escape(c, path);
        if (path.len == 0 || z[0] != '/') return azri_config_bad(c, path.ptr, NULL, "expected unix:///path");
        return azri_config_endpoint(c, z);
    }
    if (path.len <= 1) return AZREDIS_OK;
    if (!azri_config_number(azri_slice(path.ptr + 1, path.len - 1), 0, UINT32_MAX, &n))
        return azri_config_bad(c, path.ptr, NULL, "expected the number of a database behind '/'");
    c->options.database = (uint32_t)n;
    return AZREDIS_OK;
}

/* [user[:password]@]host[:port][/database][?key=value&...], or for a unix socket [user[:password]@]/path[?...]. */
static azredis_status azri_config_read_url(azri_config *c, azredis_str rest, int is_unix) {
    azredis_status st = AZREDIS_OK;
    size_t n = 0, at, mark;
    while (n < rest.len && rest.ptr[n] != '/' && rest.ptr[n] != '?') n++;
    azredis_str authority = azri_slice(rest.ptr, n);
    rest = azri_slice(rest.ptr + n, rest.len - n);
    if (azri_find(rest, '@') < rest.len || azri_find(authority, '#') + azri_find(rest, '#') < authority.len + rest.len)
        return azri_config_bad(c, authority.ptr, NULL, "'@', '/', '?' and '#' in a user name, password or value must "
                               "be written %40, %2F, %3F and %23");
    mark = azri_find(rest, '?');
    azredis_str path = azri_slice(rest.ptr, mark);
    azredis_str query = azri_config_behind(rest, mark);
    for (at = authority.len; at > 0 && authority.ptr[at - 1] != '@'; at--) {}
    azredis_str host = azri_slice(authority.ptr + at, authority.len - at);
    if (is_unix && host.len) return azri_config_bad(c, host.ptr, NULL, "expected unix:///path, with three '/'");
    st = azri_config_read_path(c, path, is_unix);
    if (st == AZREDIS_OK && host.len) {
        c->text[host.ptr - c->text + (ptrdiff_t)host.len] = '\0';
        st = azri_config_endpoint(c, host.ptr);
    }
    if (st == AZREDIS_OK && at) st = azri_config_read_user(c, azri_slice(authority.ptr, at - 1));
    return st == AZREDIS_OK ? azri_config_read_query(c, query) : st;
}

/* The bytes before "://" at the very beginning; 0: no URL. */
static size_t azri_config_scheme(azredis_str s) {
    size_t n = 0;
    while (n < s.len && (azri_is_alnum(s.ptr[n]) || s.ptr[n] == '+')) n++;
    return n + 3 <= s.len && memcmp(s.ptr + n, "://", 3) == 0 ? n : 0;
}

static azredis_status azri_config_read(azri_config *c) {
    azredis_str all = azri_trim(azri_str(c->text), AZRI_CONFIG_BLANKS), scheme;
    size_t n = azri_config_scheme(all);
    if (n == 0) return azri_config_read_fields(c, all);
    c->url = 1;
    scheme = azri_slice(all.ptr, n);
    int is_unix = azri_ieqz(scheme, "unix");
    if (!is_unix && !azri_ieqz(scheme, "rediss") && !azri_ieqz(scheme, "redis"))
        return azri_config_bad(c, all.ptr, NULL, "expected rediss://, redis:// (this machine only) or unix://");
    if (!is_unix) (void)azri_config_tls(c, azri_ieqz(scheme, "rediss"));
    return azri_config_read_url(c, azri_slice(all.ptr + n + 3, all.len - n - 3), is_unix);
}

/* A password without auth= says what kind it is; with another identity it is of no use. */
static void azri_config_infer(azri_config *c) {
    azredis_auth_options *id = &c->identity;
    if (!id->password) return;
    if (!c->auth_said) id->identity = id->user ? AZREDIS_ID_PASSWORD : AZREDIS_ID_ACCESS_KEY;
    if (id->identity == AZREDIS_ID_PASSWORD || id->identity == AZREDIS_ID_ACCESS_KEY) return;
    azri_config_no_effect(c, "password");
    id->password = NULL;
}

/* OK: *out is the caller's. E_ARG, E_NOMEM: *e says why, and *out is NULL. */
static azredis_status azri_config_new(azri_config **out, const azri_mem *m, const char *z, azredis_error *e) {
    size_t n = strlen(z);
    azri_config *c;
    *out = NULL;
    if (n > AZRI_CONFIG_MAX)
        return azri_fail(e, AZREDIS_E_ARG, "options.config", "the connection string is longer than %u bytes",
                         AZRI_CONFIG_MAX);
    c = (azri_config *)azri_alloc(m, sizeof *c + n + 1);
    if (!c) return azri_fail(e, AZREDIS_E_NOMEM, "options.config", "no memory for a copy of the connection string");
    memset(c, 0, sizeof *c);
    c->mem = *m;
    c->size = sizeof *c + n + 1;
    c->text = (char *)(c + 1);
    c->error = e;
    memcpy(c->text, z, n + 1);
    azredis_status st = azri_config_read(c);
    c->error = NULL;
    azri_config_infer(c);
    if (st == AZREDIS_OK) *out = c;
    else azri_config_free(c);
    return st;
}

/* ---- under the members that the program set ---- */

/* Zero is not set, and so is an empty text. */
static int azri_config_is_set(const azri_config_key *k, const void *member) {
    const unsigned char *b = (const unsigned char *)member;
    size_t i, n = azri_config_size(k);
    const char *z;
    if (k->kind == AZRI_CK_TEXT || k->kind == AZRI_CK_SECRET) {
        memcpy(&z, member, sizeof z);
        return z && z[0];
    }
    for (i = 0; i < n && b[i] == 0; i++) {}
    return i < n;
}

/* Fills what *o and *id leave at zero; the address as a whole. What it points at lives as long as c. */
static void azri_config_merge(const azri_config *c, azredis_options *o, azredis_auth_options *id) {
    for (size_t i = 0; i < AZRI_CONFIG_KEYS; i++) {
        const azri_config_key *k = &azri_config_keys[i];
        if (k->place == AZRI_CK_ALIAS || azri_config_is_set(k, azri_config_member(k, o, id))) continue;
        memcpy((char *)(k->place == AZRI_CK_IDENTITY ? (void *)id : (void *)o) + k->offset,
               azri_config_member(k, &c->options, &c->identity), azri_config_size(k));
    }
    if (o->host && o->host[0]) return;
    o->host = c->options.host;
    if (!o->tcp_port) o->tcp_port = c->options.tcp_port;
}

#ifndef AZREDIS_NO_CONFIG
/* ---- options to text ---- */

typedef struct azri_config_writer { azri_out out; int url, fields; } azri_config_writer;

/* What a field cannot say, there being no quotes and no escapes; control characters would also disturb a log. */
static int azri_config_awkward(const char *z) {
    size_t i, n = strlen(z);
    for (i = 0; i < n && z[i] != ',' && (unsigned char)z[i] >= ' '; i++) {}
    return i < n || (n && (z[0] == ' ' || z[n - 1] == ' '));
}

static void azri_config_write(azri_config_writer *w, const char *z, int keep) {
    for (; *z; z++) {
        int plain = keep || !w->url || azri_is_alnum(*z) || azri_find(azri_str("-._~/:"), *z) < 6;
        if (!plain) azri_out_char(&w->out, '%');
        if (!plain) azri_out_char(&w->out, "0123456789ABCDEF"[(unsigned char)*z >> 4]);
        azri_out_char(&w->out, plain ? *z : "0123456789ABCDEF"[(unsigned char)*z & 15]);
    }
}

static void azri_config_write_pair(azri_config_writer *w, const char *name, const char *value, int keep) {
    if (w->url) azri_out_char(&w->out, w->fields ? '&' : '?');
    else if (w->out.len) azri_out_char(&w->out, ',');
    w->fields++;
    azri_config_write(w, name, 1);
    azri_out_char(&w->out, '=');
    azri_config_write(w, value, keep);
}

/* The address; one that cannot be read may hold a password, and is not shown. */
static void azri_config_write_host(azri_config_writer *w, const azredis_options *o) {
    char host[256], number[8];
    uint16_t port = 0;
    if (!o->host || !o->host[0]) return;
    if (o->host[0] == '/') {
        azri_config_write(w, o->host, 0);
        return;
    }
    if (azri_hostport_parse(azri_str(o->host), 1, host, &port)) {
        azri_config_write(w, "***", 1);
        return;
    }
    int v6 = azri_find(azri_str(host), ':') < strlen(host);
    azri_config_write(w, v6 ? "[" : "", 1);
    azri_config_write(w, host, 1);
    azri_config_write(w, v6 ? "]" : "", 1);
    if (o->tcp_port) port = o->tcp_port;
    (void)azri_fmt(number, sizeof number, ":%u", (unsigned)port);
    if (port) azri_config_write(w, number, 1);
}

/* A member that is set, as text; number is room for it. */
static const char *azri_config_value(const azri_config_key *k, const void *member, char number[24]) {
    const char *z;
    uint32_t u;
    azredis_str word;
    size_t size;
    int flag;
    switch (k->kind) {
    case AZRI_CK_TEXT:
        memcpy(&z, member, sizeof z);
        return z;
    case AZRI_CK_SECRET:
        return "***";
    case AZRI_CK_FLAG:
        return "true";
    case AZRI_CK_PROTOCOL:
        memcpy(&flag, member, sizeof flag);
        return flag == 2 ? "resp2" : "resp3";
    case AZRI_CK_WORD:
        u = 0;
        memcpy(&u, member, azri_config_size(k));
        word = azri_config_word(k, u);
        (void)azri_fmt(number, 24, "%.*s", (int)word.len, word.ptr);
        return number;
    case AZRI_CK_SIZE:
        memcpy(&size, member, sizeof size);
        (void)azri_fmt(number, 24, "%llu", (unsigned long long)size);
        return number;
    default:
        memcpy(&u, member, sizeof u);
        (void)azri_fmt(number, 24, "%u",
                       (unsigned)(k->kind == AZRI_CK_SECONDS && u % AZRI_SECOND == 0 ? u / AZRI_SECOND : u));
        return u == AZREDIS_NEVER && k->kind != AZRI_CK_NUMBER ? "never" : number;
    }
}

static void azri_config_write_key(azri_config_writer *w, const azri_config_key *k, const azredis_options *o,
                                  const azredis_auth_options *id) {
    const void *member = azri_config_member(k, o, id);
    const char *name = k->name;
    char number[24];
    if (k->kind == AZRI_CK_TLS) {
        if (w->url || (o->host && o->host[0] == '/')) return;
        azri_config_write_pair(w, name, o->plaintext ? "false" : "true", 1);
    } else if (k->kind == AZRI_CK_AUTH) {
        if (id->identity || id->password) azri_config_write_pair(w, name, azri_identity_name((int)id->identity), 1);
    } else if (azri_config_is_set(k, member)) {
        if (k->kind == AZRI_CK_SECONDS && o->keepalive_ms != AZREDIS_NEVER && o->keepalive_ms % AZRI_SECOND)
            name = "keepAliveMs";
        azri_config_write_pair(w, name, azri_config_value(k, member, number), k->kind == AZRI_CK_SECRET);
    }
}

/* A text that azri_config_new reads to the same members, but for secrets; a URL only where fields cannot say it.
 * Returns the length that was wanted. */
static size_t azri_config_describe(const azredis_options *o, const azredis_auth_options *id, char *buf, size_t cap) {
    azri_config_writer w;
    int is_unix = o->host && o->host[0] == '/';
    const char *z;
    memset(&w, 0, sizeof w);
    w.out.p = buf;
    w.out.cap = cap;
    w.url = is_unix && (azri_config_awkward(o->host) || azri_find(azri_str(o->host), '=') < strlen(o->host));
    for (size_t i = 0; i < AZRI_CONFIG_KEYS; i++) {
        const azri_config_key *k = &azri_config_keys[i];
        if (k->kind != AZRI_CK_TEXT || k->place == AZRI_CK_ALIAS) continue;
        memcpy(&z, azri_config_member(k, o, id), sizeof z);
        w.url |= z && azri_config_awkward(z);
    }
    if (w.url) azri_config_write(&w, is_unix ? "unix://" : o->plaintext ? "redis://" : "rediss://", 1);
    azri_config_write_host(&w, o);
    for (size_t i = 0; i < AZRI_CONFIG_KEYS; i++)
        if (azri_config_keys[i].place != AZRI_CK_ALIAS) azri_config_write_key(&w, &azri_config_keys[i], o, id);
    if (cap) buf[azri_minz(w.out.len, cap - 1)] = '\0';
    return w.out.len;
}
#endif /* AZREDIS_NO_CONFIG */

/* ==== >>flow ============================================================== uses: core mem fail text json http jwt identity ==
 * The walk for a token, as a machine that says what to do next and is told what came of it. Pure: the pump
 * does the I/O and hands in the clocks. What is asked, and what an answer means, is the business of sources, each
 * a row of functions; >>walk has their table.
 *
 *   begin link --unavailable--> next link ... --> E_NO_CREDENTIAL
 *       |  \--failed----------> the walk ends: a wrong secret must not end in another identity
 *       v
 *     ask (HTTP | FILE | EXEC | CALL) --> ... next stage ... --> token
 *       ^        \--passing trouble--> pause --+
 *       +--------------------------------------+
 *
 * Tokens and secrets live in buffers that are wiped; what a peer says reaches messages through azri_quote.
 * Entry points for sources: azri_flow_fail _failed _unavailable _again _stage _accept, azri_flow_judge.
 * ================================================================================================ */

typedef enum azri_step_kind { AZRI_STEP_HTTP, AZRI_STEP_FILE, AZRI_STEP_EXEC, AZRI_STEP_CALL, AZRI_STEP_SIGN, AZRI_STEP_WAIT,
AZRI_STEP_DONE } azri_step_kind;

enum { AZRI_STEP_ARGS = 11, AZRI_PIN_DIGITS = 40 };

/* HTTP: send request to url, feed the body to azri_flow_body, end with azri_flow_http.
 * FILE: read file, end with azri_flow_text. EXEC: run argv, end with azri_flow_ran and what it printed.
 * CALL: call, end with azri_flow_call. SIGN: load certificate and key, show the chain to azri_certificate_write, sign
 * what it put into f->proof, by sign if there is one, end with azri_flow_text.
 * WAIT: come back in wait_ms. DONE: look at the flow's status.
 * Strings are lent by the flow until the step's end is told. */
typedef struct azri_step {
    azri_step_kind kind;
    uint32_t       timeout_ms;
    uint64_t       wait_ms;
    const char    *where;                  /* the link's name */

    azri_buf       request;                /* HTTP: secret; azri_step_free wipes it. EXEC: memory of an argument */
    uint32_t       connect_ms;             /* until the stream is open; 0: timeout_ms */
    int            by_proxy;               /* it may go through conf->proxy: an authority, never a metadata service */
    const char    *pin;                    /* SHA-1 of the only certificate that may answer, 40 hex digits; NULL: the chain and
                                            * the name are verified */
    const char    *name;                   /* name of the certificate, and SNI; NULL: the URL's host */
    azredis_str    ca;                     /* roots of this endpoint alone, PEM; empty: the auth's */

    const char    *file;                   /* FILE */
    const char    *directory;              /* file is a name in it, and no link; NULL: file is a path */
    size_t         file_max;               /* bytes */
    const char    *argv[AZRI_STEP_ARGS];   /* EXEC, NULL-terminated; argv[0] is an absolute path, or a name to find in PATH */
    const char    *variable;               /* NAME=VALUE that the program finds in its environment; NULL: none */
    azredis_token_fn call;                 /* CALL */
    void          *call_user;
    const char    *scope;
    azredis_str    certificate, key;       /* SIGN, for the endpoint url; key empty: certificate has it */
    const char    *password;
    int            rs256;
    azredis_sign_fn sign;                  /* NULL: key signs */
    void          *sign_user;
    azri_url       url;                    /* HTTP, SIGN */
} azri_step;

/* What a token endpoint said. Numbers are 0 where it said nothing usable. */
typedef struct azri_answer {
    int64_t expires_in, expires_on, refresh_in;
    int64_t expires_local;                 /* by a clock on the wall here, as if it were UTC */
    int     aadsts, raw_len;
    int     same;                          /* 1: it names the identity that was asked for; -1: another one */
    char    error[64], about[AZRI_PEER_TEXT + 56], request_id[40], token_type[16];
    char    raw[AZRI_PEER_TEXT + 56];      /* how the body begins; printed only if the status is not 200 */
} azri_answer;

typedef struct azri_flow azri_flow;

/* As azri_json_fn. */
typedef void (*azri_flow_token_fn)(azri_flow *f, uint64_t now);
typedef void (*azri_flow_value_fn)(azri_flow *f, int depth, azredis_str parent, azredis_str key, int type,
                                   azredis_str text);

typedef struct azri_source {
    const char      *name;
    const char      *sdk_name;             /* in AZURE_TOKEN_CREDENTIALS; NULL: not one of the chain's */
    int              id;                   /* the identity that is this link alone */
    unsigned         chains;               /* AZRI_CHAIN_: where it stands by itself */
    azredis_status (*begin)(azri_flow *f); /* E_NO_CREDENTIAL: unavailable; other errors: failed */
    azredis_status (*ask)(azri_flow *f, azri_step *step);       /* fills in what f->stage wants */
    void (*http)(azri_flow *f, uint64_t now, const azri_http *h);               /* these are told what came: all end */
    void (*net)(azri_flow *f, uint64_t now);                                    /* with azri_flow_failed, _again, */
    void (*text)(azri_flow *f, uint64_t now, azredis_status st, azredis_str s); /* _unavailable, _stage or _accept */
    void (*call)(azri_flow *f, uint64_t now, azredis_status st, const azredis_fetched *got);
} azri_source;

enum { AZRI_CHAIN_PROD = 1, AZRI_CHAIN_DEV = 2 };

/* How often a passing trouble is tried again within a walk: credentials.md 6.9. */
typedef struct azri_retry { uint8_t slot, tries, jitter, doubles; uint32_t first_ms; } azri_retry;
enum { AZRI_RETRY_SLOTS = 2 };             /* IMDS counts "being updated" on its own */

/* 0.8, 1.6, 3.2 s, as Azure Core. */
static const azri_retry azri_retry_sts = { 0, 3, 30, 1, 800 };

/* What the files of a certificate and its key hold, one behind the other. */
#if defined(AZREDIS_NO_CERTIFICATE) || defined(AZREDIS_NO_OS)
typedef struct azri_pair { char none; } azri_pair;
#define azri_pair_init(p, m) ((void)(p))
#define azri_pair_free(p) ((void)(p))
#define azri_pair_move(to, from) ((void)(to), (void)(from))
#else
typedef struct azri_pair { azri_buf bytes; size_t key_at; } azri_pair;
static void azri_pair_init(azri_pair *p, const azri_mem *m) { azri_buf_init(&p->bytes, m, 2 * AZRI_KEY_FILE_MAX, 1); }
static void azri_pair_free(azri_pair *p) { azri_buf_free(&p->bytes); }

/* If *to has none. */
static void azri_pair_move(azri_pair *to, azri_pair *from) {
    azri_pair none = *to;
    if (to->bytes.len) return;
    *to = *from;
    *from = none;
}
#endif

/* What a sign-in by device code leaves for the next walk, and what it is about now. An auth has one; a walk works on a
 * copy. */
typedef struct azri_device {
    char    *refresh;                      /* secret: the refresh token; NULL: none */
    char    *code;                         /* secret: the device code that waits for a person; NULL: none */
    char    *next;                         /* secret: the refresh token of the answer that is read; NULL: none */
    uint64_t expires_at, poll_at;          /* of code: its end, the next question */
    uint32_t interval_ms;                  /* between two questions */
    int      news;                         /* code is new: prompt is to be told */
    int      changed, dead;                /* a refresh token came; Entra does not take the one that was there */
    char     user_code[32], uri[96];
    char     prompt[256];                  /* user code, page, words for people, each with its NUL */
} azri_device;

enum { AZRI_FLOW_IDLE, AZRI_FLOW_LINK, AZRI_FLOW_ASK, AZRI_FLOW_ANSWER, AZRI_FLOW_PAUSE, AZRI_FLOW_DONE };

struct azri_flow {
    const azri_mem           *mem;
    const azredis_auth_options *conf;      /* lent until azri_flow_free */
    const char *cloud;                     /* in: the authority where neither option nor variable names one; static.
                                            * NULL: the public cloud's */
    azri_rng                 *rng;
    const azri_env           *env;         /* lent until the walk is done */
    int64_t (*local_time)(int64_t wall);   /* in: seconds since 1970 of such a time; NULL: it is not known */
    uint32_t pace_ms;                      /* in: no pause is longer, for tokens of short life; 0: no bound */
    int      pin;                          /* in and out: 1 + the link that won, and is asked alone from then on */
    azri_device *device;                   /* in and out, lent: of the identity device-code alone */

    /* the walk */
    const azri_source *source;             /* the link that is asked */
    int           phase;
    size_t        link_count, link;
    int           begun;                   /* links is filled in */
    int           passing;                 /* a link was unavailable for a reason that may pass */
    int           in_chain;                /* other links may follow: unavailable is no failure */

    /* the link, zero when it begins */
    int           stage;                   /* the source's own count of questions */
    azri_step_kind asks;
    azredis_status json_status;
    uint32_t      tries[AZRI_RETRY_SLOTS];
    int           met;                     /* the endpoint has answered like one of Azure's */
    const char   *tenant, *client, *secret;
    const char   *wanted;                  /* the id that the answer must name; NULL: any */
    int           by;                      /* what wanted is: AZRI_BY_ */
    int           variant;                 /* which of a source's endpoints */
    const char   *header;                  /* of the answer, to be kept in proof; NULL: none */
    azri_flow_value_fn value;              /* is shown the answer's scalars; may be NULL */
    const char   *resource;                /* of a managed identity's token; NULL: the scope's */
    azri_flow_token_fn exchange;           /* takes that token, which is not the last one; NULL: it is */
    int           renewed;                 /* the proof was refused as stale, and got once more */
    int           exit_code;               /* of a program: its status, or minus the signal that ended it, or */
#define AZRI_EXIT_UNKNOWN INT_MIN          /* another part of this process has collected it */
    azredis_str   said;                    /* how its stderr ends; lent while it is told */
    azri_buf      proof;                   /* secret: an assertion, a key */
    azri_pair     pair;                    /* secret: to sign an assertion with */
    azri_buf      roots;                   /* PEM: what the endpoint is verified with */

    /* the result, from DONE until the next start; then of all three what is large or has 64 bits */
    azredis_status status;
    azri_buf      token;                   /* secret */
    uint32_t      life_ms, refresh_ms;
    uint64_t      sent_at;
    size_t        record_count;
    uint64_t      deadline, link_at, wait_until;
    int64_t       sent_unix;
    int64_t       clock_offset;            /* in and out: seconds by which Entra's clock is ahead of ours */
    azri_pair     kept;                    /* in and out: what the last assertion was signed with; secret */
    azri_answer   answer;
    azri_json     json;
    azredis_error error;
    uint8_t       links[AZRI_LINKS_MAX];   /* the walk: rows of the table */
    char          request_id[40];
    char          user[64], used[24];      /* of the result, as these */
    char          hint[200];               /* "" or why Redis may refuse the token */
    azri_claims   claims;
    azredis_link_record records[AZRI_LINKS_MAX];
    azri_url      authority;               /* or the metadata service */
};

/* The link's name and nothing else yet. */
static void azri_flow_fail_code(azri_flow *f, azredis_status st) {
    (void)azri_fail(&f->error, st, f->source->name, "%s: ", f->source->name);
}

/* As azri_fail, for this link. st has no side effects. */
#define azri_flow_fail(f, st, ...) (azri_flow_fail_code(f, st), azri_fail_add(&(f)->error, __VA_ARGS__), (st))

/* ---- what the endpoint says ------------------------------------------------------------------- */

static void azri_answer_number(azri_answer *a, azredis_str key, int type, azredis_str text) {
    int64_t v = 0;
    if (type != AZRI_JSON_NUMBER && type != AZRI_JSON_STRING) return;
    if (azri_eqz(key, "expires_in")) azri_jwt_number(&a->expires_in, text);
    if (azri_eqz(key, "refresh_in")) azri_jwt_number(&a->refresh_in, text);
    if (!azri_eqz(key, "expires_on") || a->expires_on) return;
    if (type == AZRI_JSON_NUMBER || !AZRI_WITH_DATES) azri_jwt_number(&a->expires_on, text);
    else if (azri_date_parse(text, &v) && v > 0) a->expires_on = v;
}

/* As much of it as fits. */
static void azri_answer_cut(char *out, size_t cap, azredis_str text) {
    if (out[0]) return;
    text.len = azri_minz(text.len, cap - 1);
    if (text.len) memcpy(out, text.ptr, text.len);
    out[text.len] = '\0';
}

static void azri_flow_value(void *user, int depth, azredis_str parent, azredis_str key, int type, azredis_str text) {
    azri_flow *f = (azri_flow *)user;
    azri_answer *a = &f->answer;
    int64_t v;
    if (f->value) f->value(f, depth, parent, key, type, text);
    if (depth == 2 && azri_eqz(parent, "error_codes") && !a->aadsts && azri_i64(text, &v) && v > 0 && v < INT_MAX)
        a->aadsts = (int)v;
    if (depth != 1) return;
    azri_answer_number(a, key, type, text);
    if (type != AZRI_JSON_STRING) return;
    if (azri_eqz(key, "access_token") && f->token.len == 0 && f->json_status == AZREDIS_OK)
        f->json_status = azri_buf_add(&f->token, text.ptr, text.len);
    if (azri_eqz(key, "token_type")) azri_answer_cut(a->token_type, sizeof a->token_type, text);
    if (azri_eqz(key, "error")) azri_answer_cut(a->error, sizeof a->error, text);
    if (azri_eqz(key, "error_description")) azri_answer_cut(a->about, sizeof a->about, text);
    if (azri_eqz(key, "correlation_id") && azri_identity_clean(text, "-", sizeof a->request_id - 1))
        azri_jwt_text(a->request_id, sizeof a->request_id, text);
}

/* The body, as it arrives: an azri_http_sink. What is wrong with it is told at the end. */
static azredis_status azri_flow_body(void *user, const char *p, size_t n) {
    azri_flow *f = (azri_flow *)user;
    azri_answer *a = &f->answer;
    size_t keep = azri_minz(n, sizeof a->raw - (size_t)a->raw_len);
    if (keep) memcpy(a->raw + a->raw_len, p, keep);
    a->raw_len += (int)keep;
    azredis_status st = f->json_status == AZREDIS_OK ? azri_json_feed(&f->json, p, n) : AZREDIS_OK;
    if (f->json_status == AZREDIS_OK) f->json_status = st;
    return AZREDIS_OK;
}

#ifdef AZREDIS_NO_MANAGED
#define azri_flow_header ((azri_http_header_fn)NULL)
#else
/* A header of the answer, as it arrives. One that comes twice is kept as RFC 9110 5.3 joins them. */
static void azri_flow_header(void *user, azredis_str name, azredis_str value) {
    azri_flow *f = (azri_flow *)user;
    if (!f->header || !azri_ieqz(name, f->header)) return;
    if (f->proof.len) azri_buf_puts(&f->proof, ", ");
    azri_buf_put(&f->proof, value);
    if (f->json_status == AZREDIS_OK) f->json_status = f->proof.status;
}
#endif

/* ---- ends ------------------------------------------------------------------------------------- */

/* The reason does not repeat the name, with which messages begin. */
static void azri_flow_record(azri_flow *f, const char *outcome, const char *reason, uint64_t now) {
    size_t n = strlen(f->source->name);
    if (AZRI_WITH_STATS + AZRI_WITH_TEXT == 0) return;        /* nobody can read it */
    azredis_link_record *r = &f->records[f->record_count++];
    if (strlen(reason) > n + 1 && memcmp(reason, f->source->name, n) == 0 && memcmp(reason + n, ": ", 2) == 0)
        reason += n + 2;
    memset(r, 0, sizeof *r);
    azri_copy(r->name, sizeof r->name, f->source->name);
    azri_copy(r->outcome, sizeof r->outcome, outcome);
    azri_copy(r->reason, sizeof r->reason, reason);
    r->ms = (uint32_t)azri_min64(now - azri_min64(f->link_at, now), UINT32_MAX);
}

/* Nothing of one question reaches the next. */
static void azri_flow_forget(azri_flow *f) {
    azri_buf_free(&f->token);
    azri_json_free(&f->json);
    azri_wipe(&f->answer, sizeof f->answer);
}

/* Nothing of one link reaches the next. */
static void azri_flow_leave(azri_flow *f) {
    if (!AZRI_WITH_WALKS) return;
    azri_json_free(&f->json);
    azri_wipe(&f->answer, sizeof f->answer);
    azri_buf_free(&f->proof);
    azri_buf_free(&f->roots);
    azri_pair_free(&f->pair);
    f->tenant = f->client = f->secret = f->wanted = f->header = NULL;
    f->value = NULL;
    f->resource = NULL;
    f->exchange = NULL;
    f->stage = f->met = f->renewed = f->by = f->variant = 0;
    memset(f->tries, 0, sizeof f->tries);
}

static void azri_flow_end(azri_flow *f, azredis_status st) {
    if (st != AZREDIS_OK) azri_buf_free(&f->token);
    azri_flow_leave(f);
    f->status = st;
    f->phase = AZRI_FLOW_DONE;
}

/* What the first n links said; neighbours that say the same say it together. If all of it is too long, the longest are cut
 * to what leaves room for the others. */
static void azri_flow_add_records(azri_flow *f, size_t n, const char *before) {
    const azredis_link_record *r = f->records;
    size_t all = sizeof f->error.message - 1, room = all - azri_minz(strlen(f->error.message) + strlen(before), all);
    size_t most = sizeof r->reason, want = room + 1, i;
    unsigned same = 0;                     /* a bit for each that says the same as the next */
    n = azri_minz(n, AZRI_LINKS_MAX);      /* a device has one: so that compilers see it */
    for (i = 0; i + 1 < n; i++)
        if (azri_eqz(azri_str(r[i].reason), r[i + 1].reason)) same |= 1u << i;
    while (want > room && most > 0)
        for (i = want = 0, most--; i < n; i++)
            want += strlen(r[i].name) + 4 + (same >> i & 1u ? 0 : azri_minz(strlen(r[i].reason), most));
    for (i = 0; i < n; i++) {
        azri_fail_add(&f->error, "%s%s", before, r[i].name);
        if (!(same >> i & 1u)) azri_fail_add(&f->error, ": %.*s", (int)most, r[i].reason);
        before = same >> i & 1u ? ", " : "; ";
    }
}

/* The walk ends with f->error. */
static void azri_flow_failed(azri_flow *f, uint64_t now) {
    azri_flow_record(f, "failed", f->error.message, now);
    azri_flow_add_records(f, f->record_count - 1, AZRI_TEXT("; before that, "));
    azri_flow_end(f, f->error.code);
}

/* This link has nothing to offer, for the reason in f->error: the next one is asked. */
static void azri_flow_unavailable(azri_flow *f, uint64_t now) {
    azri_flow_record(f, "unavailable", f->error.message, now);
    f->passing |= f->error.retryable;
    azri_flow_forget(f);
    azri_flow_leave(f);
    f->link++;
    f->phase = AZRI_FLOW_LINK;
}

/* All links were unavailable. */
static void azri_flow_nothing(azri_flow *f) {
    (void)azri_fail(&f->error, AZREDIS_E_NO_CREDENTIAL, "identity", "identity: no credential was found; ");
    if (!AZRI_WITH_ENV)
        azri_fail_add(&f->error, "with AZREDIS_NO_OS there is no environment to look into: set the option identity");
    azri_flow_add_records(f, f->record_count, "");
    f->error.retryable = f->passing;
    azri_flow_end(f, AZREDIS_E_NO_CREDENTIAL);
}

#if !defined(AZREDIS_NO_ASSERTION) || !defined(AZREDIS_NO_WORKLOAD) || !defined(AZREDIS_NO_MANAGED) || AZRI_WITH_CERTIFICATE || \
    !defined(AZREDIS_NO_DEVICE_CODE)
/* The next part of the same question: the tries go on being counted. */
static void azri_flow_part(azri_flow *f, int stage) {
    azri_flow_forget(f);
    f->stage = stage;
    f->phase = AZRI_FLOW_ASK;
}

/* The next question of this link. */
static void azri_flow_stage(azri_flow *f, int stage) {
    azri_flow_part(f, stage);
    memset(f->tries, 0, sizeof f->tries);
}
#endif

/* Tries again if r, which is NULL for trouble that will not pass, allows it within this walk; else ends it with f->error. */
static void azri_flow_again(azri_flow *f, uint64_t now, const azri_retry *r) {
    uint32_t *tries = &f->tries[r ? r->slot : 0];
    uint32_t wait = r ? r->first_ms << (r->doubles ? *tries : 0) : 0;
    if (r) wait = wait / 100 * (100u - r->jitter + azri_rng_below(f->rng, 2u * r->jitter + 1));
    if (f->pace_ms) wait = azri_min32(wait, f->pace_ms);
    if (f->error.retry_after_ms) wait = f->error.retry_after_ms;
    if (!r || *tries >= r->tries || wait > AZRI_STS_WAIT_MAX || azri_after(now, wait) >= f->deadline) {
        if (*tries) azri_fail_add(&f->error, " (try %u)", (unsigned)*tries + 1);
        azri_flow_failed(f, now);
        return;
    }
    azri_flow_forget(f);
    ++*tries;
    f->wait_until = now + wait;
    f->phase = AZRI_FLOW_PAUSE;
}

/* ---- a token came ----------------------------------------------------------------------------- */

static azredis_status azri_flow_check_token(azri_flow *f) {
    if (f->token.len > AZRI_TOKEN_MAX)
        return azri_flow_fail(f, AZREDIS_E_TOKEN, "the token is longer than %u bytes, %s; take the identity out of "
                              "some groups", (unsigned)AZRI_TOKEN_MAX, AZRI_TOKEN_MAX < 16384
                              ? "for which this build has room" : "the longest argument that Redis takes before AUTH");
    for (size_t i = 0; i < f->token.len; i++)
        if (f->token.ptr[i] <= ' ' || f->token.ptr[i] >= 127)
            return azri_flow_fail(f, AZREDIS_E_TOKEN, "the token holds a blank or another character that no token has");
    if (AZRI_WITH_WALKS && f->answer.token_type[0] && !azri_ieqz(azri_str(f->answer.token_type), "Bearer"))
        return azri_flow_fail(f, AZREDIS_E_TOKEN, "the token is not of the type Bearer, which Redis wants");
    return AZREDIS_OK;
}

/* The Redis user name: the option, else a claim. With the option a token need not be readable. */
static azredis_status azri_flow_check_user(azri_flow *f) {
    azredis_status st = AZREDIS_E_TOKEN;
    if (AZRI_WITH_CLAIMS)
        st = azri_jwt_claims(azri_slice(f->token.ptr, f->token.len), f->mem, &f->json, &f->claims, &f->error);
    if (st == AZREDIS_E_NOMEM) return st;
    if (f->conf->user) {        /* azri_identity_check has seen to it, if claims are not read */
        azri_copy(f->user, sizeof f->user, f->conf->user);
        return AZREDIS_OK;
    }
    if (st == AZREDIS_OK) return azri_jwt_user(&f->claims, f->user, &f->error);
    azri_fail_add(&f->error, ", so the Redis user name is unknown; set the option user");
    return st;
}

/* The token's whole life by the issuer's clock, or INT64_MAX. */
static int64_t azri_flow_whole_life(const azri_claims *c) {
    return AZRI_WITH_CLAIMS && c->iat && c->exp > c->iat ? c->exp - c->iat : INT64_MAX;
}

/* The clock on the wall comes last: it is set back once a year. 0: unknown. */
static int64_t azri_flow_expires_at(const azri_flow *f) {
    if (f->answer.expires_on) return f->answer.expires_on;
    if (AZRI_WITH_CLAIMS && f->claims.exp) return f->claims.exp;
    if (!AZRI_WITH_WALKS) return 0;
    return f->answer.expires_local && f->local_time ? f->local_time(f->answer.expires_local) : 0;
}

/* Life from the moment of sending. A point in time is compared with the server's own clock where it told
 * it; exp - iat, both from the issuer's clock, bounds what a wrong clock of ours can do. */
static azredis_status azri_flow_check_life(azri_flow *f, int64_t server_unix) {
    const azri_answer *a = &f->answer;
    int64_t at = azri_flow_expires_at(f), whole = azri_flow_whole_life(&f->claims);
    int64_t clock = server_unix > 0 ? server_unix : f->sent_unix, life;
    if (a->expires_in > 0) life = a->expires_in;
    else if (a->expires_on && a->expires_on < AZRI_RELATIVE_BELOW) life = a->expires_on;
    else if (at && clock > 0) life = at - clock < whole ? at - clock : whole;
    else if (at && whole != INT64_MAX) life = whole;
    else return azri_flow_fail(f, AZREDIS_E_TOKEN, "nothing says when the token expires (no expires_in, no "
                               "expires_on, no exp with a clock to compare it with)");
    if (life <= 0) {
        (void)azri_flow_fail(f, AZREDIS_E_TOKEN, "the token has already expired by this machine's clock; set "
                             "the clock, or mend what gave the token (a cache, a program, a file that nobody renews)");
        f->error.retryable = 1;
        return AZREDIS_E_TOKEN;
    }
    f->life_ms = (uint32_t)azri_min64((uint64_t)life, AZRI_LIFE_MAX / 1000) * 1000;
    f->refresh_ms = (uint32_t)azri_min64((uint64_t)a->refresh_in, AZRI_LIFE_MAX / 1000) * 1000;
    return AZREDIS_OK;
}

/* Most WRONGPASS reports are tokens for another service. A scope that you chose is not second-guessed. */
static void azri_flow_check_audience(azri_flow *f) {
    azredis_str aud = azri_str(f->claims.aud);
    char quoted[100];
    if (AZRI_WITH_CLAIMS + AZRI_WITH_EVENTS < 2) return;           /* nobody could be told */
    if (!azri_eqz(azri_str(f->conf->scope), AZRI_REDIS_SCOPE) || !aud.len) return;
    if (azri_eqz(aud, AZRI_REDIS_RESOURCE) || azri_eqz(aud, AZRI_REDIS_RESOURCE "/")) return;
    if (azri_ieqz(aud, AZRI_REDIS_GUID)) return;
    (void)azri_quote(quoted, sizeof quoted, aud.ptr, aud.len, azri_slice(NULL, 0));
    AZRI_SAY(f->hint, sizeof f->hint, "the token is for %s, not for Redis, which will refuse it; "
                   "ask for " AZRI_REDIS_SCOPE, quoted);
}

static void azri_flow_accept(azri_flow *f, uint64_t now, int64_t server_unix) {
    azredis_status st = azri_flow_check_token(f);
    if (AZRI_WITH_WALKS || AZRI_WITH_CLAIMS) azri_json_free(&f->json);  /* the answer has been read; the token's claims are next */
    if (st == AZREDIS_OK) st = azri_flow_check_user(f);
    if (st == AZREDIS_OK) st = azri_flow_check_life(f, server_unix);
    if (st != AZREDIS_OK) {
        azri_flow_failed(f, now);
        return;
    }
    azri_flow_check_audience(f);
    memset(&f->error, 0, sizeof f->error);
    if (AZRI_WITH_STATS || AZRI_WITH_TEXT) azri_copy(f->used, sizeof f->used, f->source->name);
    if (AZRI_WITH_WALKS) f->pin = (int)f->links[f->link] + 1;
    azri_flow_record(f, "token", "", now);
    azri_flow_end(f, AZREDIS_OK);
}

/* ---- a refusal came --------------------------------------------------------------------------- */

/* The number after the first "AADSTS", or 0. */
static int azri_flow_aadsts(azredis_str text) {
    size_t k = azri_find_text(text, azri_str("AADSTS")) + 6;
    int v = 0;
    for (; k < text.len && azri_is_digit(text.ptr[k]) && v < 100000000; k++)
        v = v * 10 + (text.ptr[k] - '0');
    return v;
}

/* Entra's code in the answer, or 0. */
static int azri_flow_code(const azri_flow *f) {
    return f->answer.aadsts ? f->answer.aadsts : azri_flow_aadsts(azri_str(f->answer.about));
}

/* What no message may show a piece of. */
static azredis_str azri_flow_secret(const azri_flow *f) {
    return f->secret ? azri_str(f->secret) : azri_slice(f->proof.ptr, f->proof.len);
}

static int azri_flow_passing(int http, const azri_answer *a) {
    static const int32_t codes[] = { 50033, 50196, 90006, 90012, 90024, 90033, 90055, 90090 };
    if (http == 408 || http == 429 || http >= 500) return 1;
    if (azri_eqz(azri_str(a->error), "temporarily_unavailable")) return 1;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (a->aadsts == codes[i]) return 1;
    return 0;
}

/* An answer that is not Entra's: a proxy's page, an empty body. A 200 may hold a token: not quoted. */
static void azri_flow_foreign(azri_flow *f, const azri_http *h) {
    const azri_answer *a = &f->answer;
    char quoted[AZRI_PEER_TEXT + 1];
    int i = 0;
    while (i < a->raw_len && (unsigned char)a->raw[i] <= ' ') i++;
    (void)azri_flow_fail(f, h->status == 200 ? AZREDIS_E_JSON : AZREDIS_E_HTTP, "HTTP %d without an answer of Entra's",
                         h->status);
    if (i < a->raw_len && a->raw[i] == '<')
        azri_fail_add(&f->error, ": the authority answered HTML (a proxy or captive portal?)");
    else if (h->status == 200)
        azri_fail_add(&f->error, ": %s",
                      f->json_status == AZREDIS_OK ? "no access_token in it"
                      : f->json_status == AZREDIS_E_LIMIT
                          ? "it holds a text longer than this build reads, or nests too deep"
                          : "not JSON");
    if (h->status == 200 || !a->raw_len) return;
    azri_fail_add(&f->error, "; it says: %s",
                  azri_quote(quoted, sizeof quoted, a->raw, (size_t)a->raw_len, azri_flow_secret(f)));
}

/* Adds what an error object in f->answer says to f->error. */
static void azri_flow_why(azri_flow *f, int http) {
    azri_answer *a = &f->answer;
    azredis_str secret = azri_flow_secret(f);
    char text[AZRI_PEER_TEXT + 1];
    a->aadsts = azri_flow_code(f);
    const char *hint = azri_hint(a->aadsts);
    azri_fail_add(&f->error, "%s", azri_quote(text, sizeof a->error, a->error, strlen(a->error), secret));
    if (a->aadsts) azri_fail_add(&f->error, ", AADSTS%d", a->aadsts);
    if (hint)
        azri_fail_add(&f->error, ": %s", hint);
    else if (a->about[0])
        azri_fail_add(&f->error, "; it says: %s", azri_quote(text, sizeof text, a->about, strlen(a->about), secret));
    f->error.aadsts = a->aadsts;
    f->error.retryable = azri_flow_passing(http, a);
}

static void azri_flow_refused(azri_flow *f, const azri_http *h) {
    (void)azri_flow_fail(f, AZREDIS_E_ENTRA, "Entra refused with HTTP %d, ", h->status);
    azri_flow_why(f, h->status);
}
/* What a token endpoint of Entra answered. */
static void azri_flow_judge(azri_flow *f, uint64_t now, const azri_http *h) {
    azri_answer *a = &f->answer;
    int passing = azri_flow_passing(h->status, a);
    if (f->json_status == AZREDIS_OK && h->status == 200 && !a->error[0] && f->token.len) {
        azri_flow_accept(f, now, h->date);
        return;
    }
    if (f->json_status == AZREDIS_E_NOMEM)
        (void)azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for the answer");
    else if (f->json_status == AZREDIS_OK && a->error[0]) {
        azri_flow_refused(f, h);
        passing = f->error.retryable;
    } else azri_flow_foreign(f, h);
    f->error.http_status = h->status;
    f->error.retry_after_ms = h->retry_after_ms;
    if (!h->retry_after_ms && (a->aadsts == 90055 || a->aadsts == 50196))
        f->error.retry_after_ms = AZRI_STS_SLOW_DOWN;
    memcpy(f->error.request_id, a->request_id[0] ? a->request_id : f->request_id, sizeof f->error.request_id);
    azri_flow_again(f, now, passing ? &azri_retry_sts : NULL);
}

/* Not a wrong certificate or a redirect: there may be somebody in between. */
static int azri_flow_net_passes(azredis_status st) {
    return st == AZREDIS_E_DNS || st == AZREDIS_E_NET || st == AZREDIS_E_TLS || st == AZREDIS_E_TIMEOUT ||
           st == AZREDIS_E_CLOSED;
}

/* No answer came from a token endpoint of Entra: f->error says why. */
static void azri_flow_judge_net(azri_flow *f, uint64_t now) {
    azredis_status st = f->error.code;
    int by = f->env->value[AZRI_ENV_HTTPS_PROXY] ? AZRI_ENV_HTTPS_PROXY : AZRI_ENV_HTTPS_PROXY_SMALL;
    int may = !(f->conf->kubernetes_proxy && f->env->value[AZRI_ENV_TOKEN_PROXY]);    /* which is asked without it */
    if (AZRI_WITH_PROXY && may && !f->conf->proxy && f->env->value[by] &&
        (st == AZREDIS_E_DNS || st == AZREDIS_E_NET || st == AZREDIS_E_TIMEOUT))
        azri_fail_add(&f->error, "; %s is set, which is not obeyed: if the authority is behind a proxy, set the option "
                      "proxy", azri_env_names[by]);
    azri_flow_again(f, now, azri_flow_net_passes(f->error.code) ? &azri_retry_sts : NULL);
}

/* ---- what the pump tells ---------------------------------------------------------------------- */

/* The exchange ended. transport OK: h is complete. Else transport_error says why; h may be NULL. */
static void azri_flow_http(azri_flow *f, uint64_t now, azredis_status transport, const azri_http *h,
                           const azredis_error *transport_error) {
    AZREDIS_ASSERT(f->phase == AZRI_FLOW_ANSWER && f->asks == AZRI_STEP_HTTP);
    if (transport == AZREDIS_OK) {
        if (f->json_status == AZREDIS_OK) f->json_status = azri_json_end(&f->json);
        f->source->http(f, now, h);
        return;
    }
    if (transport_error) azri_fail_copy(&f->error, transport_error);
    else (void)azri_flow_fail(f, transport, "the exchange with the authority failed");
    f->error.code = transport;
    f->source->net(f, now);
}

#if AZRI_WITH_OS || AZRI_WITH_CERTIFICATE
/* A file was read, a program has ended by itself, or a key has signed: OK, and text is what came; else e, which may be
 * f->error, says why not. */
static void azri_flow_text(azri_flow *f, uint64_t now, azredis_status st, azredis_str text, const azredis_error *e) {
    AZREDIS_ASSERT(f->phase == AZRI_FLOW_ANSWER && f->asks != AZRI_STEP_HTTP && f->asks != AZRI_STEP_CALL);
    if (st != AZREDIS_OK) azri_fail_copy(&f->error, e);
    f->source->text(f, now, st, text);
}
#endif

#ifndef AZREDIS_NO_EXEC
/* The same of a program. said: how its stderr ends. */
static void azri_flow_ran(azri_flow *f, uint64_t now, azredis_status st, azredis_str out, azredis_str said,
                          int exit_code, const azredis_error *e) {
    f->exit_code = exit_code;
    f->said = said;
    azri_flow_text(f, now, st, out, e);
    f->said = azri_slice(NULL, 0);
}
#endif

#if !defined(AZREDIS_NO_TOKEN_FILE) || !defined(AZREDIS_NO_EXEC) || !defined(AZREDIS_NO_WORKLOAD)
/* Without the byte order mark and the ASCII white space that editors and echo add. */
static azredis_str azri_flow_trim(azredis_str s) {
    if (s.len >= 3 && memcmp(s.ptr, "\xef\xbb\xbf", 3) == 0) s = azri_from(s, 3);
    return azri_trim(s, " \t\n\v\f\r");
}
#endif

/* A callback of yours failed, and may have written a reason of at most max bytes. */
static azredis_status azri_flow_blame(azri_flow *f, azredis_status st, const char *said, size_t max) {
    char reason[AZRI_PEER_TEXT + 1];
    size_t n = 0;
    while (n < max && said[n]) n++;
    (void)azri_quote(reason, sizeof reason, said, n, azri_slice(NULL, 0));
    (void)azri_flow_fail(f, st < 0 ? st : AZREDIS_E_STATE, "the callback failed: %s", n ? reason : "it gave no reason");
    if (st > 0) f->error.retryable = 1;
    return f->error.code;
}

/* The callback returned st: f->error says why it brought nothing, or out has what it wrote. */
static azredis_status azri_flow_take_call(azri_flow *f, azri_buf *out, azredis_status st, const azredis_fetched *got) {
    if (st != AZREDIS_OK) return azri_flow_blame(f, st, got->reason, sizeof got->reason);
    if (!got->token || got->len == 0 || got->len > got->cap)
        return azri_flow_fail(f, AZREDIS_E_TOKEN,
                              "the callback returned OK, but wrote nothing, or a len greater than cap");
    if (azri_buf_add(out, got->token, got->len) != AZREDIS_OK)
        return azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for what the callback wrote");
    return AZREDIS_OK;
}

/* A callback returned st; got->token is the pump's to wipe. */
static void azri_flow_call(azri_flow *f, uint64_t now, azredis_status st, const azredis_fetched *got) {
    AZREDIS_ASSERT(f->phase == AZRI_FLOW_ANSWER && f->asks == AZRI_STEP_CALL);
    f->source->call(f, now, st, got);
}

/* A version 4 UUID (RFC 9562 5.4): names this request to Microsoft's support. */
static void azri_flow_new_id(azri_flow *f) {
    char *id = f->request_id;
    azri_rng_hex(f->rng, id, 36);
    id[8] = id[13] = id[18] = id[23] = '-';
    id[14] = '4';
    id[19] = (char)('8' + (id[19] & 1));
}

/* ---- asking ----------------------------------------------------------------------------------- */

static void azri_step_free(azri_step *step) {
    if (step->request.mem) azri_buf_free(&step->request);
}

static void azri_flow_expect(azri_flow *f) {
    if (AZRI_WITH_HTTP) azri_json_init(&f->json, f->mem, AZRI_VALUE_MAX, azri_flow_value, f);
}

/* Puts the next question into *step. */
static void azri_flow_ask(azri_flow *f, uint64_t now, int64_t unix_now, azri_step *step) {
    uint64_t left = f->deadline == AZRI_NEVER64 ? AZREDIS_NEVER : f->deadline - now;
    memset(&f->answer, 0, sizeof f->answer);
    azri_flow_expect(f);
    f->json_status = AZREDIS_OK;
    f->sent_at = now;
    f->sent_unix = unix_now;
    step->timeout_ms = f->conf->request_ms;
    azredis_status st = f->source->ask(f, step);
    step->timeout_ms = (uint32_t)azri_min64(step->timeout_ms, left);
    f->asks = step->kind;
    f->phase = AZRI_FLOW_ANSWER;
    if (st == AZREDIS_OK) return;
    azri_step_free(step);
    if (st == AZREDIS_E_LIMIT) (void)azri_flow_fail(f, st, "the secret is longer than this build can send");
    else if (st == AZREDIS_E_NOMEM) (void)azri_flow_fail(f, st, "no memory for the request");
    azri_flow_failed(f, now);
}

/* ==== >>app =============================================================== uses: core mem fail text http identity flow ==
 * Applications (service principals): what Entra's token endpoint is asked, RFC 6749 4.4 with a secret or RFC 7523
 * with an assertion, which >>federated gets; and the secret by options or environment.
 * ================================================================================================ */

/* The authority of this walk: the option, the variable, or that of the Redis host's cloud. */
static azredis_status azri_app_authority(azri_flow *f, const char *where) {
    const char *env = f->env->value[AZRI_ENV_AUTHORITY_HOST];
    if (AZRI_WITH_AUTHORITIES && f->conf->authority_host)
        return azri_identity_authority_parse(&f->authority, f->conf->authority_host,
                                             f->conf->allow_authority, where, &f->error);
    if (AZRI_WITH_AUTHORITIES && env)
        return azri_identity_authority_parse(&f->authority, env, f->conf->allow_authority,
                                             "AZURE_AUTHORITY_HOST", &f->error);
    return azri_identity_authority_parse(&f->authority, f->cloud ? f->cloud : azri_identity_authority_of(""), NULL,
                                         where, &f->error);
}

static azredis_status azri_app_begin(azri_flow *f, const char *tenant, const char *client, const char *where) {
    azredis_status st = azri_identity_check_app(tenant, client, where, &f->error);
    f->tenant = tenant;
    f->client = client;
    return st == AZREDIS_OK ? azri_app_authority(f, where) : st;
}

/* RFC 6749 4.4.2. A scope may be given as a bare resource; this grant wants the suffix. */
static azredis_status azri_app_form(azri_flow *f, azri_buf *b) {
    azri_http_put_field(b, "client_id=", azri_str(f->client));
    azri_http_put_field(b, f->secret ? "&client_secret=" : "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A"
                        "client-assertion-type%3Ajwt-bearer&client_assertion=", azri_flow_secret(f));
    azri_http_put_field(b, "&grant_type=client_credentials&scope=", azri_identity_resource(f->conf->scope));
    azri_buf_puts(b, "%2F.default");
    return b->status;
}

/* One of the tenant's endpoints, below u. */
static azredis_status azri_app_endpoint(azri_flow *f, azri_url *u, const char *name) {
    const char *part[] = { "/", f->tenant, "/oauth2/v2.0/", name };
    size_t i, n = strlen(u->path);
    if (u->path[n - 1] == '/') n--;
    for (i = 0; i < sizeof part / sizeof part[0]; n += strlen(part[i++])) {
        if (strlen(part[i]) >= sizeof u->path - n)
            return azri_flow_fail(f, AZREDIS_E_ARG, "the path of the token endpoint is too long");
        azri_copy(u->path + n, sizeof u->path - n, part[i]);
    }
    return AZREDIS_OK;
}

/* A form to one of the tenant's endpoints, below step->url. */
static azredis_status azri_app_post(azri_flow *f, azri_step *step, const char *endpoint,
                                    azredis_status (*fill)(azri_flow *, azri_buf *), size_t form_max) {
    static const char same[] = "User-Agent: azredis-entra/" AZREDIS_VERSION_TEXT "\r\nreturn-client-request-id: true\r\n"
        "x-client-SKU: azredis.c\r\nx-client-Ver: " AZREDIS_VERSION_TEXT "\r\n"
        "x-ms-lib-capability: retry-after, h429\r\nclient-request-id: ";
    char headers[sizeof same + sizeof f->request_id], *id = headers + sizeof same - 1;
    azri_buf form;
    azredis_status st = azri_app_endpoint(f, &step->url, endpoint);
    if (st != AZREDIS_OK) return st;
    step->kind = AZRI_STEP_HTTP;
    azri_flow_new_id(f);
    memcpy(headers, same, sizeof same);
    azri_copy(id, sizeof f->request_id, f->request_id);
    azri_copy(id + strlen(id), 3, "\r\n");
    azri_buf_init(&form, f->mem, form_max, 1);
    st = fill(f, &form);
    if (st == AZREDIS_OK)
        st = azri_http_request(&step->request, &step->url, headers, azri_slice(form.ptr, form.len));
    azri_buf_free(&form);
    return st;
}

/* To the token endpoint, with the secret or the assertion in f->proof. */
static azredis_status azri_app_request(azri_flow *f, azri_step *step) {
    return azri_app_post(f, step, "token", azri_app_form, AZRI_FORM_MAX);
}

static azredis_status azri_app_ask(azri_flow *f, azri_step *step) {
    step->url = f->authority;
    step->by_proxy = 1;
    return azri_app_request(f, step);
}

/* ---- client secret, by options and by environment ---- */

static azredis_status azri_secret_begin(azri_flow *f) {
    f->secret = f->conf->client_secret;
    return azri_app_begin(f, f->conf->tenant_id, f->conf->client_id, "client-secret");
}

#ifndef AZREDIS_NO_OS
/* Names the variables, never their values. */
static azredis_status azri_environment_lacks(azri_flow *f) {
    char *const *v = f->env->value;
    int i, found = 0, missing = 0;
    azri_flow_fail_code(f, AZREDIS_E_NO_CREDENTIAL);
    for (i = AZRI_ENV_TENANT_ID; i <= AZRI_ENV_USERNAME; i++)
        if (v[i]) azri_fail_add(&f->error, "%s%s", found++ ? ", " : "found ", azri_env_names[i]);
    if (found) azri_fail_add(&f->error, "; ");
    for (i = AZRI_ENV_TENANT_ID; i <= AZRI_ENV_CLIENT_SECRET; i++)
        if (!v[i] && !(i == AZRI_ENV_CLIENT_SECRET && v[AZRI_ENV_CERTIFICATE_PATH]))
            azri_fail_add(&f->error, "%s%s", missing++ ? ", " : "missing ", azri_env_names[i]);
    if (AZRI_WITH_CERTIFICATE && !f->in_chain && !v[AZRI_ENV_CLIENT_SECRET] && !v[AZRI_ENV_CERTIFICATE_PATH])
        azri_fail_add(&f->error, " or %s", azri_env_names[AZRI_ENV_CERTIFICATE_PATH]);
    if (!AZRI_WITH_CERTIFICATE && v[AZRI_ENV_CERTIFICATE_PATH])
        azri_fail_add(&f->error, "; this program was built with AZREDIS_NO_CERTIFICATE");
    else if (v[AZRI_ENV_USERNAME]) azri_fail_add(&f->error, "; user passwords are not supported");
    return AZREDIS_E_NO_CREDENTIAL;
}

/* The secret wins, as in the SDKs; f->secret NULL: >>certificate gets its assertion. */
static azredis_status azri_environment_begin(azri_flow *f) {
    char *const *v = f->env->value;
    int proof = v[AZRI_ENV_CLIENT_SECRET] || (AZRI_WITH_CERTIFICATE && v[AZRI_ENV_CERTIFICATE_PATH]);
    if (!v[AZRI_ENV_TENANT_ID] || !v[AZRI_ENV_CLIENT_ID] || !proof) return azri_environment_lacks(f);
    f->secret = v[AZRI_ENV_CLIENT_SECRET];
    return azri_app_begin(f, v[AZRI_ENV_TENANT_ID], v[AZRI_ENV_CLIENT_ID], "environment");
}
#endif

/* ==== >>given ============================================================= uses: core mem fail text json http identity flow ==
 * Tokens that somebody else gets: your callback, a file, a program. File and program may write the token itself, or
 * JSON: an answer of RFC 6749, what az and azd print, or an error object. What they write is never quoted but for
 * the texts of an error object: it holds the token.
 * ================================================================================================ */

/* Nothing to look at before it is asked. */
static azredis_status azri_given_begin(azri_flow *f) {
    (void)f;
    return AZREDIS_OK;
}

static azredis_status azri_callback_ask(azri_flow *f, azri_step *step) {
    step->kind = AZRI_STEP_CALL;
    step->call = f->conf->get_token;
    step->call_user = f->conf->get_token_user;
    step->scope = f->conf->scope;
    return AZREDIS_OK;
}

static void azri_callback_call(azri_flow *f, uint64_t now, azredis_status st, const azredis_fetched *got) {
    if (azri_flow_take_call(f, &f->token, st, got) != AZREDIS_OK) {
        azri_flow_failed(f, now);
        return;
    }
    f->answer.expires_in = got->expires_in;
    f->answer.expires_on = got->expires_on > 0 ? got->expires_on : 0;
    f->answer.refresh_in = got->refresh_in;
    azri_flow_accept(f, now, 0);
}

#if !defined(AZREDIS_NO_TOKEN_FILE) || !defined(AZREDIS_NO_EXEC)
/* Without the zone that makes it a time: az prints it so. */
static int azri_given_is_local(azredis_str date) {
    size_t i;
    for (i = 11; i < date.len && date.ptr[i] != '+' && date.ptr[i] != '-' && date.ptr[i] != 'Z'; i++) {}
    return i >= date.len && date.len > 11 && date.ptr[4] == '-';
}

/* Programs of Azure have names of their own for what RFC 6749 and Entra call access_token, expires_on and error. */
static void azri_given_value(void *user, int depth, azredis_str parent, azredis_str key, int type, azredis_str text) {
    azri_answer *a = &((azri_flow *)user)->answer;
    if (depth == 2 && type == AZRI_JSON_STRING && azri_eqz(parent, "error")) {
        if (azri_eqz(key, "code")) azri_answer_cut(a->error, sizeof a->error, text);
        if (azri_eqz(key, "message")) azri_answer_cut(a->about, sizeof a->about, text);
    }
    if (depth == 1 && (azri_eqz(key, "accessToken") || azri_eqz(key, "token"))) key = azri_str("access_token");
    if (depth == 1 && azri_eqz(key, "expiresOn")) {
        if (type == AZRI_JSON_STRING && azri_given_is_local(text)) {
            (void)azri_date_parse(text, &a->expires_local);
            return;
        }
        key = azri_str("expires_on");
    }
    azri_flow_value(user, depth, parent, key, type, text);
}

static azredis_status azri_given_json(azri_flow *f, azredis_str text) {
    azri_json_free(&f->json);
    azri_json_init(&f->json, f->mem, AZRI_VALUE_MAX, azri_given_value, f);
    azredis_status st = azri_json_feed(&f->json, text.ptr, text.len);
    if (st == AZREDIS_OK) st = azri_json_end(&f->json);
    if (f->json_status == AZREDIS_OK) f->json_status = st;
    return f->json_status;
}

/* RFC 6750 2.1. A page, a message and a list are no token. */
static int azri_given_is_token(azredis_str s) {
    size_t i;
    for (i = 0; i < s.len && (azri_is_alnum(s.ptr[i]) || azri_find(azri_str("-._~+/="), s.ptr[i]) < 7); i++) {}
    return i == s.len;
}

/* Puts the token into f->token and what is said about it into f->answer. */
static azredis_status azri_given_read(azri_flow *f, azredis_str text, int is_file) {
    const char *what = is_file ? "file" : "output";
    azredis_status st = AZREDIS_OK;
    text = azri_flow_trim(text);
    if (text.len && text.ptr[0] == '{') st = azri_given_json(f, text);
    else if (!azri_given_is_token(text)) st = AZREDIS_E_JSON;
    else if (text.len) st = azri_buf_add(&f->token, text.ptr, text.len);
    if (st == AZREDIS_E_NOMEM) return azri_flow_fail(f, st, "no memory for what holds the token");
    if (st == AZREDIS_OK && f->answer.error[0]) {
        (void)azri_flow_fail(f, AZREDIS_E_ENTRA, "the %s holds an error instead of a token: ", what);
        azri_flow_why(f, 0);
        return AZREDIS_E_ENTRA;
    }
    if (st == AZREDIS_OK && f->token.len) return AZREDIS_OK;
    (void)azri_flow_fail(f, AZREDIS_E_TOKEN, "the %s %s; it should be a token, or JSON with access_token and "
                         "expires_on", what, text.len == 0 ? "is empty"
                         : st == AZREDIS_OK ? "is JSON without access_token, accessToken or token"
                         : st == AZREDIS_E_LIMIT ? "holds a text longer than this build reads, or nests too deep"
                         : "is neither a token nor complete JSON");
    f->error.retryable = is_file;          /* it may be being written just now */
    return AZREDIS_E_TOKEN;
}
#endif

#ifndef AZREDIS_NO_TOKEN_FILE
static azredis_status azri_token_file_ask(azri_flow *f, azri_step *step) {
    step->kind = AZRI_STEP_FILE;
    step->file = f->conf->token_file;
    step->file_max = AZRI_HTTP_BODY_MAX;
    return AZREDIS_OK;
}

/* Nobody knows when the file was written, so what it says relative to that moment means nothing. */
static void azri_token_file_text(azri_flow *f, uint64_t now, azredis_status st, azredis_str text) {
    if (st != AZREDIS_OK) f->error.retryable = st != AZREDIS_E_LIMIT;  /* whoever keeps it fresh may be starting */
    else st = azri_given_read(f, text, 1);
    f->answer.expires_in = f->answer.refresh_in = 0;
    if (f->answer.expires_on < AZRI_RELATIVE_BELOW) f->answer.expires_on = 0;
    if (st == AZREDIS_OK) azri_flow_accept(f, now, 0);
    else azri_flow_failed(f, now);
}
#endif

#ifndef AZREDIS_NO_EXEC
#define AZRI_EXEC_MS (10u * AZRI_SECOND)   /* as the SDKs give az */

/* The program inherits the secret, and a script with set -x prints it: no message shows it. */
static azredis_status azri_exec_begin(azri_flow *f) {
    f->secret = f->env->value[AZRI_ENV_CLIENT_SECRET];
    return AZREDIS_OK;
}

static azredis_status azri_exec_ask(azri_flow *f, azri_step *step) {
    step->kind = AZRI_STEP_EXEC;
    step->argv[0] = f->conf->exec;
    step->argv[1] = f->conf->scope;
    step->timeout_ms = (uint32_t)azri_min64(step->timeout_ms, AZRI_EXEC_MS);
    return AZREDIS_OK;
}

/* Takes the first line off *text. */
static azredis_str azri_exec_next_line(azredis_str *text) {
    azredis_str line = azri_slice(text->ptr, azri_find(*text, '\n'));
    size_t n = azri_minz(line.len + 1, text->len);
    *text = azri_slice(text->ptr + n, text->len - n);
    return azri_flow_trim(line);
}

/* The line of stderr that says most: the first that speaks of an error, else the last. */
static azredis_str azri_exec_line(azredis_str said) {
    azredis_str best = azri_slice(said.ptr, 0), line;
    while (said.len) {
        line = azri_exec_next_line(&said);
        if (line.len) best = line;
        for (size_t i = 0; i + 4 <= line.len; i++)
            if (azri_ieqz(azri_slice(line.ptr + i, 4), "rror")) return line;
    }
    return best;
}

static void azri_exec_add_said(azri_flow *f) {
    azredis_str line = azri_exec_line(f->said);
    char quoted[AZRI_PEER_TEXT + 1];
    if (line.len)
        azri_fail_add(&f->error, "; it says: %s",
                      azri_quote(quoted, sizeof quoted, line.ptr, line.len, azri_flow_secret(f)));
}

/* Its status or signal says that it has not done its work. */
static azredis_status azri_exec_refused(azri_flow *f, const char *program) {
    int code = f->exit_code;
    if (code == AZRI_EXIT_UNKNOWN)
        (void)azri_flow_fail(f, AZREDIS_E_NO_CREDENTIAL, "the program %s printed nothing", program);
    else
        (void)azri_flow_fail(f, AZREDIS_E_NO_CREDENTIAL, "the program %s %s %d", program,
                             code > 0 ? "ended with status" : "was ended by signal", code > 0 ? code : -code);
    f->error.retryable = 1;
    return AZREDIS_E_NO_CREDENTIAL;
}

static void azri_exec_text(azri_flow *f, uint64_t now, azredis_status st, azredis_str out) {
    if (st == AZREDIS_OK && f->exit_code != 0 && f->exit_code != AZRI_EXIT_UNKNOWN)
        st = azri_exec_refused(f, f->conf->exec);
    if (st == AZREDIS_OK) st = azri_given_read(f, out, 0);
    if (st == AZREDIS_OK) {
        azri_flow_accept(f, now, 0);
        return;
    }
    azri_exec_add_said(f);
    azri_flow_failed(f, now);
}
#endif

#ifndef AZREDIS_NO_MANAGED
/* ==== >>managed =========================================================== uses: core mem fail text json http jwt identity flow ==
 * Managed identity: a token for the machine, app or pod in which the program runs, from a service beside it that wants
 * no secret of ours. Which one is there is told by variables that the platform sets, and changes: they are read again
 * for each walk. Never by a proxy, never redirected; without TLS only to this machine, its link or a private network.
 *
 *   Azure Arc:  ask --401 and a path--> FILE --key--> ask again with the key; all others: ask
 *
 * In a chain the metadata service (IMDS) may be somebody else's, or nobody's: the first request to it is short and is
 * not repeated, and only an answer in Azure's form proves that it is there. For the others a variable is the proof.
 * ================================================================================================ */

#define AZRI_PROBE_CONNECT_MS 1000u        /* IMDS is one hop away, or nowhere */
#define AZRI_PROBE_MS         2200u        /* two seconds for a first token; a chain has said all after 2.5 */
#define AZRI_NEAR_CONNECT_MS  5000u
#define AZRI_NEAR_MS          10000u       /* one request: they have their tokens at hand */
#define AZRI_ARC_KEY_MAX      4096u        /* bytes of a challenge file: what the SDKs take */
#define AZRI_ARC_NAME_MAX     255u         /* of its name: what file systems take */
#define AZRI_EACCES           13           /* on every system that has Azure Arc; this half knows no <errno.h> */

#define AZRI_IMDS_URL         "http://169.254.169.254"
#define AZRI_ARC_URL          "http://127.0.0.1:40342/metadata/identity/oauth2/token"
#define AZRI_ARC_AGENT        "/opt/azcmagent/bin/himds"   /* is there where Azure Arc's agent is installed */
#ifndef AZRI_ARC_DIRECTORY                 /* the only one whose files are read because an endpoint says so; tests move it */
#  define AZRI_ARC_DIRECTORY  "/var/opt/azcmagent/tokens"
#endif

enum { AZRI_MI_FABRIC, AZRI_MI_APP, AZRI_MI_ML, AZRI_MI_SHELL, AZRI_MI_ARC, AZRI_MI_IMDS };
enum { AZRI_MI_ASK, AZRI_MI_FILE, AZRI_MI_ANSWER };

/* The wire formats: learn.microsoft.com on each platform, and MSAL. */
typedef struct azri_managed {
    const char *name;
    const char *fixed;                     /* the URL, where no variable has it */
    int         endpoint, secret;          /* variables: the URL; what header says. secret AZRI_ENV_COUNT: none */
    const char *header;                    /* "Name: ", before a secret */
    int         metadata;                  /* 1: wants "Metadata: true" */
    const char *version;
    const char *by[AZRI_BYS];              /* the parameter for a user-assigned identity; NULL: it cannot be chosen so */
} azri_managed;

static const azri_managed azri_manageds[] = {
    { "Service Fabric", "", AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IDENTITY_HEADER, "Secret: ", 0, "2019-07-01-preview",
      { NULL, NULL, NULL } },
    { "App Service", "", AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_IDENTITY_HEADER, "X-IDENTITY-HEADER: ", 1, "2019-08-01",
      { "&client_id=", "&object_id=", "&mi_res_id=" } },
    { "Azure ML (App Service 2017)", "", AZRI_ENV_MSI_ENDPOINT, AZRI_ENV_MSI_SECRET, "secret: ", 0, "2017-09-01",
      { "&clientid=", NULL, NULL } },
    { "Cloud Shell", "", AZRI_ENV_MSI_ENDPOINT, AZRI_ENV_COUNT, NULL, 1, NULL, { NULL, NULL, NULL } },
    { "Azure Arc", AZRI_ARC_URL, AZRI_ENV_IDENTITY_ENDPOINT, AZRI_ENV_COUNT, "Authorization: Basic ", 1, "2020-06-01",
      { "&client_id=", "&object_id=", "&msi_res_id=" } },
    { "IMDS", AZRI_IMDS_URL, AZRI_ENV_POD_AUTHORITY, AZRI_ENV_COUNT, NULL, 1, "2018-02-01",
      { "&client_id=", "&object_id=", "&msi_res_id=" } }
};

/* 1, 2, 4, 8, 16 s as Microsoft advises for IMDS, which counts "being updated" (410, up to 70 s) on its own. */
static const azri_retry azri_retry_imds = { 0, 5, 20, 1, 1000 };
static const azri_retry azri_retry_updated = { 1, 7, 0, 0, 10000 };
static const azri_retry azri_retry_near = { 0, 3, 0, 1, 1000 };

/* ---- which one, and whose token ---- */

/* In MSAL's order. App Service's endpoint of 2017 has the variables and the wire format of Azure ML. */
static int azri_managed_detect(const azri_env *env) {
    char *const *v = env->value;
    if (v[AZRI_ENV_IDENTITY_ENDPOINT] && v[AZRI_ENV_IDENTITY_HEADER])
        return v[AZRI_ENV_IDENTITY_THUMBPRINT] ? AZRI_MI_FABRIC : AZRI_MI_APP;
    if (v[AZRI_ENV_MSI_ENDPOINT]) return v[AZRI_ENV_MSI_SECRET] ? AZRI_MI_ML : AZRI_MI_SHELL;
    if ((v[AZRI_ENV_IDENTITY_ENDPOINT] && v[AZRI_ENV_IMDS_ENDPOINT]) || env->arc_agent) return AZRI_MI_ARC;
    return AZRI_MI_IMDS;
}

static const azri_managed *azri_managed_of(const azri_flow *f) { return &azri_manageds[f->variant]; }

/* What its header has to say, or "". Secret. */
static azredis_str azri_managed_secret(const azri_flow *f) {
    int at = azri_managed_of(f)->secret;
    if (f->stage == AZRI_MI_ANSWER) return azri_slice(f->proof.ptr, f->proof.len);
    return azri_str(at == AZRI_ENV_COUNT ? "" : f->env->value[at]);
}

/* A pod of AKS with workload identity: IMDS would answer for its node, which is another identity. SDKs that take a
 * workload identity for a managed one do it here; who names an identity to us gets that or an error. */
static azredis_status azri_managed_not_the_node(azri_flow *f) {
    char *const *v = f->env->value;
    if (!v[AZRI_ENV_TENANT_ID] || !v[AZRI_ENV_CLIENT_ID] || !v[AZRI_ENV_FEDERATED_TOKEN_FILE]) return AZREDIS_OK;
    return azri_flow_fail(f, f->in_chain ? AZREDIS_E_NO_CREDENTIAL : AZREDIS_E_ARG,
                          "AZURE_FEDERATED_TOKEN_FILE is set: this "
                          "pod has a workload identity, and IMDS would give its node's; take the identity "
                          "workload-identity, or unset the variable");
}

/* An option's; in the chain AZURE_CLIENT_ID's, which as in the SDKs means nothing to who asks for managed identity by name;
 * in Azure ML the workspace's default; else the machine's own. */
static azredis_status azri_managed_whose(azri_flow *f) {
    static const char *const kinds[AZRI_BYS] = { "client id", "object id", "resource id" };
    const azri_managed *m = azri_managed_of(f);
    int from = AZRI_ENV_COUNT;
    f->wanted = azri_identity_managed_id(f->conf, &f->by);
    if (!f->wanted && f->conf->identity == AZREDIS_ID_DEFAULT && f->env->value[AZRI_ENV_CLIENT_ID])
        from = AZRI_ENV_CLIENT_ID;
    else if (!f->wanted && f->variant == AZRI_MI_ML) from = AZRI_ENV_ML_CLIENT_ID;
    if (from != AZRI_ENV_COUNT) f->wanted = f->env->value[from];
    if (!f->wanted) return AZREDIS_OK;
    if (from != AZRI_ENV_COUNT &&
        azri_identity_check_app(NULL, f->wanted, azri_env_names[from], &f->error) != AZREDIS_OK)
        return AZREDIS_E_ARG;
    if (m->by[f->by]) return AZREDIS_OK;
    return azri_flow_fail(f, AZREDIS_E_ARG, "%s cannot be asked for an identity by its %s; unset %s%s", m->name,
                          kinds[f->by], from == AZRI_ENV_COUNT ? "the option" : azri_env_names[from],
                          m->by[AZRI_BY_CLIENT] ? " and give its client id" : "");
}

/* This machine, its link (RFC 3927, RFC 4291 2.5.6), a private network (RFC 1918, RFC 4193): App Service gives its
 * containers 169.254.x.x and 172.16.x.x. */
static int azri_managed_is_near(azredis_str host) {
    uint8_t ip[16];
    size_t n = azri_ip_parse(host, ip);
    if (n == 4)
        return ip[0] == 127 || ip[0] == 10 || (ip[0] == 172 && (ip[1] & 0xf0) == 16) ||
               (ip[0] == 192 && ip[1] == 168) || (ip[0] == 169 && ip[1] == 254);
    if (n == 16 && ((ip[0] & 0xfe) == 0xfc || (ip[0] == 0xfe && (ip[1] & 0xc0) == 0x80))) return 1;
    return azri_is_loopback(host);
}

static azredis_status azri_managed_endpoint(azri_flow *f) {
    static const char tail[] = "/metadata/identity/oauth2/token";
    const azri_managed *m = azri_managed_of(f);
    const char *given = f->env->value[m->endpoint], *where = azri_env_names[m->endpoint];
    azri_url *u = &f->authority;
    azredis_status st = azri_url_parse(u, azri_str(given ? given : m->fixed), where, &f->error);
    if (st != AZREDIS_OK) return st;
    if (f->variant == AZRI_MI_FABRIC && !u->tls)
        return azri_identity_bad(&f->error, where, "Service Fabric's endpoint gets a secret, so it must be https");
    if (f->variant != AZRI_MI_IMDS && !u->tls && !azri_managed_is_near(azri_str(u->host)))
        return azri_identity_bad(&f->error, where, "without TLS the endpoint must be localhost, or an address of this "
                                 "machine, its link or a private network");
    if (f->variant != AZRI_MI_IMDS) return AZREDIS_OK;
    if (!azri_eqz(azri_str(u->path), "/"))
        return azri_identity_bad(&f->error, where, "it must be http://host or http://host:port");
    memcpy(u->path, tail, sizeof tail);
    return AZREDIS_OK;
}

/* It goes into a header line. */
static azredis_status azri_managed_check_secret(azri_flow *f) {
    azredis_str s = azri_managed_secret(f);
    size_t i;
    for (i = 0; i < s.len && s.ptr[i] >= ' ' && s.ptr[i] <= '~'; i++) {}
    if (i == s.len) return AZREDIS_OK;
    return azri_identity_bad(&f->error, azri_env_names[azri_managed_of(f)->secret],
                             "it holds a line end or another character that no header may have");
}

/* The SHA-1 of Service Fabric's certificate, as 40 digits into f->proof. It stands for chain and name in >>tls, and only
 * here: the cluster makes that certificate for itself. */
static azredis_status azri_managed_pin(azri_flow *f) {
    const char *z = f->env->value[AZRI_ENV_IDENTITY_THUMBPRINT];
    char hex[AZRI_PIN_DIGITS + 1];
    size_t n = 0;
    for (; *z; z++) {
        if (*z == ':' || *z == ' ' || *z == '\t') continue;
        if (n == AZRI_PIN_DIGITS || azri_hex(*z) < 0) break;
        hex[n++] = azri_lower(*z);
    }
    hex[n] = '\0';
    if (*z || n != AZRI_PIN_DIGITS)
        return azri_identity_bad(&f->error, azri_env_names[AZRI_ENV_IDENTITY_THUMBPRINT],
                                 "it must be the SHA-1 of a certificate, 40 hexadecimal digits");
    if (azri_buf_add(&f->proof, hex, sizeof hex) == AZREDIS_OK) return AZREDIS_OK;
    return azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for the thumbprint");
}

static azredis_str azri_managed_resource(const azri_flow *f) {
    return azri_identity_resource(f->resource ? f->resource : f->conf->scope);
}

/* Puts the question behind the URL's path, which may have a query of its own. */
static azredis_status azri_managed_query(azri_flow *f) {
    const azri_managed *m = azri_managed_of(f);
    azri_url *u = &f->authority;
    azredis_str path = azri_str(u->path);
    azri_buf b;
    azri_buf_init(&b, f->mem, sizeof u->path - 1, 0);
    azri_buf_put(&b, path);
    azri_buf_puts(&b, azri_find(path, '?') < path.len ? "&" : "?");
    azri_http_put_field(&b, "api-version=", azri_str(m->version));
    azri_http_put_field(&b, "&resource=", azri_managed_resource(f));
    if (f->wanted) azri_http_put_field(&b, m->by[f->by], azri_str(f->wanted));
    azredis_status st = b.status;
    if (st == AZREDIS_OK) {
        memcpy(u->path, b.ptr, b.len);
        u->path[b.len] = '\0';
    }
    azri_buf_free(&b);
    if (st == AZREDIS_E_LIMIT)
        return azri_flow_fail(f, AZREDIS_E_ARG, "the URL of endpoint, scope and identity has more than 1023 bytes");
    return st == AZREDIS_OK ? st : azri_flow_fail(f, st, "no memory for the request");
}

/* ---- asking ---- */

/* In a chain, and what is at that address may not be Azure's. */
static int azri_managed_unproven(const azri_flow *f) {
    return f->variant == AZRI_MI_IMDS && f->in_chain && !f->met;
}

/* A stand-in for IMDS that a variable names is there: it has the time that it needs. */
static int azri_managed_probing(const azri_flow *f) {
    return azri_managed_unproven(f) && !f->env->value[AZRI_ENV_POD_AUTHORITY];
}

/* With a NUL. */
static azredis_status azri_managed_headers(azri_flow *f, azri_buf *b) {
    const azri_managed *m = azri_managed_of(f);
    azredis_str secret = azri_managed_secret(f);
    azri_flow_new_id(f);
    azri_buf_puts(b, m->metadata ? "Metadata: true\r\n" : "");
    azri_buf_puts(b, "User-Agent: azredis-entra/" AZREDIS_VERSION_TEXT "\r\nx-ms-client-request-id: ");
    azri_buf_puts(b, f->request_id);
    if (secret.len) {
        azri_buf_puts(b, "\r\n");
        azri_buf_puts(b, m->header);
        azri_buf_put(b, secret);
    }
    azri_buf_put(b, azri_slice("\r\n", 3));
    return b->status;
}

static azredis_status azri_managed_request(azri_flow *f, azri_step *step) {
    azri_buf headers, form;
    azri_buf_init(&headers, f->mem, AZRI_FORM_MAX, 1);
    azri_buf_init(&form, f->mem, AZRI_FORM_MAX, 0);
    azredis_status st = azri_managed_headers(f, &headers);
    if (f->variant == AZRI_MI_SHELL) azri_http_put_field(&form, "resource=", azri_managed_resource(f));
    if (st == AZREDIS_OK) st = form.status;
    if (st == AZREDIS_OK)
        st = azri_http_request(&step->request, &step->url, headers.ptr, azri_slice(form.ptr, form.len));
    azri_buf_free(&headers);
    azri_buf_free(&form);
    return st;
}

static azredis_status azri_managed_ask(azri_flow *f, azri_step *step) {
    int probing = azri_managed_probing(f);
    if (f->stage == AZRI_MI_FILE) {
        step->kind = AZRI_STEP_FILE;
        step->file = f->proof.ptr;
        step->directory = AZRI_ARC_DIRECTORY;
        step->file_max = AZRI_ARC_KEY_MAX;
        return AZREDIS_OK;
    }
    step->kind = AZRI_STEP_HTTP;
    step->url = f->authority;
    step->connect_ms = probing ? AZRI_PROBE_CONNECT_MS : AZRI_NEAR_CONNECT_MS;
    step->timeout_ms = (uint32_t)azri_min64(step->timeout_ms, probing ? AZRI_PROBE_MS : AZRI_NEAR_MS);
    if (f->variant == AZRI_MI_FABRIC) step->pin = f->proof.ptr;
    f->header = f->variant == AZRI_MI_ARC && f->stage == AZRI_MI_ASK ? "WWW-Authenticate" : NULL;
    return azri_managed_request(f, step);
}

/* ---- what it says ---- */

/* Whose token it is, and the endpoints' own ways to say no. */
static void azri_managed_value(azri_flow *f, int depth, azredis_str parent, azredis_str key, int type,
                               azredis_str text) {
    azri_answer *a = &f->answer;
    int named = f->by == AZRI_BY_CLIENT   ? azri_eqz(key, "client_id")
                : f->by == AZRI_BY_OBJECT ? azri_eqz(key, "object_id")
                                          : azri_eqz(key, "msi_res_id") || azri_eqz(key, "mi_res_id");
    if (f->wanted && depth == 1 && type == AZRI_JSON_STRING && named)
        a->same = azri_ieqz(text, f->wanted) && a->same >= 0 ? 1 : -1;
    if (f->variant == AZRI_MI_IMDS || f->variant == AZRI_MI_ARC) return;
    if (depth == 1 && azri_eqz(key, "statusCode")) azri_answer_cut(a->error, sizeof a->error, azri_str("error"));
    if (type != AZRI_JSON_STRING || depth > 2 || (depth == 2 && !azri_eqz(parent, "error"))) return;
    if (depth == 2 && azri_eqz(key, "code")) azri_answer_cut(a->error, sizeof a->error, text);
    if (azri_eqz(key, "message")) azri_answer_cut(a->about, sizeof a->about, text);
    if (azri_eqz(key, "correlationId") && azri_identity_clean(text, "-", sizeof a->request_id - 1))
        azri_jwt_text(a->request_id, sizeof a->request_id, text);
}

static azredis_status azri_managed_begin(azri_flow *f) {
    azredis_status st = AZREDIS_OK;
    f->variant = azri_managed_detect(f->env);
    f->value = azri_managed_value;
    if (f->variant == AZRI_MI_IMDS) st = azri_managed_not_the_node(f);
    if (st == AZREDIS_OK) st = azri_managed_whose(f);
    if (st == AZREDIS_OK) st = azri_managed_endpoint(f);
    if (st == AZREDIS_OK) st = azri_managed_check_secret(f);
    if (st == AZREDIS_OK && f->variant == AZRI_MI_FABRIC) st = azri_managed_pin(f);
    if (st == AZREDIS_OK && f->variant != AZRI_MI_SHELL) st = azri_managed_query(f);
    return st;
}

/* Is word somewhere in text? In any case. */
static int azri_managed_holds(const char *text, size_t n, const char *word) {
    size_t i, k = strlen(word);
    for (i = 0; i + k <= n; i++)
        if (azri_ieqz(azri_slice(text + i, k), word)) return 1;
    return 0;
}

/* "Identity not found", "No User Assigned or Delegated Managed Identity found", "ManagedIdentityNotFound". */
static int azri_managed_no_such(const azri_flow *f, int status) {
    const azri_answer *a = &f->answer;
    if (status != (f->variant == AZRI_MI_FABRIC ? 404 : 400)) return 0;
    return azri_managed_holds(a->error, strlen(a->error), "IdentityNotFound") ||
           azri_managed_holds(a->about, strlen(a->about), "Identity not found") ||
           azri_managed_holds(a->about, strlen(a->about), "Identity found");
}

static int azri_managed_unreachable(const azri_answer *a, int status) {
    return status == 403 && azri_managed_holds(a->raw, (size_t)a->raw_len, "unreachable");
}

/* What it says was wrong. A 200 may hold a token: not quoted. */
static void azri_managed_quote(azri_flow *f, int status) {
    const azri_answer *a = &f->answer;
    char text[AZRI_PEER_TEXT + 1];
    azredis_str secret = azri_managed_secret(f);
    if (a->error[0]) {
        azri_fail_add(&f->error, ", %s", azri_quote(text, sizeof a->error, a->error, strlen(a->error), secret));
        if (a->about[0])
            azri_fail_add(&f->error, ": %s", azri_quote(text, sizeof text, a->about, strlen(a->about), secret));
    } else if (status == 200)
        azri_fail_add(&f->error, " without a token: %s", a->raw_len && a->raw[0] == '<' ? "HTML (a captive portal?)"
                      : f->json_status == AZREDIS_OK ? "no access_token in it" : "not JSON");
    else if (a->raw_len)
        azri_fail_add(&f->error, ": %s", azri_quote(text, sizeof text, a->raw, (size_t)a->raw_len, secret));
}

/* NULL: none is known. */
static const char *azri_managed_mend(const azri_flow *f, int status) {
    if (azri_managed_no_such(f, status))
        return f->variant == AZRI_MI_FABRIC ? "the application's manifest gives this service no identity"
             : f->wanted && f->wanted == f->env->value[AZRI_ENV_CLIENT_ID] ? "the identity of AZURE_CLIENT_ID is not assigned here: "
               "assign it, or unset the variable to get the machine's own"
             : f->wanted ? "the identity that was asked for is not assigned here: assign it, or mend its id"
             : f->env->value[AZRI_ENV_CLIENT_ID] ? "switch on the system-assigned identity, or name another by an option: "
               "AZURE_CLIENT_ID counts in the default chain"
             : "switch on the system-assigned identity, or name another";
    if (azri_managed_unreachable(&f->answer, status)) return "this is Docker Desktop's proxy, not Azure";
    if (f->stage == AZRI_MI_ANSWER && status == 401) return "the agent does not take its own key: restart himds";
    if ((status == 401 || status == 403) && azri_managed_of(f)->secret != AZRI_ENV_COUNT)
        return "the platform has changed its variables: start the program with the present ones";
    if (status == 410) return "it is being updated, which takes up to 70 s";
    return status == 429 ? "it is asked too often: share one azredis_auth" : NULL;
}

/* Which service answered what. */
static void azri_managed_say(azri_flow *f, const azri_http *h) {
    const char *mend = azri_managed_mend(f, h->status);
    (void)azri_flow_fail(f, f->answer.error[0] ? AZREDIS_E_ENTRA : h->status == 200 ? AZREDIS_E_JSON : AZREDIS_E_HTTP,
                         "%s at %s:%u answered HTTP %d", azri_managed_of(f)->name, f->authority.host,
                         (unsigned)f->authority.port, h->status);
    azri_managed_quote(f, h->status);
    if (mend) azri_fail_add(&f->error, "; %s", mend);
    f->error.http_status = h->status;
    f->error.retry_after_ms = h->retry_after_ms;
    memcpy(f->error.request_id, f->answer.request_id[0] ? f->answer.request_id : f->request_id,
           sizeof f->error.request_id);
}

/* ---- what to do about it ---- */

/* NULL: it would not help. */
static const azri_retry *azri_managed_retry(const azri_flow *f, int status) {
    if (f->variant == AZRI_MI_IMDS) {
        if (status == 410) return &azri_retry_updated;
        return status == 404 || status == 408 || status == 429 || status >= 500 ? &azri_retry_imds : NULL;
    }
    return status == 408 || status == 429 || status == 500 || (status >= 502 && status <= 504) ? &azri_retry_near
                                                                                               : NULL;
}

/* A key of Azure Arc's is good for one question: it begins again, with the tries that are left. */
static void azri_managed_again(azri_flow *f, uint64_t now, const azri_retry *r) {
    if (f->variant == AZRI_MI_ARC) azri_buf_free(&f->proof);
    f->stage = AZRI_MI_ASK;
    azri_flow_again(f, now, r);
}

/* Others (EC2, GCE) have a metadata service at the same address, and their own ways to say no. */
static void azri_managed_foreign(azri_flow *f, uint64_t now, azredis_status st, int status) {
    (void)azri_flow_fail(f, st, "another metadata service answered at %s:%u, or a proxy (HTTP %d, not in Azure's form)",
                         f->authority.host, (unsigned)f->authority.port, status);
    f->error.http_status = status;
    f->error.retryable = st == AZREDIS_E_JSON || status >= 500;     /* a captive portal, a gateway */
    azri_flow_unavailable(f, now);
}

static void azri_managed_refused(azri_flow *f, uint64_t now, const azri_http *h) {
    int none = azri_managed_unreachable(&f->answer, h->status) || (azri_managed_no_such(f, h->status) && !f->wanted);
    const azri_retry *r = azri_managed_retry(f, h->status);
    azri_managed_say(f, h);
    f->error.retryable = r != NULL || h->status == 200;
    if (none && f->in_chain && f->variant == AZRI_MI_IMDS) azri_flow_unavailable(f, now);
    else azri_managed_again(f, now, r);
}

/* An older agent of Azure Arc passes over the id that it was asked for and gives the machine's own token: its answer must
 * name that id. Elsewhere it may, and the token tells. */
static azredis_status azri_managed_check_whose(azri_flow *f) {
    const char *is = f->by == AZRI_BY_CLIENT ? f->claims.appid : f->by == AZRI_BY_OBJECT ? f->claims.oid : "";
    int same = f->answer.same;
    if (!f->wanted) return AZREDIS_OK;
    azri_json_free(&f->json);              /* the answer has been read; the token's claims are next */
    if (AZRI_WITH_CLAIMS && azri_jwt_claims(azri_slice(f->token.ptr, f->token.len), f->mem, &f->json, &f->claims,
                                            &f->error) == AZREDIS_E_NOMEM)
        return AZREDIS_E_NOMEM;
    if (is[0] && !azri_ieqz(azri_str(is), f->wanted)) same = -1;
    if (same > 0 || (same == 0 && f->variant != AZRI_MI_ARC)) return AZREDIS_OK;
    return azri_flow_fail(f, AZREDIS_E_TOKEN, "%s gave a token %s", azri_managed_of(f)->name,
                          same < 0 ? "of another identity than the one that was asked for, which is refused"
                                   : "without saying whose, which is refused; its agent is too old to be asked for a "
                                     "user-assigned identity: update it");
}

/* NULL, and *name is the file's of "Basic realm=/var/opt/azcmagent/tokens/NAME.key"; or what is wrong with it. Text alone
 * decides, before anything is opened: who listens on that port must not make us read another file. */
static const char *azri_arc_name(azredis_str challenge, azredis_str *name) {
    azredis_str directory = azri_str(AZRI_ARC_DIRECTORY), path = challenge;
    if (!challenge.len) return "without a challenge (WWW-Authenticate)";
    if (!azri_scan_word(&path, "Basic ")) return "with a challenge that is not Basic";
    while (azri_scan_char(&path, ' ')) {}
    if (!azri_scan_word(&path, "realm=")) return "with a challenge that names no file";
    if (path.len > 1 && path.ptr[0] == '"' && path.ptr[path.len - 1] == '"')
        path = azri_slice(path.ptr + 1, path.len - 2);
    if (path.len <= directory.len || !azri_eq(azri_slice(path.ptr, directory.len), directory) ||
        path.ptr[directory.len] != '/')
        return "with a challenge whose file is in another directory";
    *name = azri_from(path, directory.len + 1);
    if (azri_identity_clean(*name, "-._", AZRI_ARC_NAME_MAX) && azri_ends_with(*name, ".key")) return NULL;
    return "with a challenge whose file is no NAME.key of letters, digits, '-', '_' and '.'";
}

static void azri_managed_challenged(azri_flow *f, uint64_t now, const azri_http *h) {
    azredis_str name = azri_slice(NULL, 0);
    const char *why = h->status == 401 ? azri_arc_name(azri_slice(f->proof.ptr, f->proof.len), &name)
                    : "and gave a token that it had not asked a proof for";
    if (!why) {
        memmove(f->proof.ptr, name.ptr, name.len);
        f->proof.ptr[name.len] = '\0';
        f->proof.len = name.len;
        azri_flow_part(f, AZRI_MI_FILE);
        return;
    }
    (void)azri_flow_fail(f, f->answer.error[0] ? AZREDIS_E_ENTRA : AZREDIS_E_HTTP, "Azure Arc at %s:%u answered HTTP "
                         "%d %s, but it must be a key file in %s; is it himds that listens there?", f->authority.host,
                         (unsigned)f->authority.port, h->status, why, AZRI_ARC_DIRECTORY);
    f->error.http_status = h->status;
    f->error.retryable = 0;
    azri_flow_failed(f, now);
}

/* The key of a challenge was read, or not. */
static void azri_managed_text(azri_flow *f, uint64_t now, azredis_status st, azredis_str s) {
    size_t i;
    if (st != AZREDIS_OK) {
        if (f->error.os_errno == AZRI_EACCES)
            azri_fail_add(&f->error, "; the program's user must be in the group himds (usermod -aG himds USER)");
        azri_flow_failed(f, now);
        return;
    }
    if (s.len && s.ptr[s.len - 1] == '\n') s.len--;
    if (s.len && s.ptr[s.len - 1] == '\r') s.len--;
    for (i = 0; i < s.len && s.ptr[i] > ' ' && s.ptr[i] <= '~'; i++) {}
    azri_buf_free(&f->proof);
    if (s.len == 0 || i < s.len)
        (void)azri_flow_fail(f, AZREDIS_E_TOKEN, "Azure Arc's key file is empty, or holds a blank, a line end or "
                             "another character that no key has");
    else if (azri_buf_add(&f->proof, s.ptr, s.len) != AZREDIS_OK)
        (void)azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for Azure Arc's key");
    else {
        azri_flow_part(f, AZRI_MI_ANSWER);
        return;
    }
    azri_flow_failed(f, now);
}

static void azri_managed_http(azri_flow *f, uint64_t now, const azri_http *h) {
    azri_answer *a = &f->answer;
    int token = f->json_status == AZREDIS_OK && h->status == 200 && !a->error[0] && f->token.len;
    if (f->json_status == AZREDIS_E_NOMEM) {
        (void)azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for the answer");
        azri_flow_failed(f, now);
        return;
    }
    if (azri_managed_unproven(f) && (f->json_status != AZREDIS_OK || !(a->error[0] || f->token.len))) {
        azri_managed_foreign(f, now, h->status == 200 ? AZREDIS_E_JSON : AZREDIS_E_HTTP, h->status);
        return;
    }
    f->met = 1;
    if (f->variant == AZRI_MI_ARC && f->stage == AZRI_MI_ASK && (h->status == 401 || token))
        azri_managed_challenged(f, now, h);
    else if (!token) azri_managed_refused(f, now, h);
    else if (azri_managed_check_whose(f) != AZREDIS_OK) azri_flow_failed(f, now);
    else if (f->exchange) f->exchange(f, now);
    else azri_flow_accept(f, now, h->date);
}

/* No answer, or one that is no HTTP, is too long, or points elsewhere. */
static void azri_managed_net(azri_flow *f, uint64_t now) {
    azredis_error was = f->error;
    int passes = azri_flow_net_passes(was.code);
    if (azri_managed_unproven(f) && (was.code == AZREDIS_E_HTTP || was.code == AZREDIS_E_LIMIT)) {
        azri_managed_foreign(f, now, was.code, was.http_status);
        return;
    }
    (void)azri_flow_fail(f, was.code, "%s", azri_managed_of(f)->name);
    if (!azri_managed_holds(was.message, strlen(was.message), f->authority.host))
        azri_fail_add(&f->error, " at %s:%u", f->authority.host, (unsigned)f->authority.port);
    azri_fail_add(&f->error, ": %s", was.message);
    if (f->variant == AZRI_MI_IMDS && passes && !f->in_chain)
        azri_fail_add(&f->error, "; is this a machine of Azure's, and may this container reach its metadata service?");
    f->error.os_errno = was.os_errno;
    f->error.tls_code = was.tls_code;
    f->error.http_status = was.http_status;
    f->error.retryable = passes || was.code == AZREDIS_E_NOMEM;
    if (passes && azri_managed_probing(f)) azri_flow_unavailable(f, now);
    else azri_managed_again(f, now, !passes ? NULL : f->variant == AZRI_MI_IMDS ? &azri_retry_imds : &azri_retry_near);
}
#endif

/* ==== >>federated ========================================================= uses: core mem fail text http identity flow app managed ==
 * Applications without a secret: an assertion, a JWT of somebody whom the application trusts (a federated credential,
 * RFC 7523), stands in its place. It comes from a callback of yours, from the file that Kubernetes keeps fresh or from
 * the machine's managed identity, is got anew for each token, and is never kept.
 * ================================================================================================ */

/* The last stage of these sources, which asks Entra; those before it, from 0, get the assertion. */
enum { AZRI_FEDERATED_ASK = 100 };

#if !defined(AZREDIS_NO_ASSERTION) || !defined(AZREDIS_NO_WORKLOAD) || !defined(AZREDIS_NO_MANAGED)
/* Three parts in base64url, none of them empty (RFC 7515 7.1). Anything else is a slip, such as a file of another
 * purpose, and would be a secret told to the authority. */
static int azri_assertion_is_jwt(azredis_str s) {
    size_t i, part = 0, parts = 0;
    for (i = 0; i <= s.len; i++) {
        if (i == s.len || s.ptr[i] == '.') {
            if (part == 0) return 0;
            part = 0;
            parts++;
        } else if (azri_is_alnum(s.ptr[i]) || s.ptr[i] == '-' || s.ptr[i] == '_') part++;
        else return 0;
    }
    return parts == 3;
}
#endif

#if !defined(AZREDIS_NO_ASSERTION) || !defined(AZREDIS_NO_WORKLOAD) || !defined(AZREDIS_NO_MANAGED) || AZRI_WITH_CERTIFICATE
/* Entra finds that the time of the assertion has passed, or has not come. */
static int azri_assertion_is_stale(int code) { return code == 700024 || code == 50013 || code == 500133; }

/* A stale assertion is got anew and tried once more: the file may have been changed just now, the callback may have
 * given what it had kept. All else is as with a secret. A federated credential that Entra does not know, or not yet
 * (70021, 7002xx), is refused at once, for it may never; the pause between two walks gives it the time it may need. */
static void azri_assertion_judge(azri_flow *f, uint64_t now, const azri_http *h) {
    if (f->renewed || f->json_status != AZREDIS_OK || !azri_assertion_is_stale(azri_flow_code(f))) {
        azri_flow_judge(f, now, h);
        return;
    }
    f->renewed = 1;
    azri_buf_free(&f->proof);
    if (f->source->begin(f) == AZREDIS_OK) azri_flow_stage(f, 0);
    else azri_flow_failed(f, now);
}
#endif

/* ---- from a callback ---- */

#ifndef AZREDIS_NO_ASSERTION
static azredis_status azri_assertion_begin(azri_flow *f) {
    return azri_app_begin(f, f->conf->tenant_id, f->conf->client_id, "client-assertion");
}

static azredis_status azri_assertion_ask(azri_flow *f, azri_step *step) {
    if (f->stage == AZRI_FEDERATED_ASK) return azri_app_ask(f, step);
    step->kind = AZRI_STEP_CALL;
    step->call = f->conf->get_assertion;
    step->call_user = f->conf->get_assertion_user;
    return AZREDIS_OK;
}

static void azri_assertion_call(azri_flow *f, uint64_t now, azredis_status st, const azredis_fetched *got) {
    st = azri_flow_take_call(f, &f->proof, st, got);
    if (st == AZREDIS_OK && !azri_assertion_is_jwt(azri_slice(f->proof.ptr, f->proof.len)))
        st = azri_flow_fail(f, AZREDIS_E_TOKEN, "the callback wrote no assertion: a JWT has three parts of letters, "
                            "digits, - and _ with dots between, and nothing else");
    if (st == AZREDIS_OK) azri_flow_stage(f, AZRI_FEDERATED_ASK);
    else azri_flow_failed(f, now);
}
#endif

/* ---- from a file: workload identity ---- */

#ifndef AZREDIS_NO_WORKLOAD
#define AZRI_WORKLOAD_FILE_MAX 65536u   /* a service account's token has 1 to 2 KB, a bundle of roots of this cluster 4 */

enum { AZRI_WORKLOAD_FILE, AZRI_WORKLOAD_ROOTS };

/* What it needs: an option, or the variable that the webhook of AKS sets. */
typedef struct azri_workload_need { int env; uint16_t option; const char *name; } azri_workload_need;
#define AZRI_WORKLOAD_NEED(env, member) { env, (uint16_t)offsetof(azredis_auth_options, member), #member }
static const azri_workload_need azri_workload_needs[] = {
    AZRI_WORKLOAD_NEED(AZRI_ENV_TENANT_ID, tenant_id),
    AZRI_WORKLOAD_NEED(AZRI_ENV_CLIENT_ID, client_id),
    AZRI_WORKLOAD_NEED(AZRI_ENV_FEDERATED_TOKEN_FILE, federated_token_file)
};
enum { AZRI_WORKLOAD_TENANT, AZRI_WORKLOAD_CLIENT, AZRI_WORKLOAD_PATH, AZRI_WORKLOAD_NEEDS };

static const char *azri_workload_option(const azri_flow *f, int need) {
    const char *z;
    memcpy(&z, (const char *)f->conf + azri_workload_needs[need].option, sizeof z);
    return z;
}

static const char *azri_workload_value(const azri_flow *f, int need) {
    const char *z = azri_workload_option(f, need);
    return z ? z : f->env->value[azri_workload_needs[need].env];
}

/* Names options and variables, never their values. */
static azredis_status azri_workload_lacks(azri_flow *f) {
    int i, by_option, found = 0, missing = 0;
    azri_flow_fail_code(f, AZREDIS_E_NO_CREDENTIAL);
    for (i = 0; i < AZRI_WORKLOAD_NEEDS; i++) {
        by_option = azri_workload_option(f, i) != NULL;
        if (azri_workload_value(f, i))
            azri_fail_add(&f->error, "%s%s%s", found++ ? ", " : "found ", by_option ? "option " : "",
                          by_option ? azri_workload_needs[i].name : azri_env_names[azri_workload_needs[i].env]);
    }
    if (found) azri_fail_add(&f->error, "; ");
    for (i = 0; i < AZRI_WORKLOAD_NEEDS; i++)
        if (!azri_workload_value(f, i))
            azri_fail_add(&f->error, "%s%s", missing++ ? ", " : "missing ", azri_env_names[azri_workload_needs[i].env]);
    if (!f->in_chain) azri_fail_add(&f->error, "; label the pod azure.workload.identity/use=true, or set the options");
    return AZREDIS_E_NO_CREDENTIAL;
}

/* ---- the token endpoint of an AKS identity binding: credentials of the cluster, asked only where an option says so ---- */

/* Its URL; NULL: the authority itself is asked. */
static const char *azri_workload_proxy(const azri_flow *f) {
    return f->conf->kubernetes_proxy ? f->env->value[AZRI_ENV_TOKEN_PROXY] : NULL;
}

static int azri_workload_has_roots(azredis_str pem) {
    return azri_find_text(pem, azri_str("-----BEGIN CERTIFICATE-----")) < pem.len;
}

static azredis_status azri_workload_bad(azri_flow *f, int env, const char *text) {
    return azri_fail(&f->error, AZREDIS_E_ARG, azri_env_names[env], "%s: %s", azri_env_names[env], text);
}
#define azri_workload_bad(f, env, text) azri_workload_bad(f, env, AZRI_TEXT(text))

/* The variables, before a file is opened or a socket. */
static azredis_status azri_workload_check_proxy(azri_flow *f) {
    char *const *v = f->env->value;
    const char *sni = v[AZRI_ENV_TOKEN_PROXY_SNI], *data = v[AZRI_ENV_TOKEN_PROXY_CA_DATA];
    azri_url u;
    azredis_status st;
    if (!f->conf->kubernetes_proxy) return AZREDIS_OK;
    if (!v[AZRI_ENV_TOKEN_PROXY]) {
        if (!sni && !data && !v[AZRI_ENV_TOKEN_PROXY_CA_FILE]) return AZREDIS_OK;
        return azri_workload_bad(f, AZRI_ENV_TOKEN_PROXY, "it is not set, but AZURE_KUBERNETES_CA_FILE, _CA_DATA or "
                                 "_SNI_NAME is; set it, or none of them");
    }
    st = azri_url_parse(&u, azri_str(v[AZRI_ENV_TOKEN_PROXY]), azri_env_names[AZRI_ENV_TOKEN_PROXY], &f->error);
    if (st != AZREDIS_OK) return st;
    if (!u.tls) return azri_workload_bad(f, AZRI_ENV_TOKEN_PROXY, "it gets the assertion, so it must be https");
    if (azri_find(azri_str(u.path), '?') < strlen(u.path))
        return azri_workload_bad(f, AZRI_ENV_TOKEN_PROXY, "it has a query ('?'); give https://host:port/path");
    if (data && v[AZRI_ENV_TOKEN_PROXY_CA_FILE])
        return azri_workload_bad(f, AZRI_ENV_TOKEN_PROXY_CA_DATA,
                                 "AZURE_KUBERNETES_CA_FILE is set too; set one of them");
    if (data && !azri_workload_has_roots(azri_str(data)))
        return azri_workload_bad(f, AZRI_ENV_TOKEN_PROXY_CA_DATA, "it holds no certificate in PEM");
    if (sni && !azri_is_hostname(azri_str(sni)))
        return azri_workload_bad(f, AZRI_ENV_TOKEN_PROXY_SNI, "it is no host name");
    return AZREDIS_OK;
}

static azredis_status azri_workload_ask_proxy(azri_flow *f, azri_step *step) {
    const char *data = f->env->value[AZRI_ENV_TOKEN_PROXY_CA_DATA];
    azredis_status st =
        azri_url_parse(&step->url, azri_str(azri_workload_proxy(f)), azri_env_names[AZRI_ENV_TOKEN_PROXY], &f->error);
    step->name = f->env->value[AZRI_ENV_TOKEN_PROXY_SNI];
    step->ca = data ? azri_str(data) : azri_slice(f->roots.ptr, f->roots.len);
    return st == AZREDIS_OK ? azri_app_request(f, step) : st;
}

/* ---- the walk ---- */

static azredis_status azri_workload_begin(azri_flow *f) {
    azredis_status st;
    for (int i = 0; i < AZRI_WORKLOAD_NEEDS; i++)
        if (!azri_workload_value(f, i)) return azri_workload_lacks(f);
    st = azri_app_begin(f, azri_workload_value(f, AZRI_WORKLOAD_TENANT), azri_workload_value(f, AZRI_WORKLOAD_CLIENT),
                        f->source->name);
    return st == AZREDIS_OK ? azri_workload_check_proxy(f) : st;
}

static azredis_status azri_workload_ask(azri_flow *f, azri_step *step) {
    int roots = f->stage == AZRI_WORKLOAD_ROOTS;
    if (f->stage == AZRI_FEDERATED_ASK)
        return azri_workload_proxy(f) ? azri_workload_ask_proxy(f, step) : azri_app_ask(f, step);
    step->kind = AZRI_STEP_FILE;
    step->file = roots ? f->env->value[AZRI_ENV_TOKEN_PROXY_CA_FILE] : azri_workload_value(f, AZRI_WORKLOAD_PATH);
    step->file_max = AZRI_WORKLOAD_FILE_MAX;
    return AZREDIS_OK;
}

static azredis_status azri_workload_keep(azri_flow *f, azri_buf *b, azredis_str text) {
    b->len = 0;
    return azri_buf_add(b, text.ptr, text.len) == AZREDIS_OK
               ? AZREDIS_OK
               : azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for a file");
}

/* Empty while somebody writes it anew, which passes. No roots of an earlier walk are kept that could be taken instead. */
static void azri_workload_roots(azri_flow *f, uint64_t now, azredis_str text) {
    azredis_status st = azri_workload_keep(f, &f->roots, text);
    if (st == AZREDIS_OK && azri_workload_has_roots(text)) {
        azri_flow_stage(f, AZRI_FEDERATED_ASK);
        return;
    }
    if (st == AZREDIS_OK) {
        (void)azri_fail(&f->error, AZREDIS_E_CERT, azri_env_names[AZRI_ENV_TOKEN_PROXY_CA_FILE],
                        "%s: %s holds no certificate in PEM", azri_env_names[AZRI_ENV_TOKEN_PROXY_CA_FILE],
                        f->env->value[AZRI_ENV_TOKEN_PROXY_CA_FILE]);
        f->error.retryable = 1;
    }
    azri_flow_again(f, now, st == AZREDIS_OK ? &azri_retry_sts : NULL);
}

/* A file was read. The assertion first, then the roots of the proxy, if a file has them. */
static void azri_workload_text(azri_flow *f, uint64_t now, azredis_status st, azredis_str text) {
    const char *path = azri_workload_value(f, AZRI_WORKLOAD_PATH);
    if (st == AZREDIS_OK && f->stage == AZRI_WORKLOAD_ROOTS) {
        azri_workload_roots(f, now, text);
        return;
    }
    text = azri_flow_trim(text);
    if (st == AZREDIS_OK && !azri_assertion_is_jwt(text))
        st = azri_flow_fail(f, AZREDIS_E_TOKEN, "the file %s %s; it should hold the token of the service account, and "
                            "nothing else", path, text.len ? "holds no JWT" : "is empty");
    if (st == AZREDIS_OK) st = azri_workload_keep(f, &f->proof, text);
    if (st != AZREDIS_OK) azri_flow_failed(f, now);
    else if (azri_workload_proxy(f) && f->env->value[AZRI_ENV_TOKEN_PROXY_CA_FILE])
        azri_flow_stage(f, AZRI_WORKLOAD_ROOTS);
    else azri_flow_stage(f, AZRI_FEDERATED_ASK);
}
#endif

/* ---- from a managed identity of the machine ---- */

#ifndef AZREDIS_NO_MANAGED
/* The managed identity's token is an assertion: the next stage brings the application's. */
static void azri_managed_app_exchange(azri_flow *f, uint64_t now) {
    azredis_str token = azri_slice(f->token.ptr, f->token.len);
    azredis_status st = AZREDIS_OK;
    azri_buf_free(&f->proof);              /* Azure Arc's key */
    if (!azri_assertion_is_jwt(token))
        st = azri_flow_fail(f, AZREDIS_E_TOKEN,
                            "the managed identity's token is no JWT, so that it cannot stand for a secret");
    else if (azri_buf_add(&f->proof, token.ptr, token.len) != AZREDIS_OK)
        st = azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for the managed identity's token");
    if (st == AZREDIS_OK) st = azri_app_begin(f, f->conf->tenant_id, f->conf->client_id, f->source->name);
    f->value = NULL;
    f->wanted = f->header = NULL;
    if (st == AZREDIS_OK) azri_flow_stage(f, AZRI_FEDERATED_ASK);
    else azri_flow_failed(f, now);
}

/* The authority is looked at first: it decides under which name the token is asked for, and a wrong one is told before
 * anybody is asked. */
static azredis_status azri_managed_app_begin(azri_flow *f) {
    static const char *const names[] = { "api://AzureADTokenExchange", "api://AzureADTokenExchangeChina",
                                         "api://AzureADTokenExchangeUSGov" };
    azredis_status st = azri_app_begin(f, f->conf->tenant_id, f->conf->client_id, f->source->name);
    if (st != AZREDIS_OK) return st;
    const azri_authority *a = azri_identity_authority_find(azri_str(f->authority.host));
    f->resource = names[a ? a->exchange : AZRI_EXCHANGE_PUBLIC];
    f->exchange = azri_managed_app_exchange;
    return azri_managed_begin(f);
}

static azredis_status azri_managed_app_ask(azri_flow *f, azri_step *step) {
    return f->stage == AZRI_FEDERATED_ASK ? azri_app_ask(f, step) : azri_managed_ask(f, step);
}

static void azri_managed_app_http(azri_flow *f, uint64_t now, const azri_http *h) {
    if (f->stage == AZRI_FEDERATED_ASK) azri_assertion_judge(f, now, h);
    else azri_managed_http(f, now, h);
}

static void azri_managed_app_net(azri_flow *f, uint64_t now) {
    if (f->stage == AZRI_FEDERATED_ASK) azri_flow_judge_net(f, now);
    else azri_managed_net(f, now);
}
#endif

#ifndef AZREDIS_NO_CERTIFICATE
/* ==== >>certificate ======================================================= uses: core mem fail text http identity flow app federated ==
 * Applications with a certificate: an assertion that its key signs (RFC 7523; "Microsoft identity platform application
 * authentication certificate credentials"), made anew for each request, with files that are read anew for each.
 *
 *   certificate file --> key file, if there is one --> sign --> ask Entra --token
 *        ^                                            \--cannot be parsed--> sign with what was read the last time
 *        +--passing trouble, or 700024: the clock-------------------+
 *
 * Pure: >>fetch reads the files and has the key loaded, wiped, and its chain shown to azri_certificate_write.
 * ================================================================================================ */

#define AZRI_CHAIN_HEAD       4u           /* bytes of a length, big-endian, before each certificate of a chain */
#define AZRI_CERTIFICATE_LIFE 600          /* seconds: Entra advises 5 to 10 minutes, and MSAL takes 10 */

/* The stages before AZRI_FEDERATED_ASK. Without files the first one signs. */
enum { AZRI_CERTIFICATE_FILE, AZRI_CERTIFICATE_KEY, AZRI_CERTIFICATE_SIGN, AZRI_CERTIFICATE_SIGN_KEPT };

/* ---- the assertion (RFC 7515, 7519), its members in the order of the specification's vectors ---- */

typedef struct azri_assertion {
    int             rs256;
    azredis_str     print;                 /* of the signing certificate: SHA-256, with rs256 SHA-1 */
    azredis_str     chain;                 /* goes along; empty: it does not */
    const azri_url *aud;
    const char     *client, *id;
    int64_t         now;
} azri_assertion;

/* Cuts the next certificate, which stands behind its length, off *chain. 0: there is none. */
static int azri_chain_next(azredis_str *chain, azredis_str *der) {
    size_t i, n = 0;
    if (chain->len < AZRI_CHAIN_HEAD) return 0;
    for (i = 0; i < AZRI_CHAIN_HEAD; i++) n = n << 8 | (unsigned char)chain->ptr[i];
    if (n > chain->len - AZRI_CHAIN_HEAD) return 0;
    *der = azri_slice(chain->ptr + AZRI_CHAIN_HEAD, n);
    *chain = azri_from(*chain, AZRI_CHAIN_HEAD + n);
    return 1;
}

static azredis_status azri_certificate_header(azri_buf *b, const azri_assertion *a) {
    azredis_str rest = a->chain, der;
    const char *before = "\",\"x5c\":[\"";
    azri_buf_puts(b, a->rs256 ? "{\"alg\":\"RS256\",\"typ\":\"JWT\",\"x5t\":\""
                              : "{\"alg\":\"PS256\",\"typ\":\"JWT\",\"x5t#S256\":\"");
    azri_b64_put(b, a->print, 1);
    while (azri_chain_next(&rest, &der)) {
        azri_buf_puts(b, before);
        azri_b64_put(b, der, 0);
        before = "\",\"";
    }
    azri_buf_puts(b, a->chain.len ? "\"]}" : "\"}");
    return b->status;
}

/* Nothing in it needs an escape: azri_identity_check_app and azri_url_parse have seen to it. */
static azredis_status azri_certificate_claims(azri_buf *b, const azri_assertion *a) {
    const char *const parts[] = { ",\"iss\":\"", a->client, "\",\"jti\":\"", a->id, "\",\"nbf\":" };
    uint64_t now = a->now > 0 ? (uint64_t)a->now : 0;
    azri_buf_puts(b, "{\"aud\":\"https://");
    azri_http_put_host(b, a->aud);
    azri_buf_puts(b, a->aud->path);
    azri_buf_puts(b, "\",\"exp\":");
    azri_http_put_number(b, now + AZRI_CERTIFICATE_LIFE);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) azri_buf_puts(b, parts[i]);
    azri_http_put_number(b, now);
    azri_buf_puts(b, ",\"sub\":\"");
    azri_buf_puts(b, a->client);
    azri_buf_puts(b, "\"}");
    return b->status;
}

/* Appends what is to be signed: header and claims, each in base64url. */
static azredis_status azri_certificate_compose(azri_buf *out, const azri_assertion *a) {
    azri_buf json;
    azri_buf_init(&json, out->mem, AZRI_VALUE_MAX, 0);
    if (azri_certificate_header(&json, a) == AZREDIS_OK) {
        azri_b64_put(out, azri_slice(json.ptr, json.len), 1);
        azri_buf_puts(out, ".");
        json.len = 0;
        if (azri_certificate_claims(&json, a) == AZREDIS_OK) azri_b64_put(out, azri_slice(json.ptr, json.len), 1);
    }
    if (json.status != AZREDIS_OK) out->status = json.status;
    azri_buf_free(&json);
    return out->status;
}

/* ---- asking ---- */

static azredis_status azri_certificate_begin(azri_flow *f) {
    return azri_app_begin(f, f->conf->tenant_id, f->conf->client_id, f->source->name);
}

static const char *azri_certificate_env(const azri_flow *f, size_t i) { return AZRI_WITH_ENV ? f->env->value[i] : NULL; }

static int azri_certificate_sends_chain(const azri_flow *f) {
    const char *z = azri_certificate_env(f, AZRI_ENV_SEND_CHAIN);
    return f->conf->send_chain || (z && (azri_eqz(azri_str(z), "1") || azri_ieqz(azri_str(z), "true")));
}

/* The step SIGN has certificates: puts what is to be signed into f->proof. chain: see azri_chain_next; print: of the
 * first one. Not OK: f->error says why. */
static azredis_status azri_certificate_write(azri_flow *f, const azri_step *step, azredis_str chain, azredis_str print) {
    azri_assertion a;
    azri_flow_new_id(f);
    a.rs256 = step->rs256;
    a.print = print;
    a.chain = azri_certificate_sends_chain(f) ? chain : azri_slice(NULL, 0);
    a.aud = &step->url;
    a.client = f->client;
    a.id = f->request_id;
    a.now = f->sent_unix + f->clock_offset;
    azredis_status st = azri_certificate_compose(&f->proof, &a);
    if (st == AZREDIS_E_LIMIT) return azri_flow_fail(f, st, "the chain is longer than this build can send");
    return st == AZREDIS_OK ? st : azri_flow_fail(f, st, "no memory for an assertion");
}

static azredis_status azri_certificate_ask_sign(azri_flow *f, azri_step *step) {
    const azredis_auth_options *c = f->conf;
    step->kind = AZRI_STEP_SIGN;
    step->certificate = azri_slice((const char *)c->certificate, c->certificate ? c->certificate_len : 0);
    step->key = azri_slice((const char *)c->key, c->key ? c->key_len : 0);
    step->password = c->certificate_password ? c->certificate_password : azri_certificate_env(f, AZRI_ENV_CERTIFICATE_PASSWORD);
    step->rs256 = c->rs256;
    step->sign = c->sign;
    step->sign_user = c->sign_user;
    step->url = f->authority;
    azri_buf_free(&f->proof);
    return azri_app_endpoint(f, &step->url, "token");
}

/* For the next request everything is made anew: an assertion is taken once only. f->tries goes on. */
static void azri_certificate_anew(azri_flow *f) {
    if (f->phase == AZRI_FLOW_PAUSE && !f->secret) f->stage = AZRI_CERTIFICATE_FILE;
}

#ifndef AZREDIS_NO_OS
/* Of the certificate; NULL: it is in memory. */
static const char *azri_certificate_path(const azri_flow *f) {
    return f->source->id == AZREDIS_ID_ENVIRONMENT ? f->env->value[AZRI_ENV_CERTIFICATE_PATH] : f->conf->certificate_file;
}

/* Of the key; NULL: the same. */
static const char *azri_certificate_key_path(const azri_flow *f) {
    return f->source->id == AZREDIS_ID_ENVIRONMENT ? NULL : f->conf->key_file;
}

static azredis_status azri_certificate_ask(azri_flow *f, azri_step *step) {
    const azri_pair *p = f->stage == AZRI_CERTIFICATE_SIGN_KEPT ? &f->kept : &f->pair;
    const char *path = azri_certificate_path(f);
    if (f->secret || f->stage == AZRI_FEDERATED_ASK) return azri_app_ask(f, step);
    if (path && f->stage < AZRI_CERTIFICATE_SIGN) {
        step->kind = AZRI_STEP_FILE;
        step->file = f->stage == AZRI_CERTIFICATE_FILE ? path : azri_certificate_key_path(f);
        step->file_max = AZRI_KEY_FILE_MAX;
        return AZREDIS_OK;
    }
    azredis_status st = azri_certificate_ask_sign(f, step);
    if (!path) return st;
    step->certificate = azri_slice(p->bytes.ptr, p->key_at);
    step->key = azri_slice(NULL, 0);
    if (p->bytes.len > p->key_at) step->key = azri_slice(p->bytes.ptr + p->key_at, p->bytes.len - p->key_at);
    return st;
}

static void azri_certificate_read(azri_flow *f, uint64_t now, azredis_str text) {
    int first = f->stage == AZRI_CERTIFICATE_FILE;
    if (first) f->pair.bytes.len = 0;
    if (azri_buf_add(&f->pair.bytes, text.ptr, text.len) != AZREDIS_OK) {
        (void)azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for a file");
        azri_flow_failed(f, now);
        return;
    }
    if (first) f->pair.key_at = f->pair.bytes.len;
    azri_flow_part(f, first && azri_certificate_key_path(f) ? AZRI_CERTIFICATE_KEY : AZRI_CERTIFICATE_SIGN);
}

/* The pair cannot be used: 1: the one before it is. Somebody may be writing it, or has made a mistake which is told. */
static int azri_certificate_fall_back(azri_flow *f) {
    const char *path = azri_certificate_path(f), *key = azri_certificate_key_path(f);
    int parsed = f->proof.len > 0;
    if (path) azri_fail_add(&f->error, " (file %s%s%s)", path, key ? " and " : "", key ? key : "");
    if (parsed || f->stage != AZRI_CERTIFICATE_SIGN || !f->kept.bytes.len || f->error.code == AZREDIS_E_NOMEM) return 0;
    AZRI_SAY(f->hint, sizeof f->hint, "what the file held before is used on: %s", f->error.message);
    azri_flow_part(f, AZRI_CERTIFICATE_SIGN_KEPT);
    return 1;
}

/* What signed is kept as it was read: an encrypted file stays so. */
static void azri_certificate_keep(azri_flow *f) {
    if (!azri_certificate_path(f) || f->stage != AZRI_CERTIFICATE_SIGN) return;
    azri_pair_free(&f->kept);
    azri_pair_move(&f->kept, &f->pair);
}
#else
#define azri_certificate_fall_back(f) ((void)(f), 0)
#define azri_certificate_keep(f) ((void)(f))

static azredis_status azri_certificate_ask(azri_flow *f, azri_step *step) {
    return f->stage == AZRI_FEDERATED_ASK ? azri_app_ask(f, step) : azri_certificate_ask_sign(f, step);
}
#endif

/* ---- what came ---- */

static void azri_certificate_signed(azri_flow *f, uint64_t now, azredis_status st, azredis_str signature) {
    if (st == AZREDIS_OK) {
        azri_buf_puts(&f->proof, ".");
        azri_b64_put(&f->proof, signature, 1);
        st = f->proof.status;
        if (st != AZREDIS_OK) (void)azri_flow_fail(f, st, "no memory for an assertion");
    } else if (azri_certificate_fall_back(f)) return;
    if (st != AZREDIS_OK) {
        azri_flow_failed(f, now);
        return;
    }
    azri_certificate_keep(f);
    azri_flow_part(f, AZRI_FEDERATED_ASK);
}

#ifdef AZREDIS_NO_OS
#define azri_certificate_text azri_certificate_signed
#else
/* A file was read, or a key has signed. */
static void azri_certificate_text(azri_flow *f, uint64_t now, azredis_status st, azredis_str text) {
    if (f->asks == AZRI_STEP_SIGN) azri_certificate_signed(f, now, st, text);
    else if (st == AZREDIS_OK) azri_certificate_read(f, now, text);
    else azri_flow_failed(f, now);
}
#endif

/* 700024: our clock is wrong, and the answer's Date says by how much; so it is kept, and signed once more. */
static void azri_certificate_http(azri_flow *f, uint64_t now, const azri_http *h) {
    if (h->date > 0 && azri_flow_code(f) == 700024)
        f->clock_offset = h->date - f->sent_unix - (int64_t)((now - f->sent_at) / AZRI_SECOND);
    azri_assertion_judge(f, now, h);
    azri_certificate_anew(f);
}

static void azri_certificate_net(azri_flow *f, uint64_t now) {
    azri_flow_judge_net(f, now);
    azri_certificate_anew(f);
}
#endif

#ifndef AZREDIS_NO_DEVTOOLS
/* ==== >>devtools ========================================================== uses: core mem fail text json identity flow given ==
 * The identity of whoever has signed in to a developer's tool: az, azd or PowerShell is run and prints a token. Each of
 * its arguments is fixed or has been looked at. In a chain a tool that brings no token is passed over, whatever the
 * reason; alone, "not installed" and "nobody is signed in" are unavailable, and all else has failed. stdout is never
 * quoted, of stderr one line at most.
 * ================================================================================================ */

#define AZRI_TOOL_NOT_FOUND 127            /* exit status of env and shells: what a script is run by is missing */
#define AZRI_TOOL_SCRIPT    1600           /* bytes of the script below, with a resource and twice a tenant of 253 */
#define AZRI_TOOL_MARK      "azredis:"     /* how its line begins: modules print warnings of their own */

typedef struct azri_tool {
    int         id;
    const char *argv[AZRI_STEP_ARGS - 4];  /* the resource follows, then the tenant's option and the tenant */
    const char *tenant, *suffix, *variable;
} azri_tool;

static const azri_tool azri_tools[] = {
    /* every version knows --resource */
    { AZREDIS_ID_AZURE_CLI, { "az", "account", "get-access-token", "--output", "json", "--resource" }, "--tenant", "",
      "AZURE_CORE_NO_COLOR=true" },
    { AZREDIS_ID_AZURE_DEVELOPER_CLI, { "azd", "auth", "token", "--output", "json", "--no-prompt", "--scope" },
      "--tenant-id", "/.default", "NO_COLOR=1" },
    { AZREDIS_ID_AZURE_POWERSHELL,
      { "pwsh", "-NoProfile", "-NonInteractive", "-OutputFormat", "Text", "-EncodedCommand" }, NULL, NULL, "NO_COLOR=1" }
};

/* Get-AzAccessToken gives a text by default before 5.0.0 and a SecureString from then on; 2.17.0 learnt to be asked. */
static const char azri_tool_script[] =
    "$ErrorActionPreference='Stop';$WarningPreference='SilentlyContinue';$ProgressPreference='SilentlyContinue';try{"
    "$m=Import-Module Az.Accounts -MinimumVersion 2.2.0 -PassThru;$p=@{ResourceUrl='%.*s'};if('%s'){$p.TenantId='%s'};"
    "if($m.Version -ge [version]'2.17.0' -and $m.Version -lt [version]'5.0.0'){$p.AsSecureString=$true};"
    "$t=Get-AzAccessToken @p;$v=$t.Token;"
    "if($v -is [securestring]){$v=ConvertFrom-SecureString -SecureString $v -AsPlainText};'" AZRI_TOOL_MARK
    "{\"access_token\":\"'+$v+'\",\"expires_on\":'+$t.ExpiresOn.ToUnixTimeSeconds()+'}'"
    "}catch{[Console]::Error.WriteLine($_.Exception.Message);exit 1}";

/* What a tool says that cannot be asked yet, and the mend. */
typedef struct azri_tool_mend { int id; const char *said, *mend; } azri_tool_mend;
static const azri_tool_mend azri_tool_mends[] = {
    { AZREDIS_ID_AZURE_CLI, "az login", AZRI_TEXT("nobody is signed in; run az login") },
    { AZREDIS_ID_AZURE_CLI, "az account set", AZRI_TEXT("no subscription is chosen; run az login or az account set") },
    { AZREDIS_ID_AZURE_DEVELOPER_CLI, "azd auth login", AZRI_TEXT("nobody is signed in; run azd auth login") },
    { AZREDIS_ID_AZURE_DEVELOPER_CLI, "azd login", AZRI_TEXT("nobody is signed in; run azd auth login") },
    { AZREDIS_ID_AZURE_POWERSHELL, "Connect-AzAccount", AZRI_TEXT("nobody is signed in; run Connect-AzAccount in pwsh") },
    { AZREDIS_ID_AZURE_POWERSHELL, "no valid module file",
      AZRI_TEXT("the module Az.Accounts is missing; run Install-Module Az.Accounts in pwsh") },
    { AZREDIS_ID_AZURE_POWERSHELL, "AuthorizationManager check failed",
      AZRI_TEXT("the execution policy does not let it load Az.Accounts; see Set-ExecutionPolicy") }
};

static const azri_tool *azri_tool_of(const azri_flow *f) {
    size_t i = 0;
    while (i + 1 < sizeof azri_tools / sizeof azri_tools[0] && azri_tools[i].id != f->source->id) i++;
    return &azri_tools[i];
}

/* The tool inherits the secret: no message shows it. */
static azredis_status azri_tool_begin(azri_flow *f) {
    const char *own = f->conf->tenant_id;
    int by_env = !own && f->conf->identity == AZREDIS_ID_DEFAULT;
    azredis_status st = azri_identity_check_argument(f->conf->scope, &f->error);
    f->secret = f->env->value[AZRI_ENV_CLIENT_SECRET];
    f->tenant = by_env ? f->env->value[AZRI_ENV_TENANT_ID] : own;
    if (st != AZREDIS_OK) return st;
    return azri_identity_check_app(f->tenant, NULL, by_env ? azri_env_names[AZRI_ENV_TENANT_ID] : "options", &f->error);
}

/* UTF-16LE in base64, as -EncodedCommand wants it, of a text in ASCII. Three letters make a whole number of groups. */
static void azri_tool_encode(azri_buf *b, const char *text) {
    char wide[6], group[9];
    size_t n;
    while (*text) {
        azri_out o = azri_out_to(group, sizeof group);
        memset(wide, 0, sizeof wide);
        for (n = 0; n < 3 && *text; n++) wide[2 * n] = *text++;
        azri_b64_out(&o, azri_slice(wide, 2 * n));
        azri_out_end(&o);
        azri_buf_puts(b, group);
    }
}

static azredis_status azri_tool_ask(azri_flow *f, azri_step *step) {
    const azri_tool *t = azri_tool_of(f);
    const char *tenant = f->tenant ? f->tenant : "";
    azredis_str resource = azri_identity_resource(f->conf->scope);
    char script[AZRI_TOOL_SCRIPT];
    size_t n;
    step->kind = AZRI_STEP_EXEC;
    step->timeout_ms = (uint32_t)azri_min64(step->timeout_ms, AZRI_EXEC_MS);
    step->variable = t->variable;
    if (t->suffix) {
        azri_buf_put(&step->request, resource);
        azri_buf_puts(&step->request, t->suffix);
    } else {
        (void)azri_fmt(script, sizeof script, azri_tool_script, (int)resource.len, resource.ptr, tenant, tenant);
        azri_tool_encode(&step->request, script);
    }
    azri_buf_put(&step->request, azri_slice("", 1));
    memcpy(step->argv, t->argv, sizeof t->argv);
    for (n = 0; step->argv[n]; n++) {}
    step->argv[n++] = step->request.ptr;
    if (t->tenant && f->tenant) step->argv[n++] = t->tenant;
    if (t->tenant && f->tenant) step->argv[n] = f->tenant;
    return step->request.status;
}

/* azd says why in lines of JSON: in error, before version 1.23.7 in data.message. */
static void azri_tool_value(void *user, int depth, azredis_str parent, azredis_str key, int type, azredis_str text) {
    azri_answer *a = &((azri_flow *)user)->answer;
    int is_error = depth == 1 && azri_eqz(key, "error");
    if (type != AZRI_JSON_STRING || !azri_flow_trim(text).len) return;
    if (is_error) a->about[0] = '\0';
    if (is_error || (depth == 2 && azri_eqz(parent, "data") && azri_eqz(key, "message")))
        azri_answer_cut(a->about, sizeof a->about, azri_flow_trim(text));
}

/* Puts one line of stderr into f->answer.about. */
static void azri_tool_hear(azri_flow *f) {
    azredis_str rest = f->said, line;
    while (rest.len) {
        line = azri_exec_next_line(&rest);
        if (!line.len || line.ptr[0] != '{') continue;
        azri_json_free(&f->json);
        azri_json_init(&f->json, f->mem, AZRI_VALUE_MAX, azri_tool_value, f);
        (void)azri_json_feed(&f->json, line.ptr, line.len);
    }
    azri_answer_cut(f->answer.about, sizeof f->answer.about, azri_exec_line(f->said));
}

/* NULL: it says nothing of the kind. */
static const azri_tool_mend *azri_tool_mend_of(const azri_flow *f) {
    for (size_t i = 0; i < sizeof azri_tool_mends / sizeof azri_tool_mends[0]; i++) {
        const azri_tool_mend *m = &azri_tool_mends[i];
        if (m->id == f->source->id && azri_find_text(f->said, azri_str(m->said)) < f->said.len) return m;
    }
    return NULL;
}

/* It ended without a token. 1: it could not be asked. What Entra has said to it is no such case. */
static int azri_tool_refused(azri_flow *f) {
    const azri_tool *t = azri_tool_of(f);
    const azri_tool_mend *m = azri_tool_mend_of(f);
    f->answer.aadsts = azri_flow_aadsts(f->said);
    if (m && !f->answer.aadsts) {
        (void)azri_flow_fail(f, AZREDIS_E_NO_CREDENTIAL, "%s", m->mend);
        return 1;
    }
    (void)azri_exec_refused(f, t->argv[0]);
    int passes = !f->answer.aadsts;
    azri_tool_hear(f);
    azri_flow_why(f, 0);
    f->error.retryable |= passes;
    if (f->exit_code == AZRI_TOOL_NOT_FOUND) return 1;
    if (f->answer.aadsts) f->error.code = AZREDIS_E_ENTRA;
    return 0;
}

/* The line that our script has marked; empty: there is none. */
static azredis_str azri_tool_marked(azredis_str out) {
    azredis_str mark = azri_str(AZRI_TOOL_MARK), line;
    while (out.len) {
        line = azri_exec_next_line(&out);
        if (line.len > mark.len && azri_eq(azri_slice(line.ptr, mark.len), mark))
            return azri_slice(line.ptr + mark.len, line.len - mark.len);
    }
    return out;
}

static void azri_tool_text(azri_flow *f, uint64_t now, azredis_status st, azredis_str out) {
    int could_not = st == AZREDIS_E_NO_CREDENTIAL;  /* it was not started */
    if (st == AZREDIS_OK && f->source->id == AZREDIS_ID_AZURE_POWERSHELL) out = azri_tool_marked(out);
    if (st == AZREDIS_OK && (f->exit_code == 0 || (f->exit_code == AZRI_EXIT_UNKNOWN && out.len))) {
        st = azri_given_read(f, out, 0);
        if (st == AZREDIS_OK) {
            azri_flow_accept(f, now, 0);
            return;
        }
        azri_exec_add_said(f);
    } else if (st == AZREDIS_OK) could_not = azri_tool_refused(f);
    else azri_exec_add_said(f);
    if (could_not || (f->in_chain && st != AZREDIS_E_NOMEM)) azri_flow_unavailable(f, now);
    else azri_flow_failed(f, now);
}
#endif

#ifndef AZREDIS_NO_DEVICE_CODE
/* ==== >>device ============================================================ uses: core mem fail text json http jwt identity flow app ==
 * A person signs in for the program, with a browser elsewhere (RFC 8628); renewals are by refresh token (RFC 6749 6).
 *
 *   load --kept--> refresh --------------------token---------------------> done
 *    | nothing       | invalid_grant, interaction_required: it is dead      ^
 *    +-----------> code --user code and page: an event--> poll --approved---+
 *                                                         ^  | pending, slow_down, no answer
 *                                                         +--+
 *
 * A walk with a code has a deadline of its own, the code's end; while it polls it keeps its claim. The code is the
 * auth's: a pump that takes over from one that was closed, or stands still, goes on with it, and nobody is shown
 * another. A code that was declined, or that nobody used, ends the walk with an error that is not retryable: the slow
 * lane asks for the next one after 60 s, 5 min, 15 min, and no loop of retries. With nobody there that is one prompt
 * each half an hour. Only Entra's word that a refresh token is dead makes it go, no other trouble does.
 * Entry points: those of its row in >>walk; azri_device_copy _drop _free.
 * ================================================================================================ */

#define AZRI_DEVICE_CLIENT    "04b07795-8ddb-461a-bbee-02f9e1bf7b46"  /* the Azure CLI's, as the SDKs have it */
#define AZRI_DEVICE_TENANT    "organizations"
#define AZRI_DEVICE_INTERVAL  (5u * AZRI_SECOND)   /* RFC 8628: where the answer has none (3.2); what slow_down adds (3.5) */
#define AZRI_DEVICE_PAUSE_MAX AZRI_MINUTE          /* to which timeouts may stretch the interval */
#define AZRI_DEVICE_LIFE_MAX  3600                 /* s; Entra gives 900, and an older prompt is nobody's */

enum { AZRI_DEVICE_LOAD, AZRI_DEVICE_REFRESH, AZRI_DEVICE_CODE, AZRI_DEVICE_POLL };

/* ---- what is kept from walk to walk ---- */

/* The code has had its day. */
static void azri_device_drop(azri_device *d, const azri_mem *m) {
    azri_strfree(m, d->code);
    d->code = NULL;
}

static void azri_device_clear(azri_device *d, const azri_mem *m) {
    azri_device_drop(d, m);
    azri_strfree(m, d->refresh);
    azri_strfree(m, d->next);
    d->refresh = d->next = NULL;
}

static void azri_device_free(azri_device *d, const azri_mem *m) {
    if (!d) return;
    azri_device_clear(d, m);
    azri_free(m, d, sizeof *d);
}

/* What the next walk, or one that takes over, needs. 0: out of memory. */
static int azri_device_copy(azri_device *to, const azri_device *from, const azri_mem *m) {
    azri_device_clear(to, m);
    to->refresh = azri_strdup(m, from->refresh);
    to->code = azri_strdup(m, from->code);
    to->expires_at = from->expires_at;
    to->poll_at = from->poll_at;
    to->interval_ms = from->interval_ms;
    return (to->refresh || !from->refresh) && (to->code || !from->code);
}

static azredis_status azri_device_keep(const azri_flow *f, char **to, azredis_str text) {
    azri_strfree(f->mem, *to);
    *to = (char *)azri_alloc(f->mem, text.len + 1);
    if (!*to) return AZREDIS_E_NOMEM;
    if (text.len) memcpy(*to, text.ptr, text.len);
    (*to)[text.len] = '\0';
    return AZREDIS_OK;
}

/* ---- waiting for the person ---- */

/* The next question is at `at`. f->error is how the walk ends if there is no time for it. */
static void azri_device_waits(azri_flow *f, uint64_t at) {
    if (f->error.code == AZREDIS_OK)
        (void)azri_flow_fail(f, AZREDIS_E_TIMEOUT, "nobody signed in with the device code before it expired");
    else azri_fail_add(&f->error, "; the device code has expired meanwhile");
    f->error.retryable = 0;
    f->error.retry_after_ms = 0;
    f->stage = AZRI_DEVICE_POLL;
    f->deadline = f->device->expires_at;
    f->wait_until = f->device->poll_at = at;
    f->tries[0] = 1;
    f->phase = AZRI_FLOW_PAUSE;
}

static void azri_device_pause(azri_flow *f, uint64_t now, uint32_t least_ms) {
    azri_device *d = f->device;
    uint64_t at = azri_after(now, azri_max64(d->interval_ms, azri_min64(least_ms, AZRI_DEVICE_PAUSE_MAX)));
    azri_flow_forget(f);
    azri_device_waits(f, at);
    if (at >= d->expires_at) azri_flow_failed(f, now);
}

/* ---- what Entra says ---- */

/* A word that may be shown to people; else *out stays empty. */
static void azri_device_word(char *out, size_t cap, azredis_str text) {
    size_t i;
    for (i = 0; i < text.len && text.ptr[i] > ' ' && text.ptr[i] < 127; i++) {}
    if (i == text.len && i < cap) azri_answer_cut(out, cap, text);
}

static void azri_device_value(azri_flow *f, int depth, azredis_str parent, azredis_str key, int type, azredis_str text) {
    azri_device *d = f->device;
    int64_t interval = 0;
    int coded = f->stage == AZRI_DEVICE_CODE;
    (void)parent;
    if (depth != 1) return;
    if (coded && azri_eqz(key, "interval")) {
        azri_jwt_number(&interval, text);
        d->interval_ms = (uint32_t)azri_min64((uint64_t)interval, AZRI_DEVICE_LIFE_MAX) * AZRI_SECOND;
    }
    if (type != AZRI_JSON_STRING || !text.len || f->json_status != AZREDIS_OK) return;
    if (azri_eqz(key, coded ? "device_code" : "refresh_token")) f->json_status = azri_device_keep(f, &d->next, text);
    if (!coded) return;
    if (azri_eqz(key, "user_code")) azri_device_word(d->user_code, sizeof d->user_code, text);
    if (azri_eqz(key, "verification_uri")) azri_device_word(d->uri, sizeof d->uri, text);
    if (azri_eqz(key, "message")) azri_answer_cut(f->answer.about, sizeof f->answer.about, text);
}

/* Code, page, and Entra's sentence if it is plain and fits, else ours. */
static void azri_device_prompt(azri_device *d, const char *message) {
    size_t n = strlen(d->user_code) + 1, k = n + strlen(d->uri) + 1, room = sizeof d->prompt - k, i;
    memcpy(d->prompt, d->user_code, n);
    memcpy(d->prompt + n, d->uri, k - n);
    for (i = 0; message[i] >= ' ' && message[i] < 127; i++) {}
    if (i && !message[i] && i < room) memcpy(d->prompt + k, message, i + 1);
    else (void)azri_fmt(d->prompt + k, room, "To sign in, enter the code %s at %s", d->user_code, d->uri);
}

/* The answer to the request for a code. Entra tells errors by HTTP 200, too. */
static void azri_device_coded(azri_flow *f, uint64_t now, const azri_http *h) {
    azri_device *d = f->device;
    int64_t life = f->answer.expires_in;
    if (f->json_status != AZREDIS_OK || h->status != 200 || f->answer.error[0]) {
        azri_flow_judge(f, now, h);
        return;
    }
    if (!d->next || !d->user_code[0] || !d->uri[0] || life <= 0) {
        (void)azri_flow_fail(f, AZREDIS_E_JSON, "the answer lacks a usable device_code, user_code, verification_uri or "
                             "expires_in");
        azri_flow_failed(f, now);
        return;
    }
    d->code = d->next;
    d->next = NULL;
    if (!d->interval_ms) d->interval_ms = AZRI_DEVICE_INTERVAL;
    d->expires_at = f->sent_at + azri_min64((uint64_t)life, AZRI_DEVICE_LIFE_MAX) * AZRI_SECOND;
    d->news = 1;
    azri_device_prompt(d, f->answer.about);
    memset(&f->error, 0, sizeof f->error);
    azri_device_pause(f, now, 0);
}

/* A token, or Entra's word why not. The refresh token is worth keeping even if the token is of no use. */
static void azri_device_judge(azri_flow *f, uint64_t now, const azri_http *h) {
    azri_device *d = f->device;
    if (d->next && h->status == 200 && f->json_status == AZREDIS_OK && !f->answer.error[0] && f->token.len) {
        azri_strfree(f->mem, d->refresh);
        d->refresh = d->next;
        d->next = NULL;
        d->changed = 1;
        f->secret = d->refresh;
    }
    azri_flow_judge(f, now, h);
    if (f->status == AZREDIS_OK && !d->refresh && !f->hint[0])
        AZRI_SAY(f->hint, sizeof f->hint, "no refresh token came, so that the next renewal needs a sign-in");
}

/* A sign-in is needed, for the reason in f->error, if there is one. */
static void azri_device_sign_in(azri_flow *f) {
    azri_copy(f->hint, sizeof f->hint, f->error.message);
    azri_flow_stage(f, AZRI_DEVICE_CODE);
}

static void azri_device_refreshed(azri_flow *f, uint64_t now, const azri_http *h) {
    azri_device *d = f->device;
    azredis_str error = azri_str(f->json_status == AZREDIS_OK ? f->answer.error : "");
    if ((!azri_eqz(error, "invalid_grant") && !azri_eqz(error, "interaction_required")) ||
        azri_flow_passing(h->status, &f->answer)) {
        azri_device_judge(f, now, h);
        return;
    }
    azri_flow_refused(f, h);
    f->secret = NULL;
    azri_strfree(f->mem, d->refresh);
    d->refresh = NULL;
    d->dead = 1;
    azri_device_sign_in(f);
}

static void azri_device_polled(azri_flow *f, uint64_t now, const azri_http *h) {
    azri_device *d = f->device;
    int said = f->json_status == AZREDIS_OK && f->answer.error[0];
    azredis_str error = azri_str(said ? f->answer.error : "");
    memset(&f->error, 0, sizeof f->error);
    if (azri_eqz(error, "slow_down")) d->interval_ms += AZRI_DEVICE_INTERVAL;
    if (azri_eqz(error, "authorization_pending") || azri_eqz(error, "slow_down")) azri_device_pause(f, now, 0);
    else if (azri_eqz(error, "authorization_declined") || azri_eqz(error, "access_denied")) {
        (void)azri_flow_fail(f, AZREDIS_E_ENTRA, "the person who was shown the device code declined to sign in");
        f->error.http_status = h->status;
        azri_flow_failed(f, now);
    } else if (said ? !azri_flow_passing(h->status, &f->answer) : f->json_status == AZREDIS_OK && f->token.len)
        azri_device_judge(f, now, h);
    else {
        if (said) azri_flow_refused(f, h);
        else azri_flow_foreign(f, h);
        f->error.http_status = h->status;
        azri_device_pause(f, now, h->retry_after_ms);
    }
}

static void azri_device_http(azri_flow *f, uint64_t now, const azri_http *h) {
    if (f->stage == AZRI_DEVICE_REFRESH) azri_device_refreshed(f, now, h);
    else if (f->stage == AZRI_DEVICE_CODE) azri_device_coded(f, now, h);
    else azri_device_polled(f, now, h);
}

/* Timeouts double the interval (RFC 8628 3.5). */
static void azri_device_net(azri_flow *f, uint64_t now) {
    azri_device *d = f->device;
    if (f->stage != AZRI_DEVICE_POLL) {
        azri_flow_judge_net(f, now);
        return;
    }
    if (f->error.code == AZREDIS_E_TIMEOUT && d->interval_ms < AZRI_DEVICE_PAUSE_MAX)
        d->interval_ms = (uint32_t)azri_min64(2 * d->interval_ms, AZRI_DEVICE_PAUSE_MAX);
    azri_device_pause(f, now, 0);
}

/* load_refresh has returned. */
static void azri_device_call(azri_flow *f, uint64_t now, azredis_status st, const azredis_fetched *got) {
    if (st == AZREDIS_AGAIN || (st == AZREDIS_OK && got->len == 0)) {
        azri_flow_stage(f, AZRI_DEVICE_CODE);
        return;
    }
    st = azri_flow_take_call(f, &f->proof, st, got);
    if (st == AZREDIS_OK && azri_device_keep(f, &f->device->refresh, azri_slice(f->proof.ptr, f->proof.len)) != AZREDIS_OK)
        st = azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for the refresh token");
    azri_buf_free(&f->proof);
    if (st == AZREDIS_OK) azri_flow_stage(f, AZRI_DEVICE_REFRESH);
    else if (st == AZREDIS_E_NOMEM) azri_flow_failed(f, now);
    else azri_device_sign_in(f);
}

/* ---- asking ---- */

static azredis_status azri_device_begin(azri_flow *f) {
    azri_device *d = f->device;
    azredis_status st = azri_app_begin(f, f->conf->tenant_id ? f->conf->tenant_id : AZRI_DEVICE_TENANT,
                                       f->conf->client_id ? f->conf->client_id : AZRI_DEVICE_CLIENT, f->source->name);
    f->value = azri_device_value;
    f->stage = d->refresh ? AZRI_DEVICE_REFRESH : f->conf->load_refresh ? AZRI_DEVICE_LOAD : AZRI_DEVICE_CODE;
    if (st == AZREDIS_OK && d->code) azri_device_waits(f, d->poll_at);
    return st;
}

static azredis_status azri_device_form(azri_flow *f, azri_buf *b) {
    static const char *const more[] = { "", "&grant_type=refresh_token&refresh_token=", "",
                                        "&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=" };
    azri_http_put_field(b, "client_id=", azri_str(f->client));
    azri_http_put_field(b, more[f->stage], azri_str(f->secret));
    if (f->stage == AZRI_DEVICE_POLL) return b->status;
    azri_http_put_field(b, "&scope=", azri_identity_resource(f->conf->scope));
    azri_buf_puts(b, "%2F.default%20offline_access");
    return b->status;
}

static azredis_status azri_device_ask(azri_flow *f, azri_step *step) {
    azri_device *d = f->device;
    azri_strfree(f->mem, d->next);
    d->next = NULL;
    f->secret = f->stage == AZRI_DEVICE_REFRESH ? d->refresh : f->stage == AZRI_DEVICE_POLL ? d->code : NULL;
    if (f->stage == AZRI_DEVICE_LOAD) {
        step->kind = AZRI_STEP_CALL;
        step->call = f->conf->load_refresh;
        step->call_user = f->conf->refresh_user;
        return AZREDIS_OK;
    }
    if (f->stage == AZRI_DEVICE_CODE) {
        azri_device_drop(d, f->mem);
        d->user_code[0] = d->uri[0] = '\0';
        d->interval_ms = 0;
    }
    step->url = f->authority;
    step->by_proxy = 1;
    step->request.max = AZRI_HTTP_BODY_MAX + 1024u;     /* a refresh token is longer than a secret, and here memory grows */
    return azri_app_post(f, step, f->stage == AZRI_DEVICE_CODE ? "devicecode" : "token", azri_device_form,
                         AZRI_HTTP_BODY_MAX);
}
#endif

/* ==== >>walk ============================================================== uses: core mem fail text json http jwt identity flow app given managed federated certificate devtools device ==
 * The table of sources, which of them a walk asks and in which order, and the walk itself.
 * Entry points: azri_flow_init _start _next _body _http _text _ran _call _free azri_step_free.
 * ================================================================================================ */

static azredis_status azri_source_left_out(azri_flow *f) {
    return azri_fail(&f->error, AZREDIS_E_ARG, "options.identity", "options: this program was built with "
                     "AZREDIS_NO_HTTP, so no token endpoint can be asked; use the identity callback");
}

#ifndef AZREDIS_NO_OS
#if defined(AZREDIS_NO_MANAGED) || defined(AZREDIS_NO_WORKLOAD) || defined(AZREDIS_NO_DEVTOOLS)
static azredis_status azri_source_off(azri_flow *f) {
    return azri_flow_fail(f, AZREDIS_E_NO_CREDENTIAL, "left out of this build by an AZREDIS_NO_ switch or AZREDIS_LEAN");
}
#endif

/* Other SDKs have it, and a C program cannot. */
static azredis_status azri_source_foreign(azri_flow *f) {
    return azri_flow_fail(f, AZREDIS_E_ARG, "needs a .NET, Node or Python SDK, an editor or a desktop's broker, which "
                          "no C program can ask; run az login and take AzureCliCredential, or use device code");
}
#endif

/* What the table does not name is not linked. */
#define AZRI_IF_HTTP(fn) (AZRI_WITH_HTTP ? (fn) : NULL)
#define AZRI_BEGIN(begin) (AZRI_WITH_HTTP ? (begin) : azri_source_left_out)
#define AZRI_BY_SECRET(begin) AZRI_BEGIN(begin), AZRI_IF_HTTP(azri_app_ask), AZRI_IF_HTTP(azri_flow_judge), \
    AZRI_IF_HTTP(azri_flow_judge_net)
#ifdef AZREDIS_NO_CERTIFICATE
#  define AZRI_BY_ENVIRONMENT AZRI_BY_SECRET(azri_environment_begin), NULL, NULL
#else
#  define AZRI_BY_CERTIFICATE azri_certificate_ask, azri_certificate_http, azri_certificate_net, azri_certificate_text, NULL
#  define AZRI_BY_ENVIRONMENT azri_environment_begin, AZRI_BY_CERTIFICATE
#endif
#ifdef AZREDIS_NO_MANAGED
#  define AZRI_BY_MACHINE azri_source_off, NULL, NULL, NULL, NULL, NULL
#else
#  define AZRI_BY_MACHINE azri_managed_begin, azri_managed_ask, azri_managed_http, azri_managed_net, azri_managed_text, NULL
#  define AZRI_BY_MACHINE_FOR_APP azri_managed_app_begin, azri_managed_app_ask, azri_managed_app_http, azri_managed_app_net, \
    azri_managed_text, NULL
#endif
#ifdef AZREDIS_NO_WORKLOAD
#  define AZRI_BY_FILE azri_source_off, NULL, NULL, NULL, NULL, NULL
#else
#  define AZRI_BY_FILE azri_workload_begin, azri_workload_ask, azri_assertion_judge, azri_flow_judge_net, azri_workload_text, NULL
#endif
#ifdef AZREDIS_NO_DEVTOOLS
#  define AZRI_BY_TOOL azri_source_off, NULL, NULL, NULL, NULL, NULL
#else
#  define AZRI_BY_TOOL azri_tool_begin, azri_tool_ask, NULL, NULL, azri_tool_text, NULL
#endif
#define AZRI_FOREIGN azri_source_foreign, NULL, NULL, NULL, NULL, NULL

#define AZRI_ROW_CALLBACK \
    { "callback", NULL, AZREDIS_ID_CALLBACK, 0, azri_given_begin, azri_callback_ask, NULL, NULL, NULL, azri_callback_call }

static const azri_source azri_sources[] = {        /* in the order of the default chain */
#ifndef AZREDIS_NO_OS
    { "environment", "EnvironmentCredential", AZREDIS_ID_ENVIRONMENT, AZRI_CHAIN_PROD,
      AZRI_BY_ENVIRONMENT },
    { "workload-identity", "WorkloadIdentityCredential", AZREDIS_ID_WORKLOAD, AZRI_CHAIN_PROD, AZRI_BY_FILE },
    { "managed-identity", "ManagedIdentityCredential", AZREDIS_ID_MANAGED, AZRI_CHAIN_PROD, AZRI_BY_MACHINE },
    { "azure-cli", "AzureCliCredential", AZREDIS_ID_AZURE_CLI, AZRI_CHAIN_DEV, AZRI_BY_TOOL },
    { "azure-developer-cli", "AzureDeveloperCliCredential", AZREDIS_ID_AZURE_DEVELOPER_CLI, AZRI_CHAIN_DEV,
      AZRI_BY_TOOL },
    { "azure-powershell", "AzurePowerShellCredential", AZREDIS_ID_AZURE_POWERSHELL, AZRI_CHAIN_DEV, AZRI_BY_TOOL },
    { "visual-studio", "VisualStudioCredential", AZRI_ID_LATER, 0, AZRI_FOREIGN },
    { "visual-studio-code", "VisualStudioCodeCredential", AZRI_ID_LATER, 0, AZRI_FOREIGN },
    { "interactive-browser", "InteractiveBrowserCredential", AZRI_ID_LATER, 0, AZRI_FOREIGN },
    { "broker", "BrokerCredential", AZRI_ID_LATER, 0, AZRI_FOREIGN },
    { "shared-token-cache", "SharedTokenCacheCredential", AZRI_ID_LATER, 0, AZRI_FOREIGN },
#endif
    { "client-secret", NULL, AZREDIS_ID_CLIENT_SECRET, 0, AZRI_BY_SECRET(azri_secret_begin), NULL, NULL },
#ifndef AZREDIS_NO_ASSERTION
    { "client-assertion", NULL, AZREDIS_ID_CLIENT_ASSERTION, 0, AZRI_BEGIN(azri_assertion_begin), AZRI_IF_HTTP(azri_assertion_ask),
      AZRI_IF_HTTP(azri_assertion_judge), AZRI_IF_HTTP(azri_flow_judge_net), NULL, AZRI_IF_HTTP(azri_assertion_call) },
#endif
#ifndef AZREDIS_NO_CERTIFICATE
    { "client-certificate", NULL, AZREDIS_ID_CLIENT_CERTIFICATE, 0, azri_certificate_begin, AZRI_BY_CERTIFICATE },
#endif
#if AZRI_WITH_CALLBACK
    AZRI_ROW_CALLBACK,
#endif
#ifndef AZREDIS_NO_MANAGED
    { "managed-identity-app", NULL, AZREDIS_ID_MANAGED_APP, 0, AZRI_BY_MACHINE_FOR_APP },
#endif
#ifndef AZREDIS_NO_TOKEN_FILE
    { "token-file", NULL, AZREDIS_ID_TOKEN_FILE, 0, azri_given_begin, azri_token_file_ask, NULL, NULL,
      azri_token_file_text, NULL },
#endif
#ifndef AZREDIS_NO_DEVICE_CODE
    { "device-code", NULL, AZREDIS_ID_DEVICE_CODE, 0, azri_device_begin, azri_device_ask, azri_device_http, azri_device_net, NULL,
      azri_device_call },
#endif
#ifndef AZREDIS_NO_EXEC
    { "exec", NULL, AZREDIS_ID_EXEC, 0, azri_exec_begin, azri_exec_ask, NULL, NULL, azri_exec_text, NULL },
#endif
};
enum { AZRI_SOURCES = sizeof azri_sources / sizeof azri_sources[0] };

/* ---- which links ---- */

/* Counts on when the walk is full. */
static void azri_walk_add(azri_flow *f, size_t row) {
    if (f->link_count < AZRI_LINKS_MAX) f->links[f->link_count] = (uint8_t)row;
    f->link_count++;
}

static void azri_walk_add_chain(azri_flow *f, unsigned chains) {
    for (size_t i = 0; i < AZRI_SOURCES; i++)
        if (azri_sources[i].chains & chains) azri_walk_add(f, i);
}

/* 1: name is one of a chain's, and stands in the walk now. */
static int azri_walk_add_name(azri_flow *f, azredis_str name) {
    size_t i, before = f->link_count;
    if (azri_ieqz(name, "prod")) azri_walk_add_chain(f, AZRI_CHAIN_PROD);
    if (azri_ieqz(name, "dev")) azri_walk_add_chain(f, AZRI_CHAIN_DEV);
    for (i = 0; i < AZRI_SOURCES; i++)
        if (azri_sources[i].sdk_name && azri_ieqz(name, azri_sources[i].sdk_name)) azri_walk_add(f, i);
    return f->link_count > before;
}

static azredis_status azri_walk_wrong(azri_flow *f, azredis_str name) {
    char quoted[100];
    size_t i, n = 0;
    f->link_count = 0;
    (void)azri_quote(quoted, sizeof quoted, name.ptr, name.len, azri_slice(NULL, 0));
    (void)azri_fail(&f->error, AZREDIS_E_ARG, "AZURE_TOKEN_CREDENTIALS", "AZURE_TOKEN_CREDENTIALS: '%s' is no name of "
                    "a credential; give dev, prod or, with commas between them, ", quoted);
    for (i = 0; i < AZRI_SOURCES; i++)
        if (azri_sources[i].chains) azri_fail_add(&f->error, "%s%s", n++ ? ", " : "", azri_sources[i].sdk_name);
    return AZREDIS_E_ARG;
}

/* AZURE_TOKEN_CREDENTIALS: dev, prod, the name of a credential as the SDKs write it, or several with commas. */
static azredis_status azri_walk_by_variable(azri_flow *f, const char *text) {
    azredis_str rest = azri_str(text), name;
    size_t end;
    for (;;) {
        end = azri_find(rest, ',');
        name = azri_trim(azri_slice(rest.ptr, end), " \t");
        if (!azri_walk_add_name(f, name)) return azri_walk_wrong(f, name);
        if (f->link_count > AZRI_LINKS_MAX)
            return azri_fail(&f->error, AZREDIS_E_ARG, "AZURE_TOKEN_CREDENTIALS", "AZURE_TOKEN_CREDENTIALS: these are "
                             "more than %d credentials", (int)AZRI_LINKS_MAX);
        if (end == rest.len) return AZREDIS_OK;
        rest = azri_slice(rest.ptr + end + 1, rest.len - end - 1);
    }
}

/* The links of this walk: the one that won before, the chain, or the one identity that the options name. */
static azredis_status azri_walk_plan(azri_flow *f) {
    const char *chosen = AZRI_WITH_ENV ? f->env->value[AZRI_ENV_TOKEN_CREDENTIALS] : NULL;
    azredis_status st = AZREDIS_OK;
    f->link_count = f->link = 0;
    if (f->pin) azri_walk_add(f, (size_t)f->pin - 1);
    else if (f->conf->identity != AZREDIS_ID_DEFAULT) {
        for (size_t i = 0; i < AZRI_SOURCES; i++)
            if (azri_sources[i].id == (int)f->conf->identity) azri_walk_add(f, i);
    } else if (chosen) st = azri_walk_by_variable(f, chosen);
    else azri_walk_add_chain(f, AZRI_CHAIN_PROD | AZRI_CHAIN_DEV);
    f->in_chain = f->link_count > 1;
    return st;
}

/* ---- the walk ---- */

/* Begins links until one has a question, fails, or none is left. */
static void azri_flow_begin_link(azri_flow *f, uint64_t now) {
    azredis_status st;
    while (f->link < f->link_count) {
        f->source = &azri_sources[f->links[f->link]];
        f->link_at = now;
        f->wait_until = 0;
        st = f->source->begin(f);
        if (st == AZREDIS_OK) {
            f->phase = AZRI_FLOW_PAUSE;
            return;
        }
        if (st != AZREDIS_E_NO_CREDENTIAL) {
            azri_flow_failed(f, now);
            return;
        }
        azri_flow_unavailable(f, now);
    }
    azri_flow_nothing(f);
}

static void azri_flow_begin_walk(azri_flow *f, uint64_t now) {
    f->begun = 1;
    if (azri_walk_plan(f) == AZREDIS_OK) azri_flow_begin_link(f, now);
    else azri_flow_end(f, f->error.code);
}

/* What to do next. Fills *step, which azri_step_free ends after each call. */
static AZRI_ONCE azri_step_kind azri_flow_next(azri_flow *f, uint64_t now, int64_t unix_now, azri_step *step) {
    AZREDIS_ASSERT(f->phase != AZRI_FLOW_ANSWER && f->phase != AZRI_FLOW_IDLE);
    memset(step, 0, sizeof *step);
    azri_buf_init(&step->request, f->mem, AZRI_REQUEST_MAX, 1);
    step->kind = AZRI_STEP_DONE;
    if (f->phase == AZRI_FLOW_LINK && !f->begun) azri_flow_begin_walk(f, now);
    if (f->phase == AZRI_FLOW_LINK) azri_flow_begin_link(f, now);
    if (f->phase == AZRI_FLOW_PAUSE && now >= f->wait_until) f->phase = AZRI_FLOW_ASK;
    if (f->phase == AZRI_FLOW_PAUSE) {
        step->kind = AZRI_STEP_WAIT;
        step->wait_ms = f->wait_until - now;
    } else if (f->phase == AZRI_FLOW_ASK && now >= f->deadline) {
        if (!f->tries[0] && !f->tries[1]) (void)azri_flow_fail(f, AZREDIS_E_TIMEOUT, "no time was left to ask");
        azri_flow_failed(f, now);
    } else if (f->phase == AZRI_FLOW_ASK) azri_flow_ask(f, now, unix_now, step);
    if (f->phase == AZRI_FLOW_DONE) step->kind = AZRI_STEP_DONE;
    else step->where = f->source->name;
    return step->kind;
}

/* The only question where there are no walks: *step is a call, or the flow is done. */
static void azri_flow_call_only(azri_flow *f, uint64_t now, int64_t unix_now, azri_step *step) {
    static const azri_source callback = AZRI_ROW_CALLBACK;
    f->source = &callback;
    f->sent_at = now;
    f->sent_unix = unix_now;
    f->phase = AZRI_FLOW_ANSWER;
    f->asks = AZRI_STEP_CALL;
    (void)azri_callback_ask(f, step);
    if (!AZRI_ONLY_CALLBACK && !step->call) azri_flow_nothing(f);
}

static void azri_flow_init(azri_flow *f, const azri_mem *m, const azredis_auth_options *conf, azri_rng *rng) {
    memset(f, 0, sizeof *f);
    f->mem = m;
    f->conf = conf;
    f->rng = rng;
    azri_buf_init(&f->token, m, AZRI_VALUE_MAX, 1);
    if (!AZRI_WITH_WALKS) return;
    azri_buf_init(&f->proof, m, AZRI_VALUE_MAX, 1);
    azri_buf_init(&f->roots, m, AZRI_VALUE_MAX, 0);
    azri_pair_init(&f->pair, m);
    azri_pair_init(&f->kept, m);
    azri_flow_expect(f);
}

/* Begins a walk; the result of the last one is gone. Not for a static identity. */
static void azri_flow_start(azri_flow *f, const azri_env *env, uint64_t now) {
    AZREDIS_ASSERT(!azri_is_static(f->conf));
    azri_buf_free(&f->token);
    azri_json_free(&f->json);
    memset(&f->error, 0, sizeof f->error);
    memset(&f->claims, 0, sizeof f->claims);
    f->user[0] = f->used[0] = f->hint[0] = '\0';
    f->life_ms = f->refresh_ms = 0;
    f->record_count = 0;
    f->env = env;
    f->link = f->link_count = 0;
    f->begun = f->passing = 0;
    f->deadline = azri_after(now, f->conf->chain_ms);
    f->status = AZREDIS_AGAIN;
    f->phase = AZRI_FLOW_LINK;
}

static void azri_flow_free(azri_flow *f) {
    if (!f->mem) return;
    azri_flow_end(f, AZREDIS_E_CLOSED);
    azri_pair_free(&f->kept);
    f->phase = AZRI_FLOW_IDLE;
}

/* ==== >>token ============================================================= uses: core ===========
 * When to fetch the next token. Pure: times are milliseconds of the port's clock, `now` is an argument,
 * random numbers come from the caller's generator. Knows lives and hashes, never a token's bytes.
 *
 *   fetched --(soft point)--> due --(claim)--> fetching --got--> fetched
 *                              ^                   |
 *                              +---- next_try -----+ failed
 *
 * Always true: next_try is set; at most one claim is valid; a late result is worth no less for being late;
 * a failure changes nothing but next_try, so the old token serves until it expires.
 * Every absolute time shrinks with the token's life, so that a life of 5 s works like one of an hour.
 * Entry points: azri_token_due _deadline _claim _got _failed _rejected _accepted _forgive.
 * ================================================================================================ */

#define AZRI_TOKEN_HEADROOM  (5u * AZRI_MINUTE)    /* Microsoft asks that AUTH is done 3 min before expiry */
#define AZRI_TOKEN_SEED_TICK (2u * AZRI_MINUTE)    /* the timer of Microsoft.Azure.StackExchangeRedis */
#define AZRI_TOKEN_GRACE     (5u * AZRI_SECOND)    /* a walk that ends on its own deadline is not robbed */
#define AZRI_TOKEN_RETRY_MAX (24u * AZRI_HOUR)     /* a longer Retry-After is not believed */

typedef struct azri_token {
    azri_rng      *rng;
    azredis_policy policy;
    int            held;                    /* 1: the six members below describe a token */
    uint32_t       life_ms, refresh_ms;
    uint64_t       hash, sent_at, expires_at, soft_at;
    uint64_t       next_try, planned_at;    /* when to fetch next, and when that was decided */
    uint32_t       claim, claims;           /* number of the open claim or 0; numbers given so far */
    uint64_t       claimed_at, claim_until;
    uint32_t       failures;                /* fetches failed in a row */
    uint32_t       slow;                    /* steps taken on the slow lane */
    uint32_t       rejections;              /* by Redis, since it last accepted a token */
    int            refused;                 /* 1: a server rejected the held token */
} azri_token;

typedef enum azri_token_news {
    AZRI_TOKEN_NEW,                         /* taken: authenticate with it */
    AZRI_TOKEN_SAME,                        /* the held one again: nothing to do */
    AZRI_TOKEN_STALE                        /* expired, older than the held one, or rejected: not taken */
} azri_token_news;

static void azri_token_init(azri_token *t, azri_rng *rng, azredis_policy policy) {
    memset(t, 0, sizeof *t);
    t->rng = rng;
    t->policy = policy;
}

/* The port's clock must not go back. If it does all the same, a plan or a token from its future is void.
 * The tolerance is for pumps that read the clock before they took the lock. */
static AZRI_ONCE int azri_token_from_future(uint64_t then, uint64_t now) {
    return then > now && then - now > AZRI_WAIT_MAX;
}

/* 1: there is a token that may be shown to a server that has not refused it. One refusal may be the token's fault, and
 * a fresh one is on its way; if that brings nothing better, the server or its list of users is at fault, and others
 * who share the identity go on. */
static int azri_token_live(const azri_token *t, uint64_t now) {
    return t->held && (!t->refused || t->slow || t->failures) && now < t->expires_at &&
           !azri_token_from_future(t->sent_at, now);
}

/* Life left; negative: expired; AZREDIS_UNKNOWN: there has been no token. Also the outage budget. */
static int64_t azri_token_left(const azri_token *t, uint64_t now) {
    if (!t->held) return AZREDIS_UNKNOWN;
    return t->expires_at >= now ? (int64_t)(t->expires_at - now) : -(int64_t)(now - t->expires_at);
}

static uint32_t azri_token_headroom(uint32_t life_ms) { return azri_min32(AZRI_TOKEN_HEADROOM, life_ms / 4); }

/* By then Redis must have accepted the next token. */
static uint64_t azri_token_headroom_at(const azri_token *t) { return t->expires_at - azri_token_headroom(t->life_ms); }

static int azri_token_claimed(const azri_token *t, uint64_t now) {
    return t->claim && now < t->claim_until && !azri_token_from_future(t->claimed_at, now);
}

/* 1: somebody should fetch a token now. */
static int azri_token_due(const azri_token *t, uint64_t now) {
    if (azri_token_claimed(t, now)) return 0;
    return now >= t->next_try || azri_token_from_future(t->planned_at, now);
}

/* When to look again: never before now, never more than AZRI_WAIT_MAX after it. */
static uint64_t azri_token_deadline(const azri_token *t, uint64_t now) {
    uint64_t at = azri_token_claimed(t, now) ? t->claim_until : azri_token_due(t, now) ? now : t->next_try;
    return azri_min64(azri_max64(at, now), now + AZRI_WAIT_MAX);
}

/* The right to fetch: a number for the other calls, or 0 if no fetch is due or somebody else has it. Past
 * walk_ms and a grace it is void, so that a stopped owner does not starve the others. */
static uint32_t azri_token_claim(azri_token *t, uint64_t now, uint32_t walk_ms) {
    if (!azri_token_due(t, now)) return 0;
    t->claims = t->claims == UINT32_MAX ? 1 : t->claims + 1;
    t->claim = t->claims;
    t->claimed_at = now;
    t->claim_until = azri_after(azri_after(now, walk_ms), AZRI_TOKEN_GRACE);
    return t->claim;
}

/* Ends the claim if it is the open one: 1. A claim that others have taken over: 0. */
static int azri_token_end_claim(azri_token *t, uint32_t claim) {
    if (!claim || claim != t->claim) return 0;
    t->claim = 0;
    return 1;
}

#ifndef AZREDIS_NO_DEVICE_CODE
/* The owner of the open claim lives, and its walk goes on for walk_ms at least. */
static void azri_token_extend(azri_token *t, uint64_t now, uint64_t walk_ms) {
    t->claimed_at = now;
    t->claim_until = azri_after(azri_after(now, walk_ms), AZRI_TOKEN_GRACE);
}
#endif

/* The owner goes away without a result; others may claim at once. */
static void azri_token_drop(azri_token *t, uint32_t claim, uint64_t now) {
    if (!azri_token_end_claim(t, claim)) return;
    t->next_try = t->planned_at = now;
}

/* Where a token of this life should be renewed, counted from the moment its request was sent. */
static uint32_t azri_token_soft(const azri_token *t) {
    uint32_t latest = t->life_ms - azri_token_headroom(t->life_ms);
    if (t->refresh_ms > 0 && t->refresh_ms < t->life_ms) return azri_min32(t->refresh_ms, latest);
    return t->life_ms >= 2u * AZRI_HOUR ? t->life_ms / 2 : t->life_ms / 10 * 7;
}

/* The first tick of the seed policy with less than the headroom left. */
static uint64_t azri_token_seed_tick(const azri_token *t, uint64_t now) {
    uint64_t tick = azri_max64(azri_min64(AZRI_TOKEN_SEED_TICK, t->life_ms / 10), 1);
    uint64_t at = azri_token_headroom_at(t);
    return at <= now ? now + tick : now + (at - now + tick - 1) / tick * tick;
}

/* Next fetch at `at`, but after a pause that spares the authority, and not after the token's end. */
static void azri_token_plan(azri_token *t, uint64_t now, uint64_t at) {
    uint32_t pause = azri_min32(30u * AZRI_SECOND, t->life_ms / 20);
    t->planned_at = now;
    t->next_try = azri_min64(azri_max64(at, now + pause), azri_max64(t->expires_at, now));
}

static void azri_token_take(azri_token *t, uint64_t now, uint64_t sent_at, uint32_t life_ms,
                            uint32_t refresh_ms, uint64_t hash) {
    t->held = 1;
    t->refused = 0;
    t->hash = hash;
    t->sent_at = sent_at;
    t->life_ms = life_ms;
    t->refresh_ms = refresh_ms;
    t->expires_at = sent_at + life_ms;
    uint32_t soft = azri_token_soft(t);
    uint32_t early = azri_rng_below(t->rng, azri_min32(life_ms / 10, 30u * AZRI_MINUTE) + 1);
    t->soft_at = AZRI_WITH_STATS && t->policy == AZREDIS_POLICY_SEED ? azri_token_seed_tick(t, now)
                                                  : sent_at + (soft - azri_min32(early, soft));
    azri_token_plan(t, now, t->soft_at);
}

/* A step on the slow lane: 60 s, 5 min, 15 min, 15 min ...; up to a tenth less, so that a fleet with one
 * mistake does not come in step. Only a token that still serves justifies more haste. */
static uint32_t azri_token_slow_delay(azri_token *t, uint64_t now) {
    uint32_t delay = t->slow == 0 ? AZRI_MINUTE : t->slow == 1 ? 5u * AZRI_MINUTE : 15u * AZRI_MINUTE;
    if (t->slow < UINT32_MAX) t->slow++;
    if (azri_token_live(t, now) && !t->refused) delay = azri_min32(delay, t->life_ms / 10);
    return delay - azri_rng_below(t->rng, delay / 10 + 1);
}

static uint32_t azri_token_retry_delay(azri_token *t, uint64_t now) {
    uint32_t cap = !azri_token_live(t, now) ? 30u * AZRI_SECOND
                 : now >= azri_token_headroom_at(t) ? 10u * AZRI_SECOND : AZRI_MINUTE;
    uint32_t base = 2u * AZRI_SECOND;
    if (t->held) {
        cap = azri_or(azri_min32(cap, t->life_ms / 10), 1);
        base = azri_min32(base, cap);
    }
    return azri_backoff(t->rng, base, cap, t->failures);
}

/* The fetch failed. Not retryable: somebody must mend something, the slow lane looks whether they have. */
static void azri_token_failed(azri_token *t, uint32_t claim, uint64_t now, int retryable, uint32_t retry_after_ms) {
    if (!azri_token_end_claim(t, claim)) return;
    uint32_t delay = retryable ? azri_token_retry_delay(t, now) : azri_token_slow_delay(t, now);
    retry_after_ms = azri_min32(retry_after_ms, AZRI_TOKEN_RETRY_MAX);
    if (delay < retry_after_ms) delay = retry_after_ms;
    if (t->failures < UINT32_MAX) t->failures++;
    t->planned_at = now;
    t->next_try = now + delay;
}

/* A token came, asked for at sent_at. NEW: it is held from now on. Other news from the owner of the claim
 * plan the next fetch; from anybody else they change nothing. */
static azri_token_news azri_token_got(azri_token *t, uint32_t claim, uint64_t now, uint64_t sent_at,
                                      uint32_t life_ms, uint32_t refresh_ms, uint64_t hash) {
    uint32_t life = azri_min32(life_ms, AZRI_LIFE_MAX);
    int owner = claim && claim == t->claim, again = t->held && t->hash == hash;
    sent_at = azri_min64(sent_at, now);
    uint64_t expires = sent_at + life;
    /* What the forced fetch brings back unchanged is refused again. What a later fetch brings is tried: a
     * cache of a day's life would else hide for as long that the access policy has been mended. */
    if (now >= expires || (again && t->refused && t->slow == 0)) {
        azri_token_failed(t, claim, now, now >= expires, 0);
        return AZRI_TOKEN_STALE;
    }
    if (azri_token_live(t, now) && !t->refused && (again || expires <= t->expires_at)) {
        if (owner) {
            t->failures = 0;
            azri_token_plan(t, now, now + (t->expires_at - now) / 2);
        }
        (void)azri_token_end_claim(t, claim);
        return again ? AZRI_TOKEN_SAME : AZRI_TOKEN_STALE;
    }
    (void)azri_token_end_claim(t, claim);
    t->failures = 0;
    if (t->rejections == 0) t->slow = 0;
    azri_token_take(t, now, sent_at, life, refresh_ms, hash);
    return AZRI_TOKEN_NEW;
}

/* A server refused the token with this hash. The first time a fresh one is fetched at once; after that the
 * identity itself is at fault (not on the access policy list), which the slow lane looks at. It does not hold up the
 * renewal for others. */
static void azri_token_rejected(azri_token *t, uint64_t now, uint64_t hash) {
    if (!t->held || t->refused || t->hash != hash) return;
    t->refused = 1;
    t->next_try = t->rejections ? azri_min64(now + azri_token_slow_delay(t, now), azri_max64(t->next_try, now)) : now;
    t->planned_at = now;
    if (t->rejections < UINT32_MAX) t->rejections++;
}

/* One that had refused a token accepted this one: earlier rejections are forgotten. That others accept theirs says
 * nothing: with two servers of which one refuses, each new token would else be followed by the next at once. */
static void azri_token_accepted(azri_token *t, uint64_t hash) {
    if (!t->rejections || t->refused || t->hash != hash) return;
    t->rejections = t->slow = 0;
}

/* One that had refused is gone. */
static void azri_token_forgive(azri_token *t) { t->rejections = 0; }
/* ==== >>news ============================================================== uses: core fail ======
 * Events and log lines on their way to the user's handler: a fixed ring, so that reporting "out of
 * memory" needs no memory. When it is full, lines below warning go first, and are counted.
 * ================================================================================================ */

typedef struct azri_item {
    azredis_event_type type;
    azredis_level      level;
    int                number;
    int64_t            old_left_ms, new_left_ms, next_try_ms;
    uint32_t           dropped;
    azredis_connection connection;
    int                has_error;
    azredis_error      error;
    char               text[256];
} azri_item;

typedef struct azri_news {
    unsigned      first, count;
    unsigned      lent;                /* 1: the handler is looking at the first, which must stay where it is */
    uint32_t      dropped;
    azredis_connection speaker;        /* whose news come now */
    azredis_level level;               /* log lines above it are not even formatted */
    azri_item     item[AZRI_NEWS_MAX];
} azri_news;

/* The stable numbers of log lines; the manual lists them. */
enum {
    AZRI_LOG_TOKEN_START = 100, AZRI_LOG_TOKEN_OK, AZRI_LOG_TOKEN_FAILED, AZRI_LOG_TOKEN_SAME, AZRI_LOG_TOKEN_HINT,
    AZRI_LOG_IDENTITY, AZRI_LOG_TOKEN_REJECTED, AZRI_LOG_SIGN_IN, AZRI_LOG_NOT_SAVED,
    AZRI_LOG_CONNECT = 200, AZRI_LOG_CONNECTED, AZRI_LOG_CONNECT_FAILED, AZRI_LOG_LOST, AZRI_LOG_HANDSHAKE, AZRI_LOG_READY,
    AZRI_LOG_RESP2, AZRI_LOG_PROBE, AZRI_LOG_HANDOVER, AZRI_LOG_HANDED_OVER, AZRI_LOG_HANDOVER_FAILED,
    AZRI_LOG_AUTH = 300, AZRI_LOG_AUTH_OK, AZRI_LOG_AUTH_FAILED, AZRI_LOG_EXPIRING,
    AZRI_LOG_SUBSCRIBED = 400, AZRI_LOG_SUB_REFUSED, AZRI_LOG_PUSH_DROPPED,
    AZRI_LOG_CONFIG = 500
};

AZREDIS_API const char *azredis_event_name(azredis_event_type type) {
    static const char names[] = "?\0TokenRefreshed\0TokenRefreshFailed\0ConnectionReauthenticated\0"
                                "ConnectionReauthenticationFailed\0ConnectionFailed\0ConnectionRestored\0ErrorMessage\0"
                                "InternalError\0Log\0Drained\0DeviceCode";
    const char *name = names;
    if (type > AZREDIS_EV_DEVICE_CODE) return names;
    for (int i = 0; i < (int)type; i++) name += strlen(name) + 1;
    return name;
}

static azri_item *azri_news_at(azri_news *n, unsigned i) { return &n->item[(n->first + i) % AZRI_NEWS_MAX]; }

/* Makes room by dropping the oldest line below warning, else the oldest of all. */
static void azri_news_drop(azri_news *n) {
    unsigned i, at = n->lent;
    for (i = at; i < n->count; i++) {
        const azri_item *it = azri_news_at(n, i);
        if (it->type == AZREDIS_EV_LOG && it->level > AZREDIS_LOG_WARNING) { at = i; break; }
    }
    n->dropped += 1 + azri_news_at(n, at)->dropped;     /* what it told of is still to be told */
    for (i = at; i + 1 < n->count; i++) *azri_news_at(n, i) = *azri_news_at(n, i + 1);
    n->count--;
}

/* Nothing but the type and the error, which may be NULL. */
static azri_item *azri_item_clear(azri_item *it, azredis_event_type type, const azredis_error *e) {
    memset(it, 0, sizeof *it);
    it->type = type;
    it->old_left_ms = it->new_left_ms = it->next_try_ms = AZREDIS_UNKNOWN;
    it->has_error = e != NULL;
    if (e) it->error = *e;
    return it;
}

/* AZREDIS_UNKNOWN stands for a time that it has not. */
static void azri_item_times(azri_item *it, int64_t old_left_ms, int64_t new_left_ms, int64_t next_try_ms) {
    it->old_left_ms = old_left_ms;
    it->new_left_ms = new_left_ms;
    it->next_try_ms = next_try_ms;
}

/* For a log line; it NULL: of a level that nobody wants. */
#ifdef AZREDIS_NO_TEXT
#define azri_item_text(it, ...) (AZRI_UNSAID(__VA_ARGS__), (void)(it))
#else
static void azri_item_text(azri_item *it, const char *f, ...) AZRI_PRINTF(2, 3);
static void azri_item_text(azri_item *it, const char *f, ...) {
    va_list ap;
    if (!it) return;
    va_start(ap, f);
    (void)azri_vfmt(it->text, sizeof it->text, f, &ap);
    va_end(ap);
}
#endif

/* An item at the end of the ring. */
static azri_item *azri_news_add(azri_news *n, azredis_event_type type, const azredis_error *e) {
    if (n->count == AZRI_NEWS_MAX) azri_news_drop(n);
    azri_item *it = azri_item_clear(azri_news_at(n, n->count++), type, e);
    it->dropped = n->dropped;
    it->connection = n->speaker;
    n->dropped = 0;
    return it;
}

static void azri_news_event(azri_news *n, azredis_event_type type, const azredis_error *e, int64_t old_left_ms,
                            int64_t new_left_ms, int64_t next_try_ms) {
    if (AZRI_WITH_EVENTS) azri_item_times(azri_news_add(n, type, e), old_left_ms, new_left_ms, next_try_ms);
}

/* An event that is nothing but an error. */
static void azri_news_error(azri_news *n, azredis_event_type type, const azredis_error *e) {
    if (AZRI_WITH_EVENTS) (void)azri_news_add(n, type, e);
}

/* A log line without its text; NULL: of a level that nobody wants. */
static azri_item *azri_log_item(azri_news *n, azredis_level level, int number) {
    if (!AZRI_WITH_EVENTS || level > n->level) return NULL;
    azri_item *it = azri_news_add(n, AZREDIS_EV_LOG, NULL);
    it->level = level;
    it->number = number;
    return it;
}
#define azri_log(n, level, number, ...) azri_item_text(azri_log_item(n, level, number), __VA_ARGS__)

/* ==== >>refused =========================================================== uses: core ===========
 * Commands that would break the matching of answers on a connection that many share, or block it, and what to do
 * instead. Entry point: azri_refused.
 * ================================================================================================ */

/* What a command means on a leased connection. */
typedef enum azri_on_lease {
    AZRI_REFUSED_TOO,                   /* what it does would be the client's, not the connection's */
    AZRI_MARKS,                         /* the connection serves nobody else afterwards */
    AZRI_WATCHES, AZRI_FORGETS,         /* WATCH, UNWATCH */
    AZRI_BEGINS, AZRI_ENDS,             /* MULTI; EXEC, DISCARD */
    AZRI_BLOCKS,
    AZRI_NOTHING_SPECIAL
} azri_on_lease;

typedef struct azri_refusal { char word[13], sub[9]; azri_on_lease leased; const char *mend; } azri_refusal;
#define AZRI_REFUSAL(word, sub, mend) {word, sub, AZRI_REFUSED_TOO, AZRI_TEXT(mend)}
#define AZRI_LEASED(leased, word, sub, mend) {word, sub, leased, AZRI_TEXT(mend)}

/* Letters with which the table's words begin, and their lengths, as bits: abcde h m pqrs u wx; 4 to 12. */
#define AZRI_REFUSED_LETTERS 0x00d7909fu
#define AZRI_REFUSED_LENGTHS 0x00001ff0u

static const azri_refusal azri_refusals[] = {
    AZRI_REFUSAL("AUTH", "", "the library authenticates by itself"),
    AZRI_REFUSAL("HELLO", "", "use the option protocol"),
    AZRI_REFUSAL("RESET", "", "close the client instead"),
    AZRI_REFUSAL("QUIT", "", "use azredis_close"),
    AZRI_REFUSAL("MONITOR", "", "use redis-cli"),
    AZRI_REFUSAL("SYNC", "", "this is no replica"),
    AZRI_REFUSAL("PSYNC", "", "this is no replica"),
    AZRI_REFUSAL("REPLCONF", "", "this is no replica"),
    AZRI_REFUSAL("CLIENT", "REPLY", "use AZREDIS_NO_REPLY"),
    AZRI_LEASED(AZRI_MARKS, "CLIENT", "TRACKING", "client-side caching is not supported; use a lease"),
    AZRI_LEASED(AZRI_MARKS, "CLIENT", "SETNAME", "use the option client_name"),
    AZRI_LEASED(AZRI_MARKS, "SELECT", "", "use the option database, or a lease"),
    AZRI_LEASED(AZRI_BEGINS, "MULTI", "", "use azredis_exec with AZREDIS_ATOMIC, or a lease"),
    AZRI_LEASED(AZRI_ENDS, "EXEC", "", "use azredis_exec with AZREDIS_ATOMIC, or a lease"),
    AZRI_LEASED(AZRI_ENDS, "DISCARD", "", "use azredis_exec with AZREDIS_ATOMIC, or a lease"),
    AZRI_LEASED(AZRI_WATCHES, "WATCH", "", "use azredis_exec with conditions, or a lease"),
    AZRI_LEASED(AZRI_FORGETS, "UNWATCH", "", "use azredis_exec with conditions, or a lease"),
    AZRI_REFUSAL("SUBSCRIBE", "", "use azredis_subscribe"),
    AZRI_REFUSAL("UNSUBSCRIBE", "", "use azredis_unsubscribe"),
    AZRI_REFUSAL("PSUBSCRIBE", "", "use azredis_subscribe with AZREDIS_PATTERN"),
    AZRI_REFUSAL("PUNSUBSCRIBE", "", "use azredis_unsubscribe"),
    AZRI_REFUSAL("SSUBSCRIBE", "", "sharded channels are not supported yet; use azredis_subscribe"),
    AZRI_REFUSAL("SUNSUBSCRIBE", "", "sharded channels are not supported yet"),
    AZRI_LEASED(AZRI_BLOCKS, "BLPOP", "", "it blocks a shared connection; use azredis_block or LPOP"),
    AZRI_LEASED(AZRI_BLOCKS, "BRPOP", "", "it blocks a shared connection; use azredis_block or RPOP"),
    AZRI_LEASED(AZRI_BLOCKS, "BLMOVE", "", "it blocks a shared connection; use azredis_block or LMOVE"),
    AZRI_LEASED(AZRI_BLOCKS, "BRPOPLPUSH", "", "it blocks a shared connection; use azredis_block or LMOVE"),
    AZRI_LEASED(AZRI_BLOCKS, "BLMPOP", "", "it blocks a shared connection; use azredis_block or LMPOP"),
    AZRI_LEASED(AZRI_BLOCKS, "BZPOPMIN", "", "it blocks a shared connection; use azredis_block or ZPOPMIN"),
    AZRI_LEASED(AZRI_BLOCKS, "BZPOPMAX", "", "it blocks a shared connection; use azredis_block or ZPOPMAX"),
    AZRI_LEASED(AZRI_BLOCKS, "BZMPOP", "", "it blocks a shared connection; use azredis_block or ZMPOP"),
    AZRI_LEASED(AZRI_BLOCKS, "XREAD", "BLOCK", "it blocks a shared connection; use azredis_block, or leave BLOCK out"),
    AZRI_LEASED(AZRI_BLOCKS, "XREADGROUP", "BLOCK", "it blocks a shared connection; use azredis_block, or leave BLOCK out"),
    AZRI_LEASED(AZRI_NOTHING_SPECIAL, "WAIT", "", "it blocks a shared connection; use a lease"),
    AZRI_LEASED(AZRI_NOTHING_SPECIAL, "WAITAOF", "", "it blocks a shared connection; use a lease")
};

/* Where among the arguments that may be options, before the keys of STREAMS, `word` is; 0: it is not. The names behind
 * GROUP are the user's. */
static int azri_option_at(int argc, const azredis_str *argv, const char *word) {
    for (int i = argc > 1 && azri_ieqz(argv[1], "GROUP") ? 4 : 1; i < argc; i++) {
        if (azri_ieqz(argv[i], word)) return i;
        if (azri_ieqz(argv[i], "STREAMS")) return 0;
    }
    return 0;
}

static AZRI_APART const azri_refusal *azri_refusal_of(int argc, const azredis_str *argv) {
    char first = (char)(azri_lower(argv[0].ptr[0]) - 'a' + 'A');
    for (size_t i = 0; i < sizeof azri_refusals / sizeof azri_refusals[0]; i++) {
        const azri_refusal *r = &azri_refusals[i];
        if (r->word[0] != first || !azri_ieqz(argv[0], r->word)) continue;
        if (!r->sub[0] || (azri_eqz(azri_str(r->word), "CLIENT") ? argc > 1 && azri_ieqz(argv[1], r->sub)
                                                              : azri_option_at(argc, argv, r->sub)))
            return r;
    }
    return NULL;
}

/* Whoever has a leased connection. */
static azri_on_lease azri_on_lease_of(const azri_refusal *r) { return r ? r->leased : AZRI_NOTHING_SPECIAL; }

/* Every command is looked at. Most have no length or no first letter of the table's words. */
static inline const azri_refusal *azri_refused(int argc, const azredis_str *argv) {
    if (!AZRI_WITH_REFUSALS) return NULL;
    if (argv[0].len > 12 || !(AZRI_REFUSED_LENGTHS >> argv[0].len & 1u)) return NULL;
    char first = azri_lower(argv[0].ptr[0]);
    if (first < 'a' || first > 'z' || !(AZRI_REFUSED_LETTERS >> (first - 'a') & 1u)) return NULL;
    return azri_refusal_of(argc, argv);
}

/* ==== >>cmd =============================================================== uses: core mem fail reply resp ==
 * What travels through the sessions: credentials ready to be written, commands, and the queues that they
 * stand in. A command stands in one queue at a time and moves between them without a copy.
 * ================================================================================================ */

#define AZRI_WIPE_STEP      32u         /* of a command of the pool; divides AZRI_POOL_ROOM */
#define AZRI_DRAIN_MS       1000u       /* stop writing so long before expiry, if no new token was accepted */

/* Credentials, ready to be written. Counted within one client; wiped by the last drop. */
typedef struct azri_blob {
    const azri_mem *mem;
    uint32_t refs;
    uint32_t generation;
    uint64_t expires_at;                /* AZRI_NEVER64: a password */
    uint32_t life_ms;
    uint64_t hash;                      /* of the token */
    size_t   size, frame_len, jwt_at, jwt_len;
    char     user[64];
    char    *frame;                     /* AUTH user token, encoded; behind this struct */
} azri_blob;

/* The largest: "*3 $4 AUTH $63 user $16384 token", each with CR LF. */
#define AZRI_BLOB_ROOM (sizeof(azri_blob) + AZRI_TOKEN_MAX + 63 + 32)

static azri_blob *azri_blob_new(const azri_mem *m, const char *user, azredis_str jwt) {
    azredis_str argv[3];
    azri_blob *b;
    argv[0] = azri_str("AUTH");
    argv[1] = azri_str(user);
    argv[2] = jwt;
    size_t n = azri_resp_size(3, argv);
    size_t size = azri_room(m, sizeof *b + n, AZRI_BLOB_ROOM);
    b = (azri_blob *)azri_zalloc(m, size);
    if (!b) return NULL;
    b->mem = m;
    b->refs = 1;
    b->size = size;
    b->frame = (char *)(b + 1);
    b->frame_len = n;
    (void)azri_resp_write(b->frame, 3, argv);
    b->jwt_len = jwt.len;
    b->jwt_at = n - 2 - jwt.len;
    b->expires_at = AZRI_NEVER64;
    b->hash = azri_hash64(jwt.ptr, jwt.len);
    azri_copy(b->user, sizeof b->user, user);
    return b;
}

static azredis_str azri_blob_jwt(const azri_blob *b) {
    return b ? azri_slice(b->frame + b->jwt_at, b->jwt_len) : azri_slice("", 0);
}

static azri_blob *azri_blob_hold(azri_blob *b) {
    if (b) b->refs++;
    return b;
}

static void azri_blob_drop(azri_blob *b) {
    if (!b || --b->refs) return;
    size_t size = b->size;
    const azri_mem *m = b->mem;
    azri_wipe(b, size);
    azri_free(m, b, size);
}

/* A password. */
static int azri_blob_endless(const azri_blob *b) { return AZRI_WITH_PASSWORDS && b->expires_at == AZRI_NEVER64; }

/* Time left, for events; unknown for a password. */
static int64_t azri_blob_left(const azri_blob *b, uint64_t now) {
    if (!b || azri_blob_endless(b)) return AZREDIS_UNKNOWN;
    return (int64_t)b->expires_at - (int64_t)now;          /* below 0: ended */
}

/* From then on nothing is written with these credentials, nor is a connection made. */
static AZRI_ONCE uint64_t azri_blob_drain_at(const azri_blob *b) {
    if (azri_blob_endless(b)) return AZRI_NEVER64;
    return b->expires_at - azri_min32(AZRI_DRAIN_MS, b->life_ms / 20);
}

typedef enum azri_kind {
    AZRI_CMD_USER,
    AZRI_CMD_AUTH, AZRI_CMD_HELLO, AZRI_CMD_SETTING, AZRI_CMD_SELECT, AZRI_CMD_READY,  /* the handshake */
    AZRI_CMD_REAUTH, AZRI_CMD_FENCE,
    AZRI_CMD_PING,
    AZRI_CMD_MARK,                      /* a PING: what came before it on this connection has been read */
    AZRI_CMD_SUBSCRIBE, AZRI_CMD_UNSUBSCRIBE
} azri_kind;

typedef struct azri_cmd azri_cmd;
struct azri_cmd {
    azri_kind        kind;              /* a new member: see azri_cmd_init */
    uint8_t          sent;              /* the last byte was accepted by TLS */
    uint8_t          linked;            /* stands in the backlog or a FIFO */
    uint8_t          finished;          /* the caller has been told: a late answer is read and dropped */
    uint8_t          in_done;           /* stands in the list of finished commands */
    uint8_t          told;              /* it has left that list once */
    uint8_t          in_calls;          /* stands in the list of callbacks */
    uint8_t          no_reply, no_queue;
    uint32_t         serial;            /* of the connection that a SUBSCRIBE was queued for */
    azredis_reply_fn fn;
    void            *user;
    azredis_sub     *sub;
    struct azri_session *on;            /* in the backlog: the one it waits for; NULL: the shared one */
    int             *done;              /* a blocking caller's flag */
    azri_cmd        *next;              /* in the backlog or in a session's FIFO */
    azri_cmd        *done_next;         /* in the list of finished commands */
    azri_cmd        *call_next;         /* in the list of callbacks to be made */
    const char      *bytes;             /* the frame */
    size_t           len;               /* of it, the value included */
    const char      *value;             /* a large argument that the frame's bytes lack; the caller lends it. NULL: none */
    char            *copy;              /* of the value: it is ours by now */
    size_t           value_at, value_len;
    uint64_t         deadline;
    uint32_t         within;            /* not 0: so many ms from the next turn on; deadline is not known before */
    uint32_t         written;           /* when; the clock's lower half */
    size_t           room;              /* bytes that this object can hold behind itself; 0: not from the pool */
    azredis_reply   *reply;             /* the caller's, or &own */
    azredis_reply    own;
};

static AZRI_INLINE void azri_cmd_init(azri_cmd *c, size_t frame) {
    /* Member by member, and the queues set the rest: a memset of all that costs a pipelined command a tenth more. */
    c->kind = AZRI_CMD_USER;
    c->sent = c->linked = c->finished = c->in_done = c->told = c->in_calls = c->no_reply = c->no_queue = 0;
    c->serial = 0;
    c->fn = NULL;
    c->user = NULL;
    c->sub = NULL;
    c->on = NULL;
    c->done = NULL;
    c->deadline = AZRI_NEVER64;
    c->within = 0;
    c->bytes = (const char *)(c + 1);
    c->len = frame;
    c->value = c->copy = NULL;
    c->value_len = 0;
    c->reply = &c->own;
}

static const char *azri_cmd_value(const azri_cmd *c) { return AZRI_WITH_SHORT_CUTS ? c->value : NULL; }

/* The bytes of the frame that stand in one piece from `at` on; *n: how many. */
static inline const char *azri_cmd_piece(const azri_cmd *c, size_t at, size_t *n) {
    if (!azri_cmd_value(c) || at < c->value_at) {
        *n = (azri_cmd_value(c) ? c->value_at : c->len) - at;
        return c->bytes + at;
    }
    if (at - c->value_at < c->value_len) {
        *n = c->value_len - (at - c->value_at);
        return c->value + (at - c->value_at);
    }
    *n = c->len - at;
    return c->bytes + (at - c->value_len);
}

static inline void azri_cmd_wipe(azri_cmd *c) {
    char *p = (char *)(c + 1), *end = p + (c->len - c->value_len);
    if (!AZRI_WITH_SHORT_CUTS || c->room != AZRI_POOL_ROOM) {
        azri_wipe(p, (size_t)(end - p));
        return;
    }
    for (; p < end; p += AZRI_WIPE_STEP) azri_wipe(p, AZRI_WIPE_STEP);     /* a length that the compiler knows */
}

/* ---- their memory ---- */

/* Command objects at rest, for the next ones; the memory of their answers is used again, too. */
typedef struct azri_stock {
    const azri_mem *mem;
    azri_cmd *first;                    /* each for a frame of AZRI_POOL_ROOM */
    uint32_t  count;
    azri_cmd *large;                    /* the largest yet of those that are larger, up to AZRI_LARGE_ROOM */
} azri_stock;

static inline azri_cmd *azri_stock_first(azri_stock *st, size_t frame) {
    azri_cmd *c = st->first;
    st->first = c->next;
    st->count--;
    azri_cmd_init(c, frame);
    return c;
}

/* NULL: out of memory. */
static azri_cmd *azri_stock_take(azri_stock *st, size_t frame) {
    const azri_shape *shape = azri_shape_of(st->mem);
    size_t room = shape ? azri_room(st->mem, frame, shape->command) : frame <= AZRI_POOL_ROOM ? AZRI_POOL_ROOM : frame;
    if (room == AZRI_POOL_ROOM && st->first) return azri_stock_first(st, frame);
    azri_cmd *c = AZRI_WITH_SHORT_CUTS ? st->large : NULL;
    if (c && room > AZRI_POOL_ROOM && room <= c->room) {
        st->large = NULL;
        azri_cmd_init(c, frame);
        return c;
    }
    if (room > SIZE_MAX - sizeof *c) return NULL;
    c = (azri_cmd *)azri_alloc(st->mem, sizeof *c + room);
    if (!c) return NULL;
    memset(&c->own, 0, sizeof c->own);
    c->room = room;
    azri_cmd_init(c, frame);
    return c;
}

static void azri_stock_free_cmd(azri_stock *st, azri_cmd *c) {
    if (!c) return;
    azredis_reply_free(&c->own);
    azri_free(st->mem, c, sizeof *c + c->room);
}

/* One that the pool does not keep. */
static AZRI_APART void azri_stock_give_other(azri_stock *st, azri_cmd *c) {
    azri_cmd *kept = st->large;
    if (AZRI_WITH_SHORT_CUTS && !azri_shape_of(st->mem) && c->room > AZRI_POOL_ROOM && c->room <= AZRI_LARGE_ROOM &&
        (!kept || kept->room < c->room)) {
        st->large = c;
        c = kept;
    }
    azri_stock_free_cmd(st, c);
}

/* The arguments are wiped: they may be secrets of the caller. */
static inline void azri_stock_give(azri_stock *st, azri_cmd *c) {
    azri_cmd_wipe(c);
    if (azri_cmd_value(c) && c->copy) {
        azri_wipe(c->copy, c->value_len);
        azri_free(st->mem, c->copy, c->value_len);
    }
    if (c->own.mem.size > AZRI_POOL_REPLY) azredis_reply_free(&c->own);
    if (azri_shape_of(st->mem) || c->room != AZRI_POOL_ROOM || st->count >= AZRI_POOL_MAX) {
        azri_stock_give_other(st, c);
        return;
    }
    c->next = st->first;
    st->first = c;
    st->count++;
}

static void azri_stock_idle(azri_stock *st) {
    azri_stock_free_cmd(st, st->large);
    st->large = NULL;
}

static void azri_stock_free(azri_stock *st) {
    azri_cmd *c;
    azri_stock_idle(st);
    while ((c = st->first) != NULL) {
        st->first = c->next;
        azri_stock_free_cmd(st, c);
    }
}

/* ---- queues ---- */

typedef struct azri_queue {
    azri_cmd *head, *tail;
    azri_cmd *fresh;                    /* before it none is without a deadline; NULL: none is */
    uint32_t  count;
    size_t    bytes;
} azri_queue;

/* Inserts c, which has its deadline, behind `at`; at NULL: as the first. */
static AZRI_INLINE void azri_queue_insert(azri_queue *q, azri_cmd *at, azri_cmd *c) {
    azri_cmd **link = at ? &at->next : &q->head;
    c->next = *link;
    *link = c;
    if (!c->next) q->tail = c;
    c->linked = 1;
    q->count++;
    q->bytes += c->len;
}

static AZRI_ALONG void azri_queue_push(azri_queue *q, azri_cmd *c) {
    if (c->within && !q->fresh) q->fresh = c;
    azri_queue_insert(q, q->tail, c);
}

/* Takes out the one behind `at`; at NULL: the first. */
static azri_cmd *azri_queue_take(azri_queue *q, azri_cmd *at) {
    azri_cmd *c = at ? at->next : q->head;
    if (at) at->next = c->next;
    else q->head = c->next;
    if (q->tail == c) q->tail = at;
    if (q->fresh == c) q->fresh = c->next;
    q->count--;
    q->bytes -= c->len;
    c->next = NULL;
    c->linked = 0;
    return c;
}

/* Commands are queued without a look at the clock: the next turn gives them their deadlines. Returns the earliest. */
static uint64_t azri_queue_stamp(azri_queue *q, uint64_t now) {
    uint64_t first = AZRI_NEVER64, at = 0;
    uint32_t ms = 0;
    for (azri_cmd *c = q->fresh; c; c = c->next) {
        if (!c->within) continue;
        if (c->within != ms) {          /* mostly all have the same */
            ms = c->within;
            at = azri_after(now, ms);
            azri_sooner(&first, at);
        }
        c->deadline = at;
        c->within = 0;
    }
    q->fresh = NULL;
    return first;
}

/* Finished commands on their way to their callers. */
typedef struct azri_done { azri_cmd *head, *tail; } azri_done;

static void azri_done_push(azri_done *d, azri_cmd *c) {
    c->done_next = NULL;
    c->finished = c->in_done = 1;
    if (d->tail) d->tail->done_next = c;
    else d->head = c;
    d->tail = c;
}

static void azri_done_fail(azri_done *d, azri_cmd *c, const azri_mem *m, azredis_fate fate, const azredis_error *e) {
    azri_reply_reset(c->reply, fate);
    azri_reply_error(c->reply, m, e);
    azri_done_push(d, c);
}

/* ==== >>slices ============================================================ uses: core fail text refused cmd ==
 * Blocking commands in slices: a connection must be shown a new token now and then, and cannot be while a command blocks
 * it. Which commands these are, where their timeout stands and what is written in its place, and what a slice's answer
 * means. Entry points: azri_slices_of, _ms, _timeout, _go_on.
 * ================================================================================================ */

#ifndef AZREDIS_NO_MALLOC
#define AZRI_SLICE_MAX  30000u          /* ms: so late is a dead connection found */
#define AZRI_ID_ROOM    48u             /* of an entry of a stream: two numbers of 64 bits */

typedef struct azri_slices {
    int      at;                        /* the argument that is the timeout */
    int      in_ms;                     /* it is in ms, else in seconds */
    int      ids;                       /* XREAD, which takes nothing away: its first id. 0: another command */
    uint64_t until;                     /* its end; AZRI_NEVER64: none */
    char     timeout[24];
} azri_slices;

/* Seconds as 5 or 0.25. What is less than a millisecond counts as one: 0 is for ever. */
static int azri_slices_seconds(azredis_str text, uint64_t *ms) {
    size_t dot = azri_find(text, '.'), i;
    uint64_t whole = 0, part = 0, unit = 1000;
    if (text.len == 0 || (dot && !azri_u64(azri_slice(text.ptr, dot), &whole)) || whole > UINT32_MAX) return 0;
    for (i = dot + 1; i < text.len; i++) {
        if (!azri_is_digit(text.ptr[i])) return 0;
        if (unit > 1) part += (unit /= 10) * (uint64_t)(text.ptr[i] - '0');
        else if (text.ptr[i] > '0' && !part && !whole) part = 1;
    }
    *ms = whole * 1000 + part;
    return dot > 0 || text.len > 1;
}

/* 0: this is no blocking command, or its timeout cannot be read. limit: when it ends at the latest. */
static int azri_slices_of(azri_slices *b, int argc, const azredis_str *argv, uint64_t now, uint64_t limit) {
    const azri_refusal *r = argc > 1 && argv[0].len ? azri_refusal_of(argc, argv) : NULL;
    uint64_t ms;
    int streams;
    memset(b, 0, sizeof *b);
    if (azri_on_lease_of(r) != AZRI_BLOCKS) return 0;
    if (r->sub[0]) {
        b->at = azri_option_at(argc, argv, "BLOCK") + 1;
        if (b->at == 1 || b->at >= argc || !azri_u64(argv[b->at], &ms) || ms > AZRI_NEVER64 / 2) return 0;
        b->in_ms = 1;
        streams = azri_option_at(argc, argv, "STREAMS");
        if (azri_eqz(azri_str(r->word), "XREAD") && streams && (argc - streams) % 2 == 1) b->ids = (argc + streams + 1) / 2;
    } else {
        b->at = azri_eqz(azri_str(r->word + 2), "MPOP") ? 1 : argc - 1;
        if (!azri_slices_seconds(argv[b->at], &ms)) return 0;
    }
    b->until = azri_min64(ms ? now + ms : AZRI_NEVER64, limit);
    return 1;
}

/* How many ms the next slice blocks. A new token that comes meanwhile must still be in time after it: so at most half of
 * what the old one has left. blob: NULL if it is gone. */
static uint64_t azri_slices_ms(const azri_slices *b, const azri_blob *blob, uint64_t now) {
    uint64_t ms = azri_min64(AZRI_SLICE_MAX, b->until - azri_min64(now, b->until));
    if (blob && !azri_blob_endless(blob)) {
        uint64_t end = azri_blob_drain_at(blob);
        ms = azri_min64(azri_min64(ms, blob->life_ms / 4), (end - azri_min64(now, end)) / 2);
    }
    return azri_max64(ms, 1);
}

/* What stands for it in the place of the timeout. */
static azredis_str azri_slices_timeout(azri_slices *b, uint64_t ms) {
    azri_out o = azri_out_to(b->timeout, sizeof b->timeout);
    azri_out_number(&o, b->in_ms ? ms : ms / 1000, 0, 10, 0, ' ');
    if (!b->in_ms) {
        azri_out_char(&o, '.');
        azri_out_number(&o, ms % 1000, 0, 10, 3, '0');
    }
    azri_out_end(&o);
    return azri_str(b->timeout);
}

/* 1: the slice ended so that another one follows: empty, or with a connection that took nothing along. */
static int azri_slices_go_on(const azri_slices *b, const azredis_reply *r, uint64_t now) {
    if (now >= b->until) return 0;
    if (r->fate == AZREDIS_ANSWERED) return r->value && r->value->type == AZREDIS_T_NIL;
    return r->error && r->error->retryable && (r->fate == AZREDIS_NOT_SENT || b->ids);
}
#endif

/* ==== >>session =========================================================== uses: core mem fail text reply resp news cmd ==
 * One connection to one Redis server, from the first byte after TLS to the end. Pure: bytes, tokens and times come in,
 * bytes, finished commands and news go out; the pump does the I/O. Commands leave in the order of the FIFO and replies
 * are matched to its head; a frame that matches nothing ends the connection, because after a doubt every later answer
 * may be somebody else's.
 * Sources: Redis protocol specification; the AUTH fence is explained at azri_session_reauth.
 * Entry points: azri_session_opened, _push_cmd, _output, _frame, _token; see also >>ends.
 * ================================================================================================ */

#define AZRI_NONCE_LEN      32          /* hex digits: 128 bits, unrepeated */
#define AZRI_HANDSHAKE_MAX  512         /* HELLO, CLIENT SETNAME/SETINFO x2, SELECT, PING */
#define AZRI_NAME_MAX       64          /* client name */
#define AZRI_WORDS_MAX      4           /* arguments of a command of ours */
#define AZRI_DEAD_MS        10000u      /* silence on an outstanding command, at least */
#define AZRI_HEALTHY_MS     10000u      /* a connection must live so long before the back-off starts anew */
#define AZRI_CONNECT_RETRY  3u          /* as in StackExchange.Redis */
#define AZRI_RECONNECT_BASE 200u
#define AZRI_RECONNECT_CAP  30000u
#define AZRI_REAUTH_BASE    5000u       /* retry of a failed re-authentication: 5, 10, 20 .. 60 s */
#define AZRI_REAUTH_CAP     60000u
#define AZRI_SLOW_AUTH      1000u       /* ms; commands would wait so long behind the next one */
#define AZRI_REPLACE_LEFT   60000u      /* ms before expiry (life/10 at most) from which AUTH is not tried again in place */

#ifdef AZREDIS_LEAN
/* What of azredis_stats_data is counted, or named where nothing is. */
typedef struct azri_counts {
    uint64_t messages, messages_lost, commands_ok, commands_failed, bytes_in, bytes_out, pushes_dropped;
    uint32_t connects, reconnects, reauths, reauth_failures, handovers;
} azri_counts;
#else
typedef azredis_stats_data azri_counts;         /* the rest of it is filled when asked for */
#endif

typedef struct azri_session_conf {
    int         protocol;               /* 2 or 3 */
    uint32_t    database, auth_ms, command_ms, keepalive_ms;
    size_t      max_reply;
    const char *endpoint;               /* "host:port" for messages */
    azredis_reauth reauth;
    char        name[AZRI_NAME_MAX];
} azri_session_conf;

typedef enum azri_state {
    AZRI_DOWN,                          /* no connection; dial_at says when to dial */
    AZRI_DIALING,                       /* the pump is connecting */
    AZRI_HANDSHAKE,                     /* AUTH, HELLO ... have been queued */
    AZRI_READY,                         /* commands flow */
    AZRI_DRAINING                       /* the token ends: nothing new is written, answers are awaited */
} azri_state;

typedef struct azri_session azri_session;

/* Of a connection that is leased. */
struct azredis_lease {
    azredis_client *client;             /* NULL: nobody has it */
    azri_session   *session;
    uint64_t        idle_until;         /* if nobody comes it is closed then */
    int             multi, watching, marked;
    int             proved;             /* MULTI is allowed there */
};

/* Small members come first here and in the other large structs: a microcontroller reaches 128 bytes with its short
 * instructions, 1 KB with those for 64 bits. */
struct azri_session {
    azri_state   state;
    int          gate;                  /* 1: a PING must be answered before anything else is written */
    int          resp3, no_fence;
    size_t       offset;                /* bytes already taken of the first unsent one */
    uint32_t     in_flight;
    azri_cmd    *last_sent;             /* last of the sent ones; NULL: none is */
    azri_queue   fifo;                  /* in the order of the wire: sent ones, then the others */
    azri_blob   *blob;                  /* accepted by the server */
    azri_blob   *trying;                /* in the AUTH that is under way */
    azri_blob   *fresh;                 /* newer than blob, to be presented at auth_at */
    const azri_mem          *mem;
    const azri_session_conf *conf;
    azri_rng                *rng;
    azri_news               *news;
    azri_done               *done;
    azri_counts             *counts;    /* of the client */
    azri_session            *next;      /* the hub's list */
    void                    *link;      /* the pump's */
    const char  *wants_close;           /* why it must be closed; NULL: it need not */
    const char  *replace;               /* why it shall be replaced; NULL: it shall not */
    int          auth_answered;         /* of the running fence: 0 not yet, 1 OK, -1 refused */
    uint32_t     auth_failures;
    uint32_t     attempts;              /* failed ones in a row */
    uint32_t     odd_refusals;
    int          was_ready, failed;     /* once in its life; failed: ConnectionFailed was told */
    uint32_t     serial;                /* of the connection, among all of this client */
    azredis_connection role;
    int          undivided;             /* LEASED: a transaction or a blocking command is under way: no AUTH, no PING within */
    int          marked;                /* the mark has been answered; the hub takes it */
    uint64_t     auth_at, auth_sent_at, auth_took;
    uint64_t     rejected;              /* hash of a token that the server refused; the hub takes it */
    uint64_t     opened_at, ready_at, last_read, last_write, waiting_since, handshake_until, ping_until;
    uint64_t     next_deadline;         /* lower bound of the FIFO's deadlines */
    uint64_t     dial_at;
    /* The hub's, for a handover. */
    azri_session *heir, *elder;         /* who takes this one's place; whose place it takes */
    uint64_t      heir_at;              /* no heir before: there was no memory for one */
    int           leaving;              /* nothing new is written to it, its last answers are awaited */
    uint64_t      leave_until;
    int           holding;              /* it has taken over; its messages are held until its mark is answered */
    int           gone;                 /* replaced, or a lease's that ended; freed once the pump has closed its link */
    azredis_lease lease;
    azri_resp     resp;
    azri_cmd      auth, fence, ping, mark;  /* reserved for life: renewing never competes for memory */
    char          nonce[AZRI_NONCE_LEN + 1], ping_nonce[AZRI_NONCE_LEN + 1], mark_nonce[AZRI_NONCE_LEN + 1];
    char          fence_bytes[64], ping_bytes[64], mark_bytes[64];
    azredis_error error;                /* why it is down; while it is up, where its errors are made */
    azredis_error auth_error;
    azri_cmd      handshake[6];         /* AUTH first; of the others the frames are in hs_bytes */
    unsigned      steps;
    char          hs_bytes[AZRI_HANDSHAKE_MAX], *hs_end;
};

static void azri_session_init(azri_session *s, const azri_mem *m, const azri_session_conf *conf, azri_rng *rng,
                              azri_news *news, azri_done *done, azri_counts *counts) {
    memset(s, 0, sizeof *s);
    s->mem = m;
    s->conf = conf;
    s->rng = rng;
    s->news = news;
    s->done = done;
    s->counts = counts;
    s->next_deadline = s->auth_at = AZRI_NEVER64;
    azri_resp_init(&s->resp, m, conf->max_reply);
}

/* What a client with several connections makes of a session; constants where it has one. */
static azri_session *azri_heir(const azri_session *s) { return AZRI_WITH_HANDOVER ? s->heir : NULL; }
static azri_session *azri_elder(const azri_session *s) { return AZRI_WITH_HANDOVER ? s->elder : NULL; }
static int azri_leaving(const azri_session *s) { return AZRI_WITH_HANDOVER && s->leaving; }
static int azri_holding(const azri_session *s) { return AZRI_WITH_HANDOVER && s->holding; }
static int azri_gone(const azri_session *s) { return AZRI_WITH_HANDOVER && s->gone; }
static azri_session *azri_next(const azri_session *s) { return AZRI_WITH_HANDOVER ? s->next : NULL; }
static int azri_undivided(const azri_session *s) { return AZRI_WITH_HANDOVER && s->undivided; }
static azredis_connection azri_role(const azri_session *s) {
    return AZRI_WITH_HANDOVER ? s->role : AZREDIS_CONNECTION_SHARED;
}

/* For an event of this connection. */
static azri_news *azri_session_news(const azri_session *s) {
    if (AZRI_WITH_EVENTS) s->news->speaker = azri_role(s);
    return s->news;
}

/* A subscriber over RESP2 may not send AUTH. */
static int azri_deaf(const azri_session *s) {
    return AZRI_WITH_RESP2 && azri_role(s) == AZREDIS_CONNECTION_PUBSUB && !s->resp3;
}

static AZRI_ONCE void azri_session_set_blob(azri_blob **slot, azri_blob *b) {
    (void)azri_blob_hold(b);
    azri_blob_drop(*slot);
    *slot = b;
}

static void azri_session_free(azri_session *s) {
    azri_session_set_blob(&s->blob, NULL);
    azri_session_set_blob(&s->trying, NULL);
    azri_session_set_blob(&s->fresh, NULL);
    azri_resp_free(&s->resp);
}

/* ---- queueing ---- */

/* The first command that is not wholly sent, or NULL. */
static azri_cmd *azri_session_unsent(const azri_session *s) {
    return s->last_sent ? s->last_sent->next : s->fifo.head;
}

static AZRI_ALONG void azri_session_append(azri_session *s, azri_cmd *c) {
    c->sent = 0;
    azri_queue_push(&s->fifo, c);
    azri_sooner(&s->next_deadline, c->deadline);
}

/* A command of ours. Its deadline is the session's own. */
static AZRI_ONCE void azri_session_prepare(azri_cmd *c, azri_kind kind, const char *bytes, size_t len) {
    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->bytes = bytes;
    c->len = len;
    c->deadline = AZRI_NEVER64;
    c->finished = 1;
}

/* The same, encoded at `bytes`: the words that blanks divide, and `last` if it is not NULL. Returns the end. */
static char *azri_session_words(azri_cmd *c, azri_kind kind, char *bytes, const char *words, const char *last) {
    azredis_str argv[AZRI_WORDS_MAX];
    const char *end;
    int n = 0;
    for (; *words; words = *end ? end + 1 : end) {
        for (end = words; *end && *end != ' '; end++) {}
        argv[n++] = azri_slice(words, (size_t)(end - words));
    }
    if (last) argv[n++] = azri_str(last);
    end = azri_resp_write(bytes, n, argv);
    azri_session_prepare(c, kind, bytes, (size_t)(end - bytes));
    return bytes + c->len;
}

/* How long a connection is given that must show that it lives. */
static uint64_t azri_session_grace(const azri_session_conf *conf, uint64_t now) {
    return azri_after(now, conf->command_ms == AZREDIS_NEVER ? AZRI_DEAD_MS : conf->command_ms / 2);
}

/* Idle longer than the keepalive: a middlebox may have dropped the connection without a word. One PING
 * goes first and everything else waits for its answer, so that a user's command is never lost to that. */
static void azri_session_probe(azri_session *s, uint64_t now) {
    azri_rng_hex(s->rng, s->ping_nonce, AZRI_NONCE_LEN);
    (void)azri_session_words(&s->ping, AZRI_CMD_PING, s->ping_bytes, "PING", s->ping_nonce);
    azri_queue_insert(&s->fifo, NULL, &s->ping);
    s->gate = 1;
    s->ping_until = azri_session_grace(s->conf, now);
    azri_log(s->news, AZREDIS_LOG_DEBUG, AZRI_LOG_PROBE, "%s: PING after %llu ms of silence", s->conf->endpoint,
             (unsigned long long)(now - azri_min64(now, s->last_read)));
}

/* The last command of a connection that is given up, and the first of the one that takes its place. */
static void azri_session_mark(azri_session *s) {
    azri_rng_hex(s->rng, s->mark_nonce, AZRI_NONCE_LEN);
    (void)azri_session_words(&s->mark, AZRI_CMD_MARK, s->mark_bytes, "PING", s->mark_nonce);
    azri_session_append(s, &s->mark);
}

/* Nothing is under way, nor waits but what users ask for. */
static int azri_session_idle_too_long(const azri_session *s, uint64_t now) {
    const azri_cmd *c = s->fifo.head;
    if (c && (c->sent || s->offset || (c->kind != AZRI_CMD_USER && c->kind < AZRI_CMD_SUBSCRIBE))) return 0;
    if (s->conf->keepalive_ms == AZREDIS_NEVER || azri_undivided(s)) return 0;
    return now < s->last_read || now - s->last_read >= s->conf->keepalive_ms;      /* a clock may go back */
}

/* Only in READY. */
static inline void azri_session_push_cmd(azri_session *s, azri_cmd *c) {
    AZREDIS_ASSERT(s->state == AZRI_READY);
    azri_session_append(s, c);
}

/* ---- output ---- */

/* 1: c may be written now. */
static int azri_session_may_write(const azri_session *s, const azri_cmd *c) {
    if (s->wants_close) return 0;
    if (s->offset) return 1;                                   /* a frame once begun is finished */
    if (s->gate) return c->kind == AZRI_CMD_PING;
    if (s->trying && s->no_fence && s->state == AZRI_READY)    /* quiesced re-authentication */
        return c->kind == AZRI_CMD_REAUTH && s->in_flight == 0;
    return s->state != AZRI_DRAINING || c->kind == AZRI_CMD_MARK;
}

static void azri_session_sent(azri_session *s, azri_cmd *c, uint64_t now) {
    c->sent = 1;
    if (AZRI_WITH_STATS) c->written = (uint32_t)now;
    s->last_sent = c;
    s->offset = 0;
    if (s->in_flight++ == 0) s->waiting_since = now;
    if (c->kind == AZRI_CMD_REAUTH) s->auth_sent_at = now;
}

/* 1: nothing is held back, whatever it is. */
static int azri_session_flows(const azri_session *s) {
    return s->state == AZRI_READY && !s->wants_close && !s->gate && !(s->trying && s->no_fence);
}

/* What is to be written next, at most cap bytes, for one TLS record. They are copied to out; with `lent` a part of a
 * lent value is not, but stands at *lent, which else is out. What it returns counts as written: the caller hands it
 * to TLS at once, and TLS or the caller keeps what cannot be sent yet. */
static size_t azri_session_output(azri_session *s, char *out, size_t cap, uint64_t now, const char **lent) {
    size_t n = 0, k;
    if (s->state == AZRI_READY && azri_session_idle_too_long(s, now)) azri_session_probe(s, now);
    int flows = azri_session_flows(s);
    azri_cmd *c = azri_session_unsent(s);
    while (c && n < cap && (flows || azri_session_may_write(s, c))) {
        if (AZRI_WITH_SHORT_CUTS && !s->offset && !c->value && c->len <= cap - n) {      /* as most are */
            n = (size_t)(azri_put(out + n, c->bytes, c->len) - out);
            azri_session_sent(s, c, now);
            c = c->next;
            continue;
        }
        const char *p = azri_cmd_piece(c, s->offset, &k);
        int stands = lent && azri_cmd_value(c) && s->offset >= c->value_at && s->offset - c->value_at < c->value_len;
        if (stands && n) break;
        k = azri_minz(cap - n, k);
        if (stands) *lent = p;
        else (void)azri_put(out + n, p, k);
        n += k;
        s->offset += k;
        if (s->offset == c->len) {
            azri_session_sent(s, c, now);
            c = c->next;
        }
        if (stands) break;
    }
    if (AZRI_WITH_STATS && n) s->last_write = now;
    AZRI_COUNT(s->counts->bytes_out, n);
    return n;
}

static int azri_session_has_output(const azri_session *s) {
    const azri_cmd *c = azri_session_unsent(s);
    return c && azri_session_may_write(s, c);
}

/* ---- the end of a command ---- */

static void azri_session_finish(azri_session *s, azri_cmd *c, azredis_fate fate, const azredis_error *e) {
    if (!c->finished) azri_done_fail(s->done, c, s->mem, fate, e);
}

/* A tombstone has left the FIFO: through the list of finished commands its memory finds the way home. */
static void azri_session_retire(azri_session *s, azri_cmd *c) {
    if (c->reply && !c->in_done) azri_done_push(s->done, c);
}

static inline azri_cmd *azri_session_pop(azri_session *s) {
    azri_cmd *c = azri_queue_take(&s->fifo, NULL);
    if (s->last_sent == c) s->last_sent = NULL;
    s->in_flight--;
    return c;
}

/* ---- what a server's error says ---- */

static int azri_begins(azredis_str text, const char *with) {
    size_t n = strlen(with);
    return text.len >= n && azri_ieq(azri_slice(text.ptr, n), azri_slice(with, n));
}

/* 1: text is one of these, between which a '|' stands, or one and more words behind it. */
static int azri_says(azredis_str text, const char *these) {
    size_t n;
    for (;; these += n + 1) {
        for (n = 0; these[n] && these[n] != '|'; n++) {}
        if (text.len >= n && memcmp(text.ptr, these, n) == 0 && (text.len == n || text.ptr[n] == ' ')) return 1;
        if (!these[n]) return 0;
    }
}

/* The text from its code word on: the first, or the second behind a generic ERR (Azure: "ERR WRONGPASS invalid ..."). */
static azredis_str azri_error_text(azredis_str text) {
    if (!azri_says(text, "ERR") || text.len == 3) return text;
    azredis_str rest = azri_slice(text.ptr + 4, text.len - 4);
    return azri_says(rest, "WRONGPASS|NOAUTH|NOPERM") ? rest : text;
}

#define AZRI_NO_CLUSTER "; cluster support does not exist yet: create the cache with the Enterprise or the " \
    "non-clustered policy"

/* An error of ours for a server's error text: what its first words do not tell is E_REDIS and not to be tried again. */
static void azri_server_error(azri_session *s, const azredis_value *v, const char *where, azredis_error *e) {
    azredis_str text = azredis_text(v), code = azri_error_text(text);
    char quoted[AZRI_PEER_TEXT + 64];
    azredis_status st = azri_says(code, "MOVED|ASK")                              ? AZREDIS_E_CLUSTER
                        : azri_says(code, "WRONGPASS|NOAUTH|ERR invalid password") ? AZREDIS_E_AUTH
                        : azri_says(code, "NOPERM")                                ? AZREDIS_E_NOPERM
                                                                                   : AZREDIS_E_REDIS;
    (void)azri_quote(quoted, sizeof quoted, text.ptr, text.len, azri_blob_jwt(s->trying ? s->trying : s->blob));
    if (st == AZREDIS_E_CLUSTER)
        (void)azri_fail(e, st, where, "this cache has the OSS cluster policy and sent the command elsewhere (%s)"
                        AZRI_NO_CLUSTER, quoted);
    else
        (void)azri_fail(e, st, where, "%s: the server answered: %s", s->conf->endpoint, quoted);
    e->retryable = azri_says(code, "LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|ERR max number of clients");
}

/* What PING was answered: a subscriber in RESP2 gets it beside the word "pong". */
static const azredis_value *azri_pong(const azredis_value *v) {
    return AZRI_WITH_RESP2 && v->type == AZREDIS_T_ARRAY && v->len == 2 ? &v->as.items[1] : v;
}

/* ---- handshake ---- */

/* The next command of the handshake. */
static void azri_session_say(azri_session *s, azri_kind kind, const char *words, const char *last) {
    azri_cmd *c = &s->handshake[s->steps++];
    s->hs_end = azri_session_words(c, kind, s->hs_end, words, last);
    azri_session_append(s, c);
}

/* HELLO, what the server shall call us, and the database. */
static void azri_session_settings(azri_session *s) {
    const char *name = s->conf->name[0] ? s->conf->name : NULL;
    char number[12];
    if (!AZRI_WITH_RESP2 || s->conf->protocol == 3)
        azri_session_say(s, AZRI_CMD_HELLO, name ? "HELLO 3 SETNAME" : "HELLO 3", name);
    else if (name) azri_session_say(s, AZRI_CMD_SETTING, "CLIENT SETNAME", name);
    azri_session_say(s, AZRI_CMD_SETTING, "CLIENT SETINFO LIB-NAME azredis-entra", NULL);
    azri_session_say(s, AZRI_CMD_SETTING, "CLIENT SETINFO LIB-VER " AZREDIS_VERSION_TEXT, NULL);
    if (s->conf->database) {
        azri_out o = azri_out_to(number, sizeof number);
        azri_out_number(&o, s->conf->database, 0, 10, 0, ' ');
        azri_out_end(&o);
        azri_session_say(s, AZRI_CMD_SELECT, "SELECT", number);
    }
}

/* AUTH first, HELLO without credentials: the first command on a connection always gets its answer, also from
 * servers that drop the error of a failing AUTH behind others (redis#15640), and a failing HELLO cannot be a
 * credential problem. The PING at the end proves that question and answer are in step. */
static void azri_session_opened(azri_session *s, azri_blob *blob, uint64_t now) {
    s->state = AZRI_HANDSHAKE;
    s->opened_at = s->last_read = s->last_write = now;
    s->handshake_until = azri_after(now, s->conf->auth_ms);
    s->resp3 = s->no_fence = s->gate = 0;
    s->wants_close = NULL;
    s->auth_failures = 0;
    azri_session_set_blob(&s->trying, blob);
    azri_session_set_blob(&s->fresh, NULL);
    azri_session_prepare(s->handshake, AZRI_CMD_AUTH, blob->frame, blob->frame_len);
    azri_session_append(s, s->handshake);
    s->steps = 1;
    s->hs_end = s->hs_bytes;
    if (AZRI_WITH_SETTINGS) azri_session_settings(s);
    else azri_session_say(s, AZRI_CMD_HELLO, "HELLO 3", NULL);
    azri_rng_hex(s->rng, s->nonce, AZRI_NONCE_LEN);
    azri_session_say(s, AZRI_CMD_READY, "PING", s->nonce);
    AZREDIS_ASSERT(s->steps <= sizeof s->handshake / sizeof s->handshake[0] &&
                   s->hs_end <= s->hs_bytes + sizeof s->hs_bytes);
    azri_log(s->news, AZREDIS_LOG_INFO, AZRI_LOG_AUTH, "%s: AUTH as %s", s->conf->endpoint, blob->user);
}

static azredis_status azri_session_auth_refused(azri_session *s, const azredis_value *v, azredis_error *e) {
    azri_server_error(s, v, "redis.auth", e);
    if (e->code == AZREDIS_E_AUTH) {
        s->rejected = s->trying->hash;
        e->retryable = 1;                       /* one fresh token is tried; then the token's own slow lane decides */
        azri_fail_add(e, "; is the identity (object id %s) a Redis user of this cache, and the token for this service?",
                      s->trying->user);
    } else if (!e->retryable && ++s->odd_refusals < 3) {
        e->retryable = 1;
    }
    azri_log(s->news, AZREDIS_LOG_WARNING, AZRI_LOG_AUTH_FAILED, "%s", e->message);
    return e->code;
}

static azredis_status azri_session_hello(azri_session *s, const azredis_value *v, azredis_error *e) {
    azredis_str text = azredis_text(v);
    if (v->type == AZREDIS_T_ERROR) {
        azredis_str code = azri_error_text(text);
        if (!AZRI_WITH_RESP2 || (!azri_begins(text, "ERR unknown command") && !azri_says(code, "NOPROTO|NOPERM"))) {
            azri_server_error(s, v, "redis.hello", e);
            if (!e->retryable && ++s->odd_refusals < 3) e->retryable = 1;
            return e->code;
        }
        azri_log(s->news, azri_says(code, "NOPERM") ? AZREDIS_LOG_WARNING : AZREDIS_LOG_INFO, AZRI_LOG_RESP2,
                 "%s: no RESP3 here, using RESP2", s->conf->endpoint);
        return AZREDIS_OK;
    }
    /* A proxy may accept HELLO 3 and speak RESP2: its answer says so. */
    const azredis_value *proto = azredis_field(v, "proto");
    s->resp3 = proto && proto->type == AZREDIS_T_INTEGER && proto->as.integer == 3;
    if (!AZRI_WITH_RESP2 && !s->resp3)
        return azri_fail(e, AZREDIS_E_RESP, "redis.hello", "%s: it does not speak RESP3", s->conf->endpoint);
    if (!azri_value_is(azredis_field(v, "mode"), "cluster")) return AZREDIS_OK;
    return azri_fail(e, AZREDIS_E_CLUSTER, "redis.hello", "%s: this cache has the OSS cluster policy" AZRI_NO_CLUSTER,
                     s->conf->endpoint);
}

static void azri_session_accept(azri_session *s) {
    azri_session_set_blob(&s->blob, s->trying);
    azri_session_set_blob(&s->trying, NULL);
    s->auth_failures = 0;
}

static azredis_status azri_session_ready(azri_session *s, const azredis_value *v, uint64_t now, azredis_error *e) {
    if (v->type == AZREDIS_T_ERROR) {
        azri_server_error(s, v, "redis.ready", e);
        if (e->code != AZREDIS_E_NOPERM) return e->code;
        s->no_fence = 1;                        /* PING is forbidden: re-authenticate in a quiet moment instead */
    } else if (!azri_value_is(v, s->nonce)) {
        return azri_fail(e, AZREDIS_E_RESP, "redis.ready", "%s: answers and questions are out of step",
                         s->conf->endpoint);
    }
    if (AZRI_WITH_HANDOVER && s->conf->reauth == AZREDIS_REAUTH_QUIESCED) s->no_fence = 1;
    s->state = AZRI_READY;
    s->odd_refusals = 0;
    s->ready_at = now;
    azri_log(s->news, AZREDIS_LOG_INFO, AZRI_LOG_READY, "%s: ready, RESP%d, as %s", s->conf->endpoint, s->resp3 ? 3 : 2,
             s->blob->user);
    return AZREDIS_OK;
}

static azredis_status azri_session_handshake(azri_session *s, azri_kind kind, const azredis_value *v, uint64_t now,
                                             azredis_error *e) {
    azri_log(s->news, AZREDIS_LOG_DEBUG, AZRI_LOG_HANDSHAKE, "%s: handshake step %d answered%s", s->conf->endpoint,
             (int)kind, v->type == AZREDIS_T_ERROR ? " with an error" : "");
    if (kind == AZRI_CMD_AUTH) {
        if (v->type == AZREDIS_T_ERROR) return azri_session_auth_refused(s, v, e);
        azri_session_accept(s);
        s->auth_took = now - s->opened_at;
        azri_log(s->news, AZREDIS_LOG_DEBUG, AZRI_LOG_AUTH_OK, "%s: AUTH accepted", s->conf->endpoint);
        return AZREDIS_OK;
    }
    if (kind == AZRI_CMD_HELLO) return azri_session_hello(s, v, e);
    if (kind == AZRI_CMD_READY) return azri_session_ready(s, v, now, e);
    if (AZRI_WITH_SETTINGS && kind == AZRI_CMD_SELECT && v->type == AZREDIS_T_ERROR) {
        azri_server_error(s, v, "redis.select", e);
        azri_fail_add(e, "; mend the option database");
        e->retryable = 0;
        return e->code;
    }
    return AZREDIS_OK;                          /* SETINFO is unknown before Redis 7.2: no harm */
}

/* ---- re-authentication ---- */

/* A newer token than the one that this connection lives on, to be presented after `delay`. */
static void azri_session_token(azri_session *s, azri_blob *fresh, uint64_t now, uint64_t delay) {
    if (s->state != AZRI_READY || s->blob->generation == fresh->generation) return;
    azri_session_set_blob(&s->fresh, fresh);
    s->auth_at = now + delay;
    s->auth_failures = 0;
}

/* The fence: AUTH and a PING with a nonce, written as one unit in front of all that is not written yet.
 * Redis 7.2 to 8.0 and Valkey before 8.1.9 drop the error of a failing AUTH when other replies are pending
 * (redis#15640, valkey#2106); with the nonce the missing answer is seen and nobody gets a wrong reply. */
static void azri_session_reauth(azri_session *s, uint64_t now) {
    azri_cmd *at = s->offset ? azri_session_unsent(s) : s->last_sent;
    azri_session_set_blob(&s->trying, s->fresh);
    azri_session_set_blob(&s->fresh, NULL);
    s->auth_at = AZRI_NEVER64;
    s->auth_answered = 0;
    s->auth_sent_at = now;
    azri_session_prepare(&s->auth, AZRI_CMD_REAUTH, s->trying->frame, s->trying->frame_len);
    azri_queue_insert(&s->fifo, at, &s->auth);
    azri_log(s->news, AZREDIS_LOG_INFO, AZRI_LOG_AUTH, "%s: AUTH with a new token as %s", s->conf->endpoint,
             s->trying->user);
    if (s->no_fence) return;
    azri_rng_hex(s->rng, s->nonce, AZRI_NONCE_LEN);
    (void)azri_session_words(&s->fence, AZRI_CMD_FENCE, s->fence_bytes, "PING", s->nonce);
    azri_queue_insert(&s->fifo, &s->auth, &s->fence);
}

/* Commands behind an AUTH wait for it on the server; that time is not theirs. */
static void azri_session_extend(azri_session *s, uint64_t ms) {
    for (azri_cmd *c = s->fifo.head; c; c = c->next)
        if (c->deadline != AZRI_NEVER64) c->deadline += ms;
    s->next_deadline = 0;               /* the lower bound is found again */
}

/* The unit has been answered as a whole. */
static void azri_session_reauth_end(azri_session *s, uint64_t now) {
    int64_t old_left = azri_blob_left(s->blob, now);
    s->auth_took = now - s->auth_sent_at;
    azri_session_extend(s, s->auth_took);
    if (s->auth_answered > 0) {
        azri_session_accept(s);
        AZRI_COUNT(s->counts->reauths, 1);
        azri_news_event(azri_session_news(s), AZREDIS_EV_CONNECTION_REAUTHENTICATED, NULL, old_left,
                        azri_blob_left(s->blob, now), AZREDIS_UNKNOWN);
        azri_log(s->news, AZREDIS_LOG_INFO, AZRI_LOG_AUTH_OK, "%s: re-authenticated in %llu ms", s->conf->endpoint,
                 (unsigned long long)(now - s->auth_sent_at));
        return;
    }
    AZRI_COUNT(s->counts->reauth_failures, 1);
    uint64_t delay = azri_backoff(s->rng, azri_min32(AZRI_REAUTH_BASE, s->blob->life_ms / 10),
                                  azri_min32(AZRI_REAUTH_CAP, s->blob->life_ms / 10 + 1), s->auth_failures++);
    if (s->auth_error.code == AZREDIS_E_AUTH) s->rejected = s->trying->hash;    /* only a fresh token may help */
    if (!s->fresh && s->auth_error.code != AZREDIS_E_AUTH) {
        azri_session_set_blob(&s->fresh, s->trying);
        s->auth_at = now + delay;
    }
    azri_session_set_blob(&s->trying, NULL);
    azri_news_event(azri_session_news(s), AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED, &s->auth_error, old_left, AZREDIS_UNKNOWN,
                    s->fresh ? (int64_t)(azri_max64(s->auth_at, now) - now) : 0);    /* 0: a token is fetched at once */
    azri_log(s->news, AZREDIS_LOG_WARNING, AZRI_LOG_AUTH_FAILED, "%s; the old token is good for %lld ms more",
             s->auth_error.message, (long long)old_left);
}

static azredis_status azri_session_desync(azri_session *s, azredis_error *e) {
    return azri_fail(e, AZREDIS_E_RESP, "redis.match", "%s: an answer does not belong to the oldest question; the "
                     "connection is given up so that no answer reaches another caller", s->conf->endpoint);
}

/* The answer to REAUTH, which has left the FIFO; or that to the fence behind it, which then leaves it too. */
static azredis_status azri_session_reauth_answer(azri_session *s, const azredis_value *v, uint64_t now,
                                                 azredis_error *e) {
    int accepted = v->type == AZREDIS_T_STATUS && azri_value_is(v, "OK"), refused = v->type == AZREDIS_T_ERROR;
    int silent = !refused && !s->no_fence && azri_value_is(v, s->nonce);
    if (!accepted && !refused && !silent) return azri_session_desync(s, e);
    s->auth_answered = accepted ? 1 : -1;
    if (refused) azri_server_error(s, v, "redis.auth", &s->auth_error);
    if (silent) {
        (void)azri_fail(&s->auth_error, AZREDIS_E_AUTH, "redis.auth", "%s: the server refused the new token without a word "
                        "(Redis 7.2 to 8.0 do); a fresh token is fetched", s->conf->endpoint);
        (void)azri_session_pop(s);
    }
    if (silent || s->no_fence) azri_session_reauth_end(s, now);
    return AZREDIS_OK;
}

/* ---- input ---- */

/* The answer could not be kept, or it is the server's error. */
static AZRI_APART void azri_session_user_error(azri_session *s, azri_cmd *c, azredis_status st,
                                               const azredis_value *v) {
    azredis_error *e = &s->error;
    if (st != AZREDIS_OK) {
        (void)azri_fail(e, st, "redis.reply", "%s: the command ran, but its answer %s", s->conf->endpoint,
                        st == AZREDIS_E_LIMIT ? "is larger than max_reply or rx_bytes" : "did not fit into memory");
        azri_reply_error(c->reply, s->mem, e);
        return;
    }
    azri_server_error(s, v, "redis.command", e);
    azri_reply_error(c->reply, s->mem, e);
    azri_news_error(azri_session_news(s), AZREDIS_EV_ERROR_MESSAGE, e);
    if (e->code == AZREDIS_E_AUTH) s->wants_close = AZRI_TEXT("the server no longer knows who we are");
}

static void azri_session_heard(azri_session *s, const azri_frame *f, uint64_t now) {
    s->last_read = s->waiting_since = now;
    AZRI_COUNT(s->counts->bytes_in, f->bytes);
}

static AZRI_ALONG void azri_session_user_answer(azri_session *s, azri_cmd *c, const azri_frame *f) {
    azredis_status st = f->status;
    if (c->finished) {                          /* timed out before: nobody waits any more */
        azri_session_retire(s, c);
        return;
    }
    azri_reply_reset(c->reply, AZREDIS_ANSWERED);
    if (!c->no_reply) st = azri_resp_keep(&s->resp, f, c->reply);
    if (st != AZREDIS_OK || f->root->type == AZREDIS_T_ERROR) azri_session_user_error(s, c, st, f->root);
    azri_done_push(s->done, c);
}

/* The answer to a user's command, which most frames are. 0: it is something else. */
static AZRI_ALONG int azri_session_user_frame(azri_session *s, const azri_frame *f, uint64_t now) {
    azri_cmd *c = s->fifo.head;
    if (f->is_push || !c || !c->sent || c->kind != AZRI_CMD_USER) return 0;
    azri_session_heard(s, f, now);
    azri_session_user_answer(s, azri_session_pop(s), f);
    return 1;
}

static azredis_status azri_session_unasked(azri_session *s, const azri_frame *f, azredis_error *e) {
    if (f->root && f->root->type == AZREDIS_T_ERROR) {         /* "max number of clients reached" and its like */
        azri_server_error(s, f->root, "redis.server", e);
        e->retryable = 1;
        return e->code;
    }
    return azri_session_desync(s, e);
}

static AZRI_ONCE int azri_is_message(const azri_frame *f) {
    uint32_t i, n = f->root ? f->root->len : 0;
    if (!f->is_push || !((n == 3 && azri_value_is(f->root->as.items, "message")) ||
                         (AZRI_WITH_PATTERNS && n == 4 && azri_value_is(f->root->as.items, "pmessage"))))
        return 0;
    for (i = 1; i < n && azredis_text(&f->root->as.items[i]).ptr; i++) {}
    return i == n;
}

/* 1: c is the frame of one word and one channel, and these are they, the word in small letters. */
static int azri_cmd_asks(const azri_cmd *c, azredis_str word, azredis_str channel) {
    azredis_str words[2];
    size_t at, i;
    words[0] = word;
    words[1] = channel;
    if (!channel.ptr || c->len != azri_resp_size(2, words)) return 0;
    for (at = 5; c->bytes[at - 1] != '\n'; at++) {}             /* behind "*2 CRLF $n CRLF" */
    for (i = 0; i < word.len && word.ptr[i] == azri_lower(c->bytes[at + i]); i++) {}
    return i == word.len && azri_eq(azri_slice(c->bytes + c->len - 2 - channel.len, channel.len), channel);
}

/* A push never answers a pending command, but for the confirmation of the very (un)subscription at the head:
 * RESP3 answers SUBSCRIBE by a push when it succeeds and by an ordinary error when it fails. */
static void azri_session_push(azri_session *s, const azri_frame *f) {
    azri_cmd *c = s->fifo.head;
    if (c && c->sent && (c->kind == AZRI_CMD_SUBSCRIBE || c->kind == AZRI_CMD_UNSUBSCRIBE) && f->root && f->root->len == 3 &&
        azri_cmd_asks(c, azredis_text(f->root->as.items), azredis_text(f->root->as.items + 1))) {
        (void)azri_session_pop(s);
        azri_reply_reset(c->reply, AZREDIS_ANSWERED);
        azri_done_push(s->done, c);
        return;
    }
    AZRI_COUNT(s->counts->pushes_dropped, 1);
    azri_log(s->news, AZREDIS_LOG_DEBUG, AZRI_LOG_PUSH_DROPPED, "%s: an unknown push was dropped", s->conf->endpoint);
}

/* Matches one frame. Not OK: the connection must be closed with *e. Messages are the hub's: see azri_is_message. */
static AZRI_ONCE azredis_status azri_session_frame(azri_session *s, const azri_frame *f, uint64_t now, azredis_error *e) {
    azri_cmd *c = s->fifo.head;
    if (azri_session_user_frame(s, f, now)) return AZREDIS_OK;
    azri_session_heard(s, f, now);
    if (f->is_push) {
        azri_session_push(s, f);
        return AZREDIS_OK;
    }
    if (!c || !c->sent) return azri_session_unasked(s, f, e);
    if (!f->root)
        return azri_fail(e, f->status, "redis.reply", "%s: an answer did not fit into memory", s->conf->endpoint);
    int refused = f->root->type == AZREDIS_T_ERROR;
    if (!refused && (c->kind == AZRI_CMD_SUBSCRIBE || c->kind == AZRI_CMD_UNSUBSCRIBE))
        return azri_session_desync(s, e);                      /* only a push confirms it */
    (void)azri_session_pop(s);
    switch (c->kind) {
    case AZRI_CMD_REAUTH:
        return azri_session_reauth_answer(s, f->root, now, e);
    case AZRI_CMD_FENCE:
        if (!azri_value_is(azri_pong(f->root), s->nonce)) return azri_session_desync(s, e);
        azri_session_reauth_end(s, now);
        return AZREDIS_OK;
    case AZRI_CMD_PING:
        s->gate = 0;
        s->ping_until = AZRI_NEVER64;
        return refused || azri_value_is(azri_pong(f->root), s->ping_nonce) ? AZREDIS_OK : azri_session_desync(s, e);
    case AZRI_CMD_MARK:
        s->marked = 1;
        return refused || azri_value_is(azri_pong(f->root), s->mark_nonce) ? AZREDIS_OK : azri_session_desync(s, e);
    case AZRI_CMD_SUBSCRIBE: case AZRI_CMD_UNSUBSCRIBE:
        azri_session_user_answer(s, c, f);
        return AZREDIS_OK;
    case AZRI_CMD_USER: case AZRI_CMD_AUTH: case AZRI_CMD_HELLO: case AZRI_CMD_SETTING: case AZRI_CMD_SELECT: case AZRI_CMD_READY:
    default:
        return azri_session_handshake(s, c->kind, f->root, now, e);
    }
}

/* ==== >>ends ============================================================== uses: core mem fail reply resp news cmd session ==
 * How commands and connections end: by deadlines, silence, the end of a token, and what is closed.
 * Entry points: azri_session_tick, _deadline, _hand_back, _closed.
 * ================================================================================================ */

/* Takes the command behind `at` out of the FIFO; no byte of it has been written. */
static azri_cmd *azri_session_withdraw(azri_session *s, azri_cmd *at) {
    AZREDIS_ASSERT(at != s->last_sent || s->offset == 0);
    return azri_queue_take(&s->fifo, at);
}

/* The frame is finished although its caller takes the value back. Without memory for a copy nothing more is written. */
static void azri_session_keep_value(azri_session *s, azri_cmd *c) {
    if (!azri_cmd_value(c) || c->copy || c->sent) return;
    c->copy = (char *)azri_alloc(s->mem, c->value_len);
    if (c->copy) memcpy(c->copy, c->value, c->value_len);
    else s->wants_close = AZRI_TEXT("out of memory for the rest of a value whose command ran out of time");
    c->value = c->copy;
}

/* Into e, the end of a command on s. */
static void azri_session_snapshot(const azri_session *s, uint64_t now, azredis_error *e) {
    azredis_snapshot *at = &e->at;
    if (!AZRI_WITH_STATS) return;
    at->state = s->state == AZRI_DRAINING ? "a new token" : s->gate ? "the answer to PING after a silence"
              : s->trying ? "the answer to AUTH with a new token" : "ready";
    at->waiting = s->fifo.count - s->in_flight;
    at->in_flight = s->in_flight;
    at->bytes_waiting = s->fifo.bytes;
    at->last_read_ms = s->last_read ? (int64_t)(now - azri_min64(now, s->last_read)) : AZREDIS_UNKNOWN;
    at->last_write_ms = s->last_write ? (int64_t)(now - azri_min64(now, s->last_write)) : AZREDIS_UNKNOWN;
    at->token_left_ms = azri_blob_left(s->blob, now);
}

/* Ends the commands whose time has come. Those written stay as tombstones, so that their late answers are read
 * and dropped; those not begun are withdrawn. What stands behind a running AUTH waits with it. e: where its errors are
 * made; of a caller without the baton it must not be s->error, in which the one who has it may be writing. */
static void azri_session_expire(azri_session *s, uint64_t now, azredis_error *e) {
    azri_cmd *c, *at = NULL;
    azri_sooner(&s->next_deadline, azri_queue_stamp(&s->fifo, now));
    if (now < s->next_deadline) return;
    s->next_deadline = AZRI_NEVER64;
    for (c = s->fifo.head; c && c->kind != AZRI_CMD_REAUTH; c = at ? at->next : s->fifo.head) {
        int begun = c->sent || (at == s->last_sent && s->offset > 0);
        if (c->finished || c->deadline > now) {
            if (!c->finished) azri_sooner(&s->next_deadline, c->deadline);
            at = c;
            continue;
        }
        (void)azri_fail(e, AZREDIS_E_TIMEOUT, "redis.command", "%s: no answer in time; %s", s->conf->endpoint,
                        begun ? "the command may have run" : "the command was not sent");
        azri_session_snapshot(s, now, e);
        if (begun) azri_session_keep_value(s, at = c);
        else (void)azri_session_withdraw(s, at);
        azri_session_finish(s, c, begun ? AZREDIS_MAYBE_RUN : AZREDIS_NOT_SENT, e);
    }
    if (c) azri_sooner(&s->next_deadline, azri_after(now, AZRI_SECOND));   /* behind an AUTH: look again */
}

/* When silence means that the connection is dead. A command that was given more time gets it. */
static uint64_t azri_session_dead_at(const azri_session *s) {
    const azri_cmd *head = s->fifo.head;
    uint64_t at;
    if (!s->in_flight) return AZRI_NEVER64;
    if (s->trying && s->state == AZRI_READY) {
        at = azri_after(s->auth_sent_at, s->conf->auth_ms);
    } else {
        if (s->conf->command_ms == AZREDIS_NEVER) return AZRI_NEVER64;
        at = azri_max64(s->waiting_since, s->last_read) + azri_max64(3ull * s->conf->command_ms, AZRI_DEAD_MS);
    }
    return head->finished ? at : azri_max64(at, head->deadline);
}

/* When nothing more may be written for want of a new token. */
static uint64_t azri_session_drain_at(const azri_session *s) {
    return s->blob && !s->trying ? azri_blob_drain_at(s->blob) : AZRI_NEVER64;
}

/* When AUTH with a new token is to be written: not within a transaction or a blocking command. */
static uint64_t azri_session_auth_at(const azri_session *s) {
    return s->state == AZRI_READY && s->fresh && !s->trying && !s->gate && !azri_undivided(s) ? s->auth_at : AZRI_NEVER64;
}

/* When AUTH on this connection has failed too long: the new token must come by another one. */
static uint64_t azri_session_replace_at(const azri_session *s) {
    if (!AZRI_WITH_HANDOVER || s->state != AZRI_READY || !s->fresh || !s->auth_failures || s->replace || s->elder) return AZRI_NEVER64;
    return s->blob->expires_at - azri_min32(AZRI_REPLACE_LEFT, s->blob->life_ms / 10);
}

/* The end of a connection on which nothing more was to be written. */
static azredis_status azri_session_expired(azri_session *s, azredis_error *e) {
    return azri_fail(e, AZREDIS_E_CLOSED, "redis.auth", "%s: %s", s->conf->endpoint,
                     s->replace && !AZRI_WITH_HANDOVER ? s->replace : "the token of this connection has expired");
}

/* A program that did not pump may find the token ended before AUTH was written. */
static uint64_t azri_session_handshake_until(const azri_session *s) {
    return azri_min64(s->handshake_until, azri_blob_drain_at(s->trying ? s->trying : s->blob));
}

static azredis_status azri_session_tick_handshake(azri_session *s, uint64_t now, azredis_error *e) {
    if (now >= s->handshake_until)
        return azri_fail(e, AZREDIS_E_TIMEOUT, "redis.auth",
                         "%s: the server did not finish AUTH and handshake in %u ms", s->conf->endpoint,
                         (unsigned)s->conf->auth_ms);
    return now < azri_session_handshake_until(s) ? AZREDIS_OK : azri_session_expired(s, e);
}

/* What time brings. Not OK: the connection must be closed with *e. */
static AZRI_ONCE azredis_status azri_session_tick(azri_session *s, uint64_t now, azredis_error *e) {
    if (s->state == AZRI_HANDSHAKE) return azri_session_tick_handshake(s, now, e);
    if (s->state != AZRI_READY && s->state != AZRI_DRAINING) return AZREDIS_OK;
    if (now >= s->blob->expires_at) return azri_session_expired(s, e);
    azri_session_expire(s, now, e);
    if (s->gate && now >= s->ping_until)
        return azri_fail(e, AZREDIS_E_TIMEOUT, "redis.ping", "%s: PING was not answered after a long silence",
                         s->conf->endpoint);
    if (now >= azri_session_dead_at(s))
        return azri_fail(e, AZREDIS_E_TIMEOUT, "redis.read", "%s: nothing came from the server while an answer was due",
                         s->conf->endpoint);
    if (s->wants_close)
        return azri_fail(e, AZREDIS_E_CLOSED, "redis.auth", "%s: %s", s->conf->endpoint, s->wants_close);
    if (now >= azri_session_auth_at(s)) azri_session_reauth(s, now);
    if (s->state == AZRI_READY && now >= azri_session_drain_at(s)) {
        s->state = AZRI_DRAINING;
        azri_log(s->news, AZREDIS_LOG_WARNING, AZRI_LOG_EXPIRING, "%s: the token ends and no new one was accepted; "
                 "nothing more is written on this connection", s->conf->endpoint);
    }
    if (s->state == AZRI_DRAINING && s->in_flight == 0 && s->offset == 0 && !s->mark.linked)
        return azri_session_expired(s, e);
    if (s->state == AZRI_READY && azri_session_idle_too_long(s, now)) azri_session_probe(s, now);
    return AZREDIS_OK;
}

/* When azri_session_tick wants to be called at the latest. */
static uint64_t azri_session_deadline(const azri_session *s, uint64_t now) {
    if (s->state == AZRI_DOWN) return s->dial_at;
    if (s->state == AZRI_DIALING) return AZRI_NEVER64;
    if (s->state == AZRI_HANDSHAKE) return azri_session_handshake_until(s);
    uint64_t t = azri_min64(s->next_deadline, azri_session_dead_at(s));
    azri_sooner(&t, s->blob->expires_at);
    if (s->state == AZRI_READY) azri_sooner(&t, azri_session_drain_at(s));
    if (s->wants_close || s->fifo.fresh) return now;
    azri_sooner(&t, azri_session_auth_at(s));
    if (s->gate) azri_sooner(&t, s->ping_until);
    else if (!s->fifo.head && s->conf->keepalive_ms != AZREDIS_NEVER && !azri_undivided(s))
        azri_sooner(&t, s->last_read + s->conf->keepalive_ms);
    return azri_max64(t, now);
}

/* Hands back, in order, the commands that are not begun; a SUBSCRIBE or UNSUBSCRIBE among them ends. */
static void azri_session_hand_back(azri_session *s, azri_queue *unsent) {
    azri_cmd *c, *at = s->offset ? azri_session_unsent(s) : s->last_sent;
    while ((c = at ? at->next : s->fifo.head) != NULL) {
        (void)azri_session_withdraw(s, at);
        if (c->kind == AZRI_CMD_USER) {
            azri_queue_push(unsent, c);
            continue;
        }
        (void)azri_fail(&s->error, AZREDIS_E_CLOSED, "redis.handover", "%s: the connection is replaced",
                        s->conf->endpoint);
        azri_session_finish(s, c, AZREDIS_NOT_SENT, &s->error);
    }
}

/* 1: somebody waits for one of its answers. */
static int azri_session_awaited(const azri_session *s) {
    const azri_cmd *c = s->fifo.head;
    while (c && c->finished) c = c->next;
    return c != NULL;
}

/* The connection is gone. Written commands end MAYBE_RUN, begun ones NOT_SENT (a part of a frame cannot run);
 * those not begun are handed back in order through *unsent. Nothing that was written is ever sent again. */
static void azri_session_closed(azri_session *s, const azredis_error *why, azri_queue *unsent) {
    azri_cmd *c, *begun = s->offset ? azri_session_unsent(s) : NULL;
    azri_fail_copy(&s->error, why);
    while (s->fifo.head) {
        c = azri_queue_take(&s->fifo, NULL);
        if (c->finished) azri_session_retire(s, c);
        else if (c->kind == AZRI_CMD_USER && !c->sent && c != begun) azri_queue_push(unsent, c);
        else azri_session_finish(s, c, c->sent ? AZREDIS_MAYBE_RUN : AZREDIS_NOT_SENT, &s->error);
    }
    s->in_flight = 0;
    s->offset = 0;
    s->last_sent = NULL;
    s->wants_close = NULL;
    s->gate = s->marked = s->leaving = s->holding = s->undivided = 0;
    s->next_deadline = s->auth_at = AZRI_NEVER64;
    azri_session_set_blob(&s->blob, NULL);
    azri_session_set_blob(&s->trying, NULL);
    azri_session_set_blob(&s->fresh, NULL);
    azri_resp_free(&s->resp);
    azri_resp_init(&s->resp, s->mem, s->conf->max_reply);
    s->state = AZRI_DOWN;
}

/* ==== >>pubsub ============================================================ uses: core mem =======
 * Subscriptions: each has a queue of its own, bounded in messages and bytes. One that finds it full pushes the oldest
 * out, is lost, or ends the subscription: a slow reader costs memory up to a limit and never stops the connection.
 * And the seam: two connections, an old one and its successor, are subscribed to the channel for a while, and
 * their two streams become one again. See "handover" in >>hub for what this can know and what not.
 * ================================================================================================ */

#define AZRI_TRAIL_FIRST 32u            /* messages; doubled when more come while a seam is open */

#define AZRI_MSG_ROOM   256u            /* of a channel and a payload whose memory may be used again */
#define AZRI_MSG_SPARES 64u             /* so many of them for each subscription: a flight */

typedef struct azri_msg {
    struct azri_msg *next;
    size_t    size, channel_len, payload_len;
    uint64_t  arrival;                  /* its place among the messages of all subscriptions; 0: before all that have one */
    uint32_t  gap, lost;
    char     *text;                     /* channel NUL payload NUL, behind this struct */
} azri_msg;

typedef enum azri_sub_state {
    AZRI_SUB_NEW,                       /* SUBSCRIBE must be written */
    AZRI_SUB_ASKED,                     /* it has been queued */
    AZRI_SUB_ACTIVE,
    AZRI_SUB_REFUSED                    /* by the server; asked again on the next connection */
} azri_sub_state;

/* The last messages of a stream, by what they hash to. */
typedef struct azri_trail { uint64_t *hash; uint32_t first, count, cap; } azri_trail;

typedef struct azri_seam {
    azri_trail old, young;              /* what the old connection delivered; what is held of the new one's */
    azri_msg  *head, *tail;             /* the messages of `young`, as many */
    size_t     bytes;                   /* of these */
    uint32_t   dropped;                 /* held ones that went for want of room; the old connection may have had them */
    int        open;                    /* the new connection has confirmed the subscription */
} azri_seam;

struct azredis_sub {
    azredis_sub       *next, *alike;    /* all; those in the same list of azri_hub.topics */
    azredis_client    *client;
    const azri_mem    *mem;
    size_t             size;            /* of this struct and the channel's name behind it */
    char              *channel;         /* or pattern */
    int                pattern;
    uint32_t           topic;           /* hash of the name: which list of azri_hub.topics */
    azredis_message_fn fn;
    void              *user;
    azri_sub_state     state, heir_state;   /* on the connection; on the one that shall take its place */
    uint32_t           serial, heir_serial; /* of these connections */
    int                open;            /* confirmed on the connection: its stream has begun */
    azri_seam         *seam;            /* NULL: one stream */
    int                dead;            /* unsubscribed; freed by the next sweep that finds it not busy */
    int                closed;          /* its queue was full, and it was to end then; `error` says so */
    int                busy;            /* calls that use it, its callback included */
    azri_msg          *head, *tail, *lent;
    azri_msg          *spare;           /* of AZRI_MSG_ROOM each, kept for reuse */
    uint32_t           spares, count, max, lost, gap;   /* lost, gap: before the next message that comes */
    size_t             bytes, max_bytes;
    azredis_overflow   overflow;
    azredis_error      error;
};

static int azri_sub_pattern(const azredis_sub *s) { return AZRI_WITH_PATTERNS && s->pattern; }

/* 1: nothing more comes. */
static int azri_sub_ended(const azredis_sub *s) { return s->dead || (AZRI_WITH_PATTERNS && s->closed); }

static int azri_sub_is(const azredis_sub *s, int pattern, azredis_str name) {
    return azri_sub_pattern(s) == pattern && azri_eqz(name, s->channel);
}

static uint32_t azri_topic(azredis_str name) {
    return AZRI_TOPICS > 1 ? (uint32_t)azri_hash64(name.ptr, name.len) : 0;
}

static azredis_sub *azri_sub_new(const azri_mem *mem, int pattern, const char *channel) {
    size_t n = strlen(channel) + 1, size = sizeof(azredis_sub) + azri_room(mem, n, AZRI_CHANNEL_ROOM);
    azredis_sub *s = (azredis_sub *)azri_zalloc(mem, size);
    if (!s) return NULL;
    s->mem = mem;
    s->size = size;
    s->channel = (char *)(s + 1);
    memcpy(s->channel, channel, n);
    s->pattern = pattern;
    s->topic = azri_topic(azri_str(channel));
    s->max = AZRI_SUB_QUEUE;
    s->max_bytes = AZRI_SUB_BYTES;
    return s;
}

static size_t azri_msg_bytes(const azri_msg *m) { return m->channel_len + m->payload_len; }

static void azri_msg_free(const azri_mem *m, azri_msg *msg) {
    if (msg) azri_free(m, msg, msg->size);
}

static azri_msg *azri_sub_pop(azredis_sub *s) {
    azri_msg *m = s->head;
    if (!m) return NULL;
    s->head = m->next;
    if (!s->head) s->tail = NULL;
    s->count--;
    s->bytes -= azri_msg_bytes(m);
    return m;
}

/* A message that was read may serve the next one of its subscription, so that a steady stream needs no allocation. */
static void azri_msg_spare(azredis_sub *s, azri_msg *m) {
    if (!AZRI_WITH_SHORT_CUTS || !m || m->size != sizeof *m + AZRI_MSG_ROOM || s->spares == AZRI_MSG_SPARES ||
        azri_shape_of(s->mem)) {
        azri_msg_free(s->mem, m);
        return;
    }
    m->next = s->spare;
    s->spare = m;
    s->spares++;
}

static azri_msg *azri_msg_alloc(azredis_sub *s, size_t n) {
    const azri_mem *mem = s->mem;
    azri_msg *m = s->spare;
    if (m && n <= AZRI_MSG_ROOM) {
        s->spare = m->next;
        s->spares--;
        return m;
    }
    if (azri_shape_of(mem)) n = azri_room(mem, n, azri_shape_of(mem)->message);
    else if (AZRI_WITH_SHORT_CUTS && n < AZRI_MSG_ROOM) n = AZRI_MSG_ROOM;
    size_t size = sizeof *m + n;
    m = (azri_msg *)azri_alloc(mem, size);
    if (m) m->size = size;
    return m;
}

static azri_msg *azri_msg_new(azredis_sub *s, azredis_str channel, azredis_str payload) {
    azri_msg *m = azri_msg_alloc(s, channel.len + payload.len + 2);
    AZREDIS_ASSERT(channel.ptr && payload.ptr);                 /* azri_is_message has looked */
    if (!m) return NULL;
    m->next = NULL;
    m->channel_len = channel.len;
    m->payload_len = payload.len;
    m->arrival = 0;
    m->gap = m->lost = 0;
    m->text = (char *)(m + 1);
    memcpy(m->text, channel.ptr, channel.len);
    m->text[channel.len] = '\0';
    memcpy(m->text + channel.len + 1, payload.ptr, payload.len);
    m->text[channel.len + 1 + payload.len] = '\0';
    return m;
}

static int azri_sub_full(const azredis_sub *s, const azri_msg *m) {
    return s->count >= s->max || (AZRI_WITH_PATTERNS && s->count && azri_msg_bytes(m) > s->max_bytes - s->bytes);
}

/* Queues m. Returns how many were lost by it. */
static uint32_t azri_sub_append(azredis_sub *s, azri_msg *m) {
    azri_msg *old;
    uint32_t lost = 0;
    if (AZRI_WITH_PATTERNS && (azri_msg_bytes(m) > s->max_bytes || (s->overflow && azri_sub_full(s, m)))) {
        if (s->overflow == AZREDIS_OVERFLOW_CLOSE) s->closed = 1;
        azri_msg_spare(s, m);
        s->lost++;
        return 1;
    }
    m->next = NULL;
    m->gap = s->gap;
    m->lost = s->lost;
    s->gap = s->lost = 0;
    while (azri_sub_full(s, m) && (old = azri_sub_pop(s)) != NULL) {
        azri_msg *after = s->head ? s->head : m;
        after->gap |= old->gap;
        after->lost += old->lost + 1;
        azri_msg_spare(s, old);
        lost++;
    }
    if (s->tail) s->tail->next = m;
    else s->head = m;
    s->tail = m;
    s->count++;
    s->bytes += azri_msg_bytes(m);
    return lost;
}

/* Queues a copy. Without memory the message is lost and counted. Returns how many were lost. */
static uint32_t azri_sub_push(azredis_sub *s, azredis_str channel, azredis_str payload) {
    azri_msg *m = azri_msg_new(s, channel, payload);
    if (m) return azri_sub_append(s, m);
    s->lost++;
    return 1;
}

/* The next message, lent until the one after it is taken; 0: none. */
static int azri_sub_next(azredis_sub *s, azredis_message *out) {
    azri_msg *m = azri_sub_pop(s);
    if (!m) return 0;
    azri_msg_spare(s, s->lent);
    s->lent = m;
    out->channel = azri_slice(m->text, m->channel_len);
    out->payload = azri_slice(m->text + m->channel_len + 1, m->payload_len);
    out->lost = m->lost;
    out->gap = m->gap;
    out->pattern = azri_sub_pattern(s) ? azri_str(s->channel) : azri_slice(NULL, 0);
    return 1;
}

/* ---- the seam of two connections ---- */

static void azri_trail_free(azri_trail *t, const azri_mem *m) {
    if (t->cap) azri_free(m, t->hash, t->cap * sizeof *t->hash);
    memset(t, 0, sizeof *t);
}

static uint64_t azri_trail_at(const azri_trail *t, uint32_t i) {
    AZREDIS_ASSERT(i < t->count && t->count <= t->cap);
    return t->hash[(t->first + i) % t->cap];
}

/* Room for twice as many, or for the first. 0: no memory. */
static int azri_trail_grow(azri_trail *t, const azri_mem *m) {
    uint32_t i, cap = t->cap ? 2 * t->cap : AZRI_TRAIL_FIRST;
    uint64_t *hash = (uint64_t *)azri_alloc(m, cap * sizeof *hash);
    if (!hash) return 0;
    for (i = 0; i < t->count; i++) hash[i] = azri_trail_at(t, i);
    if (t->cap) azri_free(m, t->hash, t->cap * sizeof *t->hash);
    t->hash = hash;
    t->first = 0;
    t->cap = cap;
    return 1;
}

static void azri_trail_shift(azri_trail *t) {
    t->first = (t->first + 1) % t->cap;
    t->count--;
}

/* Appends; the oldest goes when there are `max` or no memory for more. 0: not even one has room. */
static int azri_trail_add(azri_trail *t, const azri_mem *m, uint32_t max, uint64_t hash) {
    if (t->count == t->cap && t->count < max && !azri_trail_grow(t, m) && t->cap == 0) return 0;
    if (t->count == t->cap || t->count >= max) azri_trail_shift(t);
    t->hash[(t->first + t->count++) % t->cap] = hash;
    return 1;
}

/* The oldest of the held messages, taken out. */
static azri_msg *azri_seam_pop(azri_seam *m) {
    azri_msg *msg = m->head;
    if (!msg) return NULL;
    m->head = msg->next;
    if (!m->head) m->tail = NULL;
    m->bytes -= azri_msg_bytes(msg);
    azri_trail_shift(&m->young);
    return msg;
}

static azri_seam *azri_seam_of(const azredis_sub *s) { return AZRI_WITH_HANDOVER ? s->seam : NULL; }

static void azri_seam_drop(azredis_sub *s) {
    azri_seam *m = azri_seam_of(s);
    azri_msg *msg;
    if (!m) return;
    while ((msg = azri_seam_pop(m)) != NULL) azri_msg_free(s->mem, msg);
    azri_trail_free(&m->old, s->mem);
    azri_trail_free(&m->young, s->mem);
    azri_free(s->mem, m, sizeof *m);
    s->seam = NULL;
}

/* Begins before the SUBSCRIBE on the new connection is written. 0: no memory. */
static int azri_seam_begin(azredis_sub *s) {
    azri_seam_drop(s);
    s->seam = (azri_seam *)azri_zalloc(s->mem, sizeof *s->seam);
    return s->seam != NULL;
}

/* What tells messages apart: those of a pattern come on many channels. */
static uint64_t azri_sub_mark(const azredis_sub *s, azredis_str channel, azredis_str payload) {
    uint64_t mark = azri_hash64(payload.ptr, payload.len);
    return azri_sub_pattern(s) ? mark ^ 3 * azri_hash64(channel.ptr, channel.len) : mark;
}

/* A message that the old connection has delivered. Without memory for the first no duplicate is found. */
static void azri_seam_old(azredis_sub *s, azredis_str channel, azredis_str payload) {
    (void)azri_trail_add(&s->seam->old, s->mem, s->max, azri_sub_mark(s, channel, payload));
}

/* A message of the new connection: held. Without memory all that is held goes: what follows must have no hole. */
static void azri_seam_young(azredis_sub *s, azredis_str channel, azredis_str payload) {
    azri_seam *m = s->seam;
    azri_trail *t = &m->young;
    size_t n = channel.len + payload.len;
    azri_msg *old, *msg = n > s->max_bytes ? NULL : azri_msg_new(s, channel, payload);
    int room = msg && (t->count < t->cap || t->count >= s->max || azri_trail_grow(t, s->mem));
    while ((!room || t->count >= s->max || n > s->max_bytes - m->bytes) && (old = azri_seam_pop(m)) != NULL) {
        azri_msg_free(s->mem, old);
        m->dropped++;
    }
    if (!room) {
        azri_msg_free(s->mem, msg);
        m->dropped++;
        return;
    }
    (void)azri_trail_add(t, s->mem, s->max, azri_sub_mark(s, channel, payload));
    if (m->tail) m->tail->next = msg;
    else m->head = msg;
    m->tail = msg;
    m->bytes += n;
}

/* How many of the first held messages the old connection delivered too: the longest run that ends the one stream
 * and begins the other. whole: the new stream has been read as far as the old one; else it may end before. */
static uint32_t azri_seam_match(const azri_seam *m, int whole) {
    uint32_t i, n, at = whole && m->old.count > m->young.count ? m->old.count - m->young.count : 0;
    for (; at < m->old.count && m->young.count; at++) {
        n = m->old.count - at < m->young.count ? m->old.count - at : m->young.count;
        for (i = 0; i < n && azri_trail_at(&m->old, at + i) == azri_trail_at(&m->young, i); i++) {}
        if (i == n) return n;
    }
    return 0;
}

/* The two streams become one. Adds to *lost and *given the messages that were lost and that are queued now. */
static void azri_seam_join(azredis_sub *s, int whole, uint64_t *given, uint64_t *lost) {
    azri_seam *m = s->seam;
    azri_msg *msg;
    uint32_t same = azri_seam_match(m, whole);
    if (same) s->gap = 0;               /* they overlap: nothing fell between them */
    else s->lost += m->dropped;
    *lost += same ? 0 : m->dropped;
    while ((msg = azri_seam_pop(m)) != NULL) {
        if (same) {
            same--;
            azri_msg_free(s->mem, msg);
        } else {
            ++*given;
            *lost += azri_sub_append(s, msg);
        }
    }
    azri_seam_drop(s);
}

static void azri_sub_free(azredis_sub *s) {
    const azri_mem *mem = s->mem;
    size_t size = s->size;
    azri_msg *m;
    while ((m = azri_sub_pop(s)) != NULL) azri_msg_free(mem, m);
    azri_msg_free(mem, s->lent);
    while ((m = s->spare) != NULL) {
        s->spare = m->next;
        azri_msg_free(mem, m);
    }
    azri_seam_drop(s);
    azri_wipe(s, s->size);
    azri_free(mem, s, size);
}

/* ==== >>hub =============================================================== uses: core mem fail reply resp news refused cmd session ends pubsub ==
 * The client's pure half: a list of sessions, the backlog in front of them, reconnecting, and the rule that
 * every command ends exactly once. Contract: commands, tokens, frames and times come in; finished commands
 * (done), news, and sessions to dial or to close are taken out by the pump. One session is shared by all commands
 * (main); subscriptions may have one of their own (listener), and callers lease some for a while; each has a second one
 * beside it while it is replaced. A session is freed in azri_hub_tick only, once it is gone and the pump has closed its
 * link. Entry points: azri_hub_new_cmd, _submit; the others are in >>topics, >>handover, >>sessions and >>lease.
 * ================================================================================================ */

#define AZRI_LEND       32768u          /* an argument of that size is sent from where it stands, if it stays there */
#define AZRI_HEIR_AGAIN 30000u          /* ms until a handover for which there was no memory is tried again */
#define AZRI_AUTH_JITTER_MAX 30000u     /* spread of AUTH over many connections; Microsoft asks for jitter */

typedef struct azri_hub_conf {
    int      fail_fast, abort_on_connect_fail;
    uint32_t backlog_count, sub_queue, leases, connect_retry;
    size_t   backlog_bytes;
    int      by_reconnect, separate;
    azri_session_conf session;
} azri_hub_conf;

typedef struct azri_hub {
    const azri_mem *mem;
    azri_session   *sessions;
    azri_session   *main;               /* that commands are written to. While its heir waits it is still this one */
    azri_session   *listener;           /* that of subscriptions alone; NULL: they are main's */
    azri_blob      *blob;               /* the newest credentials; NULL: none yet */
    azri_done       done;
    azri_queue      backlog;
    azri_stock      stock;
    azredis_sub    *subs, *topics[AZRI_TOPICS];
    void          (*sweep)(struct azri_hub *h);  /* frees subscriptions that were given up; NULL: none ever was */
    uint32_t        answers;            /* to SUBSCRIBE; with what ends subscriptions */
    uint32_t        session_count;
    uint32_t        serials;            /* counts connections */
    uint32_t        undelivered;        /* answered commands whose callbacks are still to be made */
    uint32_t        refusals;           /* in a row, of tokens in the handshake */
    int             ever_ready, aborted;
    int             step;               /* an answer made a handover's next step possible: a tick is due now */
    int             resting;            /* 1: no connection, as the token is being renewed; see azri_hub_rest */
    size_t          turned_away;        /* bytes of the last command that found no room */
    uint64_t        backlog_deadline;   /* lower bound of its deadlines */
    uint64_t        now;                /* of the last tick */
    uint64_t        room;               /* lower bound of the short commands that find room: azri_hub_has_room */
    uint64_t        rejected;           /* hash of a token that Redis refused; the pump takes it to the auth */
    uint64_t        listener_at;        /* no listener before: there was no memory for one */
    azri_rng        rng;
    azri_counts     stats;
    azri_hub_conf   conf;
    azredis_error   trouble;            /* why nothing is connected; code OK: no trouble known */
    azredis_error   made;               /* where a call's error is made; of whoever holds the lock, until he lets go */
    azri_news       news;
} azri_hub;

static void azri_hub_init(azri_hub *h, const azri_mem *m, uint64_t seed) {
    memset(h, 0, sizeof *h);
    h->mem = h->stock.mem = m;
    h->rng.state = seed;
    h->news.level = AZREDIS_LOG_WARNING;
    h->backlog_deadline = AZRI_NEVER64;
}

static int azri_resting(const azri_hub *h) { return AZRI_WITH_REST && h->resting; }

/* One more session; the hub owns it. */
static azri_session *azri_hub_add_session(azri_hub *h) {
    azri_session *s = (azri_session *)azri_alloc(h->mem, sizeof *s);
    if (!s) return NULL;
    azri_session_init(s, h->mem, &h->conf.session, &h->rng, &h->news, &h->done, &h->stats);
    s->next = h->sessions;
    h->sessions = s;
    h->session_count++;
    if (!h->main) h->main = s;
    return s;
}

static azri_session *azri_hub_main(const azri_hub *h) { return h->main; }

#ifndef AZREDIS_LEAN
/* Two who share a line look at the clock each for himself: "to" may be a little before "from". */
static AZRI_ALONG void azri_took(azredis_latency *l, uint32_t from, uint32_t to) {
    static const int32_t bounds[] = AZREDIS_LATENCY_BOUNDS;
    int32_t ms = (int32_t)((int64_t)to - (int64_t)from);      /* both may have wrapped */
    size_t i = 0;
    if (ms < 0) ms = 0;
    while (i < sizeof bounds / sizeof bounds[0] && ms > bounds[i]) i++;
    l->place[i]++;
    l->count++;
    l->sum_ms += (uint32_t)ms;
}
#endif

/* 1: there may be other connections beside the shared one. */
static int azri_hub_can_add(const azri_hub *h) { return AZRI_WITH_HANDOVER && !azri_shape_of(h->mem); }

/* 1: subscriptions live on s, or will when it has taken over. */
static int azri_hub_listens(const azri_hub *h, const azri_session *s) {
    int apart = azri_hub_can_add(h) && (h->listener || h->conf.separate);
    return azri_role(s) == (apart ? AZREDIS_CONNECTION_PUBSUB : AZREDIS_CONNECTION_SHARED);
}

static azri_session *azri_hub_listener(const azri_hub *h) {
    return AZRI_WITH_HANDOVER && h->listener ? h->listener : h->main;
}

/* Frees the sessions that nobody needs any more, once the pump holds nothing of theirs. */
static void azri_hub_sweep_sessions(azri_hub *h) {
    azri_session **at = &h->sessions, *s;
    while ((s = *at) != NULL) {
        if (!s->gone || s->link) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        h->session_count--;
        azri_session_free(s);
        azri_free(h->mem, s, sizeof *s);
    }
}

/* ---- how it stands ---- */

static int azri_hub_live_blob(const azri_hub *h, uint64_t now) { return h->blob && now < azri_blob_drain_at(h->blob); }

static const char *azri_hub_waits_for(const azri_hub *h, uint64_t now) {
    if (!azri_hub_live_blob(h, now)) return "a token";
    switch (azri_hub_main(h)->state) {
    case AZRI_DIALING: return "the connection (name look-up, TCP, TLS)";
    case AZRI_HANDSHAKE: return "the answer to AUTH";
    case AZRI_DOWN: case AZRI_READY: case AZRI_DRAINING: default: return "the next try to connect";
    }
}

/* Into e, the end of a command that was on no connection. */
static void azri_hub_snapshot(const azri_hub *h, uint64_t now, azredis_error *e) {
    if (!AZRI_WITH_STATS) return;
    azri_session_snapshot(azri_hub_main(h), now, e);
    e->at.waiting += h->backlog.count;
    e->at.bytes_waiting += h->backlog.bytes;
    if (azri_hub_main(h)->state == AZRI_READY || azri_hub_main(h)->state == AZRI_DRAINING) return;
    e->at.state = azri_hub_waits_for(h, now);
    e->at.token_left_ms = azri_blob_left(h->blob, now);
}

/* ---- new commands ---- */

/* Bytes and number of the commands that hold memory: waiting, unanswered, or with a callback still to be made. */
static size_t azri_hub_load(const azri_hub *h, uint64_t *count) {
    size_t bytes = h->backlog.bytes;
    *count = h->backlog.count + h->undelivered;
    for (const azri_session *s = h->sessions; s; s = azri_next(s)) {
        *count += s->fifo.count;
        bytes += s->fifo.bytes;
    }
    return bytes;
}

static int azri_hub_full(const azri_hub *h, size_t frame) {
    uint64_t count;
    size_t bytes = azri_hub_load(h, &count);
    return count >= h->conf.backlog_count || bytes > h->conf.backlog_bytes || frame > h->conf.backlog_bytes - bytes;
}

/* So many commands of the pool can wait beside those that do. */
static AZRI_APART uint64_t azri_hub_room(const azri_hub *h) {
    uint64_t count;
    size_t bytes = azri_hub_load(h, &count);
    if (count >= h->conf.backlog_count || bytes > h->conf.backlog_bytes) return 0;
    return azri_min64(h->conf.backlog_count - count, (h->conf.backlog_bytes - bytes) / AZRI_POOL_ROOM);
}

/* 1: there is room for a short command. How many it has room for is counted once and then counted down: what has ended
 * meanwhile is found when it comes to 0. */
static inline int azri_hub_has_room(azri_hub *h) {
    if (!h->room) h->room = azri_hub_room(h);
    if (!h->room) return 0;
    h->room--;
    return 1;
}

/* Nobody may come for long: the memory of a large command is given back. */
static void azri_hub_idle(azri_hub *h) {
    uint64_t count;
    (void)azri_hub_load(h, &count);
    if (AZRI_WITH_SHORT_CUTS && !count) azri_stock_idle(&h->stock);
}

/* Who was turned away may come again. */
static int azri_hub_half_empty(const azri_hub *h) {
    uint64_t count;
    size_t bytes = azri_hub_load(h, &count);
    return count <= h->conf.backlog_count / 2 && bytes <= h->conf.backlog_bytes / 2 &&
           h->turned_away <= h->conf.backlog_bytes - bytes;
}

/* The argument that is sent from where it stands, if there is a large one; else -1. */
static int azri_hub_lends(const azri_hub *h, int argc, const azredis_str *argv) {
    int i, best = 0;
    for (i = 1; i < argc; i++)
        if (argv[i].len > argv[best].len) best = i;
    return argv[best].len >= AZRI_LEND && !azri_shape_of(h->mem) ? best : -1;
}

/* azri_hub_new_cmd's `way`: the arguments stay where they are until the command has ended; it goes to a leased connection. */
enum { AZRI_LENT = 1, AZRI_FOR_LEASE = 2 };

/* Encodes a command into a new object. E_ARG: refused; AGAIN: the backlog is full; E_LIMIT, E_NOMEM. */
static AZRI_APART azredis_status azri_hub_general_cmd(azri_hub *h, int argc, const azredis_str *argv, int way,
                                                      azri_cmd **out, azredis_error *e) {
    int hole = -1, i;
    if (!argv || argc < 1) argc = 0;
    size_t frame = azri_resp_size(argc, argv);
    for (i = 0; frame == 0 && i < argc && (argv[i].ptr || argv[i].len == 0); i++) {}
    if (argc == 0 || argv[0].len == 0 || (frame == 0 && i < argc))
        return azri_fail(e, AZREDIS_E_ARG, "command",
                         "a command needs a name, and an argument of a length needs bytes");
    const azri_refusal *r = azri_refused(argc, argv);
    if (AZRI_WITH_HANDOVER && way & AZRI_FOR_LEASE && azri_on_lease_of(r) != AZRI_REFUSED_TOO) r = NULL;
    if (r) return azri_fail(e, AZREDIS_E_ARG, "command", "%s%s%s is refused on a shared connection: %s", r->word,
                            r->sub[0] ? " " : "", r->sub, r->mend);
    if (frame == 0 || frame > h->conf.backlog_bytes ||
        (azri_shape_of(h->mem) && frame > azri_shape_of(h->mem)->command))
        return azri_fail(e, AZREDIS_E_LIMIT, "command", "the command is larger than %s",
                         azri_shape_of(h->mem) ? "command_bytes" : "backlog_bytes");
    if (way & AZRI_LENT && AZRI_WITH_SHORT_CUTS) hole = azri_hub_lends(h, argc, argv);
    size_t value = hole < 0 ? 0 : argv[hole].len;
    *out = azri_hub_full(h, frame) ? NULL : azri_stock_take(&h->stock, frame - value);
    if (!*out && (azri_shape_of(h->mem) || azri_hub_full(h, frame))) {
        h->turned_away = frame;
        (void)azri_fail(e, AZREDIS_E_FULL, "command", "%u commands are waiting already; raise backlog_count or "
                        "backlog_bytes, or submit less", (unsigned)h->backlog.count);
        if (e) azri_hub_snapshot(h, h->now, e);
        return AZREDIS_AGAIN;
    }
    if (!*out) return azri_fail(e, AZREDIS_E_NOMEM, "command", "out of memory for a command of %llu bytes",
                                (unsigned long long)frame);
    h->room = 0;
    (void)azri_resp_write_around((char *)(*out + 1), argc, argv, hole, &(*out)->value_at);
    if (hole < 0) return AZREDIS_OK;
    (*out)->len = frame;
    (*out)->value = argv[hole].ptr;
    (*out)->value_len = value;
    return AZREDIS_OK;
}

/* Most commands are short and find an object in the pool. NULL: this one goes the general way. */
static inline azri_cmd *azri_hub_short_cmd(azri_hub *h, int argc, const azredis_str *argv) {
    if (!AZRI_WITH_SHORT_CUTS || !argv || argc < 1 || !argv[0].len || !h->stock.first || !azri_hub_has_room(h)) return NULL;
    size_t frame = azri_resp_write_short((char *)(h->stock.first + 1), AZRI_POOL_ROOM, argc, argv);
    if (!frame) return NULL;
    if (!azri_refused(argc, argv)) return azri_stock_first(&h->stock, frame);      /* by now all arguments have bytes */
    azri_wipe(h->stock.first + 1, frame);
    return NULL;
}

static azredis_status azri_hub_new_cmd(azri_hub *h, int argc, const azredis_str *argv, int way, azri_cmd **out,
                                       azredis_error *e) {
    *out = azri_hub_short_cmd(h, argc, argv);
    return *out ? AZREDIS_OK : azri_hub_general_cmd(h, argc, argv, way, out, e);
}

/* ---- ends without an answer ---- */

static void azri_hub_not_sent(azri_hub *h, azri_cmd *c, const azredis_error *e) {
    azri_done_fail(&h->done, c, h->mem, AZREDIS_NOT_SENT, e);
}

static void azri_hub_fail_queue(azri_hub *h, azri_queue *q, const azredis_error *e) {
    while (q->head) azri_hub_not_sent(h, azri_queue_take(q, NULL), e);
}

/* Trouble that cannot pass by itself ends the waiting at once: nobody gains by waiting for it. */
static void azri_hub_trouble(azri_hub *h, const azredis_error *e) {
    uint32_t tries = azri_hub_main(h)->attempts;
    int again;
    azri_fail_copy(&h->trouble, e);
    again = e->retryable && tries && tries < h->conf.connect_retry;     /* no try: without a token, for which many were made */
    if (h->conf.abort_on_connect_fail && !h->ever_ready && !again) h->aborted = 1;
    if (!e->retryable || h->aborted) azri_hub_fail_queue(h, &h->backlog, e);
}

/* Why a command could not be sent: the known trouble, else what was being waited for. */
static void azri_hub_why(const azri_hub *h, uint64_t now, azredis_error *e) {
    if (azri_leaving(azri_hub_main(h)))
        (void)azri_fail(e, AZREDIS_E_TIMEOUT, "redis.handover", "%s: not sent in time; the connection is being "
                        "replaced, and was waiting for the last answers of the old one", h->conf.session.endpoint);
    else if (h->trouble.code == AZREDIS_OK)
        (void)azri_fail(e, AZREDIS_E_TIMEOUT, "redis.connect", "%s: not connected in time; was waiting for %s",
                        h->conf.session.endpoint, azri_hub_waits_for(h, now));
    else {
        *e = h->trouble;
        AZRI_SAY(e->message, sizeof e->message, "not connected: %s", h->trouble.message);
    }
    azri_hub_snapshot(h, now, e);
}

/* Ends c, which waited for a connection; early: it would not wait for one. */
static void azri_hub_give_up(azri_hub *h, azri_cmd *c, int early, uint64_t now) {
    azri_hub_why(h, now, &h->made);
    if (early && h->made.code == AZREDIS_E_TIMEOUT && h->trouble.code == AZREDIS_OK) h->made.code = AZREDIS_E_CLOSED;
    azri_hub_not_sent(h, c, &h->made);
}

/* ---- routing ---- */

/* While a connection leaves, commands wait for its heir; they are not told that nothing is connected. */
static AZRI_APART void azri_hub_wait_for_it(azri_hub *h, const azri_session *s, azri_cmd *c) {
    if (azri_leaving(s)) {}
    else if (h->aborted || (h->trouble.code != AZREDIS_OK && !h->trouble.retryable) ||
        ((h->conf.fail_fast || c->no_queue) && (h->ever_ready || c->no_queue))) {
        azri_hub_give_up(h, c, 1, h->now);
        return;
    }
    azri_queue_push(&h->backlog, c);
    azri_sooner(&h->backlog_deadline, c->deadline);
}

static inline void azri_hub_submit(azri_hub *h, azri_cmd *c) {
    azri_session *s = h->main;
    if (s->state == AZRI_READY && !azri_leaving(s)) azri_session_push_cmd(s, c);
    else azri_hub_wait_for_it(h, s, c);
}

/* What waits for s goes, for s is ready; or ends with e, for s will not come. */
static void azri_hub_release_backlog(azri_hub *h, azri_session *s, const azredis_error *e) {
    azri_cmd *c, *at = NULL;
    while ((c = at ? at->next : h->backlog.head) != NULL) {
        if ((c->on ? c->on : h->main) != s) {
            at = c;
            continue;
        }
        (void)azri_queue_take(&h->backlog, at);
        if (e) azri_hub_not_sent(h, c, e);
        else azri_session_push_cmd(s, c);
    }
    h->backlog_deadline = h->backlog.head ? h->now : AZRI_NEVER64;
}

/* In order, in front of what waits already. */
static void azri_hub_requeue(azri_hub *h, azri_queue *unsent, uint64_t now) {
    while (h->backlog.head) azri_queue_push(unsent, azri_queue_take(&h->backlog, NULL));
    h->backlog = *unsent;
    h->backlog_deadline = now;          /* recomputed at the next tick */
}

static void azri_hub_expire_backlog(azri_hub *h, uint64_t now) {
    azri_cmd *c, *at = NULL;
    azri_sooner(&h->backlog_deadline, azri_queue_stamp(&h->backlog, now));
    if (now < h->backlog_deadline) return;
    h->backlog_deadline = AZRI_NEVER64;
    for (c = h->backlog.head; c; c = at ? at->next : h->backlog.head) {
        if (c->deadline > now) {
            azri_sooner(&h->backlog_deadline, c->deadline);
            at = c;
            continue;
        }
        azri_hub_give_up(h, c, 0, now);
        (void)azri_queue_take(&h->backlog, at);
    }
}

/* ==== >>topics ============================================================ uses: core mem fail reply resp news cmd session ends pubsub hub ==
 * Subscriptions on connections: who asks for them where, and what the answers and messages mean for them.
 * ================================================================================================ */

static void azri_hub_add_sub(azri_hub *h, azredis_sub *s) {
    s->next = h->subs;
    s->alike = h->topics[s->topic % AZRI_TOPICS];
    h->subs = h->topics[s->topic % AZRI_TOPICS] = s;
}

static int azri_hub_other_sub(const azri_hub *h, const azredis_sub *self) {
    for (const azredis_sub *s = h->topics[self->topic % AZRI_TOPICS]; s; s = s->alike)
        if (s != self && !azri_sub_ended(s) && azri_sub_is(s, azri_sub_pattern(self), azri_str(self->channel)))
            return 1;
    return 0;
}

/* Queues SUBSCRIBE or UNSUBSCRIBE, one channel each: then exactly one answer is due. 0: no memory now. */
static int azri_hub_ask(azri_hub *h, azri_session *s, azri_kind kind, azredis_sub *sub) {
    azredis_str argv[2];
    argv[0] = azri_str(kind == AZRI_CMD_SUBSCRIBE ? "PSUBSCRIBE" : "PUNSUBSCRIBE");
    if (!azri_sub_pattern(sub)) argv[0] = azri_slice(argv[0].ptr + 1, argv[0].len - 1);
    argv[1] = azri_str(sub->channel);
    azri_cmd *c = azri_stock_take(&h->stock, azri_resp_size(2, argv));
    if (!c) return 0;
    (void)azri_resp_write((char *)(c + 1), 2, argv);
    c->kind = kind;
    c->sub = kind == AZRI_CMD_SUBSCRIBE ? sub : NULL;
    c->serial = s->serial;
    azri_session_push_cmd(s, c);
    return 1;
}

/* What a subscription is on this connection. */
static azri_sub_state *azri_sub_state_on(azredis_sub *sub, const azri_session *s) {
    return azri_elder(s) ? &sub->heir_state : &sub->state;
}

static int azri_sub_asked(azri_sub_state st) { return st == AZRI_SUB_ASKED || st == AZRI_SUB_ACTIVE; }
static int azri_sub_settled(azri_sub_state st) { return st == AZRI_SUB_ACTIVE || st == AZRI_SUB_REFUSED; }

/* 1: an heir asks for it later. Its stream must begin within the one of the connection that it replaces. */
static int azri_hub_asks_later(const azredis_sub *sub, const azri_session *s) {
    return azri_elder(s) && !s->elder->leaving && s->elder->state == AZRI_READY && !azri_sub_settled(sub->state);
}

/* Asks for every subscription that is new to this connection. */
static void azri_hub_subscribe(azri_hub *h, azri_session *s) {
    if (!azri_hub_listens(h, s)) return;
    for (azredis_sub *sub = h->subs; sub && !azri_leaving(s); sub = sub->next) {
        azri_sub_state *st = azri_sub_state_on(sub, s);
        if (azri_sub_ended(sub) || *st != AZRI_SUB_NEW || azri_hub_asks_later(sub, s)) continue;
        *(azri_elder(s) ? &sub->heir_serial : &sub->serial) = s->serial;
        if (AZRI_WITH_RESP2 && !s->resp3 && !azri_deaf(s)) {
            if (azri_hub_can_add(h)) {          /* as soon as there is a listener; an heir does not wait for that */
                if (azri_elder(s)) *st = AZRI_SUB_REFUSED;
                continue;
            }
            (void)azri_fail(&sub->error, AZREDIS_E_STATE, "redis.subscribe",
                            "over RESP2 subscriptions need a connection of their own, which AZREDIS_NO_HANDOVER and "
                            "options.memory do not have; leave the option protocol at 3");
            *st = AZRI_SUB_REFUSED;
            azri_news_error(azri_session_news(s), AZREDIS_EV_ERROR_MESSAGE, &sub->error);
        } else if ((!azri_elder(s) || azri_seam_begin(sub)) && azri_hub_ask(h, s, AZRI_CMD_SUBSCRIBE, sub)) {
            *st = AZRI_SUB_ASKED;
        }
    }
}

/* The answer to SUBSCRIBE: c is finished. It counts for the connection that it came on. */
static void azri_hub_subscribed(azri_hub *h, azri_cmd *c) {
    azredis_sub *sub = c->sub;
    if (!sub || azri_sub_ended(sub) || c->reply->fate != AZREDIS_ANSWERED) return;
    if (c->serial != sub->serial && (!AZRI_WITH_HANDOVER || c->serial != sub->heir_serial)) return;
    azri_sub_state *st = c->serial == sub->serial ? &sub->state : &sub->heir_state;
    h->step |= azri_heir(azri_hub_listener(h)) != NULL;
    h->answers++;
    if (c->reply->status == AZREDIS_OK) {
        *st = AZRI_SUB_ACTIVE;
        sub->error.code = AZREDIS_OK;
        azri_log(&h->news, AZREDIS_LOG_INFO, AZRI_LOG_SUBSCRIBED, "subscribed to a channel");
        return;
    }
    *st = AZRI_SUB_REFUSED;
    sub->error = *c->reply->error;
    azri_log(&h->news, AZREDIS_LOG_WARNING, AZRI_LOG_SUB_REFUSED, "a subscription was refused: %s", sub->error.message);
}

/* A SUBSCRIBE that is still on its way must not find a freed subscription. */
static void azri_hub_forget_sub(azri_hub *h, const azredis_sub *sub) {
    for (azri_session *s = h->sessions; s; s = azri_next(s))
        for (azri_cmd *c = s->fifo.head; c; c = c->next)
            if (c->sub == sub) c->sub = NULL;
    for (azri_cmd *c = h->done.head; c; c = c->done_next)
        if (c->sub == sub) c->sub = NULL;
}

/* Frees the subscriptions that were given up. */
static void azri_hub_sweep_subs(azri_hub *h) {
    azredis_sub **at = &h->subs, **alike, *sub;
    while ((sub = *at) != NULL) {
        if (!sub->dead || sub->busy) {
            at = &sub->next;
            continue;
        }
        *at = sub->next;
        for (alike = &h->topics[sub->topic % AZRI_TOPICS]; *alike != sub; alike = &(*alike)->alike) {}
        *alike = sub->alike;
        azri_hub_forget_sub(h, sub);
        azri_sub_free(sub);
    }
}

/* Nobody hears the channel any more: the server need not send it. */
static void azri_hub_leave_topic(azri_hub *h, azredis_sub *sub) {
    if (azri_hub_other_sub(h, sub)) return;
    for (azri_session *s = h->sessions; s; s = azri_next(s)) {
        azri_sub_state st = *azri_sub_state_on(sub, s);
        if (azri_hub_listens(h, s) && s->state == AZRI_READY && !azri_leaving(s) && azri_sub_asked(st))
            (void)azri_hub_ask(h, s, AZRI_CMD_UNSUBSCRIBE, sub);   /* without memory its messages are dropped here */
    }
}

static void azri_hub_unsubscribe(azri_hub *h, azredis_sub *sub) {
    int ended = azri_sub_ended(sub);
    sub->dead = 1;
    h->sweep = azri_hub_sweep_subs;
    if (!ended) azri_hub_leave_topic(h, sub);
}

/* A full queue has ended it. */
static AZRI_APART void azri_hub_close_sub(azri_hub *h, azredis_sub *sub) {
    (void)azri_fail(&sub->error, AZREDIS_E_LIMIT, "redis.subscribe",
                    "%s: a subscription ended, as %u messages were waiting; read faster, or raise its count or bytes",
                    h->conf.session.endpoint, (unsigned)sub->count);
    h->answers++;
    azri_news_error(azri_session_news(azri_hub_listener(h)), AZREDIS_EV_ERROR_MESSAGE, &sub->error);
    azri_hub_leave_topic(h, sub);
}

/* A message on s, for the subscriptions whose stream has begun there. Those of a connection that takes the place of
 * another are held until it is known which of them the other delivered; without a seam the other delivers them all. */
static void azri_hub_message(azri_hub *h, const azri_session *s, const azri_frame *f) {
    const azredis_value *last = &f->root->as.items[f->root->len - 1];
    azredis_str name = azredis_text(&f->root->as.items[1]);
    azredis_str channel = azredis_text(last - 1), payload = azredis_text(last);
    uint32_t topic = azri_topic(name);
    for (azredis_sub *sub = h->topics[topic % AZRI_TOPICS]; sub; sub = sub->alike) {
        if (sub->topic != topic || azri_sub_ended(sub) || !azri_sub_is(sub, f->root->len == 4, name)) continue;
        if ((azri_elder(s) || azri_holding(s)) && sub->seam) {
            if (sub->seam->open) azri_seam_young(sub, channel, payload);
        } else if (!azri_elder(s) && sub->open) {
            h->stats.messages++;
            h->stats.messages_lost += azri_sub_push(sub, channel, payload);
            if (sub->tail && !sub->tail->arrival) sub->tail->arrival = h->stats.messages;
            if (azri_seam_of(sub)) azri_seam_old(sub, channel, payload);
            if (azri_sub_ended(sub)) azri_hub_close_sub(h, sub);
        }
    }
}

/* The head of s's FIFO was `head` and has been answered: a confirmed SUBSCRIBE begins its stream. A second subscription
 * to a channel does not get what the first one gets before: its own stream would have a hole then. */
static void azri_hub_confirmed(const azri_session *s, const azri_cmd *head) {
    azredis_sub *sub = head ? head->sub : NULL;
    if (!sub || head->kind != AZRI_CMD_SUBSCRIBE || !head->finished || head->reply->status != AZREDIS_OK) return;
    if (head->serial != (azri_elder(s) ? sub->heir_serial : sub->serial)) return;
    if (!azri_elder(s)) sub->open = 1;
    if (azri_seam_of(sub) && (azri_elder(s) || azri_holding(s))) sub->seam->open = 1;
}

/* The streams of the old connection and its successor become one in all subscriptions. */
static void azri_hub_join(azri_hub *h, int whole) {
    for (azredis_sub *sub = h->subs; sub; sub = sub->next) {
        int ended = azri_sub_ended(sub);
        if (ended) azri_seam_drop(sub);
        if (azri_seam_of(sub)) azri_seam_join(sub, whole, &h->stats.messages, &h->stats.messages_lost);
        if (azri_sub_ended(sub) && !ended) azri_hub_close_sub(h, sub);
    }
}

/* Over RESP2, or if asked for, subscriptions need a connection of their own: then it is made, for life. */
static void azri_hub_need_listener(azri_hub *h, uint64_t now) {
    const azri_session *s = h->main;
    if (!azri_hub_can_add(h) || h->listener || !h->subs || now < h->listener_at) return;
    if (!h->conf.separate && (!AZRI_WITH_RESP2 || s->state != AZRI_READY || s->resp3)) return;
    h->listener = azri_hub_add_session(h);
    h->listener_at = now + AZRI_HEIR_AGAIN;
    if (!h->listener) return;
    h->listener->role = AZREDIS_CONNECTION_PUBSUB;
    h->listener->dial_at = now;
}

/* ==== >>handover ========================================================== uses: core mem fail news cmd session ends pubsub hub topics ==
 * A connection A is replaced by a second one, B, without a break (make before break):
 *  1. B is dialled and authenticated with the newest token, while A goes on. If that fails it is tried again,
 *     with the back-off of a reconnect, for as long as A lives.
 *  2. B subscribes to what A has and is confirmed. Its messages are held.
 *  3. A leaves: nothing new is written to it. What was not begun and what is submitted now waits in the backlog.
 *     A's last command is a PING, the mark: its answer says that all others are answered, and that every message
 *     published before it has been read.
 *  4. A is closed. B writes a mark of its own, then the backlog: the order is kept. With the answer to that mark
 *     B has been read beyond the point where A ended; the held messages that A delivered too are dropped, the
 *     others delivered.
 * No ConnectionFailed or -Restored is told: nothing failed. If A dies before step 4, B takes its place as the
 * reconnect, in whatever state it is. If B dies before step 4, A takes the backlog back and goes on.
 *
 * What is known of messages: the last ones of A since B's SUBSCRIBE was queued, and all of B's since it was
 * confirmed. The server publishes in one order to both, so those that both got end A's stream and begin B's. None
 * is lost and none delivered twice, except: (a) where payloads repeat so that a longer run fits than the true one
 * (x, x, x ...), equal messages may be taken for one; (b) where the server, or a proxy before it, lets messages
 * overtake replies on one connection, or gives two connections different orders; (c) beyond sub_queue messages in
 * the overlap, which are counted in lost; (d) without memory for the record some may come twice.
 * If A died, the two streams need not overlap: unless they visibly do, the next message has gap = 1.
 * ================================================================================================ */

/* Asks that s be replaced, for the reason `why` (a literal). Asking again is harmless. Without handovers it is drained,
 * and dialled again: commands wait, and subscriptions have a gap. */
static void azri_hub_handover(azri_hub *h, azri_session *s, const char *why, uint64_t now) {
    if (s->state != AZRI_READY || s->replace || azri_elder(s)) return;
    s->replace = why;                   /* a leased one is not used again */
    s->heir_at = now;
    if (!AZRI_WITH_HANDOVER) {
        s->state = AZRI_DRAINING;
        h->step = 1;
    }
    azri_log(&h->news, AZREDIS_LOG_INFO, AZRI_LOG_HANDOVER, "%s: %s; a second connection is made in its place",
             h->conf.session.endpoint, why);
}

/* A token that is newer than the connection's, to be presented after `delay`: in place, or by a connection that is made
 * with it. An heir's turn for that comes when it has taken over. */
static void azri_hub_present(azri_hub *h, azri_session *s, azri_blob *fresh, uint64_t now, uint64_t delay) {
    if (s->state != AZRI_READY || s->blob->generation >= fresh->generation) return;
    if (!AZRI_WITH_HANDOVER || s->role == AZREDIS_CONNECTION_LEASED || azri_shape_of(h->mem) ||
        !(azri_deaf(s) || h->conf.session.reauth == AZREDIS_REAUTH_HANDOVER || s->auth_took > AZRI_SLOW_AUTH))
        azri_session_token(s, fresh, now, delay);
    else if (!s->elder)
        azri_hub_handover(h, s, AZRI_TEXT("the new token is shown by a new connection"), now + delay);
}

/* One handover at a time: the streams of the last one must have been joined. */
static int azri_hub_wants_heir(const azri_session *s) {
    return AZRI_WITH_HANDOVER && s->replace && !s->heir && !s->holding && s->state == AZRI_READY &&
           s->role != AZREDIS_CONNECTION_LEASED;
}

static void azri_hub_make_heir(azri_hub *h, azri_session *s, uint64_t now) {
    if (now < s->heir_at) return;
    azri_session *b = azri_hub_add_session(h);
    if (!b) {
        s->heir_at = now + AZRI_HEIR_AGAIN;
        azri_log(&h->news, AZREDIS_LOG_WARNING, AZRI_LOG_HANDOVER_FAILED, "%s: out of memory for a second connection; "
                 "the old one goes on, next try in %u ms", h->conf.session.endpoint, (unsigned)AZRI_HEIR_AGAIN);
        return;
    }
    b->elder = s;
    b->role = s->role;
    b->dial_at = now;
    s->heir = b;
}

/* Step 2 is done: all subscriptions are answered on the heir of s. */
static int azri_hub_settled(const azri_hub *h, const azri_session *s) {
    for (const azredis_sub *sub = azri_hub_listens(h, s) ? h->subs : NULL; sub; sub = sub->next)
        if (!azri_sub_ended(sub) && !azri_sub_settled(sub->heir_state)) return 0;
    return 1;
}

/* Step 3. */
static void azri_hub_leave(azri_hub *h, azri_session *a, uint64_t now) {
    azri_queue unsent;
    memset(&unsent, 0, sizeof unsent);
    azri_session_hand_back(a, &unsent);
    azri_hub_requeue(h, &unsent, now);
    azri_session_mark(a);
    a->leaving = 1;
    a->leave_until = azri_session_grace(&h->conf.session, now);
}

/* The heir is the session from now on. Its subscriptions and the backlog go on if it is ready; if not, it is the
 * reconnect of the one that has gone. */
static void azri_hub_take_over(azri_hub *h, azri_session *a) {
    azri_session *b = a->heir;
    int listens = azri_hub_listens(h, a);
    if (h->main == a) h->main = b;
    if (h->listener == a) h->listener = b;
    for (azredis_sub *sub = listens ? h->subs : NULL; sub; sub = sub->next) {
        sub->state = sub->heir_state;
        sub->serial = sub->heir_serial;
        sub->heir_state = AZRI_SUB_NEW;
        if (sub->open && !(sub->seam && sub->seam->open)) sub->gap = 1;   /* refused on b: its stream ends here */
        sub->open = sub->seam && sub->seam->open;
        if (b->state == AZRI_READY && sub->seam) b->holding = 1;
    }
    b->was_ready = 1;
    b->failed = a->failed;
    b->last_read = azri_max64(b->last_read, a->last_read);
    b->last_write = azri_max64(b->last_write, a->last_write);
    b->elder = a->heir = NULL;
    a->gone = 1;
    if (b->state != AZRI_READY) {
        if (listens) azri_hub_join(h, 0);   /* its own token ends: nothing more can be asked of it */
        return;
    }
    if (b->holding) azri_session_mark(b);
    azri_hub_release_backlog(h, b, NULL);
    if (h->blob) azri_hub_present(h, b, h->blob, h->now, 0);
}

/* ==== >>lease ============================================================= uses: core mem fail refused cmd session ends hub ==
 * Connections that one caller has for a while: for transactions, and for commands that block. They are made when they are
 * needed, kept a while for the next caller, and authenticated again as all are.
 * ================================================================================================ */

#define AZRI_LEASE_IDLE_MS 30000u       /* one that nobody wants is closed */

#ifndef AZREDIS_NO_MALLOC
/* An idle connection, or a new one. NULL with AGAIN: as many as may be are in use; E_NOMEM. */
static azri_session *azri_lease_take(azri_hub *h, azredis_client *c, uint64_t now, azredis_status *st) {
    azri_session *s, *found = NULL;
    uint32_t n = 0;
    *st = AZREDIS_E_NOMEM;
    if (!azri_hub_can_add(h)) return NULL;       /* one connection, and no more */
    for (s = h->sessions; s; s = azri_next(s)) {
        if (s->role != AZREDIS_CONNECTION_LEASED || s->gone) continue;
        n++;
        if (!s->lease.client && s->state == AZRI_READY && !s->replace && !s->wants_close) found = s;
    }
    *st = found ? AZREDIS_OK : n >= h->conf.leases ? AZREDIS_AGAIN : AZREDIS_E_NOMEM;
    if (*st == AZREDIS_AGAIN || (!found && (found = azri_hub_add_session(h)) == NULL)) return NULL;
    *st = AZREDIS_OK;
    found->role = AZREDIS_CONNECTION_LEASED;
    if (found->state == AZRI_DOWN) found->dial_at = now;
    found->lease.client = c;
    found->lease.session = found;
    return found;
}

/* 1: its connection has ended; it is not made again. */
static int azri_lease_ended(const azri_session *s) {
    return s->wants_close || (s->state == AZRI_DOWN && s->dial_at == AZRI_NEVER64);
}

/* Back from its caller, whose commands have all ended. Nobody else gets one with a state of its own, or with an answer still
 * to come. */
static void azri_lease_give(azri_hub *h, azri_session *s, uint64_t now) {
    azredis_lease *l = &s->lease;
    l->client = NULL;
    l->idle_until = now + AZRI_LEASE_IDLE_MS;
    s->undivided = 0;
    if (s->state == AZRI_DOWN) s->gone = 1;                 /* lost, or not made yet and wanted by nobody any more */
    else if (!s->wants_close && s->state != AZRI_HANDSHAKE && (s->fifo.head || l->multi || l->watching || l->marked || s->replace))
        s->wants_close = AZRI_TEXT("left by its caller");
    l->multi = l->watching = l->marked = 0;
    h->step = 1;                        /* somebody may wait for it */
}

static void azri_lease_submit(azri_hub *h, azri_session *s, azri_cmd *c) {
    if (azri_lease_ended(s)) {
        const azredis_error *e = &s->error;
        if (s->state != AZRI_DOWN) {    /* until then that record is of whoever has the baton */
            (void)azri_fail(&h->made, AZREDIS_E_CLOSED, "redis.lease", "the leased connection has ended");
            e = &h->made;
        }
        azri_hub_not_sent(h, c, e);
    } else if (s->state == AZRI_READY) {
        azri_session_push_cmd(s, c);
    } else {
        c->on = s;
        azri_queue_push(&h->backlog, c);
        azri_sooner(&h->backlog_deadline, c->deadline);
    }
}

/* Before a command on it, and after its answer. */
static void azri_lease_before(azri_session *s, azri_on_lease what) {
    if (what == AZRI_WATCHES || what == AZRI_BEGINS || what == AZRI_BLOCKS) s->undivided = 1;
}

static void azri_lease_after(azri_session *s, azri_on_lease what, azredis_status st, azredis_fate fate) {
    azredis_lease *l = &s->lease;
    int may_have = st == AZREDIS_OK || fate == AZREDIS_MAYBE_RUN, did = fate == AZREDIS_ANSWERED;
    if (what == AZRI_BEGINS && may_have) l->multi = 1;
    if (what == AZRI_WATCHES && may_have) l->watching = 1;
    if (what == AZRI_ENDS && did) l->multi = l->watching = 0;       /* also where EXEC is answered by an error */
    if (what == AZRI_FORGETS && did && !l->multi) l->watching = 0;
    s->undivided = l->multi || l->watching;
}
#endif

/* A leased connection is gone, and with it what its caller had begun there: he is told, and it is not made again. */
static void azri_lease_lost(azri_hub *h, azri_session *s, const azredis_error *e, azri_queue *unsent) {
    azri_hub_fail_queue(h, unsent, e);
    azri_hub_release_backlog(h, s, e);
    s->dial_at = AZRI_NEVER64;
    s->gone = !s->lease.client;
}

/* What time brings to an idle one. */
static uint64_t azri_lease_until(const azri_session *s) {
    if (azri_role(s) != AZREDIS_CONNECTION_LEASED || s->lease.client || s->state != AZRI_READY || s->wants_close) return AZRI_NEVER64;
    return s->replace ? 0 : s->lease.idle_until;
}

/* ==== >>sessions ========================================================== uses: core mem fail reply resp token news cmd session ends pubsub hub topics handover lease ==
 * The life of connections: tokens for them, dialling, their end, and what time brings.
 * Entry points: azri_hub_token, _may_dial, _dialing, _opened, _frame, _closed, _tick, _deadline.
 * ================================================================================================ */

/* Several connections show a new token one after the other, each within half of the time that its own has left before
 * its headroom. */
static uint64_t azri_hub_stagger(azri_hub *h, const azri_session *s, uint64_t now) {
    uint64_t at = s->blob ? s->blob->expires_at - azri_token_headroom(s->blob->life_ms) : now;
    return at > now ? azri_rng_below(&h->rng, (uint32_t)azri_min64(AZRI_AUTH_JITTER_MAX, (at - now) / 2) + 1) : 0;
}

static void azri_hub_token(azri_hub *h, azri_blob *fresh, uint64_t now) {
    azri_session *s;
    uint32_t many = 0;
    azri_session_set_blob(&h->blob, fresh);
    for (s = h->sessions; AZRI_WITH_HANDOVER && s; s = azri_next(s)) many += !azri_elder(s) && !azri_gone(s);
    for (s = h->sessions; s; s = azri_next(s)) {
        azri_hub_present(h, s, fresh, now, many > 1 ? azri_hub_stagger(h, s, now) : 0);
        if (s->state == AZRI_DOWN && h->refusals && s->dial_at != AZRI_NEVER64) s->dial_at = now;   /* a refused one was replaced */
    }
    if (h->trouble.code == AZREDIS_E_AUTH || h->trouble.code == AZREDIS_E_ENTRA ||
        h->trouble.code == AZREDIS_E_NO_CREDENTIAL)
        h->trouble.retryable = 1;
}

/* 1: s shall be dialled now. */
static int azri_hub_may_dial(const azri_hub *h, const azri_session *s, uint64_t now) {
    return s->state == AZRI_DOWN && !azri_gone(s) && !s->link && !h->aborted && !azri_resting(h) &&
           azri_hub_live_blob(h, now) && now >= s->dial_at;
}

static void azri_hub_dialing(azri_hub *h, azri_session *s) {
    s->state = AZRI_DIALING;
    azri_log(&h->news, AZREDIS_LOG_INFO, AZRI_LOG_CONNECT, "%s: connecting", h->conf.session.endpoint);
}

static void azri_hub_opened(azri_hub *h, azri_session *s, uint64_t now) {
    azri_log(&h->news, AZREDIS_LOG_INFO, AZRI_LOG_CONNECTED, "%s: connected", h->conf.session.endpoint);
    s->serial = ++h->serials;
    azri_session_opened(s, h->blob, now);
}

/* The end of what ConnectionFailed told. */
static void azri_hub_restored(azri_hub *h, azri_session *s, uint64_t now) {
    if (s == h->main) h->trouble.code = AZREDIS_OK;
    if (s->was_ready) AZRI_COUNT(h->stats.reconnects, 1);
    if (s->failed)
        azri_news_event(azri_session_news(s), AZREDIS_EV_CONNECTION_RESTORED, NULL, AZREDIS_UNKNOWN,
                        azri_blob_left(s->blob, now), AZREDIS_UNKNOWN);
    s->was_ready = 1;
    s->failed = 0;
}

static void azri_hub_ready(azri_hub *h, azri_session *s, uint64_t now) {
    azredis_sub *sub;
    h->stats.connects++;
    if (s == h->main) h->ever_ready = 1;
    h->refusals = 0;
    if (!azri_elder(s)) azri_hub_restored(h, s, now);
    azri_hub_need_listener(h, now);
    for (sub = azri_hub_listens(h, s) ? h->subs : NULL; sub; sub = sub->next) *azri_sub_state_on(sub, s) = AZRI_SUB_NEW;
    azri_hub_subscribe(h, s);
    if (h->blob) azri_hub_present(h, s, h->blob, now, 0);           /* a newer one may have come */
    if (!azri_elder(s)) azri_hub_release_backlog(h, s, NULL);
}

/* The server of s has refused a token, which the pump tells to the auth. 1: it is the newest. */
static int azri_hub_take_refusal(azri_hub *h, azri_session *s) {
    h->rejected = s->rejected;
    s->rejected = 0;
    return h->blob && h->blob->hash == h->rejected;
}

/* In the handshake: one fresh token is asked for; refused again, or a password, it is a mistake to be mended. */
static void azri_hub_refused(azri_hub *h, azri_session *s, azredis_error *e) {
    if (!azri_hub_take_refusal(h, s)) return;
    if (azri_blob_endless(h->blob) || ++h->refusals > 1) e->retryable = 0;
    if (azri_blob_endless(h->blob)) return;
    /* Never shown again. What the connection that is to be replaced lives on was accepted, and may be. */
    azri_session_set_blob(
        &h->blob, azri_elder(s) && s->elder->blob && s->elder->blob->hash != h->rejected ? s->elder->blob : NULL);
}

/* Refused on a live connection: that lives on its old token, with which it may even be made again. */
static void azri_hub_reauth_refused(azri_hub *h, azri_session *s) {
    if (azri_hub_take_refusal(h, s)) azri_session_set_blob(&h->blob, s->blob);
}

static uint64_t azri_hub_redial_delay(azri_hub *h, azri_session *s, const azredis_error *e, uint64_t now) {
    if (s->ready_at && now - s->ready_at >= AZRI_HEALTHY_MS) s->attempts = 0;
    /* A token that ended is nobody's failure: the next one may be used as soon as it is there. */
    if (s->ready_at && s->blob && now >= azri_blob_drain_at(s->blob)) return s->attempts = 0;
    if (!e->retryable) return AZRI_RECONNECT_CAP;
    return azri_backoff(&h->rng, AZRI_RECONNECT_BASE, AZRI_RECONNECT_CAP, s->attempts++);
}

/* Step 4: the mark has been answered, or (fenced = 0) nobody waits for A any more and it is silent. */
static void azri_hub_switch(azri_hub *h, azri_session *a, int fenced) {
    azri_queue unsent;
    memset(&unsent, 0, sizeof unsent);
    if (a->rejected) azri_hub_reauth_refused(h, a);
    (void)azri_fail(&a->error, AZREDIS_E_CLOSED, "redis.handover", "%s: the connection was replaced",
                    h->conf.session.endpoint);
    azri_session_closed(a, &a->error, &unsent);
    AZREDIS_ASSERT(!unsent.head);
    for (azredis_sub *sub = fenced || !azri_hub_listens(h, a) ? NULL : h->subs; sub; sub = sub->next)
        if (sub->open) sub->gap = 1;
    AZRI_COUNT(h->stats.handovers, 1);
    azri_log(&h->news, fenced ? AZREDIS_LOG_INFO : AZREDIS_LOG_WARNING, AZRI_LOG_HANDED_OVER,
             "%s: the connection was replaced%s", h->conf.session.endpoint,
             fenced ? "" : "; the old one did not answer any more");
    azri_hub_take_over(h, a);
}

/* Step 1 or 2 has failed, or B was lost in step 3: A goes on. */
static void azri_hub_heir_closed(azri_hub *h, azri_session *b, const azredis_error *why, uint64_t delay) {
    azri_session *a = b->elder;
    for (azredis_sub *sub = azri_hub_listens(h, a) ? h->subs : NULL; sub; sub = sub->next) {
        azri_seam_drop(sub);
        sub->heir_state = AZRI_SUB_NEW;
    }
    a->leaving = 0;
    if (a->state == AZRI_READY) azri_hub_release_backlog(h, a, NULL);
    azri_log(&h->news, AZREDIS_LOG_WARNING, AZRI_LOG_HANDOVER_FAILED, "%s; the old connection goes on, next try to "
             "replace it in %llu ms", why->message, (unsigned long long)delay);
}

/* What a lost connection means for its subscriptions. */
static void azri_hub_subs_lost(azri_hub *h, const azri_session *s) {
    if (AZRI_WITH_HANDOVER && !s->heir) azri_hub_join(h, 0);
    for (azredis_sub *sub = h->subs; sub; sub = sub->next) {
        if (sub->open) sub->gap = 1;
        sub->open = 0;
    }
}

/* A connection that served is gone, or one that was to serve. If its heir is ready, that serves at once. */
static void azri_hub_main_closed(azri_hub *h, azri_session *s, const azredis_error *e, azri_queue *unsent,
                                 uint64_t delay, uint64_t now) {
    azri_session *b = azri_heir(s);
    int heir = b && b->state == AZRI_READY, main = s == h->main;
    if (heir) delay = 0;
    if (!s->failed && !azri_resting(h)) {
        azri_news_event(azri_session_news(s), AZREDIS_EV_CONNECTION_FAILED, e, AZREDIS_UNKNOWN, AZREDIS_UNKNOWN, (int64_t)delay);
        s->failed = 1;
    }
    azri_log(&h->news, azri_resting(h) ? AZREDIS_LOG_INFO : AZREDIS_LOG_WARNING,
             s->was_ready ? AZRI_LOG_LOST : AZRI_LOG_CONNECT_FAILED, "%s; next try in %llu ms", e->message,
             (unsigned long long)delay);
    if (azri_hub_listens(h, s)) azri_hub_subs_lost(h, s);
    if (h->conf.fail_fast && h->ever_ready && !heir) azri_hub_fail_queue(h, unsent, e);
    azri_hub_requeue(h, unsent, now);
    if (!heir && main) azri_hub_trouble(h, e);
    if (!b) return;
    if (!heir) b->dial_at = azri_min64(b->dial_at, now + delay);
    azri_hub_take_over(h, s);
    if (heir) azri_hub_restored(h, b, now);
}

/* Subscribed, a connection has the server's limit for subscribers, which is far below that of others. Of a server that
 * ends one without a word while it was answering or sending messages this may be the reason. */
static void azri_hub_over_limit(const azri_hub *h, const azri_session *s, azredis_error *e, uint64_t now) {
    if (!AZRI_WITH_HANDOVER || e->code != AZREDIS_E_CLOSED || s != azri_hub_listener(h) || !h->subs || !azri_hub_listens(h, s) ||
        s->state != AZRI_READY || s->wants_close || now >= azri_blob_drain_at(s->blob))
        return;
    if (s->in_flight && s == h->main)
        azri_fail_add(e, "; if an answer was large: beside subscriptions the server ends a connection whose answers "
                      "exceed its output-buffer limit for pubsub (32 MiB); see options.pubsub");
    else if (now - azri_min64(now, s->last_read) < AZRI_SECOND)
        azri_fail_add(e, "; if messages came faster than they were read: the server ends a subscriber at its output-buffer limit; "
                      "read faster, publish less, or raise client-output-buffer-limit pubsub");
}

/* The connection of s, or the try to make one, has ended. The pump closes s->link if there is one. */
static void azri_hub_closed(azri_hub *h, azri_session *s, const azredis_error *why, uint64_t now) {
    azri_queue unsent;
    azredis_error *e = &s->error;
    memset(&unsent, 0, sizeof unsent);
    azri_fail_copy(e, why);
    azri_hub_over_limit(h, s, e, now);
    if (s->rejected) azri_hub_refused(h, s, e);
    uint64_t delay = azri_hub_redial_delay(h, s, e, now);
    azri_session_closed(s, e, &unsent);
    s->ready_at = 0;
    s->dial_at = now + delay;
    s->replace = NULL;
    if (e->code == AZREDIS_E_RESP) azri_news_error(azri_session_news(s), AZREDIS_EV_INTERNAL_ERROR, e);
    if (azri_elder(s)) azri_hub_heir_closed(h, s, e, delay);
    else if (azri_role(s) == AZREDIS_CONNECTION_LEASED) azri_lease_lost(h, s, e, &unsent);
    else azri_hub_main_closed(h, s, e, &unsent, delay, now);
}

/* Makes way for a token request that has no room beside a connection: nothing more is written, what was written is
 * answered, then the connection ends. */
static void azri_hub_rest(azri_hub *h, uint64_t now) {
    azri_session *s = azri_hub_main(h);
    if (s->state == AZRI_READY) s->state = AZRI_DRAINING;
    if (s->state == AZRI_DOWN || s->in_flight || s->offset) return;
    (void)azri_fail(&s->error, AZREDIS_E_CLOSED, "redis.renewal", "%s: closed while the token is renewed",
                    h->conf.session.endpoint);
    azri_hub_closed(h, s, &s->error, now);
    s->dial_at = now;
    s->attempts = 0;
}

/* A mark was answered. That of a connection which has gone on meanwhile says nothing. */
static void azri_hub_marked(azri_hub *h, azri_session *s) {
    s->marked = 0;
    if (s->leaving) {
        azri_hub_switch(h, s, 1);
    } else if (s->holding) {
        s->holding = 0;
        azri_hub_join(h, 1);
    }
}

/* 1: what RESP3 would send as a push. All that a subscriber over RESP2 is sent are arrays, or answers of the handshake. */
static int azri_is_resp2_push(const azri_session *s, const azri_frame *f) {
    return azri_deaf(s) && s->state == AZRI_READY && f->root && f->root->type == AZREDIS_T_ARRAY &&
           !(f->root->len && azri_value_is(f->root->as.items, "pong"));
}

static AZRI_APART void azri_hub_other_frame(azri_hub *h, azri_session *s, const azri_frame *f, uint64_t now) {
    azri_state before = s->state;
    const azri_cmd *head = s->fifo.head;
    const azri_blob *known = s->blob;
    azri_frame pushed;
    if (azri_is_resp2_push(s, f)) {
        pushed = *f;
        pushed.is_push = 1;
        f = &pushed;
    }
    if (azri_is_message(f)) {
        azri_session_heard(s, f, now);
        azri_hub_message(h, s, f);
        return;
    }
    azredis_status st = azri_session_frame(s, f, now, &s->error);
    if (s->blob != known) AZRI_TOOK(h->stats.auth_latency, 0, (uint32_t)s->auth_took);
    if (st != AZREDIS_OK) azri_hub_closed(h, s, &s->error, now);
    else if (before == AZRI_HANDSHAKE && s->state == AZRI_READY) azri_hub_ready(h, s, now);
    else if (AZRI_WITH_HANDOVER && s->marked) azri_hub_marked(h, s);
    else if (head != s->fifo.head) azri_hub_confirmed(s, head);
}

/* One frame from s's server. */
static void azri_hub_frame(azri_hub *h, azri_session *s, const azri_frame *f, uint64_t now) {
    const azri_cmd *head = s->fifo.head;
    if (azri_session_user_frame(s, f, now)) AZRI_TOOK(h->stats.command_latency, head->written, (uint32_t)now);
    else azri_hub_other_frame(h, s, f, now);
}

/* What of the handover of s can be done now. */
static void azri_hub_handover_step(azri_hub *h, azri_session *s, uint64_t now) {
    if (azri_hub_wants_heir(s)) azri_hub_make_heir(h, s, now);
    if (!azri_heir(s)) return;
    if (!s->leaving) {
        if (s->heir->state == AZRI_READY && !s->trying && !s->gate && !s->mark.linked && azri_hub_settled(h, s))
            azri_hub_leave(h, s, now);
    } else if (now >= s->leave_until) {
        if (azri_session_awaited(s)) s->leave_until = now + AZRI_SECOND;        /* by its own deadline */
        else azri_hub_switch(h, s, 0);
    }
}

static void azri_hub_tick(azri_hub *h, uint64_t now) {
    h->step = 0;
    h->now = now;
    azri_hub_need_listener(h, now);
    for (azri_session *s = h->sessions; s; s = azri_next(s)) {
        if (now >= azri_lease_until(s)) s->wants_close = AZRI_TEXT("nobody leases it any more");
        if (azri_session_tick(s, now, &s->error) != AZREDIS_OK) azri_hub_closed(h, s, &s->error, now);
        if (s->state == AZRI_READY) azri_hub_subscribe(h, s);
        if (now >= azri_session_replace_at(s))
            azri_hub_handover(h, s, AZRI_TEXT("its token ends, and a new one was not accepted on it"), now);
        if (s->rejected) azri_hub_reauth_refused(h, s);
    }
    for (azri_session *s = h->sessions; s && AZRI_WITH_HANDOVER; s = azri_next(s))
        if (s->state == AZRI_READY || s->state == AZRI_DRAINING) azri_hub_handover_step(h, s, now);
    azri_hub_expire_backlog(h, now);
    if (h->sweep) h->sweep(h);
    if (AZRI_WITH_HANDOVER) azri_hub_sweep_sessions(h);
}

static uint64_t azri_hub_session_deadline(const azri_session *s, uint64_t now) {
    uint64_t t = azri_min64(azri_session_deadline(s, now), azri_min64(azri_session_replace_at(s), azri_lease_until(s)));
    if (azri_leaving(s)) azri_sooner(&t, s->leave_until);
    if (azri_hub_wants_heir(s)) azri_sooner(&t, s->heir_at);
    return t;
}

static uint64_t azri_hub_deadline(const azri_hub *h, uint64_t now) {
    uint64_t t = h->step || h->backlog.fresh ? now : azri_min64(h->backlog_deadline, now + AZRI_WAIT_MAX);
    for (const azri_session *s = h->sessions; s; s = azri_next(s)) {
        if (azri_gone(s) && !s->link) return now;                        /* it can be freed */
        if (s->state == AZRI_DOWN && (azri_gone(s) || h->aborted || azri_resting(h) || !azri_hub_live_blob(h, now)))
            continue;
        azri_sooner(&t, azri_hub_session_deadline(s, now));
    }
    return t;
}

static void azri_hub_free(azri_hub *h) {
    azri_session *s;
    azredis_sub *sub;
    while ((sub = h->subs) != NULL) {
        h->subs = sub->next;
        azri_sub_free(sub);
    }
    while ((s = h->sessions) != NULL) {
        h->sessions = s->next;
        azri_session_free(s);
        azri_free(h->mem, s, sizeof *s);
    }
    azri_stock_free(&h->stock);
    azri_session_set_blob(&h->blob, NULL);
}

#ifndef AZREDIS_ONLY_PURE
/* ==== >>port ============================================================== uses: core mem fail ======
 * What >>posix and >>bare have in common; one of the two is compiled. A port is a table of hooks: the user's,
 * filled up with the built-in ones where the system is known.
 * ================================================================================================ */

#define AZRI_DIAL_HOOK   20u         /* ms between two calls of a user's connect hook */

/* What the built-in recv returns at the end of the stream; no errno is like it. */
#define AZRI_EOF INT_MIN

#define AZRI_WAKE 1u                 /* azri_waker_write: something of ours */
#define AZRI_CALL (1u << 16)         /* azredis_wake; an eventfd adds up what it is given */

#define AZRI_READ  AZREDIS_READ
#define AZRI_WRITE AZREDIS_WRITE
typedef azredis_fd azri_fd;          /* want 0: skipped */

typedef struct azri_port {
    azredis_port p;                  /* every member is set, but connect, lock and wake if they are the user's alone */
    azri_mem     mem;                /* p's allocator */
    const char  *missing;            /* a hook that is required and NULL; p has harmless ones then */
    int64_t      learned;            /* unix time that the token endpoint told a machine without a clock; 0: none */
    uint64_t     learned_at;         /* by p.now_ms */
} azri_port;

/* Unix time; 0: unknown. */
static int64_t azri_port_unix(const azri_port *port) {
    int64_t now = port->p.unix_time(port->p.user);
    if (now > 0) return now;
    return port->learned ? port->learned + (int64_t)((port->p.now_ms(port->p.user) - port->learned_at) / AZRI_SECOND)
                         : 0;
}

static void azri_port_no_yield(void *user) { (void)user; }

static void azri_port_missing(const azri_port *port, azredis_error *e) {
    (void)azri_fail(e, AZREDIS_E_ARG, "options.port", "options.port.%s is missing: AZREDIS_NO_OS has no hook built in, "
                    "so all but lock, wait, wake and yield must be given", port->missing);
}

/* ---- grave: sockets that the program's event loop may still watch -------------------------------------
 * libuv must be told before a descriptor is closed, and epoll forgets one without a word whose number is used
 * again. So a socket is closed only in the azredis_process after an azredis_fds that no longer listed it. */

typedef struct azri_grave azri_grave;
struct azri_grave {
    void   (*keep)(azri_grave *g, const azri_port *port, intptr_t sock);   /* the program has its own loop; NULL: close at once */
    size_t   count, unlisted;        /* the first `unlisted` are missing in the list that the loop has */
    intptr_t sock[AZRI_GRAVES];
};

/* Closes the first n. */
static void azri_grave_clear(azri_grave *g, const azri_port *port, size_t n) {
    for (size_t i = 0; i < n; i++) port->p.close(port->p.user, g->sock[i]);
    g->count -= n;
    g->unlisted -= azri_minz(n, g->unlisted);
    memmove(g->sock, g->sock + n, g->count * sizeof g->sock[0]);
}

static void azri_grave_keep(azri_grave *g, const azri_port *port, intptr_t sock) {
    if (g->count == AZRI_GRAVES) azri_grave_clear(g, port, 1);
    g->sock[g->count++] = sock;
}

/* By pointer, so that keeping is linked only where a loop can be. */
static void azri_bury(azri_grave *g, const azri_port *port, intptr_t sock) {
    if (g && g->keep) g->keep(g, port, sock);
    else port->p.close(port->p.user, sock);
}

#ifndef AZREDIS_NO_OS
/* ==== >>posix ============================================================= uses: core mem fail text news port ==
 * Everything that asks the operating system: clocks, entropy, sockets, name look-up, threads' locks, the
 * environment, files, the event printer. Never blocks but in azri_poll; a look-up that blocks has its own thread.
 * Entry points, the same as in >>bare: azri_port_fill, azri_lock_*, azri_waker_*, azri_dial_*, azri_getenv,
 * azri_net_fail, azri_event_default. Here alone: azri_errno_text, azri_poll, azredis_print_event.
 * ================================================================================================ */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#ifndef AZREDIS_NO_THREADS
#  include <pthread.h>
#  include <signal.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#  include <sys/auxv.h>
#  include <sys/eventfd.h>
#  include <sys/random.h>
#endif

#define AZRI_POLL_MAX    64          /* descriptors of one azri_poll */
#define AZRI_DIAL_LIVE   16          /* connection attempts kept alive at a time: 4 s of stagger */
#define AZRI_DIAL_ADDRS  64          /* addresses of one name that are tried */
#define AZRI_DIAL_STAGGER 250u       /* ms until the next address is tried beside the one before */
#define AZRI_LOOKUP_MAX  2           /* look-up threads of one client, those included that nobody waits for */
#define AZRI_KEEP_IDLE   15          /* seconds; redis.io gives up a silent peer after 15 + 3 * 5 */
#define AZRI_KEEP_EVERY  5
#define AZRI_KEEP_COUNT  3
#define AZRI_USER_TIMEOUT 30000      /* ms without an acknowledgement; Linux's default is 15 min */

#ifndef AZRI_GETADDRINFO
#  define AZRI_GETADDRINFO getaddrinfo  /* tests put a resolver here that never answers */
#endif
#ifdef MSG_NOSIGNAL
#  define AZRI_SEND_FLAGS MSG_NOSIGNAL
#else
#  define AZRI_SEND_FLAGS 0             /* SO_NOSIGPIPE does it */
#endif

#define AZRI_PORT_NAME "posix"
#define AZRI_WAKER_BYTES 0u           /* a waker of the client's allocator: see azri_waker */

/* ---- port: clock, entropy, memory, bytes -------------------------------------------------------- */

static uint64_t azri_posix_now(void *user) {
    struct timespec t;
    (void)user;
    memset(&t, 0, sizeof t);
#ifdef CLOCK_BOOTTIME
    /* Linux's MONOTONIC stands still while the machine sleeps; a token's life does not. */
    if (clock_gettime(CLOCK_BOOTTIME, &t) != 0)
#endif
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

static int64_t azri_posix_unix(void *user) {
    time_t t = time(NULL);
    (void)user;
    return t > 0 ? (int64_t)t : 0;
}

/* wall: a time on this machine's clock on the wall, as if it were UTC. 0: there is no such time. */
static int64_t azri_posix_local(int64_t wall) {
    time_t t = (time_t)wall;
    struct tm tm;
    if (!gmtime_r(&t, &tm)) return 0;
    tm.tm_isdst = -1;
    t = mktime(&tm);
    return t > 0 ? (int64_t)t : 0;
}

static int azri_posix_entropy(void *user, void *out, size_t n) {
    unsigned char *p = (unsigned char *)out;
    ssize_t r;
    int fd;
    (void)user;
#if defined(__linux__)
    while (n > 0) {
        r = getrandom(p, n, 0);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) break;           /* a kernel before 3.17, or a sandbox: the device */
        p += r;
        n -= (size_t)r;
    }
    if (n == 0) return 0;
#endif
    fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    while (n > 0) {
        r = read(fd, p, n);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) break;
        p += r;
        n -= (size_t)r;
    }
    (void)close(fd);
    return n == 0 ? 0 : -1;
}

/* EWOULDBLOCK is the same number on every system that has poll. */
static int azri_would_block(int err) { return err == EAGAIN || err == EINTR; }

static int azri_posix_send(void *user, intptr_t sock, const void *p, size_t n) {
    ssize_t r = send((int)sock, p, azri_minz(n, INT_MAX), AZRI_SEND_FLAGS);
    (void)user;
    if (r >= 0) return (int)r;
    return azri_would_block(errno) ? 0 : -errno;
}

static int azri_posix_recv(void *user, intptr_t sock, void *p, size_t n) {
    ssize_t r = recv((int)sock, p, azri_minz(n, INT_MAX), 0);
    (void)user;
    if (r > 0) return (int)r;
    if (r == 0) return AZRI_EOF;
    return azri_would_block(errno) ? 0 : -errno;
}

static void azri_posix_close(void *user, intptr_t sock) {
    (void)user;
    (void)close((int)sock);
}

static void *azri_posix_alloc(void *user, size_t n) {
    (void)user;
    return malloc(n ? n : 1);
}

static void azri_posix_free(void *user, void *p, size_t n) {
    (void)user;
    (void)n;
    free(p);
}

/* ---- environment, error texts ------------------------------------------------------------------- */

/* 1: a set-user-id program, whose caller wrote the environment and has fewer rights. */
static int azri_is_privileged(void) {
#if defined(__linux__)
    return getauxval(AT_SECURE) != 0;
#else
    return getuid() != geteuid() || getgid() != getegid();
#endif
}

/* NULL for an empty variable too, and for all of them in a privileged program. */
static const char *azri_getenv(const char *name) {
    const char *v = azri_is_privileged() ? NULL : getenv(name);
    return v && *v ? v : NULL;
}

/* strerror is not thread-safe everywhere and speaks the user's language. */
static const char *azri_errno_text(int err) {
    switch (err) {
    case ELOOP:         return "it is a symbolic link";
    case ENOTDIR:       return "a part of the path is no directory";
    case EISDIR:        return "it is a directory";
    case ECONNREFUSED:  return "connection refused";
    case ECONNRESET:    return "connection reset";
    case EPIPE:         return "connection closed by the peer";
    case ETIMEDOUT:     return "no answer";
    case EHOSTUNREACH:  return "host unreachable";
    case ENETUNREACH:   return "network unreachable";
    case ENETDOWN:      return "network is down";
    case EADDRNOTAVAIL: return "no local address or port left";
    case EAFNOSUPPORT:  return "address family not supported here";
    case EMFILE:        return "too many open files in this process";
    case ENFILE:        return "too many open files on this machine";
    case ENOENT:        return "no such file";
    case ENOEXEC:       return "it is no program";
    case ENAMETOOLONG:  return "path too long";
    case EACCES:        return "permission denied";
    case EPERM:         return "forbidden by this machine (firewall?)";
    case ENOMEM:        return "out of memory";
    case ENOBUFS:       return "out of socket buffers";
    default:            return "system error";
    }
}

/* The error for a negative result r of port.send or port.recv. A user's hook need not know errno, so -1 is
 * taken for none. */
static azredis_status azri_net_fail(azredis_error *e, const char *where, const char *doing, int r) {
    if (r == AZRI_EOF)
        return azri_fail(e, AZREDIS_E_CLOSED, where, "%s: the peer closed the connection", doing);
    if (r >= -1)
        return azri_fail(e, AZREDIS_E_NET, where, "%s: the connection was lost", doing);
    (void)azri_fail(e, AZREDIS_E_NET, where, "%s: %s (errno %d)", doing, azri_errno_text(-r), -r);
    if (e) e->os_errno = -r;
    return AZREDIS_E_NET;
}

/* ---- poll, port, lock, waker -------------------------------------------------------------------- */

/* Waits at most timeout_ms (-1: for ever). How many are ready; 0 after a signal; -errno. An error or a
 * hang-up counts as ready for both, so that the owner's next read or write meets it. */
static int azri_poll(azri_fd *f, size_t n, int timeout_ms) {
    struct pollfd p[AZRI_POLL_MAX];
    AZREDIS_ASSERT(n <= AZRI_POLL_MAX);
    for (size_t i = 0; i < n; i++) {
        p[i].fd = f[i].want ? (int)f[i].sock : -1;
        p[i].events = (short)((f[i].want & AZRI_READ ? POLLIN : 0) | (f[i].want & AZRI_WRITE ? POLLOUT : 0));
        p[i].revents = 0;
        f[i].ready = 0;
    }
    int r = poll(p, (nfds_t)n, timeout_ms);
    if (r < 0) return errno == EINTR ? 0 : -errno;
    for (size_t i = 0; i < n; i++) {
        if (p[i].revents & (POLLERR | POLLHUP | POLLNVAL)) f[i].ready = AZRI_READ | AZRI_WRITE;
        if (p[i].revents & POLLIN) f[i].ready |= AZRI_READ;
        if (p[i].revents & POLLOUT) f[i].ready |= AZRI_WRITE;
    }
    return r;
}

static void azri_posix_wait(void *user, azredis_fd *fds, size_t n, uint32_t ms) {
    (void)user;
    (void)azri_poll(fds, n, (int)azri_min64(ms, AZRI_WAIT_MAX));
}

/* user may be NULL. alloc and free come as a pair: one alone would free what the other never gave. */
static void azri_port_fill(azri_port *out, const azredis_port *user) {
    azredis_port *p = &out->p;
    memset(out, 0, sizeof *out);
    if (user) *p = *user;
    if (!p->now_ms) p->now_ms = azri_posix_now;
    if (!p->unix_time) p->unix_time = azri_posix_unix;
    if (!p->entropy) p->entropy = azri_posix_entropy;
    if (!p->send) p->send = azri_posix_send;
    if (!p->recv) p->recv = azri_posix_recv;
    if (!p->close) p->close = azri_posix_close;
    if (!p->alloc || !p->free) {
        p->alloc = azri_posix_alloc;
        p->free = azri_posix_free;
    }
    if (!p->wait) p->wait = azri_posix_wait;
    if (!p->yield) p->yield = azri_port_no_yield;
    out->mem.alloc = p->alloc;
    out->mem.free = p->free;
    out->mem.user = p->user;
}

#ifdef AZREDIS_NO_THREADS
typedef struct azri_lock { char none; } azri_lock;

static azredis_status azri_lock_init(azri_lock *l, const azri_port *port) {
    (void)port;
    l->none = 0;
    return AZREDIS_OK;
}

static void azri_lock_free(azri_lock *l) { (void)l; }
static void azri_lock_acquire(azri_lock *l) { (void)l; }
static void azri_lock_release(azri_lock *l) { (void)l; }
#else
typedef struct azri_lock { pthread_mutex_t m; } azri_lock;

static azredis_status azri_lock_init(azri_lock *l, const azri_port *port) {
    (void)port;
    return pthread_mutex_init(&l->m, NULL) == 0 ? AZREDIS_OK : AZREDIS_E_NOMEM;
}

static void azri_lock_must(int r) {
    AZREDIS_ASSERT(r == 0);
    (void)r;
}

static void azri_lock_free(azri_lock *l) { (void)pthread_mutex_destroy(&l->m); }
static void azri_lock_acquire(azri_lock *l) { azri_lock_must(pthread_mutex_lock(&l->m)); }
static void azri_lock_release(azri_lock *l) { azri_lock_must(pthread_mutex_unlock(&l->m)); }
#endif

/* Ends a poll from any thread. Counted, and in libc's memory: a look-up thread may outlive the client and
 * must not call the client's allocator. */
typedef struct azri_waker {
    azri_lock lock;                  /* guards refs, lookups, and every look-up's done and abandoned */
    int       refs;
    int       lookups;               /* threads that have not ended */
    int       rd, wr;                /* one eventfd, or the two ends of a pipe */
} azri_waker;

static int azri_fd_setup(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

static int azri_waker_open(azri_waker *w) {
#if defined(__linux__) && !defined(AZRI_NO_EVENTFD)
    w->rd = w->wr = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return w->rd >= 0;
#else
    int fd[2];
    if (pipe(fd) != 0) return 0;
    w->rd = fd[0];
    w->wr = fd[1];
    if (azri_fd_setup(fd[0]) && azri_fd_setup(fd[1])) return 1;
    (void)close(fd[0]);
    (void)close(fd[1]);
    return 0;
#endif
}

/* NULL: no memory or no descriptor left. */
static azri_waker *azri_waker_new(const azri_port *port) {
    azri_waker *w = (azri_waker *)malloc(sizeof *w);
    if (!w) return NULL;
    memset(w, 0, sizeof *w);
    w->refs = 1;
    if (azri_lock_init(&w->lock, port) == AZREDIS_OK) {
        if (azri_waker_open(w)) return w;
        azri_lock_free(&w->lock);
    }
    free(w);
    return NULL;
}

static azri_waker *azri_waker_ref(azri_waker *w) {
    azri_lock_acquire(&w->lock);
    w->refs++;
    azri_lock_release(&w->lock);
    return w;
}

static void azri_waker_unref(azri_waker *w) {
    if (!w) return;
    azri_lock_acquire(&w->lock);
    int last = --w->refs == 0;
    azri_lock_release(&w->lock);
    if (!last) return;
    (void)close(w->rd);
    if (w->wr != w->rd) (void)close(w->wr);
    azri_lock_free(&w->lock);
    free(w);
}

/* From any thread and from a signal handler, which must leave errno alone. */
static void azri_waker_write(azri_waker *w, uint64_t what) {
    int before = errno;              /* NOLINT(bugprone-signal-handler,cert-sig30-c): POSIX lets a handler keep it */
    ssize_t r = write(w->wr, &what, sizeof what);
    (void)r;                         /* full means that it is awake already */
    errno = before;
}

static void azri_waker_wake(azri_waker *w) { azri_waker_write(w, AZRI_WAKE); }

static azri_fd azri_fd_to_read(intptr_t sock) {
    azri_fd f = {sock, AZRI_READ, 0};
    return f;
}

static azri_fd azri_waker_fd(const azri_waker *w) { return azri_fd_to_read(w->rd); }

/* 1: what port.wait finds ready it marks as such. A hook of the user's need not. */
static int azri_port_polls(const azri_port *port) { return port->p.wait == azri_posix_wait; }

/* As azri_waker_fd, for callers that live with >>bare too, where there is none; returns how many there are. */
static size_t azri_waker_fds(const azri_waker *w, azri_fd *out, size_t cap) {
    if (cap > 0) *out = azri_waker_fd(w);
    return 1;
}

/* 1: azredis_wake was among those who called. */
static int azri_waker_drain(azri_waker *w) {
    uint64_t what;
    int called = 0;
    while (read(w->rd, &what, sizeof what) == (ssize_t)sizeof what) called |= what >= AZRI_CALL;
    return called;
}

/* ---- name look-up -------------------------------------------------------------------------------
 * getaddrinfo cannot be cancelled. Thread and waiter share one object: whoever comes second frees it. */

typedef struct azri_addr { struct sockaddr_storage sa; socklen_t len; } azri_addr;

typedef struct azri_lookup {
    azri_waker *waker;
    int         started, done, abandoned;  /* the last two: under the waker's lock once started */
    int         gai, err;                  /* getaddrinfo's result, and errno for EAI_SYSTEM */
    size_t      n, strays;                 /* strays: addresses refused since the name is this machine's */
    char        host[256], service[8];
    azri_addr   addr[AZRI_DIAL_ADDRS];
} azri_lookup;

static void azri_lookup_resolve(azri_lookup *l, int flags) {
    struct addrinfo hints, *list = NULL, *a;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags | AI_NUMERICSERV;
    l->gai = AZRI_GETADDRINFO(l->host, l->service, &hints, &list);
    l->err = errno;
    if (l->gai != 0) return;
    for (a = list; a && l->n < AZRI_DIAL_ADDRS; a = a->ai_next) {
        if (a->ai_addrlen > sizeof l->addr[0].sa) continue;
        memcpy(&l->addr[l->n].sa, a->ai_addr, a->ai_addrlen);
        l->addr[l->n++].len = a->ai_addrlen;
    }
    freeaddrinfo(list);
}

#ifdef AZREDIS_NO_THREADS
static void azri_lookup_start(azri_lookup *l) {
    azri_lookup_resolve(l, 0);
    l->done = 1;
}
#else
/* 0 or an errno. */
static int azri_thread_start(pthread_t *id, int detached, void *(*run)(void *), void *arg) {
    sigset_t all, old;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0) return ENOMEM;
    if (detached) (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)sigfillset(&all);          /* the program's signal handlers are not run on our thread */
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(id, &attr, run, arg);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&attr);
    return r;
}

static void *azri_lookup_run(void *arg) {
    azri_lookup *l = (azri_lookup *)arg;
    azri_waker *w = l->waker;
    azri_lookup_resolve(l, 0);
    azri_lock_acquire(&w->lock);
    w->lookups--;
    l->done = 1;
    int abandoned = l->abandoned;
    azri_lock_release(&w->lock);
    if (abandoned) free(l);
    azri_waker_wake(w);
    azri_waker_unref(w);
    return NULL;
}

/* Starts the thread, unless too many hang already: then the next step tries again. */
static void azri_lookup_start(azri_lookup *l) {
    azri_waker *w = l->waker;
    pthread_t id;
    azri_lock_acquire(&w->lock);
    int room = w->lookups < AZRI_LOOKUP_MAX;
    if (room) {
        w->lookups++;
        w->refs++;
    }
    azri_lock_release(&w->lock);
    if (!room) return;
    l->started = 1;
    int r = azri_thread_start(&id, 1, azri_lookup_run, l);
    if (r == 0) return;
    azri_lock_acquire(&w->lock);
    w->lookups--;
    azri_lock_release(&w->lock);
    azri_waker_unref(w);
    l->gai = EAI_SYSTEM;
    l->err = r;
    l->done = 1;
}
#endif

static void azri_lookup_unix(azri_lookup *l) {
    struct sockaddr_un u;
    size_t n = strlen(l->host);
    l->done = 1;
    l->gai = EAI_SYSTEM;
    l->err = ENAMETOOLONG;
    if (n >= sizeof u.sun_path) return;
    memset(&u, 0, sizeof u);
    u.sun_family = AF_UNIX;
    memcpy(u.sun_path, l->host, n);
    memcpy(&l->addr[0].sa, &u, sizeof u);
    l->addr[0].len = (socklen_t)sizeof u;
    l->n = 1;
    l->gai = 0;
}

static azri_lookup *azri_lookup_new(azri_waker *w, const char *host, uint16_t tcp_port) {
    azri_lookup *l = (azri_lookup *)malloc(sizeof *l);
    if (!l) return NULL;
    memset(l, 0, sizeof *l);
    l->waker = w;
    azri_copy(l->host, sizeof l->host, host);
    (void)azri_fmt(l->service, sizeof l->service, "%u", (unsigned)tcp_port);
    if (host[0] == '/') azri_lookup_unix(l);
    else azri_lookup_resolve(l, AI_NUMERICHOST);   /* an address: answered at once, without network or files */
    l->done |= l->gai == 0;
    return l;
}

/* 1: packets to it do not leave this machine. */
static int azri_addr_is_local(const azri_addr *a) {
    static const uint8_t one[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
    if (a->sa.ss_family == AF_UNIX) return 1;
    if (a->sa.ss_family == AF_INET) {
        memcpy(&in4, &a->sa, sizeof in4);
        return ntohl(in4.sin_addr.s_addr) >> 24 == 127;
    }
    if (a->sa.ss_family != AF_INET6) return 0;
    memcpy(&in6, &a->sa, sizeof in6);
    return memcmp(&in6.sin6_addr, one, sizeof one) == 0;
}

/* This machine may be reached without TLS, and its authority gets the secret without being asked for. A
 * resolver that sends a name of this machine elsewhere must not bring another one into that trust. */
static void azri_lookup_keep_local(azri_lookup *l) {
    size_t i, n = 0;
    if (!azri_is_loopback(azri_str(l->host))) return;
    for (i = 0; i < l->n; i++)
        if (azri_addr_is_local(&l->addr[i])) l->addr[n++] = l->addr[i];
    l->strays = l->n - n;
    l->n = n;
}

static int azri_lookup_done(azri_lookup *l) {
    if (!l->started) return l->done;
    azri_lock_acquire(&l->waker->lock);
    int done = l->done;
    azri_lock_release(&l->waker->lock);
    return done;
}

static void azri_lookup_drop(azri_lookup *l) {
    if (!l) return;
    int mine = !l->started;
    if (!mine) {
        azri_lock_acquire(&l->waker->lock);
        mine = l->done;
        l->abandoned = 1;
        azri_lock_release(&l->waker->lock);
    }
    if (mine) free(l);
}

/* ---- dial: look-up and connect ------------------------------------------------------------------ */

typedef struct azri_dial {               /* zeroed: not begun */
    const azri_port *port;
    azri_waker      *waker;              /* lent */
    azri_grave      *grave;              /* lent; NULL: close at once */
    azri_lookup     *lookup;
    size_t           next;               /* the address to try next */
    uint64_t         next_at;            /* when, if none of the others has failed before */
    azri_fd          live[AZRI_DIAL_LIVE];   /* address i is in slot i % AZRI_DIAL_LIVE; want 0: none */
    uint8_t          at[AZRI_DIAL_LIVE];     /* that i */
    uint16_t         tcp_port;
    intptr_t         hook_sock;          /* what the connect hook has in work; -1: nothing */
    int              os_errno;           /* of the last attempt that failed */
    char             host[256];
    char             tried[224];         /* "10.0.0.4: connection refused, ..." */
} azri_dial;

AZRI_STATIC_ASSERT(dial_index_fits, AZRI_DIAL_ADDRS <= UINT8_MAX);
AZRI_STATIC_ASSERT(dial_can_poll, AZRI_DIAL_LIVE <= AZRI_POLL_MAX);

/* No I/O yet. host: a name, an address without brackets, or a path that begins with '/'. */
static void azri_dial_begin(azri_dial *d, const azri_port *port, azri_waker *w, const char *host,
                            uint16_t tcp_port) {
    memset(d, 0, sizeof *d);
    d->port = port;
    d->waker = w;
    d->tcp_port = tcp_port;
    d->next_at = AZRI_NEVER64;
    d->hook_sock = -1;
    azri_copy(d->host, sizeof d->host, host);
}

/* Closes what is not connected and leaves a look-up that still hangs to itself. */
static void azri_dial_end(azri_dial *d) {
    for (size_t i = 0; i < AZRI_DIAL_LIVE; i++)
        if (d->live[i].want) azri_bury(d->grave, d->port, d->live[i].sock);
    azri_lookup_drop(d->lookup);
    if (d->hook_sock != -1) d->port->p.close(d->port->p.user, d->hook_sock);
    d->hook_sock = -1;
    memset(d->live, 0, sizeof d->live);
    d->lookup = NULL;
}

static void azri_dial_option(int fd, int level, int name, int value) {
    (void)setsockopt(fd, level, name, &value, (socklen_t)sizeof value);
}

/* All of these only help; a system that lacks one still connects. */
static void azri_dial_options(int fd) {
    azri_dial_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    azri_dial_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#if defined(TCP_KEEPIDLE)
    azri_dial_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, AZRI_KEEP_IDLE);
#elif defined(TCP_KEEPALIVE)
    azri_dial_option(fd, IPPROTO_TCP, TCP_KEEPALIVE, AZRI_KEEP_IDLE);
#endif
#ifdef TCP_KEEPINTVL
    azri_dial_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, AZRI_KEEP_EVERY);
    azri_dial_option(fd, IPPROTO_TCP, TCP_KEEPCNT, AZRI_KEEP_COUNT);
#endif
#ifdef TCP_USER_TIMEOUT
    /* Keepalive is silent while bytes are in flight; this is what ends a dead line then. */
    azri_dial_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, AZRI_USER_TIMEOUT);
#endif
#ifdef SO_NOSIGPIPE
    azri_dial_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
}

/* A socket on its way, or -errno. */
static int azri_dial_socket(const azri_addr *a) {
    int fd, err, type = SOCK_STREAM;
#ifdef SOCK_CLOEXEC
    type |= SOCK_CLOEXEC;            /* at creation: another thread may fork at any moment */
#endif
    fd = socket(a->sa.ss_family, type, 0);
    if (fd < 0) return -errno;
    if (a->sa.ss_family != AF_UNIX) azri_dial_options(fd);
    if (azri_fd_setup(fd)) {
        if (connect(fd, (const struct sockaddr *)&a->sa, a->len) == 0) return fd;
        if (errno == EINPROGRESS || errno == EINTR) return fd;
    }
    err = errno;
    (void)close(fd);
    return -err;
}

/* Takes address i off the list of hopes and notes why. */
static void azri_dial_failed(azri_dial *d, size_t i, int err) {
    const azri_addr *a = &d->lookup->addr[i];
    char text[NI_MAXHOST];
    size_t n = strlen(d->tried);
    if (a->sa.ss_family == AF_UNIX ||
        getnameinfo((const struct sockaddr *)&a->sa, a->len, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
        AZRI_SAY(text, sizeof text, "%s", "socket");
    AZRI_SAY(d->tried + n, sizeof d->tried - n, "%s%s: %s (errno %d)", n ? ", " : "", text,
                   azri_errno_text(err), err);
    d->os_errno = err;
}

static void azri_dial_drop(azri_dial *d, size_t slot, int err) {
    azri_bury(d->grave, d->port, d->live[slot].sock);
    d->live[slot].want = 0;
    azri_dial_failed(d, d->at[slot], err);
}

/* Tries the next address. The attempt that had its slot is given up: it was silent for 4 s. */
static void azri_dial_start(azri_dial *d, uint64_t now) {
    size_t i = d->next++, slot = i % AZRI_DIAL_LIVE;
    if (d->live[slot].want) azri_dial_drop(d, slot, ETIMEDOUT);
    d->next_at = azri_after(now, AZRI_DIAL_STAGGER);
    int fd = azri_dial_socket(&d->lookup->addr[i]);
    if (fd < 0) {
        azri_dial_failed(d, i, -fd);
        return;
    }
    d->live[slot].sock = fd;
    d->live[slot].want = AZRI_WRITE;
    d->at[slot] = (uint8_t)i;
}

static int azri_dial_alive(const azri_dial *d) {
    for (size_t i = 0; i < AZRI_DIAL_LIVE; i++)
        if (d->live[i].want) return 1;
    return 0;
}

/* Looks which attempts have ended. 1: *sock is connected and no longer ours. */
static int azri_dial_check(azri_dial *d, intptr_t *sock) {
    if (azri_poll(d->live, AZRI_DIAL_LIVE, 0) <= 0) return 0;
    for (size_t i = 0; i < AZRI_DIAL_LIVE; i++) {
        int err = 0;
        socklen_t n = (socklen_t)sizeof err;
        if (!d->live[i].ready) continue;
        if (getsockopt((int)d->live[i].sock, SOL_SOCKET, SO_ERROR, &err, &n) != 0) err = errno;
        if (err == 0) {
            *sock = d->live[i].sock;
            d->live[i].want = 0;
            return 1;
        }
        azri_dial_drop(d, i, err);
    }
    return 0;
}

/* A user's hook does look-up and connect. */
static azredis_status azri_dial_hook(azri_dial *d, uint64_t now, intptr_t *sock, azredis_error *e) {
    int r = d->port->p.connect(d->port->p.user, d->host, d->tcp_port, &d->hook_sock);
    d->next_at = azri_after(now, AZRI_DIAL_HOOK);
    if (r == 0) return AZREDIS_AGAIN;
    *sock = d->hook_sock;
    d->hook_sock = -1;
    if (r > 0) return AZREDIS_OK;
    (void)azri_fail(e, AZREDIS_E_NET, "connect.tcp",
                    "connect to %s:%u: %s (errno %d, from your connect hook)", d->host,
                    (unsigned)d->tcp_port, azri_errno_text(-r), -r);
    if (e) e->os_errno = -r;
    return AZREDIS_E_NET;
}

static const char *azri_lookup_text(const azri_lookup *l) {
    if (l->strays) return "it is a name of this machine, but the resolver gives the address of another";
    if (l->gai == 0) return "no address";
    return l->gai == EAI_SYSTEM ? azri_errno_text(l->err) : gai_strerror(l->gai);
}

static azredis_status azri_dial_lookup(azri_dial *d, azredis_error *e) {
    if (!d->lookup) d->lookup = azri_lookup_new(d->waker, d->host, d->tcp_port);
    azri_lookup *l = d->lookup;
    if (!l) return azri_fail(e, AZREDIS_E_NOMEM, "connect.dns", "look-up of %s: out of memory", d->host);
    if (!azri_lookup_done(l)) {
        if (!l->started) azri_lookup_start(l);
        if (!azri_lookup_done(l)) return AZREDIS_AGAIN;
    }
    azri_lookup_keep_local(l);
    if (l->n > 0) return AZREDIS_OK;
    (void)azri_fail(e, AZREDIS_E_DNS, "connect.dns",
                    "look-up of %s: %s; check the name and, for a private endpoint, its private DNS zone",
                    d->host, azri_lookup_text(l));
    if (e && l->gai == EAI_SYSTEM) e->os_errno = l->err;
    return AZREDIS_E_DNS;
}

static azredis_status azri_dial_connect(azri_dial *d, uint64_t now, intptr_t *sock, azredis_error *e) {
    if (azri_dial_check(d, sock)) return AZREDIS_OK;
    while (d->next < d->lookup->n && (now >= d->next_at || !azri_dial_alive(d))) azri_dial_start(d, now);
    if (d->next == d->lookup->n) d->next_at = AZRI_NEVER64;
    if (azri_dial_alive(d)) return AZREDIS_AGAIN;
    (void)azri_fail(e, AZREDIS_E_NET, "connect.tcp", "connect to %s:%u: %s; check host, port and firewall",
                    d->host, (unsigned)d->tcp_port, d->tried);
    if (e) e->os_errno = d->os_errno;
    return AZREDIS_E_NET;
}

/* One step, never blocking. OK: *sock is connected and yours. After anything but AGAIN the dial has ended.
 * The message lists the addresses that were tried. */
static azredis_status azri_dial_step(azri_dial *d, uint64_t now, intptr_t *sock, azredis_error *e) {
    if (d->port->p.connect) return azri_dial_hook(d, now, sock, e);
    azredis_status st = azri_dial_lookup(d, e);
    if (st == AZREDIS_OK) st = azri_dial_connect(d, now, sock, e);
    if (st != AZREDIS_AGAIN) azri_dial_end(d);
    return st;
}

/* The caller's deadline passed: says what it was waiting for, and ends the dial. */
static azredis_status azri_dial_timeout(azri_dial *d, azredis_error *e) {
    if (d->port->p.connect || (d->lookup && azri_lookup_done(d->lookup)))
        (void)azri_fail(e, AZREDIS_E_TIMEOUT, "connect.tcp", "connect to %s:%u: no answer in time%s%s; "
                        "check host, port and firewall", d->host, (unsigned)d->tcp_port,
                        d->tried[0] ? "; " : "", d->tried);
    else
        (void)azri_fail(e, AZREDIS_E_TIMEOUT, "connect.dns", "look-up of %s: the resolver does not answer%s; "
                        "check the DNS servers of this machine", d->host,
                        d->lookup && !d->lookup->started ? ", nor did it to earlier look-ups" : "");
    azri_dial_end(d);
    return AZREDIS_E_TIMEOUT;
}

/* The sockets to wait for; how many there are, which may be more than cap. While the name is looked up there
 * are none: the waker tells its end. */
static size_t azri_dial_fds(const azri_dial *d, azri_fd *out, size_t cap) {
    size_t i, n = 0;
    for (i = 0; i < AZRI_DIAL_LIVE; i++) {
        if (!d->live[i].want) continue;
        if (n < cap) out[n] = d->live[i];
        n++;
    }
    return n;
}

/* When to step again even if no socket is ready. */
static uint64_t azri_dial_deadline(const azri_dial *d) { return d->next_at; }

/* ---- a ready event handler ---------------------------------------------------------------------- */

enum { AZRI_EV_OLD = 1, AZRI_EV_NEW = 2, AZRI_EV_NEXT = 4, AZRI_EV_PLACE = 8, AZRI_EV_WHY = 16, AZRI_EV_SAYS = 32 };

/* Which members mean something: the table at azredis_event_type. */
static unsigned azri_event_members(azredis_event_type type) {
    switch (type) {
    case AZREDIS_EV_TOKEN_REFRESHED:            return AZRI_EV_OLD | AZRI_EV_NEW | AZRI_EV_NEXT;
    case AZREDIS_EV_TOKEN_REFRESH_FAILED:       return AZRI_EV_OLD | AZRI_EV_NEXT | AZRI_EV_WHY;
    case AZREDIS_EV_CONNECTION_REAUTHENTICATED: return AZRI_EV_PLACE | AZRI_EV_OLD | AZRI_EV_NEW;
    case AZREDIS_EV_CONNECTION_REAUTHENTICATION_FAILED:
        return AZRI_EV_PLACE | AZRI_EV_OLD | AZRI_EV_NEXT | AZRI_EV_WHY;
    case AZREDIS_EV_CONNECTION_FAILED:          return AZRI_EV_PLACE | AZRI_EV_NEXT | AZRI_EV_WHY;
    case AZREDIS_EV_CONNECTION_RESTORED:        return AZRI_EV_PLACE | AZRI_EV_NEW;
    case AZREDIS_EV_DEVICE_CODE:                return AZRI_EV_NEW | AZRI_EV_SAYS;
    case AZREDIS_EV_ERROR_MESSAGE:
    case AZREDIS_EV_INTERNAL_ERROR:             return AZRI_EV_PLACE | AZRI_EV_WHY;
    case AZREDIS_EV_LOG:
    case AZREDIS_EV_DRAINED:
    default:                                    return 0;
    }
}

static void azri_event_add(azri_out *o, const char *f, ...) AZRI_PRINTF(2, 3);
static void azri_event_add(azri_out *o, const char *f, ...) {
    va_list ap;
    va_start(ap, f);
    o->len += azri_vfmt(o->p + o->len, o->cap - o->len, f, &ap);
    va_end(ap);
    o->len = azri_minz(o->len, o->cap - 1);
}

/* " old 12.3 s": tenths below 100 s; nothing for AZREDIS_UNKNOWN. */
static void azri_event_time(azri_out *o, const char *name, int64_t ms) {
    uint64_t v = ms < 0 ? (uint64_t)-(ms + 1) + 1 : (uint64_t)ms;
    if (ms == AZREDIS_UNKNOWN) return;
    azri_event_add(o, " %s %s%llu", name, ms < 0 ? "-" : "", (unsigned long long)(v / 1000u));
    if (v < 100000u) azri_event_add(o, ".%u", (unsigned)(v % 1000u / 100u));
    azri_event_add(o, " s");
}

/* One line with its line feed, cut if need be. Returns its length. */
static size_t azri_event_line(char *out, size_t cap, const azredis_event *ev, int64_t unix_now) {
    static const char *const level[] = { "log", "log", "error", "warning", "info", "debug", "trace" };
    unsigned has = azri_event_members(ev->type);
    unsigned lv = (unsigned)ev->level < sizeof level / sizeof level[0] ? (unsigned)ev->level : 0;
    char date[48];
    azri_out o = azri_out_to(out, cap - 1);          /* and the line feed */
    azri_date_text(date, unix_now);
    if (ev->type == AZREDIS_EV_LOG)
        azri_event_add(&o, "%s %s %d %s", date, level[lv], ev->number, ev->text ? ev->text : "");
    else azri_event_add(&o, "%s %s", date, azredis_event_name(ev->type));
    if ((has & AZRI_EV_PLACE) && ev->endpoint) azri_event_add(&o, " %s", ev->endpoint);
    if (has & AZRI_EV_OLD) azri_event_time(&o, "old", ev->old_left_ms);
    if (has & AZRI_EV_NEW) azri_event_time(&o, "new", ev->new_left_ms);
    if (has & AZRI_EV_NEXT) azri_event_time(&o, "next", ev->next_try_ms);
    if ((has & AZRI_EV_SAYS) && ev->text) azri_event_add(&o, ": %s", ev->text);
    if ((has & AZRI_EV_WHY) && ev->error) azri_event_add(&o, ": %s", ev->error->message);
    if (ev->dropped) azri_event_add(&o, " (%u events before this one dropped)", (unsigned)ev->dropped);
    out[o.len++] = '\n';
    out[o.len] = '\0';
    return o.len;
}

/* One fwrite a line: the lines of two threads do not mix. */
AZREDIS_API void azredis_print_event(const azredis_event *lent, void *user) {
    FILE *to = user ? (FILE *)user : stderr;
    char line[1024];
    size_t n = azri_event_line(line, sizeof line, lent, azri_posix_unix(NULL));
    (void)fwrite(line, 1, n, to);
    (void)fflush(to);
}

/* Where events go that nobody asked for. */
static void azri_event_default(const azredis_event *ev) { azredis_print_event(ev, NULL); }

/* ==== >>file ============================================================== uses: core mem fail posix ==
 * Files that hold a token or a key of the identity. Entry point: azri_file_read.
 * ================================================================================================ */

#ifndef AZREDIS_NO_MANAGED
static int azri_file_is_there(const char *path) { return access(path, F_OK) == 0; }
#endif

/* -1: e says why not. Only a regular file is read: a pipe or a device would hang us. */
static int azri_file_open(const char *path, const char *directory, const char *where, azredis_error *e) {
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, at = AT_FDCWD, fd, err;
    struct stat st;
    if (directory) {
        at = open(directory, O_RDONLY | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW);
        flags |= O_NOFOLLOW;
    }
    fd = directory && at < 0 ? -1 : openat(at, path, flags);
    err = errno;
    if (directory && at >= 0) (void)close(at);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) return fd;
    if (fd >= 0) (void)close(fd);
    (void)azri_fail(e, AZREDIS_E_NO_CREDENTIAL, where, "%s: cannot read the file %s%s%s: %s", where,
                    directory ? directory : "", directory ? "/" : "", path,
                    fd >= 0 ? "it is no regular file" : azri_errno_text(err));
    if (fd < 0) e->os_errno = err;
    return -1;
}

/* Appends what the file holds, at most max bytes. */
static azredis_status azri_file_read(azri_buf *out, const char *path, const char *directory, size_t max,
                                     const char *where, azredis_error *e) {
    char piece[1024];
    ssize_t n;
    azredis_status st = AZREDIS_OK;
    int fd = azri_file_open(path, directory, where, e);
    if (fd < 0) return e->code;
    while (st == AZREDIS_OK && (n = read(fd, piece, sizeof piece)) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            st = azri_fail(e, AZREDIS_E_NO_CREDENTIAL, where, "%s: cannot read the file %s: %s", where, path,
                           azri_errno_text(errno));
        else if (out->len + (size_t)n > max)
            st = azri_fail(e, AZREDIS_E_LIMIT, where, "%s: the file %s has more than %u bytes", where, path,
                           (unsigned)max);
        else if (azri_buf_add(out, piece, (size_t)n) != AZREDIS_OK)
            st = azri_fail(e, AZREDIS_E_NOMEM, where, "%s: no memory for the file %s", where, path);
    }
    azri_wipe(piece, sizeof piece);
    (void)close(fd);
    return st;
}
#endif

#ifndef AZREDIS_NO_EXEC
/* ==== >>child ============================================================= uses: core mem fail text port posix ==
 * A program that is run for what it prints: all of its stdout, how its stderr ends, its exit status; never blocking.
 * posix_spawn does what must not be done by hand between fork and exec in a process with threads. Three traps:
 *   - Its end is not ours alone. The program around us may ignore SIGCHLD or collect every child: waitpid then says
 *     ECHILD, which means "gone", and the output alone counts. So nothing is killed but right after waitpid has said
 *     that it lives: its number may be another's by now.
 *   - A grandchild may keep stdout open long after the end. What came by AZRI_CHILD_LINGER after it is the output.
 *   - Killing the program alone would leave its children at work, so it leads a process group, which dies as a whole.
 * It inherits the environment, unless a caller with fewer rights wrote that, and of our descriptors none: all close on
 * exec from their first moment. Pipes that an event loop may watch are closed like sockets: see azri_grave.
 * Entry points: azri_child_start, _step, _fds, _deadline, _end.
 * ================================================================================================ */
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#if defined(__linux__)
#  include <sys/syscall.h>
#endif
#if defined(__APPLE__)
#  include <crt_externs.h>
#  define AZRI_ENVIRON (*_NSGetEnviron())
#else
#  ifndef _GNU_SOURCE                    /* which declares it */
extern char **environ;
#  endif
#  define AZRI_ENVIRON environ
#endif

#define AZRI_CHILD_OUT    65536u         /* bytes of stdout; a token has 2 KB */
#define AZRI_CHILD_SAID   1024u          /* bytes of stderr that are kept: its end */
#define AZRI_CHILD_PATH   1024u          /* bytes of a program's path that is found in PATH; of a longer entry it is not */
#define AZRI_CHILD_HEAR   160            /* reads of stderr in one step: all that a pipe holds, but no endless flood */
#define AZRI_CHILD_LOOK   20u            /* ms until the next look whether it has ended, once its stdout has */
#define AZRI_CHILD_PRINTS 100u           /* the same while stdout is open: bytes wake us, this is for the second trap */
#define AZRI_CHILD_LINGER 100u           /* as Go's os/exec for azidentity */
#define AZRI_CHILD_DYING  1000u          /* ms until one that was killed, and that the kernel keeps, is left alone */

typedef struct azri_child {              /* zeroed: none */
    pid_t          pid;                  /* and its group; 0: none */
    int            out, err;             /* our ends of its stdout and stderr; -1: closed */
    int            gone;                 /* collected, by us or by somebody else */
    int            code;                 /* then: see azri_flow.exit_code */
    azredis_status killed;               /* why it was; OK: it was not */
    uint64_t       until, look_at;       /* deadline, then end of the patience with it; the next look */
    uint32_t       limit_ms;
    const char    *path, *where;         /* lent, or in found */
    const azri_port *port;               /* lent */
    azri_grave    *grave;                /* lent; NULL: close at once */
    azri_buf       text;                 /* secret: stdout */
    size_t         said_len;
    char           said[AZRI_CHILD_SAID];
    char           found[AZRI_CHILD_PATH];
} azri_child;

static void azri_child_shut(int *fd) {
    if (*fd >= 0) (void)close(*fd);
    *fd = -1;
}

/* 0, 1 and 2 are what the child's own will be, and may be free in a daemon: ours must be others. */
static int azri_child_lift(int fd) {
    if (fd > 2) return fd;
    int up = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    (void)close(fd);
    return up;
}

/* fd[0] is ours and does not block. 0 or an errno, and then nothing is open. */
static int azri_child_pipe(int fd[2]) {
    int r, err;
#if defined(__linux__)
    r = (int)syscall(SYS_pipe2, fd, O_CLOEXEC);     /* the C library shows pipe2 only under _GNU_SOURCE */
#else
    r = pipe(fd);                        /* a fork elsewhere just now inherits it; the second trap's rule bounds that */
    if (r == 0) (void)fcntl(fd[0], F_SETFD, FD_CLOEXEC);
    if (r == 0) (void)fcntl(fd[1], F_SETFD, FD_CLOEXEC);
#endif
    if (r == 0) {
        fd[0] = azri_child_lift(fd[0]);
        fd[1] = azri_child_lift(fd[1]);
        if (fd[0] >= 0 && fd[1] >= 0 && azri_fd_setup(fd[0])) return 0;
    }
    err = errno;
    if (r == 0) azri_child_shut(&fd[0]);
    if (r == 0) azri_child_shut(&fd[1]);
    fd[0] = fd[1] = -1;
    return err;
}

/* stdin is empty; signals are as in a program that a shell starts: our threads have blocked them all. */
static int azri_child_plan(posix_spawn_file_actions_t *files, posix_spawnattr_t *how, int out, int err) {
    sigset_t set;
    short flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    int r = posix_spawn_file_actions_addopen(files, 0, "/dev/null", O_RDONLY, 0);
#ifdef POSIX_SPAWN_CLOEXEC_DEFAULT
    flags |= POSIX_SPAWN_CLOEXEC_DEFAULT;           /* where pipes cannot be made to close on exec at once */
#endif
    if (r == 0) r = posix_spawn_file_actions_adddup2(files, out, 1);
    if (r == 0) r = posix_spawn_file_actions_adddup2(files, err, 2);
    if (r == 0) r = posix_spawnattr_setpgroup(how, 0);
    (void)sigemptyset(&set);
    if (r == 0) r = posix_spawnattr_setsigmask(how, &set);
    (void)sigaddset(&set, SIGPIPE);
    (void)sigaddset(&set, SIGCHLD);
    if (r == 0) r = posix_spawnattr_setsigdefault(how, &set);
    return r == 0 ? posix_spawnattr_setflags(how, flags) : r;
}

/* The environment and one variable more, first: it counts more. NULL: out of memory; else azri_free(size) ends it. */
static char **azri_child_environment(const azri_mem *m, const char *variable, size_t *size) {
    char **ours = AZRI_ENVIRON, **all;
    size_t n = 0, at = 0;
    while (ours && !azri_is_privileged() && ours[n]) n++;
    *size = (n + (variable != NULL) + 1) * sizeof *all;
    all = (char **)azri_alloc(m, *size);
    if (!all) return NULL;
    if (variable) memcpy(&all[at++], &variable, sizeof variable);
    if (n) memcpy(all + at, ours, n * sizeof *all);
    all[at + n] = NULL;
    return all;
}

/* 0 or an errno. */
static int azri_child_spawn(azri_child *c, const char *const *argv, const char *variable, int out, int err) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    char *args[AZRI_STEP_ARGS], **env;
    size_t size;
    int r = posix_spawn_file_actions_init(&files);
    if (r != 0) return r;
    env = azri_child_environment(&c->port->mem, variable, &size);
    r = env ? posix_spawnattr_init(&how) : ENOMEM;
    if (r == 0) {
        memcpy(args, argv, sizeof args);            /* posix_spawn takes char *const * and changes nothing */
        memcpy(&args[0], &c->path, sizeof args[0]);
        r = azri_child_plan(&files, &how, out, err);
        if (r == 0) r = posix_spawn(&c->pid, c->path, &files, &how, args, env);
        (void)posix_spawnattr_destroy(&how);
    }
    azri_free(&c->port->mem, env, size);
    (void)posix_spawn_file_actions_destroy(&files);
    return r;
}

/* The first program of this name in the directories of PATH; NULL: none. An entry that is no absolute path stands for a
 * directory below the current one, where anybody may have put a file, and is skipped. */
static const char *azri_child_find(azri_child *c, const char *name) {
    const char *all = azri_getenv("PATH");
    azredis_str path = azri_str(all ? all : ""), entry;
    struct stat st;
    while (path.len) {
        entry = azri_slice(path.ptr, azri_find(path, ':'));
        if (entry.len && entry.ptr[0] == '/' &&
            azri_fmt(c->found, sizeof c->found, "%.*s/%s", (int)entry.len, entry.ptr, name) < sizeof c->found &&
            stat(c->found, &st) == 0 && S_ISREG(st.st_mode) && access(c->found, X_OK) == 0)
            return c->found;
        path = azri_slice(path.ptr + entry.len, path.len - entry.len);
        if (path.len) path = azri_slice(path.ptr + 1, path.len - 1);
    }
    return NULL;
}

static azredis_status azri_child_cannot(const azri_child *c, int err, azredis_error *e) {
    struct stat st;
    int is_directory = err == EACCES && stat(c->path, &st) == 0 && !S_ISREG(st.st_mode);
    (void)azri_fail(e, AZREDIS_E_NO_CREDENTIAL, c->where, "%s: cannot run %s: %s (errno %d); it must be a program, or a "
                    "script that begins with #!, which this user may execute",
                    c->where, c->path, is_directory ? "it is no file" : azri_errno_text(err), err);
    if (!e) return AZREDIS_E_NO_CREDENTIAL;
    e->os_errno = err;
    e->retryable = err == EAGAIN || err == ENOMEM || err == EMFILE || err == ENFILE || err == ETXTBSY;
    return AZREDIS_E_NO_CREDENTIAL;
}

/* argv and variable: as in azri_step. Strings are lent until azri_child_end. After a failure there is none. */
static azredis_status azri_child_start(azri_child *c, const azri_port *port, azri_grave *g, const char *const *argv,
                                       const char *variable, const char *where, uint64_t now, uint32_t limit_ms,
                                       azredis_error *e) {
    int out[2] = {-1, -1}, err[2] = {-1, -1}, r;
    memset(c, 0, sizeof *c);
    c->path = argv[0][0] == '/' ? argv[0] : azri_child_find(c, argv[0]);
    c->where = where;
    c->port = port;
    c->grave = g;
    if (!c->path)
        return azri_fail(e, AZREDIS_E_NO_CREDENTIAL, where, "%s: not installed, or not in PATH", where);
    r = azri_child_pipe(out);
    if (r == 0) r = azri_child_pipe(err);
    if (r == 0) r = azri_child_spawn(c, argv, variable, out[1], err[1]);
    azri_child_shut(&out[1]);
    azri_child_shut(&err[1]);
    c->out = out[0];
    c->err = err[0];
    c->limit_ms = limit_ms;
    c->until = azri_after(now, limit_ms);
    azri_buf_init(&c->text, &port->mem, AZRI_CHILD_OUT, 1);
    if (r == 0) return AZREDIS_OK;
    azri_child_shut(&c->out);
    azri_child_shut(&c->err);
    c->pid = 0;
    return azri_child_cannot(c, r, e);
}

/* Has it ended? Once it has, its number may be another's. */
static void azri_child_collect(azri_child *c) {
    int status = 0;
    pid_t r;
    if (c->gone) return;
    do r = waitpid(c->pid, &status, WNOHANG); while (r < 0 && errno == EINTR);
    if (r == 0) return;
    c->gone = 1;
    c->code = r < 0 ? AZRI_EXIT_UNKNOWN : WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* A close hook of the program's own knows nothing of pipes. */
static void azri_child_leave(azri_child *c, int *fd) {
    if (*fd >= 0 && c->port->p.close == azri_posix_close) azri_bury(c->grave, c->port, *fd);
    else if (*fd >= 0) (void)close(*fd);
    *fd = -1;
}

/* It and what it has started. */
static void azri_child_kill(azri_child *c) {
    azri_child_collect(c);
    if (!c->gone) (void)kill(-c->pid, SIGKILL);
    azri_child_leave(c, &c->out);
    azri_child_leave(c, &c->err);
}

/* What has come on fd, up to n bytes. 0: nothing now; -1: no more will. */
static ssize_t azri_child_read(azri_child *c, int *fd, char *p, size_t n) {
    ssize_t r;
    if (*fd < 0) return -1;
    do r = read(*fd, p, n); while (r < 0 && errno == EINTR);
    if (r > 0) return r;
    if (r < 0 && azri_would_block(errno)) return 0;
    azri_child_leave(c, fd);
    return -1;
}

/* The end of what it says matters: that is why it gives up. */
static void azri_child_hear(azri_child *c) {
    size_t half = sizeof c->said / 2;
    ssize_t n = 1;
    for (int i = 0; i < AZRI_CHILD_HEAR && n > 0; i++) {
        if (c->said_len > half) {
            memmove(c->said, c->said + c->said_len - half, half);
            c->said_len = half;
        }
        n = azri_child_read(c, &c->err, c->said + c->said_len, sizeof c->said - c->said_len);
        if (n > 0) c->said_len += (size_t)n;
    }
}

static azredis_status azri_child_listen(azri_child *c, azredis_error *e) {
    char piece[2048];
    azredis_status st = AZREDIS_OK;
    ssize_t n = 1;
    while (n > 0 && st == AZREDIS_OK) {
        n = azri_child_read(c, &c->out, piece, sizeof piece);
        if (n > 0) st = azri_buf_add(&c->text, piece, (size_t)n);
    }
    azri_wipe(piece, sizeof piece);
    if (st == AZREDIS_E_LIMIT)
        return azri_fail(e, st, c->where, "%s: %s prints more than %u bytes and was stopped; is it the right program?",
                         c->where, c->path, AZRI_CHILD_OUT);
    if (st != AZREDIS_OK) return azri_fail(e, st, c->where, "%s: no memory for what %s prints", c->where, c->path);
    return AZREDIS_OK;
}

/* AGAIN: later. OK: it has ended by itself; text, said and code are there. Else *e, which must be the same in each step,
 * says why it was stopped; it is gone then, or the kernel does not let it go. */
static azredis_status azri_child_step(azri_child *c, uint64_t now, azredis_error *e) {
    int before = c->gone;
    if (c->killed != AZREDIS_OK) {
        azri_child_collect(c);
        c->look_at = azri_after(now, AZRI_CHILD_LOOK);
        if (now >= c->until) c->gone = 1;           /* the kernel keeps it: left alone, a zombie one day */
        return c->gone ? c->killed : AZREDIS_AGAIN;
    }
    azri_child_collect(c);                          /* first: what it printed before its end is then in the pipe */
    if (c->gone && !before) c->until = azri_min64(c->until, azri_after(now, AZRI_CHILD_LINGER));
    azri_child_hear(c);
    azredis_status st = azri_child_listen(c, e);
    /* The deadline of one that has ended is when its grandchildren have been listened to for long enough. */
    if (st == AZREDIS_OK && c->gone && (c->out < 0 || now >= c->until)) return AZREDIS_OK;
    if (st == AZREDIS_OK && now >= c->until)
        st = azri_fail(e, AZREDIS_E_TIMEOUT, c->where, "%s: %s did not end within %u ms and was stopped; run it by hand to "
                       "see what it waits for", c->where, c->path, (unsigned)c->limit_ms);
    c->look_at = azri_after(now, c->out < 0 ? AZRI_CHILD_LOOK : AZRI_CHILD_PRINTS);
    if (st == AZREDIS_OK) return AZREDIS_AGAIN;
    azri_child_kill(c);
    c->killed = st;
    c->until = azri_after(now, AZRI_CHILD_DYING);
    c->look_at = azri_after(now, 1);
    return AZREDIS_AGAIN;
}

static size_t azri_child_fds(const azri_child *c, azri_fd *out, size_t cap) {
    size_t n = 0;
    for (int i = 0; i < 2; i++) {
        int fd = i ? c->err : c->out;
        if (fd < 0) continue;
        if (n < cap) out[n] = azri_fd_to_read(fd);
        n++;
    }
    return n;
}

static uint64_t azri_child_deadline(const azri_child *c) { return azri_min64(c->until, c->look_at); }

/* In whatever state it is. Waits for the death of one that had to be killed, which is a matter of a millisecond, so that
 * no zombie stays behind. */
static void azri_child_end(azri_child *c) {
    if (!c->pid) return;
    azri_child_kill(c);
    for (uint32_t i = 0; i < AZRI_CHILD_DYING && !c->gone; i++) {
        (void)poll(NULL, 0, 1);
        azri_child_collect(c);
    }
    azri_buf_free(&c->text);
    azri_wipe(c, sizeof *c);
}
#endif

#ifdef AZREDIS_NO_OS
/* ==== >>bare ============================================================== uses: core mem fail port ==
 * The port without an operating system: every hook is the user's, and there are no files, no environment and no
 * threads. Never blocks but in port.wait.
 * ================================================================================================ */

#define AZRI_PORT_NAME "bare"

/* ---- port -------------------------------------------------------------------------------------- */

static uint64_t azri_bare_now(void *user) {
    (void)user;
    return 0;
}

static int azri_bare_entropy(void *user, void *out, size_t n) {
    (void)user;
    memset(out, 0, n);
    return -1;
}

static void azri_bare_wait(void *user, azredis_fd *fds, size_t n, uint32_t ms) {
    (void)user;
    (void)fds;
    (void)n;
    (void)ms;
}

static void *azri_bare_alloc(void *user, size_t n) {
    (void)user;
    (void)n;
    return NULL;
}

static void azri_bare_free(void *user, void *p, size_t n) {
    (void)user;
    (void)p;
    (void)n;
}

/* user may be NULL. Without one of the hooks a client is broken, and asks for time and random numbers at most. */
static void azri_port_fill(azri_port *out, const azredis_port *user) {
    azredis_port *p = &out->p;
    memset(out, 0, sizeof *out);
    if (user) *p = *user;
    if (!p->alloc || !p->free) {
        p->alloc = azri_bare_alloc;
        p->free = azri_bare_free;
    }
    out->mem.alloc = p->alloc;
    out->mem.free = p->free;
    out->mem.user = p->user;
    if (!p->wait) p->wait = azri_bare_wait;
    if (!p->yield) p->yield = azri_port_no_yield;
    out->missing = !p->now_ms    ? AZRI_TEXT("now_ms")
                 : !p->unix_time ? AZRI_TEXT("unix_time")
                 : !p->entropy   ? AZRI_TEXT("entropy")
                 : !p->connect   ? AZRI_TEXT("connect")
                 : !p->send      ? AZRI_TEXT("send")
                 : !p->recv      ? AZRI_TEXT("recv")
                 : !p->close     ? AZRI_TEXT("close")
                                 : NULL;
    if (!out->missing) return;
    p->now_ms = azri_bare_now;
    p->entropy = azri_bare_entropy;
}

static const char *azri_getenv(const char *name) {
    (void)name;
    return NULL;
}

/* The error for a negative result r of port.send or port.recv. */
static azredis_status azri_net_fail(azredis_error *e, const char *where, const char *doing, int r) {
    (void)azri_fail(e, AZREDIS_E_NET, where, "%s: the connection was lost (%d, from your hook)", doing, r);
    if (e) e->os_errno = r < -1 ? -r : 0;
    return AZREDIS_E_NET;
}

static void azri_event_default(const azredis_event *ev) { (void)ev; }

/* ---- lock, waker ------------------------------------------------------------------------------- */

typedef struct azri_lock { const azri_port *port; } azri_lock;

static azredis_status azri_lock_init(azri_lock *l, const azri_port *port) {
    l->port = port;
    return AZREDIS_OK;
}

static void azri_lock_free(azri_lock *l) { (void)l; }

static void azri_lock_acquire(azri_lock *l) {
    if (l->port->p.lock) l->port->p.lock(l->port->p.user, 1);
}

static void azri_lock_release(azri_lock *l) {
    if (l->port->p.lock) l->port->p.lock(l->port->p.user, 0);
}

/* refs: guarded by the port's lock, of which there is one. */
typedef struct azri_waker { const azri_port *port; int refs; volatile int called; } azri_waker;
#define AZRI_WAKER_BYTES sizeof(azri_waker)

static azri_waker *azri_waker_new(const azri_port *port) {
    azri_waker *w = (azri_waker *)azri_zalloc(&port->mem, sizeof *w);
    if (!w) return NULL;
    w->port = port;
    w->refs = 1;
    return w;
}

/* Under the lock. */
static azri_waker *azri_waker_ref(azri_waker *w) {
    w->refs++;
    return w;
}

static void azri_waker_unref(azri_waker *w) {
    azri_lock lock;
    if (!w) return;
    lock.port = w->port;
    azri_lock_acquire(&lock);
    int last = --w->refs == 0;
    azri_lock_release(&lock);
    if (last) azri_free(&w->port->mem, w, sizeof *w);
}

/* From any task, and from an interrupt if port.wake may be called there. */
static void azri_waker_write(azri_waker *w, unsigned what) {
    if (what >= AZRI_CALL) w->called = 1;
    if (w->port->p.wake) w->port->p.wake(w->port->p.user);
}

static void azri_waker_wake(azri_waker *w) { azri_waker_write(w, AZRI_WAKE); }

static int azri_port_polls(const azri_port *port) {
    (void)port;
    return 0;
}

static size_t azri_waker_fds(const azri_waker *w, azri_fd *out, size_t cap) {
    (void)w;
    (void)out;
    (void)cap;
    return 0;
}

static int azri_waker_drain(azri_waker *w) {
    int called = w->called != 0;
    if (called) w->called = 0;          /* a call between the two is not lost: it sets it again */
    return called;
}

/* ---- dial -------------------------------------------------------------------------------------- */

typedef struct azri_dial {
    const azri_port *port;
    azri_grave      *grave;              /* not asked: what is dialled is in no list of sockets */
    uint64_t         next_at;
    intptr_t         sock;               /* what the hook has in work; -1: nothing */
    const char      *host;               /* lent */
    uint16_t         tcp_port;
} azri_dial;

static void azri_dial_begin(azri_dial *d, const azri_port *port, azri_waker *w, const char *host, uint16_t tcp_port) {
    (void)w;
    d->port = port;
    d->next_at = 0;
    d->sock = -1;
    d->host = host;
    d->tcp_port = tcp_port;
}

static void azri_dial_end(azri_dial *d) {
    if (d->sock != -1) d->port->p.close(d->port->p.user, d->sock);
    d->sock = -1;
}

static azredis_status azri_dial_step(azri_dial *d, uint64_t now, intptr_t *sock, azredis_error *e) {
    int r = d->port->p.connect(d->port->p.user, d->host, d->tcp_port, &d->sock);
    d->next_at = azri_after(now, AZRI_DIAL_HOOK);
    if (r == 0) return AZREDIS_AGAIN;
    *sock = d->sock;
    d->sock = -1;
    if (r > 0) return AZREDIS_OK;
    (void)azri_fail(e, AZREDIS_E_NET, "connect.tcp", "connect to %s:%u: %d from your connect hook", d->host,
                    (unsigned)d->tcp_port, r);
    if (e) e->os_errno = r < -1 ? -r : 0;
    return AZREDIS_E_NET;
}

static azredis_status azri_dial_timeout(azri_dial *d, azredis_error *e) {
    azri_dial_end(d);
    return azri_fail(e, AZREDIS_E_TIMEOUT, "connect.tcp", "connect to %s:%u: your connect hook did not get there in time; "
                     "check host, port and firewall", d->host, (unsigned)d->tcp_port);
}

static size_t azri_dial_fds(const azri_dial *d, azri_fd *out, size_t cap) {
    (void)d;
    (void)out;
    (void)cap;
    return 0;
}

static uint64_t azri_dial_deadline(const azri_dial *d) { return d->next_at; }
#endif

/* ==== >>fork ============================================================== uses: - ==============
 * Was this object made before a fork, in the parent? The child has copies of its sockets, TLS keys and locks, which it
 * must not touch: a lock may be held by a thread that the child does not have.
 * Linux empties a page in the child, so that asking costs a look at a byte; elsewhere, and before 4.14, a getpid.
 * Entry points: azri_fork_mark, azri_forked, azri_fork_unmark.
 * ================================================================================================ */
#if AZRI_WITH_FORK
#include <sys/mman.h>

typedef struct azri_fork {
    unsigned char *page;             /* its first byte is 1, and 0 in a child; NULL: the system cannot do that */
    pid_t          pid;
} azri_fork;

#if defined(MADV_WIPEONFORK) && !defined(AZRI_NO_WIPEONFORK)
#define AZRI_FORK_PAGE 4096u         /* rounded up by the system */

/* An emulated system may take any advice and follow none: this one must refuse what there is not. */
static unsigned char *azri_fork_page(void) {
    void *p = mmap(NULL, AZRI_FORK_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (madvise(p, AZRI_FORK_PAGE, -1) == 0 || madvise(p, AZRI_FORK_PAGE, MADV_WIPEONFORK) != 0) {
        (void)munmap(p, AZRI_FORK_PAGE);
        return NULL;
    }
    *(unsigned char *)p = 1;
    return (unsigned char *)p;
}

static void azri_fork_unmark(azri_fork *f) {
    if (f->page) (void)munmap(f->page, AZRI_FORK_PAGE);
}
#else
#define azri_fork_page() NULL
#define azri_fork_unmark(f) ((void)(f))
#endif

static void azri_fork_mark(azri_fork *f) {
    f->pid = getpid();
    f->page = azri_fork_page();
}

static int azri_forked(const azri_fork *f) { return f->page ? !*f->page : f->pid != getpid(); }
#else
typedef struct azri_fork { char none; } azri_fork;
#define azri_fork_mark(f) ((void)(f))
#define azri_fork_unmark(f) ((void)(f))
#define azri_forked(f) ((void)(f), 0)
#endif

/* ==== >>mbedtls =========================================================== uses: - ==============
 * Which mbedTLS it is: what must be switched on in it, and in what its versions differ. All sections below that
 * use it stand on this one.
 * ================================================================================================ */
#if defined(__has_include)
#  if !__has_include(<mbedtls/ssl.h>)
#    error "azredis: mbedTLS's headers are missing. Debian, Ubuntu: apt install libmbedtls-dev; Fedora, Alpine: \
mbedtls-devel, mbedtls-dev; macOS: brew install mbedtls@3; elsewhere: give the compiler -I<its include folder>"
#  endif
#endif
#if !defined(AZREDIS_NO_MANAGED) || !defined(AZREDIS_NO_CERTIFICATE) || !defined(AZREDIS_NO_MALLOC)
#  include <mbedtls/md.h>
#endif
#ifndef AZREDIS_NO_CERTIFICATE
#  include <mbedtls/cipher.h>
#  include <mbedtls/rsa.h>
#endif
#include <mbedtls/platform_util.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>

#define AZRI_MBEDTLS (MBEDTLS_VERSION_NUMBER >> 24)          /* 2, 3 or 4 */

/* What Azure Managed Redis needs of mbedTLS's configuration: TLS 1.2 with the two CBC suites that it documents
 * (ECDHE with P-256 or P-384, an RSA certificate), roots up to RSA-4096 with SHA-384. */
#ifndef MBEDTLS_SSL_CLI_C
#  error "azredis: mbedTLS is built without MBEDTLS_SSL_CLI_C: no TLS client"
#endif
#ifndef MBEDTLS_SSL_PROTO_TLS1_2
#  error "azredis: mbedTLS is built without MBEDTLS_SSL_PROTO_TLS1_2: Azure's caches cannot be held to TLS 1.3"
#endif
#ifndef MBEDTLS_X509_CRT_PARSE_C
#  error "azredis: mbedTLS is built without MBEDTLS_X509_CRT_PARSE_C: no certificate can be verified"
#endif
#ifndef MBEDTLS_SSL_SERVER_NAME_INDICATION
#  error "azredis: mbedTLS is built without MBEDTLS_SSL_SERVER_NAME_INDICATION: Azure chooses the certificate by the name"
#endif
#ifndef MBEDTLS_KEY_EXCHANGE_ECDHE_RSA_ENABLED
#  error "azredis: mbedTLS is built without MBEDTLS_KEY_EXCHANGE_ECDHE_RSA_ENABLED: the suites of Azure Managed Redis"
#endif
#if AZRI_MBEDTLS == 2
#  if !defined(MBEDTLS_X509_CHECK_KEY_USAGE) || !defined(MBEDTLS_X509_CHECK_EXTENDED_KEY_USAGE)
#    error "azredis: mbedTLS is built without MBEDTLS_X509_CHECK_KEY_USAGE and MBEDTLS_X509_CHECK_EXTENDED_KEY_USAGE: \
a client's certificate would pass for a server's"
#  endif
#  if !defined(MBEDTLS_SHA256_C) || !defined(MBEDTLS_SHA512_C) || defined(MBEDTLS_SHA512_NO_SHA384)
#    error "azredis: mbedTLS is built without MBEDTLS_SHA256_C and MBEDTLS_SHA512_C (SHA-384): Azure's suites and roots"
#  endif
#elif AZRI_MBEDTLS == 3               /* here and below: the names that count drivers of PSA too */
#  if !defined(MBEDTLS_MD_CAN_SHA256) || !defined(MBEDTLS_MD_CAN_SHA384)
#    error "azredis: mbedTLS is built without MBEDTLS_SHA256_C and MBEDTLS_SHA384_C: Azure's suites and roots"
#  endif
#endif
#if (AZRI_MBEDTLS == 2 && !(defined(MBEDTLS_AES_C) && defined(MBEDTLS_CIPHER_MODE_CBC))) || \
    (AZRI_MBEDTLS == 3 && !(defined(MBEDTLS_SSL_HAVE_AES) && defined(MBEDTLS_SSL_HAVE_CBC)))
#  error "azredis: mbedTLS is built without MBEDTLS_AES_C and MBEDTLS_CIPHER_MODE_CBC: the suites of Azure Managed Redis"
#endif
#if (AZRI_MBEDTLS == 2 && !(defined(MBEDTLS_ECP_DP_SECP256R1_ENABLED) && defined(MBEDTLS_ECP_DP_SECP384R1_ENABLED))) || \
    (AZRI_MBEDTLS == 3 && !(defined(MBEDTLS_ECP_HAVE_SECP256R1) && defined(MBEDTLS_ECP_HAVE_SECP384R1)))
#  error "azredis: mbedTLS is built without MBEDTLS_ECP_DP_SECP256R1_ENABLED and MBEDTLS_ECP_DP_SECP384R1_ENABLED"
#endif
#if !defined(AZREDIS_NO_CERTIFICATE) && !(defined(MBEDTLS_RSA_C) && defined(MBEDTLS_PKCS1_V21) && \
    defined(MBEDTLS_PK_PARSE_C) && defined(MBEDTLS_CIPHER_C) && defined(MBEDTLS_MD_C))
#  error "azredis: mbedTLS is built without one of MBEDTLS_RSA_C, MBEDTLS_PKCS1_V21, MBEDTLS_PK_PARSE_C, MBEDTLS_CIPHER_C, \
MBEDTLS_MD_C: certificates of service principals need them; AZREDIS_NO_CERTIFICATE does without"
#endif
#if defined(MBEDTLS_MPI_MAX_SIZE) && MBEDTLS_MPI_MAX_SIZE < 512
#  error "azredis: mbedTLS is built with MBEDTLS_MPI_MAX_SIZE under 512: Azure's issuers have RSA keys of 4096 bits"
#endif
#if MBEDTLS_SSL_IN_CONTENT_LEN < 8192
#  error "azredis: mbedTLS is built with MBEDTLS_SSL_IN_CONTENT_LEN under 8192: Azure's certificate chain needs 6 KB"
#endif
#if defined(MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH) && MBEDTLS_SSL_OUT_CONTENT_LEN < MBEDTLS_SSL_IN_CONTENT_LEN
#  error "azredis: with MBEDTLS_SSL_VARIABLE_BUFFER_LENGTH and a shorter OUT than IN, mbedTLS shrinks the wrong buffer"
#endif

#if AZRI_MBEDTLS >= 4 || (AZRI_MBEDTLS == 3 && defined(MBEDTLS_PSA_CRYPTO_C))
#  include <psa/crypto.h>
#  define AZRI_PSA_INIT() psa_crypto_init()      /* never undone: it belongs to the whole process */
#else
#  define AZRI_PSA_INIT() 0
#endif
#if AZRI_MBEDTLS >= 4
#  define AZRI_CONF_RNG(cfg, fn, user) ((void)(fn), (void)(user))
#else
#  define AZRI_CONF_RNG(cfg, fn, user) mbedtls_ssl_conf_rng((cfg), (fn), (user))
#endif
#if AZRI_MBEDTLS >= 3
#  define AZRI_PK_RNG(fn, user) , (fn), (user)       /* arguments that mbedTLS 2 has not yet */
#  define AZRI_PK_ROOM(n)  , (n)
#  define AZRI_IN_MSG(ssl) ((ssl)->MBEDTLS_PRIVATE(in_msg))
#  define AZRI_IS_CA(crt)  ((crt)->MBEDTLS_PRIVATE(ca_istrue))
#else
#  define AZRI_PK_RNG(fn, user)
#  define AZRI_PK_ROOM(n)
#  define AZRI_IN_MSG(ssl) ((ssl)->in_msg)
#  define AZRI_IS_CA(crt)  ((crt)->ca_istrue)
#endif
#ifndef MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET
#  define MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET (-0x7B00)
#endif
/* mbedTLS 3.6.1 and later keep quiet about the tickets of TLS 1.3 unless told not to; 4 has no such switch. */
#if defined(MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED) && defined(MBEDTLS_SSL_PROTO_TLS1_3) && \
    defined(MBEDTLS_SSL_SESSION_TICKETS) && AZRI_MBEDTLS == 3
#  define AZRI_CONF_TICKETS(cfg) mbedtls_ssl_conf_tls13_enable_signal_new_session_tickets( \
    (cfg), MBEDTLS_SSL_TLS1_3_SIGNAL_NEW_SESSION_TICKETS_ENABLED)
#else
#  define AZRI_CONF_TICKETS(cfg) ((void)(cfg))
#endif

/* mbedTLS says "no memory" in each of its modules with a number of its own, and adds the inner to the outer one:
 * BIGNUM -0x10, ASN1 -0x6a; CIPHER -0x6180, ECP -0x4d80, MD -0x5180, PEM -0x1180, PK -0x3f80, SSL -0x7f00,
 * X509 -0x2880 (error.h of 2.28 and 3.6). */
static int azri_mbedtls_no_memory(int rc) {
    unsigned low = (unsigned)-rc & 0x7fu, high = (unsigned)-rc & 0xff80u;
    if (rc >= 0) return 0;
    return low == 0x10 || low == 0x6a || high == 0x6180 || high == 0x4d80 || high == 0x5180 || high == 0x1180 ||
           high == 0x3f80 || high == 0x7f00 || high == 0x2880;
}

#if !defined(AZREDIS_NO_MANAGED) || !defined(AZREDIS_NO_CERTIFICATE) || !defined(AZREDIS_NO_MALLOC)
/* Service Fabric names its certificate by it, Redis a script, and so do assertions by RS256. Not 0: this mbedTLS has none. */
static int azri_mbedtls_sha1(const unsigned char *p, size_t n, unsigned char out[20]) {
    const mbedtls_md_info_t *info = mbedtls_md_info_from_type(MBEDTLS_MD_SHA1);
    return info ? mbedtls_md(info, p, n, out) : -1;
}
#endif

#ifndef AZREDIS_NO_CERTIFICATE
static int azri_mbedtls_sha256(const unsigned char *p, size_t n, unsigned char out[32]) {
    return mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), p, n, out);
}
#endif

/* Versions, suites and curves. tls12: nothing newer. */
static void azri_mbedtls_protocol(mbedtls_ssl_config *cfg, int tls12) {
    /* TLS 1.3, then AEAD, then the CBC suites that Azure Managed Redis documents for TLS 1.2. Numbers that a
     * build does not know are skipped. */
    static const int suites[] = { 0x1301, 0x1302, 0x1303, 0xC02F, 0xC02B, 0xC030, 0xC02C, 0xCCA8, 0xCCA9,
                                  0xC027, 0xC028, 0xC023, 0xC024, 0 };
#if AZRI_MBEDTLS >= 3
    static const uint16_t groups[] = { 0x001D, 0x0017, 0x0018, 0x0019, 0 };  /* x25519, P-256, P-384, P-521 */
    mbedtls_ssl_conf_groups(cfg, groups);
    mbedtls_ssl_conf_min_tls_version(cfg, MBEDTLS_SSL_VERSION_TLS1_2);
    if (tls12) mbedtls_ssl_conf_max_tls_version(cfg, MBEDTLS_SSL_VERSION_TLS1_2);
#  ifdef MBEDTLS_SSL_PROTO_TLS1_3
    mbedtls_ssl_conf_tls13_key_exchange_modes(cfg, MBEDTLS_SSL_TLS1_3_KEY_EXCHANGE_MODE_EPHEMERAL_ALL);
#  endif
#else
    (void)tls12;
    /* P-521 last: mbedTLS 2 takes it first, at three times the cost, but a server's own key may be on it. */
    static const mbedtls_ecp_group_id groups[] = { MBEDTLS_ECP_DP_CURVE25519, MBEDTLS_ECP_DP_SECP256R1,
        MBEDTLS_ECP_DP_SECP384R1, MBEDTLS_ECP_DP_SECP521R1, MBEDTLS_ECP_DP_NONE };
    mbedtls_ssl_conf_curves(cfg, groups);
    mbedtls_ssl_conf_min_version(cfg, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
    mbedtls_ssl_conf_ciphersuites(cfg, suites);
}

/* DER begins with a SEQUENCE of more than 127 bytes; no text does. */
static int azri_is_der(const char *p, size_t n) { return n > 1 && p[0] == 0x30 && (p[1] & 0x80); }

/* ==== >>roots ============================================================= uses: core mem text port bare mbedtls
 * Root certificates on demand. A bundle of 144 parsed as a whole costs 400 KB for as long as the connection
 * lives. So mbedTLS gets an empty list, and the verify callback of >>tls reads the bundle, certificate by
 * certificate, and parses only those that hold the name of an issuer in the chain: some KB for some milliseconds.
 * Entry points: azri_roots_file, azri_roots_memory.
 * ================================================================================================ */
typedef struct azri_roots {
    const mbedtls_x509_crt *chain;   /* what the server sent, its own certificate first */
    mbedtls_x509_crt        found;
    azri_buf                text;    /* base64 of the certificate that is being read */
    azri_buf                der;
    int                     inside;  /* 1: between BEGIN and END */
    int                     status;  /* 0, or why roots may be missing: mbedTLS's code */
} azri_roots;

/* Does the certificate hold the name of an issuer in the chain? mbedTLS compares exactly afterwards. */
static int azri_roots_wanted(const azri_roots *r, const char *der, size_t len) {
    for (const mbedtls_x509_crt *c = r->chain; c; c = c->next)
        if (azri_find_text(azri_slice(der, len), azri_slice((const char *)c->issuer_raw.p, c->issuer_raw.len)) < len)
            return 1;
    return 0;
}

static void azri_roots_der(azri_roots *r, const char *der, size_t len) {
    if (!azri_roots_wanted(r, der, len)) return;
    int rc = mbedtls_x509_crt_parse_der(&r->found, (const unsigned char *)der, len);
    if (azri_mbedtls_no_memory(rc)) r->status = MBEDTLS_ERR_X509_ALLOC_FAILED;  /* any other: a kind we cannot use; skip it */
}

static void azri_roots_end(azri_roots *r) {
    size_t n = 0;
    r->inside = 0;
    if (azri_buf_reserve(&r->der, r->text.len) != AZREDIS_OK) {
        r->status = MBEDTLS_ERR_X509_ALLOC_FAILED;
        return;
    }
    if (!azri_b64_decode(azri_slice(r->text.ptr, r->text.len), "+/", r->der.ptr, &n)) return;
    azri_roots_der(r, r->der.ptr, n);
}

/* One line of PEM, or a piece of one. What stands outside BEGIN and END is a comment (RFC 7468 2). */
static void azri_roots_line(azri_roots *r, const char *p, size_t n) {
    static const char begin[] = "-----BEGIN CERTIFICATE-----", end[] = "-----END CERTIFICATE-----";
    if (n >= sizeof begin - 1 && !memcmp(p, begin, sizeof begin - 1)) {
        r->inside = 1;
        r->text.len = 0;
        return;
    }
    if (!r->inside) return;
    if (n >= sizeof end - 1 && !memcmp(p, end, sizeof end - 1)) {
        azri_roots_end(r);
        return;
    }
    while (n > 0 && (p[n - 1] == '\n' || p[n - 1] == '\r' || p[n - 1] == ' ')) n--;
    azredis_status st = azri_buf_add(&r->text, p, n);
    if (st == AZREDIS_OK) return;
    r->inside = 0;                   /* too long to be a root: skipped */
    if (st == AZREDIS_E_NOMEM) r->status = MBEDTLS_ERR_X509_ALLOC_FAILED;
}

#ifdef AZREDIS_NO_OS                   /* azri_tls_find_roots wants ca there */
#define azri_roots_file(r, path) ((void)(r), (void)(path))
#else
static void azri_roots_file(azri_roots *r, const char *path) {
    char line[256];
    FILE *f = fopen(path, "rb");
    if (!f) {
        r->status = errno == ENOMEM ? MBEDTLS_ERR_X509_ALLOC_FAILED : MBEDTLS_ERR_X509_FILE_IO_ERROR;
        return;
    }
    while (fgets(line, (int)sizeof line, f)) azri_roots_line(r, line, strlen(line));
    if (ferror(f)) r->status = MBEDTLS_ERR_X509_FILE_IO_ERROR;
    (void)fclose(f);
}
#endif

static void azri_roots_memory(azri_roots *r, const char *p, size_t n) {
    if (!AZRI_WITH_PEM || azri_is_der(p, n)) {
        azri_roots_der(r, p, n);
        return;
    }
    while (n > 0) {
        const char *lf = (const char *)memchr(p, '\n', n);
        size_t k = lf ? (size_t)(lf - p) + 1 : n;
        azri_roots_line(r, p, k);
        p += k;
        n -= k;
    }
}

/* ==== >>tls =============================================================== uses: core mem fail text port posix bare mbedtls roots
 * One TLS client connection over non-blocking sockets, with mbedTLS. TLS 1.2 at least; chain and name are always
 * verified, there is no way to turn that off; for Service Fabric alone, one certificate that is known by its SHA-1 is
 * taken instead, and no other. The time of a certificate follows port.unix_time, not libc's clock.
 * Entry points: azri_tls_open, _handshake, _read, _write, _pending, _close.
 * ================================================================================================ */

#define AZRI_TLS_LOST    (-0x004C)   /* our BIO's code: port.send or port.recv failed; see azri_tls.io */
#define AZRI_TLS_NO_RNG  (-0x003C)   /* port.entropy failed */
#define AZRI_TLS_KEPT_MAX 16384u     /* a kept session: the server's certificate, a ticket, keys */
/* A resumed handshake shows no certificate. So that one which has been withdrawn or replaced does not live on,
 * the server must show it once a day, however often it was resumed. */
#define AZRI_TLS_KEPT_MS 86400000u
#ifndef AZRI_TLS_RECORDS_MAX
/* RFC 8446 5.5: about 2^24.5 full records may be sealed by one AES-GCM key. mbedTLS cannot change keys on a live
 * connection (no KeyUpdate), so a connection is replaced before it gets there. */
#  define AZRI_TLS_RECORDS_MAX (1u << 24)
#endif

/* The day of this release. It is not earlier than that: a clock that says so is wrong. */
#define AZRI_RELEASE_UNIX 1795392000 /* 2026-11-23 */

#ifndef AZRI_TLS_BUNDLES
/* Debian, Ubuntu, Alpine, Arch; Fedora, RHEL, Azure Linux; RHEL 7+; openSUSE; macOS, OpenBSD; FreeBSD. */
#  define AZRI_TLS_BUNDLES "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", \
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem", \
    "/usr/local/share/certs/ca-root-nss.crt"
#endif

/* The last session of one endpoint, so that a reconnect costs a tenth. It stands for the checks that were made
 * when it began, and is offered only where the same would be made: same name, same roots. In RAM only; secret. */
typedef struct azri_tls_kept {       /* zeroed: none */
    unsigned char *blob;             /* mbedTLS's form: master secret or resumption key, certificate, ticket */
    size_t         len;
    char           name[256];
    char          *ca_path;
    const void    *ca;
    size_t         ca_len;
    uint64_t       verified_ms;      /* when the server last showed its certificate */
    int64_t        from, until;      /* Unix: the chain's certificates are all good between these */
} azri_tls_kept;

typedef struct azri_tls_conf {       /* all lent until azri_tls_close */
    const char *name;                /* to verify, and sent as SNI; a name or an address without brackets */
    const char *ca_file;             /* NULL: SSL_CERT_FILE, then the system's bundle */
    const void *ca;                  /* PEM or DER in memory; wins over ca_file */
    size_t      ca_len;
    const char *where;               /* "redis.tls" */
    int         tls12;               /* 1: nothing newer; see azri_tls.again */
    azri_tls_kept *kept;             /* to be resumed, and to be filled; NULL: neither. Not with pin */
    const char *pin;                 /* SHA-1 of the only certificate that is taken, 40 hex digits; NULL: chain and name decide */
} azri_tls_conf;

typedef struct azri_tls {            /* zeroed: closed. Must stay where it is while open */
    const azri_port    *port;
    azri_tls_conf       conf;
    intptr_t            sock;
    int                 open;        /* 1: there is something to free */
    int                 spent;       /* 1: the last read took less than it asked for: the next one would come back empty */
    int                 ready;       /* 1: the handshake is done and nothing has failed since */
    int                 want;        /* after AGAIN: AZRI_READ or AZRI_WRITE */
    int                 dry;         /* 1: the socket had nothing more */
    int                 frozen;      /* 1: azri_tls_write must be called again with the same bytes */
    int                 heard;       /* 1: the peer has sent something */
    int                 again;       /* 1 after a failed handshake: worth one more at once, with tls12 as below */
    int                 tls12;
    int                 offered;     /* 1: conf.kept was offered */
    int                 verified;    /* 1: the server showed its certificate, and all was well */
    uint64_t            verified_ms; /* these as in azri_tls_kept */
    int64_t             from, until;
    uint32_t            sealed, opened;   /* records since the handshake */
    int                 io;          /* what port.send or port.recv said when it failed */
    size_t              frozen_n;
    unsigned char       first;       /* the first byte the peer sent */
    char               *ahead;       /* bytes received and not yet asked for: [at, len); NULL: no memory, or idle */
    size_t              ahead_at, ahead_len;
    char               *ca_path;     /* the bundle, if roots come from a file */
    char                name[256];
    char                why[304];    /* which checks of the certificate failed */
    mbedtls_ssl_context ssl;
    mbedtls_ssl_config  cfg;
    mbedtls_x509_crt    no_roots;    /* empty: roots are looked up on demand, see azri_tls_verify */
} azri_tls;

/* ---- verification ------------------------------------------------------------------------------- */

#ifdef AZREDIS_NO_TEXT
#define azri_tls_note(t, ...) (AZRI_UNSAID(__VA_ARGS__), (void)(t))
#else
static void azri_tls_note(azri_tls *t, const char *f, ...) AZRI_PRINTF(2, 3);
static void azri_tls_note(azri_tls *t, const char *f, ...) {
    size_t n = strlen(t->why);
    va_list ap;
    if (n > 0) n += azri_fmt(t->why + n, sizeof t->why - n, "; ");
    if (n >= sizeof t->why) return;
    va_start(ap, f);
    (void)azri_vfmt(t->why + n, sizeof t->why - n, f, &ap);
    va_end(ap);
}
#endif

static int64_t azri_tls_time(const mbedtls_x509_time *x) {
    return (int64_t)azri_days(x->year, x->mon, x->day) * 86400 + (x->hour * 60 + x->min) * 60 + x->sec;
}

/* The two time checks, on the port's clock. A clock that is unknown or behind this release cannot say that a
 * certificate is still good beyond it; an unknown one cannot say that it is not good yet. */
static uint32_t azri_tls_check_time(azri_tls *t, const mbedtls_x509_crt *crt) {
    int64_t from = azri_tls_time(&crt->valid_from), until = azri_tls_time(&crt->valid_to),
            now = azri_port_unix(t->port);
    int64_t floor = now > AZRI_RELEASE_UNIX ? now : AZRI_RELEASE_UNIX;
    char a[24], b[24];
    if (now > 0 && now < from) {
        azri_tls_note(t, "not valid before %s, and the clock of this machine says %s%s", azri_date_text(a, from),
                      azri_date_text(b, now), now < AZRI_RELEASE_UNIX ? ", which is wrong: set the clock" : "");
        return MBEDTLS_X509_BADCERT_FUTURE;
    }
    if (floor > until) {
        azri_tls_note(t, "expired on %s (it is %s)", azri_date_text(a, until), azri_date_text(b, floor));
        return MBEDTLS_X509_BADCERT_EXPIRED;
    }
    if (until < t->until) t->until = until;
    if (from > t->from) t->from = from;
    return 0;
}

/* A chain that was verified without a clock, and later a time, told over that very connection: it must fit. */
static azredis_status azri_tls_check_date(const azri_tls *t, int64_t unix_now, azredis_error *e) {
    char from[24], until[24], now[24];
    if (t->from <= unix_now && unix_now <= t->until) return AZREDIS_OK;
    return azri_fail(e, AZREDIS_E_CERT, t->conf.where, "certificate of %s refused: good from %s to %s, and by its own "
                     "clock it is %s; this machine's clock is not set", t->name, azri_date_text(from, t->from),
                     azri_date_text(until, t->until), azri_date_text(now, unix_now));
}

static const char *azri_tls_roots_name(const azri_tls *t) { return t->ca_path ? t->ca_path : "the given ca"; }

static int azri_tls_same_dn(const mbedtls_x509_buf *a, const mbedtls_x509_buf *b) {
    return a->len == b->len && memcmp(a->p, b->p, a->len) == 0;
}

/* Why an issuer that the server sent was not taken for one. */
static const char *azri_tls_no_issuer(const mbedtls_x509_crt *issuer) {
    if (!AZRI_IS_CA(issuer)) return "which is no CA (basic constraints)";
    if (mbedtls_x509_crt_check_key_usage(issuer, MBEDTLS_X509_KU_KEY_CERT_SIGN) != 0)
        return "whose key may not sign certificates (key usage)";
    return "which has not signed it, or may not stand so high in a chain (path length)";
}

/* The top of what could be verified; depth 0 is the server's own certificate. */
static void azri_tls_note_untrusted(azri_tls *t, const mbedtls_x509_crt *crt, int depth) {
    const mbedtls_x509_crt *issuer = crt->next;
    char dn[160], text[160];
    if (!AZRI_WITH_TEXT) return;       /* mbedtls_x509_dn_gets alone takes 4 KB, with the snprintf that it calls */
    int n = mbedtls_x509_dn_gets(dn, sizeof dn, &crt->issuer);
    while (issuer && !azri_tls_same_dn(&issuer->subject_raw, &crt->issuer_raw)) issuer = issuer->next;
    (void)azri_quote(text, sizeof text, n > 0 ? dn : "?", n > 0 ? (size_t)n : 1, azri_str(""));
    if (azri_tls_same_dn(&crt->issuer_raw, &crt->subject_raw))
        azri_tls_note(t, "self-signed (%s) and not in %s: give it as ca_file or SSL_CERT_FILE", text,
                      azri_tls_roots_name(t));
    else if (issuer)
        azri_tls_note(t, "issued by (%s), %s", text, azri_tls_no_issuer(issuer));
    else
        azri_tls_note(t, "untrusted issuer (%s), not in %s: give its CA by ca_file or SSL_CERT_FILE%s", text,
                      azri_tls_roots_name(t),
                      depth == 0 ? ", or let the server send its intermediate certificate" : "");
}

/* Called by mbedTLS for each certificate of the chain that it found, the top one first. */
static int azri_tls_each(void *user, mbedtls_x509_crt *crt, int depth, uint32_t *flags) {
    azri_tls *t = (azri_tls *)user;
    *flags &= ~(uint32_t)(MBEDTLS_X509_BADCERT_EXPIRED | MBEDTLS_X509_BADCERT_FUTURE);
    if (*flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED) azri_tls_note_untrusted(t, crt, depth);
    if (*flags & (MBEDTLS_X509_BADCERT_BAD_MD | MBEDTLS_X509_BADCERT_BAD_PK | MBEDTLS_X509_BADCERT_BAD_KEY))
        azri_tls_note(t, "its key or signature is too weak (RSA 2048, SHA-256 at least)");
    *flags |= azri_tls_check_time(t, crt);
    return 0;
}

static uint32_t azri_tls_check_chain(azri_tls *t, mbedtls_x509_crt *leaf, int *status) {
    azri_roots r;
    uint32_t flags = 0;
    memset(&r, 0, sizeof r);
    r.chain = leaf;
    mbedtls_x509_crt_init(&r.found);
    if (AZRI_WITH_PEM) {
        azri_buf_init(&r.text, &t->port->mem, AZRI_CERT_MAX, 0);
        azri_buf_init(&r.der, &t->port->mem, AZRI_CERT_MAX, 0);
    }
    if (t->conf.ca) azri_roots_memory(&r, (const char *)t->conf.ca, t->conf.ca_len);
    else azri_roots_file(&r, t->ca_path);
    if (AZRI_WITH_PEM) {
        azri_buf_free(&r.text);
        azri_buf_free(&r.der);
    }
    *status = r.status;
    if (r.status == 0) {
        int rc = mbedtls_x509_crt_verify(leaf, &r.found, NULL, NULL, &flags, azri_tls_each, t);
        if (rc != 0 && rc != MBEDTLS_ERR_X509_CERT_VERIFY_FAILED) *status = rc;
    }
    mbedtls_x509_crt_free(&r.found);
    return flags;
}

#define AZRI_SAN_DNS 0x82            /* RFC 5280 4.2.1.6: [2] dNSName, [7] iPAddress, both primitive */
#define AZRI_SAN_IP  0x87

/* For whom the certificate is instead. address: it had to be for one. */
static void azri_tls_note_names(azri_tls *t, const mbedtls_x509_crt *leaf, int address) {
    char list[128], text[96];
    if (!AZRI_WITH_TEXT) return;
    list[0] = '\0';
    for (const mbedtls_x509_sequence *s = &leaf->subject_alt_names; s; s = s->next) {
        size_t at = strlen(list);
        if (s->buf.tag == AZRI_SAN_DNS)
            (void)azri_quote(text, sizeof text, (const char *)s->buf.p, s->buf.len, azri_str(""));
        else if (s->buf.tag == AZRI_SAN_IP) azri_copy(text, sizeof text, "an address");
        else continue;
        (void)azri_fmt(list + at, sizeof list - at, "%s%s", at ? ", " : "", text);
    }
    azri_tls_note(t, "wrong host: it is %s%s, not for %s%s; check host and tls_host",
                  list[0] ? "for " : "without names", list, address ? "the address " : "", t->name);
}

/* mbedTLS's own check falls back on the common name, which RFC 9525 6.3 forbids, and 2.28 knows no iPAddress.
 * by_library: what it said of the name. */
static AZRI_APART uint32_t azri_tls_check_name(azri_tls *t, const mbedtls_x509_crt *leaf, uint32_t by_library) {
    unsigned char ip[16];
    size_t n = azri_ip_parse(azri_str(t->name), ip), names = 0;
    for (const mbedtls_x509_sequence *s = &leaf->subject_alt_names; s; s = s->next) {
        if (n > 0 && s->buf.tag == AZRI_SAN_IP && s->buf.len == n && memcmp(s->buf.p, ip, n) == 0) return 0;
        names += s->buf.tag == AZRI_SAN_DNS;
    }
    if (n == 0 && names > 0 && !by_library) return 0;
    azri_tls_note_names(t, leaf, n > 0);
    return MBEDTLS_X509_BADCERT_CN_MISMATCH;
}

#ifdef AZREDIS_NO_MANAGED
#define azri_tls_check_pin(t, leaf) ((void)(leaf), (uint32_t)MBEDTLS_X509_BADCERT_NOT_TRUSTED)
#else
/* Is the server's certificate the one that was named? In a time that does not tell how much of it fits. The handshake
 * then proves that the server has its key. */
static uint32_t azri_tls_check_pin(azri_tls *t, const mbedtls_x509_crt *leaf) {
    unsigned char is[20];
    unsigned differs = 0;
    if (azri_mbedtls_sha1(leaf->raw.p, leaf->raw.len, is) != 0) {
        azri_tls_note(t, "its thumbprint cannot be computed: this mbedTLS has no SHA-1 (MBEDTLS_SHA1_C)");
        return MBEDTLS_X509_BADCERT_OTHER;
    }
    for (size_t i = 0; i < sizeof is; i++)
        differs |= ((unsigned)azri_hex(t->conf.pin[2 * i]) << 4 | (unsigned)azri_hex(t->conf.pin[2 * i + 1])) ^ is[i];
    if (!differs) return 0;
    azri_tls_note(
        t, "it is not the one of IDENTITY_SERVER_THUMBPRINT; start the program with the platform's present variables");
    return MBEDTLS_X509_BADCERT_NOT_TRUSTED;
}
#endif

/* mbedTLS's verify callback in the handshake. Its own verdict on the chain is void, as it had no roots; ours
 * takes its place when the server's certificate comes, which is last. */
static int azri_tls_verify(void *user, mbedtls_x509_crt *crt, int depth, uint32_t *flags) {
    azri_tls *t = (azri_tls *)user;
    uint32_t name;
    int status = 0;
    if (depth > 0) {
        *flags = 0;
        return 0;
    }
    t->why[0] = '\0';
    t->from = 0;
    t->until = INT64_MAX;
    if (t->conf.pin) *flags = azri_tls_check_pin(t, crt);
    else {
        name = azri_tls_check_name(t, crt, *flags & MBEDTLS_X509_BADCERT_CN_MISMATCH);
        *flags = azri_tls_check_chain(t, crt, &status) | name;
    }
    t->verified = status == 0 && *flags == 0;
    if (t->verified) t->verified_ms = t->port->p.now_ms(t->port->p.user);
    return status;
}

/* ---- resumption --------------------------------------------------------------------------------- */

static azri_tls_kept *azri_tls_kept_of(const azri_tls *t) { return AZRI_WITH_RESUMPTION ? t->conf.kept : NULL; }

static void azri_tls_forget(azri_tls_kept *k, const azri_mem *m) {
    if (!AZRI_WITH_RESUMPTION) return;
    if (k->blob) {
        azri_wipe(k->blob, k->len);
        azri_free(m, k->blob, k->len);
    }
    azri_strfree(m, k->ca_path);
    azri_wipe(k, sizeof *k);
}

/* Would this connection make the checks that the kept session stands for, and would they pass again? */
static int azri_tls_fits(const azri_tls *t, const azri_tls_kept *k) {
    return k->blob && azri_eqz(azri_str(k->name), t->name) && k->ca == t->conf.ca && k->ca_len == t->conf.ca_len &&
           !k->ca_path == !t->ca_path && (!k->ca_path || azri_eqz(azri_str(k->ca_path), t->ca_path)) &&
           t->port->p.now_ms(t->port->p.user) - k->verified_ms < AZRI_TLS_KEPT_MS &&
           azri_port_unix(t->port) <= k->until;
}

/* Before the handshake. What cannot be resumed is only slower. */
static void azri_tls_offer(azri_tls *t) {
    const azri_tls_kept *k = azri_tls_kept_of(t);
    mbedtls_ssl_session s;
    if (!k || !azri_tls_fits(t, k)) return;
    mbedtls_ssl_session_init(&s);
    if (mbedtls_ssl_session_load(&s, k->blob, k->len) == 0 && mbedtls_ssl_set_session(&t->ssl, &s) == 0) {
        t->offered = 1;
        t->verified_ms = k->verified_ms;
        t->from = k->from;
        t->until = k->until;
    }
    mbedtls_ssl_session_free(&s);
}

/* Takes the session of this connection: at the end of a handshake of TLS 1.2, at each ticket of TLS 1.3. */
static void azri_tls_keep(azri_tls *t) {
    azri_tls_kept *k = azri_tls_kept_of(t);
    const azri_mem *m = &t->port->mem;
    mbedtls_ssl_session s;
    size_t n = 0;
    if (!k) return;
    mbedtls_ssl_session_init(&s);
    if (mbedtls_ssl_get_session(&t->ssl, &s) == 0) {
        azri_tls_forget(k, m);
        (void)mbedtls_ssl_session_save(&s, NULL, 0, &n);          /* tells the length */
        k->blob = n > 0 && n <= AZRI_TLS_KEPT_MAX ? (unsigned char *)azri_alloc(m, n) : NULL;
    }
    if (k->blob && n > 0) {
        k->len = n;
        k->ca_path = azri_strdup(m, t->ca_path);
        k->ca = t->conf.ca;
        k->ca_len = t->conf.ca_len;
        k->verified_ms = t->verified_ms;
        memcpy(k->name, t->name, sizeof k->name);
        k->from = t->from;
        k->until = t->until;
        if (!k->ca_path != !t->ca_path || mbedtls_ssl_session_save(&s, k->blob, n, &n) != 0) azri_tls_forget(k, m);
    }
    mbedtls_ssl_session_free(&s);
}

/* ---- bytes -------------------------------------------------------------------------------------- */

static int azri_tls_rng(void *user, unsigned char *out, size_t n) {
    const azri_port *port = ((const azri_tls *)user)->port;
    return port->p.entropy(port->p.user, out, n) == 0 ? 0 : AZRI_TLS_NO_RNG;
}

static int azri_tls_bio_send(void *user, const unsigned char *p, size_t n) {
    azri_tls *t = (azri_tls *)user;
    t->port->p.yield(t->port->p.user);
    int r = t->port->p.send(t->port->p.user, t->sock, p, n);
    if (r > 0) return r;
    if (r == 0) return MBEDTLS_ERR_SSL_WANT_WRITE;
    t->io = r;
    return AZRI_TLS_LOST;
}

/* From the socket, with mbedTLS's codes. */
static int azri_tls_recv(azri_tls *t, char *p, size_t n) {
    int r = t->port->p.recv(t->port->p.user, t->sock, p, n);
    t->dry = r == 0;
    if (r == 0) return MBEDTLS_ERR_SSL_WANT_READ;
    if (r == AZRI_EOF) return 0;
    if (r < 0) {
        t->io = r;
        return AZRI_TLS_LOST;
    }
    if (!t->heard) t->first = (unsigned char)p[0];
    t->heard = 1;
    return r;
}

/* mbedTLS asks for 5 bytes, then for the body: the read-ahead block makes one system call of many. It is
 * empty whenever mbedTLS says WANT_READ, so waiting for the socket is right then. */
static int azri_tls_bio_recv(void *user, unsigned char *p, size_t n) {
    azri_tls *t = (azri_tls *)user;
    t->port->p.yield(t->port->p.user);
    if (!AZRI_WITH_AHEAD) return azri_tls_recv(t, (char *)p, n);
    if (t->ahead_at == t->ahead_len) {
        t->dry = t->spent;
        t->spent = 0;
        if (t->dry) return MBEDTLS_ERR_SSL_WANT_READ;
        if (!t->ahead) t->ahead = (char *)azri_alloc(&t->port->mem, AZRI_TLS_AHEAD);
        if (!t->ahead) return azri_tls_recv(t, (char *)p, n);
        int r = azri_tls_recv(t, t->ahead, AZRI_TLS_AHEAD);
        if (r <= 0) return r;
        t->spent = (size_t)r < AZRI_TLS_AHEAD;
        t->ahead_at = 0;
        t->ahead_len = (size_t)r;
    }
    n = azri_minz(n, t->ahead_len - t->ahead_at);
    memcpy(p, t->ahead + t->ahead_at, n);
    t->ahead_at += n;
    return (int)n;
}

/* ---- errors -------------------------------------------------------------------------------------- */

/* Which checks failed; those of the handshake, which come after azri_tls_verify, are added here. */
static azredis_status azri_tls_fail_cert(azri_tls *t, azredis_error *e) {
    uint32_t flags = mbedtls_ssl_get_verify_result(&t->ssl);
    if (flags != UINT32_MAX && (flags & MBEDTLS_X509_BADCERT_EXT_KEY_USAGE))
        azri_tls_note(t, "not meant for TLS servers (extended key usage)");
    if (flags != UINT32_MAX && (flags & MBEDTLS_X509_BADCERT_KEY_USAGE))
        azri_tls_note(t, "its key may not be used for TLS (key usage)");
    return azri_fail(e, AZREDIS_E_CERT, t->conf.where, "certificate of %s refused: %s", t->name,
                     t->why[0] ? t->why : "it failed mbedTLS's checks");
}

/* RFC 8446 6. */
static const char *azri_tls_alert_text(int alert, int ready) {
    switch (alert) {
    case 40:  return ready ? "handshake_failure: it wanted another handshake, which we never make"
                     : "handshake_failure: no version, suite or curve in common, or it wants our certificate";
    case 70:  return AZRI_MBEDTLS >= 3 ? "protocol_version: it speaks neither TLS 1.2 nor 1.3"
                     : "protocol_version: it does not speak TLS 1.2, and mbedTLS 2 knows nothing newer";
    case 80:  return "internal_error: a fault of its own";
    case 112: return "unrecognized_name: it does not know this name; check host and tls_host";
    case 116: return "certificate_required: it wants a client certificate, which Azure's caches never do";
    default:  return "and broke off";
    }
}

static azredis_status azri_tls_fail_alert(azri_tls *t, azredis_error *e) {
    int alert = AZRI_IN_MSG(&t->ssl) ? AZRI_IN_MSG(&t->ssl)[1] : 0;
    (void)azri_fail(e, AZREDIS_E_TLS, t->conf.where, "TLS with %s: the server sent alert %d, %s", t->name,
                    alert, azri_tls_alert_text(alert, t->ready));
    if (e) e->retryable = alert != 116 && (t->ready || (alert != 40 && alert != 70 && alert != 112));
    return AZREDIS_E_TLS;
}

static azredis_status azri_tls_fail_other(azri_tls *t, azredis_error *e, int rc) {
    const char *name = t->name, *where = t->conf.where;
    if (azri_mbedtls_no_memory(rc))
        return azri_fail(e, AZREDIS_E_NOMEM, where, "TLS with %s: out of memory (mbedTLS -0x%04x)", name,
                         (unsigned)-rc);
    switch (rc) {
    case MBEDTLS_ERR_X509_CERT_VERIFY_FAILED:
    case MBEDTLS_ERR_X509_FATAL_ERROR:
    case -0x7A00:                    /* BAD_HS_CERTIFICATE in mbedTLS 2, BAD_CERTIFICATE later: key usage */
        return azri_tls_fail_cert(t, e);
    case MBEDTLS_ERR_X509_FILE_IO_ERROR:
        return azri_fail(e, AZREDIS_E_CERT, where, "certificate of %s: the roots in %s cannot be read", name,
                         azri_tls_roots_name(t));
    case -0x6E80:                    /* BAD_HS_PROTOCOL_VERSION in mbedTLS 2, BAD_PROTOCOL_VERSION later */
        return azri_fail(e, AZREDIS_E_TLS, where, "TLS with %s: the server wants a version older than TLS 1.2", name);
    case MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE:
        return azri_tls_fail_alert(t, e);
    case MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY:
        return azri_fail(e, AZREDIS_E_CLOSED, where, "TLS with %s: the server closed the connection", name);
    case 0:
    case MBEDTLS_ERR_SSL_CONN_EOF:
        return azri_fail(e, AZREDIS_E_CLOSED, where, "TLS with %s: the connection ended %s", name,
                         t->ready ? "without a TLS goodbye"
                                  : "in the handshake; a full server, a firewall, or not a TLS port");
    case -0x7700:                    /* UNEXPECTED_MESSAGE */
        (void)azri_fail(e, AZREDIS_E_TLS, where, t->ready ?
                        "TLS with %s: the server changed its keys (KeyUpdate), which mbedTLS does not know; connect again"
                        : "TLS with %s: a message out of turn in the handshake (mbedTLS -0x7700)", name);
        if (e) e->retryable = 1;
        return AZREDIS_E_TLS;
    case AZRI_TLS_NO_RNG:
        return azri_fail(e, AZREDIS_E_TLS, where, "TLS with %s: the system's random generator failed", name);
    default:
        if (-rc >= 0x2080 && -rc < 0x2a00)                        /* X509 */
            return azri_fail(e, AZREDIS_E_CERT, where, "certificate of %s refused: mbedTLS cannot read it or its issuer's%s "
                             "(mbedTLS -0x%04x)", name, (-rc & 0xff80) != 0x2500 ? "" :
                             ": a critical extension, such as name constraints, that it does not know", (unsigned)-rc);
        (void)azri_fail(e, AZREDIS_E_TLS, where, "TLS with %s: protocol error (mbedTLS -0x%04x)", name, (unsigned)-rc);
        if (e) e->retryable = 1;
        return AZREDIS_E_TLS;
    }
}

/* The connection is of no use any more: says why. rc 0 is the end of the stream. */
static azredis_status azri_tls_fail(azri_tls *t, azredis_error *e, int rc) {
    azredis_status st;
    char doing[300];
    AZRI_SAY(doing, sizeof doing, "%s with %s", t->ready ? "TLS" : "TLS handshake", t->name);
    /* 20 to 23: the record types of RFC 8446 5.1. */
    if (!t->ready && t->heard && (t->first < 20 || t->first > 23))
        st = azri_fail(e, AZREDIS_E_TLS, t->conf.where, "TLS with %s: the server does not answer in TLS: not a TLS "
                       "port; Managed Redis listens on 10000, classic caches on 6380", t->name);
    else if (rc == AZRI_TLS_LOST)
        st = azri_net_fail(e, t->conf.where, doing, t->io);
    else
        st = azri_tls_fail_other(t, e, rc);
    if (e) e->tls_code = rc == AZRI_TLS_LOST ? 0 : rc;
    t->ready = 0;
    return st;
}

/* WANT_READ and WANT_WRITE come from reads as well as from writes. */
static int azri_tls_again(azri_tls *t, int rc) {
    if (rc != MBEDTLS_ERR_SSL_WANT_READ && rc != MBEDTLS_ERR_SSL_WANT_WRITE) return 0;
    t->want = rc == MBEDTLS_ERR_SSL_WANT_READ ? AZRI_READ : AZRI_WRITE;
    return 1;
}

/* ---- open and close ------------------------------------------------------------------------------ */

/* Best effort goodbye, never blocking; frees everything. A closed one may be closed again. */
static void azri_tls_close(azri_tls *t) {
    if (!t->open) return;
    if (t->ready) (void)mbedtls_ssl_close_notify(&t->ssl);
    mbedtls_ssl_free(&t->ssl);
    mbedtls_ssl_config_free(&t->cfg);
    mbedtls_x509_crt_free(&t->no_roots);
    if (AZRI_WITH_AHEAD) azri_free(&t->port->mem, t->ahead, AZRI_TLS_AHEAD);
    if (AZRI_WITH_ENV) azri_strfree(&t->port->mem, t->ca_path);
    memset(t, 0, sizeof *t);
}

#ifdef AZREDIS_NO_OS
static azredis_status azri_tls_find_roots(azri_tls *t, azredis_error *e) {
    return azri_fail(e, AZREDIS_E_ARG, t->conf.where, "TLS roots: AZREDIS_NO_OS has no files: give ca, the root "
                     "certificates as PEM or DER in memory");
}
#else
static int azri_tls_readable(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    (void)fclose(f);
    return 1;
}

/* Which file has the roots. What the user named is never replaced by something else. */
static azredis_status azri_tls_find_roots(azri_tls *t, azredis_error *e) {
    static const char *const places[] = { AZRI_TLS_BUNDLES };
    const char *path = t->conf.ca_file, *by = "ca_file";
    if (!path) {
        by = "SSL_CERT_FILE";
        path = azri_getenv(by);
    }
    if (path && !azri_tls_readable(path))
        return azri_fail(e, AZREDIS_E_CERT, t->conf.where, "TLS roots: %s names %s, which cannot be read: %s",
                         by, path, azri_errno_text(errno));
    for (size_t i = 0; !path && i < sizeof places / sizeof places[0]; i++)
        if (azri_tls_readable(places[i])) path = places[i];
    if (!path) {
        (void)azri_fail(e, AZREDIS_E_CERT, t->conf.where, "TLS roots: no CA bundle; install ca-certificates, "
                        "or set ca_file or SSL_CERT_FILE; looked for");
        for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
            azri_fail_add(e, "%s %s", i ? "," : "", places[i]);
        return AZREDIS_E_CERT;
    }
    t->ca_path = azri_strdup(&t->port->mem, path);
    return t->ca_path ? AZREDIS_OK : azri_fail(e, AZREDIS_E_NOMEM, t->conf.where, "TLS roots: out of memory");
}
#endif

static int azri_tls_setup(azri_tls *t) {
    int rc = AZRI_PSA_INIT();
    if (rc == 0)
        rc = mbedtls_ssl_config_defaults(&t->cfg, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                         MBEDTLS_SSL_PRESET_DEFAULT);
    if (rc != 0) return rc;
    AZRI_CONF_RNG(&t->cfg, azri_tls_rng, t);
    mbedtls_ssl_conf_authmode(&t->cfg, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&t->cfg, &t->no_roots, NULL);
    mbedtls_ssl_conf_verify(&t->cfg, azri_tls_verify, t);
    azri_mbedtls_protocol(&t->cfg, t->conf.tls12);
    if (azri_tls_kept_of(t)) AZRI_CONF_TICKETS(&t->cfg);
    rc = mbedtls_ssl_setup(&t->ssl, &t->cfg);
    if (rc == 0) rc = mbedtls_ssl_set_hostname(&t->ssl, t->name);
    if (rc == 0) mbedtls_ssl_set_bio(&t->ssl, t, azri_tls_bio_send, azri_tls_bio_recv, NULL);
    if (rc == 0) azri_tls_offer(t);
    return rc;
}

/* mbedTLS 2.28 without a name verifies none: an empty name must never get that far. */
static azredis_status azri_tls_take_name(azri_tls *t, azredis_error *e) {
    size_t n = t->conf.name ? strlen(t->conf.name) : 0;
    if (n > 0 && t->conf.name[n - 1] == '.') n--;    /* certificates are written without it */
    if (n == 0 || n >= sizeof t->name)
        return azri_fail(e, AZREDIS_E_ARG, t->conf.where, "TLS: a name of 1 to 255 characters is needed to "
                         "verify the server; set host or tls_host");
    memcpy(t->name, t->conf.name, n);
    t->name[n] = '\0';
    return AZREDIS_OK;
}

/* No I/O on the socket yet. On failure *t is closed. */
static azredis_status azri_tls_open(azri_tls *t, const azri_port *port, const azri_tls_conf *c, intptr_t sock,
                                    azredis_error *e) {
    int rc;
    AZREDIS_ASSERT(!c->pin || !c->kept);             /* a session that is resumed shows no certificate */
    memset(t, 0, sizeof *t);
    t->port = port;
    t->conf = *c;
    t->sock = sock;
    t->open = 1;
    mbedtls_ssl_init(&t->ssl);
    mbedtls_ssl_config_init(&t->cfg);
    mbedtls_x509_crt_init(&t->no_roots);
    azredis_status st = azri_tls_take_name(t, e);
    if (st == AZREDIS_OK && !t->conf.ca && !t->conf.pin) st = azri_tls_find_roots(t, e);
    if (st == AZREDIS_OK) {
        rc = azri_tls_setup(t);
        if (rc != 0) st = azri_tls_fail(t, e, rc);
    }
    if (st != AZREDIS_OK) azri_tls_close(t);
    return st;
}

/* ---- handshake, read, write ---------------------------------------------------------------------- */

static azredis_status azri_tls_shaken(azri_tls *t, azredis_error *e) {
    /* With certificates required this cannot be; it is what all the rest stands on. */
    if (!t->verified && !t->offered) return azri_tls_fail(t, e, MBEDTLS_ERR_X509_CERT_VERIFY_FAILED);
    t->ready = 1;
    t->spent = 0;                       /* a ticket may have come behind the handshake */
    if (AZRI_WITH_RESUMPTION && azri_eqz(azri_str(mbedtls_ssl_get_version(&t->ssl)), "TLSv1.2")) azri_tls_keep(t);
    return AZREDIS_OK;
}

/* AGAIN: wait for t->want. After an error only azri_tls_close is allowed; t->again says whether to dial once more. */
static azredis_status azri_tls_handshake(azri_tls *t, azredis_error *e) {
    int rc = mbedtls_ssl_handshake(&t->ssl);
    if (rc == 0) return azri_tls_shaken(t, e);
    if (azri_tls_again(t, rc)) return AZREDIS_AGAIN;
    /* mbedTLS 3.6.6 and 4.1.0 refuse the RSA-PSS signature of a TLS 1.2 server that they asked for (its issue 10668). */
    t->tls12 = t->conf.tls12 || (AZRI_MBEDTLS >= 3 && rc == -0x6600 &&
                                 azri_eqz(azri_str(mbedtls_ssl_get_version(&t->ssl)), "TLSv1.2"));
    azredis_status st = azri_tls_fail(t, e, rc);
    t->again = t->tls12 > t->conf.tls12 || (t->offered && st == AZREDIS_E_TLS);
    if (t->offered) azri_tls_forget(t->conf.kept, &t->port->mem);
    return st;
}

/* 1: mbedTLS came back only because of a ticket of TLS 1.3, which is no error: call again. It does so twice, first
 * with WANT_READ though nobody asked the socket, and a write in between would then fail with the ticket's code. */
static int azri_tls_ticket(azri_tls *t, int rc) {
    if (rc != MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET) return rc == MBEDTLS_ERR_SSL_WANT_READ && !t->dry;
    t->opened++;
    azri_tls_keep(t);
    return 1;
}

/* E_CLOSED: the stream has ended; the message says whether the server said goodbye. */
static azredis_status azri_tls_read(azri_tls *t, char *p, size_t n, size_t *got, azredis_error *e) {
    int rc, fresh;
    AZREDIS_ASSERT(t->ready && n > 0);
    fresh = mbedtls_ssl_get_bytes_avail(&t->ssl) == 0;
    do {
        t->dry = 0;
        rc = mbedtls_ssl_read(&t->ssl, (unsigned char *)p, n);
    } while (azri_tls_ticket(t, rc));
    if (rc > 0) {
        *got = (size_t)rc;
        t->opened += (uint32_t)fresh;
        return AZREDIS_OK;
    }
    return azri_tls_again(t, rc) ? AZREDIS_AGAIN : azri_tls_fail(t, e, rc);
}

/* Takes at most one record. mbedTLS loses data silently if a write that it has begun is repeated with
 * another length, so after AGAIN the bytes are frozen; it has taken them, and they may stand elsewhere. */
static azredis_status azri_tls_write(azri_tls *t, const char *p, size_t n, size_t *put, azredis_error *e) {
    AZREDIS_ASSERT(t->ready && n > 0);
    AZREDIS_ASSERT(!t->frozen || n == t->frozen_n);
    int rc = mbedtls_ssl_write(&t->ssl, (const unsigned char *)p, n);
    t->frozen = 0;
    if (rc > 0) {
        *put = (size_t)rc;
        t->sealed++;
        return AZREDIS_OK;
    }
    if (!azri_tls_again(t, rc)) return azri_tls_fail(t, e, rc);
    t->frozen = 1;
    t->frozen_n = n;
    return AZREDIS_AGAIN;
}

/* Records under one key since the handshake, of the busier direction: to be replaced before AZRI_TLS_RECORDS_MAX. */
static uint32_t azri_tls_records(const azri_tls *t) { return t->sealed > t->opened ? t->sealed : t->opened; }

/* 1: azri_tls_read has something without the socket: do not sleep. */
static int azri_tls_pending(const azri_tls *t) {
    return t->open && ((AZRI_WITH_AHEAD && t->ahead_at < t->ahead_len) || mbedtls_ssl_get_bytes_avail(&t->ssl) > 0);
}

/* Behind a read that gave something: 1 if the next would come back empty, once. */
static int azri_tls_dry(azri_tls *t) {
    if (!AZRI_WITH_AHEAD || !t->spent || azri_tls_pending(t)) return 0;
    t->spent = 0;
    return 1;
}

/* A quiet connection holds no read-ahead block. */
static void azri_tls_idle(azri_tls *t) {
    if (!AZRI_WITH_AHEAD || t->ahead_at < t->ahead_len) return;
    azri_free(&t->port->mem, t->ahead, AZRI_TLS_AHEAD);
    t->ahead = NULL;
}

#ifndef AZREDIS_NO_CERTIFICATE
/* ==== >>pfx =============================================================== uses: core mem fail text mbedtls
 * PKCS#12 (RFC 7292), and keys that a password encrypts (RFC 5958): mbedTLS reads no such file, and 2.28 no key that
 * OpenSSL 3 writes. Strict DER over slices, each length checked; the file may be anybody's.
 * Entry points: azri_pfx_load, azri_chain_add.
 * ================================================================================================ */
#define AZRI_KEY_WHERE     "certificate"
#define AZRI_PASSWORD_MAX  128u      /* of a file, in bytes of UTF-8; as UTF-16 it is on the stack */
#define AZRI_PBE_BLOCK_MAX 16u
#define AZRI_KEY_ROOM      (AZRI_KEY_FILE_MAX + AZRI_PBE_BLOCK_MAX)  /* of each buffer: a file and its NUL or padding */
#define AZRI_PBE_SALT_MAX  64u       /* OpenSSL writes 8 or 16, Windows 8 or 20 */

enum { AZRI_DER_INTEGER = 0x02, AZRI_DER_OCTETS = 0x04, AZRI_DER_OID = 0x06, AZRI_DER_SEQUENCE = 0x30,
       AZRI_DER_IMPLICIT = 0x80, AZRI_DER_EXPLICIT = 0xa0 };

/* One element of this tag from the front of *in, which then begins behind it. 0: there is none. */
static int azri_der(azredis_str *in, int tag, azredis_str *value) {
    const unsigned char *p = (const unsigned char *)in->ptr;
    size_t head = 2, n, i;
    if (in->len < head || p[0] != tag || p[1] == 0x80) return 0;
    n = p[1];
    if (n > 0x80) {                  /* so many bytes of length follow; with three it is longer than any file here */
        head += n - 0x80;
        if (head > 5 || in->len < head) return 0;
        for (i = 2, n = 0; i < head; i++) n = n << 8 | p[i];
        if (n < 0x80 || n >> (8 * (head - 3)) == 0) return 0;
    }
    if (n > in->len - head) return 0;
    *value = azri_slice(in->ptr + head, n);
    *in = azri_slice(in->ptr + head + n, in->len - head - n);
    return 1;
}

static int azri_der_int(azredis_str *in, uint32_t *v) {
    azredis_str s;
    size_t i;
    if (!azri_der(in, AZRI_DER_INTEGER, &s) || s.len == 0 || s.len > 4 || (s.ptr[0] & 0x80)) return 0;
    for (i = 0, *v = 0; i < s.len; i++) *v = *v << 8 | (unsigned char)s.ptr[i];
    return 1;
}

/* AlgorithmIdentifier. parameters: as they stand, with their tag. */
static int azri_der_algorithm(azredis_str *in, azredis_str *oid, azredis_str *parameters) {
    return azri_der(in, AZRI_DER_SEQUENCE, parameters) && azri_der(parameters, AZRI_DER_OID, oid);
}

/* ---- encryption by a password: PBES2 (RFC 8018), and of PKCS#12's own ways the one with 3DES ---------- */

#define AZRI_OID_RSA  "\x2a\x86\x48\x86\xf7\x0d"     /* 1.2.840.113549 */
#define AZRI_OID_NIST "\x60\x86\x48\x01\x65\x03\x04" /* 2.16.840.1.101.3.4 */

enum { AZRI_OID_HASH, AZRI_OID_PRF, AZRI_OID_CIPHER };

/* What is said of an algorithm in mbedTLS's number; 0: unknown. */
static int azri_oid(azredis_str oid, int kind) {
    static const struct { const char *name; uint8_t use, is; } known[] = {
        { "\x2b\x0e\x03\x02\x1a", AZRI_OID_HASH, MBEDTLS_MD_SHA1 },
        { AZRI_OID_NIST "\x02\x01", AZRI_OID_HASH, MBEDTLS_MD_SHA256 },
        { AZRI_OID_NIST "\x02\x02", AZRI_OID_HASH, MBEDTLS_MD_SHA384 },
        { AZRI_OID_NIST "\x02\x03", AZRI_OID_HASH, MBEDTLS_MD_SHA512 },
        { AZRI_OID_RSA "\x02\x07", AZRI_OID_PRF, MBEDTLS_MD_SHA1 },
        { AZRI_OID_RSA "\x02\x09", AZRI_OID_PRF, MBEDTLS_MD_SHA256 },
        { AZRI_OID_RSA "\x02\x0a", AZRI_OID_PRF, MBEDTLS_MD_SHA384 },
        { AZRI_OID_RSA "\x02\x0b", AZRI_OID_PRF, MBEDTLS_MD_SHA512 },
        { AZRI_OID_NIST "\x01\x02", AZRI_OID_CIPHER, MBEDTLS_CIPHER_AES_128_CBC },
        { AZRI_OID_NIST "\x01\x16", AZRI_OID_CIPHER, MBEDTLS_CIPHER_AES_192_CBC },
        { AZRI_OID_NIST "\x01\x2a", AZRI_OID_CIPHER, MBEDTLS_CIPHER_AES_256_CBC },
        { AZRI_OID_RSA "\x03\x07", AZRI_OID_CIPHER, MBEDTLS_CIPHER_DES_EDE3_CBC }
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].use == kind && azri_eqz(oid, known[i].name)) return known[i].is;
    return 0;
}

typedef struct azri_pbe {
    int         hash, cipher;        /* mbedTLS's numbers */
    int         pkcs12;              /* 1: key and IV by PKCS#12's own derivation; 0: the key by PBKDF2 */
    uint32_t    rounds;
    azredis_str salt, iv;
} azri_pbe;

typedef struct azri_pfx {
    azredis_error *error;
    const char    *mend;             /* the command that writes such a file in a way that can be read */
    azredis_str    password;         /* UTF-8 */
    int            none;             /* 1: PKCS#12's own derivation gets no password, instead of an empty one */
    uint32_t       rounds;           /* that may still be done */
    int            opened;           /* parts that the password has decrypted */
    azri_buf       plain;            /* one of them */
    azri_buf      *key, *chain;
} azri_pfx;

static azredis_status azri_key_refuse(azredis_error *e, const char *why) {
    return azri_fail(e, AZREDIS_E_ARG, AZRI_KEY_WHERE, "certificate: %s", why);
}

/* st: of a buffer, or of mbedTLS. */
static azredis_status azri_key_no_room(azredis_error *e, int st) {
    if (st != AZREDIS_E_LIMIT) return azri_fail(e, AZREDIS_E_NOMEM, AZRI_KEY_WHERE, "certificate: out of memory");
    return azri_fail(e, AZREDIS_E_LIMIT, AZRI_KEY_WHERE, "certificate: it has more than %u bytes", AZRI_KEY_FILE_MAX);
}

static azredis_status azri_pfx_damaged(azri_pfx *p) {
    return azri_fail(p->error, AZREDIS_E_ARG, AZRI_KEY_WHERE, "certificate: it is damaged or cut off, or not in DER; "
                     "fetch it again, or write it anew: %s", p->mend);
}

static azredis_status azri_key_not_opened(azredis_error *e, int has_password) {
    return azri_fail(e, AZREDIS_E_ARG, AZRI_KEY_WHERE, "certificate: %s: AZURE_CLIENT_CERTIFICATE_PASSWORD, or option "
                     "certificate_password", has_password ? "its password is wrong" : "it is encrypted; give its password");
}

/* oid: of a way to encrypt that is not read here. */
static azredis_status azri_pbe_refuse(azri_pfx *p, azredis_str oid) {
    const char *by = azri_eqz(oid, AZRI_OID_RSA "\x01\x0c\x01\x06") ? "RC2" : "something unknown";
    if (azri_eqz(oid, AZRI_OID_RSA "\x03\x07") || azri_eqz(oid, AZRI_OID_RSA "\x01\x0c\x01\x03"))
        by = "3DES, which needs AZREDIS_LEGACY_PKCS12";
    return azri_fail(p->error, AZREDIS_E_ARG, AZRI_KEY_WHERE, "certificate: it is encrypted by %s; AES by PBES2 can be "
                     "read, and is written by: %s", by, p->mend);
}

/* From AlgorithmIdentifier to b. */
static azredis_status azri_pbe_read(azri_pfx *p, azredis_str *in, azri_pbe *b) {
    azredis_str oid, all, list, kdf, cipher, iv, prf = azri_str(AZRI_OID_RSA "\x02\x07"), none;
    uint32_t key_len;
    int ok;
    memset(b, 0, sizeof *b);
    if (!azri_der_algorithm(in, &oid, &all) || !azri_der(&all, AZRI_DER_SEQUENCE, &list)) return azri_pfx_damaged(p);
    b->pkcs12 = AZRI_WITH_LEGACY_PKCS12 && azri_eqz(oid, AZRI_OID_RSA "\x01\x0c\x01\x03");
    if (b->pkcs12) {                 /* pbeWithSHAAnd3-KeyTripleDES-CBC */
        b->hash = MBEDTLS_MD_SHA1;
        b->cipher = MBEDTLS_CIPHER_DES_EDE3_CBC;
        ok = azri_der(&list, AZRI_DER_OCTETS, &b->salt) && azri_der_int(&list, &b->rounds);
    } else {
        if (!azri_eqz(oid, AZRI_OID_RSA "\x01\x05\x0d")) return azri_pbe_refuse(p, oid);
        if (!azri_der_algorithm(&list, &oid, &all) || !azri_der_algorithm(&list, &cipher, &iv))
            return azri_pfx_damaged(p);
        if (!azri_eqz(oid, AZRI_OID_RSA "\x01\x05\x0c")) return azri_pbe_refuse(p, oid);
        ok = azri_der(&all, AZRI_DER_SEQUENCE, &kdf) && azri_der(&kdf, AZRI_DER_OCTETS, &b->salt) &&
             azri_der_int(&kdf, &b->rounds) && azri_der(&iv, AZRI_DER_OCTETS, &b->iv);
        if (ok && kdf.len && kdf.ptr[0] == AZRI_DER_INTEGER) ok = azri_der_int(&kdf, &key_len);
        if (ok && kdf.len) ok = azri_der_algorithm(&kdf, &prf, &none);
        b->hash = azri_oid(prf, AZRI_OID_PRF);
        b->cipher = azri_oid(cipher, AZRI_OID_CIPHER);
        if (!AZRI_WITH_LEGACY_PKCS12 && b->cipher == MBEDTLS_CIPHER_DES_EDE3_CBC) b->cipher = 0;
        if (ok && (!b->hash || !b->cipher)) return azri_pbe_refuse(p, cipher);
    }
    return ok && b->salt.len <= AZRI_PBE_SALT_MAX && b->rounds > 0 ? AZREDIS_OK : azri_pfx_damaged(p);
}

static azredis_status azri_pbe_count(azri_pfx *p, uint32_t rounds) {
    if (rounds > p->rounds)
        return azri_fail(p->error, AZREDIS_E_LIMIT, AZRI_KEY_WHERE, "certificate: its password is hashed too often (%u "
                         "more, of %u for the file); openssl's option -iter 10000 writes less", (unsigned)rounds,
                         AZRI_PBE_ROUNDS);
    p->rounds -= rounds;
    return AZREDIS_OK;
}

/* RFC 8018 5.2, with HMAC. */
static int azri_pbkdf2(const azri_pfx *p, const azri_pbe *b, unsigned char *out, size_t n) {
    const mbedtls_md_info_t *info = mbedtls_md_info_from_type((mbedtls_md_type_t)b->hash);
    unsigned char u[64], count[4] = { 0, 0, 0, 0 };
    size_t len = mbedtls_md_get_size(info), i, k;
    mbedtls_md_context_t c;
    mbedtls_md_init(&c);
    int rc = mbedtls_md_setup(&c, info, 1);
    if (rc == 0) rc = mbedtls_md_hmac_starts(&c, (const unsigned char *)p->password.ptr, p->password.len);
    for (i = 0; i < n && rc == 0; i += len) {
        count[3]++;
        memset(out + i, 0, azri_minz(len, n - i));
        rc = mbedtls_md_hmac_update(&c, (const unsigned char *)b->salt.ptr, b->salt.len);
        if (rc == 0) rc = mbedtls_md_hmac_update(&c, count, sizeof count);
        for (uint32_t r = 0; r < b->rounds && rc == 0; r++) {
            if (r > 0) rc = mbedtls_md_hmac_update(&c, u, len);
            if (rc == 0) rc = mbedtls_md_hmac_finish(&c, u);
            if (rc == 0) rc = mbedtls_md_hmac_reset(&c);
            for (k = 0; k < len && i + k < n; k++) out[i + k] ^= u[k];
        }
    }
    mbedtls_md_free(&c);
    azri_wipe(u, sizeof u);
    return rc;
}

/* The password in UTF-16, big-endian, with a NUL; returns the length. What is not UTF-8 gives some other password. */
static size_t azri_pfx_utf16(azredis_str s, unsigned char *out) {
    size_t i, n = 0, more;
    uint32_t c;
    for (i = 0; i <= s.len; i++) {
        c = i < s.len ? (unsigned char)s.ptr[i] : 0;
        more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
        if (more > 0 && s.len - i > more)
            for (c &= 0x3fu >> more; more > 0; more--) c = c << 6 | ((unsigned char)s.ptr[++i] & 0x3fu);
        if (c >= 0x10000) {
            out[n++] = (unsigned char)(0xd8 | ((c - 0x10000) >> 18 & 3));
            out[n++] = (unsigned char)((c - 0x10000) >> 10 & 0xff);
            c = 0xdc00 | (c & 0x3ff);
        }
        out[n++] = (unsigned char)(c >> 8 & 0xff);
        out[n++] = (unsigned char)(c & 0xff);
    }
    return n;
}

/* Fills to + [0, whole blocks of v) with what repeats; returns the end. */
static size_t azri_kdf12_fill(unsigned char *to, size_t at, size_t v, const void *what, size_t n) {
    size_t i, end = at + (n + v - 1) / v * v;
    for (i = 0; at + i < end; i++) to[at + i] = ((const unsigned char *)what)[i % n];
    return end;
}

/* RFC 7292 B.2. id: 1 key, 2 IV, 3 key of the MAC. */
static AZRI_APART int azri_kdf12(const azri_pfx *p, const azri_pbe *b, unsigned char id, unsigned char *out, size_t n) {
    const mbedtls_md_info_t *info = mbedtls_md_info_from_type((mbedtls_md_type_t)b->hash);
    unsigned char utf16[2 * AZRI_PASSWORD_MAX + 2], x[128 + 128 + 3 * 128], a[64];
    size_t u = mbedtls_md_get_size(info), v = u > 32 ? 128 : 64, len, i, j, k;
    unsigned sum;
    mbedtls_md_context_t c;
    len = azri_kdf12_fill(x, 0, v, &id, 1);
    len = azri_kdf12_fill(x, len, v, b->salt.ptr, b->salt.len);
    if (!p->none) len = azri_kdf12_fill(x, len, v, utf16, azri_pfx_utf16(p->password, utf16));
    mbedtls_md_init(&c);
    int rc = mbedtls_md_setup(&c, info, 0);
    for (i = 0; i < n && rc == 0; i += u) {
        for (uint32_t r = 0; r < b->rounds && rc == 0; r++) {
            rc = mbedtls_md_starts(&c);
            if (rc == 0) rc = mbedtls_md_update(&c, r ? a : x, r ? u : len);
            if (rc == 0) rc = mbedtls_md_finish(&c, a);
        }
        memcpy(out + i, a, azri_minz(u, n - i));
        for (j = v; j < len; j += v)
            for (k = v, sum = 1; k > 0; k--) {
                sum += (unsigned)x[j + k - 1] + a[(k - 1) % u];
                x[j + k - 1] = (unsigned char)(sum & 0xff);
                sum >>= 8;
            }
    }
    mbedtls_md_free(&c);
    azri_wipe(utf16, sizeof utf16);
    azri_wipe(x, sizeof x);
    azri_wipe(a, sizeof a);
    return rc;
}

/* Is text a SEQUENCE and padding behind it? Then it is cut. A wrong key does not get that far. */
static int azri_pbe_unpad(azri_buf *text, size_t block) {
    azredis_str in = azri_slice(text->ptr, text->len), value;
    if (!azri_der(&in, AZRI_DER_SEQUENCE, &value) || in.len == 0 || in.len > block) return 0;
    for (size_t i = 0; i < in.len; i++)
        if ((unsigned char)in.ptr[i] != in.len) return 0;
    text->len -= in.len;
    return 1;
}

static int azri_pbe_crypt(const azri_pfx *p, const azri_pbe *b, mbedtls_cipher_context_t *c, azredis_str in,
                          azri_buf *out) {
    unsigned char key[32], iv[16];
    size_t n = (size_t)mbedtls_cipher_get_key_bitlen(c) / 8, iv_len = (size_t)mbedtls_cipher_get_iv_size(c);
    int rc;
    if (b->pkcs12) {
        rc = azri_kdf12(p, b, 1, key, n);
        if (rc == 0) rc = azri_kdf12(p, b, 2, iv, iv_len);
    } else {
        memcpy(iv, b->iv.ptr, iv_len);
        rc = azri_pbkdf2(p, b, key, n);
    }
    if (rc == 0) rc = mbedtls_cipher_setkey(c, key, (int)(8 * n), MBEDTLS_DECRYPT);
    if (rc == 0) rc = mbedtls_cipher_set_padding_mode(c, MBEDTLS_PADDING_NONE);
    if (rc == 0)
        rc = mbedtls_cipher_crypt(c, iv, iv_len, (const unsigned char *)in.ptr, in.len, (unsigned char *)out->ptr,
                                  &out->len);
    azri_wipe(key, sizeof key);
    azri_wipe(iv, sizeof iv);
    return rc;
}

/* *in: AlgorithmIdentifier, and what it encrypts as an element of this tag. */
static azredis_status azri_pbe_open(azri_pfx *p, azredis_str in, int tag, azri_buf *out) {
    mbedtls_cipher_context_t c;
    azredis_str text;
    azri_pbe b;
    azredis_status st = azri_pbe_read(p, &in, &b);
    if (st == AZREDIS_OK && !azri_der(&in, tag, &text)) st = azri_pfx_damaged(p);
    if (st == AZREDIS_OK) st = azri_pbe_count(p, b.rounds);
    if (st != AZREDIS_OK) return st;
    out->len = 0;
    st = azri_buf_reserve(out, text.len + AZRI_PBE_BLOCK_MAX);
    if (st != AZREDIS_OK) return azri_key_no_room(p->error, st);
    mbedtls_cipher_init(&c);
    int rc = mbedtls_cipher_setup(&c, mbedtls_cipher_info_from_type((mbedtls_cipher_type_t)b.cipher));
    size_t block = rc == 0 ? mbedtls_cipher_get_block_size(&c) : 1;
    if (rc == 0 && (text.len == 0 || text.len % block || (!b.pkcs12 && b.iv.len != block))) st = azri_pfx_damaged(p);
    else if (rc == 0) rc = azri_pbe_crypt(p, &b, &c, text, out);
    mbedtls_cipher_free(&c);
    if (azri_mbedtls_no_memory(rc)) return azri_key_no_room(p->error, rc);
    if (rc != 0) return azri_pbe_refuse(p, azri_str(""));      /* this mbedTLS has not the hash or the cipher */
    if (st == AZREDIS_OK && !azri_pbe_unpad(out, block)) st = azri_key_not_opened(p->error, p->password.len > 0);
    p->opened += st == AZREDIS_OK;
    return st;
}

/* ---- PKCS#12 --------------------------------------------------------------------------------------- */

#define AZRI_OID_PKCS7 AZRI_OID_RSA "\x01\x07"
#define AZRI_OID_BAG   AZRI_OID_RSA "\x01\x0c\x0a\x01"

/* Behind its length, 4 bytes big-endian. */
static azredis_status azri_chain_add(azri_buf *chain, azredis_str der) {
    unsigned char head[AZRI_CHAIN_HEAD];
    azredis_status st = azri_buf_reserve(chain, sizeof head + der.len);
    if (st != AZREDIS_OK) return st;
    for (size_t i = 0; i < sizeof head; i++) head[i] = (unsigned char)(der.len >> (8 * (sizeof head - 1 - i)) & 0xff);
    (void)azri_buf_add(chain, head, sizeof head);
    return azri_buf_add(chain, der.ptr, der.len);
}

/* value: what stands in the bag. The first key counts; bags of other kinds are passed over. */
static azredis_status azri_pfx_bag(azri_pfx *p, azredis_str oid, azredis_str value) {
    azredis_status st = AZREDIS_OK;
    azredis_str all = value, bag, kind, der;
    if (azri_eqz(oid, AZRI_OID_BAG "\x03")) {
        if (!azri_der(&all, AZRI_DER_SEQUENCE, &bag) || !azri_der(&bag, AZRI_DER_OID, &kind) ||
            !azri_der(&bag, AZRI_DER_EXPLICIT, &all) || !azri_der(&all, AZRI_DER_OCTETS, &der))
            return azri_pfx_damaged(p);
        if (azri_eqz(kind, AZRI_OID_RSA "\x01\x09\x16\x01")) st = azri_chain_add(p->chain, der);    /* X.509 */
    } else if (azri_eqz(oid, AZRI_OID_BAG "\x01") && p->key->len == 0) {
        st = azri_buf_add(p->key, value.ptr, value.len);
    } else if (azri_eqz(oid, AZRI_OID_BAG "\x02") && p->key->len == 0) {
        if (!azri_der(&all, AZRI_DER_SEQUENCE, &bag)) return azri_pfx_damaged(p);
        return azri_pbe_open(p, bag, AZRI_DER_OCTETS, p->key);
    }
    return st == AZREDIS_OK ? st : azri_key_no_room(p->error, st);
}

/* Both AuthenticatedSafe and the SafeContents in it are a SEQUENCE OF pairs: what it is, and the thing itself. */
static azredis_status azri_pfx_each(azri_pfx *p, azredis_str in,
                                    azredis_status (*one)(azri_pfx *p, azredis_str oid, azredis_str value)) {
    azredis_str all, pair, oid, value;
    azredis_status st = AZREDIS_OK;
    if (!azri_der(&in, AZRI_DER_SEQUENCE, &all) || in.len) return azri_pfx_damaged(p);
    while (all.len && st == AZREDIS_OK) {
        if (!azri_der(&all, AZRI_DER_SEQUENCE, &pair) || !azri_der(&pair, AZRI_DER_OID, &oid) ||
            !azri_der(&pair, AZRI_DER_EXPLICIT, &value))
            return azri_pfx_damaged(p);
        st = one(p, oid, value);
    }
    return st;
}

/* One ContentInfo of the AuthenticatedSafe. */
static azredis_status azri_pfx_safe(azri_pfx *p, azredis_str oid, azredis_str value) {
    azredis_str all, content;
    uint32_t version;
    if (azri_eqz(oid, AZRI_OID_PKCS7 "\x01"))
        return azri_der(&value, AZRI_DER_OCTETS, &content) ? azri_pfx_each(p, content, azri_pfx_bag)
                                                           : azri_pfx_damaged(p);
    if (!azri_eqz(oid, AZRI_OID_PKCS7 "\x06")) return azri_pbe_refuse(p, oid);      /* for a public key */
    if (!azri_der(&value, AZRI_DER_SEQUENCE, &all) || !azri_der_int(&all, &version) ||
        !azri_der(&all, AZRI_DER_SEQUENCE, &content) || !azri_der(&content, AZRI_DER_OID, &oid))
        return azri_pfx_damaged(p);
    azredis_status st = azri_pbe_open(p, content, AZRI_DER_IMPLICIT, &p->plain);
    return st == AZREDIS_OK ? azri_pfx_each(p, azri_slice(p->plain.ptr, p->plain.len), azri_pfx_bag) : st;
}

/* Is it the MAC of safes? 0, or an mbedTLS code; *differs is not 0 if it is not. */
static int azri_pfx_mac(const azri_pfx *p, const azri_pbe *b, azredis_str safes, azredis_str digest,
                        unsigned *differs) {
    const mbedtls_md_info_t *info = mbedtls_md_info_from_type((mbedtls_md_type_t)b->hash);
    unsigned char key[64], is[64];
    size_t n = mbedtls_md_get_size(info), i;
    int rc = azri_kdf12(p, b, 3, key, n);
    if (rc == 0) rc = mbedtls_md_hmac(info, key, n, (const unsigned char *)safes.ptr, safes.len, is);
    azri_wipe(key, sizeof key);
    *differs = digest.len != n;
    if (rc != 0 || *differs) return rc;
    for (i = 0; i < n; i++) *differs |= is[i] ^ (unsigned char)digest.ptr[i];
    return 0;
}

/* in: MacData, or nothing where a file has no MAC. An empty password has two forms: p->none tells which one fits. */
static azredis_status azri_pfx_check(azri_pfx *p, azredis_str in, azredis_str safes, unsigned *differs) {
    azredis_str mac, info, oid, parameters, digest;
    azri_pbe b;
    azredis_status st;
    int rc = 0;
    *differs = 0;
    if (in.len == 0) return AZREDIS_OK;
    memset(&b, 0, sizeof b);
    b.rounds = 1;
    if (!azri_der(&in, AZRI_DER_SEQUENCE, &mac) || in.len || !azri_der(&mac, AZRI_DER_SEQUENCE, &info) ||
        !azri_der_algorithm(&info, &oid, &parameters) || !azri_der(&info, AZRI_DER_OCTETS, &digest) ||
        !azri_der(&mac, AZRI_DER_OCTETS, &b.salt) || b.salt.len > AZRI_PBE_SALT_MAX ||
        (mac.len && !azri_der_int(&mac, &b.rounds)) || b.rounds == 0)
        return azri_pfx_damaged(p);
    b.hash = azri_oid(oid, AZRI_OID_HASH);
    if (!b.hash) return azri_pbe_refuse(p, oid);
    do {
        st = azri_pbe_count(p, b.rounds);
        if (st == AZREDIS_OK) rc = azri_pfx_mac(p, &b, safes, digest, differs);
    } while (st == AZREDIS_OK && rc == 0 && *differs && p->password.len == 0 && !p->none++);
    if (azri_mbedtls_no_memory(rc)) return azri_key_no_room(p->error, rc);
    return rc ? azri_pbe_refuse(p, oid) : st;
}

/* in: PFX. A MAC that differs means a wrong password as well as a damaged file: if the password opens parts of it, it
 * is the file. */
static azredis_status azri_pfx_read(azri_pfx *p, azredis_str in) {
    azredis_str pfx, auth, oid, content, safes;
    uint32_t version;
    unsigned differs;
    if (!azri_der(&in, AZRI_DER_SEQUENCE, &pfx) || in.len || !azri_der_int(&pfx, &version) || version != 3 ||
        !azri_der(&pfx, AZRI_DER_SEQUENCE, &auth) || !azri_der(&auth, AZRI_DER_OID, &oid) ||
        !azri_eqz(oid, AZRI_OID_PKCS7 "\x01") || !azri_der(&auth, AZRI_DER_EXPLICIT, &content) ||
        !azri_der(&content, AZRI_DER_OCTETS, &safes))
        return azri_pfx_damaged(p);
    azredis_status st = azri_pfx_check(p, pfx, safes, &differs);
    if (st == AZREDIS_OK) st = azri_pfx_each(p, safes, azri_pfx_safe);
    if (!differs || st == AZREDIS_E_NOMEM || st == AZREDIS_E_LIMIT) return st;
    return p->opened ? azri_pfx_damaged(p) : azri_key_not_opened(p->error, p->password.len > 0);
}

/* PKCS#12: the key as PKCS#8 into key, which stays empty if there is none, and the certificates behind those of chain.
 * Without chain it is EncryptedPrivateKeyInfo, a key alone. */
static azredis_status azri_pfx_load(const azri_mem *m, azredis_str in, const char *password, azri_buf *key,
                                    azri_buf *chain, azredis_error *e) {
    azri_pfx p;
    azredis_str info;
    azredis_status st;
    memset(&p, 0, sizeof p);
    p.error = e;
    p.mend = chain ? "openssl pkcs12 -legacy -in OLD -aes256 -out NEW.pem"
                   : "openssl pkcs8 -topk8 -in OLD -v2 aes-256-cbc -out NEW";
    p.password = azri_str(password ? password : "");
    p.rounds = AZRI_PBE_ROUNDS;
    p.key = key;
    p.chain = chain;
    azri_buf_init(&p.plain, m, AZRI_KEY_ROOM, 1);
    if (p.password.len > AZRI_PASSWORD_MAX)
        st = azri_fail(e, AZREDIS_E_LIMIT, AZRI_KEY_WHERE, "certificate: its password has over %u bytes",
                       AZRI_PASSWORD_MAX);
    else if (chain) st = azri_pfx_read(&p, in);
    else if (!azri_der(&in, AZRI_DER_SEQUENCE, &info) || in.len) st = azri_pfx_damaged(&p);
    else st = azri_pbe_open(&p, info, AZRI_DER_OCTETS, key);
    azri_buf_free(&p.plain);
    return st;
}

/* ==== >>sign ============================================================== uses: core mem fail text certificate port mbedtls pfx
 * The certificate of a service principal: what people keep it in is read, and its key signs. Whoever calls holds
 * azri_tls_enter. Nothing here is I/O.
 * Entry points: azri_key_load, azri_chain_load, azri_key_sign, azri_key_free.
 * ================================================================================================ */
#ifndef AZRI_RSA_BITS_MIN
#  define AZRI_RSA_BITS_MIN 2048u      /* Entra takes no shorter key; mbedTLS has room for its longest, 4096 */
#endif

typedef struct azri_key {            /* zeroed but port: none */
    const azri_port   *port;         /* of the caller: its entropy is the salt of PS256, and blinds */
    int                open;         /* 1: there is something to free */
    mbedtls_pk_context pk;
    azri_buf           chain;        /* see azri_key_load */
} azri_key;

enum { AZRI_SIGN_PS256, AZRI_SIGN_RS256 };

static int azri_key_rng(void *user, unsigned char *out, size_t n) {
    const azri_port *port = ((const azri_key *)user)->port;
    return port->p.entropy(port->p.user, out, n) == 0 ? 0 : MBEDTLS_ERR_RSA_RNG_FAILED;
}

/* ---- PEM (RFC 7468): what stands outside of BEGIN and END is a comment ----------------------------- */

typedef struct azri_pem { azredis_str label, body, whole; } azri_pem;

/* The next block of *text, which then begins behind it. 0: none, or one without an end. */
static int azri_pem_next(azredis_str *text, azri_pem *b) {
    static const char begin[] = "-----BEGIN ", end[] = "-----END ", dashes[] = "-----";
    size_t n = azri_find_text(*text, azri_str(begin));
    if (n == text->len) return 0;
    b->whole = azri_from(*text, n);
    azredis_str rest = azri_from(b->whole, sizeof begin - 1);
    n = azri_find_text(rest, azri_str(dashes));
    if (n == rest.len) return 0;
    b->label = azri_slice(rest.ptr, n);
    rest = azri_from(rest, n + sizeof dashes - 1);
    n = azri_find_text(rest, azri_str(end));
    if (n == rest.len) return 0;
    b->body = azri_slice(rest.ptr, n);
    rest = azri_from(rest, n + sizeof end - 1);
    n = azri_find_text(rest, azri_str(dashes));
    if (n == rest.len || !azri_eq(b->label, azri_slice(rest.ptr, n))) return 0;
    *text = azri_from(rest, n + sizeof dashes - 1);
    b->whole.len = (size_t)(text->ptr - b->whole.ptr);
    return 1;
}

/* rest: where azri_pem_next found nothing more. */
static azredis_status azri_pem_end(azredis_str rest, azredis_error *e) {
    if (azri_find_text(rest, azri_str("-----BEGIN ")) == rest.len) return AZREDIS_OK;
    return azri_key_refuse(e, "a -----BEGIN in it has no -----END: it is cut off, or still being written");
}

/* Behind what out has. */
static azredis_status azri_pem_decode(azredis_str body, azri_buf *out) {
    azredis_status st = azri_buf_reserve(out, body.len + 1);
    size_t i, n = 0;
    if (st != AZREDIS_OK) return st;
    char *p = out->ptr + out->len;
    for (i = 0; i < body.len; i++)
        if (azri_find(azri_str("\r\n\t "), body.ptr[i]) == 4) p[n++] = body.ptr[i];
    if (!azri_b64_decode(azri_slice(p, n), "+/", p, &n)) return AZREDIS_E_ARG;
    out->len += n;
    return AZREDIS_OK;
}

/* ---- chain: certificates as DER, each behind its length ---------------------------------------------- */

static azredis_status azri_chain_pem(azri_buf *chain, azri_buf *scratch, azredis_str text, azredis_error *e) {
    azri_pem b;
    azredis_status st = AZREDIS_OK;
    while (st == AZREDIS_OK && azri_pem_next(&text, &b)) {
        if (!azri_eqz(b.label, "CERTIFICATE")) continue;
        scratch->len = 0;
        st = azri_pem_decode(b.body, scratch);
        if (st == AZREDIS_OK) st = azri_chain_add(chain, azri_slice(scratch->ptr, scratch->len));
    }
    if (st == AZREDIS_E_ARG) return azri_key_refuse(e, "a certificate in it is not base64");
    return st == AZREDIS_OK ? azri_pem_end(text, e) : azri_key_no_room(e, st);
}

/* der: gets the key, if it is PKCS#12. */
static azredis_status azri_chain_read(azri_buf *chain, azri_buf *der, azredis_str in, const char *password,
                                      azredis_error *e) {
    azredis_str rest = in, value;
    int whole = azri_der(&rest, AZRI_DER_SEQUENCE, &value);
    azredis_status st;
    if (in.len > AZRI_KEY_FILE_MAX) return azri_key_no_room(e, AZREDIS_E_LIMIT);
    if (AZRI_WITH_PEM && !azri_is_der(in.ptr, in.len)) st = azri_chain_pem(chain, der, in, e);
    else if (AZRI_WITH_PEM && (!whole || !value.len || value.ptr[0] != AZRI_DER_SEQUENCE))
        st = azri_pfx_load(chain->mem, in, password, der, chain, e);
    else {                               /* without what an editor or echo has put behind it: it has a thumbprint */
        st = azri_chain_add(chain, whole ? azri_slice(in.ptr, in.len - rest.len) : in);
        if (st != AZREDIS_OK) st = azri_key_no_room(e, st);
    }
    if (st != AZREDIS_OK || chain->len > 0) return st;
    return azri_key_refuse(e, "there is no certificate in it; expected PEM (-----BEGIN CERTIFICATE-----) or PKCS#12");
}

/* Does the certificate belong to the key? 1, 0, or -1: out of memory. *bad: mbedTLS's code, if it cannot be read. */
static int azri_chain_matches(azri_key *k, azredis_str der, int *bad) {
    mbedtls_x509_crt crt;
    mbedtls_x509_crt_init(&crt);
    int rc = mbedtls_x509_crt_parse_der(&crt, (const unsigned char *)der.ptr, der.len);
    if (rc != 0) *bad = rc;
    if (rc == 0) rc = mbedtls_pk_check_pair(&crt.pk, &k->pk AZRI_PK_RNG(azri_key_rng, k));
    mbedtls_x509_crt_free(&crt);
    return azri_mbedtls_no_memory(rc) ? -1 : rc == 0;
}

static void azri_chain_reverse(char *p, size_t n) {
    for (size_t i = 0; i < n / 2; i++) {
        char c = p[i];
        p[i] = p[n - 1 - i];
        p[n - 1 - i] = c;
    }
}

/* The certificate of the key moves to the front. */
static azredis_status azri_chain_leaf(azri_key *k, azredis_error *e) {
    azredis_str rest = azri_slice(k->chain.ptr, k->chain.len), der;
    size_t from = 0, at = 0;
    int rc = 0, bad = 0;
    while (rc == 0 && azri_chain_next(&rest, &der)) {
        rc = azri_chain_matches(k, der, &bad);
        from = at;
        at = k->chain.len - rest.len;
    }
    if (rc == 0 && bad)
        return azri_fail(e, AZREDIS_E_ARG, AZRI_KEY_WHERE, "certificate: a certificate in it is damaged, or of a kind "
                         "that mbedTLS cannot read (-0x%04x); look: openssl x509 -in FILE -noout -text", (unsigned)-bad);
    if (rc < 0) return azri_key_no_room(e, AZREDIS_E_NOMEM);
    if (rc == 0)
        return azri_key_refuse(e, "no certificate in it belongs to the private key; give the key it was made with");
    azri_chain_reverse(k->chain.ptr, from);
    azri_chain_reverse(k->chain.ptr + from, at - from);
    azri_chain_reverse(k->chain.ptr, at);
    return AZREDIS_OK;
}

/* ---- key ------------------------------------------------------------------------------------------ */

static void azri_key_free(azri_key *k) {
    if (!k->open) return;
    mbedtls_pk_free(&k->pk);
    azri_buf_free(&k->chain);
    k->open = 0;
}

/* der: PKCS#1 or PKCS#8; or PEM with its NUL, and the password. */
static azredis_status azri_key_parse(azri_key *k, const azri_buf *der, const char *password, azredis_error *e) {
    int rc = mbedtls_pk_parse_key(&k->pk, (const unsigned char *)der->ptr, der->len, (const unsigned char *)password,
                                  password ? strlen(password) : 0 AZRI_PK_RNG(azri_key_rng, k));
    unsigned bits = rc == 0 ? (unsigned)mbedtls_pk_get_bitlen(&k->pk) : 0;
    if (rc == MBEDTLS_ERR_PK_PASSWORD_REQUIRED || rc == MBEDTLS_ERR_PK_PASSWORD_MISMATCH)
        return azri_key_not_opened(e, rc == MBEDTLS_ERR_PK_PASSWORD_MISMATCH);
    if (azri_mbedtls_no_memory(rc)) return azri_key_no_room(e, AZREDIS_E_NOMEM);
    if (rc != 0)
        return azri_fail(e, AZREDIS_E_ARG, AZRI_KEY_WHERE, "certificate: its private key is damaged, or of a kind that "
                         "mbedTLS cannot read (-0x%04x); write it anew: openssl pkey -in OLD -out NEW", (unsigned)-rc);
    if (mbedtls_pk_get_type(&k->pk) != MBEDTLS_PK_RSA)
        return azri_key_refuse(e, "its key is not RSA, and Entra takes no other; make a certificate with an RSA key");
    if (bits < AZRI_RSA_BITS_MIN)
        return azri_fail(e, AZREDIS_E_ARG, AZRI_KEY_WHERE, "certificate: its RSA key has %u bits; Entra takes %u at "
                         "least", bits, AZRI_RSA_BITS_MIN);
    return AZREDIS_OK;
}

/* PKCS#1 and PKCS#8 begin with a number. EncryptedPrivateKeyInfo begins with an algorithm. */
static azredis_status azri_key_der(azri_key *k, const azri_buf *der, const char *password, azredis_error *e) {
    azredis_str in = azri_slice(der->ptr, der->len), value;
    azri_buf plain;
    if (!AZRI_WITH_PEM || !azri_der(&in, AZRI_DER_SEQUENCE, &value) || !value.len || value.ptr[0] != AZRI_DER_SEQUENCE)
        return azri_key_parse(k, der, NULL, e);
    azri_buf_init(&plain, der->mem, AZRI_KEY_ROOM, 1);
    azredis_status st = azri_pfx_load(der->mem, azri_slice(der->ptr, der->len), password, &plain, NULL, e);
    if (st == AZREDIS_OK) st = azri_key_parse(k, &plain, NULL, e);
    azri_buf_free(&plain);
    return st;
}

/* Proc-Type and DEK-Info (RFC 1421 4.6) stand before the base64: that is mbedTLS's, which wants a NUL. */
static azredis_status azri_key_block(azri_key *k, const azri_pem *b, azri_buf *der, const char *password,
                                     azredis_error *e) {
    int headers = azri_find(b->body, ':') < b->body.len;
    der->len = 0;
    azredis_status st = headers ? azri_buf_add(der, b->whole.ptr, b->whole.len) : azri_pem_decode(b->body, der);
    if (st == AZREDIS_OK && headers) st = azri_buf_add(der, "", 1);
    if (st == AZREDIS_E_ARG) return azri_key_refuse(e, "its private key is not base64");
    if (st != AZREDIS_OK) return azri_key_no_room(e, st);
    return headers ? azri_key_parse(k, der, password, e) : azri_key_der(k, der, password, e);
}

static azredis_status azri_key_pem(azri_key *k, azri_buf *der, azredis_str text, const char *password,
                                   azredis_error *e) {
    static const char kind[] = "PRIVATE KEY";        /* RSA, EC, ENCRYPTED or nothing stands before it */
    azri_pem b;
    if (text.len > AZRI_KEY_FILE_MAX) return azri_key_no_room(e, AZREDIS_E_LIMIT);
    while (azri_pem_next(&text, &b))
        if (b.label.len >= sizeof kind - 1 && azri_eqz(azri_from(b.label, b.label.len - (sizeof kind - 1)), kind))
            return azri_key_block(k, &b, der, password, e);
    if (azri_pem_end(text, e) != AZREDIS_OK) return AZREDIS_E_ARG;
    return azri_key_refuse(e, "there is no private key in it (-----BEGIN PRIVATE KEY-----); give it as a file of its "
                              "own, or in one file with the certificate");
}

/* certificate: PEM, DER or PKCS#12; key: PEM or DER of its own, or empty: it is in certificate. password may be NULL. Fills
 * k->chain: certificates as DER, each behind its length in 4 bytes big-endian, first the one of the key, then the
 * others in the order of the file. Afterwards azri_key_free, if this was OK. */
static azredis_status azri_key_load(azri_key *k, const azri_mem *m, azredis_str certificate, azredis_str key,
                                    const char *password, azredis_error *e) {
    azri_buf der;
    (void)AZRI_PSA_INIT();
    azri_buf_init(&der, m, AZRI_KEY_ROOM, 1);
    azri_buf_init(&k->chain, m, AZRI_KEY_ROOM, 1);      /* a damaged file may have its key where a certificate stands */
    mbedtls_pk_init(&k->pk);
    k->open = 1;
    azredis_status st = azri_chain_read(&k->chain, &der, certificate, password, e);
    if (key.len) der.len = 0;            /* what PKCS#12 held beside, or room that was used */
    if (st == AZREDIS_OK && (!AZRI_WITH_PEM || azri_is_der(key.ptr, key.len))) {
        st = azri_buf_add(&der, key.ptr, key.len);
        if (st != AZREDIS_OK) st = azri_key_no_room(e, st);
    }
    if (!key.len) key = certificate;
    if (st == AZREDIS_OK)
        st = !AZRI_WITH_PEM || (azri_is_der(key.ptr, key.len) && der.len) ? azri_key_der(k, &der, password, e)
                                                                          : azri_key_pem(k, &der, key, password, e);
    if (st == AZREDIS_OK) st = azri_chain_leaf(k, e);
    azri_buf_free(&der);
    if (st != AZREDIS_OK) azri_key_free(k);
    return st;
}

/* Certificates alone, as in azri_key_load but in the order of the file; for a key that somebody else has. Afterwards
 * azri_buf_free, if this was OK. */
static azredis_status azri_chain_load(azri_buf *chain, const azri_mem *m, azredis_str certificate, const char *password,
                                      azredis_error *e) {
    azri_buf der;
    azri_buf_init(&der, m, AZRI_KEY_ROOM, 1);
    azri_buf_init(chain, m, AZRI_KEY_ROOM, 1);          /* see azri_key_load */
    azredis_status st = azri_chain_read(chain, &der, certificate, password, e);
    azri_buf_free(&der);
    if (st != AZREDIS_OK) azri_buf_free(chain);
    return st;
}

/* The thumbprint of the first certificate, as the header of an assertion has it: by SHA-256 for PS256, by SHA-1 for
 * RS256. Returns its length; 0: this mbedTLS has no such hash. */
static size_t azri_chain_print(const azri_buf *chain, int alg, unsigned char out[32]) {
    azredis_str rest = azri_slice(chain->ptr, chain->len), der;
    if (!azri_chain_next(&rest, &der)) return 0;
    if (alg == AZRI_SIGN_RS256) return azri_mbedtls_sha1((const unsigned char *)der.ptr, der.len, out) == 0 ? 20 : 0;
    return azri_mbedtls_sha256((const unsigned char *)der.ptr, der.len, out) == 0 ? 32 : 0;
}

/* hash: SHA-256 of what is signed; the signature goes behind what is in the buffer. */
static azredis_status azri_key_sign(azri_key *k, int alg, const unsigned char hash[32], azri_buf *signature,
                                    azredis_error *e) {
    mbedtls_rsa_context *rsa = mbedtls_pk_rsa(k->pk);
    size_t n = mbedtls_pk_get_len(&k->pk);
    azredis_status st = azri_buf_reserve(signature, n);
    if (st != AZREDIS_OK) return azri_key_no_room(e, st);
    if (alg == AZRI_SIGN_PS256) (void)mbedtls_rsa_set_padding(rsa, MBEDTLS_RSA_PKCS_V21, MBEDTLS_MD_SHA256);
    else (void)mbedtls_rsa_set_padding(rsa, MBEDTLS_RSA_PKCS_V15, MBEDTLS_MD_NONE);
    int rc = mbedtls_pk_sign(&k->pk, MBEDTLS_MD_SHA256, hash, 32,
                             (unsigned char *)signature->ptr + signature->len AZRI_PK_ROOM(n), &n, azri_key_rng, k);
    if (rc == 0) {
        signature->len += n;
        return AZREDIS_OK;
    }
    st = azri_fail(e, azri_mbedtls_no_memory(rc) ? AZREDIS_E_NOMEM : AZREDIS_E_ARG, AZRI_KEY_WHERE,
                   "certificate: its key cannot sign (mbedTLS -0x%04x)", (unsigned)-rc);
    if (e) e->tls_code = rc;
    return st;
}
#endif /* AZREDIS_NO_CERTIFICATE */

/* ==== >>line ============================================================== uses: core mem fail text http port posix bare tls ==
 * A stream that is dialled, secured and then carries bytes, step by step and never blocking.
 * Entry points: azri_line_begin, _step, _read, _write, _end, _fds, _deadline.
 * ================================================================================================ */

#if !defined(AZREDIS_NO_THREADS) && !defined(MBEDTLS_THREADING_C)
/* An mbedTLS without locks of its own shares PSA's key store and other state among all connections of the process: one
 * call at a time. The only writable global of this header, and only then. */
static pthread_mutex_t azri_tls_mutex = PTHREAD_MUTEX_INITIALIZER;
static void azri_tls_enter(void) { (void)pthread_mutex_lock(&azri_tls_mutex); }
static void azri_tls_leave(void) { (void)pthread_mutex_unlock(&azri_tls_mutex); }
#else
static void azri_tls_enter(void) {}
static void azri_tls_leave(void) {}
#endif

typedef enum azri_line_state { AZRI_LINE_OFF, AZRI_LINE_DIAL, AZRI_LINE_PROXY, AZRI_LINE_TLS, AZRI_LINE_OPEN } azri_line_state;

typedef struct azri_line {
    azri_line_state  state;
    uint8_t          want;              /* AZRI_READ, AZRI_WRITE: what the open stream waits for */
    uint8_t          spent;             /* without TLS: the last read took less than it asked for */
    uint16_t         tcp_port;
    const azri_port *port;
    azri_waker      *waker;
    azri_grave      *grave;
    intptr_t         sock;
    const char      *proxy;             /* lent; NULL: none */
    azri_http       *answer;            /* lent: reads the proxy's, and is then as new */
    size_t           put;               /* bytes of the CONNECT that it has */
    uint64_t         deadline;
    azri_tls_conf    conf;              /* name NULL: no TLS */
    azri_dial        dial;
    azri_tls         tls;
    char             host[256];
} azri_line;

static int azri_line_has_tls(const azri_line *l) { return !AZRI_WITH_PLAINTEXT || l->conf.name; }

static void azri_line_unsecure(azri_line *l) {
    azri_tls_enter();
    azri_tls_close(&l->tls);
    azri_tls_leave();
}

static void azri_line_end(azri_line *l) {
    if (l->state == AZRI_LINE_DIAL) azri_dial_end(&l->dial);
    if (l->tls.open) azri_line_unsecure(l);
    if (l->state > AZRI_LINE_DIAL) azri_bury(l->grave, l->port, l->sock);
    l->state = AZRI_LINE_OFF;
}

/* Nothing is expected: gives memory back that is there for speed. */
static void azri_line_idle(azri_line *l) {
    if (l->state == AZRI_LINE_OPEN && azri_line_has_tls(l)) azri_tls_idle(&l->tls);
}

/* To the proxy, if there is one. */
static void azri_line_aim(azri_line *l) {
    char host[256];
    uint16_t port = 0;
    azredis_str login;
    l->state = AZRI_LINE_DIAL;
    l->put = 0;
    if (AZRI_WITH_PROXY && l->proxy && !azri_proxy_read(azri_str(l->proxy), host, &port, &login))
        azri_dial_begin(&l->dial, l->port, l->waker, host, port);
    else
        azri_dial_begin(&l->dial, l->port, l->waker, l->host, l->tcp_port);
    l->dial.grave = l->grave;
}

/* conf's strings must outlive the line. The host is copied. g: see azri_grave; NULL: sockets are closed at once. */
static AZRI_ONCE void azri_line_begin(azri_line *l, const azri_port *port, azri_waker *w, azri_grave *g, const char *host,
                            uint16_t tcp_port, const azri_tls_conf *conf, uint64_t now, uint32_t limit_ms) {
    memset(l, 0, sizeof *l);
    l->port = port;
    l->conf = *conf;
    l->waker = w;
    l->grave = g;
    l->tcp_port = tcp_port;
    l->deadline = azri_after(now, limit_ms);
    azri_copy(l->host, sizeof l->host, host);
    azri_line_aim(l);
}

/* ---- a proxy before the host: a CONNECT, then TLS with the host itself --------------------------- */

/* Right behind azri_line_begin. answer is initialised. Both, and the text, are lent. */
static void azri_line_by(azri_line *l, const char *proxy, azri_http *answer) {
    l->proxy = proxy;
    l->answer = answer;
    azri_line_aim(l);
}

/* Whose fault it was. */
static azredis_status azri_line_blame(azri_line *l, azredis_status st, azredis_error *e) {
    if (AZRI_WITH_PROXY && l->proxy && st != AZREDIS_OK && st != AZREDIS_AGAIN)
        azri_fail_add(e, " (this is about the proxy of the option proxy, %s:%u)", l->dial.host,
                      (unsigned)l->dial.tcp_port);
    return st;
}

/* Its answer is not 2xx. */
static azredis_status azri_line_refused(azri_line *l, azredis_str login, azredis_error *e) {
    int status = l->answer->status, beyond = status >= 502 && status <= 504;
    (void)azri_fail(e, beyond ? AZREDIS_E_NET : AZREDIS_E_HTTP, l->conf.where, "%s: the proxy %s:%u refused a tunnel to %s:%u with "
                    "HTTP %d: %s", l->conf.where, l->dial.host, (unsigned)l->dial.tcp_port, l->host, (unsigned)l->tcp_port, status,
                    status == 407 && login.ptr ? "it does not accept user and password of the option proxy (only Basic is spoken)"
                    : status == 407 ? "it wants a login; write http://user:password@host:port into the option proxy"
                    : beyond ? "it cannot reach that host, or does not know the name"
                    : status == 403 || status == 405 ? "it does not allow it; ask who runs the proxy to permit CONNECT there"
                    : "is it an HTTP proxy that knows CONNECT?");
    if (!e) return beyond ? AZREDIS_E_NET : AZREDIS_E_HTTP;
    e->http_status = status;
    e->retryable = beyond || status == 429 || status == 408 || status == 500;
    return e->code;
}

static azredis_status azri_line_ask(azri_line *l, azredis_str login, azredis_error *e) {
    char head[AZRI_PROXY_HEAD];
    size_t n = azri_proxy_head(head, l->host, l->tcp_port, login);
    int k = 1;
    while (l->put < n && k > 0) {
        k = l->port->p.send(l->port->p.user, l->sock, head + l->put, n - l->put);
        if (k > 0) l->put += (size_t)k;
    }
    azri_wipe(head, sizeof head);
    if (k < 0) return azri_net_fail(e, l->conf.where, l->host, k);
    l->want = k ? AZRI_READ : AZRI_WRITE;
    return k ? AZREDIS_OK : AZREDIS_AGAIN;
}

/* OK: what follows is the host's. Byte by byte, so that none of it is read here. */
static azredis_status azri_line_tunnel(azri_line *l, azredis_error *e) {
    azri_http *h = l->answer;
    char host[256], c;
    uint16_t port;
    azredis_str login;
    int k;
    (void)azri_proxy_read(azri_str(l->proxy), host, &port, &login);
    azredis_status st = azri_line_ask(l, login, e);
    while (st == AZREDIS_OK && (h->state == AZRI_HTTP_STATUS_LINE || h->state == AZRI_HTTP_HEADERS)) {
        k = l->port->p.recv(l->port->p.user, l->sock, &c, 1);
        if (k == 0) return AZREDIS_AGAIN;
        if (k < 0) st = azri_net_fail(e, l->conf.where, "CONNECT", k);
        else st = azri_http_feed(h, &c, 1, e);
        if (st == AZREDIS_AGAIN) st = AZREDIS_OK;
    }
    if (st != AZREDIS_OK) return azri_line_blame(l, st, e);
    if (h->status < 200 || h->status > 299) return azri_line_refused(l, login, e);
    azri_http_init(h, h->sink, h->user);
    return AZREDIS_OK;
}

/* ---- step by step -------------------------------------------------------------------------------- */

static azredis_status azri_line_late(azri_line *l, azredis_error *e) {
    if (l->state == AZRI_LINE_DIAL) return azri_line_blame(l, azri_dial_timeout(&l->dial, e), e);
    if (l->state == AZRI_LINE_PROXY)
        return azri_line_blame(l, azri_fail(e, AZREDIS_E_TIMEOUT, l->conf.where, "CONNECT to %s:%u: no complete answer in time", l->host,
                                            (unsigned)l->tcp_port), e);
    return azri_fail(e, AZREDIS_E_TIMEOUT, l->conf.where, "TLS with %s:%u: no answer in time%s", l->host, (unsigned)l->tcp_port,
                     l->tls.heard ? "" : "; is it a TLS port?");
}

/* A handshake that a kept session or a bug of mbedTLS spoilt is tried once more without them. */
static void azri_line_again(azri_line *l) {
    l->conf.tls12 = l->tls.tls12;
    azri_line_unsecure(l);
    azri_bury(l->grave, l->port, l->sock);
    azri_line_aim(l);
}

static azredis_status azri_line_secure(azri_line *l, azredis_error *e) {
    l->state = azri_line_has_tls(l) ? AZRI_LINE_TLS : AZRI_LINE_OPEN;
    l->want = AZRI_WRITE;               /* TLS: the ClientHello */
    if (!azri_line_has_tls(l)) return AZREDIS_OK;
    azri_tls_enter();
    azredis_status st = azri_tls_open(&l->tls, l->port, &l->conf, l->sock, e);
    azri_tls_leave();
    return st;
}

static azredis_status azri_line_dial(azri_line *l, uint64_t now, azredis_error *e) {
    azredis_status st = azri_dial_step(&l->dial, now, &l->sock, e);
    if (st != AZREDIS_OK) return azri_line_blame(l, st, e);
    if (!AZRI_WITH_PROXY || !l->proxy) return azri_line_secure(l, e);
    l->state = AZRI_LINE_PROXY;
    l->want = AZRI_WRITE;
    return AZREDIS_OK;
}

static azredis_status azri_line_handshake(azri_line *l, uint64_t now, azredis_error *e) {
    azri_tls_enter();
    azredis_status st = azri_tls_handshake(&l->tls, e);
    azri_tls_leave();
    l->want = (uint8_t)l->tls.want;
    if (st == AZREDIS_OK) l->state = AZRI_LINE_OPEN;
    if (st == AZREDIS_OK || st == AZREDIS_AGAIN || !l->tls.again) return st;
    azri_line_again(l);
    st = azri_line_dial(l, now, e);
    return st == AZREDIS_OK ? AZREDIS_AGAIN : st;
}

/* OK: open. AGAIN: later. */
static azredis_status azri_line_step(azri_line *l, uint64_t now, azredis_error *e) {
    azredis_status st = AZREDIS_OK;
    if (l->state == AZRI_LINE_DIAL) st = azri_line_dial(l, now, e);
    if (AZRI_WITH_PROXY && st == AZREDIS_OK && l->state == AZRI_LINE_PROXY) {
        st = azri_line_tunnel(l, e);
        if (st == AZREDIS_OK) st = azri_line_secure(l, e);
    }
    if (st == AZREDIS_OK && l->state == AZRI_LINE_TLS) st = azri_line_handshake(l, now, e);
    if (st == AZREDIS_AGAIN && now >= l->deadline) return azri_line_late(l, e);
    return st;
}

/* What the last read took for empty is looked at again: that may be long ago. */
static void azri_line_look(azri_line *l) {
    l->spent = 0;
    l->tls.spent = 0;
}

/* Without TLS: what recv or send returned. */
static azredis_status azri_line_plain(const azri_line *l, int k, size_t *n, azredis_error *e) {
    *n = k > 0 ? (size_t)k : 0;
    if (k < 0) return azri_net_fail(e, l->conf.where, l->host, k);
    return k ? AZREDIS_OK : AZREDIS_AGAIN;
}

static azredis_status azri_line_read(azri_line *l, char *p, size_t n, size_t *got, azredis_error *e) {
    azredis_status st;
    if (azri_line_has_tls(l)) {
        azri_tls_enter();
        st = azri_tls_read(&l->tls, p, n, got, e);
        azri_tls_leave();
    } else {
        st = azri_line_plain(l, l->port->p.recv(l->port->p.user, l->sock, p, azri_minz(n, INT_MAX)), got, e);
        l->spent = st == AZREDIS_OK && *got < n;
    }
    return st;
}

/* Behind a read that gave something: 1 if there is no more now. */
static int azri_line_dry(azri_line *l) { return azri_line_has_tls(l) ? azri_tls_dry(&l->tls) : l->spent; }

static azredis_status azri_line_write(azri_line *l, const char *p, size_t n, size_t *put, azredis_error *e) {
    if (!azri_line_has_tls(l))
        return azri_line_plain(l, l->port->p.send(l->port->p.user, l->sock, p, azri_minz(n, INT_MAX)), put, e);
    azri_tls_enter();
    azredis_status st = azri_tls_write(&l->tls, p, n, put, e);
    azri_tls_leave();
    return st;
}

static size_t azri_line_fds(const azri_line *l, azri_fd *out, size_t cap, int has_output) {
    if (l->state == AZRI_LINE_OFF || cap == 0) return 0;
    if (l->state == AZRI_LINE_DIAL) return azri_dial_fds(&l->dial, out, cap);
    out->sock = l->sock;
    out->ready = 0;
    out->want = l->state == AZRI_LINE_TLS || l->state == AZRI_LINE_PROXY
                    ? l->want
                    : (uint8_t)(AZRI_READ | (has_output ? AZRI_WRITE : 0));
    return 1;
}

static uint64_t azri_line_deadline(const azri_line *l) {
    if (l->state == AZRI_LINE_OFF || l->state == AZRI_LINE_OPEN) return AZRI_NEVER64;
    return l->state == AZRI_LINE_DIAL ? azri_min64(l->deadline, azri_dial_deadline(&l->dial)) : l->deadline;
}

/* ==== >>fetch ============================================================= uses: above ==========
 * An identity, its token, and who is told about it (azredis_auth), and the walk for the next token, carried out
 * by whichever pump claimed it. The auth's lock guards memory only; lock order: client, then auth.
 * ================================================================================================ */

#define AZRI_SIGNATURE_MAX 512u         /* bytes: RSA-4096, the longest that Entra and mbedTLS take */
/* Why there is no token while a device code is out. */
#define AZRI_NOBODY_YET   "token: nobody has signed in yet with the code of the event DeviceCode"
#define AZRI_OWN_PAUSE    20u           /* ms between two looks at a fetch that another thread is stepping */

typedef struct azri_watch { azri_waker *waker; struct azri_watch *next; uint64_t woken; } azri_watch;

typedef struct azri_fetch azri_fetch;

struct azredis_auth {
    azri_port          port;
    azri_lock          lock;            /* guards all below but conf; never held over I/O or a callback */
    uint32_t           refs;
    azri_blob         *blob;            /* the live credentials; NULL: none yet */
    uint32_t           generation;      /* counts blobs */
    uint32_t           tokens, token_failures;
    uint64_t           headroom_at;
    azri_rng           rng;
    azri_token         machine;
    azredis_auth_options conf;          /* immutable after open; see azri_identity_texts */
    const char        *cloud;           /* see azri_flow */
    uint64_t           note_count;      /* all that ever were; the last AZRI_NOTES_MAX are in notes */
    azri_watch        *watches;
    uint64_t           rounds;          /* of waking them */
    size_t             record_count;
    int                pin;             /* the link of the chain that won */
    azri_tls_kept      kept;            /* of the last token request, for the next; lent to the fetch meanwhile */
    azri_pair          pair;            /* certificate and key of it, the same */
    int64_t            clock_offset;    /* seconds by which Entra's clock was ahead of ours */
    azri_device       *device;          /* of the identity device-code: its refresh token, its code. NULL: another one */
    azri_fetch        *own;             /* the fetch of azredis_auth_token */
    void             (*drop_own)(azredis_auth *a, azri_fetch *f, uint64_t now);  /* set with it */
    int                own_busy;        /* a thread is stepping it */
    azri_waker        *own_waker;       /* of its name look-ups; made when first needed */
    uint64_t           own_seen;
    int                telling;         /* a thread is in on_event */
    azri_fork          fork;            /* of its clients too */
    azredis_event_fn   on_event;
    void              *event_user;
    azredis_level      level, wanted;   /* of on_event; the highest of that and all clients */
    azredis_error      failure;         /* of the last fetch; code OK: it succeeded */
    azredis_error      broken;          /* wrong options; code OK: none */
    azredis_link_record records[AZRI_LINKS_MAX];
    azredis_auth_info_data info;        /* of the token in blob; what passes with time is filled in when asked */
    azri_item          notes[AZRI_NOTES_MAX];
};

/* Asked before the lock, which a thread may have held that is not here. */
static int azri_auth_forked(const azredis_auth *a) { return azri_forked(&a->fork); }

static const azredis_error azri_fork_record = {
    AZREDIS_E_FORK, 0, 0, 0, 0, 0, 0, "client", "",
    AZRI_TEXT("the client or auth was opened before fork(): open a new one in the child"), {NULL, 0, 0, 0, 0, 0, 0}
};

static void azri_auth_lock(azredis_auth *a) {
    if (AZRI_WITH_SHARED) azri_lock_acquire(&a->lock);
}

static void azri_auth_unlock(azredis_auth *a) {
    if (AZRI_WITH_SHARED) azri_lock_release(&a->lock);
}

static uint64_t azri_auth_now(const azredis_auth *a) { return a->port.p.now_ms(a->port.p.user); }

/* Under the lock. */
static azri_item *azri_auth_note(azredis_auth *a, azredis_event_type type, const azredis_error *e) {
    return azri_item_clear(&a->notes[a->note_count++ % AZRI_NOTES_MAX], type, e);
}

/* Under the lock. */
static void azri_auth_event(azredis_auth *a, azredis_event_type type, const azredis_error *e, int64_t old_left_ms,
                            int64_t new_left_ms, int64_t next_try_ms) {
    if (AZRI_WITH_EVENTS) azri_item_times(azri_auth_note(a, type, e), old_left_ms, new_left_ms, next_try_ms);
}

/* Under the lock. NULL: without events, or of a level that nobody wants. */
static azri_item *azri_auth_log_item(azredis_auth *a, azredis_level level, int number) {
    if (!AZRI_WITH_EVENTS || level > a->wanted) return NULL;
    azri_item *it = azri_auth_note(a, AZREDIS_EV_LOG, NULL);
    it->level = level;
    it->number = number;
    return it;
}
#define azri_auth_log(a, level, number, ...) azri_item_text(azri_auth_log_item(a, level, number), __VA_ARGS__)

/* Wakes all who wait for news; not under the lock. Whoever comes meanwhile sees the news by himself, whoever has been
 * woken by a later round need not be again. */
static void azri_auth_wake(azredis_auth *a) {
    azri_watch *w;
    azri_waker *k;
    uint64_t round = 0;
    if (!AZRI_WITH_SHARED) return;
    do {
        k = NULL;
        azri_auth_lock(a);
        if (!round) round = ++a->rounds;
        for (w = a->watches; w && w->woken >= round; w = w->next) {}
        if (w) {
            w->woken = round;
            k = azri_waker_ref(w->waker);
        }
        azri_auth_unlock(a);
        if (k) azri_waker_wake(k);
        azri_waker_unref(k);
    } while (k);
}

static void azri_auth_watch(azredis_auth *a, azri_watch *w, azri_waker *waker) {
    w->waker = waker;
    w->woken = 0;
    azri_auth_lock(a);
    w->next = a->watches;
    a->watches = w;
    azri_auth_unlock(a);
}

/* refused: it leaves while its server refuses tokens. */
static void azri_auth_unwatch(azredis_auth *a, azri_watch *w, int refused) {
    azri_auth_lock(a);
    if (refused) azri_token_forgive(&a->machine);
    for (azri_watch **at = &a->watches; *at; at = &(*at)->next)
        if (*at == w) { *at = w->next; break; }
    azri_auth_unlock(a);
}

/* ---- fetch: one walk for a token, carried out by whichever pump claimed it ---- */

typedef enum azri_fetch_phase { AZRI_FETCH_NEXT, AZRI_FETCH_WAIT, AZRI_FETCH_HTTP, AZRI_FETCH_EXEC } azri_fetch_phase;

struct azri_fetch {
    azri_fetch_phase phase;
    uint32_t   claim;
    size_t     written;
    uint64_t   until;
    azri_rng   rng;
    azri_step  step;
    azri_flow  flow;
    azri_http  http;
    azri_line  line;
    azri_env   env;
    azri_tls_kept kept;                 /* the auth's, until the end */
#ifndef AZREDIS_NO_EXEC
    azri_child child;
    azredis_error child_error;
#endif
};

/* 0: out of memory; a variable that could not be copied must not look like one that is missing. */
static int azri_env_load(azri_env *env, const azri_mem *m) {
    int ok = 1;
    for (size_t i = 0; AZRI_WITH_ENV && i < AZRI_ENV_COUNT; i++) {
        const char *z = azri_shape_of(m) ? NULL : azri_getenv(azri_env_names[i]);     /* an arena has no room for it */
        env->value[i] = z && z[0] ? azri_strdup(m, z) : NULL;
        if (z && z[0] && !env->value[i]) ok = 0;
    }
#ifndef AZREDIS_NO_MANAGED
    env->arc_agent = azri_file_is_there(AZRI_ARC_AGENT);
#endif
    return ok;
}

#ifdef AZREDIS_NO_DEVICE_CODE
#define azri_fetch_device_take(a, f, now) 1
#define azri_fetch_device_free(a, f) ((void)0)
#else
/* Under the lock: a copy for this walk, but of a code whose time is over. 0: out of memory. */
static int azri_fetch_device_take(azredis_auth *a, azri_fetch *f, uint64_t now) {
    if (!a->device) return 1;
    if (a->device->code && now >= a->device->expires_at) azri_device_drop(a->device, &a->port.mem);
    f->flow.device = (azri_device *)azri_zalloc(&a->port.mem, sizeof *a->device);
    return f->flow.device && azri_device_copy(f->flow.device, a->device, &a->port.mem);
}

static void azri_fetch_device_free(azredis_auth *a, azri_fetch *f) { azri_device_free(f->flow.device, &a->port.mem); }
#endif

static void azri_fetch_free(azredis_auth *a, azri_fetch *f) {
    azri_line_end(&f->line);
#ifndef AZREDIS_NO_EXEC
    azri_child_end(&f->child);
#endif
    azri_tls_forget(&f->kept, &a->port.mem);
    azri_step_free(&f->step);
    azri_flow_free(&f->flow);
    azri_fetch_device_free(a, f);
    azri_env_free(&f->env, &a->port.mem);
    azri_wipe(f, sizeof *f);
    azri_free(&a->port.mem, f, sizeof *f);
}

/* Under the lock: the fetch with this claim brought no token. */
static void azri_auth_failed(azredis_auth *a, uint32_t claim, const azredis_error *e, uint64_t now) {
    azri_token_failed(&a->machine, claim, now, e->retryable, e->retry_after_ms);
    int64_t next = (int64_t)(azri_max64(a->machine.next_try, now) - now);
    a->token_failures++;
    azri_fail_copy(&a->failure, e);
    azri_auth_event(a, AZREDIS_EV_TOKEN_REFRESH_FAILED, e, azri_token_left(&a->machine, now), AZREDIS_UNKNOWN, next);
    azri_auth_log(a, AZREDIS_LOG_WARNING, AZRI_LOG_TOKEN_FAILED, "no token, next try in %lld ms: %s", (long long)next,
                  e->message);
}

static azri_fetch *azri_fetch_no_memory(azredis_auth *a, uint32_t claim, uint64_t now) {
    azri_auth_lock(a);
    (void)azri_fail(&a->failure, AZREDIS_E_NOMEM, "token", "out of memory for a token request");
    azri_auth_failed(a, claim, &a->failure, now);
    azri_auth_unlock(a);
    azri_auth_wake(a);
    return NULL;
}

/* Claims and begins a fetch if one is due; NULL: not due, claimed by another, or no memory. */
static azri_fetch *azri_fetch_claim(azredis_auth *a, uint64_t now) {
    uint32_t claim;
    azri_fetch *f;
    int ok;
    if (a->broken.code != AZREDIS_OK || azri_is_static(&a->conf)) return NULL;
    azri_auth_lock(a);
    claim = azri_token_claim(&a->machine, now, a->conf.chain_ms);
    azri_auth_unlock(a);
    if (!claim) return NULL;
    f = (azri_fetch *)azri_zalloc(&a->port.mem, sizeof *f);
    if (!f) return azri_fetch_no_memory(a, claim, now);
    azri_auth_lock(a);
    f->claim = claim;
    if (AZRI_WITH_RESUMPTION) {
        f->kept = a->kept;
        memset(&a->kept, 0, sizeof a->kept);
    }
    if (AZRI_WITH_WALKS) f->rng.state = azri_rng_next(&a->rng);
    azri_flow_init(&f->flow, &a->port.mem, &a->conf, &f->rng);
#ifndef AZREDIS_NO_OS
    f->flow.local_time = azri_posix_local;
#endif
    ok = azri_fetch_device_take(a, f, now);
    if (AZRI_WITH_WALKS) {
        f->flow.pin = a->pin;
        f->flow.clock_offset = a->clock_offset;
        azri_pair_move(&f->flow.kept, &a->pair);
        f->flow.pace_ms = a->machine.held ? azri_or(a->machine.life_ms / 10, 1) : 0;
        f->flow.cloud = a->cloud;
    }
    azri_auth_log(a, AZREDIS_LOG_INFO, AZRI_LOG_TOKEN_START, "fetching a token (%s)",
                  azri_identity_name((int)a->conf.identity));
    azri_auth_unlock(a);
    if (!AZRI_WITH_WALKS) return f;
    if (!azri_env_load(&f->env, &a->port.mem) || !ok) {
        azri_fetch_free(a, f);
        return azri_fetch_no_memory(a, claim, now);
    }
    azri_flow_start(&f->flow, &f->env, now);
    return f;
}

/* Under the lock. */
static void azri_auth_describe(azredis_auth *a, const azri_flow *flow) {
    azredis_auth_info_data *d = &a->info;
    if (!AZRI_WITH_STATS) return;
    azri_copy(d->credential, sizeof d->credential, flow->used);
    azri_copy(d->user, sizeof d->user, flow->user);
    azri_copy(d->tenant, sizeof d->tenant, flow->claims.tid);
    azri_copy(d->audience, sizeof d->audience, flow->claims.aud);
    d->expires_on = flow->claims.exp;
}

/* Under the lock: a token was got. */
static AZRI_ONCE azredis_status azri_fetch_take(azredis_auth *a, azri_fetch *f, uint64_t now) {
    azredis_str jwt = azri_slice(f->flow.token.ptr, f->flow.token.len);
    int64_t old_left = azri_token_left(&a->machine, now), new_left, next;
    if (AZRI_WITH_CLAIMS && a->blob && azri_identity_same(a->blob->user, f->flow.user, &f->flow.error) != AZREDIS_OK)
        return f->flow.error.code;
    azri_blob *b = azri_blob_new(&a->port.mem, f->flow.user, jwt);
    if (!b) return azri_fail(&f->flow.error, AZREDIS_E_NOMEM, "token", "out of memory for the token");
    if (azri_token_got(&a->machine, f->claim, now, f->flow.sent_at, f->flow.life_ms, f->flow.refresh_ms, b->hash) !=
        AZRI_TOKEN_NEW) {
        azri_blob_drop(b);
        azri_auth_log(a, AZREDIS_LOG_INFO, AZRI_LOG_TOKEN_SAME, "the same token came again; asking again in %lld ms",
                      (long long)(a->machine.next_try - now));
        return AZREDIS_OK;
    }
    b->expires_at = a->machine.expires_at;
    b->life_ms = a->machine.life_ms;
    b->generation = ++a->generation;
    azri_blob_drop(a->blob);
    a->blob = b;
    azri_auth_describe(a, &f->flow);
    a->headroom_at = azri_token_headroom_at(&a->machine);
    AZRI_COUNT(a->tokens, 1);
    new_left = azri_token_left(&a->machine, now);
    next = (int64_t)(a->machine.next_try - now);
    azri_auth_event(a, AZREDIS_EV_TOKEN_REFRESHED, NULL, old_left, new_left, next);
    azri_auth_log(a, AZREDIS_LOG_INFO, AZRI_LOG_TOKEN_OK, "token for %lld s; renewal in %lld s",
                  (long long)(new_left / 1000), (long long)(next / 1000));
    azri_auth_log(a, AZREDIS_LOG_INFO, AZRI_LOG_IDENTITY, "identity: %s, tenant %s, oid %s", f->flow.used,
                  f->flow.claims.tid[0] ? f->flow.claims.tid : "?", f->flow.user);
    if (f->flow.hint[0]) azri_auth_log(a, AZREDIS_LOG_WARNING, AZRI_LOG_TOKEN_HINT, "%s", f->flow.hint);
    return AZREDIS_OK;
}

/* Under the lock. Two can come back when a void claim is still at work. */
static void azri_fetch_return(azredis_auth *a, azri_fetch *f) {
    if (AZRI_WITH_WALKS) {
        azri_pair_move(&a->pair, &f->flow.kept);
        a->clock_offset = f->flow.clock_offset;
    }
    if (!AZRI_WITH_RESUMPTION || a->kept.blob) return;
    a->kept = f->kept;
    memset(&f->kept, 0, sizeof f->kept);
}

#ifdef AZREDIS_NO_DEVICE_CODE
#define azri_fetch_device_return(a, f, mine) ((void)0)
#define azri_fetch_device_save(a, f) ((void)0)
#define azri_fetch_device_wait(a, f, now) 1
#else
AZRI_STATIC_ASSERT(prompt_fits_an_item, sizeof ((azri_device *)0)->prompt == sizeof ((azri_item *)0)->text);

/* Under the lock: the walk has ended. mine: nobody has taken over. */
static void azri_fetch_device_return(azredis_auth *a, azri_fetch *f, int mine) {
    azri_device *d = f->flow.device;
    int ok = f->flow.status == AZREDIS_OK;
    if (!d) return;
    if (mine || ok) azri_device_drop(a->device, &a->port.mem);
    if (!d->changed && !(ok && d->refresh) && !(mine && d->dead)) return;
    azri_strfree(&a->port.mem, a->device->refresh);
    a->device->refresh = d->refresh;
    d->refresh = NULL;
}

/* Not under the lock: the program keeps what it will need after a restart. With what another person leaves no renewal
 * would ever be of use: it is forgotten, so that the next walk asks for a sign-in. */
static void azri_fetch_device_save(azredis_auth *a, azri_fetch *f) {
    azri_device *d = f->flow.device;
    int other;
    if (!d || !d->changed) return;
    azri_auth_lock(a);                  /* another than before has signed in: azri_fetch_take refuses the token */
    other = f->flow.status == AZREDIS_OK && a->blob && azri_identity_same(a->blob->user, f->flow.user, NULL) != AZREDIS_OK;
    azri_auth_unlock(a);
    if (other) {
        azri_strfree(&a->port.mem, d->refresh);
        d->refresh = NULL;
        d->changed = 0;
        d->dead = 1;
    }
    if (other || !a->conf.save_refresh) return;
    azredis_status st = a->conf.save_refresh(a->conf.refresh_user, d->refresh, strlen(d->refresh));
    if (st == AZREDIS_OK) return;
    azri_auth_lock(a);
    azri_auth_log(a, AZREDIS_LOG_WARNING, AZRI_LOG_NOT_SAVED,
                  "save_refresh failed with %d: the next start may need a sign-in", (int)st);
    azri_auth_unlock(a);
}

/* Under the lock: there is a new code. From here on whoever takes over goes on with it. */
static void azri_fetch_device_tell(azredis_auth *a, azri_fetch *f, uint64_t now) {
    azri_device *d = f->flow.device;
    azri_item *it = azri_auth_note(a, AZREDIS_EV_DEVICE_CODE, NULL);
    d->news = 0;
    memcpy(it->text, d->prompt, sizeof it->text);
    it->new_left_ms = (int64_t)(d->expires_at - now);
    (void)azri_device_copy(a->device, d, &a->port.mem);         /* without memory it is this walk's alone */
    azri_auth_log(a, AZREDIS_LOG_WARNING, AZRI_LOG_SIGN_IN, "somebody must sign in within %lld s%s%s",
                  (long long)((d->expires_at - now) / 1000), f->flow.hint[0] ? "; " : "", f->flow.hint);
    f->flow.hint[0] = '\0';
}

/* The walk waits, perhaps for a person: then it says that it lives, and once what to show. 0: others have taken over. */
static int azri_fetch_device_wait(azredis_auth *a, azri_fetch *f, uint64_t now) {
    azri_device *d = f->flow.device;
    if (!d || !d->code) return 1;
    azri_auth_lock(a);
    int mine = a->machine.claim == f->claim;
    int news = mine && d->news;
    if (mine) azri_token_extend(&a->machine, now, f->step.wait_ms + a->conf.chain_ms);
    if (news) azri_fetch_device_tell(a, f, now);
    else if (mine) {
        a->device->poll_at = d->poll_at;
        a->device->interval_ms = d->interval_ms;
    }
    azri_auth_unlock(a);
    if (news) azri_auth_wake(a);
    return mine;
}
#endif

/* The walk has ended. Frees f. */
static void azri_fetch_end(azredis_auth *a, azri_fetch *f, uint64_t now) {
    azredis_status st = f->flow.status;
    azri_auth_lock(a);
    int mine = a->machine.claim == f->claim;
    if (st == AZREDIS_OK) st = azri_fetch_take(a, f, now);
    if (st == AZREDIS_OK) {
        if (AZRI_WITH_WALKS) a->pin = f->flow.pin;
        a->failure.code = AZREDIS_OK;
    } else if (mine) {                  /* the end of a walk that another has replaced is nobody's news */
        azri_auth_failed(a, f->claim, &f->flow.error, now);
    }
    if (AZRI_WITH_STATS && (st == AZREDIS_OK || mine)) {
        memcpy(a->records, f->flow.records, sizeof a->records);
        a->record_count = f->flow.record_count;
    }
    azri_fetch_return(a, f);
    azri_fetch_device_return(a, f, mine);
    azri_auth_unlock(a);
    azri_auth_wake(a);
    azri_fetch_free(a, f);
}

/* The owner goes away. */
static void azri_fetch_drop(azredis_auth *a, azri_fetch *f, uint64_t now) {
    if (!f) return;
    azri_auth_lock(a);
    azri_token_drop(&a->machine, f->claim, now);
    azri_fetch_return(a, f);
    azri_auth_unlock(a);
    azri_auth_wake(a);
    azri_fetch_free(a, f);
}

static AZRI_APART void azri_fetch_call(azredis_auth *a, azri_fetch *f) {
    azredis_fetched got;
    char *room = (char *)azri_zalloc(&a->port.mem, AZRI_TOKEN_MAX + 1);
    memset(&got, 0, sizeof got);
    got.cap = AZRI_TOKEN_MAX + 1;
    got.token = room;
    azredis_status st = room ? f->step.call(f->step.call_user, f->step.scope, &got) : AZREDIS_E_NOMEM;
    got.cap = AZRI_TOKEN_MAX + 1;       /* it may have overwritten both; what we free is ours */
    azri_flow_call(&f->flow, azri_auth_now(a), st, &got);
    if (!room) return;
    azri_wipe(room, AZRI_TOKEN_MAX + 1);
    azri_free(&a->port.mem, room, AZRI_TOKEN_MAX + 1);
}

#ifndef AZREDIS_NO_OS
static void azri_fetch_file(azredis_auth *a, azri_fetch *f) {
    azredis_error e;
    azri_buf text;
    memset(&e, 0, sizeof e);
    azri_buf_init(&text, &a->port.mem, f->step.file_max, 1);
    azredis_status st = azri_file_read(&text, f->step.file, f->step.directory, f->step.file_max, f->step.where, &e);
    azri_flow_text(&f->flow, azri_auth_now(a), st, azri_slice(text.ptr, text.len), &e);
    azri_buf_free(&text);
}
#endif

#ifndef AZREDIS_NO_CERTIFICATE
/* Your callback signs what f->proof holds; not under a lock. */
static azredis_status azri_fetch_call_sign(azri_flow *f, const azri_step *step, const unsigned char hash[32], azri_buf *out) {
    azredis_signing s;
    if (azri_buf_reserve(out, AZRI_SIGNATURE_MAX) != AZREDIS_OK)
        return azri_flow_fail(f, AZREDIS_E_NOMEM, "no memory for a signature");
    memset(&s, 0, sizeof s);
    s.algorithm = step->rs256 ? AZREDIS_RS256 : AZREDIS_PS256;
    memcpy(s.hash, hash, sizeof s.hash);
    s.text = f->proof.ptr;
    s.text_len = f->proof.len;
    s.signature = (unsigned char *)out->ptr;
    s.cap = AZRI_SIGNATURE_MAX;
    azredis_status st = step->sign(step->sign_user, &s);
    if (st != AZREDIS_OK) return azri_flow_blame(f, st, s.reason, sizeof s.reason);
    if (s.len == 0 || s.len > AZRI_SIGNATURE_MAX)
        return azri_flow_fail(f, AZREDIS_E_TOKEN, "the callback returned OK, but wrote nothing, or a len greater than cap");
    out->len = s.len;
    return AZREDIS_OK;
}

/* What the key signs, if there is no callback; its hash is wanted in any case. */
static azredis_status azri_fetch_prepare(azri_flow *f, const azri_step *step, azri_key *k, unsigned char hash[32], azri_buf *out) {
    unsigned char print[32];
    size_t n = azri_chain_print(&k->chain, step->rs256, print);
    azredis_status st;
    if (!n) return azri_flow_fail(f, AZREDIS_E_STATE, "mbedTLS is built without SHA-1, which rs256 needs");
    st = azri_certificate_write(f, step, azri_slice(k->chain.ptr, k->chain.len), azri_slice((const char *)print, n));
    if (st != AZREDIS_OK) return st;
    (void)azri_mbedtls_sha256((const unsigned char *)f->proof.ptr, f->proof.len, hash);
    return step->sign ? st : azri_key_sign(k, step->rs256, hash, out, &f->error);
}

/* The key lives in here only. */
static AZRI_APART azredis_status azri_fetch_assert(const azri_port *port, azri_flow *f, const azri_step *step, azri_buf *out) {
    unsigned char hash[32];
    azredis_status st;
    azri_key k;
    memset(&k, 0, sizeof k);
    k.port = port;
    azri_tls_enter();
    (void)AZRI_PSA_INIT();
    st = step->sign ? azri_chain_load(&k.chain, &port->mem, step->certificate, step->password, &f->error)
                    : azri_key_load(&k, &port->mem, step->certificate, step->key, step->password, &f->error);
    if (st == AZREDIS_OK) st = azri_fetch_prepare(f, step, &k, hash, out);
    if (step->sign) azri_buf_free(&k.chain);
    azri_key_free(&k);
    azri_tls_leave();
    azri_wipe(&k, sizeof k);
    return st == AZREDIS_OK && step->sign ? azri_fetch_call_sign(f, step, hash, out) : st;
}

static void azri_fetch_sign(azredis_auth *a, azri_fetch *f) {
    azri_buf signature;
    azri_buf_init(&signature, &a->port.mem, AZRI_VALUE_MAX, 1);            /* in an arena the place of the token */
    azredis_status st = azri_fetch_assert(&a->port, &f->flow, &f->step, &signature);
    azri_flow_text(&f->flow, azri_auth_now(a), st, azri_slice(signature.ptr, signature.len), &f->flow.error);
    azri_buf_free(&signature);
}
#endif

#ifndef AZREDIS_NO_EXEC
static void azri_fetch_ran(azredis_auth *a, azri_fetch *f, azredis_status st) {
    const azri_child *c = &f->child;
    azri_flow_ran(&f->flow, azri_auth_now(a), st, azri_slice(c->text.ptr, c->text.len),
                  azri_slice(c->said, c->said_len), c->code, &f->child_error);
    azri_child_end(&f->child);
    azri_step_free(&f->step);
    f->phase = AZRI_FETCH_NEXT;
}

static void azri_fetch_exec(azredis_auth *a, azri_fetch *f, azri_grave *g, uint64_t now) {
    memset(&f->child_error, 0, sizeof f->child_error);
    azredis_status st = azri_child_start(&f->child, &a->port, g, f->step.argv, f->step.variable, f->step.where, now,
                                         f->step.timeout_ms, &f->child_error);
    if (st == AZREDIS_OK) f->phase = AZRI_FETCH_EXEC;
    else azri_fetch_ran(a, f, st);
}
#endif

static void azri_fetch_dial(azredis_auth *a, azri_fetch *f, azri_waker *w, azri_grave *g, uint64_t now) {
    azri_tls_conf conf;
    memset(&conf, 0, sizeof conf);
    conf.name = !f->step.url.tls ? NULL : f->step.name ? f->step.name : f->step.url.host;
    conf.where = f->step.where;
    conf.pin = f->step.pin;
    if (f->step.ca.len) {
        conf.ca = f->step.ca.ptr;
        conf.ca_len = f->step.ca.len;
    } else {
        conf.ca_file = a->conf.ca_file;
        conf.ca = a->conf.ca;
        conf.ca_len = a->conf.ca_len;
        /* An arena has no room for it; a pinned server and one of its own roots prove themselves each time. */
        conf.kept = azri_shape_of(&a->port.mem) || conf.pin ? NULL : &f->kept;
    }
    azri_line_begin(&f->line, &a->port, w, g, f->step.url.host, f->step.url.port, &conf, now,
                    f->step.connect_ms ? (uint32_t)azri_min64(f->step.connect_ms, f->step.timeout_ms)
                                       : f->step.timeout_ms);
    azri_http_init(&f->http, azri_flow_body, &f->flow);
    f->http.header = azri_flow_header;
    if (AZRI_WITH_PROXY && f->step.by_proxy && f->step.url.tls && a->conf.proxy)
        azri_line_by(&f->line, a->conf.proxy, &f->http);
    f->written = 0;
    f->until = azri_after(now, f->step.timeout_ms);
    f->phase = AZRI_FETCH_HTTP;
}

/* Reads the answer. A function of its own: the piece is not on the stack while TLS verifies a chain. */
static AZRI_APART azredis_status azri_fetch_read(azri_fetch *f, azredis_error *e) {
    char in[AZRI_FETCH_PIECE];
    size_t n = 0;
    azredis_status st;
    do {
        st = azri_line_read(&f->line, in, sizeof in, &n, e);
        if (st == AZREDIS_OK) st = azri_http_feed(&f->http, in, n, e);
        else if (st == AZREDIS_E_CLOSED) st = azri_http_eof(&f->http, e);
        else break;
    } while (st == AZREDIS_AGAIN);
    azri_wipe(in, sizeof in);
    return st;
}

/* Writes the request, reads the answer. AGAIN: later. */
static azredis_status azri_fetch_http(azri_fetch *f, uint64_t now, azredis_error *e) {
    size_t n = 0;
    azredis_status st = f->line.state == AZRI_LINE_OPEN ? AZREDIS_OK : azri_line_step(&f->line, now, e);
    while (st == AZREDIS_OK && f->written < f->step.request.len) {
        st = azri_line_write(&f->line, f->step.request.ptr + f->written, f->step.request.len - f->written, &n, e);
        if (st == AZREDIS_OK) f->written += n;
    }
    if (st == AZREDIS_OK) st = azri_fetch_read(f, e);
    if (st == AZREDIS_AGAIN && now >= f->until)
        return azri_fail(e, AZREDIS_E_TIMEOUT, f->step.where, "token request to %s:%u: no complete answer in %u ms; is "
                         "it the right authority, and is there a proxy or firewall on the way?", f->step.url.host,
                         (unsigned)f->step.url.port, (unsigned)f->step.timeout_ms);
    return st;
}

/* A machine that does not know the time takes that of the answer which brought the token. */
static azredis_status azri_fetch_learn(azredis_auth *a, const azri_fetch *f, uint64_t now, azredis_error *e) {
    if (!azri_line_has_tls(&f->line) || f->line.conf.pin || f->http.status != 200 || !AZRI_WITH_HTTP_DATE || f->http.date <= 0 ||
        azri_port_unix(&a->port) > 0)
        return AZREDIS_OK;
    azredis_status st = azri_tls_check_date(&f->line.tls, f->http.date, e);
    if (st != AZREDIS_OK) return st;
    azri_auth_lock(a);
    a->port.learned = f->http.date;
    a->port.learned_at = now;
    azri_auth_unlock(a);
    return AZREDIS_OK;
}

static void azri_fetch_call_only(azredis_auth *a, azri_fetch *f) {
    azri_flow_call_only(&f->flow, azri_auth_now(a), azri_port_unix(&a->port), &f->step);
    if (AZRI_ONLY_CALLBACK || f->step.call) azri_fetch_call(a, f);
    azri_fetch_end(a, f, azri_auth_now(a));
}

/* Goes as far as it can without waiting. 1: the walk has ended, f is gone. */
static AZRI_ONCE int azri_fetch_step(azredis_auth *a, azri_fetch *f, azri_waker *w, azri_grave *g) {
    azredis_error *e = &f->flow.error;
    azredis_status st;
    if (!AZRI_WITH_WALKS) {
        azri_fetch_call_only(a, f);
        return 1;
    }
    for (;;) {
        uint64_t now = azri_auth_now(a);
        if (f->phase == AZRI_FETCH_WAIT) {
            if (now < f->until) return 0;
            f->phase = AZRI_FETCH_NEXT;
        }
        if (AZRI_WITH_HTTP && f->phase == AZRI_FETCH_HTTP) {
            memset(e, 0, sizeof *e);
            st = azri_fetch_http(f, now, e);
            if (st == AZREDIS_AGAIN) return 0;
            if (st == AZREDIS_OK) st = azri_fetch_learn(a, f, now, e);
            azri_line_end(&f->line);
            azri_flow_http(&f->flow, now, st, &f->http, e);
            azri_step_free(&f->step);
            f->phase = AZRI_FETCH_NEXT;
        }
#ifndef AZREDIS_NO_EXEC
        if (f->phase == AZRI_FETCH_EXEC) {
            st = azri_child_step(&f->child, now, &f->child_error);
            if (st == AZREDIS_AGAIN) return 0;
            azri_fetch_ran(a, f, st);
        }
#endif
        switch (azri_flow_next(&f->flow, now, azri_port_unix(&a->port), &f->step)) {
        case AZRI_STEP_HTTP:
            if (AZRI_WITH_HTTP) azri_fetch_dial(a, f, w, g, now);
            break;
        case AZRI_STEP_FILE:
#ifndef AZREDIS_NO_OS
            azri_fetch_file(a, f);
#endif
            break;
        case AZRI_STEP_EXEC:
#ifndef AZREDIS_NO_EXEC
            azri_fetch_exec(a, f, g, now);
#endif
            break;
        case AZRI_STEP_CALL:
            if (AZRI_WITH_CALLS) azri_fetch_call(a, f);
            break;
        case AZRI_STEP_SIGN:
#ifndef AZREDIS_NO_CERTIFICATE
            azri_fetch_sign(a, f);
#endif
            break;
        case AZRI_STEP_WAIT:
            if (!azri_fetch_device_wait(a, f, now)) {
                azri_fetch_drop(a, f, now);
                return 1;
            }
            f->until = azri_after(now, f->step.wait_ms);
            f->phase = AZRI_FETCH_WAIT;
            break;
        case AZRI_STEP_DONE: default:
            azri_fetch_device_save(a, f);
            azri_fetch_end(a, f, now);
            return 1;
        }
    }
}

static uint64_t azri_fetch_deadline(const azri_fetch *f) {
    if (f->phase == AZRI_FETCH_NEXT) return 0;
#ifndef AZREDIS_NO_EXEC
    if (f->phase == AZRI_FETCH_EXEC) return azri_child_deadline(&f->child);
#endif
    return f->phase == AZRI_FETCH_WAIT ? f->until : azri_min64(f->until, azri_line_deadline(&f->line));
}

static size_t azri_fetch_fds(const azri_fetch *f, azri_fd *out, size_t cap) {
#ifndef AZREDIS_NO_EXEC
    if (f->phase == AZRI_FETCH_EXEC) return azri_child_fds(&f->child, out, cap);
#endif
    if (f->phase != AZRI_FETCH_HTTP) return 0;
    return azri_line_fds(&f->line, out, cap, f->written < f->step.request.len);
}

/* ---- life of an auth ---- */

static void azri_auth_free(azredis_auth *a) {
    azri_mem mem = a->port.mem;
    if (AZRI_WITH_SHARED) {
        if (a->own) a->drop_own(a, a->own, azri_auth_now(a));
        azri_waker_unref(a->own_waker);
    }
    azri_tls_forget(&a->kept, &mem);
    azri_pair_free(&a->pair);
    azri_blob_drop(a->blob);
#ifndef AZREDIS_NO_DEVICE_CODE
    azri_device_free(a->device, &mem);
#endif
    azri_identity_conf_free(&a->conf, &mem);
    azri_lock_free(&a->lock);
    azri_fork_unmark(&a->fork);
    azri_wipe(a, sizeof *a);
    azri_free(&mem, a, sizeof *a);
}

static void azri_auth_let_go(azredis_auth *a) {
    azri_auth_lock(a);
    uint32_t left = AZRI_WITH_SHARED ? --a->refs : 0;
    azri_auth_unlock(a);
    if (left == 0) azri_auth_free(a);
}

#ifndef AZREDIS_LEAN
AZREDIS_API void azredis_auth_release(azredis_auth *a) {
    if (a && !azri_auth_forked(a)) azri_auth_let_go(a);
}
#endif

/* ==== >>pump ============================================================== uses: above ==========
 * One non-blocking turn: sockets to sessions and back, token requests to flows and back. Everything that the pure half
 * decides is carried out here; nothing is decided here.
 * The functions run under the client's lock, which guards the hub and whatever a field's comment does not except,
 * and let go of it over every system call, TLS call and callback. Sockets, TLS and decoders belong to whoever has
 * the baton: the only thread of a plain program or a loop, else a thread of >>threads.
 * Entry points: azri_pump_turn, azri_pump_sleep, azri_pump_deadline, azri_pump_fds.
 * ================================================================================================ */

#define AZRI_READS_MAX    64            /* reads of one turn, so that a flood does not starve the writer */
#define AZRI_FEW          256u
#define AZRI_COPY_AGAIN   100u          /* ms until a token for whose copy there was no memory is copied again */

/* A session's line to its server. Of whoever has the baton. */
typedef struct azri_conn {
    char     *tx;                       /* one record on its way; frozen while TLS holds on to it. NULL: idle */
    const char *from;                   /* where that record stands: tx, or within azri_conn_write a value of the caller's */
    size_t    tx_size, tx_len, tx_at;
    int       heard;                    /* bytes came in the last turn */
    azri_line line;
    char      few[AZRI_FEW];            /* stands in for tx without memory: a renewal must not need any */
} azri_conn;

typedef struct azri_threads azri_threads;

struct azredis_client {
    azri_port      port;
    azri_lock      lock;
    uint32_t       inside;              /* public calls that have not returned */
    int            in_callback, closing;
    int            busy;                /* the last turn left work that needs no waiting; of the baton */
    int            silent;              /* nobody has rung the waker, as far as the last poll knew; of the baton */
    azri_waker    *waker;
    azredis_auth  *auth;
    azri_fetch    *fetch;               /* the walk that this client claimed; of the thread that pumps it */
    azri_cmd      *calls, *calls_tail;  /* finished commands whose callbacks are to be made */
    void         (*deliver)(azredis_client *c);  /* makes them; set by azredis_submit, without which there are none */
    void         (*end)(azredis_client *c);      /* set by azredis_close, without which nothing ends */
    uint32_t       connect_ms, command_ms, renew_ms;
    uint32_t       generation;          /* of the auth's blob that the hub has */
    uint32_t       failures_seen;       /* of the auth's fetches */
    int            refused;             /* its server has refused a token, and none since has been accepted */
    int            woken;               /* by azredis_wake */
    int            short_list;          /* the last azredis_fds had too little room */
    int            was_full, drained;   /* a submit was turned away; the event Drained is due */
    int            shared;              /* from azredis_start on; before it one thread at a time calls, and no lock is taken */
    azri_waker    *kick;                /* woken when the lock is let go */
    azri_threads  *threads;             /* NULL: not started */
    void         (*told)(azredis_client *c, int ended);  /* threads: tells those who sleep what a turn has brought */
    azri_watch     watch;
    azri_grave     grave;               /* of the baton */
    uint64_t       renew_spent;         /* of renew_ms, on the running renewal */
    uint64_t       headroom_at;
    uint64_t       notes_seen;
    uint64_t       accepted;            /* hash of the token last seen accepted */
    uint16_t       tcp_port;
    int            plaintext;
    char          *tls_host, *ca_file;
    const void    *ca;
    size_t         ca_len;
    azredis_event_fn on_event;
    void          *event_user;
    azri_hub       hub;
    azredis_error  broken;              /* wrong options; code OK: none */
    char           host[256], endpoint[272];
    azri_tls_kept  kept;                /* of the last connection, for the next; of the baton */
};

/* What azredis_start makes of a client; constants where there is none. */
static int azri_shared(const azredis_client *c) { return AZRI_WITH_THREADS && c->shared; }
static int azri_threaded(const azredis_client *c) { return AZRI_WITH_THREADS && c->threads; }

/* A walk is under way. Where there are no walks, the callback has its token within one turn. */
static int azri_fetching(const azredis_client *c) { return AZRI_WITH_WALKS && c->fetch; }

static uint64_t azri_now(const azredis_client *c) { return c->port.p.now_ms(c->port.p.user); }

static void azri_hold(azredis_client *c) {
    if (azri_shared(c)) azri_lock_acquire(&c->lock);
}

static AZRI_APART void azri_let_go_shared(azredis_client *c) {
    azri_waker *w = c->kick;
    c->kick = NULL;
    azri_lock_release(&c->lock);
    if (w) azri_waker_wake(w);
}

static void azri_let_go(azredis_client *c) {
    if (azri_shared(c)) azri_let_go_shared(c);
}

/* ---- tokens ---- */

/* Copies the auth's notes that this client has not seen into its own news. */
static void azri_pump_notes(azredis_client *c, uint64_t now) {
    azredis_auth *a = c->auth;
    uint64_t i, first = a->note_count > AZRI_NOTES_MAX ? a->note_count - AZRI_NOTES_MAX : 0;
    azri_item *item;
    uint32_t dropped;
    if (first > c->notes_seen) c->hub.news.dropped += (uint32_t)(first - c->notes_seen);
    for (i = azri_max64(first, c->notes_seen); i < a->note_count; i++) {
        const azri_item *note = &a->notes[i % AZRI_NOTES_MAX];
        if (note->type == AZREDIS_EV_LOG && note->level > c->hub.news.level) continue;
        if (note->type == AZREDIS_EV_DEVICE_CODE && !azri_hub_live_blob(&c->hub, now))
            (void)azri_fail(&c->hub.trouble, AZREDIS_E_TIMEOUT, "token", AZRI_NOBODY_YET);
        item = azri_news_add(&c->hub.news, note->type, NULL);
        dropped = item->dropped;
        *item = *note;
        item->dropped = dropped;
    }
    c->notes_seen = a->note_count;
}

/* A fetch's failure goes into the hub, its notes into the news. */
static void azri_pump_failure(azredis_client *c, uint64_t now) {
    azredis_auth *a = c->auth;
    if (AZRI_WITH_EVENTS) azri_pump_notes(c, now);
    if (a->token_failures != c->failures_seen && a->failure.code != AZREDIS_OK && !azri_hub_live_blob(&c->hub, now))
        azri_hub_trouble(&c->hub, &a->failure);
    c->failures_seen = a->token_failures;
}

/* Under the auth's lock. 1: it has a token that this client has not got yet, and that may be shown. */
static int azri_pump_wants_blob(const azredis_client *c, uint64_t now) {
    const azredis_auth *a = c->auth;
    return a->blob && a->generation != c->generation && (azri_is_static(&a->conf) || azri_token_live(&a->machine, now));
}

/* News between the hub and the auth, both ways. */
static void azri_pump_auth(azredis_client *c, uint64_t now) {
    azredis_auth *a = c->auth;
    const azri_session *s = azri_hub_main(&c->hub);
    azri_blob *mine = NULL;
    AZREDIS_ASSERT(s);                  /* a client has one from the start */
    azri_auth_lock(a);
    if (c->hub.rejected) {
        azri_token_rejected(&a->machine, now, c->hub.rejected);
        azri_auth_log(a, AZREDIS_LOG_WARNING, AZRI_LOG_TOKEN_REJECTED, "%s refused the token", c->endpoint);
        c->hub.rejected = c->accepted = 0;
        c->refused = 1;
    }
    if (s->blob && s->blob->hash != c->accepted) {
        c->accepted = s->blob->hash;
        if (c->refused) azri_token_accepted(&a->machine, c->accepted);
        if (c->accepted == a->machine.hash) c->refused = 0;
    }
    if (azri_pump_wants_blob(c, now)) {
        /* A copy of its own: the hub counts references without a lock. In an arena the auth is nobody else's. */
        mine = !AZRI_WITH_SHARED || azri_shape_of(&a->port.mem) ? azri_blob_hold(a->blob)
                                 : azri_blob_new(&c->port.mem, a->blob->user, azri_blob_jwt(a->blob));
        if (mine) {
            mine->generation = c->generation = a->generation;
            mine->expires_at = a->blob->expires_at;
            mine->life_ms = a->blob->life_ms;
            c->headroom_at = a->headroom_at;
        } else if (!azri_hub_live_blob(&c->hub, now)) {
            (void)azri_fail(&c->hub.made, AZREDIS_E_NOMEM, "token", "out of memory for a copy of the token");
            azri_hub_trouble(&c->hub, &c->hub.made);
        }
    }
    azri_pump_failure(c, now);
    c->port.learned = a->port.learned;
    c->port.learned_at = a->port.learned_at;
    azri_auth_unlock(a);
    if (!mine) return;
    azri_hub_token(&c->hub, mine, now);
    azri_blob_drop(mine);
}

/* The news of a shared auth from before this client are not told again, but it knows why there is no token. */
static void azri_pump_join(azredis_client *c) {
    azredis_auth *a = c->auth;
    if (AZRI_WITH_SHARED) azri_auth_watch(a, &c->watch, c->waker);
    azri_auth_lock(a);
    if (AZRI_WITH_EVENTS) {
        c->notes_seen = a->note_count;
        if (c->hub.news.level > a->wanted) a->wanted = c->hub.news.level;
    }
    c->failures_seen = a->token_failures;
    if (AZRI_WITH_SHARED && a->failure.code != AZREDIS_OK && !azri_token_live(&a->machine, azri_auth_now(a))) c->hub.trouble = a->failure;
    azri_auth_unlock(a);
}

/* 1: the token must wait for the end of the connection. */
static int azri_pump_rests(const azredis_client *c) {
    return AZRI_WITH_REST && c->hub.conf.by_reconnect && azri_hub_main(&c->hub)->link;
}

/* Renewal by reconnecting: is it time? */
static void azri_pump_rest(azredis_client *c, uint64_t now) {
    if (!AZRI_WITH_REST || !c->hub.conf.by_reconnect || azri_is_static(&c->auth->conf)) return;
    azri_auth_lock(c->auth);
    c->hub.resting = azri_fetching(c) || azri_token_due(&c->auth->machine, now);
    azri_auth_unlock(c->auth);
}

/* 1: it took a step, for which get_token may have taken its time. */
static int azri_pump_fetch(azredis_client *c, uint64_t now) {
    int before = c->in_callback, stepped;
    if (!azri_fetching(c) && azri_pump_rests(c)) return 0;
    c->in_callback = 1;                 /* get_token is one */
    azri_let_go(c);
    if (!azri_fetching(c) && (c->fetch = azri_fetch_claim(c->auth, now)) != NULL) c->renew_spent = 0;
    stepped = c->fetch != NULL;
    if (c->fetch && azri_fetch_step(c->auth, c->fetch, c->waker, &c->grave)) c->fetch = NULL;
    azri_hold(c);
    c->in_callback = before;
    if (AZRI_WITH_REST && !c->fetch) c->hub.resting = 0;
    return stepped;
}

/* ---- connections ---- */

static int azri_is_plain(const azredis_client *c) { return AZRI_WITH_PLAINTEXT && c->plaintext; }

static azri_conn *azri_conn_of(const azri_session *s) { return (azri_conn *)s->link; }

/* Gives the record's memory back, if nothing is in it. */
static void azri_conn_idle(azredis_client *c, azri_conn *k) {
    azri_line_idle(&k->line);
    if (k->tx_at < k->tx_len) return;
    if (k->tx && k->from == k->tx) azri_wipe(k->tx, k->tx_len);
    if (k->tx != k->few) azri_free(&c->port.mem, k->tx, k->tx_size);
    k->tx = NULL;
    k->tx_len = k->tx_at = 0;
}

/* Without the lock. */
static void azri_conn_free(azredis_client *c, azri_conn *k) {
    azri_line_end(&k->line);
    k->tx_at = k->tx_len;
    azri_conn_idle(c, k);
    azri_free(&c->port.mem, k, sizeof *k);
}

static void azri_conn_close(azredis_client *c, azri_session *s) {
    azri_conn *k = azri_conn_of(s);
    if (!k) return;
    s->link = NULL;
    azri_let_go(c);
    azri_conn_free(c, k);
    azri_hold(c);
}

static void azri_conn_dial(azredis_client *c, azri_session *s, uint64_t now) {
    azri_conn *k = (azri_conn *)azri_alloc(&c->port.mem, sizeof *k);
    azri_tls_conf conf;
    azri_hub_dialing(&c->hub, s);
    if (!k) {
        (void)azri_fail(&s->error, AZREDIS_E_NOMEM, "redis.connect", "%s: out of memory for a connection", c->endpoint);
        azri_hub_closed(&c->hub, s, &s->error, now);
        return;
    }
    k->tx = NULL;
    k->tx_len = k->tx_at = 0;
    k->heard = 0;
    memset(&conf, 0, sizeof conf);
    conf.name = azri_is_plain(c) ? NULL : c->tls_host;
    conf.ca_file = c->ca_file;
    conf.ca = c->ca;
    conf.ca_len = c->ca_len;
    conf.where = azri_is_plain(c) ? "redis.tcp" : "redis.tls";
    conf.kept = azri_shape_of(&c->port.mem) ? NULL : &c->kept;      /* an arena has no room for it */
    azri_line_begin(&k->line, &c->port, c->waker, &c->grave, c->host, c->tcp_port, &conf, now, c->connect_ms);
    s->link = k;
    c->busy = 1;                        /* the first step can be taken at once */
}

/* The frames of what has been received: AGAIN, or OK where reading must stop. Called without the lock, in which the
 * first is decoded, for it may be long; those behind it stand in the same block and are not worth a lock each. */
static azredis_status azri_conn_frames(azredis_client *c, azri_session *s, uint64_t now, azredis_error *e) {
    azri_frame f;
    azredis_status st;
    int held = 0;
    memset(&f, 0, sizeof f);
    while ((st = azri_resp_next(&s->resp, &f, e)) == AZREDIS_OK) {
        if (!held) azri_hold(c);
        held = 1;
        azri_hub_frame(&c->hub, s, &f, now);
        if (s->state == AZRI_DOWN) break;                          /* the hub has closed it */
        if (azri_shape_of(&c->port.mem) && c->hub.done.head) {      /* its answer must go before there is room for the next */
            c->busy = 1;
            break;
        }
    }
    if (held) azri_let_go(c);
    return st;
}

/* Frames from the server, until there are no more now: AGAIN. Without the lock: a long answer is decoded while
 * others queue theirs. */
static azredis_status azri_conn_read(azredis_client *c, azri_session *s, uint64_t now, azredis_error *e) {
    azri_conn *k = azri_conn_of(s);
    azredis_status st = AZREDIS_AGAIN;
    azri_line_look(&k->line);
    for (int reads = 0; ; reads++) {
        char *p;
        size_t n;
        st = azri_conn_frames(c, s, now, e);
        if (st != AZREDIS_AGAIN) return st == AZREDIS_OK ? AZREDIS_AGAIN : st;
        if (reads && azri_line_dry(&k->line)) return AZREDIS_AGAIN;
        if (reads == AZRI_READS_MAX) {
            c->busy = 1;
            return AZREDIS_AGAIN;
        }
        st = azri_resp_room(&s->resp, AZRI_RECORD, &p, &n);
        if (st != AZREDIS_OK) return azri_fail(e, st, "redis.read", "%s: out of memory for answers", c->endpoint);
        st = azri_line_read(&k->line, p, n, &n, e);
        if (st != AZREDIS_OK) break;
        azri_resp_got(&s->resp, n);
        k->heard = 1;
    }
    if (st == AZREDIS_E_CLOSED && azri_resp_mid_frame(&s->resp)) azri_fail_add(e, ", in the middle of an answer");
    return st;
}

static void azri_conn_room(azredis_client *c, azri_conn *k) {
    if (k->tx && k->tx != k->few) return;
    k->tx_size = AZRI_RECORD;
    k->tx = (char *)azri_alloc(&c->port.mem, k->tx_size);
    if (k->tx) return;
    k->tx = k->few;
    k->tx_size = sizeof k->few;
}

static AZRI_APART azredis_status azri_conn_write(azredis_client *c, azri_session *s, uint64_t now, azredis_error *e) {
    azri_conn *k = azri_conn_of(s);
    azredis_status st = AZREDIS_OK;
    size_t n = 0;
    while (st == AZREDIS_OK) {
        if (k->tx_at == k->tx_len) {
            if (k->tx && k->from == k->tx) azri_wipe(k->tx, k->tx_len);   /* it may have been an AUTH */
            k->tx_at = k->tx_len = 0;
            if (!azri_session_has_output(s)) return AZREDIS_OK;
            azri_conn_room(c, k);
            k->from = k->tx;
            /* With threads a caller may leave while its value is read without the lock. */
            k->tx_len = azri_session_output(s, k->tx, k->tx_size, now, azri_threaded(c) ? NULL : &k->from);
        }
        azri_let_go(c);
        st = azri_line_write(&k->line, k->from + k->tx_at, k->tx_len - k->tx_at, &n, e);
        azri_hold(c);
        if (st == AZREDIS_OK) k->tx_at += n;
    }
    if (st != AZREDIS_AGAIN) return st;
    if (k->from != k->tx) memcpy(k->tx, k->from, k->tx_len);      /* when it goes on the value may be gone */
    k->from = k->tx;
    return AZREDIS_OK;
}

static int azri_conn_has_output(const azri_session *s) {
    const azri_conn *k = azri_conn_of(s);
    return k->tx_at < k->tx_len || azri_session_has_output(s);
}

static int azri_is_up(const azri_session *s) {
    return s->state == AZRI_HANDSHAKE || s->state == AZRI_READY || s->state == AZRI_DRAINING;
}

/* A step of connecting. AGAIN: later. */
static AZRI_APART azredis_status azri_conn_connect(azredis_client *c, azri_session *s, uint64_t now, azredis_error *e) {
    azri_let_go(c);
    azredis_status st = azri_line_step(&azri_conn_of(s)->line, now, e);
    azri_hold(c);
    if (st != AZREDIS_OK) return st;
    if (!azri_hub_live_blob(&c->hub, now))
        return azri_fail(e, AZREDIS_E_CLOSED, "redis.auth", "%s: the token expired while connecting", c->endpoint);
    azri_hub_opened(&c->hub, s, now);
    return AZREDIS_OK;
}

/* Connecting and reading. A step that failed ends the connection. */
static void azri_conn_step(azredis_client *c, azri_session *s, uint64_t now) {
    azri_conn *k = azri_conn_of(s);
    azredis_error *e = &s->error;       /* of the baton, with the lock or without */
    azredis_status st = AZREDIS_OK;
    if (!k) return;
    k->heard = 0;
    if (s->state == AZRI_DIALING) st = azri_conn_connect(c, s, now, e);
    if (st == AZREDIS_OK && azri_is_up(s)) {
        azri_let_go(c);
        st = azri_conn_read(c, s, now, e);
        azri_hold(c);
        if (k->heard) s->last_read = now;           /* a long answer that trickles in is a sign of life */
    }
    if (st != AZREDIS_OK && st != AZREDIS_AGAIN) azri_hub_closed(&c->hub, s, e, now);
}

/* mbedTLS cannot change the keys of a live connection. */
static int azri_conn_worn(const azri_session *s) {
    const azri_line *l = &azri_conn_of(s)->line;
    return azri_line_has_tls(l) && azri_tls_records(&l->tls) >= AZRI_TLS_RECORDS_MAX;
}

static void azri_conn_flush(azredis_client *c, azri_session *s, uint64_t now) {
    if (!azri_is_up(s) || !s->link) return;
    if (azri_conn_write(c, s, now, &s->error) != AZREDIS_OK) azri_hub_closed(&c->hub, s, &s->error, now);
    else if (azri_conn_worn(s))
        azri_hub_handover(&c->hub, s, AZRI_TEXT("its TLS key has sealed as much as one key may"), now);
}

/* ---- what leaves towards the user ---- */

static void azri_calls_push(azredis_client *c, azri_cmd *cmd) {
    cmd->call_next = NULL;
    cmd->in_calls = 1;
    c->hub.undelivered++;
    if (c->calls_tail) c->calls_tail->call_next = cmd;
    else c->calls = cmd;
    c->calls_tail = cmd;
}

/* A command that nobody needs any more. A tombstone still stands in a FIFO, and comes here again from there. */
static inline void azri_cmd_leave(azredis_client *c, azri_cmd *cmd) {
    if (!cmd->linked && !cmd->in_done && !cmd->in_calls) {
        azri_stock_give(&c->hub.stock, cmd);
        return;
    }
    cmd->fn = NULL;
    cmd->done = NULL;
    cmd->reply = &cmd->own;
}

/* One finished command: its blocking caller is told at once, its callback is put down to be made. */
static void azri_tell_one(azredis_client *c, azri_cmd *cmd) {
    if (cmd->kind == AZRI_CMD_SUBSCRIBE) {
        azri_hub_subscribed(&c->hub, cmd);
    } else if (cmd->kind == AZRI_CMD_USER && !cmd->told) {
        if (cmd->reply->status == AZREDIS_OK) AZRI_COUNT(c->hub.stats.commands_ok, 1);
        else AZRI_COUNT(c->hub.stats.commands_failed, 1);
    }
    cmd->told = 1;
    if (cmd->done) ++*cmd->done;
    if (cmd->fn) azri_calls_push(c, cmd);
    else azri_cmd_leave(c, cmd);
}

/* Looked at whenever commands have ended, and again when callbacks were made: until then they count as well. */
static void azri_tell_drained(azredis_client *c) {
    if (!AZRI_WITH_EVENTS || !c->was_full || c->closing || !azri_hub_half_empty(&c->hub)) return;
    c->was_full = 0;
    c->drained = 1;
}

static void azri_tell(azredis_client *c) {
    azri_cmd *cmd = c->hub.done.head, *next;
    int ended = 0;
    c->hub.done.head = c->hub.done.tail = NULL;
    for (; cmd; cmd = next) {
        next = cmd->done_next;
        cmd->in_done = 0;
        if (cmd->in_calls) continue;            /* its callback has not been made yet; that will free it */
        azri_tell_one(c, cmd);
        ended = 1;
    }
    azri_tell_drained(c);
    if (azri_threaded(c)) c->told(c, ended);
}

static void azri_deliver_calls(azredis_client *c) {
    azri_cmd *cmd;
    while ((cmd = c->calls) != NULL) {
        c->calls = cmd->call_next;
        if (!c->calls) c->calls_tail = NULL;
        azri_let_go(c);
        cmd->fn(c, cmd->reply, cmd->user);
        azri_hold(c);
        cmd->in_calls = 0;
        c->hub.undelivered--;
        azri_cmd_leave(c, cmd);
    }
}

/* The members that an event of this type has. */
static void azri_item_event(const azri_item *it, azredis_event *ev) {
    memset(ev, 0, sizeof *ev);
    ev->type = it->type;
    ev->old_left_ms = it->old_left_ms;
    ev->new_left_ms = it->new_left_ms;
    ev->next_try_ms = it->next_try_ms;
    ev->error = it->has_error ? &it->error : NULL;
    ev->level = it->level;
    ev->number = it->number;
    ev->text = it->type == AZREDIS_EV_LOG ? it->text : NULL;
    ev->dropped = it->dropped;
    ev->connection = it->connection;
    if (it->type != AZREDIS_EV_DEVICE_CODE) return;
    ev->user_code = it->text;                       /* three strings: the prompt of azri_device */
    ev->verification_uri = ev->user_code + strlen(ev->user_code) + 1;
    ev->text = ev->verification_uri + strlen(ev->verification_uri) + 1;
}

/* Without the lock. */
static void azri_deliver_event(azredis_client *c, azredis_event *ev) {
    ev->client = c;
    if (ev->type != AZREDIS_EV_LOG && ev->type != AZREDIS_EV_TOKEN_REFRESHED &&
        ev->type != AZREDIS_EV_TOKEN_REFRESH_FAILED && ev->type != AZREDIS_EV_DEVICE_CODE)
        ev->endpoint = c->endpoint;
    if (c->on_event) c->on_event(ev, c->event_user);
    else if (ev->type == AZREDIS_EV_LOG) azri_event_default(ev);
}

/* Not through the ring, which may drop: who waits for it would wait for ever. */
static void azri_deliver_drained(azredis_client *c) {
    azredis_event ev;
    memset(&ev, 0, sizeof ev);
    ev.type = AZREDIS_EV_DRAINED;
    ev.old_left_ms = ev.new_left_ms = ev.next_try_ms = AZREDIS_UNKNOWN;
    c->drained = 0;
    azri_let_go(c);
    azri_deliver_event(c, &ev);
    azri_hold(c);
}

static void azri_deliver_news(azredis_client *c) {
    azri_news *n = &c->hub.news;
    while (AZRI_WITH_EVENTS && n->count) {
        azredis_event ev;
        azri_item_event(azri_news_at(n, 0), &ev);
        n->lent = 1;                                /* the handler may cause more news */
        azri_let_go(c);
        azri_deliver_event(c, &ev);
        azri_hold(c);
        n->lent = 0;
        n->first = (n->first + 1) % AZRI_NEWS_MAX;
        n->count--;
    }
    azri_tell_drained(c);
    if (AZRI_WITH_EVENTS && c->drained) azri_deliver_drained(c);
}

/* The next message for a callback, in the order in which they came. 0: there is none. */
static int azri_deliver_messages(azredis_client *c) {
    azredis_sub *s, *first = NULL;
    azredis_message m;
    for (s = c->hub.subs; s; s = s->next)
        if (s->fn && !s->dead && s->head && (!first || s->head->arrival < first->head->arrival)) first = s;
    if (!first || !azri_sub_next(first, &m)) return 0;
    first->busy++;
    azri_let_go(c);
    first->fn(c, &m, first->user);
    azri_hold(c);
    first->busy--;
    return 1;
}

/* All callbacks of a plain program and a loop run here, with the machine at rest: they may submit and close. */
static void azri_deliver(azredis_client *c) {
    int before = c->in_callback;
    c->in_callback = 1;
    if (c->calls) c->deliver(c);
    while (azri_deliver_messages(c)) {}
    azri_deliver_news(c);
    c->in_callback = before;
}

/* ---- the turn ---- */

/* What all that pump do: read, let time pass, write, tell. Reading comes first: what has been closed or has expired
 * is found out before anything is written into it. */
static void azri_turn_read(azredis_client *c, azri_waker *w, uint64_t now) {
    int called;
    c->busy = 0;
    if (!c->silent) {
        azri_let_go(c);
        called = azri_waker_drain(w);
        azri_hold(c);
        if (called) c->woken = 1;
        c->silent = 1;
    }
    for (azri_session *s = c->hub.sessions; s; s = azri_next(s)) azri_conn_step(c, s, now);
}

/* The last part of a turn: what waits is written, who waits is told. */
static void azri_turn_write(azredis_client *c, uint64_t now) {
    for (azri_session *s = c->hub.sessions; s; s = azri_next(s)) {
        if (s->state == AZRI_DOWN) azri_conn_close(c, s);
        if (azri_hub_may_dial(&c->hub, s, now)) azri_conn_dial(c, s, now);
        azri_conn_flush(c, s, now);
        if (s->state == AZRI_DOWN) azri_conn_close(c, s);
    }
    azri_tell(c);
    if (!azri_threaded(c)) azri_deliver(c);
}

/* The walk for the next token: of the thread that pumps, the baton is not needed. */
static int azri_pump_token(azredis_client *c, uint64_t now) {
    if (azri_is_static(&c->auth->conf)) return 0;
    azri_pump_rest(c, now);
    return azri_pump_fetch(c, now);
}

/* A leased connection that has ended, and is not made again. */
static int azri_is_lost(const azri_session *s) {
    return azri_role(s) == AZREDIS_CONNECTION_LEASED && s->state == AZRI_DOWN && !s->link && s->dial_at == AZRI_NEVER64;
}

static int azri_all_up(const azredis_client *c) {
    for (const azri_session *s = c->hub.sessions; s; s = azri_next(s))
        if (s->state != AZRI_READY && s->state != AZRI_DRAINING && !azri_is_lost(s)) return 0;
    return 1;
}

/* The first parts of a turn: what came is read, the token is looked after (with threads beside it), time passes. Returns
 * the time; azri_turn_write must follow. */
static uint64_t azri_pump_look(azredis_client *c, uint64_t now) {
    azri_turn_read(c, c->waker, now);
    int stepped = !azri_threaded(c) && azri_pump_token(c, now);
    if (azri_resting(&c->hub) && !azri_fetching(c)) azri_hub_rest(&c->hub, now);
    if (stepped || azri_fetching(c) || !azri_all_up(c)) now = azri_now(c);  /* a handshake or get_token may take its time */
    azri_pump_auth(c, now);
    azri_hub_tick(&c->hub, now);
    return now;
}

/* 1: the last turn has read something. */
static int azri_pump_heard(const azredis_client *c) {
    const azri_conn *k = azri_conn_of(azri_hub_main(&c->hub));
    return k && k->heard;
}

/* One turn without waiting. */
static void azri_pump_turn(azredis_client *c) { azri_turn_write(c, azri_pump_look(c, azri_now(c))); }

/* When the sessions want a turn. With the baton. */
static uint64_t azri_turn_deadline(const azredis_client *c, uint64_t now) {
    uint64_t t = azri_hub_deadline(&c->hub, now);
    if (c->busy || c->hub.done.head) return now;
    for (const azri_session *s = c->hub.sessions; s; s = azri_next(s)) {
        const azri_conn *k = azri_conn_of(s);
        if (!k) continue;
        azri_sooner(&t, azri_line_deadline(&k->line));
        if (k->line.state == AZRI_LINE_OPEN && azri_line_has_tls(&k->line) && azri_tls_pending(&k->line.tls)) return now;
        if (azri_is_up(s) && k->tx_at == k->tx_len && azri_session_has_output(s)) return now;
    }
    return t;
}

/* When the token wants one. */
static uint64_t azri_fetch_due(azredis_client *c, uint64_t now) {
    uint64_t t = azri_fetching(c) ? azri_fetch_deadline(c->fetch) : AZRI_NEVER64;
    azri_auth_lock(c->auth);
    if (!azri_is_static(&c->auth->conf) && !azri_fetching(c) && !(azri_resting(&c->hub) && azri_pump_rests(c)))
        azri_sooner(&t, azri_token_deadline(&c->auth->machine, now));
    if (c->auth->note_count != c->notes_seen || c->auth->token_failures != c->failures_seen || c->hub.rejected) t = now;
    if (azri_pump_wants_blob(c, now)) azri_sooner(&t, now + AZRI_COPY_AGAIN);
    azri_auth_unlock(c->auth);
    return t;
}

static uint64_t azri_pump_deadline(azredis_client *c, uint64_t now) {
    if (AZRI_TICK) return c->busy || c->hub.done.head || c->calls || c->drained ? now : now + AZRI_TICK;
    uint64_t t = azri_turn_deadline(c, now);
    if (c->calls || (AZRI_WITH_EVENTS && (c->drained || c->hub.news.count))) return now;
    return azri_min64(t, azri_fetch_due(c, now));
}

/* The sockets of all sessions; how many there are, which may be more than cap. */
static size_t azri_turn_fds(const azredis_client *c, azri_fd *out, size_t cap) {
    size_t n = 0;
    for (const azri_session *s = c->hub.sessions; s; s = azri_next(s))
        if (s->link)
            n += azri_line_fds(&azri_conn_of(s)->line, out + azri_minz(n, cap), cap - azri_minz(n, cap),
                               azri_conn_has_output(s));
    return n;
}

/* All sockets; how many there are, which may be more than cap. The ones with the most work come first. */
static size_t azri_pump_fds(const azredis_client *c, azri_fd *out, size_t cap) {
    size_t n = azri_turn_fds(c, out, cap);
    n += azri_waker_fds(c->waker, out + azri_minz(n, cap), cap - azri_minz(n, cap));
    if (azri_fetching(c)) n += azri_fetch_fds(c->fetch, out + azri_minz(n, cap), cap - azri_minz(n, cap));
    return n;
}

/* An idle connection holds no blocks for speed. */
static void azri_pump_idle(azredis_client *c) {
    for (azri_session *s = c->hub.sessions; s; s = azri_next(s))
        if (s->in_flight == 0) {
            azri_resp_idle(&s->resp);
            if (s->link) azri_conn_idle(c, azri_conn_of(s));
        }
    azri_hub_idle(&c->hub);
}

/* 1: a poll of ours has found the waker quiet. */
static int azri_is_silent(const azri_port *port, const azri_waker *w, const azri_fd *fds, size_t n) {
    azri_fd own;
    if (!azri_port_polls(port) || azri_waker_fds(w, &own, 1) == 0) return 0;
    for (size_t i = 0; i < n; i++)
        if (fds[i].sock == own.sock) return !fds[i].ready;
    return 0;
}

/* Sleeps until something is ready or due, at most until `until`. */
static void azri_pump_sleep(azredis_client *c, uint64_t until) {
    azri_fd fds[AZRI_FDS_MAX];
    uint64_t now = azri_now(c), t = azri_min64(until, azri_pump_deadline(c, now));
    if (t <= now) return;
    if (t - now >= AZRI_SECOND) azri_pump_idle(c);
    size_t n = azri_minz(azri_pump_fds(c, fds, AZRI_FDS_MAX), AZRI_FDS_MAX);
    azri_let_go(c);
    c->port.p.wait(c->port.p.user, fds, n, (uint32_t)azri_min64(t - now, AZRI_WAIT_MAX));
    azri_hold(c);
    c->silent = azri_is_silent(&c->port, c->waker, fds, n);
}

/* ---- the end ---- */

/* Every command ends. Under the lock. */
static void azri_client_fail_all(azredis_client *c) {
    azri_queue unsent;
    const azredis_error *e = &c->hub.made;
    memset(&unsent, 0, sizeof unsent);
    (void)azri_fail(&c->hub.made, AZREDIS_E_CLOSED, "client", "the client was closed");
    for (azri_session *s = c->hub.sessions; s; s = azri_next(s)) {
        azri_session_closed(s, e, &unsent);
        s->dial_at = AZRI_NEVER64;      /* a lease has ended by that, too */
    }
    azri_hub_fail_queue(&c->hub, &unsent, e);
    azri_hub_fail_queue(&c->hub, &c->hub.backlog, e);
    azri_tell(c);
}

/* Frees what azredis_open makes; the waker and the auth may be missing after a failed one, which comes here at once. */
static void azri_client_undo(azredis_client *c) {
    azri_mem mem = c->port.mem;
    if (AZRI_WITH_SHARED && c->auth && c->waker) azri_auth_unwatch(c->auth, &c->watch, c->refused);
    if (c->auth) azri_auth_let_go(c->auth);
    if (c->waker) azri_waker_unref(c->waker);
    azri_lock_free(&c->lock);
    azri_tls_forget(&c->kept, &mem);
    azri_strfree(&mem, c->tls_host);
    if (AZRI_WITH_ENV) azri_strfree(&mem, c->ca_file);
    azri_wipe(c, sizeof *c);
    azri_free(&mem, c, sizeof *c);
}

/* Frees all. Nobody else may be inside. */
static void azri_client_free(azredis_client *c) {
    for (azri_session *s = c->hub.sessions; s; s = azri_next(s))
        if (s->link) azri_conn_free(c, azri_conn_of(s));
    c->grave.keep = NULL;               /* what the token request still closes is closed at once */
    azri_grave_clear(&c->grave, &c->port, c->grave.count);
    if (azri_fetching(c)) azri_fetch_drop(c->auth, c->fetch, azri_now(c));
    azri_hub_free(&c->hub);             /* in an arena it has the auth's token */
    azri_client_undo(c);
}

/* Without threads: every command ends, every callback runs, then the memory goes. Under the lock, which goes too. */
static void azri_client_end(azredis_client *c) {
    c->inside++;                        /* a last callback may give up a subscription: that must not end it again */
    c->closing = 1;
    azri_client_fail_all(c);
    azri_deliver(c);
    azri_let_go(c);
    azri_client_free(c);
}

#ifndef AZREDIS_NO_THREADS
/* ==== >>threads =========================================================== uses: above ==========
 * azredis_start: calls from any thread, and a client that lives by itself. Two threads: I/O and delivery.
 * The baton is the right to use the sockets, TLS and decoders. A caller that finds it free takes it and does the
 * I/O of its own command itself, without a change of threads; those that come meanwhile queue theirs, sleep, and are
 * told; who lets go of the baton gives it to the oldest that still sleeps. Otherwise it is free, and the I/O thread
 * watches the sockets. That one alone dials, fetches tokens and closes, so a caller takes the baton only while every
 * session is ready.
 * While a caller has the baton the I/O thread must sleep through the answers: a caller takes the sockets out of
 * its epoll set and puts them back (elsewhere the I/O thread looks away for a moment after a call).
 * Callbacks run on the delivery thread, one at a time, without a lock.
 * Entry points: azredis_start, azri_threads_until, _await, _kick, _mine, _unsubscribe, _close.
 * ================================================================================================ */
#if defined(__linux__) && !defined(AZRI_NO_EPOLL)
#  define AZRI_EPOLL 1
#  include <sys/epoll.h>
#else
#  define AZRI_EPOLL 0
#endif

#define AZRI_QUIET 2u                /* ms after a call in which a poll leaves the sockets to the next call */

/* ---- conditions: under the client's lock, on the monotonic clock whatever the port's clock says ---------- */

typedef struct azri_cond {           /* zeroed: none */
    pthread_cond_t c;
    int            made;
} azri_cond;

static int azri_cond_init(azri_cond *c) {
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0) return 0;
#ifndef __APPLE__
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
#endif
    c->made = pthread_cond_init(&c->c, &attr) == 0;
    (void)pthread_condattr_destroy(&attr);
    return c->made;
}

static void azri_cond_free(azri_cond *c) {
    if (c->made) (void)pthread_cond_destroy(&c->c);
}

static void azri_cond_signal(azri_cond *c) { (void)pthread_cond_signal(&c->c); }
static void azri_cond_broadcast(azri_cond *c) { (void)pthread_cond_broadcast(&c->c); }

/* Returns after a signal, after ms, or without a reason. */
static void azri_cond_wait(azredis_client *client, azri_cond *c, uint64_t ms) {
    struct timespec t;
    azri_waker *w = client->kick;
    client->kick = NULL;             /* what was done under the lock so far is told before this thread sleeps */
    if (w) azri_waker_wake(w);
    memset(&t, 0, sizeof t);
#ifdef __APPLE__
    t.tv_sec = (time_t)(ms / 1000u);
    t.tv_nsec = (long)(ms % 1000u) * 1000000;
    (void)pthread_cond_timedwait_relative_np(&c->c, &client->lock.m, &t);
#else
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += (long)(ms % 1000u) * 1000000;
    t.tv_sec += (time_t)(ms / 1000u) + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&c->c, &client->lock.m, &t);
#endif
}

/* ---- park: where the I/O thread sleeps ------------------------------------------------------------------- */

#if AZRI_EPOLL
typedef struct azri_park { int ep; } azri_park;

static int azri_park_ctl(const azri_park *p, int op, const azri_fd *f, unsigned want) {
    struct epoll_event ev;
    memset(&ev, 0, sizeof ev);
    ev.events = (want & AZRI_READ ? (uint32_t)EPOLLIN : 0u) | (want & AZRI_WRITE ? (uint32_t)EPOLLOUT : 0u);
    return epoll_ctl(p->ep, op, (int)f->sock, &ev) == 0;
}

static int azri_park_open(azri_park *p) {
    p->ep = epoll_create1(EPOLL_CLOEXEC);
    return p->ep >= 0;
}

static void azri_park_close(azri_park *p) {
    if (p->ep >= 0) (void)close(p->ep);
}

/* Adds to the set, or says what is wanted now. Nothing is ever taken out: a socket that is closed leaves the set by
 * itself, and its number may be another's by now. */
static void azri_park_watch(azri_park *p, const azri_fd *f, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!azri_park_ctl(p, EPOLL_CTL_MOD, &f[i], f[i].want)) (void)azri_park_ctl(p, EPOLL_CTL_ADD, &f[i], f[i].want);
}

static void azri_park_sleep(azri_park *p, const azri_fd *own, size_t n, int ms) {
    struct epoll_event ev[8];
    azri_park_watch(p, own, n);
    (void)epoll_wait(p->ep, ev, 8, ms);
}

/* A socket is taken over by a caller (back 0), or given back. 0: the set does not have it. */
static int azri_park_lend(const azri_park *p, const azri_fd *f, int back) {
    return azri_park_ctl(p, EPOLL_CTL_MOD, f, back ? f->want : 0u);
}
#else
typedef struct azri_park { size_t n; azri_fd fd[AZRI_FDS_MAX]; } azri_park;

static int azri_park_open(azri_park *p) {
    p->n = 0;
    return 1;
}

static void azri_park_close(azri_park *p) { p->n = 0; }

static void azri_park_watch(azri_park *p, const azri_fd *f, size_t n) {
    p->n = azri_minz(n, AZRI_FDS_MAX);
    if (p->n) memcpy(p->fd, f, p->n * sizeof f[0]);
}

/* Those in use by a caller, or just given back, are not watched: every call's answer would wake this thread. */
static void azri_park_sleep(azri_park *p, const azri_fd *own, size_t n, int ms) {
    azri_fd all[AZRI_POLL_MAX];
    size_t more = azri_minz(p->n, AZRI_POLL_MAX - n);
    memcpy(all, own, n * sizeof own[0]);
    memcpy(all + n, p->fd, more * sizeof p->fd[0]);
    (void)azri_poll(all, n + more, ms);
}

static int azri_park_lend(const azri_park *p, const azri_fd *f, int back) {
    (void)p;
    (void)f;
    (void)back;
    return 1;
}
#endif

/* ---- state ----------------------------------------------------------------------------------------------- */

typedef struct azri_sleeper {        /* a thread in a blocking call */
    struct azri_sleeper *next;
    azri_cond     cond;
    const int    *done;
    int           want;
    int           heir;              /* it was given the baton */
} azri_sleeper;

struct azri_threads {
    pthread_t     io, delivery;
    azri_waker   *turn_waker;        /* ends the sleep of a caller that has the baton */
    azri_waker   *wait_waker;        /* ends azredis_wait */
    azri_sleeper *first, **end;      /* oldest first; where the next one is hung */
    azri_cond     deliver;           /* there is something for the delivery thread */
    azri_cond     changed;           /* something that azri_threads_await waits for */
    azri_cond     freed;             /* the baton, for an I/O thread that has found it taken */
    int           baton;             /* 1: taken */
    int           holder_asleep;     /* the caller that has it sleeps; not yet woken */
    int           io_asleep;         /* likewise; also while somebody else has the baton */
    int           io_waits;          /* for the baton */
    int           wrote;             /* the set was renewed while a line wanted to write, or came and went */
    int           lent;              /* a caller has the sockets: they are out of the I/O thread's set */
    uint32_t      watched;           /* connections made when the set was last renewed */
    uint64_t      io_until;          /* the I/O thread sleeps no longer than that */
    uint64_t      last_call;         /* when the baton was last given back */
    uint32_t      watchers;          /* threads that wait for `changed` */
    uint64_t      seen;              /* what they have been told of */
    int           io_ended, stop, close_here;
    azri_park     park;              /* of the I/O thread */
};

static int azri_all_ready(const azredis_client *c) {
    return !azri_resting(&c->hub) && azri_all_up(c);       /* resting: the connection is to be closed */
}

/* Wakes when the lock is let go; there is one place for that. */
static void azri_kick_later(azredis_client *c, azri_waker *w) {
    if (c->kick && c->kick != w) azri_waker_wake(c->kick);
    c->kick = w;
}

/* Wakes whoever sleeps on the sockets, when the lock is let go. One who is awake will look by himself. */
static void azri_threads_kick(azredis_client *c) {
    azri_threads *t = c->threads;
    if (t->baton && t->holder_asleep) {
        t->holder_asleep = 0;
        azri_kick_later(c, t->turn_waker);
    } else if (!t->baton && t->io_asleep) {
        t->io_asleep = 0;
        azri_kick_later(c, c->waker);
    }
}

/* The I/O thread has something to do that a caller cannot. */
static void azri_threads_call_io(azredis_client *c) {
    azri_threads *t = c->threads;
    if (t->io_waits) azri_cond_signal(&t->freed);
    if (!t->io_asleep) return;
    t->io_asleep = 0;
    azri_kick_later(c, c->waker);
}

/* A number that changes with all that azri_threads_await may be waiting for, but for ended commands. */
static uint64_t azri_threads_sum(const azredis_client *c) {
    const azri_session *s;
    uint64_t n = c->hub.stats.messages * 31 + c->hub.stats.connects * 7 +
                 (uint64_t)(c->hub.trouble.code != AZREDIS_OK) * 3 + (uint64_t)c->hub.aborted;
    for (s = c->hub.sessions; s; s = azri_next(s)) n = (n * 11 + (uint64_t)s->state) * 13 + s->attempts;
    return n * 5 + c->hub.answers;
}

/* azredis_client.told: after each turn. */
static void azri_threads_told(azredis_client *c, int ended) {
    azri_threads *t = c->threads;
    for (azri_sleeper *w = ended ? t->first : NULL; w; w = w->next)
        if (*w->done >= w->want) azri_cond_signal(&w->cond);
    uint64_t sum = azri_threads_sum(c);
    if (t->watchers && (ended || sum != t->seen)) azri_cond_broadcast(&t->changed);
    if (c->calls || c->drained || c->hub.news.count || sum != t->seen) azri_cond_signal(&t->deliver);
    t->seen = sum;
    if (c->hub.rejected) azri_threads_call_io(c);
}

/* ---- the baton -------------------------------------------------------------------------------------------- */

/* The sockets of the sessions leave the I/O thread's set, or come back into it. Lets go of the lock. */
static void azri_baton_lend(azredis_client *c, int back) {
    azri_fd fds[AZRI_FDS_MAX];
    size_t i, n = azri_minz(azri_turn_fds(c, fds, AZRI_FDS_MAX), AZRI_FDS_MAX);
    unsigned writing = 0;
    int ok = 1;
    c->threads->lent = !back;
    azri_let_go(c);
    for (i = 0; i < n; i++) {
        ok &= azri_park_lend(&c->threads->park, &fds[i], back);
        writing |= fds[i].want & AZRI_WRITE;
    }
    azri_hold(c);
    if (back && writing) c->threads->wrote = 1;     /* the set must be renewed when that has been written */
    if (ok || !back) return;
    c->threads->wrote = 1;                          /* it has not seen this socket yet */
    azri_threads_call_io(c);
}

static azri_sleeper *azri_baton_heir(const azredis_client *c) {
    if (c->closing || !azri_all_ready(c)) return NULL;
    for (azri_sleeper *w = c->threads->first; w; w = w->next)
        if (*w->done < w->want) return w;
    return NULL;
}

/* The holder is done: to the oldest that still waits, else to the I/O thread's care. */
static void azri_baton_pass(azredis_client *c) {
    azri_threads *t = c->threads;
    azri_sleeper *w;
    while ((w = azri_baton_heir(c)) == NULL && t->lent) azri_baton_lend(c, 1);    /* meanwhile somebody may have come */
    if (w) {
        w->heir = 1;
        azri_cond_signal(&w->cond);
        return;
    }
    t->baton = 0;
    if (c->closing) azri_cond_broadcast(&t->changed);
    if (t->io_waits) azri_cond_signal(&t->freed);
}

/* The I/O thread has to look before it would by itself. */
static void azri_baton_check(azredis_client *c) {
    azri_threads *t = c->threads;
    if (t->baton) return;
    if (c->closing || !azri_all_ready(c) || c->hub.rejected || azri_turn_deadline(c, azri_now(c)) < t->io_until)
        azri_threads_call_io(c);
}

/* A caller's turn: all sessions are ready, so there is nothing to dial, fetch or close. */
static void azri_caller_turn(azredis_client *c) {
    uint64_t now = azri_now(c);
    azri_turn_read(c, c->threads->turn_waker, now);
    azri_hub_tick(&c->hub, now);
    for (azri_session *s = c->hub.sessions; s; s = azri_next(s)) azri_conn_flush(c, s, now);
    azri_tell(c);
}

static void azri_caller_sleep(azredis_client *c) {
    azri_threads *t = c->threads;
    azri_fd fds[AZRI_FDS_MAX];
    uint64_t now = azri_now(c), until = azri_turn_deadline(c, now);
    if (until <= now) return;
    fds[0] = azri_waker_fd(t->turn_waker);
    size_t n = 1 + azri_minz(azri_turn_fds(c, fds + 1, AZRI_FDS_MAX - 1), AZRI_FDS_MAX - 1);
    t->holder_asleep = 1;
    azri_let_go(c);
    (void)azri_poll(fds, n, (int)azri_min64(until - now, AZRI_WAIT_MAX));
    azri_hold(c);
    c->silent = !fds[0].ready;
    t->holder_asleep = 0;
}

/* With the baton: until the own commands are answered or the I/O thread is needed. */
static void azri_caller_turns(azredis_client *c, const azri_sleeper *w) {
    if (!c->threads->lent) azri_baton_lend(c, 0);
    for (;;) {
        azri_caller_turn(c);
        if (*w->done >= w->want || c->closing || !azri_all_ready(c)) break;
        azri_caller_sleep(c);
    }
    azri_baton_pass(c);
    c->threads->last_call = azri_now(c);
    azri_baton_check(c);
}

/* ---- waiting ---------------------------------------------------------------------------------------------- */

static void azri_sleeper_add(azri_threads *t, azri_sleeper *w) {
    w->next = NULL;
    *t->end = w;
    t->end = &w->next;
}

static void azri_sleeper_remove(azri_threads *t, const azri_sleeper *w) {
    azri_sleeper **at = &t->first;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    if (t->end == &w->next) t->end = at;
}

/* Ends what has run out of time, without the session's other duties: for callers whose pump is held up. */
static void azri_hub_expire(azri_hub *h, uint64_t now) {
    for (azri_session *s = h->sessions; s; s = azri_next(s))
        if (s->state == AZRI_READY || s->state == AZRI_DRAINING) azri_session_expire(s, now, &h->made);
    azri_hub_expire_backlog(h, now);
}

/* Others have the baton: sleeps until told or given it. Commands end in time even if the one who has it is held up. */
static void azri_sleeper_wait(azredis_client *c, azri_sleeper *w) {
    uint64_t now = azri_now(c), until = azri_hub_deadline(&c->hub, now);
    azri_threads_kick(c);
    if (c->kick) {
        azri_let_go(c);
        azri_hold(c);
        if (w->heir || *w->done >= w->want) return;
    }
    azri_cond_wait(c, &w->cond, azri_max64(until > now ? until - now : 0, AZRI_OWN_PAUSE));
    if (w->heir || *w->done >= w->want) return;
    azri_hub_expire(&c->hub, azri_now(c));
    azri_tell(c);
}

/* Sleeps until something has changed, or `until`. */
static void azri_threads_await(azredis_client *c, uint64_t until) {
    uint64_t now = azri_now(c);
    if (until <= now) return;
    azri_threads_kick(c);
    if (c->kick) {                                  /* what is waited for may come meanwhile: the caller looks again */
        azri_let_go(c);
        azri_hold(c);
        return;
    }
    c->threads->watchers++;
    azri_cond_wait(c, &c->threads->changed, azri_min64(until - now, AZRI_WAIT_MAX));
    c->threads->watchers--;
}

/* The same on a system that had no condition left for this caller: the I/O thread does the work. */
static void azri_threads_until_slow(azredis_client *c, const int *done, int want) {
    while (*done < want) {
        azri_threads_await(c, azri_now(c) + AZRI_OWN_PAUSE);
        azri_hub_expire(&c->hub, azri_now(c));
        azri_tell(c);
    }
}

/* A blocking call's commands have been queued: returns when *done == want. Each ends by its own deadline. */
static void azri_threads_until(azredis_client *c, const int *done, int want) {
    azri_threads *t = c->threads;
    azri_sleeper w;
    memset(&w, 0, sizeof w);
    w.done = done;
    w.want = want;
    if (!azri_cond_init(&w.cond)) {
        azri_threads_until_slow(c, done, want);
        return;
    }
    azri_sleeper_add(t, &w);
    while (*done < want) {
        if (w.heir || (!t->baton && !c->closing && azri_all_ready(c))) {
            w.heir = 0;
            t->baton = 1;
            azri_caller_turns(c, &w);
        } else {
            azri_sleeper_wait(c, &w);
        }
    }
    azri_sleeper_remove(t, &w);
    if (w.heir) {
        azri_baton_pass(c);
        azri_baton_check(c);
    }
    azri_cond_free(&w.cond);
}

/* 1: this thread is one of the client's own, in a callback. */
static int azri_threads_mine(const azredis_client *c) {
    return pthread_equal(pthread_self(), c->threads->io) || pthread_equal(pthread_self(), c->threads->delivery);
}

/* azredis_wake. */
static void azri_threads_call(const azredis_client *c) { azri_waker_write(c->threads->wait_waker, AZRI_CALL); }

/* A public call returns. */
static void azri_threads_left(azredis_client *c) {
    if (c->closing && c->inside == 0) azri_cond_broadcast(&c->threads->changed);
}

/* The subscription is dead: returns when nobody uses it. Its own callback cannot wait for itself. */
static void azri_threads_changed(azredis_client *c) { azri_cond_broadcast(&c->threads->changed); }

static void azri_threads_unsubscribe(azredis_client *c, azredis_sub *s) {
    azri_threads_kick(c);
    azri_cond_broadcast(&c->threads->changed);          /* an azredis_next on it ends */
    if (azri_threads_mine(c)) return;
    s->busy++;
    while (s->busy > 1) azri_threads_await(c, azri_now(c) + AZRI_WAIT_MAX);
    s->busy--;
}

/* azredis_wait: the two threads do the work. Lets go of the lock. */
static void azri_threads_wait(azredis_client *c, uint64_t until) {
    azri_fd fd = azri_waker_fd(c->threads->wait_waker);
    uint64_t now = azri_now(c);
    int woken = 0;
    while (!c->closing && !woken && now < until) {
        azri_let_go(c);
        woken = azri_poll(&fd, 1, (int)azri_min64(until - now, AZRI_WAIT_MAX)) > 0;
        azri_hold(c);
        now = azri_now(c);
    }
    if (woken && !c->closing) (void)azri_waker_drain(c->threads->wait_waker);
}

/* ---- the I/O thread --------------------------------------------------------------------------------------- */

/* The sockets of the sessions into the set. With the baton. While connections come and go each time: a new socket
 * may have an old number. */
static void azri_io_watch(azredis_client *c) {
    azri_threads *t = c->threads;
    azri_fd fds[AZRI_FDS_MAX];
    size_t n = azri_minz(azri_turn_fds(c, fds, AZRI_FDS_MAX), AZRI_FDS_MAX), i;
    int same = AZRI_EPOLL && azri_all_ready(c) && t->watched == c->hub.stats.connects;
    for (i = 0; i < n; i++) same = same && !(fds[i].want & AZRI_WRITE);
    if (same && !t->wrote) return;
    t->watched = c->hub.stats.connects;
    t->wrote = !same;
    azri_let_go(c);
    azri_park_watch(&t->park, fds, n);
    azri_hold(c);
}

static void azri_io_turn(azredis_client *c) {
    c->threads->baton = 1;
    c->silent = 1;                                  /* azri_io_aside has looked */
    azri_pump_turn(c);
    if (azri_turn_deadline(c, azri_now(c)) >= azri_after(azri_now(c), AZRI_SECOND)) azri_pump_idle(c);
    azri_io_watch(c);
    azri_baton_pass(c);
}

/* The token is looked after without the baton: get_token may block, and a request takes its time. */
static void azri_io_aside(azredis_client *c) {
    uint64_t now = azri_now(c);
    uint32_t before = c->generation;
    azri_let_go(c);
    (void)azri_waker_drain(c->waker);
    azri_hold(c);
    (void)azri_pump_token(c, now);
    azri_pump_auth(c, azri_now(c));
    azri_tell(c);
    if (c->generation != before || azri_resting(&c->hub)) azri_threads_kick(c);    /* sessions have something to do */
}

/* Lets go of the lock. */
static void azri_io_sleep(azredis_client *c) {
    azri_threads *t = c->threads;
    azri_fd own[AZRI_FDS_MAX];
    uint64_t now = azri_now(c), until = azri_fetch_due(c, now);
    size_t n = 1;
    if (!t->baton) until = azri_min64(until, azri_turn_deadline(c, now));      /* else somebody looks after the sessions */
    if (until <= now) return;
    if (!AZRI_EPOLL && (t->baton || now - t->last_call < AZRI_QUIET)) {
        azri_park_watch(&t->park, NULL, 0);
        until = azri_min64(until, now + AZRI_QUIET);
    }
    own[0] = azri_waker_fd(c->waker);
    if (c->fetch) n += azri_minz(azri_fetch_fds(c->fetch, own + 1, AZRI_FDS_MAX - 1), AZRI_FDS_MAX - 1);
    t->io_until = until;
    t->io_asleep = 1;
    azri_let_go(c);
    azri_park_sleep(&t->park, own, n, (int)azri_min64(until - now, AZRI_WAIT_MAX));
    azri_hold(c);
    t->io_asleep = 0;
    if (!t->baton || c->closing) return;
    t->io_waits = 1;                                /* a line that hangs up wakes also from a set that does not want it */
    azri_cond_wait(c, &t->freed, AZRI_QUIET);
    t->io_waits = 0;
}

static void *azri_io_run(void *arg) {
    azredis_client *c = (azredis_client *)arg;
    azri_hold(c);
    while (!c->closing) {
        azri_io_aside(c);
        if (!c->threads->baton && !c->closing) azri_io_turn(c);
        if (!c->closing) azri_io_sleep(c);
    }
    c->threads->io_ended = 1;
    azri_cond_broadcast(&c->threads->changed);
    azri_let_go(c);
    return NULL;
}

/* ---- the delivery thread, start, close ---------------------------------------------------------------------- */

/* Under the lock: all callbacks that are due. */
static void azri_delivery_all(azredis_client *c) {
    int any;
    do {
        azri_deliver_calls(c);
        azri_deliver_news(c);
        any = azri_deliver_messages(c);
        if (c->threads->watchers) azri_cond_broadcast(&c->threads->changed);  /* room, or a callback that has returned */
    } while (any || c->calls || c->drained || c->hub.news.count);
}

static void azri_threads_free(azri_threads *t, const azri_mem *m) {
    azri_park_close(&t->park);
    azri_waker_unref(t->turn_waker);
    azri_waker_unref(t->wait_waker);
    azri_cond_free(&t->deliver);
    azri_cond_free(&t->changed);
    azri_cond_free(&t->freed);
    azri_free(m, t, sizeof *t);
}

/* Under the lock, which is gone afterwards, as is the client. First the I/O thread ends, then every command, then
 * those calls return, then the last callbacks are made. */
static void azri_threads_finish(azredis_client *c, int on_delivery) {
    azri_threads *t = c->threads;
    azri_mem mem = c->port.mem;
    while (t->baton || !t->io_ended) azri_cond_wait(c, &t->changed, AZRI_WAIT_MAX);
    azri_let_go(c);
    (void)pthread_join(t->io, NULL);
    azri_hold(c);
    azri_client_fail_all(c);
    while (c->inside) azri_cond_wait(c, &t->changed, AZRI_WAIT_MAX);
    if (on_delivery) {
        azri_delivery_all(c);
        (void)pthread_detach(t->delivery);
    } else {
        t->stop = 1;
        azri_cond_signal(&t->deliver);
        azri_let_go(c);
        (void)pthread_join(t->delivery, NULL);
        azri_hold(c);
        while (c->inside) azri_cond_wait(c, &t->changed, AZRI_WAIT_MAX);       /* one that gave up a subscription */
    }
    azri_let_go(c);
    azri_client_free(c);
    azri_threads_free(t, &mem);
}

static void *azri_delivery_run(void *arg) {
    azredis_client *c = (azredis_client *)arg;
    azri_hold(c);
    azri_threads *t = c->threads;
    for (;;) {
        azri_delivery_all(c);
        if (t->close_here) {
            azri_threads_finish(c, 1);
            return NULL;
        }
        if (t->stop) break;
        azri_cond_wait(c, &t->deliver, AZRI_WAIT_MAX);
    }
    azri_let_go(c);
    return NULL;
}

/* Under the lock, which is gone afterwards. In a callback the delivery thread ends the client when that has returned. */
static void azri_threads_close(azredis_client *c) {
    azri_threads *t = c->threads;
    c->closing = 1;
    for (azri_sleeper *w = t->first; w; w = w->next) azri_cond_signal(&w->cond);
    azri_cond_broadcast(&t->changed);
    azri_cond_signal(&t->freed);
    azri_waker_wake(t->turn_waker);
    azri_waker_wake(t->wait_waker);
    azri_waker_wake(c->waker);
    if (!azri_threads_mine(c)) {
        azri_threads_finish(c, 0);
        return;
    }
    t->close_here = 1;
    azri_cond_signal(&t->deliver);
    azri_let_go(c);
}

static azri_threads *azri_threads_new(const azri_port *port) {
    azri_threads *t = (azri_threads *)azri_zalloc(&port->mem, sizeof *t);
    if (!t) return NULL;
    t->end = &t->first;
    int parked = azri_park_open(&t->park);
    t->turn_waker = azri_waker_new(port);
    t->wait_waker = azri_waker_new(port);
    if (parked && azri_cond_init(&t->deliver) && azri_cond_init(&t->changed) && azri_cond_init(&t->freed) &&
        t->turn_waker && t->wait_waker)
        return t;
    azri_threads_free(t, &port->mem);
    return NULL;
}

/* Under the lock, for which the new threads wait. 0: the system has no thread left. */
static int azri_threads_run(azredis_client *c, azri_threads *t) {
    if (azri_thread_start(&t->io, 0, azri_io_run, c) != 0) return 0;
    if (azri_thread_start(&t->delivery, 0, azri_delivery_run, c) == 0) return 1;
    c->threads = t;
    c->closing = 1;                                 /* the I/O thread finds the door shut and goes home */
    azri_let_go(c);
    (void)pthread_join(t->io, NULL);
    azri_hold(c);
    c->closing = 0;
    c->threads = NULL;
    return 0;
}

AZREDIS_API azredis_status azredis_start(azredis_client *c) {
    azri_threads *t;
    azredis_status st;
    if (!c) return AZREDIS_E_NOMEM;
    if (azri_auth_forked(c->auth)) return AZREDIS_E_FORK;
    if (!c->shared) c->shared = 1;      /* nobody has the lock now: in a callback it is let go of */
    azri_hold(c);
    st = c->closing ? AZREDIS_E_CLOSED : c->threads || c->in_callback || c->inside ? AZREDIS_E_STATE : c->broken.code;
    if (st == AZREDIS_OK) {
        t = azri_threads_new(&c->port);
        if (!t || !azri_threads_run(c, t)) st = AZREDIS_E_NOMEM;
        else {
            azri_grave_clear(&c->grave, &c->port, c->grave.count);
            c->grave.keep = NULL;
            c->told = azri_threads_told;
            c->threads = t;
        }
        if (st != AZREDIS_OK && t) azri_threads_free(t, &c->port.mem);
    }
    azri_let_go(c);
    return st;
}
#else
/* Without threads nothing is ever started: what the calls below ask for is never reached. */
static void azri_threads_kick(azredis_client *c) { (void)c; }
static void azri_threads_close(azredis_client *c) { (void)c; }
static void azri_threads_unsubscribe(azredis_client *c, azredis_sub *s) { (void)c; (void)s; }
static void azri_threads_wait(azredis_client *c, uint64_t until) { (void)c; (void)until; }
static void azri_threads_await(azredis_client *c, uint64_t until) { (void)c; (void)until; }
static void azri_threads_until(azredis_client *c, const int *done, int want) { (void)c; (void)done; (void)want; }
static int azri_threads_mine(const azredis_client *c) { (void)c; return 0; }
static void azri_threads_left(azredis_client *c) { (void)c; }
static void azri_threads_changed(azredis_client *c) { (void)c; }
static void azri_threads_call(const azredis_client *c) { (void)c; }
#endif

/* ==== >>alone ============================================================= uses: above ==========
 * Tokens for the program itself, beside hiredis or any other client: azredis_auth_token. The calls of all threads share
 * one fetch, which outlives them; whichever is at hand steps it, one at a time.
 * ================================================================================================ */

#if !defined(AZREDIS_NO_MALLOC) && !defined(AZREDIS_LEAN)
/* The copy stands behind a head, so that azredis_token_wipe needs nothing else. */
typedef struct azri_token_copy { azri_mem mem; size_t size; } azri_token_copy;

AZREDIS_API void azredis_token_wipe(azredis_token *t) {
    azri_token_copy *head;
    azri_mem mem;
    size_t size;
    if (!t) return;
    if (t->jwt) {
        head = (azri_token_copy *)(void *)t->jwt - 1;
        mem = head->mem;
        size = head->size;
        azri_wipe(head, size);
        azri_free(&mem, head, size);
    }
    azri_wipe(t, sizeof *t);
}

/* Under the lock. */
static azredis_status azri_auth_copy_token(azredis_auth *a, azredis_token *out, uint64_t now, azredis_error *why) {
    azredis_str jwt = azri_blob_jwt(a->blob);
    size_t size = sizeof(azri_token_copy) + jwt.len + 1;
    azri_token_copy *head = (azri_token_copy *)azri_alloc(&a->port.mem, size);
    int64_t left = azri_blob_left(a->blob, now);
    if (!head) return azri_fail(why, AZREDIS_E_NOMEM, "token", "out of memory for a copy of the token");
    head->mem = a->port.mem;
    head->size = size;
    out->jwt = (char *)(head + 1);
    memcpy(out->jwt, jwt.ptr, jwt.len);
    out->jwt[jwt.len] = '\0';
    out->jwt_len = jwt.len;
    azri_copy(out->user, sizeof out->user, a->blob->user);
    out->expires_in_ms =
        left == AZREDIS_UNKNOWN ? AZREDIS_NEVER : (uint32_t)azri_min64((uint64_t)left, AZREDIS_NEVER - 1);
    out->renew_in_ms = left == AZREDIS_UNKNOWN ? AZREDIS_NEVER
                     : (uint32_t)azri_min64(azri_max64(a->machine.next_try, now) - now, AZREDIS_NEVER - 1);
    return AZREDIS_OK;
}

/* Under the lock. 0: there is no more news, or another thread is telling it. */
static int azri_auth_next_note(azredis_auth *a, int *mine, azri_item *it) {
    if (a->telling && !*mine) return 0;
    if (a->own_seen + AZRI_NOTES_MAX < a->note_count) a->own_seen = a->note_count - AZRI_NOTES_MAX;
    *mine = a->telling = a->own_seen != a->note_count;
    if (*mine) *it = a->notes[a->own_seen++ % AZRI_NOTES_MAX];
    return *mine;
}

/* Events of an auth that stands alone go to its own handler, one at a time and in order. Not under the lock. */
static void azri_auth_deliver(azredis_auth *a) {
    int mine = 0, any;
    for (;;) {
        azri_item it;
        azredis_event ev;
        azri_auth_lock(a);
        any = azri_auth_next_note(a, &mine, &it);
        azri_auth_unlock(a);
        if (!any) return;
        if (it.type == AZREDIS_EV_LOG && it.level > a->level) continue;
        azri_item_event(&it, &ev);
        if (a->on_event) a->on_event(&ev, a->event_user);
        else if (it.type == AZREDIS_EV_LOG) azri_event_default(&ev);
    }
}

/* OK: a copy of the live token. AGAIN: none yet; *why is the last failure, if there was one. Other errors:
 * somebody must mend something, and no fetch is due until the slow lane looks whether they have. */
static azredis_status azri_auth_look(azredis_auth *a, azredis_token *out, azredis_error *why) {
    uint64_t now = azri_auth_now(a);
    azredis_status st = AZREDIS_AGAIN;
    azri_auth_lock(a);
    if (a->blob && (azri_is_static(&a->conf) || azri_token_live(&a->machine, now))) {
        st = azri_auth_copy_token(a, out, now, why);
    } else if (a->device && a->device->code) {          /* whatever failed before: somebody can mend it now */
        (void)azri_fail(why, st, "token", AZRI_NOBODY_YET);
    } else if (a->failure.code != AZREDIS_OK) {
        if (why) *why = a->failure;
        if (!a->failure.retryable && now < a->machine.next_try && !azri_token_claimed(&a->machine, now))
            st = a->failure.code;
    } else {
        (void)azri_fail(why, st, "token", "the request for a token has not been answered yet%s", !a->machine.held ? ""
                        : a->machine.refused ? "; Redis refused the last one" : "; the last one has expired");
    }
    azri_auth_unlock(a);
    return st;
}

/* The right to step the auth's own fetch, which one thread at a time has. */
static int azri_auth_own(azredis_auth *a) {
    azri_auth_lock(a);
    int mine = !a->own_busy && !azri_is_static(&a->conf);
    if (mine) a->own_busy = 1;
    azri_auth_unlock(a);
    return mine;
}

/* One who leaves for good (last) lets the others take over a fetch that has not ended. */
static void azri_auth_disown(azredis_auth *a, int last) {
    azri_auth_lock(a);
    a->own_busy = 0;
    int left = last && a->own;
    azri_auth_unlock(a);
    if (left) azri_auth_wake(a);
}

/* The fetch outlives the call that began it, and so does the waker that its look-up calls. */
static void azri_auth_step(azredis_auth *a) {
    if (!a->own_waker) a->own_waker = azri_waker_new(&a->port);
    if (!a->own_waker) return;
    (void)azri_waker_drain(a->own_waker);
    a->drop_own = azri_fetch_drop;
    if (!a->own) a->own = azri_fetch_claim(a, azri_auth_now(a));
    if (a->own && azri_fetch_step(a, a->own, a->own_waker, NULL)) a->own = NULL;
}

/* w: this call's own waker, which news of the token wakes. */
static void azri_auth_sleep(azredis_auth *a, int mine, azri_waker *w, uint64_t until) {
    azri_fd fds[AZRI_FDS_MAX];
    size_t n = azri_waker_fds(w, fds, AZRI_FDS_MAX);
    uint64_t now = azri_auth_now(a), t = azri_min64(until, now + AZRI_WAIT_MAX);
    if (mine && a->own) {
        n += azri_waker_fds(a->own_waker, fds + n, AZRI_FDS_MAX - n);
        n += azri_minz(azri_fetch_fds(a->own, fds + n, AZRI_FDS_MAX - n), AZRI_FDS_MAX - n);
        azri_sooner(&t, azri_fetch_deadline(a->own));
    } else {
        azri_auth_lock(a);
        azri_sooner(&t, azri_token_deadline(&a->machine, now));
        if (t <= now) t = now + AZRI_OWN_PAUSE;         /* due, and another thread is about to fetch it */
        azri_auth_unlock(a);
    }
    if (t > now) a->port.p.wait(a->port.p.user, fds, n, (uint32_t)(t - now));
    (void)azri_waker_drain(w);
}

/* From now on news of the token wakes this call. AGAIN: some may have come before. */
static azredis_status azri_auth_listen(azredis_auth *a, azri_watch *watch, azredis_error *why) {
    azri_waker *w = azri_waker_new(&a->port);
    if (!w) return azri_fail(why, AZREDIS_E_NOMEM, "auth", "no descriptor or memory for a wake-up pipe");
    azri_auth_watch(a, watch, w);
    return AZREDIS_AGAIN;
}

static azredis_status azri_auth_wait(azredis_auth *a, azredis_token *out, uint64_t until, azri_watch *watch,
                                     azredis_error *why) {
    azredis_status st;
    for (;;) {
        int mine = azri_auth_own(a), last;
        if (mine) azri_auth_step(a);                    /* also renews a token that is still good */
        st = azri_auth_look(a, out, why);
        if (st == AZREDIS_AGAIN && azri_auth_now(a) < until) {
            if (watch->waker) azri_auth_sleep(a, mine, watch->waker, until);
            else st = azri_auth_listen(a, watch, why);
        }
        last = st != AZREDIS_AGAIN || azri_auth_now(a) >= until;
        if (mine) azri_auth_disown(a, last);
        azri_auth_deliver(a);
        if (last) return st;
    }
}

AZREDIS_API azredis_status azredis_auth_token(azredis_auth *a, azredis_token *out, uint32_t wait_ms,
                                              azredis_error *why) {
    azri_watch watch;
    if (!a) return azri_fail(why, AZREDIS_E_NOMEM, "auth", "there is no auth object: azredis_auth_open had no memory");
    if (!out) return azri_fail(why, AZREDIS_E_ARG, "auth", "out is NULL");
    memset(out, 0, sizeof *out);
    if (azri_auth_forked(a)) {
        if (why) *why = azri_fork_record;
        return AZREDIS_E_FORK;
    }
    if (a->broken.code != AZREDIS_OK) {
        if (why) *why = a->broken;
        return a->broken.code;
    }
    memset(&watch, 0, sizeof watch);
    azredis_status st = azri_auth_wait(a, out, azri_after(azri_auth_now(a), wait_ms), &watch, why);
    if (watch.waker) azri_auth_unwatch(a, &watch, 0);
    azri_waker_unref(watch.waker);
    return st;
}
#endif

/* ==== >>options =========================================================== uses: above ==========
 * Options as the caller's version of the header has them, what a connection string adds, and what they come to.
 * ================================================================================================ */

/* Options of an older, smaller caller are served: what it does not know is zero, the default. A larger
 * struct is of a newer header; it is served if it asks for nothing that is unknown here. 0: foreign. */
static int azri_take_options(void *to, size_t to_size, const void *from, size_t from_size, unsigned version) {
    const unsigned char *b = (const unsigned char *)from;
    memset(to, 0, to_size);
    if (version >> 16 != (unsigned)AZREDIS_VERSION >> 16) return 0;
    if (!from) return 1;
    for (size_t i = to_size; i < from_size; i++)
        if (b[i]) return 0;
    memcpy(to, from, azri_minz(to_size, from_size));
    return 1;
}

/* *out holds the strings that *o and *id take from o->config; NULL if there is none, and *o and *id are as they were. */
static azredis_status azri_open_config(azredis_options *o, azredis_auth_options *id, const azri_mem *m,
                                       azri_config **out, azredis_error *e) {
    *out = NULL;
    if (!o->config || !o->config[0]) return AZREDIS_OK;
    if (!AZRI_WITH_CONFIG || azri_shape_of(m))
        return azri_fail(e, AZREDIS_E_ARG, "options.config", "options.config: %s; set the members instead",
                         AZRI_WITH_CONFIG ? "a client in options.memory has no room to read it" : "built with AZREDIS_NO_CONFIG");
    azredis_status st = azri_config_new(out, m, o->config, e);
    if (st != AZREDIS_OK) return st;
    memset(id, 0, sizeof *id);
    if (o->identity) *id = *o->identity;
    azri_config_merge(*out, o, id);
    o->identity = id;
    return AZREDIS_OK;
}

/* The same for an auth that stands alone. */
static azredis_status azri_auth_config(azredis_auth_options *o, const azri_mem *m, azri_config **out,
                                       azredis_error *e) {
    azredis_options all;
    azredis_auth_options id = *o;
    memset(&all, 0, sizeof all);
    all.identity = o;
    all.config = o->config;
    azredis_status st = azri_open_config(&all, &id, m, out, e);
    if (!AZRI_WITH_CONFIG || st != AZREDIS_OK || !*out) return st;
    *o = id;
    if (!o->ca && !o->ca_file) o->ca_file = all.ca_file;
    return st;
}

#ifndef AZREDIS_NO_CONFIG
AZREDIS_API size_t azredis_describe_v(const azredis_options *options, size_t size, unsigned version, char *buf,
                                      size_t cap) {
    azredis_options o;
    azredis_auth_options id;
    azri_config *config;
    azri_port port;
    azredis_error e;
    if (!azri_take_options(&o, sizeof o, options, size, version))
        return azri_fmt(buf, cap, "(wrong: a foreign version)");
    azri_port_fill(&port, o.port);
    if (azri_open_config(&o, &id, &port.mem, &config, &e) != AZREDIS_OK)
        return azri_fmt(buf, cap, "(wrong: %s)", e.message);
    if (o.auth || !o.identity) memset(&id, 0, sizeof id);   /* it is the auth's that counts */
    size_t n = azri_config_describe(&o, o.auth || !o.identity ? &id : o.identity, buf, cap);
    azri_config_free(config);
    return n;
}
#endif

/* host:port, for messages. */
static void azri_open_endpoint_text(azredis_client *c) {
    azri_out o = azri_out_to(c->endpoint, sizeof c->endpoint);
    if (AZRI_WITH_TEXT + AZRI_WITH_EVENTS == 0) return;
    azri_out_text(&o, c->host, strlen(c->host));
    if (c->host[0] != '/') {
        azri_out_char(&o, ':');
        azri_out_number(&o, c->tcp_port, 0, 10, 0, ' ');
    }
    azri_out_end(&o);
}

static uint64_t azri_seed(const azri_port *port, uint64_t seed) {
    if (seed == 0) (void)port->p.entropy(port->p.user, &seed, sizeof seed);   /* jitter needs no secrecy */
    return seed;
}

/* Where there is no TLS: a unix socket, or this machine. */
static azredis_status azri_open_plain(azredis_client *c, const azredis_options *o) {
    if (!AZRI_WITH_PLAINTEXT && o->plaintext)
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options.plaintext", "built with AZREDIS_LEAN");
    c->plaintext = o->plaintext;
    if (c->host[0] == '/' && !azri_is_plain(c))
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options.plaintext", "a unix socket has no TLS: set plaintext");
    if (azri_is_plain(c) && c->host[0] != '/' && !azri_is_loopback(azri_str(c->host)))
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options.plaintext",
                         "without TLS only this machine is reached, and %s is another: leave plaintext at 0", c->host);
    return AZREDIS_OK;
}

static azredis_status azri_open_endpoint(azredis_client *c, const azredis_options *o) {
    uint16_t port = 0;
    if (!o->host || !o->host[0])
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options.host",
                         "options.host is missing: give the cache's host name, such as name.region.redis.azure.net");
    /* A socket's path, a name, or name:port. Where hosts are names, the connect hook and TLS are left to find a wrong one. */
    if (!AZRI_WITH_ADDRESSES || (AZRI_WITH_PLAINTEXT && o->host[0] == '/')) {
        if (strlen(o->host) >= sizeof c->host)
            return azri_fail(&c->broken, AZREDIS_E_ARG, "options.host", "options.host is a name or a path of more than 255 bytes");
        azri_copy(c->host, sizeof c->host, o->host);
    } else if (azri_endpoint_parse(azri_str(o->host), c->host, &port, &c->broken) != AZREDIS_OK) {
        return c->broken.code;
    }
    if (o->tcp_port && port && o->tcp_port != port)
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options.tcp_port",
                         "host says port %u, tcp_port says %u: give one of them", (unsigned)port,
                         (unsigned)o->tcp_port);
    c->tcp_port = o->tcp_port ? o->tcp_port : port ? port : o->plaintext ? 6379 : AZRI_WITH_ADDRESSES ?
                  azri_port_by_host(azri_str(c->host)) : AZRI_PORT_MANAGED;
    azri_open_endpoint_text(c);
    if (AZRI_WITH_ARENA && o->memory && !o->ca && !o->plaintext)
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options.ca",
                         "options.ca is missing: a client in options.memory reads no "
                         "files; give the root certificates as PEM or DER in memory");
    return azri_open_plain(c, o);
}

static void azri_open_name(char out[AZRI_NAME_MAX], const char *name) {
    size_t i;
    for (i = 0; name && name[i] && i + 1 < AZRI_NAME_MAX; i++) out[i] = name[i] > 32 && name[i] < 127 ? name[i] : '_';
    out[i] = '\0';
}

static AZRI_ONCE azredis_status azri_open_conf(azredis_client *c, const azredis_options *o) {
    azri_hub_conf *h = &c->hub.conf;
    const azri_shape *shape = azri_shape_of(&c->port.mem);
    if (o->protocol != 0 && o->protocol != 2 && o->protocol != 3)
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options.protocol", "options.protocol is %d; it may be 2 or 3",
                         o->protocol);
    if ((!AZRI_WITH_RESP2 && o->protocol == 2) || (!AZRI_WITH_REST && o->renewal == AZREDIS_RENEWAL_RECONNECT) ||
        (!AZRI_WITH_SHARED && o->auth) || (!AZRI_WITH_SETTINGS && (o->client_name || o->database || o->protocol == 2)))
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options", "built with AZREDIS_LEAN: protocol 2, client_name, database, "
                         "AZREDIS_RENEWAL_RECONNECT and auth are not there");
    if (o->leases > AZRI_LEASES_MAX || (AZRI_WITH_HANDOVER && ((unsigned)o->pubsub > AZREDIS_PUBSUB_SEPARATE ||
                                                               (unsigned)o->reauth > AZREDIS_REAUTH_HANDOVER)))
        return azri_fail(&c->broken, AZREDIS_E_ARG, "options", "options.leases is over 32, or pubsub or reauth has an unknown value");
    h->session.protocol = o->protocol == 2 ? 2 : 3;
    h->session.auth_ms = azri_or(o->auth_ms, 15u * AZRI_SECOND);
    h->session.command_ms = azri_or(o->command_ms, 5u * AZRI_SECOND);
    h->session.keepalive_ms = azri_or(o->keepalive_ms, AZRI_MINUTE);
    h->session.max_reply = shape ? shape->answer : o->max_reply ? o->max_reply : AZRI_REPLY_MAX;
    h->session.endpoint = c->endpoint;
    if (AZRI_WITH_SETTINGS) {
        h->session.database = o->database;
        azri_open_name(h->session.name, o->client_name);
    }
    h->fail_fast = o->fail_fast;
    h->abort_on_connect_fail = o->abort_on_connect_fail;
    h->backlog_count = azri_or(o->backlog_count, AZRI_BACKLOG_COUNT);
    h->backlog_bytes = o->backlog_bytes ? o->backlog_bytes : AZRI_BACKLOG_BYTES;
    h->sub_queue = azri_or(o->sub_queue, AZRI_SUB_QUEUE);
    h->by_reconnect = o->renewal == AZREDIS_RENEWAL_RECONNECT;
    h->separate = o->pubsub == AZREDIS_PUBSUB_SEPARATE;
    h->leases = azri_or(o->leases, AZRI_LEASES);
    h->connect_retry = azri_or(o->connect_retry, AZRI_CONNECT_RETRY);
    h->session.reauth = o->reauth;
    c->command_ms = h->session.command_ms;
    c->connect_ms = azri_or(o->connect_ms, 5u * AZRI_SECOND);
    c->renew_ms = azri_or(o->renew_ms, 2u * AZRI_SECOND);
    return AZREDIS_OK;
}

/* ==== >>arena ============================================================= uses: above ==========
 * What a client in memory of the caller's can come to need: azredis_memory_needed adds it up, azredis_open cuts it.
 * ================================================================================================ */

/* Options of an auth that is made for this client alone, which then has the client's trust and port. */
static void azri_open_identity(azredis_auth_options *a, const azredis_options *o) {
    if (!o->identity) memset(a, 0, sizeof *a);
    else if (o->identity != a) *a = *o->identity;
    if (AZRI_WITH_HTTP && !a->ca && !a->ca_file) {
        a->ca = o->ca;
        a->ca_len = o->ca_len;
        a->ca_file = o->ca_file;
    }
    if (!a->port) a->port = o->port;
    if (!a->seed) a->seed = o->seed;
}

/* The defaults of a client in an arena. */
static void azri_arena_defaults(azredis_options *o) {
    o->rx_bytes = azri_or(o->rx_bytes, 2048);
    o->command_bytes = azri_or(o->command_bytes, 256);
    o->replies = azri_or(o->replies, 2);
    o->message_bytes = azri_or(o->message_bytes, 256);
    o->backlog_count = azri_or(o->backlog_count, 16);
    o->sub_queue = azri_or(o->sub_queue, 4);
    if (o->command_bytes < 128) o->command_bytes = 128;        /* our own SUBSCRIBE */
}

static azri_shape azri_arena_shape(const azredis_options *o) {
    azri_shape z;
    z.rx = o->rx_bytes;
    z.nodes = o->rx_bytes / 32 + 8;                            /* HELLO's answer has a node for every 40 bytes */
    z.answer = AZRI_BLOCK_HEAD + z.rx + z.nodes * sizeof(azredis_value);
    z.command = o->command_bytes;
    z.message = (size_t)o->message_bytes + 2;
    return z;
}

static void azri_plan_text(azri_plan *p, const char *z) {
    if (z && z[0]) azri_plan_add(p, AZRI_ALWAYS, strlen(z) + 1, 1);
}

static void azri_plan_fetch(azri_plan *p, const azredis_auth_options *o) {
    const azri_identity_kind *k = azri_identity_find(NULL, (int)o->identity);
    azri_plan_add(p, AZRI_FETCHING, sizeof(azri_fetch), 1);
    azri_plan_add(p, AZRI_FETCHING, AZRI_VALUE_MAX, 2);        /* the token; its text in the answer, then its claims */
    azri_plan_add(p, AZRI_FETCHING, AZRI_CLAIM_MAX, 1);
    if (o->identity == AZREDIS_ID_CALLBACK) return;
    if (k && (k->needs & AZRI_NEED_PROOF)) azri_plan_add(p, AZRI_FETCHING, AZRI_VALUE_MAX, 1);
    azri_plan_add(p, AZRI_FETCHING, AZRI_TLS_AHEAD, AZRI_WITH_AHEAD);
    azri_plan_add(p, AZRI_FETCHING, AZRI_REQUEST_MAX, 1);
    azri_plan_add(p, AZRI_FETCHING, AZRI_FORM_MAX, 1);
#ifndef AZREDIS_NO_CERTIFICATE
    if (o->identity != AZREDIS_ID_CLIENT_CERTIFICATE) return;
    azri_plan_add(p, AZRI_FETCHING, AZRI_KEY_ROOM, o->sign ? 2 : 3);       /* the chain, a certificate, a key */
#endif
}

static void azri_plan_auth(azri_plan *p, const azredis_auth_options *o, int by_reconnect) {
    azri_plan_add(p, AZRI_ALWAYS, sizeof(azredis_auth), 1);
    for (size_t i = 0; i < AZRI_IDENTITY_TEXTS; i++) azri_plan_text(p, azri_identity_text(o, i));
    /* The one in use, one that the server refused, and the one after it; a connection that ends lets go of the first. */
    azri_plan_add(p, AZRI_ALWAYS, AZRI_BLOB_ROOM, azri_is_static(o) ? 1 : by_reconnect ? 2 : 3);
    if (!azri_is_static(o)) azri_plan_fetch(p, o);
}

/* a: NULL: only add up. */
static void azri_plan_client(azri_plan *p, azri_arena *a, const azredis_options *o) {
    azredis_auth_options id;
    azri_shape z = azri_arena_shape(o);
    const unsigned char *ca;
    char host[256];
    uint16_t port;
    azredis_error e;
    memset(p, 0, sizeof *p);
    p->arena = a;
    azri_open_identity(&id, o);
    host[0] = '\0';
    if (o->host && o->host[0] != '/' && azri_endpoint_parse(azri_str(o->host), host, &port, &e) != AZREDIS_OK)
        host[0] = '\0';
    azri_plan_add(p, AZRI_ALWAYS, sizeof(azredis_client), 1);
    if (AZRI_WAKER_BYTES) azri_plan_add(p, AZRI_ALWAYS, AZRI_WAKER_BYTES, 1);
    azri_plan_add(p, AZRI_ALWAYS, sizeof(azri_session), 1);
    azri_plan_add(p, AZRI_ALWAYS, strlen(o->tls_host ? o->tls_host : o->host && o->host[0] == '/' ? o->host : host) + 1, 1);
    if (AZRI_WITH_ENV && o->ca_file) azri_plan_add(p, AZRI_ALWAYS, strlen(o->ca_file) + 1, 1);
    azri_plan_add(p, AZRI_ALWAYS, sizeof(azri_cmd) + z.command, (size_t)o->backlog_count + o->subscriptions);
    azri_plan_add(p, AZRI_ALWAYS, z.answer, o->replies);
    azri_plan_add(p, AZRI_ALWAYS, sizeof(azredis_sub) + AZRI_CHANNEL_ROOM, o->subscriptions);
    /* A full queue, the one that is lent, and the new one before the oldest goes. */
    azri_plan_add(p, AZRI_ALWAYS, sizeof(azri_msg) + z.message, ((size_t)o->sub_queue + 2) * o->subscriptions);
    ca = (const unsigned char *)(id.ca ? id.ca : o->ca);       /* looked up by one connection at a time */
    if (ca && ca[0] != 0x30) azri_plan_add(p, AZRI_ALWAYS, AZRI_CERT_MAX, 2);      /* DER is read where it stands */
    azri_plan_add(p, AZRI_CONNECTED, sizeof(azri_conn), 1);
    azri_plan_add(p, AZRI_CONNECTED, AZRI_BLOCK_HEAD + z.rx, 1);
    azri_plan_add(p, AZRI_CONNECTED, z.nodes * sizeof(azredis_value), 1);
    if (!o->plaintext) azri_plan_add(p, AZRI_CONNECTED, AZRI_TLS_AHEAD, AZRI_WITH_AHEAD);
    if (o->auth) azri_plan_add(p, AZRI_ALWAYS, AZRI_BLOB_ROOM, 3);
    else azri_plan_auth(p, &id, o->renewal == AZREDIS_RENEWAL_RECONNECT);
    p->shared = !o->auth && o->renewal == AZREDIS_RENEWAL_RECONNECT;
}

/* Cuts o->memory; NULL: it is too small. Sets the defaults in *o. */
static azri_arena *azri_arena_open(azredis_options *o) {
    azri_plan p;
    azri_arena *a = (azri_arena *)o->memory;
    if (!AZRI_WITH_ARENA) return NULL;
    azri_arena_defaults(o);
    azri_plan_client(&p, NULL, o);
    if (p.wrong || (uintptr_t)o->memory % AZRI_ARENA_ALIGN || o->memory_size < azri_plan_at(&p, AZRI_PHASES))
        return NULL;
    memset(a, 0, azri_plan_head(&p));
    azri_plan_client(&p, a, o);
    azri_plan_place(&p);
    a->shape = azri_arena_shape(o);
    return a;
}

#ifndef AZREDIS_NO_ARENA
AZREDIS_API size_t azredis_memory_needed_v(const azredis_options *options, size_t size, unsigned version) {
    azredis_options o;
    azri_plan p;
    if (!azri_take_options(&o, sizeof o, options, size, version)) return 0;
    azri_arena_defaults(&o);
    azri_plan_client(&p, NULL, &o);
    return p.wrong ? 0 : azri_plan_at(&p, AZRI_PHASES);
}
#endif

/* ==== >>api =============================================================== uses: above ==========
 * The public functions: options, defaults, blocking calls. A blocking call pumps by itself, by three
 * rules (a plain program exists only while it calls):
 *  1. On entry one turn without waiting: an expired or closed connection is found before it is written to.
 *  2. A token that is due is fetched after the call's own command, within renew_ms; past the headroom
 *     point before it.
 *  3. After a long silence a PING is answered before the command is written (azri_session_probe).
 * ================================================================================================ */

AZREDIS_API const char *azredis_build_info(void) {
    return "azredis_entra " AZREDIS_VERSION_TEXT ", mbedTLS " MBEDTLS_VERSION_STRING ", port " AZRI_PORT_NAME;
}

#define AZRI_STARVE 10u               /* ms until a loop whose list was too short, or still has a socket to close, comes again */

/* ---- auth ---- */

/* A password takes the place of a token that never expires. */
static azredis_status azri_auth_static(azredis_auth *a) {
    if (!azri_is_static(&a->conf)) return AZREDIS_OK;
    a->blob = azri_blob_new(&a->port.mem, azri_identity_static_user(&a->conf), azri_str(a->conf.password));
    if (!a->blob) return AZREDIS_E_NOMEM;
    a->blob->generation = ++a->generation;
    a->headroom_at = AZRI_NEVER64;
    return AZREDIS_OK;
}

/* mem: NULL is the port's own. What a connection string says is put into *o. redis_host: whom its tokens are for; "": unknown. */
static AZRI_APART azredis_auth *azri_auth_open(azredis_auth_options *o, const azri_mem *mem, const char *redis_host) {
    azri_config *config;
    azri_port port;
    azredis_auth *a;
    azri_port_fill(&port, o->port);
    if (mem) port.mem = *mem;
    a = (azredis_auth *)azri_zalloc(&port.mem, sizeof *a);
    if (!a) return NULL;
    a->port = port;
    a->refs = 1;
    azri_pair_init(&a->pair, &a->port.mem);
    a->rng.state = azri_seed(&a->port, o->seed);
    if (AZRI_WITH_EVENTS) {
        a->on_event = o->on_event;
        a->event_user = o->event_user;
        a->level = a->wanted = o->log_level ? o->log_level : AZREDIS_LOG_WARNING;
    }
    if (azri_lock_init(&a->lock, &a->port) != AZREDIS_OK) {
        azri_free(&port.mem, a, sizeof *a);
        return NULL;
    }
    azri_fork_mark(&a->fork);
    (void)azri_auth_config(o, &a->port.mem, &config, &a->broken);
    azri_token_init(&a->machine, &a->rng, o->policy);
    if (a->broken.code == AZREDIS_OK) (void)azri_identity_conf_copy(&a->conf, &a->port.mem, o, &a->broken);
    a->cloud = AZRI_WITH_HTTP ? azri_identity_authority_of(redis_host) : NULL;
#ifndef AZREDIS_NO_DEVICE_CODE
    if (a->broken.code == AZREDIS_OK && a->conf.identity == AZREDIS_ID_DEVICE_CODE) {
        a->device = (azri_device *)azri_zalloc(&port.mem, sizeof *a->device);
        if (!a->device) a->broken.code = AZREDIS_E_NOMEM;
    }
#endif
    azri_config_free(config);
    if (a->broken.code != AZREDIS_E_NOMEM && port.missing) azri_port_missing(&port, &a->broken);
    if (a->broken.code == AZREDIS_E_NOMEM || azri_auth_static(a) != AZREDIS_OK) {
        azri_auth_free(a);
        return NULL;
    }
    return a;
}

static azredis_auth *azri_auth_hold(azredis_auth *a) {
    azri_auth_lock(a);
    a->refs++;
    azri_auth_unlock(a);
    return a;
}

#ifndef AZREDIS_LEAN
AZREDIS_API azredis_auth *azredis_auth_open_v(const azredis_auth_options *options, size_t size, unsigned version) {
    azredis_auth_options o;
    return azri_take_options(&o, sizeof o, options, size, version) ? azri_auth_open(&o, NULL, "") : NULL;
}

AZREDIS_API azredis_status azredis_auth_record(azredis_auth *a, size_t index, azredis_link_record *out) {
    azredis_status st = AZREDIS_AGAIN;
    if (!a || !out) return AZREDIS_E_ARG;
    if (azri_auth_forked(a)) return AZREDIS_E_FORK;
    azri_auth_lock(a);
    if (index < a->record_count) {
        *out = a->records[index];
        st = AZREDIS_OK;
    }
    azri_auth_unlock(a);
    return st;
}

AZREDIS_API azredis_status azredis_auth_info_v(azredis_auth *a, azredis_auth_info_data *out, size_t size) {
    azredis_auth_info_data d;
    azredis_status st = AZREDIS_AGAIN;
    if (!a || !out) return AZREDIS_E_ARG;
    memset(out, 0, size);
    if (azri_auth_forked(a)) return AZREDIS_E_FORK;
    memset(&d, 0, sizeof d);
    if (a->broken.code == AZREDIS_OK && a->conf.identity != AZREDIS_ID_DEFAULT)
        azri_copy(d.credential, sizeof d.credential, azri_identity_name((int)a->conf.identity));
    uint64_t now = azri_auth_now(a);
    azri_auth_lock(a);
    if (azri_is_static(&a->conf) && a->blob) {
        azri_copy(d.user, sizeof d.user, a->blob->user);
        d.expires_in_ms = AZREDIS_UNKNOWN;
        st = AZREDIS_OK;
    } else if (a->blob && azri_token_live(&a->machine, now)) {
        d = a->info;
        d.expires_in_ms = azri_token_left(&a->machine, now);
        st = AZREDIS_OK;
    }
    azri_auth_unlock(a);
    memcpy(out, &d, azri_minz(size, sizeof d));
    return a->broken.code == AZREDIS_OK ? st : AZREDIS_E_ARG;
}

#ifndef AZREDIS_NO_MALLOC
/* A number that no client has seen makes the same credentials new. */
AZREDIS_API azredis_status azredis_auth_rehearse(azredis_auth *a) {
    azredis_status st = AZREDIS_AGAIN;
    if (!a || a->broken.code != AZREDIS_OK) return AZREDIS_E_ARG;
    if (azri_auth_forked(a)) return AZREDIS_E_FORK;
    if (azri_shape_of(&a->port.mem)) return AZREDIS_E_NOMEM;     /* its blob is the connection's own */
    azri_auth_lock(a);
    if (a->blob && (azri_is_static(&a->conf) || azri_token_live(&a->machine, azri_auth_now(a)))) {
        a->blob->generation = ++a->generation;
        st = AZREDIS_OK;
    }
    azri_auth_unlock(a);
    if (st == AZREDIS_OK) azri_auth_wake(a);
    return st;
}
#endif
#endif

/* ---- client: open and close ---- */

AZREDIS_API azredis_client *azredis_open_v(const azredis_options *options, size_t size, unsigned version) {
    azredis_options o;
    azredis_auth_options id;
    azri_config *config;
    azri_port port;
    azri_mem auth_mem;
    azri_arena *arena = NULL;
    azredis_client *c;
    if (!azri_take_options(&o, sizeof o, options, size, version)) return NULL;
    azri_port_fill(&port, o.port);
    if (o.memory) {
        arena = azri_arena_open(&o);
        if (!arena) return NULL;
        port.mem = azri_arena_mem(&arena->client);
        auth_mem = azri_arena_mem(&arena->auth);
    }
    c = (azredis_client *)azri_zalloc(&port.mem, sizeof *c);
    if (!c) return NULL;
    c->port = port;
    azri_hub_init(&c->hub, &c->port.mem, azri_seed(&c->port, o.seed));
    if (AZRI_WITH_EVENTS) {
        if (o.log_level) c->hub.news.level = o.log_level;
        c->on_event = o.on_event;
        c->event_user = o.event_user;
    }
    c->ca = o.ca;
    c->ca_len = o.ca_len;
    if (azri_lock_init(&c->lock, &c->port) != AZREDIS_OK) {
        azri_free(&port.mem, c, sizeof *c);
        return NULL;
    }
    if (azri_open_config(&o, &id, &port.mem, &config, &c->broken) == AZREDIS_OK &&
        azri_open_endpoint(c, &o) == AZREDIS_OK) (void)azri_open_conf(c, &o);
    if (AZRI_WITH_CONFIG && config && config->no_effect[0])
        azri_log(&c->hub.news, AZREDIS_LOG_WARNING, AZRI_LOG_CONFIG,
                 "the connection string has keys that have no effect: %s", config->no_effect);
    if (AZRI_WITH_SHARED && o.auth && !azri_auth_forked(o.auth)) {
        c->auth = azri_auth_hold(o.auth);
    } else {                            /* its own, also in the place of a parent's, which nobody may hold here */
        azri_open_identity(&id, &o);
        c->auth = azri_auth_open(&id, arena ? &auth_mem : NULL, c->host);
    }
    if (AZRI_WITH_FORK && o.auth && c->auth != o.auth) c->broken = azri_fork_record;
    c->waker = azri_waker_new(&c->port);
    c->tls_host = azri_strdup(&c->port.mem, o.tls_host ? o.tls_host : c->host);
    if (AZRI_WITH_ENV) c->ca_file = azri_strdup(&c->port.mem, o.ca_file);
    azri_config_free(config);
    if (c->auth && c->waker) azri_pump_join(c);
    if (c->broken.code == AZREDIS_E_NOMEM || !c->auth || !c->waker || !c->tls_host || (AZRI_WITH_ENV && o.ca_file && !c->ca_file) ||
        !azri_hub_add_session(&c->hub)) {
        azri_client_undo(c);
        return NULL;
    }
    if (arena) {                        /* what open takes is there for ever; from here on each side has its phase */
        arena->client.phase = AZRI_CONNECTED;
        arena->auth.phase = AZRI_FETCHING;
    }
    if (c->broken.code == AZREDIS_OK) c->broken = c->auth->broken;
    if (c->port.missing) azri_port_missing(&c->port, &c->broken);
    return c;
}

#ifndef AZREDIS_LEAN
AZREDIS_API azredis_auth *azredis_client_auth(azredis_client *c) {
    return c && !azri_auth_forked(c->auth) ? azri_auth_hold(c->auth) : c ? c->auth : NULL;
}
#endif

AZREDIS_API void azredis_close(azredis_client *c) {
    if (!c || azri_auth_forked(c->auth)) return;
    azri_hold(c);
    if (c->closing) azri_let_go(c);
    else if (azri_threaded(c)) azri_threads_close(c);
    else if (c->inside || c->in_callback) {
        c->closing = 1;
        c->end = azri_client_end;
        azri_let_go(c);
    } else {
        azri_client_end(c);
    }
}

/* ---- calls ---- */

/* Begins a public call, under the lock; blocks: it is not allowed in a callback. Not OK: the call must return it, and
 * must not call azri_leave. */
static AZRI_ALONG azredis_status azri_enter_to(azredis_client *c, int blocks) {
    azredis_status st;
    if (!c) return AZREDIS_E_NOMEM;
    if (azri_auth_forked(c->auth)) return AZREDIS_E_FORK;
    azri_hold(c);
    if (c->closing) st = AZREDIS_E_CLOSED;
    else if (blocks && (azri_threaded(c) ? azri_threads_mine(c) : c->in_callback)) st = AZREDIS_E_STATE;
    else st = c->broken.code;
    if (st == AZREDIS_OK) c->inside++;
    else azri_let_go(c);
    return st;
}

static azredis_status azri_enter(azredis_client *c) { return azri_enter_to(c, 1); }

/* What azri_enter means by st. */
static void azri_enter_error(const azredis_client *c, azredis_status st, azredis_error *e) {
    if (!e) return;
    if (!c) (void)azri_fail(e, st, "client", "there is no client: azredis_open had no memory");
    else if (st == AZREDIS_E_CLOSED) (void)azri_fail(e, st, "client", "the client was closed");
    else if (AZRI_WITH_FORK && st == AZREDIS_E_FORK) *e = azri_fork_record;
    else if (st == AZREDIS_E_STATE)
        (void)azri_fail(e, st, "client", "a blocking call is not allowed in a callback; use azredis_submit");
    else *e = c->broken;
}

/* With threads, or when the client was closed meanwhile, which goes then. */
static AZRI_APART void azri_leave_last(azredis_client *c) {
    if (c->kick) {                      /* before this call stops to count: the client may be gone then */
        azri_let_go(c);
        azri_hold(c);
    }
    c->inside--;
    if (azri_threaded(c)) azri_threads_left(c);
    else if (c->inside == 0 && c->closing) {
        c->end(c);
        return;
    }
    azri_let_go(c);
}

/* Ends a public call and lets go of the lock. */
static void azri_leave(azredis_client *c) {
    if (azri_shared(c) || c->closing) azri_leave_last(c);
    else c->inside--;
}

static int azri_renewing(azredis_client *c) {
    const azri_session *s = c->hub.sessions;
    int due;
    if (azri_fetching(c)) return 1;
    uint64_t now = azri_now(c);
    for (; s; s = azri_next(s))
        if (s->state == AZRI_READY && (s->trying || azri_session_auth_at(s) <= now)) return 1;
    azri_auth_lock(c->auth);
    due = !azri_is_static(&c->auth->conf) && azri_token_live(&c->auth->machine, now) && azri_token_due(&c->auth->machine, now);
    azri_auth_unlock(c->auth);
    return due;
}

/* Rule 2: drives a renewal that is due to its end, and presents the token. The time for it is given once: an
 * authority that hangs slows one call, not every call. */
static void azri_renew(azredis_client *c, uint64_t limit) {
    if (azri_threaded(c) || c->renew_spent >= c->renew_ms || !azri_renewing(c)) return;
    uint64_t start = azri_now(c);
    uint64_t until = azri_min64(start + (c->renew_ms - c->renew_spent), limit);
    while (!c->closing && azri_renewing(c) && azri_now(c) < until) {
        azri_pump_turn(c);
        if (azri_renewing(c)) azri_pump_sleep(c, until);
    }
    c->renew_spent += azri_now(c) - start;
}

/* Before a command a renewal may take half of the command's time, and must end while the old token still serves. */
static void azri_before_call(azredis_client *c, uint64_t now, uint64_t deadline) {
    if (azri_threaded(c)) return;                                         /* theirs is all this */
    now = azri_pump_look(c, now);                                   /* rule 1 */
    if (azri_pump_heard(c)) now = azri_pump_look(c, azri_now(c));   /* the line may have ended behind what came */
    if (c->hub.blob && now >= c->headroom_at && azri_hub_live_blob(&c->hub, now))
        azri_renew(c, azri_min64(now + (deadline - azri_min64(now, deadline)) / 2,
                                 c->hub.blob->expires_at - c->hub.blob->life_ms / 10));
}

/* The rest of azri_before_call's turn. */
static void azri_after_queueing(azredis_client *c, uint64_t now) {
    if (!azri_threaded(c)) azri_turn_write(c, now);
}

/* Each of the commands ends by its own deadline, so this ends. */
static void azri_until_done(azredis_client *c, uint64_t now, const int *done, int want) {
    if (azri_threaded(c)) {
        azri_threads_until(c, done, want);
        return;
    }
    azri_after_queueing(c, now);
    while (*done < want && !c->closing) {
        azri_pump_sleep(c, AZRI_NEVER64);
        azri_pump_turn(c);
    }
}

/* A turn, or a sleep until something has changed; at most until `until`. */
static void azri_pass_time(azredis_client *c, uint64_t until) {
    if (azri_threaded(c)) azri_threads_await(c, until);
    else azri_pump_sleep(c, until);
}

static void azri_look(azredis_client *c) {
    if (!azri_threaded(c)) azri_pump_turn(c);
}

/* Waits for room in the backlog, within the call's own time. */
static azredis_status azri_new_cmd_wait(azredis_client *c, int argc, const azredis_str *argv, int way,
                                        uint64_t deadline, azri_cmd **out, azredis_error *e) {
    azredis_status st;
    while ((st = azri_hub_new_cmd(&c->hub, argc, argv, way, out, e)) == AZREDIS_AGAIN && !c->closing) {
        if (azri_now(c) >= deadline) return AZREDIS_E_FULL;
        azri_look(c);
        azri_pass_time(c, deadline);
        if (c->closing) return azri_fail(e, AZREDIS_E_CLOSED, "client", "the client was closed");
    }
    return st;
}

static void azri_cmd_options(azri_cmd *cmd, const azredis_call *how, uint64_t deadline) {
    cmd->deadline = deadline;
    cmd->no_queue = how && (how->flags & AZREDIS_NO_QUEUE) != 0;
    cmd->no_reply = how && (how->flags & AZREDIS_NO_REPLY) != 0;
}

static uint32_t azri_call_ms(const azredis_client *c, const azredis_call *how) {
    return how && how->timeout_ms ? how->timeout_ms : c->command_ms;
}

static uint64_t azri_call_deadline(const azredis_client *c, const azredis_call *how, uint64_t now) {
    return azri_after(now, azri_call_ms(c, how));
}

/* The reply of a call that did not come to a command. */
static azredis_status azri_refuse_call(azredis_reply *r, const azri_mem *m, const azredis_error *e) {
    if (r) {
        azri_reply_reset(r, AZREDIS_NOT_SENT);
        azri_reply_error(r, m, e);
    }
    return e->code;
}

static AZRI_APART azredis_status azri_refuse_enter(azredis_client *c, azredis_reply *r, azredis_status st) {
    azredis_error e;
    if (AZRI_WITH_FORK && r && st == AZREDIS_E_FORK) {  /* nothing is freed or kept: the allocator may have been held by another thread */
        r->status = st;
        r->fate = AZREDIS_NOT_SENT;
        r->value = NULL;
        r->error = &azri_fork_record;
        return st;
    }
    azri_enter_error(c, st, &e);
    /* One that is being closed may be gone by now: its text is that of the status. */
    return azri_refuse_call(r, c && st != AZREDIS_E_CLOSED ? &c->port.mem : NULL, &e);
}

AZREDIS_API azredis_status azredis_command_argv(azredis_client *c, azredis_reply *r, const azredis_call *how, int argc,
                                                const azredis_str *argv) {
    azredis_reply own;
    azri_cmd *cmd;
    azredis_status st = azri_enter(c);
    int done = 0, waits = !how || !(how->flags & AZREDIS_NO_REPLY);
    if (st != AZREDIS_OK) return azri_refuse_enter(c, r, st);
    memset(&own, 0, sizeof own);
    uint64_t now = azri_now(c);
    uint64_t deadline = azri_call_deadline(c, how, now);
    azri_before_call(c, now, deadline);
    st = azri_new_cmd_wait(c, argc, argv, waits, deadline, &cmd, &c->hub.made);
    if (st != AZREDIS_OK) {
        st = azri_refuse_call(r, &c->port.mem, &c->hub.made);
        azri_after_queueing(c, azri_now(c));
        azri_leave(c);
        return st;
    }
    azri_cmd_options(cmd, how, deadline);
    cmd->reply = r ? r : &own;
    if (waits) cmd->done = &done;
    else cmd->reply = &cmd->own;
    now = azri_now(c);
    azri_hub_submit(&c->hub, cmd);
    if (!waits) {
        if (r) azri_reply_reset(r, AZREDIS_NOT_SENT);
        if (azri_threaded(c)) azri_threads_kick(c);
        else azri_pump_turn(c);
    } else {
        azri_until_done(c, now, &done, 1);
        azri_renew(c, AZRI_NEVER64);
    }
    azri_leave(c);                      /* a client closed in a callback ends the command here at the latest */
    st = (r ? r : &own)->status;
    azredis_reply_free(&own);
    return st;
}

static AZRI_APART azredis_status azri_command_long(azredis_client *c, azredis_reply *r) {
    azredis_error e;
    (void)azri_fail(&e, AZREDIS_E_LIMIT, "command",
                    "azredis_command takes up to %d arguments; use azredis_command_argv", AZRI_COMMAND_ARGS - 1);
    return azri_refuse_call(r, c ? &c->port.mem : NULL, &e);
}

AZREDIS_API azredis_status (azredis_command)(azredis_client *c, azredis_reply *r, const char *arg0, ...) {
    azredis_str argv[AZRI_COMMAND_ARGS];
    va_list ap;
    const char *z;
    int argc = 0;
    va_start(ap, arg0);
    for (z = arg0; z && argc < AZRI_COMMAND_ARGS; z = va_arg(ap, const char *)) argv[argc++] = azri_str(z);
    va_end(ap);
    if (!z) return azredis_command_argv(c, r, NULL, argc, argv);
    return azri_command_long(c, r);
}

/* ==== >>tx ================================================================ uses: above ==========
 * Leased connections for callers, and transactions on them.
 * ================================================================================================ */
#ifndef AZREDIS_NO_MALLOC
/* ---- leased connections ---- */

/* Back from its caller: somebody may wait for it. */
static void azri_lease_end(azredis_client *c, azri_session *s) {
    azri_lease_give(&c->hub, s, azri_now(c));
    if (azri_threaded(c)) {
        azri_threads_changed(c);
        azri_threads_kick(c);
    }
}

/* 1: nobody gains by waiting for a connection. */
static int azri_lease_hopeless(const azredis_client *c, const azredis_call *how) {
    const azri_hub *h = &c->hub;
    return h->aborted || (h->trouble.code != AZREDIS_OK && !h->trouble.retryable) || (h->conf.fail_fast && h->ever_ready) ||
           (how && how->flags & AZREDIS_NO_QUEUE);
}

/* A leased connection that is ready. As commands wait for the shared one, this waits for that first. NULL: *e tells. */
static azri_session *azri_lease_wait(azredis_client *c, const azredis_call *how, uint64_t deadline, azredis_error *e) {
    azri_session *s = NULL;
    azredis_status st = AZREDIS_AGAIN;
    for (;; azri_look(c)) {
        int up = azri_hub_main(&c->hub)->state == AZRI_READY;
        if (!s && up) s = azri_lease_take(&c->hub, c, azri_now(c), &st);
        if (s && s->state == AZRI_READY) return s;
        if (c->closing) (void)azri_fail(e, AZREDIS_E_CLOSED, "client", "the client was closed");
        else if (s && azri_lease_ended(s)) azri_fail_copy(e, &s->error);
        else if (!s && st == AZREDIS_E_NOMEM) (void)azri_fail(e, st, "lease", "no memory for one more connection");
        else if (azri_now(c) < deadline && (s || up || !azri_lease_hopeless(c, how))) {
            azri_pass_time(c, deadline);
            continue;
        } else if (!s && up)
            (void)azri_fail(e, AZREDIS_E_FULL, "lease", "%u connections are leased already; raise leases", (unsigned)c->hub.conf.leases);
        else if (s) (void)azri_fail(e, AZREDIS_E_TIMEOUT, "lease", "%s: a leased connection was not ready in time", c->endpoint);
        else azri_hub_why(&c->hub, azri_now(c), e);
        if (e->code == AZREDIS_E_FULL || e->code == AZREDIS_E_TIMEOUT) azri_hub_snapshot(&c->hub, azri_now(c), e);
        if (s) azri_lease_end(c, s);
        return NULL;
    }
}

/* What a command means there. */
static azri_on_lease azri_lease_what(int argc, const azredis_str *argv) {
    return azri_on_lease_of(argc > 0 && argv && argv[0].len ? azri_refusal_of(argc, argv) : NULL);
}

/* n commands into one flight, each with its reply, that end when *done is n. s: the leased connection; NULL: the shared
 * one. Not OK: none was queued. */
static azredis_status azri_flight(azredis_client *c, azri_session *s, const azredis_call *how, uint64_t deadline,
                                  const azredis_cmd *cmd, size_t n, azredis_reply *part, int *done, azredis_error *e) {
    azri_queue made;
    azri_cmd *one;
    azredis_status st = AZREDIS_OK;
    memset(&made, 0, sizeof made);
    for (size_t i = 0; i < n; i++) {
        st = azri_new_cmd_wait(c, cmd[i].argc, cmd[i].argv, s ? AZRI_LENT | AZRI_FOR_LEASE : AZRI_LENT, deadline, &one, e);
        if (st != AZREDIS_OK) break;
        azri_cmd_options(one, how, deadline);
        if (s && azri_lease_what(cmd[i].argc, cmd[i].argv) == AZRI_MARKS) s->lease.marked = 1;
        one->no_reply = 0;
        one->reply = &part[i];
        one->done = done;
        azri_queue_push(&made, one);
    }
    while (made.head) {
        one = azri_queue_take(&made, NULL);
        if (st != AZREDIS_OK) azri_stock_give(&c->hub.stock, one);
        else if (s) azri_lease_submit(&c->hub, s, one);
        else azri_hub_submit(&c->hub, one);
    }
    return st;
}

/* A flight on a leased connection; returns when all of it has ended. */
static azredis_status azri_lease_flight(azredis_client *c, azri_session *s, uint64_t deadline, const azredis_cmd *cmd, size_t n,
                                        azredis_reply *part, azredis_error *e) {
    int done = 0;
    azredis_status st = azri_flight(c, s, NULL, deadline, cmd, n, part, &done, e);
    if (st == AZREDIS_OK) azri_until_done(c, azri_now(c), &done, (int)n);
    if (st == AZREDIS_OK && done < (int)n) azri_client_fail_all(c);       /* a callback has closed the client */
    return st;
}

/* One command. */
static void azri_lease_run(azredis_client *c, azri_session *s, uint64_t deadline, int argc, const azredis_str *argv,
                           azredis_reply *r) {
    azri_on_lease what = azri_lease_what(argc, argv);
    azredis_cmd cmd;
    azredis_error e;
    cmd.argc = argc;
    cmd.argv = argv;
    azri_lease_before(s, what);
    if (azri_lease_flight(c, s, deadline, &cmd, 1, r, &e) != AZREDIS_OK) (void)azri_refuse_call(r, &c->port.mem, &e);
    azri_lease_after(s, what, r->status, r->fate);
    if (azri_threaded(c)) azri_threads_kick(c);     /* a token may have waited for it */
}

AZREDIS_API azredis_lease *azredis_lease_open(azredis_client *c, uint32_t wait_ms, azredis_error *why) {
    azredis_error e;
    azredis_status st = azri_enter(c);
    if (st != AZREDIS_OK) {
        azri_enter_error(c, st, why);
        return NULL;
    }
    azri_before_call(c, azri_now(c), azri_after(azri_now(c), wait_ms));
    azri_session *s = azri_lease_wait(c, NULL, azri_after(azri_now(c), wait_ms), &e);
    if (!s && why) *why = e;
    azri_leave(c);
    return s ? &s->lease : NULL;
}

AZREDIS_API azredis_status azredis_lease_command_argv(azredis_lease *l, azredis_reply *r, const azredis_call *how, int argc,
                                                      const azredis_str *argv) {
    azredis_client *c = l ? l->client : NULL;
    azredis_reply own;
    azredis_status st = azri_enter(c);
    if (!l || st != AZREDIS_OK) return azri_refuse_enter(c, r, st);
    memset(&own, 0, sizeof own);
    if (!r) r = &own;
    uint64_t now = azri_now(c);
    azri_before_call(c, now, azri_call_deadline(c, how, now));
    azri_lease_run(c, l->session, azri_call_deadline(c, how, now), argc, argv, r);
    azri_leave(c);
    st = r->status;
    azredis_reply_free(&own);
    return st;
}

AZREDIS_API void azredis_lease_close(azredis_lease *l) {
    azredis_client *c = l ? l->client : NULL;
    if (!c || azri_auth_forked(c->auth)) return;
    azri_hold(c);
    c->inside++;
    azri_lease_end(c, l->session);
    azri_leave(c);
}

/* ---- transactions ---- */

/* Is v, the answer to the test, what the condition asks for? */
static int azri_condition_holds(const azredis_condition *k, const azredis_value *v) {
    azredis_value want;
    azredis_str text = azredis_text(v);
    double a, b;
    if (k->relation == AZREDIS_IF_NIL || k->relation == AZREDIS_IF_NOT_NIL)
        return (v->type == AZREDIS_T_NIL) == (k->relation == AZREDIS_IF_NIL);
    if (!text.ptr && v->type != AZREDIS_T_INTEGER) return k->relation == AZREDIS_IF_NOT_EQUAL;
    if (k->relation <= AZREDIS_IF_NOT_EQUAL && text.ptr && v->type != AZREDIS_T_DOUBLE)
        return azri_eq(text, k->value) == (k->relation == AZREDIS_IF_EQUAL);
    memset(&want, 0, sizeof want);
    want.type = AZREDIS_T_STRING;
    want.len = (uint32_t)k->value.len;
    want.as.str = k->value.ptr ? k->value.ptr : "";
    if (azredis_double(v, &a) != AZREDIS_OK || azredis_double(&want, &b) != AZREDIS_OK) return k->relation == AZREDIS_IF_NOT_EQUAL;
    if (k->relation == AZREDIS_IF_LESS) return a < b;
    if (k->relation == AZREDIS_IF_GREATER) return a > b;
    return (a <= b && a >= b) == (k->relation == AZREDIS_IF_EQUAL);
}

/* A transaction on its way. */
typedef struct azri_tx {
    azredis_client     *c;
    azri_session       *s;
    const azredis_call *how;
    const azredis_cmd  *cmd;
    size_t              n, room;        /* its commands; the most of one flight */
    uint64_t            deadline;
    azredis_cmd        *flight;         /* room for the commands of one, and for their answers */
    azredis_reply      *part;
    azredis_reply      *r;              /* the caller's */
} azri_tx;

static int azri_tx_ends(azri_tx *x, azredis_fate fate, const azredis_error *e) {
    azri_reply_reset(x->r, fate);
    azri_reply_error(x->r, &x->c->port.mem, e);
    return 0;
}

/* The first `n` of the flight. 0: they could not be sent. */
static int azri_tx_fly(azri_tx *x, size_t n) {
    azredis_error e;
    if (azri_lease_flight(x->c, x->s, x->deadline, x->flight, n, x->part, &e) == AZREDIS_OK) return 1;
    return azri_tx_ends(x, AZREDIS_NOT_SENT, &e);
}

static void azri_tx_word(azri_tx *x, size_t at, const azredis_str *word) {
    x->flight[at].argc = 1;
    x->flight[at].argv = word;
}

/* WATCH and the tests. 1: all hold. Of the transaction itself nothing has been sent yet. */
static int azri_tx_conditions(azri_tx *x, azredis_str (*watch)[2]) {
    const azredis_condition *k = x->how->conditions;
    size_t i, n = x->how->condition_count;
    azredis_error e;
    for (i = 0; i < n; i++) {
        watch[i][0] = azri_str("WATCH");
        watch[i][1] = k[i].key;
        x->flight[i].argc = 2;
        x->flight[i].argv = watch[i];
        x->flight[n + i] = k[i].test;
    }
    x->s->lease.watching = x->s->undivided = 1;
    if (n && !azri_tx_fly(x, 2 * n)) return 0;
    for (i = 0; i < 2 * n; i++) {
        if (x->part[i].status != AZREDIS_OK) return azri_tx_ends(x, AZREDIS_NOT_SENT, x->part[i].error);
        if (i < n || azri_condition_holds(&k[i - n], x->part[i].value)) continue;
        (void)azri_fail(&e, AZREDIS_E_CONDITION, "exec", "condition %u of the transaction does not hold: nothing of it was sent",
                        (unsigned)(i - n));
        return azri_tx_ends(x, AZREDIS_NOT_SENT, &e);
    }
    return 1;
}

/* What EXEC was answered; before it stand the answers to the commands. */
static int azri_tx_judge(azri_tx *x, const azredis_reply *queued) {
    const azredis_reply *exec = queued + x->n;
    const azredis_value *v = exec->value;
    azredis_error e;
    size_t i = 0;
    if (v && v->type == AZREDIS_T_ARRAY && v->len == x->n) {
        azredis_status st = azredis_reply_copy(x->r, exec);
        if (st == AZREDIS_OK) return 1;
        (void)azri_fail(&e, st, "exec", "the transaction ran, but its answers did not fit into memory");
    } else if (v && v->type == AZREDIS_T_NIL) {
        (void)azri_fail(&e, AZREDIS_E_CONFLICT, "exec", "a watched key was changed by another client: nothing of the transaction ran; "
                        "read again and repeat it");
    } else if (!v || v->type == AZREDIS_T_ERROR) {          /* EXECABORT: the reason stands before it */
        while (v && i < x->n && queued[i].status == AZREDIS_OK) i++;
        return azri_tx_ends(x, exec->fate, v && i < x->n ? queued[i].error : exec->error);
    } else {
        (void)azri_fail(&e, AZREDIS_E_RESP, "exec", "%s: EXEC was answered by another number of answers than commands", x->c->endpoint);
        x->s->wants_close = AZRI_TEXT("EXEC was answered by another number of answers than commands");
    }
    return azri_tx_ends(x, AZREDIS_ANSWERED, &e);
}

/* MULTI, the commands and EXEC in one flight. On a connection where MULTI was never accepted it goes alone at first: were
 * it refused, what follows would run one by one. */
static int azri_tx_run(azri_tx *x) {
    static const azredis_str multi = {"MULTI", 5}, exec = {"EXEC", 4};
    azredis_lease *l = &x->s->lease;
    size_t at = 1;
    azri_tx_word(x, 0, &multi);
    x->s->undivided = l->multi = 1;     /* until EXEC is answered, the connection is nobody else's */
    if (!l->proved) {
        if (!azri_tx_fly(x, 1)) return 0;
        if (x->part[0].status != AZREDIS_OK) return azri_tx_ends(x, AZREDIS_NOT_SENT, x->part[0].error);
        l->proved = 1;
        at = 0;
    }
    memcpy(x->flight + at, x->cmd, x->n * sizeof *x->cmd);
    azri_tx_word(x, at + x->n, &exec);
    if (!azri_tx_fly(x, at + x->n + 1)) {
        if (at) l->multi = 0;           /* not even MULTI was sent */
        return 0;
    }
    if (x->part[at + x->n].value) l->multi = l->watching = 0;
    return azri_tx_judge(x, x->part + at);
}

/* With the memory it needs: for each of `room` a command and an answer, and the words of WATCH. */
static void azri_tx_with(azri_tx *x) {
    static const azredis_str unwatch = {"UNWATCH", 7};
    const azri_mem *m = &x->c->port.mem;
    size_t i, n = x->how->condition_count, one = sizeof *x->flight + sizeof *x->part, words = 2 * sizeof(azredis_str);
    char *p = (char *)azri_zalloc(m, x->room * one + n * words);
    azredis_error e;
    if (!p) {
        (void)azri_fail(&e, AZREDIS_E_NOMEM, "exec", "no memory for the transaction");
        (void)azri_tx_ends(x, AZREDIS_NOT_SENT, &e);
        return;
    }
    x->part = (azredis_reply *)(void *)p;
    x->flight = (azredis_cmd *)(void *)(x->part + x->room);
    x->s = azri_lease_wait(x->c, x->how, x->deadline, &e);
    if (!x->s) {
        (void)azri_tx_ends(x, AZREDIS_NOT_SENT, &e);
    } else {
        if (!n || azri_tx_conditions(x, (azredis_str (*)[2])(void *)(x->flight + x->room))) (void)azri_tx_run(x);
        else if (!azri_lease_ended(x->s) && !x->s->fifo.head) azri_lease_run(x->c, x->s, x->deadline, 1, &unwatch, x->part);
        azri_lease_end(x->c, x->s);     /* a transaction that was left open ends with the connection */
    }
    for (i = 0; i < x->room; i++) azredis_reply_free(&x->part[i]);
    azri_free(m, p, x->room * one + n * words);
}

/* 1: the call has what it needs, and none of its commands begins or ends a transaction of its own. */
static int azri_tx_is_right(const azri_tx *x, size_t most) {
    const azredis_condition *k = x->how->conditions;
    size_t i, conditions = x->how->condition_count;
    if (!x->cmd || !x->n || x->n > most || (conditions && !k) || conditions > most) return 0;
    for (i = 0; i < x->n + conditions; i++) {
        const azredis_cmd *cmd = i < x->n ? &x->cmd[i] : &k[i - x->n].test;
        azri_on_lease what = azri_lease_what(cmd->argc, cmd->argv);
        if (what == AZRI_WATCHES || what == AZRI_FORGETS || what == AZRI_BEGINS || what == AZRI_ENDS) return 0;
    }
    return 1;
}

/* azredis_exec with AZREDIS_ATOMIC, entered already. */
static azredis_status azri_atomic(azredis_client *c, azredis_reply *r, const azredis_call *how, const azredis_cmd *cmd, size_t n) {
    azredis_reply own;
    azredis_error e;
    azri_tx x;
    memset(&own, 0, sizeof own);
    memset(&x, 0, sizeof x);
    x.c = c;
    x.how = how;
    x.cmd = cmd;
    x.n = n;
    x.r = r ? r : &own;
    x.deadline = azri_call_deadline(c, how, azri_now(c));
    x.room = n + 2 > 2 * how->condition_count ? n + 2 : 2 * how->condition_count;
    azri_before_call(c, azri_now(c), x.deadline);
    if (!azri_tx_is_right(&x, c->hub.conf.backlog_count)) {
        (void)azri_fail(&e, AZREDIS_E_ARG, "exec", "a transaction takes 1 to backlog_count commands, and conditions; WATCH, MULTI and "
                        "EXEC are not among them");
        (void)azri_tx_ends(&x, AZREDIS_NOT_SENT, &e);
    } else {
        azri_tx_with(&x);
    }
    azri_renew(c, AZRI_NEVER64);
    azri_leave(c);
    azredis_status st = x.r->status;
    azredis_reply_free(&own);
    return st;
}
#endif

/* ==== >>blocking ========================================================== uses: above ==========
 * azredis_block: a blocking command on a leased connection, slice by slice.
 * ================================================================================================ */

#ifndef AZREDIS_NO_MALLOC
typedef struct azri_blocking {          /* one call */
    azri_slices  slices;
    int          argc;
    azredis_str *argv;                  /* a copy, in which timeout and ids are replaced */
    size_t       size;
    char        *ids;                   /* behind it: room for as many as there may be */
    uint64_t     begun, limit;          /* the call; how long it may take in all */
    int          sent;                  /* the first slice */
} azri_blocking;

/* A token that is due is shown before the next slice, not after it. */
static void azri_blocking_call(azredis_client *c, azri_session *s, uint64_t deadline, int argc, const azredis_str *argv,
                               azredis_reply *r) {
    uint64_t now = azri_now(c);
    if (now >= azri_session_auth_at(s)) azri_session_reauth(s, now);
    azri_lease_run(c, s, deadline, argc, argv, r);
}

static azredis_status azri_blocking_open(azri_blocking *b, azredis_client *c, int argc, const azredis_str *argv,
                                         azredis_error *e) {
    b->sent = 0;
    b->begun = azri_now(c);
    if (!argv || !azri_slices_of(&b->slices, argc, argv, b->begun, b->limit))
        return azri_fail(e, AZREDIS_E_ARG, "block", "azredis_block takes a blocking command, and its timeout as 0.5 or 30; 0: for ever");
    size_t ids = b->slices.ids ? (size_t)(argc - b->slices.ids) : 0;
    b->argc = argc;
    b->size = (size_t)argc * sizeof *argv + ids * AZRI_ID_ROOM;
    b->argv = (azredis_str *)azri_alloc(&c->port.mem, b->size);
    if (!b->argv) return azri_fail(e, AZREDIS_E_NOMEM, "block", "out of memory");
    memcpy(b->argv, argv, (size_t)argc * sizeof *argv);
    b->ids = (char *)(b->argv + argc);
    return AZREDIS_OK;
}

/* The id of the stream's last entry in the place of `$`: by the next slice that would mean another one. 0: the answer
 * is in *r, or there was none. */
static int azri_blocking_last(azredis_client *c, azri_session *s, azri_blocking *b, int at, azredis_reply *r) {
    azredis_str ask[6], id = azri_str("0-0");
    char *room = b->ids + (size_t)(at - b->slices.ids) * AZRI_ID_ROOM;
    ask[0] = azri_str("XREVRANGE");
    ask[1] = b->argv[at - (b->argc - b->slices.ids)];
    ask[2] = azri_str("+");
    ask[3] = azri_str("-");
    ask[4] = azri_str("COUNT");
    ask[5] = azri_str("1");
    azri_blocking_call(c, s, azri_min64(b->limit, azri_after(azri_now(c), c->command_ms)), 6, ask, r);
    if (r->status != AZREDIS_OK || !r->value || r->value->type != AZREDIS_T_ARRAY) return 0;
    if (r->value->len && r->value->as.items[0].type == AZREDIS_T_ARRAY && r->value->as.items[0].len)
        id = azredis_text(&r->value->as.items[0].as.items[0]);
    if (!id.ptr || id.len > AZRI_ID_ROOM) return 0;
    memcpy(room, id.ptr, id.len);
    b->argv[at] = azri_slice(room, id.len);
    return 1;
}

static void azri_blocking_slice(azredis_client *c, azri_session *s, azri_blocking *b, azredis_reply *r) {
    for (int i = b->slices.ids; i && i < b->argc; i++)
        if (azri_eqz(b->argv[i], "$") && !azri_blocking_last(c, s, b, i, r)) return;
    uint64_t now = azri_now(c);
    uint64_t ms = azri_slices_ms(&b->slices, s->blob, now);
    b->argv[b->slices.at] = azri_slices_timeout(&b->slices, ms);
    azri_blocking_call(c, s, azri_after(now + ms, c->command_ms), b->argc, b->argv, r);
}

/* A connection that has to be made first, or waited for, is not the command's own time, but has that of every command. */
static azri_session *azri_blocking_connect(azredis_client *c, azri_blocking *b, azredis_error *e) {
    uint64_t own = b->slices.until - b->begun;
    azri_session *s;
    if (b->sent) return azri_lease_wait(c, NULL, b->slices.until, e);
    s = azri_lease_wait(c, NULL, azri_min64(b->limit, azri_max64(b->slices.until, azri_after(b->begun, c->command_ms))), e);
    if (!s) return NULL;
    b->sent = 1;
    if (b->slices.until != AZRI_NEVER64)
        b->slices.until = azri_min64(b->limit, azri_min64(azri_now(c), azri_after(b->begun, c->command_ms)) + own);
    return s;
}

/* Until there is an answer, or time is over. */
static void azri_blocking_run(azredis_client *c, azri_blocking *b, azredis_reply *r) {
    azri_session *s = NULL;
    azredis_error e;
    uint64_t next;
    uint32_t tries = 0;
    do {
        if (!s) s = azri_blocking_connect(c, b, &e);
        if (s) azri_blocking_slice(c, s, b, r);
        else (void)azri_refuse_call(r, &c->port.mem, &e);
        if (!s && azri_lease_hopeless(c, NULL)) break;
        if (s && s->state == AZRI_READY && r->fate == AZREDIS_ANSWERED) {
            tries = 0;
            continue;
        }
        if (s) azri_lease_end(c, s);
        s = NULL;
        next = azri_now(c) + azri_backoff(&c->hub.rng, AZRI_RECONNECT_BASE, AZRI_RECONNECT_CAP, tries++);
        while (azri_slices_go_on(&b->slices, r, azri_now(c)) && azri_now(c) < next && !c->closing) {
            azri_look(c);
            azri_pass_time(c, azri_min64(next, b->slices.until));
        }
    } while (azri_slices_go_on(&b->slices, r, azri_now(c)) && !c->closing);
    if (s) azri_lease_end(c, s);
    if (r->status != AZREDIS_OK || !azri_slices_go_on(&b->slices, r, azri_now(c))) return;
    (void)azri_fail(&e, AZREDIS_E_CLOSED, "client", "the client was closed");      /* between two slices: time is not over */
    (void)azri_refuse_call(r, &c->port.mem, &e);
}

AZREDIS_API azredis_status azredis_block(azredis_client *c, azredis_reply *r, const azredis_call *how, int argc,
                                         const azredis_str *argv) {
    azredis_reply own;
    azri_blocking b;
    azredis_error e;
    azredis_status st = azri_enter(c);
    if (st != AZREDIS_OK) return azri_refuse_enter(c, r, st);
    memset(&own, 0, sizeof own);
    if (!r) r = &own;
    b.limit = how && how->timeout_ms ? azri_after(azri_now(c), how->timeout_ms) : AZRI_NEVER64;
    azri_before_call(c, azri_now(c), b.limit);
    st = azri_blocking_open(&b, c, argc, argv, &e);
    if (st == AZREDIS_OK) {
        azri_blocking_run(c, &b, r);
        azri_free(&c->port.mem, b.argv, b.size);
        azri_renew(c, AZRI_NEVER64);
    } else {
        (void)azri_refuse_call(r, &c->port.mem, &e);
    }
    azri_leave(c);
    st = r->status;
    azredis_reply_free(&own);
    return st;
}
#endif

/* ==== >>calls ============================================================= uses: above ==========
 * The other public calls: many commands in one flight, submitting, waiting, event loops, subscriptions, insight.
 * ================================================================================================ */
#ifndef AZREDIS_NO_MALLOC
/* ---- many commands in one flight ---- */

/* One reply of many: their values as the elements of an array. */
static azredis_status azri_exec_gather(const azri_mem *m, azredis_reply *r, const azredis_reply *part, size_t n) {
    azredis_value *items = (azredis_value *)azri_zalloc(m, n * sizeof *items), root;
    if (!items) return AZREDIS_E_NOMEM;
    for (size_t i = 0; i < n; i++) {
        if (part[i].value) items[i] = *part[i].value;
        items[i].flags &= (uint8_t)~AZREDIS_F_ATTRIBUTE;
    }
    memset(&root, 0, sizeof root);
    root.type = AZREDIS_T_ARRAY;
    root.len = (uint32_t)n;
    root.as.items = items;
    azredis_status st = azri_reply_store(r, m, &root);
    azri_free(m, items, n * sizeof *items);
    return st;
}

/* The first reply without an answer decides; error replies of the server are elements. */
static azredis_status azri_exec_end(const azri_mem *m, azredis_reply *r, const azredis_reply *part, size_t n) {
    azredis_error e;
    size_t i;
    for (i = 0; i < n && (part[i].status == AZREDIS_OK || part[i].value); i++) {}
    azri_reply_reset(r, i < n ? part[i].fate : AZREDIS_ANSWERED);
    if (i < n) {
        azri_reply_error(r, m, part[i].error);
        return r->status;
    }
    azredis_status st = azri_exec_gather(m, r, part, n);
    if (st == AZREDIS_OK) return st;
    (void)azri_fail(&e, st, "exec", "the commands ran, but their answers did not fit into memory");
    azri_reply_error(r, m, &e);
    return st;
}

AZREDIS_API azredis_status azredis_exec(azredis_client *c, azredis_reply *r, const azredis_call *how,
                                        const azredis_cmd *cmd, size_t n) {
    azredis_reply own, *part;
    azredis_error e;
    azredis_status st = azri_enter(c);
    int done = 0;
    if (st != AZREDIS_OK) return azri_refuse_enter(c, r, st);
    if (how && how->flags & AZREDIS_ATOMIC) return azri_atomic(c, r, how, cmd, n);
    azri_mem mem = c->port.mem;
    memset(&own, 0, sizeof own);
    uint64_t now = azri_now(c);
    azri_before_call(c, now, azri_call_deadline(c, how, now));
    part = n && cmd && n <= c->hub.conf.backlog_count ? (azredis_reply *)azri_zalloc(&c->port.mem, n * sizeof *part) : NULL;
    if (!part) st = azri_fail(&e, n && cmd ? n <= c->hub.conf.backlog_count ? AZREDIS_E_NOMEM : AZREDIS_E_LIMIT : AZREDIS_E_ARG,
                              "exec", "azredis_exec takes 1 to backlog_count commands, and memory for their answers");
    else st = azri_flight(c, NULL, how, azri_call_deadline(c, how, azri_now(c)), cmd, n, part, &done, &e);
    if (part && st == AZREDIS_OK) {
        azri_until_done(c, azri_now(c), &done, (int)n);
        azri_renew(c, AZRI_NEVER64);
        azri_leave(c);
        st = azri_exec_end(&mem, r ? r : &own, part, n);
    } else {
        azri_after_queueing(c, azri_now(c));
        azri_leave(c);
        st = azri_refuse_call(r, &mem, &e);
    }
    for (size_t i = 0; part && i < n; i++) azredis_reply_free(&part[i]);
    azri_free(&mem, part, n * sizeof *part);
    azredis_reply_free(&own);
    return st;
}
#endif

AZREDIS_API azredis_status azredis_submit(azredis_client *c, const azredis_call *how, int argc, const azredis_str *argv,
                                          azredis_reply_fn fn, void *user) {
    azri_cmd *cmd = NULL;
    azredis_status st = azri_enter_to(c, 0);
    if (st != AZREDIS_OK) return st;
    st = azri_hub_new_cmd(&c->hub, argc, argv, 0, &cmd, NULL);
    if (st == AZREDIS_AGAIN) c->was_full = 1;
    if (cmd) {
        azri_cmd_options(cmd, how, AZRI_NEVER64);
        cmd->within = azri_call_ms(c, how);
        cmd->fn = fn;
        cmd->user = user;
        c->deliver = azri_deliver_calls;
        azri_hub_submit(&c->hub, cmd);
        if (azri_threaded(c)) azri_threads_kick(c);
    }
    azri_leave(c);
    return st;
}

AZREDIS_API azredis_status azredis_wait(azredis_client *c, uint32_t ms) {
    azredis_status st = azri_enter(c);
    if (st != AZREDIS_OK) return st;
    uint64_t until = azri_after(azri_now(c), ms);
    if (azri_threaded(c)) {
        azri_threads_wait(c, until);
    } else {
        do {
            azri_pump_turn(c);
            if (!c->closing && !c->woken) azri_pump_sleep(c, until);
        } while (!c->closing && !c->woken && azri_now(c) < until);
        c->woken = 0;
    }
    st = c->closing ? AZREDIS_E_CLOSED : AZREDIS_OK;
    azri_leave(c);
    return st;
}

AZREDIS_API azredis_status azredis_connect(azredis_client *c, uint32_t wait_ms, azredis_error *why) {
    azredis_status st = azri_enter(c);
    if (st != AZREDIS_OK) {
        azri_enter_error(c, st, why);
        return st;
    }
    uint64_t until = azri_after(azri_now(c), wait_ms);
    for (;;) {
        const azredis_error *t = &c->hub.trouble;
        azri_look(c);
        if (c->closing) st = azri_fail(why, AZREDIS_E_CLOSED, "client", "the client was closed");
        if (c->closing || azri_hub_main(&c->hub)->state == AZRI_READY) break;
        if (c->hub.aborted || (t->code != AZREDIS_OK && !t->retryable) || azri_now(c) >= until) {
            azredis_error e;
            azri_hub_why(&c->hub, azri_now(c), &e);
            if (why) *why = e;
            st = e.code;
            break;
        }
        azri_pass_time(c, until);
    }
    azri_leave(c);
    return st;
}

AZREDIS_API void azredis_wake(azredis_client *c) {
    if (!c || azri_auth_forked(c->auth)) return;
    azri_waker_write(c->waker, AZRI_CALL);
    if (azri_threaded(c)) azri_threads_call(c);
}

/* ---- your event loop ---- */

AZREDIS_API size_t azredis_fds(azredis_client *c, azredis_fd *out, size_t cap) {
    azredis_fd all[AZRI_FDS_MAX];
    if (!c || azri_auth_forked(c->auth)) return 0;
    azri_hold(c);
    if (azri_threaded(c) || c->closing || c->broken.code != AZREDIS_OK) {
        azri_let_go(c);
        return 0;
    }
    size_t n = azri_minz(azri_pump_fds(c, all, AZRI_FDS_MAX), AZRI_FDS_MAX);
    if (out) memcpy(out, all, azri_minz(n, cap) * sizeof *out);
    c->short_list = n > cap;
    c->grave.keep = azri_grave_keep;
    if (out && cap) c->grave.unlisted = c->grave.count; /* a short list does not have them either */
    azri_let_go(c);
    return n;
}

AZREDIS_API int azredis_timeout_ms(azredis_client *c) {
    if (!c || azri_auth_forked(c->auth)) return (int)AZRI_WAIT_MAX;
    azri_hold(c);
    uint64_t now = azri_now(c);
    uint64_t t = now + AZRI_WAIT_MAX;
    if (!azri_threaded(c) && !c->closing && c->broken.code == AZREDIS_OK) {
        azri_sooner(&t, azri_pump_deadline(c, now));
        if (c->short_list || c->grave.count) azri_sooner(&t, now + AZRI_STARVE);
    }
    azri_let_go(c);
    return t > now ? (int)(t - now) : 0;
}

AZREDIS_API azredis_status azredis_process(azredis_client *c, const azredis_fd *fds, size_t n) {
    azredis_status st = azri_enter(c);
    if (st != AZREDIS_OK) return st;
    if (azri_threaded(c)) {
        azri_leave(c);
        return AZREDIS_E_STATE;
    }
    if (!fds && n == 0) {
        c->grave.keep = NULL;                           /* nobody watches */
        azri_grave_clear(&c->grave, &c->port, c->grave.count);
    } else {
        azri_grave_clear(&c->grave, &c->port, c->grave.unlisted);
    }
    c->silent = 0;
    azri_pump_turn(c);
    c->woken = 0;                                       /* the loop is awake: that was all azredis_wake wanted */
    if (azri_pump_deadline(c, azri_now(c)) > azri_now(c) + AZRI_SECOND) azri_pump_idle(c);
    st = c->closing ? AZREDIS_E_CLOSED : AZREDIS_OK;
    azri_leave(c);
    return st;
}

/* ---- pub/sub ---- */

static azredis_sub *azri_subscribe(azredis_client *c, const azredis_sub_options *o) {
    azredis_sub *s = NULL;
    if (!c || o->kind < AZREDIS_CHANNEL || o->kind > AZRI_WITH_PATTERNS || !o->channel) return NULL;
    if (azri_auth_forked(c->auth)) return NULL;
    azri_hold(c);
    if (c->closing) {
        azri_let_go(c);
        return NULL;
    }
    c->inside++;
    s = azri_sub_new(&c->port.mem, o->kind, o->channel);
    if (s) {
        s->client = c;
        s->fn = o->fn;
        s->user = o->user;
        s->max = azri_or(o->count, c->hub.conf.sub_queue);
        if (o->bytes) s->max_bytes = o->bytes;
        s->overflow = o->overflow;
        azri_hub_add_sub(&c->hub, s);
        azri_hub_need_listener(&c->hub, azri_now(c));
        if (azri_hub_listener(&c->hub)->state == AZRI_READY) azri_hub_subscribe(&c->hub, azri_hub_listener(&c->hub));
        if (azri_threaded(c)) azri_threads_kick(c);
    }
    azri_leave(c);
    return s;
}

AZREDIS_API azredis_sub *azredis_subscribe(azredis_client *c, int kind, const char *channel, azredis_message_fn fn,
                                           void *user) {
    azredis_sub_options o;
    memset(&o, 0, sizeof o);
    o.kind = kind;
    o.channel = channel;
    o.fn = fn;
    o.user = user;
    return azri_subscribe(c, &o);
}

#ifndef AZREDIS_LEAN
AZREDIS_API azredis_sub *azredis_subscribe_with_v(azredis_client *c, const azredis_sub_options *options, size_t size,
                                                  unsigned version) {
    azredis_sub_options o;
    if (!azri_take_options(&o, sizeof o, options, size, version) || (unsigned)o.overflow > AZREDIS_OVERFLOW_CLOSE) return NULL;
    return azri_subscribe(c, &o);
}
#endif

/* Why nothing comes on it; OK: it may come. */
static azredis_status azri_sub_trouble(const azredis_sub *s) {
    return azri_sub_ended(s) || s->state == AZRI_SUB_REFUSED ? s->error.code : AZREDIS_OK;
}

AZREDIS_API azredis_status azredis_subscribed(azredis_sub *s, uint32_t wait_ms, azredis_error *why) {
    azredis_client *c = s ? s->client : NULL;
    if (!s) return azri_fail(why, AZREDIS_E_ARG, "redis.subscribe", "there is no subscription");
    azredis_status st = azri_enter(c);
    if (st != AZREDIS_OK) {
        azri_enter_error(c, st, why);
        return st;
    }
    uint64_t until = azri_after(azri_now(c), wait_ms);
    s->busy++;
    for (;;) {
        azri_look(c);
        st = c->closing || s->dead ? AZREDIS_E_CLOSED : azri_sub_trouble(s);
        if (st != AZREDIS_OK || s->open) break;
        st = AZREDIS_E_TIMEOUT;
        if (azri_now(c) >= until) break;
        azri_pass_time(c, until);
    }
    if (st == AZREDIS_E_TIMEOUT || st == AZREDIS_E_CLOSED) {
        const azredis_error *t = &c->hub.trouble;
        (void)azri_fail(why, st, "redis.subscribe", "%s: the subscription was not confirmed%s%s", c->endpoint,
                        t->code == AZREDIS_OK ? "" : ": ", t->code == AZREDIS_OK ? "" : t->message);
        if (why) azri_hub_snapshot(&c->hub, azri_now(c), why);
    } else if (why) {
        *why = s->error;
        why->code = st;
    }
    s->busy--;
    if (azri_threaded(c) && s->dead) azri_threads_changed(c);
    azri_leave(c);
    return st;
}

AZREDIS_API azredis_status azredis_next(azredis_sub *s, azredis_message *out, uint32_t wait_ms) {
    azredis_client *c = s ? s->client : NULL;
    if (!s || !out || s->fn) return AZREDIS_E_ARG;
    azredis_status st = azri_enter(c);
    if (st != AZREDIS_OK) return st;
    uint64_t until = azri_after(azri_now(c), wait_ms);
    st = AZREDIS_AGAIN;
    s->busy++;
    while (!c->closing && !s->dead) {
        azri_look(c);
        if (azri_sub_next(s, out)) st = AZREDIS_OK;
        else if (azri_sub_trouble(s) != AZREDIS_OK) st = s->error.code;
        if (st != AZREDIS_AGAIN || azri_now(c) >= until) break;
        azri_pass_time(c, until);
    }
    if (c->closing || s->dead) st = AZREDIS_E_CLOSED;
    s->busy--;
    if (azri_threaded(c) && s->dead) azri_threads_changed(c);
    azri_leave(c);
    return st;
}

AZREDIS_API void azredis_unsubscribe(azredis_sub *s) {
    azredis_client *c = s ? s->client : NULL;
    if (!s || azri_auth_forked(c->auth)) return;
    azri_hold(c);
    if (s->dead) {
        azri_let_go(c);
        return;
    }
    c->inside++;
    azri_hub_unsubscribe(&c->hub, s);
    if (azri_threaded(c)) azri_threads_unsubscribe(c, s);
    if (azri_threaded(c) || !c->in_callback) azri_hub_sweep_subs(&c->hub);
    azri_leave(c);
}

#ifndef AZREDIS_LEAN
/* ---- insight ---- */

static void azri_stats_fill(azredis_client *c, azredis_stats_data *d) {
    const azri_session *s = azri_hub_main(&c->hub), *i;
    azredis_auth *a = c->auth;
    uint64_t now = azri_now(c);
    *d = c->hub.stats;
    d->connected = s->state == AZRI_READY;
    d->waiting = c->hub.backlog.count;
    for (i = c->hub.sessions; i; i = azri_next(i)) {
        d->waiting += i->fifo.count - i->in_flight;
        d->in_flight += i->in_flight;
        d->connections += i->state == AZRI_READY;
    }
    d->last_read_ms = s->last_read ? (int64_t)(now - s->last_read) : AZREDIS_UNKNOWN;
    d->last_write_ms = s->last_write ? (int64_t)(now - s->last_write) : AZREDIS_UNKNOWN;
    d->token_left_ms = d->token_next_ms = d->outage_budget_ms = AZREDIS_UNKNOWN;
    azri_auth_lock(a);
    d->tokens = a->tokens;
    d->token_failures = a->token_failures;
    if (!azri_is_static(&a->conf)) {
        d->token_failures_in_row = a->machine.failures;
        d->token_left_ms = d->outage_budget_ms = azri_token_left(&a->machine, now);
        d->token_next_ms = a->machine.next_try > now ? (int64_t)(a->machine.next_try - now) : 0;
    }
    azri_auth_unlock(a);
}

AZREDIS_API void azredis_stats_v(azredis_client *c, azredis_stats_data *out, size_t size) {
    azredis_stats_data d;
    if (!out) return;
    memset(&d, 0, sizeof d);
    memset(out, 0, size);
    if (c && c->broken.code == AZREDIS_OK && !azri_auth_forked(c->auth)) {
        azri_hold(c);
        azri_stats_fill(c, &d);
        azri_let_go(c);
    }
    memcpy(out, &d, azri_minz(size, sizeof d));
}
#endif

#ifndef AZREDIS_NO_MALLOC
/* ==== >>script ============================================================ uses: above ==========
 * Lua by its name, and by its text where the server does not know it. Entry points: azredis_script_init, azredis_eval.
 * ================================================================================================ */

AZREDIS_API void azredis_script_init(azredis_script *s, const char *text, size_t len) {
    unsigned char sum[20];
    memset(s, 0, sizeof *s);
    s->text = azri_slice(text, len);
    if (azri_mbedtls_sha1((const unsigned char *)text, len, sum) != 0) return;
    for (size_t i = 0; i < sizeof sum; i++) (void)azri_fmt(s->sha1 + 2 * i, 3, "%02x", (unsigned)sum[i]);
}

/* By its code: the words behind it differ between servers. */
static int azri_script_unknown(const azredis_reply *r) {
    return r->value && r->value->type == AZREDIS_T_ERROR && azri_says(azredis_text(r->value), "NOSCRIPT");
}

/* all: room for three words, then keys and arguments. An answer that is not waited for cannot say NOSCRIPT. */
static azredis_status azri_script_run(azredis_client *c, azredis_reply *r, const azredis_call *how,
                                      const azredis_script *s, int argc, azredis_str *all) {
    azredis_status st;
    if (s->sha1[0] && !(how && (how->flags & AZREDIS_NO_REPLY))) {
        all[0] = azri_str(s->read_only ? "EVALSHA_RO" : "EVALSHA");
        all[1] = azri_str(s->sha1);
        st = azredis_command_argv(c, r, how, argc, all);
        if (!azri_script_unknown(r)) return st;
    }
    all[0] = azri_str(s->read_only ? "EVAL_RO" : "EVAL");
    all[1] = s->text;
    return azredis_command_argv(c, r, how, argc, all);
}

AZREDIS_API azredis_status azredis_eval(azredis_client *c, azredis_reply *r, const azredis_call *how,
                                        const azredis_script *s, int nkeys, int argc, const azredis_str *argv) {
    azredis_str few[AZRI_COMMAND_ARGS], *all = few;
    azredis_reply own;
    azredis_error e;
    char digits[24];
    size_t n = argc > 0 ? (size_t)argc : 0, size = (n + 3) * sizeof *all;
    if (!c) return azri_refuse_enter(c, r, AZREDIS_E_NOMEM);
    if (azri_auth_forked(c->auth)) return azri_refuse_enter(c, r, AZREDIS_E_FORK);
    if (!s || nkeys < 0 || nkeys > argc || argc > INT_MAX - 3 || (n && !argv)) {
        (void)azri_fail(&e, AZREDIS_E_ARG, "eval", "azredis_eval needs a script, and argv with at least nkeys of argc strings");
        return azri_refuse_call(r, &c->port.mem, &e);
    }
    if (size > sizeof few) all = (azredis_str *)azri_alloc(&c->port.mem, size);
    if (!all) {
        (void)azri_fail(&e, AZREDIS_E_NOMEM, "eval", "no memory for a list of %d strings", argc);
        return azri_refuse_call(r, &c->port.mem, &e);
    }
    memset(&own, 0, sizeof own);
    all[2] = azredis_digits(digits, nkeys);
    if (n) memcpy(all + 3, argv, n * sizeof *argv);
    azredis_status st = azri_script_run(c, r ? r : &own, how, s, argc + 3, all);
    if (all != few) azri_free(&c->port.mem, all, size);
    azredis_reply_free(&own);
    return st;
}

/* ==== >>scan ============================================================== uses: above ==========
 * Cursors of SCAN and its kin. A cursor moves on only with a page that came whole, so a failure repeats no page that
 * was handed out. Entry points: azredis_scan_next, azredis_scan_free.
 * ================================================================================================ */

#define AZRI_SCAN_ARGS 9              /* name key cursor MATCH m COUNT n TYPE t */

static azredis_status azri_scan_fetch(azredis_client *c, azredis_scan *it) {
    static const char *const names[] = { "SCAN", "SSCAN", "HSCAN", "ZSCAN" };
    azredis_str argv[AZRI_SCAN_ARGS];
    char digits[24];
    int argc = 0;
    argv[argc++] = azri_str(names[it->kind]);
    if (it->kind != AZREDIS_SCAN) argv[argc++] = it->key;
    argv[argc++] = azri_str(it->cursor[0] ? it->cursor : "0");
    if (it->match) {
        argv[argc++] = azri_str("MATCH");
        argv[argc++] = azri_str(it->match);
    }
    if (it->count) {
        argv[argc++] = azri_str("COUNT");
        argv[argc++] = azredis_digits(digits, it->count);
    }
    if (it->type && it->kind == AZREDIS_SCAN) {
        argv[argc++] = azri_str("TYPE");
        argv[argc++] = azri_str(it->type);
    }
    return azredis_command_argv(c, &it->reply, it->how, argc, argv);
}

/* The page of a reply [cursor, page] that is one; NULL otherwise. */
static const azredis_value *azri_scan_page(const azredis_reply *r) {
    const azredis_value *v = r->value;
    if (r->status != AZREDIS_OK || !v || v->type != AZREDIS_T_ARRAY || v->len != 2) return NULL;
    uint8_t type = v->as.items[1].type;
    return type == AZREDIS_T_ARRAY || type == AZREDIS_T_MAP || type == AZREDIS_T_SET ? &v->as.items[1] : NULL;
}

/* Pairs come one behind the other, or each as an array of two. */
static int azri_scan_take(azredis_scan *it) {
    const azredis_value *page = azri_scan_page(&it->reply), *v;
    uint32_t each = it->kind == AZREDIS_HSCAN || it->kind == AZREDIS_ZSCAN ? 2 : 1;
    it->name = it->value = NULL;
    if (!page || it->at >= page->len) return 0;
    v = &page->as.items[it->at];
    if (each == 2 && v->type == AZREDIS_T_ARRAY && v->len == 2) {
        v = v->as.items;
        it->at++;
    } else {
        if (page->len - it->at < each) return 0;
        it->at += each;
    }
    it->name = v;
    if (each == 2) it->value = v + 1;
    return 1;
}

static int azri_scan_turn(azredis_client *c, azredis_scan *it) {
    azredis_error e;
    it->at = 0;
    if (azri_scan_fetch(c, it) != AZREDIS_OK) return 0;
    azredis_str cursor = azri_scan_page(&it->reply) ? azredis_text(&it->reply.value->as.items[0]) : azri_slice(NULL, 0);
    if (cursor.len == 0 || cursor.len >= sizeof it->cursor) {
        (void)azri_fail(&e, AZREDIS_E_RESP, "scan", "the server's answer is not a cursor and a list");
        (void)azri_refuse_call(&it->reply, &c->port.mem, &e);
        it->reply.fate = AZREDIS_ANSWERED;
        return 0;
    }
    *azri_put(it->cursor, cursor.ptr, cursor.len) = '\0';
    it->last = azri_eqz(cursor, "0");
    return 1;
}

AZREDIS_API int azredis_scan_next(azredis_client *c, azredis_scan *it) {
    azredis_error e;
    if (!it) return 0;
    if (!c || (unsigned)it->kind > AZREDIS_ZSCAN || (it->how && (it->how->flags & AZREDIS_NO_REPLY))) {
        (void)azri_fail(&e, c ? AZREDIS_E_ARG : AZREDIS_E_NOMEM, "scan", "a scan needs a client, a kind that exists, and answers");
        (void)azri_refuse_call(&it->reply, c ? &c->port.mem : NULL, &e);
        return 0;
    }
    while (!azri_scan_take(it))
        if (it->last || !azri_scan_turn(c, it)) return 0;
    return 1;
}

AZREDIS_API void azredis_scan_free(azredis_scan *it) {
    if (!it) return;
    azredis_reply_free(&it->reply);
    memset(it, 0, sizeof *it);
}
#endif

#endif /* AZREDIS_ONLY_PURE */
#endif /* AZRI_IMPLEMENTED */
#endif /* AZREDIS_ENTRA_IMPLEMENTATION */

/* ==== licence ===================================================================================
 * MIT No Attribution (MIT-0). Copyright 2026 the azredis_entra.h contributors.
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
 * documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
 * rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
 * persons to whom the Software is furnished to do so.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
 * WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
 * COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
 * OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 * ================================================================================================ */
