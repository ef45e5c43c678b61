"""Tail statistics against brute force on stored activations; the calibrated finding where the truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from naa_fast.detect import tails
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.coverage import rarest
from naa_fast.detect.enrichment import TAIL_P, hypergeometric_tail
from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.findings import find_in_tails
from naa_fast.detect.judgement import Judgement, judge
from naa_fast.kernels import cpu
from naa_fast.measurement import Measurement, Shard
from naa_fast.records import BINS, ROWS, LayerRecord, bin_of, bin_values, histogram, tallied
from naa_fast.report.machine import report_dict
from naa_fast.report.sections import seen_by
from naa_fast.report.summary import full as summary


def hard_pair() -> tuple[np.ndarray, np.ndarray]:
    """Clean and suspect `[samples, neurons]`: offsets, constants, rectified, heavy-tailed, tiny, NaN and Inf, nothing finite."""
    rng = np.random.default_rng(1)
    clean, suspect = (rng.standard_normal((n, 12)) for n in (701, 333))
    for x in (clean, suspect):
        x[:, 1] += 1e4
        x[:, 2] = 3.0
        x[:, 3] = np.maximum(x[:, 3] - 1, 0)
        x[:, 4] = rng.standard_t(2, len(x)) * 100
        x[:, 5] *= 1e-9
        x[::7, 6], x[3, 6], x[4, 6] = np.nan, np.inf, -np.inf
        x[:, 7] *= 1e30
    suspect[:9, 8] += 30
    suspect[:9, 9] -= 30
    suspect[:, 10], clean[:, 11] = np.nan, np.nan
    return clean.astype(np.float32), suspect.astype(np.float32)


def binned(x: np.ndarray) -> list[np.ndarray]:
    """Each neuron's finite values, rounded to what their bins stand for."""
    return [bin_values()[bin_of(column[np.isfinite(column)])] for column in x.T]


@pytest.mark.parametrize("rows", [(701, 333), (1, 1), (2, 1), (0, 5), (5, 0)])
def test_every_statistic_is_brute_force_on_binned_values(rows: tuple[int, int]) -> None:
    clean, suspect = (x[:n] for x, n in zip(hard_pair(), rows, strict=True))
    h, g = histogram(clean), histogram(suspect)
    for c, (a, b) in enumerate(zip(binned(clean), binned(suspect), strict=True)):
        for share in (0.0, 0.25, 0.5, 0.99, 0.999, 1.0):
            want = np.quantile(a, share, method="inverted_cdf") if len(a) else np.nan
            assert tails.quantile(h, share)[c] == pytest.approx(want, nan_ok=True)
            want = (b > np.quantile(a, share, method="inverted_cdf")).mean() if len(a) and len(b) else np.nan
            assert tails.exceedance(h, g, share)[c] == pytest.approx(want, nan_ok=True)
            want = (b < -np.quantile(-a, share, method="inverted_cdf")).mean() if len(a) and len(b) else np.nan
            assert tails.exceedance(tails.mirrored(h), tails.mirrored(g), share)[c] == pytest.approx(want, nan_ok=True)


def test_quantiles_lie_within_a_bin_of_the_stored_values() -> None:
    clean, _ = hard_pair()
    h = histogram(clean)
    for c in (0, 1, 2, 4, 8):
        a = clean[:, c].astype(np.float64)
        for share in (0.01, 0.5, 0.99, 0.999):
            want = np.quantile(a, share, method="inverted_cdf")
            assert abs(tails.quantile(h, share)[c] - want) <= 0.125 * abs(want) + 2.0**-17


def record_of(x: np.ndarray, layout: str = "axis 1 of 2") -> LayerRecord:
    """The record of a layer that gave `x` `[samples, neurons]` or `[samples, neurons, positions]`, with histograms."""
    x = x if x.ndim == 3 else x[:, :, None]
    state, kept = cpu.empty(x.shape[1], x), cpu.tails(x.shape[1], x)
    partials = cpu.reduce(x, None, 0)
    cpu.fold([(state, partials)], 0)
    single = [cpu.bins(x[part, :, 0], None) for part in tallied(0, len(x))]
    cpu.tally([(kept, counted) for counted in (single if x.shape[2] == 1 else [partials])])
    (counts,) = cpu.read_tails([kept])
    return LayerRecord.unpacked(layout, "float32", *cpu.read([state])[0], tails=counts)


def judged(clean: np.ndarray, suspect: np.ndarray, evidence: Evidence | None = None) -> Judgement:
    sets = [
        Measurement({"layer": record_of(x)}, "m", "float32", (Shard(name, len(x)),)) for name, x in (("c", clean), ("s", suspect))
    ]
    return judge(sets[0], sets[1], evidence=evidence, accept_unranked=True)


def tail_findings(judgement: Judgement) -> list[str]:
    return [finding.statement for finding in judgement.verdict.findings if finding.about == "tail"]


LAWS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "normal": lambda rng, n, m: rng.standard_normal((n, m)),
    "relu": lambda rng, n, m: np.maximum(rng.standard_normal((n, m)) - 2, 0),
    "correlated": lambda rng, n, m: rng.standard_normal((n, 1)) * 2 + rng.standard_normal((n, m)),
    "heavy tails": lambda rng, n, m: rng.standard_t(2, (n, m)),
    "no mean": lambda rng, n, m: rng.standard_cauchy((n, m)),
    "seldom on": lambda rng, n, m: (rng.random((n, m)) < 0.002) * rng.exponential(9.0, (n, m)),
    "log-normal": lambda rng, n, m: np.exp(3 * rng.standard_normal((n, m))),
}


@pytest.mark.parametrize("law", LAWS)
def test_the_chance_of_a_false_finding_is_what_it_is_said_to_be(law: str) -> None:
    """At levels large enough to be seen: a finding in a tenth, or a hundredth, of clean sets at most."""
    rng = np.random.default_rng(3)
    for repeats, level, neurons, sizes in ((300, 0.1, 20, (300, 150)), (150, 0.1, 20, (2500, 400)), (300, 0.01, 3, (100, 900))):
        alarms = 0
        for _ in range(repeats):
            clean, suspect = (record_of(LAWS[law](rng, n, neurons).astype(np.float32)) for n in sizes)
            layer = LayerComparison("layer", clean, suspect)
            alarms += tails.exceeding(layer, level / tails.tests_of(layer)) is not None
        # Beyond this many alarms lies less than 1e-3 of the binomial law with the nominal rate.
        assert alarms <= level * repeats + 3.2 * np.sqrt(level * (1 - level) * repeats) + 1, f"{sizes}: {alarms} of {repeats}"


@pytest.mark.parametrize("law", ["normal", "relu", "correlated", "log-normal"])
def test_one_percent_triggered_is_found_where_the_means_see_nothing(law: str) -> None:
    rng = np.random.default_rng(4)
    clean, suspect = (LAWS[law](rng, n, 60).astype(np.float32) for n in (5000, 4000))
    suspect[:40, 7] = 1.6 * clean[:, 7].max()
    fresh = LAWS[law](rng, 4000, 60).astype(np.float32)
    judgement = judged(clean, suspect)
    assert {finding.about for finding in judgement.verdict.findings if finding.level == "outlier"} == {"tail"}
    assert judgement.verdict.outcome == "warn"
    (statement,) = tail_findings(judgement)
    assert statement.startswith(
        "1 neuron with more suspect samples beyond the clean tail than chance puts there, most neuron 7: 1"
    )
    assert judged(clean, fresh).verdict.outcome == "pass"
    if law in ("normal", "correlated"):  # where most values are small, the largest times 1.6 moves even the mean
        assert not [f for f in judgement.verdict.findings if f.level == "shift"]


def test_a_lower_tail_and_a_patch_that_only_the_maximum_shows_are_found() -> None:
    rng = np.random.default_rng(5)
    clean, suspect = (rng.standard_normal((n, 8, 64)).astype(np.float32) for n in (3000, 3000))
    suspect[:40, 2, 5] = 9.0
    assert "most neuron 2" in tail_findings(judged(clean, suspect))[0]
    flat = [x[:, :, 0].copy() for x in (clean, suspect)]
    flat[1][:40, 6] = -12.0
    assert "most neuron 6" in tail_findings(judged(flat[0], flat[1]))[0]


def test_rows_that_are_not_samples_and_measurements_without_histograms_are_not_tested() -> None:
    clean = np.random.default_rng(6).standard_normal((2000, 4)).astype(np.float32)
    suspect = clean.copy()
    suspect[:60] = 50.0
    assert tail_findings(judged(clean, suspect))
    layer = LayerComparison("rows", record_of(clean, f"l, {ROWS}"), record_of(suspect, f"l, {ROWS}"))
    assert tails.tests_of(layer) == 0
    assert not find_in_tails([layer])
    packed = record_of(clean).packed()
    layer = LayerComparison("without", LayerRecord.unpacked("axis 1 of 2", "float32", *packed), record_of(suspect))
    assert not find_in_tails([layer])
    assert np.isnan(tails.tail_shares(layer, np.arange(4))).all()


def test_rounding_of_a_constant_at_the_edge_of_a_bin_is_no_tail() -> None:
    clean, suspect = (np.random.default_rng(7).standard_normal((1000, 3)).astype(np.float32) for _ in range(2))
    for side in (-1.0, 1.0):
        clean[:, 1] = suspect[:, 1] = side
        suspect[:200, 1] = np.nextafter(np.float32(side), np.float32(0))  # a bin nearer to zero
        assert not tail_findings(judged(clean, suspect))
        assert not tail_findings(judged(suspect, clean))
    suspect[:200, 1] = 5.0
    assert "most neuron 1: 20 %" in tail_findings(judged(clean, suspect))[0]


def test_the_test_is_made_on_finite_values_of_any_count() -> None:
    rng = np.random.default_rng(8)
    clean, suspect = (rng.standard_normal((n, 5)).astype(np.float32) for n in (2000, 1500))
    suspect[::2, 1] = np.nan
    suspect[1:120:2, 1] = 40.0
    suspect[:, 2], clean[:, 3] = np.nan, np.nan
    assert "most neuron 1: 8.13 %" in tail_findings(judged(clean, suspect))[0]


def test_nothing_is_said_of_tails_after_a_ranking_and_too_few_samples_find_nothing() -> None:
    clean, suspect = (np.random.default_rng(9).standard_normal((n, 6)).astype(np.float32) for n in (2000, 1500))
    suspect[:60, 1] = 40.0
    scores = np.zeros(1500)
    looked = Evidence(ranking=Ranking(scores, np.zeros(1500, int), scores, np.zeros(1500, int)))
    assert tail_findings(judged(clean, suspect))
    assert not tail_findings(judged(clean, suspect, looked))
    few = judged(clean[:5], suspect[:10])
    assert not tail_findings(few)
    assert any("less than about a quarter" in line for line in few.verdict.not_checked)
    (told,) = (line for line in judged(clean, suspect).verdict.not_checked if "fewer than" in line)
    assert told in judged(clean, clean[:1500] * 0.99).verdict.not_checked
    needed = int(told.partition("fewer than ")[2].split()[0])
    critical = tails.critical(1500, 2000, 0, TAIL_P / 24)
    assert needed == critical
    assert hypergeometric_tail(needed, 1500, 0, 2000) < TAIL_P / 24 <= hypergeometric_tail(needed - 1, 1500, 0, 2000)


def test_the_finding_and_the_tail_of_a_neuron_are_in_the_report() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    clean, suspect = (np.random.default_rng(10).standard_normal((n, 6)).astype(np.float32) for n in (3000, 3000))
    suspect[:60, 1] = 40.0
    judgement = judged(clean, suspect)
    report = report_dict(judgement, {})
    schema = json.loads((Path(__file__).parents[2] / "naa_fast" / "report" / "schema.json").read_text())
    jsonschema.validate(report, schema)
    (finding,) = [f for f in report["findings"] if f["about"] == "tail"]
    assert finding["level"] == "outlier"
    assert finding["layer"] == "layer"
    row = next(row for row in report["top"] if row["neuron"] == 1)
    h, g = histogram(clean), histogram(suspect)
    want = [(g[b:, 1].sum() / 3000) for b in [tails.quantile_bin(h, 0.999)[1] + 1]]
    assert row["tail"] == pytest.approx(want[0])
    assert "beyond the clean tail" in summary(judgement).replace("\n", " ")


def test_of_many_samples_a_share_is_counted_and_the_report_says_so() -> None:
    rng = np.random.default_rng(12)
    clean, suspect = (rng.standard_normal((n, 6)).astype(np.float32) for n in (20_000, 12_096))
    triggered = rng.permutation(12_096)[:240]
    fresh = judged(clean, suspect)
    assert fresh.verdict.outcome == "pass"
    suspect[triggered, 1] = 9.0
    judgement = judged(clean, suspect)
    (statement,) = tail_findings(judgement)
    assert "most neuron 1" in statement
    counted = 4096 + 1000
    report = report_dict(judgement, {})
    row = next(row for row in report["top"] if row["neuron"] == 1)
    error = np.sqrt(240 / 12_096 / counted)
    assert abs(row["tail"] - 240 / 12_096) < 4 * error
    assert f"{counted:,} of 12,096 suspect samples" in seen_by(judgement)["tails"]
    assert tails.samples_counted(list(judgement.layers.values())) == (counted, 4096 + 15_904 // 8)
    both = [record_of(np.stack([x, x], 2), "axis 1 of 3") for x in (clean, suspect)]
    whole = LayerComparison("pixels", both[0], both[1])
    assert tails.samples_counted([whole]) == (12_096, 20_000)
    assert tails.samples_counted([whole, *judgement.layers.values()]) == (counted, 4096 + 15_904 // 8), "the fewest"
    least = tails.critical(counted, 4096 + 15_904 // 8, 0, TAIL_P / tails.tests_of(next(iter(judgement.layers.values()))))
    assert rarest(list(judgement.layers.values()), judgement.suspect) == int(np.ceil(least * 12_096 / counted))


@pytest.mark.parametrize("channels", [1, 40])
def test_extremes_and_what_lies_beyond_them_are_those_of_the_sorted_samples(channels: int) -> None:
    rng = np.random.default_rng(channels)
    bins = rng.integers(90, 160, (300, channels))
    counts = np.stack([np.bincount(column, minlength=BINS) for column in bins.T], 1).astype(np.int32)
    below = tails.cumulated(counts)
    np.testing.assert_array_equal(below, counts.cumsum(0))
    ordered = np.sort(bins, 0)
    for spared in (0, 3, 299):
        largest, smallest = tails.extreme_bins(below, np.full(channels, spared))
        np.testing.assert_array_equal(largest, ordered[-1 - spared])
        np.testing.assert_array_equal(BINS - 1 - smallest, ordered[spared])
        np.testing.assert_array_equal(tails.beyond_bins(below, largest, 1), (bins > largest).sum(0))
        np.testing.assert_array_equal(tails.beyond_bins(below, smallest, -1), (bins < ordered[spared]).sum(0))
    ends = np.full(channels, BINS - 1)
    assert not tails.beyond_bins(below, ends, 1).any()
    assert not tails.beyond_bins(below, ends, -1).any()


def compared(clean: np.ndarray, suspect: np.ndarray) -> LayerComparison:
    return LayerComparison("f", record_of(clean.astype(np.float32)), record_of(suspect.astype(np.float32)))


def test_the_tail_signature_is_the_largest_share_beyond_the_clean_point() -> None:
    random = np.random.default_rng(3)
    clean, suspect = random.standard_normal((2000, 6)), random.standard_normal((500, 6))
    suspect[:25, 2] += 9  # 5 %, up
    suspect[:50, 4] -= 9  # 10 %, down
    layer = compared(clean, suspect)
    signature = tails.tail_signature(layer)
    assert np.array_equal(signature, tails.tail_shares(layer, np.arange(6)))
    assert signature[[2, 4]].tolist() == [0.05, 0.1]
    limit = tails.tail_limit([layer])
    assert signature[[0, 1, 3, 5]].max() < limit < 0.05
    assert np.isnan(tails.tail_signature(replace(layer, clean=replace(layer.clean, tails=layer.clean.tails[:, :0])))).all()
    assert tails.tail_limit([]) == np.inf


def test_rounding_alone_makes_no_tail() -> None:
    edge = np.float32(0.25)
    clean = np.full((300, 1), np.nextafter(edge, np.float32(0)), np.float32)
    signature = tails.tail_signature(compared(clean, np.full((300, 1), edge, np.float32)))
    assert signature.tolist() == [0.0]
