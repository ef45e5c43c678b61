"""`Sets`: what detectors may read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import Finding
from naa_fast.detect.null import CleanNull
from naa_fast.measurement import Measurement


@dataclass(frozen=True)
class Sets:
    """What detectors may read: both measurements and their `layers` compared, what chance alone would give (`null`), whether the
    limit on single neurons is the user's, and what the ranked samples tell (`evidence`).
    """

    clean: Measurement
    suspect: Measurement
    layers: Sequence[LayerComparison]
    null: CleanNull
    given_threshold: bool
    evidence: Evidence


Detector = Callable[[Sets], list[Finding]]
