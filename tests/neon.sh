#!/usr/bin/env bash
# Runs the NEON tests of the kernels on an x86-64 machine, under qemu's user-mode emulation.
#
# As root on Debian it installs its requirements. On other systems it needs:
#   - a rustc of at least the workspace's version with the standard library for aarch64-unknown-linux-gnu
#     (`rustup target add aarch64-unknown-linux-gnu`; NEON_RUSTC names another rustc than the one in PATH),
#   - aarch64-linux-gnu-gcc with the C library for aarch64, as a linker,
#   - qemu-aarch64.
# Arguments go to `cargo test`. Without arguments, it runs every kernel test that covers NEON, and the fuzz targets over
# their seeds. `--no-run` only builds them. `--install` only installs the requirements.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
rustc=${NEON_RUSTC:-rustc}

has_target() {
    [ -d "$("$1" --print sysroot 2>/dev/null)/lib/rustlib/$target/lib" ]
}

missing() {
    ! has_target "$rustc" || ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null
}

# Debian packages the standard library for foreign architectures. Its rustc can be installed beside rustup's.
if missing && [ -z "${NEON_RUSTC:-}" ] && [ -x /usr/bin/rustc ] && has_target /usr/bin/rustc; then
    rustc=/usr/bin/rustc
fi
if missing; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "neon.sh: needs rustc's library for $target, aarch64-linux-gnu-gcc and qemu-aarch64; see its head" >&2
        exit 1
    fi
    dpkg --add-architecture arm64
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user >/dev/null
    has_target "$rustc" || rustc=/usr/bin/rustc
    if missing; then
        echo "neon.sh: the packages installed do not make a working toolchain for $target" >&2
        exit 1
    fi
fi

if [ "${1:-}" = --install ]; then exit; fi

# The loader and the C library must come from the same build. If both are installed as a foreign architecture, qemu
# finds them by itself. Otherwise the cross compiler's are used.
runner=qemu-aarch64
[ -e /lib/ld-linux-aarch64.so.1 ] || runner+=" -L /usr/aarch64-linux-gnu"

emulated() {
    # Another compiler needs a separate target directory.
    RUSTC=$rustc CARGO_TARGET_DIR=${NEON_TARGET_DIR:-target/neon} CARGO_BUILD_TARGET=$target \
        LION_EXPECT_BACKENDS=scalar,neon \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$runner cargo "$@"
}

# Both commands name both packages, so that the kernels are built once. The fuzz targets cover each backend.
all() {
    emulated test -p lion-tests -p lion-fuzz --test step --test narrow --test passes --test conversions --test statistics --test sum \
        --test exhaustive --test parallel --test plans --test determinism "$@" -- neon
    emulated test -p lion-tests -p lion-fuzz --test seeds "$@"
}
if [ "${1:-}" = --no-run ]; then
    all --no-run
    exit
fi
if [ $# -gt 0 ]; then
    emulated test "$@"
    exit
fi
all

# A native test, outside the emulator, reads the assembly of the release build. The tests of the whole workspace have
# built that test already.
LION_ASSEMBLY_RUSTC=$rustc LION_ASSEMBLY_TARGET=$target LION_OBJDUMP=aarch64-linux-gnu-objdump \
    cargo test --workspace --test assembly
