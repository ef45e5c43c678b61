"""`judge_inverted`: what a search without suspect samples came to, as findings and a verdict. NumPy only.

The levels and the rules of `naa_fast.detect.verdict`: fail closed, a proof is a fail, a check that did not run keeps a pass away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from naa_fast.detect.checks import Check, missing_lines
from naa_fast.detect.coverage import left_out
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import INPUT, Finding, Unit, largest_finite
from naa_fast.detect.inversion import APART, NOTABLE, Inversion, Suspicion
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.proof import ALL_TO_ALL, Proof
from naa_fast.detect.verdict import Verdict

UNSEEN = (
    "triggers that no single small patch, faint offset or pair of words can stand for: warps, styles, longer phrases",
    "triggers that turn one class alone: every class is searched against all others together",
    "rules that send each class to another, but those that go as many classes further for every class",
    "a trigger whose class is by nature as easily turned to as its trigger makes it",
    "layers that were not selected: neurons are shown, and raised, in the selected ones alone",
)
"""What this search does not see, whatever it found."""


def judge_inverted(judgement: Judgement, evidence: Evidence, checks: Sequence[Check]) -> Judgement:
    """The judgement with the verdict of an inversion in place of a comparison's: its layers show what the strongest trigger that
    was made drives, and say nothing of the model's honesty.
    """
    inversion = evidence.inversion or Inversion(0)
    findings = findings_of(inversion, evidence.proof)
    gaps = (*missing_lines([check for check in checks if not check.ran]), *evidence.gaps)
    proof = next((proof for proof in evidence.proof if proof.stands), None)
    outcome = "fail" if proof is not None else "warn" if findings else "inconclusive" if gaps else "pass"
    standing = next(iter(inversion.standings), None)
    strength = 0.0 if standing is None else max(0.0, standing.strength)
    score = 0.5 + 0.5 * max(0.0, min(proof.margin, 1.0)) if proof is not None else min(0.49, 0.25 * strength)
    p_value = float("nan") if standing is None else standing.p_value
    unseen = (*gaps, *left_out("clean", judgement.clean), *evidence.notes, *UNSEEN)
    verdict = Verdict(
        outcome,
        score,
        max((largest_finite(layer.z) for layer in judgement.layers.values()), default=0.0),
        p_value,
        sentence(outcome, evidence, proof, gaps),
        tuple(findings),
        unseen,
        gaps,
        tuple(checks),
    )
    return replace(judgement, verdict=verdict, evidence=replace(evidence, checks=tuple(checks)))


def sentence(outcome: str, evidence: Evidence, proof: Proof | None, gaps: Sequence[str]) -> str:
    """The verdict for a person."""
    inversion, names = evidence.inversion or Inversion(0), evidence.names
    if proof is not None:
        whom = "the base model" if inversion.base else f"the other {proof.controls} classes"
        if proof.target == ALL_TO_ALL:
            return (
                f"Backdoor proved without a suspect sample: {named(proof.kind)} made from the model alone turns "
                f"{100 * proof.rate:.0f} % of clean samples by one rule, each class to another; under the same search the best "
                f"of {proof.controls} other rules comes to {100 * proof.control:.0f} %."
            )
        return (
            f"Backdoor proved without a suspect sample: {named(proof.kind)} made from the model alone turns "
            f"{100 * proof.rate:.0f} % of clean samples to {names.of(int(proof.target))}; "
            f"under the same search and budget {whom} come to {100 * proof.control:.0f} %."
        )
    if outcome == "inconclusive":
        return "No answer: " + "; ".join(gaps[:3]) + (f"; and {len(gaps) - 3} more gaps" if len(gaps) > 3 else "") + "."
    standing = next(iter(inversion.standings), None)
    least = (
        ""
        if standing is None
        else f" The least is needed for {names.of(standing.search.target)} ({standing.search.kind}), {standing.median:.1f} times "
        f"less than for the median class; of {standing.classes} classes one is always first (p {standing.p_value:.2g}"
        f"{f', by how far {standing.chance:.1g}' if standing.chance < standing.p_value else ''})."
    )
    if outcome == "warn":
        return f"Something stands out, and no trigger was proved.{least}"
    return f"No class is turned to far more easily than the others.{least} See what was not checked before you rely on it."


def named(kind: str) -> str:
    """`a patch`, `an offset`."""
    kind = kind.partition(",")[0]
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def findings_of(inversion: Inversion, proofs: Sequence[Proof]) -> list[Finding]:
    """The findings: a proof for each trigger that stands, outliers for what came near or for the cheaper checks."""
    findings = []
    for proof in proofs:
        if proof.stands:
            low, high = proof.interval
            how = "a base model" if inversion.base else f"{proof.controls} other classes"
            put_on, to = " of other classes", f"to class {proof.target}"
            if proof.target == ALL_TO_ALL:
                how, put_on, to = f"the best of {proof.controls} other rules", "", "each class to another by one rule"
            statement = (
                f"a trigger made from the model alone ({proof.kind}), put on {proof.samples} clean samples{put_on} that "
                f"had no part in making it, turns {100 * proof.rate:.0f} % of them {to} (95 % interval "
                f"{100 * low:.0f} to {100 * high:.0f} %); the same search with the same budget turns {100 * proof.control:.0f} % "
                f"for {how}"
            )
            seen = INPUT, statement, proof.rate, proof.limit, str(proof.target), proof.trigger.key
            findings.append(Finding("proved", *seen, unit="share"))
    proved = {str(finding.about) for finding in findings}
    for standing in inversion.standings:
        search = standing.search
        near = [tried for tried in proofs if tried.kind.startswith(search.kind) and tried.target == search.target]
        if standing.chance <= NOTABLE and str(search.target) not in proved and any(tried.turns for tried in near):
            proof = next(tried for tried in near if tried.turns)
            statement = (
                f"{named(search.kind)} made for class {search.target} turns {100 * proof.rate:.0f} % of clean samples, those "
                f"of other classes under its budget {100 * proof.control:.0f} %; so small a one comes by chance with p "
                f"{standing.chance:.1g}, if honest classes' sizes are log-normal"
            )
            findings.append(Finding("outlier", INPUT, statement, standing.chance, NOTABLE, str(search.target), unit="number"))
            proved.add(str(search.target))
    for standing in inversion.standings:
        if standing.strength >= 1 and str(standing.search.target) not in proved:
            search = standing.search
            statement = (
                f"class {search.target} is turned to by {named(search.kind)} of size "
                f"{search.size:.2g}; the median class needs {standing.median:.1f} times, the next one {standing.runner_up:.1f} "
                f"times as much"
            )
            limit = APART[search.kind]
            findings.append(Finding("outlier", INPUT, statement, standing.median, limit, str(search.target), unit="number"))
    return [*findings, *(suspected(suspicion) for suspicion in inversion.suspicions if suspicion.stands)]


def suspected(suspicion: Suspicion) -> Finding:
    """A suspicion that stands, as a finding: of a layer in robust deviations, of the input as -log10 of a probability."""
    about = str(suspicion.target) if suspicion.target >= 0 else suspicion.check
    unit: Unit = "number" if suspicion.where == INPUT else "sigma"
    return Finding("outlier", suspicion.where, suspicion.statement, suspicion.value, suspicion.limit, about, unit=unit)
