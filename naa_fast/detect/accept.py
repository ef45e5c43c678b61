"""What a script is told: which findings count for the exit code, by level, by what was known and by what somebody accepted.

The verdict stays what it is. Fail closed: an entry without a reason or past its date accepts nothing, a proof is known or
accepted by its own trigger and target alone, and where accepted findings hid a gap the answer is "inconclusive".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from naa_fast.detect.baseline import Baseline, read_json
from naa_fast.detect.checks import listed
from naa_fast.detect.findings import INPUT, LEVELS, ROOT, Finding, plain
from naa_fast.detect.trigger import TriggerKey
from naa_fast.detect.verdict import EXIT_CODES, Verdict
from naa_fast.errors import EXIT_PASS, InputError, UsageError

FAIL_ON = "backdoor-like"
FORM = '{"accept": [{"level": "shift", "layer": "conv1*", "reason": "new camera", "expires": "2027-01-31"}]}'
PROOF_FORM = (
    '{"level": "proved", "trigger": {"kind": "token", "words": "cf"}, "target": 1, "reason": "...", "expires": "2027-01-31"}, '
    "with the trigger as report.json has it"
)
NAMED = ("level", "layer", "reason", "expires")
LONGEST = 120
FIELDS = (*NAMED, "target", "trigger")


@dataclass(frozen=True)
class Accepted:
    """An entry of an allowlist: findings of `level` in layers that match `layer` count nothing until `expires` is over.

    `target` is the class, which a backdoor-like finding about one needs, and a proof; a proof needs its `trigger` too.
    """

    level: str
    layer: str
    reason: str
    expires: date
    target: str = ""
    trigger: TriggerKey | None = None

    def covers(self, finding: Finding) -> bool:
        if not self.near(finding):
            return False
        if self.target != finding.target and (self.target or LEVELS.index(finding.level) >= LEVELS.index("backdoor-like")):
            return False
        if finding.level != "proved":
            return True
        return self.trigger is not None and finding.trigger is not None and self.trigger.covers(finding.trigger)

    def near(self, finding: Finding) -> bool:
        """Whether it is of this level and in such a layer."""
        return finding.level == self.level and fnmatchcase(finding.layer, self.layer)


@dataclass(frozen=True)
class Gate:
    """What a script is told: the `exit_code`, the `decision` (one of verdict.OUTCOMES) with its `reason`, the findings that
    `count`, and `notes` on those that do not and why.
    """

    exit_code: int
    decision: str
    reason: str
    count: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What is a fail: a finding of level `fail_on` and above. What counts nothing: those of a `baseline`, and `accepted` ones, of
    the file `allow`. `warn_ok`: a warn is exit code 0. `stopped`: by what the scan was, and the exit code that says so.
    """

    fail_on: str = FAIL_ON
    baseline: Baseline | None = None
    accepted: tuple[Accepted, ...] = ()
    allow: str = ""
    warn_ok: bool = False
    stopped: tuple[str, int] | None = None

    def require_model(self, model: str) -> None:
        """Raise UsageError where the baseline is not of the model with this digest."""
        if self.baseline is not None:
            self.baseline.require_model(model)


def gate(verdict: Verdict, rules: Rules, today: date | None = None) -> Gate:
    """The exit code of a verdict without the findings that count nothing.

    As the verdict says where it is a pass or inconclusive. Else what counts decides: a finding of level `fail_on` is a fail, what
    lies below a warn, and nothing a pass, but where there are gaps the last two are inconclusive.
    """
    today = today or date.today()
    counted, notes = weighed(verdict.findings, rules, today)
    decisive = [finding for finding in counted if LEVELS.index(finding.level) >= LEVELS.index(rules.fail_on)]
    if verdict.outcome in ("pass", "inconclusive"):
        decision = verdict.outcome
    elif decisive:
        decision = "fail"
    else:
        decision = "inconclusive" if verdict.gaps else "warn" if counted else "pass"
    ignored = decision == "warn" and rules.warn_ok
    reason = reason_of(verdict, rules, decision, decisive, counted)
    code = EXIT_PASS if ignored else EXIT_CODES[decision]
    reason += "; --warn-ok" * ignored
    if rules.stopped is not None:
        why, code = rules.stopped
        reason = f"{plain(why)}; so far: {reason}"
    return Gate(code, decision, reason, tuple(counted), tuple(notes))


def weighed(findings: Sequence[Finding], rules: Rules, today: date) -> tuple[list[Finding], list[str]]:
    """The findings that count, and notes on the others, on entries that ran out, and on those that name something else."""
    notes = [
        f"no longer accepted since {entry.expires}: {entry.level} in {entry.layer} ({entry.reason})"
        for entry in rules.accepted
        if entry.expires < today
    ]
    valid = [entry for entry in rules.accepted if entry.expires >= today]
    counted = []
    for finding in findings:
        by = next((entry for entry in valid if entry.covers(finding)), None)
        where = f"{finding.level} in {finding.layer or ROOT}"
        if rules.baseline is not None and rules.baseline.covers(finding):
            notes.append(f"in the baseline: {where}")
        elif by is not None:
            notes.append(f"accepted until {by.expires}: {where} ({by.reason})")
        else:
            counted.append(finding)
            notes += [
                f"not accepted: {where}: the entry names another trigger or class, or none ({entry.reason})"
                for entry in valid
                if entry.near(finding)
            ]
            if rules.baseline is not None and any(known.level == finding.level == "proved" for known in rules.baseline.known):
                notes.append(f"not in the baseline: {where}: another trigger or another class is proved there")
    return counted, notes


def reason_of(verdict: Verdict, rules: Rules, decision: str, decisive: Sequence[Finding], counted: Sequence[Finding]) -> str:
    """Why the gate decides so."""
    if decision == "fail":
        return f"{numbered(decisive)} of level {listed(levels_of(decisive))} (--fail-on {rules.fail_on})"
    if decision == "inconclusive":
        more = f", and {len(verdict.gaps) - 1} more gaps" if len(verdict.gaps) > 1 else ""
        kept = f"{numbered(counted)} below --fail-on {rules.fail_on}, but " if counted and verdict.outcome != decision else ""
        return kept + plain(verdict.gaps[0]) + more if verdict.gaps else "nothing was compared"
    if decision == "warn":
        return f"{numbered(counted)} of level {listed(levels_of(counted))}, below --fail-on {rules.fail_on}"
    if verdict.findings:
        return "every finding is in the baseline or accepted"
    without = f", without {listed(verdict.accepted)}, as was accepted" if verdict.accepted else ", and every check ran"
    return "nothing was found" + without


def numbered(findings: Sequence[Finding]) -> str:
    return f"{len(findings)} finding{'s' * (len(findings) != 1)}"


def levels_of(findings: Sequence[Finding]) -> list[str]:
    return [level for level in reversed(LEVELS) if any(finding.level == level for finding in findings)]


def read_allowlist(path: Path) -> list[Accepted]:
    """The entries of an allowlist. Raises InputError when one lacks level, layer, reason or date, or a proof its trigger."""
    content = read_json(path, FORM)
    entries = content.get("accept") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path} is no allowlist", "it has no list 'accept'", f"expected {FORM}")
    return [entry_of(entry, f"entry {number} of {path}") for number, entry in enumerate(entries, 1)]


def entry_of(entry: Any, where: str) -> Accepted:
    fields: dict[str, Any] = dict(entry) if isinstance(entry, dict) else {}
    wrong = next((name for name in NAMED if name in fields and not isinstance(fields[name], str)), None)
    if wrong is not None:
        raise InputError(f"{where} has no text as {wrong}", f"found {fields[wrong]!r}"[:LONGEST], f"expected {FORM}")
    proof = fields.get("level") == "proved"
    words = {name: str(fields.get(name, "")).strip() for name in (*NAMED, "target")}
    words["layer"] = words["layer"] or INPUT * proof
    missing = [name for name in NAMED if not words[name]]
    if missing:
        raise InputError(
            f"{where} has no {', '.join(missing)}", f"expected {FORM}", "nothing is accepted without a reason and an end"
        )
    unknown = [str(name) for name in fields if name not in FIELDS]
    if unknown:
        raise InputError(f"{where} has {', '.join(unknown)}, which means nothing here", f"expected {', '.join(FIELDS)}")
    if words["level"] not in LEVELS:
        raise UsageError(f"{where} has level '{words['level']}'", f"levels: {', '.join(LEVELS)}")
    missing = [name for name in ("trigger", "target") if proof and not fields.get(name) and fields.get(name) != 0]
    if missing:
        raise InputError(
            f"{where} has no {', '.join(missing)}", f"expected {PROOF_FORM}", "a proof is accepted by its trigger and its class"
        )
    try:
        trigger = TriggerKey.read(fields["trigger"]) if "trigger" in fields else None
    except ValueError as error:
        raise InputError(f"{where} has {error}", f"expected {PROOF_FORM}") from None
    try:
        expires = date.fromisoformat(words["expires"])
    except ValueError as error:
        raise InputError(f"{where} expires on {words['expires']!r}", str(error), "expected a date such as 2027-01-31") from None
    return Accepted(words["level"], words["layer"], words["reason"], expires, words["target"], trigger)
