"""`--base` and `--base-weights`: the model that another was tuned from, and how they differ on the sets of a scan."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naa_fast.cli.shared import clean, emit, model_of
from naa_fast.files import write_file

if TYPE_CHECKING:
    from torch import nn

BASE_FILE = "base.json"


def add_base(group: Any, what: str) -> None:
    """`what`: what it is for, in words."""
    group.add_argument("--base", metavar="MODEL", help=f"the model it was fine-tuned from, named as --model is: {what}")
    group.add_argument(
        "--base-weights", type=Path, metavar="FILE", help="weights of the base model (without --base: of the same --model)"
    )


def base_of(arguments: argparse.Namespace) -> argparse.Namespace | None:
    """The arguments that describe the base model; None without one."""
    if arguments.base is None and arguments.base_weights is None:
        return None
    weights = {"weights": arguments.base_weights, "weights_key": None}
    return argparse.Namespace(**{**vars(arguments), **weights, "model": arguments.base or arguments.model})


def base_model(arguments: argparse.Namespace, model: nn.Module, sets: Sequence[Any], device: Any) -> nn.Module | None:
    """The base model, loaded and held against the model on the first sample of each set: what is wrong with it should not cost
    the scan that comes before. None without one. Raises what loading it does, and InputError as `against_base`.
    """
    described = base_of(arguments)
    if described is None:
        return None
    from naa_fast.inputs.batches import PartOfSource
    from naa_fast.proof.against_base import against_base

    base, _ = model_of(described)
    for source in sets:
        against_base(model, base, PartOfSource(source, 0, 1), device=device, scores=arguments.scores)
    return base


def told_against_base(
    arguments: argparse.Namespace, model: nn.Module, base: nn.Module | None, sets: Sequence[Any], device: Any
) -> None:
    """Say how the model differs from its base on the sets, and write base.json into the report's folder; nothing without one."""
    if base is None:
        return
    from naa_fast.proof.against_base import against_base, as_json

    differences = [against_base(model, base, source, device=device, scores=arguments.scores) for source in sets]
    for line in [] if arguments.json else [line for difference in differences for line in difference.lines()]:
        emit(clean(line))
    write_file(arguments.out / BASE_FILE, as_json(differences))
