"""`measure_activations`: a measurement from stored activations, without a model."""

from __future__ import annotations

import difflib
import platform
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from naa_fast.accumulate import Accumulator
from naa_fast.errors import UsageError
from naa_fast.inputs.batches import Batch
from naa_fast.inputs.dumps import Dump, open_dump
from naa_fast.inputs.fingerprint import Fingerprint
from naa_fast.measurement import Measurement, Shard
from naa_fast.scan.chunk import Progress, version_of


def measure_activations(
    folder: str | Path,
    *,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    first_index: int = 0,
    progress: Progress | None = None,
) -> Measurement:
    """The statistics of the activations in a folder (see `naa_fast.inputs.dumps.open_dump`), as a scan would have kept them.

    `layers`: names or globs; None means all. `exclude`: which of these not. Memory: one batch of one layer. Which model they come
    from is not known, so that `compare` cannot tell two models apart. Raises as `open_dump`, and UsageError for a glob that
    matches nothing.
    """
    dump = open_dump(Path(folder))
    chosen, excluded = chosen_layers(dump, layers, exclude or ())
    accumulator, fingerprint = Accumulator(backend), Fingerprint()
    for name in chosen:
        done = 0
        for values, mask in dump.batches(name, batch_size):
            fingerprint.add(Batch((values,), {}, len(values), None))
            x = values.to(device)
            accumulator.begin(len(x), first_index + done, mask)
            accumulator.observe(name, x.transpose(1, 2) if x.ndim == 3 else x[:, :, None], f"axis {x.ndim - 1} of {x.ndim}")
            accumulator.commit()
            done += len(x)
            if progress is not None:
                progress(f"{dump.name}: {name}", done, dump.samples)
    provenance = {
        "python": (platform.python_version(),),
        "versions": tuple(f"{package} {version_of(package)}" for package in ("naa-fast", "torch", "numpy")),
        "device": (str(device),),
        "backends": tuple(accumulator.backends()),
        "layers": (f"stored activations: {len(chosen)} of {len(dump.layers)} layers",),
        **({"excluded": excluded} if excluded else {}),
        "notes": ("measured from stored activations: nothing says which model they come from",),
    }
    shard = Shard(f"{fingerprint.hexdigest()}@{first_index}", dump.samples)
    return Measurement(accumulator.records(), "", "", (shard,), provenance)


def chosen_layers(dump: Dump, layers: Sequence[str] | None, exclude: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The layers to measure, and those that were excluded."""

    def matches(name: str, globs: Sequence[str]) -> bool:
        return any(name == glob or fnmatchcase(name, glob) for glob in globs)

    def unmatched(what: str, globs: Sequence[str], names: Sequence[str]) -> UsageError:
        near = difflib.get_close_matches(globs[0] if globs else "", names, n=5, cutoff=0.3) or list(names)[:8]
        return UsageError(f"no layer matches {', '.join(globs)}{what}", f"{dump.name} has: {', '.join(near)}")

    chosen = [name for name in dump.layers if layers is None or matches(name, layers)]
    if not chosen:
        raise unmatched("", layers or [], list(dump.layers))
    for glob in exclude:
        if not any(matches(name, [glob]) for name in chosen):
            raise unmatched(", which is to be excluded", [glob], chosen)
    kept = [name for name in chosen if not matches(name, exclude)]
    if not kept:
        raise UsageError("every layer is excluded", f"{len(chosen)} were chosen", "exclude fewer, or name others")
    return kept, tuple(name for name in chosen if name not in kept)
