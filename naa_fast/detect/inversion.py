"""`Inversion`: what the search for a trigger without suspect samples came to, class by class.

Any network can be turned to any class by an input that was optimised for it. What a backdoor has is one class that needs far less
than the others do under the same search with the same budget. NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite, log, sqrt
from typing import Any

import numpy as np

from naa_fast.records import Array

FEWEST_CLASSES = 4
"""Classes whose spread says anything: of fewer the one that is turned to most easily may well be so by nature."""
APART = {"patch": 3.0, "offset": 2.0, "token": 5.0, "phrase": 10.0}
"""How many times as much as a class the median of the others needs before that class stands apart, and the base model for the
same class. Chosen on half A of the study's attacks and clean models (docs/inversion.md)."""
NEXT = {"patch": 1.8, "offset": 1.35, "token": 2.5, "phrase": 4.0}
"""The same of the class that comes next."""
CHANCE, NOTABLE = 0.001, 0.01
"""Chance of so small a patch or offset, by the spread of the other classes' sizes (`chance_of`), below which a class stands apart
as well, and below which a trigger that turns far more than the others' do is told as an outlier."""
FEWEST_OTHERS = 5
"""Sizes of other classes whose spread is known at all."""
ROBUST = 0.5
"""Share of its effect that a trigger must keep under light noise. A shift by a pixel is told and asks nothing: a network without
convolutions learns a patch at its place alone."""


@dataclass(frozen=True)
class ClassSearch:
    """What the search came to for one class and one kind of trigger.

    `size`: the least at which it turns `rate` of unseen clean samples of other classes: the share of the input that a patch
    covers, the loudness of an offset over that of clean inputs; of tokens, of which all classes get as many, the share that
    stays. Infinite where it never turned enough. `noisy` and `shifted`: what is left of `rate` under light noise and, on average,
    under shifts by one pixel; NaN where that was not tried.
    """

    target: int
    kind: str
    size: float
    rate: float
    noisy: float = float("nan")
    shifted: float = float("nan")


@dataclass(frozen=True)
class Suspicion:
    """A number of a static check, of stimulated neurons or of the maximum margin, against its limit. Never more than an outlier:
    clean models have such as well. `where`: a layer, or INPUT; `target`: the class, -1 for none.
    """

    check: str
    where: str
    target: int
    value: float
    limit: float
    statement: str

    @property
    def stands(self) -> bool:
        return bool(self.value > self.limit)


@dataclass(frozen=True)
class Stimulated:
    """A neuron, the class that raising it turns samples to, and the share of those of other classes that it turns."""

    layer: str
    neuron: int
    target: int
    share: float


@dataclass(frozen=True)
class Standing:
    """How one class stands among all that had the same search: `median` and `runner_up`: how many times more the median of the
    other classes, and the next one, need; `base`: the same of the base model for this class, NaN without one; `chance`: see
    `chance_of`, 1 of texts, beside a base model, or with too few classes.
    """

    search: ClassSearch
    median: float
    runner_up: float
    base: float
    classes: int
    chance: float = 1.0

    @property
    def p_value(self) -> float:
        """Of the rank: how probable it is that this class needs least if all are alike. So many classes give no smaller p-value
        without a guess about their law, as `chance` makes one.
        """
        return 1 / max(self.classes, 1)

    @property
    def apart(self) -> bool:
        """Whether it needs far less than the others do, or, where they are too few, than the base model does."""
        kind = self.search.kind
        if isfinite(self.base) or self.base == inf:
            return bool(self.base >= APART[kind])
        far = self.median >= APART[kind] and self.runner_up >= NEXT[kind]
        return bool(self.classes >= FEWEST_CLASSES and (far or self.chance <= CHANCE))

    @property
    def strength(self) -> float:
        """In powers of the limit, comparable over kinds: 1 at the limit, 0 where too few classes say nothing."""
        kind = self.search.kind
        if isfinite(self.base) or self.base == inf:
            return log(max(min(self.base, 1e6), 1.0)) / log(APART[kind])
        if self.classes < FEWEST_CLASSES:
            return 0.0
        median, following = (log(max(min(times, 1e6), 1.0)) for times in (self.median, self.runner_up))
        return min(median / log(APART[kind]), following / log(NEXT[kind]))


@dataclass(frozen=True)
class Inversion:
    """Every class's search, the `suspicions` of the cheaper checks, and what it cost.

    `classes`: how many the model has; `neurons`: those that turn most when they are raised; `base`: the same search on the base
    model, empty without one; `forwards` and `backwards` count samples.
    """

    classes: int
    searches: tuple[ClassSearch, ...] = ()
    base: tuple[ClassSearch, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()
    neurons: tuple[Stimulated, ...] = ()
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, about: Mapping[str, Any]) -> Inversion:
        """What `dataclasses.asdict` made of one. Raises TypeError or LookupError on anything else."""
        lists = {"searches": ClassSearch, "base": ClassSearch, "suspicions": Suspicion, "neurons": Stimulated}
        parts = {name: tuple(kind(**entry) for entry in about[name]) for name, kind in lists.items()}
        return cls(**{**about, **parts})

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """Of each kind the class that stands farthest apart, the strongest first."""
        best = []
        for kind in dict.fromkeys(search.kind for search in self.searches):
            members = [search for search in self.searches if search.kind == kind]
            standings = [self.standing(search, members) for search in members if isfinite(search.size)]
            if standings:
                best.append(max(standings, key=lambda standing: (standing.strength, -standing.search.size)))
        return tuple(sorted(best, key=lambda standing: -standing.strength))

    def standing(self, search: ClassSearch, members: list[ClassSearch]) -> Standing:
        others = np.array([other.size for other in members if other.target != search.target])
        size = max(search.size, 1e-9)
        known = [other.size for other in self.base if (other.kind, other.target) == (search.kind, search.target)]
        median = float(np.median(others)) / size if len(others) else 0.0
        following = float(others.min()) / size if len(others) else 0.0
        if known:
            return Standing(search, median, following, known[0] / size, len(members))
        chance = chance_of(size, others[np.isfinite(others)]) if search.kind in ("patch", "offset") else 1.0
        return Standing(search, median, following, float("nan"), len(members), chance)


def chance_of(size: float, others: Array) -> float:
    """Chance that the smallest of all sizes lies so far below the `others` if the logarithms of all are normal: Grubbs's test
    (Technometrics 11, 1969), one-sided, over all classes. 1 with fewer than FEWEST_OTHERS, or where they do not vary. `others`
    float64 `[classes - 1]`.
    """
    if len(others) < FEWEST_OTHERS:
        return 1.0
    logs = np.log(np.maximum(others, 1e-9))
    spread = float(logs.std(ddof=1)) * sqrt(1 + 1 / len(logs))
    if spread <= 0:
        return 1.0
    from scipy.special import stdtr

    return float(min(1.0, (len(logs) + 1) * stdtr(len(logs) - 1, (log(size) - float(logs.mean())) / spread)))
