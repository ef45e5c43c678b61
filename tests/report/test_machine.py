"""report.json: the schema holds for every kind of judgement and refuses what is broken; the numbers are the judgement's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, get_args

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from report.examples import EXAMPLES, HOSTILE, classic, judged, not_a_number, pair, pictured

from naa_fast.detect.baseline import SCHEMA
from naa_fast.detect.checks import ABOUT
from naa_fast.detect.findings import LEVELS, Unit
from naa_fast.detect.names import Names
from naa_fast.detect.verdict import EXIT_CODES, OUTCOMES
from naa_fast.report.machine import load_schema, report_bytes, report_dict
from naa_fast.report.summary import full as summary

VALIDATOR = Draft202012Validator(load_schema())
GIVEN = {"options": {"top_k": 20}, "seed": 0}


def strict(content: bytes) -> dict[str, Any]:
    """The report as a parser reads it that knows no NaN and no Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(content.decode("ascii"), parse_constant=refuse)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_kind_of_report_is_strict_json_and_satisfies_the_schema(example: str) -> None:
    judgement = EXAMPLES[example]()
    report = strict(report_bytes(judgement, GIVEN))
    VALIDATOR.validate(report)
    assert report == json.loads(json.dumps(report_dict(judgement, GIVEN)))
    assert report["outcome"] == judgement.verdict.outcome
    assert report["exit_code"] == report["gate"]["exit_code"] == report["verdict"]["exit_code"] == judgement.verdict.exit_code
    assert report["not_checked"][0].startswith("a trigger that is not in your suspect set")
    assert summary(judgement).startswith(f"{report['outcome'].upper()} (exit code {report['exit_code']})\n")
    assert "Not checked\n  - a trigger that is not in your suspect set" in summary(judgement)


def test_the_examples_are_of_every_outcome() -> None:
    assert {make().verdict.outcome for make in EXAMPLES.values()} == set(OUTCOMES)


def test_the_schema_is_one_and_knows_the_words_of_the_detector() -> None:
    schema = load_schema()
    Draft202012Validator.check_schema(schema)
    properties = schema["properties"]
    assert properties["schema"]["const"] == SCHEMA
    assert set(schema["$defs"]["outcome"]["enum"]) == set(OUTCOMES)
    assert set(schema["$defs"]["exit_code"]["enum"]) == set(EXIT_CODES.values())
    names = properties["verdict"]["properties"]["checks"]["items"]["properties"]["name"]["enum"]
    assert names == list(ABOUT)
    assert set(properties["findings"]["items"]["properties"]["level"]["enum"]) == set(LEVELS)
    assert set(properties["findings"]["items"]["properties"]["unit"]["enum"]) == set(get_args(Unit))
    assert set(schema["required"]) == set(properties) == set(report_dict(classic(), {}))


BREAKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no outcome": lambda r: r.pop("outcome"),
    "unknown outcome": lambda r: r.update(outcome="fine"),
    "exit code of an error": lambda r: r.update(exit_code=2),
    "another schema": lambda r: r.update(schema="naa-fast/report/1"),
    "score in words": lambda r: r.update(score="19"),
    "probability above one": lambda r: r.update(p_value=1.5),
    "no threshold": lambda r: r.pop("threshold"),
    "a gate that decides nothing": lambda r: r["gate"].pop("decision"),
    "a check without a reason": lambda r: r["verdict"]["checks"][0].pop("reason"),
    "a finding without its unit": lambda r: r["findings"][0].pop("unit"),
    "a finding that tells no trigger": lambda r: r["findings"][0].pop("trigger"),
    "an unknown key": lambda r: r.update(extra=1),
    "no layers": lambda r: r.update(layers=[]),
    "neuron without z": lambda r: r["layers"][0]["abnormal"][0].pop("z"),
    "negative neuron": lambda r: r["top"][0].update(neuron=-1),
    "fractional neuron": lambda r: r["top"][0].update(neuron=1.5),
    "negative difference": lambda r: r["top"][0].update(difference=-1.0),
    "top without layer": lambda r: r["top"][0].pop("layer"),
    "unknown level": lambda r: r["findings"][0].update(level="hunch"),
    "samples not counted": lambda r: r["coverage"]["clean"].update(samples=None),
    "data without digest": lambda r: r["provenance"]["data"]["suspect"][0].pop("digest"),
    "options missing": lambda r: r["provenance"].pop("options"),
    "versions as text": lambda r: r["provenance"].update(versions="1.0"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_the_schema_refuses_a_broken_report(what: str) -> None:
    report = strict(report_bytes(classic(), GIVEN))
    VALIDATOR.validate(report)
    BREAKS[what](report)
    assert not VALIDATOR.is_valid(report)


def test_the_numbers_are_those_of_the_judgement() -> None:
    judgement = classic()
    report = report_dict(judgement, {})
    assert (report["threshold"], report["threshold_on"]) == (2.0, "difference")
    (layer,) = report["layers"]
    assert (layer["name"], layer["neurons"]) == ("fc", 512)
    assert sorted(row["neuron"] for row in layer["abnormal"]) == list(range(10, 20))
    differences = [row["difference"] for row in layer["abnormal"]]
    assert differences == sorted(differences, reverse=True)
    for row in layer["abnormal"]:
        assert row["difference"] == judgement.layers["fc"].difference[row["neuron"]]
        assert row["z"] == judgement.layers["fc"].z[row["neuron"]]
        assert row["difference"] == pytest.approx(abs(row["suspect_mean"] - row["clean_mean"]))
    assert len(report["top"]) == judgement.top_k
    assert report["top"][0] == {"layer": "fc", **layer["abnormal"][0]}
    assert report["coverage"] == {"clean": {"samples": 500, "skipped": 0}, "suspect": {"samples": 100, "skipped": 0}, "layers": 1}


def test_without_a_threshold_the_calibrated_limit_is_reported() -> None:
    judgement = classic(None)
    report = report_dict(judgement, {})
    assert (report["threshold"], report["threshold_on"]) == (judgement.limit, "z")
    assert all(row["z"] > judgement.limit for row in report["layers"][0]["abnormal"])


def test_what_cannot_be_compared_is_null_and_comes_first() -> None:
    top = strict(report_bytes(not_a_number(), {}))["top"]
    assert top[0]["layer"] == "broken"
    assert top[0]["difference"] is None
    assert top[0]["z"] is None


def test_skipped_samples_are_counted_and_named() -> None:
    report = report_dict(EXAMPLES["inconclusive"](), {})
    assert report["coverage"]["suspect"] == {"samples": 5, "skipped": 3}
    assert any("skipped" in line for line in report["not_checked"])


def test_provenance_joins_the_caller_and_the_measurements() -> None:
    given = {"options": {"threshold": 2.0}, "seed": 7, "device": "cuda:0", "versions": {"torch": "2.10"}, "command": ["naa-fast"]}
    provenance = report_dict(classic(), given)["provenance"]
    assert provenance["device"] == ["cpu", "cuda:0"]
    assert provenance["versions"] == ["naa-fast 0.1.0", "torch 2.10"]
    assert provenance["backends"] == ["fold: cpu (cuda: no driver)"]
    assert (provenance["seed"], provenance["options"], provenance["command"]) == (7, {"threshold": 2.0}, ["naa-fast"])
    assert provenance["model"] == "sha256:m"
    assert provenance["data"]["suspect"] == [{"digest": "suspect", "samples": 100, "skipped": 0}]
    assert any(line.startswith("numpy ") for line in provenance["judged_with"])


def test_the_caller_cannot_replace_the_digests() -> None:
    provenance = report_dict(classic(), {"model": "sha256:other", "data": "other"})["provenance"]
    assert provenance["model"] == "sha256:m"
    assert provenance["data"]["clean"][0]["digest"] == "clean"


def test_options_of_any_type_become_json() -> None:
    options = {"path": PurePosixPath("/x"), "limit": np.float32(0.5), "bad": float("inf"), "set": {"b", "a"}, 3: np.arange(2)}
    report = strict(report_bytes(classic(), {"options": options}))
    assert report["provenance"]["options"] == {"3": [0, 1], "bad": None, "limit": 0.5, "path": "/x", "set": ["a", "b"]}


def test_the_bytes_are_the_same_whatever_order_the_options_came_in() -> None:
    a, b = {"seed": 1, "options": {"x": 1, "y": 2}}, {"options": {"y": 2, "x": 1}, "seed": 1}
    assert report_bytes(classic(), a) == report_bytes(classic(), b)


def test_a_hostile_name_is_kept_in_ascii() -> None:
    content = report_bytes(EXAMPLES["hostile"](), {})
    assert strict(content)["layers"][0]["name"] == HOSTILE.replace("\ud800", "\ufffd")
    assert not any(byte < 0x20 and byte != 0x0A for byte in content)
    assert b"\\ud800" not in content


def test_a_neuron_beyond_float64_is_null_and_first_not_lost() -> None:
    clean, suspect = pair(8)
    suspect = suspect.astype(np.float64)
    suspect[:, 3] = 1.7e308
    clean = clean.astype(np.float64)
    clean[:, 3] = -1.7e308
    with np.errstate(over="ignore", invalid="ignore"):
        report = strict(report_bytes(judged({"huge": (clean, suspect)}, 2.0), {}))
    VALIDATOR.validate(report)
    assert {"neuron": 3, "difference": None}.items() <= report["top"][0].items()


def test_every_row_says_which_view_its_z_is_of() -> None:
    judgement = classic(None)
    for row in report_dict(judgement, {})["top"]:
        layer = judgement.layers[row["layer"]]
        z = {"mean": layer.z_mean, "maximum": layer.z_max}[row["view"]][row["neuron"]]
        assert z == row["z"] == max(layer.z_mean[row["neuron"]], layer.z_max[row["neuron"]])
    assert {row["view"] for row in report_dict(not_a_number(), {})["top"] if row["z"] is None} == {None}


def test_classes_have_their_names_as_far_as_the_report_speaks_of_them() -> None:
    evidence = replace(pictured().evidence, names=Names({7: "seven\ud800", 99: "nobody's"}))
    report = report_dict(replace(pictured(), evidence=evidence), {})
    assert report["class_names"] == {"7": "seven\ufffd"}
    VALIDATOR.validate(report)
    assert report_dict(pictured(), {})["class_names"] == {}
