"""Runs lion-pytorch: `torch_lion.py eager|compiled`."""

import os
import sys

import torch
from lion_pytorch import Lion
from protocol import BETA_1, BETA_2, LEARNING_RATE, Peer, serve

COMPILED = {"eager": False, "compiled": True}[sys.argv[1]]
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


class Torch(Peer):
    def __init__(self, parameter, gradient):
        self.value = torch.nn.Parameter(torch.tensor(parameter))
        self.optimizer = Lion([self.value], lr=LEARNING_RATE, betas=(BETA_1, BETA_2), weight_decay=0.0)
        self.set_gradient(gradient)
        self.step = self.optimizer.step
        if COMPILED:
            # Create the state before compilation, so that the compiler sees the step that training repeats.
            self.optimizer.state[self.value]["exp_avg"] = torch.zeros_like(self.value)
            # Compile each size separately instead of one program for all sizes.
            torch._dynamo.reset()
            self.step = torch.compile(self.optimizer.step, dynamic=False)

    def set_gradient(self, gradient):
        self.value.grad = torch.tensor(gradient)

    def parameter(self):
        return self.value.detach().numpy().copy()


# The step itself is not differentiated.
torch.set_grad_enabled(False)
serve(Torch)
