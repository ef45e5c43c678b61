"""`naa-fast scan`: model and both sets in, report out."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from naa_fast.cli.base import add_base, base_model, base_of, told_against_base
from naa_fast.cli.config import toml_of
from naa_fast.cli.judging import add_judging, deliver, rules_of
from naa_fast.cli.outputs import QUARANTINE, check_file, check_folder, set_aside
from naa_fast.cli.shared import (
    DEFAULT_REPORT,
    add_images,
    add_long,
    add_model,
    add_running,
    add_text,
    clean,
    digest_of,
    emit,
    fit_positions,
    model_of,
    model_place,
    note,
    place_of,
    positive,
    running,
    sources_of,
)
from naa_fast.errors import EXIT_PASS, InputError, NaaError, Stopped, UsageError
from naa_fast.files import write_file
from naa_fast.report.run import now

if TYPE_CHECKING:
    from torch import nn

    from naa_fast.detect.accept import Rules
    from naa_fast.detect.proof import Proof
    from naa_fast.measurement import Measurement
    from naa_fast.rank.plan import Plan
    from naa_fast.result import Audit
    from naa_fast.scan.ranks import Ranks

EXAMPLES = (
    "naa-fast scan --model net.py:build --weights net.safetensors --clean clean.npz --suspect suspect.npz",
    "naa-fast scan --model timm:resnet50 --weights model.safetensors --clean clean/ --suspect suspect/ --resize 224",
    "naa-fast scan --model hf:./classifier --clean clean.jsonl --suspect suspect.jsonl --format sarif,junit",
    "naa-fast scan --config scan.toml --out reports/today",
)
DIGESTED = frozenset(("sarif", "intoto"))
"""Formats that name the files of the model by their digest, where these are many; one file of weights always is."""
DATA_HELP = (
    ".npz (x, optional mask), .npy, .safetensors, a folder or .tar of images, text in .txt, .jsonl, .csv or .parquet, "
    "or hf-data:FOLDER"
)


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "compare how a model's neurons respond to a trusted and to a suspect set"
    parser = verbs.add_parser("scan", help=about, description=about, parents=parents)
    parser.examples = EXAMPLES
    add_model(parser)
    add_base(parser, "base.json says where they differ on both sets")
    add_sets(parser, reference=True)
    add_running(parser)
    add_long(parser)
    parser.add_argument(
        "--stop-when",
        choices=("proved", "fail"),
        help="end once a trigger is proved, or the verdict is a fail, judged after 1, 2, 4, 8, ... chunks of suspects by limits "
        "that get stricter; what is left is not scanned, and is told (default: read all)",
    )
    add_judging(parser)
    second = parser.add_argument_group("ranking, proof, repair")
    second.add_argument(
        "--ranking",
        choices=("top", "all", "none"),
        default="top",
        help="suspect samples to list: the top 1,000 (default), all, also in ranking.csv, or none: no ranking and no proof",
    )
    second.add_argument("--no-ranking", action="store_const", dest="ranking", const="none", help="the same as --ranking none")
    second.add_argument(
        "--histograms",
        action="store_true",
        help="beside the ranking also count every neuron's samples by value: up to 2,040 bytes a neuron and set (default: only "
        "where samples are not ranked)",
    )
    add_proof(second)
    second.add_argument(
        "--triggers",
        type=Path,
        metavar="FOLDER",
        help="report of `invert`, or of another scan: its triggers are looked for among the suspects first, beside controls",
    )
    second.add_argument("--no-repair", action="store_true", help="after a fail, do not try which neurons to silence to cure it")
    second.add_argument(
        "--continue",
        dest="continuing",
        type=positive,
        metavar="N",
        help="of a language model judge what it answers to each prompt, its likeliest N tokens, and not its next token alone",
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="names of the classes: a line each, or .json (default: those of the hf: model; of a language model its tokens)",
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_REPORT, metavar="DIR", help="report folder (default: ./naa-report)")
    files = parser.add_argument_group("options from a file")
    files.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="options by the same names; [[scan]] before those of each of several models",
    )
    files.add_argument("--save-config", type=Path, metavar="FILE.toml", help="write the options as resolved, for --config")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what the scan would keep (layers, neurons, bytes, passes, samples), and end"
    )
    parser.set_defaults(run=run, parser=parser)


def add_sets(parser: argparse.ArgumentParser, reference: bool = False) -> None:
    """The options that name a trusted and a suspect set; with `reference` what was kept of the trusted one will do, and we
    say ourselves what to do without suspects.
    """
    data = parser.add_argument_group("data")
    trusted = data.add_mutually_exclusive_group(required=True)
    trusted.add_argument("--clean", type=Path, metavar="PATH", help=f"samples you trust: {DATA_HELP}")
    if reference:
        trusted.add_argument(
            "--reference",
            type=Path,
            metavar="FILE.naa.safetensors",
            help="what `measure --reference` kept of them, in their place: no clean sample is read, and nothing can be proved",
        )
    data.add_argument(
        "--suspect", required=not reference, type=Path, metavar="PATH", help="samples in question, in the same form"
    )
    add_text(data)
    add_images(data)


def add_proof(group: Any) -> None:
    group.add_argument("--no-proof", action="store_true", help="do not try to prove a trigger by putting it on clean samples")
    group.add_argument(
        "--budget",
        type=positive,
        metavar="N",
        help="samples that proof and repair run together at most; what that leaves out is told, and is no pass (default: 1.5 "
        "times both sets, 8,000 to 150,000, for a small model up to 80,000 at any size)",
    )


def run(arguments: argparse.Namespace) -> int:
    started, began = perf_counter(), now()
    if arguments.suspect is None:
        raise UsageError(
            "no --suspect",
            "expected the samples in question, some of which may carry a trigger",
            "without any such set: naa-fast invert --model MODEL --clean CLEAN",
        )
    read = claim(arguments)
    config = toml_of(arguments, arguments.parser).encode("utf-8")
    if arguments.save_config is not None:
        check_file(arguments.save_config, read)
        write_file(arguments.save_config, config)
    rules = rules_of(arguments)
    from naa_fast import audit
    from naa_fast.inputs.names import read_names
    from naa_fast.rank.opened import fit_sets
    from naa_fast.scan.memory import free_on, free_on_host
    from naa_fast.scan.ranks import joined

    # Both sets before the model: a wrong path should not cost the minutes a large model takes to build.
    given = None if arguments.reference is None else reference_at(arguments.reference)
    sets = sources_of(arguments, *([] if given is not None else [arguments.clean]), arguments.suspect)
    triggers = () if arguments.triggers is None else triggers_in(arguments.triggers)
    names = None if arguments.class_names is None else read_names(arguments.class_names)
    with joined() as ranks:
        with ExitStack() as answering, running(arguments, arguments.out / QUARANTINE) as (_, options):
            model, device = model_of(arguments)
            require_baseline_of(model, rules)
            sets = fit_sets(model, sets)
            fit_positions(model, sets)
            base = None if ranks.rank else base_model(arguments, model, sets, device)
            loading = perf_counter() - started
            plan = planned_by(arguments, model, given, sets, device)
            if plan is not None and not arguments.dry_run:
                if ranks.rank == 0 and not arguments.json:
                    note(plan.line)
                plan.require_room((free_on(plan.device), free_on_host()))
            if not arguments.dry_run:
                try:
                    answers = answering.enter_context(continued_by(arguments, model, sets, device))
                    scanned = audit.scan(
                        model,
                        *([] if given is None else [given]),
                        *sets,
                        top_k=arguments.top_k,
                        threshold=arguments.threshold,
                        device=device,
                        ranking=arguments.ranking,
                        histograms=arguments.histograms,
                        proof=not arguments.no_proof,
                        repair=not arguments.no_repair and answers is None,
                        budget=arguments.budget,
                        class_names=names if answers is None else answers,
                        triggers=triggers,
                        stop_early=arguments.stop_early,
                        stop_when=arguments.stop_when,
                        accept_unranked=arguments.accept_unranked,
                        **options,
                    )
                    stop = None
                except Stopped as error:
                    if error.audit is None:
                        raise
                    scanned, stop = error.audit, error
        if arguments.dry_run:
            return EXIT_PASS if ranks.rank or plan is None else emitted([*plan.lines(), *budget_of(arguments, model, plan)])
        if stop is not None:
            note(*stop.headline.splitlines(), *(f"  {line}" for line in stop.details))
            rules = replace(rules, stopped=(stop.headline, stop.exit_code))
        code = code_of_all(named(scanned, arguments, began, loading), arguments, rules, ranks, config)
        if not ranks.rank:
            told_against_base(arguments, model, base, sets, device)
        return code


def continued_by(arguments: argparse.Namespace, model: nn.Module, sets: Any, device: Any) -> AbstractContextManager[Any]:
    """The names of what the model answers, where those are its classes."""
    if arguments.continuing is None:
        return nullcontext(None)
    if arguments.reference is not None or arguments.class_names is not None:
        given = "--reference" if arguments.reference is not None else "--class-names"
        raise UsageError(f"--continue with {given}", "what the model answers is read off --clean and --suspect", "leave one out")
    from naa_fast.proof.continuations import continued

    return continued(model, sets[0], sets[-1], arguments.continuing, device)


def triggers_in(folder: Path) -> tuple[Proof, ...]:
    """The proofs of the report in a folder, those that stand first. Raises InputError where it has none."""
    from naa_fast.detect.evidence_file import EVIDENCE_FILE, load_evidence

    proofs = load_evidence(folder / EVIDENCE_FILE).proof
    if not proofs:
        raise InputError(f"{folder} has no trigger", "expected a report whose audit made one", "leave --triggers out")
    return proofs


def reference_at(path: Path) -> Measurement:
    """The clean measurement there. Raises UsageError where it has no reference."""
    from naa_fast.measurement import Measurement

    given = Measurement.load(path)
    if given.reference is None:
        raise UsageError(f"{path} has no reference", "measure the clean set with --reference, or give --clean")
    return given


def claim(arguments: argparse.Namespace) -> list[Path | None]:
    """Check that the report can go to --out, move an older one there aside, and give what the scan reads."""
    sets_at = [place_of(path) for path in (trusted_of(arguments), arguments.suspect)]
    files = [arguments.weights, model_place(arguments.model), arguments.baseline, arguments.allow, arguments.class_names]
    base = base_of(arguments)
    files += [] if base is None else [base.weights, model_place(base.model)]
    read = [*sets_at, *files, arguments.triggers]
    check_folder(arguments.out, read)
    if not arguments.dry_run:
        set_aside(arguments.out)
    return read


def named(result: Audit, arguments: argparse.Namespace, began: str, loading: float) -> Audit:
    """The audit with the names the command gave, and the seconds that loading took."""
    assert result.run is not None
    assert result.times is not None
    result.times.add("loading", loading)
    weights, command = str(arguments.weights or ""), tuple(arguments.command)
    sets: dict[str, Any] = {"clean": str(trusted_of(arguments)), "suspect": str(arguments.suspect)}
    if arguments.weights is not None or DIGESTED.intersection(arguments.format):
        sets["files"] = digests(arguments.weights, arguments.model)
    return replace(result, run=replace(result.run, model=arguments.model, weights=weights, command=command, began=began, **sets))


def planned_by(arguments: argparse.Namespace, model: nn.Module, given: Measurement | None, sets: Any, device: Any) -> Plan | None:
    """What the scan will keep; None where one sample does not tell, which the scan itself then says, unless that is all that was
    asked for.
    """
    from naa_fast.capture.selection import Request
    from naa_fast.rank.plan import planned

    options: dict[str, Any] = {"device": device, "backend": arguments.backend, "ranking": arguments.ranking != "none"}
    options["histograms"] = arguments.histograms or arguments.accept_unranked or not options["ranking"] or arguments.stop_early
    request = Request(arguments.layers, arguments.exclude)
    try:
        return planned(model, given or sets[0], sets[-1], layers=request, **options)
    except NaaError:
        if arguments.dry_run:
            raise
        return None


def budget_of(arguments: argparse.Namespace, model: nn.Module, plan: Plan) -> list[str]:
    """What proof and repair may run, in words; nothing where none is tried."""
    from naa_fast.proof.budget import default_budget, rule

    if arguments.reference is not None or arguments.ranking == "none" or arguments.no_proof:
        return []
    clean_samples, suspects = plan.samples
    known = None if clean_samples is None or suspects is None else clean_samples + suspects
    return [rule(arguments.budget or (None if known is None else default_budget(model, known)), not arguments.no_repair)]


def emitted(lines: list[str]) -> int:
    for line in lines:
        emit(clean(line))
    return EXIT_PASS


def trusted_of(arguments: argparse.Namespace) -> Path:
    """Where the trusted set is, or what was kept of it."""
    return Path(arguments.clean if getattr(arguments, "reference", None) is None else arguments.reference)


def digests(weights: Path | None, model: str) -> dict[str, str]:
    """sha256 of the files a model was read from, by the names a person gave them: one more reading of each."""
    place = weights or model_place(model)
    if place is None:
        return {}
    files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]
    return {str(path): digest_of(path) for path in files}


def code_of_all(result: Audit, arguments: argparse.Namespace, rules: Rules, ranks: Ranks, config: bytes) -> int:
    """Rank 0's exit code, on every rank once it has delivered: torchrun ends all of them with the first that fails."""
    if ranks.rank:
        return int(ranks.tell(None))
    from naa_fast.report.files import CONFIG
    from naa_fast.scan.stopping import stop_on_signals

    code, fault = None, None
    try:
        with stop_on_signals():  # what is being written is written to its end
            code = deliver(result, arguments, rules)
            write_file(arguments.out / CONFIG, config)
        if result.times is not None and not arguments.json:  # the report has them
            note(result.times.words())
    except NaaError as error:
        fault = error
    return int(ranks.tell(code, fault))


def require_baseline_of(model: nn.Module, rules: Rules) -> None:
    """Raise UsageError where the baseline is of another model, before that costs a scan."""
    from naa_fast.capture.fingerprint import model_fingerprint
    from naa_fast.capture.selection import unwrapped

    if rules.baseline is not None:
        rules.require_model(model_fingerprint(unwrapped(model)))
