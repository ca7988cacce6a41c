# azredis_entra.h: every task of the project. A bare `make` lists them; all output goes to build/.

B        ?= build
H        ?= .
Q         = $(if $(V),,@)
JOBS     ?= 2
LIVE_JOBS ?= 4
FUZZ_RUNS ?= 20000
TIMEOUT  ?= 120
LIVE_TIMEOUT ?= 240
ifeq ($(origin CC),default)
CC = gcc
endif
CLANG    ?= clang
PYTHON   ?= python3

WARN     = -Wall -Wextra -Werror
CFLAGS_T = -std=gnu11 -g $(WARN) -I$(H) $(EXTRA_CFLAGS)
SAN      = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
TSAN     = -fsanitize=thread -fno-omit-frame-pointer
PURE     = -DAZREDIS_ONLY_PURE= -Wno-unused-function
TLS_LIBS = -lmbedtls -lmbedx509 -lmbedcrypto -lpthread
LIBS     = -Wl,--as-needed -lcmocka -ljansson -lssl -lcrypto -lutil $(TLS_LIBS)

HEADER   = $(H)/azredis_entra.h
UNIT     = $(patsubst tests/unit/%.c,%,$(sort $(wildcard tests/unit/test_*.c)))
SIM      = $(patsubst tests/sim/%.c,%,$(sort $(wildcard tests/sim/*.c)))
LIVE     = $(patsubst tests/live/%.c,%,$(sort $(wildcard tests/live/test_*.c)))
LIVE_SH  = $(sort $(wildcard tests/live/*.sh))
FUZZ     = $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
EXAMPLES = $(patsubst examples/%.c,%,$(sort $(wildcard examples/*.c)))
PEERS    = $(sort $(wildcard tests/live/peers/*.sh))
CHECKS   = tools/check_layers.py tools/check_names.sh tools/check_macros.py tools/check_readme.py \
           tests/build/standards.sh
# The live test that `make test` repeats under valgrind: it takes the whole path through TLS once.
VALGRIND_LIVE ?= $(firstword $(filter test_calls test_plain test_connect test_basic,$(LIVE)) $(LIVE))
VALGRIND = valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite,possible \
           --show-leak-kinds=definite,possible --child-silent-after-fork=yes

# Programs that several suites build from one source: build/<variant>/<kind>/<name>.
VARIANTS     = gcc asan clang-asan tsan
# Sanitizers at -O0: a fifth of the time to build, and nothing is optimised away before it is looked at.
FLAGS_gcc    = -O1
FLAGS_asan   = -O0 $(SAN)
FLAGS_clang-asan = -O0 $(SAN)
FLAGS_tsan   = -O1 $(TSAN)
CC_gcc       = $(CC)
CC_asan      = $(CC)
CC_clang-asan = $(CLANG)
CC_tsan      = $(CC)

# `make test` builds everything first; a program that did not build is then a failed case of its suite.
need  = $(if $(BUILT),,$(1))
SUITE = $(PYTHON) tools/tests.py run -B $(B)
export EMULATOR = $(abspath $(B))/emulator
export REDIS_SERVER = $(abspath $(B))/redis-server
export SAMPLE = $(abspath $(B))/sample
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
sim: $(call need,$(SIM:%=$(B)/gcc/sim/%)) ## seeded simulation of the pure half in virtual time
	@$(SUITE) sim -j $(JOBS) -t $(TIMEOUT) $(SIM:%=$(B)/gcc/sim/%)
live: $(call need,$(LIVE:%=$(B)/gcc/live/%) emulator $(B)/sample) ## live tests: emulator, TLS, real redis-server
	@$(SUITE) live -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) --sh-arg $(EMULATOR) $(LIVE:%=$(B)/gcc/live/%) $(LIVE_SH)
live-asan: export SAMPLE = $(abspath $(B))/asan/sample
live-asan: $(call need,$(LIVE:%=$(B)/asan/live/%) emulator $(B)/asan/sample)
	@$(SUITE) live-asan -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) $(LIVE:%=$(B)/asan/live/%)
live-valgrind: $(call need,$(VALGRIND_LIVE:%=$(B)/gcc/live/%) emulator)
	@$(SUITE) live-valgrind -t $(LIVE_TIMEOUT) --wrap '$(VALGRIND)' $(VALGRIND_LIVE:%=$(B)/gcc/live/%)
fuzz-short: $(call need,$(FUZZ:%=$(B)/clang-asan/fuzz/%)) ## every fuzz target for a few seconds, ASan and UBSan
	@$(SUITE) fuzz-short -j $(JOBS) -t $(TIMEOUT) --plain --arg -runs=$(FUZZ_RUNS) $(FUZZ:%=$(B)/clang-asan/fuzz/%)
san: $(call need,$(SIM:%=$(B)/clang-asan/sim/%)) unit-asan live-asan fuzz-short ## everything under ASan and UBSan
	@$(SUITE) sim-asan -j $(JOBS) -t $(LIVE_TIMEOUT) $(SIM:%=$(B)/clang-asan/sim/%)
tsan: $(UNIT:%=$(B)/tsan/unit/%) $(LIVE:%=$(B)/tsan/live/%) emulator $(B)/sample ## unit and live tests under ThreadSanitizer
	@$(SUITE) tsan -j $(LIVE_JOBS) -t $(LIVE_TIMEOUT) --wrap 'setarch -R' $(UNIT:%=$(B)/tsan/unit/%) $(LIVE:%=$(B)/tsan/live/%)
valgrind: live-valgrind $(call need,$(UNIT:%=$(B)/gcc/unit/%)) ## unit tests and the live path under valgrind
	@$(SUITE) valgrind -j $(JOBS) -t 600 --wrap '$(VALGRIND)' $(UNIT:%=$(B)/gcc/unit/%)
check: ## layers, exported names, macros, README blocks, compilers and standards
	@$(SUITE) check -j $(JOBS) -t 300 $(CHECKS)
demo-short: $(call need,$(B)/emulator $(B)/sample)
	@AZREDIS_DEMO_TTL=5 AZREDIS_DEMO_SECONDS=12 $(SUITE) demo-short --plain --arg $(B) tools/demo.sh
mutants: emulator $(B)/sample ## break the header in known ways; the named suite must notice
	@sh tests/mutants/run.sh $(B)
test-peers: emulator ## Azure SDK and Redis clients of others against the emulator
	@$(SUITE) peers -t 600 --sh-arg $(EMULATOR) $(PEERS)

# ---- all of it ----------------------------------------------------------------------------------
# Suites that mostly wait run beside another.
SUITES   = unit-gcc unit-asan sim fuzz-short check demo-short live live-asan live-valgrind
PROGRAMS = $(UNIT:%=$(B)/gcc/unit/%) $(UNIT:%=$(B)/clang-asan/unit/%) $(SIM:%=$(B)/gcc/sim/%) \
           $(LIVE:%=$(B)/gcc/live/%) $(LIVE:%=$(B)/asan/live/%) $(FUZZ:%=$(B)/clang-asan/fuzz/%)
STEP     = AZREDIS_SUMMARY=later $(MAKE) --no-print-directory BUILT=1
programs: emulator examples $(B)/asan/sample $(PROGRAMS)
test: ## all of the above but tsan, mutants and peers, with a summary
	@rm -rf $(B)/log
	@echo "building $(words $(PROGRAMS)) test programs"
	@AZREDIS_SUMMARY=later $(PYTHON) tools/tests.py time -B $(B) build $(MAKE) -k -j$(JOBS) --no-print-directory programs
	@$(STEP) unit-gcc; $(STEP) unit-asan; $(STEP) -j2 sim fuzz-short; $(STEP) check; \
	$(STEP) -j2 demo-short live; $(STEP) -j2 live-asan live-valgrind; \
	$(PYTHON) tools/tests.py sum -B $(B) build $(SUITES)

emulator: $(B)/emulator $(B)/redis-server ## Entra and Azure Managed Redis on your desk: build/emulator
examples: $(EXAMPLES:%=$(B)/%) ## build/hello, build/sample, ...
clean: ## remove build/
	rm -rf $(B)

# ---- how things are built -----------------------------------------------------------------------
$(B)/emulator: tools/emulator.c
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 -g $(WARN) $< -o $@ -lmicrohttpd -ljansson -lssl -lcrypto -lpthread

# Debian's redis-tools has the server under another name; it tells by its own name what to be.
$(B)/redis-server:
	@mkdir -p $(@D)
	@p=$$(command -v redis-server || command -v redis-check-rdb) || { echo "no redis-server: install redis-tools"; exit 1; }; \
	ln -sf "$$p" $@

$(B)/azredis: tools/azredis.c $(HEADER)
	@mkdir -p $(@D)
	$(Q)$(CC) -O2 -g $(WARN) -I$(H) $(EXTRA_CFLAGS) $< -o $@ $(TLS_LIBS)
$(B)/%: examples/%.c $(HEADER)
	@mkdir -p $(@D)
	$(Q)$(CC) -O2 -g $(WARN) -I$(H) $(EXTRA_CFLAGS) $< -o $@ $(TLS_LIBS)

# $(1) variant
define VARIANT
$(B)/$(1)/%: examples/%.c $(HEADER)
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) -std=gnu11 -g $(WARN) -I$(H) $$(FLAGS_$(1)) $$(EXTRA_CFLAGS) $$< -o $$@ $(TLS_LIBS)
$(B)/$(1)/unit/%: tests/unit/%.c $(HEADER) $(wildcard tests/unit/*.h)
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(FLAGS_$(1)) $$< -o $$@ $$(LIBS)
$(B)/$(1)/sim/%: tests/sim/%.c $(HEADER) $(wildcard tests/sim/*.h)
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(PURE) $$(FLAGS_$(1)) $$< -o $$@ -Wl,--as-needed -lcmocka
$(B)/$(1)/live/%: tests/live/%.c $(HEADER) $(wildcard tests/live/*.h)
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(FLAGS_$(1)) $$< -o $$@ $$(LIBS)
$(B)/$(1)/fuzz/%: tests/fuzz/%.c $(HEADER) $(wildcard tests/fuzz/*.h)
	@mkdir -p $$(@D)
	$(Q)$$(CC_$(1)) $$(CFLAGS_T) $$(PURE) -DAZRI_FUZZ_MAIN $$(FLAGS_$(1)) -O1 $$< -o $$@
endef
$(foreach v,$(VARIANTS),$(eval $(call VARIANT,$(v))))

.PHONY: help demo unit unit-gcc unit-asan sim live live-asan live-valgrind fuzz-short san tsan valgrind check \
        demo-short mutants test-peers programs test emulator examples clean
.DELETE_ON_ERROR:
