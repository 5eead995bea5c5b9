"""A drop-in for `keras.optimizers.Lion`: native on Keras's numpy and torch backends, Keras's own code elsewhere.

A native step is one pass, in place. It takes float32 variables with every option, and float16 and bfloat16 variables
without averages and accumulation, whose state Keras stores in the variable's dtype. All other steps are Keras's own:
with any other variable or gradient, within a stateless scope, or on another backend.
"""

import contextlib
import sys

import keras
import numpy
from keras.src.backend.common.stateless_scope import in_stateless_scope

from lion_cpu._native import Calls, KerasSteps

__all__ = ["Lion"]

_BACKEND = keras.backend.backend()
_DTYPES = ("float32", "float16", "bfloat16")


@keras.saving.register_keras_serializable(package="lion_cpu")
class Lion(keras.optimizers.Lion):
    __doc__ = keras.optimizers.Lion.__doc__

    def apply(self, grads, trainable_variables=None):
        with _calls(self), _living_threads():
            return super().apply(grads, trainable_variables)

    def save_own_variables(self, store):
        _calls(self).check()
        super().save_own_variables(store)

    def load_own_variables(self, store):
        with _living_threads():
            super().load_own_variables(store)
        self.__dict__.pop(_CALLS, None)

    def _backend_apply_gradients(self, grads, trainable_variables):
        variables = _variables(self, grads, trainable_variables)
        if variables is None:
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        clips = ((name, getattr(self, name)) for name in ("clipnorm", "global_clipnorm", "clipvalue"))
        count, steps = int(self._iterations), self.gradient_accumulation_steps
        window = count // steps if steps else count
        frequency = self.ema_overwrite_frequency
        average = None
        if self.use_ema:
            overwrites = bool(frequency) and (window + 1) % frequency == 0
            average = (float(self.ema_momentum) if window else 0.0, overwrites)
        _steps().step(
            variables,
            learning_rate=float(numpy.float32(keras.ops.convert_to_numpy(self.learning_rate))),
            beta_1=float(self.beta_1),
            beta_2=float(self.beta_2),
            weight_decay=None if self.weight_decay is None else float(self.weight_decay),
            clip=next(((name, float(limit)) for name, limit in clips if limit and limit > 0), None),
            accumulation=(steps, (count + 1) % steps == 0) if steps else None,
            ema=average,
        )
        _bump(variables)


_CALLS = "_lion_calls"


def _calls(optimizer):
    """The optimizer's running calls. Keras would take an attribute that is set as part of the state."""
    return optimizer.__dict__.setdefault(_CALLS, Calls())


def _living_threads():
    if _BACKEND != "torch":
        return contextlib.nullcontext()
    from lion_cpu._torch_parallel import living_threads

    return living_threads()


def _variables(optimizer, grads, trainable_variables):
    """The tensors of a native step, or None if the step is Keras's."""
    if _BACKEND not in _TENSORS or in_stateless_scope():
        return None
    read = _TENSORS[_BACKEND]
    plain = not (optimizer.use_ema or optimizer.gradient_accumulation_steps)
    gradients = dict(zip(map(id, trainable_variables), grads))
    if len(gradients) != len(trainable_variables):
        return None
    # Variables without a gradient too: their averages move, and the end of a window clears their accumulators.
    every = trainable_variables if plain else optimizer._trainable_variables
    found = []
    for variable in every:
        index = optimizer._get_variable_index(variable)
        momentum = optimizer._momentums[index]
        if momentum is None:
            continue
        state = [momentum]
        state.append(optimizer._accumulated_gradients[index] if optimizer.gradient_accumulation_steps else None)
        state.append(optimizer._model_variables_moving_average[index] if optimizer.use_ema else None)
        tensors = [None if it is None else read(it) for it in (variable, *state)]
        gradient = gradients.get(id(variable))
        dtype = str(variable.dtype)
        if dtype not in (_DTYPES if plain else _DTYPES[:1]) or any(tensor is None for tensor in tensors[:2]):
            return None
        if gradient is not None:
            gradient = _gradient(gradient)
            if gradient is None or keras.backend.standardize_dtype(gradient.dtype) != dtype:
                return None
        value, *state = tensors
        found.append((value, gradient, *state, optimizer._use_weight_decay(variable)))
    return found


def _array(variable):
    """Returns a variable's array, after replacing it by a copy if other code holds it."""
    array = variable._value
    if type(array) is not numpy.ndarray:
        return None
    # The variable, its note of the array, the name here and the argument.
    if getattr(variable, "_lion_array", None) is not array or sys.getrefcount(array) > 4:
        variable._value = variable._lion_array = array = numpy.array(array, order="C")
    return array


def _tensor(variable):
    tensor = variable.value
    if tensor.device.type != "cpu" or type(tensor).__module__.split(".")[0] != "torch":
        return None
    tensor = tensor.detach()
    return tensor if tensor.is_contiguous() and type(tensor).__name__ == "Tensor" else None


def _gradient(gradient):
    if _BACKEND == "numpy":
        # numpy's operations on a scalar return a number, not an array.
        return numpy.asarray(gradient, order="C") if isinstance(gradient, numpy.ndarray | numpy.generic) else None
    if type(gradient).__name__ not in ("Tensor", "Parameter") or gradient.layout is not _strided():
        return None
    return gradient.detach().resolve_neg().contiguous() if gradient.device.type == "cpu" else None


_TENSORS = {"numpy": _array, "torch": _tensor}


def _strided():
    import torch

    return torch.strided


def _steps():
    if not _STEPS:
        functions = (0, 0)
        if _BACKEND == "torch":
            from lion_cpu._torch_parallel import parallel_functions

            functions = parallel_functions()
        _STEPS.append(KerasSteps(functions))
    return _STEPS[0]


_STEPS = []


def _bump(variables):
    """Tells PyTorch's autograd of the writes."""
    if _BACKEND == "torch":
        import torch

        torch.autograd.graph.increment_version([value for value, *_ in variables])
