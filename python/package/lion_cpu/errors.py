"""One exception for each kind of error; each is also the built-in exception that Python would raise."""


class LionError(Exception):
    """Any error of the optimizer."""


class LionValueError(LionError, ValueError):
    """An option outside its range or of another type, or options that exclude each other."""


class LionNameError(LionError, LookupError):
    """The name or the number of something that does not exist, or a name that exists already."""


class LionFormatError(LionError, ValueError):
    """Text or a file that is not what it must be."""


class LionTensorError(LionError, ValueError):
    """A tensor of another shape, length or dtype than its variable's."""


class LionStepError(LionError, RuntimeError):
    """Variables that a step must have, must not have, or has twice."""


class LionStateError(LionError, ValueError):
    """A checkpoint of another optimizer."""


class LionIOError(LionError, OSError):
    """A file that the system does not let be read or written."""


class LionMemoryError(LionError, MemoryError):
    """Memory that the system does not give."""


class LionUnsupportedError(LionError, RuntimeError):
    """What is right, and cannot be done here: on this machine, in this format, after the optimizer was built."""


KINDS = {
    "value": LionValueError,
    "name": LionNameError,
    "format": LionFormatError,
    "tensor": LionTensorError,
    "step": LionStepError,
    "state": LionStateError,
    "io": LionIOError,
    "memory": LionMemoryError,
    "unsupported": LionUnsupportedError,
}


def of_kind(kind, message):
    return KINDS.get(kind, LionError)(message)
