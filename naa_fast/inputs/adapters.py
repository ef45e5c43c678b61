"""LoRA adapters in a model's folder: read by naa-fast's own code and merged into the weights, or refused by name.

Whether transformers applies an adapter depends on whether peft is installed; what is audited must not. Read is what a plain LoRA
is: `W + scaling * B @ A` (Hu et al., arXiv 2106.09685), and whole tensors that replace the model's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from naa_fast.errors import ModelError
from naa_fast.inputs.states import first_line, some
from naa_fast.inputs.weights import read_weights

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
PLAIN = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode"),
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("fan_in_fan_out", "bias", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "init_lora_weights"),
    *("megatron_core", "qalora_group_size", "runtime_config"),
}
"""What may be set and is either read here or says nothing of the finished weights; whatever else is set is refused."""
TASKS = {"SEQ_CLS": "sequence-classification", "CAUSAL_LM": "causal-lm", "FEATURE_EXTRACTION": "encoder"}
HEAD = re.compile(r"(score|classifier|classifier\.out_proj)\.weight")
MERGE = "merge it first, where it is trusted: peft's model.merge_and_unload(), then model.save_pretrained(folder)"
PAIR = re.compile(r"(.+)\.lora_(A|B)(?:\.default)?\.weight")


@dataclass(frozen=True)
class Adapter:
    """What an adapter's files hold: `config`, and `tensors` by the names of the base model's modules."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def base(self) -> str:
        """The model it was trained for, by its own words."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def task(self) -> str | None:
        """What it was trained for, in the words of --hf-task; None where it says nothing that is known."""
        return TASKS.get(str(self.config.get("task_type")))

    @property
    def classes(self) -> int | None:
        """How many classes the head it brings tells apart; None if it brings none."""
        heads = [value for name, value in self.whole.items() if HEAD.fullmatch(name) and value.ndim == 2]
        return heads[0].shape[0] if heads else None

    @property
    def whole(self) -> dict[str, Tensor]:
        """Tensors that replace one of the model's, by the model's names."""
        rest = {name: value for name, value in self.tensors.items() if PAIR.fullmatch(name) is None}
        return {re.sub(r"\.(base_layer|modules_to_save(\.default)?)\.", ".", name): value for name, value in rest.items()}


def adapter_in(folder: Path) -> Adapter | None:
    """The adapter in a folder, None where there is none.

    Raises:
        ModelError: one that is incomplete or damaged, or of a kind that is not read.
        UnsafeInput: one whose weights are a pickle that could run code.
    """
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not (folder / CONFIG).is_file() and not files:
        return None
    if not (folder / CONFIG).is_file() or not files:
        raise ModelError(
            f"{folder} holds half an adapter",
            f"{CONFIG if files else ' or '.join(FILES)} is missing beside {files[0].name if files else CONFIG}",
            "copy the adapter again, or move it out of the folder if it is not deployed",
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{folder / CONFIG} is damaged, or not JSON", first_line(error), "copy it again") from error
    require_plain(folder, config)
    tensors = read_weights(files[0])
    return Adapter(folder, config, {name.removeprefix("base_model.model."): value for name, value in tensors.items()})


def require_plain(folder: Path, config: Any) -> None:
    """Raise ModelError unless the adapter is a plain LoRA."""
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise unusable(folder, f"it is of the kind {kind!r}, of which none but LORA is read")
    more = sorted(key for key, value in config.items() if value and key not in PLAIN)
    if more:
        raise unusable(folder, f"it asks for {some(more)}, which is not read here")
    if config.get("init_lora_weights", True) not in (True, False, None, "gaussian", "orthogonal"):
        raise unusable(folder, f"it changes the base as {config['init_lora_weights']!r} does (init_lora_weights)")
    for name in ("rank_pattern", "alpha_pattern"):
        odd = [key for key in config.get(name) or {} if not re.fullmatch(r"[\w.-]+", key)]
        if odd:
            raise unusable(folder, f"its {name} has the expression {odd[0]!r}, and only names are read")
    r, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    if type(r) is not int or type(alpha) not in (int, float) or r < 1:
        raise unusable(folder, f"its r and lora_alpha are {r!r} and {alpha!r}")


def merge(model: nn.Module, adapter: Adapter) -> str:
    """Put the adapter into the model's weights; what was done, in words.

    A module's `W` becomes `W + scaling * B @ A`, computed in float32 and rounded once; `scaling` is `alpha / r`, or
    `alpha / sqrt(r)` for rank-stabilised ones (Kalajdzievski, arXiv 2312.03732).

    Raises ModelError where a tensor has no place, or one that is shared with another part of the model.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, value in adapter.tensors.items():
        match = PAIR.fullmatch(name)
        if match:
            pairs.setdefault(match[1], {})[match[2]] = value
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    owners = [id(parameter) for parameter in parameters.values()]
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, pair in pairs.items():
            weight = parameters.get(f"{name}.weight")
            transposed = type(modules.get(name)).__name__ == "Conv1D"  # GPT-2's linear layer keeps [in, out]
            if weight is None or pair.keys() != {"A", "B"} or not fits(weight, pair, transposed):
                raise unusable(adapter.folder, f"its tensors for {name!r} have no place in the model, or do not fit it")
            if owners.count(id(weight)) > 1:
                raise unusable(
                    adapter.folder, f"{name!r} shares its weights with another part of the model, which would change too"
                )
            delta = pair["B"].float() @ pair["A"].float() * scaling(adapter, name, pair["A"].shape[0])
            weight.copy_(weight.float() + (delta.T if transposed else delta).to(weight.device))
        for name, value in adapter.whole.items():
            place = parameters.get(name, buffers.get(name))
            if place is None or place.shape != value.shape or place.is_meta:
                raise unusable(adapter.folder, f"its tensor {name!r} has no place in the model, or does not fit it")
            place.copy_(value)
    whole = f", and {len(adapter.whole)} tensors replaced" if adapter.whole else ""
    return f"the LoRA adapter in {adapter.folder} is merged into {len(pairs)} modules{whole}"


def fits(weight: Tensor, pair: Mapping[str, Tensor], transposed: bool) -> bool:
    """Whether the product of a pair has the shape of a plain weight `[out, in]`."""
    a, b = pair["A"], pair["B"]
    if weight.ndim != 2 or a.ndim != 2 or b.ndim != 2 or not weight.is_floating_point() or weight.is_meta:
        return False
    shape = (b.shape[0], a.shape[1])
    return b.shape[1] == a.shape[0] and tuple(weight.shape) == (shape[::-1] if transposed else shape)


def scaling(adapter: Adapter, module: str, rank: int) -> float:
    """The factor of a module's product. Raises ModelError where the file's rank is not that of the configuration."""

    def of(pattern: str, otherwise: int) -> Any:
        named = adapter.config.get(pattern) or {}
        return next((value for key, value in named.items() if module == key or module.endswith(f".{key}")), otherwise)

    r, alpha = of("rank_pattern", adapter.config.get("r", 8)), of("alpha_pattern", adapter.config.get("lora_alpha", 8))
    if r != rank or not isinstance(alpha, int | float):
        raise unusable(adapter.folder, f"{module!r} is of rank {rank}, the configuration says {r!r} and alpha {alpha!r}")
    return float(alpha) / (sqrt(rank) if adapter.config.get("use_rslora") else rank)


def unusable(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"the adapter in {folder} cannot be audited", why, MERGE, "or move it out of the folder, if it is not deployed"
    )
