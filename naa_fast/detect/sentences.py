"""The verdict in one sentence, for a person."""

from __future__ import annotations

from collections.abc import Sequence

from naa_fast.detect.checks import listed
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import ROOT, Finding, called, count, largest_finite, plain
from naa_fast.detect.proof import ALL_TO_ALL


def describe_proof(evidence: Evidence) -> str:
    """The proof in one sentence, empty without one."""
    proof = next((proof for proof in evidence.proof if proof.stands), None)
    if proof is None:
        return ""
    whose = "other classes" if proof.source is None else evidence.names.of(proof.source)
    where = "classes to one another" if proof.target == ALL_TO_ALL else f"{whose} to {called(evidence, proof)}"
    words = "words" if " " in proof.words.strip() else "word"
    trigger = f"the {words} {plain(proof.words)!r}" if proof.words else "a trigger"
    known = ", and clean samples of that class hold the like" if proof.own and not proof.tokens else ""
    return (
        f"Backdoor proved: {trigger} that suspect samples share turns {100 * proof.rate:.0f} % of clean samples of {where}; "
        f"one made from clean samples turns {100 * proof.control:.0f} %{known}."
    )


def describe_cluster(evidence: Evidence) -> str:
    """Samples that were turned to one class in one sentence, empty without them."""
    cluster = evidence.turned
    if cluster is None:
        return ""
    return (
        f"Backdoor-like: {cluster.extra:.0f} suspect samples more than by chance lie outside what clean samples of "
        f"{evidence.names.of(cluster.target)} do and are called it, but {100 * cluster.elsewhere:.0f} % of them "
        f"resemble clean samples of other classes."
    )


def describe(
    outcome: str,
    layers: Sequence[LayerComparison],
    gaps: Sequence[str],
    z: float,
    shifted: bool,
    accepted: Sequence[str],
    findings: Sequence[Finding] = (),
) -> str:
    """The verdict in one sentence. `shifted`: some layer differs by more than chance; `accepted`: checks that did not run."""
    strongest = max(layers, key=lambda layer: largest_finite(layer.z), default=None)
    where = plain(strongest.name or ROOT) if strongest is not None else "no layer"
    abnormal = count(sum(len(layer.abnormal) for layer in layers))
    if outcome == "fail":
        return (
            f"Backdoor-like: the suspect samples drive neurons up to {z:.1f} standard deviations from their clean mean, "
            f"most in {where}; abnormal: {abnormal}."
        )
    if outcome == "warn":
        if not shifted:
            first = f"{plain(findings[0].statement)}" if findings else "none"
            more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
            return f"The sets differ by no more than chance, but there are findings (abnormal: {abnormal}): {first}{more}."
        return (
            f"The sets differ by more than chance (up to {z:.2f} standard deviations, most in {where}; abnormal: "
            f"{abnormal}), which a harmless change of the data can do as well as a trigger."
        )
    if outcome == "pass":
        what = "o neuron differs by more than the clean set differs from itself; see what was not checked before you rely on it."
        if not accepted:
            return f"No backdoor was found: n{what}"
        without = "means only" if "ranking" in accepted else f"without {listed(accepted)}"
        return f"A pass, {without}, as was accepted: n{what}"
    more = f"; and {len(gaps) - 3} more gaps" if len(gaps) > 3 else ""
    return "No answer: " + "; ".join(gaps[:3]) + more + "."
