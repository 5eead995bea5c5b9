"""Processes that were forked during a step of another thread, with `lion_cpu.numpy.Lion` and `lion_cpu.keras.Lion`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import framework

PREAMBLE = """
import logging, os, sys, threading
sys.path.insert(0, TESTS)
import numpy
from fork_helpers import TORN, child, forks, refused
THREADS = int(os.environ["TEST_THREADS"])
"""


def run(code, threads=2, **environment):
    preamble = PREAMBLE.replace("TESTS", repr(str(Path(__file__).parent)))
    environment = {**os.environ, "TEST_THREADS": str(threads), **environment}
    command = [sys.executable, "-W", "ignore", "-c", preamble + code]
    done = subprocess.run(command, text=True, capture_output=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]


NUMPY = """
from lion_cpu.numpy import Lion

def made(size, **options):
    return Lion({"w": numpy.zeros(size, numpy.float32)}, learning_rate=1.0, threads=THREADS, **options)

ones = numpy.ones(1 << 23, numpy.float32)
"""

NUMPY_STEPS = NUMPY + """
busy, idle = made(1 << 23), made(1 << 21)
step = lambda: busy.step({"w": ones})
gradients = numpy.random.default_rng(0).standard_normal((4, 1 << 21), numpy.float32)
same = made(1 << 21)
for gradient in gradients:
    same.step({"w": gradient})
expected = same.parameters["w"].view(numpy.uint32)
idle.step({"w": gradients[0]})

def work():
    for gradient in gradients[1:]:
        idle.step({"w": gradient})
    assert numpy.array_equal(idle.parameters["w"].view(numpy.uint32), expected)
    if refused(step):
        for call in [lambda: busy.iterations, lambda: busy.state("w"), lambda: busy.save("/dev/null")]:
            assert refused(call)
        return TORN
    assert busy.parameters["w"].min() == busy.parameters["w"].max()

step()
assert forks(step, work) > 5

# The same in a child, whose pool is another.
def generation():
    global busy, step
    busy = made(1 << 23)
    step = lambda: busy.step({"w": ones})
    step()
    assert forks(step, work, 10) > 2

assert child(generation, 120) == 0
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_in_the_middle_of_another_threads_step(threads):
    run(NUMPY_STEPS, threads)


POOL = NUMPY + """
first, second = made(1 << 20), made(1 << 20)

def step(optimizer):
    optimizer.step({"w": ones[: 1 << 20]})

step(first)
step(second)

def work(spin):
    # The step starts the pool of this process.
    thread = threading.Thread(target=step, args=(first,))
    thread.start()
    for _ in range(spin):
        pass
    return child(lambda: step(second))

assert [child(lambda: work(5 * place)) for place in range(60)] == [0] * 60
"""


def test_a_fork_while_another_thread_starts_the_pool():
    run(POOL)


SCHEDULE = NUMPY + """
def rate(step):
    global code
    if step == 1:
        process = os.fork()
        code = None if process == 0 else os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return 1.0

array = numpy.zeros(1 << 21, numpy.float32)
optimizer = Lion({"w": array}, learning_rate=rate, threads=THREADS)
optimizer.step({"w": ones[: 1 << 21]})
try:
    optimizer.step({"w": ones[: 1 << 21]})
    assert code == 20 and numpy.all(array == -2)
except RuntimeError as error:
    # Nothing has been written in the child.
    assert "forked" in str(error) and code is None and numpy.all(array == -1)
    os._exit(20)
"""


def test_a_schedule_that_forks():
    run(SCHEDULE)


LOGGER = NUMPY + """
class Handler(logging.Handler):
    def emit(self, record):
        if not codes:
            codes.append(0)
            codes.append(child(lambda: made(4) and None))

codes = []
logging.getLogger("lion_cpu").addHandler(Handler())
made(4)
assert codes == [0, 0], codes
"""


def test_a_fork_while_the_profile_is_read():
    run(LOGGER, LION_PROFILE="/does/not/exist.toml")


KERAS = """
import keras
from lion_cpu.keras import Lion
if keras.backend.backend() == "torch":
    import torch
    torch.set_num_threads(THREADS)
to_tensor, to_numpy = keras.ops.convert_to_tensor, keras.ops.convert_to_numpy

def made(size, **options):
    # Without PyTorch's operations, which would wait for threads in a child.
    variable = keras.Variable(numpy.zeros(size, numpy.float32))
    optimizer = Lion(1.0, **options)
    optimizer.build([variable])
    return variable, optimizer, [to_tensor(numpy.ones(size, numpy.float32))]

def uniform(variable):
    values = to_numpy(variable)
    assert values.min() == values.max(), (values.min(), values.max())
    return values.min()

held, busy, large = made(1 << 22, **OPTIONS)
idle, other, small = made(1 << 20, **OPTIONS)
busy.apply(large, [held])
other.apply(small, [idle])

def work():
    for _ in range(3):
        other.apply(small, [idle])
    assert uniform(idle) == -4
    if refused(lambda: busy.apply(large, [held])):
        assert refused(lambda: busy.save_own_variables({}))
        stored = {}
        other.save_own_variables(stored)
        if keras.backend.backend() == "torch":
            # As PyTorch's own operations need it here.
            torch.set_num_threads(1)
        stored["2"] = numpy.zeros(1 << 22, numpy.float32)
        held.assign(numpy.zeros(1 << 22, numpy.float32))
        busy.load_own_variables(stored)
        busy.apply(large, [held])
        assert uniform(held) == -1
        return TORN
    uniform(held)

assert forks(lambda: busy.apply(large, [held]), work, 12) > 2
assert uniform(held) < -5
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", ["{}", "{'clipnorm': 1e9}"])
@pytest.mark.parametrize("backend, needs", [("numpy", "jax"), ("torch", "torch")])
def test_keras_on(backend, needs, options, threads):
    framework(needs)
    if importlib.util.find_spec("keras") is None:
        framework("keras")
    run(KERAS.replace("OPTIONS", options), threads, KERAS_BACKEND=backend)
