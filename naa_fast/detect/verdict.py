"""The rules that turn numbers into findings, and findings into one outcome.

Fail closed: a check that did not run keeps the outcome from being "pass", and so does whatever was skipped, could not be
compared or was too small to calibrate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naa_fast.detect.accuracy import unread
from naa_fast.detect.checks import ACCEPTABLE, Check, missing_lines
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.coverage import UNSEEN, checks_of, coverage_gaps, left_out, never_seen, observed, rarest, unread_layers
from naa_fast.detect.detectors import DETECTORS
from naa_fast.detect.enrichment import TAIL_P
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import (
    Finding,
    concentration,
    explained,
    largest_finite,
    largest_t,
)
from naa_fast.detect.null import CleanNull
from naa_fast.detect.sentences import describe, describe_cluster, describe_proof
from naa_fast.detect.sets import Sets
from naa_fast.errors import EXIT_FINDING, EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_WARN
from naa_fast.measurement import Measurement

OUTCOMES = ("pass", "warn", "fail", "inconclusive")
EXIT_CODES = {"pass": EXIT_PASS, "warn": EXIT_WARN, "fail": EXIT_FINDING, "inconclusive": EXIT_INCONCLUSIVE}

OUTLIER_Z = 2.0
"""Below this a significant difference is a shift of the data, not a neuron that stands out: at two standard deviations two normal
samples of one neuron overlap by less than a third."""


@dataclass(frozen=True)
class Verdict:
    """`outcome` (one of OUTCOMES), the model-level `score` (see `backdoor_score`), the largest standardised difference `z` of any
    neuron, the probability `p_value` that a clean set differs this much, a `sentence` for a person, the findings, and what this
    verdict does not cover.

    It rests on `checks`: those that did not run are among the `gaps`, which keep it from being a pass, but for those `accepted`
    by name.
    """

    outcome: str
    score: float
    z: float
    p_value: float
    sentence: str
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]
    gaps: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    accepted: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """What a command ends with where nothing else is asked for: of a warn with a gap that of "inconclusive"."""
        return EXIT_CODES["inconclusive" if self.outcome == "warn" and self.gaps else self.outcome]


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
    accept_unranked: bool = False,
) -> Verdict:
    """Apply the rules. `given_threshold`: the abnormal neurons come from the user's threshold, not from the null;
    `accept_unranked`: a pass may do without the checks of ACCEPTABLE.
    """
    sets = Sets(clean, suspect, layers, null, given_threshold, evidence)
    findings = [finding for detector in DETECTORS for finding in detector(sets)]
    checks = checks_of(layers, null, clean, suspect, evidence)
    missing = [check for check in checks if not check.ran]
    waived = [check for check in missing if accept_unranked and check.name in ACCEPTABLE]
    accepted = tuple(check.name for check in waived)
    levels = {finding.level for finding in findings}
    calibrated = not any(check.name == "shift" for check in missing)
    gaps = [
        *missing_lines([check for check in missing if check.name == "shift"]),
        *coverage_gaps(layers, null, clean, suspect),
        *missing_lines([check for check in missing if check.name != "shift" and check not in waived]),
        *evidence.gaps,
    ]
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
    shifted = "shift" in levels
    sentence = (
        describe_proof(evidence) or describe_cluster(evidence) or describe(outcome, layers, gaps, z, shifted, accepted, findings)
    )
    unseen = (
        UNSEEN,
        *gaps,
        *missing_lines(waived),
        *left_out("clean", clean),
        *unread(clean, suspect),
        *unread_layers(clean, suspect),
        *evidence.notes,
        *never_seen(evidence, rarest(layers, suspect)),
    )
    return Verdict(outcome, score, z, p_value, sentence, tuple(findings), unseen, tuple(gaps), checks, accepted)


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
    if evidence.ranking is not None and evidence.ranking.p_value < TAIL_P * evidence.share:
        gathered = 0.5 * evidence.ranking.concentration[1]
    cluster = evidence.cluster.strength if evidence.cluster is not None else 0.0
    strength = max(margin, rise, gathered, cluster, 0.0) + 0.1 * z / (z + 3.0)
    return 0.5 * fails + 0.5 * min(strength, 1.0)
