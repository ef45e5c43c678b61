"""Group means, deviations and residuals equal a computation on all samples at once; groups and token counts too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from naa_fast.rank.groups import FEWEST, Groups
from naa_fast.rank.reference import FLOOR, PRIOR, Reference, excess
from naa_fast.rank.tokens import TokenCounts

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


def test_residuals_and_scores_equal_brute_force() -> None:
    reference = fitted([300])
    z = reference.standing(torch.from_numpy(X[:40]), torch.from_numpy(GROUP[:40])).z
    want = (X[:40] - reference.mean.numpy()[GROUP[:40]]) / reference.deviation.numpy()
    assert np.allclose(z, want, rtol=1e-5, atol=1e-5)
    far = 4 * z
    for backend in ("auto", "portable", "reference"):
        assert np.allclose(excess(far, backend), np.maximum(np.abs(4 * want) - 3, 0).sum(1), rtol=1e-4, atol=1e-4), backend


def test_nan_enters_no_statistic_and_ranks_first() -> None:
    broken = torch.from_numpy(X.copy())
    broken[5, 0] = torch.nan
    reference = Reference(1, broken)
    reference.add(broken, torch.zeros(300, dtype=torch.int64))
    reference.freeze()
    assert torch.isfinite(reference.mean).all()
    assert torch.isfinite(reference.deviation).all()
    z = reference.standing(broken, torch.zeros(300, dtype=torch.int64)).z
    assert excess(z, "auto")[5] == torch.inf


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
    counts = TokenCounts(2)
    for row, group in enumerate([0, 1, 1]):
        counts.add(ids[row : row + 1], np.array([group]), mask[row : row + 1])
    assert counts.samples.tolist() == [1, 2]
    assert counts.counts[0, [5, 9, 2, 0]].tolist() == [1, 1, 0, 0]
    assert counts.counts[1, [5, 9, 2, 0]].tolist() == [1, 0, 2, 0]
