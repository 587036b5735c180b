# The one door for people and CI. `make` lists what there is.
# Root is needed where a node is booted: demo, test, bench.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where node images, and all else that can be made again, are kept.
OUT := target
NODE := $(OUT)/node
# The demo's build, quick to make; "release" is what bench measures.
PROFILE := dev
# Programs that come without a package's service.
export PATH := $(CURDIR)/$(OUT)/tools:$(PATH)

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: tools ## a real node, systemd containers in user namespaces, before and after
	tests/node/rootfs.sh forky $(NODE)
	cargo build --profile $(PROFILE) -p usernsd -p usernsd-demo --bins
	cargo run --quiet --profile $(PROFILE) -p usernsd-demo

test: tools nextest promtool node static ## everything: unit tests, then the cases on real nodes
	cargo nextest run

unit: nextest ## the tests that need no node, in seconds
	cargo nextest run -E 'not (binary(cases) | binary(cluster) | test(/^bootstrap_faults::/))'

dashboards: nextest promtool ## dashboards, alerts, runbooks: names, rules, unit tests, a real Prometheus
	USERNSD_TEST_NODE=require cargo nextest run --test it dashboards:: prometheus::

lint: tools ## format, clippy, documentation, shell scripts
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items
	shellcheck tests/node/*.sh daemonset/prune.sh .ci/run

deny: ## licences, duplicates and sources of dependencies, by cargo-deny; advisories too with ADVISORIES=1
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny --locked check bans licenses sources $(if $(ADVISORIES),advisories)

# Coverage for libFuzzer as cargo-fuzz asks the compiler for it; cargo-fuzz itself would have to be compiled first. No
# sanitizer: the targets have no unsafe code, and the stable compiler has none.
COVERAGE := -sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters -sanitizer-coverage-pc-table \
  -sanitizer-coverage-trace-compares
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module $(COVERAGE:%=-Cllvm-args=%) -Cdebug-assertions -Ccodegen-units=1
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
FUZZ_SECONDS := 60
FUZZ := $(OUT)/fuzz

fuzz: tools ## each fuzz target for a minute (FUZZ_SECONDS), two at a time, from the inputs in fuzz/corpus
	cd fuzz && RUSTFLAGS='$(FUZZ_FLAGS)' cargo build --release --target $(TARGET) --target-dir ../$(FUZZ)/build
	@printf '%s\n' $(FUZZ_TARGETS) | xargs -P 2 -I % bash -c 'mkdir -p $(FUZZ)/corpus/%; \
	  $(FUZZ)/build/$(TARGET)/release/% $(FUZZ)/corpus/% fuzz/corpus/% -artifact_prefix=$(FUZZ)/%- \
	    -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -max_len=16384 -timeout=20 >$(FUZZ)/%.log 2>&1 \
	    || { tail -n 40 $(FUZZ)/%.log; echo "% failed: $(FUZZ)/%.log"; exit 255; }; \
	  echo "%: $$(grep "^Done " $(FUZZ)/%.log)"'

# USERNSD_BENCH_BEFORE=FILE compares with another build of usernsd, in the same run.
bench: tools node ## start latency, handling time, memory: one table, some minutes
	@cargo bench --no-run
	@{ printf '| what | p50 | p99 | samples | target | |\n|---|---|---|---|---|---|\n'; cargo bench --quiet; } \
	  | tee $(OUT)/bench.md

build: ## the binary, quick to link
	cargo build --release

# Static: the image holds nothing else.
TARGET = $(shell uname -m)-unknown-linux-gnu
# Or: podman build, docker build.
BUILD_IMAGE := buildah build
IMAGE := localhost/usernsd:$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
IMAGE_MIB := 15

image: ## the container image, from scratch; some minutes
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --profile dist --target $(TARGET) --bin usernsd
	mkdir -p $(OUT)/image
	cp $(OUT)/$(TARGET)/dist/usernsd $(OUT)/image/
	size=$$(stat -c %s $(OUT)/image/usernsd); \
	if ((size > $(IMAGE_MIB) << 20)); then echo "the binary has $$size bytes, more than $(IMAGE_MIB) MiB"; exit 1; fi
	$(BUILD_IMAGE) --build-arg VERSION=$(lastword $(subst :, ,$(IMAGE))) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	  --tag $(IMAGE) --file daemonset/Containerfile $(OUT)/image

# The image of the tests: the same, but quick to build.
static: ## the static binary that tests put into an image
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --target $(TARGET) --bin usernsd

# One after another: some tests read what others write.
generate: nextest ## rewrites what is generated from the code: default configuration, metric table, dashboards
	UPDATE=1 cargo nextest run -j 1 --test it each_check_has_a_page
	UPDATE=1 cargo nextest run -j 1 --test it docs::
	UPDATE=1 cargo nextest run -j 1 --test it -E 'test(/^dashboards::/) | test(matches_the_golden_files)'

tools: $(OUT)/.tools ## installs the Debian packages that the other targets need

$(OUT)/.tools: tests/node/host-packages.txt
	mkdir -p $(OUT)
	missing=$$(for package in $$(sed 's/#.*//' $<); do \
	  [[ $$(dpkg-query -Wf '$${db:Status-Status}' "$$package" 2>/dev/null) = installed ]] || echo "$$package"; \
	done); \
	if [[ -n $$missing ]]; then \
	  apt-get update -q; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	fi
	touch $@

nextest: ## installs cargo-nextest, which runs the tests; from source, some minutes
	cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

# Taken out of its package, which would start a server.
promtool: $(OUT)/tools/prometheus ## fetches Prometheus and its checker of metrics and rules

$(OUT)/tools/prometheus:
	command -v promtool >/dev/null && command -v prometheus >/dev/null && exit; \
	mkdir -p $(@D); cd $(@D); \
	apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; \
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool; \
	rm prometheus_*.deb

node: tools ## the node's root file systems and images, cached
	tests/node/rootfs.sh forky $(NODE)
	tests/node/rootfs.sh bookworm $(NODE)

clean: ## removes what was built, the node images included
	tests/node/node.sh sweep || true
	rm -rf $(OUT)

.PHONY: help demo test unit fuzz dashboards lint deny bench build image static generate tools nextest promtool node clean
