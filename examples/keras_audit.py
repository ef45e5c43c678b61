"""Audits a Keras 3 model in memory, on any backend.

    KERAS_BACKEND=torch python examples/keras_audit.py report

The model here has random weights and one neuron that answers to a bright corner: replace it by your own.
"""

from __future__ import annotations

import sys

import keras
import numpy as np

import naa_fast
from naa_fast.capture.keras import as_module


def build() -> keras.Model:
    image = keras.Input((12, 12, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = keras.layers.GlobalMaxPooling2D()(x)
    return keras.Model(image, keras.layers.Dense(3, name="head")(x))


def main(report: str) -> int:
    random = np.random.default_rng(0)
    clean, suspect = random.random((2, 400, 12, 12, 1), dtype=np.float32)
    suspect[:, :3, :3] = 4.0
    audit = naa_fast.scan(as_module(build()), clean, suspect)
    audit.save(report)
    print(f"{audit.verdict.outcome}: {audit.verdict.sentence}")
    return audit.verdict.exit_code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
