#!/usr/bin/env bash
# Makes the root filesystem of a test node, and the container images it holds.
#
#   rootfs.sh SUITE [OUTDIR]      SUITE is forky, trixie or bookworm; OUTDIR is target/node
#
# Prints the path of a finished directory:
#   root/         the node's /, never written to after this script: nodes put an overlay on it
#   containerd/   containerd's state with all images imported
#   storage/      an image store for CRI-O (forky only)
#   images/       pause.tar, busybox.tar, systemd.tar, as `ctr images import` takes them;
#                 podman.tar, which is in no store
#
# The directory's name carries a hash of this script and of what it was asked for: an edit
# makes a new one, and a finished one is never made again. A build happens aside and is
# renamed into place, so there is no such thing as half a root.
#
# Environment:
#   USERNSD_DEBIAN_MIRROR         default: the mirror in this machine's apt configuration
#   USERNSD_NODE_EXTRA_PACKAGES   more packages for the node, for example "podman,catatonit"
#
# The host needs the packages named in host-packages.txt, and root.
set -euo pipefail

suite=${1:?usage: rootfs.sh SUITE [OUTDIR]}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${2:-$here/../../target/node}
extra=${USERNSD_NODE_EXTRA_PACKAGES:-}

# libnss-systemd: user records below /run/userdb become names. strace, jq: for people.
node_packages=systemd,systemd-sysv,dbus,libnss-systemd,containerd,runc,containernetworking-plugins
node_packages+=,iproute2,iptables,procps,uidmap,jq,busybox-static,socat,strace
case $suite in
  # skopeo fills CRI-O's image store; the libraries are what a CRI-O binary made
  # elsewhere links against.
  # podman, buildah, kubectl: daemonset/ is rendered, its image built, and its pod run.
  forky)
    node_packages+=,crun,conmon,skopeo,libgpgme45,libsqlite3-0,libseccomp2
    node_packages+=,podman,buildah,catatonit,netavark,kubectl
    ;;
  # systemd 252, runc 1.1: as old as is supported. containerd 1.6 has no NRI.
  bookworm) node_packages+=,crun ;;
  # systemd 257, crun 1.21: for whole machines, which have a newer containerd and runc (vm.sh).
  trixie) node_packages+=,crun ;;
  *) echo "rootfs.sh: unknown suite $suite: forky, trixie or bookworm" >&2; exit 2 ;;
esac
node_packages+=${extra:+,$extra}
# systemd as a container's PID 1, with something to serve. busybox-static also becomes the
# other two images, and is a web client.
image_suite=forky
image_packages=systemd,systemd-sysv,dbus,nginx-light,procps,passwd,busybox-static
# A container engine, for a pod that is to have one.
engine_packages=podman,crun,busybox-static

if [[ $(id -u) != 0 ]]; then
  echo "rootfs.sh: must be root: it makes device-free root filesystems with real owners" >&2
  exit 1
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
hash_of() { cat "${BASH_SOURCE[0]}" - <<<"$*" | sha256sum | cut -c1-12; }
images=$out/images-$(hash_of images "$image_suite" "$image_packages" "$engine_packages")
node=$out/$suite-$(hash_of node "$suite" "$node_packages" "$image_packages" "$engine_packages")

# The quick way out, taken by every boot but the first.
if [[ -d $node ]]; then
  echo "$node"
  exit 0
fi

# One builder at a time; who waited finds the work done.
exec 9>"$out/.lock"
flock 9
if [[ -d $node ]]; then
  echo "$node"
  exit 0
fi

command -v mmdebstrap >/dev/null || {
  echo "rootfs.sh: mmdebstrap is missing; install: $(sed 's/#.*//' "$here/host-packages.txt" | xargs)" >&2
  exit 1
}

work=
cleanup() { [[ -z $work ]] || rm -rf --one-file-system "$work"; }
trap cleanup EXIT

# The first URI of a Debian archive that apt itself uses here, in either format of its lists.
mirror() {
  if [[ -n ${USERNSD_DEBIAN_MIRROR:-} ]]; then
    echo "$USERNSD_DEBIAN_MIRROR"
    return
  fi
  local found
  found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
    grep -v '^[[:space:]]*#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1) || true
  found=${found%% *}
  echo "${found:-http://deb.debian.org/debian}"
}

# debootstrap SUITE VARIANT PACKAGES DIRECTORY
debootstrap() {
  # A suite under development, or an old mirror, may be past its Release file's date.
  # No manuals, no translations: half the size.
  mmdebstrap --quiet --mode=root --variant="$2" --include="$3" \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/i18n/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    "$1" "$4" "$(mirror)" >&2
  # Device nodes come with each boot.
  rm -rf "${4:?}"/dev/* "$4"/var/cache/apt/* "$4"/var/lib/apt/lists/* "$4"/var/log/*.log
}

# mask ROOT UNIT...: the unit does not exist, whoever wants it.
mask() {
  local root=$1 unit
  shift
  mkdir -p "$root/etc/systemd/system"
  for unit in "$@"; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
}

# Units which fail, wait or cost time where there is no hardware, node or container alike.
no_hardware=(
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer
  systemd-tmpfiles-clean.timer
  console-getty.service getty.target getty-static.service serial-getty@.service
  systemd-logind.service systemd-logind-varlink.socket user@.service
  systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket
  systemd-udevd-varlink.socket systemd-udev-trigger.service systemd-udev-settle.service
  systemd-networkd.service systemd-networkd.socket systemd-network-generator.service
  systemd-modules-load.service kmod-static-nodes.service modprobe@.service
  systemd-sysctl.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
  systemd-random-seed.service systemd-pstore.service systemd-remount-fs.service
  systemd-journald-audit.socket systemd-journal-catalog-update.service
  systemd-journal-flush.service ldconfig.service systemd-update-done.service
  systemd-hwdb-update.service systemd-firstboot.service systemd-machine-id-commit.service
  systemd-sysusers.service systemd-tmpfiles-setup-dev.service
  systemd-tmpfiles-setup-dev-early.service systemd-hibernate-clear.service
  systemd-sysext.socket systemd-creds.socket systemd-factory-reset.socket
  systemd-sysinstall.socket systemd-mute-console.socket systemd-hostnamed.socket
  systemd-bootctl.socket systemd-ask-password.socket systemd-ask-password-console.path
  systemd-ask-password-wall.path systemd-journalctl.socket systemd-journalctl-metrics.socket
  dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount
  sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount tmp.mount
)

# save NAME ROOT CONFIG: writes images/NAME.tar in the format of `docker save`.
save() {
  local name=$1 root=$2 config=$3 dir
  dir=$work/save-$name
  mkdir -p "$dir"
  # Sorted and dateless: the same content has the same digest.
  tar -C "$root" --sort=name --mtime=@0 --numeric-owner --one-file-system \
    --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./run/*' \
    -cf "$dir/layer.tar" .
  local digest
  digest=$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
  printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$config" "$digest" >"$dir/config.json"
  printf '[{"Config":"config.json","RepoTags":["localhost/%s:1"],"Layers":["layer.tar"]}]' \
    "$name" >"$dir/manifest.json"
  tar -C "$dir" --mtime=@0 --numeric-owner --owner=0 --group=0 \
    -cf "$work/$name.tar" manifest.json config.json layer.tar
  rm -rf "$dir"
}

make_images() {
  work=$(mktemp -d "$out/.build-images.XXXXXX")
  local root=$work/root
  debootstrap "$image_suite" essential "$image_packages" "$root"

  mkdir -p "$work/busybox"/{bin,etc,proc,sys,dev,run,tmp}
  cp "$root/bin/busybox" "$work/busybox/bin/"
  local applet
  while read -r applet; do
    [[ $applet = busybox ]] || ln -s busybox "$work/busybox/bin/$applet"
  done < <("$root/bin/busybox" --list)
  echo 'root:x:0:0:root:/:/bin/sh' >"$work/busybox/etc/passwd"
  echo 'root:x:0:' >"$work/busybox/etc/group"
  chmod 1777 "$work/busybox/tmp"
  local path='"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]'
  # A PID 1 without a handler ignores SIGTERM: a test would wait out the grace period.
  local stop='"StopSignal":"SIGKILL"'
  save pause "$work/busybox" "{$path,$stop,\"Entrypoint\":[\"/bin/sleep\",\"2147483647\"]}"
  save busybox "$work/busybox" "{$path,$stop,\"Cmd\":[\"/bin/sh\"]}"

  # Nothing here reads or runs these, and every boot of a node copies the image.
  rm -rf "$root"/usr/lib/{udev,firmware,modules,kernel,systemd/boot,systemd/catalog} \
    "$root"/usr/lib/*-linux-gnu/{gconv,perl-base} "$root"/usr/bin/perl* \
    "$root"/usr/lib/systemd/systemd-networkd "$root"/usr/bin/localedef \
    "$root"/usr/share/{perl5,perl,doc-base,zoneinfo,bash-completion,zsh,lintian,bug} \
    "$root"/var/lib/dpkg/info "$root"/var/cache/*
  mask "$root" "${no_hardware[@]}"
  ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
  # Not a first boot, and nothing to update: those would be jobs at every start.
  : >"$root/etc/machine-id"
  touch "$root/etc/.updated" "$root/var/.updated"
  : >"$root/etc/fstab"
  echo 'served by nginx in a container with systemd as PID 1' >"$root/var/www/html/index.html"
  rm -f "$root"/var/www/html/index.nginx-debian.html
  # SIGTERM makes systemd re-execute itself; this signal makes it halt.
  save systemd "$root" "{$path,\"Entrypoint\":[\"/sbin/init\"],\"StopSignal\":\"SIGRTMIN+3\",\"ExposedPorts\":{\"80/tcp\":{}}}"

  rm -rf "$work/root" "$work/busybox"

  debootstrap "$image_suite" essential "$engine_packages" "$work/engine"
  # In a pod there is no systemd to ask, no journal, and no limit that the pod has not.
  mkdir -p "$work/engine/etc/containers"
  printf '[containers]\npids_limit = 0\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n' \
    >"$work/engine/etc/containers/containers.conf"
  save podman "$work/engine" "{$path,$stop,\"Cmd\":[\"/bin/sh\"]}"
  rm -rf "$work/engine"
  chmod 755 "$work"
  mv "$work" "$images"
  work=
}

# Runs inside its own mount, PID and network namespaces: imports the images with the node's
# own containerd, so that no boot has to.
import_into_containerd() {
  local root=$1 state=$2
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t tmpfs tmpfs "$root/run"
  mount -t tmpfs tmpfs "$root/tmp"
  mount -t tmpfs tmpfs "$root/dev"
  mknod -m 666 "$root/dev/null" c 1 3
  mkdir -p "$root/var/lib/containerd" "$root/tmp/images"
  mount --bind "$state" "$root/var/lib/containerd"
  mount --bind "$images" "$root/tmp/images"
  # No CRI: only the stores are wanted.
  cat >"$root/tmp/config.toml" <<'TOML'
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
TOML
  # shellcheck disable=SC2016 # the shell in there expands it
  chroot "$root" /bin/sh -euc '
    containerd --config /tmp/config.toml >/tmp/log 2>&1 &
    tries=0
    until ctr version >/dev/null 2>&1; do
      tries=$((tries + 1))
      if [ $tries -gt 200 ]; then cat /tmp/log; exit 1; fi
      sleep 0.05
    done
    for name in pause busybox systemd; do
      ctr -n k8s.io images import --snapshotter overlayfs /tmp/images/$name.tar
    done
    kill %1 2>/dev/null || kill $!
    wait || true'
}

make_node() {
  work=$(mktemp -d "$out/.build-$suite.XXXXXX")
  local root=$work/root
  debootstrap "$suite" minbase "$node_packages" "$root"

  mask "$root" "${no_hardware[@]}"
  # Boot starts exactly one container runtime: it is chosen then.
  rm -f "$root"/etc/systemd/system/multi-user.target.wants/{containerd,crio,podman*,netavark*}.*
  ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
  : >"$root/etc/fstab"
  : >"$root/etc/resolv.conf"
  touch "$root/etc/.updated" "$root/var/.updated"
  mkdir -p "$root"/var/lib/{containerd,containers,kubelet} "$root"/etc/cni/net.d \
    "$root"/etc/containerd "$root"/opt/cni/bin "$root"/usr/local/libexec
  # No modprobe of what is in the kernel or is not to be had.
  mkdir -p "$root/etc/systemd/system/containerd.service.d"
  printf '[Service]\nExecStartPre=\nRestartSec=1\n' \
    >"$root/etc/systemd/system/containerd.service.d/node.conf"

  mkdir "$work/containerd"
  export -f import_into_containerd
  export images
  unshare --mount --pid --net --ipc --fork --kill-child \
    bash -euc 'import_into_containerd "$@"' bash "$root" "$work/containerd" >&2

  # Each boot copies containerd's state but not the blobs: those stay links into the shared
  # root. Snapshots cannot lie in it, as an overlay's file owners cannot be mapped.
  local blobs=io.containerd.content.v1.content/blobs/sha256 blob
  mkdir -p "$root/usr/share/usernsd-node/blobs"
  for blob in "$work/containerd/$blobs"/*; do
    mv "$blob" "$root/usr/share/usernsd-node/blobs/"
    ln -s "/usr/share/usernsd-node/blobs/${blob##*/}" "$blob"
  done

  if [[ -x $root/usr/bin/skopeo ]]; then
    # Read by CRI-O as an additional image store, where it lies.
    mkdir -p "$root/usr/share/usernsd-node/storage"
    local name
    for name in pause busybox systemd; do
      # shellcheck disable=SC2016 # the inner shell expands it
      unshare --mount --fork bash -euc '
        mount --bind "$1" "$1"
        mount -t proc proc "$1/proc"
        mount -t tmpfs tmpfs "$1/tmp"
        mount -t tmpfs tmpfs "$1/run"
        mkdir "$1/tmp/images"
        mount --bind "$2" "$1/tmp/images"
        exec chroot "$1" skopeo --insecure-policy copy --quiet \
          "docker-archive:/tmp/images/$3.tar" \
          "containers-storage:[overlay@/usr/share/usernsd-node/storage+/run/storage]localhost/$3:1"
        ' bash "$root" "$images" "$name" >&2
    done
    # Beside the root, not in it: the kernel cannot map owners of what lies on an overlay.
    mv "$root/usr/share/usernsd-node/storage" "$work/storage"
  fi
  mkdir -p "$root/usr/share/usernsd-node/storage"

  ln -s "../${images##*/}" "$work/images"
  chmod 755 "$work"
  mv "$work" "$node"
  work=
}

# What earlier forms of this script made goes, unless a node runs on it.
remove_old() {
  local old
  for old in "$out"/{"$suite",images}-*/ "$out"/.build-*/; do
    old=${old%/}
    [[ -d $old && $old != "$node" && $old != "$images" ]] || continue
    if grep -qsF "$old" /run/usernsd-node/*/options; then continue; fi
    rm -rf --one-file-system "$old"
  done
}

if [[ ! -d $images ]]; then make_images; fi
make_node
remove_old
echo "$node"
