"""numpy's arrays of the formats that the optimizer knows."""

import numpy


def array(dtype, memory, shape):
    """An array of its own, of raw elements."""
    if dtype == "bf16":
        from ml_dtypes import bfloat16 as kind
    else:
        kind = {"f32": numpy.float32, "f16": numpy.float16, "i16": numpy.int16}[dtype]
    return numpy.frombuffer(memory, dtype=kind).reshape(shape).copy()
