"""`lion_cpu.torch.Lion` and PyTorch's threads in processes that were forked during a step of another thread."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import framework

framework("torch")

PREAMBLE = """
import copy, os, pickle, sys, threading
sys.path.insert(0, TESTS)
import numpy, torch
from fork_helpers import TORN, Busy, child, forks, refused
from torch_helpers import Lion, to_numpy
torch.set_num_threads(THREADS)
LARGE, DTYPE = 1 << 21, torch.float32

def made(size=LARGE, dtype=DTYPE, **options):
    parameter = torch.nn.Parameter(torch.zeros(size, dtype=dtype))
    parameter.grad = torch.ones(size, dtype=dtype)
    return parameter, Lion([parameter], lr=1.0, **options)

def uniform(parameter):
    # By numpy, as PyTorch's own operations would wait for threads.
    values = to_numpy(parameter)
    low, high = values.min(), values.max()
    assert low == high, (low, high)
    return low
"""


def run(code, threads, timeout=200):
    preamble = PREAMBLE.replace("TESTS", repr(str(Path(__file__).parent))).replace("THREADS", str(threads))
    command = [sys.executable, "-W", "ignore", "-c", preamble + code]
    done = subprocess.run(command, text=True, capture_output=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]


STEPS = """
held, busy = made(1 << 23)
idle, other = made()
busy.step()
other.step()
expected, same = copy.deepcopy((idle, other))
generator = numpy.random.default_rng(0)
gradients = [torch.from_numpy(generator.standard_normal(LARGE, numpy.float32)) for _ in range(3)]
for gradient in gradients:
    same.param_groups[0]["params"][0].grad = gradient
    same.step()
expected = same.param_groups[0]["params"][0].detach().numpy().view(numpy.uint32)

def work():
    for gradient in gradients:
        idle.grad = gradient
        other.step()
    assert numpy.array_equal(idle.detach().numpy().view(numpy.uint32), expected)
    if not refused(lambda: STEP):
        assert uniform(held) < -1
        return 0
    for call in [
        busy.step, lambda: busy.step_parameter(held), busy.state_dict, lambda: copy.deepcopy(busy),
        lambda: pickle.dumps(busy), lambda: busy.master(held),
        lambda: busy.add_param_group({"params": [torch.nn.Parameter(torch.zeros(3))]}),
    ]:
        assert refused(call)
    # A checkpoint of both makes it whole.
    numpy.copyto(held.detach().numpy(), 0)
    busy.load_state_dict(saved)
    busy.step()
    assert uniform(held) == -1
    return TORN

saved = Lion([torch.nn.Parameter(torch.zeros(1 << 23))], lr=1.0).state_dict()
assert forks(lambda: STEP, work) > 5
assert uniform(held) < -5
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("step", ["busy.step()", "busy.step_parameter(held)"])
def test_a_fork_in_the_middle_of_another_threads_step(step, threads):
    run(STEPS.replace("STEP", step), threads)


FOREIGN = """
# Both kinds of step, and a fork between them.
held, busy = made(1 << 19)
foreign = torch.nn.Parameter(torch.zeros(1 << 22, dtype=torch.float64))
foreign.grad = torch.ones_like(foreign)
busy.add_param_group({"params": [foreign]})
busy.step()

def work():
    if refused(busy.step):
        assert refused(busy.state_dict)
        return TORN
    assert uniform(held) == uniform(foreign)

assert forks(busy.step, work) > 5
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_in_the_middle_of_pytorchs_operations(threads):
    run(FOREIGN, threads)


CHILD_ONLY = """
def small():
    def work():
        parameter, optimizer = made(8)
        optimizer.step()
        assert uniform(parameter) == -1
    return work

def first_step(**options):
    parameter, optimizer = made(**options)
    def work():
        for _ in range(3):
            optimizer.step()
        assert uniform(parameter) == -3
    return work

def shared_gradient():
    parameter, optimizer = made()
    optimizer.step()
    parameter.grad = parameter.detach()
    def work():
        optimizer.step()
        assert uniform(parameter) == 0
    return work

def master():
    parameter, optimizer = made(dtype=torch.bfloat16, split=True)
    optimizer.step()
    values, saved = torch.full((LARGE,), 0.7), optimizer.state_dict()
    def work():
        optimizer.set_master(parameter, values)
        assert uniform(optimizer.master(parameter)) == numpy.float32(0.7)
        optimizer.load_state_dict(saved)
    return work

assert child(CASE) == 0
"""
CASES = [
    "small()", "first_step()", "first_step(dtype=torch.float64)", "first_step(dtype=torch.bfloat16)",
    "first_step(dtype=torch.bfloat16, exp_avg_dtype='q8')", "first_step(global_clipnorm=1e9)",
    "first_step(ema_momentum=0.5)", "shared_gradient()", "master()",
]


@pytest.mark.parametrize("case", CASES)
def test_pytorchs_threads_are_the_parents(case):
    run(CHILD_ONLY.replace("CASE", case), 2, timeout=60)


NUMBER = """
parameter, optimizer = made()
optimizer.step()

def threads():
    return len(os.listdir("/proc/self/task"))

def work(limit):
    torch.set_num_threads(limit)
    before = threads()
    for _ in range(50):
        optimizer.step()
    assert (threads() == before) == (limit == 1), (before, threads())

for limit in [1, 2]:
    assert child(lambda: work(limit)) == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_forked_process_has_as_many_threads_as_pytorch_says():
    run(NUMBER, 2)


LOADER = """
from torch.utils.data import DataLoader, Dataset

class Fitted(Dataset):
    # Each element is the result of a small training.
    def __len__(self):
        return 16

    def __getitem__(self, index):
        parameter, optimizer = made(40_000)
        for _ in range(index):
            optimizer.step()
        return torch.from_numpy(parameter.detach().numpy()[:1].copy())

held, busy = made(1 << 22)
busy.step()
with Busy(busy.step):
    for _ in range(5):
        loader = DataLoader(Fitted(), batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=30)
        values = torch.cat(list(loader)).flatten().tolist()
        assert values == [-float(index) for index in range(16)], values
assert uniform(held) < -5
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_of_a_data_loader(threads):
    run(LOADER, threads)
