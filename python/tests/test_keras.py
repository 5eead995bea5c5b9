"""Runs `keras_suite.py` on each of Keras's backends, in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from helpers import framework


@pytest.mark.parametrize("backend, needs, tests", [
    ("numpy", "jax", ""), ("torch", "torch", ""), ("jax", "jax", "not missing"),
], ids=["numpy", "torch", "jax"])
def test_keras_on(backend, needs, tests):
    framework(needs)
    # Importing Keras would choose a backend for this process.
    if importlib.util.find_spec("keras") is None:
        framework("keras")
    suite = pathlib.Path(__file__).with_name("keras_suite.py")
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "--quiet", str(suite), "-k", tests]
    done = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": backend}, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
