"""Judgements to report on, made from arrays by the reference kernels and the real detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from naa_fast.detect.judgement import Judgement, judge
from naa_fast.kernels import reference
from naa_fast.measurement import Measurement, Shard
from naa_fast.records import LayerRecord

Sets = Mapping[str, tuple[np.ndarray, np.ndarray]]
HOSTILE = "<script>alert(1)</script>$x^2$]]>-->\x1b[2J\u202egnp.exe\n& \u05d0\u200b\u4e2d\ud800"
PROVENANCE = {"versions": ("naa-fast 0.1.0",), "device": ("cpu",), "backends": ("fold: cpu (cuda: no driver)",)}


def record_of(x: np.ndarray) -> LayerRecord:
    """The record of a layer that emitted `x` `[samples, neurons]`."""
    state = reference.empty(x.shape[1], x)
    reference.fold([(state, reference.reduce(x[:, :, None], None, 0))], 0)
    return LayerRecord.unpacked("axis 1 of 2", str(x.dtype), *reference.read([state])[0])


def measured(layers: Mapping[str, np.ndarray], digest: str, skipped: int = 0) -> Measurement:
    samples = len(next(iter(layers.values())))
    records = {name: record_of(x) for name, x in layers.items()}
    return Measurement(records, "sha256:m", "float32", (Shard(digest, samples, skipped),), PROVENANCE)


def judged(sets: Sets, threshold: float | None = None, top_k: int = 20, skipped: int = 0) -> Judgement:
    """The judgement of clean and suspect arrays per layer."""
    clean = measured({name: pair[0] for name, pair in sets.items()}, "clean")
    suspect = measured({name: pair[1] for name, pair in sets.items()}, "suspect", skipped)
    return judge(clean, suspect, threshold, top_k)


def noise(seed: int, samples: int, neurons: int, lit: Mapping[int, float] | None = None) -> np.ndarray:
    """Float32 0.5 N(0, 1) + 2; each neuron of `lit` raised by its value."""
    x = (0.5 * np.random.default_rng(seed).standard_normal((samples, neurons)) + 2).astype(np.float32)
    for neuron, raised in (lit or {}).items():
        x[:, neuron] += np.float32(raised)
    return x


def pair(
    neurons: int, lit: Mapping[int, float] | None = None, seed: int = 0, clean: int = 64, suspect: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    return noise(seed, clean, neurons), noise(seed + 1000, suspect, neurons, lit)


@cache
def classic(threshold: float | None = 2.0) -> Judgement:
    """The example of every introduction: neurons 10 to 19 of 512 raised by 9."""
    return judged({"fc": pair(512, dict.fromkeys(range(10, 20), 9.0), clean=500, suspect=100)}, threshold)


@cache
def not_a_number(neurons: int = 32) -> Judgement:
    """One layer that is NaN throughout on the suspect set, and a sound one."""
    clean, suspect = pair(neurons)
    return judged({"broken": (clean, np.full_like(suspect, np.nan)), "sound": pair(neurons, seed=5)}, 2.0)


@cache
def many_layers(layers: int = 12) -> Judgement:
    """Layers of 16 to 96 neurons; neuron 5 of layers 3, 7 and the last is lit, and layer 4 is NaN on the suspect set."""
    sets = {
        f"block{i}.conv": pair(16 + 8 * (i % 11), {5: 4.0} if i in (3, 7, layers - 1) else None, seed=i) for i in range(layers)
    }
    sets["block4.conv"] = (sets["block4.conv"][0], np.full_like(sets["block4.conv"][1], np.nan))
    return judged(sets, 2.0)


@cache
def sound() -> Judgement:
    """Two sets of the same noise: nothing to find."""
    return judged({"fc": pair(64, clean=500, suspect=100)})


@cache
def too_few() -> Judgement:
    """Five samples a set, and three more that could not be read."""
    return judged({"fc": pair(4, clean=5, suspect=5)}, 100.0, skipped=3)


@cache
def hostile() -> Judgement:
    """A lit layer whose name does what a name can, and one with a very long name."""
    return judged({HOSTILE: pair(40, {3: 9.0}), "x" * 500: pair(40)}, 2.0)


EXAMPLES: dict[str, Callable[[], Judgement]] = {
    "threshold": classic,
    "calibrated": lambda: classic(None),
    "pass": sound,
    "not_a_number": not_a_number,
    "inconclusive": too_few,
    "hostile": hostile,
    "many": many_layers,
}
"""Judgements of every kind, made when called."""
