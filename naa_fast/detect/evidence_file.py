"""evidence.safetensors: what the ranking of the samples found, kept so that a report can be drawn again. NumPy only.

`evidence_bytes` makes it, `load_evidence` reads it. Numbers are tensors, all else is the JSON of the metadata's one key. The
repair is not in it, nor the vectors of the directions: both have files of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from naa_fast.detect.checks import ABOUT, Check
from naa_fast.detect.directions import Direction
from naa_fast.detect.enrichment import OutlierCluster
from naa_fast.detect.evidence import MOST_RANKED, Deviating, Evidence, Ranking
from naa_fast.detect.interim import Interim
from naa_fast.detect.inversion import Inversion
from naa_fast.detect.names import Names
from naa_fast.detect.proof import Erasure, Example, Proof, flaw
from naa_fast.detect.trigger import Crop, Inserted, Offset, Patch, TokenPair, Tokens, Trigger
from naa_fast.errors import InputError
from naa_fast.records import Array

EVIDENCE_FILE = "evidence.safetensors"
FORM = "naa-fast/evidence/2"
OLDER = "naa-fast/evidence/1"
"""Form that is read as well: some of its fields had other words (`in_new_words`)."""
SIDE = 256
"""Pixels a side of the samples' pictures at most: what a page shows of them is smaller."""
LEVELS = 255
RANKED = ("scores", "predicted", "null_scores", "null_predicted", "triggered", "uncertain", "items")
ERASED = ("claimed", "turned", "usual", "p_value")
PLAIN = ("target", "rate", "control", "samples", "group", "source", "own", "controls", "measured", "singled")
TRIGGERS: Mapping[str, type[Trigger]] = {kind.__name__: kind for kind in (Patch, Crop, Offset, Tokens, Inserted, TokenPair)}
DIRECTED = ("layer", "kind", "effect", "spread", "auc", "beyond", "statistic", "limit", "step")


def evidence_bytes(evidence: Evidence) -> bytes:
    """The content of evidence.safetensors. Pictures of samples are kept to 8 bits, as they are shown: 9 MB of 48 RGB images."""
    from safetensors.numpy import save

    tensors: dict[str, Array] = {}
    about: dict[str, Any] = {
        "form": FORM,
        "forwards": evidence.forwards,
        "names": {"known": {str(cls): name for cls, name in evidence.names.known.items()}, "noun": evidence.names.noun},
        "notes": evidence.notes,
        "texts": evidence.texts,
        "heat": evidence.heat,
        "harmless": evidence.harmless,
        "gaps": evidence.gaps,
        "checks": [asdict(check) for check in evidence.checks],
        "inversion": None if evidence.inversion is None else asdict(evidence.inversion),
        "interim": None if evidence.interim is None else evidence.interim.report(),
        "outlier_cluster": None if evidence.cluster is None else asdict(evidence.cluster),
        "directions": [
            {**{name: getattr(along, name) for name in DIRECTED}, "neurons": along.neurons} for along in evidence.directions
        ],
        "proofs": [proof_of(proof, f"proof{i}", tensors) for i, proof in enumerate(evidence.proof)],
        "ranking": None if evidence.ranking is None else ranking_of(evidence.ranking, tensors),
        "pictures": None if evidence.pictures is None else pictures_of(evidence.pictures, tensors),
    }
    return save(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()}, {"evidence": json.dumps(about, default=plain)}
    )


def plain(value: Any) -> Any:
    """NumPy's scalars in JSON's own types."""
    return value.item()


def ranking_of(ranking: Ranking, tensors: dict[str, Array]) -> dict[str, Any]:
    for name in RANKED:
        if getattr(ranking, name) is not None:
            tensors[f"ranking.{name}"] = getattr(ranking, name)
    files = {str(sample.sample): sample.file for sample in ranking.rows(MOST_RANKED) if sample.file is not None}
    deviating = {str(number): neurons for number, neurons in ranking.deviating.items()}
    return {"files": files, "deviating": deviating, "whole": ranking.whole, "numbering": ranking.numbering}


def proof_of(proof: Proof, name: str, tensors: dict[str, Array]) -> dict[str, Any]:
    arrays = {part: value for part, value in vars(proof.trigger).items() if isinstance(value, np.ndarray)}
    tensors |= {f"{name}.{part}": value for part, value in arrays.items()}
    trigger, against = told(proof.trigger), None if proof.against is None else told(proof.against)
    examples = []
    for i, example in enumerate(proof.examples):
        tensors |= {f"{name}.{i}.before": example.before, f"{name}.{i}.after": example.after}
        words = {part: getattr(example, part) for part in ("words_before", "words_after")}
        examples.append({"predicted": example.predicted, "turned_to": example.turned_to, **words})
    erasure = None if proof.erasure is None else erased(proof.erasure)
    figures = {part: getattr(proof, part) for part in (*PLAIN, "share")}
    return {**figures, "trigger": trigger, "against": against, "erasure": erasure, "examples": examples}


def erased(erasure: Erasure) -> dict[str, Any]:
    """What taking the trigger out of suspects did."""
    around = None if erasure.around is None else told(erasure.around)
    return {**{part: getattr(erasure, part) for part in ERASED}, "around": around}


def told(trigger: Trigger) -> dict[str, Any]:
    """What is no array of a trigger."""
    rest = {part: value for part, value in vars(trigger).items() if not isinstance(value, np.ndarray)}
    return {"form": type(trigger).__name__, **rest}


def pictures_of(pictures: Array, tensors: dict[str, Array]) -> dict[str, float]:
    """The range of the pictures' values; what is not finite is drawn as the lowest. `[samples, channels, height, width]`."""
    step = max(1, -(-max(pictures.shape[2:]) // SIDE))
    shown = pictures[:, :, ::step, ::step].astype(np.float64)
    finite = shown[np.isfinite(shown)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(shown, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-30)
    tensors["pictures"] = np.rint(scaled * LEVELS).astype(np.uint8)
    return {"low": low, "high": high}


def load_evidence(path: Path) -> Evidence:
    """The evidence in a file. Raises InputError where it is missing, damaged, or of another form: it may be anybody's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})["evidence"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["form"] == OLDER:
            about, tensors = in_new_words(about, tensors)
        elif about["form"] != FORM:
            raise ValueError(f"its form is {about['form']!r}")
        return evidence_of(about, tensors)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no evidence of a report",
            f"{type(error).__name__}: {error}",
            f"expected the {EVIDENCE_FILE} ({FORM}) that a scan writes beside report.json; scan once more for one",
        ) from None


def in_new_words(about: Mapping[str, Any], tensors: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
    """What a file of form OLDER holds, as FORM calls it."""
    ranking = about["ranking"]
    if ranking is not None:
        ranking = {**ranking, "deviating": ranking["lit"]}
    tensors = {("ranking.triggered" if name == "ranking.carriers" else name): array for name, array in tensors.items()}
    return {**about, "outlier_cluster": about["crowd"], "ranking": ranking}, tensors


def evidence_of(about: Mapping[str, Any], tensors: Mapping[str, Array]) -> Evidence:
    checks = tuple(map(Check.read, about["checks"]))
    if any(check.name not in ABOUT for check in checks):
        raise ValueError("checks that this version does not know")
    cluster = about["outlier_cluster"]
    heat = tuple(tuple((str(words), float(z)) for words, z in entry) for entry in about.get("heat", ()))
    return Evidence(
        None if about["ranking"] is None else read_ranking(about["ranking"], tensors),
        tuple(read_proof(entry, f"proof{i}", tensors) for i, entry in enumerate(about["proofs"])),
        int(about["forwards"]),
        tuple(map(str, about["notes"])),
        None if about["pictures"] is None else read_pictures(about["pictures"], tensors["pictures"]),
        tuple(map(str, about["texts"])),
        float(about["harmless"]),
        None
        if cluster is None
        else OutlierCluster(int(cluster["target"]), *(float(cluster[field.name]) for field in fields(OutlierCluster)[1:])),
        tuple(map(str, about["gaps"])),
        tuple(map(read_direction, about["directions"])),
        checks=checks,
        heat=heat,
        names=Names({int(cls): str(name) for cls, name in about["names"]["known"].items()}, str(about["names"]["noun"])),
        inversion=None if about["inversion"] is None else Inversion.read(about["inversion"]),
        interim=None if about.get("interim") is None else Interim.read(about["interim"]),
    )


def read_ranking(about: Mapping[str, Any], tensors: Mapping[str, Array]) -> Ranking:
    columns: dict[str, Any] = {name: tensors.get(f"ranking.{name}") for name in RANKED}
    suspects = {len(array) for name, array in columns.items() if array is not None and not name.startswith("null")}
    if len(suspects) != 1 or any(array is not None and array.ndim != 1 for array in columns.values()):
        raise ValueError("a ranking whose parts are not of one length")
    if any(columns[name] is None for name in RANKED[:4]) or len(tensors["ranking.null_scores"]) != len(
        tensors["ranking.null_predicted"]
    ):
        raise ValueError("a ranking without its scores")
    files = {int(item): str(name) for item, name in about["files"].items()}
    deviating: dict[int, Deviating] = {
        int(number): tuple((str(layer), int(neuron), float(z)) for layer, neuron, z in neurons)
        for number, neurons in about["deviating"].items()
    }
    return Ranking(
        **columns, deviating=deviating, file_of=files.get, whole=bool(about["whole"]), numbering=str(about["numbering"])
    )


def read_proof(about: Mapping[str, Any], name: str, tensors: Mapping[str, Array]) -> Proof:
    erasure = None if about["erasure"] is None else read_erasure(about["erasure"], name)
    examples = tuple(
        Example(
            int(example["predicted"]),
            int(example["turned_to"]),
            tensors[f"{name}.{i}.before"],
            tensors[f"{name}.{i}.after"],
            *(tuple((str(text), bool(changed)) for text, changed in example[part]) for part in ("words_before", "words_after")),
        )
        for i, example in enumerate(about["examples"])
    )
    plain_parts = {part: about[part] for part in PLAIN}
    numbers = [plain_parts[part] for part in ("rate", "control", "samples", "group", "controls", "measured")]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError("a proof whose figures are no numbers")
    if not isinstance(plain_parts["target"], int | str):
        raise ValueError("a proof without a target")
    against = None if about.get("against") is None else read_trigger(about["against"], name, {})
    if against is not None and not isinstance(against, Tokens):
        raise ValueError("a control whose words are none")
    trigger = read_trigger(about["trigger"], name, tensors)
    proof = Proof(
        trigger, **plain_parts, examples=examples, erasure=erasure, against=against, share=float(about.get("share", 1.0))
    )
    if wrong := flaw(proof):
        raise ValueError(wrong)
    return proof


def read_erasure(about: Mapping[str, Any], name: str) -> Erasure:
    around = None if about.get("around") is None else read_trigger(about["around"], name, {})
    if around is not None and not isinstance(around, Tokens):
        raise ValueError("what was taken out of texts are no words")
    return Erasure(**{part: about[part] for part in ERASED}, around=around)


def read_trigger(about: Mapping[str, Any], name: str, tensors: Mapping[str, Array]) -> Trigger:
    form = TRIGGERS[about["form"]]
    if form is Inserted:
        place = bool(about["front"]), bool(about.get("end", False))
        return Inserted(tuple(map(int, about["ids"])), str(about["words"]), *place)
    if issubclass(form, Tokens):
        return form(tuple(map(int, about["ids"])), str(about["words"]))
    arrays: dict[str, Any] = {part: tensors[f"{name}.{part}"] for part in ("pattern", "mask") if f"{name}.{part}" in tensors}
    made: Trigger = form(**arrays, detail=str(about["detail"]))
    if len({array.shape for array in arrays.values()}) > 1:
        raise ValueError("a trigger whose parts are not of one shape")
    return made


def read_pictures(about: Mapping[str, Any], kept: Array) -> Array:
    """The pictures float32 `[samples, channels, height, width]`, as far as 256 levels keep them."""
    if kept.ndim != 4 or kept.dtype != np.uint8:
        raise ValueError("pictures that are none")
    low, high = float(about["low"]), float(about["high"])
    pictures: Array = (low + kept.astype(np.float32) / LEVELS * (high - low)).astype(np.float32)
    return pictures


def read_direction(about: Mapping[str, Any]) -> Direction:
    numbers = {name: float(about[name]) for name in DIRECTED[2:-1]}
    neurons = tuple((int(neuron), float(weight)) for neuron, weight in about["neurons"])
    return Direction(
        str(about["layer"]), str(about["kind"]), **numbers, neurons=neurons, vector=np.zeros(0), step=int(about["step"])
    )
