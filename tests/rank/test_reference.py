"""Group means, deviations and residuals equal a computation on all samples at once; groups and token counts too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from naa_fast.rank.groups import FEWEST, Groups
from naa_fast.rank.reference import FLOOR, FOLDED, PRIOR, SHRINKAGE, Reference
from naa_fast.rank.tokens import TokenTally

RNG = np.random.default_rng(0)
GROUP = RNG.integers(0, 3, 300)
X = RNG.standard_normal((300, 6)) * [1, 2, 3, 4, 0.001, 0] + 1e4 + 10 * GROUP[:, None]
X[:, 5] = 7.0


def fitted(cuts: list[int]) -> Reference:
    reference = Reference(4, torch.from_numpy(X[: cuts[0]]))
    for rows in np.split(np.arange(300), cuts):
        reference.add(torch.from_numpy(X[rows]), torch.from_numpy(GROUP[rows]))
    reference.freeze()
    return reference


@pytest.mark.parametrize("cuts", [[300], [1, 2, 150], [7, 200]], ids=str)
def test_means_and_deviations_equal_brute_force_in_any_cut(cuts: list[int]) -> None:
    reference = fitted(cuts)
    overall = X.mean(0)
    within = 0.0
    for g in range(3):
        own = X[g == GROUP]
        want = (own.sum(0) + PRIOR * overall) / (len(own) + PRIOR)
        assert np.allclose(reference.mean[g], want, rtol=1e-12)
        within = within + ((own - own.mean(0)) ** 2).sum(0)
    deviation = np.sqrt(within / (300 - 3))
    floor = FLOOR * np.sort(deviation[:5])[2]  # the lower median of those that vary, as torch takes it
    assert np.allclose(reference.deviation[:4], deviation[:4], rtol=1e-6)
    assert np.allclose(reference.deviation[4:], floor, rtol=1e-6), "features that hardly vary get the floor"
    assert np.allclose(reference.mean[3], overall, rtol=1e-12), "a group without samples has the mean of all"


def test_residuals_equal_brute_force() -> None:
    reference = fitted([300])
    z = reference.deviation_of(torch.from_numpy(X[:40]), torch.from_numpy(GROUP[:40])).z
    want = (X[:40] - reference.mean.numpy()[GROUP[:40]]) / reference.deviation.numpy()
    assert np.allclose(z, want, rtol=1e-5, atol=1e-5)


def test_distances_and_margins_are_those_of_the_inverse_covariance() -> None:
    reference = fitted([7, 200])
    residuals = X[:, :5] - np.stack([X[g == GROUP, :5].mean(0) for g in range(3)])[GROUP]
    covariance = residuals.T @ residuals / (300 - 3)
    width = np.sqrt(np.diag(covariance))
    width = np.maximum(width, FLOOR * np.sort(width)[2])
    precision = np.linalg.inv((1 - SHRINKAGE) * covariance / np.outer(width, width) + SHRINKAGE * np.eye(5)) / np.outer(
        width, width
    )
    far = torch.from_numpy(
        np.concatenate([X[:40], X[:40] + 30 * np.random.default_rng(7).standard_normal((40, 6)) * [1, 2, 3, 4, 0.001, 0]])
    )
    group = torch.from_numpy(np.resize(GROUP[:40], 80))
    found = reference.deviation_of(far, group)
    apart = far.numpy()[:, None, :5] - reference.mean.numpy()[None, :, :5]
    distance = np.einsum("ngi,ij,ngj->ng", apart, precision, apart)
    own = distance[np.arange(80), group]
    distance[:, 3] = distance[np.arange(80), group] = np.inf  # a group without samples is nobody's other class
    assert np.allclose(found.distance, own, rtol=1e-3, atol=1e-2)
    assert np.allclose(found.margin, own - distance.min(1), rtol=1e-3, atol=1e-1)


def test_a_wide_layer_is_folded_and_keeps_distances_on_average_whatever_the_batches() -> None:
    wide = np.random.default_rng(5).standard_normal((600, 5 * FOLDED + 3)) + 100.0
    wide[:300] += 0.5 * np.random.default_rng(6).standard_normal(wide.shape[1])
    group = torch.from_numpy((np.arange(600) < 300).astype(np.int64))
    shuffled = np.random.default_rng(1).permutation(600)
    found = []
    for cuts in ([600], [50, 333]):
        reference = Reference(2, torch.from_numpy(wide[shuffled[: cuts[0]]]))
        for rows in np.split(shuffled, cuts):
            reference.add(torch.from_numpy(wide[rows]), group[rows])
        reference.freeze()
        found.append(reference.deviation_of(torch.from_numpy(wide), group))
    assert found[0].z.shape == (600, 5 * FOLDED + 3)
    assert np.allclose(found[0].distance, found[1].distance, rtol=1e-3)
    assert (found[0].margin < 0).double().mean() > 0.99, "samples are nearer to their own group"
    other = reference.deviation_of(torch.from_numpy(wide), 1 - group)
    assert (other.margin > 0).double().mean() > 0.99


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4])
@pytest.mark.parametrize("features", [3, 64, 300])
def test_a_layer_that_the_class_fixes_ends_no_ranking(noise: float, features: int) -> None:
    rng = np.random.default_rng(3)
    group = rng.integers(0, 3, 400)
    table = 10 * rng.standard_normal((3, features))
    x = torch.from_numpy(table[group] + noise * rng.standard_normal((400, features)))
    reference = Reference(3, x)
    reference.add(x, torch.from_numpy(group))
    reference.freeze()
    here, elsewhere = (reference.deviation_of(x, torch.from_numpy((group + shift) % 3)) for shift in (0, 1))
    assert torch.isfinite(elsewhere.distance).all()
    assert elsewhere.distance.min() > 10 * here.distance.max()
    assert (here.margin < 0).all()
    assert (elsewhere.margin > 0).all()


def test_the_default_dtype_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.standard_normal((100, 300)))
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            reference = Reference(1, x)
            reference.add(x, torch.zeros(100, dtype=torch.int64))
            reference.freeze()
            found.append(reference.deviation_of(x, torch.zeros(100, dtype=torch.int64)).distance)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*found)


def test_a_layer_in_which_nothing_varies_says_nothing() -> None:
    constant = torch.full((50, 4), 3.0)
    reference = Reference(1, constant)
    reference.add(constant, torch.zeros(50, dtype=torch.int64))
    reference.freeze()
    found = reference.deviation_of(constant, torch.zeros(50, dtype=torch.int64))
    assert found.distance.abs().max() < 1e-6
    assert found.margin.tolist() == [0.0] * 50, "there is no other group"
    huge = constant.clone()
    huge[3] = 1e38
    assert torch.isfinite(reference.deviation_of(huge, torch.zeros(50, dtype=torch.int64)).distance).all()


def test_nan_enters_no_statistic_and_stays_in_its_sample() -> None:
    broken = torch.from_numpy(X.copy())
    broken[5, 0] = torch.nan
    reference = Reference(1, broken)
    reference.add(broken, torch.zeros(300, dtype=torch.int64))
    reference.freeze()
    assert torch.isfinite(reference.mean).all()
    assert torch.isfinite(reference.deviation).all()
    z = reference.deviation_of(broken, torch.zeros(300, dtype=torch.int64)).z
    assert torch.isnan(z[5, 0])
    assert torch.isfinite(z).sum() == z.numel() - 1


def test_groups_are_the_frequent_and_the_risen_classes() -> None:
    clean, suspect = np.zeros(1001, np.int64), np.zeros(1001, np.int64)
    clean[:40] = np.arange(40, 0, -1) * FEWEST
    suspect[:40] = clean[:40]
    suspect[900] = 500  # clean data never has it
    groups = Groups(clean, suspect)
    assert 900 in groups.classes
    assert set(range(24)) <= set(groups.classes.tolist())
    assert 39 not in groups.classes
    assert groups.of(np.array([900, 39, -1, 0])).tolist() == [groups.classes.tolist().index(900) + 1, 0, 0, 1]


def test_a_model_without_classes_has_one_group() -> None:
    groups = Groups(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert groups.count == 1
    assert groups.of(np.array([-1, 3])).tolist() == [0, 0]


def test_token_counts_are_samples_not_occurrences_and_masked_places_do_not_count() -> None:
    ids = torch.tensor([[5, 5, 9], [5, 2, 0], [2, 2, 2]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    tally = TokenTally()
    for row, predicted in enumerate([-1, 0, 0]):
        tally.add(ids[row : row + 1], np.array([predicted]), mask[row : row + 1])
    counts = tally.of(Groups.every(1))
    assert counts.samples.tolist() == [1, 2]
    assert counts.counts[0, [5, 9, 2, 0]].tolist() == [1, 1, 0, 0]
    assert counts.counts[1, [5, 9, 2, 0]].tolist() == [1, 0, 2, 0]


def test_token_counts_of_parts_merge_and_those_of_rare_classes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    ids, predicted = random.integers(0, 50, (400, 6)), random.integers(-1, 30, 400)
    whole, parts = TokenTally(), [TokenTally(), TokenTally()]
    whole.add(torch.from_numpy(ids), predicted, None)
    for part, rows in zip(parts, (slice(0, 150), slice(150, 400)), strict=True):
        part.add(torch.from_numpy(ids[rows]), predicted[rows], None)
    parts[0].merge(parts[1])
    groups = Groups.every(30)
    for name in ("counts", "samples"):
        assert np.array_equal(getattr(whole.of(groups), name), getattr(parts[0].of(groups), name))
    monkeypatch.setattr("naa_fast.rank.tokens.MOST_PAIRS", 400)
    bounded = TokenTally()
    bounded.add(torch.from_numpy(ids), np.where(predicted < 20, 3, predicted), None)
    counts, want = bounded.of(groups), whole.of(groups)
    assert np.array_equal(counts.counts.sum(0), want.counts.sum(0)), "no sample is lost"
    assert counts.samples.sum() == 400
    assert counts.samples[4] == (predicted < 20).sum(), "the commonest class keeps counts of its own"
    assert counts.counts[4].sum() == want.counts[:21].sum()


def test_references_of_parts_merge_to_that_of_the_whole() -> None:
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.standard_normal((200, 400)) * np.geomspace(1, 50, 400) + 1000 * random.standard_normal(400))
    group = torch.from_numpy(random.integers(0, 3, 200))
    whole, parts = Reference(3, x[:32]), [Reference(3, x[:32]), Reference(3, x[:32])]
    parts[1].pivot = parts[1].pivot + 2.5
    whole.add(x, group)
    for part, rows in zip(parts, (slice(0, 70), slice(70, 200)), strict=True):
        part.add(x[rows], group[rows])
    parts[0].merge(parts[1])
    for reference in (whole, parts[0]):
        reference.freeze()
    fresh = torch.from_numpy(random.standard_normal((40, 400)) * 20)
    one, other = (reference.deviation_of(fresh, group[:40]) for reference in (whole, parts[0]))
    assert torch.allclose(one.z, other.z, rtol=1e-4, atol=1e-4)
    assert torch.allclose(one.distance, other.distance, rtol=2e-3)
