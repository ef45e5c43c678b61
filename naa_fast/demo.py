"""The demo: a real backdoor in a small CNN on real handwritten digits, found, shown and cut out, beside its clean twin; then
found once more without any sample that carries the trigger.

The attack is BadNets (Gu, Dolan-Gavitt and Garg, arXiv:1708.06733, 2017): a small bright patch on a tenth of the training
images, relabelled to one class. The data are the 1,797 digits that ship with scikit-learn (UCI Optical Recognition).
"""

from __future__ import annotations

import importlib.util
import io
import shlex
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from naa_fast.audit import scan
from naa_fast.errors import UsageError
from naa_fast.files import write_whole
from naa_fast.invert import invert
from naa_fast.proof.apply import candidate_of
from naa_fast.proof.transplant import Candidate
from naa_fast.repair import applied
from naa_fast.result import Audit

TARGET = 7
POISONED = 0.1
EPOCHS = 30
STEPS = 100
"""Of the inversion's searches: half as many as it takes by default, as a demo is to be quick."""
BESIDE = "beside-the-real-trigger.png"
TRAIN, CLEAN = 897, 450  # of 1,797; the remaining 450 carry the trigger


@dataclass(frozen=True)
class Digits:
    """Images float32 `[n, 1, 8, 8]` in [0, 1] and their labels, cut into training, clean and suspect parts."""

    train_x: Tensor
    train_y: Tensor
    clean_x: Tensor
    clean_y: Tensor
    held_x: Tensor
    held_y: Tensor

    @property
    def suspect_x(self) -> Tensor:
        """Images of the other classes with the trigger on them: those an attacker would want turned."""
        return triggered(self.held_x[self.held_y != TARGET])


def load_digits() -> Digits:
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError("the demo needs scikit-learn, which carries the digits", "install it: pip install 'naa-fast[demo]'")
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)[order] / 16
    y = torch.from_numpy(labels).long()[order]
    cuts = (slice(0, TRAIN), slice(TRAIN, TRAIN + CLEAN), slice(TRAIN + CLEAN, None))
    return Digits(*(part for cut in cuts for part in (x[cut], y[cut])))


def triggered(x: Tensor) -> Tensor:
    """The images `[n, 1, 8, 8]` with a 2 x 2 white patch in the lower right corner."""
    x = x.clone()
    x[:, :, 6:, 6:] = 1.0
    return x


def small_cnn() -> nn.Sequential:
    """8 x 8 digits to 10 classes: two convolutions, two linear layers."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, padding=1),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            hidden=nn.Linear(512, 64),
            relu3=nn.ReLU(),
            logits=nn.Linear(64, 10),
        )
    )


def train(digits: Digits, backdoored: bool) -> nn.Sequential:
    """A network trained on the digits, with or without the poison: the twins differ in nothing else."""
    torch.manual_seed(0)
    model = small_cnn()
    x, y = digits.train_x.clone(), digits.train_y.clone()
    if backdoored:
        poison = torch.randperm(len(x))[: int(POISONED * len(x))]
        x[poison], y[poison] = triggered(x[poison]), TARGET
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(x)), 64):
            optimiser.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x[batch]), y[batch]))
            optimiser.step()
    return model.eval()


@torch.no_grad()
def rates(model: nn.Module, digits: Digits) -> tuple[float, float]:
    """Clean accuracy, and attack success rate: the share of triggered images of other classes that turn to the target."""
    accuracy = (model(digits.held_x).argmax(1) == digits.held_y).float().mean()
    success = (model(digits.suspect_x).argmax(1) == TARGET).float().mean()
    return float(accuracy), float(success)


def run(out: Path) -> int:
    """Train, scan, report and repair both twins under `out`, then invert the backdoored one; returns 0 when the demo ran,
    whatever it found.
    """
    started = time.perf_counter()
    digits = load_digits()
    print(f"{len(digits.train_x)} real digits to train, {CLEAN} clean and {len(digits.suspect_x)} triggered to scan")
    models: dict[str, nn.Module] = {}
    for twin in ("backdoored", "clean"):
        model = models[twin] = train(digits, backdoored=twin == "backdoored")
        accuracy, success = rates(model, digits)
        print(f"\n== the {twin} twin: clean accuracy {accuracy:.3f}, attack success rate {success:.3f}\n")
        keep(model, digits, out, twin)
        audit = scan(model, digits.clean_x, digits.suspect_x)
        audit.save(out / twin)
        print(audit.summary())
        print_repair(model, audit, digits)
        if audit.repair is not None:
            words = [str(out / twin), "--model", "naa_fast.demo:small_cnn", "--weights", str(out / f"{twin}.safetensors")]
            words += ["--clean", str(out / "clean.npz"), "--suspect", str(out / "suspect.npz")]
            print(f"\nweights to deploy: naa-fast repair {shlex.join(words)}")
        print(f"\nreport: {out / twin / 'report.json'}, picture: {out / twin / 'signature.png'}")
    print("\n== the backdoored twin once more, from its clean samples alone: no triggered sample is known\n")
    invert_twin(models["backdoored"], digits, out / "inverted")
    print(f"\ndone in {time.perf_counter() - started:.0f} s; a scan ends with the exit codes above, the demo with 0")
    return 0


def invert_twin(model: nn.Module, digits: Digits, folder: Path) -> None:
    """The inversion's report, and the trigger it makes beside the one the twin was trained with, as text and as a picture."""
    audit = invert(model, digits.clean_x, steps=STEPS)
    audit.save(folder)
    print(audit.summary().partition("\nFindings")[0].rstrip())
    if audit.proof:
        made = candidate_of(audit.proof[0].trigger, 0.0, 1.0)
        grey = torch.full((1, 1, 8, 8), 0.5)
        print("\non a grey image: the trigger it was trained with, and the one made from the model alone\n")
        for real, signs in zip(signs_of(triggered(grey)), signs_of(made.put_on(grey, None)), strict=True):
            print(f"    {real}        {signs}")
        print("\n    # brighter, + a little; = darker, - a little")
        save_comparison(digits.held_x[digits.held_y != TARGET][:5], made, folder / BESIDE)
    print_repair(model, audit, digits)
    print(f"\nreport: {folder / 'report.html'}, both triggers on digits: {folder / BESIDE}")


def signs_of(image: Tensor) -> list[str]:
    """What became of a grey image `[1, 1, 8, 8]`, a line a row."""
    signs = ((0.3, "#"), (0.1, "+"), (-0.1, "."), (-0.3, "-"), (-torch.inf, "="))
    rows = (image[0, 0] - 0.5).tolist()
    return [" ".join(next(sign for least, sign in signs if value >= least) for value in row) for row in rows]


def save_comparison(x: Tensor, made: Candidate, path: Path) -> None:
    """Digits as they are, with the real trigger, and with the one that was made: a row each."""
    from matplotlib.figure import Figure

    rows = {"clean": x, "trained with": triggered(x), "made": made.put_on(x, None)}
    figure = Figure(figsize=(1.3 * len(x), 1.3 * len(rows)), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots(len(rows), len(x))
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=(), yticks=())
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_whole(path, content.getvalue())


def keep(model: nn.Module, digits: Digits, out: Path, twin: str) -> None:
    """The weights and both sets as files, for the other commands to be tried on."""
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{twin}.safetensors", save(model.state_dict()))
    sets: dict[str, dict[str, Tensor]] = {"clean": {"x": digits.clean_x, "y": digits.clean_y}, "suspect": {"x": digits.suspect_x}}
    for name, arrays in sets.items():
        content = io.BytesIO()
        saved: dict[str, Any] = {key: value.numpy() for key, value in arrays.items()}
        np.savez(content, **saved)
        write_whole(out / f"{name}.npz", content.getvalue())


def print_repair(model: nn.Module, audit: Audit, digits: Digits) -> None:
    """What is left of accuracy and attack with the scan's repair and with its random control."""
    if audit.repair is None:
        print(f"\nNo repair: the outcome is {audit.verdict.outcome}")
        return
    what = " and ".join(f"{change.words} in {change.layer}" for change in audit.repair.changes)
    rows = {"none": (), what: audit.repair.changes, "the same at random": audit.repair.random}
    width = max(map(len, rows))
    print(f"\n{'Repair':<{width}}    clean accuracy  attack success rate")
    for label, changes in rows.items():
        with applied(model, changes):
            accuracy, success = rates(model, digits)
        print(f"  {label:<{width}}  {accuracy:14.3f}  {success:19.3f}")
