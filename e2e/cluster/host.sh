# shellcheck shell=bash
# What a cluster changes on its host beside files and processes: sysctls, bridges, cgroups, chains of iptables, mounts.
# Each is remembered or recognised by name, so that `down.sh` leaves the host as `up.sh` found it.

# Set here, by kubelets (vm, kernel) and by kube-proxy (route_localnet).
SYSCTLS=(net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables net.ipv4.conf.all.route_localnet vm.overcommit_memory vm.panic_on_oom
  kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

cluster_chains() { # prints "TOOL TABLE CHAIN" of every chain that Kubernetes or CNI plugins may have made
  local tool table
  for tool in iptables ip6tables; do
    for table in mangle nat filter; do
      "$tool" -t "$table" -S 2>/dev/null | awk -v at="$tool $table" '$1 == "-N" && $2 ~ /^(KUBE|CNI)-/ {print at, $2}' || true
    done
  done
}

remember_host() {
  local name
  mkdir -p "$STATE/host"
  if [ ! -e "$STATE/host/sysctls" ]; then
    for name in "${SYSCTLS[@]}"; do sysctl -e "$name" 2>/dev/null || true; done >"$STATE/host/sysctls.new"
    mv "$STATE/host/sysctls.new" "$STATE/host/sysctls"
  fi
  if [ ! -e "$STATE/host/chains" ]; then
    cluster_chains >"$STATE/host/chains.new"
    mv "$STATE/host/chains.new" "$STATE/host/chains"
  fi
}

# Addresses that are taken here would be cut off, the machine's own way out among them.
check_addresses() {
  local prefix taken
  for prefix in "${NODE_PREFIX}." "${POD_CIDR%.0.0/16}." "${SERVICE_CIDR%.0.0/16}."; do
    taken="$({ ip -4 -o address; ip -4 route; } | grep -v bakehouse | grep -m 1 -F " $prefix" || true)"
    [ -z "$taken" ] && taken="$(ip -4 route | grep -v bakehouse | grep -m 1 "^${prefix//./\\.}" || true)"
    [ -z "$taken" ] || die "the cluster's addresses $prefix* are in use on this machine: $(tr -s ' ' <<<"$taken")"
  done
}

# The node addresses sit on a bridge without ports: that needs no `dummy` device, which small kernels lack.
make_network() { # NODES
  local n
  ip link show bakehouse0 >/dev/null 2>&1 || ip link add bakehouse0 type bridge
  ip link set bakehouse0 up
  for n in $(seq "$1"); do ip address replace "$(node_ip "$n")/32" dev bakehouse0; done
  sysctl -qw net.ipv4.ip_forward=1
  modprobe br_netfilter 2>/dev/null || true
  if has_bridge_filter; then sysctl -qw net.bridge.bridge-nf-call-iptables=1; fi
}

# Without it, an answer between two pods of one bridge passes iptables by, and a ClusterIP would not be translated back.
has_bridge_filter() { [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; }

on_cgroup_v2() { [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; }

# The kubelet wants its root in every hierarchy, and runc fails obscurely ("can't get final child's PID") where cpuset is empty.
make_cgroup() { # N
  local hierarchy file name="bakehouse-node-$1"
  if on_cgroup_v2; then
    sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
    mkdir -p "/sys/fs/cgroup/$name"
    return
  fi
  for hierarchy in /sys/fs/cgroup/*/; do
    [ "$hierarchy" = /sys/fs/cgroup/unified/ ] || mkdir -p "$hierarchy$name"
  done
  for file in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$name/$file"; done
  echo 1 >"/sys/fs/cgroup/cpuset/$name/cgroup.clone_children"
}

cgroup_folders() { # deepest first
  local root
  for root in /sys/fs/cgroup/bakehouse-node-* /sys/fs/cgroup/*/bakehouse-node-*; do
    [ ! -d "$root" ] || find "$root" -depth -type d 2>/dev/null || true
  done
}

# Every process in these cgroups belongs to a pod of this cluster. Folders go while this looks, as containerd clears up too.
pod_processes() {
  local folder folders=()
  mapfile -t folders < <(cgroup_folders)
  for folder in "${folders[@]}"; do cat "$folder/cgroup.procs" 2>/dev/null || true; done | sort -u
}
kill_pods() {
  local pid pids=()
  mapfile -t pids < <(pod_processes)
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
}
no_pods() { kill_pods; [ -z "$(pod_processes)" ]; }
remove_cgroups() {
  local folder folders=()
  mapfile -t folders < <(cgroup_folders)
  for folder in "${folders[@]}"; do rmdir "$folder" 2>/dev/null || true; done
  [ -z "$(cgroup_folders)" ]
}

# A shim outlives its containerd on purpose, and is known by the socket in its arguments.
kill_shims() {
  local file line
  for file in /proc/[0-9]*/cmdline; do
    { line="$(tr '\0' ' ' <"$file")" || continue; } 2>/dev/null   # it may have ended meanwhile
    case "$line" in
      *containerd-shim*" -address $STATE/node-"*) file="${file%/cmdline}"; kill -KILL "${file#/proc/}" 2>/dev/null || true ;;
    esac
  done
}

unmount_state() {
  local mount
  awk -v under="$STATE/" 'index($2, under) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount" || true; done
}

remove_network() {
  local link
  for link in $(ip -o link show type bridge 2>/dev/null | grep -oE 'bakehouse[0-9]+' | sort -u); do ip link delete "$link" || true; done
  # What CNI plugins noted of each pod: bakehouse-NODE-ID-eth0, and of its loopback device cni-loopback-ID-lo.
  for link in /var/lib/cni/results/bakehouse-*; do
    [ -e "$link" ] || continue
    rm -f "$link" "/var/lib/cni/results/cni-loopback-$(basename "$link" | cut -d- -f3)-lo"
  done
}

# Only chains that were not there before, and the rules elsewhere that jump to them.
remove_chains() {
  local tool table made
  [ -e "$STATE/host/chains" ] || return 0
  made="$(cluster_chains | grep -vxFf "$STATE/host/chains" || true)"
  awk '{print $1, $2}' <<<"$made" | sort -u | while read -r tool table; do
    [ -n "$tool" ] || continue
    "$tool-save" -t "$table" 2>/dev/null | awk -v at="$tool $table" -v made="$made" '
      BEGIN { n = split(made, line, "\n"); for (i = 1; i <= n; i++) { split(line[i], f, " "); if (f[1] " " f[2] == at) ours[f[3]] }
              print "*" substr(at, index(at, " ") + 1); for (c in ours) print ":" c " - [0:0]" }
      $1 == "-A" && !($2 in ours) { for (i = 3; i < NF; i++) if (($i == "-j" || $i == "-g") && ($(i + 1) in ours)) { sub(/^-A/, "-D"); print; break } }
      END { for (c in ours) print "-X " c; print "COMMIT" }' | "$tool-restore" --noflush || true
  done
}

restore_sysctls() { [ ! -e "$STATE/host/sysctls" ] || sysctl -qe -p "$STATE/host/sysctls" >/dev/null 2>&1 || true; }

# The kubelet links each log from /var/log/containers, wherever its pod logs lie.
remove_log_links() {
  local link
  for link in /var/log/containers/*; do
    case "$(readlink "$link" || true)" in "$STATE"/*) rm -f "$link" ;; esac
  done
}
