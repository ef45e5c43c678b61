"""`search_images`: for each class the smallest patch and the faintest offset; what stands apart under one budget, and proofs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.inversion import ROBUST, ClassSearch, Standing
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Tokens as WordTrigger
from naa_fast.invert.descent import Tuned, descend, held_to
from naa_fast.invert.forms import Added, Masked
from naa_fast.invert.pace import STEPS
from naa_fast.invert.setting import Setting
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.images import Offset, Patch
from naa_fast.proof.tokens import Tokens

FORMS = (Masked, Added)
HELD_STEPS = 80
"""Steps of the search that holds all classes to the budget of the one that stands apart."""
ROOM = 1.1
"""Times its own size that the class which stands apart, and all others, may have for the proof."""
WORTH = 0.7
"""Strength (`Standing.strength`) from which on the control under one budget is run."""
WAYS = ((0, 1), (0, -1), (1, 0), (-1, 0))
NOISE = 0.1
"""Deviation of the light noise, in that of clean inputs about their mean."""


Trigger = Patch | Offset | Tokens


@dataclass(frozen=True)
class Searched:
    """What a search came to for each class and form: its numbers, its trigger, and the run to go on from."""

    searches: tuple[ClassSearch, ...]
    triggers: dict[tuple[str, int], Trigger]
    runs: dict[str, list[Tuned]]


@dataclass(frozen=True)
class Disturbed:
    """A trigger and what happens to the whole input after it: light noise, or a shift by one pixel along an axis."""

    trigger: Patch | Offset
    noise: float = 0.0
    shift: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> str:
        return self.trigger.kind

    @property
    def budget(self) -> str:
        return self.trigger.budget

    def put_on(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Inputs `[samples, ...]` with the trigger, disturbed; the noise is the same each time."""
        put = self.trigger.put_on(x, valid)
        if self.noise:
            generator = torch.Generator().manual_seed(0)
            put = put + self.noise * torch.randn(put.shape, generator=generator).to(put.device, put.dtype)
        if any(self.shift):
            put = torch.roll(put, self.shift, (-2, -1))
        return put


def search_images(setting: Setting, targets: Sequence[int], steps: int = STEPS) -> Searched:
    """Every class's smallest patch and faintest offset, measured on samples that made none of them.

    Cost: 2 x `steps` x 16 samples a class, forward and back (`descend`), and the measuring samples. Raises Unsearchable.
    """
    runs = {form.kind: descend(setting, partial(form.begun, setting), targets, steps, form.pace) for form in FORMS}
    triggers = {(kind, target): run.form.candidate(run.kept, row) for kind, run, row, target in members(runs)}
    sizes = {(kind, target): float(run.sizes[row]) for kind, run, row, target in members(runs)}
    rates = {key: setting.measured(trigger, key[1])[0] for key, trigger in triggers.items() if np.isfinite(sizes[key])}
    searches = [ClassSearch(target, kind, size, rates.get((kind, target), 0.0)) for (kind, target), size in sizes.items()]
    return Searched(tuple(searches), {**triggers}, runs)


def members(runs: dict[str, list[Tuned]]) -> Iterator[tuple[str, Tuned, int, int]]:
    """Kind, run, row in it and target of every search."""
    return ((kind, run, row, target) for kind, every in runs.items() for run in every for row, target in enumerate(run.targets))


def disturbed(setting: Setting, search: ClassSearch, trigger: Patch | Offset) -> ClassSearch:
    """The search with what light noise and shifts by a pixel leave; of inputs that are no pictures without shifts."""
    assert setting.images is not None
    noisy = setting.measured(Disturbed(trigger, NOISE * setting.images.loudness), search.target)[0]
    if setting.images.mean.ndim != 3:
        return replace(search, noisy=noisy)
    shifted = [setting.measured(Disturbed(trigger, shift=way), search.target)[0] for way in WAYS]
    return replace(search, noisy=noisy, shifted=float(np.mean(shifted)))


def prove_images(
    setting: Setting, standing: Standing, runs: Sequence[Tuned], base: Setting | None = None
) -> tuple[Proof, ClassSearch]:
    """What the class that stands apart reaches under a budget, and what the other classes, or the base model for the same class,
    reach under it with the same search (the proof's `control`). Raises Unsearchable.
    """
    search, most = standing.search, ROOM * standing.search.size
    form = next(form for form in FORMS if form.kind == search.kind)
    reached: dict[int, Patch | Offset] = {}
    for run in runs:
        kept_to = held_to(setting, run, HELD_STEPS, form.pace, most)
        reached |= {target: kept_to.form.candidate(kept_to.kept, row) for row, target in enumerate(kept_to.targets)}
    trigger = reached[search.target]
    rate, samples = setting.measured(trigger, search.target)
    if base is None:
        others = [setting.measured(other, target)[0] for target, other in reached.items() if target != search.target]
    else:
        begun = descend(base, partial(form.begun, base), [search.target], STEPS, form.pace)
        again = held_to(base, begun[0], HELD_STEPS, form.pace, most)
        others = [base.measured(again.form.candidate(again.kept, 0), search.target)[0]]
    search = disturbed(setting, replace(search, rate=rate), trigger)
    assert setting.images is not None
    made = trigger_of(trigger)
    assert not isinstance(made, WordTrigger)
    singled = standing.apart and bool(search.noisy >= ROBUST * rate)
    return setting.proof(trigger, made.mapped(setting.images.as_taken), search, samples, others, singled), search
