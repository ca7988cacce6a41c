# azredis_entra.h: every task of the project. A bare `make` lists them; all output goes to build/.

B        ?= build
H        ?= .
Q         = $(if $(V),,@)
JOBS     ?= 2
# Live tests wait for half of their time; more at once than this, and their short deadlines pass on two cores.
LIVE_JOBS ?= 4
FUZZ_RUNS ?= 20000
TIMEOUT  ?= 600
LIVE_TIMEOUT ?= 600
CHECK_TIMEOUT ?= 600
ifeq ($(origin CC),default)
CC = gcc
endif
CLANG    ?= clang
PYTHON   ?= python3
MINGW    ?= x86_64-w64-mingw32-gcc
ARM_CC   ?= arm-none-eabi-gcc

WARN     = -Wall -Wextra -Werror
# gcc takes half of its time for this one in a file as long as ours. clang has it too and compiles every test and example;
# standards.sh asks gcc for it.
GCC_WARN = -Wno-misleading-indentation
# Lines, and no more: what a sanitizer and valgrind print. All there is costs clang a third of its time: DEBUG=-g.
DEBUG    ?= -g1
CFLAGS_T = -std=gnu11 $(DEBUG) $(WARN) -I$(H) $(EXTRA_CFLAGS)
SAN      = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# clang knows more: unsigned numbers that wrap, values that a conversion changes, NULL where none may be.
SAN_INT  = -fsanitize=integer,implicit-conversion,nullability -fsanitize-ignorelist=tests/build/ignore.txt
TSAN     = -fsanitize=thread -fno-omit-frame-pointer
MSAN     = -fsanitize=memory -fsanitize-memory-track-origins -fno-omit-frame-pointer
PURE     = -DAZREDIS_ONLY_PURE= -Wno-unused-function
FUZZ_PURE = $(PURE)
# MBEDTLS: where an mbedTLS beside the system's is unpacked, for example build/pkg/trixie; linked from its .a files.
MBEDTLS  ?=
tls_inc  = $(addprefix -I,$(1:%=%/usr/include))
tls_libs = $(if $(1),$(1)/usr/lib/*/libmbedtls.a $(1)/usr/lib/*/libmbedx509.a $(1)/usr/lib/*/libmbedcrypto.a,\
           -lmbedtls -lmbedx509 -lmbedcrypto) -lpthread
TLS_INC  = $(call tls_inc,$(MBEDTLS))
TLS_LIBS = $(call tls_libs,$(MBEDTLS))
LIBS     = -Wl,--as-needed -lcmocka -ljansson -lssl -lcrypto -lutil
PREFIX   ?= /usr/local
DEST      = $(DESTDIR)$(PREFIX)
PC_FILE   = lib/pkgconfig/azredis_entra.pc
PC_BY_NAME = s|@REQUIRES@|mbedtls mbedx509 mbedcrypto|; s|@LIBS@|-lpthread|
PC_BY_LIB = s|@REQUIRES@||; s|@LIBS@|$(TLS_LIBS)|
HAS_PC    = $(shell pkg-config --exists mbedtls mbedx509 mbedcrypto 2>/dev/null && echo yes)
VERSION   = $(shell sed -n 's/^.define AZREDIS_VERSION_TEXT "\(.*\)"/\1/p' $(HEADER))
INSTALL_CLI = $(if $(wildcard tools/azredis.c),$(B)/azredis)

HEADER   = $(H)/azredis_entra.h
UNIT     = $(patsubst tests/unit/%.c,%,$(sort $(wildcard tests/unit/test_*.c)))
# Unit tests that need a system or mbedTLS; all others run on the pure half alone as well.
IMPURE   = test_posix test_child test_proxy test_tls test_config test_no_text test_key
PURE_UNIT = $(filter-out $(IMPURE),$(UNIT))
SIM      = $(patsubst tests/sim/%.c,%,$(sort $(wildcard tests/sim/*.c)))
# Dozens of threads that never wait: two of these at once, and whoever waits beside them comes half a second late.
LIVE_BUSY = test_threads test_stress test_threads_poll
# Those that take longest begin first, so that none is left over at the end.
LIVE_LONG = $(LIVE_BUSY) $(addprefix test_,outage plain authority doctor auth rotation shared loop sample)
LIVE_ALL = $(patsubst tests/live/%.c,%,$(sort $(wildcard tests/live/test_*.c)))
LIVE     = $(filter $(LIVE_LONG),$(LIVE_ALL)) $(filter-out $(LIVE_LONG),$(LIVE_ALL))
LIVE_SH  = $(filter-out $(LIVE_SH_OPT),$(sort $(wildcard tests/live/*.sh)))
LIVE_SH_OPT = tests/live/secrets_leak.sh
# What a user builds is optimised, and by gcc; live tests drive a quick build by clang. These do so once more with the other.
LIVE_OPT = test_sample test_azredis test_device test_devtools test_doctor test_identities
# In `make test` those under ASan that go through most code in least time; `make test-long` has all of them.
ASAN_SHORT = $(addprefix test_,loop faults certificate events hostile workload tls tx many connect handover \
             memory typed config resp_server)
FUZZ     = $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
# A port is for another machine: see port-lwip. hiredis is fetched: see the target of that name.
EXAMPLES = $(patsubst examples/%.c,%,$(filter-out examples/port_% examples/hiredis_%,$(sort $(wildcard examples/*.c))))
# What an example needs beside mbedTLS.
LINK_libuv    = -luv
LINK_libevent = -levent_core
LOOPS    = poll epoll libuv libevent psa_key threads pubsub pipeline transaction cacheaside consumer prometheus
PEERS    = $(sort $(wildcard tests/live/peers/*.sh))
# The longest first: two run at a time. Those of the first line take four fifths of it.
CHECKS   = tests/build/analyze.sh tests/build/switches.sh tests/build/sizes.sh tests/build/bare.sh tests/build/install.sh $(CHECKS_SHORT)
CHECKS_SHORT = tests/build/standards.sh tools/check_readme.py tests/build/mbedtls.sh tests/build/vendored.sh \
           tools/check_names.sh tools/check_layers.py tools/check_dotnet.py tools/check_macros.py tools/check_forbidden.sh \
           tests/build/vectors.sh
# The live test that `make test` repeats under valgrind: it takes the whole path through TLS once.
VALGRIND_LIVE ?= $(firstword $(filter test_calls test_plain test_connect test_basic,$(LIVE_ALL)) $(LIVE_ALL))
VALGRIND = valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,possible \
           --show-leak-kinds=definite,possible --child-silent-after-fork=yes

# Programs that several suites build from one source: build/<variant>/<kind>/<name>.
VARIANTS     = gcc clang asan clang-asan tsan msan $(SUITES_36) $(CROSS)
# mbedTLS 3.6 of two Debian suites, each a variant of its own: trixie has 3.6.6, in which RSA-PSS over TLS 1.2 is broken.
SUITES_36    = trixie sid
CROSS        = i386 armhf s390x
# At -O0 the compiler, which takes most of the time, is done in a third of it, and nothing is optimised away before a
# sanitizer looks at it. What runs long is optimised, and so is the test over which Debian's gcc 12 falls. A unit test is
# one file, and with all functions static the compiler makes code only of what the test reaches; gcc does so from -Og on.
UNIT_ONLY    = -DAZREDIS_ENTRA_STATIC
FLAGS_gcc    = -O0 $(GCC_WARN)
$(B)/gcc/unit/%: FLAGS_gcc = -Og $(GCC_WARN)
$(B)/gcc/sim/% $(B)/gcc/unit/test_config: FLAGS_gcc = -O1 $(GCC_WARN)
# The programs that live tests drive: a quarter of gcc's time.
FLAGS_clang  = -O0
%/unit/test_verdict: UNIT_ONLY =
FLAGS_asan   = -O0 $(SAN)
FLAGS_clang-asan = -O0 $(SAN) $(SAN_INT)
FLAGS_tsan   = -O1 $(TSAN)
# What it fuzzes stands on mbedTLS.
%/fuzz/fuzz_pfx: FUZZ_PURE = -DAZREDIS_ENTRA_STATIC
%/fuzz/fuzz_pfx: FUZZ_LIBS = $(TLS_LIBS)
# MemorySanitizer believes only code that it built, mbedTLS is not: the pure half alone. What runs long is worth an optimiser.
FLAGS_msan   = -O0 $(MSAN) $(PURE)
$(B)/msan/sim/% $(B)/msan/unit/test_resp: FLAGS_msan += -O1
# That simulation is of the whole client; TLS is linked and never called.
SIM_PURE     = $(PURE)
%/sim/leases: SIM_PURE =
%/sim/leases: PURE =
%/sim/leases: SIM_LIBS = $(TLS_LIBS)
CC_gcc       = $(CC)
CC_clang     = $(CLANG)
CC_asan      = $(CLANG)
CC_clang-asan = $(CLANG)
CC_tsan      = $(CC)
CC_msan      = $(CLANG)
$(foreach v,$(SUITES_36),$(eval FLAGS_$(v) = -O0 $(GCC_WARN))$(eval CC_$(v) = $$(CC))$(eval MBEDTLS_$(v) = $$(B)/pkg/$(v)))
$(foreach v,$(SUITES_36),$(eval $(B)/$(v)/unit/test_config: FLAGS_$(v) = -O1 $(GCC_WARN)))
# Other machines: Debian's cross compilers and, unpacked beside the system, its libraries for them. qemu runs it.
CC_i386      = i686-linux-gnu-gcc
CC_armhf     = arm-linux-gnueabihf-gcc
CC_s390x     = s390x-linux-gnu-gcc
QEMU_i386    = qemu-i386-static
QEMU_armhf   = qemu-arm-static
QEMU_s390x   = qemu-s390x-static
CROSS_DEBS   = libc6 libgcc-s1 libmbedtls-dev libmbedtls14 libmbedx509-1 libmbedcrypto7 libcmocka-dev libcmocka0 \
               libjansson-dev libjansson4 libssl-dev libssl3
# $(1) architecture: where its libraries are, as compiler and linker need them
cross_flags  = -O1 -isystem $(1)/usr/include $(addprefix -isystem ,$(wildcard $(1)/usr/include/*-linux-gnu*)) \
               $(foreach d,$(wildcard $(1)/usr/lib/*-linux-gnu*),-L$(d) -Wl,-rpath-link=$(d))
$(foreach a,$(CROSS),$(eval FLAGS_$(a) = $$(call cross_flags,$(B)/pkg/$(a))))

# In `make test` under MSan those that read what others wrote; `make test-long` has all of them, and the simulations.
MSAN_SHORT   = $(addprefix test_,resp json http jwt text core session hub token)
# What `make test` repeats with the one that has the most traps; `make test-mbedtls` repeats all with both.
LIVE_36      = $(addprefix $(B)/trixie/,unit/test_tls live/test_tls live/test_connect)
# `make test` builds everything first; a program that did not build is then a failed case of its suite.
need  = $(if $(BUILT),,$(1))
SUITE = $(PYTHON) tools/tests.py run -B $(B)
LIVE_SUITE = $(SUITE) $(LIVE_BUSY:%=--in-turn %)
export EMULATOR = $(abspath $(B))/emulator
# Made once; see kept_rsa_key.
export EMULATOR_KEYS = $(abspath $(B))/keys
export REDIS_SERVER = $(abspath $(B))/redis-server
export SAMPLE = $(abspath $(B))/sample
export AZREDIS = $(abspath $(B))/azredis
# The programs that live tests drive; a variant has its own.
driven = $(1)/sample $(1)/azredis $(1)/device_code
export CC CLANG PYTHON
export BUILD = $(abspath $(B))

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1@/p' Makefile | awk -F@ '{ printf "%-20s %s\n", $$1, $$2 }'

demo: $(B)/emulator $(B)/sample ## the sample on renewing tokens against emulator and real server, 75 s
	@sh tools/demo.sh $(B)

# ---- suites: each prints one line, its failed cases, and ends non-zero if there are any ---------
unit: unit-gcc unit-asan ## unit tests: gcc, then clang with ASan and UBSan
unit-gcc: $(call need,$(UNIT:%=$(B)/gcc/unit/%))
	@$(SUITE) unit-gcc -j $(JOBS) -t $(TIMEOUT) $(UNIT:%=$(B)/gcc/unit/%)
unit-asan: $(call need,$(UNIT:%=$(B)/clang-asan/unit/%))
	@$(SUITE) unit-asan -j $(JOBS) -t $(TIMEOUT) $(UNIT:%=$(B)/clang-asan/unit/%)
unit-msan-short: $(call need,$(MSAN_SHORT:%=$(B)/msan/unit/%))
	@$(SUITE) unit-msan-short -j $(JOBS) -t $(TIMEOUT) $(MSAN_SHORT:%=$(B)/msan/unit/%)
unit-msan: $(call need,$(PURE_UNIT:%=$(B)/msan/unit/%) $(SIM:%=$(B)/msan/sim/%)) ## unit tests and simulation of the pure half under MSan
	@$(SUITE) unit-msan -j $(JOBS) -t $(TIMEOUT) $(PURE_UNIT:%=$(B)/msan/unit/%) $(SIM:%=$(B)/msan/sim/%)
sim: $(call need,$(SIM:%=$(B)/gcc/sim/%)) ## seeded simulation of the pure half in virtual time
	@$(SUITE) sim -j $(JOBS) -t $(TIMEOUT) $(SIM:%=$(B)/gcc/sim/%)
# The programs that are driven come from a folder of their own: see driven.
live: export SAMPLE = $(abspath $(B))/clang/sample
live: export AZREDIS = $(abspath $(B))/clang/azredis
live: export EXAMPLES_DIR = $(abspath $(B))/clang
live: $(call need,$(LIVE_PROGRAMS)) ## live tests: emulator, TLS, real redis-server
	@$(LIVE_SUITE) live -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) --sh-arg $(EMULATOR) $(LIVE:%=$(B)/gcc/live/%) $(LIVE_SH)
live-asan live-asan-short: export SAMPLE = $(abspath $(B))/asan/sample
live-asan live-asan-short: export AZREDIS = $(abspath $(B))/asan/azredis
live-asan: $(call need,$(LIVE:%=$(B)/asan/live/%) emulator $(call driven,$(B)/asan)) ## live tests under ASan and UBSan
	@$(LIVE_SUITE) live-asan -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) $(LIVE:%=$(B)/asan/live/%)
live-asan-short: $(call need,$(ASAN_SHORT:%=$(B)/asan/live/%) emulator)
	@$(SUITE) live-asan-short -t $(LIVE_TIMEOUT) $(ASAN_SHORT:%=$(B)/asan/live/%)
live-opt: $(call need,$(OPT_PROGRAMS)) ## live tests of command line and examples as a user builds them; the scan for secrets finds what leaks
	@$(SUITE) live-opt -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) --sh-arg $(EMULATOR) $(LIVE_OPT:%=$(B)/gcc/live/%) \
	    tests/live/loops.sh $(LIVE_SH_OPT)
live-valgrind: $(call need,$(VALGRIND_LIVE:%=$(B)/gcc/live/%) emulator)
	@$(SUITE) live-valgrind -t $(LIVE_TIMEOUT) --wrap '$(VALGRIND)' $(VALGRIND_LIVE:%=$(B)/gcc/live/%)
fuzz-short: $(call need,$(FUZZ:%=$(B)/clang-asan/fuzz/%)) ## every fuzz target for a few seconds, ASan and UBSan
	@$(SUITE) fuzz-short -j $(JOBS) -t $(TIMEOUT) --plain --arg -runs=$(FUZZ_RUNS) $(FUZZ:%=$(B)/clang-asan/fuzz/%)
san: $(call need,$(SIM:%=$(B)/clang-asan/sim/%)) unit-asan live-asan fuzz-short ## everything under ASan and UBSan
	@$(SUITE) sim-asan -j $(JOBS) -t $(LIVE_TIMEOUT) $(SIM:%=$(B)/clang-asan/sim/%)
tsan: $(UNIT:%=$(B)/tsan/unit/%) $(LIVE:%=$(B)/tsan/live/%) emulator $(call driven,$(B)) ## unit and live tests under ThreadSanitizer
	@$(LIVE_SUITE) tsan -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) --wrap 'setarch -R' $(UNIT:%=$(B)/tsan/unit/%) $(LIVE:%=$(B)/tsan/live/%)
stress: $(B)/gcc/live/test_stress emulator ## 32 threads, STRESS_COMMANDS each (100000), through 20 renewals and 10 cuts, RESP3 and RESP2
	@STRESS_COMMANDS=$${STRESS_COMMANDS:-100000} STRESS_RENEWALS=20 STRESS_CUTS=10 STRESS_TTL=5 \
	    $(SUITE) stress -t 3600 $(B)/gcc/live/test_stress
valgrind: live-valgrind $(call need,$(UNIT:%=$(B)/gcc/unit/%)) ## unit tests and the live path under valgrind
	@$(SUITE) valgrind -j $(JOBS) -t 600 --wrap '$(VALGRIND)' $(UNIT:%=$(B)/gcc/unit/%)
check-short: $(call need,emulator $(B)/pkg/trixie/usr/include/mbedtls/ssl.h)
	@$(SUITE) check-short -j $(JOBS) -t $(CHECK_TIMEOUT) $(CHECKS_SHORT)
check: $(call need,emulator $(B)/hiredis/libhiredis.a $(B)/pkg/trixie/usr/include/mbedtls/ssl.h) ## layers, names, macros, README and manual run, standards, switches, install, analyzers
	@$(SUITE) check -j $(JOBS) -t $(CHECK_TIMEOUT) $(CHECKS)
# mbedTLS with its buffer allocator is in no package, so it is built from Debian's source package.
ARENA_SRC = $(B)/pkg/src/src/mbedtls-2.28.3
ARENA_TLS = -I$(ARENA_SRC)/include -Itests/build/arena -DMBEDTLS_USER_CONFIG_FILE='<mbedtls_user.h>'
arena: $(B)/arena/arena emulator ## high-water marks of a device: arena and mbedTLS's buffer, chain of four RSA-4096 certificates
	@$(B)/arena/arena
$(ARENA_SRC)/include/mbedtls/ssl.h:
	$(Q)sh tools/pkg/debian.sh bookworm $(B)/pkg/src src:mbedtls
$(B)/arena/libmbedtls.a: tests/build/arena/mbedtls_user.h $(ARENA_SRC)/include/mbedtls/ssl.h
	@mkdir -p $(@D)
	$(Q)ls $(ARENA_SRC)/library | sed -n 's/\.c$$//p' | \
	    xargs -P $(JOBS) -I% $(CC) -O1 -w $(ARENA_TLS) -c $(ARENA_SRC)/library/%.c -o $(@D)/%.o
	$(Q)ar rcs $@ $(@D)/*.o
$(B)/arena/arena: tests/build/arena/arena.c tests/live/live.h tests/live/hooks.h $(HEADER) $(B)/arena/libmbedtls.a
	$(Q)$(CC) $(CFLAGS_T) -O1 $(ARENA_TLS) $< -o $@ $(B)/arena/libmbedtls.a -lcmocka -ljansson
port-lwip: $(ARENA_SRC)/include/mbedtls/ssl.h ## examples/port_lwip.c for a Cortex-M4 (gcc-arm-none-eabi, libnewlib-arm-none-eabi, liblwip-dev)
	@mkdir -p $(B)/lwip
	$(Q)$(ARM_CC) -std=c99 -Os -mcpu=cortex-m4 -mthumb $(WARN) -I$(H) -Itests/build/lwip -I/usr/include/lwip \
	    -isystem $(ARENA_SRC)/include -c examples/port_lwip.c -o $(B)/lwip/port_lwip.o
# What needs tool chains, root (debootstrap) or minutes; sh tools/run.sh check-all installs them. NODES: see analyze.sh.
check-all: $(call need,emulator) $(CROSS:%=cross-libs-%) ## check in depth; unit tests on i386, armhf, s390x; bare Debian; valgrind
	@export AZREDIS_SUMMARY=later NODES=225000 CHECK_TIMEOUT=1800; for t in check $(CROSS:%=cross-%) valgrind; do $(MAKE) --no-print-directory -k $$t; done; \
	$(SUITE) elsewhere -j $(JOBS) -t 1200 tests/build/elsewhere.sh tests/build/trees.sh tests/build/selftest.sh; \
	$(PYTHON) tools/tests.py sum -B $(B) check $(CROSS:%=unit-%) live-valgrind valgrind elsewhere
port-mingw: ## the header without an operating system by a compiler for Windows (gcc-mingw-w64-x86-64)
	@mkdir -p $(B)/mingw/include && ln -sfn /usr/include/mbedtls $(B)/mingw/include/mbedtls
	$(Q)$(MINGW) -std=c99 -O2 $(WARN) -DAZREDIS_NO_OS -I$(H) -I$(B)/mingw/include -c tests/build/whole.c -o $(B)/mingw/whole.o
roots: $(B)/gcc/unit/test_tls ## heap that root certificates cost: parsed bundle, and as it is here
	@$< 2>/dev/null | sed -n 's/^roots: //p'
mbedtls-36: $(SUITES_36:%=$(B)/pkg/%/usr/include/mbedtls/ssl.h) ## unpacks mbedTLS 3.6.6 and newer below build/pkg
live-36: $(call need,$(LIVE_36) emulator)
	@$(SUITE) live-36 -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) $(LIVE_36)
test-mbedtls: $(SUITES_36:%=test-mbedtls-%) ## all unit and live tests with each mbedTLS 3.6
$(SUITES_36:%=test-mbedtls-%): export SAMPLE = $(abspath $(B))/$(@:test-mbedtls-%=%)/sample
$(SUITES_36:%=test-mbedtls-%): export AZREDIS = $(abspath $(B))/$(@:test-mbedtls-%=%)/azredis
$(SUITES_36:%=test-mbedtls-%): test-mbedtls-%: emulator $(B)/%/sample $(B)/%/azredis $(B)/%/device_code $(foreach t,$(UNIT:%=unit/%) $(LIVE:%=live/%),$(B)/%/$(t))
	@$(LIVE_SUITE) mbedtls-$* -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) $(filter $(B)/$*/unit/% $(B)/$*/live/%,$^)
demo-short: $(call need,$(B)/emulator $(B)/sample)
	@AZREDIS_DEMO_TTL=5 AZREDIS_DEMO_SECONDS=12 $(SUITE) demo-short --plain --arg $(B) tools/demo.sh
bench-short: $(call need,$(B)/redis-server)
	@$(SUITE) bench-short -t 600 --arg --short --arg -B --arg $(B) tools/bench.py
bench-check: $(B)/redis-server ## instructions, allocations, copies, system calls per operation against their limits
	@$(PYTHON) tools/bench.py -B $(B)
	@$(PYTHON) tools/bench.py -B $(B) --selftest
bench-threads: $(B)/bench_threads $(B)/emulator $(B)/redis-server ## ping-pong with the background threads idle against without them
	@sh tools/bench_threads.sh $(B) $<
bench-renewal: $(B)/gcc/live/test_latency emulator ## longest PING in ten renewals through a relay of 20 ms each way
	@LATENCY_RENEWALS=10 $(B)/gcc/live/test_latency
bench-throughput: $(B)/bench_throughput $(B)/emulator $(B)/redis-server ## GETs of 1, 8, 32 threads on one client beside one hiredis connection each; with Debian's hiredis sources
	@sh tools/bench_threads.sh $(B) $<
$(B)/bench_throughput: tools/bench_throughput.c $(HEADER) $(B)/hiredis/libhiredis.a
	$(Q)$(CC) -O2 -g $(WARN) -I$(H) -isystem $(B)/hiredis $(TLS_INC) $< -o $@ $(B)/hiredis/libhiredis.a -lssl -lcrypto $(TLS_LIBS)
$(B)/bench_threads: tools/bench_threads.c $(HEADER)
	@mkdir -p $(@D)
	$(Q)$(CC) -O2 -g $(WARN) $(TLS_INC) -I$(H) $< -o $@ $(TLS_LIBS)
sizes: $(B)/redis-server ## code, stack and heap, x86-64 and Cortex-M4; with Debian's mbedTLS sources
	@$(PYTHON) tools/sizes.py -B $(B)
sizes-update: $(B)/redis-server ## the same, written into README's table
	@$(PYTHON) tools/sizes.py -B $(B) --update
mutants: emulator $(call driven,$(B)) ## break the header in known ways; the named suite must notice
	@sh tests/mutants/run.sh $(B)
test-peers: emulator ## Azure SDK and Redis clients of others against the emulator
	@$(SUITE) peers -t 600 --sh-arg $(EMULATOR) $(PEERS)

# ---- all of it ----------------------------------------------------------------------------------
# A live test waits most of its time for what it has set to come: they run beside whatever needs the processors, which gives
# way to them (NICE). Hence the lanes, which run at the same time, and -j: one job each, and one more for who builds.
SUITES   = build build-asan build-unit unit-gcc unit-asan unit-msan-short sim fuzz-short check-short bench-short demo-short live \
           live-asan-short live-valgrind live-36
SUITES_LONG = build-long build-msan live-asan live-opt unit-msan check stress
TRIXIE   = $(B)/pkg/trixie/usr/include/mbedtls/ssl.h
LIVE_PROGRAMS = $(B)/emulator $(B)/redis-server $(call driven,$(B)/clang) $(LOOPS:%=$(B)/clang/%) \
           $(B)/clang/hiredis_token $(B)/clang/hiredis_async $(LIVE:%=$(B)/gcc/live/%)
OPT_PROGRAMS = $(B)/emulator $(B)/redis-server azredis examples hiredis $(LIVE_OPT:%=$(B)/gcc/live/%)
UNIT_PROGRAMS = $(UNIT:%=$(B)/gcc/unit/%) $(UNIT:%=$(B)/clang-asan/unit/%) $(MSAN_SHORT:%=$(B)/msan/unit/%) \
           $(SIM:%=$(B)/gcc/sim/%) $(FUZZ:%=$(B)/clang-asan/fuzz/%)
STEP     = env AZREDIS_SUMMARY=later $(MAKE) --no-print-directory BUILT=1
NICE     = nice -n 5
# A recipe with + hands the job slots down.
# $(1) name, $(2) targets: one result for all of them; which of them failed, the suite will say.
built    = env AZREDIS_SUMMARY=later $(PYTHON) tools/tests.py time -B $(B) $(1) $(MAKE) -k --no-print-directory $(2)
programs-live: $(TRIXIE) $(B)/sample $(LIVE_PROGRAMS)
programs-asan: $(ASAN_SHORT:%=$(B)/asan/live/%) $(LIVE_36)
programs-unit: $(UNIT_PROGRAMS)
programs-long: $(LIVE:%=$(B)/asan/live/%) $(call driven,$(B)/asan) $(OPT_PROGRAMS) $(TRIXIE)
programs-msan: $(PURE_UNIT:%=$(B)/msan/unit/%) $(SIM:%=$(B)/msan/sim/%)
programs: programs-live programs-asan programs-unit programs-long programs-msan
test: ## every kind of test, with a summary, in less than ten minutes; test-long has what it does in part
	@rm -rf $(B)/log
	@$(call built,build,-j$(JOBS) programs-live)
	@$(STEP) -k -j$$(($(JOBS) + 2)) lane-live lane-more lane-unit; $(PYTHON) tools/tests.py sum -B $(B) $(SUITES)
test-long: ## what test does in part: all checks, all of live under ASan and of the pure half under MSan, optimised programs, 20 renewals under stress
	@rm -f $(SUITES_LONG:%=$(B)/log/results/%.json)
	@$(call built,build-long,-j$(JOBS) programs-long)
	@$(STEP) -k -j$$(($(JOBS) + 1)) lane-long lane-check; STRESS_COMMANDS=20000 $(STEP) stress; $(PYTHON) tools/tests.py sum -B $(B) $(SUITES_LONG)
lane-live: live
lane-more:
	+@$(STEP) demo-short; $(NICE) $(call built,build-asan,programs-asan); \
	$(STEP) live-asan-short; $(STEP) live-36; $(STEP) live-valgrind
lane-unit:
	+@$(NICE) $(call built,build-unit,programs-unit); $(NICE) $(STEP) unit-gcc; $(NICE) $(STEP) unit-asan; \
	$(NICE) $(STEP) unit-msan-short; $(NICE) $(STEP) sim fuzz-short; $(NICE) $(STEP) check-short bench-short
lane-long:
	+@$(STEP) live-asan; $(STEP) live-opt
lane-check:
	+@$(NICE) $(call built,build-msan,programs-msan); $(NICE) $(STEP) unit-msan; $(NICE) $(STEP) check

emulator: $(B)/emulator $(B)/redis-server ## Entra and Azure Managed Redis on your desk: build/emulator
azredis: $(B)/azredis ## the command line: build/azredis
examples: $(EXAMPLES:%=$(B)/%) ## build/hello, build/sample, ...
hiredis: $(B)/hiredis_token $(B)/hiredis_async ## build/hiredis_token: hiredis with TLS on our tokens; with Debian's hiredis sources
# Unit tests on other machines: 32 bits, big-endian, where char is unsigned.
cross: $(CROSS:%=cross-%)
cross-%: cross-libs-%
	@$(MAKE) --no-print-directory -k -j$(JOBS) BUILT= CROSS_OF=$* cross-run
cross-libs-%:
	@sh tools/pkg/debian.sh bookworm $(B)/pkg/$* $(CROSS_DEBS:%=%:$*)
# A program under qemu cannot start one that needs qemu.
CROSS_UNIT = $(patsubst %,$(B)/$(CROSS_OF)/unit/%,$(filter-out test_child,$(UNIT)))
cross-run: $(CROSS_UNIT)
	@$(SUITE) unit-$(CROSS_OF) -j $(JOBS) -t 600 --wrap '$(QEMU_$(CROSS_OF)) -L $(B)/pkg/$(CROSS_OF)' $(CROSS_UNIT)
# mbedTLS 3.6 brings pkg-config files, 2.28 does not: its libraries are then named by us.
install: $(INSTALL_CLI) ## header, command line and pkg-config file to PREFIX (/usr/local), under DESTDIR
	install -d $(DEST)/include $(DEST)/lib/pkgconfig
	install -m 644 $(HEADER) $(DEST)/include/
	sed -e 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' -e '$(if $(HAS_PC),$(PC_BY_NAME),$(PC_BY_LIB))' \
	    tools/azredis_entra.pc.in > $(DEST)/$(PC_FILE)
	chmod 644 $(DEST)/$(PC_FILE)
	$(if $(INSTALL_CLI),install -d $(DEST)/bin && install -m 755 $(INSTALL_CLI) $(DEST)/bin/)
uninstall: ## removes what install has put there
	rm -f $(DEST)/include/azredis_entra.h $(DEST)/$(PC_FILE) $(DEST)/bin/azredis
clean: ## remove build/
	rm -rf $(B)

# ---- how things are built -----------------------------------------------------------------------
$(B)/emulator: tools/emulator.c $(wildcard tools/emulator/*.h)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -g $(WARN) $< -o $@ -lmicrohttpd -lgnutls -ljansson -lssl -lcrypto -lpthread

# Debian's redis-tools has the server under another name; it tells by its own name what to be.
$(B)/redis-server:
	@mkdir -p $(@D)
	@p=$$(command -v redis-server || command -v redis-check-rdb) || { echo "no redis-server: install redis-tools"; exit 1; }; \
	ln -sf "$$p" $@

$(B)/azredis: tools/azredis.c $(wildcard tools/azredis/*.h) $(HEADER)
	@mkdir -p $(@D)
	$(Q)$(CC) -O2 -g $(WARN) $(GCC_WARN) -I$(H) $(TLS_INC) $(EXTRA_CFLAGS) $< -o $@ $(TLS_LIBS)
# Eleven of them, each with the whole library: -O2 takes thrice as long.
$(B)/%: examples/%.c $(HEADER)
	@mkdir -p $(@D)
	$(Q)$(CC) -Og $(DEBUG) $(WARN) $(GCC_WARN) -I$(H) $(TLS_INC) $(EXTRA_CFLAGS) $< -o $@ $(LINK_$*) $(TLS_LIBS)

# Debian 12 has hiredis 0.14; newer Debian's library wants a newer libc, so it is built from the source package.
HIREDIS = $(B)/pkg/hiredis/src/hiredis-1.2.0
$(B)/hiredis/libhiredis.a:
	@mkdir -p $(@D)
	$(Q)sh tools/pkg/debian.sh trixie $(B)/pkg/hiredis src:hiredis
	$(Q)ln -sfn $(abspath $(HIREDIS)) $(@D)/hiredis
	$(Q)for f in alloc async hiredis net read sds ssl; do $(CC) -O2 -w -c $(HIREDIS)/$$f.c -o $(@D)/$$f.o || exit 1; done
	$(Q)ar rcs $@ $(@D)/*.o
HIREDIS_CC = $(CC) -Og $(GCC_WARN)
$(B)/clang/hiredis_%: HIREDIS_CC = $(CLANG) -O0
$(B)/hiredis_token $(B)/clang/hiredis_token: examples/hiredis_token.c
$(B)/hiredis_async $(B)/clang/hiredis_async: tests/live/hiredis_async.c
$(foreach d,$(B) $(B)/clang,$(d)/hiredis_token $(d)/hiredis_async): $(HEADER) $(B)/hiredis/libhiredis.a
	@mkdir -p $(@D)
	$(Q)$(HIREDIS_CC) $(DEBUG) $(WARN) -I$(H) -isystem $(B)/hiredis $(TLS_INC) $(EXTRA_CFLAGS) $(filter %.c,$^) -o $@ \
	    $(B)/hiredis/libhiredis.a -lssl -lcrypto -levent_core $(TLS_LIBS)

# The oldest and newest mbedTLS 3.6 that Debian has, unpacked beside the system's.
$(SUITES_36:%=$(B)/pkg/%/usr/include/mbedtls/ssl.h): $(B)/pkg/%/usr/include/mbedtls/ssl.h:
	$(Q)sh tools/pkg/debian.sh $* $(B)/pkg/$* libmbedtls-dev libmbedtls21 libmbedx509-7 libmbedcrypto16
	@touch $@

# $(1) variant
define VARIANT
INC_$(1)  = $$(call tls_inc,$$(or $$(MBEDTLS_$(1)),$$(MBEDTLS)))
LIBS_$(1) = $$(call tls_libs,$$(or $$(MBEDTLS_$(1)),$$(MBEDTLS)))
NEED_$(1) = $$(addsuffix /usr/include/mbedtls/ssl.h,$$(MBEDTLS_$(1)))
$(B)/$(1)/%: examples/%.c $(HEADER) | $$(NEED_$(1))
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) -std=gnu11 $(DEBUG) $(WARN) -I$(H) $$(INC_$(1)) $$(FLAGS_$(1)) $$(EXTRA_CFLAGS) $$< -o $$@ $$(LINK_$$*) $$(LIBS_$(1))
$(B)/$(1)/azredis: tools/azredis.c $(wildcard tools/azredis/*.h) $(HEADER) | $$(NEED_$(1))
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) -std=gnu11 $(DEBUG) $(WARN) -I$(H) $$(INC_$(1)) $$(FLAGS_$(1)) $$(EXTRA_CFLAGS) $$< -o $$@ $$(LIBS_$(1))
$(B)/$(1)/unit/%: tests/unit/%.c $(HEADER) $(wildcard tests/unit/*.h) | $$(NEED_$(1))
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(UNIT_ONLY) $$(INC_$(1)) $$(FLAGS_$(1)) $$< -o $$@ $$(LIBS) $$(LIBS_$(1))
$(B)/$(1)/sim/%: tests/sim/%.c $(HEADER) $(wildcard tests/sim/*.h) tests/unit/flow.h
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(SIM_PURE) $$(FLAGS_$(1)) $$< -o $$@ -Wl,--as-needed -lcmocka $$(SIM_LIBS)
# Linked to all live tests; those that have an implementation of their own take nothing from it.
$(B)/$(1)/library.a: tests/live/library.c $(HEADER) | $$(NEED_$(1))
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(INC_$(1)) $$(FLAGS_$(1)) -c $$< -o $$@.o && ar rcs $$@ $$@.o
$(B)/$(1)/live/%: tests/live/%.c $(B)/$(1)/library.a $(wildcard tests/live/*.h) | $$(NEED_$(1))
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(INC_$(1)) $$(FLAGS_$(1)) $$< -o $$@ $(B)/$(1)/library.a $$(LIBS) $$(LIBS_$(1))
$(B)/$(1)/fuzz/%: tests/fuzz/%.c $(HEADER) $(wildcard tests/fuzz/*.h)
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(FUZZ_PURE) -DAZRI_FUZZ_MAIN $$(FLAGS_$(1)) -O1 $$< -o $$@ $$(FUZZ_LIBS)
endef
$(foreach v,$(VARIANTS),$(eval $(call VARIANT,$(v))))
$(VARIANTS:%=$(B)/%/unit/test_verdict): tools/azredis/verdict.h

.PHONY: help arena hiredis port-lwip port-mingw demo unit unit-gcc unit-asan unit-msan unit-msan-short sim live live-asan live-asan-short live-opt \
        live-valgrind fuzz-short san tsan stress valgrind check check-short lane-live lane-more lane-unit lane-long lane-check test-long \
        programs-live programs-asan programs-unit programs-long programs-msan \
        roots mbedtls-36 live-36 test-mbedtls $(SUITES_36:%=test-mbedtls-%) demo-short bench-short bench-check bench-threads bench-throughput bench-renewal sizes \
        sizes-update mutants test-peers programs test emulator azredis examples install uninstall clean check-all cross cross-run
.DELETE_ON_ERROR:
