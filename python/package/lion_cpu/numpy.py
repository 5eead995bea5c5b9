"""The optimizer over named arrays of numpy (bfloat16 is that of ml_dtypes), or of any library with DLPack."""

from lion_cpu._native import Lion

__all__ = ["Lion"]
