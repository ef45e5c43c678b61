"""`AnomalyScale` is the largest of six measures, each calibrated on clean samples; its chance holds on fresh ones."""

from __future__ import annotations

import numpy as np
import pytest

from naa_fast.detect.evidence import Ranking
from naa_fast.rank.anomaly import ALWAYS, TAIL, AnomalyScale, Tail, fair
from naa_fast.rank.reference import PRIOR


def said(samples: int, seed: int, layers: int = 5) -> np.ndarray:
    """Excess, distance and margin of samples that are alike, in layers that agree somewhat."""
    rng = np.random.default_rng(seed)
    common = 0.7 * rng.standard_normal((samples, 1))
    z = [common + 0.7 * rng.standard_normal((samples, layers)) for _ in range(3)]
    return np.stack([np.maximum(np.exp(z[0]) - 1.5, 0), 20 * np.exp(0.3 * z[1]), -10 + 6 * z[2]], 2)


def classes(samples: int, seed: int, many: int) -> np.ndarray:
    return np.random.default_rng(1000 + seed).integers(0, many, samples)


def test_the_score_is_the_most_surprising_of_six_measures() -> None:
    clean, group, seen, called = said(300, 0), classes(300, 0, 3), said(40, 1), classes(40, 1, 3)
    seen[7, 2, 0] += 30
    seen[9, :, 2] += 30
    weight = 1 / (clean[..., 0].mean(0) + ALWAYS)
    overall = clean[..., 1:].mean(0)
    means = [(clean[group == c, :, 1:].sum(0) + PRIOR * overall) / ((group == c).sum() + PRIOR) for c in range(3)]
    width = np.sqrt(np.mean([(x - means[g]) ** 2 for x, g in zip(clean[..., 1:], group, strict=True)], 0))

    def six(x: np.ndarray, of: np.ndarray) -> np.ndarray:
        apart = np.stack([(one[:, 1:] - means[g]) / width for one, g in zip(x, of, strict=True)])
        by_layer = [x[..., 0] * weight, apart[..., 0], apart[..., 1]]
        return np.array([measure for one in by_layer for measure in (one.sum(1), np.maximum(one.max(1), 0))])

    wanted = [Tail(c).anomaly(s) for c, s in zip(six(clean, group), six(seen, called), strict=True)]
    found = AnomalyScale(clean, group, 3).of(seen, called)
    assert np.allclose(found, np.max(wanted, 0), rtol=1e-9)
    assert set(np.argsort(-found)[:2]) == {7, 9}
    assert {int(np.argmax([one[i] for one in wanted])) // 2 for i in (7, 9)} == {0, 2}


def test_the_tail_is_the_share_of_clean_samples_and_exponential_beyond() -> None:
    clean = np.random.default_rng(2).exponential(2.0, 4000)
    tail = Tail(clean)
    for value in (0.5, 1.5, 3.0, 4.5):
        assert tail.anomaly(np.array([value]))[0] == pytest.approx(-np.log((clean >= value).mean()), abs=0.01)
    cut = np.quantile(clean, 1 - TAIL)
    mean = (clean[clean > cut] - cut).mean()
    assert tail.anomaly(np.array([50.0]))[0] == pytest.approx(-np.log(TAIL) + (50 - cut) / mean)
    assert tail.anomaly(np.array([-1.0, np.inf])).tolist() == [0.0, np.inf]
    steps = tail.anomaly(np.linspace(-1, 60, 3000))
    assert (np.diff(steps) >= 0).all()
    assert np.abs(tail.anomaly(clean + 1e-9) - tail.anomaly(clean)).max() < 1e-3, "rounding moves no sample by a rank"


def test_where_most_clean_samples_are_alike_the_tail_begins_with_those_that_are_not() -> None:
    clean = np.r_[np.zeros(970), np.linspace(1, 3, 30)]
    found = Tail(clean).anomaly(np.array([0.0, 0.5, 1.0, 3.0]))
    assert found[0] == 0.0
    assert found[1] == pytest.approx(-np.log(31 / 1001) + 0.25)
    assert found[3] > found[2] > found[1]


@pytest.mark.parametrize(("clean", "many"), [(32, 10), (150, 10), (500, 4)], ids=str)
def test_sets_that_are_alike_differ_as_seldom_as_promised(clean: int, many: int) -> None:
    chances = []
    for seed in range(60):
        null, group = said(clean, 2 * seed), classes(clean, 2 * seed, many)
        fresh, called = said(300, 2 * seed + 1), classes(300, 2 * seed + 1, many)
        scores = AnomalyScale(null, group, many).of(fresh, called)
        chances.append(Ranking(scores, called, fair(null, group, many), group).p_value)
    assert (np.array(chances) < 1e-3).sum() <= 1  # .06 expected; scored by what they fix themselves 14 of 60 do with 32 samples
    assert (np.array(chances) < 0.05).sum() <= 9  # 3 expected; 10 has a chance below .001


@pytest.mark.parametrize("what", [0, 1, 2])
@pytest.mark.parametrize("layers", [[2], [0, 1, 2, 3, 4]], ids=["one layer", "all layers"])
def test_what_stands_out_in_one_layer_or_a_little_in_all_ranks_first(what: int, layers: list[int]) -> None:
    anomaly = AnomalyScale(said(1000, 3), np.zeros(1000, np.int64), 1)
    seen = said(200, 4)
    seen[17, layers, what] += (60, 120, 80)[what] / len(layers) ** 0.5
    assert anomaly.of(seen, np.zeros(200, np.int64)).argmax() == 17


def test_each_class_is_held_against_its_own_samples() -> None:
    group = classes(2000, 5, 2)
    clean = said(2000, 5)
    clean[group == 1, :, 1:] += 50.0
    anomaly = AnomalyScale(clean, group, 2)
    fresh = said(500, 6)
    assert np.median(anomaly.of(fresh, np.zeros(500, np.int64))) < 3
    fresh[..., 1:] += 50.0
    assert np.median(anomaly.of(fresh, np.ones(500, np.int64))) < 3
    assert anomaly.of(fresh, np.zeros(500, np.int64)).min() > 5


def test_a_value_that_is_not_finite_ranks_first_and_a_layer_without_finite_ones_says_nothing() -> None:
    clean = said(500, 7)
    clean[:, 1, 0] = np.inf
    anomaly = AnomalyScale(clean, np.zeros(500, np.int64), 1)
    seen = said(50, 8)
    seen[:, 1, 0] = np.inf
    seen[7, 2, 0] = np.inf
    found = anomaly.of(seen, np.zeros(50, np.int64))
    assert found[7] == np.inf
    assert np.isfinite(np.delete(found, 7)).all()


def test_a_branch_that_hardly_a_clean_sample_took_says_nothing() -> None:
    clean = said(500, 9)
    clean[3:, 3, 1:], clean[:, 3, 0] = np.nan, 0.0
    anomaly = AnomalyScale(clean, np.zeros(500, np.int64), 1)
    seen = said(50, 10)
    without = seen.copy()
    without[:, 3, 1:], without[:, 3, 0] = np.nan, 0.0
    none = np.zeros(50, np.int64)
    assert np.array_equal(anomaly.of(seen, none), anomaly.of(without, none))
