"""Mutation tests of the host shim: bugs planted in the sources are found by the comparison or reported by the shim itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cuda_on_host import battery, host
from cuda_on_host.host import HostBackend, HostRuntime

from naa_fast.kernels import reference
from naa_fast.kernels.cuda.compile import Kernel, Words

pytestmark = pytest.mark.skipif(host.missing() is not None, reason=str(host.missing()))

Swap = tuple[str, str, str]

REDUCE_BUGS: dict[str, Swap] = {
    "a barrier dropped before the columns are summed": (
        "rows.cuh",
        "value[i];\n    __syncthreads();\n    Real total",
        "value[i];\n    Real total",
    ),
    "a barrier that not every thread reaches": (
        "rows.cuh",
        "value[i];\n    __syncthreads();\n    Real total",
        "value[i];\n    if (column < lanes * V) __syncthreads();\n    Real total",
    ),
    "one pool in place of two in turn": ("rows.cuh", "turn ^= 1;", ""),
    "the last row of a tile left out": ("rows.cuh", "(w.limit - 1 - w.first)", "(w.limit - 2 - w.first)"),
    "the ragged end of the rows missed": (
        "rows.cuh",
        "if (m + u < count) {\n          sums.observe(ring[u]);",
        "if (m + AHEAD <= count) {\n          sums.observe(ring[u]);",
    ),
    "the vector after the last": ("planes.cuh", "j * V < head ||", "j * V + 1 < head ||"),
    "a shuffle short": ("planes.cuh", "for (int step = lanes / 2;", "for (int step = lanes / 4;"),
    "a lane that leaves before the shuffles": (
        "planes.cuh",
        "  Item t = sums.item(",
        "  if (!u.live) return;\n  Item t = sums.item(",
    ),
    "fillers counted as positive": ("tile.cuh", "(pivot[n] > Real(0) ? fillers : 0)", "0"),
    "a field that is never written": (
        "tile.cuh",
        "i < REALS; ++i) reals[i * a.channels]",
        "i < REALS - 1; ++i) reals[i * a.channels]",
    ),
    "two counts of a word exchanged": ("tile.cuh", "= first | second << 16;", "= second | first << 16;"),
    "a lane's counts kept to itself": ("tile.cuh", "counts[i] = over(counts[i], Add());", ";"),
    "a tile of fillers alone": ("planes.cuh", "if (t.empty()) t.clear();", ""),
    "NaN not counted": ("tile.cuh", "++counts[NONFINITE];\n      return;", "return;"),
    "overflow not looked for": ("tile.cuh", "return s4 < infinity<Real>() &&", "return s4 == s4 &&"),
    "phase ignored": ("rows.cuh", "% FOLD_BLOCK - phase : begin", "% FOLD_BLOCK : begin"),
}
FOLD_BUGS: dict[str, Swap] = {
    "the wrong lane for a fold": (
        "fold.cu",
        "for (int item = fold; item < tiles;",
        "for (int item = (fold + 1) % 8; item < tiles;",
    ),
    "a barrier dropped before the folds are summed": (
        "fold.cu",
        "  __syncthreads();\n  if (!live) return;",
        "  if (!live) return;",
    ),
    "a barrier behind the threads that left": (
        "fold.cu",
        "  __syncthreads();\n  if (!live) return;",
        "  if (!live) return;\n  __syncthreads();",
    ),
    "the maximum centred on the mean's pivot": (
        "fold.cu",
        "maxima.observe(high, high - g.top)",
        "maxima.observe(high, high - g.pivot)",
    ),
    "the mask's last sample counted": ("fold.cu", "if (count > 0) {", "if (count >= 0) {"),
}
REPORTED = {
    "a barrier that not every thread reaches": "barrier",
    "a barrier behind the threads that left": "divergent barrier",
    "a lane that leaves before the shuffles": "a lane of the mask has left",
}
"""What the shim itself must notice, and how it says so."""

CASES = (
    "phase 61",
    "phase 61 image",
    "lanes of many rows",
    "tokens",
    "image",
    "one neuron",
    "nan and inf image",
    "squares overflow",
    "mask leaves two samples",
    "relu",
    "far, a sample masked",
)


def check(swap: Swap) -> None:
    """A small battery in three orders; raises when anything is off."""
    for name in CASES:
        x, mask, phase = battery.form(battery.cases()[name], "float32")
        for layout, view, valid in battery.layouts(x, mask):
            results = []
            for order, fill in (("forward", 0xFF), ("reverse", 0), ("random", 0xFF)):
                reducing = HostRuntime(order, 24, (swap,) if swap in REDUCE_BUGS.values() else ())
                folding = HostRuntime(order, 24, (swap,) if swap in FOLD_BUGS.values() else ())
                partials = battery.reduced(view, valid, phase, reducing, fill)
                record = battery.observed(partials, phase, folding)
                battery.assert_right(record, view, valid, phase, f"{name}, {layout}, {order}")
                results.append((partials.buffer.numpy().tobytes(), *(part.tobytes() for part in record.packed())))
            assert results[0] == results[1] == results[2], f"{name}, {layout}: the order of threads shows"


def test_the_battery_passes_without_a_bug() -> None:
    check(("", "", ""))


@pytest.mark.parametrize("bug", [*REDUCE_BUGS, *FOLD_BUGS])
def test_a_planted_bug_is_found(bug: str) -> None:
    with pytest.raises(AssertionError) as found:
        check({**REDUCE_BUGS, **FOLD_BUGS}[bug])
    assert REPORTED.get(bug, "") in str(found.value)


@pytest.mark.parametrize(
    "swap",
    [
        ("compare.cu", "  before[threadIdx.x] = equals;\n  __syncthreads();", "  before[threadIdx.x] = equals;"),
        ("compare.cu", "places[s] > places[other]", "places[s] < places[other]"),
        ("compare.cu", "      __syncthreads();\n    }\n  }\n  i64* top", "    }\n  }\n  i64* top"),
    ],
)
def test_a_bug_planted_after_the_fold_is_found(swap: Swap) -> None:
    with pytest.raises(AssertionError):
        check_after_the_fold(swap)


def check_after_the_fold(swap: Swap) -> None:
    rng = np.random.default_rng(6)
    means = [rng.integers(0, 4, 900).astype(float) for _ in range(2)]
    spreads = [rng.random(900) for _ in range(2)]
    statistics = means[0], spreads[0], means[1], spreads[1]
    for order in host.ORDERS:
        backend = HostBackend(HostRuntime(order, 4, (swap,)))
        got, want = backend.compare(*statistics, 0.0, 500), reference.compare(*statistics, 0.0, 500)
        assert np.array_equal(got.top, want.top)


def test_a_misaligned_load_is_reported() -> None:
    runtime = HostRuntime()
    backend = HostBackend(runtime)
    x = torch.zeros(8 * 4 * 16 + 1)[1:].view(8, 4, 16)
    honest = runtime.launch

    def launch(kernel: Kernel, grid: int, words: Words) -> None:  # as if the plan had called the address aligned
        honest(kernel._replace(name="reduce_planes"), grid, words)

    runtime.launch = launch  # type: ignore[method-assign]  # this one runtime's
    with pytest.raises(host.ThreadsCannotGoOn, match="a load of 16 bytes is not aligned"):
        backend.reduce(x, None, 0)
