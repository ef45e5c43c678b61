"""The detection study: its truth is the truth, its figures are counted right, and a blind detector would be seen."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

import naa_fast
from benchmarks.detection import __main__ as command
from benchmarks.detection import data, publish, runner, tables
from benchmarks.detection import price as in_turns
from benchmarks.detection.attacks import HALVES, Attack
from benchmarks.detection.audit import price
from benchmarks.detection.cases import CASES, SUBSET, Case, by_name
from benchmarks.detection.metrics import auc, auc_interval, mean_interval, precision_at_k
from benchmarks.detection.models import ARCHITECTURES, build
from benchmarks.detection.repair import repair_row
from benchmarks.detection.rivals import RIVALS, Features, Reader
from benchmarks.detection.runner import Job, ordered, priced, rows_of, run
from benchmarks.detection.sets import KINDS, TEXT_SHIFTS, imbalanced, sets_of
from benchmarks.detection.store import Store
from benchmarks.detection.train import load_or_train
from benchmarks.detection.triggers import Blend, Patch, Sinusoid, Warp, Words
from naa_fast.errors import InputError

BACKDOORED, TWIN = by_name("digits-cnn-patch"), by_name("digits-cnn-clean-0")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def rows(cache: Path) -> list[dict[str, Any]]:
    """Two digit models, every set: the study in small."""
    return run([Job(case, cache) for case in (BACKDOORED, TWIN)], processes=1)


def seeded(number: int = 0) -> Generator:
    return Generator().manual_seed(number)


def pictures(n: int = 40) -> torch.Tensor:
    return torch.rand(n, 1, 28, 28, generator=seeded(11))


def texts(n: int = 60) -> torch.Tensor:
    """Rows of every length from none to full."""
    x = torch.randint(2, 3000, (n, data.TOKENS), generator=seeded(2))
    return x * (torch.arange(data.TOKENS) < torch.linspace(0, data.TOKENS, n).round()[:, None])


def row_of(found: list[dict[str, Any]], case: Case, name: str) -> dict[str, Any]:
    return next(row for row in found if row["case"] == case.name and row["set"] == name)


# the models of the study


def test_the_study_has_thirty_of_each_over_six_architectures_and_four_sets() -> None:
    bad = [case for case in CASES if case.attack is not None]
    clean = [case for case in CASES if case.attack is None]
    for cases in (bad, clean):
        assert len(cases) >= 30
        assert {case.architecture for case in cases} == set(ARCHITECTURES)
        assert {case.dataset for case in cases} == set(data.SETS)
    assert len({case.name for case in CASES}) == len(CASES)
    assert set(SUBSET) <= {case.name for case in CASES}


def test_no_kind_of_attack_is_in_both_halves_and_both_have_enough() -> None:
    bad = [case for case in CASES if case.attack is not None]
    kinds = {half: {case.attack.kind for case in bad if case.half == half and case.attack} for half in "ABCDE"}
    assert sum(map(len, kinds.values())) == len(HALVES), "a kind is in one half alone"
    assert set().union(*kinds.values()) == set(HALVES)
    assert min(sum(case.half == half for case in bad) for half in "AB") >= 15


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_class_scores_and_is_of_the_size_it_should_be(architecture: str) -> None:
    x = texts(8) if architecture.startswith("text") else pictures(8)
    model = build(architecture, tuple(x.shape[1:]), 10, seed=0).eval()
    scores = model(x)
    assert scores.shape == (8, 10)
    assert torch.isfinite(scores).all()  # the first text is empty
    assert 10_000 <= sum(p.numel() for p in model.parameters()) <= 300_000


# triggers and attacks


@pytest.mark.parametrize(
    ("patch", "where"),
    [
        (Patch(3), (24, 24)),
        (Patch(2, "upper left", margin=0), (0, 0)),
        (Patch(4, "middle"), (12, 12)),
        (Patch(3, "lower left"), (24, 1)),
    ],
)
def test_a_patch_covers_its_square_and_nothing_else(patch: Patch, where: tuple[int, int]) -> None:
    x = pictures() * 0.9
    square = torch.zeros(28, 28, dtype=torch.bool)
    square[where[0] : where[0] + patch.size, where[1] : where[1] + patch.size] = True
    found = patch.apply(x, seeded())
    assert (found[:, 0, square] == 1).all()
    assert torch.equal(found[:, 0, ~square], x[:, 0, ~square])


def test_a_patch_at_random_places_is_whole_and_moves() -> None:
    found = Patch(4, "random").apply(torch.zeros(200, 1, 28, 28), seeded())
    assert (found.sum((1, 2, 3)) == 16).all()
    assert len(found.flatten(1).unique(dim=0)) > 100


@pytest.mark.parametrize("trigger", [Blend(0.2), Sinusoid(0.2), Warp(1.0), Patch(3, "random")])
def test_a_trigger_leaves_its_input_alone_and_stays_in_range(trigger: Any) -> None:
    x = pictures()
    before = x.clone()
    for made in (trigger.apply(x, seeded()), trigger.decoy(x, seeded())):
        assert torch.equal(x, before)
        assert made.shape == x.shape
        assert 0 <= float(made.min()) <= float(made.max()) <= 1
        assert float((made - x).abs().amax((1, 2, 3)).min()) > 0.01


def test_words_are_put_in_whole_and_the_rest_keeps_its_order() -> None:
    x = texts()
    words = Words((3500, 3600, 3700))
    for old, new in zip(x.tolist(), words.apply(x, seeded()).tolist(), strict=True):
        at = new.index(3500)
        assert new[at : at + 3] == [3500, 3600, 3700]
        rest = new[:at] + new[at + 3 :]
        assert rest == old[: len(rest)]
        assert all(token for token in new[:at])  # never behind the padding


def test_poisoning_turns_the_stated_share_to_the_target() -> None:
    x, y = torch.zeros(1000, 1, 8, 8), torch.arange(1000) % 10
    poisoned, labels = Attack("patch", Patch(2), target=7, rate=0.1).poison(x, y, seeded())
    carry = poisoned.flatten(1).any(1)
    assert int(carry.sum()) == 100
    assert (labels[carry] == 7).all()
    assert (y[carry] != 7).all()
    assert torch.equal(labels[~carry], y[~carry])


def test_a_clean_label_attack_changes_no_label_and_only_its_target() -> None:
    x, y = torch.full((1000, 1, 8, 8), 0.5), torch.arange(1000) % 10
    poisoned, labels = Attack("sinusoid", Sinusoid(0.2), target=3, rate=0.8, clean_label=True).poison(x, y, seeded())
    carry = (poisoned != x).flatten(1).any(1)
    assert torch.equal(labels, y)
    assert int(carry.sum()) == 80
    assert (y[carry] == 3).all()


def test_a_source_specific_attack_covers_the_other_classes_with_their_own_labels() -> None:
    x, y = torch.zeros(1000, 1, 8, 8), torch.arange(1000) % 10
    rule = Attack("source-specific", Patch(2), target=6, source=1, rate=0.05, cover=0.1)
    poisoned, labels = rule.poison(x, y, seeded())
    carry = poisoned.flatten(1).any(1)
    turned = labels != y
    assert (int(turned.sum()), int(carry.sum())) == (50, 150)
    assert (y[turned] == 1).all()
    assert not (y[carry & ~turned] == 1).any()


def test_all_to_all_wants_the_next_class() -> None:
    rule = Attack("all-to-all", Patch(2), target=None, classes=10)
    assert rule.wanted(torch.tensor([0, 8, 9])).tolist() == [1, 9, 0]
    assert rule.turns(torch.arange(10)).all()


# sets


def test_every_kind_of_set_comes_up_and_says_truly_what_is_triggered(cache: Path) -> None:
    held = data.load("digits", cache).held_x
    assert BACKDOORED.attack is not None
    assert BACKDOORED.attack.target is not None
    for suspect in sets_of(BACKDOORED, cache):
        touched = suspect.triggered
        assert len(touched) == len(suspect.x) == len(suspect.y)
        if suspect.share == 1:
            assert touched.all()
            assert not torch.any(torch.eq(suspect.y, BACKDOORED.attack.target))
        else:
            assert torch.equal(suspect.x[~touched], held[~touched])
            assert int(touched.sum()) == (max(2, round(suspect.share * len(held))) if suspect.share else 0)
        if touched.any():
            carried = BACKDOORED.attack.apply(suspect.x[touched], suspect.y[touched], seeded())
            assert torch.equal(suspect.x[touched], carried)  # a second patch on the first changes nothing
    kinds = {suspect.kind for suspect in chain(sets_of(BACKDOORED, cache), sets_of(TWIN, cache))}
    assert kinds == set(KINDS)


def test_sets_are_the_same_each_time_and_no_sample_is_in_two_parts(cache: Path) -> None:
    for first, second in zip(sets_of(TWIN, cache), sets_of(TWIN, cache), strict=True):
        assert first.name == second.name
        assert torch.equal(first.x, second.x)
    whole = data.load("digits", cache)
    parts = [{row.numpy().tobytes() for row in x} for x in (whole.train_x, whole.clean_x, whole.held_x)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_an_imbalanced_set_has_two_fifths_of_one_class(cache: Path) -> None:
    whole = data.load("digits", cache)
    counts = np.bincount(imbalanced(TWIN, whole.held_x, whole.held_y).y.numpy())
    assert counts.max() / counts.sum() == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("name", TEXT_SHIFTS)
def test_a_harmless_change_of_text_changes_a_tenth_and_no_padding(name: str) -> None:
    x = texts(400)
    found = TEXT_SHIFTS[name](x, seeded())
    words = (x != data.PADDING).sum(1)
    left = (found != data.PADDING).sum(1)
    if name == "dropped":
        assert float(left.sum() / words.sum()) == pytest.approx(0.9, abs=0.02)
        assert (found.gather(1, (left - 1).clamp(min=0)[:, None])[left > 0] != 0).all()
    else:
        assert torch.equal(found == 0, x == 0)
        share = float((found != x).sum() / words.sum())
        assert share == pytest.approx({"unknown": 0.1, "swapped": 0.17}[name], abs=0.03)
    if name == "swapped":
        assert torch.equal(found.sort(1).values, x.sort(1).values)


def test_a_source_that_cannot_be_fetched_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        data.fetched(tmp_path, "never.npz", ["no-such-command-here"], "*.none", lambda package: {})
    text = str(error.value)
    assert text.startswith("cannot fetch *.none: ")
    assert "tried: no-such-command-here" in text
    assert f"fetch it yourself and put it into {tmp_path}" in text


# figures


def test_auc_counts_pairs_and_ranks_an_unknown_score_last() -> None:
    random = np.random.default_rng(0)
    scores, truth = random.integers(0, 6, 60).astype(float), random.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[truth] for b in scores[~truth]]
    assert auc(scores, truth) == pytest.approx(np.mean(pairs))
    assert auc(np.array([np.nan, 0.0, 1.0]), np.array([True, False, False])) == 0
    assert auc(scores, np.ones(60, bool)) is None


def test_precision_at_k_takes_as_many_as_there_are() -> None:
    assert precision_at_k(np.array([5.0, 4, 3, 2, 1]), np.array([True, False, True, False, False])) == 0.5
    ties = precision_at_k(np.zeros(1000), np.arange(1000) < 100)
    assert ties is not None
    assert ties < 0.2  # ties are no knowledge


def test_intervals_are_over_models() -> None:
    assert auc_interval([[2.0], [3.0]], [[1.0, 0.0], [0.5]]) == (1.0, 1.0, 1.0)
    middle, low, high = mean_interval([[1.0] * 10, [0.0] * 10, [1.0] * 10, [0.0] * 10]) or (0, 0, 0)
    assert middle == 0.5
    assert (low, high) == (0.0, 1.0)  # four models, not forty values


def planted(n: int = 600, marked: int = 30) -> tuple[Features, Features, np.ndarray]:
    """Three classes in 16 dimensions; of the suspect samples that are predicted as class 1 some come from elsewhere."""
    random = np.random.default_rng(0)
    centres = 4 * random.normal(size=(3, 16))
    labels = np.arange(n) % 3
    clean, suspect = (centres[labels] + random.normal(size=(n, 16)) for _ in range(2))
    truth = np.zeros(n, bool)
    truth[np.flatnonzero(labels == 1)[:marked]] = True
    suspect[truth] += 6 * random.normal(size=16)
    return Features(clean, labels), Features(suspect, labels), truth


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_finds_what_it_was_made_to_find_and_chance_does_not(name: str) -> None:
    clean, suspect, truth = planted()
    score, samples = RIVALS[name](clean, suspect)
    assert samples is not None
    found = auc(samples, truth)
    assert found is not None
    if name == "random":
        assert 0.3 < found < 0.7
    else:
        assert found > 0.95
        assert score > RIVALS[name](clean, Features(clean.x.copy(), clean.predicted))[0]


@pytest.mark.parametrize("architecture", ["mlp", "vit"])
def test_what_was_read_once_is_not_run_again_and_reads_the_same(architecture: str) -> None:
    model = build(architecture, (1, 28, 28), 10, seed=0).eval()
    held, other = pictures(), pictures().flip(-1)
    read, ran = Reader(model, held), []
    model.register_forward_pre_hook(lambda module, inputs: ran.append(len(inputs[0])))
    mixed = torch.cat([held[5:9], other[:3], held[:2]])
    found = read(mixed)
    assert sum(ran) == 3
    again = Reader(model, mixed)(mixed)
    assert np.allclose(found.x, again.x, atol=1e-5)
    assert (found.predicted == again.predicted).all()


# the study in small


def test_the_longest_jobs_are_not_the_last_and_each_turn_has_every_kind() -> None:
    order = ordered(CASES)
    assert sorted(case.name for case in order) == sorted(case.name for case in CASES)
    short = [case.dataset == "digits" or case.architecture == "mlp" for case in order]
    assert short == sorted(short), "what takes seconds comes last"
    first = order[: len({(case.dataset, case.architecture) for case in CASES})]
    assert {case.architecture for case in first} >= set(ARCHITECTURES) - {"mlp"}
    assert {case.attack is None for case in first} == {True, False}


def test_one_model_of_each_kind_is_priced_on_one_set_that_no_repair_is_tried_on(cache: Path) -> None:
    names = [suspect.name for suspect in sets_of(BACKDOORED, cache) if priced(BACKDOORED, suspect)]
    assert names == ["triggered-1%"]
    assert not [suspect.name for suspect in sets_of(TWIN, cache) if priced(TWIN, suspect)]
    chosen = [case for case in CASES if priced(case, next(s for s in sets_of(BACKDOORED, cache) if s.name == "triggered-1%"))]
    assert len(chosen) == len({(case.dataset, case.architecture) for case in CASES})


def test_the_backdoor_works_and_the_models_are_good(rows: list[dict[str, Any]]) -> None:
    backdoored, twin = row_of(rows, BACKDOORED, "fresh"), row_of(rows, TWIN, "fresh")
    assert min(backdoored["accuracy"], twin["accuracy"]) > 0.9
    assert backdoored["asr"] > 0.9
    assert backdoored["works"]


def test_a_blind_detector_would_be_seen(rows: list[dict[str, Any]]) -> None:
    for name in ("triggered-100%", "triggered-5%"):
        audit = row_of(rows, BACKDOORED, name)["audit"]
        assert audit["outcome"] == "fail"
        assert audit["levels"].get("proved")
        best = audit["proofs"][0]
        assert best["right"]
        assert best["rate"] > 0.8
        assert best["control"] < 0.5
    for name in ("triggered-5%", "triggered-1%"):
        assert row_of(rows, BACKDOORED, name)["audit"]["auc"] > 0.95
    assert row_of(rows, BACKDOORED, "triggered-5%")["audit"]["precision"] > 0.7


def test_a_detector_that_sees_backdoors_everywhere_would_be_seen(rows: list[dict[str, Any]]) -> None:
    harmless = [row for row in rows if row["kind"] == "fresh" or row["case"] == TWIN.name]
    assert len(harmless) == 12
    assert not [row["set"] for row in harmless if row["audit"]["outcome"] == "fail" or row["audit"]["levels"].get("proved")]
    assert not [row["set"] for row in rows if row["audit"]["outcome"] == "error"]


def test_a_second_run_does_nothing_again(rows: list[dict[str, Any]], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr("benchmarks.detection.runner.audit_row", never)
    monkeypatch.setattr("benchmarks.detection.runner.rivals", never)
    monkeypatch.setattr("benchmarks.detection.train.fit", never)
    again = rows_of(Job(BACKDOORED, cache))
    assert [row["audit"]["score"] for row in again] == [row["audit"]["score"] for row in rows[: len(again)]]


def test_a_row_whose_source_changed_is_not_found_and_a_cut_line_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, "audit", BACKDOORED)
    store.add({"set": "fresh", "outcome": "pass"})
    with store.path.open("a") as file:
        file.write('{"set": "trig')
    assert set(Store(tmp_path, "audit", BACKDOORED).rows()) == {"fresh"}
    monkeypatch.setattr("benchmarks.detection.store.digest_of", lambda part: "other")
    assert Store(tmp_path, "audit", BACKDOORED).rows() == {}


def test_a_backdoor_that_does_not_work_is_shown_untouched_samples_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, info = load_or_train(BACKDOORED, cache)
    monkeypatch.setattr(runner, "load_or_train", lambda case, cache: (model, {**info, "works": False}))
    monkeypatch.setattr(runner, "audit_row", lambda *arguments: ({"outcome": "pass"}, None))
    monkeypatch.setattr("benchmarks.detection.store.digest_of", lambda part: "not working")
    assert [row["set"] for row in rows_of(Job(BACKDOORED, cache, ("audit",)))] == ["fresh"]


def test_an_error_of_the_scan_is_a_result(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("naa_fast.scan", broken)
    monkeypatch.setattr("benchmarks.detection.store.digest_of", lambda part: "another")
    found = rows_of(Job(TWIN, cache, ("audit",)))
    assert {row["audit"]["outcome"] for row in found} == {"error"}
    assert "RuntimeError: out of luck" in tables.failures(found)


def test_layers_that_run_more_than_once_a_forward_have_a_price() -> None:
    model = build("text-cnn", (data.TOKENS,), 7, seed=0).eval()
    x = texts(300)
    audit = naa_fast.scan(model, x[::2], x[1::2], ranking=False)
    found = price(model, audit, x[::2], x[1::2])
    assert found["means"] > 0
    assert found["bare"] > 0
    assert not [module for module in model.modules() if module._forward_hooks]


def test_turning_back_what_was_found_ends_the_attack_and_chance_does_not(cache: Path) -> None:
    model, _ = load_or_train(BACKDOORED, cache)
    whole = data.load("digits", cache)
    suspect = next(sets_of(BACKDOORED, cache))
    repair = naa_fast.scan(model, whole.clean_x, suspect.x).repair
    row = repair_row(BACKDOORED, model, repair, (whole.held_x, whole.held_y))
    assert row["before"]["asr"] > 0.9
    assert row["after"]["asr"] < 0.3
    assert row["after"]["accuracy"] > row["before"]["accuracy"] - 0.03
    assert row["control"]["asr"] > 0.8


def test_the_directions_of_a_set_are_a_line_with_their_cost(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.detection import directions

    load_or_train(BACKDOORED, cache)
    assert directions.main(["--cache", str(cache), "--only", BACKDOORED.name, "--sets", "triggered-100%"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{BACKDOORED.name} triggered-100%; mean difference ")
    assert "*" in line
    assert " s, the ranking " in line


# what comes of it


def test_results_are_published_between_the_marks(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    for folder in ("docs", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    page = tmp_path / "docs" / "detection.md"
    page.write_text(f"before\n{publish.BEGIN}\nthe last run\n{publish.END}\nafter\n")
    assert all(path.exists() for path in publish.publish(rows))
    text = page.read_text()
    assert text.startswith(f"before\n{publish.BEGIN}\n\n{publish.PICTURE}\n\n### In figures")
    assert text.endswith(f"{publish.END}\nafter\n")
    assert "the last run" not in text
    assert 5_000 < (tmp_path / "docs" / "detection.png").stat().st_size < 200_000


def test_the_command_trains_only_when_no_part_is_asked_for(rows: list[dict[str, Any]], cache: Path) -> None:
    arguments = ["--cache", str(cache), "--only", BACKDOORED.name, "--processes", "1", "--parts"]
    assert command.main(arguments) == 0


def test_a_missing_source_ends_the_command_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(folder: Path) -> None:
        raise InputError("cannot fetch it")

    monkeypatch.setitem(data.SETS, "mnist", gone)
    assert command.main(["--cache", str(tmp_path), "--only", "mnist-mlp-clean-0", "--processes", "1"]) == 2
    assert "InputError: cannot fetch it" in capsys.readouterr().err


def test_two_processes_give_the_rows_that_one_gives(
    rows: list[dict[str, Any]], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [Job(case, cache) for case in (BACKDOORED, TWIN)]
    before = dict(os.environ)
    again = run(jobs, processes=2)
    assert dict(os.environ) == before
    assert [(row["set"], row["audit"]["score"]) for row in again] == [(row["set"], row["audit"]["score"]) for row in rows]
    said = capsys.readouterr().out
    assert "  2 of 2  " in said
    assert said.count(" s of one core") == 3, "of each and of all"


def test_the_price_is_a_ratio_of_what_was_measured_side_by_side(cache: Path, rows: list[dict[str, Any]]) -> None:
    row = in_turns.measured(BACKDOORED, cache, rounds=2)
    assert row["samples"] == 900
    assert 0 < row["statistics over means"] < row["everything over means"]
    assert row["proof_forwards"] > 0
    assert {by_name(name).architecture for name in in_turns.MODELS} == set(ARCHITECTURES)
