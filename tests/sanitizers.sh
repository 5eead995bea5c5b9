#!/usr/bin/env bash
# Runs each fuzz target briefly under AddressSanitizer, over its seeds and new inputs, and the kernels' thread tests
# under ThreadSanitizer: tests/sanitizers.sh [SECONDS-PER-TARGET], default 10. Linux only. `--no-run` only builds them.
# `--install` only installs the requirements.
#
# Needs a C++ compiler for libFuzzer, and a nightly Rust with the source of the standard library. It installs the
# compiler as root on Debian, and the nightly Rust if rustup is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
. fuzz/options.sh
seconds=10
only=
case ${1:-} in
--install | --no-run) only=$1 ;;
?*) seconds=$1 ;;
esac
built=${CARGO_TARGET_DIR:-target}

if ! command -v c++ >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ >/dev/null
fi
rustc +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
if [ ! -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ]; then
    rustup component add rust-src --toolchain nightly
fi
if [ "$only" = --install ]; then exit; fi
host=$(rustc +nightly -vV | sed -n 's/^host: //p')

# cargo-fuzz inlines every check and counter. With that, the vector code takes many minutes to compile.
flags=(--cfg fuzzing -Zsanitizer=address -Cllvm-args=-asan-instrumentation-with-call-threshold=0
    -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=1
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table)
quick=(--config profile.dev.debug=false)
for package in lion-kernels lion-tests; do quick+=(--config "profile.dev.package.$package.opt-level=1"); done
RUSTFLAGS="${flags[*]}" cargo +nightly build "${quick[@]}" -p lion-fuzz --features libfuzzer --bins \
    --target "$host" --target-dir "$built/address-sanitizer"
# Build the standard library with ThreadSanitizer too. Otherwise it misses the locks there and reports false races.
threads() {
    RUSTFLAGS=-Zsanitizer=thread cargo +nightly test "${quick[@]}" -Zbuild-std -p lion-tests --test parallel \
        --target "$host" --target-dir "$built/thread-sanitizer" "$@"
}
if [ "$only" = --no-run ]; then
    threads --no-run
    exit
fi

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
for seeds in fuzz/seeds/*; do
    target=${seeds##*/}
    echo "AddressSanitizer: $target"
    options_of "$target"
    mkdir "$new/$target"
    "$built/address-sanitizer/$host/debug/$target" "$new/$target" "$seeds" \
        -max_total_time="$seconds" "${options[@]}" 2>"$new/log" || { cat "$new/log" >&2; exit 1; }
    grep -E 'Done|INITED' "$new/log"
done

echo "ThreadSanitizer"
threads
