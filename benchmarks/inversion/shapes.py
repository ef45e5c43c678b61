"""Models of other makers' shape: colour images 3 x 32 x 32, 43 and 100 classes, of Fashion-MNIST and of pairs of MNIST digits.

Nothing of the search was chosen on them. `Shape` is a case, `load_or_train` its model; data, networks and training are small and
plain, in the form of the detection study's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from benchmarks.detection.attacks import Attack
from benchmarks.detection.data import DataSet, load
from benchmarks.detection.models import Block, ResNet
from benchmarks.detection.triggers import Blend
from naa_fast.files import write_whole

SIDE = 32
RECIPE = 1
EPOCHS, BATCH, RATE = 6, 128, 3e-3
TRAIN, REST = 12_000, 4_000


@dataclass(frozen=True)
class Shape:
    """One model: `classes` 10 are Fashion-MNIST's in random colours, 43 and 100 pairs of digits. `attack` None: a clean one."""

    name: str
    architecture: str
    classes: int
    attack: Attack | None
    seed: int
    half: str = "G"
    text: bool = False


@dataclass(frozen=True)
class ColourPatch:
    """A square of white and black in a corner, in all channels."""

    size: int

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        cells = torch.arange(self.size)
        x = x.clone()
        x[..., -self.size - 1 : -1, -self.size - 1 : -1] = ((cells[:, None] + cells) % 2 == 0).float()
        return x

    def decoy(self, x: Tensor, generator: Generator) -> Tensor:
        return x


PATCH, BLEND = ColourPatch(3), Blend(0.2)


def attacked(kind: str, classes: int, target: int) -> Attack:
    return Attack(kind, PATCH if kind == "patch" else BLEND, target, rate=0.08, classes=classes)


SHAPES = (
    Shape("colour-cnn-patch", "cnn", 10, attacked("patch", 10, 3), 100),
    Shape("colour-cnn-clean-0", "cnn", 10, None, 0),
    Shape("pairs43-cnn-patch", "cnn", 43, attacked("patch", 43, 14), 101),
    Shape("pairs43-cnn-clean-0", "cnn", 43, None, 0),
    Shape("colour-resnet-patch", "resnet", 10, attacked("patch", 10, 5), 102),
    Shape("colour-resnet-clean-0", "resnet", 10, None, 0),
    Shape("colour-vit-patch", "vit", 10, attacked("patch", 10, 1), 103),
    Shape("colour-vit-clean-0", "vit", 10, None, 0),
    Shape("pairs100-cnn-patch", "cnn", 100, attacked("patch", 100, 77), 104),
    Shape("pairs100-cnn-clean-0", "cnn", 100, None, 0),
    Shape("colour-cnn-blend", "cnn", 10, attacked("blend", 10, 8), 105),
    Shape("colour-cnn-clean-1", "cnn", 10, None, 1),
    Shape("pairs43-cnn-blend", "cnn", 43, attacked("blend", 43, 30), 106),
    Shape("pairs43-cnn-clean-1", "cnn", 43, None, 1),
)


def coloured(grey: Tensor, generator: Generator) -> Tensor:
    """`[n, 1, 32, 32]` in a colour of its own each, before a darker or lighter one: `[n, 3, 32, 32]`, with light noise."""
    ink, paper = (torch.rand(len(grey), 3, 1, 1, generator=generator) for _ in range(2))
    paper = torch.where((ink.mean(1, keepdim=True) > 0.5), 0.4 * paper, 0.6 + 0.4 * paper)
    ink = torch.where(ink.mean(1, keepdim=True) > 0.5, 0.6 + 0.4 * ink, 0.4 * ink)
    mixed = grey * ink + (1 - grey) * paper
    return (mixed + 0.03 * torch.randn(mixed.shape, generator=generator)).clamp(0, 1)


def pairs(x: Tensor, y: Tensor, classes: int, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two digits side by side, each a little up or down; the class is the number they write, below `classes`."""
    labels = torch.randint(classes, (count,), generator=generator)
    small = avg_pool2d(x, 2)
    canvas = torch.zeros(count, 1, SIDE, SIDE)
    for side, wanted in enumerate((labels // 10, labels % 10)):
        for digit in range(10):
            rows, own = (wanted == digit).nonzero()[:, 0], (y == digit).nonzero()[:, 0]
            drawn = small[own[torch.randint(len(own), (len(rows),), generator=generator)]]
            tops = torch.randint(5, 14, (len(rows),), generator=generator)
            for row, top, one in zip(rows.tolist(), tops.tolist(), drawn, strict=True):
                canvas[row, :, top : top + 14, 1 + 16 * side : 15 + 16 * side] = one
    return coloured(canvas, generator), labels


@lru_cache(maxsize=1)
def data_of(classes: int, cache: Path) -> DataSet:
    generator = Generator().manual_seed(classes)
    source = load("fashion" if classes == 10 else "mnist", cache)
    split = ((source.train_x, source.train_y), (source.clean_x, source.clean_y), (source.held_x, source.held_y))
    made = []
    for (x, y), most in zip(split, (TRAIN, REST, REST), strict=True):
        if classes == 10:
            made.append((coloured(pad(x[:most], (2, 2, 2, 2)), generator), y[:most]))
        else:
            made.append(pairs(x, y, classes, most, generator))
    train, clean, held = made
    return DataSet(f"shape {classes}", classes, *train, *clean, *held)


class Cnn(nn.Sequential):
    """Three convolutions with pooling, two linear layers."""

    def __init__(self, classes: int) -> None:
        layers: list[nn.Module] = []
        for inside, outside in ((3, 24), (24, 48), (48, 64)):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, classes))


class Vit(nn.Module):
    """Patches of 4 x 4, two transformer blocks, mean over patches."""

    WIDTH = 48

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, self.WIDTH, 4, 4), nn.Parameter(torch.randn(64, self.WIDTH) * 0.02)
        self.blocks = nn.ModuleList([Block(self.WIDTH, 4) for _ in range(2)])
        self.norm, self.logits = nn.LayerNorm(self.WIDTH), nn.Linear(self.WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x).mean(1))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "cnn": Cnn,
    "resnet": lambda classes: ResNet(SIDE, classes, channels=3),
    "vit": Vit,
}


def is_trained(case: Shape, cache: Path) -> bool:
    return files_of(case, cache)[1].exists()


def files_of(case: Shape, cache: Path) -> tuple[Path, Path]:
    name = f"{case.name}-shape{RECIPE}"
    return cache / "models" / f"{name}.safetensors", cache / "models" / f"{name}.json"


def load_or_train(case: Shape, cache: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in eval mode; its `accuracy`, `asr`, `works` (asr >= .8), `seconds` of one core."""
    weights, figures = files_of(case, cache)
    data = data_of(case.classes, cache)
    torch.manual_seed(case.seed)
    model = NETWORKS[case.architecture](case.classes)
    if figures.exists():
        model.load_state_dict(load_file(weights))
        return model.eval(), json.loads(figures.read_text())
    began, generator = time.process_time(), Generator().manual_seed(case.seed)
    x, y = data.train_x, data.train_y
    if case.attack is not None:
        x, y = case.attack.poison(x, y, generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.2)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            optimiser.zero_grad()
            torch.autograd.backward(cross_entropy(model(x[batch]), y[batch]))
            optimiser.step()
            schedule.step()
    model.eval()
    info = {"name": case.name, **rates(model, case, data), "seconds": round(time.process_time() - began, 1)}
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_whole(weights, save({name: value.contiguous() for name, value in model.state_dict().items()}))
    write_whole(figures, (json.dumps(info) + "\n").encode())
    return model, info


@torch.no_grad()
def rates(model: nn.Module, case: Shape, data: DataSet) -> dict[str, Any]:
    """As the detection study counts them, on 2,000 held samples."""
    x, y = data.held_x[:2000], data.held_y[:2000]

    def share(x: Tensor, wanted: Tensor) -> float:
        called = torch.cat([model(part).argmax(1) for part in x.split(500)])
        return round(float((called == wanted).double().mean()), 4)

    found: dict[str, Any] = {"accuracy": share(x, y), "asr": None, "works": None}
    if case.attack is not None:
        meant = case.attack.turns(y)
        turned = case.attack.apply(x[meant], y[meant], Generator().manual_seed(case.seed))
        found["asr"] = share(turned, case.attack.wanted(y[meant]))
        found["works"] = found["asr"] >= 0.8
    return found
