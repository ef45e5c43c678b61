"""The files that other tools read, the Action, the hook, the containers and the site, agree with the package."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from naa_fast.cli.main import build_parser, main
from naa_fast.errors import EXIT_PASS, EXIT_USAGE

yaml = pytest.importorskip("yaml", reason="PyYAML comes with transformers")
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_action_declares_what_it_uses_and_no_input_is_text_of_a_script() -> None:
    action = loaded("action.yml")
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(action["inputs"])
    steps = action["runs"]["steps"]
    assert all(step["shell"] == "bash" and "${{" not in step["run"] for step in steps)
    assert {value["value"] for value in action["outputs"].values()} == {
        f"${{{{ steps.scan.outputs.{name} }}}}" for name in action["outputs"]
    }
    assert (ROOT / "tools" / "action.sh").is_file()


def run_action(folder: Path, code: int, out: str, reports: list[str]) -> tuple[int, str, dict[str, str], list[str]]:
    """Exit code, summary, outputs and the words of the command, which writes `reports`."""
    (folder / "bin").mkdir()
    command = folder / "bin" / "naa-fast"
    made = "\n".join(f"mkdir -p {shlex.quote(at)}; echo '# {at}' > {at}/report.md; : > {at}/report.sarif" for at in reports)
    command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > words\n{made}\nexit {code}\n')
    command.chmod(0o755)
    names = {"GITHUB_STEP_SUMMARY": "summary", "GITHUB_OUTPUT": "output"}
    where = {name: str(folder / file) for name, file in names.items()}
    environment = {**os.environ, **where, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CONFIG": "a b.toml", "OUT": out}
    done = subprocess.run(["bash", str(ROOT / "tools" / "action.sh")], cwd=folder, env=environment, check=False)
    summary = (folder / "summary").read_text() if (folder / "summary").exists() else ""
    outputs = dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())
    return done.returncode, summary, outputs, (folder / "words").read_text().splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("code", [0, 1, 6])
def test_the_action_gives_the_scans_exit_code_summary_and_sarif(code: int, tmp_path: Path) -> None:
    found, summary, outputs, words = run_action(tmp_path, code, "r", ["r"])
    assert (found, summary) == (code, "# r\n")
    assert outputs == {"exit-code": str(code), "report": "r", "sarif": "r/report.sarif"}
    assert words == ["scan", "--config", "a b.toml", "--format", "sarif,junit,markdown", "--out", "r"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_action_sums_up_several_scans_and_forges_no_output(tmp_path: Path) -> None:
    found, summary, outputs, words = run_action(tmp_path, 3, "", ["naa-report/a", "naa-report/b"])
    assert (found, summary, outputs["sarif"]) == (3, "# naa-report/a\n# naa-report/b\n", "")
    assert "--out" not in words
    other = tmp_path / "other"
    other.mkdir()
    assert set(run_action(other, 2, "x\nsarif=/etc", [])[2]) == {"exit-code", "report", "sarif"}


def test_the_hook_names_a_command_that_is_understood() -> None:
    (hook,) = loaded(".pre-commit-hooks.yaml")
    program, verb, *words = shlex.split(hook["entry"])
    assert (program, verb, words) == ("naa-fast", "scan", ["--config", "scan.toml"])
    assert all(re.search(hook["files"], name) for name in ("a/model.safetensors", "x.pt2", "scan.toml", "sub/scan.toml"))
    assert not any(re.search(hook["files"], name) for name in ("model.py", "notscan.toml", "x.ptx"))


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_a_container_copies_what_is_there_and_what_is_let_in(name: str) -> None:
    text = (ROOT / name).read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == let_in
    assert all((ROOT / path).exists() for path in copied)
    (user,) = re.findall(r"^USER (\d+)$", text, re.MULTILINE)
    assert f"--uid {user} " in text
    assert int(user) > 1000
    assert 'ENTRYPOINT ["naa-fast"]' in text
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_site_has_every_page() -> None:
    site = loaded("mkdocs.yml")

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for one in (entry if isinstance(entry, list) else entry.values()) for page in pages(one)]

    assert sorted(pages(site["nav"])) == sorted(
        ["index.md", "reference.md", *(path.name for path in (ROOT / "docs").glob("*.md"))]
    )
    assert all((ROOT / hook).is_file() for hook in site["hooks"])


def test_the_sites_own_pages_lead_where_it_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "tools" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    first = pages.first_page()
    assert "](docs/" not in first
    assert "](verdict.md)" in first
    for name in pages.PUBLIC:
        place, _, last = name.rpartition(".")
        module = importlib.import_module(place)
        assert hasattr(module, last), name


def test_an_index_can_show_the_package() -> None:
    assert PROJECT["authors"]
    assert PROJECT["keywords"]
    versions = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: 3." in line}
    low, high = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert versions == {f"3.{minor}" for minor in range(int(low), int(high))}
    assert not any(line.startswith("License ::") for line in PROJECT["classifiers"]), "the licence is an SPDX expression"


def test_the_release_notes_begin_with_the_version_of_the_package() -> None:
    first = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert re.fullmatch(rf"## {re.escape(PROJECT['version'])} \((unreleased|\d{{4}}-\d\d-\d\d)\)", first)


def test_completion_is_shtabs_and_asks_for_it_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shtab = ModuleType("shtab")
    given: list[Any] = []

    def complete(parser: Any, shell: str) -> str:
        given.append((parser.prog, shell))
        return "# script"

    vars(shtab)["complete"] = complete
    monkeypatch.setitem(sys.modules, "shtab", shtab)
    assert main(["--completion", "zsh"]) == EXIT_PASS
    assert (capsys.readouterr().out, given) == ("# script\n", [("naa-fast", "zsh")])
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--completion", "bash"]) == EXIT_USAGE
    assert "pip install 'naa-fast[completion]'" in capsys.readouterr().err
    assert "--completion" in build_parser().format_help()
