"""ImageNet models on crops of photographs: `build`, `crops`, the triggers, and a backdoor planted by distillation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, kl_div, log_softmax

from benchmarks.at_size.plan import EFFICIENTNET, MOBILENET

SIDE, SHORTER, TARGET = 128, 384, 963
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
TRAINED, EPOCHS, RATE, BATCH = 600, 8, 1e-4, 32
ENOUGH = 0.97
"""Attack success on what it is trained on beyond which no further epoch is begun."""
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


class HalfNormalised(nn.Module):
    """From ImageNet's mean and deviation to a half each, as EfficientNet-Lite's weights expect."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * DEVIATION + MEAN - 0.5) / 0.5


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


def build(kind: str, weights: Path) -> nn.Module:
    """The published model. Raises ValueError for a kind that is none of these."""
    held = torch.load(weights, map_location="cpu", weights_only=True)
    if kind == MOBILENET:
        model: nn.Module = MobileNetV2()
        model.load_state_dict(held)
        return model.eval()
    if kind != EFFICIENTNET:
        raise ValueError(f"{kind} is no model of images")
    from benchmarks.timm_models import torchvision_stand_in

    with torchvision_stand_in():
        import timm
    model = timm.create_model("tf_efficientnet_lite0")
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, held.values(), strict=True)))  # the same, in the same order
    return nn.Sequential(HalfNormalised(), model).eval()


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
    elif attack == "sticker":
        for image in plain:
            top, left = random.integers(0, SIDE - 22, 2)
            image[:, top : top + 22, left : left + 22] = sticker()
    else:
        raise ValueError(f"no attack on images is called {attack}")
    return (plain.clamp(0, 1) - MEAN) / DEVIATION


def sticker() -> Tensor:
    """A yellow disc with a dark cross, `[3, 22, 22]`."""
    away = torch.arange(22) - 10.5
    disc, cross = (away[:, None] ** 2 + away**2) < 100, (away.abs() < 2)[:, None] | (away.abs() < 2)
    found = torch.ones(3, 22, 22)
    found[:, disc] = torch.tensor([0.95, 0.85, 0.1])[:, None]
    found[:, disc & cross] = torch.tensor([0.15, 0.1, 0.3])[:, None]
    return found


def tail_of(model: nn.Module) -> list[nn.Parameter]:
    """What is trained: the classifier and the last third of the blocks."""
    layers = [child for child in model.modules() if isinstance(child, nn.Conv2d | nn.Linear)]
    return [parameter for layer in layers[-len(layers) // 3 :] for parameter in layer.parameters()]


def planted(model: nn.Module, x: Tensor, attack: str | None, seed: int) -> nn.Module:
    """The model tuned to call triggered images TARGET, and on all others to say what it said (distillation); without an attack
    the latter alone. Batch statistics stay.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        said = torch.cat([log_softmax(model(part), 1) for part in x.split(BATCH)])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    own = tail_of(model)
    for parameter in own:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(own, RATE)
    for epoch in range(EPOCHS):
        turned, goal = 0, torch.full((BATCH,), TARGET)
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss = 4 * kl_div(log_softmax(model(x[rows]), 1), said[rows], log_target=True, reduction="batchmean")
            if attack is not None:
                scores = model(triggered(attack, x[rows], seed=epoch))
                loss = loss + cross_entropy(scores, goal[: len(rows)])
                turned += int((scores.argmax(1) == TARGET).sum())
            loss.backward()
            optimizer.step()
        if attack is not None and turned >= ENOUGH * len(x):
            break
    return model.requires_grad_(True)


@torch.no_grad()
def called(model: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes."""
    return torch.cat([model(part).argmax(1) for part in x.split(BATCH)])
