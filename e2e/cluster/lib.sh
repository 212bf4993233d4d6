# shellcheck shell=bash disable=SC2034
# What the scripts of the test cluster share: where things lie, how they speak, and processes that are known by more than their number.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PROJECT="$(cd "$HERE/../.." && pwd)"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/bakehouse"
STATE="${BAKEHOUSE_CLUSTER:-/var/lib/bakehouse-cluster}"
ADMIN="$STATE/conf/admin.kubeconfig"
# shellcheck source=versions.sh
source "$HERE/versions.sh"
PATH="$CACHE/kube-$KUBE_VERSION:$PATH"

# Addresses: node N has 10.243.0.N, its pods 10.244.N.0/24. The API server and CoreDNS are at node-1's. up.sh refuses to start where
# any of them is in use already.
NODE_PREFIX=10.243.0
API_PORT=6443
SERVICE_CIDR=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
POD_CIDR=10.244.0.0/16
DNS_IP=10.243.0.1
node_ip() { echo "$NODE_PREFIX.$1"; }
# Every kubelet shares this host, so each needs ports of its own.
kubelet_port() { echo $((10250 + 100 * ($1 - 1))); }
kubelet_health_port() { echo $((10248 + 100 * ($1 - 1))); }
node_socket() { echo "$STATE/node-$1/containerd.sock"; }

# Before the first step, what fails is the script itself.
STEP="starting"
say() { echo "$*" >&2; }
step() { STEP="$*"; say "-- $*"; }

# die MESSAGE [LOG]: names the step, says why, and shows the end of the log that knows more.
die() {
  say "$(basename "$0"): $STEP: $1"
  if [ -n "${2:-}" ] && [ -s "$2" ]; then
    say "the last lines of $2:"
    tail -n 15 "$2" | cut -c1-400 | sed 's/^/  /' >&2
  fi
  exit 1
}

# A command that nobody expected to fail still says which step it belonged to.
trap_errors() {
  set -o errtrace
  # shellcheck disable=SC2154
  trap 'code=$?; say "$(basename "$0"): $STEP: line $LINENO: \"$BASH_COMMAND\" ended with code $code"; exit $code' ERR
}

need_root() { [ "$(id -u)" = 0 ] || die "needs root: it makes network bridges, mounts and cgroups. Without root, use any cluster by its KUBECONFIG (e2e/README.md)"; }

# await SECONDS COMMAND...: until it succeeds; fails after SECONDS.
await() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# write FILE: standard input, unless the file says just that already: kube-proxy ends when its configuration is written again.
write() {
  cat >"$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}

# A file that is locked while one of the scripts changes the cluster; a second one waits for it.
lock_state() {
  mkdir -p "$(dirname "$STATE")"
  exec 9>"$STATE.lock"
  flock -w 300 9 || die "another script has been changing this cluster for 5 minutes; $STATE.lock is its lock"
}

# --- Processes --------------------------------------------------------------------------------------------------------------------
# run/NAME.process holds "PID START"; START is the kernel's start time of the process. A number alone may belong to someone else by
# now: after a restart of the machine, or when the numbers came round. run/NAME.command is the command line, arguments ended by NUL.

started_at() { # PID: field 22 of its stat line. The second field is a name in brackets that may hold spaces.
  local line
  line="$(cat "/proc/$1/stat" 2>/dev/null)" || return 1
  # shellcheck disable=SC2086
  set -- ${line##*) }
  [ "$1" != Z ] || return 1
  echo "${20}"
}

pid_of() { # NAME: prints its number if that very process is still alive
  local pid start
  read -r pid start 2>/dev/null <"$STATE/run/$1.process" || return 1
  [ -n "$start" ] && [ "$(started_at "$pid")" = "$start" ] && echo "$pid"
}

# launch NAME [COMMAND...]: starts it in a session of its own, unless it runs. Without a command, the one it had the last time.
launch() {
  local name="$1"; shift
  ! pid_of "$name" >/dev/null || return 0
  if [ $# -gt 0 ]; then printf '%s\0' "$@" >"$STATE/run/$name.command"; fi
  [ -s "$STATE/run/$name.command" ] || die "$name was never started here, so its arguments are not known"
  local command=()
  mapfile -d '' -t command <"$STATE/run/$name.command"
  if [ -s "$STATE/log/$name.log" ]; then mv "$STATE/log/$name.log" "$STATE/log/$name.previous.log"; fi
  # The lock's descriptor stays out of it: a lock lives as long as the last process that holds it.
  setsid nohup "${command[@]}" >"$STATE/log/$name.log" 2>&1 </dev/null 9>&- &
  local pid=$!
  # One that is gone already has no start; `ready` will say so.
  echo "$pid $(started_at "$pid" || true)" >"$STATE/run/$name.process"
  LAUNCHED=$((${LAUNCHED:-0} + 1))
}

# end SIGNAL SECONDS NAME...: sends it to those alive and waits; fails if one is still there.
end() {
  local signal="$1" seconds="$2" name pid names=(); shift 2
  for name in "$@"; do
    if pid="$(pid_of "$name")"; then kill "-$signal" "$pid" 2>/dev/null || true; names+=("$name"); fi
  done
  await "$seconds" none_alive "${names[@]}"
}
none_alive() { local name; for name in "$@"; do ! pid_of "$name" || return 1; done; }

# ready NAME SECONDS COMMAND...: waits for COMMAND to succeed, and gives up at once when the process has ended.
ready() {
  local name="$1" end=$((SECONDS + $2)); shift 2
  until "$@" >/dev/null 2>&1; do
    pid_of "$name" >/dev/null || die "$name ended by itself" "$STATE/log/$name.log"
    [ $SECONDS -lt $end ] || die "$name was not ready in time" "$STATE/log/$name.log"
    sleep 0.2
  done
}

# free_port NAME ADDRESS PORT: NAME is about to listen there. Nothing to say when it already does.
free_port() {
  ! pid_of "$1" >/dev/null || return 0
  local holder
  holder="$(ss -Hltnp | awk -v ip="$2" -v port="$3" '
    { a = $4; p = a; sub(/.*:/, "", p); sub(/:[^:]*$/, "", a)
      if (p == port && (ip == "*" || a == ip || a == "*" || a == "0.0.0.0" || a == "[::]")) { print $6; exit } }')"
  [ -z "$holder" ] || die "port $3, which $1 needs, is taken by ${holder#users:}"
}
