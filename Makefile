# `make demo` for a cluster with a chat page on this machine, `make test` for every check.

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CLIENTS := $(TARGET_DIR)/clients
PEERS_DIR := $(TARGET_DIR)/peers
CARGO := cargo
# Flags for `roomctl dev`, e.g. ARGS="--nodes 5 --http 0.0.0.0:8000"
ARGS :=

# protoc has its standard types from libprotobuf-dev.
BUILD_PACKAGES := cc:build-essential protoc:protobuf-compiler /usr/include/google/protobuf/descriptor.proto:libprotobuf-dev
TEST_PACKAGES = /usr/bin/etcd:etcd-server node:nodejs npm:npm chromium:chromium go:golang-go \
	/usr/sbin/keepalived:keepalived /usr/sbin/ip:iproute2 curl:curl openssl:openssl /usr/bin/promtool:prometheus /usr/bin/redis-server:redis-server \
	/usr/lib/python3*/ensurepip:python3-venv
# nginx's modules lie where Debian puts them; so do the paths in tests/src/bin/bench/peers.
BENCH_PACKAGES = /usr/bin/etcd:etcd-server /usr/sbin/nats-server:nats-server /usr/bin/redis-server:redis-server \
	/usr/sbin/nginx:nginx /usr/lib/nginx/modules/ngx_nchan_module.so:libnginx-mod-nchan /usr/bin/node:nodejs npm:npm
CENTRIFUGO := github.com/centrifugal/centrifugo/v6@v6.9.1

.PHONY: help demo test soak bench-failover bench-reshard interruptions bench-false-evictions check fmt test-deps build-deps cargo clean sweep sim
.DEFAULT_GOAL := help

help: ## Show this
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: build-deps ## Run a whole cluster with a chat page until Ctrl-C (installs protobuf-compiler)
	$(CARGO) build --locked -p roomring-node -p roomring-router -p roomctl
	@$(TARGET_DIR)/debug/roomctl dev $(ARGS)

# cargo's own closing lines come last.
test: test-deps check ## Run every check and test (also installs what tests need, see TEST_PACKAGES)
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --workspace --doc
	$(CARGO) test --locked --workspace --tests --no-fail-fast -- --show-output

.PHONY: model
model: build-deps ## Check every state of one slot within larger bounds (long), or BOUNDS="nodes=3 writes=2" MUTANT=name
	$(CARGO) test --locked --profile sim -p roomring-tests --test model -- --ignored --nocapture $(if $(BOUNDS),explore,larger)

# Documentation is built with private items, so links to them resolve.
check: build-deps ## Check formatting, lints, documentation and the lock file of the fuzzing targets
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	cd tests/fuzz && $(CARGO) metadata --locked --format-version 1 >/dev/null

# Not part of `make test`: it needs a tool that takes minutes to build, and a database that is not everywhere to be had.
ADVISORIES := https://github.com/rustsec/advisory-db
.PHONY: audit
audit: cargo ## Licences, sources and known vulnerabilities of dependencies (needs cargo-deny, and GitHub for the last)
	@command -v cargo-deny >/dev/null 2>&1 || { echo "NOT CHECKED: cargo-deny is missing; cargo install --locked cargo-deny" >&2; exit 1; }
	$(CARGO) deny --locked check bans licenses sources
	@git ls-remote $(ADVISORIES) HEAD >/dev/null 2>&1 || { \
		echo "NOT CHECKED: known vulnerabilities, as $(ADVISORIES) can't be reached from here" >&2; exit 1; }
	$(CARGO) deny --locked check advisories

sweep: build-deps ## Try thousands of rings, and hundreds of loads to rebalance (minutes)
	$(CARGO) test --locked --release -p roomring-control --lib -- --ignored --nocapture

# Coverage as libFuzzer wants it, which a stable compiler has too. `cargo +nightly fuzz run TARGET --fuzz-dir tests/fuzz` does the same.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
FUZZ_TARGETS := client edge frames session shard stored
FUZZ_DIR = $(TARGET_DIR)/fuzz
.PHONY: fuzz
fuzz: build-deps ## Feed what reads bytes from outside, MINUTES=15 each, TARGETS="client frames"; what is new is left in target/fuzz
	cd tests/fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --locked --release --target $(HOST) --target-dir $(abspath $(FUZZ_DIR))
	@for t in $(or $(TARGETS),$(FUZZ_TARGETS)); do \
		mkdir -p $(FUZZ_DIR)/found/$$t $(FUZZ_DIR)/crashes && echo "== $$t" && \
		$(FUZZ_DIR)/$(HOST)/release/$$t $(FUZZ_DIR)/found/$$t tests/fuzz/corpus/$$t -max_total_time=$$(( $(or $(MINUTES),15) * 60 )) -max_len=4096 \
			-artifact_prefix=$(FUZZ_DIR)/crashes/ -print_final_stats=1 -verbosity=0 || exit 1; done

soak: test-packages ## Faults by chance on a cluster under load, MINUTES=10, SEED=n to repeat a run
	$(CARGO) build --locked --workspace --bins
	$(TARGET_DIR)/debug/roomring-soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

bench-failover: test-packages ## Kill nodes under load, KILLS=30 of each mode, and measure how soon their rooms answer
	$(CARGO) build --locked --release -p roomring-node -p roomring-router -p roomctl
	$(CARGO) build --locked --release -p roomring-tests --bins
	$(TARGET_DIR)/release/bench-failover --kills $(or $(KILLS),30) $(ARGS)

bench-reshard: test-packages ## A node joins and leaves under load, ROUNDS=3: what rooms notice of it
	$(CARGO) build --locked --release --workspace --bins
	$(TARGET_DIR)/release/bench-reshard --rounds $(or $(ROUNDS),3) $(ARGS)

.PHONY: bench-rogues
bench-rogues: test-packages ## What 1,000 good clients notice of 1,000 rogues, RUNS=3: times, memory, what rogues get
	$(CARGO) build --locked --release -p roomring-node -p roomring-router -p roomctl
	$(CARGO) build --locked --release -p roomring-tests --bins
	$(TARGET_DIR)/release/bench-rogues --runs $(or $(RUNS),3) $(ARGS)

.PHONY: bench-rebalance
bench-rebalance: test-packages ## A Zipf(1.1) load before and after automatic rebalancing, SEEDS=1,2: how hot the hottest node is
	$(CARGO) build --locked --release --workspace --bins
	$(TARGET_DIR)/release/bench-rebalance $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

interruptions: test-packages ## Interrupt moves of real processes at each phase by the loss of each participant (minutes)
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked --workspace --test interrupted -- --ignored --nocapture

bench-false-evictions: test-packages ## Keep every core busy for MINUTES=30 and count evictions
	$(CARGO) build --locked --release -p roomring-node -p roomring-router -p roomctl
	$(CARGO) build --locked --release -p roomring-tests --bins
	$(TARGET_DIR)/release/bench-false-evictions --minutes $(or $(MINUTES),30) $(ARGS)

.PHONY: bench bench-growth bench-instructions bench-peers
bench: bench-peers ## Cost of a delivery beside others, ROWS=1x1000,... PEERS=plain,... ARGS=--quick
	$(CARGO) build --locked --profile $(PROFILE) -p roomring-node -p roomring-router -p roomctl
	$(CARGO) build --locked --profile $(PROFILE) -p roomring-tests --bin bench
	$(TARGET_DIR)/$(PROFILE)/bench $(if $(ROWS),--rows $(ROWS)) $(if $(PEERS),--peers $(PEERS)) $(ARGS)

bench-growth: bench-peers ## How the cost grows with members, rooms, routers and nodes
	$(CARGO) build --locked --profile $(PROFILE) -p roomring-node -p roomring-router -p roomctl
	$(CARGO) build --locked --profile $(PROFILE) -p roomring-tests --bin bench
	$(TARGET_DIR)/$(PROFILE)/bench --growth $(if $(ROWS),--rows $(ROWS)) $(ARGS)

bench-instructions: build-deps ## Instructions and allocations of a message's path against those kept; ARGS=--keep keeps new ones
	@.ci/need "counting instructions" valgrind:valgrind
	$(CARGO) build --locked --release -p roomring-tests --bin bench-hot-path
	$(TARGET_DIR)/release/bench-hot-path --compare tests/hot-path.json $(ARGS)

# Of what can't be had the table says so.
bench-peers: build-deps
	@.ci/need "the benchmark" $(BENCH_PACKAGES)
	-$(MAKE) $(PEERS_DIR)/socketio.cjs
	-$(MAKE) $(PEERS_DIR)/bin/centrifugo

$(PEERS_DIR)/socketio.cjs: tests/peers/socketio.cjs tests/peers/package.json tests/peers/package-lock.json
	mkdir -p $(PEERS_DIR)
	cp tests/peers/package.json tests/peers/package-lock.json tests/clients/.npmrc $(PEERS_DIR)/
	cd $(PEERS_DIR) && npm ci
	cp tests/peers/socketio.cjs $@

$(PEERS_DIR)/bin/centrifugo:
	GOBIN=$(abspath $(PEERS_DIR)/bin) go install $(CENTRIFUGO)

sim: build-deps ## Simulate: SEEDS=1000 (FROM=0), or every step of one, SEED=17
	SEEDS=$(or $(SEEDS),1000) FROM=$(or $(FROM),0) $(if $(SEED),SEED=$(SEED)) \
		$(CARGO) test --locked --profile sim --package roomring-tests --test sim many_seeds -- --nocapture

.PHONY: recordings
recordings: build-deps ## Record runs of broken builds anew, for the checker's tests
	$(CARGO) test --locked --profile sim --package roomring-tests --test recordings -- --ignored --nocapture

# kubectl has kustomize built in; where there is none (or one so old that it knows no components) it is built from its Go module.
KUSTOMIZE_MODULE := sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
K8S := $(TARGET_DIR)/k8s
OVERLAYS := dev production production-external-etcd
.PHONY: k8s-check k8s-tools
k8s-check: $(K8S)/checked ## Render the Kubernetes manifests and check them against the schemas of Kubernetes

$(K8S)/checked: $(shell find k8s -type f) | $(K8S)/venv.stamp
	@mkdir -p $(K8S)/with-gateway
	@printf 'namespace: roomring\nresources: [../../../k8s/overlays/production]\ncomponents: [../../../k8s/components/gateway, ../../../k8s/components/cert-manager]\n' >$(K8S)/with-gateway/kustomization.yaml
	@if kubectl kustomize k8s/overlays/dev >/dev/null 2>&1; then kustomize="kubectl kustomize"; else \
		$(MAKE) --no-print-directory $(K8S)/bin/kustomize && kustomize="$(K8S)/bin/kustomize build"; fi && \
	for overlay in $(OVERLAYS); do $$kustomize k8s/overlays/$$overlay >$(K8S)/$$overlay.yaml || exit 1; done && \
	$$kustomize $(K8S)/with-gateway >$(K8S)/with-gateway.yaml
	$(K8S)/venv/bin/python k8s/check.py $(foreach o,$(OVERLAYS) with-gateway,$(K8S)/$(o).yaml)
	@touch $@

$(K8S)/bin/kustomize:
	@.ci/need "rendering the manifests" go:golang-go
	GOBIN=$(abspath $(K8S)/bin) go install $(KUSTOMIZE_MODULE) || { \
		echo "The manifests are rendered with kubectl (1.27 or later), or kustomize built by a recent Go: install either." >&2; exit 1; }

$(K8S)/venv.stamp: k8s/requirements.txt
	@.ci/need "checking the manifests" '/usr/lib/python3*/ensurepip:python3-venv'
	mkdir -p $(K8S)
	python3 -m venv $(K8S)/venv
	$(K8S)/venv/bin/pip install --quiet --disable-pip-version-check -r k8s/requirements.txt
	touch $@

.PHONY: docs
docs: test-packages ## Write the tables of docs/metrics.md and docs/configuration.md from the code
	$(CARGO) build --locked --workspace --bins
	ROOMRING_WRITE_DOCS=1 $(CARGO) test --locked --workspace --test metrics --test configuration

.PHONY: alerts
alerts: ## Write the alert rules for the Prometheus operator from k8s/monitoring/alerts.yml
	@{ printf 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: roomring\n  labels: {app.kubernetes.io/name: roomring}\nspec:\n'; \
		sed -n '/^groups:/,$$p' k8s/monitoring/alerts.yml | sed 's/^/  /'; } >k8s/components/monitoring/alerts.yaml

# Static binaries. glibc's resolver needs nothing but /etc/resolv.conf and /etc/hosts, so they run in an empty image. Paths of
# the builder are left out, and times are the commit's: the same source and compiler give the same bytes.
DIST := $(TARGET_DIR)/dist-root
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
BINARIES := roomring-node roomring-router roomctl
# Empty where the sources come without their history; with changes that are not committed it says so.
REVISION = $(shell git describe --always --abbrev=12 --exclude '*' --dirty 2>/dev/null)
# Of the commit; the last change of the sources where there is no history.
DATE = $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
PROFILE := dist
.PHONY: dist image
dist: build-deps ## Build static binaries, a Debian package and their checksums in target/dist-root
	@.ci/need "the release" objcopy:binutils python3:python3
	RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/roomring --remap-path-prefix=$(HOME)=/home" \
	ROOMRING_REVISION=$(REVISION) \
	SOURCE_DATE_EPOCH=$(DATE) \
		$(CARGO) build --locked --profile $(PROFILE) --target $(HOST) -p roomring-node -p roomring-router -p roomctl
	rm -rf $(DIST) && mkdir -p $(DIST)
	for b in $(BINARIES); do objcopy --strip-debug $(TARGET_DIR)/$(HOST)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/$$b $(DIST)/$$b && \
		{ ! ldd $(DIST)/$$b 2>/dev/null | grep '=>' || { echo "$$b is not static" >&2; exit 1; }; } || exit 1; done
	cp LICENSE-MIT LICENSE-APACHE $(DIST)/ && python3 control/packaging/third-party.py >$(DIST)/THIRD-PARTY.txt
	@if command -v dpkg-deb >/dev/null 2>&1; then SOURCE_DATE_EPOCH=$(DATE) control/packaging/debian/build $(DIST) $(VERSION) "$(REVISION)"; \
	else echo "NOT BUILT: the Debian package, as dpkg-deb is missing" >&2; fi
	cd $(DIST) && sha256sum * >../SHA256SUMS && mv ../SHA256SUMS . && cat SHA256SUMS

# With docker, or with buildah, which needs no daemon.
image: dist ## Build the image roomring:VERSION from them
	@if docker info >/dev/null 2>&1; then docker build -f Dockerfile -t roomring:$(VERSION) $(DIST); \
	elif command -v buildah >/dev/null 2>&1; then STORAGE_DRIVER=$(or $(STORAGE_DRIVER),vfs) buildah bud --isolation chroot --timestamp $(DATE) -f Dockerfile -t roomring:$(VERSION) $(DIST); \
	else echo "Neither a docker daemon nor buildah is here (Debian: buildah)." >&2; exit 1; fi

fmt: cargo ## Format the code
	$(CARGO) fmt --all

test-deps: build-deps $(K8S)/checked $(CLIENTS)/js.stamp $(CLIENTS)/python.stamp $(CLIENTS)/go.stamp ## Install what the tests need, SDKs under target/

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

# The one client that is built. Where it can't be, its test is skipped and says why.
$(CLIENTS)/go.stamp: $(wildcard tests/clients/go/*) | test-packages
	mkdir -p $(CLIENTS)
	rm -f $(CLIENTS)/go-client $(CLIENTS)/go-client.missing
	cd tests/clients/go && go build -o $(abspath $(CLIENTS))/go-client . 2>$(abspath $(CLIENTS))/go.log || \
		{ cat $(CLIENTS)/go.log; mv $(CLIENTS)/go.log $(CLIENTS)/go-client.missing; }
	touch $@
