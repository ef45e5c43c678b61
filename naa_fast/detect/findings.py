"""Findings: every number that exceeds its limit, as a statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from naa_fast.detect import directions
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.directions import Direction
from naa_fast.detect.enrichment import PURE, TAIL_P
from naa_fast.detect.evidence import HARMLESS, TAIL, Evidence, RankedSample
from naa_fast.detect.null import CleanNull, t_statistic
from naa_fast.detect.proof import ALL_TO_ALL, Proof
from naa_fast.detect.rises import Rise
from naa_fast.detect.tails import BEYOND, exceeding, tests_of
from naa_fast.detect.trigger import TriggerKey
from naa_fast.measurement import Measurement

NONE = Evidence()
NAMED = 3
"""Samples a finding names."""
LEVELS = ("shift", "outlier", "backdoor-like", "proved")
Unit = Literal["share", "sigma", "t", "number"]
"""What a finding's number and its limit are: a share of samples or neurons, told in percent; standard deviations; a t statistic;
a count, a ratio, or what is in a layer's own units, told as it is."""
ROOT = "the whole model"
INPUT, SAMPLES, PREDICTIONS = "(input)", "(samples)", "(predictions)"
"""What stands in a layer's place."""
BACKDOOR_Z = 3.0
"""Of 32 backdoored models with every suspect sample triggered the largest z was 3.4 to 18.6; benign shifts stayed below 3 in
96 % of cases (28 small models of six kinds on real data)."""
CERTAIN_Z = 6.0
"""What a shift needs where the model gives no class scores and it has to speak for itself. No certainty: of brighter images an
early neuron that black borders keep constant moved by 45."""
GATHERED = 0.8
"""Concentration of the highest-ranked samples on one predicted class that is a finding. Fresh clean sets of half of the study
stayed below .55; backdoors with one target came to .8 and more with 1 % triggered."""
CONCENTRATION = 0.5
"""Rise in the share of one predicted class. Of the same models it was .86 (median) on backdoors with one target, at most .34 on
clean models shown another model's trigger, .19 on class imbalance, .05 on clean sets."""


@dataclass(frozen=True)
class Finding:
    """One piece of evidence: its level, where it was seen, the number against its limit and the `unit` of both, what it is
    `about`, and of a proof the `trigger`, and the one class it turns, `source` (None for all others than the target).

    `about` is the class, "all-to-all", or a word that tells it from other findings of its level in the same layer ("tail").

    Raises:
        ValueError: a unit that is none of Unit.
    """

    level: str
    layer: str
    statement: str
    value: float
    limit: float
    about: str = ""
    trigger: TriggerKey | None = None
    source: int | None = None
    unit: Unit = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit {self.unit!r} of a finding; expected one of {', '.join(get_args(Unit))}")

    @property
    def target(self) -> str:
        """The class it is about, "all-to-all", or empty for none."""
        return self.about if self.about.isdecimal() or self.about == ALL_TO_ALL else ""


def largest_t(layer: LayerComparison) -> float:
    """Largest |t| of a layer over its neurons and both views; -inf if nothing could be compared."""
    t = [
        t_statistic(getattr(layer.clean, view), getattr(layer.suspect, view), z)
        for view, z in (("sample_mean", layer.z_mean), ("sample_max", layer.z_max))
    ]
    return float(np.max(np.where(np.isfinite(t), t, -np.inf), initial=-np.inf))


def concentration(clean: Measurement, suspect: Measurement) -> tuple[int, float] | None:
    """The predicted class whose share rises most from clean to suspect, and by how much; None without class predictions."""
    counts = [m.predictions[:-1] for m in (clean, suspect)]
    if any(c.sum() == 0 for c in counts):
        return None
    rise = counts[1] / counts[1].sum() - counts[0] / counts[0].sum()
    return int(rise.argmax()), float(rise.max())


def explained(risen: tuple[int, float] | None, evidence: Evidence) -> bool:
    """Whether something else than a backdoor explains why a class has become more frequent: there is more of the class itself, or
    a harmless change makes the model call much by one name, which is fragile and no backdoor.
    """
    same = risen is not None and evidence.ranking is not None and not evidence.ranking.out_of_place(risen[0])
    return same or evidence.harmless >= HARMLESS


def find(
    layers: Sequence[LayerComparison],
    null: CleanNull,
    risen: tuple[int, float] | None,
    given_threshold: bool,
    evidence: Evidence = NONE,
) -> list[Finding]:
    """All findings, layer by layer. `risen`: see `concentration`.

    A large shift alone can be a harmless change that the first layers see; one that also turns the predictions to one class is
    what a backdoor does. Without class predictions it has to speak for itself, but for images, where it
    stays a shift: a logo on every one moves neurons as far.
    """
    findings = []
    chance = null.limit
    concentrated = risen is not None and risen[1] >= CONCENTRATION
    alone = risen is None and evidence.pictures is None
    enough = CERTAIN_Z if alone else BACKDOOR_Z if concentrated else np.inf
    if explained(risen, evidence):
        enough = np.inf
    if risen is not None and concentrated:
        statement = (
            f"{evidence.names.of(risen[0])} is predicted for {100 * risen[1]:.0f} points more of the suspect than of the clean "
            f"samples"
        )
        findings.append(Finding("shift", PREDICTIONS, statement, risen[1], CONCENTRATION, str(risen[0]), unit="share"))
    for layer in layers:
        t = largest_t(layer)
        z = largest_finite(layer.z)
        if t > chance and not layer.clean.of_rows:
            findings.append(
                Finding(
                    "shift", layer.name, "the sets differ by more than the clean set differs from itself", t, chance, unit="t"
                )
            )
        if len(layer.abnormal):
            what = (
                "above the given threshold"
                if given_threshold
                else f"that {'stands' if len(layer.abnormal) == 1 else 'stand'} out"
            )
            value = largest_finite(layer.measure)
            statement, about = f"{count(len(layer.abnormal))} {what}", "difference" if given_threshold else ""
            unit: Unit = "number" if given_threshold else "sigma"
            findings.append(Finding("outlier", layer.name, statement, value, layer.limit, about, unit=unit))
        if t > chance and z >= enough:
            statement = (
                f"{int((layer.z >= enough).sum())} of {count(layer.neurons)} shifted by {enough:g} standard deviations or more"
            )
            findings.append(Finding("backdoor-like", layer.name, statement, z, enough, unit="sigma"))
    return [*findings, *not_finite(layers, evidence)]


def not_finite(layers: Sequence[LayerComparison], evidence: Evidence) -> list[Finding]:
    """What is NaN or infinite on suspect samples only, as one finding: from where it begins it goes through all later layers. It
    names the samples where these were ranked.
    """
    broken = {
        layer.name: int(((layer.suspect.positions.nonfinite > 0) & (layer.clean.positions.nonfinite == 0)).sum())
        for layer in layers
    }
    findings = {name: neurons for name, neurons in broken.items() if neurons}
    if not findings:
        return []
    neurons = sum(findings.values())
    samples = evidence.ranking.not_finite if evidence.ranking is not None else ()
    whose = f"{named(samples)}: " if samples else ""
    where = f" of {len(findings)} layers, from this one on," if len(findings) > 1 else ""
    statement = f"{whose}{count(neurons)}{where} NaN or infinite on suspect samples only"
    return [Finding("outlier", next(iter(findings)), statement, float(neurons), 0.0, "not finite", unit="number")]


def named(samples: Sequence[RankedSample]) -> str:
    """`sample 37 (x.png)`, `samples 3, 5 and 12 more`."""
    shown = [f"{sample.sample} ({plain(sample.file)})" if sample.file else f"{sample.sample}" for sample in samples[:NAMED]]
    rest = f" and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
    return f"sample{'s' * (len(samples) != 1)} {', '.join(shown)}{rest}"


def find_in_samples(evidence: Evidence) -> list[Finding]:
    """What ranking the samples found: proofs, and more suspect samples beyond the clean limit than chance puts there."""
    findings = []
    for proof in evidence.proof:
        if proof.stands:
            whose = "other classes" if proof.source is None else evidence.names.of(proof.source)
            what = f"read off the suspect samples ({proof.kind}), put on {proof.samples} clean samples of {whose}, turns"
            where = "each class to another" if proof.target == ALL_TO_ALL else f"them to {called(evidence, proof)}"
            low, high = proof.interval
            statement = (
                f"a trigger {what} {100 * proof.rate:.0f} % of {where} (95 % interval {100 * low:.0f} to {100 * high:.0f} %; "
                f"the same read off clean samples: {100 * proof.control:.0f} %){more_than(proof)}"
            )
            seen = INPUT, statement, proof.rate, proof.limit, str(proof.target), proof.trigger.key, proof.source
            findings.append(Finding("proved", *seen, unit="share"))
        elif proof.easy and proof.erasure is not None:
            where = "classes to one another" if proof.target == ALL_TO_ALL else called(evidence, proof)
            erasure = proof.erasure
            statement = (
                f"this model is easily turned to {where}, whatever the samples: what was read off suspect samples ({proof.kind}) "
                f"turns {100 * proof.rate:.0f} % of clean ones; taken out of the {erasure.claimed} suspect samples that hold it "
                f"it gives {100 * erasure.turned:.0f} % of them another prediction, as much taken out elsewhere "
                f"{100 * erasure.usual:.0f} %"
            )
            findings.append(Finding("outlier", "(model)", statement, proof.rate, proof.limit, str(proof.target), unit="share"))
    cluster = evidence.turned
    if cluster is not None:
        statement = (
            f"{cluster.extra:.0f} samples more than by chance are called {evidence.names.of(cluster.target)} and lie outside "
            f"clean samples of it, {100 * cluster.purity:.0f} % of all such; {100 * cluster.elsewhere:.0f} % of them resemble "
            f"clean samples of many other classes most (of clean samples of it: {100 * cluster.usual:.0f} %)"
        )
        findings.append(Finding("backdoor-like", SAMPLES, statement, cluster.purity, PURE, str(cluster.target), unit="share"))
    findings += directions_in(evidence)
    ranking = evidence.ranking
    if ranking is not None and ranking.p_value < TAIL_P * evidence.share:
        most = max(ranking.beyond, ranking.outside)
        share = most / len(ranking.scores)
        where = f"beyond what {100 * (1 - TAIL):g} % of clean samples reach, {ranking.outside} of them beyond all"
        statement = f"{most} suspect samples lie {where}"
        enriched = ranking.enriched
        if enriched is not None and enriched.p_value < TAIL_P * evidence.share:
            called_it = f"of those called {evidence.names.of(enriched.target)} {enriched.extra:.0f} more"
            statement += f"; {called_it} than clean samples of it let expect"
        findings.append(Finding("outlier", SAMPLES, statement, share, TAIL, unit="share"))
    if ranking is not None and ranking.concentration[1] >= GATHERED:
        target, beyond = ranking.concentration
        statement = (
            f"of the {ranking.farthest} samples farthest outside the clean set {100 * beyond:.0f} points more than of all are "
            f"called {evidence.names.of(target)}"
        )
        findings.append(Finding("outlier", SAMPLES, statement, beyond, GATHERED, str(target), unit="share"))
    return findings


def more_than(proof: Proof) -> str:
    """The longer row of words that suspects share around those that were put on; empty where there is none."""
    around = None if proof.erasure is None else proof.erasure.around
    return "" if around is None else f"; the suspects share more: {plain(around.words or around.written)!r}"


def find_in_predictions(risen: Sequence[Rise], evidence: Evidence) -> list[Finding]:
    """The predicted classes that rose beyond chance, NAMED at most in words, as one finding; none where there are none, or where
    the first rose by CONCENTRATION, which is a finding of its own.
    """
    if not risen or risen[0].share >= CONCENTRATION:
        return []
    sentence = "; ".join(
        f"{evidence.names.of(r.cls)} for {r.suspects} of {r.suspect} suspect and {r.cleans} of {r.clean} clean samples"
        for r in risen[:NAMED]
    )
    more = f"; and {len(risen) - NAMED} more" if len(risen) > NAMED else ""
    statement = f"predicted oftener than by chance: {sentence}{more} (p {max(r.p_value for r in risen):.1g} at most)"
    return [Finding("shift", PREDICTIONS, statement, risen[0].share, 0.0, str(risen[0].cls), unit="share")]


def called(evidence: Evidence, proof: Proof) -> str:
    """The target of a proof by its name."""
    return evidence.names.of(proof.target) if isinstance(proof.target, int) else proof.target


def find_in_tails(layers: Sequence[LayerComparison], spent: float = 1.0) -> list[Finding]:
    """Layers with neurons whose tail holds more suspect samples than chance puts there: all that can be said of single samples
    without a ranking. One false finding in 1 / TAIL_P clean sets, over all layers together (Bonferroni);
    `spent`: the part of TAIL_P that may be.
    """
    findings = []
    tests = sum(tests_of(layer) for layer in layers)
    for layer in layers:
        in_tails = exceeding(layer, TAIL_P * spent / max(tests, 1))
        if in_tails is not None:
            statement = (
                f"{count(len(in_tails.neurons))} with more suspect samples beyond the clean tail than chance puts there, most "
                f"neuron {in_tails.strongest}: {100 * in_tails.share:.3g} % (p {in_tails.p_value:.1g}, of {tests} tests)"
            )
            findings.append(Finding("outlier", layer.name, statement, in_tails.share, BEYOND, "tail", unit="share"))
    return findings


def directions_in(evidence: Evidence) -> list[Finding]:
    """For each layer the direction that is farthest above chance. A shift and no more, however large: it does not say of what."""
    strongest: dict[str, Direction] = {}
    for along in evidence.directions:
        if along.stands:
            strongest.setdefault(along.layer, along)
    return [
        Finding(
            "shift",
            along.layer,
            f"along a direction of the layer ({along.kind}) that other samples fixed, suspects lie {along.effect:.2f} clean "
            f"standard deviations out, {100 * along.beyond:.0f} % of them beyond what {100 * directions.BEYOND:g} % of clean "
            "samples reach",
            along.statistic,
            along.limit,
            "direction",
            unit="t",
        )
        for along in strongest.values()
    ]


def largest_finite(values: np.ndarray) -> float:
    """The largest of `values` `[...]` that is finite, 0 without any."""
    return float(np.max(np.where(np.isfinite(values), values, 0.0), initial=0.0))


def plain(name: str) -> str:
    """The name without control and bidirectional characters: it is the model's, and the sentence goes to terminals."""
    whole = name.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole)


def count(neurons: int) -> str:
    return f"{neurons} neuron" + ("" if neurons == 1 else "s")
