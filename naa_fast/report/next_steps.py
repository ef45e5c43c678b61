"""What to do next, by outcome, for the summary and the page: `next_steps`."""

from __future__ import annotations

from dataclasses import dataclass

from naa_fast.detect.judgement import NO_SAMPLES, Judgement
from naa_fast.detect.repair import REPAIR_FILE
from naa_fast.report.files import TABLE

RANK = "naa-fast rank --model MODEL --clean CLEAN --suspect SUSPECT -k all --out samples.csv"
SCAN = "naa-fast scan --model MODEL --clean CLEAN --suspect SUSPECT"
BASE = "naa-fast invert --model MODEL --clean CLEAN --base BASE"
DEPLOY = "naa-fast repair . --model MODEL --weights WEIGHTS --clean CLEAN --suspect SUSPECT"
REPAIRED = "with naa_fast.repair.applied(model, naa_fast.repair.load('{file}')): ..."


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
        steps.append(Step("Scan with the model and the samples themselves, so that these can be ranked and a trigger proved."))
    return steps


def repair_steps(judgement: Judgement) -> list[Step]:
    """How to run a model with its repair, none where there is none."""
    if judgement.repair is None:
        return []
    deploy = DEPLOY if judgement.evidence.inversion is None else DEPLOY.removesuffix(" --suspect SUSPECT")
    return [
        Step("Run it with the repair, and measure your own accuracy with it.", REPAIRED.format(file=REPAIR_FILE)),
        Step("Or write weights that hold the repair, where weights can, from this folder.", deploy),
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
