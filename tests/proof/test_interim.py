"""A scan that is judged while it runs ends early on a backdoor and on nothing else, to the same verdict after a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from proof.test_images import CLEAN, HELD, Quadrants, with_trigger
from rank.test_passes import Counting
from rank.test_resuming import Dies, require_same_bytes
from torch import nn

import naa_fast
from naa_fast.detect.enrichment import TAIL_P, OutlierCluster
from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.evidence_file import evidence_bytes, load_evidence
from naa_fast.detect.interim import Interim, is_time, share_of, times_before
from naa_fast.detect.null import ALPHA, CleanNull
from naa_fast.detect.proof import Erasure
from naa_fast.errors import NaaError, UsageError
from naa_fast.proof.interim import JUDGING
from naa_fast.records import Array
from naa_fast.report.reload import reload
from naa_fast.result import Audit
from naa_fast.scan.ranks import Ranks

TRIGGERED, _ = with_trigger(HELD[:96], "patch", 40)
SUSPECT = torch.cat([TRIGGERED, HELD[96:]])
TIMES = [96, 192, 384, 600]


def quadrants(planted: str = "") -> nn.Module:
    torch.manual_seed(0)  # of what the rule leaves open
    return Quadrants(planted)


def scanned(model: nn.Module, suspect: Any, clean: Any = CLEAN, **options: Any) -> Audit:
    return naa_fast.scan(model, clean, suspect, chunk_size=96, batch_size=32, **{"repair": False} | options)


@pytest.mark.parametrize("stop_when", ["proved", "fail"])
def test_a_backdoor_among_the_first_suspects_ends_the_scan_with_the_proof_they_give(stop_when: str, tmp_path: Path) -> None:
    model = Counting(quadrants("patch"))
    audit = scanned(model, SUSPECT, stop_when=stop_when)
    first = scanned(Counting(quadrants("patch")), SUSPECT[:96])
    assert audit.verdict.outcome == first.verdict.outcome == "fail"
    for one, other in zip(audit.proof, first.proof, strict=True):
        assert (one.target, one.rate, one.control, one.stands) == (other.target, other.rate, other.control, other.stands)
        assert np.array_equal(one.pattern, other.pattern)  # type: ignore[arg-type]
    assert audit.judgement.suspect.samples == len(audit.ranking.scores) == 96  # type: ignore[union-attr]
    assert np.array_equal(audit.ranking.triggered, first.ranking.triggered)  # type: ignore[union-attr, arg-type]
    assert audit.options["judged"] == {"at": [96], "total": 600, "stopped": True, "share": share_of(1)}
    gap = next(gap for gap in audit.verdict.gaps if "the rest of the suspect set" in gap)
    assert "once 96 of 600 were read; the others were not scanned" in gap
    assert any("judged once while it ran, after 96 suspects" in line for line in audit.verdict.not_checked)
    audit.save(tmp_path / "r")
    judgement, provenance = reload(tmp_path / "r")
    assert judgement.evidence.interim == Interim((96,), 600, stopped=True)
    assert provenance["options"]["judged"]["stopped"]
    assert gap in judgement.verdict.gaps


@pytest.mark.parametrize(("planted", "stop_when"), [("", "fail"), ("patch", "proved")])
def test_suspects_without_a_trigger_are_read_to_the_end(planted: str, stop_when: str) -> None:
    model, alone = Counting(quadrants(planted)), Counting(quadrants(planted))
    audit, want = scanned(model, HELD, stop_when=stop_when), scanned(alone, HELD)
    assert audit.verdict.outcome == want.verdict.outcome == "pass"
    assert audit.options["judged"] == {"at": TIMES, "total": 600, "stopped": False, "share": share_of(4)}
    assert audit.judgement.suspect.to_bytes() == want.judgement.suspect.to_bytes()
    assert audit.ranking.scores.tobytes() == want.ranking.scores.tobytes()  # type: ignore[union-attr]
    assert model.samples == alone.samples, "nothing is proved where nothing is found"
    assert audit.judgement.limit >= want.judgement.limit
    assert audit.judgement.null.limit > want.judgement.null.limit
    assert any("after 96, 192, 384, 600 suspects" in line for line in audit.verdict.not_checked)


def test_a_trigger_that_comes_late_is_found_where_it_comes() -> None:
    late = torch.cat([HELD[:300], with_trigger(HELD[300:], "patch", 60)[0]])
    audit = scanned(quadrants("patch"), late, stop_when="proved")
    assert audit.verdict.outcome == "fail"
    assert audit.options["judged"]["at"] in (TIMES[:3], TIMES)
    assert any(proof.stands and proof.target == 2 for proof in audit.proof)


def test_of_a_stream_no_more_is_read_than_was_judged() -> None:
    read = []

    def stream() -> Any:
        for number, batch in enumerate(SUSPECT.split(32)):
            read.append(number)
            yield batch

    audit = scanned(quadrants("patch"), stream(), stop_when="proved")
    assert audit.verdict.outcome == "fail"
    assert len(read) <= 4
    assert "once 96 of an unknown number were read" in " ".join(audit.verdict.gaps)
    clean = scanned(quadrants("patch"), iter(HELD[:384].split(32)), stop_when="proved")
    assert clean.options["judged"]["at"] == [96, 192, 384, 384], "that the stream was over was not known before"
    assert not clean.options["judged"]["stopped"]


class DiesOnce:
    """A `progress` that ends the process, as it were, when it is told of a label for the n-th time."""

    def __init__(self, label: str, n: int) -> None:
        self.label, self.left = label, n

    def __call__(self, label: str, done: int, total: int | None) -> None:
        self.left -= label == self.label
        if not self.left:
            raise RuntimeError("killed")


@pytest.mark.parametrize("late", [False, True], ids=["stopped", "read to the end"])
def test_after_a_kill_while_it_is_judged_or_read_it_comes_to_the_same(late: bool, tmp_path: Path) -> None:
    suspect = HELD if late else torch.cat([HELD[:96], SUSPECT[:96], HELD[96:]])
    sets = Dies(suspect, 10_000), Dies(CLEAN, 10_000)
    want = scanned(quadrants("patch"), *sets, stop_when="proved", checkpoint=tmp_path / "whole")
    assert want.options["judged"]["stopped"] is not late
    for kill in ("judging", "reading"):
        options: dict[str, Any] = {"stop_when": "proved", "checkpoint": tmp_path / kill}
        source = Dies(suspect, 130 if kill == "reading" else 10_000)
        progress = DiesOnce(JUDGING, 2) if kill == "judging" else None
        with pytest.raises((RuntimeError, NaaError), match=r"killed|reading batch"):
            scanned(quadrants("patch"), source, Dies(CLEAN, 10_000), progress=progress, **options)
        found = scanned(quadrants("patch"), *sets, resume=True, **options)
        assert found.options["judged"] == want.options["judged"]
        require_same_bytes(found, want)
        assert [(one.target, one.rate, one.stands) for one in found.proof] == [
            (one.target, one.rate, one.stands) for one in want.proof
        ]
    with pytest.raises(NaaError, match="stop when: proved / "):
        scanned(quadrants("patch"), *sets, checkpoint=tmp_path / "reading", resume=True)


def test_what_makes_no_sense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"stop_when": "soon"}, r"stop_when is 'soon'\n.*expected one of proved, fail"),
        ({"stop_when": "proved", "ranking": False}, r"nothing can be proved\n.*samples are not ranked"),
        ({"stop_when": "proved", "proof": False}, "proofs are switched off"),
        ({"stop_when": "proved", "stop_early": True}, "the forwards end early"),
    ]
    for options, words in cases:
        with pytest.raises(UsageError, match=words):
            naa_fast.scan(quadrants(), CLEAN, HELD, **options)
    clean = naa_fast.measure(quadrants(), CLEAN, reference=True)
    with pytest.raises(UsageError, match="nothing is proved without its samples"):
        naa_fast.scan(quadrants(), clean, HELD, stop_when="proved")
    with pytest.raises(UsageError, match="nothing of them is left to be read"):
        naa_fast.scan(quadrants(), CLEAN, naa_fast.measure(quadrants(), HELD, against=clean), stop_when="fail")
    monkeypatch.setattr(Ranks, "here", lambda model=None: Ranks(0, 2))
    with pytest.raises(UsageError, match="stop when fail, under torchrun"):
        naa_fast.scan(quadrants(), CLEAN, HELD, stop_when="fail")


def test_parts_of_a_chance_add_up_to_one_at_doubling_numbers() -> None:
    assert sum(map(share_of, range(1, 10_000))) < 1
    assert [chunks for chunks in range(70) if is_time(chunks)] == [1, 2, 4, 8, 16, 32, 64]
    for chunks in range(1, 70):
        assert times_before(chunks) == sum(is_time(one) for one in range(chunks))


def drawn(random: np.random.Generator, samples: int) -> tuple[Array, Array]:
    """Scores with heavy tails, of three classes."""
    return random.exponential(size=samples), random.integers(0, 3, samples)


def test_like_sets_are_seldom_stopped_however_often_they_are_judged() -> None:
    """By chances of .2 in place of TAIL_P, so that there is something to count: the law is the same."""
    random, chance, sets = np.random.default_rng(0), 0.2, 150
    alarms, without = 0, 0
    for _ in range(sets):
        clean, (scores, called) = drawn(random, 400), drawn(random, 64 << 5)
        p_values = [Ranking(scores[: 64 << k], called[: 64 << k], *clean).p_value for k in range(6)]
        alarms += any(p < chance * share_of(k + 1) for k, p in enumerate(p_values))
        without += any(p < chance for p in p_values)
    assert alarms <= 44  # 30 are allowed on average; 45 of 150 has a chance below .003
    assert without > alarms


def test_means_of_like_sets_are_seldom_beyond_the_limit_however_often_they_are_judged() -> None:
    random, alarms, neurons = np.random.default_rng(1), 0, 40
    for _ in range(300):
        clean, suspect = random.standard_normal((500, neurons)), random.standard_normal((64 << 5, neurons))
        for k in range(6):
            part = suspect[: 64 << k]
            t = np.abs(part.mean(0) - clean.mean(0)) / np.sqrt(1 / len(part) + 1 / len(clean))
            null = CleanNull((), neurons, share_of(k + 1))
            if t.max() > null.limit:
                alarms += 1
                break
    assert alarms <= 10  # ALPHA of 300 is 3 on average; 11 has a chance below 1e-3
    assert ALPHA == 0.01


def test_limits_are_as_strict_as_the_share_asks_for(tmp_path: Path) -> None:
    proof = replace(scanned(quadrants("patch"), SUSPECT[:96]).proof[0], erasure=Erasure(30, 0.8, 0.1, 5e-3))
    assert proof.stands
    assert not replace(proof, share=0.1).stands, "what is taken out of suspects tells too little"
    assert replace(proof, share=0.1).interval[0] < proof.interval[0]
    cluster = OutlierCluster(2, 30.0, 0.9, TAIL_P / 2, 0.9, 0.1, 0.6, 0.0)
    assert Evidence(cluster=cluster).turned is cluster
    late = Evidence(cluster=cluster, proof=(replace(proof, share=share_of(3)),), interim=Interim((96, 192, 384), None))
    assert late.turned is None
    wider, usual = CleanNull((3.0,) * 8, 40, late.share), CleanNull((3.0,) * 8, 40)
    assert wider.limit / usual.limit == pytest.approx(wider.normal_limit_at(late.share) / usual.normal_limit)
    (tmp_path / "evidence.safetensors").write_bytes(evidence_bytes(late))
    again = load_evidence(tmp_path / "evidence.safetensors")
    assert again.interim == late.interim
    assert again.proof[0].share == share_of(3)


def test_a_loader_is_let_go_while_it_is_judged() -> None:
    """Two readings of one archive at a time would mix: the reader's thread ends before a judgement, and begins anew."""
    from naa_fast.inputs.batches import ArraySource
    from naa_fast.inputs.opening import open_source

    class Once(ArraySource):
        read_ahead, open_now, most = True, 0, 0

        def batches(self, start: int = 0, stop: int | None = None) -> Any:
            Once.open_now += 1
            Once.most = max(Once.most, Once.open_now)
            try:
                yield from super().batches(start, stop)
            finally:
                Once.open_now -= 1

    plain = open_source(SUSPECT, 32)
    assert isinstance(plain, ArraySource)
    audit = scanned(quadrants("patch"), Once("once", plain.x, None, None, 32), stop_when="proved")
    assert audit.options["judged"]["stopped"]
    assert (Once.most, Once.open_now) == (1, 0)
