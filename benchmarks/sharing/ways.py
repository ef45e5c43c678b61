"""Ways in which classes share the ranking's statistics: each gives the scores of samples from what layers say of them.

Written out plainly, in float64 and a layer at a time; every way ends in the product's own `AnomalyScale`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.sharing.cases import Seen
from naa_fast.rank.anomaly import AnomalyScale
from naa_fast.rank.codes import CODES, RIDGE, coded
from naa_fast.rank.groups import Groups
from naa_fast.rank.packed import CUT
from naa_fast.rank.reference import PRIOR, SHRINKAGE, LayerDeviation, Reference, floored
from naa_fast.records import Array, fold_of

MOST = 32
PARTS = ("fit", "null", "held", "triggered")


@dataclass(frozen=True)
class Samples:
    """`views` by layer and `called` int64, by PARTS; how many `classes` there are."""

    views: dict[str, dict[str, Tensor]]
    called: dict[str, Array]
    rows: Tensor
    classes: int

    @classmethod
    def of(cls, seen: Seen, classes: int) -> Samples:
        even = torch.from_numpy(fold_of(np.arange(len(seen.predicted["clean"]))) % 2 == 0)
        views = {
            name: {"fit": clean[even], "null": clean[~even], **{p: seen.views[p][name] for p in PARTS[2:]}}
            for name, clean in seen.views["clean"].items()
        }
        clean = seen.predicted["clean"]
        called = {"fit": clean[even], "null": clean[~even], **{p: seen.predicted[p] for p in PARTS[2:]}}
        return cls(views, {p: one.numpy() for p, one in called.items()}, seen.rows, classes)


Way = Callable[[Samples], dict[str, Array]]
"""Scores float64 of "held" and "triggered"."""


def scored(said: dict[str, list[Array]], group: dict[str, Array], groups: int) -> dict[str, Array]:
    """By what layers say, `[samples, PARTS]` each, with samples calibrated in `group`."""
    parts = {p: np.stack(said[p], 1) for p in PARTS[1:]}
    scale = AnomalyScale(parts["null"], group["null"], groups)
    return {p: scale.of(parts[p], group[p]) for p in PARTS[2:]}


def grouped(table_of: Callable[[Samples], Array]) -> Way:
    """Classes that share a number of the table (int64 `[classes]`) share all statistics."""

    def way(samples: Samples) -> dict[str, Array]:
        table = table_of(samples)
        groups = int(table.max()) + 1
        group = {p: table[samples.called[p]] for p in PARTS}
        said: dict[str, list[Array]] = {p: [] for p in PARTS[1:]}
        for views in samples.views.values():
            reference = Reference(groups, views["fit"][:64])
            reference.add(views["fit"], torch.from_numpy(group["fit"]))
            reference.freeze()
            for p in said:
                said[p].append(numbers(reference.deviation_of(views[p], torch.from_numpy(group[p]))))
        return scored(said, group, groups)

    return way


def numbers(far: LayerDeviation) -> Array:
    """Excess, distance and margin: float64 `[samples, 3]`."""
    excess = (far.z.abs() - CUT).clamp(min=0).nan_to_num(torch.inf, torch.inf).double().sum(1)
    return torch.stack([excess, far.distance, far.margin], 1).numpy()


def up_to_32(samples: Samples) -> Array:
    """Each of 32 classes at most by itself, more as one: what the ranking did before there were codes."""
    return Groups.every(samples.classes).of(np.arange(samples.classes))


def no_classes(samples: Samples) -> Array:
    return np.zeros(samples.classes, np.int64)


def every_class(samples: Samples) -> Array:
    return np.arange(samples.classes)


def by_means(samples: Samples) -> Array:
    """MOST groups of the classes seen, by their means in the projection of the last layer but one; the others make one more."""
    views = list(samples.views.values())[-2]["fit"]
    reference = Reference(1, views[:64])
    x = reference.folded(torch.nan_to_num(views.double() - reference.pivot)).double().numpy()
    classes, place, count = np.unique(samples.called["fit"], return_inverse=True, return_counts=True)
    means = np.zeros((len(classes), x.shape[1]))
    np.add.at(means, place, x)
    table = np.full(samples.classes, min(MOST, len(classes)))
    table[classes] = clustered(means / count[:, None], min(MOST, len(classes)))
    return table


def by_rows(samples: Samples) -> Array:
    """MOST groups of classes, by the directions of their rows in the last layer."""
    rows = samples.rows.double() - samples.rows.double().mean(0)
    return clustered(torch.nn.functional.normalize(rows, dim=1).numpy(), min(MOST, samples.classes))


def clustered(x: Array, count: int) -> Array:
    """k-means from a fixed seed (k-means++), 20 rounds."""
    random = np.random.default_rng(0)
    centres = x[[random.integers(len(x))]]
    while len(centres) < count:
        away = ((x[:, None] - centres) ** 2).sum(2).min(1)
        centres = np.concatenate([centres, x[[random.choice(len(x), p=away / away.sum() if away.sum() else None)]]])
    for _ in range(20):
        own = ((x[:, None] - centres) ** 2).sum(2).argmin(1)
        centres = np.stack([x[own == k].mean(0) if (own == k).any() else centres[k] for k in range(count)])
    return own


def whitening_of(within: Tensor) -> Tensor:
    """The map to coordinates that vary alike and apart where `within` `[features, features]` is the covariance."""
    width = floored(within.diagonal().clamp(min=0).sqrt())
    correlations = (1 - SHRINKAGE) * torch.nan_to_num(within / width / width[:, None]) + SHRINKAGE * torch.eye(len(width))
    root, failed = torch.linalg.cholesky_ex(correlations.double())
    identity = torch.eye(len(width), dtype=torch.float64)
    return torch.linalg.solve_triangular(identity if int(failed) else root, identity, upper=False).T / width[:, None]


@dataclass(frozen=True)
class Projected:
    """Means of classes in the projection alone; single neurons lie about the mean of all.

    `prior`: samples' worth of the whole mean in a class's, or "bayes", as the layer's variances within and between classes say
    (empirical Bayes). `fewest`: classes of fewer clean samples have the whole mean. `nearest`: the distance is that from the
    nearest class, whatever the prediction. `by_count`: classes are calibrated with others of as many clean samples, not all
    samples together.
    """

    prior: float | str = PRIOR
    fewest: int = 0
    nearest: bool = False
    by_count: bool = False

    def __call__(self, samples: Samples) -> dict[str, Array]:
        count = np.bincount(samples.called["fit"], minlength=samples.classes).astype(np.float64)
        there = np.flatnonzero(count > 0)
        table = np.full(samples.classes, -1)
        table[there] = np.arange(len(there))
        said: dict[str, list[Array]] = {p: [] for p in PARTS[1:]}
        for views in samples.views.values():
            layer = self._layer(views, table[samples.called["fit"]], len(there))
            for p in said:
                said[p].append(layer(views[p], table[samples.called[p]]))
        bins = np.searchsorted([1, 2, 4, 8, 16, 32, 64, 1 << 60], count, side="right")
        group = bins if self.by_count else 0 * bins
        return scored(said, {p: group[samples.called[p]] for p in PARTS}, int(group.max()) + 1)

    def _layer(self, views: dict[str, Tensor], own: Array, classes: int) -> Callable[[Tensor, Array], Array]:
        fit = views["fit"]
        reference = Reference(1, fit[:64])
        reference.add(fit, torch.zeros(len(fit), dtype=torch.int64))

        def folded(x: Tensor) -> Tensor:
            return reference.folded(torch.nan_to_num(x.double() - reference.pivot, 0, 0, 0)).double()

        x = folded(fit)
        member = torch.nn.functional.one_hot(torch.from_numpy(own), classes).double()
        count = member.sum(0)[:, None]
        sums, overall = member.T @ x, x.mean(0)
        means = sums / count
        freedom = max(len(x) - classes, 1)
        within = (x.T @ x - sums.T @ means) / freedom
        if len(x) - classes < len(x) / 4:  # hardly a sample has company: what varies is that about the mean of all
            within = torch.cov(x.T, correction=0).reshape(within.shape)
        prior: Tensor | float
        if self.prior == "bayes":
            between = ((count * (means - overall) ** 2).sum(0) - (classes - 1) * within.diagonal()) / (
                len(x) - (count**2).sum() / len(x)
            )
            prior = float(within.diagonal().clamp(min=0).sum() / between.clamp(min=0).sum().clamp(min=1e-12))
        else:
            prior = float(self.prior)
        weight = count / (count + prior)
        weight = torch.where(count < self.fewest, 0.0, weight)
        means = overall + weight * (means - overall)
        whitening = whitening_of(within)
        centres = torch.cat([means, overall[None]]) @ whitening
        reference.freeze()

        def say(view: Tensor, own: Array) -> Array:
            z = reference.deviation_of(view, torch.zeros(len(view), dtype=torch.int64)).z
            excess = (z.abs() - CUT).clamp(min=0).nan_to_num(torch.inf, torch.inf).double().sum(1)
            apart = torch.cdist(folded(view) @ whitening, centres) ** 2
            place = torch.from_numpy(np.where(own < 0, classes, own))[:, None]
            distance = apart.gather(1, place)[:, 0]
            margin = distance - apart[:, :-1].scatter(1, place.clamp(max=classes - 1), torch.inf).amin(1)
            if classes < 2:
                margin = 0 * distance
            if self.nearest:
                distance = apart[:, :-1].amin(1)
            return torch.stack([excess, distance, margin], 1).numpy()

        return say


@dataclass(frozen=True)
class Expected:
    """The mean expected by the class scores: a ridge regression of the layer on `codes` sums of them.

    The margin is by how much a sample lies farther from what its scores let expect than from the whole mean. `normal`: scores
    are divided by their length.
    """

    codes: int = CODES
    normal: bool = False

    def __call__(self, samples: Samples) -> dict[str, Array]:
        said: dict[str, list[Array]] = {p: [] for p in PARTS[1:]}
        logits = list(samples.views.values())[-1]
        random = torch.Generator().manual_seed(0)
        mix = torch.randn(logits["fit"].shape[1], self.codes, generator=random) / self.codes**0.5
        given = {p: (x - x.mean(1, keepdim=True)) @ mix for p, x in logits.items()}
        if self.normal:
            given = {p: torch.nn.functional.normalize(x, dim=1) for p, x in given.items()}
        centre = given["fit"].mean(0)
        deviation = given["fit"].std(0)
        codes = {p: ((x - centre) / deviation).double() for p, x in given.items()}
        for views in samples.views.values():
            layer = self._layer(views, codes["fit"])
            for p in said:
                said[p].append(layer(views[p], codes[p]))
        return scored(said, {p: 0 * samples.called[p] for p in PARTS}, 1)

    def _layer(self, views: dict[str, Tensor], code: Tensor) -> Callable[[Tensor, Tensor], Array]:
        fit = views["fit"]
        reference = Reference(1, fit[:64])

        def centred(x: Tensor) -> Tensor:
            return torch.nan_to_num(x.double() - reference.pivot, 0, 0, 0)

        def folded(x: Tensor) -> Tensor:
            return reference.folded(x).double()

        x = centred(fit)
        overall = x.mean(0)
        gram = code.T @ code + RIDGE * len(x) * torch.eye(code.shape[1], dtype=torch.float64)
        effects = torch.linalg.solve(gram, code.T @ (x - overall))
        left = x - overall - code @ effects
        deviation = floored(left.std(0))
        y, ymean = folded(x), folded(overall[None])[0]
        yeffects = torch.linalg.solve(gram, code.T @ (y - ymean))
        whitening = whitening_of(torch.cov((y - ymean - code @ yeffects).T).reshape(y.shape[1], y.shape[1]))

        def say(view: Tensor, code: Tensor) -> Array:
            x = centred(view)
            z = (x - overall - code @ effects) / deviation
            excess = (z.abs() - CUT).clamp(min=0).sum(1)
            y = folded(x) - ymean
            distance = (((y - code @ yeffects) @ whitening) ** 2).sum(1)
            plain = ((y @ whitening) ** 2).sum(1)
            return torch.stack([excess, distance, distance - plain], 1).numpy()

        return say


def by_scores(samples: Samples) -> dict[str, Array]:
    """As the product does with many classes (rank/codes.py); the class scores are what the last layer gives."""
    scores = list(samples.views.values())[-1]
    codes = {p: coded(scores[p]) for p in PARTS}
    said: dict[str, list[Array]] = {p: [] for p in PARTS[1:]}
    for views in samples.views.values():
        reference = Reference(1 + CODES, views["fit"][:64], coded=True)
        reference.add(views["fit"], codes["fit"])
        reference.freeze()
        for p in said:
            said[p].append(numbers(reference.deviation_of(views[p], codes[p])))
    return scored(said, {p: 0 * samples.called[p] for p in PARTS}, 1)


WAYS: dict[str, Way] = {
    "one mean beyond 32 classes": grouped(up_to_32),
    "no classes": grouped(no_classes),
    "32 sums of the class scores": by_scores,
    "16 sums": Expected(16),
    "64 sums": Expected(64),
    "scores of length 1": Expected(normal=True),
    "statistics of every class": grouped(every_class),
    "means of classes in the projection, prior 4": Projected(),
    "means of classes in the projection, shrunk": Projected("bayes"),
    "the same, calibrated by count": Projected("bayes", by_count=True),
    "32 groups by rows of the last layer": grouped(by_rows),
    "32 groups by means in the last layer but one": grouped(by_means),
    "nearest class's mean": Projected("bayes", nearest=True),
    "the whole mean for fewer than 8 samples": Projected("bayes", fewest=8),
}
"""What is compared, by the name it has in the results."""
