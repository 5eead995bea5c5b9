"""What PyTorch's own `test_optim.py` asks of every optimizer, over its `OptimizerInfo` and inputs of ours.

The file itself is not in PyTorch's wheel; `torch.testing._internal.common_optimizers` is. Each test here bears the name
of the one that it stands for.
"""

import copy
import functools
import math
import pickle
import warnings

import pytest

from helpers import framework

torch = framework("torch")
common = framework("torch.testing._internal.common_optimizers")

from torch.nn import Parameter  # noqa: E402
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR  # noqa: E402

from lion_cpu.torch import Lion  # noqa: E402


def inputs(device="cpu", dtype=None):
    make = lambda desc, **kwargs: common.OptimizerInput(params=None, kwargs=kwargs, desc=desc)
    return [
        make("default"),
        make("non-default lr", lr=0.01),
        make("tensor lr", lr=torch.tensor(0.001)),
        make("nonzero weight_decay", weight_decay=0.1),
        make("maximize", maximize=True),
        make("maximize, weight_decay", weight_decay=0.1, maximize=True),
        make("betas", betas=(0.8, 0.88)),
        make("fused", fused=True),
        make("foreach", foreach=True),
        make("cautious decay", weight_decay=0.1, cautious_decay=True),
        make("1 - beta in f64", one_minus_beta="f64"),
        make("clipped elements", clipvalue=0.5),
        make("f32 momentum", exp_avg_dtype=torch.float32),
    ]


INFO = common.OptimizerInfo(
    Lion,
    optim_inputs_func=inputs,
    optim_error_inputs_func=common.get_error_inputs_for_all_optims,
    scheduler_inputs=(
        [lambda opt: StepLR(opt, gamma=0.99, step_size=10)],
        [lambda opt: ReduceLROnPlateau(opt)],
    ),
    supported_impls=("foreach", "fused"),
    supports_sparse=False,
)
with_every_input = pytest.mark.parametrize("given", INFO.optim_inputs_func("cpu"), ids=lambda it: it.desc)


def rosenbrock(tensor):
    x, y = tensor
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("scheduled", [False, True])
@with_every_input
def test_forloop_goes_right_direction(given, contiguous, scheduled):
    if contiguous:
        weight, bias = Parameter(torch.randn((10, 5))), Parameter(torch.randn(10))
    else:
        weight, bias = Parameter(torch.randn((10, 5, 2))[..., 0]), Parameter(torch.randn((10, 2))[..., 0])
    x = torch.randn(5)
    optimizer = Lion([weight, bias], **copy.deepcopy(given.kwargs))
    schedulers = [make(optimizer) for make in INFO.scheduler_inputs[0]] if scheduled else []

    def closure():
        optimizer.zero_grad()
        wo = weight.mv(x) + bias
        loss = wo.pow(2).sum()
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(20):
        optimizer.step(closure)
        for scheduler in schedulers:
            scheduler.step()
    assert (closure().item() > before) == bool(given.kwargs.get("maximize"))


@with_every_input
def test_param_group_with_lrscheduler_goes_right_direction(given):
    for makers in INFO.scheduler_inputs:
        weight, bias, x = Parameter(torch.randn((10, 5))), Parameter(torch.randn(10)), torch.randn(5)
        groups = [{"params": [weight]}, {"params": [bias], "lr": 0.01}]
        optimizer = Lion(groups, **copy.deepcopy(given.kwargs))
        schedulers = [make(optimizer) for make in makers]
        loss = lambda: (weight.mv(x) + bias).pow(2).sum()
        before = loss().item()
        for _ in range(20):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step(*([value.item()] if isinstance(scheduler, ReduceLROnPlateau) else []))
        assert (loss().item() > before) == bool(given.kwargs.get("maximize"))


@pytest.mark.parametrize("number", [0.001, 0.01])
def test_tensor_lr(number):
    for kind in (torch.float32, torch.float64):
        one, two = Parameter(torch.tensor([1.5, 1.5])), Parameter(torch.tensor([1.5, 1.5]))
        plain, tensor = Lion([one], lr=number), Lion([two], lr=torch.tensor(number, dtype=kind))
        for _ in range(10):
            for optimizer, parameter in ((plain, one), (tensor, two)):
                optimizer.zero_grad()
                rosenbrock(parameter).backward()
                optimizer.step()
        assert torch.equal(one, two)


@with_every_input
def test_complex(given):
    """A complex parameter moves as its real and its imaginary part do."""
    kwargs = {key: value for key, value in copy.deepcopy(given.kwargs).items() if key != "exp_avg_dtype"}
    whole = Parameter(torch.randn(10, 5, dtype=torch.complex64))
    parts = Parameter(torch.view_as_real(whole.detach()).clone())
    of_whole, of_parts = Lion([whole], **kwargs), Lion([parts], **copy.deepcopy(kwargs))
    for _ in range(3):
        whole.grad = torch.randn(10, 5, dtype=torch.complex64)
        parts.grad = torch.view_as_real(whole.grad).clone()
        of_whole.step()
        of_parts.step()
    # PyTorch rounds the products with a number of Python's in an order of its own.
    torch.testing.assert_close(torch.view_as_real(whole.detach()), parts.detach())


@with_every_input
def test_state_dict_deterministic(given):
    weight, bias = Parameter(torch.randn((2, 3))), Parameter(torch.randn(2))
    input = torch.randn(3)

    def fwd_bwd(optimizer, w, b):
        optimizer.zero_grad()
        loss = (w.mv(input) + b).pow(2).sum()
        loss.backward()
        return -loss if given.kwargs.get("maximize") else loss

    optimizer = Lion([weight, bias], **copy.deepcopy(given.kwargs))
    closure = functools.partial(fwd_bwd, optimizer, weight, bias)
    for _ in range(10):
        optimizer.step(closure)
    with torch.no_grad():
        weight_c, bias_c = Parameter(weight.clone()), Parameter(bias.clone())
    optimizer_c = Lion([weight_c, bias_c], **copy.deepcopy(given.kwargs))
    closure_c = functools.partial(fwd_bwd, optimizer_c, weight_c, bias_c)
    optimizer_c.load_state_dict(optimizer.state_dict())
    for _ in range(10):
        optimizer.step(closure)
        optimizer_c.step(closure_c)
        assert torch.equal(weight, weight_c) and torch.equal(bias, bias_c)
    assert str(optimizer.state_dict()) == str(optimizer_c.state_dict())
    optimizer_c.param_groups.extend(optimizer_c.param_groups)
    with pytest.raises(ValueError):
        optimizer.load_state_dict(optimizer_c.state_dict())


@with_every_input
def test_can_load_older_state_dict(given):
    """A state from before the options existed."""
    parameter = Parameter(torch.randn(4))
    optimizer = Lion([parameter], **copy.deepcopy(given.kwargs))
    parameter.grad = torch.ones(4)
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        for key in list(group):
            if key not in ("params", "lr", "betas", "weight_decay"):
                del group[key]
    optimizer.load_state_dict(state)
    optimizer.step()


@with_every_input
def test_save_load_equality_with_weights_only(given, tmp_path):
    parameters = [Parameter(torch.randn(2, 3)), Parameter(torch.randn(2))]
    optimizer = Lion(parameters, **copy.deepcopy(given.kwargs))
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    assert str(torch.load(tmp_path / "state.pt", weights_only=True)) == str(optimizer.state_dict())


@with_every_input
def test_step_is_noop_when_params_have_no_grad(given):
    parameters = [torch.randn(2, 3, requires_grad=False) for _ in range(2)]
    before = [parameter.clone() for parameter in parameters]
    Lion(parameters, **copy.deepcopy(given.kwargs)).step()
    assert all(map(torch.equal, parameters, before))


@with_every_input
def test_step_is_noop_for_zero_grads(given):
    parameter = torch.randn(4, requires_grad=True)
    before = parameter.detach().clone()
    kwargs = {key: value for key, value in copy.deepcopy(given.kwargs).items() if "decay" not in key}
    optimizer = Lion([parameter], **kwargs)
    parameter.grad = torch.zeros(4)
    optimizer.step()
    assert torch.equal(parameter.detach(), before)


@with_every_input
def test_optimizer_can_be_printed(given):
    optimizer = Lion([Parameter(torch.randn(2, 3))], **copy.deepcopy(given.kwargs))
    assert "Lion" in repr(optimizer)


@with_every_input
def test_can_be_pickled_and_deepcopied(given):
    parameter = Parameter(torch.randn(2, 3))
    optimizer = Lion([parameter], **copy.deepcopy(given.kwargs))
    parameter.grad = torch.ones(2, 3)
    optimizer.step()
    for clone in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert str(clone.state_dict()) == str(optimizer.state_dict())


@pytest.mark.parametrize("given", INFO.optim_error_inputs_func("cpu", torch.float32),
                         ids=lambda it: it.optimizer_error_input.desc)
def test_errors(given):
    wrong = given.optimizer_error_input
    if given.error_on == common.OptimizerErrorEnum.CONSTRUCTION_ERROR:
        if issubclass(given.error_type, Warning):
            with pytest.warns(given.error_type, match=given.error_regex):
                Lion(wrong.params, **wrong.kwargs)
        else:
            with pytest.raises(given.error_type, match=given.error_regex):
                Lion(wrong.params, **wrong.kwargs)
    else:
        raise NotImplementedError(given.error_on)


def of_adam():
    """Adam's own list, of what Lion has too: its first beta may be 1, and a tensor as learning rate needs nothing."""
    listed = common.optim_error_inputs_func_adam("cpu", torch.float32)
    words = ("weight_decay should", "either both floats")
    return [it for it in listed if any(word in it.optimizer_error_input.desc for word in words)]


@pytest.mark.parametrize("given", of_adam(), ids=lambda it: it.optimizer_error_input.desc)
def test_errors_of_adam(given):
    with pytest.raises(given.error_type, match=given.error_regex):
        Lion([Parameter(torch.randn(1))], **given.optimizer_error_input.kwargs)


def test_non_empty_state():
    parameters = [Parameter(torch.randn(2, 3)), Parameter(torch.randn(4))]
    optimizer = Lion(parameters)
    for parameter in parameters:
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    assert all(len(state) > 0 for state in optimizer.state.values()) and len(optimizer.state) == 2


def test_cpu_load_state_dict_of_another_dtype():
    parameter = Parameter(torch.randn(4, dtype=torch.float64))
    optimizer = Lion([parameter])
    parameter.grad = torch.ones(4, dtype=torch.float64)
    optimizer.step()
    narrow = Parameter(torch.randn(4))
    loaded = Lion([narrow])
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.state[narrow]["exp_avg"].dtype == torch.float32
    narrow.grad = torch.ones(4)
    loaded.step()


def test_lbfgs_like_second_backward_does_not_hold_the_graph():
    parameter = Parameter(torch.randn(4))
    optimizer = Lion([parameter])
    (parameter**2).sum().backward(create_graph=True)
    assert parameter.grad.requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.step()
    assert not optimizer.state[parameter]["exp_avg"].requires_grad
    optimizer.zero_grad(set_to_none=False)
    assert float(parameter.grad.abs().sum()) == 0 and math.isfinite(float(parameter.detach().sum()))
