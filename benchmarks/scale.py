"""Time and memory of a whole scan against samples and against neurons: `python -m benchmarks.scale [--json FILE]`.

Samples: `naa_fast.measure` over a stream that is made batch by batch and never held. Resident memory is read twenty times a
run, after garbage collection; what counts is its peak during the run, so that a set kept and then freed would show. A first
run of 100,000 samples warms up: it loads, compiles, and lets the allocator reach the size that the making and freeing of
chunks needs, which depends on the model and not on the set. Neurons: one layer, the same bytes, from 256 to 16,384 neurons.
Ends with exit code 1 if memory grew by 5 MB or time did not grow in proportion.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import naa_fast
from benchmarks.common import interleaved, load, row, table, write

WIDTH = 64
MEGABYTE = 1e6
GROWTH_LIMIT_MB = 5.0
STATM = Path("/proc/self/statm")
LOOKS = 20
WARM_UP = 100_000
LINEAR = (0.7, 1.3)
"""Limits of the drift of a straight line: a busy neighbour does that much."""


def resident_bytes() -> int:
    """Resident memory of this process. Linux only: getrusage tells the peak since the start, which hides growth."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Stream:
    """`samples` made-up vectors, an iterable of batches, each made when it is asked for.

    `peak`: most resident memory seen when a batch was asked for, while the scan holds what it holds of those before.
    """

    samples: int
    batch: int
    peak: int = 0
    seconds_making: float = 0.0
    seconds_looking: float = 0.0
    taken: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[Tensor]:
        random = torch.Generator().manual_seed(0)
        every = max(1, self.samples // self.batch // LOOKS)
        for index, start in enumerate(range(0, self.samples, self.batch)):
            began = time.perf_counter()
            x = torch.randn(min(self.batch, self.samples - start), WIDTH, generator=random)
            made = time.perf_counter()
            if index % every == 0:
                self.look()
            self.seconds_making += made - began
            self.seconds_looking += time.perf_counter() - made
            left = time.perf_counter()
            yield x
            self.taken.append(time.perf_counter() - left)

    @property
    def drift(self) -> float:
        """Time a batch in the last third of the stream over the first third; the slowest 5 % of each, where a neighbour woke
        up, left out, and the ends of chunks, one batch in eight, left in."""
        third = max(1, len(self.taken) // 3)
        first, last = (np.sort(part)[: max(1, int(0.95 * third))] for part in (self.taken[:third], self.taken[-third:]))
        return float(np.mean(last) / np.mean(first))

    def look(self) -> None:
        gc.collect()
        self.peak = max(self.peak, resident_bytes())


class FirstColumn(nn.Module):
    """Ends a model with something that cannot be taken for class scores, which would be counted too."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


def small_mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).eval()


@dataclass
class Growth:
    """Peak resident memory of runs of one process, smallest first."""

    peaks: list[int] = field(default_factory=list)

    @property
    def megabytes(self) -> float:
        return (self.peaks[-1] - self.peaks[0]) / MEGABYTE

    def within(self, limit: float = GROWTH_LIMIT_MB) -> bool:
        return self.megabytes < limit


def peak_of(run: Callable[[Stream], object], stream: Stream) -> tuple[float, int]:
    """Seconds of `run(stream)` without looking at memory, and the most resident memory seen in it or after it."""
    start = time.perf_counter()
    run(stream)
    seconds = time.perf_counter() - start - stream.seconds_looking
    stream.look()
    return seconds, stream.peak


def forward_only(model: nn.Module, stream: Stream) -> float:
    """Seconds the model alone takes for the stream, without making it."""
    seconds = 0.0
    with torch.no_grad():
        for x in stream:
            start = time.perf_counter()
            model(x)
            seconds += time.perf_counter() - start
    return seconds


def sample_rows(counts: list[int], batch: int) -> list[dict[str, Any]]:
    """A row a length; the last says how memory and time grew from the first."""
    model = small_mlp()

    def scan(stream: Stream) -> object:
        return naa_fast.measure(model, stream)

    scan(Stream(min(WARM_UP, max(counts)), batch))
    growth, rates, rows = Growth(), [], []
    layers = sum(isinstance(module, nn.Linear | nn.ReLU) for module in model)
    for count in counts:
        stream = Stream(count, batch)
        seconds, peak = peak_of(scan, stream)
        alone = forward_only(model, Stream(count, batch))
        growth.peaks.append(peak)
        rates.append(seconds / count)
        more = {
            "samples": count,
            "batch": batch,
            "layers": layers,
            "total_s": seconds,
            "samples_per_s": round(count / seconds),
            "resident_MB": peak / MEGABYTE,
            "growth_MB": growth.megabytes,
            "growth_within_limit": growth.within(),
            "time_a_sample_to_first": rates[-1] / rates[0],
            "drift": stream.drift,
            "share_outside_forward": 1 - (alone + stream.seconds_making) / seconds,
            "share_making_data": stream.seconds_making / seconds,
        }
        rows.append(row("scan, by samples", "float32", (count, WIDTH), [seconds], count * WIDTH * 4, **more))
    return rows


def neuron_rows(widths: list[int], nbytes: int, rounds: int) -> list[dict[str, Any]]:
    """One observed layer of the given widths, timed in turns; the same bytes whatever the width, a quarter of them a batch."""
    model = nn.Sequential(nn.Identity(), FirstColumn()).eval()
    sets = {width: torch.randn(max(8, nbytes // 4 // width), width) for width in widths}

    def scan(x: Tensor) -> object:
        return naa_fast.measure(model, x, layers="0", batch_size=-(-len(x) // 4))

    seconds = interleaved({str(width): partial(scan, x) for width, x in sets.items()}, rounds)
    first = float(np.median(seconds[str(widths[0])])) / sets[widths[0]].numel()
    rows = []
    for width, x in sets.items():
        taken = seconds[str(width)]
        more = {"neurons": width, "time_a_value_to_first": float(np.median(taken)) / x.numel() / first}
        rows.append(row("scan, by neurons", "float32", tuple(x.shape), taken, x.nbytes, **more))
    return rows


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows do not keep of what was promised; empty if all is kept."""
    broken = []
    last = [entry for entry in rows if "samples" in entry][-1]
    if not last["growth_within_limit"]:
        broken.append(f"memory grew by {last['growth_MB']:.1f} MB, allowed {GROWTH_LIMIT_MB:g} MB")
    if not LINEAR[0] <= last["drift"] <= LINEAR[1]:
        broken.append(f"the last batches of {last['samples']} samples took {last['drift']:.2f} times the first")
    return broken


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--neurons", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--megabytes", type=int, default=128, help="bytes of the set in the runs by neurons (default 128)")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    busy = load()
    rows = sample_rows(options.samples, options.batch)
    shown = ("samples", "total_s", "samples_per_s", "resident_MB", "growth_MB", "drift", "share_outside_forward")
    print(table(rows, shown), flush=True)
    by_neurons = neuron_rows(options.neurons, options.megabytes << 20, options.rounds)
    print(table(by_neurons, ("neurons", "median_ms", "p20_ms", "p80_ms", "GB_per_s", "time_a_value_to_first")))
    rows += by_neurons
    broken = verdicts(rows)
    print("\n".join(broken) if broken else f"memory grew by less than {GROWTH_LIMIT_MB:g} MB; time grew in proportion")
    if options.json:
        known = {"threads": torch.get_num_threads(), "load": busy, "broken": broken}
        write(options.json, rows, **known, command="python -m benchmarks.scale")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
