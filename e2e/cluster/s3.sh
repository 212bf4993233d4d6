#!/usr/bin/env bash
# s3.sh NAMESPACE [BUCKET...]: runs an S3 store as Service `s3` in NAMESPACE, with the buckets named (default: models).
# Works in any cluster of $KUBECONFIG that has the image bakehouse.dev/versitygw:e2e (images.sh versitygw).
#
# Made when they are missing, and used as they are when a caller made them before:
#   Secret s3-credentials   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: as spec.storage.credentials takes them
#   Secret s3-tls           certificate of the https door, from an authority made here
#   ConfigMap s3-ca         ca.crt: that authority, as spec.storage.caBundle takes it
#
# Prints, for `eval` or to read:
#   S3_HTTP, S3_HTTPS       endpoints for pods
#   S3_ADDRESS              the Service's ClusterIP. On this machine's own cluster the host reaches it:
#                             curl http://$S3_ADDRESS:9000/health
#                             curl --cacert ca.crt --resolve s3.$NAMESPACE.svc:9443:$S3_ADDRESS https://s3.$NAMESPACE.svc:9443/health
#                           elsewhere: kubectl -n NAMESPACE port-forward service/s3 9000
#   S3_ACCESS_KEY, S3_SECRET_KEY
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

[ $# -ge 1 ] || { say "s3.sh NAMESPACE [BUCKET...]"; exit 2; }
NAMESPACE="$1"; shift
[ $# -gt 0 ] || set -- models
export KUBECONFIG="${KUBECONFIG:-$ADMIN}"
command -v curl >/dev/null || die "needs curl"
WORK="$(mktemp -d)"
FORWARD=
trap '[ -z "$FORWARD" ] || kill "$FORWARD" 2>/dev/null; rm -rf "$WORK"' EXIT

k() { kubectl -n "$NAMESPACE" "$@"; }
has() { k get "$@" >/dev/null 2>&1; }
secret_value() { k get secret s3-credentials -o "jsonpath={.data.$1}" | base64 -d; }

make_credentials() {
  has secret s3-credentials || k create secret generic s3-credentials --from-literal=AWS_ACCESS_KEY_ID=bakehouse \
    --from-literal=AWS_SECRET_ACCESS_KEY="$(openssl rand -hex 20)" >/dev/null
}

make_certificate() {
  if has secret s3-tls && has configmap s3-ca; then return; fi
  (
    cd "$WORK"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=bakehouse test authority" \
      -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.crt
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=s3 -keyout tls.key -out tls.csr
    openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out tls.crt -extfile \
      <(printf 'extendedKeyUsage=serverAuth\nsubjectAltName=DNS:s3,DNS:s3.%s,DNS:s3.%s.svc,DNS:s3.%s.svc.cluster.local\n' "$NAMESPACE" "$NAMESPACE" "$NAMESPACE")
  ) 2>"$WORK/openssl.log" || die "openssl failed" "$WORK/openssl.log"
  k create secret tls s3-tls --cert "$WORK/tls.crt" --key "$WORK/tls.key" --dry-run=client -o yaml | k apply -f - >/dev/null
  k create configmap s3-ca --from-file "$WORK/ca.crt" --dry-run=client -o yaml | k apply -f - >/dev/null
}

bucket_made() {
  local port="$1" bucket="$2"
  CODE="$(curl -sS --max-time 10 -o "$WORK/answer" -w '%{http_code}' --aws-sigv4 aws:amz:us-east-1:s3 -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --user "$ACCESS:$SECRET" -X PUT "http://127.0.0.1:$port/$bucket" 2>>"$WORK/answer")" || true
  case "$CODE" in 200 | 409) ;; *) return 1 ;; esac
}

# Through the API server, so that it works wherever kubectl does.
make_buckets() {
  local port bucket
  k port-forward service/s3 :9000 >"$WORK/forward.log" 2>&1 &
  FORWARD=$!
  await 20 grep -q 'Forwarding from 127.0.0.1' "$WORK/forward.log" || die "no way to the service" "$WORK/forward.log"
  port="$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$WORK/forward.log")"
  for bucket in "$@"; do
    # A machine that is busy drops a forwarded connection now and then.
    await 20 bucket_made "$port" "$bucket" || die "bucket $bucket: HTTP $CODE" "$WORK/answer"
  done
}

step "S3 store in namespace $NAMESPACE"
kubectl get namespace "$NAMESPACE" >/dev/null 2>&1 || kubectl create namespace "$NAMESPACE" >/dev/null
make_credentials
make_certificate
k apply -f "$HERE/s3.yaml" >/dev/null
k rollout status deployment/s3 --timeout=180s >"$WORK/rollout.log" 2>&1 ||
  { k describe pods -l app=s3 2>/dev/null | tail -n 12 >>"$WORK/rollout.log"; die "the store does not get ready" "$WORK/rollout.log"; }
ACCESS="$(secret_value AWS_ACCESS_KEY_ID)" SECRET="$(secret_value AWS_SECRET_ACCESS_KEY)"
make_buckets "$@"
cat <<OUT
S3_HTTP=http://s3.$NAMESPACE.svc:9000
S3_HTTPS=https://s3.$NAMESPACE.svc:9443
S3_ADDRESS=$(k get service s3 -o 'jsonpath={.spec.clusterIP}')
S3_ACCESS_KEY=$ACCESS
S3_SECRET_KEY=$SECRET
OUT
