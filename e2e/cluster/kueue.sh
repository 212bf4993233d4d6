#!/usr/bin/env bash
# kueue.sh [install | uninstall]: Kueue in the cluster of $KUBECONFIG, from its own chart, in the namespace kueue-system.
#
# It looks after Jobs of namespaces with the label bakehouse.dev/kueue=managed and of no other: everywhere else its webhooks are not even
# asked, so that a Kueue that is down stops nobody. A Kueue that somebody else has installed is used as it is, and never uninstalled.
# `uninstall` deletes the Jobs and BakeJobs of its queues too.
# Exit codes: 75 when its source cannot be had here, 1 for everything else.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

NAMESPACE=kueue-system
export KUBECONFIG="${KUBECONFIG:-$ADMIN}"
KUEUE="$CACHE/kueue-$KUEUE_VERSION"
LOG="$CACHE/log/kueue-install.log"
helm() { "$CACHE/helm-$HELM_VERSION/helm" --namespace $NAMESPACE "$@"; }

ours() { helm status kueue; }
present() { kubectl get crd clusterqueues.kueue.x-k8s.io; }

values() {
  cat <<YAML
controllerManager:
  featureGates: [{name: VisibilityOnDemand, enabled: false}]
  manager:
    image: {repository: bakehouse.dev/kueue, tag: e2e, pullPolicy: Never}
    resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {cpu: null, memory: 512Mi}}
  readinessProbe: {initialDelaySeconds: 1, periodSeconds: 1}
managerConfig:
  controllerManagerConfigYaml: |-
    apiVersion: config.kueue.x-k8s.io/v1beta2
    kind: Configuration
    health: {healthProbeBindAddress: ":8081"}
    metrics: {bindAddress: ":8443"}
    webhook: {port: 9443}
    leaderElection: {leaderElect: true, resourceName: c1f6bfd2.kueue.x-k8s.io}
    manageJobsWithoutQueueName: false
    managedJobsNamespaceSelector: {matchLabels: {bakehouse.dev/kueue: managed}}
    integrations: {frameworks: [batch/job]}
YAML
}

# The chart without its aggregated API: while the server behind one does not answer, no namespace of the cluster can be deleted.
chart() { # FOLDER
  cp -r "$KUEUE/charts/kueue" "$1/kueue"
  chmod -R u+w "$1"
  rm -r "$1"/kueue/templates/visibility "$1"/kueue/templates/visibility-apf
}

# Its webhooks answer when one of them lets an object pass: they are asked in a dry run too.
answers() {
  kubectl create --dry-run=server -f - <<YAML
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {name: bakehouse-check}
YAML
}

install() {
  local mark
  "$HERE/components.sh" kueue || exit $?
  "$HERE/components.sh" helm
  if present >/dev/null 2>&1 && ! ours >/dev/null 2>&1; then say "   Kueue is there, by somebody else: used as it is"; return; fi
  "$HERE/images.sh" kueue
  step "installing Kueue $KUEUE_VERSION"
  # Helm would render and compare for seconds to find that nothing has changed. The mark is of all that goes in.
  mark="$({ values; echo "$KUEUE_VERSION"; cat "$CACHE/images/kueue.digest"; } | sha256sum | cut -c1-16)"
  if ! ours 2>/dev/null | grep -q '^STATUS: deployed' || [ "$(kubectl get namespace $NAMESPACE -o 'jsonpath={.metadata.labels.bakehouse\.dev/mark}')" != "$mark" ]; then
    mkdir -p "$CACHE/log"
    WORK="$(mktemp -d)"; trap 'rm -rf "$WORK"' EXIT
    chart "$WORK"
    values | helm upgrade --install kueue "$WORK/kueue" --create-namespace --timeout 2m -f - >"$LOG" 2>&1 || die "helm failed" "$LOG"
    kubectl label namespace $NAMESPACE --overwrite "bakehouse.dev/mark=$mark" >/dev/null
  fi
  kubectl -n $NAMESPACE rollout status deployment/kueue-controller-manager --timeout=90s >"$LOG" 2>&1 || {
    kubectl -n $NAMESPACE logs deployment/kueue-controller-manager --tail 10 >>"$LOG" 2>&1 || true
    die "it does not get ready" "$LOG"
  }
  step "waiting for Kueue's webhooks"
  await 60 answers || { answers >"$LOG" 2>&1 || true; die "they do not answer" "$LOG"; }
  say "   installed: kubectl -n $NAMESPACE get pods"
}

# What it looks after goes first: Kueue takes its finalizers off Workloads and queues, and only while it runs.
uninstall() {
  local kind kinds=jobs
  step "uninstalling Kueue"
  if ! [ -x "$CACHE/helm-$HELM_VERSION/helm" ] || ! ours >/dev/null 2>&1; then say "   it is not there, or not ours"; return; fi
  mkdir -p "$CACHE/log"
  ! kubectl get crd bakejobs.bakehouse.dev >/dev/null 2>&1 || kinds=bakejobs,jobs
  kubectl delete $kinds --all-namespaces -l kueue.x-k8s.io/queue-name --timeout=90s >"$LOG" 2>&1 || die "Jobs of its queues do not go" "$LOG"
  for kind in localqueues clusterqueues resourceflavors; do
    kubectl delete "$kind.kueue.x-k8s.io" --all --all-namespaces --timeout=30s >"$LOG" 2>&1 || die "the $kind do not go" "$LOG"
  done
  helm uninstall kueue --wait --timeout 2m >"$LOG" 2>&1 || die "helm failed" "$LOG"
  kubectl delete namespace $NAMESPACE --timeout=60s >"$LOG" 2>&1 || die "its namespace does not go" "$LOG"
}

case "${1:-install}" in
  install) install ;;
  uninstall) uninstall ;;
  *) say "kueue.sh [install | uninstall]"; exit 2 ;;
esac
