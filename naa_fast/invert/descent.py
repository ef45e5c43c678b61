"""`descend`: for each class the smallest trigger of a form that turns most samples of other classes to it, all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from naa_fast.invert.drive import FIRST
from naa_fast.invert.forms import Form, Pace
from naa_fast.invert.setting import Setting, Unsearchable

BATCH = 16
"""Samples a step and class."""
WINDOW = 10
"""Steps after which a search looks how it does, and puts more or less weight on the size."""
GOAL = 0.9
"""Share of a window's samples that a trigger has to turn before a smaller one is sought."""
HARDER = 1.5
"""Times more weight on the size after a window that reached GOAL, and less after one that did not."""
NEVER = 1e3
"""What a search counts as larger than any size: less the share it turned where it never turned enough."""
HELD, OVER = 20.0, 1.05
"""Weight of what lies beyond a given size, and times it that still counts as within."""
RULE_GOAL = 0.7
"""The same share where every class goes to another: such a trigger cannot turn more than the model gets right."""
LARGEST = 24_000_000
"""Numbers of inputs that go through the model in one forward at most; more classes are searched one group after another."""
MOST_ROWS = 640


@dataclass(frozen=True)
class Goal:
    """Where a search's trigger is to turn samples: to its target, or, `shifted`, each class to the one `target` further. What is
    shifted and never turns enough keeps what turned most: it is a control.
    """

    shifted: bool = False

    @property
    def share(self) -> float:
        return RULE_GOAL if self.shifted else GOAL

    def aims(self, targets: Tensor, predicted: Tensor, classes: int) -> Tensor:
        """Where each sample is to go: int64 `[targets, samples]`."""
        if self.shifted:
            return (predicted[None] + targets[:, None]) % classes
        return targets[:, None].expand(-1, len(predicted))


TO_ONE, SHIFTED = Goal(), Goal(shifted=True)


@dataclass(frozen=True)
class Tuned:
    """What a search of one form came to: `sizes` float32 `[targets]`, infinite where the goal was never reached, the form and the
    parameters of the best of each target.
    """

    targets: tuple[int, ...]
    form: Form
    sizes: Tensor
    kept: list[Tensor]


def descend(
    setting: Setting, make: Callable[[int], Form], targets: Sequence[int], steps: int, pace: Pace, goal: Goal = TO_ONE
) -> list[Tuned]:
    """Adam on cross entropy to the target plus a weight times the size; the weight rises while a trigger turns enough and falls
    while it does not (Wang et al., Neural Cleanse, IEEE S&P 2019, section V); in the first steps each class's neurons are
    raised as well (Liu et al., ABS, CCS 2019, section 5). All targets get the same samples in the same order; of many targets
    some at a time, a `Tuned` each.

    Cost: `steps` x BATCH samples a target, forward and back. Raises Unsearchable without finite gradients.
    """
    room = max(1, LARGEST // max(setting.values, 1))
    group = max(1, min(MOST_ROWS, room) // BATCH)
    parts = [list(targets[at : at + group]) for at in range(0, len(targets), group)]
    return [tuned(setting, make(len(part)), part, steps, pace, goal=goal) for part in parts]


def held_to(setting: Setting, start: Tuned, steps: int, pace: Pace, most: float, goal: Goal = TO_ONE) -> Tuned:
    """The same search taken up again with the size held below `most` for every target; kept is what turns most."""
    with torch.no_grad():
        for parameter, value in zip(start.form.parameters, start.kept, strict=True):
            parameter.copy_(value)
    return tuned(setting, start.form, start.targets, steps, pace, most, goal)


def tuned(
    setting: Setting,
    form: Form,
    targets: Sequence[int],
    steps: int,
    pace: Pace,
    most: float | None = None,
    goal: Goal = TO_ONE,
) -> Tuned:
    x, predicted = setting.rows(setting.fit)
    if not bool(torch.isfinite(x).all()):
        raise Unsearchable("clean inputs are NaN or infinite")
    asked = torch.tensor(list(targets), device=x.device)
    count, each = len(targets), min(BATCH, len(x))
    optimiser = torch.optim.Adam(form.parameters, lr=pace.rate, betas=(0.5, 0.9))
    weight = torch.full((count,), pace.weight, device=x.device)
    best = torch.full((count,), torch.inf, device=x.device)
    hits, total = torch.zeros(count, device=x.device), torch.zeros(count, device=x.device)
    kept, moved = form.kept(), False
    for step in range(steps):
        rows = torch.arange(step * each, (step + 1) * each, device=x.device) % len(x)
        aims = goal.aims(asked, predicted[rows], setting.classes)
        wanted = (predicted[rows][None] != aims).float()  # [targets, samples]
        put = form.put_on(x[rows]).flatten(0, 1)
        driven = None
        if setting.drive is not None and most is None and not goal.shifted and FIRST * step < steps:
            with setting.drive.watching(setting.transplant.model) as driven_outputs:
                scores = setting.scores(put).view(count, each, -1)
            driven = setting.drive.raised(driven_outputs, targets, each)
        else:
            scores = setting.scores(put).view(count, each, -1)
        entropy = nn.functional.cross_entropy(scores.flatten(0, 1), aims.flatten(), reduction="none")
        loss = (entropy.view(count, each) * wanted).sum(1) / wanted.sum(1).clamp(min=1)
        size = form.size()
        price = weight * size if most is None else HELD * (size / most - 1).clamp(min=0)
        whole = (loss + price).sum() - (0.0 if driven is None else driven)
        gradients = setting.gradients(whole, form.parameters, count * each)
        seen, now = scores.detach(), size.detach()
        moved = moved or bool((seen.std(1) > 0).any())
        hits, total = hits + ((seen.argmax(-1) == aims).float() * wanted).sum(1), total + wanted.sum(1)
        if (step + 1) % WINDOW == 0 or step + 1 == steps:
            share = hits / total.clamp(min=1)
            enough = share >= goal.share
            if most is not None:
                worth = torch.where(now <= OVER * most, -share, torch.inf)
            else:
                worth = torch.where(enough, now, torch.inf if not goal.shifted else NEVER - share)
            better = worth < best
            best = torch.where(better, worth, best)
            for old, new in zip(kept, form.kept(), strict=True):
                old[better] = new[better]
            weight = torch.where(enough, weight * HARDER, weight / HARDER)
            hits, total = torch.zeros_like(hits), torch.zeros_like(total)
        for parameter, gradient in zip(form.parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
    if not moved:
        raise Unsearchable("the model's scores do not depend on its input")
    reached = torch.where(best > NEVER - 1, torch.inf, best)
    return Tuned(tuple(map(int, targets)), form, reached if most is None else torch.full_like(best, most), kept)
