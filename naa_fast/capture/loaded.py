"""What a person should know of how a model was loaded, kept on the model until the report tells it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

ATTRIBUTE = "naa_fast_loaded"


@dataclass(frozen=True)
class Loaded:
    """`reading`: how its weights were read; `left_out`: what lay beside them and is not in the model; `gaps`: why a pass would
    not be honest.
    """

    reading: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()


def told_of(model: nn.Module) -> Loaded:
    """What loading told of a model; nothing of one that a person built."""
    told = getattr(model, ATTRIBUTE, None)
    return told if isinstance(told, Loaded) else Loaded()


def add_told(model: nn.Module, reading: tuple[str, ...] = (), left_out: tuple[str, ...] = (), gaps: tuple[str, ...] = ()) -> None:
    """Tell more of how a model was loaded."""
    before = told_of(model)
    more = {"reading": before.reading + reading, "left_out": before.left_out + left_out, "gaps": before.gaps + gaps}
    setattr(model, ATTRIBUTE, replace(before, **more))
