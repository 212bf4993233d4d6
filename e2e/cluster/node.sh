#!/usr/bin/env bash
# node.sh kill N | start N | gpu N COUNT: what tests do to node-N.
#
#   kill N        kills its kubelet: NotReady after about 24 s. Its containers go on, as on a node that lost its network
#   start N       starts the kubelet again, with the same arguments
#   gpu N COUNT   gives it COUNT (pretended) NVIDIA GPUs and the labels of GPU feature discovery; 0 takes them away.
#                 BAKEHOUSE_GPU=PRODUCT,MIB,MAJOR,MINOR says which (default NVIDIA-H100-80GB-HBM3,81559,9,0)
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

has_gpus() { [ "$(kubectl get node "$1" -o 'jsonpath={.status.allocatable.nvidia\.com/gpu}')" = "$2" ]; }

give_gpus() { # NODE COUNT
  local product memory major minor
  IFS=, read -r product memory major minor <<<"${BAKEHOUSE_GPU:-NVIDIA-H100-80GB-HBM3,81559,9,0}"
  kubectl patch node "$1" --subresource=status --type=json -p "[{\"op\": \"add\", \"path\": \"/status/capacity/nvidia.com~1gpu\", \"value\": \"$2\"}]" >/dev/null
  kubectl label node "$1" --overwrite nvidia.com/gpu.product="$product" nvidia.com/gpu.memory="$memory" nvidia.com/gpu.count="$2" \
    nvidia.com/gpu.compute.major="$major" nvidia.com/gpu.compute.minor="$minor" feature.node.kubernetes.io/pci-10de.present=true >/dev/null
  # The kubelet derives what may be allocated from the capacity, at its next heartbeat.
  await 30 has_gpus "$1" "$2" || die "$1 does not offer its GPUs: does its kubelet run?"
}

take_gpus() { # NODE
  if [ -n "$(kubectl get node "$1" -o 'jsonpath={.status.capacity.nvidia\.com/gpu}')" ]; then
    kubectl patch node "$1" --subresource=status --type=json -p '[{"op": "remove", "path": "/status/capacity/nvidia.com~1gpu"}]' >/dev/null
  fi
  kubectl label node "$1" nvidia.com/gpu.product- nvidia.com/gpu.memory- nvidia.com/gpu.count- nvidia.com/gpu.compute.major- \
    nvidia.com/gpu.compute.minor- feature.node.kubernetes.io/pci-10de.present- >/dev/null
  await 30 has_gpus "$1" '' || die "$1 still offers GPUs: does its kubelet run?"
}

if [ $# -lt 2 ] || ! [[ "$2" =~ ^[0-9]+$ ]]; then usage; fi
N="$2" NODE="node-$2"
export KUBECONFIG="$ADMIN"
STEP="$1 $NODE"
case "$1 $#" in
  "kill 2" | "start 2")
    need_root; lock_state
    [ -s "$STATE/run/kubelet-$N.command" ] || die "there is no such node in $STATE"
    if [ "$1" = kill ]; then end KILL 10 "kubelet-$N" || die "its kubelet does not end"; else launch "kubelet-$N"; fi ;;
  "gpu 3")
    [[ "$3" =~ ^[0-9]+$ ]] || usage
    if [ "$3" = 0 ]; then take_gpus "$NODE"; else give_gpus "$NODE" "$3"; fi ;;
  *) usage ;;
esac
