#!/bin/bash
# What machine.sh runs on its machine: the agent, and a pod. Prints "smoke: passed" or what is wrong, and ends the
# machine.
trap 'systemctl poweroff --force --force' EXIT

wrong() {
  echo "smoke: $*"
  cat /run/agent.log
  exit 1
}

# until_true COMMAND...: for ten minutes of the machine's own time.
until_true() {
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    "$@" >/dev/null 2>&1 && return
    sleep 1
  done
  wrong "not in time: $*"
}

echo "smoke: $(uname -rm), pages of $(getconf PAGESIZE) bytes, $(/srv/usernsd --version)"
until_true ctr version
# As vm.sh has them of its machines, separated by tabs; no crun.
facts=("$(uname -r)" "$(tr , ' ' </sys/kernel/security/lsm)" "$(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')"
  "$(containerd --version | cut -d ' ' -f 3)" "$(runc --version | sed -n '1s/runc version //p')" - "$(uname -m)")
printf 'facts:'
printf '\t%s' "${facts[@]}"
echo
for image in pause busybox; do
  ctr --namespace k8s.io images import "/srv/$image.tar" || wrong "no image $image"
done
/srv/usernsd agent >/run/agent.log 2>&1 &
agent=$!
until_true grep -q 'joined the runtime over NRI' /run/agent.log
until_true grep -q ' ready ' /run/agent.log
grep -q '^Seccomp:[[:space:]]*2$' "/proc/$agent/status" || wrong "the agent has no filter of system calls"

python3 /srv/pod.py one localhost/busybox:1 usernsd.io/systemd=true >/run/pod || wrong "no pod"
cat /run/pod
container=$(sed -n 's/^container=//p' /run/pod)
first=$(sed -n 's/^host=//p' /run/pod)
cgroup=$(find /sys/fs/cgroup -type d -name "*$container*" | head -n 1)
for file in "" cgroup.procs cgroup.threads cgroup.subtree_control; do
  owner=$(stat -c %u "$cgroup/$file") || wrong "no cgroup of $container"
  echo "smoke: $owner owns ${file:-the cgroup}"
  [[ $owner = "$first" ]] || wrong "$cgroup/$file belongs to $owner"
done
[[ $(stat -c %u "$cgroup/memory.max") = 0 ]] || wrong "the limits belong to the pod"
/srv/usernsd ps
/srv/usernsd doctor
cat /run/agent.log
echo "smoke: passed"
