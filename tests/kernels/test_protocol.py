"""Every backend package is a `Backend`: by its types, which mypy checks where CPU to REFERENCE are made, and by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from naa_fast.kernels import cpu, cuda, portable, reference
from naa_fast.kernels.cpu.fold import State as CpuState
from naa_fast.kernels.cpu.reduce import Partials as CpuPartials
from naa_fast.kernels.cpu.samples import SampleViews as CpuKept
from naa_fast.kernels.cpu.tally import Bins as CpuBins
from naa_fast.kernels.cpu.tally import Tails as CpuTails
from naa_fast.kernels.cuda.fold import State as CudaState
from naa_fast.kernels.cuda.reduce import Partials as CudaPartials
from naa_fast.kernels.cuda.samples import Given as CudaKept
from naa_fast.kernels.cuda.tally import Tails as CudaTails
from naa_fast.kernels.portable.fold import State as PortableState
from naa_fast.kernels.portable.reduce import Partials as PortablePartials
from naa_fast.kernels.portable.samples import Given as PortableKept
from naa_fast.kernels.portable.tally import Tails as PortableTails
from naa_fast.kernels.portable.tally import Values as PortableValues
from naa_fast.kernels.reference.fold import State as ReferenceState
from naa_fast.kernels.reference.reduce import Partials as ReferencePartials
from naa_fast.kernels.reference.samples import Given as ReferenceKept
from naa_fast.kernels.reference.tally import Tails as ReferenceTails
from naa_fast.ops import OPS, Backend, Chosen
from naa_fast.records import Array

CPU: Backend[Array, CpuState, CpuPartials, CpuKept, CpuTails, CpuBins] = cpu
CUDA: Backend[torch.Tensor, CudaState, CudaPartials, CudaKept, CudaTails, torch.Tensor] = cuda
PORTABLE: Backend[torch.Tensor, PortableState, PortablePartials, PortableKept, PortableTails, PortableValues] = portable
REFERENCE: Backend[Array, ReferenceState, ReferencePartials, ReferenceKept, ReferenceTails, Array] = reference


@pytest.mark.parametrize("backend", [CPU, CUDA, PORTABLE, REFERENCE], ids=["cpu", "cuda", "portable", "reference"])
def test_a_backend_has_every_function(backend: Chosen) -> None:
    wanted = {name for name in vars(Backend) if not name.startswith("_")}
    assert set(OPS) <= wanted
    assert not {name for name in wanted if not callable(getattr(backend, name, None))}


@pytest.mark.parametrize(
    ("folder", "places"),
    [("cpu", {"planes.py"}), ("cuda", {"tile.cuh", "fold.cu"}), ("portable", {"reduce.py"}), ("reference", set())],
)
def test_a_statistic_is_named_in_one_place_of_reduce_and_one_of_fold(folder: str, places: set[str]) -> None:
    """`positives` stands for any: a count that is added touches these files and no others (CONTRIBUTING.md)."""
    files = [path for path in (Path(__file__).parents[2] / "kernels" / folder).iterdir() if path.is_file()]
    assert {path.name for path in files if "positive" in path.read_text().lower()} == places
