#!/usr/bin/env bash
# next.sh: what to type after `make cluster`.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cat <<OUT

The cluster is up. Next:

  export KUBECONFIG=$ADMIN
  export PATH=$CACHE/kube-$KUBE_VERSION:\$PATH      # kubectl $KUBE_VERSION
  kubectl get nodes
  kubectl -n bakehouse-system get pods
  eval "\$(e2e/cluster/s3.sh default)"                # an S3 store; its endpoint for pods is then \$S3_HTTP
$(cd "$PROJECT" && for example in examples/cluster/*.yaml; do [ ! -e "$example" ] || echo "  kubectl apply -f $example"; done)
  kubectl get bakejobs --watch
  make cluster-down
OUT
