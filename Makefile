# SPDX-License-Identifier: Apache-2.0
# SatIPSec: `make help` lists what there is to do.

SWIFT ?= swift
PYTHON ?= python3
# What `make sim` runs.
SEEDS ?= 500
FIRST ?= 1
# What `make crash-test` does.
ROUNDS ?= 20
CLIENTS ?= 12
SEED ?= 1
# How long `make fuzz` drives each reader.
SECONDS ?= 60
# Where `swift build` puts the programs.
BUILD = .build/debug

.DEFAULT_GOAL := help
.PHONY: setup setup-bench build release test test-kernel crash-test demo model sim bench fuzz lint clean help

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install the Debian packages that build, tests and demonstration need, and look for Swift
	@scripts/setup.sh

build: ## Build the programs: gcks, satipsec, satemu
	$(SWIFT) build

release: ## The same, optimised, in .build-release/release: for use
	for name in gcks satipsec satemu; do \
	    $(SWIFT) build -c release --scratch-path .build-release --product $$name || exit 1; \
	done

test: setup ## Build and run all tests; the last line counts them
	@SWIFT="$(SWIFT)" scripts/test.sh

test-kernel: setup ## Only those of the kernel back ends, on a stock kernel in a virtual machine; `make test` has them, too
	@SWIFT="$(SWIFT)" scripts/test.sh KernelTests

crash-test: setup build ## Kill gcks -9 under a stream, ROUNDS=20 times with CLIENTS=12: nobody registers anew, nothing is lost
	$(PYTHON) Tests/SystemTests/crash.py $(BUILD) $(ROUNDS) $(CLIENTS) $(SEED)

demo: setup build ## A protected video stream over an emulated satellite, its keys changed while it plays
	$(PYTHON) demo/demo.py $(BUILD)

model: ## Explore all states of a small phase 3 with Spin (spec/push.pml)
	scripts/model.sh

setup-bench: ## Install the peers that `make bench CASE=dataplane` measures us beside
	@scripts/setup.sh --bench

bench: ## Measure against limits and peers: make bench CASE=leave-bytes, one-packet, dataplane, ... or all
	@for product in bench traffic dataplane-probe; do \
		$(SWIFT) build --configuration release --package-path bench --product $$product || exit 1; done
	@bench/.build/release/bench $(or $(CASE),all)

sim: ## The engines in virtual time under faults: SEEDS=n runs from FIRST=n
	$(SWIFT) build -c release --scratch-path .build-release --product satsim
	.build-release/release/satsim --seeds $(SEEDS) --first $(FIRST)

fuzz: ## Drive every reader of foreign octets with libFuzzer, SECONDS=60 each; TARGETS= for some of them
	scripts/fuzz.sh $(SECONDS) $(TARGETS)

lint: ## Look for format errors (swift format -i mends them)
	$(SWIFT) format lint --strict --recursive Sources Tests bench/Sources fuzz/Sources Package.swift

clean: ## Remove what the build made
	rm -rf .build .build-release bench/.build fuzz/.build demo-out
