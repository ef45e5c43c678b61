"""Names that mean the same place in every transformer: `resid`, `attn`, `mlp.act`, `mlp.out`, `router`, `experts`."""

from __future__ import annotations

from torch import nn

from naa_fast.capture.experts import ROUTING, is_fused
from naa_fast.capture.points import INPUT_WORD
from naa_fast.errors import UsageError

NAMES = ("resid", "attn", "mlp.act", "mlp.out", "router", "experts")
ATTENTION = ("attn", "self_attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn")
DOWN = ("down_proj", "c_proj", "fc2", "w2", "dense_4h_to_h", "fc_out", "wo", "lin2")
ROUTER = ("gate", "router")


def resolve(modules: dict[str, nn.Module], request: str) -> list[tuple[str, str | None]]:
    """Names of the modules `request` (one of NAMES) means, with "in" where their input is meant.

    `resid` the output of each block; `attn` what attention adds to it; `mlp.out` what the MLP adds; `mlp.act` the MLP's inner
    activations, read as the input of its last projection, where gating and fused activations are done; `router` the scores a
    mixture of experts chooses by; `experts` what it chose: a neuron an expert, with the weight it got for each token (see
    experts.py).

    Raises:
        UsageError: the model has no such place; names those it has.
    """
    modules_meant = places(modules, request)
    if not modules_meant:
        blocks = [name for name in modules if is_block(modules, name)]
        offers = [name for name in NAMES if offered(modules, name)]
        fused = any(is_fused(module) for module in modules.values())
        raise UsageError(
            f"this model has no '{request}'",
            "its experts are fused into one module: what happens inside cannot be told apart by expert and sample"
            if fused and request == "mlp.act"
            else f"found {len(blocks)} transformer blocks",
            f"it offers: {', '.join(offers)}" if offers else "name a layer or a glob of model.named_modules()",
        )
    return modules_meant


def places(modules: dict[str, nn.Module], request: str) -> list[tuple[str, str | None]]:
    """As `resolve`, none where there is none."""
    blocks = [name for name in modules if is_block(modules, name)]
    return [place for block in blocks if (place := place_in(modules, block, request)) is not None]


def offered(modules: dict[str, nn.Module], request: str) -> bool:
    """Whether some block has the place `request`."""
    return any(place_in(modules, name, request) for name in modules if is_block(modules, name))


def is_block(modules: dict[str, nn.Module], name: str) -> bool:
    """Whether a module is one of a list of blocks with attention inside."""
    repeated = isinstance(modules.get(name.rpartition(".")[0]), nn.ModuleList | nn.Sequential) and bool(name)
    return repeated and any(f"{name}.{child}" in modules for child in ATTENTION)


def place_in(modules: dict[str, nn.Module], block: str, request: str) -> tuple[str, str | None] | None:
    """Where `request` is in one block, or None."""
    if request == "resid":
        return block, None
    if request == "attn":
        attention = next(f"{block}.{child}" for child in ATTENTION if f"{block}.{child}" in modules)
        projection = f"{attention}.output.dense"  # BERT's attention module adds the residual and normalises
        return (projection if projection in modules else attention), None
    mlp = next((f"{block}.{child}" for child in MLP if f"{block}.{child}" in modules), None)
    if mlp is None:
        down = f"{block}.output.dense"
        if down not in modules or request in ("router", "experts"):
            return None
        return (down, None) if request == "mlp.out" else (down, INPUT_WORD)
    if request == "mlp.out":
        return mlp, None
    children = [f"{mlp}.{child}" for child in (DOWN if request == "mlp.act" else ROUTER)]
    experts = modules.get(f"{mlp}.experts")
    if request == "experts":
        return (f"{mlp}.experts", ROUTING) if experts is not None and is_fused(experts) else None
    if request == "router" and experts is None:
        return None
    chosen = next((child for child in children if child in modules), None)
    return None if chosen is None else (chosen, INPUT_WORD if request == "mlp.act" else None)
