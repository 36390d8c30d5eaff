# `make demo` for a cluster with a chat page on this machine, `make test` for every check.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CLIENTS := $(TARGET_DIR)/clients
CARGO := cargo
# Flags for `roomctl dev`, e.g. ARGS="--nodes 5 --http 0.0.0.0:8000"
ARGS :=

# protoc has its standard types from libprotobuf-dev.
BUILD_PACKAGES := cc:build-essential protoc:protobuf-compiler /usr/include/google/protobuf/descriptor.proto:libprotobuf-dev
TEST_PACKAGES = /usr/bin/etcd:etcd-server node:nodejs npm:npm chromium:chromium \
	/usr/lib/python3*/ensurepip:python3-venv

.PHONY: help demo test soak bench-failover bench-false-evictions check fmt test-deps build-deps cargo clean sweep sim
.DEFAULT_GOAL := help

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: build-deps ## Run a whole cluster with a chat page until Ctrl-C (installs protobuf-compiler)
	$(CARGO) build --locked -p roomring-node -p roomring-router -p roomctl
	@$(TARGET_DIR)/debug/roomctl dev $(ARGS)

# cargo's own closing lines come last.
test: test-deps check ## Run every check and test (also installs etcd-server, nodejs, npm, python3-venv, chromium)
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --workspace --doc
	$(CARGO) test --locked --workspace --tests --no-fail-fast -- --show-output

.PHONY: model
model: build-deps ## Check every state of one slot within larger bounds (long), or BOUNDS="nodes=3 writes=2" MUTANT=name
	$(CARGO) test --locked -p roomring-tests --test model -- --ignored --nocapture $(if $(BOUNDS),explore,larger)

# Documentation is built with private items, so links to them resolve.
check: build-deps ## Check formatting, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --workspace --no-deps --document-private-items

sweep: build-deps ## Try thousands of rings for even loads and few moves (minutes)
	$(CARGO) test --locked --release -p roomring-control --lib ring -- --ignored --nocapture

soak: test-packages ## Faults by chance on a cluster under load, MINUTES=10, SEED=n to repeat a run
	$(CARGO) build --locked --workspace --bins
	$(TARGET_DIR)/debug/roomring-soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

bench-failover: test-packages ## Kill nodes under load, KILLS=30 of each mode, and measure how soon their rooms answer
	$(CARGO) build --locked --release -p roomring-node -p roomring-router -p roomctl
	$(CARGO) build --locked --release -p roomring-tests --bins
	$(TARGET_DIR)/release/bench-failover --kills $(or $(KILLS),30) $(ARGS)

bench-false-evictions: test-packages ## Keep every core busy for MINUTES=30 and count evictions
	$(CARGO) build --locked --release -p roomring-node -p roomring-router -p roomctl
	$(CARGO) build --locked --release -p roomring-tests --bins
	$(TARGET_DIR)/release/bench-false-evictions --minutes $(or $(MINUTES),30) $(ARGS)

sim: build-deps ## Simulate: SEEDS=1000 (FROM=0), or every step of one, SEED=17
	SEEDS=$(or $(SEEDS),1000) FROM=$(or $(FROM),0) $(if $(SEED),SEED=$(SEED)) \
		$(CARGO) test --locked --package roomring-tests --test sim many_seeds -- --nocapture

fmt: cargo ## Format the code
	$(CARGO) fmt --all

test-deps: build-deps $(CLIENTS)/js.stamp $(CLIENTS)/python.stamp ## Install what the tests need, SDKs under target/

clean: cargo ## Remove everything that was built
	$(CARGO) clean

cargo:
	@command -v $(CARGO) >/dev/null 2>&1 || { \
		echo "cargo is missing: install Rust as https://rustup.rs says, then open a new shell." >&2; exit 1; }

build-deps: cargo
	@.ci/need "the build" $(BUILD_PACKAGES)

.PHONY: test-packages
test-packages: build-deps
	@.ci/need "the tests" $(foreach pair,$(TEST_PACKAGES),'$(pair)')

$(CLIENTS)/js.stamp: tests/clients/package.json tests/clients/package-lock.json | test-packages
	mkdir -p $(CLIENTS)
	cp tests/clients/package.json tests/clients/package-lock.json tests/clients/.npmrc $(CLIENTS)/
	cd $(CLIENTS) && npm ci
	touch $@

$(CLIENTS)/python.stamp: tests/clients/requirements.txt | test-packages
	mkdir -p $(CLIENTS)
	python3 -m venv $(CLIENTS)/venv
	$(CLIENTS)/venv/bin/pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	touch $@
