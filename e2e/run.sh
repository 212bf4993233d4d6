#!/usr/bin/env bash
# run.sh [CASES...]: the cases of e2e/ on a real cluster. With CASES, those whose names contain one of the words.
#
# Brings up the test cluster of e2e/cluster (or uses $KUBECONFIG), loads images of the binaries that were built, installs the operator
# with Helm, and runs the cases. The cluster goes down at the end, unless it was up before or KEEP=1 is set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=cluster/lib.sh
source e2e/cluster/lib.sh
trap_errors

e2e/cluster/binaries.sh

down() { :; }
if [ -z "${KUBECONFIG:-}" ]; then
  export BAKEHOUSE_E2E_OWN_CLUSTER=1
  e2e/cluster/components.sh
  # Their cases skip themselves where these cannot be had (code 75).
  for optional in kueue argocd; do e2e/cluster/components.sh "$optional" || [ $? = 75 ]; done
  if [ ! -e "$STATE/run/apiserver.process" ] && [ -z "${KEEP:-}" ]; then
    down() { e2e/cluster/down.sh; }
  fi
  trap 'down' EXIT
  KUBECONFIG="$(e2e/cluster/up.sh 2)"
  export KUBECONFIG
  e2e/cluster/images.sh
fi
export PATH="$CACHE/kube-$KUBE_VERSION:$CACHE/helm-$HELM_VERSION:$PATH"
step "charts and manifests"
# Before the operator is installed: every variant is sent to this API server as a dry run.
BAKEHOUSE_KUBECONFIG="$KUBECONFIG" scripts/packaging.sh

e2e/cluster/operator.sh -f e2e/values.yaml

step "running the cases"
cargo test --locked --test e2e -- --test-threads "${CASES_SIDE_BY_SIDE:-4}" --show-output "$@"
