#!/usr/bin/env bash
# Makes the release of a commit twice, from clean clones in two directories, and compares the checksums of all files.
# Needs what "make release" needs, and compiles everything twice.
#
#   reproduce.sh [DIRECTORY]     DIRECTORY holds the clones and may be removed afterwards; target/reproduce
#
# Variables of make are passed on: MAKEFLAGS, or "ARCHES=… REGISTRY=… reproduce.sh".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

where=${1:-target/reproduce}
rm -rf "$where"
mkdir -p "$where"
where=$(realpath "$where")
variables=()
for name in ARCHES REGISTRY DOWNLOAD; do
  [[ -z ${!name:-} ]] || variables+=("$name=${!name}")
done

# The first build takes minutes, in which there may be another commit.
commit=$(git rev-parse HEAD)
# Of different lengths, so that a path that is left in a file moves what follows.
for clone in one another-directory; do
  git clone --quiet . "$where/$clone"
  git -C "$where/$clone" checkout --quiet --detach "$commit"
  mkdir "$where/$clone/target"
  # The node, whose kubectl renders the manifests, is no part of what is compared.
  ln -s "$(realpath target/node)" "$where/$clone/target/node"
  # Nor are compilers, of which there must be one, as rust-toolchain.toml names one.
  for root in target/cross/*/usr; do
    [[ -d $root ]] || continue
    mkdir -p "$where/$clone/target/cross"
    ln -s "$(realpath "$root/..")" "$where/$clone/target/cross/"
  done
  make -C "$where/$clone" release "RELEASE=$where/release-$clone" "${variables[@]}"
done
diff "$where/release-one/SHA256SUMS" "$where/release-another-directory/SHA256SUMS" || {
  echo "reproduce.sh: the releases differ" >&2
  exit 1
}
echo "$(wc -l <"$where/release-one/SHA256SUMS") files, the same bytes twice"
