"""The Python examples of the READMEs and of the guide run."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from helpers import framework

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/python.md", "python/README.md"]
EXAMPLES = [
    pytest.param(name, text, id=f"{page}-{name}")
    for page in PAGES
    for text, name in re.findall(r"```python\n(import (\w+).*?)```", (REPOSITORY / page).read_text(), re.S)
]


@pytest.mark.parametrize("name, text", EXAMPLES)
def test_example(name, text):
    framework("torch" if name == "keras" else name)
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", text], check=True, env=environment)
