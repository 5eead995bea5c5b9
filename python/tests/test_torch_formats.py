"""`lion_cpu.torch.Lion` with stochastic rounding, the exact split, 8-bit momentum and scaled decay, by bits."""

import copy
import io
import pickle

import numpy
import pytest

import lion_cpu
import lion_cpu.numpy

from helpers import read_tensors, write_tensors
from torch_helpers import SHAPES, Lion, parameters, run, same, sample, to_numpy, torch

BF16 = torch.bfloat16
OPTIONS = {
    "stochastic": (BF16, {"stochastic_rounding": 7}, {"stochastic_rounding": 7}),
    "stochastic, q8": (
        BF16,
        {"stochastic_rounding": 2**63 - 1, "exp_avg_dtype": "q8", "weight_decay": 0.1},
        {"stochastic_rounding": 2**63 - 1, "momentum_dtype": "q8", "weight_decay": 0.1},
    ),
    "stochastic, accumulated": (
        BF16,
        {"stochastic_rounding": 0, "gradient_accumulation_steps": 2, "ema_momentum": 0.9, "clipnorm": 0.5},
        {"stochastic_rounding": 0, "gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.9,
         "clipnorm": 0.5},
    ),
    "split": (BF16, {"split": True, "weight_decay": 0.1}, {"split_master": True, "weight_decay": 0.1}),
    "split, q8": (BF16, {"split": True, "exp_avg_dtype": "q8"}, {"split_master": True, "momentum_dtype": "q8"}),
    "split, averaged": (
        BF16,
        {"split": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3, "global_clipnorm": 0.1},
        {"split_master": True, "use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3,
         "global_clipnorm": 0.1},
    ),
    "q8": (torch.float32, {"exp_avg_dtype": "q8"}, {"momentum_dtype": "q8"}),
    "q8 of f16": (torch.float16, {"exp_avg_dtype": "q8", "clipvalue": 0.5}, {"momentum_dtype": "q8", "clipvalue": 0.5}),
    "masked decay": (
        torch.float32,
        {"weight_decay": 0.5, "cautious_decay": True},
        {"weight_decay": 0.5, "cautious_decay": True},
    ),
    "relative decay": (
        torch.float32,
        {"weight_decay": 0.001, "decay_scale": "relative:0.02"},
        {"weight_decay": 0.001, "decay_scale": "relative:0.02"},
    ),
    "corrected decay": (
        BF16,
        {"weight_decay": 0.1, "decay_scale": "corrected:0.02", "split": True},
        {"weight_decay": 0.1, "decay_scale": "corrected:0.02", "split_master": True},
    ),
}
NAMES = {"exp_avg": "momentum", "accumulator": "accumulator", "ema": "ema", "low": "low",
         "exp_avg_scale": "momentum_scale"}
with_every_option = pytest.mark.parametrize("dtype, ours, replayed", OPTIONS.values(), ids=OPTIONS)


def to_array(tensor):
    return tensor.numpy() if tensor.dtype in (torch.int8, torch.int16) else to_numpy(tensor)


def state_of(optimizer, tensor):
    return {NAMES[key]: to_array(value) for key, value in optimizer.state[tensor].items() if key in NAMES}


@pytest.mark.parametrize("named", [False, True], ids=["numbered", "named"])
@with_every_option
def test_the_bits_of_replay(dtype, ours, replayed, named, tmp_path):
    tensors = parameters(SHAPES, dtype)
    names = [f"layer.{place}" if named else str(place) for place in range(len(tensors))]
    start = {f"param/{name}": to_numpy(tensor).copy() for name, tensor in zip(names, tensors)}
    optimizer = Lion(list(zip(names, tensors)) if named else tensors, lr=0.01, **ours)
    for step, gradients in enumerate(run(optimizer, tensors, 7)):
        start |= {f"grad/{step}/{name}": to_numpy(gradient) for name, gradient in zip(names, gradients)}
    write_tensors(tmp_path / "run", start)
    lion_cpu.replay(tmp_path / "run", tmp_path / "result", learning_rate=0.01, **replayed)
    expected, _ = read_tensors(tmp_path / "result")
    for name, tensor in zip(names, tensors):
        found = {f"param/{name}": to_numpy(tensor)}
        found |= {f"{role}/{name}": value for role, value in state_of(optimizer, tensor).items()}
        assert found.keys() == {key for key in expected if key.endswith(f"/{name}")}
        for key, value in found.items():
            wanted = expected[key]
            assert value.dtype == wanted.dtype and value.tobytes() == wanted.tobytes(), key


@with_every_option
def test_the_bits_of_numpys_optimizer(dtype, ours, replayed):
    tensors = parameters(SHAPES, dtype)
    arrays = {str(place): to_numpy(tensor).copy() for place, tensor in enumerate(tensors)}
    one, other = Lion(tensors, lr=0.01, **ours), lion_cpu.numpy.Lion(arrays, learning_rate=0.01, **replayed)
    for gradients in run(one, tensors, 4):
        other.step({str(place): to_numpy(gradient) for place, gradient in enumerate(gradients)})
    for place, tensor in enumerate(tensors):
        assert to_numpy(tensor).tobytes() == arrays[str(place)].tobytes()
        found, expected = one.state[tensor], other.state(str(place))
        assert ("low" in found) == ("low" in expected)
        assert "low" not in found or numpy.array_equal(found["low"].numpy(), expected["low"])


@with_every_option
@pytest.mark.parametrize("layout", ["transposed", "strided", "channels_last"])
def test_any_layout_has_the_bits_of_the_contiguous_one(dtype, ours, replayed, layout):
    plain = sample((4, 6, 5, 7), dtype).requires_grad_()
    wide = torch.empty(4, 6, 5, 14, dtype=dtype)
    other = {
        "transposed": lambda it: it.transpose(0, 3).contiguous().transpose(0, 3),
        "strided": lambda it: wide[..., ::2].copy_(it),
        "channels_last": lambda it: it.contiguous(memory_format=torch.channels_last),
    }[layout](plain.detach()).requires_grad_()
    assert not other.is_contiguous()
    one, two = Lion([plain], lr=0.01, **ours), Lion([other], lr=0.01, **ours)
    for step in range(4):
        plain.grad = sample(plain.shape, dtype, step + 1)
        other.grad = plain.grad.clone()
        one.step()
        two.step()
    assert same(plain, other)
    for key, value in one.state[plain].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, two.state[other][key]), key


def split_and_wide(**options):
    high = parameters(SHAPES, BF16)
    wide = [tensor.detach().float().requires_grad_() for tensor in high]
    return (high, Lion(high, lr=1e-4, split=True, **options)), (wide, Lion(wide, lr=1e-4, **options))


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "ema_momentum": 0.9, "ema_overwrite_frequency": 5}],
                         ids=["plain", "averaged"])
def test_a_split_run_is_the_f32_run(options):
    (high, split), (wide, plain) = split_and_wide(exp_avg_dtype=torch.float32, **options)
    for step in range(50):
        for place, (one, two) in enumerate(zip(high, wide)):
            one.grad = sample(one.shape, BF16, 1000 * step + place) if (step + place) % 7 else None
            two.grad = None if one.grad is None else one.grad.float()
        split.step()
        plain.step()
    for one, two in zip(high, wide):
        assert same(split.master(one), two) and same(plain.master(two), two)
        assert torch.equal(split.state[one]["exp_avg"], plain.state[two]["exp_avg"])
        assert (one.float() - two).abs().max() <= two.abs().max() / 256


def test_a_split_parameter_starts_from_f32():
    values = sample((1000,))
    values[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38])
    parameter = torch.nn.Parameter(values.to(BF16))
    optimizer = Lion([parameter], lr=1e-5, split=True)
    optimizer.set_master(parameter, values)
    assert same(optimizer.master(parameter), values)
    wide = values.clone().requires_grad_()
    plain = Lion([wide], lr=1e-5, exp_avg_dtype=BF16)
    for step in range(20):
        parameter.grad = sample((1000,), BF16, step)
        wide.grad = parameter.grad.float()
        optimizer.step()
        plain.step()
    assert same(optimizer.master(parameter), wide)
    with pytest.raises(ValueError, match="the parameter \\[1000\\]"):
        optimizer.set_master(parameter, values[:5])
    with pytest.raises(RuntimeError, match="split=True"):
        plain.set_master(wide, values)


def test_stochastic_rounding_moves_what_nearest_rounding_stalls():
    moved = {}
    for seed in (None, 1, 2):
        parameter = torch.nn.Parameter(torch.ones(1 << 16, dtype=BF16))
        optimizer = Lion([parameter], lr=1e-4, stochastic_rounding=seed)
        parameter.grad = torch.ones_like(parameter)
        for _ in range(20):
            optimizer.step()
        moved[seed] = parameter.detach().float()
    assert torch.equal(moved[None], torch.ones(1 << 16)) and not torch.equal(moved[1], moved[2])
    assert abs(float(moved[1].mean()) - (1 - 20e-4)) < 1e-4


@with_every_option
def test_state_dicts_copies_and_pickles_go_on_with_the_same_bits(dtype, ours, replayed):
    tensors = parameters(SHAPES, dtype)
    optimizer = Lion(tensors, lr=0.01, **ours)
    run(optimizer, tensors, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    loaded = Lion(saved)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    others = [loaded, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    run(optimizer, tensors, 3, seed=5)
    for other in others:
        theirs = other.param_groups[0]["params"]
        run(other, theirs, 3, seed=5)
        for one, two in zip(tensors, theirs):
            assert same(one, two)
            for key, value in optimizer.state[one].items():
                found = other.state[two][key]
                assert torch.equal(value, found) and value.dtype == found.dtype if key != "step" else value == found


@with_every_option
def test_one_parameter_at_a_time(dtype, ours, replayed):
    if "global_clipnorm" in ours:
        ours = {key: value for key, value in ours.items() if key != "global_clipnorm"}
    one, two = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    whole, single = Lion(one, lr=0.01, **ours), Lion(two, lr=0.01, **ours)
    for step in range(4):
        for place, (a, b) in enumerate(zip(one, two)):
            a.grad = sample(a.shape, dtype, 100 * step + place)
            b.grad = a.grad.clone()
        whole.step()
        for b in two:
            single.step_parameter(b)
    assert all(same(a, b) for a, b in zip(one, two))


def test_momenta_change_their_format():
    """An f32 momentum is read as codes and back: by `exp_avg_dtype` of a group, and from a state of another Lion."""
    tensors = parameters(SHAPES)
    wide = Lion(tensors, lr=0.01)
    run(wide, tensors, 3)
    narrow = Lion(tensors, lr=0.01, exp_avg_dtype="q8")
    theirs = wide.state_dict()
    for group in theirs["param_groups"]:
        # As lion-pytorch saves it.
        for key in list(group):
            if key not in ("params", "lr", "betas", "weight_decay"):
                del group[key]
    narrow.load_state_dict(copy.deepcopy(theirs))
    assert narrow.param_groups[0]["exp_avg_dtype"] == "q8"
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor)
    narrow.param_groups[0]["lr"] = 0.0
    narrow.param_groups[0]["betas"] = (0.9, 1.0)
    narrow.step()
    for tensor in tensors:
        assert narrow.state[tensor]["exp_avg"].dtype == torch.int8
    narrow.param_groups[0]["exp_avg_dtype"] = torch.float32
    narrow.step()
    for tensor in tensors:
        found, momentum = narrow.state[tensor], wide.state[tensor]["exp_avg"]
        assert "exp_avg_scale" not in found
        other = lion_cpu.numpy.Lion({"p": to_numpy(tensor).copy()}, momentum_dtype="q8")
        other.set_state("p", momentum=to_numpy(momentum))
        assert same(found["exp_avg"], torch.from_numpy(other.state("p")["momentum"]))


@pytest.mark.parametrize("options, match", [
    ({"stochastic_rounding": 1, "split": True}, "cannot be set together"),
    ({"stochastic_rounding": -1}, "Invalid stochastic_rounding value: -1"),
    ({"stochastic_rounding": 2**64}, "Invalid stochastic_rounding"),
    ({"stochastic_rounding": 1.5}, "Invalid stochastic_rounding"),
    ({"stochastic_rounding": True}, "Invalid stochastic_rounding"),
    ({"split": 1}, "Invalid split value"),
    ({"split": None}, "Invalid split value"),
    ({"decay_scale": "linear"}, "Invalid decay_scale value"),
    ({"decay_scale": "relative:0"}, "Invalid decay_scale value"),
    ({"decay_scale": "corrected:nan"}, "Invalid decay_scale value"),
    ({"exp_avg_dtype": "q4"}, "Invalid exp_avg_dtype value: q4"),
    ({"exp_avg_dtype": torch.int8}, "Invalid exp_avg_dtype value: torch.int8"),
])
def test_wrong_options(options, match):
    with pytest.raises(ValueError, match=match):
        Lion([torch.ones(2, dtype=BF16)], **options)
    tensor = parameters([(4,)], BF16)[0]
    optimizer = Lion([tensor])
    run(optimizer, [tensor], 1)
    before = tensor.detach().clone()
    optimizer.param_groups[0].update(options)
    if next(iter(options.values())) in (1, None):
        # True, 1 and None have a meaning in a group.
        return
    if "exp_avg_dtype" in options:
        # Read when a state is made.
        optimizer.state.clear()
    with pytest.raises((ValueError, TypeError, OverflowError, RuntimeError)):
        run(optimizer, [tensor], 1)
    assert torch.equal(tensor.detach(), before)


@pytest.mark.parametrize("option, value", [("stochastic_rounding", 3), ("split", True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.complex64], ids=str)
def test_parameters_that_are_not_bfloat16(option, value, dtype):
    first, second = parameters([(4,)], BF16)[0], sample((4,), dtype).requires_grad_()
    optimizer = Lion([("first", first), ("second", second)], **{option: value})
    before = [tensor.detach().clone() for tensor in (first, second)]
    for tensor in (first, second):
        tensor.grad = torch.ones_like(tensor)
    with pytest.raises(RuntimeError, match=f"parameter second of group 0: {option} needs a"):
        optimizer.step()
    assert torch.equal(before[1], second.detach())
    late = Lion([("second", second)])
    late.step()
    late.param_groups[0][option] = value
    with pytest.raises(RuntimeError, match=f"parameter second of group 0: {option} needs a"):
        late.step()


@pytest.mark.parametrize("change, match", [
    (lambda state: state.pop("exp_avg_scale"), "codes of 8 bits, and its state no exp_avg_scale"),
    (lambda state: state.update(exp_avg_scale=torch.zeros(3)), "its exp_avg_scale has the shape \\[3\\]"),
    (lambda state: state.update(exp_avg_scale=torch.zeros(2, dtype=BF16)), "on the CPU"),
    (lambda state: state.update(exp_avg=torch.zeros(99, dtype=torch.int8)), "its exp_avg has the shape \\[99\\]"),
    (lambda state: state.update(exp_avg=torch.zeros(100)), "no codes of 8 bits"),
    (lambda state: state.update(low=torch.zeros(99, dtype=torch.int16)), "its low has the shape \\[99\\]"),
])
def test_states_of_wrong_parts(change, match):
    tensor = parameters([(100,)], BF16)[0]
    optimizer = Lion([tensor], exp_avg_dtype="q8", split=True)
    run(optimizer, [tensor], 1)
    before = tensor.detach().clone()
    change(optimizer.state[tensor])
    with pytest.raises(RuntimeError, match=f"parameter 0 of group 0: .*{match}"):
        optimizer.step()
    assert torch.equal(tensor.detach(), before)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_scales_that_are_no_sizes(scale):
    tensor = parameters([(100,)])[0]
    optimizer = Lion([tensor], exp_avg_dtype="q8")
    run(optimizer, [tensor], 1)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg_scale"][1] = scale
    with pytest.raises(ValueError, match="exp_avg_scale is negative or not finite"):
        optimizer.load_state_dict(state)


def test_a_split_that_is_taken_back():
    tensor = parameters([(4,)], BF16)[0]
    optimizer = Lion([tensor], split=True)
    run(optimizer, [tensor], 1)
    optimizer.param_groups[0]["split"] = False
    with pytest.raises(RuntimeError, match="parameter 0 of group 0: its state has the low half"):
        optimizer.step()
    del optimizer.state[tensor]["low"]
    optimizer.step()


def test_a_nan_spoils_its_own_element_only():
    tensor = parameters([(200,)])[0]
    optimizer = Lion([tensor], lr=0.01, exp_avg_dtype="q8")
    tensor.grad = torch.ones(200)
    tensor.grad[70] = float("nan")
    optimizer.step()
    optimizer.step()
    assert tensor.isnan().nonzero().flatten().tolist() == [70]
    assert numpy.flatnonzero(optimizer.state[tensor]["exp_avg"].numpy() == -128).tolist() == [70]
