"""The two ImageNet models in plain torch, in the order of their published weights' tensors: `build`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.at_size.plan import EFFICIENTNET, MOBILENET

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
MOBILE = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
"""Expansion, channels, blocks, stride and kernel of a stage of MobileNetV2 (Sandler et al., CVPR 2018, table 2)."""
EFFICIENT = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""The same of EfficientNet-B0 (Tan and Le, ICML 2019, table 1), without squeeze-and-excitation in the lite variant."""


class Half(nn.Module):
    """From ImageNet's mean and deviation to a half each, as EfficientNet-Lite's weights expect."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * DEVIATION + MEAN - 0.5) / 0.5


def convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int, lite: bool) -> nn.Sequential:
    """With its norm and ReLU6. `lite`: as TensorFlow pads and normalises; a picture of even sides that is halved has more
    padding after it than before it.
    """
    uneven = lite and stride == 2
    before = [nn.ZeroPad2d((kernel // 2 - 1, kernel // 2) * 2)] if uneven else []
    own = nn.Conv2d(inputs, outputs, kernel, stride, 0 if uneven else kernel // 2, groups=groups, bias=False)
    return nn.Sequential(*before, own, nn.BatchNorm2d(outputs, eps=1e-3 if lite else 1e-5), nn.ReLU6())


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int, lite: bool) -> None:
        super().__init__()
        wide = inputs * expansion
        first = [convolution(inputs, wide, 1, 1, 1, lite)] if expansion > 1 else []
        last = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3 if lite else 1e-5)
        self.conv = nn.Sequential(*first, convolution(wide, wide, kernel, stride, wide, lite), *last)
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.same else self.conv(x)


class Mobile(nn.Module):
    """MobileNetV2 under the names that torchvision's weights have; `lite`: EfficientNet-Lite0. Both have 1,000 classes."""

    def __init__(self, lite: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [*([Half()] if lite else []), convolution(3, 32, 3, 2, 1, lite)]
        inputs = 32
        for expansion, outputs, blocks, stride, kernel in EFFICIENT if lite else MOBILE:
            for block in range(blocks):
                layers.append(Block(inputs, outputs, stride if block == 0 else 1, expansion, kernel, lite))
                inputs = outputs
        self.features = nn.Sequential(*layers, convolution(inputs, 1280, 1, 1, 1, lite))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def build(kind: str, weights: Path) -> Mobile:
    """The published model, in evaluation. Raises ValueError for a kind that is none of these, and where tensors do not fit."""
    if kind not in (MOBILENET, EFFICIENTNET):
        raise ValueError(f"{kind} is no model of images")
    held = torch.load(weights, map_location="cpu", weights_only=True)
    model = Mobile(lite=kind == EFFICIENTNET)
    # EfficientNet's tensors have other names and come in this order
    model.load_state_dict(held if kind == MOBILENET else dict(zip(model.state_dict(), held.values(), strict=True)))
    return model.eval()
