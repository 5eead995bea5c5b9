"""The README's examples run."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from helpers import framework

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
FOUND = re.findall(r"```python\n(import (\w+).*?)```", README.read_text(), re.S)
EXAMPLES = {name: text for text, name in FOUND}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    framework("torch" if name == "keras" else name)
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", EXAMPLES[name]], check=True, env=environment)
