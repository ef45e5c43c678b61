"""All layers at once give what `Reference`, the definition, gives of each; what several devices say meets on the first."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from naa_fast.accumulate import Views
from naa_fast.errors import CaptureError
from naa_fast.rank.everywhere import Everywhere, joined, together
from naa_fast.rank.packed import Fitting, Plan, Scoring, place_of
from naa_fast.rank.reference import LayerDeviation, Reference

FEATURES = {"d": 700, "a": 5, "c": 256, "b": 40, "e": 16, "f": 2100, "g": 5, "h": 300}
SAMPLES, GROUPS = 240, 4
RANDOM = np.random.default_rng(3)
GROUP = torch.from_numpy(RANDOM.integers(0, GROUPS - 1, SAMPLES))


def values(features: int, seed: int) -> Tensor:
    """Float32 with an offset, scales of their own, class means, a constant feature, and some that are not finite."""
    random, fixed = np.random.default_rng(seed), np.random.default_rng(features)
    x = random.standard_normal((SAMPLES, features)) * np.geomspace(1, 20, features) + 100 * fixed.standard_normal(features)
    x += 3 * fixed.standard_normal((GROUPS, features))[GROUP.numpy()] + (random.random((SAMPLES, 1)) < 0.2) * 40 * (seed > 99)
    x[:, 0] = 7.0
    x[random.integers(0, SAMPLES, 3), random.integers(1, features, 3)] = [np.nan, np.inf, -np.inf]
    x[:, -1] = np.where(features == 40, np.nan, x[:, -1])
    return torch.from_numpy(x).float()


CLEAN = {name: values(features, seed) for seed, (name, features) in enumerate(FEATURES.items())}
SUSPECT = {name: values(features, 100 + seed) for seed, (name, features) in enumerate(FEATURES.items())}


def some(views: dict[str, Tensor], rows: slice, without: tuple[str, ...] = ()) -> Views:
    return Views.of({name: view[rows] for name, view in views.items() if name not in without})


def fitted(cuts: list[int]) -> dict[str, Reference]:
    """By all layers at once, in batches; the second lacks a layer, and lists the others in another order."""
    fitting = Fitting({name: Reference(GROUPS, view[:20]) for name, view in CLEAN.items()})
    bounds = [0, *cuts, SAMPLES]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        batch = some(CLEAN, slice(start, stop))
        if number == 1:
            batch = some(dict(reversed(CLEAN.items())), slice(start, stop), ("c",))
        fitting.add(batch.packs[0], GROUP[start:stop])
    return fitting.references()


def defined(cuts: list[int]) -> dict[str, Reference]:
    """By the definition, layer by layer."""
    found = {name: Reference(GROUPS, view[:20]) for name, view in CLEAN.items()}
    bounds = [0, *cuts, SAMPLES]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        for name, reference in found.items():
            if number != 1 or name != "c":
                reference.add(CLEAN[name][start:stop], GROUP[start:stop])
    return found


@pytest.mark.parametrize("cuts", [[], [100, 130]], ids=str)
@pytest.mark.parametrize("most", [1 << 26, 2000], ids=["whole", "in parts"])
def test_sums_of_all_layers_are_those_of_each(cuts: list[int], most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naa_fast.rank.packed.HOST_VALUES", most)
    one, other = fitted(cuts), defined(cuts)
    assert [*one] == [*other]
    for name, want in other.items():
        found = one[name]
        assert torch.equal(found.count, want.count), name
        assert torch.equal(found.known, want.known), name
        assert torch.equal(found.pivot, want.pivot), name
        for field in ("sums", "squares"):
            assert torch.allclose(getattr(found, field), getattr(want, field), rtol=1e-10, atol=1e-8), (name, field)
        for field in ("folds", "products"):
            a, b = getattr(found, field), getattr(want, field)
            assert a.shape == b.shape
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max())), (name, field)


def deviating(deviation_of: dict[str, LayerDeviation]) -> Tensor:
    """Each layer's largest |z|, infinite for a value that is not finite."""
    return torch.stack([one.z.abs().nan_to_num(torch.inf, torch.inf).amax(1) for one in deviation_of.values()], 1)


@pytest.mark.parametrize("most", [1 << 26, 20000], ids=["whole", "in parts"])
@pytest.mark.parametrize("without", [(), ("c", "f")], ids=["every layer", "two branches not taken"])
def test_what_is_said_of_samples_is_what_the_definition_says(
    without: tuple[str, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("naa_fast.rank.packed.HOST_VALUES", most)
    references = defined([100, 130])
    for reference in references.values():
        reference.freeze()
    views = some({**SUSPECT, "stranger": torch.zeros(SAMPLES, 3)}, slice(None), without)
    everywhere = Everywhere(references)
    numbers, absent = everywhere.score(views, GROUP)
    said, lit_layers = everywhere.at_home([one.numpy() for one in numbers], [(SAMPLES, absent)])
    assert said.shape == (SAMPLES, len(FEATURES), 3)
    deviation_of = {name: one.deviation_of(SUSPECT[name], GROUP) for name, one in references.items() if name not in without}
    for place, name in enumerate(references):
        if name in without:
            assert (said[:, place, 0] == 0).all()
            assert np.isnan(said[:, place, 1:]).all()
            continue
        want = deviation_of[name]
        z = want.z.double().abs().nan_to_num(torch.inf, torch.inf).numpy()
        assert np.allclose(said[:, place, 0], np.maximum(z - 3, 0).sum(1), rtol=1e-5, atol=1e-5), name
        scale = float(want.distance.median())
        assert np.allclose(said[:, place, 1], want.distance, rtol=1e-3, atol=1e-4 * scale), name
        assert np.allclose(said[:, place, 2], want.margin, rtol=1e-3, atol=1e-3 * scale), name
    names = [*references]
    largest = deviating(deviation_of).topk(3, 1).values.numpy()
    assert np.allclose(lit_layers[..., 2], largest, rtol=1e-5)
    for sample in range(0, SAMPLES, 7):
        for layer, feature, z in lit_layers[sample]:
            found = deviation_of[names[int(layer)]].z[sample, int(feature)].abs().nan_to_num(torch.inf, torch.inf)
            assert float(found) == pytest.approx(z, rel=1e-5)


def test_layers_of_several_devices_are_told_together() -> None:
    references = defined([])
    for reference in references.values():
        reference.freeze()
    whole = Everywhere(references)
    want = whole.at_home([one.numpy() for one in whole.score(some(SUSPECT, slice(None)), GROUP)[0]], [])
    halves = [dict(list(references.items())[at : at + 4]) for at in (0, 4)]
    scorings = [Scoring(half) for half in halves]
    split = Everywhere(references)
    split.scorings = {torch.device("cpu"): scorings[0], torch.device("meta"): scorings[1]}
    split.number = np.array([[*references].index(name) for scoring in scorings for name in scoring.plan.names])
    parts = [
        joined(scoring.score(some({name: SUSPECT[name] for name in half}, slice(None)).packs[0], GROUP)[0])
        for scoring, half in zip(scorings, halves, strict=True)
    ]
    found = split.at_home([one.numpy() for one in together(parts)], [])
    assert np.allclose(found[0], want[0], rtol=1e-5, atol=1e-5)
    assert np.array_equal(found[1][..., 2], want[1][..., 2])


def test_another_number_of_features_than_before_is_refused() -> None:
    fitting = Fitting({"a": Reference(GROUPS, CLEAN["a"])})
    with pytest.raises(CaptureError, match="a layer gave 4 values a sample"):
        fitting.add(Views.of({"a": CLEAN["a"][:, :4]}).packs[0], GROUP)


def test_few_widths_make_few_groups() -> None:
    layout = tuple((str(features), features) for features in range(1, 9000, 7))
    plan = Plan(layout, torch.device("cpu"))
    assert len(plan.groups) == len({place_of(features) for _, features in layout}) == 9
    assert len(plan.deal) < 2 * plan.features
