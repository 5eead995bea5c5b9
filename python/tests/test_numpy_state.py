"""`lion_cpu.numpy.Lion`: checkpoints, state, metrics, threads and forks."""

import json
import logging
import os
import sys
import threading
import time

import numpy
import pytest

import lion_cpu
from lion_cpu.numpy import Lion

from helpers import BF16, Exported, same, sample, write_tensors


def test_checkpoints_go_on_as_if_never_stopped(tmp_path):
    options = {"learning_rate": 0.01, "weight_decay": 0.1, "use_ema": True, "gradient_accumulation_steps": 2}
    whole, halves = sample((9, 4), BF16), sample((9, 4), BF16)
    gradients = [sample((9, 4), numpy.float32, seed) for seed in range(6)]
    optimizer = Lion({"w": whole}, **options)
    for gradient in gradients:
        optimizer.step({"w": gradient})
    first = Lion({"w": halves}, **options)
    for gradient in gradients[:3]:
        first.step({"w": gradient})
    first.save(tmp_path / "state.safetensors")
    resumed = numpy.zeros_like(halves)
    second = Lion({"w": resumed}, **options)
    second.load(tmp_path / "state.safetensors")
    assert same(resumed, halves) and second.iterations == 3
    for gradient in gradients[3:]:
        second.step({"w": gradient})
    assert same(resumed, whole)
    for kind, array in optimizer.state("w").items():
        assert same(second.state("w")[kind], array)

    first.save(tmp_path / "alone.safetensors", parameters=False)
    before = resumed.copy()
    with pytest.raises(ValueError, match="param/w: is missing"):
        second.load(tmp_path / "alone.safetensors")
    assert second.iterations == 6
    second.load(tmp_path / "alone.safetensors", parameters=False)
    assert second.iterations == 3 and same(resumed, before)
    with pytest.raises(ValueError, match="no such variable"):
        Lion({"v": sample((9, 4), BF16)}, **options).load(tmp_path / "state.safetensors", parameters=False)
    with pytest.raises(OSError, match="nowhere"):
        second.load(tmp_path / "nowhere.safetensors")


def test_state_is_set_and_imported(tmp_path):
    optimizer = Lion({"layer.weight": sample((2, 3), BF16)})
    momentum = sample((2, 3), seed=5)
    optimizer.set_state("layer.weight", momentum=momentum)
    assert same(optimizer.state("layer.weight")["momentum"], momentum.astype(BF16))
    with pytest.raises(ValueError, match="does not have this state"):
        optimizer.set_state("layer.weight", ema=momentum)
    with pytest.raises(ValueError, match="shape"):
        optimizer.set_state("layer.weight", momentum=momentum.T)
    write_tensors(tmp_path / "torch.safetensors", {"module.layer.weight.exp_avg": momentum + 1})
    optimizer.import_momentum(tmp_path / "torch.safetensors", "torch")
    assert same(optimizer.state("layer.weight")["momentum"], (momentum + 1).astype(BF16))
    with pytest.raises(LookupError, match="names is .jax."):
        optimizer.import_momentum(tmp_path / "torch.safetensors", "jax")
    with pytest.raises(ValueError, match="layer.weight"):
        optimizer.import_momentum(tmp_path / "torch.safetensors", ["{name}/m"])


def test_metrics_and_questions():
    optimizer = Lion({"w": numpy.ones(4, BF16)}, learning_rate=1e-4, global_clipnorm=1.0)
    gradient = numpy.full(4, 3.0, numpy.float32)
    metrics = optimizer.step({"w": gradient})
    assert (metrics.gradient_norm, metrics.clipped, metrics.non_finite) == (6.0, True, 0)
    assert metrics.clipped_norm == pytest.approx(1.0) and metrics.loss_scale is None
    assert optimizer.stalled("w") == 1.0
    assert optimizer.sign_agreement("w", gradient) == 1.0
    assert Lion(loss_scale_factor=8).scale_loss(0.5) == 4.0
    skipped = Lion({"w": numpy.ones(1, numpy.float32)}, dynamic_loss_scale=True, initial_scale=4)
    assert skipped.step({"w": numpy.array([numpy.inf], numpy.float32)}).outcome == "skipped"
    assert skipped.dynamic_loss_scale == (2.0, 0)


def test_config_and_json():
    optimizer = Lion(learning_rate=0.5, momentum_dtype="f32", exclude_from_weight_decay=["bias$"])
    config = json.loads(optimizer.to_json())
    again = Lion(config=config)
    assert again.to_json() == optimizer.to_json() and again.get("exclude_from_weight_decay") == ["bias$"]
    with pytest.raises(lion_cpu.LionError, match="momentum_dtype"):
        optimizer.to_json(keras=True)
    assert Lion(config=config, learning_rate=0.25).learning_rate == 0.25


def test_the_result_does_not_depend_on_speed():
    results = []
    for speed in ({}, {"isa": "scalar"}, {"threads": 1}, {"threads": 2, "chunk": 4096}):
        array = sample((70_001,))
        optimizer = Lion({"w": array}, weight_decay=0.1, **speed)
        for seed in range(3):
            optimizer.step({"w": sample((70_001,), seed=seed)})
        results.append(array)
    assert all(same(array, results[0]) for array in results)


def test_other_threads_run_during_a_step():
    """Another thread wakes up again and again while steps of many milliseconds run: the GIL is released."""
    array = numpy.zeros(1 << 24, numpy.float32)
    gradient = sample((1 << 24,))
    optimizer = Lion({"w": array}, threads=1)
    optimizer.step({"w": gradient})
    counted, stop = [], threading.Event()

    def count():
        while not stop.is_set():
            counted.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    begin = time.perf_counter()
    for _ in range(20):
        optimizer.step({"w": gradient})
    end = time.perf_counter()
    stop.set()
    thread.join()
    longest = max(b - a for a, b in zip(counted, counted[1:]))
    assert sum(begin < moment < end for moment in counted) > 20, (end - begin, longest)


def test_threads_may_share_an_optimizer():
    array = numpy.zeros(20_000, numpy.float32)
    optimizer = Lion({"w": array}, learning_rate=1.0)

    def work():
        for _ in range(25):
            optimizer.step({"w": numpy.ones(20_000, numpy.float32)})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.iterations == 100 and numpy.all(array == -100)


def test_warnings_are_pythons(caplog):
    optimizer = Lion({"w": numpy.ones(1000, BF16)}, learning_rate=1e-6)
    with caplog.at_level(logging.WARNING, "lion_cpu"):
        for _ in range(3):
            optimizer.step({"w": numpy.ones(1000, BF16)})
    assert sum("w" in record.message for record in caplog.records) == 1


def test_memory_does_not_grow():
    optimizer = Lion({"w": numpy.zeros(1000, numpy.float32), "t": numpy.zeros((30, 20), numpy.float32).T})
    gradients = {"w": numpy.ones(1000, numpy.float32), "t": Exported(numpy.ones((20, 30), numpy.float32))}

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(1000):
        optimizer.step(gradients)
    references = sys.getrefcount(gradients["w"])
    before = resident()
    for _ in range(10_000):
        optimizer.step(gradients)
    assert resident() - before < 1 << 20
    after = sys.getrefcount(gradients["w"])
    assert after == references


def test_subclass_attributes_and_repr():
    assert "2 variables after 0 steps" in repr(Lion({"a": sample((1,)), "b": sample((1,))}))
    assert Lion({"a": sample((1,))}).isa in lion_cpu.doctor()
