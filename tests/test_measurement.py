"""The laws of measurements: identity, commutativity, associativity, any chunking, the file; and every refusal's words."""

from __future__ import annotations

import dataclasses
import itertools
import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_record

from naa_fast.errors import InputError, StateMismatch
from naa_fast.kernels import reference
from naa_fast.measurement import Measurement, Shard
from naa_fast.records import Axes, LayerRecord, rows_layout

X = np.random.default_rng(11).standard_normal((257, 5, 3)).astype(np.float32) * 4 + 100
_digests = itertools.count()


def measured(x: np.ndarray, start: int = 0, digest: str | None = None, model: str = "m", **changes: object) -> Measurement:
    """A measurement of two layers made by the reference kernels: `x` itself and its positions as rows."""
    records = {}
    for name, part in {"conv": x, "fc": x[:, :, :1]}.items():
        state = reference.empty(part.shape[1], part)
        reference.fold([(state, reference.reduce(part, None, start))], start)
        records[name] = LayerRecord.unpacked("axis 1 of 3", "float32", *reference.read([state])[0])
    shard = Shard(digest if digest is not None else f"d{next(_digests)}", len(x))
    predictions = np.array([len(x), 1, 0])
    labelled = np.array([[len(x), 2, 0], [len(x) // 2, 1, 0]])
    fields: dict[str, object] = {"provenance": {"device": ("cpu",)}, "predictions": predictions, "labelled": labelled, **changes}
    return Measurement(records, model, "float32", (shard,), **fields)  # type: ignore[arg-type]


def assert_same(a: Measurement, b: Measurement) -> None:
    assert a.samples == b.samples
    for name, record in b.layers.items():
        assert_record(a.layers[name], record, "float64", name)


WHOLE = measured(X)


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 257), max_size=6))
def test_any_chunking_gives_the_same_measurement(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 257]
    parts = [measured(X[a:b], a) for a, b in itertools.pairwise(edges)]
    assert_same(reduce(Measurement.merge, parts, Measurement.zero()), WHOLE)


@pytest.mark.parametrize("chunks", [1, 7, 64])
def test_1_7_and_64_chunks_equal_one_pass(chunks: int) -> None:
    edges = np.linspace(0, len(X), chunks + 1).astype(int)
    parts = [measured(X[a:b], int(a)) for a, b in itertools.pairwise(edges)]
    assert_same(reduce(Measurement.merge, parts), WHOLE)


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(0, 257))
def test_merging_is_commutative_to_the_byte(cut: int) -> None:
    a, b = measured(X[:cut], 0), measured(X[cut:], cut)
    assert a.merge(b).to_bytes() == b.merge(a).to_bytes()


@settings(deadline=None, max_examples=25)
@given(cuts=st.tuples(st.integers(0, 257), st.integers(0, 257)))
def test_merging_is_associative_within_tolerance(cuts: tuple[int, int]) -> None:
    low, high = sorted(cuts)
    a, b, c = measured(X[:low]), measured(X[low:high], low), measured(X[high:], high)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


def test_nothing_merged_changes_nothing() -> None:
    assert Measurement.zero().merge(WHOLE).to_bytes() == WHOLE.to_bytes()
    assert WHOLE.merge(Measurement.zero()).to_bytes() == WHOLE.to_bytes()


def test_what_labels_say_adds_up_and_survives_the_file() -> None:
    parts = [measured(X[a:b], a) for a, b in ((0, 100), (100, 257))]
    none = measured(X[:0], labelled=np.zeros((2, 0), np.int64))
    joined = Measurement.from_bytes(reduce(Measurement.merge, [none, *parts]).to_bytes())
    assert joined.labelled.tolist() == [[257, 4, 0], [50 + 78, 2, 0]]
    assert none.labelled.tolist() == Measurement.zero().labelled.tolist() == [[], []]
    wrong = [[3, 2, 0], [4, 0, 0]], [[3, 2], [1, 0]], [[3, -2, 0], [1, -3, 0]]
    for labelled in wrong:  # more right ones than there are, other classes, fewer than none
        with pytest.raises(InputError, match="expected int64"):
            Measurement.from_bytes(measured(X, labelled=np.array(labelled)).to_bytes())


def test_save_load_save_gives_identical_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.naa.safetensors", tmp_path / "b.naa.safetensors"
    WHOLE.save(first)
    Measurement.load(first).save(second)
    assert first.read_bytes() == second.read_bytes()
    assert Measurement.load(first).digest() == WHOLE.digest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.naa.safetensors", "b.naa.safetensors"]


def test_a_measurement_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        WHOLE.layers["conv"] = None  # type: ignore[index]
    with pytest.raises(AttributeError):
        WHOLE.model = "other"  # type: ignore[misc]


def test_the_same_shard_twice_is_refused() -> None:
    with pytest.raises(StateMismatch, match="same data is in both") as caught:
        measured(X, digest="abc").merge(measured(X, digest="abc"))
    assert "shard abc" in str(caught.value)


def test_a_difference_is_named_with_both_values() -> None:
    with pytest.raises(StateMismatch, match="model: m / other"):
        WHOLE.merge(measured(X, model="other"))
    with pytest.raises(StateMismatch, match="classes and a bin for the rest: 3 / 4"):
        WHOLE.merge(measured(X, predictions=np.zeros(4, np.int64)))
    with pytest.raises(StateMismatch, match=r"layer conv differs\n  channels: 5 / 4"):
        WHOLE.merge(measured(X[:, :4]))
    lonely = Measurement({"conv": WHOLE.layers["conv"]}, "m", "float32", (Shard("x", 1),), {}, WHOLE.predictions)
    with pytest.raises(StateMismatch, match="fc is only in the first"):
        WHOLE.merge(lonely)


@pytest.mark.parametrize("cut", [0, 4, 60, -5])
def test_a_truncated_file_is_named_and_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.naa.safetensors"
    path.write_bytes(WHOLE.to_bytes()[:cut])
    with pytest.raises(InputError, match="not a measurement file") as caught:
        Measurement.load(path)
    assert "cut.naa.safetensors" in str(caught.value)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"w": np.zeros(3)}, path)
    with pytest.raises(InputError, match="not a measurement file"):
        Measurement.load(path)
    path.write_bytes(WHOLE.to_bytes().replace(b"naa-fast/measurement/2", b"naa-fast/measurement/9"))
    with pytest.raises(InputError, match="measurement/9', this version reads naa-fast/measurement/5, "):
        Measurement.load(path)
    with pytest.raises(InputError, match="cannot read measurement"):
        Measurement.load(tmp_path / "absent")


def with_tails(x: np.ndarray, digest: str | None = None) -> Measurement:
    """A measurement with histograms, of a layer with several positions and one with a single one."""
    records = {}
    for name, part in {"conv": x, "fc": x[:, :, :1]}.items():
        state, tails = reference.empty(part.shape[1], part), reference.tails(part.shape[1], part)
        partials = reference.reduce(part, None, 0)
        reference.fold([(state, partials)], 0)
        reference.tally([(tails, partials if name == "conv" else reference.bins(part[:, :, 0], None))])
        (kept,) = reference.read_tails([tails])
        records[name] = LayerRecord.unpacked("axis 1 of 3", "float32", *reference.read([state])[0], tails=kept)
    shard = Shard(digest if digest is not None else f"d{next(_digests)}", len(x))
    return Measurement(records, "m", "float32", (shard,), {}, np.array([len(x), 1, 0]))


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 257), max_size=4))
def test_histograms_of_any_chunking_add_up_exactly_and_survive_the_file(cuts: list[int]) -> None:
    parts = [with_tails(X[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), 257])]
    joined = reduce(Measurement.merge, [Measurement.from_bytes(part.to_bytes()) for part in parts])
    for name, record in with_tails(X).layers.items():
        assert np.array_equal(joined.layers[name].tails, record.tails)
        assert (record.tails.sum(1) == 257).all()
    content = joined.to_bytes()
    assert Measurement.from_bytes(content).to_bytes() == content


def test_histograms_join_only_histograms_and_files_without_can_still_be_read() -> None:
    with pytest.raises(StateMismatch, match=r"layer conv differs\n  bins: 255 / 0"):
        with_tails(X).merge(measured(X))
    with pytest.raises(StateMismatch, match="bins 0 / 255"):
        measured(X).layers["fc"].merge(with_tails(X).layers["fc"])
    with_tails(X).require_same_subject(measured(X), "compare")
    old = WHOLE.to_bytes().replace(b"naa-fast/measurement/2", b"naa-fast/measurement/1")
    assert Measurement.from_bytes(old).layers["conv"].tails.shape == (2, 0, 5)
    assert Measurement.from_bytes(old).to_bytes() == WHOLE.to_bytes()
    other = with_tails(X).to_bytes().replace(b"from 2^-17", b"from 2^-18")
    with pytest.raises(InputError, match="127 bins a side from 2\\^-18', this version reads"):
        Measurement.from_bytes(other)


def test_too_many_samples_for_a_histogram_are_refused() -> None:
    record = with_tails(X).layers["fc"]
    many = dataclasses.replace(record.sample_mean, count=np.full(5, 2**31 - 100))
    with pytest.raises(StateMismatch, match="2147483805 samples, their histograms hold fewer than 2147483648"):
        record.merge(dataclasses.replace(record, sample_mean=many))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda h, n: (h[:-1], n), "histograms that do not fit 5 neurons"),
        (lambda h, n: (h, n.astype(np.int64)), "histograms that do not fit 5 neurons"),
        (lambda h, n: (h, n[:-1]), "counts do not fit their bins"),
        (lambda h, n: (h, -n), "counts do not fit their bins"),
        (lambda h, n: (h, n * 2), "more samples than were observed"),
    ],
)
def test_damaged_histograms_are_refused(damage: Any, words: str) -> None:
    content = with_tails(X).to_bytes()
    tensors = safetensors.numpy.load(content)
    tensors["h0"], tensors["n0"] = damage(tensors["h0"], tensors["n0"])
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    with pytest.raises(InputError, match=words):
        Measurement.from_bytes(bytes(safetensors.numpy.save(tensors, header)))


@pytest.mark.parametrize("axes", [Axes(1, 2), Axes(2, 3, 1), Axes(1, 4), Axes(-1, 3)], ids=str)
def test_the_words_of_a_layout_are_read_back(axes: Axes) -> None:
    assert Axes.read(str(axes)) == axes
    assert Axes.read(rows_layout(str(axes))) == dataclasses.replace(axes, samples=0), "rows of no sample have no axis of samples"


@pytest.mark.parametrize("words", ["", "NCHW", "axis one of 2", "axis 1 of 4, and more", "axis 1 of 4\n"])
def test_other_words_are_no_layout(words: str) -> None:
    with pytest.raises(ValueError, match="is no layout"):
        Axes.read(words)
