#!/usr/bin/env python3
"""Times optimizers for bf16 parameters and 8-bit momentum beside ours, and counts how far each is from the exact one.

Prints the rows of benches/results/narrow-peers-<machine>.md. See README.md.
"""

import argparse
import sys
import tempfile

import report
import run


def peers(interpreter):
    def ours(name, *words):
        return run.Peer(f"ours, {name}", "lion", run.rust("narrow", *words), ["lion"])

    def theirs(name, peer, package):
        return run.Peer(name, "narrow", [interpreter, "python/narrow.py", peer], [package])

    # Each peer, with the update rule that it follows.
    return {
        ours("bf16, to nearest", "bf16/bf16/bf16"): "lion",
        ours("bf16, stochastic", "bf16/bf16/bf16", "stochastic"): "lion",
        ours("bf16, exact split", "bf16/bf16/bf16", "split"): "lion",
        ours("bf16, stochastic, q8", "bf16/bf16/q8", "stochastic"): "lion",
        ours("f32, q8", "f32/f32/q8"): "lion",
        theirs("lion-pytorch, bf16", "lion-pytorch", "lion-pytorch"): "lion",
        theirs("optimi Lion, bf16, Kahan", "optimi-lion", "torch-optimi"): "lion",
        theirs("optimi AdamW, bf16, Kahan", "optimi-adamw", "torch-optimi"): "adamw",
        theirs("torchao AdamW, bf16, stochastic", "torchao-adamw", "torchao"): "adamw",
        theirs("torch AdamW fused, bf16", "torch-adamw", "torch"): "adamw",
        theirs("bitsandbytes Lion8bit, f32", "bitsandbytes-lion8", "bitsandbytes"): "lion",
    }


# Accuracy against the exact optimizer


def exact(np, narrow, rule, length, steps):
    """Yields the parameter after each step, in f64."""
    p, m, v = narrow.parameter(length).astype(np.float64), 0.0, 0.0
    for step in range(steps):
        g = narrow.gradient(step, length).astype(np.float64)
        if rule == "lion":
            p = p - narrow.LEARNING_RATE * np.sign(narrow.BETA_1 * m + (1 - narrow.BETA_1) * g)
            m = narrow.BETA_2 * m + (1 - narrow.BETA_2) * g
        else:
            m = narrow.BETA_1 * m + (1 - narrow.BETA_1) * g
            v = narrow.BETA_2 * v + (1 - narrow.BETA_2) * g * g
            mean, square = m / (1 - narrow.BETA_1 ** (step + 1)), v / (1 - narrow.BETA_2 ** (step + 1))
            p = p - narrow.LEARNING_RATE * mean / (np.sqrt(square) + 1e-8)
        yield p


def errors(np, narrow, rule, trace, length, steps):
    """Returns, in %: the shares of single steps and of total updates with a wrong sign, and the update's error."""
    start = narrow.parameter(length).astype(np.float64)
    found = np.fromfile(trace, dtype=np.float32).reshape(steps, length).astype(np.float64)
    wrong, before, found_before = 0, start, start
    for now, found_now in zip(exact(np, narrow, rule, length, steps), found):
        wrong += np.count_nonzero(np.sign(now - before) != np.sign(found_now - found_before))
        before, found_before = now, found_now
    update, found_update = before - start, found[-1] - start
    whole = np.mean(np.sign(update) != np.sign(found_update))
    error = np.sqrt(np.mean((update - found_update) ** 2) / np.mean(update**2))
    return 100 * wrong / (steps * length), 100 * whole, 100 * error


def accuracy(options):
    """Prints each peer's errors. The interpreter that runs this needs numpy."""
    sys.path.insert(0, str(run.HERE / "python"))
    import narrow
    import numpy as np

    for peer, rule in peers(sys.executable).items():
        peer.start(1)
        try:
            with tempfile.NamedTemporaryFile() as file:
                peer.ask(f"trace {options.length} {options.steps} {file.name}")
                step, whole, error = errors(np, narrow, rule, file.name, options.length, options.steps)
            print(f"| {peer.name} | {step:.2f} | {whole:.2f} | {error:.2f} |", flush=True)
        except run.Failure as failure:
            print(f"| {peer.name} | – | – | – |", flush=True)
            print(f"{peer.name}: {failure}", file=sys.stderr)
        peer.stop()


# Time


def timed(options):
    for threads in options.threads:
        limit = run.Peer("limit", "lion", run.rust("lion", "limit"))
        limit.start(threads)
        running = list(peers(options.python))
        for peer in running:
            peer.start(threads)
        lines = run.measure_size(threads, options.size, [limit], running, options)
        for peer in [limit, *running]:
            peer.stop()
        for line in lines:
            if line.failure:
                print(f"| {line.peer} | {threads} | – | {line.failure} | |", flush=True)
            else:
                band = f"{report.number(line.p10)}–{report.number(line.p90)}"
                figures = f"{line.ns:.3f} | {report.number(line.ratio)} | {band}"
                print(f"| {line.peer} | {threads} | {figures} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["accuracy", "time"])
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the peers")
    parser.add_argument("--size", type=int, default=4 << 20, help="elements that are timed")
    parser.add_argument("--threads", type=lambda text: [int(it) for it in text.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.05, help="of one sample")
    parser.add_argument("--length", type=int, default=1 << 16, help="elements whose errors are counted")
    parser.add_argument("--steps", type=int, default=200, help="whose errors are counted")
    options = parser.parse_args()
    run.TARGET.mkdir(exist_ok=True)
    {"accuracy": accuracy, "time": timed}[options.what](options)


if __name__ == "__main__":
    main()
