"""`model_fingerprint`: which model was read, in 32 hexadecimal digits, no proof against forgery; what digests are made of."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor, nn

SPREAD = 1024
DIGEST_BYTES = 16
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def model_fingerprint(model: nn.Module) -> str:
    """Name, dtype, shape and 1,024 evenly spaced values of every parameter and buffer; not of the code.

    Of tensors without readable values (meta, sparse, quantised) the name and shape alone. One small copy to the host per tensor.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor):
            add_text(digest, f"{name}: {type(value).__name__}")
            continue
        if hasattr(value, "full_tensor"):  # spread over ranks, the model is the same
            value = value.full_tensor()
        describe(digest, name, value)
        try:
            digest.update(spread(as_integers(value)).cpu().contiguous().numpy().tobytes())
        except (RuntimeError, TypeError, NotImplementedError):
            add_text(digest, "unread")
    return digest.hexdigest()


def as_integers(x: Tensor) -> Tensor:
    """The same memory `[...]` as integers of the same width: NumPy has no bfloat16 and no 8-bit floats."""
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    if x.layout != torch.strided or x.is_quantized or x.device.type == "meta" or x.element_size() not in INTEGERS:
        raise TypeError("no plain values in memory")
    return x.view(INTEGERS[x.element_size()])


def spread(x: Tensor) -> Tensor:
    """Up to 1,024 values of `x` `[...]`, evenly spaced in row-major order whatever the strides: `[values]`."""
    if x.numel() <= SPREAD:
        return x.reshape(-1)
    index = torch.arange(SPREAD, device=x.device) * (x.numel() - 1) // (SPREAD - 1)
    return x[torch.unravel_index(index, x.shape)]


def describe(digest: blake2b, name: str, x: Tensor) -> None:
    """Enter a name, and dtype and shape of `x` `[...]`."""
    add_text(digest, f"{name}: {x.dtype} {list(x.shape)}")


def add_text(digest: blake2b, text: str) -> None:
    encoded = text.encode("utf-8", "surrogatepass")
    digest.update(len(encoded).to_bytes(8, "little"))
    digest.update(encoded)
