#!/usr/bin/env bash
# Fuzzes the model loader; SECONDS_TO_RUN (default 60). The sanitizer needs compiler flags that stable Rust only takes with RUSTC_BOOTSTRAP.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
mkdir -p fuzz/corpus/load
RUSTC_BOOTSTRAP=1 cargo fuzz run load fuzz/corpus/load fuzz/seeds -- -max_total_time="${SECONDS_TO_RUN:-60}" -rss_limit_mb=4096
