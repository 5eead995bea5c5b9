"""`lion_cpu.keras.Lion` beside Keras's own Lion, on the backend of KERAS_BACKEND; `test_keras.py` runs it on each."""

import copy
import warnings

import keras
import numpy
import pytest
from keras.src.optimizers import lion_test

import lion_cpu.numpy
from lion_cpu.keras import Lion

from helpers import bits

BACKEND = keras.backend.backend()
NATIVE = BACKEND in ("numpy", "torch")
SHAPES = [(33, 17), (5,), (), (2, 3, 4), (9001,)]
# What Keras computes with a norm in f32 may differ in the last bits.
OPTIONS = {
    "plain": ({}, True),
    "decay": ({"weight_decay": 0.1}, True),
    "betas": ({"beta_1": 0.5, "beta_2": 0.75}, True),
    "clipvalue": ({"clipvalue": 0.5}, True),
    "clipnorm": ({"clipnorm": 0.5}, False),
    "global_clipnorm": ({"global_clipnorm": 0.5}, False),
    "ema": ({"use_ema": True, "ema_momentum": 0.9}, True),
    "ema overwrites": ({"use_ema": True, "ema_overwrite_frequency": 2}, True),
    "loss scale": ({"loss_scale_factor": 8.0}, True),
    "accumulation": ({"gradient_accumulation_steps": 2}, True),
    "all": ({"weight_decay": 0.1, "use_ema": True, "gradient_accumulation_steps": 3, "clipvalue": 0.1}, True),
}


def sample(shape, seed):
    return numpy.random.default_rng(seed).standard_normal(shape).astype("float32")


def variables(dtype="float32", initial=()):
    initial = initial or [sample(shape, seed) for seed, shape in enumerate(SHAPES)]
    return [keras.Variable(array, dtype=dtype, name=f"v{place}") for place, array in enumerate(initial)]


def run(optimizer, given, steps=9, missing=(), dtype="float32"):
    for step in range(steps):
        grads = [keras.ops.convert_to_tensor(sample(it.shape, 100 + 10 * step + place), dtype=dtype)
                 for place, it in enumerate(given)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.apply([None if (step, place) in missing else grad for place, grad in enumerate(grads)], given)


def state(optimizer, given):
    found = {f"value {place}": keras.ops.convert_to_numpy(it) for place, it in enumerate(given)}
    return found | {it.path: keras.ops.convert_to_numpy(it) for it in optimizer.variables}


def close(found, expected, exact):
    if exact:
        return numpy.array_equal(bits(found), bits(expected))
    return numpy.allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.fixture
def of_keras(monkeypatch):
    """Counts the steps that Keras took."""
    taken = []
    original = keras.optimizers.Lion.update_step
    monkeypatch.setattr(keras.optimizers.Lion, "update_step",
                        lambda self, *rest: (taken.append(type(self)), original(self, *rest))[1])
    return taken


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("missing", [(), ((0, 1), (1, 1), (3, 0), (5, 2))], ids=["all", "missing"])
def test_the_bits_of_keras(name, missing, of_keras):
    options, exact = OPTIONS[name]
    ours, theirs = variables(), variables()
    one, two = Lion(0.01, name="lion", **options), keras.optimizers.Lion(0.01, name="lion", **options)
    start = {f"v{place}": keras.ops.convert_to_numpy(it).copy() for place, it in enumerate(ours)}
    run(one, ours, missing=missing)
    assert Lion not in of_keras or not NATIVE
    if BACKEND == "torch":
        # Keras's own code rounds there as PyTorch does. The steps are those of numpy, which are Keras's on numpy.
        check_numpy(one, ours, start, options, missing)
        return
    run(two, theirs, missing=missing)
    found, expected = state(one, ours), state(two, theirs)
    assert found.keys() == expected.keys()
    for key in found:
        assert close(found[key], expected[key], exact), key


def check_numpy(optimizer, given, start, options, missing):
    expected = lion_cpu.numpy.Lion(start, learning_rate=float(numpy.float32(0.01)), **options)
    for step in range(9):
        expected.step({
            name: None if (step, place) in missing else sample(array.shape, 100 + 10 * step + place)
            for place, (name, array) in enumerate(start.items())
        })
    for place, (name, array) in enumerate(start.items()):
        found = {"value": given[place], "momentum": optimizer._momentums[place]}
        if optimizer.use_ema:
            found["ema"] = optimizer._model_variables_moving_average[place]
        if optimizer.gradient_accumulation_steps:
            found["accumulator"] = optimizer._accumulated_gradients[place]
        for key, value in (expected.state(name) | {"value": array}).items():
            assert close(keras.ops.convert_to_numpy(found[key]), value, True), (name, key)


def test_exclusion_schedules_and_callables():
    for rate in (0.01, keras.optimizers.schedules.CosineDecay(0.01, 20), lambda: 0.02):
        ours, theirs = variables(), variables()
        one, two = Lion(rate, weight_decay=0.5), keras.optimizers.Lion(rate, weight_decay=0.5)
        for optimizer in (one, two):
            optimizer.exclude_from_weight_decay(var_names=["v1", "v3"])
        run(one, ours)
        run(two, theirs)
        for mine, other in zip(ours, theirs):
            assert close(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(other), BACKEND != "torch")


def test_constraints_and_overwritten_variables():
    ours, theirs = variables(), variables()
    for given in (ours, theirs):
        given[0].constraint = keras.constraints.NonNeg()
        given[1].overwrite_with_gradient = True
    one, two = Lion(0.01, name="lion"), keras.optimizers.Lion(0.01, name="lion")
    run(one, ours)
    run(two, theirs)
    found, expected = state(one, ours), state(two, theirs)
    assert found.keys() == expected.keys()
    assert all(close(found[key], expected[key], BACKEND != "torch") for key in found)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_round_once(dtype, of_keras):
    """The step of f32 on the widened numbers, rounded on the store."""
    ours, wide = variables(dtype), variables()
    for narrow, one in zip(ours, wide):
        one.assign(keras.ops.cast(narrow, "float32"))
    first, second = Lion(0.01), Lion(0.01)
    for step in range(3):
        grads = [keras.ops.cast(sample(it.shape, step), dtype) for it in ours]
        first.apply(grads, ours)
        second.apply([keras.ops.cast(grad, "float32") for grad in grads], wide)
        for narrow, one in zip([*ours, *first._momentums], [*wide, *second._momentums]):
            one.assign(keras.ops.cast(keras.ops.cast(one, dtype), "float32"))
            if NATIVE:
                assert numpy.array_equal(keras.ops.convert_to_numpy(keras.ops.cast(narrow, "float32")),
                                         keras.ops.convert_to_numpy(one))
    assert not of_keras or not NATIVE


def test_what_is_keras_s(of_keras):
    given = [keras.Variable(sample((4,), 0).astype("float64"), dtype="float64")]
    Lion(0.01).apply([keras.ops.convert_to_tensor(sample((4,), 1).astype("float64"))], given)
    assert of_keras == [Lion]
    narrow = [keras.Variable(sample((4,), 0), dtype="float16")]
    Lion(0.01, use_ema=True).apply([keras.ops.cast(sample((4,), 1), "float16")], narrow)
    assert of_keras == [Lion] * 2
    optimizer = Lion(0.01)
    optimizer.build(stateless := [keras.Variable(sample((4,), 0))])
    before = keras.ops.convert_to_numpy(stateless[0])
    values, _ = optimizer.stateless_apply([it.value for it in optimizer.variables], [sample((4,), 1)],
                                          [it.value for it in stateless])
    assert of_keras == [Lion] * 3
    assert numpy.array_equal(keras.ops.convert_to_numpy(stateless[0]), before)
    assert not numpy.array_equal(keras.ops.convert_to_numpy(values[0]), before)


def test_an_array_that_somebody_holds_stays(of_keras):
    array = sample((100,), 0)
    given = [keras.Variable(array)]
    held, view = given[0].value, keras.ops.convert_to_numpy(given[0])
    before = numpy.array(array)
    optimizer = Lion(0.01)
    for step in range(3):
        optimizer.apply([keras.ops.convert_to_tensor(sample((100,), step + 1))], given)
        assert numpy.array_equal(array, before)
        if BACKEND == "numpy":
            assert numpy.array_equal(held, before) and numpy.array_equal(view, before)
            held, before_value = given[0].value, numpy.array(given[0].value)
            view = held[10:]
            optimizer.apply([sample((100,), step + 50)], given)
            assert numpy.array_equal(held, before_value) and numpy.array_equal(view, before_value[10:])
            held = keras.ops.convert_to_numpy(array)
            view = held


@pytest.mark.skipif(BACKEND != "numpy", reason="where Keras's arrays are numpy's")
def test_steps_are_in_place_from_the_second_on():
    given = [keras.Variable(sample((1000,), 0))]
    optimizer = Lion(0.01)
    optimizer.apply([sample((1000,), 1)], given)
    addresses = [it.value.ctypes.data for it in (given[0], optimizer._momentums[0])]
    for step in range(5):
        optimizer.apply([sample((1000,), step)], given)
        assert [it.value.ctypes.data for it in (given[0], optimizer._momentums[0])] == addresses


def test_serialisation():
    optimizer = Lion(0.5, weight_decay=0.1, beta_1=0.5)
    config = keras.optimizers.serialize(optimizer)
    assert config["registered_name"] == "lion_cpu>Lion"
    again = keras.optimizers.deserialize(config)
    assert type(again) is Lion and again.get_config() == optimizer.get_config()
    assert type(copy.deepcopy(optimizer.get_config())) is dict
    with pytest.raises(ValueError, match="beta_1"):
        Lion(beta_1=0.0)


@pytest.mark.parametrize("grads", [
    [numpy.ones((4,), "float32")], [numpy.ones((3, 1), "float32")],
], ids=["longer", "other shape"])
def test_wrong_gradients(grads):
    given = [keras.Variable(sample((3,), 0))]
    before = keras.ops.convert_to_numpy(given[0])
    with pytest.raises(Exception):
        Lion(0.01).apply([keras.ops.convert_to_tensor(grad) for grad in grads], given)
    if NATIVE:
        assert numpy.array_equal(keras.ops.convert_to_numpy(given[0]), before)


@pytest.mark.skipif(BACKEND == "numpy", reason="Keras cannot train on numpy")
def test_fit(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = sample((64, 8), 0), sample((64, 1), 1)
    losses = []
    for optimizer in (Lion(0.001), keras.optimizers.Lion(0.001), keras.optimizers.LossScaleOptimizer(Lion(0.001))):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1)])
        model.compile(optimizer=optimizer, loss="mse")
        losses.append(model.fit(x, y, epochs=3, verbose=0, shuffle=False).history["loss"][-1])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer.inner_optimizer) is Lion
    loaded.fit(x, y, verbose=0)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[2] == pytest.approx(losses[1], rel=1e-3)


class TestKerasOwn(lion_test.LionTest):
    """Keras's own tests of Lion, with ours in its place."""

    @pytest.fixture(autouse=True)
    def ours(self, monkeypatch):
        monkeypatch.setattr(lion_test, "Lion", Lion)

    @pytest.mark.skipif(BACKEND == "numpy", reason="Keras cannot train on numpy")
    def test_ema(self):
        super().test_ema()
