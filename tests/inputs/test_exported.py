"""Exported programs: scanned as the model they were made from; what could run code in them is refused unread."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inputs.marker import Marker
from torch import Tensor, nn

from naa_fast import audit
from naa_fast.capture import select
from naa_fast.cli.main import main
from naa_fast.errors import EXIT_PASS, EXIT_UNSAFE, ModelError, UnsafeInput
from naa_fast.inputs import exported
from naa_fast.inputs.exported import is_sum, load_exported
from naa_fast.inputs.models import load_model


class Net(nn.Module):
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.GELU("tanh")) for _ in range(2)])
        self.head = nn.Linear(4, 2)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3)) + self.shift
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.reshape(x.shape[0] * 2, 2).reshape(-1, 4))


X = torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    dynamic = ({0: torch.export.Dim("n", min=1, max=512)},)
    torch.export.save(torch.export.export(Net().eval(), (X[:4],), dynamic_shapes=dynamic), path)
    return path


def test_an_exported_program_gives_the_statistics_of_its_model(program: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, loaded = Net(), load_model(str(program), {})
    names = [layer.name for layer in select(model).layers]
    assert [layer.name for layer in select(loaded).layers] == names
    expected = audit.measure(model, X, batch_size=7)
    measured = audit.measure(loaded, X, batch_size=7)
    for name, record in expected.layers.items():
        assert measured.layers[name].layout == record.layout
        for ours, theirs in zip(measured.layers[name].packed(), record.packed(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.save(tmp_path / "x.npy", X.numpy())
    words = f"measure --model {program} --data {tmp_path / 'x.npy'} --device cpu --out {tmp_path / 'o'}"
    assert main(words.split()) == EXIT_PASS


def altered(program: Path, path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The program with its members changed; the prefix of their names left out."""
    with zipfile.ZipFile(program) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"net/{name}", content)
    return path


def with_text(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    """Changes the text of the graph, which must have `old` in it."""

    def change(members: dict[str, bytes]) -> None:
        assert old.encode() in members["models/model.json"], old
        members["models/model.json"] = members["models/model.json"].replace(old.encode(), new.encode(), 1)

    return change


def with_member(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


def pickled_weight(members: dict[str, bytes]) -> None:
    config = json.loads(members["data/weights/model_weights_config.json"])
    config["config"]["head.weight"]["use_pickle"] = True
    members["data/weights/model_weights_config.json"] = json.dumps(config).encode()


def custom_constant(members: dict[str, bytes]) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    members["data/constants/model_constants_config.json"] = json.dumps({"config": {"x": entry}}).encode()


RUN = "__import__('os').mkdir('ran')"
TARGET = "torch.ops.aten.conv2d.default"
HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "a call outside the operators": (with_text(TARGET, "torch.load"), "it calls 'torch.load', which is not known to be harmless"),
    "a call that writes files": (
        with_text(TARGET, "torch.ops.aten.from_file.default"),
        "it calls 'torch.ops.aten.from_file.default'",
    ),
    "an operator of a library": (with_text(TARGET, "torch.ops.evil.run.default"), "it calls 'torch.ops.evil.run.default'"),
    "an expression that is code": (with_text("Symbol('s", RUN + "+Symbol('s"), "its expr_str reads"),
    "a name that is code": (with_text('"name": "conv2d"', f'"name": "{RUN}"'), "its name reads"),
    "a tree of unknown types": (with_text('\\"builtins.tuple\\"', '\\"collections.defaultdict\\"'), "its in_spec reads"),
    "an option that is a path": (with_text('"as_string": "tanh"', '"as_string": "../x"'), "its as_string reads '../x'"),
    "an object of its own": (
        with_text('"custom_obj_values": {}', '"custom_obj_values": {"a": 1}'),
        "it brings objects of its own",
    ),
    "a pickled weight": (pickled_weight, "its tensor 'head.weight' is stored as a pickle"),
    "a pickled object": (custom_constant, "its tensor 'x' is stored as a pickle"),
    "a compiled library": (with_member("data/aotinductor/model/x.so", b"\x7fELF"), "it holds compiled libraries"),
    "an unknown file": (with_member("extra/../../x", b""), "it holds files of unknown purpose"),
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_what_could_run_code_is_refused(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    change, words = HOSTILE[what]
    path = altered(program, tmp_path / "evil.pt2", change)
    with pytest.raises(UnsafeInput, match="refused to load") as caught:
        load_exported(path)
    assert words in str(caught.value)
    assert "--model FILE.py:FUNCTION" in str(caught.value)
    np.save("x.npy", X.numpy())
    assert main(["measure", "--model", "evil.pt2", "--data", "x.npy", "--out", "o.naa.safetensors"]) == EXIT_UNSAFE
    assert "refused to load evil.pt2" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["evil.pt2", "x.npy"], "nothing ran, nothing was written"


def test_pickled_sample_inputs_never_run(program: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(Marker(marker), buffer)
    for content in (buffer.getvalue(), pickle.dumps(Marker(marker))):
        path = altered(program, tmp_path / "evil.pt2", with_member("data/sample_inputs/model.pt", content))
        with pytest.raises(UnsafeInput, match="its sample inputs are a full pickle"):
            load_exported(path)
        assert not marker.exists()


def test_guards_are_not_compiled_and_metadata_is_not_resolved(program: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    change = with_text('"guards_code": []', f'"guards_code": ["{RUN}"]')
    model = load_exported(altered(program, tmp_path / "a.pt2", change))
    model(X)
    assert not Path("ran").exists()


def test_an_archive_with_two_files_of_one_name_or_packed_is_refused(program: Path, tmp_path: Path) -> None:
    path = altered(program, tmp_path / "a.pt2", lambda members: None)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("net/models/model.json", "{}")
    with pytest.raises(UnsafeInput, match="several files of one name"):
        load_exported(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/models/model.json", "{}")
    with pytest.raises(UnsafeInput, match="its files are packed"):
        load_exported(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("2*s0 + Mod(s1, 8) // Max(1, s2)", True),
        (RUN, False),
        ("Symbol(\"__import__('os')\")", False),
        ("s0.__class__", False),
        ("exec", True),
        ("exec(s0)", False),
        ("9**9**9**9", False),
        ("[s0 for s0 in s1]", False),
        ("(", False),
        ("(" * 5000, False),
    ],
)
def test_an_expression_is_arithmetic_or_refused(text: str, expected: bool) -> None:
    assert is_sum(text) is expected


def test_files_that_cannot_be_loaded_say_why(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(path: Path, kind: type[Exception] = ModelError) -> str:
        with pytest.raises(kind) as caught:
            load_exported(path)
        return str(caught.value)

    path = tmp_path / "a.pt2"
    assert "no such exported program" in message(path)
    path.write_bytes(b"PK garbage")
    assert "is damaged, or not a .pt2 file" in message(path)
    altered(program, path, lambda members: members.__delitem__("models/model.json"))
    assert "models/model.json is missing" in message(path)
    altered(program, path, with_member("models/model.json", b"{"))
    assert "is damaged\n  models/model.json: " in message(path)
    altered(program, path, with_member("models/model.json", b"{}"))
    assert "cannot be loaded" in message(path)
    altered(program, path, with_member("data/weights/model_weights_config.json", b"[]"))
    assert "its list of tensors is none" in message(path)
    monkeypatch.setattr(exported, "torch_version", lambda: (2, 9))
    assert "has known holes" in message(program, UnsafeInput)
