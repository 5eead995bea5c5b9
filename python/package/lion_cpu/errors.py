"""One exception for each kind of error; each is also the built-in exception that Python would raise."""


class LionError(Exception):
    """Any error of the optimizer."""


class LionValueError(LionError, ValueError):
    """An option outside its range or of another type, or options that exclude each other."""


class LionNameError(LionError, LookupError):
    """The name or the number of something that does not exist, or a name that exists already."""


class LionFormatError(LionError, ValueError):
    """Text or a file in the wrong format."""


class LionTensorError(LionError, ValueError):
    """A tensor of another shape, length or dtype than its variable's."""


class LionStepError(LionError, RuntimeError):
    """Variables that are missing in a step, not allowed, or given twice."""


class LionStateError(LionError, ValueError):
    """A checkpoint of another optimizer."""


class LionIOError(LionError, OSError):
    """A file that cannot be read or written."""


class LionMemoryError(LionError, MemoryError):
    """Out of memory."""


class LionUnsupportedError(LionError, RuntimeError):
    """A valid request that this machine, format or optimizer does not support."""


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
