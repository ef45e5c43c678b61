"""NVRTC without a device or CuPy: the wheel's library through ctypes, with the very options the launcher compiles with."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

from naa_fast.kernels.cuda.compile import options, source


class Usage(NamedTuple):
    """What ptxas says of one kernel function."""

    name: str
    registers: int
    stack: int
    spilled: int
    shared: int


@cache
def library_path() -> Path | None:
    """The NVRTC library of the nvidia-cuda-nvrtc wheel, or of a toolkit; None if there is none."""
    spec = util.find_spec("nvidia")
    places = [
        Path(place) / part / "lib"
        for place in (spec.submodule_search_locations or () if spec else ())
        for part in ("cu13", "cuda_nvrtc")
    ]
    for folder in (*places, Path("/usr/local/cuda/lib64")):
        found = sorted(folder.glob("libnvrtc.so.*"))
        if found:
            return found[-1]
    return None


@cache
def library() -> Any:
    path = library_path()
    assert path is not None
    return ctypes.CDLL(str(path))


class CompileFailed(AssertionError):
    """NVRTC's own words."""


def compiled(op: str, dtype: str, arch: int, *more: str) -> tuple[bytes, list[Usage]]:
    """The cubin of `op` for `dtype` and an architecture such as 90, and what each kernel in it uses."""
    nvrtc = library()
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source(op).encode(), f"{op}.cu".encode(), 0, None, None) == 0
    given = [text.encode() for text in (f"-arch=sm_{arch}", "--ptxas-options=-v", *options(dtype), *more)]
    failed = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))

    def text(size: str, get: str) -> bytes:
        length = ctypes.c_size_t()
        getattr(nvrtc, size)(program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        getattr(nvrtc, get)(program, buffer)
        return buffer.raw

    log = text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0").decode()
    if failed:
        raise CompileFailed(f"{op} {dtype} sm_{arch}: {log}")
    cubin = text("nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin, usages(log)


def usages(log: str) -> list[Usage]:
    """The kernels in a log of ptxas -v."""
    found = []
    for part in log.split("Compiling entry function ")[1:]:
        name = re.match(r"'(\w+)'", part)
        stack, stored = re.search(r"(\d+) bytes stack frame", part), re.search(r"(\d+) bytes spill stores", part)
        registers, shared = re.search(r"Used (\d+) registers", part), re.search(r"(\d+) bytes smem", part)
        if not (name and stack and stored and registers):
            raise AssertionError(f"ptxas -v speaks differently now: {part[:300]}")
        numbers = (int(registers[1]), int(stack[1]), int(stored[1]), int(shared[1]) if shared else 0)
        found.append(Usage(name[1], *numbers))
    return found
