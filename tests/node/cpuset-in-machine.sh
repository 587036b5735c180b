#!/bin/bash
# PID 1 of the machine that cpuset.sh boots.
export PATH=/bin
for applet in cat chown head mkdir mount poweroff readlink rmdir sed sleep tr uname; do busybox ln -s busybox /bin/$applet; done
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir /cgroup
# As systemd mounts it.
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
trap 'poweroff -f' EXIT

# Of the containers' users on the node.
user=200000
root=/sys/fs/cgroup
failed=0

# expect WHAT GOT WANT
expect() {
  echo "$1: $2"
  [[ $2 == "$3" ]] || { failed=1; echo "  EXPECTED $3"; }
}

# try FILE VALUE: writes as the container does, and prints the kernel's answer.
try() {
  local said
  if said=$(inside "echo '$2' >/cgroup/$1" 2>&1); then echo accepted; else echo "${said##*: }"; fi
}

# Runs a script with the namespaces and IDs of the container, in its cgroup NAME below its own; default: leaf.
inside() {
  local cgroup=${2:-leaf}
  # shellcheck disable=SC2016 # the inner shell expands it
  bash -c 'echo $$ >"$1"; exec nsenter --target "$2" --user --cgroup --mount --setuid 0 --setgid 0 bash -c "$3"' \
    bash "$container/$cgroup/cgroup.procs" "$pid" "$1"
}

allowed() { inside "sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status" "$1"; }

mount -t securityfs securityfs /sys/kernel/security
echo "kernel: $(uname -r)"
echo "modules: $(tr , ' ' </sys/kernel/security/lsm)"
echo "delegated files: $(tr '\n' ' ' </sys/kernel/cgroup/delegate)"
# The kubelet's slice, two pods, and a container in each, pinned as the static policy of the CPU manager does.
slice=$root/kubepods.slice
container=$slice/one.slice/container.scope
neighbour=$slice/two.slice/container.scope
for cgroup in "$root" "$slice" "$slice/one.slice" "$slice/two.slice"; do
  mkdir -p "$cgroup"
  echo '+cpuset +cpu +memory +pids' >"$cgroup/cgroup.subtree_control"
done
mkdir "$container" "$neighbour"
echo 0 >"$container/cpuset.cpus"
echo 1 >"$neighbour/cpuset.cpus"
sleep 1000000 &
echo $! >"$neighbour/cgroup.procs"
bystander=$!

# The container: namespaces that the runtime makes, and its cgroup as usernsd hands it over.
# shellcheck disable=SC2016 # the inner shell expands it
bash -c 'echo $$ >"$1/cgroup.procs"; exec unshare --user --cgroup --mount sleep 1000000' bash "$container" &
pid=$!
until [[ $(readlink /proc/$pid/ns/cgroup) != $(readlink /proc/self/ns/cgroup) && $(</proc/$pid/comm) = sleep ]]; do
  sleep 0.1
done
echo "0 $user 65536" >/proc/$pid/uid_map
echo "0 $user 65536" >/proc/$pid/gid_map
chown $user:$user "$container"
while read -r file; do
  [[ ! -e $container/$file ]] || chown $user:$user "$container/$file"
done </sys/kernel/cgroup/delegate
mkdir "$container/leaf"
chown -R $user:$user "$container/leaf"
echo $pid >"$container/leaf/cgroup.procs"
# Where a runtime would mount it, the machine's own is mounted here.
inside 'mount -t cgroup2 cgroup2 /cgroup'

denied='Permission denied'
echo '# its own cgroup'
for file in cpuset.cpus cpuset.cpus.exclusive cpuset.cpus.partition cpuset.mems; do
  expect "echo 0-1 >$file" "$(try $file 0-1)" "$denied"
done
expect "echo +cpuset >cgroup.subtree_control" "$(try cgroup.subtree_control +cpuset)" accepted
inside 'mkdir /cgroup/inner'

echo '# a cgroup that it has made'
expect 'echo 0-1 >inner/cpuset.cpus' "$(try inner/cpuset.cpus 0-1)" accepted
expect 'inner/cpuset.cpus.effective' "$(cat "$container/inner/cpuset.cpus.effective")" 0
expect 'Cpus_allowed_list of a process in inner' "$(allowed inner)" 0
expect 'echo 1 >inner/cpuset.cpus' "$(try inner/cpuset.cpus 1)" accepted
expect 'Cpus_allowed_list of a process in inner' "$(allowed inner)" 0
expect 'taskset --cpu-list 1 true' "$(inside 'taskset --cpu-list 1 true 2>&1' inner | sed 's/.*: //')" 'Invalid argument'
expect 'echo 0-1 >inner/cpuset.cpus.exclusive' "$(try inner/cpuset.cpus.exclusive 0-1)" accepted
expect 'inner/cpuset.cpus.exclusive.effective' "$(cat "$container/inner/cpuset.cpus.exclusive.effective")" ''
for state in root isolated; do
  for cpus in 0-1 1 0; do
    try inner/cpuset.cpus $cpus >/dev/null
    try inner/cpuset.cpus.exclusive $cpus >/dev/null
    expect "cpus and exclusive $cpus, echo $state >inner/cpuset.cpus.partition" "$(try inner/cpuset.cpus.partition $state)" accepted
    got=$(cat "$container/inner/cpuset.cpus.partition")
    echo "inner/cpuset.cpus.partition: $got"
    [[ $got == "$state invalid"* ]] || { failed=1; echo "  EXPECTED invalid"; }
    expect 'inner/cpuset.cpus.effective' "$(cat "$container/inner/cpuset.cpus.effective")" 0
    expect 'cpuset.cpus.effective of the other container' "$(cat "$neighbour/cpuset.cpus.effective")" 1
  done
done
try inner/cpuset.cpus.partition member >/dev/null

echo '# the kubelet moves the container to the other processor'
try inner/cpuset.cpus 0 >/dev/null
inside 'sleep 1000000 & echo $!' inner >/inner-pid
echo 0-1 >"$neighbour/cpuset.cpus"
echo 1 >"$container/cpuset.cpus"
expect 'inner/cpuset.cpus' "$(cat "$container/inner/cpuset.cpus")" 0
expect 'inner/cpuset.cpus.effective' "$(cat "$container/inner/cpuset.cpus.effective")" 1
expect 'Cpus_allowed_list of a process that was in inner' \
  "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' "/proc/$(</inner-pid)/status")" 1

echo '# others'
expect 'Cpus_allowed_list in the other container' "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/$bystander/status)" 0-1
expect "the root's cpuset.cpus.effective" "$(cat $root/cpuset.cpus.effective)" 0-1
expect "the root's cpuset.cpus.isolated" "$(cat $root/cpuset.cpus.isolated)" ''

echo '# what root on the node can do, and a container cannot'
mkdir "$root/partition"
echo 1 >"$root/partition/cpuset.cpus"
echo root >"$root/partition/cpuset.cpus.partition"
expect 'partition/cpuset.cpus.partition' "$(cat "$root/partition/cpuset.cpus.partition")" root
expect "the kubelet's slice, cpuset.cpus.effective" "$(cat "$slice/cpuset.cpus.effective")" 0
rmdir "$root/partition"

echo '# pressure'
for file in cpu.pressure memory.pressure io.pressure; do
  expect "$file, read" "$(inside "head -n 1 /cgroup/$file | sed 's/=.*//'")" 'some avg10'
  expect "echo 'some 500000 2000000' >$file" "$(try "$file" 'some 500000 2000000')" "$denied"
  expect "echo 'some 500000 2000000' >inner/$file" "$(try "inner/$file" 'some 500000 2000000')" accepted
  # Such a window takes the capability SYS_RESOURCE; in the container's user namespace is enough.
  expect "echo 'some 500000 1000000' >inner/$file" "$(try "inner/$file" 'some 500000 1000000')" accepted
done
((failed)) || echo 'cpuset: as expected'
