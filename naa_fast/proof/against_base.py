"""`against_base`: where a model differs from the one it was tuned from, on the same samples: how much, on which, for which
classes.

A fine-tune or an adapter that was downloaded comes with its base: what it changes on prompts that have nothing to do with what it
was tuned for is worth a look. Told, and judged by nobody: a fine-tune is meant to differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.capture import ClassScores
from naa_fast.errors import InputError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.names import names_of
from naa_fast.inputs.text import decoder
from naa_fast.proof.transplant import Transplant
from naa_fast.rank.retained import main_tensor, taken
from naa_fast.scan.loop import evaluating
from naa_fast.scan.placement import Placement

SHOWN = 10
"""Samples and classes of a set that are named."""
LONGEST = 200
"""Characters of a text that is shown: its end, where the next token is decided."""


@dataclass(frozen=True)
class Differing:
    """A sample: its number in reading order, Kullback-Leibler divergence (nats), what either model predicts, and of a text its
    end.
    """

    sample: int
    divergence: float
    predicted: int
    base_predicted: int
    text: str = ""


@dataclass(frozen=True)
class Shifted:
    """A class, the mean probability either model gives it, and what it is called."""

    cls: int
    probability: float
    base_probability: float
    name: str


@dataclass(frozen=True)
class Difference:
    """How a model differs from its base on `samples` samples of a set.

    `divergence`: mean Kullback-Leibler divergence of the model's probabilities from the base's, nats; `ninety`: what 90 % of the
    samples stay below; `changed`: share of other predictions. `most`: the samples with the largest, `gained` and `lost`: classes
    by the probability that the model moved to them and from them.
    """

    name: str
    samples: int
    divergence: float
    ninety: float
    changed: float
    most: tuple[Differing, ...]
    gained: tuple[Shifted, ...]
    lost: tuple[Shifted, ...]

    def lines(self) -> list[str]:
        """For a person."""
        told = [
            f"Against the base on {self.name}: {100 * self.changed:.1f} % of {self.samples:,} predictions differ; divergence "
            f"{self.divergence:.3g} nats (mean), {self.ninety:.3g} (90 % stay below)"
        ]
        for words, shifts in (("moves to", self.gained), ("takes from", self.lost)):
            known = [f"{sample.name} {sample.base_probability:.3f} > {sample.probability:.3f}" for sample in shifts[:3]]
            told += [f"  probability it {words}: {', '.join(known)}"] if known else []
        for sample in self.most[:3]:
            told.append(
                f"  sample {sample.sample}: {sample.divergence:.3g} nats{': …' + sample.text[-60:] if sample.text else ''}"
            )
        return told


def against_base(
    model: nn.Module,
    base: nn.Module,
    source: Source,
    *,
    device: str | torch.device = "auto",
    scores: str | None = None,
) -> Difference:
    """How `model` differs from `base` on a set. Cost: one forward of each over the set; memory does not grow with it.

    Raises InputError where one of them gives no class scores, or another number of classes than the other.
    """
    decode = decoder(source)
    divergences, predicted, known = list[Tensor](), list[Tensor](), list[Tensor]()
    sums: list[Tensor] = []
    texts: dict[int, str] = {}
    pair: list[Transplant] = []
    with evaluating(model), evaluating(base), torch.no_grad():
        for batch in source.batches():
            if not batch.size:
                continue
            pair = pair or [runner(model_of, batch, device, scores) for model_of in (model, base)]
            logs, base_logs = (logs_of(model_of, batch, source) for model_of in pair)
            if logs.shape != base_logs.shape:
                raise InputError(
                    f"the models give {logs.shape[1]:,} and {base_logs.shape[1]:,} classes",
                    "they cannot be compared class by class",
                    "name the base it was tuned from",
                )
            divergence = (logs.exp() * (logs - base_logs)).sum(1)
            divergences.append(divergence)
            predicted.append(logs.argmax(1))
            known.append(base_logs.argmax(1))
            added = [logs.exp().double().sum(0), base_logs.exp().double().sum(0)]
            sums = added if not sums else [a + b for a, b in zip(sums, added, strict=True)]
            if decode is not None:
                keep_texts(texts, batch, torch.cat(divergences), len(divergence), decode)
    if not divergences:
        raise InputError(f"{source.name} gave no sample", "nothing can be compared", "use a set that can be read again")
    counted = [torch.cat(parts).numpy() for parts in (divergences, predicted, known)]
    return difference(model, source, counted, sums, texts)


def runner(model: nn.Module, batch: Batch, device: str | torch.device, scores: str | None) -> Transplant:
    return Transplant(
        model, Placement.of(model, device), batch.size, taken(batch, np.arange(1)), class_scores=ClassScores(scores)
    )


def logs_of(transplant: Transplant, batch: Batch, source: Source) -> Tensor:
    """Log probabilities float32 `[samples, classes]`, on the host."""
    parts = [scores for _, scores in transplant.scores(batch)]
    if any(part is None for part in parts):
        raise InputError(f"a model gives no class scores for {source.name}", "there is nothing to compare", "leave --base out")
    return torch.cat([part.float().cpu() for part in parts if part is not None]).log_softmax(1)


def keep_texts(texts: dict[int, str], batch: Batch, every: Tensor, count: int, decode: object) -> None:
    """Keep the ends of the texts that are among those with the largest divergence so far. `every` float32 `[samples so far]`: the
    divergence of all, the last `count` of them this batch's.
    """
    assert callable(decode)
    first = len(every) - count
    largest = set(every.argsort(descending=True)[:SHOWN].tolist())
    x = main_tensor(batch)
    for number in sorted(largest):
        if number >= first and not x.is_floating_point() and x.ndim == 2:
            row = x[number - first]
            tokens = row if batch.mask is None or batch.mask.shape != x.shape else row[batch.mask[number - first]]
            texts[number] = str(decode(tuple(tokens.tolist())))[-LONGEST:]
    for number in texts.keys() - largest:
        del texts[number]


def difference(
    model: nn.Module, source: Source, counted: Sequence[np.ndarray], sums: Sequence[Tensor], texts: dict[int, str]
) -> Difference:
    """What was counted, summed up: `counted` are `[samples]` each, divergence and both models' classes; `sums` float64
    `[classes]` each, both models' probabilities. Classes are called what the model, or its tokenizer, calls them.
    """
    divergence, predicted, known = counted
    samples = len(divergence)
    probability, base_probability = ((summed / samples).numpy() for summed in sums)

    order = np.argsort(-divergence, kind="stable")[:SHOWN]
    most = [Differing(int(i), float(divergence[i]), int(predicted[i]), int(known[i]), texts.get(int(i), "")) for i in order]
    rise = probability - base_probability
    gained, lost = (np.argsort(-moved, kind="stable")[: min(SHOWN, int((moved > 0).sum()))] for moved in (rise, -rise))
    shown = np.zeros(len(rise) + 1, np.int64)
    shown[[*gained, *lost]] = 1
    names = names_of(model, [source], [shown])
    gains, losses = (
        tuple(Shifted(cls, float(probability[cls]), float(base_probability[cls]), names.of(cls)) for cls in classes.tolist())
        for classes in (gained, lost)
    )
    return Difference(
        source.name,
        samples,
        float(divergence.mean()),
        float(np.quantile(divergence, 0.9)),
        float((predicted != known).mean()),
        tuple(most),
        gains,
        losses,
    )


def as_json(differences: Sequence[Difference]) -> bytes:
    """The content of base.json."""
    content = {"format": "naa-fast/base/1", "sets": [asdict(difference) for difference in differences]}
    return (json.dumps(content, indent=1) + "\n").encode()
