#!/usr/bin/env bash
# operator.sh [HELM ARGUMENTS...]: installs Bakehouse into the cluster of $KUBECONFIG from charts/bakehouse, with the images of images.sh,
# in the namespace bakehouse-system. Called again, it upgrades; an image that was built again restarts the operator.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

CHART="$PROJECT/charts/bakehouse"
NAMESPACE=bakehouse-system
export KUBECONFIG="${KUBECONFIG:-$ADMIN}"

step "installing the operator"
if [ ! -d "$CHART" ]; then say "   $CHART is not there: left out"; exit 0; fi
"$HERE/components.sh" kube helm
mkdir -p "$CACHE/log"; LOG="$CACHE/log/operator.log"
# The image's tag never changes; its digest in an annotation is what makes pods start again.
"$CACHE/helm-$HELM_VERSION/helm" upgrade --install bakehouse "$CHART" --namespace $NAMESPACE --create-namespace --wait --timeout 2m \
  --set image.registry=bakehouse.dev --set image.repository=operator --set image.tag=e2e \
  --set worker.image.registry=bakehouse.dev --set worker.image.repository=worker --set worker.image.tag=e2e \
  --set-string "podAnnotations.bakehouse\.dev/image=$(sha256sum "$CACHE/images/operator.digest" 2>/dev/null | cut -c1-16)" "$@" >"$LOG" 2>&1 || {
  kubectl -n $NAMESPACE get pods -o wide >>"$LOG" 2>&1 || true
  kubectl -n $NAMESPACE logs -l app.kubernetes.io/name=bakehouse --tail 5 >>"$LOG" 2>&1 || true
  die "helm failed" "$LOG"
}
say "   installed: kubectl -n $NAMESPACE get pods"
