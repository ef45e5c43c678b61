"""`ReferencePass`: suspects ranked by a clean set that was measured before, of which no sample is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from naa_fast.anomalies import AnomalyScores
from naa_fast.capture import select
from naa_fast.capture.selection import Request
from naa_fast.errors import InputError
from naa_fast.inputs.batches import Source
from naa_fast.measurement import Measurement, is_among
from naa_fast.rank.handed import handed
from naa_fast.rank.passes import LATE, RankingPass
from naa_fast.rank.saved import directions_of, sums_of
from naa_fast.rank.scorer import RankingResult, Scorer


class ReferencePass(RankingPass):
    """A `RankingPass` whose clean side comes from a measurement with a `Reference`: `calibrate`, then as there.

    Cost: no forward of its own, one of each suspect sample in the measuring; layers that are chosen and not in the reference, or
    the other way round, take no part.
    """

    def __init__(self, model: nn.Module, suspect: Source, **options: Any) -> None:
        super().__init__(model, suspect, suspect, **options)

    def _prime(self) -> None:
        """What clean samples fix is fixed."""

    def calibrate(self, clean: Measurement) -> ReferencePass:
        """Take up the measurement's reference. Raises InputError where it has none, or none of the layers that are chosen."""
        if clean.reference is None:
            raise InputError("the clean measurement has no reference", "measure it with --reference (reference=True)")
        chosen = tuple(layer.label for layer in select(self.model, self.layers).layers)
        strangers = tuple(name for name in clean.reference.layers if not is_among(name, chosen) or name not in clean.layers)
        reference = clean.reference.without(strangers)
        if not reference.layers:
            raise InputError("the reference has none of the chosen layers", "measure the clean set with the same --layers")
        neurons = {name: record.channels for name, record in clean.layers.items()}
        first = self.ranks.rank == 0  # what every rank knew of the clean set would count once for each
        suspects = self.sources[1].samples or 0
        directions = directions_of(reference if first else reference.without(tuple(reference.layers)), neurons, suspects)
        self.scorer = scorer = Scorer(reference.classes, directions, reference.coded)
        scorer.by_reference = True
        scorer.merge({name: sums_of(layer) for name, layer in reference.layers.items()})
        with torch.no_grad():
            scorer.freeze()
        scorer.calibration.add(reference.items, reference.said.astype("float64"), reference.predicted)
        scorer.weigh()
        self.suspect = self._scoring(scorer)
        return self

    def result(self, clean: Measurement, suspect: Measurement) -> RankingResult | None:
        self._require_read(suspect)
        return super().result(clean, suspect)

    def handed(self, clean: Measurement, suspect: Measurement, retain: bool) -> AnomalyScores | None:
        """The suspects' scores, for their measurement; None elsewhere than on rank 0. `retain`: with inputs of the highest."""
        self._require_read(suspect)
        if not self._all_scored(suspect):
            return None
        assert self.scorer is not None
        return handed(self.scorer, clean.digest(), {name: record.channels for name, record in clean.layers.items()}, retain)

    def _require_read(self, suspect: Measurement) -> None:
        if self._unread(suspect):
            without = Request.of(self.layers).without(suspect.unread)
            raise InputError(f"{', '.join(without.left_out)}: {LATE}", "leave it out with --exclude")
