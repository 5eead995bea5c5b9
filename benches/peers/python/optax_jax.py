"""optax's Lion in a jitted function with donated arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from protocol import BETA_1, BETA_2, LEARNING_RATE, Peer, serve

OPTIMIZER = optax.lion(LEARNING_RATE, b1=BETA_1, b2=BETA_2, weight_decay=0.0)


@partial(jax.jit, donate_argnums=(0, 1))
def step(parameter, state, gradient):
    updates, state = OPTIMIZER.update(gradient, state, parameter)
    return optax.apply_updates(parameter, updates), state


class Optax(Peer):
    def __init__(self, parameter, gradient):
        self.value = jnp.array(parameter)
        self.state = OPTIMIZER.init(self.value)
        self.gradient = jnp.array(gradient)

    def set_gradient(self, gradient):
        self.gradient = jnp.array(gradient)

    def step(self):
        self.value, self.state = step(self.value, self.state, self.gradient)

    def finish(self):
        jax.block_until_ready((self.value, self.state))

    def parameter(self):
        # A copy, because a view would prevent the reuse of the memory.
        return np.array(self.value)


serve(Optax)
