"""`search_rule`: one patch that turns every class to the one so many further, as an all-to-all backdoor does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from naa_fast.detect.inversion import ROBUST
from naa_fast.detect.proof import ALL_TO_ALL, Proof
from naa_fast.detect.trigger import Tokens
from naa_fast.invert.descent import SHIFTED, Tuned, descend, held_to
from naa_fast.invert.forms import Masked
from naa_fast.invert.images import HELD_STEPS, NOISE, ROOM, Disturbed
from naa_fast.invert.setting import Setting
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.examples import examples_of
from naa_fast.proof.images import Patch
from naa_fast.proof.transplant import Candidate
from naa_fast.proof.trials import Trials

STEPS = 80
"""Steps at most: of the all-to-all models of half A of the study the rule's patch turned nine in ten after 60, of no clean one
any rule's half."""
LEAST = 0.5
"""Share of the measuring samples that a rule must move before it is worth telling."""


def search_rule(setting: Setting, steps: int) -> tuple[Proof, Patch] | None:
    """The best patch of the rules `class -> class + k`, for every k, all at once, measured on clean samples that made none, and
    its proof: the control is the best of the other rules under the same budget. None where no rule moves LEAST.

    Cost: STEPS x 16 samples a class, forward and back, where a rule moves LEAST twice that, and the measuring samples. Raises
    Unsearchable.
    """
    shifts = range(1, setting.classes)
    runs = descend(setting, partial(Masked.begun, setting), shifts, min(STEPS, steps), Masked.pace, SHIFTED)
    rates = {shift: moved(setting, patch, shift) for shift, patch in patches(runs)}
    shift = max(rates, key=lambda by: rates[by])
    size = next(float(run.sizes[row]) for run in runs for row, by in enumerate(run.targets) if by == shift)
    if rates[shift] < LEAST or not np.isfinite(size):
        return None
    kept_to = [held_to(setting, run, HELD_STEPS, Masked.pace, ROOM * size, SHIFTED) for run in runs]
    made_of = dict(patches(kept_to))
    rates = {by: moved(setting, patch, by) for by, patch in made_of.items()}
    rate, patch = rates.pop(shift), made_of[shift]
    assert setting.images is not None
    made = trigger_of(patch)
    assert not isinstance(made, Tokens)
    noisy = moved(setting, Disturbed(patch, NOISE * setting.images.loudness), shift)
    proof = Proof(
        made.mapped(setting.images.as_taken),
        ALL_TO_ALL,
        rate,
        max(rates.values(), default=0.0),
        int((setting.measure.predicted >= 0).sum()),
        len(setting.fit.predicted),
        controls=len(rates),
        examples=examples_of(Trials(setting.transplant, setting.measure), patch, ALL_TO_ALL),
        singled=noisy >= ROBUST * rate,
    )
    return proof, patch


def patches(runs: Sequence[Tuned]) -> Iterator[tuple[int, Patch]]:
    """Each rule's patch as it is handed over."""
    for run in runs:
        for row, shift in enumerate(run.targets):
            patch = run.form.candidate(run.kept, row)
            assert isinstance(patch, Patch)
            yield shift, patch


def moved(setting: Setting, candidate: Candidate, shift: int) -> float:
    """Share of the measuring samples that a candidate turns from their class to the one `shift` further."""
    before, after = setting.measure.predicted, setting.transplant.predictions(setting.measure, candidate)
    return float(np.mean(after == (before + shift) % setting.classes))
