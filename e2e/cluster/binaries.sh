#!/usr/bin/env bash
# binaries.sh: compiles what the images hold, target/e2e/bakehouse: the build that the tests use, so nothing is compiled twice.
#
# Images for others have an operator without any engine in it (Dockerfile); BAKEHOUSE_OPERATOR_BIN names such a binary for images.sh.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
trap_errors

cd "$PROJECT"
TARGET="${CARGO_TARGET_DIR:-target}"
step "building"
cargo test --locked --no-run --test worker --test e2e
mkdir -p "$TARGET/e2e"
# A copy: whoever builds with other features next replaces target/debug/bakehouse.
cp --remove-destination "$TARGET/debug/bakehouse" "$TARGET/e2e/bakehouse"
