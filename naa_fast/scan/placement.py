"""Where the model runs, and its inputs with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from naa_fast.errors import BackendUnavailable


class Placement:
    """Where the model's inputs go and the precision its floating-point inputs take (None: as they come)."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.device = device
        self.dtype = dtype

    @classmethod
    def of(cls, model: nn.Module, device: str | torch.device) -> Placement:
        """Move the model if a device was named; "auto" leaves it where its first parameter is.

        Raises BackendUnavailable, with the devices there are, if the named one cannot be had.
        """
        if str(device) != "auto":
            try:
                model.to(device)
                torch.empty(0, device=device)
            except (RuntimeError, AssertionError) as error:
                words = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise BackendUnavailable(
                    f"device '{device}' cannot be had", words, f"this machine offers: {', '.join(devices())}"
                ) from None
        tensors = [*model.parameters(), *model.buffers()]
        fallback = torch.device("cpu" if str(device) == "auto" else device)
        # Mixed precision casts for itself; the first parameter's type would be a guess that can overflow.
        floating = {t.dtype for t in model.parameters() if t.is_floating_point()}
        return cls(tensors[0].device if tensors else fallback, floating.pop() if len(floating) == 1 else None)

    def moved(self, value: Any) -> Any:
        """`value` with every tensor in it on the device and, if floating-point, in the model's precision."""
        if isinstance(value, Tensor):
            dtype = self.dtype if value.is_floating_point() else None
            return value.to(self.device, dtype, non_blocking=True) if dtype else value.to(self.device, non_blocking=True)
        if isinstance(value, dict):
            return {key: self.moved(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.moved(item) for item in value)
        return value

    def __str__(self) -> str:
        name = f" ({torch.cuda.get_device_name(self.device)})" if self.device.type == "cuda" else ""
        return f"{self.device}{name}"


def devices() -> list[str]:
    """The devices torch offers here."""
    names = ["cpu"]
    names += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return names + (["mps"] if torch.backends.mps.is_available() else [])
