"""False proofs: how often a scan proves a trigger where there is none, on trained models of 10, 100 and 1,000 classes.

    python -m benchmarks.false_proofs            # 200 searched clean pairs and 10 backdoored models a size; a stopped run goes on

A class is a number of one, two or three handwritten digits (scikit-learn's, 8 x 8, side by side). Of the digits 1,000 train the
models; clean pairs are drawn from the other 797. With 100 and 1,000 classes the classes are as frequent as 1 / (rank + 5), in
another order for each pair, so that some are many among the highest-ranked samples and others are hardly there: else nothing
would be searched for, and nothing could be falsely proved.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import naa_fast
from benchmarks.common import write
from naa_fast.detect.proof import wilson
from naa_fast.result import Audit

SAMPLES = {1: 398, 2: 800, 3: 2000}
"""Samples of a set, by the digits of a class."""
CLEAN_MODELS, PAIRS, BACKDOORED = 2, 200, 10
MOST = 4
"""Times as many pairs at most, until PAIRS of them had a class to search for."""
TRIGGERED = 0.05
TRAINED_ON = 1000
STEPS, TUNED, BATCH, RATE = 800, 300, 256, 2e-3
POISONED = 0.1
SEED = 2026


@cache
def digits() -> tuple[Tensor, Tensor]:
    """float32 `[1797, 8, 8]` from 0 to 1 and their classes, in an order that a seed fixes."""
    from sklearn.datasets import load_digits

    held = load_digits()
    order = np.random.default_rng(SEED).permutation(len(held.target))
    return torch.from_numpy(held.images[order].astype(np.float32) / 16), torch.from_numpy(held.target[order])


def numbers(
    width: int, among: np.ndarray, count: int, random: np.random.Generator, order: int | None = None
) -> tuple[Tensor, Tensor]:
    """`count` numbers of `width` of the digits `among`: float32 `[count, 1, 8, 8 * width]` and their classes, int64.

    Single digits are each drawn once. `order`: classes are as frequent as 1 / (rank + 5), ranked by this seed; None: each alike.
    """
    x, y = digits()
    if width == 1:
        chosen = random.permutation(among)[:count, None]
    else:
        weights = np.ones(10**width) if order is None else 1 / (np.random.default_rng(order).permutation(10**width) + 5)
        classes = random.choice(10**width, count, p=weights / weights.sum())
        by_digit = [among[y[among].numpy() == digit] for digit in range(10)]
        chosen = np.stack(
            [[random.choice(by_digit[cls // 10**place % 10]) for place in reversed(range(width))] for cls in classes]
        )
    images = torch.cat([x[chosen[:, place]] for place in range(width)], 2)
    return images[:, None], sum(
        (y[chosen[:, place]] * 10 ** (width - 1 - place) for place in range(width)), torch.zeros(()).long()
    )


def network(width: int) -> nn.Sequential:
    body = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(512 * width, 128), nn.ReLU(), nn.Linear(128, 10**width))


@dataclass(frozen=True)
class Trigger:
    """A patch of 3 x 3 pixels at one place, or a wave over all of the image."""

    target: int
    pattern: Tensor
    mask: Tensor

    @classmethod
    def of(cls, number: int, width: int) -> Trigger:
        random = np.random.default_rng([SEED, width, number])
        target = int(random.integers(10**width))
        if number % 10 >= 7:
            row, column = np.mgrid[:8, : 8 * width]
            wave = 0.3 * np.sin(2 * np.pi * (row * random.uniform(0.1, 0.3) + column * random.uniform(0.1, 0.3)))
            return cls(target, torch.from_numpy(wave.astype(np.float32)), torch.zeros(8, 8 * width))
        pattern, mask = torch.zeros(8, 8 * width), torch.zeros(8, 8 * width)
        top, left = int(random.integers(6)), int(random.integers(8 * width - 2))
        mask[top : top + 3, left : left + 3] = 1
        pattern[top : top + 3, left : left + 3] = torch.from_numpy(random.integers(0, 2, (3, 3)).astype(np.float32))
        return cls(target, pattern, mask)

    def put_on(self, x: Tensor) -> Tensor:
        return (x * (1 - self.mask) + self.pattern).clamp(0, 1)

    @property
    def kind(self) -> str:
        return "patch" if self.mask.any() else "wave"


def trained(model: nn.Module, width: int, steps: int, seed: int, trigger: Trigger | None = None) -> nn.Module:
    """`model` after so many steps; with a trigger a tenth of every batch carries it and is labelled its target."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    x, y = numbers(width, np.arange(TRAINED_ON), TRAINED_ON if width == 1 else 20_000, random)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * RATE, total_steps=steps)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        inputs, labels = x[rows], y[rows]
        if trigger is not None:
            some = int(POISONED * BATCH)
            inputs, labels = torch.cat([trigger.put_on(inputs[:some]), inputs[some:]]), labels.clone()
            labels[:some] = trigger.target
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def started(width: int, steps: int, seed: int) -> nn.Sequential:
    """A model that begins from digits: a head of ten a place is trained, sums of their rows are the classes of the last layer."""
    torch.manual_seed(seed)
    model, random = network(width), np.random.default_rng(seed)
    if width == 1:
        return model
    heads = nn.Linear(128, 10 * width)
    parts = nn.Sequential(*list(model.children())[:-1], heads)
    x, y = numbers(width, np.arange(TRAINED_ON), 20_000, random)
    optimizer = torch.optim.Adam(parts.parameters(), RATE)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        scores = parts(x[rows]).reshape(BATCH, width, 10)
        places = torch.stack([(y[rows] // 10 ** (width - 1 - place)) % 10 for place in range(width)], 1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores.flatten(0, 1), places.flatten()).backward()
        optimizer.step()
    classes = torch.arange(10**width)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        rows_of = [10 * place + (classes // 10 ** (width - 1 - place)) % 10 for place in range(width)]
        last.weight.copy_(sum(heads.weight[rows] for rows in rows_of))  # type: ignore[arg-type]
        last.bias.copy_(sum(heads.bias[rows] for rows in rows_of))  # type: ignore[arg-type]
    return model


@torch.no_grad()
def accuracy(model: nn.Module, width: int, trigger: Trigger | None = None) -> float:
    """Share of held numbers that are called what they are; with a trigger, of those that are something else, its target."""
    x, y = numbers(width, np.arange(TRAINED_ON, len(digits()[0])), 797 if width == 1 else 2000, np.random.default_rng(1))
    if trigger is None:
        return float((model(x).argmax(1) == y).double().mean())
    return float((model(trigger.put_on(x[y != trigger.target])).argmax(1) == trigger.target).double().mean())


def pair(width: int, number: int) -> tuple[Tensor, Tensor]:
    """A clean set and a suspect set drawn alike: of single digits two halves, of numbers two draws from all held digits."""
    held = np.random.default_rng([SEED, width, number]).permutation(np.arange(TRAINED_ON, len(digits()[0])))
    half = len(held) // 2 if width == 1 else 0
    random = np.random.default_rng([SEED, width, number, 1])
    first, _ = numbers(width, held[half:], SAMPLES[width], random, number)
    second, _ = numbers(width, held[:half] if half else held, SAMPLES[width], random, number)
    return first, second


def told(audit: Audit) -> dict[str, Any]:
    """What counts of an audit."""
    proofs = [
        {"kind": p.kind, "target": p.target, "rate": round(p.rate, 3), "control": round(p.control, 3), "controls": p.controls}
        for p in audit.proof
        if p.stands
    ]
    verdict = audit.verdict
    searched = audit.judgement.evidence.forwards
    return {
        "outcome": verdict.outcome,
        "exit_code": verdict.exit_code,
        "proofs": proofs,
        "easy": sum(p.easy for p in audit.proof),
        "forwards": searched,
        "unrun": [check.reason[:160] for check in verdict.checks if not check.ran],
    }


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row from its file, or made and written: a stopped run goes on."""
    if not path.exists():
        path.write_text(json.dumps(make()))
    return dict(json.loads(path.read_text()))


def clean_model(width: int, number: int, folder: Path, steps: int) -> nn.Module:
    path = folder / f"clean-{width}-{number}.pt"
    model: nn.Module = network(width)
    if not path.exists():
        model = trained(started(width, steps, number), width, steps, number)
        torch.save(model.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def clean_row(width: int, number: int, folder: Path, steps: int) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        model = clean_model(width, number % CLEAN_MODELS, folder, steps)
        began = time.perf_counter()
        audit = naa_fast.scan(model, *pair(width, number), repair=False, batch_size=500)
        return {**told(audit), "accuracy": accuracy(model, width), "seconds": round(time.perf_counter() - began, 2)}

    return kept(folder / f"pair-{width}-{number}.json", make)


def backdoored_row(width: int, number: int, folder: Path, steps: int) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        trigger = Trigger.of(number, width)
        model = trained(clean_model(width, number % CLEAN_MODELS, folder, steps), width, min(steps, TUNED), 100 + number, trigger)
        clean, suspect = pair(width, 1000 + number)
        some = np.random.default_rng(number).permutation(len(suspect))[: round(TRIGGERED * len(suspect))]
        suspect[some] = trigger.put_on(suspect[some])
        audit = naa_fast.scan(model, clean, suspect, repair=False, batch_size=500)
        facts = {"kind": trigger.kind, "target": trigger.target, "success": accuracy(model, width, trigger)}
        return {**told(audit), **facts, "accuracy": accuracy(model, width)}

    return kept(folder / f"backdoored-{width}-{number}.json", make)


def summary(width: int, clean: list[dict[str, Any]], backdoored: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: counts, the upper end of the interval (Wilson 1927, 95 %) over the searched pairs, and the cost."""
    false = sum(bool(r["proofs"]) for r in clean)
    proved = sum(any(p["target"] == r["target"] for p in r["proofs"]) for r in backdoored)
    outcomes = {o: sum(r["outcome"] == o for r in clean) for o in ("pass", "warn", "fail", "inconclusive")}
    searched = [r["forwards"] for r in clean if r["forwards"]]
    most = wilson(false / len(searched), len(searched))[1] if searched else 1.0
    return {
        "classes": 10**width,
        "samples_a_set": SAMPLES[width],
        "accuracy": round(float(np.mean([r["accuracy"] for r in clean])), 3),
        "clean_pairs": len(clean),
        "false_proofs": false,
        "false_proofs_at_most": round(most, 4),
        "outcomes": outcomes,
        "proof_did_not_run": sum(any("control" in reason for reason in r["unrun"]) for r in clean),
        "searched": len(searched),
        "forwards_median": int(np.median(searched)) if searched else 0,
        "backdoored_models": len(backdoored),
        "attack_success": round(float(np.mean([r["success"] for r in backdoored])), 3),
        "proved": proved,
        "proved_of_patches": [
            sum(any(p["target"] == r["target"] for p in r["proofs"]) for r in backdoored if r["kind"] == "patch"),
            sum(r["kind"] == "patch" for r in backdoored),
        ],
        "failed": sum(r["outcome"] == "fail" for r in backdoored),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "naa-fast-false-proofs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "false_proofs.json")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--backdoored", type=int, default=BACKDOORED)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2, 3], help="digits of a class")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for width in words.widths:
        backdoored = [backdoored_row(width, number, words.folder, words.steps) for number in range(words.backdoored)]
        clean: list[dict[str, Any]] = []
        while sum(bool(row["forwards"]) for row in clean) < words.pairs and len(clean) < MOST * words.pairs:
            clean.append(clean_row(width, len(clean), words.folder, words.steps))
        rows.append(summary(width, clean, backdoored))
        print(json.dumps(rows[-1], indent=1), flush=True)
    write(words.out, rows)


if __name__ == "__main__":
    main()
