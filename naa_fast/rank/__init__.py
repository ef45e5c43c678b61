"""Ranking: which suspect samples lie outside the clean set, class by class.

Start with `RankingPass` in passes.py: it brings the samples of both sets to a `Scorer` (scorer.py), which is fitted and
calibrated on clean ones and scores suspects.

- attempts.py: steps that a verdict can stand without
- passes.py: the passes over both sets, while they are measured or by themselves
- plan.py: what a scan will keep, and where, said before it starts
- opened.py: the sets, opened and suited to the model
- scorer.py: fit, calibrate, score, and the ranked samples

Scores:
- reference.py: what clean samples of a class look like in one layer, and how far others are from that
- packed.py: the same for all layers of a device at once
- everywhere.py: the same on all devices
- waiting.py: batches whose numbers are still on the device
- anomaly.py: one score of what all layers say
- groups.py: which classes get statistics of their own
- codes.py: sums of the class scores, which stand for a class where there are too many
- chosen.py: some samples of a batch, and the class predicted for each
- numbers.py: which item of a set each sample is
- state.py: what was learned so far, for a checkpoint

Measured elsewhere:
- by_reference.py: suspects ranked by a clean set that was measured before
- saved.py: what was learned of the clean set, in its measurement
- handed.py: the same of suspects

What the ranked samples tell:
- retained.py: the samples that are retained
- suspects.py: suspects read once more
- tokens.py: in how many samples of a class a token occurs
- directions.py: what the layers' samples differ along
- evidence.py: all of it as evidence
"""

from naa_fast.rank.by_reference import ReferencePass
from naa_fast.rank.passes import RankingPass
from naa_fast.rank.scorer import RankingResult

__all__ = ["RankingPass", "RankingResult", "ReferencePass"]
