"""`gather`: the second look and the proofs, as the evidence that is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from naa_fast.capture.selection import LayerSpec
from naa_fast.detect.evidence import MOST_RANKED, Evidence, RankedSample, Ranking
from naa_fast.detect.proof import Proof
from naa_fast.errors import NaaError
from naa_fast.inputs.batches import IterableSource, Source
from naa_fast.measurement import Measurement
from naa_fast.proof.carriers import carriers
from naa_fast.proof.prove import prove
from naa_fast.rank.keep import Kept, main_tensor
from naa_fast.rank.look import Look, look
from naa_fast.scan.chunk import Progress
from naa_fast.scan.ranks import Ranks

SMALLEST = 64
"""Clean samples below which nothing can be ranked: half of them fix the means, the others say what chance does."""


def gather(
    model: nn.Module,
    clean: Source,
    suspect: Source,
    measured: tuple[Measurement, Measurement],
    *,
    layers: str | LayerSpec | Sequence[LayerSpec] | None = None,
    device: str | torch.device = "auto",
    backend: str = "auto",
    progress: Progress | None = None,
    proof: bool = True,
) -> Evidence:
    """Rank the suspect samples and try to prove a trigger. Never raises a NaaError: what was measured stands without it.

    Cost: see `look` and `prove`, and one more reading of the suspect set where a trigger was proved.
    """
    reason = obstacle(clean, suspect, measured)
    if reason is not None:
        return Evidence(notes=(f"which samples set it off, and whether a trigger can be proved: {reason}",))
    try:
        seen = look(model, clean, suspect, measured, layers=layers, device=device, backend=backend, progress=progress)
        ranking = Ranking(seen.scores, seen.predicted, seen.null_scores, seen.null_predicted)
        proofs: list[Proof] = []
        notes: list[str] = []
        forwards = 0
        if not proof:
            notes.append("whether a trigger can be proved: it was switched off")
        else:
            proofs, forwards, untried = prove(model, seen, device=device)
            notes += [f"whether a trigger can be proved: {untried}"] if untried else []
    except NaaError as error:
        return Evidence(notes=(f"which samples set it off: the second look ended with: {error.headline}",))
    carry = np.zeros(len(seen.scores), bool)
    rows = [main_tensor(batch) for batch, _ in seen.drawn]
    for one in proofs:
        if one.stands:
            carry |= carriers(suspect, rows, seen.predicted, one)
    return Evidence(replace(ranking, carriers=carry, top=tuple(named(seen, suspect))), tuple(proofs), forwards, tuple(notes))


def obstacle(clean: Source, suspect: Source, measured: tuple[Measurement, Measurement]) -> str | None:
    """Why the sets cannot be looked at again, or None."""
    for name, source in (("clean", clean), ("suspect", suspect)):
        if isinstance(source, IterableSource):
            if iter(source.data) is source.data:
                return f"the {name} set can be read only once; pass a DataLoader, a tensor or a path"
            sampler = getattr(source.data, "sampler", None)
            if isinstance(sampler, torch.utils.data.RandomSampler):
                return f"the loader of the {name} set shuffles, so its samples have no number; use shuffle=False"
    if Ranks.here().count > 1:
        return "not done under torchrun; rank the samples in one process"
    if measured[0].samples < SMALLEST:
        return f"only {measured[0].samples} clean samples (at least {SMALLEST} are needed)"
    return None


def named(seen: Look, suspect: Source) -> list[RankedSample]:
    """The highest-ranked samples, with the names of what lit up in them."""
    names = list(seen.layers)
    files = getattr(suspect, "file_of", lambda sample: None)

    def lit(kept: Kept) -> tuple[tuple[str, int, float], ...]:
        return tuple((names[layer], feature % max(seen.layers[names[layer]], 1), z) for layer, feature, z in kept.lit)

    return [RankedSample(k.sample, k.score, k.predicted, lit(k), files(k.sample)) for k in seen.top[:MOST_RANKED]]
