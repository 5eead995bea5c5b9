#!/usr/bin/env bash
# Runs each fuzz target for a moment under AddressSanitizer, over its seeds and new inputs, and the kernels' tests of
# threads under ThreadSanitizer: tests/sanitizers.sh [SECONDS-PER-TARGET], 10 without. On Linux. With `--no-run` all is
# built, and with `--install` not even that.
#
# Needs a C++ compiler for libFuzzer, which it installs on Debian as root, and a nightly Rust with the standard library's
# source, which it installs where rustup is there.
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

# With every check and counter in line, as cargo-fuzz has them, the vector code takes many minutes to compile.
flags=(--cfg fuzzing -Zsanitizer=address -Cllvm-args=-asan-instrumentation-with-call-threshold=0
    -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=1
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table)
quick=(--config profile.dev.debug=false)
for package in lion-kernels lion-tests; do quick+=(--config "profile.dev.package.$package.opt-level=1"); done
RUSTFLAGS="${flags[*]}" cargo +nightly build "${quick[@]}" -p lion-fuzz --features libfuzzer --bins \
    --target "$host" --target-dir "$built/address-sanitizer"
# The standard library is built with it too: ThreadSanitizer takes locks that it does not see for none.
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
