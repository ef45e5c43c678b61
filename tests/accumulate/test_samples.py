"""Each sample's own view of a layer equals what stored activations give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from naa_fast.accumulate import Accumulator, Samples, chosen_classes

X = torch.randn(7, 5, 11, generator=torch.Generator().manual_seed(0)) + 3


def views_of(x: Tensor, mask: Tensor | None = None, calls: int = 1) -> Tensor:
    samples = Samples()
    samples.begin(7, 0, mask)
    for call in range(calls):
        samples.observe("layer", x + call, "NCHW")
    return samples.views()["layer"]


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
    samples = Samples()
    samples.begin(7, 0)
    samples.observe("broken", X, "NCHW")
    samples.discard()
    samples.begin(7, 0)
    samples.observe("layer", X, "NCHW")
    assert [*samples.views()] == ["layer"]
    samples.commit()
    assert samples.views() == {}


def test_rows_that_belong_to_no_sample_are_left_out() -> None:
    samples = Samples()
    samples.begin(5, 0)
    samples.observe("rows", X, "NCHW")  # 7 rows of 5 samples
    assert samples.views() == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "portable", "reference"])
@pytest.mark.parametrize("kind", ["plain", "masked", "nan in a sample", "one position"])
def test_views_beside_the_statistics_are_those_of_a_pass_of_their_own(dtype: torch.dtype, backend: str, kind: str) -> None:
    x, mask = X.to(dtype), None
    if kind == "masked":
        mask = torch.rand(7, 11, generator=torch.Generator().manual_seed(1)) < 0.5
        mask[3] = False
    if kind == "nan in a sample":
        x = x.clone()
        x[2, 1, 4] = torch.nan
    x = x[:, :, :1] if kind == "one position" else x
    accumulator, alone = Accumulator(backend), Samples()
    accumulator.samples = Samples()
    for stage in (accumulator, alone):
        stage.begin(7, 0, mask)
        stage.observe("layer", x, "NCHW")
        stage.observe("layer", x + 1, "NCHW")
    want, seen = (stage.views()["layer"] for stage in (alone, accumulator))
    assert seen.dtype == want.dtype
    assert torch.allclose(seen, want, rtol=1e-6, atol=1e-6, equal_nan=True)
    accumulator.commit()
    assert accumulator.views() == {}
    assert Accumulator(backend).views() == {}, "who does not want them pays nothing"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_row_with_a_score_that_is_not_finite_has_no_class_and_one_too_large_to_add_up_has(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    rows = [[0, 2, 2], [torch.nan, 1, 0], [1, torch.inf, 0], [0, -torch.inf, 1], [most, most, 0], [-3, -2, -1]]
    scores = torch.tensor(rows, dtype=dtype)
    assert chosen_classes(scores).tolist() == [1, -1, -1, -1, 0, 2]
    assert chosen_classes(scores[[0, 5]], 3).tolist() == [1, 2]
