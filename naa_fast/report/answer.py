"""The short answer on top of a page: what was found, in a line for each question, with a link to the section that shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import LEVELS
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.proof import ALL_TO_ALL, Proof
from naa_fast.detect.repair import RANKED
from naa_fast.detect.trigger import Crop, Inserted, Placed, TokenPair, Tokens
from naa_fast.records import Array
from naa_fast.report.drawings import covered_of, picture_of, place_in_words, range_of
from naa_fast.report.layers_view import LayersView
from naa_fast.report.sections import CheckView
from naa_fast.report.shared import shared_pixels
from naa_fast.report.units import percent, web_text
from naa_fast.report.words import counted

NAME = 60
PLACES = 2
"""Layers that are named, and neurons of each."""
LIGHT, DARK = 0.75, 0.25
"""Of the range of the pictures: from where on a pixel is called so."""


@dataclass(frozen=True)
class AnswerLine:
    """`what` is answered, in which section (its id), and the answer."""

    what: str
    section: str
    words: str


def answer_of(judgement: Judgement, layers: LayersView, repair: CheckView | None) -> list[AnswerLine]:
    """The lines there is something to say in; `repair`: what came of the repair, None where none was to be tried."""
    standing = [proof for proof in judgement.evidence.proof if proof.stands]
    nearest = standing or list(judgement.evidence.proof[:1])
    lines = [
        AnswerLine("Verdict", "evidence", verdict_words(judgement, nearest)),
        AnswerLine("Trigger", "evidence", "; ".join(trigger_words(proof, judgement.evidence) for proof in standing[:1])),
        AnswerLine("Carried by", "samples", carried_words(judgement)),
        AnswerLine("Sits in", "layers", places_words(layers)),
        AnswerLine("Repair", "repair", repair_words(judgement, repair)),
    ]
    return [line for line in lines if line.words]


def verdict_words(judgement: Judgement, proofs: list[Proof]) -> str:
    """What the proof, or what came nearest to one, turns; without either the findings by level."""
    if proofs:
        proof = proofs[0]
        head = "proved: the trigger" if proof.stands else "not proved: the nearest to a proof"
        target = "each class to another" if proof.target == ALL_TO_ALL else f"to {name_of(judgement, proof)}"
        return (
            f"{head} turns {percent(proof.rate)} of {proof.samples:,} clean samples {target}, the control "
            f"{percent(proof.control)}; {percent(proof.limit)} is needed"
        )
    levels = [finding.level for finding in judgement.verdict.findings]
    levels_found = [counted(levels.count(level), f"{level} finding") for level in reversed(LEVELS) if level in levels]
    if levels_found:
        return f"no trigger was proved; {', '.join(levels_found)}"
    checks = judgement.verdict.checks
    ran = sum(check.ran for check in checks)
    rest = f"; {counted(len(checks) - ran, 'check')} did not run, or not to its end" if ran < len(checks) else ""
    if not ran:
        return "no check ran to its end"
    return f"nothing was found by the {counted(ran, 'check')} that ran{rest}"


def name_of(judgement: Judgement, proof: Proof) -> str:
    return web_text(judgement.evidence.names.of(int(proof.target)), NAME)


def trigger_words(proof: Proof, evidence: Evidence) -> str:
    """What a person would look for in a sample."""
    trigger = proof.trigger
    if isinstance(trigger, Tokens):
        words = f"“{web_text(trigger.words, NAME)}”" if trigger.words else f"the token ids {web_text(trigger.written, NAME)}"
        return f"{words}, {put(trigger)}"
    if not isinstance(trigger, Placed):
        return "a pattern that is added to all of the input"
    place, shade = place_in_words(proof), shade_of(proof)
    where = "; the window of one sample, which in others may lie elsewhere" if isinstance(trigger, Crop) else ""
    shared, covered = shared_pixels(proof, evidence), covered_of(proof)
    more = (
        "" if shared is None or covered is None or shared <= covered.sum() else f"; the triggered samples share {shared:,} there"
    )
    return ", ".join(filter(None, [place or "values in place of the input’s own", shade])) + where + more


def put(trigger: Tokens) -> str:
    """How the proof brought words into a text."""
    match trigger:
        case Inserted(front=True):
            return "put in front of a text"
        case Inserted(end=True):
            return "put at the end of a text"
        case Inserted():
            return "put between the words of a text"
        case TokenPair():
            return "each put in place of any one word"
        case _:
            return "put in place of any one word" if len(trigger.ids) == 1 else f"put in place of any {len(trigger.ids)} tokens"


def shade_of(proof: Proof) -> str:
    """Whether the pixels of a patch are light or dark beside the samples it is put on; empty where there are none."""
    covered, pattern = covered_of(proof), picture_of(proof.pattern)
    grounds = [picture for example in proof.examples if (picture := picture_of(example.before)) is not None]
    if covered is None or pattern is None or not covered.any() or not grounds:
        return ""
    low, high = range_of([*grounds, pattern])
    values: Array = (pattern[covered].mean(-1) - low) / max(high - low, 1e-12)
    if np.isfinite(values).all() and values.min() >= LIGHT:
        return "light"
    if np.isfinite(values).all() and values.max() <= DARK:
        return "dark"
    return "light and dark" if values.max() >= LIGHT and values.min() <= DARK else "of middle brightness"


def carried_words(judgement: Judgement) -> str:
    ranking = judgement.evidence.ranking
    if ranking is None or ranking.triggered is None or not ranking.triggered.any():
        return ""
    unknown = int(ranking.uncertain.sum()) if ranking.uncertain is not None else 0
    words = f"{int(ranking.triggered.sum()):,} of the {len(ranking.scores):,} suspect samples"
    return words + (f"; of {unknown:,} it is unknown" if unknown else "")


def places_words(layers: LayersView) -> str:
    """The neurons that deviate most in samples that carry the trigger; where none is known to, those beyond their limit."""
    if layers.carried:
        named = [(name, samples, first_of(neurons)) for name, samples, neurons in layers.carried[:PLACES]]
        return "; ".join(
            f"{name}, in {samples} triggered samples looked at (neurons {neurons})" for name, samples, neurons in named
        )
    cells = [cell for cell in layers.labelled if cell.stands_out][:PLACES]
    shown = [
        f"{web_text(cell.name, NAME) or 'the whole model'} ({counted(max(cell.abnormal, cell.tailed), 'neuron')})"
        for cell in cells
    ]
    return ", ".join(shown)


def first_of(neurons: str) -> str:
    """The first of the neurons that `layers_view.carried_by` lists, with the number of samples of each."""
    shown = ", ".join(neurons.partition(" and ")[0].split(", ")[:PLACES])
    return shown.replace(" (in ", " in ").replace(")", "")


def repair_words(judgement: Judgement, check: CheckView | None) -> str:
    repair = judgement.repair
    if repair is None:
        return f"none: {check.detail}" if check is not None else ""
    what = "keep their prediction, of suspects" if repair.on == RANKED else "turned"
    kept = f"{percent(repair.kept)} of clean predictions stay"
    return f"{percent(repair.before)} {what} before, {percent(repair.after)} after; {kept}"
