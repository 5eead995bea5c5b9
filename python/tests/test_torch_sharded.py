"""`lion_cpu.torch.Lion` under PyTorch's own sharding: two processes have the bits of one."""

import pathlib
import subprocess
import sys

import pytest

from torch_helpers import torch

HEAD = """
import os, sys, torch, torch.distributed as dist
from lion_cpu.torch import Lion

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
torch.set_num_threads(1)

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(16, 4))

# Small whole numbers: every reduction is exact, in whatever order.
def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(-2, 3, (4, 8), generator=generator).float()

def gradients(module, step):
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randint(-3, 4, p.shape, generator=generator).float() for p in module.parameters()]

alone = model()
reference = Lion(alone.parameters(), lr=0.01, weight_decay=0.1)
for step in range(4):
    for p, g in zip(alone.parameters(), gradients(alone, step)):
        p.grad = g
    reference.step()
"""

ZERO = HEAD + """
from torch.distributed.optim import ZeroRedundancyOptimizer
module = model()
optimizer = ZeroRedundancyOptimizer(module.parameters(), optimizer_class=Lion, lr=0.01, weight_decay=0.1)
for step in range(4):
    for p, g in zip(module.parameters(), gradients(module, step)):
        p.grad = g
    optimizer.step()
assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), module.parameters()))
optimizer.consolidate_state_dict(0)
if rank == 0:
    saved = optimizer.state_dict()["state"]
    for place, p in enumerate(alone.parameters()):
        assert torch.equal(saved[place]["exp_avg"], reference.state[p]["exp_avg"])
dist.barrier()
"""

FSDP = HEAD + """
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

module = model()
mesh = init_device_mesh("cpu", (2,))
for layer in module:
    fully_shard(layer, mesh=mesh)
fully_shard(module, mesh=mesh)
optimizer = Lion(module.parameters(), lr=0.01, weight_decay=0.1)

def step(number):
    for p, g in zip(module.parameters(), gradients(alone, number)):
        p.grad = distribute_tensor(g, mesh, p.placements)
    optimizer.step()

for number in range(2):
    step(number)
state = {"optimizer": get_optimizer_state_dict(module, optimizer)}
dcp.save(state, checkpoint_id=f"{folder}/checkpoint")
for tensor in optimizer.state.values():
    tensor["exp_avg"].zero_()
dcp.load(state, checkpoint_id=f"{folder}/checkpoint")
set_optimizer_state_dict(module, optimizer, state["optimizer"])
for number in range(2, 4):
    step(number)
for a, b in zip(alone.parameters(), module.parameters()):
    assert isinstance(b, DTensor) and torch.equal(a, b.full_tensor())
    assert torch.equal(reference.state[a]["exp_avg"], optimizer.state[b]["exp_avg"].full_tensor())
dist.barrier()
"""


@pytest.mark.parametrize("code", [ZERO, FSDP], ids=["ZeroRedundancyOptimizer", "fully_shard"])
def test_two_processes_have_the_bits_of_one(code, tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("a PyTorch without torch.distributed")
    script = pathlib.Path(tmp_path, "rank.py")
    script.write_text(code + "\ndist.destroy_process_group()\n")
    ranks = [
        subprocess.Popen([sys.executable, "-W", "ignore", str(script), str(rank), str(tmp_path)], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)[-4000:]
