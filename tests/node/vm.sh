#!/usr/bin/env bash
# Boots a test node as a machine of its own: another Linux kernel, with controllers in cgroup v2 and a security
# module that enforces. tests/node/node.sh makes nodes of namespaces, on this machine's kernel.
#
#   vm.sh boot [options]       boots a machine and prints its name; it stays until "down"
#     --name NAME              default: vm
#     --kernel 6.1|6.12|7      the kernel of Debian bookworm, trixie or forky; default: 6.12
#     --lsm apparmor|selinux|permissive|none
#                              default: apparmor; permissive is SELinux that logs and denies nothing
#     --suite forky|trixie|bookworm
#                              whose programs the machine has; default: forky. On trixie containerd and runc are
#                              forky's, because its own give pods no user namespace. Nor do those of bookworm
#     --share DIRECTORY        of this machine, which that one has at the same path, read-only
#     --without CONTROLLERS    of cgroup v2, separated by commas, that the kernel is told to leave out
#   vm.sh exec NAME COMMAND... runs a command as root, and returns its exit code
#   vm.sh shell NAME           a shell on its second serial line; Ctrl-] leaves it
#   vm.sh down NAME            ends it
#   vm.sh list                 the machines that run
#   vm.sh test [options] FILTER...
#                              runs cases of tests/cases, each on a machine that has just booted
#     --jobs N                 so many machines at a time; default: 1
#     --program cluster        of tests/cluster instead, with the programs in USERNSD_TEST_KUBE
#
# The kernel is Debian's User Mode Linux: Linux of that version as a process of this machine, so neither KVM nor an
# emulated processor is needed. It has the controllers cpu, io, memory and pids, seccomp and AppArmor, and one processor;
# it lacks cpuset, PSI and Landlock. The machine has this source at the same path as here, read-only.
#
# The root file system is that of the test node, made by rootfs.sh. The kernel's package and those that a machine
# needs beyond a node come from the same mirror. What is prepared once is kept in target/vm, until a newer one of its
# kind takes its place:
#   kernel-SUITE-VERSION/      the kernel and its modules
#   disk-KIND-HASH/            a disk with the root file system; machines write to a copy of what they change
#
# Environment:
#   USERNSD_VM_MEMORY          MiB of a machine, default 1024, with a cluster 2560
#   USERNSD_TEST_NODE=require  "test" fails, and does not skip its cases, where machines cannot boot
#
# Needs root and the packages in host-packages.txt.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
out=$source/target/vm
states=/run/usernsd-vm
memory=${USERNSD_VM_MEMORY:-1024}

die() {
  echo "vm.sh: $*" >&2
  exit 1
}

# ---------------------------------------------------------------- packages

# The mirror that the node's root file system came from.
apt_of() { # apt_of SUITE [STATUS]: sets the array apt
  local lists=$out/apt-$1 mirror
  mirror=$(grep -ohE 'https?://[^ ]+' "$image/root/etc/apt/sources.list" | head -n 1)
  mkdir -p "$lists/lists/partial" "$lists/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$lists/sources.list"
  apt=(-q -o Acquire::Check-Valid-Until=false -o Dir::Etc::sourcelist="$lists/sources.list"
    -o Dir::Etc::sourceparts=- -o Dir::State::lists="$lists/lists" -o Dir::Cache="$lists"
    -o Dir::State::status="${2:-/dev/null}" -o APT::Sandbox::User=root)
  # One look at the mirror a day.
  if [[ -z $(find "$lists/lists" -name '*Packages*' -mtime -1 2>/dev/null) ]]; then
    apt-get "${apt[@]}" update >&2
  fi
}

# Removes an unfinished directory when the shell ends; a finished one has another name by then.
discard_at_end() {
  # shellcheck disable=SC2064 # the directory of now
  trap "rm -rf --one-file-system '$1'" EXIT
}

# unpack DIR PACKAGE...: without their maintainers' scripts, as nothing here starts services.
unpack() {
  local target=$1 packages package
  shift
  packages=$(mktemp -d "$target.packages.XXXXXX")
  (cd "$packages" && apt-get "${apt[@]}" download "$@" >&2)
  mkdir -p "$target"
  # Not dpkg-deb -x, which replaces the link /bin by a directory if the package has one.
  for package in "$packages"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$target"
  done
  rm -r "$packages"
}

# prune KIND MADE: removes what was made of this kind before, and what an interrupted build left. Called by the only
# builder; a machine keeps what it was booted from.
prune() {
  local kind=$1 made=$2 old
  for old in "$out/$kind"-*/ "$out"/.build-*/; do
    old=${old%/}
    [[ -d $old && $old != "$made" ]] || continue
    if grep -qsFx "$old" "$states"/*/made; then continue; fi
    rm -rf --one-file-system "$old"
  done
}

# Prints the directory of a suite's kernel: linux, and modules/VERSION.
make_kernel() {
  local suite=$1 apt=() made work version
  apt_of "$suite"
  version=$(apt-cache "${apt[@]}" show user-mode-linux | sed -n 's/^Version: //p' | head -n 1)
  made=$out/kernel-$suite-$version
  if [[ ! -d $made ]]; then
    work=$(mktemp -d "$out/.build-kernel.XXXXXX")
    discard_at_end "$work"
    unpack "$work/package" user-mode-linux
    mv "$work/package/usr/bin/linux.uml" "$work/linux"
    mv "$work/package/usr/lib/uml/modules" "$work/modules"
    rm -r "$work/package"
    chmod 755 "$work"
    mv "$work" "$made"
    prune "kernel-$suite" "$made"
  fi
  echo "$made"
}

# ---------------------------------------------------------------- disk

# Prints the directory of the disk for a kernel, a suite, and SELinux or another security module.
make_disk() {
  local kernel=$1 suite=$2 policy=$3 work root kind made apt=() packages=()
  # What prepare_machine runs, too.
  local of='configure_network|prepare_machine|configure_containerd|oci_runtime'
  kind=${kernel##*/kernel-}
  kind=disk-${policy:-plain}-${kind%%-*}-$suite
  made=$out/$kind-$( (declare -f make_disk ${policy:+add_policy} && sed -nE "/^($of)\(\)/,/^}/p" "$here/node.sh" && cat) \
    <<<"$image $kernel" | sha256sum | cut -c1-12)
  if [[ -d $made ]]; then
    echo "$made"
    return
  fi
  work=$(mktemp -d "$out/.build-disk.XXXXXX")
  discard_at_end "$work"
  root=$work/root
  cp -a --reflink=auto "$image/root" "$root"
  mkdir -p "$root/usr/lib/modules" "$root"/etc/{apparmor.d,modules-load.d,sysctl.d,systemd/system.conf.d} "$root/host"
  cp -a "$kernel"/modules/* "$root/usr/lib/modules/"
  # What a node lacks: kmod loads the kernel's modules, apparmor has the parser of profiles.
  apt_of "$suite" "$root/var/lib/dpkg/status"
  mapfile -t packages < <(apt-get "${apt[@]}" install --no-install-recommends --simulate kmod apparmor |
    sed -n 's/^Inst \([^ ]*\) .*/\1/p')
  unpack "$root" "${packages[@]}"
  [[ -z $policy ]] || add_policy "$root"
  if [[ $suite = trixie ]]; then
    apt_of forky
    unpack "$root" containerd runc libseccomp2
    # Of two libraries of one name, the newer one.
    chroot "$root" ldconfig
  fi

  # A machine of its own does what a node leaves to this one. Profiles are loaded by the runtime.
  rm -f "$root"/etc/systemd/system/{systemd-sysctl,systemd-modules-load}.service
  echo overlay >"$root/etc/modules-load.d/machine.conf"
  echo machine >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 machine\n' >"$root/etc/hosts"
  tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
  # The kernel drops lines about denials beyond ten in five seconds, and cases count them.
  printf 'net.ipv4.ip_forward = 1\nkernel.printk_ratelimit = 0\n' >"$root/etc/sysctl.d/machine.conf"
  # Beside other work, a process of low priority may be slow; systemd gives generators, of which none has a use here,
  # 90 s.
  rm -f "$root"/usr/lib/systemd/system-generators/*
  printf '[Manager]\nDefaultTimeoutStartSec=15min\nDefaultDeviceTimeoutSec=15min\n' \
    >"$root/etc/systemd/system.conf.d/machine.conf"
  "$here/node.sh" prepare-machine "$root" "$suite" "$image"
  install -D -m 755 /dev/stdin "$root/usr/local/libexec/machine-runner" <<'RUNNER'
#!/bin/bash
# Runs what comes over the serial line, a line each: a token, and a command in base64. Answers with the output,
# each line behind a space, and then with the token and the exit code.
exec 3<>/dev/ttyS0
stty raw -echo <&3
echo up >&3
while read -r -u 3 token command; do
  { setsid -w bash -c "$(base64 -d <<<"$command")" 3>&- 2>&1 </dev/null; echo "$?" >/run/machine-code; } |
    sed -u 's/^/ /' >&3
  # The last line may lack its end.
  printf '\n%s %s\n' "$token" "$(</run/machine-code)" >&3
done
RUNNER
  cat >"$root/etc/systemd/system/machine-runner.service" <<'UNIT'
[Unit]
Description=Run the commands of the machine's owner
[Service]
ExecStart=/usr/local/libexec/machine-runner
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
TasksMax=infinity
UNIT
  ln -s ../machine-runner.service "$root/etc/systemd/system/multi-user.target.wants/"
  [[ -z $policy ]] || chroot "$root" setfiles -F /etc/selinux/default/contexts/files/file_contexts / >&2
  truncate -s 4G "$work/root.raw"
  mkfs.ext4 -q -O ^has_journal -N 65536 -E lazy_itable_init=0,nodiscard -d "$root" "$work/root.raw"
  rm -rf --one-file-system "$root"
  chmod 755 "$work"
  mv "$work" "$made"
  prune "$kind" "$made"
  echo "$made"
}

# add_policy ROOT: Debian's reference policy, which has types for containers. Its packages are installed and not only
# unpacked: their scripts compile the policy.
add_policy() {
  local root=$1 packages debs=$1/var/tmp/debs
  mkdir -p "$debs"
  mapfile -t packages < <(apt-get "${apt[@]}" install --no-install-recommends --simulate \
    selinux-policy-default policycoreutils selinux-utils | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
  (cd "$debs" && apt-get "${apt[@]}" download "${packages[@]}" >&2)
  # shellcheck disable=SC2016 # the inner shell expands it
  unshare --mount --fork bash -euc '
    mount -t proc proc "$1/proc"
    mount -t tmpfs tmpfs "$1/dev"
    mknod -m 666 "$1/dev/null" c 1 3
    chroot "$1" sh -c "DEBIAN_FRONTEND=noninteractive dpkg --force-depends --install /var/tmp/debs/*.deb"
    # Mounts of this script and of node.sh, which a node in the field does not make.
    echo "(typepermissive mount_t)" >"$1/var/tmp/debs/machine.cil"
    chroot "$1" semodule --noreload --store=default --install=/var/tmp/debs/machine.cil
    ' bash "$root" >&2
  rm -r "$debs"
  printf 'SELINUX=enforcing\nSELINUXTYPE=default\n' >"$root/etc/selinux/config"
  # The policy has no type for where Debian puts CNI's plugins.
  echo '/usr/lib/cni(/.*)? system_u:object_r:bin_t:s0' \
    >"$root/etc/selinux/default/contexts/files/file_contexts.local"
  # A kubelet makes it.
  mkdir -p "$root/var/log/pods"
}

# ---------------------------------------------------------------- machine

# The reason why this machine cannot run User Mode Linux, if it cannot. Rarer reasons are found at boot: the kernel prints
# them on the console.
missing() {
  if [[ $(uname -m) != x86_64 ]]; then
    # Of the processors that usernsd is built for.
    echo "Debian has no User Mode Linux for $(uname -m)"
  elif [[ $(id -u) != 0 ]]; then
    echo "machines need root"
  elif ! strace -qq -o /dev/null true 2>/dev/null; then
    echo "ptrace(2) is not allowed here, by which User Mode Linux runs programs (or strace is missing)"
  fi
}

boot() {
  local name=vm kernel=6.12 lsm=apparmor suite=forky kernel_suite image disk state pipe options policy='' share='' without=''
  while (($#)); do
    [[ $# -gt 1 ]] || die "$1 needs a value, or is no option"
    case $1 in
      --name) name=$2 ;;
      --kernel) kernel=$2 ;;
      --lsm) lsm=$2 ;;
      --suite) suite=$2 ;;
      --share) share=$2 ;;
      --without) without=$2 ;;
      *) die "unknown option $1" ;;
    esac
    shift 2
  done
  [[ -z $(missing) ]] || die "$(missing)"
  [[ $name =~ ^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$ ]] || die "not a name: $name"
  case $kernel in
    6.1) kernel_suite=bookworm ;;
    6.12) kernel_suite=trixie ;;
    7 | 7.*) kernel_suite=forky ;;
    *) die "unknown kernel $kernel: 6.1, 6.12 or 7" ;;
  esac
  case $lsm in
    apparmor) options=("lsm=yama,apparmor") ;;
    selinux) options=("lsm=yama,selinux" selinux=1 enforcing=1) policy=selinux ;;
    permissive) options=("lsm=yama,selinux" selinux=1 enforcing=0) policy=selinux ;;
    none) options=(lsm=yama) ;;
    *) die "unknown security module $lsm: apparmor, selinux, permissive or none" ;;
  esac

  [[ -z $without ]] || options+=("cgroup_disable=$without")

  mkdir -p "$out" "$states"
  out=$(cd "$out" && pwd)
  # The newer C library, with which each of the kernels runs.
  local library
  library=$("$here/rootfs.sh" forky "$out/../node")
  image=$("$here/rootfs.sh" "$suite" "$out/../node")
  state=$states/$name
  ! alive "$state" || die "machine $name runs already"
  # One builder at a time.
  exec 9>"$out/.lock"
  flock 9
  kernel=$(make_kernel "$kernel_suite")
  disk=$(make_disk "$kernel" "$suite" "$policy")
  # Before the next builder looks for what nobody uses.
  rm -rf "$state"
  mkdir -p "$state"
  printf '%s\n' "$kernel" "$disk" >"$state/made"
  exec 9>&-

  for pipe in in out; do mkfifo "$state/$pipe"; done
  # shellcheck disable=SC2016 # the inner shell expands it
  setsid unshare --mount --pid --fork --kill-child bash -euc '
    library=$1 state=$2 kernel=$3 disk=$4 memory=$5
    shared=("$6" ${7:+"$7"})
    shift 7
    mount --make-rprivate /
    root=$state/root
    mkdir "$root"
    mount --bind "$library/root" "$root"
    mount -t proc proc "$root/proc"
    # The memory of the machine, and what it changes on its disk, are files here.
    mount -t tmpfs -o mode=755 tmpfs "$root/mnt"
    mount -t tmpfs tmpfs "$root/dev"
    mkdir "$root"/dev/{pts,shm,net}
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    for device in null zero random urandom; do
      : >"$root/dev/$device"
      mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/mnt"/{host,kernel,disk}
    mount --bind "$kernel" "$root/mnt/kernel"
    mount --bind "$disk" "$root/mnt/disk"
    for directory in "${shared[@]}"; do
      mkdir -p "$root/mnt/host$directory"
      mount --bind "$directory" "$root/mnt/host$directory"
      mount -o remount,bind,ro "$root/mnt/host$directory"
    done
    exec chroot "$root" env -i HOME=/ TMPDIR=/mnt PATH=/usr/bin:/bin /mnt/kernel/linux "mem=${memory}M" \
      ubd0=/mnt/changes,/mnt/disk/root.raw root=/dev/ubda rw init=/lib/systemd/systemd \
      hostfs=/mnt/host seccomp=auto con=null con0=null,fd:1 ssl=null ssl0=fd:3,fd:4 ssl1=pts panic=-1 cgroup_no_v1=all systemd.show_status=false \
      log_buf_len=4M TERM=dumb "$@"
    ' bash "$library" "$state" "$kernel" "$disk" "$memory" "$source" "$share" "${options[@]}" \
    </dev/null >"$state/console.log" 2>&1 3<>"$state/in" 4<>"$state/out" &
  echo "$!" >"$state/pid"
  answer "$state" up 600
  run "$state" 'systemctl is-system-running --wait' >/dev/null || {
    run "$state" 'systemctl --failed --no-legend; journalctl -b --no-pager -p warning | tail -n 30' >&2
    die "machine $name is not running as it should"
  }
  # shellcheck disable=SC2016 # the shell on the machine expands it
  run "$state" "mount -t hostfs ${policy:+-o context=system_u:object_r:bin_t:s0} none /host || exit
    for directory in '$source' ${share:+'$share'}; do mkdir -p \"\$directory\" && mount --bind \"/host\$directory\" \"\$directory\" || exit; done"
  echo "$name"
}

# alive STATE: the process that was started is there, and no other one with its number.
alive() { [[ -s $1/pid ]] && grep -qs "$1" "/proc/$(<"$1/pid")/cmdline"; }

of() { # of NAME: prints the directory of a running machine
  alive "$states/$1" || die "no machine $1"
  echo "$states/$1"
}

# run STATE COMMAND: a line for a shell on the machine.
run() {
  local state=$1 token=$RANDOM$RANDOM
  exec 7<>"$state/in"
  echo "$token $(base64 -w 0 <<<"$2")" >&7
  exec 7>&-
  answer "$state" "$token"
}

# answer STATE TOKEN [SECONDS]: prints lines until that with the token; returns the code after it.
answer() {
  local state=$1 token=$2 limit=${3:-3600} line='' part start=$SECONDS
  while ((SECONDS - start < limit)); do
    # What was read before the time is up is a line's beginning.
    if ! IFS= read -r -t 2 part; then
      line+=$part
      alive "$state" || break
      continue
    fi
    line+=$part
    case $line in
      ' '*) printf '%s\n' "${line# }" ;;
      "$token") return 0 ;;
      "$token "*) return "${line#* }" ;;
    esac
    line=''
  done 0<>"$state/out"
  echo "vm.sh: no answer; the end of the console:" >&2
  tail -n 20 "$state/console.log" >&2
  return 125
}

# A shell on the second serial line, of which the kernel reports where it is in its own /dev/pts.
shell() {
  local state=$1 inner line=''
  run "$state" 'systemctl is-active --quiet machine-shell || systemd-run --quiet --unit=machine-shell --collect \
    --property=StandardInput=tty --property=StandardOutput=tty --property=StandardError=tty \
    --property=TTYPath=/dev/ttyS1 --setenv=HOME=/root --setenv=TERM=xterm --working-directory=/root bash --login'
  until [[ -n $line ]]; do
    line=$(sed -n "s/.*Serial line 1 assigned device '\(.*\)'.*/\1/p" "$state/console.log" | tail -n 1)
    [[ -n $line ]] || sleep 0.1
  done
  # The kernel is the child of unshare, in whose mount namespace its /dev is.
  inner=$(pgrep --parent "$(<"$state/pid")")
  socat "stdio,raw,echo=0,escape=0x1d" "file:/proc/$inner/root$line,raw,echo=0"
}

down() {
  local state=$states/$1 pid
  if alive "$state"; then
    pid=$(<"$state/pid")
    kill -KILL "$pid"
    while [[ -e /proc/$pid ]]; do sleep 0.05; done
  fi
  rm -rf --one-file-system "$state"
}

# ---------------------------------------------------------------- test

# make_etcd DIR PROGRAMS: the data of an etcd whose API server has started once. It then has its some hundred objects, of
# which the API server makes most by "rbac/bootstrap-roles", and ends if that takes longer than 30 s, as it may on a machine.
make_etcd() {
  rm -rf "$1"
  mkdir -p "$1"
  ssh-keygen -q -t rsa -m PEM -N '' -f "$1/accounts"
  echo 'token,vm.sh,1,system:masters' >"$1/tokens"
  # With the names and addresses that tests/cluster gives them.
  # shellcheck disable=SC2016 # the inner shell expands it
  unshare --net --pid --fork --kill-child bash -euc '
    ip link set lo up
    ip address add 10.96.0.1/32 dev lo
    "$2/etcd" --data-dir="$1/data" --log-level=error >"$1/log" 2>&1 & etcd=$!
    "$2/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=443 --advertise-address=10.96.0.1 \
      --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC --cert-dir="$1" \
      --token-auth-file="$1/tokens" --service-account-issuer=https://kubernetes.default.svc \
      --service-account-key-file="$1/accounts" --service-account-signing-key-file="$1/accounts" >>"$1/log" 2>&1 & api=$!
    said=
    until [[ $said = ok ]]; do
      ((SECONDS < 120))
      kill -0 $etcd $api
      sleep 0.5
      said=$("$2/kubectl" --server=https://10.96.0.1 --token=token --insecure-skip-tls-verify get --raw=/readyz 2>&1) || true
    done
    kill $api
    wait $api || true
    kill $etcd
    wait $etcd || true
    ' bash "$1" "$2" || { tail -n 20 "$1/log" >&2; die "the API server did not start"; }
  # Space that etcd reserves for its next log.
  rm -f "$1"/data/member/wal/*.tmp
}

# Runs cases of tests/cases, or of tests/cluster. The results go to target/vm/results, one line each.
test_cases() {
  local name=test-$$ kernel=6.12 lsm=apparmor suite=forky jobs=1 built cases list test index work
  local failed=0 results filters=() arch version image_binary given='' program=cases share=() limit=900 skipped
  while (($#)); do
    case $1 in
      --kernel) kernel=$2 && shift ;;
      --lsm) lsm=$2 && shift ;;
      --suite) suite=$2 && shift ;;
      --name) name=$2 && shift ;;
      --jobs) jobs=$2 && shift ;;
      --program) program=$2 && shift ;;
      --*) die "unknown option $1" ;;
      *) filters+=("$1") ;;
    esac
    shift
  done
  [[ $jobs =~ ^[1-9][0-9]*$ ]] || die "not a number of machines: $jobs"
  if [[ -n $(missing) ]]; then
    [[ ${USERNSD_TEST_NODE:-} != require ]] || die "$(missing)"
    echo "SKIPPED $(missing)"
    return
  fi
  cd "$source"
  built=$(cargo build --quiet --test "$program" --bin usernsd --message-format=json |
    grep -oE '"executable":"[^"]+"' | cut -d'"' -f4)
  cases=$(grep -E "/$program-[0-9a-f]+\$" <<<"$built")
  mapfile -t list < <(for test in "${filters[@]}"; do "$cases" --list --format=terse "$test"; done |
    sed -n 's/: test$//p' | awk '!seen[$0]++')
  ((${#list[@]} > 0)) || die "no case is named like ${filters[*]}"
  # For the image, if it is there: "make static" builds it.
  arch=$(uname -m)
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
  mkdir -p "$out/results"
  # At a path that machines see.
  if [[ -n ${USERNSD_TEST_CRIO:-} ]]; then
    mkdir -p "$out/crio"
    install -m 755 "$USERNSD_TEST_CRIO" "$out/crio/crio"
    install -m 755 "${USERNSD_TEST_PINNS:-$(dirname "$USERNSD_TEST_CRIO")/pinns}" "$out/crio/pinns"
    given="USERNSD_TEST_CRIO='$out/crio/crio'"
  fi
  if [[ $program = cluster ]]; then
    [[ -n ${USERNSD_TEST_KUBE:-} ]] || die "USERNSD_TEST_KUBE names no directory with Kubernetes' programs"
    share=(--share "$USERNSD_TEST_KUBE")
    limit=3600
    export USERNSD_VM_MEMORY=${USERNSD_VM_MEMORY:-2560}
    make_etcd "$out/etcd" "$USERNSD_TEST_KUBE"
    given+=" USERNSD_TEST_KUBE='$USERNSD_TEST_KUBE' USERNSD_TEST_ETCD='$out/etcd/data'"
  fi
  # Without its symbols, which would be in each image that a machine builds.
  image_binary=$source/target/$arch-unknown-linux-gnu/debug/usernsd
  if [[ -e $image_binary ]]; then
    strip -o "$out/usernsd" "$image_binary"
    image_binary=$out/usernsd
  fi
  results=$out/results/$kernel-$lsm-$suite.tsv
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the names of now
  trap "end_cases '$work' '$name' ${#list[@]}" EXIT
  for index in "${!list[@]}"; do
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
    run_case "$name-$index" "${list[index]}" &
  done
  wait
  # A case that did not come to its end has no result.
  failed=$((${#list[@]} - $(cat "$work"/result-* | grep -cvx failed || true)))
  skipped=$(cat "$work"/result-* | grep -cxE 'skipped|ignored' || true)
  echo "${#list[@]} cases, $failed failed, $skipped skipped, $SECONDS s; target/vm/results/${results##*/}"
  ((skipped < ${#list[@]})) || die "no case ran"
  ((failed == 0))
}

# end_cases DIR NAME COUNT: when they have ended, or the shell was.
end_cases() {
  local index
  # shellcheck disable=SC2046 # numbers
  kill $(jobs -p) 2>/dev/null || true
  for ((index = 0; index < $3; index++)); do down "$2-$index"; done
  rm -r "$1"
}

# run_case NAME TEST: one of test_cases, with its variables. Its lines come together, at its end.
run_case() {
  local name=$1 test=$2 state=$states/$1 start=$SECONDS code=0 said facts crio result=passed log
  log=$work/log-${name##*-}
  down "$name"
  if ! "${BASH_SOURCE[0]}" boot --name "$name" --kernel "$kernel" --lsm "$lsm" --suite "$suite" \
    "${share[@]}" >"$log" 2>&1; then
    printf '%-8s %4d s  %s: no machine\n%s\n' failed $((SECONDS - start)) "$test" "$(tail -n 40 "$log")"
    return
  fi
  facts=$(run "$state" 'uname -r; tr , " " </sys/kernel/security/lsm; grep -qsx 0 /sys/fs/selinux/enforce && echo " permissive"; echo
    systemctl --version | sed -n "1s/systemd \([0-9]*\).*/\1/p"
    containerd --version | cut -d" " -f3; runc --version | sed -n "1s/runc version //p"
    crun --version | sed -n "1s/crun version //p" | grep . || echo -; uname -m' |
    grep . | tr '\n' '\t')
  # Cases that are not about SELinux itself, on a node whose administrator has allowed what docs/selinux.md describes: our
  # policy, and the type with which a container may change its cgroup, here for all.
  if [[ $lsm = selinux && $test != selinux::* ]]; then
    said=$(run "$state" "semodule --install '$source/selinux/usernsd.cil' &&
      sed -i '/^process/s/container_t/container_init_t/' /etc/selinux/default/contexts/lxc_contexts &&
      grep ^process /etc/selinux/default/contexts/lxc_contexts && systemctl restart containerd") || code=$?
  fi
  # At the same path as here: it is compiled into the tests.
  ((code != 0)) || said=$(run "$state" "cd '$source' &&
    USERNSD_TEST_NODE=require $given USERNSD_TEST_IMAGE_BINARY='$image_binary' \
    timeout $limit '$cases' --exact '$test' --nocapture") || code=$?
  # The runtime of the case's node.
  if crio=$(run "$state" 'systemctl show --property=ActiveEnterTimestampMonotonic --value crio.service | grep -qvx 0 &&
    crio --version | sed -n "s/^crio version /CRI-O /p"'); then
    facts=$(awk -F '\t' -v OFS='\t' -v crio="$crio" '{ $4 = crio; print }' <<<"$facts")
  fi
  if [[ $program = cluster ]]; then
    facts=$(awk -F '\t' -v OFS='\t' -v kubelet="$("$USERNSD_TEST_KUBE/kubelet" --version)" \
      '{ sub("Kubernetes v", "Kubernetes ", kubelet); $4 = $4 ", " kubelet; print }' <<<"$facts")
  fi
  if ((code != 0)); then
    result=failed
  elif grep -q 'SKIPPED ' <<<"$said"; then
    result=skipped
  elif grep -q '1 ignored' <<<"$said"; then
    result=ignored
  fi
  down "$name"
  {
    printf '%-8s %4d s  %s\n' "$result" $((SECONDS - start)) "$test"
    # The reason, before what a case prints about its end.
    [[ $result != failed ]] || { grep -A 12 ' panicked at ' <<<"$said" | head -n 40; tail -n 60 <<<"$said"; } || true
  } >"$log"
  cat "$log"
  printf '%s\t%s\t%s%s\t%s\t%s\n' "$(date -u +%F)" "$version" "$facts" "$test" "$result" $((SECONDS - start)) >>"$results"
  echo "$result" >"$work/result-${name##*-}"
}

command=${1:-}
shift || true
case $command in
  boot) boot "$@" ;;
  exec)
    state=$(of "${1:?usage: vm.sh exec NAME COMMAND...}")
    shift
    run "$state" "${*@Q}"
    ;;
  shell) shell "$(of "${1:?usage: vm.sh shell NAME}")" ;;
  down) down "${1:?usage: vm.sh down NAME}" ;;
  list)
    for state in "$states"/*/; do
      ! alive "${state%/}" || basename "$state"
    done
    ;;
  test) test_cases "$@" ;;
  *) sed -n '2,/^set -e/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | head -n -1 && exit 2 ;;
esac
