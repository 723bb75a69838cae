# What people type. Each target says what it is for; `make` alone prints them.

SHELL := /bin/bash
CARGO ?= cargo
# Arguments for the demo, as in: make demo DEMO=--help
DEMO ?=
# A kind whose fixtures are recorded anew, as in: make record-health KIND=deployment
KIND ?=
# Arguments for the tests, as in: make test TEST=render
TEST ?=
# How many tests run at the same time. Most of the journeys wait for something, so more than there are cores.
RUST_TEST_THREADS ?= 4
export RUST_TEST_THREADS

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults bench control-plane lint deny manifests crds image record-health

help: ## print this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: ## a cluster, a git server and an agent on this machine (arguments: DEMO=…)
	$(CARGO) run --locked -p towpath-tests --bin demo -- $(DEMO)

test: control-plane ## every test, on a real control plane (a part: TEST=name)
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked $(TEST)

# The second build of the agent makes mistakes on purpose, so it has a folder of its own.
TARGET_DIR = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
test-faults: control-plane ## every crash plan and long outage, and a check that seeded bugs are caught (half an hour)
	$(CARGO) build --workspace --bins --locked
	$(CARGO) build -p towpath --locked --features seeded-bugs --target-dir $(TARGET_DIR)/seeded-bugs
	TOWPATH_SEEDED_AGENT=$(TARGET_DIR)/seeded-bugs/debug/towpath \
		$(CARGO) test -p towpath-tests --locked --test journeys $(or $(TEST),faults::) -- --include-ignored

bench: control-plane ## measure the agent on a real control plane
	$(CARGO) run --locked --release -p towpath-tests --bin bench

control-plane: ## build the test servers once, into the cache (minutes the first time, then nothing)
	tests/control-plane/build

lint: deny ## format, clippy, dependencies, the floor of bundled C code
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	.ci/c-floor --self-test
	.ci/c-floor

deny: ## licences, bans and sources of the dependencies (needs cargo-deny)
	$(CARGO) deny --locked check bans licenses sources

manifests: ## check manifests/ against a real API server
	manifests/check

crds: ## write the custom resource definitions from the Rust types
	crds=$$($(CARGO) run --quiet --locked -p towpath -- crds) && echo "$$crds" >manifests/crds/towpath.dev.yaml

record-health: control-plane ## record objects of the real controllers as fixtures (a kind: KIND=name)
	$(CARGO) run --locked -p towpath-tests --bin record -- $(KIND)

image: ## build the container image, without Docker, and try it
	manifests/image/build
	manifests/image/check
