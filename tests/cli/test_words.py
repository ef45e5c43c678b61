"""The command line's words: quick help, the options of the contract, and usage errors with exit code 4."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from naa_fast.cli.main import build_parser, main
from naa_fast.cli.shared import model_arguments
from naa_fast.errors import EXIT_USAGE, UsageError

VERBS = ("scan", "invert", "rank", "measure", "merge", "compare", "report", "repair", "demo", "doctor", "bench")
HEAVY = ("torch", "numpy", "numba", "cupy", "matplotlib", "safetensors", "PIL")
SCAN = ["scan", "--model", "m.py:build", "--clean", "c.npz", "--suspect", "s.npz"]


def usage(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a wrong command says on stderr; nothing may reach stdout."""
    assert main(words) == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
from naa_fast.cli.main import main
assert main({words!r}) == 0
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"
    assert found.stdout.startswith("usage: naa-fast")


def test_help_answers_in_under_half_a_second() -> None:
    seconds = []
    for _ in range(3):  # processor time: other tests keep the machine busy beside this one
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = subprocess.run([sys.executable, "-m", "naa_fast", "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
    assert all(verb in found.stdout for verb in VERBS)
    assert "0 pass, 1 fail (a finding of --fail-on), 2 error, 3 inconclusive" in " ".join(found.stdout.split())


def test_the_words_of_the_contract_are_understood() -> None:
    parse = build_parser().parse_args
    words = [*SCAN, "--model-arg", "width=3", "deep=true", "--model-arg", "a=1", "--weights", "w.pt", "--layers", "0", "1.*"]
    words += ["--threshold", "2.0", "--top-k", "5", "--batch-size", "7", "--device", "cpu", "--backend", "reference"]
    found = parse([*words, "--out", "o", "--json"])
    assert (found.model, found.model_arg, found.weights) == ("m.py:build", ["width=3", "deep=true", "a=1"], Path("w.pt"))
    assert (found.clean, found.suspect, found.layers) == (Path("c.npz"), Path("s.npz"), ["0", "1.*"])
    assert (found.threshold, found.top_k, found.batch_size, found.device) == (2.0, 5, 7, "cpu")
    assert (found.backend, found.out, found.json) == ("reference", Path("o"), True)
    plain = parse(SCAN)
    assert (plain.layers, plain.threshold, plain.top_k, plain.batch_size) == (None, None, 20, 256)
    assert (plain.device, plain.backend, plain.out, plain.json) == ("auto", "auto", Path("naa-report"), False)
    measured = parse(["measure", "--model", "m:f", "--data", "d.npy", "--out", "x.naa.safetensors"])
    assert (measured.data, measured.out) == (Path("d.npy"), Path("x.naa.safetensors"))
    merged = parse(["merge", "a", "b", "c", "--out", "x"])
    assert merged.files == [Path("a"), Path("b"), Path("c")]
    compared = parse(["compare", "a", "b", "--out", "o", "--threshold", "1", "--top-k", "3", "--json"])
    assert (compared.clean, compared.suspect, compared.threshold, compared.top_k) == (Path("a"), Path("b"), 1.0, 3)
    assert parse(["demo"]).out == Path("naa-demo")
    assert parse(["doctor"]).run


def test_no_verb_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    text = usage(capsys)
    assert "error: no verb given" in text
    assert "verbs: scan, invert, rank, measure, merge, prove, compare, report, repair, demo, doctor" in text
    assert "for more: naa-fast --help" in text


def test_an_unknown_verb_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    text = usage(capsys, "frobnicate")
    assert "'frobnicate'" in text
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["scan"], "the following arguments are required: --model"),
        (["measure", "--model", "m:f", "--data", "d"], "required: --out"),
        (["merge", "--out", "x"], "required: FILE"),
        (["compare", "a"], "required: SUSPECT"),
        ([*SCAN, "--thresh", "1"], "unrecognized arguments: --thresh 1\n  did you mean --threshold?"),
        ([*SCAN, "--bach-size", "1"], "did you mean --batch-size?"),
        ([*SCAN, "--fail-on", "prooved"], "did you mean proved?"),
        (["scan", "--modle", "m:f"], "did you mean --model?"),
        (["scna"], "did you mean scan?"),
        ([*SCAN, "--format", "sarif,pdf"], "'pdf' is no format of a report: expected some of sarif, junit, markdown, intoto"),
        ([*SCAN, "--device", "gpu"], "'gpu' is not a device: expected auto, cpu"),
        ([*SCAN, "--backend", "fast"], "invalid choice: 'fast'"),
        ([*SCAN, "--top-k", "0"], "argument --top-k: '0' is not a whole number of 1 or more"),
        ([*SCAN, "--top-k", "²"], "'²' is not a whole number of 1 or more"),
        ([*SCAN, "--batch-size", "-1"], "argument --batch-size: "),
        ([*SCAN, "--batch-size", "2.5"], "'2.5' is not a whole number of 1 or more"),
        ([*SCAN, "--threshold", "nan"], "argument --threshold: 'nan' is not a finite number of 0 or more"),
        ([*SCAN, "--threshold", "inf"], "'inf' is not a finite number of 0 or more"),
        ([*SCAN, "--threshold=-1"], "'-1' is not a finite number of 0 or more"),
        ([*SCAN, "--threshold", "two"], "'two' is not a finite number of 0 or more"),
    ],
)
def test_a_wrong_word_is_named_with_exit_code_4(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    text = usage(capsys, *words)
    assert expected in text
    assert "for more: naa-fast " in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_ends_with_commands_that_are_understood(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    examples = capsys.readouterr().out.split("\nexamples:\n")[1].splitlines()
    assert examples
    for line in examples:
        program, *words = shlex.split(line)
        assert (program, words[0]) == ("naa-fast", verb)
        if "--config" not in words:
            build_parser().parse_args(words)


def test_a_word_like_no_other_gets_no_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in usage(capsys, *SCAN, "--xyzzy")


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    assert capsys.readouterr().out.startswith("naa-fast 0.")


def test_model_arguments_are_json() -> None:
    words = ["width=64", 'name="resnet18"', "deep=true", "sizes=[1, 2]", "none=null", 'text="a=b"']
    expected = {"width": 64, "name": "resnet18", "deep": True, "sizes": [1, 2], "none": None, "text": "a=b"}
    assert model_arguments(words) == expected
    assert json.dumps(model_arguments([])) == "{}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["width"], "--model-arg width is not of the form KEY=JSON"),
        (["=3"], "--model-arg =3 is not of the form KEY=JSON"),
        (["a-b=3"], "--model-arg a-b=3 is not of the form KEY=JSON"),
        (["a=1", "a=2"], "--model-arg a is given twice"),
        (["name=resnet18"], "--model-arg name=resnet18 is not valid JSON"),
        (["name=resnet18"], "--model-arg 'name=\"resnet18\"'"),
        (["width="], "--model-arg width= is not valid JSON"),
    ],
)
def test_a_model_argument_of_another_form(words: list[str], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        model_arguments(words)
    assert expected in str(caught.value)
