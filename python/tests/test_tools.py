"""`lion_cpu.tune`, `lion_cpu.doctor`, `lion_cpu.replay`, and the stubs."""

import ast
import inspect
import pathlib

import numpy
import pytest

import lion_cpu.numpy
from lion_cpu import _native

from helpers import read_tensors, same, write_tensors


def test_doctor_names_what_it_finds():
    report = lion_cpu.doctor()
    for name in ("cpu", "backends", "cores", "LION_ISA", "profile"):
        assert any(line.startswith(name) for line in report.splitlines()), name


def test_tune_writes_a_profile(tmp_path):
    path = tmp_path / "profile.toml"
    text = lion_cpu.tune(level="estimate", output=path, dtypes=["f32"], operations=["step"])
    assert path.read_text() == text and "[[" in text
    assert lion_cpu.numpy.Lion(profile=path).isa in lion_cpu.doctor()


def test_tune_measures(tmp_path):
    options = {"dtypes": ["bf16"], "operations": ["convert"], "threads": 1}
    text = lion_cpu.tune(level="quick", time_limit=0.5, dry_run=True, **options)
    assert "convert" in text


@pytest.mark.parametrize("arguments", [
    {"level": "much"}, {"time_limit": -1.0}, {"time_limit": float("nan")}, {"operations": ["dance"]},
    {"dtypes": ["f64"]}, {"output": "/dev/null/profile.toml", "level": "estimate"},
])
def test_tune_refuses(arguments):
    with pytest.raises((lion_cpu.LionError, ValueError)):
        lion_cpu.tune(**arguments)


def test_tune_can_be_interrupted(tmp_path):
    import signal
    import threading

    # A shell's background job has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            lion_cpu.tune(level="quick", time_limit=60, output=tmp_path / "profile.toml")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "profile.toml").exists()


def test_replay_goes_on_from_a_state(tmp_path):
    rng = numpy.random.default_rng(0)
    start = {"param/w": rng.standard_normal((40,), numpy.float32)}
    gradients = [rng.standard_normal((40,), numpy.float32) for _ in range(4)]
    grads = lambda some: {f"grad/{step}/w": gradient for step, gradient in enumerate(some)}
    whole, first, second = (tmp_path / f"{name}.safetensors" for name in ("whole", "first", "second"))
    run = tmp_path / "run.safetensors"
    options = {"learning_rate": 0.1, "weight_decay": 0.01}
    write_tensors(run, start | grads(gradients))
    lion_cpu.replay(run, whole, **options)
    write_tensors(run, start | grads(gradients[:2]))
    lion_cpu.replay(run, first, **options)
    write_tensors(run, start | grads(gradients[2:]))
    lion_cpu.replay(run, second, state=first, **options)
    (expected, about), (found, again) = read_tensors(whole), read_tensors(second)
    assert about == again and all(same(found[name], array) for name, array in expected.items())
    with pytest.raises(OSError):
        lion_cpu.replay(tmp_path / "nowhere", whole)
    with pytest.raises(LookupError):
        lion_cpu.replay(run, whole, learning_rat=1)


def public(names):
    return {name for name in names if not name.startswith("_") or name == "__version__"}


def test_the_stubs_are_those_of_the_module():
    stub = ast.parse(pathlib.Path(_native.__file__).with_name("_native.pyi").read_text())
    declared = {}
    for node in stub.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            declared[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            declared[node.target.id] = node
    assert public(declared) == public(dir(_native))
    for name, node in declared.items():
        if isinstance(node, ast.ClassDef) and not name.startswith("_"):
            members = {getattr(it, "name", None) or it.target.id for it in node.body}
            assert public(members) == public(vars(getattr(_native, name))), name
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.decorator_list and method.name[0] != "_":
                    check_arguments(getattr(getattr(_native, name), method.name), method)
        elif isinstance(node, ast.FunctionDef):
            check_arguments(getattr(_native, name), node)


def check_arguments(function, node):
    arguments = node.args
    declared = [it.arg for it in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
    declared += [it.arg for it in (arguments.vararg, arguments.kwarg) if it]
    found = list(inspect.signature(function).parameters)
    assert [name for name in declared if name != "self"] == [name for name in found if name != "self"], node.name
