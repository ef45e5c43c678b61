"""A mask of audio samples is made one of frames; a batch of one that lost its batch axis is that one sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import naa_fast

transformers = pytest.importorskip("transformers")


def test_frames_count_under_a_mask_of_audio_samples() -> None:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        classifier_proj_size=8,
        num_labels=3,
    )
    model = transformers.Wav2Vec2ForSequenceClassification(config).eval()
    x = torch.randn(24, 400)
    mask = (torch.arange(400)[None] < torch.randint(200, 401, (24, 1))).long()
    measured = naa_fast.measure(model, [{"input_values": x, "attention_mask": mask}])
    frames = model._get_feature_vector_attention_mask(39, mask).bool()
    kept = []
    handle = model.projector.register_forward_hook(lambda module, given, output: kept.append(output.detach()))
    with torch.no_grad():
        model(input_values=x, attention_mask=mask)
    handle.remove()
    record = measured.layers["projector"]
    assert record.positions.count.tolist() == [int(frames.sum())] * 8
    assert np.allclose(record.positions.mean, kept[0][frames].double().mean(0), atol=1e-5)
    first = measured.layers["wav2vec2.feature_extractor.conv_layers.0.conv"]
    assert abs(int(first.positions.count[0]) - 79 * float(mask.float().mean()) * 24) <= 24, "a position a sample"


class Squeezes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act, self.b = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x).squeeze()))


@pytest.mark.parametrize("batch", [16, 1])
def test_a_batch_of_one_that_lost_its_axis_is_a_sample(batch: int) -> None:
    x = torch.randn(33, 4, generator=torch.Generator().manual_seed(0))
    model = Squeezes()
    measured = naa_fast.measure(model, x, batch_size=batch)
    assert list(measured.layers) == ["a", "act", "b"]
    with torch.no_grad():
        stored = model(x).double()
    record = measured.layers["b"]
    assert record.sample_mean.count.tolist() == [33] * 3
    assert np.allclose(record.positions.mean, stored.mean(0), atol=1e-6)
    assert np.array_equal(measured.predictions[:-1], np.bincount(stored.argmax(1), minlength=3))
