"""The end-to-end benchmark and the GPU's proof of silence, on models small enough for a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import end_to_end, gpu_end_to_end, overhead

FIELDS = {
    "case",
    "variant",
    "dtype",
    "shape",
    "median_ms",
    "p20_ms",
    "p80_ms",
    "bytes",
    "overhead",
    "added_ms",
    "hooked_MB",
    "layers",
}
VARIANTS = ["alone", "ours", "naive hooks", "sums on device"]


def check_rows(rows: list[dict[str, Any]]) -> None:
    assert [row["variant"] for row in rows] == VARIANTS * (len(rows) // 4)
    for row in rows:
        assert set(row) >= FIELDS
        assert row["median_ms"] > 0
        assert row["hooked_MB"] > 0
        assert (row["overhead"] == 0) == (row["variant"] == "alone")


def test_the_script_writes_conditions_and_a_row_a_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "rows.json"
    assert end_to_end.main(["--size", "small", "--rounds", "1", "--json", str(target)]) == 0
    content = json.loads(target.read_text())
    check_rows(content["rows"])
    assert content["conditions"]["versions"]["torch"] == torch.__version__
    assert "naive hooks" in capsys.readouterr().out
    assert str(Path.home()) not in target.read_text()


def test_gpu_rows_have_the_same_form_on_small_models() -> None:
    rows = gpu_end_to_end.end_to_end_rows("cpu", "small", rounds=1)
    check_rows(rows)
    assert {row["case"] for row in rows} == {
        "ResNet-50 channels_last, convolutions",
        "Llama-like, residual",
        "Llama-like, residual + MLP",
    }
    assert all(row["model"] for row in rows)


def test_the_proof_claims_nothing_without_a_gpu() -> None:
    found = gpu_end_to_end.sync_and_copy_proof("cpu", batches=1)
    assert found["batches"] == [1, 10]
    assert found["measured"] is False
    assert found["proved"] is False


def test_copies_and_waits_are_counted_in_a_trace() -> None:
    def event(cat: str, name: str, **args: int) -> dict[str, Any]:
        return {"cat": cat, "name": name, "args": args}

    events = [
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", bytes=100),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", bytes=20),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", bytes=7),
        event("cuda_runtime", "cudaStreamSynchronize"),
        event("cuda_runtime", "cudaLaunchKernel"),
        {"name": "process_name", "ph": "M"},
    ]
    assert gpu_end_to_end.counted(events) == {"dtoh_copies": 2, "dtoh_bytes": 120, "waits": 1}


def test_a_record_that_differs_from_float64_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = overhead.observed

    def shifted(*arguments: Any) -> Any:
        nbytes, answers = right(*arguments)
        return nbytes, {name: (mean + 0.01, variance) for name, (mean, variance) in answers.items()}

    monkeypatch.setattr(overhead, "observed", shifted)
    model = overhead.resnet((1,), False, 4, 4)
    with pytest.raises(overhead.WrongAnswer, match=r"0: mean off by"):
        overhead.overhead_rows("case", model, torch.randn(2, 3, 16, 16), overhead.conv_names(model), 1)


def test_copies_share_weights_but_not_hooks() -> None:
    model = overhead.resnet((1,), False, 4, 4)
    other = overhead.shared_copy(model)
    kept = overhead.hooked(other, ["0"], overhead.naive_hook)
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    model(torch.randn(2, 3, 16, 16))
    assert kept == {"0": []}


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_networks_have_the_number_of_convolutions_of_their_names(bottleneck: bool) -> None:
    with torch.device("meta"):
        model = overhead.resnet((3, 4, 6, 3) if bottleneck else (2, 2, 2, 2), bottleneck)
    assert len(overhead.conv_names(model)) == (53 if bottleneck else 20)


def test_decoders_are_hooked_at_the_residual_stream_and_the_mlp_neurons() -> None:
    model = overhead.Decoder(2, 8, 16, 2, 10, gated=True)
    assert overhead.decoder_names(model) == ["layers.0", "layers.0.mlp.act_fn", "layers.1", "layers.1.mlp.act_fn"]
    assert overhead.decoder_names(model, neurons=False) == ["layers.0", "layers.1"]


def test_without_transformers_the_decoder_is_our_own_in_the_same_shape_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    model, source = gpu_end_to_end.llama(torch.device("cpu"), torch.bfloat16, gpu_end_to_end.SMALL_LLAMA, 2)
    assert source == "own definition"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert model(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, gpu_end_to_end.SMALL_LLAMA["hidden"])
