#!/usr/bin/env bash
# Builds the wheel, installs it in a virtual environment and runs the tests of the package.
#
#     python/test.sh                 with numpy
#     python/test.sh --frameworks    also with PyTorch, Keras and JAX, a download of about 600 MB
#
# Needs Rust, gcc with binutils and Python 3.10 or later with pip. The target folder keeps the environments.
set -euo pipefail
cd "$(dirname "$0")"

target=${CARGO_TARGET_DIR:-$PWD/../target}
export CARGO_TARGET_DIR=$target
environment=$target/python
[ "${1:-}" != --frameworks ] || environment=$target/python-frameworks
python=$environment/bin/python

install() {
    "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

[ -x "$python" ] || python3 -m venv "$environment"
install "maturin>=1.9,<2" "pytest>=8" numpy ml_dtypes
if [ "${1:-}" = --frameworks ]; then
    # PyTorch without its dependencies: the GPU libraries take gigabytes.
    install --no-deps torch
    # Keras's numpy backend imports jax and scipy.
    install typing_extensions sympy networkx jinja2 filelock fsspec expecttest keras jax scipy
    install --no-deps lion-pytorch
    "$python" tests/without_cuda.py
    # Makes a missing framework a failure instead of a skipped test.
    export LION_EXPECT_FRAMEWORKS=1
fi

rm -rf "$target/wheels"
"$environment/bin/maturin" build --quiet --release --out "$target/wheels"
install --no-deps --force-reinstall "$target"/wheels/lion_cpu-*.whl
"$python" -m pytest --quiet tests
