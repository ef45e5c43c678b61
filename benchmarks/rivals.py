"""What a user would pick instead, on the same data: `python -m benchmarks.rivals [--json FILE] [--only NAME]`.

Each rival takes the same batches and gives mean and variance per neuron. Its answer is compared with NumPy float64 first: a
wrong one gets no time. Then all are timed in turns. Ours computes every statistic of the record in that time, the others one
or two; `cannot` says what is missing. Rivals that are not installed get a row that says so.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import interleaved, load, row, table, write
from benchmarks.overhead import WrongAnswer
from naa_fast.accumulate import Accumulator
from naa_fast.capture.views import Layout
from naa_fast.records import Array

Statistics = tuple[Array, Array]
Partial = tuple[Array | None, Array | None]

BUDGET = 1e-3
"""Most an answer may be off on data without traps: means in standard deviations, variances relatively."""

COLUMNS = ("case", "rival", "median_ms", "p20_ms", "p80_ms", "times_ours", "mean_error", "variance_error", "status")


class Running(Protocol):
    """Statistics of a stream: batches in, mean and variance per neuron out (None for what is not offered)."""

    def update(self, x: Tensor) -> None: ...
    def result(self) -> Partial: ...


@dataclass(frozen=True)
class Rival:
    """`make(channels)` starts a stream. `cannot`: what is missing, or left to code of the user's own."""

    name: str
    make: Callable[[int], Running]
    module: str
    cannot: tuple[str, ...]


def missing(rival: Rival) -> str:
    """ "" if the rival can run here, else why not."""
    try:
        importlib.import_module(rival.module)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == rival.module
        return "not installed" if absent else f"does not import: {type(error).__name__}"
    return ""


def rows_of(x: Tensor) -> Tensor:
    """`[observations, channels]`: a copy for images, which is what these interfaces ask for."""
    return x if x.ndim == 2 else x.movedim(1, -1).reshape(-1, x.shape[1])


def axes_of(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


class Ours:
    """All statistics, with the histograms of `measure`."""

    histograms = True

    def __init__(self, channels: int) -> None:
        self.accumulator, self.done = Accumulator(tails=self.histograms), 0

    def update(self, x: Tensor) -> None:
        layout = Layout(1, x.ndim)
        self.accumulator.begin(len(x), self.done)
        self.accumulator.observe("layer", layout.view(x), str(layout))
        self.accumulator.commit()
        self.done += len(x)

    def result(self) -> Partial:
        found = self.accumulator.records()["layer"].positions
        return found.mean, found.variance


class OursInScans(Ours):
    """What a scan keeps: all but the histograms."""

    histograms = False


class BatchMeans:
    """The first thing one writes in a hook: the mean of each batch, and in the end their mean."""

    def __init__(self, channels: int) -> None:
        self.means: list[Tensor] = []

    def update(self, x: Tensor) -> None:
        self.means.append(x.mean(axes_of(x)))

    def result(self) -> Partial:
        return torch.stack(self.means).mean(0).numpy(), None


class VarMean:
    """torch.var_mean of each batch, merged in float64 (Chan, Golub and LeVeque 1983)."""

    def __init__(self, channels: int) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(channels).double(), torch.zeros(channels).double()

    def update(self, x: Tensor) -> None:
        variance, mean = (part.double() for part in torch.var_mean(x, axes_of(x)))
        count = x.numel() // len(mean)
        total, delta = self.count + count, mean - self.mean
        self.squares += variance * (count - 1) + delta * delta * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def result(self) -> Partial:
        return self.mean.numpy(), (self.squares / (self.count - 1)).numpy()


class Hoard:
    """Every activation to the host, NumPy at the end."""

    def __init__(self, channels: int) -> None:
        self.kept: list[Array] = []

    def update(self, x: Tensor) -> None:
        self.kept.append(x.clone().cpu().numpy())  # without the clone a later in-place layer changes what was kept

    def result(self) -> Partial:
        whole = np.concatenate(self.kept)
        return whole.mean(axes_of(torch.from_numpy(whole))), whole.var(axes_of(torch.from_numpy(whole)), ddof=1)


class Scaler:
    def __init__(self, channels: int) -> None:
        self.scaler = importlib.import_module("sklearn.preprocessing").StandardScaler()

    def update(self, x: Tensor) -> None:
        self.scaler.partial_fit(rows_of(x).cpu().numpy())

    def result(self) -> Partial:
        count = np.max(self.scaler.n_samples_seen_)
        return self.scaler.mean_, self.scaler.var_ * count / (count - 1)


def torchmetrics_sums(channels: int) -> Running:
    """A Metric of sums and square sums in float64: its own MeanMetric is one number for all neurons."""

    class Sums(importlib.import_module("torchmetrics").Metric):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name in ("count", "total", "squares"):
                self.add_state(name, torch.zeros(channels, dtype=torch.float64), dist_reduce_fx="sum")

        def update(self, x: Tensor) -> None:
            x = x.double()
            self.count += x.numel() // channels
            self.total += x.sum(axes_of(x))
            self.squares += (x * x).sum(axes_of(x))

        def compute(self) -> tuple[Tensor, Tensor]:
            mean = self.total / self.count
            return mean, (self.squares - self.count * mean * mean) / (self.count - 1)

        def result(self) -> Partial:
            mean, variance = self.compute()
            return mean.numpy(), variance.numpy()

    return Sums()


class WelfordTorch:
    def __init__(self, channels: int) -> None:
        self.running = importlib.import_module("welford_torch").Welford()

    def update(self, x: Tensor) -> None:
        self.running.add_all(rows_of(x))

    def result(self) -> Partial:
        return self.running.mean.numpy(), self.running.var_s.numpy()


class Scope:
    """ActivationScope with the mean it ships, hooked on an identity."""

    def __init__(self, channels: int) -> None:
        package = importlib.import_module("activationscope")
        self.model = torch.nn.Sequential(torch.nn.Identity())
        policies = importlib.import_module("activationscope.policies")
        self.scope = package.ActivationScope(reduction=policies.ReductionPolicy.STREAMING)
        self.scope.register_reduction(package.ActivationScope.mean_reduction())
        self.scope.attach(self.model)

    def update(self, x: Tensor) -> None:
        self.model(x)

    def result(self) -> Partial:
        (kept,) = self.scope.activations.values()
        mean = kept[-1][:-1].flatten(1).mean(1) if kept[-1].ndim > 1 else kept[-1][:-1]
        self.scope.remove()
        return mean.numpy(), None


class Lens:
    """TorchLens' Covariance, of which the diagonal is wanted: its Mean is one number for all neurons."""

    def __init__(self, channels: int) -> None:
        self.covariance = importlib.import_module("torchlens.stats").Covariance()

    def update(self, x: Tensor) -> None:
        self.covariance.update(rows_of(x))

    def result(self) -> Partial:
        return None, self.covariance.result().diagonal().numpy()


SHAPE, MASK, MERGE, SAMPLES, NAN = "3rd and 4th moments", "mask", "merge", "per-sample views", "NaN counts"
RIVALS = (
    Rival("naa-fast", Ours, "naa_fast", ()),
    Rival("naa-fast, in scans", OursInScans, "naa_fast", ()),
    Rival("x.mean of batches", BatchMeans, "torch", ("variance", SHAPE, MASK, MERGE, SAMPLES, NAN)),
    Rival("torch.var_mean", VarMean, "torch", (SHAPE, MASK, SAMPLES, NAN)),
    Rival(".cpu().numpy(), then NumPy", Hoard, "numpy", ("bounded memory", MERGE, MASK)),
    Rival("StandardScaler.partial_fit", Scaler, "sklearn", (SHAPE, MERGE, SAMPLES, "stay on the device")),
    Rival("torchmetrics", torchmetrics_sums, "torchmetrics", (SHAPE, MASK, SAMPLES, NAN)),
    Rival("welford-torch", WelfordTorch, "welford_torch", (SHAPE, MASK, SAMPLES, NAN)),
    Rival("ActivationScope", Scope, "activationscope", ("variance", SHAPE, MASK, MERGE, SAMPLES, NAN)),
    Rival("TorchLens", Lens, "torchlens", ("mean per neuron", SHAPE, MASK, MERGE, SAMPLES, NAN, "memory below neurons²")),
)


@dataclass(frozen=True)
class Case:
    """A stream of batches. `trap` names what an answer may get wrong; there an error is published, not refused."""

    name: str
    batches: list[Tensor]
    trap: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(map(len, self.batches)), *self.batches[0].shape[1:])


def cases(scale: int = 1) -> list[Case]:
    """The streams, `scale` times smaller."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    rows, width = 65536 // scale, max(8, 1024 // scale)
    batch = rows // 16
    ragged = list(normal(rows // 2 + batch // 8, width).split(batch))
    ragged[-1] = ragged[-1] + 1.0  # a short batch that differs: a mean of batch means gives it the weight of a full one
    images = normal(64, max(8, 256 // scale), 28, 28)
    return [
        Case("[N,D]", list(normal(rows, width).split(batch))),
        Case("NCHW", list(images.split(16))),
        Case("[N,D] ragged", ragged, "ragged last batch"),
        Case("[N,D] offset", list((normal(rows, 64) + 1e4).split(batch)), "mean 1e4, deviation 1"),
    ]


def expected(batches: list[Tensor]) -> Statistics:
    """Mean and unbiased variance per neuron in float64, by two passes."""
    parts = [x.movedim(1, 0).flatten(1).numpy().astype(np.float64) for x in batches]
    count = sum(part.shape[1] for part in parts)
    mean = sum(part.sum(1) for part in parts) / count
    squares: Array = sum(((part - mean[:, None]) ** 2).sum(1) for part in parts)
    return mean, squares / (count - 1)


def errors(got: Partial, want: Statistics) -> dict[str, float | None]:
    """Worst error of the mean in standard deviations and of the variance relatively; None for what a rival does not give."""

    def worst(value: Array | None, right: Array, unit: Array) -> float | None:
        if value is None:
            return None
        if np.shape(value) != right.shape:
            raise WrongAnswer(f"shape {np.shape(value)}, expected {right.shape}")
        error = float(np.max(np.abs(np.asarray(value, np.float64) - right) / unit))
        return error if np.isfinite(error) else float("inf")

    mean, variance = want
    return {"mean_error": worst(got[0], mean, np.sqrt(variance)), "variance_error": worst(got[1], variance, variance)}


def check(found: dict[str, float | None]) -> None:
    """Raise WrongAnswer for an error above the budget; `not (<=)`, so that a NaN fails."""
    for what, error in found.items():
        if error is not None and not error <= BUDGET:
            raise WrongAnswer(f"{what} {error:.2g}, allowed {BUDGET:g}")


def answer(rival: Rival, batches: list[Tensor]) -> Partial:
    """The rival's mean and variance over the whole stream."""
    running = rival.make(batches[0].shape[1])
    for x in batches:
        running.update(x)
    return running.result()


def unmeasured(case: Case, rival: Rival, status: str, **found: Any) -> dict[str, Any]:
    """A row without a time, and why."""
    empty = dict.fromkeys(("median_ms", "p20_ms", "p80_ms", "GB_per_s", "times_ours", "mean_error", "variance_error"))
    head = {"case": case.name, "dtype": "float32", "shape": list(case.shape), **empty, "bytes": size(case)}
    return {**head, "rival": rival.name, "status": status, "cannot": list(rival.cannot), **found}


def size(case: Case) -> int:
    return sum(x.nbytes for x in case.batches)


def measured(case: Case, rivals: list[Rival], rounds: int) -> list[dict[str, Any]]:
    """A row for every rival: refused, or timed in turns with the others."""
    want = expected(case.batches)
    refused: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, float | None]] = {}
    timed: dict[str, Callable[[], object]] = {}
    for rival in rivals:
        reason = missing(rival)
        if reason:
            refused[rival.name] = unmeasured(case, rival, reason)
            continue
        try:
            found[rival.name] = errors(answer(rival, case.batches), want)
            if not case.trap:
                check(found[rival.name])
        except WrongAnswer as wrong:
            refused[rival.name] = unmeasured(case, rival, f"wrong: {wrong}", **found.get(rival.name, {}))
            continue
        except Exception as error:  # a rival that breaks must not take the others with it
            refused[rival.name] = unmeasured(case, rival, f"fails: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
            continue
        timed[rival.name] = partial(answer, rival, case.batches)
    seconds = interleaved(timed, rounds, 0)  # the check was the warm-up
    ours = seconds.get(RIVALS[0].name)
    rows = []
    for rival in rivals:
        if rival.name in refused:
            rows.append(refused[rival.name])
            continue
        taken = seconds[rival.name]
        off = found[rival.name]
        status = "ok" if all(error is None or error <= BUDGET for error in off.values()) else f"wrong: {case.trap}"
        entry = row(
            case.name, "float32", case.shape, taken, size(case), rival=rival.name, status=status, cannot=list(rival.cannot)
        )
        entry["times_ours"] = round(float(np.median(np.divide(taken, ours))), 3) if ours else None
        rows.append({**entry, **{what: None if error is None else float(f"{error:.3g}") for what, error in off.items()}})
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write conditions and rows to this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=int, default=1, help="make the data this many times smaller (default 1)")
    parser.add_argument("--only", help="only rivals whose name contains this, beside ours")
    options = parser.parse_args(arguments)
    busy = load()
    rivals = [rival for rival in RIVALS if not options.only or rival is RIVALS[0] or options.only in rival.name]
    rows = []
    for case in cases(options.scale):
        rows += measured(case, rivals, options.rounds)
        print(table(rows[-len(rivals) :], COLUMNS), flush=True)
    print("\nwhat each cannot do, or only with code of your own")
    for rival in rivals:
        print(f"  {rival.name:28s} {', '.join(rival.cannot) or '–'}")
    if options.json:
        write(options.json, rows, threads=torch.get_num_threads(), load=busy, command="python -m benchmarks.rivals")
    return 0


if __name__ == "__main__":
    sys.exit(main())
