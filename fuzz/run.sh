#!/usr/bin/env bash
# Runs a fuzz target, or all of them one after the other, from the committed seeds: fuzz/run.sh TARGET|all [SECONDS].
# What it finds new goes to fuzz/corpus, what fails to fuzz/artifacts; git ignores both. Needs a nightly compiler and
# `cargo install cargo-fuzz`.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
    local target=$1 dictionary=
    case $target in
    checkpoint_load | replay_input) dictionary=tensor_file ;;
    keras_config) dictionary=keras_config ;;
    profile_parse) dictionary=profile ;;
    esac
    mkdir -p "fuzz/corpus/$target"
    # The targets allow reading a second of the processor's time; this is for a machine that does other work too.
    cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$2" -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 \
        ${dictionary:+-dict=fuzz/dictionaries/$dictionary.dict}
}

target=${1:?the name of a target, see fuzz/README.md, or all}
seconds=${2:-60}
if [ "$target" = all ]; then
    for target in $(cargo +nightly fuzz list); do run "$target" "$seconds"; done
else
    run "$target" "$seconds"
fi
