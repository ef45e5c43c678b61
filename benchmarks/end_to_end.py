"""What hooks cost a whole forward: `python -m benchmarks.end_to_end [--device cpu|cuda] [--size small|full] [--json FILE]`.

overhead.py says what runs in turns; gpu_end_to_end.py has the GPU's half.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from benchmarks.common import load, table, write
from benchmarks.overhead import Decoder, conv_names, decoder_names, overhead_rows, resnet


def cpu_rows(size: str, rounds: int) -> list[dict[str, Any]]:
    """ResNet-18 on images of 224 and a GPT-like decoder; `small` for a quick look at the same paths."""
    torch.manual_seed(0)
    full = size == "full"
    images = torch.randn((16, 3, 224, 224) if full else (4, 3, 64, 64))
    tokens = torch.randint(0, 8192, (8, 256) if full else (2, 32))
    image_model = resnet((2, 2, 2, 2), False, 64 if full else 16)
    text_model = Decoder(8, 512, 2048, 8, 8192, gated=False) if full else Decoder(2, 64, 256, 2, 8192, gated=False)
    return [
        *overhead_rows("ResNet-18, convolutions", image_model, images, conv_names(image_model), rounds),
        *overhead_rows("GPT-like, residual + MLP", text_model, tokens, decoder_names(text_model), rounds),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--rounds", type=int, help="default: 7 on the CPU, 20 on a GPU")
    options = parser.parse_args(arguments)
    busy = load()
    if options.device == "cuda":
        from benchmarks.gpu_end_to_end import end_to_end_rows

        rows = end_to_end_rows("cuda", options.size, options.rounds or 20)
    else:
        rows = cpu_rows(options.size, options.rounds or 7)
    print(table(rows))
    if options.json:
        known = {"threads": torch.get_num_threads(), "load": busy}
        write(
            options.json,
            rows,
            **known,
            command=f"python -m benchmarks.end_to_end --device {options.device} --size {options.size}",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
