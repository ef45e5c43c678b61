"""The default `measure` of one layer beside the machine's read bandwidth: `python -m benchmarks.default_measure [--json FILE]`.

The layer gives its input back, so that all the time is ours: hooks, the one read, histograms, predicted classes of `[samples,
classes]`. In turns with a bare read of as many bytes, 1 GB a case. Targets: 60 % of the read for `[N, 3072]` float32, 70 for
NCHW, 35 for `[N, 3072]` bfloat16. A minute on two cores, and 3 GB of memory.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import interleaved, load, paired, row, table, write
from benchmarks.cpu_kernels import MEGABYTE, reader, total, total_of_four
from naa_fast.inputs.opening import open_source
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions

COLUMNS = ("case", "variant", "median_ms", "p20_ms", "p80_ms", "share_of_read", "target")
CASES = (
    ("[N, 3072]", torch.float32, (3072,), 2048, 0.60),
    ("NCHW, 64 x 56 x 56", torch.float32, (64, 56, 56), 64, 0.70),
    ("[N, 3072]", torch.bfloat16, (3072,), 4096, 0.35),
)
"""Name, dtype, shape of a sample, samples a batch, and the share of the read that is wanted."""


class Given(nn.Module):
    """A layer that costs nothing, and a head that does not either: what it gives are the first ten of its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(1)[:, :10]


def measured(x: Tensor, batch: int, histograms: bool) -> None:
    measure(Given(), open_source(x, batch), RunOptions(batch_size=batch, histograms=histograms, layers=["layer"]))


def rows_of(nbytes: int, rounds: int) -> list[dict[str, Any]]:
    """Two rows a case: the default, and without the histograms, as a scan measures."""
    probe = np.ones(nbytes // 4, np.float32)
    rows = []
    for name, dtype, shape, batch, target in CASES:
        each = int(np.prod(shape)) * dtype.itemsize
        x = torch.randn(nbytes // each, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        variants = {"default": partial(measured, x, batch, True), "without histograms": partial(measured, x, batch, False)}
        reads = {"read": reader(probe, total), "read4": reader(probe, total_of_four)}
        seconds = interleaved({**reads, **variants}, rounds)
        read = list(np.minimum(seconds["read"], seconds["read4"]))
        for variant in variants:
            share = paired(read, seconds[variant]) * x.nbytes / probe.nbytes
            about = {"variant": variant, "share_of_read": share, "target": target, "batch": batch}
            rows.append(row(name, str(dtype).removeprefix("torch."), tuple(x.shape), seconds[variant], x.nbytes, **about))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--megabytes", type=int, default=1024, help="bytes of a case (default: %(default)s MB)")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    busy, rows = load(), rows_of(options.megabytes * MEGABYTE, options.rounds)
    print(table(rows, COLUMNS))
    if options.json:
        known = {"rounds": options.rounds, "threads": torch.get_num_threads(), "load": busy}
        write(options.json, rows, **known, command=f"python -m benchmarks.default_measure --megabytes {options.megabytes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
