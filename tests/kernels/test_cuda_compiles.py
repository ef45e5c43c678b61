"""The CUDA sources compile with NVRTC for every architecture, without a spill, and CuPy takes them as we hand them over."""

from __future__ import annotations

from importlib import import_module, util
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_on_host import nvrtc, usage

from naa_fast.errors import BackendUnavailable
from naa_fast.kernels.cuda import compile as compiling
from naa_fast.records import BINS, LEFT_OUT, LOWEST, OCTAVE

# The package's functions have the names of the modules that hold them.
compare, fold, reduce, samples, tally = (
    import_module(f"naa_fast.kernels.cuda.{name}") for name in ("compare", "fold", "reduce", "samples", "tally")
)

SHARED_BYTES = 48 << 10

needs_nvrtc = pytest.mark.skipif(nvrtc.library_path() is None, reason="no NVRTC: pip install nvidia-cuda-nvrtc")


@pytest.mark.parametrize("arch", usage.ARCHITECTURES)
@needs_nvrtc
def test_every_kernel_compiles_without_a_spill(arch: int) -> None:
    """18 s for each architecture: of those not in usage.ANEW what was recorded counts, as long as nothing has changed since."""
    known = usage.recorded().get(arch)
    rows = known if known is not None and arch not in usage.ANEW else usage.compiled(arch)
    assert known is None or rows == known, "the record is not what the compiler says: python tests/cuda_on_host/usage.py"
    found = usage.read(rows)
    assert len({(op, dtype, u.name) for op, dtype, u in found}) == 4 * 10 + 4 * 2 + 3
    spilled = [row for row in found if row[2].stack or row[2].spilled or row[2].shared > SHARED_BYTES]
    assert not spilled, f"spilled or too much shared memory: {spilled}"
    # Two blocks of 256 threads an SM is what the loads in flight are counted on (rows.cuh).
    crowded = [row for row in found if row[2].registers > 128]
    assert not crowded, f"too many registers for two blocks an SM: {crowded}"


@needs_nvrtc
def test_another_source_or_compiler_makes_the_record_void(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = usage.key()
    monkeypatch.setattr(usage, "source", lambda op: f"{compiling.source(op)} ")
    assert usage.key() != before
    assert usage.recorded() == {}
    monkeypatch.undo()
    (tmp_path / "other.so").write_bytes(b"another compiler")
    monkeypatch.setattr(nvrtc, "library_path", lambda: tmp_path / "other.so")
    assert usage.key() != before


@needs_nvrtc
def test_a_mistake_is_told_in_the_compilers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "source", lambda op: 'extern "C" __global__ void k(float* a) { *a = INFINITY; }')
    with pytest.raises(nvrtc.CompileFailed, match='identifier "INFINITY" is undefined'):
        nvrtc.compiled("compare", "float32", 90)


def test_a_source_is_one_text_without_our_includes() -> None:
    for op in ("reduce", "fold", "samples", "tally", "compare"):
        text = compiling.source(op)
        assert '#include "' not in text
        assert text.count("#define NAA_COMMON") == 1


def test_subnormals_are_kept_and_nothing_is_contracted() -> None:
    assert "--ftz=false" in compiling.OPTIONS
    assert "--fmad=false" in compiling.OPTIONS


def test_tables_fit_a_kernel_argument_and_agree_with_the_sources() -> None:
    """The launchers' constants are written in the .cu files too; a launch may carry 4 KB by value."""
    tables = (fold, 2 + 6 * fold.LAYERS), (tally, 2 + 6 * tally.LAYERS), (samples, 6 + 6 * samples.LAYERS)
    for module, words in (*tables, (compare, 1 + 14 * compare.LAYERS)):
        assert words * 8 <= 4096
        name = module.__name__.rpartition(".")[2]
        assert f"LAYERS = {module.LAYERS};" in compiling.source(name)
    assert f"MOST = {compare.MOST};" in compiling.source("compare")
    assert f"NEURONS = {fold.NEURONS};" in compiling.source("fold")
    assert f"NEURONS = {tally.NEURONS};" in compiling.source("tally")
    assert f"SAMPLES = {tally.SAMPLES};" in compiling.source("tally")
    assert f"NEURONS = {samples.NEURONS};" in compiling.source("samples")
    assert f"SAMPLES = {samples.SAMPLES};" in compiling.source("samples")
    assert f"BINS = {BINS}, MIDDLE = {BINS // 2}, LEFT_OUT = {LEFT_OUT};" in compiling.source("tally")
    assert f"BELOW = {(127 + LOWEST) * OCTAVE - 1};" in compiling.source("tally")
    assert f"BLOCK = {reduce.BLOCK};" in compiling.source("reduce")
    assert f"BLOCK = {compare.KERNEL.threads};" in compiling.source("compare")


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_tiles_keep_to_what_the_sums_and_the_counters_bear(itemsize: int) -> None:
    for outer, channels, inner in (
        (1, 64, 1),
        (65536, 4096, 1),
        (10**7, 3, 1),
        (2, 5, 2048 * 2048),
        (256, 64, 12544),
        (8, 4096, 2048),
    ):
        for slots in (1, 264, 4000):
            tiles, length = reduce.partition(outer, channels, inner, itemsize, slots)
            if inner == 1:
                assert tiles % 8 == 0
                rows = -(-outer // tiles) + 16
                assert rows <= 2048 + 16
            else:
                assert tiles * length >= inner > (tiles - 1) * length
                assert length == inner or length % 16 == 0
                assert length <= 4096 + 16
                # A warp's lanes, or a block's 8 rows of lanes, share a tile: adds per accumulator.
                assert length / 8 <= 514


@pytest.mark.skipif(util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_cupy_takes_the_launch_as_we_make_it() -> None:
    """Without a driver the launch gets as far as the driver: the structure and the stream were accepted."""
    from cupy.cuda import Function, is_available

    if is_available():
        pytest.skip("a device is here: the gpu tests launch for real")
    words = np.arange(18, dtype=np.int64)
    argument = words.view(compiling.by_value(18))[0, ...]
    assert argument.shape == ()
    assert argument.__array_interface__["data"][0] == words.ctypes.data
    with pytest.raises(Exception, match=r"cudaErrorInsufficientDriver|CUDA_ERROR|cudaErrorNoDevice"):
        Function.__new__(Function)((1,), (256,), (argument,), 0, compiling.Queue(0))


@pytest.mark.skipif(util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_a_kernel_is_compiled_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = compiling.compiled("compare", "float32", "90")
    assert path.parent == tmp_path / "naa-fast" / "kernels"
    assert path.read_bytes()[:4] == b"\x7fELF"
    path.write_bytes(b"kept")
    assert compiling.compiled("compare", "float32", "90").read_bytes() == b"kept"
    assert ".visible .entry compare" in compiling.compiled("compare", "float32", "999").read_text()  # newer than NVRTC: PTX
    assert not list(path.parent.glob("*.[0-9]*"))
    monkeypatch.setattr(compiling, "source", lambda op: "no CUDA")
    with pytest.raises(BackendUnavailable, match=r"NVRTC refuses compare.cu for float32.*\n.*error"):
        compiling.compiled("compare", "float32", "90")


def test_a_cache_that_cannot_be_written_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiling.cubin_folder().is_dir()


def test_missing_headers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    with pytest.raises(BackendUnavailable, match=r"no cuda_fp16.h(.|\n)*pip install nvidia-cuda-runtime"):
        compiling.headers.__wrapped__()


def test_plans_are_the_same_length_whatever_the_strides() -> None:
    """torch.compile decides strides after it has asked for the length."""
    for shape in ((33, 64, 196), (33, 64, 1), (2, 5, 9000)):
        x = torch.empty(shape)
        forms = [(tuple(x.stride()), True), ((shape[1] * shape[2], 1, shape[1]), True), ((1, 40, 90000), False)]
        lengths = {
            reduce.plan(shape, strides, "float32", aligned, masked, 264).nbytes
            for strides, aligned in forms
            for masked in (False, True)
        }
        assert lengths == {reduce.partial_bytes(shape, "float32", 264)}
