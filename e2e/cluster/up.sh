#!/usr/bin/env bash
# up.sh [NODES]: a real Kubernetes cluster on this machine: etcd, API server, controller manager, scheduler, kube-proxy, CoreDNS, and
# NODES kubelets (default 2), each with a containerd of its own. Needs root; needs neither systemd nor Docker nor a registry.
#
# Starts what does not run yet: on a running cluster it does nothing, on one that lost a process it starts that one again.
# Prints the path of the kubeconfig as its only line on standard output.
#
#   BAKEHOUSE_CLUSTER          the folder of its state (default /var/lib/bakehouse-cluster)
#   BAKEHOUSE_APISERVER_ARGS   more arguments, for tests of scale: --max-requests-inflight 2000
#   BAKEHOUSE_KCM_ARGS         --kube-api-qps 300 --kube-api-burst 300 --concurrent-job-syncs 50
#   BAKEHOUSE_SCHEDULER_ARGS   --kube-api-qps 300 --kube-api-burst 300
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=pki.sh
source "$HERE/pki.sh"
# shellcheck source=host.sh
source "$HERE/host.sh"
# shellcheck source=node_config.sh
source "$HERE/node_config.sh"
trap_errors

NODES="${1:-2}"
[[ "$NODES" =~ ^[1-9][0-9]?$ ]] || { say "up.sh [NODES]: 1 to 99 nodes, not $NODES"; exit 2; }
BEGUN=$SECONDS
LAUNCHED=0

check_ports() {
  local n
  step "looking for ports that are taken"
  free_port etcd 127.0.0.1 2379; free_port etcd 127.0.0.1 2380
  free_port apiserver "*" $API_PORT
  free_port controller-manager "*" 10257
  free_port scheduler "*" 10259
  free_port proxy 127.0.0.1 10249; free_port proxy 127.0.0.1 10256
  free_port coredns $DNS_IP 53; free_port coredns $DNS_IP 8181
  for n in $(seq "$NODES"); do
    free_port "kubelet-$n" "$(node_ip "$n")" "$(kubelet_port "$n")"
    free_port "kubelet-$n" 127.0.0.1 "$(kubelet_health_port "$n")"
  done
}

start_control_plane() {
  local pki="$STATE/pki" conf="$STATE/conf" more=()
  step "starting etcd"
  # Without fsync: a test cluster that loses power is made again.
  launch etcd etcd --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn --quota-backend-bytes 8589934592 \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380

  step "starting the API server"
  read -ra more <<<"${BAKEHOUSE_APISERVER_ARGS:-}"
  launch apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port $API_PORT --advertise-address "$(node_ip 1)" \
    --service-cluster-ip-range $SERVICE_CIDR --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
    --kubelet-client-certificate "$pki/apiserver-kubelet.crt" --kubelet-client-key "$pki/apiserver-kubelet.key" \
    --kubelet-certificate-authority "$pki/ca.crt" --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
    --requestheader-client-ca-file "$pki/front.crt" --requestheader-username-headers X-Remote-User \
    --requestheader-group-headers X-Remote-Group --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$pki/front-client.crt" --proxy-client-key-file "$pki/front-client.key" --profiling=false "${more[@]}"
  ready apiserver 90 kubectl get --raw /readyz

  step "starting the controller manager and the scheduler"
  read -ra more <<<"${BAKEHOUSE_KCM_ARGS:-}"
  launch controller-manager kube-controller-manager --kubeconfig "$conf/controller-manager.kubeconfig" --leader-elect=false \
    --authentication-kubeconfig "$conf/controller-manager.kubeconfig" --authorization-kubeconfig "$conf/controller-manager.kubeconfig" \
    --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" --use-service-account-credentials \
    --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key" \
    --node-monitor-grace-period 20s --node-monitor-period 2s "${more[@]}"
  read -ra more <<<"${BAKEHOUSE_SCHEDULER_ARGS:-}"
  launch scheduler kube-scheduler --kubeconfig "$conf/scheduler.kubeconfig" --leader-elect=false \
    --authentication-kubeconfig "$conf/scheduler.kubeconfig" --authorization-kubeconfig "$conf/scheduler.kubeconfig" "${more[@]}"
  ! [ $LAUNCHED -gt 0 ] || kubectl apply --server-side -f "$HERE/rbac.yaml" >/dev/null
}

start_containerd() { # N
  launch "containerd-$1" containerd -c "$STATE/node-$1/containerd.toml"
}

start_kubelet() { # N
  local folder="$STATE/node-$1"
  launch "kubelet-$1" kubelet --config "$folder/kubelet.yaml" --kubeconfig "$STATE/conf/node-$1.kubeconfig" --hostname-override "node-$1" \
    --node-ip "$(node_ip "$1")" --root-dir "$folder/kubelet" --cert-dir "$folder/kubelet/pki" --node-labels "bakehouse.dev/test-node=$1"
}

start_nodes() {
  local n
  step "starting containerd for $NODES nodes"
  printf 'nameserver %s\n' $DNS_IP >"$STATE/conf/resolv.conf"
  for n in $(seq "$NODES"); do
    node_identities "$n"; node_files "$n"; make_cgroup "$n"; start_containerd "$n"
  done
  for n in $(seq "$NODES"); do ready "containerd-$n" 60 ctr -a "$(node_socket "$n")" version; done
  "$HERE/images.sh" pause
  step "starting $NODES kubelets"
  for n in $(seq "$NODES"); do start_kubelet "$n"; done
}

# One kube-proxy and one CoreDNS serve all nodes: they share the host's network.
start_network() {
  step "starting kube-proxy"
  write "$STATE/conf/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
iptables: {masqueradeAll: $(has_bridge_filter && echo false || echo true)}
clusterCIDR: $POD_CIDR
clientConnection: {kubeconfig: $STATE/conf/proxy.kubeconfig}
hostnameOverride: node-1
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
YAML
  launch proxy kube-proxy --config "$STATE/conf/proxy.yaml"
  step "starting CoreDNS"
  write "$STATE/conf/Corefile" <<CONF
.:53 {
  bind $DNS_IP
  errors
  ready $DNS_IP:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $STATE/conf/coredns.kubeconfig bakehouse
  }
  cache 5
}
CONF
  launch coredns "$CACHE/coredns-$COREDNS_VERSION/coredns" -conf "$STATE/conf/Corefile"
}

node_is_ready() { [ "$(kubectl get node "node-$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]; }
dns_is_ready() { (exec 3<>"/dev/tcp/$DNS_IP/8181" && printf 'GET /ready HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3 | grep -q ' 200 ') 2>/dev/null; }

wait_until_usable() {
  local n
  step "waiting for $NODES nodes to be Ready"
  for n in $(seq "$NODES"); do ready "kubelet-$n" 90 node_is_ready "$n"; done
  step "waiting for CoreDNS"
  ready coredns 60 dns_is_ready
  # The first pod needs its account, which the controller manager makes.
  step "waiting for the default service account"
  ready controller-manager 60 kubectl get serviceaccount default
}

need_root
if [ -d "$STATE" ] && [ ! -e "$STATE/.bakehouse-cluster" ] && [ -n "$(ls -A "$STATE")" ]; then
  die "$STATE is not empty and not a cluster of ours: name another folder by BAKEHOUSE_CLUSTER"
fi
"$HERE/components.sh" packages kube coredns
lock_state
export KUBECONFIG="$ADMIN"

# Before there is a state folder: bridges and cgroups have one name per machine, and `down.sh` on a folder that never got as far as
# this must not take those of another cluster.
check_ports
check_addresses
mkdir -p "$STATE"/{pki,log,run,conf}; chmod 700 "$STATE"; touch "$STATE/.bakehouse-cluster"
step "preparing certificates and the network"
remember_host
make_network "$NODES"
control_plane_identities
start_control_plane
start_nodes
start_network
wait_until_usable

if [ $LAUNCHED -gt 0 ]; then say "cluster up with $NODES nodes: $LAUNCHED processes started in $((SECONDS - BEGUN)) s"
else say "cluster already up with $NODES nodes: nothing to do"; fi
echo "$ADMIN"
