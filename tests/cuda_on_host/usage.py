"""What each kernel uses on each architecture: compiled anew, or as recorded of this very source by this very compiler.

`python tests/cuda_on_host/usage.py` compiles everything and renews the record.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from cuda_on_host import nvrtc
from cuda_on_host.nvrtc import Usage
from naa_fast.kernels.cuda.compile import DTYPES, headers, options, source

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
ANEW = (90,)
"""Compiled in every run of the tests, to see that the record is what the compiler says. For the others the record counts as long
as it is of this source and compiler. NVRTC 13 gave reduce for 80, 86 and 89 the PTX of 90 but for the name of the target."""
COMPILED = [(op, dtype) for op in ("reduce", "tally") for dtype in DTYPES]
COMPILED += [(op, "float32") for op in ("fold", "samples", "compare")]
RECORD = Path(__file__).with_name("usage.json")


def key() -> str:
    """Changes with every source, option, CUDA header and compiler."""
    mark = hashlib.sha256()
    for op, dtype in COMPILED:
        given = [option for option in options(dtype) if not option.startswith("-I")]
        mark.update(repr((op, dtype, source(op), given)).encode())
    for header in sorted(Path(headers()).glob("cuda_[fb]*16.h*")):
        mark.update(header.read_bytes())
    library = nvrtc.library_path()
    assert library is not None
    mark.update(library.read_bytes())
    return mark.hexdigest()


def compiled(arch: int) -> list[list[object]]:
    """Rows of op, element type and what ptxas says of one kernel in it."""
    return [[op, dtype, *usage] for op, dtype in COMPILED for usage in nvrtc.compiled(op, dtype, arch)[1]]


def recorded() -> dict[int, list[list[object]]]:
    """By architecture; empty if the record is of another source, compiler or header."""
    held = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    return {int(arch): rows for arch, rows in held["rows"].items()} if held.get("key") == key() else {}


def read(rows: Iterable[list[object]]) -> list[tuple[str, str, Usage]]:
    return [(str(op), str(dtype), Usage(*usage)) for op, dtype, *usage in rows]  # type: ignore[arg-type]


if __name__ == "__main__":
    found = {}
    for arch in ARCHITECTURES:
        found[str(arch)] = compiled(arch)
        print(f"sm_{arch}: {len(found[str(arch)])} kernels", flush=True)
    lines = ",\n".join(
        f' "{arch}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]" for arch, rows in found.items()
    )
    RECORD.write_text(f'{{"key": "{key()}",\n"rows": {{\n{lines}\n}}}}\n')
