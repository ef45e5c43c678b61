"""`Work`: what the steps of a scan run the model with, once both sets are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from naa_fast.capture import ClassScores
from naa_fast.detect.proof import Proof
from naa_fast.scan.stopping import StoppableProgress


@dataclass(frozen=True)
class Work:
    """The `model` on its `device`, which of its outputs the class `scores` are, and `watch`, which shows how far a step is and
    may end it; `triggers`, proofs of another audit whose triggers are looked for among the suspects; how many `classes` were
    counted, 0 where that is unknown.
    """

    model: nn.Module
    device: str | torch.device = "auto"
    scores: ClassScores | None = None
    watch: StoppableProgress | None = None
    triggers: Sequence[Proof] = ()
    classes: int = 0
