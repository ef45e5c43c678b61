"""`naa-fast measure`: one set through the model, its statistics into a file that can be merged and compared elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naa_fast.cli.outputs import check_file, quarantine_of
from naa_fast.cli.scan import DATA_HELP, reference_at
from naa_fast.cli.shared import (
    add_images,
    add_long,
    add_model,
    add_running,
    add_text,
    clean,
    counted,
    emit,
    fit_positions,
    index,
    model_of,
    model_place,
    note,
    place_of,
    running,
    shard,
    sources_of,
)
from naa_fast.errors import EXIT_PASS, UsageError

if TYPE_CHECKING:
    from naa_fast.measurement import Measurement


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "measure one set and save the measurement"
    parser = verbs.add_parser("measure", help=about, description=about, parents=parents)
    parser.examples = (
        "naa-fast measure --model net.py:build --data clean.npz --out clean.naa.safetensors",
        "naa-fast measure --model net.py:build --data clean.npz --shard 1/4 --out clean-1.naa.safetensors",
        "naa-fast measure --model net.py:build --data suspect.npz --shard 1/4 --against clean.naa.safetensors --retain "
        "--out suspect-1.naa.safetensors",
    )
    add_model(parser, required=False)
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, metavar="PATH", help=DATA_HELP)
    data.add_argument(
        "--activations",
        type=Path,
        metavar="DIR",
        help="stored activations instead of --model and --data: LAYER.npy or LAYER.safetensors files, or .safetensors shards "
        "with a tensor for each layer, [samples, neurons] or [samples, tokens, neurons]",
    )
    add_text(data)
    add_images(data)
    add_running(parser)
    add_long(parser)
    parser.add_argument(
        "--first-index",
        type=index,
        default=0,
        metavar="N",
        help="where the data begins in the larger set it is a part of, so that merged parts equal one pass (default: 0)",
    )
    parser.add_argument(
        "--shard", type=shard, metavar="I/N", help="measure the I-th of N parts of the data, for merge to join (from 1/N to N/N)"
    )
    parser.add_argument(
        "--reference",
        action="store_true",
        help="keep what suspects are ranked by, for `scan --reference`: a clean set is then read once and for all",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE.naa.safetensors",
        help="rank the samples by this clean measurement (made with --reference), for `prove`",
    )
    parser.add_argument(
        "--retain", action="store_true", help="with --against: keep the inputs of the 1,000 highest-ranked, for `prove`"
    )
    parser.add_argument(
        "--histograms",
        action="store_true",
        help="with --reference or --against also count every neuron's samples by value, as is done without them: up to 2,040 "
        "bytes a neuron, for `compare` with a set that is not ranked",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.naa.safetensors", help="measurement file to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    require_subject(arguments)
    listed = quarantine_of(arguments.out)
    if arguments.activations is not None:
        return run_activations(arguments, listed)
    for path in (arguments.out, listed):
        check_file(path, [place_of(arguments.data), arguments.weights, model_place(arguments.model), arguments.against])
    from naa_fast import audit
    from naa_fast.scan.times import Times

    against = None if arguments.against is None else reference_at(arguments.against)
    [source] = sources_of(arguments, arguments.data)
    times = Times()
    with running(arguments, listed) as (ranks, options):
        model, device = model_of(arguments)
        fit_positions(model, [source])
        measurement = audit.measure(
            model,
            source,
            device=device,
            first_index=arguments.first_index,
            shard=arguments.shard,
            times=times,
            stop_early=arguments.stop_early,
            reference=arguments.reference,
            against=against,
            retain=arguments.retain,
            histograms=arguments.histograms or None,
            **options,
        )
    if ranks.rank == 0:
        delivered(arguments, measurement)
        note(times.words())
    return EXIT_PASS


def require_subject(arguments: argparse.Namespace) -> None:
    """Raise UsageError unless there is either a model with data or activations alone."""
    given = {name: getattr(arguments, name) is not None for name in ("model", "data", "activations")}
    if given["activations"]:
        other = next((option for option, value in set_beside(arguments).items() if value), None)
        if other is not None:
            raise UsageError(f"{other} with --activations", "stored activations need no model and no data", f"leave {other} out")
    elif not (given["model"] and given["data"]):
        missing = " and ".join(f"--{name}" for name in ("model", "data") if not given[name])
        raise UsageError(f"{missing} not given", "expected --model and --data, or --activations alone")


def set_beside(arguments: argparse.Namespace) -> dict[str, object]:
    """The options that mean nothing beside --activations, as given."""
    of_ranking = ("reference", "against", "histograms")
    of_images = ("image_mode", "resize", "center_crop", "normalize")
    names = ("model", "data", "weights", "checkpoint", "resume", "tokenizer", "scores", *of_ranking, *of_images)
    return {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in names}


def run_activations(arguments: argparse.Namespace, listed: Path) -> int:
    check_file(arguments.out, [arguments.activations])
    from naa_fast.scan.dump import measure_activations

    with running(arguments, listed) as (ranks, options):
        measurement = measure_activations(
            arguments.activations,
            layers=arguments.layers,
            exclude=arguments.exclude,
            batch_size=arguments.batch_size,
            device="cpu" if arguments.device == "auto" else arguments.device,
            backend=arguments.backend,
            first_index=arguments.first_index,
            progress=options.get("progress"),
        )
    if ranks.rank == 0:
        delivered(arguments, measurement)
    return EXIT_PASS


def delivered(arguments: argparse.Namespace, measurement: Measurement) -> None:
    """Write the measurement and say so."""
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    measurement.save(arguments.out)
    skipped = f", {measurement.skipped:,} skipped" if measurement.skipped else ""
    samples, layers = counted(measurement.samples, "sample"), counted(len(measurement.layers), "layer")
    part = "".join(f", {part}" for part in measurement.parts)
    emit(clean(f"{arguments.out}: {samples}{skipped}, {layers}{part}"))
