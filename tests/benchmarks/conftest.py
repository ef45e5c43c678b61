"""Tiny models wait longer for a second thread than they compute, the more so beside other work: one thread here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    numba = pytest.importorskip("numba")
    numba.get_num_threads()  # starts Numba's threads, which sets OpenMP's number, and torch's with it
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
