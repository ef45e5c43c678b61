"""`Reference`: what clean samples of a predicted class look like in one layer, and how far a sample is from that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from naa_fast.errors import CaptureError
from naa_fast.kernels.portable.reduce import home
from naa_fast.rank.codes import Expected

PRIOR = 4.0
"""Samples' worth of the whole set's mean that goes into every group's: the mean of a small group is mostly noise."""
FLOOR = 0.05
"""Least deviation of a feature, as a share of its layer's median: a neuron that clean data never lights has none of its own."""
FOLDED = 256
"""Features whose covariance is kept: more are added up in so many sums, each with a sign, which keeps distances on average."""
SHRINKAGE = 0.1
"""Share of the correlations that is given up: a few hundred clean samples do not fix 256 x 256 of them."""
FIRST, BALANCED = 16, 0.5
"""Samples whose deviations weigh the features that are added up, and the least of them as a share of the median."""
ROUNDED = 1e-5
"""Share of a feature's variance about the pivot below which its variance within groups is lost in rounding."""
FARTHEST = 1e6
"""Deviations at which values end for the covariance: beyond, one of them alone would decide it."""


@dataclass(frozen=True)
class LayerDeviation:
    """Where samples lie in a layer: `z` float32 `[samples, features]`, distance of each feature from the group's mean in
    deviations; `distance` float64 `[samples]`, squared and whitened (Mahalanobis 1936), from that mean; `margin`, what is left of
    it when that from the nearest other group's mean is taken off: large for what looks like another class. By codes the mean is
    the one expected by a sample's class scores, and the margin is over the whole set's mean.
    """

    z: Tensor
    distance: Tensor
    margin: Tensor


class Reference:
    """Mean of each group and deviations and covariance within groups, over the features of one layer.

    State: `(groups + 2) x features` and at most `(groups + FOLDED) x FOLDED` float64 on the layer's device. Residuals from the
    mean of the *predicted* class are what makes a triggered sample stand out: it looks like its own class and is called another.
    A non-finite value counts as the pivot. The sums are about a pivot and in widths that the first samples fix; states of one
    set's parts merge if their widths are the same (`merge`).

    Where there are too many classes, samples have codes (rank/codes.py) in place of a group: `count` `[groups]` is then their
    products `[groups, groups]`, and the first of `groups` is the whole set. Where layers are large besides, `sums` has a row for
    the whole set alone, and codes count in the projection.
    """

    def __init__(self, groups: int, like: Tensor, coded: bool = False, rows: int | None = None) -> None:
        """`like` `[samples, features]`: the first samples; `rows` of `sums` (None: one for each group or code)."""
        where = home(like.device)
        first = torch.nan_to_num(like.to(where, torch.float64), 0.0, 0.0, 0.0)
        self.count = torch.zeros((groups, groups) if coded else groups, dtype=torch.float64, device=where)
        self.pivot = first.mean(0)
        width = floored(first[:FIRST].std(0, correction=0), BALANCED)
        self.width = width if len(width) > FOLDED else width.median().expand_as(width)  # what is not added up keeps its scale
        self.sums = torch.zeros(groups if rows is None else rows, like.shape[1], dtype=torch.float64, device=where)
        self.squares = torch.zeros(like.shape[1], dtype=torch.float64, device=where)
        self.known = torch.zeros(like.shape[1], dtype=torch.bool, device=where)
        folded = min(FOLDED, like.shape[1])
        self.folds = torch.zeros(groups, folded, dtype=torch.float64, device=where)
        self.products = torch.zeros(folded, folded, dtype=torch.float64, device=where)
        self.projected: Tensor | None = None

    @classmethod
    def of(
        cls,
        *,
        count: Tensor,
        pivot: Tensor,
        width: Tensor,
        sums: Tensor,
        squares: Tensor,
        known: Tensor,
        folds: Tensor,
        products: Tensor,
        projected: Tensor | None = None,
    ) -> Reference:
        """One that holds copies of these sums (rank/packed.py adds them up): `pivot`, `width`, `squares`, `known` `[features]`,
        `sums` `[groups, features]`, `folds` `[groups, projected features]`, `products` of these with one another; `projected`: as
        `count`, of the samples in `folds` and `products`.
        """
        made = cls.__new__(cls)
        made.count, made.pivot, made.width, made.sums = count.clone(), pivot.clone(), width.clone(), sums.clone()
        made.squares, made.known, made.folds, made.products = squares.clone(), known.clone(), folds.clone(), products.clone()
        made.projected = None if projected is None else projected.clone()
        return made

    @property
    def coded(self) -> bool:
        return self.count.ndim == 2

    @property
    def samples(self) -> Tensor:
        """How many were entered."""
        return self.count[0, 0] if self.coded else self.count.sum()

    def whole(self, sums: Tensor) -> Tensor:
        """Of `sums` of each group `[groups, features]` those of all samples, `[features]`."""
        return sums[0] if self.coded else sums.sum(0)

    def to(self, device: torch.device) -> Reference:
        """The same, on another device."""
        for name, value in vars(self).items():
            setattr(self, name, value if value is None else value.to(device))
        return self

    def add(self, view: Tensor, group: Tensor) -> None:
        """Enter samples `view` `[samples, features]` of groups `group` (int64 `[samples]`, or codes `[samples, groups]`).

        Raises:
            CaptureError: another number of features than in the first batch.
        """
        if view.shape[1] != len(self.pivot):
            raise CaptureError(
                f"a layer gave {view.shape[1]} values a sample",
                f"expected {len(self.pivot)} as in the first batch",
                "leave it out",
            )
        centred = view.to(self.pivot.device, torch.float64) - self.pivot
        if centred.device.type == "cpu" and torch.isfinite(centred.sum(0)).all():  # so is every value
            self.known.fill_(True)
        else:
            finite = torch.isfinite(centred)
            self.known |= finite.any(0)
            centred = torch.where(finite, centred, 0.0)
        if self.coded:
            member = group.to(centred)
            self.count += member.T @ member
        else:
            member = centred.new_zeros(len(group), len(self.count)).scatter_(1, group.to(centred.device)[:, None], 1.0)
            self.count += member.sum(0)
        self.sums += member[:, : len(self.sums)].T @ centred  # a product and no scatter: the order of its sums is fixed
        self.squares += (centred * centred).sum(0)
        folded = self.folded(centred)
        self.folds += (member.T.float() @ folded).double()
        self.products += (folded.T @ folded).double()

    def merge(self, other: Reference) -> None:
        """Enter what `other` has seen of another part of the set, about this pivot: exact but for rounding, and where values lie
        more than FARTHEST widths out. The widths must be those of the same first samples.
        """
        apart = other.pivot.to(self.pivot.device) - self.pivot
        entered, sums = other.count.to(self.count.device), other.sums.to(self.sums.device)
        count, total = (entered[0], entered[0, 0]) if self.coded else (entered, entered.sum())
        self.squares += other.squares.to(self.squares.device) + 2 * apart * self.whole(sums) + apart**2 * total
        self.sums += sums + count[: len(sums), None] * apart
        self.known |= other.known.to(self.known.device)
        moved, folds = self.folded(apart[None])[0].double(), other.folds.to(self.folds.device)
        crossed = torch.outer(self.whole(folds), moved)
        self.products += other.products.to(self.products.device) + crossed + crossed.T + total * torch.outer(moved, moved)
        self.folds += folds + count[:, None] * moved
        self.count += entered

    def folded(self, centred: Tensor) -> Tensor:
        """Finite values about the pivot, in deviations of the first samples: float32 `[samples, at most FOLDED]`."""
        return self.projection((centred / self.width).float().clamp_(-FARTHEST, FARTHEST))

    def projection(self, scaled: Tensor) -> Tensor:
        """`scaled` `[samples, features]` added up with signs to at most FOLDED sums."""
        features = scaled.shape[1]
        if features <= FOLDED:
            return scaled
        order, sign = mixing(features, str(scaled.device))
        padded = torch.nn.functional.pad(scaled[:, order] * sign, (0, -features % FOLDED))
        return padded.reshape(len(scaled), padded.shape[1] // FOLDED, FOLDED).sum(1)

    def freeze(self) -> None:
        """Fix the means, deviations and covariances; to be called once, before `deviation_of`."""
        total = self.samples.clamp(min=1)
        if self.coded:
            rows = len(self.sums)
            each = Expected.of(self.count[:rows, :rows], self.sums)
            within = self.squares - self.sums[0] ** 2 / total - each.explained()
            freedom = each.freedom
        else:
            overall = self.sums.sum(0) / total
            self.mean = self.pivot + (self.sums + PRIOR * overall) / (self.count[:, None] + PRIOR)
            within = self.squares - (self.sums**2 / self.count.clamp(min=1)[:, None]).sum(0)
            freedom = (total - (self.count > 0).sum()).clamp(min=1)
        self.deviation = floored((within.clamp(min=0) / freedom).sqrt())
        self.unknown = None if self.known.all() else ~self.known
        self._whiten()
        if self.coded:
            self.mean = each.rows if rows == 1 else self.expected.moved(each) @ each.rows
            self.mean[0] += self.pivot
        del self.products, self.folds  # .6 MB a layer

    def _whiten(self) -> None:
        """Fix the map to coordinates that vary alike and apart within groups, and where the groups' means lie in them."""
        count = self.count if self.projected is None else self.projected
        if self.coded:
            self.expected = expected = Expected.of(count, self.folds)
            freedom, whole = expected.freedom, torch.outer(self.folds[0], expected.rows[0])
            covariance = (self.products - whole - expected.explained_products()) / freedom
        else:
            freedom = (count.sum() - (count > 0).sum()).clamp(min=1)
            mean = self.folds / count.clamp(min=1)[:, None]
            covariance = (self.products - self.folds.T @ mean) / freedom
        # A layer may be all but fixed by the class: of what lies below the rounding of float32 sums nothing is known.
        least = ROUNDED * self.products.diagonal() / freedom
        width = floored(torch.maximum(covariance.diagonal(), least).sqrt())
        correlations = torch.nan_to_num(covariance / width / width[:, None])
        identity = torch.eye(len(width), dtype=torch.float64, device=width.device)
        root, failed = torch.linalg.cholesky_ex((1 - SHRINKAGE) * correlations + SHRINKAGE * identity)
        if int(failed):
            root = identity
        self.whitening = (torch.linalg.solve_triangular(root, identity, upper=False).T / width[:, None]).float()
        self.centres = (self.expected.rows.float() if self.coded else self.folded(self.mean - self.pivot)) @ self.whitening
        self.lengths = (self.centres**2).sum(1)
        if not self.coded:
            self.others = self.count[None] > 0  # groups that a sample may belong to instead

    def deviation_of(self, view: Tensor, group: Tensor) -> LayerDeviation:
        """Where samples `view` `[samples, features]` of groups `group` lie. A feature that no clean sample had a finite value of
        has z 0: it would make every sample's score NaN.
        """
        of_group = group.to(self.mean.device)
        values = view.to(self.mean.device, torch.float64)
        if self.coded:
            centre, scale = self.expected.ends()
            member = (of_group.double() - centre) / scale
            mean = member[:, : len(self.mean)] @ self.mean
        else:
            mean = self.mean.index_select(0, of_group)
        z = (values - mean).div_(self.deviation).float()
        if self.unknown is not None:
            z = z.masked_fill_(self.unknown, 0.0)
        centred = values - self.pivot
        if centred.device.type != "cpu" or not torch.isfinite(centred.sum()):  # a GPU would have to wait for the answer
            centred = torch.where(torch.isfinite(centred), centred, 0.0)
        placed = self.folded(centred) @ self.whitening
        if self.coded:
            distance, plain = (((placed - there) ** 2).sum(1) for there in (member.float() @ self.centres, self.centres[0]))
            return LayerDeviation(z, distance.double(), (distance - plain).double())
        apart = (placed * placed).sum(1, keepdim=True) + torch.addmm(self.lengths, placed, self.centres.T, alpha=-2)
        distance = apart.gather(1, of_group[:, None])[:, 0].double()
        elsewhere = apart.masked_fill(~self.others, torch.inf).scatter_(1, of_group[:, None], torch.inf).amin(1).double()
        return LayerDeviation(z, distance, torch.where(torch.isfinite(elsewhere), distance - elsewhere, 0.0))


def floored(deviation: Tensor, floor: float = FLOOR) -> Tensor:
    """Deviations of at least this share of the median of those that there are; 1 where there are none. `[features]`."""
    varied = deviation[deviation > 0]
    return deviation.clamp(min=float(floor * varied.median())) if len(varied) else torch.ones_like(deviation)


@lru_cache(maxsize=64)
def mixing(features: int, device: str) -> tuple[Tensor, Tensor]:
    """The order in which features are dealt to FOLDED sums, and their signs: random, and the same for each layer so wide.
    `[features]`, both.
    """
    generator = torch.Generator("cpu").manual_seed(features)  # whatever the default device and dtype are
    order = torch.randperm(features, generator=generator, device="cpu")
    sign = torch.randint(0, 2, (features,), generator=generator, device="cpu").float() * 2 - 1
    return order.to(device), sign.to(device)
