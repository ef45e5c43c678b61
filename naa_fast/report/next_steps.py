"""What to do next, by outcome, for the summary and the page: `next_steps`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from naa_fast.detect.checks import NO_SAMPLES
from naa_fast.detect.judgement import Judgement
from naa_fast.detect.repair import REPAIR_FILE
from naa_fast.report.files import TABLE

RANK = "naa-fast rank --model MODEL --clean CLEAN --suspect SUSPECT -k all --out samples.csv"
SCAN = "naa-fast scan --model MODEL --clean CLEAN --suspect SUSPECT"
BASE = "naa-fast invert --model MODEL --clean CLEAN --base BASE"
DEPLOY = "naa-fast repair . --model MODEL --weights WEIGHTS --clean CLEAN --suspect SUSPECT"
REPAIRED = "with naa_fast.repair.applied(model, naa_fast.repair.load('{file}')): ..."

HERE, THERE = "from this folder", "from where the scan ran, with its options about model and data"
LONGEST = 200
"""Characters of a name that is put into a command."""


@dataclass(frozen=True)
class Step:
    """What to do, in a sentence, and the command or code for it, empty where there is none."""

    what: str
    command: str = ""


def next_steps(judgement: Judgement) -> list[Step]:
    """The first one is the most urgent."""
    evidence, verdict = judgement.evidence, judgement.verdict
    outcome = verdict.outcome
    steps: list[Step] = []
    if evidence.inversion is not None:
        return inverted_steps(judgement)
    triggered = evidence.ranking is not None and evidence.ranking.triggered is not None and evidence.ranking.triggered.any()
    if outcome == "fail":
        steps.append(Step("Do not deploy this model; ask whoever trained it where its data came from."))
        steps += repair_steps(judgement)
        if triggered:
            steps.append(Step("Take the samples that carry the trigger out of every set it is trained on.", listing(judgement)))
        elif evidence.ranking is not None:
            steps.append(Step("Look at the highest-ranked samples, one by one.", listing(judgement)))
    elif outcome == "warn":
        if evidence.ranking is not None:
            steps.append(Step("Look at the highest-ranked samples: do they have something in common that they should not?"))
        steps.append(
            Step("Ask how the two sets were made. Scan again with sets from one source, shuffled before they are split.")
        )
        if evidence.ranking is not None:
            steps.append(Step("List every sample.", listing(judgement)))
    elif outcome == "pass":
        steps.append(Step("Read what was not checked: a trigger that no suspect sample carries cannot be seen."))
        steps.append(Step("Scan again with the data the model meets in use, and keep this report as the baseline."))
    if verdict.gaps and outcome in ("inconclusive", "warn"):
        steps.insert(
            0 if outcome == "inconclusive" else len(steps), Step("Close the gaps and scan again: " + verdict.gaps[0] + ".")
        )
    if outcome == "inconclusive" and any(check.reason == NO_SAMPLES for check in verdict.checks):
        steps.append(
            Step("Scan with the model and the samples themselves, so that these can be ranked and a trigger proved.")
            if evidence.ranking is None
            else Step("Read proofs off the scored suspects with `naa-fast prove`, the model and the clean set.")
        )
    return steps


def with_names(steps: Sequence[Step], run: Any) -> list[Step]:
    """The steps with the names that a scan from the command line was given (`Run.report()`), in place of MODEL, CLEAN and so on;
    its commands are then to be run where the scan ran.
    """
    words = run.get("command") if isinstance(run, Mapping) else None
    if not isinstance(words, list | tuple) or list(words[1:2]) not in (["scan"], ["invert"]) or "--config" in words:
        return list(steps)
    given = {name.upper(): str(run[name]) for name in ("model", "weights", "clean", "suspect") if usable(run.get(name))}
    given[" ."] = next((str(after) for word, after in pairwise(words) if word == "--out" and usable(after)), "naa-report")
    return [Step(step.what.replace(HERE, THERE), filled(step.command, given)) for step in steps]


def usable(name: Any) -> bool:
    """Whether a name can stand in a command that a person copies from a page."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST and name.isprintable()


def filled(command: str, given: Mapping[str, str]) -> str:
    """A command of naa-fast with names for its capitals, and the report's folder for the dot; any other as it is."""
    if not command.startswith("naa-fast "):
        return command
    command = command.replace(" --weights WEIGHTS", "")
    if "WEIGHTS" in given:
        command = command.replace("--model MODEL", "--model MODEL --weights WEIGHTS")

    def named(match: re.Match[str]) -> str:
        word = match.group()
        return " " * word.startswith(" ") + shlex.quote(given[word]) if word in given else word

    return re.sub(r"\b(?:MODEL|WEIGHTS|CLEAN|SUSPECT)\b| \.(?= |$)", named, command)


def repair_steps(judgement: Judgement) -> list[Step]:
    """How to run a model with its repair, none where there is none."""
    if judgement.repair is None:
        return []
    deploy = DEPLOY if judgement.evidence.inversion is None else DEPLOY.removesuffix(" --suspect SUSPECT")
    return [
        Step("Run it with the repair, and measure your own accuracy with it.", REPAIRED.format(file=REPAIR_FILE)),
        Step(f"Or write weights that hold the repair, where weights can, {HERE}.", deploy),
    ]


def inverted_steps(judgement: Judgement) -> list[Step]:
    """What to do after a search without suspect samples."""
    verdict = judgement.verdict
    look = f"{SCAN} --triggers ." if judgement.evidence.proof else SCAN
    scan = Step("Scan it with the data it meets in use: what a suspect sample carries is proved from less.", look)
    base = Step("Search again beside the model it was fine-tuned from, if there is one: the strongest control there is.", BASE)
    if verdict.outcome == "fail":
        first = Step("Do not deploy this model; ask whoever trained it where its data came from.")
        return [first, *repair_steps(judgement), base, scan]
    if verdict.outcome == "warn":
        return [base, scan, Step("Ask whoever trained it where its data came from.")]
    if verdict.gaps:
        return [Step("Close the gaps and search again: " + verdict.gaps[0] + "."), scan]
    return [Step("Read what was not checked: this search sees small, faint and short triggers of a class."), scan]


def listing(judgement: Judgement) -> str:
    """Where every sample stands, or how to get it."""
    ranking = judgement.evidence.ranking
    return f"less {TABLE}" if ranking is not None and ranking.whole else RANK
