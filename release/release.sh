#!/usr/bin/env bash
# Assembles a release from binaries that are built already: "make release" builds them and calls this.
#
#   release.sh --binaries DIR --out DIR [--registry NAME] [--arches "amd64 arm64"] [--only "PART…"]
#
#   --arches     "amd64 arm64" without it
#   --binaries   holds usernsd-linux-ARCH for each architecture
#   --out        is emptied first
#   --registry   where "make push" puts the image, and what the manifests name; localhost without it
#   --package-version, --fast   of tests: another version of the packages, and packages that are quick to make
#   --only       parts to make, for tests; all without it: binaries doc image manifests machineconfig chart
#                deb rpm krew sbom changelog provenance sums
#
# Times in the files are that of the commit, so that the same commit gives the same bytes.
# docs/release.md describes each file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "release.sh: $*" >&2; exit 1; }

binaries='' out='' registry=localhost arches='amd64 arm64' package_version='' fast=''
only='binaries doc image manifests machineconfig chart deb rpm krew sbom changelog provenance sums'
while (($#)); do
  case $1 in
    --binaries) binaries=$(realpath "$2") ;;
    --out) out=$2 ;;
    --registry) registry=$2 ;;
    --arches) arches=$2 ;;
    --only) only=$2 ;;
    --package-version) package_version=$2 ;;
    --fast) fast=$2 ;;
    *) fail "unknown argument $1" ;;
  esac
  shift 2
done
[[ $binaries && $out ]] || fail "usage: release.sh --binaries DIR --out DIR [--registry NAME] [--arches LIST]"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
package_version=${package_version:-$version}
revision=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022

rm -rf "$out"
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A tar archive that depends on nothing but the files' names, modes and contents.
archive() { # FILE.tar.gz DIRECTORY NAME…
  tar --create --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --directory="$2" "${@:3}" | gzip -9 --no-name >"$1"
}

# The program of this machine, which prints pages, completions and MachineConfigs.
case $(uname -m) in
  x86_64) own=amd64 ;;
  aarch64) own=arm64 ;;
  *) fail "no release is made on $(uname -m)" ;;
esac
usernsd=$binaries/usernsd-linux-$own
for arch in $arches $own; do
  [[ -x $binaries/usernsd-linux-$arch ]] || fail "$binaries/usernsd-linux-$arch is missing"
done

# A copy of the source, in which names are replaced.
source=$work/source
mkdir "$source"
git ls-files -z | tar --create --null --files-from=- | tar --extract --directory "$source"

part_binaries() {
  for arch in $arches; do
    install -m 755 "$binaries/usernsd-linux-$arch" "$out/usernsd-linux-$arch"
  done
}

# Manual pages and completions, as packages and archives have them.
pages=$work/pages
mkdir -p "$pages/man" "$pages/completions"
"$usernsd" man "$pages/man"
"$usernsd" completion bash >"$pages/completions/usernsd.bash"
"$usernsd" completion zsh >"$pages/completions/_usernsd"
"$usernsd" completion fish >"$pages/completions/usernsd.fish"

part_doc() { archive "$out/usernsd-man-completions.tar.gz" "$pages" completions man; }

# The digest of the index of all architectures, which the manifests name.
digest=
part_image() {
  local storage=(--storage-driver vfs --root "$work/storage" --runroot "$work/run") layout=$work/layout
  for arch in $arches; do
    local context=$work/context-$arch
    mkdir "$context"
    install -m 755 "$binaries/usernsd-linux-$arch" "$context/usernsd"
    buildah "${storage[@]}" build --quiet --isolation chroot --format oci --timestamp "$SOURCE_DATE_EPOCH" \
      --platform "linux/$arch" --manifest usernsd --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
      --file daemonset/Containerfile "$context" >/dev/null
  done
  buildah "${storage[@]}" manifest push --quiet --all usernsd "oci:$layout:$version" >/dev/null
  digest=$(jq --raw-output '.manifests[0].digest' "$layout/index.json")
  tar --create --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --directory="$layout" --file="$out/usernsd-image.tar" blobs index.json oci-layout
  printf '%s/usernsd:%s@%s\n' "$registry" "$version" "$digest" >"$out/usernsd-image.txt"
}

# The node's, which is of one version everywhere.
kubectl() { "$(tests/node/rootfs.sh forky target/node)/root/usr/bin/kubectl" "$@"; }

# Objects with the image's digest: nothing is left to edit.
part_manifests() {
  [[ $digest ]] || fail "manifests need the part image before them"
  local kustomization=$source/daemonset/overlays/kubernetes/kustomization.yaml
  sed -i -e "s|newName: .*|newName: $registry/usernsd|" -e "s|newTag: .*|digest: $digest|" "$kustomization"
  grep -q "digest: $digest" "$kustomization" || fail "$kustomization has no newTag"
  # The image's architectures are the nodes that it is for.
  local daemonset=$source/daemonset/base/daemonset.yaml
  sed -i "s|\(kubernetes.io/arch, operator: In, values: \)\[.*\]|\1[${arches// /, }]|" "$daemonset"
  grep -q "kubernetes.io/arch, operator: In, values: \[${arches// /, }\]" "$daemonset" ||
    fail "$daemonset has no affinity to architectures"
  for overlay in "$source"/daemonset/overlays/*/; do
    kubectl kustomize "$overlay" >"$out/usernsd-$(basename "$overlay").yaml"
  done
  kubectl kustomize "$source/dashboards" >"$out/usernsd-monitoring.yaml"
  install -m 755 "$source/daemonset/prune.sh" "$out/prune.sh"
  cp "$source/daemonset/components/admission/policies.yaml" "$out/usernsd-admission.yaml"
  cp "$source/daemonset/components/admission-required/policy.yaml" "$out/usernsd-admission-required.yaml"
  cp "$source"/dashboards/{node,fleet}.json "$source/dashboards/openshift-console.yaml" "$work"
  archive "$out/usernsd-dashboards.tar.gz" "$source/dashboards" node.json fleet.json openshift-console.yaml
}

# One for each pool that every OpenShift cluster has, and with the configuration of the launched plugin.
part_machineconfig() {
  for role in worker master; do
    "$usernsd" machineconfig --role "$role" >"$out/usernsd-machineconfig-$role.yaml"
    "$usernsd" machineconfig --role "$role" --config daemonset/overlays/openshift/config.yaml \
      >"$out/usernsd-machineconfig-$role-plugin.yaml"
  done
}

# The chart with the image of this release.
part_chart() {
  [[ $digest ]] || fail "the chart needs the part image before it"
  local chart=$work/chart/usernsd
  mkdir "$work/chart"
  cp --recursive --dereference "$source/charts/usernsd" "$chart"
  sed -i -e "s|^  repository: .*|  repository: $registry/usernsd|" -e "s|^  digest: .*|  digest: $digest|" \
    -e "s|^  architectures: .*|  architectures: [${arches// /, }]|" "$chart/values.yaml"
  grep -q "digest: $digest" "$chart/values.yaml" || fail "values.yaml has no digest"
  find "$chart" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
  archive "$out/usernsd-chart-$version.tgz" "$work/chart" usernsd
}

# Cargo's names of architectures.
declare -A triples=([amd64]=x86_64-unknown-linux-gnu [arm64]=aarch64-unknown-linux-gnu)

# Lays out what Cargo.toml names in its descriptions of packages. There is one such directory: one release at a time.
lay_out() { # ARCH
  local laid=target/package
  mkdir -p target
  exec 9>target/.package.lock
  flock 9
  rm -rf "$laid"
  mkdir "$laid"
  cp -r "$pages/man" "$pages/completions" "$laid"
  install -m 755 "$binaries/usernsd-linux-$1" "$laid/usernsd"
  sed 's|/usr/local/bin/|/usr/bin/|' machineconfig/units/usernsd.service >"$laid/usernsd.service"
  {
    printf 'usernsd (%s-1) unstable; urgency=medium\n\n  * Release %s: CHANGELOG.md of the source.\n\n' \
      "$package_version" "$package_version"
    printf ' -- The usernsd authors <usernsd@users.noreply.github.com>  %s\n' "$(date -Rd "@$SOURCE_DATE_EPOCH")"
  } >"$laid/changelog"
}

part_deb() {
  local more=()
  [[ ! $fast ]] || more+=(--fast)
  for arch in $arches; do
    lay_out "$arch"
    cargo deb --quiet --no-build --no-strip --deb-version "$package_version-1" "${more[@]}" \
      --target "${triples[$arch]}" --profile dist --output "$out/" >/dev/null
  done
}

part_rpm() {
  local more=()
  [[ ! $fast ]] || more+=(--payload-compress gzip)
  # cargo-generate-rpm only lowers times: a file that was checked out before the commit would keep its own.
  touch --date "@$SOURCE_DATE_EPOCH" release/package/config.yaml release/package/environment LICENSE
  for arch in $arches; do
    lay_out "$arch"
    cargo generate-rpm --set-metadata "version = \"$package_version\"" "${more[@]}" \
      --target "${triples[$arch]}" --profile dist --output "$out/" >/dev/null
  done
}

# What kubectl's plugin manager installs. DOWNLOAD is where the files of the release are put.
part_krew() {
  local platforms='' name
  for arch in $arches; do
    local files=$work/krew-$arch
    mkdir "$files"
    install -m 755 "$binaries/usernsd-linux-$arch" "$files/kubectl-userns"
    install -m 644 LICENSE "$files/LICENSE"
    name=kubectl-userns-linux-$arch.tar.gz
    archive "$out/$name" "$files" LICENSE kubectl-userns
    platforms+="  - selector: {matchLabels: {os: linux, arch: $arch}}
    uri: ${DOWNLOAD:-https://downloads.example/usernsd/v$version}/$name
    sha256: $(sha256sum "$out/$name" | cut -d ' ' -f 1)
    bin: kubectl-userns
"
  done
  cat >"$out/userns.yaml" <<EOF
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: userns
spec:
  version: v$version
  shortDescription: Explain and check user-namespaced pods
  description: |
    Asks the usernsd agents of a cluster about pods with user namespaces: which containers run in one, who owns
    their cgroups, why a pod fails, and who a host ID belongs to.
  caveats: |
    usernsd must run in the cluster. Each command needs the right "get" and "list" on pods, and "create" on
    pods/exec in the agents' namespace.
  platforms:
${platforms%$'\n'}
EOF
}

# CycloneDX: the crates that each program is linked from, and those that the compiler ran for it (procedural macros).
part_sbom() {
  for arch in $arches; do
    (cd "$source" && cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries \
      --target "${triples[$arch]}" --no-build-deps)
    # It names the crates of this workspace by the directory that they are in.
    sed "s|$source|/usr/src/usernsd|g" "$source/usernsd_bin.cdx.json" | jq --sort-keys . >"$out/usernsd-linux-$arch.cdx.json"
  done
}

# The section of this version, or what is not released yet.
part_changelog() {
  local heading="## $version"
  grep -q "^$heading\b" CHANGELOG.md || heading='## Unreleased'
  awk -v heading="$heading" 'index($0, heading) == 1 {found = 1; next} /^## / {found = 0} found' CHANGELOG.md \
    >"$out/CHANGELOG-$version.md"
  [[ -s $out/CHANGELOG-$version.md ]] || fail "CHANGELOG.md has no section $heading"
}

# The compiler of each architecture's program, which it writes into it: {"rustc-amd64": "rustc version …"}.
compilers() {
  local arch
  for arch in $arches; do
    readelf --string-dump=.comment "$binaries/usernsd-linux-$arch" | grep -o 'rustc version .*' | head -n 1 |
      jq --raw-input "{\"rustc-$arch\": .}"
  done | jq --slurp --compact-output add
}

# in-toto and SLSA: what was made, of which commit, with what.
part_provenance() {
  (cd "$out" && sha256sum -- *) | jq --raw-input --null-input \
    --arg revision "$revision" --arg arches "$arches" --arg registry "$registry" \
    --arg lock "$(sha256sum Cargo.lock | cut -d ' ' -f 1)" --argjson rustc "$(compilers)" \
    --arg buildah "$(buildah --version)" '{
      _type: "https://in-toto.io/Statement/v1",
      subject: [inputs | capture("^(?<sha256>[0-9a-f]+)  (?<name>.*)$") | {name, digest: {sha256}}],
      predicateType: "https://slsa.dev/provenance/v1",
      predicate: {
        buildDefinition: {
          buildType: "make release",
          externalParameters: {arches: $arches, registry: $registry},
          resolvedDependencies: [
            {name: "source", digest: {gitCommit: $revision}},
            {name: "Cargo.lock", digest: {sha256: $lock}}
          ]
        },
        runDetails: {builder: {id: "make release", version: ($rustc + {buildah: $buildah})}}
      }
    }' >"$work/provenance.json"
  mv "$work/provenance.json" "$out/usernsd.provenance.json"
}

part_sums() { (cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .); }

for part in $only; do
  "part_$part"
done
