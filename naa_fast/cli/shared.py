"""What the verbs share: groups of options, values checked as they are read, and the two ways out, results and remarks."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naa_fast.errors import InputError, UsageError
from naa_fast.ops import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from naa_fast.inputs.batches import Source
    from naa_fast.scan.ranks import Ranks

DEFAULT_REPORT = Path("naa-report")
LINE_CELLS = 2000  # more than the longest path on most systems
DEVICES = ("auto", "cpu", "cuda")
DATASET = "hf-data:"


def add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The options that say which model, with which weights."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        required=required,
        metavar="FILE.py:FUNCTION|package.module:FUNCTION|hf:FOLDER|timm:NAME|FILE.pt2",
        help="function that returns the model (its code is RUN, so name only code you trust); or, without running its code, "
        "a Hugging Face folder or id, an architecture of timm, a program saved by torch.export",
    )
    group.add_argument("--hf-task", default="auto", metavar="TASK", help="what an hf: model is for (default: as it says itself)")
    group.add_argument("--revision", help="version of an hf: model that is fetched by id")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="precision of an hf: model (default: its own)")
    group.add_argument(
        "--model-arg",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=JSON",
        help="keyword argument for the function, as in width=64 or name='\"resnet18\"'",
    )
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights to load: .safetensors, or a file of torch.save with a state dict; read without running code from it",
    )
    group.add_argument(
        "--weights-key", metavar="KEY", help="which state dict of --weights to load, where it has several that fit"
    )
    group.add_argument(
        "--unsafe-load", metavar="sha256:HASH", help="unpickle --weights, and run what code it names, if the file has this hash"
    )
    group.add_argument(
        "--device-map", choices=("auto",), help="spread the layers of an hf: model over all devices (default: one device)"
    )


def add_text(group: Any) -> None:
    """The options that say how text becomes tokens."""
    group.add_argument("--text-field", metavar="NAME", help="field or column that holds the text (default: text)")
    group.add_argument("--tokenizer", metavar="FOLDER", help="tokenizer for text (default: that of the hf: model)")
    group.add_argument("--max-length", type=positive, metavar="TOKENS", help="cut longer texts (default: refuse them)")
    group.add_argument("--padding-side", choices=("right", "left"), default="right", help="where texts are padded")
    group.add_argument(
        "--bucket", action="store_true", help="batch texts of like length together: the same statistics with less padding"
    )
    group.add_argument(
        "--skip-special", action="store_true", help="leave tokens the tokenizer adds (BOS, EOS, CLS) out of the statistics"
    )


def add_images(group: Any) -> None:
    """The options that say how images are read and what is done to them."""
    group.add_argument(
        "--image-mode", choices=("L", "RGB"), help="read images as grey or RGB (default: as the model takes them, or most are)"
    )
    group.add_argument(
        "--resize", type=index, metavar="N", help="shorter side of images; 0: as it is (default: as a timm or hf: model says)"
    )
    group.add_argument("--center-crop", type=index, metavar="N", help="cut N x N from the middle of images; 0: no cut")
    group.add_argument(
        "--normalize", metavar="imagenet|none|MEAN,STD", help="(x - MEAN) / STD of values from 0 to 1, one number each or three"
    )
    group.add_argument(
        "--workers",
        type=index,
        default=0,
        metavar="N",
        help="processes that decode images beside the model (default: 0, a thread)",
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """The options that say which layers are measured, and where."""
    group = parser.add_argument_group("running")
    group.add_argument(
        "--layers",
        action="extend",
        nargs="+",
        metavar="GLOB",
        help="names or globs of modules (default: a transformer's blocks, attention and MLP activations; of others "
        "convolutions, linear layers, activations and blocks)",
    )
    group.add_argument(
        "--exclude",
        action="extend",
        nargs="+",
        metavar="GLOB",
        help="names or globs of the modules to leave out of these; the report names what was left out",
    )
    group.add_argument("--batch-size", type=positive, default=256, metavar="N", help="samples a forward (default: 256)")
    group.add_argument(
        "--device",
        type=device_name,
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)",
    )
    group.add_argument(
        "--scores",
        metavar="KEY",
        help="the item of the model's output that the class scores are: logits, 1, 0.logits; output for its one tensor, none for "
        "a model that gives none (default: by names, the layers they come from, and shapes)",
    )
    group.add_argument(
        "--stop-early",
        action="store_true",
        help="end each forward after the last chosen layer; the model's predictions are then not counted",
    )
    group.add_argument(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        help="who computes the statistics (default: the fastest that can)",
    )


def add_long(parser: argparse.ArgumentParser) -> None:
    """The options of runs that may be interrupted."""
    group = parser.add_argument_group("long runs")
    group.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="keep finished work here; SIGTERM and Ctrl-C then end with exit 75"
    )
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    group.add_argument(
        "--chunk-size", type=positive, metavar="N", help="samples a chunk, the unit of what is kept and shared (default: 8192)"
    )
    group.add_argument(
        "--max-bad",
        metavar="N|N%",
        help="end with exit code 2 when more items of a set cannot be used (default: go on; quarantine.jsonl lists them)",
    )
    group.add_argument(
        "--prefetch", type=index, metavar="N", help="batches read ahead while the model runs (default: 2 of files; 0: none)"
    )
    group.add_argument(
        "--log",
        "--log-format",  # torchrun takes --log for one of its own, even behind the name of the script
        choices=("text", "json"),
        default="text",
        help="form of the progress on stderr (default: text; json: an object a line)",
    )


@contextmanager
def running(arguments: argparse.Namespace, listed: Path) -> Iterator[tuple[Ranks, dict[str, Any]]]:
    """This process among the ranks of a torchrun, and what the long-run options ask of `measure` and `scan`, with the progress
    (rank 0's) and the quarantine, whose list is `listed`. The model's own prints go to stderr.
    """
    from naa_fast.cli.progress import JsonProgress
    from naa_fast.scan.progress import Progress
    from naa_fast.scan.quarantine import Quarantine
    from naa_fast.scan.ranks import joined

    quarantine = Quarantine(listed, arguments.max_bad)
    options: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("layers", "exclude", "batch_size", "backend", "chunk_size", "checkpoint", "resume", "prefetch", "scores")
    }
    with joined() as ranks, redirect_stdout(sys.stderr):
        if ranks.rank:
            yield ranks, {**options, "quarantine": quarantine}
            return
        shown = JsonProgress(lambda: quarantine.count) if arguments.log == "json" else Progress()
        with shown as progress:
            yield ranks, {**options, "quarantine": quarantine, "progress": progress}
    if quarantine.count:
        note(f"{counted(quarantine.count, 'item')} could not be used and left out: {listed}")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return int(text)


def device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|xpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a device: expected auto, cpu, mps, xpu, cuda or cuda:NUMBER")
    return text


def index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 0 or more")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form i/n with i from 1 to n, as in 2/8")
    return int(number), int(count)


def model_arguments(words: list[str]) -> dict[str, Any]:
    """`KEY=JSON` words as keyword arguments. Raises UsageError on another form, invalid JSON, or a key given twice."""
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--model-arg {word} is not of the form KEY=JSON", "for example --model-arg width=64")
        if key in arguments:
            raise UsageError(f"--model-arg {key} is given twice", "give each key once")
        try:
            arguments[key] = json.loads(value)
        except ValueError as error:
            raise UsageError(
                f"--model-arg {word} is not valid JSON",
                str(error),
                f"text needs double quotes inside single ones: --model-arg '{key}=\"{value}\"'",
            ) from None
    return arguments


def model_of(arguments: argparse.Namespace) -> tuple[nn.Module, str]:
    """The model the options describe, and the device to run it on.

    "auto" is the GPU if there is one and the model came on the CPU; a model that placed itself stays where it is.
    """
    import torch

    from naa_fast.capture.loaded import told_of
    from naa_fast.inputs.models import load_model
    from naa_fast.inputs.pretrained import PREFIX, load_pretrained

    if arguments.model.startswith(PREFIX):
        for option in ("--weights", "--model-arg", "--unsafe-load", "--weights-key"):
            if getattr(arguments, option[2:].replace("-", "_")):
                raise UsageError(f"{option} with {arguments.model}", "an hf: model brings its own", f"leave {option} out")
        if arguments.device_map is not None and arguments.device != "auto":
            raise UsageError("--device with --device-map", "the map says where each layer goes", "leave one of them out")
        name = arguments.model.removeprefix(PREFIX)
        model = load_pretrained(name, arguments.hf_task, arguments.dtype, arguments.revision, arguments.device_map)
    else:
        for option in ("--dtype", "--device-map"):
            if getattr(arguments, option[2:].replace("-", "_")) is not None:
                raise UsageError(f"{option} with {arguments.model}", "it is for hf: models", f"leave {option} out")
        words, weights = model_arguments(arguments.model_arg), arguments.weights
        model = load_model(arguments.model, words, weights, arguments.unsafe_load, arguments.weights_key)
    told = told_of(model)
    note(*told.reading, *(f"not read: {line}" for line in told.left_out))
    tell_weights(model, arguments)
    if arguments.device_map is not None:
        return model, "auto"
    device: str = arguments.device
    tensors = [*model.parameters(), *model.buffers()]
    if device == "auto" and torch.cuda.is_available() and all(tensor.device.type == "cpu" for tensor in tensors):
        device = "cuda"
    return model, device


def tell_weights(model: nn.Module, arguments: argparse.Namespace) -> None:
    """Keep for the report whose values the model has; where nobody seems to have loaded any, that is a gap, said at once."""
    from naa_fast.capture.loaded import add_told
    from naa_fast.inputs.pretrained import PREFIX
    from naa_fast.inputs.untrained import untrained

    if arguments.weights is not None:
        add_told(model, reading=(f"weights {arguments.weights}: sha256 {digest_of(arguments.weights)}",))
    elif not arguments.model.startswith(PREFIX) and not arguments.model.endswith(".pt2"):
        why = untrained(model)
        gaps = (f"whether the model has its weights: {why}; name them with --weights",) if why else ()
        add_told(model, reading=(f"weights: no --weights was given, {arguments.model} was scanned as it came",), gaps=gaps)
        note(*gaps)


def digest_of(path: Path) -> str:
    """The sha256 of a file: one more reading of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sources_of(arguments: argparse.Namespace, *paths: Path) -> list[Source]:
    """The sets at `paths`; for text with the tokenizer the options name, for images read as they say."""
    from naa_fast.inputs.images import Images, require_images
    from naa_fast.inputs.opening import is_text, open_source
    from naa_fast.inputs.preprocessing import ImageOptions
    from naa_fast.inputs.text import require_texts

    text = None
    if any(is_text(path) for path in paths):
        from naa_fast.inputs.pretrained import PREFIX, load_tokenizer
        from naa_fast.inputs.text import TextOptions

        name = arguments.tokenizer
        if name is None and arguments.model.startswith(PREFIX):
            name = arguments.model.removeprefix(PREFIX)
        if name is not None:
            text = TextOptions(
                load_tokenizer(name, arguments.revision),
                arguments.text_field,
                arguments.max_length,
                arguments.padding_side,
                arguments.skip_special,
                bucket=arguments.bucket,
            )
    images = ImageOptions(arguments.image_mode, arguments.resize, arguments.center_crop, arguments.normalize, arguments.workers)
    sources = [open_source(path, arguments.batch_size, text, images) for path in paths]
    require_images(images, [source for source in sources if isinstance(source, Images)], [source.name for source in sources])
    require_texts(vars(arguments), sources)
    return sources


def fit_positions(model: nn.Module, sources: list[Source]) -> None:
    """Tell sets that pad on the left whether the model needs position ids with it."""
    from naa_fast.inputs.text import TextSource, wants_positions

    for source in sources:
        if isinstance(source, TextSource) and source.options.padding_side == "left":
            source.options = replace(source.options, position_ids=wants_positions(model))


def place_of(data: Path) -> Path:
    """The file or folder behind a path, without the word for its kind in front."""
    return Path(str(data).removeprefix(DATASET))


def model_place(spec: str) -> Path | None:
    """The file or folder a model is read from, which no output may touch; None if it has none here."""
    from naa_fast.cli.outputs import model_file

    if spec.startswith("hf:"):
        folder = Path(spec.removeprefix("hf:"))
        return folder if folder.is_dir() else None
    return Path(spec) if spec.endswith(".pt2") else model_file(spec)


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def emit(text: str) -> None:
    """Print results. A reader that has gone, as in `| head`, does not change how the command ends.

    Raises:
        InputError: they cannot be printed, as on a full disk; nothing more is, then.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        quiet_stdout()
    except OSError as error:
        quiet_stdout()
        raise InputError(
            "cannot print the results", str(error.strerror or error), "expected a stdout with room for them"
        ) from None


class Log:
    """The form of what goes to stderr, set by `main` for each command."""

    as_json = False


def note(*lines: str) -> None:
    """Print remarks and errors on stderr, each on one line whatever it contains; with `--log json` as an object each."""
    for line in lines:
        tell(clean(line) if not Log.as_json else json.dumps({"event": "note", "message": clean(line)}))


def tell(line: str) -> None:
    """A line on stderr. Where nobody reads that any more, or it cannot be written, the work goes on without."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def clean(line: str, cells: int = LINE_CELLS) -> str:
    """The line without anything a terminal would obey: names of files, layers and arrays are anybody's text."""
    from naa_fast.report.words import printable

    return printable(line, cells)


def quiet_stdout() -> None:
    """Send what is left to nowhere, so that the flush at exit does not fail on a closed pipe."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # a stdout without a file descriptor, as under a test
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
