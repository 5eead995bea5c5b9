"""Writes the files of Keras 2 (tf.keras) that the tests `found` read: python tests/found/keras2.py

pip install tensorflow-cpu==2.15.1 safetensors
"""

import json
import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import h5py  # noqa: E402
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

assert keras.__version__ == "2.15.0", keras.__version__
HERE = pathlib.Path(__file__).parent / "keras2"
HERE.mkdir(exist_ok=True)
Lion = tf.keras.optimizers.Lion
LossScaleOptimizer = tf.keras.mixed_precision.LossScaleOptimizer


def write(name, value):
    # Keras 2 leaves numbers of numpy in its configs.
    (HERE / name).write_text(json.dumps(value, indent=1, default=float) + "\n")


optimizer = Lion(0.002, weight_decay=0.01)
model = tf.keras.Sequential(
    [tf.keras.layers.Input((2,)), tf.keras.layers.Dense(1, name="dense")], name="net"
)
model.compile(optimizer=optimizer, loss="mse")
model.fit([[1.0, 2.0]], [[1.0]], verbose=0)
write("get_config.json", optimizer.get_config())
write("serialized.json", tf.keras.optimizers.serialize(optimizer))
write("loss_scale_fixed.json", tf.keras.optimizers.serialize(LossScaleOptimizer(Lion(0.002, weight_decay=0.01), dynamic=False, initial_scale=1024)))
write("loss_scale_dynamic.json", tf.keras.optimizers.serialize(LossScaleOptimizer(Lion(0.002, weight_decay=0.01))))
model.save(HERE / "model.keras")
model.save(HERE / "model.h5")
with h5py.File(HERE / "model.h5") as file:
    (HERE / "training_config.json").write_text(file.attrs["training_config"] + "\n")
(HERE / "model.h5").unlink()
names = {v.name: v.numpy() for v in optimizer.variables if "/m/" in v.name}
save_file(names, HERE / "momentum.safetensors")

# Tensors in place of numbers and lists.
cosine = tf.keras.optimizers.schedules.CosineDecay(tf.constant(0.002), 100)
steps = tf.keras.optimizers.schedules.PiecewiseConstantDecay(
    [tf.constant(2, tf.int64), 5], [tf.constant(0.003), 0.002, 0.001]
)
for name, schedule in (("tensors.json", cosine), ("tensor_lists.json", steps)):
    model.compile(optimizer=Lion(schedule, weight_decay=tf.constant(0.01)), loss="mse")
    write(name, model.get_compile_config())
