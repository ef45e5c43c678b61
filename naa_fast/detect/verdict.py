"""The rules that turn numbers into findings, and findings into one outcome.

Fail closed: whatever was skipped, could not be compared or was too small to calibrate keeps the outcome from being "pass".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naa_fast.detect.accuracy import unread
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.crowd import TAIL_P
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import (
    ROOT,
    Finding,
    concentration,
    count,
    explained,
    find,
    find_in_samples,
    find_in_tails,
    largest_finite,
    largest_t,
    plain,
)
from naa_fast.detect.null import MIN_FOLD, MIN_FOLDS, CleanNull
from naa_fast.detect.proof import ALL_TO_ALL
from naa_fast.detect.tails import critical, tests_of
from naa_fast.errors import EXIT_FINDING, EXIT_INCONCLUSIVE, EXIT_PASS
from naa_fast.measurement import Measurement
from naa_fast.records import FOLD_BLOCK, FOLDS, ROWS

OUTCOMES = ("pass", "warn", "fail", "inconclusive")
EXIT_CODES = {"pass": EXIT_PASS, "warn": EXIT_FINDING, "fail": EXIT_FINDING, "inconclusive": EXIT_INCONCLUSIVE}

OUTLIER_Z = 2.0
"""Below this a significant difference is a shift of the data, not a neuron that stands out: at two standard deviations two normal
samples of one neuron overlap by less than a third."""
MIN_SUSPECT = 16

RARE_TRIGGERS = "triggers carried by less than about a quarter of the suspect samples: a mean over the set hides them"
UNPROVABLE = "triggers without a pattern in the input (warps, styles): they rank samples, but are not proved"
NOT_CHECKED = (
    "whether a harmless change of the data (other camera, other writers) would do the same: only you know how the sets were made",
    "whether samples are independent: frames of a video or bursts of photographs make chance look smaller than it is",
    "layers that were not selected",
)


@dataclass(frozen=True)
class Verdict:
    """`outcome` (one of OUTCOMES), the model-level `score` (see `backdoor_score`), the largest standardised difference `z` of any
    neuron, the probability `p_value` that a clean set differs this much, a `sentence` for a person, the findings, and what this
    verdict does not cover, among it the `gaps` that keep it from being a pass.
    """

    outcome: str
    score: float
    z: float
    p_value: float
    sentence: str
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]
    gaps: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


def abnormal_limit(null: CleanNull, clean: Measurement, suspect: Measurement) -> float:
    """z above which a neuron is called abnormal when the user gave no threshold: beyond chance, and beyond OUTLIER_Z."""
    return max(OUTLIER_Z, null.limit * float(np.sqrt(1 / max(observed(clean), 1) + 1 / max(observed(suspect), 1))))


def judge_outcome(
    layers: Sequence[LayerComparison],
    null: CleanNull,
    clean: Measurement,
    suspect: Measurement,
    given_threshold: bool,
    evidence: Evidence,
) -> Verdict:
    """Apply the rules. `given_threshold`: the abnormal neurons come from the user's threshold, not from the null."""
    findings = [
        *find_in_samples(evidence),
        *find(layers, null, concentration(clean, suspect), given_threshold, evidence),
        *(find_in_tails(layers) if evidence.ranking is None else ()),  # a second look sees more of every sample
    ]
    gaps = [*coverage_gaps(layers, null, clean, suspect), *evidence.gaps]
    levels = {finding.level for finding in findings}
    calibrated = null.usable and observed(suspect) >= MIN_SUSPECT
    if "proved" in levels or ("backdoor-like" in levels and calibrated):
        outcome = "fail"
    elif levels and calibrated:
        outcome = "warn"
    elif gaps:
        outcome = "inconclusive"
    else:
        outcome = "pass"
    z = max((largest_finite(layer.z) for layer in layers), default=0.0)
    risen = concentration(clean, suspect)
    rise = risen[1] if risen is not None and "shift" in levels and not explained(risen, evidence) else 0.0
    score = backdoor_score(z, rise, evidence, outcome == "fail")
    p_value = null.p_value(max((largest_t(layer) for layer in layers), default=-np.inf))
    sentence = describe_proof(evidence) or describe_crowd(evidence) or describe(outcome, layers, gaps, z, "shift" in levels)
    silent = [note for m in (clean, suspect) for note in m.provenance.get("notes", ()) if "never fired" in note]
    partial = [left_out(name, m) for name, m in (("clean", clean), ("suspect", suspect)) if m.missing()]
    unseen = (
        *gaps,
        *partial,
        *unread(clean, suspect),
        *dict.fromkeys(silent),
        *evidence.notes,
        *not_checked(evidence, rarest(layers, clean, suspect)),
    )
    return Verdict(outcome, score, z, p_value, sentence, tuple(findings), unseen, tuple(gaps))


def left_out(name: str, measurement: Measurement) -> str:
    """Which shards of a set were not measured, in words."""
    missing = measurement.missing()
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"the {name} set is partial: {', '.join(map(str, missing[:3]))}{more} not in the measurement"


def backdoor_score(z: float, rise: float, evidence: Evidence, fails: bool) -> float:
    """How much like a backdoor it looks, comparable across models: 0 for like sets, from .5 on what makes a verdict `fail`, 1 for
    a proof without exception.

    Half of the largest of: the margin of the best proof over its control, standing or not; the `rise` in the share of one
    predicted class; half the concentration of predictions among the highest-ranked samples, where more lie outside than by
    chance; how nearly those are samples of many classes turned to one. A shift adds a twentieth at most: it says that the sets
    differ, not that the model is backdoored.
    """
    margin = max((proof.margin for proof in evidence.proof if proof.source is None or proof.stands), default=0.0)
    gathered = 0.0
    if evidence.ranking is not None and evidence.ranking.p_value < TAIL_P:
        gathered = 0.5 * evidence.ranking.concentration[1]
    crowd = evidence.crowd.strength if evidence.crowd is not None else 0.0
    strength = max(margin, rise, gathered, crowd, 0.0) + 0.1 * z / (z + 3.0)
    return 0.5 * fails + 0.5 * min(strength, 1.0)


def observed(measurement: Measurement) -> int:
    """Samples that some layer really observed: what a mask leaves out is no evidence."""
    seen = [int((r.sample_mean.count + r.sample_mean.nonfinite).max(initial=0)) for r in measurement.layers.values()]
    return min([measurement.samples, *seen])


def coverage_gaps(layers: Sequence[LayerComparison], null: CleanNull, clean: Measurement, suspect: Measurement) -> list[str]:
    """Why a pass would not be honest."""
    gaps = []
    if not null.usable:
        needed = (MIN_FOLDS - 1) * FOLD_BLOCK + MIN_FOLD
        gaps.append(
            f"calibration: {observed(clean)} clean samples do not fill {MIN_FOLDS} of {FOLDS} folds "
            f"(at least {needed} are needed, several hundred are better), or no neuron varies"
        )
    if null.wild:
        gaps.append("the clean set differs from itself: it is sorted, or neighbouring samples resemble each other; shuffle it")
    if observed(suspect) < MIN_SUSPECT:
        gaps.append(f"only {observed(suspect)} suspect samples (at least {MIN_SUSPECT} are needed)")
    for name, measurement in (("clean", clean), ("suspect", suspect)):
        if measurement.skipped:
            gaps.append(f"{measurement.skipped} {name} samples could not be read and were skipped")
    contents = [{shard.digest.partition("@")[0] for shard in m.shards if shard.digest} for m in (clean, suspect)]
    if contents[0] & contents[1]:
        gaps.append("the clean and the suspect set are the same data: nothing was compared")
    for layer in layers:
        for name, record in (("clean", layer.clean), ("suspect", layer.suspect)):
            broken = int(((record.positions.nonfinite > 0) & (record.positions.count > 0)).sum())
            if broken:
                gaps.append(f"{layer.name or ROOT}: {count(broken)} NaN or infinite on some {name} samples")
        if layer.clean.layout.endswith(ROWS):
            gaps.append(f"{layer.name or ROOT}: its rows cannot be told apart by sample, so chance cannot be calibrated on it")
        if len(layer.unknown):
            gaps.append(f"{layer.name or ROOT}: {count(len(layer.unknown))} without a finite value to compare")
    return gaps


def rarest(layers: Sequence[LayerComparison], clean: Measurement, suspect: Measurement) -> int:
    """How many suspect samples have to lie beyond all clean ones for a neuron's tail to be a finding; 0: more than there are."""
    tests, drawn = sum(tests_of(layer) for layer in layers), observed(suspect)
    needed = critical(drawn, observed(clean), 0, TAIL_P / tests) if tests else drawn + 1
    return needed if needed <= drawn else 0


def not_checked(evidence: Evidence, rarest: int) -> tuple[str, ...]:
    """`rarest`: see there."""
    if evidence.ranking is None and rarest:
        seen = f"triggers carried by fewer than {rarest} suspect samples, or that put no single neuron beyond its clean tail: "
        return (seen + "chance does as much", *NOT_CHECKED)
    if evidence.ranking is None:
        return (RARE_TRIGGERS, *NOT_CHECKED)
    return NOT_CHECKED if any(proof.stands for proof in evidence.proof) else (UNPROVABLE, *NOT_CHECKED)


def describe_proof(evidence: Evidence) -> str:
    """The proof in one sentence, empty without one."""
    proof = next((proof for proof in evidence.proof if proof.stands), None)
    if proof is None:
        return ""
    whose = "other classes" if proof.source is None else f"class {proof.source}"
    where = "classes to one another" if proof.target == ALL_TO_ALL else f"{whose} to class {proof.target}"
    trigger = f"the words {plain(proof.words)!r}" if proof.words else "a trigger"
    known = ", and clean samples of that class hold the like" if proof.own and not proof.tokens else ""
    return (
        f"Backdoor proved: {trigger} that suspect samples share turns {100 * proof.rate:.0f} % of clean samples of {where}; "
        f"what clean samples share turns {100 * proof.control:.0f} %{known}."
    )


def describe_crowd(evidence: Evidence) -> str:
    """Samples that were turned to one class in one sentence, empty without them."""
    crowd = evidence.turned
    if crowd is None:
        return ""
    return (
        f"Backdoor-like: {crowd.extra:.0f} suspect samples more than by chance lie outside what clean samples of class "
        f"{crowd.target} do and are called it, but {100 * crowd.elsewhere:.0f} % of them resemble clean samples of other classes."
    )


def describe(outcome: str, layers: Sequence[LayerComparison], gaps: Sequence[str], score: float, shifted: bool) -> str:
    """The verdict in one sentence. `shifted`: some layer differs by more than chance."""
    strongest = max(layers, key=lambda layer: largest_finite(layer.z), default=None)
    where = plain(strongest.name or ROOT) if strongest is not None else "no layer"
    abnormal = count(sum(len(layer.abnormal) for layer in layers))
    if outcome == "fail":
        return (
            f"Backdoor-like: the suspect samples drive neurons up to {score:.1f} standard deviations from their clean mean, "
            f"most in {where}; abnormal: {abnormal}."
        )
    if outcome == "warn":
        if not shifted:
            return f"The sets differ by no more than chance, but there are findings (abnormal: {abnormal}); see them one by one."
        return (
            f"The sets differ by more than chance (up to {score:.2f} standard deviations, most in {where}; abnormal: "
            f"{abnormal}), which a harmless change of the data can do as well as a trigger."
        )
    if outcome == "pass":
        return "No neuron differs by more than the clean set differs from itself; see what was not checked before you rely on it."
    more = f"; and {len(gaps) - 3} more gaps" if len(gaps) > 3 else ""
    return "No answer: " + "; ".join(gaps[:3]) + more + "."
