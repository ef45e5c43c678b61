"""The summary fits on a screen: at most 40 lines whatever was found, each within its width, and safe whatever names say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.examples import EXAMPLES, classic, deep, judged, many_layers, not_a_number, pair, pictured, ranking_of, worded

from naa_fast.detect.accept import Rules
from naa_fast.detect.evidence import Evidence, nameless
from naa_fast.detect.names import Names
from naa_fast.detect.proof import Proof
from naa_fast.detect.trigger import Patch, TokenPair, Tokens, Trigger
from naa_fast.report.brief import LINES, brief, flowed
from naa_fast.report.words import display_cells


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("width", [20, 60, 80, 100, 300])
def test_every_summary_fits_and_is_safe(example: str, width: int) -> None:
    judgement = EXAMPLES[example]()
    text = brief(judgement, width)
    assert text.endswith("\n")
    lines = text.splitlines()
    for line in lines:
        assert display_cells(line) <= min(max(width, 40), 140), line
        assert line.isprintable()
    if width >= 80:
        assert len(lines) <= LINES
    assert lines[0] == f"{judgement.verdict.outcome.upper()} (exit code {judgement.verdict.exit_code})"


def test_forty_lines_hold_forty_findings_of_each_level_and_a_thousand_samples() -> None:
    evidence = Evidence(ranking_of(1000, 400), pictured().evidence.proof)
    judged_alone = judged({f"layer{i:02}": pair(6, {2: 3.0 + i}, seed=i) for i in range(40)}, evidence=evidence)
    judgement = replace(judged_alone, repair=pictured().repair)
    for width in (80, 100, 140):
        assert len(brief(judgement, width).splitlines()) <= LINES


def test_it_says_outcome_sentence_what_to_do_findings_neurons_samples_and_what_was_not_checked() -> None:
    judgement = pictured()
    text = brief(judgement)
    flat = " ".join(text.split())
    assert judgement.verdict.sentence in flat
    order = [
        "Next: Do not deploy this model",
        "Findings",
        "Neurons: 1 abnormal (*)",
        "Samples: ",
        "Repair: zero 2",
        "Not checked",
        "Seen: ",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "proved (1)          (input): 91 % (limit 65 %), a trigger read off" in text
    assert "17.82 σ (limit 2 σ)" in text
    assert "the trigger turns 1 % instead of 89 % (random: 88 %); 99.5 % of the clean predictions stay" in flat


def test_three_findings_a_level_and_fewer_neurons_where_these_are_many() -> None:
    judgement = judged({f"layer{i:02}": pair(6, {2: 3.0 + i}, seed=i) for i in range(5)}, evidence=Evidence(ranking_of(300, 20)))
    text = brief(judgement)
    assert "backdoor-like (5)" in text
    part = text[text.index("Findings") : text.index("Neurons")]
    assert sum("that stand out" in line or "that stands out" in line for line in part.splitlines()) == 3
    assert part.index("layer04") < part.index("layer03")
    shown = text[text.index("Samples") :].partition("\n\n")[0]
    assert 8 <= shown.count("→") <= 10
    assert "20 carry the trigger (*)" in shown


def test_ten_neurons_and_ten_samples_where_there_is_room() -> None:
    ranking = replace(ranking_of(100, 5), file_of=nameless)
    text = brief(judged({"fc": pair(16)}, evidence=Evidence(ranking)))
    assert text[text.index("Neurons") :].partition("\n\n")[0].count("\n") == 11
    assert text[text.index("Samples") :].partition("\n\n")[0].count("→") == 10


def test_what_a_script_is_told_and_which_checks_ran_are_said() -> None:
    judgement = replace(classic(), rules=Rules(fail_on="proved", warn_ok=True))
    text = brief(judgement)
    assert text.startswith(f"FAIL (exit code {judgement.gate.exit_code})\n")
    assert judgement.gate.exit_code != judgement.verdict.exit_code
    assert f"For scripts: {judgement.gate.decision}, exit code {judgement.gate.exit_code}." in " ".join(text.split())
    assert "Checks: shift" in text
    assert "did not" in text


def test_the_table_says_which_view_z_is_of() -> None:
    lines = brief(classic(None)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Neurons: 10 abnormal (*), z above 2 σ"))
    assert lines[start + 1].split() == ["layer", "neuron", "z", "(σ)", "view", "difference", "clean", "mean", "suspect", "mean"]
    rows = [line.split() for line in lines[start + 2 : start + 12]]
    assert sorted(int(row[2]) for row in rows) == list(range(10, 20))
    layer = classic(None).layers["fc"]
    for star, _, neuron, z, view, *_ in rows:
        assert star == "*"
        assert float(z) == pytest.approx(layer.z[int(neuron)], rel=5e-3)
        assert view == layer.view_of(int(neuron))


def test_a_narrow_terminal_has_fewer_columns() -> None:
    lines = brief(classic(None), 50).splitlines()
    assert any(line.split() == ["layer", "neuron", "z", "(σ)"] for line in lines)


def test_what_cannot_be_compared_does_not_push_real_neurons_off_the_table() -> None:
    lines = brief(not_a_number()).splitlines()
    assert sum(line.startswith("  ? broken") for line in lines) == 2
    assert sum(line.startswith("    sound ") for line in lines) == 8
    assert "32 cannot be compared (?)" in "\n".join(lines)
    assert sum(line.startswith("  * ") for line in brief(many_layers()).splitlines()) == 3


WHITE = np.ones((1, 2, 2), np.float32)
TRIGGERS = [Tokens((3,), "zebra"), TokenPair((3, 4), "red … fox"), Patch(WHITE, WHITE, "4 % of the input")]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda trigger: trigger.kind)
def test_the_nearest_proof_names_its_words(trigger: Trigger) -> None:
    near = Proof(trigger, 1, 0.5, 0.2, 100, 0)
    kind, words = near.kind, near.words
    text = " ".join(brief(judged({"f": pair(8)}, evidence=Evidence(ranking_of(100, 0), (near,)))).split())
    named = f"the {kind} '{words}'" if words else f"a {kind}"
    assert f"Nearest to a proof: {named} turns 50 % (40 to 60 %) to class 1, control 20 %" in text


def test_colour_is_for_the_outcome_alone_and_only_where_it_is_asked_for() -> None:
    assert "\x1b" not in brief(pictured())
    first, rest = brief(pictured(), colour=True).split("\n", 1)
    assert first == "\x1b[1;31mFAIL\x1b[0m (exit code 1)"
    assert "\x1b" not in rest


def test_deep_models_are_as_short_as_others() -> None:
    assert len(brief(deep(300, 128)).splitlines()) <= LINES


def test_texts_and_files_are_named() -> None:
    text = brief(worded())
    assert "0* 0-<img src=x onerror=alert(1)>.png → 7" in text
    named = worded()
    evidence = replace(named.evidence, names=Names({7: " Click\x1b"}, "next token"))
    assert "onerror=alert(1)>.png → ' Click\\x1b'" in brief(replace(named, evidence=evidence))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30), max_size=12),
    st.integers(40, 100),
)
def test_entries_flow_and_none_is_cut_in_two(entries: list[str], width: int) -> None:
    lines = flowed(entries, width)
    assert all(line.startswith("  ") and len(line) <= width for line in lines)
    assert " ".join(line.strip() for line in lines).split() == [e + "," for e in entries[:-1]] + entries[-1:]
    assert np.all([len(a) + len(b.split()[0]) + 1 > width for a, b in pairwise(lines)])
