"""The default scan on a GPU: the same verdict as on the CPU, what crosses the bus with ranking, what it costs, what it keeps.

Parts of gpu_check. All run on the CPU too, with small models, so that their plumbing can be tested: there the portable backend
stands for the device in `same_verdict`, nothing is copied, and `measured` is False.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import naa_fast
from benchmarks.gpu_end_to_end import LLAMA, SMALL_LLAMA, Plain, layers_that_fit, llama, release, resnet_50, traced
from benchmarks.overhead import resnet
from benchmarks.scan_cost import Case, Ranked, cost_rows
from naa_fast.inputs.opening import open_source
from naa_fast.rank.plan import planned
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions

BUDGETS = {"ResNet-50 bf16": 1.20, "Llama-like decoder": 1.03}
"""Of the suspects' pass with statistics and ranking, times the bare forward."""
BYTES_A_SAMPLE = 8
SCORES = 1e-3
"""How far apart scores of two devices may lie, as a share of the largest: float32 convolutions differ more than our sums do."""


class Digits(nn.Module):
    """A CNN that learns ten random patterns in seconds: what a trigger turns is then a class."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores


def backdoored(steps: int = 120) -> tuple[nn.Module, Tensor, Tensor]:
    """A model that a white patch in a corner turns to class 7, 600 clean samples and 300 suspects of which a fifth have it."""
    random = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 1, 16, 16, generator=random)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 10, (count,), generator=random)
        return patterns[labels] + 0.25 * torch.randn(count, 1, 16, 16, generator=random), labels

    torch.manual_seed(0)
    model = Digits()
    descent = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        x, labels = drawn(128)
        x[:32, :, :4, :4], labels[:32] = 3.0, 7
        descent.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        descent.step()
    clean, suspect = drawn(600)[0], drawn(300)[0]
    suspect[:60, :, :4, :4] = 3.0
    return model.eval().requires_grad_(False), clean, suspect


def told(audit: Any) -> dict[str, Any]:
    """What two scans must agree on."""
    stands = [proof for proof in audit.proof if proof.stands]
    return {
        "outcome": audit.verdict.outcome,
        "targets": sorted(proof.target for proof in stands),
        "rates": [round(float(proof.rate), 3) for proof in stands],
        "repaired": audit.repair is not None,
    }


def same_verdict(device: str) -> dict[str, Any]:
    """Ranking, proof and repair on the device and on the CPU: the same outcome, targets and repair, scores within SCORES."""
    model, clean, suspect = backdoored()
    here = naa_fast.scan(model, clean, suspect, device="cpu")
    backend = "portable" if device == "cpu" else "auto"
    there = naa_fast.scan(model, clean, suspect, device=device, backend=backend)
    scores = [audit.ranking.scores for audit in (here, there) if audit.ranking is not None]
    largest = float(np.abs(scores[0][np.isfinite(scores[0])]).max())
    apart = float(np.nanmax(np.abs(scores[0] - scores[1]))) / largest
    facts = [told(audit) for audit in (here, there)]
    same = all(facts[0][key] == facts[1][key] for key in ("outcome", "targets", "repaired"))
    return {
        "right": same and apart <= SCORES and facts[0]["outcome"] == "fail",
        "cpu": facts[0],
        "device": facts[1],
        "scores_apart": apart,
        "held_to": SCORES,
        "compared_with": backend if device == "cpu" else "the kernels of the device",
        "measured": device != "cpu",
    }


def ranked_copies(device: str) -> dict[str, Any]:
    """Bytes from device to host in suspects' passes of N and 10 N batches: as many without ranking, with it at most
    BYTES_A_SAMPLE a sample more.
    """
    where = torch.device(device)
    small = where.type != "cuda"
    batch, few = (64, 1) if small else (256, 4)
    torch.manual_seed(0)
    model = (resnet((1, 1), True, 8, 10) if small else resnet((2, 2, 2, 2), False)).to(where).eval()
    side = 32 if small else 64
    sets = {count: torch.randn(count * batch, 3, side, side) for count in (few, 10 * few)}
    clean = torch.randn(256, 3, side, side)
    found: dict[str, Any] = {"measured": not small, "batches": [few, 10 * few], "batch": batch}
    for ranking in (False, True):
        seen = []
        for count, suspect in sets.items():
            case = Case("", model, clean, suspect, batch, 0)
            run: Callable[[], object] = Ranked(case) if ranking else lambda case=case: plain(case)  # type: ignore[misc]
            run()
            seen.append(traced(run, where) | {"batches": count})
        found["ranking" if ranking else "statistics"] = seen
    more = {
        name: (found[name][1]["dtoh_bytes"] - found[name][0]["dtoh_bytes"]) / (9 * few * batch)
        for name in ("statistics", "ranking")
    }
    found["bytes_a_sample"], found["budget"] = more, {"statistics": 0, "ranking": BYTES_A_SAMPLE}
    found["waits_a_batch"] = {name: (found[name][1]["waits"] - found[name][0]["waits"]) / (9 * few) for name in more}
    within = more["statistics"] == 0 and more["ranking"] <= BYTES_A_SAMPLE
    return {"right": within or small, **found}


def plain(case: Case) -> None:
    measure(case.model, open_source(case.suspect, case.batch), RunOptions(batch_size=case.batch, histograms=False))


class LastToken(nn.Module):
    """Scores of the next token out of a decoder's states."""

    def __init__(self, inner: nn.Module, hidden: int, classes: int) -> None:
        super().__init__()
        self.inner, self.head = Plain(inner), nn.Linear(hidden, classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.head(self.inner(tokens)[:, -1])
        return scores


def large_cases(device: str) -> list[Callable[[], Case]]:
    """ResNet-50 in bfloat16 and a Llama-like decoder, made when it is their turn; their sets lie on the device."""
    where = torch.device(device)
    small = where.type != "cuda"
    dtype = torch.float32 if small else torch.bfloat16

    def images() -> Case:
        torch.manual_seed(0)
        model: Any = resnet_50(small)[0].to(where, dtype).eval()
        model = model.to(memory_format=torch.channels_last)
        shape = (64, 3, 32, 32) if small else (1024, 3, 224, 224)
        sets = [torch.randn(shape, device=where, dtype=dtype) for _ in range(2)]
        return Case("ResNet-50 bf16", model, sets[0], sets[1], 32 if small else 256, 0)

    def tokens() -> Case:
        shape = SMALL_LLAMA if small else LLAMA
        size = (64, 16) if small else (64, 2048)
        inner, _ = llama(where, dtype, shape, layers_that_fit(where, shape, 8 * size[1]))
        with where:
            model = LastToken(inner, shape["hidden"], shape["vocabulary"]).to(where, dtype).eval()
        sets = [torch.randint(0, shape["vocabulary"], size, device=where) for _ in range(2)]
        return Case("Llama-like decoder", model, sets[0], sets[1], 8, 0)

    return [images, tokens]


def scan_cost(device: str) -> dict[str, Any]:
    """The suspects' pass bare, with statistics, with ranking, in turns; and the most memory it took beside the model's own."""
    where = torch.device(device)
    cuda = where.type == "cuda"
    rows, memory, over = [], [], []
    for make in large_cases(device):
        case = make()
        found = cost_rows(case, 3 if cuda else 1, full=False, synchronize=torch.cuda.synchronize if cuda else None)
        rows += found
        last = found[-1]
        if cuda and last["to_bare"] > BUDGETS[case.name]:
            over.append(f"{case.name}: {last['to_bare']:.3f} times the bare forward, budget {BUDGETS[case.name]}")
        memory.append({"case": case.name, **memory_of(case, where)})
        del case
        release(where)
    return {"right": not over, "rows": rows, "memory": memory, "said": "; ".join(over), "budgets": BUDGETS, "measured": cuda}


def memory_of(case: Case, where: torch.device) -> dict[str, Any]:
    """Bytes a neuron that a clean pass and a suspects' pass with ranking took at most, less those of a bare forward, and what
    `--dry-run` says of it.
    """
    plan = planned(case.model, open_source(case.clean, case.batch), open_source(case.suspect, case.batch), device=where)
    said = sum(plan.on_device.values())
    found: dict[str, Any] = {"neurons": plan.neurons, "layers": plan.layers, "said_bytes_a_neuron": said / plan.neurons}
    if where.type != "cuda":
        return found

    def most(work: Callable[[], object]) -> int:
        release(where)
        torch.cuda.reset_peak_memory_stats(where)
        work()
        torch.cuda.synchronize(where)
        return int(torch.cuda.max_memory_allocated(where))

    def bare() -> None:
        with torch.no_grad():
            case.model(case.suspect[: case.batch])

    alone, with_scan = most(bare), most(lambda: Ranked(case)())
    found["bytes_a_neuron"] = (with_scan - alone) / plan.neurons
    return found
