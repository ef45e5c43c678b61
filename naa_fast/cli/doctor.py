"""`naa-fast doctor`: what is installed, which devices there are, and which backend would compute what."""

from __future__ import annotations

import argparse
import platform
from typing import Any

from naa_fast.cli.shared import clean, emit
from naa_fast.errors import EXIT_PASS

PACKAGES = (
    "naa-fast",
    "torch",
    "numpy",
    "numba",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "safetensors",
    "matplotlib",
    "pillow",
    "scikit-learn",
    "timm",
    "transformers",
)


def add(verbs: Any, parents: list[argparse.ArgumentParser]) -> None:
    about = "show versions, devices, and which backend computes what, with the reasons"
    parser = verbs.add_parser("doctor", help=about, description=about, parents=parents)
    parser.examples = ("naa-fast doctor",)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    for title, rows in (("versions", versions()), ("devices", devices()), ("backends", backends())):
        emit(f"{title}\n" + "\n".join(f"  {clean(row)}" for row in rows))
    return EXIT_PASS


def versions() -> list[str]:
    from importlib import metadata

    rows = [f"{'python':<14}{platform.python_version()} ({platform.system()} {platform.machine()})"]
    for package in PACKAGES:
        try:
            rows.append(f"{package:<14}{metadata.version(package)}")
        except metadata.PackageNotFoundError:
            rows.append(f"{package:<14}not installed")
    return rows


def devices() -> list[str]:
    """One row a device, and why there is no CUDA device if there is none."""
    import os

    from naa_fast.ops import cuda_missing, missing

    rows = [f"cpu: {os.cpu_count()} threads"]
    reason = missing("torch")
    if reason is not None:
        return [*rows, f"others unknown: {reason}"]
    import torch

    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        rows.append(f"cuda:{index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute {gpu.major}.{gpu.minor}")
    if torch.backends.mps.is_available():
        rows.append("mps")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        rows.append(f"no CUDA device: torch is {built}")
    why = cuda_missing()
    return [*rows, f"CUDA kernels cannot run: {why}" if why else "CUDA kernels can run"]


def backends() -> list[str]:
    """For every device and op, the backend `choose` takes and why the faster ones were refused."""
    from naa_fast.errors import NaaError
    from naa_fast.ops import OPS, choose, missing

    rows = []
    for label, array in sample_arrays(missing("torch") is None):
        for op in OPS:
            try:
                choice = choose(op, array)
            except NaaError as error:
                rows.append(f"{label} {op}: none; {'; '.join((error.headline, *error.details))}")
                continue
            try:
                broken = "" if hasattr(choice.module, op) else f" HAS NO {op}"
            except Exception as error:  # the doctor must outlive a broken installation
                broken = f" DOES NOT IMPORT: {type(error).__name__}: {error}"
            rows.append(f"{label} {choice}{broken}")
    return rows


def sample_arrays(with_torch: bool) -> list[tuple[str, Any]]:
    if not with_torch:
        import numpy

        return [("numpy", numpy.zeros(1))]
    import torch

    places = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    places += ["mps"] if torch.backends.mps.is_available() else []
    return [(place, torch.zeros(1, device=place)) for place in places]
