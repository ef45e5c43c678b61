"""Masks of a layer's own positions, where a model says how its layers shorten its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from naa_fast.accumulate.frame import Shorten
from naa_fast.capture.selection import unwrapped

FRAMES = "_get_feature_vector_attention_mask"


def shortener(model: nn.Module) -> Shorten | None:
    """How a speech model of transformers turns a mask of audio samples into one of frames; None for models that do not say.

    Layers before the last frames are made have more positions: there a sample has its share of them, to one position.
    """
    model = unwrapped(model)
    owners = (model, getattr(model, getattr(model, "base_model_prefix", "") or "-", None))
    given = next((method for owner in owners if callable(method := getattr(owner, FRAMES, None))), None)
    if given is None:
        return None

    def shorten(mask: Tensor, positions: int) -> Tensor | None:
        lengths = mask.sum(1)
        if not bool((mask == (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])).all()):
            return None  # padded elsewhere than at the end
        try:
            shorter, whole = (given(positions, counted.long()).bool() for counted in (mask, torch.ones_like(mask)))
        except Exception:  # a stranger's code
            return None
        if shorter.shape == (len(mask), positions) and bool(whole.all()):
            return shorter
        frames = -(-lengths * positions // mask.shape[1])
        return torch.arange(positions, device=mask.device) < frames[:, None]

    return shorten
