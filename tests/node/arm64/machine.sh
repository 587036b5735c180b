#!/usr/bin/env bash
# Boots an emulated aarch64 machine, on which usernsd's agent hands a pod's cgroup over.
#
#   machine.sh PROGRAM        PROGRAM is a static usernsd for aarch64: release/cross.sh arm64 build
#
# It prints what the machine printed, and succeeds if the agent joined containerd over NRI under its filter of system
# calls, and the cgroup of a pod with a user namespace belongs to the pod's first ID. The result is a line in
# target/vm/results, as those of vm.sh.
#
# The machine has Debian forky's kernel, systemd, containerd and runc for arm64, on the configuration of the test node.
# Its root file system is kept in target/node-arm64. It is emulated by qemu, one processor, without time limits: on a
# quiet machine it takes some minutes. Its clock goes by the instructions that it has run, so that timeouts in it do
# not depend on this machine's load.
#
# Needs root, the packages in host-packages.txt, qemu-system-arm, cpio, kmod and xz-utils.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../../.." && pwd)
program=${1:?usage: machine.sh PROGRAM}
packages=base-files,bash,coreutils,dash,grep,sed,mawk,findutils,libc-bin,util-linux,mount,procps,kmod,systemd,systemd-sysv
packages+=,dbus,containerd,runc,containernetworking-plugins,busybox-static,python3,python3-grpcio,linux-image-cloud-arm64
out=$source/target/node-arm64

fail() { echo "machine.sh: $*" >&2; exit 1; }

[[ $(id -u) = 0 ]] || fail "must be root"
[[ -x $program ]] || fail "no program $program"
node=$("$source/tests/node/rootfs.sh" forky "$source/target/node")
made=$out/root-$( (cat "${BASH_SOURCE[0]}" && echo "$node") | sha256sum | cut -c1-12)
mkdir -p "$out"
work=$(mktemp -d "$out/.build.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

# Unpacked only: no maintainer's script of another processor runs here. Users, masked units and the like are those of
# the test node, which is of the same suite.
make_root() {
  local root=$work/root version name
  mmdebstrap --quiet --mode=root --variant=extract --architectures=arm64 --include="$packages" \
    --aptopt='Acquire::Check-Valid-Until "false"' forky "$root" \
    "$(grep -ohE 'https?://[^ ]+' "$node/root/etc/apt/sources.list" | head -n 1)" >&2
  rm -rf "$root"/var/cache/apt "$root"/var/lib/apt "$root"/usr/share/{doc,man,locale}
  cp -a "$node/root/etc/." "$root/etc/"
  cp -an "$node/root/var/." "$root/var/"
  rm -rf "$root/etc/ld.so.cache" "$root/var/lib/containerd" "$root"/usr/lib/systemd/system-generators/*
  mkdir -p "$root"/{proc,sys,dev,run,tmp,srv} "$root"/var/lib/{containerd,kubelet}
  echo machine >"$root/etc/hostname"
  tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
  version=$(ls "$root/usr/lib/modules")
  mv "$root/usr/lib/modules/$version/vmlinuz" "$work/vmlinuz"
  depmod -b "$root" "$version"
  make_initrd "$root" "$version"
  rm -rf "$root/usr/lib/modules"

  echo '{"cniVersion": "1.0.0", "name": "node", "plugins": [{"type": "ptp", "ipMasq": false, "ipam":
    {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "dataDir": "/run/cni-node"}}]}' \
    >"$root/etc/cni/net.d/10-node.conflist"
  cat >"$root/etc/containerd/config.toml" <<'TOML'
version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = true
TOML
  for name in pause busybox; do save "$name" "$root"; done
  ln -sf /usr/lib/systemd/system/containerd.service "$root/etc/systemd/system/multi-user.target.wants/"
  cat >"$root/etc/systemd/system/smoke.service" <<'UNIT'
[Service]
ExecStart=/srv/smoke.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyAMA0
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
UNIT
  ln -s ../smoke.service "$root/etc/systemd/system/multi-user.target.wants/"
}

# The modules that the disk, containerd and the pod's network need, and one program that loads them and hands over to systemd.
make_initrd() { # ROOT VERSION
  local initrd=$work/initrd.d module file order=()
  mkdir -p "$initrd"/{bin,dev,proc,root,modules}
  cp "$1/usr/bin/busybox" "$initrd/bin/busybox"
  for module in virtio_pci virtio_blk ext4 overlay veth; do
    # "insmod FILE" each, dependencies first; nothing for what is built in.
    while read -r _ file _; do
      [[ " ${order[*]} " != *" $(basename "${file%.xz}") "* ]] || continue
      order+=("$(basename "${file%.xz}")")
      xz --decompress --stdout "$file" >"$initrd/modules/${order[-1]}"
    done < <(modprobe -d "$1" -S "$2" --show-depends "$module" | grep '^insmod')
  done
  cat >"$initrd/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in ${order[*]}; do /bin/busybox insmod /modules/\$module; done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox sh
/bin/busybox umount /proc
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /lib/systemd/systemd
INIT
  chmod 755 "$initrd/init"
  (cd "$initrd" && find . | cpio --quiet --format=newc --create | gzip -1) >"$work/initrd"
  rm -r "$initrd"
}

# An image of busybox, in the format of "docker save".
save() { # NAME ROOT
  local dir=$work/image digest
  mkdir -p "$dir/layer"/{bin,etc,proc,sys,dev,run,tmp}
  cp "$2/usr/bin/busybox" "$dir/layer/bin/busybox"
  for applet in sh sleep cat; do ln -s busybox "$dir/layer/bin/$applet"; done
  tar --directory "$dir/layer" --numeric-owner --create --file "$dir/layer.tar" .
  digest=$(sha256sum "$dir/layer.tar" | cut -d ' ' -f 1)
  printf '{"architecture":"arm64","os":"linux","config":{"Env":["PATH=/bin"],"StopSignal":"SIGKILL","Entrypoint":["/bin/sleep","2147483647"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$digest" >"$dir/config.json"
  printf '[{"Config":"config.json","RepoTags":["localhost/%s:1"],"Layers":["layer.tar"]}]' "$1" >"$dir/manifest.json"
  tar --directory "$dir" --numeric-owner --create --file "$2/srv/$1.tar" manifest.json config.json layer.tar
  rm -r "$dir"
}

if [[ ! -d $made ]]; then
  make_root
  mkdir "$work/made"
  mv "$work"/{root,vmlinuz,initrd} "$work/made"
  mv "$work/made" "$made"
  find "$out" -mindepth 1 -maxdepth 1 \( -name 'root-*' -o -name '.build.*' \) ! -path "$made" ! -path "$work" \
    -exec rm -rf --one-file-system {} +
fi

install -m 755 "$program" "$made/root/srv/usernsd"
install -m 755 "$here/pod.py" "$here/smoke.sh" "$made/root/srv/"
truncate -s 2G "$work/disk"
mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0,nodiscard -d "$made/root" "$work/disk"
# Without AppArmor, as the root has no parser of profiles.
qemu-system-aarch64 -machine virt -cpu cortex-a57 -accel tcg,thread=single -icount shift=2,sleep=on -smp 1 -m 1024 \
  -nodefaults -display none -no-reboot -kernel "$made/vmlinuz" -initrd "$made/initrd" \
  -append 'console=ttyAMA0 quiet rw systemd.show_status=false panic=-1 cgroup_no_v1=all lsm=landlock,yama' \
  -drive "file=$work/disk,format=raw,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk \
  -serial "file:$work/serial" </dev/null
tr -d '\r' <"$work/serial" | tee "$work/said"
result=failed
! grep -q '^smoke: passed' "$work/said" || result=passed
facts=$(sed -n 's/^facts:\t//p' "$work/said")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/Cargo.toml" | head -n 1)
# None of a machine that ended before it had a runtime.
if [[ -n $facts ]]; then
  mkdir -p "$source/target/vm/results"
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$(date -u +%F)" "$version" "$facts" \
    arm64::the_agent_hands_over_the_cgroup_of_a_pod "$result" "$SECONDS" >>"$source/target/vm/results/arm64-forky.tsv"
fi
[[ $result = passed ]] || fail "the machine did not do what it should"
