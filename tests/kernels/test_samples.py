"""Samples' views out of what `reduce` has made: every backend against plain arithmetic, the .cu on the host in three orders."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from cuda_on_host import battery, host
from cuda_on_host.host import HostBackend, HostRuntime
from kernels.test_backends import DTYPES, layouts, stored, torch_tensor
from tolerances import observation_error

from naa_fast.errors import InputError
from naa_fast.kernels import cpu, cuda, portable, reference
from naa_fast.kernels.reference.reduce import to_float64
from naa_fast.records import Array, Moments

RESIDENT = 24
HARD = battery.cases()
CHOSEN = (
    "one row", "tokens", "several tiles", "short samples", "offset 1e4 image", "tiny", "nan and inf", "nan and inf image", "mask",
    "mask of samples", "mask leaves two samples", "phase 61", "zero rows",
)  # fmt: skip
Swap = tuple[str, str, str]


def backends(swaps: tuple[Swap, ...] = ()) -> dict[str, tuple[Any, Any, str]]:
    found: dict[str, tuple[Any, Any, str]] = {}
    if not swaps:
        found = {
            "reference": (reference, lambda x: x, "float64"),
            "cpu": (cpu, lambda x: x, "float32"),
            "portable": (portable, torch_tensor, "float64"),
        }
    if host.missing() is None:
        for order in host.ORDERS:
            found[f"cuda on the host, {order}"] = (HostBackend(HostRuntime(order, RESIDENT, swaps)), torch_tensor, "float32")
    return found


@pytest.fixture(params=list(backends()))
def backend(request: pytest.FixtureRequest) -> tuple[Any, Any, str]:
    return backends()[request.param]


def wanted(x: Array, mask: Array | None) -> tuple[Array, Array]:
    """Each sample's mean and maximum from its own values."""
    values = to_float64(x)
    if x.shape[2] == 1:
        own = values[:, :, 0] if mask is None else np.where(mask, values[:, :, 0], np.nan)
        return own, own
    seen = np.broadcast_to(True if mask is None else mask[:, None], values.shape)
    count = seen.sum(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, high = np.where(seen, values, 0.0).sum(2) / count, np.where(seen, values, -np.inf).max(2, initial=-np.inf)
    known = (np.isfinite(values) | ~seen).all(2) & (count > 0)
    return np.where(known, mean, np.nan), np.where(known, high, np.nan)


def budgets(x: Array, mask: Array | None, arithmetic: str) -> Array | float:
    if x.shape[2] == 1:
        return 0.0
    valid = np.ones((x.shape[0], x.shape[2]), bool) if mask is None else mask
    with np.errstate(all="ignore"):
        return observation_error(Moments.of(to_float64(x), valid[:, None, :], axis=2), arithmetic)


def assert_views(found: Any, calls: list[tuple[Array, Array | None]], several: bool, arithmetic: str, where: str) -> None:
    """One layer's columns against the definition written as loops."""
    found = np.asarray(found, np.float64)
    looked = [wanted(x, mask) for x, mask in calls]
    allowed = np.mean([np.broadcast_to(budgets(x, mask, arithmetic), looked[0][0].shape) for x, mask in calls], 0)
    channels = looked[0][0].shape[1]
    mean, high = (np.stack([call[part] for call in looked]) for part in (0, 1))
    parts = [(found[:, :channels], mean.mean(0), np.nan_to_num(allowed) + 2.0**-22 * np.abs(mean).max(0, initial=0.0))]
    if several:
        parts.append((found[:, channels:], high.max(0), 2.0**-24 * np.abs(high.max(0))))
    for got, want, budget in parts:
        with np.errstate(over="ignore", invalid="ignore"):
            want = want.astype(np.float32).astype(np.float64)
            same = (np.isnan(got) & np.isnan(want)) | (got == want)
            assert (same | (np.abs(got - want) <= budget)).all(), where


@pytest.mark.parametrize("name", CHOSEN)
def test_a_samples_mean_and_maximum_are_those_of_its_own_values(backend: tuple[Any, Any, str], name: str) -> None:
    module, wrap, arithmetic = backend
    _, x, mask, phase = HARD[name]
    for dtype in DTYPES:
        held = stored(x, dtype)
        own = "float64" if dtype == "float64" else arithmetic
        for layout, view in (form for place, form in enumerate(layouts(held)) if place in (0, 1, 3)):
            partials, given = module.reduce_kept(wrap(view), None if mask is None else wrap(mask), phase)
            several = view.shape[2] != 1
            found = np.asarray(module.samples([([given], several)], dtype == "float64"))
            assert found.dtype == (np.float64 if dtype == "float64" else np.float32)
            assert found.shape == (len(view), view.shape[1] * (1 + several) + 1)
            assert not found[:, -1].any()
            assert_views(found[:, :-1], [(view, mask)], several, own, f"{name} {dtype} {layout}")
            assert type(partials) is type(module.reduce(wrap(view), None if mask is None else wrap(mask), phase))


def batch_of(rng: np.random.Generator, rows: int) -> list[list[Array]]:
    """Layers of several widths and types, of one position a sample and of several; some called more than once, once each way."""
    shapes = [[(5, 1)], [(33, 7)], [(40, 1)], [(3, 300)], [(6, 4), (6, 9), (6, 4)], [(7, 1), (7, 1)], [(9, 1), (9, 5)]]
    layers = []
    for index, calls in enumerate(shapes * 13):
        dtype = DTYPES[index % 3]
        layers.append([stored(rng.standard_normal((rows, *shape)).astype(np.float32) + 2, dtype) for shape in calls])
    return layers


@pytest.mark.parametrize("rows", [1, 70])
def test_many_layers_lie_side_by_side_whatever_their_number_of_calls(backend: tuple[Any, Any, str], rows: int) -> None:
    module, wrap, arithmetic = backend
    layers = batch_of(np.random.default_rng(rows), rows)
    layers[4][1][0, 2, 3] = np.nan if layers[4][1].dtype != np.uint16 else 0x7FC0
    several = [any(x.shape[2] != 1 for x in calls) for calls in layers]
    given = [
        ([module.reduce_kept(wrap(x), None, 3)[1] for x in calls], more) for calls, more in zip(layers, several, strict=True)
    ]
    if isinstance(module, HostBackend):
        module.runtime.launches.clear()
    found = np.asarray(module.samples(given, False))
    if isinstance(module, HostBackend):  # 91 layers in tables of 84, then the second calls, then the third
        assert [name for name, _ in module.runtime.launches] == ["samples"] * 4
    assert not found[:, -1].any()
    at = 0
    for number, (calls, more) in enumerate(zip(layers, several, strict=True)):
        wide = calls[0].shape[1] * (1 + more)
        assert_views(found[:, at : at + wide], [(x, None) for x in calls], more, arithmetic, f"layer {number}")
        at += wide
    assert at + 1 == found.shape[1]


def test_what_is_kept_is_a_copy_that_the_model_cannot_overwrite(backend: tuple[Any, Any, str]) -> None:
    module, wrap, _ = backend
    x = np.arange(12, dtype=np.float32).reshape(4, 3, 1)
    held = wrap(x.copy())
    given = module.reduce_kept(held, None, 0)[1]
    held[:] = 7
    assert np.array_equal(np.asarray(module.samples([([given], False)], False))[:, :3], x[:, :, 0])


def test_a_layer_of_one_token_among_longer_ones_has_its_value_as_maximum(backend: tuple[Any, Any, str]) -> None:
    module, wrap, _ = backend
    x = np.arange(12, dtype=np.float32).reshape(4, 3, 1)
    found = np.asarray(module.samples([([module.reduce_kept(wrap(x), None, 0)[1]], True)], True))
    assert np.array_equal(found, np.concatenate([x[:, :, 0], x[:, :, 0], np.zeros((4, 1))], 1))


def test_every_backend_has_the_signatures_of_the_reference() -> None:
    for module in (cpu, portable, cuda):
        for name in ("reduce_kept", "samples"):
            ours, theirs = (inspect.signature(getattr(m, name)) for m in (module, reference))
            assert list(ours.parameters) == list(theirs.parameters)


needs_shim = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))


@needs_shim
def test_layers_of_different_batches_are_refused() -> None:
    with pytest.raises(InputError, match="a layer gave 3 samples, another one of the same batch 2"):
        HostBackend(HostRuntime()).samples([([torch.zeros(n, 4)], False) for n in (2, 3)], False)


@needs_shim
def test_a_half_is_read_without_a_header_bit_for_bit() -> None:
    every = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(torch.float16)[:, None]
    found = HostBackend(HostRuntime()).samples([([every], False)], False)[:, 0]
    assert torch.equal(found.nan_to_num(nan=7.0), every[:, 0].float().nan_to_num(nan=7.0))


BUGS: dict[str, Swap] = {
    "a block's last samples left out": ("samples.cu", "sample < start + SAMPLES &&", "sample < start + SAMPLES - 8 &&"),
    "the layer after": ("common.cuh", "layer[middle].first <= block", "layer[middle].first < block"),
    "NaN forgotten": ("samples.cu", "finite = finite && items.count(item, NONFINITE) == 0;", ""),
    "NaN forgotten between calls": ("samples.cu", "if (s.high == s.high && !(before", "if (!(before"),
    "the last tile left out": ("samples.cu", "item < (sample + 1) * tiles;", "item < (sample + 1) * tiles - (tiles > 1);"),
    "only the last call": ("samples.cu", "if (a.call > 0) s.mean += double(mean[0]);", ""),
    "a sum of calls": ("samples.cu", "if (layer.last > 3) s.mean /=", "if (false) s.mean /="),
    "the column of zeros not written": (
        "samples.cu",
        "const bool closes = at == 0 && channel == 0;",
        "const bool closes = false;",
    ),
    "a row of the copy written by its neighbour": ("rows.cuh", "w.first * a.channels + s.channel", "w.first * a.channels"),
    "the end of the copy not written": ("rows.cuh", "          if (KEPT) store<V>(kept, ring[u]), kept += along;\n", ""),
    "hidden rows copied": ("rows.cuh", "else if (m + u < count) store<V>(kept, hidden);", ""),
}


def check(swaps: tuple[Swap, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A small battery in three orders; raises when anything is off."""
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((75, 40, 1)), rng.standard_normal((75, 5, 9001)) * 1e25, rng.standard_normal((75, 6, 3))]
    layers = [torch.from_numpy(values.astype(np.float32)) for values in x]
    layers[1] = layers[1][:3].repeat(25, 1, 1)[:, :, :4100]
    after = layers[2] + 1
    layers[2][2, 1, 1] = after[3, 1, 1] = torch.nan
    mask = torch.arange(75)[:, None] % 3 > 0
    results = []
    for order in host.ORDERS:
        module = HostBackend(HostRuntime(order, RESIDENT, swaps))
        plain = HostBackend(HostRuntime(order, RESIDENT))
        reading = module if swaps and swaps[0][0] == "rows.cuh" else plain
        packing = plain if reading is module else module
        singles = [reading.reduce_kept(layers[0], seen, 5)[1] for seen in (None, mask)]
        one, two = (reading.reduce_kept(layers[n], None, 5)[1] for n in (1, 2))
        later = reading.reduce_kept(after, None, 5)[1]
        calls = [([singles[0]], False), ([one], True), ([two, later], True), ([singles[1]], False)]
        with monkeypatch.context() as patched:  # what nobody writes shows
            patched.setattr(torch, "empty", lambda shape, **kind: torch.full(shape, 5, **kind))
            results.append(packing.samples(calls, False))
        at = 0
        seen = mask.numpy()
        for own, hidden, more in (
            ([layers[0]], None, False),
            ([layers[1]], None, True),
            ([layers[2], after], None, True),
            ([layers[0]], seen, False),
        ):
            wide = own[0].shape[1] * (1 + more)
            assert_views(results[-1][:, at : at + wide], [(part.numpy(), hidden) for part in own], more, "float32", order)
            at += wide
        assert not results[-1][:, -1].any()
    assert torch.equal(results[0].nan_to_num(), results[1].nan_to_num())
    assert torch.equal(results[0].nan_to_num(), results[2].nan_to_num())


@needs_shim
def test_the_battery_passes_without_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    check((), monkeypatch)


@needs_shim
@pytest.mark.parametrize("bug", list(BUGS))
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check((BUGS[bug],), monkeypatch)
