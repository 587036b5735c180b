# The one door for people and CI. `make` lists what there is.
# Root is needed where a node is booted: demo, test, bench.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where node images, and all else that can be made again, are kept.
OUT := target
NODE := $(OUT)/node

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: tools node build ## a real node, a systemd container in a user namespace, before and after
	tests/node/demo.sh

test: tools node ## everything: unit tests, then the cases on real nodes
	cargo nextest run

unit: ## the tests that need no node, in seconds
	cargo nextest run --lib --test layers --test nri --test cri --test systemd --test face

lint: ## format, clippy, shell scripts
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	shellcheck tests/node/*.sh .ci/run

bench: tools node ## start latency, handling time, memory
	cargo bench

build: ## the binary, quick to link
	cargo build --release

generate: ## rewrites what is generated from the code: default configuration, metric table
	UPDATE=1 cargo nextest run --lib --test face

tools: $(OUT)/.tools ## installs what the other targets need (Debian packages, cargo-nextest)

$(OUT)/.tools: tests/node/host-packages.txt
	mkdir -p $(OUT)
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$(sed 's/#.*//' $<)
	command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
	touch $@

node: tools ## the node's root file systems and images, cached
	tests/node/rootfs.sh forky $(NODE)
	tests/node/rootfs.sh bookworm $(NODE)

clean: ## removes what was built, the node images included
	tests/node/node.sh sweep || true
	rm -rf $(OUT)

.PHONY: help demo test unit lint bench build generate tools node clean
