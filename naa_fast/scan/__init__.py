"""The loop over a set: batches through the model, statistics kept on the device, one measurement at the end.

Start with `measure` in loop.py. The function `naa_fast.scan`, the whole audit, is in naa_fast/audit.py.

- loop.py: a set cut into chunks, and the chunks joined, on one process or several
- chunk.py: one chunk through the model, into one measurement
- options.py: the options of a run
- observer.py: what may see each sample meanwhile: a ranking
- work.py: what later steps run the model with

What a chunk needs:
- feeding.py: batches, read ahead
- placement.py: where the model runs, and its inputs with it
- memory.py: a batch that does not fit is halved
- probes.py: what has to be known of a model before its samples count
- last_logits.py: no more logits of a language model than are read
- faults.py: where an exception rose

Long runs:
- checkpoint.py: finished chunks on disk
- quarantine.py: items that could not be used
- stopping.py: being asked to stop
- ranks.py: several processes, one measurement
- ray_data.py: a Ray Data set, and actors
- dump.py: stored activations, measured without a model

For a person meanwhile:
- progress.py: how far it is
- live.py: the neurons that differ most so far
- times.py: where the seconds went
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from naa_fast.scan.quarantine import Quarantine as Quarantine
    from naa_fast.scan.ray_data import ray_measure as ray_measure

_HOMES = {"Quarantine": "quarantine", "ray_measure": "ray_data"}


def __getattr__(name: str) -> Any:  # lazily: `import naa_fast` loads no torch
    if name not in _HOMES:
        raise AttributeError(f"module 'naa_fast.scan' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"naa_fast.scan.{_HOMES[name]}"), name)
