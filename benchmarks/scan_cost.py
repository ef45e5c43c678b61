"""What a scan costs beside the model's own forward: `python -m benchmarks.scan_cost [--json FILE] [--size small|full]`.

Six architectures of the study, ResNet-50 on images of 224 and a GPT-2-like decoder, on the CPU: a set is run bare, with the
statistics that a scan keeps, with histograms too (the default `measure`), and with statistics and ranking, in turns; then one
whole scan (both sets, ranking, proofs; a repair after a fail), whose samples through the model a counter tells. Weights and
data are random: nothing is detected, only timed. Some 6 minutes on two cores. Targets: statistics at most 1.15 times the bare
forward on the two large models, ranking at most 1.25 times the statistics (an MLP 2 times).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import naa_fast
from benchmarks.common import interleaved, load, paired, row, table, write
from benchmarks.detection.models import ARCHITECTURES, build
from benchmarks.overhead import Decoder, resnet
from naa_fast.inputs.opening import open_source
from naa_fast.rank import RankingPass
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions

COLUMNS = ("case", "variant", "median_ms", "p20_ms", "p80_ms", "to_bare", "to_statistics", "samples", "layers")
TARGETS = {"statistics": 1.15, "ranking": 1.25, "ranking, MLP": 2.0}
LARGE = ("ResNet-50, 224 x 224", "GPT-2-like, 128 tokens")


class Headed(nn.Module):
    """A language model's states with the scores of its next token."""

    def __init__(self, inner: Decoder, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(hidden, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.inner(tokens)[:, -1])
        return scores


@dataclass(frozen=True)
class Case:
    """A model and both its sets; `budget`: samples that proofs of the whole scan may run."""

    name: str
    model: nn.Module
    clean: Tensor
    suspect: Tensor
    batch: int
    budget: int


def study_cases(small: bool) -> list[Case]:
    cases = []
    for name in ARCHITECTURES:
        shape = (24,) if name.startswith("text") else (1, 28, 28)
        model = build(name, shape, 10, 0).eval()
        few, many = (64, 64) if small else (1024, 4096)
        random = torch.Generator().manual_seed(0)

        def made(count: int, name: str = name, shape: tuple[int, ...] = shape, random: torch.Generator = random) -> Tensor:
            if name.startswith("text"):
                return torch.randint(1, 100, (count, *shape), generator=random)
            return torch.rand(count, *shape, generator=random)

        cases.append(Case(name, model, made(few), made(many), 256, 64 if small else 4000))
    return cases


def large_cases(small: bool) -> list[Case]:
    torch.manual_seed(0)
    images, tokens = (64, 3, 32, 32) if small else (64, 3, 224, 224), (64, 8 if small else 128)
    image_model = resnet((1, 1), True, 8, 10) if small else resnet((3, 4, 6, 3), True)
    hidden, vocabulary = (32, 64) if small else (768, 8192)
    decoder = Decoder(2, hidden, 64, 2, vocabulary, gated=False) if small else Decoder(12, 768, 3072, 12, 8192, gated=False)
    texts = [torch.randint(0, vocabulary, tokens) for _ in range(2)]
    return [
        Case(LARGE[0], image_model.eval(), torch.randn(images), torch.randn(images), 16, 64),
        Case(LARGE[1], Headed(decoder, hidden, vocabulary).eval(), texts[0], texts[1], 16, 64),
    ]


def bare(case: Case) -> None:
    with torch.no_grad():
        for x in case.suspect.split(case.batch):
            case.model(x)


def statistics(case: Case, histograms: bool) -> None:
    measure(case.model, open_source(case.suspect, case.batch), RunOptions(batch_size=case.batch, histograms=histograms))


class Ranked:
    """Suspects scored while they are measured, by a clean set that was looked at once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        options = RunOptions(batch_size=case.batch, histograms=False)
        self.ranking = RankingPass(case.model, *(open_source(x, case.batch) for x in (case.clean, case.suspect)))
        start = time.perf_counter()
        measured = measure(case.model, open_source(case.clean, case.batch), options, observer=self.ranking.clean)
        self.ranking.calibrate(measured)
        self.clean_seconds = time.perf_counter() - start
        self.layers = len(measured.layers)
        self.neurons = sum(record.channels for record in measured.layers.values())

    def __call__(self) -> None:
        scorer = self.ranking.scorer
        assert scorer is not None
        scorer.forget_suspects()
        options = RunOptions(batch_size=self.case.batch, histograms=False)
        source = open_source(self.case.suspect, self.case.batch)
        measure(self.case.model, source, options, observer=self.ranking._scoring(scorer))
        scorer.settle()


def whole_scan(case: Case) -> tuple[float, int]:
    """Seconds of `naa_fast.scan`, and samples that went through the model."""
    through = [0]

    def count(module: nn.Module, arguments: Any) -> None:
        through[0] += len(arguments[0])

    handle = case.model.register_forward_pre_hook(count)
    try:
        start = time.perf_counter()
        naa_fast.scan(case.model, case.clean, case.suspect, batch_size=case.batch, budget=case.budget)
        return time.perf_counter() - start, through[0]
    finally:
        handle.remove()


def cost_rows(
    case: Case, rounds: int, full: bool = True, synchronize: Callable[[], object] | None = None
) -> list[dict[str, Any]]:
    """A row a variant; `to_bare` and `to_statistics`: medians over the rounds of the ratio."""
    ranked = Ranked(case)
    calls: dict[str, Callable[[], object]] = {
        "bare": partial(bare, case),
        "statistics": partial(statistics, case, False),
        "statistics and histograms": partial(statistics, case, True),
        "statistics and ranking": ranked,
    }
    seconds = interleaved(calls, rounds, 1, synchronize)
    dtype = str(next(case.model.parameters()).dtype).removeprefix("torch.")
    about = {"samples": len(case.suspect), "layers": ranked.layers, "neurons": ranked.neurons, "batch": case.batch}
    rows = []
    for variant, taken in seconds.items():
        ratios = {"to_bare": paired(taken, seconds["bare"]), "to_statistics": paired(taken, seconds["statistics"])}
        rows.append(
            row(case.name, dtype, tuple(case.suspect.shape), taken, case.suspect.nbytes, variant=variant, **ratios, **about)
        )
    if full:
        taken_s, through = whole_scan(case)
        each = float(np.median(seconds["bare"])) / len(case.suspect)
        about |= {"samples": through, "budget": case.budget}
        more = {"to_bare": taken_s / (each * through), "to_statistics": None}
        shape = tuple(case.suspect.shape)
        rows.append(row(case.name, dtype, shape, [taken_s], case.suspect.nbytes, variant="whole scan", **more, **about))
    return rows


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """Which targets are missed, in words."""
    missed = []
    for entry in rows:
        name, variant = entry["case"], entry["variant"]
        if variant == "statistics" and name in LARGE and entry["to_bare"] > TARGETS["statistics"]:
            missed.append(f"{name}: statistics {entry['to_bare']:.2f} times bare, target {TARGETS['statistics']}")
        target = TARGETS["ranking, MLP" if name == "mlp" else "ranking"]
        if variant == "statistics and ranking" and entry["to_statistics"] > target:
            missed.append(f"{name}: ranking {entry['to_statistics']:.2f} times the statistics, target {target}")
    return missed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    busy, small, began = load(), options.size == "small", time.perf_counter()
    rows = []
    for case in (*study_cases(small), *large_cases(small)):
        found = cost_rows(case, min(options.rounds, 3) if case.name in LARGE else options.rounds)
        print(table(found, COLUMNS), flush=True)
        rows += found
    missed = verdicts(rows)
    print("\n".join(missed) if missed else "every target is met")
    print(f"{time.perf_counter() - began:.0f} s")
    if options.json:
        known = {"threads": torch.get_num_threads(), "load": busy, "missed": missed, "targets": TARGETS}
        write(options.json, rows, **known, command=f"python -m benchmarks.scan_cost --size {options.size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
