#!/usr/bin/env bash
# Builds and tests usernsd for another processor than this machine's.
#
#   cross.sh arm64 root                  makes the root file system with the compiler, if it is not there yet
#   cross.sh arm64 build [ARGUMENT…]     cargo build; prints the path of the program. "--profile dist" is an argument
#   cross.sh arm64 test [ARGUMENT…]      cargo test, the tests run by qemu-user
#   cross.sh arm64 nextest [ARGUMENT…]   cargo nextest run: this machine's tests, on the program of that processor
#   cross.sh arm64 exec PROGRAM [ARGUMENT…]
#                                        runs a program of that processor, by qemu-user
#   cross.sh arm64 run PROGRAM [ARGUMENT…]
#                                        runs a program that starts programs of that processor
#   cross.sh arm64 rustc                 prints the compiler's version
#
# The compiler is Debian's: a root file system of Debian forky, with cargo, the standard library for the other
# processor and a linker for it, is made once in target/cross/ARCHITECTURE, from the mirror that this machine's apt
# uses. In it the source is always /usr/src/usernsd, so that no path of this machine gets into a program.
# The sources of the crates are those that this machine's cargo has fetched.
#
# Environment:
#   RUSTFLAGS, USERNSD_REVISION    passed on
#   USERNSD_DEBIAN_MIRROR          another mirror
#
# Needs root, the packages in tests/node/host-packages.txt, and 2 GB.
set -euo pipefail
shopt -s inherit_errexit

usage='usage: cross.sh arm64 root | build [ARGUMENT…] | test [ARGUMENT…] | nextest [ARGUMENT…] | exec PROGRAM [ARGUMENT…] | run PROGRAM [ARGUMENT…] | rustc'
fail() { echo "cross.sh: $*" >&2; exit 2; }

(($# >= 2)) || fail "$usage"
architecture=$1 command=$2
shift 2
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case $architecture in
  # elf is the number of the processor in the head of a program (EM_AARCH64).
  arm64) gnu=aarch64-linux-gnu target=aarch64-unknown-linux-gnu qemu=qemu-aarch64 elf='\xb7' ;;
  *) fail "unknown architecture $architecture; known: arm64" ;;
esac
out=$source/target/cross
root=$out/$architecture
build=$out/build

# As in tests/node/rootfs.sh: the first Debian archive that apt itself uses here.
mirror() {
  local found=${USERNSD_DEBIAN_MIRROR:-}
  [[ $found ]] || found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
    grep -v '^[[:space:]]*#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1) || true
  found=${found%% *}
  echo "${found:-http://deb.debian.org/debian}"
}

make_root() {
  [[ ! -d $root ]] || return 0
  [[ $(id -u) = 0 ]] || fail "root is needed to make $root; ARCHES without $architecture makes a release without it"
  command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing: make tools"
  local work
  mkdir -p "$out"
  work=$(mktemp -d "$out/.build.XXXXXX")
  # shellcheck disable=SC2064 # the directory of now
  trap "rm -rf --one-file-system '$work'" EXIT
  # Unpacked and not configured: a compiler and a linker need no maintainer script. The compiler's own libraries are
  # this machine's, Rust's standard library is the other processor's.
  mmdebstrap --quiet --mode=root --variant=extract \
    --architectures="$(dpkg --print-architecture),$architecture" \
    --include="base-files,bash,coreutils,dash,cargo,rustc,libstd-rust-dev:$architecture,gcc,libc6-dev,gcc-$gnu" \
    --include="libc6-dev-$architecture-cross,qemu-user" \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    forky "$work" "$(mirror)" >&2
  rm -rf "$work"/var/cache/apt/* "$work"/var/lib/apt/lists/* "$work"/usr/share/{doc,man,locale}
  # What the package would leave to update-alternatives.
  ln -s gcc "$work/usr/bin/cc"
  mkdir -p "$work"/{cargo/registry,usr/src/usernsd,proc,sys,dev,tmp}
  chmod 1777 "$work/tmp"
  chmod 755 "$work"
  mv "$work" "$root"
  trap - EXIT
}

# A command in the root file system, with this source, without a network.
inside() {
  local variable=${target^^}
  variable=${variable//-/_}
  # shellcheck disable=SC2016 # the inner shell expands it
  unshare --mount --net --fork --kill-child bash -euc '
    root=$1 source=$2 registry=$3
    shift 3
    mount --make-rprivate /
    mount --bind "$source" "$root/usr/src/usernsd"
    mount --bind "$registry" "$root/cargo/registry"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    exec chroot "$root" env -i -C /usr/src/usernsd HOME=/tmp CARGO_HOME=/cargo PATH=/usr/bin:/bin "$@"
    ' bash "$root" "$source" "${CARGO_HOME:-$HOME/.cargo}/registry" \
    "CARGO_TARGET_${variable}_LINKER=$gnu-gcc" "CARGO_TARGET_${variable}_RUNNER=$qemu" \
    "RUSTFLAGS=${RUSTFLAGS:--C target-feature=+crt-static}" ${USERNSD_REVISION:+"USERNSD_REVISION=$USERNSD_REVISION"} \
    "$@"
}

cross_cargo() { # SUBCOMMAND ARGUMENT…
  cargo fetch --quiet --locked --manifest-path "$source/Cargo.toml"
  inside cargo "$1" --offline --locked --target "$target" --target-dir "/usr/src/usernsd/${build#"$source"/}" "${@:2}"
}

# A command that can start programs of that processor, because the kernel starts qemu-user for them: binfmt_misc of a
# user namespace, so that nothing of this machine is changed. Every user is there, and root's capabilities hold for
# everything but other namespaces.
emulating() { # COMMAND [ARGUMENT…]
  # The pipe to the inner shell, which waits until its users are there. Its standard input is that of this script.
  exec 8<&0 9>&1
  # shellcheck disable=SC2016 # the inner shell expands it
  coproc inner {
    exec unshare --user --mount --fork --kill-child bash -euc '
      read -r pid _ </proc/self/stat
      echo "$pid"
      read -r _
      mount --make-rprivate /
      mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
      # The head of an ELF file for this processor, and which of its bits count (elf(5)).
      magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00$1\x00"
      mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
      # F: qemu is opened now, for programs in other root directories.
      printf %s ":usernsd:M::$magic:$mask:$2:F" >/proc/sys/fs/binfmt_misc/register
      shift 2
      [[ -z $EMULATED ]] || mount --bind "$EMULATED" "$EMULATED_AT"
      exec "$@" <&8 >&9 8<&- 9>&-' bash "$elf" "$root/usr/bin/$qemu" "$@"
  }
  # shellcheck disable=SC2154 # coproc sets it
  local pid process=$inner_PID to=${inner[1]} from=${inner[0]}
  read -r pid <&"$from"
  # From the first to the last user and group there is.
  echo '0 0 4294967295' >"/proc/$pid/uid_map"
  echo '0 0 4294967295' >"/proc/$pid/gid_map"
  echo >&"$to"
  wait "$process"
}

case $command in
  root) make_root ;;
  build)
    make_root
    profile=debug
    for ((i = 1; i <= $#; i++)); do
      [[ ${!i} != --profile ]] || { next=$((i + 1)) && profile=${!next}; }
    done
    [[ $profile != dev ]] || profile=debug
    cross_cargo build --bin usernsd "$@" >&2
    echo "$build/$target/$profile/usernsd"
    ;;
  test)
    make_root
    cross_cargo test "$@"
    ;;
  nextest)
    make_root
    cd "$source"
    # What this machine's cargo builds is found by these files; it would replace the program.
    mkdir -p "$out"
    cargo nextest list --quiet --list-type binaries-only --message-format json --bins --tests >"$out/binaries.json"
    cargo metadata --format-version 1 --offline --locked >"$out/metadata.json"
    EMULATED=$build/$target/debug/usernsd EMULATED_AT=$source/target/debug/usernsd
    [[ -x $EMULATED ]] || fail "$EMULATED is missing: cross.sh $architecture build"
    export EMULATED EMULATED_AT
    emulating cargo nextest run --binaries-metadata "$out/binaries.json" --cargo-metadata "$out/metadata.json" "$@"
    ;;
  exec)
    make_root
    exec "$root/usr/bin/$qemu" "$@"
    ;;
  run)
    make_root
    export EMULATED='' EMULATED_AT=''
    emulating "$@"
    ;;
  rustc)
    make_root
    inside rustc --version
    ;;
  *) fail "$usage" ;;
esac
