#!/usr/bin/env python3
"""Times a step of `lion_cpu.torch.Lion` beside other optimizers: a Markdown table of their times over ours.

    python python/benches/step.py [--threads 1 2] [--seconds 3] > benches/results/python-MACHINE.md

The optimizers of a row take turns on the same tensors, in random order; a figure is the quotient of medians. Needs
PyTorch and lion-pytorch. "one array" is numpy's optimizer over one array of as many bytes, in f32.
"""

import argparse
import platform
import random
import statistics
import time
import warnings

import numpy
from lion_pytorch import Lion as LionPytorch

import lion_cpu
import lion_cpu.numpy
import torch
from lion_cpu.torch import Lion

GPT2 = [(50257, 768), (1024, 768)] + 12 * [
    (768,), (768,), (768, 2304), (2304,), (768, 768), (768,), (768,), (768,), (768, 3072), (3072,), (3072, 768), (768,),
] + [(768,), (768,)]

CASES = {
    "1": ([(1,)], torch.float32),
    "16 K": ([(1 << 14,)], torch.float32),
    "256 K": ([(1 << 18,)], torch.float32),
    "4 M": ([(1 << 22,)], torch.float32),
    "64 M": ([(1 << 26,)], torch.float32),
    "GPT-2": (GPT2, torch.float32),
    "GPT-2, bf16": (GPT2, torch.bfloat16),
    "2,000 x 4,096": (2000 * [(4096,)], torch.float32),
}


class Array:
    """numpy's optimizer over one array."""

    def __init__(self, elements, threads):
        self.gradients = {"all": numpy.ones(elements, numpy.float32)}
        parameters = {"all": numpy.zeros(elements, numpy.float32)}
        self.optimizer = lion_cpu.numpy.Lion(parameters, weight_decay=0.1, threads=threads)

    def step(self):
        self.optimizer.step(self.gradients)


def optimizers(tensors, threads):
    elements = sum(tensor.numel() * tensor.element_size() for tensor in tensors) // 4
    yield "ours", Lion(tensors, lr=1e-5, weight_decay=0.1)
    yield "one array", Array(elements, threads)
    yield "lion-pytorch", LionPytorch(tensors, lr=1e-5, weight_decay=0.1)
    yield "SGD fused", torch.optim.SGD(tensors, lr=1e-5, momentum=0.9, weight_decay=0.1, fused=True)
    yield "AdamW foreach", torch.optim.AdamW(tensors, lr=1e-5, foreach=True)
    yield "AdamW fused", torch.optim.AdamW(tensors, lr=1e-5, fused=True)


def once(optimizer, calls):
    begin = time.perf_counter()
    for _ in range(calls):
        optimizer.step()
    return (time.perf_counter() - begin) / calls


def row(name, threads, seconds):
    shapes, dtype = CASES[name]
    tensors = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape).to(dtype)
    those = dict(optimizers(tensors, threads))
    calls = {}
    for key, optimizer in those.items():
        once(optimizer, 2)
        calls[key] = max(1, int(0.01 / once(optimizer, 2)))
    times = {key: [] for key in those}
    end = time.monotonic() + seconds
    order = list(those)
    while time.monotonic() < end or len(times["ours"]) < 12:
        for key in order:
            times[key].append(once(those[key], calls[key]))
        # Each comes after each of the others: what one leaves in the caches is not always the same one's to bear.
        random.shuffle(order)
    return {key: statistics.median(found) for key, found in times.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"PyTorch {torch.__version__}, lion_cpu {lion_cpu.__version__}, Python {platform.python_version()}, "
          f"{torch.backends.cpu.get_cpu_capability()}\n")
    head = None
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name in arguments.cases:
            found = row(name, threads, arguments.seconds)
            if head is None:
                head = list(found)
                print("| tensors | threads | " + " | ".join(f"{key} / ours" for key in head[1:]) + " |")
                print("|---" * (len(head) + 1) + "|")
            ratios = [f"{found[key] / found['ours']:.2f}" for key in head[1:]]
            print(f"| {name} | {threads} | " + " | ".join(ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
