#!/usr/bin/env bash
# Type-checks the command and the libraries for Windows, macOS and RISC-V. It links and runs nothing.
#
# Needs a nightly Rust with the source of the standard library, which `tests/sanitizers.sh --install` installs. For
# Windows it also needs dlltool from binutils-mingw-w64-x86-64, which it installs as root on Debian.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v x86_64-w64-mingw32-dlltool >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends binutils-mingw-w64-x86-64 >/dev/null
fi
if [ "${1:-}" = --install ]; then exit; fi

for target in x86_64-pc-windows-gnu aarch64-apple-darwin riscv64gc-unknown-linux-gnu; do
    cargo +nightly check -Zbuild-std=std,panic_abort --target "$target" -p lion-optimizer-cli -p lion-c \
        --target-dir "${CARGO_TARGET_DIR:-target}/other-targets"
    echo "$target: checked"
done
