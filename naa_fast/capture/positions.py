"""`positions_of`: how many tokens a model has positions for."""

from __future__ import annotations

from torch import nn

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_sequence_length")
"""What configurations call it, the commonest first."""


def positions_of(model: nn.Module) -> int | None:
    """Most tokens a text may have by the model's own configuration; None where it says nothing.

    Models that number positions from the padding on (RoBERTa) have as many fewer.

    >>> from types import SimpleNamespace
    >>> from torch.nn import Linear
    >>> model = Linear(2, 2)
    >>> positions_of(model) is None
    True
    >>> model.config = SimpleNamespace(max_position_embeddings=512)
    >>> positions_of(model)
    512
    """
    config = getattr(model, "config", None)
    if hasattr(config, "relative_attention_num_buckets"):  # T5 and its like count distances, which have no end
        return None
    text = getattr(config, "text_config", None)
    for part in (config, text):
        for name in NAMES:
            value = getattr(part, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value - reserved(model)
    return None


def reserved(model: nn.Module) -> int:
    """Positions that no token gets, as they are counted from behind the padding's."""
    for module in model.modules():
        if hasattr(module, "create_position_ids_from_input_ids"):
            return int(getattr(module, "padding_idx", None) or 0) + 1
    return 0
