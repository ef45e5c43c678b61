"""Each sample's own view of a layer equals what stored activations give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from naa_fast.accumulate import Samples

X = torch.randn(7, 5, 11, generator=torch.Generator().manual_seed(0)) + 3


def views_of(x: Tensor, mask: Tensor | None = None, calls: int = 1) -> Tensor:
    taken: list[dict[str, Tensor]] = []
    samples = Samples(taken.append)
    samples.begin(7, 0, mask)
    for call in range(calls):
        samples.observe("layer", x + call, "NCHW")
    samples.commit()
    return taken[0]["layer"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_mean_and_maximum_equal_numpy(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    held = x.double().numpy()
    assert np.allclose(views_of(x).double(), np.concatenate([held.mean(2), held.max(2)], 1), rtol=3e-6)


def test_masked_positions_count_nothing_and_a_wholly_masked_sample_is_unknown() -> None:
    mask = torch.rand(7, 11, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[3] = False
    view = views_of(X, mask).numpy()
    for i in set(range(7)) - {3}:
        own = X[i][:, mask[i]].numpy()
        assert np.allclose(view[i], np.concatenate([own.mean(1), own.max(1)]), rtol=1e-5)
    assert np.isnan(view[3]).all()


def test_one_position_is_one_view_and_no_alias_of_the_output() -> None:
    x = X[:, :, :1].clone()
    view = views_of(x)
    before = view.clone()
    x.zero_()  # as an in-place activation would
    assert view.shape == (7, 5)
    assert torch.equal(view, before)


def test_a_layer_called_twice_gives_the_mean_of_means_and_the_largest_maximum() -> None:
    view = views_of(X, calls=2).double().numpy()
    held = X.double().numpy()
    assert np.allclose(view, np.concatenate([held.mean(2) + 0.5, held.max(2) + 1], 1), rtol=3e-6)


def test_a_batch_that_failed_leaves_nothing_behind() -> None:
    taken: list[dict[str, Tensor]] = []
    samples = Samples(taken.append)
    samples.begin(7, 0)
    samples.observe("broken", X, "NCHW")
    samples.discard()
    samples.begin(7, 0)
    samples.observe("layer", X, "NCHW")
    samples.commit()
    assert [*taken[0]] == ["layer"]


def test_rows_that_belong_to_no_sample_are_left_out() -> None:
    taken: list[dict[str, Tensor]] = []
    samples = Samples(taken.append)
    samples.begin(5, 0)
    samples.observe("rows", X, "NCHW")  # 7 rows of 5 samples
    samples.commit()
    assert taken == [{}]
