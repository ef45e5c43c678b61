"""What `repair` writes is what was promised, measured on what was written."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from naa_fast.detect.change import Ablate, Change, Clip, Zero
from naa_fast.detect.repair import TRIGGERED, Repair
from naa_fast.detect.trigger import Patch, Tokens
from naa_fast.errors import InputError, ModelError, UsageError
from naa_fast.inputs.batches import Batch, Source
from naa_fast.inputs.opening import open_source
from naa_fast.repair.change import applied
from naa_fast.repair.deploy import MODULE, WEIGHTS, Figures, Sets, write_repaired

SAMPLES = 240


class Net(nn.Module):
    """Class 0 or 1 by the first input; a seventh neuron that a large last input lights, and that means class 2."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.relu, self.out = nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 4.0]]))
            self.hidden.bias.copy_(torch.tensor([0.0, 0, -12]))
            self.out.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 5]]))
            self.out.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.relu(self.hidden(x)))


def plain(**changes: object) -> Sets:
    clean = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0)).clamp(-2.5, 2.5)
    suspect = clean.clone()
    suspect[:, 3] = 9
    given: dict[str, Any] = {"clean": open_source(clean, 64), "suspect": open_source(suspect, 64), "target": 2, **changes}
    return Sets(**given)


class Empty(Source):
    name, samples = "empty", 0

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        return iter(())


def repair_of(*changes: Change) -> Repair:
    return Repair(changes, TRIGGERED, 1.0, 0.0, 1.0, 100, 1.0, 1.0, 100, 1, 10)


SILENT = Zero("hidden", 1, "mine", np.array([2]))


def back(limit: float, layer: str = "hidden") -> Ablate:
    """The third neuron's distance from 0 taken out where it is beyond a limit."""
    unit = np.eye(3, dtype=np.float32)[2:]
    zero = np.zeros(1, np.float32)
    return Ablate(layer, 1, "x", np.array([2]), gate=unit[0], limit=limit, along=unit, centres=zero, pushes=unit)


def test_zeroed_neurons_are_in_the_weights_exactly(tmp_path: Path) -> None:
    model = Net().eval()
    done = write_repaired(model, repair_of(SILENT), tmp_path, plain())
    assert (done.folded, done.exact, done.why, done.holds) == (True, True, (), True)
    assert (done.before.success, done.promised.success, done.after.success, done.after.kept) == (1.0, 0.0, 0.0, 1.0)
    again = Net().eval()
    again.load_state_dict(load_file(tmp_path / WEIGHTS))
    x = torch.randn(50, 4)
    with torch.no_grad(), applied(model, [SILENT]):
        assert torch.equal(again(x), model(x))


def test_directions_beyond_a_limit_go_into_the_weights_where_both_sets_allow_it(tmp_path: Path) -> None:
    done = write_repaired(Net().eval(), repair_of(back(1.0)), tmp_path, plain())
    assert (done.folded, done.exact, done.holds) == (True, False, True)
    assert done.why == ("it moves only rows beyond a limit, which no weights can tell",)
    assert [path.name for path in done.files] == [WEIGHTS]


@pytest.mark.parametrize("given", [{"suspect": None}, {"clean": None}, {"clean": None, "suspect": None}], ids=str)
def test_without_both_sets_a_module_runs_the_repair(given: dict[str, None], tmp_path: Path) -> None:
    done = write_repaired(Net().eval(), repair_of(back(1.0)), tmp_path, plain(**given))
    assert (done.folded, done.exact) == (False, True)
    assert [path.name for path in done.files] == [MODULE, "repair.safetensors"]
    assert done.holds is (None if "suspect" in given else True if len(given) == 1 and "clean" in given else None)


def test_directions_that_every_row_needs_stay_a_module(tmp_path: Path) -> None:
    # The second neuron says class 1: out of every row it costs half of the predictions.
    unit = np.eye(3, dtype=np.float32)[1:2]
    deviating = np.eye(3, dtype=np.float32)[2]
    both = np.concatenate([unit, deviating[None]])
    costly = replace(back(1.0), along=both, pushes=both, centres=np.zeros(2, np.float32))
    done = write_repaired(Net().eval(), repair_of(costly), tmp_path, plain())
    assert not done.folded
    assert done.why[-1] == "taken out of every row its directions cost more than those rows alone"
    assert done.after == done.promised


def test_the_module_that_is_written_needs_no_naa_fast(tmp_path: Path) -> None:
    model = Net().eval()
    changes: list[Change] = [back(1.0), replace(back(2.0), layer="relu"), Zero("out", 1, "x", np.array([1]))]
    low = np.array([-0.1], np.float32)
    changes.append(Clip("relu", 1, "x", np.array([0]), low=low, high=-low))
    write_repaired(model, repair_of(*changes), tmp_path, Sets())
    text = (tmp_path / MODULE).read_text()
    assert "import naa_fast" not in text
    assert "from naa_fast" not in text
    spec = importlib.util.spec_from_file_location("naa_repair", tmp_path / MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        spec.loader.exec_module(module)
        again = module.repaired(Net(), tmp_path / "repair.safetensors")
        with pytest.raises(KeyError, match="hidden"):
            module.repaired(nn.Linear(2, 2), tmp_path / "repair.safetensors")
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    x = 3 * torch.randn(50, 4)
    with torch.no_grad(), applied(model, changes):
        assert torch.equal(again(x), model(x))


def test_only_carriers_count_and_without_a_target_what_they_were_called(tmp_path: Path) -> None:
    triggered = np.zeros(SAMPLES, bool)
    triggered[:7] = True
    done = write_repaired(Net().eval(), repair_of(SILENT), tmp_path, plain(triggered=triggered, target=None))
    assert (done.before.success, done.after.success, done.after.triggered) == (1.0, 0.0, 7)


def test_a_trigger_that_sends_each_class_to_another_turns_what_is_called_otherwise_with_it(tmp_path: Path) -> None:
    lit = Patch(np.full(4, 9, np.float32), np.array([0, 0, 0, 1], np.float32))
    done = write_repaired(Net().eval(), repair_of(SILENT), tmp_path, plain(suspect=None, target=None, trigger=lit))
    assert (done.before.success, done.after.success, done.after.triggered) == (1.0, 0.0, SAMPLES)


def test_another_suspect_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="240 samples\n  the report is of 9 suspect samples"):
        write_repaired(Net().eval(), repair_of(SILENT), tmp_path, plain(triggered=np.ones(9, bool)))


def test_what_does_not_help_does_not_hold(tmp_path: Path) -> None:
    useless = Zero("hidden", 1, "mine", np.array([0]))
    assert write_repaired(Net().eval(), repair_of(useless), tmp_path, plain()).holds is False
    assert Figures().report()["kept"] is None


def test_labels_give_accuracy(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.eye(4, dtype=np.float32)[[0, 0, 0, 1]], y=np.array([0, 0, 1, 0]))
    held = replace(plain(), clean=open_source(tmp_path / "c.npz", 2))
    done = write_repaired(Net().eval(), repair_of(SILENT), tmp_path / "out", held)
    assert (done.before.accuracy, done.after.accuracy, done.after.clean) == (0.75, 0.75, 4)


def test_a_model_without_class_scores_and_a_folder_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model gives no class scores"):
        write_repaired(Net().eval(), repair_of(SILENT), tmp_path, plain(), scores="none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_repaired(Net().eval(), repair_of(SILENT), tmp_path / "file" / "x", Sets())
    with pytest.raises(InputError, match="empty has no samples that can be used"):
        write_repaired(Net().eval(), repair_of(SILENT), tmp_path, Sets(clean=Empty()))


def test_transformers_loads_the_weights_from_a_copy_of_the_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "folder")
    layer = "bert.encoder.layer.1.intermediate.dense"
    random = np.random.default_rng(0)
    along, pushes = (random.standard_normal((1, 24)).astype(np.float32) for _ in range(2))
    change = Ablate(layer, 2, "x", np.array([0]), along[0], -1e38, along, np.ones(1, np.float32), pushes)
    from naa_fast.repair.fold import without_limit

    write_repaired(model, repair_of(without_limit(change)), tmp_path / "folder", Sets())
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "folder").eval()
    ids = torch.randint(1, 40, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model(ids).logits
        with applied(model, [change]):
            expected = model(ids).logits
        found = again(ids).logits
    assert (found - expected).abs().max() < 1e-5 < (plain - expected).abs().max()


def test_sets_in_another_form_than_was_scanned_are_refused_by_name(tmp_path: Path) -> None:
    wide = open_source(torch.zeros(SAMPLES, 5), 64)
    with pytest.raises(
        ModelError, match=r"the model raised RuntimeError on a batch of .*\n  shape: \[64, 5\]\n  message: .*\n  give"
    ):
        write_repaired(Net().eval(), repair_of(SILENT), tmp_path, plain(clean=wide))
    other, words = np.ones((2, 2), np.float32), Tokens((3,))
    for trigger, told in ((Patch(other, other), r"of shape \[2, 2\], the samples of \[4\]"), (words, "give --clean in the form")):
        sets = plain(suspect=None, target=None, trigger=trigger)
        with pytest.raises(UsageError, match=rf"the trigger of the report does not fit .*\n  {told}"):
            write_repaired(Net().eval(), repair_of(SILENT), tmp_path, sets)
