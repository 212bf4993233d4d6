#!/usr/bin/env bash
# scale.sh [OPTIONS...]: the scale benchmark on the test cluster, whose components are started with more requests a second than their
# defaults of 5 to 50: otherwise it would measure those. OPTIONS go to the benchmark: --jobs 2000 --rate 5 --ends kwok|patches --rest 60.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=cluster/lib.sh
source e2e/cluster/lib.sh
trap_errors

export BAKEHOUSE_APISERVER_ARGS="${BAKEHOUSE_APISERVER_ARGS:---max-requests-inflight 2000 --max-mutating-requests-inflight 1000}"
export BAKEHOUSE_KCM_ARGS="${BAKEHOUSE_KCM_ARGS:---kube-api-qps 1000 --kube-api-burst 2000 --concurrent-job-syncs 50}"
export BAKEHOUSE_SCHEDULER_ARGS="${BAKEHOUSE_SCHEDULER_ARGS:---kube-api-qps 1000 --kube-api-burst 2000}"

e2e/cluster/components.sh packages kube coredns kwok
# Arguments count when a process starts.
e2e/cluster/down.sh
KUBECONFIG="$(e2e/cluster/up.sh 1)"
export KUBECONFIG
export PATH="$CACHE/kwok-$KWOK_VERSION:$PATH"
kubectl apply --server-side -f crds/ >/dev/null
cargo bench --locked --no-default-features --features operator --bench scale -- "$@"
