"""torch's fused attention is off while hooks are on, and the switch comes back as it was, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.backends import mha

import naa_fast
from naa_fast.capture.fast_path import fast_path_off
from naa_fast.detect.change import Zero
from naa_fast.errors import ModelError
from naa_fast.repair import applied


class Encoder(nn.Module):
    """A classifier of token ids; 0 is padding. With `fails` its forward raises."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.emb = nn.Embedding(50, 16, padding_idx=0)
        self.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
        self.head = nn.Linear(16, 3)
        self.fails = fails

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.enc(self.emb(ids), src_key_padding_mask=ids == 0)
        if self.fails:
            raise ValueError("no")
        scores: Tensor = self.head(hidden.mean(1))
        return scores


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Encoder().eval()


@pytest.fixture
def ids() -> Tensor:
    drawn = torch.randint(1, 50, (160, 10), generator=torch.Generator().manual_seed(1))
    drawn[::2, 7:] = 0
    return drawn


@pytest.fixture(autouse=True)
def switch() -> Iterator[None]:
    assert mha.get_fastpath_enabled()
    yield
    assert mha.get_fastpath_enabled()


def plain_outputs(model: nn.Module, ids: Tensor, name: str) -> np.ndarray:
    """Brute force with the fast path off."""
    kept: list[Tensor] = []
    handle = dict(model.named_modules())[name].register_forward_hook(lambda m, a, out: kept.append(out))
    mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            model(ids)
    finally:
        handle.remove()
        mha.set_fastpath_enabled(True)
    return kept[0].double().numpy()


def test_a_padded_encoder_gives_the_numbers_it_has_with_the_fast_path_off(model: nn.Module, ids: Tensor) -> None:
    measured = naa_fast.measure(model, ids, batch_size=160)
    assert {"enc.layers.0", "enc.layers.1.linear1", "head"} <= set(measured.layers)
    for name in ("enc.layers.0", "enc.layers.1.linear1", "head"):
        want = plain_outputs(model, ids, name)
        assert np.allclose(measured.layers[name].positions.mean, want.reshape(-1, want.shape[-1]).mean(0), atol=1e-5), name


def test_ranking_and_proof_run_on_it_too(model: nn.Module, ids: Tensor) -> None:
    audit = naa_fast.scan(model, ids[:80], ids[80:], batch_size=16)
    assert audit.ranking is not None
    assert not any("ended with" in gap for gap in audit.judgement.evidence.gaps)


def test_a_repair_can_be_applied_to_it(model: nn.Module, ids: Tensor) -> None:
    change = Zero("enc.layers.0", -1, "", np.arange(16))
    with torch.no_grad(), applied(model, [change]):
        changed = model(ids)
    assert torch.allclose(changed, changed[:1].expand_as(changed), atol=1e-6)  # nothing of the input is left behind layer 0


def test_a_failing_forward_leaves_the_switch_as_it_was(ids: Tensor) -> None:
    with pytest.raises(ModelError, match="ValueError"):
        naa_fast.measure(Encoder(fails=True), ids)


def test_a_switch_that_was_off_stays_off(model: nn.Module, ids: Tensor) -> None:
    mha.set_fastpath_enabled(False)
    try:
        naa_fast.measure(model, ids, layers=["head"])
        assert not mha.get_fastpath_enabled()
    finally:
        mha.set_fastpath_enabled(True)


def test_the_last_of_several_users_restores_it() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with fast_path_off():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with fast_path_off(), fast_path_off():
        thread.start()
        assert entered.wait(10)
    assert not mha.get_fastpath_enabled()
    leave.set()
    thread.join()
    assert mha.get_fastpath_enabled()
