"""`search_texts`: for each class the token, then the pair and the phrase, that turns most: discrete and real from the start.

Every token is put into the same clean texts where the vocabulary is small enough; of a large one those that the gradient at the
embedding points to (Ebrahimi et al., HotFlip, ACL 2018, section 3). One pass over the tokens serves all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.capture.selection import unwrapped
from naa_fast.detect.inversion import ClassSearch, Standing
from naa_fast.detect.proof import Proof
from naa_fast.invert.setting import Setting, Unsearchable
from naa_fast.proof.apply import trigger_of
from naa_fast.proof.tokens import Tokens, inner_places, own_places
from naa_fast.rank.retained import main_tensor
from naa_fast.records import Array

ALL = 20_000
"""Tokens of a vocabulary up to which all are tried."""
SCREENING = 12
"""Texts that every token is put into."""
LIKELY = 24
"""Tokens a class that are looked at again on all texts that choose."""
BEAM, LONGEST = 4, 2
"""Phrases that are made longer, and the tokens of one at most: three of a class's own words turn almost every text of a clean
model."""
ROWS = 512
MOST_CLASSES = 200
"""Classes whose scores are held for every token at once: 5,000 tokens in SCREENING texts take 240 kB a class."""
FLIPPED = 400
"""Tokens a class that a gradient may propose."""


@dataclass(frozen=True)
class Words:
    """A phrase, how far it lifts its class on average above the best other one (`margin`), and the share that it turns."""

    ids: tuple[int, ...]
    margin: float
    share: float


class Texts:
    """Clean texts of one length of row, and one place in each that phrases are written to."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        batches = setting.fit.batches
        shapes = [main_tensor(batch).shape[1:] for batch, _ in batches]
        common = max(set(shapes), key=shapes.count)
        alike = [(batch, predicted) for (batch, predicted), shape in zip(batches, shapes, strict=True) if shape == common]
        self.x = torch.cat([main_tensor(batch) for batch, _ in alike])
        self.predicted = np.concatenate([predicted for _, predicted in alike])
        masks = [batch.mask for batch, _ in alike]
        valid = None if any(mask is None for mask in masks) else torch.cat([mask for mask in masks if mask is not None])
        random = np.random.default_rng(0)
        self.starts = np.zeros((len(self.x), LONGEST), np.int64)
        usable = np.ones(len(self.x), bool)
        for row, places in enumerate(own_places(self.x, valid).cpu().numpy()):
            inner = inner_places(places, LONGEST)
            usable[row] = len(inner) >= LONGEST
            if usable[row]:
                start = int(random.integers(len(inner) - LONGEST + 1))
                self.starts[row] = inner[start : start + LONGEST]
        self.rows = np.flatnonzero(usable)
        if len(self.rows) < SCREENING:
            raise Unsearchable(f"only {len(self.rows)} clean texts have room for {LONGEST} tokens")

    def scores(self, phrases: Sequence[tuple[int, ...]], rows: Array) -> Tensor:
        """Class scores float32 `[phrases, rows, classes]` of the texts with each phrase written into them."""
        each = max(1, ROWS // len(rows))
        parts = []
        for at in range(0, len(phrases), each):
            part = torch.tensor(phrases[at : at + each], dtype=self.x.dtype, device=self.x.device)
            x = self.x[torch.from_numpy(rows)].repeat(len(part), 1, 1) if self.x.ndim == 3 else self.x[rows].repeat(len(part), 1)
            places = torch.from_numpy(np.tile(self.starts[rows][:, : part.shape[1]], (len(part), 1)))
            x.scatter_(1, places.to(x.device), part.repeat_interleave(len(rows), 0))
            with torch.no_grad():
                parts.append(self.setting.scores(x).cpu().view(len(part), len(rows), -1))
        return torch.cat(parts)

    def judged(self, phrases: Sequence[tuple[int, ...]], rows: Array) -> tuple[Array, Array]:
        """Mean margin and share turned of each phrase to each class over the texts of other classes: `[phrases, classes]`."""
        scores = self.scores(phrases, rows)
        best = scores.topk(2, -1)
        first = scores.argmax(-1, keepdim=True) == torch.arange(scores.shape[-1])
        margin = scores - torch.where(first, best.values[..., 1:], best.values[..., :1])
        wanted = torch.from_numpy(self.predicted[rows][:, None] != np.arange(scores.shape[-1])).float()
        count = wanted.sum(0).clamp(min=1)
        return ((margin * wanted).sum(1) / count).numpy(), ((first.float() * wanted).sum(1) / count).numpy()


def search_texts(setting: Setting, targets: Sequence[int]) -> tuple[tuple[ClassSearch, ...], dict[tuple[str, int], Tokens], str]:
    """Every class's best single token and best phrase, measured on texts that chose none of them; and in words what was tried.

    Cost: SCREENING samples a token, and some thousand a class. Raises Unsearchable.
    """
    if setting.classes > MOST_CLASSES:
        raise Unsearchable(
            f"the model tells {setting.classes:,} classes of text apart, as a language model does with its next token: "
            f"texts are searched for {MOST_CLASSES} classes at most"
        )
    texts = Texts(setting)
    few = texts.rows[:SCREENING]
    tokens, words = vocabulary(setting, texts, few, targets)
    margin, _ = texts.judged([(token,) for token in tokens], few)
    searches: list[ClassSearch] = []
    triggers: dict[tuple[str, int], Tokens] = {}
    for target in targets:
        likely = [tokens[place] for place in np.argsort(-margin[:, target], kind="stable")[:LIKELY]]
        singles = best_of(texts, [(token,) for token in likely], target)
        beam = singles[:BEAM]
        for _ in range(2, LONGEST + 1):
            longer = [(*shorter.ids, token) for shorter in beam for token in likely[: LIKELY // 2] if token not in shorter.ids]
            longer += [(token, *shorter.ids) for shorter in beam for token in likely[: LIKELY // 2] if token not in shorter.ids]
            beam = best_of(texts, list(dict.fromkeys(longer)), target)[:BEAM]
        for kind, best in (("token", singles[0]), ("phrase", beam[0])):
            trigger = Tokens(kind, best.ids)
            rate, samples = setting.measured(trigger, target)
            searches.append(ClassSearch(target, kind, (round((1 - rate) * samples) + 1) / (samples + 2), rate))
            triggers[kind, target] = trigger
    return tuple(searches), triggers, words


def best_of(texts: Texts, phrases: Sequence[tuple[int, ...]], target: int) -> list[Words]:
    """The phrases, the one of the highest margin first."""
    margin, share = texts.judged(phrases, texts.rows)
    ranked = [Words(ids, float(m), float(s)) for ids, m, s in zip(phrases, margin[:, target], share[:, target], strict=True)]
    return sorted(ranked, key=lambda words: -words.margin)


def vocabulary(setting: Setting, texts: Texts, rows: Array, targets: Sequence[int]) -> tuple[list[int], str]:
    """The token ids to try, and in words which; `rows` int64 `[texts]`: the texts that gradients are taken of."""
    tables = [module for module in unwrapped(setting.transplant.model).modules() if isinstance(module, nn.Embedding)]
    if not tables:
        raise Unsearchable("the inputs are token ids, and the model has no embedding that says how many there are")
    table = max(tables, key=lambda module: module.num_embeddings)
    size = table.num_embeddings
    if int(texts.x.max()) >= size:
        raise Unsearchable(f"the inputs go up to {int(texts.x.max())}, and the largest embedding has {size} rows")
    if size <= ALL:
        return list(range(1, size)), f"all {size - 1:,} tokens of the vocabulary alone"
    chosen = flipped(setting, texts, rows, table, targets)
    return chosen, f"{len(chosen):,} of {size:,} tokens, those the gradient at the embedding proposes"


def flipped(setting: Setting, texts: Texts, rows: Array, table: nn.Embedding, targets: Sequence[int]) -> list[int]:
    """FLIPPED tokens a class whose embedding lies farthest along the gradient of the class's margin at the place, of the texts
    `rows`, int64 `[texts]`.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[-1]

    tokens: dict[int, None] = {}
    for target in targets:
        outputs.clear()
        handle = table.register_forward_hook(keep)
        try:
            scores = setting.scores(texts.x[rows])
        finally:
            handle.remove()
        if len(outputs) != 1:
            raise Unsearchable("the embedding is used more than once a forward, so no gradient proposes tokens")
        (gradient,) = setting.gradients(scores.log_softmax(1)[:, target].sum(), outputs, len(rows))
        at = gradient[torch.arange(len(rows)), torch.from_numpy(texts.starts[rows][:, 0])].mean(0)
        order = (table.weight.detach().float() @ at.float()).topk(min(FLIPPED, table.num_embeddings)).indices
        tokens |= dict.fromkeys(int(token) for token in order if int(token) != 0)
    return list(tokens)


def prove_texts(
    setting: Setting,
    standing: Standing,
    searches: Sequence[ClassSearch],
    trigger: Tokens,
    base: Setting | None = None,
) -> tuple[Proof, ClassSearch]:
    """The best phrase of the class that stands apart beside the best of every other class, or beside the base model's best for
    the same class.
    """
    search = standing.search
    rate, samples = setting.measured(trigger, search.target)
    others = [other.rate for other in searches if other.kind == search.kind and other.target != search.target]
    if base is not None:
        again, _, _ = search_texts(base, [search.target])
        others = [other.rate for other in again if other.kind == search.kind]
    search = replace(search, rate=rate)
    return setting.proof(trigger, trigger_of(trigger), search, samples, others, standing.apart), search
