#!/usr/bin/env bash
# What a build needs beside Rust and Python: a C compiler and assembler (for the embedded engine's kernels). Installed only when missing.
set -euo pipefail
# Cargo hands it to the compiler as its input: as an ordinary file, which root's programs can make of it, it fills with other programs' words.
[ -c /dev/null ] || { echo "/dev/null is no device on this machine, and nothing builds without it. As root: rm -f /dev/null && mknod -m 666 /dev/null c 1 3" >&2; exit 1; }
command -v cargo >/dev/null || { echo "Rust is missing: install it with rustup (https://rustup.rs), then run this again." >&2; exit 1; }
if ! command -v cc >/dev/null; then
  sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -q >/dev/null && $sudo apt-get install -y -q build-essential >/dev/null
fi
