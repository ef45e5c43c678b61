"""Six small architectures, in plain modules: `build(architecture, shape, classes)`.

Images come as float32 `[n, channels, height, width]`, texts as int64 token ids `[n, tokens]` with 0 as padding. Activations are
modules, not functions, so that a scan's default selection finds them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.detection.data import PADDING, TOKENS, VOCABULARY


class Cnn(nn.Module):
    """Two convolutions with pooling, two linear layers."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()
        self.conv2, self.act2 = nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.hidden, self.act3 = nn.Linear(32 * (size // 4) ** 2, 64), nn.ReLU()
        self.logits = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act1(self.conv1(x)))
        x = self.pool(self.act2(self.conv2(x)))
        return self.logits(self.act3(self.hidden(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1, self.act1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
        self.conv2, self.norm2, self.act2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
        same = stride == 1 and channels == out
        self.skip = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.act2(self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x))))) + self.skip(x))


class ResNet(nn.Module):
    """A stem and three residual blocks with batch normalisation, global mean, one linear layer."""

    def __init__(self, size: int, classes: int, channels: int = 1) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(channels, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        self.blocks = nn.Sequential(Residual(16, 24, 1), Residual(24, 40, 2), Residual(40, 64, 2))
        self.logits = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.blocks(self.act(self.norm(self.stem(x)))).mean((2, 3)))


class Block(nn.Module):
    """A transformer block, normalisation first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.act, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """`visible`: bool `[n, 1, 1, tokens]`, False on padding."""
        n, tokens, width = x.shape
        query, key, value = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, visible)
        x = x + self.out(seen.transpose(1, 2).reshape(n, tokens, width))
        return x + self.down(self.act(self.up(self.norm2(x))))


class Vit(nn.Module):
    """Patches of a seventh of the image's side (a quarter for small images), two transformer blocks, mean over patches."""

    WIDTH = 48

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        side = 7 if size >= 28 else 4
        self.patches = nn.Conv2d(1, self.WIDTH, size // side, size // side)
        self.places = nn.Parameter(torch.randn(side * side, self.WIDTH) * 0.02)
        self.blocks = nn.ModuleList([Block(self.WIDTH, 4) for _ in range(2)])
        self.norm, self.logits = nn.LayerNorm(self.WIDTH), nn.Linear(self.WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x).mean(1))


class Mlp(nn.Module):
    """Three linear layers on the flat image."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.hidden1, self.act1 = nn.Linear(size * size, 256), nn.ReLU()
        self.hidden2, self.act2 = nn.Linear(256, 128), nn.ReLU()
        self.logits = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.act2(self.hidden2(self.act1(self.hidden1(x.flatten(1))))))


class TextTransformer(nn.Module):
    """Learned places, two blocks, mean over the words that are there."""

    WIDTH = 40

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(size, self.WIDTH, padding_idx=PADDING)
        self.places = nn.Parameter(torch.randn(TOKENS, self.WIDTH) * 0.02)
        self.drop = nn.Dropout(0.3)
        self.blocks = nn.ModuleList([Block(self.WIDTH, 4) for _ in range(2)])
        self.norm, self.logits = nn.LayerNorm(self.WIDTH), nn.Linear(self.WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        there = x != PADDING
        there[:, 0] = True  # an empty text still has one place to look at, or its attention is NaN
        found = self.drop(self.words(x) + self.places[: x.shape[1]])
        for block in self.blocks:
            found = block(found, there[:, None, None])
        weight = there[..., None].to(found.dtype)
        return self.logits((self.norm(found) * weight).sum(1) / weight.sum(1))


class TextCnn(nn.Module):
    """Kim's convolutional classifier (arXiv:1408.5882) with windows of one, two and three words, maximum over places."""

    WIDTH = 40

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(size, self.WIDTH, padding_idx=PADDING)
        self.windows = nn.ModuleList([nn.Conv1d(self.WIDTH, 32, k, padding=k // 2) for k in (1, 2, 3)])
        self.act = nn.ReLU()
        self.blind, self.drop = nn.Dropout1d(0.3), nn.Dropout(0.5)
        self.hidden, self.act2 = nn.Linear(96, 64), nn.ReLU()
        self.logits = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        found = self.blind(self.words(x)).transpose(1, 2)
        pooled = torch.cat([self.act(window(found)).amax(2) for window in self.windows], 1)
        return self.logits(self.act2(self.hidden(self.drop(pooled))))


ARCHITECTURES: dict[str, type[nn.Module]] = {
    "cnn": Cnn,
    "resnet": ResNet,
    "vit": Vit,
    "mlp": Mlp,
    "text-transformer": TextTransformer,
    "text-cnn": TextCnn,
}


def build(architecture: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A fresh network for samples of `shape` (without the batch axis), the same for the same seed."""
    torch.manual_seed(seed)
    size = shape[-1] if len(shape) == 3 else VOCABULARY
    return ARCHITECTURES[architecture](size, classes)
