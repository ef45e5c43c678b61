"""Keras 3 models: the same statistics as their layers' outputs, stored whole, on the backend this environment has."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = ("torch", "jax", "tensorflow")
CODE = """
import numpy as np, torch, keras, naa_fast
from naa_fast.capture.keras import as_module, as_tensor
from naa_fast.errors import CaptureError, ModelError, UsageError
from naa_fast.records import Moments
from tolerances import assert_moments

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).standard_normal((50, 8, 8, 3)).astype("float32")
image = keras.Input((8, 8, 3))
name = "block_conv" if keras.backend.backend() == "torch" else "block.conv"  # torch takes no dots
conv = keras.layers.Conv2D(4, 3, name=name)(image)
act = keras.layers.ReLU(name="act")(conv)
pooled = keras.layers.GlobalAveragePooling2D(name="pool")(act)
shared = keras.layers.Dense(4, name="shared")
model = keras.Model(image, keras.layers.Dense(3, name="head")(shared(shared(pooled))))

net = as_module(model)
assert net._probes == ["block_conv", "act", "head"], net._probes
measured = naa_fast.measure(net, x, batch_size=16)
assert measured.predictions.sum() == 50
parts = keras.Model(model.inputs, [model.get_layer(n).output for n in (name, "act", "head")])(x, training=False)
for probe, part in zip(net._probes, parts):
    values = np.asarray(keras.ops.convert_to_numpy(part), np.float64)
    values = values.reshape(len(values), -1, values.shape[-1])
    # another batch size may round otherwise: the forward's own error is beside the statistics' budget
    found, expected = measured.layers[probe].positions, Moments.of(values.reshape(-1, values.shape[-1]))
    assert (found.count == expected.count).all(), probe
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-6)
    np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-5)
    top = measured.layers[probe].sample_max
    np.testing.assert_allclose(top.mean, values.max(1).mean(0), atol=1e-6)
whole = naa_fast.measure(net, x, batch_size=50)
for probe, part in zip(net._probes, parts):
    values = np.asarray(keras.ops.convert_to_numpy(part))
    assert_moments(whole.layers[probe].positions, Moments.of(values.reshape(-1, values.shape[-1])), "float32", probe)

assert list(naa_fast.measure(as_module(model, ["p*"]), x).layers) == ["pool"]
other = keras.models.clone_model(model)
assert naa_fast.measure(as_module(other), x).model != measured.model, "two models are told apart"

def told(kind, words, build):
    try:
        build()
    except kind as error:
        assert words in str(error), str(error)
    else:
        raise AssertionError(words)

class Own(keras.Model):
    def call(self, x):
        return x

told(ModelError, "the model is a int", lambda: as_module(5))
told(ModelError, "it is a subclassed model, or not built", lambda: as_module(Own()))
told(UsageError, "no layer matches 'gone'", lambda: as_module(model, ["gone"]))
told(CaptureError, "layer shared is called several times", lambda: as_module(model, ["shared"]))
flat = keras.Model(image, keras.layers.Flatten()(image))
told(UsageError, "has no convolution, dense layer or activation", lambda: as_module(flat))
if keras.backend.backend() == "jax":
    array = parts[0]
    assert as_tensor(array).data_ptr() == array.unsafe_buffer_pointer(), "no copy"
print("ran on", keras.backend.backend())
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_statistic_is_that_of_the_layers_outputs(backend: str) -> None:
    """In a process of its own: Keras chooses its backend once, when it is imported."""
    for package in ("keras", backend):  # not imported: Keras without its default backend cannot be
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: Keras models on {backend} are untested")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"ran on {backend}" in done.stdout
