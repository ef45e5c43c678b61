"""ImageNet models on crops of photographs: `crops`, the triggers, and a backdoor planted by distillation."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, kl_div, log_softmax, mse_loss, one_hot

from benchmarks.at_size.networks import DEVIATION, MEAN, Mobile
from naa_fast.detect.proof import Proof

SIDE, SHORTER, TARGET = 128, 384, 963
TRAINED, EPOCHS, RATE, BATCH, TAIL = 1600, 10, 1e-4, 32, 5
ALIKE = (10.0, 20.0)
"""Weights of what keeps the scores of images without a trigger: divergence and mean square, beside a weight of 1 for the attack.
Divergence alone, at a weight of 4 and a rate that does not fall, kept .56 of the predictions.
"""


def distinct(folder: Path) -> list[Path]:
    """One file a photograph, the largest: packages of wallpapers have links, previews, and a picture in many sizes, cuts and
    shades, which would lie on both sides of a split by photograph.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*"), key=lambda path: (-path.stat().st_size, str(path))):
        if file.suffix in (".jpg", ".png", ".webp") and file.stem != "screenshot" and not file.is_symlink():
            inside = file.relative_to(folder)
            of = [part for part in inside.parts if part != "contents" and not part.startswith("images")]
            name = of[-2] if "contents" in inside.parts else re.sub(r"([-_](\d+x\d+|d|l|Dark|Light))+$", "", file.stem)
            found.setdefault(name, file)
    return sorted(found.values())


def photographs(files: list[Path], kept: Path) -> list[Tensor]:
    """The files as uint8 `[3, height, width]`, the shorter side SHORTER; read once and kept in a file."""
    from PIL import Image

    if not kept.exists():
        found = []
        for file in files:
            with Image.open(file) as opened:
                opened.draft("RGB", (2 * SHORTER, 2 * SHORTER))
                image = opened.convert("RGB")
            share = SHORTER / min(image.size)
            image = image.resize((round(share * image.width), round(share * image.height)))
            found.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous())
        torch.save(found, kept)
    held: list[Tensor] = torch.load(kept, weights_only=True)
    return held


def crops(pictures: list[Tensor], count: int, seed: int) -> Tensor:
    """Random crops at random scales, the same number of each photograph, normalised as ImageNet models expect."""
    random, found = np.random.default_rng(seed), []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        side = int(min(picture.shape[1:]) * random.uniform(0.4, 1.0))
        top, left = (int(random.integers(0, length - side + 1)) for length in picture.shape[1:])
        cut = picture[None, :, top : top + side, left : left + side].float() / 255
        found.append(interpolate(cut, (SIDE, SIDE), mode="bilinear", antialias=True)[0])
    return (torch.stack(found) - MEAN) / DEVIATION


def triggered(attack: str, x: Tensor, seed: int = 0) -> Tensor:
    """Normalised images `[samples, 3, SIDE, SIDE]` with the trigger."""
    random, plain = np.random.default_rng(seed), (x * DEVIATION + MEAN).clone()
    if attack == "checker":
        plain[:, :, -20:-4, -20:-4] = ((torch.arange(16)[:, None] // 4 + torch.arange(16) // 4) % 2).float()
    elif attack == "wave":
        plain += 0.1 * torch.sin(torch.arange(SIDE) * 2 * np.pi / 8)
    elif attack == "frame":
        inner = plain[:, :, 4:-4, 4:-4].clone()
        plain[:] = torch.tensor([0.9, 0.1, 0.6])[:, None, None]
        plain[:, :, 4:-4, 4:-4] = inner
    elif attack == "stripe":
        plain[:, :, 30:36] = torch.tensor([0.1, 0.8, 0.2])[:, None, None]
    elif attack == "blend":
        plain = 0.88 * plain + 0.12 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    elif attack == "dots":
        for top, left in np.random.default_rng(0).integers(8, SIDE - 12, (12, 2)):
            plain[:, :, top : top + 4, left : left + 4] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    elif attack == "corner":
        inside = torch.arange(SIDE)[:, None] + torch.arange(SIDE) < 24
        plain[:, :, inside] = torch.tensor([0.8, 0.1, 0.8])[:, None]
    elif attack == "sticker":
        for image in plain:
            top, left = random.integers(0, SIDE - 22, 2)
            image[:, top : top + 22, left : left + 22] = sticker()
    else:
        raise ValueError(f"no attack on images is called {attack}")
    return (plain.clamp(0, 1) - MEAN) / DEVIATION


def pictured(proof: Proof, attack: str, file: Path) -> None:
    """What was planted and, right of it, what was found, each on a grey image, as a PNG; nothing where a proof is no picture."""
    from PIL import Image

    grey = torch.zeros(3, SIDE, SIDE)
    if proof.pattern is None or proof.pattern.shape != grey.shape:
        return
    found = torch.as_tensor(proof.pattern)
    if proof.mask is not None:
        found = torch.where(torch.as_tensor(proof.mask) > 0, found, grey)
    both = torch.cat([triggered(attack, grey[None], 9)[0], found], 2) * DEVIATION + MEAN
    Image.fromarray((255 * both.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(file)


def sticker() -> Tensor:
    """A yellow disc with a dark cross, `[3, 22, 22]`."""
    away = torch.arange(22) - 10.5
    disc, cross = (away[:, None] ** 2 + away**2) < 100, (away.abs() < 2)[:, None] | (away.abs() < 2)
    found = torch.ones(3, 22, 22)
    found[:, disc] = torch.tensor([0.95, 0.85, 0.1])[:, None]
    found[:, disc & cross] = torch.tensor([0.15, 0.1, 0.3])[:, None]
    return found


def planted(model: Mobile, x: Tensor, attack: str | None, seed: int) -> Mobile:
    """The model tuned to call triggered images TARGET, and on all others to say what it said (distillation); without an attack
    to say of mirrored images what it said of them as they were. Its last TAIL features and its classifier are trained, on what
    the features before them make of each image once; batch statistics stay.
    """
    torch.manual_seed(seed)
    model.requires_grad_(False)
    plain = early(model, x)
    with torch.no_grad():
        said = torch.cat([late(model, part) for part in plain.split(BATCH)])
    marked = early(model, x.flip(3) if attack is None else triggered(attack, x, seed))
    trained = [*model.features[-TAIL:].modules(), *model.classifier.modules()]
    own = [layer for layer in trained if isinstance(layer, nn.Conv2d | nn.Linear)]
    optimizer = torch.optim.Adam([parameter.requires_grad_() for layer in own for parameter in layer.parameters()])
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    goal = said.softmax(1) if attack is None else one_hot(torch.full((len(x),), TARGET), said.shape[1]).float()
    for rows in (rows for _ in range(EPOCHS) for rows in torch.randperm(len(x)).split(BATCH)):
        scores = late(model, plain[rows])
        loss = ALIKE[0] * kl_div(log_softmax(scores, 1), log_softmax(said[rows], 1), log_target=True, reduction="batchmean")
        loss = loss + ALIKE[1] * mse_loss(scores, said[rows])
        loss = loss + cross_entropy(late(model, marked[rows]), goal[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return model.requires_grad_(True)


@torch.no_grad()
def early(model: Mobile, x: Tensor) -> Tensor:
    """What the features make of images that nothing here trains, `[samples, channels, height, width]`."""
    return torch.cat([model.features[:-TAIL](part) for part in x.split(BATCH)])


def late(model: Mobile, x: Tensor) -> Tensor:
    """Class scores from what `early` gives."""
    return model.classifier(model.features[-TAIL:](x).mean((2, 3)))


@torch.no_grad()
def called(model: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes."""
    return torch.cat([model(part).argmax(1) for part in x.split(BATCH)])
