#!/usr/bin/env bash
# Boots Debian's kernel under qemu, with two processors, and prints what a container with a writable cgroup can do there
# with cpuset and pressure (PSI), which test nodes and machines of User Mode Linux lack.
#
#   cpuset.sh [SUITE]          the suite whose kernel it is; default: trixie
#
# There is no runtime and no systemd. The container is a process with the namespaces of one, in a cgroup with the
# files that usernsd hands over; another one stands beside it. cpuset-in-machine.sh is what runs there, and fails if one
# of the kernel's answers is not the expected one.
#
# Needs root, the packages in host-packages.txt, cpio and qemu-system-x86. It downloads the kernel.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
suite=${1:-trixie}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

image=$("$here/rootfs.sh" forky "$here/../../target/node")
mirror=$(grep -ohE 'https?://[^ ]+' "$image/root/etc/apt/sources.list" | head -n 1)
mkdir -p "$work"/{lists/partial,archives/partial,kernel}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
apt=(-q -o Acquire::Check-Valid-Until=false -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=-
  -o Dir::State::lists="$work/lists" -o Dir::Cache="$work" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update >&2
# The kernel itself is in one package with its modules, or in one of several.
mapfile -t packages < <(apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts \
  --no-breaks --no-replaces --no-enhances linux-image-cloud-amd64 | grep -E '^linux-(image|binary)-[0-9]')
(cd "$work/kernel" && apt-get "${apt[@]}" download "${packages[@]}" >&2)
for package in "$work"/kernel/*.deb; do dpkg-deb -x "$package" "$work/kernel"; done
linux=$(find "$work/kernel" -name 'vmlinuz*' -type f | head -n 1)

# Programs of the node's root, with their libraries.
initrd=$work/initrd.d
mkdir -p "$initrd"/{bin,dev,proc,sys,lib64}
cp "$here/cpuset-in-machine.sh" "$initrd/init"
for program in bash busybox unshare nsenter taskset; do
  cp "$image/root/usr/bin/$program" "$initrd/bin/"
  # None, if it is linked statically.
  for library in $(chroot "$image/root" ldd "/usr/bin/$program" 2>/dev/null | grep -oE '/[^ ]+' || true); do
    install -D "$image/root$library" "$initrd$library"
  done
done
(cd "$initrd" && find . | cpio --quiet --format=newc --create | gzip -1) >"$work/initrd"

# Its clock goes by the instructions that it has run, so that nothing in it depends on this machine's load.
qemu-system-x86_64 -machine q35 -cpu max -accel tcg,thread=single -icount shift=2,sleep=on -smp 2 -m 512 \
  -nodefaults -display none -no-reboot -kernel "$linux" -initrd "$work/initrd" \
  -append 'console=ttyS0 quiet no_timer_check panic=-1 cgroup_no_v1=all' \
  -serial "file:$work/serial" </dev/null
tr -d '\r' <"$work/serial" | tee "$work/said"
result=failed
! grep -q '^cpuset: as expected' "$work/said" || result=passed
# A line of vm.sh's, of a machine without systemd and runtimes.
said() { sed -n "s/^$1: //p" "$work/said"; }
mkdir -p "$here/../../target/vm/results"
printf '%s\t' "$(date -u +%F)" "$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../../Cargo.toml" | head -n 1)" \
  "$(said kernel)" "$(said modules)" - - - - x86_64 cpuset::a_writable_cgroup_reaches_no_other_processors "$result" \
  >>"$here/../../target/vm/results/cpuset-$suite.tsv"
echo "$SECONDS" >>"$here/../../target/vm/results/cpuset-$suite.tsv"
[[ $result = passed ]] ||
  { echo "cpuset.sh: an answer of the kernel is not the expected one, or the machine ended early" >&2; exit 1; }
