"""Histograms of samples: the bins against plain arithmetic, and every backend against the definition, the .cu on the host too."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from math import frexp
from typing import Any

import numpy as np
import pytest
import torch
from cuda_on_host import battery, host
from cuda_on_host.host import HostBackend, HostRuntime
from kernels.hard_data import Case, hard_cases
from kernels.test_backends import DTYPES, layouts, stored, torch_tensor
from tolerances import assert_tails, observation_error

from naa_fast.errors import InputError
from naa_fast.kernels import cpu, cuda, portable, reference
from naa_fast.kernels.reference.reduce import to_float64
from naa_fast.records import BINS, LEFT_OUT, LOWEST, Array, Moments, bin_edges, bin_of, bin_values, histogram

CASES = {case[0]: case for case in hard_cases()}
Wrap = Callable[[Array], Any]
BACKENDS: dict[str, tuple[Any, Wrap, str]] = {
    "reference": (reference, lambda x: x, "float64"),
    "cpu": (cpu, lambda x: x, "float32"),
    "portable": (portable, torch_tensor, "float64"),
}
if host.missing() is None:
    for order in host.ORDERS:
        BACKENDS[f"cuda on the host, {order}"] = (HostBackend(HostRuntime(order, 24)), torch_tensor, "float32")


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> tuple[Any, Wrap, str]:
    return BACKENDS[request.param]


def slow_bin(value: float) -> int:
    """The bin from exponent and mantissa, in Python."""
    if not np.isfinite(value):
        return LEFT_OUT
    with np.errstate(over="ignore"):
        rounded = abs(float(np.float32(value)))
    if rounded < 2.0**LOWEST:
        return 127
    if rounded == float("inf"):
        step = 127
    else:
        mantissa, exponent = frexp(rounded)  # in [.5, 1)
        step = min(127, 1 + 4 * (exponent - 1 - LOWEST) + int((2 * mantissa - 1) * 4))
    return 127 - step if value < 0 else 127 + step


def hard_values() -> Array:
    rng = np.random.default_rng(0)
    edges = bin_edges()[1:-1]
    beside = [np.nextafter(edges.astype(np.float32), np.float32(side)).astype(np.float64) for side in (-np.inf, np.inf)]
    wide = rng.standard_normal(4000) * 2.0 ** rng.integers(-30, 30, 4000)
    odd = [0.0, -0.0, 1e-41, -1e-41, 1e30, -1e30, 65504.0, 1e300, -1e300, np.nan, np.inf, -np.inf, np.finfo(np.float32).max]
    return np.concatenate([edges, *beside, wide, odd, edges * (1 + 1e-9), edges * (1 - 1e-9)])


def test_a_bin_is_made_of_exponent_and_two_bits() -> None:
    values = hard_values()
    assert bin_of(values).tolist() == [slow_bin(float(v)) for v in values]


def test_bins_are_in_order_of_value_and_their_middles_close_to_all_they_hold() -> None:
    values = np.sort(hard_values()[:-11])
    chosen = bin_of(values).astype(int)
    assert (np.diff(chosen[chosen != LEFT_OUT]) >= 0).all()
    assert len(bin_edges()) == BINS + 1
    assert (np.diff(bin_edges()) > 0).all()
    assert bin_of(bin_values()).tolist() == list(range(BINS))
    held = values[(np.abs(values) >= 2.0**LOWEST) & (np.abs(values) < 24576)]
    error = np.abs(bin_values()[bin_of(held)] / held - 1)
    assert error.max() <= 0.125 + 2.0**-24  # the rounding to float32


def test_a_histogram_counts_every_observed_finite_value_once() -> None:
    x = hard_values()[:4600].reshape(460, 10)
    observed = np.random.default_rng(1).random((460, 1)) < 0.7
    chosen = np.where(observed, bin_of(x), LEFT_OUT)
    assert np.array_equal(histogram(x, observed), np.stack([(chosen == b).sum(0) for b in range(BINS)]))
    assert histogram(x[:0]).shape == (BINS, 10)
    assert histogram(x[:, :0]).shape == (BINS, 0)


def test_every_backend_has_the_signatures_of_the_reference() -> None:
    for module in (cpu, portable, cuda):
        for name in ("tails", "bins", "tally", "read_tails"):
            ours, theirs = (inspect.signature(getattr(m, name)) for m in (module, reference))
            assert list(ours.parameters) == list(theirs.parameters)


def expected(x: Array, mask: Array | None) -> Moments:
    """The samples' moments, from the definition: with one position a sample, the value is its mean and its maximum."""
    valid = np.ones((x.shape[0], x.shape[2]), bool) if mask is None else mask
    with np.errstate(over="ignore", invalid="ignore"):
        return Moments.of(to_float64(x), valid[:, None, :], axis=2)


def tallied(backend: tuple[Any, Wrap, str], *batches: tuple[Array, Array | None, int]) -> Array:
    module, wrap, _ = backend
    state = module.tails(batches[0][0].shape[1], wrap(batches[0][0]))
    for x, mask, phase in batches:
        if x.shape[2] == 1:
            given = module.bins(wrap(x[:, :, 0]), None if mask is None else wrap(mask[:, 0]))
        else:
            given = module.reduce(wrap(x), None if mask is None else wrap(mask), phase)
        module.tally([(state, given)])
    (read,) = module.read_tails([state])
    return read


def off_by(x: Array, mask: Array | None, arithmetic: str) -> Array | float:
    """How far a backend's mean of a sample may lie from the definition's."""
    if x.shape[2] == 1:
        return 0.0
    valid = np.ones((x.shape[0], x.shape[2]), bool) if mask is None else mask
    with np.errstate(over="ignore", invalid="ignore"):
        whole = Moments.of(to_float64(x), valid[:, None, :], axis=(0, 2))  # type: ignore[arg-type]
        return np.nan_to_num(observation_error(whole, arithmetic))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case[0])
def test_every_backend_counts_what_the_definition_counts(backend: tuple[Any, Wrap, str], case: Case, dtype: str) -> None:
    name, values, mask, phase = case
    x = stored(values, dtype)
    want = expected(x, mask)
    arithmetic = "float64" if dtype == "float64" else backend[2]
    e = off_by(x, mask, arithmetic)
    for layout, view in layouts(x):
        assert_tails(tallied(backend, (view, mask, phase)), want, e, f"{name} {dtype} {layout}")


@pytest.mark.parametrize("inner", [1, 5])
def test_batches_of_any_size_give_the_histogram_of_the_whole(backend: tuple[Any, Wrap, str], inner: int) -> None:
    x = np.random.default_rng(3).standard_normal((150, 9, inner)).astype(np.float32)
    cuts = [0, 1, 8, 77, 150]
    parts = [(x[a:b], None, a) for a, b in itertools.pairwise(cuts)]
    assert np.array_equal(tallied(backend, *parts), tallied(backend, (x, None, 0)))


def test_a_layer_of_now_one_and_now_several_positions_keeps_both(backend: tuple[Any, Wrap, str]) -> None:
    x = np.abs(np.random.default_rng(4).standard_normal((60, 7, 6))).astype(np.float32)
    read = tallied(backend, (x[:40], None, 0), (x[40:, :, :1], None, 40))
    one, other = tallied(backend, (x[:40], None, 0)), tallied(backend, (x[40:, :, :1], None, 40))
    assert np.array_equal(read, one + other)
    assert np.array_equal(other[0], other[1])


def test_many_layers_and_histograms_named_twice_are_tallied_together(backend: tuple[Any, Wrap, str]) -> None:
    module, wrap, _ = backend
    rng = np.random.default_rng(5)
    states, batch, want = [], [], []
    for index in range(90):
        x = rng.standard_normal((11, 1 + index % 40, 1 if index % 3 else 4)).astype(np.float32)
        given = module.bins(wrap(x[:, :, 0]), None) if x.shape[2] == 1 else module.reduce(wrap(x), None, 0)
        states.append(module.tails(x.shape[1], wrap(x)))
        batch += [(states[-1], given)] * (2 if index % 7 == 0 else 1)
        want.append(histogram(x.max(2)) * (2 if index % 7 == 0 else 1))
    module.tally(batch)
    for read, counts in zip(module.read_tails(states), want, strict=True):
        assert np.array_equal(read[1], counts)
        assert np.array_equal(read[0].sum(0), counts.sum(0))


def test_nothing_seen_is_zero_and_reading_nothing_gives_nothing(backend: tuple[Any, Wrap, str]) -> None:
    module, wrap, _ = backend
    (read,) = module.read_tails([module.tails(3, wrap(np.zeros((2, 3), np.float32)))])
    assert read.shape == (2, BINS, 3)
    assert read.dtype == np.int32
    assert not read.any()
    assert module.read_tails([]) == []
    module.tally([])


def test_bins_of_a_tensor_that_is_overwritten_stay_what_they_were(backend: tuple[Any, Wrap, str]) -> None:
    module, wrap, _ = backend
    x = np.full((4, 3), 2.0, np.float32)
    held = wrap(x)
    chosen = module.bins(held, None)
    held[:] = -1.0
    assert np.array_equal(np.asarray(chosen), np.full((4, 3), bin_of(np.array(2.0, np.float32))))


@pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))
def test_cuda_launches_once_for_84_layers_and_refuses_a_foreign_mask() -> None:
    runtime = HostRuntime("random", 24)
    module = HostBackend(runtime)
    x = torch.ones(70, 40)
    module.tally([(module.tails(40, x), module.bins(x, None)) for _ in range(85)])
    assert [(name, grid) for name, grid in runtime.launches if name == "tally"] == [("tally", 84 * 4), ("tally", 4)]
    with pytest.raises(InputError, match=r"mask is torch.bool \[3\] on cpu\n  expected torch.bool \[70\] on cpu"):
        module.bins(x, torch.ones(3, dtype=torch.bool))


BUGS = {
    "the last sample of a block left out": ("tally.cu", "sample < layer.samples; sample", "sample + 1 < layer.samples; sample"),
    "a warp that counts twice": ("tally.cu", "sample += 8)", "sample += 7)"),
    "the sign dropped": ("tally.cu", "return bits >> 31 ? MIDDLE - steps : MIDDLE + steps;", "return MIDDLE + steps;"),
    "no clamp": ("tally.cu", "steps < 0 ? 0 : steps > MIDDLE ? MIDDLE : steps;", "steps < 0 ? 0 : steps;"),
    "a tile too few": ("tally.cu", "item < (sample + 1) * tiles;", "item + 1 < (sample + 1) * tiles;"),
    "the sums about the pivot forgotten": ("tally.cu", "* seen + first;", "* seen;"),
    "a masked sample counted": ("tally.cu", "(a.mask == 0 || mask[sample] != 0)", "true"),
    "NaN counted": ("tally.cu", "const bool kept = is_finite(value) &&", "const bool kept ="),
    "maxima on top of means": ("tally.cu", "(BINS + bin_of(float(high)))", "bin_of(float(high))"),
    "the block of the wrong layer": ("common.cuh", "layer[middle].first <= block", "layer[middle].first < block"),
}


@pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))
@pytest.mark.parametrize("bug", ["none", *BUGS])
def test_a_planted_bug_is_found(bug: str) -> None:
    swaps = () if bug == "none" else (BUGS[bug],)
    module = HostBackend(HostRuntime("forward", 24, swaps))
    honest = HostBackend(HostRuntime("forward", 24))
    module.reduce = honest.reduce  # type: ignore[method-assign]

    def check() -> None:
        for name in ("rows", "tiny", "several tiles", "padded", "mask of samples", "mask", "nan and inf", "squares overflow"):
            x, mask, phase = battery.form(battery.cases()[name], "float32")
            values, valid = x.numpy(), None if mask is None else mask.numpy()
            got = tallied((module, torch_tensor, ""), (values, valid, phase))
            assert_tails(got, expected(values, valid), off_by(values, valid, "float32"), name)
        tiny = np.full((1, 2, 300), 1e-12, np.float32)  # its sums carry an exponent; the few large values decide the bin
        tiny[:, :, ::3] = 3e-3
        assert_tails(tallied((module, torch_tensor, ""), (tiny, None, 0)), expected(tiny, None), 1e-9, "exponents")
        many = [np.random.default_rng(i).standard_normal((9, 33 + i, 1)).astype(np.float32) for i in range(5)]
        states = [module.tails(x.shape[1], torch_tensor(x)) for x in many]
        batch = [(s, module.bins(torch_tensor(x[:, :, 0]), None)) for s, x in zip(states, many, strict=True)]
        module.tally(batch)
        for read, values in zip(module.read_tails(states), many, strict=True):
            assert np.array_equal(read[1], histogram(values[:, :, 0])), "many layers"

    if bug == "none":
        check()
    else:
        with pytest.raises((AssertionError, IndexError)):
            check()
