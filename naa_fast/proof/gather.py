"""`gather`: the second look and the proofs, as the evidence that is judged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
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
from naa_fast.rank.keep import main_tensor
from naa_fast.rank.look import Look, look
from naa_fast.records import Array
from naa_fast.scan.chunk import Progress
from naa_fast.scan.ranks import Ranks

Decoder = Callable[[tuple[int, ...]], str]
SHOWN = 48
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
    decode = decoder(suspect)
    proofs = [replace(p, words=decode(p.tokens)) if p.tokens and decode is not None else p for p in proofs]
    carry = np.zeros(len(seen.scores), bool)
    rows = [main_tensor(batch) for batch, _ in seen.drawn]
    for one in proofs:
        if one.stands:
            carry |= carriers(suspect, rows, seen.predicted, one)
    ranking = replace(ranking, carriers=carry)
    ranking = replace(ranking, top=tuple(named(seen, ranking, suspect)))
    pictures, texts = shown(seen, ranking, proofs, decode)
    return Evidence(ranking, tuple(proofs), forwards, tuple(notes), pictures, texts)


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


def named(seen: Look, ranking: Ranking, suspect: Source) -> list[RankedSample]:
    """The highest-ranked samples, with the names of what lit up in those that were kept."""
    names = list(seen.layers)
    files = getattr(suspect, "file_of", lambda sample: None)
    kept = {one.sample: one for one in seen.top}
    assert ranking.carriers is not None

    def lit(sample: int) -> tuple[tuple[str, int, float], ...]:
        found = kept[sample].lit if sample in kept else ()
        return tuple((names[layer], feature % max(seen.layers[names[layer]], 1), z) for layer, feature, z in found)

    return [
        RankedSample(
            int(seen.items[i]),
            float(seen.scores[i]),
            int(seen.predicted[i]),
            lit(i),
            files(int(seen.items[i])),
            bool(ranking.carriers[i]),
        )
        for i in ordered(ranking)
    ]


def ordered(ranking: Ranking) -> list[int]:
    """The samples' numbers, highest-ranked first."""
    return [int(i) for i in np.argsort(-np.nan_to_num(ranking.ranked, nan=-np.inf), kind="stable")[:MOST_RANKED]]


def shown(seen: Look, ranking: Ranking, proofs: Sequence[Proof], decode: Decoder | None) -> tuple[Array | None, tuple[str, ...]]:
    """Pictures or texts of the first samples of the ranking, as far as their inputs were kept, none after a gap."""
    rows = {kept.sample: kept for kept in seen.top if kept.row is not None}
    first = list(itertools.takewhile(lambda kept: kept is not None, (rows.get(place) for place in ordered(ranking)[:SHOWN])))
    inputs = [kept.row for kept in first if kept is not None and kept.row is not None]
    if not inputs:
        return None, ()
    if inputs[0].is_floating_point():
        alike = inputs[0].ndim == 3 and inputs[0].shape[0] in (1, 3) and all(x.shape == inputs[0].shape for x in inputs)
        return (np.stack([x.float().numpy() for x in inputs]) if alike else None), ()
    triggers = [proof.tokens for proof in proofs if proof.stands and proof.tokens]
    masks = [kept.mask for kept in first if kept is not None]
    own = [x[m] if m is not None and m.shape == x.shape else x[x != 0] for x, m in zip(inputs, masks, strict=True)]
    return None, tuple(marked([int(i) for i in x.flatten()], triggers, decode) for x in own)


def marked(ids: list[int], triggers: Sequence[tuple[int, ...]], decode: Decoder | None) -> str:
    """The tokens as text, what is a trigger between » and «."""

    def words(part: list[int]) -> str:
        return decode(tuple(part)) if decode is not None else " ".join(map(str, part))

    pieces: list[str] = []
    plain: list[int] = []
    at = 0
    while at < len(ids):
        found = next((t for t in triggers if tuple(ids[at : at + len(t)]) == t), None)
        if found is None:
            plain.append(ids[at])
            at += 1
            continue
        pieces += [words(plain), f"»{words(list(found)).strip()}«"]
        plain = []
        at += len(found)
    return " ".join(piece for piece in (*pieces, words(plain)) if piece)


def decoder(source: Source) -> Decoder | None:
    """Token ids to text by the set's own tokenizer, if it has one."""
    tokenizer = getattr(getattr(source, "options", None), "tokenizer", None)
    return None if tokenizer is None else lambda tokens: str(tokenizer.decode(list(tokens)))
