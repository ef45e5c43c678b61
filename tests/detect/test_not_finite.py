"""One sample that is NaN goes through every later layer: it is one finding that names it, and one gap."""

from __future__ import annotations

import numpy as np
import pytest
from report.examples import judged, noise, ranking_of

from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.judgement import Judgement

SOUND = {"first": (noise(0, 300, 4), noise(1, 80, 4))}


def broken(samples: tuple[int, ...], layers: int, ranked: bool, clean: tuple[int, ...] = ()) -> Judgement:
    """Layers after a sound one, in which these samples are NaN."""
    sets = dict(SOUND)
    for i in range(layers):
        x, y = noise(10 + i, 300, 4), noise(50 + i, 80, 4)
        x[list(clean)], y[list(samples)] = np.nan, np.inf if i % 2 else np.nan
        sets[f"layer{i}"] = x, y
    scores = np.linspace(3, 0, 80)
    scores[list(samples)] = np.inf
    ranking = Ranking(
        scores, np.zeros(80, np.int64), np.linspace(3, 0, 200), np.zeros(200, np.int64), file_of=lambda i: f"{i}.png"
    )
    return judged(sets, evidence=Evidence(ranking) if ranked else None)


def findings_in(judgement: Judgement) -> list[tuple[str, str, float]]:
    return [(f.layer, f.statement, f.value) for f in judgement.verdict.findings if f.about == "not finite"]


def test_a_nan_sample_is_one_finding_that_names_it() -> None:
    statement = "sample 37 (37.png): 56 neurons of 14 layers, from this one on, NaN or infinite on suspect samples only"
    assert findings_in(broken((37,), 14, ranked=True)) == [("layer0", statement, 56.0)]


@pytest.mark.parametrize(
    ("samples", "named"),
    [((3, 5), "samples 3 (3.png), 5 (5.png): "), ((3, 5, 7, 9, 11), "samples 3 (3.png), 5 (5.png), 7 (7.png) and 2 more: ")],
)
def test_some_are_named_and_the_rest_counted(samples: tuple[int, ...], named: str) -> None:
    ((_, statement, _),) = findings_in(broken(samples, 1, ranked=True))
    assert statement == named + "4 neurons NaN or infinite on suspect samples only"


def test_samples_that_were_not_ranked_have_no_names() -> None:
    assert findings_in(broken((37,), 1, ranked=False)) == [("layer0", "4 neurons NaN or infinite on suspect samples only", 4.0)]


def test_it_is_one_gap_too_and_clean_samples_are_another() -> None:
    gaps = [gap for gap in broken((37,), 14, ranked=True, clean=(5,)).verdict.gaps if "NaN" in gap]
    assert gaps == [
        "layer0 and 13 later layers: 56 neurons NaN or infinite on some clean samples",
        "layer0 and 13 later layers: 56 neurons NaN or infinite on some suspect samples",
    ]
    assert findings_in(broken((37,), 14, ranked=True, clean=(5,))) == []


def test_a_ranking_of_finite_samples_names_none() -> None:
    assert ranking_of(30, 3).not_finite == ()
