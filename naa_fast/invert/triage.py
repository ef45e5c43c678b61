"""`triage`: what weights alone say, and how sure the model can be made of each class by any input. Suspicions, never more: clean
models have outlying rows and channels as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from naa_fast.capture.selection import unwrapped
from naa_fast.detect.findings import INPUT
from naa_fast.detect.inversion import Suspicion
from naa_fast.invert.setting import Setting
from naa_fast.records import Array

ROW_LIMIT, CHANNEL_LIMIT = 10.0, 20.0
"""Robust deviations (median, MAD) of the largest row of the last layer, and of the largest channel of any: beyond what clean
models of half A of the study came to (docs/inversion.md)."""
MARGIN_P = 0.01
"""Chance that any class of a model without a backdoor has so large a maximum margin, by the law below."""
STARTS, CLIMBS, STEP = 4, 60, 0.05
FEWEST = 4
"""Numbers whose spread says anything."""


def triage(setting: Setting) -> list[Suspicion]:
    """The static checks and the maximum margin of each class. Cost: STARTS x CLIMBS samples a class, forward and back."""
    return [*static(setting.transplant.model, setting.classes), *margins(setting)]


def static(model: nn.Module, classes: int) -> Iterator[Suspicion]:
    """Outlying rows of the last layer, by norm and by bias, and the outlying channel: no sample is needed. Milliseconds.

    Channels by the bound on their Lipschitz constant, with the batch norm after them (Zheng et al., Data-free Backdoor Removal
    based on Channel Lipschitzness, ECCV 2022, section 4).
    """
    modules = list(unwrapped(model).named_modules())
    last = next(((n, m) for n, m in reversed(modules) if isinstance(m, nn.Linear) and m.out_features == classes), None)
    if last is not None:
        name, layer = last
        rows = {"norm": layer.weight.detach().float().norm(dim=1)} | (
            {} if layer.bias is None else {"bias": layer.bias.detach().float()}
        )
        for what, values in rows.items():
            place, value = largest(values.cpu().numpy())
            statement = f"the row of class {place} of the last layer has a {what} {value:.1f} robust deviations above the others'"
            yield Suspicion("last layer", name, place, value, ROW_LIMIT, statement)
    channels = [(name, *largest(bound.cpu().numpy())) for name, bound in bounds(modules)]
    if channels:
        name, place, value = max(channels, key=lambda channel: channel[2])
        statement = f"channel {place} amplifies what it sees {value:.1f} robust deviations more than the layer's others"
        yield Suspicion("channel norms", name, -1, value, CHANNEL_LIMIT, statement)


def bounds(modules: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """Layer and the spectral norm of each of its channels' kernels, float32 `[channels]`, times the scale of a batch norm that
    comes next.
    """
    for (name, module), (_, after) in zip(modules, [*modules[1:], ("", nn.Identity())], strict=True):
        if not isinstance(module, nn.Conv1d | nn.Conv2d) or module.weight.is_meta or module.out_channels < FEWEST:
            continue
        kernel = module.weight.detach().float().flatten(2)
        if not bool(torch.isfinite(kernel).all()):
            continue
        bound = torch.linalg.matrix_norm(kernel, 2)
        variance = after.running_var if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d) else None
        if isinstance(variance, Tensor) and len(variance) == len(bound) and isinstance(after.weight, Tensor):
            bound = bound * (after.weight.detach().float() / (variance.detach().float() + 1e-5).sqrt()).abs()
        yield name, bound


def largest(values: Array) -> tuple[int, float]:
    """Place of the largest of `values` `[count]`, and its distance from the median in robust deviations; 0 without a spread."""
    if len(values) < FEWEST or not np.isfinite(values).all():
        return 0, 0.0
    place, median = int(values.argmax()), float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - median)))
    return place, (float(values[place]) - median) / deviation if deviation > 0 else 0.0


def margins(setting: Setting) -> list[Suspicion]:
    """The class whose score any input can raise farthest above all others (Wang et al., MM-BD, IEEE S&P 2024, section 4): its
    chance by the exponential law that the other classes' maximum margins follow, for all classes together. Continuous inputs
    alone, and FEWEST classes.
    """
    reached = maximum_margins(setting)
    if len(reached) < FEWEST:
        return []
    p_value, target = margin_p_value(reached)
    statement = (
        f"some input makes the model surer of class {target} than any makes it of the others: maximum margin "
        f"{reached[target]:.3g}, median of the classes {np.median(reached):.3g} (p {p_value:.2g})"
    )
    return [Suspicion("maximum margin", INPUT, target, -np.log10(max(p_value, 1e-12)), -np.log10(MARGIN_P), statement)]


def margin_p_value(reached: Array) -> tuple[float, int]:
    """Chance that the largest of margins lies as far out as that of `reached` `[classes]`, by the others; and whose it is."""
    target = int(reached.argmax())
    others = np.delete(reached, target)
    scale = max(float((others - others.min()).mean()), 1e-9)
    beyond = np.exp(-max(float(reached[target] - others.min()), 0.0) / scale)
    return float(1 - (1 - beyond) ** len(reached)), target


def maximum_margins(setting: Setting) -> Array:
    """The largest score of each class above the best other one that gradient ascent over inputs finds: float64 `[classes]`, empty
    where there are no gradients to go by, or too many classes. Inputs stay within the values that clean ones have.
    """
    images, classes = setting.images, setting.classes
    if images is None or classes > 64:
        return np.zeros(0)
    generator = torch.Generator().manual_seed(0)
    span = images.high - images.low
    x = images.low + span * torch.rand(classes * STARTS, *images.mean.shape, generator=generator)
    x = x.to(setting.device)
    aims = torch.arange(classes, device=x.device).repeat_interleave(STARTS)
    best = torch.full((len(x),), -torch.inf, device=x.device)
    for _ in range(CLIMBS):
        x.requires_grad_()
        scores = setting.scores(x)
        targeted = scores.gather(1, aims[:, None])[:, 0]
        others = scores.scatter(1, aims[:, None], -torch.inf).amax(1)
        (gradient,) = setting.gradients((targeted - others).sum(), [x], len(x))
        best = torch.maximum(best, (targeted - others).detach())
        length = gradient.flatten(1).square().mean(1).sqrt().clamp(min=1e-12)
        step = STEP * span * gradient / length.view(-1, *(1,) * (x.ndim - 1))
        x = (x.detach() + step).clamp(images.low, images.high)
    return best.view(classes, STARTS).amax(1).double().cpu().numpy()
