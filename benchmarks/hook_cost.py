"""Host time of a hook where the device costs nothing: `python -m benchmarks.hook_cost [--json FILE]`.

200 modules that hand a small tensor on, called in order, in turns: bare, with a hook that takes `x.mean(0)`, and with ours, whose
backend checks what a launcher checks and launches nothing. Ours is told apart into the hook alone, and the whole batch (begin,
hooks, commit). What a bare call costs is taken off before the ratio, which the budget is on: at most twice `x.mean(0)`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import interleaved, load, row, table, write
from naa_fast.accumulate import Accumulator
from naa_fast.capture import Capture, select

LAYERS, SAMPLES, NEURONS = 200, 8, 16
BUDGET = 2.0


class Same(nn.Module):
    """Hands its input on."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class NullBackend:
    """Takes every call of a backend, and does of it what costs host time on any device: looks at shape, strides and type."""

    partials = SimpleNamespace(per_sample=True)

    def empty(self, channels: int, like: Tensor) -> object:
        return channels

    def tails(self, channels: int, like: Tensor) -> object:
        return channels

    def reduce(self, x: Tensor, mask: Tensor | None, phase: int) -> object:
        assert all((x.shape, x.stride(), x.dtype, x.data_ptr()))
        return self.partials

    def bins(self, x: Tensor, mask: Tensor | None) -> object:
        return self.partials

    def tally(self, batch: Sequence[Any]) -> None:
        assert batch

    def fold(self, batch: Sequence[Any], phase: int) -> None:
        assert batch


def cases(layers: int) -> dict[str, Callable[[], object]]:
    """Each runs one batch through all modules."""
    x = torch.randn(SAMPLES, NEURONS, 4)
    found: dict[str, Callable[[], object]] = {}

    def chain() -> nn.Sequential:
        return nn.Sequential(*(Same() for _ in range(layers)))

    bare, averaged, ours = chain(), chain(), chain()

    def mean(module: nn.Module, arguments: Any, output: Tensor) -> None:
        output.mean(0)

    for module in averaged:
        module.register_forward_hook(mean)
    accumulator = Accumulator("portable", tails=False)
    capture = Capture(ours, select(ours, [str(number) for number in range(layers)]), accumulator)
    capture.__enter__()
    batches = 0

    def whole() -> None:
        nonlocal batches
        accumulator.begin(SAMPLES, batches * SAMPLES)
        capture.begin(SAMPLES)
        ours(x)
        capture.completed()
        accumulator.commit()
        batches += 1

    found["bare"] = lambda: bare(x)
    found["x.mean(0)"] = lambda: averaged(x)
    found["naa-fast"] = whole
    return found


def measured(layers: int, rounds: int) -> list[dict[str, Any]]:
    """A row a variant; the last says how often a hook costs what `x.mean(0)` does."""
    null = NullBackend()
    choice = SimpleNamespace(backend="null", module=null)
    with mock.patch("naa_fast.accumulate.accumulator.choose", return_value=choice), torch.no_grad():
        seconds = interleaved(cases(layers), rounds, warmup=5)
    bare = np.array(seconds["bare"])
    mean, ours = (np.array(seconds[name]) - bare for name in ("x.mean(0)", "naa-fast"))
    ratio = float(np.median(ours / mean))
    rows = []
    for name, taken in seconds.items():
        own = float(np.median(np.array(taken) - bare)) / layers * 1e6
        more: dict[str, Any] = {
            "variant": name,
            "layers": layers,
            "us_a_call": float(np.median(taken)) / layers * 1e6,
            "us_a_hook": own,
        }
        if name == "naa-fast":
            more |= {"ratio": ratio, "within_budget": ratio <= BUDGET}
        rows.append(row("hook", "float32", (SAMPLES, NEURONS, 4), taken, 0, **more))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args(arguments)
    busy = load()
    torch.set_num_threads(1)
    rows = measured(options.layers, options.rounds)
    print(table(rows, ("variant", "layers", "us_a_call", "us_a_hook", "ratio")))
    if options.json:
        write(options.json, rows, threads=1, load=busy, command="python -m benchmarks.hook_cost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
