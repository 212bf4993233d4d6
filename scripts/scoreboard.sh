#!/usr/bin/env bash
# Bakes the scoreboard's models with a release build and prints what was measured.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet
exec python3 -B scripts/scoreboard.py "${CARGO_TARGET_DIR:-target}/release/bakehouse" "$@"
