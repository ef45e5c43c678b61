"""`HookPoint`: which tensor of a module is read: `Output`, `Input` or `Routing`. `point_of` parses a request's words, once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from naa_fast.capture.experts import ROUTING, is_fused

INPUT_WORD = "in"


@dataclass(frozen=True)
class Output:
    """One tensor of what the module returns: the one of this key; None: its only one."""

    key: str | None = None

    @property
    def word(self) -> str | None:
        """What stands behind the colon in a label, None for no colon."""
        return self.key


@dataclass(frozen=True)
class Input:
    """The first floating-point tensor the module is given."""

    word = INPUT_WORD


@dataclass(frozen=True)
class Routing:
    """What fused experts are given to do: `[tokens, experts]`, the weight of each expert for each token."""

    word = ROUTING


Given = Input | Routing
"""What is read on its way into the module."""
HookPoint = Output | Given
WHOLE = Output()
"""The module's one tensor."""


def point_of(word: str | None, module: nn.Module) -> HookPoint:
    """What a word behind a colon means for a module; None: no colon."""
    if word == INPUT_WORD:
        return Input()
    return Routing() if word == ROUTING and is_fused(module) else Output(word)
