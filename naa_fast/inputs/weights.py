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
from torch import Tensor

from naa_fast.errors import ModelError, UnsafeInput, UsageError
from naa_fast.files import nearest_files
from naa_fast.inputs.states import Weights, first_line, load_weights, some, state_dicts

__all__ = ["first_line", "load_weights", "read_weights", "some"]

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".th", ".tar")
"""Endings by which a pickle is taken for torch's; a torch archive or a .safetensors file is known by what it holds."""
FIRST_SAFE_TORCH = (2, 10)
HEAD = 512
OPT_IN = "where you trust this very file, and all it runs: --unsafe-load sha256:HASH, the hash that sha256sum prints for it"
WAY_FORWARD = "in an environment you trust: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


def read_weights(path: Path, trusted: str | None = None) -> Weights:
    """The state dicts in `path`, on the CPU: `.safetensors`, or what `torch.save` writes, read with `weights_only=True`.

    What the file holds decides, not the ending of its name. A checkpoint may hold state dicts under any keys; `load_weights`
    takes the one that fits. `trusted`, "sha256:HASH": a full pickle is unpickled, with all the code it names, if the bytes that
    were read have that hash.

    Raises:
        UsageError: `trusted` of another form, or for a file that needs none.
        UnsafeInput: a pickle that asks for more than tensors and plain containers, a TorchScript archive or exported program,
            any other kind of file, or a torch too old for `weights_only` to be trusted.
        ModelError: no such file, a damaged one, or one without a state dict.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ModelError(
            f"no such weights: {path}", *nearest_files(path), "expected a .safetensors file, or one written by torch.save"
        )
    kind = kind_of(path)
    if trusted is not None:
        return weights_of(unpickled(path, trusted, kind), path, trusted=True)
    if kind == "safetensors" or (suffix == ".safetensors" and kind not in ("torch", "pickle", *PROGRAMS)):
        from safetensors.torch import load_file

        try:
            return weights_of(dict[str, Tensor](load_file(path)), path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                f"weights {path} are damaged, or not a .safetensors file", first_line(error), "copy them again"
            ) from error
    if suffix not in (*TORCH_SUFFIXES, ".safetensors") and kind not in ("torch", *PROGRAMS):
        raise UnsafeInput(
            f"refused to load weights {path}",
            f"files ending in '{suffix}' are not known to be free of code",
            "expected .safetensors, or .pt, .pth or .bin with nothing but a state dict",
            WAY_FORWARD,
        )
    return weights_of(read_torch(path, kind), path)


PROGRAMS = {
    "TorchScript": "it is a TorchScript archive: a program, with the weights inside it",
    "exported": "it is a program of torch.export, with the weights inside it: name it as the model, --model FILE.pt2",
    "tar": "it is a tar archive: of files, which can be unpacked, or of a torch before 0.1.10, which would be unpickled",
    "gzip": "it is packed with gzip: unpack it first",
    "HDF5": "it is an HDF5 file, of Keras or MATLAB",
}
"""What a file may be instead of weights, known by what it holds."""


def kind_of(path: Path) -> str:
    """What a file holds: "safetensors", "torch" (an archive), "pickle", one of PROGRAMS, or "" for anything else."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    for kind, start, magic in (
        ("gzip", 0, b"\x1f\x8b"),
        ("HDF5", 0, b"\x89HDF\r\n"),
        ("tar", 257, b"ustar"),
        ("pickle", 0, b"\x80"),
    ):
        if head[start:].startswith(magic):
            return kind
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""
    if any(name.endswith("/models/model.json") for name in names):
        return "exported"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return "TorchScript"
    return "torch" if any(name.endswith("data.pkl") for name in names) else ""


def read_torch(path: Path, kind: str) -> Any:
    """What a file that `torch.save` may have written holds. Raises as `read_weights`."""
    if torch_version() < FIRST_SAFE_TORCH:
        raise UnsafeInput(
            f"refused to load weights {path}",
            f"torch {torch.__version__} has known holes through which a file read with weights_only=True can run code",
            "install torch 2.10 or newer, or convert them " + WAY_FORWARD,
        )
    if kind in PROGRAMS:
        raise UnsafeInput(f"refused to load weights {path}", PROGRAMS[kind], WAY_FORWARD)
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


def unpickled(path: Path, trusted: str, kind: str) -> Any:
    """What a pickle holds, after its hash was compared. The bytes are read once, so that they cannot change in between."""
    wanted = re.fullmatch(r"sha256:([0-9a-f]{64})", trusted)
    if wanted is None:
        raise UsageError(
            f"--unsafe-load {trusted} is not of the form sha256:HASH", "expected 64 hexadecimal digits in lower case"
        )
    known = path.suffix.lower() in TORCH_SUFFIXES or kind in ("torch", "TorchScript")
    if not known or kind in ("safetensors", "exported", "gzip", "HDF5"):
        raise UsageError(
            f"--unsafe-load with {path}",
            *([PROGRAMS[kind]] if kind in PROGRAMS else []),
            f"it is for {', '.join(TORCH_SUFFIXES)} files that are refused otherwise",
            "leave it out",
        )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != wanted[1]:
        raise UnsafeInput(
            f"refused to unpickle {path}", f"its hash is sha256:{digest}", f"--unsafe-load names {trusted}: it is another file"
        )
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:
        raise ModelError(f"weights {path} cannot be unpickled", first_line(error), "install what they were made with") from error


def reason_of(error: pickle.UnpicklingError) -> str:
    """Torch's reason alone: the rest of its message advises to turn the protection off."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"it asks for {wanted[1]}, which could run code"
    reason = re.search(r"WeightsUnpickler error: *(\S.*)", str(error))
    return reason[1] if reason else "torch could not read it as plain tensors"


def weights_of(loaded: Any, path: Path, trusted: bool = False) -> Weights:
    """The state dicts in what a file held."""
    candidates = state_dicts(loaded, trusted)
    if candidates:
        return Weights(candidates, trusted)
    if isinstance(loaded, Mapping):
        content = "a dict with " + (some([f"{key} ({type(value).__name__})" for key, value in loaded.items()]) or "nothing in it")
    else:
        content = f"found a {type(loaded).__name__}"
    raise ModelError(
        f"no state dict in weights {path}",
        content,
        "expected names with tensors, at the top or under a key",
        "save it with torch.save(model.state_dict(), ...)",
    )


def torch_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
