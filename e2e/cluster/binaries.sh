#!/usr/bin/env bash
# binaries.sh: compiles what the images hold: target/e2e/bakehouse, whole, and target/e2e/bakehouse-operator, the controller alone.
#
# Both come from the build that the tests use: a plain `cargo build` gives dependencies other features and compiles them all again.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

cd "$PROJECT"
TARGET="${CARGO_TARGET_DIR:-target}"
step "building"
mkdir -p "$TARGET/e2e"
# A copy under another name: whoever builds with other features next replaces target/debug/bakehouse, and a pod may run the old one.
cargo test --locked --no-run --test worker
cp --remove-destination "$TARGET/debug/bakehouse" "$TARGET/e2e/bakehouse"
cargo test --locked --no-run --no-default-features --features operator --test e2e
cp --remove-destination "$TARGET/debug/bakehouse" "$TARGET/e2e/bakehouse-operator"
# Whoever looks for the binary finds the whole one.
cp --remove-destination "$TARGET/e2e/bakehouse" "$TARGET/debug/bakehouse"
