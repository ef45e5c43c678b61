"""Of many classes a layer's mean is expected by the class scores: the regression, its packed form, merging, and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import naa_fast
from naa_fast.accumulate import Views
from naa_fast.accumulate.samples import Pack
from naa_fast.errors import CaptureError, StateMismatch
from naa_fast.measurement import WITH_CODES, Measurement
from naa_fast.rank.codes import CODES, MOST_FEATURES, RIDGE, coded, codes_of, rows_of_sums
from naa_fast.rank.groups import MOST
from naa_fast.rank.packed import CUT, Fitting, Scoring
from naa_fast.rank.reference import FLOOR, SHRINKAGE, Reference
from naa_fast.rank.saved import arrays_of, sums_of
from naa_fast.reference import LayerReference, check

RNG = np.random.default_rng(0)
CLASSES, SAMPLES = 80, 400
SCORES = torch.from_numpy(RNG.standard_normal((SAMPLES, CLASSES)) * 3 + 5).float()
MIX = torch.from_numpy(RNG.standard_normal((CLASSES, 300))).float()
NARROW = (SCORES @ MIX[:, :6] + torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(1))).double() + 100
WIDE = (SCORES @ MIX + 20 * torch.randn(SAMPLES, 300, generator=torch.Generator().manual_seed(2))).double()


def fitted(x: torch.Tensor, cuts: list[int] | None = None, rows: int | None = None) -> Reference:
    reference, member = Reference(1 + CODES, x[:50], coded=True, rows=rows), coded(SCORES)
    for part in np.split(np.arange(SAMPLES), cuts or []):
        reference.add(x[part], member[part])
    return reference


def test_codes_are_alike_for_scores_alike_and_finite_for_any() -> None:
    codes = coded(SCORES)
    assert codes.shape == (SAMPLES, 1 + CODES)
    assert (codes[:, 0] == 1).all()
    assert torch.allclose(coded(SCORES + 7), codes, atol=1e-4), "a softmax does not see what is added to all scores either"
    near = (coded(SCORES + 0.01 * torch.randn(SCORES.shape)) - codes).norm(dim=1)
    assert near.max() < 0.1 * (codes[1:] - codes[:-1]).norm(dim=1).min()
    hostile = torch.tensor([[torch.nan, torch.inf, 3e38, -3e38, *[0.0] * 40]])
    assert torch.isfinite(coded(hostile)).all()


def test_distances_are_those_from_a_ridge_regression_on_the_scores() -> None:
    reference = fitted(NARROW, [7, 200])
    reference.freeze()
    x, codes = NARROW.numpy(), coded(SCORES).double().numpy()[:, 1:]
    q = (codes - codes.mean(0)) / codes.std(0)
    overall = x.mean(0)
    effects = np.linalg.solve(q.T @ q + RIDGE * SAMPLES * np.eye(CODES), q.T @ (x - overall))
    left = x - overall - q @ effects
    freedom = SAMPLES - 1 - np.trace(np.linalg.solve(q.T @ q + RIDGE * SAMPLES * np.eye(CODES), q.T @ q))
    covariance = left.T @ left / freedom
    deviation = np.sqrt(np.diag(covariance))
    assert (deviation > FLOOR * np.median(deviation)).all()
    shrunk = (1 - SHRINKAGE) * covariance / np.outer(deviation, deviation) + SHRINKAGE * np.eye(6)
    precision = np.linalg.inv(shrunk) / np.outer(deviation, deviation)
    found = reference.deviation_of(NARROW, coded(SCORES))
    distance, plain = (np.einsum("ni,ij,nj->n", apart, precision, apart) for apart in (left, x - overall))
    assert np.allclose(found.z, left / deviation, rtol=1e-4, atol=1e-4)
    assert np.allclose(found.distance, distance, rtol=1e-3, atol=1e-2)
    assert np.allclose(found.margin, distance - plain, rtol=1e-3, atol=1e-1)
    shuffled = reference.deviation_of(NARROW, coded(SCORES.roll(1, 0)))
    assert shuffled.margin.mean() > 0 > found.margin.mean(), "what the scores let expect tells a sample from any other"


@pytest.mark.parametrize(("batches", "rows"), [(1, None), (4, None), (2, 1)])
def test_all_layers_at_once_say_what_each_says_alone(batches: int, rows: int | None) -> None:
    views = {"narrow": NARROW.float(), "wide": WIDE.float()}
    whole = Views.of(views)
    fitting = Fitting({name: Reference(1 + CODES, view[:50], coded=True, rows=rows) for name, view in views.items()})
    for part in np.array_split(np.arange(SAMPLES), batches):
        fitting.add(Pack(whole.packs[0].layout, whole.packs[0].values[part]), coded(SCORES)[part])
    packed = fitting.references()
    for one in packed.values():
        one.freeze()
    scored = Scoring(packed).score(whole.packs[0], coded(SCORES))[0]
    said = torch.cat([one.parts for one in scored], 1)
    for place, name in enumerate(Scoring(packed).plan.names):
        alone = fitted(views[name], rows=rows)
        alone.freeze()
        want = alone.deviation_of(views[name], coded(SCORES))
        excess = (want.z.abs() - CUT).clamp(min=0).sum(1)
        assert np.allclose(said[0, :, place], excess, rtol=2e-3, atol=1e-2)
        assert np.allclose(said[1, :, place], want.distance, rtol=2e-3, atol=0.1)
        assert np.allclose(said[2, :, place], want.margin, rtol=2e-3, atol=0.5)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(60, SAMPLES - 60), wide=st.booleans(), rows=st.sampled_from([None, 1]))
def test_parts_merge_to_what_the_whole_says_on_the_device_and_in_the_file(cut: int, wide: bool, rows: int | None) -> None:
    x, member = (WIDE if wide else NARROW), coded(SCORES)
    first, second = (Reference(1 + CODES, x[:50], coded=True, rows=rows) for _ in range(2))
    first.add(x[:cut], member[:cut])
    second.pivot = second.pivot + 3.0
    second.add(x[cut:], member[cut:])
    saved = [on_file(one) for one in (first, second)]
    first.merge(second)
    for merged in (first, sums_of(saved[0].merge(saved[1])), sums_of(saved[1].merge(saved[0]))):
        want = fitted(x, rows=rows)
        assert np.allclose(merged.count, want.count, rtol=1e-9, atol=1e-6)
        merged.freeze()
        want.freeze()
        found, wanted = (one.deviation_of(x, member) for one in (merged, want))
        assert np.allclose(found.z, wanted.z, rtol=1e-3, atol=1e-3)
        assert np.allclose(found.distance, wanted.distance, rtol=1e-2, atol=0.5)


def on_file(reference: Reference) -> LayerReference:
    none = np.zeros(0)
    nothing = {"rows_count": np.zeros(3), "rows_mean": none, "rows": np.zeros((0, 0)), "held_items": np.zeros(0, np.int64)}
    return LayerReference(**arrays_of({"layer": reference})["layer"], **nothing, held=np.zeros((0, 0), np.float32))


def many(classes: int) -> nn.Sequential:
    torch.manual_seed(classes)
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, classes)).eval()


@pytest.mark.parametrize("classes", [MOST, MOST + 1, 3000])
def test_bytes_a_neuron_do_not_grow_with_the_number_of_classes(classes: int, tmp_path: Path) -> None:
    clean = torch.randn(256, 12, generator=torch.Generator().manual_seed(3))
    measured = naa_fast.measure(many(classes), clean, reference=True)
    measured.save(tmp_path / "clean.naa.safetensors")
    again = Measurement.load(tmp_path / "clean.naa.safetensors")
    assert again.reference is not None
    assert again.to_bytes() == measured.to_bytes()
    assert (WITH_CODES.encode() in measured.to_bytes()) == (classes > MOST), "of few classes the file is as it was"
    layer = again.reference.layers["0"]
    assert layer.coded == (classes > MOST)
    assert len(layer.sums) == 1 + CODES == 1 + MOST


@pytest.mark.parametrize("classes", [60])
def test_suspects_are_ranked_alike_by_the_set_and_by_its_file(classes: int) -> None:
    torch.manual_seed(0)
    model, clean, suspect = many(classes), torch.randn(300, 12), torch.randn(100, 12)
    suspect[17] *= 30
    by_set = naa_fast.scan(model, clean, suspect, proof=False).ranking
    measured = naa_fast.measure(model, clean, reference=True)
    by_file = naa_fast.scan(model, measured, suspect, proof=False).ranking
    assert by_set is not None
    assert by_file is not None
    assert by_set.top[0].sample == 17
    assert np.allclose(by_set.scores, by_file.scores, rtol=1e-3, atol=1e-3)


def test_where_layers_are_large_single_neurons_are_held_against_the_whole_mean_and_bytes_are_as_of_one_class() -> None:
    assert rows_of_sums(MOST_FEATURES) == 1 + CODES
    assert rows_of_sums(MOST_FEATURES + 1) == 1
    few = on_file(fitted(WIDE, rows=1))
    check("layer", few)
    assert few.sums.shape == (1, 300)
    reference = fitted(WIDE, rows=1)
    reference.freeze()
    found = reference.deviation_of(WIDE, coded(SCORES))
    assert np.allclose(found.z, (WIDE - WIDE.mean(0)) / WIDE.std(0), rtol=1e-3, atol=1e-3)
    assert found.margin.mean() < 0


def test_scores_whose_number_changes_are_refused_by_name() -> None:
    with pytest.raises(CaptureError, match="the number of class scores changes from batch to batch"):
        codes_of(Views.of({"layer": NARROW}))


def test_a_file_without_codes_does_not_merge_with_one_that_has_them() -> None:
    codes, plain = on_file(fitted(NARROW)), Reference(1, NARROW[:50])
    plain.add(NARROW, torch.zeros(SAMPLES, dtype=torch.int64))
    with pytest.raises(StateMismatch, match="count: 33 / 1 values"):
        codes.merge(on_file(plain))
