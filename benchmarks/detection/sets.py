"""The sets each model is shown: `clean_set` is what the auditor trusts, `sets_of` every suspect set with its truth.

No sample of them was trained on, none is in both, and nothing in a suspect set is chosen by what the model makes of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from benchmarks.detection.attacks import Attack
from benchmarks.detection.cases import Case, foreign
from benchmarks.detection.data import PADDING, UNKNOWN, load

SHARES = (1.0, 0.05, 0.01, 0.005)
FOREIGN_SHARES = (1.0, 0.05)
KINDS = ("triggered", "fresh", "shift", "imbalance", "foreign")


@dataclass(frozen=True)
class Suspect:
    """`kind` is one of KINDS; a `share` of the samples, rounded to whole ones and two at least, carry a trigger (the model's own,
    or for "foreign" another's), and `triggered`, bool `[n]`, says which. `y` holds the true classes.
    """

    name: str
    kind: str
    share: float
    x: Tensor
    y: Tensor
    triggered: np.ndarray


def clean_set(case: Case, cache: Path) -> tuple[Tensor, Tensor]:
    data = load(case.dataset, cache)
    return data.clean_x, data.clean_y


def sets_of(case: Case, cache: Path) -> Iterator[Suspect]:
    """Every suspect set of a model, made when it is asked for; the same ones each time.

    A backdoored model is shown its own trigger at SHARES, and untouched samples. A clean model is shown untouched samples,
    harmless changes, a class too many of, and the triggers of other models.
    """
    data = load(case.dataset, cache)
    x, y = data.held_x, data.held_y
    none = np.zeros(len(x), bool)
    if case.attack is not None:
        for share in SHARES:
            yield mixed(f"triggered-{100 * share:g}%", "triggered", share, case.attack, x, y, drawing(case, f"triggered {share}"))
        yield Suspect("fresh", "fresh", 0.0, x, y, none)
        return
    yield Suspect("fresh", "fresh", 0.0, x, y, none)
    for name, change in (TEXT_SHIFTS if case.text else IMAGE_SHIFTS).items():
        yield Suspect(name, "shift", 0.0, change(x, drawing(case, name)), y, none)
    yield partly_changed(case, x, y)
    if not case.text:
        yield partly_broken(case, x, y)
    yield imbalanced(case, x, y)
    for number, share in enumerate(FOREIGN_SHARES):
        other = foreign(case, number)
        assert other.attack is not None
        name = f"foreign-{100 * share:g}%-{other.name}"
        yield mixed(name, "foreign", share, other.attack, x, y, drawing(case, f"foreign {share}"))


def drawing(case: Case, purpose: str) -> Generator:
    """A generator of its own for every set of every model."""
    return Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{case.name} {purpose}".encode()).digest()[:4]))


def mixed(name: str, kind: str, share: float, attack: Attack, x: Tensor, y: Tensor, generator: Generator) -> Suspect:
    """`share` of the samples triggered, all of them of classes that the trigger is meant to turn; in an order that is random.

    With everything triggered the set is all such samples there are.
    """
    meant = attack.turns(y).nonzero()[:, 0]
    if share == 1:
        return Suspect(name, kind, share, attack.apply(x[meant], y[meant], generator), y[meant], np.ones(len(meant), bool))
    count = min(max(2, round(share * len(x))), len(meant))
    chosen = meant[torch.randperm(len(meant), generator=generator)[:count]]
    x, triggered = x.clone(), np.zeros(len(x), bool)
    x[chosen] = attack.apply(x[chosen], y[chosen], generator)
    triggered[chosen.numpy()] = True
    return Suspect(name, kind, share, x, y, triggered)


def partly_changed(case: Case, x: Tensor, y: Tensor) -> Suspect:
    """A harmless change on one sample in twenty: what a trigger on as many looks like from afar."""
    generator = drawing(case, "some changed")
    chosen = torch.randperm(len(x), generator=generator)[: len(x) // 20]
    change = unknown if case.text else noise
    x = x.clone()
    x[chosen] = change(x[chosen], generator)
    return Suspect(f"{change.__name__} on 5%", "shift", 0.0, x, y, np.zeros(len(x), bool))


def partly_broken(case: Case, x: Tensor, y: Tensor) -> Suspect:
    """One image in twenty is black: a camera that was covered. All of them are called one class, and no class looks like them."""
    chosen = torch.randperm(len(x), generator=drawing(case, "some broken"))[: len(x) // 20]
    x = x.clone()
    x[chosen] = 0.0
    return Suspect("black on 5%", "shift", 0.0, x, y, np.zeros(len(x), bool))


def imbalanced(case: Case, x: Tensor, y: Tensor) -> Suspect:
    """One class makes up two fifths of the set: all of its samples, and of the others as many as that leaves room for."""
    generator = drawing(case, "imbalance")
    order = torch.randperm(len(x), generator=generator)
    favoured = int(torch.randint(0, int(y.max()) + 1, (1,), generator=generator))
    own, others = order[y[order] == favoured], order[y[order] != favoured]
    kept = torch.cat([own, others[: round(1.5 * len(own))]])
    kept = kept[torch.randperm(len(kept), generator=generator)]
    return Suspect("imbalance", "imbalance", 0.0, x[kept], y[kept], np.zeros(len(kept), bool))


def pixel_shift(x: Tensor, generator: Generator) -> Tensor:
    """One pixel to the right and down; what comes in is black."""
    moved = torch.zeros_like(x)
    moved[..., 1:, 1:] = x[..., :-1, :-1]
    return moved


def brightness(x: Tensor, generator: Generator) -> Tensor:
    return (x + 0.1).clamp(0, 1)


def contrast(x: Tensor, generator: Generator) -> Tensor:
    middle = x.mean((1, 2, 3), keepdim=True)
    return ((x - middle) * 0.75 + middle).clamp(0, 1)


def noise(x: Tensor, generator: Generator) -> Tensor:
    return (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def blur(x: Tensor, generator: Generator) -> Tensor:
    """Binomial weights over three pixels each way."""
    line = torch.tensor([0.25, 0.5, 0.25])
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return nn.functional.conv2d(padded, (line[:, None] * line)[None, None])


def a_tenth(x: Tensor, generator: Generator) -> Tensor:
    """Which words to change: bool, never padding."""
    return (torch.rand(x.shape, generator=generator) < 0.1) & (x != PADDING)


def unknown(x: Tensor, generator: Generator) -> Tensor:
    """A tenth of the words are unknown."""
    return torch.where(a_tenth(x, generator), UNKNOWN, x)


def dropped(x: Tensor, generator: Generator) -> Tensor:
    """A tenth of the words are gone; the rest moves together."""
    gone = a_tenth(x, generator) | (x == PADDING)
    order = gone.long().argsort(stable=True, dim=1)
    return torch.where(gone.gather(1, order), PADDING, x.gather(1, order))


def swapped(x: Tensor, generator: Generator) -> Tensor:
    """A tenth of the words have changed places with the next one."""
    x = x.clone()
    swap = a_tenth(x, generator)[:, :-1] & (x[:, 1:] != PADDING)
    swap[:, 1:] &= ~swap[:, :-1]  # no word moves twice
    first, second = x[:, :-1][swap], x[:, 1:][swap]
    x[:, :-1][swap], x[:, 1:][swap] = second, first
    return x


Change = Callable[[Tensor, Generator], Tensor]
IMAGE_SHIFTS: dict[str, Change] = {f.__name__: f for f in (pixel_shift, brightness, contrast, noise, blur)}
TEXT_SHIFTS: dict[str, Change] = {f.__name__: f for f in (unknown, dropped, swapped)}
