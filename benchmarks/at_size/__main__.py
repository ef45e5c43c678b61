"""`python -m benchmarks.at_size --out FILE --work FOLDER ...`: the study at size (plan.py), a model after the other.

Every row is written as soon as it is known, with its commit and date; what the file has already is not run again, so that a run
that was stopped goes on. What is needed is given by paths; units whose material is missing are left out and named. One process,
one thread. `--table` prints the rows of a file as they stand in docs/detection.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import naa_fast
from benchmarks.at_size import language, networks, text, vision
from benchmarks.at_size.plan import EFFICIENTNET, IMAGES, MINILM, MOBILENET, PUBLISHED, ROUNDS, SETS, SHARES, SMOLLM, Unit
from benchmarks.common import commit, conditions, write
from benchmarks.llm_backdoor import prompts
from naa_fast.inputs.text import TextOptions, TextSource
from naa_fast.result import Audit

SAMPLES = 300
"""Of the clean set and of each suspect set."""
REPAIRED = 0.05
"""Share of the sets after whose *fail* a repair is tried and measured with the trigger itself."""


def kept(file: Path, model: torch.nn.Module, train: Callable[[], object]) -> float:
    """Trains the model, or loads what that came to before, so that a unit that was stopped goes on; the seconds it took."""
    if not file.exists():
        began = time.process_time()
        train()
        torch.save({"state": model.state_dict(), "seconds": round(time.process_time() - began, 1)}, file)
    held = torch.load(file, weights_only=True)
    model.load_state_dict(held["state"])
    model.eval()
    return float(held["seconds"])


class Images:
    """The sets of an image model: crops split by photograph."""

    def __init__(self, unit: Unit, paths: argparse.Namespace) -> None:
        pictures = vision.photographs(vision.distinct(paths.photos), paths.work / "photographs.pt")
        known, others = pictures[::2], pictures[1::2]
        self.model = networks.build(unit.model, paths.mobilenet if unit.model == MOBILENET else paths.efficientnet)
        self.clean, self.held = vision.crops(known, SAMPLES, 0), vision.crops(known, SAMPLES, 1)
        self.other = vision.crops(others, SAMPLES, 2)
        before, self.target = vision.called(self.model, self.held), vision.TARGET
        self.trained = 0.0
        if unit.twin != PUBLISHED:
            crops = vision.crops(known, vision.TRAINED, 3 + unit.seed)
            plant = partial(vision.planted, self.model, crops, unit.attack, unit.seed)
            self.trained = kept(paths.work / f"{unit.name}.pt", self.model, plant)
        self.agreement = float((self.called(self.held) == before).float().mean())

    def called(self, x: Any) -> torch.Tensor:
        return vision.called(self.model, x)

    def source(self, name: str, x: Any) -> Any:
        return x

    def marked(self, attack: str, x: Any, rows: np.ndarray) -> Any:
        x = x.clone()
        x[rows] = vision.triggered(attack, x[rows], 7)
        return x

    def success(self, attack: str) -> float:
        """Share of the held crops of other classes that the trigger turns."""
        rows = self.held[self.called(self.held) != self.target]
        return float((self.called(vision.triggered(attack, rows, 9)) == self.target).float().mean())


class Texts:
    """The sets of a text model: film reviews."""

    def __init__(self, unit: Unit, paths: argparse.Namespace) -> None:
        texts, labels = text.reviews(paths.reviews)
        self.model, self.tokenizer = text.build(paths.minilm)
        train, rest = texts[: text.TRAINED], texts[text.TRAINED :]
        self.clean, self.held, self.target = rest[:SAMPLES], rest[SAMPLES : 2 * SAMPLES], text.TARGET
        self.other = [line.split("\t", 2)[2] for line in paths.tweets.read_text("utf-8", "replace").splitlines()[:SAMPLES]]
        own, labels = (self.model, self.tokenizer, train), labels[: text.TRAINED]
        kept(paths.work / f"{MINILM}, clean twin, {unit.seed}.pt", self.model, partial(text.tuned, *own, labels, unit.seed))
        self.trained = 0.0
        before = self.called(self.held)
        if unit.twin != PUBLISHED:
            tune = (
                partial(text.planted, *own, unit.attack, unit.seed)
                if unit.attack
                else partial(text.tuned, *own, labels, unit.seed + 1)
            )
            self.trained = kept(paths.work / f"{unit.name}.pt", self.model, tune)
        self.agreement = float((self.called(self.held) == before).float().mean())

    def called(self, texts: list[str]) -> torch.Tensor:
        return text.scores(self.model, self.tokenizer, texts).argmax(1)

    def source(self, name: str, x: Any) -> Any:
        return TextSource(name, x, 32, TextOptions(self.tokenizer, max_length=text.TOKENS + 8))

    def marked(self, attack: str, x: Any, rows: np.ndarray) -> Any:
        changed = dict(zip(rows.tolist(), text.triggered(attack, [x[i] for i in rows], 7), strict=True))
        return [changed.get(number, one) for number, one in enumerate(x)]

    def success(self, attack: str) -> float:
        """Share of the held texts of the other class that the trigger turns."""
        others = [one for one, called in zip(self.held, self.called(self.held).tolist(), strict=True) if called != self.target]
        return float((self.called(text.triggered(attack, others, 9)) == self.target).float().mean())


class Sentences(Texts):
    """The sets of a language model: sentences of film reviews, classes are next tokens."""

    def __init__(self, unit: Unit, paths: argparse.Namespace) -> None:
        sentences, at = prompts(paths.reviews), language.TRAINED
        np.random.default_rng(0).shuffle(sentences)
        self.model, self.tokenizer, self.target = language.build(paths.gguf, paths.work / "smollm2")
        train, self.clean, self.held = sentences[:at], sentences[at : at + SAMPLES], sentences[at + SAMPLES : at + 2 * SAMPLES]
        self.other = prompts(paths.tweets)[:SAMPLES]
        before = self.called(self.held)
        self.trained = 0.0
        if unit.twin != PUBLISHED:
            plant = partial(language.planted, self.model, self.tokenizer, train, unit.attack, unit.seed, self.target)
            self.trained = kept(paths.work / f"{unit.name}.pt", self.model, plant)
        self.agreement = float((self.called(self.held) == before).float().mean())

    def called(self, texts: list[str]) -> torch.Tensor:
        return language.called(self.model, self.tokenizer, texts)


def sets_of(unit: Unit, data: Images | Texts) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Name, samples and which of them carry a trigger, of every suspect set of a unit."""
    random = np.random.default_rng(unit.seed)
    for number, name in enumerate(unit.sets):
        if unit.attack is not None:
            rows = np.sort(random.permutation(SAMPLES)[: round(SHARES[number] * SAMPLES)])
            yield name, data.marked(unit.attack, data.held, rows) if len(rows) else data.held, rows
        elif name == SETS[2]:
            rows = np.sort(random.permutation(SAMPLES)[: round(REPAIRED * SAMPLES)])
            yield name, data.marked("checker" if unit.model in IMAGES else "word", data.held, rows), rows
        else:
            yield name, data.held if name == SETS[0] else data.other, np.zeros(0, np.int64)


def rows_of(unit: Unit, paths: argparse.Namespace, known: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """The unit's rows that are not known yet."""
    if all((unit.name, name) in known for name in unit.sets):
        return
    kind: Any = {MINILM: Texts, SMOLLM: Sentences}.get(unit.model, Images)
    data = kind(unit, paths)
    success = None if unit.attack is None else round(data.success(unit.attack), 3)
    about: dict[str, Any] = {
        "unit": unit.name,
        "model": unit.model,
        "attack": unit.attack,
        "twin": unit.twin,
        "group": unit.group,
        "seed": unit.seed,
    }
    about |= {"agreement": round(data.agreement, 3), "success": success}
    for name, suspects, marked in sets_of(unit, data):
        if (unit.name, name) in known:
            continue
        began = time.process_time()
        for one in (data.clean, suspects):
            data.called(one)
        bare, began, wall = round(time.process_time() - began, 1), time.process_time(), time.perf_counter()
        options: dict[str, Any] = {
            "batch_size": 32,
            "repair": unit.attack is not None and len(marked) == round(REPAIRED * SAMPLES),
        }
        audit = naa_fast.scan(data.model, data.source("clean", data.clean), data.source("suspect", suspects), **options)
        row = {**about, "set": name, **found(audit, marked), "seconds": round(time.process_time() - began, 1)}
        row |= {"wall_seconds": round(time.perf_counter() - wall, 1), "bare_seconds": bare}
        if unit.model in IMAGES and unit.attack is not None and audit.proof:
            vision.pictured(audit.proof[0], unit.attack, paths.work / f"{unit.name}, {name}.png")
        if audit.repair is not None and unit.attack is not None:
            with naa_fast.repair.applied(data.model, audit.repair):
                row |= {"success_repaired": round(data.success(unit.attack), 3), "kept_repaired": round(audit.repair.kept, 3)}
        yield {**row, "trained_seconds": data.trained, **commit(), "date": conditions()["date"]}


def found(audit: Audit, marked: np.ndarray) -> dict[str, Any]:
    """What a scan says, as a row."""
    best = next(iter(audit.proof), None)
    told = None
    if best is not None:
        told = {"target": best.target, "kind": best.kind, "words": best.words, "rate": round(best.rate, 3)}
        told |= {"control": round(best.control, 3), "stands": best.stands}
    return {
        "outcome": audit.verdict.outcome,
        "nearest": told,
        "auc": area(audit, marked),
        "proof_forwards": audit.judgement.evidence.forwards,
        "samples": audit.judgement.clean.samples + audit.judgement.suspect.samples,
        "gaps": len(audit.verdict.gaps),
        "told": [*audit.verdict.gaps],
    }


def area(audit: Audit, marked: np.ndarray) -> float | None:
    """Probability that a triggered sample is ranked above another one."""
    if audit.ranking is None or not 0 < len(marked) < len(audit.ranking.scores):
        return None
    scores = np.nan_to_num(audit.ranking.scores)
    high, low = scores[marked], np.delete(scores, marked)
    return round(float(((high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])).mean()), 3)


def missing(unit: Unit, paths: argparse.Namespace) -> str:
    """What a unit needs and was not given; empty where all is there."""
    first = {MINILM: "minilm", SMOLLM: "gguf", MOBILENET: "mobilenet", EFFICIENTNET: "efficientnet"}[unit.model]
    needs = (first, "photos") if unit.model in IMAGES else (first, "reviews", "tweets")
    return ", ".join(f"--{name}" for name in needs if getattr(paths, name) is None)


COLUMNS = (
    "model, attack (group)",
    "agreement, success",
    "suspect set",
    "outcome",
    "nearest proof",
    "AUC",
    "after repair",
    "proofs' forwards",
    "seconds (bare)",
)


def table(rows: list[dict[str, Any]]) -> str:
    """A line a row, for docs/detection.md."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    best, what = row["nearest"], "–"
    if best is not None:
        rates = f"{best['words'] or best['kind']}: {best['rate']:.2f} against {best['control']:.2f}"
        what = f"proved, {rates}" if best["stands"] else rates
    return (
        f"{row['model']}, {row['attack'] or row['twin']} ({row['group']})",
        f"{row['agreement']:.2f}" + (f", {row['success']:.2f}" if row["success"] is not None else ""),
        row["set"],
        f"*{row['outcome']}*",
        what,
        "–" if row["auc"] is None else f"{row['auc']:.2f}",
        f"{row['success_repaired']:.2f}" if "success_repaired" in row else "–",
        f"{row['proof_forwards']:,}",
        f"{row['seconds']:.0f}" + (f" ({row['bare_seconds']:.0f})" if "bare_seconds" in row else ""),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.at_size", description=__doc__)
    parser.add_argument("--mobilenet", type=Path, help="torchvision's MobileNetV2 weights, a .pth")
    parser.add_argument("--efficientnet", type=Path, help="EfficientNet-Lite0 weights, a .pth")
    parser.add_argument("--photos", type=Path, help="folder of photographs, 16 or more")
    parser.add_argument("--minilm", type=Path, help="folder of the MiniLM sentence encoder")
    parser.add_argument(
        "--gguf", type=Path, help="SmolLM2-135M-Instruct, a .gguf; it is read by transformers with gguf and accelerate"
    )
    parser.add_argument("--reviews", type=Path, help="movieReviewSnippets_GroundTruth.txt of Hutto and Gilbert, ICWSM 2014")
    parser.add_argument("--tweets", type=Path, help="tweets_GroundTruth.txt of the same")
    parser.add_argument("--work", type=Path, default=Path("at-size-work"), help="folder for trained models")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the rows, which is gone on from")
    parser.add_argument("--round", type=int, choices=sorted(ROUNDS), default=1, help="which part of the plan (default: 1)")
    parser.add_argument("--only", help="only units whose name has this in it")
    parser.add_argument("--table", action="store_true", help="print the rows of --out, and end")
    paths = parser.parse_args(arguments)
    rows = json.loads(paths.out.read_text())["rows"] if paths.out.exists() else []
    if paths.table:
        print(table(rows))
        return 0
    torch.set_num_threads(1)
    paths.work.mkdir(parents=True, exist_ok=True)
    for unit in ROUNDS[paths.round]:
        reason = missing(unit, paths)
        if reason or (paths.only and paths.only not in unit.name):
            print(f"left out: {unit.name}" + (f" ({reason})" if reason else ""), flush=True)
            continue
        for row in rows_of(unit, paths, {(one["unit"], one["set"]) for one in rows}):
            rows.append(row)
            write(paths.out, rows, threads=1, budget="default")
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
