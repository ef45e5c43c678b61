"""Ranking: which suspect samples lie outside the clean set, class by class (`RankingPass`).

passes.py brings the samples, scorer.py scores them: reference.py defines what clean samples of a class look like in a layer and
how far others are from that, packed.py does it for all layers at once, everywhere.py on all devices, and waiting.py brings the
numbers home. by_reference.py ranks by a clean set that was measured before, which saved.py puts into its measurement; handed.py
does the same for suspects that are proved elsewhere. anomaly.py makes one score of what the layers say. retained.py retains the
samples that matter, suspects.py reads them once more, groups.py says which predicted classes get statistics of their own;
tokens.py counts words, directions.py finds what the layers' samples differ along. chosen.py takes some samples of a batch,
numbers.py knows which items they are, state.py makes plain values of what was learned. evidence.py turns the ranked samples
into evidence, opened.py opens what a person gives as data, plan.py says before a scan what it will keep, attempts.py runs steps
that a verdict can stand without.
"""

from naa_fast.rank.by_reference import ReferencePass
from naa_fast.rank.passes import RankingPass
from naa_fast.rank.scorer import RankingResult

__all__ = ["RankingPass", "RankingResult", "ReferencePass"]
