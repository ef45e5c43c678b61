"""`open_sets`: what a person gives as trusted and suspect data, opened and suited to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from naa_fast.capture.fingerprint import model_fingerprint
from naa_fast.capture.runnable import require_runnable
from naa_fast.capture.selection import unwrapped
from naa_fast.errors import StateMismatch
from naa_fast.inputs.batches import Source
from naa_fast.inputs.images import fit_images
from naa_fast.inputs.opening import open_source
from naa_fast.inputs.padding import fitted
from naa_fast.inputs.preprocessing import ImageOptions
from naa_fast.measurement import Measurement
from naa_fast.rank.handed import ElsewhereSource

MEASURED = ".naa.safetensors"


@dataclass(frozen=True)
class OpenedSets:
    """The `clean` and the `suspect` set, and the measurements that were given in their places: of those sets nothing is read.
    Where the clean one was measured, `clean` is the suspect set as well. `clean_name`: what the report calls it.
    """

    clean: Source
    suspect: Source
    clean_measured: Measurement | None
    suspect_measured: Measurement | None
    clean_name: str


def open_sets(model: nn.Module, clean: Any, suspect: Any, batch_size: int, images: ImageOptions | None = None) -> OpenedSets:
    """Both sets; each may be a measurement, or the file (.naa.safetensors) of one. Raises what `open_source` does."""
    of_clean, of_suspect = given_measurement(clean), given_measurement(suspect)
    for measured in (of_clean, of_suspect):
        require_model_of(measured, model)
    read = [data for data, measurement in ((clean, of_clean), (suspect, of_suspect)) if measurement is None]
    sources = fit_sets(model, [open_source(data, batch_size, images=images) for data in read], images)
    if of_suspect is not None:
        options_of_text = getattr(sources[0], "options", None) if sources else None
        sources.append(ElsewhereSource(f"measurement {suspect}", of_suspect, options_of_text))
    name = sources[0].name if of_clean is None else f"reference {clean}"
    return OpenedSets(sources[0], sources[-1], of_clean, of_suspect, name)


def fit_sets(model: nn.Module, sources: Sequence[Source], images: ImageOptions | None = None) -> list[Source]:
    """The sets read as the model takes them: texts padded with its token, images in its mode and size. Raises as `fit_images`."""
    suited = [fitted(model, source) for source in sources]
    fit_images(model, suited, images)
    return suited


def require_model_of(measured: Measurement | None, model: nn.Module) -> None:
    """Raise StateMismatch where a measurement is of another model, before a set is measured to be held against it."""
    require_runnable(model)
    here = model_fingerprint(unwrapped(model)) if measured is not None and measured.model else ""
    if measured is not None and here != measured.model:
        raise StateMismatch(
            "the measurement given in place of a set is of another model",
            f"model: {measured.model} there, {here} here",
            "measure the set with this model and its weights",
        )


def given_measurement(data: Any) -> Measurement | None:
    """The measurement that is given in place of a set: itself, or the file it lies in."""
    if isinstance(data, str | Path) and str(data).endswith(MEASURED):
        data = Measurement.load(data)
    return data if isinstance(data, Measurement) else None
