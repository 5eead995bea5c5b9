"""PyTorch's threads, by its stable C interface."""

import ctypes
import glob
import os

import torch


def parallel_functions():
    """The addresses of PyTorch's parallel loop and of its number of threads; zeros where a version lacks them."""
    for path in glob.glob(os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.*")):
        try:
            library = ctypes.CDLL(path)
            return tuple(
                ctypes.cast(getattr(library, name), ctypes.c_void_p).value
                for name in ("torch_parallel_for", "torch_get_num_threads")
            )
        except (AttributeError, OSError):
            pass
    return (0, 0)
