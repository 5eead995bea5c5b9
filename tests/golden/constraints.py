"""Writes constraints.json: the results of Keras's constraints on random arrays.

    pip install keras==3.15.1 numpy scipy jax
    KERAS_BACKEND=numpy python tests/golden/constraints.py
"""

import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")

import keras
import numpy as np
from keras import constraints as c

CONSTRAINTS = [
    c.NonNeg(),
    c.MaxNorm(1.0),
    c.MaxNorm(1.5, axis=-1),
    c.MaxNorm(1.0, axis=[0, 1]),
    c.MaxNorm(1.0, axis=None),
    c.UnitNorm(),
    c.UnitNorm(axis=[0, -1]),
    c.MinMaxNorm(),
    c.MinMaxNorm(0.5, 1.5, rate=0.3, axis=-1),
]
SHAPES = [(), (5,), (2, 3), (3, 4, 2)]


def numbers(array):
    return [float(str(x)) for x in np.ravel(array)]


def main():
    random = np.random.default_rng(3)
    cases = []
    for shape in SHAPES:
        array = (2 * random.standard_normal(shape)).astype(np.float32)
        results = []
        for constraint in CONSTRAINTS:
            try:
                results.append(numbers(constraint(array)))
            except Exception:  # the array has no such axis
                results.append(None)
        cases.append({"shape": shape, "values": numbers(array), "results": results})
    head = json.dumps({"keras": keras.__version__, "constraints": [str(vars(x)) for x in CONSTRAINTS]})
    body = ",\n".join(json.dumps(case) for case in cases)
    Path(__file__).with_suffix(".json").write_text(head[:-1] + ', "cases": [\n' + body + "\n]}\n")


if __name__ == "__main__":
    main()
