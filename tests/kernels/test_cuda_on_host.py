"""The CUDA kernels themselves, run by the host shim: every op, type and layout against the definition, in three thread orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_on_host import battery, host
from cuda_on_host.host import HostBackend, HostRuntime
from tolerances import assert_record

from naa_fast.errors import BackendUnavailable, InputError
from naa_fast.kernels import cuda, reference
from naa_fast.records import VIEWS, LayerRecord

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))

RESIDENT = 24
"""Blocks the pretended device runs at once: enough for several tiles a sample, few enough for lanes that work alone."""


@pytest.mark.parametrize("dtype", battery.DTYPES)
@pytest.mark.parametrize("name", list(battery.cases()))
def test_reduce_and_fold_give_the_definition_in_every_layout_and_order(name: str, dtype: str) -> None:
    x, mask, phase = battery.form(battery.cases()[name], dtype)
    for layout, view, valid in battery.layouts(x, mask):
        where = f"{dtype} {name}, {layout}"
        forward = battery.reduced(view, valid, phase, HostRuntime("forward", RESIDENT), fill=0xFF)
        record = battery.observed(forward, phase, HostRuntime("forward", RESIDENT))
        battery.assert_right(record, view, valid, phase, where)
        for order in ("reverse", "random"):
            # Another filling as well: a byte that nobody writes differs.
            again = battery.reduced(view, valid, phase, HostRuntime(order, RESIDENT), fill=0)
            assert torch.equal(again.buffer, forward.buffer), f"{where}: partials depend on the order of threads ({order})"
            assert same(battery.observed(again, phase, HostRuntime(order, RESIDENT)), record), f"{where}: fold, {order}"


def same(a: LayerRecord, b: LayerRecord) -> bool:
    return all(np.array_equal(p.view(np.int64), q.view(np.int64)) for p, q in zip(a.packed(), b.packed(), strict=True))


def test_every_kernel_is_reached() -> None:
    runtime = HostRuntime("forward", RESIDENT)
    backend = HostBackend(runtime)
    for name, case in battery.cases().items():
        if name in ("several tiles", "many tiles of rows"):
            continue
        x, mask, phase = battery.form(case, "float32")
        for _, view, valid in battery.layouts(x, mask):
            backend.reduce(view, valid, phase)
            if view.shape[2] == 1:
                backend.reduce_kept(view, valid, phase)
    reached = {kernel for kernel, _ in runtime.launches}
    _, files = host.program("reduce", "float32")
    assert reached == {kernel for kernel, _ in host.KERNELS.findall(files["reduce.cu"])}


@pytest.mark.parametrize("inner", [1, 6])
def test_batches_and_many_layers_fold_like_the_definition(inner: int) -> None:
    """More layers than a launch's table holds, of several types and widths, over batches of odd sizes."""
    rng = np.random.default_rng(2)
    runtime = HostRuntime("random", RESIDENT)
    backend = HostBackend(runtime)
    layers = []
    for index in range(90):
        dtype = battery.DTYPES[index % 4]
        x = torch.from_numpy(rng.standard_normal((53, 1 + index % 37, inner)) * 2 + 1).to(getattr(torch, dtype))
        layers.append((x, cuda.empty(x.shape[1], x), reference.empty(x.shape[1], np.empty(0))))
    for start, stop in ((0, 20), (20, 21), (21, 53)):
        backend.fold([(state, backend.reduce(x[start:stop], None, start)) for x, state, _ in layers], start)
        reference.fold([(truth, reference.reduce(x[start:stop].double().numpy(), None, start)) for x, _, truth in layers], start)
    assert [grid for name, grid in runtime.launches if name == "fold"] == [84 + 10, 6] * 3  # ten layers are wider than a block
    for (x, _, truth), packed in zip(layers, cuda.read([state for _, state, _ in layers]), strict=True):
        arithmetic = "float64" if x.dtype == torch.float64 else "float32"
        assert_record(LayerRecord.unpacked("", "", *packed), truth.record, arithmetic, str(x.dtype))


def test_a_state_named_twice_takes_both_in_order() -> None:
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((24, 5, 4)).astype(np.float32))
    runtime = HostRuntime()
    backend = HostBackend(runtime)
    once, twice = cuda.empty(5, x), cuda.empty(5, x)
    first, second = backend.reduce(x[:10], None, 0), backend.reduce(x[10:], None, 0)
    backend.fold([(once, first)], 0)
    backend.fold([(once, second)], 0)
    backend.fold([(twice, first), (twice, second)], 0)
    assert torch.equal(once.words, twice.words)


@pytest.mark.parametrize("dtype", battery.DTYPES)
def test_a_constant_stays_exactly_constant_over_batches(dtype: str) -> None:
    runtime = HostRuntime("forward", RESIDENT)
    backend = HostBackend(runtime)
    x = torch.full((40, 9, 30), 1e4 + 1 / 3).to(getattr(torch, dtype))
    state = cuda.empty(9, x)
    for start in range(0, 40, 13):
        backend.fold([(state, backend.reduce(x[start : start + 13], None, start))], start)
    moments, counts, folds = cuda.read([state])[0]
    assert (moments[:, 0] == float(x[0, 0, 0])).all()
    assert (moments[:, 1:4] == 0).all()
    assert (folds[:, 2] == 0).all()
    assert counts[:, 0, 0].tolist() == [1200, 40, 40]


def test_reading_nothing_gives_nothing() -> None:
    assert cuda.read([]) == []
    cuda.fold([], 0)


@pytest.mark.parametrize("order", list(host.ORDERS))
@pytest.mark.parametrize("channels", [1, 5, 64, 513, 3000])
def test_compare_gives_the_definition_to_the_bit(channels: int, order: str) -> None:
    rng = np.random.default_rng(channels)
    statistics = [rng.standard_normal(channels), rng.random(channels), rng.standard_normal(channels), rng.random(channels)]
    statistics[2][::3] = statistics[0][::3]  # ties at zero
    statistics[1][::4] = statistics[3][::4] = 0.0
    statistics[2][channels // 2] = np.nan
    if channels > 60:
        statistics[2][40:60] = statistics[0][40:60] + 0.5  # ties within rounding, and a second NaN
        statistics[0][7] = np.nan
    a, b, c, d = statistics
    for k in (0, 1, 10, 700, 2000):
        with np.errstate(invalid="ignore"):
            want = reference.compare(a, b, c, d, resolution=2.0**-20, k=k)
        got = HostBackend(HostRuntime(order)).compare(a, b, c, d, resolution=2.0**-20, k=k)
        assert np.array_equal(got.difference, want.difference, equal_nan=True)
        assert np.array_equal(got.z, want.z, equal_nan=True)
        assert np.array_equal(got.top, want.top), k


def test_many_layers_are_compared_in_one_launch_from_their_states() -> None:
    rng = np.random.default_rng(8)
    runtime = HostRuntime()
    backend = HostBackend(runtime)
    sets = []
    for _ in range(2):
        states = []
        for index in range(30):
            x = torch.from_numpy(rng.standard_normal((40, 3 + index, 5)).astype(np.float32))
            states.append(cuda.empty(x.shape[1], x))
            backend.fold([(states[-1], backend.reduce(x, None, 0))], 0)
        sets.append(states)
    runtime.launches.clear()
    for view in VIEWS:
        found = cuda.compare_states(sets[0], sets[1], view, [2.0**-24] * 30, 4, runtime)
        for layer, (a, b) in enumerate(zip(*(cuda.read(states) for states in sets), strict=True)):
            clean, suspect = (getattr(LayerRecord.unpacked("", "", *packed), view) for packed in (a, b))
            want = reference.compare(clean.mean, clean.variance, suspect.mean, suspect.variance, resolution=2.0**-24, k=4)
            assert np.array_equal(found[layer].difference, want.difference)
            assert np.array_equal(found[layer].z, want.z)
            assert np.array_equal(found[layer].top, want.top)
    assert runtime.launches == [("compare", 30)] * len(VIEWS)


def test_a_neuron_never_observed_ranks_first() -> None:
    x = torch.randn(6, 4, 3)
    x[:, 2] = torch.nan
    runtime = HostRuntime()
    backend = HostBackend(runtime)
    state, other = cuda.empty(4, x), cuda.empty(4, x)
    backend.fold([(state, backend.reduce(x, None, 0))], 0)
    backend.fold([(other, backend.reduce(torch.ones(6, 4, 3), None, 0))], 0)
    found = cuda.compare_states([other], [state], "positions", [0.0], 2, runtime)[0]
    assert found.top[0] == 2
    assert np.isnan(found.difference[2])


def test_what_cannot_be_read_is_refused_in_words() -> None:
    runtime = HostRuntime()
    backend = HostBackend(runtime)
    with pytest.raises(InputError, match="no kernel for int64\n  element types: float32"):
        backend.reduce(torch.zeros(2, 2, 2, dtype=torch.int64), None, 0)
    with pytest.raises(InputError, match=r"reads \[outer, channels, inner\]; this tensor is \[2, 2\]"):
        backend.reduce(torch.zeros(2, 2), None, 0)
    with pytest.raises(InputError, match=r"expected a contiguous torch.bool \[2, 4\] on cpu"):
        backend.reduce(torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), 0)
    with pytest.raises(InputError, match="the buffer has 5 on cpu"):
        cuda.reduce_into(torch.zeros(2, 3, 4), None, 0, torch.zeros(5, dtype=torch.uint8), runtime)
    with pytest.raises(BackendUnavailable, match="read CUDA tensors; this one is on cpu"):
        cuda.reduce(torch.zeros(2, 3, 4), None, 0)
    with pytest.raises(InputError, match="4294967296 positions a neuron"):
        backend.reduce(torch.zeros(1).expand(1 << 16, 1, 1 << 16), None, 0)
