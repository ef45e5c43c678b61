"""`Work`: what the steps of a scan run the model with, once both sets are measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from naa_fast.capture import ClassScores
from naa_fast.scan.stopping import StoppableProgress


@dataclass(frozen=True)
class Work:
    """The `model` on its `device`, which of its outputs the class `scores` are, and `watch`, which shows how far a step is and
    may end it.
    """

    model: nn.Module
    device: str | torch.device = "auto"
    scores: ClassScores | None = None
    watch: StoppableProgress | None = None
