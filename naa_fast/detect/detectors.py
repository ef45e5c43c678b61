"""`DETECTORS`: where findings come from, in the order they are told. A detector is a function of `Sets` (sets.py), best in
a file of its own, which imports sets.py and never this one; `judge_outcome` combines what they find and knows none by name.
"""

from __future__ import annotations

from naa_fast.detect.findings import Finding, concentration, find, find_in_predictions, find_in_samples, find_in_tails
from naa_fast.detect.rises import rises
from naa_fast.detect.sets import Detector, Sets


def in_samples(sets: Sets) -> list[Finding]:
    """Proofs, target-class outlier clusters, directions, and samples beyond the clean limit."""
    return find_in_samples(sets.evidence)


def in_layers(sets: Sets) -> list[Finding]:
    """Layers that shift, neurons that stand out, values that are not finite."""
    return find(sets.layers, sets.null, concentration(sets.clean, sets.suspect), sets.given_threshold, sets.evidence)


def in_predictions(sets: Sets) -> list[Finding]:
    """Predicted classes that rise beyond chance."""
    return find_in_predictions(rises(sets.clean, sets.suspect, share=sets.evidence.share), sets.evidence)


def in_tails(sets: Sets) -> list[Finding]:
    """Samples beyond the clean ones of a neuron, where samples were not ranked: ranking sees more of every sample."""
    return find_in_tails(sets.layers, sets.evidence.share) if sets.evidence.ranking is None else []


DETECTORS: tuple[Detector, ...] = (in_samples, in_layers, in_predictions, in_tails)
