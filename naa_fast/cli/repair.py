"""`naa-fast repair`: the repair of a report as a file to deploy, measured by loading it again."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naa_fast.cli.outputs import check_file
from naa_fast.cli.scan import DATA_HELP
from naa_fast.cli.shared import (
    add_images,
    add_model,
    add_text,
    clean,
    device_name,
    emit,
    fit_positions,
    model_of,
    model_place,
    note,
    place_of,
    positive,
    sources_of,
)
from naa_fast.errors import EXIT_INCONCLUSIVE, EXIT_PASS, InputError, UsageError
from naa_fast.files import write_file

if TYPE_CHECKING:
    from naa_fast.repair.deploy import Deployed, Figures, Sets

DEFAULT_OUT = Path("naa-repaired")
FIGURES = "repair.json"
EXAMPLES = (
    "naa-fast repair naa-report --model net.py:build --weights net.safetensors --clean clean.npz --suspect suspect.npz",
    "naa-fast repair naa-report --model hf:./classifier --clean clean.jsonl --suspect suspect.jsonl --out fixed",
)
EPILOG = """model.safetensors has the repair in its weights, under the names of the model's state dict. Where no weights can
hold it, naa_repair.py and repair.safetensors are written instead. Exit code 0 where what was written does what the report
promised, or was not measured; 3 where it does not."""


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "write the repair that a scan found as weights to deploy, and measure these"
    parser = verbs.add_parser("repair", help=about, description=about, epilog=EPILOG, parents=parents)
    parser.examples = EXAMPLES
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="report folder of a scan that found a repair")
    add_model(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--clean", type=Path, metavar="PATH", help=f"clean samples to measure with: {DATA_HELP}")
    data.add_argument(
        "--suspect", type=Path, metavar="PATH", help="the suspect set that was scanned, to measure with; none after invert"
    )
    add_text(data)
    add_images(data)
    group = parser.add_argument_group("running")
    group.add_argument("--batch-size", type=positive, default=256, metavar="N", help="samples a forward (default: 256)")
    group.add_argument("--device", type=device_name, default="auto", metavar="NAME", help="cpu, cuda, cuda:1, mps")
    group.add_argument("--scores", metavar="KEY", help="the item of the model's output that the class scores are, as for scan")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="folder to write to (default: ./naa-repaired)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from naa_fast.detect.evidence_file import EVIDENCE_FILE, load_evidence
    from naa_fast.detect.repair import REPAIR_FILE, Repair
    from naa_fast.repair.deploy import MODULE, WEIGHTS, write_repaired
    from naa_fast.report.files import REPORT
    from naa_fast.report.reload import read_report

    folder: Path = arguments.folder
    given = [place_of(path) for path in (arguments.clean, arguments.suspect) if path is not None]
    read = [folder / REPORT, folder / REPAIR_FILE, *given, arguments.weights, model_place(arguments.model)]
    for name in (WEIGHTS, MODULE, REPAIR_FILE, FIGURES):
        check_file(arguments.out / name, read)
    report = read_report(folder / REPORT)
    if report["repair"] is None:
        raise InputError(f"{folder} holds no repair", f"its outcome is {report['outcome']}", "a repair is sought after a fail")
    repair, evidence = Repair.load(folder / REPAIR_FILE), load_evidence(folder / EVIDENCE_FILE)
    sets = sets_of(arguments, evidence, repair)
    model, device = model_of(arguments)
    require_same_model(model, report["provenance"]["model"], folder)
    sets = fitting(model, sets)
    done = write_repaired(model, repair, arguments.out, sets, device, arguments.scores)
    write_figures(arguments.out / FIGURES, {**done.report(), "report": str(folder), "files": [p.name for p in done.files]})
    emit("\n".join(clean(line) for line in lines_of(done, arguments.out, evidence.inversion is not None)))
    if done.holds is False:
        note("what was written does not do what the report promised: do not deploy it")
        return EXIT_INCONCLUSIVE
    return EXIT_PASS


def sets_of(arguments: argparse.Namespace, evidence: Any, repair: Any) -> Sets:
    """Both sets, as far as they are given, and which suspects carry the trigger: those a proof marked, else the highest. After an
    inversion the trigger that it made is put on the clean samples.
    """
    import numpy as np

    from naa_fast.detect.repair import TRIGGERED
    from naa_fast.repair.deploy import Sets

    asked = {name: getattr(arguments, name) for name in ("clean", "suspect") if getattr(arguments, name) is not None}
    sources = dict(zip(asked, sources_of(arguments, *asked.values()), strict=True)) if asked else {}
    ranking, proofs = evidence.ranking, [proof for proof in evidence.proof if proof.stands]
    triggered = None
    if ranking is not None and ranking.triggered is not None and ranking.triggered.any():
        triggered = ranking.triggered
    elif ranking is not None and repair.on != TRIGGERED:
        triggered = np.zeros(len(ranking.scores), bool)
        triggered[ranking.order[: repair.samples]] = True
    target = proofs[0].target if proofs and isinstance(proofs[0].target, int) else None
    made = evidence.inversion is not None and bool(proofs)
    if made and "suspect" in sources:
        raise UsageError(
            "--suspect with the report of an inversion",
            "no suspect set was scanned: its trigger is put on --clean",
            "leave it out",
        )
    return Sets(sources.get("clean"), sources.get("suspect"), triggered, target, proofs[0].trigger if made else None)


def fitting(model: Any, sets: Sets) -> Sets:
    """The sets read as the model takes them, as a scan does."""
    from naa_fast.rank.opened import fit_sets

    given = {name: source for name in ("clean", "suspect") if (source := getattr(sets, name)) is not None}
    read = dict(zip(given, fit_sets(model, [*given.values()]), strict=True))
    fit_positions(model, [*read.values()])
    return replace(sets, clean=read.get("clean"), suspect=read.get("suspect"))


def require_same_model(model: Any, digest: str, folder: Path) -> None:
    from naa_fast.capture.fingerprint import model_fingerprint
    from naa_fast.capture.selection import unwrapped

    here = model_fingerprint(unwrapped(model))
    if digest and here != digest:
        raise UsageError(
            f"the report in {folder} is of another model",
            f"model: {digest} there, {here} here",
            "give the --model and --weights that were scanned",
        )


def write_figures(path: Path, content: dict[str, Any]) -> None:
    write_file(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode("ascii"))


def lines_of(done: Deployed, folder: Path, made: bool = False) -> list[str]:
    """What was written and how to load it, then what it does. `made`: the trigger was made from the model, without suspects."""
    if done.folded:
        how = "exactly" if done.exact else "with its directions taken out of every row, not of those beyond the limit alone"
        lines = [f"{done.files[0]}: weights with the repair in them, {how}"]
        lines += [f"  not exactly: {why}" for why in done.why]
        load = ["from safetensors.torch import load_file", f"model.load_state_dict(load_file({str(done.files[0])!r}))"]
    else:
        lines = [f"{folder}: no weights can hold the repair, so a module runs the model with it"]
        lines += [f"  why: {why}" for why in done.why]
        load = ["from naa_repair import repaired", f"model = repaired(model, {str(done.files[1])!r})"]
    lines += ["Load it:", *(f"  {line}" for line in load), *table(done)]
    if done.holds is None:
        lines.append(f"Not measured whether the trigger is silenced: give --clean{'' if made else ' and --suspect'}")
    return lines


def table(done: Deployed) -> list[str]:
    rows: list[tuple[str, Figures]] = [("as audited", done.before), ("as the report repairs it", done.promised)]
    rows.append(("loaded from what was written", done.after))
    if all(figures.clean == figures.triggered == 0 for _, figures in rows):
        return []
    sizes = f"{done.after.clean:,} clean and {done.after.triggered:,} triggered samples"
    head = f"{f'Of {sizes}':<46}{'predictions kept':>18}{'accuracy':>10}{'attack success':>16}"
    return [head, *(f"  {name:<44}{shown(f.kept):>18}{shown(f.accuracy):>10}{shown(f.success):>16}" for name, f in rows)]


def shown(share: float) -> str:
    return "unknown" if share != share else f"{share:.3f}"
