"""What several test files use: safetensors files, frameworks, and the golden runs of Keras."""

import importlib
import json
import os
import pathlib
import struct

import ml_dtypes
import numpy
import pytest

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "cases"
FILE_DTYPES = {
    "F32": numpy.float32, "F16": numpy.float16, "BF16": ml_dtypes.bfloat16, "I16": numpy.int16, "I8": numpy.int8,
}


def read_tensors(path):
    """The arrays of a safetensors file by name, and its metadata."""
    memory = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", memory)
    header = json.loads(memory[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        array = numpy.frombuffer(memory[start:end], dtype=FILE_DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"]).copy()
    return tensors, metadata


def write_tensors(path, tensors):
    """Writes arrays as a safetensors file."""
    names = {numpy.dtype(dtype): name for name, dtype in FILE_DTYPES.items()}
    header, blob = {}, b""
    for name, array in tensors.items():
        array = numpy.asarray(array, order="C")
        end = len(blob) + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [len(blob), end]}
        blob += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + blob)


def bits(array):
    """The bits of an array's elements, with every NaN as one."""
    array = numpy.asarray(array)
    kind = {4: numpy.uint32, 2: numpy.uint16, 1: numpy.uint8}[array.dtype.itemsize]
    found = array.copy().reshape(-1).view(kind)
    if array.dtype.kind in "fV":
        found[numpy.isnan(array.reshape(-1).astype(numpy.float32))] = numpy.iinfo(kind).max
    return found


def same(found, expected):
    alike = found.dtype == expected.dtype and found.shape == expected.shape
    return alike and numpy.array_equal(bits(found), bits(expected))


class Golden:
    """A recorded run of Keras's Lion."""

    def __init__(self, folder):
        self.name = folder.name
        self.config, self.input = folder / "config.json", folder / "run.safetensors"
        self.about = json.loads((folder / "case.json").read_text())
        self.run, _ = read_tensors(self.input)
        self.result, self.metadata = read_tensors(folder / "result.safetensors")
        flags = self.about["flags"]
        self.finalize = "--finalize" in flags
        pairs = zip(flags, flags[1:])
        self.excluded = [pattern for flag, pattern in pairs if flag == "--exclude-from-weight-decay"]
        self.steps = 1 + max(int(name.split("/")[1]) for name in self.run if name.startswith("grad/"))

    def parameters(self):
        prefix = "param/"
        return {name[len(prefix):]: array.copy() for name, array in self.run.items() if name.startswith(prefix)}

    def gradients(self, step):
        prefix = f"grad/{step}/"
        return {name[len(prefix):]: array for name, array in self.run.items() if name.startswith(prefix)}


def golden_cases():
    cases = [Golden(folder) for folder in sorted(GOLDEN.iterdir())]
    assert len(cases) >= 132
    return cases


def framework(name):
    """A framework, without which the test file is skipped unless LION_EXPECT_FRAMEWORKS is set."""
    if os.environ.get("LION_EXPECT_FRAMEWORKS"):
        return importlib.import_module(name)
    return pytest.importorskip(name)


BF16 = ml_dtypes.bfloat16
DTYPES = [numpy.float32, numpy.float16, BF16]


def sample(shape, dtype=numpy.float32, seed=0):
    return numpy.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Exported:
    """An array that is known by DLPack alone."""

    def __init__(self, array, legacy=False):
        self.array, self.legacy = array, legacy

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**({} if self.legacy else keywords))
