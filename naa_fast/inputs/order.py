"""`Order`: whether a set can be read again, and whether its samples come in the same order then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from naa_fast.detect.evidence import PLACE_IN_SET
from naa_fast.inputs.batches import IterableSource, PartOfSource, Source


@dataclass(frozen=True)
class Order:
    """`restarts`: the set can be read more than once; `repeats`: in the same order each time, so that a sample's place in the
    reading is its place in the set. `words` say what it is.
    """

    restarts: bool
    repeats: bool
    words: str

    @classmethod
    def of(cls, source: Source) -> Order:
        """As far as its type says; what is not known to repeat its order is taken not to."""
        if isinstance(order := getattr(source, "order", None), cls):
            return order
        if isinstance(source, PartOfSource):
            return cls.of(source.whole)
        if not isinstance(source, IterableSource):
            return cls(True, True, PLACE_IN_SET)
        data = source.data
        if isinstance(data, DataLoader):
            batched = type(data.batch_sampler) in (BatchSampler, type(None))
            if isinstance(data.dataset, IterableDataset):
                return cls(True, False, "samples by the order they were read in: the loader streams its set")
            if type(data.sampler) is SequentialSampler and batched:
                return cls(True, True, PLACE_IN_SET)
            return cls(True, False, "samples by the order they were read in: the loader has an order of its own (shuffle=True?)")
        if isinstance(data, Sequence) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            return cls(True, True, PLACE_IN_SET)
        if iter(data) is data:
            return cls(False, False, "samples by the order they were read in: the set can be read only once")
        return cls(True, False, "samples by the order they were read in: nothing says that the set repeats it")
