#!/usr/bin/env bash
# pin.sh: writes go.mod and go.sum again for the Kubernetes version in versions.sh. Run by hand after changing that; both are committed.
#
# k8s.io/kubernetes names its staging modules at v0.0.0 and replaces them by folders of its own repository, which a module archive
# lacks. Each is published beside it as v0.MINOR.PATCH, so each is replaced by that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=/dev/null
source ../versions.sh
export GOFLAGS=-mod=mod
rm -f go.mod go.sum
go mod init bakehouse.dev/e2e/kube
go mod edit -go=1.24.0   # not the version of whoever runs this; tidy raises it to what the modules need
theirs="$(go mod download -json "k8s.io/kubernetes@v$KUBE_VERSION" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')"
grep -oE '^\s*k8s\.io/[a-z0-9-]+ => \./staging' "$theirs" | awk '{print $1}' | while read -r module; do
  go mod edit -replace "$module=$module@v0.${KUBE_VERSION#1.}"
done
# etcd and cobra at the versions that Kubernetes itself was built and tested with.
for module in go.etcd.io/etcd/server/v3 github.com/spf13/cobra; do
  go mod edit -require "$module@$(awk -v m="$module" '$1 == m {print $2; exit}' "$theirs")"
done
go mod edit -require "k8s.io/kubernetes@v$KUBE_VERSION"
go mod tidy
