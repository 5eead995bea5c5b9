"""`lion_cpu.jax.lion_step`: the bits of numpy's optimizer, and what it refuses."""

import numpy
import pytest

import lion_cpu.numpy

from helpers import BF16, framework, same, sample

jax = framework("jax")

from lion_cpu.jax import lion_step  # noqa: E402

OPTIONS = [{}, {"weight_decay": 0.1}, {"beta_1": 0.5, "beta_2": 0.75, "weight_decay": 0.01}]


def steps(dtype, options, step, shape=(300, 41), momentum_dtype=None):
    """Five steps of both; the arrays of numpy's optimizer and those of `step`."""
    array = sample(shape, dtype)
    momentum_dtype = momentum_dtype or dtype
    names = {numpy.float32: "f32", numpy.float16: "f16", BF16: "bf16"}
    ours = lion_cpu.numpy.Lion({"p": array}, learning_rate=0.01, momentum_dtype=names[momentum_dtype], **options)
    parameter = jax.numpy.asarray(array.copy())
    momentum = jax.numpy.zeros(shape, momentum_dtype)
    for seed in range(5):
        gradient = sample(shape, dtype, seed + 1)
        parameter, momentum = step(parameter, jax.numpy.asarray(gradient), momentum)
        ours.step({"p": gradient})
    return (array, ours.state("p")["momentum"]), (numpy.asarray(parameter), numpy.asarray(momentum))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda it: "-".join(it) or "plain")
@pytest.mark.parametrize("momentum_dtype", [None, numpy.float32], ids=["same", "f32"])
@pytest.mark.parametrize("dtype", [numpy.float32, numpy.float16, BF16], ids=["f32", "f16", "bf16"])
def test_the_bits_of_numpys_optimizer(dtype, momentum_dtype, options):
    call = lambda p, g, m: lion_step(p, g, m, learning_rate=0.01, **options)
    for step in (call, jax.jit(call), jax.jit(call, donate_argnums=(0, 2))):
        expected, found = steps(dtype, options, step, momentum_dtype=momentum_dtype)
        assert all(map(same, found, expected))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (70_001,), (1 << 21,)], ids=str)
def test_shapes(shape):
    expected, found = steps(numpy.float32, {}, lambda p, g, m: lion_step(p, g, m, learning_rate=0.01), shape)
    assert all(map(same, found, expected))


def test_the_arguments_stay_unless_they_are_donated():
    p, g, m = (jax.numpy.asarray(sample((1000,), seed=seed)) for seed in range(3))
    before = numpy.asarray(p).copy()
    jax.block_until_ready(lion_step(p, g, m, learning_rate=0.1))
    assert numpy.array_equal(numpy.asarray(p), before)
    donating = jax.jit(lambda p, g, m: lion_step(p, g, m, learning_rate=0.1), donate_argnums=(0, 2))
    address = p.unsafe_buffer_pointer()
    new, _ = donating(p, g, m)
    assert p.is_deleted() and new.unsafe_buffer_pointer() == address


def test_within_a_training_step():
    """A traced learning rate, and a gradient that XLA computes in the same program."""

    @jax.jit
    def train(p, m, n):
        gradient = jax.grad(lambda p: (p * p).sum())(p)
        return lion_step(p, gradient, m, learning_rate=0.1 / (1 + n))

    p, m = jax.numpy.ones(100), jax.numpy.zeros(100)
    for n in range(3):
        p, m = train(p, m, n)
    assert numpy.allclose(numpy.asarray(p), 1 - 0.1 - 0.05 - 0.1 / 3)


def test_a_gradient_that_is_the_parameter():
    p, m = jax.numpy.asarray(sample((1000,))), jax.numpy.zeros(1000)
    expected = lion_step(p, p + 0, m, learning_rate=0.1)
    for step in (lion_step, jax.jit(lion_step, static_argnames="learning_rate")):
        found = step(p, p, m, learning_rate=0.1)
        assert all(same(numpy.asarray(a), numpy.asarray(b)) for a, b in zip(found, expected))


def test_what_is_refused():
    p, m = jax.numpy.ones(4), jax.numpy.zeros(4)
    with pytest.raises(TypeError, match="gradient has the dtype int32"):
        lion_step(p, jax.numpy.ones(4, int), m, learning_rate=0.1)
    with pytest.raises(ValueError, match="momentum has the shape"):
        lion_step(p, p, jax.numpy.zeros(5), learning_rate=0.1)
    for options in ({"learning_rate": -1.0}, {"learning_rate": float("nan")}, {"learning_rate": 0.1, "beta_1": 2.0},
                    {"learning_rate": 0.1, "weight_decay": -1.0}):
        with pytest.raises(Exception, match="lion_step: .*(learning_rate|beta_1|weight_decay)"):
            jax.block_until_ready(lion_step(p, p + 1, m, **options))
