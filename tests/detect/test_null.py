"""The null is checked where the truth is known: fresh clean data must rarely exceed its limit, real shifts must."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from naa_fast.detect.judgement import judge
from naa_fast.detect.null import clean_null, folds_against_rest
from naa_fast.kernels import reference
from naa_fast.measurement import Measurement, Shard
from naa_fast.records import FOLDS, LayerRecord

Draw = Callable[[np.random.Generator, int, int], np.ndarray]

LAWS: dict[str, Draw] = {
    "normal": lambda rng, n, m: rng.standard_normal((n, m)),
    "relu": lambda rng, n, m: np.maximum(rng.standard_normal((n, m)) - 1, 0),
    "correlated": lambda rng, n, m: rng.standard_normal((n, 1)) * 2 + rng.standard_normal((n, m)),
    "heavy tails": lambda rng, n, m: rng.standard_t(4, (n, m)),
}


def measured(x: np.ndarray, digest: str) -> Measurement:
    state = reference.empty(x.shape[1], x)
    reference.fold([(state, reference.reduce(x[:, :, None], None, 0))], 0)
    record = LayerRecord.unpacked("axis 1 of 2", "float32", *reference.read([state])[0])
    return Measurement({"layer": record}, "m", "float32", (Shard(digest, len(x)),))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("neurons", "clean", "suspect", "repeats"), [(1, 300, 100, 200), (60, 64, 64, 200), (2000, 500, 200, 40)]
)
def test_fresh_clean_data_seldom_raises_a_false_alarm(law: str, neurons: int, clean: int, suspect: int, repeats: int) -> None:
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(repeats):
        draws = [LAWS[law](rng, n, neurons).astype(np.float32) for n in (clean, suspect)]
        alarms += judge(measured(draws[0], "c"), measured(draws[1], "s"), accept_unranked=True).verdict.outcome != "pass"
    # The nominal rate is 1 %. With a true rate of 2 %, more than this many alarms has probability below 1e-3.
    assert alarms <= {200: 12, 40: 5}[repeats], f"{alarms} of {repeats}"


@pytest.mark.parametrize("law", LAWS)
def test_a_real_shift_is_seen(law: str) -> None:
    rng = np.random.default_rng(6)
    clean, suspect = (LAWS[law](rng, n, 60).astype(np.float32) for n in (500, 300))
    suspect[:, 7] += 1.2 * clean[:, 7].std()
    verdict = judge(measured(clean, "c"), measured(suspect, "s")).verdict
    assert verdict.outcome == "warn"
    assert verdict.p_value < 1e-3


def test_the_p_value_is_not_smaller_than_the_truth() -> None:
    rng = np.random.default_rng(7)
    p_values = []
    for _ in range(200):
        clean, suspect = (rng.standard_normal((n, 50)).astype(np.float32) for n in (200, 100))
        p_values.append(judge(measured(clean, "c"), measured(suspect, "s")).verdict.p_value)
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 200)


def test_each_fold_is_compared_with_the_rest_of_the_set() -> None:
    x = np.random.default_rng(8).standard_normal((640, 3)) + 4
    t = folds_against_rest(measured(x, "c").layers["layer"].mean_folds)
    fold = (np.arange(640) // 8) % FOLDS
    for f in range(FOLDS):
        inside, outside = x[fold == f], x[fold != f]
        scale = x.std(0, ddof=1) * np.sqrt(1 / len(inside) + 1 / len(outside))
        assert t[f] == pytest.approx(np.abs(inside.mean(0) - outside.mean(0)) / scale, rel=1e-10)


def test_a_set_too_small_or_constant_gives_no_null() -> None:
    assert not clean_null(measured(np.random.default_rng(9).standard_normal((20, 3)), "c").layers.values()).usable
    constant = clean_null(measured(np.ones((640, 3)), "c").layers.values())
    assert not constant.usable
    assert constant.tests == 0
