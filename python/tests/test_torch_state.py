"""`lion_cpu.torch.Lion`: state dicts, hooks, schedulers, scaling, threads and what else surrounds a step."""

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import threading

import pytest

from torch_helpers import (
    SHAPES,
    Lion,
    parameters,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
    run,
    same,
    sample,
    strided,
    torch,
)


def test_lion_pytorch_and_this_load_each_others_state():
    lion_pytorch = pytest.importorskip("lion_pytorch")
    tensors = parameters(SHAPES)
    theirs = lion_pytorch.Lion(tensors)
    run(theirs, tensors, 2)
    ours = Lion(tensors)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["maximize"] is False
    assert all(torch.equal(ours.state[p]["exp_avg"], theirs.state[p]["exp_avg"]) for p in tensors)
    run(ours, tensors, 1)
    theirs.load_state_dict(ours.state_dict())
    run(theirs, tensors, 1)


def test_the_momentum_keeps_its_dtype_through_a_state_dict():
    tensor = parameters([(50,)], torch.bfloat16)[0]
    optimizer = Lion([tensor], exp_avg_dtype=torch.float32, ema_momentum=0.5)
    run(optimizer, [tensor], 2)
    other = tensor.detach().clone().requires_grad_()
    loaded = Lion([other])
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(loaded.state[other]["exp_avg"], optimizer.state[tensor]["exp_avg"])
    assert loaded.state[other]["exp_avg"].dtype == torch.float32 == loaded.state[other]["ema"].dtype
    assert loaded.state[other]["step"] == 2
    run(optimizer, [tensor], 2)
    run(loaded, [other], 2)
    assert same(tensor, other) and same(loaded.state[other]["exp_avg"], optimizer.state[tensor]["exp_avg"])


def test_hooks_around_load_state_dict_see_tensors():
    tensor = parameters([(5,)])[0]
    optimizer = Lion([tensor])
    run(optimizer, [tensor], 1)
    seen = []
    optimizer.register_load_state_dict_pre_hook(lambda _, state: seen.append(state["state"][0]["exp_avg"]))
    optimizer.register_load_state_dict_post_hook(lambda it: seen.append(it.state[tensor]["exp_avg"]))
    optimizer.load_state_dict(optimizer.state_dict())
    assert [type(it) for it in seen] == [torch.Tensor] * 2
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1


def test_pickle_deepcopy_and_weights_only():
    tensors = parameters(SHAPES)
    optimizer = Lion(tensors, lr=0.01, weight_decay=0.1)
    run(optimizer, tensors, 2)
    for clone in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        theirs = clone.param_groups[0]["params"]
        assert all(same(a, b) for a, b in zip(tensors, theirs))
        assert all(same(optimizer.state[a]["exp_avg"], clone.state[b]["exp_avg"]) for a, b in zip(tensors, theirs))
        run(clone, theirs, 1)
    run(optimizer, tensors, 1)
    assert all(same(a, b) for a, b in zip(tensors, theirs))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = Lion(tensors)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.param_groups[0]["lr"] == 0.01
    assert all(same(loaded.state[p]["exp_avg"], optimizer.state[p]["exp_avg"]) for p in tensors)
    public = lambda it: {name for name in vars(it) if not name.startswith("_")}
    assert public(copy.deepcopy(optimizer)) == public(optimizer)


def test_closures_and_hooks():
    tensor = parameters([(5,)])[0]
    optimizer = Lion([tensor], lr=0.1)
    called = []

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (tensor * tensor).sum()
        loss.backward()
        return loss

    before = (tensor.detach() ** 2).sum()
    assert torch.equal(optimizer.step(closure), before)
    handles = [
        optimizer.register_step_pre_hook(lambda *arguments: called.append("pre")),
        optimizer.register_step_post_hook(lambda *arguments: called.append("post")),
        register_optimizer_step_pre_hook(lambda *arguments: called.append("global pre")),
        register_optimizer_step_post_hook(lambda *arguments: called.append("global post")),
    ]
    optimizer.step(closure)
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert called == ["global pre", "pre", "post", "global post"]
    with torch.profiler.profile() as profile:
        optimizer.step()
    assert any("Optimizer.step#Lion.step" in event.key for event in profile.key_averages())


def test_every_scheduler_and_a_tensor_learning_rate():
    schedulers = torch.optim.lr_scheduler
    makers = [
        lambda o: schedulers.StepLR(o, 2, 0.5),
        lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
        lambda o: schedulers.CosineAnnealingLR(o, 10),
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
        lambda o: schedulers.OneCycleLR(o, 0.1, 10, cycle_momentum=False),
        lambda o: schedulers.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
        lambda o: schedulers.ExponentialLR(o, 0.9),
        lambda o: schedulers.PolynomialLR(o, 10),
        lambda o: schedulers.SequentialLR(o, [schedulers.ConstantLR(o, 0.5), schedulers.LinearLR(o)], [2]),
        lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    ]
    for make in makers:
        one, two = parameters([(9,)])[0], parameters([(9,)])[0]
        plain, tensor = Lion([one], lr=0.01), Lion([two], lr=torch.tensor(0.01, dtype=torch.float64))
        first, second = make(plain), make(tensor)
        for step in range(6):
            one.grad = sample((9,), seed=step)
            two.grad = one.grad.clone()
            plain.step()
            tensor.step()
            arguments = [1.0] if isinstance(first, schedulers.ReduceLROnPlateau) else []
            first.step(*arguments)
            second.step(*arguments)
            assert float(tensor.param_groups[0]["lr"]) == pytest.approx(float(plain.param_groups[0]["lr"]), rel=1e-12)
        assert torch.allclose(one, two, atol=1e-8), make


def test_grad_scaler_divides_in_the_step():
    for scale in (8.0, 1024.0):
        one, two = parameters([(100,)])[0], parameters([(100,)])[0]
        plain, scaled = Lion([one], lr=0.01), Lion([two], lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
        for step in range(6):
            gradient = sample((100,), seed=step)
            one.grad = gradient.clone()
            two.grad = gradient * scaler.get_scale() if step != 3 else gradient * float("inf")
            if step != 3:
                plain.step()
            scaler.scale(torch.ones(()))
            scaler.step(scaled)
            scaler.update()
        assert same(one, two) and same(plain.state[one]["exp_avg"], scaled.state[two]["exp_avg"])
        assert not hasattr(scaled, "grad_scale")
    # Unscaled by hand first, as for clipping.
    two.grad = gradient * scaler.get_scale()
    scaler.scale(torch.ones(()))
    scaler.unscale_(scaled)
    one.grad = gradient.clone()
    plain.step()
    scaler.step(scaled)
    assert same(one, two)


def test_groups_and_add_param_group():
    tensors = [torch.ones(2).requires_grad_() for _ in range(3)]
    optimizer = Lion([{"params": tensors[:1]}, {"params": tensors[1:2], "lr": 0.25, "weight_decay": 0.5}], lr=0.5)
    for tensor in tensors:
        tensor.grad = torch.ones(2)
    optimizer.step()
    optimizer.add_param_group({"params": tensors[2:], "maximize": True})
    optimizer.step()
    assert [float(tensor[0]) for tensor in tensors] == [0.0, (1 - 0.125 - 0.25) * (1 - 0.125) - 0.25, 1.5]
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.add_param_group({"params": [torch.ones(1)], "lr": -1})
    assert len(optimizer.param_groups) == 3
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optimizer.add_param_group({"params": tensors[:1]})
    named = Lion([("weight", tensors[0])])
    assert named.param_groups[0]["param_names"] == ["weight"]
    named.step()


def test_step_parameter_in_hooks_after_accumulation():
    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4, dtype=torch.float32))

    one, two = model(), model()
    plain, hooked = Lion(one.parameters(), lr=0.01), Lion(two.parameters(), lr=0.01)

    def stepped(parameter):
        hooked.step_parameter(parameter)
        parameter.grad = None

    for parameter in two.parameters():
        parameter.register_post_accumulate_grad_hook(stepped)
    for step in range(4):
        x = sample((3, 8), seed=step)
        one(x).square().sum().backward()
        two(x).square().sum().backward()
        plain.step()
        plain.zero_grad()
    assert all(same(a, b) for a, b in zip(one.parameters(), two.parameters()))
    other = torch.ones(2, dtype=torch.float64).requires_grad_()
    wide = Lion([other], lr=0.5)
    wide.step_parameter(other)
    other.grad = torch.ones(2, dtype=torch.float64)
    wide.step_parameter(other)
    assert float(other.detach()[0]) == 0.5


def test_cautious_decay():
    tensor = torch.tensor([1.0, -1.0, 0.0]).requires_grad_()
    tensor.grad = torch.tensor([1.0, 1.0, 0.0])
    Lion([tensor], lr=0.25, weight_decay=1.0, cautious_decay=True).step()
    assert tensor.tolist() == [0.5, -1.25, 0.0]


def test_missing_gradients_make_no_state():
    tensors = parameters(SHAPES)
    optimizer = Lion(tensors)
    optimizer.step()
    assert not optimizer.state
    tensors[1].grad = sample(tensors[1].shape, seed=1)
    optimizer.step()
    assert list(optimizer.state) == [tensors[1]]
    tensors[1].grad = None
    tensors[0].grad = sample(tensors[0].shape, seed=1)
    optimizer.step()
    assert list(optimizer.state) == [tensors[1], tensors[0]]


def test_state_that_is_replaced_by_hand():
    tensor = parameters([(4,)])[0]
    optimizer = Lion([tensor], lr=0.25)
    run(optimizer, [tensor], 2)
    tensor.grad = torch.ones(4)
    optimizer.state[tensor]["exp_avg"] = torch.full((4,), -100.0)
    before = tensor.detach().clone()
    optimizer.step()
    assert torch.equal(tensor.detach(), before + 0.25)
    optimizer.state[tensor] = {"exp_avg": torch.full((4,), 100.0)}
    optimizer.step()
    assert torch.equal(tensor.detach(), before)
    optimizer.state.clear()
    optimizer.step()
    assert torch.allclose(optimizer.state[tensor]["exp_avg"], torch.full((4,), 0.01))
    tensor.data = torch.zeros(4)
    optimizer.step()
    assert torch.equal(tensor.detach(), torch.full((4,), -0.25))


def test_the_version_counter_guards_autograd():
    tensor = parameters([(4,)])[0]
    optimizer = Lion([tensor])
    loss = tensor.square().sum()
    tensor.grad = torch.ones(4)
    version = tensor._version
    optimizer.step()
    assert tensor._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_torch_compile_is_harmless():
    one, two = parameters([(4,)])[0], parameters([(4,)])[0]
    plain, compiled = Lion([one]), Lion([two])
    step = torch.compile(compiled.step, backend="eager")
    for seed in range(3):
        one.grad = sample((4,), seed=seed)
        two.grad = one.grad.clone()
        plain.step()
        step()
    assert same(one, two)


def test_negated_views_are_gradients():
    one, two = parameters([(4,)])[0], parameters([(4,)])[0]
    first, second = Lion([one]), Lion([two])
    for seed in range(3):
        gradient = sample((4,), seed=seed)
        one.grad, two.grad = -gradient, torch._neg_view(gradient)
        first.step()
        second.step()
        assert same(one, two)


def test_options_may_change_between_steps():
    shapes = [(3, 4), (5000,), (7,)]
    ours, others = parameters(shapes), parameters(shapes)
    kept, momenta = Lion(ours), [torch.zeros(shape) for shape in shapes]
    changes = [{}, {"lr": 0.01}, {"weight_decay": 0.1}, {}, {"clipvalue": 0.5}, {"clipvalue": None, "clipnorm": 0.5},
               {"clipnorm": None}, {"maximize": True}, {"stochastic_rounding": None, "betas": (0.5, 0.75)}, {}]
    for seed, change in enumerate(changes):
        kept.param_groups[0].update(change)
        for one, other in zip(ours, others):
            if seed in (0, 4, 9):
                one.grad = sample(one.shape, seed=seed)
            other.grad = one.grad.clone()
        kept.step()
        fresh = Lion(others)
        fresh.param_groups[0].update({key: value for key, value in kept.param_groups[0].items() if key != "params"})
        for other, momentum in zip(others, momenta):
            fresh.state[other]["exp_avg"] = momentum
        fresh.step()
        for one, other, momentum in zip(ours, others, momenta):
            assert same(one, other) and same(kept.state[one]["exp_avg"], momentum)


def test_a_failed_step_leaves_no_gradient_to_the_next():
    ours, others = parameters([(4,), (3,)]), parameters([(4,), (3,)])
    optimizer, expected = Lion(ours), Lion(others)
    for one, other in zip(ours, others):
        one.grad = sample(one.shape)
        other.grad = one.grad.clone()
    optimizer.step()
    expected.step()
    last = ours[1].grad
    ours[0].grad = others[0].grad = sample((4,), seed=1)
    ours[1].grad = None
    ours[1].grad = torch.sparse_coo_tensor([[0]], [1.0], (3,))
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    ours[1].grad = last
    optimizer.step()
    expected.step()
    assert all(map(same, ours, others))


def test_python_code_within_a_step_moves_a_parameter():
    class Moves(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            if self.left and function == torch.Tensor.grad.__get__ and arguments[0] is ours[1]:
                self.left -= 1
                ours[0].data = ours[0].data.clone()
            return function(*arguments, **keywords or {})

    ours, others = parameters([(4,), (3,)]), parameters([(4,), (3,)])
    optimizer, expected = Lion(ours), Lion(others)
    for seed in range(3):
        for one, other in zip(ours, others):
            one.grad = sample(one.shape, seed=seed)
            other.grad = one.grad.clone()
        with Moves() as mode:
            mode.left = seed % 2
            optimizer.step()
        expected.step()
        assert mode.left == 0 and all(map(same, ours, others))


def test_a_collection_of_garbage_takes_a_parameters_memory():
    """A finalizer runs wherever Python allocates an object. It must not do so between a step's checks and its writes."""
    class Takes:
        def __init__(self, tensor):
            self.itself, self.tensor = self, tensor

        def __del__(self):
            self.tensor.data = torch.zeros(100_000)

    ours = parameters([(100_000,)] * 20)
    optimizer = Lion(ours)
    threshold = gc.get_threshold()
    try:
        for seed in range(20):
            for one in ours:
                one.grad = torch.full((100_000,), float(seed))
            gc.collect()
            for one in ours:
                Takes(one)
            gc.set_threshold(1 + seed % 7)
            optimizer.step()
            gc.set_threshold(*threshold)
            assert all(bool(one.isfinite().all()) for one in ours)
    finally:
        gc.set_threshold(*threshold)


def test_flushed_denormals_change_no_bit():
    code = """
import sys, torch
from lion_cpu.torch import Lion
torch.set_num_threads(int(sys.argv[1]))
generator = torch.Generator().manual_seed(0)
p = (torch.randint(-2**31, 2**31 - 1, (200_000,), generator=generator, dtype=torch.int32)
     & 0x80ffffff - 2**32).view(torch.float32)
p = torch.nn.Parameter(p.nan_to_num(0.0))
optimizer = Lion([p], lr=1e-38, weight_decay=0.1)
gradients = [torch.randn(200_000, generator=generator) * 1e-39 for _ in range(3)]
assert not sys.argv[2] == "flush" or torch.set_flush_denormal(True)
for p.grad in gradients:
    optimizer.step()
digest = __import__("hashlib").sha256(p.detach().numpy().tobytes() + optimizer.state[p]["exp_avg"].numpy().tobytes())
print(digest.hexdigest())
"""
    digests = {
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, threads, mode], check=True, text=True,
                       capture_output=True).stdout
        for threads in "12" for mode in ("keep", "flush")
    }
    assert len(digests) == 1


def test_other_threads_run_and_memory_is_freed_during_a_step():
    tensors = parameters([(1 << 20,)] * 4)
    optimizer = Lion(tensors, lr=1e-3)
    stop = threading.Event()
    counted = 0

    def meddle():
        nonlocal counted
        while not stop.is_set():
            # Not gradients: PyTorch itself crashes where they are set while another thread reads them.
            for tensor in tensors:
                tensor.data = torch.zeros(1 << 20)
            counted += 1

    thread = threading.Thread(target=meddle)
    thread.start()
    for step in range(100):
        for tensor in tensors:
            tensor.grad = torch.ones(1 << 20)
        try:
            optimizer.step()
        except RuntimeError as error:
            # Nothing has been written then.
            assert "changed while the step was prepared" in str(error)
    stop.set()
    thread.join()
    assert counted > 3


def test_a_state_that_another_thread_clears_during_a_step():
    tensors = parameters([(1 << 19,)] * 4)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer = Lion(tensors, lr=1e-3)
    stop = threading.Event()
    cleared = 0

    def meddle():
        nonlocal cleared
        while not stop.is_set():
            optimizer.state.clear()
            cleared += 1

    thread = threading.Thread(target=meddle)
    thread.start()
    for _ in range(100):
        try:
            optimizer.step()
        except RuntimeError as error:
            assert "changed while the step was prepared" in str(error)
    stop.set()
    thread.join()
    assert cleared > 3
    optimizer.step()
    assert all(optimizer.state[tensor]["exp_avg"].shape == tensor.shape for tensor in tensors)


def test_fork():
    code = """
import os, torch
from lion_cpu.torch import Lion
p = torch.nn.Parameter(torch.zeros(1 << 21))
p.grad = torch.ones(1 << 21)
optimizer = Lion([p], lr=1.0)
optimizer.step()
child = os.fork()
if child == 0:
    for _ in range(3):
        optimizer.step()
    os._exit(0 if p.detach().numpy().max() == -4 == p.detach().numpy().min() else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)


def test_nothing_grows_over_10_000_steps():
    tensors = parameters([(1000,), (30, 20)])
    strided_one = strided(sample((8, 8))).requires_grad_()
    tensors.append(strided_one)
    optimizer = Lion(tensors)
    run(optimizer, tensors, 200)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    addresses = [tensor.data_ptr() for tensor in tensors]
    references = [sys.getrefcount(tensor) for tensor in tensors]
    before = resident()
    for _ in range(10_000):
        optimizer.step()
    grown = resident() - before
    assert grown < 1 << 20
    after = [sys.getrefcount(tensor) for tensor in tensors]
    assert after == references and addresses == [tensor.data_ptr() for tensor in tensors]
