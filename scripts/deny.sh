#!/usr/bin/env bash
# Bans, licences and sources of every dependency; advisories too where their database can be reached.
set -euo pipefail
command -v cargo-deny >/dev/null || cargo install --debug --locked cargo-deny --version 0.20.2 || { echo "cargo-deny could not be installed" >&2; exit 1; }
cargo deny --all-features check bans licenses sources
cargo deny --all-features check advisories || echo "advisories: not checked (database not reachable) or findings above"
