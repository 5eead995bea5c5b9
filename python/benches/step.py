#!/usr/bin/env python3
"""Times a step of `lion_cpu.torch.Lion` and of other optimizers. Prints a Markdown table of their times over ours.

    python python/benches/step.py [--threads 1 2] [--cases "16 K" GPT-2] [--peers timm "SGD fused"] [--seconds 3]

The optimizers of a row alternate on the same tensors, in random order. A figure is a quotient of medians. A peer that
is not installed has an empty column. "prepared list" is one call of the C ABI on the same parameters and gradients. Its
list of tensors is built before the call, and its momenta are on huge pages.
It needs `--liblion target/release/liblion_c.so`.

Each row has a process of its own. DeepSpeed and the compiled step have another one each, in which they alternate with
this optimizer only: many compilations in one process end in steps that are compiled again and again, and with both in
the process PyTorch's AdamW took three times as long for one element.
"""

import argparse
import ctypes
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings

import lion_cpu
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
OPTIONS = {"lr": 1e-5, "weight_decay": 0.1}
LEAST_ROUNDS = 7


class Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        *((name, ctypes.c_double) for name in ("rate", "beta_1", "beta_2", "decay")),
        ("json", ctypes.c_char_p), ("plan", ctypes.c_void_p),
    ]


class Plan(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("isa", ctypes.c_char_p)] + [
        (name, ctypes.c_size_t) for name in "threads chunk threshold".split()
    ]


class Update(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t), ("variable", ctypes.c_uint64), ("parameter", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p), ("len", ctypes.c_size_t), ("dtype", ctypes.c_uint32),
        ("gradient_dtype", ctypes.c_uint32), ("start", ctypes.c_size_t), ("end", ctypes.c_size_t),
        ("source", ctypes.c_void_p), ("copy", ctypes.c_void_p), ("copy_dtype", ctypes.c_uint32),
        ("rest", ctypes.c_uint32),
    ]


class PreparedList:
    """Calls `lion_apply` of the C ABI on a list of tensors that is built once."""

    def __init__(self, path, tensors, threads):
        self.library = ctypes.CDLL(path)
        options, plan = Options(), Plan(ctypes.sizeof(Plan), None, threads, 0, 0)
        self._check(self.library.lion_options_init(ctypes.byref(options), ctypes.c_size_t(ctypes.sizeof(Options))))
        options.rate, options.decay, options.plan = 1e-5, 0.1, ctypes.addressof(plan)
        self.optimizer = ctypes.c_void_p()
        self._check(self.library.lion_new(ctypes.byref(options), ctypes.byref(self.optimizer)))
        self.updates = (Update * len(tensors))()
        for place, tensor in enumerate(tensors):
            dtype = {torch.float32: 1, torch.bfloat16: 3}[tensor.dtype]
            shape, variable = (ctypes.c_size_t * tensor.dim())(*tensor.shape), ctypes.c_uint64()
            self._check(self.library.lion_register(
                self.optimizer, str(place).encode(), shape, ctypes.c_size_t(tensor.dim()), ctypes.c_uint32(dtype), None,
                ctypes.byref(variable),
            ))
            self.updates[place] = Update(
                ctypes.sizeof(Update), variable.value, tensor.data_ptr(), tensor.grad.data_ptr(), tensor.numel(), dtype,
                dtype,
            )

    def _check(self, status):
        assert status == 0, status

    def step(self):
        self._check(self.library.lion_apply(self.optimizer, self.updates, ctypes.c_size_t(len(self.updates))))


class Compiled:
    def __init__(self, optimizer):
        self.step = torch.compile(optimizer.step)


def prepared_list(tensors, threads, liblion):
    return PreparedList(liblion, tensors, threads)


def lion_pytorch(tensors, threads, _):
    from lion_pytorch import Lion

    return Lion(tensors, **OPTIONS)


def lion_pytorch_foreach(tensors, threads, _):
    from lion_pytorch.foreach import Lion

    return Lion(tensors, **OPTIONS)


def lion_pytorch_compiled(tensors, threads, _):
    import torch._inductor.graph
    from torch.utils._ordered_set import OrderedSet

    # The compiler collects the origins of each operation to name its kernels. For 2,000 tensors this takes most of an
    # hour of compiling, and changes no kernel.
    torch._inductor.graph.gather_origins = lambda args, kwargs: OrderedSet()
    return Compiled(lion_pytorch_foreach(tensors, threads, _))


def timm(tensors, threads, _):
    from timm.optim import Lion

    return Lion(tensors, **OPTIONS)


def pytorch_optimizer(tensors, threads, _):
    from pytorch_optimizer import Lion

    return Lion(tensors, **OPTIONS)


def deepspeed(tensors, threads, _):
    from deepspeed.ops.lion import DeepSpeedCPULion

    return DeepSpeedCPULion(tensors, fp32_optimizer_states=False, **OPTIONS)


PEERS = {
    "prepared list": prepared_list,
    "lion-pytorch": lion_pytorch,
    "lion-pytorch foreach": lion_pytorch_foreach,
    "compiled": lion_pytorch_compiled,
    "timm": timm,
    "pytorch_optimizer": pytorch_optimizer,
    "DeepSpeed": deepspeed,
    "SGD fused": lambda tensors, *_: torch.optim.SGD(tensors, momentum=0.9, fused=True, **OPTIONS),
    "AdamW fused": lambda tensors, *_: torch.optim.AdamW(tensors, fused=True, **OPTIONS),
}


def once(optimizer, calls):
    begin = time.perf_counter()
    for _ in range(calls):
        optimizer.step()
    return (time.perf_counter() - begin) / calls


def row(name, arguments, threads):
    """Returns the median time of each optimizer by name. Peers that are not installed are left out."""
    shapes, dtype = CASES[name]
    tensors = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape).to(dtype)
    those = {"ours": Lion(tensors, **OPTIONS)}
    for peer in arguments.peers:
        if peer == "compiled" and len(tensors) > arguments.most_compiled:
            continue
        if peer == "prepared list" and not arguments.liblion:
            continue
        try:
            those[peer] = PEERS[peer](tensors, threads, arguments.liblion)
        except ImportError:
            pass
    calls = {}
    for key, optimizer in those.items():
        once(optimizer, 2)
        calls[key] = max(1, int(0.005 / once(optimizer, 1)))
    times = {key: [] for key in those}
    end = time.monotonic() + arguments.seconds
    order = list(those)
    while time.monotonic() < end or len(times["ours"]) < LEAST_ROUNDS:
        for key in order:
            times[key].append(once(those[key], calls[key]))
        # Shuffle the order: each optimizer leaves other data in the caches, and the next one bears the cost.
        random.shuffle(order)
    return {key: statistics.median(found) for key, found in times.items()}


ALONE = ("compiled", "DeepSpeed")


def over_ours(name, arguments, threads):
    """Returns our time, and those of the peers over ours, by name. Processes of their own measure them."""
    shared = [peer for peer in arguments.peers if peer not in ALONE]
    over = {}
    for peers in [shared] * bool(shared) + [[peer] for peer in arguments.peers if peer in ALONE] or [[]]:
        command = [sys.executable, __file__, "--row", name, "--threads", str(threads), "--peers", *peers]
        command += ["--seconds", str(arguments.seconds), "--most-compiled", str(arguments.most_compiled)]
        command += ["--liblion", arguments.liblion] if arguments.liblion else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        over = {peer: time / found["ours"] for peer, time in found.items()} | {"ours": found["ours"]} | over
    return over


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--most-compiled", type=int, default=150,
                        help="the most tensors of a compiled step, as each takes time to compile")
    parser.add_argument("--liblion", help="the library of the C ABI", type=os.path.abspath)
    parser.add_argument("--row", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.row:
        [threads] = arguments.threads
        torch.set_num_threads(threads)
        print(json.dumps(row(arguments.row, arguments, threads)))
        return
    print(f"PyTorch {torch.__version__}, lion_cpu {lion_cpu.__version__}, Python {platform.python_version()}, "
          f"{torch.backends.cpu.get_cpu_capability()}\n")
    print("| tensors | threads | ours, µs | " + " | ".join(arguments.peers) + " |")
    print("|---" * (len(arguments.peers) + 3) + "|")
    for threads in arguments.threads:
        for name in arguments.cases:
            found = over_ours(name, arguments, threads)
            over = [f"{found[peer]:.2f}" if peer in found else "" for peer in arguments.peers]
            print(f"| {name} | {threads} | {found['ours'] * 1e6:,.1f} | " + " | ".join(over) + " |", flush=True)


if __name__ == "__main__":
    main()
