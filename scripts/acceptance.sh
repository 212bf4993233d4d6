#!/usr/bin/env bash
# Measures every figure that Bakehouse is judged by, with a release build, and prints them as a Markdown table.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet
exec python3 -B scripts/acceptance.py "${CARGO_TARGET_DIR:-target}/release/bakehouse" "$@"
