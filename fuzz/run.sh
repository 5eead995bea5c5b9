#!/usr/bin/env bash
# Runs one fuzz target, or all targets one after another, from the committed seeds: fuzz/run.sh TARGET|all [SECONDS].
# New inputs go to fuzz/corpus and failing inputs to fuzz/artifacts. git ignores both. Needs a nightly compiler and
# `cargo install cargo-fuzz`.
set -euo pipefail
cd "$(dirname "$0")/.."
. fuzz/options.sh
# At higher levels, the instrumented vector code takes many minutes to compile.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1

run() {
    options_of "$1"
    mkdir -p "fuzz/corpus/$1"
    cargo +nightly fuzz run --features libfuzzer "$1" "fuzz/corpus/$1" "fuzz/seeds/$1" -- -max_total_time="$2" "${options[@]}"
}

target=${1:?the name of a target, see fuzz/README.md, or all}
seconds=${2:-60}
if [ "$target" = all ]; then
    for target in $(cargo +nightly fuzz list); do run "$target" "$seconds"; done
else
    run "$target" "$seconds"
fi
