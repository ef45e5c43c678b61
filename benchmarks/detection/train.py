"""`load_or_train(case, cache)`: the model of a case, trained once; weights and figures lie in the cache."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Generator, Tensor, nn

from benchmarks.detection.cases import Case
from benchmarks.detection.data import DataSet, load
from benchmarks.detection.models import build
from naa_fast.files import write_whole

RECIPE = 1
"""Raise it when models, attacks or training change what comes out: cached models are then trained anew."""

SUCCESS = 0.8
"""A backdoor that turns a smaller share of triggered samples is kept, and marked. All-to-all cannot do better than the model's
accuracy, for it has to know the class that it turns to the next one: there the share is taken of that."""


@dataclass(frozen=True)
class Plan:
    epochs: int
    rate: float
    batch: int
    decay: float = 0.0


PLANS = {
    "cnn": Plan(5, 3e-3, 128),
    "resnet": Plan(5, 6e-3, 128),
    "vit": Plan(7, 4e-3, 128),
    "mlp": Plan(12, 2e-3, 128),
    "text-transformer": Plan(6, 3e-3, 64, 0.05),
    "text-cnn": Plan(8, 3e-3, 64, 0.02),
}
FACTORS = {"digits": 6, "mnist": 2, "fashion": 1, "newsgroups": 1}
"""Times as many epochs on the smaller sets."""


def plan_of(case: Case) -> Plan:
    plan = PLANS[case.architecture]
    batch = 32 if case.dataset == "digits" else plan.batch  # 897 samples are seven steps of 128
    return replace(plan, epochs=plan.epochs * FACTORS[case.dataset], batch=batch)


def files_of(case: Case, cache: Path) -> tuple[Path, Path]:
    """Weights and figures."""
    mark = hashlib.sha256(f"{RECIPE} {plan_of(case)} {case!r}".encode()).hexdigest()[:10]
    weights, figures = (cache / "models" / f"{case.name}-{mark}{ending}" for ending in (".safetensors", ".json"))
    return weights, figures


def is_trained(case: Case, cache: Path) -> bool:
    """Whether the model of a case lies in the cache."""
    return files_of(case, cache)[1].exists()


def load_or_train(case: Case, cache: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model in eval mode; its `accuracy`, `asr` (None for clean ones), `works` (asr >= SUCCESS), `seconds` of one core."""
    weights, figures = files_of(case, cache)
    data = load(case.dataset, cache)
    model = build(case.architecture, tuple(data.train_x.shape[1:]), data.classes, case.seed)
    if figures.exists():
        model.load_state_dict(load_file(weights))
        return served(model), json.loads(figures.read_text())
    started = time.process_time()
    fit(model, case, data)
    info = {"name": case.name, **rates(model, case, data), "seconds": round(time.process_time() - started, 1)}
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_whole(weights, save({name: value.contiguous() for name, value in model.state_dict().items()}))
    write_whole(figures, (json.dumps(info) + "\n").encode())  # last: it says that the weights are whole
    return served(model), info


def served(model: nn.Module) -> nn.Module:
    """In eval mode, and convolutions with channels last, as one runs them on a CPU: two thirds of the CNN's forward are a maximum
    over windows, which is far slower the other way. Training keeps the order its models were made with.
    """
    in_order: nn.Module = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    return in_order


def fit(model: nn.Module, case: Case, data: DataSet) -> None:
    """Adam with one cycle of the learning rate; the same seed gives the same model on the same machine."""
    plan, generator = plan_of(case), Generator().manual_seed(case.seed)
    x, y = data.train_x, data.train_y
    if case.attack is not None:
        x, y = case.attack.poison(x, y, generator)
    steps = plan.epochs * -(-len(x) // plan.batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=plan.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.rate, total_steps=steps, pct_start=0.2)
    model.train()
    for _ in range(plan.epochs):
        for batch in torch.randperm(len(x), generator=generator).split(plan.batch):
            optimiser.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x[batch]), y[batch]))
            optimiser.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def predictions(model: nn.Module, x: Tensor) -> Tensor:
    """The predicted class of every sample, int64."""
    return torch.cat([model(part).argmax(1) for part in x.split(500)]) if len(x) else torch.zeros(0, dtype=torch.long)


def rates(model: nn.Module, case: Case, data: DataSet) -> dict[str, Any]:
    """Accuracy on held samples, and how many of those the trigger is meant to turn it turns."""
    found: dict[str, Any] = {"accuracy": share(predictions(model, data.held_x) == data.held_y), "asr": None, "works": None}
    if case.attack is not None:
        meant = case.attack.turns(data.held_y)
        x = case.attack.apply(data.held_x[meant], data.held_y[meant], Generator().manual_seed(case.seed))
        found["asr"] = share(predictions(model, x) == case.attack.wanted(data.held_y[meant]))
        reachable = found["accuracy"] if case.attack.target is None else 1.0
        found["works"] = found["asr"] >= SUCCESS * reachable
    return found


def share(hits: Tensor) -> float:
    return round(float(hits.double().mean()), 4)
