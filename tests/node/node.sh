#!/usr/bin/env bash
# Boots, enters and removes test nodes: systemd as PID 1, a container runtime, no kubelet.
# Tests, benches and the demo all go through this file.
#
#   node.sh boot [options]      prints name=, pid=, cgroup=, root=, image=: one a line
#     --name NAME               default: a new one
#     --suite forky|bookworm    default: forky
#     --runtime containerd|crio|none
#                               crio needs USERNSD_TEST_CRIO=/path/to/crio, with pinns
#                               beside it or in USERNSD_TEST_PINNS
#     --cgroup-manager systemd|cgroupfs
#     --default-handler runc|crun
#     --no-nri                  the runtime's NRI stays off
#     --owner PID               this node goes when that process does
#     --bind SOURCE:TARGET      a file or directory of this machine in the node, read-only
#     --out DIR                 where rootfs.sh keeps its work
#   node.sh exec NAME COMMAND...   runs in the node as its root
#   node.sh down NAME              kills the node and removes what it left
#   node.sh list                   name, PID and owner of each
#   node.sh sweep                  removes the nodes whose owner, or PID 1, is gone
#
# On a machine that vm.sh has made, the machine itself is the node: boot configures its runtime and starts it
# anew, and exec and down are the same. It is a node once.
#
# Elsewhere a node is one tree of namespaces and one cgroup. All its mounts are in its own mount
# namespace, on tmpfs over a shared read-only root, so with its PID 1 everything goes but
# the empty cgroups and one small directory below /run/usernsd-node.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
states=/run/usernsd-node
# Exists on a machine that vm.sh has made, and names the suite of its programs.
machine=/etc/usernsd-machine

die() {
  echo "node.sh: $*" >&2
  exit 1
}

# Where this machine has cgroup v2: /sys/fs/cgroup, or beside v1 in a directory below it.
cgroup2_mount() {
  local _ target type
  while read -r _ target type _; do
    if [[ $type = cgroup2 ]]; then
      echo "$target"
      return
    fi
  done </proc/mounts
  die "no cgroup2 file system is mounted"
}

cgroup_of() { # cgroup_of NAME: the root of a node's cgroups
  if [[ -e $machine ]]; then
    cgroup2_mount
  else
    echo "$(cgroup2_mount)/usernsd-node-$1"
  fi
}

# missing_controllers CGROUP: those of the runtimes' limits that it lacks, separated by |.
missing_controllers() {
  local controller missing=''
  for controller in cpu memory pids; do
    grep -qw "$controller" "$1/cgroup.controllers" || missing+="${missing:+|}$controller"
  done
  echo "$missing"
}

# start_of PID: a process's start time tells it from a later one with the same number. Sets
# REPLY instead of printing, as the watcher asks each second and should not fork.
start_of() {
  { read -r REPLY <"/proc/$1/stat"; } 2>/dev/null || return 1
  # The name in parentheses may hold spaces: count from behind it.
  REPLY=${REPLY##*) }
  # shellcheck disable=SC2086 # split into fields
  set -- $REPLY
  REPLY=${20}
}

alive() { # alive FILE: the process recorded as "PID START" lives
  local pid start
  { read -r pid start <"$1"; } 2>/dev/null || return 1
  start_of "$pid" && [[ $REPLY = "$start" ]]
}

lock() {
  mkdir -p "$states"
  exec 9>"$states/.lock"
  flock 9
}

unlock() { exec 9>&-; }

# ---------------------------------------------------------------- remove

remove() { # remove NAME: also of a node half made, or half removed
  local name=$1 state=$states/$1 cgroup tries
  cgroup=$(cgroup_of "$name")
  if [[ -e $machine ]]; then
    [[ ! -d $cgroup/exec ]] || echo 1 >"$cgroup/exec/cgroup.kill"
    rm -rf --one-file-system "$state"
    return
  fi
  if [[ -d $cgroup ]]; then
    # Everything at once: the node's PID 1, all containers, and who came in by exec.
    if [[ -w $cgroup/cgroup.kill ]]; then
      echo 1 >"$cgroup/cgroup.kill"
    elif [[ -s $state/pid ]] && alive "$state/pid"; then
      kill -KILL "$(cut -d' ' -f1 "$state/pid")"
    fi
    # Bottom-up. A dying process holds its cgroup for a moment.
    for ((tries = 0; tries < 500; tries++)); do
      find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && break
      [[ -d $cgroup ]] || break
      sleep 0.01
    done
    [[ ! -d $cgroup ]] || die "cannot remove $cgroup: a process in it does not die"
  fi
  rm -rf --one-file-system "$state"
}

# Under the lock: two boots must not remove the same leftovers, nor one being made.
sweep() {
  local state
  for state in "$states"/*/; do
    state=${state%/}
    [[ -d $state ]] || continue
    if [[ -s $state/owner ]] && ! alive "$state/owner"; then
      remove "${state##*/}"
    elif [[ -s $state/pid ]] && ! alive "$state/pid"; then
      remove "${state##*/}"
    fi
  done
}

# ---------------------------------------------------------------- boot

boot() {
  local name='' suite=forky runtime=containerd manager=systemd handler=runc nri=true owner=''
  local out=$here/../../target/node
  local binds=()
  while (($#)); do
    [[ $1 = --no-nri || $# -gt 1 ]] || die "$1 needs a value, or is no option"
    case $1 in
      --name) name=$2 && shift ;;
      --suite) suite=$2 && shift ;;
      --runtime) runtime=$2 && shift ;;
      --cgroup-manager) manager=$2 && shift ;;
      --default-handler) handler=$2 && shift ;;
      --no-nri) nri=false ;;
      --owner) owner=$2 && shift ;;
      --bind) binds+=("$2") && shift ;;
      --out) out=$2 && shift ;;
      *) die "unknown option $1" ;;
    esac
    shift
  done
  [[ $(id -u) = 0 ]] || die "must be root"
  case $runtime in containerd | crio | none) ;; *) die "unknown runtime $runtime" ;; esac
  case $manager in systemd | cgroupfs) ;; *) die "unknown cgroup manager $manager" ;; esac
  case $handler in runc | crun) ;; *) die "unknown handler $handler" ;; esac
  # Names end up in host names and unit-like directory names.
  name=${name:-$$-$RANDOM}
  [[ $name =~ ^[a-z0-9]([a-z0-9-]*[a-z0-9])?$ ]] || die "not a node name: $name"

  local crio='' pinns=''
  if [[ $runtime = crio ]]; then
    [[ $suite = forky || $suite = machine && $(<"$machine") = forky ]] || die "CRI-O runs on forky only"
    crio=${USERNSD_TEST_CRIO:-}
    [[ -n $crio ]] || die "--runtime crio needs USERNSD_TEST_CRIO=/path/to/crio"
    pinns=${USERNSD_TEST_PINNS:-$(dirname "$crio")/pinns}
    [[ -x $crio && -x $pinns ]] || die "not executable: $crio or $pinns"
    binds+=("$crio:/usr/local/bin/crio" "$pinns:/usr/local/bin/pinns")
  fi

  local image cgroup state=$states/$name
  if [[ -e $machine ]]; then
    boot_machine
    return
  fi
  image=$("$here/rootfs.sh" "$suite" "$out")
  cgroup=$(cgroup_of "$name")

  lock
  sweep
  # The sweep spares a node that lives; one of this name without a PID is a boot cut short.
  if [[ -d $state ]] && [[ -s $state/pid ]]; then die "node $name exists"; fi
  mkdir -p "$state"
  if [[ -n $owner ]]; then
    start_of "$owner" || die "no process $owner to own a node"
    echo "$owner $REPLY" >"$state/owner"
  fi
  # Removed first: cgroups left by a machine that lost its /run.
  if [[ -d $cgroup ]]; then
    find "$cgroup" -depth -type d -exec rmdir {} + || die "cgroup $cgroup is in use"
  fi
  mkdir "$cgroup"
  unlock

  # What the machine's v2 tree can control, its nodes may. None is fine too.
  local controller missing
  for controller in cpu memory pids io cpuset hugetlb; do
    echo "+$controller" >"${cgroup%/*}/cgroup.subtree_control" 2>/dev/null || true
  done
  missing=$(missing_controllers "$cgroup")
  # A process that comes in by exec must sit in a leaf: systemd hands controllers down.
  mkdir "$cgroup/exec"

  # The node says "up" or, when it dies early, this shell says "dead": no polling.
  mkfifo "$state/ready"
  {
    printf 'name=%q\nimage=%q\ncgroup=%q\nstate=%q\nruntime=%q\nmanager=%q\nhandler=%q\n' \
      "$name" "$image" "$cgroup" "$state" "$runtime" "$manager" "$handler"
    printf 'nri=%q\nmissing=%q\nsuite=%q\n' "$nri" "$missing" "$suite"
    printf 'binds=('
    ((${#binds[@]} == 0)) || printf '%q ' "${binds[@]}"
    printf ')\n'
  } >"$state/options"

  # setsid: a Ctrl-C for a test is not one for its node's processes.
  (
    setsid unshare --mount --uts --ipc --net --pid --fork --kill-child \
      -- "${BASH_SOURCE[0]}" first-process "$state" || true
    echo dead >&0
  ) 0<>"$state/ready" >"$state/console.log" 2>&1 &

  local said=''
  read -r -t 180 said 0<>"$state/ready" || true
  if [[ $said != up ]]; then
    echo "node.sh: node $name did not come up (${said:-no word in 180 s}):" >&2
    cat "$state/console.log" >&2
    if [[ -s $state/pid ]] && alive "$state/pid"; then
      (enter "$name" journalctl --no-pager -n 40) >&2 || true
    fi
    remove "$name"
    exit 1
  fi
  if [[ -n $owner ]]; then
    setsid "${BASH_SOURCE[0]}" watch "$state" </dev/null >/dev/null 2>&1 &
  fi
  local pid
  read -r pid _ <"$state/pid"
  printf 'name=%s\npid=%s\ncgroup=%s\nroot=/proc/%s/root\nimage=%s\n' \
    "$name" "$pid" "$cgroup" "$pid" "$image"
}

# Removes a node once its owner or its PID 1 is gone, within a second. Ends with the node.
watch() {
  local state=$1
  while alive "$state/owner"; do
    # The other writer of this FIFO says "dead" when PID 1 ends.
    read -r -t 1 0<>"$state/ready" && break
  done
  lock
  sweep
}

# PID 1 of the new namespaces, before it becomes systemd. Sees this machine's mounts.
first_process() {
  local state=$1 pid
  # shellcheck disable=SC1091
  source "$state/options"
  # /proc is still this machine's, so this is the PID as seen from outside.
  read -r pid _ </proc/self/stat
  start_of self
  echo "$pid $REPLY" >"$state/pid"
  # In its cgroup first: the root of the new cgroup namespace is where its maker sits. The
  # process outside that waits for this one stays out of the tree.
  echo 0 >"$cgroup/cgroup.procs"
  exec unshare --cgroup -- "${BASH_SOURCE[0]}" second-process "$state"
}

second_process() {
  local state=$1
  # shellcheck disable=SC1091
  source "$state/options"
  local overlay=$state/overlay root=$state/overlay/root
  mkdir "$overlay"
  mount -t tmpfs -o mode=755 node "$overlay"
  mkdir "$overlay"/{upper,scratch,root,containerd,containers,kubelet}
  mount -t overlay -o "lowerdir=$image/root,upperdir=$overlay/upper,workdir=$overlay/scratch" \
    overlay "$root"

  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  mkdir "$root"/dev/{pts,shm,mqueue}
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  mount -t mqueue mqueue "$root/dev/mqueue"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  ln -s /proc/self/fd/0 "$root/dev/stdin"
  ln -s /proc/self/fd/1 "$root/dev/stdout"
  ln -s /proc/self/fd/2 "$root/dev/stderr"
  local device
  for device in null zero full random urandom tty fuse; do
    # Bound, not made: works where making devices is forbidden.
    [[ -e /dev/$device ]] || continue
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done

  # State that containers' roots lie on is on tmpfs itself: no overlay on an overlay.
  for device in containerd containers kubelet; do
    mount --bind "$overlay/$device" "$root/var/lib/$device"
  done
  mkdir "$root/run/usernsd"
  : >"$root/run/node-ready"
  mount --bind "$state/ready" "$root/run/node-ready"

  bind_all "$root"

  echo "node-$name" >"$root/etc/hostname"
  hostname "node-$name"
  printf '127.0.0.1 localhost\n127.0.1.1 node-%s\n' "$name" >"$root/etc/hosts"
  tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
  ip link set lo up
  echo 1 >"$root/proc/sys/net/ipv4/ip_forward"

  configure_network "$root"
  local wants=$root/etc/systemd/system/multi-user.target.wants after=dbus.service
  mkdir -p "$wants"
  case $runtime in
    containerd) configure_containerd "$root" ;;
    crio) configure_crio "$root" ;;
  esac
  if [[ $runtime != none ]]; then
    ln -s "../$runtime.service" "$wants/$runtime.service"
    after+=" $runtime.service"
  fi
  cat >"$root/etc/systemd/system/node-failed.service" <<'UNIT'
[Unit]
Description=Tell the harness that this node will not come up
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo a unit failed >/run/node-ready'
UNIT
  cat >"$root/etc/systemd/system/node-ready.service" <<UNIT
[Unit]
Description=Tell the harness that this node is up
After=$after
OnFailure=node-failed.service
Requires=${after/#dbus.service/dbus.socket}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo up >/run/node-ready'
UNIT
  ln -s ../node-ready.service "$wants/node-ready.service"

  cd "$root"
  pivot_root . mnt
  # shellcheck disable=SC2016
  exec chroot . /bin/sh -ec '
    umount -l /mnt
    # Runtimes pass mounts on to containers; systemd in a container leaves this to its maker.
    mount --make-rshared /
    exec env -i container=usernsd-node PATH=/usr/sbin:/usr/bin:/sbin:/bin \
      /lib/systemd/systemd --unit=multi-user.target --show-status=no' </dev/null
}

# bind_all ROOT: what of this machine the node has.
bind_all() {
  local root=$1 bind target
  for bind in "${binds[@]}"; do
    target=$root/${bind#*:}
    bind=${bind%%:*}
    if [[ -d $bind ]]; then
      mkdir -p "$target"
    else
      mkdir -p "$(dirname "$target")"
      : >"$target"
    fi
    mount --bind "$bind" "$target"
    mount -o remount,bind,ro "$target"
  done
}

configure_network() {
  cat >"$1/etc/cni/net.d/10-node.conflist" <<'JSON'
{"cniVersion": "1.0.0", "name": "node", "plugins": [
  {"type": "ptp", "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni-node"}}]}
JSON
}

# The node of a machine: called on it, with the options that boot has read.
boot_machine() {
  # What configure_containerd and configure_crio read.
  local missing before='' whole_machine=true
  [[ $suite != machine ]] || suite=$(<"$machine")
  [[ $suite = "$(<"$machine")" ]] || die "this machine has the programs of $(<"$machine")"
  image=/usr/share/usernsd-node
  cgroup=$(cgroup_of "$name")
  # Of the kernel's, those that are not switched off at boot.
  missing=$(missing_controllers "$cgroup")
  lock
  sweep
  [[ -z $(ls "$states") ]] || die "this machine is already the node $(ls "$states")"
  mkdir "$state" "$cgroup/exec"
  start_of 1
  echo "1 $REPLY" >"$state/pid"
  unlock
  bind_all ''
  if [[ $runtime = containerd ]]; then
    before=$(</etc/containerd/config.toml)
    configure_containerd ''
    if [[ $before != "$(</etc/containerd/config.toml)" ]]; then
      systemctl stop containerd.service
      rm -rf /run/nri
      systemctl start containerd.service
    fi
  else
    systemctl disable --quiet --now containerd.service
  fi
  if [[ $runtime = crio ]]; then
    configure_crio ''
    systemctl daemon-reload
    systemctl start crio.service
  fi
  printf 'name=%s\npid=1\ncgroup=%s\nroot=/proc/1/root\nimage=%s\n' "$name" "$cgroup" "$image"
}

# prepare_machine ROOT SUITE IMAGE: what the disk of a machine has before its boot, called by vm.sh.
prepare_machine() {
  local root=$1 suite=$2 image=$3 manager=systemd handler=runc nri=true missing='' whole_machine=true
  echo "$suite" >"$root$machine"
  configure_network "$root"
  mkdir -p "$root/var/lib/containerd"
  cp -a "$image/containerd/." "$root/var/lib/containerd/"
  [[ ! -d $image/storage ]] || cp -a "$image/storage/." "$root/usr/share/usernsd-node/storage/"
  mkdir "$root/usr/share/usernsd-node/images"
  cp "$image"/images/{pause,busybox,systemd}.tar "$root/usr/share/usernsd-node/images/"
  configure_containerd "$root"
  ln -s /lib/systemd/system/containerd.service "$root/etc/systemd/system/multi-user.target.wants/"
}

# oci_runtime ROOT runc|crun: the path to configure. Where the machine lacks a controller or
# a capability, that of a script which takes out of the bundle what asks for it.
oci_runtime() {
  local root=$1 name=$2 real pattern='' wrapper
  real=$(chroot "${root:-/}" /bin/sh -c "command -v $name") || die "no $name in $suite"
  [[ -z $missing ]] || pattern="\"($missing)\"\\s*:\\s*\\{[^{}]*\\}"
  # CAP_SYS_RESOURCE, bit 24: without it no process can be made less killable. A machine of its own has it.
  local caps
  caps=$(grep CapEff /proc/self/status)
  if [[ -z ${whole_machine:-} ]] && ! ((16#${caps##*[[:space:]]} >> 24 & 1)); then
    pattern+="${pattern:+|}\"oomScoreAdj\"\\s*:\\s*-[0-9]+"
  fi
  if [[ -z $pattern ]]; then
    echo "$real"
    return
  fi
  wrapper=/usr/local/libexec/$name
  # With the comma before or, for the first of its object, the one behind. Quotes inside
  # strings are escaped in JSON: the pattern cannot match there.
  cat >"$root$wrapper" <<SCRIPT
#!/bin/sh
# Takes what this machine cannot do out of the bundle, then runs $name.
verb= bundle=. last=
for word; do
  case \$word in
    create | run | update) verb=\${verb:-\$word} ;;
    --bundle=*) bundle=\${word#*=} ;;
  esac
  case \$last in -b | --bundle) bundle=\$word ;; esac
  last=\$word
done
strip='s/,\\s*($pattern)//g; s/($pattern)\\s*,?//g'
case \$verb in
  create | run) sed -E -z -i "\$strip" "\$bundle/config.json" ;;
  update) sed -E -z "\$strip" | exec $real "\$@"; exit ;;
esac
exec $real "\$@"
SCRIPT
  chmod 755 "$root$wrapper"
  echo "$wrapper"
}

configure_containerd() {
  local root=$1 runc crun systemd=true
  runc=$(oci_runtime "$root" runc)
  crun=$(oci_runtime "$root" crun)
  [[ $manager = systemd ]] || systemd=false

  # Copied, though bind mounts would do without: for a pod's user namespace containerd maps
  # the owners of all snapshots by one mount of their common parent, and that mount holds no
  # mounts below it. The blobs are links.
  [[ -n ${whole_machine:-} ]] || cp -a "$image/containerd/." "$root/var/lib/containerd/"

  # Lowering it takes a capability that a node of namespaces may lack.
  local restrict_oom=true
  [[ -z ${whole_machine:-} ]] || restrict_oom=false
  # As the disk of a machine has it: node.sh's nodes are on this machine's kernel.
  local selinux=false
  [[ -z ${whole_machine:-} || ! -e $root/etc/selinux/config ]] || selinux=true
  local disable_nri=false
  [[ $nri = true ]] || disable_nri=true
  # A plugin on a slow machine needs longer than the five and two seconds that it has.
  local nri_timeouts=''
  [[ -z ${whole_machine:-} ]] ||
    nri_timeouts=$'plugin_registration_timeout = "60s"\nplugin_request_timeout = "30s"'
  local cri
  if [[ $suite = bookworm ]]; then
    # containerd 1.6: one CRI plugin, no NRI of today's kind, no writable cgroups.
    cri='plugins."io.containerd.grpc.v1.cri"'
    cat <<TOML
version = 2
[$cri]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = $restrict_oom
enable_selinux = $selinux
[$cri.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
[$cri.containerd]
default_runtime_name = "$handler"
TOML
  else
    cri='plugins."io.containerd.cri.v1.runtime"'
    cat <<TOML
version = 3
# Looked for at each start, and not here.
disabled_plugins = ["io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.differ.v1.erofs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:1"
[plugins."io.containerd.nri.v1.nri"]
disable = $disable_nri
socket_path = "/var/run/nri/nri.sock"
$nri_timeouts
[$cri]
restrict_oom_score_adj = $restrict_oom
enable_selinux = $selinux
[$cri.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "/etc/cni/net.d"
[$cri.containerd]
default_runtime_name = "$handler"
[$cri.containerd.runtimes.runc-writable]
runtime_type = "io.containerd.runc.v2"
cgroup_writable = true
[$cri.containerd.runtimes.runc-writable.options]
SystemdCgroup = $systemd
BinaryName = "$runc"
TOML
  fi >"$root/etc/containerd/config.toml"
  cat >>"$root/etc/containerd/config.toml" <<TOML
[$cri.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[$cri.containerd.runtimes.runc.options]
SystemdCgroup = $systemd
BinaryName = "$runc"
[$cri.containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[$cri.containerd.runtimes.crun.options]
SystemdCgroup = $systemd
BinaryName = "$crun"
TOML
}

configure_crio() {
  local root=$1 runc crun conmon_cgroup=system.slice irq='' nri_timeouts=''
  runc=$(oci_runtime "$root" runc)
  crun=$(oci_runtime "$root" crun)
  [[ $manager = systemd ]] || conmon_cgroup=pod
  # User Mode Linux has no /proc/irq/default_smp_affinity, which CRI-O would restore.
  [[ -e /proc/irq/default_smp_affinity ]] || irq='irqbalance_config_restore_file = "disable"'
  # As for containerd.
  [[ -z ${whole_machine:-} ]] ||
    nri_timeouts=$'nri_plugin_registration_timeout = "60s"\nnri_plugin_request_timeout = "30s"'
  [[ -n ${whole_machine:-} ]] || mount --bind "$image/storage" "$root/usr/share/usernsd-node/storage"
  mkdir -p "$root/etc/crio/crio.conf.d" "$root/etc/containers"
  cat >"$root/etc/containers/storage.conf" <<'TOML'
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
[storage.options]
additionalimagestores = ["/usr/share/usernsd-node/storage"]
TOML
  echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$root/etc/containers/policy.json"
  cat >"$root/etc/crio/crio.conf" <<TOML
[crio.api]
listen = "/run/crio/crio.sock"
[crio.image]
pause_image = "localhost/pause:1"
pause_command = "/bin/sleep 2147483647"
[crio.network]
network_dir = "/etc/cni/net.d"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = $nri
nri_listen = "/var/run/nri/nri.sock"
$nri_timeouts
[crio.runtime]
cgroup_manager = "$manager"
conmon_cgroup = "$conmon_cgroup"
default_runtime = "$handler"
pinns_path = "/usr/local/bin/pinns"
enable_pod_events = true
$irq
[crio.runtime.runtimes.runc]
runtime_path = "$runc"
monitor_path = "/usr/bin/conmon"
[crio.runtime.runtimes.crun]
runtime_path = "$crun"
monitor_path = "/usr/bin/conmon"
TOML
  cat >"$root/etc/systemd/system/crio.service" <<'UNIT'
[Unit]
Description=CRI-O
After=dbus.service
[Service]
Type=notify
ExecStart=/usr/local/bin/crio --config /etc/crio/crio.conf
ExecReload=/bin/kill -s HUP $MAINPID
Restart=on-failure
RestartSec=1
TasksMax=infinity
LimitNOFILE=1048576
UNIT
}

# ---------------------------------------------------------------- enter

# Replaces this shell, by a process that waits for the one in the node. If it is killed, the
# one in the node is killed with it.
enter() {
  local name=$1 state=$states/$1 pid cgroup
  shift
  [[ -s $state/pid ]] || die "no node $name"
  read -r pid _ <"$state/pid"
  cgroup=$(cgroup_of "$name")
  echo "$BASHPID" >"$cgroup/exec/cgroup.procs"
  exec nsenter -t "$pid" -m -u -i -n -p -C -- \
    setpriv --pdeathsig KILL \
    env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

command=${1:-}
shift || true
case $command in
  boot) boot "$@" ;;
  exec) enter "$@" ;;
  down)
    lock
    remove "${1:?usage: node.sh down NAME}"
    ;;
  watch) watch "$@" ;;
  list)
    for state in "$states"/*/; do
      [[ -s $state/pid ]] || continue
      printf '%s pid=%s owner=%s\n' "$(basename "$state")" "$(cut -d' ' -f1 "$state/pid")" \
        "$(cut -d' ' -f1 "$state/owner" 2>/dev/null || echo none)"
    done
    ;;
  sweep)
    lock
    sweep
    ;;
  prepare-machine) prepare_machine "$@" ;;
  first-process) first_process "$@" ;;
  second-process) second_process "$@" ;;
  *) sed -n '2,/^set -e/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | head -n -1 && exit 2 ;;
esac
