"""The Lion optimizer for CPUs, with the same bits on every machine.

`lion_cpu.numpy.Lion` moves arrays of numpy and of any library with DLPack, `lion_cpu.torch.Lion` is an optimizer of
PyTorch, `lion_cpu.keras.Lion` one of Keras.
"""

from lion_cpu._native import Constraint, Metrics, Schedule, __version__, doctor, options, replay, tune
from lion_cpu.errors import LionError

__all__ = ["Constraint", "LionError", "Metrics", "Schedule", "__version__", "doctor", "options", "replay", "tune"]
