"""Keras's recorded runs, step by step through `lion_cpu.numpy.Lion` and in one go through `lion_cpu.replay`."""

import numpy
import pytest

import lion_cpu
from lion_cpu.numpy import Lion

from helpers import bits, read_tensors, same


def constraint(serialized):
    config = dict(serialized["config"])
    makers = {"NonNeg": "non_negative", "MaxNorm": "max_norm", "UnitNorm": "unit_norm", "MinMaxNorm": "min_max_norm"}
    return getattr(lion_cpu.Constraint, makers[serialized["class_name"]])(**config)


def trained(case, **speed):
    """The optimizer at the end of the run, and its tensors by the names of a checkpoint."""
    optimizer = Lion(config=str(case.config), exclude_from_weight_decay=case.excluded, **speed)
    parameters = case.parameters()
    listed = lambda key, name: name in (case.about.get(key) or [])
    for name, array in sorted(parameters.items(), key=lambda item: item[0].encode()):
        serialized = (case.about.get("constraints") or {}).get(name)
        optimizer.add(
            name,
            array,
            exclude_from_weight_decay=listed("exclude_variables", name),
            overwrite_with_gradient=listed("overwrite_with_gradient", name),
            constraint=serialized and constraint(serialized),
        )
    for step in range(case.steps):
        optimizer.step(case.gradients(step))
    if case.finalize:
        optimizer.finalize()
    tensors = {f"param/{name}": array for name, array in parameters.items()}
    for name in parameters:
        tensors |= {f"{kind}/{name}": array for kind, array in optimizer.state(name).items()}
    return optimizer, tensors


def agrees(found, expected, exact):
    """By bits, or where a norm or a schedule takes part within 8 units in the last place or 1e-6."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if exact:
        return same(found, expected)

    def order(array):
        return numpy.where(numpy.signbit(array), -(bits(abs(array)).reshape(array.shape).astype(numpy.int64)),
                           bits(array).reshape(array.shape).astype(numpy.int64))

    with numpy.errstate(invalid="ignore"):
        close = (abs(order(found) - order(expected)) <= 8) | (abs(found - expected) <= 1e-6)
    return bool(numpy.all(close | (numpy.isnan(found) & numpy.isnan(expected))))


def test_every_run_ends_as_in_keras(golden):
    optimizer, tensors = trained(golden)
    assert sorted(tensors) == sorted(golden.result)
    for name, expected in golden.result.items():
        assert agrees(tensors[name], expected, golden.about["exact"]), name
    assert str(optimizer.iterations) == golden.metadata["iterations"]
    if "dynamic_scale" in golden.metadata:
        scale, counter = optimizer.dynamic_loss_scale
        assert (scale, counter) == (float(golden.metadata["dynamic_scale"]), int(golden.metadata["step_counter"]))


def test_every_run_has_the_bits_of_replay(golden, tmp_path):
    if not golden.about["cli"]:
        pytest.skip("replay has no option for it")
    output = tmp_path / "result.safetensors"
    lion_cpu.replay(
        golden.input, output, config=str(golden.config), finalize=golden.finalize,
        exclude_from_weight_decay=golden.excluded,
    )
    expected, _ = read_tensors(output)
    for speed in ({}, {"isa": "scalar", "threads": 1}, {"threads": 2, "chunk": 4096}):
        _, tensors = trained(golden, **speed)
        assert sorted(tensors) == sorted(expected)
        for name, array in expected.items():
            assert same(tensors[name], array), (name, speed)
