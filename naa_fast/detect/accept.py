"""Which findings count for the exit code: levels that matter, findings that were known, and findings somebody accepted.

The verdict and the report stay what they are; only the command's answer to a script changes. Fail closed: an entry without a
reason or past its date accepts nothing, and where accepted findings hid a gap the answer is "inconclusive".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from naa_fast.detect.findings import LEVELS, ROOT, Finding
from naa_fast.detect.verdict import Verdict
from naa_fast.errors import EXIT_FINDING, EXIT_INCONCLUSIVE, EXIT_PASS, InputError, UsageError

FORM = '{"accept": [{"level": "shift", "layer": "conv1*", "reason": "new camera", "expires": "2027-01-31"}]}'


@dataclass(frozen=True)
class Accepted:
    """An entry of an allowlist: findings of `level` in layers that match `layer` count nothing until `expires` is over."""

    level: str
    layer: str
    reason: str
    expires: date

    def covers(self, finding: Finding) -> bool:
        return finding.level == self.level and fnmatchcase(finding.layer, self.layer)


@dataclass(frozen=True)
class Gate:
    """What a script is told: the `exit_code`, the findings that `count`, and `notes` on those that do not and why."""

    exit_code: int
    count: tuple[Finding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """What counts nothing: findings below `fail_on`, `known` ones (see `read_baseline`) and `accepted` ones."""

    fail_on: str = LEVELS[0]
    known: frozenset[tuple[str, str, str]] = frozenset()
    accepted: tuple[Accepted, ...] = ()


def gate(verdict: Verdict, rules: Rules, today: date | None = None) -> Gate:
    """The exit code of a verdict without the findings that count nothing."""
    today = today or date.today()
    notes = [
        f"no longer accepted since {entry.expires}: {entry.level} in {entry.layer} ({entry.reason})"
        for entry in rules.accepted
        if entry.expires < today
    ]
    valid = [entry for entry in rules.accepted if entry.expires >= today]
    counted = []
    for finding in verdict.findings:
        by = next((entry for entry in valid if entry.covers(finding)), None)
        where = f"{finding.level} in {finding.layer or ROOT}"
        if LEVELS.index(finding.level) < LEVELS.index(rules.fail_on):
            notes.append(f"below --fail-on {rules.fail_on}: {where}")
        elif key(finding) in rules.known:
            notes.append(f"in the baseline: {where}")
        elif by is not None:
            notes.append(f"accepted until {by.expires}: {where} ({by.reason})")
        else:
            counted.append(finding)
    if verdict.exit_code != EXIT_FINDING or counted:
        code = verdict.exit_code
    else:
        code = EXIT_INCONCLUSIVE if verdict.gaps else EXIT_PASS
    return Gate(code, tuple(counted), tuple(notes))


def key(finding: Finding) -> tuple[str, str, str]:
    """What makes a finding the same one in another report: not its number, which changes with every sample."""
    return finding.level, finding.layer, finding.about


def read_baseline(path: Path) -> frozenset[tuple[str, str, str]]:
    """The findings of an earlier report.json. Raises InputError when it is missing or something else."""
    report = read_json(path, "a report.json of an earlier scan")
    try:
        return frozenset((str(f["level"]), str(f["layer"]), str(f.get("about", ""))) for f in report["findings"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no report", f"it lacks {error}", "expected a report.json of an earlier scan") from None


def read_allowlist(path: Path) -> list[Accepted]:
    """The entries of an allowlist. Raises InputError when one lacks its level, layer, reason or date."""
    content = read_json(path, FORM)
    entries = content.get("accept") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path} is no allowlist", "it has no list 'accept'", f"expected {FORM}")
    return [entry_of(entry, f"entry {number} of {path}") for number, entry in enumerate(entries, 1)]


def entry_of(entry: Any, where: str) -> Accepted:
    words = (
        {name: str(entry.get(name, "")).strip() for name in ("level", "layer", "reason", "expires")}
        if isinstance(entry, dict)
        else {}
    )
    missing = [name for name, word in words.items() if not word] if words else ["level", "layer", "reason", "expires"]
    if missing:
        raise InputError(
            f"{where} has no {', '.join(missing)}", f"expected {FORM}", "nothing is accepted without a reason and an end"
        )
    if words["level"] not in LEVELS:
        raise UsageError(f"{where} has level '{words['level']}'", f"levels: {', '.join(LEVELS)}")
    try:
        expires = date.fromisoformat(words["expires"])
    except ValueError as error:
        raise InputError(f"{where} expires on {words['expires']!r}", str(error), "expected a date such as 2027-01-31") from None
    return Accepted(words["level"], words["layer"], words["reason"], expires)


def read_json(path: Path, expected: str) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}", str(error.strerror), f"expected {expected}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON", str(error), f"expected {expected}") from None
