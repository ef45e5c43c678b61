"""`load_timm`: an architecture of timm by name, with weights that may come from anybody."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from naa_fast.errors import ModelError, UsageError
from naa_fast.inputs.weights import first_line, load_weights, read_weights

PREFIX = "timm:"
FETCHING = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def load_timm(
    name: str,
    arguments: Mapping[str, Any],
    weights: Path | None = None,
    trusted: str | None = None,
    weights_key: str | None = None,
) -> nn.Module:
    """`timm.create_model(name, pretrained=False, **arguments)` with `weights` in it; random ones without.

    Nothing is fetched, and timm's own ways to read weights are not used: they unpickle. Raises as `read_weights` and
    `load_weights`, UsageError for names that would be fetched, ModelError if timm cannot be imported or does not know the name.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(
            f"timm:{name} is not the name of an architecture",
            "names with a place in front, such as hf-hub: or local-dir:, would fetch files or unpickle them",
            "expected timm:NAME, for example timm:resnet50, and --weights FILE",
        )
    fetching = next((key for key in arguments if key in FETCHING), None)
    if fetching is not None:
        raise UsageError(
            f"--model-arg {fetching} with timm:{name}", "timm would fetch weights, or unpickle a file", "give them with --weights"
        )
    try:
        timm = importlib.import_module("timm")
    except Exception as error:  # timm imports torchvision, which dies in many ways where it does not fit torch
        raise ModelError(
            "timm models need timm, which cannot be imported",
            first_line(error),
            "pip install 'naa-fast[timm]', and the torchvision that belongs to this torch",
        ) from error
    state = None if weights is None else read_weights(weights, trusted)
    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name[:6]}*")[:5]
        raise ModelError(
            f"timm knows no architecture {name}", *([f"near: {', '.join(near)}"] if near else []), "see timm.list_models()"
        )
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:
        raise ModelError(f"timm could not build {name}", first_line(error), "check --model-arg") from error
    if state is not None and weights is not None:
        load_weights(model, state, weights, weights_key)
    return model
