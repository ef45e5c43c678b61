"""`token_proof`: the rate of the best words that were found, beside that of words of clean texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Tokens as Words
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.budget import BudgetSpent
from naa_fast.proof.examples import examples_of
from naa_fast.proof.rivals import Rival, Suspects
from naa_fast.proof.tokens import Tokens, parts_of
from naa_fast.proof.transplant import Candidate
from naa_fast.proof.trials import Best, Control, Settled, Trials

AS_GOOD = 0.05
"""By how much less of the choosing part a shorter trigger may turn to be as good: four samples of 80."""
WRITTEN = ("token", "phrase")
"""Kinds that are written over a text, and cut to their shortest part here; what is put into one was cut before."""


def token_proof(
    trials: Trials,
    bests: dict[tuple[str, str], Best],
    rivals: Sequence[Rival],
    target: int | str,
    suspects: Suspects,
    shared: bool = False,
) -> Proof | None:
    """A proof of the shortest words that turn as many texts as the best do, as far as there are controls of the same length; cut
    to the shortest part that does the same and stands as well: words around a trigger would hide which samples are triggered.
    """
    controls = [Control(rival, trials.best([(control, 0) for control in words], rival)) for rival, words in rivals]
    known = {key for control in controls for key in control.bests}

    def measured(candidates: dict[tuple[str, str], Best]) -> Proof | None:
        controlled = {key: best for key, best in candidates.items() if key in known}
        proofs = list[Proof]()
        for settled in trials.settle(controlled, controls, target):
            proof, words = proof_of(trials, settled, target, shared)
            proofs.append(suspects.checked(trials, proof, words, controls))
            shortest = all(len(proof.tokens) <= words_in(best) for best in controlled.values())
            if shortest and proofs[-1].stands and proof.rate >= 1 - AS_GOOD:
                break  # no other is shorter, and none can be much better
        standing = sorted((proof for proof in proofs if proof.stands), key=lambda proof: len(proof.tokens))
        most = max((proof.rate for proof in standing), default=0.0)
        return next((proof for proof in standing if proof.rate >= most - AS_GOOD), proofs[0] if proofs else None)

    whole = measured(bests)
    if whole is None or not whole.stands:
        return whole
    needed = max(best.chosen_by for best in bests.values()) - AS_GOOD
    try:
        for part in parts_of(whole.tokens) if whole.kind in WRITTEN else ():
            found_part = trials.best([(part, 0)], target)
            as_good = max(best.chosen_by for best in found_part.values()) >= needed
            shorter = measured(found_part) if as_good else None
            if shorter is not None and shorter.stands:
                return shorter
    except BudgetSpent:  # what stands is not given up for a shorter one
        pass
    return whole


def words_in(best: Best) -> int:
    return len(best.candidate.ids) if isinstance(best.candidate, Tokens) else 1


def proof_of(trials: Trials, settled: Settled, target: int | str, shared: bool = False) -> tuple[Proof, Tokens]:
    """What was measured of words that follow one another, and these."""
    words = settled.best.candidate
    assert isinstance(words, Tokens)
    measured = settled.rate, settled.control, settled.samples, 0
    proof = Proof(trigger_of(words), target, *measured, own=shared, examples=examples_of(trials, words, target))
    return replace(proof, controls=settled.controls, measured=settled.measured, against=words_of(settled.against)), words


def words_of(candidate: Candidate | None) -> Words | None:
    """A candidate of words as a report names it; None of any other."""
    trigger = None if candidate is None else trigger_of(candidate)
    return trigger if isinstance(trigger, Words) else None
