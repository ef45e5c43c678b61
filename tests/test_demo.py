"""The demo keeps its promises: a real backdoor, found and cut out, and a clean twin that is not called backdoored."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn (the demo extra)")

from naa_fast import demo
from naa_fast.cli.main import main
from naa_fast.detect.evidence_file import EVIDENCE_FILE, load_evidence
from naa_fast.errors import EXIT_USAGE
from naa_fast.report.machine import load_schema


def test_the_demo_finds_the_backdoor_and_writes_both_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(tmp_path) == 0
    printed = capsys.readouterr().out
    rates = re.findall(r"the (\w+) twin: clean accuracy ([\d.]+), attack success rate ([\d.]+)", printed)
    (_, accuracy, success), (_, twin_accuracy, twin_success) = rates
    assert float(accuracy) > 0.9 < float(twin_accuracy)
    assert float(success) > 0.9
    assert float(twin_success) < 0.1
    reports = {twin: json.loads((tmp_path / twin / "report.json").read_text()) for twin in ("backdoored", "clean")}
    for twin, report in reports.items():
        jsonschema.validate(report, load_schema())
        assert (tmp_path / twin / "signature.png").stat().st_size > 10_000
    assert reports["backdoored"]["outcome"] == "fail"
    assert reports["clean"]["outcome"] == "warn"
    backdoored, clean = printed.split("== the clean")
    clean, inverted = clean.split("== the backdoored twin once more")
    table = backdoored.split("\nRepair ")[1].splitlines()[1:4]
    (accuracy_before, success_before), (accuracy_after, left), (_, by_chance) = (map(float, row.split()[-2:]) for row in table)
    assert success_before == float(success)
    assert left < 0.1 < 0.8 < by_chance
    assert accuracy_after > accuracy_before - 0.02
    assert "No repair: the outcome is warn" in clean
    without_a_triggered_sample_the_trigger_is_made_and_shown_beside_the_real_one(tmp_path / "inverted", inverted)
    the_command_that_is_printed_writes_weights_that_plain_torch_loads(tmp_path, backdoored, accuracy_before)
    the_suspects_over_three_shards_give_the_same_proof_and_scores(tmp_path)


def without_a_triggered_sample_the_trigger_is_made_and_shown_beside_the_real_one(folder: Path, printed: str) -> None:
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, load_schema())
    assert (report["outcome"], report["inversion"]["standings"][0]["target"]) == ("fail", demo.TARGET)
    rows = [line.split("        ") for line in printed.split("model alone\n")[1].splitlines() if len(line) == 42]
    real, made = ([pair[side].split() for pair in rows] for side in (0, 1))
    where = [(row, column) for row in range(8) for column in range(8) if real[row][column] != "."]
    assert where == [(6, 6), (6, 7), (7, 6), (7, 7)]
    assert sum(made[row][column] in "#+" for row, column in where) >= 2
    assert sum(sign != "." for line in made for sign in line) <= 10
    assert (folder / demo.BESIDE).stat().st_size > 3000
    before, after, by_chance = (float(row.split()[-1]) for row in printed.split("\nRepair ")[1].splitlines()[1:4])
    assert after < 0.1 < 0.8 < min(before, by_chance)


def the_command_that_is_printed_writes_weights_that_plain_torch_loads(folder: Path, printed: str, accuracy_before: float) -> None:
    words = shlex.split(printed.split("weights to deploy: naa-fast ")[1].splitlines()[0])
    original = (folder / "backdoored.safetensors").read_bytes()
    assert main([*words, "--out", str(folder / "fixed")]) == 0
    assert (folder / "backdoored.safetensors").read_bytes() == original
    told = json.loads((folder / "fixed" / "repair.json").read_text())
    assert (told["folded"], told["exact"], told["holds"]) == (True, False, True)  # it moves rows beyond a limit: not those alone
    model = demo.small_cnn().eval()
    model.load_state_dict(load_file(folder / "fixed" / "model.safetensors"))
    digits = demo.load_digits()
    with torch.no_grad():
        called, triggered = (model(x).argmax(1) for x in (digits.clean_x, digits.suspect_x))
    assert float((called == digits.clean_y).double().mean()) == pytest.approx(told["after"]["accuracy"])
    assert float((triggered == demo.TARGET).double().mean()) == pytest.approx(told["after"]["success"])
    assert told["after"]["success"] < 0.05 < 0.9 < told["before"]["success"]
    assert demo.rates(model, digits)[0] > accuracy_before - 0.02  # on samples that measured nothing
    assert main([*words, "--weights", str(folder / "clean.safetensors"), "--out", str(folder / "other")]) == EXIT_USAGE
    assert not (folder / "other").exists()


def the_suspects_over_three_shards_give_the_same_proof_and_scores(folder: Path) -> None:
    words = ["--model", "naa_fast.demo:small_cnn", "--weights", str(folder / "backdoored.safetensors")]
    by, merged, out = (str(folder / name) for name in ("clean.naa.safetensors", "suspect.naa.safetensors", "proved"))
    assert main(["measure", *words, "--data", str(folder / "clean.npz"), "--reference", "--out", by]) == 0
    parts = [str(folder / f"{number}.naa.safetensors") for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        shard = ["--against", by, "--retain", "--shard", f"{number}/3", "--out", part]
        assert main(["measure", *words, "--data", str(folder / "suspect.npz"), *shard]) == 0
    assert main(["merge", *parts[::-1], "--out", merged]) == 0
    assert main(["prove", merged, *words, "--clean", str(folder / "clean.npz"), "--no-repair", "--out", out]) == 1
    found, want = (load_evidence(Path(place, EVIDENCE_FILE)) for place in (out, folder / "backdoored"))
    proofs = [
        [(one.target, one.rate, one.control, one.stands, one.trigger.key) for one in evidence.proof] for evidence in (found, want)
    ]
    assert proofs[0] == proofs[1]
    assert proofs[0][0][3]
    assert found.ranking is not None
    assert want.ranking is not None
    assert np.allclose(found.ranking.scores, want.ranking.scores, rtol=1e-3, atol=1e-3)
    assert [row.sample for row in found.ranking.rows(10)] == [row.sample for row in want.ranking.rows(10)]
    assert found.ranking.triggered is not None
    assert want.ranking.triggered is not None
    assert np.array_equal(found.ranking.triggered, want.ranking.triggered)
    standing = [{one.layer for one in evidence.directions if one.stands} for evidence in (found, want)]
    assert standing[0] == standing[1] != set()
