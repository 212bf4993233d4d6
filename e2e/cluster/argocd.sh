#!/usr/bin/env bash
# argocd.sh [start | stop]: Argo CD for the cluster of up.sh, as processes of this machine: Redis, a Git daemon, the repository server and
# the application controller. Its Applications lie in the namespace argocd, with the health check of deploy/argocd.
#
# `start` starts what does not run yet, and prints, for `eval` or to read:
#   GIT_FOLDER   where a test makes its bare repositories: git init --bare $GIT_FOLDER/NAME.git
#   GIT_URL      where Argo CD finds them: $GIT_URL/NAME.git
# `stop` ends the processes and removes Applications, namespace and CRDs; so does down.sh with the rest of the cluster.
# Exit codes: 75 when its source cannot be had here, 1 for everything else.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

NAMESPACE=argocd
ARGOCD="$CACHE/argocd-$ARGOCD_VERSION"
FOLDER="$STATE/argocd"
REDIS_PORT=16379 GIT_PORT=19418 REPO_PORT=18081 REPO_METRICS_PORT=18084 METRICS_PORT=18082
HEALTH="$PROJECT/deploy/argocd"
PROCESSES=(argocd-controller argocd-repo-server argocd-git argocd-redis)
export KUBECONFIG="$ADMIN"

# apply [ARGUMENTS...]: says nothing when all is well.
apply() {
  kubectl apply --server-side --force-conflicts --field-manager bakehouse-e2e "$@" >"$LOG" 2>&1 || die "the API server refuses it" "$LOG"
}

check_namespace() {
  local owner
  owner="$(kubectl get namespace $NAMESPACE --ignore-not-found -o 'jsonpath={.metadata.name}/{.metadata.labels.bakehouse\.dev/e2e}')"
  case "$owner" in "" | "$NAMESPACE/argocd") ;; *) die "the namespace $NAMESPACE is somebody else's: left as it is" ;; esac
}

configure() {
  step "configuring Argo CD"
  check_namespace
  apply -k "$ARGOCD/manifests/crds"
  apply -f - <<YAML
{apiVersion: v1, kind: Namespace, metadata: {name: $NAMESPACE, labels: {bakehouse.dev/e2e: argocd}}}
YAML
  kubectl apply --server-side -n $NAMESPACE -k "$ARGOCD/manifests/base/config" >"$LOG" 2>&1 || die "the API server refuses it" "$LOG"
  # As deploy/argocd/README.md says.
  kubectl -n $NAMESPACE create configmap argocd-cm --dry-run=client -o yaml \
    --from-file="resource.customizations.health.bakehouse.dev_BakeJob=$HEALTH/health.lua" \
    --from-literal='resource.customizations.ignoreResourceUpdates.bakehouse.dev_BakeJob=jsonPointers: [/status/progress, /status/stage, /status/stages, /status/queuePosition]' \
    --from-literal='resource.inclusions=[{apiGroups: ["", batch, bakehouse.dev], kinds: [ConfigMap, Pod, Job, BakeJob], clusters: ["*"]}]' |
    apply -n $NAMESPACE -f -
  apply -f - <<YAML
apiVersion: v1
kind: Secret
metadata: {name: argocd-secret, namespace: $NAMESPACE}
stringData: {server.secretkey: of-a-test-cluster}
---
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: default, namespace: $NAMESPACE}
spec:
  sourceRepos: ["*"]
  destinations: [{namespace: "*", server: "*"}]
  clusterResourceWhitelist: [{group: "*", kind: "*"}]
YAML
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start_processes() {
  local common=(env ARGOCD_GPG_ENABLED=false ARGOCD_FAKE_IN_CLUSTER=true HOME="$FOLDER/home" TMPDIR="$FOLDER/tmp" PATH="$PATH")
  step "starting Argo CD"
  free_port argocd-redis 127.0.0.1 $REDIS_PORT; free_port argocd-git 127.0.0.1 $GIT_PORT; free_port argocd-repo-server 127.0.0.1 $REPO_PORT
  free_port argocd-repo-server 127.0.0.1 $REPO_METRICS_PORT; free_port argocd-controller "*" $METRICS_PORT
  mkdir -p "$FOLDER"/{git,tmp,home/.kube}
  ln -sf "$ADMIN" "$FOLDER/home/.kube/config"
  # A repository belongs to whoever runs the tests.
  write "$FOLDER/home/.gitconfig" <<<'[safe]
	directory = *'
  launch argocd-redis redis-server --port $REDIS_PORT --bind 127.0.0.1 --save '' --appendonly no --dir "$FOLDER/tmp"
  launch argocd-git env HOME="$FOLDER/home" "$(git --exec-path)/git-daemon" --listen=127.0.0.1 --port=$GIT_PORT --reuseaddr --export-all \
    --base-path="$FOLDER/git" "$FOLDER/git"
  ready argocd-redis 20 listens $REDIS_PORT
  launch argocd-repo-server "${common[@]}" "$ARGOCD/argocd-repo-server" --address 127.0.0.1 --port $REPO_PORT --disable-tls \
    --metrics-address 127.0.0.1 --metrics-port $REPO_METRICS_PORT --redis 127.0.0.1:$REDIS_PORT --revision-cache-expiration 3s --loglevel warn
  ready argocd-git 20 listens $GIT_PORT
  ready argocd-repo-server 60 listens $REPO_PORT
  # Applications are looked at every five seconds, not every two minutes.
  launch argocd-controller "${common[@]}" "$ARGOCD/argocd-application-controller" --kubeconfig "$ADMIN" -n $NAMESPACE \
    --redis 127.0.0.1:$REDIS_PORT --repo-server 127.0.0.1:$REPO_PORT --repo-server-plaintext --metrics-port $METRICS_PORT \
    --app-resync 5 --app-resync-jitter 0 --persist-resource-health --status-processors 4 --operation-processors 4
  ready argocd-controller 60 listens $METRICS_PORT
}

start() {
  "$HERE/components.sh" argocd || exit $?
  lock_state
  [ -s "$STATE/run/apiserver.process" ] || die "there is no cluster in $STATE: up.sh"
  LOG="$STATE/log/argocd-install.log"
  configure
  start_processes
  say "   Argo CD runs: kubectl -n $NAMESPACE get applications"
  printf 'GIT_FOLDER=%s\nGIT_URL=git://127.0.0.1:%s\n' "$FOLDER/git" $GIT_PORT
}

# Without their controller, nobody takes the finalizers off.
forget() { # RESOURCE
  local name
  kubectl -n $NAMESPACE get "$1" -o name 2>/dev/null | while read -r name; do
    kubectl -n $NAMESPACE patch "$name" --type=merge -p '{"metadata": {"finalizers": null}}' >/dev/null
  done
}

stop() {
  lock_state
  step "ending Argo CD"
  end TERM 10 "${PROCESSES[@]}" || end KILL 10 "${PROCESSES[@]}" || die "a process does not end even when killed"
  check_namespace
  forget applications.argoproj.io
  forget appprojects.argoproj.io
  LOG="$STATE/log/argocd-install.log"
  kubectl delete --ignore-not-found --timeout=60s -k "$ARGOCD/manifests/crds" >"$LOG" 2>&1 || die "the CRDs do not go" "$LOG"
  kubectl delete namespace $NAMESPACE --ignore-not-found --timeout=60s >"$LOG" 2>&1 || die "its namespace does not go" "$LOG"
  rm -rf "$FOLDER"
}

need_root
case "${1:-start}" in
  start) start ;;
  stop) stop ;;
  *) say "argocd.sh [start | stop]"; exit 2 ;;
esac
