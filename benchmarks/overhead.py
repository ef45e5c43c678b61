"""Forwards with and without hooks, in turns: `overhead_rows`; and the models they are run on.

Four forwards on four copies of a model that share its weights: alone, with our hooks (every statistic), with naive hooks (mean
and variance copied to the host, layer by layer) and with sums kept on the device (mean and variance only). Our means and
variances are checked against float64 before anything is timed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common import interleaved, paired, row
from naa_fast.accumulate import Accumulator, Predictions
from naa_fast.capture import Capture, ClassScores, select
from naa_fast.capture.views import layout_of
from naa_fast.records import LayerRecord


class WrongAnswer(Exception):
    """A case that would have been timed computes something else than it should."""


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or the 1x1, 3x3, 1x1 of ResNet-50."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        kernels = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        plain = [(inputs, width, 3, stride), (width, width, 3, 1)]
        parts: list[nn.Module] = []
        for before, after, size, step in kernels if bottleneck else plain:
            parts += [nn.Conv2d(before, after, size, step, size // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*parts[:-1])
        same = inputs == outputs and stride == 1
        short = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if same else nn.Sequential(*short)
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet(depths: tuple[int, ...], bottleneck: bool, width: int = 64, classes: int = 1000) -> nn.Sequential:
    """ResNet-18 for (2, 2, 2, 2), ResNet-50 for (3, 4, 6, 3) with bottlenecks."""
    parts: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, depth in enumerate(depths):
        for index in range(depth):
            block = Block(channels, width << stage, 2 if stage and not index else 1, bottleneck)
            parts.append(block)
            channels = block.outputs
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class MLP(nn.Module):
    """`act_fn` is named as in transformers; gated as in Llama or plain as in GPT-2."""

    def __init__(self, hidden: int, intermediate: int, gated: bool) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, intermediate, bias=False)
        self.gate = nn.Linear(hidden, intermediate, bias=False) if gated else None
        self.act_fn = nn.SiLU() if gated else nn.GELU()
        self.down = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act_fn(self.up(x)) if self.gate is None else self.act_fn(self.gate(x)) * self.up(x))


class DecoderLayer(nn.Module):
    def __init__(self, hidden: int, intermediate: int, heads: int, gated: bool) -> None:
        super().__init__()
        norm = nn.RMSNorm if gated else nn.LayerNorm
        self.before, self.after = norm(hidden), norm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.mlp = MLP(hidden, intermediate, gated)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens, hidden = x.shape
        q, k, v = self.qkv(self.before(x)).view(samples, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(samples, tokens, hidden))
        return x + self.mlp(self.after(x))


class Decoder(nn.Module):
    """A language model without its head: token ids to hidden states."""

    def __init__(self, layers: int, hidden: int, intermediate: int, heads: int, vocabulary: int, gated: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(DecoderLayer(hidden, intermediate, heads, gated) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return x


def conv_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def decoder_names(model: nn.Module, neurons: bool = True) -> list[str]:
    """The residual stream after each layer and, if wanted, the neurons of each MLP (the wide side of it)."""
    found = []
    for name, _ in model.named_modules():
        parent, _, last = name.rpartition(".")
        is_layer = parent.rpartition(".")[2] == "layers" and last.isdecimal()
        if is_layer or (neurons and name.endswith(".mlp.act_fn")):
            found.append(name)
    return found


def shared_copy(model: nn.Module) -> nn.Module:
    """Another module tree on the same weights, so that variants keep their hooks and no memory is doubled."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def statistics_axes(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    neurons = layout_of(module, x, {}, len(x)).axis
    return tuple(axis for axis in range(x.ndim) if axis != neurons)


class Ours:
    """A turn of the loop of naa_fast/scan/loop.py: Capture, Accumulator, Predictions."""

    def __init__(self, model: nn.Module, names: list[str], stack: ExitStack) -> None:
        self.model = model
        self.accumulator, self.predictions = Accumulator(), Predictions()
        self.capture = stack.enter_context(Capture(model, select(model, names), self.accumulator))
        self.scores = ClassScores()
        self.done = 0

    def __call__(self, x: Tensor) -> None:
        self.accumulator.begin(len(x), self.done)
        self.capture.begin(len(x))
        self.predictions.observe(self.scores.read(self.model(x), len(x)), None)
        self.accumulator.commit()
        self.done += len(x)


def naive_hook(kept: list[Tensor], module: nn.Module, arguments: Any, x: Tensor) -> None:
    """What a first script does: mean and variance of every batch, copied to the host at once."""
    axes = statistics_axes(module, x)
    kept += [x.mean(axes).cpu(), x.var(axes).cpu()]


def sums_hook(state: list[Any], module: nn.Module, arguments: Any, x: Tensor) -> None:
    """The careful second script: torch.var_mean, merged on the device (Chan, Golub and LeVeque 1983)."""
    axes = statistics_axes(module, x)
    variance, mean = (part.double() for part in torch.var_mean(x.float() if x.dtype.itemsize == 2 else x, axes))
    count = x.numel() // mean.numel()
    if not state:
        state += [count, mean, variance * (count - 1)]
        return
    total, delta = state[0] + count, mean - state[1]
    state[2] += variance * (count - 1) + delta * delta * (state[0] * count / total)
    state[1] += delta * (count / total)
    state[0] = total


def hooked(model: nn.Module, names: list[str], hook: Callable[..., None]) -> dict[str, list[Any]]:
    """Attach `hook` to every named module, with a list of its own to keep things in."""
    modules = dict(model.named_modules())
    kept: dict[str, list[Any]] = {name: [] for name in names}
    for name in names:
        modules[name].register_forward_hook(partial(hook, kept[name]))
    return kept


def observed(model: nn.Module, x: Tensor, names: list[str]) -> tuple[int, dict[str, tuple[Any, Any]]]:
    """Bytes the hooked layers give, and float64 mean and variance of the first and last of them."""
    sizes: list[int] = []
    answers: dict[str, tuple[Any, Any]] = {}

    def look(name: str, module: nn.Module, arguments: Any, output: Tensor) -> None:
        sizes.append(output.nbytes)
        if name in (names[0], names[-1]):
            moved = output.movedim(layout_of(module, output, {}, len(output)).axis, 0).flatten(1)
            pairs = [torch.var_mean(part.double(), 1) for part in moved.split(64)]
            variance, mean = (torch.cat(parts).cpu().numpy() for parts in zip(*pairs, strict=True))
            answers[name] = mean, variance

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(partial(look, name)) for name in names]
    model(x)
    for handle in handles:
        handle.remove()
    return sum(sizes), answers


def check(records: dict[str, LayerRecord], answers: dict[str, tuple[Any, Any]]) -> None:
    """Raise WrongAnswer unless means and variances are those of float64, to 1e-5 of the largest deviation."""
    for name, (mean, variance) in answers.items():
        got = records[name].positions
        deviation = np.sqrt(variance.max())
        errors = np.abs(got.mean - mean).max() / deviation, np.abs(got.variance - variance).max() / deviation**2
        if not max(errors) <= 1e-5:
            raise WrongAnswer(f"{name}: mean off by {errors[0]:.2g} deviations, variance by {errors[1]:.2g} of the largest")


def overhead_rows(case: str, model: nn.Module, x: Tensor, names: list[str], rounds: int, warmup: int = 2) -> list[dict[str, Any]]:
    """One row a variant; `overhead` is the median over the rounds of variant / bare forward - 1."""
    wait = torch.cuda.synchronize if x.is_cuda else None
    model.eval()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        nbytes, answers = observed(model, x, names)
        first = Ours(shared_copy(model), names, stack)
        first(x)
        check(first.accumulator.records(), answers)
        ours, naive, sums = (shared_copy(model) for _ in range(3))
        hooked(naive, names, naive_hook)
        hooked(sums, names, sums_hook)
        calls: dict[str, Callable[[Tensor], object]] = {
            "alone": model,
            "ours": Ours(ours, names, stack),
            "naive hooks": naive,
            "sums on device": sums,
        }
        seconds = interleaved({name: partial(call, x) for name, call in calls.items()}, rounds, warmup, wait)
    alone = seconds["alone"]
    rows = []
    for variant, taken in seconds.items():
        added = float(np.median(np.subtract(taken, alone)))
        rows.append(
            row(
                case,
                str(next(model.parameters()).dtype).removeprefix("torch."),
                tuple(x.shape),
                taken,
                nbytes,
                GB_per_s=None,  # bytes are those of the hooked outputs, not of the forward
                variant=variant,
                overhead=paired(taken, alone) - 1,
                added_ms=added * 1e3,
                hooked_MB=nbytes / 1e6,
                layers=len(names),
            )
        )
    return rows
