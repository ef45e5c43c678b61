"""`Baseline`: the findings of an earlier report of the same model, which then count nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from naa_fast.detect.findings import INPUT, LEVELS, PREDICTIONS, SAMPLES, Finding, Unit
from naa_fast.detect.trigger import TriggerKey
from naa_fast.errors import InputError, UsageError

SCHEMA = "naa-fast/report/3"
READ = (SCHEMA, "naa-fast/report/2")
"""Forms that say the same of findings, verdict, gate, repair and provenance; 2 has other words in the ranking."""
"""The form of report.json that is written, and the one that is read: earlier ones do not say which trigger was proved."""
STRONGER = 1.5
"""A finding counts again where its number is more than so many times that of the baseline: another set of the same kind moves it
by less, and what has come on top of a known shift should not hide behind it."""


@dataclass(frozen=True)
class Baseline:
    """`known` findings of the model with the digest `model`; `file` and its `sha256`, for the report."""

    file: str
    sha256: str
    model: str
    known: tuple[Finding, ...]

    def covers(self, finding: Finding) -> bool:
        """Whether it is one of the known findings, and no stronger."""
        return any(same(known, finding) for known in self.known)

    def require_model(self, model: str) -> None:
        """Raise UsageError unless it is of the model with this digest."""
        if not self.model:
            raise UsageError(
                f"--baseline {self.file} does not say which model it is of",
                "expected the report of a model's weights: stored activations name none",
                "name what is accepted in a file for --allow",
            )
        if self.model != model:
            raise UsageError(
                f"--baseline {self.file} is of another model",
                f"model: {self.model} there, {model or 'unknown'} here",
                "expected an earlier report of the same weights: what was known of another model says nothing of this one",
            )


def same(known: Finding, finding: Finding) -> bool:
    """Whether a finding is a known one: of its level, place and class; of a proof the same trigger, else no stronger.

    Samples of many classes turned to one are never known: nothing tells whose trigger turned them.
    """
    if (known.level, known.layer, known.about) != (finding.level, finding.layer, finding.about):
        return False
    if finding.level == "proved":
        alike = known.trigger is not None and finding.trigger is not None and known.trigger.covers(finding.trigger)
        return alike and known.source in (None, finding.source)
    if finding.level == "backdoor-like" and finding.layer == SAMPLES:
        return False
    return finding.value <= STRONGER * known.value


def read_baseline(path: Path) -> Baseline:
    """The findings of an earlier report.json. Raises InputError when it is missing, something else, or of another form."""
    expected = "a report.json of an earlier scan"
    content = read_bytes(path, expected)
    report = parsed(path, content, expected)
    try:
        schema, findings = report["schema"], report["findings"]
        if schema in READ:
            known = tuple(finding_of(entry) for entry in findings)
            return Baseline(str(path), hashlib.sha256(content).hexdigest(), str(report["provenance"]["model"]), known)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is no report", f"it lacks {error}", f"expected {expected}") from None
    raise InputError(
        f"{path} is of the form {schema}",
        f"expected {' or '.join(READ)}: other forms do not say the same of a finding",
        "scan once more with this version for a baseline",
    )


def finding_of(entry: Any) -> Finding:
    """A finding as report.json has it. Raises KeyError, TypeError or ValueError where it is none."""
    level, layer, about, value, source = (entry[name] for name in ("level", "layer", "about", "value", "source"))
    if level not in LEVELS or not isinstance(layer, str) or not isinstance(about, str):
        raise ValueError("findings with a level, a layer and what they are about")
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError("findings whose value is a number or null")
    if type(source) is not int and source is not None:
        raise ValueError("findings whose source is a class or null")
    trigger = None if entry["trigger"] is None else TriggerKey.read(entry["trigger"])
    unit = entry["unit"] if "unit" in entry else unit_before(level, layer, about)
    return Finding(level, layer, "", inf if value is None else value, 0.0, about, trigger, source, unit=unit)


def unit_before(level: str, layer: str, about: str) -> Unit:
    """The unit of a finding in a report from before findings said theirs."""
    if about in ("not finite", "difference"):
        return "number"
    if layer in (INPUT, SAMPLES, PREDICTIONS, "(model)") or about == "tail":
        return "share"
    return "t" if level == "shift" else "sigma"


def read_json(path: Path, expected: str) -> Any:
    return parsed(path, read_bytes(path, expected), expected)


def read_bytes(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}", str(error.strerror), f"expected {expected}") from None


def parsed(path: Path, content: bytes, expected: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON", str(error), f"expected {expected}") from None
