"""Writes the files of Keras 3 that the tests `found` read: python tests/found/keras3.py

pip install keras==3.15.1 numpy==2.4.6 h5py safetensors scipy jax
"""

import json
import os
import pathlib
import zipfile

os.environ["KERAS_BACKEND"] = "numpy"

import keras  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

assert keras.__version__ == "3.15.1", keras.__version__
HERE = pathlib.Path(__file__).parent / "keras3"
HERE.mkdir(exist_ok=True)
Lion = keras.optimizers.Lion


def write(name, value):
    (HERE / name).write_text(json.dumps(value, indent=1) + "\n")


def model(optimizer):
    made = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, name="dense")], name="net")
    made.compile(optimizer=optimizer, loss="mse")
    return made


# A model, as each of its files has its optimizer.
optimizer = Lion(0.002, weight_decay=0.01)
plain = model(optimizer)
optimizer.build(plain.trainable_variables)
plain.save(HERE / "model.keras")
write("compile_config.json", plain.get_compile_config())
plain.save(HERE / "model.h5")
# Saving as .h5 takes it away.
write("compile_config_without.json", plain.get_compile_config())
with zipfile.ZipFile(HERE / "model.keras") as file, zipfile.ZipFile(HERE / "deflated.keras", "w") as packed:
    packed.writestr("config.json", file.read("config.json"), zipfile.ZIP_DEFLATED)
import h5py  # noqa: E402

with h5py.File(HERE / "model.h5") as file:
    text = file.attrs["training_config"]
(HERE / "training_config.json").write_text(text + "\n")
# The same attribute, dumped as the text that it is.
write("training_config_text.json", text)

# Its momentum, under the paths that Keras gives its variables: an optimizer that is the second of its name too.
save_file({v.path: v.numpy() for v in optimizer.variables if "momentum" in v.path}, HERE / "momentum.safetensors")
second = Lion(0.002)
second.build(plain.trainable_variables)
assert second.name == "lion_1", second.name
save_file({v.path: v.numpy() for v in second.variables if "momentum" in v.path}, HERE / "momentum_1.safetensors")

# Models without an optimizer.
bare = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)], name="bare")
bare.save(HERE / "not_compiled.keras")
write("get_config.json", json.loads(bare.to_json()))

# compile(optimizer="lion"), in a model of the other kind.
inputs = keras.Input((2,))
named = keras.Model(inputs, keras.layers.Dense(1)(inputs), name="named")
named.compile("lion", "mse")
write("by_name.json", json.loads(named.to_json()))


# What is not Keras's own.
@keras.saving.register_keras_serializable("my_pkg")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, base):
        self.base = base

    def __call__(self, step):
        return self.base

    def get_config(self):
        return {"base": self.base}


class MyLion(Lion):
    pass


class Registered(Lion):
    pass


Registered.__name__ = "Lion"
keras.saving.register_keras_serializable()(Registered)


def by_step(step):
    return 0.1


write("custom_schedule.json", keras.optimizers.serialize(Lion(WarmUp(0.1))))
write("custom_class.json", keras.optimizers.serialize(MyLion(0.1)))
write("custom_lion.json", keras.optimizers.serialize(Registered(0.1)))
write("custom_inner.json", keras.optimizers.serialize(keras.optimizers.LossScaleOptimizer(MyLion(0.1))))
write("function.json", keras.optimizers.serialize(Lion(by_step)))
write("lambda.json", keras.optimizers.serialize(Lion(lambda step: 0.1)))

# Keras puts a loss scale around this optimizer, and writes it without.
keras.config.set_dtype_policy("mixed_float16")
mixed = model(Lion(0.002, weight_decay=0.01))
assert isinstance(mixed.optimizer, keras.optimizers.LossScaleOptimizer)
mixed.save(HERE / "mixed.keras")
inputs = keras.Input((2,))
layers = keras.Model(inputs, keras.layers.Dense(1)(inputs), name="layers")
layers.compile(Lion(0.002, weight_decay=0.01), "mse")
write("mixed_layers.json", json.loads(layers.to_json()))
