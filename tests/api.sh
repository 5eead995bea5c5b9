#!/usr/bin/env bash
# Writes the public API of each library to tests/api, one item per line: tests/api.sh. The diff shows the items that a
# change adds, breaks or removes. With `--check` it writes nothing and fails if a listing is out of date.
#
# Needs a nightly Rust and cargo-public-api (`cargo install cargo-public-api`).
set -euo pipefail
cd "$(dirname "$0")/.."

new=$(mktemp)
trap 'rm -f "$new"' EXIT
for package in lion-kernels lion-autotune lion lion-distributed; do
    listing=tests/api/$package.txt
    features=()
    if [ "$package" = lion-autotune ]; then features=(--all-features); fi
    cargo +nightly public-api -p "$package" "${features[@]}" --omit auto-trait-impls,blanket-impls,auto-derived-impls >"$new"
    if [ "${1:-}" = --check ]; then diff "$listing" "$new"; else cp "$new" "$listing"; fi
done
