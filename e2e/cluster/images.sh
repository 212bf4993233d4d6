#!/usr/bin/env bash
# images.sh [NAME...]: builds images without a registry, and loads them into every node's containerd as bakehouse.dev/NAME:e2e.
#
#   pause busybox versitygw operator worker moody      (default: all of these)
#   kueue                                              (on request)
#
# What has not changed is neither built nor loaded again: each image is known by the digest of the files that go into it.
# Binaries are not compiled here, but by binaries.sh:
#
#   BAKEHOUSE_BIN            the whole binary (default target/e2e/bakehouse)
#   BAKEHOUSE_OPERATOR_BIN   that of the operator's image (default: the same)
#   BAKEHOUSE_ORT_LIB        ONNX Runtime (default ~/.cache/bakehouse/ort/1.32.0/libonnxruntime.so, which scripts/ort.sh fetches)
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

IMAGES="$CACHE/images"
TARGET="${CARGO_TARGET_DIR:-$PROJECT/target}"
BIN="${BAKEHOUSE_BIN:-$TARGET/e2e/bakehouse}"
OPERATOR_BIN="${BAKEHOUSE_OPERATOR_BIN:-$BIN}"
ORT_LIB="${BAKEHOUSE_ORT_LIB:-$CACHE/ort/1.32.0/libonnxruntime.so}"
AUTHORITIES=/etc/ssl/certs/ca-certificates.crt
VERSITYGW="$CACHE/versitygw-$VERSITYGW_VERSION/versitygw"

# Storage of its own: nobody else's images are seen or changed. vfs needs no mounts.
build_tool() { buildah --root "$IMAGES/storage" --runroot "$IMAGES/run" --storage-driver vfs "$@"; }

need_file() { [ -s "$1" ] || die "$1 is missing: $2"; }

# --- What goes into each: inputs_NAME prints the files, context_NAME makes a folder of them for the builder. ------------------------

inputs_pause() { echo "$HERE/pause.c"; }
context_pause() {
  command -v cc >/dev/null || die "needs a C compiler: apt-get install build-essential"
  cc -Os -static -s -o "$1/pause" "$HERE/pause.c"
  printf 'FROM scratch\nCOPY pause /pause\nUSER 65532:65532\nENTRYPOINT ["/pause"]\n' >"$1/Dockerfile"
}

inputs_busybox() {
  need_file /bin/busybox "e2e/cluster/components.sh packages installs it"
  echo /bin/busybox
}
context_busybox() {
  mkdir -p "$1/root/bin" "$1/root/etc" "$1/root/tmp"; chmod 1777 "$1/root/tmp"
  cp /bin/busybox "$1/root/bin/busybox"
  local name
  for name in $(/bin/busybox --list); do [ "$name" = busybox ] || ln -s busybox "$1/root/bin/$name"; done
  users "$1/root"
  printf 'FROM scratch\nCOPY root /\nENV PATH=/bin\nCMD ["sh"]\n' >"$1/Dockerfile"
}

inputs_versitygw() { "$HERE/components.sh" versitygw; echo "$VERSITYGW"; }
context_versitygw() {
  cp "$VERSITYGW" "$1/versitygw"
  users "$1/root"
  printf 'FROM scratch\nCOPY root /\nCOPY versitygw /versitygw\nUSER 65532:65532\nENTRYPOINT ["/versitygw"]\n' >"$1/Dockerfile"
}

inputs_kueue() { "$HERE/components.sh" kueue; echo "$CACHE/kueue-$KUEUE_VERSION/kueue"; }
context_kueue() {
  cp "$CACHE/kueue-$KUEUE_VERSION/kueue" "$1/manager"
  printf 'FROM scratch\nCOPY manager /manager\nUSER 65532:65532\nENTRYPOINT ["/manager"]\n' >"$1/Dockerfile"
}

# The base image in place of distroless, which no registry has to be asked for: the shared libraries of this machine that the files
# name, certificate authorities, users, /tmp.
inputs_base() {
  local file
  binaries_are_there
  need_file $AUTHORITIES "apt-get install ca-certificates"
  for file in "$OPERATOR_BIN" "$BIN" "$ORT_LIB"; do
    ! ldd "$file" | grep -q 'not found' || die "$file needs a library that this machine lacks: $(ldd "$file" | grep -m 1 'not found')"
    # Lines of a library: "NAME => PATH (ADDRESS)"; of the loader: "PATH (ADDRESS)"; the kernel's own page has no path.
    ldd "$file" | awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\// {print $1}'
  done | sort -u
  echo $AUTHORITIES
}
context_base() {
  local file
  mkdir -p "$1/root/tmp"; chmod 1777 "$1/root/tmp"
  inputs_base | while read -r file; do
    mkdir -p "$1/root/$(dirname "$file")"; cp -L "$file" "$1/root/$file"
  done
  users "$1/root"
  printf 'FROM scratch\nCOPY root /\nUSER 65532:65532\n' >"$1/Dockerfile"
}

users() {
  mkdir -p "$1/etc" "$1/home/nonroot"
  printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$1/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$1/etc/group"
  printf 'hosts: files dns\n' >"$1/etc/nsswitch.conf"
}

# Debug information is most of a development binary; the names of functions stay, for backtraces.
stripped() { strip --strip-debug -o "$2" "$1"; }

binaries_are_there() {
  need_file "$OPERATOR_BIN" "run e2e/cluster/binaries.sh, or set BAKEHOUSE_OPERATOR_BIN"
  need_file "$BIN" "run e2e/cluster/binaries.sh, or set BAKEHOUSE_BIN"
  need_file "$ORT_LIB" "make ort, or set BAKEHOUSE_ORT_LIB"
}

inputs_operator() { printf '%s\n' "$OPERATOR_BIN" "$PROJECT/LICENSE" "$PROJECT/Dockerfile" "$IMAGES/base.digest"; }
context_operator() {
  stripped "$OPERATOR_BIN" "$1/bakehouse-operator"
  cp "$PROJECT/LICENSE" "$PROJECT/Dockerfile" "$1/"
}

inputs_worker() { printf '%s\n' "$BIN" "$ORT_LIB" "$PROJECT/LICENSE" "$PROJECT/Dockerfile" "$IMAGES/base.digest"; }
context_worker() {
  stripped "$BIN" "$1/bakehouse"
  cp "$ORT_LIB" "$1/libonnxruntime.so"
  cp "$PROJECT/LICENSE" "$PROJECT/Dockerfile" "$1/"
}

# The worker with moods: it sleeps for MOOD_SLEEP seconds first, and with MOOD=hungry it eats memory until the kernel kills it, unless it
# is told to take the low-memory plan; with MOOD=ravenous even then. Bakes of the examples are over in seconds: so a test can choose when
# something happens to one.
inputs_moody() { printf '%s\n' "$IMAGES/worker.digest" /bin/busybox; }
context_moody() {
  need_file /bin/busybox "e2e/cluster/components.sh packages installs it"
  cp /bin/busybox "$1/busybox"
  cat >"$1/moody.sh" <<'SH'
#!/bin/busybox sh
# A shell that is process 1 ignores SIGTERM unless it is told not to.
trap 'exit 143' TERM
/bin/busybox sleep "${MOOD_SLEEP:-0}" & wait
case "${MOOD:-calm}$BAKEHOUSE_ASSIGNMENT" in
  calm* | hungry*'"lowMemory":true'*) exec /usr/local/bin/bakehouse "$@" ;;
esac
exec /bin/busybox tail /dev/zero
SH
  chmod 755 "$1/moody.sh"
  printf 'FROM bakehouse.dev/worker:e2e\nCOPY busybox /bin/busybox\nCOPY moody.sh /moody.sh\nENTRYPOINT ["/moody.sh"]\n' >"$1/Dockerfile"
}

# --- Building and loading -----------------------------------------------------------------------------------------------------------

# build NAME [ARGUMENTS...]: leaves images/NAME.tar, with the digest of its inputs (and of this script, which says what becomes of
# them) in images/NAME.digest.
build() {
  local name="$1" context="$IMAGES/context-$1" log="$CACHE/log/image-$1.log" inputs=() now; shift
  step "image $name"
  mapfile -t inputs < <("inputs_$name")
  [ ${#inputs[@]} -gt 0 ] || exit 1   # it has said why
  now="$(cat "${inputs[@]}" "$HERE/images.sh" | sha256sum | cut -d' ' -f1)"
  if [ -e "$IMAGES/$name.tar" ] && [ "$(cat "$IMAGES/$name.digest" 2>/dev/null)" = "$now" ]; then return; fi
  rm -rf "$IMAGES/$name.digest" "$IMAGES/$name.tar" "$context"
  mkdir -p "$context" "$CACHE/log"
  "context_$name" "$context"
  build_tool bud --isolation chroot --format docker --layers=false "$@" -t "bakehouse.dev/$name:e2e" "$context" >"$log" 2>&1 ||
    die "the build failed" "$log"
  build_tool push -q "bakehouse.dev/$name:e2e" "docker-archive:$IMAGES/$name.tar:bakehouse.dev/$name:e2e" >"$log" 2>&1 ||
    die "the image could not be written" "$log"
  # Stages, and the image that this one replaces: nobody else uses this storage.
  { build_tool rm --all && build_tool rmi --prune; } >/dev/null 2>&1 || true
  rm -rf "$context"
  echo "$now" >"$IMAGES/$name.digest"
  say "   built bakehouse.dev/$name:e2e ($(du -h "$IMAGES/$name.tar" | cut -f1))"
}

has_image() { # FOLDER NAME
  [ -n "$(ctr -a "$1/containerd.sock" -n k8s.io images ls -q "name==bakehouse.dev/$2:e2e")" ]
}

load() { # NAME: into each node that has not this very image yet
  local node log="$CACHE/log/image-$1.log"
  for node in "$STATE"/node-*; do
    [ -S "$node/containerd.sock" ] || continue
    # Under disk pressure a kubelet deletes what no container uses.
    if cmp -s "$IMAGES/$1.digest" "$node/images/$1" && has_image "$node" "$1"; then continue; fi
    ctr -a "$node/containerd.sock" -n k8s.io images import "$IMAGES/$1.tar" >"$log" 2>&1 || die "loading $1 into $(basename "$node") failed" "$log"
    cp "$IMAGES/$1.digest" "$node/images/$1"
    say "   loaded bakehouse.dev/$1:e2e into $(basename "$node")"
  done
}

image() {
  case "$1" in
    pause | busybox | versitygw | moody | kueue) build "$1" ;;
    operator | worker)
      build base
      build "$1" --target "$1" --build-arg BASE=bakehouse.dev/base:e2e --build-arg BINARIES=prebuilt \
        --build-arg REVISION="$(git -C "$PROJECT" rev-parse HEAD 2>/dev/null || echo unknown)" ;;
    *) say "images.sh: no image is called $1: pause, busybox, versitygw, operator, worker, moody, kueue"; exit 2 ;;
  esac
  load "$1"
}

need_root
"$HERE/components.sh" packages
mkdir -p "$IMAGES"
exec 8>"$IMAGES/lock"
flock -w 300 8 || die "another images.sh has been at work for 5 minutes"
[ $# -gt 0 ] || set -- pause busybox versitygw operator worker moody
for name in "$@"; do image "$name"; done
