"""Fingerprints tell apart what differs, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from naa_fast.inputs.batches import Batch
from naa_fast.inputs.fingerprint import Fingerprint
from naa_fast.inputs.opening import open_source

BIG = torch.arange(300_000, dtype=torch.float32).reshape(300, 1000)
DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64, torch.complex128]


def of(*tensors: Tensor) -> str:
    fingerprint = Fingerprint()
    for x in tensors:
        fingerprint.add(Batch((x,), {}, len(x), None))
    return fingerprint.hexdigest()


def changed(x: Tensor, row: int, column: int) -> Tensor:
    x = x.clone()
    x[row, column] += 1
    return x


def test_the_same_data_has_the_same_fingerprint_wherever_it_comes_from() -> None:
    assert of(BIG) == of(BIG.clone()) == of(BIG.T.contiguous().T)
    assert of(BIG[:, :1]) == of(BIG[:, :1].contiguous()), "one column of a wider tensor has gaps"
    assert len(of(BIG)) == 32
    whole = Fingerprint()
    for batch in open_source(BIG.numpy(), 300).batches():
        whole.add(batch)
    assert whole.hexdigest() == of(BIG)


@pytest.mark.parametrize(
    "other",
    [
        changed(BIG, 0, 0),
        changed(BIG, -1, -1),
        changed(BIG, 0, 1000 - 1),
        BIG * 1.5,
        BIG.double(),
        BIG.reshape(600, 500),
        BIG[:-1],
    ],
    ids=["first", "last", "early", "scaled", "dtype", "shape", "shorter"],
)
def test_other_data_has_another(other: Tensor) -> None:
    assert of(other) != of(BIG)


def test_data_that_differs_only_between_its_edges_is_told_apart() -> None:
    inner = BIG.clone()
    inner[100:200] += 1
    assert of(inner) != of(BIG)


def test_batches_and_their_order_count() -> None:
    assert of(BIG[:100], BIG[100:]) != of(BIG)
    assert of(BIG[:100], BIG[100:200]) != of(BIG[100:200], BIG[:100])


def test_keywords_are_read_by_their_first_tensor() -> None:
    ids = torch.arange(6).reshape(2, 3)

    def digest(ids: Tensor) -> str:
        fingerprint = Fingerprint()
        for batch in open_source([{"labels": torch.ones(2), "input_ids": ids}], 2).batches():
            fingerprint.add(batch)
        return fingerprint.hexdigest()

    assert digest(ids) == digest(ids.clone()) != digest(ids + 1)


def test_what_is_not_in_host_memory_is_unknown_rather_than_alike() -> None:
    assert of(torch.empty(3, 2, device="meta")) == ""
    assert of(BIG, torch.empty(3, 2, device="meta")) == ""
    assert of(torch.eye(3).to_sparse()) == ""
    empty = Fingerprint()
    empty.add(Batch((), {"flag": True}, 1, None))
    assert empty.hexdigest() == ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read(dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(40, 50).to(dtype), torch.ones(40, 50).to(dtype)
    assert of(zeros) != of(ones)
    assert of(zeros) != ""
