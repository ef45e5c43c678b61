"""Chunks, checkpoints and interruptions: nothing lost, nothing counted twice, the same bytes in the end."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from capture.models import hook_count, mlp
from tolerances import assert_record
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import naa_fast
from naa_fast.errors import InputError, StateMismatch, Stopped, UsageError
from naa_fast.files import write_whole
from naa_fast.inputs.opening import open_source
from naa_fast.measurement import Measurement

ROWS = torch.randn(230, 12, generator=torch.Generator().manual_seed(1))


def model() -> nn.Module:
    torch.manual_seed(0)
    return mlp()


def interrupt_after(samples: int) -> Callable[[str, int, int | None], None]:
    """A progress callback that breaks the scan like a crash would."""

    def progress(label: str, done: int, total: int | None) -> None:
        if done >= samples:
            raise RuntimeError("crash")

    return progress


@pytest.mark.parametrize("chunk_size", [7, 50, 64, 230, 1000])
def test_chunks_change_nothing_but_rounding(chunk_size: int) -> None:
    network = nn.Sequential(nn.ReLU(), nn.Tanh())  # elementwise: a linear layer's own last bit depends on the batch
    whole = naa_fast.measure(network, ROWS)
    parts = naa_fast.measure(network, ROWS, chunk_size=chunk_size)
    assert parts.samples == 230
    assert len(parts.shards) == -(-230 // chunk_size)
    for name, record in whole.layers.items():
        assert_record(parts.layers[name], record, "float32", name)


def test_every_source_can_be_read_by_ranges(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS.numpy())
    np.save(tmp_path / "f.npy", np.asfortranarray(ROWS.numpy()))
    np.savez_compressed(tmp_path / "x.npz", x=ROWS.numpy(), mask=np.ones((230, 1), bool))
    from safetensors.torch import save_file

    save_file({"x": ROWS}, tmp_path / "x.safetensors")
    sources = [ROWS, ROWS.numpy(), DataLoader(TensorDataset(ROWS), batch_size=33), list(ROWS.split(41))]
    sources += [tmp_path / name for name in ("x.npy", "f.npy", "x.npz", "x.safetensors")]
    for data in sources:
        source = open_source(data, 30)
        for start, stop in ((0, 64), (64, 128), (128, 192), (192, 256), (256, 320), (10, 20), (41, 82)):
            read = [batch.arguments[0] for batch in source.batches(start, stop)]
            assert torch.equal(torch.cat([*read, ROWS[:0]]), ROWS[start:stop]), (data, start)


def test_a_one_shot_iterator_is_read_once_in_chunks() -> None:
    expected = naa_fast.measure(model(), list(ROWS.split(41)), chunk_size=64)
    measured = naa_fast.measure(model(), iter(ROWS.split(41)), chunk_size=64)
    assert measured.to_bytes() == expected.to_bytes()


@pytest.mark.parametrize("crash", [1, 60, 150, 229])
def test_a_resumed_scan_gives_the_same_bytes(tmp_path: Path, crash: int) -> None:
    expected = naa_fast.measure(model(), ROWS, batch_size=20, chunk_size=50)
    options = {"batch_size": 20, "chunk_size": 50, "checkpoint": tmp_path}
    with pytest.raises(RuntimeError, match="crash"):
        run_with_interval(options, interrupt_after(crash))
    measured = naa_fast.measure(model(), ROWS, resume=True, **options)  # type: ignore[arg-type]
    assert measured.to_bytes() == expected.to_bytes()
    again = naa_fast.measure(nn.Sequential(*model()), ROWS, resume=True, **options)  # type: ignore[arg-type, misc]
    assert again.to_bytes() == expected.to_bytes()  # finished: read from the checkpoint, the model not run at all


def run_with_interval(options: dict[str, object], progress: object) -> Measurement:
    """`measure` with a checkpoint after every chunk."""
    from naa_fast.scan.loop import measure
    from naa_fast.scan.options import RunOptions

    source = open_source(ROWS, int(options["batch_size"]))  # type: ignore[call-overload]
    run = RunOptions(chunk_size=options["chunk_size"], checkpoint=options["checkpoint"], interval_s=0)  # type: ignore[arg-type]
    return measure(model(), source, run, progress=progress)  # type: ignore[arg-type]


def test_without_resume_an_old_checkpoint_is_forgotten(tmp_path: Path) -> None:
    options = {"batch_size": 20, "chunk_size": 50, "checkpoint": tmp_path}
    with pytest.raises(RuntimeError, match="crash"):
        run_with_interval(options, interrupt_after(150))
    assert len(list(tmp_path.iterdir())) == 2
    seen: list[int] = []
    naa_fast.measure(model(), ROWS, progress=lambda label, done, total: seen.append(done), **options)  # type: ignore[arg-type]
    assert seen[0] == 20


def test_a_checkpoint_of_something_else_is_refused_with_both_values(tmp_path: Path) -> None:
    options = {"batch_size": 20, "chunk_size": 50, "checkpoint": tmp_path}
    run_with_interval(options, None)
    other = model()
    with torch.no_grad():
        other.get_parameter("0.weight").add_(1)
    with pytest.raises(StateMismatch, match=r"(?s)cannot resume from .*: model differs\n  model: .* / "):
        naa_fast.measure(other, ROWS, resume=True, **options)  # type: ignore[arg-type]
    with pytest.raises(StateMismatch, match=r"(?s)samples differs\n  samples: 230 / 229"):
        naa_fast.measure(model(), DataLoaderOf(ROWS[:229]), resume=True, chunk_size=50, checkpoint=tmp_path)
    with pytest.raises(UsageError, match="resume without a checkpoint"):
        naa_fast.measure(model(), ROWS, resume=True)
    with pytest.raises(UsageError, match="chunk size is 0"):
        naa_fast.measure(model(), ROWS, chunk_size=0)


class DataLoaderOf:
    """A source under the name of ROWS with other samples in it."""

    def __init__(self, x: torch.Tensor) -> None:
        self.inner = open_source(x, 20)
        self.name, self.samples, self.batch_size = open_source(ROWS, 20).name, len(x), 20
        self.batches = self.inner.batches


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    expected = naa_fast.measure(model(), ROWS, batch_size=20, chunk_size=50)
    options = {"batch_size": 20, "chunk_size": 50, "checkpoint": tmp_path}
    with pytest.raises(RuntimeError, match="crash"):
        run_with_interval(options, interrupt_after(190))
    first, last = sorted(tmp_path.iterdir())
    content = bytearray(last.read_bytes())
    content[-9] ^= 1
    last.write_bytes(content)
    told: list[str] = []
    measured = naa_fast.measure(
        model(),
        ROWS,
        resume=True,
        progress=lambda label, done, total: told.append(label),
        **options,  # type: ignore[arg-type]
    )
    assert measured.to_bytes() == expected.to_bytes()
    assert f"{last.name} is damaged (its checksum does not match): went back to {first.name}" in told[0]
    for path in tmp_path.iterdir():
        path.write_bytes(b"{}")
    with pytest.raises(InputError, match=r"no checkpoint in .* is whole"):
        naa_fast.measure(model(), ROWS, resume=True, **options)  # type: ignore[arg-type]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from naa_fast.scan import checkpoint as module

    expected = naa_fast.measure(model(), ROWS, batch_size=20, chunk_size=50)
    write, calls = write_whole, itertools.count()

    def full(path: Path, content: bytes) -> None:
        if next(calls) == 2:
            raise OSError(28, "No space left on device")
        write(path, content)

    options = {"batch_size": 20, "chunk_size": 50, "checkpoint": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", full)
        with pytest.raises(InputError, match=r"(?s)cannot write a checkpoint .*No space left on device.*run again with --resume"):
            run_with_interval(options, None)
    assert naa_fast.measure(model(), ROWS, resume=True, **options).to_bytes() == expected.to_bytes()  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_batch_saves_and_says_how_to_go_on(tmp_path: Path, number: int) -> None:
    expected = naa_fast.measure(model(), ROWS, batch_size=20, chunk_size=50)

    def ask(label: str, done: int, total: int | None) -> None:
        if done == 120:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    network = model()
    options = {"batch_size": 20, "chunk_size": 50, "checkpoint": tmp_path}
    with pytest.raises(Stopped) as caught:
        naa_fast.measure(network, ROWS, progress=ask, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 75
    assert f"stopped by {signal.Signals(number).name}\n  100 samples are safe in" in str(caught.value)
    assert hook_count(network) == 0
    assert signal.getsignal(number) is before
    assert naa_fast.measure(network, ROWS, resume=True, **options).to_bytes() == expected.to_bytes()  # type: ignore[arg-type]


SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from naa_fast.inputs.opening import open_source
from naa_fast.scan.loop import measure
from naa_fast.scan.options import RunOptions

torch.set_num_threads(1)  # children of a fork have no threads but their own
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 20), nn.ReLU())
x = torch.randn(600, 12, generator=torch.Generator().manual_seed(1))
root, rng = Path(sys.argv[1]), random.Random(3)

def scan(folder, resume, pause):
    options = RunOptions(chunk_size=20, checkpoint=root / folder, resume=resume, interval_s=0, backend="reference")
    return measure(model, open_source(x, 10), options, progress=lambda *told: time.sleep(pause))

expected = scan("whole", False, 0).digest()
for kill in range(20):
    child = os.fork()
    if child == 0:
        scan(str(kill), False, 0.002)
        os._exit(0)
    time.sleep(rng.uniform(0.01, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left = len(list((root / str(kill)).glob("*"))) if (root / str(kill)).exists() else 0
    print(left, scan(str(kill), True, 0).digest() == expected, flush=True)
"""


def test_killed_at_twenty_random_points_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 20, done.stderr
    assert all(same == "True" for _, same in lines)
    assert sum(int(left) >= 1 for left, _ in lines) >= 10  # most kills came after a first checkpoint
