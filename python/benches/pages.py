#!/usr/bin/env python3
"""Times a step of `lion_cpu.torch.Lion` on huge pages and on ordinary pages. Prints a Markdown table.

    python python/benches/pages.py [--threads 1 2] [--seconds 5]

Two optimizers alternate, in random order. Parameters, gradients and momenta of one are on pages of 2 MiB, which the
script asks the system for; those of the other are on pages of 4 KiB. The tensors of each lie one after the other.
"""

import argparse
import mmap
import random
import statistics
import time

import torch
from lion_cpu.torch import Lion
from step import CASES, OPTIONS, once

HUGE = 2 << 20
# madvise(2) of Linux.
ADVICE = {"huge": 14, "ordinary": 15}
SHOWN = ["4 M", "64 M", "GPT-2", "GPT-2, bf16", "2,000 x 4,096"]


class Arena:
    """Memory from which tensors are cut."""

    def __init__(self, size, pages):
        memory = mmap.mmap(-1, size + HUGE)
        memory.madvise(ADVICE[pages])
        self.bytes = torch.frombuffer(memory, dtype=torch.uint8)
        self.at = -self.bytes.data_ptr() % HUGE

    def tensor(self, shape, dtype):
        size = torch.Size(shape).numel() * dtype.itemsize
        cut = self.bytes[self.at:self.at + size].view(dtype).view(shape)
        self.at += -(-size // 64) * 64
        return cut


def optimizer(shapes, dtype, pages):
    size = sum(3 * (torch.Size(shape).numel() * dtype.itemsize + 64) for shape in shapes)
    arena = Arena(size, pages)
    tensors = []
    for shape in shapes:
        tensors.append(arena.tensor(shape, dtype).normal_().requires_grad_())
        tensors[-1].grad = arena.tensor(shape, dtype).normal_()
    made = Lion(tensors, **OPTIONS)
    for tensor in tensors:
        made.state[tensor]["exp_avg"] = arena.tensor(tensor.shape, dtype).zero_()
    return made


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    print("| tensors | threads | ordinary pages, µs | ordinary over huge |\n|---|---|---|---|")
    for name in SHOWN:
        those = {pages: optimizer(*CASES[name], pages) for pages in ADVICE}
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            times = {pages: [] for pages in ADVICE}
            order = list(ADVICE)
            end = time.monotonic() + arguments.seconds
            while time.monotonic() < end:
                for pages in order:
                    times[pages].append(once(those[pages], 1))
                random.shuffle(order)
            huge, ordinary = (statistics.median(times[pages][2:]) for pages in ADVICE)
            print(f"| {name} | {threads} | {ordinary * 1e6:,.1f} | {ordinary / huge:.2f} |", flush=True)


if __name__ == "__main__":
    main()
