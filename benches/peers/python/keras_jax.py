"""Keras's Lion on jax, as `fit` runs it: stateless, jitted, with donated arguments."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
from protocol import BETA_1, BETA_2, LEARNING_RATE, Peer, serve


class Keras(Peer):
    def __init__(self, parameter, gradient):
        variable = keras.Variable(parameter, dtype="float32")
        optimizer = keras.optimizers.Lion(LEARNING_RATE, beta_1=BETA_1, beta_2=BETA_2)
        optimizer.build([variable])

        def step(parameters, state, gradients):
            return optimizer.stateless_apply(state, gradients, parameters)

        self.jitted = jax.jit(step, donate_argnums=(0, 1))
        self.parameters = [variable.value]
        self.state = [variable.value for variable in optimizer.variables]
        self.gradients = [jnp.array(gradient)]

    def set_gradient(self, gradient):
        self.gradients = [jnp.array(gradient)]

    def step(self):
        self.parameters, self.state = self.jitted(self.parameters, self.state, self.gradients)

    def finish(self):
        jax.block_until_ready((self.parameters, self.state))

    def parameter(self):
        # A copy, because a view would prevent the reuse of the memory.
        return np.array(self.parameters[0])


serve(Keras)
