"""`naa-fast invert`, and `scan` that points to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from invert.planted import pictures

from naa_fast.cli.main import main
from naa_fast.cli.scan import triggers_in
from naa_fast.errors import InputError

MODEL = str(Path(__file__).parents[1] / "invert" / "planted.py") + ":Planted"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clean.npz"
    np.savez(path, x=pictures(6).numpy())
    return path


def test_a_backdoored_model_ends_with_1_and_a_report(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert main(["invert", "--model", MODEL, "--clean", str(clean), "--steps", "150", "--out", str(out)]) == 1
    assert capsys.readouterr().out.startswith("FAIL (exit code 1)")
    assert json.loads((out / "report.json").read_text())["inversion"]["standings"][0]["target"] == 3
    assert (out / "report.html").exists()
    pages = [(out / "report.html").read_text()]
    assert main(["report", str(out), "--format", "sarif,junit,markdown,intoto"]) == 1
    pages.append((out / "report.html").read_text())
    drawn, again = ([line for line in page.splitlines() if "<dt>times" not in line] for page in pages)
    assert drawn == again  # but for the seconds that drawing it took
    assert "proved" in (out / "report.md").read_text()
    assert triggers_in(out)[0].stands
    with pytest.raises(InputError, match="no evidence of a report"):
        triggers_in(tmp_path)
    words = ["repair", str(out), "--model", MODEL, "--out", str(tmp_path / "fixed")]
    assert main([*words, "--clean", str(clean), "--suspect", str(clean)]) == 4  # there was none
    assert "no suspect set was scanned" in capsys.readouterr().err
    main([*words, "--clean", str(clean)])
    told = json.loads((tmp_path / "fixed" / "repair.json").read_text())
    assert told["promised"]["success"] < 0.3 < 0.8 < told["before"]["success"]
    assert told["before"]["clean"] == 240 > told["before"]["triggered"] > 150  # those of other classes


def test_a_base_model_is_named_as_the_model_is(clean: Path, tmp_path: Path) -> None:
    words = ["invert", "--model", MODEL, "--base", MODEL, "--clean", str(clean), "--steps", "60", "--out", str(tmp_path / "r")]
    assert main(words) in (0, 3, 6)  # the same model: nothing is apart from itself
    assert json.loads((tmp_path / "r" / "report.json").read_text())["inversion"]["base"]


def test_scan_without_suspects_points_to_invert(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "--model", MODEL, "--clean", str(clean)]) == 4
    said = capsys.readouterr().err
    assert "no --suspect" in said
    assert "naa-fast invert" in said


@pytest.mark.parametrize("option", [["--threshold", "1"], ["--accept-unranked"], ["--stop-early"]], ids=lambda words: words[0])
def test_what_means_nothing_without_suspects_is_refused(
    option: list[str], clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["invert", "--model", MODEL, "--clean", str(clean), *option]) == 4
    assert f"{option[0]} with invert" in capsys.readouterr().err
