"""What a ranking has learned of suspects, as `AnomalyScores` that a measurement file holds (`handed`), and back (`taken_up`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naa_fast.anomalies import AnomalyScores, RetainedInputs
from naa_fast.detect.evidence import PLACE_IN_SET
from naa_fast.inputs.batches import Batch
from naa_fast.inputs.order import Order
from naa_fast.measurement import Measurement
from naa_fast.rank.directions import Directions
from naa_fast.rank.retained import SHOWN, Offered, Reservoir, Top
from naa_fast.rank.scorer import RESERVOIR, TOP, Rows, Scored, Scorer
from naa_fast.rank.state import NotKept
from naa_fast.rank.tokens import TokenTally
from naa_fast.records import Array
from naa_fast.reference import HELD, Directed, chosen

PARTS = ("arguments", "keywords", "mask", "decoder_mask")


class ElsewhereSource:
    """A suspect set that was ranked elsewhere: none of it can be read here, but the inputs that were retained."""

    read_ahead = False
    order = Order(False, False, PLACE_IN_SET)

    def __init__(self, name: str, measured: Measurement, options: Any = None) -> None:
        """`options`: how the clean set's texts became tokens."""
        self.name = name
        self.samples: int | None = measured.samples + measured.skipped
        self.options = options

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        return iter(())


def handed(scorer: Scorer, by: str, neurons: Mapping[str, int], retain: bool) -> AnomalyScores:
    """What `scorer` knows of the suspects it was shown, ranked by the clean measurement of digest `by`. `retain`: with inputs."""
    scorer.settle()
    items, scores, predicted = scorer.suspects.joined()
    top = scorer.top.offered()
    directed = {}
    for name, saved in scorer.directions.saved({}, 1).items():
        aside = chosen(HELD, (saved["held"], saved["held"][:0]), (saved["held_items"], saved["held_items"][:0]))
        directed[name] = Directed(**saved | {"held": aside[0], "held_items": aside[1]})
    tally = scorer.tokens["suspect"]
    anomalies = AnomalyScores(
        by,
        {name: neurons.get(name, 0) for name in scorer.layers},
        items,
        scores.astype(np.float32),
        predicted.astype(np.int32),
        scorer.null_scores,
        scorer.null_predicted,
        np.concatenate([offered.samples for offered in top]) if top else np.zeros(0, np.int64),
        np.concatenate([offered.named for offered in top]) if top else np.zeros((0, SHOWN, 3)),
        directed,
        tuple(filter(None, map(retained, top))) if retain else (),
        tally.saved() if retain and tally.samples and not tally.overflown else None,
        scorer.largest,
    )
    return anomalies.trimmed()


def taken_up(measured: AnomalyScores, scorer: Scorer) -> Scored:
    """The same as one of several processes hands it in; layers that `scorer` does not rank by are left out."""
    rows = Rows()
    rows.add(measured.items, measured.scores.astype(np.float64), measured.predicted.astype(np.int64))
    number = np.array([scorer.layers.index(name) if name in scorer.layers else -1 for name in measured.layers], np.int64)
    deviating = measured.top_deviating.copy()
    deviating[..., 0] = number[deviating[..., 0].astype(np.int64)]
    deviating[deviating[..., 0] < 0] = 0.0
    place = np.searchsorted(measured.items, measured.top_items)
    scores, predicted = rows.values[0][place], rows.predicted[0][place]
    offered, whole = list[Offered](), np.ones(len(place), bool)
    for inputs in measured.retained:
        places = np.array([np.flatnonzero(measured.top_items == item)[0] for item in inputs.items], np.int64)
        whole[places] = False
        offered.append(Offered(inputs.items, scores[places], predicted[places], deviating[places], batch_of(inputs)))
    offered.append(Offered(measured.top_items[whole], scores[whole], predicted[whole], deviating[whole], None))
    directions = Directions(scorer.directions.neurons, scorer.directions.samples)
    directions.restore({name: vars(directed) for name, directed in measured.directed.items() if name in scorer.layers}, 1)
    tokens = {"clean": TokenTally(), "suspect": TokenTally.of_saved(measured.tokens)}
    return Scored(rows, Top.of(TOP, offered), directions, Reservoir(RESERVOIR), tokens, measured.largest)


def retained(offered: Offered) -> RetainedInputs | None:
    """The inputs of some samples; None where there are none, or of a type of the user's own."""
    if offered.batch is None:
        return None
    arrays = list[Array]()
    try:
        form = {name: form_of(getattr(offered.batch, name), offered.batch.size, arrays) for name in PARTS}
    except NotKept:
        return None
    return RetainedInputs(offered.samples, json.dumps(form, sort_keys=True), tuple(arrays))


def form_of(value: Any, size: int, arrays: list[Array]) -> Any:
    """How a value is put together of `arrays`, to which its tensors are added. Raises NotKept."""
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    if isinstance(value, Tensor) and value.ndim and len(value) == size:
        whole = value.detach().cpu().contiguous()
        half = whole.dtype == torch.bfloat16
        arrays.append((whole.view(torch.uint16) if half else whole).numpy())
        return {"array": len(arrays) - 1, "bfloat16": half}
    if type(value) in (list, tuple):
        return {type(value).__name__: [form_of(item, size, arrays) for item in value]}
    if isinstance(value, dict) or type(value).__name__ == "BatchEncoding":
        return {"dict": [[str(key), form_of(item, size, arrays)] for key, item in value.items()]}
    raise NotKept(type(value).__name__)


def batch_of(inputs: RetainedInputs) -> Batch:
    """Inverse of `retained`. Raises KeyError, TypeError or ValueError for a form that it never gave."""
    form = json.loads(inputs.form)
    arguments, keywords, mask, decoder_mask = (value_of(form[name], inputs.arrays) for name in PARTS)
    if not isinstance(arguments, tuple) or not isinstance(keywords, dict):
        raise ValueError("retained inputs that make no batch")
    return Batch(arguments, keywords, len(inputs.items), mask, decoder_mask=decoder_mask)


def value_of(form: Any, arrays: tuple[Array, ...]) -> Any:
    if "array" in form:
        tensor = torch.from_numpy(arrays[form["array"]])
        return tensor.view(torch.bfloat16) if form["bfloat16"] else tensor
    if "dict" in form:
        return {str(key): value_of(item, arrays) for key, item in form["dict"]}
    for name, kind in (("list", list), ("tuple", tuple)):
        if name in form:
            return kind(value_of(item, arrays) for item in form[name])
    plain = form["plain"]
    if not (plain is None or isinstance(plain, bool | int | float | str)):
        raise ValueError("retained inputs that hold something else than values")
    return plain
