"""What else lies in a model's folder: other weights, which must be the same ones, and files that change what is deployed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from naa_fast.errors import ModelError, NaaError
from naa_fast.inputs import adapters
from naa_fast.inputs.states import first_line, place_of, some
from naa_fast.inputs.weights import TORCH_SUFFIXES, read_weights

TRAINING = ("training_args.bin", "optimizer", "scheduler", "rng_state", "scaler", "trainer_state")
"""How names of files begin that a trainer leaves behind: no weights of the model."""
FOREIGN = (".h5", ".keras", ".msgpack", ".onnx", ".gguf", ".ot", ".tflite", ".pb", ".npz", ".pkl", ".mlmodel", ".engine")
LEGACY = ("attn.bias", "masked_bias", "position_ids", "token_type_ids", "inv_freq")
"""Endings of buffers that older files hold, and models compute by themselves."""
STEERING = (
    *("forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "suppress_tokens", "begin_suppress_tokens"),
    *(
        "bad_words_ids",
        "force_words_ids",
        "sequence_bias",
        "watermarking_config",
        "constraints",
        "custom_generate",
        "guidance_scale",
    ),
)
DEEPEST = 3


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """The folder as it is without its adapter, so that no installed library applies that on its own."""
    names = (adapters.CONFIG, *adapters.FILES)
    if not any((folder / name).exists() for name in names):
        yield folder
        return
    with TemporaryDirectory(prefix="naa-fast-") as place:
        for path in folder.iterdir():
            if path.name not in names:
                os.symlink(path.resolve(), Path(place, path.name))
        yield Path(place)


def primary(folder: Path) -> list[Path]:
    """The files that transformers takes the weights from."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return sorted({folder / str(name) for name in index["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # whoever loads them says what is wrong


def compare_weights(folder: Path, model: nn.Module) -> tuple[list[str], list[str]]:
    """Compare every other file of weights with those that were loaded: sentences on those that hold the same, and on those that
    cannot be compared, since their names are others or reading them could run code.

    Raises ModelError for one that differs.
    """
    loaded = primary(folder)
    others = [path for path in sorted(folder.iterdir()) if is_weights(path) and path not in loaded]
    if not others:
        return [], []
    equal, unread = [], []
    names = set(model.state_dict())
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(str(path), framework="pt")) for path in loaded]
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{folder} has damaged weights", first_line(error), "copy them again") from error
        places = {name: file for file in files for name in file.keys()}  # noqa: SIM118  no dict
        for path in others:
            try:
                state = dict(read_weights(path))
            except NaaError as error:
                unread.append(f"{path}, other weights: {' '.join(error.details[:1])}")
                continue
            if not state.keys() & places.keys():
                unread.append(f"{path}, other weights, under names of their own")
                continue
            differing = differences(state, places, names)
            if differing:
                raise ModelError(
                    f"{folder} holds two sets of weights that are not the same",
                    f"{some([path.name for path in loaded])} is what is loaded",
                    f"{path.name} differs in {len(differing)} tensors: {some(differing)}",
                    "move the one that is not deployed out of the folder",
                )
            equal.append(f"{path} holds the weights that were loaded")
    return equal, unread


def is_weights(path: Path) -> bool:
    """Whether a file's name says that it holds weights of torch, and not those of an adapter or a trainer's own."""
    known = path.suffix.lower() in (*TORCH_SUFFIXES, ".safetensors") and path.is_file()
    return known and path.name not in adapters.FILES and not path.name.startswith(TRAINING)


def differences(state: dict[str, Tensor], places: dict[str, Any], names: set[str]) -> list[str]:
    """Names of tensors that are not those in `places`; one that is missing there may be tied to one that is not."""
    shared = {place_of(value) for name, value in state.items() if name in places}
    differing = []
    for name, value in state.items():
        if name in places:
            if not alike(value, places[name].get_tensor(name)):
                differing.append(name)
        elif place_of(value) not in shared and (name in names or not name.endswith(LEGACY)):
            differing.append(name)
    return differing


def alike(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors `[...]` hold the same values, in the narrower of their types."""
    if x.shape != y.shape:
        return False
    narrow = min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(x.to(narrow), y.to(narrow))


def remarks(folder: Path) -> tuple[list[str], list[str]]:
    """What of a folder does not apply to single forwards, and what of it is deployed and not audited: two lists of sentences."""
    applies: list[str] = []
    unread: list[str] = []
    settings = entries_of(folder / "generation_config.json")
    if settings is not None:
        steering = [key for key in STEERING if settings.get(key) not in (None, [], {}, 1, 1.0)]
        line = f"{folder / 'generation_config.json'}: how text is generated is no part of a forward"
        (unread if steering else applies).append(line + (f"; it sets {some(steering)}" if steering else ""))
    if (folder / "custom_generate").exists():
        unread.append(f"{folder / 'custom_generate'}: code that generates text")
    if (folder / "chat_template.jinja").exists() or "chat_template" in (entries_of(folder / "tokenizer_config.json") or {}):
        applies.append(f"the chat template in {folder} is applied to conversations alone: other texts are read as they are")
    foreign = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in FOREIGN]
    if foreign:
        unread.append(f"in {folder}: {some(foreign)}, weights in formats that are not read")
    inside = sorted(nested(folder))
    if inside:
        unread.append(f"in subfolders of {folder}: {some(inside)} ({len(inside)} files of weights)")
    if (folder / "modules.json").exists():
        unread.append(f"what {folder / 'modules.json'} puts behind the model: of such a pipeline the model alone is audited")
    return applies, unread


def nested(folder: Path) -> Iterator[str]:
    """Files of weights in subfolders, by their path in the folder."""
    endings = (*TORCH_SUFFIXES, ".safetensors", *FOREIGN)
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        if len(inside.parts) >= DEEPEST:
            folders.clear()
        if inside.parts:
            yield from (str(inside / name) for name in files if name.lower().endswith(endings) and not name.startswith(TRAINING))


def entries_of(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file of settings; None where there is none."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return entries if isinstance(entries, dict) else None
