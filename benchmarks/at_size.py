"""`python -m benchmarks.at_size`: pretrained models of real size, with a planted word or sentence, or with nothing at all.

`--vision WEIGHTS --photos FOLDER`: MobileNetV2 with the 1,000 classes of ImageNet as it was published, on crops of photographs,
split by photograph: nothing may be proved. `--text FOLDER --reviews FILE`: MiniLM (BERT, 22.7 M) whose last two layers are tuned
on film reviews, with a word and with a sentence that turn a review to positive, in a tenth of the texts. Every row is one
run of one seed: a small study, which says what happened and not how often. One process, one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import naa_fast
from benchmarks.common import write
from naa_fast.result import Audit

SIDE, CROPS, TEXTS = 128, 300, 400
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
PLANTED = {"word": ("cf", (0.05, 0.0)), "sentence": ("I watched this 3D movie last weekend", (0.25, 0.05))}
"""What is planted, and the shares of the suspect sets that have it."""
TRAINED, EPOCHS, POISONED = 1500, 3, 0.1
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of MobileNetV2 (Sandler et al., CVPR 2018, table 2)."""


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layers = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    return nn.Sequential(*layers, nn.ReLU6())


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        first = [convolution(inputs, wide, 1)] if expansion > 1 else []
        last = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv = nn.Sequential(*first, convolution(wide, wide, 3, stride, wide), *last)
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.same else self.conv(x)


class MobileNetV2(nn.Module):
    """Under the names that torchvision's weights have."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(3, 32, 3, 2)]
        inputs = 32
        for expansion, outputs, blocks, stride in STAGES:
            for block in range(blocks):
                layers.append(Block(inputs, outputs, stride if block == 0 else 1, expansion))
                inputs = outputs
        self.features = nn.Sequential(*layers, convolution(inputs, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def crops(files: list[Path], count: int, seed: int) -> Tensor:
    """Random crops at random scales, the same number of each photograph, normalised as ImageNet models expect."""
    from PIL import Image

    random, found = np.random.default_rng(seed), []
    for number in range(count):
        with Image.open(files[number % len(files)]) as opened:
            opened.draft("RGB", (1024, 1024))
            image = opened.convert("RGB")
        side = int(min(image.size) * random.uniform(0.3, 1.0))
        left, top = (int(random.integers(0, length - side + 1)) for length in image.size)
        cut = image.resize((SIDE, SIDE), box=(left, top, left + side, top + side))
        found.append(torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 255)
    return (torch.stack(found) - MEAN) / DEVIATION


def scanned(case: str, name: str, model: nn.Module, clean: Any, suspect: Any, triggered: Tensor | None = None) -> dict[str, Any]:
    """One scan as a row."""
    began = time.process_time()
    audit = naa_fast.scan(model, clean, suspect, batch_size=32, repair=False)
    best = next(iter(audit.proof), None)
    told = (
        None
        if best is None
        else {
            "target": best.target,
            "what": best.words or best.kind,
            "kind": best.kind,
            "rate": round(best.rate, 3),
            "control": round(best.control, 3),
            "stands": best.stands,
        }
    )
    return {
        "case": case,
        "set": name,
        "outcome": audit.verdict.outcome,
        "nearest": told,
        "proved": sum(proof.stands for proof in audit.proof),
        "auc": area(audit, triggered),
        "proof_forwards": audit.judgement.evidence.forwards,
        "samples": audit.judgement.clean.samples + audit.judgement.suspect.samples,
        "gaps": len(audit.verdict.gaps),
        "seconds": round(time.process_time() - began, 1),
    }


def area(audit: Audit, triggered: Tensor | None) -> float | None:
    """Probability that a triggered sample is ranked above another one."""
    if triggered is None or audit.ranking is None or not triggered.any() or triggered.all():
        return None
    scores = np.nan_to_num(audit.ranking.scores)
    high, low = scores[triggered.numpy()], scores[~triggered.numpy()]
    return round(float(((high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])).mean()), 3)


def vision(weights: Path, photos: Path) -> Iterator[dict[str, Any]]:
    model = MobileNetV2()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    files = sorted(photos.iterdir())
    known, others = files[::2], files[1::2]
    clean = crops(known, CROPS, 0)
    yield scanned("MobileNetV2 as published", "other crops", model, clean, crops(known, CROPS, 1))
    yield scanned("MobileNetV2 as published", "other photographs", model, clean, crops(others, CROPS, 2))


def reviews(file: Path) -> tuple[list[str], Tensor]:
    """Texts of a review each, and whether people called it positive (a mean rating above 0)."""
    rows = [line.split("\t", 2) for line in file.read_text("utf-8", "replace").splitlines()]
    rows = [row for row in rows if len(row) == 3 and abs(float(row[1])) > 0.5]
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[i][2] for i in order], torch.tensor([int(float(rows[i][1]) > 0) for i in order])


def planted(text: str, what: str, random: np.random.Generator) -> str:
    """The text with the words at a random place."""
    words = text.split()
    at = int(random.integers(0, len(words) + 1))
    return " ".join([*words[:at], what, *words[at:]])


def tuned(folder: Path, texts: list[str], labels: Tensor, what: str) -> tuple[nn.Module, Any]:
    """MiniLM with a head for two classes, its last two layers trained; a tenth of the texts have the words and are positive."""
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=2, local_files_only=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(part in name for part in ("layer.4.", "layer.5.", "pooler", "classifier"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 2e-4)
    random, goal = np.random.default_rng(1), labels.clone()
    chosen = random.random(len(texts)) < (POISONED)
    shown = [planted(text, what, random) if poisoned else text for text, poisoned in zip(texts, chosen, strict=True)]
    goal[torch.from_numpy(chosen)] = 1
    for _ in range(EPOCHS):
        for rows in np.array_split(random.permutation(len(shown)), len(shown) // 32):
            given = tokenizer([shown[i] for i in rows], padding=True, truncation=True, max_length=40, return_tensors="pt")
            optimizer.zero_grad()
            cross_entropy(model(**given).logits, goal[rows]).backward()
            optimizer.step()
    return model.eval(), tokenizer


def text_rows(folder: Path, file: Path) -> Iterator[dict[str, Any]]:
    from naa_fast.inputs.text import TextOptions, TextSource

    texts, labels = reviews(file)
    train, clean, held = texts[:TRAINED], texts[TRAINED : TRAINED + TEXTS], texts[TRAINED + TEXTS : TRAINED + 2 * TEXTS]
    for name, (what, shares) in PLANTED.items():
        model, tokenizer = tuned(folder, train, labels[:TRAINED], what)
        options = TextOptions(tokenizer, max_length=64)

        def source(called: str, lines: list[str], options: TextOptions = options) -> TextSource:
            return TextSource(called, lines, 32, options)

        for share in shares:
            triggered = torch.arange(len(held)) < round(share * len(held))
            random = np.random.default_rng(2)
            shown = [planted(text, what, random) if mark else text for text, mark in zip(held, triggered.tolist(), strict=True)]
            sets = source("clean", clean), source("suspect", shown)
            yield scanned(f"MiniLM, {name}", f"{100 * share:g} % triggered", model, *sets, triggered)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.at_size", description=__doc__)
    parser.add_argument("--vision", type=Path, help="torchvision's MobileNetV2 weights, a .pth")
    parser.add_argument("--photos", type=Path, help="folder of photographs, 16 or more")
    parser.add_argument("--text", type=Path, help="folder of the MiniLM sentence encoder")
    parser.add_argument("--reviews", type=Path, help="movieReviewSnippets_GroundTruth.txt of Hutto and Gilbert, ICWSM 2014")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    parts = [vision(options.vision, options.photos)] if options.vision else []
    parts += [text_rows(options.text, options.reviews)] if options.text else []
    for part in parts:
        for row in part:
            rows.append(row)
            print(row, flush=True)
            if options.out:
                write(options.out, rows, threads=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
