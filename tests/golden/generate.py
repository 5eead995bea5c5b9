#!/usr/bin/env python3
"""Records what keras.optimizers.Lion does, as fixtures for the tests.

    pip install keras==3.15.1 numpy==2.4.6
    python tests/golden/generate.py            # rewrites tests/golden/cases
    python tests/golden/generate.py --list     # names and one line each

Keras's own optimizer on its numpy backend computes every result. Keras builds the optimizer from the config.json that
is written here. Each step is one call of `optimizer.apply`, as in `model.fit`. README.md in this folder describes the
files.
"""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import shutil
import struct
import sys
import types
import warnings
import zlib
from pathlib import Path

os.environ["KERAS_BACKEND"] = "numpy"


class _Absent(types.ModuleType):
    """Replaces a package that Keras's numpy backend imports and the optimizers never use."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_AbsentObject,), {})


class _AbsentObject:
    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _AbsentObject

    def __call__(self, *args, **kwargs):  # a decorator returns what it decorates
        return args[0] if args else self


class _AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.packages:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Absent(spec.name)

    def exec_module(self, module):
        pass


# The numpy backend imports jax and scipy (convolutions, FFT, linear algebra) when it loads. The real packages give the
# same files.
sys.meta_path.append(_AbsentFinder([p for p in ("jax", "scipy") if importlib.util.find_spec(p) is None]))

import numpy as np  # noqa: E402

import keras  # noqa: E402
from keras import constraints as kc  # noqa: E402
from keras.optimizers import Lion, LossScaleOptimizer  # noqa: E402
from keras.optimizers import schedules as ks  # noqa: E402

KERAS, NUMPY = "3.15.1", "2.4.6"
F32 = np.float32
INF, NAN = F32("inf"), F32("nan")
TINY = F32(2.0**-149)  # the smallest subnormal
NORMAL = F32(2.0**-126)  # the smallest normal number
HUGE = np.finfo(F32).max

# ---------------------------------------------------------------------------------------------------------------------
# Numbers, built from integers and powers of two. They are the same on every machine and with every numpy.


def uniform(rs, shape, exponent=0):
    """Returns numbers of 24 random bits in (-2, 2), times 2^exponent."""
    bits = rs.randint(-(2**23) + 1, 2**23, size=shape)
    return np.ldexp(np.asarray(bits, np.float64), exponent - 22).astype(F32)


def wide(rs, shape):
    """Returns numbers with a random exponent per element, from 2^-24 to 2^8."""
    exponents = rs.randint(-24, 9, size=shape)
    return np.ldexp(np.asarray(uniform(rs, shape), np.float64), exponents).astype(F32)


def pick(values):
    """Draws from the given values."""
    values = np.asarray(values, F32)
    return lambda rs, shape: values[rs.randint(0, len(values), size=shape)].astype(F32)


def sprinkle(values, every, base=uniform):
    """Draws random numbers, and about one in `every` from the given values."""
    chosen = pick(values)

    def draw(rs, shape):
        plain, special = base(rs, shape), chosen(rs, shape)
        return np.where(rs.randint(0, every, size=shape) == 0, special, plain).astype(F32)

    return draw


def scaled(exponent):
    return lambda rs, shape: uniform(rs, shape, exponent)


def shaped(values):
    """Repeats the given values to fill the shape."""
    values = np.asarray(values, F32)
    return lambda rs, shape: np.resize(values, shape).astype(F32)


def cancelling(beta_1):
    """Draws gradients g with m * beta_1 + g * (1 - beta_1) exactly zero if f32 has such a g, else close to zero."""
    b1 = F32(beta_1)
    rest = F32(1.0) - b1

    def draw(rs, shape, momentum):
        m = np.asarray(momentum, F32)
        wanted = -(m * b1)
        start = (wanted / rest).astype(F32)
        best = start
        for ulps in range(-12, 13):
            g = start
            for _ in range(abs(ulps)):
                g = np.nextafter(g, F32(np.sign(ulps)) * INF)
            best = np.where(g * rest == wanted, g, best)
        # without momentum, any gradient
        return np.where(m == 0, uniform(rs, shape), best).astype(F32)

    draw.needs_momentum = True
    return draw


# ---------------------------------------------------------------------------------------------------------------------
# The safetensors format: a little-endian u64 header length, a JSON header, the data.


def write_safetensors(path, tensors, metadata=None):
    header, chunks, offset = {}, [], 0
    if metadata:
        header["__metadata__"] = {k: metadata[k] for k in sorted(metadata)}
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        assert array.dtype == F32, (name, array.dtype)
        # Write one NaN for all NaNs. The NaN that a sum of two keeps depends on the machine, and the contract leaves it
        # open.
        data = np.where(np.isnan(array), NAN, array).astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + len(data)]}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# One case.

DENSE = {"dense.kernel": (3, 5), "dense.bias": (7,), "scale": ()}
TWO = {"kernel": (2, 3, 4), "bias": (1,)}
LONG = {"embedding": (33,), "dense.kernel": (3, 5), "dense.bias": (7,), "temperature": ()}

CASES = {}


def case(
    name,
    about,
    *,
    lion=None,  # arguments of Lion
    dynamic=None,  # arguments of LossScaleOptimizer around it
    stored_inner=None,  # further settings of the inner Lion in the stored config; Keras switches them off
    shapes=DENSE,
    steps=6,
    exact=True,
    param=uniform,
    grad=uniform,  # one generator for all steps, or a list to cycle through
    missing=None,  # {step: names}
    exclude=(),  # regular expressions
    exclude_variables=(),  # names
    overwrite=(),  # names
    constraints=None,  # {name: a Keras constraint}
    finalize=False,
):
    assert name not in CASES, name
    CASES[name] = dict(locals())


def variable(name, value):
    """Creates a variable whose path is the name. Keras joins name scopes with slashes."""
    *scopes, last = name.split("/")
    stack = [keras.name_scope(s) for s in scopes]
    for scope in stack:
        scope.__enter__()
    made = keras.Variable(value, dtype="float32", name=last)
    for scope in reversed(stack):
        scope.__exit__()
    assert made.path == name, (made.path, name)
    return made


def make_config(c, wrapped):
    """Returns Keras's own JSON: serialize(), or the bare dict of get_config()."""
    options = {"name": "lion", **(c["lion"] or {})}
    optimizer = Lion(**options)
    if c["dynamic"] is not None:
        optimizer = LossScaleOptimizer(optimizer, name="loss_scale_optimizer", **c["dynamic"])
    config = keras.optimizers.serialize(optimizer) if wrapped else optimizer.get_config()
    if c["stored_inner"]:
        outer = config["config"] if wrapped else config
        outer["inner_optimizer"]["config"].update(c["stored_inner"])
    return config


def from_config(config, wrapped):
    if wrapped:
        return keras.optimizers.deserialize(config)
    return (LossScaleOptimizer if "inner_optimizer" in config else Lion).from_config(config)


def record(c, folder, wrapped):
    keras.utils.clear_session(free_memory=False)
    rs = np.random.RandomState(zlib.crc32(c["name"].encode()))
    folder.mkdir(parents=True)

    write_json(folder / "config.json", make_config(c, wrapped))
    optimizer = from_config(json.loads((folder / "config.json").read_text("utf-8")), wrapped)
    inner = getattr(optimizer, "inner_optimizer", optimizer)

    run = {f"param/{name}": c["param"](rs, shape) for name, shape in c["shapes"].items()}
    variables = {name: variable(name, run[f"param/{name}"]) for name in c["shapes"]}
    for name in c["overwrite"]:
        variables[name].overwrite_with_gradient = True
    for name, constraint in (c["constraints"] or {}).items():
        variables[name].constraint = constraint
    if c["exclude"] or c["exclude_variables"]:
        inner.exclude_from_weight_decay(
            var_list=[variables[name] for name in c["exclude_variables"]], var_names=list(c["exclude"])
        )

    order = list(variables.values())
    optimizer.build(order)
    optimizer.built = True
    momentum = dict(zip(variables, inner._momentums))

    draws = c["grad"] if isinstance(c["grad"], list) else [c["grad"]]
    for step in range(c["steps"]):
        draw = draws[step % len(draws)]
        gradients = []
        for name, shape in c["shapes"].items():
            if name in (c["missing"] or {}).get(step, ()):
                gradients.append(None)
                continue
            state = (momentum[name].numpy(),) if hasattr(draw, "needs_momentum") else ()
            gradient = np.asarray(draw(rs, shape, *state), F32).reshape(shape)
            run[f"grad/{step}/{name}"] = gradient
            gradients.append(gradient.copy())
        optimizer.apply(gradients, order)
    if c["finalize"]:
        optimizer.finalize_variable_values(order)

    # Keras divides its `iterations` by the accumulation steps. The file stores the number of calls.
    result, metadata = {}, {"iterations": str(int(inner._iterations.numpy()))}
    for i, name in enumerate(variables):
        result[f"param/{name}"] = variables[name].numpy()
        if inner._momentums[i] is not None:
            result[f"momentum/{name}"] = inner._momentums[i].numpy()
        if inner.use_ema and inner._model_variables_moving_average[i] is not None:
            result[f"ema/{name}"] = inner._model_variables_moving_average[i].numpy()
        if inner.gradient_accumulation_steps:
            result[f"accumulator/{name}"] = inner._accumulated_gradients[i].numpy()
    if c["dynamic"] is not None:
        metadata["dynamic_scale"] = repr(float(optimizer.dynamic_scale.numpy()))
        metadata["step_counter"] = str(int(optimizer.step_counter.numpy()))
    write_safetensors(folder / "run.safetensors", run)
    write_safetensors(folder / "result.safetensors", result, metadata)

    flags = ["--finalize"] if c["finalize"] else []
    for pattern in c["exclude"]:
        flags += ["--exclude-from-weight-decay", pattern]
    about = {"about": c["about"], "exact": c["exact"], "flags": flags, "keras": KERAS, "numpy": NUMPY}
    library = {
        "constraints": {n: keras.constraints.serialize(k) for n, k in (c["constraints"] or {}).items()},
        "exclude_variables": list(c["exclude_variables"]),
        "overwrite_with_gradient": list(c["overwrite"]),
    }
    library = {key: value for key, value in library.items() if value}
    about["cli"] = not library
    write_json(folder / "case.json", {**about, **library})


# ---------------------------------------------------------------------------------------------------------------------
# The cases: each option alone.

case("plain", "every default", shapes=LONG, steps=8)
case("long", "longer than any vector, and no multiple of one", shapes={"a": (1031,), "b": (64,), "c": (17, 15)}, steps=3,
     lion=dict(learning_rate=0.01, weight_decay=0.1, clipvalue=0.8, use_ema=True, ema_momentum=0.7, loss_scale_factor=3.0))
case("learning_rate", "a rate that f32 does not hold exactly", lion=dict(learning_rate=0.3))
case("beta_1_one", "beta_1 = 1: the update sees the old momentum only, the first one is zero", lion=dict(beta_1=1.0))
case("beta_2_zero", "beta_2 = 0: the momentum is the last gradient", lion=dict(beta_2=0.0))
case("beta_2_one", "beta_2 = 1: the momentum stays zero", lion=dict(beta_2=1.0))
case("betas", "betas 0.95 and 0.98", lion=dict(beta_1=0.95, beta_2=0.98), shapes=LONG, grad=wide)
case("betas_tiny", "beta_1 next to zero, so that 1 - beta_1 rounds to 1 in f32", lion=dict(beta_1=1e-9, beta_2=0.999))
case("weight_decay", "decoupled weight decay", lion=dict(learning_rate=0.01, weight_decay=0.1), shapes=LONG)
case("weight_decay_zero", "0.0 is set, not off: -0.0 turns into +0.0 and an infinity into NaN",
     lion=dict(weight_decay=0.0), param=pick([0.0, -0.0, 1.0, -2.5, INF, -INF, NAN, TINY, -TINY, HUGE]),
     grad=pick([0.0, -0.0, 1.0, -1.0]), shapes=LONG, steps=3)
case("weight_decay_large", "weight decay above 1 / lr: parameters change sign", lion=dict(learning_rate=0.5, weight_decay=3.0))
case("clipnorm", "each tensor clipped", lion=dict(clipnorm=0.7), exact=False, shapes=LONG)
case("clipnorm_not_reached", "(g * c) / c still rounds twice; exact, as the norm is only compared", lion=dict(clipnorm=700.3), shapes=LONG)
case("clipnorm_long", "a sum of squares over many elements", lion=dict(clipnorm=0.7), exact=False, shapes={"w": (1031,), "b": (7,)}, steps=3)
case("clipnorm_zero", "0 is off", lion=dict(clipnorm=0.0))
case("clipvalue", "each element clipped", lion=dict(clipvalue=0.3), shapes=LONG)
case("clipvalue_zero", "0 is off", lion=dict(clipvalue=0.0))
case("global_clipnorm", "all tensors clipped together", lion=dict(global_clipnorm=0.7), exact=False, shapes=LONG)
case("global_clipnorm_not_reached", "c * (1 / c) is not 1, with 1 / c rounded once from f64; exact, as the norm is only compared",
     lion=dict(global_clipnorm=2.1), shapes=LONG, grad=scaled(-5))
case("global_clipnorm_zero", "0 is off", lion=dict(global_clipnorm=0.0))
case("ema", "a moving average, never written back", lion=dict(learning_rate=0.01, use_ema=True))
case("ema_momentum_zero", "the average is the parameter", lion=dict(learning_rate=0.01, use_ema=True, ema_momentum=0.0))
case("ema_momentum_one", "the average is the parameter after the first call",
     lion=dict(learning_rate=0.01, use_ema=True, ema_momentum=1.0))
for f in (1, 2, 3):
    case(f"ema_overwrite_{f}", f"the average written back every {f} calls",
         lion=dict(learning_rate=0.01, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=f), steps=7)
case("ema_overwrite_zero", "0 is off", lion=dict(learning_rate=0.01, use_ema=True, ema_overwrite_frequency=0))
case("ema_finalize", "the average written back at the end",
     lion=dict(learning_rate=0.01, use_ema=True, ema_momentum=0.9), finalize=True)
case("ema_off_but_configured", "EMA's options do nothing without use_ema",
     lion=dict(ema_momentum=0.5, ema_overwrite_frequency=2), finalize=True)
case("loss_scale_factor_1024", "static loss scale", lion=dict(loss_scale_factor=1024.0), grad=scaled(10))
case("loss_scale_factor_3", "a division, not a multiplication by the reciprocal", lion=dict(loss_scale_factor=3.0),
     shapes=LONG, steps=8)
case("loss_scale_factor_0.1", "below one, and not an f32", lion=dict(loss_scale_factor=0.1), shapes=LONG, steps=8)
for k in (2, 3, 4):
    case(f"accumulation_{k}", f"updates every {k} calls; the run ends inside a window",
         lion=dict(gradient_accumulation_steps=k), steps=3 * k - 1, shapes=LONG)
case("accumulation_zero", "0 is off", lion=dict(gradient_accumulation_steps=0))
for growth in (1, 2, 3):
    case(f"dynamic_growth_{growth}", f"dynamic loss scale, doubled every {growth} finite calls",
         dynamic=dict(initial_scale=1024.0, dynamic_growth_steps=growth), grad=scaled(10), steps=7)
case("dynamic_default", "LossScaleOptimizer with its defaults", dynamic={}, grad=scaled(15))

overflowing = [scaled(10), scaled(10), sprinkle([INF, -INF], 4, scaled(10)), scaled(10), sprinkle([NAN], 4, scaled(10))]
case("dynamic_overflow", "calls with an infinity or NaN are skipped and halve the scale",
     dynamic=dict(initial_scale=1024.0, dynamic_growth_steps=2), grad=overflowing, steps=12, shapes=LONG)
case("dynamic_overflow_always", "no call is finite: nothing but the scale changes",
     dynamic=dict(initial_scale=4.0, dynamic_growth_steps=2), grad=sprinkle([INF, NAN], 2), steps=4, shapes=LONG)
case("dynamic_odd_scale", "a scale that is no power of two",
     dynamic=dict(initial_scale=1000.1, dynamic_growth_steps=2), grad=overflowing, steps=9)
case("dynamic_scale_to_infinity", "growth does not stop: the scale becomes infinite and every gradient zero",
     dynamic=dict(initial_scale=2.0**126, dynamic_growth_steps=1), grad=scaled(100), steps=5)
case("dynamic_scale_to_zero", "the scale underflows to zero, then g / 0 reaches the inner optimizer",
     dynamic=dict(initial_scale=2.0**-148, dynamic_growth_steps=9), shapes=TWO,
     grad=[shaped([INF]), shaped([NAN]), sprinkle([0.0], 3)], steps=3)
case("exclude_bias", "weight decay excluded by a word in the name", lion=dict(learning_rate=0.01, weight_decay=0.1),
     exclude=["bias"], shapes=LONG)
case("exclude_patterns", "several regular expressions, anchors and alternatives",
     lion=dict(learning_rate=0.01, weight_decay=0.1), exclude=[r"^emb", r"\.b[a-z]+$|temperature"], shapes=LONG)
case("exclude_variable", "weight decay excluded by variable", lion=dict(learning_rate=0.01, weight_decay=0.1),
     exclude_variables=["dense.kernel", "temperature"], shapes=LONG)
case("finalize_without_ema", "finalize does nothing", finalize=True)

# ---------------------------------------------------------------------------------------------------------------------
# Combinations of options.

EMA = dict(learning_rate=0.01, use_ema=True, ema_momentum=0.7)
case("accumulation_ema", "the average moves on every call, also where no update happens",
     lion=dict(EMA, gradient_accumulation_steps=3), steps=8)
case("accumulation_ema_overwrite_1", "written back on every call: the first k calls have momentum 0",
     lion=dict(EMA, gradient_accumulation_steps=3, ema_overwrite_frequency=1), steps=10)
case("accumulation_ema_overwrite_2", "written back on all calls of every second window",
     lion=dict(EMA, gradient_accumulation_steps=2, ema_overwrite_frequency=2), steps=11, finalize=True)
case("accumulation_clipvalue", "the mean is clipped, not each gradient",
     lion=dict(gradient_accumulation_steps=3, clipvalue=0.3), steps=7)
case("accumulation_clipnorm", "the mean is clipped by its norm", lion=dict(gradient_accumulation_steps=2, clipnorm=0.7),
     exact=False, steps=7)
case("accumulation_global_clipnorm", "the mean is clipped by the global norm",
     lion=dict(gradient_accumulation_steps=4, global_clipnorm=0.7), exact=False, steps=9)
case("accumulation_loss_scale", "unscaled before it is accumulated",
     lion=dict(gradient_accumulation_steps=3, loss_scale_factor=3.0), steps=8, grad=wide)
case("accumulation_weight_decay", "decay only in calls that update",
     lion=dict(learning_rate=0.01, gradient_accumulation_steps=2, weight_decay=0.1), exclude=["bias"], steps=7)
case("accumulation_schedule", "the schedule sees calls, not updates",
     lion=dict(learning_rate=ks.ExponentialDecay(0.1, 3, 0.5), gradient_accumulation_steps=3), exact=False, steps=10)
case("accumulation_piecewise", "the schedule sees calls, not updates",
     lion=dict(learning_rate=ks.PiecewiseConstantDecay([2, 4, 7], [0.1, 0.03, 0.01, 0.003]), gradient_accumulation_steps=2),
     steps=11)
case("ema_weight_decay_clipvalue", "three at once",
     lion=dict(EMA, ema_overwrite_frequency=3, weight_decay=0.2, clipvalue=0.5), steps=8, shapes=LONG, exclude=["kernel"])
case("loss_scale_clipvalue", "unscaled before it is clipped", lion=dict(loss_scale_factor=7.0, clipvalue=0.1))
case("loss_scale_clipnorm", "unscaled before it is clipped", lion=dict(loss_scale_factor=7.0, clipnorm=0.1), exact=False)
case("everything_exact", "all options that round nothing in a norm or a schedule",
     lion=dict(learning_rate=ks.PiecewiseConstantDecay([3, 6], [0.05, 0.02, 0.01]), beta_1=0.95, beta_2=0.98,
               weight_decay=0.3, clipvalue=0.4, use_ema=True, ema_momentum=0.6, ema_overwrite_frequency=2,
               loss_scale_factor=3.0, gradient_accumulation_steps=2),
     exclude=["bias", "^scale$"], missing={1: ["scale"], 4: ["dense.bias"], 7: ["dense.kernel"]}, steps=12, finalize=True)
case("everything", "all options, with a norm and a schedule",
     lion=dict(learning_rate=ks.CosineDecay(0.01, 6, 0.1, warmup_target=0.05, warmup_steps=3), weight_decay=0.3,
               global_clipnorm=0.9, use_ema=True, ema_momentum=0.6, ema_overwrite_frequency=2, loss_scale_factor=3.0,
               gradient_accumulation_steps=3),
     exclude=["bias"], missing={1: ["scale"], 5: ["dense.bias"]}, steps=12, exact=False, finalize=True)

DYNAMIC = dict(initial_scale=1024.0, dynamic_growth_steps=2)
case("dynamic_inner_static_factor", "the stored inner loss_scale_factor is switched off", dynamic=DYNAMIC,
     stored_inner=dict(loss_scale_factor=8.0), grad=overflowing, steps=6)
case("dynamic_accumulation", "a skipped call is no part of a window", lion=dict(gradient_accumulation_steps=3),
     dynamic=DYNAMIC, grad=overflowing, steps=12)
case("dynamic_ema", "a skipped call moves no average",
     lion=dict(EMA, ema_overwrite_frequency=3), dynamic=DYNAMIC, grad=overflowing, steps=12, finalize=True)
case("dynamic_clipvalue", "unscaled before it is clipped", lion=dict(clipvalue=0.3), dynamic=DYNAMIC, grad=overflowing, steps=9)
case("dynamic_global_clipnorm", "unscaled before it is clipped", lion=dict(global_clipnorm=0.7), dynamic=DYNAMIC,
     grad=overflowing, steps=9, exact=False)
case("dynamic_weight_decay_piecewise", "a skipped call moves no schedule",
     lion=dict(learning_rate=ks.PiecewiseConstantDecay([2, 4], [0.1, 0.03, 0.01]), weight_decay=0.2),
     dynamic=DYNAMIC, grad=overflowing, steps=10, exclude=["scale"])
case("dynamic_missing", "a missing gradient takes no part in the finite check", dynamic=DYNAMIC, grad=overflowing, steps=7,
     missing={0: ["scale"], 2: ["dense.kernel"], 3: ["dense.bias", "scale"]})
case("dynamic_everything", "dynamic loss scale around all the rest",
     lion=dict(learning_rate=ks.PolynomialDecay(0.05, 8, 0.01), weight_decay=0.3, clipnorm=0.5, use_ema=True,
               ema_momentum=0.6, ema_overwrite_frequency=2, gradient_accumulation_steps=2),
     dynamic=dict(initial_scale=1024.0, dynamic_growth_steps=3), grad=overflowing, exclude=["bias"],
     missing={1: ["scale"], 5: ["dense.bias"]}, steps=12, exact=False, finalize=True)

# ---------------------------------------------------------------------------------------------------------------------
# Missing gradients.

case("missing_some", "one variable never has a gradient", shapes=LONG, steps=5, missing={s: ["dense.bias"] for s in range(5)})
case("missing_varying", "another one each step; a skipped variable does not decay and keeps its momentum",
     lion=dict(learning_rate=0.01, weight_decay=0.1), shapes=LONG, steps=8,
     missing={0: ["embedding"], 1: ["dense.kernel", "temperature"], 3: ["dense.bias"],
              4: ["embedding", "dense.kernel", "dense.bias"], 7: ["temperature"]})
case("missing_accumulation", "skipped in the updating call: not updated, and its accumulator is cleared all the same",
     lion=dict(gradient_accumulation_steps=3), steps=8,
     missing={0: ["scale"], 2: ["dense.bias"], 4: ["dense.kernel"], 5: ["dense.kernel", "scale"], 7: ["dense.bias"]})
case("missing_ema", "a skipped variable is averaged and overwritten like any other",
     lion=dict(EMA, ema_overwrite_frequency=2), steps=7,
     missing={0: ["scale"], 1: ["dense.bias"], 3: ["dense.kernel", "scale"], 6: ["dense.bias"]})
case("missing_global_clipnorm", "the norm is over the gradients that are there",
     lion=dict(global_clipnorm=0.7), exact=False, steps=5, missing={0: ["scale"], 1: ["dense.kernel"], 3: ["dense.bias"]})

# ---------------------------------------------------------------------------------------------------------------------
# Values.

case("zeros", "gradients of both zeros, and runs of them: sign(0) is 0", shapes=LONG,
     grad=[pick([0.0, -0.0]), sprinkle([0.0, -0.0], 2), pick([0.0, -0.0])], param=sprinkle([0.0, -0.0], 2))
case("subnormal_gradients", "nothing is flushed", shapes=LONG, steps=10,
     grad=pick([TINY, -TINY, 3 * TINY, 7 * TINY, -5 * TINY, NORMAL, -NORMAL, NORMAL / 2, 0.0]))
case("negative_zero_update", "c is -0 by underflow where the parameter is -0: sign(-0) is +0, so it stays -0",
     lion=dict(beta_1=0.5, beta_2=0.25), grad=pick([-TINY]), param=pick([0.0, -0.0]), steps=3)
case("subnormal_state", "parameters and rate as small as the gradients, so that the results are subnormal",
     lion=dict(learning_rate=1e-41, weight_decay=0.25, beta_1=0.5, beta_2=0.75), shapes=LONG, steps=6,
     grad=pick([TINY, -TINY, 2 * TINY, -6 * TINY, NORMAL / 2, -NORMAL / 4]), param=scaled(-128))
case("huge_gradients", "next to overflow", shapes=LONG, grad=pick([HUGE, -HUGE, HUGE / 2, -HUGE / 4, 1.0]),
     lion=dict(beta_1=0.5, beta_2=0.5), steps=8)
case("huge_accumulation", "the sum overflows before it is divided", lion=dict(gradient_accumulation_steps=2),
     grad=pick([HUGE, -HUGE, HUGE / 2, 1.0]), shapes=LONG, steps=7)
case("infinite_gradients", "sign(inf) is 1; inf - inf in the momentum is NaN", shapes=LONG,
     grad=[uniform, sprinkle([INF, -INF], 3), uniform], steps=7)
case("nan_gradients", "NaN reaches the parameter", shapes=LONG, grad=[uniform, sprinkle([NAN], 5), uniform], steps=6)
case("nonfinite_beta_1_one", "0 * inf is NaN in the update", lion=dict(beta_1=1.0), grad=sprinkle([INF, NAN], 5), steps=3)
case("nonfinite_clipvalue", "an infinity is clipped, NaN stays", lion=dict(clipvalue=0.5),
     grad=sprinkle([INF, -INF, NAN, -0.0, HUGE, TINY], 2), shapes=LONG)
case("nonfinite_loss_scale", "quotients that overflow and underflow", lion=dict(loss_scale_factor=1e-3),
     grad=sprinkle([INF, -INF, NAN, -0.0, HUGE, -HUGE, TINY], 2), shapes=LONG)
case("subnormal_loss_scale", "quotients that round to subnormals", lion=dict(loss_scale_factor=3e10), grad=scaled(-105), shapes=LONG)
case("nonfinite_accumulation", "an infinity stays for its window only",
     lion=dict(gradient_accumulation_steps=2), grad=[uniform, uniform, sprinkle([INF, -INF, NAN], 3), uniform], steps=7, shapes=LONG)
case("special_parameters", "zeros, infinities, NaN, subnormals and huge numbers as parameters",
     param=pick([0.0, -0.0, INF, -INF, NAN, TINY, -TINY, NORMAL, HUGE, -HUGE, 1.0]), shapes=LONG,
     grad=sprinkle([0.0, -0.0], 2), lion=dict(learning_rate=1e30), steps=4)
case("special_parameters_weight_decay", "the same under weight decay",
     param=pick([0.0, -0.0, INF, -INF, NAN, TINY, -TINY, NORMAL, HUGE, -HUGE, 1.0]), shapes=LONG,
     grad=sprinkle([0.0, -0.0], 2), lion=dict(learning_rate=2.0, weight_decay=0.7), steps=4)
case("special_parameters_ema", "0 * inf is NaN in the average; the average of -0.0 is +0.0",
     param=pick([0.0, -0.0, INF, -INF, NAN, TINY, -TINY, NORMAL, HUGE, -HUGE, 1.0]), shapes=LONG, steps=4,
     grad=pick([0.0, -0.0]), lion=dict(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3))
case("special_parameters_ema_one", "momentum 1: (1 - 1) * inf is NaN from the second call on",
     param=pick([0.0, -0.0, INF, -INF, TINY, HUGE, 1.0]), shapes=LONG, steps=3,
     grad=pick([0.0, -0.0]), lion=dict(use_ema=True, ema_momentum=1.0))
case("cancellation", "gradients chosen against the momentum so that c is exactly 0 or all but 0 (a fused multiply-add would move it)",
     shapes={"a": (33,), "b": (3, 5), "c": ()}, grad=[uniform, uniform, cancelling(0.9)], steps=12,
     lion=dict(learning_rate=0.01))
case("cancellation_halves", "betas of one half: c is exactly 0 in every second step",
     shapes=TWO, grad=[uniform, cancelling(0.5)], lion=dict(beta_1=0.5, beta_2=0.5), steps=8)
case("alternating", "the same gradients with changing sign", grad=[shaped([1, -0.5, 0.1]), shaped([-1, 0.5, -0.1])],
     shapes=TWO, steps=9)
case("wide_range", "exponents from 2^-24 to 2^8 in one tensor", shapes=LONG, grad=wide, param=wide,
     lion=dict(learning_rate=1e-3, weight_decay=0.05), steps=10)

# Norms of awkward tensors.
case("clipnorm_zero_gradient", "a norm of zero: g * c / c", lion=dict(clipnorm=0.5), grad=[pick([0.0, -0.0]), uniform], exact=False)
case("clipnorm_nonfinite", "an infinite norm makes finite elements 0 and infinite ones NaN; NaN makes its own tensor NaN",
     lion=dict(clipnorm=0.5), grad=[uniform, sprinkle([INF], 9), sprinkle([NAN], 9)], exact=False, steps=3, shapes=LONG)
case("clipnorm_square_overflow", "finite gradients whose squares overflow f32: the norm is infinite and the clipped gradient 0",
     lion=dict(clipnorm=0.5), grad=[uniform, scaled(70), uniform], exact=False, steps=4)
case("global_clipnorm_zero_gradient", "1 / 0 is infinite: min(inf, 1 / c)", lion=dict(global_clipnorm=0.5),
     grad=[pick([0.0, -0.0]), uniform], exact=False)
case("global_clipnorm_nonfinite", "one infinity makes every gradient NaN", lion=dict(global_clipnorm=0.5),
     shapes=LONG, grad=[uniform, uniform, sprinkle([INF], 9)], exact=False, steps=3)
case("global_clipnorm_square_overflow", "finite gradients whose squares overflow f32: every gradient becomes NaN",
     lion=dict(global_clipnorm=0.5), grad=[uniform, uniform, scaled(70)], exact=False, steps=3)

# ---------------------------------------------------------------------------------------------------------------------
# Schedules, long enough to cross their boundaries.


def schedule(name, about, made, steps=12, exact=False, **options):
    case(f"schedule_{name}", about, lion=dict(learning_rate=made, **options), steps=steps, exact=exact, shapes=TWO)


schedule("exponential", "ExponentialDecay", ks.ExponentialDecay(0.1, 4, 0.6))
schedule("exponential_staircase", "ExponentialDecay in steps", ks.ExponentialDecay(0.1, 4, 0.6, staircase=True))
schedule("inverse_time", "InverseTimeDecay, decay_steps not an integer", ks.InverseTimeDecay(0.1, 2.5, 0.7))
schedule("inverse_time_staircase", "InverseTimeDecay in steps", ks.InverseTimeDecay(0.1, 3, 0.7, staircase=True))
schedule("piecewise", "PiecewiseConstantDecay rounds nothing: bit for bit",
         ks.PiecewiseConstantDecay([2, 5, 8], [0.1, 0.03, 0.07, 0.01]), exact=True)
schedule("piecewise_float_boundaries", "boundaries between the steps, values some of which are integers in the JSON",
         ks.PiecewiseConstantDecay([2.5, 6.9], [0.1, 1, 0.01]), exact=True)
schedule("polynomial", "PolynomialDecay past its end", ks.PolynomialDecay(0.1, 7))
schedule("polynomial_power", "PolynomialDecay with a power", ks.PolynomialDecay(0.1, 9, 0.01, power=2.5))
schedule("polynomial_cycle", "PolynomialDecay that cycles", ks.PolynomialDecay(0.1, 4, 0.01, power=0.5, cycle=True), steps=14)
schedule("cosine", "CosineDecay past its end; warmup_steps without a target is ignored",
         ks.CosineDecay(0.1, 8, alpha=0.05, warmup_steps=3))
schedule("cosine_warmup", "CosineDecay with warmup from 0", ks.CosineDecay(0.0, 6, warmup_target=0.1, warmup_steps=4))
schedule("cosine_warmup_down", "warmup towards a smaller rate; the floor is alpha * target",
         ks.CosineDecay(0.2, 6, alpha=0.3, warmup_target=0.1, warmup_steps=3))
schedule("cosine_target_no_warmup", "a target and no warmup steps: the cosine starts from the target",
         ks.CosineDecay(0.2, 6, warmup_target=0.1))
schedule("restarts", "CosineDecayRestarts across three restarts", ks.CosineDecayRestarts(0.1, 2, t_mul=2, m_mul=1), steps=16)
schedule("restarts_equal", "cycles of one length, damped", ks.CosineDecayRestarts(0.1, 3, t_mul=1.0, m_mul=0.8, alpha=0.02), steps=11)
schedule("restarts_1.5", "cycles of 4, 6, 9 steps, damped", ks.CosineDecayRestarts(0.1, 4, t_mul=1.5, m_mul=0.7, alpha=0.1), steps=20)
schedule("weight_decay", "the decay sees the same rate as the step", ks.InverseTimeDecay(0.1, 3, 0.7), weight_decay=0.3)

# ---------------------------------------------------------------------------------------------------------------------
# Names.

case("names_slashes_and_dots", "paths, and names that are prefixes of others", lion=dict(weight_decay=0.1, use_ema=True),
     shapes={"a": (2,), "a/b": (1,), "a/b.c": (3,), "a.b": (), "block_0/attention/dense.kernel": (2, 2),
             "block_0/attention/dense.bias": (2,)}, exclude=["bias$"], missing={1: ["a/b"]}, steps=3)
case("names_unicode_and_spaces", "UTF-8, spaces, quotes and a backslash in names",
     lion=dict(gradient_accumulation_steps=2),
     shapes={"dense layer 1.kernel": (2, 2), "слой.вес": (3,), "層 β₁": (), 'with "quotes" and \\': (1,), " ": (2,)}, steps=3)
case("names_like_steps", "names that are numbers, or look like other tensors of the file", lion=dict(weight_decay=0.1),
     shapes={"0": (2,), "0/0": (1,), "1": (3,), "grad/0/0": (2,), "param/0": (), "__metadata__": (1,)}, steps=3,
     missing={0: ["0/0"], 1: ["0"]})

# ---------------------------------------------------------------------------------------------------------------------
# Cases for the library only: `lion replay` has no flag for these.

case("overwrite_with_gradient", "v = g, and no part in clipping, decay, scaling",
     lion=dict(learning_rate=0.01, weight_decay=0.1, clipvalue=0.3, loss_scale_factor=2.0), overwrite=["scale", "dense.bias"],
     missing={2: ["scale"]}, grad=sprinkle([-0.0, INF], 8), steps=4)
case("overwrite_with_gradient_accumulation", "the maximum of a window and of 0",
     lion=dict(gradient_accumulation_steps=3), overwrite=["scale", "dense.bias"], steps=8, grad=sprinkle([-0.0, NAN], 12),
     missing={1: ["dense.bias"], 5: ["scale"]})
case("overwrite_with_gradient_ema", "has no average",
     lion=dict(EMA, ema_overwrite_frequency=2), overwrite=["scale"], finalize=True, steps=5)
case("overwrite_with_gradient_alone", "calls in which only overwritten variables have gradients: the iteration advances, "
     "and nothing else happens, no average and no clearing of accumulators either",
     lion=dict(EMA, ema_overwrite_frequency=2, gradient_accumulation_steps=2), overwrite=["scale"], steps=8,
     missing={1: ["dense.kernel", "dense.bias"], 4: ["dense.kernel", "dense.bias"], 7: ["scale"]})
case("overwrite_with_gradient_dynamic", "not unscaled, but part of the finite check",
     dynamic=DYNAMIC, overwrite=["scale"], grad=overflowing, steps=9)
case("constraint_non_neg", "max(v, 0) after the step, on variables that had a gradient",
     lion=dict(learning_rate=0.1), constraints={"dense.kernel": kc.NonNeg(), "dense.bias": kc.NonNeg()},
     param=sprinkle([-0.0, NAN, -INF], 9), missing={0: ["dense.bias"], 1: ["dense.bias"], 2: ["dense.bias"]}, steps=4)
case("constraint_norms", "MaxNorm, UnitNorm and MinMaxNorm along an axis", exact=False,
     lion=dict(learning_rate=0.1),
     constraints={"a": kc.MaxNorm(1.5), "b": kc.UnitNorm(axis=1), "c": kc.MinMaxNorm(0.5, 1.0, rate=0.3, axis=0),
                  "d": kc.MaxNorm(0.9, axis=[0, 1])},
     shapes={"a": (3, 5), "b": (2, 7), "c": (7, 1), "d": (2, 3, 4)}, steps=4)
case("constraint_accumulation_ema", "constrained on every call, after the average was written back",
     lion=dict(EMA, gradient_accumulation_steps=2, ema_overwrite_frequency=2), steps=7,
     constraints={"dense.kernel": kc.NonNeg(), "scale": kc.NonNeg()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "cases")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        for name, c in CASES.items():
            print(f"{name:40} {'exact' if c['exact'] else 'close'}  {c['about']}")
        return
    if (keras.__version__, np.__version__) != (KERAS, NUMPY):
        sys.exit(f"needs keras {KERAS} and numpy {NUMPY}, found {keras.__version__} and {np.__version__}")
    warnings.simplefilter("ignore")  # missing gradients; overflow, which is intended
    shutil.rmtree(arguments.output, ignore_errors=True)
    for index, (name, c) in enumerate(CASES.items()):
        with np.errstate(all="ignore"):
            record(c, arguments.output / name, wrapped=index % 2 == 1)
    size = sum(f.stat().st_size for f in arguments.output.rglob("*") if f.is_file())
    print(f"{len(CASES)} cases, {size} bytes")


if __name__ == "__main__":
    main()
