"""Hostile calls of `lion_cpu.torch.Lion`: the exception that PyTorch would raise, and never a crash."""

import itertools

import pytest

from helpers import framework

torch = framework("torch")

from lion_cpu.torch import Lion  # noqa: E402

NATIVE = [torch.float32, torch.float16, torch.bfloat16]


def parameter(shape=(8, 4), dtype=torch.float32):
    return torch.ones(shape, dtype=dtype).requires_grad_()


def stepped(*tensors, **options):
    optimizer = Lion(list(tensors), **options)
    for tensor in tensors:
        if tensor.grad is None:
            tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    return optimizer


WRONG = {
    "lr": [-1, -0.1, float("nan"), float("inf"), -float("inf"), torch.tensor([0.1, 0.2]), torch.tensor(-1.0),
           torch.tensor(float("nan")), torch.zeros(0), 1e39],
    "betas": [(-0.1, 0.9), (0.9, -0.1), (1.1, 0.9), (0.9, 1.1), (float("nan"), 0.9), (0.9, float("nan")),
              (float("inf"), 0.9)],
    "weight_decay": [-1, float("nan"), float("inf")],
    "clipvalue": [0, -1, float("nan"), float("inf")],
    "clipnorm": [0, -1, float("nan"), float("inf")],
    "global_clipnorm": [0, -1, float("nan"), float("inf")],
    "one_minus_beta": ["f16", None, 3],
    "exp_avg_dtype": [torch.float64, torch.int32, "f32", torch.complex64],
    "gradient_accumulation_steps": [0, 1, -3, 2.5, 1 << 30, "2"],
    "ema_momentum": [-0.1, 1.1, float("nan")],
    "ema_overwrite_frequency": [0, -1, 1.5],
}


@pytest.mark.parametrize("option, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_options_at_construction(option, value):
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        stepped(parameter(), **{option: value})


@pytest.mark.parametrize("option, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_options_in_a_group_after_construction(option, value):
    tensor = parameter()
    optimizer = stepped(tensor, ema_momentum=0.5)
    before = tensor.detach().clone()
    optimizer.param_groups[0][option] = value
    if (option, value) in (("one_minus_beta", "f16"), ("exp_avg_dtype", "f32")) or option == "exp_avg_dtype":
        # Read when a state is made.
        optimizer.state.clear()
    with pytest.raises((ValueError, TypeError, RuntimeError, OverflowError, AttributeError)):
        optimizer.step()
    assert torch.equal(tensor.detach(), before)


@pytest.mark.parametrize("missing", ["lr", "betas", "weight_decay", "params"])
def test_a_group_without_a_key(missing):
    optimizer = stepped(parameter())
    del optimizer.param_groups[0][missing]
    with pytest.raises((KeyError, RuntimeError)):
        optimizer.step()


@pytest.mark.parametrize("refused", ["capturable", "differentiable"])
def test_capturable_and_differentiable(refused):
    with pytest.raises(RuntimeError, match=f"Lion does not support {refused}"):
        Lion([parameter()], **{refused: True})
    optimizer = stepped(parameter())
    optimizer.param_groups[0][refused] = True
    with pytest.raises(RuntimeError, match=f"Lion does not support {refused}"):
        optimizer.step()


def test_foreach_and_fused_exclude_each_other():
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        Lion([parameter()], foreach=True, fused=True)


def test_shapes_other_than_the_parameters():
    for shape in [(4, 8), (8, 3), (32,), (), (8, 4, 1), (0,)]:
        tensor = parameter()
        optimizer = stepped(tensor)
        before = tensor.detach().clone()
        # PyTorch itself refuses the assignment; a tensor resized under it is what is left.
        with pytest.raises(RuntimeError):
            tensor.grad = torch.ones(shape)
        tensor.grad = torch.ones(8, 4)
        tensor.grad.resize_(shape)
        with pytest.raises(RuntimeError, match="parameter 0 of group 0"):
            optimizer.step()
        assert torch.equal(tensor.detach(), before)


@pytest.mark.parametrize("dtype", NATIVE, ids=str)
@pytest.mark.parametrize("bytes_left", [0, 1, 4, 100])
@pytest.mark.parametrize("which", ["parameter", "gradient", "exp_avg"])
def test_storage_resized_between_steps(dtype, bytes_left, which):
    tensor = parameter((1000,), dtype)
    optimizer = stepped(tensor)
    victim = {"parameter": tensor, "gradient": tensor.grad, "exp_avg": optimizer.state[tensor]["exp_avg"]}[which]
    with torch.no_grad():
        victim.untyped_storage().resize_(bytes_left)
    with pytest.raises(RuntimeError, match="bytes of storage"):
        optimizer.step()


@pytest.mark.parametrize("which", ["parameter", "gradient", "exp_avg"])
def test_storage_taken_away_between_steps(which):
    tensor = parameter((1000,))
    optimizer = stepped(tensor)
    victim = {"parameter": tensor, "gradient": tensor.grad, "exp_avg": optimizer.state[tensor]["exp_avg"]}[which]
    with torch.no_grad():
        victim.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="bytes of storage"):
        optimizer.step()


def test_parameters_that_share_memory():
    base = torch.ones(16)
    pairs = [
        (base[:9], base[8:]), (base, base[::2]), (base[::2], base[::4]), (base.view(4, 4), base.view(4, 4).t()),
        (base[2:5], base), (base.view(2, 8)[:, 1:5], base.view(2, 8)[:, 4:]),
    ]
    for one, two in pairs:
        one, two = torch.nn.Parameter(one), torch.nn.Parameter(two)
        before = base.clone()
        with pytest.raises(RuntimeError, match="share memory|refers to a single memory location"):
            stepped(one, two)
        assert torch.equal(base, before)


def test_parameters_between_each_others_elements():
    base, other = torch.ones(16), torch.ones(16)
    apart = [(base[::2], base[1::2]), (other.view(2, 8)[:, :4], other.view(2, 8)[:, 4:])]
    for one, two in apart:
        stepped(torch.nn.Parameter(one), torch.nn.Parameter(two), lr=0.25)
    assert torch.equal(base, torch.full((16,), 0.75)) and torch.equal(other, base)


def test_elements_that_are_one():
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor refers to a single memory"):
        stepped(torch.ones(1).expand(4).requires_grad_())
    tensor = parameter((4, 4))
    optimizer = Lion([tensor])
    tensor.grad = torch.ones(4, 4)
    optimizer.state[tensor]["exp_avg"] = torch.zeros(4).expand(4, 4)
    with pytest.raises(RuntimeError, match="more than one element"):
        optimizer.step()


def test_a_state_that_is_the_parameter():
    tensor = parameter((4,))
    optimizer = Lion([tensor])
    tensor.grad = torch.ones(4)
    optimizer.state[tensor]["exp_avg"] = tensor.detach()
    with pytest.raises(RuntimeError, match="shares memory with its state"):
        optimizer.step()
    assert tensor.tolist() == [1, 1, 1, 1]


def test_a_gradient_that_is_its_parameter_or_another_one():
    tensor, apart = parameter((4,)), parameter((4,))
    tensor.grad, apart.grad = tensor.detach(), torch.ones(4)
    one, two = Lion([tensor], lr=0.5), Lion([apart], lr=0.5)
    one.step()
    two.step()
    assert torch.equal(tensor, apart)
    assert torch.equal(one.state[tensor]["exp_avg"], two.state[apart]["exp_avg"])
    first, second = parameter((4,)), parameter((4,))
    optimizer = Lion([first, second], lr=0.5)
    first.grad, second.grad = second.detach(), first.detach()
    optimizer.step()
    assert first.tolist() == second.tolist() == [0.5] * 4
    first.grad = optimizer.state[first]["exp_avg"]
    optimizer.step()
    assert first.tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool], ids=str)
def test_integers(dtype):
    tensor = torch.ones(4, dtype=dtype)
    tensor.grad = torch.ones(4, dtype=dtype)
    optimizer = Lion([tensor])
    with pytest.raises(RuntimeError, match="expected a floating point or complex dtype"):
        optimizer.step()
    assert torch.equal(tensor, torch.ones(4, dtype=dtype))


@pytest.mark.parametrize("layout", ["coo", "embedding"])
def test_sparse_gradients(layout):
    if layout == "embedding":
        table = torch.nn.Embedding(10, 3, sparse=True)
        optimizer = Lion(table.parameters())
        table(torch.tensor([1, 2])).sum().backward()
    else:
        tensor = parameter((4, 4))
        optimizer = Lion([tensor])
        tensor.grad = torch.eye(4).to_sparse()
    with pytest.raises(RuntimeError, match="Lion does not support sparse gradients"):
        optimizer.step()


def test_meta_tensors():
    tensor = torch.ones(4, device="meta").requires_grad_()
    tensor.grad = torch.ones(4, device="meta")
    optimizer = Lion([tensor])
    optimizer.step()
    assert optimizer.state[tensor]["exp_avg"].device.type == "meta"


def test_inference_tensors():
    with torch.inference_mode():
        tensor = torch.ones(4)
        tensor.grad = torch.ones(4)
    optimizer = Lion([tensor], lr=0.5)
    with pytest.raises(RuntimeError, match="nference tensor"):
        optimizer.step()
    with torch.inference_mode():
        optimizer.step()
    assert tensor.tolist() == [0.5] * 4


class Named(torch.Tensor):
    """A subclass with a torch function of its own."""

    seen = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.seen += 1
        return super().__torch_function__(function, types, args, kwargs or {})


def test_subclasses_take_torchs_operations():
    tensor = torch.ones(4).as_subclass(Named).requires_grad_()
    tensor.grad = torch.ones(4).as_subclass(Named)
    Lion([tensor], lr=0.5).step()
    assert tensor.tolist() == [0.5] * 4 and Named.seen > 0
    plain = parameter((4,))
    plain.grad = torch.ones(4).as_subclass(Named)
    Lion([plain], lr=0.5).step()
    assert plain.tolist() == [0.5] * 4


def test_a_class_that_changes_between_steps():
    class Other(torch.nn.Parameter):
        pass

    for which in ("parameter", "exp_avg"):
        tensor = torch.nn.Parameter(torch.ones(8, 4))
        optimizer = stepped(tensor)
        changed = tensor if which == "parameter" else optimizer.state[tensor]["exp_avg"]
        if which == "exp_avg":
            changed = optimizer.state[tensor]["exp_avg"] = torch.nn.Parameter(changed, requires_grad=False)
            optimizer.step()
        changed.__class__ = Other
        before = tensor.detach().clone()
        optimizer.step()
        assert bool((tensor < before).all()), which


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-37, 3e38])
@pytest.mark.parametrize("dtype", NATIVE, ids=str)
def test_any_gradient_is_a_number(value, dtype):
    tensor = parameter((100,), dtype)
    tensor.grad = torch.full((100,), value).to(dtype)
    stepped(tensor, lr=0.5)
    nan = value != value
    sign = 0 if float(tensor.grad[0]) == 0 else (1 if value > 0 else -1)
    assert bool(tensor.isnan().all()) if nan else tensor.tolist() == [1 - 0.5 * sign] * 100


def test_state_dicts_of_other_models():
    optimizer = stepped(parameter())
    others = [stepped(parameter(), parameter((3,))), stepped(parameter((4, 8))), stepped(parameter((32,)))]
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(others[0].state_dict())
    for other in others[1:]:
        optimizer = stepped(tensor := parameter())
        optimizer.load_state_dict(other.state_dict())
        before = tensor.detach().clone()
        with pytest.raises(RuntimeError, match="its exp_avg has the shape"):
            optimizer.step()
        assert torch.equal(tensor.detach(), before)


@pytest.mark.parametrize("state", [{}, {"exp_avg": None}, {"exp_avg": 3}, {"exp_avg": "text"}, {"exp_avg": [1.0]},
                                   {"exp_avg": torch.zeros(8, 4, dtype=torch.int32)}, {"momentum": torch.zeros(8, 4)},
                                   {"exp_avg": torch.zeros(8, 4), "step": "many"}])
def test_states_of_anything(state):
    tensor = parameter()
    optimizer = stepped(tensor, ema_momentum=0.5)
    optimizer.state[tensor] = dict(state)
    try:
        optimizer.step()
    except (RuntimeError, TypeError, ValueError, AttributeError):
        pass


def test_what_is_no_tensor():
    for wrong in (3, "text", None, [torch.ones(2)], {"params": torch.ones(2)}):
        with pytest.raises((TypeError, ValueError)):
            Lion([wrong] if not isinstance(wrong, dict) else wrong)
    with pytest.raises(ValueError, match="empty parameter list"):
        Lion([])
    with pytest.raises(TypeError, match="should be an iterable of Tensors or dicts"):
        Lion(parameter())
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        Lion([parameter() * 2])


def test_a_parameter_removed_or_exchanged_in_its_group():
    one, two = parameter((4,)), parameter((4,))
    optimizer = stepped(one, lr=0.25)
    optimizer.param_groups[0]["params"][0] = two
    two.grad = torch.ones(4)
    optimizer.step()
    assert one.tolist() == two.tolist() == [0.75] * 4
    optimizer.param_groups[0]["params"].clear()
    optimizer.step()
    optimizer.param_groups[0]["params"] = (one,)
    optimizer.step()
    assert one.tolist() == [0.5] * 4


def test_a_step_within_a_closure_or_a_hook():
    tensor = parameter((4,))
    optimizer = stepped(tensor, lr=0.25)

    def closure():
        optimizer.step()

    optimizer.step(closure)
    assert tensor.tolist() == [0.25] * 4


FOUND = [None, torch.tensor(0.0), torch.tensor(1.0)]
SCALES = [None, torch.tensor(2.0), torch.tensor(float("inf"))]


@pytest.mark.parametrize("found_inf, scale", list(itertools.product(FOUND, SCALES)))
def test_attributes_of_a_scaler(found_inf, scale):
    tensor = parameter((4,))
    tensor.grad = torch.ones(4)
    optimizer = Lion([tensor], lr=0.5)
    optimizer.found_inf, optimizer.grad_scale = found_inf, scale
    optimizer.step()
    skipped = found_inf is not None and float(found_inf) != 0
    infinite = scale is not None and float(scale) == float("inf")
    assert tensor.tolist() == [1.0 if skipped or infinite else 0.5] * 4


@pytest.mark.parametrize("scale", [-1.0, float("nan")])
def test_wrong_scales(scale):
    tensor = parameter((4,))
    tensor.grad = torch.ones(4)
    optimizer = Lion([tensor], lr=0.5)
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(0.0), torch.tensor(scale)
    with pytest.raises(ValueError, match="loss_scale_factor"):
        optimizer.step()
    assert tensor.tolist() == [1.0] * 4


@pytest.mark.parametrize("shape", [(0,), (0, 5), (), (1,), (1, 1, 1), (2,) * 12, (7, 1, 3)])
@pytest.mark.parametrize("dtype", NATIVE, ids=str)
def test_odd_shapes(shape, dtype):
    tensor = parameter(shape, dtype)
    stepped(tensor, lr=0.5)
    assert torch.equal(tensor.detach(), torch.full(shape, 0.5, dtype=dtype))


def test_unaligned_tensors():
    memory = torch.zeros(41, dtype=torch.uint8)
    try:
        view = memory[1:].view(torch.float32)
    except RuntimeError:
        pytest.skip("PyTorch refuses the view")
    tensor = torch.nn.Parameter(view)
    stepped(tensor, lr=0.5)
    assert tensor.tolist() == [-0.5] * 10
