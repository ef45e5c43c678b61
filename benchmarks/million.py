"""A million suspect samples through the default scan: `python -m benchmarks.million [--json FILE]`.

One thread. (1) What a scan adds to a model whose forward takes about 1 ms a sample: the bare model and the scan without proof
in turns, in processor time, for two numbers of suspects. The slope between them is what a sample costs beside its forward; what
the whole scan takes more, for the clean set, proof and judging, is fixed. For a million samples of exactly 1 ms both are added
up, and that is said to be extrapolated. (2) Memory: a scan with ranking, of a stream that is made batch by batch and never
held, of a tenth of the samples and of all of them; resident memory is read forty times a run, after garbage collection, and its
peaks are compared. What grows is a score, a class and what orders them. Ends with exit code 1 if memory grew by more than BYTES
a sample or the share is above SHARE.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import naa_fast
from benchmarks.common import load, row, table, write
from benchmarks.scale import MEGABYTE, Stream, peak_of, resident_bytes, small_mlp

CLEAN = 4096
BYTES = 100
"""Host memory a suspect sample may cost, at the end, where all scores are put in order."""
SHARE = 0.15
FORWARD_MS = 1.0


class Images:
    """Made-up images, batch by batch."""

    def __init__(self, samples: int, batch: int, seed: int) -> None:
        self.samples, self.batch, self.seed = samples, batch, seed

    def __iter__(self) -> Iterator[Tensor]:
        random = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.samples, self.batch):
            yield torch.rand(min(self.batch, self.samples - start), 3, 32, 32, generator=random)


def convolutions() -> nn.Sequential:
    """A small residual-free CNN, 12 observed layers, of some 1 ms a sample on one core of a server."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for wide, stride in ((32, 1), (48, 1), (64, 2), (96, 1), (128, 2)):
        layers += [nn.Conv2d(channels, wide, 3, stride, 1), nn.ReLU()]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).eval()


def clean_vectors() -> Tensor:
    return torch.randn(CLEAN, 64, generator=torch.Generator().manual_seed(1))


def memory_rows(samples: int, batch: int) -> list[dict[str, Any]]:
    """A row for a tenth of the samples and one for all; the last says what a sample costs."""
    model, clean, rows, peaks = small_mlp(), clean_vectors(), [], []

    def scan(stream: Stream) -> object:
        audit = naa_fast.scan(model, clean, stream, batch_size=batch)
        assert audit.ranking is not None, audit.verdict.gaps
        stream.look()
        return audit

    scan(Stream(samples // 50, batch))  # loads, compiles, and lets the allocator reach what it needs
    for count in (samples // 10, samples):
        gc.collect()
        before, cpu = resident_bytes(), time.process_time()
        seconds, peak = peak_of(scan, Stream(count, batch))
        cpu = time.process_time() - cpu
        peaks.append(peak)
        grown = (peaks[-1] - peaks[0]) / max(count - samples // 10, 1)
        more = {
            "samples": count,
            "cpu_s": cpu,
            "cpu_us_a_sample": 1e6 * cpu / count,
            "peak_MB": peak / MEGABYTE,
            "above_start_MB": (peak - before) / MEGABYTE,
            "bytes_a_sample": grown,
        }
        rows.append(row("scan, memory", "float32", (count, 64), [seconds], count * 256, **more))
    return rows


def cpu_of(run: Any) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def bare(model: nn.Module, stream: Images) -> float:
    """Processor seconds of the model alone; making the data is not counted."""
    seconds = 0.0
    with torch.no_grad():
        for x in stream:
            seconds += cpu_of(lambda x=x: model(x))
    return seconds


def making(stream: Images) -> float:
    return cpu_of(lambda: sum(len(x) for x in stream))


def share_rows(few: int, many: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """What a scan adds to the forward, measured, and for a million samples of FORWARD_MS, extrapolated."""
    model = convolutions()
    clean = torch.cat([*Images(1024, batch, 1)])
    found: dict[str, list[float]] = {"forward_ms": [], "beside_ms": [], "fixed_s": []}
    for turn in range(rounds + 1):
        seconds = {}
        for count in (few, many):
            stream = Images(count, batch, 2)
            alone, made = bare(model, stream), making(stream)
            ranked = cpu_of(lambda stream=stream: naa_fast.scan(model, clean, stream, batch_size=batch, proof=False))
            seconds[count] = alone, ranked - made
        whole = cpu_of(lambda: naa_fast.scan(model, clean, Images(few, batch, 2), batch_size=batch)) - making(
            Images(few, batch, 2)
        )
        if not turn:
            continue  # the first compiles
        forward = (seconds[many][0] - seconds[few][0]) / (many - few)
        a_sample = (seconds[many][1] - seconds[few][1]) / (many - few)
        found["forward_ms"].append(1e3 * forward)
        found["beside_ms"].append(1e3 * (a_sample - forward))
        found["fixed_s"].append(whole - few * a_sample)
    middle = {name: float(np.median(values)) for name, values in found.items()}
    # Hooks cost by the layer and not by the forward: what they add to this model is added to one of 1 ms.
    outside = middle["beside_ms"] * 1e3 + middle["fixed_s"]
    more = {
        **middle,
        "beside_ms_spread": [round(float(v), 4) for v in np.percentile(found["beside_ms"], [20, 80])],
        "share_measured": middle["beside_ms"] / (middle["beside_ms"] + middle["forward_ms"]),
        "share_of_a_million_at_1_ms": outside / (outside + FORWARD_MS * 1e3),
        "samples": many,
    }
    spread = [1e-3 * value for value in found["beside_ms"]]
    return [row("scan, share outside the forward", "float32", (many, 3, 32, 32), spread, many * 12288, **more)]


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows do not keep of what was promised; empty if all is kept."""
    broken = []
    for entry in rows:
        if entry.get("bytes_a_sample", 0) > BYTES:
            broken.append(f"memory grew by {entry['bytes_a_sample']:.0f} bytes a sample, allowed {BYTES}")
        if entry.get("share_of_a_million_at_1_ms", 0) > SHARE:
            broken.append(
                f"{100 * entry['share_of_a_million_at_1_ms']:.0f} % of the time is outside a forward of 1 ms, allowed 15"
            )
    return broken


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--few", type=int, default=1024, help="suspects of the shorter of the runs that give the share")
    parser.add_argument("--many", type=int, default=4096, help="and of the longer")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    busy = load()
    rows = share_rows(options.few, options.many, min(options.batch, 64), options.rounds)
    columns = ("forward_ms", "beside_ms", "fixed_s", "share_measured", "share_of_a_million_at_1_ms")
    print(table(rows, columns), flush=True)
    long = memory_rows(options.samples, options.batch)
    print(table(long, ("samples", "cpu_s", "cpu_us_a_sample", "peak_MB", "above_start_MB", "bytes_a_sample")), flush=True)
    rows += long
    broken = verdicts(rows)
    print("\n".join(broken) if broken else "all that was promised is kept")
    if options.json:
        write(options.json, rows, load=busy, threads=1, broken=broken, command="python -m benchmarks.million")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
