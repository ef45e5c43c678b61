"""`Setting`: the model and clean samples of a search, and the model's class scores with gradients to the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from naa_fast.detect.inversion import ClassSearch
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Trigger
from naa_fast.inputs.batches import Batch
from naa_fast.invert.drive import Drive
from naa_fast.proof.examples import examples_of
from naa_fast.proof.images import CleanImages
from naa_fast.proof.transplant import Candidate, PredictedSamples, Transplant, flipped
from naa_fast.proof.trials import Trials, in_turns
from naa_fast.rank.retained import main_tensor, taken, with_main
from naa_fast.records import Array

FIT, MEASURE = 128, 320
"""Clean samples that make triggers, and others that measure them."""
FEWEST = 24
"""Clean samples below which nothing is sought: half of them make triggers."""


class Unsearchable(Exception):
    """Why a search cannot be had of this model, in words."""


@dataclass
class Setting:
    """`fit` and `measure` are parts of the clean samples, `clean`, of predicted classes in turns; `chose` numbers those of `fit`
    (int64); `images` the clean inputs where these are continuous values. `classes` the model tells apart. `drive`: the neurons
    that searches raise first. `backwards` counts samples that a gradient went back through.
    """

    transplant: Transplant
    fit: PredictedSamples
    measure: PredictedSamples
    clean: PredictedSamples
    chose: Array
    images: CleanImages | None
    classes: int
    drive: Drive | None = None
    backwards: int = 0
    _like: dict[int, Batch] = field(default_factory=dict)

    @classmethod
    def of(cls, transplant: Transplant, clean: PredictedSamples, images: CleanImages | None, classes: int) -> Setting:
        """Raises Unsearchable where there are too few samples with a prediction."""
        order = in_turns(clean.predicted)
        order = order[clean.predicted[order] >= 0]
        if len(order) < FEWEST:
            raise Unsearchable(
                f"{len(order)} clean samples have a predicted class, {FEWEST} are needed, several hundred are better"
            )
        cut = min(FIT, len(order) // 2)
        chose, measures = order[:cut], order[cut : cut + MEASURE]
        return cls(transplant, clean.of(chose), clean.of(measures), clean, chose, images, classes)

    @property
    def values(self) -> int:
        """Numbers in one input."""
        return int(main_tensor(self.fit.batches[0][0])[0].numel())

    @property
    def device(self) -> torch.device:
        return self.transplant.place.device

    def measured(self, candidate: Candidate, target: int) -> tuple[float, int]:
        """Share of the measuring part's samples of other classes that a candidate turns, and how many those are."""
        return flipped(self.measure.predicted, self.transplant.predictions(self.measure, candidate), target)

    def proof(
        self, candidate: Candidate, trigger: Trigger, search: ClassSearch, samples: int, others: Sequence[float], singled: bool
    ) -> Proof:
        """The `search` of a class as a proof: its rate on so many `samples`, beside what the `others` reached, with examples."""
        return Proof(
            trigger,
            search.target,
            search.rate,
            max(others, default=0.0),
            samples,
            len(self.fit.predicted),
            controls=len(others),
            examples=examples_of(Trials(self.transplant, self.measure), candidate, search.target),
            singled=singled,
        )

    def rows(self, part: PredictedSamples) -> tuple[Tensor, Tensor]:
        """The inputs of a part on the device, images with their channels first, and the class predicted for each (int64)."""
        x = torch.cat([main_tensor(batch) for batch, _ in part.batches])
        if self.transplant.last:
            x = x.movedim(-1, 1)
        predicted = torch.from_numpy(part.predicted)
        turns = torch.from_numpy(in_turns(part.predicted))  # every batch of a search holds as many classes as there are
        return x[turns].to(self.device), predicted[turns].to(self.device)

    def scores(self, x: Tensor) -> Tensor:
        """Class scores float32 `[samples, classes]` of inputs, with the graph they came by. Raises Unsearchable without any."""
        size = len(x)
        if size not in self._like:
            self._like = {size: taken(self.transplant.template, np.zeros(size, np.int64))}
        batch = with_main(self._like[size], x.movedim(1, -1).contiguous() if self.transplant.last else x)
        place = self.transplant.place
        output = self.transplant.model(*place.moved(batch.arguments), **place.moved(batch.keywords))
        read = self.transplant.class_scores.output
        scores = None if read is None else read.read(output, size, batch.score_mask)
        self.transplant.count(size)
        if scores is None or scores.shape[1] != self.classes:
            raise Unsearchable("the model's class scores change their form from batch to batch")
        return scores.float()

    def gradients(self, loss: Tensor, parameters: Sequence[Tensor], samples: int) -> list[Tensor]:
        """The gradients of a `loss` `[]`, each shaped as its parameter; `samples` counts for the cost. Raises Unsearchable where
        there is none, or it is not finite.
        """
        if not loss.requires_grad:
            raise Unsearchable("no gradient reaches the input: the model's forward detaches it, or runs without gradients")
        self.backwards += samples
        try:
            gradients = list(torch.autograd.grad(loss, list(parameters)))
        except RuntimeError as error:
            words = (str(error).strip().splitlines() or ["no message"])[0]
            raise Unsearchable(f"no gradient reaches the input: {words[:200]}") from None
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            raise Unsearchable("the model's gradients are NaN or infinite, so nothing can be made by them")
        return gradients
