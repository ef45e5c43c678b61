"""`gather`: the second look and the proofs, as the evidence that is judged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from naa_fast.capture.selection import LayerSpec
from naa_fast.detect.axes import channels_first, either_way, is_picture
from naa_fast.detect.checks import did_not_run, ran, unranked
from naa_fast.detect.directions import FEWEST
from naa_fast.detect.directions import measure as measured_directions
from naa_fast.detect.evidence import Evidence, Lit, Ranking, nameless
from naa_fast.detect.findings import plain
from naa_fast.detect.proof import APART, Proof
from naa_fast.errors import NaaError
from naa_fast.inputs.batches import IterableSource, Source
from naa_fast.inputs.text import TextSource
from naa_fast.measurement import Measurement
from naa_fast.proof.carriers import carriers
from naa_fast.proof.crowd import crowd_of
from naa_fast.proof.examples import with_words
from naa_fast.proof.prove import CleanInputs, clean_images, harmless_of, prove
from naa_fast.rank.keep import main_tensor
from naa_fast.rank.look import Beside, Look, look
from naa_fast.records import Array
from naa_fast.scan.chunk import Progress, first_line
from naa_fast.scan.ranks import Ranks

Decoder = Callable[[tuple[int, ...]], str]
SHOWN = 48
WORDS = 300
WHOSE = "which samples carry it, and what classes they came from"
CURE = "whether silencing what was found cures the model"
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
    beside: Beside | None = None,
    whole: bool = False,
    then: Callable[[Evidence, Look, Source, CleanInputs | None], Evidence] | None = None,
) -> Evidence:
    """Rank the suspect samples and try to prove a trigger; `whole`: reports list every sample. Raises nothing: what was measured
    stands without it, and what went wrong becomes a gap, so that it is no pass.

    `beside`: what was seen while the sets were measured; without it, or where it gave up, `look` runs them again. `then` may
    add to what was found, by the samples that were kept. Cost: see `look` and `prove`, and one more reading of the suspect set
    where a trigger was proved.
    """
    reason = obstacle(clean, suspect, measured)
    if reason is not None:
        return Evidence(checks=unranked(reason))
    clean, suspect = (source.in_order() if isinstance(source, TextSource) else source for source in (clean, suspect))
    try:
        seen = None if beside is None else beside.looked(measured)
        if seen is None:
            seen = look(model, clean, suspect, measured, layers=layers, device=device, backend=backend, progress=progress)
    except Exception as error:  # whatever the model or the data did: the measurements stand
        return Evidence(checks=unranked(f"the second look ended with {in_words(error)}"))
    ranking = Ranking(
        seen.scores,
        seen.predicted,
        seen.null_scores,
        seen.null_predicted,
        carriers=np.zeros(len(seen.scores), bool),
        uncertain=np.ones(len(seen.scores), bool),  # until a proof was tried
        items=seen.items,
        lit=lit_in(seen),
        file_of=getattr(suspect, "file_of", nameless),
        whole=whole,
    )
    found = Evidence(ranking, checks=(*ran("ranking"), *(() if proof else did_not_run("it was switched off", "proof"))))
    images = cache(lambda: clean_images(seen))
    steps: list[tuple[str, Callable[[Evidence], Evidence]]] = [
        ("proof", lambda found: with_proofs(found, model, seen, images(), suspect, device) if proof else found),
        (WHOSE, lambda found: with_carriers(found, seen, suspect)),
        (WHOSE, lambda found: with_images(found, seen, images())),
        ("directions", lambda found: with_directions(found, seen)),
    ]
    for what, step in steps:
        try:
            found = step(found)
        except Exception as error:  # what the steps before have found stays
            reason = f"the attempt ended with {in_words(error)}"
            if what == WHOSE:
                found = replace(found, gaps=(*found.gaps, f"{what}: {reason}"))
            else:
                found = replace(found, checks=(*found.checks, *did_not_run(reason, what)))
    if then is not None:
        try:
            found = then(found, seen, suspect, images())
        except Exception as error:  # a verdict stands without it
            found = replace(found, notes=(*found.notes, f"{CURE}: the attempt ended with {in_words(error)}"))
    assert found.ranking is not None
    pictures, texts = shown(seen, found.ranking, found.proof, decoder(suspect))
    return replace(found, pictures=pictures, texts=texts)


def with_proofs(
    found: Evidence, model: nn.Module, seen: Look, images: CleanInputs | None, suspect: Source, device: str | torch.device
) -> Evidence:
    """The evidence with what was tried."""
    proofs, forwards, untried = prove(model, seen, images, device)
    decode = decoder(suspect)
    proofs = [replace(p, words=in_text(p, decode)) if p.tokens and decode is not None else p for p in proofs]
    proofs = [with_words(p, decode) for p in proofs]
    checks = (*found.checks, *(did_not_run(untried, "proof") if untried else ran("proof")))
    if untried and not proofs:
        return replace(found, forwards=forwards, checks=checks)
    assert found.ranking is not None
    told = replace(found.ranking, uncertain=np.zeros(len(found.ranking.scores), bool))  # without a proof nothing carries one
    return replace(found, ranking=told, proof=tuple(proofs), forwards=forwards, checks=checks)


def with_directions(found: Evidence, seen: Look) -> Evidence:
    """The evidence with the directions along which the sets differ, of layers with enough samples."""
    directions = measured_directions(seen.directions.projected())
    reason = f"fewer than {FEWEST} samples of a set to fix one on, or to measure it on"
    checks = (*found.checks, *(ran("directions") if directions else did_not_run(reason, "directions")))
    return replace(found, directions=directions, checks=checks)


def in_text(proof: Proof, decode: Decoder) -> str:
    """A proof's words; between those that stand apart an ellipsis."""
    if proof.kind != APART:
        return decode(proof.tokens)
    return " … ".join(decode((token,)).strip() for token in proof.tokens)


def with_carriers(found: Evidence, seen: Look, suspect: Source) -> Evidence:
    """The evidence with the samples that carry what was proved."""
    standing = [proof for proof in found.proof if proof.stands]
    if not standing:
        return found
    carry, uncertain = np.zeros(len(seen.scores), bool), np.zeros(len(seen.scores), bool)
    rows = [main_tensor(batch) for batch, _ in seen.drawn]
    for one in standing:
        carried, unknown = carriers(suspect, rows, seen.predicted, one)
        carry, uncertain = carry | carried, uncertain | unknown
    assert found.ranking is not None
    return replace(found, ranking=replace(found.ranking, carriers=carry, uncertain=uncertain & ~carry))


def with_images(found: Evidence, seen: Look, images: CleanInputs | None) -> Evidence:
    """The evidence with what the inputs themselves say: what harmless changes explain, and whose crowd lies outside."""
    if images is None or found.ranking is None:
        return found
    shape = images[0].x.shape[1:]
    read = f"inputs of shape {' x '.join(map(str, shape))} can be read both ways: taken as [channels, height, width]"
    notes = (*found.notes, read) if either_way(shape) else found.notes
    crowd = crowd_of(found.ranking, seen.top, seen.null_top, *images)
    return replace(found, harmless=harmless_of(seen, images), crowd=crowd, notes=notes)


def can_look_beside(clean: Source, suspect: Source) -> bool:
    """Whether samples come in the order of the set while it is measured, in this process: bucketed texts do not."""
    bucketed = any(isinstance(source, TextSource) and source.options.bucket for source in (clean, suspect))
    return not bucketed and obstacle(clean, suspect, None) is None


def in_words(error: Exception) -> str:
    words = error.headline if isinstance(error, NaaError) else f"{type(error).__name__}: {first_line(error)}"
    return plain(words)[:WORDS]


def obstacle(clean: Source, suspect: Source, measured: tuple[Measurement, Measurement] | None) -> str | None:
    """Why the sets cannot be looked at again, or None; as far as can be told before they are `measured` where that is None."""
    for name, source in (("clean", clean), ("suspect", suspect)):
        if isinstance(source, IterableSource):
            if isinstance(source.data, DataLoader):
                if type(source.data.sampler) is not SequentialSampler or type(source.data.batch_sampler) not in (
                    BatchSampler,
                    type(None),
                ):
                    return (
                        f"the loader of the {name} set has an order of its own, so its samples have no number; use shuffle=False"
                    )
            elif iter(source.data) is source.data:
                return f"the {name} set can be read only once; pass a DataLoader, a tensor or a path"
    if Ranks.here().count > 1:
        return "not done under torchrun; rank the samples in one process"
    if measured is not None and measured[0].samples < SMALLEST:
        return f"only {measured[0].samples} clean samples (at least {SMALLEST} are needed)"
    return None


def lit_in(seen: Look) -> dict[int, Lit]:
    """What lit up in the samples that were kept, by sample number, with the layers' names."""
    layers = list(seen.layers.items())
    return {
        kept.sample: tuple((layers[layer][0], feature % max(layers[layer][1], 1), z) for layer, feature, z in kept.lit)
        for kept in seen.top
    }


def shown(seen: Look, ranking: Ranking, proofs: Sequence[Proof], decode: Decoder | None) -> tuple[Array | None, tuple[str, ...]]:
    """Pictures or texts of the first samples of the ranking, as far as their inputs were kept, none after a gap."""
    rows = {kept.sample: kept for kept in seen.top if kept.row is not None}
    first = list(itertools.takewhile(lambda kept: kept is not None, (rows.get(int(place)) for place in ranking.order[:SHOWN])))
    inputs = [kept.row for kept in first if kept is not None and kept.row is not None]
    if not inputs:
        return None, ()
    if inputs[0].is_floating_point() or inputs[0].ndim != 1:
        drawn = [x.float().numpy() for x in inputs]
        alike = is_picture(drawn[0]) and all(x.shape == drawn[0].shape for x in drawn)
        return (np.stack([channels_first(x) for x in drawn]) if alike else None), ()
    standing = [proof for proof in proofs if proof.stands and proof.tokens]
    masks = [kept.mask for kept in first if kept is not None]
    own = [x[m] if m is not None and m.shape == x.shape else x[x != 0] for x, m in zip(inputs, masks, strict=True)]
    ids = [[int(i) for i in x.flatten()] for x in own]
    return None, tuple(marked(one, triggers_in(one, standing), decode) for one in ids)


def triggers_in(ids: list[int], proofs: Sequence[Proof]) -> list[tuple[int, ...]]:
    """What to mark in a text: phrases, and each of the words apart where it holds them all."""
    found = [proof.tokens for proof in proofs if proof.kind != APART]
    apart = [proof.tokens for proof in proofs if proof.kind == APART and set(proof.tokens) <= set(ids)]
    return [*found, *((token,) for tokens in apart for token in tokens)]


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
    """Token ids to text by the set's own tokenizer, if it has one; the ids where it fails, as a stranger's tokenizer may."""
    tokenizer = getattr(getattr(source, "options", None), "tokenizer", None)
    if tokenizer is None:
        return None

    def decode(tokens: tuple[int, ...]) -> str:
        try:
            return str(tokenizer.decode(list(tokens)))
        except Exception:
            return " ".join(map(str, tokens))

    return decode
