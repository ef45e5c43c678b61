"""`ray_measure`: a Ray Data set through copies of a model held by actors. Needs the extra `ray`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from naa_fast.capture import ClassScores
from naa_fast.errors import InputError, NaaError, UsageError
from naa_fast.inputs.opening import open_source
from naa_fast.measurement import Measurement
from naa_fast.scan.loop import joined_chunks, measure
from naa_fast.scan.options import RunOptions

if TYPE_CHECKING:
    from torch import nn

    from naa_fast.capture.selection import LayerSpec


def ray_measure(
    dataset: Any,
    model_factory: Callable[[], nn.Module],
    *,
    column: str = "data",
    layers: str | LayerSpec | Sequence[LayerSpec] | None = None,
    batch_size: int = 256,
    device: str = "auto",
    backend: str = "auto",
    scores: str | None = None,
    actors: int = 1,
    resources: dict[str, Any] | None = None,
) -> Measurement:
    """The measurement of a `ray.data.Dataset`, as `naa_fast.measure` of its rows in their order.

    Each of `actors` processes calls `model_factory` once and measures blocks as they come; a block is a chunk with its place in
    the set, and the records join in the order of the blocks, so neither the number of actors nor their speed changes a bit.
    `column` holds the model's input, one array a row. `resources` goes to each actor: `{"num_gpus": 1}`. Blocks travel by
    Ray's object store; what comes back is some 1,100 bytes a neuron. Cut too large blocks with `dataset.repartition(n)`.

    Raises:
        UsageError: Ray is not installed, or fewer than one actor. InputError: no rows, or no such column. Else as `measure`.
    """
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise UsageError("ray_measure needs Ray, which is not installed", "pip install 'naa-fast[ray]'") from None
    if actors < 1:
        raise UsageError(f"{actors} actors", "expected 1 or more")
    options = RunOptions(layers, batch_size, device, backend, scores)
    whole = dataset.materialize()
    names = whole.columns() or []
    if not names:
        raise InputError("the Ray data set gave no sample", "it is empty", "expected at least two samples")
    if column not in names:
        raise InputError(f"the Ray data set has no column '{column}'", f"found: {', '.join(names)}", "name the model's input")
    blocks = whole.to_numpy_refs(column=column)
    count = ray.remote(num_cpus=0)(rows_of)
    starts = [0, *accumulate(ray.get([count.remote(block) for block in blocks]))]
    worker = ray.remote(**(resources or {"num_cpus": 1}))(Worker)
    pool = ActorPool([worker.remote(model_factory, options) for _ in range(min(actors, len(blocks)))])
    total = Measurement.zero()
    turns = zip(blocks, starts, strict=False)
    for content, words in pool.map(lambda actor, turn: actor.measure.remote(*turn), turns):  # in the order of the blocks
        if words:
            raise NaaError(*words)
        total = joined_chunks(total, Measurement.from_bytes(content))
    return total


def rows_of(block: Any) -> int:
    return len(block)


class Worker:
    """One actor: a model, and how to measure with it."""

    def __init__(self, model_factory: Callable[[], nn.Module], options: RunOptions) -> None:
        self.model = model_factory()
        self.options = options
        self.scores = ClassScores(options.scores)

    def measure(self, block: Any, first_index: int) -> tuple[bytes, list[str]]:
        """One block's measurement as the bytes of its file; or the lines of an error, which Ray would wrap in its own."""
        if len(block) == 0:
            return Measurement.zero().to_bytes(), []
        try:
            source = open_source(block, self.options.batch_size)
            measured = measure(self.model, source, self.options, first_index=first_index, scores=self.scores)
        except NaaError as error:
            return b"", [error.headline, *error.details]
        return measured.to_bytes(), []
