#!/usr/bin/env bash
# Fuzzes the model loader for SECONDS_TO_RUN (default 60) and says what was tried. The sanitizer needs compiler flags that stable Rust only takes with
# RUSTC_BOOTSTRAP. An input that takes the loader down is kept in fuzz/artifacts/load; what widened the coverage, in fuzz/corpus/load.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${SECONDS_TO_RUN:-60}"

if ! command -v c++ >/dev/null; then # libFuzzer is C++
  sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -q >/dev/null && $sudo apt-get install -y -q g++ >/dev/null
fi
cargo fuzz --version >/dev/null 2>&1 || { echo "fuzz: installing cargo-fuzz"; cargo install cargo-fuzz --locked --quiet; }
mkdir -p fuzz/corpus/load
export RUSTC_BOOTSTRAP=1
echo "fuzz: building with the address sanitizer (minutes, the first time)"
cargo fuzz build load

echo "fuzz: running for $seconds s from $(find fuzz/seeds fuzz/corpus/load -type f | wc -l) inputs"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
if cargo fuzz run load fuzz/corpus/load fuzz/seeds -- -max_total_time="$seconds" -rss_limit_mb=4096 -print_final_stats=1 >"$log" 2>&1; then
  tried="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  blocks="$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)"
  [ -n "$tried" ] || { cat "$log" >&2; echo "fuzz: the fuzzer did not say what it tried" >&2; exit 1; }
  echo "fuzz: $tried inputs tried in $seconds s, ${blocks:-?} blocks of code reached, none took the loader down; corpus: $(find fuzz/corpus/load -type f | wc -l) inputs"
else
  tail -60 "$log" >&2
  echo "fuzz: an input took the loader down; it lies in fuzz/artifacts/load, and \`RUSTC_BOOTSTRAP=1 cargo fuzz run load FILE\` repeats it" >&2
  exit 1
fi
