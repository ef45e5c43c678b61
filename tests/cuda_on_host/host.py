"""`HostRuntime`: the launchers' runtime that runs the .cu files on the host, through cuda_on_host.h and g++.

Torch CPU tensors are its device memory, so launch geometry, argument tables and kernels are tested as users run them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from naa_fast.kernels import cuda
from naa_fast.kernels.cuda.compile import FOLDER, Kernel, Words, definitions, headers
from naa_fast.kernels.cuda.fold import fold_on
from naa_fast.kernels.cuda.reduce import reduce_on
from naa_fast.kernels.cuda.samples import reduce_kept_on, samples_on
from naa_fast.kernels.cuda.tally import bins_on, tally_on

HERE = Path(__file__).parent
ORDERS = {"forward": 0, "reverse": 1, "random": 2}
KERNELS = re.compile(r'^(?:extern "C" __global__|NAA_KERNEL).*?(\w+)\(const (?:__grid_constant__ )?(\w+) a\) {', re.MULTILINE)

EXPORTS = '#define EXPORTED extern "C" __attribute__((visibility("default")))\n'
ENTRY = """
EXPORTED int shim_launch(void* call, long long grid, int threads, const void* args, int order, unsigned seed) {
  return shim::launch(reinterpret_cast<void (*)(const void*)>(call), grid, threads, args, order, seed);
}
EXPORTED const char* shim_failure() { return shim::failure.c_str(); }
"""


class ThreadsCannotGoOn(AssertionError):
    """The shim found a divergent barrier, a lane missing from a warp operation, or a misaligned load."""


def missing() -> str | None:
    """Why the shim cannot run here, or None."""
    return None if shutil.which("g++") else "no g++ to compile the .cu files for the host"


def flags() -> list[str]:
    """No contraction: rounding is where the source says. Fused multiply-adds in hardware where there are some."""
    try:
        fma = " fma " in Path("/proc/cpuinfo").read_text()
    except OSError:
        fma = False
    machine = ["-mfma", "-mf16c"] if fma else []
    return ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing", *machine]


def program(op: str, dtype: str, swaps: tuple[tuple[str, str, str], ...] = ()) -> tuple[str, dict[str, str]]:
    """The translation unit for `op`, and the .cu and .cuh files it includes with `swaps` (file, old, new) planted."""
    files = {path.name: path.read_text() for path in (*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh"))}
    for name, old, new in swaps:
        if files[name].count(old) != 1:
            raise ValueError(f"{name} holds {old!r} {files[name].count(old)} times, not once")
        files[name] = files[name].replace(old, new)
    calls = "\n".join(
        f"EXPORTED void run_{name}(const void* a) {{ {name}(*static_cast<const {kind}*>(a)); }}"
        for name, kind in KERNELS.findall(files[f"{op}.cu"])
    )
    told = "\n".join(f"#define {name} {value}" for name, value in definitions(dtype).items())
    main = EXPORTS + f'#include "cuda_on_host.h"\n{told}\n#include "{op}.cu"\n{calls}\n' + ENTRY
    return main, files


@cache
def library(op: str, dtype: str, swaps: tuple[tuple[str, str, str], ...] = ()) -> ctypes.CDLL:
    """`op` compiled for the host, 2 to 4 s; kept in the temporary folder under a name made of all that goes into it."""
    main, files = program(op, dtype, swaps)
    shim = (HERE / "cuda_on_host.h").read_text()
    key = hashlib.sha256(repr((main, sorted(files.items()), shim, flags())).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"naa-fast-host-{os.getuid()}" / key
    built = folder / "kernel.so"
    if not built.is_file():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            for name, text in {"main.cpp": main, "cuda_on_host.h": shim, **files}.items():
                (Path(work) / name).write_text(text)
            command = ["g++", *flags(), f"-I{headers()}", "-idirafter", str(HERE / "wheel_only"), "-o", "kernel.so", "main.cpp"]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"g++ refuses {op}.cu for {dtype}:\n{done.stderr[:4000]}")
            (Path(work) / "kernel.so").replace(built)
    loaded = ctypes.CDLL(str(built))
    loaded.shim_failure.restype = ctypes.c_char_p
    return loaded


class HostRuntime:
    """Runs kernels in the given order of threads; `resident` stands for the blocks a device would run at once."""

    def __init__(self, order: str = "forward", resident: int = 4, swaps: tuple[tuple[str, str, str], ...] = ()) -> None:
        self.order, self.resident, self.swaps = ORDERS[order], resident, swaps
        self.launches: list[tuple[str, int]] = []

    def slots(self, kernel: Kernel) -> int:
        return self.resident

    def launch(self, kernel: Kernel, grid: int, words: Words) -> None:
        self.launches.append((kernel.name, grid))
        library_of = library(kernel.op, kernel.dtype, self.swaps)
        call = ctypes.cast(getattr(library_of, f"run_{kernel.name}"), ctypes.c_void_p)
        held = words.copy()
        failed = library_of.shim_launch(
            call, ctypes.c_longlong(grid), kernel.threads, ctypes.c_void_p(held.ctypes.data), self.order, ctypes.c_uint(5)
        )
        if failed:
            raise ThreadsCannotGoOn(library_of.shim_failure().decode())


class HostBackend:
    """The CUDA backend on the host, with the functions of `naa_fast.ops.Backend`: takes torch CPU tensors."""

    def __init__(self, runtime: HostRuntime) -> None:
        self.runtime = runtime

    def empty(self, channels: int, like: Any) -> Any:
        return cuda.empty(channels, like)

    def reduce(self, x: Any, mask: Any, phase: int) -> Any:
        return reduce_on(self.runtime, x, mask, phase)

    def reduce_kept(self, x: Any, mask: Any, phase: int) -> Any:
        return reduce_kept_on(self.runtime, x, mask, phase)

    def samples(self, layers: Any, wide: bool) -> Any:
        return samples_on(self.runtime, layers, wide)

    def fold(self, batch: Any, phase: int) -> None:
        fold_on(self.runtime, batch, phase)

    def read(self, states: Any) -> Any:
        return cuda.read(states)

    def tails(self, channels: int, like: Any) -> Any:
        return cuda.tails(channels, like)

    def bins(self, x: Any, mask: Any) -> Any:
        return bins_on(self.runtime, x, mask)

    def tally(self, batch: Any) -> None:
        tally_on(self.runtime, batch)

    def read_tails(self, states: Any) -> Any:
        return cuda.read_tails(states)

    def compare(
        self, clean_mean: Any, clean_variance: Any, suspect_mean: Any, suspect_variance: Any, resolution: float, k: int
    ) -> Any:
        layer = (clean_mean, clean_variance, suspect_mean, suspect_variance)
        return cuda.compare_all([layer], [resolution], k, self.runtime)[0]
