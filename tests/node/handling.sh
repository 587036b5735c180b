#!/usr/bin/env bash
# Measures how long containerd waits for the agent at a container's start (usernsd_handling_seconds), on a kernel with the
# controllers cpu, io, memory and pids, and on the same kernel without any, as test nodes have it where this machine has bound
# its controllers to cgroup v1.
#
#   handling.sh PROGRAM [TURNS [STARTS]]
#                              PROGRAM is the usernsd to measure: target/binaries/usernsd-linux-amd64 of "make image",
#                              or target/release/usernsd of "make build". Default: 10 turns of 20 starts each
#
# In each turn two machines of vm.sh boot, one after the other; the next turn has the other one first. Absolute times are
# those of User Mode Linux, in which a system call is expensive; only the ratio means something elsewhere.
#
# Environment: KERNEL of the machines, see vm.sh; default: 7
#
# Needs root and the packages in host-packages.txt.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
program=${1:?usage: handling.sh PROGRAM [TURNS [STARTS]]}
turns=${2:-10}
starts=${3:-20}
kernel=${KERNEL:-7}
out=$source/target/vm
work=$(mktemp -d)
name=handling-$$
trap 'rm -r "$work"; "$here/vm.sh" down "$name"' EXIT

cd "$source"
# It is not measured itself.
bench=$(cargo build --quiet --bench waiting --message-format=json |
  grep -oE '"executable":"[^"]+/waiting-[0-9a-f]+"' | cut -d'"' -f4)
# At a path that machines see.
mkdir -p "$out"
install -m 755 "$program" "$out/measured"

# one TURN with|without: appends to handling-KIND and handed-over-KIND, and their quantiles to handling-50-KIND and so on.
one() {
  local options=() said="$work/said" what part
  [[ $2 = with ]] || options=(--without "cpu,io,memory,pids")
  "$here/vm.sh" boot --name "$name" --kernel "$kernel" "${options[@]}" >/dev/null
  "$here/vm.sh" exec "$name" env USERNSD_TEST_NODE=require USERNSD_BENCH_PROGRAM="$out/measured" \
    USERNSD_BENCH_COUNT="$starts" "$bench" >"$said" || { cat "$said" >&2; exit 1; }
  "$here/vm.sh" down "$name"
  sed -n 's/^.*controllers: \([a-z ]*\) |.*/\1/p' "$said" | head -n 1 >"$work/controllers-$2"
  sed -n 's/^sample: \([0-9]*\) [0-9]*$/\1/p' "$said" >"$work/turn-handling"
  sed -n 's/^sample: [0-9]* \([0-9]*\)$/\1/p' "$said" >"$work/turn-handed-over"
  for what in handling handed-over; do
    cat "$work/turn-$what" >>"$work/$what-$2"
    for part in 25 50; do quantile $part "$work/turn-$what" >>"$work/$what-$part-$2"; done
  done
  echo "turn $1, controllers: $(<"$work/controllers-$2"): median of usernsd_handling_seconds" \
    "$(tail -n 1 "$work/handling-50-$2") us, until the hand-over $(tail -n 1 "$work/handed-over-50-$2") us;" \
    "load $(cut -d ' ' -f 1 /proc/loadavg)"
}

# quantile PERCENT FILE
quantile() { sort -n "$2" | awk -v part="$1" '{ line[NR] = $1 } END { print line[int((NR - 1) * part / 100) + 1] }'; }

# ratio WHAT PERCENT: of that quantile, in each turn: its median, its least and its greatest.
ratio() {
  paste "$work/$1-$2-with" "$work/$1-$2-without" | awk '{ printf "%.3f\n", $1 / $2 }' | sort -n |
    awk '{ line[NR] = $1 } END { printf "%s (%s to %s, %d turns)", line[int((NR + 1) / 2)], line[1], line[NR], NR }'
}

for ((turn = 1; turn <= turns; turn++)); do
  kinds=(with without)
  ((turn % 2)) || kinds=(without with)
  for kind in "${kinds[@]}"; do one "$turn" "$kind"; done
done
echo
for kind in with without; do
  echo "controllers: $(<"$work/controllers-$kind"), $(wc -l <"$work/handling-$kind") starts: usernsd_handling_seconds" \
    "$(quantile 0 "$work/handling-$kind") us at the least, lower quartile $(quantile 25 "$work/handling-$kind") us," \
    "median $(quantile 50 "$work/handling-$kind") us"
done
# Of starts during which another process had the machine's processor, the lower quartile has few.
for part in 25 50; do
  echo "with / without, of the turns' quantiles of $part %: usernsd_handling_seconds $(ratio handling $part)," \
    "until the hand-over $(ratio handed-over $part)"
done
