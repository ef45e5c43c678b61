"""All layers of a device at once: `Fitting` enters clean samples, `Scoring` says how far samples lie out.

Both do what `Reference` defines for one layer, in a number of torch operations that does not grow with the number of layers, and
never wait for the device: shapes decide every branch. Start with `Plan`, which lays the layers side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from naa_fast.accumulate.samples import Layout, Pack, Views
from naa_fast.errors import CaptureError
from naa_fast.rank.codes import CODES, rows_of_sums
from naa_fast.rank.reference import FARTHEST, FOLDED, Reference, mixing
from naa_fast.rank.retained import SHOWN
from naa_fast.records import Array

CUT = 3.0
"""Deviations |z| below this count nothing: most of a clean sample's neurons."""
WIDTHS = (16, 64, FOLDED)
"""How wide a layer's projection may be: of narrower layers the rest is zeros, so that many share one batched product."""
STRIPS = 4
"""Parts of a whitening product on the host, which take 5/8 of its multiplications; more are too narrow to be fast."""
DEVICE_VALUES, HOST_VALUES = 1 << 26, 1 << 20
"""Values of a batch that are worked on at a time: four float64 temporaries of that size are alive, on the host in its caches."""


@dataclass(frozen=True)
class Group:
    """`layers` (a slice of the plan's order) whose features take the same place: `tiles` x `width` `columns` each."""

    layers: slice
    columns: slice
    tiles: int
    width: int

    @property
    def count(self) -> int:
        return self.layers.stop - self.layers.start

    def of(self, columns: Tensor) -> Tensor:
        """Their part of `[samples, columns]`: `[samples, layers, tiles x width]`."""
        return self._own(columns).reshape(len(columns), self.count, self.tiles * self.width)

    def projected(self, columns: Tensor) -> Tensor:
        """The sums of their tiles: `[samples, layers, width]`."""
        if self.tiles == 1:
            return self.of(columns)
        return self._own(columns).reshape(len(columns), self.count, self.tiles, self.width).sum(2)

    def _own(self, columns: Tensor) -> Tensor:
        return columns.narrow(1, self.columns.start, self.columns.stop - self.columns.start)


class Plan:
    """Layers of `layout` in the order of `names`: grouped by the place they take, so that a group is one batched product.

    `deal` int64 `[columns]`: which feature lies in each column, the zero at the end of a `Pack` where there is none; `sign`
    float32: of features that are added up to FOLDED sums (a CountSketch: Charikar, Chen and Farach-Colton, ICALP 2002; the same
    number of features in each bucket). `start`: where each layer's features begin in the pack.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        starts, self.features = {}, 0
        for name, features in layout:
            starts[name] = self.features
            self.features += features
        widths = dict(layout)
        self.names = sorted(widths, key=lambda name: place_of(widths[name]))
        self.start = torch.tensor([starts[name] for name in self.names], device=device)
        deal, sign, self.groups = [], [], []
        layers = columns = 0
        for (width, tiles), members in groupby(self.names, key=lambda name: place_of(widths[name])):
            begun = layers, columns
            for name in members:
                features = widths[name]
                order, signs = torch.arange(features), torch.ones(features)
                if features > FOLDED:
                    order, signs = mixing(features, "cpu")
                room = tiles * width - features
                deal.append(torch.nn.functional.pad(order + starts[name], (0, room), value=self.features))
                sign.append(torch.nn.functional.pad(signs, (0, room)))
                layers, columns = layers + 1, columns + tiles * width
            self.groups.append(Group(slice(begun[0], layers), slice(begun[1], columns), tiles, width))
        self.deal, self.sign = torch.cat(deal).to(device), torch.cat(sign).float().to(device)
        self._others: dict[Layout, tuple[Tensor, list[int], Tensor]] = {}

    def aligned(self, pack: Pack) -> tuple[Tensor, list[int]]:
        """The pack's values as this plan has them, NaN in layers that it lacks, and which of `names` these are.
        `[samples, features + 1]`.
        """
        if pack.layout == self.layout:
            return pack.values, []
        if pack.layout not in self._others:
            at, taken = 0, dict[str, range]()
            for name, features in pack.layout:
                taken[name] = range(at, at + features)
                at += features
            columns = [place for name, features in self.layout for place in taken.get(name, [at] * features)]
            lacks = [name not in taken for name, features in self.layout for _ in range(features)]
            absent = [place for place, name in enumerate(self.names) if name not in taken]
            where = self.deal.device
            unknown = torch.tensor([*lacks, False], device=where)
            self._others[pack.layout] = torch.tensor([*columns, at], device=where), absent, unknown
        columns_of, absent, unknown = self._others[pack.layout]
        values = pack.values.index_select(1, columns_of)
        return values.masked_fill_(unknown, torch.nan) if absent else values, absent

    def at_home(self) -> tuple[Array, Array, Array]:
        """On the host, int64: each layer's first column, `deal`, and each layer's first feature. `[layers]`, `[columns]` and
        `[layers]`.
        """
        starts = [group.columns.start + np.arange(group.count) * group.tiles * group.width for group in self.groups]
        return np.concatenate(starts), self.deal.cpu().numpy(), self.start.cpu().numpy()

    def parts(self, values: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples of a batch, of both tensors, that are worked on at a time. `values` `[samples, columns]`, `other`
        `[samples, ...]`.
        """
        most = HOST_VALUES if values.device.type == "cpu" else DEVICE_VALUES
        step = max(1, most // max(values.shape[1], 1))
        for start in range(0, len(values), step):
            rows = min(step, len(values) - start)
            yield values.narrow(0, start, rows), other.narrow(0, start, rows)

    def placed(self, centred: Tensor, width: Tensor) -> Tensor:
        """Finite values about the pivot, in widths, dealt and signed: float32 `[samples, columns]`. Overwrites `centred`."""
        scaled = centred.div_(width).float().clamp_(-FARTHEST, FARTHEST)
        return scaled.index_select(1, self.deal).mul_(self.sign)


def place_of(features: int) -> tuple[int, int]:
    """Width and tiles of a layer's projection: few different ones, so that there are few groups."""
    if features <= FOLDED:
        return next(width for width in WIDTHS if features <= width), 1
    return FOLDED, 1 << (-(-features // FOLDED) - 1).bit_length()


def side_by_side(parts: list[Tensor], last: float) -> Tensor:
    """`[..., features]` of all layers, and what stands for the column of zeros behind them."""
    return torch.cat([*parts, parts[0].new_full((*parts[0].shape[:-1], 1), last)], -1)


def square(parts: list[Tensor], rows: int, columns: int) -> Tensor:
    """Matrices of different sizes in one, zeros around them: `[layers, rows, columns]`."""
    return torch.stack([torch.nn.functional.pad(p, (0, columns - p.shape[-1], 0, rows - p.shape[-2])) for p in parts])


def plan_of(references: Mapping[str, Reference]) -> Plan:
    """Where the layers of `references`, all on one device, lie."""
    layout = tuple((name, len(reference.pivot)) for name, reference in references.items())
    return Plan(layout, next(iter(references.values())).pivot.device)


def begun(views: Views, names: Iterable[str], groups: int | None, there: Iterable[Fitting]) -> dict[str, Reference]:
    """Layers whose first samples these are: of so many groups, or of codes (None), with as many rows as those `there` have."""
    if groups is not None:
        return {name: Reference(groups, views[name]) for name in names}
    features = sum(many for pack in views.packs for _, many in pack.layout)
    rows = next((len(fitting.sums) for fitting in there), rows_of_sums(features))
    return {name: Reference(1 + CODES, views[name], True, rows) for name in names}


class Fitting:
    """The sums of `references` (`Reference`, all on one device), to which whole batches are added.

    State a feature: `groups + 3` float64 and a bool; a layer: at most `(groups + FOLDED) x FOLDED` float64.
    """

    def __init__(self, references: Mapping[str, Reference]) -> None:
        layers = list(references.values())
        self.plan = plan = plan_of(references)
        self.pivot = side_by_side([layer.pivot for layer in layers], 0.0)
        self.width = side_by_side([layer.width for layer in layers], 1.0)
        self.known = torch.cat([*(layer.known for layer in layers), layers[0].known.new_ones(1)])
        self.sums = side_by_side([layer.sums for layer in layers], 0.0)
        self.squares = side_by_side([layer.squares for layer in layers], 0.0)
        self.count = torch.stack([references[name].count for name in plan.names])
        self.coded = self.count.ndim == 3
        self.groups = torch.arange(self.count.shape[1], device=self.pivot.device)
        self.folds, self.products = [], []
        for group in plan.groups:
            members = [references[name] for name in plan.names[group.layers]]
            folds = square([layer.folds for layer in members], len(self.groups), group.width)
            self.folds.append(folds.transpose(0, 1).contiguous())
            self.products.append(square([layer.products for layer in members], group.width, group.width))

    def add(self, pack: Pack, group: Tensor) -> None:
        """Enter samples of groups `group` (int64 `[samples]`, or codes `[samples, groups]`).

        Raises:
            CaptureError: another number of features than in a layer's first batch.
        """
        widths = dict(self.plan.layout)
        for name, features in pack.layout:
            if widths[name] != features:
                raise CaptureError(
                    f"a layer gave {features} values a sample", f"expected {widths[name]} as in the first batch", "leave it out"
                )
        values, absent = self.plan.aligned(pack)
        member = group.double() if self.coded else (group.unsqueeze(1) == self.groups).double()
        counted = member.T @ member if self.coded else member.sum(0)
        if absent:
            present = [place for place in range(len(self.count)) if place not in absent]
            self.count[present] += counted
        else:
            self.count += counted
        for part in self.plan.parts(values, member):
            self._add(*part)

    def _add(self, values: Tensor, member: Tensor) -> None:
        centred = values - self.pivot
        self.known |= centred.abs().lt_(torch.inf).any(0)
        centred.nan_to_num_(0.0, 0.0, 0.0)
        self.sums.addmm_(
            member.narrow(1, 0, len(self.sums)).T, centred
        )  # a product and no scatter: the order of its sums is fixed
        self.squares += torch.linalg.vecdot(centred, centred, dim=0)
        columns = self.plan.placed(centred, self.width)
        member = member.float()
        for place, group in enumerate(self.plan.groups):
            projected = group.projected(columns)
            folds = member.T @ projected.flatten(1)
            self.folds[place] += folds.view(self.folds[place].shape)
            by_layer = projected.transpose(0, 1)
            self.products[place] += by_layer.mT @ by_layer

    def references(self) -> dict[str, Reference]:
        """What was fitted of each layer, in the order of the layout."""
        layers, at = {}, 0
        places = {name: (group, place) for place, group in enumerate(self.plan.groups) for name in self.plan.names[group.layers]}
        for name, features in self.plan.layout:
            columns = slice(at, at + features)
            group, place = places[name]
            index = self.plan.names.index(name)
            within, folded = index - group.layers.start, min(FOLDED, features)
            layers[name] = Reference.of(
                count=self.count[index],
                pivot=self.pivot[columns],
                width=self.width[columns],
                sums=self.sums[:, columns],
                squares=self.squares[columns],
                known=self.known[columns],
                folds=self.folds[place][:, within, :folded],
                products=self.products[place][within, :folded, :folded],
            )
            at += features
        return layers


@dataclass(frozen=True)
class Scored:
    """Where samples lie in each layer of a plan, in the order of its `names`.

    `parts` float32 `[PARTS, samples, layers]`: excess (the sum over features of `max(|z| - CUT, 0)`, infinite where a value is
    not finite), distance and margin (`Standing`); `layer`, `column` (int64) and `z`
    (float32) `[samples, at most SHOWN]` of the layers in which one neuron lies farthest out, farthest first.
    """

    parts: Tensor
    layer: Tensor
    column: Tensor
    z: Tensor


class Scoring:
    """Scores samples by frozen `references`, all on one device. Nothing here depends on a value."""

    def __init__(self, references: Mapping[str, Reference]) -> None:
        layers = list(references.values())
        self.plan = plan = plan_of(references)

        def dealt(parts: list[Tensor], last: float) -> Tensor:
            """In the columns of the plan."""
            return side_by_side(parts, last).index_select(-1, plan.deal)

        shared = max(layers, key=lambda layer: float(layer.samples)).expected if layers[0].coded else None
        self.codes = None if shared is None else tuple(end.float() for end in shared.ends())

        def about(layer: Reference, rows: Tensor) -> Tensor:
            """Rows of groups; of codes about the centre and in the scale of the layer that most samples reached."""
            return rows if shared is None else shared.moved(layer.expected).to(rows)[: len(rows), : len(rows)] @ rows

        pivot = dealt([layer.pivot for layer in layers], 0.0)
        deviation = dealt([layer.deviation for layer in layers], torch.inf)
        known = torch.cat([*(layer.known for layer in layers), layers[0].known.new_ones(1)]).index_select(0, plan.deal)
        # Values less the pivot are exact near it, so that float32 is as fine here as the values themselves are.
        self.pivot = pivot.float()
        apart = -dealt([about(layer, layer.mean) for layer in layers], 0.0)
        apart[: None if shared is None else 1] += self.pivot
        self.apart = (apart / deviation).float()
        self.per_deviation = (1.0 / deviation).float()
        self.scale = (plan.sign / dealt([layer.width for layer in layers], 1.0)).float()
        self.unknown = None if bool(known.all()) else ~known
        ordered = [references[name] for name in plan.names]
        if shared is None:
            self.nobody = ~torch.stack([layer.others[0] for layer in ordered])[:, None]  # [layers, 1, groups]
        self.whitening, self.lengths, products = [], [], list[Tensor]()
        for group in plan.groups:
            members = ordered[group.layers]
            rooms = square([layer.whitening for layer in members], group.width, group.width)
            centres = square([about(layer, layer.centres) for layer in members], members[0].centres.shape[0], group.width).mT
            self.whitening.append(torch.cat([rooms, -2 * rooms @ centres], 2))  # one product for lengths and for what crosses
            if shared is None:
                self.lengths.append(torch.stack([layer.lengths for layer in members])[:, None])
            else:
                products.append(centres.mT @ centres)
        if shared is not None:
            self.products = torch.cat(products)
            self.whole = self.products[:, :1, 0].clone()  # squared length of the whole mean

    def score(self, pack: Pack, group: Tensor) -> tuple[list[Scored], list[int]]:
        """Samples of groups `group` (int64, or codes `[samples, groups]`), and the layers that this batch did not take: what is
        said of those means nothing.
        """
        if self.codes is not None:
            group = (group - self.codes[0]) / self.codes[1]
        known = {name for name, _ in self.plan.layout}
        if any(name not in known for name, _ in pack.layout):
            pack = without(pack, known)
        values, absent = self.plan.aligned(pack)
        return [self._score(*part, absent) for part in self.plan.parts(values, group)], absent

    def _score(self, values: Tensor, group: Tensor, absent: list[int]) -> Scored:
        centred = values.index_select(1, self.plan.deal).sub_(self.pivot).float()
        apart = self.apart.index_select(0, group) if self.codes is None else group.narrow(1, 0, len(self.apart)) @ self.apart
        columns = apart.addcmul_(centred, self.per_deviation).abs_()
        if self.unknown is not None:
            columns = columns.masked_fill_(self.unknown, 0.0)
        largest = [part.of(columns).max(2) for part in self.plan.groups]
        columns = columns.sub_(CUT).clamp_(min=0.0)
        excess = torch.cat([part.of(columns).sum(2) for part in self.plan.groups], 1).nan_to_num_(torch.inf, torch.inf)
        most = torch.cat([part.values for part in largest], 1).nan_to_num_(torch.inf, torch.inf)
        if absent:
            most.index_fill_(1, torch.tensor(absent, device=most.device), 0.0)
        farthest = most.topk(min(SHOWN, most.shape[1]), 1)
        column = torch.cat([part.indices for part in largest], 1).gather(1, farthest.indices)
        distance, margin = self._distances(centred.nan_to_num_(0.0, 0.0, 0.0), group)
        return Scored(torch.stack([excess, distance, margin]), farthest.indices, column, farthest.values)

    def _distances(self, centred: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened distance from the group's own mean, and what is left of it without that from the nearest other's. Of columns
        about the pivot, which it overwrites.
        """
        columns = centred.mul_(self.scale).clamp_(-FARTHEST, FARTHEST)
        if self.codes is not None:
            return self._from_expected(columns, group)
        apart = []
        for place, block in enumerate(self.plan.groups):
            lengths, cross = self._whitened(block.projected(columns).transpose(0, 1), place, block.width)
            apart.append(lengths.unsqueeze(2) + cross + self.lengths[place])
        every = torch.cat(apart)  # [layers, samples, groups]
        of_group = group.view(1, -1, 1).expand(len(every), -1, 1)
        distance = every.gather(2, of_group)
        nearest = every.masked_fill_(self.nobody, torch.inf).scatter_(2, of_group, torch.inf).amin(2, keepdim=True)
        margin = (distance - nearest).nan_to_num_(0.0, 0.0, 0.0)
        return distance.squeeze(2).T, margin.squeeze(2).T

    def _from_expected(self, columns: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened distance from what the codes let expect, and what is left of it without that from the whole mean."""
        parts = enumerate(self.plan.groups)
        found = [self._whitened(one.projected(columns).transpose(0, 1), place, one.width) for place, one in parts]
        lengths, cross = (torch.cat(held) for held in zip(*found, strict=True))
        own = torch.linalg.vecdot(torch.matmul(codes, self.products).add_(cross), codes)  # a square, less that of the sample
        whole = cross.select(2, 0) + self.whole
        return (lengths + own).T, (own - whole).T

    def _whitened(self, projected: Tensor, place: int, width: int) -> tuple[Tensor, Tensor]:
        """Squared lengths of whitened `projected` `[layers, samples, width]`, and what crosses with the centres. On the host in
        STRIPS of columns: whitening is triangular, so that the first ones take the first features alone.
        """
        whitening = self.whitening[place]
        strips = STRIPS if projected.device.type == "cpu" and width == FOLDED else 1
        wide, total = width // strips, None
        for start in range(0, width, wide):
            last = start + wide == width
            columns = whitening.shape[2] - start if last else wide
            products = projected.narrow(2, 0, start + wide) @ whitening.narrow(1, 0, start + wide).narrow(2, start, columns)
            placed = products.narrow(2, 0, wide)
            lengths = torch.linalg.vecdot(placed, placed)
            total = lengths if total is None else total + lengths
        assert total is not None
        return total, products.narrow(2, wide, columns - wide)


def without(pack: Pack, known: set[str]) -> Pack:
    """The pack's layers that are `known`."""
    at, columns, layout = 0, list[int](), list[tuple[str, int]]()
    for name, features in pack.layout:
        if name in known:
            columns += range(at, at + features)
            layout.append((name, features))
        at += features
    return Pack(tuple(layout), pack.values[:, [*columns, at]])
