#!/usr/bin/env python3
"""Installs other optimizers, times them and ours in turn, and writes a table and a picture. See README.md."""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import report

HERE = Path(__file__).resolve().parent
TARGET = HERE / "target"
PYTHON = TARGET / "venv/bin/python"
RESULTS = HERE.parent / "results"

def build(name):
    return ["cargo", "build", "--release", "--bin", name, "--features", name]


def pip(name):
    return [PYTHON, "-m", "pip", "install", "--quiet", "-r", f"python/requirements-{name}.txt"]


# The command that installs or builds each kind of peer.
INSTALL = {
    "lion": build("lion"),
    "burn": build("burn"),
    "candle": build("candle"),
    "torch": pip("torch"),
    "jax": pip("jax"),
}


class Failure(Exception):
    """The reason for a peer's missing figure."""


class Peer:
    """An optimizer and the process that runs it."""

    def __init__(self, name, kind, command, packages=(), threaded=True):
        self.name, self.kind, self.command, self.packages = name, kind, command, packages
        self.threaded = threaded
        self.process = None

    def start(self, threads):
        count = str(threads)
        environment = os.environ | {
            "RAYON_NUM_THREADS": count,
            "OMP_NUM_THREADS": count,
            # The size of XLA's thread pool.
            "NPROC": count,
            "JAX_PLATFORMS": "cpu",
            "KERAS_BACKEND": "jax",
            "TORCHINDUCTOR_CACHE_DIR": str(TARGET / "inductor"),
        }
        with open(TARGET / f"{self.name.replace(' ', '-')}.log", "w") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=HERE,
                env=environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def ask(self, question):
        try:
            self.process.stdin.write(question + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline().strip()
        except OSError:
            answer = ""
        if not answer:
            raise Failure(f"the process ended at `{question}`, with {self.process.wait()}")
        if answer.startswith("error"):
            raise Failure(answer.removeprefix("error "))
        return answer

    def stop(self):
        if self.process:
            try:
                self.process.stdin.close()
            except OSError:
                pass
            self.process.wait()
            self.process = None

    def time(self, steps):
        """Returns the seconds of one step."""
        return float(self.ask(f"time {steps}")) / steps

    def steps(self, seconds):
        """Returns the number of steps that take this long. It is even: two passes of the limit undo each other."""
        steps = 2
        while (each := self.time(steps)) * steps < seconds / 4:
            steps *= 4
        return max(2, 2 * round(seconds / each / 2))


def rust(binary, *arguments):
    return [TARGET / "release" / binary, *arguments]


def python(script, *arguments):
    return [PYTHON, f"python/{script}.py", *arguments]


def peers():
    return [
        Peer("ours", "lion", rust("lion", "buffers"), ["lion"]),
        Peer("ours on plain Vecs", "lion", rust("lion", "vecs"), ["lion"]),
        Peer("plain loop in Rust", "lion", rust("lion", "loop"), threaded=False),
        Peer("burn", "burn", rust("burn"), ["burn-optim"]),
        Peer("candle (AdamW)", "candle", rust("candle"), ["candle-nn"]),
        Peer("keras on jax", "jax", python("keras_jax"), ["keras", "jax"]),
        Peer("optax", "jax", python("optax_jax"), ["optax", "jax"]),
        Peer("lion-pytorch", "torch", python("torch_lion", "eager"), ["lion-pytorch", "torch"]),
        Peer("lion-pytorch compiled", "torch", python("torch_lion", "compiled"), ["lion-pytorch", "torch"]),
    ]


def install():
    """Installs all kinds of peers. Returns the kinds that failed, with the reason."""
    failures = {}
    TARGET.mkdir(exist_ok=True)
    if not PYTHON.exists():
        venv = attempt([sys.executable, "-m", "venv", TARGET / "venv"])
        failures |= dict.fromkeys(("torch", "jax"), venv) if venv else {}
    for kind, command in INSTALL.items():
        progress(f"installing: {kind}")
        if kind not in failures and (failure := attempt(command)):
            failures[kind] = failure
    return failures


def attempt(command):
    """Runs a command. Returns None, or if it fails the first error line of its output."""
    try:
        # Ignore the caller's target directory: `rust` expects the binaries in TARGET.
        environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
        done = subprocess.run(command, cwd=HERE, env=environment, text=True, capture_output=True)
    except OSError as failure:
        return f"{command[0]}: {failure.strerror}"
    if done.returncode == 0:
        return None
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    errors = [line for line in said if re.match("error", line, re.IGNORECASE)]
    return (errors or said or [f"{command[0]} ended with {done.returncode}"])[0]


def version(package):
    """Returns the locked version of a Rust crate or the pinned version of a Python package."""
    locked = re.search(f'name = "{package}"\nversion = "(.*)"', (HERE / "Cargo.lock").read_text())
    for path in HERE.glob("python/requirements-*.txt"):
        locked = locked or re.search(f"^{package}==(.*)$", path.read_text(), re.MULTILINE)
    return locked.group(1) if locked else "?"


def measure(threads, options, failures):
    """Returns a `report.Line` for each peer and size."""
    lines = []
    # The limit is the better time of one thread and of all threads.
    limits = [(Peer("limit", "lion", rust("lion", "limit")), count) for count in sorted({1, threads})]
    for limit, count in limits:
        limit.start(count)
    running, absent = [], {}
    for peer in peers():
        if peer.kind in failures:
            absent[peer] = f"not installed: {failures[peer.kind]}"
        elif threads > 1 and not peer.threaded:
            absent[peer] = "one thread only"
        else:
            peer.start(threads)
            running.append(peer)
    try:
        for size in options.sizes:
            progress(f"{report.plural(threads)}, {report.count(size)} elements")
            lines += measure_size(threads, size, [limit for limit, _ in limits], running, options)
            lines += [report.Line(peer.name, threads, size, failure=why) for peer, why in absent.items()]
    finally:
        for peer in [limit for limit, _ in limits] + running:
            peer.stop()
    order = [peer.name for peer in peers()]
    return sorted(lines, key=lambda line: order.index(line.peer))


def measure_size(threads, size, limits, running, options):
    def prepared(peer):
        peer.ask(f"prepare {size}")
        return peer.steps(options.seconds)

    limit_steps = [prepared(limit) for limit in limits]
    steps, failed = {}, {}

    def try_(peer, action):
        try:
            return action()
        except Failure as failure:
            progress(f"{peer.name}: {failure}")
            failed[peer] = str(failure)
            steps.pop(peer, None)
            return None

    for peer in running:
        if found := try_(peer, lambda: prepared(peer)):
            steps[peer] = found
    samples = {peer: [] for peer in running}
    for turn in range(options.rounds):
        limit = min(settled(peer, count) for peer, count in zip(limits, limit_steps))
        # Rotate the order, so that each peer begins a round.
        order = list(steps)
        first = turn % max(1, len(order))
        order = order[first:] + order[:first]
        for peer in order:
            if each := try_(peer, lambda: settled(peer, steps[peer])):
                samples[peer].append((each, each / limit))
        if sys.stderr.isatty():
            progress(f"  round {turn + 1} of {options.rounds}", end="\r")
    for peer in [*limits, *steps]:
        peer.ask("release")
    for peer in failed:
        # A process that still answers may succeed at the next size.
        try_(peer, lambda: peer.ask("release"))
    return [line(peer, threads, size, samples[peer], failed.get(peer)) for peer in running]


def settled(peer, steps):
    # Some peers' threads keep spinning for a while after their last step.
    time.sleep(0.01)
    return peer.time(steps)


def line(peer, threads, size, samples, failure):
    if failure or not samples:
        return report.Line(peer.name, threads, size, failure=failure or "no samples")
    times, ratios = zip(*samples)
    return report.Line(
        peer.name,
        threads,
        size,
        ns=statistics.median(times) / size * 1e9,
        ratio=statistics.median(ratios),
        p10=report.quantile(ratios, 0.1),
        p90=report.quantile(ratios, 0.9),
        samples=len(samples),
    )


def progress(text, end="\n"):
    print(text, end=end, file=sys.stderr, flush=True)


def options():
    def numbers(text):
        units = {"K": 1 << 10, "M": 1 << 20}
        return [int(word.rstrip("KM")) * units.get(word[-1], 1) for word in text.split(",")]

    def sizes(text):
        found = numbers(text)
        if any(size <= 0 or size % 32 for size in found):
            # The bandwidth bound skips the tail of a partial vector.
            raise argparse.ArgumentTypeError("multiples of 32")
        return found

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=sizes, default=sizes("1K,16K,256K,4M,64M"), help="elements")
    parser.add_argument("--threads", type=numbers, default=[1, 2], help="as in 1,2; a table each")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.05, help="of one sample, at least two steps")
    parser.add_argument("--name", default=report.machine_name(), help="of the machine, in the file names")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    return parser.parse_args()


def main():
    chosen = options()
    failures = install()
    if "lion" in failures:
        sys.exit(f"nothing to compare with: {failures['lion']}")
    lines = []
    for threads in chosen.threads:
        lines += measure(threads, chosen, failures)
    versions = {peer.name: ", ".join(f"{it} {version(it)}" for it in peer.packages) for peer in peers()}
    command = " ".join(["python3 benches/peers/run.py", *sys.argv[1:]])
    stem = chosen.output / f"peers-{chosen.name}"
    stem.with_suffix(".svg").write_text(report.picture(lines))
    stem.with_suffix(".md").write_text(report.page(lines, versions, command, stem.name, chosen.rounds))
    progress(f"wrote {stem}.md and {stem}.svg")


if __name__ == "__main__":
    main()
