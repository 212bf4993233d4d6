# shellcheck shell=bash
# Certificates and kubeconfigs of the test cluster. One user per component, with the names that Kubernetes' own RBAC rules expect.

# authority NAME COMMON_NAME: a self-signed one. Each step writes the certificate last, so a half-made pair is made again.
authority() {
  [ ! -s "$STATE/pki/$1.crt" ] || return 0
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=$2" \
    -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$STATE/pki/$1.key" -out "$STATE/pki/$1.new" 2>/dev/null
  mv "$STATE/pki/$1.new" "$STATE/pki/$1.crt"
}

# certificate NAME SUBJECT USAGE [ALTERNATIVE_NAMES] [AUTHORITY]
certificate() {
  local pki="$STATE/pki" by="${5:-ca}"
  [ ! -s "$pki/$1.crt" ] || return 0
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/$by.crt" -CAkey "$pki/$by.key" -CAcreateserial -days 365 -out "$pki/$1.new" \
    -extfile <(printf 'keyUsage=digitalSignature\nextendedKeyUsage=%s\n%s\n' "$3" "${4:+subjectAltName=$4}") 2>/dev/null
  mv "$pki/$1.new" "$pki/$1.crt"; rm "$pki/$1.csr"
}

# kubeconfig NAME: for the certificate of that name. The admin's carries its certificates inside, so that it can be copied elsewhere.
kubeconfig() {
  local pki="$STATE/pki" file="$STATE/conf/$1.kubeconfig"
  (umask 077; write "$file" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: bakehouse, cluster: {server: "https://$(node_ip 1):$API_PORT", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}}]
contexts: [{name: bakehouse, context: {cluster: bakehouse, user: $1}}]
current-context: bakehouse
YAML
  )
}

control_plane_identities() {
  local user
  authority ca bakehouse-test-cluster; authority front bakehouse-front-proxy
  if [ ! -s "$STATE/pki/sa.pub" ]; then
    openssl genrsa -out "$STATE/pki/sa.key" 2048 2>/dev/null
    openssl rsa -in "$STATE/pki/sa.key" -pubout -out "$STATE/pki/sa.pub" 2>/dev/null
  fi
  certificate apiserver /CN=kube-apiserver serverAuth "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:$API_SERVICE_IP,IP:127.0.0.1,IP:$(node_ip 1)"
  certificate apiserver-kubelet /O=system:masters/CN=apiserver-kubelet clientAuth
  certificate front-client /CN=front-proxy-client clientAuth '' front
  certificate admin /O=system:masters/CN=admin clientAuth
  certificate controller-manager /CN=system:kube-controller-manager clientAuth
  certificate scheduler /CN=system:kube-scheduler clientAuth
  certificate proxy /CN=system:kube-proxy clientAuth
  certificate coredns /CN=coredns clientAuth
  for user in admin controller-manager scheduler proxy coredns; do kubeconfig $user; done
}

node_identities() { # N
  certificate "node-$1" "/O=system:nodes/CN=system:node:node-$1" clientAuth
  # The API server reaches a kubelet by its address, for logs and exec.
  certificate "node-$1-serving" "/O=system:nodes/CN=system:node:node-$1" serverAuth "DNS:node-$1,IP:$(node_ip "$1")"
  kubeconfig "node-$1"
}
