"""Out of memory at any layer: the batch is halved, and every count stays exact."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from capture.models import hook_count, resnet
from tolerances import assert_moments
from torch import Tensor, nn

import naa_fast
from naa_fast.errors import ModelError
from naa_fast.measurement import Measurement

IMAGES = torch.randn(70, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def refuse_above(module: nn.Module, most: int, error: type[Exception], words: str) -> None:
    """Make a module behave as if more than `most` samples did not fit."""
    forward = module.forward

    def limited(x: Tensor) -> Tensor:
        if len(x) > most:
            raise error(words)
        return forward(x)

    module.forward = limited


LAYERS = [name for name, _ in resnet().named_modules() if name]
ERRORS = [
    (torch.OutOfMemoryError, "CUDA out of memory"),
    (RuntimeError, "DefaultCPUAllocator: can't allocate memory"),
    (MemoryError, ""),
]


@cache
def measured_whole() -> Measurement:
    torch.manual_seed(1)
    return naa_fast.measure(resnet().eval(), IMAGES, batch_size=64)


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [*((layer, *ERRORS[0]) for layer in LAYERS), *((layer, *error) for layer in LAYERS[::8] for error in ERRORS[1:])],
)
def test_out_of_memory_at_any_layer_leaves_counts_exact(layer: str, error: type[Exception], words: str) -> None:
    whole = measured_whole()
    torch.manual_seed(1)
    model = resnet().eval()
    refuse_above(model.get_submodule(layer), 20, error, words)
    measured = naa_fast.measure(model, IMAGES, batch_size=64)
    assert measured.samples == 70
    for name, record in whole.layers.items():
        assert_moments(measured.layers[name].positions, record.positions, "float32", name)
        assert measured.layers[name].sample_mean.count.tolist() == record.sample_mean.count.tolist()
    assert measured.predictions.sum() == 70
    assert any("out of memory with 32 samples at a time; went on with 16" in note for note in measured.provenance["notes"])


def test_one_sample_that_does_not_fit_is_an_error_that_names_the_layer() -> None:
    model = resnet()
    refuse_above(model.get_submodule("1.1.conv2"), 0, torch.OutOfMemoryError, "CUDA out of memory")
    with pytest.raises(
        ModelError, match=r"(?s)raised OutOfMemoryError on batch 0\n  in layer: 1\.1\.conv2.*float32 \[1, 1, 8, 8\]"
    ):
        naa_fast.measure(model, IMAGES)
    assert hook_count(model) == 0


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    model = resnet()
    refuse_above(model.get_submodule("4"), 20, RuntimeError, "shape mismatch")
    with pytest.raises(ModelError, match="shape mismatch"):
        naa_fast.measure(model, IMAGES)
