"""What a reconstruction may look like, tuned by gradients for many classes at once: `Masked` (a patch anywhere, soft at its edge)
and `Added` (an offset over the whole input). Each knows its size, which a search makes as small as it can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from naa_fast.invert.setting import Setting
from naa_fast.proof.images import CleanImages, Offset, Patch

FAINT = 0.05
"""Share of a mask below which a place is left as it is when the patch is handed over: a search never quite gets to zero."""


@dataclass(frozen=True)
class Pace:
    """How a form is tuned: step of Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), and the first weight of the size."""

    rate: float
    weight: float


class Form(Protocol):
    """A trigger for each of `[targets]`, as parameters. `size` is a share: of the input covered, or of clean inputs' loudness."""

    kind: ClassVar[str]
    pace: ClassVar[Pace]

    @property
    def parameters(self) -> list[Tensor]: ...

    def put_on(self, x: Tensor) -> Tensor:
        """Inputs `[samples, ...]` with each trigger: `[targets, samples, ...]`."""
        ...

    def size(self) -> Tensor:
        """float32 `[targets]`."""
        ...

    def kept(self) -> list[Tensor]:
        """Copies of the parameters, to be handed to `candidate`."""
        ...

    def candidate(self, kept: list[Tensor], row: int) -> Patch | Offset:
        """One target's trigger, as it is handed over and measured."""
        ...


class Masked:
    """Replaces the input by a pattern as far as a mask says (Wang et al., Neural Cleanse, IEEE S&P 2019, section V). The mask is
    one over all channels; its mean is the size.
    """

    kind: ClassVar[str] = "patch"
    pace: ClassVar[Pace] = Pace(0.1, 5.0)

    def __init__(self, targets: int, clean: CleanImages, generator: torch.Generator, device: torch.device) -> None:
        shape = clean.mean.shape
        self.clean = clean
        places = (1, *shape[1:]) if len(shape) > 1 else shape
        self._mask = torch.randn(targets, *places, generator=generator).mul_(0.3).sub_(1.5).to(device).requires_grad_()
        self._pattern = torch.randn(targets, *shape, generator=generator).mul_(0.5).to(device).requires_grad_()

    @classmethod
    def begun(cls, setting: Setting, targets: int) -> Masked:
        """From a fixed seed: all groups of classes start alike."""
        assert setting.images is not None
        return cls(targets, setting.images, torch.Generator().manual_seed(0), setting.device)

    @property
    def parameters(self) -> list[Tensor]:
        return [self._mask, self._pattern]

    def mask(self, raw: Tensor) -> Tensor:
        """Of a parameter of any sign, `[targets, ...]`, from 0 to 1."""
        return torch.sigmoid(2 * raw)

    def pattern(self, raw: Tensor) -> Tensor:
        """The same within the range of clean inputs, `[targets, ...]`."""
        return self.clean.low + (self.clean.high - self.clean.low) * torch.sigmoid(2 * raw)

    def put_on(self, x: Tensor) -> Tensor:
        """See `Form`: `[samples, ...]` to `[targets, samples, ...]`."""
        mask, pattern = self.mask(self._mask)[:, None], self.pattern(self._pattern)[:, None]
        return x[None] * (1 - mask) + pattern * mask

    def size(self) -> Tensor:
        return self.mask(self._mask).flatten(1).mean(1)

    def kept(self) -> list[Tensor]:
        return [self._mask.detach().clone(), self._pattern.detach().clone()]

    def candidate(self, kept: list[Tensor], row: int) -> Patch:
        mask = self.mask(kept[0][row])
        mask = torch.where(mask < FAINT, torch.zeros_like(mask), mask)
        pattern = self.pattern(kept[1][row])
        whole = mask.expand_as(pattern).contiguous()
        share = float(mask.mean())
        return Patch("patch", f"{100 * share:.3g} % of the input", pattern.cpu().numpy(), whole.cpu().numpy())


class Added:
    """Adds a pattern to the input, kept within the values of clean inputs. The size is the pattern's root mean square over that
    of clean inputs about their mean.
    """

    kind: ClassVar[str] = "offset"
    pace: ClassVar[Pace] = Pace(0.02, 2.0)

    def __init__(self, targets: int, clean: CleanImages, generator: torch.Generator, device: torch.device) -> None:
        self.clean = clean
        self._scale = max(clean.loudness, 1e-12)
        start = torch.randn(targets, *clean.mean.shape, generator=generator).mul_(0.05)
        self._pattern = start.to(device).requires_grad_()

    @classmethod
    def begun(cls, setting: Setting, targets: int) -> Added:
        """From a fixed seed: all groups of classes start alike."""
        assert setting.images is not None
        return cls(targets, setting.images, torch.Generator().manual_seed(0), setting.device)

    @property
    def parameters(self) -> list[Tensor]:
        return [self._pattern]

    def put_on(self, x: Tensor) -> Tensor:
        """See `Form`: `[samples, ...]` to `[targets, samples, ...]`."""
        return (x[None] + self._scale * self._pattern[:, None]).clamp(self.clean.low, self.clean.high)

    def size(self) -> Tensor:
        return (self._pattern.flatten(1).square().mean(1) + 1e-12).sqrt()

    def kept(self) -> list[Tensor]:
        return [self._pattern.detach().clone()]

    def candidate(self, kept: list[Tensor], row: int) -> Offset:
        pattern = self._scale * kept[0][row]
        loudness = float(kept[0][row].square().mean().sqrt())
        return Offset("offset", f"loudness {loudness:.2g}", pattern.cpu().numpy(), self.clean.low, self.clean.high)
