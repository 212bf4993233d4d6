# shellcheck shell=bash
# The files of one node: network, containerd and kubelet. Nodes share the host's kernel, memory and addresses, and nothing else.

PAUSE_IMAGE=bakehouse.dev/pause:e2e

node_files() { # N
  local n="$1" folder="$STATE/node-$1"
  mkdir -p "$folder/cni" "$folder/images"
  write "$folder/cni/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "bakehouse-$n", "plugins": [
  {"type": "bridge", "bridge": "bakehouse$n", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$folder/ipam", "ranges": [[{"subnet": "10.244.$n.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  # Network namespaces are mounted under the state folder, so that `down.sh` finds them after a crash too.
  write "$folder/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
state = "$folder/run"
[grpc]
  address = "$(node_socket "$n")"
[plugins."io.containerd.internal.v1.opt"]
  path = "$folder/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "runc"
      SystemdCgroup = false
TOML
  # Heartbeats are fast, so that a test of a lost node does not wait for minutes. Disk pressure is off: this host's disk is not the cluster's.
  write "$folder/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_ip "$n")
port: $(kubelet_port "$n")
healthzPort: $(kubelet_health_port "$n")
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $STATE/pki/node-$n-serving.crt
tlsPrivateKeyFile: $STATE/pki/node-$n-serving.key
cgroupDriver: cgroupfs
cgroupRoot: /bakehouse-node-$n
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix://$(node_socket "$n")
clusterDomain: cluster.local
clusterDNS: [$DNS_IP]
resolvConf: $STATE/conf/resolv.conf
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
evictionPressureTransitionPeriod: 10s
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 10
syncFrequency: 5s
volumePluginDir: $folder/volume-plugins
podLogsDir: $folder/pod-logs
YAML
}
