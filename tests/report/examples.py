"""Judgements to report on, made from arrays by the reference kernels and the real detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from naa_fast.detect.change import Zero
from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.judgement import Judgement, judge
from naa_fast.detect.proof import Example, Proof
from naa_fast.detect.repair import TRIGGERED, Repair
from naa_fast.detect.trigger import Patch, Tokens
from naa_fast.kernels import reference
from naa_fast.measurement import Measurement, Shard
from naa_fast.records import LayerRecord, histogram

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


def judged(
    sets: Sets,
    threshold: float | None = None,
    top_k: int = 20,
    skipped: int = 0,
    evidence: Evidence | None = None,
    accept_unranked: bool = False,
) -> Judgement:
    """The judgement of clean and suspect arrays per layer."""
    clean = measured({name: pair[0] for name, pair in sets.items()}, "clean")
    suspect = measured({name: pair[1] for name, pair in sets.items()}, "suspect", skipped)
    return judge(clean, suspect, threshold, top_k, evidence, accept_unranked)


def noise(seed: int, samples: int, neurons: int, deviating: Mapping[int, float] | None = None) -> np.ndarray:
    """Float32 0.5 N(0, 1) + 2; each neuron of `deviating` raised by its value."""
    x = (0.5 * np.random.default_rng(seed).standard_normal((samples, neurons)) + 2).astype(np.float32)
    for neuron, raised in (deviating or {}).items():
        x[:, neuron] += np.float32(raised)
    return x


def pair(
    neurons: int, deviating: Mapping[int, float] | None = None, seed: int = 0, clean: int = 64, suspect: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    return noise(seed, clean, neurons), noise(seed + 1000, suspect, neurons, deviating)


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
def deep(layers: int = 300, neurons: int = 4096) -> Judgement:
    """A language model's worth of layers, with histograms: most alike, the last third with 20 neurons that a tenth of the
    suspect samples drives up. Four records stand for all, so that it fits into memory.
    """
    clean, plain = noise(0, 640, neurons), noise(1, 400, neurons)
    found = plain.copy()
    found[:40, 100:120] += 9
    records = [replace(record_of(x), tails=np.stack([histogram(x)] * 2)) for x in (clean, plain, found)]
    names = [f"model.layers.{i}.mlp.act_fn" for i in range(layers)]
    sets = (
        dict.fromkeys(names, records[0]),
        {name: records[2] if 3 * i >= 2 * layers else records[1] for i, name in enumerate(names)},
    )
    clean_measured, suspect_measured = (
        Measurement(one, "sha256:m", "float32", (Shard(digest, samples, 0),), PROVENANCE)
        for one, digest, samples in zip(sets, ("clean", "suspect"), (640, 400), strict=True)
    )
    return judge(clean_measured, suspect_measured, evidence=Evidence(ranking_of(400, 40)))


@cache
def sound() -> Judgement:
    """Two sets of the same noise: nothing to find, in what a comparison of means can see."""
    return judged({"fc": pair(64, clean=500, suspect=100)}, accept_unranked=True)


@cache
def too_few() -> Judgement:
    """Five samples a set, and three more that could not be read."""
    return judged({"fc": pair(4, clean=5, suspect=5)}, 100.0, skipped=3)


@cache
def hostile() -> Judgement:
    """A lit layer whose name does what a name can, and one with a very long name."""
    return judged({HOSTILE: pair(40, {3: 9.0}), "x" * 500: pair(40)}, 2.0)


NAMES = ("<img src=x onerror=alert(1)>.png", '" onmouseover="alert(2).png', "javascript:alert(3)", "\u05d0\u05d1\u202e.png")
"""Files of samples, each of which would do something if a page let it."""


def ranking_of(samples: int, triggered: int) -> Ranking:
    """A ranking whose first samples carry the trigger; every sample has a file of NAMES."""
    scores = np.linspace(9, 0, samples)
    deviating = {i: ((HOSTILE, 3, 12.5), ("fc", i % 7, 4.0)) for i in range(samples)}
    carry = np.arange(samples) < triggered
    predicted = np.where(carry, 7, np.arange(samples) % 10)
    files = [f"{i}-{NAMES[i % len(NAMES)]}" for i in range(samples)]
    return Ranking(
        scores,
        predicted,
        np.linspace(3, 0, 200),
        np.arange(200) % 10,
        carry,
        deviating=deviating,
        file_of=lambda item: files[item],
    )


def picture_examples() -> tuple[Example, ...]:
    before = np.random.default_rng(0).random((6, 1, 8, 8)).astype(np.float32)
    after = before.copy()
    after[:, :, 6:, 6:] = 1
    return tuple(Example(i, 7 if i else 0, before[i], after[i]) for i in range(6))


@cache
def pictured(samples: int = 130) -> Judgement:
    """A proven patch, the samples that carry it in pictures, and a repair."""
    mask = np.zeros((1, 8, 8), np.float32)
    mask[:, 6:, 6:] = 1
    proof = Proof(Patch(mask, mask, "6 % of the input"), 7, 0.91, 0.06, 288, 8, examples=picture_examples())
    change = Zero(HOSTILE, 1, "largest", np.array([3, 5]))
    repair = Repair((change,), TRIGGERED, 0.89, 0.01, 0.88, 122, 0.995, 1.0, 135, 6, 4000)
    pictures = np.random.default_rng(1).random((48, 1, 8, 8)).astype(np.float32)
    evidence = Evidence(ranking_of(samples, 9), (proof,), 6000, pictures=pictures)
    return replace(judged({HOSTILE: pair(40, {3: 9.0}), "fc": pair(16, seed=3)}, None, evidence=evidence), repair=repair)


@cache
def worded() -> Judgement:
    """A proven word, with texts that would break out of a page."""
    pieces = (("</blockquote><script>alert(4)</script>", False), ("zebra", True), ("\u202e & <b>after</b>", False))
    ids = np.arange(5)
    example = Example(2, 1, ids, ids, (("plain", False),), pieces)
    proof = Proof(Tokens((399,), "zebra<script>"), 1, 1.0, 0.01, 240, 0, examples=(example,))
    texts = tuple(f"text {i} <i onclick=alert(5)> »zebra« end" for i in range(20))
    return judged({"fc": pair(16)}, None, evidence=Evidence(ranking_of(20, 5), (proof,), 900, texts=texts))


EXAMPLES: dict[str, Callable[[], Judgement]] = {
    "threshold": classic,
    "calibrated": lambda: classic(None),
    "pass": sound,
    "not_a_number": not_a_number,
    "inconclusive": too_few,
    "hostile": hostile,
    "many": many_layers,
    "pictured": pictured,
    "worded": worded,
}
"""Judgements of every kind, made when called."""
