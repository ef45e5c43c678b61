"""`measure`: one pass of a set through a model."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from naa_fast.accumulate import Accumulator, Predictions
from naa_fast.capture import Capture, Selection, select
from naa_fast.capture.selection import LayerSpec, unwrapped
from naa_fast.errors import BackendUnavailable, InputError, ModelError, NaaError, UsageError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.fingerprint import Fingerprint, model_fingerprint
from naa_fast.measurement import Measurement, Shard
from naa_fast.scan.memory import is_out_of_memory, pieces, release

Progress = Callable[[str, int, int | None], None]
"""Called after each batch with the set's name, the samples done, and the total if it is known."""


def measure(
    model: nn.Module,
    source: Source,
    *,
    layers: str | LayerSpec | Sequence[LayerSpec] | None = None,
    device: str | torch.device = "auto",
    backend: str = "auto",
    progress: Progress | None = None,
) -> Measurement:
    """Per-neuron records of the chosen layers over all samples of `source`.

    The model runs in eval mode without gradients and is given back in the mode it came in, with no hook left on it, also when
    it raises. A batch that does not fit into memory is halved until it does, and the notes say so. `device` "auto" leaves the
    model where it is. Floating-point inputs are cast to the model's own precision.

    Raises:
        InputError: no sample, or a batch that cannot be read. ModelError: the forward raised; names layer and batch.
        CaptureError: a requested layer never fired, or gives nothing that can be measured.
        UsageError: a layer pattern that matches nothing. BackendUnavailable: a device or backend that cannot be had.
    """
    place = Placement.of(model, device)
    selection = select(model, layers)
    accumulator, predictions = Accumulator(backend), Predictions()
    fingerprint = Fingerprint()
    done = skipped = 0
    most: float = float("inf")
    input_dtype = ""
    with evaluating(model), torch.no_grad(), Capture(model, selection, accumulator) as capture:
        for index, batch in enumerate(readable_batches(source)):
            fingerprint.add(batch)
            dtype = dtype_of(batch)
            if dtype != (input_dtype or dtype):
                raise InputError(f"batch {index} of {source.name} is {dtype}", f"expected {input_dtype}, as in the first batch")
            input_dtype = dtype
            pending = deque(pieces(batch, most))
            while pending:
                part = pending.popleft()
                accumulator.begin(part.size, done, part.mask)
                capture.begin()
                fits = True
                try:
                    output = forward(model, place, part, index)
                    predictions.observe(output, part.size, part.mask)
                except OutOfMemory:
                    fits = False
                if fits:
                    accumulator.commit()
                    done += part.size
                    continue
                # Nothing of this part was counted. Memory is given back here, where the exception no longer holds its tensors.
                accumulator.discard()
                release()
                most = part.size // 2
                capture.notes.append(f"out of memory with {part.size} samples at a time; went on with {most}")
                pending.extendleft(reversed(pieces(part, most)))
            skipped += batch.skipped
            if progress is not None:
                progress(source.name, done, source.samples)
        if done == 0:
            raise InputError(f"{source.name} gave no sample", "expected at least two samples", "check the path or the loader")
        capture.require_all_fired()
        records = accumulator.records()
    return Measurement(
        records,
        model_fingerprint(unwrapped(model)),
        input_dtype,
        (Shard(fingerprint.hexdigest(), done, skipped),),
        provenance(place, selection, accumulator, capture),
        predictions.read(),
    )


class OutOfMemory(Exception):
    """A forward of more than one sample ran out of memory; fewer may fit."""


class Placement:
    """Where the model's inputs go and the precision its floating-point inputs take (None: as they come)."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self.device = device
        self.dtype = dtype

    @classmethod
    def of(cls, model: nn.Module, device: str | torch.device) -> Placement:
        """Move the model if a device was named; "auto" leaves it where its first parameter is."""
        if str(device) != "auto":
            try:
                model.to(device)
            except (RuntimeError, AssertionError) as error:
                raise BackendUnavailable(
                    f"device '{device}' cannot be had", last_line(error), f"this machine offers: {', '.join(devices())}"
                ) from None
        tensors = [*model.parameters(), *model.buffers()]
        fallback = torch.device("cpu" if str(device) == "auto" else device)
        floating = next((t.dtype for t in tensors if t.is_floating_point()), None)
        return cls(tensors[0].device if tensors else fallback, floating)

    def moved(self, value: Any) -> Any:
        """`value` with every tensor in it on the device and, if floating-point, in the model's precision."""
        if isinstance(value, Tensor):
            dtype = self.dtype if value.is_floating_point() else None
            return value.to(self.device, dtype, non_blocking=True) if dtype else value.to(self.device, non_blocking=True)
        if isinstance(value, dict):
            return {key: self.moved(item) for key, item in value.items()}
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(self.moved(item) for item in value)
        return value


def devices() -> list[str]:
    """The devices torch offers here."""
    found = ["cpu"]
    found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def forward(model: nn.Module, place: Placement, batch: Batch, index: int) -> Any:
    """The model's output for one batch. Its exception becomes a ModelError that names the batch and the layer it rose in."""
    try:
        return model(*place.moved(batch.arguments), **place.moved(batch.keywords))
    except NaaError:
        raise
    except Exception as error:
        if is_out_of_memory(error) and batch.size > 1:
            raise OutOfMemory from error
        shapes = ", ".join(f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in tensors_of(batch))
        raise ModelError(
            f"the model raised {type(error).__name__} on batch {index}",
            f"in layer: {raising_layer(unwrapped(model), error.__traceback__)}",
            f"input: {shapes}",
            f"message: {last_line(error)}",
            "check that the data has the shape and dtype the model expects",
        ) from error


def raising_layer(model: nn.Module, trace: TracebackType | None) -> str:
    """The innermost module of `model` on the traceback: no bookkeeping while all goes well."""
    names = {id(module): name for name, module in model.named_modules()}
    found = "(the model itself)"
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        found = names.get(id(owner), found) or found
        trace = trace.tb_next
    return found


def readable_batches(source: Source) -> Iterator[Batch]:
    """The source's batches; an exception of the user's own loader becomes an InputError that names the batch."""
    batches = iter(source.batches())
    index = 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except NaaError:
            raise
        except Exception as error:
            raise InputError(
                f"reading batch {index} of {source.name} failed", f"{type(error).__name__}: {last_line(error)}"
            ) from error
        yield batch
        index += 1


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode afterwards: a scan must not move batch-norm statistics or drop units."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def tensors_of(batch: Batch) -> list[Tensor]:
    return [value for value in (*batch.arguments, *batch.keywords.values()) if isinstance(value, Tensor)]


def dtype_of(batch: Batch) -> str:
    first = next(iter(tensors_of(batch)), None)
    if first is None:
        raise UsageError("a batch holds no tensor", "expected a tensor, a tuple whose first item is one, or a dict of them")
    return str(first.dtype).removeprefix("torch.")


def provenance(place: Placement, selection: Selection, accumulator: Accumulator, capture: Capture) -> dict[str, tuple[str, ...]]:
    """What produced a measurement, in strings that accumulate when measurements merge."""
    packages = ("naa-fast", "torch", "numpy", "numba", "cupy-cuda12x", "cupy-cuda13x")
    return {
        "python": (platform.python_version(),),
        "versions": tuple(f"{name} {version}" for name in packages if (version := version_of(name))),
        "device": (device_name(place.device),),
        "backends": tuple(accumulator.backends()),
        "layers": (selection.words,),
        "notes": tuple(capture.notes),
    }


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
