"""Data in memory: tensors, arrays, loaders and iterables of batches of every accepted form."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from naa_fast.errors import EXIT_USAGE, InputError, UsageError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.opening import open_source

X = torch.arange(33, dtype=torch.float32).reshape(11, 3)
IDS = torch.arange(8).reshape(2, 4)
ATTENTION = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])


def batches(data: Any, batch_size: int = 4) -> list[Batch]:
    return list(open_source(data, batch_size).batches())


def message(data: Any) -> str:
    with pytest.raises(InputError) as caught:
        batches(data)
    return str(caught.value)


@pytest.mark.parametrize("data", [X, X.numpy()], ids=["tensor", "array"])
def test_a_tensor_or_array_is_cut_along_its_first_axis(data: Any) -> None:
    source = open_source(data, 4)
    assert source.samples == 11
    assert source.name.endswith("[11, 3]")
    found = list(source.batches())
    assert [batch.size for batch in found] == [4, 4, 3]
    assert torch.equal(torch.cat([batch.arguments[0] for batch in found]), X)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16, np.bool_])
def test_an_array_keeps_its_dtype(dtype: Any) -> None:
    (batch,) = batches(np.ones((2, 3, 4, 4), dtype=dtype))
    assert batch.arguments[0].numpy().dtype == dtype


def test_a_model_that_writes_into_its_input_does_not_reach_an_array() -> None:
    array = np.ones((4, 2), dtype=np.float32)
    for batch in batches(array):
        batch.arguments[0].zero_()
    assert (array == 1).all()


@pytest.mark.parametrize(
    "array",
    [np.arange(12.0).reshape(4, 3)[::-1], np.arange(12.0).reshape(4, 3)[:, ::2], np.arange(12, dtype=">f4").reshape(4, 3)],
    ids=["backwards", "every second", "other byte order"],
)
def test_an_array_of_any_strides_and_byte_order_is_read(array: np.ndarray) -> None:
    assert np.array_equal(torch.cat([batch.arguments[0] for batch in batches(array, 3)]).numpy(), array)


def test_a_read_only_array_is_read() -> None:
    array = np.ones((4, 2), dtype=np.float32)
    array.flags.writeable = False
    assert len(batches(array, 3)) == 2


def test_a_loader_gives_its_own_batches_and_says_how_many_samples_it_has() -> None:
    loader = DataLoader(TensorDataset(X, torch.zeros(11)), batch_size=5)
    source = open_source(loader, 4)
    assert (source.name, source.samples) == ("DataLoader", 11)
    assert [batch.size for batch in source.batches()] == [5, 5, 1]


def test_a_loader_over_a_stream_does_not_say() -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(X)

    source = open_source(DataLoader(Stream(), batch_size=2), 4)
    assert source.samples is None
    assert sum(batch.size for batch in source.batches()) == 11


@pytest.mark.parametrize(
    "item",
    [X, X.numpy(), (X,), [X, torch.zeros(11)], (X.numpy(), "labels", None)],
    ids=["tensor", "array", "1-tuple", "list", "tuple of an array"],
)
def test_every_form_of_a_batch_gives_the_input(item: Any) -> None:
    source = open_source(iter([item]), 4)
    (batch,) = source.batches()
    assert source.samples is None
    assert (batch.size, batch.keywords, batch.mask, batch.skipped) == (11, {}, None, 0)
    assert torch.equal(batch.arguments[0], X)


@pytest.mark.parametrize("wrap", [dict, UserDict, lambda d: (d, torch.zeros(2)), lambda d: [d]])
def test_a_dict_becomes_keywords_and_its_attention_mask_the_mask(wrap: Any) -> None:
    item = {"attention_mask": ATTENTION, "labels": torch.ones(2), "input_ids": IDS.numpy(), "use_cache": False}
    (batch,) = batches([wrap(item)])
    assert batch.arguments == ()
    assert batch.size == 2
    assert batch.keywords["use_cache"] is False
    assert torch.equal(batch.keywords["attention_mask"], ATTENTION), "passed on unchanged"
    assert torch.equal(batch.keywords["labels"], torch.ones(2)), "passed on"
    assert batch.mask is not None
    assert torch.equal(batch.mask, ATTENTION.bool())


def test_the_first_tensor_of_a_dict_is_neither_mask_nor_labels() -> None:
    (batch,) = batches([{"labels": torch.ones(2), "attention_mask": ATTENTION, "input_ids": IDS}])
    assert next(iter(batch.keywords)) == "input_ids"


def test_token_ids_stay_integers() -> None:
    (batch,) = batches([{"input_ids": IDS}])
    assert batch.keywords["input_ids"].dtype == torch.int64
    assert batch.mask is None


def test_sequences_may_change_their_length_between_batches() -> None:
    assert [batch.size for batch in batches([torch.zeros(2, 5), torch.zeros(3, 7)])] == [2, 3]


def test_an_empty_batch_among_others_is_left_out() -> None:
    assert [batch.size for batch in batches([X, X[:0], X[:2]])] == [11, 2]


def test_a_one_shot_iterator_serves_once_and_the_second_use_is_told_why() -> None:
    data = iter([X])
    assert len(batches(data)) == 1
    text = message(data)
    assert "gave no batch" in text
    assert "an iterator can be read once" in text


def test_a_source_is_taken_as_it_is() -> None:
    source = open_source(X, 4)
    assert open_source(source, 2) is source
    assert isinstance(source, Source)


# What is refused


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_size_below_one(size: int) -> None:
    with pytest.raises(UsageError, match=f"batch size is {size}\n  expected 1 or more") as caught:
        open_source(X, size)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("data", [torch.tensor(3.0), np.float64(3), np.array(3.0)])
def test_a_single_number(data: Any) -> None:
    text = message(data)
    assert "is a single number" in text or "the data is of type float64" in text
    assert "expected " in text


def test_zero_samples() -> None:
    text = message(X[:0])
    assert "has no samples" in text
    assert "its shape is [0, 3]" in text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "the data is nothing (None)"),
        (5, "the data is of type int"),
        (SimpleNamespace(), "the data is of type SimpleNamespace"),
        ({"input_ids": IDS}, "the data is a dict"),
        (TensorDataset(X), "the data is a TensorDataset, which gives single samples"),
        ([], "list gave no batch"),
        (iter(()), "gave no batch"),
        ([5.0], "batch 0 of list is of type float"),
        ([X, None], "batch 1 of list is nothing (None)"),
        ([[]], "batch 0 of list is of type list"),
        (["x.npy"], "batch 0 of list is of type str"),
        ([[[1.0, 2.0]]], "batch 0 of list is of type list whose first item is of type list"),
        ([torch.tensor(1.0)], "batch 0 of list is a single number"),
        ([np.array(["a"])], "batch 0 of list holds text"),
        ([np.array([None])], "batch 0 of list holds Python objects"),
        ([{}], "batch 0 of list holds no tensor with samples"),
        ([{"use_cache": True}], "found use_cache: of type bool"),
        ([{"scale": torch.tensor(1.0)}], "holds no tensor with samples"),
        ([{3: X}], "batch 0 of list has the key 3"),
    ],
)
def test_what_is_no_data_is_named_with_what_was_expected(data: Any, words: str) -> None:
    text = message(data)
    assert words in text
    assert "expected" in text


def test_a_dict_and_a_dataset_are_told_what_to_do() -> None:
    assert "pass [data]" in message({"input_ids": IDS})
    assert "wrap it: torch.utils.data.DataLoader(dataset" in message(TensorDataset(X))


def test_a_pair_is_not_taken_for_two_batches() -> None:
    text = message((X, torch.zeros(11)))
    assert "batch 1 of tuple has shape [11]" in text
    assert "expected 2 axes as in the first batch, [11, 3]" in text
    assert "if the data is one pair (inputs, labels), pass the inputs alone" in text


def test_tensors_of_a_dict_that_disagree_are_both_named() -> None:
    text = message([{"input_ids": IDS, "pixels": X}])
    assert "batch 0 of list is ragged" in text
    assert "input_ids has 2 samples, pixels has 11" in text
    assert "every tensor of a dict must have the samples along its first axis" in text


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(2, 4), "attention_mask in batch 0 of list is float32 [2, 4]"),
        (torch.ones(2, 1, 4, 4, dtype=torch.bool), "is bool [2, 1, 4, 4]"),
        (torch.tensor([[1, 7, 0, 0], [0, 0, 0, 0]]), "holds values from 0 to 7"),
    ],
)
def test_an_attention_mask_that_does_not_say_what_counts(mask: Tensor, words: str) -> None:
    text = message([{"input_ids": IDS, "attention_mask": mask}])
    assert words in text
    assert "expected a mask of bool or of integers 0 and 1" in text


def test_an_array_of_objects_in_memory_is_an_error_of_the_data() -> None:
    assert "the array holds Python objects" in message(np.array([None, 1]))


def test_scripts_find_open_source_where_they_did() -> None:
    from naa_fast.inputs import batches

    assert batches.open_source is open_source
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = batches.nothing
