"""The benchmark of a million suspects says where memory grew, or too much of the time is outside the forward."""

from __future__ import annotations

import torch

from benchmarks import million


def test_what_is_not_kept_is_said() -> None:
    assert million.verdicts([{"bytes_a_sample": 60.0}, {"share_of_a_million_at_1_ms": 0.1}]) == []
    told = million.verdicts([{"bytes_a_sample": 400.0}, {"share_of_a_million_at_1_ms": 0.31}])
    assert "memory grew by 400 bytes a sample" in told[0]
    assert "31 % of the time is outside a forward of 1 ms" in told[1]


def test_the_stream_is_the_same_each_time_and_the_model_takes_it() -> None:
    stream = million.Images(5, 3, 1)
    assert [len(x) for x in stream] == [3, 2]
    assert torch.equal(torch.cat([*stream]), torch.cat([*stream]))
    assert million.convolutions()(next(iter(stream))).shape == (3, 10)
    assert million.making(stream) > 0 < million.bare(million.convolutions(), stream)
