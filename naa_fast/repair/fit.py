"""`Fit`: a directional ablation, tuned by gradients through the rest of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor, nn

from naa_fast.capture.hooks import is_compiled
from naa_fast.capture.selection import unwrapped
from naa_fast.detect.change import Ablate, Change
from naa_fast.inputs.batches import Batch
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.records import Array
from naa_fast.repair.candidates import array
from naa_fast.repair.change import applied, replaced
from naa_fast.repair.space import Space
from naa_fast.scan.memory import pieces, release

RATE = 0.1
"""Step of Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), in root mean squares of what is tuned as it was at first."""
TUNED = "tuned"
SOFT = 0.3
"""Width of the gate's slope, in clean standard deviations of what it looks at: only the gradient sees it."""
STAYS, FOLLOWS = 10.0, 4.0
"""Weight of the clean predictions beside the trigger, and by how much it changes where too many are lost or hardly one: with 1 a
faint blend was undone at three times the clean predictions, with 10 the clean predictions of a text model all stayed and so did a
word's effect."""


@dataclass(frozen=True)
class Lesson:
    """What a fit learns from: `clean` samples and the log probabilities the unchanged model gives them (float32 `[samples,
    classes]`), samples with the trigger on them that should be what they were (`triggered`), suspects that should not be what
    they are called (`shown`).
    """

    clean: PredictedSamples
    asked: Tensor
    triggered: PredictedSamples | None
    shown: PredictedSamples | None

    @classmethod
    def of(
        cls, transplant: Transplant, clean: PredictedSamples, triggered: PredictedSamples | None, shown: PredictedSamples | None
    ) -> Lesson | None:
        """None for a model that gives no finite scores."""
        logs: list[Tensor] = []
        for batch, _ in clean.batches:
            for _, scores in transplant.scores(batch):
                if scores is None or (logs and scores.shape[1] != logs[0].shape[1]):
                    return None
                logs.append(scores.float().log_softmax(1).cpu())
        asked = torch.cat(logs)
        return cls(clean, asked, triggered, shown) if asked.isfinite().all() else None


class Fit:
    """The change `start` of a layer, made better step by step; `change` is what it has come to.

    The gate is hard where it is applied, and has the slope of a sigmoid in the gradient (a straight-through estimator: Bengio,
    Leonard and Courville, arXiv:1308.3432, section 4). Loss: `weight` times the divergence of clean predictions from what they
    were, the cross entropy of triggered clean samples to their own class, and -log(1 - p) of the class p of suspects.
    """

    def __init__(
        self, transplant: Transplant, lesson: Lesson, start: Ablate, space: Space, under: Sequence[Change], batch: int = 32
    ) -> None:
        """`batch`: samples of each kind in one step."""
        self.transplant, self.lesson, self.start, self.space, self.under = transplant, lesson, start, space, under
        self.batch = batch
        gate, along, centres, pushes = map(torch.from_numpy, (start.gate, start.along, start.centres, start.pushes))
        # In clean standard deviations from the clean middle, where all neurons weigh alike.
        self.first = [
            gate * space.width,
            torch.tensor(start.limit) - gate @ space.middle,
            along * space.width,
            centres - along @ space.middle,
            pushes / space.width,
        ]
        self.slope = float((space.rows @ gate).std().clamp(min=1e-6))
        units = [x.square().mean().sqrt() for x in self.first]
        units[1] = torch.tensor(self.slope)
        units[3] = torch.ones(())
        self.units = units
        self.tuned = [torch.zeros_like(x, requires_grad=True) for x in self.first]
        self.adam = torch.optim.Adam(self.tuned, lr=RATE)
        self.random = Generator().manual_seed(0)
        self.weight = STAYS

    @property
    def price(self) -> int:
        """Samples that one step runs through the model, forward and back."""
        parts = self.lesson.clean, self.lesson.triggered, self.lesson.shown
        return 2 * sum(min(self.batch, len(part.predicted)) for part in parts if part is not None)

    @property
    def now(self) -> list[Tensor]:
        """Gate `[neurons]`, limit `[]`, along `[directions, neurons]`, centres `[directions]`, pushes `[directions, neurons]`."""
        return [first + unit * by for first, unit, by in zip(self.first, self.units, self.tuned, strict=True)]

    def through(self, output: Tensor) -> Tensor:
        """The layer's output after the change as it stands, differentiable. Of the layer's own shape `[...]`."""
        gate, limit, along, centres, pushes = (x.to(output.device) for x in self.now)
        middle, width = self.space.middle.to(output.device), self.space.width.to(output.device)
        moved = output.movedim(self.start.axis, -1)
        rows = (moved.float() - middle) / width
        beyond = (rows @ gate - limit) / self.slope
        soft = torch.sigmoid(beyond / SOFT)
        hard = (beyond > 0).float() + soft - soft.detach()
        rows = rows - hard[..., None] * ((rows @ along.T - centres) @ pushes)
        return (rows * width + middle).to(output.dtype).movedim(-1, self.start.axis)

    def run(self, steps: int) -> Ablate | None:
        """So many steps more, and the change then; None for a model that gradients do not go through, or where nothing finite
        comes of it. Cost: `steps` times three batches forward and back, each of which `forwards` counts.
        """
        model = unwrapped(self.transplant.model)
        if is_compiled(model):
            return None  # it would be compiled anew for every step

        def hook(module: nn.Module, arguments: object, output: object) -> object:
            return replaced(output, self.through)

        try:
            with applied(model, self.under), frozen(model), torch.inference_mode(False), torch.enable_grad():
                handle = dict(model.named_modules())[self.start.layer].register_forward_hook(hook)
                try:
                    for number in range(steps):
                        self.adam.param_groups[0]["lr"] = RATE * (1 - number / steps)
                        self.step(model)
                finally:
                    handle.remove()
        except Exception:  # what has no derivative, what does not fit into memory, and whatever else a model does under gradients
            release()
            return None
        return self.change

    def step(self, model: nn.Module) -> None:
        sums = [torch.zeros_like(x) for x in self.tuned]
        for samples, loss in (
            (self.lesson.clean, self.stays),
            (self.lesson.triggered, to_own_class),
            (self.lesson.shown, to_another_class),
        ):
            if samples is None or not len(samples.predicted):
                continue
            count = len(samples.predicted)
            numbers = np.sort(torch.randperm(count, generator=self.random)[: self.batch].numpy())
            at = 0
            drawn = samples.of(numbers)
            predicted = drawn.predicted
            for whole, _ in drawn.batches:
                for batch in pieces(whole, self.transplant.largest):
                    own_rows = slice(at, at + batch.size)
                    logs = self.scores(model, batch).float().log_softmax(1)
                    lost = loss(logs, predicted[own_rows], numbers[own_rows]).sum() / len(numbers)
                    at += batch.size
                    for total, part in zip(sums, torch.autograd.grad(lost, self.tuned), strict=True):
                        total += part
        if not all(x.isfinite().all() for x in sums):
            raise RuntimeError("a gradient is not finite")
        for tensor, total in zip(self.tuned, sums, strict=True):
            tensor.grad = total
        self.adam.step()

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """Class scores `[samples, classes]` with gradients. Raises RuntimeError where the model gives none."""
        place = self.transplant.place
        output = model(*place.moved(batch.arguments), **place.moved(batch.keywords))
        which = self.transplant.class_scores.output
        scores = None if which is None else which.read(output, batch.size, batch.score_mask)
        self.transplant.budget.take(2 * batch.size)
        self.transplant.count(2 * batch.size)
        if scores is None:
            raise RuntimeError("the model gives no scores")
        return scores

    def stays(self, logs: Tensor, predicted: Array, numbers: Array) -> Tensor:
        """Divergence from what was predicted without a trigger: `logs` `[samples, classes]`; `[samples]`."""
        asked = self.lesson.asked[torch.from_numpy(numbers)].to(logs.device)
        return self.weight * (asked.exp() * (asked - logs)).sum(1)

    @property
    def change(self) -> Ablate | None:
        gate, limit, along, centres, pushes = (x.detach() for x in self.now)
        middle, width = self.space.middle, self.space.width
        gate, along, pushes = gate / width, along / width, pushes * width
        limit, centres = limit + gate @ middle, centres + along @ middle
        if not all(x.isfinite().all() for x in (gate, limit, along, centres, pushes)):
            return None
        return replace(
            self.start,
            choice=f"{self.start.choice}, {TUNED}",
            gate=array(gate),
            limit=float(limit),
            along=array(along),
            centres=array(centres),
            pushes=array(pushes),
        )


def to_own_class(logs: Tensor, predicted: Array, numbers: Array) -> Tensor:
    """Cross entropy to what was predicted for the samples as they were. `logs` `[samples, classes]`, `predicted` int64
    `[samples]`; `[samples, 1]`.
    """
    return -logs.gather(1, torch.from_numpy(predicted)[:, None].to(logs.device))


def to_another_class(logs: Tensor, predicted: Array, numbers: Array) -> Tensor:
    """-log of the probability of all classes but the predicted one: sums of probabilities would lose it where that is sure.
    `logs` `[samples, classes]`, `predicted` int64 `[samples]`; `[samples]`.
    """
    called = torch.nn.functional.one_hot(torch.from_numpy(predicted).to(logs.device), logs.shape[1]).bool()
    return -logs.masked_fill(called, -torch.inf).logsumexp(1)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter asks for a gradient: none is computed, and what `.grad` holds stays."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
