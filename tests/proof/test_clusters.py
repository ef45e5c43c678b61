"""Crowds of samples that were turned to one class, and what is none: more of a class, black images, fresh samples."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from naa_fast.detect.enrichment import CLUSTER_HARMLESS, TAIL_P, OutlierCluster, enrichment
from naa_fast.detect.evidence import Evidence, Ranking
from naa_fast.detect.findings import find_in_samples
from naa_fast.inputs.batches import Batch
from naa_fast.proof.clusters import cluster_of, coarse, resembled
from naa_fast.proof.images import CleanImages
from naa_fast.rank.retained import Retained


def single(x: Any) -> Batch:
    return Batch((torch.from_numpy(x)[None],), {}, 1, None)


def cluster(where: np.ndarray, clean: np.ndarray, called: np.ndarray, score: float = 50.0) -> OutlierCluster | None:
    """Of suspects `where` that all are called class 3 and have `score`, among 1,000 that lie where clean samples do."""
    rng = np.random.default_rng(0)
    inside = rng.integers(0, 4, 1000)
    null = rng.standard_normal(1000), rng.integers(0, 4, 1000)
    scores = np.r_[rng.standard_normal(1000), np.full(len(where), score)]
    ranking = Ranking(scores, np.r_[inside, np.full(len(where), 3)], *null)
    kept = [Retained(1000 + i, score, 3, (), single(x)) for i, x in enumerate(where)]
    first = [Retained(i, null[0][i], int(null[1][i]), (), single(clean[i % len(clean)])) for i in range(1000)]
    return cluster_of(ranking, kept, first, CleanImages.of(clean), called)


def test_only_samples_of_many_classes_are_a_cluster_that_was_flipped() -> None:
    rng = np.random.default_rng(1)
    called = np.arange(400) % 4
    pictures = 3 * rng.random((4, 1, 8, 8), np.float32)
    clean = pictures[called] + 0.3 * rng.random((400, 1, 8, 8), np.float32)

    def like(classes: list[int]) -> np.ndarray:
        return pictures[np.resize(classes, 80)] + 0.3 * rng.random((80, 1, 8, 8), np.float32)

    kinds = {"turned": [0, 1, 2], "more of the class": [3], "one other class": [1]}
    found = {name: cluster(like(classes), clean, called) for name, classes in kinds.items()}
    found["black"] = cluster(np.zeros((80, 1, 8, 8), np.float32), clean, called)
    assert all(one is not None for one in found.values())
    assert {name: one.turned for name, one in found.items() if one} == {name: name == "turned" for name in found}
    turned = found["turned"]
    assert turned is not None
    assert (turned.target, turned.elsewhere, turned.usual) == (3, 1.0, 0.0)
    [finding] = [f for f in find_in_samples(Evidence(cluster=turned)) if f.level == "backdoor-like"]
    assert finding.about == "3"
    assert not find_in_samples(Evidence(cluster=replace(turned, harmless=CLUSTER_HARMLESS)))
    assert turned.strength > 0.8
    assert replace(turned, harmless=CLUSTER_HARMLESS).strength == 0.0
    assert replace(turned, p_value=0.03).strength < turned.strength
    assert not replace(turned, p_value=TAIL_P).turned


def test_a_cluster_is_told_whatever_the_model_made_of_clean_images() -> None:
    rng = np.random.default_rng(1)
    called = np.arange(400) % 4
    pictures = 3 * rng.random((4, 1, 8, 8), np.float32)
    clean = pictures[called] + 0.3 * rng.random((400, 1, 8, 8), np.float32)
    where = pictures[np.resize([0, 1, 2], 80)] + 0.3 * rng.random((80, 1, 8, 8), np.float32)
    broken = np.where(np.arange(400) % 9 == 0, -1, called)  # no finite scores
    assert (found := cluster(where, clean, broken)) is not None
    assert found.turned
    unseen = np.where(called == 3, 0, called)  # no clean image is called the target
    assert (found := cluster(where, clean, unseen)) is not None
    assert found.usual == 1.0
    assert not found.turned, "what is usual of the target cannot be told"
    assert cluster(where, clean, np.full(400, -1)) is None


def test_samples_that_only_lean_out_of_their_class_are_seen_as_a_cluster() -> None:
    rng = np.random.default_rng(2)
    null_scores, null_called = rng.standard_normal(2500), np.arange(2500) % 10
    called = np.r_[np.arange(4950) % 10, np.full(50, 9)]
    scores = rng.standard_normal(5000)
    scores[-50:] += 2.5  # beyond nine in ten of their class, and hardly any beyond all
    found = enrichment(scores, called, null_scores, null_called)
    assert found is not None
    assert (found.target, found.samples, found.clean) == (9, 545, 250)
    assert found.p_value < TAIL_P
    assert found.purity > 0.7
    assert Ranking(scores, called, null_scores, null_called).p_value < 3 * TAIL_P
    assert enrichment(scores, np.full(5000, -1), null_scores, np.full(2500, -1)) is None
    assert enrichment(scores[:0], called[:0], null_scores, null_called) is None
    assert enrichment(scores, called, null_scores[:50], null_called[:50]) is None, "five clean samples of a class say nothing"


def test_fresh_samples_gather_nowhere() -> None:
    rng = np.random.default_rng(2)

    def alarmed(spread: np.ndarray) -> bool:
        """`spread`: classes may differ in how far out their samples lie, and in how many they are."""
        called, null_called = rng.integers(0, 5, 800), rng.integers(0, 5, 600)
        called[called == 4] = rng.integers(0, 5, int((called == 4).sum()))
        found = enrichment(
            rng.standard_t(3, 800) * spread[called], called, rng.standard_t(3, 600) * spread[null_called], null_called
        )
        return found is not None and found.p_value < TAIL_P

    assert sum(alarmed(np.array([1, 1, 1, 1, 1])) for _ in range(1000)) <= 5  # 1 expected if the test were exact
    assert sum(alarmed(np.array([1, 2, 5, 1, 9])) for _ in range(1000)) <= 5


def test_a_class_of_which_there_is_more_is_not_out_of_place() -> None:
    rng = np.random.default_rng(3)
    null = rng.standard_normal(2000), np.zeros(2000, np.int64)
    called = np.r_[np.ones(900, np.int64), np.zeros(100, np.int64)]
    usual = Ranking(rng.standard_normal(1000), called, *null)
    outside = Ranking(rng.standard_normal(1000) + 2.0 * called, called, *null)
    assert not usual.out_of_place(1)
    assert outside.out_of_place(1)
    assert not outside.out_of_place(0)


@pytest.mark.parametrize("shape", [(7, 3, 20, 33), (5, 1, 8, 8), (4, 10)], ids=str)
def test_squares_and_neighbours_are_those_of_brute_force(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(4).random(shape, np.float32)
    small = coarse(x)
    if len(shape) == 4:
        edges = [np.linspace(0, n, min(16, n) + 1).astype(int) for n in shape[2:]]
        blocks: list[Any] = [x[:, :, a:b, c:d].mean((2, 3)) for a, b in pairwise(edges[0]) for c, d in pairwise(edges[1])]
        assert np.allclose(small, np.stack(blocks, 2).reshape(len(x), -1), atol=1e-6)
    distance = ((small[:, None] - small[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    called = np.arange(len(x)) % 3
    assert resembled(small, small, called, 3).tolist() == np.bincount(called[distance.argmin(1)], minlength=3).tolist()
    assert resembled(small[:0], small, called, 3).tolist() == [0, 0, 0]
