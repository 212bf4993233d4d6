#!/usr/bin/env bash
# check.sh [nodes]: does the cluster do what the tests build on? Each line is one promise. With `nodes`, a node is lost and comes back
# and GPUs are pretended, which takes a minute more. Needs the images of images.sh.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors
export KUBECONFIG="$ADMIN"
NAMESPACE=bakehouse-check
k() { kubectl -n $NAMESPACE "$@"; }
promise() { STEP="$*"; }
kept() { echo "ok  $STEP"; }
equal() { [ "$1" = "$2" ] || die "got \"$1\", not \"$2\""; }
state() { k get pod "$1" -o "jsonpath={.status.containerStatuses[0].state.terminated.$2}"; }
finished() { [ -n "$(state "$1" exitCode)" ]; }

pod() { # NAME NODE IMAGE [COMMAND...]
  local name="$1" node="$2" image="$3" arguments=""; shift 3
  [ $# -eq 0 ] || arguments="args: [$(printf '"%s",' "$@")]"
  k apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $name, labels: {name: $name}}
spec:
  nodeName: $node
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: main
    image: bakehouse.dev/$image:e2e
    imagePullPolicy: Never
    $arguments
    resources: {limits: {memory: 256Mi}}
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: tmp, mountPath: /tmp}]
  volumes: [{name: tmp, emptyDir: {}}]
YAML
}

kubectl delete namespace $NAMESPACE --ignore-not-found >/dev/null
kubectl create namespace $NAMESPACE >/dev/null
trap 'kubectl delete namespace $NAMESPACE --wait=false >/dev/null 2>&1' EXIT
await 20 k get serviceaccount default

promise "a restricted pod runs on each node"
pod web node-1 busybox sh -c "echo hello >/tmp/index.html; echo started; exec httpd -f -p 8000 -h /tmp"
pod near node-1 busybox sleep 3600
pod far node-2 busybox sleep 3600
k wait --for=condition=Ready pod/web pod/near pod/far --timeout=60s >/dev/null; kept
promise "its log can be read"
equal "$(k logs web)" started; kept
promise "a service name is found, from the same node, from another one and by the pod itself"
k expose pod web --port 80 --target-port 8000 >/dev/null
address="$(k get service web -o 'jsonpath={.spec.clusterIP}')"
await 20 k exec near -- nslookup web.$NAMESPACE.svc.cluster.local
for client in near far web; do equal "$(k exec $client -- wget -qO- "http://web.$NAMESPACE.svc/")" hello; done; kept
promise "this machine reaches a service by its address"
equal "$(curl -sS --max-time 5 "http://$address/")" hello; kept
promise "a pod over its memory limit is OOMKilled with exit code 137"
pod hungry node-2 busybox sh -c "head -c 512m /dev/zero | tail"
await 30 finished hungry || die "it goes on"
equal "$(state hungry reason) $(state hungry exitCode)" "OOMKilled 137"; kept
promise "operator and worker run without root and without a writable root"
for image in operator worker; do
  pod "$image-version" node-1 $image --version
  await 30 finished "$image-version" || die "bakehouse --version does not end"
  equal "$(state "$image-version" exitCode) $(k logs "$image-version" | cut -d' ' -f1)" "0 bakehouse"
done; kept
promise "a worker without an assignment says so and ends with code 2"
pod idle node-2 worker worker
await 30 finished idle || die "it waits"
equal "$(state idle exitCode)" 2; k logs idle | grep -qi assign || die "its log says: $(k logs idle)"; kept
[ "${1:-}" = nodes ] || exit 0

promise "GPUs are pretended"
"$HERE/node.sh" gpu 2 2
k apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: gpu}
spec: {containers: [{name: main, image: "bakehouse.dev/busybox:e2e", command: [sleep, "3600"], resources: {limits: {nvidia.com/gpu: 1}}}], terminationGracePeriodSeconds: 0}
YAML
k wait --for=condition=Ready pod/gpu --timeout=30s >/dev/null
equal "$(k get pod gpu -o 'jsonpath={.spec.nodeName}')" node-2
"$HERE/node.sh" gpu 2 0; kept
promise "a node whose kubelet was killed is lost, and comes back"
"$HERE/node.sh" kill 2
kubectl wait --for=condition=Ready=Unknown node/node-2 --timeout=60s >/dev/null
"$HERE/node.sh" start 2
kubectl wait --for=condition=Ready node/node-2 --timeout=60s >/dev/null; kept
