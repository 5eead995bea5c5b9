"""A step of Lion as one operation of JAX on CPUs, which also works under `jax.jit`. Experimental.

XLA calls the native step by its interface for foreign functions. XLA does not fuse such a call with the operations
around it, so in a program where XLA would fuse the update with the backward pass this may be slower than optax.
"""

import ctypes

import jax
import jax.ffi
import numpy
from jax import numpy as jnp

from lion_cpu._native import jax_handler

__all__ = ["lion_step"]

_TARGET = "lion_cpu_step"
_DTYPES = (jnp.float32, jnp.float16, jnp.bfloat16)

jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(ctypes.c_void_p(jax_handler())), platform="cpu")


def lion_step(parameter, gradient, momentum, *, learning_rate, beta_1=0.9, beta_2=0.99, weight_decay=0.0):
    """Returns the parameter and the momentum after a step, with the bits of `lion_cpu.numpy.Lion`.

    `learning_rate` may be a number or an array of JAX, such as what a schedule returns under `jax.jit`; the betas and
    `weight_decay` are numbers. Each array is float32, float16 or bfloat16. Under `jax.jit` with `donate_argnums`,
    parameter and momentum are changed in place.
    """
    arrays = {"parameter": parameter, "gradient": gradient, "momentum": momentum}
    for name, array in arrays.items():
        if array.dtype not in _DTYPES:
            raise TypeError(f"{name} has the dtype {array.dtype}; expected float32, float16 or bfloat16")
        if array.shape != parameter.shape:
            raise ValueError(f"{name} has the shape {array.shape}; the parameter has {parameter.shape}")
    like = lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype)
    step = jax.ffi.ffi_call(
        _TARGET, (like(parameter), like(momentum)), input_output_aliases={0: 0, 2: 1}, vmap_method="sequential"
    )
    return step(
        parameter,
        gradient,
        momentum,
        jnp.asarray(learning_rate, jnp.float32),
        beta_1=numpy.float32(beta_1),
        beta_2=numpy.float32(beta_2),
        weight_decay=numpy.float32(weight_decay),
    )
