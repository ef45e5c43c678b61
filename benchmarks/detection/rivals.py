"""What else is used to find backdoors in activations, on the same models and sets: `rivals` on the features that a `Reader`
reads.

Each gives a score of the model and, where it has one, a score of every sample. Activation clustering and spectral signatures are
our own short versions from the papers: they see the classes the model predicts, because suspect samples come without labels.
The classic rule and Cohen's d are columns of naa-fast's own rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from benchmarks.detection.metrics import auc, precision_at_k

MIN_GROUP = 20
"""Samples of one predicted class below which it is not looked at."""


@dataclass(frozen=True)
class Features:
    """What enters the last layer, float64 `[n, width]`, and the predicted class `[n]`."""

    x: np.ndarray
    predicted: np.ndarray

    def of(self, label: int) -> np.ndarray:
        return self.x[self.predicted == label]


Scored = tuple[float, np.ndarray | None]
Rival = Callable[[Features, Features], Scored]


class Reader:
    """Features of sets of one model. Sets share most of their samples: what was read once is not run again."""

    def __init__(self, model: nn.Module, held: Tensor) -> None:
        """`held`: the samples that suspect sets are made of, which are read here."""
        self.model = model
        self.known = dict(zip(digests(held), zip(*self.run(held), strict=True), strict=True))

    def __call__(self, x: Tensor) -> Features:
        names = digests(x)
        new = [row for row, name in enumerate(names) if name not in self.known]
        ran = zip(*self.run(x[new]), strict=True) if new else ()  # attention reshapes, which no samples cannot be
        read = dict(zip((names[row] for row in new), ran, strict=True))
        kept, predicted = zip(*(self.known.get(name) or read[name] for name in names), strict=True)
        return Features(torch.stack(kept).double().numpy(), torch.stack(predicted).numpy())

    @torch.no_grad()
    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the last layer, `model.logits` in every architecture here, and the predicted classes."""
        kept: list[Tensor] = []
        handle = self.model.get_submodule("logits").register_forward_pre_hook(
            lambda module, inputs: kept.append(inputs[0].detach().clone())
        )
        try:
            predicted = [self.model(part).argmax(1) for part in x.split(256)]
        finally:
            handle.remove()
        return torch.cat(kept), torch.cat(predicted)


def digests(x: Tensor) -> list[bytes]:
    """What tells each sample from the others."""
    return [blake2b(sample.tobytes(), digest_size=16).digest() for sample in x.numpy()]


def activation_clustering(clean: Features, suspect: Features) -> Scored:
    """Chen et al., arXiv:1811.03728: per class ten principal components, two clusters.

    Model: the largest silhouette of a class. Sample: the silhouette of its class, if it lies in the smaller cluster, times how
    much smaller that is.
    """
    scores, best = np.zeros(len(suspect.x)), 0.0
    for label in np.unique(suspect.predicted):
        rows = np.flatnonzero(suspect.predicted == label)
        if len(rows) < MIN_GROUP:
            continue
        reduced = PCA(min(10, suspect.x.shape[1]), random_state=0).fit_transform(suspect.x[rows])
        cluster = KMeans(2, n_init=3, random_state=0).fit_predict(reduced)
        if len(np.unique(cluster)) < 2:
            continue
        silhouette = silhouette_score(reduced, cluster, sample_size=min(1000, len(rows)), random_state=0)
        small = int((cluster == 1).mean() < 0.5)
        scores[rows[cluster == small]] = max(silhouette, 0) * (1 - 2 * (cluster == small).mean()) + 1e-9
        best = max(best, float(silhouette))
    return best, scores


def spectral_signatures(clean: Features, suspect: Features) -> Scored:
    """Tran, Li and Madry, arXiv:1811.00636: per class the squared projection on the top singular direction.

    Model: the largest share of a class's variance that its top direction takes, beyond the same on the clean set.
    """
    scores, best = np.zeros(len(suspect.x)), -1.0
    for label in np.unique(suspect.predicted):
        rows = np.flatnonzero(suspect.predicted == label)
        if len(rows) < MIN_GROUP:
            continue
        share, projected = top_direction(suspect.x[rows])
        scores[rows] = projected**2
        known = clean.of(int(label))
        best = max(best, share - (top_direction(known)[0] if len(known) >= MIN_GROUP else 0.0))
    return best, scores


def top_direction(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of the variance in the first principal direction, and the projections on it."""
    centred = x - x.mean(0)
    _, s, v = np.linalg.svd(centred, full_matrices=False)
    return float(s[0] ** 2 / max((s**2).sum(), 1e-30)), centred @ v[0]


def mahalanobis(clean: Features, suspect: Features) -> Scored:
    """Lee et al., arXiv:1807.03888: distance to the clean mean of the predicted class under one shared covariance.

    Model: the mean of the farthest hundredth over the same of the clean set.
    """
    means, centred = {}, []
    for label in np.unique(clean.predicted):
        own = clean.of(int(label))
        means[label] = own.mean(0)
        centred.append(own - own.mean(0))
    spread = np.concatenate(centred)
    precision = np.linalg.pinv(spread.T @ spread / len(spread) + 1e-6 * np.eye(spread.shape[1]))
    general = clean.x.mean(0)

    def distances(found: Features) -> np.ndarray:
        away = found.x - np.stack([means.get(label, general) for label in found.predicted])
        return np.einsum("ij,jk,ik->i", away, precision, away)

    def far(values: np.ndarray) -> float:
        return float(np.sort(values)[-max(3, len(values) // 100) :].mean())

    ours = distances(suspect)
    return far(ours) / max(far(distances(clean)), 1e-30), ours


def by_chance(clean: Features, suspect: Features) -> Scored:
    random = np.random.default_rng(len(suspect.x) + int(suspect.predicted.sum()))
    return float(random.random()), random.random(len(suspect.x))


RIVALS: dict[str, Rival] = {
    "activation clustering": activation_clustering,
    "spectral signatures": spectral_signatures,
    "Mahalanobis, last layer": mahalanobis,
    "random": by_chance,
}


def rivals(clean: Features, suspect: Features, truth: np.ndarray, harmful: bool) -> dict[str, dict[str, Any]]:
    """Score, ranking AUC and precision at k of every rival on one suspect set; "perfect" knows the truth (`harmful`)."""
    found = {name: rival(clean, suspect) for name, rival in RIVALS.items()} | {"perfect": (float(harmful), truth.astype(float))}
    return {
        name: {"score": score, "auc": auc(samples, truth), "precision": precision_at_k(samples, truth)}
        for name, (score, samples) in found.items()
        if samples is not None
    }
