"""PyTorch's threads, by its stable C interface."""

import contextlib
import ctypes
import glob
import os

import torch
from lion_cpu._native import forks


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


@contextlib.contextmanager
def living_threads():
    """In a forked process keeps PyTorch's operations on this thread: OpenMP would wait for the parent's others."""
    threads = torch.get_num_threads() if forks() else 1
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def copied(tensor, method):
    """Calls a method of a tensor that copies it."""
    with living_threads():
        return getattr(tensor, method)()
