"""Writes configs.json, the configs that Keras serializes. With a FILE, checks that Keras reads Lion's configs.

    pip install keras==3.15.1 numpy scipy jax
    KERAS_BACKEND=numpy python tests/golden/configs.py

Each row holds Keras's JSON, wrapped and bare. `same` tells whether reading and writing must reproduce it. This is false
if a 0 means "off" or a number is an integer. With the name of a file, Keras must reproduce that file's list of
serialized optimizers unchanged: `cargo run -p lion-tests --example configs > FILE` writes one.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")

import keras
from keras.optimizers import Lion, LossScaleOptimizer
from keras.optimizers import schedules as s

OPTIMIZERS = [
    (True, lambda: Lion()),
    (True, lambda: Lion(3e-4, 0.95, 0.98, weight_decay=0.1, name="my_lion")),
    (True, lambda: Lion(weight_decay=0.0)),
    (True, lambda: Lion(clipnorm=1.0)),
    (True, lambda: Lion(clipvalue=0.5, use_ema=True, ema_momentum=0.999, ema_overwrite_frequency=100)),
    (True, lambda: Lion(global_clipnorm=2.5, gradient_accumulation_steps=4, loss_scale_factor=1024.0)),
    (True, lambda: Lion(s.ExponentialDecay(0.05, 10, 0.96, staircase=True, name="my_ed"))),
    (True, lambda: Lion(s.InverseTimeDecay(0.05, 0.5, 0.96))),
    (True, lambda: Lion(s.PiecewiseConstantDecay([10, 20], [1.0, 0.1, 0.01]))),
    (True, lambda: Lion(s.PolynomialDecay(0.1, 100, 0.005, power=2.0, cycle=True))),
    (True, lambda: Lion(s.CosineDecay(0.05, 10, alpha=0.1, warmup_target=0.2, warmup_steps=2, name="my_cd"))),
    (True, lambda: Lion(s.CosineDecay(0.05, 10))),
    (True, lambda: Lion(s.CosineDecayRestarts(0.05, 10, t_mul=3.0, m_mul=0.4, alpha=0.1))),
    (True, lambda: LossScaleOptimizer(Lion())),
    (True, lambda: LossScaleOptimizer(Lion(s.CosineDecay(1e-3, 100)), 256.0, 10, name="mine")),
    (True, lambda: LossScaleOptimizer(Lion(loss_scale_factor=8.0), dynamic_growth_steps=0)),
    (False, lambda: Lion(clipnorm=0, gradient_accumulation_steps=0, use_ema=True, ema_overwrite_frequency=0)),
    (False, lambda: Lion(clipvalue=1, weight_decay=0, loss_scale_factor=2, beta_1=1, beta_2=0)),
    (False, lambda: Lion(s.CosineDecayRestarts(1, 2, 3))),
]


def check(path):
    for config in json.loads(Path(path).read_text()):
        back = keras.optimizers.serialize(keras.optimizers.deserialize(json.loads(json.dumps(config))))
        inner = back["config"].get("inner_optimizer", back)["config"]
        given = config["config"].get("inner_optimizer", config)["config"]
        if isinstance(inner["learning_rate"], float):
            # Keras has rounded it to f32.
            assert abs(inner["learning_rate"] - given["learning_rate"]) <= 1e-7 * given["learning_rate"]
            inner["learning_rate"] = given["learning_rate"]
        assert back == config, (back, config)
        print("as it went in:", config["class_name"], given["name"])


def main():
    rows = []
    for same, build in OPTIMIZERS:
        optimizer = build()
        config = optimizer.get_config()
        rows.append(json.dumps({"same": same, "wrapped": keras.optimizers.serialize(optimizer), "bare": config}))
    text = json.dumps({"keras": keras.__version__})[:-1] + ', "configs": [\n' + ",\n".join(rows) + "\n]}\n"
    Path(__file__).with_suffix(".json").write_text(text)


if __name__ == "__main__":
    check(sys.argv[1]) if len(sys.argv) > 1 else main()
