"""What has to be known of a model before its samples count, found by forwards of a few samples that are not measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from naa_fast.capture import Capture
from naa_fast.capture.row_order import PROBED, Recorder, RowOrder, alike, row_order
from naa_fast.inputs.batches import DECODER, Batch, selected


class Runs(Protocol):
    """Who runs batches: `together`: the model is spread over ranks, which would have to probe together."""

    capture: Capture
    together: bool

    def forward(self, batch: Batch) -> object: ...


def row_orders(runner: Runs, part: Batch, layers: frozenset[str]) -> dict[str, RowOrder]:
    """In what order these layers give several rows a sample. Cost: two forwards of PROBED samples."""
    if runner.together:
        return dict.fromkeys(layers, RowOrder.SAMPLE_FIRST)
    rows = some(part)
    seen = [recorded(runner, selected(part, order, len(order), ()), layers) for order in (rows, rows.flip(0))]
    first = [{name: x for (name, call), x in calls.items() if call == 0} for calls in seen]
    return {name: row_order(first[0].get(name), first[1].get(name), len(rows)) for name in layers}


def decoder_calls(runner: Runs, part: Batch) -> frozenset[tuple[str, int]]:
    """The calls of layers (layer, number in the forward) that what a decoder is given enters: those that give something else when
    it is changed. Cost: two forwards of PROBED samples.
    """
    if runner.together:
        return frozenset()
    rows = some(part)
    before = selected(part, rows, len(rows), ())
    after = replace(before, keywords={key: changed(key, value) for key, value in before.keywords.items()})
    first, second = (recorded(runner, batch, None) for batch in (before, after))
    return frozenset(call for call, x in first.items() if call not in second or not same(x, second[call]))


def changed(key: str, value: object) -> object:
    """What a decoder is given, with its samples' tokens in another order; everything else as it is."""
    if not key.startswith(DECODER) or "mask" in key or not isinstance(value, Tensor) or value.ndim < 2:
        return value
    turned = value.roll(1, 0)
    return value.flip(1) if torch.equal(turned, value) else turned


def same(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors `[...]` are alike, also in shape."""
    return x.shape == y.shape and alike(x.float(), y.float())


def some(part: Batch) -> Tensor:
    """Places of a few samples, spread over the batch: int64 `[places]`."""
    return torch.linspace(0, part.size - 1, min(part.size, PROBED)).long()


def recorded(runner: Runs, part: Batch, layers: frozenset[str] | None) -> dict[tuple[str, int], Tensor]:
    """What some layers, or all, give in each of their calls for a batch that is not measured."""
    capture, recorder = runner.capture, Recorder(layers)
    observer, capture.observer, capture.probing = capture.observer, recorder, True
    try:
        capture.begin(part.size, part.mask)
        runner.forward(part)
        return recorder.seen
    finally:
        capture.observer, capture.probing = observer, False
