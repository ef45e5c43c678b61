"""A fit makes a change better through the model's own gradients, and leaves the model as it found it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor, nn

from naa_fast.detect.change import Change
from naa_fast.inputs.batches import Batch
from naa_fast.proof.transplant import PredictedSamples, Transplant
from naa_fast.repair.candidates import Seen, random_like, turning_back
from naa_fast.repair.change import applied
from naa_fast.repair.fit import Fit, Lesson
from naa_fast.repair.outputs import Place, outputs
from naa_fast.repair.space import Space
from naa_fast.scan.placement import Placement

GENERATOR = Generator().manual_seed(0)
CLEAN = torch.randn(200, 8, generator=GENERATOR)
TRIGGER = torch.tensor([0, 0, 0, 0, 0, 0, 0, 6.0])


class Closed(nn.Module):
    """A model that no gradient comes through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def backdoored() -> nn.Sequential:
    """Two classes by the sign of the first input; a large last one turns all to class 1."""
    first, last = nn.Linear(8, 8), nn.Linear(8, 2)
    model = nn.Sequential(first, nn.ReLU(inplace=True), last)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first.weight[0, 0], first.weight[1, 0] = 1.0, -1.0
        first.weight[2:] = 0.3 * torch.randn(6, 8, generator=Generator().manual_seed(1))
        first.weight[2, 7] = 2.0
        last.weight[1, 0], last.weight[0, 1], last.weight[1, 2] = 3.0, 3.0, 1.0
    return model.eval()


def bases(x: Tensor, predicted: Tensor) -> PredictedSamples:
    return PredictedSamples([(Batch((x,), {}, len(x), None), predicted.numpy())])


def fit_of(wrap: Callable[[nn.Module], nn.Module] = lambda model: model) -> tuple[nn.Module, Fit, Seen, Space]:
    """Of a gate along one input in the first layer."""
    model = wrap(backdoored())
    prefix = "" if isinstance(model, nn.Sequential) else "inner."
    own = model(CLEAN).argmax(1)
    clean, turned = bases(CLEAN, own), bases(CLEAN + TRIGGER, own)
    transplant = Transplant(model, Placement.of(model, "cpu"), 64, clean.batches[0][0])
    parts = outputs(transplant, clean, {f"{prefix}0": Place(1, 0)})[f"{prefix}0"].parts
    seen = Seen(f"{prefix}0", 1, torch.zeros(8), parts, None, None)
    space = Space.of(parts)
    assert space is not None
    direction = torch.tensor(
        [[2.0, 0, 3, 0, 2, 0, 0, 2]]
    )  # two thirds of what the trigger does to the third, and what it does not
    lesson = Lesson.of(transplant, clean, turned, None)
    assert lesson is not None
    return model, Fit(transplant, lesson, turning_back(seen, space, "test", direction, 0.99), space, ()), seen, space


def rates(model: nn.Module, change: Change) -> tuple[float, float]:
    """Of what is to stay: with and without the trigger."""
    own = model(CLEAN).argmax(1)
    with torch.no_grad(), applied(model, [change]):
        return tuple(float((model(x).argmax(1) == own).double().mean()) for x in (CLEAN + TRIGGER, CLEAN))  # type: ignore[return-value]


def test_a_poor_change_becomes_a_better_one() -> None:
    model, fit, _, _ = fit_of()
    before, _ = rates(model, fit.start)
    change = fit.run(50)
    assert change is not None
    after, kept = rates(model, change)
    assert before < 0.6
    assert after > 0.75
    assert kept > 0.95
    change.check()


def test_the_model_keeps_its_weights_its_gradients_and_what_asks_for_them() -> None:
    model, fit, _, _ = fit_of()
    fit.transplant.model[2].bias.requires_grad_(False)  # type: ignore[index]
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)  # type: ignore[index]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    asking = [parameter.requires_grad for parameter in model.parameters()]
    fit.run(3)
    assert [parameter.requires_grad for parameter in model.parameters()] == asking
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.full_like(model[0].weight, 7.0))  # type: ignore[index]
    assert model[2].weight.grad is None  # type: ignore[index]
    assert not any(module._forward_hooks for module in model.modules())


def test_two_fits_are_the_same_and_count_what_they_ran() -> None:
    (_, one, _, _), (_, other, _, _) = fit_of(), fit_of()
    ran = one.transplant.forwards
    first, second = one.run(10), other.run(10)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.gate, second.gate)
    assert first.limit == second.limit
    assert one.transplant.forwards - ran == 10 * one.price == 10 * 2 * 64


def test_a_model_that_no_gradient_comes_through_has_no_fit() -> None:
    model, fit, _, _ = fit_of(Closed)
    assert fit.run(3) is None
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_overflows_has_no_fit() -> None:
    model, fit, _, _ = fit_of()
    with torch.no_grad():
        model[2].weight.fill_(float("inf"))  # type: ignore[index]
    assert fit.run(3) is None


def test_the_control_turns_back_as_many_clean_rows_along_as_many_directions() -> None:
    _, fit, seen, space = fit_of()
    change = fit.run(40)
    assert change is not None
    random = random_like(change, seen, space, Generator().manual_seed(0))
    mine, its = (float((space.rows @ torch.from_numpy(one.gate) > one.limit).double().mean()) for one in (change, random))
    assert abs(mine - its) <= 0.01
    assert random.pushes.shape == change.pushes.shape
    assert not np.allclose(random.gate, change.gate)


def test_outputs_are_seen_before_the_next_layer_overwrites_them() -> None:
    _, _, seen, _ = fit_of()
    assert min(float(part.min()) for part in seen.known) < 0  # a ReLU in place follows
