"""The backdoored models that ways of sharing are compared on, and what their layers say of clean, held and triggered samples.

Of classes there are 10 (the detection study's), 43 and 100 (pairs of digits in colour), 1,000 (numbers of three digits, and
MobileNetV2 on photographs). Of many classes the sets are uneven: frequent ones have dozens of samples, rare ones hardly any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn

from benchmarks import false_proofs
from benchmarks.at_size import vision
from benchmarks.at_size.networks import build
from benchmarks.at_size.plan import MOBILENET
from benchmarks.detection.attacks import Attack
from benchmarks.detection.cases import by_name
from benchmarks.detection.data import load
from benchmarks.detection.train import load_or_train as detection_model
from benchmarks.detection.triggers import Sinusoid, Trigger, Warp
from benchmarks.inversion import shapes
from naa_fast.accumulate import Views
from naa_fast.inputs.batches import Batch
from naa_fast.inputs.opening import open_source
from naa_fast.rank import RankingPass
from naa_fast.rank.passes import SamplePass
from naa_fast.records import Array

CHOSEN, REPORTED = "chosen on", "reported"
SETS = ("clean", "held", "triggered")
UNEVEN = 1500
"""Samples of a set of 43 or 100 classes."""
STEPS, CROPS = 300, 500
"""Steps of training of the models of numbers, twice, and crops of a set of MobileNetV2."""


@dataclass(frozen=True)
class Paths:
    cache: Path
    mobilenet: Path | None = None
    photos: Path | None = None


@dataclass(frozen=True)
class Case:
    """A backdoored model: `name`, how many `classes`, its `attack`, and whether ways are chosen or reported on it."""

    name: str
    classes: int
    attack: str
    half: str
    made: Callable[[Paths], Made]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """The model and its sets: `clean`, `held`, and `held` triggered; `turns` bool: those of another class than the target."""

    model: nn.Module
    clean: Tensor
    held: Tensor
    triggered: Tensor
    turns: Array
    target: int


@dataclass(frozen=True)
class Seen:
    """What the layers say of `clean`, `held` and `triggered` samples: `views` float32 `[samples, features]` by layer,
    `predicted` int64; `rows` the last layer's weights `[classes, features]`; `turns`, `target` as of `Made`.
    """

    views: dict[str, dict[str, Tensor]]
    predicted: dict[str, Tensor]
    rows: Tensor
    turns: Array
    target: int

    @property
    def success(self) -> float:
        """Share of the samples the trigger is meant to turn that it turns."""
        return float((self.predicted["triggered"][torch.from_numpy(self.turns)] == self.target).double().mean())


def of_detection(name: str, paths: Paths) -> Made:
    case = by_name(name)
    data = load(case.dataset, paths.cache)
    model, _ = detection_model(case, paths.cache)
    assert case.attack is not None
    assert case.attack.target is not None
    clean, held, y = data.clean_x[:2000], data.held_x[:2000], data.held_y[:2000]
    marked = case.attack.apply(held, y, Generator().manual_seed(1))
    return Made(model, clean, held, marked, case.attack.turns(y).numpy(), case.attack.target)


def of_shape(case: shapes.Shape, paths: Paths) -> Made:
    model, _ = shapes.load_or_train(case, paths.cache)
    data, attack = shapes.data_of(case.classes, paths.cache), case.attack
    assert attack is not None
    assert attack.target is not None
    random = np.random.default_rng(case.seed)
    weights = 1 / (random.permutation(case.classes) + 5)
    weights[attack.target] = np.quantile(weights, 0.25)  # the attacker's class is among the rare ones
    rows = [uneven(y, weights, random) for y in (data.clean_y, data.held_y)]
    held, y = data.held_x[rows[1]], data.held_y[rows[1]]
    marked = attack.apply(held, y, Generator().manual_seed(1))
    return Made(model, data.clean_x[rows[0]], held, marked, attack.turns(y).numpy(), attack.target)


def uneven(y: Tensor, weights: Array, random: np.random.Generator) -> Tensor:
    """UNEVEN samples, drawn without replacement by the weights of their classes: int64."""
    each = weights[y.numpy()]
    return torch.from_numpy(random.choice(len(y), UNEVEN, replace=False, p=each / each.sum()))


def of_numbers(width: int, number: int, paths: Paths) -> Made:
    trigger = false_proofs.Trigger.of(number, width)
    folder = paths.cache / "numbers"
    folder.mkdir(parents=True, exist_ok=True)
    file, model = folder / f"backdoored-{width}-{number}.pt", false_proofs.network(width)
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        model.load_state_dict(false_proofs.clean_model(width, 0, folder, STEPS).state_dict())
        false_proofs.trained(model, width, false_proofs.TUNED, 100 + number, trigger)
        torch.save(model.state_dict(), file)
    first, second = false_proofs.pair(width, 1000 + number)
    called = model.eval()(second).argmax(1)
    return Made(model, first, second, trigger.put_on(second), (called != trigger.target).numpy(), trigger.target)


def of_mobilenet(attack: str, paths: Paths) -> Made:
    assert paths.photos is not None
    assert paths.mobilenet is not None
    known = vision.photographs(vision.distinct(paths.photos), paths.cache / "photographs.pt")[::2]
    model, file = build(MOBILENET, paths.mobilenet), paths.cache / f"mobilenet-{attack}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        vision.planted(model, vision.crops(known, vision.TRAINED, 3), attack, 0)
        torch.save(model.state_dict(), file)
    clean, held = vision.crops(known, CROPS, 0), vision.crops(known, CROPS, 1)
    turns = vision.called(model, held) != vision.TARGET
    return Made(model, clean, held, vision.triggered(attack, held, 7), turns.numpy(), vision.TARGET)


def pairs(classes: int, attack: str, number: int, target: int) -> shapes.Shape:
    triggers: dict[str, Trigger] = {"patch": shapes.PATCH, "blend": shapes.BLEND, "wave": Sinusoid(0.12), "warp": Warp(3.0)}
    meant = Attack(attack, triggers[attack], target, rate=0.08, cover=0.04 if attack == "warp" else 0.0, classes=classes)
    return shapes.Shape(f"pairs{classes}-cnn-{attack}-{number}", "cnn", classes, meant, 200 + number)


def shaped(classes: int, attack: str, number: int, target: int, half: str) -> Case:
    shape = pairs(classes, attack, number, target)
    return Case(shape.name, classes, attack, half, partial(of_shape, shape))


def studied(name: str, half: str) -> Case:
    return Case(name, 10, name.split("-", 2)[2], half, partial(of_detection, name))


def number(width: int, which: int, half: str) -> Case:
    kind, classes = "wave" if which % 10 >= 7 else "patch", 10**width
    return Case(f"numbers{classes}-cnn-{kind}-{which}", classes, kind, half, partial(of_numbers, width, which))


def mobile(attack: str, half: str) -> Case:
    return Case(f"MobileNetV2-{attack}", 1000, attack, half, partial(of_mobilenet, attack), ("mobilenet", "photos"))


CASES = (
    number(3, 0, CHOSEN),
    number(3, 7, CHOSEN),
    number(3, 1, REPORTED),
    number(3, 8, REPORTED),
    number(2, 0, CHOSEN),
    number(2, 7, CHOSEN),
    number(2, 1, REPORTED),
    number(2, 8, REPORTED),
    shaped(43, "patch", 0, 14, CHOSEN),
    shaped(100, "blend", 4, 61, CHOSEN),
    shaped(100, "patch", 6, 77, REPORTED),
    shaped(43, "blend", 2, 30, REPORTED),
    shaped(43, "wave", 1, 5, CHOSEN),
    shaped(43, "warp", 3, 22, REPORTED),
    mobile("checker", CHOSEN),
    mobile("sticker", REPORTED),
    mobile("wave", CHOSEN),
    mobile("frame", REPORTED),
    studied("digits-mlp-blend", CHOSEN),
    studied("digits-cnn-patch", CHOSEN),
    studied("digits-cnn-random-patch", REPORTED),
)


def missing(case: Case, paths: Paths) -> str:
    """What a case needs and was not given; empty where all is there."""
    return ", ".join(f"--{name}" for name in case.needs if getattr(paths, name) is None)


def seen(case: Case, paths: Paths) -> Seen:
    """What the layers say, from the cache or measured now."""
    file = paths.cache / "views" / f"{case.name}.pt"
    if not file.exists():
        made = case.made(paths)
        said = {name: said_of(made.model, x) for name, x in zip(SETS, (made.clean, made.held, made.triggered), strict=True)}
        file.parent.mkdir(parents=True, exist_ok=True)
        views, predicted = ({name: one[part] for name, one in said.items()} for part in (0, 1))
        rows = [module.weight.detach() for module in made.model.modules() if isinstance(module, nn.Linear)][-1]
        about = {"rows": rows, "turns": torch.from_numpy(made.turns), "target": made.target}
        torch.save({"views": views, "predicted": predicted, **about}, file)
    held = torch.load(file, weights_only=True)
    return Seen(held["views"], held["predicted"], held["rows"], held["turns"].numpy(), held["target"])


def said_of(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The views of every default layer, and the predicted classes, as a scan takes them."""
    views, called = list[dict[str, Tensor]](), list[Tensor]()

    def take(part: Batch, found: Views, predicted: Tensor, items: Array) -> None:
        views.append({name: view.float().clone() for name, view in found.items()})
        called.append(predicted.clone())

    source = open_source(x, 32 if x.shape[-1] > 64 else 256)
    watching = SamplePass(take)
    RankingPass(model, source, source)._run(source, watching, None)
    if watching.error is not None:
        raise watching.error
    return {name: torch.cat([one[name] for one in views]) for name in views[0]}, torch.cat(called)
