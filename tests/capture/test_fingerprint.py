"""A model's fingerprint tells apart what differs, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from naa_fast.capture.fingerprint import model_fingerprint

DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64, torch.complex128]


def module(**buffers: Tensor) -> nn.Module:
    model = nn.Module()
    for name, value in buffers.items():
        model.register_buffer(name, value)
    return model


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read(dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(40, 50).to(dtype), torch.ones(40, 50).to(dtype)
    assert model_fingerprint(module(w=zeros)) != model_fingerprint(module(w=ones))


def test_a_model_is_known_by_names_dtypes_shapes_and_values() -> None:
    w = torch.arange(12.0)
    variants = [
        module(w=w),
        module(v=w),
        module(w=w.double()),
        module(w=w.reshape(3, 4)),
        module(w=w + 1),
        module(w=w, v=w),
        module(w=torch.empty(12, device="meta")),
        module(w=torch.empty(13, device="meta")),
    ]
    assert len({model_fingerprint(model) for model in variants}) == len(variants)
    assert model_fingerprint(module(w=w)) == model_fingerprint(module(w=w.clone()))
    assert model_fingerprint(module(a=w, b=w)) == model_fingerprint(module(b=w, a=w))


def test_strides_do_not_count() -> None:
    weight = torch.randn(8, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    assert model_fingerprint(module(w=weight)) == model_fingerprint(module(w=weight.to(memory_format=torch.channels_last)))


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")  # deprecated, and still met in old files
def test_state_that_is_no_tensor_or_quantised_or_empty_is_no_obstacle() -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

    assert len(model_fingerprint(Extra())) == 32
    quantised = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    assert len(model_fingerprint(module(w=quantised))) == 32
    assert model_fingerprint(module(w=torch.empty(0, 3))) != model_fingerprint(module(w=torch.empty(0, 4)))
