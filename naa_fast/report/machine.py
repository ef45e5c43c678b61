"""report.json, the judgement for machines: `report_dict` is its content, `report_bytes` the file, `load_schema` the schema."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any

from naa_fast.detect.accuracy import clean_accuracy
from naa_fast.detect.baseline import SCHEMA
from naa_fast.detect.change import Change
from naa_fast.detect.directions import Direction
from naa_fast.detect.enrichment import OutlierCluster
from naa_fast.detect.evidence import Evidence, RankedSample
from naa_fast.detect.findings import Finding
from naa_fast.detect.inversion import ClassSearch, Inversion
from naa_fast.detect.judgement import Judgement, TopNeuron
from naa_fast.detect.proof import Erasure, Proof
from naa_fast.detect.repair import REPAIR_FILE, Repair
from naa_fast.measurement import Measurement
from naa_fast.report.files import TABLE
from naa_fast.report.pictures import trigger_names

UNITED = ("versions", "device", "backends")
"""Provenance every report has, as a list of strings, empty where a measurement says nothing of it."""


def report_dict(judgement: Judgement, provenance: Mapping[str, object]) -> dict[str, Any]:
    """The content of report.json, in plain JSON types; a number that is not finite becomes null.

    `provenance`: what the caller knows, such as `options` and `seed`. Under a key that the measurements carry too, both are
    kept, as one sorted list of strings; the digests of model and data are always the measurements' own.
    """
    verdict = judgement.verdict
    files = trigger_names(judgement.evidence)
    return {
        "schema": SCHEMA,
        "outcome": verdict.outcome,
        "exit_code": judgement.gate.exit_code,
        "verdict": judged(judgement),
        "gate": gated(judgement),
        "score": finite(verdict.score),
        "z": finite(verdict.z),
        "p_value": finite(verdict.p_value),
        "sentence": unicode_text(verdict.sentence),
        "threshold": finite(judgement.limit),
        "threshold_on": judgement.limit_on,
        "findings": [stated(finding) for finding in verdict.findings],
        "not_checked": [unicode_text(line) for line in verdict.not_checked],
        "layers": [
            {
                "name": unicode_text(name),
                "neurons": layer.neurons,
                "abnormal": [numbers(row) for row in judgement.abnormal_rows(name)],
            }
            for name, layer in judgement.layers.items()
        ],
        "top": [{"layer": unicode_text(row.layer), **numbers(row)} for row in judgement.top()],
        "ranking": [ranked(sample) for sample in (judgement.evidence.ranking.listed if judgement.evidence.ranking else ())],
        "class_names": class_names(judgement.evidence),
        "proof": [proved(proof, files.get(proof)) for proof in judgement.evidence.proof],
        "ranking_summary": ranking_summary(judgement.evidence),
        "repair": repaired(judgement.repair) if judgement.repair is not None else None,
        "inversion": inverted(judgement.evidence.inversion) if judgement.evidence.inversion is not None else None,
        "directions": [directed(direction) for direction in judgement.evidence.directions],
        "clean_accuracy": accurate(judgement.clean),
        "coverage": {
            "clean": {"samples": judgement.clean.samples, "skipped": judgement.clean.skipped},
            "suspect": {"samples": judgement.suspect.samples, "skipped": judgement.suspect.skipped},
            "layers": len(judgement.layers),
        },
        "provenance": joined_provenance(judgement, provenance),
    }


def report_bytes(judgement: Judgement, provenance: Mapping[str, object]) -> bytes:
    """report.json: ASCII, strict JSON, and the same bytes for the same judgement and provenance on one machine."""
    report = report_dict(judgement, provenance)
    return (json.dumps(report, ensure_ascii=True, allow_nan=False, indent=1) + "\n").encode("ascii")


def load_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every report.json satisfies."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("schema.json").read_text("ascii"))
    return content


def accurate(clean: Measurement) -> float | None:
    """Clean accuracy; None where no labels say it."""
    accuracy = clean_accuracy(clean)
    return None if accuracy is None or accuracy.beyond else finite(accuracy.share)


def judged(judgement: Judgement) -> dict[str, Any]:
    """What the verdict itself says, whatever a script is told."""
    verdict = judgement.verdict
    return {
        "outcome": verdict.outcome,
        "exit_code": verdict.exit_code,
        "checks": [
            {"name": c.name, "ran": c.ran, "in_part": c.in_part, "reason": unicode_text(c.reason)} for c in verdict.checks
        ],
        "accepted": list(verdict.accepted),
        "gaps": [unicode_text(gap) for gap in verdict.gaps],
    }


def gated(judgement: Judgement) -> dict[str, Any]:
    """What a script is told, why, and by which rules."""
    rules, gate = judgement.rules, judgement.gate
    baseline = rules.baseline
    return {
        "exit_code": gate.exit_code,
        "decision": gate.decision,
        "reason": unicode_text(gate.reason),
        "fail_on": rules.fail_on,
        "baseline": None if baseline is None else {"file": unicode_text(baseline.file), "sha256": baseline.sha256},
        "allow": unicode_text(rules.allow) if rules.allow else None,
        "warn_ok": rules.warn_ok,
        "notes": [unicode_text(note) for note in gate.notes],
        "counted": [i for i, finding in enumerate(judgement.verdict.findings) if any(finding is kept for kept in gate.count)],
    }


def class_names(evidence: Evidence) -> dict[str, str]:
    """The names that are known of the classes this report speaks of, by class number."""
    listed = evidence.ranking.listed if evidence.ranking else ()
    spoken: set[Any] = {sample.predicted for sample in listed} | {proof.target for proof in evidence.proof}
    spoken |= {cls for proof in evidence.proof for example in proof.examples for cls in (example.predicted, example.turned_to)}
    spoken |= {proof.source for proof in evidence.proof} | ({evidence.cluster.target} if evidence.cluster is not None else set())
    known = evidence.names.known
    return {str(cls): unicode_text(known[cls]) for cls in sorted(cls for cls in spoken if isinstance(cls, int)) if cls in known}


def stated(finding: Finding) -> dict[str, Any]:
    trigger = None if finding.trigger is None else finding.trigger.report()
    return {
        "level": finding.level,
        "layer": unicode_text(finding.layer),
        "statement": unicode_text(finding.statement),
        "value": finite(finding.value),
        "limit": finite(finding.limit),
        "unit": finding.unit,
        "about": finding.about,
        "source": finding.source,
        "trigger": plain(trigger),
    }


def numbers(row: TopNeuron) -> dict[str, Any]:
    return {
        "neuron": row.neuron,
        "difference": finite(row.difference),
        "z": finite(row.z),
        "view": row.view or None,
        "clean_mean": finite(row.clean_mean),
        "suspect_mean": finite(row.suspect_mean),
        "tail": finite(row.tail),
    }


def ranking_summary(evidence: Evidence) -> dict[str, Any] | None:
    """The tail of the ranking in numbers, and what the proofs cost."""
    ranking = evidence.ranking
    if ranking is None:
        return None
    return {
        "samples": len(ranking.scores),
        "numbering": ranking.numbering,
        "limit": finite(ranking.limit),
        "beyond": ranking.beyond,
        "outside": ranking.outside,
        "p_value": finite(ranking.p_value),
        "triggered": int(ranking.triggered.sum()) if ranking.triggered is not None else 0,
        "uncertain": int(ranking.uncertain.sum()) if ranking.uncertain is not None else 0,
        "harmless": finite(evidence.harmless),
        "forwards": evidence.forwards,
        "outlier_cluster": clustered(evidence.cluster) if evidence.cluster is not None else None,
        "file": TABLE if ranking.whole else None,
    }


def clustered(cluster: OutlierCluster) -> dict[str, Any]:
    measured = {name: finite(value) for name, value in asdict(cluster).items() if name != "target"}
    return {"target": cluster.target, **measured}


def ranked(sample: RankedSample) -> dict[str, Any]:
    return {
        "sample": sample.sample,
        "score": finite(sample.score),
        "predicted": sample.predicted if sample.predicted >= 0 else None,
        "triggered": sample.triggered,
        "deviating": [{"layer": unicode_text(layer), "neuron": neuron, "z": finite(z)} for layer, neuron, z in sample.deviating],
        "file": None if sample.file is None else unicode_text(sample.file),
    }


def proved(proof: Proof, file: str | None) -> dict[str, Any]:
    """`file`: the one in the report folder that shows the trigger."""
    return {
        "kind": proof.kind,
        "target": proof.target,
        "source": proof.source,
        "stands": proof.stands,
        "rate": finite(proof.rate),
        "control": finite(proof.control),
        "controls": proof.controls,
        "control_words": None if proof.against is None else unicode_text(proof.against.words or proof.against.written),
        "erasure": None if proof.erasure is None else erased(proof.erasure),
        "interval": [finite(end) for end in proof.interval],
        "samples": proof.samples,
        "tokens": list(proof.tokens),
        "words": unicode_text(proof.words),
        "file": file,
    }


def erased(erasure: Erasure) -> dict[str, Any]:
    """What taking a trigger out of the suspects did."""
    shares = {"turned": finite(erasure.turned), "usual": finite(erasure.usual), "p_value": finite(erasure.p_value)}
    around = None if erasure.around is None else unicode_text(erasure.around.words or erasure.around.written)
    return {"claimed": erasure.claimed, **shares, "shared": erasure.shared, "around": around}


def repaired(repair: Repair) -> dict[str, Any]:
    return {
        "changes": [silenced(change) for change in repair.changes],
        "on": repair.on,
        "samples": repair.samples,
        "before": finite(repair.before),
        "after": finite(repair.after),
        "control": finite(repair.control),
        "clean_samples": repair.clean_samples,
        "kept": finite(repair.kept),
        "control_kept": finite(repair.control_kept),
        "tried": repair.tried,
        "forwards": repair.forwards,
        "file": REPAIR_FILE,
    }


def inverted(inversion: Inversion) -> dict[str, Any]:
    """What the search without suspect samples came to, class by class."""
    return {
        "classes": inversion.classes,
        "searches": [searched(search) for search in inversion.searches],
        "base": [searched(search) for search in inversion.base],
        "standings": [
            {
                "kind": standing.search.kind,
                "target": standing.search.target,
                "median": finite(standing.median),
                "runner_up": finite(standing.runner_up),
                "base": finite(standing.base),
                "classes": standing.classes,
                "p_value": finite(standing.p_value),
                "chance": finite(standing.chance),
                "strength": finite(standing.strength),
                "apart": standing.apart,
            }
            for standing in inversion.standings
        ],
        "suspicions": [
            {
                "check": suspicion.check,
                "layer": unicode_text(suspicion.where),
                "target": suspicion.target if suspicion.target >= 0 else None,
                "value": finite(suspicion.value),
                "limit": finite(suspicion.limit),
                "stands": suspicion.stands,
            }
            for suspicion in inversion.suspicions
        ],
        "neurons": [
            {"layer": unicode_text(neuron.layer), "neuron": neuron.neuron, "target": neuron.target, "share": finite(neuron.share)}
            for neuron in inversion.neurons
        ],
        "forwards": inversion.forwards,
        "backwards": inversion.backwards,
    }


def searched(search: ClassSearch) -> dict[str, Any]:
    sizes = {
        "size": finite(search.size),
        "rate": finite(search.rate),
        "noisy": finite(search.noisy),
        "shifted": finite(search.shifted),
    }
    return {"target": search.target, "kind": search.kind, **sizes}


def silenced(change: Change) -> dict[str, Any]:
    return {
        "layer": unicode_text(change.layer),
        "method": change.method,
        "choice": change.choice,
        "neurons": [int(neuron) for neuron in change.neurons],
        "directions": change.directions,
    }


def directed(direction: Direction) -> dict[str, Any]:
    return {
        "layer": unicode_text(direction.layer),
        "kind": direction.kind,
        "effect": finite(direction.effect),
        "spread": finite(direction.spread),
        "auc": finite(direction.auc),
        "beyond": finite(direction.beyond),
        "statistic": finite(direction.statistic),
        "limit": finite(direction.limit),
        "neurons": [{"neuron": neuron, "weight": finite(weight)} for neuron, weight in direction.neurons],
    }


def joined_provenance(judgement: Judgement, given: Mapping[str, object]) -> dict[str, Any]:
    """What the caller and the two measurements say of their making, keys sorted."""
    sets = {"clean": judgement.clean, "suspect": judgement.suspect}
    united: dict[str, set[str]] = {key: set() for key in UNITED}
    for measurement in sets.values():
        for key, values in measurement.provenance.items():
            united.setdefault(key, set()).update(values)
    for key, value in given.items():
        if key in united:
            united[key].update(as_strings(value))
    return plain(
        {
            "options": {},
            "seed": None,
            **given,
            **{key: sorted(values) for key, values in united.items()},
            "model": judgement.clean.model or judgement.suspect.model,
            "data": {name: shards(measurement) for name, measurement in sets.items()},
            "judged_with": judged_with(),
        }
    )


def shards(measurement: Measurement) -> list[dict[str, Any]]:
    return [{"digest": s.digest, "samples": s.samples, "skipped": s.skipped} for s in measurement.shards]


def judged_with() -> list[str]:
    """Versions at the time of judging, which may be another machine than the one that measured."""
    versions = [f"python {platform.python_version()}"]
    for package in ("naa-fast", "numpy", "matplotlib"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} (not installed as a package)")
    return versions


def as_strings(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{key} {item}" for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [str(item) for item in value]
    return [] if value is None else [str(value)]


def plain(value: Any) -> Any:
    """`value` in JSON's own types, mappings sorted by key; what JSON has no type for becomes its string."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, str):
        return unicode_text(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in sorted((unicode_text(str(k)), item) for k, item in value.items())}
    if isinstance(value, set | frozenset):
        return sorted(unicode_text(str(item)) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return plain(value.tolist())
    return unicode_text(str(value))


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if isfinite(value) else None


def unicode_text(text: str) -> str:
    """`text` with U+FFFD for every lone surrogate: Python would write one that strict parsers refuse to read."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
