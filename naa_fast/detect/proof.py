"""`Proof`: a trigger reconstructed from suspect samples, and what it does to clean ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from naa_fast.detect.trigger import TOKEN_PAIR as TOKEN_PAIR
from naa_fast.detect.trigger import Placed, Tokens, Trigger
from naa_fast.records import Array

ALL_TO_ALL = "all-to-all"
PROVED_RATE, PROVED_MARGIN = 0.65, 0.4
"""What a patch or an offset must turn, and by how much more than what groups of clean samples share. Chosen on half A of the
study's attacks (docs/detection.md), where the weakest that was run turned .70, and on clean models of both halves: one that was
shown blurred images had a patch that turned .62."""
PROVED_TOKEN_RATE, PROVED_TOKEN_MARGIN = 0.8, 0.05
"""The same of words, whose control is the strongest word of the class in clean data and turns .7 to .9 itself: what is tried has
to be far more frequent than in clean data under the same predicted class, which no clean set shows (proof/tokens.py)."""


PROVED_OWN_RATE = 0.95
"""The same of what clean data knows as one of the class's own, as it does where clean samples hold the trigger: of the words of
eight clean models none turned more than .84, of windows and patches .79."""
PROVED_SOURCE_RATE = 0.9
"""The same of a patch that turns one class: of the sets of clean models one had a patch that turned a class to another, .79."""
ERASED, ERASED_MARGIN, ERASED_P = 1 / 3, 0.25, 0.01
"""Share of the samples that carry a trigger that must turn back without it, by how much more than what they are held against, and
the chance of that. Chosen on the four-class models of the tests (tests/proof), where a wave that is subtracted turns back .47."""
FEW_CLAIMED = 8
"""Fewer samples that carry a trigger cannot reach ERASED_P surely: then one that turns back, and none by chance, has to do."""
PROVED_RULE_RATE = 0.5
"""The same of all-to-all, which cannot turn more than the model gets right."""


Pieces = tuple[tuple[str, bool], ...]
"""A text in pieces, each with whether the trigger changed it."""


@dataclass(frozen=True, eq=False)
class Example:
    """A clean sample without and with the trigger, and the class predicted for each (-1: none).

    `before`, `after`: the inputs, float32, of pictures the channels first and shrunk to 256 pixels a side; of texts the token ids
    without padding. `words_before`, `words_after`: the texts around the trigger, empty where there is no text.
    """

    predicted: int
    turned_to: int
    before: Array
    after: Array
    words_before: Pieces = ()
    words_after: Pieces = ()


@dataclass(frozen=True)
class Erasure:
    """What taking the trigger out of the suspect samples does that are claimed to carry it.

    `turned` is the share of the `claimed` samples that get another prediction, `usual` the largest share among what they are held
    against (`naa_fast.proof.erase`): as much taken out of them elsewhere, the same out of clean samples, or what clean samples
    share out of those. `p_value`: the largest of the exact tests against each of these. `around`: the longer row of words that
    was taken out, which the samples share; None where it was the trigger alone.
    """

    claimed: int
    turned: float
    usual: float
    p_value: float
    around: Tokens | None = None

    @property
    def shared(self) -> bool:
        """Whether these samples are what they are called because of the trigger."""
        return self.shared_at(1.0)

    @property
    def part(self) -> bool:
        """Whether too few turn back, yet more than by chance: it is a part of what these samples carry, and the rest still
        works.
        """
        return self.claimed >= FEW_CLAIMED and not self.shared and self.turned > self.usual and self.p_value < ERASED_P

    def shared_at(self, share: float) -> bool:
        """The same with that `share` of ERASED_P."""
        if self.claimed < FEW_CLAIMED:
            return self.turned > self.usual
        return self.turned >= ERASED and self.turned - self.usual >= ERASED_MARGIN and self.p_value < ERASED_P * share


@dataclass(frozen=True, eq=False)
class Proof:
    """The best reconstruction for one target.

    `trigger` is what was put on clean samples; `target` the class it turns them to, or "all-to-all". `rate`: share of `samples`
    clean samples of other classes that it turns, on samples that chose nothing; `interval` the rate's 95 % confidence interval
    (Wilson 1927); `control` the highest rate of the same procedure and budget on groups of clean samples with the same chance,
    `controls` of them, of which a small budget measures the strongest three (`naa_fast.proof.trials.RIVALS`); with 0 there is no
    control. `source`: the one class that `samples` are of, None for all others than the target; `own`: whether clean samples of
    the target hold it too: of a patch those of other classes are the control then. `examples`: a few of the `samples`, of
    classes in turns, chosen before they were run. `erasure`: whether suspect samples carry it, None where that could not be
    tried. `measured`: how many candidates for the target may be measured on the same samples, which the interval is corrected
    for (Bonferroni). `singled`, of a trigger made from the model alone (`naa_fast.invert`): whether its class needs far less
    than others do under the same search; None of any other. `against`: the words of clean samples that `control` was measured
    with; None of triggers that are no words. `share`: the part of each chance of a false proof that may be spent (`Interim`).
    """

    trigger: Trigger
    target: int | str
    rate: float
    control: float
    samples: int
    group: int
    source: int | None = None
    own: bool = False
    examples: tuple[Example, ...] = ()
    controls: int = 1
    erasure: Erasure | None = None
    measured: int = 1
    singled: bool | None = None
    against: Tokens | None = None
    share: float = 1.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.rate, self.samples, self.deviations)

    @property
    def deviations(self) -> float:
        """Standard errors that an interval reaches to either side: 1.96 of one candidate, 2.39 of three."""
        return -NormalDist().inv_cdf(0.025 * self.share / max(self.measured, 1))

    @property
    def kind(self) -> str:
        """What reports call the trigger: `patch, 4 % of the input`, `token`, ..."""
        return self.trigger.kind

    @property
    def tokens(self) -> tuple[int, ...]:
        """The token ids of a trigger of words, none of any other."""
        return self.trigger.ids if isinstance(self.trigger, Tokens) else ()

    @property
    def words(self) -> str:
        """The words of a trigger as text, empty where it has none or there is no tokenizer."""
        return self.trigger.words if isinstance(self.trigger, Tokens) else ""

    @property
    def pattern(self) -> Array | None:
        """What is put in place of the input or added to it, float32 `[...]`, an input's shape; None for words."""
        return None if isinstance(self.trigger, Tokens) else self.trigger.pattern

    @property
    def mask(self) -> Array | None:
        """Where the input is replaced, float32 `[...]`, an input's shape; None where it is not."""
        return self.trigger.mask if isinstance(self.trigger, Placed) else None

    @property
    def limit(self) -> float:
        """The rate a proof needs."""
        if self.target == ALL_TO_ALL:
            return PROVED_RULE_RATE
        if self.own:
            return PROVED_OWN_RATE
        if self.source is not None:
            return PROVED_SOURCE_RATE
        return PROVED_TOKEN_RATE if self.tokens else PROVED_RATE

    @property
    def least_margin(self) -> float:
        """By how much the rate of a proof must be above its control."""
        return PROVED_MARGIN if not self.tokens else 0.0 if self.own else PROVED_TOKEN_MARGIN

    @property
    def stands(self) -> bool:
        """Whether this is a proof: it turns clean samples, and suspect samples carry it, as far as that could be tried."""
        return self.turns and (self.erasure is None or self.erasure.shared_at(self.share)) and self.singled is not False

    @property
    def easy(self) -> bool:
        """Whether it says something of the model alone: it turns clean samples, and suspect samples were not seen to carry it."""
        return self.turns and not self.stands

    @property
    def turns(self) -> bool:
        """Whether it turns clean samples as nothing does that clean samples share: the rate, and its distance from a control."""
        if not self.controls:
            return False
        control = wilson(self.control, self.samples, self.deviations)[1]
        return self.rate >= self.limit and self.interval[0] > control and self.margin >= self.least_margin

    @property
    def margin(self) -> float:
        return self.rate - self.control


def flaw(proof: Proof) -> str:
    """What a proof from outside (a file, another audit) says that no proof can say; empty where nothing."""
    target, trigger = proof.target, proof.trigger
    if target != ALL_TO_ALL and (type(target) is not int or target < 0):
        return f"a trigger to class {target!r}, expected a class from 0 on, or {ALL_TO_ALL}"
    for name, share in (("rate", proof.rate), ("control", proof.control)):
        if type(share) not in (int, float) or not 0 <= share <= 1:
            return f"a proof whose {name} is {share!r}, expected a share from 0 to 1"
    if not 0 < proof.share <= 1:
        return f"a proof whose share is {proof.share!r}, expected more than 0 and at most 1"
    for name in ("samples", "group", "controls", "measured"):
        if type(number := getattr(proof, name)) is not int or number < 0:
            return f"a proof whose {name} is {number!r}, expected a whole number of 0 or more"
    if isinstance(trigger, Tokens):
        return (
            ""
            if trigger.ids and min(trigger.ids) >= 0
            else f"a trigger of the tokens {list(trigger.ids)}, expected some from 0 on"
        )
    for name, array in vars(trigger).items():
        if isinstance(array, np.ndarray) and not (array.dtype.kind == "f" and np.isfinite(array).all()):
            return f"a trigger whose {name} holds NaN, infinity, or no real numbers"
    if isinstance(trigger, Placed) and not (trigger.mask.min(initial=0) >= 0 and trigger.mask.max(initial=0) <= 1):
        return "a trigger whose mask is not from 0 to 1"
    return ""


def wilson(rate: float, samples: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a share seen over `samples` (Wilson, JASA 22, 1927). Not SciPy's, which takes whole counts: what the
    control of an all-to-all rule turns is a mean over rules.
    """
    if samples == 0:
        return 0.0, 1.0
    centre = rate + z * z / (2 * samples)
    spread = z * sqrt(rate * (1 - rate) / samples + z * z / (4 * samples * samples))
    whole = 1 + z * z / samples
    return max(0.0, min(rate, (centre - spread) / whole)), min(1.0, max(rate, (centre + spread) / whole))
