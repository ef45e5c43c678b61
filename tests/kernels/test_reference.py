"""The definition itself, against plain NumPy formulas."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.hard_data import Case, hard_cases
from tolerances import assert_moments, assert_record

from naa_fast.kernels import reference
from naa_fast.records import FOLDS, LayerRecord, Moments


def test_moments_are_the_textbook_ones() -> None:
    x = np.random.default_rng(0).standard_normal((400, 3)) * 2 + 5
    m = Moments.of(x)
    assert np.allclose(m.variance, x.var(0, ddof=1), rtol=1e-12)
    centred = x - x.mean(0)
    assert np.allclose(m.m3, (centred**3).sum(0), rtol=1e-10)
    assert np.allclose(m.kurtosis, (centred**4).mean(0) / x.std(0) ** 4 - 3, rtol=1e-10)
    assert (m.positives == (x > 0).sum(0)).all()


@pytest.mark.parametrize("case", list(hard_cases()), ids=lambda case: case[0])
def test_folding_any_two_halves_gives_the_whole(case: Case) -> None:
    _, x, mask, phase = case
    whole, halves = reference.empty(x.shape[1], x), reference.empty(x.shape[1], x)
    cut = len(x) // 3
    with np.errstate(over="ignore"):
        reference.fold([(whole, reference.reduce(x, mask, phase))], phase)
        for start, stop in ((0, cut), (cut, len(x))):
            part_mask = None if mask is None else mask[start:stop]
            reference.fold([(halves, reference.reduce(x[start:stop], part_mask, phase + start))], phase + start)
        assert_record(halves.record, whole.record, "float64")


def test_every_sample_lands_in_the_fold_its_global_index_says() -> None:
    x = np.arange(200, dtype=np.float32).reshape(200, 1, 1)
    state = reference.empty(1, x)
    for start in range(0, 200, 7):
        part = x[start : start + 7]
        reference.fold([(state, reference.reduce(part, None, start))], start)
    index = np.arange(200)
    for fold in range(FOLDS):
        members = index[(index // 8) % 8 == fold]
        assert state.record.mean_folds.count[fold, 0] == len(members)
        assert state.record.mean_folds.mean[fold, 0] == pytest.approx(members.mean(), rel=1e-14)


def test_bfloat16_bits_are_read_exactly() -> None:
    values = np.array([[0.0, 1.0], [-2.5, 3.140625]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    m = reference.reduce(bits[:, :, None], None, 0).moments
    assert m.minimum[0].tolist() == [-2.5, 1.0]
    assert m.maximum[0].tolist() == [0.0, 3.140625]


def test_a_record_survives_packing() -> None:
    x = np.random.default_rng(1).standard_normal((70, 4, 5))
    state = reference.empty(4, x)
    reference.fold([(state, reference.reduce(x, None, 0))], 0)
    packed = reference.read([state])[0]
    again = LayerRecord.unpacked("", "", *packed)
    assert all(np.array_equal(a, b) for a, b in zip(packed, again.packed(), strict=True))


def test_the_comparison_survives_constant_and_unknown_neurons() -> None:
    clean = np.array([0.0, 2.0, 1.0, 5.0, np.nan])
    suspect = np.array([0.0, 2.0, 1.5, 9.0, 1.0])
    variance = np.array([0.0, 0.0, 0.25, 0.0, np.nan])
    found = reference.compare(clean, variance, suspect, variance, resolution=2.0**-20, k=3)
    assert found.difference[:4].tolist() == [0.0, 0.0, 0.5, 4.0]
    assert found.z[:2].tolist() == [0.0, 0.0]
    assert found.z[2] == pytest.approx(1.0, rel=1e-6)
    assert np.isfinite(found.z[3])
    assert found.top.tolist() == [4, 3, 2]  # what cannot be compared comes first


def test_a_merge_is_commutative_to_the_bit_and_keeps_constants() -> None:
    rng = np.random.default_rng(3)
    a, b = Moments.of(rng.standard_normal((300, 50)) + 9), Moments.of(rng.standard_normal((17, 50)) * 3)
    for name, field in a.merge(b).fields().items():
        assert np.array_equal(field, getattr(b.merge(a), name)), name
    third = np.full((7, 2), 1 / 3)
    merged = Moments.of(third).merge(Moments.of(third[:2])).merge(Moments.of(third[:5]))
    assert_moments(merged, Moments.of(np.full((14, 2), 1 / 3)), "float64")
    assert (merged.m2 == 0).all()
    assert (merged.mean == 1 / 3).all()
