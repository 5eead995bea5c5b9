"""`lion_cpu.numpy.Lion`: formats, layouts, options, groups, state, checkpoints, threads."""


import ml_dtypes
import numpy
import pytest

import lion_cpu
from lion_cpu.numpy import Lion

from helpers import BF16, DTYPES, Exported, same, sample


def reference(steps, parameter, gradients, lr=0.001, b1=0.9, b2=0.99, wd=None):
    """Keras's arithmetic with every operation rounded once, on arrays that are widened to f32 and rounded back."""
    f = numpy.float32
    lr, b1, b2 = f(lr), f(b1), f(b2)
    stored, momentum = parameter, numpy.zeros_like(parameter)
    for step in range(steps):
        p, m, g = (array.astype(f) for array in (stored, momentum, gradients[step]))
        if wd is not None:
            p = p - (p * f(wd)) * lr
        c = m * b1 + g * (f(1) - b1)
        p = p - lr * numpy.sign(c)
        m = m * b2 + g * (f(1) - b2)
        stored, momentum = p.astype(parameter.dtype), m.astype(parameter.dtype)
    return stored, momentum


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gradient_dtype", DTYPES)
def test_formats_have_the_bits_of_the_formula(dtype, gradient_dtype):
    parameter, before = sample((37, 5), dtype), sample((37, 5), dtype)
    gradients = [sample((37, 5), gradient_dtype, seed) for seed in range(1, 5)]
    optimizer = Lion({"w": parameter}, learning_rate=0.01, weight_decay=0.1)
    for gradient in gradients:
        assert optimizer.step({"w": gradient}).outcome == "updated"
    expected, momentum = reference(4, before, gradients, lr=0.01, wd=0.1)
    assert same(parameter, expected)
    assert same(optimizer.state("w")["momentum"], momentum)


def layouts():
    yield "transposed", lambda a: numpy.asfortranarray(a)
    yield "reversed", lambda a: a[::-1, ::-1].copy()[::-1, ::-1]
    yield "every second", lambda a: numpy.repeat(numpy.repeat(a, 2, 0), 3, 1)[::2, ::3]
    yield "unaligned", unaligned


def unaligned(array):
    memory = numpy.zeros(array.nbytes + 1, numpy.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [make for _, make in layouts()], ids=[name for name, _ in layouts()])
def test_any_layout_has_the_bits_of_the_dense_one(dtype, layout):
    dense, gradients = sample((16, 9), dtype), [sample((16, 9), dtype, seed) for seed in (1, 2, 3)]
    strided = layout(dense)
    assert same(strided, dense)
    one, other = Lion({"w": dense}, weight_decay=0.1), Lion({"w": strided}, weight_decay=0.1)
    for gradient in gradients:
        one.step({"w": gradient})
        other.step({"w": layout(gradient)})
    assert same(strided, dense)
    assert same(one.state("w")["momentum"], other.state("w")["momentum"])


def test_scalars_and_empty_arrays():
    parameters = {"scalar": numpy.float32(1).reshape(()), "empty": numpy.zeros((0, 3), numpy.float32)}
    optimizer = Lion({name: numpy.array(array) for name, array in parameters.items()}, learning_rate=0.25)
    optimizer.step({"scalar": numpy.array(2, numpy.float32), "empty": numpy.zeros((0, 3), numpy.float32)})
    assert optimizer.parameters["scalar"] == 0.75
    assert optimizer.state("empty")["momentum"].shape == (0, 3)


@pytest.mark.parametrize("legacy", [False, True])
def test_dlpack(legacy):
    dense, gradient = sample((5, 7)), sample((5, 7), seed=1)
    exported = dense.T.copy().T
    optimizer = Lion({"a": dense, "b": Exported(exported, legacy)})
    optimizer.step({"a": gradient, "b": Exported(numpy.asfortranarray(gradient), legacy)})
    assert same(exported, dense)


def test_a_read_only_array_is_refused_by_both_protocols():
    array = sample((4,))
    array.flags.writeable = False
    for parameter in (array, Exported(array)):
        with pytest.raises(TypeError, match='parameter of "w" is read-only'):
            Lion({"w": parameter})
    optimizer = Lion({"w": (writable := sample((4,)))})
    writable.flags.writeable = False
    with pytest.raises(lion_cpu.LionError, match='"w" is read-only'):
        optimizer.step({"w": array})


def test_missing_gradients():
    parameters = {"a": sample((3,)), "b": sample((3,))}
    before = {name: array.copy() for name, array in parameters.items()}
    optimizer = Lion(parameters)
    assert optimizer.step({}).outcome == "nothing" and optimizer.iterations == 0
    optimizer.step({"a": sample((3,), seed=1), "b": None})
    assert not same(parameters["a"], before["a"]) and same(parameters["b"], before["b"])
    with pytest.raises(RuntimeError, match="no variable of the step has a gradient"):
        optimizer.step({"a": None, "b": None})
    assert optimizer.iterations == 1


def test_a_gradient_that_is_its_parameter():
    array, apart = sample((100,)), sample((100,))
    expected = apart.copy()
    Lion({"w": array}).step({"w": array})
    Lion({"w": expected}).step({"w": apart})
    assert same(array, expected)
    shifted = numpy.concatenate([sample((100,)), sample((3,), seed=1)])
    expected = shifted[:100].copy()
    gradient = shifted[3:].copy()
    Lion({"w": shifted[:100]}).step({"w": shifted[3:]})
    Lion({"w": expected}).step({"w": gradient})
    assert same(shifted[:100], expected)


def test_parameters_that_share_memory_are_refused():
    memory = sample((10,))
    optimizer = Lion({"a": memory[:6], "b": memory[5:]})
    before = memory.copy()
    with pytest.raises(lion_cpu.LionError, match='parameters of "a" and "b" share memory'):
        optimizer.step({"a": sample((6,))})
    assert same(memory, before) and optimizer.iterations == 0
    interleaved = Lion({"a": memory[::2], "b": memory[1::2]})
    with pytest.raises(lion_cpu.LionError, match="share memory"):
        interleaved.step({"a": sample((5,))})


def test_every_option_of_the_table_by_name():
    table = lion_cpu.options()
    assert {"learning_rate", "momentum_dtype", "ema_cadence", "initial_scale"} <= set(table)
    for name, row in table.items():
        assert set(row) == {"type", "range", "default", "changes", "keras"}
        if row["default"] is not None and name != "dynamic_loss_scale":
            assert Lion(**{name: row["default"]}).get(name) == row["default"]
    optimizer = Lion({"w": sample((8,), BF16)}, momentum_dtype="f32", global_clipnorm=1, use_ema=True)
    optimizer.step({"w": sample((8,), BF16, 1)})
    assert {name: array.dtype for name, array in optimizer.state("w").items()} == {
        "momentum": numpy.float32, "ema": numpy.float32,
    }


@pytest.mark.parametrize("options, kind, message", [
    ({"beta_1": 2}, ValueError, "beta_1 is 2, and must be in"),
    ({"beta_2": float("nan")}, ValueError, "beta_2 is NaN"),
    ({"learning_rate": "much"}, ValueError, 'learning_rate is "much", and must be a number or a serialized schedule'),
    ({"learning_rate": -1}, ValueError, "learning_rate is -1"),
    ({"learing_rate": 1}, LookupError, "nearest: learning_rate"),
    ({"clipnorm": 1, "clipvalue": 1}, ValueError, "at most one"),
    ({"gradient_accumulation_steps": 1}, ValueError, "gradient_accumulation_steps is 1"),
    ({"gradient_accumulation_steps": 2**70}, ValueError, "gradient_accumulation_steps"),
    ({"exclude_from_weight_decay": ["("]}, ValueError, "exclude_from_weight_decay"),
    ({"exclude_from_weight_decay": [1]}, TypeError, "int"),
    ({"weight_decay": object()}, TypeError, "weight_decay is of the type object"),
    ({"isa": "mmx"}, LookupError, "mmx"),
    ({"config": {"class_name": "Adam", "config": {}}}, ValueError, "Adam"),
    ({"config": "/nowhere/config.json"}, OSError, "/nowhere/config.json"),
    ({"config": {"learning_rate": object()}}, TypeError, "cannot be in a config"),
])
def test_wrong_options(options, kind, message):
    with pytest.raises(kind, match=message):
        Lion(**options)


def test_errors_are_lion_errors_and_python_s_own():
    with pytest.raises(lion_cpu.LionError):
        Lion(beta_1=2)
    with pytest.raises(lion_cpu.LionError, match="use_ema is false and cannot change after build"):
        Lion().set("use_ema", True)


@pytest.mark.parametrize("array, kind, message", [
    (numpy.zeros(3, numpy.float64), TypeError, "has the dtype float64; expected float32, float16 or bfloat16"),
    (numpy.zeros(3, numpy.int32), TypeError, "has the dtype int32"),
    (numpy.zeros(3, ml_dtypes.float8_e4m3), TypeError, "has the dtype float8_e4m3"),
    (numpy.zeros(3, "V2"), TypeError, "has the dtype void16"),
    (numpy.zeros(3, ">f4"), ValueError, "has the byte order of another machine"),
    ([1.0, 2.0], TypeError, "is list; expected a numpy array"),
    (None, TypeError, "is NoneType"),
    (Exported(numpy.zeros(3, numpy.float64)), TypeError, "has the DLPack dtype"),
])
def test_wrong_arrays(array, kind, message):
    with pytest.raises(kind, match=f'parameter of "w" {message}'):
        Lion({"w": array})
    if array is not None:
        optimizer = Lion({"w": sample((3,))})
        with pytest.raises(kind, match=f'gradient of "w" {message}'):
            optimizer.step({"w": array})
        assert optimizer.iterations == 0


def test_wrong_names_and_shapes():
    optimizer = Lion({"w": (array := sample((3, 2)))})
    with pytest.raises(LookupError, match='the gradient "v" is of no variable'):
        optimizer.step({"w": sample((3, 2)), "v": sample((3, 2))})
    with pytest.raises(ValueError, match=r'gradient of "w" has the shape \[2, 3\]; its variable has \[3, 2\]'):
        optimizer.step({"w": sample((2, 3))})
    with pytest.raises(LookupError, match='"w" already'):
        optimizer.add("w", sample((1,)))
    with pytest.raises(LookupError, match='the variable "v" does not exist'):
        optimizer.state("v")
    with pytest.raises(LookupError, match="group"):
        optimizer.add("v", sample((1,)), group=7)
    with pytest.raises(TypeError):
        optimizer.step([sample((3, 2))])
    array.shape = (2, 3)
    with pytest.raises(ValueError, match=r'parameter of "w" has the shape \[2, 3\]'):
        optimizer.step({"w": sample((3, 2))})
    assert optimizer.iterations == 0


def test_schedules():
    cosine = lion_cpu.Schedule("CosineDecay", initial_learning_rate=1e-3, decay_steps=10)
    assert cosine(0) == pytest.approx(1e-3) and cosine(10) == 0
    serialized = {"class_name": "CosineDecay", "config": {"initial_learning_rate": 1e-3, "decay_steps": 10}}
    warmup = lion_cpu.Schedule("LinearWarmup", warmup_steps=numpy.int64(4), after=serialized)
    assert warmup(0) == 0 and warmup.class_name == "LinearWarmup"
    with pytest.raises(ValueError, match="class_name"):
        lion_cpu.Schedule("Cosine")
    with pytest.raises(ValueError, match="decay_steps"):
        lion_cpu.Schedule("CosineDecay", initial_learning_rate=1e-3, decay_steps=-1)
    for rate in (cosine, serialized, cosine.__call__, lion_cpu.Schedule.from_dict(serialized)):
        optimizer = Lion({"w": sample((4,))}, learning_rate=rate)
        rates = []
        for _ in range(4):
            rates.append(optimizer.learning_rate)
            optimizer.step({"w": sample((4,), seed=1)})
        assert rates == [cosine(step) for step in range(4)]


def test_a_schedule_that_raises():
    def broken(step):
        if step == 1:
            raise ZeroDivisionError("of the schedule")
        return 0.5

    optimizer = Lion({"w": (array := sample((4,)))}, learning_rate=broken)
    optimizer.step({"w": sample((4,), seed=1)})
    before = array.copy()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="of the schedule"):
            optimizer.step({"w": sample((4,), seed=1)})
    assert same(array, before) and optimizer.iterations == 1
    with pytest.raises(ZeroDivisionError):
        optimizer.learning_rate
    optimizer.set("learning_rate", lambda step: "fast")
    with pytest.raises(TypeError):
        optimizer.step({"w": sample((4,), seed=1)})


def test_a_schedule_that_calls_the_optimizer():
    optimizer = Lion({"w": sample((4,))})
    optimizer.set("learning_rate", lambda step: optimizer.iterations)
    with pytest.raises(RuntimeError, match="in a call already"):
        optimizer.step({"w": sample((4,), seed=1)})
    optimizer.set("learning_rate", 0.1)
    optimizer.step({"w": sample((4,), seed=1)})


def test_groups():
    arrays = {name: numpy.ones(2, numpy.float32) for name in ("plain", "slow", "free")}
    optimizer = Lion({"plain": arrays["plain"]}, learning_rate=0.5, weight_decay=0.5)
    slow = optimizer.add_group(learning_rate_multiplier=0.5, weight_decay=0.25, beta_1=lambda step: 0.5)
    free = optimizer.add_group(weight_decay=None)
    optimizer.add("slow", arrays["slow"], group=slow)
    optimizer.add("free", arrays["free"], group=free)
    optimizer.step({name: numpy.ones(2, numpy.float32) for name in arrays})
    assert [float(array[0]) for array in arrays.values()] == [0.25, 0.6875, 0.5]
    optimizer.set_group(free, learning_rate_multiplier=2)
    optimizer.step({"free": numpy.ones(2, numpy.float32)})
    assert arrays["free"][0] == 0.5 - 0.25 - 1
    with pytest.raises(LookupError):
        optimizer.set_group(9)
    with pytest.raises(TypeError, match="momentum"):
        optimizer.add_group(momentum=1)
    with pytest.raises(ValueError, match="beta_2"):
        optimizer.add_group(beta_2=3)


def test_options_may_change_between_steps():
    optimizer = Lion({"w": (array := numpy.zeros(1, numpy.float32))}, learning_rate=0.5)
    optimizer.step({"w": numpy.ones(1, numpy.float32)})
    optimizer.learning_rate = numpy.float32(0.25)
    optimizer.step({"w": numpy.ones(1, numpy.float32)})
    assert array[0] == -0.75 and optimizer.get("learning_rate") == 0.25
    with pytest.raises(ValueError):
        optimizer.learning_rate = float("inf")
    assert optimizer.learning_rate == 0.25
