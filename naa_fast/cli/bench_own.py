"""`naa-fast bench --model … --data …`: what a scan of one's own model and data takes, on their first samples."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from naa_fast.cli.shared import clean, emit, fit_positions, model_of, sources_of
from naa_fast.errors import EXIT_PASS, UsageError

MILLION = 1_000_000
FEWEST = 128


def run(arguments: argparse.Namespace) -> int:
    if arguments.model is None or arguments.data is None:
        raise UsageError("--model without --data" if arguments.model else "--data without --model", "expected both, or neither")
    [source] = sources_of(arguments, arguments.data)
    model, device = model_of(arguments)
    fit_positions(model, [source])
    row = figures(model, source, device, arguments)
    if arguments.json:
        emit(json.dumps(row, indent=1, ensure_ascii=False))
    else:
        for line in lines_of(row):
            emit(clean(line))
    return EXIT_PASS


def figures(model: Any, source: Any, device: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Samples a second of reading alone, of the model alone, measured, and scanned; the share of waiting; and memory.

    Each is of the same first samples, after a batch that warms up, in this order: figures of a machine that has other work to do
    are rough. Raises UsageError where there are too few samples.
    """
    import torch

    from naa_fast import audit
    from naa_fast.inputs.batches import PartOfSource
    from naa_fast.inputs.images import fit_images
    from naa_fast.inputs.padding import fitted
    from naa_fast.scan.loop import evaluating
    from naa_fast.scan.placement import Placement
    from naa_fast.scan.times import Times

    source = fitted(model, source)
    fit_images(model, [source], None)
    most = min(source.samples or arguments.samples, arguments.samples)
    part, warm = PartOfSource(source, 0, most), PartOfSource(source, 0, min(most, max(FEWEST, arguments.batch_size)))
    if most < FEWEST:
        raise UsageError(f"{source.name} has {most} samples", f"expected at least {FEWEST}, so that samples can be ranked")
    place, times = Placement.of(model, device), Times()
    options: dict[str, Any] = {"layers": arguments.layers, "batch_size": arguments.batch_size, "device": device}

    def alone(data: Any) -> float:
        seconds = 0.0
        with evaluating(model), torch.no_grad():
            for batch in data.batches():
                seconds += timed(partial(model, *place.moved(batch.arguments), **place.moved(batch.keywords)), place)
        return seconds

    audit.scan(model, warm, warm, proof=False, repair=False, **options)  # first: it says in which layer a forward failed
    alone(warm)
    reading = timed(lambda: sum(batch.size for batch in part.batches()), place)
    forward = alone(part)
    measured = timed(lambda: audit.measure(model, part, times=times, **options), place)
    scanned = timed(lambda: audit.scan(model, part, part, proof=False, repair=False, **options), place)
    rates = {"reading": most / reading, "bare": most / forward, "measured": most / measured, "scanned": 2 * most / scanned}
    gpu = torch.cuda.max_memory_allocated(place.device) / 1e6 if place.device.type == "cuda" else None
    return {
        "device": str(place),
        "samples": most,
        "batch_size": arguments.batch_size,
        "samples_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "share_waiting": round(times.shares()["waiting"], 4),
        "limit": times.limit,
        "host_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1),
        "device_MB": gpu and round(gpu, 1),
        "a_million_s": {name: round(MILLION / rate, 1) for name, rate in rates.items()},
    }


def timed(work: Callable[[], Any], place: Any) -> float:
    """Seconds, of a GPU until it has answered."""
    import torch

    began = time.perf_counter()
    work()
    if place.device.type == "cuda":
        torch.cuda.synchronize(place.device)
    return time.perf_counter() - began


def lines_of(row: dict[str, Any]) -> list[str]:
    """The figures for a person."""
    rates, million = row["samples_per_s"], row["a_million_s"]
    names = {
        "reading": "reading the data alone",
        "bare": "the model alone",
        "measured": "measured (statistics of every layer)",
        "scanned": "scanned (with ranking, both sets)",
    }
    lines = [f"{row['samples']:,} samples, {row['batch_size']} a batch, on {row['device']}"]
    lines += [f"  {names[name]:38s}{rates[name]:>12,.0f} samples/s" for name in names]
    lines.append(
        f"waiting for data: {100 * row['share_waiting']:.0f} % of the measurement" + (f"; {row['limit']}" if row["limit"] else "")
    )
    device = f", {row['device_MB']:,.0f} MB on the device" if row["device_MB"] else ""
    lines.append(f"memory: {row['host_MB']:,.0f} MB of the host at most{device}")
    lines.append(
        f"a million samples take {duration(million['scanned'])} to scan, {duration(million['bare'])} of it the model's own; "
        "proof and repair come to it (--budget)"
    )
    return lines


def duration(seconds: float) -> str:
    """As a person says it: `45 s`, `12 min`, `3.2 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
