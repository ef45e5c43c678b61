"""`RunOptions`: how sets are run through a model: one value from the front door to the loop, and what binds a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naa_fast.detect.interim import STOPS
from naa_fast.errors import UsageError

if TYPE_CHECKING:
    import torch

    from naa_fast.capture.selection import Layers, Request


def require_whole(name: str, value: Any, least: int) -> None:
    """Raise UsageError unless a value is a whole number of `least` or more, or None."""
    if value is None and name != "batch size":
        return
    try:
        number = index(value)
    except TypeError:
        raise UsageError(f"{name} is {value!r}", f"expected a whole number of {least} or more") from None
    if number < least:
        raise UsageError(f"{name} is {value}", f"expected {least} or more")


@dataclass(frozen=True)
class RunOptions:
    """How a set is run through a model; every set of a scan in the same way.

    `layers`: see `naa_fast.capture.select`; None: the default. `device` "auto" leaves the model where it is, `backend` "auto"
    takes the fastest. `batch_size`: samples a forward, where the set is cut into batches here. `scores`: which output the class
    scores are; None: by names and shapes. `stop_early`: forwards end after the last chosen layer; records are the same, but
    predictions are not counted. `histograms`: of samples' means and maxima, 1,020 bytes a neuron, 2,040 where a sample has
    several positions. `prefetch`: batches a thread reads ahead, which changes no bit. `stop_when`: one of
    `detect.interim.STOPS`, which may end the suspect set early; None: it is read to its end.

    `checkpoint`: the folder in which finished chunks of `chunk_size` items are kept, every `interval_s` seconds and when a signal
    asks to stop; `resume` goes on from there. Raises UsageError where these do not go together.
    """

    layers: Layers | Request = None
    batch_size: int = 256
    device: str | torch.device = "auto"
    backend: str = "auto"
    scores: str | None = None
    stop_early: bool = False
    prefetch: int | None = None
    chunk_size: int | None = None
    checkpoint: Path | None = None
    resume: bool = False
    interval_s: float = 60.0
    histograms: bool = True
    stop_when: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("chunk_size", 1), ("prefetch", 0)):
            require_whole(name.replace("_", " "), getattr(self, name), least)
        if self.resume and self.checkpoint is None:
            raise UsageError("resume without a checkpoint", "name the folder the checkpoints are in")
        if self.stop_when not in (None, *STOPS):
            raise UsageError(f"stop_when is {self.stop_when!r}", f"expected one of {', '.join(STOPS)}, or none")
        if self.stop_early and self.scores is not None:
            raise UsageError("scores with stop_early", "the forwards end before the model gives any", "leave one of them out")

    @classmethod
    def asked(
        cls,
        layers: Layers,
        exclude: Layers,
        batch_size: int,
        device: str | torch.device,
        backend: str,
        scores: str | None,
        stop_early: bool,
        prefetch: int | None,
        chunk_size: int | None,
        checkpoint: str | Path | None,
        resume: bool,
    ) -> RunOptions:
        """As the arguments of `naa_fast.scan` and `measure` say."""
        from naa_fast.capture.selection import Request

        folder = None if checkpoint is None else Path(checkpoint)
        request = Request(layers, exclude)
        return cls(request, batch_size, device, backend, scores, stop_early, prefetch, chunk_size, folder, resume)

    def without(self, layers: tuple[str, ...]) -> RunOptions:
        """The same without some of the layers: those that another set could not be read at."""
        from naa_fast.capture.selection import Request

        return replace(self, layers=Request.of(self.layers).without(layers))

    def of(self, name: str) -> RunOptions:
        """The same for one set of several, whose checkpoint is a folder of its own inside the common one."""
        return self if self.checkpoint is None else replace(self, checkpoint=self.checkpoint / name)

    def bound(self) -> dict[str, str]:
        """What a checkpoint is refused for where it differs: these decide the bits, or which neurons there are."""
        bound = {"backend": self.backend, "chunk size": str(self.chunk_size), "scores": self.scores or ""}
        bound |= {"histograms": "kept" if self.histograms else "none"}
        return bound | ({} if self.stop_when is None else {"stop when": self.stop_when})

    def told(self) -> dict[str, Any]:
        """What a report says of them."""
        told = {"batch_size": self.batch_size, "device": str(self.device), "backend": self.backend}
        return told if self.stop_when is None else told | {"stop_when": self.stop_when}


def asked_words(layers: Layers) -> list[str]:
    """What was asked for, for the report."""
    asked = [layers] if isinstance(layers, str | type) else list(layers or ())
    return [word if isinstance(word, str) else word.__name__ for word in asked]
