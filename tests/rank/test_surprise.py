"""`Surprise` equals a computation by the formula, is calibrated on fresh samples, and is not moved by rounding."""

from __future__ import annotations

import numpy as np
import pytest

from naa_fast.rank.surprise import TAIL, Surprise, Tail

RNG = np.random.default_rng(0)


def said(samples: int, layers: int = 5) -> np.ndarray:
    """Excess, distance and margin of samples that are alike."""
    return np.stack(
        [RNG.exponential(1, (samples, layers)), RNG.chisquare(9, (samples, layers)), RNG.normal(-4, 2, (samples, layers))], 2
    )


def test_the_tail_is_the_share_of_clean_samples_and_exponential_beyond() -> None:
    clean = RNG.exponential(2.0, 4000)
    tail = Tail(clean)
    for value in (0.5, 1.5, 3.0, 4.5):
        assert tail.surprise(np.array([value]))[0] == pytest.approx(-np.log((clean >= value).mean()), abs=0.01)
    cut = np.quantile(clean, 1 - TAIL)
    mean = (clean[clean > cut] - cut).mean()
    assert tail.surprise(np.array([50.0]))[0] == pytest.approx(-np.log(TAIL) + (50 - cut) / mean)
    assert tail.surprise(np.array([-1.0, np.inf])).tolist() == [0.0, np.inf]
    steps = tail.surprise(np.linspace(-1, 60, 3000))
    assert (np.diff(steps) >= 0).all()
    assert np.abs(tail.surprise(clean + 1e-9) - tail.surprise(clean)).max() < 1e-3, "rounding moves no sample by a rank"


def test_fresh_samples_are_as_surprising_as_those_that_fixed_it() -> None:
    group = RNG.integers(0, 4, 2000)
    surprise = Surprise(said(2000), group, 4)
    null = surprise.of(said(2000), RNG.integers(0, 4, 2000))
    fixed = surprise.of(said(20_000), RNG.integers(0, 4, 20_000))
    for share in (0.9, 0.99):
        assert (fixed > np.quantile(null, share)).mean() == pytest.approx(1 - share, rel=0.35)


@pytest.mark.parametrize("what", [0, 1, 2])
@pytest.mark.parametrize("layers", [[2], [0, 1, 2, 3, 4]], ids=["one layer", "all layers"])
def test_what_stands_out_in_one_layer_or_a_little_in_all_ranks_first(what: int, layers: list[int]) -> None:
    surprise = Surprise(said(1000), np.zeros(1000, np.int64), 1)
    seen = said(200)
    seen[17, layers, what] += (40, 60, 20)[what] / len(layers) ** 0.5
    assert surprise.of(seen, np.zeros(200, np.int64)).argmax() == 17


def test_each_class_is_held_against_its_own_samples() -> None:
    group = RNG.integers(0, 2, 2000)
    clean = said(2000)
    clean[group == 1, :, 1:] += 50.0
    surprise = Surprise(clean, group, 2)
    fresh = said(500)
    assert np.median(surprise.of(fresh, np.zeros(500, np.int64))) < 3
    fresh[..., 1:] += 50.0
    assert np.median(surprise.of(fresh, np.ones(500, np.int64))) < 3
    assert surprise.of(fresh, np.zeros(500, np.int64)).min() > 10


def test_a_value_that_is_not_finite_ranks_first_and_a_layer_without_finite_ones_says_nothing() -> None:
    clean = said(500)
    clean[:, 1, 0] = np.inf
    clean[:100, 3, 1:] = np.nan  # a branch that did not run
    surprise = Surprise(clean, np.zeros(500, np.int64), 1)
    seen = said(50)
    seen[:, 1, 0] = np.inf
    seen[7, 2, 0] = np.inf
    found = surprise.of(seen, np.zeros(50, np.int64))
    assert found[7] == np.inf
    assert np.isfinite(np.delete(found, 7)).all()
