"""`token_heat`: which tokens of the highest-ranked texts deviate from what clean tokens do in the same model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.capture.selection import unwrapped
from naa_fast.detect.evidence import Heat
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.text import decoder
from naa_fast.measurement import Measurement
from naa_fast.rank.evidence import inputs_of
from naa_fast.rank.retained import main_tensor, taken
from naa_fast.rank.scorer import RankingResult
from naa_fast.records import Array
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement
from naa_fast.scan.work import Work

TEXTS, CLEAN, LONGEST = 24, 48, 256
"""Highest-ranked texts that are looked at, clean ones they are held against, and tokens of each that are, the first."""
FEWEST = 8
"""Clean texts that say what a token at such a place does."""


def token_heat(ranked: RankingResult, order: Array, clean: Measurement, suspect: Source, work: Work) -> tuple[Heat, ...]:
    """Of the first texts in the `order` of the report (sample numbers; triggered ones come first there) the tokens as text, each
    with by how many standard deviations its neurons lie farther out than those of clean tokens; none for inputs that are no
    texts, or a model whose layers give no tokens.

    Of every layer that gives `[texts, tokens, neurons]` the root mean square of a token's standardised activations, the mean over
    layers; held against clean texts' first tokens, last tokens and others each, as the first of a text deviates in any model.
    Cost: TEXTS + CLEAN forwards of one text.
    """
    decode = decoder(suspect)
    if decode is None or not ranked.reservoir:
        return ()
    rows, masks = inputs_of(ranked, order[:TEXTS].tolist())
    texts = [own_tokens(row, mask) for row, mask in zip(rows, masks, strict=True) if row.ndim == 1 and row.dtype.kind == "i"]
    usual = clean_texts(ranked)
    if not texts or len(usual) < FEWEST:
        return ()
    seen = Deviations(work, clean, ranked.reservoir[0][0])
    with evaluating(work.model), torch.no_grad():
        known = [seen.of(ids) for ids in usual]
        suspects = [seen.of(ids) for ids in texts]
    if any(deviations is None for deviations in (*known, *suspects)):
        return ()
    beyond = excess(
        [deviations for deviations in suspects if deviations is not None],
        [deviations for deviations in known if deviations is not None],
    )
    return tuple(
        tuple((decode((int(token),)), float(z)) for token, z in zip(ids, z_scores, strict=True))
        for ids, z_scores in zip(texts, beyond, strict=True)
    )


def own_tokens(row: Array, mask: Array | None) -> Array:
    """A text's own tokens, the first LONGEST. `row` int64 and `mask` bool `[positions]`; int64 `[tokens]`."""
    tokens = row[mask] if mask is not None and mask.shape == row.shape else row[row != 0]
    return np.asarray(tokens[:LONGEST], np.int64)


def clean_texts(ranked: RankingResult) -> list[Array]:
    """The tokens of some clean texts of the reservoir. Int64 `[tokens]` each."""
    texts: list[Array] = []
    for batch, _ in ranked.reservoir:
        x = main_tensor(batch)
        if x.is_floating_point() or x.ndim != 2:
            return []
        masks = [None] * len(x) if batch.mask is None or batch.mask.shape != x.shape else list(batch.mask.cpu().numpy())
        texts += [own_tokens(row, mask) for row, mask in zip(x.cpu().numpy(), masks, strict=True)][: CLEAN - len(texts)]
        if len(texts) == CLEAN:
            break
    return [ids for ids in texts if len(ids)]


class Deviations:
    """How far the neurons of each token of a text lie from the clean mean, over the layers of a clean measurement."""

    def __init__(self, work: Work, clean: Measurement, template: Batch) -> None:
        self.work, self.template, self.place = work, template, Placement.of(work.model, work.device)
        modules = dict(unwrapped(work.model).named_modules())
        moments = {name: record.positions for name, record in clean.layers.items() if name and name in modules}
        self.modules: dict[str, nn.Module] = {name: modules[name] for name in moments}
        self.usual = {
            name: tuple(torch.from_numpy(np.asarray(values, np.float32)) for values in (known.mean, np.sqrt(known.variance)))
            for name, known in moments.items()
        }

    def of(self, ids: Array) -> Array | None:
        """Float64 `[tokens]`; None where no layer gives a vector for each token, or the model takes more than the tokens."""
        batch = like(self.template, torch.from_numpy(ids)[None])
        if batch is None:
            return None
        layers: list[Tensor] = []

        def hook(name: str) -> object:
            def keep(module: nn.Module, given: object, output: object) -> None:
                x = output[0] if isinstance(output, tuple | list) else output
                mean, deviation = self.usual[name]
                if isinstance(x, Tensor) and x.shape == (1, len(ids), len(mean)):
                    z = (x[0].float().cpu() - mean) / deviation.clamp(min=1e-12)
                    layers.append(z[:, deviation > 0].square().mean(1).sqrt())

            return keep

        handles = [module.register_forward_hook(hook(name)) for name, module in self.modules.items()]  # type: ignore[arg-type]
        try:
            self.work.model(*self.place.moved(batch.arguments), **self.place.moved(batch.keywords))
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack(layers).mean(0).double().numpy() if layers else None


def like(template: Batch, x: Tensor) -> Batch | None:
    """One text, int64 `[1, positions]`, as the template's batches are; None where those hold more than tokens, a mask and
    positions.
    """
    if not template.keywords:
        return Batch((x,), {}, 1, None) if len(template.arguments) == 1 else None
    made = {"input_ids": x, "attention_mask": torch.ones_like(x), "position_ids": torch.arange(x.shape[1])[None]}
    template_keywords = taken(template, np.arange(1)).keywords
    if template.arguments or not template_keywords.keys() <= made.keys():
        return None
    return Batch((), {name: made[name] for name in template_keywords}, 1, None)


def excess(suspects: Sequence[Array], known: Sequence[Array]) -> list[Array]:
    """By how many standard deviations each token lies beyond the clean tokens of its kind of place. Deviations are float64
    `[tokens]` of a text, `known` of clean ones; so is what comes.
    """
    out = []
    for deviations in suspects:
        z = np.zeros(len(deviations))
        for place, rows in places(len(deviations)).items():
            usual = np.concatenate([deviation[places(len(deviation))[place]] for deviation in known])
            if len(usual) >= FEWEST and usual.std() > 0:
                z[rows] = (deviations[rows] - usual.mean()) / usual.std()
        out.append(z)
    return out


def places(length: int) -> dict[str, list[int]]:
    """The first token, the last, and those between."""
    return {"first": [0], "last": [length - 1] if length > 1 else [], "between": list(range(1, length - 1))}
