"""`Run`: what was scanned, by which command, and when, as a report names it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from naa_fast.report.words import printable

SHORTEST = 8
"""Cells of a name at least."""
DATE = len("2026-01-31T")
DIGITS = 12
"""Of a digest, on a terminal."""


@dataclass(frozen=True)
class Run:
    """The model, its weights and both sets by the names a person gave them, the words of the command (none of a call from
    Python), when the work began and ended (UTC, ISO 8601), and the sha256 of the files the model was read from, by name. Empty
    where unknown. The texts are anybody's: escape them.
    """

    model: str = ""
    weights: str = ""
    clean: str = ""
    suspect: str = ""
    command: tuple[str, ...] = ()
    began: str = ""
    ended: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """For report.json: null where unknown."""
        return {name: list(value) if name == "command" else value or None for name, value in asdict(self).items()}


def now() -> str:
    """This moment to the second, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def own_weights(run: Mapping[str, Any]) -> bool:
    """Whether a command named a function that makes the model, and no weights for it: only that function knows them."""
    model = str(run.get("model") or "")
    return bool(run.get("command")) and ":" in model and not run.get("weights") and not model.startswith("hf:")


def run_lines(provenance: Mapping[str, object], width: int) -> list[str]:
    """What a summary says of the run: what was scanned, then when, by which command and with which seed. Nothing where unknown.
    Names are shortened until `width` cells hold all of them; not yet safe for a terminal.
    """
    run = provenance.get("run")
    if not isinstance(run, Mapping):
        return []
    names = [name for name in ("model", "weights", "clean", "suspect") if run.get(name)]
    room = (width - len("Scanned: ") - sum(len(name) + len(" , ") for name in names)) // max(len(names), 1)
    named = [f"{name} {printable(run[name], max(room, SHORTEST))}" for name in names]
    when = []
    if run.get("began") and run.get("ended"):
        began, ended = str(run["began"]), str(run["ended"])
        day, on_it = began[:DATE], ended[DATE:].removesuffix("+00:00")
        when = [f"{began} to {on_it if ended.startswith(day) else ended}"]
    when += [f"seed {provenance['seed']}"] if provenance.get("seed") is not None else []
    files = run.get("files")
    digest = str(files.get(run.get("weights")) or "") if isinstance(files, Mapping) else ""
    when += [f"weights sha256 {digest[:DIGITS]}"] if digest else ["no --weights"] if own_weights(run) else []
    command = [shlex.join(run["command"])] if run.get("command") else []
    lines = ["Scanned: " + ", ".join(named)] if named else []
    return lines + (["Run: " + ", ".join([*when, *command])] if when or command else [])
