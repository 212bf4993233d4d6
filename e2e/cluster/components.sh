#!/usr/bin/env bash
# components.sh [NAME...]: makes the tools of the test cluster, each once, in ${XDG_CACHE_HOME:-~/.cache}/bakehouse/NAME-VERSION/.
#
#   packages   Debian packages of the cluster: containerd, runc, CNI plugins, iptables, buildah, ...
#   kube       etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, kubectl: links to one binary
#   coredns versitygw helm kwok
#   fake-gcs-server, azurite   other clouds' stores, for tests/store.rs; azurite is an npm package
#   kueue      the binary, with its chart in charts/kueue
#   argocd     the binary, under the names of its parts too, with its manifests in manifests/; Debian's redis-server
#   promtool   Debian's
#   docker-registry   Debian's, with skopeo beside it as a second reader, for tests/oci.rs
#
# Without a name: packages, kube, coredns, versitygw and helm: what `make cluster` needs.
# Everything but azurite is compiled from its Go module: this works wherever a Go module proxy can be reached, and needs no other download.
# Exit codes: 75 when the source of kueue or argocd cannot be had here (their tests are skipped by name), 1 for everything else.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

UNAVAILABLE=75   # EX_TEMPFAIL of sysexits.h
CLUSTER_PACKAGES=(containerd runc containernetworking-plugins iptables iproute2 conntrack socat openssl buildah busybox-static
  ca-certificates procps util-linux)

# install PACKAGE...: those that are missing. Nothing is started: on a machine without systemd some packages start their daemon
# from a script, which policy-rc.d forbids; one that an administrator has put there stays.
install() {
  local missing=() package policy=/usr/sbin/policy-rc.d ours=
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  need_root
  step "installing ${missing[*]}"
  command -v apt-get >/dev/null || die "this is no Debian or Ubuntu: install these by hand"
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; ours=1; fi
  local log result=0
  log="$(mktemp)"
  { apt-get -o DPkg::Lock::Timeout=300 update -q &&
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || result=$?
  [ -z "$ours" ] || rm -f $policy
  [ $result = 0 ] || die "apt-get failed" "$log"
  rm -f "$log"
}

# make NAME VERSION FUNCTION: calls FUNCTION with a temporary folder to fill, and renames that when it is full. Whoever looks sees
# all of it or nothing, and a build that was interrupted is made again.
make() {
  local name="$1" version="$2" function="$3" folder="$CACHE/$1-$2" begun=$SECONDS
  [ ! -d "$folder" ] || return 0
  need_tool "$name"
  step "building $name $version"
  mkdir -p "$CACHE/log"
  # Two callers at a time: the second waits, and finds it done.
  exec 7>"$CACHE/log/$name.lock"; flock 7
  [ ! -d "$folder" ] || return 0
  WORK="$(mktemp -d "$CACHE/.$name.XXXXXX")"
  LOG="$CACHE/log/$name.log"
  trap clear_work EXIT
  mkdir "$WORK/out"
  "$function" "$WORK/out" >"$LOG" 2>&1 || build_failed $?
  mv -T "$WORK/out" "$folder" || die "cannot write $folder"
  clear_work; exec 7>&-
  say "   $name $version: $((SECONDS - begun)) s"
}

need_tool() { # NAME: what it is made with
  if [ "$1" = azurite ]; then
    command -v npm >/dev/null && command -v node >/dev/null || die "npm is missing: install Node.js 18 or later (https://nodejs.org)"
  else
    command -v go >/dev/null || die "Go is missing: install Go 1.25 or later (https://go.dev/doc/install)"
  fi
}

# Sources come from the module cache, which is read-only.
clear_work() { [ ! -d "$WORK" ] || { chmod -R u+w "$WORK"; rm -rf "$WORK"; }; }

build_failed() {
  if [ "$1" = $UNAVAILABLE ]; then
    say "$(basename "$0"): $STEP: its source cannot be had from the Go module proxy ($(go env GOPROXY)); tests that need it are to be skipped"
    tail -n 3 "$LOG" | sed 's/^/  /' >&2
    exit $UNAVAILABLE
  fi
  die "failed with code $1" "$LOG"
}

# go_install FOLDER PACKAGE@VERSION: GOBIN cannot be set for cross builds only; here host and target are the same.
# -buildvcs=false: the version is the module's, not that of whatever Git folder this is called from.
go_install() { cd "$WORK" && GOBIN="$1" CGO_ENABLED=0 nice -n 5 go install -buildvcs=false -trimpath -ldflags="-s -w" "$2"; }

# source_of MODULE VERSION: prints a writable copy of its source. `go install MODULE@VERSION` refuses modules whose go.mod replaces
# others, and takes no charts or manifests along.
source_of() {
  local found
  found="$(cd "$WORK" && go mod download -json "$1@v$2")" || { echo "$found"; return $UNAVAILABLE; }
  found="$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$found")"
  cp -r "$found" "$WORK/source" && chmod -R u+w "$WORK/source" && echo "$WORK/source"
}

build_kube() {
  local name package="k8s.io/component-base/version" flags
  flags="-s -w -X $package.gitVersion=v$KUBE_VERSION -X $package.gitMajor=1 -X $package.gitMinor=${KUBE_VERSION:2:2}"
  flags+=" -X k8s.io/client-go/pkg/version.gitVersion=v$KUBE_VERSION"
  cp -r "$HERE/kube" "$WORK/kube" && cd "$WORK/kube" || return
  grep -q "k8s.io/kubernetes v$KUBE_VERSION\$" go.mod || { echo "kube/go.mod is not of $KUBE_VERSION: run kube/pin.sh"; return 1; }
  nice -n 5 go build -buildvcs=false -trimpath -ldflags "$flags" -o "$1/kube" . || return
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do ln -s kube "$1/$name" || return; done
  "$1/kubectl" version --client
}

build_coredns() { go_install "$1" "github.com/coredns/coredns@v$COREDNS_VERSION"; }
build_versitygw() { go_install "$1" "github.com/versity/versitygw/cmd/versitygw@v$VERSITYGW_VERSION"; }
build_fake_gcs_server() { go_install "$1" "github.com/fsouza/fake-gcs-server@v$FAKE_GCS_SERVER_VERSION"; }
build_helm() { go_install "$1" "helm.sh/helm/v3/cmd/helm@v$HELM_VERSION"; }
build_kwok() { go_install "$1" "sigs.k8s.io/kwok/cmd/kwok@v$KWOK_VERSION"; }

# No script of a package runs: it needs none.
build_azurite() {
  cd "$1" || return
  nice -n 5 npm install --prefix "$1" --no-audit --no-fund --omit=dev --ignore-scripts "azurite@$AZURITE_VERSION" || return
  node "$1/node_modules/azurite/dist/src/blob/main.js" --version
}

build_kueue() {
  local source
  source="$(source_of sigs.k8s.io/kueue $KUEUE_VERSION)" || { local code=$?; echo "$source"; return $code; }
  cd "$source" || return
  CGO_ENABLED=0 nice -n 5 go build -buildvcs=false -trimpath -ldflags "-s -w" -o "$1/kueue" ./cmd/kueue || return
  mkdir "$1/charts" && cp -r charts/kueue "$1/charts/kueue"
}

build_argocd() {
  local source name
  source="$(source_of github.com/argoproj/argo-cd/v3 $ARGOCD_VERSION)" || { local code=$?; echo "$source"; return $code; }
  cd "$source" || return
  CGO_ENABLED=0 nice -n 5 go build -buildvcs=false -trimpath -ldflags "-s -w" -o "$1/argocd" ./cmd || return
  for name in argocd-repo-server argocd-application-controller; do ln -s argocd "$1/$name" || return; done
  cp -r manifests "$1/manifests"
}

component() {
  case "$1" in
    packages)  install "${CLUSTER_PACKAGES[@]}" ;;
    kube)      make kube "$KUBE_VERSION" build_kube ;;
    coredns)   make coredns "$COREDNS_VERSION" build_coredns ;;
    versitygw) make versitygw "$VERSITYGW_VERSION" build_versitygw ;;
    fake-gcs-server) make fake-gcs-server "$FAKE_GCS_SERVER_VERSION" build_fake_gcs_server ;;
    azurite)   make azurite "$AZURITE_VERSION" build_azurite ;;
    helm)      make helm "$HELM_VERSION" build_helm ;;
    kwok)      make kwok "$KWOK_VERSION" build_kwok ;;
    kueue)     make kueue "$KUEUE_VERSION" build_kueue ;;
    argocd)    install redis-server git; make argocd "$ARGOCD_VERSION" build_argocd ;;
    promtool)  install prometheus ;;
    docker-registry) install docker-registry skopeo ;;
    *) say "components.sh: no component is called $1: packages, kube, coredns, versitygw, fake-gcs-server, azurite, helm, kwok, kueue, argocd, promtool, docker-registry"; exit 2 ;;
  esac
}

[ $# -gt 0 ] || set -- packages kube coredns versitygw helm
for name in "$@"; do component "$name"; done
