#!/usr/bin/env bash
# down.sh: ends the cluster of up.sh and removes all that it made: processes, pods, mounts, cgroups, bridges, chains of iptables, state.
# Works on a cluster that is half up, that crashed, or that is already down.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=host.sh
source "$HERE/host.sh"
trap_errors

processes() { # those whose names begin so
  local file prefix
  for prefix in "$@"; do
    for file in "$STATE/run/$prefix"*.process; do [ ! -e "$file" ] || basename "$file" .process; done
  done
}

# stop NAME...: a polite end, then the other one.
stop() {
  [ $# -eq 0 ] || end TERM 10 "$@" || end KILL 10 "$@" || die "a process does not end even when killed: $*"
}

need_root
if [ ! -d "$STATE" ]; then say "no cluster in $STATE: nothing to do"; exit 0; fi
[ -e "$STATE/.bakehouse-cluster" ] || [ -z "$(ls -A "$STATE")" ] || die "$STATE is not a cluster of ours: left as it is"
lock_state
BEGUN=$SECONDS

# First what would start pods again, then the pods, then what watches over them.
step "ending kubelets and controllers"
mapfile -t names < <(processes argocd kubelet proxy scheduler controller-manager coredns); stop "${names[@]}"
step "ending pods"
await 10 no_pods || die "a process of a pod does not end: look under /sys/fs/cgroup/*/bakehouse-node-*"
step "ending containerd, API server and etcd"
mapfile -t names < <(processes containerd apiserver); stop "${names[@]}"
mapfile -t names < <(processes etcd); stop "${names[@]}"
kill_shims
step "removing mounts, network and cgroups"
unmount_state
remove_network
remove_chains
restore_sysctls
remove_log_links
await 10 remove_cgroups || die "these cgroups do not go away: $(cgroup_folders | head -n 3 | tr '\n' ' ')"
step "removing $STATE"
# --one-file-system: whatever is still mounted there is not walked into.
rm -rf --one-file-system "$STATE"
rm -f "$STATE.lock"
say "cluster down in $((SECONDS - BEGUN)) s"
