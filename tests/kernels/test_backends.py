"""One contract for every backend, in the words of kernels/README.md: what the reference says, on any layout and dtype.

A backend joins by a `Runner` in `RUNNERS`, which turns an array into what the backend takes.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch
from kernels.hard_data import Case, hard_cases
from tolerances import assert_record

from naa_fast.kernels import cpu, portable, reference
from naa_fast.kernels.cpu import elements
from naa_fast.kernels.reference.reduce import to_float64
from naa_fast.records import Array, LayerRecord

portable_reduce = sys.modules["naa_fast.kernels.portable.reduce"]  # the package's attribute of that name is the function
DTYPES = ("float32", "float16", "bfloat16", "float64")
CASES = {case[0]: case for case in hard_cases()}


class Runner:
    """How the tests call one backend: `name`, its `module`, the arithmetic it promises, and how it wants its arrays."""

    def __init__(self, name: str, module: Any, arithmetic: str, wrap: Callable[[Array], Any]) -> None:
        self.name, self.module, self.arithmetic, self.wrap = name, module, arithmetic, wrap

    def fold(self, *batches: tuple[Array, Array | None, int]) -> tuple[Array, Array, Array]:
        """The packed state after folding each batch `(x, mask, phase)` on its own."""
        state = self.module.empty(batches[0][0].shape[1], self.wrap(batches[0][0]))
        for x, mask, phase in batches:
            partials = self.module.reduce(self.wrap(x), None if mask is None else self.wrap(mask), phase)
            self.module.fold([(state, partials)], phase)
        packed: tuple[Array, Array, Array] = self.module.read([state])[0]
        return packed

    def record(self, *batches: tuple[Array, Array | None, int]) -> LayerRecord:
        return LayerRecord.unpacked("", "", *self.fold(*batches))


def torch_tensor(x: Array) -> torch.Tensor:
    """A torch view of the array where torch can look at it in place (it cannot at negative strides)."""
    bits = x.dtype == np.uint16
    x = x.copy() if any(stride < 0 for stride in x.strides) else x
    held = torch.from_numpy(x.view(np.int16) if bits else x)
    return held.view(torch.bfloat16) if bits else held


RUNNERS = {
    "cpu": Runner("cpu", cpu, "float32", lambda x: x),
    "portable": Runner("portable", portable, "float64", torch_tensor),
    # cuda: Runner("cuda", cuda, "float32", lambda x: torch_tensor(x).cuda()) where there is a device; the same .cu runs without
    # one in tests/cuda_on_host.
}


@pytest.fixture(params=list(RUNNERS))
def runner(request: pytest.FixtureRequest) -> Runner:
    return RUNNERS[request.param]


def stored(x: Array, dtype: str) -> Array:
    """`x` in a dtype as kernels/reference takes it: bfloat16 as its upper 16 bits."""
    if dtype == "bfloat16":
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def layouts(x: Array) -> Iterator[tuple[str, Array]]:
    """The same values [outer, channels, inner], laid out in memory in every way that matters."""
    yield "positions fastest", np.ascontiguousarray(x)
    yield "channels fastest", np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    yield "outer fastest", np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1)
    wide = np.zeros((x.shape[0], x.shape[1] + 3, 2 * x.shape[2] + 1), x.dtype)
    inside = wide[:, 2 : 2 + x.shape[1], 1::2]
    inside[:] = x
    yield "inside of another", inside
    padded = np.zeros((x.shape[0], x.shape[1] + 5, x.shape[2]), x.dtype)[:, 2:-3]
    padded[:] = x
    yield "channels cut", padded
    padded = np.zeros((2 * x.shape[0], x.shape[2] + 1, x.shape[1] + 2), x.dtype)[::2, 1:, 1:-1].transpose(0, 2, 1)
    padded[:] = x
    yield "every other sample", padded
    yield "backwards", np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]


def expected(x: Array, mask: Array | None, phase: int) -> LayerRecord:
    state = reference.empty(x.shape[1], x)
    with np.errstate(over="ignore"):
        reference.fold([(state, reference.reduce(x, mask, phase))], phase)
    return state.record


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case[0])
def test_every_layout_gives_what_the_reference_says(runner: Runner, case: Case, dtype: str) -> None:
    name, values, mask, phase = case
    x = stored(values, dtype)
    want = expected(x, mask, phase)
    arithmetic = "float64" if dtype == "float64" else runner.arithmetic
    for layout, view in layouts(x):
        assert_record(runner.record((view, mask, phase)), want, arithmetic, f"{name} {dtype} {layout}")


@pytest.mark.parametrize("shape", [(70, 9, 1), (12, 9, 5)])
def test_repeated_memory_is_ordinary_input(runner: Runner, shape: tuple[int, ...]) -> None:
    row = np.random.default_rng(0).standard_normal((1, *shape[1:])).astype(np.float32)
    for x in (np.broadcast_to(row, shape), np.broadcast_to(row[:, :1], shape), np.broadcast_to(row[:, :, :1], shape)):
        x.flags.writeable = True  # torch warns of arrays it must not write to
        assert_record(runner.record((x, None, 0)), expected(x, None, 0), runner.arithmetic)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["nan and inf", "nan and inf image", "phase 61 image", "mask", "mask of samples", "wide"])
def test_a_state_named_twice_takes_both_parts_and_other_states_are_left_alone(runner: Runner, case: str, dtype: str) -> None:
    _, values, mask, phase = CASES[case]
    x = stored(values, dtype)
    module = runner.module
    partials = [
        module.reduce(runner.wrap(part), None if mask is None else runner.wrap(mask), phase) for part in (x, x[::-1].copy())
    ]
    first, second = (module.empty(x.shape[1], runner.wrap(x)) for _ in range(2))
    module.fold([(first, partials[0]), (second, partials[1]), (first, partials[1])], phase)
    want = [expected(x, mask, phase), expected(x[::-1].copy(), mask, phase)]
    arithmetic = "float64" if dtype == "float64" else runner.arithmetic
    both, one = (LayerRecord.unpacked("", "", *packed) for packed in module.read([first, second]))
    assert_record(both, want[0].merge(want[1]), arithmetic, case)
    assert_record(one, want[1], arithmetic, case)


@pytest.mark.parametrize("inners", [(1, 1, 6, 1, 1), (6, 1, 1), (1, 6), (1, 1, 1)])
def test_a_layer_of_now_one_and_now_several_positions_keeps_all_views(runner: Runner, inners: tuple[int, ...]) -> None:
    rng = np.random.default_rng(12)
    batches = [(rng.standard_normal((41, 130, inner)).astype(np.float32), None, 41 * k) for k, inner in enumerate(inners)]
    batches[-1][0][7, 3] = np.nan
    want = reference.empty(130, batches[0][0])
    for x, mask, phase in batches:
        reference.fold([(want, reference.reduce(x, mask, phase))], phase)
    assert_record(runner.record(*batches), want.record, runner.arithmetic)


@pytest.mark.parametrize("case", ["wide", "deep", "tokens", "image", "nan and inf image", "mask", "offset 1e4"])
def test_the_same_input_gives_the_same_bits(runner: Runner, case: str) -> None:
    _, x, mask, phase = CASES[case]
    for _, view in layouts(x):
        once, again = (runner.fold((view, mask, phase)) for _ in range(2))
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("order", ["[N,D]", "NCHW", "channels_last", "[B,T,D] masked"])
def test_the_number_of_threads_cannot_be_seen(order: str) -> None:
    rng = np.random.default_rng(5)
    shape = {"[N,D]": (9000, 90, 1), "NCHW": (61, 90, 77), "channels_last": (61, 90, 77), "[B,T,D] masked": (20, 90, 600)}[order]
    x = rng.standard_normal(shape).astype(np.float32)
    x[shape[0] // 2, 7, 0] = np.nan
    mask = rng.random((shape[0], shape[2])) < 0.7 if "masked" in order else None
    if order != "NCHW":
        x = np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    before = torch.get_num_threads()
    results = []
    try:
        most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # made when Numba is imported
        for threads in range(1, min(2, most) + 1):
            torch.set_num_threads(threads)
            results.append(RUNNERS["cpu"].fold((x, mask, 3)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("order", ["[N,D]", "NCHW", "channels_last"])
def test_how_a_set_is_split_into_batches_changes_no_more_than_a_millionth(runner: Runner, order: str) -> None:
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((1000, 13, 1 if order == "[N,D]" else 9)) * 3 + 7).astype(np.float32)
    if order == "channels_last":
        x = np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    splits = [[0, 1000], [0, 1, 9, 77, 512, 1000], [*range(0, 1000, 64), 1000], [*range(0, 1000, 333), 1000]]
    whole, *others = (runner.record(*((x[a:b], None, a) for a, b in itertools.pairwise(cuts))) for cuts in splits)
    for other in others:
        for view in ("positions", "sample_mean", "sample_max"):
            a, b = getattr(whole, view), getattr(other, view)
            assert np.abs(b.mean / a.mean - 1).max() <= 1e-6
            assert np.abs(b.m2 / a.m2 - 1).max() <= 1e-6
            for exact in ("count", "positives", "nonfinite"):
                assert np.array_equal(getattr(a, exact), getattr(b, exact))
        assert np.array_equal(whole.positions.minimum, other.positions.minimum)
        assert np.array_equal(whole.positions.maximum, other.positions.maximum)
        assert np.array_equal(whole.mean_folds.count, other.mean_folds.count)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("order", ["[N,D]", "NCHW", "[B,T,D]"])
def test_a_million_values_far_from_zero_keep_their_variance(runner: Runner, order: str, dtype: str) -> None:
    values = (np.random.default_rng(8).standard_normal((1_000_000, 3)) + 1e4).astype(np.float32)
    if dtype == "bfloat16":  # seven bits of mantissa: every sum meets ties, which one long sum rounds all the same way
        values -= np.float32(1e4)
    x = stored(values, dtype)
    forms: dict[str, Callable[[], Array]] = {
        "[N,D]": lambda: x[:, :, None],
        "NCHW": lambda: np.ascontiguousarray(x.reshape(400, 2500, 3).transpose(0, 2, 1)),
        "[B,T,D]": lambda: x.reshape(400, 2500, 3).transpose(0, 2, 1),
    }
    shaped = forms[order]()
    positions = runner.record((shaped, None, 0)).positions
    exact = reference.reduce(x.reshape(1, -1, 3).transpose(0, 2, 1), None, 0).moments
    assert np.abs(positions.m2 / exact.m2[0] - 1).max() <= 2e-7
    assert np.abs(positions.mean - exact.mean[0]).max() <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [1, 49, 700])
def test_a_constant_is_exact(runner: Runner, inner: int, dtype: str) -> None:
    constants = np.array([0.0, 1 / 3, 1e4 + 1 / 3, -7.0, 1e-30, -0.1], np.float32 if dtype != "float64" else np.float64)
    x = stored(np.broadcast_to(constants[None, :, None], (333 if inner == 1 else 21, 6, inner)).copy(), dtype)
    values = to_float64(x[0, :, 0])
    for _, view in layouts(x):
        record = runner.record((view[:5], None, 0), (view[5:], None, 5))
        for moments in (record.positions, record.sample_mean, record.sample_max):
            assert np.array_equal(moments.mean, values)
            assert not np.stack([moments.m2, moments.m3, moments.m4]).any()


@pytest.mark.parametrize("order", ["NCHW", "[B,T,D]"])
def test_an_outlier_at_the_head_of_every_sample_costs_no_accuracy(runner: Runner, order: str) -> None:
    x = np.random.default_rng(3).standard_normal((48, 256, 5)).astype(np.float32)
    x[:, 0] = 1e4  # as the first token of a language model has it
    shaped = x.transpose(0, 2, 1) if order != "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 1))
    positions, exact = runner.record((shaped, None, 0)).positions, expected(shaped, None, 0).positions
    assert np.abs(positions.m2 / exact.m2 - 1).max() <= 1e-6


def test_values_too_small_for_float32_powers_keep_their_moments(runner: Runner) -> None:
    x = np.random.default_rng(9).standard_normal((300, 5, 1)).astype(np.float32)
    x *= np.array([1e-4, 1e-8, 1e-12, 1e-20, 1e-30], np.float32)[None, :, None]
    images = np.ascontiguousarray(x.reshape(20, 15, 5).transpose(0, 2, 1))
    assert_record(runner.record((x, None, 0)), expected(x, None, 0), runner.arithmetic)
    assert_record(runner.record((images, None, 0)), expected(images, None, 0), runner.arithmetic)


@pytest.mark.parametrize("inner", [1, 40, 700])
def test_a_layer_of_nothing_but_nan_is_counted(runner: Runner, inner: int) -> None:
    x = np.full((30, 70, inner), np.nan, np.float32)
    record = runner.record((x, None, 0))
    assert (record.positions.nonfinite == 30 * inner).all()
    assert (record.sample_max.nonfinite == 30).all()
    assert (record.positions.count == 0).all()
    assert np.isinf(record.positions.minimum).all()


@pytest.mark.parametrize("name", ["empty", "reduce", "fold", "read", "compare"])
def test_backends_have_the_signature_of_the_reference(runner: Runner, name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (runner.module, reference))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


def test_comparisons_agree(runner: Runner) -> None:
    rng = np.random.default_rng(4)
    statistics = [rng.standard_normal(300), rng.random(300), rng.standard_normal(300), rng.random(300)]
    statistics[2][10:20] = statistics[0][10:20]
    statistics[1][12:30] = statistics[3][12:30] = 0.0
    statistics[0][[7, 90]] = np.nan
    a, b, c, d = statistics
    want = reference.compare(a, b, c, d, resolution=2.0**-20, k=40)
    found = runner.module.compare(*(runner.wrap(s) for s in statistics), resolution=2.0**-20, k=40)
    assert np.array_equal(np.asarray(found.top), want.top)
    assert np.array_equal(np.asarray(found.difference), want.difference, equal_nan=True)
    assert np.allclose(np.asarray(found.z), want.z, rtol=1e-14, equal_nan=True)


@pytest.mark.parametrize("case", list(CASES))
def test_a_device_without_float64_stays_inside_the_float32_budget(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    _, x, mask, phase = CASES[case]
    monkeypatch.setattr(portable_reduce, "has_float64", lambda device: False)
    with np.errstate(over="ignore"):
        assert_record(RUNNERS["portable"].record((x, mask, phase)), expected(x, mask, phase), "float32", case)


@pytest.mark.parametrize("inner", [1, 49, 700, 1024])
def test_a_constant_is_exact_without_float64_too(monkeypatch: pytest.MonkeyPatch, inner: int) -> None:
    monkeypatch.setattr(portable_reduce, "has_float64", lambda device: False)
    x = np.broadcast_to(np.array([0.0, 1 / 3, 1e4 + 1 / 3, -7.0, 1e-30], np.float32)[None, :, None], (21, 5, inner)).copy()
    record = RUNNERS["portable"].record((x[:5], None, 0), (x[5:], None, 5))
    for moments in (record.positions, record.sample_mean, record.sample_max):
        assert np.array_equal(moments.mean, x[0, :, 0].astype(np.float64))
        assert not np.stack([moments.m2, moments.m3, moments.m4]).any()


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("case", list(CASES))
def test_a_layer_too_large_for_one_piece_is_read_in_several(monkeypatch: pytest.MonkeyPatch, case: str, float64: bool) -> None:
    _, x, mask, phase = CASES[case]
    monkeypatch.setattr(portable_reduce, "has_float64", lambda device: float64)
    monkeypatch.setattr(portable_reduce, "TILE_VALUES", {"": 1 << 9})
    monkeypatch.setattr(sys.modules["naa_fast.kernels.portable.fold"], "VALUES", 1 << 5)
    with np.errstate(over="ignore"):
        want, record = expected(x, mask, phase), RUNNERS["portable"].record((x, mask, phase))
        assert_record(record, want, "float64" if float64 else "float32", case)


@pytest.mark.parametrize(("rows", "phase"), [(32, 32), (64, 8), (8, 56), (16, 48), (40, 24), (128, 40), (5, 61), (70, 3)])
def test_batches_that_end_or_begin_within_a_round_of_folds(runner: Runner, rows: int, phase: int) -> None:
    rng = np.random.default_rng(rows)
    batches = [
        (rng.standard_normal((rows, 7, inner)).astype(np.float32), None, phase + k * rows) for k, inner in enumerate((1, 1, 4))
    ]
    batches[1][0][1, 2] = np.nan
    want = reference.empty(7, batches[0][0])
    for x, mask, start in batches:
        reference.fold([(want, reference.reduce(x, mask, start))], start)
    assert_record(runner.record(*batches), want.record, runner.arithmetic)


def test_kept_kernels_are_dropped_when_any_source_changes_and_work_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(x: float) -> float:
        return 2 * x

    assert elements.compiled(double)._cache._cache_file._source_stamp == elements.SOURCES

    def nowhere(dispatcher: Any) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr("numba.core.dispatcher.Dispatcher.enable_caching", nowhere)
    assert elements.compiled(double)(2.0) == 4.0


def test_a_kernel_is_compiled_for_an_int_and_not_for_each_constant() -> None:
    from numba import types

    @elements.compiled
    def inner(a: int, b: int) -> int:
        return a + b

    @elements.compiled
    def outer(a: int) -> int:
        return inner(a, 0) + inner(a, 1) + inner(2, a)

    assert outer(5) == 5 + 6 + 7
    assert inner.signatures == [(types.int64, types.int64)]
