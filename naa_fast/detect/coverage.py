"""What a verdict covers: the checks that ran, and the gaps that keep it from being a pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from naa_fast.detect.checks import OF_SAMPLES, Check
from naa_fast.detect.comparison import LayerComparison
from naa_fast.detect.enrichment import TAIL_P
from naa_fast.detect.evidence import Evidence
from naa_fast.detect.findings import ROOT, concentration, count, plain
from naa_fast.detect.null import MIN_FOLD, MIN_FOLDS, CleanNull
from naa_fast.detect.tails import critical, samples_counted, tests_of
from naa_fast.measurement import Measurement, is_among
from naa_fast.records import FOLD_BLOCK, FOLDS, LayerRecord

MIN_SUSPECT = 16
SHOWN = 10

UNSEEN = "a trigger that is not in your suspect set: samples that do not carry it cannot show it"
RARE_TRIGGERS = "triggers carried by less than about a quarter of the suspect samples: a mean over the set hides them"
UNPROVABLE = "triggers without a pattern in the input (warps, styles): they rank samples, but are not proved"
NOT_CHECKED = (
    "whether a harmless change of the data (other camera, other writers) would do the same: only you know how the sets were made",
    "whether samples are independent: frames of a video or bursts of photographs make chance look smaller than it is",
    "layers that were not selected",
)


def observed(measurement: Measurement) -> int:
    """Samples that some layer really observed: what a mask leaves out is no evidence."""
    seen = [int((r.sample_mean.count + r.sample_mean.nonfinite).max(initial=0)) for r in measurement.layers.values()]
    return min([measurement.samples, *seen])


def checks_of(
    layers: Sequence[LayerComparison], null: CleanNull, clean: Measurement, suspect: Measurement, evidence: Evidence
) -> tuple[Check, ...]:
    """What ran, in the order of `naa_fast.detect.checks.ABOUT`. What the evidence says nothing of did not run."""
    named = {check.name: check for check in evidence.checks} | unscored(evidence)
    unnamed = "nothing says that it ran"
    return (
        calibrated(null, clean, suspect),
        counted_predictions(clean, suspect),
        *((single_samples(layers),) if evidence.ranking is None else ()),
        *(named.get(name) or Check(name, False, unnamed) for name in OF_SAMPLES),
    )


def unscored(evidence: Evidence) -> dict[str, Check]:
    """The ranking, where it says that it ran, and samples have no scores all the same."""
    if not any(check.name == "ranking" and check.ran for check in evidence.checks):
        return {}
    known = np.zeros(0) if evidence.ranking is None else evidence.ranking.null_scores
    missing = 0 if evidence.ranking is None else int(np.isnan(evidence.ranking.scores).sum())
    if missing == 0 and (~np.isnan(known)).any():
        return {}
    reason = f"{missing} suspect samples have no score" if missing else "no clean sample has a score to hold suspects against"
    return {"ranking": Check("ranking", False, reason)}


def calibrated(null: CleanNull, clean: Measurement, suspect: Measurement) -> Check:
    """Whether the clean set says what chance does, and there are suspects to hold against it."""
    reasons = []
    if not null.usable:
        needed = (MIN_FOLDS - 1) * FOLD_BLOCK + MIN_FOLD
        reasons.append(
            f"calibration: {observed(clean)} clean samples do not fill {MIN_FOLDS} of {FOLDS} folds "
            f"(at least {needed} are needed, several hundred are better), or no neuron varies"
        )
    if observed(suspect) < MIN_SUSPECT:
        reasons.append(f"only {observed(suspect)} suspect samples (at least {MIN_SUSPECT} are needed)")
    return Check("shift", not reasons, "; ".join(reasons))


def counted_predictions(clean: Measurement, suspect: Measurement) -> Check:
    if concentration(clean, suspect) is not None:
        return Check("predictions", True)
    return Check("predictions", False, "no predicted classes were counted: the model gives no class scores, or ended early")


def single_samples(layers: Sequence[LayerComparison]) -> Check:
    blind = [layer for layer in layers if not tests_of(layer) and not layer.clean.of_rows]
    if not blind:
        return Check("tails", True)
    missing = f"no histograms of single samples in {len(blind)} of {len(layers)} layers (--histograms, or --against)"
    return Check("tails", False, missing)


def coverage_gaps(layers: Sequence[LayerComparison], null: CleanNull, clean: Measurement, suspect: Measurement) -> list[str]:
    """Why a pass would not be honest, though checks ran."""
    gaps = []
    if null.wild:
        gaps.append("the clean set differs from itself: it is sorted, or neighbouring samples resemble each other; shuffle it")
    for name, measurement in (("clean", clean), ("suspect", suspect)):
        if measurement.skipped:
            were = "was" if measurement.skipped == 1 else "were"
            gaps.append(f"{samples(measurement.skipped, name)} could not be read and {were} skipped")
        unclassed = int(measurement.predictions[-1]) if len(measurement.predictions) else 0
        if unclassed:
            have = "has" if unclassed == 1 else "have"
            gaps.append(f"{samples(unclassed, name)} {have} class scores that are not finite, so no predicted class")
    gaps += left_out("suspect", suspect)
    contents = [{shard.digest.partition("@")[0] for shard in m.shards if shard.digest} for m in (clean, suspect)]
    if contents[0] & contents[1]:
        gaps.append("the clean and the suspect set are the same data: nothing was compared")
    gaps += sorted({gap for m in (clean, suspect) for gap in m.provenance.get("gaps", ())})
    outputs = {words for m in (clean, suspect) for words in m.provenance.get("scores", ())}
    if len(outputs) > 1:
        gaps.append(f"the class scores were not read from the same output everywhere: {'; '.join(sorted(outputs))}")
    gaps += one_sided(clean)
    for name in ("clean", "suspect"):
        records = {layer.name: (layer.clean if name == "clean" else layer.suspect).positions for layer in layers}
        broken = {where: int(((r.nonfinite > 0) & (r.count > 0)).sum()) for where, r in records.items()}
        gaps += together(broken, f"NaN or infinite on some {name} samples")
    blurred = [layer.name or ROOT for layer in layers if layer.clean.of_rows]
    if blurred:
        more = f" and {len(blurred) - 1} more layer{'s' * (len(blurred) > 2)}" if len(blurred) > 1 else ""
        gaps.append(f"{blurred[0]}{more}: its rows cannot be told apart by sample, so chance cannot be calibrated on it")
    return [*gaps, *together({layer.name: len(layer.unknown) for layer in layers}, "without a finite value to compare")]


def samples(many: int, name: str) -> str:
    """`1 suspect sample`, `2 clean samples`."""
    return f"{many} {name} sample{'s' * (many != 1)}"


def together(neurons: Mapping[str, int], what: str) -> list[str]:
    """One line for what holds of neurons of one layer or of many: `conv1 and 6 later layers: 234 neurons NaN ...`."""
    names = [name for name, many in neurons.items() if many]
    if not names:
        return []
    more = f" and {len(names) - 1} later layer{'s' * (len(names) > 2)}" if len(names) > 1 else ""
    return [f"{names[0] or ROOT}{more}: {count(sum(neurons.values()))} {what}"]


def left_out(name: str, measurement: Measurement) -> list[str]:
    """Which shards of a set were not measured, in words."""
    missing = measurement.missing()
    if not missing:
        return []
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return [f"the {name} set is partial: {', '.join(map(str, missing[:3]))}{more} not in the measurement"]


def unread_layers(clean: Measurement, suspect: Measurement) -> list[str]:
    """Which layers that were chosen were not read, in sentences."""
    sets = clean, suspect
    lines = [note for m in sets for note in m.provenance.get("notes", ()) if "are not in the result" in note]
    excluded = {name for m in sets for name in m.provenance.get("excluded", ())}
    unread = {name for m in sets for name in m.unread}
    for names, what in ((excluded, "were excluded"), (unread, "could not be read (the notes say why)")):
        if names:
            shown = ", ".join(plain(name or ROOT) for name in sorted(names)[:SHOWN])
            lines.append(f"layers that {what}: {shown}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""))
    lines += [plain(doubt) for m in sets for doubt in m.provenance.get("doubts", ())]
    return [*dict.fromkeys(lines)]


def with_common_layers(clean: Measurement, suspect: Measurement) -> tuple[Measurement, Measurement]:
    """Both without the layers that only one set reached, or that gave something else in each; the notes say which."""
    notes: dict[str, str] = {}
    for name in {**clean.layers, **suspect.layers}:
        first, second = clean.layers.get(name), suspect.layers.get(name)
        if is_among(name, clean.unread + suspect.unread):
            continue
        if first is None or second is None:
            notes[name] = f"layer {name} is left out: it fired in the {'suspect' if first is None else 'clean'} set alone"
        elif kind(first) != kind(second):
            notes[name] = f"layer {name} is left out: it gives something else in each set: {kind(first)} / {kind(second)}"

    def without(measured: Measurement) -> Measurement:
        named = {"notes": tuple(notes.values()), "unread": tuple(notes)}
        joined = {key: (*measured.provenance.get(key, ()), *words) for key, words in named.items()}
        return replace(measured, provenance={**measured.provenance, **joined})

    return (without(clean), without(suspect)) if notes else (clean, suspect)


def kind(record: LayerRecord) -> str:
    """What must be the same of a layer in both sets."""
    return f"{count(record.channels)}, {record.layout}, {record.dtype}"


def rarest(layers: Sequence[LayerComparison], suspect: Measurement) -> int:
    """How many suspect samples have to lie beyond all clean ones for a neuron's tail to be a finding, on average where histograms
    count a share of them; 0: more than there are.
    """
    drawn, rest = samples_counted(layers)
    needed = critical(drawn, rest, 0, TAIL_P / sum(map(tests_of, layers))) if drawn and rest else drawn + 1
    return math.ceil(needed * observed(suspect) / drawn) if needed <= drawn else 0


def never_seen(evidence: Evidence, rarest: int) -> tuple[str, ...]:
    """What no check sees, beside UNSEEN. `rarest`: see there."""
    if evidence.ranking is None and rarest:
        seen = f"triggers carried by fewer than {rarest} suspect samples, or that put no single neuron beyond its clean tail: "
        return (seen + "chance does as much", *NOT_CHECKED)
    if evidence.ranking is None:
        return (RARE_TRIGGERS, *NOT_CHECKED)
    return NOT_CHECKED if any(proof.stands for proof in evidence.proof) else (UNPROVABLE, *NOT_CHECKED)


def one_sided(clean: Measurement) -> list[str]:
    """A gap where one number a sample was read as two classes, and the clean set has one of them alone."""
    limit, counts = clean.provenance.get("score_limit", ()), clean.predictions[:-1]
    if not limit or len(counts) != 2 or counts.all() or not counts.any():
        return []
    side = "above" if counts[1] else "not above"
    return [
        f"whether the model's one number a sample means two classes: all clean samples lie {side} {limit[0]}, as those of a "
        f"regression may; say --scores none if it is one"
    ]
