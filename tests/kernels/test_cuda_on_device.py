"""The CUDA kernels on a real device: against the definition, and number for number against the host shim."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from cuda_on_host import battery, host
from cuda_on_host.host import HostRuntime
from kernels.test_tally import expected as of_samples
from kernels.test_tally import off_by
from tolerances import assert_record, assert_tails
from torch import Tensor

from naa_fast.kernels import cuda, reference
from naa_fast.kernels.cuda.compile import Kernel, runtime
from naa_fast.kernels.cuda.reduce import COUNTS, REALS, Partials
from naa_fast.ops import cuda_missing
from naa_fast.records import LayerRecord

WHY_NOT = "torch finds no CUDA device" if not torch.cuda.is_available() else cuda_missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


def parts(partials: Partials) -> tuple[np.ndarray, np.ndarray]:
    """The items' reals and packed counts on the host."""
    raw = partials.buffer.cpu().numpy()
    wide = np.float64 if partials.dtype == "float64" else np.float32
    at = partials.items * REALS * partials.channels * np.dtype(wide).itemsize
    shape = (partials.items, -1, partials.channels)
    return raw[:at].view(wide).reshape(shape), raw[at:].view(np.uint32).reshape(partials.items, COUNTS, partials.channels)


def observed_here(x: Tensor, mask: Tensor | None, phase: int) -> tuple[Partials, LayerRecord]:
    partials = battery.reduced(x, mask, phase, runtime(x))
    return partials, battery.observed(partials, phase, runtime(x))


@pytest.mark.parametrize("dtype", battery.DTYPES)
@pytest.mark.parametrize("name", list(battery.cases()))
def test_the_device_gives_the_definition_and_what_the_host_shim_gives(name: str, dtype: str) -> None:
    x, mask, phase = battery.form(battery.cases()[name], dtype, "cuda")
    for layout, view, valid in battery.layouts(x, mask):
        where = f"{dtype} {name}, {layout}"
        partials, record = observed_here(view, valid, phase)
        battery.assert_right(record, view, valid, phase, where)
        again, _ = observed_here(view, valid, phase)
        assert torch.equal(partials.buffer, again.buffer), f"{where}: two runs differ"
        if host.missing() is not None:
            continue
        shim = HostRuntime("forward", runtime(x).slots(Kernel("reduce", "reduce_rows", dtype)))
        # The same address modulo 16 and the same strides, so that the plan is the same.
        there = torch.empty(view.untyped_storage().nbytes() // view.element_size(), dtype=view.dtype)
        there.untyped_storage().copy_(view.untyped_storage().cpu())
        there = there.as_strided(view.shape, view.stride(), view.storage_offset())
        twin = battery.reduced(there, None if valid is None else valid.cpu(), phase, shim)
        for ours, theirs in zip(parts(partials), parts(twin), strict=True):
            # Numbers, not bits: which of +0 and -0 a minimum keeps is not promised.
            assert np.array_equal(ours, theirs, equal_nan=True), f"{where}: device and host shim differ"
        folded = battery.observed(twin, phase, shim)
        assert all(np.array_equal(a, b) for a, b in zip(record.packed(), folded.packed(), strict=True)), f"{where}: folds differ"


@pytest.mark.parametrize("dtype", battery.DTYPES)
@pytest.mark.parametrize("name", list(battery.cases()))
def test_the_device_tallies_what_the_definition_does(name: str, dtype: str) -> None:
    x, mask, phase = battery.form(battery.cases()[name], dtype, "cuda")
    for layout, view, valid in battery.layouts(x, mask):
        state = cuda.tails(view.shape[1], view)
        if view.shape[2] == 1:
            cuda.tally([(state, cuda.bins(view[:, :, 0], None if valid is None else valid[:, 0]))])
        else:
            cuda.tally([(state, cuda.reduce(view, valid, phase))])
        (read,) = cuda.read_tails([state])
        values, seen = view.cpu().double().numpy(), None if valid is None else valid.cpu().numpy()
        e = off_by(values, seen, "float64" if dtype == "float64" else "float32")
        assert_tails(read, of_samples(values, seen), e, f"{dtype} {name}, {layout}")


def test_batches_of_many_layers_fold_like_the_definition() -> None:
    rng = np.random.default_rng(2)
    layers = []
    for index in range(90):
        values = torch.from_numpy(rng.standard_normal((53, 1 + index % 37, 1 + index % 5)) * 2 + 1)
        x = values.to("cuda", getattr(torch, battery.DTYPES[index % 4]))
        layers.append((x, cuda.empty(x.shape[1], x), reference.empty(x.shape[1], np.empty(0))))
    for start, stop in pairwise((0, 20, 21, 53)):
        cuda.fold([(state, cuda.reduce(x[start:stop], None, start)) for x, state, _ in layers], start)
        reference.fold(
            [(truth, reference.reduce(x[start:stop].cpu().double().numpy(), None, start)) for x, _, truth in layers], start
        )
    for (x, _, truth), packed in zip(layers, cuda.read([state for _, state, _ in layers]), strict=True):
        arithmetic = "float64" if x.dtype == torch.float64 else "float32"
        assert_record(LayerRecord.unpacked("", "", *packed), truth.record, arithmetic, str(x.dtype))


def test_a_stream_of_ones_own_is_respected() -> None:
    stream = torch.cuda.Stream()
    x = torch.zeros(64, 512, 400, device="cuda")
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the kernel must wait for what its own stream does first
        x.fill_(3.0)
        state = cuda.empty(512, x)
        cuda.fold([(state, cuda.reduce(x, None, 0))], 0)
        moments, counts, _ = cuda.read([state])[0]
    assert (moments[:, 0] == 3.0).all()
    assert (counts[0, 0] == 64 * 400).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_a_tensor_on_another_device_is_read_there() -> None:
    x = torch.randn(20, 8, 30, device="cuda:1")
    partials, record = observed_here(x, None, 0)
    assert partials.buffer.device == x.device
    battery.assert_right(record, x, None, 0, "cuda:1")


def test_more_elements_than_32_bits_are_indexed() -> None:
    rows, channels = 33_000, 65_536
    if torch.cuda.mem_get_info()[0] < 3 * rows * channels * 2:
        pytest.skip("not enough device memory")
    x = torch.zeros(rows, channels, dtype=torch.bfloat16, device="cuda")
    x[-1, -1], x[-1, 0] = 5.0, -2.0
    for view in (x[:, :, None], x[None], x.view(1, rows, channels).permute(0, 2, 1)):
        state = cuda.empty(view.shape[1], view)
        cuda.fold([(state, cuda.reduce(view, None, 0))], 0)
        moments, counts, _ = cuda.read([state])[0]
        assert counts[0, 0].sum() == rows * channels
        assert moments[0, 5].max() == 5.0
        assert moments[0, 4].min() == -2.0


@pytest.mark.parametrize("channels", [5, 513, 40_000])
def test_comparisons_are_the_definition(channels: int) -> None:
    rng = np.random.default_rng(channels)
    statistics = [rng.standard_normal(channels), rng.random(channels), rng.standard_normal(channels), rng.random(channels)]
    statistics[2][::3] = statistics[0][::3]
    statistics[2][channels // 2] = np.nan
    a, b, c, d = statistics
    want = reference.compare(a, b, c, d, resolution=2.0**-20, k=700)
    got = cuda.compare(a, b, c, d, resolution=2.0**-20, k=700)
    for ours, theirs in zip(got, want, strict=True):
        assert np.array_equal(ours, theirs, equal_nan=True)
