"""Writes schedules.json: the values of Keras's schedules at a list of steps.

    pip install keras==3.15.1 numpy scipy jax
    KERAS_BACKEND=numpy python tests/golden/schedules.py

Each case is a schedule as `keras.optimizers.schedules.serialize` writes it, and its values at the steps. If the f32
logarithm of CosineDecayRestarts picks the wrong cycle, `wrong` holds Keras's value and `values` the right one.
"""

import json
import math
import os
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")

import keras
import numpy as np
from keras.optimizers import schedules as s

# Round numbers of steps and of restarts, and other numbers.
STEPS = [
    *range(0, 34), 39, 40, 41, 49, 50, 51, 57, 60, 63, 69, 70, 71, 99, 100, 101, 127, 150, 199, 200, 201, 210, 255,
    299, 300, 301, 310, 364, 400, 511, 700, 999, 1000, 1001, 1023, 2801, 2999, 3000, 3001, 6999, 7000, 10_000, 15_000,
    32_766, 32_767, 65_535, 123_457, 1_000_000, 16_777_215,
]

CASES = [
    s.ExponentialDecay(0.05, 10, 0.96),
    s.ExponentialDecay(0.1, 3, 0.96, staircase=True),
    s.ExponentialDecay(1e-3, 1000, 0.5),
    s.ExponentialDecay(1.0, 0.3, 0.999, staircase=True),
    s.ExponentialDecay(1e-3, 10, 0.0),
    s.InverseTimeDecay(0.1, 10, 0.96),
    s.InverseTimeDecay(0.1, 10, 0.96, staircase=True),
    s.InverseTimeDecay(1.0, 7, 0.5, staircase=True),
    s.InverseTimeDecay(3e-4, 0.3, 2.0, staircase=True),
    s.PiecewiseConstantDecay([100, 110, 120], [1.0, 0.1, 0.01, 0.001]),
    s.PiecewiseConstantDecay([1, 2, 3], [0.4, 0.5, 0.6, 0.7]),
    s.PiecewiseConstantDecay([0, 1.5, 10.9, 10.9], [0.1, 0.2, 0.3, 0.4, 0.5]),
    s.PolynomialDecay(0.05, 10, 0.001),
    s.PolynomialDecay(0.05, 10, 0.001, cycle=True),
    s.PolynomialDecay(0.05, 10, 0.0, power=0.5),
    s.PolynomialDecay(0.05, 7, 0.001, power=0.5, cycle=True),
    s.PolynomialDecay(1.0, 100, power=2.0),
    s.PolynomialDecay(1e-4, 100, 1e-3, power=1.7),
    s.PolynomialDecay(1.0, 3, power=0.0),
    s.CosineDecay(1.0, 1000),
    s.CosineDecay(1.0, 1000, alpha=0.1),
    s.CosineDecay(3e-4, 7, alpha=0.01),
    s.CosineDecay(0.0, 10, warmup_target=10.0, warmup_steps=1500),
    s.CosineDecay(0.0, 1000, warmup_target=10.0, warmup_steps=2000),
    s.CosineDecay(1e-4, 30, alpha=0.1, warmup_target=1e-3, warmup_steps=9),
    s.CosineDecay(1e-3, 30, warmup_target=1e-2, warmup_steps=0),
    s.CosineDecay(1e-3, 30, warmup_target=None, warmup_steps=20),
    s.CosineDecayRestarts(1.0, 1000),
    s.CosineDecayRestarts(1.0, 1000, m_mul=0.9),
    s.CosineDecayRestarts(1.0, 10, t_mul=1.0, m_mul=0.9, alpha=0.1),
    s.CosineDecayRestarts(1.0, 7, t_mul=1.0),
    s.CosineDecayRestarts(0.1, 1),
    s.CosineDecayRestarts(0.1, 3, alpha=0.01),
    s.CosineDecayRestarts(0.1, 10, t_mul=1.5, m_mul=0.5),
    s.CosineDecayRestarts(0.1, 10, t_mul=1.1),
    # Keras's f32 power is not exact. It matters most if cycles hardly grow: 1e-6 of a learning rate of 0.1.
    s.CosineDecayRestarts(0.01, 7, t_mul=1.01),
    s.CosineDecayRestarts(0.1, 1, t_mul=3.0),
    s.CosineDecayRestarts(0.1, 1, t_mul=5.0),
    s.CosineDecayRestarts(0.1, 1, t_mul=7.0),
    s.CosineDecayRestarts(0.1, 10, t_mul=1.2),
    s.CosineDecayRestarts(0.1, 100, t_mul=1.2, alpha=0.1),
    s.CosineDecayRestarts(0.1, 500, t_mul=0.5),
]


def restarts(schedule, step):
    """Returns the value by definition, in exact arithmetic on the decimal numbers as written."""
    growth, start, length, cycle = Fraction(str(schedule._t_mul)), Fraction(0), Fraction(schedule.first_decay_steps), 0
    if growth == 1:
        cycle = step // length
        start = cycle * length
    else:
        while start + length <= step:
            start, length, cycle = start + length, length * growth, cycle + 1
    cosine = (1 + math.cos(math.pi * float((step - start) / length))) / 2
    return schedule.initial_learning_rate * (
        (1 - schedule.alpha) * float(schedule._m_mul) ** int(cycle) * cosine + schedule.alpha
    )


def case(schedule):
    values, wrong = [], {}
    # Cycles that become shorter end, here at step 1000. From there on, Keras gives NaN.
    shrinking = getattr(schedule, "_t_mul", 1) < 1
    for step in [step for step in STEPS if step < 1000 or not shrinking]:
        found = np.float32(schedule(np.int32(step)))
        assert np.isfinite(found), (schedule.get_config(), step)
        # A large difference means another cycle. The f32 rounding, which grows with the step, stays below it.
        if isinstance(schedule, s.CosineDecayRestarts):
            right = restarts(schedule, step)
            if abs(found - right) > 0.05 * schedule.initial_learning_rate:
                wrong[str(step)] = float(str(found))
                found = np.float32(right)
        values.append(float(str(found)))
    entry = {"schedule": s.serialize(schedule), "values": values}
    if wrong:
        entry["wrong"] = wrong
    return entry


def main():
    cases = [case(schedule) for schedule in CASES]
    head = json.dumps({"keras": keras.__version__, "steps": STEPS})
    body = ",\n".join(json.dumps(entry) for entry in cases)
    target = Path(__file__).with_suffix(".json")
    target.write_text(head[:-1] + ', "cases": [\n' + body + "\n]}\n")


if __name__ == "__main__":
    main()
