# SPDX-License-Identifier: Apache-2.0
# Thin: meson builds, scripts/ do the rest. `make help` lists what there is.

BUILD ?= build

.PHONY: all build setup demo test unit fuzz fuzz-quick fuzz-build soak bench-ring bench-fairness bench bench-quick crash crash-guest migration lint format clean help mutations

all: build

help:
	@echo 'make          build everything into $(BUILD)/ (meson, ninja)'
	@echo 'make setup    install what is missing from the distribution (root), fetch a guest kernel'
	@echo 'make demo     two real guests on sluiced: disk, network, reboot; under three minutes'
	@echo 'make test     every test that this machine can run; ends in "N passed, N failed, N skipped"'
	@echo 'make unit     the unit tests alone'
	@echo 'make crash    kill sluiced under load, ROUNDS=500 times; nothing may be lost; SAN=address or SAN=thread'
	@echo 'make crash-guest     the same with real guests, ROUNDS=300 times'
	@echo 'make migration       a real guest to and fro between two sluiced, ROUNDS=20 times'
	@echo 'make fuzz     every fuzz target for TIME=60 seconds each (clang), races under TSan; fuzz-quick: 3 seconds each, not under TSan'
	@echo 'make bench-ring      the ring layer in cycles a descriptor, beside DPDK; bench-fairness: one hostile guest of 64'
	@echo 'make bench    all benchmarks, also beside qemu-storage-daemon and testpmd, into docs/benchmarks.md; bench-quick: a look'
	@echo 'make mutations   take each guard out of the code, and see that a test fails for it; an hour or more'
	@echo 'make soak     devices and guests come, go and change for TIME=60 seconds; SAN=address or SAN=thread; LEAST=1000 of each kind of event, or it fails'
	@echo 'make lint     clang-format, clang-tidy, cppcheck, shellcheck'
	@echo 'make format   clang-format, in place'

setup:
	scripts/setup.sh

$(BUILD)/build.ninja:
	scripts/setup.sh --for build
	meson setup $(BUILD)

build: $(BUILD)/build.ninja
	ninja -C $(BUILD)

demo:
	scripts/setup.sh --for demo
	@$(MAKE) --no-print-directory build
	SLUICE_BUILD=$(abspath $(BUILD)) /usr/bin/python3 scripts/demo.py

test:
	scripts/setup.sh --for test
	@$(MAKE) --no-print-directory build
	/usr/bin/python3 scripts/run-tests.py --build $(BUILD)

unit: build
	/usr/bin/python3 scripts/run-tests.py --build $(BUILD) --only unit

crash: ROUNDS ?= 500
crash: $(if $(SAN),,build)
	scripts/crash.sh $(BUILD) $(ROUNDS) $(SAN)

# Over four rows of QEMU version, ring layout and cache mode.
crash-guest: ROUNDS ?= 300
crash-guest: build
	SLUICE_BUILD=$(abspath $(BUILD)) SLUICE_CRASH_GUEST_KILLS=$$((($(ROUNDS) + 3) / 4)) \
		/usr/bin/python3 -m pytest -p no:cacheprovider -q -s tests/system/test_crash.py -k notice

# In each of two rows.
migration: ROUNDS ?= 20
migration: build
	SLUICE_BUILD=$(abspath $(BUILD)) SLUICE_MIGRATIONS=$(ROUNDS) \
		/usr/bin/python3 -m pytest -p no:cacheprovider -q -s tests/system/test_migration_loop.py

TIME ?= 60
fuzz:
	scripts/setup.sh --for lint
	/usr/bin/python3 scripts/fuzz.py --time $(TIME) --threads --coverage

fuzz-quick:
	scripts/setup.sh --for lint
	/usr/bin/python3 scripts/fuzz.py --time 3 --jobs $$(nproc)

# What fuzz-quick builds first.
fuzz-build:
	scripts/setup.sh --for lint
	/usr/bin/python3 scripts/fuzz.py --time 0

bench-ring: build
	/usr/bin/python3 scripts/bench.py --build $(BUILD) ring iotlb

bench-fairness: build
	/usr/bin/python3 scripts/bench.py --build $(BUILD) fairness idle

bench: build
	scripts/setup.sh --for bench
	/usr/bin/python3 scripts/bench.py --build $(BUILD) --write

bench-quick: build
	scripts/setup.sh --for bench
	/usr/bin/python3 scripts/bench.py --build $(BUILD) --quick

mutations:
	/usr/bin/python3 tests/mutations/run.py

lint: $(BUILD)/build.ninja
	scripts/setup.sh --for lint
	scripts/lint.sh $(BUILD)

soak:
	scripts/soak.sh $(TIME) '$(SAN)' $(if $(LEAST),--least $(LEAST))

format:
	git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	rm -rf $(BUILD)
