"""`lion_cpu.torch.Lion`: bits against `lion replay`, layouts and dtypes."""

import subprocess
import sys

import pytest

import lion_cpu

from helpers import read_tensors, write_tensors
from torch_helpers import NATIVE, SHAPES, Lion, parameters, run, same, sample, strided, to_numpy, torch


@pytest.mark.parametrize("dtype", NATIVE, ids=str)
@pytest.mark.parametrize("ours, replayed", [
    ({}, {}),
    ({"weight_decay": 0.1, "betas": (0.5, 0.75)}, {"weight_decay": 0.1, "beta_1": 0.5, "beta_2": 0.75}),
    ({"clipvalue": 0.5}, {"clipvalue": 0.5}),
    ({"clipnorm": 0.5}, {"clipnorm": 0.5}),
    ({"global_clipnorm": 0.5, "weight_decay": 0.1}, {"global_clipnorm": 0.5, "weight_decay": 0.1}),
    ({"gradient_accumulation_steps": 3}, {"gradient_accumulation_steps": 3}),
    ({"ema_momentum": 0.9}, {"use_ema": True, "ema_momentum": 0.9}),
    (
        {"ema_momentum": 0.9, "ema_overwrite_frequency": 2, "gradient_accumulation_steps": 2, "global_clipnorm": 0.1},
        {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2, "gradient_accumulation_steps": 2,
         "global_clipnorm": 0.1},
    ),
    ({"exp_avg_dtype": torch.float32}, {"momentum_dtype": "f32"}),
    ({"exp_avg_dtype": torch.bfloat16}, {"momentum_dtype": "bf16"}),
], ids=lambda value: "-".join(value) or "plain")
def test_the_bits_of_replay(dtype, ours, replayed, tmp_path):
    tensors = parameters(SHAPES, dtype)
    start = {f"param/{place}": to_numpy(tensor).copy() for place, tensor in enumerate(tensors)}
    optimizer = Lion(tensors, lr=0.01, **ours)
    for step, gradients in enumerate(run(optimizer, tensors, 7)):
        start |= {f"grad/{step}/{place}": to_numpy(gradient) for place, gradient in enumerate(gradients)}
    write_tensors(tmp_path / "run", start)
    lion_cpu.replay(tmp_path / "run", tmp_path / "result", learning_rate=0.01, **replayed)
    expected, _ = read_tensors(tmp_path / "result")
    names = {"exp_avg": "momentum", "accumulator": "accumulator", "ema": "ema"}
    for place, tensor in enumerate(tensors):
        found = {f"param/{place}": tensor}
        found |= {f"{names[key]}/{place}": value for key, value in optimizer.state[tensor].items() if key in names}
        assert found.keys() == {name for name in expected if name.endswith(f"/{place}")}
        for name, value in found.items():
            array = to_numpy(value)
            assert array.dtype == expected[name].dtype and array.tobytes() == expected[name].tobytes(), name


LAYOUTS = {
    "channels_last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.transpose(0, 3).contiguous().transpose(0, 3),
    "strided": strided,
}


@pytest.mark.parametrize("dtype", NATIVE, ids=str)
@pytest.mark.parametrize("of_parameter", LAYOUTS)
@pytest.mark.parametrize("of_gradient", [*LAYOUTS, "contiguous"])
@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"ema_momentum": 0.5, "gradient_accumulation_steps": 2}],
                         ids=["decay", "ema"])
def test_any_layout_has_the_bits_of_the_contiguous_one(dtype, of_parameter, of_gradient, options):
    plain = sample((4, 6, 5, 3), dtype).requires_grad_()
    other = LAYOUTS[of_parameter](plain.detach()).requires_grad_()
    assert not other.is_contiguous()
    one, two = Lion([plain], lr=0.01, **options), Lion([other], lr=0.01, **options)
    for step in range(4):
        plain.grad = sample(plain.shape, dtype, step + 1)
        other.grad = LAYOUTS.get(of_gradient, torch.clone)(plain.grad)
        one.step()
        two.step()
    assert same(plain, other)
    for key in one.state[plain]:
        if key != "step":
            assert same(one.state[plain][key], two.state[other][key])


def test_an_expanded_gradient():
    plain, other = parameters([(4, 6)])[0], parameters([(4, 6)])[0]
    gradient = sample((6,), seed=1)
    plain.grad, other.grad = gradient.expand(4, 6).contiguous(), gradient.expand(4, 6)
    Lion([plain], lr=0.01).step()
    Lion([other], lr=0.01).step()
    assert same(plain, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"maximize": True},
                                     {"cautious_decay": True, "weight_decay": 1}], ids=lambda it: "-".join(it))
def test_other_dtypes_take_the_same_steps(dtype, options):
    """Of numbers that f32 holds the step of f64 is that of f32, if nothing rounds: powers of two."""
    real = torch.float64 if dtype.is_complex else dtype
    narrow = (sample((8, 4)) * 16).round() / 16
    options = {"lr": 0.25, "betas": (0.5, 0.5)} | options
    one = narrow.clone().requires_grad_()
    if dtype.is_complex:
        wide = torch.complex(narrow, narrow).to(dtype).requires_grad_()
    else:
        wide = narrow.to(real).requires_grad_()
    first, second = Lion([one], **options), Lion([wide], **options)
    for step in range(3):
        gradient = (sample((8, 4), seed=step) * 4).round() / 4
        one.grad = gradient
        wide.grad = torch.complex(gradient, gradient).to(dtype) if dtype.is_complex else gradient.to(dtype)
        first.step()
        second.step()
    if "weight_decay" not in options:
        found = torch.view_as_real(wide.detach())[..., 0] if dtype.is_complex else wide.detach()
        assert torch.equal(found.to(torch.float64), one.detach().to(torch.float64))
    assert second.state[wide]["exp_avg"].dtype == dtype


def test_a_mixture_of_all_dtypes():
    tensors = [sample((3, 3), dtype).requires_grad_() for dtype in (*NATIVE, torch.float64, torch.complex64)]
    optimizer = Lion(tensors, lr=0.25)
    before = [tensor.detach().clone() for tensor in tensors]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    for tensor, was in zip(tensors, before):
        step = torch.complex(*(torch.tensor(0.25),) * 2) if tensor.is_complex() else 0.25
        assert torch.equal(was - step, tensor.detach()) or tensor.is_complex()
        assert not torch.equal(was, tensor.detach())


def test_maximize_is_the_step_of_the_negated_gradient():
    one, two = parameters(SHAPES), parameters(SHAPES)
    up, down = Lion(one, weight_decay=0.1, maximize=True), Lion(two, weight_decay=0.1)
    for step in range(3):
        for place, (a, b) in enumerate(zip(one, two)):
            a.grad = sample(a.shape, seed=step + place)
            b.grad = -a.grad
        up.step()
        down.step()
    assert all(same(a, b) and same(up.state[a]["exp_avg"], down.state[b]["exp_avg"]) for a, b in zip(one, two))


def test_the_momenta_of_torchs_lions():
    lion_pytorch = pytest.importorskip("lion_pytorch")
    differ = {}
    for form in ("f32", "f64"):
        one, two = parameters([(1000,)])[0], parameters([(1000,)])[0]
        ours, theirs = Lion([one], one_minus_beta=form), lion_pytorch.Lion([two])
        for step in range(5):
            one.grad = sample((1000,), seed=step)
            two.grad = one.grad.clone()
            ours.step()
            theirs.step()
        differ[form] = (ours.state[one]["exp_avg"] - theirs.state[two]["exp_avg"]).abs().max().item()
        assert torch.allclose(one, two, atol=1e-7)
    # PyTorch rounds the product and the sum of add(alpha=...) once: the last bits are its own.
    assert differ["f64"] < 1e-6 and differ["f64"] < differ["f32"] < 1e-5


WITHOUT = """
import torch
from lion_cpu import _torch_parallel, torch as ours
{}
torch.manual_seed(0)
tensors = [torch.randn(shape).requires_grad_() for shape in [(40, 30), (200_000,), (4, 6, 5, 3)]]
optimizer = ours.Lion(tensors, lr=0.01, weight_decay=0.1)
for _ in range(3):
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape)
    optimizer.step()
digest = __import__("hashlib").sha256()
for tensor in tensors:
    digest.update(tensor.detach().numpy().tobytes() + optimizer.state[tensor]["exp_avg"].numpy().tobytes())
print(digest.hexdigest())
"""


def test_an_older_pytorch_has_the_same_bits():
    """One without the table of C functions that reads tensors, and one without a parallel loop for others."""
    lacks = ["pass", "del torch.Tensor.__dlpack_c_exchange_api__", "ours.parallel_functions = lambda: (0, 0)"]
    digests = {
        subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT.format(lack)], check=True, text=True,
                       capture_output=True).stdout
        for lack in lacks
    }
    assert len(digests) == 1
