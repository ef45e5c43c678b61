"""Runs the study: every model against every set, rows into the cache, two processes side by side."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.detection.cases import Case


def ordered(cases: Iterable[Case]) -> list[Case]:
    """Kinds of models in turns, so that a run that is cut short has seen some of everything."""
    seen: dict[tuple[str, str, bool], int] = {}
    keyed = []
    for case in cases:
        group = (case.dataset, case.architecture, case.attack is None)
        seen[group] = seen.get(group, 0) + 1
        keyed.append((seen[group], case))
    return [case for _, case in sorted(keyed, key=lambda pair: pair[0])]
