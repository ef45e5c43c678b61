"""Weights from a file, without running code from it."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from naa_fast.errors import ModelError, UnsafeInput, UsageError

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
WRAPPERS = ("state_dict", "model")
FIRST_SAFE_TORCH = (2, 10)
SHOWN = 5
OPT_IN = "where you trust this very file, and all it runs: --unsafe-load sha256:HASH, the hash that sha256sum prints for it"
ADVICE = "build the model with the options it was trained with (--model-arg), or choose the weights that belong to it"
WAY_FORWARD = "in an environment you trust: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


def read_weights(path: Path, trusted: str | None = None) -> Mapping[str, Tensor]:
    """The state dict in `path`, on the CPU: `.safetensors`, or `.pt`, `.pth`, `.bin` read with `weights_only=True`.

    A checkpoint may hold it under `state_dict` or `model`. `trusted`, "sha256:HASH": a full pickle is unpickled, with all the
    code it names, if the bytes that were read have that hash.

    Raises:
        UsageError: `trusted` of another form, or for a file that needs none.
        UnsafeInput: a pickle that asks for more than tensors and plain containers, a TorchScript archive, any other kind of
            file, or a torch too old for `weights_only` to be trusted.
        ModelError: no such file, a damaged one, or one without a state dict.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ModelError(f"no such weights: {path}", "expected a .safetensors file, or .pt, .pth or .bin")
    if trusted is not None:
        return state_of(unpickled(path, trusted), path)
    if suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return dict[str, Tensor](load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                f"weights {path} are damaged, or not a .safetensors file", first_line(error), "copy them again"
            ) from error
    if suffix not in TORCH_SUFFIXES:
        raise UnsafeInput(
            f"refused to load weights {path}",
            f"files ending in '{suffix}' are not known to be free of code",
            "expected .safetensors, or .pt, .pth or .bin with nothing but a state dict",
            WAY_FORWARD,
        )
    return state_of(read_torch(path), path)


def read_torch(path: Path) -> Any:
    if torch_version() < FIRST_SAFE_TORCH:
        raise UnsafeInput(
            f"refused to load weights {path}",
            f"torch {torch.__version__} has known holes through which a file read with weights_only=True can run code",
            "install torch 2.10 or newer, or convert them " + WAY_FORWARD,
        )
    if is_torchscript(path):
        raise UnsafeInput(
            f"refused to load weights {path}", "it is a TorchScript archive: a program, with the weights inside it", WAY_FORWARD
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeInput(
            f"refused to load weights {path}", "it is a full pickle, or not a torch file", reason_of(error), WAY_FORWARD, OPT_IN
        ) from error
    except Exception as error:  # a damaged file reaches many parsers
        raise ModelError(
            f"weights {path} are damaged, or not a torch file", first_line(error), "copy or save them again"
        ) from error


def unpickled(path: Path, trusted: str) -> Any:
    """What a pickle holds, after its hash was compared. The bytes are read once, so that they cannot change in between."""
    wanted = re.fullmatch(r"sha256:([0-9a-f]{64})", trusted)
    if wanted is None:
        raise UsageError(
            f"--unsafe-load {trusted} is not of the form sha256:HASH", "expected 64 hexadecimal digits in lower case"
        )
    if path.suffix.lower() not in TORCH_SUFFIXES:
        raise UsageError(
            f"--unsafe-load with {path}",
            f"it is for {', '.join(TORCH_SUFFIXES)} files that are refused otherwise",
            "leave it out",
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != wanted[1]:
        raise UnsafeInput(
            f"refused to unpickle {path}", f"its hash is sha256:{found}", f"--unsafe-load names {trusted}: it is another file"
        )
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:
        raise ModelError(f"weights {path} cannot be unpickled", first_line(error), "install what they were made with") from error
    return loaded.state_dict() if isinstance(loaded, nn.Module) else loaded


def reason_of(error: pickle.UnpicklingError) -> str:
    """Torch's reason alone: the rest of its message advises to turn the protection off."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"it asks for {wanted[1]}, which could run code"
    reason = re.search(r"WeightsUnpickler error: *(\S.*)", str(error))
    return reason[1] if reason else "torch could not read it as plain tensors"


def is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def state_of(loaded: Any, path: Path) -> Mapping[str, Tensor]:
    """The state dict in what a file held."""
    for key in (None, *WRAPPERS):
        state = loaded if key is None else loaded.get(key) if isinstance(loaded, Mapping) else None
        if isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values()):
            return state  # as it is: torch keeps version numbers in an attribute of the dict
    if isinstance(loaded, Mapping):
        found = "a dict with " + (some([f"{key} ({type(value).__name__})" for key, value in loaded.items()]) or "nothing in it")
    else:
        found = f"found a {type(loaded).__name__}"
    raise ModelError(
        f"no state dict in weights {path}",
        found,
        "expected names with tensors, at the top or under " + " or ".join(WRAPPERS),
        "save it with torch.save(model.state_dict(), ...)",
    )


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put `state` into `model`, every name and shape matching. A name may be missing only if its tensor is tied to one given.

    Raises:
        ModelError: names missing or left over, or shapes that differ, up to five of each. The model may be half loaded then.
    """
    headline = f"weights {path} do not fit the model"
    unfilled = any(value.is_meta for value in model.parameters())  # copying into those would do nothing, without a word
    try:
        missed, unexpected = model.load_state_dict(state, strict=False, assign=unfilled)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise ModelError(headline, *(reasons[:SHOWN] or [first_line(error)]), ADVICE) from error
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    given = {place_of(own[name]) for name in own.keys() & state.keys()}
    missing = [name for name in missed if name not in own or place_of(own[name]) not in given]
    problems = [
        f"{label} ({len(names)}): {some(names)}"
        for label, names in (("missing from the file", missing), ("unknown to the model", unexpected))
        if names
    ]
    if problems:
        raise ModelError(headline, *problems, advice_on(unexpected))


def place_of(x: Tensor) -> tuple[object, ...]:
    """Equal for tied tensors only; a tensor without memory is tied to nothing."""
    pointer = 0 if x.device.type == "meta" else x.data_ptr()
    return (pointer, x.shape, x.stride()) if pointer else (id(x),)


def advice_on(unexpected: list[str]) -> str:
    for prefix, wrapper in (("module.", "DataParallel"), ("_orig_mod.", "torch.compile")):
        if unexpected and all(name.startswith(prefix) for name in unexpected):
            return (
                f"the names start with '{prefix}': they were saved from a {wrapper} wrapper; save the inner model's state_dict()"
            )
    return ADVICE


def torch_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])


def some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
