"""From a .cu file to a launch: NVRTC, a cubin cached by its content, CuPy's RawModule, torch's stream.

`runtime(x)` gives the launcher's other half for a tensor: on a device `CudaRuntime`. The tests pass one of their own that runs
the same source on the host: `reduce_on`, `fold_on` and so on take it explicitly.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from functools import cache
from importlib import import_module, util
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from naa_fast.errors import BackendUnavailable, InputError
from naa_fast.records import COUNT_FIELDS, MOMENT_FIELDS

FOLDER = Path(__file__).parent
DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
"""Element types and what NAA_DTYPE calls them in common.cuh."""

OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")
"""Rounding as written, the same on every architecture and on the host. CuPy appends -ftz=true to whatever RawModule compiles,
and the last one wins: subnormal activations would count as zero. So the compiling is done here and RawModule only loads."""

Words = npt.NDArray[np.int64]


class Kernel(NamedTuple):
    """A kernel function: `name` in kernels/cuda/`op`.cu compiled for `dtype`, and its threads a block."""

    op: str
    name: str
    dtype: str = "float32"
    threads: int = 256


class Runtime(Protocol):
    """What a launcher needs of a device."""

    def slots(self, kernel: Kernel) -> int:
        """Blocks of `kernel` that run at once on the whole device."""
        ...

    def launch(self, kernel: Kernel, grid: int, words: Words) -> None:
        """Run `grid` blocks with `words`, the kernel's one argument: a structure of 8-byte fields, passed by value."""
        ...


@cache
def source(op: str) -> str:
    """The text of `op`.cu with our own headers put in place, so that it is one string to compile and to hash."""
    seen: set[str] = set()

    def inlined(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (FOLDER / name).read_text()
        return re.sub(r'^#include "(.+)"$', lambda match: inlined(match[1]), text, flags=re.MULTILINE)

    return inlined(f"{op}.cu")


@cache
def headers() -> str:
    """A folder with cuda_fp16.h and cuda_bf16.h: of the toolkit, or of the wheel that came with torch or CuPy.

    Raises:
        BackendUnavailable: neither is installed.
    """
    candidates = [Path(root) / "include" for name in ("CUDA_PATH", "CUDA_HOME") if (root := os.environ.get(name))]
    spec = util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        candidates += [Path(place) / "cu13" / "include", Path(place) / "cuda_runtime" / "include"]
    candidates.append(Path("/usr/local/cuda/include"))
    for folder in candidates:
        if (folder / "cuda_fp16.h").is_file() and (folder / "cuda_bf16.h").is_file():
            return str(folder)
    raise BackendUnavailable(
        "no cuda_fp16.h: float16 and bfloat16 kernels cannot be compiled",
        f"looked in: {', '.join(map(str, candidates))}",
        "pip install nvidia-cuda-runtime, or set CUDA_PATH to a CUDA toolkit",
    )


def definitions(dtype: str) -> dict[str, str]:
    """What common.cuh is told: the element type, and the record's fields in their order."""
    return {
        "NAA_DTYPE": str(DTYPES[dtype]),
        "NAA_MOMENT_FIELDS": ",".join(MOMENT_FIELDS).upper(),
        "NAA_COUNT_FIELDS": ",".join(COUNT_FIELDS).upper(),
    }


def options(dtype: str) -> tuple[str, ...]:
    """Compiler options for `dtype`, without the architecture."""
    include = (f"-I{headers()}",) if DTYPES[dtype] >= 2 else ()
    return (*OPTIONS, *(f"-D{name}={value}" for name, value in definitions(dtype).items()), *include)


def cubin_folder() -> Path:
    """Where compiled kernels are kept: the user's cache folder, or a fresh one where that cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "naa-fast" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="naa-fast-kernels-"))


def compiled(op: str, dtype: str, capability: str) -> Path:
    """The file with `op` for `dtype` and a compute capability such as "90": a cubin, or PTX if NVRTC is older than the device.

    1 to 2 s the first time on a machine, then read from the cache. Raises BackendUnavailable with the compiler's words.
    """
    nvrtc: Any = import_module("cupy_backends.cuda.libs.nvrtc")
    supported = sorted(int(arch) for arch in nvrtc.getSupportedArchs())
    exact = int(capability) in supported
    known = int(capability) if exact else max(arch for arch in supported if arch < int(capability))
    given = (f"-arch={'sm' if exact else 'compute'}_{known}", *options(dtype))
    key = hashlib.sha256(repr((source(op), given, nvrtc.getVersion())).encode()).hexdigest()[:32]
    path = cubin_folder() / f"{op}-{dtype}-{key}.{'cubin' if exact else 'ptx'}"
    if path.is_file():
        return path
    program = nvrtc.createProgram(source(op), f"{op}.cu", (), ())
    try:
        nvrtc.compileProgram(program, given)
        code = nvrtc.getCUBIN(program) if exact else nvrtc.getPTX(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise BackendUnavailable(f"NVRTC refuses {op}.cu for {dtype}: {error}", *log.splitlines()[:20]) from error
    finally:
        nvrtc.destroyProgram(program)
    written = path.with_suffix(f".{os.getpid()}")
    written.write_bytes(code if isinstance(code, bytes) else code.encode())
    written.replace(path)  # several ranks may compile at once
    return path


class Queue:
    """A raw stream, as CuPy's launch wants it: an object with `ptr`. Making a cupy Stream costs more than the launch."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


@cache
def by_value(words: int) -> np.dtype[Any]:
    """A structure of that many 8-byte fields: CuPy passes a zero-dimensional array of it by value."""
    return np.dtype([("words", np.int64, (words,))])


class CudaRuntime:
    """Launches on torch's current stream of device `index`; CuPy allocates nothing and nothing waits for the device."""

    def __init__(self, index: int) -> None:
        import cupy

        self.index = index
        self.cupy = cupy
        self.device = cupy.cuda.Device(index)
        self.processors = int(self.device.attributes["MultiProcessorCount"])
        self._modules: dict[tuple[str, str], Any] = {}
        self._functions: dict[Kernel, Any] = {}
        self._slots: dict[Kernel, int] = {}

    def function(self, kernel: Kernel) -> Any:
        """The loaded function, compiled at its first use."""
        found = self._functions.get(kernel)
        if found is None:
            with self.device:
                where = kernel.op, kernel.dtype
                if where not in self._modules:
                    path = compiled(*where, self.device.compute_capability)
                    self._modules[where] = self.cupy.RawModule(path=str(path))
                found = self._functions[kernel] = self._modules[where].get_function(kernel.name).kernel
        return found

    def slots(self, kernel: Kernel) -> int:
        if kernel not in self._slots:
            function = self.function(kernel)
            with self.device:
                resident = self.cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(function.ptr, kernel.threads, 0)
            self._slots[kernel] = max(1, resident) * self.processors
        return self._slots[kernel]

    def launch(self, kernel: Kernel, grid: int, words: Words) -> None:
        function = self.function(kernel)
        argument = words.view(by_value(len(words)))[0, ...]
        stream = Queue(torch.cuda.current_stream(self.index).cuda_stream)
        if self.cupy.cuda.runtime.getDevice() == self.index:
            function((grid,), (kernel.threads,), (argument,), 0, stream)
        else:
            with self.device:
                function((grid,), (kernel.threads,), (argument,), 0, stream)


@cache
def runtime_of(index: int) -> CudaRuntime:
    return CudaRuntime(index)


def runtime(x: Tensor) -> Runtime:
    """The runtime of the device `x` lies on. Raises BackendUnavailable if that is no CUDA device."""
    if not x.is_cuda:
        raise BackendUnavailable(
            f"the CUDA kernels read CUDA tensors; this one is on {x.device}",
            "move it with .cuda(), or let naa_fast.ops.choose pick the backend",
        )
    return runtime_of(x.device.index)


def dtype_of(x: Tensor) -> str:
    """The name of the element type. Raises InputError for one that has no kernel."""
    name = str(x.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InputError(
            f"no kernel for {name}", f"element types: {', '.join(DTYPES)}", "convert the layer's output to one of them"
        )
    return name
