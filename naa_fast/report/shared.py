"""`shared_pixels`: how many pixels samples that carry a patch have in common: maybe more than its proof put on. NumPy only."""

from __future__ import annotations

import numpy as np

from naa_fast.detect.evidence import Evidence
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Patch
from naa_fast.records import Array
from naa_fast.report.drawings import covered_of, picture_of, range_of

FEWEST, FEWEST_OTHERS = 8, 6
"""Pictures with the trigger, and without it, below which nothing is said; six are as many as a proof has examples."""
ALIKE = 0.02
"""Of the range of all pictures: values that differ by no more are called the same."""
USUAL = 0.5
"""Share of the other pictures with the same value from which on a pixel is no part of the trigger, but of a border."""


def shared_pixels(proof: Proof, evidence: Evidence) -> int | None:
    """Pixels next to those a patch covers, and these themselves, that are the same in all kept pictures that carry it and mostly
    not in others, nor in the proof's clean examples; None where too few pictures were kept, or several proofs stand and it is
    not known whose a sample is.
    """
    covered = covered_of(proof)
    standing = [proved for proved in evidence.proof if proved.stands]
    if standing != [proof] or not isinstance(proof.trigger, Patch) or covered is None:
        return None
    if evidence.ranking is None or evidence.pictures is None:
        return None
    kept = zip(evidence.pictures, evidence.ranking.top, strict=False)
    known = [(array, sample.triggered) for array, sample in kept] + [(example.before, False) for example in proof.examples]
    pictures: dict[bool | None, list[Array]] = {True: [], False: [], None: []}
    for array, triggered in known:
        picture = picture_of(array)
        if picture is not None and picture.shape[:2] == covered.shape:
            pictures[triggered].append(picture)
    if len(pictures[True]) < FEWEST or len(pictures[False]) < FEWEST_OTHERS:
        return None
    carrying, others = np.stack(pictures[True]), np.stack(pictures[False])
    low, high = range_of([carrying, others])
    near = ALIKE * (high - low)
    with np.errstate(invalid="ignore"):
        same = (carrying.max(0) - carrying.min(0) <= near).all(-1)
        usual = (np.abs(others - np.median(carrying, 0)) <= near).all(-1).mean(0) >= USUAL
    return int(grown(covered & same, same & ~usual | covered & same).sum())


def grown(start: Array, within: Array) -> Array:
    """The pixels of `within` that hang together with `start`, corners included: bool `[height, width]`."""
    while True:
        padded = np.pad(start, 1)
        high, wide = start.shape
        around = np.any([padded[y : y + high, x : x + wide] for y in range(3) for x in range(3)], axis=0) & within
        if (around == start).all():
            return start
        start = around
