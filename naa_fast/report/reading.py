"""`Reading`: what report.json says, as the formats for pipelines ask for it. Nothing is judged again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from naa_fast.detect.checks import ABOUT
from naa_fast.detect.findings import INPUT, LEVELS, PREDICTIONS, ROOT, SAMPLES
from naa_fast.report.words import printable

TEXT = 2000
"""Cells of a sentence at most: statements name layers, which are anybody's text."""
PLACES = {INPUT: "proof", "(model)": "proof", SAMPLES: "ranking", PREDICTIONS: "predictions"}
"""Which check a finding is of that is about no layer."""


def digest_bits(digest: str) -> dict[str, str]:
    """A digest of a model or a set (values spread over the whole: no proof against forgery), as in-toto names digests."""
    return {"naaFingerprint": digest} if digest else {}


@dataclass(frozen=True)
class Reading:
    """`report`: the content of report.json, whose bytes have the digest `sha256`."""

    report: Mapping[str, Any]
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Reading:
        """Of the bytes of a report.json that this version wrote."""
        return cls(json.loads(content), sha256(content).hexdigest())

    @property
    def run(self) -> Mapping[str, Any]:
        """What was scanned, by which names, and when: empty of a report that does not know."""
        return self.report["provenance"].get("run") or {}

    @property
    def model(self) -> str:
        """What a person calls the model."""
        return str(self.run.get("weights") or self.run.get("model") or self.report["provenance"]["model"] or "the model")

    @property
    def version(self) -> str:
        """Of naa-fast, which judged."""
        versions = [words.split() for words in self.report["provenance"]["judged_with"] if words.startswith("naa-fast ")]
        return versions[0][1] if versions else "unknown"

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of the files the model was read from, by name, as far as they were asked for."""
        return self.run.get("files") or {}

    @cached_property
    def counted(self) -> frozenset[int]:
        """Places of the findings that count."""
        return frozenset(self.report["gate"]["counted"])

    def decisive(self, place: int) -> bool:
        """Whether the finding at a place is a fail by --fail-on."""
        level, least = self.report["findings"][place]["level"], self.report["gate"]["fail_on"]
        return place in self.counted and LEVELS.index(level) >= LEVELS.index(least)

    def findings_of(self, check: str) -> list[int]:
        """Places of the findings that a check has made; of "" those of no check that this report names."""
        names = {check_entry["name"] for check_entry in self.checks}
        made = [check_of(finding) for finding in self.report["findings"]]
        return [place for place, name in enumerate(made) if (name if name in names else "") == check]

    @property
    def checks(self) -> list[Mapping[str, Any]]:
        return list(self.report["verdict"]["checks"])


def check_of(finding: Mapping[str, Any]) -> str:
    """Which check of `detect.checks.ABOUT` a finding is of."""
    if finding["layer"] in PLACES:
        return PLACES[finding["layer"]]
    return {"direction": "directions", "tail": "tails"}.get(finding["about"], "shift")


def question(check: Mapping[str, Any]) -> str:
    """What a check answers."""
    return ABOUT.get(check["name"], "")


def place_of(finding: Mapping[str, Any]) -> str:
    """The layer of a finding, or what stands in its place, safe to print."""
    return printable(finding["layer"] or ROOT, TEXT)


def line_of(finding: Mapping[str, Any]) -> str:
    """`proved in (input): ...` on one line."""
    return f"{finding['level']} in {place_of(finding)}: {printable(finding['statement'], TEXT)}"
