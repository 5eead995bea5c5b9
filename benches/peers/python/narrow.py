"""Runs one optimizer for bf16 parameters or 8-bit momentum: `narrow.py PEER`. Same protocol as src/bin/narrow.rs."""

import os
import sys
import time
import warnings

import numpy as np
import torch

warnings.filterwarnings("ignore")
LEARNING_RATE, BETA_1, BETA_2 = 1e-4, 0.9, 0.99
NARROW, WIDE = torch.bfloat16, torch.float32


def parameter(length):
    index = np.arange(length)
    return ((1 + (index % 7) / 8) / (1 << (index % 5))).astype(np.float32)


def gradient(step, length):
    index = np.arange(length, dtype=np.uint32)
    with np.errstate(over="ignore"):
        x = index * np.uint32(0x9E3779B9) + np.uint32(step * 0x85EBCA6B & 0xFFFFFFFF)
        x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    noise = ((x ^ (x >> 16)) >> 24).astype(np.int32) - 128
    mean = 12 * ((index % 13).astype(np.int32) - 6)
    return ((noise + mean) / 1024).astype(np.float32)


def lion_pytorch(values):
    from lion_pytorch import Lion

    return Lion(values, lr=LEARNING_RATE, betas=(BETA_1, BETA_2))


def optimi_lion(values):
    from optimi import Lion

    return Lion(values, lr=LEARNING_RATE, betas=(BETA_1, BETA_2), kahan_sum=True)


def optimi_adamw(values):
    from optimi import AdamW

    return AdamW(values, lr=LEARNING_RATE, betas=(BETA_1, BETA_2), weight_decay=0, kahan_sum=True)


def torchao_adamw(values):
    from torchao.optim import _AdamW

    betas = (BETA_1, BETA_2)
    return _AdamW(values, lr=LEARNING_RATE, betas=betas, weight_decay=0, bf16_stochastic_round=True)


def torch_adamw(values):
    return torch.optim.AdamW(values, lr=LEARNING_RATE, betas=(BETA_1, BETA_2), weight_decay=0, fused=True)


def bitsandbytes_lion8(values):
    from bitsandbytes.optim import Lion8bit

    return Lion8bit(values, lr=LEARNING_RATE, betas=(BETA_1, BETA_2))


# The parameter's dtype, and the function that creates the optimizer.
PEERS = {
    "lion-pytorch": (NARROW, lion_pytorch),
    "optimi-lion": (NARROW, optimi_lion),
    "optimi-adamw": (NARROW, optimi_adamw),
    "torchao-adamw": (NARROW, torchao_adamw),
    "torch-adamw": (NARROW, torch_adamw),
    "bitsandbytes-lion8": (WIDE, bitsandbytes_lion8),
}


class Peer:
    def __init__(self, name, length):
        dtype, make = PEERS[name]
        self.value = torch.nn.Parameter(torch.from_numpy(parameter(length)).to(dtype))
        self.set_gradient(0)
        self.optimizer = make([self.value])

    def set_gradient(self, step):
        values = torch.from_numpy(gradient(step, self.value.numel()))
        self.value.grad = values.to(self.value.dtype)

    def step(self):
        self.optimizer.step()

    def values(self):
        """Returns the parameter, plus the Kahan compensation if the optimizer keeps one."""
        kept = self.optimizer.state[self.value].get("kahan_comp")
        found = self.value.detach().float()
        return found.numpy() if kept is None else (found + kept.float()).numpy()


def answer(name, ready, words):
    match words:
        case ["prepare", length]:
            ready.clear()
            ready.append(Peer(name, int(length)))
            # The first step creates the state and does the library's one-time work.
            ready[0].step()
            return "ok"
        case ["time", steps] if ready:
            for _ in range(-(-int(steps) // 10)):
                ready[0].step()
            start = time.perf_counter()
            for _ in range(int(steps)):
                ready[0].step()
            return repr(time.perf_counter() - start)
        case ["trace", length, steps, path]:
            peer = Peer(name, int(length))
            with open(path, "wb") as file:
                for step in range(int(steps)):
                    peer.set_gradient(step)
                    peer.step()
                    file.write(peer.values().tobytes())
            return "ok"
        case ["release"]:
            ready.clear()
            return "ok"
    return f"error no answer to {words}"


def main():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(17)
    torch.set_grad_enabled(False)
    # Output that a library prints must not be mistaken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    ready = []
    for line in sys.stdin:
        try:
            said = answer(sys.argv[1], ready, line.split())
        except Exception as failure:
            said = f"error {type(failure).__name__}: {failure}".replace("\n", " ")
        print(said, file=answers, flush=True)


if __name__ == "__main__":
    main()
