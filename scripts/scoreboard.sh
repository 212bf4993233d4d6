#!/usr/bin/env bash
# Bakes six real models with Bakehouse and with its peers, scores all on ONNX Runtime, and writes BENCHMARKS.md; `--self-test` only tests the scripts themselves.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/scripts"
python3 -B -m unittest discover --quiet --start-directory scripts/scoreboard/tests --top-level-directory scripts
[ "${1:-}" != --self-test ] || exit 0
export BAKEHOUSE_ORT_LIB="${BAKEHOUSE_ORT_LIB:-$(scripts/ort.sh)}"
case " $* " in
  *" --program"* | *" --help "* | *" -h "*) ;;
  *)
    cargo build --release --locked --quiet
    set -- --program "${CARGO_TARGET_DIR:-target}/release/bakehouse" "$@"
    ;;
esac
exec python3 -B -m scoreboard "$@"
