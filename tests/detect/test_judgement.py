"""The rules, one by one, and the words of every refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detect.test_null import measured

import naa_fast
from naa_fast.detect.judgement import judge
from naa_fast.detect.verdict import Verdict
from naa_fast.errors import InputError, StateMismatch, UsageError
from naa_fast.measurement import Measurement, Shard

RNG = np.random.default_rng(1)
CLEAN = RNG.standard_normal((500, 40)).astype(np.float32)


def verdict_of(suspect: np.ndarray, clean: np.ndarray = CLEAN, **options: float) -> Verdict:
    """What the rules on means and tails say alone."""
    sets = measured(clean, "c"), measured(suspect.astype(np.float32), "s")
    return judge(*sets, accept_unranked=True, **options).verdict  # type: ignore[arg-type]


def fresh(n: int = 300) -> np.ndarray:
    return RNG.standard_normal((n, 40)).astype(np.float32)


def with_predictions(measurement: Measurement, *counts: int) -> Measurement:
    m = measurement
    return Measurement(m.layers, m.model, m.input_dtype, m.shards, m.provenance, np.array([*counts, 0]))


@pytest.mark.parametrize("seed", range(100))
def test_the_classic_example_finds_exactly_the_raised_neurons(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clean, suspect = (0.5 * rng.standard_normal((n, 512)) + 2 for n in (500, 100))
    suspect[:, 10:20] += 9
    difference, abnormal = naa_fast.detect(clean, suspect, threshold=2.0)
    assert abnormal.tolist() == list(range(10, 20))
    assert abnormal.dtype == np.int64
    assert difference.dtype == np.float64
    assert difference.shape == (512,)
    assert np.allclose(difference, np.abs(suspect.mean(0) - clean.mean(0)), rtol=1e-12, atol=1e-12)


def test_the_classic_rule_reads_tensors_and_skips_what_is_not_finite() -> None:
    clean, suspect = torch.zeros(4, 3, dtype=torch.bfloat16), torch.ones(4, 3, dtype=torch.bfloat16) * 5
    suspect[1, 0], clean[:, 2] = float("nan"), float("inf")
    difference, abnormal = naa_fast.detect(clean, suspect)
    assert difference[:2].tolist() == [5.0, 5.0]
    assert np.isnan(difference[2])
    assert abnormal.tolist() == [0, 1]


def test_tensors_on_a_device_go_through_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from naa_fast.detect import arrays
    from naa_fast.ops import Choice

    monkeypatch.setattr(arrays, "is_elsewhere", lambda x: True)
    monkeypatch.setattr(arrays, "choose", lambda op, x: Choice(op, "portable", {}))
    monkeypatch.setattr(arrays, "DEVICE_ROWS", 100)
    shifted = fresh()
    shifted[:, 4] += 5
    clean = CLEAN.copy()
    clean[:, 6], clean[3, 7] = np.nan, np.inf
    difference, abnormal = naa_fast.detect(torch.from_numpy(clean), torch.from_numpy(shifted))
    assert abnormal.tolist() == [4]
    finite = np.where(np.isfinite(clean), clean.astype(np.float64), np.nan)
    finite[:, 6] = 0
    expected = np.abs(shifted.astype(np.float64).mean(0) - np.nanmean(finite, 0))
    expected[6] = np.nan
    assert np.allclose(difference, expected, rtol=1e-6, atol=1e-7, equal_nan=True)
    with pytest.raises(InputError, match="clean is on cpu, test on meta"):
        naa_fast.detect(torch.from_numpy(clean), torch.from_numpy(shifted).to("meta"))


@pytest.mark.parametrize(
    ("clean", "test", "words"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), "clean has 2 neurons, test has 4"),
        (np.zeros((3, 2)), np.zeros((3, 2), np.float32), "clean is float64, test is float32"),
        (np.zeros((1, 2)), np.zeros((3, 2)), "clean has 1 samples\n  expected at least 2"),
        (np.zeros((0, 2)), np.zeros((3, 2)), "clean has 0 samples"),
        (np.zeros((3, 2)), np.zeros((3, 2, 1)), r"test has shape \[3, 2, 1\]\n  expected \[samples, neurons\]"),
        (np.zeros((3, 2), int), np.zeros((3, 2)), "clean is int64\n  expected activations of a floating dtype"),
        ([[1.0], [1.0, 2.0]], np.zeros((3, 2)), "clean is ragged"),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(clean: object, test: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        naa_fast.detect(clean, test)


def test_bad_options_are_refused() -> None:
    with pytest.raises(UsageError, match=r"threshold is -1\.0"):
        naa_fast.detect(CLEAN, CLEAN, threshold=-1.0)
    with pytest.raises(UsageError, match="threshold is nan"):
        verdict_of(fresh(), threshold=float("nan"))
    with pytest.raises(UsageError, match="top_k is 0"):
        verdict_of(fresh(), top_k=0)


def test_fresh_clean_data_pass() -> None:
    verdict = verdict_of(fresh())
    assert (verdict.outcome, verdict.exit_code, verdict.findings) == ("pass", 0, ())
    assert verdict.not_checked


def test_a_moderate_shift_warns_and_an_overwhelming_one_fails() -> None:
    shifted = fresh()
    shifted[:, 5] += 2.7
    judgement = judge(measured(CLEAN, "c"), measured(shifted, "s"), accept_unranked=True)
    assert (judgement.verdict.outcome, judgement.verdict.exit_code) == ("warn", 6)
    assert {finding.level for finding in judgement.verdict.findings} == {"shift", "outlier"}
    assert judgement.layers["layer"].abnormal.tolist() == [5]
    assert judgement.top(1)[0].neuron == 5
    shifted[:, 5] += 5.3
    verdict = verdict_of(shifted)
    assert (verdict.outcome, verdict.exit_code) == ("fail", 1)
    assert verdict.z == pytest.approx(8, rel=0.1)


def test_class_predictions_tell_a_backdoor_from_a_shift() -> None:
    shifted = fresh()
    shifted[:, 5] += 4
    clean, suspect = measured(CLEAN, "c"), measured(shifted, "s")
    spread = judge(with_predictions(clean, 250, 250), with_predictions(suspect, 180, 120)).verdict
    assert spread.outcome == "warn"
    gathered = judge(with_predictions(clean, 250, 250), with_predictions(suspect, 0, 300)).verdict
    assert gathered.outcome == "fail"
    assert any("class 1 is predicted for 50 points more" in finding.statement for finding in gathered.findings)


def test_a_threshold_of_the_user_is_on_the_difference_itself() -> None:
    shifted = fresh()
    shifted[:, 3] += 0.5
    judgement = judge(measured(CLEAN, "c"), measured(shifted, "s"), threshold=0.3)
    assert judgement.limit_on == "difference"
    assert judgement.layers["layer"].abnormal.tolist() == [3]
    assert judgement.verdict.outcome == "warn"


@pytest.mark.parametrize(
    ("clean", "suspect", "words"),
    [
        (CLEAN[:20], CLEAN[:300] + 0.0, "20 clean samples do not fill"),
        (CLEAN, CLEAN[:9] + 0.0, "only 9 suspect samples"),
        (
            np.where(np.arange(40) == 3, np.nan, CLEAN),
            np.where(np.arange(40) == 3, np.nan, CLEAN[:300]),
            "layer: 1 neuron without",
        ),
        (np.full((300, 4), np.nan), np.full((300, 4), np.inf), "layer: 4 neurons without a finite value"),
    ],
)
def test_what_cannot_be_known_is_never_a_pass(clean: np.ndarray, suspect: np.ndarray, words: str) -> None:
    verdict = verdict_of(suspect, clean)
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 3)
    assert words in verdict.sentence


def test_skipped_samples_are_never_a_pass() -> None:
    suspect = measured(fresh(), "s")
    partial = Measurement(suspect.layers, "m", "float32", (Shard("s", 300, 2),))
    verdict = judge(measured(CLEAN, "c"), partial, accept_unranked=True).verdict
    assert verdict.outcome == "inconclusive"
    assert "2 suspect samples could not be read" in verdict.sentence


def test_infinities_on_suspect_samples_alone_are_a_finding() -> None:
    broken = fresh()
    broken[4, 9] = np.inf
    verdict = verdict_of(broken)
    assert verdict.outcome == "warn"
    assert "differ by no more than chance, but there are findings" in verdict.sentence
    assert any("1 neuron NaN or infinite on suspect samples only" in finding.statement for finding in verdict.findings)


def test_sets_that_do_not_belong_together_are_refused() -> None:
    clean, suspect = measured(CLEAN, "c"), measured(fresh(), "s")
    with pytest.raises(StateMismatch, match="model: m / n"):
        judge(clean, Measurement(suspect.layers, "n", "float32", suspect.shards))
    with pytest.raises(StateMismatch, match=r"input dtype: float32 / float64\n  convert one set"):
        judge(clean, Measurement(suspect.layers, "m", "float64", suspect.shards))
    with pytest.raises(StateMismatch, match=r"layer layer differs\n  channels: 40 / 39"):
        judge(clean, measured(fresh()[:, :39], "s"))
    with pytest.raises(InputError, match="the suspect set has 1 sample\n  expected at least 2"):
        judge(clean, measured(fresh(1), "s"))
    nothing = [Measurement({}, "m", "float32", (Shard(d, 100),)) for d in "cs"]
    with pytest.raises(StateMismatch, match="hold no layer"):
        judge(nothing[0], nothing[1])


def test_neurons_constant_in_both_sets_are_not_abnormal() -> None:
    clean, suspect = CLEAN.copy(), fresh()
    clean[:, 0] = suspect[:, 0] = 1e4
    clean[:, 1] = 1e4
    suspect[:, 1] = np.nextafter(np.float32(1e4), np.float32(2e4))  # the last bit
    verdict = verdict_of(suspect, clean)
    assert verdict.outcome == "pass"


def test_a_value_whose_square_leaves_float64_is_not_a_pass() -> None:
    clean, suspect = (x.astype(np.float64) for x in (CLEAN, fresh()))
    suspect[:, 2] *= 1e300
    with np.errstate(over="ignore", invalid="ignore"):
        judgement = judge(measured(clean, "c"), measured(suspect, "s"))
    assert judgement.verdict.outcome == "inconclusive"
    assert judgement.layers["layer"].unknown.tolist() == [2]


def test_a_layer_that_cannot_be_compared_is_no_evidence_and_shows_no_mean() -> None:
    broken = np.full((300, 40), np.nan, np.float32)
    judgement = judge(measured(CLEAN, "c"), measured(broken, "s"))
    assert judgement.verdict.p_value == 1.0
    assert judgement.verdict.outcome == "warn"
    assert np.isnan(judgement.top(1)[0].suspect_mean)


def test_the_same_data_twice_is_never_a_pass() -> None:
    same = measured(CLEAN, "c")
    verdict = judge(same, measured(CLEAN, "c"), accept_unranked=True).verdict
    assert verdict.outcome == "inconclusive"
    assert "the clean and the suspect set are the same data" in verdict.sentence


def test_a_nan_among_the_clean_samples_is_never_a_pass() -> None:
    clean = CLEAN.copy()
    clean[7, 3] = np.nan
    verdict = verdict_of(fresh(), clean)
    assert verdict.outcome == "inconclusive"
    assert "1 neuron NaN or infinite on some clean samples" in verdict.sentence


def test_a_threshold_that_everything_exceeds_does_not_claim_more_than_chance() -> None:
    verdict = verdict_of(fresh(), threshold=0.0)
    assert verdict.outcome == "warn"
    assert "no more than chance" in verdict.sentence


def test_layers_nobody_called_are_named_as_not_checked() -> None:
    clean, suspect = measured(CLEAN, "c"), measured(fresh(), "s")
    note = "1 default layers never fired and are not in the result: spare"
    noted = Measurement(clean.layers, clean.model, clean.input_dtype, clean.shards, {"notes": (note,)})
    assert note in judge(noted, suspect).verdict.not_checked


def test_a_hostile_layer_name_reaches_the_sentence_without_control_characters() -> None:
    shifted = fresh()
    shifted[:, 5] += 9
    clean, suspect = measured(CLEAN, "c"), measured(shifted, "s")
    sets = [Measurement({"a\x1b[2J\u202e": m.layers["layer"]}, "m", "float32", m.shards) for m in (clean, suspect)]
    assert r"most in a\x1b[2J\u202e" in judge(sets[0], sets[1]).verdict.sentence
