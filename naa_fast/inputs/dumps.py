"""Folders of stored activations, as serving engines and notebooks leave them: no model is needed to audit those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from naa_fast.errors import InputError, UnsafeInput
from naa_fast.inputs.arrays import NpyColumn, SafetensorsColumn, reading
from naa_fast.inputs.tensors import MASK_RULE, Column, as_mask, is_mask_dtype

MASK, ONLY = "mask", "x"
FORM = "expected LAYER.npy or LAYER.safetensors (x, optional mask) files, or shards in .safetensors with a tensor for each layer"
FLOATS = ("float16", "float32", "float64", "F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class Dump:
    """Activations `[samples, neurons]` or `[samples, tokens, neurons]` of each layer, in its parts; `masks` by layer."""

    name: str
    layers: dict[str, list[Column]]
    masks: dict[str, list[Column]]
    samples: int

    def batches(self, layer: str, rows: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Values of `layer` with their mask, at most `rows` samples at a time, in order."""
        masks = self.masks.get(layer)
        for number, part in enumerate(self.layers[layer]):
            kept = repeat(None) if masks is None else masks[number].read(rows, 0, part.shape[0])
            for x, mask in zip(part.read(rows, 0, part.shape[0]), kept, strict=False):
                yield x, None if mask is None else as_mask(mask, f"mask of {self.name}")


def open_dump(folder: Path) -> Dump:
    """The activations in a folder, checked from the headers of its files.

    One file a layer, named after it, or shards whose tensors are named after the layers and follow each other in the order of
    the file names. A tensor called `mask` (bool or 0 and 1, `[samples]` or `[samples, tokens]`; `mask.npy` beside `.npy` files)
    says what was observed.

    Raises:
        InputError: no such folder, nothing in it, damaged files, values that are not floating-point, other numbers of axes, or
            layers, shards and masks that do not fit together.
        UnsafeInput: a link out of the folder, or an array of Python objects.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder of activations: {folder}", FORM)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".npy", ".safetensors"))
    for path in files:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UnsafeInput(f"refused to read {path}", "it is a link out of the folder", "copy the file there")
    kinds = {path.suffix.lower() for path in files}
    if len(kinds) != 1:
        raise InputError(f"{folder} holds {'both .npy and .safetensors' if kinds else 'no activations'}", FORM)
    layers, masks = npy_layers(files) if kinds == {".npy"} else safetensors_layers(files)
    if not layers:
        raise InputError(f"{folder} holds a mask and no layer", FORM)
    return Dump(str(folder), layers, masks, checked(folder, layers, masks))


def npy_layers(files: list[Path]) -> tuple[dict[str, list[Column]], dict[str, list[Column]]]:
    layers: dict[str, list[Column]] = {}
    for path in files:
        with reading(path):
            layers[path.stem] = [NpyColumn(path, "x", partial(path.open, "rb"), path.stat().st_size)]
    mask = layers.pop(MASK, None)
    return layers, {} if mask is None else dict.fromkeys(layers, mask)


def safetensors_layers(files: list[Path]) -> tuple[dict[str, list[Column]], dict[str, list[Column]]]:
    shards = []
    for path in files:
        with reading(path), safe_open(str(path), framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no dict: it has keys and nothing else
            columns = {name: SafetensorsColumn(path, name, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
            shards.append((path, columns))
    if all(set(columns) - {MASK} == {ONLY} for _, columns in shards):  # one file a layer
        layers: dict[str, list[Column]] = {path.stem: [columns[ONLY]] for path, columns in shards}
        return layers, {path.stem: [columns[MASK]] for path, columns in shards if MASK in columns}
    (first, names), *rest = shards
    for path, columns in rest:
        if set(columns) != set(names):
            raise InputError(
                f"{path} does not hold the layers of {first}",
                f"only in one of them: {', '.join(sorted(set(columns) ^ set(names))[:5])}",
                "expected shards of one run, all with the same layers",
            )
    layers = {name: [columns[name] for _, columns in shards] for name in names if name != MASK}
    masks: list[Column] = [columns[MASK] for _, columns in shards if MASK in names]
    return layers, dict.fromkeys(layers, masks) if masks else {}


def checked(folder: Path, layers: dict[str, list[Column]], masks: dict[str, list[Column]]) -> int:
    """The number of samples, after every layer and mask was seen to fit."""
    totals: dict[str, int] = {}
    for name, parts in layers.items():
        where = f"layer {name} of {folder}"
        for part in parts:
            if part.dtype.removeprefix("<") not in FLOATS:
                raise InputError(f"{where} is {part.dtype}", "expected float16, bfloat16, float32 or float64")
            if len(part.shape) not in (2, 3) or 0 in part.shape[1:]:
                raise InputError(
                    f"{where} has shape {list(part.shape)}", "expected [samples, neurons] or [samples, tokens, neurons]"
                )
            if part.shape[-1] != parts[0].shape[-1] or len(part.shape) != len(parts[0].shape):
                raise InputError(f"{where} changes from shard to shard", f"{list(parts[0].shape)} / {list(part.shape)}")
        for part, mask in zip(parts, masks.get(name, []), strict=False):
            if not is_mask_dtype(mask.dtype) or len(mask.shape) not in (1, 2):
                raise InputError(f"mask of {folder} is {mask.dtype} {list(mask.shape)}", MASK_RULE)
            tokens = part.shape[1] if len(part.shape) == 3 else None
            if mask.shape[0] != part.shape[0] or (tokens is not None and len(mask.shape) == 2 and mask.shape[1] != tokens):
                raise InputError(
                    f"the mask does not fit {where}",
                    f"mask {list(mask.shape)}, activations {list(part.shape)}",
                    "expected a mask of the same samples and tokens",
                )
        totals[name] = sum(part.shape[0] for part in parts)
    if len(set(totals.values())) != 1:
        least, most = min(totals, key=lambda name: totals[name]), max(totals, key=lambda name: totals[name])
        raise InputError(
            f"the layers of {folder} have different numbers of samples",
            f"{least}: {totals[least]}, {most}: {totals[most]}",
            "expected every layer of the same samples",
        )
    samples = next(iter(totals.values()))
    if samples == 0:
        raise InputError(f"{folder} has no samples", "expected at least two")
    return samples
