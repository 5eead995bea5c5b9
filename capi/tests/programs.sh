#!/usr/bin/env bash
# Builds the C and C++ programs with every warning an error, against the shared and the static library. Runs them
# natively, under AddressSanitizer and UndefinedBehaviorSanitizer, and under valgrind. Linux only.
#
#     capi/tests/programs.sh
#
# Needs gcc, g++, binutils and valgrind. As root on Debian it installs them. With `--install` it stops after that.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
for tool in gcc g++ nm valgrind; do command -v "$tool" >/dev/null || missing+=("$tool"); done
if [ "${#missing[@]}" -gt 0 ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc g++ binutils libc6-dev libc6-dbg \
        valgrind >/dev/null
fi
if [ "${1:-}" = --install ]; then exit; fi

cargo build --release -p lion-c
libraries=$(cd "${CARGO_TARGET_DIR:-../target}/release" && pwd)
digits=../lion/examples/digits/digits.csv
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

warnings=(-Wall -Wextra -Werror -pedantic -Wconversion -Wshadow)
c=(gcc -std=c11 -O1 -g -ffp-contract=off "${warnings[@]}" -Wstrict-prototypes -I include)
cpp=(g++ -std=c++17 -O1 -g -pthread "${warnings[@]}" -I include)
shared=(-L "$libraries" -Wl,-rpath,"$libraries" -llion_c -lm -ldl)
static=("$libraries/liblion_c.a" -lm -ldl -lpthread -lgcc_s)

# Check each header alone, in each language that may include it.
for standard in c11 c17; do echo '#include "lion.h"' | gcc -std=$standard "${warnings[@]}" -I include -fsyntax-only -x c -; done
for header in lion.h lion.hpp; do
    for standard in c++17 c++20; do
        echo "#include \"$header\"" | g++ -std=$standard "${warnings[@]}" -I include -fsyntax-only -x c++ -
    done
done

build() {
    local name=$1
    shift
    "${c[@]}" examples/linear.c "$@" -o "$made/linear-$name"
    "${c[@]}" examples/shards.c "$@" -o "$made/shards-$name"
    "${c[@]}" examples/digits.c "$@" -o "$made/digits-$name"
    "${c[@]}" tests/c/reload.c -ldl -o "$made/reload-$name"
    "${cpp[@]}" examples/linear.cpp "$@" -o "$made/linear-cpp-$name"
}
run() {
    local name=$1 epochs=$2
    shift 2
    echo "--- $name"
    "$@" "$made/linear-$name"
    "$@" "$made/shards-$name"
    "$@" "$made/linear-cpp-$name" "$made/linear.safetensors"
    "$@" "$made/reload-$name" "$libraries/liblion_c.so"
    "$@" "$made/digits-$name" "$digits" "$epochs" | tee "$made/digits.txt"
}

build shared "${shared[@]}"
build static "${static[@]}"
sanitized=(-fsanitize=address,undefined -fno-sanitize-recover=all)
c+=("${sanitized[@]}")
cpp+=("${sanitized[@]}")
build sanitized "${shared[@]}"

run shared 30
# The same training in Rust must give the same digest.
in_c=$(sed -n 's/^digest //p' "$made/digits.txt")
in_rust=$(cd .. && cargo run --release -q --example digits | sed -n 's/^ *digest  *//p' | head -n 1)
echo "digest in Rust: $in_rust"
[ -n "$in_c" ] && [ "$in_c" = "$in_rust" ] || { echo "the digits in C come to other weights" >&2; exit 1; }
run static 2
run sanitized 30
grep -q "^digest $in_rust$" "$made/digits.txt"
for program in linear shards linear-cpp digits reload; do cp "$made/$program-shared" "$made/$program-valgrind"; done
# Memory of pool threads that live until the program exits is not a leak.
run valgrind 1 valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite --fair-sched=yes
echo "the programs in C and C++ are clean"
